"""Answer questions from the table: PolicyService. One read transaction, one evaluation, no cache."""

import os
from collections.abc import Iterator, Sequence
from itertools import count

import grpc

from consentd.core import codec
from consentd.errors import ConsentdError, DeniedError, InvalidError, OverloadedError
from consentd.metrics import Metrics
from consentd.policy import evaluate, model
from consentd.policy.codebook import PackedQuestion
from consentd.service.wire import Caller, Servicer, ServiceState, check_batch, revision, rpc
from consentd.statements import decisions, values
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import policy_service_pb2_grpc
from consentd.v1 import statement_pb2 as st


class PolicyService(Servicer, policy_service_pb2_grpc.PolicyServiceServicer):
    """``consentd.v1.PolicyService``."""

    def __init__(self, service_state: ServiceState) -> None:
        super().__init__(service_state)
        # Ids of decisions that are not recorded: random once, counted after; unique, not secret.
        self._id_prefix = os.urandom(8)
        self._ids = count()

    @rpc
    def Check(self, request: ps.CheckRequest, context: grpc.ServicerContext) -> ps.CheckResponse:  # noqa: N802
        """Answer one question."""
        caller = self.caller(context)
        question = request.question
        now_ms = self.services.sequencer.clock.wall_ms()
        response = ps.CheckResponse()
        with self.services.table.read() as snapshot:
            here = self._answers(snapshot, now_ms)
            sees_reasons, packed = here.take(caller, question)
            decision = here.put(response.decision, packed, self.identifier_hash(question.subject))
        self.metrics.decisions.inc(OUTCOMES[decision.outcome], "check")
        return response if sees_reasons else ps.CheckResponse(decision=reduced(decision))

    @rpc
    def BatchCheck(  # noqa: N802
        self, request: ps.BatchCheckRequest, context: grpc.ServicerContext
    ) -> ps.BatchCheckResponse:
        """Answer many questions, each by itself, all from one state."""
        caller = self.caller(context)
        shared = request.shared if request.HasField("shared") else None
        asked: Sequence[tuple[pb.Question, pb.Subject]]
        if shared is None:
            check_batch(len(request.questions), self.services.config.grpc.max_batch_items)
            if request.subjects:
                raise InvalidError("subjects come with a shared question only")
            asked = [(question, question.subject) for question in request.questions]
        else:
            check_batch(len(request.subjects), self.services.config.grpc.max_batch_items)
            if request.questions or shared.HasField("subject"):
                raise InvalidError("a shared question has no subject, and no other questions beside it")
            asked = [(shared, subject) for subject in request.subjects]
        now_ms = self.services.sequencer.clock.wall_ms()
        response = ps.BatchCheckResponse()
        outcomes = [0] * len(OUTCOMES)
        form: tuple[bool, PackedQuestion] | None = None
        with self.services.table.read() as snapshot:
            here = self._answers(snapshot, now_ms)
            for question, subject in asked:
                result = response.results.add()
                try:
                    if form is None or shared is None:  # a shared question is taken once for all its subjects
                        form = here.take(caller, question)
                    sees_reasons, packed = form
                    decision = here.put(result.decision, packed, self.identifier_hash(subject))
                    outcomes[decision.outcome] += 1
                    if not sees_reasons:
                        decision.CopyFrom(reduced(decision))
                except ConsentdError as error:
                    result.error.CopyFrom(self.item_error(error))
        for outcome, many in enumerate(outcomes):
            if many:
                self.metrics.decisions.inc(OUTCOMES[outcome], "batch", by=many)
        return response

    def _answers(self, snapshot: Snapshot, now_ms: int) -> "Answers":
        return Answers(snapshot, now_ms, self._id_prefix, self._ids, self.metrics)


class Answers:
    """Answers questions from one state at one instant. Lives as long as its snapshot's ``with`` block."""

    def __init__(self, snapshot: Snapshot, now_ms: int, id_prefix: bytes, ids: Iterator[int], metrics: Metrics) -> None:
        registry = snapshot.registry()
        self._snapshot = snapshot
        self._now_ms = now_ms
        self._id_prefix = id_prefix
        self._ids = ids
        self._metrics = metrics
        self._codebook = registry.codebook
        self._rules = registry.rules
        # What all answers have in common is copied, which is cheaper than to set it field by field.
        self._common = pb.Decision(
            revision=revision(snapshot.size, snapshot.root),
            vocabulary_version=self._codebook.vocabulary.version,
            combining=values.to_enum(self._rules.combining),
            decided_time_ms=now_ms,
        )

    def take(self, caller: Caller, question: pb.Question) -> tuple[bool, PackedQuestion]:
        """Check that a question may be asked here; returns whether the caller may see reasons, and the question packed.

        Raises:
            InvalidError: it is no question.
            DeniedError: the caller may not ask it.
            OverloadedError: it asks for a state that is not reached.
        """
        check_size(question)
        _refuse_break_glass(question)
        sees_reasons = check_caller(self._snapshot, caller, question)
        check_at_least(self._snapshot, question)
        return sees_reasons, decisions.pack_message(question, self._codebook)

    def put(self, message: pb.Decision, question: PackedQuestion, identifier_hash: bytes) -> pb.Decision:
        """Put the answer about one subject into *message*, and return it."""
        tag = self._snapshot.tag_of(identifier_hash)
        if tag is None:
            self._metrics.unenrolled_questions.inc()
        value = None if tag is None else self._snapshot.subject(tag)
        verdict = evaluate.evaluate(value, question, self._rules, self._now_ms)
        message.CopyFrom(self._common)
        decisions.put_verdict(message, verdict, question, self._codebook, self._rules, tag or b"")
        message.decision_id = self._id_prefix + next(self._ids).to_bytes(8, "big")
        return message


MAX_QUESTION = codec.MAX_PAYLOAD
"""Most bytes of a question: it is part of the payload of the entry that records it."""

OUTCOMES = ("UNSPECIFIED", *(outcome.name for outcome in model.Outcome))
"""Outcome names by number."""


def check_caller(snapshot: Snapshot, caller: Caller, question: pb.Question) -> bool:
    """Let a caller ask about an access it takes part in; returns whether it may see reasons.

    Raises:
        DeniedError: the question names it nowhere, and it has no right to ask for others.
    """
    if caller.is_operator:
        return True
    participant = snapshot.participant(caller.id)
    if participant is None or not participant.active:
        raise DeniedError("caller is not an active participant")
    rights = participant.rights
    if not rights.isdisjoint(_ASK_FOR_OTHERS):
        return st.PARTICIPANT_RIGHT_SEE_REASONS in rights
    actor = question.actor
    if caller.id not in (actor.organisation, actor.on_behalf_of, actor.application, actor.relay, question.holder):
        raise DeniedError("caller has no part in the access it asks about")
    return False


_ASK_FOR_OTHERS = frozenset({st.PARTICIPANT_RIGHT_SEE_REASONS, st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS})


def reduced(decision: pb.Decision) -> pb.Decision:
    """Return a decision as an institution sees it: NO_CONSENT is not told apart from DENY, and why is not told.

    That a person gave no consent, or is not enrolled, tells of the person. A permit keeps its reasons.
    """
    if decision.outcome == pb.OUTCOME_PERMIT:
        return decision
    seen = pb.Decision()
    seen.CopyFrom(decision)
    if decision.outcome == pb.OUTCOME_NO_CONSENT:
        seen.outcome = pb.OUTCOME_DENY
    denied = [*decision.denied, *decision.without_consent]
    for field in ("denied", "without_consent", "tag", "ref", "valid_until_time_ms"):
        seen.ClearField(field)
    seen.denied.extend(sorted(denied))
    reasons = [reason for reason in decision.reasons if reason.effect == pb.EFFECT_PERMIT]
    seen.ClearField("reasons")
    if decision.outcome == pb.OUTCOME_PARTIAL:
        seen.reasons.extend(reasons)
        seen.tag, seen.ref = decision.tag, decision.ref
        seen.valid_until_time_ms = decision.valid_until_time_ms
    return seen


def check_at_least(snapshot: Snapshot, question: pb.Question) -> None:
    """Refuse to answer from a state older than a question asks for.

    The table is as new as the last acknowledged write, so whoever read the size from us never meets this; and a
    call that waits has no place in the pool that serves checks.

    Raises:
        OverloadedError: REVISION_NOT_REACHED.
    """
    size = question.consistency.at_least_tree_size
    if size > snapshot.size:
        raise OverloadedError(f"state has not reached tree size `{size}`", "REVISION_NOT_REACHED")


def check_size(question: pb.Question) -> None:
    """Refuse a question too long to be recorded, also where none is: it would be kept in the codebook's memos.

    Raises:
        InvalidError: TOO_LARGE, naming the limit.
    """
    size = question.ByteSize()
    if size > MAX_QUESTION:
        raise InvalidError(f"question is over its limit of {MAX_QUESTION} bytes: `{size}`", "TOO_LARGE")


def _refuse_break_glass(question: pb.Question) -> None:
    if question.purpose == model.BREAK_GLASS_PURPOSE or question.HasField("break_glass"):
        raise InvalidError("break-glass is asked for through AuthorizeAccess only", "BREAK_GLASS_SHAPE")
