"""What the daemon does about backups at its start."""

from consentd.backup.age import Recipients
from consentd.backup.copies import remove_copies
from consentd.backup.directory import BackupDirectory
from consentd.backup.proof import BackupTimes
from consentd.backup.restoring import check_no_part
from consentd.clock import Clock
from consentd.config import Config
from consentd.metrics import Metrics


def open_backups(config: Config, metrics: Metrics, clock: Clock) -> BackupTimes:
    """Delete what a crash during a backup has left, and let the metrics show when backups were made.

    Call this with the lock of the data directory, before an erasure completes: the copies have what is erased. Parts of
    sets are encrypted; the next backup deletes them.

    Raises:
        PreconditionError: a restore is unfinished.
        InvalidError: a recipient of the configuration is none.
        StorageError: the copies cannot be deleted.
    """
    check_no_part(config.ledger)
    remove_copies(config.ledger.data_dir)
    directory = None
    if config.backup.dir is not None:
        Recipients(config.backup.recipients)
        directory = BackupDirectory(config.backup.dir)
    times = BackupTimes(directory, origin=config.ledger.origin, clock=clock)
    metrics.backup_time_seconds.follow(times.last_s)
    metrics.backup_proven_time_seconds.follow(times.proven_s)
    return times
