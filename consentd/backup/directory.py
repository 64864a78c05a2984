"""The directory of backups: ``ledger/NAME`` and ``vault/NAME``, a set each; ``proven.json`` (``proof``).

The sets of ledgers and those of vaults are in two directories, so that each is copied elsewhere by a job of its own.
A set is written as ``NAME.part``, its manifest last, and gets its name by a rename when all of it is on the disk. So a
directory without ``.part`` is whole. The vault's set gets its name first: a ledger's set has its vault's beside it.

Who can write here can delete backups, and cannot read them. The daemon runs with more rights than such a person may
have, so it follows no symbolic link below the directory: it would write, or delete, elsewhere.
"""

import contextlib
import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from consentd.backup.manifest import MANIFEST_NAME, MAX_BYTES, Manifest, SetKind, check_backup_name, parse_manifest
from consentd.errors import AlreadyExistsError, ConsentdError, CorruptionError, MalformedError, StorageError
from consentd.files import lock_directory, sync

log = logging.getLogger(__name__)

PART = ".part"
"""End of the name of a set that is being written."""


class BackupDirectory:
    """The directory of backups."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, kind: SetKind) -> Path:
        """Return the directory of all sets of a kind."""
        return self.path / kind.value

    def set_path(self, kind: SetKind, name: str) -> Path:
        """Return the directory of a set."""
        return self.of(kind) / name

    def check_new(self, name: str) -> None:
        """Check that a new backup can get this name.

        Raises:
            InvalidError: it can be no backup's name.
            AlreadyExistsError: a backup has it.
        """
        check_backup_name(name)
        for kind in SetKind:
            if os.path.lexists(self.set_path(kind, name)):
                raise AlreadyExistsError(f"backup exists already: `{name}`: give another name, or none")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make what is missing of the directory, and let no other process write a backup here.

        Raises:
            StorageError: another process writes one; a directory cannot be made; or one is a symbolic link.
        """
        try:
            for path in (self.path, *map(self.of, SetKind)):
                path.mkdir(mode=0o700, parents=path == self.path, exist_ok=True)
        except OSError as error:
            raise StorageError(f"backup directory cannot be made: `{self.path}`: {error.strerror}") from error
        for kind in SetKind:
            _check_no_link(self.of(kind))
        lock = lock_directory(self.path)
        try:
            yield
        finally:
            os.close(lock)

    def remove_parts(self) -> None:
        """Delete what backups that were not finished have left. Raises ``StorageError``."""
        for kind in SetKind:
            for path in _listed(self.of(kind)):
                if path.name.endswith(PART):
                    remove_tree(path)

    def remove_expired(self, now_ms: int) -> list[Path]:
        """Delete the sets that have expired, and return their directories. Raises ``StorageError``."""
        expired = [path for path, manifest in self.sets() if manifest.of.expires_time_ms <= now_ms]
        for path in expired:
            gone = path.with_name(path.name + PART)  # so that a part of a set never looks like a set
            remove_tree(gone)
            try:
                os.rename(path, gone)
                sync(path.parent)
            except OSError as error:
                raise StorageError(f"expired backup cannot be deleted: `{path}`: {error.strerror}") from error
            remove_tree(gone)
        return expired

    def sets(self) -> list[tuple[Path, Manifest]]:
        """Return the sets that are there, the oldest first. What is no set is left out, and the log says so."""
        found = []
        for kind in SetKind:
            for path in _listed(self.of(kind)):
                if path.name.endswith(PART):
                    continue
                try:
                    manifest = read_manifest(path)
                except ConsentdError as error:
                    log.warning("directory of backups has what is no set: %s", error)
                    continue
                if manifest.kind is kind:
                    found.append((path, manifest))
        return sorted(found, key=lambda each: each[1].of.time_ms)

    def newest(self, *, latest_ms: int) -> tuple[Path, Path] | None:
        """Return the newest backup of which both sets are there: ledger and vault. None: there is none.

        *latest_ms*: a manifest that states a later time is left out. It would be the newest one for ever.
        """
        sets = [(path, manifest) for path, manifest in self.sets() if manifest.of.time_ms <= latest_ms]
        vaults = {manifest.of.backup_id: path for path, manifest in sets if manifest.kind is SetKind.VAULT}
        for path, manifest in reversed(sets):
            if manifest.kind is SetKind.LEDGER and manifest.of.backup_id in vaults:
                return path, vaults[manifest.of.backup_id]
        return None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the set in directory *path*.

    Raises:
        StorageError: there is none, or it cannot be read.
        CorruptionError: the directory or the file is a symbolic link, or the manifest is not of its form.
    """
    _check_no_link(path)
    with open_file(path / MANIFEST_NAME) as file:
        try:
            content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise StorageError(f"backup cannot be read: `{path}`: {error.strerror}") from error
    try:
        return parse_manifest(content)
    except MalformedError as error:
        raise CorruptionError(f"backup's manifest is damaged: `{path}`: {error}") from error


def open_file(path: Path) -> BinaryIO:
    """Open a file of a set for reading. A symbolic link is not followed, and no writer of a pipe is waited for.

    Raises:
        StorageError: the file cannot be opened.
        CorruptionError: it is a symbolic link, or no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CorruptionError(f"file of a backup is a symbolic link: `{path}`") from error
        raise StorageError(f"file of a backup cannot be read: `{path}`: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptionError(f"file of a backup is no regular file: `{path}`")
    return os.fdopen(descriptor, "rb")


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it, if there is one; of a symbolic link, the link alone.

    Raises:
        StorageError: something cannot be deleted.
    """
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise StorageError(f"leftovers cannot be deleted: `{path}`: {error.strerror}") from error


def _listed(path: Path) -> list[Path]:
    if path.is_symlink():
        raise StorageError(f"directory of backups has a symbolic link: `{path}`: put a directory there, or mount one")
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"directory of backups cannot be read: `{path}`: {error.strerror}") from error


def _check_no_link(path: Path) -> None:
    if path.is_symlink():
        raise StorageError(f"directory of backups has a symbolic link: `{path}`: put a directory there, or mount one")
