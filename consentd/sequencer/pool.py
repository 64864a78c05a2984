"""Hold the items that wait for the sequencer's thread: writes, and calls to run between two batches.

Any thread puts items in; the sequencer's thread takes them out. A caller can cancel an item until the thread begins it.
The thread takes calls first, then urgent writes (what takes a permission away), then all other writes. Of the writes it
takes one of each caller in rotation, so that a thousand writes of one caller do not keep the write of another waiting.
The writes of one caller stay in order. The number of calls is small, because each holds the thread of its caller.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from consentd.errors import ConsentdError, OverloadedError, StorageError
from consentd.ledger.ledger import Appended, State
from consentd.metrics import Gauge
from consentd.sequencer.commands.write import Write

A = TypeVar("A")


@dataclass(slots=True)
class Written(Generic[A]):
    """The outcome of a write. The sequencer's thread owns this value until it completes the write's future with it.

    Attributes:
        entry: the entry with which the ledger remembers the request; for a repeat, the entry recorded before. None:
            nothing is recorded.
        entries: the entries that the write appended, in order; empty for a repeat.
        state: the ledger's state after the write's batch; set when the batch is committed.
        replayed: whether the write is a repeat.
    """

    entry: Appended | None
    entries: tuple[Appended, ...]
    state: State
    answer: A
    replayed: bool = False


@dataclass(slots=True)
class PendingWrite(Generic[A]):
    """A write, and the future that its caller waits on. An *urgent* one is written before those that are not."""

    write: Write[A]
    urgent: bool = False
    future: "Future[Written[A]]" = field(default_factory=Future)

    def is_new(self) -> bool:
        """Return whether the write was not begun, and has no outcome yet."""
        return not (self.future.running() or self.future.done())


@dataclass(slots=True)
class PendingCall(Generic[A]):
    """A function to run between two batches, and the future that its caller waits on."""

    call: Callable[[], A]
    future: "Future[A]" = field(default_factory=Future)

    def run(self) -> None:
        """Run the function, and complete the future with the result. An error does not stop the sequencer."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.call())
        except Exception as error:  # noqa: BLE001
            self.future.set_exception(error)


Pending = PendingWrite[Any] | PendingCall[Any]


class Lane:
    """Writes that wait, by caller. Not safe for several threads: ``Pool`` holds its lock during each call."""

    def __init__(self) -> None:
        # INVARIANT: no queue is empty. The caller whose write is taken next is the first key.
        self._queues: dict[str, deque[PendingWrite[Any]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, item: PendingWrite[Any]) -> None:
        """Add a write after the other writes of its caller."""
        self._queues.setdefault(item.write.caller, deque()).append(item)
        self._count += 1

    def put_back(self, items: Sequence[PendingWrite[Any]]) -> None:
        """Add writes that were taken, in the order in which they were taken, before the other writes of their callers.

        Their callers come before the others, because their writes were next.
        """
        for item in reversed(items):
            queue = self._queues.pop(item.write.caller, deque())
            queue.appendleft(item)
            self._queues = {item.write.caller: queue, **self._queues}
        self._count += len(items)

    def take(self, most: int) -> list[PendingWrite[Any]]:
        """Take up to *most* writes: one of each caller, then again one of each, and so on."""
        taken: list[PendingWrite[Any]] = []
        while self._queues and len(taken) < most:
            caller = next(iter(self._queues))
            queue = self._queues.pop(caller)
            taken.append(queue.popleft())
            if queue:
                self._queues[caller] = queue
        self._count -= len(taken)
        return taken


class Pool:
    """The items that wait for the sequencer's thread. ``stop`` and ``fail`` close the pool for good.

    Attributes:
        fault: the error that was passed to ``fail``. ``fail`` sets it while it holds the lock ``_changed``. Any thread
            may read it without the lock, because it is assigned only once.
    """

    def __init__(self, max_waiting: int, depth: Gauge) -> None:
        self._max_waiting = max_waiting
        self._depth = depth
        self.fault: ConsentdError | None = None
        # This lock guards the attributes below. put, put_back, take, stop, halt and fail take it; check_open does not.
        self._changed = threading.Condition()
        self._calls: deque[PendingCall[Any]] = deque()
        self._urgent = Lane()
        self._writes = Lane()
        self._stopping = False
        self._halted: ConsentdError | None = None

    def put(self, items: Sequence[Pending]) -> None:
        """Add all items in one step, so that one batch can take them. Surplus items end in ``OverloadedError``.

        The limit holds for calls, urgent writes and other writes apart, so that none of them keeps the others out.

        Raises:
            StorageError: the sequencer is stopping or has stopped; no item was put in.
        """
        with self._changed:
            self.check_open()
            surplus = [item for item in items if not self._add(item)]
            self._changed.notify()
        for item in surplus:
            item.future.set_exception(OverloadedError(f"too many writes wait: `{self._max_waiting}`"))

    def _add(self, item: Pending) -> bool:
        if isinstance(item, PendingCall):
            if len(self._calls) < self._max_waiting:
                self._calls.append(item)
                return True
            return False
        lane = self._urgent if item.urgent else self._writes
        if len(lane) >= self._max_waiting:
            return False
        lane.append(item)
        return True

    def put_back(self, writes: Sequence[PendingWrite[Any]]) -> None:
        """Put writes that were taken and not begun in front of those that wait."""
        with self._changed:
            self._urgent.put_back([item for item in writes if item.urgent])
            self._writes.put_back([item for item in writes if not item.urgent])

    def check_open(self) -> None:
        """Check that the pool takes items. Raises ``StorageError`` if the sequencer is stopping or has stopped."""
        if self.fault is not None:
            raise StorageError("ledger has stopped; see the log and ops/RUNBOOK.md") from self.fault
        if self._stopping:
            raise StorageError("daemon is starting or draining", "NOT_SERVING")

    def take(self, most: int, idle_s: Callable[[], float]) -> list[Pending] | None:
        """Take about *most* items; wait up to ``idle_s()`` seconds for the first. None: the pool is stopped and empty.

        Raises the error that was passed to ``halt``.
        """
        with self._changed:
            if not self._count() and not self._stopping and self._halted is None:
                self._changed.wait(idle_s())
            if self._halted is not None:
                raise self._halted
            waiting = self._count()
            if self._stopping and not waiting:
                return None
            self._depth.set(waiting)
            items: list[Pending] = [*self._calls]
            self._calls.clear()
            for lane in (self._urgent, self._writes):
                items += lane.take(most - len(items))
        return items

    def _count(self) -> int:
        return len(self._calls) + len(self._urgent) + len(self._writes)

    def stop(self) -> None:
        """Refuse further items. ``take`` still returns the items that wait."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def halt(self, error: ConsentdError) -> None:
        """Make the next ``take`` raise *error*, so that the sequencer's thread writes nothing more."""
        with self._changed:
            self._halted = self._halted or error
            self._changed.notify()

    def fail(self, fault: ConsentdError) -> None:
        """Refuse further items. Each item that waits ends in an error, which states that nothing of it was recorded."""
        with self._changed:
            self.fault = fault
            waiting: list[Pending] = [*self._calls]
            self._calls.clear()
            for lane in (self._urgent, self._writes):
                waiting += lane.take(len(lane))
        for item in waiting:
            # An item can be here twice, if it was put back by two steps that failed together.
            if not item.future.done() and item.future.set_running_or_notify_cancel():
                item.future.set_exception(StorageError("ledger has stopped; nothing of this write was recorded"))
