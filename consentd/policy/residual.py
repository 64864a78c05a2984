"""Compute the residual: conditions that the caller must check for each resource (policy.md, rule 5).

A question may leave labels, resources and data period open. The limits of matching provisions on these three become
conditions. Until ``valid_until_ms``, ``covers`` gives the answer of a Check call that states the three for a resource.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from consentd.policy.codebook import Codebook, PackedQuestion
from consentd.policy.compile import CompiledRules
from consentd.policy.match import (
    CONSENT,
    DENIES,
    EITHER_CASE,
    IMPLICIT,
    PERMITS,
    UNKNOWNS,
    Limits,
    Matches,
    StoredLineage,
    combining_for,
    lineages_of,
    match_row,
    realm_rules,
)
from consentd.policy.model import MAX_DEPTH, Combining, Effect, Layer, Period, ResidualRule, Resource
from consentd.policy.rows import PERMIT, SIDE, SIDE_RECORD, Fields, Row, Side, decode_side
from consentd.policy.subject import PAUSED, is_closed

_PERMIT_FIRST = (Combining.PERMIT_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES, Combining.DENY_UNLESS_PERMIT)


MAX_CONDITIONS: Final = 100
"""Most provisions and rules that a residual may have conditions of. Beyond, nothing is permitted on conditions."""

MAX_REFERENCES: Final = 1_000
"""Most references to resources in a residual, in the same way."""


class Condition(NamedTuple):
    """A ``ResidualRule`` with masks instead of codes. ``expand`` converts conditions to rules."""

    layer: int
    effect: Effect
    categories: int
    labels: int = 0
    resources: frozenset[str] = frozenset()
    data_period: Period | None = None
    children: "tuple[Condition, ...]" = ()


def conditions(
    value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int, *, permitted: int, found: Matches
) -> tuple[Condition, ...]:
    """Return the residual of an answer that permits the categories ``permitted``; empty: it would be over its limits.

    Unreadable lineages and the implicit policy have no limits, so *found* (the best-case matches) has their effect.
    """
    lineages = [lineage for lineage in lineages_of(value, question.version) if lineage.readable]
    of_rules = Limits(rules.block)
    ruled = [(layer, fields) for layer, applicable in realm_rules(rules, question) for fields, _ in applicable]
    candidates = [(row, lineage.block) for lineage in lineages for row in lineage.rows]
    candidates += [(fields, of_rules) for _, fields in ruled]
    holding = [(row, block) for row, block in candidates if _holds(row, block, question, now_ms) & permitted]
    if len(holding) > MAX_CONDITIONS or sum(_reference_count(*one) for one in holding) > MAX_REFERENCES:
        return ()
    rest: list[Condition] = []
    for layer, fields in ruled:
        mask = _holds(fields, of_rules, question, now_ms) & permitted
        if mask:
            rest.append(_condition(layer, fields, of_rules, question, mask, ()))
    combining = combining_for(value, question, rules)
    permit_first = combining in _PERMIT_FIRST
    if is_closed(value):
        rest.append(Condition(CONSENT, Effect.DENY, permitted))
    for lineage in lineages:
        tree = _tree(lineage, question, now_ms, permitted)
        # The nodes of a tree become separate rules, unless *combining* lets a permit override a deny: then the permit
        # of one node would override the deny of another, so the tree stays one rule.
        if len(tree) > 1 and permit_first and lineage.layer == CONSENT:
            tree = [Condition(lineage.layer, Effect.DENY, 0, children=tuple(tree))]
        rest += tree
    unknown = found.masks[CONSENT][UNKNOWNS] & permitted
    if unknown:
        # An unreadable consent keeps lower layers from deciding, like a deny. *combining* may let a permit override it.
        rest.append(Condition(CONSENT, Effect.DENY, unknown))
    if combining is Combining.PERMIT_UNLESS_DENY:
        rest.append(Condition(CONSENT, Effect.PERMIT, permitted))
    elif combining is not Combining.DENY_UNLESS_PERMIT and found.masks[IMPLICIT][PERMITS] & permitted:
        implied = found.masks[IMPLICIT]
        rest.append(Condition(IMPLICIT, Effect.PERMIT, implied[PERMITS] & ~implied[DENIES] & permitted))
    return tuple(sorted(rest, key=lambda condition: condition.layer))


def _holds(row: Fields, block: Limits, question: PackedQuestion, now_ms: int) -> int:
    """Return the mask of categories that a row matches now, if every limit on an open attribute is taken to match."""
    return match_row(row, block, question, EITHER_CASE) if row[4] <= now_ms < row[5] else 0


def _reference_count(row: Fields, block: Limits) -> int:
    """Return how many references the row's list of resources has."""
    word = SIDE_RECORD.unpack_from(block.block, row[8] * 4)[2] if row[9] & SIDE else 0
    return int.from_bytes(block.block[4 * word : 4 * word + 4], "little") if word else 0


def _condition(
    layer: int, fields: Fields, block: Limits, question: PackedQuestion, mask: int, children: tuple[Condition, ...]
) -> Condition:
    """Make a condition from those limits of a row whose attributes the question leaves open."""
    row = Row._make(fields)
    side = decode_side(block.block, row.side) if row.flags & SIDE else Side()
    return Condition(
        layer=layer,
        effect=Effect.PERMIT if row.flags & PERMIT else Effect.DENY,
        categories=mask,
        labels=row.labels if question.labels is None else 0,
        resources=side.resources if question.resources is None else frozenset(),
        data_period=side.data_period if question.data_period is None else None,
        children=children,
    )


def _tree(lineage: StoredLineage, question: PackedQuestion, now_ms: int, permitted: int) -> list[Condition]:
    """Return the conditions of one lineage, with as few levels as possible.

    Three changes keep the answer: a permit becomes a sibling of its children; a deny without permits below it becomes a
    sibling of its parent; a node that does not match is replaced by its children. Only a deny with permits below it
    keeps children. Example: a permit with the children deny D1 and deny D2 (with a child permit E) becomes the permit,
    D1, and D2 with the child E. The code builds the lists in reverse order, because it reads the rows in reverse.
    """
    below: list[list[Condition]] = [[] for _ in range(MAX_DEPTH + 1)]
    for row in reversed(lineage.rows):
        depth = row[10]
        children = below[depth + 1]
        below[depth + 1] = []
        permit = row[9] & PERMIT
        silent = permit and lineage.flags & PAUSED
        mask = 0 if silent else _holds(row, lineage.block, question, now_ms) & permitted
        exceptions: tuple[Condition, ...] = ()
        siblings = children
        if mask and not permit:
            exceptions = tuple(one for one in reversed(children) if one.effect is Effect.PERMIT or one.children)
            siblings = [one for one in children if one.effect is Effect.DENY and not one.children]
        below[depth] += siblings
        if mask:
            below[depth].append(_condition(lineage.layer, row, lineage.block, question, mask, exceptions))
    return below[0][::-1]


def expand(rest: Iterable[Condition], codebook: Codebook) -> tuple[ResidualRule, ...]:
    """Convert conditions to residual rules with the codes of the vocabulary."""
    labels = codebook.vocabulary.label.bits
    return tuple(
        ResidualRule(
            effect=one.effect,
            categories=codebook.codes(one.categories),
            labels=tuple(code for code, bit in labels.items() if one.labels & bit),
            resources=tuple(sorted(one.resources)),
            data_period=one.data_period,
            layer=Layer(one.layer),
            children=expand(one.children, codebook),
        )
        for one in rest
    )


def covers(
    residual: Iterable[ResidualRule], resource: Resource, *, combining: Combining = Combining.DENY_OVERRIDES
) -> bool:
    """Return whether the residual and the combining of a decision permit the transfer of a resource.

    The caller must itself refuse a resource that has a label outside the decision's vocabulary.
    """
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
    if rule.labels and not (labels <= set(rule.labels) if permit else labels & set(rule.labels)):
        return False
    if rule.resources and resource.reference not in rule.resources:
        return False
    limit, period = rule.data_period, resource.data_period
    if limit is None:
        return True
    if permit:
        return limit.start_ms <= period.start_ms and period.end_ms <= limit.end_ms
    return period.start_ms < limit.end_ms and limit.start_ms < period.end_ms
