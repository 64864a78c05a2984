"""Compute the residual: conditions that the caller must check for each resource (policy.md, rule 5).

A question may leave labels, level, resources and data period open. The limits of matching provisions on these four
become conditions, also the limits on labels and level that rule 9 sets without their being named. Until
``valid_until_ms``, ``covers`` gives the answer of a Check call that states the four for a resource.

The caller needs no vocabulary. So a row becomes several conditions, if its categories differ in their labels or levels.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from consentd import limits
from consentd.policy.codebook import Codebook, PackedQuestion
from consentd.policy.compile import CompiledRules
from consentd.policy.fits import EITHER_CASE, Fits, level_of, top_level
from consentd.policy.match import CONSENT, NO_IDS, Matches, Prepared, Tree
from consentd.policy.model import (
    ANY,
    LEVELS,
    OPEN_END_MS,
    Combining,
    Effect,
    Layer,
    Period,
    ResidualRule,
    Resource,
)
from consentd.policy.rows import (
    ALL_64,
    NORMAL,
    PERMIT,
    SIDE,
    Rest,
    Side,
    decode_side,
)
from consentd.policy.shapes import KEY_SHIFT, UNKNOWNS, Node
from consentd.policy.side_blocks import NO_LIMITS, Limits
from consentd.policy.vocabulary import HIGHEST_LEVEL, LEVEL_NUMBERS, Closures, Sensitivity, unknown_level

_PERMIT_FIRST = (Combining.PERMIT_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES, Combining.DENY_UNLESS_PERMIT)


MAX_CONDITIONS: Final = limits.RESIDUAL_PROVISIONS
"""Most provisions and rules that a residual may have conditions of. Beyond, nothing is permitted on conditions."""

MAX_REFERENCES: Final = limits.RESIDUAL_REFERENCES
"""Most references to resources in a residual, in the same way."""

_ALWAYS: Final[Rest] = (0, 0, 0, OPEN_END_MS, 0, 0, 0, 0)
"""The fields of a row that has no limit on participants, and always was and will be in force."""


class Condition(NamedTuple):
    """A ``ResidualRule`` with masks instead of codes. ``expand`` converts conditions to rules.

    *any_labels* are those that the row names. In a deny, labels below them count too.
    """

    layer: int
    effect: Effect
    categories: int
    covered_labels: int = 0
    any_labels: int = 0
    level: int = 0
    resources: frozenset[str] = frozenset()
    data_period: Period | None = None
    children: "tuple[Condition, ...]" = ()


def conditions(
    prepared: Prepared, question: PackedQuestion, rules: CompiledRules, now_ms: int, *, permitted: int, found: Matches
) -> tuple[Condition, ...]:
    """Return the residual of an answer that permits the categories ``permitted``; empty: it would be over its limits.

    Unreadable lineages have no limits, so *found* (the best-case matches) has their effect.
    """
    combining = rules.combining
    trees = prepared.trees
    if rules.otherwise is not None:
        trees = [*trees, (CONSENT, NO_IDS, "", ((prepared.otherwise, _ALWAYS),), NO_LIMITS, 0)]
    if combining is Combining.DENY_UNLESS_PERMIT:
        trees = [tree for tree in trees if tree[0] <= CONSENT]  # layer CONSENT decides every category
    builder = _Builder(question, rules, now_ms, permitted)
    if builder.is_over_limits(trees):
        return ()
    rest: list[Condition] = []
    if prepared.is_closed:
        rest.append(Condition(CONSENT, Effect.DENY, permitted))
    for tree in trees:
        some = builder.conditions(tree)
        # The nodes of a tree become separate rules, unless *combining* lets a permit override a deny: then the permit
        # of one node would override the deny of another, so the tree stays one rule.
        is_mixed = len({one.effect for one in some}) > 1 or (len(some) > 1 and any(one.children for one in some))
        if is_mixed and combining in _PERMIT_FIRST and tree[0] == CONSENT:
            some = [Condition(CONSENT, Effect.DENY, 0, children=tuple(some))]
        rest += some
    unknown = found.masks[CONSENT][UNKNOWNS] & permitted
    if unknown:
        # An unreadable consent keeps lower layers from deciding, like a deny. *combining* may let a permit override it.
        rest.append(Condition(CONSENT, Effect.DENY, unknown))
    return tuple(sorted(rest, key=lambda condition: condition.layer))


class _Builder:
    """Makes conditions from the rows that match a question now, for the categories *permitted*."""

    def __init__(self, question: PackedQuestion, rules: CompiledRules, now_ms: int, permitted: int) -> None:
        self._question = question
        self._normal_level = rules.normal_level
        self._fits = Fits(question, EITHER_CASE, rules.normal_level)
        self._now_ms = now_ms
        self._permitted = permitted

    def _holds(self, node: Node) -> int:
        """Return the mask of categories that a row matches now, if every limit on an open attribute is met."""
        shape, rest = node
        if shape.kind == UNKNOWNS or not shape.mask or not rest[2] <= self._now_ms < rest[3]:
            return 0
        return shape.mask & self._fits[shape.key] & self._permitted

    def is_over_limits(self, trees: Iterable[Tree]) -> bool:
        """Return whether the conditions would be over ``MAX_CONDITIONS`` or ``MAX_REFERENCES``."""
        rows = references = 0
        for _, _, _, nodes, block, first in trees:
            for node in nodes:
                if self._holds(node):
                    rows += 1
                    references += _reference_count(node, block, first)
                    if rows > MAX_CONDITIONS or references > MAX_REFERENCES:
                        return True
        return False

    def conditions(self, tree: Tree) -> list[Condition]:
        """Return the conditions of one tree, with as few levels as possible.

        Three changes keep the answer: a permit becomes a sibling of its children; a deny without permits below it
        becomes a sibling of its parent; a node that does not match is replaced by its children. Only a deny with
        permits below it keeps children. Example: a permit with the children deny D1 and deny D2 (with a child permit E)
        becomes the permit, D1, and D2 with the child E. The code builds the lists in reverse order, because it reads
        the rows in reverse.
        """
        layer, _, _, nodes, block, first = tree
        # Subtrees whose parents come later: (index of the root, its conditions), the least index last.
        subtrees: list[tuple[int, list[Condition]]] = []
        for node in reversed(nodes):
            mask = self._holds(node)
            if not mask:
                continue
            shape, (*_, index, below) = node
            begin = len(subtrees)
            while begin and subtrees[begin - 1][0] <= index + below:
                begin -= 1
            children = [one for _, some in subtrees[begin:] for one in some]
            del subtrees[begin:]
            own = self._own(layer, node, mask, _side_of(node, block, first))
            exceptions: list[Condition] = []
            if not shape.key & PERMIT:
                exceptions = [one for one in children if one.effect is Effect.PERMIT or one.children]
                children = [one for one in children if one.effect is Effect.DENY and not one.children]
                children += _within(exceptions, ~mask)
            children += (
                one._replace(children=tuple(_within(exceptions, one.categories))[::-1]) for one in reversed(own)
            )
            subtrees.append((index, children))
        return [one for _, some in subtrees for one in some][::-1]

    def _own(self, layer: int, node: Node, mask: int, side: Side) -> list[Condition]:
        """Make conditions from those limits of a row whose attributes the question leaves open."""
        question, key = self._question, node[0].key
        permit = key & PERMIT
        found: dict[tuple[int, int, int], int] = {}
        for data in question.leaves.sensitivities:
            leaves = mask & data.leaves
            if leaves:
                limits = self._permit(key, side, data) if permit else self._deny(key, data)
                found[limits] = found.get(limits, 0) | leaves
        return [
            Condition(
                layer=layer,
                effect=Effect.PERMIT if permit else Effect.DENY,
                categories=leaves,
                covered_labels=covered,
                any_labels=some,
                level=level,
                resources=side.resources if question.resources is None else frozenset(),
                data_period=side.data_period if question.data_period is None else None,
            )
            for (covered, some, level), leaves in found.items()
        ]

    def _permit(self, key: int, side: Side, data: Sensitivity) -> tuple[int, int, int]:
        """Return (covered labels, labels of which one is needed, highest level) of a permit, for such data.

        A property that the question states limits the resource to what was stated.
        """
        question, labels = self._question, key >> KEY_SHIFT
        some = 0
        if question.labels is not None:
            covered = question.labels[0] | data.labels
        else:
            covered = ALL_64 if side.resources and not key & NORMAL else labels | data.labels
            some = 0 if labels & data.labels else labels
        top = top_level(key, data.level, self._normal_level)
        level = question.level_of(data.level) if question.level else top
        return covered, some, 0 if level == HIGHEST_LEVEL else level

    def _deny(self, key: int, data: Sensitivity) -> tuple[int, int, int]:
        """Return (0, labels of which one is needed, lowest level) of a deny, for such data."""
        question, labels = self._question, key >> KEY_SHIFT
        some = labels if question.labels is None and not labels & data.labels_above else 0
        level = level_of(key)
        return 0, some, level if not question.level and level > data.level else 0


def _within(some: Iterable[Condition], categories: int) -> list[Condition]:
    """Return what conditions say about these categories."""
    found = []
    for one in some:
        left = one._replace(categories=one.categories & categories, children=tuple(_within(one.children, categories)))
        if left.categories or left.children:
            found.append(left)
    return found


def _side_of(node: Node, block: Limits, first: int) -> Side:
    """Return the side record of a row. *first*: the word of all blocks at which the consent's side block begins."""
    _, (*_, side, flags, _, _) = node
    return decode_side(block.blocks[4 * first :], side) if flags & SIDE else Side()


def _reference_count(node: Node, block: Limits, first: int) -> int:
    """Return how many references the row's list of resources has."""
    _, (*_, side, flags, _, _) = node
    if not flags & SIDE:
        return 0
    resources = block.numbers[first + side + 1] & 0xFFFF
    return block.numbers[first + resources] if resources else 0


def expand(rest: Iterable[Condition], codebook: Codebook) -> tuple[ResidualRule, ...]:
    """Convert conditions to residual rules with the codes of the vocabulary."""
    label = codebook.vocabulary.label
    return tuple(
        ResidualRule(
            effect=one.effect,
            categories=codebook.codes(one.categories),
            covered_labels=_codes(label, one.covered_labels),
            any_labels=_codes(label, one.any_labels, below=one.effect is Effect.DENY),
            level=LEVELS[one.level - 1] if one.level else "",
            resources=tuple(sorted(one.resources)),
            data_period=one.data_period,
            layer=Layer(one.layer),
            children=expand(one.children, codebook),
        )
        for one in rest
    )


def data_permitted(question: PackedQuestion, codebook: Codebook) -> tuple[tuple[str, ...], str]:
    """Return the labels and the level of the data that a permit is for (policy.md, "Labels and level").

    The labels are those beside the labels of each category; ``*``: any, as far as the conditions permit. An empty level
    is the default level of each category. Both follow from the question and the caller's rights, so they show nothing
    of the person.
    """
    if question.labels is not None:
        labels = _codes(codebook.vocabulary.label, question.labels[0])
    else:
        labels = (ANY,) if question.residual else ()
    if question.level:
        return labels, LEVELS[question.level - 1]
    return labels, LEVELS[-1] if question.residual else ""


def _codes(label: Closures, mask: int, *, below: bool = False) -> tuple[str, ...]:
    """Return the labels in *mask*; if *below*, those below them too."""
    return tuple(code for code, bit in label.bits.items() if mask & (label.above[code] if below else bit))


def covers(
    residual: Iterable[ResidualRule], resource: Resource, *, combining: Combining = Combining.DENY_OVERRIDES
) -> bool:
    """Return whether the residual and the combining of a decision permit the transfer of a resource.

    A resource lies within what the question stated. Its labels include those outside the decision's vocabulary: no
    permit covers them.

    Raises:
        InvalidError: the resource states a level that does not exist.
    """
    if resource.level not in LEVEL_NUMBERS:
        raise unknown_level(resource.level)
    effects: dict[Layer, set[Effect]] = {}
    for rule in residual:
        effect = _value(rule, resource)
        if effect is not None:
            effects.setdefault(rule.layer, set()).add(effect)
    if not effects:
        return False
    layer = min(effects)
    permit_first = layer is Layer.CONSENT and combining in _PERMIT_FIRST
    return Effect.PERMIT in effects[layer] if permit_first else Effect.DENY not in effects[layer]


def _value(rule: ResidualRule, resource: Resource) -> Effect | None:
    inner = {_value(child, resource) for child in rule.children}
    for effect in (Effect.DENY, Effect.PERMIT):
        if effect in inner:
            return effect
    return rule.effect if resource.category in rule.categories and _fits(rule, resource) else None


def _fits(rule: ResidualRule, resource: Resource) -> bool:
    permit = rule.effect is Effect.PERMIT
    labels = set(resource.labels)
    if permit and not labels <= set(rule.covered_labels):
        return False
    if rule.any_labels and labels.isdisjoint(rule.any_labels):
        return False
    level, limit_level = LEVEL_NUMBERS[resource.level], LEVEL_NUMBERS[rule.level]
    if limit_level and (level > limit_level if permit else level < limit_level):
        return False
    if rule.resources and resource.reference not in rule.resources:
        return False
    limit, period = rule.data_period, resource.data_period
    if limit is None:
        return True
    if permit:
        return limit.start_ms <= period.start_ms and period.end_ms <= limit.end_ms
    return period.start_ms < limit.end_ms and limit.start_ms < period.end_ms
