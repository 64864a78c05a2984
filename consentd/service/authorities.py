"""Read the authorities for a person, as they were at a revision, from the ledger.

The reference rows with ref 0 list the AUTHORITY entries that put an authority, and those of such an entry lead to the
one that ended it (``layout.reference_row``).
"""

from collections.abc import Iterator, Sequence

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError
from consentd.ledger import reads
from consentd.ledger.vault import Vault
from consentd.policy.model import OPEN_END_MS
from consentd.statements import payloads
from consentd.statements.authorities import authority_value, ends_agents
from consentd.store import Store
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st


class AuthorityReader:
    """Reads the authorities for one person in the tree of *tree_size* leaves."""

    def __init__(self, store: Store, vault: Vault, tag: bytes, *, tree_size: int) -> None:
        self._store, self._vault, self._tag, self._size = store, vault, tag, tree_size
        self._ending: Sequence[reads.Reference] | None = None  # what ``_deaths`` returns; None: not read yet

    def find(self, seq: int) -> cs.AuthorityRecord:
        """Return the authority of entry *seq*. Raises ``NotFoundError`` if there is none."""
        for one in reads.scan_references(self._store, self._tag, 0, below=seq + 1, reverse=True):
            if one.seq == seq and one.kind == EntryKind.AUTHORITY and one.index < self._size:
                return self._record(one)
            if one.seq <= seq:
                break
        raise NotFoundError("person has no such authority: see ListAuthorities")

    def list(self, participant_id: str, below: int) -> Iterator[tuple[int, cs.AuthorityRecord | None]]:
        """Yield authorities with a seq less than *below*, newest first: the seq, and the record if it is selected.

        *participant_id*: the representative of those that are selected; empty: all are.
        """
        for one in reads.scan_references(self._store, self._tag, 0, below=below, reverse=True):
            if one.index >= self._size:
                continue
            record = self._record(one) if one.kind == EntryKind.AUTHORITY else None
            is_selected = record is not None and participant_id in ("", record.statement.participant_id)
            yield one.seq, record if is_selected else None

    def _record(self, reference: reads.Reference) -> cs.AuthorityRecord:
        time_ms, stated = self._read(reference)
        found = authority_value(stated, time_ms=time_ms)
        ends = [next(self._ends(reference.seq), None)]
        if found.is_agent:
            ends.append(next((one for one in self._deaths() if one.seq > reference.seq), None))
        ended = min((one for one in ends if one is not None), key=lambda one: one.seq, default=None)
        if ended is not None:
            found = found.ended(seq=ended.seq, time_ms=reads.time_at(self._store, ended.index))
        return cs.AuthorityRecord(
            authority_seq=reference.seq, statement=stated, time_ms=time_ms, ended_seq=found.ended_seq,
            end_time_ms=_end(found.ends.other_ms), research_end_time_ms=_end(found.ends.research_ms),
        )  # fmt: skip

    def _read(self, reference: reads.Reference) -> tuple[int, st.AuthorityStatement]:
        """Return the time of an AUTHORITY entry, and what it states."""
        entry = reads.read_entry(self._store, self._tag, reference.seq)
        opened = reads.open_entry(self._vault, entry)
        if opened is None:  # no pruning deletes such an entry
            raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
        stated = payloads.parse(st.AuthorityStatement, codec.decode_statement(opened[1]).payload)
        return entry.event.time_ms, stated

    def _deaths(self) -> Sequence[reads.Reference]:
        """Return the AUTHORITY entries that end every earlier power of attorney, oldest first."""
        if self._ending is None:
            self._ending = [one for one in self._ends(0) if ends_agents(self._read(one)[1])]
        return self._ending

    def _ends(self, seq: int) -> Iterator[reads.Reference]:
        found = reads.scan_references(self._store, self._tag, seq)
        return (one for one in found if one.kind == EntryKind.AUTHORITY and one.index < self._size)


def _end(time_ms: int) -> int:
    """Return an end as messages have it; 0: there is none."""
    return 0 if time_ms == OPEN_END_MS else time_ms
