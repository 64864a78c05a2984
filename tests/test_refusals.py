"""Refused calls are answered at once while they are few, and else later; until then they hold nothing but a stream."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cases.daemons import Running, question, running_daemon
from cases.fakes import HANG_S
from cases.services import batch_request
from consentd.metrics import Metrics
from consentd.server import pools, refusals
from consentd.server.call import OK, Call, TimeLimits
from consentd.server.pools import RECEIVING, STALLED_S, Pool, PoolLimits, PoolName
from consentd.server.refusals import PARKED_S, Parked, RefusalBudget
from consentd.server.transport import Transport
from consentd.service.context import Status
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import policy_service_pb2_grpc
from hostile.peers import GRANT

REFUSED = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")


def taken(budget: RefusalBudget, caller: str, now_s: float, count: int = 1000) -> int:
    return sum(budget.take(caller, now_s) for _ in range(count))


def test_a_budget_fills_up_with_time() -> None:
    budget = RefusalBudget()
    assert taken(budget, "", 0) == RefusalBudget.BURST
    assert taken(budget, "", 1) == RefusalBudget.PER_S
    assert taken(budget, "", 1) == 0
    assert taken(budget, "", 1000) == RefusalBudget.BURST


def test_callers_have_budgets_of_their_own() -> None:
    budget = RefusalBudget()
    taken(budget, "", 0)
    assert taken(budget, "clinic", 0) == RefusalBudget.BURST


def test_all_callers_together_have_a_budget() -> None:
    budget = RefusalBudget()
    assert sum(taken(budget, f"caller {number}", 0, 50) for number in range(20)) == RefusalBudget.ALL_BURST
    assert sum(taken(budget, f"caller {number}", 1, 50) for number in range(20)) == RefusalBudget.ALL_PER_S


def test_a_costly_refusal_counts_for_many() -> None:
    budget = RefusalBudget()
    assert budget.take("clinic", 0, cost=RefusalBudget.BURST + RefusalBudget.PER_S)
    assert taken(budget, "clinic", 1) == 0
    assert taken(budget, "clinic", 2) == RefusalBudget.PER_S


def test_parked_calls_are_due_in_their_order() -> None:
    parked: Parked[str, int] = Parked(9)
    assert [parked.put(call, number, number) for number, call in enumerate("abc")] == [None] * 3
    parked.drop("b")
    assert parked.take_due(PARKED_S - 1) is None
    assert parked.take_due(PARKED_S) == ("a", 0)
    assert parked.take_due(PARKED_S + 1) is None
    assert parked.take_due(PARKED_S + 2) == ("c", 2)
    assert len(parked) == 0


def test_the_calls_that_are_parked_are_limited() -> None:
    parked: Parked[str, int] = Parked(2)
    assert [parked.put(call, number, 0) for number, call in enumerate("abcd")] == [None, None, ("a", 0), ("b", 1)]
    assert len(parked) == 2


class Server:
    """A transport that parks all calls but those of ``/echo/Echo``; ``/echo/Later`` first moves the clock on."""

    def __init__(self, most_parked: int = 100) -> None:
        self.transport = Transport(
            self._begin, on_late=lambda call: call.finish(), limits=TimeLimits(HANG_S, HANG_S), options=(),
            most_parked=most_parked,
        )  # fmt: skip
        port = self.transport.listen("127.0.0.1:0", None)
        self.transport.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def _begin(self, call: Call) -> None:
        if call.method == b"/echo/Park":
            self.transport.park(call, REFUSED)
            return
        if call.method == b"/echo/Later":
            self.transport.clock_s += PARKED_S + 1
        call.receive(lambda message: call.finish(OK, message))

    def call(self, name: str) -> bytes:
        answer: bytes = self.channel.unary_unary(f"/echo/{name}")(name.encode(), timeout=HANG_S)
        return answer

    def begin(self, name: str) -> Any:
        return self.channel.unary_unary(f"/echo/{name}").future(b"", timeout=HANG_S)

    def wait_parked(self, count: int) -> None:
        """Wait until *count* calls are parked; each look is a call, so this does not spin."""
        while len(self.transport.parked) != count:
            self.call("Echo")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Server]":
    made = Server()
    yield made
    made.channel.close()
    made.transport.stop(0)


def test_a_parked_call_is_answered_later_and_others_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PARKED_S", 10 * HANG_S)
    parked = server.begin("Park")
    server.wait_parked(1)
    assert server.call("Echo") == b"Echo"
    assert not parked.done()
    monkeypatch.undo()
    second = server.begin("Park")
    server.wait_parked(2)
    server.call("Later")
    server.transport.clock_s = 11 * HANG_S
    assert [one.exception(HANG_S).code() for one in (parked, second)] == [REFUSED.code] * 2
    server.wait_parked(0)


def test_a_parked_call_that_its_peer_cancels_is_forgotten(server: Server) -> None:
    call = server.begin("Park")
    server.wait_parked(1)
    call.cancel()
    server.wait_parked(0)
    assert not any(b"Park" in one.method for one in tuple(server.transport._open))


def test_a_stop_answers_parked_calls_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PARKED_S", 10 * HANG_S)
    calls = [server.begin("Park") for _ in range(20)]
    server.wait_parked(20)
    server.transport.stop(HANG_S)
    assert {call.exception(HANG_S).code() for call in calls} == {REFUSED.code}


@dataclass(eq=False)
class Headers:
    """A call whose message has not arrived."""

    caller: str


def test_a_further_call_ends_a_stalled_one_of_a_caller_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(pools, "time", clock)
    limits = PoolLimits(threads=0, calls=1000, calls_of_caller=500, request_bytes=9)
    pool = Pool(PoolName.WRITE, limits, Metrics(), lambda: None)

    def enter(caller: str) -> Any:
        return pool.enter(cast(Call, Headers(caller)))

    first = Headers("clinic")
    assert pool.enter(cast(Call, first)) is None
    assert [enter("clinic") for _ in range(RECEIVING - 1)] == [None] * (RECEIVING - 1)
    assert enter("clinic") is None, "a burst of calls whose messages are on their way is no attack"
    assert [enter("app"), enter("")] == [None, None], "other callers are not concerned"
    clock.monotonic = lambda: 100.0 + STALLED_S
    assert enter("clinic") is first
    with_message = Headers("app")
    for _ in range(2 * RECEIVING):
        assert pool.enter(cast(Call, with_message)) is None
        pool.goes_on(cast(Call, with_message))
    assert pool._receiving_of == {"clinic": RECEIVING + 1, "app": 1, "": 1}


@pytest.fixture
def no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Park every refused call, for ever."""
    for name in ("PER_S", "BURST"):
        monkeypatch.setattr(RefusalBudget, name, 0.0)
    monkeypatch.setattr(refusals, "PARKED_S", 10 * HANG_S)


@pytest.fixture
def fresh(tmp_path: Path) -> "Iterator[Running]":
    """A daemon for one test: budgets of refusals last as long as their daemon."""
    with running_daemon(tmp_path) as running:
        yield running


def value(running: Running, metric: str, **labels: str) -> float:
    return running.daemon.metrics.value(f"consentd_{metric}", **labels)


def wait_value(running: Running, expected: float, metric: str, **labels: str) -> None:
    """Wait until a figure has a value; each look is a call, so this does not spin."""
    health = health_pb2_grpc.HealthStub(running.channel)
    while value(running, metric, **labels) != expected:
        health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)


@pytest.mark.usefixtures("no_budget")
def test_parked_calls_leave_room_for_long_messages_on_their_connection(fresh: Running) -> None:
    running, subject = fresh, fresh.enrol("SYN-000001")
    # Without a credential: each call sends as much of its message as its window lets through.
    parked = [running.channel.unary_unary(GRANT).future(bytes(60_000), timeout=HANG_S) for _ in range(50)]
    wait_value(running, 50, "calls_parked")
    assert value(running, "refusals_parked_total", caller="unknown") == 50
    batch = batch_request(questions=[question(subject)] * 1000)
    assert batch.ByteSize() > 65_535  # what a connection's window lets through at first
    answer = running.policy.BatchCheck(batch, metadata=running.as_("app"), timeout=HANG_S)
    assert len(answer.results) == 1000
    assert not any(call.done() for call in parked)
    for call in parked:
        call.cancel()
    wait_value(running, 0, "calls_parked")


def test_a_caller_that_is_refused_once_hears_it_at_once(fresh: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = question(fresh.enrol("SYN-000001"))
    monkeypatch.setattr(refusals, "PARKED_S", 10 * HANG_S)
    with pytest.raises(grpc.RpcError) as caught:
        fresh.policy.Check(ps.CheckRequest(question=asked), timeout=HANG_S)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    assert value(fresh, "calls_parked") == 0


def test_a_burst_of_one_caller_is_served_whole(tmp_path: Path) -> None:
    """All calls begin at once on one connection, so that many wait for a moment for their messages."""
    with running_daemon(tmp_path) as running:
        asked = ps.CheckRequest(question=question(running.enrol("SYN-1")))

        async def ask_all() -> list[int]:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{running.daemon.grpc_port}") as channel:
                stub = policy_service_pb2_grpc.PolicyServiceStub(channel)
                calls = [stub.Check(asked, metadata=running.as_("app"), timeout=HANG_S) for _ in range(400)]
                return [(await call).decision.outcome for call in calls]

        assert asyncio.run(ask_all()) == [pb.OUTCOME_NO_CONSENT] * 400
