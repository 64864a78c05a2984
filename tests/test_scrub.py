"""Scrubbing: damage to any kind of stored record is found beside the writer, and a ledger in use is never suspected."""

import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.ledger import layout, reads
from consentd.ledger.fsck_rows import Fault
from consentd.ledger.scrub import Scrub
from consentd.store import Batch, Store, prefix_end
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore
from ledger_case import LedgerCase, flip
from running import Running, make_running, question
from test_fsck import fill
from test_pruning import PruningCase, live

TRIES = 5


def scrub(case: LedgerCase, pause: Callable[[int], None] = lambda records: None) -> list[Fault]:
    assert case.table is not None
    one = Scrub(
        case.ledger, case.vault, case.table, call=case.sequencer.call, pause=pause, scratch_dir=case.directory,
        map_size_mb=16,
    )  # fmt: skip
    one.run()
    return one.faults


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    """A ledger with more than a tile of entries; each test puts back what it damages."""
    made = fill(LedgerCase(tmp_path_factory.mktemp("scrub")))
    yield made
    assert scrub(made) == []
    made.close()


def write(store: Store, key: bytes, row: bytes) -> None:
    batch = Batch()
    batch.put(key, row)
    store.write(batch)


def damaged(case: LedgerCase, store: Store, key: bytes, change: Callable[[bytes], bytes]) -> list[Fault]:
    """Return what a scrub finds while a row is changed."""
    row = store.get(key)
    assert row is not None
    write(store, key, change(row))
    found = scrub(case)
    write(store, key, row)
    return found


def some(store: Store, kind: bytes, *, seed: int = 1) -> list[tuple[bytes, bytes]]:
    rows = list(store.scan(kind, prefix_end(kind)))
    return random.Random(seed).sample(rows, min(TRIES, len(rows)))


def place_of(case: LedgerCase, key: bytes, row: bytes) -> int | None:
    """Return the entry that must be named for a row; None: any, or none."""
    kind = key[:1]
    if kind == b"l":
        return layout.decode_u64(key)
    if kind == b"i":
        return layout.decode_u64(row)
    if kind == b"c":
        return layout.decode_u64(case.store.get(b"i" + key[1:]) or b"")
    if kind == b"h":
        return layout.decode_u64(case.store.get(layout.index_key(key[1:], layout.HEAD.unpack(row)[0])) or b"")
    return None


@pytest.mark.parametrize("kind", list("Slthicmrq"))
def test_a_flipped_bit_in_any_kind_of_row_is_found_and_named(case: LedgerCase, kind: str) -> None:
    seen = 0
    for number, (key, row) in enumerate(some(case.store, kind.encode())):
        at = random.Random(number).randrange(len(row))
        if kind == "q":
            # Another entry of the same millisecond, or other content, can be held against nothing: RocksDB's own
            # checksums cover the bytes.
            at = (0, 3, 5, 9, 15)[number]
        found = damaged(case, case.store, key, flip(at, 1 << number % 8))
        assert found, (key, at)
        place = place_of(case, key, row)
        assert place is None or place in [fault.index for fault in found]
        tags = [person.tag.hex() for person in case.people]
        assert not any(tag in fault.what for tag in tags for fault in found)
        seen += 1
    assert seen


@pytest.mark.parametrize("kind", ["l", "i", "c", "h", "t", "m", "q", "x"])
def test_a_row_that_is_gone_is_found(case: LedgerCase, kind: str) -> None:
    for key, row in some(case.store, kind.encode(), seed=2):
        batch = Batch()
        batch.delete(key)
        case.store.write(batch)
        try:
            found = scrub(case)
        finally:
            write(case.store, key, row)
        assert found or kind == "q", key  # without a request row there is one too many that says when it may go
        assert found


def test_damage_in_a_tile_names_its_entries(case: LedgerCase) -> None:
    (fault,) = damaged(case, case.store, layout.tile_key(0, 0), flip(5 * 32))[:1]
    assert fault.index == 5
    assert damaged(case, case.store, layout.tile_key(1, 0), flip(3))[0].index == 0


@pytest.mark.parametrize("kind", ["K", "k", "i"])
def test_damage_in_the_vault_is_found(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.vault_store, kind.encode())):
        assert damaged(case, case.vault_store, key, flip(number * 7 % len(row)))


@pytest.mark.parametrize("kind", ["i", "s", "p", "k", "v", "r", "c"])
def test_damage_in_the_table_is_found(case: LedgerCase, kind: str) -> None:
    """LMDB has no checksums: a flipped bit of a consent's mask would be a wrong answer, and nothing else would tell."""
    table = case.table
    assert table is not None
    with table.read() as snapshot:
        rows = [(key, value) for key, value in snapshot.rows() if key[:1] == kind.encode() and value]
    for number, (key, value) in enumerate(random.Random(3).sample(rows, min(3, len(rows)))):
        for changed in (flip(number * 11 % len(value))(value), value):
            with table.begin() as turn:
                turn._txn.put(key, changed)
                turn._txn.commit()
            found = scrub(case)
            assert bool(found) is (changed != value)
            if found and kind == "s":
                count, _ = case.ledger.head(key[1:])
                assert found[0].index == reads.read_entry(case.store, key[1:], count).index


def test_a_block_that_rocksdb_cannot_read_is_found(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "store")
    case = LedgerCase(tmp_path, store=store)
    case.fill(3)
    store.compact_range(b"", None)
    files = sorted((tmp_path / "store").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(files[-1].read_bytes())
    for at in range(len(content) // 4, len(content) // 4 + 64):
        content[at] ^= 0xFF
    case.close()
    store.close()
    files[-1].write_bytes(content)
    case.store = RocksStore.open(tmp_path / "store")
    try:
        case.open()
    except Exception:  # noqa: BLE001  # the damage lies where opening looks: it is found even earlier
        case.store.close()
        return
    assert scrub(case)
    case.close()
    case.store.close()


def test_a_writer_beside_it_is_never_suspected(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(4)
    stop, written = threading.Event(), 0

    def write_on() -> None:
        nonlocal written
        while not stop.is_set():
            person = case.enrol(f"person {len(case.people)}")
            case.write(case.grant(person))
            for _ in range(3):
                case.write(case.access(person))
            case.write(case.change(person, 2, EntryKind.REVOKE if written % 2 else EntryKind.PAUSE))
            if written % 3 == 0:
                case.seal()
            written += 1

    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        for _ in range(6):
            assert scrub(case, lambda records: time.sleep(0)) == []
    finally:
        stop.set()
        thread.join()
    assert written > 3
    case.close()


def test_a_pruned_ledger_is_whole(tmp_path: Path) -> None:
    case = PruningCase(tmp_path)
    live(case, random.Random(4), 60, keys=False)
    for _ in range(2):
        case.clock.advance(500 * 86_400_000)
        for person in case.people:
            case.write(case.access(person))
        case.seal()
        case.prune()
        assert scrub(case) == []
    person = case.people[0]
    last = max(entry.event.seq for entry in reads.read_kept(case.store, person.tag))
    key = layout.statement_key(person.tag, last)
    row = case.store.get(key)
    batch = Batch()
    batch.delete(key)
    case.store.write(batch)
    assert row is not None
    assert any("statement or its key is missing" in fault.what for fault in scrub(case))
    write(case.store, key, row)
    case.close()


def test_an_erased_person_is_no_damage(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(3)
    case.erase(case.people[1])
    case.seal()
    assert isinstance(case.store, MemoryStore)
    assert scrub(case) == []
    case.close()


def test_the_daemon_scrubs_and_tells(tmp_path: Path) -> None:
    options = "[scrub]\nrecords_per_s = 1000000\ninterval_s = 1"
    running = make_running(tmp_path, options)
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    index = running.authorize(question(subject)).receipt.index
    until(running, "consentd_scrub_pass_time_seconds", lambda value: value > 0)
    assert figure(running, "consentd_scrub_damaged_records") == 0
    running.stop()
    store = RocksStore.open(running.config.ledger.store_dir)
    leaf = store.get(layout.leaf_key(index))
    assert leaf is not None
    tag = codec.decode_leaf(leaf)
    assert isinstance(tag, codec.Event)
    key = layout.statement_key(tag.tag, tag.seq)
    row = store.get(key)
    assert row is not None
    write(store, key, flip(40)(row))
    store.close()

    again = Running(running.config, running.tokens)
    until(again, "consentd_scrub_damaged_records", lambda value: value == 1)
    assert figure(again, "consentd_ready") == 1
    assert again.check(question(subject)).permitted
    parts = again.daemon.lobby.parts
    assert parts is not None
    write(parts.ledger.store, key, row)
    until(again, "consentd_scrub_damaged_records", lambda value: value == 0)
    again.stop()


def figure(running: Running, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.daemon.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return float(next(line for line in text.splitlines() if line.startswith(name + " ")).split()[1])


def until(running: Running, name: str, reached: Callable[[float], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached(figure(running, name)):
        assert time.monotonic() < deadline, name
