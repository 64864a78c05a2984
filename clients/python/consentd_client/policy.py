"""Flows of PolicyService and AccessService: ask, decide and record, tell what happened, list."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, MalformedError, ProofError
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from consentd_client.decisions import (
    Authorized,
    Checked,
    failed,
    find_fault,
    find_record_fault,
    indeterminate,
    read_decision,
)
from consentd_client.receipts import Receipt, read_receipt
from consentd_client.signing import Author
from consentd_client.status import item_error
from consentd_client.steps import Flow, Page, Session, ask

_DECIDED = frozenset({EntryKind.ACCESS, EntryKind.REFUSAL})
_TOLD = frozenset({EntryKind.OUTCOME})


def wait_for(published: bool) -> "pb.WaitFor.ValueType":
    """Return what a write waits for."""
    return pb.WAIT_FOR_PUBLISHED if published else pb.WAIT_FOR_DURABLE


# -- checks ---------------------------------------------------------------------------------------------------


def check_or_raise(session: Session, question: pb.Question) -> Flow[Checked]:
    """Ask whether a transfer may happen; write nothing.

    Raises:
        ConsentdError: the question was refused, or could not be answered.
    """
    response = yield from ask(session, "PolicyService/Check", ps.CheckRequest(question=question), ps.CheckResponse)
    answer = read_decision(question, response.decision)
    if answer.error is not None:
        raise answer.error
    return answer


def check(session: Session, question: pb.Question) -> Flow[Checked]:
    """Ask whether a transfer may happen; write nothing, and fail closed.

    Whatever goes wrong comes out as INDETERMINATE with ``error`` set; no declared error is raised.
    """
    try:
        return (yield from check_or_raise(session, question))
    except ConsentdError as error:
        return failed(error)


def batch_check(session: Session, questions: Sequence[pb.Question]) -> Flow[tuple[Checked, ...]]:
    """Ask up to 1,000 questions in one call, all answered from one state; each fails closed by itself."""
    request = ps.BatchCheckRequest(questions=questions)
    return (yield from _batch(session, request, questions))


def check_subjects(
    session: Session, question: pb.Question, subjects: Sequence[pb.Subject]
) -> Flow[tuple[Checked, ...]]:
    """Ask one question, which names no subject, about up to 1,000 subjects; each fails closed by itself."""
    request = ps.BatchCheckRequest(shared=question, subjects=subjects)
    return (yield from _batch(session, request, [question] * len(subjects)))


def _batch(
    session: Session, request: ps.BatchCheckRequest, questions: Sequence[pb.Question]
) -> Flow[tuple[Checked, ...]]:
    if not questions:
        return ()
    try:
        response = yield from ask(session, "PolicyService/BatchCheck", request, ps.BatchCheckResponse)
        if len(response.results) != len(questions):
            raise ProofError("batch has another number of answers than of questions")
    except ConsentdError as error:
        return tuple(failed(error) for _ in questions)
    return tuple(
        read_decision(question, result.decision)
        if result.HasField("decision")
        else failed(item_error(result.error))
        for question, result in zip(questions, response.results, strict=True)
    )


# -- accesses -------------------------------------------------------------------------------------------------


def authorize_access(
    session: Session,
    question: pb.Question,
    *,
    author: Author | None = None,
    network_origin: str = "",
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Authorized]:
    """Decide and record a transfer, before it happens. Let data go only where the answer is true.

    Args:
        question: what is asked.
        author: the asking participant's key, to sign the question with; None: the token vouches for it.
        network_origin: where the call came from, where a gateway passes it on.
        published: wait until a checkpoint covers the entry.
        request_id: 16 bytes, kept by the caller to repeat with; empty: drawn.

    Raises:
        ConsentdError: the question was refused or could not be answered; nothing may flow.
    """
    request = _authorize_request(session, question, author, network_origin, request_id)
    request.wait_for = wait_for(published)
    response = yield from ask(session, "AccessService/AuthorizeAccess", request, ac.AuthorizeAccessResponse)
    return _authorized(session, question, response)


def batch_authorize(
    session: Session,
    questions: Sequence[pb.Question],
    *,
    network_origin: str = "",
    published: bool = False,
    request_ids: Sequence[bytes] = (),
) -> Flow[tuple[Authorized, ...]]:
    """Decide and record up to 1,000 transfers, each by itself; one that was refused has its ``error`` set.

    Args:
        questions: what is asked.
        network_origin: where the call came from.
        published: wait until a checkpoint covers all entries.
        request_ids: 16 bytes for each question, kept by the caller to repeat with; empty: drawn.

    Raises:
        ConsentdError: the call as a whole failed; nothing may flow.
    """
    if not questions:
        return ()
    ids = list(request_ids) or [b""] * len(questions)
    request = ac.BatchAuthorizeAccessesRequest(
        requests=[
            _authorize_request(session, question, None, network_origin, request_id)
            for question, request_id in zip(questions, ids, strict=True)
        ],
        wait_for=wait_for(published),
    )
    response = yield from ask(
        session, "AccessService/BatchAuthorizeAccesses", request, ac.BatchAuthorizeAccessesResponse
    )
    if len(response.results) != len(questions):
        raise ProofError("batch has another number of answers than of questions")
    answers = []
    for question, result in zip(questions, response.results, strict=True):
        if result.HasField("response"):
            answers.append(_authorized(session, question, result.response))
        else:
            error = item_error(result.error)
            answers.append(Authorized(indeterminate(), error))
    return tuple(answers)


def _authorize_request(
    session: Session, question: pb.Question, author: Author | None, network_origin: str, request_id: bytes
) -> ac.AuthorizeAccessRequest:
    request = ac.AuthorizeAccessRequest(request_id=request_id or session.draw(), network_origin=network_origin)
    if author is None:
        request.question.CopyFrom(question)
    else:
        signed = author.sign_question(question, request_id=request.request_id, now_ms=session.now_ms())
        request.signed_question.CopyFrom(signed)
    return request


def _authorized(session: Session, question: pb.Question, response: ac.AuthorizeAccessResponse) -> Authorized:
    receipt = None
    if response.HasField("receipt"):
        receipt = read_receipt(response.receipt, kinds=_DECIDED, trust=session.trust)
        if receipt.event.seq != response.access_seq:
            raise ProofError("receipt is for another entry of the chain than access_seq says")
    fault = find_fault(question, response.decision) or find_record_fault(response.decision, receipt)
    if fault is not None:
        return Authorized(indeterminate(), fault, receipt, response.access_seq)
    return Authorized(response.decision, None, receipt, response.access_seq)


@dataclass(frozen=True, slots=True)
class AccessOutcome:
    """What a permitted transfer did: whose data, the ACCESS entry's seq, and what happened."""

    subject: pb.Subject = field(repr=False)
    access_seq: int
    outcome: st.OutcomeStatement


def record_access(
    session: Session,
    subject: pb.Subject,
    access_seq: int,
    outcome: st.OutcomeStatement,
    *,
    author: Author | None = None,
    published: bool = False,
    request_id: bytes = b"",
) -> Flow[Receipt]:
    """Record what a permitted transfer did; *author* signs it with the participant's own key.

    Raises:
        ConsentdError: it was refused, or could not be recorded.
    """
    told = AccessOutcome(subject, access_seq, outcome)
    request = _record_request(session, told, author, request_id)
    request.wait_for = wait_for(published)
    response = yield from ask(session, "AccessService/RecordAccess", request, ac.RecordAccessResponse)
    return read_receipt(response.receipt, kinds=_TOLD, trust=session.trust)


def batch_record(
    session: Session,
    outcomes: Sequence[AccessOutcome],
    *,
    published: bool = False,
    request_ids: Sequence[bytes] = (),
) -> Flow[tuple[Receipt, ...]]:
    """Record what up to 1,000 permitted transfers did, all or none.

    Raises:
        ConsentdError: they were refused, or could not be recorded.
    """
    if not outcomes:
        return ()
    ids = list(request_ids) or [b""] * len(outcomes)
    request = ac.BatchRecordAccessesRequest(
        requests=[
            _record_request(session, told, None, request_id)
            for told, request_id in zip(outcomes, ids, strict=True)
        ],
        wait_for=wait_for(published),
    )
    response = yield from ask(session, "AccessService/BatchRecordAccesses", request, ac.BatchRecordAccessesResponse)
    if len(response.receipts) != len(outcomes):
        raise ProofError("batch has another number of receipts than of outcomes")
    return tuple(read_receipt(receipt, kinds=_TOLD, trust=session.trust) for receipt in response.receipts)


def _record_request(
    session: Session, told: AccessOutcome, author: Author | None, request_id: bytes
) -> ac.RecordAccessRequest:
    request = ac.RecordAccessRequest(
        request_id=request_id or session.draw(), subject=told.subject, access_seq=told.access_seq
    )
    if author is None:
        request.outcome.CopyFrom(told.outcome)
    else:
        signed = author.sign(
            EntryKind.OUTCOME,
            told.outcome,
            request_id=request.request_id,
            now_ms=session.now_ms(),
            ref=told.access_seq,
        )
        request.signed.CopyFrom(signed)
    return request


def list_accesses(session: Session, page_token: str, subject: pb.Subject) -> Flow[Page[ac.AccessRecord]]:
    """Read who used, or asked to use, a person's data, newest first. Proves nothing: ``history`` does.

    Raises:
        ConsentdError: it was refused, or could not be read.
    """
    request = ac.ListAccessesRequest(subject=subject, page_token=page_token)
    response = yield from ask(session, "AccessService/ListAccesses", request, ac.ListAccessesResponse)
    if response.next_page_token and response.next_page_token == page_token:
        raise MalformedError("list leads back to the page it came from")
    return Page(tuple(response.accesses), response.next_page_token)
