"""The laws of a decision (policy.md, rule 12), and more that follow from the rules, each on one drawn case.

A law draws a world and a question, asserts, and returns whether the case could break it: whether something was
permitted that the law says stays so, or is not permitted afterwards. ``LAWS`` has them by name.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from cases.policy_worlds import (
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

Law = Callable[[Draw], bool]
LATER = 10_000  # a leaf index after those of all consents and rules


def sets(answer: Decision) -> tuple[tuple[str, ...], ...]:
    return answer.permitted, answer.denied, answer.without_consent, answer.unknown


def drawn(draw: Draw) -> tuple[World, Question, int, str]:
    """Draw a world and a question of a caller who enforces no residual: what it is permitted flows."""
    world = draw.world()
    question = replace(draw.question(world), supported_obligations=frozenset())
    return world, question, draw.now(), draw.caller(question)


def flows(world: World, question: Question, now_ms: int, caller: str) -> set[str]:
    return set(world.compiled_answer(question, now_ms, caller).permitted)


def only(provision: Provision, effect: Effect) -> Provision:
    return replace(provision, effect=effect, children=tuple(only(child, effect) for child in provision.children))


def another(draw: Draw, effect: Effect, policies: tuple[ImplicitPolicy | None, ...]) -> StoredConsent:
    """Draw a consent that no drawn world has, of provisions with one effect."""
    kind = draw.random.choice([Kind.CONSENT, Kind.CONSENT, Kind.CONSENT, Kind.STATUTORY])
    policy = draw.random.choice(policies) if kind is Kind.CONSENT else None
    since = draw.random.choice(SINCE)
    root = draw.provision(effect=effect, depth=2, chance=0.2, vocabulary=VOCABULARY if since >= PUBLISHED else EARLIER)
    consent = Consent(kind=kind, root=only(root, effect), policy=policy)
    return StoredConsent(99, 99, 1, consent, since=since)


def added(world: World, *more: StoredConsent) -> World:
    return changed(world, consents=[*world.consents, *more])


def changed(world: World, **changes: object) -> World:
    return replace(world, **changes)  # type: ignore[arg-type]


def a_further_deny_never_permits_more(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    denied = another(draw, Effect.DENY, (None, None, ImplicitPolicy.DENY))
    before = flows(world, question, now_ms, caller)
    assert flows(added(world, denied), question, now_ms, caller) <= before
    return bool(before)


def a_further_deny_within_a_consent_never_permits_more(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    more = []
    for one in world.consents:
        root = one.consent.root
        child = only(draw.provision(effect=Effect.DENY, depth=1, vocabulary=EARLIER), Effect.DENY)
        root = replace(root, children=(*root.children, child))
        more.append(replace(one, consent=replace(one.consent, root=root)))
    before = flows(world, question, now_ms, caller)
    assert flows(changed(world, consents=more), question, now_ms, caller) <= before
    return bool(world.consents)


def a_consent_that_does_not_match_changes_nothing(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    unrelated = replace(draw.stored(99), readable=True)
    if _matches(world, unrelated, question, now_ms, caller):
        return False
    before = world.compiled_answer(question, now_ms, caller)
    assert added(world, unrelated).compiled_answer(question, now_ms, caller) == before
    return True


def _matches(world: World, one: StoredConsent, question: Question, now_ms: int, caller: str) -> bool:
    """Whether a provision of a consent matches a question, in one of the cases of rule 5, now or later."""
    asked = Asked(question, world.realm, now_ms, stated(question, caller, LEFT), enrolled=True)
    for case in Case:
        asked.case = case
        for code in set(question.categories) & set(CATEGORIES):
            if any(list(said_by_consent(asked, leaf, one)) for leaf in leaves(VOCABULARY, code)):
                return True
    return bool(asked.bounds)


def order_and_duplicates_change_no_outcome(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    before = world.compiled_answer(question, now_ms, caller)
    mixed = list(world.consents)
    draw.random.shuffle(mixed)
    assert changed(world, consents=mixed).value == world.value
    moved = [replace(one, lineage=at, seq=at) for at, one in enumerate(mixed, 1)]
    twice = [replace(one, lineage=one.lineage + 50, seq=one.seq + 50) for one in moved]
    for consents in (moved, [*moved, *twice]):
        after = changed(world, consents=consents).compiled_answer(question, now_ms, caller)
        assert sets(after) == sets(before)
        assert (after.valid_until_ms, after.obligations) == (before.valid_until_ms, before.obligations)
    return bool(world.consents)


def ordered_names_decide_as_their_namesakes(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    for plain, ordered in (
        (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES),
        (Combining.PERMIT_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES),
    ):
        one, other = (
            changed(world, rules=replace(world.rules, combining=name)).compiled_answer(question, now_ms, caller)
            for name in (plain, ordered)
        )
        assert sets(one) == sets(other)
        assert set(one.reasons) == set(other.reasons)
        newest_first = [reason.lineage for reason in other.reasons if "CONSENT" in reason.code.name and reason.lineage]
        # Categories with open conditions are decided after the others, so their reasons begin with the newest again.
        times = 2 if Obligation.ENFORCE_RESIDUAL in question.supported_obligations else 1
        assert sum(before < after for before, after in pairwise(newest_first)) < times
    return len(world.consents) > 1


def revoking_what_held_no_deny_permits_nothing_more(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    normal = (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)
    given_up = another(draw, Effect.PERMIT, (None, None, *normal))
    before = flows(added(world, given_up), question, now_ms, caller)
    assert flows(world, question, now_ms, caller) <= before
    return bool(before)


def pausing_never_permits_more(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    running = [replace(one, paused=False) for one in world.consents]
    before = flows(changed(world, consents=running), question, now_ms, caller)
    for index, one in enumerate(running):
        paused = [*running[:index], replace(one, paused=True), *running[index + 1 :]]
        assert flows(changed(world, consents=paused), question, now_ms, caller) <= before
    return bool(before)


def a_narrower_question_is_never_less_permitted(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    period = question.data_period
    inside = Period(11, 12) if period is None else Period(period.start_ms, period.start_ms + 1)
    narrower = replace(
        question,
        categories=tuple(draw.random.sample(question.categories, draw.random.randint(1, len(question.categories)))),
        resources=(question.resources or ("Condition/1",))[:1] if draw.random.random() < 0.7 else question.resources,
        data_period=inside if draw.random.random() < 0.7 else period,
    )
    wide = flows(world, question, now_ms, caller)
    assert wide & _leaves(narrower) <= flows(world, narrower, now_ms, caller)
    return bool(wide)


def _leaves(question: Question) -> set[str]:
    return {leaf for code in question.categories if code in CATEGORIES for leaf in leaves(VOCABULARY, code)}


def a_higher_level_is_never_more_permitted(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    low, high = sorted(draw.random.sample(range(len(LEVELS)), 2))
    lower, higher = (replace(question, level=LEVELS[at]) for at in (low, high))
    before = flows(world, lower, now_ms, caller)
    assert flows(world, higher, now_ms, caller) <= before
    return bool(before)


def erasing_a_person_never_permits_more(draw: Draw) -> bool:
    """A person is erased: not enrolled any more, without consents. What a STATUTORY consent denied is not counted."""
    world, question, now_ms, caller = drawn(draw)
    world = changed(world, consents=[one for one in world.consents if one.consent.kind is not Kind.STATUTORY])
    before = flows(world, question, now_ms, caller)
    after = flows(changed(world, consents=[], enrolled=False), question, now_ms, caller)
    assert after <= before
    return bool(before)


def joining_a_group_never_permits_more(draw: Draw) -> bool:
    """And leaving one changes nothing."""
    world, question, now_ms, caller = drawn(draw)
    before = world.compiled_answer(question, now_ms, caller)
    names = [name for name in (*PARTICIPANTS, *LEFT) if "/" not in name]
    ended = {
        name: [replace(one, end=LATER) if one.end == STILL and draw.random.random() < 0.5 else one for one in members]
        for name, members in MEMBERSHIPS.items()
    }
    assert _with_groups(world, ended).compiled_answer(question, now_ms, caller) == before
    groups = {name: draw.random.choice(["group/g", "group/h"]) for name in names}
    joined = {name: [*ended.get(name, ()), Membership(group, LATER + 1)] for name, group in groups.items()}
    assert flows(_with_groups(world, joined), question, now_ms, caller) <= set(before.permitted)
    return bool(before.permitted)


def _with_groups(world: World, memberships: Memberships) -> World:
    codebook = Codebook(world.vocabulary, NUMBERS, memberships, abroad=("abroad",))
    return changed(world, codebook=codebook, memberships=memberships)


EARLY = Codebook(EARLIER, NUMBERS, MEMBERSHIPS, abroad=("abroad",))


def publishing_a_vocabulary_changes_no_older_answer(draw: Draw) -> bool:
    """Consents and rules that were given under the earlier version decide its codes as before, and permit no others."""
    world = draw.world(since=[since for since in SINCE if since < PUBLISHED])
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    known = {code.code for name in ("purposes", "actions", "labels", "categories") for code in getattr(EARLIER, name)}
    after = world.compiled_answer(question, now_ms, caller)
    assert set(after.permitted) <= known
    if not {question.purpose, question.action} <= known:
        assert not after.permitted
    if not {question.purpose, question.action, *(question.labels or ()), *question.categories} <= known:
        return False
    before = changed(world, codebook=EARLY, vocabularies=VOCABULARIES[:1]).compiled_answer(question, now_ms, caller)
    for old, new in zip(sets(before), sets(after), strict=True):
        assert [code for code in new if code in known] == list(old)
    return True


def a_class_is_its_leaves_one_by_one(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    code = draw.random.choice(["CLIN", "SENS", "MIX"])
    whole = world.compiled_answer(replace(question, categories=(code,)), now_ms, caller)
    parts = [
        world.compiled_answer(replace(question, categories=(leaf,)), now_ms, caller)
        for leaf in leaves(VOCABULARY, code)
    ]
    for index, codes in enumerate(sets(whole)):
        assert list(codes) == [one for part in parts for one in sets(part)[index]]
    assert whole.valid_until_ms == min(part.valid_until_ms for part in parts)
    return bool(whole.permitted)


def every_category_comes_out_once_in_vocabulary_order(draw: Draw) -> bool:
    world = draw.world()
    question = draw.question(world)
    answer = world.compiled_answer(question, draw.now(), draw.caller(question))
    found = [code for codes in sets(answer) for code in codes]
    assert set(found) == _leaves(question) | (set(question.categories) - set(CATEGORIES))
    assert len(set(found)) == len(found)
    for codes in sets(answer)[:3]:
        assert list(codes) == sorted(codes, key=CATEGORIES.index)
    return len(found) > 1


def time_alone_changes_nothing_before_valid_until(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms = draw.question(world), draw.now()
    caller = draw.caller(question)
    answer = world.compiled_answer(question, now_ms, caller)
    assert answer.valid_until_ms > now_ms
    for later in {now_ms + 1, now_ms + 4, now_ms + 9, min(answer.valid_until_ms, 99) - 1}:
        if now_ms < later < answer.valid_until_ms:
            again = world.compiled_answer(question, later, caller)
            assert (sets(again), again.residual, again.valid_until_ms) == (
                sets(answer), answer.residual, answer.valid_until_ms,
            )  # fmt: skip
    return answer.valid_until_ms < OPEN_END_MS


def shifting_all_times_shifts_the_answer(draw: Draw) -> bool:
    world = draw.world()
    question, now_ms, by = draw.question(world), draw.now(), draw.random.randint(0, 10**12)
    caller = draw.caller(question)
    moved = [replace(one, consent=replace(one.consent, root=shifted(one.consent.root, by))) for one in world.consents]
    rules = replace(
        world.rules,
        statutory=tuple(shifted(rule, by) for rule in world.rules.statutory),
        break_glass=tuple(shifted(rule, by) for rule in world.rules.break_glass),
    )
    before = world.compiled_answer(question, now_ms, caller)
    after = changed(world, consents=moved, rules=rules).compiled_answer(question, now_ms + by, caller)
    until = before.valid_until_ms if before.valid_until_ms == OPEN_END_MS else before.valid_until_ms + by
    assert after == replace(before, valid_until_ms=until)
    return until < OPEN_END_MS


def shifted(provision: Provision, by: int) -> Provision:
    end = provision.end_ms if provision.end_ms == OPEN_END_MS else provision.end_ms + by
    children = tuple(shifted(child, by) for child in provision.children)
    return replace(provision, start_ms=provision.start_ms + by, end_ms=end, children=children)


def enforcing_residuals_loses_nothing(draw: Draw) -> bool:
    world, question, now_ms, caller = drawn(draw)
    plain = flows(world, question, now_ms, caller)
    answer = world.compiled_answer(replace(question, supported_obligations=RESIDUAL), now_ms, caller)
    assert plain <= set(answer.permitted)
    narrower = replace(
        question,
        labels=tuple(draw.random.sample(LABELS, 2)) if question.labels is None else question.labels,
        level=question.level or draw.random.choice(LEVELS),
        resources=question.resources or (draw.random.choice(RESOURCES),),
        data_period=question.data_period or draw.data_period(),
    )
    if Obligation.ENFORCE_RESIDUAL not in answer.obligations:
        assert set(answer.permitted) <= flows(world, narrower, now_ms, caller)
    return bool(answer.permitted)


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
        joining_a_group_never_permits_more,
        publishing_a_vocabulary_changes_no_older_answer,
        a_class_is_its_leaves_one_by_one,
        every_category_comes_out_once_in_vocabulary_order,
        time_alone_changes_nothing_before_valid_until,
        shifting_all_times_shifts_the_answer,
        enforcing_residuals_loses_nothing,
    )
}
