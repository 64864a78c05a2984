"""Look at what lies on the disk before it is opened for writing: a start that refuses must have changed nothing.

RocksDB reads its log up to the first record that is damaged; opened for writing, it deletes what follows. After a
power cut that is a torn record, of which nobody was told. But a bit that a disk or memory flipped in the middle of a
log looks the same, and what follows it may be entries that others hold receipts of, or keys of persons that are
nowhere else. So each store is first opened for reading, which changes nothing, and what must be there is looked for:
in the ledger, what the last signed checkpoint and the table know of; in the vault, where its log is not whole, a key
for every person.
"""

from pathlib import Path

from consentd.config import Config
from consentd.core.kinds import EntryKind
from consentd.core.note import Verifier
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.ledger import layout, reads
from consentd.ledger.ledger import Ledger, decode_state, empty_state
from consentd.ledger.recovery import check_last_signed
from consentd.store import Store, prefix_end
from consentd.store.rocks import RocksStore
from consentd.table.table import Table

_CACHE_MB = 8
_VAULT_LOST = "copy what is there, and see ops/RUNBOOK.md, `vault lost`"


def look_at_ledger(config: Config, log_verifier: Verifier) -> None:
    """Check that the ledger's store is not smaller than its last signed checkpoint or its table.

    Raises:
        CorruptionError: it is, or the last signed checkpoint or the store is damaged.
        StorageError: the last signed checkpoint cannot be read.
    """
    try:
        store = RocksStore.open_read_only(config.ledger.store_dir, block_cache_mb=_CACHE_MB)
    except StorageError:
        return  # not there yet, or another daemon's: opening it says so
    try:
        row = store.get(layout.STATE)
        state = empty_state(1) if row is None else decode_state(row)
        origin, last_signed_path = config.ledger.origin, config.ledger.last_signed_path
        check_last_signed(store, state, last_signed_path=last_signed_path, origin=origin, log_verifier=log_verifier)
    finally:
        store.close()
    size = _table_size(config.table.path)
    if size > state.size:
        raise CorruptionError(f"table is ahead of its ledger: size {size}, ledger has {state.size}; see ops/RUNBOOK.md")


def _table_size(path: Path) -> int:
    """Return the size that a table reflects; 0 where it cannot be read, which opening it will say."""
    try:
        table = Table.open_read_only(path)
    except ConsentdError:
        return 0
    try:
        with table.read() as standing:
            return standing.size
    finally:
        table.close()


def look_at_vault(path: Path, ledger: Ledger) -> None:
    """Check that the vault of a ledger that was begun is there, and has lost no key to a damaged log.

    Raises:
        CorruptionError: it is not there, or has.
    """
    try:
        RocksStore.open_read_only(path, block_cache_mb=_CACHE_MB, whole_log=True).close()
        return
    except StorageError as error:
        if not (path / "CURRENT").is_file():
            raise CorruptionError(f"vault is not this ledger's: there is none: `{path}`; {_VAULT_LOST}") from error
        return  # another daemon's, or not ours to read: opening it says so
    except CorruptionError:
        vault = RocksStore.open_read_only(path, block_cache_mb=_CACHE_MB)
    try:
        lost = sum(is_without_key(vault, ledger.store, key[1:]) for key, _ in ledger.store.scan(b"h", prefix_end(b"h")))
    finally:
        vault.close()
    if lost:
        raise CorruptionError(f"vault has a damaged log, and lacks the keys of {lost} persons: `{path}`; {_VAULT_LOST}")


def is_without_key(vault: Store, store: Store, tag: bytes) -> bool:
    """Tell whether *tag* is a person's who was not erased, and whose data key is gone."""
    if vault.get(b"k" + tag) is not None:
        return False
    count, _ = layout.HEAD.unpack(store.get(layout.head_key(tag)) or b"")
    entry = reads.read_entry(store, tag, count)
    return entry.event.kind != EntryKind.ERASURE and not reads.is_clear(entry)
