"""Encode, decode and edit a subject value: all rows of a person, as one value of the policy table.

A subject value has a header, a directory of lineages (consents with their amendments) in ascending order, the rows, and
the side blocks (``proto/table-format.md``). An edit decodes the value, changes lineages and encodes them again. So the
bytes depend only on the lineages that the value has now, and not on earlier edits.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from consentd import limits
from consentd.errors import MalformedError, NotFoundError, PreconditionError
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, Compiled
from consentd.policy.lineage_form import HAS_SIDE, PAUSED, check_lineage
from consentd.policy.model import Effect, StoredConsent
from consentd.policy.rows import (
    FLAGS_AT,
    PERMIT,
    ROW_SIZE,
    SIDE,
    Row,
    Side,
    decode_sides,
    pack_rows,
    row_until,
    unpack_rows,
)

FORMAT: Final = 4

SIMPLE: Final = 1
"""Header flag: every lineage has a single row; no lineage is paused, unreadable or statutory, selects a policy or rests
on an authority; no row has labels, a level, a side record or a group. So row *i* belongs to lineage *i*."""

CLOSED: Final = 2
"""Header flag: the lineages that permit nothing are over ``MAX_ROWS`` or ``MAX_SIDES``. A deny is never refused for
its size, but the work of a check must have a limit. So all of layer CONSENT is denied, unread."""

RECURS: Final = 4
"""Header flag: a lineage permits so many transfers in a period. So its uses count (``policy.recurrence``)."""

MAX_ROWS: Final = limits.PERSON_PROVISIONS
"""Most rows of a person after a consent that permits something. Such a consent beyond this limit is refused."""

MAX_SIDES: Final = limits.PERSON_LIST_BYTES
"""Most bytes of a person's side blocks, in the same way."""

MAX_STORED_ROWS: Final = limits.PERSON_STORED_PROVISIONS
"""Most rows of a person. Beyond, a deny is refused too: everything of the person in layer CONSENT is denied by then."""

MAX_STORED_SIDES: Final = limits.PERSON_STORED_LIST_BYTES
"""Most bytes of a person's side blocks, in the same way."""

HEADER: Final = struct.Struct("<BBHHH")
"""Header: format, flags, highest vocabulary version, number of lineages, number of rows."""

ENTRY: Final = struct.Struct("<IIHHBBQII")
"""Directory entry: lineage, seq, version, vocabulary version, number of rows of its tree minus 1, flags, since; the seq
of the AUTHORITY entry that the consent rests on, and the number of the version of a notice that it was given under; 0:
none."""
SIDE_LENGTH: Final = struct.Struct("<I")
"""The length of a side block, before it."""
MAX_TABLE_SEQ: Final = (1 << 32) - 1  # a directory entry has 32 bits for a seq


@dataclass(frozen=True, slots=True)
class Lineage:
    """One lineage of a subject value: a ``StoredConsent`` in which the consent is compiled.

    ``authority`` is the seq of the AUTHORITY entry under which a representative gave the version in force; 0: the
    person gave it. ``notice`` is the number of the version of a notice that it was given under; 0: none.
    """

    lineage: int
    seq: int
    version: int
    paused: bool
    compiled: Compiled
    authority: int = 0
    notice: int = 0

    @property
    def flags(self) -> int:
        """Flags of the directory entry."""
        side = HAS_SIDE if self.compiled.side else 0
        return (PAUSED if self.paused else 0) | self.compiled.flags | side

    @property
    def is_statutory(self) -> bool:
        """Whether the lineage is a STATUTORY consent."""
        return bool(self.compiled.flags & STATUTORY)


def named_participants(
    compiled: Compiled, effect: Effect, *, root: Effect | None = None
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the numbers of the actors and of the holders that the rows with *effect* name; 0 stands for any.

    The rows of the implicit policy count too: they are a tree of their own. *root*: only the trees whose root has this
    effect count; None: all do.
    """
    actors: set[int] = set()
    holders: set[int] = set()
    rows: list[Row] = []
    counts = True
    for row in unpack_rows(compiled.rows):
        if not row.depth:
            counts = root is None or bool(row.flags & PERMIT) is (root is Effect.PERMIT)
        if counts and bool(row.flags & PERMIT) is (effect is Effect.PERMIT):
            rows.append(row)
    sides = decode_sides(compiled.side, (row.side for row in rows if row.flags & SIDE))
    for row in rows:
        side = sides[row.side] if row.flags & SIDE else Side()
        actors |= side.actors or {row.actor}
        holders |= side.holders or {row.holder}
    return frozenset(actors), frozenset(holders)


def only_denies(compiled: Compiled) -> bool:
    """Return whether a consent is in layer CONSENT and permits nothing, neither by a row nor by an implicit policy."""
    return not compiled.flags & STATUTORY and not any(flags & PERMIT for flags in compiled.rows[FLAGS_AT::ROW_SIZE])


def encode_subject(lineages: Iterable[Lineage]) -> bytes:
    """Encode lineages as a subject value. The value without lineages is empty.

    Raises:
        PreconditionError: (LIMIT_REACHED) more than ``MAX_STORED_ROWS`` rows, or ``MAX_STORED_SIDES`` bytes of side
            blocks.
    """
    ordered = sorted(lineages, key=lambda lineage: lineage.lineage)
    if not ordered:
        return b""
    counts = [len(lineage.compiled.rows) // ROW_SIZE for lineage in ordered]
    total, sides = sum(counts), sum(lineage.compiled.list_bytes for lineage in ordered)
    if total > MAX_STORED_ROWS or sides > MAX_STORED_SIDES:
        limits = f"{MAX_STORED_ROWS} rows and {MAX_STORED_SIDES} bytes"
        raise PreconditionError(f"person's consents are over the limit of {limits}: withdraw some", "LIMIT_REACHED")
    highest = max(lineage.compiled.vocabulary for lineage in ordered)
    flags = SIMPLE if all(map(_is_simple, ordered)) else 0
    if (total > MAX_ROWS or sides > MAX_SIDES) and _are_over(one.compiled for one in ordered):
        flags |= CLOSED
    if any(lineage.compiled.recurrence is not None for lineage in ordered):
        flags |= RECURS
    parts = [HEADER.pack(FORMAT, flags, highest, len(ordered), total)]
    for lineage, count in zip(ordered, counts, strict=True):
        flags, compiled = lineage.flags, lineage.compiled
        ids = (lineage.lineage, lineage.seq, lineage.version, compiled.vocabulary)
        tree = count - POLICY_ROWS[flags >> POLICY_SHIFT]
        parts.append(ENTRY.pack(*ids, tree - 1, flags, compiled.since, lineage.authority, lineage.notice))
    parts += [lineage.compiled.rows for lineage in ordered]
    for lineage in ordered:
        if lineage.compiled.side:
            parts += [SIDE_LENGTH.pack(len(lineage.compiled.side)), lineage.compiled.side]
    return b"".join(parts)


def _are_over(compiled: Iterable[Compiled]) -> bool:
    """Return whether the consents that only deny are over ``MAX_ROWS`` rows or ``MAX_SIDES`` bytes of side blocks."""
    denies = [one for one in compiled if only_denies(one)]
    rows = sum(len(one.rows) for one in denies) // ROW_SIZE
    return rows > MAX_ROWS or sum(one.list_bytes for one in denies) > MAX_SIDES


def is_closed(value: bytes | None) -> bool:
    """Return whether a subject value denies everything in layer CONSENT, because its denies are over their limit."""
    return bool(value) and bool(value[1] & CLOSED)  # type: ignore[index]  # a value that is not empty


def recurs(value: bytes | None) -> bool:
    """Return whether a lineage of a subject value permits so many transfers in a period."""
    return bool(value) and bool(value[1] & RECURS)  # type: ignore[index]  # a value that is not empty


def row_count(value: bytes | None) -> int:
    """Return how many rows a subject value has."""
    return value[6] | value[7] << 8 if value else 0


def vocabulary_version(value: bytes) -> int:
    """Return the highest vocabulary version that a consent of a subject value was compiled with; 0: there is none."""
    return int(HEADER.unpack_from(value)[2]) if value else 0


def check_limits(value: bytes | None, lineage: int, compiled: Compiled) -> None:
    """Check that a consent may join a subject value, as version in force of *lineage*.

    A consent that permits something may not lead to more than ``MAX_ROWS`` rows or ``MAX_SIDES`` bytes of side blocks,
    unless the version that it replaces is as large. A consent that only denies is not refused here.

    Raises:
        PreconditionError: (LIMIT_REACHED) the limit would be exceeded; the message names it.
    """
    if only_denies(compiled):
        return
    lineages = lineages_of(value)
    old = next((one.compiled for one in lineages if one.lineage == lineage), Compiled(0, 0, b"", b""))
    rows = sum(len(one.compiled.rows) for one in lineages) - len(old.rows) + len(compiled.rows)
    sides = sum(one.compiled.list_bytes for one in lineages) - old.list_bytes + compiled.list_bytes
    for name, total, grown, most in (
        ("provisions in force", rows // ROW_SIZE, len(compiled.rows) > len(old.rows), MAX_ROWS),
        ("bytes of lists in force", sides, compiled.list_bytes > old.list_bytes, MAX_SIDES),
    ):
        if grown and total > most:
            what = f"person would have more than {most} {name}, `{total}`"
            raise PreconditionError(f"{what}: withdraw consents, ended ones too", "LIMIT_REACHED")


def decode_subject(value: bytes) -> tuple[Lineage, ...]:
    """Decode a subject value. A value that ``encode_subject`` would encode differently is refused.

    Raises:
        MalformedError: the bytes are no subject value.
    """
    try:
        lineages = tuple(lineages_of(value))
        for lineage in lineages:
            check_lineage(lineage.flags, lineage.compiled)
        if encode_subject(lineages) != value:
            raise MalformedError("subject value is not in its one form")
    except struct.error as error:
        raise MalformedError("subject value is cut short") from error
    except PreconditionError as error:
        raise MalformedError("subject value has more than a person may have") from error
    return lineages


def with_consent(value: bytes | None, stored: StoredConsent, compiled: Compiled) -> bytes:
    """Return the value after a GRANT or AMEND: *stored*, compiled to *compiled*, is in force for its lineage.

    Raises:
        PreconditionError: (LIMIT_REACHED) a seq or version above the table's limits (2³²-1, 65,535), or too many rows
            in total.
    """
    is_seq = 0 < stored.lineage <= stored.seq <= MAX_TABLE_SEQ and 0 <= stored.authority <= MAX_TABLE_SEQ
    if not (is_seq and 0 < stored.version <= 0xFFFF):
        raise PreconditionError("seq or version of a consent is out of range", "LIMIT_REACHED")
    lineage = Lineage(
        stored.lineage, stored.seq, stored.version, stored.paused, compiled, stored.authority, stored.notice
    )  # fmt: skip
    return encode_subject([*(one for one in lineages_of(value) if one.lineage != lineage.lineage), lineage])


def with_state(value: bytes | None, lineage: int, *, paused: bool) -> bytes:
    """Return the value after a PAUSE or RESUME of a lineage. Raises as ``without_consent``."""
    lineages = _lineages_with(value, lineage)
    return encode_subject([replace(one, paused=paused) if one.lineage == lineage else one for one in lineages])


def without_consent(value: bytes | None, lineage: int) -> bytes:
    """Return the value after a REVOKE of a lineage.

    Raises:
        NotFoundError: the subject has no such lineage.
    """
    return encode_subject([one for one in _lineages_with(value, lineage) if one.lineage != lineage])


def with_ended_authority(value: bytes, authority: int, time_ms: int) -> bytes:
    """Return the value after the end of an authority: the permits that rest on it end at *time_ms* at the latest."""
    return encode_subject(
        replace(one, compiled=_ended(one.compiled, time_ms)) if one.authority == authority else one
        for one in lineages_of(value)
    )


def _ended(compiled: Compiled, time_ms: int) -> Compiled:
    rows = [row_until(row, time_ms) if row.flags & PERMIT else row for row in unpack_rows(compiled.rows)]
    return replace(compiled, rows=pack_rows(rows))


def is_ended(end_ms: int, kept_from_ms: int) -> bool:
    """Return whether a pruning up to *kept_from_ms* drops a consent whose period ends at *end_ms*."""
    return end_ms <= kept_from_ms


def without_ended(value: bytes, kept_from_ms: int) -> bytes:
    """Return the value after a pruning, without the ended lineages (``is_ended``)."""
    lineages = lineages_of(value)
    left = [one for one in lineages if not is_ended(last_end_ms(one.compiled), kept_from_ms)]
    return value if len(left) == len(lineages) else encode_subject(left)


def last_end_ms(compiled: Compiled) -> int:
    """Return when the last row of a consent ends. It is the root, unless the permits end with an authority."""
    return max(row.end_ms for row in unpack_rows(compiled.rows))


def _lineages_with(value: bytes | None, lineage: int) -> list[Lineage]:
    lineages = lineages_of(value)
    if all(one.lineage != lineage for one in lineages):
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")
    return lineages


def lineages_of(value: bytes | None) -> list[Lineage]:
    """Return the lineages of a subject value that ``encode_subject`` made. Raises as ``split_subject``."""
    return [
        Lineage(
            lineage, seq, version, bool(flags & PAUSED),
            Compiled(of, flags & ~(PAUSED | HAS_SIDE), rows, side, since), *named,
        )
        for (seq, lineage, version), of, flags, since, named, rows, side in split_subject(value)
    ]  # fmt: skip


Ids = tuple[int, int, int]
"""(seq of the consent's leaf, lineage, version). All three are 0 for a rule of the realm."""

StoredLineage = tuple[Ids, int, int, int, tuple[int, int], bytes, bytes]
"""Of a lineage: ids, vocabulary version, flags, since, authority and notice, the bytes of its rows, its side block. It
is no class, because that takes longer, and a person may have many."""


def split_subject(value: bytes | None) -> Iterator[StoredLineage]:
    """Yield the lineages of a subject value.

    Wrong lengths are not found here, but in ``decode_subject``, which encodes the lineages again and compares.

    Raises:
        MalformedError: the format of the value is unknown, or the policy of an entry.
        struct.error: the value is cut short.
    """
    if not value:
        return
    version, _, _, lineages, rows = HEADER.unpack_from(value)
    if version != FORMAT:
        raise MalformedError("subject value has an unknown format")
    row_at = HEADER.size + lineages * ENTRY.size
    side_at = row_at + rows * ROW_SIZE
    entries = ENTRY.iter_unpack(value[HEADER.size : row_at])
    for lineage, seq, number, of, more, flags, since, authority, notice in entries:
        row_end = row_at + (more + 1 + policy_rows(flags)) * ROW_SIZE
        side = b""
        if flags & HAS_SIDE:
            (length,) = SIDE_LENGTH.unpack_from(value, side_at)
            side = value[side_at + SIDE_LENGTH.size : side_at + SIDE_LENGTH.size + length]
            side_at += SIDE_LENGTH.size + length
        yield (seq, lineage, number), of, flags, since, (authority, notice), value[row_at:row_end], side
        row_at = row_end


def policy_rows(flags: int) -> int:
    """Return how many rows the implicit policy of a lineage has, whose directory entry has these flags.

    Raises:
        MalformedError: there is no such policy.
    """
    policy = flags >> POLICY_SHIFT
    if policy >= len(POLICY_ROWS):
        raise MalformedError("directory entry has an unknown policy")
    return POLICY_ROWS[policy]


def _is_simple(lineage: Lineage) -> bool:
    row, *others = unpack_rows(lineage.compiled.rows)
    is_limited = row.labels or row.flags & ~PERMIT
    return not (others or lineage.flags or lineage.authority or is_limited)
