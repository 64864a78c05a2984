"""Scrub in the background: one thread verifies all stored records at a bounded rate, and starts over after each pass.

The thread counts and logs damage. It does not stop the daemon: decisions that do not need a damaged record are still
correct, and one bad row is no reason to stop a national service. It mends only rows of the policy table
(``verify.scrub_table``). What an operator must do about damage is described in ops/RUNBOOK.md, ConsentdScrubFault.

A pass over a large ledger takes a day. So every minute, also during a pass, the thread makes a *short pass* over what
changed lately and over the table rows that all persons share (``verify.scrub_recent``).
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from consentd.clock import Clock
from consentd.config import Config
from consentd.errors import ConsentdError, OverloadedError
from consentd.metrics import Metrics
from consentd.sequencer.loop import Sequencer
from consentd.verify.scrub import Scrub
from consentd.verify.scrub_recent import RecentScrub
from consentd.verify.scrub_records import ScrubTarget
from consentd.verify.scrub_table import ScrubOptions, ScrubProgress, clear

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_WAIT_S = 60.0
"""Longest time from the start to the first pass, and from a pass that spoiled rows to the pass that mends them."""
_SHORT_INTERVAL_S = 60.0
"""Least time from the end of a short pass to the next one, if passes do not follow each other faster."""
_PASS_SHARE = 4
"""After a short pass, passes have at least this many times the time that it took."""


class _Stopped(Exception):  # noqa: N818  # this exception ends a pass and reports no error
    """Raised during a pass when the daemon is stopping."""


class Scrubber:
    """The thread that scrubs. Call ``start`` once, and ``stop`` before the sequencer is stopped."""

    def __init__(
        self, config: Config, target: ScrubTarget, *, sequencer: Sequencer, metrics: Metrics, clock: Clock,
        put_credentials: Callable[[], int],
    ) -> None:  # fmt: skip
        """Prepare the thread.

        Args:
            target: the ledger that the daemon serves, with its vault and table.
            put_credentials: puts the table's rows of credentials right, and returns how many were wrong. Rows of
                credentials that ended by themselves since the last change count too.
        """
        self._put_credentials = put_credentials
        self._config, self._metrics, self._clock = config.scrub, metrics, clock
        self._target, self._sequencer = target, sequencer
        # A pass makes a copy of the table beside the table: a backup that leaves out the table leaves out the copy too.
        scratch_dir = config.table.path.with_name(config.table.path.name + ".scrub")
        self._options = ScrubOptions(scratch_dir=scratch_dir, map_size_mb=config.table.map_size_mb)
        small_dir = scratch_dir.with_name(scratch_dir.name + ".recent")
        self._recent = RecentScrub(
            target, replace(self._options, scratch_dir=small_dir), run_on_writer=self._run_on_writer,
            pause=self._pace,
        )  # fmt: skip
        self._small_dir = small_dir
        self._short_interval_s = min(_SHORT_INTERVAL_S, self._config.interval_s)
        first_s = min(self._config.interval_s, _FIRST_WAIT_S) + self._short_interval_s  # the first pass begins before
        self._short_due_ms = clock.monotonic_ms() + round(1000 * first_s)  # used only by the thread
        self._stopping = threading.Event()
        self._owed_s = 0.0  # used only by the thread: how long it must still wait for the records it has read
        self._damaged = 0  # used only by the thread: the number of damaged records that the metric shows
        self._logged = 0  # used only by the thread: how many faults of this pass were logged
        self._spoiled = 0  # used only by the thread: how many rows the last pass has spoiled
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def start(self) -> None:
        """Delete the scratch files of a pass that was killed; start the thread, unless it is configured off."""
        clear(self._options.scratch_dir)
        clear(self._small_dir)
        if self._config.records_per_s:
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread, if necessary during a pass."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = min(self._config.interval_s, _FIRST_WAIT_S)
        while self._sequencer.fault is None and self._wait_for_pass(wait_s):
            began_ms = self._clock.monotonic_ms()
            if not self._attempt(self._pass):
                return
            wait_s = max(0.0, self._config.interval_s - (self._clock.monotonic_ms() - began_ms) / 1000)
            if self._spoiled:
                # Until the next pass nothing is decided about these persons. The first wait is short as well.
                wait_s = min(wait_s, _FIRST_WAIT_S)

    def _wait_for_pass(self, wait_s: float) -> bool:
        """Wait for the next pass; make short ones meanwhile when they are due. Return False if the thread must end."""
        while True:
            left_s = (self._short_due_ms - self._clock.monotonic_ms()) / 1000
            if left_s <= 0:
                if not self._attempt(self._short_pass):
                    return False
                continue
            step_s = min(wait_s, left_s)
            if self._stopping.wait(step_s) or self._sequencer.fault is not None:
                return False
            wait_s -= step_s
            if wait_s <= 0:
                return True

    def _attempt(self, run: Callable[[], None]) -> bool:
        """Make a pass; log why it fails, if it does. Return False if the thread must end."""
        try:
            run()
        except _Stopped:
            return False
        except ConsentdError as error:
            # If the daemon is stopping or the ledger has stopped, the error is a consequence and already logged.
            if not self._stopping.is_set() and self._sequencer.fault is None:
                self._metrics.scrub_failures.inc()
                log.error("scrub failed: %s", error)
        except Exception as error:
            # The message of an unknown exception may contain personal data: log only its type and traceback.
            self._metrics.scrub_failures.inc()
            log.error("bug in scrub: %s", type(error).__name__, exc_info=error)
        return True

    def _short_pass(self) -> None:
        """Verify what changed lately, and the table rows that all persons share."""
        logged, self._logged = self._logged, 0
        began_ms = self._clock.monotonic_ms()
        try:
            self._recent.run()
        finally:
            self._report(self._recent.progress)
            self._logged = logged
            now_ms = self._clock.monotonic_ms()
            self._short_due_ms = now_ms + max(round(1000 * self._short_interval_s), _PASS_SHARE * (now_ms - began_ms))

    def _pace(self, records: int) -> None:
        """Count records that a short pass has read, and wait as long as the rate limit demands."""
        self._metrics.scrub_records.inc(by=records)
        self._wait(records)

    def _pass(self) -> None:
        """Verify all records once."""

        def pause(records: int) -> None:
            self._report(scrub.progress)
            self._metrics.scrub_records.inc(by=records)
            self._metrics.scrub_share.set(min(1.0, scrub.progress.checked / scrub.expected))
            self._wait(records)
            if self._clock.monotonic_ms() >= self._short_due_ms and not self._attempt(self._short_pass):
                raise _Stopped

        self._logged = self._spoiled = 0
        changed = self._put_credentials()
        if changed:
            log.warning("scrub put credentials in the table right: %d", changed)
        scrub = Scrub(self._target, self._options, run_on_writer=self._run_on_writer, pause=pause)
        try:
            scrub.run()
        finally:
            self._report(scrub.progress)
            self._spoiled = scrub.progress.spoiled
            self._recent.add(scrub.progress.spoiled_tags)
        # A pass without damage sets the metric to zero. So the alarm ends when the damage is gone, not by a timeout.
        self._damaged = scrub.progress.damaged
        self._metrics.scrub_damaged_records.set(self._damaged)
        self._metrics.scrub_share.set(1)
        self._metrics.scrub_pass_time_seconds.set(self._clock.wall_ms() / 1000)

    def _report(self, progress: ScrubProgress) -> None:
        """Log the faults that were not logged yet, and raise the metric if more records are damaged."""
        for fault in progress.faults[self._logged :]:
            entry = "no single entry" if fault.index is None else f"entry {fault.index}"
            log.error("scrub found damage: %s: %s; see ops/RUNBOOK.md, ConsentdScrubFault", entry, fault.what)
        self._logged = len(progress.faults)
        if progress.damaged > self._damaged:
            self._damaged = progress.damaged
            self._metrics.scrub_damaged_records.set(self._damaged)

    def _run_on_writer(self, run: Callable[[], T], /) -> T:
        """Call *run* on the sequencer's thread; wait while the sequencer's queue is full."""
        while True:
            try:
                return self._sequencer.call(run)
            except OverloadedError:
                self._wait(self._config.records_per_s)

    def _wait(self, records: int) -> None:
        """Wait as long as the rate limit demands for *records*. Short waits are added up to save overhead."""
        self._owed_s += records / self._config.records_per_s
        if self._owed_s >= 0.01:
            wait_s, self._owed_s = self._owed_s, 0.0
            self._stopping.wait(wait_s)
        if self._stopping.is_set():
            raise _Stopped
