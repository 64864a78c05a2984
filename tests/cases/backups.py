"""Backups for tests: a key to encrypt to, a configuration with a directory of backups, and what is in a set."""

from pathlib import Path
from typing import Any

import pyrage

from cases.daemons import Running
from cases.fakes import HANG_S
from consentd.backup.age import Identities
from consentd.backup.directory import BackupDirectory
from consentd.backup.manifest import SetKind
from consentd.cosigning.keyfiles import write_private
from consentd_client import Client

IDENTITY = pyrage.x25519.Identity.generate()
"""The private key of the recipient in ``SECTION``."""


def section(directory: str = "backups", recipient: str = str(IDENTITY.to_public()), **more: object) -> str:
    """Return the section of the configuration. *directory*: relative to the file's."""
    lines = "".join(f"{name} = {value}\n" for name, value in more.items())
    return f'[backup]\ndir = "{directory}"\nrecipients = ["{recipient}"]\n{lines}'


def identities() -> Identities:
    return Identities(str(IDENTITY))


def write_identity(directory: Path, identity: Any = IDENTITY) -> Path:
    """Write the file of an identity; return its path."""
    path = directory / "backup.key"
    if not path.exists():
        write_private(path, f"# created by a test\n{identity}\n")
    return path


def operator(running: Running) -> Client:
    return Client("", token=running.tokens["operator"], channel=running.channel, timeout_s=HANG_S)


def back_up(running: Running, name: str = "one") -> tuple[Path, Path]:
    """Make a backup; return the directories of its sets: ledger and vault."""
    operator(running).back_up(name=name)
    return sets_of(running, name)


def sets_of(running: Running, name: str) -> tuple[Path, Path]:
    path = running.config.backup.dir
    assert path is not None
    directory = BackupDirectory(path)
    return directory.set_path(SetKind.LEDGER, name), directory.set_path(SetKind.VAULT, name)


def leftovers(running: Running) -> list[str]:
    """Return the names of what an unfinished backup would have left."""
    assert running.config.backup.dir is not None
    copies = [path.name for path in running.config.ledger.data_dir.glob("backup-copy*")]
    return copies + [path.name for path in running.config.backup.dir.rglob("*.part*")]
