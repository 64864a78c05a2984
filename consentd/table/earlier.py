"""Make the rows of an earlier tree that decide about some persons: the table as it was, as far as a question needs it.

The table in use has one revision, the latest. An earlier one follows from the entries alone. So the entries of the
public chains and of these persons' chains that the earlier tree has are applied to empty rows in memory, in the order
of the ledger, by the ``apply`` that the sequencer uses. Each consent is compiled with the vocabulary and the rules that
were in force at its entry, because all chains are merged by leaf index.

What a decision does not depend on is left out: keys (only signed questions need them), mandates, and the notices of
which no version asked for new consents. So these rows answer a question as the whole table of that tree would, but are
not that table.

**Pruned and erased.** A pruning of time T keeps what every decision since T rests on (``ledger.retention``). A consent
whose entries it deleted had left the table before T. So a tree whose last leaf has the time T or a later one can be
made; of an earlier one nobody knows what is missing. After an erasure nobody knows from the ledger which identifier the
erased chain belonged to. So for a person who is not enrolled in the earlier tree, no erasure may come after that tree.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, islice

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import NO_DECISION_EFFECT, USES, EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import CorruptionError, InvalidError, MalformedError, NotFoundError, RequestError, StorageError
from consentd.ledger import layout, reads, retention
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.store.memory import MemoryRows
from consentd.table.checked_rows import RowCheck
from consentd.table.registry import RegistryCache
from consentd.table.table import decode_entry
from consentd.table.transaction import TableTransaction
from consentd.table.view import Snapshot, View

STEP = 64
"""Entries in a step of ``EarlierTree.replay``: a few milliseconds. An entry without an effect counts an eighth."""
_SKIPPED = 8
_CHAINS = 32  # chains that a step begins to read
_PAGE = 256
_NO_EFFECT = NO_DECISION_EFFECT | {EntryKind.KEY}


def public_chains(snapshot: Snapshot) -> list[bytes]:
    """Return the tags of the public chains whose entries change decisions; later tables have all of earlier ones."""
    rules = snapshot.rules_statement()
    assert rules is not None, "a ledger begins with rules"
    registry = snapshot.registry()
    names = [PARTICIPANT_PREFIX + one for one in registry.participants]
    names += [codec.VOCABULARY_PREFIX + registry.codebook.vocabulary.id, codec.RULES_PREFIX + rules.realm_id]
    names += [codec.NOTICE_PREFIX + one for one in sorted(registry.campaigns)]
    return [codec.LEDGER_TAG, *map(codec.public_tag, names)]


def lost(what: str) -> NotFoundError:
    """Return the error for what was pruned or erased."""
    return NotFoundError(what, "PRUNED")


class EarlierTree:
    """The tree of the first *size* leaves, and the rows that its entries make. One thread at a time may use it.

    Attributes:
        size, time_ms: number of leaves, and the time of the last one, UTC ms.
    """

    def __init__(self, store: Store, vault: Vault, size: int) -> None:
        """*size*: from 1 to the size of the table in use.

        Raises:
            NotFoundError: (PRUNED) the ledger has deleted entries that decisions from this tree rest on.
        """
        self.size = size
        self._store, self._vault = store, vault
        self._pruned = retention.read_pruned(store)
        leaf = store.get(layout.leaf_key(size - 1))
        if leaf is None:
            raise lost("entries of this tree are pruned")
        self.time_ms = codec.decode_leaf(leaf).time_ms
        self._check_kept(self._pruned)
        self._rows = MemoryRows()
        self._table = TableTransaction(RegistryCache(), RowCheck(), self._rows)

    def _check_kept(self, pruned: Pruned) -> None:
        if self.time_ms < pruned.kept_from_ms:
            raise lost("tree ends before the time from which this ledger keeps all entries")

    def count(self, tags: Iterable[bytes]) -> int:
        """Return how many entries the chains of *tags* have now; ``replay`` reads no more."""
        return sum(self._head(tag) for tag in tags)

    def replay(self, tags: Iterable[bytes]) -> Iterator[None]:
        """Apply the entries of these chains that the tree has. Yields after each step of work; then use ``view``.

        Raises:
            NotFoundError: (PRUNED) a statement was deleted.
            InvalidError: the tree is from before the first vocabulary and rules.
            StorageError: the store fails, or a pruning deletes entries meanwhile.
            CorruptionError: a chain is broken, or an entry cannot be applied.
        """
        chains = []
        for number, tag in enumerate(tags):
            if number % _CHAINS == 0:
                yield
            chains.append(self._begun(tag))  # each reads its first page now, and not all in the first step of the merge
        work = 0
        for entry in merge(*chains, key=lambda one: one.index):
            if entry.event.kind in _NO_EFFECT or not self._apply(entry):
                work += 1
            else:
                work += _SKIPPED
            if work >= STEP * _SKIPPED:
                work = 0
                yield
        # What a pruning has deleted meanwhile was perhaps missing above.
        self._check_kept(retention.read_pruned(self._store))
        if not self._table.has_registry():
            raise InvalidError(f"tree of `{self.size}` leaves has no vocabulary and rules yet")
        root = reads.root_at(self._store, self.size)
        self._table.commit(self.size, root, time_ms=self.time_ms, wall_ms=0)

    def view(self) -> View:
        """Return the rows as they are after ``replay``."""
        return View(RegistryCache(), RowCheck(), self._rows)

    def _apply(self, entry: reads.StoredEntry) -> bool:
        """Apply an entry; return False if it is one of an access, and changes nothing."""
        event = entry.event
        is_needed = self._table.needs(event)
        if event.kind in USES and not is_needed:
            return False
        message = self._message(entry) if is_needed else None
        try:
            self._table.apply(event, message, index=entry.index)
        except RequestError as error:
            raise CorruptionError(f"entry does not apply to the table: kind {event.kind} seq {event.seq}") from error
        return True

    def _message(self, entry: reads.StoredEntry) -> Message | None:
        """Return the decoded payload of an entry; None: a pruning deleted it, because its consent left the table."""
        event = entry.event
        try:
            message = decode_entry(self._vault, entry)
        except MalformedError as error:
            raise CorruptionError(f"statement is malformed: kind {event.kind} seq {event.seq}") from error
        if message is None and not self._pruned.covers(event):
            raise self._missing()
        return message

    def _missing(self) -> NotFoundError | StorageError:
        """Return the error for a statement that is not there, and that no pruning before this object explains."""
        if retention.read_pruned(self._store) != self._pruned:
            return StorageError("entries were pruned while they were read; repeat the call")
        return lost("a statement that this tree has was erased")

    def _begun(self, tag: bytes) -> Iterator[reads.StoredEntry]:
        """Return the entries of a chain as ``_entries``, the first of which is read."""
        entries = self._entries(tag)
        return chain(list(islice(entries, 1)), entries)

    def _entries(self, tag: bytes) -> Iterator[reads.StoredEntry]:
        """Yield the entries of a chain that the tree has. Gaps are only where a pruning may have made them."""
        seq, count = 0, self._head(tag)
        for first in range(1, count + 1, _PAGE):
            for entry in reads.read_chain_with_gaps(self._store, tag, first, first + _PAGE - 1):
                if entry.event.seq != seq + 1 and entry.index >= self._pruned.start:
                    raise self._broken(entry.index)
                if entry.index >= self.size:
                    return
                seq = entry.event.seq
                yield entry
        if seq != count:
            raise self._broken(self.size - 1)

    def _broken(self, index: int) -> CorruptionError | StorageError:
        if retention.read_pruned(self._store) != self._pruned:
            return StorageError("entries were pruned while they were read; repeat the call")
        return CorruptionError(f"chain is broken before index {index}")

    def _head(self, tag: bytes) -> int:
        row = self._store.get(layout.head_key(tag))
        return 0 if row is None else int(layout.HEAD.unpack(row)[0])
