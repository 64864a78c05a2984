"""Operations that erase persons, and those of the legal holds that forbid it."""

from dataclasses import dataclass
from typing import Unpack

from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from consentd_client.operations import ClientContext, Operation, call
from consentd_client.receipts import (
    Receipt,
    StatementOptions,
    put_statement,
    read_new_receipt,
    write,
    write_fields,
)


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
    signed = signer.sign(EntryKind.ERASURE, order, request_id=request.request_id, now_ms=context.now_ms())
    request.signed.CopyFrom(signed)
    tree_size = context.learned.tree_size
    answer = yield from call(context, request, rs.EraseSubjectResponse)
    kinds = (EntryKind.ERASURE,)
    receipt = yield from read_new_receipt(context, answer.receipt, kinds=kinds, tree_size=tree_size)
    if receipt.event.tag != signer.tag:
        raise ProofError("receipt is not for an entry in the chain that was to be erased")
    return Erasure(receipt, answer.complete_time_ms, answer.backups_until_time_ms)


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
