"""Tell the time of the next leaf: the ledger's time never runs back, and is never taken from a clock that jumped.

Source: ledger-format.md, "The commit": behind the last leaf by at most a second, its time is used again; further
behind, or more than five minutes ahead of monotonic time, writes are refused.
"""

import time
from typing import Protocol

from consentd.errors import StorageError

MAX_BEHIND_MS = 1_000
"""How far the clock may be behind the last leaf before writes are refused."""
MAX_AHEAD_MS = 5 * 60_000
"""How far the clock may run ahead of monotonic time before writes are refused."""


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


class LeafClock:
    """The clock as the sequencer reads it, once a turn. Owned by its thread.

    Attributes:
        disagrees: ``behind`` or ``ahead``, how the clock disagreed when it was refused last; empty: never.
    """

    __slots__ = ("_base_monotonic_ms", "_base_wall_ms", "_clock", "_confirmed", "disagrees")

    def __init__(self, clock: Clock, last_ms: int, *, confirmed: bool = False) -> None:
        """Take the clock as it stands.

        Args:
            last_ms: the last leaf's time.
            confirmed: an operator confirms a clock that is behind it; its time is then used again.
        """
        self._clock = clock
        self._confirmed = confirmed
        self._base_wall_ms = max(clock.wall_ms(), last_ms if confirmed else 0)
        self._base_monotonic_ms = clock.monotonic_ms()
        self.disagrees = ""

    def time_ms(self, last_ms: int) -> int:
        """Return the time of the next leaf, behind one at *last_ms*.

        Raises:
            StorageError: CLOCK; writes are refused until the clock is set right or an operator confirms it.
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
