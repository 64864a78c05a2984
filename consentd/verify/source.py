"""Define how a verification reads a ledger, and implement this for files in the layout of C2SP tlog-tiles.

A source is not trusted: every leaf (of a bundle of 256) and hash (of a tile of 256) is compared with the signed root.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from consentd.core import merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.evidence import ROTATIONS_FILE, parse_rotations
from consentd.core.history import RotationProof
from consentd.core.pruned import Pruned
from consentd.errors import MalformedError, ProofError, StorageError

Opening = bytes | None
"""salt[32] ‖ statement of a leaf. None: a seal, or the statement is erased, pruned or withheld. b"": unreadable."""


class TileSource(Protocol):
    """The tiles and leaves of a ledger.

    Raises:
        StorageError: tiles or leaves cannot be read.
        MalformedError: tiles or leaves are in an unknown format.
    """

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the *width* leaves of entry bundle *n*; b"" for a leaf that the source does not have."""
        ...

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return the first *width* hashes of tile *n* of a level."""
        ...


class LeafSource(TileSource, Protocol):
    """A ledger that is being read. One thread uses it. All methods raise the errors of ``TileSource``."""

    @property
    def is_whole(self) -> bool:
        """Whether the source has all statements but erased and pruned ones. Any other missing statement is a fault."""
        ...

    def pruned(self) -> Pruned:
        """Return what the source claims to be pruned."""
        ...

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return an opening for each of the *leaves* of bundle *n*; None if the source has no openings at all.

        The caller passes b"" in place of a leaf whose opening is not needed. Also raises VerificationError or
        CorruptionError, if the openings are malformed.
        """
        ...


class TlogFiles(ABC):
    """The files that a ledger publishes in the layout of C2SP tlog-tiles, in a directory or on a web host."""

    @abstractmethod
    def find(self, path: str) -> bytes | None:
        """Return the content of the file at *path*; None if there is no such file. Raises as ``TileSource``."""

    def pruned(self) -> Pruned:
        """Return what the file ``pruned`` states; without that file, nothing is pruned."""
        found = self.find(pruned.FILE)
        return pruned.NOTHING if found is None else pruned.parse_pruned(found)

    def rotations(self) -> tuple[RotationProof, ...]:
        """Return what the file ``rotations`` has; without that file, the log key was never replaced."""
        found = self.find(ROTATIONS_FILE)
        return () if found is None else parse_rotations(found)

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the first *width* leaves of a bundle, from the first of three files that exists.

        A log may delete the file of a partial bundle when the bundle is full. A pruned bundle has a file of its own.
        """
        paths = [tiles.entries_path(n, width), tiles.entries_path(n), tiles.kept_path(n)]
        for path in dict.fromkeys(paths):
            found = self.find(path)
            if found is not None:
                return tiles.decode_bundle(found)[:width]
        raise StorageError(f"entry bundle is missing: `{paths[0]}`")

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return the first *width* hashes of a tile, from the file of the partial tile or of the full tile."""
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
    """Return the *width* leaves of bundle *n*. Raises as ``TileSource``, and MalformedError for more or fewer."""
    leaves = source.leaves(n, width)
    if len(leaves) != width:
        raise MalformedError(f"entry bundle has `{len(leaves)}` leaves in place of `{width}`")
    return leaves


def read_leaf(source: LeafSource, index: int, size: int) -> bytes:
    """Return leaf *index* of a tree of *size* leaves. Raises as ``TileSource``, and StorageError for a pruned leaf."""
    n, at = divmod(index, tiles.TILE_WIDTH)
    leaf = read_leaves(source, n, width_of(n, size))[at]
    if not leaf:
        raise StorageError(f"leaf is pruned: entry `{index}`")
    return leaf


def leaf_hashes(source: TileSource, n: int, leaves: Sequence[bytes]) -> list[bytes]:
    """Return the hashes of the leaves of bundle *n*. The hash of a missing leaf is read from the tile.

    Raises as ``TileSource``, and ProofError if the tile does not have one hash for each leaf.
    """
    if all(leaves):
        return [merkle.leaf_hash(leaf) for leaf in leaves]
    hashes = split_hashes(source.tile(0, n, len(leaves)))
    if [len(one) for one in hashes] != [merkle.HASH_SIZE] * len(leaves):
        raise ProofError("tile over a pruned bundle has another length")
    return [merkle.leaf_hash(leaf) if leaf else in_tile for leaf, in_tile in zip(leaves, hashes, strict=True)]


def read_tiles(source: LeafSource, plan: Sequence[tiles.Coordinates], size: int) -> dict[tiles.Coordinates, bytes]:
    """Return the tiles in *plan*, each with all its hashes in a tree of *size* leaves. Raises as ``TileSource``."""
    return {(level, n): source.tile(level, n, width_of(n, size >> (tiles.TILE_HEIGHT * level))) for level, n in plan}


def prove_inclusion(source: LeafSource, point: Checkpoint, index: int, leaf_hash: bytes) -> tuple[bytes, ...]:
    """Return the inclusion proof of a leaf. It is verified against the checkpoint, so that a damaged tile is found.

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
    """Return the root of a full tile, which is one hash in the tile above."""
    return tiles.Edge().append(split_hashes(tile))[0].root()
