"""Read a stopped daemon's files: its store, its vault if there is one, and the last signed checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from consentd.config import Config
from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError, NotFoundError, StorageError
from consentd.files import read_file_if_exists
from consentd.ledger.kek import KeyEncryptionKey, read_keks
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.store.rocks import RocksStore
from consentd.verify.store_source import StoreSource


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """A daemon's files: the ledger's store, and the checkpoint that was signed last or published last.

    Without *vault_dir* and *keks*, statements of persons are not decrypted. *keks*: see ``Vault``. A worker process
    gets them with this value, because a secret of the environment can be read only once.
    """

    store_dir: Path
    checkpoint_path: Path
    vault_dir: Path | None = None
    keks: tuple[KeyEncryptionKey, ...] = ()

    @classmethod
    def of_config(cls, config: Config) -> Self:
        """Return the files that a daemon's configuration names, with the vault."""
        ledger = config.ledger
        return cls(
            store_dir=ledger.store_dir, checkpoint_path=ledger.last_signed_path, vault_dir=ledger.vault_dir,
            keks=read_keks(config.keys),
        )  # fmt: skip

    def open(self) -> "DataDirectorySource":
        """Open store and vault for reading; the daemon must be stopped."""
        store = RocksStore.open_read_only(self.store_dir)
        try:
            vault = self._open_vault()
        except BaseException:
            store.close()
            raise
        return DataDirectorySource(store, self.checkpoint_path, vault)

    def find_tag(self, scheme: str, value: str) -> bytes:
        """Return the tag (pseudonym) of the person with this identifier. No error message contains the identifier.

        Raises:
            InvalidError: the identifier is invalid, or there is no vault.
            NotFoundError: the vault has no person with this identifier.
            StorageError: the vault cannot be read.
        """
        check_identifier(scheme, value)
        vault = self._open_vault()
        if vault is None:
            raise InvalidError("there is no vault, and only the vault knows a person's tag")
        try:
            tag = vault.find(vault.identifier_hash(scheme, value))
        finally:
            vault.store.close()
        if tag is None:
            raise NotFoundError("vault has no person of this identifier: not enrolled, or erased", "SUBJECT_NOT_FOUND")
        return tag

    def _open_vault(self) -> Vault | None:
        if self.vault_dir is None or not self.keks:
            return None
        store = RocksStore.open_read_only(self.vault_dir, block_cache_mb=8)
        try:
            return Vault(store, self.keks)
        except BaseException:
            store.close()
            raise


class DataDirectorySource(StoreSource):
    """The opened files of a stopped daemon."""

    def __init__(self, store: Store, checkpoint_path: Path, vault: Vault | None) -> None:
        super().__init__(store, vault)
        self._checkpoint_path = checkpoint_path

    def checkpoint(self) -> bytes:
        """Return the checkpoint that was signed last."""
        note = read_file_if_exists(self._checkpoint_path, name="checkpoint")
        if note is None:
            raise StorageError(f"checkpoint is missing: `{self._checkpoint_path}`")
        return note

    def close(self) -> None:
        """Close the stores."""
        self.store.close()
        if self.vault is not None:
            self.vault.store.close()
