"""A table of decisions worked out by hand, rule by rule, on the default vocabulary: what the reference must say.

Each case says, in this order: the consents and rules, the question, and what comes out. Participants: hospital,
clinic and lab (members of group/carers), relay, insurer, university, and nhis, who holds most of the data. All of them
delegated everything to each other: who may act for whom is decided in ``test_actor``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from consentd.policy.model import (
    OPEN_END_MS,
    Actor,
    Combining,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Obligation,
    Outcome,
    Period,
    Provision,
    Question,
    ReasonCode,
    Rules,
    StoredConsent,
)

NUMBERS = {
    name: index
    for index, name in enumerate(
        ("hospital", "clinic", "lab", "relay", "insurer", "university", "nhis", "group/carers", "group/payers"), 1
    )
}
GROUPS = {name: {"group/carers"} for name in ("hospital", "clinic", "lab")} | {"insurer": {"group/payers"}}
NOW = 1_000_000
RESIDUAL = frozenset({Obligation.ENFORCE_RESIDUAL})


@dataclass(frozen=True)
class Case:
    """One decision. ``out`` holds the fields of ``Decision`` that the case is about; the outcome always."""

    rule: int
    name: str
    consents: tuple[StoredConsent, ...]
    question: Question
    outcome: Outcome
    rules: Rules = field(default_factory=Rules)
    now_ms: int = NOW
    out: dict[str, Any] = field(default_factory=dict)
    codes: tuple[ReasonCode, ...] = ()

    @property
    def id(self) -> str:
        return f"rule {self.rule}: {self.name}"


def permit(*children: Provision, **limits: Any) -> Provision:
    return Provision(effect=Effect.PERMIT, children=children, **limits)


def deny(*children: Provision, **limits: Any) -> Provision:
    return Provision(effect=Effect.DENY, children=children, **limits)


def opposite(*children: Provision, **limits: Any) -> Provision:
    return Provision(children=children, **limits)


def consent(root: Provision, lineage: int = 1, **more: Any) -> StoredConsent:
    kind, policy = more.pop("kind", Kind.CONSENT), more.pop("policy", None)
    seq, version = more.pop("seq", lineage), more.pop("version", 1)
    return StoredConsent(lineage, seq, version, Consent(kind=kind, root=root, policy=policy), **more)


def ask(*categories: str, purpose: str = "TREAT", by: str = "hospital", **more: Any) -> Question:
    others = {name: more.pop(name) for name in ("on_behalf_of", "relays", "application") if name in more}
    if purpose == "BTG":
        more.setdefault("break_glass", "unconscious, no relative reached")
    actor = Actor(organisation=by, **others)
    return Question(actor=actor, holder="nhis", purpose=purpose, action="access", categories=categories, **more)


PERMIT, PARTIAL, DENY = Outcome.PERMIT, Outcome.PARTIAL, Outcome.DENY
UNTOLD, NONE = Outcome.INDETERMINATE, Outcome.NO_CONSENT
TREAT = permit(purposes=("TREAT",))
DX = ask("CLIN.DX")
LAW = ReasonCode

CASES: Sequence[Case] = (
    # Rule 1: layers
    Case(1, "nobody said anything", (), DX, NONE, out={"without_consent": ("CLIN.DX",), "ref": 0}),
    Case(1, "a consent permits", (consent(TREAT),), DX, PERMIT, out={"permitted": ("CLIN.DX",), "ref": 1}),
    Case(1, "a statute forbids what a consent permits", (consent(TREAT),), DX, DENY,
         Rules(statutory=(deny(categories=("CLIN",)),)), codes=(LAW.DENIED_BY_LAW,), out={"ref": 0}),
    Case(1, "a statute permits what an objection forbids", (consent(deny(), kind=Kind.OBJECTION),),
         ask("PUB.EPI", purpose="PUBHLTH"), PERMIT,
         Rules(statutory=(permit(purposes=("PUBHLTH",), categories=("PUB",)),)), codes=(LAW.PERMITTED_BY_LAW,)),
    Case(1, "a statute that speaks of another purpose is silent", (), DX, NONE,
         Rules(statutory=(permit(purposes=("PUBHLTH",)),))),
    Case(1, "within the statutes a prohibition wins", (), DX, DENY, Rules(statutory=(permit(), deny()))),
    Case(1, "layers decide category by category", (consent(deny(categories=("CLIN.RX",))),),
         ask("CLIN.DX", "CLIN.RX", "GEN.RAW"), PARTIAL, Rules(statutory=(permit(categories=("CLIN.DX",)),)),
         out={"permitted": ("CLIN.DX",), "denied": ("CLIN.RX",), "without_consent": ("GEN.RAW",)}),
    Case(1, "a court's order about one person is in the layer of statutes",
         (consent(deny(), 1), consent(permit(purposes=("HLEGAL",)), 2, kind=Kind.STATUTORY)),
         ask("CLIN.DX", purpose="HLEGAL"), PERMIT, codes=(LAW.PERMITTED_BY_LAW,), out={"ref": 2}),
    Case(1, "basic-normal permits treatment with normal data", (), ask("CLIN.ALG", "CLIN.DX"), PARTIAL,
         Rules(implicit_policy=ImplicitPolicy.BASIC_NORMAL), out={"permitted": ("CLIN.ALG",)},
         codes=(LAW.PERMITTED_BY_IMPLICIT_POLICY, LAW.NO_MATCHING_CONSENT)),
    Case(1, "basic-normal authorizes no other access", (), ask("CLIN.ALG", purpose="HPAYMT"), NONE,
         Rules(implicit_policy=ImplicitPolicy.BASIC_NORMAL)),
    Case(1, "all-normal permits research with normal data", (), ask("LIFE.BP", purpose="DSRCH"), PERMIT,
         Rules(implicit_policy=ImplicitPolicy.ALL_NORMAL)),
    Case(1, "all-normal permits nothing that is never implied", (), ask("LIFE.BP", purpose="HMARKT"), NONE,
         Rules(implicit_policy=ImplicitPolicy.ALL_NORMAL)),
    Case(1, "an objection goes above the implicit policy", (consent(deny(categories=("LIFE",))),), ask("LIFE.BP"), DENY,
         Rules(implicit_policy=ImplicitPolicy.ALL_NORMAL), codes=(LAW.DENIED_BY_CONSENT,)),
    Case(1, "break-glass-only denies what is no emergency", (), DX, DENY,
         Rules(implicit_policy=ImplicitPolicy.BREAK_GLASS_ONLY), codes=(LAW.DENIED_BY_IMPLICIT_POLICY,)),
    Case(1, "a consent that selects Policy-deny denies below itself",
         (consent(permit(purposes=("TREAT",), resources=("Observation/1",)), policy=ImplicitPolicy.DENY),),
         DX, DENY, codes=(LAW.DENIED_BY_IMPLICIT_POLICY,)),
    Case(1, "and nothing outside its root's limits",
         (consent(permit(purposes=("TREAT",), categories=("CLIN.DX",)), policy=ImplicitPolicy.DENY),),
         ask("CLIN.DX", "CLIN.RX"), PARTIAL, out={"permitted": ("CLIN.DX",), "without_consent": ("CLIN.RX",)}),
    Case(1, "a selected policy leaves the realm's in force",
         (consent(permit(purposes=("HRESCH",)), policy=ImplicitPolicy.BASIC_NORMAL),),
         ask("LIFE.BP", purpose="PATADMIN"), PERMIT, Rules(implicit_policy=ImplicitPolicy.ALL_NORMAL)),
    Case(1, "a policy is selected only while its consent lasts",
         (consent(permit(purposes=("HRESCH",), end_ms=NOW), policy=ImplicitPolicy.DENY),),
         ask("LIFE.BP"), PERMIT, Rules(implicit_policy=ImplicitPolicy.ALL_NORMAL)),
    # Rule 2: within a consent
    Case(2, "all attributes must match", (consent(permit(purposes=("TREAT",), holders=("clinic",))),), DX, NONE),
    Case(2, "one of a repeated attribute suffices", (consent(permit(purposes=("HPAYMT", "TREAT"))),), DX, PERMIT),
    Case(2, "an absent attribute puts no limit", (consent(permit()),), ask("CLIN.RX", by="insurer"), PERMIT),
    Case(2, "a star says so on purpose", (consent(permit(actors=("*",), purposes=("*",), categories=("*",))),), DX,
         PERMIT),
    Case(2, "a child without effect is the opposite", (consent(permit(opposite(categories=("CLIN.DX",)))),), DX, DENY,
         out={"denied": ("CLIN.DX",)}),
    Case(2, "and names its path", (consent(permit(permit(categories=("GEN",)), opposite(categories=("CLIN.DX",)))),),
         DX,
         DENY, out={"reasons": "provision[1]"}),
    Case(2, "besides, the parent's own effect counts", (consent(permit(opposite(categories=("CLIN.DX",)))),),
         ask("CLIN.RX"), PERMIT),
    Case(2, "deny, then permit, then deny: the deepest that matches",
         (consent(deny(opposite(opposite(categories=("CLIN.DX",)), categories=("CLIN",)))),),
         ask("CLIN.DX", "CLIN.RX", "GEN.RAW"), PARTIAL,
         out={"permitted": ("CLIN.RX",), "denied": ("CLIN.DX", "GEN.RAW")}),
    Case(2, "an effect is as written: deny in deny in permit",
         (consent(deny(deny(permit(purposes=("ETREAT",)), actors=("hospital",)))),),
         ask("CLIN.DX", purpose="ETREAT"), PERMIT),
    Case(2, "among siblings a deny wins",
         (consent(permit(permit(categories=("CLIN.DX",)), deny(categories=("CLIN",)))),),
         DX, DENY),
    Case(2, "a child inherits what it does not state",
         (consent(permit(deny(categories=("INS",)), actors=("hospital",))), consent(permit(), 2)),
         ask("INS.TX", by="clinic"), PERMIT),
    Case(2, "what a child states replaces its parent's",
         (consent(permit(permit(purposes=("HRESCH",), actors=("university",)), purposes=("TREAT",))),),
         ask("CLIN.DX", purpose="HRESCH", by="university"), PERMIT),
    Case(2, "and may forbid something else",
         (consent(permit(deny(purposes=("HMARKT",)), purposes=("TREAT",))),),
         ask("CLIN.DX", purpose="HMARKT"), DENY),
    Case(2, "periods intersect always",
         (consent(permit(permit(categories=("GEN",), end_ms=OPEN_END_MS), categories=("CLIN",), end_ms=NOW)),),
         ask("GEN.RAW"), NONE),
    # Rule 3: across consents
    Case(3, "any deny denies", (consent(permit()), consent(deny(categories=("CLIN.DX",)), 2)), DX, DENY,
         out={"ref": 2}),
    Case(3, "permit-overrides", (consent(permit()), consent(deny(), 2)), DX, PERMIT,
         Rules(combining=Combining.PERMIT_OVERRIDES), out={"combining": Combining.PERMIT_OVERRIDES, "ref": 1}),
    Case(3, "ordered names the newest first", (consent(permit()), consent(permit(), 2)), DX, PERMIT,
         Rules(combining=Combining.ORDERED_DENY_OVERRIDES), out={"ref": 2}),
    Case(3, "unordered names the oldest first", (consent(permit()), consent(permit(), 2)), DX, PERMIT, out={"ref": 1}),
    Case(3, "ordered-permit-overrides", (consent(deny()), consent(permit(), 2), consent(permit(), 3)), DX, PERMIT,
         Rules(combining=Combining.ORDERED_PERMIT_OVERRIDES), out={"ref": 3}),
    Case(3, "deny-unless-permit denies the unsaid", (), DX, DENY, Rules(combining=Combining.DENY_UNLESS_PERMIT),
         codes=(LAW.DENIED_BY_COMBINING,)),
    Case(3, "deny-unless-permit never asks the implicit policy", (), ask("LIFE.BP"), DENY,
         Rules(combining=Combining.DENY_UNLESS_PERMIT, implicit_policy=ImplicitPolicy.ALL_NORMAL)),
    Case(3, "deny-unless-permit permits the permitted", (consent(deny()), consent(permit(), 2)), DX, PERMIT,
         Rules(combining=Combining.DENY_UNLESS_PERMIT)),
    Case(3, "permit-unless-deny permits the unsaid", (), DX, PERMIT, Rules(combining=Combining.PERMIT_UNLESS_DENY),
         codes=(LAW.PERMITTED_BY_COMBINING,)),
    Case(3, "permit-unless-deny denies the denied", (consent(deny()), consent(permit(), 2)), DX, DENY,
         Rules(combining=Combining.PERMIT_UNLESS_DENY)),
    Case(3, "the highest version alone counts, even before its start",
         (consent(permit(start_ms=NOW + 5), seq=4, version=2),), DX, NONE, out={"valid_until_ms": NOW + 5}),
    Case(3, "a paused permit counts for nothing", (consent(permit(), paused=True),), DX, NONE),
    Case(3, "a pause lifts no deny", (consent(deny(), paused=True), consent(permit(), 2)), DX, DENY),
    Case(3, "a paused exception to a deny counts for nothing",
         (consent(deny(permit(categories=("CLIN.DX",))), paused=True),), DX, DENY),
    # Rule 4: time
    Case(4, "a window begins at its start", (consent(permit(start_ms=NOW)),), DX, PERMIT),
    Case(4, "and is over at its end", (consent(permit(end_ms=NOW)),), DX, NONE, out={"valid_until_ms": OPEN_END_MS}),
    Case(4, "until then it holds", (consent(permit(end_ms=NOW + 1)),), DX, PERMIT, out={"valid_until_ms": NOW + 1}),
    Case(4, "a later deny bounds the answer", (consent(permit(end_ms=NOW + 9)), consent(deny(start_ms=NOW + 3), 2)), DX,
         PERMIT, out={"valid_until_ms": NOW + 3}),
    Case(4, "one that does not match does not",
         (consent(permit()), consent(deny(actors=("clinic",), start_ms=NOW + 3), 2)),
         DX, PERMIT, out={"valid_until_ms": OPEN_END_MS}),
    Case(4, "nor one about another category",
         (consent(permit()), consent(deny(categories=("GEN",), start_ms=NOW + 3), 2)),
         DX, PERMIT, out={"valid_until_ms": OPEN_END_MS}),
    Case(4, "a lower layer bounds it too", (consent(permit(end_ms=NOW + 9)),), DX, DENY, Rules(statutory=(deny(),)),
         out={"valid_until_ms": NOW + 9}),
    Case(4, "data inside the permitted period", (consent(permit(data_period=Period(10, 20))),),
         ask("CLIN.DX", data_period=Period(10, 20)), PERMIT),
    Case(4, "data partly outside it", (consent(permit(data_period=Period(10, 20))),),
         ask("CLIN.DX", data_period=Period(10, 21)), NONE),
    Case(4, "data that overlaps a denied period", (consent(permit(opposite(data_period=Period(10, 20)))),),
         ask("CLIN.DX", data_period=Period(19, 30)), DENY),
    Case(4, "data that only touches it", (consent(permit(opposite(data_period=Period(10, 20)))),),
         ask("CLIN.DX", data_period=Period(20, 30)), PERMIT),
    # Rule 5: fail closed
    Case(5, "labels left open match no permit", (consent(permit(labels=("MH",))),), DX, NONE),
    Case(5, "and match a deny", (consent(permit(opposite(labels=("HIV",)))),), DX, DENY),
    Case(5, "all of the labels must be permitted", (consent(permit(labels=("MH", "STD"))),),
         ask("CLIN.DX", labels=("MH", "HIV")), NONE),
    Case(5, "no labels is known, not left open", (consent(permit(opposite(labels=("HIV",)))),),
         ask("CLIN.DX", labels=()),
         PERMIT),
    Case(5, "a resource left open", (consent(permit(resources=("Observation/1",))),), DX, NONE),
    Case(5, "a resource named", (consent(permit(resources=("Observation/1",))),),
         ask("CLIN.DX", resources=("Observation/1",)), PERMIT),
    Case(5, "one resource too many", (consent(permit(resources=("Observation/1",))),),
         ask("CLIN.DX", resources=("Observation/1", "Observation/2")), NONE),
    Case(5, "a data period left open", (consent(permit(data_period=Period(10, 20))),), DX, NONE),
    Case(5, "a data period without bounds is no limit", (consent(permit(data_period=Period())),), DX, PERMIT),
    Case(5, "a child drops its parent's data period with one",
         (consent(permit(permit(data_period=Period()), data_period=Period(10, 20))),), DX, PERMIT),
    Case(5, "a deny with one is no condition", (consent(permit()), consent(deny(data_period=Period()), 2)),
         replace(DX, supported_obligations=RESIDUAL), DENY, out={"obligations": (), "residual": ()}),
    Case(5, "an enforcer of residuals gets the condition", (consent(permit(labels=("MH",))),),
         replace(DX, supported_obligations=RESIDUAL), PERMIT, out={"obligations": (Obligation.ENFORCE_RESIDUAL,)}),
    Case(5, "and none where nothing depends on it", (consent(permit()),),
         replace(DX, labels=(), level="R", supported_obligations=RESIDUAL), PERMIT,
         out={"obligations": (), "residual": ()}),
    Case(5, "what no resource could have is no residual", (consent(permit(labels=("MH",), purposes=("HRESCH",))),),
         replace(DX, supported_obligations=RESIDUAL), NONE, out={"obligations": ()}),
    Case(5, "an unknown category", (consent(permit()),), ask("CLIN.DX", "HOROSCOPE"), PARTIAL,
         out={"permitted": ("CLIN.DX",), "unknown": ("HOROSCOPE",)}),
    Case(5, "an unknown category alone", (consent(permit()),), ask("HOROSCOPE"), UNTOLD,
         codes=(LAW.UNKNOWN_CATEGORY,)),
    Case(5, "a consent that cannot be read", (consent(permit(), readable=False), consent(permit(), 2)), DX, UNTOLD,
         codes=(LAW.UNREADABLE_CONSENT,)),
    Case(5, "one about another actor", (consent(permit(actors=("clinic",)), readable=False), consent(permit(), 2)), DX,
         PERMIT),
    Case(5, "one that is over", (consent(permit(end_ms=NOW), readable=False), consent(permit(), 2)), DX, PERMIT),
    Case(5, "a deny decides all the same", (consent(permit(), readable=False), consent(deny(), 2)), DX, DENY),
    Case(5, "so does a statute", (consent(permit(), readable=False),), DX, DENY, Rules(statutory=(deny(),))),
    # Rule 6: hierarchies
    Case(6, "a permit for treatment covers emergency room treatment", (consent(TREAT),),
         ask("CLIN.DX", purpose="ERTREAT"), PERMIT),
    *(
        Case(6, f"{parent} never implies {child}", (consent(permit(purposes=(parent,))),),
             ask("CLIN.DX", purpose=child), NONE)
        for parent, child in (("TREAT", "CLINTRL"), ("TREAT", "POPHLTH"), ("HOPERAT", "HLEGAL"), ("HRESCH", "POARCH"),
                              ("HRESCH", "AITRAIN"), ("TREAT", "BTG"), ("ETREAT", "BTG"))
    ),
    Case(6, "named, it is permitted", (consent(permit(purposes=("AITRAIN",))),), ask("CLIN.DX", purpose="AITRAIN"),
         PERMIT),
    Case(6, "a permit for a child does not cover its parent", (consent(permit(purposes=("COC",))),), DX, NONE),
    Case(6, "a deny of research denies the training of AI", (consent(permit()), consent(deny(purposes=("HRESCH",)), 2)),
         ask("CLIN.DX", purpose="AITRAIN"), DENY),
    Case(6, "a deny of treatment denies break-glass", (consent(permit()), consent(deny(purposes=("TREAT",)), 2)),
         ask("CLIN.DX", purpose="BTG"), DENY),
    Case(6, "a class covers its leaves", (consent(permit(categories=("INS",))),), ask("INS.TX", "CLIN.DX"), PARTIAL),
    Case(6, "asking for a class is asking for its leaves", (consent(permit(categories=("PUB",))),), ask("PUB"), PERMIT,
         out={"permitted": ("PUB.IMM", "PUB.EPI", "PUB.ENV")}),
    Case(6, "a deny on a leaf is not lost in its class", (consent(permit(opposite(categories=("PUB.EPI",)))),),
         ask("PUB"),
         PARTIAL, out={"permitted": ("PUB.IMM", "PUB.ENV"), "denied": ("PUB.EPI",)}),
    Case(6, "a label covers those below it", (consent(permit(opposite(labels=("SUD",)))),),
         ask("CLIN.DX", labels=("ETHUD",)), DENY),
    # Rule 7: break-glass
    Case(7, "the realm's rule permits, with duties", (consent(deny()),), ask("CLIN.DX", purpose="BTG"), PERMIT,
         Rules(break_glass=(permit(actors=("group/carers",)),)), codes=(LAW.PERMITTED_BY_BREAK_GLASS,),
         out={"obligations": (Obligation.NOTIFY_SUBJECT, Obligation.POST_REVIEW)}),
    Case(7, "silent, consents decide", (consent(permit(purposes=("BTG",))),), ask("CLIN.DX", purpose="BTG"), PERMIT,
         codes=(LAW.PERMITTED_BY_CONSENT,), out={"obligations": (Obligation.NOTIFY_SUBJECT, Obligation.POST_REVIEW)}),
    Case(7, "the rule is for emergencies only", (), DX, NONE, Rules(break_glass=(permit(),))),
    Case(7, "a denied emergency has no duties", (consent(deny()),), ask("CLIN.DX", purpose="BTG"), DENY,
         out={"obligations": ()}),
    Case(7, "the rule may deny", (consent(permit()),), ask("GEN.RAW", purpose="BTG"), DENY,
         Rules(break_glass=(deny(categories=("GEN",)),)), codes=(LAW.DENIED_BY_BREAK_GLASS,)),
    Case(7, "a statute goes above it", (), ask("CLIN.DX", purpose="BTG"), DENY,
         Rules(break_glass=(permit(),), statutory=(deny(),))),
    Case(7, "break-glass-only permits it", (), ask("CLIN.DX", purpose="BTG"), PERMIT,
         Rules(implicit_policy=ImplicitPolicy.BREAK_GLASS_ONLY)),
    # Rule 10: who is the actor
    Case(10, "a permit is for the organisation", (consent(permit(actors=("hospital",))),), DX, PERMIT),
    Case(10, "or for the one on whose behalf", (consent(permit(actors=("hospital",))),),
         ask("CLIN.DX", by="lab", on_behalf_of="hospital"), PERMIT),
    Case(10, "then not for the organisation", (consent(permit(actors=("lab",))),),
         ask("CLIN.DX", by="lab", on_behalf_of="hospital"), NONE),
    Case(10, "never for relay or application", (consent(permit(actors=("relay", "lab"))),),
         ask("CLIN.DX", relays=("relay",), application="lab"), NONE),
    *(
        Case(10, f"a deny is against {name}", (consent(permit()), consent(deny(actors=("insurer",)), 2)),
             ask("CLIN.DX", **actor), DENY)
        for name, actor in (
            ("organisation", {"by": "insurer", "on_behalf_of": "hospital"}),
            *((name, {name: "insurer"}) for name in ("on_behalf_of", "application")),
            ("relays", {"relays": ("relay", "insurer")}),
        )
    ),
    Case(10, "a group means its members", (consent(permit(actors=("group/carers",))),),
         ask("CLIN.DX", by="clinic"),
         PERMIT),
    Case(10, "and for nobody else", (consent(permit(actors=("group/carers",))),), ask("CLIN.DX", by="insurer"), NONE),
    Case(10, "a denied group reaches the relay", (consent(permit()), consent(deny(actors=("group/payers",)), 2)),
         ask("CLIN.DX", relays=("insurer",)), DENY),
    # Rule 11: the rules are the realm's
    Case(11, "combining is in every answer", (), DX, DENY, Rules(combining=Combining.DENY_UNLESS_PERMIT),
         out={"combining": Combining.DENY_UNLESS_PERMIT}),
    Case(11, "a statute names its place", (), ask("CLIN.DX"), DENY,
         Rules(statutory=(permit(purposes=("HMARKT",)), deny())),
         out={"reasons": "statutory[1]"}),
    Case(11, "statutes have periods", (), DX, NONE, Rules(statutory=(deny(start_ms=NOW + 7),)),
         out={"valid_until_ms": NOW + 7}),
    Case(11, "and parties", (), ask("CLIN.DX", by="insurer"), DENY, Rules(statutory=(deny(actors=("group/payers",)),))),
)
