"""Answer questions from a view of the table, each with all its checks. Nothing is recorded."""

from collections.abc import Callable

from consentd import limits
from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError
from consentd.policy import evaluate, model
from consentd.policy.codebook import PackedQuestion, Parties
from consentd.policy.reduce import NO_TAG, PLACEHOLDER, reduce_verdict
from consentd.policy.subject import row_count
from consentd.sequencer.commands.callers import is_person
from consentd.service import requests
from consentd.service.servicer import Services, revision
from consentd.statements import decisions, payloads, values
from consentd.table.checked_rows import DamagedRowError
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb


class Answerer:
    """Answers the questions of one caller from one view of the table, as of one time. Use it only as long as the view.

    Attributes:
        row_count: how many provisions count against ``MAX_BATCH_ROWS``.
        work: how much was evaluated: one for each answer, and one more for each ``_ROWS_BYTES`` of provisions.
    """

    def __init__(
        self, services: Services, view: View, caller: str, now_ms: int | None, new_id: Callable[[], str]
    ) -> None:
        """*now_ms*: the time of the decisions; None: the clock disagrees with the ledger, so every answer is
        INDETERMINATE. *new_id* returns the id of an unrecorded decision.
        """
        self.row_count = 0
        self.work = WORK
        # A person asks as the person alone, about themselves (``Servicer.check_own``).
        self._caller = None if is_person(caller) else caller
        self._now_ms = now_ms
        self._registry = registry = view.registry()
        self._view = view
        self._new_id = new_id
        self._metrics = services.metrics
        self._identifier_hash = services.vault.identifier_hash
        self._count_person = services.sequencer.quotas.count_person
        self._counted = self._caller  # whose quota the persons count against; None: nobody's
        self._codebook = registry.codebook
        self._rules = registry.rules
        # All answers share these fields. To parse their bytes is faster than to copy a message or to set each field.
        self._common = pb.Decision(
            revision=revision(view.size, view.root),
            vocabulary_version=self._codebook.vocabulary.version,
            combining=values.to_enum(self._rules.combining),
            decided_time_ms=view.time_ms if now_ms is None else now_ms,
        ).SerializeToString()

    def check(self, question: pb.Question) -> PackedQuestion:
        """Check a question, but for its subject, and return it packed.

        Raises:
            RequestError: the question is malformed, or the caller may not ask it.
        """
        encoded = question.SerializeToString()
        check_size(encoded)
        form = decisions.form_of(encoded)
        if self._now_ms is not None:
            packed = self._registry.packed_before(self._caller, form, self._now_ms)
            if packed is not None:
                return packed
        check_no_break_glass(question)
        if self._now_ms is None:  # which delegations are in force is not known, but the answer is the same for everyone
            return decisions.pack_message(question, self._codebook, _NOBODY)
        return self._pack(question, form, self._now_ms)

    def _pack(self, question: pb.Question, form: bytes, now_ms: int) -> PackedQuestion:
        """Check who asks, for whom and through whom, and return the question packed. Raises as ``check``."""
        return self._registry.pack(self._caller, question, form, now_ms)

    def answer(self, message: pb.Decision, question: PackedQuestion, subject: pb.Subject) -> model.Outcome:
        """Write the decision about a subject into the empty *message*; return the outcome for callers who see reasons.

        If the caller may not see reasons, the decision is reduced (``policy.reduce``); but an answer that a fault of
        ours prevents is the same for all: INDETERMINATE, with the reason.

        Raises:
            RequestError: the subject is malformed, or the provisions of a batch or the caller's quota of persons are
                used up (BATCH_LIMIT, QUOTA_EXCEEDED).
        """
        payloads.check_own_fields(subject)
        scheme, value = subject.scheme, subject.value
        check_identifier(scheme, value)
        identifier_hash = self._identifier_hash(scheme, value)
        if self.row_count >= MAX_BATCH_ROWS:
            raise requests.batch_is_over(f"{MAX_BATCH_ROWS} provisions")
        in_full = question.parties.sees_reasons
        shown_tag = b""
        try:
            if self._now_ms is None:  # nothing of the person is read, so nobody is counted
                verdict = evaluate.undetermined(question, model.ReasonCode.CLOCK)
                outcome = verdict.outcome
            else:
                if self._counted is not None:
                    self._count_person(self._counted, identifier_hash, self._registry.quotas, now_ms=self._now_ms)
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
        message.MergeFromString(self._common)
        decisions.put_verdict(message, verdict, question, self._codebook, self._rules, shown_tag)
        message.decision_id = self._new_id()
        return outcome

    def _find(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag of a person; None: the person is not enrolled."""
        return self._view.tag_of(identifier_hash)

    def _evaluate(
        self, question: PackedQuestion, identifier_hash: bytes, now_ms: int, *, in_full: bool
    ) -> tuple[evaluate.Verdict, bytes | None]:
        """Evaluate a question about one subject; return the verdict, not reduced, and the subject's tag.

        Raises:
            DamagedRowError: a row of the subject is damaged.
        """
        tag = self._find(identifier_hash)
        self.work += 1
        if tag is None:
            self._metrics.unenrolled_questions.inc()
            self._view.subject(NO_TAG)
            if not in_full:
                evaluate.evaluate(PLACEHOLDER, question, self._rules, now_ms)
            return evaluate.evaluate(None, question, self._rules, now_ms), None
        value = self._view.enrolled_subject(tag)
        self.work += len(value) // _ROWS_BYTES
        if in_full:
            self.row_count += row_count(value)
        return evaluate.evaluate(value, question, self._rules, now_ms), tag


def answer_undetermined(
    message: pb.Decision, question: pb.Question, subject: pb.Subject, *, now_ms: int, decision_id: str
) -> model.Outcome:
    """Write the answer to a question that no row of the table can be believed for into *message*; return its outcome.

    A row that all checks share is damaged, so neither the caller's rights nor the codes of the question can be checked.

    Raises:
        InvalidError: the question or the subject is malformed.
    """
    check_size(question.SerializeToString())
    decisions.check_fields(question)
    check_no_break_glass(question)
    payloads.check_own_fields(subject)
    check_identifier(subject.scheme, subject.value)
    if not question.categories:
        raise InvalidError("question names no category", "EMPTY_CATEGORIES")
    message.CopyFrom(
        pb.Decision(
            outcome=values.to_enum(model.Outcome.INDETERMINATE), unknown=question.categories,
            reasons=[pb.DecisionReason(code=values.to_enum(model.ReasonCode.DAMAGED_ROW))],
            decided_time_ms=now_ms, decision_id=decision_id,
        )
    )  # fmt: skip
    return model.Outcome.INDETERMINATE


WORK = 8
"""A batch gives way to other calls after so many answers, or after so many times ``_ROWS_BYTES`` of provisions."""
_ROWS_BYTES = 4096
_PLACEHOLDER_ROWS = row_count(PLACEHOLDER)
_NOBODY = Parties(permit_actors=frozenset(), deny_actors=frozenset(), holders=frozenset())


MAX_BATCH_ROWS = limits.BATCH_PROVISIONS
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


def check_no_break_glass(question: pb.Question) -> None:
    """Check that a question is not one of break-glass, which is answered only with an entry. Raises InvalidError."""
    if question.purpose == model.BREAK_GLASS_PURPOSE or question.HasField("break_glass"):
        raise InvalidError("break-glass is asked for through AuthorizeAccess only", "BREAK_GLASS_SHAPE")
