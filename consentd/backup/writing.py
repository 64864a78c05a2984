"""Encrypt copies of the stores' files into two new sets of the directory of backups.

Steps, and what a crash leaves:

1. ``vault/NAME.part`` and ``ledger/NAME.part`` get the encrypted files, each synced, and then the manifest. A crash
   leaves parts, which the next backup deletes.
2. Both directories are synced. Then the vault's set is renamed, and then the ledger's. A crash between them leaves a
   set of the vault alone. It is whole, and expires like any other.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consentd.backup.age import Recipients, Sink, Source
from consentd.backup.copies import Copies
from consentd.backup.directory import PART, BackupDirectory
from consentd.backup.manifest import (
    MANIFEST_NAME,
    Manifest,
    SetFile,
    SetKind,
    Snapshot,
    check_file_name,
    format_manifest,
)  # fmt: skip
from consentd.errors import CorruptionError, MalformedError, StorageError
from consentd.files import sync, write_file

SUFFIX = ".age"
"""End of the name of an encrypted file."""
_OVERHEAD = 1 << 10
"""More than age adds to a file for a few recipients, and a manifest for its line; beside 16 bytes for each 64 KiB."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole: the manifests of both sets."""

    ledger: Manifest
    vault: Manifest

    @property
    def size(self) -> int:
        """Bytes of all files, not encrypted."""
        return self.ledger.size + self.vault.size


def total_size(copies: Copies) -> int:
    """Return the bytes of all files of the copies. Raises ``StorageError``."""
    return sum(_size(path) for of in (copies.ledger, copies.vault) for path in _files(of))


def check_room(directory: BackupDirectory, copies: Copies, *, least_free: int) -> None:
    """Check that a backup fits on the disk, and leaves *least_free* bytes. Raises ``StorageError``."""
    count = sum(len(_files(of)) for of in (copies.ledger, copies.vault))
    size = total_size(copies)
    needed = size + size // 1024 + count * _OVERHEAD + least_free
    found = os.statvfs(directory.path)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise StorageError(
            f"too little space for a backup: `{directory.path}` has {free >> 20} MiB, needed are {(needed >> 20) + 1}"
        )


def write_backup(
    directory: BackupDirectory, copies: Copies, of: Snapshot, *, states: tuple[bytes, bytes], recipients: Recipients,
    on_bytes: Callable[[int], None],
) -> Backup:  # fmt: skip
    """Write both sets; return their manifests. The caller has the directory's lock, and has deleted all parts.

    Args:
        states: the vault's state that the ledger recorded, and the vault's own.
        on_bytes: called with the number of bytes of each piece that was read. What it raises ends the backup.

    Raises:
        StorageError: a file cannot be read or written, for example because the disk is full.
    """
    made = {}
    for kind, source, state in (
        (SetKind.VAULT, copies.vault, states[1]),
        (SetKind.LEDGER, copies.ledger, states[0]),
    ):
        part = directory.set_path(kind, of.name + PART)
        try:
            part.mkdir(mode=0o700)
        except OSError as error:
            raise _unwritable(part, error) from error
        files = tuple(_encrypt(path, part, recipients, on_bytes) for path in _files(source))
        made[kind] = manifest = Manifest(kind=kind, of=of, vault_state=state, files=files)
        # It syncs the directory too, so the names of the files are on the disk.
        write_file(part / MANIFEST_NAME, format_manifest(manifest), is_private=True, name="backup's manifest")
    for kind in (SetKind.VAULT, SetKind.LEDGER):
        path = directory.set_path(kind, of.name)
        try:
            os.rename(directory.set_path(kind, of.name + PART), path)
            sync(path.parent)
        except OSError as error:
            raise _unwritable(path, error) from error
    return Backup(made[SetKind.LEDGER], made[SetKind.VAULT])


def _encrypt(path: Path, part: Path, recipients: Recipients, on_bytes: Callable[[int], None]) -> SetFile:
    to = part / (path.name + SUFFIX)
    try:
        with path.open("rb") as plain, open(to, "xb", opener=_private) as file:
            source, sink = Source(plain, on_bytes), Sink(file)
            recipients.encrypt(source, sink)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(to, error) from error
    return SetFile(path.name, source.size, source.digest(), sink.size, sink.digest())


def _files(directory: Path) -> list[Path]:
    """Return the files of a copy, by name. Raises ``StorageError``."""
    try:
        found = sorted(directory.iterdir())
        for path in found:
            check_file_name(path.name)
    except OSError as error:
        raise StorageError(f"copy for a backup cannot be read: `{directory}`: {error.strerror}") from error
    except MalformedError as error:
        raise CorruptionError(f"store has a file that RocksDB did not make: {error}") from error
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StorageError(f"copy for a backup cannot be read: `{path}`: {error.strerror}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"backup cannot be written: `{path}`: {error.strerror}")
