"""Waits for a size end when it is reached, at their time, when they are hopeless, and when they are ended."""

import threading
from concurrent.futures import Future
from typing import Any

from cases.fakes import HANG_S
from consentd.waits import SizeWaits


class Sized:
    """Something that grows, and its waits."""

    def __init__(self, **options: Any) -> None:
        self.size, self.is_hopeless = 0, False
        self.waits = SizeWaits("test", lambda: self.size, is_hopeless=lambda: self.is_hopeless, **options)

    def grow(self, size: int) -> None:
        self.size = size
        self.waits.notify()


def test_a_wait_ends_with_its_size_and_no_sooner() -> None:
    sized = Sized()
    near, far = sized.waits.when(5, HANG_S), sized.waits.when(7, HANG_S)
    sized.grow(4)
    sized.grow(5)
    near.result(HANG_S)
    assert not far.done()
    sized.grow(9)
    far.result(HANG_S)


def test_a_size_that_is_there_needs_no_growth() -> None:
    sized = Sized()
    sized.size = 3  # it grew between the caller's look and its wait
    sized.waits.when(9, HANG_S)
    sized.waits.when(3, HANG_S).result(HANG_S)


def test_a_wait_ends_at_its_time() -> None:
    sized = Sized()
    sized.waits.when(1, 0.0).result(HANG_S)
    later = sized.waits.when(1, HANG_S)
    sized.waits.when(1, 0.01).result(HANG_S)
    assert not later.done()


def test_all_waits_end_when_nothing_can_grow() -> None:
    sized = Sized(recheck_s=0.01)
    waiting = [sized.waits.when(1, HANG_S) for _ in range(3)]
    sized.is_hopeless = True  # nobody notifies
    for wait in waiting:
        wait.result(HANG_S)


def test_all_waits_end_and_none_begins() -> None:
    sized = Sized()
    waiting = sized.waits.when(1, HANG_S)
    sized.waits.end()
    waiting.result(HANG_S)
    assert sized.waits.when(1, HANG_S).done()
    sized.waits.end()


def test_a_cancelled_wait_is_dropped() -> None:
    sized = Sized()
    gone, other = sized.waits.when(1, HANG_S), sized.waits.when(1, HANG_S)
    assert gone.cancel()
    sized.grow(1)
    other.result(HANG_S)
    assert gone.cancelled()


def test_waits_of_many_threads_all_end() -> None:
    sized = Sized()
    found: list[Future[None]] = []

    def ask() -> None:
        found.extend(sized.waits.when(size, HANG_S) for size in range(1, 101))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for size in range(1, 101):
        sized.grow(size)
    for thread in threads:
        thread.join(HANG_S)
    for wait in found:
        wait.result(HANG_S)
    assert len(found) == 400
