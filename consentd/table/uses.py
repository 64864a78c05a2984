"""Apply ACCESS and OUTCOME entries to the policy table: the transfers by which consents that recur are used up.

The ACCESS entry states which consents it uses up (``AccessStatement.uses``), so it is applied without a decision. For a
person without a consent that recurs, such an entry changes nothing.
"""

from consentd.core import codec
from consentd.policy.model import OPEN_END_MS
from consentd.policy.recurrence import Use
from consentd.policy.subject import MAX_TABLE_SEQ, recurs, without_ended
from consentd.policy.uses import with_confirmed, with_use, without_access, without_old_uses
from consentd.statements import payloads
from consentd.table.authorities import AuthorityRows
from consentd.table.notices import NoticeRows
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

_MADE = (st.TRANSFER_STATUS_SENT, st.TRANSFER_STATUS_RECEIVED)


class UseRows(AuthorityRows, NoticeRows):
    """Base of the transaction, with the steps of ACCESS and OUTCOME entries."""

    def put_access(self, event: codec.Event, message: st.AccessStatement) -> None:
        """Apply an ACCESS entry. A use of a consent that the person does not have, or that does not recur, is none."""
        value = self.subject(event.tag) if message.uses else None
        if not value:
            return
        registry = self.registry()
        bits = registry.codebook.vocabulary.category.bits
        holder = registry.numbers.get(payloads.parse(pb.Question, message.asked.question).holder, 0)
        access = event.seq if event.seq <= MAX_TABLE_SEQ else 0
        for used in message.uses:
            mask = sum(bits.get(code, 0) for code in set(used.categories))
            until_ms = min(used.until_time_ms or OPEN_END_MS, OPEN_END_MS)
            if holder and mask and until_ms > 0:
                value = with_use(value, used.lineage_seq, Use(holder, until_ms, access, mask), event.time_ms)
        self._put(b"s" + event.tag, value)

    def put_outcome(self, event: codec.Event, message: st.OutcomeStatement) -> None:
        """Apply an OUTCOME entry: the first one that says whether data were sent decides whether the use remains."""
        value = self.subject(event.tag)
        if not value or not recurs(value) or not 0 < event.ref <= MAX_TABLE_SEQ:
            return
        if message.status == st.TRANSFER_STATUS_FAILED:
            self._put(b"s" + event.tag, without_access(value, event.ref))
        elif message.status in _MADE:
            self._put(b"s" + event.tag, with_confirmed(value, event.ref))

    def drop_ended(self, kept_from_ms: int) -> None:
        """Remove the consents and the uses that ended before the time of a pruning. Reads the rows of all persons.

        They permit and deny nothing. No later decision reads them, so their entries may be pruned later.
        """
        changed = [
            (key, shorter)
            for key, value in self._rows(b"s")
            if value and (shorter := _without_ended(value, kept_from_ms)) != value
        ]
        for key, shorter in changed:
            self._put_subject(key[1:], shorter)


def _without_ended(value: bytes, kept_from_ms: int) -> bytes:
    left = without_ended(value, kept_from_ms)
    return without_old_uses(left, kept_from_ms) if recurs(left) else left
