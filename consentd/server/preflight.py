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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consentd.config import Config
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind, Owner
from consentd.core.note import Signer, Verifier
from consentd.core.rotation import RotationRole
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.files import lock_directory
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import check_last_signed
from consentd.ledger.ledger import Ledger, decode_state, empty_state
from consentd.ledger.restored import Restored
from consentd.ledger.restored_copy import check_restored
from consentd.ledger.rotations import is_kept, read_ledger_keys
from consentd.ledger.vault import NO_STATE, STATE, is_older
from consentd.sequencer.checkpoints import NextLogKey
from consentd.service.key_files import KeyFiles
from consentd.store import Store, prefix_end
from consentd.store.rocks import RocksStore
from consentd.table.table import Table

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


def check_ledger_files(config: Config, log_verifier: Verifier, restored: Restored | None = None) -> int | None:
    """Check that the ledger's store has all entries that the last signed checkpoint and the policy table cover.

    A restored copy (*restored*: its mark) may lack entries that the last signed checkpoint covers.

    Return the ledger's size: 0 if there is no store; None if the store cannot be read, which its opening later reports.

    Raises:
        CorruptionError: entries are missing, or the last signed checkpoint or the store is damaged.
        StorageError: the file of the last signed checkpoint cannot be read.
    """
    try:
        store = RocksStore.open_read_only(config.ledger.store_dir, block_cache_mb=_CACHE_MB)
    except StorageError:
        return None if (config.ledger.store_dir / "CURRENT").exists() else 0
    try:
        row = store.get(layout.STATE)
        state = empty_state(1) if row is None else decode_state(row)
        origin, last_signed_path = config.ledger.origin, config.ledger.last_signed_path
        check = check_last_signed if restored is None else partial(check_restored, restored=restored)
        check(store, state, last_signed_path=last_signed_path, origin=origin, log_verifier=log_verifier)
    finally:
        store.close()
    size = _table_size(config.table.path)
    if size > state.size:
        raise CorruptionError(f"table is ahead of its ledger: size {size}, ledger has {state.size}; see ops/RUNBOOK.md")
    return state.size


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


@dataclass(frozen=True, slots=True)
class KeysInForce:
    """The keys to sign with, as the ledger states.

    Attributes:
        from_size, next_log_key: as in ``CheckpointSigning``.
    """

    statement: KeyPair = field(repr=False)
    log: Signer = field(repr=False)
    from_size: int = 0
    next_log_key: NextLogKey | None = field(default=None, repr=False)


def find_keys(files: KeyFiles, ledger: Ledger, table: Table, *, origin: str) -> KeysInForce:
    """Find which of the key files have the keys in force, and settle the files that a crash left (``KeyFiles``).

    Raises:
        StorageError: no file has a key that the ledger needs, or a file cannot be read.
        InvalidError: a file has no key of the expected kind.
    """
    statement = _find_statement_key(files, table)
    terms = read_ledger_keys(ledger.store, origin).log_terms
    present = files.read(RotationRole.LOG)
    if not terms:
        return KeysInForce(statement, Signer(origin, present))
    last = terms[-1]
    if is_kept(ledger.store, last.from_size - 1):
        _settle(files, RotationRole.LOG, last.key)
        found = _find_key(files, RotationRole.LOG, last.key)
        return KeysInForce(statement, Signer(origin, found), last.from_size)
    # The last checkpoint of the old key is not kept yet: it may have to be signed again, so both keys are needed.
    old = _find_key(files, RotationRole.LOG, last.replaces)
    following = _find_key(files, RotationRole.LOG, last.key)
    before = terms[-2].from_size if len(terms) > 1 else 0
    return KeysInForce(
        statement, Signer(origin, old), before, NextLogKey(Signer(origin, following), last.from_size)
    )


def _find_statement_key(files: KeyFiles, table: Table) -> KeyPair:
    """Return the statement key that is in force. Auditors reject statements signed with another key."""
    for read in (files.read, files.read_next):  # the second file matters only if the first one has another key
        key = read(RotationRole.STATEMENT)
        with table.read() as snapshot:
            owner = None if key is None else snapshot.key_owner(key.public_key)
        if key is not None and owner is not None and owner.owner is Owner.LEDGER:
            _settle(files, RotationRole.STATEMENT, key.public_key)
            return key
    path = files.path(RotationRole.STATEMENT)
    raise StorageError(
        f"statement key is not this ledger's: `{path}`; restore the file it was begun with, or the key that replaced it"
    )


def _find_key(files: KeyFiles, role: RotationRole, public_key: bytes) -> KeyPair:
    for read in (files.read, files.read_next):
        key = read(role)
        if key is not None and key.public_key == public_key:
            return key
    places = f"`{files.path(role)}` or `{files.next_path(role)}`"
    raise StorageError(
        f"log key that the ledger needs is in no file: public key {public_key.hex()}: restore it as {places}; "
        "see ops/RUNBOOK.md, `rotate keys`"
    )


def _settle(files: KeyFiles, role: RotationRole, public_key: bytes) -> None:
    """Put the file of the key in force in its place. If the directory cannot be written, the files stay as they are."""
    try:
        files.settle(role, public_key)
    except StorageError as error:
        log.warning("key files stay as they are: %s", error)
