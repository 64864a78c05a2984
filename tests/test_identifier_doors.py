"""Each call that names a person refuses an identifier that may not be stored, before it does anything else with it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cases.daemons import ORIGIN, Running, consent, make_running, question, reason_in, request_id, serve
from cases.erasures import AUTHORITY, add_authority, order
from cases.services import batch_request, proof_of, refusal, services
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.ledger import layout
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

CONSENT_ID = "ab" * 16
KEY = KeyPair(b"\x71" * 32)
REFUSED = [
    pb.Subject(scheme="mhid", value="900101-1234567"),
    pb.Subject(scheme="mrn/hospital-a", value="2012313456789"),
    pb.Subject(scheme="mhid", value="SYN-1 "),
    pb.Subject(scheme="mhid", value="SYN-1\u200b"),
    pb.Subject(scheme="resident-number", value="SYN-1"),
    pb.Subject(scheme="RRN", value="SYN-1"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10)
    add_authority(made)
    yield from serve(made)


def _signed_question(subject: pb.Subject) -> ac.SignedQuestion:
    key, asked = KeyPair(b"\x17" * 32), question(subject).SerializeToString()
    message = codec.signed_message(
        origin=ORIGIN, kind=codec.QUESTION_KIND, tag=bytes(32), ref=0, request_id=bytes(16), author_time_ms=1,
        payload=asked,
    )  # fmt: skip
    return ac.SignedQuestion(
        key=key.public_key, signature=key.sign(message), author_time_ms=1, question=asked, tag=bytes(32)
    )


def _first_leaf(running: Running) -> bytes:
    leaf = services(running).ledger.store.get(layout.leaf_key(0))
    assert leaf is not None
    return leaf


CALLS: dict[str, Callable[[Running, pb.Subject], tuple[Any, Any]]] = {
    "EnrolSubject": lambda running, subject: (
        running.registry.EnrolSubject, rs.EnrolSubjectRequest(request_id=request_id(), subject=subject)
    ),
    "GrantConsent": lambda running, subject: (
        running.consents.GrantConsent,
        cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent())),
    ),
    "AmendConsent": lambda running, subject: (
        running.consents.AmendConsent,
        cs.AmendConsentRequest(
            request_id=request_id(), subject=subject, consent_id=CONSENT_ID, based_on_version=1,
            attested=st.AmendStatement(consent=consent())
        ),
    ),
    "RenewConsent": lambda running, subject: (
        running.consents.RenewConsent,
        cs.RenewConsentRequest(
            request_id=request_id(), subject=subject, consent_id=CONSENT_ID, based_on_version=1, end_time_ms=1,
            attested=st.AmendStatement(),
        ),
    ),
    "ListExpiring": lambda running, subject: (
        running.consents.ListExpiring, cs.ListExpiringRequest(subject=subject)
    ),
    "PauseConsent": lambda running, subject: (
        running.consents.PauseConsent,
        cs.PauseConsentRequest(
            request_id=request_id(), subject=subject, consent_id=CONSENT_ID, attested=st.PauseStatement()
        ),
    ),
    "ResumeConsent": lambda running, subject: (
        running.consents.ResumeConsent,
        cs.ResumeConsentRequest(
            request_id=request_id(), subject=subject, consent_id=CONSENT_ID, attested=st.ResumeStatement()
        ),
    ),
    "RevokeConsent": lambda running, subject: (
        running.consents.RevokeConsent,
        cs.RevokeConsentRequest(
            request_id=request_id(), subject=subject, consent_id=CONSENT_ID, attested=st.RevokeStatement()
        ),
    ),
    "RecordServed": lambda running, subject: (
        running.consents.RecordServed,
        cs.RecordServedRequest(request_id=request_id(), subject=subject, attested=st.ServedStatement(notice_id="n")),
    ),
    "GetConsent": lambda running, subject: (
        running.consents.GetConsent, cs.GetConsentRequest(subject=subject, consent_id=CONSENT_ID)
    ),
    "ListConsents": lambda running, subject: (
        running.consents.ListConsents, cs.ListConsentsRequest(subject=subject)
    ),
    "PutAuthority": lambda running, subject: (
        running.consents.PutAuthority,
        cs.PutAuthorityRequest(request_id=request_id(), subject=subject, attested=st.AuthorityStatement()),
    ),
    "EndAuthority": lambda running, subject: (
        running.consents.EndAuthority,
        cs.EndAuthorityRequest(
            request_id=request_id(), subject=subject, authority_seq=2, attested=st.AuthorityStatement(ended=True)
        ),
    ),
    "GetAuthority": lambda running, subject: (
        running.consents.GetAuthority, cs.GetAuthorityRequest(subject=subject, authority_seq=2)
    ),
    "ListAuthorities": lambda running, subject: (
        running.consents.ListAuthorities, cs.ListAuthoritiesRequest(subject=subject)
    ),
    "Check": lambda running, subject: (running.policy.Check, ps.CheckRequest(question=question(subject))),
    "AuthorizeAccess": lambda running, subject: (
        running.access.AuthorizeAccess,
        ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject)),
    ),
    "AuthorizeAccess, signed": lambda running, subject: (
        running.access.AuthorizeAccess,
        ac.AuthorizeAccessRequest(request_id=request_id(), signed_question=_signed_question(subject)),
    ),
    "RecordAccess": lambda running, subject: (
        running.access.RecordAccess,
        ac.RecordAccessRequest(
            request_id=request_id(), subject=subject, access_seq=2,
            attested=st.OutcomeStatement(status=st.TRANSFER_STATUS_RECEIVED),
        ),
    ),
    "GetAccess": lambda running, subject: (
        running.access.GetAccess, ac.GetAccessRequest(subject=subject, access_seq=3)
    ),
    "ListAccesses": lambda running, subject: (running.access.ListAccesses, ac.ListAccessesRequest(subject=subject)),
    "GetHistory": lambda running, subject: (running.ledger.GetHistory, ls.GetHistoryRequest(subject=subject)),
    "GetReceipt": lambda running, subject: (
        running.ledger.GetReceipt, ls.GetReceiptRequest(index=0, leaf=_first_leaf(running), subject=subject)
    ),
    "AddKey": lambda running, subject: (
        running.registry.AddKey,
        rs.AddKeyRequest(
            request_id=request_id(), subject=subject, attested=st.KeyStatement(key=KEY.public_key),
            possession=proof_of(KEY, subject),
        ),
    ),
    "RetireKey": lambda running, subject: (
        running.registry.RetireKey,
        rs.RetireKeyRequest(
            request_id=request_id(), subject=subject, attested=st.KeyStatement(key=bytes(32), retired=True)
        ),
    ),
    "EraseSubject": lambda running, subject: (
        running.registry.EraseSubject, order(running, subject, tag=bytes(32))
    ),
    "GetHolds": lambda running, subject: (running.registry.GetHolds, rs.GetHoldsRequest(subject=subject)),
    "PutHold": lambda running, subject: (
        running.registry.PutHold,
        rs.PutHoldRequest(
            request_id=request_id(), subject=subject,
            attested=st.DutyStatement(hold=st.HoldStatement(legal_basis="COURT", until_time_ms=1 << 42)),
        ),
    ),
    "EndHold": lambda running, subject: (
        running.registry.EndHold,
        rs.EndHoldRequest(
            request_id=request_id(), subject=subject, seq=2,
            attested=st.DutyStatement(hold=st.HoldStatement(ended=True)),
        ),
    ),
}  # fmt: skip
CALLERS = {"EraseSubject": AUTHORITY, "GetHolds": AUTHORITY, "PutHold": "operator", "EndHold": "operator"}
"""The callers of calls that the app may not make."""


def _call(running: Running, name: str, subject: pb.Subject) -> Any:
    method, request = CALLS[name](running, subject)
    answer = method(request, metadata=running.as_(CALLERS.get(name, "app")))
    return list(answer) if hasattr(answer, "__iter__") else answer


@pytest.mark.parametrize("name", CALLS)
def test_a_call_refuses_it(running: Running, name: str) -> None:
    running.wait_published()  # no seal comes later
    size = services(running).ledger.state.size
    for subject in REFUSED:
        assert refusal(lambda subject=subject: _call(running, name, subject)) == "INVALID_IDENTIFIER"
    assert services(running).ledger.state.size == size


def test_an_item_of_a_batch_refuses_it(running: Running) -> None:
    asked = question(pb.Subject())
    asked.ClearField("subject")
    app = {"metadata": running.as_("app")}
    for request in (
        batch_request(questions=map(question, REFUSED)), batch_request(shared=asked, subjects=REFUSED),
    ):  # fmt: skip
        results = running.policy.BatchCheck(request, **app).results
        assert [reason_in(one.error) for one in results] == ["INVALID_IDENTIFIER"] * len(REFUSED)
    accesses = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(one)) for one in REFUSED]
    answered = running.access.BatchAuthorizeAccesses(ac.BatchAuthorizeAccessesRequest(requests=accesses), **app)
    assert [reason_in(one.error) for one in answered.results] == ["INVALID_IDENTIFIER"] * len(REFUSED)
    erasures = rs.BatchEraseSubjectsRequest(requests=[order(running, one, tag=bytes(32)) for one in REFUSED])
    ordered = running.registry.BatchEraseSubjects(erasures, metadata=running.as_(AUTHORITY))
    assert [reason_in(one.error) for one in ordered.results] == ["INVALID_IDENTIFIER"] * len(REFUSED)
    sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    for one in REFUSED:
        report = ac.RecordAccessRequest(request_id=request_id(), subject=one, access_seq=1, attested=sent)
        together = ac.BatchRecordAccessesRequest(requests=[report])
        assert refusal(lambda asked=together: running.access.BatchRecordAccesses(asked, **app)) == "INVALID_IDENTIFIER"


def test_each_request_with_a_person_is_among_the_calls(running: Running) -> None:
    named = {name.partition(",")[0] for name in CALLS} | {
        "BatchCheck", "BatchAuthorizeAccesses", "BatchRecordAccesses", "BatchEraseSubjects"
    }
    has_person = set()
    for module in (ac, ad, cs, ls, ps, rs):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if types_in(method.input_type, set()) & {"Subject", "SignedQuestion"}:
                    has_person.add(method.name)
    assert has_person == named


def types_in(message: Any, found: set[str]) -> set[str]:
    """Return the names of all message types in *message*, at any depth, with *found*."""
    for field in message.fields:
        if field.message_type is not None and field.message_type.name not in found:
            found.add(field.message_type.name)
            types_in(field.message_type, found)
    return found


SECRET = "SYN-730142"


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        ("MHID", SECRET), ("mhid ", SECRET), ("\uff4dhid", SECRET), ("", SECRET), ("m" * 65, SECRET), ("/mhid", SECRET),
        ("RRN", SECRET), ("rrn ", SECRET), ("\uff52\uff52\uff4e", SECRET), ("rrn/1", SECRET), ("nnkor", SECRET),
        ("mhid", ""), ("mhid", SECRET + " "), ("mhid", " " + SECRET), ("mhid", SECRET + "\n"), ("mhid", "S" * 257),
        ("mhid", SECRET.replace("S", "\uff33")), ("mhid", SECRET.replace("-", "\u2010")),
        ("mhid", SECRET + "\u115f"), ("mhid", SECRET + "\ufe0f"), ("mhid", SECRET + "\u034f"),
        ("mhid", SECRET.replace("S", "\u0405")),
    ],
)  # fmt: skip
def test_an_identifier_has_one_spelling(running: Running, scheme: str, value: str) -> None:
    request = rs.EnrolSubjectRequest(request_id=request_id(), subject=pb.Subject(scheme=scheme, value=value))
    enrol = running.registry.EnrolSubject
    assert refusal(lambda: enrol(request, metadata=running.as_("app"))) == "INVALID_IDENTIFIER"
