"""Apply an answer to single resources: which of them may flow.

``consentd.policy.residual.covers`` decides about the conditions of a permit; it is the code of the daemon. This module
decides whether a resource is one that the question asked for. What it does not know, it refuses.
"""

from collections.abc import Iterable

from consentd.errors import ConsentdError
from consentd.policy.model import ANY, LEVELS, Combining, Resource
from consentd.policy.residual import covers
from consentd.policy.vocabulary import Code, Vocabulary
from consentd.statements.decisions import residual_value
from consentd.statements.values import data_period_value
from consentd.v1 import consent_pb2 as pb
from consentd_client.answers import PERMITS, CheckAnswer, NotPermittedError, find_other_data


def permitted_resources(
    answer: CheckAnswer, resources: Iterable[Resource], vocabulary: Vocabulary
) -> tuple[Resource, ...]:
    """Return those of *resources* that an answer permits, in their order; none, if it permits nothing.

    *vocabulary*: the version that the decision was taken with. A resource is refused if it has no reference, a category
    that is not permitted, a label or level that the vocabulary does not have, or if it is not what the question asked
    for: other labels than the answer states, a higher level, another reference, or a time outside the data period.

    Raises:
        NotPermittedError: the answer has other obligations that are not fulfilled, or is from an earlier state.
    """
    decision = answer.decision
    if decision.outcome not in PERMITS:
        return ()
    answer.require_present()
    if set(answer.unfulfilled) - {pb.OBLIGATION_ENFORCE_RESIDUAL}:
        raise NotPermittedError("permit has obligations that are not fulfilled: confirm them with fulfil", answer)
    if vocabulary.version != decision.vocabulary_version or find_other_data(answer.question, decision) is not None:
        return ()
    try:
        rules = tuple(map(residual_value, decision.residual))
        combining = Combining(decision.combining) if rules else Combining.DENY_OVERRIDES
    except (ConsentdError, ValueError):
        return ()
    leaves = {code.code: code for code in vocabulary.categories if code.code in set(decision.permitted)}
    return tuple(
        resource
        for resource in resources
        if resource.category in leaves
        and _is_asked_for(answer, resource, leaves[resource.category], vocabulary)
        and (not rules or covers(rules, resource, combining=combining))
    )


def _is_asked_for(answer: CheckAnswer, resource: Resource, category: Code, vocabulary: Vocabulary) -> bool:
    """Return whether a resource of *category* is among the data that a question asked for, and an answer is about."""
    asked, decision, period = answer.question, answer.decision, resource.data_period
    if not resource.reference or period.start_ms >= period.end_ms:
        return False
    if not vocabulary.label.bits.keys() >= set(resource.labels) or resource.level not in ("", *LEVELS):
        return False
    if asked.HasField("resources") and resource.reference not in asked.resources.values:
        return False
    if asked.HasField("data_period"):
        limit = data_period_value(asked.data_period)
        if not (limit.start_ms <= period.start_ms and period.end_ms <= limit.end_ms):
            return False
    # A permit may demand a label. So a resource without a label that the question states is not permitted either.
    labels, own = set(decision.labels), set(category.labels)
    if ANY not in labels and {*resource.labels} | own != labels | own:
        return False
    return LEVELS.index(resource.level or category.level) <= LEVELS.index(decision.level or category.level)
