"""The clock of leaf times: jumps are refused, and the small steps of a clock that is being corrected never are."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases.fakes import START_MS, FakeClock
from consentd.clock import FOLLOWED_PER_S_MS, MAX_AHEAD_MS, MAX_BEHIND_MS, LeafClock
from consentd.errors import StorageError

DAY_S = 86_400
Idle = tuple[int, int]
"""Milliseconds that pass, then a step of the wall clock in milliseconds."""


def rest(clock: FakeClock, leaf_clock: LeafClock, idle: Sequence[Idle]) -> None:
    """Let time pass as the sequencer does while nothing is written."""
    for passed_ms, step_ms in idle:
        clock.advance(passed_ms)
        clock.shift_wall(step_ms)
        leaf_clock.follow()


def refusal(leaf_clock: LeafClock, last_ms: int) -> str:
    """Return why the next leaf is refused; empty if it is not."""
    try:
        leaf_clock.time_ms(last_ms)
    except StorageError as error:
        return leaf_clock.disagrees if error.reason == "CLOCK" else "otherwise"
    return ""


@pytest.mark.parametrize("step_ms", [180, -180])
@pytest.mark.parametrize("every_s", [2, 60])
def test_steps_of_180_ms_over_days_without_a_leaf_never_add_up(step_ms: int, every_s: int) -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    for _ in range(3 * DAY_S // every_s):
        rest(clock, leaf_clock, [(1000 * every_s, step_ms)])
    assert refusal(leaf_clock, START_MS) == ""


@given(st.lists(st.tuples(st.integers(1000, 5000), st.integers(-100, 100)), max_size=300), st.integers(0, 999))
def test_no_sequence_of_small_steps_is_refused_and_a_jump_after_it_is(idle: list[Idle], more_ms: int) -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    rest(clock, leaf_clock, idle)
    last_ms = leaf_clock.time_ms(START_MS)
    assert last_ms == max(START_MS, clock.wall_ms())
    rest(clock, leaf_clock, idle)
    stepped_ms = sum(abs(step) for _, step in idle)
    clock.shift_wall(max(0, last_ms - clock.wall_ms()) + MAX_AHEAD_MS + stepped_ms + 1 + more_ms)
    assert refusal(leaf_clock, last_ms) == "ahead"


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(-400_000, 400_000)), max_size=60))
def test_the_expected_time_follows_by_no_more_than_its_limit(idle: list[Idle]) -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    rest(clock, leaf_clock, idle)
    monotonic_ms = clock.monotonic_ms()
    # A clock that is further ahead than five minutes and all that may have been followed is refused.
    most_ms = MAX_AHEAD_MS + monotonic_ms * FOLLOWED_PER_S_MS // 1000
    clock.shift_wall(START_MS + monotonic_ms + most_ms + 1 - clock.wall_ms())
    assert refusal(leaf_clock, START_MS) == "ahead"


@given(st.integers(MAX_AHEAD_MS + 1, 10 * MAX_AHEAD_MS), st.integers(0, 3 * DAY_S))
def test_a_jump_stays_refused_until_the_clock_is_right(jump_ms: int, seconds: int) -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    rest(clock, leaf_clock, [(1000, jump_ms), *[(seconds * 100, 0)] * 10])
    assert refusal(leaf_clock, START_MS) == "ahead"
    rest(clock, leaf_clock, [(1000, -jump_ms)])
    assert refusal(leaf_clock, START_MS) == ""
    assert leaf_clock.time_ms(START_MS) == clock.wall_ms()


def test_many_calls_in_one_second_follow_as_one() -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    for _ in range(DAY_S):  # calls every 100 ms: each alone could follow by 10 ms
        rest(clock, leaf_clock, [(100, 5)])
    assert refusal(leaf_clock, START_MS) == ""


@given(st.integers(0, 3 * MAX_BEHIND_MS), st.lists(st.tuples(st.integers(0, 5000), st.integers(-50, 50)), max_size=50))
def test_a_leaf_never_has_an_earlier_time_than_the_one_before(behind_ms: int, idle: list[Idle]) -> None:
    clock = FakeClock()
    leaf_clock = LeafClock(clock, START_MS)
    clock.shift_wall(-behind_ms)
    assert refusal(leaf_clock, START_MS) == ("behind" if behind_ms > MAX_BEHIND_MS else "")
    last_ms = START_MS
    for each in idle:
        rest(clock, leaf_clock, [each])
        if refusal(leaf_clock, last_ms) == "":
            time_ms = leaf_clock.time_ms(last_ms)
            assert time_ms == max(last_ms, clock.wall_ms())
            last_ms = time_ms
