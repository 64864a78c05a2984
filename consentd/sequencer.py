"""Order what is written: one thread, one pool, one batch, one commit.

**Theory of operation.** Service threads put *writes* into the pool and wait on a future. The sequencer's thread
takes all that wait and works them off in one turn:

1. read the clock; the ledger's time never runs back
2. open the table's transaction, so that each write sees the ones before it in its own batch
3. for each write: known request? else check it, decide it, draft its entries, append, apply to the table
4. where a checkpoint is due: append the seal
5. write the batch to the store, synced             ← from here on the entries exist
6. commit the table                                 ← from here on every check sees them
7. answer the futures
8. after a seal: re-read, sign, write the lock, offer to the publisher

A crash before 5 loses what nobody was told. Between 5 and 6 the table is behind, and catches up when the daemon
opens. Between 6 and 8 a seal is unsigned, and is signed then. A write that is refused (``RequestError``) leaves
nothing behind. Any other failure from 3 to 8 stops the sequencer: outcomes may be unknown, and only opening the
ledger anew tells. Recovery runs this same code: opening seals and publishes by an empty turn.

Source: ledger-format.md, "The commit".
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from consentd.core import checkpoint, tiles
from consentd.core.note import NoteSignature, format_note
from consentd.errors import (
    ConflictError,
    ConsentdError,
    CorruptionError,
    NotFoundError,
    OverloadedError,
    RequestError,
    StorageError,
)
from consentd.ledger import layout, reads
from consentd.ledger.ledger import Appended, Ledger, State, Turn, decode_state
from consentd.ledger.lock import write_lock
from consentd.ledger.opening import read_tiles
from consentd.ledger.past import Past
from consentd.ledger.table import Table
from consentd.ledger.table_turn import TableTurn
from consentd.metrics import Metrics
from consentd.witness.publisher import Immediate, Published, Publisher
from consentd.writes.desk import Answer, Author, Desk, Write

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_BEHIND_MS = 1_000
"""How far the clock may be behind the last leaf before writes are refused."""
MAX_AHEAD_MS = 5 * 60_000
"""How far the clock may run ahead of monotonic time before writes are refused."""
HEARTBEAT_S = 1.0
RECENT_CHECKPOINTS = 64
"""How many checkpoints are kept for proofs under way."""


class Clock(Protocol):
    """Wall time and monotonic time, both in milliseconds."""

    def wall_ms(self) -> int:
        """Return UTC milliseconds."""
        ...

    def monotonic_ms(self) -> int:
        """Return milliseconds that only ever grow."""
        ...


class SystemClock:
    """The machine's clock."""

    def wall_ms(self) -> int:
        """Return UTC milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return milliseconds that only ever grow."""
        return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """How a write ended.

    Attributes:
        entries: what it appended, in order; empty for a repeat, or where nothing is recorded.
        recorded_index: index of its first entry, also for a repeat; None where nothing is recorded.
        state: the ledger after the batch that holds it.
        answer: what the write says to its caller.
    """

    entries: tuple[Appended, ...]
    recorded_index: int | None
    state: State
    answer: T
    replayed: bool = False


class LogSigner(Protocol):
    """A key of the log's own: Ed25519, or ML-DSA-44 beside it."""

    def sign(self, text: str) -> NoteSignature:
        """Sign a checkpoint's text."""
        ...


@dataclass(slots=True)
class _Waiting:
    write: Write
    future: "Future[Written[Answer]]"


@dataclass(slots=True)
class _Call:
    call: Callable[[], object]
    future: "Future[object]"


@dataclass(slots=True)
class _Done:
    waiting: _Waiting
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
        log_signer: LogSigner,
        lock_path: Path,
        clock: Clock,
        metrics: Metrics,
        checkpoint_interval_ms: int,
        max_waiting: int,
        max_batch: int,
        idempotency_ms: int,
        confirm_clock: bool = False,
        on_fault: Callable[[], None] = lambda: None,
        more_signers: Sequence[LogSigner] = (),
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
        self._publisher: Publisher = Immediate() if publisher is None else publisher
        self._lock_path = lock_path
        self.clock = clock
        self._metrics = metrics
        self._interval_ms = checkpoint_interval_ms
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._idempotency_ms = idempotency_ms
        self._confirm_clock = confirm_clock
        self._on_fault = on_fault
        # Guarded by _wake: the pool, and whether it takes more.
        self._wake = threading.Condition()
        self._pool: deque[_Waiting | _Call] = deque()
        self._stopping = False
        self._fault: ConsentdError | None = None
        self._halted: ConsentdError | None = None  # why the sequencer's thread must stop
        # Replaced by assignment, by the publisher's thread only; _news tells those who wait for it.
        self.published: Published | None = None
        self._news = threading.Condition()
        # The last checkpoint signed, published or not. Replaced by assignment, by the sequencer's thread only.
        self.signed: checkpoint.Checkpoint | None = None
        self._recent: dict[int, Published] = {}  # by size, oldest first; replaced by assignment with ``published``
        metrics.quorum.set(1)
        # Owner: the sequencer's thread.
        self._sealed_ms = clock.monotonic_ms()
        if publisher is not None:
            ledger.map.past = Past(ledger.state.sealed_size)
        self._base = (max(clock.wall_ms(), ledger.state.time_ms if confirm_clock else 0), clock.monotonic_ms())
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    # -- for any thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Catch up and publish what a crash left unfinished, then begin to take writes.

        Raises:
            StorageError, CorruptionError: see ``opening.open_ledger``; nothing was started.
        """
        self._publisher.start(self._show, self._halt)
        try:
            self._recover()
        except BaseException:
            self._publisher.stop()
            raise
        self._thread.start()

    def submit(self, write: Write) -> "Future[Written[Answer]]":
        """Put a write into the pool.

        Raises:
            OverloadedError: too many wait already.
            StorageError: the sequencer is stopping or has stopped.
        """
        waiting = _Waiting(write, Future())
        self._put(waiting)
        return waiting.future

    def call(self, call: Callable[[], T]) -> T:
        """Run *call* on the sequencer's thread between two turns, where map and heads agree; return its value."""
        waiting = _Call(call, Future())
        self._put(waiting)
        return waiting.future.result()  # type: ignore[return-value]  # the future carries what *call* returned

    def wait_published(self, size: int, timeout_s: float) -> Published | None:
        """Wait until a published checkpoint covers *size* leaves; None where *timeout_s* passed first."""
        with self._news:
            self._news.wait_for(lambda: self._covers(size) or self._fault is not None, timeout_s)
            return self.published if self._covers(size) else None

    def checkpoint_at(self, size: int, timeout_s: float) -> Published | None:
        """Return the published checkpoint of exactly *size*, waiting for it; None where it is not to be had.

        The latest few are kept, for a proof is made against one seal and the next may be published meanwhile.
        """
        self.wait_published(size, timeout_s)
        return self._recent.get(size)

    def anchor(self, tags: Sequence[bytes]) -> tuple[reads.Anchor, Published]:
        """Prove where *tags* stood at the published checkpoint, and return it.

        Not at the last seal: while its cosignatures are awaited, what was published can be proven against all the
        same. ``Past`` keeps what that takes.

        Raises:
            NotFoundError: nothing was published yet.
            StorageError: the published checkpoint is too far behind; see ``Past``.
        """

        def take() -> tuple[reads.Anchor, Published]:
            published = self.published
            if published is None:
                raise NotFoundError("no checkpoint is published yet")
            return reads.take_anchor(self.ledger, tags, published.checkpoint.size), published

        return self.call(take)

    @property
    def has_quorum(self) -> bool:
        """Whether the last checkpoint that was due had the cosignatures it needs."""
        return self._publisher.has_quorum

    @property
    def fault(self) -> ConsentdError | None:
        """What stopped the sequencer, or None."""
        return self._fault

    def stop(self) -> None:
        """Take no more writes, finish those that wait, seal, publish, and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._publisher.stop()

    def _covers(self, size: int) -> bool:
        return self.published is not None and self.published.checkpoint.size >= size

    def _put(self, item: "_Waiting | _Call") -> None:
        with self._wake:
            if self._fault is not None:
                raise StorageError("ledger has stopped; see the log and ops/RUNBOOK.md") from self._fault
            if self._stopping:
                raise StorageError("daemon is starting or draining", "NOT_SERVING")
            if len(self._pool) >= self._max_waiting:
                raise OverloadedError(f"too many writes wait: `{len(self._pool)}`")
            self._pool.append(item)
            self._wake.notify()

    # -- the sequencer's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                items = self._take()
                if items is None:
                    break
                self._work(items)
            self._turn([], seal=True)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the writer must not go on, and must say so
            self._stop_on(error)

    def _take(self) -> "list[_Waiting | _Call] | None":
        """Wait for work, a due seal or the heartbeat; None once stopping and empty."""
        with self._wake:
            if not self._pool and not self._stopping and self._halted is None:
                self._wake.wait(self._idle_s())
            if self._halted is not None:
                raise self._halted
            if self._stopping and not self._pool:
                return None
            count = min(len(self._pool), self._max_batch)
            self._metrics.pool_entries.set(len(self._pool))
            items = [self._pool.popleft() for _ in range(count)]
        # From here on a caller cannot cancel; one that did before is passed over.
        return [item for item in items if item.future.set_running_or_notify_cancel()]

    def _idle_s(self) -> float:
        if self.ledger.state.size > self.ledger.state.sealed_size:
            return max(0.0, (self._sealed_ms + self._interval_ms - self.clock.monotonic_ms()) / 1000)
        return HEARTBEAT_S

    def _work(self, items: "list[_Waiting | _Call]") -> None:
        for item in items:
            if isinstance(item, _Call):
                try:
                    item.future.set_result(item.call())
                except Exception as error:  # noqa: BLE001  # it goes to whoever called; the sequencer's state is untouched
                    item.future.set_exception(error)
        writes = [item for item in items if isinstance(item, _Waiting)]
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

    def _turn(self, writes: Sequence[_Waiting], *, seal: bool) -> None:
        """Do one turn: the steps of the module's text, in their order."""
        try:
            turn_ms = self._time_ms()
        except StorageError as error:
            self._sealed_ms = self.clock.monotonic_ms()  # a due seal waits an interval more, rather than spin
            for waiting in writes:
                waiting.future.set_exception(error)
            return
        turn = Turn(self.ledger, turn_ms, forget_before_ms=turn_ms - self._idempotency_ms)
        done: list[_Done] = []
        failed: list[tuple[_Waiting, RequestError]] = []
        try:
            with self.table.begin() as table_turn:
                desk = Desk(self._author, turn, table_turn)
                for waiting in writes:
                    try:
                        done.append(self._append(waiting, turn, table_turn, desk))
                    except RequestError as error:
                        failed.append((waiting, error))
                if seal and turn.is_seal_due():
                    started = time.perf_counter()
                    turn.seal()
                    self._metrics.seal_seconds.observe(time.perf_counter() - started)
                if turn.index > self.ledger.state.size:
                    self._commit(turn, table_turn, len(done))
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
        if turn.sealed:
            self._sign()

    def _append(self, waiting: _Waiting, turn: Turn, table_turn: TableTurn, desk: Desk) -> _Done:
        """Check, draft, append and apply one write; ``RequestError`` before anything was appended."""
        write = waiting.write
        recorded = turn.recorded(write.request_key) if write.request_key else None
        if recorded is not None:
            index, content = recorded
            if content != write.content:
                self._metrics.repeats.inc("conflicting")
                raise ConflictError("request_id was used for other content", "REQUEST_ID_REUSED")
            self._metrics.repeats.inc("same")
            return _Done(waiting, (), index, write.replay(desk, index), True)
        plan = write.prepare(desk)
        entries = []
        for draft, message in plan.entries:
            appended = turn.append(draft)
            try:
                table_turn.apply(appended.event, message)
            except RequestError as error:
                # INVARIANT: nothing is refused once it is appended. ``prepare`` let pass what it must not.
                raise AssertionError("an entry was appended that the table does not take") from error
            entries.append(appended)
        first = entries[0].index if entries else None
        return _Done(waiting, tuple(entries), first, plan.answer, False)

    def _commit(self, turn: Turn, table_turn: TableTurn, count: int) -> None:
        state = turn.close()
        started = time.perf_counter()
        self.ledger.commit(turn)
        synced = time.perf_counter()
        # A crash here: the entries exist and the table is behind; opening applies them to it.
        table_turn.commit(state.size, state.root, self.clock.wall_ms())
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
        if self.signed is not None and state.size < self.signed.size:
            raise CorruptionError(f"ledger is smaller than its last signed checkpoint: size {state.size}")
        point = checkpoint.Checkpoint(self._author.origin, state.size, root)
        text = checkpoint.format_checkpoint(point)
        note = format_note(text, [signer.sign(text) for signer in self._signers])
        # A crash here: signed, and nobody has it. Signing this same tree again gives the same note.
        write_lock(self._lock_path, note)
        # A crash here: the lock is at this size; opening offers it again.
        self.signed = point
        self._publisher.offer(point, note)
        self._keep(self._publisher.pending())

    def _keep(self, pending: Iterable[int]) -> None:
        """Keep the maps of the published checkpoint and of those that may be published, beside the last seal's."""
        past, published = self.ledger.map.past, self.published
        if past is not None:
            # INVARIANT: a publisher turns to the latest offered only. *pending* was read after this one was offered,
            # so what it turned to before is in it, and what it turns to from now on is this one or a later one.
            past.keep({*pending, 0 if published is None else published.checkpoint.size})

    def _show(self, published: Published) -> None:
        """Make a checkpoint public. Called by the publisher."""
        size, before = published.checkpoint.size, self.published
        with self._news:
            self.published = published
            kept = [each for each in self._recent.items() if each[0] != size][1 - RECENT_CHECKPOINTS :]
            self._recent = {**dict(kept), size: published}
            self._news.notify_all()
        self._metrics.checkpoint_size.set(size)
        if before is None or before.checkpoint.size < size:
            self._metrics.checkpoints.inc()
        self._metrics.checkpoint_time_seconds.set(self.clock.wall_ms() / 1000)

    def _halt(self, error: ConsentdError) -> None:
        """Stop writing, from any thread: nothing may be signed any more."""
        with self._wake:
            self._halted = self._halted or error
            self._wake.notify()

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

    def _time_ms(self) -> int:
        """Return the time of the next leaf.

        Raises:
            StorageError: the clock is more than a second behind the last leaf, or ran more than five minutes ahead
                of monotonic time; writes are refused until an operator confirms.
        """
        now, last = self.clock.wall_ms(), self.ledger.state.time_ms
        base_wall, base_monotonic = self._base
        expected = base_wall + self.clock.monotonic_ms() - base_monotonic
        if now > max(expected, last) + MAX_AHEAD_MS:
            self._metrics.clock_refusals.inc("ahead")
            raise StorageError("clock jumped ahead by more than five minutes; writes are refused", "CLOCK")
        if now < last - MAX_BEHIND_MS and not self._confirm_clock:
            self._metrics.clock_refusals.inc("behind")
            raise StorageError("clock is more than a second behind the last entry; writes are refused", "CLOCK")
        return max(now, last)

    def _stop_on(self, error: BaseException) -> None:
        """Say what happened, refuse everything from now on, and answer those who still wait."""
        fault = error if isinstance(error, ConsentdError) else StorageError(f"sequencer failed: {type(error).__name__}")
        log.critical("ledger stopped", exc_info=error)
        self._metrics.ready.set(0)
        self._on_fault()
        with self._wake:
            self._fault = fault
            waiting, self._pool = list(self._pool), deque()
        for item in waiting:
            if not item.future.set_running_or_notify_cancel():
                continue
            item.future.set_exception(StorageError("ledger has stopped; nothing of this write was recorded"))
        with self._news:
            self._news.notify_all()
