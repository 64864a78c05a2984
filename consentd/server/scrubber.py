"""Scrub in the background: a thread that goes over all records at a bounded rate, again and again.

It finds, counts and logs; it repairs nothing and stops nothing, for checks that do not need a damaged record are as
good as ever, and a national service is not taken away for one bad row. What an operator does about it is in
ops/RUNBOOK.md, ConsentdScrubFault.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from consentd.clock import Clock
from consentd.config import Config
from consentd.core.note import Verifier
from consentd.errors import ConsentdError, OverloadedError
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.sequencer.loop import Sequencer
from consentd.table.table import Table
from consentd.verify.scrub import Scrub
from consentd.verify.scrub_table import clear

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818  # no error: it ends a pass
    """The daemon drains."""


class Scrubber:
    """The thread. ``start`` once, ``stop`` before the sequencer stops."""

    def __init__(
        self,
        config: Config,
        *,
        ledger: Ledger,
        vault: Vault,
        table: Table,
        log_verifier: Verifier,
        sequencer: Sequencer,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """Take over what is served."""
        self._config, self._metrics, self._clock = config.scrub, metrics, clock
        self._sequencer = sequencer
        self._stopping = threading.Event()
        # Beside the table and not in data_dir: whoever keeps the table out of backups keeps its copy out too.
        self._scratch_dir = config.table.path.with_name(config.table.path.name + ".scrub")
        # Owner: the thread. Time it has yet to wait for what it has read; what the gauge shows.
        self._debt_s = 0.0
        self._damaged = 0

        def make(pause: Callable[[int], None]) -> Scrub:
            return Scrub(
                ledger,
                vault,
                table,
                last_signed_path=config.ledger.last_signed_path,
                origin=config.ledger.origin,
                log_verifier=log_verifier,
                call=self._call,
                pause=pause,
                scratch_dir=self._scratch_dir,
                map_size_mb=config.table.map_size_mb,
            )

        self._make = make
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def start(self) -> None:
        """Begin, unless the configuration turns it off. What a killed daemon left of a pass is deleted either way."""
        clear(self._scratch_dir)
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
            try:
                self._pass()
            except _Stopped:
                return
            except ConsentdError as error:
                # A drain, or a ledger that stopped, says so itself.
                if not self._stopping.is_set() and self._sequencer.fault is None:
                    self._metrics.scrub_failures.inc()
                    log.error("scrub could not go on: %s", error)
            except Exception as error:
                # The text of a foreign exception may hold anything, so the log gets its type and place only.
                self._metrics.scrub_failures.inc()
                log.error("bug in scrub: %s", type(error).__name__, exc_info=error)
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
            if scrub.damaged > self._damaged:
                self._damaged = scrub.damaged
                self._metrics.scrub_damaged_records.set(scrub.damaged)

        def pause(records: int) -> None:
            tell()
            self._metrics.scrub_records.inc(by=records)
            self._metrics.scrub_share.set(min(1.0, scrub.looked / scrub.expected))
            self._wait(records)

        scrub = self._make(pause)
        try:
            scrub.run()
        finally:
            tell()
        # Zero again once a pass found nothing: the alarm ends when the damage is gone, not when time has passed.
        self._damaged = scrub.damaged
        self._metrics.scrub_damaged_records.set(scrub.damaged)
        self._metrics.scrub_share.set(1)
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
