"""Apply AUTHORITY entries to the policy table: the rows that say who may act for a person.

A consent that was given under an authority is compiled with the ends of its row. So a check needs no such row. When an
authority is ended, the person's value is rewritten once, whatever number of consents rest on it.
"""

from consentd.core import codec
from consentd.policy import subject as subjects
from consentd.policy.authority import Authority
from consentd.statements.authorities import authority_value, ends_agents
from consentd.table.chain_owners import ChainOwners
from consentd.table.view import authority_key
from consentd.v1 import statement_pb2 as st


class AuthorityRows(ChainOwners):
    """Base of the transaction, with the step of AUTHORITY entries."""

    def put_authority(self, event: codec.Event, message: st.AuthorityStatement) -> None:
        """Apply an AUTHORITY entry. One that ends no authority, or is about nobody who is enrolled, does nothing."""
        if self.subject(event.tag) is None:
            return
        if message.ended:
            self._end(event, event.ref)
            return
        if ends_agents(message):
            for seq, one in list(self.authorities(event.tag).items()):
                if one.is_agent:
                    self._end(event, seq)
        self._put_row(event.tag, event.seq, authority_value(message, time_ms=event.time_ms))

    def _end(self, event: codec.Event, seq: int) -> None:
        """End the authority of entry *seq*, if there is one that no entry ended before."""
        ended = self.authority(event.tag, seq)
        if ended is None or ended.ended_seq:
            return
        self._put_row(event.tag, seq, ended.ended(seq=event.seq, time_ms=event.time_ms))
        value = self.subject(event.tag)
        if value:
            self._put(b"s" + event.tag, subjects.with_ended_authority(value, seq, event.time_ms))

    def _put_row(self, tag: bytes, seq: int, authority: Authority) -> None:
        self._put(authority_key(tag, seq), authority.encode())
