"""Pools: each kind of call has threads of its own, and limits on the calls in flight, in all and per caller.

A call enters its pool when its headers arrive, and leaves it when it is over and nothing works for it any more. It uses
a thread of the pool only while a handler computes: not while its message arrives, not while its write waits for the
sequencer or for a checkpoint, and not while an answer is sent.

Calls of one kind cannot use what another kind needs: a full pool of batches refuses batches, and nothing else. Callers
without a credential share one pool, and count as one caller.
"""

import enum
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue

from consentd.config import GrpcConfig
from consentd.errors import OverloadedError
from consentd.metrics import Metrics
from consentd.server.call import Call

log = logging.getLogger(__name__)

BUSY = "TOO_MANY_CALLS"
"""Reason of the error of a call that is refused because a limit on calls, waits or bytes is reached."""

STALLED_S = 1.0
"""A peer that has not taken a message for so long may lose its call to a caller that finds the pool full.

So may a caller that has not sent a message for so long, to a further call of its own.
"""

RECEIVING = 32
"""How many calls of a caller in a pool may wait for their messages for ``STALLED_S`` seconds or longer.

The core keeps what has arrived of a message, up to the longest one, and nobody else counts these bytes. A caller that
sends its message with the headers, as clients do, has no call that waits so long. In a burst it has many that wait
for a moment, so none is refused for that.
"""

CLOSE_S = 10.0
"""How long the threads of a pool may take to end."""

WORK_S, _LONGEST_WORK_S = 0.002, 0.02  # a thread rests after so much work, and for twice as much as it worked
_SCAN_WORK_S = 0.0005  # the same of a list over many persons
_RESTS, _SCAN_RESTS = 2, 12  # how many times as long as it worked a thread rests
_SCAN_AFTER_S = 0.1  # for so long after a check or a write began, a list over many persons rests
_SHORT_S = 0.001  # a step that takes longer is not short, see ``Shortcut``
_PAUSES = 20  # how many times as long as a step that was not short no further step takes the shortcut


class PoolName(enum.StrEnum):
    """The kinds of calls. The values are the metrics' labels."""

    CHECK = "check"
    REVOKE = "revoke"
    WRITE = "write"
    BATCH = "batch"
    WRITE_BATCH = "write_batch"
    READ = "read"
    SCAN = "scan"
    STREAM = "stream"
    ADMIN = "admin"
    ANYBODY = "anybody"
    HEALTH = "health"
    TOOLS = "tools"
    WAIT = "wait"
    REPLAY = "replay"


FIRST = (PoolName.CHECK, PoolName.REVOKE, PoolName.WRITE)
"""The pools to which all others give way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """The size of a pool.

    Attributes:
        threads: number of threads; 0: the pool only counts.
        calls, calls_of_caller: most calls in flight, in all and of one caller.
        request_bytes: longest request. A longer one is refused before it is decoded.
        work_s, rests: a thread rests after so many seconds of work, for *rests* times as long as it worked.
        after_s: it rests while a call that comes first is in flight, and for so many seconds after one began.
    """

    threads: int
    calls: int
    calls_of_caller: int
    request_bytes: int
    work_s: float = WORK_S
    rests: int = _RESTS
    after_s: float = 0.0


def pool_limits(config: GrpcConfig) -> dict[PoolName, PoolLimits]:
    """Return the sizes of all pools."""
    kib, longest = 1024, config.max_message_bytes

    def limits(threads: int, calls: int, request_bytes: int) -> PoolLimits:
        of_caller = max(1, min(config.max_calls_per_caller, calls // 2))
        return PoolLimits(threads=threads, calls=calls, calls_of_caller=of_caller, request_bytes=request_bytes)

    calls, streams = config.max_calls, config.max_streams
    return {
        PoolName.CHECK: limits(config.threads, calls, 64 * kib),
        PoolName.REVOKE: limits(2, calls, 64 * kib),
        PoolName.WRITE: limits(4, calls, 64 * kib),
        # Batches of questions need the processor alone. More threads would only take it from checks and writes.
        PoolName.BATCH: limits(1, max(2, calls // 16), longest),
        PoolName.WRITE_BATCH: limits(4, max(2, calls // 16), longest),
        PoolName.READ: limits(4, max(2, calls // 4), 64 * kib),
        # Lists over many persons have one thread and rest long, so that a check mostly finds it at rest.
        PoolName.SCAN: replace(
            limits(1, max(2, calls // 16), 64 * kib), work_s=_SCAN_WORK_S, rests=_SCAN_RESTS, after_s=_SCAN_AFTER_S
        ),
        PoolName.STREAM: limits(4, streams, 64 * kib),
        PoolName.ADMIN: limits(1, 32, 64 * kib),
        PoolName.ANYBODY: PoolLimits(threads=2, calls=streams, calls_of_caller=streams, request_bytes=4 * kib),
        PoolName.HEALTH: PoolLimits(threads=0, calls=calls, calls_of_caller=calls, request_bytes=4 * kib),
        PoolName.TOOLS: PoolLimits(threads=1, calls=streams, calls_of_caller=streams, request_bytes=4 * kib),
        PoolName.WAIT: limits(0, 4 * calls, 0),
        # Calls enter it from another pool. One thread, because a replay needs the processor alone.
        PoolName.REPLAY: limits(1, max(2, calls // 16), 0),
    }


class Shortcut:
    """Decides whether a step may run on the transport's thread, without a thread of the pool.

    To wake a thread takes longer than most checks. While other calls wait, their steps are better collected in the
    pool, so only the one call in flight takes the shortcut. The transport does nothing else meanwhile. So after a step
    that was not short, further steps use the pool for a while: they keep the transport for a twentieth of its time.
    """

    def __init__(self) -> None:
        self._closed_until_s = 0.0

    def is_open(self, in_flight: int, now_s: float) -> bool:
        """Return whether a step may take the shortcut. *in_flight*: calls in the pool; *now_s*: a monotonic time."""
        return in_flight == 1 and now_s >= self._closed_until_s

    def took(self, began_s: float, ended_s: float) -> None:
        """Note how long a step took that has taken the shortcut."""
        worked_s = ended_s - began_s
        if worked_s > _SHORT_S:
            self._closed_until_s = ended_s + _PAUSES * worked_s


def make_pools(config: GrpcConfig, metrics: Metrics, on_change: Callable[[], None]) -> "dict[PoolName, Pool]":
    """Start the threads of all pools; see ``Pool``."""
    pools = {name: Pool(name, limits, metrics, on_change) for name, limits in pool_limits(config).items()}
    for name, pool in pools.items():
        if name not in FIRST:
            pool.gives_way_to = tuple(pools[first] for first in FIRST)
    pools[PoolName.CHECK].shortcut = Shortcut()
    return pools


class Pool:
    """The threads of one kind of call, and the count of its calls in flight."""

    def __init__(self, name: PoolName, limits: PoolLimits, metrics: Metrics, on_change: Callable[[], None]) -> None:
        """Start the threads. *on_change* is called, on any thread, when ``is_saturated`` has changed."""
        self.name = name
        self.limits = limits
        self._metrics = metrics
        self._on_change = on_change
        self.gives_way_to: tuple[Pool, ...] = ()  # set once, before the first call
        self.shortcut: Shortcut | None = None  # likewise; used by the transport's thread
        self._lock = threading.Lock()  # guards the attributes below; every method that counts takes it
        self._in_flight = 0  # also read without the lock
        self._entered_s = 0.0  # when the last call did, by time.monotonic; likewise
        self._of_caller: Counter[str] = Counter()
        self._receiving: OrderedDict[Call, float] = OrderedDict()  # since when, by time.monotonic
        self._receiving_of: Counter[str] = Counter()
        self._sending: OrderedDict[Call, float] = OrderedDict()  # since when, by time.monotonic
        self.is_saturated = False  # written under the lock, read without it
        # The steps that wait, by caller; put and _next take the lock ``_order``. ``_waiting`` has one item a step,
        # and None for each thread that must end.
        self._order = threading.Lock()
        self._steps: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._waiting: SimpleQueue[bool | None] = SimpleQueue()
        names = [f"{name}-{number}" for number in range(limits.threads)]
        self._threads = [threading.Thread(target=self._work, name=one, daemon=True) for one in names]
        for thread in self._threads:
            thread.start()
        metrics.calls.follow(lambda: self.in_flight, name)
        metrics.calls_limit.follow(lambda: limits.calls, name)

    @property
    def in_flight(self) -> int:
        """How many calls are in the pool now."""
        return self._in_flight

    def enter(self, call: Call) -> Call | None:
        """Count *call*, whose message has not arrived yet; return another call that must end to make room for it.

        If the pool is full, the call that waits longest for its peer must end. So peers that send headers alone, or
        that do not take what they asked for, cannot keep others out. If the caller has ``RECEIVING`` calls that wait
        for their messages, the first of these must end, if it is stalled (``STALLED_S``).

        Raises:
            OverloadedError: the caller has too many calls in the pool, or the pool is full and no call waits for its
                peer; *call* is not counted.
        """
        with self._lock:
            if call.caller and self._of_caller[call.caller] >= self.limits.calls_of_caller:
                self._metrics.calls_refused.inc(self.name, "caller")
                raise OverloadedError(f"caller has too many calls in flight: `{self.limits.calls_of_caller}`", BUSY)
            evicted = None
            if call.caller and self._receiving_of[call.caller] >= RECEIVING:
                evicted = self._take_receiving(call.caller)
            if evicted is not None:
                self._metrics.calls_refused.inc(self.name, "evicted")
            elif self._in_flight >= self.limits.calls:
                evicted = self._take_stalled()
                self._metrics.calls_refused.inc(self.name, "all" if evicted is None else "evicted")
                self._set_saturated(saturated=True)
                if evicted is None:
                    raise OverloadedError("too many calls of this kind are in flight", BUSY)
            self._in_flight += 1
            self._of_caller[call.caller] += 1
            self._begin_receive(call)
            self._entered_s = self._receiving[call]
        return evicted

    def _begin_receive(self, call: Call) -> None:
        self._receiving[call] = time.monotonic()
        self._receiving_of[call.caller] += 1

    def _end_receive(self, call: Call) -> None:
        if self._receiving.pop(call, None) is not None:
            self._receiving_of[call.caller] -= 1
            if not self._receiving_of[call.caller]:
                del self._receiving_of[call.caller]

    def _take_receiving(self, caller: str) -> Call | None:
        """Return the call of *caller* that waits longest for its message; None: it is not stalled."""
        call, since_s = next((one, since_s) for one, since_s in self._receiving.items() if one.caller == caller)
        if time.monotonic() - since_s < STALLED_S:
            return None
        self._end_receive(call)
        return call

    def _take_stalled(self) -> Call | None:
        """Return the call that waits longest for its message, or else for its peer to take one; None: there is none."""
        if self._receiving:
            call = next(iter(self._receiving))
            self._end_receive(call)
            return call
        for call, since_s in self._sending.items():  # the first waits longest
            if time.monotonic() - since_s < STALLED_S:
                return None
            del self._sending[call]
            return call
        return None

    def receives(self, call: Call) -> None:
        """Note that *call* waits for a further message of its peer."""
        with self._lock:
            self._begin_receive(call)

    def sends(self, call: Call) -> None:
        """Note that *call* waits for its peer to take a message."""
        with self._lock:
            self._sending[call] = time.monotonic()

    def goes_on(self, call: Call) -> None:
        """Note that *call* waits for its peer no longer."""
        with self._lock:
            self._end_receive(call)
            self._sending.pop(call, None)

    def try_enter(self, caller: str) -> bool:
        """Count a wait of *caller*; return False, and count nothing, if there are too many."""
        with self._lock:
            full = self._in_flight >= self.limits.calls or self._of_caller[caller] >= self.limits.calls_of_caller
            if full:
                self._metrics.calls_refused.inc(self.name, "all")
                self._set_saturated(saturated=True)
                return False
            self._in_flight += 1
            self._of_caller[caller] += 1
            return True

    def leave(self, caller: str) -> None:
        """End what ``enter`` or ``try_enter`` counted."""
        with self._lock:
            self._in_flight -= 1
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]
            if self._in_flight <= self.limits.calls // 2:
                self._set_saturated(saturated=False)

    def count_refused(self, limit: str) -> None:
        """Count a call that is refused because of a limit that is not of this pool alone."""
        self._metrics.calls_refused.inc(self.name, limit)

    def begin(self, step: Callable[[], None], caller: str) -> None:
        """Run the first *step* of a call: here, if the pool has no threads or its shortcut is open; else as ``put``.

        The transport's thread calls this.
        """
        if not self.limits.threads:
            step()
            return
        began_s = time.monotonic()
        if self.shortcut is None or not self.shortcut.is_open(self._in_flight, began_s):
            self.put(step, caller)
            return
        step()
        self.shortcut.took(began_s, time.monotonic())

    def put(self, step: Callable[[], None], caller: str) -> None:
        """Run *step* on a thread of the pool. Callers take turns: one with many steps does not delay another's."""
        with self._order:
            if caller not in self._steps:
                self._steps[caller] = deque()
            self._steps[caller].append(step)
        self._waiting.put(True)

    def _next(self) -> Callable[[], None]:
        """Take the next step of the caller whose turn it is."""
        with self._order:
            caller, steps = next(iter(self._steps.items()))
            step = steps.popleft()
            if steps:
                self._steps.move_to_end(caller)
            else:
                del self._steps[caller]
        return step

    def rest(self, worked_s: float) -> bool:
        """Rest after *worked_s* seconds of work, if calls that come first need the processor; return whether it rested.

        So reads, histories and batches together take no more than a third of the time of each of their threads then.
        """
        if not any(pool.is_busy(self.limits.after_s) for pool in self.gives_way_to):
            return False
        time.sleep(self.limits.rests * min(worked_s, _LONGEST_WORK_S))
        return True

    def is_busy(self, after_s: float = 0.0) -> bool:
        """Return whether the pool has calls whose message has arrived, or one began less than *after_s* seconds ago."""
        is_recent = after_s > 0 and time.monotonic() - self._entered_s < after_s
        return is_recent or self._in_flight > len(self._receiving)

    def close(self) -> None:
        """End the threads, after the steps that were put before, and wait until they have ended.

        What the steps use may be closed then. If a step does not end in ``CLOSE_S`` seconds, that is logged.
        """
        for _ in self._threads:
            self._waiting.put(None)
        until_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
            if thread.is_alive():
                log.error("step of pool `%s` has not ended", self.name)

    def _set_saturated(self, *, saturated: bool) -> None:
        if saturated != self.is_saturated:
            self.is_saturated = saturated
            log.warning("pool `%s` is %s", self.name, "full: calls are refused" if saturated else "half empty again")
            self._on_change()

    def _work(self) -> None:
        while self._waiting.get() is not None:
            began_s = time.perf_counter()
            try:
                self._next()()
            except Exception as error:  # noqa: BLE001  # a bug in one step must not end the thread
                log.error("bug in a step of a call: %s", type(error).__name__)
            worked_s = time.perf_counter() - began_s
            if worked_s >= self.limits.work_s:
                self.rest(worked_s)
