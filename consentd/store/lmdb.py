"""The memory-mapped environment of the policy table; the only door to ``lmdb``.

One process writes, any number read, without locks between them: a read transaction sees the last
commit before it began, and no later one. A read takes 0.8 µs, transaction included.

**Durability.** The environment is opened with ``metasync=False``: a commit syncs its pages, then
writes the page that makes them current without waiting for that one; the next commit's sync covers
it. A power cut may so undo the last commit, and nothing else: what remains is whole. That suits the
table, which the ledger can always bring up to date. It must never be *ahead* of the ledger, and is
not: nothing of a write transaction is current before ``commit``, which comes after RocksDB's synced
write. Why not less: ``sync=False`` may make pages current that never reached the disk, a torn table
that still answers; ``writemap=True`` lets any stray pointer of the process edit it, and turns a full
disk into SIGBUS. Why not ``metasync=True``: a second sync for each commit, to save a few apply() at a
start.

**The map** is a reservation of addresses, not of memory or disk; the file grows as it fills. A map
cannot grow within a transaction, so ``map_size_mb`` is chosen large from the start. Where an operator
raises it, readers that run take over the new size at their next read.

**Readers.** A reader that dies leaves its slot behind, which keeps old pages from reuse:
``clear_dead_readers`` frees it. A reader that lives and never ends its transaction does the same and
cannot be cleared: never wait for anything within one.

The files keep LMDB's 0.9 format (``lib_version=0``), which the gate's LMDB reads and later ones do
not. They must lie on a local file system.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from consentd import files
from consentd.errors import ConsentdError, CorruptionError, StorageError

MAX_READERS = 1024
"""Most read transactions at once, in all processes; 64 bytes each. Set by the process that opens first."""
STOPPED = "table stopped, since a write to it failed: start the daemon again"
_SPARE_READERS = 32  # finished read transactions kept for the next begin, which then costs a tenth


class ReadTransaction:
    """A read transaction: the table as of one commit. Use it in a ``with`` statement.

    Attributes:
        get: return the value of a key as bytes, or None. LMDB's own function, for the hot path's sake.
    """

    __slots__ = ("_txn", "get")

    def __init__(self, txn: "lmdb.Transaction[bytes]") -> None:
        self._txn = txn
        self.get = txn.get

    def scan(self, start: bytes, end: bytes | None, *, limit: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the (key, value) pairs in [*start*, *end*), by key, at most *limit*; *end* None: to the last."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()
        # Translated at the border of the transaction, so that the reads themselves carry no guard.
        if isinstance(error, lmdb.Error):
            raise _translated(error) from error


class WriteTransaction(ReadTransaction):
    """The write transaction: reads its own writes; there is one at a time, in all processes.

    Leaving the ``with`` block commits; leaving it by an exception changes nothing. Begin and end it on
    one thread.

    Attributes:
        put: set a key to a value.
        delete: remove a key; tells whether it was there.
    """

    __slots__ = ("_ended", "delete", "put")

    def __init__(self, txn: "lmdb.Transaction[bytes]") -> None:
        super().__init__(txn)
        self.put = txn.put
        self.delete = txn.delete
        self._ended = False

    def commit(self) -> None:
        """Make all changes current for readers that begin from now on, and sync their pages.

        Raises:
            StorageError: it failed; readers keep the commit before.
        """
        self._ended = True
        try:
            self._txn.commit()
        except lmdb.Error as error:
            raise _translated(error) from error

    def abort(self) -> None:
        """Drop all changes."""
        self._ended = True
        self._txn.abort()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or self._ended:
            super().__exit__(kind, error, trace)  # an abort after the end does nothing
        else:
            self.commit()


class Environment:
    """One LMDB directory, opened at most once in a process. Made by ``open`` or ``open_read_only``.

    A second open of the same files in one process is an ``AssertionError``: LMDB's locks belong to
    the process, and closing the second would silently drop those of the first. Pass the object around.
    It does not survive a fork.
    """

    __slots__ = ("_env",)

    def __init__(self, env: lmdb.Environment) -> None:
        self._env = env

    @classmethod
    def open(cls, path: Path, *, map_size_mb: int) -> Self:
        """Open the environment in directory *path* for writing; make it where it is absent.

        Raises:
            StorageError: the directory cannot be made or opened.
            CorruptionError: the files there are not LMDB's, or damaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"table directory cannot be made: `{path}`: {error.strerror}") from error
        return cls(_open(path, map_size_bytes=map_size_mb << 20, read_only=False))

    @classmethod
    def open_read_only(cls, path: Path) -> Self:
        """Open the environment in *path* for reading, beside its writer. Its map's size is the writer's.

        The directory must be writable for the process nonetheless: readers enter themselves in the lock file.

        Raises:
            StorageError: it is absent or cannot be opened.
            CorruptionError: the files there are not LMDB's, or damaged.
        """
        return cls(_open(path, map_size_bytes=0, read_only=True))

    def begin_read(self) -> ReadTransaction:
        """Begin a read transaction, on the last commit.

        Raises:
            StorageError: too many read transactions at once, or the environment is closed.
        """
        try:
            return ReadTransaction(self._env.begin())
        except lmdb.MapResizedError:
            self._env.set_mapsize(0)  # the writer's map is larger now: take its size over
            return self.begin_read()
        except lmdb.Error as error:
            raise _translated(error) from error

    def begin_write(self) -> WriteTransaction:
        """Begin the write transaction; wait while another process or thread is in one.

        Raises:
            StorageError: the environment is closed.
        """
        try:
            return WriteTransaction(self._env.begin(write=True))
        except lmdb.Error as error:
            raise _translated(error) from error

    def copy(self, path: Path) -> None:
        """Write a compact copy to the new directory *path*, synced; readers and the writer go on meanwhile.

        The copy holds live pages only. LMDB does not overwrite what it frees, so this is how deleted
        rows leave the disk: copy, move readers over, delete the old directory.

        Raises:
            StorageError: *path* exists, or the disk fails; what was written of the copy remains.
        """
        try:
            path.mkdir(parents=True)
            self._env.copy(str(path), compact=True)
            for written in (path / "data.mdb", path, path.parent):
                files.sync(written)
        except OSError as error:
            raise StorageError(f"table cannot be copied: `{path}`: {error.strerror}") from error
        except lmdb.Error as error:
            raise _translated(error) from error

    def clear_dead_readers(self) -> int:
        """Free the slots of readers whose process died; return how many there were."""
        try:
            return self._env.reader_check()
        except lmdb.Error as error:
            raise _translated(error) from error

    def used_bytes(self) -> int:
        """Return the bytes of the file in use, free pages between them included.

        Raises:
            StorageError: the environment is closed.
        """
        return self._pages()[0]

    def used_share(self) -> float:
        """Return how much of the map's size is in use, 0 to 1; at 1 nothing more can be written. Raises as above."""
        used, size = self._pages()
        return used / size

    def _pages(self) -> tuple[int, int]:
        try:
            info = self._env.info()
            return (info["last_pgno"] + 1) * self._env.stat()["psize"], info["map_size"]
        except lmdb.Error as error:
            raise _translated(error) from error

    def close(self) -> None:
        """Close the environment; a second call does nothing. No transaction may be open."""
        self._env.close()


def _open(path: Path, *, map_size_bytes: int, read_only: bool) -> lmdb.Environment:
    try:
        return lmdb.open(
            str(path),
            map_size=map_size_bytes,
            readonly=read_only,
            create=not read_only,
            mode=0o660,  # keyed hashes of identifiers: for the daemon's user, and a gate in its group if umask allows
            metasync=False,
            # Checks hit pages at random: reading ahead would push out pages that others need.
            readahead=False,
            # Pages are zeroed before use. Without it, heap bytes of the daemon, keys among them, could reach the file.
            meminit=True,
            max_readers=MAX_READERS,
            max_spare_txns=_SPARE_READERS,
            lib_version=0,
        )
    except lmdb.ReadonlyError as error:  # at an opening no misuse, but what EACCES is called
        raise StorageError(f"table cannot be opened: whose are its files? {error}") from error
    except lmdb.Error as error:
        raise _translated(error) from error
    except OSError as error:
        # The binding makes the directory itself, and lets that error through as it is.
        raise StorageError(f"table directory cannot be made: `{path}`: {error.strerror}") from error


_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
_BUGS = (
    lmdb.BadDbiError,
    lmdb.BadRslotError,
    lmdb.BadTxnError,
    lmdb.BadValsizeError,
    lmdb.InvalidParameterError,
    lmdb.ReadonlyError,
)


def _translated(error: lmdb.Error) -> ConsentdError:
    """Return ours for *error*. A misuse of LMDB raises AssertionError instead: it is a bug."""
    assert not isinstance(error, _BUGS), f"table was misused: {error}"
    assert "already open in this process" not in str(error), f"table was opened twice: {error}"
    if isinstance(error, _DAMAGED):
        return CorruptionError(f"table is damaged: rebuild it: {error}")
    if isinstance(error, lmdb.PanicError):  # a commit failed earlier in this process; the files are whole
        return StorageError(STOPPED)
    if isinstance(error, lmdb.MapFullError):
        return StorageError("table is full: raise `map_size_mb`")
    if isinstance(error, lmdb.ReadersFullError):
        return StorageError(f"table has {MAX_READERS} readers already")
    return StorageError(f"table failed: {error}")
