"""Write accesses: decide a question at its place and record the answer; record what a transfer did."""

from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind, Owner
from consentd.errors import ConflictError, InvalidError, NotFoundError
from consentd.ledger.ledger import Draft
from consentd.policy import evaluate, model
from consentd.policy.codebook import pack_question
from consentd.sequencer.commands.context import Answer, Entry, Plan, Remembered, WriteContext
from consentd.statements import decisions, payloads
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

MAX_RECORDED_REASONS = 100
"""Most reasons in a recorded decision, those that decided first."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """How an access came out: the recorded decision, and the entry's seq; 0 where nothing is recorded."""

    decision: pb.Decision
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorize(Remembered):
    """Decide a question at its place in the ledger, and record the answer.

    Attributes:
        question: its value; ``asked`` carries the bytes and who asked.
        tag: the tag a signed question was signed for; empty: not signed.
    """

    identifier_hash: bytes
    question: model.Question
    asked: st.AskedQuestion
    tag: bytes = b""
    verified: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        tag = context.table.tag_of(self.identifier_hash)
        if self.asked.signature:
            self._check_signature(context, tag)
        decision = self._decide(context, tag)
        if tag is None:
            return Plan(answer=Authorized(decision, 0))
        record = st.AccessStatement(asked=self.asked, decision=decision)
        kind: EntryKind
        message: Message
        if decision.outcome in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL):
            kind, message = EntryKind.ACCESS, record
        else:
            kind, message = EntryKind.REFUSAL, st.RefusalStatement(access=record)
        entry = Entry(kind=kind, tag=tag, message=message, request_id=self.request_id, ref=decision.ref)
        seq = context.batch.head(tag)[0] + 1
        return Plan((context.draft(entry, self.request_key, self.content),), Authorized(decision, seq))

    def replay(self, context: WriteContext, index: int) -> Answer:
        """A repeat gets a decision taken now, which governs; the receipt is the recorded entry's.

        Raises:
            ConflictError: it would permit what was refused then: there would be no entry to show for it.
        """
        decision = self._decide(context, context.table.tag_of(self.identifier_hash))
        if not set(decision.permitted) <= set(self._recorded(context, index).permitted):
            raise ConflictError("recorded as refused, permitted now: ask with a new request_id", "REQUEST_ID_REUSED")
        return Authorized(decision, 0)

    def _recorded(self, context: WriteContext, index: int) -> pb.Decision:
        """Return the decision recorded at *index*; an empty one where it was erased."""
        event, row = context.batch.entry(index)
        if row is None:
            return pb.Decision()
        payload = codec.decode_statement(context.author.vault.decrypt(event, row)[1]).payload
        if event.kind == EntryKind.REFUSAL:
            return payloads.parse(st.RefusalStatement, payload).access.decision
        return payloads.parse(st.AccessStatement, payload).decision

    def _decide(self, context: WriteContext, tag: bytes | None) -> pb.Decision:
        message = decide(context.table, tag, self.question, index=context.batch.index, now_ms=context.batch.time_ms)
        message.decision_id = context.author.random(16)
        return message

    def _check_signature(self, context: WriteContext, tag: bytes | None) -> None:
        if tag != self.tag:
            raise ConflictError("signed tag is not the subject's", "REF_MOVED")
        owner = context.table.key_owner(self.asked.key)
        if owner is None or owner.name != self.asked.asker:
            raise InvalidError("asker's key is not in force for this caller", "BAD_SIGNATURE")
        context.check_signature(
            kind=codec.QUESTION_KIND,
            tag=self.tag,
            ref=0,
            request_id=self.request_id,
            author_time_ms=self.asked.author_time_ms,
            payload=self.asked.question,
            key=self.asked.key,
            signature=self.asked.signature,
            owners=frozenset({Owner.PARTICIPANT}),
            verified=self.verified,
        )


def decide(view: View, tag: bytes | None, question: model.Question, *, index: int, now_ms: int) -> pb.Decision:
    """Decide a question on what is in force in *view*, as the entry at *index* records it, but for its decision_id.

    The sequencer decides by it, and an auditor takes every decision again by it.

    Args:
        tag: whose data it is; None: somebody who is not enrolled.
        now_ms: the entry's time.

    Raises:
        InvalidError: it is no question that could be answered.
    """
    codebook, rules = view.codebook(), view.rules()
    packed = pack_question(question, codebook)
    if question.break_glass is not None and not _may_break_glass(view, question.actor.organisation):
        # Whoever was never enrolled to break the glass is refused, whatever consents say.
        decision = model.Decision(
            outcome=model.Outcome.DENY,
            denied=codebook.codes(packed.categories),
            unknown=packed.unknown,
            reasons=(model.Reason(model.ReasonCode.DENIED_BY_BREAK_GLASS, model.Effect.DENY),),
            vocabulary_version=codebook.vocabulary.version,
            combining=rules.combining,
        )
    else:
        value = None if tag is None else view.subject(tag)
        decision = evaluate.decision(evaluate.evaluate(value, packed, rules, now_ms), packed, codebook, rules)
    message = decisions.decision_message(decision, tag or b"")
    # A payload has its limit: a person with hundreds of consents that all matched is not refused for it.
    del message.reasons[MAX_RECORDED_REASONS:]
    message.revision.tree_size = index
    message.decided_time_ms = now_ms
    return message


def _may_break_glass(view: View, organisation: str) -> bool:
    actor = view.participant(organisation)
    return actor is not None and actor.active and st.PARTICIPANT_RIGHT_BREAK_GLASS in actor.rights


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Remembered):
    """What a permitted transfer did; ref is its ACCESS."""

    identifier_hash: bytes
    access_seq: int
    message: st.OutcomeStatement
    signed: pb.SignedStatement | None = None
    verified: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        tag = context.table.tag_of(self.identifier_hash)
        if tag is None or context.batch.kind_of(tag, self.access_seq) != EntryKind.ACCESS:
            raise NotFoundError("no such permitted access of this subject")
        if self.signed is not None:
            owner = context.table.key_owner(self.signed.key)
            if owner is None or owner.name != self.asker:
                raise InvalidError("author's key is not in force for this caller", "BAD_SIGNATURE")
        entry = Entry(
            kind=EntryKind.OUTCOME,
            tag=tag,
            message=self.message,
            request_id=self.request_id,
            ref=self.access_seq,
            signed=self.signed,
            verified=self.verified,
        )
        return Plan((context.draft(entry, self.request_key, self.content),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Writes that are recorded all or none; one of them refused refuses all.

    Its answer is the list of recorded indexes of repeats, None for those it appended.
    """

    writes: tuple[Outcome, ...]
    request_key: bytes = b""
    content: bytes = b""

    def prepare(self, context: WriteContext) -> Plan:
        entries: list[tuple[Draft, Message]] = []
        recorded: list[int | None] = []
        if len({write.request_key for write in self.writes}) != len(self.writes):
            raise InvalidError("request_id stands twice in one batch", "INVALID_REQUEST_ID")
        for write in self.writes:
            found = context.batch.recorded(write.request_key)
            if found is None:
                entries.extend(write.prepare(context).entries)
                recorded.append(None)
            elif found[1] != write.content:
                raise ConflictError("request_id was used for other content", "REQUEST_ID_REUSED")
            else:
                recorded.append(found[0])
        return Plan(tuple(entries), recorded)

    def replay(self, context: WriteContext, index: int) -> Answer:
        raise AssertionError("only its parts are remembered")
