"""Encode and decode rows (provisions compiled to bit masks) and side records (limits that do not fit into a row).

Two programs read these bytes, so ``proto/table-format.md`` specifies the format. Integers are little-endian, like the
processors that evaluate rows. A row has the *effective* attributes of a provision, inherited attributes included (rule
2). Its masks include the descendant codes that its effect covers (rule 6). A consent's rows are in preorder.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from consentd.errors import InvalidError, MalformedError
from consentd.policy.model import Period

ROW: Final = struct.Struct("<IIQQQQIHHBBBB")
"""Fields: actor, holder, purposes, categories, start, end, labels, actions, side, flags, depth, node, below."""

ROW_SIZE: Final = ROW.size  # 52

PERMIT: Final = 1
"""Flag: the provision permits. Without this flag, the provision denies."""

SIDE: Final = 2
"""Flag: the row has a side record. ``side`` is the record's offset in the side block, in words of 4 bytes."""

ALL_64: Final = (1 << 64) - 1
ALL_16: Final = (1 << 16) - 1
ANY_NUMBER: Final = 0
"""Participant number in a row without a limit on participants, or with several participants in the side record."""

MAX_SIDE: Final = 4 * ALL_16
"""Most bytes in the side block of a consent."""

SIDE_COUNTS: Final = struct.Struct("<HHHH")
"""Start of a side record: how many actors, holders, resources and data periods (0 or 1) follow."""

SIDE_WINDOW: Final = struct.Struct("<QQ")
"""The part of a side record that states the data period, if there is one: start, end."""

Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""A row as a plain tuple, in the order of ``Row``. Evaluation uses tuples, because making a ``Row`` takes longer."""


class Row(NamedTuple):
    """A provision as a row. actor, holder: participant number; 0: any, or see the side record. labels: mask; 0: no
    limit. depth: 0 for the root. node: index of the row in preorder. below: number of descendants.
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
    applies), resources (empty: no limit), and a data period.
    """

    actors: frozenset[int] = frozenset()
    holders: frozenset[int] = frozenset()
    resources: frozenset[str] = frozenset()
    data_period: Period | None = None


def encode_side(side: Side) -> bytes:
    """Encode a side record, padded to whole words. Numbers and references are sorted: equal records have equal bytes.

    Raises:
        InvalidError: more than 65,535 actors, holders or resources, or a reference longer than 65,535 bytes.
    """
    references = [reference.encode() for reference in sorted(side.resources)]
    counts = (len(side.actors), len(side.holders), len(references))
    if max(counts) > ALL_16 or any(len(reference) > ALL_16 for reference in references):
        raise InvalidError("provision names too much", "INVALID_CONSENT")
    parts = [SIDE_COUNTS.pack(*counts, side.data_period is not None)]
    if side.data_period is not None:
        parts.append(SIDE_WINDOW.pack(side.data_period.start_ms, side.data_period.end_ms))
    parts += [struct.pack(f"<{len(part)}I", *sorted(part)) for part in (side.actors, side.holders)]
    parts += [len(reference).to_bytes(2, "little") + reference for reference in references]
    record = b"".join(parts)
    return record + bytes(-len(record) % 4)


def decode_side(block: bytes | memoryview, word: int) -> Side:
    """Decode the side record that begins at word ``word`` of a consent's side block.

    Raises:
        MalformedError: the record does not end within the block, or its text is not UTF-8.
    """
    try:
        offset = word * 4
        actors, holders, resources, windows = SIDE_COUNTS.unpack_from(block, offset)
        offset += SIDE_COUNTS.size
        period = None
        if windows:
            period = Period(*SIDE_WINDOW.unpack_from(block, offset))
            offset += SIDE_WINDOW.size
        numbers = struct.unpack_from(f"<{actors + holders}I", block, offset)
        offset += 4 * (actors + holders)
        references = []
        for _ in range(resources):
            length = int.from_bytes(block[offset : offset + 2], "little")
            reference = bytes(block[offset + 2 : offset + 2 + length])
            if len(reference) != length or not length:
                raise MalformedError("side record is cut short")
            references.append(reference.decode())
            offset += 2 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedError("side record is malformed") from error
    return Side(frozenset(numbers[:actors]), frozenset(numbers[actors:]), frozenset(references), period)


def unpack_rows(rows: bytes | memoryview) -> list[Row]:
    """Decode rows. The length of *rows* must be a multiple of ``ROW_SIZE``."""
    return [Row._make(fields) for fields in ROW.iter_unpack(rows)]


def pack_rows(rows: Iterable[Row]) -> bytes:
    return b"".join(ROW.pack(*row) for row in rows)
