"""Decisions: both interpreters against each other, questions refused, the bytes. By hand: ``test_decisions``."""

import random
from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases.reference_policy as reference
from cases import policy_builders as builders
from cases.participants import pack
from cases.policy_agreement import check_answer
from cases.policy_builders import DX, NOW, ask, consent, deny, permit
from cases.policy_worlds import CODEBOOK, NUMBERS, VOCABULARY, Draw, World, always, comparable, kind_of
from cases.reference_authority import Power
from consentd.errors import InvalidError
from consentd.policy import match_row
from consentd.policy.codebook import MAX_MEMO, Codebook
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import decision, evaluate
from consentd.policy.model import (
    Actor,
    Combining,
    Effect,
    ImplicitPolicy,
    Layer,
    Obligation,
    Outcome,
    Period,
    Question,
    ReasonCode,
    Resource,
    Rules,
    StoredConsent,
)
from consentd.policy.residual import covers
from consentd.policy.vocabulary import Code

GROUPS = always(builders.GROUPS)
REALM = Codebook(DEFAULT_VOCABULARY, builders.NUMBERS, GROUPS)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (replace(DX, purpose="FUN"), "UNKNOWN_PURPOSE"),
        (replace(DX, purpose="CLIN.DX"), "UNKNOWN_PURPOSE"),
        (replace(DX, action="eat"), "UNKNOWN_ACTION"),
        (replace(DX, categories=()), "EMPTY_CATEGORIES"),
        (replace(DX, break_glass="because"), "BREAK_GLASS_SHAPE"),
        (replace(DX, purpose="BTG"), "BREAK_GLASS_SHAPE"),
        (ask("CLIN.DX", purpose="BTG", break_glass=""), "BREAK_GLASS_SHAPE"),
        (replace(DX, labels=("N", "PURPLE")), "UNKNOWN_CODE"),
        (replace(DX, actor=Actor(organisation="", on_behalf_of="hospital")), "INVALID_REQUEST"),
        (replace(DX, holder=""), "INVALID_REQUEST"),
        (replace(DX, resources=()), "INVALID_REQUEST"),
        (replace(DX, data_period=Period(5, 5)), "INVALID_REQUEST"),
    ],
)
def test_what_is_no_question_is_refused(question: Question, reason: str) -> None:
    for refuse in (lambda: pack(question, REALM), lambda: reference.check(question, DEFAULT_VOCABULARY)):
        with pytest.raises(InvalidError) as caught:
            refuse()
        assert caught.value.reason == reason


def test_a_refused_label_is_named() -> None:
    with pytest.raises(InvalidError, match="`PURPLE`"):
        pack(replace(DX, labels=("PURPLE",)), REALM)


@pytest.mark.parametrize("purpose", ["TREAT", "HRESCH", "HMARKT", "PUBHLTH", "BTG"])
@pytest.mark.parametrize("combining", Combining)
@pytest.mark.parametrize("policy", ImplicitPolicy)
def test_both_ways_through_agree(purpose: str, combining: Combining, policy: ImplicitPolicy) -> None:
    """The loop over simple rows and the general way give the same answer; a pause without effect forces the general
    way.
    """
    simple = [consent(permit(purposes=("TREAT",), categories=("CLIN",))), consent(deny(categories=("CLIN.DX",)), 2)]
    general = [*simple, consent(permit(purposes=("POARCH",)), 3, paused=True)]
    question = ask("CLIN", "LIFE.BP", purpose=purpose)
    answers = [
        World(consents, Rules(combining=combining, implicit_policy=policy), REALM, builders.NUMBERS, GROUPS)
        .compiled_answer(question, NOW)
        for consents in (simple, general)
    ]
    assert answers[0] == answers[1]


@given(st.randoms(use_true_random=False))
def test_nothing_is_permitted_by_default_about_a_person_who_is_not_enrolled(random: random.Random) -> None:
    draw = Draw(random)
    unknown = World([], draw.rules(), enrolled=False)
    question, now_ms = draw.question(unknown), draw.now()
    answer = unknown.compiled_answer(question, now_ms)
    assert comparable(answer) == comparable(unknown.reference_answer(question, now_ms))
    laws = {ReasonCode.PERMITTED_BY_LAW, ReasonCode.PERMITTED_BY_BREAK_GLASS}
    assert {one.code for one in answer.reasons if one.effect is Effect.PERMIT} <= laws


@given(st.randoms(use_true_random=False))
@settings(max_examples=400)
def test_compiled_agrees_with_the_reference(rng: random.Random) -> None:
    draw = Draw(rng)
    drawn = draw.world()
    for _ in range(3):
        check_answer(draw, drawn)


def test_many_random_cases() -> None:
    """A plain generator goes where hypothesis seldom does: large worlds, all at once. No kind of answer is rare."""
    draw, seen, kinds, cases = Draw(random.Random(20_261_130)), set(), Counter(), 3_000
    for number in range(cases // 3):
        drawn = draw.any_world()
        if number % 4 == 0:
            drawn = draw.recurring(drawn)
        for _ in range(3):
            answer = check_answer(draw, drawn)
            kinds[kind_of(answer)] += 1
            seen |= {answer.outcome, *(reason.code for reason in answer.reasons)}
    assert seen >= {*Outcome, *ReasonCode} - {ReasonCode.CLOCK, ReasonCode.DAMAGED_ROW}
    assert min(kinds[kind] for kind in ("permit", "deny", "none", "residual")) >= cases / 5, kinds


@pytest.mark.parametrize("seed", range(4))
def test_long_lists_are_compared_as_short_ones(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_row, "FEW", 0)
    draw = Draw(random.Random(seed))
    for _ in range(100):
        drawn = draw.any_world()
        for _ in range(4):
            check_answer(draw, drawn)


def test_a_deny_that_covers_access_covers_collect() -> None:
    """Rule 6, where actions have codes above and below them."""
    parents = {"look": "", "access": "look", "collect": "", "copy": "collect", "use": ""}
    actions = tuple(Code(code=code, name={"en": code}, parent=parent) for code, parent in parents.items())
    codebook = Codebook(replace(DEFAULT_VOCABULARY, actions=actions), builders.NUMBERS)
    denied = {
        "look": {"look", "access", "collect", "copy"}, "access": {"access", "collect", "copy"},
        "collect": {"collect", "copy"}, "copy": {"copy"}, "use": {"use"},
    }  # fmt: skip
    for named, action in product(parents, parents):
        drawn = World([consent(permit()), consent(deny(actions=(named,)), 2)], Rules(), codebook, builders.NUMBERS)
        for answer in (drawn.compiled_answer, drawn.reference_answer):
            outcome = Outcome.DENY if action in denied[named] else Outcome.PERMIT
            assert answer(replace(DX, action=action), NOW).outcome is outcome


def test_ref_is_the_first_ground_of_the_outcome() -> None:
    draw = Draw(random.Random(7))
    for _ in range(500):
        drawn = draw.world()
        answer = drawn.compiled_answer(draw.question(drawn), draw.now())
        effect = {Outcome.PERMIT: Effect.PERMIT, Outcome.PARTIAL: Effect.PERMIT, Outcome.DENY: Effect.DENY}
        expected = [reason.consent for reason in answer.reasons if reason.effect is effect.get(answer.outcome)]
        expected = [seq for seq in expected if seq] if answer.outcome in effect else []
        assert answer.ref == (expected[0] if expected else 0)


def test_residual_is_said_as_pcf_says_it() -> None:
    """IHE PCF, "named set of data" and "exception to a timeframe": permits that stay, forbids that stay."""
    question = replace(DX, supported_obligations=builders.RESIDUAL)
    named = consent(permit(resources=("Observation/2", "Observation/1")))
    window = consent(permit(deny(data_period=Period(10, 20))), 2)
    worlds = [World([one], Rules(), REALM, builders.NUMBERS, GROUPS) for one in (named, window)]
    only, exception = (one.compiled_answer(question, NOW).residual for one in worlds)
    assert [(rule.effect, rule.categories, rule.resources) for rule in only] == [
        (Effect.PERMIT, ("CLIN.DX",), ("Observation/1", "Observation/2"))
    ]
    assert [(rule.effect, rule.data_period, rule.layer, rule.children) for rule in exception] == [
        (Effect.PERMIT, None, Layer.CONSENT, ()),
        (Effect.DENY, Period(10, 20), Layer.CONSENT, ()),
    ]


def test_residual_of_a_deny_with_exceptions_stays_a_tree() -> None:
    root = deny(permit(deny(labels=("HIV",)), deny(permit(labels=("VIO",)), labels=("STD",)), labels=("MH",)))
    drawn = World([consent(root)], Rules(), REALM, builders.NUMBERS, GROUPS)
    base, hiv = drawn.compiled_answer(replace(DX, supported_obligations=builders.RESIDUAL), NOW).residual
    assert (hiv.effect, hiv.any_labels, hiv.children) == (Effect.DENY, ("HIV",), ())
    assert (base.effect, base.any_labels) == (Effect.DENY, ())
    assert [(rule.effect, rule.any_labels, len(rule.children)) for rule in base.children] == [
        (Effect.PERMIT, ("MH",), 0),
        (Effect.DENY, ("STD",), 1),
    ]


@pytest.mark.parametrize(
    ("consents", "rules"),
    [
        # What cannot be read overrides the permit that the residual would fall through to.
        (
            [consent(permit(), readable=False), consent(permit(), 2)],
            Rules(statutory=(permit(labels=("MH",)),)),
        ),
        (
            [consent(permit(), readable=False), consent(permit(labels=("MH",)), 2)],
            Rules(combining=Combining.PERMIT_OVERRIDES, implicit_policy=ImplicitPolicy.ALL_NORMAL),
        ),
        # Of two selected policies the one that denies wins.
        (
            [consent(permit(labels=("MH",)), policy=ImplicitPolicy.DENY),
             consent(permit(purposes=("HMARKT",)), 2, policy=ImplicitPolicy.ALL_NORMAL)],
            Rules(),
        ),
        # Within one lineage a deny beats a permit, also where lineages combine the other way round.
        (
            [consent(deny(permit(labels=("MH",), purposes=("TREAT",)), deny(labels=("HIV",), purposes=("TREAT",)),
                          purposes=("HMARKT",)), 1),
             consent(permit(labels=("STD",)), 2)],
            Rules(combining=Combining.PERMIT_OVERRIDES),
        ),
    ],
)
def test_residual_falls_through_to_nothing(consents: list[StoredConsent], rules: Rules) -> None:
    drawn = World(consents, rules, REALM, builders.NUMBERS, GROUPS)
    answer = drawn.compiled_answer(ask("LIFE.BP", supported_obligations=builders.RESIDUAL), NOW)
    assert answer.obligations == (Obligation.ENFORCE_RESIDUAL,)
    reported = set()
    for labels in ((), ("MH",), ("STD",), ("HIV",), ("MH", "HIV")):
        permitted = drawn.reference_answer(ask("LIFE.BP", labels=labels), NOW).outcome is Outcome.PERMIT
        resource = Resource(category="LIFE.BP", labels=labels)
        assert covers(answer.residual, resource, combining=rules.combining) is permitted
        reported.add(permitted)
    assert reported == {True, False}


def test_an_empty_value_is_no_consent() -> None:
    packed = pack(DX, REALM)
    for rules in (Rules(), Rules(statutory=(deny(categories=("GEN",)),))):
        drawn = World([], rules, REALM, builders.NUMBERS, GROUPS)
        assert {evaluate(value, packed, drawn.compiled, NOW).outcome for value in (None, b"")} == {Outcome.NO_CONSENT}


def test_nothing_is_covered_by_no_residual() -> None:
    assert not covers((), Resource(category="CLIN.DX"))


def test_a_later_vocabulary_is_unreadable() -> None:
    """A row of a version that the codebook does not know yet leaves what it may match unknown (rule 5)."""
    later = replace(DEFAULT_VOCABULARY, version=2)
    ahead = Codebook(later, builders.NUMBERS, GROUPS)
    written = World([consent(permit(actors=("hospital",)))], Rules(), ahead, builders.NUMBERS, GROUPS).value
    rules = World([], Rules(), REALM, builders.NUMBERS, GROUPS).compiled
    for by, outcome in (("hospital", Outcome.INDETERMINATE), ("clinic", Outcome.NO_CONSENT)):
        packed = pack(ask("CLIN.DX", by=by), REALM)
        answer = decision(evaluate(written, packed, rules, NOW), packed, REALM, rules)
        assert answer.outcome is outcome


@pytest.mark.parametrize("stated", [{}, {"resources": ("Observation/2",)}, {"data_period": Period(30, 40)}])
@pytest.mark.parametrize(
    "limits", [{"resources": ("Observation/1",)}, {"data_period": Period(10, 20)}, {"end_ms": NOW + 1}]
)
def test_the_limits_of_what_a_later_vocabulary_says_do_not_count(
    limits: dict[str, object], stated: dict[str, object]
) -> None:
    """They may mean something else there. So a row is unknown for a question that its limits leave out as this version
    reads them, too.
    """
    ahead = Codebook(replace(DEFAULT_VOCABULARY, version=2), builders.NUMBERS, GROUPS)
    written = World([consent(permit(**limits))], Rules(), ahead, builders.NUMBERS, GROUPS).value
    rules = World([], Rules(), REALM, builders.NUMBERS, GROUPS).compiled
    packed = pack(ask("CLIN.DX", **stated), REALM)
    assert evaluate(written, packed, rules, NOW).outcome is Outcome.INDETERMINATE


def test_an_earlier_end_of_what_a_later_vocabulary_says_does_not_count() -> None:
    """A child's parent permitted everything; the child is fifteen, and research alone is permitted still."""
    ahead = Codebook(replace(DEFAULT_VOCABULARY, version=2), builders.NUMBERS, GROUPS)
    given, powers = consent(permit(), authority=3), {3: Power(born=date(1955, 1, 1))}
    rules = World([], Rules(), REALM, builders.NUMBERS, GROUPS).compiled
    packed = pack(DX, REALM)
    for codebook, outcome in ((REALM, Outcome.NO_CONSENT), (ahead, Outcome.INDETERMINATE)):
        value = World([given], Rules(), codebook, builders.NUMBERS, GROUPS, powers=powers).value
        assert evaluate(value, packed, rules, NOW).outcome is outcome


def test_no_decision_holds_a_subject_or_a_justification() -> None:
    packed = pack(ask("CLIN.DX", purpose="BTG", break_glass="secret words"), REALM)
    assert "secret" not in repr([getattr(packed, name) for name in packed.__slots__])


def test_codebook_forgets_when_full() -> None:
    codebook = Codebook(VOCABULARY, NUMBERS)
    for index in range(MAX_MEMO + 10):
        assert codebook.numbers(f"stranger{index}") == {0}
    assert len(codebook._names) <= MAX_MEMO
    assert codebook.codes(0) == ()


def test_codebook_refuses_numbers_out_of_range() -> None:
    for number in (0, 1 << 32):
        with pytest.raises(InvalidError):
            Codebook(VOCABULARY, {"a": number})


def test_core_reads_no_clock_and_does_no_input() -> None:
    """The law of the floor: no module of policy imports what would make a replay differ."""
    banned = ("import os", "import time", "import random", "import logging", "from google.protobuf")
    for module in (Path(__file__).parents[1] / "consentd" / "policy").glob("*.py"):
        text = module.read_text(encoding="utf-8")
        assert not [word for word in banned if f"\n{word}" in text], module.name
    assert CODEBOOK.vocabulary is VOCABULARY
