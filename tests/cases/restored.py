"""Copies of a daemon's data directory, as a restore from a backup makes them."""

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from cases.daemons import ORIGIN, Running
from consentd.config import Config
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.note import parse_note
from consentd.ledger.restored import Restored, mark_store, write_restored
from consentd.store.rocks import RocksStore


class Backup:
    """A backup of a stopped daemon: its stores and the checkpoint that it signed last.

    Attributes:
        note: that checkpoint. *mark*: what ``consentd restore`` writes beside the restored stores.
    """

    def __init__(self, running: Running, directory: Path) -> None:
        data_dir = running.config.ledger.data_dir
        self._config, self._directory = running.config, directory
        for name in ("ledger", "vault"):
            shutil.copytree(data_dir / name, directory / name)
        self.note = running.config.ledger.last_signed_path.read_bytes()
        point = parse_checkpoint(parse_note(self.note).text)
        self.mark = Restored(ORIGIN, point.size, point.root, 1_700_000_000_000, 1_700_000_100_000)

    def restore(
        self, data_dir: Path, *, last_signed: bytes | None = None, published: bytes | None = None,
        mark: Restored | None = None,
    ) -> Config:  # fmt: skip
        """Restore into *data_dir*; return the configuration of a daemon there, with the keys of the original.

        *last_signed*, *published*: the notes that are put beside it. *mark*: in place of the backup's.
        """
        data_dir.mkdir(parents=True)
        for name in ("ledger", "vault"):
            shutil.copytree(self._directory / name, data_dir / name)
        for name, note in (("last-signed", last_signed), ("checkpoint.published", published)):
            if note is not None:
                (data_dir / name).write_bytes(note)
        write_restored(data_dir, mark or self.mark)
        with closing(RocksStore.open(data_dir / "ledger", create=False)) as store:
            mark_store(store, mark or self.mark)
        ledger = replace(self._config.ledger, data_dir=data_dir, last_signed_path=data_dir / "last-signed")
        return replace(self._config, ledger=ledger, table=replace(self._config.table, path=data_dir / "table"))
