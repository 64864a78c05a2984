"""Operations of PolicyService, which ask whether data may be transferred; and the verification of the decisions.

A decision is replaced by INDETERMINATE, which is a refusal, if the decision is missing, contradicts itself, or has a
value that this version of the client does not know. The answer's ``error`` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consentd.errors import ConsentdError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd_client.operations import ClientContext, Operation, call
from consentd_client.transport import item_error


@dataclass(frozen=True, slots=True, repr=False)
class CheckAnswer:
    """The answer to a question. True only if the outcome is PERMIT: all data that was asked for may be transferred.

    Attributes:
        decision: the daemon's decision; if ``error`` is set, a decision whose outcome is INDETERMINATE.
        error: why no usable decision was received; None: the decision is the daemon's.
    """

    decision: pb.Decision
    error: ConsentdError | None = None

    @property
    def outcome(self) -> "pb.Outcome.ValueType":
        """The decision's outcome."""
        return self.decision.outcome

    @property
    def outcome_name(self) -> str:
        """The outcome's name without its prefix: ``PERMIT``, ``NO_CONSENT`` …"""
        return pb.Outcome.Name(self.decision.outcome).removeprefix("OUTCOME_")

    def __bool__(self) -> bool:
        return self.decision.outcome == pb.OUTCOME_PERMIT

    def __repr__(self) -> str:
        # A decision names consents, and a repr may be logged, so it shows the outcome alone.
        return f"{type(self).__name__}({self.outcome_name}, error={self.error!r})"


def check_or_raise(context: ClientContext, question: pb.Question) -> Operation[CheckAnswer]:
    """Ask whether a transfer may happen. Nothing is recorded."""
    response = yield from call(context, ps.CheckRequest(question=question), ps.CheckResponse)
    answer = read_decision(question, response.decision)
    if answer.error is not None:
        raise answer.error
    return answer


def check(context: ClientContext, question: pb.Question) -> Operation[CheckAnswer]:
    """Ask whether a transfer may happen, and fail closed. Nothing is recorded.

    No error of ``consentd.errors`` is raised. After any error the outcome is INDETERMINATE and ``error`` is set.
    """
    try:
        return (yield from check_or_raise(context, question))
    except ConsentdError as error:
        return CheckAnswer(indeterminate(), error)


def batch_check(context: ClientContext, questions: Sequence[pb.Question]) -> Operation[tuple[CheckAnswer, ...]]:
    """Ask up to 1,000 questions, answered at the same size of the ledger. Each answer fails closed separately."""
    return _batch(context, ps.BatchCheckRequest(questions=questions), questions)


def check_subjects(
    context: ClientContext, question: pb.Question, subjects: Sequence[pb.Subject]
) -> Operation[tuple[CheckAnswer, ...]]:
    """Ask one question, whose ``subject`` is empty, about up to 1,000 persons. Each answer fails closed separately."""
    return _batch(context, ps.BatchCheckRequest(shared=question, subjects=subjects), [question] * len(subjects))


def _batch(
    context: ClientContext, request: ps.BatchCheckRequest, questions: Sequence[pb.Question]
) -> Operation[tuple[CheckAnswer, ...]]:
    if not questions:
        return ()
    try:
        response = yield from call(context, request, ps.BatchCheckResponse)
        if len(response.results) != len(questions):
            raise ProofError("batch has another number of answers than of questions")
    except ConsentdError as error:
        return tuple(CheckAnswer(indeterminate(), error) for _ in questions)
    return tuple(
        read_decision(question, result.decision)
        if result.HasField("decision")
        else CheckAnswer(indeterminate(), item_error(result.error))
        for question, result in zip(questions, response.results, strict=True)
    )


def indeterminate() -> pb.Decision:
    """Return the decision for a question without a usable answer: a refusal, in which only the outcome is set."""
    return pb.Decision(outcome=pb.OUTCOME_INDETERMINATE)


def read_decision(question: pb.Question, decision: pb.Decision) -> CheckAnswer:
    """Return *decision* as an answer; if ``find_fault`` finds a fault, an INDETERMINATE answer with this error."""
    fault = find_fault(question, decision)
    return CheckAnswer(decision) if fault is None else CheckAnswer(indeterminate(), fault)


def find_fault(question: pb.Question, decision: pb.Decision) -> ProofError | None:
    """Return an error if a decision contradicts itself or has unknown values; None if the decision can be used."""
    if decision.outcome not in pb.Outcome.values() or not decision.outcome:
        return ProofError("decision has no outcome that is known here")
    if decision.outcome not in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL):
        return None
    refused = decision.denied or decision.without_consent or decision.unknown
    if not decision.permitted or bool(refused) == (decision.outcome == pb.OUTCOME_PERMIT):
        return ProofError("decision contradicts its own categories")
    for obligation in decision.obligations:
        if obligation not in pb.Obligation.values() or not obligation:
            return ProofError("decision has an obligation that is not known here")
    if pb.OBLIGATION_ENFORCE_RESIDUAL in decision.obligations:
        if pb.OBLIGATION_ENFORCE_RESIDUAL not in question.supported_obligations:
            return ProofError("decision has an obligation that the question does not support")
        if not decision.residual:
            return ProofError("decision obliges the caller to enforce a residual, and has none")
    elif decision.residual:
        return ProofError("decision has a residual without the obligation to enforce it")
    return None
