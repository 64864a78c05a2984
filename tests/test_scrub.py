"""Scrubbing: damage to any kind of stored record is found beside the writer, and a ledger in use is never suspected."""

import logging
import random
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, make_running, question
from cases.ledgers import LOG, ORIGIN, LedgerCase, Person, Raw, flip
from consentd.core import codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.ledger import layout, pruning
from consentd.ledger.retention import encode_pruned, read_pruned
from consentd.store import Batch, Store, prefix_end
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.table.view import Snapshot
from consentd.v1 import statement_pb2 as st
from consentd.verify import scrub as scrubbing
from consentd.verify.findings import MAX_FAULTS, Fault
from consentd.verify.scrub import Scrub
from test_fsck import fill
from test_pruning import PruningCase, live

TRIES = 5
SCRATCH = "table.scrub"


def make(
    case: LedgerCase,
    *,
    pause: Callable[[int], None] = lambda records: None,
    call: Callable[[Callable[[], Any]], Any] | None = None,
) -> Scrub:
    assert case.table is not None
    return Scrub(
        case.ledger, case.vault, case.table, last_signed_path=case.last_signed_path, origin=ORIGIN,
        log_verifier=LOG.verifier, call=call or case.sequencer.call, pause=pause,
        scratch_dir=case.directory / SCRATCH, map_size_mb=16,
    )  # fmt: skip


def scrub(case: LedgerCase, **options: Any) -> list[Fault]:
    """Return what a scrub finds; it names nobody, and leaves nothing behind."""
    one = make(case, **options)
    one.run()
    assert not (case.directory / SCRATCH).exists()
    for person in case.people:
        for secret in (person.tag, person.identifier_hash):
            assert not any(secret.hex() in fault.what or str(secret) in fault.what for fault in one.faults)
    assert len(one.faults) == min(one.damaged, MAX_FAULTS)
    return one.faults


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    """A ledger with more than a tile of entries and all kinds of rows; each test puts back what it damages."""
    made = fill(LedgerCase(tmp_path_factory.mktemp("scrub")))
    notice = st.NoticeStatement(notice_id="notice", version=1)
    made.write(made.public("notice/notice", EntryKind.NOTICE, notice))
    grouped = st.ParticipantStatement(participant_id="clinic", groups=["clinics"], active=True)
    made.write(made.public("participant/clinic", EntryKind.PARTICIPANT, grouped))
    yield made
    assert scrub(made) == []
    made.close()


def write(store: Store, key: bytes, row: bytes | None) -> None:
    batch = Batch()
    if row is None:
        batch.delete(key)
    else:
        batch.put(key, row)
    store.write(batch)


def damaged(case: LedgerCase, store: Store, key: bytes, changed: bytes | None) -> list[Fault]:
    """Return what a scrub finds while a row is changed; None: while it is gone."""
    row = store.get(key)
    assert row is not None
    write(store, key, changed)
    try:
        return scrub(case)
    finally:
        write(store, key, row)


def some(store: Store, kind: str, *, seed: int = 1) -> list[tuple[bytes, bytes]]:
    rows = list(store.scan(kind.encode(), prefix_end(kind.encode())))
    assert rows
    return random.Random(seed).sample(rows, min(TRIES, len(rows)))


def first_of(case: LedgerCase, tag: bytes) -> int:
    return layout.decode_u64(case.store.get(layout.index_key(tag, 1)) or b"")


def last_of(case: LedgerCase, tag: bytes) -> int:
    count, _ = case.ledger.head(tag)
    return layout.decode_u64(case.store.get(layout.index_key(tag, count)) or b"")


def place_of(case: LedgerCase, key: bytes, row: bytes) -> int | None:
    """Return the entry that must be named for a row; None: there is no single one."""
    kind = key[:1]
    if kind == b"l":
        return layout.decode_u64(key)
    if kind == b"i":
        return layout.decode_u64(row)
    if kind == b"c":
        return layout.decode_u64(case.store.get(b"i" + key[1:]) or b"")
    if kind == b"h":
        return last_of(case, key[1:])
    return None


def names(case: LedgerCase, key: bytes, row: bytes, found: Sequence[Fault]) -> bool:
    """Tell whether what was found leads to the row that was changed."""
    place, number = place_of(case, key, row), int.from_bytes(key[1:])
    if key[:1] in (b"m", b"r"):
        what = "map bucket" if key[:1] == b"m" else "row"
        return any(fault.what.startswith(f"{what} `{number}`") for fault in found)
    return bool(found) if place is None else place in [fault.index for fault in found]


# -- what is damaged ----------------------------------------------------------------------------------------------


def test_rows_of_all_kinds_are_tried(case: LedgerCase) -> None:
    kinds = {key[:1] for key, _ in case.store.scan(b"", None)}
    assert kinds == set(layout.KINDS) - {layout.PRUNED}  # which has a test of its own
    assert {key[:1] for key, _ in case.vault_store.scan(b"", None)} == {b"K", b"k", b"i"}


@pytest.mark.parametrize("kind", list("Slthicmrq"))
def test_a_flipped_bit_in_any_kind_of_row_is_found_and_named(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.store, kind)):
        at = random.Random(number).randrange(len(row))
        if kind == "q":
            # Another entry of the same millisecond, or other content, can be held against nothing: RocksDB's own
            # checksums cover the bytes.
            at = (0, 3, 5, 9, 15)[number]
        found = damaged(case, case.store, key, flip(at, 1 << number % 8)(row))
        assert names(case, key, row, found), (key, at, found)


@pytest.mark.parametrize("kind", list("lthicmrqx"))
def test_a_flipped_bit_in_a_key_is_found(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.store, kind, seed=2)):
        places = random.Random(number).sample(range(1, len(key)), len(key) - 1)
        flipped = (flip(at, 1 << number)(key) for at in places)
        other = next(one for one in flipped if case.store.get(one) is None)
        write(case.store, other, row)
        try:
            assert damaged(case, case.store, key, None), (key, other)
        finally:
            write(case.store, other, None)


@pytest.mark.parametrize("kind", list("licthmrqx"))
def test_a_row_that_is_gone_is_found(case: LedgerCase, kind: str) -> None:
    for key, row in some(case.store, kind, seed=3):
        found = damaged(case, case.store, key, None)
        # Without its head row a chain may have any end; each entry says so.
        assert found if kind in "hqx" else names(case, key, row, found), (key, found)


@pytest.mark.parametrize("kind", list("Slthicmrq"))
def test_a_row_of_a_wrong_length_is_found_and_the_pass_goes_on(case: LedgerCase, kind: str) -> None:
    elsewhere = layout.roots_key(0)
    roots = case.store.get(elsewhere)
    assert roots is not None
    for (key, row), change in zip(some(case.store, kind, seed=4), (0, -1, 1, -20, 33), strict=False):
        changed = row + bytes(change) if change > 0 else row[: len(row) + change if change else 0]
        write(case.store, elsewhere, flip(3)(roots))
        try:
            found = damaged(case, case.store, key, changed)
        finally:
            write(case.store, elsewhere, roots)
        assert any(fault.what.startswith("row `0` of bucket roots") for fault in found)
        assert len(found) > 1 or key == elsewhere, (key, change)


def test_damage_in_a_tile_names_its_entries(case: LedgerCase) -> None:
    tile = layout.tile_key(0, 0)
    assert damaged(case, case.store, tile, flip(5 * 32)(case.store.get(tile) or b""))[0].index == 5
    above = layout.tile_key(1, 0)
    assert damaged(case, case.store, above, flip(3)(case.store.get(above) or b""))[0].index == 0


@pytest.mark.parametrize("kind", ["K", "k", "i"])
def test_damage_in_the_vault_is_found_and_names_the_enrolment(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.vault_store, kind)):
        changes = [flip(number * 7 % len(row))(row), row[:-1], None]
        for changed in changes if kind != "K" else changes[:2]:
            found = damaged(case, case.vault_store, key, changed)
            tag = row if kind == "i" else key[1:]
            assert found if kind == "K" else first_of(case, tag) in [fault.index for fault in found]


@pytest.mark.parametrize("kind", list("Risrpgknvc#"))
def test_damage_in_the_table_is_found(case: LedgerCase, kind: str) -> None:
    """LMDB has no checksums: a flipped bit of a consent's mask would be a wrong answer, and nothing else would tell."""
    table = case.table
    assert table is not None

    def put(key: bytes, value: bytes | None) -> None:
        with table.begin() as turn:
            if value is None:
                turn._txn.delete(key)
            else:
                turn._txn.put(key, value)
            turn._txn.commit()

    with table.read() as snapshot:
        rows = [(key, value) for key, value in snapshot.rows() if key[:1] == kind.encode() and value]
    assert rows
    for number, (key, value) in enumerate(random.Random(3).sample(rows, min(3, len(rows)))):
        changes = [flip(at, 1 << number)(value) for at in range(number, len(value), max(1, len(value) // 4))]
        for changed in [*changes, *([] if kind == "R" else [None])]:
            put(key, changed)
            try:
                found = scrub(case)
            finally:
                put(key, value)
            assert any("table" in fault.what for fault in found), changed
            if kind == "s":
                assert found[0].index == last_of(case, key[1:])


def test_a_damaged_lock_is_found(case: LedgerCase) -> None:
    lock = case.last_signed_path.read_bytes()
    older = case.notes[0]
    for changed in (flip(len(ORIGIN) + 1)(lock), lock[:-10], b"", None):
        if changed is None:
            case.last_signed_path.unlink()
        else:
            case.last_signed_path.write_bytes(changed)
        assert [fault.what[:22] for fault in scrub(case)] == ["last signed checkpoint"]
    case.last_signed_path.write_bytes(older)
    assert scrub(case) == []  # of this very tree, and opening says so too
    case.last_signed_path.write_bytes(lock)


def test_a_changed_word_on_what_is_pruned_is_found(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    live(case, random.Random(4), 40, keys=False)
    case.clock.advance(500 * 86_400_000)
    case.prune()
    assert scrub(case) == []
    pruned = read_pruned(case.store)
    assert pruned.kept_from_ms
    row = encode_pruned(pruned, finished=True)
    for at in (0, 3, 8, 12, 16):
        assert any("pruned" in fault.what for fault in damaged(case, case.store, layout.PRUNED, flip(at)(row)))
    case.close()


def test_a_leaf_that_pruning_kept_and_the_disk_lost_is_found(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    live(case, random.Random(5), 120, keys=False)
    case.clock.advance(900 * 86_400_000)
    for person in case.people:
        case.write(case.access(person))
    case.seal()
    case.prune()  # what ended leaves the table now, and the ledger with the next pruning
    case.clock.advance(100 * 86_400_000)
    case.write(case.access(case.people[0]))
    case.seal()
    minimum = case.prune().minimum
    assert minimum
    kept = [
        layout.decode_u64(row) for _, row in case.store.scan(b"i", prefix_end(b"i")) if layout.decode_u64(row) < minimum
    ]
    for index in random.Random(6).sample(kept, 4):
        assert index in [fault.index for fault in damaged(case, case.store, layout.leaf_key(index), None)]
    person = case.people[0]
    key = layout.statement_key(person.tag, case.ledger.head(person.tag)[0])
    assert any("statement or its key is missing" in fault.what for fault in damaged(case, case.store, key, None))
    case.close()


class BadBlock:
    """A store whose keys in [*start*, *end*) cannot be read."""

    def __init__(self, inner: Store, start: bytes, end: bytes, error: ConsentdError) -> None:
        self._inner, self._start, self._end, self._error = inner, start, end, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _read(self, key: bytes) -> None:
        if self._start <= key < self._end:
            raise self._error

    def get(self, key: bytes) -> bytes | None:
        self._read(key)
        return self._inner.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        for key in keys:
            self._read(key)
        return self._inner.multi_get(keys)

    def scan(self, start: bytes, end: bytes | None, **options: Any) -> Iterator[tuple[bytes, bytes]]:
        for key, row in self._inner.scan(start, end, **options):
            self._read(key)
            yield key, row


@pytest.mark.parametrize("error", [CorruptionError("block is damaged"), StorageError("input/output error")])
def test_records_that_cannot_be_read_are_named_and_the_pass_goes_on(case: LedgerCase, error: ConsentdError) -> None:
    store = case.ledger.store
    wanted = {10, 11, 12}
    try:
        case.ledger.store = BadBlock(store, layout.leaf_key(10), layout.leaf_key(13), error)  # type: ignore[assignment]
        one = make(case)
        try:
            one.run()
        except StorageError:
            assert isinstance(error, StorageError)  # of the table no copy can be made; the rest was looked at
        assert wanted <= {fault.index for fault in one.faults}
        assert {fault.index for fault in one.faults if fault.index is not None} == wanted
        case.ledger.store = BadBlock(store, b"q", b"r", error)  # type: ignore[assignment]
        one = make(case)
        one.run()
        assert any("request row: further rows cannot be listed" in fault.what for fault in one.faults)
    finally:
        case.ledger.store = store


def test_much_damage_is_counted_and_not_kept(case: LedgerCase) -> None:
    rows = list(case.store.scan(b"c", prefix_end(b"c")))
    for key, row in rows:
        write(case.store, key, flip(40)(row))
    one = make(case)
    one.run()
    for key, row in rows:
        write(case.store, key, row)
    assert len(one.faults) == MAX_FAULTS
    assert one.damaged >= len(rows) > MAX_FAULTS


def test_a_file_of_rocksdb_that_is_damaged_is_found(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "store")
    case = LedgerCase(tmp_path, store=store)
    case.fill(12)
    store.compact_range(b"", None)
    case.close()
    store.close()
    largest = max((tmp_path / "store").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    served = 0
    for part in range(1, 10):
        at = len(content) * part // 20  # rows lie in the front, what describes them behind
        largest.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        case.store = RocksStore.open(tmp_path / "store")
        try:
            case.open()
        except CorruptionError:
            pass  # opening looks there: it is found even earlier
        else:
            assert scrub(case), part
            served += 1
            case.sequencer._pool.stop()
            case.close()
        case.store.close()
        largest.write_bytes(content)
    assert served


# -- what is not ----------------------------------------------------------------------------------------------------


class Beside:
    """Scrubs that look at records only in the middle of turns, a few in each."""

    def __init__(self, case: LedgerCase, *, passes: int = 1) -> None:
        self._case, self._passes = case, passes
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._calls = False  # it waits for the turn to end, and must not be waited for
        self.is_done = False
        self.windows = self.suspicions = 0
        self.faults: list[Fault] = []
        self.thread = threading.Thread(target=self._run)

    def window(self) -> None:
        """Let it look. Called by the sequencer's thread, wherever a turn is half done."""
        if self.thread.ident is not None and not self.is_done and not self._calls:
            self.windows += 1
            self._turn.release()
            self._back.acquire()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            for _ in range(self._passes):
                self.faults += scrub(self._case, pause=self._pause, call=self._call)
        finally:
            self.is_done = True
            self._back.release()

    def _pause(self, records: int) -> None:
        self._back.release()
        self._turn.acquire()

    def _call(self, run: Callable[[], Any]) -> Any:
        self.suspicions += 1
        self._calls = True
        self._back.release()
        value = self._case.sequencer.call(run)
        self._calls = False
        self._turn.acquire()
        return value


class HookedStore(MemoryStore):
    """A store that tells before and after each write."""

    hook: Callable[[], None] | None = None

    def write(self, batch: Batch) -> None:
        for step in (lambda: None, lambda: super(HookedStore, self).write(batch)):
            step()
            if self.hook is not None:
                self.hook()


class HookedTable(Table):
    """A table that tells before each commit, and after each read began."""

    before_commit: Callable[[], None] | None = None
    after_read: Callable[[], None] | None = None

    def begin(self) -> TableTransaction:
        turn = super().begin()
        commit = turn.commit

        def hooked(size: int, root: bytes, wall_ms: int) -> None:
            if self.before_commit is not None:
                self.before_commit()
            commit(size, root, wall_ms)

        turn.commit = hooked  # type: ignore[method-assign]
        return turn

    def read(self) -> Snapshot:
        snapshot = super().read()
        if self.after_read is not None:
            self.after_read()
        return snapshot


def carry_on(case: LedgerCase, number: int) -> None:
    """Do what goes on in a ledger: enrolments, consents, accesses, withdrawals, seals."""
    if number % 4 == 0:
        case.write(case.grant(case.enrol(f"person {len(case.people)}")))
    person = case.people[-1]
    case.write(case.access(person))
    if number % 3 == 0:
        case.write(case.access(person, purpose="HRESCH"))
    if number % 4 == 3:
        case.write(case.change(person, 2, EntryKind.REVOKE if number % 8 == 3 else EntryKind.PAUSE))
    if number % 2:
        case.seal()


@pytest.mark.parametrize(("piece", "passes"), [(1, 1), (7, 6), (10**6, 30)])
def test_what_is_half_done_is_no_damage(
    tmp_path: Path, piece: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its batch, the map in memory, the state and the table a turn has steps; a scrub sees all of them."""
    monkeypatch.setattr(scrubbing, "PIECE", piece)
    store = HookedStore()
    case = LedgerCase(tmp_path, store=store, table_type=HookedTable)
    case.fill(3)
    beside = Beside(case, passes=passes)
    beside.thread.start()
    store.hook = beside.window
    assert isinstance(case.table, HookedTable)
    case.table.before_commit = beside.window
    number = 0
    while not beside.is_done:
        carry_on(case, number)
        number += 1
    beside.thread.join()
    assert beside.faults == []
    assert beside.windows > 3
    assert beside.suspicions or piece < 10**6, "the test would show nothing"
    store.hook = None
    case.close()


def test_a_table_behind_its_ledger_for_a_moment_is_no_damage(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path, table_type=HookedTable)
    case.fill(2)
    beside = Beside(case)
    beside.thread.start()
    assert isinstance(case.table, HookedTable)
    case.table.before_commit = beside.window
    while not beside.is_done:
        case.write(case.access(case.people[0]))
    beside.thread.join()
    assert beside.faults == []
    case.close()


def test_a_writer_beside_it_is_never_suspected(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(4)
    stop, written = threading.Event(), 0

    def write_on() -> None:
        nonlocal written
        while not stop.is_set():
            carry_on(case, written)
            written += 1

    thread = threading.Thread(target=write_on)
    thread.start()
    passes = 0
    try:
        while passes < 5 or (written < 20 and thread.is_alive()):
            assert scrub(case) == []
            passes += 1
    finally:
        stop.set()
        thread.join()
    assert written >= 20
    case.close()


def forget(case: LedgerCase, person: Person) -> None:
    """Erase a person as a daemon that goes on: the ERASURE first, in ledger and table, then what it asks for."""
    case.write(Raw(kind=EntryKind.ERASURE, tag=person.tag))
    count, _ = case.ledger.head(person.tag)
    batch = Batch()
    batch.delete_range(layout.statement_key(person.tag, 1), layout.statement_key(person.tag, count))
    case.sequencer.call(lambda: case.store.write(batch))
    for key in (b"k" + person.tag, b"i" + person.identifier_hash):
        write(case.vault_store, key, None)
        case.vault._keys.clear()


def test_an_erasure_at_any_time_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "PIECE", 3)
    case = LedgerCase(tmp_path)
    for number in range(24):
        key = KeyPair(bytes([100 + number]) * 32) if number % 2 else None
        case.write(case.grant(case.enrol(f"person {number}", key), signed=key is not None))
    case.seal()
    random.Random(7).shuffle(case.people)
    for number, person in enumerate(case.people):
        waits: list[int] = []
        assert scrub(case, pause=waits.append) == []
        moment = iter(range(len(waits) * number // len(case.people), -1, -1))

        def pause(records: int, person: Person = person, moment: Iterator[int] = moment) -> None:
            if next(moment, -1) == 0:
                forget(case, person)

        assert scrub(case, pause=pause) == [], number
        assert case.vault.find(person.identifier_hash) is None
    case.close()


def test_an_erasure_half_done_is_no_damage(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    person = case.enrol("who leaves")
    case.write(case.grant(person))
    case.write(Raw(kind=EntryKind.ERASURE, tag=person.tag))
    assert scrub(case) == []
    write(case.vault_store, b"k" + person.tag, None)
    case.vault._keys.clear()
    assert scrub(case) == []
    case.close()


def test_an_erasure_in_the_middle_of_a_comparison_is_no_damage(tmp_path: Path) -> None:
    """The snapshot shows a person whose entries, when the copy comes to them, cannot be read any more."""
    case = LedgerCase(tmp_path, table_type=HookedTable)
    table = case.table
    assert isinstance(table, HookedTable)
    case.fill(3)
    for nth in range(8):
        person = case.enrol(f"erased {nth}")
        case.write(case.grant(person))
        reads = iter(range(nth, -1, -1))

        def after_read(person: Person = person, reads: Iterator[int] = reads) -> None:
            if threading.current_thread() is threading.main_thread() and next(reads, -1) == 0:
                table.after_read = None
                forget(case, person)

        table.after_read = after_read
        assert scrub(case) == [], nth
    case.close()


def test_a_pruning_beside_it_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "PIECE", 5)
    monkeypatch.setattr(pruning, "BATCH_ROWS", 20)
    case = PruningCase(tmp_path)
    live(case, random.Random(4), 60, keys=False)
    for skipped in (0, 40, 110):
        case.clock.advance(300 * 86_400_000)
        live(case, random.Random(skipped), 10, keys=False)
        case.seal()
        pruned, _ = case.plan()
        case.state(pruned)
        batches = pruning.delete_in_batches(case.store, case.vault, pruned)
        waits = iter(range(skipped))

        def pause(records: int, waits: Iterator[int] = waits, batches: Any = batches) -> None:
            step = next(batches, None) if next(waits, None) is None else None
            if step is not None:
                case.sequencer.call(lambda: case.store.write(step[0]))

        assert scrub(case, pause=pause) == []
        for batch, _ in batches:
            case.sequencer.call(lambda batch=batch: case.store.write(batch))
        assert scrub(case) == []
    assert read_pruned(case.store).minimum
    case.close()


def test_a_person_who_was_enrolled_half_is_no_damage(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.vault.create(case.vault.identifier_hash("test", "crashed before the entry was written"))
    assert scrub(case) == []
    case.close()


def test_writes_faster_than_a_scrub_do_not_keep_it_from_its_end(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    people = case.fill(3, accesses=10)

    def pause(records: int) -> None:
        case.clock.advance(1)
        if not (tmp_path / SCRATCH).exists():
            case.write(case.access(people[records % 3]))
            for future in case.write_together([case.access(people[records % 3]) for _ in range(records)]):
                future.result(10)

    assert scrub(case, pause=pause) == []
    case.close()


def test_a_table_that_runs_away_ends_the_pass_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consentd.verify.scrub_table.CATCH_UP_BATCH", 1)
    monkeypatch.setattr("consentd.verify.scrub_table._ROUNDS", 3)
    case = LedgerCase(tmp_path)
    case.fill(2)

    def pause(records: int) -> None:
        if (tmp_path / SCRATCH).exists():
            for _ in range(2 * records):
                case.write(case.participant("hospital"))

    one = make(case, pause=pause)
    with pytest.raises(StorageError, match="table moves on faster"):
        one.run()
    assert one.faults == []
    case.close()


# -- in the daemon --------------------------------------------------------------------------------------------------

FAST = "[scrub]\nrecords_per_s = 1000000\ninterval_s = 1"


def test_the_daemon_scrubs_and_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = make_running(tmp_path, FAST)
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    index = running.authorize(question(subject)).receipt.index
    running.authorize(question(subject))
    until(running, "consentd_scrub_pass_time_seconds", lambda value: value > 0)
    assert figure(running, "consentd_scrub_damaged_records") == 0
    assert figure(running, "consentd_scrub_failures_total") == 0
    running.stop()

    store = RocksStore.open(running.config.ledger.store_dir)
    key = layout.leaf_key(index)
    leaf = store.get(key)
    assert leaf is not None
    event = codec.decode_leaf(leaf)
    assert isinstance(event, codec.Event)
    write(store, key, flip(100)(leaf))
    store.close()

    with caplog.at_level(logging.ERROR, logger="consentd.server.scrubber"):
        again = Running(running.config, running.tokens)
        until(again, "consentd_scrub_damaged_records", lambda value: value >= 1)
        until(again, "consentd_scrub_share", lambda value: value == 1)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"scrub found damage: entry {index}: ") for line in lines)
    assert not any(event.tag.hex() in line or "SYN-000001" in line for line in lines)
    assert figure(again, "consentd_ready") == 1
    assert again.check(question(subject)).permitted
    services = again.daemon.service_state.services
    assert services is not None
    services.sequencer.call(lambda: write(services.ledger.store, key, leaf))
    until(again, "consentd_scrub_damaged_records", lambda value: value == 0)
    again.stop()


def test_a_pass_that_cannot_go_on_is_counted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.scrub").write_text("no directory")
    running = make_running(tmp_path, FAST)
    until(running, "consentd_scrub_failures_total", lambda value: value > 0)
    assert figure(running, "consentd_scrub_pass_time_seconds") == 0
    assert figure(running, "consentd_ready") == 1
    running.stop()


def test_a_stop_ends_a_pass_in_its_middle(tmp_path: Path) -> None:
    left = tmp_path / "data" / SCRATCH
    left.mkdir(parents=True)
    (left / "data.mdb").write_bytes(b"of a scrub that was killed")
    running = make_running(tmp_path, "[scrub]\nrecords_per_s = 1\ninterval_s = 1")
    assert not left.exists()
    until(running, "consentd_scrub_records_total", lambda value: value > 0)
    running.stop()
    assert 0 < running.daemon.metrics.value("consentd_scrub_share") < 1
    assert running.daemon.metrics.value("consentd_scrub_failures_total") == 0


def figure(running: Running, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.daemon.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


def until(running: Running, name: str, reached: Callable[[float], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached(figure(running, name)):
        assert time.monotonic() < deadline, name


def test_no_copy_of_the_table_takes_the_room_of_entries(case: LedgerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(1 << 40, (1 << 40) - free, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert case.table is not None
    free = 2 * case.table.used_bytes() + (256 << 20)
    assert scrub(case) == []
    free -= 1
    with pytest.raises(StorageError, match="no room for a copy of the table"):
        make(case).run()
    assert asked == [case.directory] * 2
    assert not (case.directory / SCRATCH).exists()
