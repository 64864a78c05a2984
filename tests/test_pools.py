"""The pools of calls: where the first step of a call runs."""

import threading
from collections.abc import Iterator

import pytest

from cases.fakes import HANG_S
from consentd.metrics import Metrics
from consentd.server.call import Call
from consentd.server.pools import Pool, PoolLimits, PoolName, Shortcut

CALLER = "clinic"


class FakeCall(Call):
    """A call that only its pool knows."""

    __slots__ = ()

    def __init__(self) -> None:
        self.caller = CALLER


@pytest.fixture
def pool() -> Iterator[Pool]:
    limits = PoolLimits(threads=1, calls=10, calls_of_caller=10, request_bytes=1)
    made = Pool(PoolName.CHECK, limits, Metrics(), lambda: None)
    yield made
    made.close()


def where(pool: Pool) -> str:
    """Return the name of the thread on which the first step of a call runs."""
    found: list[str] = []
    ended = threading.Event()

    def step() -> None:
        found.append(threading.current_thread().name)
        ended.set()

    pool.begin(step, CALLER)
    assert ended.wait(HANG_S)
    return found[0]


def test_a_call_alone_in_its_pool_needs_no_thread(pool: Pool) -> None:
    here = threading.current_thread().name
    pool.shortcut = Shortcut()
    pool.enter(FakeCall())
    assert where(pool) == here
    pool.enter(FakeCall())
    assert where(pool) == "check-0"
    pool.leave(CALLER)
    assert where(pool) == here


def test_without_a_shortcut_each_step_runs_on_a_thread_of_the_pool(pool: Pool) -> None:
    pool.enter(FakeCall())
    assert where(pool) == "check-0"


def test_after_a_step_that_was_not_short_the_shortcut_is_closed_for_twenty_times_as_long() -> None:
    shortcut = Shortcut()
    assert shortcut.is_open(1, 100.0)
    shortcut.took(100.0, 100.0005)
    assert shortcut.is_open(1, 100.001)
    shortcut.took(200.0, 200.5)
    assert not shortcut.is_open(1, 210.25)
    assert shortcut.is_open(1, 210.5)
    assert not shortcut.is_open(2, 210.5)


@pytest.mark.parametrize(("after_s", "rests"), [(0.0, False), (3_600.0, True)])
def test_a_list_over_many_persons_rests_also_between_two_checks(pool: Pool, after_s: float, rests: bool) -> None:
    limits = PoolLimits(threads=0, calls=1, calls_of_caller=1, request_bytes=1, rests=9, after_s=after_s)
    scan = Pool(PoolName.SCAN, limits, Metrics(), lambda: None)
    scan.gives_way_to = (pool,)
    checked = FakeCall()
    pool.enter(checked)
    pool.goes_on(checked)
    assert scan.rest(0.0)
    pool.leave(CALLER)
    assert scan.rest(0.0) is rests
