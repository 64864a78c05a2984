"""What a campaign does to answers: from its instant on, permits under an earlier version do not count (rule 8)."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cases.policy_agreement import check_answer
from cases.policy_worlds import Draw, World, kind_of
from consentd.policy.model import (
    OPEN_END_MS,
    Actor,
    Combining,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Outcome,
    Provision,
    Question,
    Rules,
    StoredConsent,
)
from consentd.policy.subject import SIMPLE
from consentd.table.notices import notices_of

AT_MS = 1_000
PERMIT, DENY = Effect.PERMIT, Effect.DENY
QUESTION = Question(
    actor=Actor(organisation="a"), holder="r", purpose="TREAT", action="access", categories=("CLIN.A",), labels=(),
)  # fmt: skip


def given(root: Provision, *, notice: int = 1, lineage: int = 1, **more: Any) -> StoredConsent:
    """Return a consent that was given under a version of a notice."""
    return StoredConsent(
        lineage=lineage, seq=lineage, version=1, consent=Consent(kind=Kind.CONSENT, root=root, **more), notice=notice
    )


def provision(effect: Effect = PERMIT, **more: Any) -> Provision:
    return Provision(effect=effect, actors=("a",), purposes=("TREAT",), categories=("CLIN.A",), **more)


def asked(world: World, now_ms: int, question: Question = QUESTION) -> Decision:
    """Return the answer, which is the reference's too."""
    found, meant = (answer(question, now_ms) for answer in (world.compiled_answer, world.reference_answer))
    assert (found.outcome, found.valid_until_ms) == (meant.outcome, meant.valid_until_ms)
    return found


@pytest.mark.parametrize("simple", [True, False])
@pytest.mark.parametrize("combining", [Combining.DENY_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES])
def test_17_2_a_permit_under_an_earlier_version_counts_until_the_instant(*, simple: bool, combining: Combining) -> None:
    others = [] if simple else [given(provision(DENY, labels=("HIV",)), notice=0, lineage=2)]
    world = World([given(provision()), *others], Rules(combining=combining), campaigns=[0, AT_MS])
    assert bool(world.value[1] & SIMPLE) is simple  # type: ignore[index]
    before, at, after = (asked(world, AT_MS + by) for by in (-1, 0, 1))
    assert (before.outcome, before.valid_until_ms) == (Outcome.PERMIT, AT_MS)
    assert {(one.outcome, one.valid_until_ms) for one in (at, after)} == {(Outcome.NO_CONSENT, OPEN_END_MS)}
    renewed = replace(world, consents=[given(provision(), notice=2), *others])
    assert (asked(renewed, AT_MS).outcome, asked(renewed, AT_MS).valid_until_ms) == (Outcome.PERMIT, OPEN_END_MS)
    unasked = replace(world, campaigns=[0, 0])
    assert asked(unasked, AT_MS).outcome is Outcome.PERMIT


def test_the_first_instant_of_several_later_versions_counts() -> None:
    for campaigns, until in (([0, 0, 30], 30), ([0, 20, 30], 20), ([0, 30, 20], 20), ([10, 0, 0], OPEN_END_MS)):
        world = World([given(provision())], Rules(), campaigns=campaigns)
        assert asked(world, 5).valid_until_ms == until
    world = World([given(provision(), notice=2)], Rules(), campaigns=[0, 20, 30])
    assert asked(world, 25).valid_until_ms == 30


def test_denies_stay_and_permits_nested_in_them_do_not() -> None:
    world = World([given(provision(DENY))], Rules(), campaigns=[0, AT_MS])
    assert asked(world, AT_MS).outcome is Outcome.DENY
    nested = replace(provision(DENY), children=(Provision(effect=PERMIT),))
    world = World([given(nested)], Rules(), campaigns=[0, AT_MS])
    assert [asked(world, AT_MS + by).outcome for by in (-1, 0)] == [Outcome.PERMIT, Outcome.DENY]


def test_the_permits_of_its_implicit_policy_end_too_and_the_deny_of_break_glass_only_stays() -> None:
    other = replace(QUESTION, categories=("CLIN.B",))
    world = World([given(provision(), policy=ImplicitPolicy.BREAK_GLASS_ONLY)], Rules(), campaigns=[0, AT_MS])
    assert asked(world, AT_MS).outcome is Outcome.DENY
    everything = replace(provision(), categories=("*",), labels=("HIV",))
    world = World([given(everything, policy=ImplicitPolicy.ALL_NORMAL)], Rules(), campaigns=[0, AT_MS])
    assert asked(world, AT_MS, other).outcome is Outcome.NO_CONSENT


def test_a_permit_that_begins_at_the_instant_or_later_is_never_in_force() -> None:
    for start_ms, until in ((AT_MS - 1, AT_MS - 1), (AT_MS, OPEN_END_MS), (AT_MS + 1, OPEN_END_MS)):
        world = World([given(provision(start_ms=start_ms))], Rules(), campaigns=[0, AT_MS])
        assert asked(world, 1).valid_until_ms == until
        assert asked(world, AT_MS + 1).outcome is Outcome.NO_CONSENT


@pytest.mark.parametrize("simple", [True, False])
def test_a_campaign_does_not_lengthen_a_permit_that_ends_before_its_instant(*, simple: bool) -> None:
    others = [] if simple else [given(provision(DENY, labels=("HIV",)), notice=0, lineage=2)]
    world = World([given(provision(end_ms=AT_MS - 100)), *others], Rules(), campaigns=[0, AT_MS])
    assert bool(world.value[1] & SIMPLE) is simple  # type: ignore[index]
    before, at = (asked(world, AT_MS - 100 + by) for by in (-1, 0))
    assert (before.outcome, before.valid_until_ms) == (Outcome.PERMIT, AT_MS - 100)
    assert (at.outcome, at.valid_until_ms) == (Outcome.NO_CONSENT, OPEN_END_MS)


def test_the_evaluator_and_the_reference_agree() -> None:
    draw, kinds = Draw(random.Random(15_2)), Counter[str]()
    for _ in range(150):
        world = draw.any_world()
        if draw.random.random() < 0.3:
            world = draw.represented(world)
        drawn = draw.asked_again(world)
        for _ in range(4):
            kinds[kind_of(check_answer(draw, drawn))] += 1
    assert all(kinds[one] for one in ("permit", "deny", "none", "residual")), kinds


def test_the_versions_under_which_consents_were_given_are_counted() -> None:
    several = [given(provision(), notice=notice, lineage=at) for at, notice in enumerate((1, 2, 1, 0), 1)]
    assert sorted(notices_of(World(several, Rules()).value)) == [1, 1, 2]
    assert notices_of(None) == notices_of(b"") == []
