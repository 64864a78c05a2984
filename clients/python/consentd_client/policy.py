"""Operations of PolicyService, which ask whether data may be transferred. ``answers`` checks the decisions."""

from collections.abc import Iterable, Sequence

from consentd.errors import ConsentdError, ProofError
from consentd.policy.model import Resource
from consentd.policy.vocabulary import Vocabulary
from consentd.statements.values import vocabulary_value
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd_client.answers import (
    PERMITS,
    CheckAnswer,
    copied,
    find_fault,
    find_wrong_categories,
    indeterminate,
    needs_vocabulary,
)
from consentd_client.consistency import AtExact, Reached, condition, find_other_state
from consentd_client.operations import ClientContext, Operation, call
from consentd_client.resources import permitted_resources
from consentd_client.transport import proto_error


def check_or_raise(
    context: ClientContext, question: pb.Question, *, consistency: Reached | AtExact | None = None
) -> Operation[CheckAnswer]:
    """Ask whether a transfer may happen. Nothing is recorded.

    *consistency*: the state that the answer is from; None: the latest. The answer from an ``AtExact`` state says what
    would have been permitted then, and is never true.
    """
    asked = copied(question)
    request = ps.CheckRequest(question=asked, consistency=condition(consistency))
    response = yield from call(context, request, ps.CheckResponse)
    answer = yield from read_decision(context, asked, response.decision, consistency)
    if answer.error is not None:
        raise answer.error
    return answer


def check(
    context: ClientContext, question: pb.Question, *, consistency: Reached | AtExact | None = None
) -> Operation[CheckAnswer]:
    """Ask as ``check_or_raise``, and fail closed. Nothing is recorded.

    No error of ``consentd.errors`` is raised. After any error the outcome is INDETERMINATE and ``error`` is set.
    """
    asked = copied(question)
    try:
        return (yield from check_or_raise(context, asked, consistency=consistency))
    except ConsentdError as error:
        return refused(asked, error)


def batch_check(
    context: ClientContext, questions: Sequence[pb.Question], *, consistency: Reached | AtExact | None = None
) -> Operation[tuple[CheckAnswer, ...]]:
    """Ask up to 1,000 questions, answered at the same size of the ledger. Each answer fails closed separately."""
    asked = [copied(question) for question in questions]
    request = ps.BatchCheckRequest(each=ps.QuestionList(questions=asked), consistency=condition(consistency))
    return _batch(context, request, asked, consistency)


def check_subjects(
    context: ClientContext,
    question: pb.Question,
    subjects: Sequence[pb.Subject],
    *,
    consistency: Reached | AtExact | None = None,
) -> Operation[tuple[CheckAnswer, ...]]:
    """Ask one question, whose ``subject`` is empty, about up to 1,000 persons. Each answer fails closed separately."""
    asked = []
    for subject in subjects:
        about = copied(question)
        about.subject.CopyFrom(subject)
        asked.append(about)
    shared = ps.SharedQuestion(question=question, subjects=subjects)
    request = ps.BatchCheckRequest(shared=shared, consistency=condition(consistency))
    return _batch(context, request, asked, consistency)


def _batch(
    context: ClientContext, request: ps.BatchCheckRequest, questions: Sequence[pb.Question],
    consistency: Reached | AtExact | None,
) -> Operation[tuple[CheckAnswer, ...]]:  # fmt: skip
    if not questions:
        return ()
    try:
        response = yield from call(context, request, ps.BatchCheckResponse)
        if len(response.results) != len(questions):
            raise ProofError("batch has another number of answers than of questions")
    except ConsentdError as error:
        return tuple(refused(question, error) for question in questions)
    answers = []
    for question, result in zip(questions, response.results, strict=True):
        if result.HasField("decision"):
            answer = yield from read_decision(context, question, result.decision, consistency)
        else:
            answer = refused(question, proto_error(result.error))
        answers.append(answer)
    return tuple(answers)


def refused(question: pb.Question, error: ConsentdError) -> CheckAnswer:
    """Return the answer to a question for which no usable decision was received."""
    return CheckAnswer(question=question, decision=indeterminate(), error=error)


def read_decision(
    context: ClientContext, question: pb.Question, decision: pb.Decision,
    consistency: Reached | AtExact | None = None,
) -> Operation[CheckAnswer]:  # fmt: skip
    """Return *decision* as the answer to *question*; if it has a fault, an INDETERMINATE answer with this error."""
    is_past = isinstance(consistency, AtExact)
    fault = find_other_state(consistency, decision) or (
        find_fault(question, decision) if is_past else (yield from check_decision(context, question, decision))
    )
    if fault is not None:
        return refused(question, fault)
    return CheckAnswer(question=question, decision=decision, is_past=is_past)


def check_decision(
    context: ClientContext, question: pb.Question, decision: pb.Decision
) -> Operation[ConsentdError | None]:
    """Return an error if a decision cannot be used as an answer to *question*; otherwise None.

    If the question asks for a category with children, the vocabulary is read, once for each of its versions.
    """
    fault = find_fault(question, decision)
    if fault is not None:
        return fault
    vocabulary = None
    if needs_vocabulary(question, decision):
        try:
            vocabulary = yield from read_vocabulary(context, decision.vocabulary_version)
        except ConsentdError as error:
            return error
    return find_wrong_categories(question, decision, vocabulary)


def read_vocabulary(context: ClientContext, version: int) -> Operation[Vocabulary]:
    """Return a version of the vocabulary: the one in force, or one that this client read before.

    Raises:
        ProofError: another version is in force, or the vocabulary contradicts itself.
    """
    known = context.learned.vocabularies
    if version not in known:
        response = yield from call(context, rs.GetVocabularyRequest(), rs.GetVocabularyResponse)
        try:
            found = vocabulary_value(response.vocabulary)
        except ConsentdError as error:
            raise ProofError(f"vocabulary cannot be used: {error}") from error
        known[found.version] = found
    if version not in known:
        raise ProofError("decision was taken with another version of the vocabulary than is in force; ask again")
    return known[version]


def apply_residual(
    context: ClientContext, answer: CheckAnswer, resources: Iterable[Resource]
) -> Operation[tuple[Resource, ...]]:
    """Return those of *resources* that an answer permits: a PERMIT or a PARTIAL, with or without conditions.

    The vocabulary is read, once for each of its versions. A resource is permitted until ``valid_until_time_ms`` of the
    decision. See ``resources.permitted_resources`` for what is refused.

    Raises:
        NotPermittedError: the answer has other obligations that are not fulfilled, or is from an earlier state.
    """
    if answer.outcome not in PERMITS:
        return ()
    answer.require_present()
    vocabulary = yield from read_vocabulary(context, answer.decision.vocabulary_version)
    return permitted_resources(answer, resources, vocabulary)
