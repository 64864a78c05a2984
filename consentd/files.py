"""Read files, replace them durably, and lock them. Needs only the standard library, because clients use this too."""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from consentd.errors import StorageError


def read_file_if_exists(path: Path, *, name: str = "file") -> bytes | None:
    """Return a file's content; None if the file does not exist. *name*: the file's name in error messages.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{name} cannot be read: `{path}`: {error.strerror}") from error


def write_file(
    path: Path, content: bytes | Iterable[bytes], *, is_private: bool = False, is_synced: bool = True,
    name: str = "file",
) -> None:  # fmt: skip
    """Replace a file. Readers get either the whole old content or the whole new content, even after a crash.

    Only one thread of one process may write a path at a time; ``lock_file`` can ensure this.

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
    new = path.with_name(path.name + ".new")
    try:
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "wb", buffering=0) as file:
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


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk. Raises OSError if fsync fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(path: Path, *, program: str, waits: bool = False) -> int:
    """Lock the file at *path* for this process, and create the file if it is missing.

    RocksDB's own lock protects one store directory. A second daemon could still run on a copy of the store and sign
    with the same key. This lock prevents that if both daemons use the same *path*.

    Returns the descriptor that holds the lock. Closing the descriptor releases the lock.

    Args:
        program: name of the process that has the lock, for the error message.
        waits: wait until no other process has the lock.

    Raises:
        StorageError: another process has the lock, or the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"lock file cannot be opened: `{path}`: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"locked by another process: `{path}`: is another {program} running?") from error
    return descriptor
