"""Answer EraseSubject and BatchEraseSubjects, and the calls about legal holds and other duties."""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS
from consentd.errors import InvalidError, NotFoundError, PreconditionError, RequestError, StorageError
from consentd.ledger import layout, reads
from consentd.ledger.ledger import decode_request, read_recorded
from consentd.policy.dates import format_instant
from consentd.policy.duty import Duty
from consentd.sequencer.commands.callers import is_operator
from consentd.sequencer.commands.erasure import (
    NO_HOLD,
    EraseSubject,
    PutDuty,
    erasure_due_ms,
)
from consentd.sequencer.commands.write import Request, check_content
from consentd.sequencer.pool import Written
from consentd.service.context import Context, Waiting
from consentd.service.pages import MAX_EXAMINED, Cursor, Pager
from consentd.service.readings import record_readings
from consentd.service.requests import MAX_BATCH_ANSWER, batch_is_over, content_hash, make_request
from consentd.service.roles import Access, Whose
from consentd.service.rpc import item_error, next_item
from consentd.service.servicer import Servicer, cancel_all, revision
from consentd.service.statements import read_statement
from consentd.statements import payloads
from consentd.table.view import View
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
    order = _order(servicer, request, "EraseSubject", context)
    (future,) = _submit(servicer, [order], context)
    return await _erased(servicer, future, order.write.tag, request.wait_for, context)


async def erase_subjects(
    servicer: Servicer, request: rs.BatchEraseSubjectsRequest, context: Context
) -> rs.BatchEraseSubjectsResponse:
    """Erase many persons, each independently of the others, and wait until the erasures are complete.

    The orders that are recorded together are carried out together, so the table is copied once for all of them.

    Raises ``InvalidError`` (TOO_LARGE): there are too many. What is wrong with one order is the error of its item.
    """
    servicer.check_batch(len(request.requests))
    orders: list[_Order | RequestError] = []
    for item in request.requests:
        next_item(context)
        try:
            if item.wait_for:
                raise InvalidError("item of a batch has a wait_for of its own: state the batch's")
            orders.append(_order(servicer, item, "BatchEraseSubjects", context))
        except RequestError as error:
            orders.append(error)
    futures = iter(_submit(servicer, [one for one in orders if isinstance(one, _Order)], context))
    response, answered_bytes = rs.BatchEraseSubjectsResponse(), 0
    for item, order in zip(request.requests, orders, strict=True):
        result = response.results.add()
        try:
            if isinstance(order, RequestError):
                raise order
            erased = await _erased(servicer, next(futures), order.write.tag, request.wait_for, context)
            answered_bytes += erased.ByteSize()
            if answered_bytes > MAX_BATCH_ANSWER:
                raise batch_is_over(f"{MAX_BATCH_ANSWER} bytes of answers")
            result.response.CopyFrom(erased)
        except (RequestError, StorageError) as error:
            result.error.CopyFrom(item_error(servicer, "BatchEraseSubjects", error, item, context))
    return response


class _Order(NamedTuple):
    """An order of erasure, and whether it was recorded before. Such a repeat may name another person."""

    write: EraseSubject
    is_repeat: bool


def _order(servicer: Servicer, request: rs.EraseSubjectRequest, rpc: str, context: Context) -> _Order:
    """Check an order of erasure, and return the write for it. Raises as ``erase_subject``."""
    caller = servicer.caller(context)
    stated = read_statement(request, st.ErasureStatement, servicer.attester(context))
    servicer.access(rpc, Whose.OTHER, context)
    assert stated.signed is not None, "the request has no other form"
    identifier_hash = servicer.identifier_hash(request.subject)
    if request.subject.value.casefold() in stated.message.reason.casefold():
        raise InvalidError("reason has the identifier of the person: the entry is never deleted, and not encrypted")
    # The signature covers the tag, so it says which person is meant. After the erasure no identifier does. An order has
    # the same content in a batch and alone, so either may be the repeat of the other.
    asked = make_request(caller, request.request_id, content_hash("EraseSubject", stated.content))
    recorded_tag = _recorded_tag(servicer, asked)
    tag = recorded_tag or _tag_of(servicer, identifier_hash)
    signed = servicer.signed_entry(EntryKind.ERASURE, tag, asked, stated.signed)
    write = EraseSubject(
        request=asked, identifier_hash=identifier_hash, signed=signed, tag=tag, message=stated.message
    )
    return _Order(write, recorded_tag is not None)


def _submit(
    servicer: Servicer, orders: Sequence[_Order], context: Context
) -> "list[Future[Written[int | None]]]":
    """Submit orders together; return their futures."""
    erasures, writes = servicer.services.erasures, [one.write for one in orders]
    for order in orders:
        if not order.is_repeat:  # no signature covers the identifier
            erasures.expect(order.write.tag, order.write.identifier_hash)
    try:
        futures = servicer.submit(writes, context)
    except BaseException:
        for write in writes:
            erasures.forget(write.tag)
        raise
    for write, future in zip(writes, futures, strict=True):
        # Also if this call is gone by then.
        future.add_done_callback(partial(erasures.note_ordered, write.tag))
    return futures


async def _erased(
    servicer: Servicer, future: "Future[Written[int | None]]", tag: bytes, wait_for: int, context: Context
) -> rs.EraseSubjectResponse:
    """Wait until an order is recorded and carried out, and return the answer. Raises as ``erase_subject``."""
    services = servicer.services
    written = await Waiting(future)
    _check_not_held(written)
    assert written.entry is not None, "an erasure has an entry"
    complete = services.erasures.when_complete(tag, written.entry.index)
    context.on_cancel(lambda: cancel_all([complete]))
    await Waiting(complete)
    complete_ms = services.sequencer.clock.wall_ms()
    until_ms = complete_ms + services.config.backup.retention_days * DAY_MS
    receipt = await servicer.written_receipt(written, wait_for, context)
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
    caller = servicer.caller(context)
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
        request=asked, identifier_hash=identifier_hash, signed=signed, tag=tag, message=stated.message, ref=ref
    )
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
        duties, due_ms = snapshot.duties(tag), _due_ms(snapshot, tag, now_ms)
        at = revision(snapshot.size, snapshot.root)
    if is_reduced:  # who orders erasures needs the holds for that
        await record_readings(servicer, context, [tag], st.READ_SCOPE_ENTRY)
    in_force = [_read_duty(servicer, tag, seq) for seq, one in duties.items() if one.forbids_erasure(now_ms)]
    holds = [rs.Hold(seq=one.seq, statement=one.statement) for one in in_force if one is not None]
    if is_reduced:
        holds = [one for one in holds if is_operator(one.statement.attestation.attested_by)]
        return rs.GetHoldsResponse(holds=holds, is_held=bool(holds), revision=at)
    return rs.GetHoldsResponse(
        tag=tag, holds=holds, erasure_due_time_ms=due_ms or 0, is_held=due_ms is not None, revision=at
    )


async def list_duties(servicer: Servicer, request: rs.ListDutiesRequest, context: Context) -> rs.ListDutiesResponse:
    """Return a page of the holds in force and the erasures that are due; to an operator the holds of operators alone.

    The position in a page token is the leaf index of the last entry that was read: it leads to tag and seq.

    Raises:
        InvalidError: (INVALID_PAGE) as ``Pager``; or the time is negative.
        AbortedError: (PAGE_EXPIRED) the ledger was restored since the first page.
    """
    services = servicer.services
    is_reduced = servicer.access("ListDuties", Whose.OTHER, context) is Access.REDUCED
    if request.before_time_ms < 0:
        raise InvalidError(f"before_time_ms is negative: `{request.before_time_ms}`")
    pager = Pager(services.page_key, servicer.caller(context), request)
    with services.table.read() as snapshot:
        cursor = pager.cursor(snapshot.size)
        now_ms = max(services.sequencer.clock.wall_ms(), snapshot.time_ms)
        after = (b"", 0)
        if cursor is not None:
            last = codec.decode_leaf(reads.read_leaf(services.ledger.store, cursor.position))
            assert isinstance(last, codec.Event), "a token of ours names an entry"
            after = (last.tag, last.seq)
        rows = list(snapshot.duties_after(*after, limit=MAX_EXAMINED + 1))
        selected = [
            (tag, seq, _due_ms(snapshot, tag, now_ms) is not None)
            for tag, seq, duty in rows[:MAX_EXAMINED]
            if _is_selected(request, duty, now_ms)
        ]
        at = revision(snapshot.size, snapshot.root)
    page, read = [], rows[:MAX_EXAMINED]
    for tag, seq, is_held in selected:
        next_item(context)
        duty = _read_duty(servicer, tag, seq)
        if duty is None or (is_reduced and not is_operator(duty.statement.attestation.attested_by)):
            continue
        if is_reduced and not duty.statement.HasField("hold"):
            continue
        duty.is_held = is_held
        page.append(duty)
        if len(page) == pager.size:
            read = [one for one in read if one[:2] <= (tag, seq)]
            break
    if is_reduced:
        await record_readings(servicer, context, [one.tag for one in page], st.READ_SCOPE_ENTRY)
        for one in page:
            one.tag = b""
    response = rs.ListDutiesResponse(duties=page, revision=at)
    if len(read) < len(rows):
        index = services.ledger.store.get(layout.index_key(*read[-1][:2])) or b""
        response.next_page_token = pager.token(Cursor(layout.decode_u64(index), at.tree_size))
    return response


def _is_selected(request: rs.ListDutiesRequest, duty: Duty, now_ms: int) -> bool:
    if duty.is_hold and (request.erasures_only or not duty.forbids_erasure(now_ms)):
        return False
    return not request.before_time_ms or duty.time_ms < request.before_time_ms


def _due_ms(view: View, tag: bytes, now_ms: int) -> int | None:
    return erasure_due_ms(view.duties(tag).values(), view.lineages(tag), now_ms)


def _read_duty(servicer: Servicer, tag: bytes, seq: int) -> rs.Duty | None:
    """Return the duty of an entry as its statement states it; None: the person was erased meanwhile."""
    entry = reads.read_entry(servicer.services.ledger.store, tag, seq)
    payload = servicer.payload(entry)
    if payload is None:
        return None
    return rs.Duty(tag=tag, seq=seq, statement=payloads.parse(st.DutyStatement, payload), time_ms=entry.event.time_ms)
