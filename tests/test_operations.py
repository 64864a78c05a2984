"""Operations: one at a time, followed and cancelled by anybody who may, and ended where nothing is half done."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cases.fakes import HANG_S, FakeClock
from cases.operations import join_operation
from consentd.errors import NotFoundError, PreconditionError, StorageError
from consentd.metrics import Metrics
from consentd.service import operations
from consentd.service.operations import Follower, Operations, Start
from consentd.service.rpc import status_message
from consentd.v1 import admin_service_pb2 as ad

SECRET = "SYN-550131"
METRICS = Metrics()


class Case:
    """Operations of a made-up kind, whose work waits for the test."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.rested: list[float] = []
        self.operations = Operations(clock=self.clock, metrics=self.metrics, rest=self.rested.append)
        self.go_on = threading.Event()

    def start(self, work: Callable[[Follower], ad.PruneResult], key: bytes = b"", **more: Any) -> ad.Operation:
        content = more.pop("content", b"content")
        start = Start(
            kind=ad.OPERATION_KIND_PRUNING, dry_run=True, operator="operator/main",
            request_key=key or str(more).encode(), content=content, work=work,
        )  # fmt: skip
        return self.operations.start(start, partial(status_message, self.metrics, "StartPruning"))[0]

    def waits(self, follower: Follower) -> ad.PruneResult:
        """Work that waits at a safe point until the test lets it continue, or ends it."""
        while not self.go_on.wait(0.001):
            follower.report(ad.OPERATION_STEP_PLANNING, 3, 7)
        follower.report(ad.OPERATION_STEP_DELETING)
        return ad.PruneResult(leaf_count=5)

    def done(self, operation: ad.Operation) -> ad.Operation:
        join_operation()
        return self.operations.get(operation.operation_id)


def at_once(follower: Follower) -> ad.PruneResult:
    follower.report(ad.OPERATION_STEP_PLANNING, 1, 1)
    return ad.PruneResult(leaf_count=1)


def test_an_operation_is_followed_to_its_result() -> None:
    case = Case()
    reported = threading.Event()

    def work(follower: Follower) -> ad.PruneResult:
        follower.report(ad.OPERATION_STEP_PLANNING, 3, 7)
        reported.set()
        return case.waits(follower)

    started = case.start(work)
    assert (started.done, started.start_time_ms, started.started_by) == (False, case.clock.wall_ms(), "operator/main")
    assert reported.wait(HANG_S)
    running = case.operations.get(started.operation_id)
    assert (running.progress.step, running.progress.done_count, running.progress.total_count) == (1, 3, 7)
    assert case.metrics.value("consentd_operation_start_time_seconds") == case.clock.wall_ms() / 1000
    case.clock.advance(5)
    case.go_on.set()
    done = case.done(started)
    assert (done.done, done.pruned.leaf_count, done.end_time_ms) == (True, 5, case.clock.wall_ms())
    assert (done.progress.step, done.progress.done_count) == (ad.OPERATION_STEP_DELETING, 0)
    assert not running.done  # what was read does not change
    assert case.metrics.value("consentd_operations_total", result="done") == 1
    assert case.rested


def test_one_runs_at_a_time_and_a_repeat_is_the_same_operation() -> None:
    case = Case()
    first = case.start(case.waits, b"first")
    assert case.start(at_once, b"first").operation_id == first.operation_id
    with pytest.raises(PreconditionError, match=first.operation_id) as refused:
        case.start(at_once, b"second")
    assert refused.value.reason == "OPERATION_RUNNING"
    with pytest.raises(PreconditionError) as reused:
        case.start(at_once, b"first", content=b"other")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    case.go_on.set()
    assert case.done(first).HasField("pruned")
    assert case.start(at_once, b"first").operation_id == first.operation_id
    assert case.start(at_once, b"second").operation_id != first.operation_id
    join_operation()


def test_a_cancelled_operation_ends_at_its_next_safe_point() -> None:
    case, steps, begun = Case(), list[str](), threading.Event()

    def work(follower: Follower) -> ad.PruneResult:
        follower.report(ad.OPERATION_STEP_DELETING)
        begun.set()
        assert case.go_on.wait(HANG_S)
        steps.append("whole")
        follower.report(ad.OPERATION_STEP_DELETING)
        steps.append("next")
        return ad.PruneResult()

    started = case.start(work)
    assert begun.wait(HANG_S)
    asked = case.operations.cancel(started.operation_id, operator="operator/night")
    assert (asked.done, asked.cancel_requested_by) == (False, "operator/night")
    again = case.operations.cancel(started.operation_id, operator="operator/other")
    assert again.cancel_requested_by == "operator/night"
    case.go_on.set()
    ended = case.done(started)
    assert steps == ["whole"]
    assert ended.error.code == 1  # CANCELLED
    assert b"OPERATION_CANCELLED" in ended.error.details[0].value
    assert case.operations.cancel(started.operation_id, operator="operator/main") == ended
    assert case.metrics.value("consentd_operations_total", result="cancelled") == 1
    assert case.done(case.start(at_once, b"next")).HasField("pruned")


def test_a_cancel_after_the_last_safe_point_changes_nothing() -> None:
    case = Case()

    def work(follower: Follower) -> ad.PruneResult:
        assert case.go_on.wait(HANG_S)
        return ad.PruneResult(leaf_count=2)

    started = case.start(work)
    case.operations.cancel(started.operation_id, operator="operator/main")
    case.go_on.set()
    assert case.done(started).pruned.leaf_count == 2


@pytest.mark.parametrize(
    ("error", "code", "reason"), [(StorageError("disk is full"), 14, b"STORAGE"), (KeyError(SECRET), 13, b"INTERNAL")]
)
def test_a_failure_is_the_result_and_tells_nothing_of_a_person(
    caplog: pytest.LogCaptureFixture, error: Exception, code: int, reason: bytes
) -> None:
    case = Case()

    def work(follower: Follower) -> ad.PruneResult:
        raise error

    with caplog.at_level(logging.DEBUG):
        failed = case.done(case.start(work))
    assert (failed.error.code, failed.done) == (code, True)
    assert reason in failed.error.details[0].value
    assert SECRET not in str(failed) + caplog.text
    assert failed.operation_id in caplog.text
    assert case.metrics.value("consentd_operations_total", result="failed") == 1
    assert case.done(case.start(at_once, b"again")).HasField("pruned")


def test_a_stop_ends_the_operation_at_a_safe_point_and_starts_no_other() -> None:
    case = Case()
    started = case.start(case.waits, b"first")
    case.operations.stop()
    ended = case.operations.get(started.operation_id)
    assert (ended.done, ended.error.code) == (True, 14)  # UNAVAILABLE
    with pytest.raises(StorageError) as refused:
        case.start(at_once, b"second")
    assert refused.value.reason == "NOT_SERVING"
    assert case.start(at_once, b"first") == ended
    case.operations.stop()


def test_the_last_operations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "MAX_DONE", 3)
    case = Case()
    ids = [case.done(case.start(at_once, bytes([number]))).operation_id for number in range(1, 7)]
    running = case.start(case.waits, b"last")
    kept = case.operations.all()
    assert [one.operation_id for _, one in kept] == [running.operation_id, *reversed(ids[3:])]
    assert [number for number, _ in kept] == [7, 6, 5, 4]
    for gone in (ids[0], "", "x" * 1000):
        with pytest.raises(NotFoundError):
            case.operations.get(gone)
        with pytest.raises(NotFoundError):
            case.operations.cancel(gone, operator="operator/main")
    case.go_on.set()
    join_operation()


def test_without_a_free_thread_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(StorageError, match="no thread"):
            case.start(at_once, b"key")
    assert case.operations.all() == []
    assert case.done(case.start(at_once, b"key")).HasField("pruned")


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
