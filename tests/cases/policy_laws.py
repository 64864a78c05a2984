"""The laws of a decision (policy.md, rule 12), and more that follow from the rules, each on drawn cases.

A law takes a drawn world, and returns a check of one question about it. The check asserts, and returns whether the
case could break the law: whether there was something that the law says stays so. ``LAWS`` has them by name.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from cases.policy_worlds import (
    ABROAD,
    CATEGORIES,
    EARLIER,
    LABELS,
    LEFT,
    MEMBERSHIPS,
    NUMBERS,
    PARTICIPANTS,
    PUBLISHED,
    RESIDUAL,
    RESOURCES,
    SINCE,
    VOCABULARIES,
    VOCABULARY,
    Draw,
    Memberships,
    World,
    comparable,
)
from cases.reference_actor import stated
from cases.reference_match import Asked
from cases.reference_policy import said_by_consent
from cases.reference_realm import leaves
from cases.reference_sensitivity import Case
from consentd.policy.codebook import Codebook
from consentd.policy.model import (
    LEVELS,
    OPEN_END_MS,
    STILL,
    Combining,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Membership,
    Obligation,
    Period,
    Provision,
    Question,
    StoredConsent,
)

Check = Callable[[Question, int, str], bool]
Law = Callable[[Draw, World], Check]
LATER = 10_000  # a leaf index after those of all consents and rules


def try_law(name: str, draw: Draw, questions: int = 4) -> int:
    """Draw a world and some questions about it, and check a law; return how many of these cases could break it."""
    world = draw.world(since=[since for since in SINCE if since < PUBLISHED] if "publishing" in name else SINCE)
    check, could = LAWS[name](draw, world), 0
    for _ in range(questions):
        question = draw.question(world)
        could += check(question, draw.now(), draw.caller(question))
    return could


def sets(answer: Decision) -> tuple[tuple[str, ...], ...]:
    return answer.permitted, answer.denied, answer.without_consent, answer.unknown


def silent(question: Question) -> Question:
    """Return the question of a caller who enforces no residual."""
    return replace(question, supported_obligations=frozenset())


def flows(world: World, question: Question, now_ms: int, caller: str) -> set[str]:
    """Return what is permitted, with or without conditions."""
    return set(world.compiled_answer(question, now_ms, caller).permitted)


def only(provision: Provision, effect: Effect) -> Provision:
    return replace(provision, effect=effect, children=tuple(only(child, effect) for child in provision.children))


def another(draw: Draw, effect: Effect, policies: tuple[ImplicitPolicy | None, ...]) -> StoredConsent:
    """Draw a consent that no drawn world has, of provisions with one effect."""
    kind = draw.random.choice([Kind.CONSENT, Kind.CONSENT, Kind.CONSENT, Kind.STATUTORY])
    policy = draw.random.choice(policies) if kind is Kind.CONSENT else None
    since = draw.random.choice(SINCE)
    vocabulary = VOCABULARY if since >= PUBLISHED else EARLIER
    root = only(draw.provision(effect=effect, depth=2, chance=0.2, vocabulary=vocabulary), effect)
    return StoredConsent(99, 99, 1, Consent(kind=kind, root=root, policy=policy), since=since)


def changed(world: World, **changes: object) -> World:
    return replace(world, **changes)  # type: ignore[arg-type]


def permits_no_more(before: World, *after: World) -> Check:
    """Return a check that no world of *after* permits more than *before*."""

    def check(question: Question, now_ms: int, caller: str) -> bool:
        permitted = flows(before, question, now_ms, caller)
        for world in after:
            assert flows(world, question, now_ms, caller) <= permitted
        return bool(permitted and after)

    return check


def a_further_deny_never_permits_more(draw: Draw, world: World) -> Check:
    denied = another(draw, Effect.DENY, (None, None, ImplicitPolicy.DENY))
    return permits_no_more(world, changed(world, consents=[*world.consents, denied]))


def a_further_deny_within_a_consent_never_permits_more(draw: Draw, world: World) -> Check:
    more = []
    for one in world.consents:
        root = one.consent.root
        child = only(draw.provision(effect=Effect.DENY, depth=1, vocabulary=EARLIER), Effect.DENY)
        root = replace(root, children=(*root.children, child))
        more.append(replace(one, consent=replace(one.consent, root=root)))
    return permits_no_more(world, changed(world, consents=more))


def a_consent_that_does_not_match_changes_nothing(draw: Draw, world: World) -> Check:
    unrelated = replace(draw.stored(99), readable=True)
    after = changed(world, consents=[*world.consents, unrelated])

    def check(question: Question, now_ms: int, caller: str) -> bool:
        if _matches(world, unrelated, question, now_ms, caller):
            return False
        answers = (one.compiled_answer(question, now_ms, caller) for one in (world, after))
        assert next(answers) == next(answers)
        return True

    return check


def _matches(world: World, one: StoredConsent, question: Question, now_ms: int, caller: str) -> bool:
    """Whether a provision of a consent matches a question, in one of the cases of rule 5, now or later."""
    asked = Asked(question, world.realm, now_ms, stated(question, caller, LEFT), enrolled=True)
    for case in Case:
        asked.case = case
        if any(list(said_by_consent(asked, leaf, one)) for leaf in _leaves(question)):
            return True
    return bool(asked.bounds)


def order_and_duplicates_change_no_outcome(draw: Draw, world: World) -> Check:
    mixed = list(world.consents)
    draw.random.shuffle(mixed)
    assert changed(world, consents=mixed).value == world.value
    moved = [replace(one, lineage=at, seq=at) for at, one in enumerate(mixed, 1)]
    twice = [replace(one, lineage=one.lineage + 50, seq=one.seq + 50) for one in moved]
    others = [changed(world, consents=consents) for consents in (moved, [*moved, *twice])]

    def check(question: Question, now_ms: int, caller: str) -> bool:
        before = world.compiled_answer(question, now_ms, caller)
        for other in others:
            after = other.compiled_answer(question, now_ms, caller)
            assert sets(after) == sets(before)
            assert (after.valid_until_ms, after.obligations) == (before.valid_until_ms, before.obligations)
        return bool(world.consents)

    return check


def ordered_names_decide_as_their_namesakes(_: Draw, world: World) -> Check:
    pairs = [
        [changed(world, rules=replace(world.rules, combining=name)) for name in names]
        for names in (
            (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES),
            (Combining.PERMIT_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES),
        )
    ]

    def check(question: Question, now_ms: int, caller: str) -> bool:
        for worlds in pairs:
            one, other = (each.compiled_answer(question, now_ms, caller) for each in worlds)
            assert sets(one) == sets(other)
            assert set(one.reasons) == set(other.reasons)
            newest_first = [why.lineage for why in other.reasons if "CONSENT" in why.code.name and why.lineage]
            # Categories with open conditions are decided after the others, so their reasons begin anew.
            times = 2 if Obligation.ENFORCE_RESIDUAL in question.supported_obligations else 1
            assert sum(before < after for before, after in pairwise(newest_first)) < times
        return len(world.consents) > 1

    return check


def revoking_what_held_no_deny_permits_nothing_more(draw: Draw, world: World) -> Check:
    normal = (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)
    given_up = another(draw, Effect.PERMIT, (None, None, *normal))
    return permits_no_more(changed(world, consents=[*world.consents, given_up]), world)


def pausing_never_permits_more(_: Draw, world: World) -> Check:
    running = [replace(one, paused=False) for one in world.consents]
    after = [
        changed(world, consents=[*running[:at], replace(one, paused=True), *running[at + 1 :]])
        for at, one in enumerate(running)
    ]
    return permits_no_more(changed(world, consents=running), *after)


def a_narrower_question_is_never_less_permitted(draw: Draw, world: World) -> Check:
    """Of a caller who enforces no residual: what is permitted on conditions may be lost."""

    def check(question: Question, now_ms: int, caller: str) -> bool:
        question, period = silent(question), question.data_period
        inside = Period(11, 12) if period is None else Period(period.start_ms, period.start_ms + 1)
        count = draw.random.randint(1, len(question.categories))
        narrower = replace(
            question,
            categories=tuple(draw.random.sample(question.categories, count)),
            resources=(question.resources or ("Condition/1",))[:1]
            if draw.random.random() < 0.7
            else question.resources,
            data_period=inside if draw.random.random() < 0.7 else period,
        )
        wide = flows(world, question, now_ms, caller)
        assert wide & _leaves(narrower) <= flows(world, narrower, now_ms, caller)
        return bool(wide)

    return check


def _leaves(question: Question) -> set[str]:
    return {leaf for code in question.categories if code in CATEGORIES for leaf in leaves(VOCABULARY, code)}


def a_higher_level_is_never_more_permitted(draw: Draw, world: World) -> Check:
    def check(question: Question, now_ms: int, caller: str) -> bool:
        low, high = sorted(draw.random.sample(range(len(LEVELS)), 2))
        lower, higher = (replace(question, level=LEVELS[at]) for at in (low, high))
        before = flows(world, lower, now_ms, caller)
        assert flows(world, higher, now_ms, caller) <= before
        return bool(before)

    return check


def erasing_a_person_never_permits_more(_: Draw, world: World) -> Check:
    """A person is erased: not enrolled any more, without consents. What a STATUTORY consent denied is not counted."""
    before = changed(world, consents=[one for one in world.consents if one.consent.kind is not Kind.STATUTORY])
    return permits_no_more(before, changed(world, consents=[], enrolled=False))


def joining_a_group_permits_nothing_more(draw: Draw, world: World) -> Check:
    """And leaving one changes nothing."""
    ended = {
        name: [replace(one, end=LATER) if one.end == STILL and draw.random.random() < 0.5 else one for one in members]
        for name, members in MEMBERSHIPS.items()
    }
    names = [name for name in (*PARTICIPANTS, *LEFT) if "/" not in name]
    groups = {name: draw.random.choice(["group/g", "group/h"]) for name in names}
    joined = {name: [*ended.get(name, ()), Membership(group, LATER + 1)] for name, group in groups.items()}
    left, after = (_with_groups(world, memberships) for memberships in (ended, joined))

    def check(question: Question, now_ms: int, caller: str) -> bool:
        before = world.compiled_answer(question, now_ms, caller)
        assert left.compiled_answer(question, now_ms, caller) == before
        assert flows(after, question, now_ms, caller) <= set(before.permitted)
        return bool(before.permitted)

    return check


def _with_groups(world: World, memberships: Memberships) -> World:
    codebook = Codebook(world.vocabulary, NUMBERS, memberships, abroad=ABROAD)
    return changed(world, codebook=codebook, memberships=memberships)


EARLY = Codebook(EARLIER, NUMBERS, MEMBERSHIPS, abroad=ABROAD)
OLD_CODES = {code.code for name in ("purposes", "actions", "labels", "categories") for code in getattr(EARLIER, name)}


def publishing_a_vocabulary_changes_no_older_answer(_: Draw, world: World) -> Check:
    """Consents and rules that were given under the earlier version decide its codes as before, and permit no others."""
    before = changed(world, codebook=EARLY, vocabularies=VOCABULARIES[:1])

    def check(question: Question, now_ms: int, caller: str) -> bool:
        after = world.compiled_answer(question, now_ms, caller)
        assert set(after.permitted) <= OLD_CODES
        if not {question.purpose, question.action} <= OLD_CODES:
            assert not after.permitted
            return True
        if not {*(question.labels or ()), *question.categories} <= OLD_CODES:
            return False
        answer = before.compiled_answer(question, now_ms, caller)
        for old, new in zip(sets(answer), sets(after), strict=True):
            assert [code for code in new if code in OLD_CODES] == list(old)
        return True

    return check


def a_reader_of_an_earlier_vocabulary_agrees_with_the_reference(draw: Draw, _: World) -> Check:
    """What was given under a later version is unknown to it."""
    world = draw.world(since=[0, 60, 90])
    given = [replace(one, since=draw.random.choice([90, 150])) for one in world.consents]
    world = changed(world, codebook=EARLY, consents=given)

    def check(question: Question, now_ms: int, caller: str) -> bool:
        named = {question.purpose, question.action, *(question.labels or ()), *question.categories}
        if not named <= OLD_CODES:
            return False
        found = world.compiled_answer(question, now_ms, caller)
        assert comparable(found) == comparable(world.reference_answer(question, now_ms, caller))
        return bool(found.unknown)

    return check


def a_class_is_its_leaves_one_by_one(draw: Draw, world: World) -> Check:
    def check(question: Question, now_ms: int, caller: str) -> bool:
        code = draw.random.choice(["CLIN", "SENS", "MIX"])
        whole, *parts = (
            world.compiled_answer(replace(question, categories=(one,)), now_ms, caller)
            for one in (code, *leaves(VOCABULARY, code))
        )
        for index, codes in enumerate(sets(whole)):
            assert list(codes) == [one for part in parts for one in sets(part)[index]]
        assert whole.valid_until_ms == min(part.valid_until_ms for part in parts)
        return bool(whole.permitted)

    return check


def every_category_comes_out_once_in_vocabulary_order(_: Draw, world: World) -> Check:
    def check(question: Question, now_ms: int, caller: str) -> bool:
        answer = world.compiled_answer(question, now_ms, caller)
        found = [code for codes in sets(answer) for code in codes]
        assert set(found) == _leaves(question) | (set(question.categories) - set(CATEGORIES))
        assert len(set(found)) == len(found)
        for codes in sets(answer)[:3]:
            assert list(codes) == sorted(codes, key=CATEGORIES.index)
        return len(found) > 1

    return check


def time_alone_changes_nothing_before_valid_until(_: Draw, world: World) -> Check:
    def check(question: Question, now_ms: int, caller: str) -> bool:
        answer = world.compiled_answer(question, now_ms, caller)
        assert answer.valid_until_ms > now_ms
        for later in {now_ms + 1, now_ms + 4, now_ms + 9, min(answer.valid_until_ms, 99) - 1}:
            if now_ms < later < answer.valid_until_ms:
                again = world.compiled_answer(question, later, caller)
                assert (sets(again), again.residual) == (sets(answer), answer.residual)
                assert again.valid_until_ms == answer.valid_until_ms
        return answer.valid_until_ms < OPEN_END_MS

    return check


def shifting_all_times_shifts_the_answer(draw: Draw, world: World) -> Check:
    by = draw.random.randint(0, 10**12)
    moved = [replace(one, consent=replace(one.consent, root=shifted(one.consent.root, by))) for one in world.consents]
    rules = replace(
        world.rules,
        statutory=tuple(shifted(rule, by) for rule in world.rules.statutory),
        break_glass=tuple(shifted(rule, by) for rule in world.rules.break_glass),
    )
    after = changed(world, consents=moved, rules=rules)

    def check(question: Question, now_ms: int, caller: str) -> bool:
        before = world.compiled_answer(question, now_ms, caller)
        until = before.valid_until_ms if before.valid_until_ms == OPEN_END_MS else before.valid_until_ms + by
        assert after.compiled_answer(question, now_ms + by, caller) == replace(before, valid_until_ms=until)
        return until < OPEN_END_MS

    return check


def shifted(provision: Provision, by: int) -> Provision:
    end = provision.end_ms if provision.end_ms == OPEN_END_MS else provision.end_ms + by
    children = tuple(shifted(child, by) for child in provision.children)
    return replace(provision, start_ms=provision.start_ms + by, end_ms=end, children=children)


def enforcing_residuals_loses_nothing(draw: Draw, world: World) -> Check:
    def check(question: Question, now_ms: int, caller: str) -> bool:
        plain = flows(world, silent(question), now_ms, caller)
        answer = world.compiled_answer(replace(question, supported_obligations=RESIDUAL), now_ms, caller)
        assert plain <= set(answer.permitted)
        narrower = replace(
            silent(question),
            labels=tuple(draw.random.sample(LABELS, 2)) if question.labels is None else question.labels,
            level=question.level or draw.random.choice(LEVELS),
            resources=question.resources or (draw.random.choice(RESOURCES),),
            data_period=question.data_period or draw.data_period(),
        )
        if Obligation.ENFORCE_RESIDUAL not in answer.obligations:  # what is permitted without conditions flows
            assert set(answer.permitted) <= flows(world, narrower, now_ms, caller)
        return bool(answer.permitted)

    return check


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        a_further_deny_never_permits_more,
        a_further_deny_within_a_consent_never_permits_more,
        a_consent_that_does_not_match_changes_nothing,
        order_and_duplicates_change_no_outcome,
        ordered_names_decide_as_their_namesakes,
        revoking_what_held_no_deny_permits_nothing_more,
        pausing_never_permits_more,
        a_narrower_question_is_never_less_permitted,
        a_higher_level_is_never_more_permitted,
        erasing_a_person_never_permits_more,
        joining_a_group_permits_nothing_more,
        publishing_a_vocabulary_changes_no_older_answer,
        a_reader_of_an_earlier_vocabulary_agrees_with_the_reference,
        a_class_is_its_leaves_one_by_one,
        every_category_comes_out_once_in_vocabulary_order,
        time_alone_changes_nothing_before_valid_until,
        shifting_all_times_shifts_the_answer,
        enforcing_residuals_loses_nothing,
    )
}
