"""Define a delegation: one participant, the taker, may act for another one, the giver (policy.md, rule 10).

A delegation is direct. If a acts for b, and b for c, then a does not act for c.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from consentd.errors import InvalidError
from consentd.policy.dates import is_instant
from consentd.policy.model import ANY, BREAK_GLASS_PURPOSE, OPEN_END_MS


class Capacity(IntEnum):
    """What the taker of a delegation is to the giver. ``consentd.v1.DelegationCapacity`` has the same numbers."""

    RELAY = 1
    PROCESSOR = 2
    APPLICATION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """A delegation, as the latest statement of its giver, taker and capacity describes it.

    Attributes:
        giver, taker: ids of participants. The taker may act for the giver.
        purposes: the purposes for which the taker may act, each without those below it; empty: all but BTG.
        start_ms, end_ms: the window ``[start_ms, end_ms)`` in which the delegation is in force, UTC milliseconds.
        break_glass: whether the taker may also act for purpose BTG.
    """

    giver: str
    taker: str
    capacity: Capacity
    purposes: tuple[str, ...] = ()
    start_ms: int = 0
    end_ms: int = OPEN_END_MS
    break_glass: bool = False

    def is_in_force(self, now_ms: int) -> bool:
        """Return whether *now_ms*, UTC milliseconds, is in the delegation's window."""
        return self.start_ms <= now_ms < self.end_ms

    def covers(self, purpose: str) -> bool:
        """Return whether the taker may act for *purpose*, whenever the delegation is in force."""
        if purpose == BREAK_GLASS_PURPOSE:
            return self.break_glass
        return not self.purposes or purpose in self.purposes


def check_delegation(delegation: Delegation, purposes: Collection[str] | None = None) -> None:
    """Check a delegation alone, without knowledge of participants.

    Args:
        purposes: the purposes of the vocabulary in force; None: any purpose is accepted.

    Raises:
        InvalidError: it is given to its giver, its window is empty or has a bound after the year 9999, or it lists a
            purpose twice, BTG, or one that is not in *purposes* (UNKNOWN_CODE).
    """
    if delegation.giver == delegation.taker:
        raise InvalidError("a participant cannot give itself a delegation")
    if not 0 <= delegation.start_ms < delegation.end_ms <= OPEN_END_MS:
        raise InvalidError("delegation does not end after it starts")
    if not is_instant(delegation.start_ms) or not (delegation.end_ms == OPEN_END_MS or is_instant(delegation.end_ms)):
        raise InvalidError("delegation begins or ends after the year 9999; leave the end out if there is none")
    stated = delegation.purposes
    if len(set(stated)) != len(stated) or "" in stated or ANY in stated:
        raise InvalidError("delegation lists a purpose twice, an empty one or `*`; no purpose means all but BTG")
    if BREAK_GLASS_PURPOSE in stated:
        raise InvalidError("delegation lists purpose `BTG`; set `break_glass` instead")
    for purpose in stated:
        if purposes is not None and purpose not in purposes:
            raise InvalidError(f"code is not in the vocabulary: `{purpose}`", "UNKNOWN_CODE")
