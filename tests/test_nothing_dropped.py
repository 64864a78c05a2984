"""What a request states is used or refused, and never dropped."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cases.daemons import Running, consent, make_running, question, reason_of, request_id, serve
from cases.erasures import add_authority, order
from cases.services import FOREIGN_FIELD, accesses, allowed_caller, batch, new_identifier, refusal
from consentd.ledger import reads
from consentd.v1 import (
    access_service_pb2,
    admin_service_pb2,
    consent_service_pb2,
    ledger_service_pb2,
    policy_service_pb2,
    registry_service_pb2,
)
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

FILES = (
    access_service_pb2, admin_service_pb2, consent_service_pb2, ledger_service_pb2, policy_service_pb2,
    registry_service_pb2,
)  # fmt: skip
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]  # fmt: skip
NAMES = [method.name for method in METHODS]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = make_running(tmp_path_factory.mktemp("dropped"))
    add_authority(made)
    yield from serve(made)


@pytest.fixture
def subject(running: Running) -> pb.Subject:
    made = running.enrol(new_identifier())
    running.grant(made)
    return made


def answer(running: Running, method: MethodDescriptor, request: Message, who: str) -> str:
    """Return the reason with which a call is refused; empty: it is not."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    make = running.channel.unary_stream if method.server_streaming else running.channel.unary_unary
    response = GetMessageClass(method.output_type)
    call = make(path, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString)
    try:
        found = call(request, metadata=running.as_(who))
        if method.server_streaming:
            list(found)
    except grpc.RpcError as error:
        return reason_of(error)
    return ""


def caller_of(method: MethodDescriptor) -> str:
    """Return a caller that may call the RPC for some data."""
    return allowed_caller(method.name)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_request_with_an_unknown_field_is_refused(running: Running, method: MethodDescriptor) -> None:
    request = GetMessageClass(method.input_type).FromString(FOREIGN_FIELD)
    assert answer(running, method, request, caller_of(method)) == "UNKNOWN_FIELD"


@pytest.mark.parametrize(
    "method", [one for one in METHODS if "wait_for" in one.input_type.fields_by_name], ids=lambda one: one.name
)
def test_a_wait_that_is_not_known_is_refused(running: Running, method: MethodDescriptor) -> None:
    for value in (3, -1, 1 << 30):
        request: Any = GetMessageClass(method.input_type)(wait_for=value)
        assert answer(running, method, request, caller_of(method)) == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "method", [one for one in METHODS if "subject" in one.input_type.fields_by_name], ids=lambda one: one.name
)
def test_a_subject_with_an_unknown_field_is_refused(
    running: Running, subject: pb.Subject, method: MethodDescriptor
) -> None:
    strange = pb.Subject.FromString(subject.SerializeToString() + FOREIGN_FIELD)
    request: Any = GetMessageClass(method.input_type)(subject=strange)
    if method.name == "EraseSubject":
        request.signed.CopyFrom(order(running, subject).signed)
    elif "statement" in method.input_type.oneofs_by_name:
        request.attested.SetInParent()
    if method.name == "RecordAccess":
        request.attested.status = st.TRANSFER_STATUS_SENT
    if method.name == "RetireKey":
        request.attested.retired = True
    if method.name in ("PutHold", "EndHold"):
        request.attested.hold.ended = method.name == "EndHold"
        if method.name == "EndHold":
            request.seq = 1
    if method.name == "EndAuthority":
        request.authority_seq = 1
    if method.name == "GetConsent":
        request.consent_id = "ab" * 16
    if method.name == "GetReceipt":  # it reads the subject of an entry that exists
        request.leaf = reads.read_leaf(running.wait_published().ledger.store, 0)
    acts = method.name in ("GetReceipt", "GetHistory", "AddKey", "RetireKey")
    who = "app" if acts else caller_of(method)
    assert answer(running, method, request, who) == "UNKNOWN_FIELD"


def test_an_item_of_a_batch_has_no_wait_of_its_own(running: Running, subject: pb.Subject) -> None:
    asked = question(subject)
    items = [
        ac.AuthorizeAccessRequest(request_id=request_id(), question=asked, wait_for=wait)  # type: ignore[arg-type]
        for wait in (0, pb.WAIT_FOR_DURABLE, pb.WAIT_FOR_PUBLISHED, 9)
    ]
    request = ac.BatchAuthorizeAccessesRequest(requests=items)
    results = running.access.BatchAuthorizeAccesses(request, metadata=running.as_("app")).results
    assert [one.WhichOneof("result") for one in results] == ["response", "error", "error", "error"]
    (permitted,) = accesses(running, subject)
    outcome = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    report = ac.RecordAccessRequest(
        request_id=request_id(), subject=subject, access_seq=permitted.seq, attested=outcome,
        wait_for=pb.WAIT_FOR_DURABLE,
    )  # fmt: skip
    together = ac.BatchRecordAccessesRequest(requests=[report])
    as_app = {"metadata": running.as_("app")}
    assert refusal(lambda: running.access.BatchRecordAccesses(together, **as_app)) == "INVALID_REQUEST"
    assert not accesses(running, subject)[0].outcomes


def test_a_shared_question_has_no_subject_of_its_own(running: Running, subject: pb.Subject) -> None:
    asked = question(subject)
    assert refusal(lambda: batch(running, shared=asked, subjects=[subject])) == "INVALID_REQUEST"
    strange = ps.SharedQuestion(subjects=[subject])
    assert refusal(lambda: ask(running, ps.BatchCheckRequest(shared=strange))) == "INVALID_REQUEST"
    assert refusal(lambda: ask(running, ps.BatchCheckRequest())) == "INVALID_REQUEST"


def ask(running: Running, request: ps.BatchCheckRequest) -> ps.BatchCheckResponse:
    return running.policy.BatchCheck(request, metadata=running.as_("app"))


def test_the_version_of_no_notice_is_refused(running: Running, subject: pb.Subject) -> None:
    made = consent()
    made.notice_version = 1
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=made)
    )
    as_app = {"metadata": running.as_("app")}
    assert refusal(lambda: running.consents.GrantConsent(request, **as_app)) == "UNKNOWN_NOTICE"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("EndDelegation", {"giver": "clinic-b", "taker": "app", "capacity": 1, "purposes": ["TREAT"]}),
        ("EndDelegation", {"giver": "clinic-b", "taker": "app", "capacity": 1, "start_time_ms": 1}),
        ("EndDelegation", {"giver": "clinic-b", "taker": "app", "capacity": 1, "end_time_ms": 1 << 40}),
        ("EndDelegation", {"giver": "clinic-b", "taker": "app", "capacity": 1, "break_glass": True}),
        ("EndMandate", {"auditor": "pipc", "scope": "x"}), ("EndMandate", {"auditor": "pipc", "reason": "x"}),
        ("EndMandate", {"auditor": "pipc", "end_time_ms": 1 << 40}),
        ("EndMandate", {"auditor": "pipc", "giver": "clinic-b"}),
    ],
)  # fmt: skip
def test_an_end_states_nothing_of_what_it_ends(running: Running, name: str, fields: dict[str, Any]) -> None:
    request = getattr(rs, f"{name}Request")(request_id=request_id())
    request.attested.MergeFrom(type(request.attested)(ended=True, **fields))
    as_operator = {"metadata": running.as_("operator")}
    assert refusal(lambda: getattr(running.registry, name)(request, **as_operator)) == "INVALID_REQUEST"
