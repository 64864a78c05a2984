"""Short builders of consents and questions on the default vocabulary, for tests of single rules.

Participants: hospital, clinic and lab (members of group/carers), relay, insurer, university, and nhis, who holds the
data.
"""

from typing import Any

from consentd.policy.model import (
    Actor,
    Consent,
    Effect,
    Kind,
    Obligation,
    Provision,
    Question,
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


DX = ask("CLIN.DX")
