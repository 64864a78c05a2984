"""Determine whether a recorded history of a register is linearizable.

It is, if each operation can have taken effect at one moment between its start and its end, so that each read returned
what was written last (Herlihy and Wing, 1990). Then no read that began after a write was acknowledged returned what
was there before it.

``violation`` follows the starts and ends in the order of time. It keeps all states that are possible: a value of the
register, and which of the operations under way have taken effect. A read takes effect as soon as the register has its
value: this is never too early, because a read changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_State = tuple[str, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A write or a read of the register.

    Attributes:
        start, end: when it began, and when its answer came, on one clock; an end of None: no answer came. Such a write
            may take effect at any later time, or never.
        value: what was written, or what was read.
    """

    start: int
    end: int | None
    value: str
    is_write: bool = False


def violation(history: Sequence[Operation], first: str = "") -> Operation | None:
    """Return the first operation that cannot have taken effect in time; None: the history is linearizable.

    *first*: the value of the register before the history.
    """
    # Of events at the same time the starts come first, so that the operations are concurrent.
    events = sorted(
        [(one.start, 0, number) for number, one in enumerate(history)]
        + [(one.end, 1, number) for number, one in enumerate(history) if one.end is not None]
    )
    under_way: set[int] = set()
    states: set[_State] = {(first, frozenset())}
    for _, is_end, number in events:
        if not is_end:
            under_way.add(number)
            states = _with_reads(history, under_way, states)
            continue
        reached = _reachable(history, under_way, states)
        states = {(value, done - {number}) for value, done in reached if number in done}
        under_way.discard(number)
        if not states:
            return history[number]
    return None


def _reachable(history: Sequence[Operation], under_way: set[int], states: Iterable[_State]) -> set[_State]:
    """Return all states after some of the operations under way have taken effect, in any order."""
    found = _with_reads(history, under_way, states)
    rest = list(found)
    while rest:
        _, done = rest.pop()
        writes = [(history[one].value, done | {one}) for one in under_way - done if history[one].is_write]
        more = _with_reads(history, under_way, writes) - found
        found |= more
        rest.extend(more)
    return found


def _with_reads(history: Sequence[Operation], under_way: set[int], states: Iterable[_State]) -> set[_State]:
    """Let those reads under way take effect that return the register's value."""
    reads = [one for one in under_way if not history[one].is_write]
    return {(value, done.union(one for one in reads if history[one].value == value)) for value, done in states}
