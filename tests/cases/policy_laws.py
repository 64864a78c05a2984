"""The laws of a decision (policy.md, rule 12), and more that follow from the rules, each on drawn cases.

A law takes a drawn ``Scene`` (a world, and consents that a law may add to it), and returns a check of one ``Case`` (a
question about it). The check asserts, and returns whether the case could break the law. ``LAWS`` has them by name.

Where a law says that something is never more permitted, a case could break it if something was asked for that was not
permitted before, and the change touches the question.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from cases.policy_scenes import Case, Scene, changed, only
from cases.policy_worlds import (
    ABROAD,
    CATEGORIES,
    EARLIER,
    LABELS,
    LEFT,
    MEMBERSHIPS,
    NUMBERS,
    PARTICIPANTS,
    RESIDUAL,
    RESOURCES,
    VOCABULARIES,
    VOCABULARY,
    Draw,
    World,
    comparable,
)
from cases.recurring_worlds import near
from cases.reference_match import Asked
from cases.reference_policy import said_by_consent
from cases.reference_realm import above, leaves
from cases.reference_recurrence import Transfer
from cases.reference_sensitivity import Case as OpenCase
from consentd.policy.codebook import Codebook
from consentd.policy.evaluate import Verdict
from consentd.policy.model import (
    LEVELS,
    OPEN_END_MS,
    STILL,
    Combining,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Membership,
    Period,
    Provision,
    Question,
    ReasonCode,
    StoredConsent,
)

LATER = 10_000  # a leaf index after those of all consents and rules
GROUPS = ("group/g", "group/h")
LEAVES = tuple(code for code in CATEGORIES if code in leaves(VOCABULARY, code))

Check = Callable[[Case], bool]
Law = Callable[[Draw, Scene], Check]


def sets(answer: Decision) -> tuple[tuple[str, ...], ...]:
    return answer.permitted, answer.denied, answer.without_consent, answer.unknown


def masks(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.permitted, verdict.denied, verdict.without, verdict.unknown


def all_of(verdict: Verdict) -> tuple[object, ...]:
    return (
        masks(verdict), verdict.reasons, verdict.conditions, verdict.obligations, verdict.valid_until_ms, verdict.ref,
    )  # fmt: skip


def is_decided(verdict: Verdict) -> bool:
    """Return whether some provision decided something."""
    return any(effect is not None or code is ReasonCode.UNREADABLE_CONSENT for code, effect, *_ in verdict.reasons)


def permits_no_more(before: World, after: World, *, by: StoredConsent | None = None) -> Check:
    """Return a check that *after* permits no more than *before*.

    The change touches a question if the consent *by* says something about it; without *by*, if the answers differ.
    """
    alone = World([by], vocabularies=VOCABULARIES) if by else None

    def check(case: Case) -> bool:
        permitted = case.verdict(before).permitted
        if permitted == case.packed(before).categories:
            return False
        assert not case.verdict(after).permitted & ~permitted
        if alone:
            return case.verdict(alone).without != case.packed(alone).categories
        return all_of(case.verdict(before)) != all_of(case.verdict(after))

    return check


def a_further_deny_never_permits_more(_: Draw, scene: Scene) -> Check:
    return permits_no_more(scene.world, scene.with_deny, by=scene.deny)


def a_further_deny_within_a_consent_never_permits_more(draw: Draw, scene: Scene) -> Check:
    more = []
    for one in scene.world.consents:
        root = one.consent.root
        child = only(draw.provision(effect=Effect.DENY, depth=1, chance=0.15, vocabulary=EARLIER), Effect.DENY)
        root = replace(root, children=(*root.children, child))
        more.append(replace(one, consent=replace(one.consent, root=root)))
    return permits_no_more(scene.world, changed(scene.world, consents=more))


def a_consent_that_does_not_match_changes_nothing(_: Draw, scene: Scene) -> Check:
    world = scene.world
    after = changed(world, consents=[*world.consents, scene.other])

    def check(case: Case) -> bool:
        if all_of(case.verdict(world)) != all_of(case.verdict(after)):
            assert _matches(world, scene.other, case)
            return False
        return not _matches(world, scene.other, case)

    return check


def _matches(world: World, one: StoredConsent, case: Case) -> bool:
    """Whether a provision of a consent matches a question, in one of the cases of rule 5, now or later."""
    asked = Asked(case.question, world.realm, case.now_ms, world.who(case.question, case.caller), enrolled=True)
    for asked.case in OpenCase:
        if any(list(said_by_consent(asked, leaf, one)) for leaf in _leaves(case.question)):
            return True
    return bool(asked.bounds)


def order_and_duplicates_change_no_outcome(draw: Draw, scene: Scene) -> Check:
    world = scene.world
    mixed = list(world.consents)
    draw.random.shuffle(mixed)
    assert changed(world, consents=mixed).value == world.value
    moved = [replace(one, lineage=at, seq=at) for at, one in enumerate(mixed, 1)]
    twice = [replace(one, lineage=one.lineage + 50, seq=one.seq + 50) for one in moved]
    others = [changed(world, consents=consents) for consents in (moved, [*moved, *twice])]

    def check(case: Case) -> bool:
        before = case.verdict(world)
        for other in others:
            after = case.verdict(other)
            assert masks(after) == masks(before)
            assert (after.valid_until_ms, after.obligations) == (before.valid_until_ms, before.obligations)
            assert set(after.conditions) == set(before.conditions)
        return any(lineage for _, _, _, lineage, _, _ in before.reasons)

    return check


def ordered_names_decide_as_their_namesakes(draw: Draw, scene: Scene) -> Check:
    deny_first, permit_first = (
        (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES),
        (Combining.PERMIT_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES),
    )
    names = draw.random.choice([deny_first, permit_first])
    twice = [replace(one, lineage=at, seq=at) for at, one in enumerate((scene.permit, scene.deny) * 2, 90)]
    plain, ordered = (
        changed(
            scene.world,
            consents=[*scene.world.consents, *twice],
            rules=replace(scene.world.rules, combining=name),
        )
        for name in names
    )

    def check(case: Case) -> bool:
        one, other = case.verdict(plain), case.verdict(ordered)
        assert masks(one) == masks(other)
        assert set(one.reasons) == set(other.reasons)
        named = [lineage for code, _, _, lineage, _, _ in other.reasons if "CONSENT" in code.name and lineage]
        # Categories with open conditions are decided after the others, so their reasons begin anew.
        assert sum(before < after for before, after in pairwise(named)) < (2 if other.conditions else 1)
        return len(set(named)) > 1

    return check


def revoking_what_held_no_deny_permits_nothing_more(_: Draw, scene: Scene) -> Check:
    return permits_no_more(scene.with_permit, scene.world, by=scene.permit)


def pausing_never_permits_more(draw: Draw, scene: Scene) -> Check:
    consents = scene.with_permit.consents
    at = draw.random.choice([*range(len(consents)), -1])
    before, after = scene.with_permit, changed(scene.world, consents=_paused(consents, at, paused=True))
    if consents[at].paused:
        before = changed(scene.world, consents=_paused(consents, at, paused=False))
    return permits_no_more(before, after, by=before.consents[at])


def _paused(consents: list[StoredConsent], at: int, *, paused: bool) -> list[StoredConsent]:
    found = list(consents)
    found[at] = replace(found[at], paused=paused)
    return found


def a_narrower_question_is_never_less_permitted(draw: Draw, scene: Scene) -> Check:
    """Of a caller who enforces no residual: what is permitted on conditions may be lost."""

    def check(case: Case) -> bool:
        asked, pick = case.silent.question, draw.random
        period = asked.data_period
        inside = Period(11, 12) if period is None else Period(period.start_ms, period.start_ms + 1)
        count = pick.randint(1, len(asked.categories))
        narrower = case.silent.about(
            categories=tuple(pick.sample(asked.categories, count)),
            resources=(asked.resources or ("Condition/1",))[:1] if pick.random() < 0.7 else asked.resources,
            data_period=inside if pick.random() < 0.7 else period,
        )
        wide = case.silent.verdict(scene.world).permitted & narrower.packed(scene.world).categories
        assert not wide & ~narrower.verdict(scene.world).permitted
        return bool(wide) and narrower.question != asked

    return check


def _leaves(question: Question) -> set[str]:
    return {leaf for code in question.categories if code in CATEGORIES for leaf in leaves(VOCABULARY, code)}


def a_higher_level_is_never_more_permitted(draw: Draw, scene: Scene) -> Check:
    def check(case: Case) -> bool:
        low, high = sorted(draw.random.sample(LEVELS, 2), key=LEVELS.index)
        lower, higher = (case.about(level=level) for level in (low, high))
        before = lower.verdict(scene.world)
        assert not higher.verdict(scene.world).permitted & ~before.permitted
        return before.permitted != case.packed(scene.world).categories and is_decided(before)

    return check


def a_higher_normal_level_permits_nothing_more_by_older_consents(draw: Draw, scene: Scene) -> Check:
    """A case could break it if the same consents, given under the higher level, permit more."""
    low, high = sorted(draw.random.sample(LEVELS, 2), key=LEVELS.index)
    policy = draw.random.choice([ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL])
    permits = [replace(one, consent=replace(one.consent, policy=policy)) for one in scene.with_permit.consents
               if one.consent.kind is Kind.CONSENT and one.consent.root.effect is Effect.PERMIT]  # fmt: skip
    rules = replace(scene.world.rules, implicit_policy=ImplicitPolicy.DENY)
    before, after, newer = (
        World(permits, replace(rules, normal_level=now), vocabularies=VOCABULARIES, since=LATER,
              earlier_levels=[(0, then)])
        for then, now in ((low, low), (low, high), (high, high))
    )  # fmt: skip

    def check(case: Case) -> bool:
        if draw.random.random() < 0.9:  # mostly about what a normal policy is about
            normal = tuple(dict.fromkeys((*case.question.categories, "CLIN.A", "MIX.B")))
            case = case.about(
                purpose="TREAT", break_glass=None, labels=(), level=high, resources=None, categories=normal
            )
        permitted = case.verdict(before).permitted
        assert not case.verdict(after).permitted & ~permitted
        return bool(case.verdict(newer).permitted & ~permitted)

    return check


def erasing_a_person_never_permits_more(_: Draw, scene: Scene) -> Check:
    """A person is erased: not enrolled any more, without consents. What a STATUTORY consent denied is not counted."""
    consents = [one for one in scene.with_deny.consents if one.consent.kind is not Kind.STATUTORY]
    whole = len(consents) == len(scene.with_deny.consents)
    before = scene.with_deny if whole else changed(scene.world, consents=consents)
    return permits_no_more(before, changed(scene.world, consents=[], enrolled=False))


def joining_a_group_permits_nothing_more(draw: Draw, scene: Scene) -> Check:
    """And leaving one changes nothing. A case could break it if a group that somebody joins or leaves is named."""
    left, joined = _regrouped(draw.random.randrange(500))
    before = scene.with_permit
    without, after = (changed(before, codebook=codebook) for codebook in (left, joined))
    rules = before.rules
    named = {
        name
        for root in (*(one.consent.root for one in before.consents), *rules.statutory, *rules.break_glass)
        for name in _participants(root)
    }

    def check(case: Case) -> bool:
        told = case.verdict(before)
        assert all_of(case.verdict(without)) == all_of(told)
        assert not case.verdict(after).permitted & ~told.permitted
        actor = case.question.actor
        groups = {*_groups(joined, actor.on_behalf_of or actor.organisation), *_groups(joined, case.question.holder)}
        return not groups.isdisjoint(named) and told.permitted != case.packed(before).categories

    return check


def _participants(provision: Provision) -> Iterator[str]:
    yield from (*provision.actors, *provision.holders)
    for child in provision.children:
        yield from _participants(child)


def _groups(codebook: Codebook, name: str) -> list[str]:
    return [one.group for one in codebook.memberships.get(name, ())]


@lru_cache(maxsize=500)
def _regrouped(seed: int) -> tuple[Codebook, Codebook]:
    """Return the codebook after some participants left their groups, and after all joined a group besides."""
    pick = random.Random(seed)
    ended = {
        name: [replace(one, end=LATER) if one.end == STILL and pick.random() < 0.5 else one for one in members]
        for name, members in MEMBERSHIPS.items()
    }
    joined = {
        name: [*ended.get(name, ()), Membership(pick.choice(GROUPS), LATER + 1)]
        for name in (*PARTICIPANTS, *LEFT)
        if name not in GROUPS
    }
    return _with_groups(ended), _with_groups(joined)


def _with_groups(memberships: Mapping[str, list[Membership]]) -> Codebook:
    return Codebook(VOCABULARY, NUMBERS, memberships, abroad=ABROAD)


EARLY = Codebook(EARLIER, NUMBERS, MEMBERSHIPS, abroad=ABROAD)
OLD_CODES = {code.code for name in ("purposes", "actions", "labels", "categories") for code in getattr(EARLIER, name)}


def publishing_a_vocabulary_changes_no_older_answer(_: Draw, scene: Scene) -> Check:
    """Consents and rules that were given under the earlier version decide its codes as before, and permit no others."""
    world = scene.older
    before = changed(world, codebook=EARLY, vocabularies=VOCABULARIES[:1])

    def check(case: Case) -> bool:
        question, after = case.question, case.answer(world)
        assert set(after.permitted) <= OLD_CODES
        if not {question.purpose, question.action} <= OLD_CODES:
            assert not after.permitted
            return bool(world.consents)
        if not {*(question.labels or ()), *question.categories} <= OLD_CODES:
            return False
        for old, new in zip(sets(case.answer(before)), sets(after), strict=True):
            assert [code for code in new if code in OLD_CODES] == list(old)
        return is_decided(case.verdict(world))

    return check


def _with_old_categories(case: Case) -> Case:
    """Return a case without the categories that the earlier version does not have, if it has others."""
    old = tuple(code for code in case.question.categories if code in OLD_CODES)
    return case.about(categories=old) if old and old != case.question.categories else case


def a_reader_of_an_earlier_vocabulary_agrees_with_the_reference(draw: Draw, scene: Scene) -> Check:
    """What was given under a later version is unknown to it."""
    older = scene.older
    consents = [replace(one, since=draw.random.choice([90, 150, 150])) for one in older.consents]
    world = changed(older, codebook=EARLY, consents=consents)

    def check(case: Case) -> bool:
        case = _with_old_categories(case)
        question = case.question
        if not {question.purpose, question.action, *(question.labels or ()), *question.categories} <= OLD_CODES:
            return False
        found = case.answer(world)
        assert comparable(found) == comparable(world.reference_answer(question, case.now_ms, case.caller))
        return bool(found.unknown)

    return check


def a_class_is_its_leaves_one_by_one(draw: Draw, scene: Scene) -> Check:
    def check(case: Case) -> bool:
        parent = case.question.categories[0].partition(".")[0]
        code = parent if parent in ("CLIN", "SENS", "MIX") else draw.random.choice(["CLIN", "SENS", "MIX"])
        whole, *parts = (
            case.about(categories=(one,)).verdict(scene.world) for one in (code, *leaves(VOCABULARY, code))
        )
        assert masks(whole) == tuple(map(sum, zip(*map(masks, parts), strict=True)))
        assert whole.valid_until_ms == min(part.valid_until_ms for part in parts)
        return is_decided(whole)

    return check


def every_category_comes_out_once_in_vocabulary_order(_: Draw, scene: Scene) -> Check:
    def check(case: Case) -> bool:
        answer = case.answer(scene.world)
        found = [code for codes in sets(answer) for code in codes]
        assert set(found) == _leaves(case.question) | (set(case.question.categories) - set(CATEGORIES))
        assert len(set(found)) == len(found)
        for codes in sets(answer)[:3]:
            assert list(codes) == sorted(codes, key=CATEGORIES.index)
        return len(found) > 1

    return check


def time_alone_changes_nothing_before_valid_until(draw: Draw, scene: Scene) -> Check:
    def check(case: Case) -> bool:
        before, now_ms = case.verdict(scene.world), case.now_ms
        until = before.valid_until_ms
        assert until > now_ms
        for later in {draw.random.choice([now_ms + 1, now_ms + 4, now_ms + 9]), min(until, 99) - 1}:
            if now_ms < later < until:
                after = case.at(later).verdict(scene.world)
                assert (masks(after), after.conditions) == (masks(before), before.conditions)
                assert after.valid_until_ms == until
        return now_ms + 1 < until < OPEN_END_MS

    return check


def shifting_all_times_shifts_the_answer(draw: Draw, scene: Scene) -> Check:
    world, by = scene.world, draw.random.randint(1, 10**12)
    moved = [
        replace(one, consent=replace(one.consent, root=shifted(one.consent.root, by)))
        for one in world.consents
    ]
    rules = replace(
        world.rules,
        statutory=tuple(shifted(rule, by) for rule in world.rules.statutory),
        break_glass=tuple(shifted(rule, by) for rule in world.rules.break_glass),
    )
    after = changed(world, consents=moved, rules=rules)

    def check(case: Case) -> bool:
        before = case.verdict(world)
        until = before.valid_until_ms if before.valid_until_ms == OPEN_END_MS else before.valid_until_ms + by
        found = case.at(case.now_ms + by).verdict(after)
        assert found.valid_until_ms == until
        found.valid_until_ms = before.valid_until_ms
        assert all_of(found) == all_of(before)
        return until < OPEN_END_MS

    return check


def shifted(provision: Provision, by: int) -> Provision:
    end = provision.end_ms if provision.end_ms == OPEN_END_MS else provision.end_ms + by
    children = tuple(shifted(child, by) for child in provision.children)
    return replace(provision, start_ms=provision.start_ms + by, end_ms=end, children=children)


def enforcing_residuals_loses_nothing(draw: Draw, scene: Scene) -> Check:
    world = scene.world

    def check(case: Case) -> bool:
        answer, plain = (one.verdict(world) for one in (case.about(supported_obligations=RESIDUAL), case.silent))
        assert not plain.permitted & ~answer.permitted
        if not world.who(case.question, case.caller).gets_conditions:
            assert all_of(answer) == all_of(plain)  # the obligation changes nothing
        elif not answer.conditions:  # what is permitted without conditions flows
            question = case.question
            narrower = case.silent.about(
                labels=tuple(draw.random.sample(LABELS, 2)) if question.labels is None else question.labels,
                level=question.level or draw.random.choice(LEVELS),
                resources=question.resources or (draw.random.choice(RESOURCES),),
                data_period=question.data_period or draw.data_period(),
            )
            assert not answer.permitted & ~narrower.verdict(world).permitted
        return bool(answer.permitted)

    return check


def a_transfer_never_permits_more(draw: Draw, scene: Scene) -> Check:
    """And it changes no answer about other actions, or about transfers from other holders (rule 13)."""
    pick, world = draw.random, draw.recurring(scene.with_permit)
    lineages = [one for one in world.consents if one.consent.recurrence]
    if not lineages:
        return lambda _: False
    by = pick.choice(lineages)
    start_ms = by.consent.root.start_ms or world.given_ms[by.lineage]
    last_ms = max((one.time_ms for one in world.transfers), default=0)
    time_ms = max(last_ms, near(pick, by.consent.recurrence, start_ms))
    used = Transfer(by.lineage, pick.choice(["r", "r", "c"]), LEAVES, time_ms)
    before, after = world, changed(world, transfers=[*world.transfers, used])

    def check(case: Case) -> bool:
        holder = used.holder if pick.random() < 0.8 else case.question.holder
        action = "collect" if pick.random() < 0.8 else case.question.action
        case = case.about(action=action, holder=holder).at(time_ms + pick.choice([0, 0, 1, 1_000]))
        was, now = case.verdict(before), case.verdict(after)
        assert not now.permitted & ~was.permitted
        if holder != used.holder or "collect" not in above(VOCABULARY.actions, action):
            assert (masks(now), now.conditions) == (masks(was), was.conditions)
        return bool(was.permitted)

    return check


def the_end_of_an_authority_never_permits_more(draw: Draw, scene: Scene) -> Check:
    """Nor does it lift a deny, or change an answer of before (rule 8)."""
    world = draw.represented(scene.with_permit)
    seq = draw.random.choice(list(world.powers))
    power = replace(world.powers[seq], ended_ms=OPEN_END_MS)
    ended_ms = draw.now()
    before = changed(world, powers={**world.powers, seq: power})
    after = changed(world, powers={**world.powers, seq: replace(power, ended_ms=ended_ms)})

    def check(case: Case) -> bool:
        was, now = case.verdict(before), case.verdict(after)
        assert not now.permitted & ~was.permitted
        if case.now_ms < ended_ms:
            assert masks(now) == masks(was)
        return bool(was.permitted) and any(one.authority == seq for one in world.consents)

    return check


def a_campaign_never_permits_more(draw: Draw, scene: Scene) -> Check:
    """Nor does it change an answer of before its instant, or by which no consent under that notice decides (rule 8)."""
    pick = draw.random
    consents = [
        replace(one, notice=pick.choice([0, 1, 1])) if one.readable and one.consent.kind is not Kind.STATUTORY else one
        for one in scene.with_permit.consents
    ]
    from_ms = draw.now()
    before = changed(scene.with_permit, consents=consents, campaigns=[0])
    after = changed(before, campaigns=[0, from_ms])

    def check(case: Case) -> bool:
        was, now = case.verdict(before), case.verdict(after)
        assert not now.permitted & ~was.permitted
        if case.now_ms < from_ms or not any(one.notice for one in consents):
            assert masks(now) == masks(was)
        return bool(was.permitted) and any(one.notice for one in consents)

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
        a_higher_normal_level_permits_nothing_more_by_older_consents,
        erasing_a_person_never_permits_more,
        joining_a_group_permits_nothing_more,
        publishing_a_vocabulary_changes_no_older_answer,
        a_reader_of_an_earlier_vocabulary_agrees_with_the_reference,
        a_class_is_its_leaves_one_by_one,
        every_category_comes_out_once_in_vocabulary_order,
        time_alone_changes_nothing_before_valid_until,
        shifting_all_times_shifts_the_answer,
        enforcing_residuals_loses_nothing,
        a_transfer_never_permits_more,
        the_end_of_an_authority_never_permits_more,
        a_campaign_never_permits_more,
    )
}
