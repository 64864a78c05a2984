"""Operations that erase persons, and those of the legal holds that forbid it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.receipts import (
    Receipt,
    StatementOptions,
    put_statement,
    read_new_receipt,
    wait_for,
    write,
    write_fields,
)
from consentd_client.signing import StatementSigner
from consentd_client.transport import proto_error


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure that is complete in the daemon's files.

    Attributes:
        receipt: of the ERASURE entry. Keep it: nobody finds the entry by an identifier any more.
        complete_time_ms: a time at which it was complete. A backup that was begun later does not have the person's key.
        backups_until_time_ms: when the last backup expires that may have the key, by the daemon's word.
    """

    receipt: Receipt
    complete_time_ms: int
    backups_until_time_ms: int


def erase(
    context: ClientContext, subject: pb.Subject, order: st.ErasureStatement, **options: Unpack[StatementOptions]
) -> Operation[Erasure]:
    """Erase a person, and wait until no file of the daemon has anything of the person.

    For a participant with the right ERASE. Its ``signer`` signs for the person's tag (``get_holds``).

    Raises:
        InvalidError: *options* has no signer, because nobody attests an erasure.
        PreconditionError: (ERASURE_HELD) a hold is in force. The duty to erase is recorded.
        NotReachedError: (ERASURE_PENDING) the erasure is recorded and not complete: repeat it with its request_id.
    """
    signer = options.get("signer")
    if signer is None:
        raise InvalidError("an erasure is signed by who orders it: give a signer")
    request = rs.EraseSubjectRequest(subject=subject, **write_fields(context, options, StatementOptions))
    _sign(context, request, order, signer)
    tree_size = context.learned.tree_size
    answer = yield from call(context, request, rs.EraseSubjectResponse)
    return (yield from _read_erasure(context, answer, signer.tag, tree_size))


def batch_erase(
    context: ClientContext, orders: Sequence[tuple[pb.Subject, st.ErasureStatement, StatementSigner]], *,
    published: bool = False, request_ids: Sequence[bytes] = (),
) -> Operation[tuple[Erasure | ConsentdError, ...]]:  # fmt: skip
    """Erase up to 1,000 persons, each separately; the answer to an order that fails is its error, as of ``erase``.

    Args:
        orders: the person, the order, and what signs it for the person's tag.
        published: as in ``WriteOptions``. *request_ids*: one for each order; empty: they are drawn at random.
    """
    if not orders:
        return ()
    requests = []
    for (subject, order, signer), request_id in zip(orders, request_ids or [b""] * len(orders), strict=True):
        request = rs.EraseSubjectRequest(subject=subject, **write_fields(context, {"request_id": request_id}))
        _sign(context, request, order, signer)
        requests.append(request)
    batch = rs.BatchEraseSubjectsRequest(requests=requests, wait_for=wait_for(published))
    tree_size = context.learned.tree_size
    answer = yield from call(context, batch, rs.BatchEraseSubjectsResponse)
    if len(answer.results) != len(orders):
        raise ProofError("batch has another number of answers than of orders")
    erased: list[Erasure | ConsentdError] = []
    for (_, _, signer), result in zip(orders, answer.results, strict=True):
        if result.HasField("response"):
            erased.append((yield from _read_erasure(context, result.response, signer.tag, tree_size)))
        else:
            erased.append(proto_error(result.error))
    return tuple(erased)


def _sign(
    context: ClientContext, request: rs.EraseSubjectRequest, order: st.ErasureStatement, signer: StatementSigner
) -> None:
    signed = signer.sign(EntryKind.ERASURE, order, request_id=request.request_id, now_ms=context.now_ms())
    request.signed.CopyFrom(signed)


def _read_erasure(
    context: ClientContext, answer: rs.EraseSubjectResponse, tag: bytes, tree_size: int
) -> Operation[Erasure]:
    """Verify the receipt of an erasure. Raises ProofError if it is for another chain than *tag*."""
    kinds = (EntryKind.ERASURE,)
    receipt = yield from read_new_receipt(context, answer.receipt, kinds=kinds, tree_size=tree_size)
    if receipt.event.tag != tag:
        raise ProofError("receipt is not for an entry in the chain that was to be erased")
    return Erasure(receipt, answer.complete_time_ms, answer.backups_until_time_ms)


def list_duties(
    context: ClientContext, *, before_time_ms: int = 0, erasures_only: bool = False
) -> ReadPage[rs.Duty]:
    """Read the holds that are in force, and the erasures that were refused because of one, of all persons.

    For an operator, who sees the holds of operators alone, or a participant with the right ERASE. The list proves
    nothing.

    Args:
        before_time_ms: only holds that end, and erasures that are due, before this time, UTC milliseconds; 0: all.
        erasures_only: only erasures that are due.
    """
    selected = rs.ListDutiesRequest(before_time_ms=before_time_ms, erasures_only=erasures_only)
    return read_pages(context, selected, rs.ListDutiesResponse, lambda answer: (answer.duties, answer.next_page_token))


def get_holds(context: ClientContext, subject: pb.Subject) -> Operation[rs.GetHoldsResponse]:
    """Read a person's tag, and what forbids an erasure now. For an operator, or a participant with the right ERASE."""
    return call(context, rs.GetHoldsRequest(subject=subject), rs.GetHoldsResponse)


def put_hold(
    context: ClientContext, subject: pb.Subject, hold: st.HoldStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Put a legal hold on a person. For an operator, or a public authority with a ``signer`` for the person's tag.

    The receipt's event has the seq, by which ``end_hold`` names the hold.
    """
    request = rs.PutHoldRequest(subject=subject, **write_fields(context, options, StatementOptions))
    put_statement(context, request, EntryKind.DUTY, st.DutyStatement(hold=hold), options)
    return write(context, request, rs.PutHoldResponse, EntryKind.DUTY)


def end_hold(
    context: ClientContext, subject: pb.Subject, seq: int, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """End the hold of entry *seq* of the person's chain before its time. For whoever may put one."""
    request = rs.EndHoldRequest(subject=subject, seq=seq, **write_fields(context, options, StatementOptions))
    ended = st.DutyStatement(hold=st.HoldStatement(ended=True))
    put_statement(context, request, EntryKind.DUTY, ended, options, ref=seq)
    return write(context, request, rs.EndHoldResponse, EntryKind.DUTY)
