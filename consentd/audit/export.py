"""Write a ledger as files in the layout of C2SP tlog-tiles. Any static host can serve them, any program can read them.

Leaves are read, and every tile is computed from them, so the files are a tree whatever the source has. For each bundle,
each file is written at once (temporary file, fsync, rename) and the level-0 tile last: if that exists, so does all
before it, and an interrupted export continues after it. The checkpoint is written last of all; then the partial tiles
of the older checkpoint are deleted. So the directory always is a whole ledger at its checkpoint.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from consentd.audit.sources import Location, Source, encode_openings, read_file, statements_path, write_file
from consentd.core import checkpoint, merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier
from consentd.errors import InvalidError, MalformedError, ProofError, StorageError
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, read_leaves, tile_root, width_of

_WIDTH = tiles.TILE_WIDTH
_FULL = _WIDTH * merkle.HASH_SIZE
Bundle = tuple[int, list[bytes], list[bytes], list[Opening] | None]
"""Number, leaves (b"" for pruned ones), their hashes, openings."""
_AHEAD = 8
"""Bundles fetched ahead by several threads, because each fetch waits for a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The result of an export.

    Attributes:
        checkpoint: whose tree the directory has now.
        start: leaves that the directory had before, in full tiles.
        files: number of files written.
        removed: number of partial files of an older checkpoint that were deleted.
    """

    checkpoint: Checkpoint
    start: int
    files: int
    removed: int


def export(
    location: Location,
    directory: Path,
    *,
    origin: str,
    log_verifier: NoteVerifier,
    statements: Path | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the ledger at *location*, up to its latest checkpoint, into *directory*, except what is there already.

    Args:
        statements: another directory, for openings. Never serve it, or the openings are public.
        threads: how many threads fetch bundles; more than 1 helps over a network.

    Raises:
        StorageError: the source or the disk fails.
        VerificationError: the checkpoint is not this log's, or the leaves are not what it signed, or the ledger does
            not begin with the one in the directory.
        InvalidError: the source has no openings, or *statements* is inside *directory*, which is served.
    """
    if statements is not None and statements.resolve().is_relative_to(directory.resolve()):
        raise InvalidError("openings need a directory outside the exported one, which is served to others")
    source = location.open()
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
            # Written first, so that no reader of the directory expects files that will not be there.
            work.write(directory / pruned.FILE, pruned.format_pruned(found))
        for n, leaves, hashes, openings in _fetch(location, source, point, bundles, threads, statements is not None):
            work.put(n, leaves, hashes, openings)
            if progress is not None:
                progress(work.edge.size, point.size)
        if work.edge.root() != point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        if source.pruned() != found:
            raise StorageError("ledger was pruned during the export; export again")
        work.write(directory / "checkpoint", note)
        return ExportReport(checkpoint=point, start=start, files=work.files, removed=work.remove_partials())
    finally:
        source.close()


def _compare_older(directory: Path, point: Checkpoint, origin: str, log_verifier: NoteVerifier) -> None:
    """Refuse a ledger that is smaller than the one exported before.

    Whether it begins with that one shows at the end: the full tiles of that one are used, and the root must be right.
    """
    note = read_file(directory / "checkpoint", MAX_NOTE_SIZE)
    older, _ = checkpoint.open_checkpoint(note, origin, log_verifier)
    if older.size > point.size:
        raise ProofError(f"ledger is smaller than what was exported: `{point.size}` and `{older.size}`")
    if older.size == point.size and older.root != point.root:
        raise ProofError(f"ledger is not the one that was exported, at size {point.size}")


def _fetch(
    location: Location, source: Source, point: Checkpoint, bundles: range, threads: int, with_openings: bool
) -> Iterator[Bundle]:
    """Yield bundles in order. If several threads fetch, each has a source of its own."""

    def read(one: Source, n: int) -> Bundle:
        leaves = read_leaves(one, n, width_of(n, point.size))
        openings = one.openings(n, leaves) if with_openings else None
        if with_openings and openings is None:
            raise InvalidError("source has no openings to export")
        return n, leaves, leaf_hashes(one, n, leaves), openings

    if threads <= 1:
        for n in bundles:
            yield read(source, n)
        return
    own = local()
    opened: list[Source] = []

    def read_by_thread(n: int) -> Bundle:
        if not hasattr(own, "source"):
            own.source = location.open()
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
    """One export. One thread owns it."""

    def __init__(self, directory: Path, statements: Path | None, point: Checkpoint) -> None:
        self._directory, self._statements, self._point = directory, statements, point
        self.files = 0
        self.edge = _resume(directory, statements, point.size)

    def put(self, n: int, leaves: list[bytes], hashes: list[bytes], openings: list[Opening] | None) -> None:
        """Write bundle *n* and the tiles that it completes; with the last bundle, the partial tiles too."""
        self.edge, changed = self.edge.append(hashes)
        is_last = self.edge.size == self._point.size
        if openings is not None:
            assert self._statements is not None
            path = self._statements / statements_path(n, len(leaves))
            self.write(path, encode_openings(openings), is_private=True)
        name = tiles.entries_path(n, len(leaves)) if all(leaves) else tiles.kept_path(n)
        self.write(self._directory / name, tiles.encode_bundle(leaves))
        if is_last:
            # The partial tiles of all levels, also of those that this bundle did not change.
            for level, row in enumerate(self.edge.rows):
                if row:
                    changed[level, self.edge.size >> (8 * level) >> 8] = row
        # INVARIANT: the level-0 tile is written last. If it exists, so do the tiles above that it completes.
        for (level, number), row in sorted(changed.items(), reverse=True):
            if len(row) == _FULL or is_last:
                self.write(self._directory / tiles.tile_path(level, number, len(row) // 32), row)

    def write(self, path: Path, content: bytes, *, is_private: bool = False) -> None:
        """Write a file at once, and count it."""
        write_file(path, content, is_private=is_private)
        self.files += 1

    def remove_partials(self) -> int:
        """Delete partial tiles and bundles of older checkpoints; return how many."""
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
    """Return the tree's edge after the last bundle that was exported completely.

    Raises:
        StorageError, ProofError: a tile that should exist does not.
    """
    low, high = 0, size // _WIDTH
    while low < high:
        middle = (low + high) // 2
        if _is_exported(directory, statements, middle):
            low = middle + 1
        else:
            high = middle
    return _edge(directory, low)


def _is_exported(directory: Path, statements: Path | None, n: int) -> bool:
    tile = directory / tiles.tile_path(0, n)
    if not tile.exists() or tile.stat().st_size != _FULL:
        return False
    return statements is None or (statements / statements_path(n, _WIDTH)).exists()


def _edge(directory: Path, bundles: int) -> tiles.Edge:
    """Return the edge of the first *bundles* full bundles. Partial rows are computed from the full tiles below."""
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
            stored[level, n] = b"".join(map(tile_root, full))
    return tiles.Edge.from_tiles(size, stored)
