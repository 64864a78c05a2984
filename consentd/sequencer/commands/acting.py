"""Check the entries that let one participant act for another, or an auditor read: DELEGATION and MANDATE."""

from consentd import limits
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.policy.delegation import check_delegation
from consentd.sequencer.commands.callers import RECEIVING_ROLES, is_public_authority
from consentd.sequencer.commands.participants import ROLES_OF_TAKERS, check_no_own_key
from consentd.statements.delegations import check_mandate, delegation_value
from consentd.table.registry import Participant, Registry
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

MAX_GIVEN = limits.GIVEN_DELEGATIONS
"""Most delegations of one giver, because the registry in memory has all of them."""


def check_delegation_statement(message: st.DelegationStatement, view: View, time_ms: int) -> None:
    """Check a delegation before it is written at *time_ms*.

    Raises:
        NotFoundError: it ends a delegation that is not recorded.
        InvalidError: ``delegation_value`` or ``check_delegation`` refuses it, or its end has passed.
        PreconditionError: a party is no active participant (UNKNOWN_PARTICIPANT) or lacks the role (WRONG_ROLE), or the
            giver has ``MAX_GIVEN`` (LIMIT_REACHED).
    """
    registry = view.registry()
    value = delegation_value(message)
    if message.ended:
        if registry.delegation(value.giver, value.taker, value.capacity) is None:
            raise NotFoundError("no such delegation")
        return
    check_delegation(value, registry.codebook.vocabulary.purpose.bits)
    if value.end_ms <= time_ms:
        raise InvalidError("end of the delegation has passed")
    giver, _ = (_active(registry, one) for one in (value.giver, value.taker))
    if giver.roles.isdisjoint(RECEIVING_ROLES):
        raise PreconditionError("giver of a delegation is neither a holder nor a recipient", "WRONG_ROLE")
    check_taker(message, view)
    given = registry.delegations.get(value.giver, {})
    if (value.taker, value.capacity) not in given and len(given) >= MAX_GIVEN:
        raise PreconditionError(f"giver has its limit of {MAX_GIVEN} delegations: end one", "LIMIT_REACHED")


def check_taker(message: st.DelegationStatement, view: View) -> None:
    """Check that the taker of a DELEGATION has a role for its capacity. The sequencer and ``audit replay`` call this.

    Raises:
        PreconditionError: (WRONG_ROLE) it has none. A delegation that ends needs none.
    """
    taker = view.participant(message.taker)
    capacity = delegation_value(message).capacity
    if taker is not None and not message.ended and taker.roles.isdisjoint(ROLES_OF_TAKERS[capacity]):
        what = f"taker of the delegation has no role for its capacity: `{capacity.name}`"
        raise PreconditionError(what, "WRONG_ROLE")


def check_attested_delegation(message: st.DelegationStatement, view: View) -> None:
    """Check that an operator may attest a DELEGATION for its giver. The sequencer and ``audit replay`` call this.

    Raises:
        PreconditionError: (SIGN_WITH_KEY) the giver has a key in force, so it signs. An operator may end any.
    """
    if not message.ended:
        check_no_own_key(view, message.giver)


def _active(registry: Registry, participant_id: str) -> Participant:
    """Return an active participant. Raises PreconditionError (UNKNOWN_PARTICIPANT) if it is none."""
    found = registry.participants.get(participant_id)
    if found is None:
        raise PreconditionError(f"not registered: `{participant_id}`; see ListParticipants", "UNKNOWN_PARTICIPANT")
    if not found.active:
        raise PreconditionError(f"participant is not active: `{participant_id}`", "UNKNOWN_PARTICIPANT")
    return found


def check_giver(message: st.MandateStatement, view: View) -> None:
    """Check that the giver of a mandate, if it names one, is an active public authority. Raises ``DeniedError``."""
    if message.giver and not is_public_authority(view, message.giver):
        raise DeniedError("mandate is given by a participant that is no active public authority")


def check_mandate_statement(message: st.MandateStatement, view: View, time_ms: int) -> None:
    """Check a mandate before it is written at *time_ms*.

    Raises:
        NotFoundError: it ends a mandate that is not recorded, or not of this giver.
        DeniedError: the giver is no active public authority.
        InvalidError: ``check_mandate`` refuses it, or its end has passed.
        PreconditionError: its auditor is no active participant (UNKNOWN_PARTICIPANT) or lacks the role (WRONG_ROLE).
    """
    registry = view.registry()
    check_mandate(message)
    check_giver(message, view)
    if message.ended:
        recorded = registry.mandates.get(message.auditor)
        if recorded is None or message.giver not in ("", recorded.statement.giver):
            raise NotFoundError("auditor has no mandate, or another giver's")
        return
    if message.end_time_ms <= time_ms:
        raise InvalidError("end of the mandate has passed")
    auditor = _active(registry, message.auditor)
    if st.PARTICIPANT_ROLE_AUDITOR not in auditor.roles:
        raise PreconditionError("mandate is given to a participant without the role AUDITOR", "WRONG_ROLE")
