"""Check files and keys at the daemon's start, before anything is written: a failed start must not change any file.

When RocksDB opens a store for writing, it reads the store's write-ahead log, and deletes the first damaged record and
all records after that record. After a power cut only the last write is damaged, and that write was never acknowledged.
But if a bit flips in the middle of the write-ahead log, the later records would be deleted too, which may be entries
that people have receipts of, or the only copy of persons' data keys. So each store is first opened read-only and
checked. The ledger must have all entries that the last signed checkpoint and the policy table cover. If the vault's
write-ahead log is damaged, the vault must still have a data key for every person who was not erased. And the vault must
be at least as new as the ledger's last batch, because the end of its log may be cut off without a trace.
"""

import logging
from contextlib import closing
from pathlib import Path

from consentd.config import Config
from consentd.core import codec
from consentd.core.kinds import EntryKind, Owner
from consentd.core.note import Verifier
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.files import lock_directory
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import check_last_signed
from consentd.ledger.ledger import Ledger, decode_state, empty_state
from consentd.ledger.vault import NO_STATE, STATE, Vault, is_older
from consentd.statements.payloads import parse
from consentd.store import Store, prefix_end
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.v1 import statement_pb2

log = logging.getLogger(__name__)

_CACHE_MB = 8
_VAULT_LOST = "copy what is there, and see ops/RUNBOOK.md, `vault lost`"


def lock_data(config: Config) -> int:
    """Lock the data directory; return the descriptor that holds the lock, until it is closed.

    Whatever opens a store of the ledger for writing takes this lock before it opens anything: the daemon, and the verbs
    that change files while no daemon runs. The stores' own locks come later, and each protects one store only.

    Raises:
        StorageError: another process has the lock, or the directory cannot be made or locked.
    """
    path = config.ledger.data_dir
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"data directory cannot be made: `{path}`: {error.strerror}") from error
    return lock_directory(path)


def check_ledger_files(config: Config, log_verifier: Verifier) -> None:
    """Check that the ledger's store has all entries that the last signed checkpoint and the policy table cover.

    Raises:
        CorruptionError: entries are missing, or the last signed checkpoint or the store is damaged.
        StorageError: the file of the last signed checkpoint cannot be read.
    """
    try:
        store = RocksStore.open_read_only(config.ledger.store_dir, block_cache_mb=_CACHE_MB)
    except StorageError:
        return  # The store does not exist yet, or another daemon uses it. Opening the store later reports that.
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
    """Return how many leaves are applied to a table; 0 if it is unreadable. Opening the table later reports that."""
    try:
        table = Table.open_read_only(path)
    except ConsentdError:
        return 0
    try:
        with table.read() as snapshot:
            return snapshot.size
    finally:
        table.close()


def check_vault_files(path: Path, ledger: Ledger) -> None:
    """Check that a ledger's vault exists and, if its write-ahead log is damaged, that no person's data key is lost.

    Raises:
        CorruptionError: the vault does not exist, or data keys are missing.
    """
    try:
        RocksStore.open_read_only(path, block_cache_mb=_CACHE_MB, whole_log=True).close()
        return
    except StorageError as error:
        if not (path / "CURRENT").is_file():
            raise CorruptionError(f"vault is not this ledger's: there is none: `{path}`; {_VAULT_LOST}") from error
        return  # Another daemon uses the vault, or it is unreadable. Opening the vault later reports that.
    except CorruptionError:
        vault = RocksStore.open_read_only(path, block_cache_mb=_CACHE_MB)
    try:
        lost = sum(_has_lost_key(vault, ledger.store, key[1:]) for key, _ in ledger.store.scan(b"h", prefix_end(b"h")))
    finally:
        vault.close()
    if lost:
        raise CorruptionError(f"vault has a damaged log, and lacks the keys of {lost} persons: `{path}`; {_VAULT_LOST}")


def _has_lost_key(vault: Store, store: Store, tag: bytes) -> bool:
    """Return whether the vault lacks the data key of person *tag* (a pseudonym), although the person is not erased."""
    if vault.get(b"k" + tag) is not None:
        return False
    count, _ = layout.HEAD.unpack(store.get(layout.head_key(tag)) or b"")
    entry = reads.read_entry(store, tag, count)
    return entry.event.kind != EntryKind.ERASURE and not reads.is_plaintext(entry)


def check_vault_state(path: Path, ledger: Ledger, *, is_table_empty: bool) -> None:
    """Check that the vault has all that the ledger's batches relied on: no end of its log is cut off, it is no backup.

    With an older vault nobody could withdraw the consents of the persons whom it lacks, while the policy table still
    permits. A table that is built again with this vault permits nothing about them. So an operator who has no newer
    vault moves the table away, and thereby accepts this one.

    Raises:
        CorruptionError: the vault is older than the ledger, and *is_table_empty* is false.
    """
    with closing(RocksStore.open_read_only(path, block_cache_mb=_CACHE_MB)) as vault:
        state = vault.get(STATE) or NO_STATE
    if not is_older(state, ledger.vault_state):
        return
    writes, recorded = (int.from_bytes(one[:8]) for one in (state, ledger.vault_state))
    if not is_table_empty:
        raise CorruptionError(f"vault is older than its ledger: {writes} of {recorded} writes: `{path}`; {_VAULT_LOST}")
    log.critical("older vault is accepted, because there is no table: %d of %d writes: `%s`", writes, recorded, path)


def check_vault_commitment(ledger: Ledger, vault: Vault, path: Path) -> None:
    """Check that leaf 0 of the ledger commits to this vault. With another vault, every person would seem to be erased.

    Raises:
        CorruptionError: the vault belongs to another ledger.
    """
    first = reads.read_entry(ledger.store, codec.LEDGER_TAG, 1)
    opened = reads.open_entry(vault, first)
    assert opened is not None, "a public chain's statement is in the clear"
    stated = parse(statement_pb2.LedgerStatement, codec.decode_statement(opened[1]).payload)
    if stated.vault_commitment != vault.commitment():
        raise CorruptionError(
            f"vault is not this ledger's: `{path}`; restore the vault's backup, see ops/RUNBOOK.md, `vault lost`"
        )


def check_statement_key(table: Table, public_key: bytes, path: Path) -> None:
    """Check that the statement key is a valid key of the ledger. Auditors reject statements signed with another key.

    Raises:
        StorageError: the ledger's own entries never put the key in force, or have replaced the key.
    """
    with table.read() as snapshot:
        owner = snapshot.key_owner(public_key)
    if owner is None or owner.owner is not Owner.LEDGER:
        raise StorageError(f"statement key is not this ledger's: `{path}`; restore the file it was begun with")
