"""Scrubbing beside a writer: a ledger in use, in any half-done state, is never reported as damaged."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.fakes import HANG_S
from cases.ledgers import LedgerCase, Person
from cases.pruned_ledgers import PruningCase, use
from cases.scrubs import SCRATCH, make_scrub, scrub, write
from cases.writes import Raw
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.errors import StorageError
from consentd.ledger import layout, pruning
from consentd.ledger.retention import read_pruned
from consentd.store import Batch
from consentd.store.memory import MemoryStore
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.table.view import Snapshot
from consentd.verify.findings import Fault


class Beside:
    """Scrubs that look at records only in the middle of append batches, a few in each."""

    def __init__(self, case: LedgerCase, *, passes: int = 1, piece: int = 16) -> None:
        self._case, self._passes, self._piece = case, passes, piece
        self._running, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._calls = False  # it waits for the batch to end, and must not be waited for
        self.is_done = False
        self.windows = self.suspicions = 0
        self.faults: list[Fault] = []
        self.thread = threading.Thread(target=self._run)

    def window(self) -> None:
        """Let it look. Called by the sequencer's thread, wherever a batch is half done."""
        if self.thread.ident is not None and not self.is_done and not self._calls:
            self.windows += 1
            self._running.release()
            self._back.acquire()

    def _run(self) -> None:
        self._running.acquire()
        try:
            for _ in range(self._passes):
                self.faults += scrub(
                    self._case, pause=self._pause, run_on_writer=self._call, piece=self._piece
                )
        finally:
            self.is_done = True
            self._back.release()

    def _pause(self, records: int) -> None:
        self._back.release()
        self._running.acquire()

    def _call(self, run: Callable[[], Any]) -> Any:
        self.suspicions += 1
        self._calls = True
        self._back.release()
        value = self._case.sequencer.call(run)
        self._calls = False
        self._running.acquire()
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
        batch = super().begin()
        commit = batch.commit

        def hooked(size: int, root: bytes, *, time_ms: int, wall_ms: int) -> None:
            if self.before_commit is not None:
                self.before_commit()
            commit(size, root, time_ms=time_ms, wall_ms=wall_ms)

        batch.commit = hooked  # type: ignore[method-assign]
        return batch

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
def test_what_is_half_done_is_no_damage(tmp_path: Path, piece: int, passes: int) -> None:
    """Between its batch, the map in memory, the state and the table a batch has steps; a scrub sees all of them."""
    store = HookedStore()
    case = LedgerCase(tmp_path, store=store, table_type=HookedTable)
    case.fill(3)
    beside = Beside(case, passes=passes, piece=piece)
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


def test_an_erasure_at_any_time_is_no_damage(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    for number in range(24):
        key = KeyPair(bytes([100 + number]) * 32) if number % 2 else None
        case.write(case.grant(case.enrol(f"person {number}", key), signed=key is not None))
    case.seal()
    random.Random(7).shuffle(case.people)
    for number, person in enumerate(case.people):
        waits: list[int] = []
        assert scrub(case, pause=waits.append, piece=3) == []
        moment = iter(range(len(waits) * number // len(case.people), -1, -1))

        def pause(records: int, person: Person = person, moment: Iterator[int] = moment) -> None:
            if next(moment, -1) == 0:
                forget(case, person)

        assert scrub(case, pause=pause, piece=3) == [], number
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
    monkeypatch.setattr(pruning, "BATCH_ROWS", 20)
    case = PruningCase(tmp_path)
    use(case, random.Random(4), 60, keys=False)
    for skipped in (0, 40, 110):
        case.clock.advance(300 * 86_400_000)
        use(case, random.Random(skipped), 10, keys=False)
        case.seal()
        pruned, _ = case.plan()
        case.state(pruned)
        batches = pruning.delete_in_batches(case.store, case.vault, pruned)
        waits = iter(range(skipped))

        def pause(records: int, waits: Iterator[int] = waits, batches: Any = batches) -> None:
            step = next(batches, None) if next(waits, None) is None else None
            if step is not None:
                case.sequencer.call(lambda: case.store.write(step[0]))

        assert scrub(case, pause=pause, piece=5) == []
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
                future.result(HANG_S)

    assert scrub(case, pause=pause) == []
    case.close()


def test_a_table_that_runs_away_ends_the_pass_as_a_failure(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(2)

    def pause(records: int) -> None:
        if (tmp_path / SCRATCH).exists():
            for _ in range(2 * records):
                case.write(case.participant("hospital"))

    one = make_scrub(case, pause=pause, batch=1, rounds=3, piece=1)
    with pytest.raises(StorageError, match="table moves on faster"):
        one.run()
    assert one.progress.faults == []
    case.close()
