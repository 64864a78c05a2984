"""Copies of the files of both stores, as of one moment, from which a backup is encrypted.

They are in the data directory, in ``backup-copy``, because files can be linked within a file system only. They are as
secret as the stores, and keep the bytes of what is deleted later. So they are deleted when the backup is written, or
has failed; the next start of the daemon deletes those that a crash has left, before it completes any erasure.

The sequencer's thread makes both copies between two batches (``copy_stores``). So no entry is in one copy alone: the
vault's copy has all keys that the ledger's copy needs, and a key that it lacks was destroyed for an ERASURE that the
ledger's copy has.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from consentd.backup.directory import remove_tree
from consentd.config import LedgerConfig
from consentd.errors import StorageError
from consentd.ledger import layout
from consentd.ledger.last_signed import read_last_signed
from consentd.ledger.ledger import State, decode_state
from consentd.ledger.vault import NO_STATE, STATE, is_older
from consentd.store import Store
from consentd.store.rocks import RocksStore

COPY_NAME = "backup-copy"
"""Name of the directory of the copies, in the data directory."""
_CACHE_MB = 8


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies: directories of the files of both stores.

    Attributes:
        checkpoint: the last signed checkpoint, a note, as of just before.
    """

    ledger: Path
    vault: Path
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in two copies, or in two stores that were restored.

    Attributes:
        recorded: the state of the vault that the ledger recorded.
        vault_state: the vault's own state; ``NO_STATE`` if there is no vault.
    """

    state: State
    recorded: bytes
    vault_state: bytes


def copy_stores(config: LedgerConfig, ledger: Store, vault: Store) -> Copies:
    """Copy the files of both stores. Must run on the sequencer's thread; takes milliseconds after ``flush``.

    Raises:
        StorageError: a disk failed or is full, or no checkpoint was signed yet.
    """
    checkpoint = read_last_signed(config.last_signed_path)
    if checkpoint is None:
        raise StorageError("ledger has no signed checkpoint")
    remove_copies(config.data_dir)
    path = config.data_dir / COPY_NAME
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(f"copy for a backup cannot be made: `{path}`: {error.strerror}") from error
    copies = Copies(path / "ledger", path / "vault", checkpoint)
    ledger.copy_files(copies.ledger)
    vault.copy_files(copies.vault)
    return copies


def remove_copies(data_dir: Path) -> None:
    """Delete the copies, if there are any. Raises ``StorageError`` if a file cannot be deleted."""
    remove_tree(data_dir / COPY_NAME)


def read_contents(ledger: Path, vault: Path | None) -> Contents:
    """Read what is in copies of the stores, or in restored ones. No process may have them open for writing.

    Raises:
        CorruptionError: files of a store contradict each other, a log is damaged, or the state row is.
        StorageError: there is no store, or the disk fails.
    """
    with closing(RocksStore.open_read_only(ledger, block_cache_mb=_CACHE_MB, whole_log=True)) as store:
        state = decode_state(store.get(layout.STATE) or b"")
        recorded = store.get(layout.VAULT) or NO_STATE
    vault_state = NO_STATE
    if vault is not None:
        with closing(RocksStore.open_read_only(vault, block_cache_mb=_CACHE_MB, whole_log=True)) as store:
            vault_state = store.get(STATE) or NO_STATE
    return Contents(state, recorded, vault_state)


def has_older_vault(contents: Contents) -> bool:
    """Report whether the vault lacks keys that the ledger relies on."""
    return is_older(contents.vault_state, contents.recorded)
