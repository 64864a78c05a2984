"""Determine the time of the next leaf. Leaf times never decrease, and a clock that jumped is refused.

If the clock is at most a second behind the last leaf's time, the next leaf gets that time too. If the clock is further
behind, or over five minutes ahead of the expected time, writes are refused. The expected time is the last leaf's time
plus the monotonic time since. While no leaf is written, it also follows small steps of the clock, as time servers make
them all day, so that small steps never add up to a jump. Source: ledger-format.md, "Clock".
"""

import logging
import time
from typing import Protocol

from consentd.errors import StorageError

log = logging.getLogger(__name__)

MAX_BEHIND_MS = 1_000
"""How far the clock may be behind the last leaf's time before writes are refused."""
MAX_AHEAD_MS = 5 * 60_000
"""How far the clock may be ahead of the expected time, before writes are refused."""
FOLLOWED_PER_S_MS = 100
"""How far the expected time follows the clock in a second of monotonic time without a leaf. Time servers slew a clock
by less (chrony: at most 83 ms a second), and correct it by steps that are smaller on average."""


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
        agrees: whether the clock was right when it was read last. Any thread may read this.
        disagrees: ``behind`` or ``ahead``, the reason why the clock was refused last; empty if it never was.
    """

    __slots__ = ("_base_monotonic_ms", "_base_wall_ms", "_clock", "_confirmed", "agrees", "disagrees")

    def __init__(self, clock: Clock, last_ms: int, *, confirmed: bool = False) -> None:
        """Record the wall and monotonic time, to detect jumps from now on. *last_ms* is the time of the last leaf.

        *confirmed*: an operator confirmed that the clock is right although it is behind *last_ms*. Leaves then have the
        time *last_ms* until the clock has passed *last_ms*.
        """
        self._clock = clock
        self._confirmed = confirmed
        # The expected time is _base_wall_ms when the monotonic clock shows _base_monotonic_ms.
        self._base_wall_ms = max(clock.wall_ms(), last_ms if confirmed else 0)
        self._base_monotonic_ms = clock.monotonic_ms()
        self.disagrees = ""
        self.agrees = True

    def time_ms(self, last_ms: int) -> int:
        """Return the time of the next leaf, given the time of the last one.

        Raises:
            StorageError: (CLOCK) the clock jumped. Writes are refused until it is right, or an operator confirms it.
        """
        now_ms, monotonic_ms = self._clock.wall_ms(), self._clock.monotonic_ms()
        if now_ms > max(self._expected_ms(monotonic_ms), last_ms) + MAX_AHEAD_MS:
            self._refuse("ahead", now_ms - last_ms)
            raise StorageError("clock jumped ahead by more than five minutes; writes are refused", "CLOCK")
        if now_ms < last_ms - MAX_BEHIND_MS and not self._confirmed:
            self._refuse("behind", now_ms - last_ms)
            raise StorageError("clock is more than a second behind the last entry; writes are refused", "CLOCK")
        if not self.agrees:
            self.agrees = True
            log.info("clock agrees with the ledger again")
        leaf_ms = max(now_ms, last_ms)
        self._base_wall_ms, self._base_monotonic_ms = leaf_ms, monotonic_ms
        return leaf_ms

    def _refuse(self, disagrees: str, from_last_ms: int) -> None:
        """Note why the clock is refused; log it when the refusals begin."""
        self.disagrees = disagrees
        if self.agrees:
            self.agrees = False
            log.error(
                "clock disagrees with the ledger, %s: writes are refused: it shows %+d ms from the last entry's time; "
                "see ops/RUNBOOK.md, `confirm a clock`", disagrees, from_last_ms,
            )  # fmt: skip

    def follow(self) -> None:
        """Let the expected time follow the clock by what ``FOLLOWED_PER_S_MS`` allows since the last call or leaf.

        The sequencer calls this regularly while no leaf is written. A jump of over ``MAX_AHEAD_MS`` is not followed.
        """
        now_ms, monotonic_ms = self._clock.wall_ms(), self._clock.monotonic_ms()
        expected_ms, passed_ms = self._expected_ms(monotonic_ms), monotonic_ms - self._base_monotonic_ms
        step_ms = now_ms - expected_ms
        # Shorter times are added up, because the limit of a few milliseconds would be rounded to zero.
        if abs(step_ms) > MAX_AHEAD_MS or passed_ms < 1000:
            return
        most_ms = passed_ms * FOLLOWED_PER_S_MS // 1000
        self._base_wall_ms = expected_ms + max(-most_ms, min(step_ms, most_ms))
        self._base_monotonic_ms = monotonic_ms

    def _expected_ms(self, monotonic_ms: int) -> int:
        return self._base_wall_ms + monotonic_ms - self._base_monotonic_ms
