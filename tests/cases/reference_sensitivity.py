"""The reference for properties of data: labels, level, resources, data period (policy.md, rules 5 and 9).

A question may leave each of these open. Then a provision is compared in one of three *cases*. PLAIN: the caller
enforces no conditions. WORST and BEST: the caller does. In the worst case a permit matches if it would match all data,
and a deny if it would match some; in the best case the other way round. Each property is considered by itself.
"""

from enum import Enum

from cases.reference_realm import above, covered, default_level, is_limit, leaves, own_labels
from consentd.policy.model import LEVELS, Effect, Period, Provision, Question
from consentd.policy.vocabulary import Vocabulary

Case = Enum("Case", ["PLAIN", "WORST", "BEST"])
HIGHEST = len(LEVELS) - 1


def open_limit(effect: Effect | None, case: Case) -> bool:
    """Whether a limit on a property matches that the question leaves open."""
    return (effect is Effect.PERMIT) is (case is Case.BEST)


def labels_match(
    node: Provision, leaf: str, question: Question, case: Case, given: Vocabulary, known: Vocabulary
) -> bool:
    """Rule 9, *Labels*. *given* is the version that the provision was given under, *known* the one in force."""
    own, asked = own_labels(known, leaf), question.labels
    bears = own | set(asked or ())
    if node.effect is not Effect.PERMIT:
        if not is_limit(node.labels) or (asked is None and open_limit(node.effect, case)):
            return True
        return any(above(known.labels, label) & set(node.labels) for label in bears)
    named = covered(given.labels, node.labels) if is_limit(node.labels) else set()
    if named and not bears & named:
        # Labels left open: in the best case some data of the category bear a label that the permit names.
        return asked is None and case is Case.BEST and labels_covered(node, leaf, own, named, given)
    if asked is None and case is Case.WORST and not is_limit(node.resources):
        return False  # some data bear a label that no list of labels covers
    return labels_covered(node, leaf, bears, named, given)


def labels_covered(node: Provision, leaf: str, bears: set[str], named: set[str], given: Vocabulary) -> bool:
    """Whether a permit covers every label that the data bear."""

    def by_category(label: str) -> bool:
        return is_limit(node.categories) and any(
            leaf in covered(given.categories, [code])
            and all(label in own_labels(given, one) for one in leaves(given, code))
            for code in node.categories
        )

    return is_limit(node.resources) or all(label in named or by_category(label) for label in bears)


def level_matches(
    node: Provision, leaf: str, question: Question, case: Case, known: Vocabulary, *, is_holder: bool, normal: str
) -> bool:
    """Rule 9, *Level*. *normal*: the realm's normal level for a permit of a normal policy (rule 1); empty otherwise."""
    default = default_level(known, leaf)
    limit = LEVELS.index(node.level) if node.level else None
    lowest = highest = default
    if question.level:
        stated = LEVELS.index(question.level)
        lowest = highest = stated if question.resources is not None and is_holder else max(stated, default)
    elif case is not Case.PLAIN:
        highest = HIGHEST
    if node.effect is Effect.PERMIT:
        if normal:
            limit = min(LEVELS.index(normal), HIGHEST if limit is None else limit)
        return (lowest if case is Case.BEST else highest) <= (default if limit is None else limit)
    if limit is None:
        return True
    if not question.level and case is Case.PLAIN:
        return True  # what is left open is taken to match a deny
    return (lowest if case is Case.BEST else highest) >= limit


def extent_matches(node: Provision, question: Question, case: Case) -> bool:
    """Resources and data period: a permit matches what lies inside its limits, a deny what overlaps them."""
    permit = node.effect is Effect.PERMIT
    if is_limit(node.resources):
        if question.resources is None:
            fits = open_limit(node.effect, case)
        else:
            inside = [resource in node.resources for resource in question.resources]
            fits = all(inside) if permit else any(inside)
        if not fits:
            return False
    window, asked = node.data_period, question.data_period
    if window is None or window == Period():
        return True
    if asked is None:
        return open_limit(node.effect, case)
    if permit:
        return window.start_ms <= asked.start_ms and asked.end_ms <= window.end_ms
    return asked.start_ms < window.end_ms and window.start_ms < asked.end_ms
