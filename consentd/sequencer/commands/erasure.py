"""Order the erasure of a person, and put or end legal holds, which forbid it.

A participant with the right ERASE signs an order of erasure. While a hold or a STATUTORY consent of the person is in
force, the order is refused, and a DUTY entry says by whom the erasure was ordered and when it is due. The order must be
given again then: nothing is erased by itself.

The entry alone is written here. ``sequencer.erasures`` destroys what it asks for.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consentd.core.kinds import EntryKind, Owner
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.ledger.ledger import Appended
from consentd.policy.dates import format_instant, is_instant
from consentd.policy.duty import Duty
from consentd.policy.model import OPEN_END_MS
from consentd.policy.rows import unpack_rows
from consentd.policy.subject import Lineage
from consentd.sequencer.commands.callers import check_right, is_operator, is_public_authority
from consentd.sequencer.commands.write import (
    NewEntry,
    PersonWrite,
    Plan,
    ReceiptOnly,
    ReplayContext,
    Unremembered,
    WriteContext,
)
from consentd.statements import payloads
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

RETENTION_ENDED = "PIPA-21"
"""The legal basis of the daemon's own erasures, of unknown chains whose retention has ended."""
NO_HOLD = "subject has no such hold in force: GetHolds lists the holds (`consentd subject holds`)"


# -- holds --------------------------------------------------------------------------------------------------------


def check_legal_basis(view: View, code: str) -> None:
    """Check that a legal basis is a code of the vocabulary in force. Raises ``InvalidError`` (UNKNOWN_CODE)."""
    if code not in {one.code for one in view.registry().codebook.vocabulary.legal_bases}:
        raise InvalidError(f"legal basis is not in the vocabulary: `{code}`", "UNKNOWN_CODE")


def check_duty(view: View, message: st.DutyStatement, *, ref: int, time_ms: int) -> None:
    """Check what a DUTY statement says. The sequencer and ``audit replay`` call this.

    Args:
        view: the policy table with all entries before this one.
        ref: the entry's ref. *time_ms*: the time of the entry, UTC milliseconds.

    Raises:
        InvalidError: it states no duty, a legal basis or time that is none, or something beside the end of a hold.
    """
    hold, form = message.hold, message.WhichOneof("duty")
    if form is None:
        raise InvalidError("duty is neither a hold nor an erasure")
    if form == "erasure":
        check_legal_basis(view, message.erasure.legal_basis)
        return
    if hold.ended != bool(ref):
        raise InvalidError("the end of a hold refers to the entry of the hold, and a hold to none")
    if hold.ended:
        if hold.legal_basis or hold.reason or hold.until_time_ms:
            raise InvalidError("the end of a hold states nothing else")
        return
    check_legal_basis(view, hold.legal_basis)
    if not is_instant(hold.until_time_ms) or hold.until_time_ms <= time_ms:
        raise InvalidError(f"hold ends at no time, or in the past: `{format_instant(hold.until_time_ms)}`")


def check_duty_author(view: View, message: st.DutyStatement, key: bytes) -> None:
    """Check that an author may write a DUTY. The sequencer and ``audit replay`` call this.

    *key*: the key that signed the statement.

    Raises:
        DeniedError: a hold is attested by others than an operator, or signed by others than a public authority; or a
            participant signed that an erasure is due, which the daemon alone states.
    """
    owner, attester = view.key_ever(key), message.attestation.attested_by
    if owner is None or owner.owner is Owner.LEDGER:
        if message.HasField("hold") and not is_operator(attester):
            raise DeniedError("hold is attested by an operator, or signed by a public authority")
    elif message.HasField("erasure") or not is_public_authority(view, str(owner.tag_or_name)):
        raise DeniedError("a participant signs holds only, and is a public authority")


def check_ends_own(view: View, key: bytes, *, hold_key: bytes) -> None:
    """Check that whoever ends a hold has put it. The sequencer and ``audit replay`` call this.

    A hold that a public authority signed ends by that authority, and one that an operator attested by any operator.

    Args:
        key: the key that signed the end. *hold_key*: the key that signed the hold. The daemon signs for operators.

    Raises:
        NotFoundError: somebody else has put it.
    """
    if _signer(view, key) != _signer(view, hold_key):
        raise NotFoundError(NO_HOLD)


def _signer(view: View, key: bytes) -> str:
    """Return the participant that a key is or was of; empty: the daemon's."""
    owner = view.key_ever(key)
    return "" if owner is None or owner.owner is Owner.LEDGER else str(owner.tag_or_name)


def erasure_due_ms(duties: Iterable[Duty], lineages: Iterable[Lineage], now_ms: int) -> int | None:
    """Return when the last hold and STATUTORY consent end that are in force at *now_ms*, UTC milliseconds.

    None: there is none, so the person may be erased. 0: one of them has no end.
    """
    ends = [one.time_ms for one in duties if one.forbids_erasure(now_ms)]
    for lineage in lineages:
        if lineage.is_statutory:
            rows = unpack_rows(lineage.compiled.rows)
            ends.append(rows[0].end_ms if rows else OPEN_END_MS)
    ends = [end_ms for end_ms in ends if now_ms < end_ms]
    if not ends:
        return None
    return 0 if max(ends) >= OPEN_END_MS else max(ends)


# -- the writes ---------------------------------------------------------------------------------------------------


def check_erasure(view: View, message: st.ErasureStatement, key: bytes, *, is_enrolled: bool) -> None:
    """Check an order of erasure and its author. The sequencer and ``audit replay`` call this.

    Args:
        key: the key that signed the statement.
        is_enrolled: whether the chain is that of a person who is enrolled. The daemon erases unknown chains alone.

    Raises:
        DeniedError: who signed it is no active participant with the right ERASE.
        InvalidError: its legal basis is none.
    """
    owner = view.key_ever(key)
    if owner is None or owner.owner is Owner.LEDGER:
        if is_enrolled:
            raise DeniedError("erasure of a person is ordered by a participant, and signed")
        return
    check_right(view, str(owner.tag_or_name), st.PARTICIPANT_RIGHT_ERASE)
    check_legal_basis(view, message.legal_basis)


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseSubject(PersonWrite):
    """Append the ERASURE of a person, or the DUTY to erase the person later. The answer: when it is due; None: erased.

    Attributes:
        tag: the person's tag, for which the order is signed.
        message: the order that the author signed.
    """

    tag: bytes
    message: st.ErasureStatement

    def prepare(self, context: WriteContext) -> Plan[int | None]:
        assert self.signed is not None, "nobody attests an erasure"
        check_right(context.table, self.request.asker, st.PARTICIPANT_RIGHT_ERASE)
        if context.table.tag_of(self.identifier_hash) != self.tag:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        order = NewEntry(
            kind=EntryKind.ERASURE, tag=self.tag, message=self.message, request_id=self.request.id, public=True,
            signed=self.signed, signer=self.request.asker,
        )  # fmt: skip
        drafted = context.draft(order, self.request)
        check_erasure(context.table, self.message, self.signed.statement.key, is_enrolled=True)
        table = context.table
        due_ms = erasure_due_ms(table.duties(self.tag).values(), table.lineages(self.tag), context.time_ms)
        if due_ms is None:
            keys = [b"k" + key for key in table.keys_in_chain(self.tag)]
            table.name_rows(self.tag, (b"i" + self.identifier_hash, *keys))
            return Plan((drafted,), None)
        duty = st.DutyStatement(
            erasure=st.ErasureDueStatement(
                ordered_by=self.request.asker, legal_basis=self.message.legal_basis, reason=self.message.reason,
                due_time_ms=due_ms,
            ),
            attestation=st.Attestation(attested_by=self.request.asker),
        )  # fmt: skip
        due = NewEntry(kind=EntryKind.DUTY, tag=self.tag, message=duty, request_id=self.request.id)
        return Plan((context.draft(due, self.request),), due_ms)

    def replay(self, context: ReplayContext, recorded: Appended) -> int | None:
        """Return when the erasure is due that the original write recorded; None: it erased the person.

        Raises:
            PreconditionError: the recorded duty was deleted, because the person was erased since.
        """
        if recorded.event.kind == EntryKind.ERASURE:
            return None
        payload = context.recorded_payload(recorded)
        if payload is None:
            raise PreconditionError("recorded duty is deleted: the person was erased since", "REQUEST_ID_REUSED")
        return payloads.parse(st.DutyStatement, payload).erasure.due_time_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class PutDuty(PersonWrite, ReceiptOnly):
    """Put a legal hold on a person, or end the hold of entry *ref*.

    Attributes:
        tag: the person's tag.
    """

    tag: bytes
    message: st.DutyStatement
    ref: int = 0

    def prepare(self, context: WriteContext) -> Plan[None]:
        if context.table.tag_of(self.identifier_hash) != self.tag:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        check_duty(context.table, self.message, ref=self.ref, time_ms=context.time_ms)
        key = context.author.key.public_key if self.signed is None else self.signed.statement.key
        if self.ref:
            check_ends_own(context.table, key, hold_key=self._hold_key(context))
        entry = NewEntry(
            kind=EntryKind.DUTY, tag=self.tag, message=self.message, request_id=self.request.id, ref=self.ref,
            signed=self.signed, signer="" if self.signed is None else self.request.asker,
        )  # fmt: skip
        drafted = context.draft(entry, self.request)
        check_duty_author(context.table, self.message, key)
        return Plan((drafted,), None)

    def _hold_key(self, context: WriteContext) -> bytes:
        """Return the key that signed the hold of entry *ref*. Raises ``NotFoundError`` if it is none in force."""
        duty, entry = context.table.duty(self.tag, self.ref), context.batch.find(self.tag, self.ref)
        if duty is None or entry is None or not duty.forbids_erasure(context.time_ms):
            raise NotFoundError(NO_HOLD)
        statement = context.recorded_statement(entry)
        if statement is None:
            raise NotFoundError(NO_HOLD)
        return statement.key


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseUnknownChain(Unremembered):
    """Append the ERASURE of an unknown chain whose retention has ended, unless it is erased or has no entry."""

    tag: bytes

    def prepare(self, context: WriteContext) -> Plan[None]:
        count, _ = context.batch.head(self.tag)
        if not count or context.batch.kind_of(self.tag, count) == EntryKind.ERASURE:
            return Plan((), None)
        assert context.batch.kind_of(self.tag, 1) == EntryKind.REFUSAL, "an unknown chain begins with a refusal"
        message, request_id = st.ErasureStatement(legal_basis=RETENTION_ENDED), context.author.random(16)
        entry = NewEntry(
            kind=EntryKind.ERASURE, tag=self.tag, message=message, request_id=request_id, public=True
        )
        return Plan((context.draft(entry),), None)


# -- enrolments after an erasure ----------------------------------------------------------------------------------


def unused_tag(context: WriteContext, identifier_hash: bytes, make: Callable[[], bytes]) -> bytes:
    """Return a tag for a new chain of a person, from the vault. *make*: makes or finds it.

    INVARIANT: nothing follows an ERASURE. Between that entry and the deletion of the person's rows, the vault still has
    the erased tag for the identifier. So these rows are deleted now.

    Raises:
        StorageError: the vault cannot be written; nothing is recorded.
    """
    vault = context.author.vault
    tag = make()
    if context.batch.head(tag)[0]:
        vault.destroy({tag: identifier_hash})
        tag = vault.create(identifier_hash)
    assert not context.batch.head(tag)[0], "a new tag has no entry"
    return tag

