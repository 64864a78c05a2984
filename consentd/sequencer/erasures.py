"""Carry out erasures: a thread destroys what the ledger's ERASURE entries ask for, beside the sequencer.

``ledger.erasure`` defines the steps. Those that write the ledger's store run on the sequencer's thread, between two
batches, and take a few milliseconds. All others run here: nobody waits for them but the callers that ask for an
erasure. Erasures that wait together are carried out together, because to write the policy table anew takes the most
time, and takes as long for one person as for a thousand.

If a step fails, the callers that wait get an error, and all steps are repeated after ``RETRY_S``. The rows ``e`` say
what is left to do. So nothing is lost if the daemon ends at any point.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from consentd.clock import Clock
from consentd.core.pruned import DAY_MS
from consentd.errors import ConsentdError, NotReachedError, StorageError
from consentd.ledger import erasure, layout
from consentd.ledger.erasure import Erased, ErasureList
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.metrics import Metrics
from consentd.policy.dates import format_month
from consentd.sequencer.commands.erasure import EraseUnknownChain
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.pool import Written
from consentd.store import Batch, Store
from consentd.table.renewal import renew
from consentd.table.table import Table

A = TypeVar("A")

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""How long after a failure the steps are repeated."""
LOOK_S = 3600.0
"""How often to look for unknown chains whose retention has ended."""
_GATHER_S = 0.02
_GATHERINGS, _GATHERINGS_OF_BATCH = 10, 100
"""How long to wait for a further order before the work begins, and how often; and while orders are being recorded. One
costs almost as much as many."""
_FILES_S = 10.0
_LOOK_S = 0.02
"""How long to wait until readers have let go of the old files of a store, and how often to look."""


class Erasures:
    """The erasures that are not complete. Any thread may call ``expect``, ``note_ordered`` and ``when_complete``.

    Attributes:
        files: held while files of the stores are rewritten here, or copied for a backup. A copy keeps what is erased.
        looked: set when what was left at the start has been carried out.
    """

    def __init__(
        self, *, ledger: Ledger, vault: Vault, table: Table, sequencer: Sequencer, listed: ErasureList, clock: Clock,
        metrics: Metrics, refusal_retention_days: int | None, rest: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """*rest*: called between two pieces of work, to give way to calls.

        *refusal_retention_days*: age at which refusals about persons who are not enrolled are erased; None: never, as
        in a restored copy, which appends no ERASURE.
        """
        self._ledger, self._vault, self._table, self._sequencer = ledger, vault, table, sequencer
        self._list, self._clock, self._rest = listed, clock, rest
        self._retention_ms = None if refusal_retention_days is None else refusal_retention_days * DAY_MS
        # This lock guards the attributes below, and signals their changes. Each method but _carry_out's steps takes it.
        self._changed = threading.Condition()
        self._hashes: dict[bytes, bytes] = {}  # tag → identifier hash, of erasures that were asked for
        self._unrecorded: set[bytes] = set()  # tags of orders that are being recorded
        self._waits: dict[bytes, list[Future[None]]] = {}  # tag → the callers that wait for its erasure
        self._is_woken = True  # a crash may have left something to do
        self._is_stopping = False
        self._pending_since_ms: int | None = None
        # Whether rows may be deleted and not compacted away, of an attempt that failed or ended. For the thread alone.
        self._is_interrupted = bool(erasure.pending(ledger.store))
        self.looked = threading.Event()
        self.files = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)
        metrics.erasure_pending_time_seconds.follow(self._pending_time_s)

    def start(self) -> None:
        """Begin to carry out erasures."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present step. What is left is done after the next start."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._fail_waits(StorageError("daemon is draining", "NOT_SERVING"))

    def expect(self, tag: bytes, identifier_hash: bytes) -> None:
        """Note the identifier hash of a person whose erasure is asked for. So it need not be looked for among all."""
        with self._changed:
            self._hashes[tag] = identifier_hash
            self._unrecorded.add(tag)

    def forget(self, tag: bytes) -> None:
        """Forget what ``expect`` noted, because no order was submitted."""
        with self._changed:
            self._hashes.pop(tag, None)
            self._unrecorded.discard(tag)

    def note_ordered(self, tag: bytes, written: "Future[Written[int | None]]") -> None:
        """Look for the ERASURE that was perhaps written; forget what ``expect`` noted if none was."""
        is_erased = not written.cancelled() and written.exception() is None and written.result().answer is None
        with self._changed:
            if not is_erased:
                self._hashes.pop(tag, None)
            self._unrecorded.discard(tag)
            self._is_woken = True
            self._changed.notify_all()

    def when_complete(self, tag: bytes, index: int) -> "Future[None]":
        """Return a future that is done when the erasure of leaf *index* is complete; it is done if that is so now.

        The future ends in ``NotReachedError`` (ERASURE_PENDING) if a step fails, and in ``StorageError`` if the daemon
        stops. The caller may cancel it.
        """
        future: Future[None] = Future()
        with self._changed:
            if self._is_stopping:
                future.set_exception(StorageError("daemon is draining", "NOT_SERVING"))
            elif self._ledger.store.get(layout.erasure_key(index)) is None:
                future.set_result(None)
            else:
                # The thread knows of the order: by ``note_ordered``, from before a failure, or from the start.
                self._waits.setdefault(tag, []).append(future)
        return future

    def _pending_time_s(self) -> float:
        with self._changed:
            return math.nan if self._pending_since_ms is None else self._pending_since_ms / 1000

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_woken or self._is_stopping, LOOK_S)
                for number in range(_GATHERINGS_OF_BATCH):  # as long as more orders arrive
                    if self._is_stopping:
                        return
                    self._is_woken = False
                    is_woken = self._changed.wait_for(lambda: self._is_woken or self._is_stopping, _GATHER_S)
                    if not self._unrecorded and (not is_woken or number >= _GATHERINGS):
                        break
                self._is_woken = False
                hashes = dict(self._hashes)
            try:
                self._erase_unknown_chains()
                done = self._carry_out(hashes)
            except Exception as error:  # noqa: BLE001  # a bug must not end the thread: what is left would stay
                self._note_failure(error)
                continue
            self._note_done(done)
            self.looked.set()

    def _erase_unknown_chains(self) -> None:
        """Append the ERASUREs of the unknown chains whose retention has ended."""
        if self._retention_ms is None:
            return
        kept_from = format_month(max(0, self._clock.wall_ms() - self._retention_ms))
        for month, tag in self._vault.unknown_chains().items():
            if month < kept_from and self._ledger.head(tag)[0]:
                self._sequencer.submit(EraseUnknownChain(tag=tag)).result()

    def _carry_out(self, hashes: Mapping[bytes, bytes]) -> list[Erased]:
        """Carry out the erasures that are not complete; return them."""
        store = self._ledger.store
        erasures = erasure.pending(store)
        if not erasures:
            return []
        with self._changed:
            if self._pending_since_ms is None:
                self._pending_since_ms = self._clock.wall_ms()
        self._list.add(erasures)
        self._vault.destroy({one.tag: hashes.get(one.tag) for one in erasures})
        tags = [one.tag for one in erasures]
        requests = []
        for batch, keys in erasure.statement_rows(store, tags):
            self._call(partial(store.write, batch))
            requests += keys
            self._rest()
        for tag in tags:
            if tag in hashes:
                self._sequencer.quotas.forget_everywhere(hashes[tag])
        names = [b"k" + tag for tag in tags]
        names += [b"i" + hashes[tag] for tag in tags if tag in hashes]
        if not self.files.acquire(timeout=_FILES_S):
            raise StorageError("backup is being written, and its copies of the stores have what is erased")
        try:
            known = names if len(names) == 2 * len(tags) else []
            # Three kinds of files, of which none waits for another.
            with ThreadPoolExecutor(2, thread_name_prefix="erasures") as pool:
                steps = [
                    pool.submit(erasure.compact_vault, self._vault.store, known),
                    pool.submit(erasure.compact_ledger, store, tags, None if self._is_interrupted else requests),
                ]
                renew(self._table, store, self._vault, run_on_writer=self._call, rest=self._rest)
            for step in steps:
                step.result()
            for each in (self._vault.store, store):
                self._wait_for_files(each)
            # A crash before this: the rows are still there, and the next start does all again.
            self._call(partial(self._complete, erasures))
            self._is_interrupted = False
        finally:
            self.files.release()
        return erasures

    def _complete(self, erasures: list[Erased]) -> None:
        batch = Batch()
        for one in erasures:
            batch.delete(layout.erasure_key(one.index))
        self._ledger.store.write(batch)

    def _wait_for_files(self, store: Store) -> None:
        """Wait until no reader keeps old files of a store. Raises StorageError if one keeps them for long."""
        until_s = time.monotonic() + _FILES_S
        while left := store.old_files():
            if time.monotonic() > until_s:
                raise StorageError(f"files with deleted rows are still being read: `{left}`")
            with self._changed:
                if self._changed.wait_for(lambda: self._is_stopping, _LOOK_S):
                    raise StorageError("daemon is draining", "NOT_SERVING")

    def _call(self, call: Callable[[], A]) -> A:
        return self._sequencer.call(call)

    def _note_done(self, erasures: list[Erased]) -> None:
        with self._changed:
            self._pending_since_ms = None
            waits = [future for one in erasures for future in self._waits.pop(one.tag, [])]
            for one in erasures:
                self._hashes.pop(one.tag, None)
        if erasures:
            log.info("erasures complete: %d", len(erasures))
        for future in waits:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def _note_failure(self, error: Exception) -> None:
        self._is_interrupted = True
        if isinstance(error, ConsentdError):
            log.error("erasures are not complete: %s; see ops/RUNBOOK.md, `erasure does not complete`", error)
        else:
            log.error("erasures are not complete: bug: %s", type(error).__name__, exc_info=error)
        what = "erasure is recorded, and not everything is deleted yet: repeat the call with its request_id"
        self._fail_waits(NotReachedError(what, "ERASURE_PENDING", retry_after_ms=round(RETRY_S * 1000)))
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping, RETRY_S)
            self._is_woken = True

    def _fail_waits(self, error: ConsentdError) -> None:
        with self._changed:
            waits = [future for futures in self._waits.values() for future in futures]
            self._waits.clear()
        for future in waits:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
