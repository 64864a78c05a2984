"""Levels, policies, instants and justifications, checked before anything is written (policy.md, rules 1 to 9)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cases.policy_builders import deny, opposite, permit
from consentd.errors import InvalidError
from consentd.policy.check import check_consent, check_rules
from consentd.policy.dates import end_of_date_ms, is_instant, parse_instant_ms, start_of_date_ms
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.justification import check_justification
from consentd.policy.model import (
    ANY,
    LEVELS,
    OPEN_END_MS,
    OPEN_START_MS,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Period,
    Provision,
    Rules,
)
from consentd.policy.tree import walk
from consentd.statements.values import data_period_value, period_message, provision_message, provision_value
from consentd.v1 import consent_pb2 as pb

STATED: dict[str, Any] = {"purposes": ("TREAT",), "actors": ("hospital",), "categories": ("CLIN",)}
FIRST_MS, LAST_MS = start_of_date_ms("0001-01-01"), parse_instant_ms("9999-12-31T23:59:59.999Z")


def refused(root: Provision, **more: Any) -> str:
    """Return the reason with which a consent is refused; empty: it is accepted."""
    try:
        check_consent(Consent(**{"kind": Kind.CONSENT, "root": root, **more}), DEFAULT_VOCABULARY)
    except InvalidError as error:
        return error.reason
    return ""


# -- level and labels


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_one_of_six_and_no_label(level: str) -> None:
    assert refused(permit(level=level, **STATED)) == ""
    for root in (permit(labels=(level,), **STATED), deny(permit(labels=(level,), **STATED)), deny(labels=(level,))):
        assert refused(root) == "UNKNOWN_CODE"


@pytest.mark.parametrize("level", ["n", "NORMAL", "*", " N", "N ", "RV", "L\u200b"])
def test_another_level_is_refused_at_every_depth(level: str) -> None:
    for root in (permit(level=level, **STATED), deny(deny(opposite(level=level, **STATED)))):
        assert refused(root) == "INVALID_CONSENT"


def test_a_child_without_a_level_has_its_parents() -> None:
    levels = [node.provision.level for node in walk(deny(permit(opposite(), level="V"), opposite(), level="R"))]
    assert levels == ["R", "V", "V", "R"]


def test_the_normal_level_is_a_level() -> None:
    for level in LEVELS:
        check_rules(Rules(normal_level=level), DEFAULT_VOCABULARY)
    for level in ("", "X", "n"):
        with pytest.raises(InvalidError) as caught:
            check_rules(Rules(normal_level=level), DEFAULT_VOCABULARY)
        assert caught.value.reason == "INVALID_CONSENT"


# -- permits, wherever they are


@pytest.mark.parametrize("missing", list(STATED))
@pytest.mark.parametrize("kind", [Kind.CONSENT, Kind.OBJECTION, Kind.TRANSFER_REQUEST])
def test_a_permit_has_what_the_law_demands_by_its_own_or_its_parents_lists(kind: Kind, missing: str) -> None:
    lacking = {name: stated for name, stated in STATED.items() if name != missing}
    own = {missing: STATED[missing]}
    items: dict[str, Any] = {"kind": kind}
    if kind is Kind.TRANSFER_REQUEST:
        items |= {"recurrence": "once", "retention_until_ms": 9_000}
    whole = {"holders": ("nhis",), "end_ms": 5_000}
    # The permit has no effect of its own in the second form, and is two levels below what names the rest in the third.
    for root in (
        deny(permit(**lacking)),
        deny(opposite(**lacking)),
        deny(deny(opposite()), **lacking),
        deny(deny(permit(deny(opposite(), **own)), **lacking)),
    ):
        if kind is not Kind.TRANSFER_REQUEST:  # its root alone lacks items: that is a refusal, and recorded
            assert refused(root, **items) == "INVALID_CONSENT"
    for root in (
        deny(permit(**own), **lacking, **whole),
        deny(permit(**{missing: (ANY,)}), **lacking, **whole),
        deny(deny(opposite(), **own), **lacking, **whole),
    ):
        assert refused(root, **items) == ""


@pytest.mark.parametrize("name", list(STATED))
def test_a_statutory_permit_never_says_any(name: str) -> None:
    statutory = {"kind": Kind.STATUTORY, "legal_basis": "MA-21-3"}
    named, star = {**STATED}, {**STATED, name: (ANY,)}
    assert refused(permit(**named), **statutory) == ""
    assert refused(deny(**star), **statutory) == ""
    for root in (permit(**star), deny(opposite(), **star), deny(permit(**{name: (ANY,)}), **named)):
        assert refused(root, **statutory) == "INVALID_CONSENT"
    assert refused(deny(permit(**{name: STATED[name]}), **star), **statutory) == ""
    lacking = {other: stated for other, stated in STATED.items() if other != name}
    assert refused(deny(**lacking), **statutory) == "INVALID_CONSENT"


# -- implicit policies


@pytest.mark.parametrize("policy", [None, *ImplicitPolicy])
def test_a_consent_whose_root_denies_selects_no_policy_that_permits(policy: ImplicitPolicy | None) -> None:
    permits = policy in (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)
    expected = "INVALID_CONSENT" if permits else ""
    assert refused(permit(**STATED), policy=policy) == ""
    for root in (deny(), deny(**STATED), deny(permit(**STATED))):
        assert refused(root, policy=policy) == expected
        assert refused(root, policy=policy, kind=Kind.OBJECTION) == expected


# -- rules of the realm


@pytest.mark.parametrize(
    ("purposes", "is_accepted"),
    [((), True), ((ANY,), True), (("BTG",), True), (("TREAT", "BTG"), True), (("TREAT",), False), (("ETREAT",), False)],
)
@pytest.mark.parametrize("effect", Effect)
def test_a_break_glass_rule_is_for_break_glass(effect: Effect, purposes: tuple[str, ...], is_accepted: bool) -> None:
    rules = Rules(break_glass=(Provision(effect=effect, purposes=purposes),))
    if is_accepted:
        check_rules(rules, DEFAULT_VOCABULARY)
        return
    with pytest.raises(InvalidError) as caught:
        check_rules(rules, DEFAULT_VOCABULARY)
    assert caught.value.reason == "INVALID_CONSENT"


# -- resources


@pytest.mark.parametrize(
    "name",
    [
        "Observation/1 ", " Observation/1", "observation/1", "Observation/1/_history/2", "http://h/Observation/1",
        "Observation", "Observation/", "Observation/\u200b1", "Observation/\uff11", "Observation/1\n",
        "Observation/1+Observation/2", "Observation/" + "1" * 65,
    ],
)  # fmt: skip
def test_a_resource_has_one_name(name: str) -> None:
    for root in (permit(resources=(name,), **STATED), deny(resources=("Observation/1", name))):
        assert refused(root) == "INVALID_CONSENT"
    assert refused(deny(deny(resources=(name,)))) == "INVALID_CONSENT"
    for right in (ANY, "Observation/1", "Observation/a.B-" + "1" * 60):
        assert refused(deny(resources=(right,))) == ""


# -- instants


def test_instants_are_of_the_years_1_to_9999() -> None:
    assert is_instant(FIRST_MS)
    assert is_instant(LAST_MS + 1)  # the end of a period that includes the last day
    assert not is_instant(FIRST_MS - 1)
    assert not is_instant(LAST_MS + 2)
    assert refused(deny(start_ms=5, end_ms=end_of_date_ms("9999-12-31"))) == ""
    assert refused(deny(data_period=Period(FIRST_MS, LAST_MS + 1))) == ""
    for wrong in (
        deny(end_ms=LAST_MS + 2),
        deny(start_ms=LAST_MS + 2),
        deny(end_ms=OPEN_END_MS - 1),
        deny(deny(end_ms=LAST_MS + 2)),
        deny(data_period=Period(FIRST_MS - 1, 5)),
        deny(data_period=Period(5, LAST_MS + 2)),
    ):
        assert refused(wrong) == "INVALID_CONSENT"
    assert refused(deny(), retention_until_ms=LAST_MS) == ""
    assert refused(deny(), retention_until_ms=LAST_MS + 2) == "INVALID_CONSENT"


def test_data_may_be_older_than_1970_and_consents_not() -> None:
    assert refused(deny(data_period=Period(start_of_date_ms("1950"), end_of_date_ms("1960")))) == ""
    assert refused(deny(data_period=Period(end_ms=-5))) == ""
    assert refused(deny(start_ms=-5)) == "INVALID_CONSENT"
    message = pb.Provision(effect=pb.EFFECT_DENY, data_period=pb.Period(start_time_ms=-20, end_time_ms=-5))
    assert provision_value(message).data_period == Period(-20, -5)
    for times in ({"start_time_ms": -5}, {"end_time_ms": -5}):
        with pytest.raises(InvalidError):
            provision_value(pb.Provision(effect=pb.EFFECT_DENY, period=pb.Period(**times)))


@given(some.integers(-(1 << 50), 1 << 50), some.integers(1, 1 << 50))
def test_a_period_reads_as_it_is_written_or_is_not_written(start_ms: int, length_ms: int) -> None:
    for period in (Period(start_ms, start_ms + length_ms), Period(start_ms), Period(end_ms=start_ms), Period()):
        if 0 in (period.start_ms, period.end_ms):
            # In a message 0 means "open". A permit with such a bound would cover more than it says.
            with pytest.raises(InvalidError):
                period_message(period)
            continue
        assert data_period_value(period_message(period)) == period
        stated = deny(data_period=period, start_ms=abs(period.start_ms) % 1000, level="R")
        assert provision_value(provision_message(stated)) == stated


# -- justifications


@pytest.mark.parametrize(
    "text",
    [
        "unconscious",
        "의식이없는환자응급처치",
        "응급 환자 의식 없음 보호자 부재",
        "ab cd ef gh ij",
        "ﷺ",
        "１２３ ａｂｃｄｅｆｇｈｉｊ",
    ],
)
def test_a_justification_that_says_something(text: str) -> None:
    check_justification(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " " * 400, "\u200b" * 400, "\u3164" * 400, "\uffa0" * 40, "\u115f\u1160" * 40, "\u2800" * 40, "\u00a0" * 20,
        "1234567890123", "..........", "emergency", "응급", "a" * 9 + "\u3164" * 9, "a\u0301" * 9, "\u1100\u1161" * 9,
        "🚑" * 20,
    ],
)  # fmt: skip
def test_a_justification_that_says_nothing(text: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_justification(text)
    assert caught.value.reason == "BREAK_GLASS_SHAPE"


@pytest.mark.parametrize(("start", "end"), [(OPEN_START_MS, 0), (0, OPEN_END_MS), (OPEN_START_MS, OPEN_END_MS)])
def test_the_numbers_of_open_sides_are_no_instants(start: int, end: int) -> None:
    stated = pb.Period(start_time_ms=start, end_time_ms=end)
    with pytest.raises(InvalidError):
        data_period_value(stated)
    for root in (pb.Provision(data_period=stated), pb.Provision(period=stated)):
        with pytest.raises(InvalidError):
            provision_value(root)
