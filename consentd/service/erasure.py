"""Answer EraseSubject, and the calls about legal holds."""

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.errors import InvalidError, NotFoundError, PreconditionError
from consentd.ledger import layout
from consentd.ledger.ledger import decode_request, read_recorded
from consentd.policy.dates import format_instant
from consentd.sequencer.commands.callers import is_operator
from consentd.sequencer.commands.erasure import (
    NO_HOLD,
    EraseSubject,
    PutDuty,
    erasure_due_ms,
    read_person,
)
from consentd.sequencer.commands.write import Request, check_content
from consentd.sequencer.pool import Written
from consentd.service.context import Context, Waiting
from consentd.service.readings import record_readings
from consentd.service.requests import content_hash, make_request
from consentd.service.roles import Access, Whose
from consentd.service.servicer import Servicer, cancel_all, revision
from consentd.service.statements import read_statement
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st


async def erase_subject(
    servicer: Servicer, request: rs.EraseSubjectRequest, context: Context
) -> rs.EraseSubjectResponse:
    """Erase a person, and wait until the erasure is complete.

    Raises:
        PreconditionError: (ERASURE_HELD) a hold is in force; the duty to erase is recorded.
        NotReachedError: (ERASURE_PENDING) a step failed; the daemon repeats it.
        InvalidError: the reason has the identifier, which would stay in the clear for ever.
        RequestError: as the command ``EraseSubject``.
    """
    caller, services = servicer.caller(context), servicer.services
    stated = read_statement(request, st.ErasureStatement, servicer.attester(context))
    servicer.access("EraseSubject", Whose.OTHER, context)
    assert stated.signed is not None, "the request has no other form"
    identifier_hash = servicer.identifier_hash(request.subject)
    if request.subject.value.casefold() in stated.message.reason.casefold():
        raise InvalidError("reason has the identifier of the person: the entry is never deleted, and not encrypted")
    # The signature covers the tag, so it says which person is meant. After the erasure no identifier does.
    asked = make_request(caller, request.request_id, content_hash("EraseSubject", stated.content))
    recorded_tag = _recorded_tag(servicer, asked)
    tag = recorded_tag or _tag_of(servicer, identifier_hash)
    signed = servicer.signed_entry(EntryKind.ERASURE, tag, asked, stated.signed)
    write = EraseSubject(
        request=asked, identifier_hash=identifier_hash, signed=signed, tag=tag, message=stated.message,
        found=read_person(services.ledger.store, services.vault, tag),
    )  # fmt: skip
    if recorded_tag is None:  # a repeat may name another person: no signature covers the identifier
        services.erasures.expect(tag, identifier_hash)
    (future,) = servicer.submit([write], context)
    # Also if this call is gone by then.
    future.add_done_callback(lambda done: services.erasures.note_ordered(tag, done))
    written = await Waiting(future)
    _check_not_held(written)
    assert written.entry is not None, "an erasure has an entry"
    complete = services.erasures.when_complete(tag, written.entry.index)
    context.on_cancel(lambda: cancel_all([complete]))
    await Waiting(complete)
    complete_ms = services.sequencer.clock.wall_ms()
    until_ms = complete_ms + services.config.backup.retention_days * DAY_MS
    receipt = await servicer.written_receipt(written, request.wait_for, context)
    return rs.EraseSubjectResponse(
        receipt=receipt, complete_time_ms=complete_ms,
        backups_until_time_ms=max(until_ms, services.backup_times.vaults_until_ms()),
    )  # fmt: skip


def _check_not_held(written: Written[int | None]) -> None:
    due_ms = written.answer
    if due_ms is not None:
        until = f"until `{format_instant(due_ms)}`" if due_ms else "without an end, so it must be ended first"
        what = f"subject is held by a legal hold or a STATUTORY consent, {until}; order the erasure again then"
        raise PreconditionError(what, "ERASURE_HELD")


def _recorded_tag(servicer: Servicer, asked: Request) -> bytes | None:
    """Return the tag of the entry that the request recorded before; None: the request is no repeat.

    Raises:
        PreconditionError: the request_id was used for other content, or for an entry that was pruned.
    """
    store = servicer.services.ledger.store
    found = decode_request(store.get(layout.request_row_key(asked.key)))
    if found is None:
        return None
    check_content(asked, found[1])
    return read_recorded(store, found[0]).event.tag


def _tag_of(servicer: Servicer, identifier_hash: bytes) -> bytes:
    with servicer.services.table.read() as snapshot:
        tag = snapshot.tag_of(identifier_hash)
    if tag is None:
        raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
    return tag


async def put_duty(
    servicer: Servicer, request: rs.PutHoldRequest | rs.EndHoldRequest, context: Context
) -> tuple[pb.Receipt, int]:
    """Put a hold, or end the one that the request names; return receipt and seq of the entry. Raises as ``PutDuty``."""
    caller, services = servicer.caller(context), servicer.services
    name = request.DESCRIPTOR.name.removesuffix("Request")
    stated = read_statement(request, st.DutyStatement, servicer.attester(context))
    servicer.access(name, Whose.OTHER if stated.signed is None else Whose.OWN, context)
    ref = request.seq if isinstance(request, rs.EndHoldRequest) else 0
    if isinstance(request, rs.EndHoldRequest) and not 0 < ref <= codec.MAX_SEQ:
        raise NotFoundError(NO_HOLD)
    if not stated.message.HasField("hold"):
        raise InvalidError("statement is no hold")
    identifier_hash = servicer.identifier_hash(request.subject)
    tag = _tag_of(servicer, identifier_hash)
    content = content_hash(name, identifier_hash, ref.to_bytes(8), stated.content)
    asked = make_request(caller, request.request_id, content)
    signed = None if stated.signed is None else servicer.signed_entry(EntryKind.DUTY, tag, asked, stated.signed)
    write = PutDuty(
        request=asked, identifier_hash=identifier_hash, signed=signed, tag=tag, message=stated.message, ref=ref,
        found=read_person(services.ledger.store, services.vault, tag),
    )  # fmt: skip
    written, receipt = await servicer.write(write, request.wait_for, context)
    assert written.entry is not None, "a hold has an entry"
    return receipt, written.entry.event.seq


async def get_holds(servicer: Servicer, request: rs.GetHoldsRequest, context: Context) -> rs.GetHoldsResponse:
    """Return a person's tag, and the holds that forbid an erasure; to an operator the holds of operators alone.

    Raises ``NotFoundError``: the person is not enrolled.
    """
    services = servicer.services
    is_reduced = servicer.access("GetHolds", Whose.OTHER, context) is Access.REDUCED
    with services.table.read() as snapshot:
        tag = servicer.tag(snapshot, request.subject)
        now_ms = max(services.sequencer.clock.wall_ms(), snapshot.time_ms)
        lineages = snapshot.lineages(tag)
        at = revision(snapshot.size, snapshot.root)
    if is_reduced:  # who orders erasures needs the holds for that
        await record_readings(servicer, context, [tag], st.READ_SCOPE_ENTRY)
    entries = read_person(services.ledger.store, services.vault, tag)
    in_force = sorted(entries.in_force(now_ms).items())
    if is_reduced:
        own = [rs.Hold(seq=seq, statement=one) for seq, one in in_force if is_operator(one.attestation.attested_by)]
        return rs.GetHoldsResponse(holds=own, is_held=bool(own), revision=at)
    due_ms = erasure_due_ms(entries, lineages, now_ms)
    holds = [rs.Hold(seq=seq, statement=one) for seq, one in in_force]
    return rs.GetHoldsResponse(
        tag=tag, holds=holds, erasure_due_time_ms=due_ms or 0, is_held=due_ms is not None, revision=at
    )
