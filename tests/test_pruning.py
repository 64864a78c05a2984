"""Prune random ledgers: everything that must remain does, the rest is deleted, and a crash at any point loses nothing.

The tests determine what must remain in another way than ``retention``: for each moment since the time of the pruning,
which consents the evaluator could read, and which keys signed them.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from cases.fakes import FaultyStore
from cases.ledgers import check_ledger
from cases.pruned_ledgers import MONTH_DAYS, PruningCase, use
from consentd.core import codec, tiles
from consentd.core.kinds import EntryKind
from consentd.core.pruned import DAY_MS, Pruned
from consentd.errors import StorageError
from consentd.ledger import layout, pruning, reads, retention
from consentd.policy import model
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore
from consentd.v1 import statement_pb2 as st

_DEEP = {2, 4, 5, 7}
PERSON_KINDS = range(EntryKind.GRANT, EntryKind.OUTCOME + 1)


def carry_out(store: Store, case: PruningCase, pruned: Pruned) -> None:
    for batch, _ in pruning.delete_in_batches(store, case.vault, pruned):
        store.write(batch)


def copy(store: Store) -> dict[bytes, bytes]:
    return dict(store.scan(b"", None))


def check(case: PruningCase, before: Store, pruned: Pruned) -> None:
    """Compare a pruned ledger with the same one as it was before."""
    assert case.fsck().faults == ()
    stated = retention.read_stated_prunings(before)[1]
    for person in case.people:
        chain = list(reads.read_chain_with_gaps(before, person.tag))
        wanted = _in_view(case, chain, pruned.kept_from_ms, stated)
        below = [entry.event.seq for entry in chain if entry.index < pruned.start]
        for entry in chain:
            seq, kind = entry.event.seq, entry.event.kind
            row = case.store.get(layout.statement_key(person.tag, seq))
            leaf = case.store.get(layout.leaf_key(entry.index))
            if seq in wanted:
                assert row == entry.row
                assert entry.index >= pruned.start or kind == EntryKind.KEY
            if entry.index >= pruned.minimum or seq == below[-1] or kind in (EntryKind.ENROL, EntryKind.KEY):
                assert leaf == entry.leaf
            elif seq not in wanted:
                assert leaf is None
                assert row is None
    # Public chains are whole.
    for key, leaf in before.scan(b"l", b"m"):
        event = codec.decode_leaf(leaf)
        if isinstance(event, codec.Event) and event.kind not in PERSON_KINDS and event.kind != EntryKind.ENROL:
            assert case.store.get(key) == leaf
    assert pruned.minimum % tiles.TILE_WIDTH == 0


def _in_view(
    case: PruningCase, chain: list[reads.StoredEntry], since_ms: int, stated: list[retention.StatedPruning]
) -> set[int]:
    """Return the seqs of the entries on which anything since *since_ms* depends."""
    opened = {entry.event.seq: reads.open_entry(case.vault, entry) for entry in chain}
    statements = {seq: codec.decode_statement(found[1]) for seq, found in opened.items() if found is not None}
    grants = {
        entry.event.seq: st.GrantStatement.FromString(statements[entry.event.seq].payload)
        for entry in chain
        if entry.event.kind == EntryKind.GRANT and entry.event.seq in statements
    }
    origin = {}  # seq of the GRANT that each entry leads back to
    for entry in chain:
        if entry.event.kind == EntryKind.GRANT:
            origin[entry.event.seq] = entry.event.seq
        elif EntryKind.AMEND <= entry.event.kind <= EntryKind.REVOKE and entry.event.ref in origin:
            origin[entry.event.seq] = origin[entry.event.ref]
    wanted = {entry.event.seq for entry in chain if entry.event.time_ms >= since_ms}
    for seq, message in grants.items():
        came = next(entry for entry in chain if entry.event.seq == seq)
        revoked = [entry.event for entry in chain if entry.event.kind == EntryKind.REVOKE]
        left = [event.time_ms for event in revoked if origin.get(event.seq) == seq]
        end_ms = message.consent.root.period.end_time_ms or model.OPEN_END_MS
        left += [one.time_ms for one in stated if one.index > came.index and end_ms <= one.pruned.kept_from_ms]
        if min(left, default=since_ms) >= since_ms or message.consent.retention_until_time_ms >= since_ms:
            wanted |= {one for one, its in origin.items() if its == seq}
    while True:
        more = {entry.event.ref for entry in chain if entry.event.seq in wanted and entry.event.ref} & set(opened)
        more |= {one for one in origin if origin[one] in {origin.get(other) for other in wanted | more}}
        if more <= wanted:
            break
        wanted |= more
    signers = {statements[seq].key for seq in wanted if seq in statements}
    retired = {}
    for entry in chain:
        if entry.event.kind == EntryKind.KEY and entry.event.seq in statements:
            message = st.KeyStatement.FromString(statements[entry.event.seq].payload)
            if message.key in signers or retired.get(message.key, since_ms) >= since_ms:
                wanted.add(entry.event.seq)
    return wanted


@pytest.mark.parametrize("seed", range(8))
def test_random_ledgers(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    case = PruningCase(tmp_path)
    starts = []
    for _ in range(3):
        use(case, random, 60, keys=seed % 3 == 0)
        case.clock.advance(random.choice((1, 40, 200)) * DAY_MS)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        pruned, _ = case.plan()
        case.state(pruned)
        before = MemoryStore(copy(case.store))
        case.sweep(pruned)
        check(case, before, pruned)
        starts.append(pruned.start)
        case.rebuild_table()  # from what is kept
        check_ledger(case)
    assert all(first <= second for first, second in pairwise(starts))
    case.close()
    if seed in _DEEP:
        assert starts[-1] > tiles.TILE_WIDTH  # this one lost leaves, not statements alone


def test_a_crash_at_any_write_of_a_sweep_loses_nothing(tmp_path: Path) -> None:
    random = Random(5)
    case = PruningCase(tmp_path)
    use(case, random, 80, keys=False)
    for days in (500, MONTH_DAYS + 1):  # the first one drops from the table what ended, the second deletes it
        case.clock.advance(days * DAY_MS)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        pruned, _ = case.plan()
        if days == 500:
            case.state(pruned)
            case.sweep(pruned)
    case.state(pruned)
    before = copy(case.store)
    swept = MemoryStore(dict(before))
    carry_out(swept, case, pruned)
    steps = [(batch, done.leaves) for batch, done in pruning.delete_in_batches(MemoryStore(before), case.vault, pruned)]
    batches = len(steps)
    assert batches >= 3
    assert steps[-1][1] > 0
    for at in range(batches):
        for persisted in (False, True):
            store = FaultyStore(MemoryStore(dict(before)))
            store.fail_write(persisted=persisted, after=at)
            with pytest.raises(StorageError):
                carry_out(store, case, pruned)
            found = retention.read_pruned(store.inner)
            if at or persisted:
                assert found == pruned
                assert retention.is_finished(store.inner) is (at == batches - 1 and persisted)
            carry_out(store.inner, case, pruned)
            assert copy(store.inner) == copy(swept)
    case.close()


@pytest.mark.parametrize("seqs", [range(1, 301), (1, 5, 6, *range(20, 301)), (1, 4, *range(150, 301)), (1, 7)])
def test_the_gaps_of_a_chain_are_found_without_a_read_of_what_follows(seqs: Sequence[int]) -> None:
    """Entry *s* has the index 10 × *s*; what is missing lies below the index 1,500."""
    store, batch, tag = MemoryStore(), Batch(), bytes(32)
    batch.put(layout.PRUNED, retention.encode_pruned(Pruned(1, 1_500), finished=False))
    for seq in seqs:
        batch.put(layout.index_key(tag, seq), layout.encode_u64(10 * seq))
    store.write(batch)
    read: list[int] = []
    scan = store.scan

    def counting(start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for key, row in scan(start, end):
            read.append(layout.decode_u64(row))
            yield key, row

    store.scan = counting  # type: ignore[method-assign,assignment]
    first = next(seq for seq in reversed(seqs) if seq - 1 not in seqs)
    assert retention.first_after_gaps(store, tag) == first
    assert [index for index in read if index > 1_500] == []


def test_a_chain_of_a_store_that_is_not_pruned_has_no_gaps() -> None:
    store, batch, tag = MemoryStore(), Batch(), bytes(32)
    for seq in range(1, 5):
        batch.put(layout.index_key(tag, seq), layout.encode_u64(seq))
    store.write(batch)
    assert retention.first_after_gaps(store, tag) == retention.first_after_gaps(store, bytes(31) + b"1") == 1
