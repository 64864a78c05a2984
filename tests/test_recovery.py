"""Recovery: what a failed write or a crash leaves, what the next opening accepts of it, and what it refuses."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cases.fakes import HANG_S, FaultyStore, FaultyTable
from cases.ledgers import INTERVAL_MS, LOG, MAP_BITS, ORIGIN, LedgerCase, check_files, check_ledger, flip
from consentd.core import checkpoint, ed25519, note
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError, StorageError
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import read_last_signed, write_last_signed
from consentd.ledger.ledger import AppendBatch, Draft, decode_state
from consentd.ledger.recovery import open_ledger
from consentd.store import Store
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore
from consentd.table.table import Table


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


@pytest.mark.parametrize("persisted", [False, True])
def test_a_failed_commit_of_the_table_is_made_up_for(tmp_path: Path, persisted: bool) -> None:
    case = LedgerCase(tmp_path, table_type=FaultyTable)
    (person,) = case.fill(1)
    assert isinstance(case.table, FaultyTable)
    case.table.persisted = persisted
    lineage = case.write_together([case.grant(person)])[0]
    with pytest.raises(StorageError):
        lineage.result(HANG_S)
    assert isinstance(case.store, MemoryStore)
    reopened(case, case.store.reopen())
    # It is on disk, so it is in force.
    assert case.table is not None
    with case.table.read() as snapshot:
        assert len(snapshot.lineages(person.tag)) == 2
    check_files(case)
    case.close()
    check_ledger(case)


def test_a_signed_checkpoint_that_cannot_be_stored_is_not_public_and_the_next_start_stores_it(case: LedgerCase) -> None:
    case.fill(1)
    size = case.ledger.state.size
    published = len(case.notes)
    case.last_signed_path.with_name("last-signed.new").mkdir()  # in the way of the temporary file
    case.write(case.participant("clinic"))
    case.clock.advance(INTERVAL_MS)
    case.sequencer.call(lambda: None)
    case.sequencer.stop()
    assert case.sequencer.fault is None
    assert case.metrics.value("consentd_shortages_total", step="sign") > 0
    assert case.sequencer.checkpoints.published is not None
    assert case.sequencer.checkpoints.published.checkpoint.size == size
    case.last_signed_path.with_name("last-signed.new").rmdir()
    assert isinstance(case.store, MemoryStore)
    reopened(case, case.store.reopen())
    assert len(case.notes) == published + 1
    check_ledger(case, size + 2)


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
    assert case.sequencer.checkpoints.published is not None
    assert case.sequencer.checkpoints.published.note == text
    check_ledger(case, size)


def test_a_store_larger_than_its_last_signed_checkpoint_is_published(case: LedgerCase) -> None:
    case.fill(1)
    last_signed = case.last_signed_path.read_bytes()
    case.write(case.participant("clinic"))
    point = case.seal()
    case.crash()
    case.last_signed_path.write_bytes(last_signed)
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
    """Nothing was sealed, so nothing was signed, so no last signed checkpoint is missing."""
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


def refuses_edit(case: LedgerCase, key: bytes, change: Callable[[bytes], bytes] | None, match: str) -> None:
    """Assert that a changed row, None: a missing one, is refused; then put the row back."""
    row = case.store.get(key)
    case.edit(key, change)
    refuses(case, match)
    case.restore(key, row)


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
    for key, locations in rows.items():
        row = case.store.get(key)
        assert row is not None
        for at in locations:
            location = at if key != layout.roots_key(0) else next(i for i, byte in enumerate(row) if byte)
            refuses_edit(case, key, flip(location), "RUNBOOK|form")
        refuses_edit(case, key, None, "RUNBOOK")
    case.open()


def test_opening_refuses_a_last_seal_that_is_no_leaf(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    key = layout.leaf_key(case.ledger.state.size - 1)
    refuses_edit(case, key, flip(0), "seal|leaf")
    case.open()


def test_opening_refuses_a_missing_last_signed_checkpoint(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    last_signed = case.last_signed_path.read_bytes()
    case.last_signed_path.unlink()
    refuses(case, "missing")
    case.last_signed_path.write_bytes(last_signed)
    case.open()


def test_opening_refuses_an_older_copy(tmp_path: Path) -> None:
    """A rollback: the store as it was, the last signed checkpoint as it is."""
    store = RocksStore.open(tmp_path / "db")
    case = LedgerCase(tmp_path / "case", store=store)
    case.fill(1)
    case.close()
    store.close()
    shutil.copytree(tmp_path / "db", tmp_path / "backup")
    case.store = store = RocksStore.open(tmp_path / "db")
    case.open()
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


def test_opening_refuses_a_last_signed_checkpoint_of_another_tree(case: LedgerCase) -> None:
    case.fill(1)
    case.crash()
    last_signed = case.last_signed_path.read_bytes()
    point, _ = checkpoint.open_checkpoint(last_signed, ORIGIN, LOG.verifier)
    for wrong, match in (
        (b"", "does not verify"),
        (flip(40)(last_signed), "does not verify"),
        (checkpoint.sign_checkpoint(replace(point, origin="other"), [LOG]), "does not verify"),
        (checkpoint.sign_checkpoint(point, [note.Signer(ORIGIN, ed25519.KeyPair(b"x" * 32))]), "does not verify"),
        (checkpoint.sign_checkpoint(replace(point, root=bytes(32)), [LOG]), "contradicts"),
        (checkpoint.sign_checkpoint(replace(point, size=point.size - 1), [LOG]), "contradicts"),
        (checkpoint.sign_checkpoint(replace(point, size=point.size + 1), [LOG]), "smaller"),
    ):
        case.last_signed_path.write_bytes(wrong)
        refuses(case, match)
    case.last_signed_path.write_bytes(last_signed)
    case.open()


def test_opening_refuses_a_table_ahead(case: LedgerCase) -> None:
    case.fill(1)
    assert isinstance(case.store, MemoryStore)
    older, older_signed = case.store.reopen(), case.last_signed_path.read_bytes()
    case.fill(1)
    case.crash()
    newer, newer_signed = case.store, case.last_signed_path.read_bytes()
    case.store = older
    case.last_signed_path.write_bytes(older_signed)
    refuses(case, "table is ahead")
    case.store = newer
    case.last_signed_path.write_bytes(newer_signed)
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
    refuses_edit(case, key, None, f"missing at index {index - 1}")
    refuses_edit(case, key, flip(0), "damaged")
    case.open()


# -- two writers ----------------------------------------------------------------------------------------------------


def test_one_directory_has_one_writer(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path / "case", store=RocksStore.open(tmp_path / "db"))
    with pytest.raises(StorageError):
        RocksStore.open(tmp_path / "db")
    with pytest.raises(StorageError, match="directory is in use"):
        RocksStore.open_read_only(tmp_path / "db")
    with pytest.raises(StorageError, match="directory is in use"):
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


# -- how much of a ledger an opening reads ------------------------------------------------------------------------


class CountingStore(MemoryStore):
    """Counts the rows that are read."""

    read = 0

    def get(self, key: bytes) -> bytes | None:
        self.read += 1
        return super().get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.read += len(keys)
        return super().multi_get(keys)

    def scan(
        self, start: bytes, end: bytes | None, *, reverse: bool = False, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        for row in super().scan(start, end, reverse=reverse, limit=limit):
            self.read += 1
            yield row


def rows_read(directory: Path, entries: int) -> int:
    """Build a ledger of one seal and so many entries, each of a tag of its own, and open it; return the rows read."""
    store = CountingStore()
    opening = partial(
        open_ledger, store, last_signed_path=directory / str(entries), origin=ORIGIN, log_verifier=LOG.verifier,
        map_bits=MAP_BITS,
    )  # fmt: skip
    ledger = opening()
    batch = AppendBatch(ledger, 1)
    for number in range(entries):
        stored = number.to_bytes(4)
        drafted = Draft(kind=EntryKind.ENROL, tag=sha256(stored).digest(), ref=0, commit=bytes(32), stored=stored)
        batch.append(drafted)
    batch.seal()
    batch.close()
    ledger.commit(batch)
    point = checkpoint.Checkpoint(ORIGIN, ledger.state.size, ledger.state.root)
    write_last_signed(directory / str(entries), note.sign_note(checkpoint.format_checkpoint(point), [LOG]))
    store.read = 0
    assert opening().state == ledger.state
    return store.read


def test_an_opening_reads_the_right_edge_and_no_more(tmp_path: Path) -> None:
    """A tree of 256 times as many leaves is one level of tiles higher, and each level has one tile at the edge."""
    small, large = (rows_read(tmp_path, entries) for entries in (50, 12_800))
    assert small < 40
    assert large - small <= 2
