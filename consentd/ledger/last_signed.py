"""Remember the last checkpoint signed, outside the database: ``checkpoint.lock``.

A database can be restored from a backup; what was signed cannot be unsigned. The lock is the signed note itself,
written before anything is published, so a store that is behind it has lost entries somebody may hold a proof of.
It is trusted: who can write it can hide a rollback from the daemon, though not from a witness or a client.
"""

import fcntl
import os
from pathlib import Path

from consentd.errors import StorageError


def read_lock(path: Path) -> bytes | None:
    """Return the note in the lock, or None where there is no lock.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"checkpoint lock cannot be read: `{path}`: {error.strerror}") from error


def write_lock(path: Path, note: bytes) -> None:
    """Replace the note in the lock, durably: temp file, fsync, rename, fsync of the directory.

    Raises:
        StorageError: it failed; the lock holds the old note or the new one, whole.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            left = memoryview(note)
            while left:  # a disk that is nearly full may take a part, and says so only the next time
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(f"checkpoint lock cannot be written: `{path}`: {error.strerror}") from error


def hold(path: Path, *, who: str) -> int:
    """Take the file at *path* for this process alone; the file returned is to be closed in the end.

    What RocksDB's own lock cannot see is two copies of a store: if both signed under one key, and remembered it in one
    place, neither would find what the other wrote.

    Args:
        who: "daemon", say; for the message.

    Raises:
        StorageError: another process has it, or it cannot be made.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"cannot be held: `{path}`: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise StorageError(f"held by another process: `{path}`: is another {who} running?") from error
    return file
