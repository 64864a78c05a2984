"""Scrubbing: damage to any kind of stored record is found and named."""

import logging
import random
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, make_running, question
from cases.ledgers import ORIGIN, LedgerCase, fill_all_kinds, flip, held_writer
from cases.pruned_ledgers import PruningCase, use
from cases.scrubs import SCRATCH, damaged, first_of, is_named, last_of, make_scrub, scrub, some, write
from cases.stored_rows import get_stored, put_stored, stored_as
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, CorruptionError, StorageError
from consentd.ledger import layout
from consentd.ledger.retention import encode_pruned, read_pruned
from consentd.store import Store, prefix_end
from consentd.store.rocks import RocksStore
from consentd.table.checked_rows import CHECK_SIZE, DamagedRowError, seal_row
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import MAX_FAULTS


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    """A ledger with more than a tile of entries and all kinds of rows; each test puts back what it damages."""
    made = fill_all_kinds(LedgerCase(tmp_path_factory.mktemp("scrub")))
    notice = st.NoticeStatement(notice_id="notice", version=1)
    made.write(made.public("notice/notice", EntryKind.NOTICE, notice))
    grouped = st.ParticipantStatement(participant_id="clinic", groups=["clinics"], active=True)
    made.write(made.public("participant/clinic", EntryKind.PARTICIPANT, grouped))
    yield made
    assert scrub(made) == []
    made.close()


# -- what is damaged ----------------------------------------------------------------------------------------------


def test_rows_of_all_kinds_are_tried(case: LedgerCase) -> None:
    kinds = {key[:1] for key, _ in case.store.scan(b"", None)}
    assert kinds == set(layout.KINDS) - {layout.PRUNED, layout.RESTORED, b"e", b"k"}  # which have tests of their own
    assert {key[:1] for key, _ in case.vault_store.scan(b"", None)} == {b"V", b"K", b"N", b"k", b"i"}


@pytest.mark.parametrize("kind", list("Slthicfmrq"))
def test_a_flipped_bit_in_any_kind_of_row_is_found_and_named(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.store, kind)):
        at = random.Random(number).randrange(len(row))
        if kind == "q":
            # Another entry of the same millisecond, or other content, cannot be compared with anything: RocksDB's own
            # checksums cover the bytes.
            at = (0, 3, 5, 9, 15)[number]
        found = damaged(case, case.store, key, flip(at, 1 << number % 8)(row))
        assert is_named(case, key, row, found), (key, at, found)


@pytest.mark.parametrize("kind", list("lthicfmrqx"))
def test_a_flipped_bit_in_a_key_is_found(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.store, kind, seed=2)):
        locations = random.Random(number).sample(range(1, len(key)), len(key) - 1)
        flipped = (flip(at, 1 << number)(key) for at in locations)
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
        assert found if kind in "hqx" else is_named(case, key, row, found), (key, found)


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


@pytest.mark.parametrize("kind", ["V", "K", "k", "i"])
def test_damage_in_the_vault_is_found_and_names_the_enrolment(case: LedgerCase, kind: str) -> None:
    for number, (key, row) in enumerate(some(case.vault_store, kind)):
        changes = [flip(number * 7 % len(row))(row), row[:-1], None]
        for changed in changes if kind != "K" else changes[:2]:
            found = damaged(case, case.vault_store, key, changed)
            tag = row if kind == "i" else key[1:]
            assert found if kind in "VK" else first_of(case, tag) in [fault.index for fault in found]


@pytest.mark.parametrize("kind", list("Risrpgknvc#"))
def test_damage_in_the_table_is_found(case: LedgerCase, kind: str) -> None:
    """Also damage that keeps the row's check right: a row that our own fault made wrong."""
    table = case.table
    assert table is not None
    with table.read() as snapshot:
        rows = [(key, value) for key, value in snapshot.rows() if key[:1] == kind.encode() and value]
    assert rows
    for number, (key, value) in enumerate(random.Random(3).sample(rows, min(3, len(rows)))):
        changes = [flip(at, 1 << number)(value) for at in range(number, len(value), max(1, len(value) // 4))]
        changes += [seal_row(key, one[:-CHECK_SIZE]) for one in changes if one[:-CHECK_SIZE] != value[:-CHECK_SIZE]]
        for changed in [*changes, *([] if kind == "R" else [None])]:
            with stored_as(table, key, changed):
                found = scrub(case)
            assert any("table" in fault.what for fault in found), changed
            if kind == "s":
                assert found[0].index == last_of(case, key[1:])


def test_a_vault_that_lost_its_last_writes_is_found(case: LedgerCase) -> None:
    key, state = next(case.vault_store.scan(b"N", b"O"))
    older = (int.from_bytes(state[:8]) - 1).to_bytes(8) + state[8:]
    write(case.vault_store, key, older)
    case.vault.state = older
    try:
        (fault,) = scrub(case)
        assert "vault is older" in fault.what
    finally:
        write(case.vault_store, key, state)
        case.vault.state = state


@pytest.mark.parametrize("kind", ["i", "s"])
@pytest.mark.parametrize("change", ["wrong", "damaged", "missing", "extra"])
def test_a_wrong_row_of_a_person_decides_nothing_and_is_built_again(case: LedgerCase, kind: str, change: str) -> None:
    table = case.table
    assert table is not None
    with table.read() as snapshot:
        key, right = next((key, row) for key, row in snapshot.rows() if key[:1] == kind.encode() and len(row) > 4)
    wrong = seal_row(key, flip(3)(right[:-CHECK_SIZE]))
    before: dict[str, bytes | None] = {"wrong": wrong, "damaged": flip(3)(right), "missing": None, "extra": right}
    if change == "extra":
        key, right = kind.encode() + bytes(32), b""
        before["extra"] = seal_row(key, b"x" * 32)
    put_stored(table, key, before[change])
    damaged_before = table.damaged
    one = make_scrub(case)
    one.run()
    assert one.progress.damaged >= 1
    assert one.progress.spoiled == (change != "damaged")
    if change != "damaged":  # a row whose check does not match decides nothing before the scrub either
        assert table.damaged > damaged_before
        with table.read() as snapshot, pytest.raises(DamagedRowError):
            snapshot.tag_of(key[1:]) if kind == "i" else snapshot.subject(key[1:])
        assert scrub(case)
    assert get_stored(table, key) == (right or None)
    assert scrub(case) == []


@pytest.mark.parametrize("kind", list("pgvrck#noR"))
@pytest.mark.parametrize("change", ["wrong", "damaged", "missing", "extra"])
def test_a_wrong_row_that_all_share_decides_nothing_and_is_built_again(
    case: LedgerCase, kind: str, change: str
) -> None:
    table = case.table
    assert table is not None
    with table.read() as snapshot:
        snapshot.registry()
        key, right = next((key, row) for key, row in snapshot.rows() if key[:1] == kind.encode())
    if kind in "vrc#R" and change == "extra":
        return  # there is one such row
    at = 42 if kind == "R" else 0  # the generation
    wrong = seal_row(key, flip(at)(right[:-CHECK_SIZE] or b"x"))
    before: dict[str, bytes | None] = {"wrong": wrong, "damaged": flip(-2)(right), "missing": None}
    if change == "extra":
        key, before["extra"], right = key + b"\0x", seal_row(key + b"\0x", right[:-CHECK_SIZE]), b""
    put_stored(table, key, before[change])
    one = make_scrub(case)
    one.run()
    assert one.progress.damaged >= 1
    is_mended_at_once = change == "damaged" or (change, kind) == ("missing", "R")
    assert bool(one.progress.spoiled) is not is_mended_at_once
    if not is_mended_at_once:
        with pytest.raises(DamagedRowError), table.read() as snapshot:
            snapshot._get(key)
        if kind in "pgvrcR":  # what checks need: the registry in memory does not decide either
            with pytest.raises(DamagedRowError), table.read() as snapshot:
                snapshot.registry()
        assert scrub(case)
    assert get_stored(table, key) == (right or None)
    assert scrub(case) == []
    with table.read() as snapshot:
        assert snapshot.registry().participants


@pytest.mark.parametrize("size", [-1, 1, 1 << 40])
def test_a_revision_of_another_size_is_built_again(case: LedgerCase, size: int) -> None:
    table = case.table
    assert table is not None
    right = get_stored(table, b"R") or b""
    told = int.from_bytes(right[:8]) + size
    put_stored(table, b"R", seal_row(b"R", told.to_bytes(8) + right[8:-CHECK_SIZE]))
    assert scrub(case)
    with pytest.raises(DamagedRowError), table.read():
        pass
    assert scrub(case)
    assert get_stored(table, b"R") == right
    assert scrub(case) == []


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
    use(case, random.Random(4), 40, keys=False)
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
    use(case, random.Random(5), 120, keys=False)
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
        one = make_scrub(case)
        try:
            one.run()
        except StorageError:
            assert isinstance(error, StorageError)  # of the table no copy can be made; the rest was looked at
        assert wanted <= {fault.index for fault in one.progress.faults}
        assert {fault.index for fault in one.progress.faults if fault.index is not None} == wanted
        case.ledger.store = BadBlock(store, b"q", b"r", error)  # type: ignore[assignment]
        one = make_scrub(case)
        one.run()
        assert any("request row: further rows cannot be listed" in fault.what for fault in one.progress.faults)
    finally:
        case.ledger.store = store


def test_much_damage_is_counted_and_not_kept(case: LedgerCase) -> None:
    rows = list(case.store.scan(b"c", prefix_end(b"c")))
    for key, row in rows:
        write(case.store, key, flip(40)(row))
    one = make_scrub(case)
    one.run()
    for key, row in rows:
        write(case.store, key, row)
    assert len(one.progress.faults) == MAX_FAULTS
    assert one.progress.damaged >= len(rows) > MAX_FAULTS


def test_a_file_of_rocksdb_that_is_damaged_is_found(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "store")
    case = LedgerCase(tmp_path, store=store)
    case.fill(12)
    store.compact_ranges([(b"", None)])
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


def test_no_copy_of_the_table_takes_the_space_of_entries(case: LedgerCase) -> None:
    assert case.table is not None
    asked: list[Path] = []

    def free_bytes(directory: Path) -> int:
        asked.append(directory)
        return free

    with held_writer(case.sequencer):  # so that the table has the same size throughout
        options: dict[str, Any] = {"free_bytes": free_bytes, "run_on_writer": lambda call: call()}
        free = 2 * case.table.used_bytes() + (256 << 20)
        assert scrub(case, **options) == []
        free -= 1
        with pytest.raises(StorageError, match="no room for a copy of the table"):
            make_scrub(case, **options).run()
    assert asked == [case.directory] * 2


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
