"""The nouns of a decision: consent, provision, rules, question, decision.

All values are frozen. Codes are strings of a vocabulary (``TREAT``, ``CLIN.DX``); participants are
their registered identifiers; instants are UTC milliseconds; windows are half-open ``[start, end)``
where an absent bound is open. An empty tuple puts no limit; the tuple ``("*",)`` says the same on
purpose, so that a consent can *state* "any recipient" (policy.md, rule 2).
"""

from dataclasses import dataclass
from enum import IntEnum

ANY = "*"
"""Stated absence of a limit, where leaving a legal item out would be a fault."""

OPEN_END_MS = (1 << 63) - 1
"""End of a window that has none."""

MAX_DEPTH = 8
"""Deepest nesting of provisions, the root being 1."""

MAX_PROVISIONS = 256
"""Most provisions in one consent."""

BREAK_GLASS_PURPOSE = "BTG"
"""The purpose that a question has exactly when it carries a ``break_glass`` justification (rule 7)."""


class Effect(IntEnum):
    """What a provision says of what it matches."""

    DENY = 1
    PERMIT = 2


class Kind(IntEnum):
    """What legal act a consent record is (product.md: consent and transfer request differ)."""

    CONSENT = 1
    TRANSFER_REQUEST = 2
    OBJECTION = 3
    STATUTORY = 4


class Outcome(IntEnum):
    """How a question comes out (policy.md, "Question and answer"). 0 is never sent."""

    PERMIT = 1
    PARTIAL = 2
    DENY = 3
    INDETERMINATE = 4
    NO_CONSENT = 5


class Layer(IntEnum):
    """Where a row stands; the first layer with a permit or a deny decides (rule 1)."""

    STATUTE = 0
    BREAK_GLASS = 1
    CONSENT = 2
    IMPLICIT = 3


class Combining(IntEnum):
    """How lineages combine: the six FHIR Permission names (rule 3)."""

    DENY_OVERRIDES = 1
    PERMIT_OVERRIDES = 2
    ORDERED_DENY_OVERRIDES = 3
    ORDERED_PERMIT_OVERRIDES = 4
    DENY_UNLESS_PERMIT = 5
    PERMIT_UNLESS_DENY = 6


class ImplicitPolicy(IntEnum):
    """What holds where nobody said anything: the four policies of IHE PCF 1.1 (rule 1).

    "Normal" is data of level U, L, M or N. BASIC_NORMAL permits treatment and what it implies, "but does not authorize
    other access"; ALL_NORMAL every purpose but those never implied. BREAK_GLASS_ONLY permits BTG and denies the rest.
    DENY denies all where a consent selects it; as the realm's default it leaves NO_CONSENT, since nobody spoke. While
    the root's period of a consent that selects one lasts, it takes the place of the realm's.
    """

    DENY = 1
    BASIC_NORMAL = 2
    ALL_NORMAL = 3
    BREAK_GLASS_ONLY = 4


class RefusalReason(IntEnum):
    """The eleven grounds of PIPA Enforcement Decree 42-8(1)."""

    R01_REPRESENTATIVE_UNVERIFIED = 1
    R02_ACCESS_LIMITED = 2
    R03_THIRD_PARTY_RIGHTS = 3
    R04_AGENT_UNVERIFIED = 4
    R05_UNSPECIFIED_ITEMS = 5
    R06_IDENTITY_UNVERIFIED = 6
    R07_ILLEGITIMATE = 7
    R08_RECIPIENT_INELIGIBLE = 8
    R09_CLEAR_INFRINGEMENT = 9
    R10_EXCESSIVE = 10
    R11_DECEPTION = 11


class ReasonCode(IntEnum):
    """Why a category came out as it did."""

    PERMITTED_BY_CONSENT = 1
    DENIED_BY_CONSENT = 2
    NO_MATCHING_CONSENT = 3
    PERMITTED_BY_LAW = 4
    DENIED_BY_LAW = 5
    PERMITTED_BY_BREAK_GLASS = 6
    DENIED_BY_BREAK_GLASS = 7
    PERMITTED_BY_IMPLICIT_POLICY = 8
    DENIED_BY_IMPLICIT_POLICY = 9
    UNKNOWN_CATEGORY = 10
    UNREADABLE_CONSENT = 11
    DENIED_BY_COMBINING = 12
    PERMITTED_BY_COMBINING = 13


class Obligation(IntEnum):
    """What the enforcer must do with a permit."""

    ENFORCE_RESIDUAL = 1
    NOTIFY_SUBJECT = 2
    POST_REVIEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """Permit or deny what its attributes match: AND across attributes, OR within one (rule 2).

    Attributes:
        effect: as written; None means the opposite of the parent's.
        actors: participants or groups (``group/ID``) that may act, see rule 10.
        holders: participants that hold what is asked for.
        purposes: purpose codes; closed over ``implies`` when compiled (rule 6).
        categories: data category codes; parents cover their children.
        actions: ``collect`` ``access`` ``use`` ``disclose`` ``correct``.
        labels: security label codes the data may carry.
        resources: references of single resources, ``Observation/123``.
        start_ms, end_ms: when it holds; always intersected with the parent's.
        data_period: of what time the data may be; None: open on both sides.
        children: nested provisions.
    """

    effect: Effect | None = None
    actors: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    start_ms: int = 0
    end_ms: int = OPEN_END_MS
    data_period: "Period | None" = None
    children: "tuple[Provision, ...]" = ()


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open window [start_ms, end_ms) in UTC milliseconds."""

    start_ms: int = 0
    end_ms: int = OPEN_END_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One version of what one person allowed or forbade; what GRANT and AMEND carry.

    The seven legal items (PIPA Enforcement Decree 42-5(3)) are: the root provision's ``purposes``,
    ``holders``, ``actors`` (recipients), ``categories`` and ``end_ms``, and ``recurrence`` and
    ``retention_until_ms`` here. ``root.effect`` is never None.

    Attributes:
        recurrence: ISO 8601 duration of a periodic transfer (``P1M``), ``once``, or empty: not stated.
        retention_until_ms: how long the recipient may keep what it gets; 0: not stated.
        policy: implicit policy that this consent selects below itself, if any (rule 1).
        notice: ``notice/ID`` and version of what the person was shown; empty: not stated.
        authority: seq of the AUTHORITY entry of the person's chain that the grantor rests on; 0: the person.
        language: BCP 47 tag in which consent was given.
        source: where an imported consent came from, ``fhir/r4``; empty: given here.
    """

    kind: Kind
    root: Provision
    recurrence: str = ""
    retention_until_ms: int = 0
    policy: ImplicitPolicy | None = None
    notice: str = ""
    notice_version: int = 0
    authority: int = 0
    language: str = "ko"
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A realm's rules, chain ``rules/ID`` (rule 11).

    ``statutory`` and ``break_glass`` are provisions without children; each ``effect`` is stated.
    An implicit policy below them holds for every person who said nothing else.
    """

    combining: Combining = Combining.DENY_OVERRIDES
    implicit_policy: ImplicitPolicy = ImplicitPolicy.DENY
    statutory: tuple[Provision, ...] = ()
    break_glass: tuple[Provision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks: the real actor, apart from who carries it (product.md)."""

    organisation: str
    practitioner: str = ""
    role: str = ""
    application: str = ""
    on_behalf_of: str = ""
    relay: str = ""
    automatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this transfer happen? (policy.md). The subject is named beside it, not in it.

    Attributes:
        purpose: exactly one purpose code.
        categories: one or more category codes; a parent asks for all its leaves.
        labels, resources, data_period: what is known of the data; None: left open.
        break_glass: the justification; present exactly when the purpose is BTG.
        supported_obligations: what the caller will enforce.
    """

    actor: Actor
    holder: str
    purpose: str
    action: str
    categories: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    data_period: Period | None = None
    break_glass: str | None = None
    supported_obligations: frozenset[Obligation] = frozenset()


@dataclass(frozen=True, slots=True)
class Reason:
    """One consent or rule that decided, and how.

    Attributes:
        consent: seq, in the person's chain, of the GRANT or AMEND leaf that decided; 0: a rule of the realm.
        lineage: seq of the GRANT that began its lineage; 0 likewise.
        version: version within the lineage; 0 likewise.
        path: ``provision[0].provision[2]`` within the consent; empty: the root. Of the realm: ``statutory[0]``,
            ``break_glass[0]``; empty: its implicit policy.
    """

    code: ReasonCode
    effect: Effect | None
    consent: int = 0
    lineage: int = 0
    version: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class ResidualRule:
    """Condition left open by the question, to be enforced resource by resource (rule 5).

    Rules are read as one list: a resource is covered when a PERMIT rule matches it and no DENY rule does. Who
    reads them so never covers too much. Three things refine it, and ``residual.covers`` reads them: the first
    ``layer`` that says permit or deny decides (rule 1); within layer CONSENT the decision's ``combining`` weighs
    rules (rule 3); a DENY rule may have exceptions, its ``children``: it is worth what they are worth, deny before
    permit, and its own effect where they are silent (rule 2).

    Attributes:
        categories: leaves that the rule itself speaks of; empty where only its children speak.
        labels: closed over their hierarchy; a PERMIT rule asks that all of a resource's labels be among
            them, a DENY rule that one is.
        resources, data_period: likewise, inside for PERMIT, overlap for DENY.
    """

    effect: Effect
    categories: tuple[str, ...]
    labels: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    data_period: Period | None = None
    layer: Layer = Layer.CONSENT
    children: "tuple[ResidualRule, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource as an enforcer sees it, to be held against a residual.

    Attributes:
        category: the leaf category it belongs to.
        labels: security labels it carries.
        reference: ``Observation/123``.
        data_period: of what time it tells.
    """

    category: str
    labels: tuple[str, ...] = ()
    reference: str = ""
    data_period: Period = Period()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer. Category codes are leaves, each in exactly one of the four tuples, in vocabulary order.

    ``valid_until_ms`` is the least start or end after now among rows that match but for time (rule 4).
    ``ref`` is the seq of the leaf relied on: the deciding consent's, 0 where none.
    """

    outcome: Outcome
    permitted: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    without_consent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    residual: tuple[ResidualRule, ...] = ()
    valid_until_ms: int = OPEN_END_MS
    ref: int = 0
    vocabulary_version: int = 0
    combining: Combining = Combining.DENY_OVERRIDES


@dataclass(frozen=True, slots=True)
class StoredConsent:
    """The version in force of one lineage of consents, and the state of that lineage.

    Attributes:
        lineage: seq of the GRANT that began the lineage.
        seq: seq of the GRANT or AMEND that is in force.
        version: 1, 2, 3 …
        paused: a PAUSE without a RESUME. The permits of a paused lineage do not count; its denies do.
        readable: False if the version has content that cannot be interpreted. What it matches is then unknown (rule 5).
    """

    lineage: int
    seq: int
    version: int
    consent: Consent
    paused: bool = False
    readable: bool = True
