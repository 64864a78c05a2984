"""What a call has entered: its pool, perhaps the pool of calls that wait, and the bytes of its message."""

import threading
import time
from collections import Counter
from collections.abc import Callable

from consentd.errors import InvalidError, OverloadedError
from consentd.server.call import Call
from consentd.server.pools import BUSY, Pool, PoolName

_ITEMS = 8  # a batch looks at the clock after so many items


class Ticket:
    """What one call has entered: its pool, the bytes of its message, and perhaps the pool of calls that wait."""

    def __init__(self, call: Call, pool: Pool, held: "Bytes", *, waits: Pool, replays: Pool) -> None:
        """*held*: counts the bytes of messages. *waits*, *replays*: the pools of calls that wait, or replay entries."""
        self._call = call
        self.pool = pool
        self._waits = waits
        self._replays = replays
        self._held = held
        self._bytes = 0
        self._counted_in = pool
        self._worked_from_s = 0.0

    def enter(self) -> Call | None:
        """Enter the pool; see ``Pool.enter``."""
        return self.pool.enter(self._call)

    def take_bytes(self, count: int) -> None:
        """Count the bytes of the call's message.

        Raises:
            InvalidError: the message is too long for its pool.
            OverloadedError: the messages in flight, of this caller or of all, have too many bytes.
        """
        longest = self.pool.limits.request_bytes
        if count > longest:
            raise InvalidError(f"request is over its limit of {longest} bytes: `{count}`", "TOO_LARGE")
        # A revocation is short, and is never refused because of other requests' bytes.
        if self.pool.name is PoolName.REVOKE or not count:
            return
        if not self._held.take(self._call.caller, count):
            self.pool.count_refused("bytes")
            raise OverloadedError("requests in flight have too many bytes", BUSY)
        self._bytes = count

    def begin_wait(self) -> bool:
        """See ``Context.begin_wait``. A call that waits leaves its pool for the one of calls that wait."""
        if self._counted_in is not self._waits:
            if not self._waits.try_enter(self._call.caller):
                return False
            self.pool.leave(self._call.caller)
            self._counted_in = self._waits
        return True

    def begin_replay(self) -> None:
        """See ``Context.begin_replay``."""
        if not self._replays.try_enter(self._call.caller):
            raise OverloadedError("too many calls replay entries", BUSY)
        self._counted_in.leave(self._call.caller)
        self._counted_in = self.pool = self._replays

    def put(self, step: Callable[[], None]) -> None:
        """Run a step of the call on a thread of its pool."""
        self.pool.put(step, self._call.caller)

    def give_way(self) -> None:
        """See ``Context.give_way``."""
        now_s = time.perf_counter()
        worked_s = now_s - self._worked_from_s
        if worked_s >= self.pool.limits.work_s:
            if self._worked_from_s and self.pool.rest(worked_s):
                now_s = time.perf_counter()
            self._worked_from_s = now_s

    def leave(self) -> None:
        """Leave all that was entered. The call calls this once, when it is over."""
        self.pool.goes_on(self._call)
        self._counted_in.leave(self._call.caller)
        if self._bytes:
            self._held.give_back(self._call.caller, self._bytes)


class Bytes:
    """The bytes of requests that were received and not answered yet, in all and per caller."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards the attributes below
        self._held = 0
        self._of_caller: Counter[str] = Counter()

    def take(self, caller: str, count: int) -> bool:
        """Count *count* bytes of *caller*; return False, and count nothing, if that is too many."""
        with self._lock:
            if self._held + count > self._most or self._of_caller[caller] + count > self._most // 4:
                return False
            self._held += count
            self._of_caller[caller] += count
            return True

    def give_back(self, caller: str, count: int) -> None:
        """End what ``take`` counted."""
        with self._lock:
            self._held -= count
            self._of_caller[caller] -= count
            if not self._of_caller[caller]:
                del self._of_caller[caller]
