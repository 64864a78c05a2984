"""The values of a decision: consent, provision, rules, question, decision.

All classes are frozen. Codes are strings of a vocabulary (``TREAT``, ``CLIN.DX``). Participants are given by their
registered identifiers. Instants are UTC milliseconds. Windows are half-open, ``[start, end)``; an absent bound is open.
An empty tuple means that nothing is stated, which puts no limit. The tuple ``("*",)`` states that there is no limit,
such as "any recipient" (rule 2). A "rule" with a number is a rule of proto/policy.md.
"""

from dataclasses import dataclass
from enum import IntEnum

from consentd import limits

ANY = "*"
"""The item that states "no limit" in a list that must not be empty, such as the recipients of a permit."""

OPEN_END_MS = (1 << 63) - 1  # the end of a window that never ends
OPEN_START_MS = -1 << 63  # the start of a data period that has none: data may be from before 1970
STILL = (1 << 64) - 1  # the end of a membership that has not ended
LEVELS = ("U", "L", "M", "N", "R", "V")
"""The levels of HL7 v3 Confidentiality, lowest first: from unrestricted to very restricted."""
MAX_DEPTH, MAX_PROVISIONS = limits.PROVISION_LEVELS, limits.CONSENT_PROVISIONS

SUBJECT = "SUBJECT"
"""The reserved name of the person whose data are asked for, in place of a participant's id."""

BREAK_GLASS_PURPOSE = "BTG"
"""The purpose of every question with a ``break_glass`` justification, and of no other question (rule 7)."""


class Effect(IntEnum):
    """Whether a provision permits or denies the questions that match the provision."""

    DENY = 1
    PERMIT = 2


class Kind(IntEnum):
    """The legal act that a record documents. In Korean law a transfer request (전송요구) is no consent (동의)."""

    CONSENT = 1
    TRANSFER_REQUEST = 2
    OBJECTION = 3
    STATUTORY = 4


class Outcome(IntEnum):
    """The outcome of a question (policy.md, "Question and answer"). The value 0 is never sent."""

    PERMIT = 1
    PARTIAL = 2
    DENY = 3
    INDETERMINATE = 4
    NO_CONSENT = 5


class Layer(IntEnum):
    """The layers, highest first. For each category, the first layer that permits or denies it decides (rule 1)."""

    STATUTE = 0
    BREAK_GLASS = 1
    CONSENT = 2
    IMPLICIT = 3
    REALM = 4


class Combining(IntEnum):
    """How the answers of several consents are combined. The six names are those of FHIR Permission (rule 3)."""

    DENY_OVERRIDES = 1
    PERMIT_OVERRIDES = 2
    ORDERED_DENY_OVERRIDES = 3
    ORDERED_PERMIT_OVERRIDES = 4
    DENY_UNLESS_PERMIT = 5
    PERMIT_UNLESS_DENY = 6


class ImplicitPolicy(IntEnum):
    """The policy for categories that no consent decides: one of four of IHE PCF 1.1 (rule 1).

    NORMAL: for data without labels, up to the realm's normal level. BASIC_NORMAL permits treatment and the purposes
    that treatment implies. ALL_NORMAL permits the purposes that ``*`` covers. BREAK_GLASS_ONLY permits BTG and denies
    the rest. A policy that a consent selects has the limits of the consent's root.
    """

    DENY = 1
    BASIC_NORMAL = 2
    ALL_NORMAL = 3
    BREAK_GLASS_ONLY = 4


class ReasonCode(IntEnum):
    """Why a category is permitted, denied, without consent or unknown."""

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
    CLOCK = 14
    DAMAGED_ROW = 15
    BEYOND_RECURRENCE = 16


class Obligation(IntEnum):
    """What the caller must do if it acts on a permit."""

    ENFORCE_RESIDUAL = 1
    NOTIFY_SUBJECT = 2
    POST_REVIEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """Permit or deny a use of data. All attributes must match; in a list, one matching item is enough (rule 2).

    Attributes:
        effect: PERMIT or DENY; None: the opposite of the parent's effect.
        actors: participants or groups (``group/ID``) that ask for the data (rule 10).
        holders: participants that hold the data.
        purposes, categories, labels: codes. Compiling adds the codes that these codes imply or contain (rule 6).
        actions: ``collect`` ``access`` ``use`` ``disclose`` ``correct``.
        resources: references of single resources, ``Observation/123``.
        level: one of ``LEVELS``: a permit covers it and lower ones, a deny it and higher ones (rule 9). Empty: a permit
            covers up to the default level of each category, and a deny covers all.
        start_ms, end_ms: when the provision is in force. Compiling intersects this window with the parent's window.
        data_period: the time that the data may be about; None, or a period with neither start nor end: any time.
    """

    effect: Effect | None = None
    actors: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    level: str = ""
    start_ms: int = 0
    end_ms: int = OPEN_END_MS
    data_period: "Period | None" = None
    children: "tuple[Provision, ...]" = ()


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open window [start_ms, end_ms) in UTC milliseconds: the time that data are about, from before 1970 too."""

    start_ms: int = OPEN_START_MS
    end_ms: int = OPEN_END_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """One version of what a person permits or denies: the content of a GRANT or AMEND entry.

    The seven legal items (PIPA Enforcement Decree 42-5(3)) are the root provision's ``purposes``, ``holders``,
    ``actors`` (recipients), ``categories`` and ``end_ms``, and the consent's own ``recurrence`` and
    ``retention_until_ms``. ``root.effect`` is never None.

    Attributes:
        recurrence: how often its permits permit a transfer (rule 13): ``once``, once in each ISO 8601 duration
            (``P1M``), or empty: as often as it is asked for.
        retention_until_ms: until when the recipient may keep the data; 0: not stated.
        policy: the implicit policy that this consent selects (rule 1); None: the realm's policy applies.
        notice: ``notice/ID`` of the notice that the person was shown; empty: not stated.
        language: BCP 47 tag of the language in which consent was given.
        source: format that the consent was imported from, ``fhir/r4``; empty: the consent was not imported.
        legal_basis: code of what a STATUTORY consent rests on; empty for the other kinds.
        legal_basis_note: the article, order or judgment in words; empty: not stated.
        policy_uris: policies that the source names and that select nothing. They are kept and shown.
    """

    kind: Kind
    root: Provision
    recurrence: str = ""
    retention_until_ms: int = 0
    policy: ImplicitPolicy | None = None
    notice: str = ""
    notice_version: int = 0
    language: str = "ko"
    source: str = ""
    legal_basis: str = ""
    legal_basis_note: str = ""
    policy_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How much one caller may do (``sequencer.quotas``).

    Attributes:
        entries_per_day: entries in the chain of one person, in a day of Asia/Seoul.
        refusals_per_day: refusals among them.
        persons_per_hour: persons that the caller checks in an hour, without an access that follows.
    """

    entries_per_day: int = limits.ENTRIES_PER_DAY
    refusals_per_day: int = limits.REFUSALS_PER_DAY
    persons_per_hour: int = limits.PERSONS_PER_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of a realm, from the chain ``rules/ID`` (rule 11). Each provision has an effect and no children.

    ``normal_level``: the highest level that the normal policies cover. A higher one widens no older consent (rule 1).
    ``recipient_may_attest``: a recipient may attest, for the person, a consent that permits this recipient something.
    ``standing_capacities``: permits of representatives of these capacities do not end with the authority (rule 8).
    ``served_required``: every consent and transfer request rests on a SERVED entry (rule 8).
    """

    combining: Combining = Combining.DENY_OVERRIDES
    implicit_policy: ImplicitPolicy = ImplicitPolicy.DENY
    statutory: tuple[Provision, ...] = ()
    break_glass: tuple[Provision, ...] = ()
    recipient_may_attest: bool = False
    normal_level: str = "N"
    quotas: Quotas = Quotas()
    standing_capacities: tuple[int, ...] = ()
    served_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The organisation that wants the data, and the participants that it acts for or asks through.

    ``organisation`` may be ``SUBJECT``. The module ``actor`` checks that the names are true (rule 10).
    """

    organisation: str
    practitioner: str = ""
    role: str = ""
    application: str = ""
    on_behalf_of: str = ""
    relays: tuple[str, ...] = ()
    automatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question whether a transfer is permitted (policy.md). The subject (the person) is passed separately.

    Attributes:
        categories: one or more category codes; a parent category asks for all its leaf categories.
        labels, resources, data_period: properties of the data asked for. None: the question leaves the property open.
        level: one of ``LEVELS``; empty: the question leaves the level open.
        break_glass: the justification of an emergency access; present exactly if the purpose is BTG.
        supported_obligations: obligations that the caller can enforce.
    """

    actor: Actor
    holder: str
    purpose: str
    action: str = "collect"
    categories: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    data_period: Period | None = None
    level: str = ""
    break_glass: str | None = None
    supported_obligations: frozenset[Obligation] = frozenset()


@dataclass(frozen=True, slots=True)
class Reason:
    """A consent or a rule of the realm that decided a category. For a rule, *consent*, *lineage* and *version* are 0.

    Attributes:
        consent, lineage: seq, in the person's chain, of the leaf that decided, and of the GRANT that began the lineage.
        path: the provision within the consent, ``provision[0].provision[2]``; empty: the root. For a rule of the realm:
            ``statutory[0]`` or ``break_glass[0]``; empty: the implicit policy.
    """

    code: ReasonCode
    effect: Effect | None
    consent: int = 0
    lineage: int = 0
    version: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True)
class ResidualRule:
    """A condition on properties that the question left open. The caller checks each resource against it (rule 5).

    If no rule has children, a simple caller may release a resource that a PERMIT rule and no DENY rule matches. That
    never releases too much. ``residual.covers`` is exact: the first ``layer`` with a matching rule decides (rule 1);
    within CONSENT the decision's ``combining`` decides (rule 3), and within each other layer a deny wins; and the
    ``children`` of a rule are exceptions to it (rule 2).

    Attributes:
        categories: leaf categories that the rule itself matches; empty if only the rule's children can match.
        covered_labels: a PERMIT rule matches only if each label of the resource is in this list. Empty in a DENY rule.
        any_labels: the resource bears at least one of them; empty: no such condition. Codes below are included.
        level: PERMIT: the highest level of the resource; DENY: the lowest; empty: any level.
        resources, data_period: limits. A resource must be inside for a PERMIT rule, and overlap for a DENY rule.
    """

    effect: Effect
    categories: tuple[str, ...]
    covered_labels: tuple[str, ...] = ()
    any_labels: tuple[str, ...] = ()
    level: str = ""
    resources: tuple[str, ...] = ()
    data_period: Period | None = None
    layer: Layer = Layer.CONSENT
    children: "tuple[ResidualRule, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A single resource that the caller checks against a residual.

    Attributes:
        category: a leaf category.
        labels: the labels that the resource bears; those of its category may be left out.
        level: one of ``LEVELS``; empty, or lower than the default level of the category: that default level.
    """

    category: str
    labels: tuple[str, ...] = ()
    level: str = ""
    reference: str = ""
    data_period: Period = Period()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer. Each leaf category asked for is in one of the four category tuples, in the order of the vocabulary.

    ``labels`` and ``level`` are those of the data permitted (``residual.data_permitted``). ``valid_until_ms`` is the
    earliest start or end after now, among all rows that match if their windows are ignored (rule 4). ``ref`` is the seq
    of the leaf of the consent that decided; 0: no consent decided.
    """

    outcome: Outcome
    permitted: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    without_consent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    residual: tuple[ResidualRule, ...] = ()
    labels: tuple[str, ...] = ()
    level: str = ""
    valid_until_ms: int = OPEN_END_MS
    ref: int = 0
    vocabulary_version: int = 0
    combining: Combining = Combining.DENY_OVERRIDES


@dataclass(frozen=True, slots=True)
class StoredConsent:
    """The version in force (1, 2, 3 …) of a lineage (a consent and its amendments), and whether the lineage is paused.

    Attributes:
        lineage, seq: seq of the GRANT that began the lineage, and of the GRANT or AMEND that is in force.
        paused: True from a PAUSE to the RESUME. The permits of a paused lineage do not count; the denies do.
        since: leaf index of the entry that is in force: the moment at which groups in its permits are read (rule 10).
        authority: seq of the AUTHORITY entry under which a representative gave the version; 0: the person gave it.
        notice: number of the version of a notice that the version was given under; 0: none, or STATUTORY.
        readable: False if content cannot be interpreted. Categories that may match are then unknown (rule 5).
    """

    lineage: int
    seq: int
    version: int
    consent: Consent
    paused: bool = False
    readable: bool = True
    since: int = 0
    authority: int = 0
    notice: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Membership:
    """A participant was a member of *group* from the entry with leaf index *start* until the entry with index *end*.

    The entry *end* is not included. ``STILL``: the participant is a member now.
    """

    group: str
    start: int = 0
    end: int = STILL
