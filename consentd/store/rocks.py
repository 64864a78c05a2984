"""The store on RocksDB; no other module imports ``rocksdict``.

rocksdict raises a bare ``Exception`` with a text. This module translates these errors: ``Corruption:`` becomes
``CorruptionError``, everything else ``StorageError``. Three peculiarities of rocksdict 0.3.29 shape the code below; a
test shows each of them:

* ``items()`` ends silently at a block whose checksum is wrong. Only the cursor of ``iter()`` has a ``status()`` that
  raises, so scans use the cursor.
* A cursor points into its ``ReadOptions``. So a scan keeps both until its end; else the cursor would read freed memory.
* Because of a bug, ``set_iterate_lower_bound`` sets the upper bound. So reverse scans compare each key with *start*.

**The GIL.** rocksdict holds the GIL during ``write``, even during its sync, but not during ``flush_wal``. On a disk
that syncs in 0.1 ms, holding the GIL is better: a thread that releases the GIL waits 5 ms or more until busy threads
give it back. On a disk that needs milliseconds, holding the GIL would delay every running consent check by that time.
So ``open`` measures a few empty synced writes. On a quick disk ``write`` writes and syncs in one step. On a slow disk
``write`` first writes, then syncs without the GIL. A quick disk may be slow for a while, when other programs write. So
a slow write makes the next ones sync without the GIL. In all cases the batch is on disk when ``write`` returns.
"""

import logging
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import rocksdict

from consentd import descriptors, files
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.store import Batch, Delete, Put, Store
from consentd.store.wal import check_logs

log = logging.getLogger(__name__)

DEFAULT_BLOCK_CACHE_MB = 256
FILE_MB = 4
"""Size of a sorted file. To remove a row, RocksDB rewrites on each level the file that has it, and those of the level
below that have keys in between the first and the last one of that file. So an erasure takes less time with small files,
and a large store takes fewer entries in the MANIFEST with large ones."""
_OVERLAP = 2
"""A file ends before it overlaps more than so many files of the level below. By default it could overlap 25."""
FIRST_LEVEL_MB = 16
"""Most that the first sorted level has. What was just written has keys of the whole range. So to move it down rewrites
all of this level."""
WRITE_BUFFER_MB = 64
"""Size at which a memory table is written to a file. Limits memory (three tables), and the log read at a start."""

QUICK_SYNC_S = 0.0003
"""Longest sync during which the GIL is held. At 200 commits a second, other threads then wait 6 % of the time."""

SLOW_WRITE_S, APART = 0.005, 256
"""After a write that held the GIL for longer than the first, as many writes as the second sync without it. The write
after them holds the GIL again, to measure the disk."""


_FILES = ("*.sst", "*.log", "MANIFEST-*")
"""Files that have rows, or keys of rows."""
_NO_ROW = b"\xff"
"""A key that no store has."""


class RocksStore(Store):
    """A ``Store`` in one RocksDB directory. Made by ``open`` or ``open_read_only``.

    Any thread may read. Only one thread may call ``write``: the sequencer's.
    """

    __slots__ = (
        "_apart_left", "_db", "_failed", "_lock", "_old_files", "_path", "_read_only", "_sync", "_sync_apart",
    )  # fmt: skip

    def __init__(self, db: rocksdict.Rdict, path: Path, *, lock: int | None, sync_apart: bool) -> None:
        self._db = db
        self._path = path
        self._read_only = lock is None
        self._lock = lock  # the descriptor that locks the directory; None: the store is open read-only, or closed
        self._failed = False  # set by the writing thread, and never reset
        self._sync_apart = sync_apart
        self._apart_left = 0  # how many of the next writes sync apart on a quick disk
        self._sync = rocksdict.WriteOptions()
        self._sync.sync = True
        # Files that were there before a compaction, until they are seen to be deleted. Several threads may compact.
        self._old_files: set[str] = set()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = True,
        block_cache_mb: int = DEFAULT_BLOCK_CACHE_MB,
        file_mb: int = FILE_MB,
        sync_apart: bool | None = None,
    ) -> Self:
        """Open the store in directory *path* for reading and writing. No other process may have it open.

        RocksDB locks a file in the directory. If somebody deletes that file, a second process could open the store, and
        would delete the log that the first one writes. So the directory itself is locked too, before all else.

        Args:
            create: create the store if it is missing.
            block_cache_mb: memory for blocks, filters and indexes.
            file_mb: size of the sorted files that are written from now on.
            sync_apart: sync in a step of its own, without the GIL; None: only if the disk is slow.

        Raises:
            StorageError: another process has the store open; it is missing and *create* is false; or the disk fails.
            CorruptionError: the store's files contradict each other.
        """
        if create:
            _make_directory(path)
        else:
            _require_store(path)
        lock = files.lock_directory(path)
        try:
            check_logs(path)
            db = rocksdict.Rdict(str(path), **_open_arguments(block_cache_mb, file_mb))
            if sync_apart is None:
                sync_apart = _sync_seconds(db) > QUICK_SYNC_S
        except ConsentdError:
            os.close(lock)
            raise
        except Exception as error:
            os.close(lock)
            raise _translated(error, path) from error
        return cls(db, path, lock=lock, sync_apart=sync_apart)

    @classmethod
    def open_read_only(
        cls, path: Path, *, block_cache_mb: int = DEFAULT_BLOCK_CACHE_MB, whole_log: bool = False
    ) -> Self:
        """Open the store in *path* for reading. No process may have it open.

        RocksDB takes no lock for reading, and would read while another process writes. But that process may delete
        files during the read, and nobody could say which of its writes were read. So a store in use is refused: stop
        the daemon, or read a copy from a snapshot of the file system.

        Args:
            block_cache_mb: memory for blocks, filters and indexes.
            whole_log: refuse a log with a damaged record. Otherwise the log is read up to the damaged record.

        Raises:
            StorageError: a process has the store open; the store is missing; or the disk fails.
            CorruptionError: the store's files contradict each other.
        """
        _require_store(path)
        os.close(files.lock_directory(path, is_shared=True))
        check_logs(path)
        try:
            access = rocksdict.AccessType.read_only()
            arguments = _open_arguments(block_cache_mb)
            if whole_log:
                arguments["options"].set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
            db = rocksdict.Rdict(str(path), access_type=access, **arguments)
        except Exception as error:
            raise _translated(error, path) from error
        return cls(db, path, lock=None, sync_apart=False)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of *key*, or None. A read from the cache takes 1.3 µs."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise _translated(error, self._path) from error
        return value

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, all as of one moment. Takes about 1 µs a key."""
        try:
            values = self._db.get(list(keys))
        except Exception as error:
            raise _translated(error, self._path) from error
        return cast("list[bytes | None]", values)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs in [*start*, *end*), by key; see ``Store.scan``. Takes 2 µs, and 0.3 µs for each pair."""
        options = rocksdict.ReadOptions()
        if end is not None:
            # Without this bound, RocksDB would also read the deleted rows that follow *end*.
            options.set_iterate_upper_bound(end)
        try:
            cursor = self._db.iter(options)
        except Exception as error:
            raise _translated(error, self._path) from error
        # INVARIANT: *options* lives as long as the cursor, which points into it.
        return self._pairs(cursor, options, start, reverse, -1 if limit is None else limit)

    def _pairs(
        self, cursor: rocksdict.RdictIter, options: rocksdict.ReadOptions, start: bytes, reverse: bool, left: int
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            if reverse:
                cursor.seek_to_last()  # the last key below the upper bound
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
        """Apply *batch* atomically, and return once it is synced to disk; see ``Store.write``. 500 rows take 0.6 ms."""
        assert not self._read_only, "a store opened read-only was written"
        if self._failed:
            raise StorageError("store refuses writes because one failed: open it again to find out what is stored")
        rows = rocksdict.WriteBatch(raw_mode=True)
        for operation in batch.operations:
            if isinstance(operation, Put):
                rows.put(operation.key, operation.value)
            elif isinstance(operation, Delete):
                rows.delete(operation.key)
            else:
                rows.delete_range(operation.start, operation.end)
        try:
            if self._sync_apart or self._apart_left:
                self._apart_left = max(0, self._apart_left - 1)
                self._db.write(rows)
                # A reader may see rows of the batch before they are durable. That does no harm: the ledger shows only
                # entries up to ``Ledger.state``, which is replaced only after this method has returned.
                self._db.flush_wal(sync=True)
            else:
                began_s = time.perf_counter()
                self._db.write(rows, self._sync)
                if time.perf_counter() - began_s > SLOW_WRITE_S:
                    self._apart_left = APART
        except Exception as error:
            self._failed = True
            failure = _translated(error, self._path, doing="write failed, its outcome is unknown")
            # Logged here, once, because the error may reach many callers or none.
            log.critical("store takes no more writes: %s; see ops/RUNBOOK.md, `disk full`", failure)
            raise failure from error

    def compact_ranges(self, ranges: Sequence[tuple[bytes, bytes | None]]) -> None:
        force = rocksdict.CompactOptions()
        # By default RocksDB skips the files of the lowest level, which have the oldest rows. Those that it has just
        # written here have nothing to remove.
        force.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force_optimized())
        self._old_files.update([path.name for pattern in _FILES for path in self._path.glob(pattern)])
        try:
            # First write the memory table to a file. Then RocksDB deletes the log, which also has the deleted rows.
            self._db.flush()
            for start, end in ranges:
                self._db.compact_range(start, end, force)
            # RocksDB lists the first and last keys of sorted files in the MANIFEST. It writes a new one before it
            # applies a change. So one more change makes a MANIFEST without the old files. It deletes no row.
            self._db.delete(_NO_ROW)
            self._db.flush()
        except Exception as error:
            raise _translated(error, self._path) from error

    def old_files(self) -> list[str]:
        """Return the names of files that still have what ``compact_ranges`` removed, because a scan reads them.

        RocksDB deletes a file when its last reader ends. A log is deleted when all its rows are in sorted files, so
        call this after a write and ``compact_ranges``.
        """
        live = {str(file["name"]).lstrip("/") for file in self._db.live_files()}
        # The last one of each is in use.
        live |= {max((path.name for path in self._path.glob(one)), default="") for one in _FILES[1:]}
        # INVARIANT: a name is dropped only when its file is deleted, and RocksDB never uses a name again. A file in use
        # may become an old one by the compaction of another thread, which noted its name before.
        known = set(self._old_files)
        left = {name for name in known if (self._path / name).exists()}
        self._old_files.difference_update(known - left)
        return sorted(left - live)

    def flush(self) -> None:
        try:
            self._db.flush()
        except Exception as error:
            raise _translated(error, self._path) from error

    def copy_files(self, path: Path) -> None:
        try:
            rocksdict.Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:
            raise _translated(error, self._path, doing="files of the store cannot be copied") from error

    def approximate_size(self) -> int:
        """Return the size in bytes of the sorted files and of the memory tables."""
        names = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
        try:
            return sum(self._db.property_int_value(name) or 0 for name in names)
        except Exception as error:
            raise _translated(error, self._path) from error

    def close(self) -> None:
        """Close the store's files and release its lock; a second call does nothing.

        Scans that were not run to their end keep the lock until they are garbage-collected.
        """
        try:
            self._db.close()
        except rocksdict.DbClosedError:
            return
        except Exception as error:
            if not self._failed:  # after a failed write, RocksDB raises that write's error again
                raise _translated(error, self._path) from error
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def _open_arguments(block_cache_mb: int, file_mb: int = FILE_MB) -> dict[str, Any]:
    """Return the arguments for ``Rdict``.

    rocksdict applies options of the whole store to the rows only when it creates the store. Later it uses the options
    in the store's files, with a cache of 8 MiB, unless the caller gives options for the column family by name.
    """
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(block_cache_mb << 20))
    # Most point reads are of keys that the store lacks (a new tag or request_id). A filter answers these in 0.25 µs.
    table.set_bloom_filter(10, block_based=False)
    # With index and filter blocks in the cache, the cache's size limits the memory for a ledger of any size.
    table.set_cache_index_and_filter_blocks(True)
    # A file's whole index is 1 MiB; if the index is not in the cache, a read takes 0.25 ms. So each index is divided
    # into parts, and only its top level is pinned in the cache.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)

    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    # Hashes and ciphertexts do not compress; keys, indexes and plaintext statements do.
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_target_file_size_base(file_mb << 20)
    options.set_max_compaction_bytes(_OVERLAP * file_mb << 20)
    options.set_max_bytes_for_level_base(FIRST_LEVEL_MB << 20)
    options.set_write_buffer_size(WRITE_BUFFER_MB << 20)
    options.set_max_write_buffer_number(3)
    options.set_max_total_wal_size(2 * WRITE_BUFFER_MB << 20)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 << 20)  # sync large files in pieces: no batch must wait for a whole file
    options.set_max_open_files(descriptors.share(8, most=2048, least=32))
    options.set_keep_log_file_num(4)
    options.set_max_log_file_size(4 << 20)
    # Write a new MANIFEST at each change: see ``compact_ranges``. It has 150 bytes for each sorted file.
    options.set_max_manifest_file_size(1)
    options.set_stats_dump_period_sec(0)
    # Why not "tolerate_corrupted_tail"? That mode refuses a damaged last record. A power cut may damage that record,
    # which was never acknowledged, and the store must still open. With point_in_time the log is read up to the first
    # damaged record, and opening for writing deletes the rest. So ``server.preflight`` looks for lost entries.
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    return {"options": options, "column_families": {"default": options}}


def _sync_seconds(db: rocksdict.Rdict) -> float:
    """Return the median duration of five empty synced writes, in seconds."""
    synced, seconds = rocksdict.WriteOptions(), []
    synced.sync = True
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
    # Checked before RocksDB opens the store, because RocksDB creates a missing directory even if it creates no store.
    if not (path / "CURRENT").is_file():
        raise StorageError(f"store not found: `{path}`")


def _translated(error: Exception, path: Path, *, doing: str = "store failed") -> ConsentdError:
    assert not isinstance(error, KeyError | TypeError), f"not bytes: {error}"
    text = str(error)
    if "orruption" in text or "checksum mismatch" in text:
        return CorruptionError(f"store is corrupt: `{path}`: {text}")
    if "lock hold by current process" in text or "While lock file" in text:
        return StorageError(f"directory is in use: another process, or this one, has it open: `{path}`")
    if isinstance(error, rocksdict.DbClosedError):
        return StorageError("store is closed")
    return StorageError(f"{doing}: `{path}`: {text}")
