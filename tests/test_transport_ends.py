"""Every call of the gRPC server ends, once, and leaves what it entered: after bugs, cancels, pauses and a stop."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.http2 import Connection, frame, grpc_message
from cases.daemons import Running, consent, question, request_id, running_daemon
from cases.fakes import HANG_S
from cases.services import batch_request, listed
from consentd.metrics import Metrics
from consentd.server import transport
from consentd.server.call import OK, SWEEP_S, Call, TimeLimits
from consentd.server.pools import Pool, PoolLimits, PoolName
from consentd.server.tickets import Bytes, Ticket
from consentd.server.transport import Transport
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from hostile.crowd import Crowd, Peer
from hostile.peers import CHECK, GRANT, HISTORY

MOST_PARKED = 100
LIMITS = TimeLimits(receive_s=HANG_S, send_s=HANG_S)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@contextmanager
def echo(begin: Callable[[Call], None] | None = None) -> Iterator[tuple[Transport, grpc.Channel]]:
    """Yield a transport, by default one that answers each message with the same message, and a channel to it."""

    def answer(call: Call) -> None:
        call.receive(lambda message: call.finish(OK, message))

    made = Transport(
        begin or answer, on_late=lambda call: call.finish(), limits=LIMITS, options=(), most_parked=MOST_PARKED
    )
    port = made.listen("127.0.0.1:0", None)
    made.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield made, channel
    made.stop(0)


def count(running: Running, metric: str, **labels: str) -> float:
    return running.daemon.metrics.value(f"consentd_{metric}", **labels)


def pools(running: Running) -> dict[PoolName, Any]:
    return running.daemon._rpc._pools


def wait_until(running: Running, holds: Callable[[], bool]) -> None:
    """Wait until *holds*. Each look is a call, so this does not spin; it has a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{running.daemon.grpc_port}", options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while not holds():
            health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S)


def wait_left(running: Running) -> None:
    """Wait until every pool is left by all calls."""
    wait_until(running, lambda: not any(count(running, "calls", pool=name) for name in PoolName))


@contextmanager
def held_pool(running: Running, name: PoolName) -> Iterator[None]:
    """Occupy all threads of a pool, and close its shortcut."""
    pool, go = pools(running)[name], threading.Event()
    shortcut, pool.shortcut = pool.shortcut, None
    for number in range(pool.limits.threads):
        pool.put(go.wait, f"holder {number}")
    try:
        yield
    finally:
        pool.shortcut = shortcut
        go.set()


def grant_request(subject: pb.Subject) -> cs.GrantConsentRequest:
    return cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent())
    )


def test_a_stop_while_a_call_begins_does_not_hang() -> None:
    with echo() as (made, channel):
        request = made._request_call

        def stop_first() -> None:
            made._request_call = request  # type: ignore[method-assign]
            stopping = threading.Thread(target=made.stop, args=(HANG_S,), daemon=True)
            stopping.start()
            while not made._stopping:
                stopping.join(0.001)
            request()

        made._request_call = stop_first  # type: ignore[method-assign]
        assert channel.unary_unary("/echo/Echo")(b"last", timeout=HANG_S) == b"last"
        made._thread.join(HANG_S)
        assert not made._thread.is_alive()


def test_a_bug_after_a_message_arrived_ends_the_call() -> None:
    def begin(call: Call) -> None:
        call.receive(lambda message: [][0])

    with echo(begin) as (made, channel), pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Echo")(b"", timeout=HANG_S)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert not made._open


def test_a_pause_of_the_process_is_not_the_peers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    began, swept = threading.Event(), threading.Event()
    clock = _Clock()

    def begin(call: Call) -> None:
        call.receive(lambda message: call.finish(OK, message))
        began.set()

    with echo(begin) as (made, channel):
        monkeypatch.setattr(transport, "time", clock)
        go = threading.Event()
        call = channel.stream_unary("/echo/Echo").future((b"x" for _ in range(1) if go.wait(HANG_S)), timeout=HANG_S)
        assert began.wait(HANG_S)
        sweep, after_s = made._sweep, made.clock_s

        def swept_twice() -> None:
            sweep()
            if made.clock_s > after_s + SWEEP_S:
                swept.set()

        monkeypatch.setattr(made, "_sweep", swept_twice)
        clock.ahead_s = 1000 * HANG_S
        assert swept.wait(HANG_S)
        go.set()
        assert call.result(HANG_S) == b"x"


def test_a_second_message_of_a_call_is_not_read(running: Running, subject: pb.Subject) -> None:
    asked = ps.CheckRequest(question=question(subject)).SerializeToString()
    call = running.channel.stream_unary(CHECK)
    answer = call(iter([asked, b"\xff" * 100_000]), metadata=running.as_("app"), timeout=HANG_S)
    assert ps.CheckResponse.FromString(answer).decision.outcome == pb.OUTCOME_NO_CONSENT
    wait_left(running)


def test_a_client_that_says_goodbye_gets_its_answer_and_holds_nothing(running: Running, subject: pb.Subject) -> None:
    asked = grpc_message(ps.CheckRequest(question=question(subject)).SerializeToString())
    client = Connection("127.0.0.1", running.daemon.grpc_port, CHECK, running.tokens["app"])
    client.socket.settimeout(HANG_S)
    with held_pool(running, PoolName.CHECK):
        client.send(0, asked)
        wait_until(running, lambda: count(running, "calls", pool=PoolName.CHECK) == 1)
        goaway = 7
        client.socket.sendall(frame(goaway, 0, 0, bytes(8)))
    answers: list[tuple[int, bytes | None]] = []
    while not answers:
        answers.extend(client.receive())
    ((_, answer),) = answers
    assert answer is not None
    assert ps.CheckResponse.FromString(answer).decision.outcome == pb.OUTCOME_NO_CONSENT
    client.close()
    wait_left(running)


def test_a_closed_pool_has_no_thread() -> None:
    go = threading.Event()

    def wait() -> None:
        go.wait(HANG_S)

    limits = PoolLimits(threads=3, calls=9, calls_of_caller=9, request_bytes=9)
    pool = Pool(PoolName.READ, limits, Metrics(), lambda: None)
    for _ in range(5):
        pool.put(wait, "caller")
    closing = threading.Thread(target=pool.close, daemon=True)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go.set()
    closing.join(HANG_S)
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_message_waits_for_few_of_the_calls_that_came_before_it() -> None:
    order: list[str] = []
    begun, go, received, ended = (threading.Event() for _ in range(4))

    def taken(_: bytes | None) -> None:
        order.append("received")
        received.set()

    def begin(call: Call) -> None:
        order.append("begun")
        if len(order) == 1:
            call.receive(taken)
            begun.set()
            go.wait(HANG_S)
        elif order.count("begun") == 40:
            ended.set()

    made = Transport(begin, on_late=lambda call: call.finish(), limits=LIMITS, options=(), most_parked=MOST_PARKED)
    port = made.listen("127.0.0.1:0", None)
    made.start()
    with Crowd(port, [Peer(name="", paths=("/echo/Echo",), calls=40, again_s=HANG_S)], 1) as crowd:
        crowd.settle()
        assert begun.wait(HANG_S)
        (connection,) = crowd._open
        connection.answered_ping = False
        data, ping, ends_stream = 0, 6, 1
        connection.socket.sendall(frame(data, ends_stream, 1, grpc_message(b"")) + frame(ping, 0, 0, bytes(8)))
        crowd.settle()
        go.set()
        assert received.wait(HANG_S)
        assert ended.wait(HANG_S)
    made.stop(0)
    assert order.index("received") < 10


def test_many_late_calls_are_ended_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Call] = []
    parts: list[int] = []
    limits = TimeLimits(receive_s=0, send_s=HANG_S)

    def end(call: Call) -> None:
        late.append(call)
        call.finish()

    made = Transport(
        lambda call: call.receive(lambda _: None), on_late=end, limits=limits, options=(), most_parked=MOST_PARKED
    )
    sweep = made._sweep

    def counted_sweep() -> None:
        before = len(late)
        sweep()
        parts.append(len(late) - before)

    monkeypatch.setattr(made, "_sweep", counted_sweep)
    port = made.listen("127.0.0.1:0", None)
    made.start()
    with Crowd(port, [Peer(name="", paths=("/echo/Echo",), calls=8, again_s=HANG_S)], 1) as crowd:
        crowd.wait_ended(8)
    made.stop(0)
    assert (sum(parts), max(parts)) == (8, 1)


def test_a_cancelled_call_counts_with_its_message_until_its_step_is_dropped(
    running: Running, subject: pb.Subject
) -> None:
    transport_of, held = running.daemon._rpc._transport, running.daemon._rpc._bytes
    with held_pool(running, PoolName.BATCH):
        batch = batch_request(questions=[question(subject)] * 100)
        calls = [running.policy.BatchCheck.future(batch, metadata=running.as_("app")) for _ in range(8)]
        wait_until(running, lambda: held._held == 8 * batch.ByteSize())
        for call in calls:
            call.cancel()
        wait_until(running, lambda: not any(b"Batch" in one.method for one in tuple(transport_of._open)))
        assert count(running, "calls", pool="batch") == 8
        assert held._held == 8 * batch.ByteSize()
    wait_left(running)
    assert held._held == 0


def test_a_call_whose_deadline_has_passed_writes_nothing(
    running: Running, subject: pb.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Call, "_closed", lambda self, event: None)  # the core's report is late
    with held_pool(running, PoolName.WRITE):
        call = running.consents.GrantConsent.future(grant_request(subject), metadata=running.as_("app"), timeout=0.2)
        assert call.exception(HANG_S).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # The server's deadline counts from when it read the headers, so it may be later than the client's.
        begun = running.daemon._rpc._transport._open
        wait_until(running, lambda: not any(b"Grant" in one.method and one.is_active() for one in tuple(begun)))
    wait_left(running)
    assert listed(running, subject) == []


def test_a_call_that_is_late_or_evicted_is_counted_once(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="receive_timeout_ms = 1000\nmax_calls = 16") as running:
        peers = [Peer(name="late", paths=(GRANT,), token=running.tokens["app"], calls=8, again_s=HANG_S)]
        with Crowd(running.daemon.grpc_port, peers, 1) as made:
            made.wait_ended(8)
            wait_left(running)
        assert count(running, "rpcs_total", method="GrantConsent", code="DEADLINE_EXCEEDED") == 8
        assert count(running, "rpcs_total", method="GrantConsent", code="INVALID_ARGUMENT") == 0


def test_an_evicted_call_is_counted_under_its_own_name(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="max_streams = 2", checkpoint_interval_ms=10) as running:
        running.wait_published()
        with Crowd(running.daemon.grpc_port, [Peer(name="", paths=(HISTORY,), calls=2, again_s=HANG_S)], 1) as made:
            made.settle()
            wait_until(running, lambda: count(running, "calls", pool="anybody") == 2)
            assert running.ledger.GetCheckpoint(ls.GetCheckpointRequest(), timeout=HANG_S).checkpoint
            made.wait_ended(1)
        assert count(running, "rpcs_total", method="GetHistory", code="RESOURCE_EXHAUSTED") == 1


def test_a_compressed_message_is_refused_and_not_inflated(running: Running) -> None:
    call = running.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as caught:
        call(bytes(1 << 20), compression=grpc.Compression.Gzip, timeout=HANG_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_request_of_reflection_that_fails_ends_its_stream(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.daemon._rpc, "_describe", lambda message: [][0])
    stream = running.channel.stream_stream(REFLECTION)(iter([b""]), timeout=HANG_S)
    assert stream.code() is grpc.StatusCode.INTERNAL
    wait_left(running)


def test_after_calls_that_end_in_all_ways_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Ticket] = []
    leave = Ticket.leave
    monkeypatch.setattr(Ticket, "leave", lambda ticket: (left.append(ticket), leave(ticket))[1])
    chance = random.Random(1)
    limits = "max_calls = 32\nmax_streams = 4\nreceive_timeout_ms = 500\nsend_timeout_ms = 1000"
    with running_daemon(tmp_path, grpc=limits, checkpoint_interval_ms=10) as running, ExitStack() as crowds:
        subject = running.enrol("SYN-000001")
        token = running.tokens["app"]
        for peer in (
            Peer(name="late", paths=(GRANT, REFLECTION), token=token, again_s=0.1),
            Peer(name="reset", paths=(HISTORY,), message=b"\x1a\x06ledger", window=0, cancel_s=0.1, again_s=0.1),
            Peer(name="wrong", paths=(GRANT,), message=b"\xff", token=token, again_s=0.1),
        ):
            crowds.enter_context(Crowd(running.daemon.grpc_port, [peer], 1))
        calls: list[Any] = []
        for _ in range(600):
            calls.append(_random_call(running, subject, chance))
            if chance.random() < 0.5:
                chance.choice(calls).cancel()
        for call in calls:
            call.exception(HANG_S) if not call.cancelled() else None
        crowds.close()
        wait_left(running)
        assert len(left) == len(set(map(id, left))), "a ticket is left once"
        assert [dict(pool._of_caller) for pool in pools(running).values() if pool._of_caller] == []
        assert not any(pool._receiving or pool._sending or pool._steps for pool in pools(running).values())
        held: Bytes = running.daemon._rpc._bytes
        assert (held._held, dict(held._of_caller)) == (0, {})
        running.check_ledger()


def _random_call(running: Running, subject: pb.Subject, chance: random.Random) -> Any:
    who = running.as_(chance.choice(("app", "clinic-b", "er")))
    timeout = chance.choice((1e-9, 0.001, 0.02, HANG_S, HANG_S))
    kind = chance.randrange(4)
    if kind == 0:
        request = grant_request(subject)
        request.wait_for = chance.choice((pb.WAIT_FOR_DURABLE, pb.WAIT_FOR_PUBLISHED))
        return running.consents.GrantConsent.future(request, metadata=who, timeout=timeout)
    if kind == 1:
        revoke = cs.RevokeConsentRequest(
            request_id=request_id(), subject=subject, consent_id="none", attested=st.RevokeStatement()
        )
        return running.consents.RevokeConsent.future(revoke, metadata=who, timeout=timeout)
    if kind == 2:
        batch = batch_request(questions=[question(subject)] * 50)
        return running.policy.BatchCheck.future(batch, metadata=who, timeout=timeout)
    return running.policy.Check.future(ps.CheckRequest(question=question(subject)), metadata=who, timeout=timeout)


class _Clock:
    """The module ``time``, whose monotonic clock can jump."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
