"""Scrub in the background: a thread that goes over all records at a bounded rate, again and again.

It finds, counts and logs; it repairs nothing and stops nothing, for checks that do not need a damaged record are as
good as ever, and a national service is not taken away for one bad row. What an operator does about it is in
ops/RUNBOOK.md, ConsentdScrubFault.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consentd.clock import Clock
from consentd.config import ScrubConfig
from consentd.errors import ConsentdError, OverloadedError
from consentd.ledger.ledger import Ledger
from consentd.ledger.scrub import Scrub
from consentd.ledger.table import Table
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.sequencer import Sequencer

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818  # no error: it ends a pass
    """The daemon drains."""


class Scrubber:
    """The thread. ``start`` once, ``stop`` before the sequencer stops."""

    def __init__(
        self,
        config: ScrubConfig,
        *,
        ledger: Ledger,
        vault: Vault,
        table: Table,
        sequencer: Sequencer,
        metrics: Metrics,
        clock: Clock,
        scratch_dir: Path,
        map_size_mb: int,
    ) -> None:
        """Take over what is served; see ``Scrub`` for the last two."""
        self._config, self._metrics, self._clock = config, metrics, clock
        self._sequencer = sequencer
        self._scratch_dir = scratch_dir
        self._stopping = threading.Event()
        # Owner: the thread. Time it has yet to wait for what it has read; what it counts as damaged.
        self._debt_s = 0.0
        self._damaged = 0

        def make(pause: Callable[[int], None]) -> Scrub:
            return Scrub(
                ledger, vault, table, call=self._call, pause=pause, scratch_dir=scratch_dir, map_size_mb=map_size_mb
            )

        self._make = make
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def start(self) -> None:
        """Begin, unless the configuration turns it off."""
        for left in self._scratch_dir.glob("scrub-*"):  # by a daemon that was killed
            shutil.rmtree(left, ignore_errors=True)
        if self._config.records_per_s:
            self._thread.start()

    def stop(self) -> None:
        """End it, in the middle of a pass as well."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = min(self._config.interval_s, 60.0)
        while not self._stopping.wait(wait_s) and self._sequencer.fault is None:
            began_ms = self._clock.monotonic_ms()
            self._pass()
            wait_s = max(0.0, self._config.interval_s - (self._clock.monotonic_ms() - began_ms) / 1000)

    def _pass(self) -> None:
        """Go over everything once."""
        told = 0
        scrub: Scrub

        def tell() -> None:
            nonlocal told
            for fault in scrub.faults[told:]:
                place = "no single entry" if fault.index is None else f"entry {fault.index}"
                log.error("scrub found damage: %s: %s; see ops/RUNBOOK.md, ConsentdScrubFault", place, fault.what)
            told = len(scrub.faults)
            if told > self._damaged:
                self._damaged = told
                self._metrics.scrub_damaged_records.set(told)

        def pause(records: int) -> None:
            tell()
            self._metrics.scrub_records.inc(by=records)
            self._wait(records)

        scrub = self._make(pause)
        try:
            scrub.run()
            tell()
        except _Stopped:
            return
        except ConsentdError as error:
            if not self._stopping.is_set():
                log.error("scrub could not go on: %s", error)
            return
        # Zero again once a pass found nothing: the alarm ends when the damage is gone, not when time has passed.
        self._damaged = told
        self._metrics.scrub_damaged_records.set(told)
        self._metrics.scrub_pass_time_seconds.set(self._clock.wall_ms() / 1000)

    def _call(self, run: Callable[[], Any]) -> Any:
        """Run something on the sequencer's thread; writes that wait go first."""
        while True:
            try:
                return self._sequencer.call(run)
            except OverloadedError:
                self._wait(self._config.records_per_s)

    def _wait(self, records: int) -> None:
        """Keep to the rate. Short waits are saved up, for a wait costs more than it is long."""
        self._debt_s += records / self._config.records_per_s
        if self._debt_s >= 0.01:
            wait_s, self._debt_s = self._debt_s, 0.0
            self._stopping.wait(wait_s)
        if self._stopping.is_set():
            raise _Stopped
