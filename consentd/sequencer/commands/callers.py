"""The rules of what a caller may do. Each rule reads the caller's roles and rights from a view of the table.

A service checks on a snapshot that the caller may make the call. A write checks its content in its transaction.
"""

import hashlib
import re

from consentd import limits
from consentd.core import codec
from consentd.core.key_validity import OPERATOR_PREFIX
from consentd.errors import DeniedError
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

PARTICIPANT_ID = re.compile(f"[a-z0-9][a-z0-9._-]{{0,{limits.PARTICIPANT_ID_CHARACTERS - 1}}}")
_NOTICE_ID = re.compile(f"(?:({PARTICIPANT_ID.pattern})/)?{PARTICIPANT_ID.pattern}")
OPERATOR_ID = re.compile(rf"operator/{PARTICIPANT_ID.pattern}")
"""The caller id of a person or program that operates the daemon. It differs from all participant ids by its ``/``."""
SCRAPER_ID = re.compile(rf"scraper/{PARTICIPANT_ID.pattern}")
"""The caller id of a program that reads all metrics, and may call nothing."""
_PERSON = "subject/"
RESERVED_ID = "operator"
RESERVED_IDS = frozenset({RESERVED_ID, "subject", "any", "none"})
"""No participant may have one of these ids, because people could take it for an operator, a person, or for no limit."""

RECEIVING_ROLES = frozenset({st.PARTICIPANT_ROLE_RECIPIENT, st.PARTICIPANT_ROLE_HOLDER})
"""The roles of participants that receive data: an actor has one of them."""
ASKING_ROLES = RECEIVING_ROLES | {st.PARTICIPANT_ROLE_RELAY}
"""The roles of participants that ask for data: for themselves, or for another one."""
ACT_FOR_SUBJECTS = st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS


def notice_owner(notice_id: str) -> str | None:
    """Return the participant whose notice an id is of: ``ID/NAME``. Empty: the realm's, ``NAME``; None: this is no id.

    So no participant takes the id of another one's notice, or of one that the realm will publish.
    """
    found = _NOTICE_ID.fullmatch(notice_id)
    if found is None or len(codec.NOTICE_PREFIX + notice_id) > limits.PUBLIC_NAME_CHARACTERS:
        return None
    return found[1] or ""


def is_operator(caller: str) -> bool:
    """Return whether a caller id is an operator's."""
    return caller.startswith(OPERATOR_PREFIX)


def person_id(tag: bytes) -> str:
    """Return the caller id of the person with this tag: ``subject/`` and 32 hex digits."""
    return _PERSON + hashlib.sha256(b"consentd/caller/v1\0" + tag).hexdigest()[:32]


def unenrolled_id(identifier_hash: bytes) -> str:
    """Return the caller id of a person who is not enrolled, made from the keyed hash of the identifier."""
    return _PERSON + hashlib.sha256(b"consentd/unenrolled-caller/v1\0" + identifier_hash).hexdigest()[:32]


def is_person(caller: str) -> bool:
    """Return whether a caller id is a person's."""
    return caller.startswith(_PERSON)  # no participant id has a ``/``


def check_acts_for(view: View, caller: str, tag: bytes) -> None:
    """Check that the caller is the person with this tag, or acts for persons. Raises ``DeniedError``."""
    if caller != person_id(tag):
        check_right(view, caller, ACT_FOR_SUBJECTS)


def has_right(view: View, caller: str, right: "st.ParticipantRight.ValueType") -> bool:
    """Return whether the caller is an active participant with *right*. An operator has no right."""
    participant = view.participant(caller)
    return participant is not None and participant.active and right in participant.rights


def may_read_statements(view: View, caller: str, now_ms: int) -> bool:
    """Return whether the caller is an auditor that may read statements of persons at *now_ms*.

    The auditor has the right READ_STATEMENTS and a mandate in force.
    """
    mandate = view.registry().mandates.get(caller)
    has_mandate = mandate is not None and mandate.is_in_force(now_ms)
    return has_mandate and has_right(view, caller, st.PARTICIPANT_RIGHT_READ_STATEMENTS)


def check_right(view: View, caller: str, right: "st.ParticipantRight.ValueType") -> None:
    """Check that the caller has *right*. Raises ``DeniedError``."""
    if not has_right(view, caller, right):
        raise DeniedError(f"call needs the right `{st.ParticipantRight.Name(right)}`")


def check_author(view: View, caller: str, author: str) -> None:
    """Check that the caller is an active participant, and the *author* of the statement that it sends signed.

    Raises:
        DeniedError: the caller is another one, or inactive.
    """
    participant = view.participant(caller)
    if caller != author or participant is None or not participant.active:
        raise DeniedError("statement of a participant is sent by that participant, signed, or attested by an operator")


def is_public_authority(view: View, caller: str) -> bool:
    """Return whether the caller is an active participant in the role of a public authority."""
    participant = view.participant(caller)
    return participant is not None and participant.active and st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY in participant.roles


def check_active(view: View, caller: str) -> None:
    """Check that the caller is an active participant. Raises ``DeniedError``."""
    participant = view.participant(caller)
    if participant is None or not participant.active:
        raise DeniedError("caller is not an active participant")
