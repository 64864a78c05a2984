"""The row: one provision compiled to masks, and the side record of what does not fit.

Two programs read these bytes; ``proto/table-format.md`` is their specification. Little-endian, because
every machine that evaluates is; the ledger's own bytes are big-endian and elsewhere.

A row states its provision's *effective* attributes (rule 2), with masks closed over their hierarchies as
its own effect reads them (rule 6). Rows of a consent stand in preorder, the root first, so a loop from
the last to the first meets every child before its parent.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from consentd.errors import InvalidError, MalformedError
from consentd.policy.model import Period

ROW: Final = struct.Struct("<IIQQQQIHHBBBB")
"""actor, holder, purposes, categories, start, end, labels, actions, side, flags, depth, node, below."""

ROW_SIZE: Final = ROW.size  # 52

PERMIT: Final = 1
"""Flag: the provision permits; without it, it denies."""

SIDE: Final = 2
"""Flag: ``side`` is the offset of a side record, in words of 4 bytes from the start of the consent's side block."""

ALL_64: Final = (1 << 64) - 1
ALL_16: Final = (1 << 16) - 1
ANY_NUMBER: Final = 0
"""Participant number of a row that names none."""

MAX_SIDE: Final = 4 * ALL_16
"""Longest side block of a consent, bytes."""

SIDE_COUNTS: Final = struct.Struct("<HHHH")
"""Head of a side record: how many actors, holders, resources, data periods (0 or 1)."""

SIDE_WINDOW: Final = struct.Struct("<QQ")
"""Its data period, if it has one: start, end."""

Fields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]
"""A row as unpacked, in the order of ``Row``: a plain tuple where tens of thousands are read a second."""


class Row(NamedTuple):
    """One row by name.

    ``actor`` and ``holder``: participant number, 0 any. ``labels``: 0 no limit. ``depth``: 0 for the root; ``node``:
    place in preorder; ``below``: how many rows are its descendants.
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
    """What a provision says beyond its row: several actors or holders, resources, a data period.

    Attributes:
        actors, holders: participant numbers; empty: the row's own field counts.
        resources: references; empty: no limit.
        data_period: None: no limit.
    """

    actors: frozenset[int] = frozenset()
    holders: frozenset[int] = frozenset()
    resources: frozenset[str] = frozenset()
    data_period: Period | None = None


def encode_side(side: Side) -> bytes:
    """Return the record of ``side``, padded to whole words. Members stand sorted, so that equal sets are equal bytes.

    Raises:
        InvalidError: more than 65,535 members, or a resource reference longer than 65,535 bytes.
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
    """Return the side record at ``word`` of a consent's side block.

    Raises:
        MalformedError: it does not lie within the block, or its text is not UTF-8.
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
    """Return the rows of ``rows``, whose length is a multiple of ``ROW_SIZE``."""
    return [Row._make(fields) for fields in ROW.iter_unpack(rows)]


def pack_rows(rows: Iterable[Row]) -> bytes:
    """Return the bytes of ``rows``, the inverse of ``unpack_rows``."""
    return b"".join(ROW.pack(*row) for row in rows)
