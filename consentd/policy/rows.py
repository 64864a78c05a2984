"""Encode and decode rows (provisions compiled to bit masks) and side records (limits that do not fit into a row).

Two programs read these bytes, so ``proto/table-format.md`` specifies the format. Integers are little-endian, like the
processors that evaluate rows. A row has the *effective* attributes of a provision, inherited attributes included (rule
2). The masks of a permit include the descendant codes that it covers; a deny has the codes that it names (rule 6). A
consent's rows are in preorder.
"""

import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from consentd.errors import InvalidError, MalformedError
from consentd.policy.model import OPEN_END_MS, Period
from consentd.policy.recurrence import MAX_KEPT_USES, Recurrence, Use

ROW: Final = struct.Struct("<IIQQQQIHHBBBB")
"""Fields: actor, holder, purposes, categories, start, end, labels, actions, side, flags, depth, node, below."""

ROW_SIZE: Final = ROW.size  # 52
FLAGS_AT: Final = 48  # offset of the flags in a row
DEPTH_AT: Final = 49  # offset of the depth

ROW_SHAPE: Final = struct.Struct("<8x16s16x6s2xc3x")
"""The fields of a row that many rows of a person have in common: purposes and categories, labels and actions, flags."""

ROW_REST: Final = struct.Struct("<II16xQQ6xHBxBB")
"""The other fields of a row, and the flags: actor, holder, start, end, side, flags, node, below."""

Rest = tuple[int, int, int, int, int, int, int, int]
"""What ``ROW_REST`` unpacks."""

PERMIT: Final = 1
"""Flag: the provision permits. Without this flag, the provision denies."""

SIDE: Final = 2
"""Flag: the row has a side record. ``side`` is the record's offset in the side block, in words of 4 bytes."""

GROUP: Final = 4
"""Flag: an actor or a holder of the row is a group."""

NORMAL: Final = 8
"""Flag: the row is the permit of a normal policy (rule 1)."""

LEVEL_SHIFT: Final = 4
"""Bits 4–6 of the flags are the number of the level that the row names; 0: it names none."""

ALL_64: Final = (1 << 64) - 1
ALL_16: Final = (1 << 16) - 1
ANY_NUMBER: Final = 0
"""Participant number in a row without a limit on participants, or with several participants in the side record."""

MAX_SIDE: Final = 4 * ALL_16
"""Most bytes in the side block of a consent, with room for all uses if the consent recurs."""

SIDE_RECORD: Final = struct.Struct("<HHHHHH")
"""Start of a side record: where its lists of actors, holders and resources begin, in words from the start of the side
block (0: there is no such list); how many data periods (0 or 1) follow; where its list of ends and its list of uses
begin, in the same way."""

SIDE_WINDOW: Final = struct.Struct("<qq")
"""The part of a side record that states the data period, if there is one: start, end."""

SIDE_FIELDS: Final = struct.Struct("<IIIqq")
"""A side record in words, as evaluation reads it: the lists of actors (lower half) and of holders; the list of
resources (lower half) and how many data periods; the list of ends (lower half) and that of uses; start and end of the
data period, if there is one."""

Record = tuple[int, int, int, int, int]
"""What ``SIDE_FIELDS`` unpacks."""

ENDS: Final = 2
"""The index in a ``Record`` of the word that has the list of ends (lower half) and that of uses."""

USES_SHIFT: Final = 16
"""The list of uses is in the bits from 16 of that word."""

_ENDS_USES: Final = struct.Struct("<8xI")
"""The list of ends and that of uses of a side record."""

_NONE: Final = (0,)  # what these unpack to if nothing is in them

_END: Final = struct.Struct("<QQ")
"""An item of a list of ends: mask of purposes, end."""

_RECURRENCE: Final = struct.Struct("<IIQQ")
"""The start of a list of uses: how many, the months of the duration, its milliseconds beside them, the first period."""

_USE: Final = struct.Struct("<IIQQ")
"""An item of a list of uses: holder, seq of the access, categories, until."""

_COUNT: Final = struct.Struct("<I")
_CODES: Final = struct.Struct("<QQIHB")


class Row(NamedTuple):
    """A provision as a row. actor, holder: participant number; 0: any, or see the side record. labels: mask; 0: none is
    named. depth: 0 for the root. node: index of the row in preorder. below: number of descendants.
    """

    actor: int
    holder: int
    purposes: int
    categories: int
    start_ms: int
    end_ms: int
    labels: int
    actions: int
    side: int
    flags: int
    depth: int
    node: int
    below: int


@dataclass(frozen=True, slots=True)
class Side:
    """The limits of a provision that do not fit into its row: several actors or holders (empty: the row's field
    applies), resources (empty: no limit), a data period, the purposes that end before the row's end (mask, end), and
    the recurrence of the consent with its uses.
    """

    actors: frozenset[int] = frozenset()
    holders: frozenset[int] = frozenset()
    resources: frozenset[str] = frozenset()
    data_period: Period | None = None
    ends: tuple[tuple[int, int], ...] = ()
    uses: Recurrence | None = None


class SideBlock:
    """Builds the side block of a consent. Equal records and equal lists are stored once, and rows share them."""

    def __init__(self) -> None:
        self.encoded = bytearray()
        self._records: dict[Side, int] = {}
        self._lists: dict[Any, int] = {frozenset(): 0, (): 0, None: 0}
        self._left = MAX_SIDE

    def add(self, side: Side) -> int:
        """Add a record, and those of its lists that the block does not have; return the record's word.

        Raises:
            InvalidError: the block would be over ``MAX_SIDE`` bytes, or a reference is over 65,535 bytes.
        """
        word = self._records.get(side)
        if word is not None:
            return word
        word = self._records[side] = len(self.encoded) // 4
        # INVARIANT: a list comes after the first record that refers to it, so no list is at word 0. The first row that
        # has a record has it there.
        at = word + (SIDE_RECORD.size + (0 if side.data_period is None else SIDE_WINDOW.size)) // 4
        lists, starts = b"", []
        encodings: tuple[tuple[Any, Callable[[], bytes]], ...] = (
            (side.actors, partial(_encode_numbers, side.actors)),
            (side.holders, partial(_encode_numbers, side.holders)),
            (side.resources, partial(_encode_references, side.resources)),
            (side.ends, partial(_encode_ends, side.ends)),
            (side.uses, partial(_encode_uses, side.uses)),
        )
        if side.uses is not None and side.uses not in self._lists:
            # INVARIANT: an access always finds room for its use: the block keeps it from the start.
            self._left -= (MAX_KEPT_USES - len(side.uses.uses)) * _USE.size
        for items, encode in encodings:
            found = self._lists.get(items)
            if found is None:
                found = self._lists[items] = at + len(lists) // 4
                lists += encode()
            starts.append(found)
        if 4 * at + len(lists) > self._left:
            raise InvalidError(f"consent's lists are over their limit of {MAX_SIDE} bytes", "INVALID_CONSENT")
        actors, holders, resources, ends, uses = starts
        self.encoded += SIDE_RECORD.pack(actors, holders, resources, side.data_period is not None, ends, uses)
        if side.data_period is not None:
            self.encoded += SIDE_WINDOW.pack(side.data_period.start_ms, side.data_period.end_ms)
        self.encoded += lists
        return word


def _encode_numbers(numbers: frozenset[int]) -> bytes:
    return struct.pack(f"<{1 + len(numbers)}I", len(numbers), *sorted(numbers))


def _encode_ends(ends: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join([_COUNT.pack(len(ends)), *(_END.pack(*one) for one in ends)])


def _encode_uses(recurrence: Recurrence | None) -> bytes:
    assert recurrence is not None, "a side record without a recurrence has no list of uses"
    uses = recurrence.uses
    head = _RECURRENCE.pack(len(uses), recurrence.months, recurrence.rest_ms, recurrence.start_ms)
    return head + b"".join([_USE.pack(one.holder, one.access, one.categories, one.until_ms) for one in uses])


def _encode_references(references: frozenset[str]) -> bytes:
    parts = [_COUNT.pack(len(references))]
    for reference in map(str.encode, sorted(references)):
        if len(reference) > ALL_16:
            raise InvalidError("provision names a reference that is too long", "INVALID_CONSENT")
        parts.append(len(reference).to_bytes(2, "little") + reference)
    encoded = b"".join(parts)
    return encoded + bytes(-len(encoded) % 4)


def decode_sides(block: bytes, records: Iterable[int]) -> dict[int, Side]:
    """Decode the side records at these words, each list once; return the records by word. Raises as ``decode_side``."""
    numbers: dict[int, frozenset[int]] = {}
    references: dict[int, frozenset[str]] = {}
    recurrences: dict[int, Recurrence | None] = {0: None}
    found: dict[int, Side] = {}
    for word in records:
        if word in found:
            continue
        actors, holders, resources, period, ends, uses = _decode_record(block, word)
        for at in (actors, holders):
            if at not in numbers:
                numbers[at] = decode_numbers(block, at)
        if resources not in references:
            references[resources] = decode_references(block, resources)
        if uses not in recurrences:
            recurrences[uses] = decode_uses(block, uses)
        found[word] = Side(
            numbers[actors], numbers[holders], references[resources], period, decode_ends(block, ends),
            recurrences[uses],
        )  # fmt: skip
    return found


def decode_side(block: bytes, word: int) -> Side:
    """Decode the side record that begins at word ``word`` of a consent's side block.

    Raises:
        MalformedError: the record or a list of it does not end within the block, or its text is not UTF-8.
    """
    return decode_sides(block, (word,))[word]


def _decode_record(block: bytes, word: int) -> tuple[int, int, int, Period | None, int, int]:
    """Return the words of the lists of actors, holders and resources of a side record, its data period, and the words
    of its lists of ends and of uses.
    """
    try:
        actors, holders, resources, periods, ends, uses = SIDE_RECORD.unpack_from(block, 4 * word)
        if periods > 1:
            raise MalformedError("side record has several data periods")
        period = Period(*SIDE_WINDOW.unpack_from(block, 4 * word + SIDE_RECORD.size)) if periods else None
    except struct.error as error:
        raise MalformedError("side record is cut short") from error
    return actors, holders, resources, period, ends, uses


def has_ends_or_uses(block: bytes, rows: Iterable[Row]) -> bool:
    """Return whether a side record of *rows*, rules of the realm, has ends or uses, which only consents have.

    Raises:
        struct.error: a record is cut short.
    """
    words = {row[8] for row in rows if row[9] & SIDE}
    return any(_ENDS_USES.unpack_from(block, 4 * word) != _NONE for word in words)


def decode_numbers(block: bytes, word: int) -> frozenset[int]:
    """Decode the list of participant numbers at a word of a side block; word 0: no list. Raises ``MalformedError``."""
    if not word:
        return frozenset()
    try:
        (count,) = _COUNT.unpack_from(block, 4 * word)
        if count > len(block) // 4:
            raise MalformedError("list of a side block is cut short")
        return frozenset(struct.unpack_from(f"<{count}I", block, 4 * word + _COUNT.size))
    except struct.error as error:
        raise MalformedError("list of a side block is cut short") from error


def decode_ends(block: bytes, word: int) -> tuple[tuple[int, int], ...]:
    """Decode the list of ends at a word of a side block; word 0: no list. Raises ``MalformedError``."""
    if not word:
        return ()
    try:
        (count,) = _COUNT.unpack_from(block, 4 * word)
        if count > len(block) // _END.size:
            raise MalformedError("list of a side block is cut short")
        begin = 4 * word + _COUNT.size
        return tuple(_END.unpack_from(block, begin + _END.size * at) for at in range(count))
    except struct.error as error:
        raise MalformedError("list of a side block is cut short") from error


def decode_uses(block: bytes, word: int) -> Recurrence:
    """Decode the list of uses at a word of a side block. Raises ``MalformedError``."""
    begin = 4 * word
    try:
        count, months, rest_ms, start_ms = _RECURRENCE.unpack_from(block, begin)
        begin += _RECURRENCE.size
        if count > len(block) // _USE.size or (count and len(block) < begin + count * _USE.size):
            raise MalformedError("list of a side block is cut short")
        items = _USE.iter_unpack(block[begin : begin + count * _USE.size])
        uses = tuple([Use(holder, until_ms, access, categories) for holder, access, categories, until_ms in items])
    except struct.error as error:
        raise MalformedError("list of a side block is cut short") from error
    if start_ms > OPEN_END_MS or list(uses) != sorted(set(uses)):
        raise MalformedError("list of uses is not in its one form")
    return Recurrence(months, rest_ms, start_ms, uses)


def uses_size(recurrence: Recurrence) -> int:
    """Return how many bytes of a side block the uses take."""
    return len(recurrence.uses) * _USE.size


def recurrence_of(block: bytes, rows: Iterable[Row]) -> Recurrence | None:
    """Return the recurrence of a consent, given its rows and its side block; None: it has none. All permits share it.

    Raises:
        MalformedError: the block is malformed.
    """
    for row in rows:
        if row.flags & PERMIT:
            return decode_side(block, row.side).uses if row.flags & SIDE else None
    return None


def with_recurrence(block: bytes, rows: Iterable[Row], recurrence: Recurrence) -> tuple[list[Row], bytes]:
    """Return the rows and the side block of a consent that recurs, with other uses. Raises as ``decode_sides``."""
    old = list(rows)
    sides = decode_sides(block, (row.side for row in old if row.flags & SIDE))
    made, new = SideBlock(), []
    for row in old:
        if row.flags & SIDE:
            side = sides[row.side]
            word = made.add(side if side.uses is None else replace(side, uses=recurrence))
            new.append(row._replace(side=word))
        else:
            new.append(row)
    return new, bytes(made.encoded)


def words_of(blocks: bytes) -> Sequence[int]:
    """Return the words of side blocks. The word at which a list begins is its length, and its numbers follow."""
    if sys.byteorder == "little":
        return memoryview(blocks).cast("I")  # a word becomes a number only when it is read
    return struct.unpack(f"<{len(blocks) // 4}I", blocks)


def decode_references(block: bytes, word: int) -> frozenset[str]:
    """Decode the list of references at a word of a side block; word 0: no list. Raises ``MalformedError``."""
    if not word:
        return frozenset()
    try:
        (count,) = _COUNT.unpack_from(block, 4 * word)
        offset = 4 * word + _COUNT.size
        references = []
        for _ in range(count):
            start = offset + 2
            offset = start + (block[offset] | block[offset + 1] << 8)
            references.append(block[start:offset].decode())
        if offset > len(block) or "" in references:
            raise MalformedError("list of a side block is cut short")
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedError("list of a side block is malformed") from error
    return frozenset(references)


def unpack_shape(fields: tuple[bytes, bytes, bytes]) -> tuple[int, int, int, int, int]:
    """Return what ``ROW_SHAPE`` has unpacked as numbers: purposes, categories, labels, actions, flags."""
    found: tuple[int, int, int, int, int] = _CODES.unpack(b"".join(fields))
    return found


def row_until(row: Row, end_ms: int) -> Row:
    """Return a row that ends at *end_ms* at the latest. One that begins later is never in force."""
    if row.end_ms <= end_ms:
        return row
    return row._replace(end_ms=end_ms) if row.start_ms < end_ms else row._replace(start_ms=0, end_ms=0)


def rest_until(rest: Rest, end_ms: int) -> Rest:
    """Return the fields of a row that ends at *end_ms* at the latest. One that begins later is never in force."""
    if end_ms >= rest[3]:
        return rest
    return (*rest[:2], *((rest[2], end_ms) if end_ms > rest[2] else (0, 0)), *rest[4:])


def unpack_rows(rows: bytes | memoryview) -> list[Row]:
    """Decode rows. The length of *rows* must be a multiple of ``ROW_SIZE``."""
    return [Row._make(fields) for fields in ROW.iter_unpack(rows)]


def pack_rows(rows: Iterable[Row]) -> bytes:
    return b"".join(ROW.pack(*row) for row in rows)
