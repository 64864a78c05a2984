"""The log of refused calls and recorded decisions: it names callers, and no person; a flood is one line."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, question, request_id, running_daemon
from cases.services import batch_request, new_identifier, publish_rules, refusal, services
from consentd.errors import AbortedError, InvalidError, StorageError
from consentd.logs import JsonFormatter
from consentd.service import answerer
from consentd.service.call_log import MAX_ADDRESSES, MAX_ASKED, CallLog, named_participants
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import policy_service_pb2_grpc
from consentd.v1 import statement_pb2 as st

NAME = "consentd.calls"


@dataclass
class Caller:
    caller: str = "clinic-b"
    address: str = "ipv4:192.0.2.7:4711"

    def peer(self) -> str:
        return self.address


def never(flush: Callable[[], None]) -> None:
    """Write lines only when the test calls ``flush``."""


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    found = [json.loads(JsonFormatter().format(one)) for one in caplog.records if one.name == NAME]
    caplog.clear()
    return found


def test_a_flood_asks_for_few_addresses(caplog: pytest.LogCaptureFixture) -> None:
    """To ask grpcio for the address of a peer takes longer than the rest of a line."""
    caplog.set_level(logging.INFO, NAME)
    asked: list[int] = []

    @dataclass
    class Asked(Caller):
        def peer(self) -> str:
            asked.append(1)
            return super().peer()

    calls = CallLog(lambda flush: None)
    for _ in range(1_000):
        calls.refused("Check", InvalidError("no"), Asked(""))
    calls.flush()
    assert [(line["count"], line["addresses"]) for line in lines(caplog)] == [(1_000, ["192.0.2.7"])]
    assert len(asked) == MAX_ASKED


def test_a_flood_is_one_line_for_each_caller_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    waiting: list[Callable[[], None]] = []
    calls = CallLog(waiting.append)
    for number in range(10_000):
        caller = Caller("" if number % 2 else "clinic-b", f"ipv4:192.0.2.{number % 100}:{number}")
        calls.refused("Check", InvalidError("no"), caller, lambda: {"holder": "hospital-a"}, code="INVALID_ARGUMENT")
        calls.refused("Check", AbortedError("no", "REF_MOVED"), caller)
    assert (lines(caplog), len(waiting)) == ([], 1)
    waiting[0]()
    written = lines(caplog)
    assert sorted((line.get("caller", ""), line["reason"], line["count"]) for line in written) == [
        (who, reason, 5_000) for who in ("", "clinic-b") for reason in ("INVALID_REQUEST", "REF_MOVED")
    ]
    assert all(len(line["addresses"]) == MAX_ADDRESSES for line in written)
    assert written[0] | {"time": ""} == {
        "time": "", "level": "info", "logger": NAME, "message": "call refused", "rpc": "Check",
        "reason": "INVALID_REQUEST", "code": "INVALID_ARGUMENT", "caller": "clinic-b", "holder": "hospital-a",
        "addresses": [f"192.0.2.{number}" for number in range(0, 16, 2)], "count": 5_000,
    }  # fmt: skip
    calls.flush()
    assert lines(caplog) == []
    calls.refused("Check", StorageError("disk"), Caller(address="ipv6:%5B2001:db8::7%5D:4711"))
    assert len(waiting) == 2
    waiting[1]()
    (line,) = lines(caplog)
    assert (line["message"], line["count"], line["addresses"]) == ("call failed", 1, ["2001:db8::7"])


def test_a_level_that_is_not_written_is_not_collected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    calls = CallLog(never)

    def fails() -> dict[str, str]:
        raise AssertionError("names are read for lines that are written only")

    calls.recorded("AuthorizeAccess", "DECISION", Caller(), fails, is_refusal=False)
    calls.flush()
    assert lines(caplog) == []
    caplog.set_level(logging.DEBUG, NAME)
    calls.recorded("AuthorizeAccess", "DECISION", Caller(), dict, is_refusal=False)
    calls.flush()
    assert [(line["message"], line["level"]) for line in lines(caplog)] == [("access recorded", "debug")]


def test_names_that_cannot_be_read_end_no_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)

    def fails() -> dict[str, str]:
        raise StorageError("daemon is starting or draining", "NOT_SERVING")

    calls = CallLog(never)
    calls.refused("Check", InvalidError("no"), Caller(), fails)
    calls.flush()
    assert [line["count"] for line in lines(caplog)] == [1]


# -- a daemon ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_daemon(tmp_path_factory.mktemp("calls")) as daemon:
        daemon.daemon.service_state.call_log._later = never
        yield daemon


@pytest.fixture
def written(running: Running, caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that returns the lines since the last call."""
    caplog.set_level(logging.DEBUG, NAME)
    log = running.daemon.service_state.call_log

    def flushed() -> list[dict[str, Any]]:
        log.flush()
        return lines(caplog)

    flushed()
    return flushed


def test_who_is_refused_is_named(running: Running, written: Callable[[], list[dict[str, Any]]]) -> None:
    subject = running.enrol(new_identifier())
    running.grant(subject)
    assert written() == []
    stub = policy_service_pb2_grpc.PolicyServiceStub(running.channel)  # type: ignore[no-untyped-call]
    asked = question(subject, actor=pb.Actor(organisation="clinic-b", application="nobody\n\"", relays=["app", "x"]))
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        with pytest.raises(grpc.RpcError):
            stub.Check(ps.CheckRequest(question=asked), metadata=metadata)
    (line,) = written()
    assert (line["reason"], line["code"], line["rpc"], line["count"]) == (
        "UNAUTHENTICATED", "UNAUTHENTICATED", "Check", 2
    )  # fmt: skip
    assert "caller" not in line
    assert line["addresses"] == ["127.0.0.1"]
    assert refusal(lambda: running.check(asked, "clinic-b")) == "ACTOR_NOT_ALLOWED"
    (line,) = written()
    shown = {name: line[name] for name in ("caller", "reason", "organisation", "holder", "relays")}
    assert shown == {
        "caller": "clinic-b", "reason": "ACTOR_NOT_ALLOWED", "organisation": "clinic-b", "holder": "hospital-a",
        "relays": ["app"],
    }  # fmt: skip
    assert "application" not in line
    batch = batch_request(questions=[asked] * 7)
    running.policy.BatchCheck(batch, metadata=running.as_("clinic-b"))
    (line,) = written()
    assert (line["rpc"], line["reason"], line["count"]) == ("BatchCheck", "ACTOR_NOT_ALLOWED", 7)
    assert "code" not in line


def test_conflicts_and_quotas_name_their_caller(
    running: Running, written: Callable[[], list[dict[str, Any]]]
) -> None:
    subject, once = running.enrol(new_identifier()), request_id()
    running.authorize(question(subject), request_id=once)
    written()
    other = question(subject, categories=["CLIN.RX"])
    assert refusal(lambda: running.authorize(other, request_id=once)) == "REQUEST_ID_REUSED"
    (line,) = written()
    assert (line["caller"], line["reason"], line["organisation"]) == ("app", "REQUEST_ID_REUSED", "clinic-b")
    assert line["code"] == "FAILED_PRECONDITION"
    publish_rules(running, quotas=st.Quotas(entries_per_day=1, refusals_per_day=1, persons_per_hour=1_000))
    written()
    for _ in range(3):
        assert refusal(lambda: running.authorize(question(subject, purpose="HRESCH"))) == "QUOTA_EXCEEDED"
    (line,) = written()
    assert (line["caller"], line["reason"], line["count"]) == ("app", "QUOTA_EXCEEDED", 3)
    publish_rules(running, quotas=st.Quotas(entries_per_day=1_000, refusals_per_day=1_000, persons_per_hour=1_000))


def test_recorded_decisions_name_caller_and_actor_and_no_person(
    running: Running, written: Callable[[], list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    identifier = new_identifier()
    subject = running.enrol(identifier)
    running.grant(subject)
    with services(running).table.read() as snapshot:
        tag = snapshot.tag_of(services(running).vault.identifier_hash(subject.scheme, subject.value))
    assert tag is not None
    written()
    running.authorize(question(subject))
    running.authorize(question(subject, purpose="HRESCH"))
    running.authorize(question(pb.Subject(scheme="mhid", value=identifier + "x")))
    refused = pb.Consent(
        kind=pb.CONSENT_KIND_TRANSFER_REQUEST,
        root=pb.Provision(effect=pb.EFFECT_PERMIT, actors=["clinic-b"], purposes=["TREAT"], categories=["CLIN"]),
    )
    running.consents.GrantConsent(
        cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=refused)),
        metadata=running.as_("app"),
    )
    found = written()
    assert sorted((line["message"], line["level"], line["reason"], line["count"]) for line in found) == [
        ("access recorded", "debug", "DECISION", 1),
        ("refusal recorded", "info", "DECISION", 2),
        ("refusal recorded", "info", "R05", 1),
    ]
    assert all(line["caller"] == "app" and line["addresses"] == ["127.0.0.1"] for line in found)
    assert all(line.get("organisation", "clinic-b") == "clinic-b" for line in found)
    text = json.dumps(found)
    assert identifier not in text
    assert tag.hex() not in text
    batch = ac.BatchAuthorizeAccessesRequest(
        requests=[ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))] * 1
    )
    running.access.BatchAuthorizeAccesses(batch, metadata=running.as_("app"))
    assert [(line["message"], line["organisation"]) for line in written()] == [("access recorded", "clinic-b")]


def test_who_may_not_read_entry_bundles_is_named(
    running: Running, written: Callable[[], list[dict[str, Any]]]
) -> None:
    url = f"http://127.0.0.1:{running.daemon.http_port}/tile/entries/000"
    for token, code in (("", 401), (running.tokens["clinic-b"], 403)):
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == code
        caught.value.close()
    assert [(line["rpc"], line["reason"], line.get("caller")) for line in written()] == [
        ("/tile/entries", "UNAUTHENTICATED", None), ("/tile/entries", "CALLER_NOT_ALLOWED", "clinic-b")
    ]  # fmt: skip


def test_a_method_that_does_not_exist_is_logged(
    running: Running, written: Callable[[], list[dict[str, Any]]]
) -> None:
    call = running.channel.unary_unary("/consentd.v1.No/Such\n")
    with pytest.raises(grpc.RpcError):
        call(b"")
    (line,) = written()
    assert (line["reason"], "rpc" in line, line["count"]) == ("UNIMPLEMENTED", False, 1)


def test_only_registered_names_are_shown(running: Running) -> None:
    asked = question(
        pb.Subject(scheme="mhid", value="x"), holder="nobody",
        actor=pb.Actor(organisation="SUBJECT", application="app", on_behalf_of="\n", relays=["app"] * 100),
    )  # fmt: skip
    with services(running).table.read() as snapshot:
        assert named_participants(snapshot, asked) == {
            "organisation": "SUBJECT", "application": "app", "relays": ["app"] * 8
        }  # fmt: skip
        signed = ac.AuthorizeAccessRequest(signed_question=ac.SignedQuestion(question=asked.SerializeToString()))
        assert named_participants(snapshot, signed) == named_participants(snapshot, asked)
        for broken in (b"\xff", asked.SerializeToString() + bytes(5_000)):
            given = ac.AuthorizeAccessRequest(signed_question=ac.SignedQuestion(question=broken))
            assert named_participants(snapshot, given) == {}
        assert named_participants(snapshot, object()) == {}
        assert named_participants(snapshot, ac.RecordAccessRequest()) == {}


def test_the_last_lines_are_written_when_the_daemon_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, NAME)
    with running_daemon(tmp_path) as running:
        running.daemon.service_state.call_log._later = never
        with pytest.raises(grpc.RpcError):
            running.policy.Check(ps.CheckRequest())
    assert [line["reason"] for line in lines(caplog)] == ["UNAUTHENTICATED"]


def test_a_bug_names_the_caller_that_met_it(
    running: Running, written: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise AssertionError("a bug about SYN-000001")

    with monkeypatch.context() as patch:
        patch.setattr(answerer.Answerer, "check", bug)
        with pytest.raises(grpc.RpcError):
            running.check(question(pb.Subject(scheme="mhid", value="SYN-000001")))
    (line,) = written()
    assert (line["message"], line["rpc"], line["reason"], line["caller"]) == ("call failed", "Check", "INTERNAL", "app")
    assert "SYN-000001" not in json.dumps(line)
