"""Check a run of leaves by itself: everything about a leaf that does not depend on earlier leaves.

A leaf must have the hash that is in its tile (a tile has 256 hashes of the tree). Its opening (salt and statement)
must match the leaf's commitment and decode, and the key that the statement names must have signed the statement. Runs
may be checked in any order and in any process. The walker then takes the runs in the order of the ledger.
"""

from dataclasses import dataclass, field

from consentd.core import codec, merkle, tiles
from consentd.errors import ConsentdError, CorruptionError, MalformedError, VerificationError
from consentd.verify.source import LeafSource, read_leaves, read_tiles, split_hashes, tile_root, width_of
from consentd.verify.statements import SignedStatement, verify_opening

RUN = 16
"""Bundles in a run: 4,096 leaves, or half a megabyte. Verifying their signatures takes a quarter of a second."""


@dataclass(slots=True)
class CheckedRun:
    """A run of leaves from index *start* on, and the results of the checks of each leaf.

    Attributes:
        leaves: the leaves as the source has them; b"" for a missing leaf.
        hashes: the hash of each leaf; for a missing or damaged leaf, the hash that is in its tile.
        unusable: indexes of the missing and damaged leaves.
        signed: by leaf index, each statement that passed its checks.
        faults: by leaf index, what is wrong with the leaf.
        has_openings: the source has openings at all.
    """

    start: int
    leaves: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    unusable: set[int] = field(default_factory=set)
    signed: dict[int, SignedStatement] = field(default_factory=dict)
    faults: dict[int, list[str]] = field(default_factory=dict)
    has_openings: bool = False

    def add_fault(self, index: int, what: str) -> None:
        """Add a fault of the leaf at *index*."""
        self.faults.setdefault(index, []).append(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePoint:
    """The tree whose leaves are checked. Only statements of entries of these *kinds* are read; None: of all kinds."""

    origin: str
    size: int
    root: bytes | None
    kinds: frozenset[int] | None = None


def runs_of(size: int, start: int = 0) -> list[range]:
    """Divide the bundles of a tree of *size* leaves into runs, beginning with the bundle that contains leaf *start*."""
    bundles = range(start // tiles.TILE_WIDTH, -(-size // tiles.TILE_WIDTH))
    return [bundles[at : at + RUN] for at in range(0, len(bundles), RUN)]


def check_run(source: LeafSource, tree: TreePoint, bundles: range) -> CheckedRun:
    """Check the leaves of these bundles.

    Raises:
        StorageError: the source fails.
        MalformedError: a bundle (256 leaves) is in an unknown format, so its leaves cannot be read.
    """
    run = CheckedRun(bundles.start * tiles.TILE_WIDTH)
    for n in bundles:
        start, width = n * tiles.TILE_WIDTH, width_of(n, tree.size)
        try:
            leaves = read_leaves(source, n, width)
        except MalformedError as error:
            raise MalformedError(f"{error}: entries from `{start}`") from error
        run.leaves += leaves
        run.hashes += _compare_tile(run, source, tree, n, leaves)
        asked = leaves
        if run.unusable:
            asked = [b"" if start + at in run.unusable else leaf for at, leaf in enumerate(leaves)]
        if tree.kinds is not None:
            asked = [leaf if leaf and codec.kind_of(leaf) in tree.kinds else b"" for leaf in asked]
        try:
            openings = source.openings(n, asked)
        except (VerificationError, CorruptionError) as error:
            run.add_fault(start, f"openings of the entries from here: {error}")
            run.has_openings = True
            continue
        if openings is not None:
            run.has_openings = True
            for index, (leaf, opening) in enumerate(zip(asked, openings, strict=True), start):
                if leaf and opening is not None:
                    _verify_opening(run, index, leaf, opening, tree.origin)
    return run


def _compare_tile(run: CheckedRun, source: LeafSource, tree: TreePoint, n: int, leaves: list[bytes]) -> list[bytes]:
    """Compare the leaves of bundle *n* with the tile over them; return the leaves' hashes, see ``CheckedRun.hashes``.

    If a leaf and its tile differ, the tiles above decide which of the two is damaged. For a damaged or missing leaf the
    tile's hash is returned, so that the tree's root stays right. If the tile's hash is wrong too, so is the computed
    root, and the walker finds that.
    """
    start, size = n * tiles.TILE_WIDTH, merkle.HASH_SIZE
    tile = source.tile(0, n, len(leaves))
    hashes = [merkle.leaf_hash(leaf) if leaf else b"" for leaf in leaves]
    if tile and tile == b"".join(hashes):
        return hashes
    in_tile = split_hashes(tile)[: len(leaves)]
    in_tile += [b""] * (len(leaves) - len(in_tile))
    for at, leaf in enumerate(leaves):
        if not leaf:
            hashes[at] = in_tile[at].ljust(size, b"\0")
            run.unusable.add(start + at)
    if tile == b"".join(hashes):
        return hashes
    if not tile:
        run.add_fault(start, "tile over the entries from here is missing or cannot be read")
        return hashes
    is_tile_damaged = _fits_tree(source, tree, n, b"".join(hashes))
    for at, (computed, found) in enumerate(zip(hashes, in_tile, strict=True)):
        if computed != found:
            damaged = "tile" if is_tile_damaged else "leaf"
            run.add_fault(start + at, f"{damaged} is damaged: leaf and tile do not hash alike")
            if not is_tile_damaged and len(found) == size:
                hashes[at] = found
                run.unusable.add(start + at)
    if len(tile) != size * len(leaves):
        run.add_fault(start, "tile holds more or fewer hashes than the tree has leaves")
    return hashes


def _fits_tree(source: LeafSource, tree: TreePoint, n: int, tile: bytes) -> bool:
    """Return whether the tiles above confirm that *tile* is tile *n* of level 0."""
    at = n % tiles.TILE_WIDTH * merkle.HASH_SIZE
    try:
        if len(tile) == tiles.TILE_WIDTH * merkle.HASH_SIZE:
            ((_, above),) = read_tiles(source, [(1, n // tiles.TILE_WIDTH)], tree.size).items()
            return above[at : at + merkle.HASH_SIZE] == tile_root(tile)
        stored = read_tiles(source, tiles.plan_root(tree.size), tree.size)
        return tiles.root(tree.size, {**stored, (0, n): tile}) == tree.root
    except ConsentdError:
        return False  # The tiles above cannot be read, so they confirm nothing.


def _verify_opening(run: CheckedRun, index: int, leaf: bytes, opening: bytes, origin: str) -> None:
    try:
        event = codec.decode_leaf(leaf)
    except MalformedError:
        return  # The replay reports this leaf as a fault.
    if not isinstance(event, codec.Event):
        return
    try:
        run.signed[index] = verify_opening(event, opening, origin=origin)
    except VerificationError as error:
        run.add_fault(index, str(error))
