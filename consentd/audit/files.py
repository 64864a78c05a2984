"""Read a stopped daemon's files: store, vault where there is one, and the last signed checkpoint beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consentd.audit.sources import Opening
from consentd.core import codec, tiles
from consentd.core.pruned import Pruned
from consentd.errors import CorruptionError, InvalidError, NotFoundError, StorageError
from consentd.files import read_file_if_exists
from consentd.ledger import layout, reads, retention
from consentd.ledger.vault import Vault, check_identifier
from consentd.store import Store
from consentd.store.rocks import RocksStore


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """A daemon's files.

    Attributes:
        store_dir: the ledger's store.
        checkpoint_path: the file of a checkpoint: the one signed last, or the one published last.
        vault_dir, vault_key_file: what opens statements of persons; None: they stay closed.
    """

    store_dir: Path
    checkpoint_path: Path
    vault_dir: Path | None = None
    vault_key_file: Path | None = None

    def open(self) -> "StoreSource":
        """Open store and vault for reading; the daemon must be stopped."""
        store = RocksStore.open_read_only(self.store_dir)
        try:
            vault = self._open_vault()
        except BaseException:
            store.close()
            raise
        return StoreSource(store, self.checkpoint_path, vault)

    def find_tag(self, scheme: str, value: str) -> bytes:
        """Return the tag of the person with this identifier, by the vault's keyed hash. No error repeats it.

        Raises:
            InvalidError: it may not be used as an identifier, or the vault is not at hand.
            NotFoundError: the vault knows nobody by it.
            StorageError: the vault cannot be read.
        """
        check_identifier(scheme, value)
        vault = self._open_vault()
        if vault is None:
            raise InvalidError("vault is not at hand, and only the vault knows a person's tag")
        try:
            tag = vault.find(vault.identifier_hash(scheme, value))
        finally:
            vault.store.close()
        if tag is None:
            raise NotFoundError("vault knows nobody by this identifier: not enrolled, or erased", "SUBJECT_NOT_FOUND")
        return tag

    def _open_vault(self) -> Vault | None:
        if self.vault_dir is None or self.vault_key_file is None:
            return None
        key = _read_key(self.vault_key_file)
        store = RocksStore.open_read_only(self.vault_dir, block_cache_mb=8)
        try:
            return Vault(store, key)
        except BaseException:
            store.close()
            raise


class StoreSource:
    """A ledger's rows."""

    def __init__(self, store: Store, checkpoint_path: Path, vault: Vault | None) -> None:
        self._store = store
        self._checkpoint_path = checkpoint_path
        self._vault = vault

    @property
    def is_whole(self) -> bool:
        """Whether the vault is at hand."""
        return self._vault is not None

    def checkpoint(self) -> bytes:
        """Return the checkpoint that was signed last."""
        note = read_file_if_exists(self._checkpoint_path, name="checkpoint")
        if note is None:
            raise StorageError(f"checkpoint is missing: `{self._checkpoint_path}`")
        return note

    def pruned(self) -> Pruned:
        """Return what the store says."""
        return retention.read_pruned(self._store)

    def bundle(self, n: int, width: int) -> bytes:
        """Return leaves as a bundle."""
        start = n * tiles.TILE_WIDTH
        is_pruned = start < retention.read_pruned(self._store).minimum
        read = reads.read_gapped if is_pruned else reads.read_leaves
        return tiles.encode_bundle(read(self._store, start, start + width))

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return a tile, or its first *width* hashes; empty where it is missing."""
        return (self._store.get(layout.tile_key(level, n)) or b"")[: 32 * width]

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return openings: of public chains always, of persons with the vault."""
        events = [codec.decode_leaf(leaf) if leaf else None for leaf in leaves]
        keys = [layout.statement_key(event.tag, event.seq) for event in events if isinstance(event, codec.Event)]
        rows = iter(self._store.multi_get(keys))
        return [self._open(event, next(rows)) if isinstance(event, codec.Event) else None for event in events]

    def _open(self, event: codec.Event, row: bytes | None) -> Opening:
        if row is None:
            return None
        if row[:1] == bytes((layout.CLEAR,)):
            return row[1:]
        if self._vault is None:
            return None
        try:
            salt, statement = self._vault.decrypt(event, row)
        except NotFoundError:
            return None
        except CorruptionError:
            # What does not decrypt opens to nothing; whoever looks names the entry.
            return b""
        return salt + statement

    def close(self) -> None:
        """Close the stores."""
        self._store.close()
        if self._vault is not None:
            self._vault.store.close()


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise StorageError(f"vault key file holds no key of 64 hex digits: `{path}`")
    return key
