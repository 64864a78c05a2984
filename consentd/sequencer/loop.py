"""Order what is written: one thread, one pool, one batch, one commit.

**Theory of operation.** Service threads put *writes* into the pool and wait on a future. The sequencer's thread
takes all that wait and works them off in one batch:

1. read the clock; the ledger's time never runs back
2. open the table's transaction, so that each write sees the ones before it in its own batch
3. for each write: known request? else check it, decide it, draft its entries, append, apply to the table
4. where a checkpoint is due: append the seal
5. write the batch to the store, synced             ← from here on the entries exist
6. commit the table                                 ← from here on every check sees them
7. answer the futures
8. after a seal: re-read leaves, tiles and state, sign, store the signed checkpoint, offer it to the publisher

A crash before 5 loses what nobody was told. Between 5 and 6 the table is behind, and catches up when the daemon
opens. Between 6 and 8 a seal is unsigned, and is signed then. A write that is refused (``RequestError``) leaves
nothing behind. Any other failure from 3 to 8 stops the sequencer: outcomes may be unknown, and only opening the
ledger anew tells. Recovery runs this same code: opening seals and publishes by an empty batch.

Source: ledger-format.md, "The commit".
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from consentd.clock import Clock, LeafClock
from consentd.core import checkpoint, tiles
from consentd.core.note import NoteSigner, parse_note
from consentd.cosigning.publisher import ImmediatePublisher, Published, Publisher
from consentd.errors import (
    ConflictError,
    ConsentdError,
    CorruptionError,
    NotFoundError,
    RequestError,
    StorageError,
)
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import read_last_signed, write_last_signed
from consentd.ledger.ledger import AppendBatch, Appended, Ledger, decode_state
from consentd.ledger.map_history import MapHistory
from consentd.ledger.recovery import read_tiles
from consentd.metrics import Metrics
from consentd.sequencer.commands.context import Answer, Author, Write, WriteContext
from consentd.sequencer.pool import Call, Pool, Waiting, Written
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction

T = TypeVar("T")

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
"""How often readers of the table are told that its writer lives, while nothing is written."""


@dataclass(slots=True)
class _Done:
    waiting: Waiting
    entries: tuple[Appended, ...]
    recorded_index: int | None
    answer: Answer
    replayed: bool


class Sequencer:
    """The single writer. ``submit``, ``call`` and ``wait_published`` may be used from any thread."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        table: Table,
        author: Author,
        log_signer: NoteSigner,
        last_signed_path: Path,
        clock: Clock,
        metrics: Metrics,
        checkpoint_interval_ms: int,
        max_waiting: int,
        max_batch: int,
        idempotency_ms: int,
        confirm_clock: bool = False,
        on_fault: Callable[[], None] = lambda: None,
        more_signers: Sequence[NoteSigner] = (),
        publisher: Publisher | None = None,
    ) -> None:
        """Take over a ledger that was opened and verified.

        Args:
            confirm_clock: an operator confirms a clock that is behind the last leaf; its time is then used again.
            on_fault: called once when the sequencer stops on a failure.
            more_signers: further keys that sign each checkpoint.
            publisher: decides when a checkpoint becomes public; None: at once.
        """
        self.ledger = ledger
        self.table = table
        self._author = author
        self._signers = (log_signer, *more_signers)
        self._publisher: Publisher = ImmediatePublisher() if publisher is None else publisher
        self._last_signed_path = last_signed_path
        self.clock = clock
        self._metrics = metrics
        self._interval_ms = checkpoint_interval_ms
        self._max_batch = max_batch
        self._idempotency_ms = idempotency_ms
        self._on_fault = on_fault
        self._pool = Pool(max_waiting, metrics.pool_entries)
        # Replaced by assignment, by the publisher's thread only; _news tells those who wait for it.
        self.published: Published | None = None
        self._news = threading.Condition()
        # The last checkpoint signed, published or not. Replaced by assignment, by the sequencer's thread only.
        self.signed: checkpoint.Checkpoint | None = None
        metrics.quorum.set(1)
        # Owner: the sequencer's thread.
        self._sealed_ms = clock.monotonic_ms()
        if publisher is not None:
            ledger.map.history = MapHistory(ledger.state.sealed_size)
        self._clock_agrees = True  # as it was logged last
        self._leaf_clock = LeafClock(clock, ledger.state.time_ms, confirmed=confirm_clock)
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    # -- for any thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Catch up and publish what a crash left unfinished, then begin to take writes.

        Raises:
            StorageError, CorruptionError: see ``opening.open_ledger``; nothing was started.
        """
        self._publisher.start(self._show, self._pool.halt)
        try:
            self._recover()
        except BaseException:
            self._publisher.stop()
            raise
        self._thread.start()

    def submit(self, write: Write) -> "Future[Written[Answer]]":
        """Put a write into the pool. See ``submit_all``."""
        return self.submit_all([write])[0]

    def submit_all(self, writes: Sequence[Write]) -> "list[Future[Written[Answer]]]":
        """Put writes into the pool together; each is recorded or refused by itself.

        A future ends in ``OverloadedError`` where too many wait already.

        Raises:
            StorageError: the sequencer is stopping or has stopped; nothing is recorded.
        """
        waiting = [Waiting(write, Future()) for write in writes]
        self._pool.put(waiting)
        return [one.future for one in waiting]

    def call(self, call: Callable[[], T]) -> T:
        """Run *call* on the sequencer's thread between two turns, where map and heads agree; return its value.

        Raises:
            StorageError: the sequencer is stopping or has stopped.
            OverloadedError: too much waits already; or whatever *call* raises.
        """
        waiting = Call(call, Future())
        self._pool.put([waiting])
        return waiting.future.result()  # type: ignore[return-value]  # the future carries what *call* returned

    def wait_published(self, size: int, timeout_s: float) -> Published | None:
        """Wait until a published checkpoint covers *size* leaves; None where *timeout_s* passed first."""
        with self._news:
            self._news.wait_for(lambda: self._covers(size) or self.fault is not None, timeout_s)
            return self.published if self._covers(size) else None

    def prove_heads(self, tags: Sequence[bytes]) -> tuple[reads.HeadProofs, Published]:
        """Prove where *tags* stood at the published checkpoint, and return it.

        Not at the last seal: while its cosignatures are awaited, what was published can be proven against all the
        same. ``MapHistory`` keeps what that takes.

        Raises:
            NotFoundError: nothing was published yet.
            StorageError: the published checkpoint is too far behind; see ``MapHistory``.
        """

        def take() -> tuple[reads.HeadProofs, Published]:
            published = self.published
            if published is None:
                raise NotFoundError("no checkpoint is published yet")
            return reads.prove_heads(self.ledger, tags, published.checkpoint.size), published

        return self.call(take)

    @property
    def has_quorum(self) -> bool:
        """Whether the last checkpoint that was due had the cosignatures it needs."""
        return self._publisher.has_quorum

    @property
    def fault(self) -> ConsentdError | None:
        """What stopped the sequencer, or None."""
        return self._pool.fault

    def stop(self) -> None:
        """Take no more writes, finish those that wait, seal, publish, and end the thread."""
        self._pool.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self._publisher.stop()

    def _covers(self, size: int) -> bool:
        return self.published is not None and self.published.checkpoint.size >= size

    # -- the sequencer's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                items = self._pool.take(self._max_batch, self._idle_s)
                if items is None:
                    break
                self._work(items)
            self._turn([], seal=True)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the writer must not go on, and must say so
            self._stop_on(error)

    def _idle_s(self) -> float:
        if self.ledger.state.size > self.ledger.state.sealed_size:
            return max(0.0, (self._sealed_ms + self._interval_ms - self.clock.monotonic_ms()) / 1000)
        return HEARTBEAT_S

    def _work(self, items: list[Waiting | Call]) -> None:
        for item in items:
            if isinstance(item, Call):
                try:
                    item.future.set_result(item.call())
                except Exception as error:  # noqa: BLE001  # it goes to whoever called; the sequencer's state is untouched
                    item.future.set_exception(error)
        writes = [item for item in items if isinstance(item, Waiting)]
        due = self.clock.monotonic_ms() >= self._sealed_ms + self._interval_ms
        if writes or (due and self.ledger.state.size > self.ledger.state.sealed_size):
            self._turn(writes, seal=due)
        else:
            self._beat()

    def _beat(self) -> None:
        """Tell readers of the table that its writer lives."""
        now_ms = self.clock.wall_ms()
        self.table.heartbeat(now_ms)
        self._metrics.table_heartbeat_time_seconds.set(now_ms / 1000)

    def _turn(self, writes: Sequence[Waiting], *, seal: bool) -> None:
        """Do one batch: the steps of the module's text, in their order."""
        try:
            turn_ms = self._leaf_clock.time_ms(self.ledger.state.time_ms)
        except StorageError as error:
            self._metrics.clock_refusals.inc(self._leaf_clock.disagrees)
            self._tell_clock(agrees=False)
            self._sealed_ms = self.clock.monotonic_ms()  # a due seal waits an interval more, rather than spin
            for waiting in writes:
                waiting.future.set_exception(error)
            return
        self._tell_clock(agrees=True)
        batch = AppendBatch(self.ledger, turn_ms, forget_before_ms=turn_ms - self._idempotency_ms)
        done: list[_Done] = []
        failed: list[tuple[Waiting, RequestError]] = []
        try:
            with self.table.begin() as transaction:
                context = WriteContext(self._author, batch, transaction)
                for waiting in writes:
                    try:
                        done.append(self._append(waiting, batch, transaction, context))
                    except RequestError as error:
                        failed.append((waiting, error))
                if seal and batch.is_seal_due():
                    started = time.perf_counter()
                    batch.seal()
                    self._metrics.seal_seconds.observe(time.perf_counter() - started)
                if batch.index > self.ledger.state.size:
                    self._commit(batch, transaction, len(done))
        except BaseException:
            # INVARIANT: nobody is told a write failed when it may be on disk: the fault says "unknown".
            unknown = StorageError("write failed; whether it is recorded is unknown, repeat it with its request_id")
            for waiting in writes:
                if not waiting.future.done():
                    waiting.future.set_exception(unknown)
            raise
        # A crash here: all is durable and in force; the callers time out, repeat, and are told the first receipt.
        for waiting, refused in failed:
            waiting.future.set_exception(refused)
        state = self.ledger.state
        for one in done:
            one.waiting.future.set_result(
                Written(one.entries, one.recorded_index, state, one.answer, replayed=one.replayed)
            )
        if batch.sealed:
            self._sign()

    def _tell_clock(self, *, agrees: bool) -> None:
        """Log when the clock begins to disagree, with how much an operator has to explain, and when it ends."""
        if agrees == self._clock_agrees:
            return
        self._clock_agrees = agrees
        if agrees:
            log.info("clock agrees with the ledger again")
            return
        from_last_ms = self.clock.wall_ms() - self.ledger.state.time_ms
        log.error(
            "clock disagrees with the ledger, %s: writes are refused: it shows %+d ms from the last entry's time; "
            "see ops/RUNBOOK.md, `confirm a clock`", self._leaf_clock.disagrees, from_last_ms,
        )  # fmt: skip

    def _append(
        self, waiting: Waiting, batch: AppendBatch, transaction: TableTransaction, context: WriteContext
    ) -> _Done:
        """Check, draft, append and apply one write; ``RequestError`` before anything was appended."""
        write = waiting.write
        recorded = batch.recorded(write.request_key) if write.request_key else None
        if recorded is not None:
            index, content = recorded
            if content != write.content:
                self._metrics.repeats.inc("conflicting")
                raise ConflictError("request_id was used for other content", "REQUEST_ID_REUSED")
            self._metrics.repeats.inc("same")
            return _Done(waiting, (), index, write.replay(context, index), True)
        plan = write.prepare(context)
        entries = []
        for draft, message in plan.entries:
            appended = batch.append(draft)
            try:
                transaction.apply(appended.event, message)
            except RequestError as error:
                # INVARIANT: nothing is refused once it is appended. ``prepare`` let pass what it must not.
                raise AssertionError("an entry was appended that the table does not take") from error
            entries.append(appended)
        first = entries[0].index if entries else None
        return _Done(waiting, tuple(entries), first, plan.answer, False)

    def _commit(self, batch: AppendBatch, transaction: TableTransaction, count: int) -> None:
        state = batch.close()
        started = time.perf_counter()
        self.ledger.commit(batch)
        synced = time.perf_counter()
        # A crash here: the entries exist and the table is behind; opening applies them to it.
        try:
            transaction.commit(state.size, state.root, self.clock.wall_ms())
        except BaseException:
            self.table.stop()
            raise
        self._metrics.commit_seconds.observe(synced - started, "ledger")
        self._metrics.commit_seconds.observe(time.perf_counter() - synced, "table")
        self._metrics.batch_entries.observe(count)
        self._metrics.ledger_size.set(state.size)

    def _sign(self) -> None:
        """Sign what is re-read from the store, remember it outside the store, then offer it to the publisher."""
        self._sealed_ms = self.clock.monotonic_ms()
        state = decode_state(self.ledger.store.get(layout.STATE) or b"")
        root = tiles.root(state.size, read_tiles(self.ledger.store, tiles.plan_root(state.size)))
        if (state.size, root) != (self.ledger.state.size, self.ledger.state.root):
            raise CorruptionError(f"store does not hold what was written at size {self.ledger.state.size}")
        signed = self._signed_size()
        if state.size < signed:
            raise CorruptionError(f"ledger is smaller than its last signed checkpoint: size {state.size}")
        # Whoever trusts a checkpoint asks for the leaves below it: a bit that flipped since they were written is found
        # here, while their authors still hold what they sent.
        reads.verify_leaves(self.ledger.store, signed, state.size)
        point = checkpoint.Checkpoint(self._author.origin, state.size, root)
        note = checkpoint.sign_checkpoint(point, self._signers)
        # A crash here: signed, and nobody has it. Signing this same tree again gives the same note.
        write_last_signed(self._last_signed_path, note)
        # A crash here: this checkpoint is the last signed one; opening offers it again.
        self.signed = point
        self._publisher.offer(point, note)
        self._keep(self._publisher.pending())

    def _signed_size(self) -> int:
        """Return the size of the last signed checkpoint, signed by this process or by an earlier one."""
        if self.signed is not None:
            return self.signed.size
        note = read_last_signed(self._last_signed_path)
        return 0 if note is None else checkpoint.parse_checkpoint(parse_note(note).text).size

    def _keep(self, pending: Iterable[int]) -> None:
        """Keep the maps of the published checkpoint and of those that may be published, beside the last seal's."""
        past, published = self.ledger.map.history, self.published
        if past is not None:
            # INVARIANT: a publisher turns to the latest offered only. *pending* was read after this one was offered,
            # so what it turned to before is in it, and what it turns to from now on is this one or a later one.
            past.keep({*pending, 0 if published is None else published.checkpoint.size})

    def _show(self, published: Published) -> None:
        """Make a checkpoint public. Called by the publisher."""
        size, before = published.checkpoint.size, self.published
        with self._news:
            self.published = published
            self._news.notify_all()
        self._metrics.checkpoint_size.set(size)
        if before is None or before.checkpoint.size < size:
            self._metrics.checkpoints.inc()
        self._metrics.checkpoint_time_seconds.set(self.clock.wall_ms() / 1000)

    def _recover(self) -> None:
        """Finish what a crash left: events without a seal, a seal without a signature."""
        state = self.ledger.state
        if state.size == 0:
            return
        if state.size > state.sealed_size:
            self._turn([], seal=True)
        elif state.size > 1:
            self._sign()
        if self.signed is None:
            raise StorageError("clock disagrees with the ledger; set it right, or start with --confirm-clock", "CLOCK")

    def _stop_on(self, error: BaseException) -> None:
        """Say what happened, refuse everything from now on, and answer those who still wait."""
        fault = error if isinstance(error, ConsentdError) else StorageError(f"sequencer failed: {type(error).__name__}")
        log.critical("ledger stopped", exc_info=error)
        # INVARIANT: the fault is there before it is told, so that a daemon that has just begun to serve sees it.
        self._pool.fail(fault)
        self._metrics.ready.set(0)
        self._on_fault()
        with self._news:
            self._news.notify_all()
