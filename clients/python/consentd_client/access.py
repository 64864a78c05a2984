"""Operations of AccessService: decide and record a transfer of data, record the transfer's outcome, list accesses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, ProofError
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client.answers import PERMITS, CheckAnswer, copied, indeterminate
from consentd_client.consistency import Reached, condition
from consentd_client.log_key import following
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.policy import check_decision
from consentd_client.receipts import (
    Receipt,
    ReducedReceipt,
    StatementOptions,
    WriteOptions,
    put_statement,
    read_new_receipt,
    read_reduced_receipt,
    verify_is_new,
    wait_for,
    write,
    write_fields,
)
from consentd_client.recorded import find_other_entry, find_other_request
from consentd_client.signing import StatementSigner
from consentd_client.transport import proto_error


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class AuthorizeAnswer(CheckAnswer):
    """The answer to a question that was decided and recorded in one call. True only as a ``CheckAnswer`` is.

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
    asked = copied(question)
    request = _authorize_request(context, asked, signer, network_origin, options)
    tree_size = context.learned.tree_size
    response = yield from call(context, request, ac.AuthorizeAccessResponse)
    return (yield from _authorize_answer(context, asked, request, response, tree_size))


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
    asked = [copied(question) for question in questions]
    requests = [
        _authorize_request(context, question, None, network_origin, {"request_id": request_id})
        for question, request_id in zip(asked, request_ids or [b""] * len(asked), strict=True)
    ]
    batch = ac.BatchAuthorizeAccessesRequest(requests=requests, wait_for=wait_for(published))
    tree_size = context.learned.tree_size
    response = yield from call(context, batch, ac.BatchAuthorizeAccessesResponse)
    if len(response.results) != len(asked):
        raise ProofError("batch has another number of answers than of questions")
    answers = []
    for question, request, result in zip(asked, requests, response.results, strict=True):
        if result.HasField("response"):
            answer = yield from _authorize_answer(context, question, request, result.response, tree_size)
        else:
            error = proto_error(result.error)
            answer = AuthorizeAnswer(question=question, decision=indeterminate(), error=error)
        answers.append(answer)
    indexes = {answer.receipt.index for answer in answers if answer.receipt is not None}
    if len(indexes) != sum(answer.receipt is not None for answer in answers):
        raise ProofError("batch has one receipt for two questions")
    return tuple(answers)


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
    context: ClientContext, question: pb.Question, request: ac.AuthorizeAccessRequest,
    response: ac.AuthorizeAccessResponse, tree_size: int,
) -> Operation[AuthorizeAnswer]:  # fmt: skip
    receipt: ReducedReceipt | None = None
    if response.access_seq:
        receipt = access = yield from read_new_receipt(
            context, response.receipt, kinds=(EntryKind.ACCESS,), tree_size=tree_size
        )  # fmt: skip
        if access.event.seq != response.access_seq:
            raise ProofError("receipt is for another entry of the chain than access_seq says")
    elif response.HasField("receipt"):
        receipt = yield from following(
            context, lambda: read_reduced_receipt(response.receipt, context.present_trust)
        )  # fmt: skip
        verify_is_new(receipt, tree_size)
        context.learned.add_size(receipt.index + 1)
    first = response.decision
    current = response.current_decision if response.HasField("current_decision") else None
    fault = yield from _find_fault(context, question, request, response, receipt)
    if fault is not None:
        return AuthorizeAnswer(
            question=question, decision=indeterminate(), error=fault, receipt=receipt, access_seq=response.access_seq
        )
    return AuthorizeAnswer(
        question=question, decision=first if current is None else _permitted_by_both(first, current), receipt=receipt,
        access_seq=response.access_seq, recorded=first, current=current,
    )  # fmt: skip


def _find_fault(
    context: ClientContext, question: pb.Question, request: ac.AuthorizeAccessRequest,
    response: ac.AuthorizeAccessResponse, receipt: ReducedReceipt | None,
) -> Operation[ConsentdError | None]:  # fmt: skip
    """Return an error if the answer has no usable decision, or not the entry that records it; otherwise None."""
    fault = yield from check_decision(context, question, response.decision)
    if fault is None:
        fault = find_other_entry(response.decision, receipt, pinned_tag=request.signed_question.tag)
    if fault is None and response.HasField("current_decision"):
        fault = yield from check_decision(context, question, response.current_decision)
    fault = fault or _find_repeat_fault(response)
    if fault is None and isinstance(receipt, Receipt) and receipt.replayed:
        fault = yield from find_other_request(context, request, question, receipt)
    return fault


def _find_repeat_fault(response: ac.AuthorizeAccessResponse) -> ProofError | None:
    """Return an error if the answer to a repeat has no current decision, or other conditions now; otherwise None."""
    if not response.HasField("current_decision"):
        return ProofError("repeat has no current decision") if response.receipt.replayed else None
    if not response.receipt.replayed:
        return ProofError("answer that is no repeat has a second decision")
    recorded, current = response.decision, response.current_decision
    both_permit = recorded.outcome in PERMITS and current.outcome in PERMITS
    if both_permit and _limits(recorded) != _limits(current):
        return ProofError("conditions of the permit changed since the first request; ask with a new request_id")
    return None


def _limits(decision: pb.Decision) -> tuple[object, ...]:
    """Return what limits the data of the categories that a decision permits."""
    return list(decision.residual), decision.combining, list(decision.labels), decision.level


def _permitted_by_both(recorded: pb.Decision, current: pb.Decision) -> pb.Decision:
    """Return the decision for a repeat. It permits what both decisions permit, with the obligations of both."""
    for decision in (recorded, current):
        if decision.outcome not in PERMITS:
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
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:
    """Record the outcome of a permitted transfer. A ``signer`` signs it with the participant's own key."""
    item = TransferOutcome(subject, access_seq, outcome)
    request = _record_request(context, item, options)
    receipt = yield from write(context, request, ac.RecordAccessResponse, EntryKind.OUTCOME)
    _verify_outcome(receipt, item, options.get("signer"))
    return receipt


def batch_record(
    context: ClientContext, outcomes: Sequence[TransferOutcome], *, published: bool = False,
    request_ids: Sequence[bytes] = (),
) -> Operation[tuple[Receipt, ...]]:  # fmt: skip
    """Record the outcomes of up to 1,000 permitted transfers: all of them or none."""
    if not outcomes:
        return ()
    requests = [
        _record_request(context, item, {"request_id": request_id})
        for item, request_id in zip(outcomes, request_ids or [b""] * len(outcomes), strict=True)
    ]
    request = ac.BatchRecordAccessesRequest(requests=requests, wait_for=wait_for(published))
    tree_size = context.learned.tree_size
    response = yield from call(context, request, ac.BatchRecordAccessesResponse)
    if len(response.receipts) != len(outcomes):
        raise ProofError("batch has another number of receipts than of outcomes")
    receipts = []
    for item, message in zip(outcomes, response.receipts, strict=True):
        receipt = yield from read_new_receipt(context, message, kinds=(EntryKind.OUTCOME,), tree_size=tree_size)
        _verify_outcome(receipt, item, None)
        receipts.append(receipt)
    return tuple(receipts)


def _verify_outcome(receipt: Receipt, item: TransferOutcome, signer: StatementSigner | None) -> None:
    """Verify that an OUTCOME entry refers to the access that *item* reports on."""
    if receipt.event.ref != item.access_seq or (signer is not None and receipt.event.tag != signer.tag):
        raise ProofError("receipt is for the outcome of another access")


def _record_request(
    context: ClientContext, item: TransferOutcome, options: StatementOptions
) -> ac.RecordAccessRequest:
    fields = write_fields(context, options, StatementOptions)
    request = ac.RecordAccessRequest(subject=item.subject, access_seq=item.access_seq, **fields)
    put_statement(context, request, EntryKind.OUTCOME, item.outcome, options, ref=item.access_seq)
    return request


def get_access(
    context: ClientContext, subject: pb.Subject, access_seq: int, *, authority_seq: int = 0,
    consistency: Reached | None = None,
) -> Operation[ac.AccessRecord]:  # fmt: skip
    """Read one access or refusal with its outcomes, without proof. For callers that may list accesses, and for parties.

    *access_seq*: the entry's number in the person's chain. *authority_seq*: as for ``history``.
    """
    request = ac.GetAccessRequest(
        subject=subject, access_seq=access_seq, authority_seq=authority_seq, consistency=condition(consistency)
    )
    response = yield from call(context, request, ac.GetAccessResponse)
    if response.access.seq != access_seq:
        raise ProofError("daemon answers with another access")
    return response.access


def list_accesses(
    context: ClientContext, subject: pb.Subject, *, kind: "st.EntryKind.ValueType" = st.ENTRY_KIND_UNSPECIFIED,
    automatic: bool | None = None, actor: str = "", holder: str = "", purpose: str = "", asker: str = "",
    start_time_ms: int = 0, end_time_ms: int = 0, authority_seq: int = 0, consistency: Reached | None = None,
) -> ReadPage[ac.AccessRecord]:  # fmt: skip
    """List who used, or asked to use, a person's data, newest first, without proof; use ``history`` for a proof.

    Only accesses that meet all conditions are listed. An empty value, None or 0 is no condition.

    Args:
        kind: ACCESS, permitted accesses, or REFUSAL. *automatic*: whether no person took part in it.
        actor: the organisation, or the participant that it acts for, or the application.
        asker: the participant whose credential the call had.
        start_time_ms, end_time_ms: the time of the entry is in ``[start, end)``, UTC milliseconds.
        authority_seq: as for ``history``.
    """
    selected = ac.ListAccessesRequest(
        subject=subject, kind=kind, automatic=automatic, actor=actor, holder=holder, purpose=purpose,
        asker=asker, start_time_ms=start_time_ms, end_time_ms=end_time_ms, authority_seq=authority_seq,
        consistency=condition(consistency),
    )  # fmt: skip
    return read_pages(
        context, selected, ac.ListAccessesResponse, lambda response: (response.accesses, response.next_page_token)
    )


def list_due_transfers(context: ClientContext, *, by_time_ms: int = 0) -> ReadPage[ac.DueTransfer]:
    """Read which transfers are due from the caller, a holder, by consents that recur, and which were missed.

    A page may be empty and not be the last one. ``authorize_access`` decides whether what is due is permitted.

    *by_time_ms*: what is due by this time, UTC milliseconds; 0: now.
    """
    selected = ac.ListDueTransfersRequest(by_time_ms=by_time_ms)
    return read_pages(
        context, selected, ac.ListDueTransfersResponse, lambda response: (response.transfers, response.next_page_token)
    )
