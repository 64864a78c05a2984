"""The subject value: all that a check reads of one person, as one value of the table.

Header, a directory of lineages in ascending order, their rows, their side blocks (``proto/table-format.md``).
Editing takes a value apart and builds it again: the same lineages in the same state are the same bytes, by
whatever path they came to be.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from consentd.errors import InvalidError, MalformedError, NotFoundError
from consentd.policy.compile import POLICY_SHIFT, STATUTORY, UNREADABLE, Compiled
from consentd.policy.model import MAX_DEPTH, ImplicitPolicy, StoredConsent
from consentd.policy.rows import ROW, ROW_SIZE, SIDE, decode_side, unpack_rows

FORMAT: Final = 1

SIMPLE: Final = 1
"""Header flag: every lineage is one row that stands alone, none is paused, unreadable, statutory or selects a
policy, and no row has labels or a side record: row *i* is lineage *i*."""

PAUSED: Final = 1
"""Directory flag: PAUSE without RESUME; the others are those of ``Compiled``."""

HAS_SIDE: Final = 8
"""Directory flag: the lineage has a side block."""

HEADER: Final = struct.Struct("<BBHHH")
"""format, flags, highest vocabulary version, lineages, rows."""

ENTRY: Final = struct.Struct("<IIHHBB")
"""lineage, seq, version, vocabulary version, rows - 1, flags."""

_LENGTH: Final = struct.Struct("<I")
_STATES: Final = PAUSED | UNREADABLE | STATUTORY
MAX_TABLE_SEQ: Final = (1 << 32) - 1
"""The largest seq that a consent in the table can have: its directory entry has 32 bits for it."""

_LABELS: Final = 40  # offset of the labels in a row
_FLAGS: Final = 48  # offset of the flags in a row


@dataclass(frozen=True, slots=True)
class Lineage:
    """One lineage of a subject value: which version is in force, whether it is paused, its rows.

    Attributes:
        lineage, seq: seq in the person's chain of the GRANT that began it, and of the leaf in force.
    """

    lineage: int
    seq: int
    version: int
    paused: bool
    compiled: Compiled

    @property
    def flags(self) -> int:
        """Directory flags."""
        side = HAS_SIDE if self.compiled.side else 0
        return (PAUSED if self.paused else 0) | self.compiled.flags | side


def encode_subject(lineages: Iterable[Lineage]) -> bytes | None:
    """Return the value of these lineages in ascending order; None for none: such a subject has no value.

    Raises:
        InvalidError: more than 65,535 lineages or rows.
    """
    ordered = sorted(lineages, key=lambda lineage: lineage.lineage)
    if not ordered:
        return None
    counts = [len(lineage.compiled.rows) // ROW_SIZE for lineage in ordered]
    if max(len(ordered), sum(counts)) > 0xFFFF:
        raise InvalidError("subject has too many consents", "TOO_LARGE")
    highest = max(lineage.compiled.vocabulary for lineage in ordered)
    simple = SIMPLE if all(map(_is_simple, ordered)) else 0
    parts = [HEADER.pack(FORMAT, simple, highest, len(ordered), sum(counts))]
    for lineage, count in zip(ordered, counts, strict=True):
        ids = (lineage.lineage, lineage.seq, lineage.version, lineage.compiled.vocabulary)
        parts.append(ENTRY.pack(*ids, count - 1, lineage.flags))
    parts += [lineage.compiled.rows for lineage in ordered]
    for lineage in ordered:
        if lineage.compiled.side:
            parts += [_LENGTH.pack(len(lineage.compiled.side)), lineage.compiled.side]
    return b"".join(parts)


def decode_subject(value: bytes) -> tuple[Lineage, ...]:
    """Return the lineages of a value, strictly: what does not encode to the same bytes is refused.

    Raises:
        MalformedError: not a subject value.
    """
    try:
        lineages = tuple(_split(value))
        for lineage in lineages:
            _check(lineage)
        if encode_subject(lineages) != value:
            raise MalformedError("subject value is not in its one form")
    except struct.error as error:
        raise MalformedError("subject value is cut short") from error
    return lineages


def with_consent(value: bytes | None, stored: StoredConsent, compiled: bytes) -> bytes:
    """Return the value with this version in force for its lineage: GRANT or AMEND.

    Raises:
        InvalidError: a seq or version beyond what the table holds (2³²-1, 65,535), or too many rows in all.
        MalformedError: ``compiled`` is not what ``compile_consent`` returns.
    """
    if not (0 < stored.lineage <= stored.seq <= MAX_TABLE_SEQ and 0 < stored.version <= 0xFFFF):
        raise InvalidError("seq or version of a consent is out of range", "TOO_LARGE")
    lineage = Lineage(
        stored.lineage, stored.seq, stored.version, stored.paused, Compiled.decode(compiled)
    )
    built = encode_subject([*(kept for kept in _parts(value) if kept.lineage != lineage.lineage), lineage])
    assert built is not None
    return built


def with_state(value: bytes | None, lineage: int, *, paused: bool) -> bytes:
    """Return the value with a lineage paused or resumed.

    Raises:
        NotFoundError: the subject has no such lineage.
    """
    parts = _parts(value)
    _check_holds(parts, lineage)
    built = encode_subject([replace(part, paused=paused) if part.lineage == lineage else part for part in parts])
    assert built is not None
    return built


def without_consent(value: bytes | None, lineage: int) -> bytes | None:
    """Return the value without a lineage: REVOKE; None when it was the last.

    Raises:
        NotFoundError: the subject has no such lineage.
    """
    parts = _parts(value)
    _check_holds(parts, lineage)
    return encode_subject([part for part in parts if part.lineage != lineage])


def is_ended(end_ms: int, kept_from_ms: int) -> bool:
    """Tell whether a consent whose period ends at *end_ms* is dropped with a pruning of that time."""
    return end_ms <= kept_from_ms


def without_ended(value: bytes, kept_from_ms: int) -> bytes | None:
    """Return the value without the lineages whose root's period ends by *kept_from_ms*; None: none is left."""
    parts = _parts(value)
    kept = [part for part in parts if not is_ended(unpack_rows(part.compiled.rows)[0].end_ms, kept_from_ms)]
    return value if len(kept) == len(parts) else encode_subject(kept)


def _check_holds(parts: list[Lineage], lineage: int) -> None:
    if all(part.lineage != lineage for part in parts):
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")


def _parts(value: bytes | None) -> list[Lineage]:
    return list(_split(value)) if value else []


def _split(value: bytes) -> Iterable[Lineage]:
    """Take a value apart; trusts no length that it has not compared with the value's own."""
    version, _, _, lineages, rows = HEADER.unpack_from(value)
    if version != FORMAT:
        raise MalformedError("subject value has an unknown format")
    row_at = HEADER.size + lineages * ENTRY.size
    side_at = row_at + rows * ROW_SIZE
    for index in range(lineages):
        lineage, seq, number, vocabulary, more, flags = ENTRY.unpack_from(value, HEADER.size + index * ENTRY.size)
        row_end = row_at + (more + 1) * ROW_SIZE
        side = b""
        if flags & HAS_SIDE:
            (length,) = _LENGTH.unpack_from(value, side_at)
            side = value[side_at + _LENGTH.size : side_at + _LENGTH.size + length]
            side_at += _LENGTH.size + length
        kept = flags & ~(PAUSED | HAS_SIDE)
        compiled = Compiled(vocabulary, kept, value[row_at:row_end], side)
        yield Lineage(lineage, seq, number, bool(flags & PAUSED), compiled)
        row_at = row_end


def _check(lineage: Lineage) -> None:
    """Check what building it again does not: flags, the tree's shape, side records."""
    flags = lineage.flags
    policy = flags >> POLICY_SHIFT
    if flags & 0x0F & ~(_STATES | HAS_SIDE) or policy > max(ImplicitPolicy):
        raise MalformedError("directory entry has unknown flags")
    rows = unpack_rows(lineage.compiled.rows)
    open_until: list[int] = []
    for index, row in enumerate(rows):
        while open_until and open_until[-1] <= index:
            open_until.pop()
        if row.depth != len(open_until) or row.depth >= MAX_DEPTH or row.node != index or row.flags > 3:
            raise MalformedError("rows are no tree in preorder")
        open_until.append(index + row.below + 1)
        if open_until[0] != len(rows) or any(end < open_until[-1] for end in open_until):
            raise MalformedError("rows are no tree in preorder")
        if row.flags & SIDE:
            decode_side(lineage.compiled.side, row.side)


def _is_simple(lineage: Lineage) -> bool:
    rows = lineage.compiled.rows
    alone = len(rows) == ROW.size and not lineage.flags
    return alone and not rows[_FLAGS] & SIDE and not any(rows[_LABELS : _LABELS + 4])
