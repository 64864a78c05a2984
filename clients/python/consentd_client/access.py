"""Operations of AccessService: decide and record a transfer of data, record the transfer's outcome, list accesses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

from consentd.core.kinds import EntryKind
from consentd.errors import ProofError
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.policy import CheckAnswer, find_fault, indeterminate
from consentd_client.receipts import (
    Receipt,
    ReducedReceipt,
    WriteOptions,
    read_receipt,
    read_reduced_receipt,
    wait_for,
    write,
    write_fields,
)
from consentd_client.signing import StatementSigner
from consentd_client.transport import item_error

_PERMITS = (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL)


@dataclass(frozen=True, slots=True, repr=False)
class AuthorizeAnswer(CheckAnswer):
    """The answer to a question that was decided and recorded in one call. True only for a recorded PERMIT.

    The answer to a repeat of a request has two decisions of the daemon: the recorded one, and one taken now. Both must
    permit, so ``decision`` permits only what both permit.

    Attributes:
        recorded: the decision that the entry records; None: no usable decision was received.
        current: for a repeat, the decision on the same question now; None: the request is no repeat.
        receipt: the receipt of the ACCESS entry, or the reduced receipt of the REFUSAL entry; None: the call failed.
        access_seq: the ACCESS entry's number in the person's chain, for ``record_access``; 0: nothing is permitted.
    """

    receipt: ReducedReceipt | None = None
    access_seq: int = 0
    recorded: pb.Decision | None = None
    current: pb.Decision | None = None


@dataclass(frozen=True, slots=True)
class TransferOutcome:
    """A report on a permitted transfer: the person, the ACCESS entry's number in the person's chain, the outcome."""

    subject: pb.Subject = field(repr=False)
    access_seq: int
    outcome: st.OutcomeStatement


def authorize_access(
    context: ClientContext,
    question: pb.Question,
    *,
    signer: StatementSigner | None = None,
    network_origin: str = "",
    **options: Unpack[WriteOptions],
) -> Operation[AuthorizeAnswer]:
    """Ask whether a transfer may happen, and record the decision. Transfer data only if the answer is true.

    Args:
        signer: signs the question with the asking participant's key; None: the token identifies the participant.
        network_origin: the address that the request came from, if the caller is a gateway that passes requests on.
    """
    request = _authorize_request(context, question, signer, network_origin, options)
    response = yield from call(context, request, ac.AuthorizeAccessResponse)
    return _authorize_answer(context, question, response)


def batch_authorize(
    context: ClientContext,
    questions: Sequence[pb.Question],
    *,
    network_origin: str = "",
    published: bool = False,
    request_ids: Sequence[bytes] = (),
) -> Operation[tuple[AuthorizeAnswer, ...]]:
    """Decide and record up to 1,000 transfers, each separately. The answer to an item that fails has ``error`` set.

    *published*: as in ``WriteOptions``. *request_ids*: one for each question; empty: they are drawn at random.
    """
    if not questions:
        return ()
    requests = [
        _authorize_request(context, question, None, network_origin, {"request_id": request_id})
        for question, request_id in zip(questions, request_ids or [b""] * len(questions), strict=True)
    ]
    request = ac.BatchAuthorizeAccessesRequest(requests=requests, wait_for=wait_for(published))
    response = yield from call(context, request, ac.BatchAuthorizeAccessesResponse)
    if len(response.results) != len(questions):
        raise ProofError("batch has another number of answers than of questions")
    return tuple(
        _authorize_answer(context, question, result.response)
        if result.HasField("response")
        else AuthorizeAnswer(indeterminate(), item_error(result.error))
        for question, result in zip(questions, response.results, strict=True)
    )


def _authorize_request(
    context: ClientContext, question: pb.Question, signer: StatementSigner | None, network_origin: str,
    options: WriteOptions,
) -> ac.AuthorizeAccessRequest:  # fmt: skip
    request = ac.AuthorizeAccessRequest(network_origin=network_origin, **write_fields(context, options))
    if signer is None:
        request.question.CopyFrom(question)
    else:
        signed = signer.sign_question(question, request_id=request.request_id, now_ms=context.now_ms())
        request.signed_question.CopyFrom(signed)
    return request


def _authorize_answer(
    context: ClientContext, question: pb.Question, response: ac.AuthorizeAccessResponse
) -> AuthorizeAnswer:
    receipt: ReducedReceipt | None = None
    if response.access_seq:
        receipt = access = read_receipt(response.receipt, kinds=(EntryKind.ACCESS,), trust=context.trust)
        if access.event.seq != response.access_seq:
            raise ProofError("receipt is for another entry of the chain than access_seq says")
    elif response.HasField("receipt"):
        receipt = read_reduced_receipt(response.receipt, context.trust)
    first = response.decision
    current = response.current_decision if response.HasField("current_decision") else None
    fault = find_fault(question, first) or _find_missing_record(first, receipt)
    fault = fault or _find_repeat_fault(question, response)
    if fault is not None:
        return AuthorizeAnswer(indeterminate(), fault, receipt, response.access_seq)
    decision = first if current is None else _permitted_by_both(first, current)
    return AuthorizeAnswer(decision, None, receipt, response.access_seq, first, current)


def _find_missing_record(decision: pb.Decision, receipt: ReducedReceipt | None) -> ProofError | None:
    """Return an error if nothing records the decision, or no ACCESS entry records a permit; otherwise None."""
    if receipt is None:
        return ProofError("decision has no receipt")
    if decision.outcome in _PERMITS and not isinstance(receipt, Receipt):
        return ProofError("permit is recorded as a refusal")
    return None


def _find_repeat_fault(question: pb.Question, response: ac.AuthorizeAccessResponse) -> ProofError | None:
    """Return an error if the answer to a repeat has no usable current decision; otherwise None."""
    if not response.HasField("current_decision"):
        return ProofError("repeat has no current decision") if response.receipt.replayed else None
    recorded, current = response.decision, response.current_decision
    both_permit = recorded.outcome in _PERMITS and current.outcome in _PERMITS
    if both_permit and list(recorded.residual) != list(current.residual):
        return ProofError("conditions of the permit changed since the first request; ask with a new request_id")
    return find_fault(question, current)


def _permitted_by_both(recorded: pb.Decision, current: pb.Decision) -> pb.Decision:
    """Return the decision for a repeat. It permits what both decisions permit, with the obligations of both."""
    for decision in (recorded, current):
        if decision.outcome not in _PERMITS:
            return decision
    joined = pb.Decision()
    joined.CopyFrom(current)
    joined.denied.extend(category for category in current.permitted if category not in recorded.permitted)
    joined.permitted[:] = [category for category in current.permitted if category in recorded.permitted]
    joined.obligations.extend(one for one in recorded.obligations if one not in current.obligations)
    if not joined.permitted:
        joined.outcome = pb.OUTCOME_DENY
    elif joined.denied:
        joined.outcome = pb.OUTCOME_PARTIAL
    return joined


def record_access(
    context: ClientContext,
    subject: pb.Subject,
    access_seq: int,
    outcome: st.OutcomeStatement,
    *,
    signer: StatementSigner | None = None,
    **options: Unpack[WriteOptions],
) -> Operation[Receipt]:
    """Record the outcome of a permitted transfer. *signer* signs the outcome with the participant's own key."""
    item = TransferOutcome(subject, access_seq, outcome)
    request = _record_request(context, item, signer, options)
    return write(context, request, ac.RecordAccessResponse, EntryKind.OUTCOME)


def batch_record(
    context: ClientContext, outcomes: Sequence[TransferOutcome], *, published: bool = False,
    request_ids: Sequence[bytes] = (),
) -> Operation[tuple[Receipt, ...]]:  # fmt: skip
    """Record the outcomes of up to 1,000 permitted transfers: all of them or none."""
    if not outcomes:
        return ()
    requests = [
        _record_request(context, item, None, {"request_id": request_id})
        for item, request_id in zip(outcomes, request_ids or [b""] * len(outcomes), strict=True)
    ]
    request = ac.BatchRecordAccessesRequest(requests=requests, wait_for=wait_for(published))
    response = yield from call(context, request, ac.BatchRecordAccessesResponse)
    if len(response.receipts) != len(outcomes):
        raise ProofError("batch has another number of receipts than of outcomes")
    return tuple(read_receipt(one, kinds=(EntryKind.OUTCOME,), trust=context.trust) for one in response.receipts)


def _record_request(
    context: ClientContext, item: TransferOutcome, signer: StatementSigner | None, options: WriteOptions
) -> ac.RecordAccessRequest:
    request = ac.RecordAccessRequest(subject=item.subject, access_seq=item.access_seq, **write_fields(context, options))
    if signer is None:
        request.outcome.CopyFrom(item.outcome)
    else:
        signed = signer.sign(
            EntryKind.OUTCOME, item.outcome, request_id=request.request_id, now_ms=context.now_ms(), ref=item.access_seq
        )
        request.signed.CopyFrom(signed)
    return request


def list_accesses(context: ClientContext, subject: pb.Subject) -> ReadPage[ac.AccessRecord]:
    """List who used, or asked to use, a person's data, newest first, without proof; use ``history`` for a proof."""
    return read_pages(
        context,
        lambda token: ac.ListAccessesRequest(subject=subject, page_token=token),
        ac.ListAccessesResponse,
        lambda response: (response.accesses, response.next_page_token),
    )
