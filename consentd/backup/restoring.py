"""Restore a backup into an empty data directory, once it is proven to be whole and of this ledger.

``prove`` decrypts both sets into a directory, and verifies what they turn out to be: the stores are those of the
manifests; the last signed checkpoint verifies by the log's key, also after rotations, and is of this tree; the vault
opens with the key-encryption key, and leaf 0 commits to it; and every record of the ledger is verified, as the verb
``fsck`` does. ``restore`` then erases again whom the list of erasures names, and puts both stores in place.

Steps of ``restore``, and what a crash leaves:

1. Everything above happens in ``data_dir/restore.part``. A crash leaves this directory. It has the vault's keys, so the
   next restore deletes it first, and the daemon does not start beside it (``check_no_part``).
2. ``checkpoint.published`` gets the backup's last signed checkpoint, so that the copy proves what it has. Then the mark
   of a restored copy is written, into the ledger's store and as ``restored.json`` (``ledger.restored``).
3. The vault is renamed to its place, and then the ledger. A crash before the ledger leaves a directory without a ledger
   and with ``restore.part``: the next restore begins anew. After the ledger everything is in place.
4. ``restore.part`` is deleted.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from consentd.backup.age import Identities
from consentd.backup.copies import has_older_vault, read_contents
from consentd.backup.directory import remove_tree
from consentd.backup.manifest import Snapshot
from consentd.backup.proof import Proven
from consentd.backup.reading import FoundPair, unpack
from consentd.config import Config, LedgerConfig
from consentd.core import codec
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.note import Verifier, parse_note
from consentd.errors import CorruptionError, PreconditionError, StorageError
from consentd.files import NEW, lock_directory, sync, write_file
from consentd.ledger import reads
from consentd.ledger.erasure import LIST_NAME, ErasureList, destroy_again
from consentd.ledger.kek import KeyEncryptionKey
from consentd.ledger.last_signed import verify_last_signed
from consentd.ledger.recovery import check_vault_commitment
from consentd.ledger.restored import RESTORED_NAME, Restored, mark_store, remove_restored, write_restored
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.store.rocks import RocksStore
from consentd.verify.findings import Report
from consentd.verify.fsck import verify_files

PART_NAME = "restore.part"
"""Name of the directory in the data directory in which a restore works."""
SCRATCH_NAME = "consentd-backup-proof"
"""Name of the directory in which a backup is proven."""
_CHECKPOINT = "checkpoint of the restored copy"
_NO_TABLE = 1 << 63
"""More leaves than any table has applied."""


@dataclass(frozen=True, slots=True)
class Pins:
    """What a restored ledger is verified by.

    Attributes:
        log_key: a log key of the ledger, the present one or an earlier one.
        keks: the key-encryption key of the vault, and after it the previous one; empty without a vault.
    """

    origin: str
    log_key: Verifier
    keks: tuple[KeyEncryptionKey, ...]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restore did.

    Attributes:
        report: the verification of all records. With faults, nothing was put in place.
        erased: how many persons the backup still knew who are erased, and were erased again.
    """

    report: Report
    erased: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Functions that show the progress: of the decryption, in bytes, and of the verification, in leaves."""

    on_bytes: Callable[[int], None]
    on_leaves: Callable[[int, int], None]


def prove(pair: FoundPair, to: Path, *, identities: Identities, pins: Pins, progress: Progress) -> Report:
    """Decrypt both sets into ``to/ledger`` and ``to/vault``, and verify them; *to* is a new directory.

    Returns what the verification of all records found: the caller looks at its faults.

    Raises:
        CorruptionError: a set is damaged, or is not what its manifest says, or is of another ledger.
        InvalidError: no identity is a recipient of a set.
        StorageError: a file cannot be read or written, or no key-encryption key opens the vault.
    """
    ledger, vault = to / "ledger", None if pair.vault is None else to / "vault"
    unpack(pair.ledger, ledger, identities, progress.on_bytes)
    if pair.vault is not None and vault is not None:
        unpack(pair.vault, vault, identities, progress.on_bytes)
    _compare(pair, ledger, vault)
    with ExitStack() as stack:
        store = stack.enter_context(closing(RocksStore.open_read_only(ledger)))
        of = pair.ledger.manifest.of
        verify_last_signed(store, of.checkpoint, size=of.tree_size, origin=pins.origin, log_verifier=pins.log_key)
        _check_covered(store, of)
        opened = None
        if vault is not None:
            vault_store = stack.enter_context(closing(RocksStore.open_read_only(vault)))
            if vault_store.get(b"K") is None:  # an empty store would become a new vault
                raise CorruptionError("vault of the backup has no index key")
            opened = Vault(vault_store, pins.keks)
            check_vault_commitment(store, opened, vault)
        return verify_files(
            store, origin=pins.origin, log_verifier=pins.log_key, last_signed_path=None, vault=opened,
            progress=progress.on_leaves,
        )  # fmt: skip


def _compare(pair: FoundPair, ledger: Path, vault: Path | None) -> None:
    """Check that the stores are those of the manifests."""
    found, of = read_contents(ledger, vault), pair.ledger.manifest.of
    state = found.state
    if (state.size, state.root, state.map_root) != (of.tree_size, of.root, of.map_root):
        raise CorruptionError(f"ledger of the backup has another tree than its manifest says: `{pair.ledger.path}`")
    if found.recorded != pair.ledger.manifest.vault_state:
        where = f"`{pair.ledger.path}`"
        raise CorruptionError(f"ledger of the backup recorded another vault than its manifest says: {where}")
    if pair.vault is None:
        return
    if found.vault_state != pair.vault.manifest.vault_state or has_older_vault(found):
        raise CorruptionError(f"vault of the backup has another state than its manifest says: `{pair.vault.path}`")


def _check_covered(store: Store, of: Snapshot) -> None:
    """Check that the checkpoint of a manifest covers the tree, but for one seal and what follows the seal before it.

    The daemon signs each seal before it writes the next one. What an older checkpoint does not cover, the log's key
    has not confirmed, and the restored copy could not prove.

    Raises:
        CorruptionError: the checkpoint is an older one.
    """
    covered, seals = parse_checkpoint(parse_note(of.checkpoint).text).size, 0
    for _, leaf in reads.scan_leaves(store, covered, of.tree_size):
        seals += codec.kind_of(leaf) == codec.SEAL_KIND
        if seals > 1:
            what = f"checkpoint of {covered} leaves, tree of {of.tree_size}"
            raise CorruptionError(f"manifest of the backup has an older checkpoint than its ledger: {what}")


def try_restore(
    pair: FoundPair, scratch: Path | None, *, identities: Identities, pins: Pins, progress: Progress
) -> Report:
    """Prove a backup in a temporary directory below *scratch*, and delete what is in it.

    The directory always has the same name, so that the next proof deletes what a crash has left: a restored vault. It
    is removed at the end.

    Raises:
        StorageError: another proof runs, or the directory belongs to another user, or is a link; and as ``prove``.
    """
    path = (scratch or Path(tempfile.gettempdir())) / SCRATCH_NAME
    lock = _lock_scratch(path)
    try:
        remove_tree(path / "proof")
        (path / "proof").mkdir()
        return prove(pair, path / "proof", identities=identities, pins=pins, progress=progress)
    finally:
        try:
            remove_tree(path)
        finally:
            os.close(lock)


def _lock_scratch(path: Path) -> int:
    """Make the directory, unless it is there, and lock it; return the descriptor that holds the lock.

    INVARIANT: only who has locked the directory that has this name removes it. So the name is that of the locked one.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StorageError(f"temporary directory cannot be made: `{path}`: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StorageError(f"temporary directory is a link, or others can use it: `{path}`: give --scratch")
    lock = lock_directory(path)
    try:
        is_same = os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        is_same = False
    if not is_same:
        os.close(lock)
        raise StorageError(f"another proof used the temporary directory, and has ended: `{path}`: repeat this one")
    return lock


def proven_by(pair: FoundPair, *, now_ms: int) -> Proven:
    """Return what is noted of a backup that was proven now."""
    of = pair.ledger.manifest.of
    return Proven(
        origin=of.origin, backup_id=of.backup_id, name=of.name, backup_time_ms=of.time_ms, proven_time_ms=now_ms,
        tree_size=of.tree_size, root=of.root,
    )  # fmt: skip


# -- putting it in place ------------------------------------------------------------------------------------------


def check_no_part(config: LedgerConfig) -> None:
    """Check that no restore is unfinished in the data directory. Raises ``PreconditionError``."""
    if (config.data_dir / PART_NAME).exists() and not config.store_dir.exists():
        raise PreconditionError(
            f"restore was not finished: `{config.data_dir / PART_NAME}`: run `consentd restore` again; see "
            "ops/RUNBOOK.md, `restore`"
        )


def begin_restore(config: Config) -> Path:
    """Check that the data directory is empty, and return the new directory ``restore.part`` in it.

    What an unfinished restore has left is deleted. The files of the operator that belong to no backup may be there:
    the last signed checkpoint, the list of erasures, and the issued credentials. The caller has the directory's lock.

    Raises:
        PreconditionError: there is a ledger, a vault, a table, or something else.
        StorageError: the directory cannot be read or written.
    """
    ledger = config.ledger
    part = ledger.data_dir / PART_NAME
    if part.exists():
        # INVARIANT: the part was made when there was neither a vault nor a mark, so both are of the same restore.
        _discard(ledger, part)
    last_signed = ledger.last_signed_path
    allowed = {
        PART_NAME, LIST_NAME, last_signed.name, last_signed.name + ".lock", last_signed.name + NEW,
        ledger.issued_credentials_path.name,
    }  # fmt: skip
    try:
        there = sorted(path.name for path in ledger.data_dir.iterdir() if path.name not in allowed)
    except OSError as error:
        raise StorageError(f"data directory cannot be read: `{ledger.data_dir}`: {error.strerror}") from error
    if there or config.table.path.exists():
        found = f"`{ledger.data_dir / there[0]}`" if there else f"`{config.table.path}`"
        raise PreconditionError(f"data directory is not empty: {found}: move it away, and keep it")
    remove_tree(part)
    try:
        part.mkdir(mode=0o700)
        sync(ledger.data_dir)
    except OSError as error:
        raise StorageError(f"directory cannot be made: `{part}`: {error.strerror}") from error
    return part


def restore(
    config: Config, pair: FoundPair, *, identities: Identities, pins: Pins, without_erasures: bool, now_ms: int,
    progress: Progress,
) -> Restoration:  # fmt: skip
    """Restore a backup; if a record is wrong, nothing is put in place. The caller has the lock of the data directory.

    *without_erasures*: the list of erasures may be missing.

    Raises:
        PreconditionError: as ``begin_restore``; or there is a vault, and no list of erasures.
        InvalidError, CorruptionError, StorageError: as ``prove``; or the list of erasures is damaged.
    """
    part = begin_restore(config)
    try:
        listed = None if pair.vault is None else _find_erasures(config.ledger, without_erasures)
        report = prove(pair, part, identities=identities, pins=pins, progress=progress)
        erased = 0
        if not report.faults:
            if listed is not None:
                erased = _erase_again(part, listed, pins)
            _finish(config.ledger, part, pair, now_ms)
    except BaseException:
        _discard(config.ledger, part)
        raise
    if report.faults:
        _discard(config.ledger, part)
    return Restoration(report, erased)


def _find_erasures(config: LedgerConfig, without_erasures: bool) -> ErasureList | None:
    """Return the list of erasures that the operator kept; None: there is none."""
    path = config.last_signed_path.with_name(LIST_NAME)
    if path.exists():
        return ErasureList(path)
    if not without_erasures:
        raise PreconditionError(
            f"list of erasures is not there: `{path}`: whoever was erased after the backup would be known again; put "
            "the file of the damaged machine there. The first erasure makes it: if nobody was erased, give "
            "--without-erasures"
        )
    return None


def _erase_again(part: Path, listed: ErasureList, pins: Pins) -> int:
    """Erase again whom the list names, in the proven stores; return how many of them the backup still knew."""
    with ExitStack() as stack:
        store = stack.enter_context(closing(RocksStore.open(part / "ledger", create=False)))
        vault = Vault(stack.enter_context(closing(RocksStore.open(part / "vault", create=False))), pins.keks)
        # There is no table, and the one that will be made has no row of anybody who is erased.
        return destroy_again(store, vault, listed.read(), table_size=_NO_TABLE)


def _finish(config: LedgerConfig, part: Path, pair: FoundPair, now_ms: int) -> None:
    """Put the proven stores in place, durably, marked as a restored copy. Raises ``StorageError``."""
    of = pair.ledger.manifest.of
    write_file(config.published_path, of.checkpoint, name=_CHECKPOINT)
    mark = Restored(of.origin, of.tree_size, of.root, of.time_ms, now_ms)
    # INVARIANT: both marks are on the disk before there is a ledger, so no daemon signs with the copy.
    with closing(RocksStore.open(part / "ledger", create=False)) as store:
        mark_store(store, mark)
    write_restored(config.data_dir, mark)
    try:
        if pair.vault is not None:
            os.rename(part / "vault", config.vault_dir)
        sync(config.data_dir)
        os.rename(part / "ledger", config.store_dir)
        sync(config.data_dir)
    except OSError as error:
        raise StorageError(f"restored stores cannot be put in place: `{config.data_dir}`: {error.strerror}") from error
    remove_tree(part)


def _discard(config: LedgerConfig, part: Path) -> None:
    """Delete what an unfinished restore has made. The caller knows that the directory was empty before."""
    if not config.store_dir.exists():
        remove_tree(config.vault_dir)
        remove_restored(config.data_dir)
        for path in (config.data_dir / RESTORED_NAME, config.published_path):
            remove_tree(path.with_name(path.name + NEW))
        remove_tree(config.published_path)
        remove_tree(part)
