"""Hold the items that wait for the sequencer's thread: writes, and calls to run between two batches.

Any thread puts items in; the sequencer's thread takes them out. A caller can cancel an item until the thread takes it.
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
        entry: the write's first entry; for a repeat, the entry recorded before. None: nothing is recorded.
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
    """A write, and the future that its caller waits on."""

    write: Write[A]
    future: "Future[Written[A]]" = field(default_factory=Future)


@dataclass(slots=True)
class PendingCall(Generic[A]):
    """A function to run between two batches, and the future that its caller waits on."""

    call: Callable[[], A]
    future: "Future[A]" = field(default_factory=Future)

    def run(self) -> None:
        """Run the function, and complete the future with the result. An error does not stop the sequencer."""
        try:
            self.future.set_result(self.call())
        except Exception as error:  # noqa: BLE001
            self.future.set_exception(error)


Pending = PendingWrite[Any] | PendingCall[Any]


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
        # This lock guards the attributes below. put, take, stop, halt and fail take it; check_open reads without it.
        self._changed = threading.Condition()
        self._items: deque[Pending] = deque()
        self._stopping = False
        self._halted: ConsentdError | None = None

    def put(self, items: Sequence[Pending]) -> None:
        """Add all items in one step, so that one batch can take them. Surplus items end in ``OverloadedError``.

        Raises:
            StorageError: the sequencer is stopping or has stopped; no item was put in.
        """
        with self._changed:
            self.check_open()
            free = max(0, self._max_waiting - len(self._items))
            self._items.extend(items[:free])
            waiting = len(self._items)
            self._changed.notify()
        for item in items[free:]:
            item.future.set_exception(OverloadedError(f"too many writes wait: `{waiting}`"))

    def check_open(self) -> None:
        """Check that the pool takes items. Raises ``StorageError`` if the sequencer is stopping or has stopped."""
        if self.fault is not None:
            raise StorageError("ledger has stopped; see the log and ops/RUNBOOK.md") from self.fault
        if self._stopping:
            raise StorageError("daemon is starting or draining", "NOT_SERVING")

    def take(self, most: int, idle_s: Callable[[], float]) -> list[Pending] | None:
        """Take up to *most* items; wait up to ``idle_s()`` seconds for the first. None: the pool is stopped and empty.

        Raises the error that was passed to ``halt``.
        """
        with self._changed:
            if not self._items and not self._stopping and self._halted is None:
                self._changed.wait(idle_s())
            if self._halted is not None:
                raise self._halted
            if self._stopping and not self._items:
                return None
            self._depth.set(len(self._items))
            items = [self._items.popleft() for _ in range(min(len(self._items), most))]
        # From here on a caller cannot cancel an item. Items that were cancelled before are left out.
        return [item for item in items if item.future.set_running_or_notify_cancel()]

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
            waiting, self._items = list(self._items), deque()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(StorageError("ledger has stopped; nothing of this write was recorded"))
