"""Record that somebody read a person's statements who is not the person: the entry is in the person's own chain."""

from dataclasses import dataclass

from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError
from consentd.sequencer.commands.write import NewEntry, Plan, ReceiptOnly, Request, WriteContext
from consentd.v1 import statement_pb2 as st


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
        entry = NewEntry(kind=EntryKind.READ, tag=self.tag, message=self.message, request_id=self.request.id)
        return Plan((context.draft(entry, self.request),), None)
