"""Evaluate a packed question on a subject's rows: masks in, masks out, nothing kept between two calls.

All categories are decided at once, one bit each. There are two ways through. Most subjects are SIMPLE (each
consent one row) and most questions meet no realm rule: one loop of mask-ANDs. The rest, nested provisions,
labels, pauses, statutes, break-glass, residuals, go through ``tally`` (what every row says, by layer) and
``_settle`` (which layer decides). Both ways give the same answer where both apply; the reference interpreter
(tests) is what the answer means.

INVARIANT: no answer is cached. What a verdict rests on is the value, the question, the rules and the instant.
"""

from struct import Struct
from typing import Final

from consentd.policy.codebook import Codebook, PackedQuestion
from consentd.policy.compile import CompiledRules
from consentd.policy.match import (
    CONSENT,
    DENIES,
    IMPLICIT,
    NARROWEST,
    PERMITS,
    UNKNOWNS,
    WIDEST,
    Ids,
    Tally,
    policy_masks,
    tally,
)
from consentd.policy.model import (
    OPEN_END_MS,
    Combining,
    Decision,
    Effect,
    Obligation,
    Outcome,
    Reason,
    ReasonCode,
)
from consentd.policy.residual import Condition, conditions, expand
from consentd.policy.rows import ROW_SIZE
from consentd.policy.subject import ENTRY, SIMPLE

_SIMPLE_ROW: Final = Struct("<IIQQQQ4xH2xB3x")
"""A row's actor, holder, purposes, categories, start, end, actions, flags: all that a simple row says."""

assert _SIMPLE_ROW.size == ROW_SIZE

_NEWEST_FIRST: Final = (Combining.ORDERED_DENY_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES)
_DENY_FIRST: Final = (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES, Combining.PERMIT_UNLESS_DENY)
_REASONS: Final = (  # by layer, then by kind
    (ReasonCode.PERMITTED_BY_LAW, ReasonCode.DENIED_BY_LAW),
    (ReasonCode.PERMITTED_BY_BREAK_GLASS, ReasonCode.DENIED_BY_BREAK_GLASS),
    (ReasonCode.PERMITTED_BY_CONSENT, ReasonCode.DENIED_BY_CONSENT),
    (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
)
_EFFECTS: Final = (Effect.PERMIT, Effect.DENY)

Masks = tuple[int, int, int, int]
"""Categories permitted, denied, without consent, unknown."""

Grounds = list[tuple[ReasonCode, Effect | None, int, int, int, str]]
"""Fields of ``Reason``, as plain tuples: most are never made into one."""

_NO_CONSENT: Final = (ReasonCode.NO_MATCHING_CONSENT, None, 0, 0, 0, "")
_UNKNOWN_CATEGORY: Final = (ReasonCode.UNKNOWN_CATEGORY, None, 0, 0, 0, "")
_BREAK_GLASS_OBLIGATIONS: Final = (Obligation.NOTIFY_SUBJECT, Obligation.POST_REVIEW)


class Verdict:
    """An answer in masks; ``decision`` puts it into codes.

    Attributes:
        permitted, denied, without, unknown: categories, disjoint; together those asked for that have a bit.
        grounds: what decided, top layer first.
        conditions: the residual, where obligations hold ENFORCE_RESIDUAL.
        valid_until_ms: when time alone may change the answer.
        ref: seq of the leaf relied on, 0 where none.
    """

    __slots__ = (
        "conditions",
        "denied",
        "grounds",
        "obligations",
        "outcome",
        "permitted",
        "ref",
        "unknown",
        "valid_until_ms",
        "without",
    )

    def __init__(
        self, masks: Masks, grounds: Grounds, question: PackedQuestion, valid_until_ms: int
    ) -> None:
        permitted, denied, without, unknown = masks
        self.permitted = permitted
        self.denied = denied
        self.without = without
        self.unknown = unknown
        self.grounds = grounds
        self.valid_until_ms = valid_until_ms
        self.conditions: tuple[Condition, ...] = ()
        self.obligations: tuple[Obligation, ...] = ()
        self.ref = 0
        strange = unknown or question.unknown
        effect: Effect | None = None
        if permitted:
            self.outcome = Outcome.PARTIAL if denied or without or strange else Outcome.PERMIT
            effect = Effect.PERMIT
            if question.break_glass:
                self.obligations = _BREAK_GLASS_OBLIGATIONS
        elif denied:
            self.outcome = Outcome.DENY
            effect = Effect.DENY
        else:
            self.outcome = Outcome.INDETERMINATE if strange else Outcome.NO_CONSENT
        if effect is not None:
            for ground in grounds:
                if ground[1] is effect and ground[2]:
                    self.ref = ground[2]
                    break


def evaluate(value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int) -> Verdict:
    """Answer a question on a subject's value at an instant.

    Args:
        value: what the table holds for the subject; None or empty: nothing.
        question: packed with the codebook that the rules were read with.
        now_ms: UTC milliseconds.
    """
    simple = not value or (value[1] & SIMPLE and value[2] | value[3] << 8 <= question.version)
    if not simple or question.break_glass or question.purpose in rules.by_purpose:
        return _evaluate_general(value, question, rules, now_ms)
    asked = question.categories
    permits = denies = 0
    until = OPEN_END_MS
    met: list[tuple[int, int, int]] = []
    if value:
        purpose, action = question.purpose, question.action
        rows = _SIMPLE_ROW.iter_unpack(value[8 + 14 * (value[4] | value[5] << 8) :])
        for index, (actor, holder, purposes, categories, start, end, actions, flags) in enumerate(rows):
            if purposes & purpose:
                mask = categories & asked
                if (
                    mask
                    and actions & action
                    and holder in question.holders
                    and actor in (question.permit_actors if flags & 1 else question.deny_actors)
                ):
                    if start > now_ms:
                        if start < until:
                            until = start
                    elif now_ms < end:
                        if end < until:
                            until = end
                        met.append((index, flags, mask))
                        if flags & 1:
                            permits |= mask
                        else:
                            denies |= mask
    if not rules.plain:
        found = Tally(until)
        for index, flags, mask in reversed(met) if rules.combining in _NEWEST_FIRST else met:
            found.say(CONSENT, PERMITS if flags & 1 else DENIES, mask, _ids(value, index))
        permitted, denied = policy_masks(rules.implicit_policy, question, rules, selected=False)
        found.say(IMPLICIT, PERMITS, permitted)
        found.say(IMPLICIT, DENIES, denied)
        masks, grounds = _settle(found, asked, rules.combining)
        return _verdict(masks, grounds, question, until)
    permits &= ~denies
    without = asked & ~(permits | denies)
    grounds = []
    for index, flags, mask in met:
        if not flags & 1:
            grounds.append((ReasonCode.DENIED_BY_CONSENT, Effect.DENY, *_ids(value, index), ""))
        elif mask & permits:
            grounds.append((ReasonCode.PERMITTED_BY_CONSENT, Effect.PERMIT, *_ids(value, index), ""))
    return _verdict((permits, denies, without, 0), grounds, question, until)


def _ids(value: bytes | None, index: int) -> Ids:
    lineage, seq, version, _, _, _ = ENTRY.unpack_from(value or b"", 8 + 14 * index)
    return seq, lineage, version


def _evaluate_general(value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int) -> Verdict:
    """Answer by tally; where the caller enforces residuals, for the narrowest extent as well as the widest."""
    newest_first = rules.combining in _NEWEST_FIRST
    found = tally(value, question, rules, now_ms, opens=WIDEST, newest_first=newest_first)
    masks, grounds = _settle(found, question.categories, rules.combining)
    until = found.until
    rest: tuple[Condition, ...] = ()
    if question.residual:
        narrow = tally(value, question, rules, now_ms, opens=NARROWEST, newest_first=newest_first)
        until = min(until, narrow.until)
        permitted = _settle(narrow, question.categories, rules.combining)[0][0]
        conditional = permitted & ~masks[0]
        if conditional:
            rest = conditions(value, question, rules, now_ms, permitted=permitted, found=narrow)
            (_, denied, without, unknown), grounds = _settle(found, question.categories & ~conditional, rules.combining)
            masks = permitted, denied, without, unknown
            grounds += _settle(narrow, conditional, rules.combining)[1]
    verdict = _verdict(masks, grounds, question, until)
    if rest:
        verdict.conditions = rest
        verdict.obligations = (Obligation.ENFORCE_RESIDUAL, *verdict.obligations)
    return verdict


def _settle(found: Tally, asked: int, combining: Combining) -> tuple[Masks, Grounds]:
    """Walk the layers from the top; the first that decides a category, or cannot tell, ends it (rules 1 and 3)."""
    permitted = denied = unknown = 0
    left = asked
    decided: list[tuple[int, int, int]] = []
    for layer, (permits, denies, unknowns) in enumerate(found.masks):
        permits &= left
        denies &= left
        unknowns &= left
        if layer != CONSENT or combining in _DENY_FIRST:
            unknowns &= ~denies
            permits &= ~(denies | unknowns)
            if layer == CONSENT and combining is Combining.PERMIT_UNLESS_DENY:
                permits = left & ~(denies | unknowns)
        else:
            unknowns &= ~permits
            denies &= ~(permits | unknowns)
            if combining is Combining.DENY_UNLESS_PERMIT:
                denies = left & ~(permits | unknowns)
        decided.append((permits, denies, unknowns))
        permitted |= permits
        denied |= denies
        unknown |= unknowns
        left &= ~(permits | denies | unknowns)
    grounds: Grounds = []
    for layer, kind, mask, ids, where in found.said:
        if mask & decided[layer][kind]:
            if kind == UNKNOWNS:
                grounds.append((ReasonCode.UNREADABLE_CONSENT, None, *ids, where))
            else:
                grounds.append((_REASONS[layer][kind], _EFFECTS[kind], *ids, where))
    permits, denies, _ = found.masks[CONSENT]
    if decided[CONSENT][PERMITS] & ~permits:
        grounds.append((ReasonCode.PERMITTED_BY_COMBINING, Effect.PERMIT, 0, 0, 0, ""))
    if decided[CONSENT][DENIES] & ~denies:
        grounds.append((ReasonCode.DENIED_BY_COMBINING, Effect.DENY, 0, 0, 0, ""))
    return (permitted, denied, left, unknown), grounds


def _verdict(masks: Masks, grounds: Grounds, question: PackedQuestion, until: int) -> Verdict:
    if masks[2]:
        grounds.append(_NO_CONSENT)
    if question.unknown:
        grounds.append(_UNKNOWN_CATEGORY)
    return Verdict(masks, grounds, question, until)


def decision(verdict: Verdict, question: PackedQuestion, codebook: Codebook, rules: CompiledRules) -> Decision:
    """Put a verdict into codes.

    Args:
        question, codebook, rules: those it was reached with.
    """
    codes = codebook.codes
    unknown = codes(verdict.unknown)
    return Decision(
        outcome=verdict.outcome,
        permitted=codes(verdict.permitted),
        denied=codes(verdict.denied),
        without_consent=codes(verdict.without),
        unknown=unknown + question.unknown if question.unknown else unknown,
        reasons=tuple([Reason(*ground) for ground in verdict.grounds]),
        obligations=verdict.obligations,
        residual=expand(verdict.conditions, codebook) if verdict.conditions else (),
        valid_until_ms=verdict.valid_until_ms,
        ref=verdict.ref,
        vocabulary_version=question.version,
        combining=rules.combining,
    )
