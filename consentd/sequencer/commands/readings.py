"""Record that somebody read a person's statements who is not the person: the entry is in the person's own chain."""

from dataclasses import dataclass

from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError
from consentd.sequencer.commands.write import NewEntry, Plan, ReceiptOnly, Request, WriteContext
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st


def check_reading(view: View, tag: bytes, authority_seq: int, *, reader: str, time_ms: int) -> None:
    """Check that the representative by an authority may read, and reads through *reader*.

    The service, the sequencer and ``audit replay`` call this. A participant reads for itself; somebody with a key reads
    through any participant that acts for persons.

    Raises:
        NotFoundError: (SUBJECT_NOT_FOUND) it may not. So a stranger does not find out who is enrolled.
    """
    found = view.authority(tag, authority_seq)
    may_read = (
        found is not None
        and not found.ended_seq
        and found.has_act(st.AUTHORITY_ACT_READ_HISTORY)
        and found.start_ms <= time_ms < found.ends.last_ms
        and (bool(found.key) or found.participant == reader)
    )
    if not may_read:
        raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReading(ReceiptOnly):
    """Append a READ entry. A repeat of its request appends nothing, so there is one entry for each request."""

    request: Request
    tag: bytes
    message: st.ReadStatement

    @property
    def caller(self) -> str:
        """The reader."""
        return self.message.reader

    def prepare(self, context: WriteContext) -> Plan[None]:
        count, _ = context.batch.head(self.tag)
        if context.batch.kind_of(self.tag, count) == EntryKind.ERASURE:
            # The reader found the chain before it was erased. INVARIANT: nothing follows an ERASURE.
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        if self.message.authority_seq:
            check_reading(
                context.table, self.tag, self.message.authority_seq, reader=self.caller, time_ms=context.time_ms
            )
        entry = NewEntry(kind=EntryKind.READ, tag=self.tag, message=self.message, request_id=self.request.id)
        return Plan((context.draft(entry, self.request),), None)
