"""Operations: work that continues after the call that started it, one at a time, on a thread of its own.

An operation is a function that reports its progress. Each report is a *safe point*: nothing is half done there. If the
operation was cancelled, or the daemon stops, the report raises an error, which ends the function.

Operations are kept in memory. What an operation has done is in the ledger and its store, and whatever continues there
after a restart finds it there (decisions/0015).
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import urandom
from typing import TypeAlias, TypeVar

from google.rpc import status_pb2

from consentd.clock import Clock
from consentd.errors import (
    ConsentdError,
    NotFoundError,
    OperationCancelledError,
    OverloadedError,
    PreconditionError,
    StorageError,
)  # fmt: skip
from consentd.metrics import Metrics
from consentd.sequencer.commands.write import Request
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st

A = TypeVar("A")

log = logging.getLogger(__name__)

MAX_DONE = 100
"""How many of the operations that are done are kept."""


class Follower:
    """Takes the reports of one operation, and ends it at the next safe point when it was cancelled."""

    def __init__(self, on_report: Callable[[ad.OperationProgress], None], rest: Callable[[float], object]) -> None:
        """Pass each report to *on_report*. *rest* gives way to calls, after so many seconds of work."""
        self._on_report = on_report
        self._rest = rest
        self._ended = threading.Event()
        self._error: ConsentdError | None = None  # set before the event
        self._reported_s = time.perf_counter()  # the operation's thread owns it

    def report(self, step: "ad.OperationStep.ValueType", done: int = 0, total: int = 0) -> None:
        """Report that a step has done *done* of *total*, as ``OperationProgress`` counts. This is a safe point.

        Raises:
            OperationCancelledError: an operator cancelled the operation.
            StorageError: the daemon stops.
        """
        self._on_report(ad.OperationProgress(step=step, done_count=done, total_count=total))
        self._rest(time.perf_counter() - self._reported_s)
        self._reported_s = time.perf_counter()
        self.pause(0.0)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the operation must end. This is a safe point. Raises as ``report``."""
        if self._ended.wait(seconds):
            assert self._error is not None, "the error is set before the event"
            raise self._error

    def end(self, error: ConsentdError) -> None:
        """End the operation with *error* at its next safe point; only the first error counts."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()


Result: TypeAlias = ad.PruneResult | ad.KeyRotationResult | ad.VaultKeyRotationResult | ad.BackupResult
Work: TypeAlias = Callable[[Follower], Result]


def when_free(follower: Follower, call: Callable[[], A]) -> A:
    """Return what *call* returns; repeat it while the sequencer has too much to do. Raises as ``Follower.pause``."""
    while True:
        try:
            return call()
        except OverloadedError as error:
            follower.pause(error.retry_after_ms / 1000)


@dataclass(slots=True)
class _Record:
    """An operation with its number, what asked for it, and its follower. ``Operations._lock`` guards it."""

    number: int
    request_key: bytes
    content: bytes
    message: ad.Operation
    follower: Follower


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What starts an operation.

    Attributes:
        operator: who starts it.
        request_key: identifies the request of this operator.
        content: hash of what is asked for; a repeat has the same.
    """

    kind: "ad.OperationKind.ValueType"
    dry_run: bool
    operator: str
    request_key: bytes
    content: bytes
    work: Work = field(repr=False)


class Operations:
    """Starts, follows and cancels operations. Any thread may use it; ``_lock`` guards all attributes."""

    def __init__(
        self, *, clock: Clock, metrics: Metrics, rest: Callable[[float], object] = lambda worked_s: None
    ) -> None:
        """*rest* gives way to calls, after so many seconds of work; see ``Pool.rest``."""
        self._clock, self._metrics, self._rest = clock, metrics, rest
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}  # in the order of their numbers
        self._count = 0
        self._running: _Record | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        metrics.operation_start_time_seconds.follow(self._start_time_s)

    def start(self, start: Start, to_status: Callable[[Exception], status_pb2.Status]) -> tuple[ad.Operation, bool]:
        """Start an operation; return it, and whether it is new: a repeat gets the operation of the first call.

        *to_status*: turns the error that ends the work into the status that is shown.

        Raises:
            PreconditionError: another operation is running, or the request_id was used for something else.
            StorageError: the daemon stops, or no thread can be started now.
        """
        with self._lock:
            repeated = self._find_repeat(start.request_key, start.content)
            if repeated is not None:
                return repeated, False
            if self._is_stopping:
                raise StorageError("daemon is draining", "NOT_SERVING")
            if self._running is not None:
                running = self._running.message.operation_id
                raise PreconditionError(f"another operation is running: `{running}`", "OPERATION_RUNNING")
            record = self._keep(start)
            thread = threading.Thread(
                target=self._run, args=(record, start.work, to_status), name="operation", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                del self._records[record.message.operation_id]
                raise StorageError("no thread can be started now; try again") from error
            self._running, self._thread = record, thread
            return record.message, True

    def find_repeat(self, request: Request) -> ad.Operation | None:
        """Return the operation that a request has started before; None: it is new.

        Raises:
            PreconditionError: (REQUEST_ID_REUSED) the request_id was used for something else.
        """
        with self._lock:
            return self._find_repeat(request.key, request.content)

    def get(self, operation_id: str) -> ad.Operation:
        """Return an operation as it is now. Raises ``NotFoundError``."""
        with self._lock:
            return self._find(operation_id).message

    def cancel(self, operation_id: str, *, operator: str) -> ad.Operation:
        """End an operation at its next safe point, unless it is done; return it as it is now.

        Raises:
            NotFoundError: there is no such operation.
        """
        with self._lock:
            record = self._find(operation_id)
            if not record.message.done and not record.message.cancel_requested_by:
                self._change(record, ad.Operation(cancel_requested_by=operator))
                record.follower.end(OperationCancelledError(f"operation was cancelled by `{operator}`"))
            return record.message

    def all(self) -> list[tuple[int, ad.Operation]]:
        """Return the operations that are kept, each with its number, the latest first."""
        with self._lock:
            return [(record.number, record.message) for record in reversed(self._records.values())]

    def stop(self) -> None:
        """Start no further operation, end the one that runs at its next safe point, and wait for that."""
        with self._lock:
            self._is_stopping = True
            thread = self._thread
            if self._running is not None:
                self._running.follower.end(StorageError("daemon stopped; start it again to continue", "NOT_SERVING"))
        if thread is not None:
            thread.join()

    def _find_repeat(self, key: bytes, content: bytes) -> ad.Operation | None:
        for record in self._records.values():
            if record.request_key == key:
                if record.content != content:
                    raise PreconditionError("request_id was used for something else", "REQUEST_ID_REUSED")
                return record.message
        return None

    def _find(self, operation_id: str) -> _Record:
        record = self._records.get(operation_id)
        if record is None:
            again = "after a restart of the daemon, start it again to continue"
            raise NotFoundError(f"no such operation: ListOperations has the ids; {again}")
        return record

    def _keep(self, start: Start) -> _Record:
        self._count += 1
        message = ad.Operation(
            operation_id=urandom(16).hex(), kind=start.kind, dry_run=start.dry_run, started_by=start.operator,
            start_time_ms=self._clock.wall_ms(), progress=ad.OperationProgress(),
        )  # fmt: skip

        def on_report(progress: ad.OperationProgress) -> None:
            with self._lock:
                self._change(record, ad.Operation(progress=progress))

        follower = Follower(on_report, self._rest)
        record = _Record(self._count, start.request_key, start.content, message, follower)
        self._records[message.operation_id] = record
        for oldest in list(self._records)[: -MAX_DONE - 1]:  # none of these runs: the one that runs is the last
            del self._records[oldest]
        return record

    @staticmethod
    def _change(record: _Record, changes: ad.Operation) -> None:
        """Replace the message by a copy with *changes*: readers have the one before. The caller holds the lock."""
        message = ad.Operation()
        message.CopyFrom(record.message)
        if changes.HasField("progress"):
            message.ClearField("progress")  # merging would keep a number that is 0 now
        message.MergeFrom(changes)
        record.message = message

    def _start_time_s(self) -> float:
        with self._lock:
            return math.nan if self._running is None else self._running.message.start_time_ms / 1000

    # -- the operation's thread -------------------------------------------------------------------------------

    def _run(self, record: _Record, work: Work, to_status: Callable[[Exception], status_pb2.Status]) -> None:
        changes = ad.Operation(done=True)
        try:
            done = work(record.follower)
            if isinstance(done, ad.PruneResult):
                changes.pruned.CopyFrom(done)
            elif isinstance(done, ad.KeyRotationResult):
                changes.key_rotation.CopyFrom(done)
            elif isinstance(done, ad.BackupResult):
                changes.backup.CopyFrom(done)
            else:
                changes.vault_key_rotated.CopyFrom(done)
            result = "done"
        except OperationCancelledError as error:
            changes.error.CopyFrom(to_status(error))
            result = "cancelled"
        except Exception as error:  # noqa: BLE001  # whoever follows the operation gets an answer even after a bug
            changes.error.CopyFrom(to_status(error))
            result = "failed"
        with self._lock:
            if not self._is_stopping:
                self._metrics.operations.inc(result)
            changes.end_time_ms = self._clock.wall_ms()
            self._change(record, changes)
            self._running = None
        _log_end(record.message, result)


def _log_end(message: ad.Operation, result: str) -> None:
    name = ad.OperationKind.Name(message.kind).removeprefix("OPERATION_KIND_").lower()
    if result == "done" and message.HasField("key_rotation"):
        changed = message.key_rotation
        role, old, new = st.RotationRole.Name(changed.role), changed.old_key.hex(), changed.new_key.hex()
        log.info("operation done: `%s`: %s %s was replaced by %s", message.operation_id, role, old, new)
    elif result == "done" and message.HasField("vault_key_rotated"):
        rotated = message.vault_key_rotated
        counts = rotated.vault_key_number, rotated.data_key_count
        log.info("operation done: %s `%s`: vault key %d wraps %d data keys", name, message.operation_id, *counts)
    elif result == "done" and message.HasField("backup"):
        made = message.backup
        text = "operation done: %s `%s`: backup `%s` of %d leaves, %d bytes"
        log.info(text, name, message.operation_id, made.name, made.tree_size, made.byte_count)
    elif result == "done":
        counts = message.pruned.statement_count, message.pruned.leaf_count
        what = "would be deleted" if message.dry_run else "deleted"
        log.info("operation done: %s `%s`: %d statements and %d leaves %s", name, message.operation_id, *counts, what)
    else:
        level = logging.WARNING if result == "cancelled" else logging.ERROR
        log.log(level, "operation %s: %s `%s`: %s", result, name, message.operation_id, message.error.message)
