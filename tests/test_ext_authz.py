"""Envoy in front of a FHIR server lets through what the gate permits, and nothing else, whatever fails."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.daemons import Running, make_running, request_id, serve
from cases.ext_authz import CLINIC_B, MAPPING, Envoyed, Reply, person_with_consent
from cases.fakes import HANG_S
from cases.gate_programs import GATE, built, needs_cargo
from cases.http_proxies import ENVOY
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

pytestmark = [pytest.mark.slow, needs_cargo]


@pytest.fixture(scope="module")
def program() -> Path:
    return built("consentd-gate", "consentd-gate")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), GATE, checkpoint_interval_ms=10))


@pytest.fixture(scope="module")
def envoyed(tmp_path_factory: pytest.TempPathFactory, running: Running, program: Path) -> Iterator[Envoyed]:
    if ENVOY is None:
        pytest.skip("Envoy is not installed")
    person_with_consent(running, "T-1")
    person_with_consent(running, "T-labs", categories=["CLIN.LAB"])
    running.enrol("T-silent")
    objects = person_with_consent(running, "T-objects")
    running.grant(objects, effect=pb.EFFECT_DENY)
    found = Envoyed(tmp_path_factory.mktemp("envoy"), running, program)
    with found.envoy():
        yield found
    found.stop()


def path(person: str) -> str:
    return f"/fhir/Patient/{person}/Condition"


def assert_refused(envoyed: Envoyed, reply: Reply, reason: str = "NOT_PERMITTED") -> None:
    """Assert that the gate refused, and that the server did not get the request."""
    assert (reply.status, reply.headers.get("consentd-outcome"), reply.reason) == (403, "DENY", reason)
    assert envoyed.fhir.served == []


def test_what_is_permitted_is_let_through_with_the_decision(running: Running, envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    reply = envoyed.send(path("T-1") + "?_count=5")
    assert reply.status == 200, reply
    (served,) = envoyed.fhir.served
    assert served.target == path("T-1") + "?_count=5"
    assert (served.one("consentd-outcome"), served.one("consentd-permitted")) == ("PERMIT", "CLIN.DX")
    assert re.fullmatch(r"[0-9a-f]{32}", served.one("consentd-decision-id"))
    assert 0 < int(served.one("consentd-revision")) <= running.wait_published().ledger.state.size
    assert not any(name.startswith("consentd-") for name in reply.headers)


@pytest.mark.parametrize("person", ["T-objects", "T-silent", "T-nobody", "T-labs"])
def test_what_is_not_permitted_is_refused_and_the_client_does_not_learn_why(envoyed: Envoyed, person: str) -> None:
    envoyed.fhir.served.clear()
    reply = envoyed.send(path(person))
    assert_refused(envoyed, reply)
    assert {name for name in reply.headers if name.startswith("consentd-")} == {
        "consentd-outcome", "consentd-reason",
    }  # fmt: skip
    assert reply.body == b""


def test_a_consent_counts_at_once_and_so_does_its_end(running: Running, envoyed: Envoyed) -> None:
    person = running.enrol("T-changes")
    assert envoyed.send(path("T-changes")).status == 403
    consent = running.grant(person)
    assert envoyed.send(path("T-changes")).status == 200
    request = cs.RevokeConsentRequest(
        request_id=request_id(), subject=person, consent_id=consent, attested=st.RevokeStatement()
    )
    running.consents.RevokeConsent(request, metadata=running.as_("app"))
    assert envoyed.send(path("T-changes")).status == 403


UNMAPPED = {
    "another path": ("/fhir/Patient/T-1/Encounter", "ROUTE_UNMAPPED"),
    "a shorter path": ("/fhir/Patient/T-1", "ROUTE_UNMAPPED"),
    "other letters": ("/fhir/patient/T-1/Condition", "ROUTE_UNMAPPED"),
    "a search": ("/fhir/Patient/_search/Condition", "ROUTE_UNMAPPED"),
    "another parameter": (path("T-1") + "?_include=Condition:subject", "PARAMETER_UNMAPPED"),
    "no parameter": ("/fhir/Observation?patient=T-1", "VALUE_MISSING"),
    "a parameter twice": ("/fhir/Observation?patient=T-1&patient=T-2&category=laboratory", "VALUE_DOUBLED"),
    "a value without meaning": ("/fhir/Observation?patient=T-1&category=imaging", "VALUE_UNMAPPED"),
    "an escaped letter": ("/fhir/Patient/T-%31/Condition", "PATH_NOT_CANONICAL"),
    "an escaped dot": ("/fhir/Patient/%2e%2e/Patient/T-1/Condition", "PATH_NOT_CANONICAL"),
    "dots": ("/fhir/Patient/T-silent/../T-1/Condition", "PATH_NOT_CANONICAL"),
    "a dot": ("/fhir/./Patient/T-1/Condition", "PATH_NOT_CANONICAL"),
    "an empty segment": ("/fhir//Patient/T-1/Condition", "PATH_NOT_CANONICAL"),
    "an escaped slash": ("/fhir/Patient%2FT-1/Condition", "PATH_NOT_CANONICAL"),
    "a backslash": ("/fhir/Patient\\T-1/Condition", "PATH_NOT_CANONICAL"),
    "a parameter of a segment": ("/fhir/Patient/T-1;x=T-2/Condition", "PATH_NOT_CANONICAL"),
    "a slash at the end": (path("T-1") + "/", "PATH_NOT_CANONICAL"),
    "an escaped parameter": (path("T-1") + "?%5Fcount=1", "PATH_NOT_CANONICAL"),
}


@pytest.mark.parametrize("name", UNMAPPED)
def test_a_request_without_a_question_is_refused(envoyed: Envoyed, name: str) -> None:
    target, reason = UNMAPPED[name]
    envoyed.fhir.served.clear()
    assert_refused(envoyed, envoyed.send(target), reason)


def test_another_host_is_refused(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    assert_refused(envoyed, envoyed.send(path("T-1"), host="other.example"), "HOST_UNMAPPED")


def test_another_method_is_refused(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    for method in ("POST", "DELETE", "PUT", "HEAD"):
        assert_refused(envoyed, envoyed.send(path("T-1"), method=method), "ROUTE_UNMAPPED")
    for name in ("x-http-method-override", "x-original-url", "x-rewrite-url"):
        assert_refused(envoyed, envoyed.send(path("T-1"), (name, "DELETE")), "HEADER_NOT_ALLOWED")


def test_a_body_of_a_get_is_refused(envoyed: Envoyed) -> None:
    """A server that leaves it unread would take it for a further request."""
    further = f"GET {path('T-objects')} HTTP/1.1\r\nhost: fhir.example\r\n\r\n".encode()
    envoyed.fhir.served.clear()
    length = ("content-length", str(len(further)))
    assert_refused(envoyed, envoyed.send(path("T-1"), length, body=further), "BODY_NOT_ALLOWED")
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(further), further)
    chunked = ("transfer-encoding", "chunked")
    assert_refused(envoyed, envoyed.send(path("T-1"), chunked, body=chunk), "BODY_NOT_ALLOWED")
    assert envoyed.send(path("T-1"), ("content-length", "0")).status == 200


def test_who_asks_is_who_has_shown_a_certificate(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    for names in (("spiffe://realm.example/nobody",), (), ("spiffe://realm.example/nobody", CLINIC_B)):
        assert_refused(envoyed, envoyed.send(path("T-1"), names=names), "VALUE_UNMAPPED")
    # The consent is for clinic-b, and not for this one.
    assert_refused(envoyed, envoyed.send(path("T-1"), names=("spiffe://realm.example/er",)))


def test_claims_are_believed_of_verified_tokens_alone(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    assert_refused(envoyed, envoyed.send(path("T-1"), token=envoyed.token(purpose_of_use=None)), "VALUE_MISSING")
    for odd in ("HMARKT", 7, {"a": "TREAT"}):
        assert_refused(envoyed, envoyed.send(path("T-1"), token=envoyed.token(purpose_of_use=odd)), "VALUE_UNMAPPED")
    two = envoyed.token(purpose_of_use=["TREAT", "HRESCH"])
    assert_refused(envoyed, envoyed.send(path("T-1"), token=two), "VALUE_DOUBLED")
    assert_refused(envoyed, envoyed.send(path("T-1"), token=envoyed.token(purpose_of_use="HRESCH")))
    for token in (envoyed.token()[:-4] + "AAAA", "x.y.z", envoyed.token(aud="another")):
        assert envoyed.send(path("T-1"), token=token).status in (401, 403)
    assert envoyed.fhir.served == []


def test_headers_of_the_client_with_our_names_do_not_reach_the_server(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    forged = [
        ("consentd-outcome", "PARTIAL"), ("consentd-outcome", "DENY"), ("Consentd-Permitted", "CLIN,FIN"),
        ("consentd-residual", "[]"), ("consentd-obligations", "NONE"), ("consentd-another", "x"),
        ("consentd-reason", "x"), ("consentd-level", "V"),
    ]  # fmt: skip
    assert envoyed.send(path("T-1"), *forged).status == 200
    (served,) = envoyed.fhir.served
    ours = {name: served.one(name) for name in served.headers if name.startswith("consentd")}
    assert ours.keys() == {
        "consentd-outcome", "consentd-permitted", "consentd-decision-id", "consentd-revision", "consentd-level",
    }  # fmt: skip
    assert ours["consentd-level"] == "N"
    assert (ours["consentd-outcome"], ours["consentd-permitted"]) == ("PERMIT", "CLIN.DX")
    # Envoy itself refuses what a server might read as ours.
    assert envoyed.send(path("T-1"), ("consentd_outcome", "PARTIAL")).status == 400


def test_values_of_the_query_have_the_meaning_of_the_mapping(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    assert envoyed.send("/fhir/Observation?patient=T-labs&category=laboratory").status == 200
    assert envoyed.fhir.served.pop().one("consentd-permitted") == "CLIN.LAB"
    assert_refused(envoyed, envoyed.send("/fhir/Observation?category=vital-signs&patient=T-labs"))


def test_a_part_is_let_through_where_the_server_applies_it(envoyed: Envoyed) -> None:
    envoyed.fhir.served.clear()
    assert envoyed.send("/fhir/Patient/T-labs/$everything").status == 200
    served = envoyed.fhir.served.pop()
    assert (served.one("consentd-outcome"), served.one("consentd-permitted")) == ("PARTIAL", "CLIN.LAB")


def test_a_gate_that_is_killed_or_stopped_lets_nothing_through_and_comes_back(envoyed: Envoyed) -> None:
    assert envoyed.send(path("T-1")).status == 200
    envoyed.fhir.served.clear()
    envoyed.signal_gate(signal.SIGSTOP)
    try:
        reply = envoyed.send(path("T-1"))
    finally:
        envoyed.signal_gate(signal.SIGCONT)
    assert (reply.status, reply.reason) == (403, "")
    assert envoyed.fhir.served == []
    with envoyed.killed_gate():
        for _ in range(3):
            assert envoyed.send(path("T-1")).status == 403
    assert envoyed.fhir.served == []
    for _ in range(HANG_S * 20):
        if envoyed.send(path("T-1")).status == 200:
            break
        time.sleep(0.05)
    assert envoyed.send(path("T-1")).status == 200


STATED = re.sub(r"(?m)^purpose = .*$", 'purpose = { header = "x-purpose-of-use" }', MAPPING)
"""The mapping, but the client states the purpose."""
LENIENT = {"failure_mode_allow: false": "failure_mode_allow: true"}
"""Envoy lets requests pass when the call of the gate has an error."""


@pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed")
@pytest.mark.parametrize("encodes_raw", ["true", "false"])
def test_a_header_that_is_there_twice_is_refused(
    tmp_path: Path, running: Running, envoyed: Envoyed, program: Path, encodes_raw: str
) -> None:
    """Envoy joins headers of one name, or tells each."""
    changed = {**LENIENT, "encode_raw_headers: true": f"encode_raw_headers: {encodes_raw}"}
    found = Envoyed(tmp_path, running, program, mapping=STATED, changed=changed)
    with found.envoy():
        assert found.send(path("T-1"), ("X-Purpose-Of-Use", "TREAT")).status == 200
        found.fhir.served.clear()
        twice = [("x-purpose-of-use", "TREAT"), ("X-Purpose-Of-Use", "TREAT")]
        assert_refused(found, found.send(path("T-1"), *twice), "VALUE_DOUBLED")
        assert_refused(found, found.send(path("T-1"), ("x-purpose-of-use", "TREAT,TREAT")), "VALUE_DOUBLED")
        assert_refused(found, found.send(path("T-1")), "VALUE_MISSING")
    found.stop()


@pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed")
def test_a_daemon_that_does_not_answer_is_no_error_that_opens(
    tmp_path: Path, running: Running, envoyed: Envoyed, program: Path, short_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "silent"))
        listener.listen()
        found = Envoyed(tmp_path, running, program, mapping=STATED, changed=LENIENT, socket=short_path / "silent")
        with found.envoy():
            assert found.send(path("T-1"), ("x-purpose-of-use", "TREAT")).status == 200
            found.fhir.served.clear()
            # The daemon says what an unknown code is.
            assert_refused(found, found.send(path("T-1"), ("x-purpose-of-use", "UNHEARD")), "UNAVAILABLE")
        found.stop()
