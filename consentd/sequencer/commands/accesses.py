"""Write accesses: decide a question and record the decision; record the outcome of the transfer that follows."""

import hashlib
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from consentd import limits
from consentd.core import codec
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.ledger import reads
from consentd.ledger.ledger import Appended, Draft
from consentd.ledger.vault import Vault
from consentd.policy import evaluate, model
from consentd.policy.codebook import pack_question
from consentd.policy.dates import format_month
from consentd.policy.reduce import reduce_verdict
from consentd.policy.subject import recurs
from consentd.policy.uses import without_access
from consentd.sequencer.commands.callers import check_active
from consentd.sequencer.commands.erasure import unused_tag
from consentd.sequencer.commands.registry import BY_EMERGENCY, BY_LAW
from consentd.sequencer.commands.write import (
    NewEntry,
    PersonWrite,
    Plan,
    ReceiptOnly,
    ReplayContext,
    SignedEntry,
    Unremembered,
    WriteContext,
)
from consentd.statements import decisions, payloads, values
from consentd.statements.reporters import may_report, may_report_status, parties_of, sender_of
from consentd.store import Store
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

MAX_REASON_BYTES = limits.RECORDED_REASON_BYTES
"""Most bytes of the reasons of a recorded decision. The first are kept, so that a payload never exceeds its limit."""


@dataclass(frozen=True, slots=True)
class AuthorizedAccess:
    """The answer to a request for access.

    Attributes:
        decision: the decision as the asker gets it, which is also what the entry records.
        outcome: the outcome of the decision taken now, for a caller who may see reasons. Only metrics use it, and
            ``is_enrolled``: whether the person is enrolled now.
        current: for a repeat, the decision taken now, as the asker gets it; None: the request is no repeat.
        uses: the consents that recur and that the access uses up.
    """

    decision: pb.Decision
    outcome: model.Outcome
    is_enrolled: bool
    current: pb.Decision | None = None
    uses: tuple[st.RecurrenceUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizeAccess(PersonWrite):
    """Decide a question, and record the decision as ACCESS or REFUSAL.

    If the person is not enrolled, a refusal is an entry of the month's unknown chain. A permit, which only a law or
    break-glass gives, enrols the person, because nothing is permitted without an entry (policy.md, rule 7).

    Attributes:
        question: the parsed question. ``asked`` has its bytes and the asker; ``signed`` has its signature, if any.
        scheme: scheme of the identifier of the person whose data are asked for.
    """

    question: model.Question
    asked: st.AskedQuestion
    scheme: str

    def prepare(self, context: WriteContext) -> Plan[AuthorizedAccess]:
        tag = context.table.tag_of(self.identifier_hash)
        # This checks the caller too. It is done first, so that nobody else learns whether a key is the person's.
        answer = self._decide(context, tag)
        if self.signed is not None:
            self._check_signer(context, self.signed, tag)
        self._count(context, answer.decision)
        if tag is not None:
            return Plan((self._draft(context, tag, answer),), answer)
        if answer.decision.permitted:
            return self._enrol(context)
        return Plan((self._draft_unknown(context, answer.decision),), answer)

    def _draft(self, context: WriteContext, tag: bytes, answer: AuthorizedAccess) -> tuple[Draft, Message]:
        decision = answer.decision
        record = st.AccessStatement(asked=self.asked, decision=decision, uses=answer.uses)
        kind = EntryKind.ACCESS if decision.permitted else EntryKind.REFUSAL
        message: Message = record if decision.permitted else st.RefusalStatement(access=record)
        entry = NewEntry(kind=kind, tag=tag, message=message, request_id=self.request.id, ref=decision.ref)
        return context.draft(entry, self.request)

    def _draft_unknown(self, context: WriteContext, decision: pb.Decision) -> tuple[Draft, Message]:
        """Draft a refusal about a person who is not enrolled. It has a hash in place of the person's identifier."""
        asked = st.AskedQuestion()
        asked.CopyFrom(self.asked)
        if not asked.signature:  # a signature covers the identifier too
            question = payloads.parse(pb.Question, asked.question)
            question.ClearField("subject")
            asked.question = question.SerializeToString(deterministic=True)
        record = st.AccessStatement(asked=asked, decision=decision)
        message = st.RefusalStatement(access=record, identifier_hash=self.identifier_hash)
        tag = context.author.vault.unknown_chain(format_month(context.time_ms))
        entry = NewEntry(kind=EntryKind.REFUSAL, tag=tag, message=message, request_id=self.request.id)
        return context.draft(entry, self.request)

    def _enrol(self, context: WriteContext) -> Plan[AuthorizedAccess]:
        """Enrol the person, then permit. The decision is taken as of after the enrolment."""
        vault = context.author.vault
        tag = unused_tag(context, self.identifier_hash, lambda: vault.create(self.identifier_hash))
        answer = self._decide(context, tag, enrols=True)
        method = BY_EMERGENCY if self.question.break_glass is not None else BY_LAW
        statement = st.EnrolStatement(
            identifier_hash=self.identifier_hash, scheme=self.scheme,
            attestation=st.Attestation(attested_by=self.request.asker, method=method),
        )  # fmt: skip
        # Each entry needs a request_id of its own. The first entry's id is derived from the request's id.
        derived = hashlib.sha256(self.request.id + b"\2").digest()[:16]
        enrol = NewEntry(kind=EntryKind.ENROL, tag=tag, message=statement, request_id=derived)
        return Plan((context.draft(enrol), self._draft(context, tag, answer)), answer)

    def _count(self, context: WriteContext, decision: pb.Decision) -> None:
        """Count the entry, unless it is exempt: an emergency, or an access that a law permits."""
        is_lawful = any(reason.code == pb.REASON_CODE_PERMITTED_BY_LAW for reason in decision.reasons)
        if self.question.break_glass is None and not is_lawful:
            context.count_entry(self, is_refusal=not decision.permitted)
        context.quotas.forget_person(self.caller, self.identifier_hash)

    def replay(self, context: ReplayContext, recorded: Appended) -> AuthorizedAccess:
        """Return the recorded decision, and the decision on the same question now.

        Raises:
            PreconditionError: the recorded statement was deleted, so the first answer is not known any more.
        """
        # What the first request has used up does not count against its repeat: the transfer is the same.
        now = self._decide(context, context.table.tag_of(self.identifier_hash), spared=recorded.event.seq)
        return replace(now, decision=_recorded_decision(context, recorded), current=now.decision)

    def _check_signer(self, context: WriteContext, signed: SignedEntry, tag: bytes | None) -> None:
        """Check that the asker signed the question; if it asks as the person, the person may have signed it."""
        if tag is not None and is_signed_by_subject(context.table, tag, self.question, self.asked):
            context.check_signature(replace(signed, tag=tag), owners=frozenset({Owner.SUBJECT}))
        else:
            context.check_signature(signed, owners=frozenset({Owner.PARTICIPANT}), signer=self.request.asker)

    def _decide(
        self, context: ReplayContext, tag: bytes | None, *, enrols: bool = False, spared: int = 0
    ) -> AuthorizedAccess:
        """Decide the question. *enrols*: the entry before this one enrols the person. *spared*: as in ``decide``."""
        answer = decide(
            context.table, tag, self.question, self.asked, index=context.size + enrols, now_ms=context.time_ms,
            enrols=enrols, spared=spared,
        )  # fmt: skip
        answer.decision.decision_id = context.author.random(16).hex()
        return answer


def _recorded_decision(context: ReplayContext, recorded: Appended) -> pb.Decision:
    """Return the decision that an ACCESS or REFUSAL records; PreconditionError if its statement was deleted."""
    payload = context.recorded_payload(recorded)
    if payload is None:
        raise PreconditionError("recorded decision is deleted: ask with a new request_id", "REQUEST_ID_REUSED")
    if recorded.event.kind == EntryKind.REFUSAL:
        return payloads.parse(st.RefusalStatement, payload).access.decision
    return payloads.parse(st.AccessStatement, payload).decision


def is_signed_by_subject(view: View, tag: bytes | None, question: model.Question, asked: st.AskedQuestion) -> bool:
    """Return whether a question asks as the person, and is signed with a key of the person that is in force.

    The caller of this function verifies the signature.
    """
    if question.actor.organisation != model.SUBJECT or not asked.signature:
        return False
    owner = view.key_owner(asked.key)
    return owner is not None and owner.owner is Owner.SUBJECT and owner.tag_or_name == tag


def decide(
    view: View, tag: bytes | None, question: model.Question, asked: st.AskedQuestion, *, index: int, now_ms: int,
    enrols: bool = False, spared: int = 0,
) -> AuthorizedAccess:  # fmt: skip
    """Decide a question by the rows in *view*. The sequencer uses this function, and auditors to recompute decisions.

    Args:
        tag: the chain id of the person whose data is requested; None: the person is not enrolled.
        asked: who asked, and who signed. The signature, if there is one, was verified. If it covers the tag of another
            person, the answer is that of no consent.
        enrols: the person is enrolled by the entry before, which *view* does not have yet.
        spared: seq of an ACCESS whose uses of consents that recur do not count; 0: all count.
        index: leaf index of the entry that records the decision.
        now_ms: time of that entry, UTC ms.

    Returns:
        The decision that the asker gets and the entry records, but without a decision_id. It is reduced
        (``policy.reduce``) unless the asker may see reasons.

    Raises:
        InvalidError: the question cannot be decided; for example, it names an unknown purpose.
        DeniedError: the asker may not ask the question, or a name in the question is not true (``policy.actor``).
    """
    registry = view.registry()
    codebook, rules = registry.codebook, registry.rules
    if is_signed_by_subject(view, tag, question, asked):
        signed_parties = registry.parties(asked.asker, question, now_ms, signed_by_subject=True)
        packed = pack_question(question, codebook, signed_parties)
    else:
        form = decisions.form_of(asked.question)
        packed = registry.packed_before(asked.asker, form, now_ms) or registry.pack(asked.asker, question, form, now_ms)
    parties = packed.parties
    if asked.signed_tag not in (b"", codec.ZERO_HASH, tag):
        verdict = evaluate.no_consent(packed)
    elif packed.break_glass and not parties.may_break_glass:
        # Without the break-glass right the answer is a denial, whatever the person's consents permit.
        verdict = evaluate.break_glass_refused(packed)
    else:
        value = b"" if enrols else None if tag is None else view.subject(tag)
        if spared and value and recurs(value):
            value = without_access(value, spared)
        verdict = evaluate.evaluate(value, packed, rules, now_ms)
    outcome, uses = verdict.outcome, verdict.uses
    in_full = parties.sees_reasons
    if not in_full:
        verdict = reduce_verdict(verdict, packed)
    shown_tag = tag if tag is not None and (in_full or verdict.permitted) else b""
    message = pb.Decision(vocabulary_version=packed.version, combining=values.to_enum(rules.combining))
    decisions.put_verdict(message, verdict, packed, codebook, rules, shown_tag)
    while sum(reason.ByteSize() for reason in message.reasons) > MAX_REASON_BYTES:
        del message.reasons[len(message.reasons) * 9 // 10 :]
    message.revision.tree_size = index
    message.decided_time_ms = now_ms
    used = tuple([
        st.RecurrenceUse(
            lineage_seq=lineage, categories=codebook.codes(mask),
            until_time_ms=0 if until_ms == model.OPEN_END_MS else until_ms,
        )
        for lineage, mask, until_ms in uses
    ])  # fmt: skip
    return AuthorizedAccess(message, outcome, is_enrolled=tag is not None, uses=used)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOutcome(PersonWrite, ReceiptOnly):
    """Record the outcome of a permitted transfer, as an OUTCOME entry whose ref is the seq of the ACCESS entry."""

    access_seq: int
    message: st.OutcomeStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        check_active(context.table, self.request.asker)
        tag = context.table.tag_of(self.identifier_hash)
        if tag is None or context.batch.kind_of(tag, self.access_seq) != EntryKind.ACCESS:
            raise NotFoundError("no such permitted access of this subject")
        context.count_entry(self)
        entry = NewEntry(
            kind=EntryKind.OUTCOME,
            tag=tag,
            message=self.message,
            request_id=self.request.id,
            ref=self.access_seq,
            signed=self.signed,
            signer=self.request.asker,
        )
        return Plan((context.draft(entry, self.request),), None)


def check_party(
    store: Store, vault: Vault, tag: bytes | None, access_seq: int, asker: str, *, status: int
) -> bytes:
    """Check that *asker* took part in an access, and so may record an outcome of this *status*; return *tag*.

    A service calls this on its own thread before it submits the write, so the sequencer's thread need not decrypt the
    entry. A recorded entry never changes, so the result is still true when the write is prepared.

    Raises:
        NotFoundError: the person has no permitted access of that seq, or the asker took no part in the access.
        DeniedError: the outcome is FAILED, the transfer used a consent up, and the asker does not hold the data.
    """
    try:
        entry = None if tag is None or access_seq > codec.MAX_SEQ else reads.read_entry(store, tag, access_seq)
    except NotFoundError:
        entry = None
    opened = None if entry is None or entry.event.kind != EntryKind.ACCESS else reads.open_entry(vault, entry)
    if tag is not None and opened is not None:
        access = payloads.parse(st.AccessStatement, codec.decode_statement(opened[1]).payload)
        if may_report(asker, parties_of(access.asked)):
            if not may_report_status(asker, status, sender_of(access)):
                raise DeniedError("of a consent that recurs, the holder alone reports that the data were not sent")
            return tag
    raise NotFoundError("no such permitted access of this subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOutcomes(Unremembered):
    """Record several outcomes: all or none. The ledger remembers the request of each outcome.

    The answer has an item for each outcome: if the outcome is a repeat, the entry recorded before; else None.
    """

    outcomes: tuple[RecordOutcome, ...]

    @property
    def caller(self) -> str:
        """The caller that reports the outcomes."""
        return self.outcomes[0].caller if self.outcomes else ""

    def prepare(self, context: WriteContext) -> Plan[tuple[Appended | None, ...]]:
        if len({outcome.request.key for outcome in self.outcomes}) != len(self.outcomes):
            raise InvalidError("request_id is used twice in one batch", "INVALID_REQUEST_ID")
        entries: list[tuple[Draft, Message]] = []
        repeats: list[Appended | None] = []
        for outcome in self.outcomes:
            recorded = context.recorded(outcome.request)
            if recorded is None:
                entries.extend(outcome.prepare(context).entries)
            repeats.append(recorded)
        return Plan(tuple(entries), tuple(repeats))
