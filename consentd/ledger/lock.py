"""Remember the last checkpoint signed, outside the database: ``checkpoint.lock``.

A database can be restored from a backup; what was signed cannot be unsigned. The lock is the signed note itself,
written before anything is published, so a store that is behind it has lost entries somebody may hold a proof of.
It is trusted: who can write it can hide a rollback from the daemon, though not from a witness or a client.
"""

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
