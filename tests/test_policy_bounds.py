"""The bounds of one person's rows: what is refused, denied unread, and shared; how many reasons are built."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from cases.policy_worlds import NUMBERS, VOCABULARY
from consentd.errors import InvalidError, MalformedError, PreconditionError
from consentd.policy import evaluate as evaluate_module
from consentd.policy import match, match_row, prepare, residual, subject
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import Compiled, compile_consent, compile_rules
from consentd.policy.evaluate import MAX_REASONS, Verdict, decision, evaluate
from consentd.policy.model import (
    OPEN_END_MS,
    Actor,
    Combining,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Obligation,
    Outcome,
    Period,
    Provision,
    Question,
    ReasonCode,
    Resource,
    Rules,
    StoredConsent,
)
from consentd.policy.rows import decode_side, unpack_rows
from consentd.policy.subject import (
    MAX_ROWS,
    Lineage,
    check_limits,
    decode_subject,
    encode_subject,
    is_closed,
    row_count,
    with_consent,
    without_consent,
)
from consentd.policy.vocabulary import HIGHEST_LEVEL

NOW_MS = 1_000
CODEBOOK = Codebook(VOCABULARY, NUMBERS)
PERMIT = Provision(effect=Effect.PERMIT, actors=("a",), purposes=("TREAT",), categories=("CLIN",))
DENY = replace(PERMIT, effect=Effect.DENY)
ASKED = Question(
    actor=Actor(organisation="a"), holder="r", purpose="TREAT", action="disclose", categories=("CLIN.A", "CLIN.B")
)


def compiled(root: Provision, **more: object) -> Compiled:
    consent = Consent(**{"kind": Kind.CONSENT, "root": root, **more})  # type: ignore[arg-type]
    return compile_consent(StoredConsent(1, 1, 1, consent), VOCABULARY, NUMBERS, normal_level=HIGHEST_LEVEL)


def value_of(*consents: tuple[Compiled, int]) -> bytes | None:
    """Return the value of a person that has each of these consents so many times."""
    repeated = (one for one, count in consents for _ in range(count))
    return encode_subject(Lineage(at, at, 1, False, one) for at, one in enumerate(repeated, 1))


def packed(asked: Question) -> PackedQuestion:
    actor, holder = (frozenset({0, NUMBERS[name]}) for name in (asked.actor.organisation, asked.holder))
    who = Parties(permit_actors=actor, deny_actors=actor, holders=holder, gets_conditions=True)
    return pack_question(asked, CODEBOOK, who)


def verdict(value: bytes | None, asked: Question = ASKED, **rules: object) -> Verdict:
    made = compile_rules(Rules(**rules), VOCABULARY, NUMBERS)  # type: ignore[arg-type]
    return evaluate(value, packed(asked), made, NOW_MS)


def answer(value: bytes | None, asked: Question = ASKED, **rules: object) -> Decision:
    made = compile_rules(Rules(**rules), VOCABULARY, NUMBERS)  # type: ignore[arg-type]
    question = packed(asked)
    return decision(evaluate(value, question, made, NOW_MS), question, CODEBOOK, made)


def tree(count: int, root: Provision = PERMIT, **child: object) -> Provision:
    """Return a consent of *count* provisions. The data periods of its children differ."""
    children = tuple(
        Provision(effect=root.effect, data_period=Period(at, 1_000_000), **child)  # type: ignore[arg-type]
        for at in range(count - 1)
    )
    return replace(root, children=children)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the limit of rows, so that a test needs few."""
    monkeypatch.setattr(subject, "MAX_ROWS", 4)
    return 4


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_permit_beyond_the_limit_is_refused_and_a_deny_is_not() -> None:
    value = value_of((compiled(PERMIT), 1_000), (compiled(DENY), 1_000))
    assert row_count(value) == MAX_ROWS
    for refused in (
        compiled(PERMIT),
        compiled(replace(DENY, children=(PERMIT,))),
        compiled(DENY, policy=ImplicitPolicy.BASIC_NORMAL),
    ):
        with pytest.raises(PreconditionError) as caught:
            check_limits(value, 2_001, refused)
        assert caught.value.reason == "LIMIT_REACHED"
        assert "`2001`" in str(caught.value) or "`2002`" in str(caught.value)
    for taken in (compiled(DENY), compiled(tree(200, DENY)), compiled(DENY, policy=ImplicitPolicy.DENY)):
        check_limits(value, 2_001, taken)
    check_limits(without_consent(value, 7), 2_001, compiled(PERMIT))


def test_an_amendment_that_takes_no_more_rows_is_never_refused() -> None:
    value = value_of((compiled(PERMIT), 1_990), (compiled(tree(20)), 1))
    assert row_count(value) == 2_010
    for amended in (compiled(tree(20)), compiled(PERMIT), compiled(tree(200, DENY))):
        check_limits(value, 1_991, amended)
    with pytest.raises(PreconditionError):
        check_limits(value, 1_991, compiled(tree(21)))


def test_a_stored_value_beyond_the_limit_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    value = value_of((compiled(DENY), 3))
    monkeypatch.setattr(subject, "MAX_STORED_ROWS", 2)
    with pytest.raises(MalformedError):
        subject.decode_subject(value)


def test_lists_count_too() -> None:
    references = tuple(f"Observation/{at:04d}" for at in range(700))
    listed = compiled(replace(PERMIT, resources=references))
    assert 12_000 < len(listed.side) < 14_000
    value = value_of((listed, 10))
    check_limits(value, 11, compiled(PERMIT))
    with pytest.raises(PreconditionError) as caught:
        check_limits(value, 11, listed)
    assert caught.value.reason == "LIMIT_REACHED"
    check_limits(value, 11, compiled(replace(DENY, resources=references)))


def test_a_deny_is_refused_only_after_everything_is_denied() -> None:
    value = value_of((compiled(tree(250, DENY)), 24))
    assert row_count(value) == 6_000
    assert is_closed(value)
    with pytest.raises(PreconditionError) as caught:
        with_consent(value, StoredConsent(25, 25, 1, Consent(kind=Kind.OBJECTION, root=DENY)), compiled(DENY))
    assert caught.value.reason == "LIMIT_REACHED"


# -- denies beyond the limit ---------------------------------------------------------------------------------------


def test_denies_beyond_the_limit_deny_everything(small: int) -> None:
    other = replace(DENY, actors=("b",))
    within, beyond = (value_of((compiled(PERMIT), 1), (compiled(other), small + more)) for more in (0, 1))
    assert (is_closed(within), is_closed(beyond)) == (False, True)
    assert answer(within).outcome is Outcome.PERMIT
    found = answer(beyond)
    assert (found.outcome, found.denied, found.ref) == (Outcome.DENY, ("CLIN.A", "CLIN.B"), 0)
    (reason,) = found.reasons
    assert (reason.code, reason.consent) == (ReasonCode.DENIED_BY_CONSENT, 0)
    for combining in Combining:
        assert answer(beyond, combining=combining).outcome is Outcome.DENY
    assert answer(beyond, implicit_policy=ImplicitPolicy.ALL_NORMAL).outcome is Outcome.DENY
    offering = replace(ASKED, supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL}))
    assert answer(beyond, offering).outcome is Outcome.DENY


def test_permits_do_not_count_as_denies(small: int) -> None:
    assert not is_closed(value_of((compiled(PERMIT), 3 * small)))
    assert not is_closed(value_of((compiled(replace(DENY, children=(PERMIT,))), small)))


def test_the_law_comes_before_denies_beyond_the_limit(small: int) -> None:
    statutory = compiled(PERMIT, kind=Kind.STATUTORY)
    assert answer(value_of((compiled(DENY), small + 1), (statutory, 1))).outcome is Outcome.PERMIT
    rule = replace(PERMIT, categories=("CLIN.A",))
    found = answer(value_of((compiled(DENY), small + 1)), statutory=(rule,))
    assert (found.outcome, found.permitted, found.denied) == (Outcome.PARTIAL, ("CLIN.A",), ("CLIN.B",))


def test_withdrawing_a_deny_ends_what_was_denied_unread(small: int) -> None:
    value = value_of((compiled(PERMIT), 1), (compiled(replace(DENY, actors=("b",))), small + 1))
    assert answer(without_consent(value, 1)).outcome is Outcome.DENY  # a permit withdrawn never permits more
    assert answer(without_consent(value, 3)).outcome is Outcome.PERMIT


def test_a_closed_value_has_one_form(small: int) -> None:
    value = value_of((compiled(DENY), small + 1))
    assert value is not None
    assert encode_subject(decode_subject(value)) == value
    assert value[1] & subject.CLOSED


# -- what is shared ------------------------------------------------------------------------------------------------


def test_inherited_lists_are_stored_once() -> None:
    root = tree(250, replace(PERMIT, resources=tuple(f"Observation/{at}" for at in range(700)), actors=("a", "b")))
    made = compiled(root)
    assert len(made.side) < 13_000 + 250 * 24
    rows = unpack_rows(made.rows)
    assert len({row.side for row in rows}) == 250
    for row in (rows[0], rows[249]):
        side = decode_side(made.side, row.side)
        assert (len(side.resources), side.actors) == (700, {NUMBERS["a"], NUMBERS["b"]})


def test_equal_limits_are_one_record() -> None:
    children = tuple(Provision(effect=Effect.DENY, purposes=(purpose,)) for purpose in ("TREAT", "COC"))
    rows = unpack_rows(compiled(replace(PERMIT, resources=("Observation/1",), children=children)).rows)
    assert len({row.side for row in rows}) == 1


@pytest.mark.parametrize("few", [0, 8])
def test_a_permit_and_a_deny_compare_a_list_that_they_share_each_for_itself(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_row, "FEW", few)
    inner = Provision(categories=("CLIN.B",))
    root = replace(DENY, actors=("b", "c"), holders=("c", "r"), categories=("CLIN.A",), children=(inner,))
    value = value_of((compiled(root), 1))
    a, b, r = (NUMBERS[name] for name in ("a", "b", "r"))
    # b is the application, so a deny names it and a permit does not.
    who = Parties(permit_actors=frozenset({0, a}), deny_actors=frozenset({0, a, b}), holders=frozenset({0, r}))
    rules = compile_rules(Rules(), VOCABULARY, NUMBERS)
    asked = pack_question(ASKED, CODEBOOK, who)
    found = decision(evaluate(value, asked, rules, NOW_MS), asked, CODEBOOK, rules)
    assert (found.denied, found.without_consent) == (("CLIN.A",), ("CLIN.B",))


# -- consents that cannot change an answer --------------------------------------------------------------------------


INNER = Provision(categories=("CLIN.B",))
TREES: tuple[tuple[Provision, ...], ...] = (
    (),
    (INNER,),
    (INNER, replace(INNER, effect=Effect.PERMIT)),
    (replace(INNER, children=(replace(INNER, effect=Effect.PERMIT),)),),  # the same rows, one below the other
    (replace(INNER, actors=("a",), effect=Effect.DENY),),
)
"""What is nested in consents."""


def drawn_value(random: Random, *, nested: bool) -> bytes | None:
    """Return the value of a person with hundreds of consents of few kinds, which differ in windows and lists.

    *nested*: whether some consents have nested provisions, whose limits and windows may differ from those of the root.
    """
    effect = random.choice([PERMIT, PERMIT, DENY])
    categories = random.choice([("CLIN",), ("CLIN.A",), ("CLIN.B",)])
    labels: tuple[str, ...] = random.choice([(), (), ("HIV",)])
    trees = random.choice([TREES[1:2], TREES[2:4], TREES]) if nested else [()]
    law = random.choice([0.0, 0.5])
    made = []
    for number in range(1, 1 + random.choice([200, 400, 600])):
        windows = (0, OPEN_END_MS), (0, 9_000 - number), (0, 9_000 + number), (4_000 - number, 9_000), (0, NOW_MS)
        ((start, end),) = random.choices(windows, [3, 6, 3, 1, 1])
        (inner_ms,) = random.choices([end, 8_000 - number, NOW_MS], [14, 6, 1])
        root = replace(
            effect,
            actors=random.choice([("a",), ("a",), ("a", "b"), ("a", "b"), ("b", "c")]),
            categories=categories,
            labels=labels,
            resources=("Observation/1",) if random.random() < 0.05 else (),
            data_period=Period(0, 500) if random.random() < 0.05 else Period(),
            start_ms=start,
            end_ms=end,
            children=tuple(replace(one, end_ms=min(end, inner_ms)) for one in random.choice(trees)),
        )
        kind = Kind.STATUTORY if random.random() < law else Kind.CONSENT
        made.append(Lineage(number, number, 1, random.random() < 0.03, compiled(root, kind=kind)))
    return encode_subject(made)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_a_consent_that_cannot_change_the_answer_is_not_kept(
    seed: int, nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    value = drawn_value(random, nested=nested)
    residual_too = replace(ASKED, supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL}))
    kept = counted_trees(monkeypatch)
    for asked in (ASKED, residual_too, replace(ASKED, labels=(), resources=("Observation/2",))):
        for combining in random.sample(list(Combining), 3):
            found, by_default = answer(value, asked, combining=combining), kept[-1]
            with monkeypatch.context() as patch:
                patch.setattr(prepare, "ENOUGH", OPEN_END_MS)
                assert answer(value, asked, combining=combining) == found
            assert by_default <= kept[-1]


def counted_trees(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which each evaluation adds how many trees it keeps."""
    kept: list[int] = []

    def prepared(*args: Any, **more: Any) -> match.Prepared:
        found = prepare.prepare(*args, **more)
        kept.append(len(found.trees))
        return found

    monkeypatch.setattr(evaluate_module, "prepare", prepared)
    return kept


@pytest.mark.parametrize("children", [(), (Provision(categories=("CLIN.B",)),)])
def test_of_hundreds_of_equal_consents_few_are_kept(
    children: tuple[Provision, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = counted_trees(monkeypatch)
    ends = [*range(9_000, 8_100, -1), *[9_500] * 100]
    made = [compiled(replace(PERMIT, actors=("a", "b"), end_ms=end_ms, children=children)) for end_ms in ends]
    found = answer(value_of(*((one, 1) for one in made)))
    # Those that become reasons, and the one that ends first.
    assert (kept, found.valid_until_ms) == ([prepare.ENOUGH + 2], 8_101)
    assert found.outcome is (Outcome.PARTIAL if children else Outcome.PERMIT)


# -- reasons and conditions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("combining", list(Combining))
def test_at_most_so_many_reasons_are_built(combining: Combining) -> None:
    asked = replace(ASKED, categories=("CLIN.A", "CLIN.B", "CLIN.C", "STRANGE"))
    value = value_of((compiled(replace(DENY, categories=("CLIN.A",))), 300), (compiled(PERMIT), 300))
    found = answer(value, asked, combining=combining)
    assert 90 < len(found.reasons) <= MAX_REASONS
    assert found.ref  # also where the consent that permits comes after the reasons that are kept


def test_of_the_consents_that_begin_later_the_first_counts() -> None:
    made = [compiled(replace(PERMIT, start_ms=start, end_ms=9_000)) for start in (5_000, 3_000, 4_000)]
    named = [compiled(replace(PERMIT, start_ms=start, actors=("a", "b"))) for start in (5_000, 3_000, 4_000)]
    for some in (made, named):
        assert answer(value_of(*((one, 1) for one in some))).valid_until_ms == 3_000
        many = answer(value_of(*((one, prepare.ENOUGH) for one in some), (compiled(PERMIT), 1)))
        assert (many.outcome, many.valid_until_ms) == (Outcome.PERMIT, 3_000)


def test_a_nested_permit_that_is_denied_beside_it_is_no_reason() -> None:
    inner = replace(PERMIT, categories=("CLIN.A",))
    denying = replace(DENY, categories=("CLIN.B",), children=(inner, replace(inner, effect=Effect.DENY)))
    value = value_of((compiled(denying), 1), (compiled(inner), 1))
    found = answer(value, combining=Combining.PERMIT_OVERRIDES)
    assert found.permitted == ("CLIN.A",)
    assert [(reason.consent, reason.effect) for reason in found.reasons] == [(1, Effect.DENY), (2, Effect.PERMIT)]


def test_the_ref_is_that_of_the_first_consent_that_decided_so() -> None:
    value = value_of((compiled(replace(DENY, categories=("CLIN.A",))), 300), (compiled(PERMIT), 2))
    found = answer(value)
    assert (found.outcome, found.ref) == (Outcome.PARTIAL, 301)
    assert {reason.effect for reason in found.reasons} == {Effect.DENY}


def test_a_residual_over_its_limits_permits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(ASKED, supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL}))
    named = compiled(replace(PERMIT, resources=("Observation/1", "Observation/2")))
    value = value_of((named, 3))
    found = answer(value, asked)
    # Each row has two rules: without a level of its own, it covers CLIN.A up to N, and CLIN.B up to R.
    assert (found.outcome, len(found.residual)) == (Outcome.PERMIT, 6)
    for name, most in (("MAX_CONDITIONS", 2), ("MAX_REFERENCES", 5)):
        with monkeypatch.context() as patch:
            patch.setattr(residual, name, most)
            found = answer(value, asked)
            assert (found.outcome, found.residual, found.obligations) == (Outcome.NO_CONSENT, (), ())


def test_a_resource_beyond_what_the_question_stated_is_not_permitted() -> None:
    """Rule 5: the question states labels and level, and leaves the period open."""
    asked = replace(
        ASKED, labels=("SUD",), level="R", supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL})
    )
    named = compiled(replace(PERMIT, labels=("SUD", "HIV"), level="V", data_period=Period(0, 500)))
    found = answer(value_of((named, 1)), asked)
    assert (found.outcome, found.obligations) == (Outcome.PERMIT, (Obligation.ENFORCE_RESIDUAL,))
    within = Resource(category="CLIN.A", labels=("SUD",), level="R", data_period=Period(0, 500))
    for resource, permitted in (
        (within, True),
        (replace(within, labels=(), level=""), True),
        (replace(within, labels=("SUD", "HIV")), False),
        (replace(within, level="V"), False),
        (replace(within, data_period=Period(0, 501)), False),
    ):
        assert residual.covers(found.residual, resource, combining=found.combining) is permitted
    with pytest.raises(InvalidError):
        residual.covers(found.residual, replace(within, level="X"))
