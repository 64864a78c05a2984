"""Authorize calls: determine the kinds of a caller from the registry, and look them up in the table of ``roles``."""

from collections.abc import Mapping
from functools import lru_cache

from consentd.errors import DeniedError
from consentd.sequencer.commands.callers import (
    ACT_FOR_SUBJECTS,
    has_right,
    is_operator,
    is_person,
    may_read_statements,
)
from consentd.service.auth import NO_CREDENTIAL, UnauthenticatedError
from consentd.service.context import Person
from consentd.service.operator_roles import NO_ROLES, OperatorRole, Roles
from consentd.service.roles import Access, Kind, Whose, access, may_call
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

_ROLES: Mapping[int, Kind] = {
    st.PARTICIPANT_ROLE_HOLDER: Kind.HOLDER,
    st.PARTICIPANT_ROLE_RECIPIENT: Kind.RECIPIENT,
    st.PARTICIPANT_ROLE_RELAY: Kind.RELAY,
    st.PARTICIPANT_ROLE_AUDITOR: Kind.AUDITOR,
    st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY: Kind.PUBLIC_AUTHORITY,
}
_RIGHTS: Mapping[int, Kind] = {
    st.PARTICIPANT_RIGHT_SEE_REASONS: Kind.SEE_REASONS,
    st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS: Kind.ACT_FOR_SUBJECTS,
    st.PARTICIPANT_RIGHT_ERASE: Kind.ERASE,
}
"""The rights that count as long as a participant has them. READ_STATEMENTS also needs a mandate."""
_NOBODY = frozenset({Kind.NOBODY})
_OF_OPERATORS: Mapping[OperatorRole, Kind] = {
    OperatorRole.RUN: Kind.RUN,
    OperatorRole.READ_METRICS: Kind.READ_METRICS,
    OperatorRole.ADMINISTER: Kind.ADMINISTER,
}
_CITIZEN = frozenset({Kind.CITIZEN})
_CITIZEN_KEY = frozenset({Kind.CITIZEN_KEY})
_UNREGISTERED = frozenset({Kind.UNREGISTERED})
_INACTIVE = frozenset({Kind.INACTIVE})


def caller_kinds(
    view: View, caller: str, now_ms: int, person: Person | None = None, roles: Roles = NO_ROLES
) -> frozenset[Kind]:
    """Return the kinds of a caller at *now_ms*, but not before the last entry's time. Empty *caller*: none is known.

    *person*: the caller as a person. A login is the word of a participant, and counts as long as that participant acts
    for persons. *roles*: those of the caller's credential, if the caller is an operator.
    """
    if not caller:
        return _NOBODY
    if person is not None:
        if not person.participant:
            return _CITIZEN_KEY
        return _CITIZEN if has_right(view, person.participant, ACT_FOR_SUBJECTS) else _INACTIVE
    if is_person(caller):
        return _UNREGISTERED
    if is_operator(caller):
        return _kinds_of_operator(roles)
    participant = view.participant(caller)
    if participant is None:
        return _UNREGISTERED
    if not participant.active:
        return _INACTIVE
    kinds = _kinds_of(participant.roles, participant.rights)
    now_ms = max(now_ms, view.time_ms)
    if st.PARTICIPANT_RIGHT_READ_STATEMENTS in participant.rights and may_read_statements(view, caller, now_ms):
        return kinds | {Kind.READ_STATEMENTS}
    return kinds


@lru_cache(maxsize=8)
def _kinds_of_operator(roles: Roles) -> frozenset[Kind]:
    return frozenset(_OF_OPERATORS[role] for role in roles) or _UNREGISTERED


@lru_cache(maxsize=256)  # few sets of roles and rights are in use, and each call needs one
def _kinds_of(roles: frozenset[int], rights: frozenset[int]) -> frozenset[Kind]:
    """Return the kinds that follow from the roles and rights of an active participant alone."""
    return frozenset(
        kind for numbers, kinds in ((roles, _ROLES), (rights, _RIGHTS)) for number, kind in kinds.items()
        if number in numbers
    )  # fmt: skip


def check_may_call(
    view: View, caller: str, rpc: str, now_ms: int, person: Person | None = None, roles: Roles = NO_ROLES
) -> None:
    """Check that a caller may call an RPC for some data.

    Raises:
        UnauthenticatedError: the call has no known credential, and needs one.
        DeniedError: the caller's roles and rights do not cover the RPC.
    """
    kinds = caller_kinds(view, caller, now_ms, person, roles)
    if not may_call(rpc, kinds):
        raise _refusal(caller)


def check_access(
    view: View, caller: str, rpc: str, whose: Whose, now_ms: int, person: Person | None = None, roles: Roles = NO_ROLES
) -> Access:
    """Return how a call about data of this kind is answered: allowed, reduced or not found. Raises as above."""
    found = access(rpc, caller_kinds(view, caller, now_ms, person, roles), whose)
    if found is Access.DENIED:
        raise _refusal(caller)
    return found


def _refusal(caller: str) -> DeniedError:
    if not caller:
        return UnauthenticatedError(NO_CREDENTIAL)
    return DeniedError("caller's roles and rights do not cover this call; `consentd roles` lists who may call what")
