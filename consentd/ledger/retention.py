"""Prune: delete what the published retention policy no longer keeps, so that proofs among the rest still hold.

*kept_from* is a time T, and a person's entry is kept if it is of T or later, or if something since T rests on it:

- a consent, with all that was done to it, unless it left the evaluator's view before T: withdrawn, or ended and
  dropped from the table by an earlier pruning; nor before the time up to which recipients may keep what it gave them
- a key, unless it was retired before T and signed nothing that is kept
- what a kept entry refers to
- a kind that this version cannot tell the end of: disputes, duties, whatever it does not know

So every decision since T can be taken again from what is kept, and every signature verified. Of the rest the
*statements* go. *Leaves* go below a minimum index only: the start is the size at the last seal before the first leaf
that is kept for one of these reasons, and the minimum index is the start rounded down to a whole bundle. Below it
remain all public chains, and of each person the first entry (ENROL), keys, and the last leaf, where the history then
starts. Tiles remain whole.

First the ledger says so, in a LEDGER entry; only when a checkpoint with it is public is anything deleted. Deleting
twice is deleting once, so a pruning that was cut short is simply done again. Source: ledger-format.md, "Pruning".
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from consentd.core import codec
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.pruned import NOTHING, Pruned
from consentd.errors import CorruptionError
from consentd.ledger import layout, reads
from consentd.ledger.vault import Vault
from consentd.policy.model import OPEN_END_MS
from consentd.policy.subject import is_ended
from consentd.statements import payloads, values
from consentd.store import Batch, Store, prefix_end

BATCH_ROWS = 500
"""Rows deleted at once: a few milliseconds in which no entry is appended."""
STEP = 1_000
"""Chains looked at between two words of how far it is."""

_FORMAT = 1
_ROW = Struct(">BQQB")
_CONSENT = frozenset({EntryKind.GRANT, EntryKind.AMEND, EntryKind.PAUSE, EntryKind.RESUME, EntryKind.REVOKE})
_ALWAYS = frozenset({EntryKind.ENROL, EntryKind.KEY})
"""Kinds whose leaf and statement stay below the minimum index too: the table is made from them."""


def read_pruned(store: Store) -> Pruned:
    """Return what a store no longer keeps, or will not once a pruning under way is finished.

    Raises:
        CorruptionError: the row is not one of ours.
    """
    return _read(store)[0]


def is_finished(store: Store) -> bool:
    """Tell whether nothing is left to delete of what ``read_pruned`` names. Raises as that."""
    return _read(store)[1]


def _read(store: Store) -> tuple[Pruned, bool]:
    row = store.get(layout.PRUNED)
    if row is None:
        return NOTHING, True
    if len(row) != _ROW.size or row[0] != _FORMAT or row[-1] > 1:
        raise CorruptionError("row of what is pruned is not of a known form")
    _, kept_from_ms, start, finished = _ROW.unpack(row)
    return Pruned(kept_from_ms, start), bool(finished)


def encode_pruned(pruned: Pruned, *, finished: bool) -> bytes:
    """Encode the row."""
    return _ROW.pack(_FORMAT, pruned.kept_from_ms, pruned.start, finished)


@dataclass(frozen=True, slots=True)
class Stated:
    """A pruning that the ledger states, and where it does."""

    index: int
    time_ms: int
    pruned: Pruned


def read_ledger_statement(store: Store) -> Any:
    """Return what leaf 0 states, a LedgerStatement; None: there is none.

    Raises:
        CorruptionError: chain `ledger` cannot be read.
        VerificationError: it is not one.
    """
    for entry in reads.read_chain(store, codec.LEDGER_TAG, 1):
        if entry.event.kind != EntryKind.LEDGER or entry.row is None:
            return None
        return payloads.decode_payload(entry.event.kind, codec.decode_statement(entry.row[33:]).payload)
    return None


def read_stated(store: Store) -> tuple[int, list[Stated]]:
    """Return the retention policy in days (0: keep everything), and the prunings stated so far, in order.

    Raises:
        CorruptionError: chain `ledger` cannot be read.
    """
    days, stated = 0, []
    for entry in reads.read_chain(store, codec.LEDGER_TAG, 1):
        if entry.event.kind != EntryKind.LEDGER or entry.row is None:
            continue
        found = values.stated_retention(entry.event.kind, codec.decode_statement(entry.row[33:]).payload)
        if found is None:
            continue
        if entry.event.seq == 1:
            days = found.days
        if found.pruned is not None:
            stated.append(Stated(entry.index, entry.event.time_ms, found.pruned))
    return days, stated


# -- what of one chain is kept --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """An entry of a chain, opened; ``made`` and ``message`` None: its statement is gone, or says nothing here."""

    index: int
    event: codec.Event
    made: codec.Statement | None
    message: Any


@dataclass(slots=True)
class _Lineage:
    """A consent and what was done to it.

    Attributes:
        versions: (index, end of its period, until when recipients may keep what it gave) of each version.
        left_ms: when it left the evaluator's view; None: it has not.
    """

    members: list[int] = field(default_factory=list)
    versions: list[tuple[int, int, int]] = field(default_factory=list)
    left_ms: int | None = None
    is_readable: bool = True


def kept_of(chain: Sequence[_Known], kept_from_ms: int, stated: Sequence[Stated]) -> set[int]:
    """Return the seqs of a person's entries that are kept for what they say; see the module's text."""
    known = {one.event.seq: one for one in chain}
    kept: set[int] = set()
    lineage_of: dict[int, int] = {}
    lineages: dict[int, _Lineage] = {}
    for one in chain:
        event = one.event
        if event.time_ms >= kept_from_ms:
            kept.add(event.seq)
        if event.kind in _CONSENT:
            start = event.seq if event.kind == EntryKind.GRANT else lineage_of.get(event.ref)
            if start is not None:
                lineage_of[event.seq] = start
                _take(lineages.setdefault(start, _Lineage()), one)
        elif event.kind not in PRUNABLE and event.kind not in _ALWAYS and event.kind != EntryKind.ERASURE:
            kept.add(event.seq)
    for lineage in lineages.values():
        if kept.intersection(lineage.members) or not _is_over(lineage, kept_from_ms, stated):
            kept.update(lineage.members)
    keys = [one for one in chain if one.event.kind == EntryKind.KEY and one.message is not None]
    retired = {one.message.key: one.event.time_ms for one in keys if one.message.retired}
    kept.update(one.event.seq for one in keys if retired.get(one.message.key, kept_from_ms) >= kept_from_ms)
    _close(kept, known, lineages, lineage_of, keys)
    return kept


def _take(lineage: _Lineage, one: _Known) -> None:
    lineage.members.append(one.event.seq)
    if one.event.kind == EntryKind.REVOKE:
        lineage.left_ms = one.event.time_ms
    elif one.message is None:
        lineage.is_readable = False
    elif one.event.kind in (EntryKind.GRANT, EntryKind.AMEND):
        consent = one.message.consent
        end_ms = consent.root.period.end_time_ms or OPEN_END_MS
        lineage.versions.append((one.index, end_ms, consent.retention_until_time_ms))


def _is_over(lineage: _Lineage, kept_from_ms: int, stated: Sequence[Stated]) -> bool:
    """Tell whether nothing since *kept_from_ms* was decided with a lineage in view."""
    if not lineage.is_readable:
        return lineage.left_ms is None or lineage.left_ms < kept_from_ms  # pruned already, or nobody could read it
    left_ms = lineage.left_ms
    if left_ms is None:
        for pruning in stated:
            ends = [end_ms for index, end_ms, _ in lineage.versions if index < pruning.index]
            if ends and is_ended(ends[-1], pruning.pruned.kept_from_ms):
                left_ms = pruning.time_ms
                break
    if left_ms is None or left_ms >= kept_from_ms:
        return False
    return all(until_ms < kept_from_ms for _, _, until_ms in lineage.versions)


def _close(
    kept: set[int],
    known: dict[int, _Known],
    lineages: dict[int, _Lineage],
    lineage_of: dict[int, int],
    keys: Sequence[_Known],
) -> None:
    """Add what kept entries rest on: what they refer to, with its lineage, and the keys that signed them."""
    waiting = list(kept)
    while waiting:
        one = known[waiting.pop()]
        wanted = {one.event.ref} & known.keys()
        if one.made is not None:
            wanted |= {each.event.seq for each in keys if each.message.key == one.made.key}
        for seq in list(wanted):
            if seq in lineage_of:
                wanted.update(lineages[lineage_of[seq]].members)
        new = wanted - kept
        kept |= new
        waiting += new


# -- planning -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stop:
    """Which leaf the start may not pass, and of what kind; kind 0: everything from there on is kept for its time."""

    index: int
    kind: int


def plan(
    store: Store, vault: Vault, *, kept_from_ms: int, size: int
) -> Generator[int, None, tuple[Pruned, Stop]]:
    """Find how far a ledger can be pruned; nothing changes. Yields how many chains were looked at, now and then.

    Args:
        kept_from_ms: everything from this time on is kept.
        size: leaves there are.

    Raises:
        CorruptionError: a chain cannot be read.
    """
    before, (_, stated) = read_pruned(store), read_stated(store)
    kept_from_ms = max(kept_from_ms, before.kept_from_ms)
    stop = Stop(_first_since(store, kept_from_ms, before.minimum, size), 0)
    for done, tag in enumerate(_tags(store)):
        chain = _read_person(store, vault, tag, before_index=stop.index)
        if chain is not None:
            kept = kept_of(chain, kept_from_ms, stated)
            first = next((one for one in chain if one.event.seq in kept and one.index >= before.start), None)
            if first is not None and first.index < stop.index:
                stop = Stop(first.index, first.event.kind)
        if done % STEP == 0:
            yield done
    start = max(before.start, _seal_before(store, stop.index))
    return Pruned(kept_from_ms, start), stop


def _tags(store: Store) -> Iterator[bytes]:
    return (key[1:] for key, _ in store.scan(b"h", prefix_end(b"h")))


def _read_person(store: Store, vault: Vault, tag: bytes, *, before_index: int | None = None) -> list[_Known] | None:
    """Return a person's entries as far as they are kept; None: the chain is public, or begins too late to matter."""
    first = store.get(layout.index_key(tag, 1))
    if first is None:
        raise CorruptionError("chain has lost its first entry")
    index = layout.decode_u64(first)
    if (before_index is not None and index >= before_index) or reads.read_leaf(store, index)[1] != EntryKind.ENROL:
        return None
    return [_open(vault, entry) for entry in reads.read_kept(store, tag)]


def _open(vault: Vault, entry: reads.Entry) -> _Known:
    event = entry.event
    opened = reads.open_entry(vault, entry)
    if opened is None:
        return _Known(entry.index, event, None, None)
    made = codec.decode_statement(opened[1])
    wanted = event.kind in _CONSENT or event.kind == EntryKind.KEY
    return _Known(entry.index, event, made, payloads.decode_payload(event.kind, made.payload) if wanted else None)


def _first_since(store: Store, time_ms: int, low: int, high: int) -> int:
    """Return the index of the first leaf of *time_ms* or later, of those in [*low*, *high*)."""
    while low < high:
        middle = (low + high) // 2
        if codec.decode_leaf(reads.read_leaf(store, middle)).time_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _seal_before(store: Store, index: int) -> int:
    """Return the size that the last seal before *index* ends; 0: there is none."""
    for key, leaf in store.scan(layout.leaf_key(0), layout.leaf_key(index), reverse=True):
        if isinstance(codec.decode_leaf(leaf), codec.Seal):
            return layout.decode_u64(key) + 1
    return 0


# -- deleting -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sweep:
    """What a sweep has deleted so far, or would have."""

    chains: int = 0
    leaves: int = 0
    statements: int = 0


def sweep(store: Store, vault: Vault, pruned: Pruned) -> Iterator[tuple[Batch, Sweep]]:
    """Yield the batches that delete what *pruned* does not keep, each with what that comes to so far.

    The first one says in the store what is about to be deleted, the last one that it is. Who only wants to know
    how much it is writes none of them.
    """
    _, stated = read_stated(store)
    done, batch = Sweep(), Batch()
    batch.put(layout.PRUNED, encode_pruned(pruned, finished=False))
    yield batch, done
    batch = Batch()
    for tag in _tags(store):
        chain = _read_person(store, vault, tag)
        if chain is not None:
            _delete(batch, done, tag, chain, pruned, kept_of(chain, pruned.kept_from_ms, stated))
        done.chains += 1
        if len(batch) >= BATCH_ROWS or done.chains % STEP == 0:
            yield batch, done
            batch = Batch()
    for key, leaf in store.scan(layout.leaf_key(0), layout.leaf_key(pruned.minimum)):
        if isinstance(codec.decode_leaf(leaf), codec.Seal) and layout.decode_u64(key) != pruned.start - 1:
            batch.delete(key)
            done.leaves += 1
            if len(batch) >= BATCH_ROWS:
                yield batch, done
                batch = Batch()
    batch.put(layout.PRUNED, encode_pruned(pruned, finished=True))
    yield batch, done


def _delete(
    batch: Batch, done: Sweep, tag: bytes, chain: Sequence[_Known], pruned: Pruned, kept: set[int]
) -> None:
    last_below = max((one.event.seq for one in chain if one.index < pruned.start), default=0)
    # An entry that came since the plan may rest on one below the start: from there on the chain stays whole.
    needed = [one.index for one in chain if one.event.seq in kept and one.event.kind not in _ALWAYS]
    end = min([pruned.minimum, *needed])
    for one in chain:
        event = one.event
        if event.seq in kept or event.kind in _ALWAYS or event.kind == EntryKind.ERASURE:
            continue
        if one.made is not None:
            batch.delete(layout.statement_key(tag, event.seq))
            done.statements += 1
        if one.index < end and event.seq != last_below:
            batch.delete(layout.leaf_key(one.index))
            batch.delete(layout.index_key(tag, event.seq))
            done.leaves += 1
