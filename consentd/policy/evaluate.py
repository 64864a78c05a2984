"""Answer a packed question from a person's rows. Each category is a bit, so one operation decides all categories.

There are two ways. Most subjects are SIMPLE (each consent is one row), and for most questions the realm has no rule.
Then one loop of mask-ANDs is enough. All other cases (nested provisions, labels, levels, groups, pauses, statutes,
break-glass, residuals) need ``match``, which finds the matching rows in each layer, and ``_decide``, which finds the
layer that decides. If both ways are possible, they give the same answer.

INVARIANT: no answer is cached. An answer depends only on the subject value, the question, the rules and the instant.
"""

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Final

from consentd import limits
from consentd.policy.codebook import Codebook, PackedQuestion
from consentd.policy.compile import CompiledRules
from consentd.policy.fits import BEST_CASE, STATED_CASE, WORST_CASE, Fits
from consentd.policy.match import CONSENT, Matches, Tree, match, match_trees
from consentd.policy.match_row import RowMatcher, denied_leaves
from consentd.policy.model import OPEN_END_MS, Combining, Decision, Effect, Obligation, Outcome, Reason, ReasonCode
from consentd.policy.prepare import prepare, prepare_realm
from consentd.policy.residual import Condition, conditions, data_permitted, expand
from consentd.policy.rows import ROW_SIZE
from consentd.policy.shapes import DENIES, PERMITS, UNKNOWNS
from consentd.policy.subject import CLOSED, ENTRY, SIMPLE, Ids
from consentd.policy.tree import path_of

_SIMPLE_ROW: Final = Struct("<IIQQQQ4xH2xB3x")
"""The fields that a row of a SIMPLE subject needs: actor, holder, purposes, categories, start, end, actions, flags. The
only flag of such a row is PERMIT."""

_ENTRY_IDS: Final = Struct("<IIH")
"""The first fields of a directory entry: lineage, seq, version."""

ENTRY_SIZE: Final = ENTRY.size
_NOTICE: Final = Struct("<I")
"""The last field of a directory entry: notice."""

assert _SIMPLE_ROW.size == ROW_SIZE

_NEWEST_FIRST: Final = (Combining.ORDERED_DENY_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES)
_DENY_FIRST: Final = (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES, Combining.PERMIT_UNLESS_DENY)
_CODES: Final = (  # index: the layer, then the kind (PERMITS, DENIES)
    (ReasonCode.PERMITTED_BY_LAW, ReasonCode.DENIED_BY_LAW),
    (ReasonCode.PERMITTED_BY_BREAK_GLASS, ReasonCode.DENIED_BY_BREAK_GLASS),
    (ReasonCode.PERMITTED_BY_CONSENT, ReasonCode.DENIED_BY_CONSENT),
    (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
    (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
)
_EFFECTS: Final = (Effect.PERMIT, Effect.DENY)

Masks = tuple[int, int, int, int]
"""Masks of the categories that are permitted, denied, without consent, and unknown."""

Met = tuple[int, int, int]
"""A row of a SIMPLE subject that matches now: its index, its flags, the categories that it permits or denies."""

MAX_REASONS: Final = limits.DECISION_REASONS
"""Most reasons of an answer. The first are kept."""

_MAX_ROW_REASONS: Final = MAX_REASONS - 6
"""Most rows among the reasons. The other reasons name no row: two of ``_verdict``, two of each call of ``_decide``."""

Refs = list[int]
"""Seq of the first consent that permits something (``PERMITS``), and of the first that denies (``DENIES``); 0: none."""

Reasons = list[tuple[ReasonCode, Effect | None, int, int, int, str]]
"""The fields of ``Reason`` as plain tuples. ``decision`` makes each a ``Reason``, if a decision is needed."""

_NO_CONSENT: Final = (ReasonCode.NO_MATCHING_CONSENT, None, 0, 0, 0, "")
_UNKNOWN_CATEGORY: Final = (ReasonCode.UNKNOWN_CATEGORY, None, 0, 0, 0, "")
_BREAK_GLASS_OBLIGATIONS: Final = (Obligation.NOTIFY_SUBJECT, Obligation.POST_REVIEW)


class Verdict:
    """An answer as masks. ``decision`` converts a verdict to codes.

    Attributes:
        permitted, denied, without, unknown: disjoint masks; together, all categories asked for that the vocabulary has.
        reasons: the rows that decided: first rules of the realm, then lineages, then the realm's implicit policy.
        conditions: the residual: what the caller must check; empty without the obligation ENFORCE_RESIDUAL.
        valid_until_ms: the first instant at which the passing of time alone may change the answer.
        ref: seq of the first consent that decided a category with the answer's effect; 0: no such consent.
        uses: which consents that recur permitted what: the seq of the GRANT, the categories, the end of the period.
    """

    __slots__ = (
        "conditions", "denied", "obligations", "outcome", "permitted", "reasons", "ref", "unknown", "uses",
        "valid_until_ms", "without",
    )  # fmt: skip

    def __init__(
        self, masks: Masks, reasons: Reasons, refs: Refs, question: PackedQuestion, valid_until_ms: int
    ) -> None:
        self.permitted, self.denied, self.without, self.unknown = permitted, denied, without, unknown = masks
        self.reasons = reasons
        self.valid_until_ms = valid_until_ms
        self.conditions: tuple[Condition, ...] = ()
        self.obligations: tuple[Obligation, ...] = ()
        self.ref = 0
        self.uses: tuple[tuple[int, int, int], ...] = ()
        strange = unknown or question.unknown
        if permitted:
            self.outcome = Outcome.PARTIAL if denied or without or strange else Outcome.PERMIT
            self.ref = refs[PERMITS]
            if question.break_glass:
                self.obligations = _BREAK_GLASS_OBLIGATIONS
        elif denied:
            self.outcome = Outcome.DENY
            self.ref = refs[DENIES]
        else:
            self.outcome = Outcome.INDETERMINATE if strange else Outcome.NO_CONSENT


def evaluate(value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int) -> Verdict:
    """Answer a question at an instant from a subject value.

    *value* is empty if the person has no consents, and None if the person is not enrolled. The realm's implicit policy
    and combining permit nothing about a person who is not enrolled (policy.md, "Not enrolled").

    The caller must have packed the question with a codebook of the same table revision as the rules. *value* must come
    from ``encode_subject``: damaged bytes are not detected here, and may give any answer or exception.
    """
    simple = not value or (value[1] & (SIMPLE | CLOSED) == SIMPLE and value[2] | value[3] << 8 <= question.version)
    if not simple or question.residual or question.break_glass or question.purpose in rules.by_purpose:
        return _evaluate_general(value, question, rules, now_ms)
    permits = denies = 0
    parties = question.parties
    until = parties.until_ms
    campaigns = rules.campaigns
    met: list[Met] = []
    if value:
        deny_purposes = question.deny_purposes
        rows = _SIMPLE_ROW.iter_unpack(value[8 + ENTRY_SIZE * (value[4] | value[5] << 8) :])
        for index, (actor, holder, purposes, categories, start, end, actions, flags) in enumerate(rows):
            if purposes & deny_purposes:  # they include the purpose asked for
                if flags:
                    mask = categories & question.plain
                    if not (
                        mask
                        and purposes & question.purpose
                        and actions & question.action
                        and holder in parties.holders
                        and actor in parties.permit_actors
                    ):
                        continue
                    if campaigns:
                        (notice,) = _NOTICE.unpack_from(value, 8 + ENTRY_SIZE * (index + 1) - _NOTICE.size)
                        asked = campaigns.get(notice)
                        if asked is not None and asked < end:
                            if asked <= start:
                                continue
                            end = asked
                elif (
                    categories & question.leaves.deny_mask
                    and actions & question.deny_actions
                    and holder in parties.holders
                    and actor in parties.deny_actors
                ):
                    mask = denied_leaves(categories, question.leaves)
                else:
                    continue
                if start > now_ms:
                    if start < until:
                        until = start
                elif now_ms < end:
                    if end < until:
                        until = end
                    met.append((index, flags, mask))
                    if flags:
                        permits |= mask
                    else:
                        denies |= mask
    if not rules.plain:
        return _with_realm(value, question, rules, now_ms, met=met, until=until)
    permits &= ~denies
    reasons, refs = _reasons(value, met, permits, denies)
    return _verdict((permits, denies, question.categories & ~(permits | denies), 0), reasons, refs, question, until)


def _reasons(value: bytes | None, met: Sequence[Met], permits: int, denies: int) -> tuple[Reasons, Refs]:
    """Return the reasons of a SIMPLE subject's answer. *permits*, *denies*: the categories permitted and denied."""
    reasons: Reasons = []
    refs = [0, 0]
    for index, flags, mask in met:
        if len(reasons) >= _MAX_ROW_REASONS and (refs[PERMITS] or not permits) and (refs[DENIES] or not denies):
            break
        if not flags:
            code, effect, kind = ReasonCode.DENIED_BY_CONSENT, Effect.DENY, DENIES
        elif mask & permits:
            code, effect, kind = ReasonCode.PERMITTED_BY_CONSENT, Effect.PERMIT, PERMITS
        else:
            continue
        ids = _ids(value, index)
        refs[kind] = refs[kind] or ids[0]
        if len(reasons) < _MAX_ROW_REASONS:
            reasons.append((code, effect, *ids, ""))
    return reasons, refs


def _with_realm(
    value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int, *, met: Sequence[Met], until: int
) -> Verdict:
    """Answer from the rows of a SIMPLE subject that match, and the realm's policy and combining."""
    found = Matches(until)
    for index, flags, mask in reversed(met) if rules.combining in _NEWEST_FIRST else met:
        found.add(CONSENT, PERMITS if flags else DENIES, mask, _ids(value, index))
    trees: list[Tree] = []
    matcher = RowMatcher(question, now_ms)
    otherwise = prepare_realm(trees, matcher, rules, enrolled=value is not None)
    fits = Fits(question, STATED_CASE, rules.normal_level)
    match_trees(found, trees, fits, now_ms)
    found.otherwise = otherwise.mask and otherwise.mask & fits[otherwise.key]
    return _verdict(*_decide(found, question.categories, rules.combining), question, until)


def _ids(value: bytes | None, index: int) -> Ids:
    lineage, seq, version = _ENTRY_IDS.unpack_from(value or b"", 8 + ENTRY_SIZE * index)
    return seq, lineage, version


def _evaluate_general(value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int) -> Verdict:
    """Answer any question: as stated, or if ``question.residual``, for the worst and the best case of what is open.

    A category that only the best case permits is permitted on conditions, which the caller checks for each resource.
    """
    combining = rules.combining
    prepared = prepare(value, question, rules, now_ms, newest_first=combining in _NEWEST_FIRST)
    fits = Fits(question, WORST_CASE if question.residual else STATED_CASE, rules.normal_level)
    found = match(prepared, fits, question, now_ms)
    masks, reasons, refs = _decide(found, question.categories, combining)
    until = found.until_ms
    rest: tuple[Condition, ...] = ()
    narrow = found
    if question.residual:
        best = Fits(question, BEST_CASE, rules.normal_level)
        # If every row matches the same leaves in both cases, both cases have the same matches.
        is_same = all(best[key] == mask for key, mask in fits.items())
        narrow = found if is_same else match(prepared, best, question, now_ms)
        until = min(until, narrow.until_ms)
        permitted = _decide(narrow, question.categories, combining)[0][0]
        conditional = permitted & ~masks[0]
        if conditional:
            rest = conditions(prepared, question, rules, now_ms, permitted=permitted, found=narrow)
        if rest:
            (_, denied, without, unknown), reasons, refs = _decide(found, question.categories & ~conditional, combining)
            masks = permitted, denied, without, unknown
            _, more, later = _decide(narrow, conditional, combining, most=_MAX_ROW_REASONS - len(reasons))
            reasons += more
            refs = [first or second for first, second in zip(refs, later, strict=True)]
    explained = 0
    for mask, _, _ in found.used_up:
        explained |= mask
    verdict = _verdict(masks, reasons, refs, question, until, explained)
    if found.recurring:
        uses = [*found.uses.items(), *(narrow.uses.items() if rest else ())]
        verdict.uses = _joined_uses(uses, found.recurring)
    if rest:
        verdict.conditions = rest
        verdict.obligations = (Obligation.ENFORCE_RESIDUAL, *verdict.obligations)
    return verdict


def _joined_uses(uses: Iterable[tuple[int, int]], recurring: Mapping[int, int]) -> tuple[tuple[int, int, int], ...]:
    """Return ``Verdict.uses``. *uses*: consents with the categories that they permit; a consent may be there twice."""
    masks: dict[int, int] = {}
    for lineage, mask in uses:
        masks[lineage] = masks.get(lineage, 0) | mask
    return tuple([(lineage, masks[lineage], recurring[lineage]) for lineage in sorted(masks)])


def undetermined(question: PackedQuestion, code: ReasonCode) -> Verdict:
    """Return the answer to a question that cannot be answered: all categories are unknown.

    *code* is the reason: CLOCK (the clock disagrees with the ledger) or DAMAGED_ROW (a row of the table).
    """
    reasons: Reasons = [(code, None, 0, 0, 0, "")]
    return _verdict((0, 0, 0, question.categories), reasons, [0, 0], question, OPEN_END_MS)


def no_consent(question: PackedQuestion) -> Verdict:
    """Return the answer that a question gets if nothing matches it."""
    return _verdict((0, 0, question.categories, 0), [], [0, 0], question, question.parties.until_ms)


def break_glass_refused(question: PackedQuestion) -> Verdict:
    """Return the answer to an emergency access that the actor has no right to ask for (rule 7)."""
    denied = question.categories
    reasons: Reasons = [(ReasonCode.DENIED_BY_BREAK_GLASS, Effect.DENY, 0, 0, 0, "")] if denied else []
    return _verdict((0, denied, 0, 0), reasons, [0, 0], question, question.parties.until_ms)


def _decide(
    found: Matches, asked: int, combining: Combining, most: int = _MAX_ROW_REASONS
) -> tuple[Masks, Reasons, Refs]:
    """Decide each category by the first layer in which the category is permitted, denied or unknown (rules 1, 3).

    Of the rows that decided, the first *most* become reasons.

    Example, with deny-overrides: STATUTE permits A; CONSENT permits A and B and denies B; IMPLICIT permits C. Then A
    and C are permitted, and B is denied. The reasons are the statute, the consent's deny, and the implicit policy.
    """
    permitted = denied = unknown = 0
    left = asked
    decided: list[tuple[int, int, int]] = []
    for layer, (permits, denies, unknowns) in enumerate(found.masks):
        permits &= left
        denies &= left
        unknowns &= left
        if layer != CONSENT or combining in _DENY_FIRST:
            if layer == CONSENT:
                permits |= found.otherwise & left
            unknowns &= ~denies
            permits &= ~(denies | unknowns)
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
    reasons: Reasons = []
    refs = [0, 0]
    # A row is a reason only if the row's layer decided one of the row's categories, with the row's effect.
    for layer, kind, mask, ids, where in found.rows():
        if not mask & decided[layer][kind]:
            continue
        if kind != UNKNOWNS:
            refs[kind] = refs[kind] or ids[0]
        if len(reasons) >= most:
            if (refs[PERMITS] or not permitted) and (refs[DENIES] or not denied):
                break
            continue
        if kind == UNKNOWNS:
            reasons.append((ReasonCode.UNREADABLE_CONSENT, None, *ids, path_of(where)))
        else:
            reasons.append((_CODES[layer][kind], _EFFECTS[kind], *ids, path_of(where)))
    if found.recurring:
        found.count_uses(decided)
    permits, denies, _ = found.masks[CONSENT]
    if decided[CONSENT][PERMITS] & ~permits:
        reasons.append((ReasonCode.PERMITTED_BY_COMBINING, Effect.PERMIT, 0, 0, 0, ""))
    if decided[CONSENT][DENIES] & ~denies:
        reasons.append((ReasonCode.DENIED_BY_COMBINING, Effect.DENY, 0, 0, 0, ""))
    if found.used_up:
        undecided = left | decided[CONSENT][DENIES] & ~denies
        for mask, ids, where in found.used_up:
            if mask & undecided and len(reasons) < most:
                reasons.append((ReasonCode.BEYOND_RECURRENCE, None, *ids, path_of(where)))
    return (permitted, denied, left, unknown), reasons, refs


def _verdict(
    masks: Masks, reasons: Reasons, refs: Refs, question: PackedQuestion, until: int, explained: int = 0
) -> Verdict:
    """Return the verdict. *explained*: categories without consent that have a reason."""
    if masks[2] and masks[2] & ~explained:
        reasons.append(_NO_CONSENT)
    if question.unknown:
        reasons.append(_UNKNOWN_CATEGORY)
    return Verdict(masks, reasons, refs, question, until)


def decision(verdict: Verdict, question: PackedQuestion, codebook: Codebook, rules: CompiledRules) -> Decision:
    """Convert a verdict to codes. The other arguments must be those that the verdict was computed with."""
    codes = codebook.codes
    unknown = codes(verdict.unknown)
    labels, level = data_permitted(question, codebook) if verdict.permitted else ((), "")
    return Decision(
        outcome=verdict.outcome,
        permitted=codes(verdict.permitted),
        denied=codes(verdict.denied),
        without_consent=codes(verdict.without),
        unknown=unknown + question.unknown if question.unknown else unknown,
        reasons=tuple([Reason(*reason) for reason in verdict.reasons]),
        obligations=verdict.obligations,
        residual=expand(verdict.conditions, codebook) if verdict.conditions else (),
        labels=labels,
        level=level,
        valid_until_ms=verdict.valid_until_ms,
        ref=verdict.ref,
        vocabulary_version=question.version,
        combining=rules.combining,
    )
