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
    EntryKind.REVOKE: st.AUTHORITY_ACT_REVOKE,
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
        if not isinstance(message, ActingStatement) or not message.authority_seq:
            return None
        return self._found.get((event.tag, message.authority_seq))


def authority_value(message: st.AuthorityStatement, *, time_ms: int) -> Authority:
    """Return what an AUTHORITY that ends none gives. *time_ms*: the time of its entry, UTC milliseconds.

    A statement with a field that this version does not know, or with a birth date that is none, gives nothing.
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
    is_agent = message.capacity == st.AUTHORITY_CAPACITY_AGENT
    return Authority(message.participant_id, acts, start_ms, ends.until(until_ms), is_agent)
