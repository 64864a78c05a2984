"""Verifying files: whatever is changed, missing, forged or unreadable in them is reported, and named."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cases.ledgers import BANK, DAEMON, LOG, ORIGIN, LedgerCase, check_files, check_ledger, fill_all_kinds, flip
from cases.writes import Raw
from consentd.core import checkpoint, codec, merkle, note
from consentd.core.kinds import EntryKind
from consentd.core.tiles import Edge
from consentd.errors import CorruptionError
from consentd.ledger import layout
from consentd.ledger.ledger import decode_state, encode_state
from consentd.store import Batch, Store, prefix_end
from consentd.store.memory import MemoryStore
from consentd.store.rocks import RocksStore
from consentd.v1 import statement_pb2 as st
from consentd.verify.findings import CLOSED, KEY_UNKNOWN, NO_PERSONS, NO_TABLE, UNKNOWN_FIELDS
from consentd.verify.fsck import Report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerCase]:
    """A ledger that every test only borrows; ``Borrowed`` puts back what was changed."""
    made = fill_all_kinds(LedgerCase(tmp_path_factory.mktemp("fsck")))
    yield made
    check_files(made)
    made.close()


@pytest.fixture
def case(whole: LedgerCase) -> Iterator[LedgerCase]:
    """The ledger with a store of the test's own."""
    store, lock = whole.store, whole.last_signed_path.read_bytes()
    assert isinstance(store, MemoryStore)
    whole.store = store.reopen()
    yield whole
    whole.store = store
    whole.last_signed_path.write_bytes(lock)
    check_ledger(whole)


def rows_of(case: LedgerCase, kind: bytes) -> list[tuple[bytes, bytes]]:
    return list(case.store.scan(kind, prefix_end(kind)))


def leaves_of(case: LedgerCase) -> list[bytes]:
    return [leaf for _, leaf in rows_of(case, b"l")]


def named(report: Report) -> set[int | None]:
    return {fault.index for fault in report.faults}


def whats(report: Report) -> str:
    return "; ".join(fault.what for fault in report.faults)


def places_of(case: LedgerCase) -> dict[tuple[bytes, int], int]:
    """Return where each entry (tag, seq) lies."""
    return {(key[1:33], layout.decode_u64(key)): layout.decode_u64(row) for key, row in rows_of(case, b"i")}


# -- what is sound ----------------------------------------------------------------------------------------------


def test_a_sound_ledger_has_no_fault(case: LedgerCase) -> None:
    done: list[tuple[int, int]] = []
    report = case.fsck(progress=lambda at, size: done.append((at, size)))
    assert report.faults == ()
    assert report.not_checked == {}
    assert report.size == case.ledger.state.size == report.entries + report.seals
    assert report.statements_opened == report.entries
    assert report.statements_erased == 0
    assert done[-1] == (report.size, report.size)
    assert not report.stopped


def test_quick_leaves_out_statements_and_table(case: LedgerCase) -> None:
    case.edit(rows_of(case, b"c")[0][0], flip(40))
    report = case.fsck(quick=True)
    assert (report.faults, report.statements_opened) == ((), 1)  # the ledger's own statement, in leaf 0
    case.edit(layout.leaf_key(30), flip(100))
    assert 30 in named(case.fsck(quick=True))


def test_what_cannot_be_told_is_counted(case: LedgerCase) -> None:
    report = case.fsck(vault=None)
    assert report.faults == ()
    closed = report.entries - report.statements_opened
    assert report.not_checked == {CLOSED: closed, NO_PERSONS: 1, NO_TABLE: 1}
    assert 0 < report.statements_opened < report.entries


def test_a_missing_statement_is_named_without_the_vault_too(case: LedgerCase) -> None:
    key, _ = next(row for row in rows_of(case, b"c") if row[1][:1] == bytes((layout.ENCRYPTED,)))
    index = places_of(case)[key[1:33], layout.decode_u64(key)]
    case.edit(key, None)
    assert named(case.fsck(vault=None)) == {index}


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path, begin=False)
    assert case.fsck().faults == ()
    assert case.fsck().size == 0
    case.begin()
    check_ledger(case)
    case.close()


# -- a changed byte of each kind of row -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"l", b"t", b"h", b"i", b"c"])
def test_a_changed_byte_is_named_by_its_entry(case: LedgerCase, kind: bytes) -> None:
    rng = random.Random(kind[0])
    locations, store = places_of(case), case.store
    assert isinstance(store, MemoryStore)
    found = rows_of(case, kind)
    for key, row in [*rng.sample(found, min(12, len(found))), found[0], found[-1]]:
        case.store = store.reopen()
        at = rng.randrange(len(row))
        if kind == b"l":
            expected = layout.decode_u64(key)
        elif kind == b"t":
            expected = (int.from_bytes(key[2:]) * 256 + at // 32) << (8 * key[1])
        elif kind == b"h":
            expected = locations[key[1:], layout.HEAD.unpack(row)[0]]
        else:
            expected = locations[key[1:33], layout.decode_u64(key)]
        case.edit(key, flip(at, 1 << rng.randrange(8)))
        report = case.fsck()
        assert expected in named(report), (key, at, report.faults)


@pytest.mark.parametrize("kind", [b"m", b"r"])
def test_a_changed_byte_of_the_map_is_found(case: LedgerCase, kind: bytes) -> None:
    rng = random.Random(kind[0])
    store = case.store
    assert isinstance(store, MemoryStore)
    for key, row in rows_of(case, kind):
        for _ in range(3):
            case.store = store.reopen()
            case.edit(key, flip(rng.randrange(len(row))))
            assert named(case.fsck()) == {case.ledger.state.sealed_size - 1}


def test_a_changed_byte_of_the_state_is_found(case: LedgerCase) -> None:
    store = case.store
    assert isinstance(store, MemoryStore)
    (_, row), = rows_of(case, b"S")
    for at in range(len(row) - 1):
        case.store = store.reopen()
        case.edit(b"S", flip(at, 1 << (at % 8)))
        assert "state" in whats(case.fsck(table=None, quick=True)), at
    for bit in range(8):  # how the map is divided: then all of the map is found to be wrong
        case.store = store.reopen()
        case.edit(b"S", flip(len(row) - 1, 1 << bit))
        assert case.fsck(table=None, quick=True).faults


def test_a_changed_byte_of_a_request_row_is_found(case: LedgerCase) -> None:
    """Time, and an index beyond the ledger; of the hash of what was asked there is nothing to compare with."""
    store = case.store
    assert isinstance(store, MemoryStore)
    for key, _ in rows_of(case, b"q")[:4]:
        for at in (0, 3, 5, *range(8, 16)):
            case.store = store.reopen()
            case.edit(key, flip(at))
            assert "request" in whats(case.fsck(quick=True))


@pytest.mark.parametrize("kind", [b"l", b"t", b"h", b"i", b"c", b"m", b"r", b"x", b"q", b"S"])
def test_a_missing_row_is_found(case: LedgerCase, kind: bytes) -> None:
    rng = random.Random(kind[0])
    locations, store = places_of(case), case.store
    assert isinstance(store, MemoryStore)
    found = rows_of(case, kind)
    for key, _ in rng.sample(found, min(5, len(found))):
        case.store = store.reopen()
        case.edit(key, None)
        report = case.fsck()
        if kind == b"l":
            assert layout.decode_u64(key) in named(report)
        elif kind in (b"i", b"c"):
            assert locations[key[1:33], layout.decode_u64(key)] in named(report)
        elif kind == b"q":
            assert "has no request" in whats(report)
        else:
            assert report.faults


def test_rows_that_must_not_be_there_are_found(case: LedgerCase) -> None:
    store, size, tag = case.store, case.ledger.state.size, case.people[0].tag
    assert isinstance(store, MemoryStore)
    strays = {
        layout.leaf_key(size): "beyond", layout.leaf_key(size + 9): "beyond", layout.tile_key(0, 7): "beyond",
        layout.tile_key(5, 0): "beyond", layout.index_key(tag, 0): "not exist",
        layout.index_key(tag, 4000): "not exist",
        layout.reference_key(tag, 0, 4000): "not exist", layout.reference_key(tag, 7, 2): "refers to another",
        layout.statement_key(b"?" * 32, 1): "not exist", layout.head_key(b"?" * 32): "no leaf",
        layout.bucket_key(3000): "bucket", layout.roots_key(77): "roots", layout.request_row_key(b"?" * 32): "length",
        layout.expiry_key(1, b"?" * 32): "no request", b"y": "no known kind", b"": "no known kind",
        b"t": "key", b"i": "key", b"m": "key", b"h" + bytes(31): "key", b"f": "key", b"q": "key", b"x": "key",
        b"r": "key",
        b"Sx": "no known kind", b"d": "no known kind",
    }
    for key, what in strays.items():
        case.store = store.reopen()
        batch = Batch()
        batch.put(key, b"stray")
        case.store.write(batch)
        assert what in whats(case.fsck(table=None)), key


def test_the_search_stops_at_the_hundredth_fault(case: LedgerCase) -> None:
    for key, _ in rows_of(case, b"i")[:150]:
        case.edit(key, flip(7))
    report = case.fsck()
    assert len(report.faults) == 100
    assert report.stopped


def test_one_damaged_leaf_is_one_fault_and_no_more(case: LedgerCase) -> None:
    """Where the damage hits only the commitment, every other leaf, seal and row is still compared with the rest."""
    index = next(index for index, leaf in enumerate(leaves_of(case)) if leaf[1] == EntryKind.GRANT)
    case.edit(layout.leaf_key(index), flip(100))
    report = case.fsck()
    assert named(report) == {index}
    assert len(report.faults) == 1
    other = next(i for i, leaf in enumerate(leaves_of(case)) if leaf[1] == EntryKind.ACCESS and i > index + 100)
    case.edit(layout.statement_key(leaves_of(case)[other][10:42], codec.decode_leaf(leaves_of(case)[other]).seq),
              flip(60))  # type: ignore[union-attr]
    assert named(case.fsck()) == {index, other}


@pytest.mark.parametrize("kind", [b"l", b"t", b"h", b"i", b"c", b"f", b"m", b"r", b"q", b"x", b"S"])
def test_any_bytes_in_any_row_are_reported_and_raise_nothing(case: LedgerCase, kind: bytes) -> None:
    rng = random.Random(kind[0])
    store = case.store
    assert isinstance(store, MemoryStore)
    found = rows_of(case, kind)
    for key, row in rng.sample(found, min(8, len(found))):
        for size in (0, 1, 2, 31, 32, len(row) - 1, len(row), len(row) + 1, 5000):
            case.store = store.reopen()
            wrong = rng.randbytes(max(size, 0))
            case.edit(key, lambda _, wrong=wrong: wrong)  # type: ignore[misc]
            report = case.fsck(quick=kind != b"c")
            assert report.faults or wrong == row


def test_one_missing_leaf_is_one_fault_and_its_rows(case: LedgerCase) -> None:
    """The tree still has its hash, so tiles and roots hold; its chain's next leaf is not blamed for the gap."""
    index = next(index for index, leaf in enumerate(leaves_of(case)) if leaf[1] == EntryKind.ACCESS)
    case.edit(layout.leaf_key(index), None)
    report = case.fsck()
    assert named(report) == {index}
    assert len(report.faults) == 1
    assert report.size == report.entries + report.seals + 1


# -- forgeries that hash right ----------------------------------------------------------------------------------


def regrow(case: LedgerCase, leaves: list[bytes]) -> None:
    """Write leaves, tiles and state as if the ledger had always been so; and a lock that says so too."""
    edge, tiles = Edge().append([merkle.leaf_hash(leaf) for leaf in leaves])
    batch = Batch()
    for index, leaf in enumerate(leaves):
        batch.put(layout.leaf_key(index), leaf)
    for (level, n), tile in tiles.items():
        batch.put(layout.tile_key(level, n), tile)
    state = decode_state(case.store.get(b"S") or b"")
    batch.put(b"S", encode_state(replace(state, root=edge.root())))
    case.store.write(batch)
    sealed = state.sealed_size
    root = Edge().append([merkle.leaf_hash(leaf) for leaf in leaves[:sealed]])[0].root()
    case.last_signed_path.write_bytes(checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, sealed, root), [LOG]))


def seals_of(leaves: list[bytes]) -> list[int]:
    return [index for index, leaf in enumerate(leaves) if leaf[1] == codec.SEAL_KIND]


def test_a_wrong_seal_is_named(case: LedgerCase) -> None:
    leaves = leaves_of(case)
    index = seals_of(leaves)[1]
    leaves[index] = flip(20)(leaves[index])
    regrow(case, leaves)
    report = case.fsck()
    assert report.faults[0].index == index
    assert "map root" in report.faults[0].what
    assert named(report) <= {index, seals_of(leaves)[2]}


def test_a_reordered_pair_is_named(case: LedgerCase) -> None:
    leaves = leaves_of(case)
    events = [codec.decode_leaf(leaf) for leaf in leaves]
    index = next(
        i for i in range(40, len(leaves) - 1)
        if isinstance(events[i], codec.Event) and isinstance(events[i + 1], codec.Event)
        and events[i].tag == events[i + 1].tag  # type: ignore[union-attr]
    )
    leaves[index], leaves[index + 1] = leaves[index + 1], leaves[index]
    regrow(case, leaves)
    assert {index, index + 1} <= named(case.fsck())


def test_entries_of_two_chains_reordered_are_named(case: LedgerCase) -> None:
    """Where the rule allows either order, the index rows still tell which one it was."""
    leaves = leaves_of(case)
    leaves[3], leaves[4] = leaves[4], leaves[3]
    regrow(case, leaves)
    assert named(case.fsck()) == {3, 4}


def test_a_back_dated_entry_is_named(case: LedgerCase) -> None:
    leaves = leaves_of(case)
    index = seals_of(leaves)[2] + 1
    event = codec.decode_leaf(leaves[index])
    assert isinstance(event, codec.Event)
    leaves[index] = codec.encode_event(replace(event, time_ms=event.time_ms - 120_000))
    regrow(case, leaves)
    report = case.fsck()
    assert report.faults[0].index == index
    assert "time" in report.faults[0].what


def test_a_forged_author_is_named(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    person = case.enrol("somebody")
    forged = case.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK)).entry.index
    case.write(case.key("bank", BANK.public_key))
    fine = case.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author=BANK)).entry.index
    skewed = case.write(Raw(kind=EntryKind.SERVED, tag=person.tag, author_skew_ms=600_001)).entry.index
    wrong_kind = case.write(Raw(kind=EntryKind.DISPUTE, tag=person.tag, author=BANK)).entry.index
    case.seal()
    report = case.fsck(table=None)
    assert fine not in named(report)
    assert named(report) == {forged, skewed, wrong_kind}
    check_ledger(case)
    case.close()


def test_a_statement_key_comes_into_force_by_a_ledger_entry_alone(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    person, ledger = case.enrol("somebody"), codec.public_tag("ledger")
    key = st.KeyStatement(key=BANK.public_key)
    case.write(Raw(kind=EntryKind.KEY, tag=ledger, payload=key.SerializeToString(), message=key))
    early = case.write(Raw(kind=EntryKind.REFUSAL, tag=person.tag, author=BANK)).entry.index
    reported = st.LedgerStatement(statement_key=BANK.public_key)
    case.write(Raw(kind=EntryKind.LEDGER, tag=ledger, payload=reported.SerializeToString(), message=reported))
    fine = case.write(Raw(kind=EntryKind.REFUSAL, tag=person.tag, author=BANK)).entry.index
    case.seal()
    assert early != fine
    assert named(case.fsck(table=None)) == {early}
    check_ledger(case)
    case.close()


def test_what_a_later_version_says_of_keys_is_not_taken(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    person = case.enrol("somebody")
    reported = st.LedgerStatement(statement_key=BANK.public_key)
    later = reported.SerializeToString() + b"\xf8\x07\x01"
    case.write(Raw(kind=EntryKind.LEDGER, tag=codec.LEDGER_TAG, payload=later, message=reported))
    case.write(Raw(kind=EntryKind.REFUSAL, tag=person.tag, author=BANK))
    case.seal()
    report = case.fsck(table=None)
    assert report.faults == ()
    assert report.not_checked == {UNKNOWN_FIELDS: 1, KEY_UNKNOWN: 1}
    case.close()


def test_a_payload_that_does_not_decode_is_named(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    index = case.write(Raw(kind=EntryKind.OUTCOME, tag=b"t" * 32, payload=b"\xff\xff")).entry.index
    case.seal()
    assert named(case.fsck(table=None)) == {index}
    check_ledger(case)
    case.close()


# -- vault, table, lock -----------------------------------------------------------------------------------------


def test_a_lost_data_key_is_named_by_each_entry(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    (person,) = case.fill(1, accesses=2)
    batch = Batch()
    batch.delete(b"k" + person.tag)
    case.vault_store.write(batch)
    case.vault._keys.clear()
    locations = {index for (tag, _), index in places_of(case).items() if tag == person.tag}
    assert locations <= named(case.fsck())
    check_ledger(case)
    case.close()


def test_an_erased_person_is_sound_and_what_is_left_of_them_is_not(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    kept, gone = case.fill(2)
    before = dict(rows_of(case, b"c"))
    key = case.vault_store.get(b"k" + gone.tag) or b""
    case.erase(gone)
    case.seal()
    report = check_files(case)
    count = case.ledger.head(gone.tag)[0]
    assert report.statements_erased == count - 1
    assert report.statements_opened == report.entries - (count - 1)

    last = places_of(case)[gone.tag, count]
    batch = Batch()
    batch.put(b"k" + gone.tag, key)
    case.vault_store.write(batch)
    assert named(case.fsck()) == {last}
    assert "data key" in whats(case.fsck())
    batch = Batch()
    batch.delete(b"k" + gone.tag)
    case.vault_store.write(batch)
    case.vault._keys.clear()
    row_key = layout.statement_key(gone.tag, 2)
    batch = Batch()
    batch.put(row_key, before[row_key])
    case.store.write(batch)
    assert "still stored" in whats(case.fsck())
    assert named(case.fsck()) == {last}
    assert kept.tag != gone.tag
    check_ledger(case)
    case.close()


def table_rows(case: LedgerCase) -> list[tuple[bytes, bytes]]:
    assert case.table is not None
    with case.table.read() as snapshot:
        return list(snapshot.rows())


def test_an_altered_table_row_is_found(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    people = case.fill(2)
    assert case.table is not None
    environment = case.table
    rows = table_rows(case)
    assert {key[:1] for key, _ in rows} >= {b"R", b"i", b"s", b"p", b"k", b"v", b"r", b"c", b"#"}
    for key, row in rows:
        for wrong in [flip(len(row) // 3)(row) if row else b"x", None]:
            with environment.begin_write() as txn:
                if wrong is None:
                    txn.delete(key)
                else:
                    txn.put(key, wrong)
            report = case.fsck()
            if key == b"R":
                assert report.faults  # whatever a wrong revision leads to
            else:
                assert [fault.what.partition("` ")[0] for fault in report.faults] == [
                    f"table row of kind `{chr(key[0])}"
                ]
            if key[:1] == b"s":
                tag = key[1:]
                count = case.ledger.head(tag)[0]
                assert named(report) == {places_of(case)[tag, count]}
            with environment.begin_write() as txn:
                txn.put(key, row)
    with environment.begin_write() as txn:
        txn.put(b"s" + b"?" * 32, b"")
    assert "must not be there" in whats(case.fsck())
    with environment.begin_write() as txn:
        txn.delete(b"s" + b"?" * 32)
    assert len(people) == 2
    check_files(case)
    check_ledger(case)
    case.close()


def test_a_table_behind_is_ordinary_and_one_ahead_is_not(tmp_path: Path) -> None:
    case = LedgerCase(tmp_path)
    case.fill(1)
    behind = tmp_path / "behind"
    assert case.table is not None
    case.table.copy(behind)
    older = case.store
    assert isinstance(older, MemoryStore)
    older = older.reopen()
    lock = case.last_signed_path.read_bytes()
    case.fill(1)
    case.close()
    ahead = tmp_path / "ahead"
    case.table_path.rename(ahead)
    shutil.copytree(behind, case.table_path)
    table = case.table_type.open(case.table_path, map_size_mb=16)
    assert case.fsck(table=table).faults == ()
    table.close()
    newer, case.store = case.store, older
    new_lock = case.last_signed_path.read_bytes()
    case.last_signed_path.write_bytes(lock)
    table = case.table_type.open(ahead, map_size_mb=16)
    assert "ahead" in whats(case.fsck(table=table))
    table.close()
    case.store = newer
    case.last_signed_path.write_bytes(new_lock)
    check_ledger(case)


def test_the_lock_is_verified(case: LedgerCase) -> None:
    point = checkpoint.Checkpoint(ORIGIN, case.ledger.state.sealed_size, case.ledger.state.root)
    locks: dict[bytes, str] = {
        b"": "does not verify",
        checkpoint.sign_checkpoint(point, [LOG]): "contradicts",  # the root is that of a later size
        checkpoint.sign_checkpoint(replace(point, size=point.size + 99), [LOG]): "smaller",
        checkpoint.sign_checkpoint(point, [note.Signer(ORIGIN, DAEMON)]): "does not verify",
        checkpoint.sign_checkpoint(replace(point, origin="other"), [LOG]): "does not verify",
    }
    for lock, what in locks.items():
        case.last_signed_path.write_bytes(lock)
        assert what in whats(case.fsck(quick=True))
    case.last_signed_path.unlink()
    assert "missing" in whats(case.fsck(quick=True))
    assert case.fsck(quick=True, last_signed_path=None).faults == ()


# -- damaged files ----------------------------------------------------------------------------------------------


def unreadable(store: Store, keys: dict[bytes, int]) -> set[int]:
    """Return the entries whose row cannot be read, found one by one."""
    found = set()
    for key, index in keys.items():
        try:
            store.get(key)
        except CorruptionError:
            found.add(index)
    return found


KeysOf = Callable[[LedgerCase], dict[bytes, int]]
FAMILIES: dict[str, KeysOf] = {
    "leaves": lambda case: {layout.leaf_key(i): i for i in range(case.ledger.state.size)},
    "index rows": lambda case: {layout.index_key(*location): i for location, i in places_of(case).items()},
    "statements": lambda case: {layout.statement_key(*location): i for location, i in places_of(case).items()},
}


def test_a_damaged_block_on_disk_names_its_entries(tmp_path: Path) -> None:
    """Flip a byte of a file of sorted rows, over and over: what RocksDB then refuses is named, and nothing raised."""
    path = tmp_path / "db"
    store = RocksStore.open(path)
    case = fill_all_kinds(LedgerCase(tmp_path / "case", store=store))
    families = {name: keys_of(case) for name, keys_of in FAMILIES.items()}
    case.close()
    store.compact_ranges([(b"", None)])
    store.close()
    file = max(path.glob("*.sst"), key=lambda one: one.stat().st_size)  # a second one has a row of the store itself
    sound, rng = file.read_bytes(), random.Random(11)
    hit: dict[str, int] = dict.fromkeys(families, 0)
    step = len(sound) * 9 // 10 // 160
    for start in range(0, 160 * step, step):
        # Filter, index and footer lie at the end; damage there keeps the store from opening at all.
        file.write_bytes(flip(start + rng.randrange(step))(sound))
        case.store = RocksStore.open_read_only(path, block_cache_mb=8)
        report = case.fsck(table=None)
        assert report.faults
        lost = {name: unreadable(case.store, keys) for name, keys in families.items()}
        assert report.stopped or set().union(*lost.values()) <= named(report)
        if report.stopped:
            assert any(indexes & named(report) for indexes in lost.values())
        for name, indexes in lost.items():
            hit[name] += bool(indexes)
        case.store.close()
    assert all(hit.values()), hit
    file.write_bytes(sound)
    case.store = RocksStore.open_read_only(path)
    assert case.fsck(table=None).faults == ()
    check_ledger(case)
    case.store.close()
