"""Write a ledger as files in the layout of C2SP tlog-tiles, which any static host can serve and any program can read.

Every tile is computed from the leaves, so the tiles match the leaves even if the source's tiles are damaged. Each file
is written atomically (temporary file, fsync, rename), the level-0 tile of a bundle last. If that tile exists, so do all
files of this bundle and of earlier bundles, and an interrupted export continues after the bundle. The checkpoint is
written after all bundles, and only then are older partial tiles deleted. So the directory always has a whole ledger.
"""

from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from consentd.audit.checkpoints import read_checkpoint
from consentd.audit.remote import at_checkpoint
from consentd.audit.sources import Location, Source, encode_openings, read_file, statements_path, write_file
from consentd.audit.workers import submit_ahead
from consentd.core import checkpoint, merkle, pruned, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.evidence import ROTATIONS_FILE, format_rotations
from consentd.core.history import RotationProof
from consentd.core.note import MAX_NOTE_SIZE, NoteVerifier, parse_note
from consentd.core.rotation import FollowedKey
from consentd.errors import InvalidError, MalformedError, ProofError, StorageError
from consentd.verify.findings import Progress
from consentd.verify.source import Opening, leaf_hashes, read_leaves, tile_root, width_of

_WIDTH = tiles.TILE_WIDTH
_FULL = _WIDTH * merkle.HASH_SIZE
Bundle = tuple[int, list[bytes], list[bytes], list[Opening] | None]
"""Number, leaves (b"" for a pruned leaf), hashes of the leaves, openings (None: not exported)."""
_AHEAD = 8
"""Bundles fetched ahead, because each fetch may wait for a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The result of an export. *checkpoint* is of the tree that the directory has now.

    Attributes:
        start: number of leaves that the directory had before, in full tiles.
        log_keys: as in ``SignedCheckpoint``.
        files, removed: number of files written, and of partial files of an older checkpoint that were deleted.
    """

    checkpoint: Checkpoint
    start: int
    files: int
    removed: int
    log_keys: tuple[FollowedKey, ...] = ()


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
    """Write the ledger at *location*, up to its latest checkpoint, to *directory*. Continue an older export there.

    Args:
        statements: another directory, for openings. A host must not serve this directory, or the openings are public.
        threads: how many threads fetch bundles, at least 1; more than 1 helps over a network.

    Raises:
        StorageError: the source or the disk fails.
        VerificationError: the log did not sign the checkpoint or the leaves, or the ledger does not begin with the
            ledger in the directory.
        InvalidError: the source has no openings, or *statements* is inside *directory*, which is served.
    """
    if statements is not None and statements.resolve().is_relative_to(directory.resolve()):
        raise InvalidError("openings need a directory outside the exported one, which is served to others")
    with ExitStack() as stack:
        sources = [stack.enter_context(closing(location.open())) for _ in range(threads)]
        older = _read_older(directory, origin, log_verifier)
        at_least = 0 if older is None else older.size
        signed = read_checkpoint(sources[0], origin=origin, log_verifier=log_verifier, at_least=at_least)
        note, point = signed.note, signed.point
        if older is not None and older.size == point.size and older.root != point.root:
            raise ProofError(f"ledger is not the one that was exported, at size {point.size}")
        sources = [at_checkpoint(source, point) for source in sources]
        source = sources[0]
        work = _Work(directory, statements, point)
        start = work.edge.size
        bundles = range(start // _WIDTH, -(-point.size // _WIDTH))
        found = source.pruned()
        if found != pruned.NOTHING:
            # This file is written first, so that no reader of the directory expects the files of pruned bundles.
            work.write(directory / pruned.FILE, pruned.format_pruned(found))
        fetched = _fetch(sources, point, bundles, stack, with_openings=statements is not None)
        for n, leaves, hashes, openings in fetched:
            work.put(n, leaves, hashes, openings)
            if progress is not None:
                progress(work.edge.size, point.size)
        if work.edge.root() != point.root:
            raise ProofError(f"leaves do not hash to the root that the log signed at size {point.size}")
        if source.pruned() != found:
            raise StorageError("ledger was pruned during the export; export again")
        steps = source.rotations()
        kept = tuple(one for one in steps if _size_of(one) < point.size)
        if kept:
            # Written before the checkpoint that an earlier log key did not sign, so that every reader can follow.
            work.write(directory / ROTATIONS_FILE, format_rotations(kept))
        work.write(directory / "checkpoint", note)
        return ExportReport(
            checkpoint=point, start=start, files=work.files, removed=work.remove_partials(), log_keys=signed.log_keys
        )


def _size_of(step: RotationProof) -> int:
    return checkpoint.parse_checkpoint(parse_note(step.checkpoint).text).size


def _read_older(directory: Path, origin: str, log_verifier: NoteVerifier) -> Checkpoint | None:
    """Return the checkpoint of the older export in *directory*; None if there is none.

    A larger ledger is compared at the end: the root over the exported full tiles and the new leaves must be right.
    """
    if not (directory / "checkpoint").exists():
        return None
    note = read_file(directory / "checkpoint", MAX_NOTE_SIZE)
    return checkpoint.open_own(note, origin, log_verifier)


def _fetch(
    sources: list[Source], point: Checkpoint, bundles: range, stack: ExitStack, *, with_openings: bool
) -> Iterator[Bundle]:
    """Yield bundles in order. One thread for each source reads bundles ahead; closing *stack* ends the threads."""
    idle: SimpleQueue[Source] = SimpleQueue()
    for source in sources:
        idle.put(source)

    def read(n: int) -> Bundle:
        one = idle.get()
        try:
            leaves = read_leaves(one, n, width_of(n, point.size))
            openings = one.openings(n, leaves) if with_openings else None
            if with_openings and openings is None:
                raise InvalidError("source has no openings to export")
            return n, leaves, leaf_hashes(one, n, leaves), openings
        finally:
            idle.put(one)

    pool = ThreadPoolExecutor(len(sources))
    stack.callback(pool.shutdown, cancel_futures=True)
    return (done.result() for done in submit_ahead((pool.submit(read, n) for n in bundles), _AHEAD))


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
        # INVARIANT: the level-0 tile is written last. If that tile exists, so do the tiles above that it completes.
        for (level, number), row in sorted(changed.items(), reverse=True):
            if len(row) == _FULL or is_last:
                self.write(self._directory / tiles.tile_path(level, number, len(row) // 32), row)

    def write(self, path: Path, content: bytes, *, is_private: bool = False) -> None:
        """Write a file atomically, and count the file."""
        write_file(path, content, is_private=is_private)
        self.files += 1

    def remove_partials(self) -> int:
        """Delete partial tiles and bundles of older checkpoints; return the number of deleted files."""
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
    """Return the right edge of the tree up to the last completely exported bundle, computed from its full tiles."""
    bundles = range(size // _WIDTH)
    size = _WIDTH * bisect_left(bundles, True, key=lambda n: not _is_exported(directory, statements, n))
    stored: dict[tiles.Coordinates, bytes] = {}
    for level, n in tiles.plan_root(size):
        width = min(_WIDTH, (size >> (8 * level)) - n * _WIDTH)
        below = range(n * _WIDTH, n * _WIDTH + width)
        if width == _WIDTH:
            stored[level, n] = read_file(directory / tiles.tile_path(level, n))
        else:
            full = [read_file(directory / tiles.tile_path(level - 1, m)) for m in below]
            stored[level, n] = b"".join(map(tile_root, full))
    return tiles.Edge.from_tiles(size, stored)


def _is_exported(directory: Path, statements: Path | None, n: int) -> bool:
    tile = directory / tiles.tile_path(0, n)
    if not tile.exists() or tile.stat().st_size != _FULL:
        return False
    return statements is None or (statements / statements_path(n, _WIDTH)).exists()
