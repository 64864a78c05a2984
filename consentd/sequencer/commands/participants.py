"""Check the record of a participant, and who may write it.

An operator attests the first record. The realm decides what a participant may do: its roles, rights, groups, class and
country, whether it is active, and by which names of certificates it calls. An operator attests what widens them. The
participant signs what narrows them, and the rest: its name and its type.

A participant that has a key in force signs what is its own. Then an operator attests none of it; the operator may
still retire its keys, end its delegations, and narrow its record. Source: ledger-format.md, "Keys in force".
"""

import re
from collections.abc import Mapping

from consentd import limits
from consentd.core.certificate_name import check_certificate_name
from consentd.errors import AlreadyExistsError, DeniedError, InvalidError, PreconditionError
from consentd.policy.delegation import Capacity
from consentd.policy.language import check_name
from consentd.sequencer.commands.callers import ASKING_ROLES, PARTICIPANT_ID, RECEIVING_ROLES, RESERVED_IDS
from consentd.table.registry import is_abroad
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

_GROUP = re.compile("group/" + PARTICIPANT_ID.pattern)
_COUNTRY = re.compile("[A-Z]{2}")
ROLES_OF_RIGHTS: Mapping["st.ParticipantRight.ValueType", frozenset["st.ParticipantRole.ValueType"]] = {
    st.PARTICIPANT_RIGHT_BREAK_GLASS: RECEIVING_ROLES,
    st.PARTICIPANT_RIGHT_SEE_REASONS: ASKING_ROLES,
    st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS: ASKING_ROLES,
    st.PARTICIPANT_RIGHT_READ_STATEMENTS: frozenset({st.PARTICIPANT_ROLE_AUDITOR}),
    st.PARTICIPANT_RIGHT_ERASE: ASKING_ROLES | {st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY},
}
"""For each right, the roles that may have it: a participant needs one of them."""
ROLES_OF_TAKERS: Mapping[Capacity, frozenset["st.ParticipantRole.ValueType"]] = {
    Capacity.RELAY: frozenset({st.PARTICIPANT_ROLE_RELAY}),
    Capacity.PROCESSOR: RECEIVING_ROLES,
    Capacity.APPLICATION: ASKING_ROLES,
}
"""For each capacity of a delegation, the roles of which its taker has one. Auditors and public authorities ask for
nobody."""


def check_record(message: st.ParticipantStatement, view: View) -> None:
    """Check the content of a PARTICIPANT entry before it is written.

    Raises:
        InvalidError: a field has a value that is not allowed, or contradicts another one; or as
            ``check_certificate_names``.
        AlreadyExistsError: (CERTIFICATE_NAME_TAKEN) a certificate name is another participant's.
    """
    if not PARTICIPANT_ID.fullmatch(message.participant_id) or message.participant_id in RESERVED_IDS:
        raise InvalidError(f"participant id is not of [a-z0-9._-], or reserved: `{message.participant_id}`")
    if not message.active and view.participant(message.participant_id) is None:
        raise InvalidError("new participant is not active: set `active`, which is false only for one that has left")
    check_name(message.name)
    _check_roles_and_rights(message)
    if message.country and not _COUNTRY.fullmatch(message.country):
        raise InvalidError(f"country is not an ISO 3166-1 alpha-2 code: `{message.country}`")
    check_certificate_names(message)
    for name in message.certificate_names:
        if view.certificate_owner(name) not in (None, message.participant_id):
            raise AlreadyExistsError(f"certificate name is another participant's: `{name}`", "CERTIFICATE_NAME_TAKEN")
    for listed in (message.roles, message.rights, message.groups, message.certificate_names):
        if len(set(listed)) != len(listed):
            raise InvalidError("participant lists something twice")
    if not all(map(_GROUP.fullmatch, message.groups)):
        raise InvalidError("group is not `group/` and an id of [a-z0-9._-]")


def _check_roles_and_rights(message: st.ParticipantStatement) -> None:
    """Check roles, rights and recipient class, each by itself and together. Raises ``InvalidError``."""
    roles, rights = list(message.roles), list(message.rights)
    if not roles or any(role not in st.ParticipantRole.values() or not role for role in roles):
        raise InvalidError("participant has no role, or an unknown one")
    if st.PARTICIPANT_ROLE_RELAY in roles and len(roles) > 1:
        raise InvalidError("a relay has no other role (PIPA Enforcement Decree 42-9(2))")
    if any(right not in st.ParticipantRight.values() or not right for right in rights):
        raise InvalidError("participant has an unknown right")
    for right, needed in ROLES_OF_RIGHTS.items():
        if right in rights and needed.isdisjoint(roles):
            raise InvalidError(f"participant has no role that goes with the right `{st.ParticipantRight.Name(right)}`")
    if st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY in roles and st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS in rights:
        raise InvalidError("a public authority, which writes STATUTORY consents, does not act for persons")
    if message.recipient_class not in st.RecipientClass.values():
        raise InvalidError(f"recipient class is unknown: `{message.recipient_class}`")
    if message.recipient_class and RECEIVING_ROLES.isdisjoint(roles):
        raise InvalidError("only holders and recipients have a recipient class")


def check_certificate_names(message: st.ParticipantStatement) -> None:
    """Check the form of a participant's certificate names, and how many they are. ``audit replay`` calls this too.

    Raises:
        InvalidError: (TOO_LARGE) there are too many; or as ``check_certificate_name``.
    """
    count, most = len(message.certificate_names), limits.CERTIFICATE_NAMES
    if count > most:
        raise InvalidError(f"participant is over its limit of {most} certificate names: `{count}`", "TOO_LARGE")
    for name in message.certificate_names:
        check_certificate_name(name)


def check_change(message: st.ParticipantStatement, view: View, *, signed: bool) -> None:
    """Check that its author may change what a PARTICIPANT entry changes. The sequencer and ``audit replay`` call this.

    *signed*: a key of the participant signed the entry; else an operator attests it.

    Raises:
        DeniedError: the participant, which signed it, is not registered, or widens what it may do.
        PreconditionError: (SIGN_WITH_KEY) an operator attests what the participant signs. Or (WRONG_ROLE) somebody
            delegates to the participant in a capacity for which it would have no role.
    """
    recorded = view.participant(message.participant_id)
    if recorded is None:
        if signed:
            raise DeniedError("participant is not registered: an operator registers it first")
        return
    for capacity, roles in ROLES_OF_TAKERS.items():
        if roles.isdisjoint(message.roles) and view.registry().givers(message.participant_id, capacity):
            what = "participant would have no role for a delegation that it takes: end the delegation first"
            raise PreconditionError(f"{what}: `{capacity.name}`", "WRONG_ROLE")
    old = recorded.statement
    if signed:
        check_not_wider(message, old)
    elif _changes_own(message, old):
        check_no_own_key(view, message.participant_id)


def check_not_wider(message: st.ParticipantStatement, old: st.ParticipantStatement) -> None:
    """Check that a record lets a participant do no more than the *old* one. Raises ``DeniedError``, which names fields.

    Who leaves a group is denied what the group is denied as before (policy.md, rule 12), and so is who moves abroad.
    """
    lists = (
        ("roles", message.roles, old.roles), ("rights", message.rights, old.rights),
        ("groups", message.groups, old.groups),
        # Whoever has a name that nobody has registered yet would be taken for the name's later owner.
        ("certificate_names", message.certificate_names, old.certificate_names),
    )  # fmt: skip
    wider = [name for name, now, before in lists if not set(now) <= set(before)]
    if message.active and not old.active:
        wider.append("active")
    if is_abroad(old.country) and not is_abroad(message.country):
        wider.append("country")
    # One who receives data no more has no class.
    receives = not RECEIVING_ROLES.isdisjoint(message.roles)
    if message.recipient_class != old.recipient_class and (receives or message.recipient_class):
        wider.append("recipient_class")
    if wider:
        what = "participant widens its own record, which an operator alone does: keep, or narrow"
        raise DeniedError(f"{what}: {', '.join(f'`{name}`' for name in wider)}")


def _changes_own(message: st.ParticipantStatement, old: st.ParticipantStatement) -> bool:
    """Return whether a record changes what a participant with a key signs itself: all that does not narrow or widen."""
    return (dict(message.name), message.type) != (dict(old.name), old.type)


def check_no_own_key(view: View, participant_id: str) -> None:
    """Check that an operator may attest a participant's own statement. The sequencer and ``audit replay`` call this.

    Raises:
        PreconditionError: (SIGN_WITH_KEY) the participant has a key in force, so it signs.
    """
    if view.keys_of(participant_id):
        what = "participant has a key in force, and signs this itself; if it lost its keys, retire all of them first"
        raise PreconditionError(what, "SIGN_WITH_KEY")
