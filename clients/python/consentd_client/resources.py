"""Apply an answer to single resources: which of them may flow.

``consentd.policy.residual.covers`` decides about the conditions of a permit; it is the code of the daemon. This module
decides whether a resource is one that the question asked for. What it does not know, it refuses.
"""

from collections.abc import Iterable

from consentd.errors import ConsentdError
from consentd.policy.model import LEVELS, Combining, Resource
from consentd.policy.residual import covers
from consentd.policy.vocabulary import Code, Vocabulary
from consentd.statements.decisions import residual_value
from consentd.statements.values import data_period_value
from consentd.v1 import consent_pb2 as pb
from consentd_client.answers import PERMITS, CheckAnswer, NotPermittedError


def permitted_resources(
    answer: CheckAnswer, resources: Iterable[Resource], vocabulary: Vocabulary
) -> tuple[Resource, ...]:
    """Return those of *resources* that an answer permits, in their order; none, if it permits nothing.

    *vocabulary*: the version that the decision was taken with. A resource is refused if it has no reference, a category
    that is not permitted, a label or level that the vocabulary does not have, or if it is not what the question asked
    for: other labels than stated, a higher level, another reference, or a time outside the data period. Where the
    question left labels or level open, the conditions of the answer decide. Without conditions, no label beyond those
    of the category is permitted, and no higher level.

    Raises:
        NotPermittedError: the answer has other obligations that are not fulfilled.
    """
    decision = answer.decision
    if decision.outcome not in PERMITS:
        return ()
    if set(answer.unfulfilled) - {pb.OBLIGATION_ENFORCE_RESIDUAL}:
        raise NotPermittedError("permit has obligations that are not fulfilled: confirm them with fulfil", answer)
    if vocabulary.version != decision.vocabulary_version:
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
        and _is_asked_for(answer.question, resource, leaves[resource.category], vocabulary, has_rules=bool(rules))
        and (not rules or covers(rules, resource, combining=combining))
    )


def _is_asked_for(
    asked: pb.Question, resource: Resource, category: Code, vocabulary: Vocabulary, *, has_rules: bool
) -> bool:
    """Return whether a resource of *category* is among the data that a question asked for.

    *has_rules*: the answer has conditions, which decide about what the question left open.
    """
    period = resource.data_period
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
    has_labels = (has_rules and not asked.HasField("labels")) or _has_labels(asked, resource, category)
    return has_labels and ((has_rules and not asked.level) or _has_level(asked, resource, category))


def _has_labels(asked: pb.Question, resource: Resource, category: Code) -> bool:
    """Return whether the resource has the labels asked for; if none are stated, those of its category."""
    # A permit may demand a label. So a resource without a label that the question states is not permitted either.
    return {*resource.labels, *category.labels} == {*asked.labels.values, *category.labels}


def _has_level(asked: pb.Question, resource: Resource, category: Code) -> bool:
    """Return whether the resource has at most the level asked for; if none is stated, that of its category."""
    return LEVELS.index(resource.level or category.level) <= LEVELS.index(asked.level or category.level)
