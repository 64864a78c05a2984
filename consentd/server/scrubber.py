"""Scrub in the background: one thread checks all records at a bounded rate, again and again.

It finds, counts and logs damage; it repairs nothing and stops nothing. Checks that do not need a damaged record are as
good as before, and one bad row is no reason to stop a national service. What an operator does about damage is in
ops/RUNBOOK.md, ConsentdScrubFault.
"""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from consentd.clock import Clock
from consentd.config import Config
from consentd.errors import ConsentdError, OverloadedError
from consentd.metrics import Metrics
from consentd.sequencer.loop import Sequencer
from consentd.verify.scrub import Scrub
from consentd.verify.scrub_records import ScrubTarget
from consentd.verify.scrub_table import ScrubOptions, ScrubProgress, clear

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Stopped(Exception):  # noqa: N818  # it ends a pass and reports no error
    """The daemon is stopping."""


class Scrubber:
    """The thread. Call ``start`` once, and ``stop`` before the sequencer stops."""

    def __init__(
        self, config: Config, target: ScrubTarget, *, sequencer: Sequencer, metrics: Metrics, clock: Clock
    ) -> None:
        """Prepare the thread; *target*: the ledger that the daemon serves."""
        self._config, self._metrics, self._clock = config.scrub, metrics, clock
        self._target, self._sequencer = target, sequencer
        # Beside the table and not in data_dir: a backup that leaves out the table should leave out its copy too.
        scratch_dir = config.table.path.with_name(config.table.path.name + ".scrub")
        self._options = ScrubOptions(scratch_dir=scratch_dir, map_size_mb=config.table.map_size_mb)
        self._stopping = threading.Event()
        self._owed_s = 0.0  # owner: the thread; the time that it still has to wait for the records it has read
        self._damaged = 0  # owner: the thread; what the gauge shows
        self._logged = 0  # owner: the thread; faults of this pass that were logged
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def start(self) -> None:
        """Start the thread, unless the configuration turns it off. Delete what a killed daemon left of a pass."""
        clear(self._options.scratch_dir)
        if self._config.records_per_s:
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread, if necessary during a pass."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = min(self._config.interval_s, 60.0)
        while not self._stopping.wait(wait_s) and self._sequencer.fault is None:
            began_ms = self._clock.monotonic_ms()
            try:
                self._pass()
            except _Stopped:
                return
            except ConsentdError as error:
                # A daemon that is stopping, or a ledger that has stopped, logs that itself.
                if not self._stopping.is_set() and self._sequencer.fault is None:
                    self._metrics.scrub_failures.inc()
                    log.error("scrub failed: %s", error)
            except Exception as error:
                # The text of a foreign exception may contain anything, so only its type and place are logged.
                self._metrics.scrub_failures.inc()
                log.error("bug in scrub: %s", type(error).__name__, exc_info=error)
            wait_s = max(0.0, self._config.interval_s - (self._clock.monotonic_ms() - began_ms) / 1000)

    def _pass(self) -> None:
        """Check everything once."""

        def pause(records: int) -> None:
            self._report(scrub.progress)
            self._metrics.scrub_records.inc(by=records)
            self._metrics.scrub_share.set(min(1.0, scrub.progress.checked / scrub.expected))
            self._wait(records)

        self._logged = 0
        scrub = Scrub(self._target, self._options, run_on_writer=self._run_on_writer, pause=pause)
        try:
            scrub.run()
        finally:
            self._report(scrub.progress)
        # Zero again after a pass without damage: the alarm ends when the damage is gone, not when time has passed.
        self._damaged = scrub.progress.damaged
        self._metrics.scrub_damaged_records.set(self._damaged)
        self._metrics.scrub_share.set(1)
        self._metrics.scrub_pass_time_seconds.set(self._clock.wall_ms() / 1000)

    def _report(self, progress: ScrubProgress) -> None:
        """Log the faults that were not logged yet, and raise the gauge."""
        for fault in progress.faults[self._logged :]:
            entry = "no single entry" if fault.index is None else f"entry {fault.index}"
            log.error("scrub found damage: %s: %s; see ops/RUNBOOK.md, ConsentdScrubFault", entry, fault.what)
        self._logged = len(progress.faults)
        if progress.damaged > self._damaged:
            self._damaged = progress.damaged
            self._metrics.scrub_damaged_records.set(self._damaged)

    def _run_on_writer(self, run: Callable[[], T], /) -> T:
        """Run something on the sequencer's thread. While its pool is full of writes, wait."""
        while True:
            try:
                return self._sequencer.call(run)
            except OverloadedError:
                self._wait(self._config.records_per_s)

    def _wait(self, records: int) -> None:
        """Keep to the rate. Short waits are added up first, because the system makes each one longer."""
        self._owed_s += records / self._config.records_per_s
        if self._owed_s >= 0.01:
            wait_s, self._owed_s = self._owed_s, 0.0
            self._stopping.wait(wait_s)
        if self._stopping.is_set():
            raise _Stopped
