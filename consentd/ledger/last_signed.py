"""Remember the last signed checkpoint, outside the database, in the file ``last-signed``.

A database can be restored from an old backup, but a signature cannot be taken back. So the sequencer writes each signed
checkpoint to this file before it publishes it. A ledger that is smaller than its last signed checkpoint has lost
entries that somebody may hold a proof of, and does not open.

The file holds the signed note itself. It is trusted: a person who can write it can hide a rollback from the daemon,
though not from a witness or a client.
"""

from pathlib import Path

from consentd.files import read_file_if_exists, write_file

_NAME = "last signed checkpoint"


def read_last_signed(path: Path) -> bytes | None:
    """Return the last signed note; None: the file does not exist.

    Raises:
        StorageError: the file cannot be read.
    """
    return read_file_if_exists(path, name=_NAME)


def write_last_signed(path: Path, note: bytes) -> None:
    """Replace the last signed note, durably.

    Raises:
        StorageError: the write failed; the file holds the whole old note or the whole new one.
    """
    write_file(path, note, name=_NAME)
