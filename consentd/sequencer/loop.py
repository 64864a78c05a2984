"""The single writer of a ledger: one thread takes the writes that wait, and writes them as one batch.

**Theory of operation.** Service threads put writes into the pool, and wait on the writes' futures. The sequencer's
thread takes all writes that wait, up to a limit, and writes them as one batch:

1. Read the clock. Leaf times never decrease.
2. Begin a transaction of the table (the current state), where each write reads the effects of the writes before it.
3. For each write: if it is a repeat, only answer it; else check it, append its entries, and apply them to the table.
4. If a checkpoint is due, append a seal (a leaf that commits to the heads of all chains).
5. Write the batch to the store and sync the disk. From here on the entries exist.
6. Commit the table. From here on every consent check sees the entries.
7. Complete the futures.
8. After a seal: sign a checkpoint and offer it to the publisher (``checkpoints``).

A crash before 5 loses only writes that were not answered yet. A crash between 5 and 6 leaves the table older than the
store; the next start applies the missing entries. A crash between 6 and 8 leaves a seal without a checkpoint; the next
start signs that checkpoint. Recovery runs the same code: a start writes an empty batch to seal, sign and publish.

A refused write (``RequestError``) appends nothing, and the batch continues. A ``StorageError`` before 5 refuses the
batch, and one in 8 leaves the checkpoint for the next upkeep: nobody has seen anything, and the shortage may pass
(``shortages``). Any other failure in 3 to 8 stops the sequencer for good. It may then be unknown whether the batch is
on disk; the next start reads the disk. Source: ledger-format.md, "The commit".
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from consentd.clock import Clock, LeafClock
from consentd.core.rotation import RotationRole
from consentd.cosigning.publisher import Published
from consentd.errors import ConsentdError, OverloadedError, RequestError, StorageError
from consentd.files import LockedError
from consentd.ledger import reads
from consentd.ledger.ledger import AppendBatch, Ledger
from consentd.metrics import Metrics
from consentd.sequencer.appending import SequencerLimits, append_write
from consentd.sequencer.checkpoints import HELD_S, Checkpoints, CheckpointSigning
from consentd.sequencer.commands.rotation import RotateKey
from consentd.sequencer.commands.write import Author, Write, WriteContext
from consentd.sequencer.pool import Pending, PendingCall, PendingWrite, Pool, Written
from consentd.sequencer.quotas import QuotaCounter
from consentd.sequencer.repeats import Repeats
from consentd.sequencer.shortages import Shortages, not_recorded
from consentd.sequencer.taken import TakenWrites, refuse
from consentd.sequencer.upkeep import UPKEEP_S, Upkeep
from consentd.table.checked_rows import DamagedRowError
from consentd.table.table import Table

A = TypeVar("A")

log = logging.getLogger(__name__)

BATCH_S = 0.06
"""After this time no further write is added to a batch: the others go into the next one, urgent writes first. So a
write waits for the batch before it, and then for about one write of each other caller (``pool``)."""


class Sequencer:
    """The single writer of a ledger. Any thread may use ``submit``, ``call`` and ``checkpoints.wait``."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        table: Table,
        author: Author,
        signing: CheckpointSigning,
        limits: SequencerLimits,
        clock: Clock,
        metrics: Metrics,
        confirm_clock: bool = False,
        check_space: Callable[[bool], None] = lambda is_urgent: None,
        on_fault: Callable[[], None] = lambda: None,
        on_new_key: Callable[[RotationRole, bytes], None] = lambda role, key: None,
    ) -> None:
        """Take over a ledger that was opened and verified.

        Args:
            confirm_clock: see ``LeafClock``.
            check_space: raises StorageError if the disks have too little space for a write; True: for an urgent one.
            on_fault: called once, on the sequencer's thread, when a failure stops the sequencer.
            on_new_key: called on the sequencer's thread with the public key that is in force now; raises nothing.
        """
        self.ledger = ledger
        self.table = table
        self.clock = clock
        self._author = author
        self._limits = limits
        self._metrics = metrics
        self._on_fault, self._on_new_key = on_fault, on_new_key
        self._pool = Pool(limits.max_waiting, metrics.pool_entries)
        self.quotas = QuotaCounter(metrics)
        self._repeats = Repeats(ledger, table, author, clock=clock, metrics=metrics)
        self.checkpoints = Checkpoints(ledger, author.origin, signing, clock=clock, metrics=metrics)
        self.leaf_clock = LeafClock(clock, ledger.state.time_ms, confirmed=confirm_clock)
        metrics.clock_disagrees.follow(lambda: bool(self.leaf_clock.disagreement(self.ledger.state.time_ms)))
        # The sequencer's thread owns the four attributes below.
        self._sealed_ms = clock.monotonic_ms()
        self._shortages = Shortages(metrics, check_space)
        self._is_signing_due = False  # a checkpoint of the last seal could not be signed yet
        self._upkeep = Upkeep(
            table, self.leaf_clock, clock=clock, metrics=metrics, shortages=self._shortages,
            verify_lock=signing.verify_lock,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)

    # -- for any thread ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover from a crash, if any, and publish; then begin to take writes. Raises as ``Checkpoints.sign``."""
        self.checkpoints.start(self._pool.halt)
        try:
            self._recover()
        except BaseException:
            self.checkpoints.publisher.stop()
            self.checkpoints.end_waits()
            raise
        self._thread.start()

    def submit(self, write: Write[A]) -> "Future[Written[A]]":
        """Put a write into the pool; see ``submit_all``."""
        return self.submit_all([write])[0]

    def submit_all(self, writes: Sequence[Write[A]], *, urgent: bool = False) -> "list[Future[Written[A]]]":
        """Put writes into the pool together, so that one batch can take them. Each is recorded or refused by itself.

        Repeats of writes that are on disk are answered here, on the caller's thread (``Repeats``). *urgent* writes are
        written before all others that wait. A caller may cancel a future until its write begins.

        Raises:
            StorageError: the sequencer is stopping or has stopped; nothing is recorded. If the pool is full, nothing
                is raised: the futures of the surplus writes end in ``OverloadedError``.
        """
        pending = [PendingWrite(write, urgent) for write in writes]
        self._pool.check_open()
        # A clock that disagrees with the ledger refuses every write, repeats included.
        agrees = not self.leaf_clock.disagreement(self.ledger.state.time_ms)
        self._pool.put(self._repeats.answer(pending) if agrees else pending)
        return [item.future for item in pending]

    def call(self, call: Callable[[], A]) -> A:
        """Run *call* on the sequencer's thread, while no batch is being written; return the value of *call*.

        Raises what *call* raises; ``StorageError`` as ``submit_all`` does; ``OverloadedError`` if the pool is full.
        """
        pending = PendingCall(call)
        self._pool.put([pending])
        return pending.future.result()

    @property
    def statement_key(self) -> bytes:
        """The public key of the statement key that signs now."""
        return self._author.key.public_key

    @property
    def fault(self) -> ConsentdError | None:
        """The failure that stopped the sequencer; None: it has not failed."""
        return self._pool.fault

    def prove_heads(self, tags: Sequence[bytes]) -> tuple[reads.HeadProofs, Published]:
        """Prove the length and head of each chain in *tags* at the public checkpoint; return proofs and checkpoint.

        Raises:
            NotFoundError: no checkpoint is published yet.
            NotReachedError: the map at the public checkpoint was dropped to limit memory; see ``MapHistory``.
        """
        return self.call(lambda: self.checkpoints.prove_heads(tags))

    def stop(self) -> None:
        """Refuse new writes, finish the writes that wait, seal the ledger, publish a checkpoint, end the thread."""
        self._pool.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self.checkpoints.publisher.stop()
        self.checkpoints.end_waits()

    # -- the sequencer's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                items = self._pool.take(self._limits.max_batch, self._idle_s)
                if items is None:
                    break
                self._work(items)
            if self._is_signing_due:
                self._sign()
            self._write_batch([], seal=self._may_seal())
        except BaseException as error:  # noqa: BLE001
            # The error is not raised again: Python would print its text, which may hold a person's identifier.
            self._stop_on(error)

    def _idle_s(self) -> float:
        """Return how long to wait for writes: until a seal or the next upkeep is due."""
        if self.checkpoints.is_held:
            return HELD_S
        if self._is_seal_wanted():
            return min(UPKEEP_S, max(0.0, (self._due_ms() - self.clock.monotonic_ms()) / 1000))
        return UPKEEP_S

    def _is_seal_wanted(self) -> bool:
        return self.ledger.state.size > self.ledger.state.sealed_size and self._may_seal()

    def _may_seal(self) -> bool:
        """Return whether a seal may be written: the one before it is signed, and the log key is not being replaced.

        INVARIANT: at most one seal is not covered by the last signed checkpoint; ``check_last_signed`` relies on it.
        """
        return not (self._is_signing_due or self.checkpoints.is_held)

    def _due_ms(self) -> int:
        return self._sealed_ms + self._limits.checkpoint_interval_ms

    def _work(self, items: list[Pending]) -> None:
        """Run the calls among *items*, then write the writes as one batch, then do the upkeep if it is due."""
        writes = [item for item in items if isinstance(item, PendingWrite)]
        for item in items:
            if isinstance(item, PendingCall):
                item.run()
        due = self.clock.monotonic_ms() >= self._due_ms()
        size = self.ledger.state.size
        if writes or (due and self._is_seal_wanted()):
            try:
                self._write_batch(writes, seal=due and self._may_seal())
            except BaseException:
                # INVARIANT: no caller waits for ever: a write that was taken and not begun waits in the pool again.
                self._pool.put_back([pending for pending in writes if pending.is_new()])
                raise
        if self._upkeep.run(has_written=self.ledger.state.size > size) and self._is_signing_due:
            self._sign()
        self._take_next_key()

    def _write_batch(self, writes: Sequence[PendingWrite[Any]], *, seal: bool) -> None:
        """Write one batch: the steps 1 to 8 of the module's docstring."""
        begun = self._begin_batch(writes)
        if begun is None:
            return
        batch, taken, has_space = begun
        try:
            with self.table.begin() as table:
                context = WriteContext(self._author, batch, table, self.quotas)
                self._append(taken, context)
                if (taken.rotation is not None or (seal and has_space)) and batch.is_seal_due():
                    started = time.perf_counter()
                    batch.seal()
                    self._metrics.seal_seconds.observe(time.perf_counter() - started)
                if batch.index > self.ledger.state.size:
                    self._commit(context, len(taken.accepted))
                if taken.rotation is not None:
                    self._replace_key(taken.rotation)  # after a crash before, the next start finds the rotation
        except BaseException as error:
            if isinstance(error, StorageError | MemoryError) and batch.is_droppable:
                taken.waiting.clear()
                self._sealed_ms = self.clock.monotonic_ms()
                self._shortages.drop("batch", taken.writes, error)
                return
            taken.fail()
            raise
        finally:
            self._pool.put_back(taken.waiting)
        # A crash here: store and table have the batch. A caller gets no answer, repeats, and gets the recorded entry.
        taken.complete(self.ledger.state)
        self._shortages.done("batch")
        if batch.sealed:
            self._sealed_ms = self.clock.monotonic_ms()
            self._sign()

    def _begin_batch(self, writes: Sequence[PendingWrite[Any]]) -> tuple[AppendBatch, TakenWrites, bool] | None:
        """Begin a batch with those writes for which there is space; return whether there is space for a seal too.

        None: something is short, and all writes are refused.
        """
        try:
            time_ms = self.leaf_clock.time_ms(self.ledger.state.time_ms)
        except StorageError as error:  # the clock gives no valid time for leaves
            self._metrics.clock_refusals.inc(self.leaf_clock.disagrees)
            self._sealed_ms = self.clock.monotonic_ms()
            refuse(writes, error)
            return None
        writes, has_space = self._shortages.limit_to_space(writes)
        if not has_space:
            self._sealed_ms = self.clock.monotonic_ms()  # a due seal is tried again after a whole interval
        try:
            batch = AppendBatch(self.ledger, time_ms, expire_before_ms=time_ms - self._limits.idempotency_ms)
        except (StorageError, MemoryError) as error:
            self._sealed_ms = self.clock.monotonic_ms()
            self._shortages.drop("batch", writes, error)
            return None
        return batch, TakenWrites(writes), has_space

    def _append(self, taken: TakenWrites, context: WriteContext) -> None:
        """Begin the writes one by one, for ``BATCH_S`` or until a key is replaced, and append their entries."""
        until_s = time.perf_counter() + BATCH_S
        while taken.waiting and taken.rotation is None and (not taken.begun or time.perf_counter() < until_s):
            pending = taken.begin()
            if pending is None:
                continue
            write, index = pending.write, context.batch.index
            try:
                if isinstance(write, RotateKey) and not self._may_seal():
                    raise OverloadedError("a checkpoint is not signed yet, or a rotation is not finished")
                taken.accepted.append((pending, append_write(write, context, self.ledger.state, self._metrics)))
                if isinstance(write, RotateKey):
                    taken.rotation = write
            except RequestError as error:
                taken.refused.append((pending, error))
            except StorageError as error:
                if context.batch.index > index:
                    raise  # the batch has entries of this write, so it cannot continue without them
                if not isinstance(error, DamagedRowError):  # it does not pass, and has an alarm of its own
                    self._shortages.postponed("read", error)
                taken.refused.append((pending, not_recorded(error)))

    def _sign(self) -> None:
        """Sign and publish; if something is short, do it with the next upkeep, because nobody has seen anything."""
        try:
            self.checkpoints.sign()
        except LockedError:
            raise
        except (StorageError, MemoryError) as error:
            if self.checkpoints.signed is None:
                raise  # a ledger without any signed checkpoint does not open if it has more than one seal's entries
            self._is_signing_due = True
            self._shortages.postponed("sign", error)
            return
        self._is_signing_due = False
        self._shortages.done("sign")

    def _replace_key(self, rotation: RotateKey) -> None:
        """Use the new key of a rotation that was committed. A new log key must wait for ``_take_next_key``."""
        if rotation.role is RotationRole.LOG:
            self.checkpoints.replace_log_key(rotation.new)
            return
        self._author = replace(self._author, key=rotation.new)
        self._on_new_key(RotationRole.STATEMENT, rotation.new.public_key)

    def _take_next_key(self) -> None:
        """Sign with the next log key, if the old one is not needed any more."""
        try:
            if self.checkpoints.take_next_key():
                self._on_new_key(RotationRole.LOG, self.checkpoints.log_key)
        except (StorageError, MemoryError) as error:
            self._shortages.postponed("sign", error)

    def _commit(self, context: WriteContext, count: int) -> None:
        """Write the batch, which has *count* accepted writes, to the store; then commit the table."""
        state = context.batch.close()
        # The vault has synced the keys of this batch's entries, and perhaps more. A crash before the write below leaves
        # a vault that is newer than the ledger, which is right.
        context.batch.record_vault(context.author.vault.state)
        started = time.perf_counter()
        self.ledger.commit(context.batch)
        synced = time.perf_counter()
        # A crash here: the entries exist and the table lacks them. The next start applies them to the table.
        try:
            context.table.commit(state.size, state.root, time_ms=state.time_ms, wall_ms=self.clock.wall_ms())
        except BaseException:
            self.table.stop()  # the table lacks entries that are on disk, so its answers would be wrong
            raise
        self.table.note_size(state.size)
        self._metrics.commit_seconds.observe(synced - started, "ledger")
        self._metrics.commit_seconds.observe(time.perf_counter() - synced, "table")
        self._metrics.batch_entries.observe(count)
        self._metrics.ledger_size.set(state.size)

    def _recover(self) -> None:
        """Sign and offer a checkpoint of the ledger; append a seal first if a crash left entries without a seal."""
        state = self.ledger.state
        if state.size == 0:
            return
        if state.size > state.sealed_size and self._may_seal():
            self._write_batch([], seal=True)
            if self.ledger.state.size == state.size and self.leaf_clock.disagrees:
                text = "clock disagrees with the ledger; set it right, or start with --confirm-clock"
                raise StorageError(text, "CLOCK")
        if self.checkpoints.signed is None and self.ledger.state.size > 1:
            # A start that cannot sign fails with the reason, and the next start tries again.
            self.checkpoints.sign()
        self._take_next_key()

    def _stop_on(self, error: BaseException) -> None:
        """Log the failure, refuse all further writes and calls, and complete those that wait with an error."""
        fault = error if isinstance(error, ConsentdError) else StorageError(f"sequencer failed: {type(error).__name__}")
        log.critical("ledger stopped", exc_info=error)
        # INVARIANT: the fault is set before ``on_fault`` is called: a daemon that begins to serve then reads the fault.
        self._pool.fail(fault)
        self._metrics.ready.set(0)
        self.table.end_waits()
        self.checkpoints.end_waits()
        self._on_fault()  # last, because it is not this module's and might raise
