"""Write a ledger as files, in the layout of C2SP tlog-tiles: any static host can serve it, any program can read it.

Only bundles are read; leaves are hashed here, and every tile is computed from them, so that what is written is a tree
before the checkpoint says so. Bundle by bundle, each file at once (written beside, synced, renamed), the level-0 tile
last: where that lies, all before it does, and an interrupted export goes on behind it. The checkpoint comes last of
all; then the partial tiles of the older one go. So the directory is, at any moment, a whole ledger at its checkpoint.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from consentd.audit.sources import Place, Source, encode_openings, read_file, statements_path, write_file
from consentd.core import checkpoint, merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier
from consentd.errors import InvalidError, MalformedError, ProofError, StorageError
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, read_leaves, width_of

_WIDTH = tiles.TILE_WIDTH
_FULL = _WIDTH * merkle.HASH_SIZE
Bundle = tuple[int, list[bytes], list[bytes], list[Opening] | None]
"""Number, leaves (empty where pruned), their hashes, openings."""
_AHEAD = 8
"""Bundles fetched ahead where fetching waits for a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did.

    Attributes:
        checkpoint: what the directory now holds.
        start: leaves that lay there already in full tiles.
        files: written; ``removed``: partial ones of an older checkpoint.
    """

    checkpoint: Checkpoint
    start: int
    files: int
    removed: int


def export(
    place: Place,
    directory: Path,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    statements: Path | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Exported:
    """Write the ledger at *place*, up to its latest checkpoint, into *directory*; only what is not there yet.

    Args:
        statements: write openings here too, another directory: who serves it publishes them.
        threads: how many fetch bundles; more than 1 where a network is in between.

    Raises:
        StorageError: the place or the disk fails.
        VerificationError: the checkpoint is not this log's, or the leaves are not what it signed, or the ledger does
            not begin with what the directory holds.
        InvalidError: the place has no openings, or they would lie among what is served.
    """
    if statements is not None and statements.resolve().is_relative_to(directory.resolve()):
        raise InvalidError("openings go into a directory of their own, for who serves the other one publishes them")
    source = place.open()
    try:
        note = source.checkpoint()
        point, _ = checkpoint.open_checkpoint(note, origin, log_verifier)
        if (directory / "checkpoint").exists():
            _compare_older(directory, point, origin, log_verifier)
        work = _Work(directory, statements, point)
        bundles = range(work.edge.size // _WIDTH, -(-point.size // _WIDTH))
        start = work.edge.size
        found = source.pruned()
        if found != pruned.NOTHING:
            # First of all, so that no reader of the directory looks for what is not going to be there.
            work.write(directory / pruned.FILE, pruned.format_pruned(found))
        for n, leaves, hashes, openings in _fetch(place, source, point, bundles, threads, statements is not None):
            work.put(n, leaves, hashes, openings)
            if progress is not None:
                progress(work.edge.size, point.size)
        if work.edge.root() != point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        if source.pruned() != found:
            raise StorageError("ledger was pruned meanwhile; export again")
        work.write(directory / "checkpoint", note)
        return Exported(checkpoint=point, start=start, files=work.files, removed=work.remove_partials())
    finally:
        source.close()


def _compare_older(directory: Path, point: Checkpoint, origin: str, log_verifier: NoteVerifier) -> None:
    """Refuse a ledger that is smaller than the one exported before. That it begins with it shows at the end: full
    tiles are kept, and the root must come out."""
    note = read_file(directory / "checkpoint", MAX_NOTE_SIZE)
    older, _ = checkpoint.open_checkpoint(note, origin, log_verifier)
    if older.size > point.size:
        raise ProofError(f"ledger is smaller than what was exported: `{point.size}` and `{older.size}`")
    if older.size == point.size and older.root != point.root:
        raise ProofError(f"ledger is another than what was exported, at size {point.size}")


def _fetch(
    place: Place, source: Source, point: Checkpoint, bundles: range, threads: int, with_openings: bool
) -> Iterator[Bundle]:
    """Yield bundles in order; where several threads fetch, each with a source of its own."""

    def read(one: Source, n: int) -> Bundle:
        leaves = read_leaves(one, n, width_of(n, point.size))
        openings = one.openings(n, leaves) if with_openings else None
        if with_openings and openings is None:
            raise InvalidError("place has no openings to export")
        return n, leaves, leaf_hashes(one, n, leaves), openings

    if threads <= 1:
        for n in bundles:
            yield read(source, n)
        return
    own = local()
    opened: list[Source] = []

    def read_by_thread(n: int) -> Bundle:
        if not hasattr(own, "source"):
            own.source = place.open()
            opened.append(own.source)
        return read(own.source, n)

    ahead: deque[Future[Bundle]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for n in bundles:
                ahead.append(pool.submit(read_by_thread, n))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            for one in opened:
                one.close()


class _Work:
    """One export under way. Owned by one thread."""

    def __init__(self, directory: Path, statements: Path | None, point: Checkpoint) -> None:
        self._directory, self._statements, self._point = directory, statements, point
        self.files = 0
        self.edge = _resume(directory, statements, point.size)

    def put(self, n: int, leaves: list[bytes], hashes: list[bytes], openings: list[Opening] | None) -> None:
        """Write bundle *n* and the tiles that it completes; of the last one, the partial ones too."""
        self.edge, changed = self.edge.append(hashes)
        is_last = self.edge.size == self._point.size
        if openings is not None:
            assert self._statements is not None
            path = self._statements / statements_path(n, len(leaves))
            self.write(path, encode_openings(openings), is_private=True)
        name = tiles.entries_path(n, len(leaves)) if all(leaves) else tiles.kept_path(n)
        self.write(self._directory / name, tiles.encode_bundle(leaves))
        if is_last:
            # Every level's partial tile, whether this bundle changed it or not.
            for level, row in enumerate(self.edge.rows):
                if row:
                    place = (level, self.edge.size >> (8 * level) >> 8)
                    changed[place] = row
        # INVARIANT: the level-0 tile comes last; where it lies, the tiles above it that it completes do.
        for (level, number), row in sorted(changed.items(), reverse=True):
            if len(row) == _FULL or is_last:
                self.write(self._directory / tiles.tile_path(level, number, len(row) // 32), row)

    def write(self, path: Path, content: bytes, *, is_private: bool = False) -> None:
        """Write a file at once: whoever reads finds the old one or the new one."""
        write_file(path, content, is_private=is_private)
        self.files += 1

    def remove_partials(self) -> int:
        """Remove partial tiles and bundles of older checkpoints; returns how many."""
        removed = 0
        for root in (self._directory / "tile", self._statements):
            if root is None or not root.exists():
                continue
            for path in root.rglob("*.p/*"):
                name = path.relative_to(root.parent if root.name == "tile" else root).as_posix()
                if not self._is_current(name):
                    path.unlink()
                    removed += 1
                    if not any(path.parent.iterdir()):
                        path.parent.rmdir()
        return removed

    def _is_current(self, name: str) -> bool:
        named = name if name.startswith("tile/") else "tile/entries" + name.removeprefix("statements")
        try:
            level, n, width = tiles.parse_tile_path(named)
        except MalformedError:
            return False
        hashes = self._point.size >> (8 * max(level, 0))
        return (n, width) == divmod(hashes, _WIDTH)


def _resume(directory: Path, statements: Path | None, size: int) -> tiles.Edge:
    """Return the edge behind the last bundle that lies there whole.

    Raises:
        StorageError, ProofError: a tile that should lie there does not.
    """
    low, high = 0, size // _WIDTH
    while low < high:
        middle = (low + high) // 2
        if _lies(directory, statements, middle):
            low = middle + 1
        else:
            high = middle
    return _edge(directory, low)


def _lies(directory: Path, statements: Path | None, n: int) -> bool:
    tile = directory / tiles.tile_path(0, n)
    if not tile.exists() or tile.stat().st_size != _FULL:
        return False
    return statements is None or (statements / statements_path(n, _WIDTH)).exists()


def _edge(directory: Path, bundles: int) -> tiles.Edge:
    """Return the edge of the first *bundles* full bundles: rows above level 0 follow from the full tiles below."""
    size = bundles * _WIDTH
    if size == 0:
        return tiles.Edge()
    stored: dict[tiles.Coordinates, bytes] = {}
    for level, n in tiles.plan_edge(size):
        width = min(_WIDTH, (size >> (8 * level)) - n * _WIDTH)
        below = range(n * _WIDTH, n * _WIDTH + width)
        if width == _WIDTH:
            stored[level, n] = read_file(directory / tiles.tile_path(level, n))
        else:
            full = [read_file(directory / tiles.tile_path(level - 1, m)) for m in below]
            stored[level, n] = b"".join(map(_tile_root, full))
    return tiles.Edge.from_tiles(size, stored)


def _tile_root(row: bytes) -> bytes:
    return tiles.Edge().append([row[at : at + 32] for at in range(0, len(row), 32)])[0].root()
