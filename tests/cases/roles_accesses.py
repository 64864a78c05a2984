"""How a test asks questions, and records and reads accesses: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING, Any

import grpc

from cases.daemons import request_id, sign_statement
from cases.services import Person, batch_request, now_ms
from consentd.core import codec
from consentd.service.roles import Access, Whose
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st

if TYPE_CHECKING:
    from cases.roles import Call


def _seen(decision: pb.Decision) -> Access:
    """Return how a question was answered about which no consent says anything: only some see that it is none."""
    return Access.ALLOWED if decision.outcome == pb.OUTCOME_NO_CONSENT else Access.REDUCED


def _open_question(call: "Call") -> pb.Question:
    return call.world.question(call.caller, call.whose, call.world.person(call.whose), purpose="HRESCH")


def _state(call: "Call") -> pb.Consistency | None:
    """Return the state to ask from: an earlier one, if the call is about that."""
    if call.whose not in (Whose.OWN_THEN, Whose.SUBJECT_THEN):
        return None
    services = call.running.daemon.service_state.services
    assert services is not None
    with services.table.read() as snapshot:  # the ledger may be a seal ahead of it
        return pb.Consistency(at_exact=pb.ExactState(tree_size=snapshot.size, time_ms=snapshot.time_ms))


def check(call: "Call") -> Access:
    question = _open_question(call)
    answer = call.make(call.running.policy.Check, ps.CheckRequest(question=question, consistency=_state(call)))
    return answer if isinstance(answer, Access) else _seen(answer.decision)


def batch_check(call: "Call") -> Access:
    question = _open_question(call)
    request = batch_request(questions=[question], consistency=_state(call))
    answer = call.make(call.running.policy.BatchCheck, request)
    return answer if isinstance(answer, Access) else _item(answer.results[0], "decision")


def _item(result: Any, field: str) -> Access:
    if result.HasField("error"):
        return Access.DENIED if result.error.code == grpc.StatusCode.PERMISSION_DENIED.value[0] else Access.NOT_FOUND
    decision = result.decision if field == "decision" else result.response.decision
    return _seen(decision)


def _authorize_request(call: "Call") -> ac.AuthorizeAccessRequest:
    request = ac.AuthorizeAccessRequest(request_id=request_id())
    if call.whose is not Whose.SUBJECT or call.caller == "relay-acts":
        request.question.CopyFrom(_open_question(call))
        return request
    person = Person(call.running)
    asked = call.world.question(call.caller, call.whose, person.subject, purpose="HRESCH")
    asked.actor.application = call.caller  # the person says who carries the question
    signed = sign_statement(
        person.key, asked, kind=codec.QUESTION_KIND, tag=person.tag, request=request.request_id,
        time_ms=now_ms(call.running),
    )  # fmt: skip
    request.signed_question.CopyFrom(
        ac.SignedQuestion(
            key=signed.key, signature=signed.signature, author_time_ms=signed.author_time_ms,
            question=signed.payload, tag=person.tag,
        )
    )  # fmt: skip
    return request


def authorize(call: "Call") -> Access:
    answer = call.make(call.running.access.AuthorizeAccess, _authorize_request(call))
    return answer if isinstance(answer, Access) else _seen(answer.decision)


def batch_authorize(call: "Call") -> Access:
    request = ac.BatchAuthorizeAccessesRequest(requests=[_authorize_request(call)])
    answer = call.make(call.running.access.BatchAuthorizeAccesses, request)
    return answer if isinstance(answer, Access) else _item(answer.results[0], "response")


def outcome(call: "Call") -> ac.RecordAccessRequest:
    subject, seq, _ = call.world.access(call.caller, call.whose)
    sent = st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT)
    return ac.RecordAccessRequest(request_id=request_id(), subject=subject, access_seq=seq, attested=sent)


def get_access(call: "Call") -> Access:
    subject, seq, _ = call.world.access(call.caller, call.whose)
    return call.plain(call.running.access.GetAccess, ac.GetAccessRequest(subject=subject, access_seq=seq))


def list_accesses(call: "Call") -> Access:
    subject, _, _ = call.world.access(call.caller, call.whose)
    return call.plain(call.running.access.ListAccesses, ac.ListAccessesRequest(subject=subject))
