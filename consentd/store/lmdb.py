"""The LMDB environment (a memory-mapped file) of the policy table; no other module imports ``lmdb``.

One process writes, any number of processes read, and neither waits for the other. A read transaction sees the last
commit before the transaction began. A read takes 0.8 µs, including its transaction.

**Durability.** The environment is opened with ``metasync=False``: a commit syncs its pages, and then writes the meta
page that makes these pages current. The meta page is synced only by the next commit. So a power cut may undo the last
commit. That is harmless, because ``catch_up`` applies the entries of that commit again. The table never has entries
that the ledger lacks, because RocksDB's synced write comes before ``commit``. Why not a weaker setting? With
``sync=False`` a power cut may leave a mix of old and new pages that still answers reads. With ``writemap=True`` a stray
pointer can change the table, and a full disk kills the process with SIGBUS. Why not ``metasync=True``? Each commit
would sync twice, and the only gain would be a few entries fewer to apply at a start.

**The memory map** reserves addresses, not memory or disk space; the file grows as needed. The map cannot grow within a
transaction, so ``map_size_mb`` should be large from the start. When an operator raises ``map_size_mb``, running readers
adopt the new size at their next read.

**Readers.** While a read transaction lasts, LMDB does not reuse the pages that the transaction sees, so never wait for
anything inside a read transaction. A process that dies inside a read transaction leaves its slot in LMDB's list of
readers, and LMDB keeps the pages for it. So the writer frees such slots when it opens the files, and once a second
while it runs (``clear_dead_readers``). A reader does so when it finds no free slot; but opening the files needs a slot
too. LMDB learns from a lock on its lock file whether a process lives. A process that is slow or stopped keeps its slot
and its pages for as long as it wants; a metric and an alarm show since when.

The files must be on a local file system. They have LMDB's 0.9 format (``lib_version=0``), so that the LMDB of the gate
(a separate, faster reader of the table) can read them.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import lmdb

from consentd import files
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.store.lmdb_pages import UnknownPageError, copy_clean

log = logging.getLogger(__name__)

MAX_READERS = 1024
"""Maximum number of open read transactions in all processes. The first process to open the files sets the maximum."""
MAX_KEY = 511
"""Maximum length of a key in bytes. A longer one raises an error of LMDB."""
STOPPED = "table stopped because a write to it failed: start the daemon again"
OpenFiles = lmdb.Environment
_COMMIT, _PIECE = 50_000, 500
"""Rows in a commit of ``_copy_rows``, and rows between two rests."""
_SPARE_READERS = 32  # finished read transactions that are kept: to reuse one takes a tenth of the time


class TableStoppedError(StorageError):
    """An earlier commit failed, so this process can write nothing more to the table."""


@dataclass(frozen=True, slots=True)
class Readers:
    """The readers of all processes.

    Attributes:
        slots: how many of ``MAX_READERS`` slots are taken; a slot stays taken for the reader's next transaction.
        oldest: number of the commit that the oldest open read transaction sees; None: none is open.
    """

    slots: int
    oldest: int | None


class ReadTransaction:
    """A read transaction, which sees the table after one commit. Use it in a ``with`` statement.

    Attributes:
        get: returns the value of a key, or None. This is LMDB's own function, because a Python wrapper costs time.
    """

    __slots__ = ("_txn", "get")

    def __init__(self, txn: "lmdb.Transaction[bytes]") -> None:
        self._txn = txn
        self.get = txn.get

    def scan(self, start: bytes, end: bytes | None, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs in [*start*, *end*), by key, at most *limit*. *end* None: to the last key."""
        left = -1 if limit is None else limit
        cursor = self._txn.cursor()
        found = cursor.set_range(start) if start else cursor.first()
        while found and left:
            key, value = cursor.item()
            if end is not None and key >= end:
                return
            yield key, value
            left -= 1
            found = cursor.next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """End the transaction, and drop its writes. If *error* is an error of LMDB, raise our error for it."""
        self._txn.abort()
        # Errors of all reads are translated here, so that the single reads need no try block.
        if isinstance(error, lmdb.Error):
            raise _translated(error) from error


class WriteTransaction(ReadTransaction):
    """A write transaction. Its reads include its own writes. All processes together have at most one at a time.

    Leaving the ``with`` block commits; leaving it by an exception drops the writes. Begin and end it on one thread.

    Attributes:
        put: sets a key to a value.
        delete: removes a key, and returns whether the table had the key.
    """

    __slots__ = ("_ended", "delete", "put")

    def __init__(self, txn: "lmdb.Transaction[bytes]") -> None:
        super().__init__(txn)
        self.put = txn.put
        self.delete = txn.delete
        self._ended = False

    def commit(self) -> None:
        """Commit: readers that begin later see all writes. If this fails (StorageError), they see the commit before."""
        self._ended = True
        with _translating():
            self._txn.commit()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None or self._ended:
            self.end(error)  # after a commit, an abort does nothing
        else:
            self.commit()


class Environment:
    """One LMDB directory, opened at most once in a process. Made by ``open`` or ``open_read_only``.

    Opening the same files twice in one process raises an error: LMDB's locks belong to the process, so closing the
    second environment would silently drop the locks of the first. A forked process cannot use an environment.
    """

    def __init__(self, opened: OpenFiles) -> None:
        self._env = opened
        self.path = Path(opened.path())
        self._lock: int | None = None  # the descriptor that locks the directory, if it is open for writing
        self._is_adopted = False  # another environment has taken over the files

    @classmethod
    def open(cls, path: Path, *, map_size_mb: int) -> Self:
        """Open the environment in directory *path* for writing; create the directory if it is missing.

        LMDB's own lock is a file in the directory. If somebody deletes that file, a second writer would not see it. So
        the directory itself is locked too.

        Raises:
            StorageError: another process writes the table; or the directory cannot be made or opened.
            CorruptionError: the files are not LMDB's, or are damaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"table directory cannot be made: `{path}`: {error.strerror}") from error
        lock = files.lock_directory(path)
        try:
            opened = cls(_open(path, map_size_bytes=map_size_mb << 20, read_only=False))
        except BaseException:
            os.close(lock)
            raise
        opened._lock = lock
        opened.clear_dead_readers()
        return opened

    @classmethod
    def open_read_only(cls, path: Path) -> Self:
        """Open the environment in *path* for reading, also while another process writes it. Raises as ``open``.

        The process still needs the right to write the directory, because each reader takes a slot in the lock file.
        """
        return cls(_open(path, map_size_bytes=0, read_only=True))

    def begin_read(self) -> ReadTransaction:
        """Begin a read transaction, which sees the last commit.

        Raises:
            StorageError: too many read transactions are open, or the environment is closed.
        """
        opened = self._env  # kept until the transaction has begun: ``adopt`` may replace it meanwhile
        try:
            return ReadTransaction(opened.begin())
        except lmdb.MapResizedError:
            opened.set_mapsize(0)  # adopt the size of the writer's map, which has grown
            return self.begin_read()
        except lmdb.ReadersFullError as error:
            if self.clear_dead_readers():
                return self.begin_read()
            raise _translated(error) from error
        except lmdb.Error as error:
            raise _translated(error) from error

    def begin_write(self) -> WriteTransaction:
        """Begin a write transaction. Waits until no other process or thread has one. Raises as ``used_bytes``."""
        with _translating():
            return WriteTransaction(self._env.begin(write=True))

    def copy(self, path: Path, rest: Callable[[], None] = lambda: None) -> None:
        """Write a compact copy to the new directory *path*, synced, while others read and write.

        LMDB frees pages without overwriting the rows in them. The copy has no freed pages, and nothing else of rows
        that were deleted (``lmdb_pages``). *rest*: called between two pieces, to give way to others.

        Raises:
            StorageError: *path* exists, or the disk fails. The unfinished copy remains.
        """
        opened, file = self._env, path / "data.mdb"
        try:
            path.mkdir(parents=True)
            with _translating():
                try:
                    copy_clean(partial(opened.copyfd, compact=True), file, page_size=opened.stat()["psize"], rest=rest)
                except UnknownPageError as error:
                    log.warning("table is copied row by row, which takes longer: %s", error)
                    file.unlink()
                    self._copy_rows(path, rest)
            for written in (path, path.parent):
                files.sync(written)
        except OSError as error:
            raise StorageError(f"table cannot be copied: `{path}`: {error.strerror}") from error

    def _copy_rows(self, path: Path, rest: Callable[[], None]) -> None:
        """Copy all rows into a new environment in *path*, as of one moment, while others read and write.

        The row ``R``, which says what the rows reflect, comes last. So a copy that is not finished reflects nothing.
        """
        made = _open(path, map_size_bytes=self.map_size_mb << 20, read_only=False)
        with contextlib.closing(made), self.begin_read() as txn:
            rows = txn.scan(b"", None)
            last: list[tuple[bytes, bytes]] = []
            while piece := list(islice(rows, _COMMIT)):
                with made.begin(write=True) as out:
                    for start in range(0, len(piece), _PIECE):
                        for key, value in piece[start : start + _PIECE]:
                            if key == b"R":
                                last.append((key, value))
                            else:
                                out.put(key, value)
                        rest()
            with made.begin(write=True) as out:
                for key, value in last:
                    out.put(key, value)
            made.sync(True)  # a commit alone may be undone by a power cut

    def adopt(self, other: "Environment") -> None:
        """Take over the files of *other* in place of those of this environment; *other* is closed then.

        Only the thread that writes may call this, without a transaction. Readers that began before go on with the old
        files, which have no name any more. The disk has their room back when the last of these readers ends. A process
        that has opened the old files for reading sees no further commit: it opens them again when the heartbeat stops.

        Raises:
            StorageError: the files cannot be renamed. This environment has its old files, or no usable lock file.
        """
        try:
            # The lock file first. A crash between the two leaves the old data, and a lock file that the next open
            # resets.
            for name in ("lock.mdb", "data.mdb"):
                os.replace(other.path / name, self.path / name)
            files.sync(self.path)
        except OSError as error:
            raise StorageError(f"table cannot be replaced: `{self.path}`: {error.strerror}") from error
        # The old environment is closed when nothing uses it any more: LMDB must not close it under a reader.
        self._env, other._is_adopted = other._env, True  # noqa: SLF001  # of this class
        other.close()

    def clear_dead_readers(self) -> int:
        """Free the slots of processes that died, and the pages kept for them; return how many slots. Takes 1 µs.

        Raises:
            StorageError: the environment is closed.
        """
        with _translating():
            cleared: int = self._env.reader_check()
        return cleared

    def readers(self) -> Readers:
        """Return how many slots are taken, and since which commit pages are kept. Raises as ``clear_dead_readers``."""
        with _translating():
            # One line for each slot: process id, thread, and the commit that its transaction sees; `-`: none is open.
            slots = [line.split() for line in self._env.readers().splitlines()[1:]]
        return Readers(len(slots), min((int(commit) for _, _, commit in slots if commit != "-"), default=None))

    def used_bytes(self) -> int:
        """Return how many bytes of the file are in use, including free pages between used pages.

        Raises:
            StorageError: the environment is closed.
        """
        with _translating():
            return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def used_share(self) -> float:
        """Return which fraction of the map is in use, 0 to 1. At 1 every write fails. Raises as ``used_bytes``."""
        used = self.used_bytes()
        with _translating():
            return used / self._env.info()["map_size"]

    @property
    def map_size_mb(self) -> int:
        """Size of the map in MiB. Raises as ``used_bytes``."""
        with _translating():
            return int(self._env.info()["map_size"]) >> 20

    def close(self) -> None:
        """Close the environment; a second call does nothing. No transaction may be open."""
        if not self._is_adopted:
            self._env.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _open(path: Path, *, map_size_bytes: int, read_only: bool) -> OpenFiles:
    try:
        return lmdb.open(
            str(path),
            map_size=map_size_bytes,
            readonly=read_only,
            create=not read_only,
            mode=0o660,  # of which the umask takes the group's part, unless another program than ours opens it
            metasync=False,
            # Consent checks read pages at random, so pages read ahead would only displace pages that are needed.
            readahead=False,
            # Zero pages before use. Otherwise bytes of the daemon's heap, keys among them, could get into the file.
            meminit=True,
            max_readers=MAX_READERS,
            max_spare_txns=_SPARE_READERS,
            lib_version=0,
        )
    except lmdb.ReadonlyError as error:  # LMDB's name for EACCES when it opens the files
        raise StorageError(f"table cannot be opened: whose are its files? {error}") from error
    except lmdb.Error as error:
        raise _translated(error) from error
    except OSError as error:  # py-lmdb makes the directory too
        raise StorageError(f"table directory cannot be made: `{path}`: {error.strerror}") from error


_DAMAGED = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
_BUGS = (
    lmdb.BadDbiError, lmdb.BadRslotError, lmdb.BadTxnError, lmdb.BadValsizeError, lmdb.InvalidParameterError,
    lmdb.ReadonlyError,
)


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise _translated(error) from error


def _translated(error: lmdb.Error) -> ConsentdError:
    """Return our error for an error of LMDB. Raises AssertionError for a wrong use of LMDB, which is a bug."""
    assert not isinstance(error, _BUGS), f"table was misused: {error}"
    assert "already open in this process" not in str(error), f"table was opened twice: {error}"
    if isinstance(error, _DAMAGED):
        return CorruptionError(f"table is damaged: rebuild it: {error}")
    if isinstance(error, lmdb.PanicError):  # an earlier commit failed in this process; the files are not damaged
        return TableStoppedError(STOPPED)
    if isinstance(error, lmdb.MapFullError):
        return StorageError("table is full: raise `map_size_mb`")
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(f"table has {MAX_READERS} readers already")
    return StorageError(f"table failed: {error}")
