"""Lists of a FHIR provision that are not one attribute here: security labels, actions, actors (fhir.attributes)."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from cases.fhir_consents import (
    R4,
    RESEARCHER,
    actions,
    custodian,
    imported,
    labels,
    nested,
    provision,
    r4,
    r5,
    read,
    reason,
)
from consentd.fhir.consents import ImportedConsent
from consentd.fhir.document import Cause
from consentd.policy.model import ANY, LEVELS, MAX_DEPTH, Effect, Provision

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

PERMIT, DENY = Effect.PERMIT, Effect.DENY


def root_of(*codes: str, effect: str = "permit", nested: Iterable[Any] = (), **members: Any) -> ImportedConsent:
    """Import a consent whose root has these security labels."""
    more = {"provision": list(nested)} if nested else {}
    base = {} if effect == "permit" else {"policyRule": None, "policy": [{"uri": "urn:x"}]}
    return imported(r4(**base, provision={"type": effect, "securityLabel": labels(*codes), **more, **members}))


def shape(node: Provision) -> tuple[Any, ...]:
    """Return (effect, level, labels, shapes of the children)."""
    return (node.effect, node.level, node.labels, *(shape(child) for child in node.children))


# Confidentialities and sensitivity labels.


@pytest.mark.parametrize(
    ("effect", "codes", "expected"),
    [
        ("permit", ("N",), (PERMIT, "N", ())),
        ("permit", ("R", "N"), (PERMIT, "R", ())),  # the highest
        ("permit", ("HIV", "PSY"), (PERMIT, "", ("HIV", "PSY"))),
        ("permit", ("N", "HIV"), (PERMIT, "", ("HIV",), (PERMIT, "N", (ANY,)))),
        ("deny", ("R",), (DENY, "R", ())),
        ("deny", ("V", "R"), (DENY, "R", ())),  # the lowest
        ("deny", ("HIV", "V", "R"), (DENY, "", ("HIV",), (DENY, "R", (ANY,)))),
    ],
)
def test_a_list_is_a_level_or_labels_or_two_provisions(
    effect: str, codes: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    assert shape(root_of(*codes, effect=effect).consent.root) == expected


@pytest.mark.parametrize(
    ("outer", "inner", "kind", "expected"),
    [
        # What the inner list does not name, it does not limit.
        (("N",), ("PSY",), "permit", (PERMIT, "V", ("PSY",))),
        (("N",), ("PSY",), "deny", (DENY, "U", ("PSY",))),
        (("PSY",), ("R",), "deny", (DENY, "R", (ANY,))),
        (("PSY",), ("R",), "permit", (PERMIT, "R", (ANY,))),
        (("N",), ("R", "PSY"), "permit", (PERMIT, "V", ("PSY",), (PERMIT, "R", (ANY,)))),
        # An inherited list means for a deny what it would mean if the deny stated it.
        (("N", "R"), (), "deny", (DENY, "N", ())),
        (("N", "R"), (), "permit", (PERMIT, "", ())),
        (("PSY",), (), "deny", (DENY, "", ())),
    ],
)
def test_an_inner_list_replaces_the_outer_one(
    outer: tuple[str, ...], inner: tuple[str, ...], kind: str, expected: tuple[Any, ...]
) -> None:
    own = {"securityLabel": labels(*inner)} if inner else {"purpose": [reason("TREAT")]}
    root = root_of(*outer, nested=[{"type": kind, **own}]).consent.root
    assert [shape(child) for child in root.children] == [expected]


def test_nested_provisions_are_exceptions_to_both_parts() -> None:
    inner = {"type": "deny", "purpose": [reason("HRESCH")]}
    root = root_of("N", "HIV", nested=[inner]).consent.root
    (level_part,) = root.children
    assert [child.purposes for child in level_part.children] == [("HRESCH",)]


def test_a_list_of_both_kinds_takes_two_of_the_levels_of_nesting() -> None:
    both = {"type": "deny", "securityLabel": labels("N", "HIV")}
    assert isinstance(read(nested(MAX_DEPTH)), ImportedConsent)
    for _ in range(MAX_DEPTH // 2 - 1):
        both = {"type": "deny", "securityLabel": labels("N", "HIV"), "provision": [both]}
    deep = provision(securityLabel=labels("N"), provision=[both])
    refused = read(deep)
    assert (refused.cause, "nest deeper" in refused.message) == (Cause.UNSUPPORTED_CONTENT, True)
    assert isinstance(read(provision(securityLabel=labels("N"), provision=both["provision"])), ImportedConsent)


@dataclass(frozen=True)
class Node:
    """A provision as FHIR reads it: its effect, its own list of security labels, its nested provisions."""

    effect: Effect | None
    codes: tuple[str, ...]
    children: tuple["Node", ...]


def draw(random_: random.Random, depth: int) -> Node:
    codes = random_.sample(["L", "N", "R", "V", "PSY", "HIV"], random_.choice([0, 1, 1, 2, 3]))
    children = [draw(random_, depth + 1) for _ in range(random_.choice([0, 1, 2]))] if depth < 3 else []
    return Node(random_.choice([PERMIT, DENY]), tuple(codes), tuple(children))


def fhir(node: Node) -> dict[str, Any]:
    named = {"securityLabel": labels(*node.codes)} if node.codes else {"purpose": [reason("TREAT")]}
    more = {"provision": [fhir(child) for child in node.children]} if node.children else {}
    assert node.effect is not None
    return {"type": node.effect.name.lower(), **named, **more}


def meant(node: Node, inherited: tuple[str, ...], level: str, labels_: set[str]) -> Effect | None:
    """The value of a provision in FHIR for data with this confidentiality and these labels."""
    codes = node.codes or inherited
    found = {meant(child, codes, level, labels_) for child in node.children}
    for effect in (DENY, PERMIT):
        if effect in found:
            return effect
    at = [LEVELS.index(code) for code in codes if code in LEVELS]
    here = LEVELS.index(level)
    by_level = bool(at) and (here <= max(at) if node.effect is PERMIT else here >= min(at))
    return node.effect if not codes or by_level or labels_ & set(codes) else None


def read_as(node: Provision, above: tuple[str, tuple[str, ...]], level: str, labels_: set[str]) -> Effect | None:
    """The value of an imported provision by its level and labels alone, as if absent ones put no limit."""
    own = (node.level or above[0], node.labels or above[1])
    found = {read_as(child, own, level, labels_) for child in node.children}
    for effect in (DENY, PERMIT):
        if effect in found:
            return effect
    here = LEVELS.index(level)
    at = LEVELS.index(own[0]) if own[0] else here
    fits = here <= at if node.effect is PERMIT else here >= at
    return node.effect if fits and (not own[1] or ANY in own[1] or labels_ & set(own[1])) else None


def test_trees_of_lists_mean_what_fhir_means() -> None:
    random_ = random.Random(9)
    kinds = []
    for _ in range(400):
        tree = draw(random_, 1)
        base = {"policyRule": None, "policy": [{"uri": "urn:x"}]}
        result = read(r4(**base, provision=fhir(tree)))
        if not isinstance(result, ImportedConsent):
            assert "nest deeper" in result.message
            continue
        for level in LEVELS:
            for data in (set[str](), {"PSY"}, {"HIV"}, {"PSY", "HIV"}, {"STD"}):
                expected = meant(tree, (), level, data)
                assert read_as(result.consent.root, ("", ()), level, data) is expected, (tree, level, data)
                kinds.append(expected)
    assert all(kinds.count(kind) > len(kinds) / 10 for kind in (PERMIT, DENY, None))


@pytest.mark.parametrize(
    ("codes", "effect", "note"),
    [
        (("HIV",), "permit", "a permit states no confidentiality: it covers the default level of each category"),
        (("N",), "permit", "a permit covers data with a sensitivity label only if it names the label"),
        (("N", "R"), "permit", "a permit states several confidentialities: it covers the highest, and lower ones"),
        (("N", "HIV"), "permit", "securityLabel names confidentialities and other labels, and one is enough"),
        (("R",), "deny", "a deny states confidentiality R: it covers this and higher ones, where FHIR says lower ones"),
    ],
)
def test_the_report_says_where_the_source_means_otherwise(codes: tuple[str, ...], effect: str, note: str) -> None:
    assert any(text.startswith(note) for text in root_of(*codes, effect=effect).notes)


def test_a_permit_that_its_inner_list_widens_is_noted() -> None:
    result = root_of("N", nested=[{"type": "permit", "securityLabel": labels("PSY")}])
    assert "a permit of labels inside a provision with a confidentiality covers every confidentiality" in result.notes


def test_a_deny_needs_no_note_on_what_it_leaves_out() -> None:
    assert not any(text.startswith(("a permit", "a deny")) for text in root_of("HIV", effect="deny").notes)


# Actions.


@pytest.mark.parametrize(
    ("effect", "codes", "expected", "note"),
    [
        ("permit", ("disclose",), ("access", "collect"), "a permit to disclose is read as"),
        ("permit", ("use", "disclose", "access"), ("use", "access", "collect"), "a permit to disclose is read as"),
        ("deny", ("disclose",), ("access", "collect", "disclose"), "a deny to disclose is read as"),
        ("deny", ("access",), ("access",), ""),
        ("permit", ("correct",), ("correct",), ""),
        ("permit", (), (), "a permit states no action: it covers all but correct"),
        ("deny", (), (), ""),
    ],
)
def test_to_disclose_is_what_the_recipient_does(
    effect: str, codes: tuple[str, ...], expected: tuple[str, ...], note: str
) -> None:
    members = {"action": actions(*codes)} if codes else {}
    result = imported(
        r4(policyRule=None, policy=[{"uri": "urn:x"}], provision={**R4["provision"], "type": effect, **members})
    )
    assert result.consent.root.actions == expected
    about = [text for text in result.notes if "disclose" in text or "action" in text]
    assert [text.startswith(note) for text in about] == ([True] if note else [])


def test_an_inherited_disclose_follows_the_effect() -> None:
    inner = {"type": "deny", "purpose": [reason("HRESCH")], "provision": [{"type": "permit", "actor": [RESEARCHER]}]}
    root = imported(provision(action=actions("disclose"), provision=[inner])).consent.root
    (deny,) = root.children
    (permit,) = deny.children
    assert (root.actions, deny.actions) == (("access", "collect"), ("access", "collect", "disclose"))
    assert permit.actions == ("access", "collect")


def test_a_line_of_the_mapping_goes_above_the_reading_of_disclose() -> None:
    from cases.fhir_consents import ROOT
    from consentd.fhir.mapping import parse_mapping
    from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY

    text = (ROOT / "ops/fhir-mapping.toml").read_text()
    mapping = parse_mapping(text.replace("[actions]", '[actions]\n"consentaction|disclose" = "disclose"'),
                            DEFAULT_VOCABULARY)
    assert imported(provision(action=actions("disclose")), mapping).consent.root.actions == ("disclose",)


# Actors.


def test_a_custodian_is_the_holder() -> None:
    result = imported(provision(actor=[custodian("hospital-a")]))
    assert (result.consent.root.actors, result.consent.root.holders) == ((ANY,), ("hospital-a",))
    assert "a custodian is read as the holder of the data" in result.notes


def test_a_custodian_inside_is_a_holder_there() -> None:
    inner = {"type": "deny", "actor": [custodian("hospital-a")]}
    root = imported(provision(actor=[RESEARCHER], provision=[inner])).consent.root
    assert (root.actors, root.holders) == (("ex-org-researcher",), ())
    assert [(child.actors, child.holders) for child in root.children] == [((ANY,), ("hospital-a",))]


def test_an_actor_without_role_is_refused_at_its_own_path() -> None:
    refused = read(r5(provision=[{"actor": [{"reference": RESEARCHER["reference"]}]}]))
    assert refused.cause is Cause.ROLE
    assert refused.message.endswith(": `provision[0].actor[0]`")
