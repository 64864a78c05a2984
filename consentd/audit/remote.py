"""Decide when bytes that came through a network are evidence, and compare a remote ledger's files with its checkpoint.

The rule (``proto/verdicts.md``): *disproved* needs bytes that arrived whole. If they are the log's own by signature,
one reading is enough: a signed checkpoint, or leaves that hash to the signed root. All other bytes may be those of a
proxy. They are read a second time, on new connections and past all caches, and count only if the second reading finds
the same. Bytes that do not have their format, and missing files, are never evidence. ``read_twice`` holds the rule.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from consentd.audit.sources import Location, RemoteSource, Source
from consentd.core import codec, merkle, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.history import RotationProof
from consentd.core.pruned import Pruned
from consentd.errors import FetchError, MalformedError, ProofError
from consentd.verify.source import Opening, read_leaves, split_hashes, tile_root, width_of

T = TypeVar("T")

_KEPT = 1024
"""Most tiles above level 0 in memory, 8 MB: those over 67 million leaves."""


def read_twice(source: Source, read: Callable[[Source], T], fault_of: Callable[[T], object]) -> T:
    """Return what *read* reads from *source*. If that is wrong and the source is remote, it is read a second time.

    Args:
        fault_of: returns None if nothing is wrong; otherwise what the verdict rests on, which the second reading must
            find too. May raise MalformedError. It is not called for a local source, whose bytes are read once.

    Raises:
        FetchError: the bytes do not have their format, or the second reading finds something else wrong than the first.
    """
    if not isinstance(source, RemoteSource):
        return read(source)
    fault: object = None
    try:
        found = read(source)
        fault = fault_of(found)
        if fault is None:
            return found
    except MalformedError:
        pass
    with closing(source.again()) as fresh:
        try:
            found = read(fresh)
            fault_now = fault_of(found)
        except MalformedError as error:
            raise FetchError(f"remote's file does not have its format: {error}") from error
    if fault_now is not None and fault_now != fault:
        raise FetchError("remote's file is wrong, but not twice in the same way")
    return found


@dataclass(frozen=True, slots=True)
class AtCheckpoint:
    """The location of a ledger that is read at one checkpoint, see ``at_checkpoint``."""

    location: Location
    point: Checkpoint

    def open(self) -> Source:
        """Open the ledger."""
        return at_checkpoint(self.location.open(), self.point)


def at_checkpoint(source: Source, point: Checkpoint) -> Source:
    """Return a source that compares what it reads with *point*, which the log signed; *source* itself if it is local.

    Its methods raise ``ProofError`` for leaves, tiles and openings that are wrong at both readings. So what they return
    is the log's own by its signature, and each fault in that is evidence at one reading.
    """
    return _Authenticated(source, point) if isinstance(source, RemoteSource) else source


class _Authenticated:
    """A remote ledger, whose leaves, tiles and openings are compared with the root that the log signed.

    A leaf must have the hash that is in its tile; a full tile's root must be in the tile above; and the tiles at the
    right edge of the tree must hash to the signed root. An opening must be the one to which its leaf commits.
    """

    def __init__(self, source: RemoteSource, point: Checkpoint) -> None:
        self._source, self._point = source, point
        self._tiles: dict[tiles.Coordinates, bytes] = {}  # full tiles above level 0 that were read last
        self._edge: dict[tiles.Coordinates, bytes] = {}  # the tiles from which the root is computed

    @property
    def is_whole(self) -> bool:
        return self._source.is_whole

    def close(self) -> None:
        self._source.close()

    def checkpoint(self) -> bytes:
        return self._source.checkpoint()

    def pruned(self) -> Pruned:
        return read_twice(self._source, lambda source: source.pruned(), lambda _: None)

    def rotations(self) -> tuple[RotationProof, ...]:
        return read_twice(self._source, lambda source: source.rotations(), lambda _: None)

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return leaves as ``TileSource``. Raises FetchError if one is missing where nothing is pruned."""
        whole = width_of(n, self._point.size)
        leaves = read_twice(
            self._source, lambda source: read_leaves(source, n, whole), lambda one: self._fault_of_leaves(n, one)
        )
        if self._fault_of_leaves(n, leaves) is not None:
            raise ProofError(f"entries from `{n * tiles.TILE_WIDTH}` are not those that the log signed")
        if not all(leaves):
            self._check_missing(n, leaves)
        return leaves[:width]

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return hashes as ``TileSource``."""
        return self._tile(level, n)[: merkle.HASH_SIZE * width]

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return openings as ``LeafSource``."""

        def fault_of(found: list[Opening] | None) -> object:
            pairs = zip(leaves, found or (), strict=False)
            return None if all(_is_opening(leaf, one) for leaf, one in pairs if leaf and one is not None) else found

        openings = read_twice(self._source, lambda source: source.openings(n, leaves), fault_of)
        if fault_of(openings) is not None:
            raise ProofError(f"statements from entry `{n * tiles.TILE_WIDTH}` are not those that the leaves commit to")
        return openings

    def _check_missing(self, n: int, leaves: list[bytes]) -> None:
        start = self._source.pruned().start
        for index, leaf in enumerate(leaves, n * tiles.TILE_WIDTH):
            # INVARIANT: the seal right before the start is kept too.
            if not leaf and index >= start - 1:
                raise FetchError(f"remote does not serve a leaf that is not pruned: entry `{index}`")

    def _fault_of_leaves(self, n: int, leaves: list[bytes]) -> object:
        """Return None if these leaves are in the signed tree. In place of a missing leaf, the tile's hash is used."""
        hashes = [merkle.leaf_hash(leaf) if leaf else b"" for leaf in leaves]
        if all(leaves) and len(leaves) == tiles.TILE_WIDTH:
            return self._fault_of_tile(0, n, b"".join(hashes))
        in_tile = split_hashes(self._tile(0, n))
        is_signed = all(one in (b"", other) for one, other in zip(hashes, in_tile, strict=True))
        return None if is_signed else leaves

    def _fault_of_tile(self, level: int, n: int, tile: bytes) -> object:
        """Return None if the tile above has the root of this full tile."""
        at = n % tiles.TILE_WIDTH * merkle.HASH_SIZE
        above = self._tile(level + 1, n // tiles.TILE_WIDTH)
        return None if above[at : at + merkle.HASH_SIZE] == tile_root(tile) else tile

    def _tile(self, level: int, n: int) -> bytes:
        """Return a tile of the signed tree with all its hashes. Raises as ``tile``."""
        self._read_edge()
        found = self._edge.get((level, n)) or self._tiles.get((level, n))
        if found is not None:
            return found
        width = width_of(n, self._point.size >> (tiles.TILE_HEIGHT * level))
        found = read_twice(
            self._source,
            lambda source: _read_tile(source, level, n, width),
            lambda tile: self._fault_of_tile(level, n, tile),
        )
        if self._fault_of_tile(level, n, found) is not None:
            raise ProofError(f"tile is not of the tree that the log signed: `{tiles.tile_path(level, n)}`")
        if level:
            if len(self._tiles) >= _KEPT:
                self._tiles.clear()
            self._tiles[level, n] = found
        return found

    def _read_edge(self) -> None:
        """Read the tiles from which the root is computed, once. Raises as ``tile``."""
        size = self._point.size
        if self._edge or not size:
            return
        widths = {(level, n): width_of(n, size >> (tiles.TILE_HEIGHT * level)) for level, n in tiles.plan_root(size)}

        def read(source: Source) -> dict[tiles.Coordinates, bytes]:
            return {(level, n): _read_tile(source, level, n, width) for (level, n), width in widths.items()}

        def fault_of(found: dict[tiles.Coordinates, bytes]) -> object:
            return None if tiles.root(size, found) == self._point.root else found

        edge = read_twice(self._source, read, fault_of)
        if fault_of(edge) is not None:
            raise ProofError(f"tiles do not hash to the root that the log signed at size {size}")
        self._edge = edge


def _read_tile(source: Source, level: int, n: int, width: int) -> bytes:
    """Return a tile of exactly *width* hashes. Raises as ``TileSource``, and MalformedError for more or fewer."""
    tile = source.tile(level, n, width)
    if len(tile) != width * merkle.HASH_SIZE:
        raise MalformedError(f"tile has `{len(tile)}` bytes in place of `{width * merkle.HASH_SIZE}`")
    return tile


def _is_opening(leaf: bytes, opening: bytes) -> bool:
    """Return whether a leaf commits to this opening. A leaf that does not decode is for the replay to report."""
    try:
        decoded = codec.decode_leaf(leaf)
    except MalformedError:
        return True
    return not isinstance(decoded, codec.Event) or codec.commit(opening[:32], opening[32:]) == decoded.commit
