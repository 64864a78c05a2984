"""Make a backup on request of an operator, while the daemon serves; see ``consentd.backup``.

The operation's thread copies (on the sequencer's thread), encrypts and syncs. Nothing of the ledger changes. An
operation that ends early, for whatever reason, leaves no set: its copies and parts are deleted at once, or by the next
backup. While the copies exist, no erasure completes, because they keep what is erased.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from os import urandom

from consentd.backup.age import Recipients
from consentd.backup.copies import Copies, copy_stores, has_older_vault, read_contents, remove_copies
from consentd.backup.directory import BackupDirectory
from consentd.backup.manifest import Snapshot
from consentd.backup.writing import Backup, check_room, total_size, write_backup
from consentd.core.pruned import DAY_MS
from consentd.errors import CorruptionError, PreconditionError, StorageError
from consentd.ledger.last_signed import read_last_signed
from consentd.service.operations import Follower, when_free
from consentd.service.servicer import Services
from consentd.v1 import admin_service_pb2 as ad

log = logging.getLogger(__name__)

_WAIT_S = 0.25
"""How long an operation waits for an erasure before its next safe point."""
_REPORTED = 1 << 20
"""Bytes after which the progress is reported."""


def backup_name(request: ad.StartBackupRequest, now_ms: int) -> str:
    """Return the name that the backup gets: the one that the request states, or else its time (UTC)."""
    return request.name or datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dt%H%M%Sz")


def backup_directory(services: Services) -> BackupDirectory:
    """Return the directory of backups. Raises ``PreconditionError`` (BACKUP_NOT_CONFIGURED) if none is configured."""
    path = services.config.backup.dir
    if path is None:
        what = "backups are not configured: state `[backup]` in the configuration"
        raise PreconditionError(what, "BACKUP_NOT_CONFIGURED")
    return BackupDirectory(path)


def back_up(services: Services, name: str, follower: Follower) -> ad.BackupResult:
    """Make a backup, and report the progress.

    Raises:
        OperationCancelledError, StorageError: the operation ended at a safe point.
        AlreadyExistsError: a backup has this name.
        StorageError: a disk failed or has too little space, or another process writes a backup.
    """
    directory = backup_directory(services)
    with directory.locked():
        directory.remove_parts()
        directory.check_new(name)
        now_ms = services.sequencer.clock.wall_ms()  # what was written before this time is in the backup
        try:
            with _copies(services, follower) as copies:
                check_room(directory, copies, least_free=services.config.ledger.min_free_mb << 20)
                made = _write(services, directory, copies, name=name, now_ms=now_ms, follower=follower)
        except BaseException:
            _tidy(directory.remove_parts)
            raise
        finally:
            # Also if the backup failed, for example because these sets fill the disk: erasures rely on their end.
            _tidy(partial(directory.remove_expired, now_ms))
        of = made.ledger.of
        services.backup_times.note_made(of)
    return ad.BackupResult(
        name=name, time_ms=of.time_ms, tree_size=of.tree_size, root=of.root, byte_count=made.size,
        file_count=len(made.ledger.files) + len(made.vault.files), expires_time_ms=of.expires_time_ms,
    )  # fmt: skip


@contextlib.contextmanager
def _copies(services: Services, follower: Follower) -> Iterator[Copies]:
    """Copy the files of both stores for the length of a ``with`` block."""
    follower.report(ad.OPERATION_STEP_COPYING)
    _wait_signed(services, follower)
    files = services.erasures.files
    while not files.acquire(timeout=_WAIT_S):
        follower.report(ad.OPERATION_STEP_COPYING)
    try:
        ledger, vault = services.ledger.store, services.vault.store
        for store in (vault, ledger):
            store.flush()
            follower.report(ad.OPERATION_STEP_COPYING)
        copy = partial(copy_stores, services.config.ledger, ledger, vault)
        yield when_free(follower, partial(services.sequencer.call, copy))
    finally:
        # INVARIANT: the copies are deleted before the lock is released: an erasure that completes leaves no file.
        try:
            remove_copies(services.config.ledger.data_dir)
        finally:
            files.release()


def _wait_signed(services: Services, follower: Follower) -> None:
    """Wait for the first signed checkpoint, if this ledger began just now."""
    while read_last_signed(services.config.ledger.last_signed_path) is None:
        if services.sequencer.fault is not None:
            raise StorageError("ledger stopped before its first checkpoint was signed")
        follower.pause(_WAIT_S)


def _tidy(remove: Callable[[], object]) -> None:
    """Delete what is not needed. If that fails, the next backup does it."""
    try:
        remove()
    except StorageError as error:
        log.error("directory of backups is not tidy: %s", error)


def _write(
    services: Services, directory: BackupDirectory, copies: Copies, *, name: str, now_ms: int, follower: Follower
) -> Backup:
    contents = read_contents(copies.ledger, copies.vault)
    if has_older_vault(contents):
        raise CorruptionError("copy of the vault is older than the copy of its ledger: the backup is not made")
    backup = services.config.backup
    of = Snapshot(
        backup_id=urandom(16).hex(), name=name, origin=services.config.ledger.origin, time_ms=now_ms,
        expires_time_ms=now_ms + backup.retention_days * DAY_MS, checkpoint=copies.checkpoint,
        tree_size=contents.state.size, root=contents.state.root, map_root=contents.state.map_root,
    )  # fmt: skip
    total, done, reported = total_size(copies), 0, 0

    def on_bytes(count: int) -> None:
        nonlocal done, reported
        done += count
        if done - reported >= _REPORTED:
            reported = done
            follower.report(ad.OPERATION_STEP_ENCRYPTING, done >> 20, (total >> 20) + 1)

    return write_backup(
        directory, copies, of, states=(contents.recorded, contents.vault_state),
        recipients=Recipients(backup.recipients), on_bytes=on_bytes,
    )  # fmt: skip
