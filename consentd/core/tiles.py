"""Store the tree as tiles, append leaves at the right edge, and make proofs from tiles (C2SP tlog-tiles).

The tree is stored as *tiles*: rows of up to 256 hashes, at the heights 0, 8, 16 … only::

    tile (level, n), hash i = hash of the complete subtree of leaves [(n*256+i) * 256**level, +256**level)

A hash in a tile never changes, and a tile only grows. So the partial tile of a smaller tree is a prefix of the stored
tile. The functions that make proofs accept tiles that are wider than needed.

A proof for a size is a list of hashes of leaf ranges. Each range splits into complete subtrees. Each complete subtree
lies in one tile: a subtree of height h is the root of 2**(h mod 8) hashes at level h div 8. Example: the inclusion
proof of leaf 5 in a tree of 7 leaves has the hashes of the ranges [4, 5), [6, 7) and [0, 4). The range [0, 4) is a
subtree of height 2: its hash is the root of the first 4 hashes of tile (0, 0).
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE, node_hash
from consentd.errors import MalformedError, ProofError

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile, and leaves in a full entry bundle."""

ENTRIES = -1  # in place of a level, in paths of entry bundles, which hold leaves
MAX_LEAF_SIZE = 0xFFFF

Coordinates = tuple[int, int]
"""A tile's (level, n)."""

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def tile_path(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """Format the path of tile `n` of a level (or of entry bundle `n`: ``ENTRIES``) with `width` items, 1 to 256.

    Example: ``tile_path(0, 1234067, 8)`` is ``tile/0/x001/x234/067.p/8``.
    """
    assert ENTRIES <= level <= 63
    assert 0 <= n < 1000**7
    assert 1 <= width <= TILE_WIDTH
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    name = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
    kind = "entries" if level == ENTRIES else str(level)
    return f"tile/{kind}/{name}" + ("" if width == TILE_WIDTH else f".p/{width}")


def entries_path(n: int, width: int = TILE_WIDTH) -> str:
    return tile_path(ENTRIES, n, width)


def kept_path(n: int) -> str:
    """Format the path of the leaves that remain of the pruned entry bundle `n`. tlog-tiles has no such path."""
    return "kept" + entries_path(n).removeprefix("tile/entries")


def parse_tile_path(path: str) -> tuple[int, int, int]:
    """Parse a path into (level or ``ENTRIES``, n, width).

    Raises:
        MalformedError: the text is not the canonical path of a tile.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise MalformedError("tile path has the wrong form")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    n = int(match[2].replace("/", "").replace("x", ""))
    width = TILE_WIDTH if match[3] is None else int(match[3])
    # INVARIANT: a path that parses is the one that tile_path formats, so no tile has two paths.
    if level > 63 or width > TILE_WIDTH or tile_path(level, n, width) != path:
        raise MalformedError("tile path is not canonical")
    return level, n, width


def encode_bundle(leaves: Sequence[bytes]) -> bytes:
    """Join 1 to 256 leaves to an entry bundle, each with its length as u16 before it. A pruned leaf has length 0."""
    assert 1 <= len(leaves) <= TILE_WIDTH
    assert all(len(leaf) <= MAX_LEAF_SIZE for leaf in leaves)
    return b"".join([struct.pack(">H", len(leaf)) + leaf for leaf in leaves])


def decode_bundle(bundle: bytes) -> list[bytes]:
    """Split an entry bundle into its 1 to 256 leaves.

    Raises:
        MalformedError: the bundle ends within a leaf, has no leaf, or has more than 256.
    """
    leaves: list[bytes] = []
    offset = 0
    while offset < len(bundle):
        start = offset + 2
        offset = start + int.from_bytes(bundle[offset:start])
        if len(leaves) == TILE_WIDTH:
            raise MalformedError("entry bundle has more than 256 leaves")
        leaves.append(bundle[start:offset])
    if offset != len(bundle) or not leaves:
        raise MalformedError("entry bundle ends within a leaf or is empty")
    return leaves


# -- proving: plan, read, finish ------------------------------------------------------------------------------


def plan_root(size: int) -> list[Coordinates]:
    """Return the tiles that ``root(size, ...)`` needs."""
    return _tiles_of([_subtrees(0, size)])


def root(size: int, tiles: Mapping[Coordinates, bytes]) -> bytes:
    """Compute the root hash of the first `size` leaves.

    Raises (``prove_*`` and ``Edge.from_tiles`` do the same):
        ProofError: a planned tile is missing or too short.
    """
    return _range_hash(_subtrees(0, size), tiles) if size else EMPTY_ROOT


def plan_inclusion(index: int, size: int) -> list[Coordinates]:
    """Return the tiles that ``prove_inclusion(index, size, ...)`` needs. 0 <= `index` < `size`."""
    return _tiles_of(_inclusion_ranges(index, size))


def prove_inclusion(index: int, size: int, tiles: Mapping[Coordinates, bytes]) -> list[bytes]:
    """Prove that the leaf at `index` is in the tree of `size` leaves (PATH of RFC 9162 2.1.3.1)."""
    return [_range_hash(subtrees, tiles) for subtrees in _inclusion_ranges(index, size)]


def plan_consistency(size1: int, size2: int) -> list[Coordinates]:
    """Return the tiles that ``prove_consistency(size1, size2, ...)`` needs. 0 < `size1` <= `size2`."""
    return _tiles_of(_consistency_ranges(size1, size2))


def prove_consistency(size1: int, size2: int, tiles: Mapping[Coordinates, bytes]) -> list[bytes]:
    """Prove that the tree of `size2` leaves begins with the tree of `size1` (PROOF of RFC 9162 2.1.4.1)."""
    return [_range_hash(subtrees, tiles) for subtrees in _consistency_ranges(size1, size2)]


Subtree = tuple[int, int]  # (height, i): the complete subtree of leaves [i << height, (i + 1) << height)


def _split(lo: int, hi: int) -> int:
    """Return where RFC 9162 splits [lo, hi): lo plus the largest power of two that is less than the length."""
    return lo + (1 << ((hi - lo - 1).bit_length() - 1))


def _subtrees(lo: int, hi: int) -> list[Subtree]:
    """Split [lo, hi) into complete subtrees, left to right; each is lower than the one before.

    Example: [0, 7) is [0, 4), [4, 6), [6, 7), with the heights 2, 1, 0.
    """
    found = []
    while lo < hi:
        height = (hi - lo).bit_length() - 1
        found.append((height, lo >> height))
        lo += 1 << height
    return found


def _siblings(lowest: int | None, end: int, size: int) -> tuple[list[list[Subtree]], int]:
    """Split [0, size) as RFC 9162 does, and then the part that has leaf *end* - 1, until this part ends at *end* and
    (if *lowest* is not None) begins at *lowest*. Return the other parts, last one first, and where this part begins.
    """
    ranges = []
    lo, hi = 0, size
    while hi != end or lowest not in (None, lo):
        mid = _split(lo, hi)
        if end <= mid:
            ranges.append(_subtrees(mid, hi))
            hi = mid
        else:
            ranges.append(_subtrees(lo, mid))
            lo = mid
    return ranges[::-1], lo


def _inclusion_ranges(index: int, size: int) -> list[list[Subtree]]:
    assert 0 <= index < size
    return _siblings(index, index + 1, size)[0]


def _consistency_ranges(size1: int, size2: int) -> list[list[Subtree]]:
    assert 0 < size1 <= size2
    ranges, lo = _siblings(None, size1, size2)
    # If lo is 0, the range [lo, size1) is the whole first tree. The verifier has the root of that tree already.
    return [_subtrees(lo, size1), *ranges] if lo else ranges


def _position(subtree: Subtree) -> tuple[int, int, int, int]:
    """Return the position of a subtree: its tile's level and n, its first hash in the tile, and its number of hashes.

    Example: height 10, i = 5 (leaves 5120 to 6143) is level 1, rest 2, so first = 20: hashes 20 to 23 of tile (1, 0).
    """
    height, i = subtree
    level, rest = divmod(height, TILE_HEIGHT)
    first = i << rest
    return level, first >> TILE_HEIGHT, first & (TILE_WIDTH - 1), 1 << rest


def _tiles_of(ranges: Iterable[Iterable[Subtree]]) -> list[Coordinates]:
    return sorted({_position(subtree)[:2] for subtrees in ranges for subtree in subtrees})


def _range_hash(subtrees: Sequence[Subtree], tiles: Mapping[Coordinates, bytes]) -> bytes:
    return _fold([_subtree_hash(subtree, tiles) for subtree in subtrees])


def _subtree_hash(subtree: Subtree, tiles: Mapping[Coordinates, bytes]) -> bytes:
    level, n, first, count = _position(subtree)
    row = tiles.get((level, n), b"")
    if len(row) < (first + count) * HASH_SIZE:
        raise ProofError(f"tile is missing or too short: `{tile_path(level, n)}`")
    hashes = [row[at : at + HASH_SIZE] for at in range(first * HASH_SIZE, (first + count) * HASH_SIZE, HASH_SIZE)]
    while len(hashes) > 1:
        hashes = _pair(hashes)
    return hashes[0]


def _pair(hashes: Sequence[bytes]) -> list[bytes]:
    """Hash neighbours in pairs, without the last of an odd number. ``node_hash`` is inlined, for fast appends."""
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=False)]


def _fold(peaks: Sequence[bytes]) -> bytes:
    """Hash complete subtrees, each lower than the one to its left, to the root over all of them."""
    folded = peaks[-1]
    for peak in reversed(peaks[:-1]):
        folded = node_hash(peak, folded)
    return folded


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree: the hashes that are needed to append leaves and to compute the root.

    Attributes:
        size: number of leaves in the tree.
        rows: for each level, the joined hashes of its partial tile: 0 to 255 hashes, so 0 to 8,160 bytes.
        peaks: the tree splits into complete subtrees, one for each 1 bit of the size. For each height: the hash of that
            subtree, or b"" if the bit is 0. Peaks could be computed from the rows, but stored peaks save time: a new
            leaf costs one node hash on average, and the root at most one for each bit of the size.
    """

    size: int = 0
    rows: tuple[bytes, ...] = ()
    peaks: tuple[bytes, ...] = ()

    @classmethod
    def from_tiles(cls, size: int, tiles: Mapping[Coordinates, bytes]) -> "Edge":
        """Compute the edge of a stored tree of `size` leaves, from the tiles of ``plan_root(size)``."""
        peaks = [b""] * size.bit_length()
        for subtree in _subtrees(0, size):
            peaks[subtree[0]] = _subtree_hash(subtree, tiles)
        rows = []
        for level in range(-(-size.bit_length() // TILE_HEIGHT)):
            n, width = divmod(size >> (TILE_HEIGHT * level), TILE_WIDTH)
            # The tile is wide enough. Otherwise the loop over the peaks would have raised.
            rows.append(tiles.get((level, n), b"")[: width * HASH_SIZE])
        return cls(size, tuple(rows), tuple(peaks))

    def root(self) -> bytes:
        return _fold([peak for peak in reversed(self.peaks) if peak]) if self.size else EMPTY_ROOT

    def append(self, leaf_hashes: Sequence[bytes]) -> "tuple[Edge, dict[Coordinates, bytes]]":
        """Append leaf hashes; return the new edge, and each tile that changed, with all its hashes (1 to 256)."""
        assert all(len(h) == HASH_SIZE for h in leaf_hashes), "leaf hashes are 32 bytes"
        rows, peaks = list(self.rows), list(self.peaks)
        changed: dict[Coordinates, bytes] = {}
        new = list(leaf_hashes)
        height = 0
        # For each height, `new` holds the hashes of the complete subtrees of that height that this append completes.
        while new:
            level, rest = divmod(height, TILE_HEIGHT)
            if rest == 0:
                n = self.size >> (height + TILE_HEIGHT)
                if level == len(rows):
                    rows.append(b"")
                row = rows[level] + b"".join(new)
                while len(row) >= TILE_WIDTH * HASH_SIZE:
                    changed[level, n] = row[: TILE_WIDTH * HASH_SIZE]
                    row, n = row[TILE_WIDTH * HASH_SIZE :], n + 1
                if row:
                    changed[level, n] = row
                rows[level] = row
            if height == len(peaks):
                peaks.append(b"")
            if peaks[height]:
                new.insert(0, peaks[height])
            peaks[height] = new[-1] if len(new) & 1 else b""
            new = _pair(new)
            height += 1
        return Edge(self.size + len(leaf_hashes), tuple(rows), tuple(peaks)), changed
