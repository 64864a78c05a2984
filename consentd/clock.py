"""Determine the time of the next leaf. Leaf times never decrease, and a clock that jumped is refused.

If the clock is at most a second behind the last leaf's time, the next leaf gets that time too. If the clock is further
behind, or over five minutes ahead of the monotonic clock, writes are refused. Source: ledger-format.md, "Clock".
"""

import time
from typing import Protocol

from consentd.errors import StorageError

MAX_BEHIND_MS = 1_000
"""How far the clock may be behind the last leaf's time before writes are refused."""
MAX_AHEAD_MS = 5 * 60_000
"""How far the clock may be ahead of the time that the monotonic clock predicts, before writes are refused."""


class Clock(Protocol):
    """Wall time and monotonic time, both in milliseconds."""

    def wall_ms(self) -> int:
        """Return UTC milliseconds."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since some fixed time; they never decrease."""


class SystemClock(Clock):
    """The machine's clock."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class LeafClock:
    """The clock for leaf times. For the sequencer's thread only, which reads it once for each batch.

    Attributes:
        disagrees: ``behind`` or ``ahead``, the reason why the clock was refused last; empty if it never was.
    """

    __slots__ = ("_base_monotonic_ms", "_base_wall_ms", "_clock", "_confirmed", "disagrees")

    def __init__(self, clock: Clock, last_ms: int, *, confirmed: bool = False) -> None:
        """Record the wall and monotonic time, to detect jumps from now on. *last_ms* is the time of the last leaf.

        *confirmed*: an operator confirmed that the clock is right although it is behind *last_ms*. Leaves then have the
        time *last_ms* until the clock has passed *last_ms*.
        """
        self._clock = clock
        self._confirmed = confirmed
        self._base_wall_ms = max(clock.wall_ms(), last_ms if confirmed else 0)
        self._base_monotonic_ms = clock.monotonic_ms()
        self.disagrees = ""

    def time_ms(self, last_ms: int) -> int:
        """Return the time of the next leaf, given the time of the last one.

        Raises:
            StorageError: (CLOCK) the clock jumped. Writes are refused until it is right, or an operator confirms it.
        """
        now_ms = self._clock.wall_ms()
        expected_ms = self._base_wall_ms + self._clock.monotonic_ms() - self._base_monotonic_ms
        if now_ms > max(expected_ms, last_ms) + MAX_AHEAD_MS:
            self.disagrees = "ahead"
            raise StorageError("clock jumped ahead by more than five minutes; writes are refused", "CLOCK")
        if now_ms < last_ms - MAX_BEHIND_MS and not self._confirmed:
            self.disagrees = "behind"
            raise StorageError("clock is more than a second behind the last entry; writes are refused", "CLOCK")
        return max(now_ms, last_ms)
