"""Verify who gave a mandate: the payload names the giver, which was an active public authority when it signed.

``core.key_validity`` verifies that a key of the giver signed, which the payload names (``named_by``). Whether it had
the role follows from the PARTICIPANT entries of its own chain. Source: ledger-format.md, "Keys in force".
"""

from collections.abc import Iterable

from google.protobuf.unknown_fields import UnknownFieldSet

from consentd.core.history import VerifiedEntry
from consentd.core.kinds import EntryKind
from consentd.errors import MalformedError, SignatureError
from consentd.statements import payloads
from consentd.v1 import statement_pb2 as st


def may_give(message: st.ParticipantStatement) -> bool:
    """Return whether the participant that the statement describes gives mandates: an active public authority."""
    return message.active and st.PARTICIPANT_ROLE_PUBLIC_AUTHORITY in message.roles


def verify_giver(mandate: VerifiedEntry, chain: Iterable[VerifiedEntry]) -> None:
    """Verify that the giver of a mandate had the role, by *chain*, the entries of its own chain in order.

    A history does not show the order of entries of one millisecond in two chains. So the entry before counts, and each
    of the same millisecond. An entry that this version does not understand may have given the role.

    Raises:
        SignatureError: by none of these entries is the giver an active public authority.
    """
    time_ms, before, together = mandate.event.time_ms, False, False
    for entry in chain:
        if entry.event.kind == EntryKind.PARTICIPANT and entry.statement is not None:
            if entry.event.time_ms < time_ms:
                before = _may_have_role(entry.statement.payload)
            elif entry.event.time_ms == time_ms:
                together |= _may_have_role(entry.statement.payload)
    if not before and not together:
        raise SignatureError(f"giver of the mandate was no active public authority: seq `{mandate.event.seq}`")


def _may_have_role(payload: bytes) -> bool:
    try:
        message = payloads.parse(st.ParticipantStatement, payload)
    except MalformedError:
        return True
    return may_give(message) or len(UnknownFieldSet(message)) > 0
