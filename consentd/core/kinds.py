"""Define the kinds of event leaves, who may author each kind, and what its entries may change.

Source: ledger-format.md, "Kinds". ``consentd.v1.EntryKind`` has the same numbers; a test compares the two. Numbers are
never reused. A new kind is added to both enums, to ``AUTHORS``, and (unless ``table.transaction`` applies its entries)
to ``NO_TABLE_EFFECT``.
"""

from enum import IntEnum


class EntryKind(IntEnum):
    """The kind byte of an event leaf."""

    LEDGER = 1
    PARTICIPANT = 2
    KEY = 3
    VOCABULARY = 4
    NOTICE = 5
    ENROL = 6
    AUTHORITY = 7
    GRANT = 8
    AMEND = 9
    PAUSE = 10
    RESUME = 11
    REVOKE = 12
    ACCESS = 13
    REFUSAL = 14
    OUTCOME = 15
    DISPUTE = 16
    RESOLUTION = 17
    DUTY = 18
    SERVED = 19
    ERASURE = 20
    RULES = 21
    DELEGATION = 22
    MANDATE = 23
    READ = 24
    ADMINISTRATION = 25


DECISIONS = frozenset({EntryKind.ACCESS, EntryKind.REFUSAL})
"""Kinds that record a decision of the daemon."""

CONSENTS = frozenset({EntryKind.GRANT, EntryKind.AMEND, EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE})
"""Kinds that change a consent."""

REFERRING = CONSENTS | {EntryKind.OUTCOME, EntryKind.AUTHORITY}
"""Kinds whose entries a list finds by the entry that they refer to; and GRANT and AUTHORITY, which refer to none."""

PRUNABLE = CONSENTS | DECISIONS | {EntryKind.OUTCOME, EntryKind.SERVED, EntryKind.READ}
"""Kinds whose entries may be pruned. All of them are in persons' chains."""

PUBLIC = frozenset({
    EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.VOCABULARY, EntryKind.NOTICE, EntryKind.RULES,
    EntryKind.DELEGATION, EntryKind.MANDATE, EntryKind.ADMINISTRATION,
})  # fmt: skip
"""Kinds that are in public chains only. KEY is not one of them: persons' chains have it too."""

PERSON_FIRST = frozenset({EntryKind.ENROL, EntryKind.REFUSAL})
"""Kinds of the first entry of a chain that is not public. ENROL begins a person's chain, REFUSAL an unknown chain,
which has the refusals about persons who are not enrolled."""

REALM = frozenset({
    EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY, EntryKind.VOCABULARY, EntryKind.NOTICE, EntryKind.RULES,
    EntryKind.DELEGATION,
})  # fmt: skip
"""Kinds whose entries can change decisions about every person. A person's KEY entry can do so, because the policy table
gives a key that two owners state to the later of them."""

_REPORTS = {
    EntryKind.OUTCOME, EntryKind.DISPUTE, EntryKind.RESOLUTION, EntryKind.SERVED, EntryKind.READ,
    EntryKind.ADMINISTRATION,
}  # fmt: skip

USES = frozenset({EntryKind.ACCESS, EntryKind.OUTCOME})
"""Kinds whose entries change the policy table only for a person with a consent that recurs (policy.md, rule 13)."""

NO_TABLE_EFFECT = (DECISIONS | _REPORTS) - USES
"""Kinds whose entries change nothing in the policy table, from which decisions are computed."""

NO_DECISION_EFFECT = NO_TABLE_EFFECT | {EntryKind.MANDATE, EntryKind.DUTY}
"""Kinds whose entries change no decision. The table stores mandates and duties; decisions do not depend on them."""


def is_known(kind: int) -> bool:
    """Return whether this version knows the kind. Entries of other kinds can be verified, but not understood."""
    return kind in AUTHORS


class Owner(IntEnum):
    """The owner of a key that signs statements: the daemon, a participant, a person, or a person's representative."""

    LEDGER = 1
    PARTICIPANT = 2
    SUBJECT = 3
    REPRESENTATIVE = 4


_DAEMON = frozenset({Owner.LEDGER})
_PERSON = frozenset({Owner.LEDGER, Owner.SUBJECT})
_ACTING = _PERSON | {Owner.REPRESENTATIVE}
_PARTICIPANT = frozenset({Owner.LEDGER, Owner.PARTICIPANT})

AUTHORS: dict[EntryKind, frozenset[Owner]] = {
    EntryKind.LEDGER: _DAEMON,
    EntryKind.PARTICIPANT: _PARTICIPANT,
    EntryKind.KEY: frozenset(Owner),
    # The vocabulary and the rules are the realm's. The daemon signs them, and an operator attests them.
    EntryKind.VOCABULARY: _DAEMON,
    EntryKind.NOTICE: _PARTICIPANT,
    EntryKind.ENROL: _DAEMON,
    EntryKind.AUTHORITY: _ACTING,
    **dict.fromkeys(CONSENTS, _ACTING),
    # The daemon signs its own decision. The payload contains the question, which the asker signed.
    EntryKind.ACCESS: _DAEMON,
    EntryKind.REFUSAL: _DAEMON,
    EntryKind.READ: _DAEMON,
    EntryKind.OUTCOME: _PARTICIPANT,
    EntryKind.DISPUTE: _PERSON,
    EntryKind.RESOLUTION: _PARTICIPANT,
    EntryKind.DUTY: _PARTICIPANT,
    EntryKind.SERVED: frozenset(Owner),  # of participants, each that may have shown a notice
    EntryKind.ERASURE: _PARTICIPANT,
    EntryKind.RULES: _DAEMON,
    EntryKind.DELEGATION: _PARTICIPANT,
    EntryKind.MANDATE: _PARTICIPANT,
    EntryKind.ADMINISTRATION: _DAEMON,
}
"""Who may author each kind. Where the daemon signs what a caller states, the payload has ``attested_by``.

Which participant may sign a PARTICIPANT, KEY, NOTICE, DELEGATION or MANDATE, and which representative what:
``key_validity.may_author``.
"""

OWN_CHAIN = frozenset({EntryKind.PARTICIPANT, EntryKind.KEY, EntryKind.DELEGATION})
"""Kinds that, of participants, only the one may sign whose chain the entry is in."""


def authors_of(kind: int) -> frozenset[Owner]:
    """Return who may author a kind. Any author may author a kind that this version does not know."""
    return AUTHORS[EntryKind(kind)] if is_known(kind) else frozenset(Owner)
