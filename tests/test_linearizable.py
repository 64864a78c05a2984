"""The checker of histories finds planted violations, and agrees with a search of all orders."""

import random
from itertools import permutations

import pytest

from cases.linearizable import Operation, violation


def write(start: int, end: int | None, value: str) -> Operation:
    return Operation(start, end, value, is_write=True)


def read(start: int, end: int | None, value: str) -> Operation:
    return Operation(start, end, value)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(1, 2, "")],
        [write(1, 2, "a"), read(3, 4, "a"), write(5, 6, ""), read(7, 8, "")],
        # While a write is under way, a read may return either value.
        [write(1, 9, "a"), read(2, 3, ""), read(4, 5, "a")],
        [write(1, 9, "a"), read(2, 8, "a"), read(3, 4, "")],
        # A write without an answer may have been made, also later.
        [write(1, None, "a"), read(2, 3, ""), read(4, 5, "a"), read(6, 7, "a")],
        [write(1, None, "a"), read(2, 3, "")],
        [read(1, None, "never written")],
        # Events at one time are concurrent.
        [write(1, 2, "a"), write(3, 4, ""), read(4, 5, "a")],
    ],
)
def test_histories_that_are_linearizable(history: list[Operation]) -> None:
    assert violation(history) is None


@pytest.mark.parametrize(
    ("history", "at"),
    [
        ([read(1, 2, "a")], 0),
        # Stale: the read began after the withdrawal was acknowledged.
        ([write(1, 2, "a"), write(3, 4, ""), read(5, 6, "a")], 2),
        # A lost write.
        ([write(1, 2, "a"), read(3, 4, "")], 1),
        # The new value, and then the old one, while the write is under way.
        ([write(1, 9, "a"), read(2, 3, "a"), read(4, 5, "")], 2),
        # The value before the last.
        ([write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")], 2),
        # Another caller had seen that a write without an answer was made.
        ([write(1, None, "a"), read(2, 3, "a"), read(4, 5, "")], 2),
    ],
)
def test_planted_violations_are_found(history: list[Operation], at: int) -> None:
    assert violation(history) is history[at]


def in_any_order(history: list[Operation]) -> bool:
    """Return whether some order of the operations explains a history. Those without an answer may be left out."""
    open_ones = [one for one in history if one.end is None]
    for left_out in range(1 << len(open_ones)):
        made = [one for one in history if one.end is not None or not left_out >> open_ones.index(one) & 1]
        if any(_explains(order) for order in permutations(made)):
            return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    value = ""
    for at, one in enumerate(order):
        if any(later.end is not None and later.end < one.start for later in order[at + 1 :]):
            return False
        if one.is_write:
            value = one.value
        elif one.value != value:
            return False
    return True


def test_the_checker_agrees_with_a_search_of_all_orders() -> None:
    pick, kinds = random.Random(1), {True: 0, False: 0}
    for _ in range(1_500):
        history = []
        for number in range(pick.randint(1, 5)):
            start = pick.randrange(10)
            end = None if pick.random() < 0.1 else start + pick.randint(1, 6)
            is_write = pick.random() < 0.5
            value = f"{pick.randrange(2)}" if pick.random() < 0.8 else ""
            history.append(Operation(start * 8 + number, end if end is None else end * 8 + number, value, is_write))
        meant = in_any_order(history)
        assert (violation(history) is None) is meant, history
        kinds[meant] += 1
    assert min(kinds.values()) > 200
