"""How the sequencer fails. For each step of a batch: how the write ends for its caller, what exists, what continues."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cases.fakes import HANG_S, FaultyPublisher, FaultySigner, FaultyStore, FaultyTable
from cases.ledgers import INTERVAL_MS, LOG, LedgerCase, check_files, check_ledger, flip
from cases.writes import Failing, Raw
from consentd.core import merkle
from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, CorruptionError, InvalidError, RequestError, StorageError
from consentd.ledger import layout, reads
from consentd.table.transaction import TableTransaction


class FaultyCase(LedgerCase):
    """A ledger whose every part can fail."""

    def __init__(self, directory: Path) -> None:
        self.faulty_store, self.faulty_signer = FaultyStore(), FaultySigner(LOG)
        self.faulty_publisher = FaultyPublisher()
        super().__init__(
            directory,
            store=self.faulty_store,
            table_type=FaultyTable,
            signer=self.faulty_signer,
            publisher=self.faulty_publisher,
        )

    @property
    def faulty_table(self) -> FaultyTable:
        assert isinstance(self.table, FaultyTable)
        return self.table

    def heal(self) -> None:
        """Make every part work again, before the ledger is opened again."""
        self.faulty_signer.fails, self.faulty_publisher.persisted = False, None
        self.faulty_store.fail_reads(False)
        self.ledger.map._store = self.faulty_store
        self.faulty_table.__dict__.pop("begin", None)
        self.sequencer._shortages.check_space = lambda is_urgent: None
        if self.blocking_path.is_dir():
            self.blocking_path.rmdir()

    @property
    def blocking_path(self) -> Path:
        """Where the temporary file of the last signed checkpoint goes: a directory there makes its write fail."""
        return self.last_signed_path.with_name(self.last_signed_path.name + ".new")

    def last_leaf_key(self) -> bytes:
        """Return the key of the leaf that the next write appends."""
        return layout.leaf_key(self.ledger.state.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault, and the progress that is expected of a write whose batch is sealed.

    Attributes:
        inject: makes the fault; returns a write to use in place of a valid one, or None.
        told: how the write ends for its caller: ``recorded``, ``refused``, ``not now``, or ``unknown``.
        exists: whether the entry is there after the next start.
        signed: whether a checkpoint with the entry is in the file of the last signed one, before the next start.
        published: whether a checkpoint with the entry was public, before the next start.
        goes_on: whether the sequencer takes writes after the fault.
        repair: undoes damage that no start repairs, before the next start.
    """

    inject: Callable[[FaultyCase], Any]
    told: str
    exists: bool
    signed: bool = False
    published: bool = False
    goes_on: bool = False
    repair: Callable[[FaultyCase, int], None] = lambda case, index: None


def damage(case: FaultyCase) -> None:
    case.faulty_store.damage_after_write(case.last_leaf_key(), flip(60))


def undo_damage(case: FaultyCase, index: int) -> None:
    case.edit(layout.leaf_key(index), flip(60))


def set_persisted(part: str, persisted: bool) -> Callable[[FaultyCase], None]:
    return lambda case: setattr(getattr(case, part), "persisted", persisted)


def fail_storage(*_: object, **__: object) -> None:
    raise StorageError("too many open files")


def fail_bug(*_: object) -> None:
    raise AssertionError("bug")


def fill_table(case: FaultyCase) -> None:
    """Make the next transaction of the table refuse every entry."""
    begin = case.faulty_table.begin

    def begin_full() -> TableTransaction:
        transaction = begin()
        transaction.apply = fail_storage  # type: ignore[method-assign]
        return transaction

    case.faulty_table.begin = begin_full  # type: ignore[method-assign]


# fmt: off
ROWS = {
    # 1: read the clock
    "clock behind": Row(
        inject=lambda case: case.clock.shift_wall(-2 * INTERVAL_MS), told="not now", exists=False, goes_on=True
    ),
    "clock ahead": Row(inject=lambda case: case.clock.shift_wall(600_000), told="not now", exists=False, goes_on=True),
    "bug before the batch begins": Row(
        inject=lambda case: setattr(case.sequencer._shortages, "limit_to_space", fail_bug),
        told="not now", exists=False,
    ),
    # 3: check, append and apply
    "refused": Row(
        inject=lambda case: Failing(error=InvalidError("no")), told="refused", exists=False, goes_on=True
    ),
    "bug in a check": Row(inject=lambda case: Failing(error=RuntimeError("bug")), told="unknown", exists=False),
    "contradiction": Row(inject=lambda case: Failing(error=CorruptionError("rows")), told="unknown", exists=False),
    "no room": Row(
        inject=lambda case: setattr(case.sequencer._shortages, "check_space", fail_storage),
        told="not now", exists=False, goes_on=True,
    ),
    "one write cannot read": Row(
        inject=lambda case: Failing(error=StorageError("disk")), told="not now", exists=False, goes_on=True
    ),
    "reads fail": Row(
        inject=lambda case: case.faulty_store.fail_reads(), told="not now", exists=False, goes_on=True
    ),
    "no transaction of the table": Row(
        inject=lambda case: setattr(case.faulty_table, "begin", fail_storage),
        told="not now", exists=False, goes_on=True,
    ),
    "no memory for a transaction": Row(
        inject=lambda case: setattr(case.faulty_table, "begin", lambda: bytearray(1 << 62)),
        told="not now", exists=False, goes_on=True,
    ),
    "table full": Row(inject=fill_table, told="not now", exists=False, goes_on=True),
    "entry does not apply": Row(
        inject=lambda case: Raw(kind=EntryKind.REVOKE, tag=case.people[0].tag), told="unknown", exists=False
    ),
    # 4: seal
    "map cannot be read": Row(
        inject=lambda case: setattr(case.ledger.map, "_store", SimpleNamespace(multi_get=fail_storage)),
        told="not now", exists=False, goes_on=True,
    ),
    # 5: write the batch
    "write lost": Row(
        inject=lambda case: case.faulty_store.fail_write(persisted=False), told="unknown", exists=False
    ),
    "write made, reported failed": Row(
        inject=lambda case: case.faulty_store.fail_write(persisted=True), told="unknown", exists=True
    ),
    # 6: commit the table
    "table lost": Row(inject=set_persisted("faulty_table", False), told="unknown", exists=True),
    "table made, reported failed": Row(inject=set_persisted("faulty_table", True), told="unknown", exists=True),
    # 8: sign and publish; the caller was answered before
    "leaf damaged": Row(inject=damage, repair=undo_damage, told="recorded", exists=True),
    "signer fails": Row(
        inject=lambda case: setattr(case.faulty_signer, "fails", True), told="recorded", exists=True, goes_on=True
    ),
    "last signed not written": Row(
        inject=lambda case: case.blocking_path.mkdir(exist_ok=True), told="recorded", exists=True, goes_on=True
    ),
    "publisher fails": Row(
        inject=set_persisted("faulty_publisher", False), told="recorded", exists=True, goes_on=True, signed=True
    ),
    "published, reported failed": Row(
        inject=set_persisted("faulty_publisher", True),
        told="recorded", exists=True, goes_on=True, signed=True, published=True,
    ),
}
# fmt: on


def ending(case: LedgerCase, write: Any) -> str:
    """Return how a write ends for its caller."""
    try:
        case.write(write)
    except RequestError:
        return "refused"
    except StorageError as error:
        return "unknown" if "is unknown" in str(error) else "not now"
    return "recorded"


@pytest.mark.parametrize("name", ROWS)
def test_a_fault_has_its_expected_progress(tmp_path: Path, name: str) -> None:
    row, case = ROWS[name], FaultyCase(tmp_path)
    case.enrol("somebody")
    case.seal()
    index, last_signed = case.ledger.state.size, case.last_signed_path.read_bytes()
    published = case.sequencer.checkpoints.published
    case.clock.advance(INTERVAL_MS)  # the batch of the write is sealed
    write = case.participant("clinic")

    assert ending(case, row.inject(case) or write) == row.told

    if row.goes_on:
        assert case.sequencer.fault is None
        case.sequencer.call(lambda: None)
        case.crash()
    else:
        case.sequencer._thread.join(HANG_S)
        assert isinstance(case.sequencer.fault, ConsentdError)
        assert case.metrics.value("consentd_ready") == 0
        with pytest.raises(StorageError):
            case.sequencer.submit(write)
    assert (case.last_signed_path.read_bytes() != last_signed) is row.signed
    assert (case.sequencer.checkpoints.published != published) is row.published
    size = case.sequencer.checkpoints.published.checkpoint.size if case.sequencer.checkpoints.published else 0
    assert row.published is (size > index)

    case.heal()
    case.clock.shift_wall(max(0, case.ledger.state.time_ms - case.clock.wall_ms()))
    row.repair(case, index)
    if row.goes_on:
        case.open()
    else:
        case.open_again()
    assert (case.ledger.state.size > index) is row.exists
    assert case.write(write).replayed is (row.exists)
    case.seal()
    check_files(case)
    case.close()
    check_ledger(case)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.goes_on and "clock" not in name])
def test_after_a_shortage_the_ledger_continues_by_itself(tmp_path: Path, name: str) -> None:
    row, case = ROWS[name], FaultyCase(tmp_path)
    case.enrol("somebody")
    case.seal()
    case.clock.advance(INTERVAL_MS)
    write = case.participant("clinic")
    for _ in range(3):
        assert ending(case, row.inject(case) or write) == row.told
        case.clock.advance(INTERVAL_MS)
        case.sequencer.call(lambda: None)  # the sequencer is at rest when the shortage ends
        case.heal()
        if row.told != "recorded":
            assert case.ledger.state.size == case.ledger.state.sealed_size
    case.clock.advance(INTERVAL_MS)
    written = case.write(write)
    assert written.replayed is (row.told == "recorded")
    case.write(case.participant("laboratory"))
    point = case.seal()
    assert point.size > (written.entry.index if written.entry is not None else 0)
    assert case.sequencer.fault is None
    check_files(case)
    case.close()
    check_ledger(case)


@pytest.mark.parametrize("name", ["signer fails", "last signed not written", "publisher fails"])
def test_a_checkpoint_that_could_not_be_signed_is_signed_later_without_another_write(tmp_path: Path, name: str) -> None:
    case = FaultyCase(tmp_path)
    case.clock.advance(INTERVAL_MS)
    ROWS[name].inject(case)
    index = case.write(case.participant("clinic")).entry.index
    for _ in range(3):
        case.sequencer.call(lambda: None)
        case.clock.advance(1000)
    case.sequencer.call(lambda: None)
    published = case.sequencer.checkpoints.published
    assert published is not None
    assert published.checkpoint.size <= index
    assert case.metrics.value("consentd_shortages_total", step="sign") >= 3
    sealed = case.ledger.state.sealed_size
    for number in range(3):  # entries continue, but no further seal is written before this one is signed
        case.clock.advance(INTERVAL_MS)
        case.write(case.participant(f"laboratory{number}"))
    assert case.ledger.state.sealed_size == sealed < case.ledger.state.size
    case.heal()
    case.clock.advance(1000)
    case.sequencer.call(lambda: None)
    published = case.sequencer.checkpoints.wait(index + 1, HANG_S)
    assert published is not None
    assert published.checkpoint.size == sealed > index  # a signed tree ends in a seal
    case.seal()
    check_files(case)
    case.close()
    check_ledger(case)


@pytest.mark.parametrize("name", ["signer fails", "last signed not written", "publisher fails"])
def test_a_crash_while_nothing_can_be_signed_loses_nothing(tmp_path: Path, name: str) -> None:
    case = FaultyCase(tmp_path)
    for number in range(4):
        case.clock.advance(INTERVAL_MS)
        ROWS[name].inject(case)
        case.write(case.participant(f"clinic{number}"))
        case.sequencer.call(lambda: None)
    size = case.ledger.state.size
    case.crash()
    case.heal()
    case.open()
    assert case.ledger.state.size == size + 1  # a seal
    check_files(case)
    case.close()
    check_ledger(case)


def test_a_first_checkpoint_that_cannot_be_signed_stops_the_ledger(tmp_path: Path) -> None:
    """Without any last signed checkpoint, a ledger of more than one seal would not open again."""
    case = LedgerCase(tmp_path, begin=False)
    blocking = tmp_path / "last-signed.new"
    blocking.mkdir()
    case.clock.advance(INTERVAL_MS)
    case.write(case.genesis())
    case.sequencer._thread.join(HANG_S)
    assert isinstance(case.sequencer.fault, StorageError)
    blocking.rmdir()
    case.crash()
    case.open()
    assert case.sequencer.checkpoints.published is not None
    check_files(case)
    case.close()
    check_ledger(case)


def test_urgent_writes_are_taken_where_room_is_too_little_for_others(tmp_path: Path) -> None:
    case = FaultyCase(tmp_path)
    case.sequencer._shortages.check_space = lambda is_urgent: None if is_urgent else fail_storage()
    (urgent,) = case.sequencer.submit_all([case.participant("clinic")], urgent=True)
    with pytest.raises(StorageError):
        case.write(case.participant("laboratory"))
    assert urgent.result(HANG_S).entry is not None
    assert case.metrics.value("consentd_shortages_total", step="space") >= 1
    case.seal()
    check_files(case)
    case.close()
    check_ledger(case)


def test_a_heartbeat_that_fails_stops_nothing(tmp_path: Path) -> None:
    case = FaultyCase(tmp_path)
    begin_write = case.faulty_table.begin_write
    case.faulty_table.begin_write = fail_storage  # type: ignore[assignment, method-assign]
    for _ in range(3):
        case.clock.advance(1000)
        case.sequencer.call(lambda: None)
    case.sequencer.call(lambda: None)
    assert case.sequencer.fault is None
    assert case.metrics.value("consentd_shortages_total", step="upkeep") == 3
    case.faulty_table.begin_write = begin_write  # type: ignore[method-assign]
    case.write(case.participant("clinic"))
    case.close()
    check_ledger(case)


def test_a_failed_write_stops_everything_and_says_so(tmp_path: Path) -> None:
    case = FaultyCase(tmp_path)
    stopped: list[bool] = []
    case.sequencer._on_fault = lambda: stopped.append(True)
    person = case.enrol("somebody")
    write, other = case.grant(person), case.grant(person)
    size = case.ledger.state.size
    case.faulty_store.fail_write(persisted=True)
    futures = case.write_together([write, other, Failing(error=InvalidError("no"))])
    for future in futures:
        # The refused one too: all writes of a batch whose outcome is unknown end alike.
        with pytest.raises(StorageError, match="unknown"):
            future.result(HANG_S)
    case.sequencer._thread.join(HANG_S)
    assert stopped == [True]
    assert case.ledger.state.size == size
    for refused in (lambda: case.sequencer.submit(write), lambda: case.sequencer.call(lambda: None)):
        with pytest.raises(StorageError):
            refused()
    assert case.sequencer.checkpoints.wait(size + 9, HANG_S) is None

    case.open_again()
    # The outcome was unknown. The repeats find out, and are recorded once.
    again = [case.write(one) for one in (write, other)]
    assert [one.replayed for one in again] == [True, True]
    assert [one.entry.index for one in again] == [size, size + 1]
    check_files(case)
    case.close()
    check_ledger(case)


def test_a_table_older_than_its_ledger_answers_nothing(tmp_path: Path) -> None:
    case = FaultyCase(tmp_path)
    person = case.enrol("somebody")
    lineage = case.write(case.grant(person)).entry.event.seq
    case.faulty_table.persisted = False
    assert ending(case, case.change(person, lineage, EntryKind.REVOKE)) == "unknown"
    case.sequencer._thread.join(HANG_S)
    # The revoke is on disk, so an answer of this table would be wrong.
    with pytest.raises(StorageError):
        case.faulty_table.read()
    case.open_again()
    assert case.write(case.access(person)).entry.event.kind == EntryKind.REFUSAL
    check_files(case)
    case.close()
    check_ledger(case)


def seal_and_stop(case: LedgerCase) -> None:
    """Seal, which fails, and wait for the end of the sequencer's thread."""
    case.clock.advance(INTERVAL_MS)
    case.sequencer.call(lambda: None)
    case.sequencer._thread.join(HANG_S)
    assert isinstance(case.sequencer.fault, CorruptionError)


def test_a_tile_that_the_store_does_not_hold_as_written_is_found_before_it_is_signed(tmp_path: Path) -> None:
    case = FaultyCase(tmp_path)
    published = case.sequencer.checkpoints.published
    case.write(case.participant("clinic"))
    tile = case.store.get(layout.tile_key(0, 0)) or b""
    case.faulty_store.damage_after_write(layout.tile_key(0, 0), lambda _: tile + bytes(32))
    seal_and_stop(case)
    assert case.sequencer.checkpoints.published == published
    with pytest.raises(CorruptionError):
        case.open_again()
    good = reads.read_leaves(case.store, 0, case.ledger.state.size)
    case.edit(layout.tile_key(0, 0), lambda _: b"".join(map(merkle.leaf_hash, good)))
    case.open()
    case.close()
    check_ledger(case)


@pytest.mark.parametrize("before_end", [1, 2, 3])
def test_a_leaf_that_changed_is_found_before_a_checkpoint_covers_it(tmp_path: Path, before_end: int) -> None:
    """The leaf is the seal itself, or an event of an earlier batch."""
    case = FaultyCase(tmp_path)
    published, last_signed = case.sequencer.checkpoints.published, case.last_signed_path.read_bytes()
    assert published is not None
    case.write(case.participant("clinic"))
    case.write(case.participant("other"))
    index = case.ledger.state.size + 1 - before_end
    case.faulty_store.damage_after_write(layout.leaf_key(index), flip(60))
    seal_and_stop(case)
    assert f"index {index} " in str(case.sequencer.fault)
    assert (case.sequencer.checkpoints.published, case.last_signed_path.read_bytes()) == (published, last_signed)
    with pytest.raises(CorruptionError) as raised:
        case.open_again()
    assert f"index {index} " in str(raised.value)
    assert case.last_signed_path.read_bytes() == last_signed
    case.edit(layout.leaf_key(index), flip(60))
    case.open()
    check_ledger(case, published.checkpoint.size + 3)
    case.close()


def test_what_was_sealed_and_not_signed_is_read_again_at_the_next_start(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    last_signed = case.last_signed_path.read_bytes()
    case.write(case.participant("clinic"))
    point = case.seal()
    case.crash()
    case.last_signed_path.write_bytes(last_signed)
    case.edit(layout.leaf_key(point.size - 2), flip(60))
    with pytest.raises(CorruptionError) as raised:
        case.open()
    assert f"index {point.size - 2} " in str(raised.value)
    assert case.last_signed_path.read_bytes() == last_signed
    case.edit(layout.leaf_key(point.size - 2), flip(60))
    case.open()
    check_ledger(case, point.size)
    case.close()
