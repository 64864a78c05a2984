"""Read files, replace them durably, and lock them. Needs only the standard library, because clients use this too.

A process whose descriptors are all taken, by idle connections for example, can open no file. ``hold_reserve`` keeps
some descriptors for the functions of this module: they spend the reserve when no other descriptor is free, and fill it
up again when they can.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from consentd.errors import StorageError

NEW = ".new"
"""End of the name of a file's new content, until the file is replaced with it. A crash may leave it."""
RESERVE = 16
"""How many descriptors a daemon holds in reserve. One call needs one, and several threads may write files at once. A
connection that is waiting to be accepted may also take a descriptor at the moment when the reserve is spent."""

# Descriptors belong to the process, so the reserve does too. The lock guards both; hold_reserve and _open take it.
_reserve_lock = threading.Lock()
_reserve: list[int] = []
_reserve_size = 0


def hold_reserve(count: int = RESERVE) -> None:
    """Hold *count* descriptors in reserve, or as many as are free now; 0 gives the reserve up."""
    global _reserve_size
    with _reserve_lock:
        _reserve_size = count
        _fill_reserve()
        while len(_reserve) > count:
            os.close(_reserve.pop())


def _fill_reserve() -> None:
    with contextlib.suppress(OSError):
        while len(_reserve) < _reserve_size:
            _reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _open(path: Path, flags: int, mode: int = 0o777) -> int:
    """Open a file, if necessary with a descriptor of the reserve. Raises OSError as ``os.open``."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        with _reserve_lock:
            # The whole reserve is spent at once: a connection that waits may take a descriptor that becomes free.
            while _reserve:
                os.close(_reserve.pop())
            descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    return descriptor


def _refill_reserve() -> None:
    """Fill the reserve up again. Call this after a file was closed, before a connection takes its descriptor."""
    if len(_reserve) < _reserve_size:
        with _reserve_lock:
            _fill_reserve()


def read_file_if_exists(path: Path, *, name: str = "file") -> bytes | None:
    """Return a file's content; None if the file does not exist. *name*: the file's name in error messages.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{name} cannot be read: `{path}`: {error.strerror}") from error
    finally:
        _refill_reserve()


def write_file(
    path: Path, content: bytes | Iterable[bytes], *, is_private: bool = False, is_synced: bool = True,
    name: str = "file",
) -> None:  # fmt: skip
    """Replace a file. Readers get either the whole old content or the whole new content, even after a crash.

    Only one thread of one process may write a path at a time; ``FileLock`` can ensure this.

    Args:
        content: the new content, whole or in pieces.
        is_private: only the owner may read the file (mode 0600).
        is_synced: the new content survives a crash after the return. Not needed if the content can be computed again.
        name: the file's name in error messages.

    Raises:
        StorageError: the write failed. The file has the old content, or the new one if only the last fsync failed.
    """
    # 1. Write the new content to a temporary file in the same directory: a rename is atomic within a file system only.
    # 2. fsync that file. Otherwise a crash after the rename could leave a file of the new name without its content.
    # 3. Rename the temporary file over the old file.
    # 4. fsync the directory. Otherwise a crash could undo the rename.
    new = path.with_name(path.name + NEW)
    try:
        try:
            with os.fdopen(_open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb", buffering=0) as file:
                if is_private:
                    os.fchmod(file.fileno(), 0o600)
                for piece in [content] if isinstance(content, bytes) else content:
                    left = memoryview(piece)
                    # A nearly full disk may accept only some of the bytes, and report the error only at the next call.
                    while left:
                        left = left[os.write(file.fileno(), left) :]
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        if is_synced:
            sync(path.parent)
    except OSError as error:
        raise StorageError(f"{name} cannot be written: `{path}`: {error.strerror}") from error
    finally:
        _refill_reserve()


def rename_file(path: Path, to: Path, *, name: str = "file") -> None:
    """Rename a file over another of the same directory. It survives a crash after the return.

    Raises:
        StorageError: the rename failed, or only its fsync did.
    """
    try:
        os.replace(path, to)
        sync(to.parent)
    except OSError as error:
        raise StorageError(f"{name} cannot be renamed: `{path}`: {error.strerror}") from error


def append_line(path: Path, line: str, *, name: str = "file") -> None:
    """Append a line, with its end, to a file that exists: whole or not at all. It survives a crash after the return.

    If the last line has no end, it gets one first. Any number of processes may append with this function at once; an
    editor may replace the file meanwhile. *name*: the file's name in error messages.

    Raises:
        StorageError: the file cannot be opened, locked or written.
    """
    try:
        descriptor = _open_to_append(path)
        try:
            size = os.fstat(descriptor).st_size
            has_end = not size or os.pread(descriptor, 1, size - 1) == b"\n"
            left = memoryview((b"" if has_end else b"\n") + line.encode())
            written = size
            try:
                while left:
                    count = os.write(descriptor, left)
                    left, written = left[count:], written + count
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    if os.fstat(descriptor).st_size == written:  # nobody has appended after us
                        os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"{name} cannot be written: `{path}`: {error.strerror}") from error
    finally:
        _refill_reserve()


def _open_to_append(path: Path) -> int:
    """Open and lock the file at *path*; again, if it was replaced between its opening and its locking."""
    while True:
        descriptor = _open(path, os.O_RDWR | os.O_APPEND)
        _flock(descriptor, fcntl.LOCK_EX, path, in_use="", waits=True)
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk. Raises OSError if fsync fails."""
    descriptor = _open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LockedError(StorageError):
    """Another process, or this one, has the lock."""


class FileLock:
    """An exclusive lock on a path, which this process holds until ``close``.

    The directory's own lock (``lock_directory``) protects one directory. A second daemon could still run on a copy of
    it and sign with the same key. A ``FileLock`` prevents that if both daemons use the same *path*.

    A lock belongs to a file and not to its name, so whoever deletes the file lets another process lock a new one.
    ``verify`` notices that.
    """

    def __init__(self, path: Path, *, program: str, waits: bool = False) -> None:
        """Lock the file at *path*, and create the file if it is missing.

        Args:
            program: name of the process that has the lock, for the error message.
            waits: wait until no other process has the lock.

        Raises:
            StorageError: another process has the lock, or the file cannot be opened or locked.
        """
        self._path, self._program = path, program
        self._descriptor = self._lock(waits=waits)

    def verify(self) -> None:
        """Check that *path* still names the locked file; if it does not, lock the file that it names now.

        Raises:
            StorageError: another process has locked the new file, or it cannot be opened or locked.
        """
        if _is_same_file(self._descriptor, self._path):
            return
        replaced = self._descriptor
        self._descriptor = self._lock(waits=False)
        os.close(replaced)

    def close(self) -> None:
        """Release the lock. The file stays, because deleting it would let two processes lock two files."""
        os.close(self._descriptor)

    def _lock(self, *, waits: bool) -> int:
        while True:
            try:
                descriptor = _open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise StorageError(f"lock file cannot be opened: `{self._path}`: {error.strerror}") from error
            in_use = f"locked by another process: `{self._path}`: is another {self._program} running?"
            _flock(descriptor, fcntl.LOCK_EX, self._path, in_use=in_use, waits=waits)
            if _is_same_file(descriptor, self._path):
                return descriptor
            os.close(descriptor)  # the file was deleted between its opening and its locking


def lock_directory(path: Path, *, is_shared: bool = False) -> int:
    """Lock a directory for this process, and return the descriptor that holds the lock. Closing it releases the lock.

    The lock is on the directory itself, and not on a file in it, which somebody could delete. One process may lock a
    directory, or with *is_shared* any number of processes, but not both at once.

    Raises:
        StorageError: another process, or this one, has locked the directory; or it cannot be opened or locked.
    """
    try:
        descriptor = _open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(f"directory cannot be opened: `{path}`: {error.strerror}") from error
    in_use = f"directory is in use: another process, or this one, has it open: `{path}`"
    _flock(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX, path, in_use=in_use)
    return descriptor


def _flock(descriptor: int, kind: int, path: Path, *, in_use: str, waits: bool = False) -> None:
    """Lock an open file; close it if that fails."""
    try:
        fcntl.flock(descriptor, kind if waits else kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise LockedError(in_use) from error
    except OSError as error:  # a network file system without locks, for example
        os.close(descriptor)
        raise StorageError(f"cannot be locked: `{path}`: {error.strerror}: use a local disk") from error


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"lock file cannot be opened: `{path}`: {error.strerror}") from error
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
