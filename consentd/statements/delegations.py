"""Turn statements of delegations and mandates into values and back. Messages: ``proto/consentd/v1/statement.proto``."""

from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.dates import is_instant
from consentd.policy.delegation import Capacity, Delegation, check_delegation
from consentd.statements import values
from consentd.v1 import statement_pb2 as st


def delegation_value(message: st.DelegationStatement) -> Delegation:
    """Turn a delegation statement into its value. ``ended`` is not in the value: the caller reads it.

    Raises:
        InvalidError: the capacity is unknown, ``check_delegation`` refuses the value, or the statement ends the
            delegation and states more than its giver, taker and capacity.
    """
    states_more = message.purposes or message.start_time_ms or message.end_time_ms or message.break_glass
    if message.ended and states_more:
        raise InvalidError("statement that ends a delegation states purposes, times or break_glass")
    value = Delegation(
        giver=message.giver, taker=message.taker, capacity=values.enum_value(Capacity, message.capacity, "capacity"),
        purposes=tuple(message.purposes), start_ms=values.time_value(message.start_time_ms),
        end_ms=values.time_value(message.end_time_ms) or model.OPEN_END_MS, break_glass=message.break_glass,
    )  # fmt: skip
    check_delegation(value)
    return value


def check_mandate(message: st.MandateStatement) -> None:
    """Check a mandate statement alone.

    Raises:
        InvalidError: it lacks a scope, a reason or an end; its end is after the year 9999; it ends the mandate and has
            one of them; it is neither attested nor names a giver, or both; or it is given by its auditor.
    """
    if bool(message.giver) is message.HasField("attestation"):
        raise InvalidError("mandate names its giver if the giver signs it, and is attested otherwise")
    if message.giver == message.auditor:
        raise InvalidError("auditor gives a mandate to itself")
    stated = (message.scope.strip(), message.reason.strip(), values.time_value(message.end_time_ms))
    if any(stated) if message.ended else not all(stated):
        raise InvalidError("mandate has a scope, a reason and an end, unless it ends the auditor's mandate")
    if not is_instant(message.end_time_ms):
        raise InvalidError("mandate ends after the year 9999")


def named_parties(message: st.DelegationStatement | st.MandateStatement) -> tuple[str, ...]:
    """Return the ids of the participants that a statement names, first the one whose chain it belongs in.

    Raises:
        InvalidError: ``delegation_value`` or ``check_mandate`` refuses the statement.
    """
    if isinstance(message, st.MandateStatement):
        check_mandate(message)
        return (message.auditor, message.giver) if message.giver else (message.auditor,)
    delegation = delegation_value(message)
    return delegation.giver, delegation.taker


def delegation_message(delegation: Delegation) -> st.DelegationStatement:
    """Turn a delegation value into its statement, without an attestation."""
    return st.DelegationStatement(
        giver=delegation.giver, taker=delegation.taker, capacity=values.to_enum(delegation.capacity),
        purposes=delegation.purposes, start_time_ms=delegation.start_ms, break_glass=delegation.break_glass,
        end_time_ms=0 if delegation.end_ms == model.OPEN_END_MS else delegation.end_ms,
    )  # fmt: skip
