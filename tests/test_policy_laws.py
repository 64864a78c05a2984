"""The laws of a decision (policy.md, rule 12), on generated worlds, for all six combining names."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases.policy_worlds import CATEGORIES, CODEBOOK, NUMBERS, VOCABULARY, Draw, World
from consentd.policy import model
from consentd.policy.compile import compile_consent
from consentd.policy.subject import with_consent, with_state, without_consent

draws = st.randoms(use_true_random=False).map(Draw)
laws = settings(max_examples=100)


def sets(answer: model.Decision) -> tuple[Sequence[str], ...]:
    return answer.permitted, answer.denied, answer.without_consent, answer.unknown


def leaves(question: model.Question) -> set[str]:
    return set(CODEBOOK.codes(CODEBOOK.categories(question.categories)[0]))


def silent(draw: Draw) -> model.Question:
    """A question whose asker enforces no residuals: what it is permitted flows."""
    return replace(draw.question(), supported_obligations=frozenset())


def denials(provision: model.Provision) -> bool:
    return provision.effect is not model.Effect.PERMIT or any(denials(child) for child in provision.children)


def only(provision: model.Provision, effect: model.Effect) -> model.Provision:
    return replace(provision, effect=effect, children=tuple(only(child, effect) for child in provision.children))


def shifted(provision: model.Provision, by: int) -> model.Provision:
    end = provision.end_ms if provision.end_ms == model.OPEN_END_MS else provision.end_ms + by
    children = tuple(shifted(child, by) for child in provision.children)
    return replace(provision, start_ms=provision.start_ms + by, end_ms=end, children=children)


def assert_narrows(after: World, before: World, question: model.Question, now_ms: int) -> None:
    """Assert that *after* permits nothing that *before* does not permit."""
    permitted, allowed = (set(world.compiled_answer(question, now_ms).permitted) for world in (after, before))
    assert permitted <= allowed


def another(draw: Draw, kind: model.Kind, effect: model.Effect) -> model.StoredConsent:
    """Draw a consent that no drawn world has, of provisions with one effect."""
    root = only(draw.provision(effect=effect, depth=2), effect)
    return model.StoredConsent(99, 99, 1, model.Consent(kind=kind, root=root))


@given(draws)
@laws
def test_adding_a_deny_never_widens(draw: Draw) -> None:
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    denied = another(draw, model.Kind.OBJECTION, model.Effect.DENY)
    assert_narrows(World([*world.consents, denied], world.rules), world, question, now_ms)


@given(draws)
@laws
def test_adding_a_deny_within_a_consent_never_widens(draw: Draw) -> None:
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    more = []
    for stored in world.consents:
        root = stored.consent.root
        child = only(draw.provision(effect=model.Effect.DENY, depth=1), model.Effect.DENY)
        root = replace(root, children=(*root.children, child))
        more.append(replace(stored, consent=replace(stored.consent, root=root)))
    assert_narrows(World(more, world.rules), world, question, now_ms)


@given(draws)
@laws
def test_an_unrelated_consent_changes_nothing(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    actor = question.actor
    used = {actor.organisation, actor.on_behalf_of, actor.application, *actor.relays}
    others = [name for name in ("a", "b", "c", "r") if name not in used]
    root = draw.provision(effect=draw.effect(), depth=2)
    for name in others:
        stranger = model.StoredConsent(99, 99, 1, model.Consent(kind=model.Kind.CONSENT, root=named(root, name)))
        after = World([*world.consents, stranger], world.rules).compiled_answer(question, now_ms)
        assert after == world.compiled_answer(question, now_ms)


def named(provision: model.Provision, actor: str) -> model.Provision:
    return replace(provision, actors=(actor,), children=tuple(named(child, actor) for child in provision.children))


@given(draws)
@laws
def test_order_of_writing_and_duplicates_do_not_matter(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    before = world.compiled_answer(question, now_ms)
    mixed = list(world.consents)
    draw.random.shuffle(mixed)
    assert World(mixed, world.rules).value == world.value
    twice = [replace(one, lineage=one.lineage + 50, seq=one.seq + 50) for one in world.consents]
    draw.random.shuffle(twice)
    after = World([*world.consents, *twice], world.rules).compiled_answer(question, now_ms)
    assert sets(after) == sets(before)
    assert after.valid_until_ms == before.valid_until_ms


@given(draws)
@laws
def test_ordered_names_decide_as_their_namesakes(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    for plain, ordered in (
        (model.Combining.DENY_OVERRIDES, model.Combining.ORDERED_DENY_OVERRIDES),
        (model.Combining.PERMIT_OVERRIDES, model.Combining.ORDERED_PERMIT_OVERRIDES),
    ):
        one, other = (
            World(world.consents, replace(world.rules, combining=name)).compiled_answer(question, now_ms)
            for name in (plain, ordered)
        )
        assert sets(one) == sets(other)
        assert set(one.reasons) == set(other.reasons)
        newest_first = [reason.lineage for reason in other.reasons if "CONSENT" in reason.code.name and reason.lineage]
        # Categories with open conditions are decided after the others, so their reasons begin with the newest again.
        times = 2 if model.Obligation.ENFORCE_RESIDUAL in question.supported_obligations else 1
        assert sum(before < after for before, after in pairwise(newest_first)) < times


@given(draws)
@laws
def test_revoking_what_held_no_deny_permits_nothing_more(draw: Draw) -> None:
    """A selected implicit policy counts as a deny here: it holds the realm's own policy off."""
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    given_up = another(draw, model.Kind.CONSENT, model.Effect.PERMIT)
    assert not denials(given_up.consent.root)
    assert_narrows(world, World([*world.consents, given_up], world.rules), question, now_ms)


@given(draws)
@laws
def test_pausing_never_widens(draw: Draw) -> None:
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    running = [replace(stored, paused=False) for stored in world.consents]
    for index, stored in enumerate(running):
        paused = [*running[:index], replace(stored, paused=True), *running[index + 1 :]]
        # What a lower layer permits anyway was permitted before too, unless this lineage denied it.
        assert_narrows(World(paused, world.rules), World(running, world.rules), question, now_ms)


@given(draws)
@laws
def test_a_narrower_request_is_never_less_permitted(draw: Draw) -> None:
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    period = question.data_period
    inside = model.Period(11, 12) if period is None else model.Period(period.start_ms, period.start_ms + 1)
    part = tuple(draw.random.sample(question.categories, draw.random.randint(1, len(question.categories))))
    labels = ("N", "HIV") if question.labels is None else question.labels
    narrower = replace(
        question,
        categories=part,
        labels=tuple(label for label in labels if draw.random.random() < 0.5),
        resources=(question.resources or ("Condition/1",))[:1],
        data_period=inside if draw.random.random() < 0.7 else period,
    )
    wide, narrow = world.compiled_answer(question, now_ms), world.compiled_answer(narrower, now_ms)
    assert set(wide.permitted) & leaves(narrower) <= set(narrow.permitted)


@given(draws)
@laws
def test_a_class_is_its_leaves_one_by_one(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    whole = world.compiled_answer(replace(question, categories=("CLIN",)), now_ms)
    parts = [
        world.compiled_answer(replace(question, categories=(code,)), now_ms) for code in ("CLIN.A", "CLIN.B", "CLIN.C")
    ]
    for index, codes in enumerate(sets(whole)):
        assert list(codes) == [code for part in parts for code in sets(part)[index]]
    assert whole.valid_until_ms == min(part.valid_until_ms for part in parts)


@given(draws)
@laws
def test_every_category_comes_out_once_in_vocabulary_order(draw: Draw) -> None:
    question = draw.question()
    answer = draw.world().compiled_answer(question, draw.now())
    found = [code for codes in sets(answer) for code in codes]
    assert set(found) == leaves(question) | (set(question.categories) - set(CATEGORIES))
    assert len(set(found)) == len(found)
    for codes in sets(answer)[:3]:
        assert list(codes) == sorted(codes, key=CATEGORIES.index)


@given(draws)
@laws
def test_time_alone_changes_nothing_before_valid_until(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    answer = world.compiled_answer(question, now_ms)
    assert answer.valid_until_ms > now_ms
    for later in range(now_ms, min(answer.valid_until_ms, now_ms + 60)):
        again = world.compiled_answer(question, later)
        assert (sets(again), again.residual, again.valid_until_ms) == (
            sets(answer), answer.residual, answer.valid_until_ms,
        )


@given(draws, st.integers(0, 10**12))
@laws
def test_shifting_all_times_shifts_the_answer(draw: Draw, by: int) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    moved = [
        replace(one, consent=replace(one.consent, root=shifted(one.consent.root, by))) for one in world.consents
    ]
    rules = replace(
        world.rules,
        statutory=tuple(shifted(rule, by) for rule in world.rules.statutory),
        break_glass=tuple(shifted(rule, by) for rule in world.rules.break_glass),
    )
    before, after = world.compiled_answer(question, now_ms), World(moved, rules).compiled_answer(question, now_ms + by)
    until = before.valid_until_ms if before.valid_until_ms == model.OPEN_END_MS else before.valid_until_ms + by
    assert after == replace(before, valid_until_ms=until)


@given(draws)
@laws
def test_enforcing_residuals_loses_nothing(draw: Draw) -> None:
    world, question, now_ms = draw.world(), silent(draw), draw.now()
    plain = world.compiled_answer(question, now_ms)
    enforcing = replace(question, supported_obligations=frozenset({model.Obligation.ENFORCE_RESIDUAL}))
    answer = world.compiled_answer(enforcing, now_ms)
    assert set(plain.permitted) <= set(answer.permitted)
    assert (answer.permitted != plain.permitted) == (model.Obligation.ENFORCE_RESIDUAL in answer.obligations)


@pytest.mark.parametrize("seed", range(20))
def test_any_path_to_a_state_leads_to_the_same_bytes(seed: int) -> None:
    """Grants, amendments, pauses, resumes and revokes in any history: rebuilding from the end state is byte-equal."""
    draw = Draw(random.Random(seed))
    value = b""
    state: dict[int, model.StoredConsent] = {}
    for seq in range(1, 60):
        lineage = draw.random.choice([*state, seq])
        act = draw.random.choice(["write", "write", "pause", "resume", "revoke"])
        if act == "write" or lineage not in state:
            version = state[lineage].version + 1 if lineage in state else 1
            paused = lineage in state and state[lineage].paused
            stored = replace(draw.stored(lineage), seq=seq, version=version, paused=paused)
            state[lineage] = stored
            value = with_consent(value, stored, compile_consent(stored, VOCABULARY, NUMBERS))
        elif act == "revoke":
            del state[lineage]
            value = without_consent(value, lineage)
        else:
            state[lineage] = replace(state[lineage], paused=act == "pause")
            value = with_state(value, lineage, paused=act == "pause")
        rebuilt = list(state.values())
        draw.random.shuffle(rebuilt)
        assert World(rebuilt, model.Rules()).value == value
