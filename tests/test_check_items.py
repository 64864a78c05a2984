"""What a consent must be before it is written: its legal items, its form, its limits; and how a tree is read."""

from dataclasses import replace
from typing import Any

import pytest

from cases.policy_builders import deny, opposite, permit
from consentd.errors import InvalidError
from consentd.policy.check import check_consent, check_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.model import (
    ANY,
    OPEN_END_MS,
    Consent,
    Effect,
    Kind,
    Period,
    Provision,
    Rules,
)
from consentd.policy.tree import paths, walk

STATED: dict[str, Any] = {"purposes": ("TREAT",), "actors": ("hospital",), "categories": ("CLIN",)}


# -- what a consent must be


def transfer(**changes: Any) -> Consent:
    root = permit(**(STATED | {"holders": ("nhis",), "end_ms": 5_000} | changes.pop("limits", {})))
    stated = {"kind": Kind.TRANSFER_REQUEST, "root": root, "recurrence": "P1M", "retention_until_ms": 9_000}
    return Consent(**(stated | changes))


def test_a_transfer_request_with_all_seven_items() -> None:
    assert check_consent(transfer(), DEFAULT_VOCABULARY) is None
    assert check_consent(transfer(limits={"holders": (ANY,)}, recurrence="once"), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize(
    "lacking",
    [{"limits": {name: ()}} for name in ("purposes", "holders", "actors", "categories")]
    + [{"limits": {"end_ms": OPEN_END_MS}}, {"recurrence": ""}, {"retention_until_ms": 0}],
)
def test_a_transfer_request_that_lacks_one_is_refused_with_r05(lacking: dict[str, Any]) -> None:
    assert check_consent(transfer(**lacking), DEFAULT_VOCABULARY) == "R05"


@pytest.mark.parametrize("missing", list(STATED))
def test_a_consent_names_purpose_recipient_and_data(missing: str) -> None:
    whole = Consent(kind=Kind.CONSENT, root=permit(**STATED))
    assert check_consent(whole, DEFAULT_VOCABULARY) is None
    lacking = permit(**(STATED | {missing: ()}))
    for root in (lacking, deny(replace(lacking, effect=None))):
        with pytest.raises(InvalidError) as caught:
            check_consent(replace(whole, root=root), DEFAULT_VOCABULARY)
        assert caught.value.reason == "INVALID_CONSENT"
    stars = replace(whole, root=permit(**(STATED | {missing: (ANY,)})))
    assert check_consent(stars, DEFAULT_VOCABULARY) is None
    inherited = replace(whole, root=deny(permit(purposes=("HRESCH",)), **STATED))
    assert check_consent(inherited, DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("missing", list(STATED))
def test_a_permit_within_an_objection_names_them_too(missing: str) -> None:
    objection = Consent(kind=Kind.OBJECTION, root=deny(permit(**STATED)))
    assert check_consent(objection, DEFAULT_VOCABULARY) is None
    stars = deny(permit(**(STATED | {missing: (ANY,)})))
    assert check_consent(replace(objection, root=stars), DEFAULT_VOCABULARY) is None
    for depth in (1, 3):
        root = permit(**(STATED | {missing: ()}))
        for _ in range(depth):
            root = deny(root)
        with pytest.raises(InvalidError) as caught:
            check_consent(replace(objection, root=root), DEFAULT_VOCABULARY)
        assert caught.value.reason == "INVALID_CONSENT"


def test_an_objection_denies() -> None:
    assert check_consent(Consent(kind=Kind.OBJECTION, root=deny()), DEFAULT_VOCABULARY) is None
    with pytest.raises(InvalidError) as caught:
        check_consent(Consent(kind=Kind.OBJECTION, root=permit(**STATED)), DEFAULT_VOCABULARY)
    assert caught.value.reason == "INVALID_CONSENT"


def nest(depth: int) -> Provision:
    return deny(*([nest(depth - 1)] if depth > 1 else []))


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (opposite(), "INVALID_CONSENT"),
        (nest(9), "INVALID_CONSENT"),
        (deny(*[deny()] * 256), "INVALID_CONSENT"),
        (deny(purposes=("TREAT", "TREAT")), "INVALID_CONSENT"),
        (deny(actors=("*", "hospital")), "INVALID_CONSENT"),
        (deny(holders=("",)), "INVALID_CONSENT"),
        (deny(start_ms=5, end_ms=5), "INVALID_CONSENT"),
        (deny(start_ms=-1), "INVALID_CONSENT"),
        (deny(end_ms=OPEN_END_MS + 1), "INVALID_CONSENT"),
        (deny(data_period=Period(7, 3)), "INVALID_CONSENT"),
        (deny(opposite(purposes=("FUN",))), "UNKNOWN_CODE"),
        (deny(categories=("TREAT",)), "UNKNOWN_CODE"),
        (deny(actions=("eat",)), "UNKNOWN_CODE"),
        (deny(labels=("PURPLE",)), "UNKNOWN_CODE"),
    ],
)
def test_a_consent_that_contradicts_itself_is_an_error(root: Provision, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_consent(Consent(kind=Kind.OBJECTION, root=root), DEFAULT_VOCABULARY)
    assert caught.value.reason == reason


def test_limits_are_reachable() -> None:
    for root in (nest(8), deny(*[deny()] * 255)):
        assert check_consent(Consent(kind=Kind.OBJECTION, root=root), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("text", ["once", "P1M", "P1Y6M", "PT12H", "P2W", "P1DT30M"])
def test_recurrence(text: str) -> None:
    assert check_consent(transfer(recurrence=text), DEFAULT_VOCABULARY) is None


@pytest.mark.parametrize("text", ["P", "PT", "P1DT", "1M", "monthly", "P-1D", "P1M "])
def test_what_is_no_recurrence(text: str) -> None:
    with pytest.raises(InvalidError):
        check_consent(transfer(recurrence=text), DEFAULT_VOCABULARY)


def test_retention_is_no_time_before_the_epoch() -> None:
    with pytest.raises(InvalidError):
        check_consent(transfer(retention_until_ms=-1), DEFAULT_VOCABULARY)


@pytest.mark.parametrize("rule", [opposite(), deny(deny()), deny(purposes=("FUN",))])
def test_rules_of_the_realm_are_flat_and_stated(rule: Provision) -> None:
    for rules in (Rules(statutory=(rule,)), Rules(break_glass=(rule,))):
        with pytest.raises(InvalidError):
            check_rules(rules, DEFAULT_VOCABULARY)
    check_rules(Rules(statutory=(deny(purposes=("HMARKT",)),), break_glass=(permit(),)), DEFAULT_VOCABULARY)


# -- trees


def test_paths_follow_preorder() -> None:
    depths = [0, 1, 2, 2, 1, 2, 3, 1]
    assert paths(depths) == [
        "",
        "provision[0]",
        "provision[0].provision[0]",
        "provision[0].provision[1]",
        "provision[1]",
        "provision[1].provision[0]",
        "provision[1].provision[0].provision[0]",
        "provision[2]",
    ]


def test_effective_attributes() -> None:
    inner = opposite(purposes=("COC",), start_ms=3, end_ms=30, data_period=Period(1, 2))
    between = opposite(inner, labels=("HIV",), start_ms=1, end_ms=20)
    root = permit(between, purposes=("TREAT",), actors=("a",), end_ms=25)
    _, middle, last = walk(root)
    assert [middle.provision.effect, last.provision.effect] == [Effect.DENY, Effect.PERMIT]
    found = last.provision
    assert (found.purposes, found.actors, found.labels) == (("COC",), ("a",), ("HIV",))
    assert (found.start_ms, found.end_ms, found.data_period) == (3, 20, Period(1, 2))
    assert [middle.depth, middle.below, last.depth, last.below] == [1, 1, 2, 0]
