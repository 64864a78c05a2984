"""The gate (``consentd/gate``) in front of a running daemon: it gives the daemon's answers, and passes the rest on."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from cases.daemons import ORIGIN, Running, make_running, question, reason_of, request_id, serve
from cases.fakes import HANG_S
from cases.gate_programs import GATE, GATE_METRICS, built, gate_metrics, http_get, make_gate, needs_cargo
from cases.raw_calls import GOAWAY, HEADERS, RawConnection
from consentd.config import GateConfig, TlsConfig
from consentd.errors import InvalidError, StorageError
from consentd.server.gate_process import started_gate, with_installed
from consentd.table.checked_rows import seal_row
from consentd.table.renewal import renew
from consentd.table.table import Table
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import (
    consent_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

CHECK = "/consentd.v1.PolicyService/Check"
TRIES = int(os.environ.get("CONSENTD_RACE_TRIES", "200"))
LANES = 8
SERVING = health_pb2.HealthCheckResponse.SERVING
CONNECTIONS_OF_ADDRESS = 256
PERSON_TRIES = 400
"""Tries about one person: each is two entries, and a caller has a quota of entries about a person."""
pytestmark = needs_cargo


@pytest.fixture(scope="module")
def program() -> Path:
    return built("consentd-gate", "consentd-gate")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, program: Path) -> "Iterator[Running]":
    yield from serve(make_running(tmp_path_factory.mktemp("gate"), GATE, checkpoint_interval_ms=10))


def of_nobody(**changed: Any) -> pb.Question:
    """Return a question that names no person."""
    found = question(pb.Subject(), **changed)
    found.ClearField("subject")
    return found


class Gated:
    """Calls of the gate, and of the daemon behind it."""

    def __init__(self, running: Running, address: str, *, own_connection: bool = False) -> None:
        self.running = running
        self.address = address
        # Channels of one process share their connection otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)] if own_connection else []
        self.channel = grpc.insecure_channel(address, options)
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self.consents = consent_service_pb2_grpc.ConsentServiceStub(self.channel)
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(self.channel)
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(self.channel)

    def check(self, asked: pb.Question, who: str = "app", *, wait_for_ready: bool = False, **more: Any) -> pb.Decision:
        request = ps.CheckRequest(question=asked, **more)
        return self.policy.Check(
            request, metadata=self.running.as_(who), wait_for_ready=wait_for_ready, timeout=HANG_S
        ).decision

    def both(self, asked: pb.Question, who: str) -> tuple[pb.Decision, pb.Decision]:
        """Return the gate's answer and the daemon's, without what differs between any two answers."""
        found = self.check(asked, who), self.running.check(asked, who)
        while found[0].revision != found[1].revision:  # a seal or an entry came in between
            found = self.check(asked, who), self.running.check(asked, who)
        ids = {one.decision_id[:16] for one in found}
        assert len(ids) == 2, "the gate answered itself"
        for one in found:
            one.decision_id, one.decided_time_ms = "", 0
        return found


@pytest.fixture(scope="module")
def gated(running: Running, program: Path) -> Iterator[Gated]:
    gate = make_gate(running, program)
    gate.start()
    found = Gated(running, gate.address)
    yield found
    found.channel.close()
    gate.stop()


def test_answers_are_the_daemons(running: Running, gated: Gated) -> None:
    person = running.enrol("T-1")
    running.grant(person)
    running.grant(person, effect=pb.EFFECT_DENY, categories=["CLIN.LAB"], labels=["HIV"])
    asked = [
        question(person), question(person, purpose="HRESCH"), question(person, categories=["CLIN", "SENS", "UNHEARD"]),
        question(person, supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL]),
        question(pb.Subject(scheme="mhid", value="T-nobody")),
        question(person, level="R", labels=pb.CodeSet(values=["HIV"])),
        question(person, resources=pb.CodeSet(values=["Observation/1"])),
    ]  # fmt: skip
    running.wait_published()  # else a seal may change the revision between the two answers
    for one in asked:
        for who in ("app", "clinic-b", "hospital-a"):
            by_gate, by_daemon = gated.both(one, who)
            assert by_gate == by_daemon
    assert gated.check(asked[0]).outcome == pb.OUTCOME_PERMIT


def test_batches_are_answered_in_both_forms(running: Running, gated: Gated) -> None:
    person = running.enrol("T-batch")
    running.grant(person)
    other = pb.Subject(scheme="mhid", value="T-nobody")
    shared = ps.SharedQuestion(question=of_nobody(), subjects=[person, other, person])
    each = ps.QuestionList(questions=[question(person), question(other, purpose="HRESCH")])
    running.wait_published()  # else a seal may change the revision between the two answers
    for request in (ps.BatchCheckRequest(shared=shared), ps.BatchCheckRequest(each=each)):
        found = [
            list(stub.BatchCheck(request, metadata=running.as_("clinic-b")).results)
            for stub in (gated.policy, running.policy)
        ]
        assert found[0][0].decision.decision_id[:16] != found[1][0].decision.decision_id[:16]
        for result in (*found[0], *found[1]):
            result.decision.decision_id, result.decision.decided_time_ms = "", 0
        assert found[0] == found[1]
        assert found[0][0].decision.outcome == pb.OUTCOME_PERMIT


@pytest.mark.parametrize(
    "asked",
    [
        of_nobody(purpose="UNHEARD"), of_nobody(categories=[]), of_nobody(purpose="BTG"),
        question(pb.Subject(scheme="mhid", value="T-1"), actor=pb.Actor(organisation="nobody")),
        question(pb.Subject(scheme="mhid", value="800101-1234567")), of_nobody(),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_by_the_daemon(running: Running, gated: Gated, asked: pb.Question) -> None:
    reasons = []
    for stub in (gated.policy, running.policy):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(ps.CheckRequest(question=asked), metadata=running.as_("app"))
        reasons.append((caught.value.code(), caught.value.details(), reason_of(caught.value)))
    assert reasons[0] == reasons[1]
    assert reasons[0][2]


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer x"),), (("authorization", "Basic x"),)])
def test_who_is_not_known_is_refused_by_the_daemon(gated: Gated, metadata: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        gated.policy.Check(ps.CheckRequest(question=of_nobody()), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_operators_and_those_without_a_right_are_refused(running: Running, gated: Gated) -> None:
    for who in ("operator", "pipc"):
        with pytest.raises(grpc.RpcError) as caught:
            gated.check(question(pb.Subject(scheme="mhid", value="T-1")), who)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_question_with_an_unknown_field_or_a_condition_is_the_daemons(running: Running, gated: Gated) -> None:
    person = running.enrol("T-form")
    running.grant(person)
    prefix = running.check(question(person)).decision_id[:16]
    latest = gated.check(question(person), consistency=pb.Consistency(latest=pb.LatestState()))
    assert latest.decision_id[:16] == prefix
    strange = pb.Question.FromString(question(person).SerializeToString() + b"\xa2\x06\x01x")
    with pytest.raises(grpc.RpcError) as caught:
        gated.check(strange)
    assert reason_of(caught.value) == "UNKNOWN_FIELD"


def test_all_other_calls_are_passed_on_and_streams_too(running: Running, gated: Gated) -> None:
    subject = pb.Subject(scheme="mhid", value="T-through")
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject, method="test")
    gated.registry.EnrolSubject(request, metadata=running.as_("app"))
    running.grant(subject)
    consents = gated.consents.ListConsents(cs.ListConsentsRequest(subject=subject), metadata=running.as_("app"))
    assert len(consents.records) == 1
    history = gated.ledger.GetHistory(
        ledger_service_pb2.GetHistoryRequest(subject=subject), metadata=running.as_("app")
    )
    assert len(list(history)) >= 1


def test_no_check_after_a_withdrawal_permits(running: Running, gated: Gated) -> None:
    """Persons in parallel, so that the gate reads while the daemon commits."""

    def run(number: int) -> int:
        stale = 0
        for done in range(TRIES // LANES):
            if done % PERSON_TRIES == 0:
                person = running.enrol(f"T-race-{number}-{done}")
            consent_id = running.grant(person)
            assert gated.check(question(person)).outcome == pb.OUTCOME_PERMIT
            revoke = cs.RevokeConsentRequest(
                request_id=request_id(), subject=person, consent_id=consent_id, attested=st.RevokeStatement()
            )
            running.consents.RevokeConsent(revoke, metadata=running.as_("app"))
            stale += gated.check(question(person)).outcome == pb.OUTCOME_PERMIT
        return stale

    with ThreadPoolExecutor(LANES) as pool:
        assert sum(pool.map(run, range(LANES))) == 0


def test_the_files_of_the_table_are_replaced(running: Running, gated: Gated) -> None:
    person = running.enrol("T-renew")
    consent_id = running.grant(person)
    assert gated.check(question(person)).outcome == pb.OUTCOME_PERMIT
    services = running.daemon.service_state.services
    assert services is not None
    renew(services.table, services.ledger.store, services.vault, run_on_writer=services.sequencer.call)
    assert gated.check(question(person)).outcome == pb.OUTCOME_PERMIT
    revoke = cs.RevokeConsentRequest(
        request_id=request_id(), subject=person, consent_id=consent_id, attested=st.RevokeStatement()
    )
    running.consents.RevokeConsent(revoke, metadata=running.as_("app"))
    by_gate, by_daemon = gated.both(question(person), "app")
    assert by_gate == by_daemon
    assert by_gate.outcome != pb.OUTCOME_PERMIT


def test_a_quota_that_is_used_up_is_the_daemons(running: Running, gated: Gated) -> None:
    prefix = running.check(question(running.enrol("T-quota"))).decision_id[:16]
    shared = ps.SharedQuestion(question=of_nobody(actor=pb.Actor(organisation="er")))
    for first in range(0, 2_000, 1_000):
        del shared.subjects[:]
        shared.subjects.extend(pb.Subject(scheme="mhid", value=f"T-{number}") for number in range(first, first + 1_000))
        found = gated.policy.BatchCheck(ps.BatchCheckRequest(shared=shared), metadata=running.as_("er")).results
        by_daemon = {one.decision.decision_id[:16] for one in found} == {prefix}
        assert by_daemon is (first == 1_000)  # the gate has half of 2,000


def test_a_request_over_the_limit_of_bytes_is_refused(running: Running, gated: Gated) -> None:
    large = rs.EnrolSubjectRequest(request_id=bytes(2 << 20), method="test")
    for stub in (gated.registry, running.registry):
        with pytest.raises(grpc.RpcError) as caught:
            stub.EnrolSubject(large, metadata=running.as_("app"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_that_does_not_end_does_not_reach_the_daemon(gated: Gated) -> None:
    """A peer that sends a part of a call, and others after it, disturb nobody."""
    host, _, port = gated.address.rpartition(":")
    peers = [socket.create_connection((host, int(port))) for _ in range(20)]
    for peer in peers:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + b"\0\0\x20\1\4")
    with pytest.raises(grpc.RpcError) as caught:
        gated.policy.Check(ps.CheckRequest(question=of_nobody()))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    for peer in peers:
        peer.close()


def test_a_call_in_flight_ends_before_the_gate_does(running: Running, program: Path) -> None:
    gate = make_gate(running, program)
    gate.start()
    message = ps.CheckRequest(question=question(running.enrol("T-drain"))).SerializeToString()
    host, _, port = gate.address.rpartition(":")
    with RawConnection(host, int(port)) as peer:
        peer.begin(CHECK, running.tokens["app"])
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(gate.stop)
            peer.read_until(GOAWAY)
            peer.send_message(message)
            assert ps.CheckResponse.FromString(peer.read_message()).decision.outcome == pb.OUTCOME_NO_CONSENT
            stopped.result()


def test_a_long_request_of_nobody_is_refused_before_it_is_complete(running: Running, gated: Gated) -> None:
    """The daemon refuses it by its headers; of a known caller the gate awaits the rest."""
    host, _, port = gated.address.rpartition(":")
    with RawConnection(host, int(port)) as peer:
        peer.begin("/consentd.v1.ConsentService/GrantConsent", "")
        peer.send_part(100_000, 10_000)
        peer.read_until(HEADERS)
    with RawConnection(host, int(port)) as peer:
        peer.begin("/consentd.v1.RegistryService/BatchEraseSubjects", running.tokens["app"])
        peer.send_part(100_000, 10_000)
        assert peer.is_open()


def test_a_request_that_is_too_long_is_refused_by_the_length_that_it_states(running: Running, gated: Gated) -> None:
    """Of a known caller too, and before the rest has come. Only batches may be longer than 64 KiB."""
    host, _, port = gated.address.rpartition(":")
    for path, size in (
        ("/consentd.v1.ConsentService/GrantConsent", (64 << 10) + 1),
        ("/consentd.v1.RegistryService/BatchEraseSubjects", (1 << 20) + 1),
    ):
        with RawConnection(host, int(port)) as peer:
            peer.begin(path, running.tokens["app"])
            peer.send_part(size, 10)
            peer.read_until(HEADERS)


def test_a_new_caller_finds_room_beside_connections_that_say_nothing(running: Running, program: Path) -> None:
    """The oldest of them yields. A connection on which a known caller has called does not."""
    gate = make_gate(running, program)
    gate.start()
    host, _, port = gate.address.rpartition(":")
    known = Gated(running, gate.address)
    asked = question(running.enrol("T-room"))
    known.check(asked)
    idle = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS_OF_ADDRESS)]
    new = Gated(running, gate.address, own_connection=True)
    assert new.check(asked, wait_for_ready=True).outcome == pb.OUTCOME_NO_CONSENT
    known.check(asked)
    for one in (*idle, new.channel, known.channel):
        one.close()
    gate.stop()


def test_a_shared_row_that_is_mended_is_read_again(running: Running, program: Path) -> None:
    """A wrong row with a right check: without a new entry, the gate must forget what it read from it."""
    services = running.daemon.service_state.services
    assert services is not None
    key, table = b"pclinic-b", services.table
    asked = question(running.enrol("T-mended"), actor=pb.Actor(organisation="clinic-b"))
    prefix = running.check(asked, "clinic-b").decision_id[:16]
    with table.begin_write() as txn:
        right = txn.get(key)
        assert right is not None
        at = 8 + 20 * int.from_bytes(right[4:8])
        statement = st.ParticipantStatement.FromString(right[at:-4])
        statement.active = False
        wrong = seal_row(key, right[:at] + statement.SerializeToString())
        txn.put(key, wrong)
    gate = make_gate(running, program)
    gate.start()
    gated = Gated(running, gate.address)
    assert gated.check(asked, "clinic-b").decision_id[:16] == prefix
    for _ in range(2):  # it is spoiled first
        with table.begin_read() as reading:
            stored = reading.get(key)
        services.sequencer.call(partial(table.mend, key, stored, right))
    with table.begin_read() as reading:
        assert reading.get(key) == right
    assert gated.check(asked, "clinic-b").decision_id[:16] != prefix
    gated.channel.close()
    gate.stop()


def test_a_silent_writer_ends_the_answers_of_the_gate(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gate = make_running(tmp_path / "silent", GATE, checkpoint_interval_ms=10)
    for running in serve(with_gate):
        gate = make_gate(running, program, max_silence_ms=1_000)
        gate.start()
        gated = Gated(running, gate.address)
        person = running.enrol("T-1")
        running.grant(person)
        services = running.daemon.service_state.services
        assert services is not None
        silence = partial(services.table.heartbeat, 0)
        monkeypatch.setattr(services.table, "heartbeat", lambda wall_ms: None)
        services.sequencer.call(silence)
        prefix = running.check(question(person)).decision_id[:16]
        assert gated.check(question(person)).decision_id[:16] == prefix
        gated.channel.close()
        gate.stop()


def test_a_gate_that_ends_is_started_again(running: Running, program: Path) -> None:
    gate = make_gate(running, program)
    gate.start()
    first, before = gate._process, gate.address
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    for _ in range(HANG_S * 20):
        if gate.address != before:
            break
        time.sleep(0.05)
    assert gate.address != before
    gated = Gated(running, gate.address)
    gated.both(question(running.enrol("T-again")), "app")
    gated.channel.close()
    gate.stop()


def test_the_gate_ends_with_the_daemon(running: Running, program: Path) -> None:
    gate = make_gate(running, program)
    gate.start()
    process = gate._process
    assert process is not None
    gate._ending.set()
    os.close(gate._pipe)  # as the system does when the daemon is killed
    assert process.wait(30) == 0
    gate._pipe = os.open(os.devnull, os.O_RDONLY)
    gate.stop()


def test_a_program_that_cannot_be_started_is_an_error_of_the_log(running: Running, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    config = dataclasses.replace(running.config, gate=GateConfig(program=missing))
    services = running.daemon.service_state.services
    assert services is not None
    before = services.sequencer.quotas.has_gate
    with started_gate(config, running.daemon.service_state, socket=running.daemon.gate_socket) as gate:
        assert gate is not None
        assert services.sequencer.quotas.has_gate is before  # callers of the daemon still have the whole quota
    with started_gate(running.config, running.daemon.service_state, socket=None) as gate:
        assert gate is None


def test_a_program_that_could_not_be_started_is_tried_again(running: Running, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "late"
    gate = make_gate(running, path)
    with pytest.raises(StorageError):
        gate.start()
    path.symlink_to(program)
    for _ in range(HANG_S * 20):
        if gate.address:
            break
        time.sleep(0.05)
    gated = Gated(running, gate.address)
    gated.both(question(running.enrol("T-late")), "app")
    gated.channel.close()
    gate.stop()


def test_a_gate_that_is_being_started_ends_too(running: Running, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 3600\n")
    mute.chmod(0o700)
    gate = make_gate(running, mute)
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(gate.start)
        for _ in range(HANG_S * 20):
            if gate._process is not None:
                break
            time.sleep(0.05)
        process = gate._process
        assert process is not None
        gate.stop()
        assert isinstance(starting.exception(HANG_S), StorageError)
    assert process.returncode is not None
    with pytest.raises(StorageError, match="the daemon ends"):
        gate._start()


def test_the_program_of_the_extra_is_beside_the_interpreter(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = dataclasses.replace(running.config, gate=GateConfig())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert with_installed(none).gate.program is None
    installed = tmp_path / "consentd-gate"
    installed.touch(mode=0o755)
    assert with_installed(none).gate.program == installed
    named = dataclasses.replace(running.config, gate=GateConfig(program=Path("named")))
    assert with_installed(named).gate.program == Path("named")
    without = dataclasses.replace(running.config, gate=GateConfig(program=Path("named"), listen=""))
    assert with_installed(without).gate.program is None


def test_a_section_that_cannot_work_is_refused(running: Running) -> None:
    with pytest.raises(InvalidError, match=r"`gate\.listen` is reachable"):
        dataclasses.replace(running.config, gate=GateConfig(program=Path("x"), listen="0.0.0.0:1"))
    with pytest.raises(InvalidError, match=r"`gate\.http_listen` has no TLS"):
        dataclasses.replace(running.config, gate=GateConfig(http_listen="0.0.0.0:1"))
    section = dataclasses.replace(running.config.grpc, tls=TlsConfig(cert_file=Path("cert"), key_file=Path("key")))
    dataclasses.replace(running.config, gate=GateConfig(listen="0.0.0.0:1"), grpc=section)


def test_metrics_and_health_have_what_the_gate_does(
    running: Running, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = make_gate(running, program, http_listen="127.0.0.1:0", max_silence_ms=1_000)
    gate.start()
    gated, person = Gated(running, gate.address), running.enrol("T-measured")
    for _ in range(3):
        gated.check(question(person))
    with pytest.raises(grpc.RpcError):
        gated.check(of_nobody())
    assert health_pb2_grpc.HealthStub(gated.channel).Check(health_pb2.HealthCheckRequest()).status == SERVING
    assert http_get(gate, "/healthz") == (200, '{"status": "ok"}\n')
    assert http_get(gate, "/nothing")[0] == 404
    status, text = http_get(gate, "/metrics")
    assert status == 200
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert set(families) == {name.removesuffix("_total") for name in GATE_METRICS}
    assert {f"# TYPE {one.name} {one.kind}" for one in gate_metrics()} <= set(text.splitlines())
    samples = {(one.name, *one.labels.values()): one.value for each in families.values() for one in each.samples}
    assert samples["consentd_gate_calls_total", "answered"] == 4
    assert samples["consentd_gate_calls_total", "passed_on"] == 1
    # A health probe says nothing of how long an answer takes.
    assert samples["consentd_gate_answer_seconds_bucket", "+Inf"] == samples["consentd_gate_answer_seconds_count",] == 3
    assert samples["consentd_gate_connections",] == samples["consentd_gate_ready",] == 1
    assert abs(samples["consentd_gate_heartbeat_time_seconds",] - time.time()) < HANG_S
    for name in ("T-measured", "clinic-b", "app"):
        assert name not in text
    services = running.daemon.service_state.services
    assert services is not None
    monkeypatch.setattr(services.table, "heartbeat", lambda wall_ms: None)
    services.sequencer.call(partial(Table.heartbeat, services.table, 0))
    assert http_get(gate, "/healthz") == (503, '{"status": "unavailable"}\n')
    gated.channel.close()
    gate.stop()


def health_of(address: str, service: str) -> int | grpc.StatusCode:
    """Return the status of a service, or of the call about it."""
    with grpc.insecure_channel(address) as channel:
        try:
            return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status
        except grpc.RpcError as error:
            return error.code()


def test_the_gate_is_healthy_while_it_answers_and_the_daemon_does_not(
    running: Running, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, others, serving = ("", "consentd.v1.PolicyService"), ("consentd.v1.ConsentService",), SERVING
    services = running.daemon.service_state.services
    assert services is not None
    monkeypatch.setattr(services.table, "heartbeat", lambda wall_ms: None)
    beat = partial(Table.heartbeat, services.table)
    services.sequencer.call(partial(beat, services.sequencer.clock.wall_ms()))  # another test may have stopped it
    gate, alone = (make_gate(running, program, max_silence_ms=600_000) for _ in range(2))
    alone._socket = Path("none")  # as if the daemon answered nothing
    gate.start()
    alone.start()
    assert [health_of(gate.address, name) for name in (*own, *others)] == [serving] * 3
    assert health_of(gate.address, "nothing") is grpc.StatusCode.NOT_FOUND
    assert [health_of(alone.address, name) for name in own] == [serving] * 2
    assert [health_of(alone.address, name) for name in others] == [grpc.StatusCode.UNAVAILABLE]
    services.sequencer.call(partial(beat, 0))
    assert [health_of(gate.address, name) for name in own] == [serving] * 2  # the daemon answers checks
    assert [health_of(alone.address, name) for name in own] == [grpc.StatusCode.UNAVAILABLE] * 2
    services.sequencer.call(partial(beat, services.sequencer.clock.wall_ms()))
    gate.stop()
    alone.stop()


def test_a_gate_that_cannot_run_logs_why(program: Path, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.write(writes, bytes([7]) * 32)
    command = [program, "--table", tmp_path, "--listen", "127.0.0.1:0", "--daemon", "x", "--key-fd", str(reads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[reads])
    os.close(reads)
    os.close(writes)
    line = json.loads(done.stderr)
    assert (done.returncode, line["level"], line["logger"]) == (1, "error", "gate")
    assert set(line) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unknown", "1"], ["--table"], ["--table", "x"],
        ["--table", "x", "--listen", "0.0.0.0:1", "--daemon", "x", "--key-fd", "0"],
        ["--table", "x", "--listen", "127.0.0.1:1", "--daemon", "x", "--key-fd", "0", "--threads", "0"],
        ["--table", "x", "--listen", "127.0.0.1:1", "--daemon", "x", "--key-fd", "0", "--table", "y"],
        ["--table", "x", "--listen", "127.0.0.1:1", "--daemon", "x", "--key-fd", "0", "--tls-key", "y"],
        ["--table", "x", "--listen", "127.0.0.1:1", "--daemon", "x", "--key-fd", "0", "--http", "0.0.0.0:1"],
    ],
)  # fmt: skip
def test_options_that_are_wrong_are_named(program: Path, arguments: list[str]) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith(("consentd-gate: option `", "consentd-gate: unknown option `"))
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert usage.startswith("usage: consentd-gate ")
    assert ORIGIN not in usage
