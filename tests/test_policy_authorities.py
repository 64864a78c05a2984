"""Permits that rest on an authority end with it, for each purpose, and its denies stay (rule 8; PIPA 22-2(1))."""

import random
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta

import pytest

from cases.policy_agreement import check_answer
from cases.policy_worlds import BIRTH_DATES, VOCABULARY, Draw, World, kind_of
from cases.reference_authority import Power, birthday_ms, borders
from consentd.errors import InvalidError, MalformedError
from consentd.policy import dates
from consentd.policy.authority import (
    CONSENT_AGE,
    NOTHING,
    RESEARCH_AGE,
    Authority,
    Ends,
    decode_authority,
    minor_ends,
    research_mask,
)
from consentd.policy.model import (
    OPEN_END_MS,
    Actor,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Outcome,
    Provision,
    Question,
    StoredConsent,
)
from consentd.policy.subject import decode_subject, without_ended

DAY_MS = 86_400_000
PERMIT, DENY = Effect.PERMIT, Effect.DENY


@pytest.mark.parametrize(
    ("born", "fourteenth", "eighteenth"),
    [
        ("2012-02-29", "2026-02-28T15:00:00Z", "2030-02-28T15:00:00Z"),
        ("2012-02-28", "2026-02-27T15:00:00Z", "2030-02-27T15:00:00Z"),
        ("2012-03-01", "2026-02-28T15:00:00Z", "2030-02-28T15:00:00Z"),
        ("2014-02-28", "2028-02-27T15:00:00Z", "2032-02-27T15:00:00Z"),
        ("2014-03-01", "2028-02-29T15:00:00Z", "2032-02-29T15:00:00Z"),
        ("2008-02-29", "2022-02-28T15:00:00Z", "2026-02-28T15:00:00Z"),
        ("2013-01-01", "2026-12-31T15:00:00Z", "2030-12-31T15:00:00Z"),
        ("2011-12-31", "2025-12-30T15:00:00Z", "2029-12-30T15:00:00Z"),
    ],
)
def test_22_2_1_a_minor_comes_of_age_at_midnight_in_seoul(born: str, fourteenth: str, eighteenth: str) -> None:
    expected = dates.parse_instant_ms(fourteenth), dates.parse_instant_ms(eighteenth)
    assert (dates.birthday_ms(born, CONSENT_AGE), dates.birthday_ms(born, RESEARCH_AGE)) == expected
    assert minor_ends(born) == Ends(*expected)


def test_every_birthday_of_a_century_is_that_of_the_calendar() -> None:
    day = date(1999, 1, 1)
    while day.year < 2101:
        for years in (CONSENT_AGE, RESEARCH_AGE):
            assert dates.birthday_ms(day.isoformat(), years) == birthday_ms(day, years)
        day += timedelta(days=1)


@pytest.mark.parametrize("text", ["", "2012", "2012-02", "2012-02-30", "2012-2-28", "9999-01-01", "x", "2012-02-28Z"])
def test_what_is_no_birth_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidError):
        dates.birthday_ms(text, CONSENT_AGE)


def test_an_authority_comes_back_from_its_row() -> None:
    by_name = Authority("guardian", 0b11110, 5, Ends(7, 9), capacity=2, ended_seq=4)
    by_key = Authority("", 0b11110, 5, Ends(7, 9), capacity=1, key=bytes(32))
    of_dead = [replace(one, is_of_dead=True) for one in (by_name, by_key)]
    for one in (NOTHING, by_name, by_key, *of_dead):
        assert decode_authority(one.encode()) == one
    for wrong in (b"", NOTHING.encode()[:-1], NOTHING.encode() + b"\xff", NOTHING.encode()[:-1] + b"\4"):
        with pytest.raises(MalformedError):
            decode_authority(wrong)


# -- the border ---------------------------------------------------------------------------------------------------


def world(root: Provision, power: Power, **more: object) -> World:
    consent = Consent(kind=Kind.CONSENT, root=root, policy=more.get("policy"))  # type: ignore[arg-type]
    return World([StoredConsent(5, 5, 1, consent, authority=3)], powers={3: power})


def outcomes(made: World, purpose: str, instants: tuple[int, ...]) -> list[Outcome]:
    question = Question(
        actor=Actor(organisation="a"), holder="r", purpose=purpose, action="access", categories=("CLIN.A",)
    )
    found = []
    for now_ms in instants:
        answer = made.compiled_answer(question, now_ms)
        meant = made.reference_answer(question, now_ms)
        assert (answer.outcome, answer.valid_until_ms) == (meant.outcome, meant.valid_until_ms)
        found.append(answer.outcome)
    return found


@pytest.mark.parametrize("born", BIRTH_DATES)
def test_one_answer_beside_the_birthday_for_each_purpose(born: str) -> None:
    ends = minor_ends(born)
    power = Power(born=date.fromisoformat(born))
    for purposes in (("*",), (), ("TREAT", "HRESCH"), ("TREAT", "HRESCH", "HMARKT")):
        made = world(Provision(effect=PERMIT, purposes=purposes), power)
        beside = [(at - 1, at, at + 1) for at in (ends.other_ms, ends.research_ms)]
        assert outcomes(made, "TREAT", beside[0]) == [Outcome.PERMIT, Outcome.NO_CONSENT, Outcome.NO_CONSENT]
        assert outcomes(made, "HRESCH", beside[0]) == [Outcome.PERMIT] * 3
        assert outcomes(made, "HRESCH", beside[1]) == [Outcome.PERMIT, Outcome.NO_CONSENT, Outcome.NO_CONSENT]
        assert outcomes(made, "TREAT", beside[1]) == [Outcome.NO_CONSENT] * 3


def test_a_permit_of_one_kind_of_purposes_needs_no_list_of_ends() -> None:
    for purposes in (("HRESCH",), ("TREAT",)):
        made = world(Provision(effect=PERMIT, purposes=purposes), Power(born=date(2012, 5, 5)))
        (lineage,) = decode_subject(made.value or b"")
        assert lineage.compiled.side == b""


def test_denies_stay_and_a_permit_inside_a_deny_ends() -> None:
    nested = Provision(effect=DENY, children=(Provision(effect=PERMIT, purposes=("TREAT",)),))
    made = world(nested, Power(born=date(2012, 5, 5)))
    at = minor_ends("2012-05-05").other_ms
    assert outcomes(made, "TREAT", (at - 1, at)) == [Outcome.PERMIT, Outcome.DENY]
    outside = Provision(effect=PERMIT, children=(Provision(effect=DENY, purposes=("TREAT",)),))
    made = world(outside, Power(born=date(2012, 5, 5)))
    assert outcomes(made, "TREAT", (at - 1, at, at + DAY_MS)) == [Outcome.DENY] * 3
    assert outcomes(made, "HMARKT", (at - 1, at)) == [Outcome.NO_CONSENT] * 2


def test_an_implicit_policy_of_the_consent_ends_too() -> None:
    root = Provision(effect=PERMIT, purposes=("HMARKT", "TREAT"), categories=("GEN",))
    made = world(root, Power(born=date(2012, 5, 5)), policy=ImplicitPolicy.ALL_NORMAL)
    value = made.value or b""
    (lineage,) = decode_subject(value)
    at = minor_ends("2012-05-05").other_ms
    assert without_ended(value, at - 1) == value
    assert without_ended(value, at) == b""
    assert lineage.authority == 3


def test_a_consent_whose_denies_stay_does_not_leave_the_table() -> None:
    root = Provision(effect=PERMIT, children=(Provision(effect=DENY, purposes=("TREAT",)),))
    made = world(root, Power(ended_ms=10))
    value = made.value or b""
    assert without_ended(value, OPEN_END_MS - 1) == value


def test_research_is_its_purpose_and_those_below() -> None:
    codes = {code for code, bit in VOCABULARY.purpose.bits.items() if bit & research_mask(VOCABULARY)}
    assert codes == {"HRESCH", "POARCH", "DSRCH"}


def test_the_evaluator_agrees_with_the_reference_beside_the_ends_of_authorities() -> None:
    """``python -m tests.meaning agree`` does the same in bulk."""
    kinds: Counter[str] = Counter()
    for seed in range(60):
        draw = Draw(random.Random(f"authorities {seed}"), windows=0.1)
        for _ in range(5):
            drawn = draw.represented(draw.any_world())
            for _ in range(6):
                kinds[kind_of(check_answer(draw, drawn))] += 1
    assert min(kinds[kind] for kind in ("permit", "deny", "none", "residual")) > 50


def test_drawn_authorities_have_borders() -> None:
    draw = Draw(random.Random(1))
    drawn = [draw.power() for _ in range(100)]
    assert sum(one.born is not None for one in drawn) > 50
    assert any(one.ended_ms < birthday_ms(one.born, 14) for one in drawn if one.born is not None)
    assert all(border >= 0 for one in drawn for border in borders(one))
