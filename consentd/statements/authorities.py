"""Turn the payload of an AUTHORITY entry into a value of ``policy.authority``; find the authority of a statement."""

from collections.abc import Mapping

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.policy.authority import NO_ENDS, NOTHING, Authority, minor_ends
from consentd.policy.model import OPEN_END_MS
from consentd.statements import payloads
from consentd.v1 import statement_pb2 as st

ActingStatement = st.GrantStatement | st.AmendStatement | st.PauseStatement | st.ResumeStatement | st.RevokeStatement
"""The statements that a representative may make."""

ACTS: Mapping[int, int] = {
    EntryKind.GRANT: st.AUTHORITY_ACT_GRANT, EntryKind.AMEND: st.AUTHORITY_ACT_AMEND,
    EntryKind.PAUSE: st.AUTHORITY_ACT_PAUSE, EntryKind.RESUME: st.AUTHORITY_ACT_PAUSE,
    EntryKind.REVOKE: st.AUTHORITY_ACT_REVOKE, EntryKind.READ: st.AUTHORITY_ACT_READ_HISTORY,
}  # fmt: skip
"""The act that a representative does who writes an entry of each kind."""

_MOST_ACTS = 64  # bits of the mask of acts


class NamedAuthorities:
    """Finds the authorities that statements name, as the entries of chains are read in order. One thread owns it."""

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, int], st.AuthorityStatement] = {}

    def add(self, event: codec.Event, message: Message | None) -> st.AuthorityStatement | None:
        """Add an entry. *message*: its payload; None: it cannot be read.

        Returns:
            The AUTHORITY that the statement of a representative names; None: it names none, or one that was not added.
        """
        if isinstance(message, st.AuthorityStatement) and not message.ended:
            self._found[event.tag, event.seq] = message
        if isinstance(message, st.RefusalStatement):
            message = message.grant
        named = getattr(message, "authority_seq", 0)
        return self._found.get((event.tag, named)) if named else None


def authority_value(message: st.AuthorityStatement, *, time_ms: int) -> Authority:
    """Return what an AUTHORITY that ends none gives. *time_ms*: the time of its entry, UTC milliseconds.

    A statement with a field or a capacity that this version does not know, with a birth date that is none, or with both
    forms of a representative or neither, gives nothing.
    """
    try:
        ends = minor_ends(message.birth_date) if message.reason == st.AUTHORITY_REASON_MINOR else NO_ENDS
    except InvalidError:
        return NOTHING
    if not payloads.has_only_known_fields(message):
        return NOTHING
    acts = sum({1 << act for act in message.acts if 0 <= act < _MOST_ACTS})
    start_ms = max(message.start_time_ms, time_ms)
    until_ms = message.end_time_ms if message.end_time_ms > 0 else OPEN_END_MS
    if bool(message.participant_id) is bool(message.key) or message.capacity not in st.AuthorityCapacity.values():
        return NOTHING
    return Authority(
        message.participant_id, acts, start_ms, ends.until(until_ms), message.capacity, key=message.key,
        is_of_dead=message.reason == st.AUTHORITY_REASON_DECEASED,
    )  # fmt: skip


def ends_agents(message: st.AuthorityStatement) -> bool:
    """Return whether an AUTHORITY ends every earlier authority of an AGENT: the person is dead (Civil Act 127)."""
    is_understood = payloads.has_only_known_fields(message)
    return is_understood and not message.ended and message.reason == st.AUTHORITY_REASON_DECEASED
