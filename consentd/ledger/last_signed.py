"""Remember the last signed checkpoint, outside the database, in the file ``last-signed``.

A database can be restored from an old backup, but a signature cannot be taken back. So the sequencer writes each signed
checkpoint to this file before it publishes it. A ledger that is smaller than its last signed checkpoint has lost
entries that somebody may hold a proof of, and does not open.

The file holds the signed note itself. It is trusted: a person who can write it can hide a rollback from the daemon,
though not from a witness or a client.
"""

import fcntl
import os
from pathlib import Path

from consentd.errors import StorageError


def read_last_signed(path: Path) -> bytes | None:
    """Return the last signed note; None: the file does not exist.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"last signed checkpoint cannot be read: `{path}`: {error.strerror}") from error


def write_last_signed(path: Path, note: bytes) -> None:
    """Replace the last signed note, durably: temp file, fsync, rename, fsync of the directory.

    Raises:
        StorageError: the write failed; the file holds the whole old note or the whole new one.
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
        raise StorageError(f"last signed checkpoint cannot be written: `{path}`: {error.strerror}") from error


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
        raise StorageError(f"lock file cannot be opened: `{path}`: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise StorageError(f"locked by another process: `{path}`: is another {who} running?") from error
    return file
