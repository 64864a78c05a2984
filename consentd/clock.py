"""Determine the time of the next leaf, and of decisions. Neither decreases, and a clock that jumped is refused.

If the clock is at most a second behind the last leaf's time, the next leaf gets that time too. If the clock is further
behind, or over five minutes ahead of the expected time, writes are refused, and nothing is decided. The expected time
is the last leaf's time plus the monotonic time since. While no leaf is written, it also follows small steps of the
clock, as time servers make them all day, so that small steps never add up to a jump. Source: ledger-format.md, "Clock".
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
_HOW = {"ahead": "jumped ahead by more than five minutes", "behind": "is more than a second behind the last entry"}


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
    """The clock for leaf times and for the time of decisions.

    The sequencer's thread reads it once for each batch (``time_ms``), and regularly without one (``follow``). Any
    thread may ask whether the clock agrees with the ledger (``disagreement``, ``decision_ms``).

    Attributes:
        disagrees: ``behind`` or ``ahead``, the reason why a write was refused last; empty if none ever was.
    """

    __slots__ = ("_base", "_clock", "_confirmed", "_is_refusing", "disagrees")

    def __init__(self, clock: Clock, last_ms: int, *, confirmed: bool = False) -> None:
        """Record the wall and monotonic time, to detect jumps from now on. *last_ms* is the time of the last leaf.

        *confirmed*: an operator confirmed that the clock is right although it is behind *last_ms*. Leaves then have the
        time *last_ms* until the clock has passed *last_ms*.
        """
        self._clock = clock
        self._confirmed = confirmed
        # (wall, monotonic): the expected time is the first when the monotonic clock shows the second. The sequencer's
        # thread replaces the pair by one assignment, so that other threads always read two that belong together.
        self._base = max(clock.wall_ms(), last_ms if confirmed else 0), clock.monotonic_ms()
        self._is_refusing = False
        self.disagrees = ""

    def disagreement(self, last_ms: int) -> str:
        """Return ``behind`` or ``ahead`` if the clock disagrees now with the last leaf's time; else an empty string."""
        return self._compare(last_ms)[1]

    def decision_ms(self, last_ms: int) -> int | None:
        """Return the time of a decision that is taken now; None: the clock disagrees, so nothing can be decided.

        *last_ms*: time of the last leaf that the decision reads. The decision is never earlier (policy.md, rule 4).
        """
        now_ms, disagrees = self._compare(last_ms)
        return None if disagrees else max(now_ms, last_ms)

    def time_ms(self, last_ms: int) -> int:
        """Return the time of the next leaf, given the time of the last one.

        Raises:
            StorageError: (CLOCK) the clock jumped. Writes are refused until it is right, or an operator confirms it.
        """
        monotonic_ms = self._clock.monotonic_ms()
        now_ms, disagrees = self._compare(last_ms)
        if disagrees:
            self._refuse(disagrees, now_ms - last_ms)
            raise StorageError(f"clock {_HOW[disagrees]}; writes are refused", "CLOCK")
        if self._is_refusing:
            self._is_refusing = False
            log.info("clock agrees with the ledger again")
        leaf_ms = max(now_ms, last_ms)
        self._base = leaf_ms, monotonic_ms
        return leaf_ms

    def _compare(self, last_ms: int) -> tuple[int, str]:
        """Return the clock's time, and how it disagrees with the ledger."""
        base, now_ms, monotonic_ms = self._base, self._clock.wall_ms(), self._clock.monotonic_ms()
        if now_ms > max(_expected_ms(base, monotonic_ms), last_ms) + MAX_AHEAD_MS:
            return now_ms, "ahead"
        if now_ms < last_ms - MAX_BEHIND_MS and not self._confirmed:
            return now_ms, "behind"
        return now_ms, ""

    def _refuse(self, disagrees: str, from_last_ms: int) -> None:
        """Note why the clock is refused; log it when the refusals begin."""
        self.disagrees = disagrees
        if not self._is_refusing:
            self._is_refusing = True
            log.error(
                "clock disagrees with the ledger, %s: writes are refused: it shows %+d ms from the last entry's time; "
                "see ops/RUNBOOK.md, `confirm a clock`", disagrees, from_last_ms,
            )  # fmt: skip

    def follow(self) -> None:
        """Let the expected time follow the clock by what ``FOLLOWED_PER_S_MS`` allows since the last call or leaf.

        The sequencer calls this regularly while no leaf is written. A jump of over ``MAX_AHEAD_MS`` is not followed.
        """
        base, now_ms, monotonic_ms = self._base, self._clock.wall_ms(), self._clock.monotonic_ms()
        expected_ms, passed_ms = _expected_ms(base, monotonic_ms), monotonic_ms - base[1]
        step_ms = now_ms - expected_ms
        # Shorter times are added up, because the limit of a few milliseconds would be rounded to zero.
        if abs(step_ms) > MAX_AHEAD_MS or passed_ms < 1000:
            return
        most_ms = passed_ms * FOLLOWED_PER_S_MS // 1000
        self._base = expected_ms + max(-most_ms, min(step_ms, most_ms)), monotonic_ms


def _expected_ms(base: tuple[int, int], monotonic_ms: int) -> int:
    return base[0] + monotonic_ms - base[1]
