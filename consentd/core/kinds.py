"""Name the kinds of event leaves, and who may author them. Numbers are never reused.

Source: ledger-format.md, "Kinds". The same numbers stand in ``consentd.v1.EntryKind``; a test holds the two together.
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


PRUNABLE = frozenset(
    {
        EntryKind.GRANT,
        EntryKind.AMEND,
        EntryKind.PAUSE,
        EntryKind.RESUME,
        EntryKind.REVOKE,
        EntryKind.ACCESS,
        EntryKind.REFUSAL,
        EntryKind.OUTCOME,
    }
)
"""Kinds whose entries may be pruned; all of them stand in persons' chains."""


def is_known(kind: int) -> bool:
    """Tell whether this version knows the kind; an unknown one still chains, but nothing may be concluded from it."""
    return kind in AUTHORS


class Owner(IntEnum):
    """Whose key signed a statement."""

    LEDGER = 1
    PARTICIPANT = 2
    SUBJECT = 3


_DAEMON = frozenset({Owner.LEDGER})
_PERSON = frozenset({Owner.LEDGER, Owner.SUBJECT})
_PARTICIPANT = frozenset({Owner.LEDGER, Owner.PARTICIPANT})

AUTHORS: dict[EntryKind, frozenset[Owner]] = {
    EntryKind.LEDGER: _DAEMON,
    EntryKind.PARTICIPANT: _PARTICIPANT,
    EntryKind.KEY: frozenset(Owner),
    EntryKind.VOCABULARY: _PARTICIPANT,
    EntryKind.NOTICE: _PARTICIPANT,
    EntryKind.ENROL: _PARTICIPANT,
    EntryKind.AUTHORITY: frozenset(Owner),
    EntryKind.GRANT: _PERSON,
    EntryKind.AMEND: _PERSON,
    EntryKind.PAUSE: _PERSON,
    EntryKind.RESUME: _PERSON,
    EntryKind.REVOKE: _PERSON,
    # The decision is the daemon's own statement; the asker's is inside it.
    EntryKind.ACCESS: _DAEMON,
    EntryKind.REFUSAL: _DAEMON,
    EntryKind.OUTCOME: _PARTICIPANT,
    EntryKind.DISPUTE: _PERSON,
    EntryKind.RESOLUTION: _PARTICIPANT,
    EntryKind.DUTY: _PARTICIPANT,
    EntryKind.SERVED: _PARTICIPANT,
    EntryKind.ERASURE: _PARTICIPANT,
    EntryKind.RULES: _PARTICIPANT,
}
"""Who may author each kind. The daemon may sign for thin clients; the statement then says ``attested_by``."""


def authors_of(kind: int) -> frozenset[Owner]:
    """Return who may author a kind; of one that this version does not know, anybody."""
    return AUTHORS[EntryKind(kind)] if is_known(kind) else frozenset(Owner)
