"""Hold what waits for the sequencer: writes, and calls that must run between two turns.

Any thread puts in; the sequencer's thread takes out. A caller may cancel until its item is taken.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from consentd.errors import ConsentdError, OverloadedError, StorageError
from consentd.ledger.ledger import Appended, State
from consentd.metrics import Gauge
from consentd.sequencer.commands.context import Answer, Write

T = TypeVar("T")


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


@dataclass(slots=True)
class Waiting:
    """A write and who waits for it."""

    write: Write
    future: "Future[Written[Answer]]"


@dataclass(slots=True)
class Call:
    """Something to run between two turns, and who waits for it."""

    call: Callable[[], object]
    future: "Future[object]"


class Pool:
    """What waits. Guarded by one lock; ``stop`` and ``fail`` close it for good.

    Attributes:
        fault: what it was closed by ``fail`` with; None: it was not.
    """

    def __init__(self, max_waiting: int, depth: Gauge) -> None:
        self._max_waiting = max_waiting
        self._depth = depth
        # Guarded by _wake: all that follows.
        self._wake = threading.Condition()
        self._items: deque[Waiting | Call] = deque()
        self._stopping = False
        self._halted: ConsentdError | None = None
        self.fault: ConsentdError | None = None

    def put(self, items: Sequence[Waiting | Call]) -> None:
        """Put items in, all at once so that one turn can take them; what there is no room for ends overloaded.

        Raises:
            StorageError: the sequencer is stopping or has stopped; none was taken in.
        """
        with self._wake:
            if self.fault is not None:
                raise StorageError("ledger has stopped; see the log and ops/RUNBOOK.md") from self.fault
            if self._stopping:
                raise StorageError("daemon is starting or draining", "NOT_SERVING")
            room = max(0, self._max_waiting - len(self._items))
            self._items.extend(items[:room])
            waiting = len(self._items)
            self._wake.notify()
        for item in items[room:]:
            item.future.set_exception(OverloadedError(f"too many writes wait: `{waiting}`"))

    def take(self, most: int, idle_s: Callable[[], float]) -> list[Waiting | Call] | None:
        """Take up to *most* items, waiting for one for up to *idle_s*; None once stopping and empty.

        Raises:
            ConsentdError: what ``halt`` was called with.
        """
        with self._wake:
            if not self._items and not self._stopping and self._halted is None:
                self._wake.wait(idle_s())
            if self._halted is not None:
                raise self._halted
            if self._stopping and not self._items:
                return None
            self._depth.set(len(self._items))
            items = [self._items.popleft() for _ in range(min(len(self._items), most))]
        # From here on a caller cannot cancel; one that did before is passed over.
        return [item for item in items if item.future.set_running_or_notify_cancel()]

    def stop(self) -> None:
        """Take nothing more in; what waits is still taken out."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def halt(self, error: ConsentdError) -> None:
        """Make the next ``take`` raise *error*: nothing may be written any more."""
        with self._wake:
            self._halted = self._halted or error
            self._wake.notify()

    def fail(self, fault: ConsentdError) -> None:
        """Close for good, and answer those who still wait: nothing of theirs was recorded."""
        with self._wake:
            self.fault = fault
            waiting, self._items = list(self._items), deque()
        for item in waiting:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(StorageError("ledger has stopped; nothing of this write was recorded"))
