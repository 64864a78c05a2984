"""The protocol by which a verification reads a ledger, and how it reads the files of C2SP tlog-tiles.

A source is not trusted: the reader compares every answer with hashes that the log signed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from consentd.core import merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.pruned import Pruned
from consentd.errors import MalformedError, ProofError, StorageError

Opening = bytes | None
"""salt[32] ‖ statement. None for a seal, and for an erased, pruned or withheld statement. b"" if it cannot be read."""


class TileSource(Protocol):
    """The tiles and leaves of a ledger.

    Raises:
        StorageError: they cannot be read.
        MalformedError: they have no known form.
    """

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the *width* leaves of entry bundle *n*; b"" for a leaf that the source does not have."""
        ...

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return the first *width* hashes of tile *n* of a level."""
        ...


class LeafSource(TileSource, Protocol):
    """A ledger that is being read. One thread uses it. All methods raise as those of ``TileSource``."""

    @property
    def is_whole(self) -> bool:
        """Whether the source has every statement that was not erased or pruned, so that a missing one is a fault."""
        ...

    def pruned(self) -> Pruned:
        """Return what the source claims to be pruned."""
        ...

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return an opening for each of the *leaves* of bundle *n*; None if the source has no openings at all.

        The caller passes b"" in place of a leaf whose opening it does not need. Raises also VerificationError or
        CorruptionError, if what the source has are no openings.
        """
        ...


class TlogFiles(ABC):
    """The files that a ledger publishes in the layout of C2SP tlog-tiles, wherever they are."""

    @abstractmethod
    def find(self, path: str) -> bytes | None:
        """Return the content of the file at *path*; None if there is no such file. Raises as ``TileSource``."""

    def pruned(self) -> Pruned:
        """Return what the file ``pruned`` states; without that file, nothing is pruned."""
        found = self.find(pruned.FILE)
        return pruned.NOTHING if found is None else pruned.parse_pruned(found)

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the first *width* leaves of a bundle.

        A log may delete a partial bundle once it has the full one. Of a pruned bundle it keeps some leaves.
        """
        paths = [tiles.entries_path(n, width), tiles.entries_path(n), tiles.kept_path(n)]
        for path in dict.fromkeys(paths):
            found = self.find(path)
            if found is not None:
                return tiles.decode_bundle(found)[:width]
        raise StorageError(f"entry bundle is missing: `{paths[0]}`")

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return a tile, or the first *width* hashes of the full one."""
        path = tiles.tile_path(level, n, width)
        found = self.find(path)
        if found is None and width < tiles.TILE_WIDTH:
            full = self.find(tiles.tile_path(level, n))
            found = None if full is None else full[: merkle.HASH_SIZE * width]
        if found is None:
            raise StorageError(f"tile is missing: `{path}`")
        return found


def width_of(n: int, size: int) -> int:
    """Return how many of the first *size* leaves bundle *n* has."""
    return min(tiles.TILE_WIDTH, size - n * tiles.TILE_WIDTH)


def read_leaves(source: TileSource, n: int, width: int) -> list[bytes]:
    """Return the *width* leaves of bundle *n*. Raises as ``leaves``, and MalformedError for another number."""
    leaves = source.leaves(n, width)
    if len(leaves) != width:
        raise MalformedError(f"entry bundle has `{len(leaves)}` leaves in place of `{width}`")
    return leaves


def read_leaf(source: LeafSource, index: int, size: int) -> bytes:
    """Return one leaf of the first *size*. Raises as ``TileSource``, and StorageError for a pruned leaf."""
    n, at = divmod(index, tiles.TILE_WIDTH)
    leaf = read_leaves(source, n, width_of(n, size))[at]
    if not leaf:
        raise StorageError(f"leaf is pruned: entry `{index}`")
    return leaf


def leaf_hashes(source: TileSource, n: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of the leaves of bundle *n*. The hash of a missing leaf is read from its tile.

    Raises as ``TileSource``, and ProofError for a tile of another length.
    """
    if all(leaves):
        return [merkle.leaf_hash(leaf) for leaf in leaves]
    hashes = split_hashes(source.tile(0, n, len(leaves)))
    if [len(one) for one in hashes] != [merkle.HASH_SIZE] * len(leaves):
        raise ProofError("tile over a pruned bundle has another length")
    return [merkle.leaf_hash(leaf) if leaf else in_tile for leaf, in_tile in zip(leaves, hashes, strict=True)]


def read_tiles(source: LeafSource, plan: Sequence[tiles.Coordinates], size: int) -> dict[tiles.Coordinates, bytes]:
    """Return the planned tiles, as wide as a tree of *size* leaves has them. Raises as ``LeafSource.tile``."""
    return {(level, n): source.tile(level, n, width_of(n, size >> (tiles.TILE_HEIGHT * level))) for level, n in plan}


def prove_inclusion(source: LeafSource, point: Checkpoint, index: int, leaf_hash: bytes) -> tuple[bytes, ...]:
    """Return the inclusion proof of a leaf, verified against the checkpoint, so that a damaged tile is found now.

    Raises as ``TileSource``, and ProofError if the tiles do not prove the leaf.
    """
    plan = tiles.plan_inclusion(index, point.size)
    proof = tiles.prove_inclusion(index, point.size, read_tiles(source, plan, point.size))
    merkle.verify_inclusion(proof, index=index, size=point.size, leaf_hash=leaf_hash, root=point.root)
    return tuple(proof)


def split_hashes(tile: bytes) -> list[bytes]:
    """Split a tile into its hashes."""
    return [tile[at : at + merkle.HASH_SIZE] for at in range(0, len(tile), merkle.HASH_SIZE)]


def tile_root(tile: bytes) -> bytes:
    """Return the root of a full tile, which the tile above holds as one hash."""
    return tiles.Edge().append(split_hashes(tile))[0].root()
