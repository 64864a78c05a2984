"""Nothing that a caller can send is a bug of ours: any bytes, any fields, to any call, come back as declared codes.

``CONSENTD_GARBAGE`` multiplies the number of examples.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cases.daemons import Running, consent, make_running, question, reason_of, request_id
from cases.erasures import add_authority
from cases.notices import make_notice
from cases.reasons import REASONS
from cases.services import allowed_caller
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

FACTOR = float(os.environ.get("CONSENTD_GARBAGE", "1"))
METHODS: dict[str, MethodDescriptor] = {
    method.full_name: method
    for module in (rs, cs, ps, ac, ls, ad)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OURS = {"INTERNAL", "CORRUPTION", "STORAGE", "CLOCK", "NOT_SERVING", "OPERATION_CANCELLED"}
"""The reasons of faults of the daemon, which no bytes of a caller cause."""
DECLARED = {documented.code for reason, documented in REASONS.items() if reason not in OURS}
SUBJECT = pb.Subject(scheme="mhid", value="SYN-000001")


def examples(count: int) -> Callable[..., Any]:
    return settings(
        max_examples=max(1, int(count * FACTOR)),
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # Checkpoints follow each other closely, so that calls that wait for one come back.
    running = make_running(tmp_path_factory.mktemp("garbage"), checkpoint_interval_ms=10)
    add_authority(running)
    running.enrol(SUBJECT.value)
    running.grant(SUBJECT)
    yield running
    assert running.check(question(SUBJECT)).outcome
    running.check_ledger()
    running.stop()


def send(running: Running, method: MethodDescriptor, data: bytes, who: str = "") -> StatusCode:
    """Send bytes to a call over the real channel; return the code, which must be OK or declared, with a reason.

    *who*: the caller; empty: one that may call the RPC. So the handler is reached.
    """
    who = who or allowed_caller(method.name)
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = running.as_(who)
    try:
        if method.server_streaming:
            for _ in running.channel.unary_stream(path)(data, metadata=metadata, timeout=20):
                pass
        else:
            running.channel.unary_unary(path)(data, metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        code, answer = error.code(), (error.code(), error.details(), reason_of(error), data[:1_000])
    else:
        return StatusCode.OK
    assert code in DECLARED, answer
    assert answer[2] not in OURS, answer
    # gRPC itself refuses what is too long, without a reason of ours.
    assert answer[2] or len(data) > running.config.grpc.max_message_bytes, answer
    return code


# -- garbage with a form --------------------------------------------------------------------------------------

NUMBERS: dict[int, list[int]] = {
    FieldDescriptor.TYPE_INT32: [0, 1, -1, 1001, (1 << 31) - 1, -(1 << 31)],
    FieldDescriptor.TYPE_INT64: [0, 1, -1, 1_790_000_000_000, (1 << 63) - 1, -(1 << 63)],
    FieldDescriptor.TYPE_UINT32: [0, 1, 2, 65_536, (1 << 32) - 1],
    FieldDescriptor.TYPE_UINT64: [0, 1, 2, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1],
    FieldDescriptor.TYPE_ENUM: [0, 1, 2, 3, 22, 255, -1, (1 << 31) - 1, -(1 << 31)],
    FieldDescriptor.TYPE_BOOL: [0, 1],
}
TEXTS = some.sampled_from(
    [
        "", " ", "*", "\0", "a\0b", "\n", "TREAT", "BTG", "HMARKT", "disclose", "CLIN", "CLIN.DX", "GEN.RAW", "N",
        "PSY", "clinic-b", "hospital-a", "er", "group/x", "operator", "mhid", "rrn", "SYN-000001", "kr-phr", "realm",
        "ledger", "participant/er", "once", "P1M", "1" * 5_000, "x" * 70_000, "é", "e\u0301", "건강", "🩺", "\u202e",
        "../../etc", "%s", "0" * 32, "f" * 64,
    ]
)  # fmt: skip
BYTES = some.one_of(
    some.sampled_from([b"", b"\0", bytes(16), bytes(32), bytes(64), b"\xff" * 32, b"\x01" + bytes(31), bytes(20_000)]),
    some.binary(max_size=40),
    some.binary(min_size=16, max_size=16),
)
DEEP = 12
"""How deep messages nest in messages here; provisions are limited to 8."""


def values(field: FieldDescriptor, depth: int) -> some.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(GetMessageClass(field.message_type), depth + 1)
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return BYTES
    return some.sampled_from(NUMBERS[field.type])


@some.composite
def messages(draw: some.DrawFn, kind: type[Message], depth: int = 0, base: Message | None = None) -> Message:
    """Draw a message of *kind* whose fields hold anything that protobuf can carry, changed from *base*."""
    message = kind()
    if base is not None:
        message.CopyFrom(base)
    fields = list(kind.DESCRIPTOR.fields)
    if not fields or depth > DEEP:
        return message
    for field in draw(some.lists(some.sampled_from(fields), max_size=3 if depth else 5)):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            texts = some.lists(some.tuples(TEXTS, TEXTS), max_size=40)  # of names; those of a notice have hashes
            found, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
            for key, text in draw(texts):
                if value.message_type is None:
                    found[key] = text
                else:
                    found[key].CopyFrom(draw(messages(GetMessageClass(value.message_type), depth + 1)))
        elif field.is_repeated:
            count = draw(some.sampled_from([0, 1, 1, 2, 3, 300]))
            one = draw(values(field, depth)) if count else None
            getattr(message, field.name).extend([one] * count)
        elif field.message_type is not None:
            old = getattr(message, field.name) if message.HasField(field.name) else None
            new = draw(messages(GetMessageClass(field.message_type), depth + 1, old))
            getattr(message, field.name).CopyFrom(new)
        elif draw(some.integers(0, 9)) == 0:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


def good(method: MethodDescriptor) -> Message:
    """Return a request that is in order, for garbage that gets further than the first check."""
    request = GetMessageClass(method.input_type)()
    filled: dict[str, Any] = {
        "subject": SUBJECT,
        "consent": consent(),
        "question": question(SUBJECT),
        "questions": [question(SUBJECT)],
        "consent_id": "0" * 32,
        "participant_id": "er",
        "caller": "er",
        "operation_id": "0" * 32,
        "credential_id": "0" * 32,
        "notice_id": "n",
        "public_name": "ledger",
        "participant": st.ParticipantStatement(
            participant_id="garbage", name={"ko": "쓰레기"}, roles=[st.PARTICIPANT_ROLE_HOLDER], active=True
        ),
        "notice": make_notice("garbage"),
        "outcome": st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT),
        "access_seq": 3,
        "key": bytes(32),
    }
    for field in method.input_type.fields:
        if field.name == "requests":
            inner = GetMessageClass(field.message_type)
            whole = {"subject": SUBJECT, "question": question(SUBJECT), "outcome": filled["outcome"], "access_seq": 3}
            names = {one.name for one in inner.DESCRIPTOR.fields}
            request.requests.append(inner(**{name: value for name, value in whole.items() if name in names}))
        elif field.name in filled and not (field.containing_oneof and request.WhichOneof(field.containing_oneof.name)):
            if field.is_repeated:
                getattr(request, field.name).extend(filled[field.name])
            elif field.message_type is not None:
                getattr(request, field.name).CopyFrom(filled[field.name])
            else:
                setattr(request, field.name, filled[field.name])
    return request


def fresh(request: Message) -> Message:
    """Give a request an id that was not used, where it has one."""
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        request.request_id = request_id()  # type: ignore[attr-defined]
    return request


@pytest.mark.parametrize("name", METHODS)
def test_any_bytes(running: Running, name: str) -> None:
    @examples(12)
    @given(some.binary(max_size=300))
    def check(data: bytes) -> None:
        send(running, METHODS[name], data)

    check()


@pytest.mark.parametrize("name", METHODS)
def test_any_fields(running: Running, name: str) -> None:
    method = METHODS[name]
    kind = GetMessageClass(method.input_type)

    @examples(40)
    @given(some.one_of(messages(kind, base=good(method)), messages(kind)), some.integers(0, 9))
    def check(request: Message, reuse: int) -> None:
        send(running, method, (request if reuse == 0 else fresh(request)).SerializeToString())

    check()


@pytest.mark.parametrize("name", METHODS)
def test_a_good_request_with_broken_bytes(running: Running, name: str) -> None:
    method = METHODS[name]

    @examples(15)
    @given(some.data())
    def check(data: some.DataObject) -> None:
        whole = bytearray(fresh(good(method)).SerializeToString())
        for _ in range(data.draw(some.integers(1, 4))):
            location = data.draw(some.integers(0, max(len(whole) - 1, 0)))
            end = location + data.draw(some.integers(0, 3))
            whole[location:end] = data.draw(some.binary(max_size=3))
        send(running, method, bytes(whole))

    check()


@pytest.mark.parametrize("who", ["app", "clinic-b", "pipc", "er"])
def test_any_fields_of_any_caller(running: Running, who: str) -> None:
    @examples(60)
    @given(some.data())
    def check(data: some.DataObject) -> None:
        method = METHODS[data.draw(some.sampled_from(sorted(METHODS)))]
        request = data.draw(messages(GetMessageClass(method.input_type), base=good(method)))
        send(running, method, fresh(request).SerializeToString(), who)

    check()


# -- garbage by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [7, 8, 40, 90, 98, 150])
def test_provisions_nested_too_deep(running: Running, depth: int) -> None:
    # By hand, for protobuf refuses to make what it would refuse to read.
    provision = deny = b"\x08\x01"
    for _ in range(depth):
        provision = deny + b"\x5a" + _sized(provision)
    whole = pb.Consent(kind=pb.CONSENT_KIND_OBJECTION).SerializeToString() + b"\x12" + _sized(provision)
    grant = cs.GrantConsentRequest(request_id=request_id(), subject=SUBJECT).SerializeToString()
    grant += b"\x1a" + _sized(b"\x0a" + _sized(whole))  # attested, and its consent
    method = METHODS["consentd.v1.ConsentService.GrantConsent"]
    assert send(running, method, grant) is (StatusCode.OK if depth == 7 else StatusCode.INVALID_ARGUMENT)


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 1_000,
        b"\x0a\xff\xff\xff\xff\x0f",  # a length of 4 GiB
        b"\x0b" * 500,  # groups without an end
        b"\x00",  # field number 0
        b"\x08" + b"\x80" * 20,  # a varint without an end
        b"\x0d\x00",  # four bytes promised
    ],
)
def test_what_does_not_decode_is_the_callers_fault(running: Running, data: bytes) -> None:
    for method in METHODS.values():
        assert send(running, method, data) is StatusCode.INVALID_ARGUMENT
    metric = running.daemon.metrics.value("consentd_rpcs_total", method="Check", code="INVALID_ARGUMENT")
    assert metric


@pytest.mark.parametrize("name", METHODS)
def test_a_request_over_the_limit_is_refused_with_the_limit(running: Running, name: str) -> None:
    limit = running.config.grpc.max_message_bytes
    method = METHODS[name]
    path = f"/{method.containing_service.full_name}/{name.rpartition('.')[2]}"
    call = running.channel.unary_stream(path) if method.server_streaming else running.channel.unary_unary(path)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(bytes(limit + 1), metadata=running.as_("app")))
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert str(limit) in caught.value.details()


def test_text_that_is_not_utf8_is_the_callers_fault(running: Running) -> None:
    for text in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        holder = b"\x0a" + _sized(b"\x1a" + _sized(text))
        check = METHODS["consentd.v1.PolicyService.Check"]
        assert send(running, check, holder) is StatusCode.INVALID_ARGUMENT


def test_strange_credentials(running: Running) -> None:
    asked = ps.CheckRequest(question=question(SUBJECT))
    token = running.tokens["app"]
    strange: list[tuple[tuple[str, str], ...]] = [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", f"bearer {token}"),),
        (("authorization", f"Bearer  {token}"),),
        (("authorization", f"Bearer {token[:-1]}"),),
        (("authorization", f"Basic {token}"),),
        (("authorization", "Bearer " + "x" * 8_000),),
        (("authorization", "Bearer x"), ("authorization", f"Bearer {token}")),
        (("x-consentd-caller", "operator"),),
    ]
    for metadata in strange:
        with pytest.raises(grpc.RpcError) as caught:
            running.policy.Check(asked, metadata=metadata)
        assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert running.policy.Check(asked, metadata=running.as_("app")).decision.outcome


def test_long_lists_are_answered_in_time_or_refused(running: Running) -> None:
    codes = [f"X{number}" for number in range(2_000)]
    resources = [f"X/{number}" for number in range(2_000)]
    subject = running.enrol("SYN-000002")
    running.grant(subject)
    calls: list[Callable[[], Any]] = [
        lambda: running.check(question(subject, categories=codes)),
        lambda: running.check(question(subject, resources=pb.CodeSet(values=resources))),
        lambda: running.authorize(question(subject, categories=codes)),
        lambda: running.grant(subject, resources=resources),
        lambda: running.access.RecordAccess(
            ac.RecordAccessRequest(
                request_id=request_id(),
                subject=subject,
                access_seq=running.authorize(question(subject)).access_seq,
                attested=st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT, categories=codes * 4),
            ),
            metadata=running.as_("app"),
        ),
        lambda: running.registry.EnrolSubject(
            rs.EnrolSubjectRequest(
                request_id=request_id(), subject=pb.Subject(scheme="ci", value="x"), method="m" * 20_000
            ),
            metadata=running.as_("app"),
        ),
        lambda: list(running.ledger.GetHistory(ls.GetHistoryRequest(public_name="x" * 900_000))),
    ]
    outcomes = []
    for call in calls:
        try:
            call()
            outcomes.append("OK")
        except grpc.RpcError as error:
            outcomes.append(reason_of(error))
    assert outcomes == ["TOO_LARGE", "TOO_LARGE", "TOO_LARGE", "OK", "TOO_LARGE", "TOO_LARGE", "TOO_LARGE"]
