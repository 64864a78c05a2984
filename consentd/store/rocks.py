"""The store on RocksDB; the only door to ``rocksdict``.

rocksdict knows its errors as text on a bare ``Exception``, so this module translates them, once:
``Corruption:`` becomes ``CorruptionError``, all else ``StorageError``. Three of its ways decide how
the code below reads (0.3.29, each shown by an experiment and held by a test):

* ``items()`` ends early, without a word, at a block whose checksum is wrong. Only the cursor of
  ``iter()`` has a ``status()`` that raises, so scans use that.
* A cursor borrows the bounds of its ``ReadOptions``: dropping those frees memory that the cursor
  still reads. A scan holds both to its end.
* ``set_iterate_lower_bound`` sets the upper bound. Reverse scans compare the lower one themselves.

The order of keys, iteration from one moment, atomic batches and a consistent ``multi_get`` are
RocksDB's own.

**The GIL.** rocksdict keeps it through ``write``, sync included, but not through ``flush_wal``. Where the
disk syncs in 0.1 ms, keeping it is best: a thread that gives it up waits 5 ms and more behind busy
threads to get it back. Where a sync takes milliseconds, keeping it would hold up every check for as
long. So ``open`` times a few empty synced writes: on a quick disk ``write`` syncs in one step, on a slow
one it writes first and then syncs with the GIL released. Both return only once the batch is on disk.
"""

import fcntl
import logging
import os
import statistics
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import rocksdict

from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.store import Batch, Delete, Put

log = logging.getLogger(__name__)

DEFAULT_BLOCK_CACHE_MB = 256
WRITE_BUFFER_MB = 64
"""Size at which the memory table is written out; three may exist. Bounds memory, and the log replayed at a start."""

QUICK_SYNC_S = 0.0003
"""Longest sync during which the GIL is kept: 200 commits a second then hold up other threads 6 % of the time."""

# INVARIANT: holds the real paths this process has open for writing; see _is_locked.
_open_here: set[str] = set()


class RocksStore:
    """A ``Store`` in one RocksDB directory. Made by ``open`` or ``open_read_only``.

    Reads are safe from any thread. ``write`` belongs to one thread, the sequencer's.
    """

    __slots__ = ("_db", "_failed", "_path", "_read_only", "_sync", "_sync_apart")

    def __init__(self, db: rocksdict.Rdict, path: Path, *, read_only: bool, sync_apart: bool) -> None:
        self._db = db
        self._path = path
        self._read_only = read_only
        self._failed = False  # Owned by the writer; never reset.
        self._sync_apart = sync_apart
        self._sync = rocksdict.WriteOptions()
        self._sync.sync = not sync_apart

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        block_cache_mb: int = DEFAULT_BLOCK_CACHE_MB,
        sync_apart: bool | None = None,
    ) -> Self:
        """Open the store in directory *path* for reading and writing, as its only process.

        Args:
            path: the directory.
            create: make it where it is absent.
            block_cache_mb: memory for blocks, filters and indexes.
            sync_apart: sync in a step of its own, without the GIL; None: as the disk's speed suggests.

        Raises:
            StorageError: another process has it open; it is absent and *create* is false; the disk fails.
            CorruptionError: its files contradict each other.
        """
        if create:
            _make_directory(path)
        else:
            _require_store(path)
        try:
            db = rocksdict.Rdict(str(path), **_opening(block_cache_mb))
            if sync_apart is None:
                sync_apart = _sync_seconds(db) > QUICK_SYNC_S
        except Exception as error:
            raise _translated(error, path) from error
        _open_here.add(os.path.realpath(path))
        return cls(db, path, read_only=False, sync_apart=sync_apart)

    @classmethod
    def open_read_only(
        cls, path: Path, *, block_cache_mb: int = DEFAULT_BLOCK_CACHE_MB, whole_log: bool = False
    ) -> Self:
        """Open the store in *path* for reading, where no process has it open.

        RocksDB takes no lock for this, and would even read beside a running writer; but then files may
        vanish under the reader, and an audit would see a moment that nobody can name. So a store in use
        is refused: stop the daemon, or audit a ``copy``.

        Args:
            path: the directory.
            block_cache_mb: memory for blocks, filters and indexes.
            whole_log: refuse a log with a damaged record too, where otherwise it is read up to there.

        Raises:
            StorageError: a process has it open; it is absent; the disk fails.
            CorruptionError: its files contradict each other.
        """
        _require_store(path)
        if _is_locked(path):
            raise StorageError(f"store is open in another process: stop it, or read a copy: `{path}`")
        try:
            access = rocksdict.AccessType.read_only()
            opening = _opening(block_cache_mb)
            if whole_log:
                opening["options"].set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
            db = rocksdict.Rdict(str(path), access_type=access, **opening)
        except Exception as error:
            raise _translated(error, path) from error
        return cls(db, path, read_only=True, sync_apart=False)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of *key*, or None. One point read: 1.3 µs from the cache."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise _translated(error, self._path) from error
        return value

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, all from one moment. About 1 µs a key."""
        try:
            values = self._db.get(list(keys))
        except Exception as error:
            raise _translated(error, self._path) from error
        return cast("list[bytes | None]", values)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs in [*start*, *end*), by key; see ``Store.scan``. About 2 µs, and 0.3 µs a pair."""
        options = rocksdict.ReadOptions()
        if end is not None:
            # Not only to stop there: without it RocksDB would walk through whatever deleted rows follow.
            options.set_iterate_upper_bound(end)
        try:
            cursor = self._db.iter(options)
        except Exception as error:
            raise _translated(error, self._path) from error
        return self._pairs(cursor, options, start, reverse=reverse, limit=limit)

    def _pairs(
        self,
        cursor: rocksdict.RdictIter,
        options: rocksdict.ReadOptions,  # INVARIANT: lives as long as the cursor, which points into it.
        start: bytes,
        *,
        reverse: bool,
        limit: int | None,
    ) -> Iterator[tuple[bytes, bytes]]:
        left = -1 if limit is None else limit
        try:
            if reverse:
                cursor.seek_to_last()  # of those below the upper bound
            else:
                cursor.seek(start)
            while left and cursor.valid():
                key: bytes = cursor.key()
                if reverse and key < start:
                    return
                yield key, cursor.value()
                left -= 1
                if reverse:
                    cursor.prev()
                else:
                    cursor.next()
            cursor.status()
        except Exception as error:
            raise _translated(error, self._path) from error

    def write(self, batch: Batch) -> None:
        """Apply *batch* atomically, and return once it is synced to disk. About 0.6 ms for 500 rows.

        Raises:
            StorageError: it failed; whether the batch is on disk is unknown, and no later write is accepted.
        """
        assert not self._read_only, "a store opened read-only was written"
        if self._failed:
            raise StorageError("store refuses writes since one failed: open it again to find out what it holds")
        rows = rocksdict.WriteBatch(raw_mode=True)
        for operation in batch.operations:
            if isinstance(operation, Put):
                rows.put(operation.key, operation.value)
            elif isinstance(operation, Delete):
                rows.delete(operation.key)
            else:
                rows.delete_range(operation.start, operation.end)
        try:
            self._db.write(rows, self._sync)
            if self._sync_apart:
                # A reader may see the batch before it is durable. Nobody is told of it before this returns, and what
                # the ledger shows is bounded by its state, which moves on after that.
                self._db.flush_wal(sync=True)
        except Exception as error:
            self._failed = True
            told = _translated(error, self._path, doing="write failed, its outcome is unknown")
            # Said here, since callers may be many or none, and the store stays so until it is opened again.
            log.critical("store takes no more writes: %s; see ops/RUNBOOK.md, `disk full`", told)
            raise told from error

    def copy(self, path: Path) -> None:
        """Write a consistent copy to the new directory *path* while the store is in use.

        Files of sorted rows are hard links where *path* is on the same file system, so this takes
        milliseconds and little space; move the copy elsewhere to make a backup of it.
        """
        try:
            rocksdict.Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            raise _translated(error, path) from error

    def compact_range(self, start: bytes, end: bytes | None) -> None:
        """Rewrite [*start*, *end*), so that no deleted bytes of it remain in tables or log."""
        force = rocksdict.CompactOptions()
        # The default skips files of the lowest level, which is where old rows lie.
        force.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
        try:
            # Write out the memory table: it retires the log, which holds the deleted bytes too.
            self._db.flush()
            self._db.compact_range(start, end, force)
        except Exception as error:
            raise _translated(error, self._path) from error

    def approximate_size(self) -> int:
        """Return the bytes of the sorted files and of the memory tables."""
        try:
            return sum(
                self._db.property_int_value(name) or 0
                for name in ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
            )
        except Exception as error:
            raise _translated(error, self._path) from error

    def close(self) -> None:
        """Release the store and its lock; a second call does nothing.

        The lock stays until scans that were not run to their end are dropped.
        """
        if not self._read_only:
            _open_here.discard(os.path.realpath(self._path))
        try:
            self._db.close()
        except rocksdict.DbClosedError:
            return
        except Exception as error:
            if self._failed:
                return  # RocksDB repeats the error of the failed write, which was raised when it happened.
            raise _translated(error, self._path) from error


def _opening(block_cache_mb: int) -> dict[str, Any]:
    """Return how a store is opened. Options given for the whole store reach its rows only when it is made; at every
    later open rocksdict takes those it finds in the files, with an 8 MiB cache, unless they are given for the column
    family by name."""
    options = _options(block_cache_mb)
    return {"options": options, "column_families": {"default": options}}


def _options(block_cache_mb: int) -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(block_cache_mb << 20))
    # Most point reads are of absent keys (a new tag, a fresh request_id): a filter answers them in 0.25 µs.
    table.set_bloom_filter(10, block_based=False)
    # Index and filter blocks in the cache: then the cache's size bounds the memory, whatever the ledger's size.
    table.set_cache_index_and_filter_blocks(True)
    # In parts, with the upper part pinned: a file's whole index is 1 MiB, and one that does not stay in the cache costs
    # 0.25 ms at every read.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)

    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    # Hashes and ciphertexts do not compress; keys, indexes and clear statements do.
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_write_buffer_size(WRITE_BUFFER_MB << 20)
    options.set_max_write_buffer_number(3)
    options.set_max_total_wal_size(2 * WRITE_BUFFER_MB << 20)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 << 20)  # spreads the write-out of big files: a synced batch must not wait for one
    options.set_max_open_files(512)
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 << 20)
    options.set_stats_dump_period_sec(0)
    # Not "tolerate_corrupted_tail": a power cut may leave the last, never acknowledged record in any state, and the
    # store must open. A log that is damaged in its middle is read up to there, and what follows is deleted when the
    # store is opened for writing: so a daemon looks first whether all is there that must be (server/looking.py).
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    return options


def _sync_seconds(db: rocksdict.Rdict) -> float:
    """Return how long a synced write of nothing takes: the median of five."""
    synced = rocksdict.WriteOptions()
    synced.sync = True
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        db.write(rocksdict.WriteBatch(raw_mode=True), synced)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"store directory cannot be made: `{path}`: {error.strerror}") from error


def _require_store(path: Path) -> None:
    # Looked at before RocksDB does, which makes the directory even where it then finds nothing in it.
    if not (path / "CURRENT").is_file():
        raise StorageError(f"store not found: `{path}`")


def _is_locked(path: Path) -> bool:
    """Say whether a process holds RocksDB's lock on *path*, this one included."""
    # INVARIANT: the lock file of a store that this process has open is never opened here: POSIX locks belong to the
    # process, and closing any descriptor of the file would drop RocksDB's lock.
    if os.path.realpath(path) in _open_here:
        return True
    try:
        lock_file = (path / "LOCK").open("rb")
    except OSError:
        return False  # never opened for writing, or moved here without it
    with lock_file:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(lock_file.fileno(), fcntl.F_GETLK, asked)
    lock_type: int = struct.unpack("hhqqi4x", answer)[0]
    return lock_type != fcntl.F_UNLCK


def _translated(error: Exception, path: Path, *, doing: str = "store failed") -> ConsentdError:
    assert not isinstance(error, KeyError | TypeError), f"not bytes: {error}"
    text = str(error)
    if "orruption" in text or "checksum mismatch" in text:
        return CorruptionError(f"store is corrupt: `{path}`: {text}")
    if "lock hold by current process" in text or "While lock file" in text:
        return StorageError(f"store is locked: another process, or this one, has it open: `{path}`")
    if isinstance(error, rocksdict.DbClosedError):
        return StorageError("store is closed")
    return StorageError(f"{doing}: `{path}`: {text}")
