"""Plan a pruning, and delete the entries that ``retention`` does not retain. Proofs of remaining entries stay valid.

A pruning has a *start*: the size of the tree at the last seal before the first leaf that is retained. The *minimum
index* is the start rounded down to a multiple of 256. Below the minimum index these leaves remain: all leaves of
public chains, and of each person's chain the entries of kinds ENROL, KEY and ERASURE and the last entry before the
start, at which the remaining history begins. All tiles remain.

First a LEDGER entry states the pruning. Rows are deleted only after a published checkpoint covers that entry. An
interrupted pruning is repeated from its beginning, because deleting a row twice changes nothing.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from consentd.core import codec
from consentd.core.kinds import PERSON_FIRST, EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import CorruptionError
from consentd.ledger import layout, reads, retention
from consentd.ledger.retention import NEVER_PRUNED, OpenedEntry
from consentd.ledger.vault import Vault
from consentd.statements import values
from consentd.store import Batch, Store, prefix_end

BATCH_ROWS = 500
"""Number of rows after which a batch is written. The write takes a few milliseconds, in which no entry is appended."""
PROGRESS_CHAINS = 1_000
"""Number of chains that are read between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Index and kind of the first retained leaf, which limits the start.

    Kind 0: the leaf is retained only because it is not older than the pruning's time.
    """

    index: int
    kind: int


def plan_pruning(
    store: Store, vault: Vault, *, kept_from_ms: int, size: int
) -> Generator[int, None, tuple[Pruned, Stop]]:
    """Return how far a ledger of *size* leaves can be pruned, and the leaf that limits the pruning. Changes nothing.

    Yields the number of chains read so far, every ``PROGRESS_CHAINS`` chains.

    Args:
        kept_from_ms: everything of this time or later is retained.

    Raises:
        CorruptionError: a chain cannot be read.
    """
    before, (_, prunings) = retention.read_pruned(store), retention.read_stated_prunings(store)
    kept_from_ms = max(kept_from_ms, before.kept_from_ms)
    stop = Stop(reads.first_index_since(store, kept_from_ms, before.minimum, size), 0)
    for done, tag in enumerate(_tags(store)):
        chain = _read_person(store, vault, tag, before=stop.index)
        if chain is not None:
            retained = retention.retained_seqs(chain, kept_from_ms, prunings)
            for entry in chain:
                if entry.event.seq in retained and before.start <= entry.index < stop.index:
                    stop = Stop(entry.index, entry.event.kind)
        if done % PROGRESS_CHAINS == 0:
            yield done
    start = max(before.start, _sealed_size_before(store, stop.index))
    return Pruned(kept_from_ms, start), stop


def _tags(store: Store) -> Iterator[bytes]:
    return (key[1:] for key, _ in store.scan(b"h", prefix_end(b"h")))


def _read_person(store: Store, vault: Vault, tag: bytes, before: int | None = None) -> list[OpenedEntry] | None:
    """Return the stored entries of a chain; None if the chain is public, or begins at *before* or later."""
    first = store.get(layout.index_key(tag, 1))
    if first is None:
        raise CorruptionError("chain has lost its first entry")
    index = layout.decode_u64(first)
    if before is not None and index >= before:
        return None
    if codec.kind_of(reads.read_leaf(store, index)) not in PERSON_FIRST:
        return None
    return [_open(vault, entry) for entry in reads.read_chain_with_gaps(store, tag)]


def _open(vault: Vault, entry: reads.StoredEntry) -> OpenedEntry:
    event, opened = entry.event, reads.open_entry(vault, entry)
    if opened is None:
        return OpenedEntry(entry.index, event)
    statement = codec.decode_statement(opened[1])
    stated = values.stated_version(event.kind, statement.payload)
    key, uses = values.named_key(event.kind, statement.payload), values.stated_uses(event.kind, statement.payload)
    return OpenedEntry(entry.index, event, statement, stated, key, uses)


def _sealed_size_before(store: Store, index: int) -> int:
    """Return the size of the tree whose last leaf is the last seal before *index*; 0 if there is none."""
    for key, leaf in store.scan(layout.leaf_key(0), layout.leaf_key(index), reverse=True):
        if isinstance(codec.decode_leaf(leaf), codec.Seal):
            return layout.decode_u64(key) + 1
    return 0


@dataclass(slots=True)
class Deleted:
    """Progress of a pruning: the numbers of chains read, of leaves deleted and of statements deleted."""

    chains: int = 0
    leaves: int = 0
    statements: int = 0


def delete_in_batches(store: Store, vault: Vault, pruned: Pruned) -> Iterator[tuple[Batch, Deleted]]:
    """Yield the batches that delete the rows not retained by *pruned*, each with the progress including that batch.

    The caller writes each batch before it asks for the next one. A caller that wants only the numbers writes none.
    The first batch stores *pruned* as unfinished, the last one as finished.
    """
    _, prunings = retention.read_stated_prunings(store)
    done, batch = Deleted(), Batch()
    batch.put(layout.PRUNED, retention.encode_pruned(pruned, finished=False))
    yield batch, done
    batch = Batch()
    for tag in _tags(store):
        chain = _read_person(store, vault, tag)
        if chain is not None:
            retained = retention.retained_seqs(chain, pruned.kept_from_ms, prunings)
            _delete_chain(batch, done, tag, chain, pruned, retained)
        done.chains += 1
        if len(batch) >= BATCH_ROWS or done.chains % PROGRESS_CHAINS == 0:
            yield batch, done
            batch = Batch()
    for key, leaf in store.scan(layout.leaf_key(0), layout.leaf_key(pruned.minimum)):
        if isinstance(codec.decode_leaf(leaf), codec.Seal) and layout.decode_u64(key) != pruned.start - 1:
            batch.delete(key)
            done.leaves += 1
            if len(batch) >= BATCH_ROWS:
                yield batch, done
                batch = Batch()
    batch.put(layout.PRUNED, retention.encode_pruned(pruned, finished=True))
    yield batch, done


def _delete_chain(
    batch: Batch, done: Deleted, tag: bytes, chain: Sequence[OpenedEntry], pruned: Pruned, retained: set[int]
) -> None:
    last_below = max((entry.event.seq for entry in chain if entry.index < pruned.start), default=0)
    # An entry that was appended after the plan may refer to an entry below the start, which is then retained. From the
    # first retained entry on, no leaf of the chain is deleted.
    needed = [entry.index for entry in chain if entry.event.seq in retained and entry.event.kind not in NEVER_PRUNED]
    end = min([pruned.minimum, *needed])
    for entry in chain:
        event = entry.event
        if event.seq in retained or event.kind in NEVER_PRUNED or event.kind == EntryKind.ERASURE:
            continue
        if entry.statement is not None:
            batch.delete(layout.statement_key(tag, event.seq))
            done.statements += 1
        # The kind of a chain's first leaf shows whether the chain is public.
        if entry.index < end and event.seq not in (1, last_below):
            batch.delete(layout.leaf_key(entry.index))
            batch.delete(layout.index_key(tag, event.seq))
            reference = layout.reference_row(event, entry.index)
            if reference is not None:
                batch.delete(reference[0])
            done.leaves += 1
