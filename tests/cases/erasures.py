"""An authority that orders erasures, and persons with something to find."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import grpc
import pytest
import rocksdict

from cases.daemons import Running, reason_in, reason_of, request_id, sign_statement
from cases.services import add_key, now_ms, register, services
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import StorageError
from consentd.sequencer import erasures
from consentd.service.roles import Access, Whose
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

T = TypeVar("T")

AUTHORITY = "pipc-erases"
KEY = KeyPair(b"\x51" * 32)


def add_authority(running: Running, name: str = AUTHORITY, key: KeyPair = KEY) -> None:
    """Register a public authority that has the right ERASE and a key."""
    register(running, name, [st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY], rights=[st.PARTICIPANT_RIGHT_ERASE])
    running.add_caller(name)
    add_key(running, name, key)


def holds(running: Running, subject: pb.Subject, who: str = AUTHORITY) -> rs.GetHoldsResponse:
    return running.registry.GetHolds(rs.GetHoldsRequest(subject=subject), metadata=running.as_(who))


def order(
    running: Running, subject: pb.Subject, *, tag: bytes = b"", key: KeyPair = KEY, **fields: Any
) -> rs.EraseSubjectRequest:
    """Return a signed order of erasure. *fields*: of the statement."""
    request = rs.EraseSubjectRequest(request_id=request_id(), subject=subject)
    message = st.ErasureStatement(**{"legal_basis": "STATUTE", "reason": "order 7", **fields})
    request.signed.CopyFrom(
        sign_statement(
            key, message, kind=EntryKind.ERASURE, tag=tag or holds(running, subject).tag, request=request.request_id,
            time_ms=now_ms(running),
        )
    )
    return request


def erase_once(running: Running, request: rs.EraseSubjectRequest, who: str = AUTHORITY) -> rs.EraseSubjectResponse:
    return running.registry.EraseSubject(request, metadata=running.as_(who))


def erase(running: Running, request: rs.EraseSubjectRequest, who: str = AUTHORITY) -> rs.EraseSubjectResponse:
    return repeat_pending(lambda: erase_once(running, request, who))


def repeat_pending(call: Callable[[], T]) -> T:
    """Order an erasure. As a client does, repeat the call as long as a reader, such as the scrub, keeps old files."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if reason_of(error) != "ERASURE_PENDING":
                raise


def put_hold(running: Running, subject: pb.Subject, until_ms: int, who: str = "operator", **more: Any) -> int:
    """Put a hold that an operator attests; return its seq."""
    hold = st.HoldStatement(**{"legal_basis": "COURT", "reason": "case 3", "until_time_ms": until_ms, **more})
    request = rs.PutHoldRequest(request_id=request_id(), subject=subject, attested=st.DutyStatement(hold=hold))
    return running.registry.PutHold(request, metadata=running.as_(who)).seq


def end_hold(running: Running, subject: pb.Subject, seq: int, who: str = "operator") -> pb.Receipt:
    end = st.DutyStatement(hold=st.HoldStatement(ended=True))
    request = rs.EndHoldRequest(request_id=request_id(), subject=subject, seq=seq, attested=end)
    return running.registry.EndHold(request, metadata=running.as_(who)).receipt


def sign_hold(
    running: Running, subject: pb.Subject, key: KeyPair, who: str, *, until_ms: int = 0, ended: int = 0
) -> rs.PutHoldRequest | rs.EndHoldRequest:
    """Return the request by which *who* puts a hold, or ends the one of seq *ended*, signed with *key*."""
    request: Any = rs.PutHoldRequest(request_id=request_id(), subject=subject)
    hold = st.HoldStatement(legal_basis="COURT", until_time_ms=until_ms)
    if ended:
        request = rs.EndHoldRequest(request_id=request_id(), subject=subject, seq=ended)
        hold = st.HoldStatement(ended=True)
    request.signed.CopyFrom(
        sign_statement(
            key, st.DutyStatement(hold=hold), kind=EntryKind.DUTY, tag=holds(running, subject).tag,
            request=request.request_id, time_ms=now_ms(running), ref=ended,
        )
    )
    return request


def provoke_held(running: Running, subject: pb.Subject) -> Any:
    """Order the erasure of a person whom a hold protects."""
    add_authority(running)
    put_hold(running, subject, now_ms(running) + 60_000)
    return erase(running, order(running, subject))


def provoke_pending(running: Running, subject: pb.Subject) -> Any:
    """Order an erasure while the policy table cannot be written anew."""
    add_authority(running)

    def renew(*_: Any, **__: Any) -> None:
        raise StorageError("disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasures, "renew", renew)
        return erase_once(running, order(running, subject))


# -- calls for the table of roles: ``call`` is a ``cases.roles.Call`` --------------------------------------------------


def _signed_for(
    call: Any, request: Any, kind: EntryKind, message: Any, subject: pb.Subject, ref: int = 0, who: str = ""
) -> Any:
    """Put a statement about a person into a request, signed by *who*; empty: by the caller."""
    vault = services(call.running).vault
    hashed = vault.identifier_hash(subject.scheme, subject.value)
    key, tag = call.world.keys.get(who or call.caller, KeyPair(b"\x63" * 32)), vault.find(hashed) or bytes(32)
    request.signed.CopyFrom(
        sign_statement(
            key, message, kind=kind, tag=tag, request=request.request_id, time_ms=now_ms(call.running), ref=ref
        )
    )
    return request


def attempt_erasure(call: Any) -> Access:
    """Order an erasure as the caller of ``call``, for the table of roles."""
    subject = call.world.person(call.whose)
    request = rs.EraseSubjectRequest(request_id=request_id(), subject=subject)
    order = st.ErasureStatement(legal_basis="STATUTE")
    _signed_for(call, request, EntryKind.ERASURE, order, subject)
    return repeat_pending(lambda: call.plain(call.running.registry.EraseSubject, request))


def attempt_erasures(call: Any) -> Access:
    """Order an erasure in a batch."""
    subject = call.world.person(call.whose)
    request = rs.EraseSubjectRequest(request_id=request_id(), subject=subject)
    _signed_for(call, request, EntryKind.ERASURE, st.ErasureStatement(legal_basis="STATUTE"), subject)
    while True:
        batch = rs.BatchEraseSubjectsRequest(requests=[request])
        answer = call.make(call.running.registry.BatchEraseSubjects, batch)
        if isinstance(answer, Access):
            return answer
        (result,) = answer.results
        reason = reason_in(result.error)
        if reason != "ERASURE_PENDING":
            assert reason in ("", "SUBJECT_NOT_FOUND")
            return Access.NOT_FOUND if reason else Access.ALLOWED


def attempt_list_duties(call: Any) -> Access:
    """List the duties of all persons: one has a hold."""
    put_hold(call.running, call.world.person(call.whose), now_ms(call.running) + 60_000)
    answer = call.make(call.running.registry.ListDuties, rs.ListDutiesRequest())
    if isinstance(answer, Access):
        return answer
    assert answer.duties
    return Access.ALLOWED if all(one.tag for one in answer.duties) else Access.REDUCED


def attempt_hold(call: Any, *, ended: bool) -> Access:
    """Put or end a hold: for OWN signed by the caller."""
    subject, seq = call.world.person(call.whose), 0
    hold = st.HoldStatement(legal_basis="COURT", until_time_ms=now_ms(call.running) + 60_000)
    request: Any = rs.PutHoldRequest(request_id=request_id(), subject=subject)
    if ended:
        seq = 1
        if call.whose is not Whose.UNKNOWN:
            put = rs.PutHoldRequest(request_id=request_id(), subject=subject)
            who = "court" if call.whose is Whose.OWN else "operator"
            if who == "court":
                _signed_for(call, put, EntryKind.DUTY, st.DutyStatement(hold=hold), subject, who=who)
            else:
                put.attested.hold.CopyFrom(hold)
            seq = call.running.registry.PutHold(put, metadata=call.running.as_(who)).seq
        request = rs.EndHoldRequest(request_id=request_id(), subject=subject, seq=seq)
        hold = st.HoldStatement(ended=True)
    message = st.DutyStatement(hold=hold)
    if call.whose is Whose.OWN or (call.whose is Whose.UNKNOWN and call.caller == "court"):
        _signed_for(call, request, EntryKind.DUTY, message, subject, seq)
    else:
        request.attested.CopyFrom(message)
    registry = call.running.registry
    return call.plain(registry.EndHold if ended else registry.PutHold, request)


def attempt_get_holds(call: Any) -> Access:
    """List the holds of a person."""
    request = rs.GetHoldsRequest(subject=call.world.person(call.whose))
    answer = call.make(call.running.registry.GetHolds, request)
    if isinstance(answer, Access):
        return answer
    return Access.ALLOWED if answer.tag else Access.REDUCED


ATTEMPTS: dict[str, Callable[[Any], Access]] = {
    "EraseSubject": attempt_erasure, "GetHolds": attempt_get_holds, "BatchEraseSubjects": attempt_erasures,
    "ListDuties": attempt_list_duties,
    "PutHold": partial(attempt_hold, ended=False), "EndHold": partial(attempt_hold, ended=True),
}  # fmt: skip


def uncompressed(of: Any) -> Callable[..., Any]:
    """Return the function of the module ``rocks`` that gives the options of a store, without compression."""
    real, none = of._open_arguments, rocksdict.DBCompressionType.none()

    def open_arguments(*arguments: Any, **more: Any) -> Any:
        made = real(*arguments, **more)
        made["options"].set_compression_type(none)
        made["options"].set_bottommost_compression_type(none)
        return made

    return open_arguments
