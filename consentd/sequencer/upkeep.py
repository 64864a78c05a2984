"""The work that the sequencer's thread does once a second between two batches, whether there are writes or not.

1. Let the expected time follow the clock (``LeafClock.follow``), if no leaf was written.
2. Clear the table's dead readers. Otherwise the pages that they saw would be kept for ever, and the table would fill.
3. Write the heartbeat to the table, if no batch wrote it.

Nobody waits for this work, and each step is done again a second later. So a step that fails because of a passing
shortage stops nothing.
"""

import logging
import math

from consentd.clock import Clock, LeafClock
from consentd.metrics import Metrics
from consentd.table.table import Table

log = logging.getLogger(__name__)

UPKEEP_S = 1.0
"""The interval of the upkeep."""


class Upkeep:
    """Does the upkeep when it is due. For the sequencer's thread only."""

    def __init__(self, table: Table, leaf_clock: LeafClock, *, clock: Clock, metrics: Metrics) -> None:
        self._table = table
        self._leaf_clock = leaf_clock
        self._clock = clock
        self._metrics = metrics
        self._due_ms = 0
        self._oldest: tuple[int | None, int] = (None, 0)  # the oldest commit that a reader sees, and when it was seen

    def run(self, *, has_written: bool) -> None:
        """Do the upkeep if it is due. *has_written*: a batch was written just now."""
        if self._clock.monotonic_ms() < self._due_ms:
            return
        self._due_ms = self._clock.monotonic_ms() + round(UPKEEP_S * 1000)
        now_ms = self._clock.wall_ms()
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
