"""Read the accesses to a person's data as they were at a revision, from the person's chain.

The chain is read backwards, from the position of a page on, so a page costs what it reads. Reference rows lead from an
access to its outcomes (``layout.reference_row``). Entries that are later than the revision are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from consentd import limits
from consentd.core import codec
from consentd.core.kinds import DECISIONS, EntryKind
from consentd.errors import InvalidError, NotFoundError
from consentd.ledger import reads
from consentd.ledger.vault import Vault
from consentd.service.pages import Deletions, read_range
from consentd.service.roles import Kind
from consentd.statements import payloads
from consentd.statements.reporters import parties_of
from consentd.statements.values import to_enum
from consentd.store import Store
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

NO_ACCESS = "no such access of this subject"
MAX_OUTCOMES = limits.ACCESS_OUTCOMES
"""Most outcomes in the record of one access. They are at most 16 KiB each."""


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """Which accesses a list selects. An empty value, or None, selects any. Times are those of the entry, UTC ms."""

    kind: int
    automatic: bool | None
    actor: str
    holder: str
    purpose: str
    asker: str
    start_ms: int
    end_ms: int

    def selects(self, record: ac.AccessRecord) -> bool:
        """Return whether the question and the asker of a record are selected."""
        asked = record.question
        actor = asked.actor
        return (
            (self.automatic is None or actor.automatic == self.automatic)
            and self.actor in ("", actor.organisation, actor.on_behalf_of, actor.application)
            and self.holder in ("", asked.holder)
            and self.purpose in ("", asked.purpose)
            and self.asker in ("", record.asker)
        )


def read_filter(request: ac.ListAccessesRequest) -> AccessFilter:
    """Return the filter of a request. Raises ``InvalidError`` for a kind that no access has, and as ``read_range``."""
    if request.kind not in (st.ENTRY_KIND_UNSPECIFIED, *DECISIONS):
        raise InvalidError(f"kind is neither ACCESS nor REFUSAL: `{request.kind}`")
    return AccessFilter(
        request.kind, request.automatic if request.HasField("automatic") else None,
        request.actor, request.holder, request.purpose, request.asker, *read_range(request),
    )  # fmt: skip


class AccessReader:
    """Reads the accesses of one person in the tree of *tree_size* leaves."""

    def __init__(self, store: Store, vault: Vault, tag: bytes, *, tree_size: int) -> None:
        self._store, self._vault, self._tag, self._size = store, vault, tag, tree_size

    def find(self, seq: int) -> ac.AccessRecord:
        """Return the record of an access, permitted or refused. Raises ``NotFoundError`` if it is not stored."""
        entry = self._entry(seq)
        record = self._record(entry) if entry is not None and entry.event.kind in DECISIONS else None
        if record is None:
            raise NotFoundError(NO_ACCESS)
        return record

    def permitted(self, seq: int) -> st.AccessStatement:
        """Return the statement of a permitted access. Raises as ``find``."""
        entry = self._entry(seq)
        opened = None
        if entry is not None and entry.event.kind == EntryKind.ACCESS:
            opened = reads.open_entry(self._vault, entry)
        if opened is None:
            raise NotFoundError(NO_ACCESS)
        return payloads.parse(st.AccessStatement, codec.decode_statement(opened[1]).payload)

    def _entry(self, seq: int) -> reads.StoredEntry | None:
        """Return entry *seq* of the chain; None if the tree has no such entry, or it was pruned."""
        try:
            entry = None if seq > codec.MAX_SEQ else reads.read_entry(self._store, self._tag, seq)
        except NotFoundError:
            return None
        return entry if entry is not None and entry.index < self._size else None

    def list(
        self, selected: AccessFilter, below: int, deletions: Deletions
    ) -> Iterator[tuple[int, ac.AccessRecord | None]]:
        """Yield the entries with a seq less than *below*, newest first: seq, and the record of a selected access."""
        last = below
        for entry in reads.read_chain_back(self._store, self._tag, below - 1):
            event, record = entry.event, None
            if event.time_ms < selected.start_ms:
                return
            last = event.seq
            is_asked = event.kind in DECISIONS and selected.kind in (st.ENTRY_KIND_UNSPECIFIED, event.kind)
            if is_asked and entry.index < self._size and event.time_ms < selected.end_ms:
                record = self._record(entry, deletions)
                if record is not None and not selected.selects(record):
                    record = None
            yield event.seq, record
        if last > 1:
            deletions.pass_over()

    def _record(self, entry: reads.StoredEntry, deletions: Deletions | None = None) -> ac.AccessRecord | None:
        """Return the record of an ACCESS or a REFUSAL; None: the REFUSAL is of a consent, or the statement was pruned.

        *deletions* decides whether a list may pass over a statement that was pruned.
        """
        opened = reads.open_entry(self._vault, entry)
        if opened is None:
            if entry.row is not None:
                raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
            if deletions is not None:
                deletions.pass_over()
            return None
        payload, event = codec.decode_statement(opened[1]).payload, entry.event
        record = ac.AccessRecord(seq=event.seq, index=entry.index, time_ms=event.time_ms, kind=to_enum(event.kind))
        if event.kind == EntryKind.REFUSAL:
            refusal = payloads.parse(st.RefusalStatement, payload)
            if not refusal.HasField("access"):
                return None
            access = refusal.access
        else:
            access = payloads.parse(st.AccessStatement, payload)
            self._add_outcomes(record, deletions)
        record.question.CopyFrom(payloads.parse(pb.Question, access.asked.question))
        record.decision.CopyFrom(access.decision)
        record.asker, record.network_origin = access.asked.asker, access.asked.network_origin
        return record

    def _add_outcomes(self, record: ac.AccessRecord, deletions: Deletions | None) -> None:
        """Add the outcomes of an access, oldest first, up to ``MAX_OUTCOMES``."""
        found = reads.scan_references(self._store, self._tag, record.seq)
        for number, one in enumerate(takewhile(lambda one: one.index < self._size, found)):
            if number == MAX_OUTCOMES:
                record.more_outcomes = True
                return
            try:
                opened = reads.open_entry(self._vault, reads.read_entry(self._store, self._tag, one.seq))
            except NotFoundError:
                opened = None
            if opened is not None:
                payload = codec.decode_statement(opened[1]).payload
                record.outcomes.append(payloads.parse(st.OutcomeStatement, payload))
            elif deletions is not None:
                deletions.pass_over()


def parties_that_may_know(access: st.AccessStatement, kinds: frozenset[Kind]) -> set[str]:
    """Return the parties to a permitted access that may know its answer (policy.md, "One answer").

    A PERMIT is the same answer for every asker, but for its conditions, which the holder may know too. Any other answer
    may show its asker more than another party may know, unless that party has the right SEE_REASONS.

    Args:
        kinds: the kinds of the caller, which may be one of these parties.
    """
    if Kind.SEE_REASONS in kinds:
        return parties_of(access.asked)
    if access.decision.outcome != pb.OUTCOME_PERMIT:
        return {access.asked.asker}
    question = payloads.parse(pb.Question, access.asked.question)
    if pb.OBLIGATION_ENFORCE_RESIDUAL in question.supported_obligations:
        return {access.asked.asker, question.holder}
    return parties_of(access.asked)
