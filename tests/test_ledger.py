"""The ledger on its store: what a fault leaves, what opening accepts of it, and what it refuses."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.fakes import FaultyStore
from cases.ledgers import DAEMON, LOG, MAP_BITS, ORIGIN, START_MS, LedgerCase, Raw, check_files, check_ledger, flip
from consentd.core import bucketed, checkpoint, codec, ed25519, merkle, note, patricia
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError, InvalidError, NotFoundError, StorageError
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import read_last_signed, write_last_signed
from consentd.ledger.ledger import AppendBatch, Draft, State, decode_state, empty_state, encode_state
from consentd.ledger.recovery import open_ledger
from consentd.store import Batch, Store
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.v1 import statement_pb2 as st


@pytest.fixture
def case(tmp_path: Path) -> Iterator[LedgerCase]:
    made = LedgerCase(tmp_path)
    yield made
    made.close()
    check_ledger(made)


def reopened(case: LedgerCase, store: Store) -> None:
    """Open again on what a process that died left in *store*, the table and the last signed checkpoint."""
    if case.table is not None:
        case.sequencer.stop()
        case.table.close()
        case.table = None
    case.store = store
    case.open()


# -- one failed write, wherever it falls --------------------------------------------------------------------------

SCRIPT_WRITES = 12
"""Batches of the script below, seals included."""


def script(case: LedgerCase, acknowledged: list[int]) -> None:
    """Begin a ledger and use it; note the index of each entry that was acknowledged."""

    def write(made: Any) -> Any:
        written = case.write(made)
        acknowledged.extend(entry.index for entry in written.entries)
        return written.entry

    write(case.genesis())
    write(case.participant("hospital"))
    write(case.participant("bank"))
    case.seal()
    person = case.enrol("somebody", ed25519.KeyPair(b"\x22" * 32))  # two entries, or none
    acknowledged.extend(
        layout.decode_u64(case.store.get(layout.index_key(person.tag, seq)) or b"") for seq in (1, 2)
    )
    lineage = write(case.grant(person)).event.seq
    seq = write(case.access(person)).event.seq
    case.seal()
    write(case.outcome(person, seq))
    write(case.change(person, lineage, EntryKind.REVOKE))
    case.seal()
    write(case.access(person))


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("after", range(SCRIPT_WRITES))
def test_a_failed_write_loses_nothing_and_halves_nothing(tmp_path: Path, after: int, persisted: bool) -> None:
    store = FaultyStore()
    case = LedgerCase(tmp_path, store=store, begin=False)
    store.fail_write(persisted=persisted, after=after)
    acknowledged: list[int] = []
    with pytest.raises((StorageError, AssertionError)):  # a seal that fails is a checkpoint that never comes
        script(case, acknowledged)
    case.sequencer.stop()
    assert case.sequencer.fault is not None
    before = dict(store.inner.scan(b"", None))
    assert isinstance(store.inner, MemoryStore)
    reopened(case, store.inner.reopen())

    for index in acknowledged:
        assert case.store.get(layout.leaf_key(index)) == before[layout.leaf_key(index)]
    size = case.ledger.state.size
    assert size >= len(acknowledged)
    tags = {leaf[10:42] for index in range(size) if (leaf := reads.read_leaf(case.store, index))[1]}
    for person in case.people:
        assert case.ledger.head(person.tag)[0] != 1, "an enrolment with a key is two entries or none"
    assert len(tags) == case.ledger.state.tags
    if size == 0:
        case.write(case.genesis())
    case.write(case.participant("hospital"))
    case.write(case.participant("bank"))
    case.fill(1)
    check_ledger(case)
    check_files(case)
    case.close()


class FailingTable(Table):
    """A table whose next commit fails, before it happens or after."""

    fails: bool = False
    happens: bool = False

    def begin(self) -> TableTransaction:
        turn = super().begin()
        if self.fails:
            commit = turn.commit

            def failing(size: int, root: bytes, wall_ms: int) -> None:
                if self.happens:
                    commit(size, root, wall_ms)
                raise StorageError("commit failed")

            turn.commit = failing  # type: ignore[method-assign]
        return turn


@pytest.mark.parametrize("happens", [False, True])
def test_a_failed_commit_of_the_table_is_made_up_for(tmp_path: Path, happens: bool) -> None:
    case = LedgerCase(tmp_path, table_type=FailingTable)
    (person,) = case.fill(1)
    assert isinstance(case.table, FailingTable)
    case.table.fails, case.table.happens = True, happens
    lineage = case.write_together([case.grant(person)])[0]
    with pytest.raises(StorageError, match="unknown"):
        lineage.result(10)
    assert isinstance(case.store, MemoryStore)
    reopened(case, case.store.reopen())
    # It is on disk, so it is in force.
    assert case.table is not None
    with case.table.read() as snapshot:
        assert len(snapshot.lineages(person.tag)) == 2
    check_files(case)
    case.close()
    check_ledger(case)


@pytest.mark.parametrize("sealed", [False, True])
def test_a_lock_that_cannot_be_written_stops_the_writer_and_is_made_up_for(case: LedgerCase, sealed: bool) -> None:
    case.fill(1)
    size = case.ledger.state.size
    published = len(case.notes)
    case.last_signed_path.with_name("last-signed.new").mkdir()  # in the way of the temporary file
    case.write(case.participant("clinic"))
    with pytest.raises(AssertionError):
        case.seal()
    case.sequencer.stop()
    assert case.sequencer.fault is not None
    assert case.sequencer.published is not None
    assert case.sequencer.published.checkpoint.size == size
    case.last_signed_path.with_name("last-signed.new").rmdir()
    assert isinstance(case.store, MemoryStore)
    reopened(case, case.store.reopen())
    assert len(case.notes) == published + 1
    check_ledger(case, size + 2)


def test_a_lock_written_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is nearly full takes a part of what it is given, and fails only on the next."""
    write, room = os.write, 100

    def partial(file: int, content: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "no space")
        took = write(file, content[: min(room, 7)])
        room -= took
        return took

    path = tmp_path / "last-signed"
    monkeypatch.setattr(os, "write", partial)
    write_last_signed(path, b"x" * 60)
    with pytest.raises(StorageError):
        write_last_signed(path, b"y" * 60)
    assert read_last_signed(path) == b"x" * 60


# -- what a crash leaves ------------------------------------------------------------------------------------------


def test_events_behind_the_last_seal_are_sealed_at_opening(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    size = case.ledger.state.size
    for _ in range(3):
        case.write(case.access(person))
    other = case.enrol("somebody else")
    case.reopen()
    check_ledger(case, size + 5)
    assert case.ledger.state.sealed_size == size + 5
    replay = check_ledger(case)
    assert replay.heads[other.tag][0] == 1
    check_files(case)


def test_opening_a_sealed_ledger_appends_nothing(case: LedgerCase) -> None:
    case.fill(2)
    size, text = case.ledger.state.size, case.notes[-1]
    for _ in range(3):
        case.close()
        case.open()
    assert case.sequencer.published is not None
    assert case.sequencer.published.note == text
    check_ledger(case, size)


def test_a_store_ahead_of_its_lock_is_published(case: LedgerCase) -> None:
    case.fill(1)
    lock = case.last_signed_path.read_bytes()
    case.write(case.participant("clinic"))
    point = case.seal()
    case.crash()
    case.last_signed_path.write_bytes(lock)
    case.open()
    assert read_last_signed(case.last_signed_path) == case.notes[-1]
    check_ledger(case, point.size)


def test_a_table_behind_catches_up(case: LedgerCase, tmp_path: Path) -> None:
    case.fill(1)
    assert case.table is not None
    case.table.copy(tmp_path / "older")
    case.fill(2)
    case.crash()
    shutil.rmtree(case.table_path)
    shutil.copytree(tmp_path / "older", case.table_path)
    case.open()
    check_files(case)


def test_a_lost_table_is_rebuilt(case: LedgerCase) -> None:
    case.fill(2)
    case.crash()
    shutil.rmtree(case.table_path)
    case.open()
    check_files(case)


def test_a_crash_before_the_first_signature_is_ordinary(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path, begin=False)
    case.write(case.genesis())
    case.seal()
    case.crash()
    case.last_signed_path.unlink()
    case.open()
    check_ledger(case, 4)
    case.close()


def test_a_crash_before_the_first_seal_is_ordinary(tmp_path: Path) -> None:
    """Nothing was sealed, so nothing was signed, so there is no lock to miss."""
    case = LedgerCase(tmp_path, begin=False)
    case.write(case.genesis())
    case.crash()
    assert not case.last_signed_path.exists()
    case.open()
    check_ledger(case, 4)
    case.close()


# -- what no crash leaves -----------------------------------------------------------------------------------------


def refuses(case: LedgerCase, match: str) -> None:
    with pytest.raises(CorruptionError, match=match):
        case.open()


def restores(case: LedgerCase, key: bytes, row: bytes | None) -> None:
    batch = Batch()
    if row is None:
        batch.delete(key)
    else:
        batch.put(key, row)
    case.store.write(batch)


def test_opening_refuses_a_changed_row_of_what_it_rests_on(case: LedgerCase) -> None:
    case.fill(2)
    case.crash()
    state = decode_state(case.store.get(layout.STATE) or b"")
    rows: dict[bytes, list[int]] = {
        layout.STATE: [0, 5, 12, 60, 90, 95],
        layout.tile_key(0, 0): [32 * (state.size - 1)],
        layout.leaf_key(state.size - 1): [20, 60],
        layout.roots_key(0): [0],
    }
    assert state.map_bits == MAP_BITS
    for key, places in rows.items():
        row = case.store.get(key)
        assert row is not None
        for at in places:
            place = at if key != layout.roots_key(0) else next(i for i, byte in enumerate(row) if byte)
            case.edit(key, flip(place))
            refuses(case, "RUNBOOK|form")
            restores(case, key, row)
        case.edit(key, None)
        refuses(case, "RUNBOOK")
        restores(case, key, row)
    case.open()


def test_opening_refuses_a_last_seal_that_is_no_leaf(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    key = layout.leaf_key(case.ledger.state.size - 1)
    row = case.store.get(key)
    case.edit(key, flip(0))
    refuses(case, "seal|leaf")
    restores(case, key, row)
    case.open()


def test_opening_refuses_a_missing_lock(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    lock = case.last_signed_path.read_bytes()
    case.last_signed_path.unlink()
    refuses(case, "missing")
    case.last_signed_path.write_bytes(lock)
    case.open()


def test_opening_refuses_an_older_copy(tmp_path: Path) -> None:
    """A rollback: the store as it was, the last signed checkpoint as it is."""
    store = RocksStore.open(tmp_path / "db")
    case = LedgerCase(tmp_path / "case", store=store)
    case.fill(1)
    store.copy(tmp_path / "backup")
    case.fill(1)
    case.close()
    store.close()
    sizes = []
    case.store = RocksStore.open(tmp_path / "backup")
    with pytest.raises(CorruptionError, match="smaller than its last signed checkpoint"):
        case.open()
    sizes.append(decode_state(case.store.get(layout.STATE) or b"").size)
    case.store.close()
    case.store = RocksStore.open(tmp_path / "db")
    case.open()
    assert sizes[0] < case.ledger.state.size
    check_files(case)
    case.close()
    check_ledger(case)
    case.store.close()


def test_opening_refuses_a_lock_that_is_not_its_own(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    lock = case.last_signed_path.read_bytes()
    point, _ = checkpoint.open_checkpoint(lock, ORIGIN, LOG.verifier)
    for wrong, match in (
        (b"", "does not verify"),
        (flip(40)(lock), "does not verify"),
        (checkpoint.sign_checkpoint(replace(point, origin="other"), [LOG]), "does not verify"),
        (checkpoint.sign_checkpoint(point, [note.Signer(ORIGIN, ed25519.KeyPair(b"x" * 32))]), "does not verify"),
        (checkpoint.sign_checkpoint(replace(point, root=bytes(32)), [LOG]), "contradicts"),
        (checkpoint.sign_checkpoint(replace(point, size=point.size - 1), [LOG]), "contradicts"),
        (checkpoint.sign_checkpoint(replace(point, size=point.size + 1), [LOG]), "smaller"),
    ):
        case.last_signed_path.write_bytes(wrong)
        refuses(case, match)
    case.last_signed_path.write_bytes(lock)
    case.open()


def test_opening_refuses_a_table_ahead(case: LedgerCase) -> None:
    case.fill(1)
    assert isinstance(case.store, MemoryStore)
    older, lock = case.store.reopen(), case.last_signed_path.read_bytes()
    case.fill(1)
    case.crash()
    newer, new_lock = case.store, case.last_signed_path.read_bytes()
    case.store = older
    case.last_signed_path.write_bytes(lock)
    refuses(case, "table is ahead")
    case.store = newer
    case.last_signed_path.write_bytes(new_lock)
    case.open()


def test_opening_refuses_the_table_of_another_ledger(case: LedgerCase, tmp_path: Path) -> None:
    other = LedgerCase(tmp_path / "other", begin=False)
    other.write(other.genesis())
    other.write(other.participant("clinic"))
    other.seal()
    other.close()
    case.fill(2)
    case.crash()
    mine = case.table_path.rename(tmp_path / "mine")
    shutil.copytree(other.table_path, case.table_path)
    refuses(case, "another ledger")
    shutil.rmtree(case.table_path)
    mine.rename(case.table_path)
    case.open()
    check_ledger(other)


def test_opening_refuses_a_missing_leaf_behind_the_last_seal(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    for _ in range(3):
        case.write(case.access(person))
    case.crash()
    index = case.ledger.state.size - 1
    key = layout.leaf_key(index - 1)
    row = case.store.get(key)
    case.edit(key, None)
    refuses(case, f"missing at index {index - 1}")
    restores(case, key, row)
    case.edit(key, flip(0))
    refuses(case, "damaged")
    restores(case, key, row)
    case.open()


# -- two writers ----------------------------------------------------------------------------------------------------


def test_one_directory_has_one_writer(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path / "case", store=RocksStore.open(tmp_path / "db"))
    with pytest.raises(StorageError, match="locked"):
        RocksStore.open(tmp_path / "db")
    with pytest.raises(StorageError, match="open in another process"):
        RocksStore.open_read_only(tmp_path / "db")
    with pytest.raises(AssertionError):
        Table.open(case.table_path, map_size_mb=16)
    case.fill(1)
    case.close()
    check_files_of_closed(case)
    case.store.close()


def check_files_of_closed(case: LedgerCase) -> None:
    table = Table.open(case.table_path, map_size_mb=16)
    assert case.fsck(table=table).faults == ()
    table.close()
    check_ledger(case)


# -- turns ----------------------------------------------------------------------------------------------------------


def draft(tag: bytes = b"t" * 32, **changes: Any) -> Draft:
    values: dict[str, Any] = {"kind": 19, "tag": tag, "ref": 0, "commit": bytes(32), "stored": b"\0"}
    return Draft(**{**values, **changes})


def empty(store: Store, tmp_path: Path) -> Any:
    return open_ledger(
        store, last_signed_path=tmp_path / "lock", origin=ORIGIN, log_verifier=LOG.verifier, map_bits=MAP_BITS
    )


def test_a_turn_reads_its_own_entries(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    turn = AppendBatch(ledger, 5)
    first = turn.append(draft(request_key=b"r" * 32, content=b"c" * 32))
    second = turn.append(draft(kind=8, ref=1))
    assert (first.index, first.event.seq, second.index, second.event.seq) == (0, 1, 1, 2)
    assert second.event.prev == codec.chain_hash(first.leaf)
    assert second.leaf_hash == merkle.leaf_hash(second.leaf)
    assert turn.head(b"t" * 32) == (2, codec.chain_hash(second.leaf))
    assert turn.recorded(b"r" * 32) == (0, b"c" * 32)
    assert turn.recorded(b"s" * 32) is None
    assert (turn.kind_of(b"t" * 32, 2), turn.kind_of(b"t" * 32, 3)) == (8, None)
    assert ledger.head(b"t" * 32) == (0, bytes(32))
    assert ledger.store.get(layout.STATE) is None
    turn.close()
    ledger.commit(turn)
    assert ledger.head(b"t" * 32)[0] == 2
    later = AppendBatch(ledger, 5)
    assert later.recorded(b"r" * 32) == (0, b"c" * 32)
    assert later.kind_of(b"t" * 32, 2) == 8


def test_a_turn_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = empty(store, tmp_path)
    turn = AppendBatch(ledger, 5)
    turn.append(draft())
    turn.close()
    assert list(store.scan(b"", None)) == []
    assert ledger.state == empty_state(MAP_BITS)


def test_time_never_runs_back_and_ref_is_earlier(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    turn = AppendBatch(ledger, 5)
    turn.append(draft())
    with pytest.raises(AssertionError, match="ref"):
        turn.append(draft(ref=2))
    turn.close()
    ledger.commit(turn)
    with pytest.raises(AssertionError, match="time"):
        AppendBatch(ledger, 4)


def test_seals_are_never_side_by_side(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    turn = AppendBatch(ledger, 5)
    assert not turn.is_seal_due()
    with pytest.raises(AssertionError, match="new event"):
        turn.seal()
    turn.append(draft())
    turn.seal()
    turn.close()
    ledger.commit(turn)
    assert ledger.state.sealed_size == 2
    again = AppendBatch(ledger, 6)
    assert not again.is_seal_due()
    with pytest.raises(AssertionError, match="new event"):
        again.seal()


def test_sealed_heads_are_those_of_the_last_seal(tmp_path: Path) -> None:
    ledger = empty(MemoryStore(), tmp_path)
    one, two = b"1" * 32, b"2" * 32
    turn = AppendBatch(ledger, 5)
    turn.append(draft(one))
    turn.seal()
    turn.close()
    ledger.commit(turn)
    head = ledger.head(one)
    for _ in range(2):
        turn = AppendBatch(ledger, 6)
        turn.append(draft(one))
        turn.append(draft(two))
        turn.close()
        ledger.commit(turn)
        assert ledger.sealed_head(one) == head
        assert ledger.sealed_head(two) == (0, bytes(32))
    heads = reads.prove_heads(ledger, [one, two, b"3" * 32])
    assert [heads.chains[tag][0] for tag in (one, two, b"3" * 32)] == [1, 0, 0]
    seal = codec.decode_leaf(heads.seal)
    assert isinstance(seal, codec.Seal)
    count, head, proof = heads.chains[one]
    patricia.verify_presence(seal.map_root, codec.map_key(one), codec.map_value(one, count, head), proof)
    patricia.verify_absence(seal.map_root, codec.map_key(two), heads.chains[two][2])
    turn = AppendBatch(ledger, 7)
    turn.seal()
    turn.close()
    ledger.commit(turn)
    assert ledger.sealed_head(two)[0] == 2


def test_old_request_rows_go_a_few_at_a_time(tmp_path: Path) -> None:
    store = MemoryStore()
    ledger = empty(store, tmp_path)
    turn = AppendBatch(ledger, 5)
    for number in range(100):
        turn.append(draft(request_key=bytes([number]) * 32, content=b"c" * 32))
    turn.close()
    ledger.commit(turn)

    def left() -> tuple[int, int]:
        return len(list(store.scan(b"q", b"r"))), len(list(store.scan(b"x", b"y")))

    for forget_before, expected in ((5, 100), (6, 36), (6, 0)):
        turn = AppendBatch(ledger, 10, expire_before_ms=forget_before)
        turn.append(draft())
        turn.close()
        ledger.commit(turn)
        assert left() == (expected, expected)


def test_a_state_row_is_read_strictly() -> None:
    state = State(3, b"r" * 32, 5, 2, b"m" * 32, 3, b"s" * 32, 4)
    assert decode_state(encode_state(state)) == state
    for row in (b"", encode_state(state)[:-1], encode_state(state) + b"\0", b"\2" + encode_state(state)[1:]):
        with pytest.raises(CorruptionError, match="form"):
            decode_state(row)


# -- reads ----------------------------------------------------------------------------------------------------------


def test_reads_of_what_is_not_there(case: LedgerCase) -> None:
    store, size, tag = case.store, case.ledger.state.size, b"?" * 32
    for missing in (
        lambda: reads.read_leaf(store, size), lambda: reads.read_entry(store, tag, 1),
        lambda: reads.prove_heads(empty(MemoryStore(), case.directory / "none"), [tag]),
    ):
        with pytest.raises(NotFoundError):
            missing()
    for wrong in (
        lambda: reads.prove_inclusion(store, size, size), lambda: reads.prove_inclusion(store, -1, size),
        lambda: reads.prove_consistency(store, 0, size), lambda: reads.prove_consistency(store, 2, 1),
    ):
        with pytest.raises(InvalidError):
            wrong()
    with pytest.raises(CorruptionError, match=f"index {size}"):
        reads.read_leaves(store, 0, size + 1)
    assert list(reads.read_chain(store, tag, 1, 9)) == []


def test_a_chain_reads_forward_and_back(case: LedgerCase) -> None:
    (person,) = case.fill(1, accesses=7)
    count, _ = case.ledger.head(person.tag)
    forward = list(reads.read_chain(case.store, person.tag, 1, count))
    assert [entry.event.seq for entry in forward] == list(range(1, count + 1))
    assert list(reads.read_chain_back(case.store, person.tag, count, page=3)) == forward[::-1]
    assert [reads.is_plaintext(entry) for entry in forward] == [False] * count
    assert all(reads.open_entry(case.vault, entry) for entry in forward)


def test_a_broken_chain_is_not_read_as_whole(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    other = layout.index_key(codec.public_tag("ledger"), 1)
    key = layout.index_key(person.tag, 2)
    row = case.store.get(key)
    case.edit(key, lambda _: case.store.get(other) or b"")
    with pytest.raises(CorruptionError, match="broken"):
        list(reads.read_chain(case.store, person.tag, 1, 3))
    case.edit(key, None)
    with pytest.raises(CorruptionError, match="broken"):
        list(reads.read_chain(case.store, person.tag, 1, 3))
    restores(case, key, row)


def test_receipts_verify_offline(case: LedgerCase) -> None:
    case.fill(2)
    point, _ = checkpoint.open_checkpoint(case.notes[-1], ORIGIN, LOG.verifier)
    for index in range(point.size):
        bundle = reads.proof_bundle(case.store, index, point, case.notes[-1])
        leaf = reads.read_leaf(case.store, index)
        assert checkpoint.verify_proof(bundle, leaf=leaf, origin=ORIGIN, log_verifier=LOG.verifier) == point


def test_an_altered_bucket_is_not_proven_from(case: LedgerCase) -> None:
    (person,) = case.fill(1)
    number = bucketed.bucket_of(codec.map_key(person.tag), MAP_BITS)
    key = layout.bucket_key(number)
    row = case.store.get(key) or b""
    for change in (flip(70), flip(0, 128), lambda row: row[:-1], lambda row: row + row):
        case.edit(key, change)
        with pytest.raises(CorruptionError, match=r"bucket|disagree"):
            case.sequencer.call(lambda: reads.prove_heads(case.ledger, [person.tag]))
        restores(case, key, row)


# -- the last signed checkpoint ---------------------------------------------------------------------------------


def test_the_lock_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "last-signed"
    assert read_last_signed(path) is None
    for text in (b"one", b"another, longer", b""):
        write_last_signed(path, text)
        assert read_last_signed(path) == text
    assert os.listdir(tmp_path) == ["last-signed"]
    unwritable: list[Callable[[], object]] = [
        lambda: write_last_signed(tmp_path / "absent" / "lock", b""), lambda: read_last_signed(tmp_path),
    ]
    for wrong in unwritable:
        with pytest.raises(StorageError):
            wrong()


def test_the_same_entries_make_the_same_bytes(tmp_path: Path) -> None:
    """What reaches ``append`` is all there is: a second ledger fed the same has the same rows."""
    stores = [MemoryStore(), MemoryStore()]
    for store in stores:
        ledger = empty(store, tmp_path)
        for at in range(20):
            turn = AppendBatch(ledger, START_MS + at)
            for number in range(at % 4):
                turn.append(draft(bytes([number * at % 7]) * 32, commit=bytes([at]) * 32))
            if at % 5 == 4 and turn.is_seal_due():
                turn.seal()
            turn.close()
            ledger.commit(turn)
    assert list(stores[0].scan(b"", None)) == list(stores[1].scan(b"", None))


def test_an_erased_person_is_nobody(case: LedgerCase) -> None:
    """After an ERASURE no identifier leads to the tag any more, so nothing is written behind it."""
    (person,) = case.fill(1)
    case.erase(person)
    count = case.ledger.head(person.tag)[0]
    with pytest.raises(NotFoundError):
        case.write(case.grant(person))
    assert case.write(case.access(person)).entry is None
    assert case.ledger.head(person.tag)[0] == count
    again = case.enrol("person 0")
    assert again.tag != person.tag
    case.seal()
    check_files(case)


def test_an_erasure_takes_the_persons_keys_out_of_the_table(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    keys = [ed25519.KeyPair(bytes((number,)) * 32) for number in (0x51, 0x52)]
    gone, other = (case.enrol(f"person {number}", key) for number, key in enumerate(keys))
    case.write(Raw(kind=EntryKind.ERASURE, tag=gone.tag))
    assert case.table is not None
    with case.table.read() as snapshot:
        assert snapshot.key_ever(keys[0].public_key) is None
        owner = snapshot.key_owner(keys[1].public_key)
        assert owner is not None
        assert owner.tag == other.tag
        assert snapshot.tag_of(gone.identifier_hash) is None
    case.close()


def test_the_table_holds_keys_to_the_rule_of_all_verifiers(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    assert case.table is not None
    own, bank, late = (ed25519.KeyPair(bytes((number,)) * 32).public_key for number in (0x51, 0x52, 0x53))
    person, other = case.enrol("one", ed25519.KeyPair(b"\x51" * 32)), case.enrol("other")
    case.write(case.participant("bank"))
    case.write(case.key("bank", bank))

    def state(tag: bytes, kind: EntryKind, message: Any) -> None:
        case.write(Raw(kind=kind, tag=tag, payload=message.SerializeToString(), message=message))

    def in_force() -> set[bytes]:
        assert case.table is not None
        with case.table.read() as snapshot:
            return {key for key in (own, bank, late, DAEMON.public_key) if snapshot.key_owner(key) is not None}

    whole = {own, bank, DAEMON.public_key}
    assert in_force() == whole
    for key in (own, bank, DAEMON.public_key):
        state(other.tag, EntryKind.KEY, st.KeyStatement(key=key, retired=True))
    state(codec.LEDGER_TAG, EntryKind.KEY, st.KeyStatement(key=late))
    assert in_force() == whole
    state(codec.LEDGER_TAG, EntryKind.LEDGER, st.LedgerStatement(statement_key=late))
    assert in_force() == {*whole, late}
    state(codec.LEDGER_TAG, EntryKind.KEY, st.KeyStatement(key=late, retired=True))
    state(codec.public_tag("participant/bank"), EntryKind.KEY, st.KeyStatement(key=bank, retired=True))
    state(person.tag, EntryKind.KEY, st.KeyStatement(key=own, retired=True))
    assert in_force() == {DAEMON.public_key}
    case.seal()
    case.close()
    check_ledger(case)
