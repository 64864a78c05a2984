"""The work that the sequencer's thread does once a second between two batches, whether there are writes or not.

1. Let the expected time follow the clock (``LeafClock.follow``), if no leaf was written.
2. Clear the table's dead readers. Otherwise the pages that they saw would be kept for ever, and the table would fill.
3. Write the heartbeat to the table, if no batch wrote it.
4. Verify that this process still has the lock for signing, and lock a new file if somebody deleted the locked one.

Nobody waits for this work, and it is done again a second later. So if it fails because something is short, nothing
stops.
"""

import logging
import math
from collections.abc import Callable

from consentd.clock import Clock, LeafClock
from consentd.errors import StorageError
from consentd.files import LockedError
from consentd.metrics import Metrics
from consentd.sequencer.shortages import Shortages
from consentd.store.lmdb import TableStoppedError
from consentd.table.table import Table

log = logging.getLogger(__name__)

UPKEEP_S = 1.0
"""The interval of the upkeep."""


class Upkeep:
    """Does the upkeep when it is due. For the sequencer's thread only."""

    def __init__(
        self, table: Table, leaf_clock: LeafClock, *, clock: Clock, metrics: Metrics, shortages: Shortages,
        verify_lock: Callable[[], None],
    ) -> None:  # fmt: skip
        self._table = table
        self._leaf_clock = leaf_clock
        self._clock = clock
        self._metrics = metrics
        self._shortages = shortages
        self._verify_lock = verify_lock
        self._due_ms = 0
        self._oldest: tuple[int | None, int] = (None, 0)  # the oldest commit that a reader sees, and when it was seen

    def run(self, *, has_written: bool) -> bool:
        """Do the upkeep if it is due, and return whether it was. *has_written*: a batch was written just now.

        Raises:
            LockedError: another process has the lock for signing.
            TableStoppedError: the table cannot be written any more.
        """
        if self._clock.monotonic_ms() < self._due_ms:
            return False
        self._due_ms = self._clock.monotonic_ms() + round(UPKEEP_S * 1000)
        try:
            self._run(self._clock.wall_ms(), has_written=has_written)
        except (LockedError, TableStoppedError):
            raise
        except (StorageError, MemoryError) as error:
            self._shortages.postponed("upkeep", error)
        else:
            self._shortages.done("upkeep")
        return True

    def _run(self, now_ms: int, *, has_written: bool) -> None:
        self._verify_lock()
        self._check_readers(now_ms)
        if not has_written:
            self._leaf_clock.follow()
            self._table.heartbeat(now_ms)
        self._metrics.table_heartbeat_time_seconds.set(now_ms / 1000)

    def _check_readers(self, now_ms: int) -> None:
        """Clear dead readers, and measure the others."""
        cleared = self._table.clear_dead_readers()
        if cleared:
            self._metrics.table_dead_readers.inc(by=cleared)
            log.warning("readers of the table died in a transaction: %d cleared", cleared)
        readers = self._table.readers()
        if readers.oldest != self._oldest[0]:
            self._oldest = readers.oldest, now_ms
        self._metrics.table_readers.set(readers.slots)
        self._metrics.table_oldest_reader_time_seconds.set(
            math.nan if readers.oldest is None else self._oldest[1] / 1000
        )
