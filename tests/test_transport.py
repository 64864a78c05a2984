"""The gRPC server's loop and pools: who is refused and when, what is held for how long, and what is dropped."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cases.daemons import Running, consent, make_running, question, reason_of, request_id, running_daemon
from cases.fakes import HANG_S
from cases.ledgers import held_writer
from cases.services import batch_request, listed, services, wait_calls
from cases.witnessed_ledgers import Witnessed
from consentd.core import ed25519, note
from consentd.server.call import Call
from consentd.server.health import CAPACITY
from consentd.service import servicer
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client.consents import ALL_STATES
from hostile.crowd import Crowd, Peer
from hostile.peers import CHECK, GRANT, HISTORY

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
LEDGER_HISTORY = ls.GetHistoryRequest(public_name="ledger")


def refused(running: Running, **labels: str) -> float:
    return running.daemon.metrics.value("consentd_calls_refused_total", **labels)


@contextmanager
def crowd(running: Running, **peer: Any) -> Iterator[Crowd]:
    with Crowd(running.daemon.grpc_port, [Peer(name="peer", calls=1, again_s=HANG_S, **peer)], 1) as made:
        yield made


def test_an_unknown_caller_is_refused_before_it_sends_a_message(running: Running) -> None:
    before = running.daemon.metrics.value("consentd_rpcs_total", method="Check", code="UNAUTHENTICATED")
    with crowd(running, paths=(CHECK,)) as made:
        made.wait_ended(1)
    after = running.daemon.metrics.value("consentd_rpcs_total", method="Check", code="UNAUTHENTICATED")
    assert (after - before, refused(running, pool="check", limit="late")) == (1, 0)


def test_refused_calls_send_a_small_part_of_their_messages(running: Running) -> None:
    ended = 30
    peer = Peer(name="", paths=(GRANT,), message=bytes(1_000_000), calls=1, again_s=0)
    with Crowd(running.daemon.grpc_port, [peer], 1) as made:
        made.settle()
        made.wait_ended(ended)
    assert made.sent <= 65_535 + (made.began - 1) * 16 * 1024  # the first call does not wait for the settings


def test_a_message_that_does_not_come_in_time_ends_the_call(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="receive_timeout_ms = 1000") as running:
        with crowd(running, paths=(GRANT,), token=running.tokens["app"]) as made:
            made.wait_ended(1)
        assert refused(running, pool="write", limit="late") == 1


def test_a_connection_without_calls_is_closed_after_a_while(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="idle_timeout_ms = 1000") as running, crowd(running) as made:
        made.wait_closed(1)


def test_an_answer_that_nobody_takes_in_time_ends_the_call(tmp_path: Path) -> None:
    history = LEDGER_HISTORY.SerializeToString()
    with running_daemon(tmp_path, grpc="send_timeout_ms = 500", checkpoint_interval_ms=10) as running:
        running.wait_published()
        with crowd(running, paths=(HISTORY,), message=history, window=0, token=running.tokens["app"]) as made:
            made.wait_ended(1)
            wait_calls(running, "stream", 0)


def test_a_full_pool_ends_the_call_that_waits_for_its_message(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="max_streams = 2", checkpoint_interval_ms=10) as running:
        running.wait_published()
        with Crowd(running.daemon.grpc_port, [Peer(name="", paths=(HISTORY,), calls=2, again_s=HANG_S)], 1) as made:
            made.settle()
            wait_calls(running, "anybody", 2)
            assert running.ledger.GetCheckpoint(ls.GetCheckpointRequest(), timeout=HANG_S).checkpoint
            made.wait_ended(1)
        assert refused(running, pool="anybody", limit="evicted") == 1


def test_a_full_pool_is_shown_by_a_name_of_its_own_and_hinders_no_other_kind(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc="max_calls = 16") as running:
        subject = running.enrol("SYN-000001")
        consent_id = running.grant(subject)
        stub = health_pb2_grpc.HealthStub(running.channel)
        watched = iter(stub.Watch(health_pb2.HealthCheckRequest(service=CAPACITY), timeout=HANG_S))
        assert next(watched).status == SERVING
        with held_writer(services(running).sequencer):
            waiting = [authorize(running, subject, who) for who in ("app", "clinic-b") for _ in range(8)]
            wait_calls(running, "write", 16)
            assert reason_of(authorize(running, subject, "hospital-a").exception(HANG_S)) == "TOO_MANY_CALLS"
            assert next(watched).status == NOT_SERVING
            assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING
            assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
            revoked = revoke(running, subject, consent_id)
        assert revoked.result(HANG_S).receipt.index > 0
        assert all(call.result(HANG_S).receipt.index > 0 for call in waiting)
        assert next(watched).status == SERVING
        watched.cancel()  # type: ignore[attr-defined]


def test_a_write_whose_caller_has_gone_is_dropped_and_a_revocation_is_not(
    running: Running, subject: pb.Subject
) -> None:
    consent_id = running.grant(subject)
    with held_writer(services(running).sequencer):
        grant = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent(purposes=["ETREAT"]))
        )
        granted = running.consents.GrantConsent.future(grant, metadata=running.as_("app"))
        revoked = revoke(running, subject, consent_id)
        waiting = services(running).sequencer._pool
        while not (len(waiting._urgent) and len(waiting._writes)):  # a call counts before its write waits
            wait_calls(running, "write", 1)
        granted.cancel()
        revoked.cancel()
        wait_calls(running, "write", 0)
    wait_calls(running, "revoke", 0)
    assert listed(running, subject) == []
    (kept,) = listed(running, subject, states=ALL_STATES)
    assert (kept.consent_id, kept.state) == (consent_id, cs.CONSENT_STATE_REVOKED)


def test_the_bytes_of_one_callers_requests_are_limited(tmp_path: Path) -> None:
    with running_daemon(tmp_path, grpc=f"max_request_bytes = {1 << 22}") as running:
        asked = question(running.enrol("SYN-000001"))
        item = ac.AuthorizeAccessRequest(request_id=request_id(), question=asked, network_origin="x" * 256)
        batch = ac.BatchAuthorizeAccessesRequest(requests=[item] * 1000)
        fit = (1 << 20) // batch.ByteSize()
        with held_writer(services(running).sequencer):
            calls = [
                running.access.BatchAuthorizeAccesses.future(batch, metadata=running.as_("app")) for _ in range(fit)
            ]
            wait_calls(running, "write_batch", fit)
            more = running.access.BatchAuthorizeAccesses.future(batch, metadata=running.as_("app"))
            assert reason_of(more.exception(HANG_S)) == "TOO_MANY_CALLS"
        assert all(len(call.result(HANG_S).results) == 1000 for call in calls)
        assert refused(running, pool="write_batch", limit="bytes") == 1


def test_a_batch_stops_when_its_caller_has_gone(running: Running, subject: pb.Subject) -> None:
    before = running.daemon.metrics.value("consentd_rpcs_total", method="BatchCheck", code="CANCELLED")
    batch = batch_request(questions=[question(subject)] * 1000)
    call = running.policy.BatchCheck.future(batch, metadata=running.as_("app"))
    wait_calls(running, "batch", 1, call.done)
    if not call.cancel():
        pytest.skip("the batch was answered before it was cancelled")
    wait_calls(running, "batch", 0)
    after = running.daemon.metrics.value("consentd_rpcs_total", method="BatchCheck", code="CANCELLED")
    assert after - before <= 1


def test_a_call_that_is_over_is_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=10)
    running.wait_published()
    transport = running.daemon._rpc._transport
    gc.collect()
    gc.disable()
    try:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
        assert list(running.ledger.GetHistory(LEDGER_HISTORY))
        with pytest.raises(grpc.RpcError):
            running.check(question(subject, purpose="NONE"))
        running.stop()
        left = [one.method for one in gc.get_objects() if isinstance(one, Call) and one._transport is transport]
        assert left == []
    finally:
        gc.enable()


def test_without_a_quorum_nobody_waits_for_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servicer, "MAX_WAIT_S", 10 * HANG_S)
    away = note.Signer("witness.test/away", ed25519.KeyPair(bytes(32)), note.COSIGNATURE)
    witnessed = Witnessed(tmp_path, extra="timeout_ms = 10")
    witnessed.write_policy(f"witness away {note.format_vkey(away.verifier)} http://127.0.0.1:9/\n")
    running = witnessed.start()
    try:
        running.register()
        subject = running.enrol("SYN-000001")
        grant = cs.GrantConsentRequest(
            request_id=request_id(), subject=subject,
            attested=st.GrantStatement(consent=consent()), wait_for=pb.WAIT_FOR_PUBLISHED
        )
        receipt = running.consents.GrantConsent(grant, metadata=running.as_("app"), timeout=HANG_S).receipt
        assert (receipt.published, receipt.index > 0) == (False, True)
    finally:
        witnessed.stop()


def authorize(running: Running, subject: pb.Subject, who: str) -> Any:
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
    return running.access.AuthorizeAccess.future(request, metadata=running.as_(who))


def revoke(running: Running, subject: pb.Subject, consent_id: str) -> Any:
    request = cs.RevokeConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, attested=st.RevokeStatement()
    )
    return running.consents.RevokeConsent.future(request, metadata=running.as_("app"))
