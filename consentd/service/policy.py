"""PolicyService: answer questions from the table, and record nothing. Each call reads one snapshot of the table."""

import os
from collections.abc import Iterator, Sequence
from itertools import count

from consentd.core.identifier import check_identifier
from consentd.errors import ConsentdError, InvalidError, OverloadedError
from consentd.policy import evaluate, model
from consentd.policy.codebook import PackedQuestion, Parties
from consentd.policy.reduce import NO_TAG, PLACEHOLDER, reduce_verdict
from consentd.policy.subject import row_count
from consentd.sequencer.commands.callers import is_operator
from consentd.service import requests
from consentd.service.consistency import reach
from consentd.service.context import Context
from consentd.service.rpc import item_error, next_item, rpc
from consentd.service.servicer import Servicer, Services, ServiceState, revision
from consentd.statements import decisions, payloads, values
from consentd.table.checked_rows import DamagedRowError
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps


class PolicyService(Servicer):
    """``consentd.v1.PolicyService``."""

    def __init__(self, service_state: ServiceState) -> None:
        super().__init__(service_state)
        # The id of an unrecorded decision is this random prefix and a counter: it must be unique, but not secret.
        self._id_prefix = os.urandom(8).hex()
        self._ids = count()

    @rpc
    async def Check(self, request: ps.CheckRequest, context: Context) -> ps.CheckResponse:
        """Answer one question."""
        caller = self.caller(context)
        question = request.question
        payloads.check_own_fields(request)
        await reach(self.services, request.consistency, context)
        response = ps.CheckResponse()
        with self.services.table.read() as snapshot:
            answerer = self._answerer(snapshot, caller)
            outcome = answerer.answer(response.decision, answerer.check(question), question.subject)
        self.metrics.decisions.inc(outcome.name, "check")
        return response

    @rpc
    async def BatchCheck(self, request: ps.BatchCheckRequest, context: Context) -> ps.BatchCheckResponse:
        """Answer many questions, each independently, all from one snapshot of the table."""
        caller = self.caller(context)
        payloads.check_own_fields(request)
        shared = request.shared if request.HasField("shared") else None
        asked: Sequence[tuple[pb.Question, pb.Subject]]
        if shared is None:
            self.check_batch(len(request.questions))
            if request.subjects:
                raise InvalidError("subjects come with a shared question only")
            asked = [(question, question.subject) for question in request.questions]
        else:
            self.check_batch(len(request.subjects))
            if request.questions or shared.HasField("subject"):
                raise InvalidError("a shared question has no subject, and no other questions beside it")
            asked = [(shared, subject) for subject in request.subjects]
        await reach(self.services, request.consistency, context)
        response = ps.BatchCheckResponse()
        outcomes = [0] * (max(model.Outcome) + 1)
        answered_bytes = 0
        packed: PackedQuestion | None = None
        with self.services.table.read() as snapshot:
            answerer = self._answerer(snapshot, caller)
            for question, subject in asked:
                if answerer.work >= _WORK:
                    answerer.work = 0
                    next_item(context)
                result = response.results.add()
                try:
                    if packed is None or shared is None:  # a shared question is checked once for all its subjects
                        packed = answerer.check(question)
                    outcome = answerer.answer(result.decision, packed, subject)
                    answered_bytes += result.ByteSize()
                    if answered_bytes > requests.MAX_BATCH_ANSWER:
                        limit = f"its limit of {requests.MAX_BATCH_ANSWER} bytes"
                        raise InvalidError(f"answer of the batch is over {limit}: ask for fewer", "TOO_LARGE")
                    outcomes[outcome] += 1
                except ConsentdError as error:
                    result.error.CopyFrom(item_error(self, "BatchCheck", error, question, context))
        for number, times in enumerate(outcomes):
            if times:
                self.metrics.decisions.inc(model.Outcome(number).name, "batch", by=times)
        return response

    def _answerer(self, snapshot: Snapshot, caller: str) -> "Answerer":
        """Return what answers the questions of *caller* from *snapshot*, at the time of the ledger's clock."""
        services = self.services
        now_ms = services.sequencer.leaf_clock.decision_ms(snapshot.time_ms)
        return Answerer(services, snapshot, caller, now_ms, self._id_prefix, self._ids)


class Answerer:
    """Answers the questions of one caller from one snapshot, as of one time. Use it only inside the snapshot's ``with``
    block.

    Attributes:
        row_count: how many provisions count against ``MAX_BATCH_ROWS``.
        work: how much was evaluated: one for each answer, and one more for each ``_ROWS_BYTES`` of provisions.
    """

    def __init__(
        self, services: Services, snapshot: Snapshot, caller: str, now_ms: int | None, id_prefix: str,
        ids: Iterator[int],
    ) -> None:  # fmt: skip
        """*now_ms*: the time of the decisions; None: the clock disagrees with the ledger, so every answer is
        INDETERMINATE.
        """
        self.row_count = 0
        self.work = _WORK
        self._caller = None if is_operator(caller) else caller
        self._now_ms = now_ms
        self._registry = registry = snapshot.registry()
        self._snapshot = snapshot
        self._id_prefix = id_prefix
        self._ids = ids
        self._metrics = services.metrics
        self._identifier_hash = services.vault.identifier_hash
        self._count_person = services.sequencer.quotas.count_person
        self._codebook = registry.codebook
        self._rules = registry.rules
        # All answers share these fields. To copy this message is faster than to set the fields in each answer.
        self._common = pb.Decision(
            revision=revision(snapshot.size, snapshot.root),
            vocabulary_version=self._codebook.vocabulary.version,
            combining=values.to_enum(self._rules.combining),
            decided_time_ms=snapshot.time_ms if now_ms is None else now_ms,
        )

    def check(self, question: pb.Question) -> PackedQuestion:
        """Check a question, but for its subject, and return it packed.

        Raises:
            RequestError: the question is malformed, or the caller may not ask it. An operator may ask every question,
                to find out what a participant would be answered.
        """
        encoded = question.SerializeToString()
        check_size(encoded)
        form = decisions.form_of(encoded)
        if self._now_ms is not None:
            packed = self._registry.packed_before(self._caller, form, self._now_ms)
            if packed is not None:
                return packed
        if question.purpose == model.BREAK_GLASS_PURPOSE or question.HasField("break_glass"):
            raise InvalidError("break-glass is asked for through AuthorizeAccess only", "BREAK_GLASS_SHAPE")
        if self._now_ms is None:  # which delegations are in force is not known, but the answer is the same for everyone
            return decisions.pack_message(question, self._codebook, _NOBODY)
        return self._registry.pack(self._caller, question, form, self._now_ms)

    def answer(self, message: pb.Decision, question: PackedQuestion, subject: pb.Subject) -> model.Outcome:
        """Write the decision about a subject into *message*; return the outcome for a caller who may see reasons.

        If the caller may not see reasons, the decision is reduced (``policy.reduce``); but an answer that a fault of
        ours prevents is the same for all: INDETERMINATE, with the reason.

        Raises:
            RequestError: the subject is malformed, or the provisions of a batch or the caller's quota of persons are
                used up.
        """
        payloads.check_own_fields(subject)
        scheme, value = subject.scheme, subject.value
        check_identifier(scheme, value)
        identifier_hash = self._identifier_hash(scheme, value)
        if self.row_count >= MAX_BATCH_ROWS:
            raise OverloadedError(f"batch is over its limit of {MAX_BATCH_ROWS} provisions: ask for fewer")
        in_full = question.parties.sees_reasons
        shown_tag = b""
        try:
            if self._now_ms is None:  # nothing of the person is read, so nobody is counted
                verdict = evaluate.undetermined(question, model.ReasonCode.CLOCK)
                outcome = verdict.outcome
            else:
                if self._caller is not None:
                    self._count_person(self._caller, identifier_hash, self._registry.quotas, now_ms=self._now_ms)
                # INVARIANT: for a caller who may not see reasons, every person counts alike, enrolled or not. Otherwise
                # the first item that is refused would show how many provisions the persons before it have.
                if not in_full:
                    self.row_count += _PLACEHOLDER_ROWS
                verdict, tag = self._evaluate(question, identifier_hash, self._now_ms, in_full=in_full)
                outcome = verdict.outcome
                if not in_full:
                    verdict = reduce_verdict(verdict, question)
                shown_tag = tag if tag is not None and (in_full or verdict.permitted) else b""
        except DamagedRowError:
            verdict = evaluate.undetermined(question, model.ReasonCode.DAMAGED_ROW)
            outcome = verdict.outcome
        message.CopyFrom(self._common)
        decisions.put_verdict(message, verdict, question, self._codebook, self._rules, shown_tag)
        message.decision_id = f"{self._id_prefix}{next(self._ids):016x}"
        return outcome

    def _evaluate(
        self, question: PackedQuestion, identifier_hash: bytes, now_ms: int, *, in_full: bool
    ) -> tuple[evaluate.Verdict, bytes | None]:
        """Evaluate a question about one subject; return the verdict, not reduced, and the subject's tag.

        Raises:
            DamagedRowError: a row of the subject is damaged.
        """
        tag = self._snapshot.tag_of(identifier_hash)
        self.work += 1
        if tag is None:
            self._metrics.unenrolled_questions.inc()
            self._snapshot.subject(NO_TAG)
            if not in_full:
                evaluate.evaluate(PLACEHOLDER, question, self._rules, now_ms)
            return evaluate.evaluate(None, question, self._rules, now_ms), None
        value = self._snapshot.enrolled_subject(tag)
        self.work += len(value) // _ROWS_BYTES
        if in_full:
            self.row_count += row_count(value)
        return evaluate.evaluate(value, question, self._rules, now_ms), tag


_WORK, _ROWS_BYTES = 8, 4096  # a batch gives way to other calls after so many answers, or so many times so many bytes
_PLACEHOLDER_ROWS = row_count(PLACEHOLDER)
_NOBODY = Parties(permit_actors=frozenset(), deny_actors=frozenset(), holders=frozenset())


MAX_BATCH_ROWS = 200_000
"""Most provisions of a batch, over all its persons: about half a second. The other items are refused.

For a caller who may not see reasons, each person counts as three provisions. So such a batch may evaluate more; it
gives way to other calls again and again, as every batch does.
"""


def check_size(question: bytes) -> None:
    """Check that a serialised question is within its limit. An entry has the question and the whole decision.

    Raises:
        InvalidError: (TOO_LARGE) the question is over ``requests.MAX_QUESTION`` bytes.
    """
    if len(question) > requests.MAX_QUESTION:
        limit = f"its limit of {requests.MAX_QUESTION} bytes"
        raise InvalidError(f"question is over {limit}: `{len(question)}`", "TOO_LARGE")
