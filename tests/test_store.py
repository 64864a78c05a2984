"""One contract, held by every store; then what only files have: persistence, locks, damage, erasure."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cases.fakes import FaultyStore
from consentd.errors import CorruptionError, StorageError
from consentd.store import Batch, Store, prefix_end
from consentd.store.memory import MemoryStore
from consentd.store.rocks import APART, RocksStore


@pytest.fixture(params=["memory", "rocks", "rocks, synced apart", "faulty"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    makers: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "rocks": lambda: RocksStore.open(tmp_path / "db", sync_apart=False),
        "rocks, synced apart": lambda: RocksStore.open(tmp_path / "db", sync_apart=True),
        "faulty": FaultyStore,
    }
    made = makers[request.param]()
    yield made
    made.close()


@pytest.fixture
def rocks(tmp_path: Path) -> Iterator[RocksStore]:
    made = RocksStore.open(tmp_path / "db")
    yield made
    made.close()


def puts(*pairs: tuple[bytes, bytes]) -> Batch:
    batch = Batch()
    for key, value in pairs:
        batch.put(key, value)
    return batch


def numbered(count: int) -> Batch:
    return puts(*((b"%04d" % index, b"v%d" % index) for index in range(count)))


def scanned(store: Store, start: bytes = b"", end: bytes | None = None) -> list[bytes]:
    return [key for key, _ in store.scan(start, end)]


# -- the contract ----------------------------------------------------------------------------------------------------


def test_get_finds_what_was_written_and_nothing_else(store: Store) -> None:
    store.write(puts((b"a", b"1"), (b"", b"empty key"), (b"b", b"")))
    assert store.get(b"a") == b"1"
    assert store.get(b"") == b"empty key"
    assert store.get(b"b") == b""
    assert store.get(b"aa") is None


def test_multi_get_keeps_order_absences_and_repeats(store: Store) -> None:
    store.write(puts((b"a", b"1"), (b"b", b"2")))
    assert store.multi_get([b"b", b"x", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    assert store.multi_get((b"a",)) == [b"1"]
    assert store.multi_get([]) == []


def test_scan_is_half_open_and_ordered_both_ways(store: Store) -> None:
    store.write(puts((b"c", b"3"), (b"a", b"1"), (b"b", b"2"), (b"d", b"4")))
    assert list(store.scan(b"a", b"c")) == [(b"a", b"1"), (b"b", b"2")]
    assert list(store.scan(b"a", b"c", reverse=True)) == [(b"b", b"2"), (b"a", b"1")]
    assert list(store.scan(b"b", None, reverse=True, limit=1)) == [(b"d", b"4")]
    assert list(store.scan(b"b", None, limit=2)) == [(b"b", b"2"), (b"c", b"3")]
    assert list(store.scan(b"a", None, limit=0)) == []
    assert list(store.scan(b"c", b"a")) == []
    assert list(store.scan(b"c", b"a", reverse=True)) == []


def test_scan_shows_the_moment_of_its_call(store: Store) -> None:
    store.write(numbered(10))
    untouched = store.scan(b"", None)
    half_read = store.scan(b"", None, reverse=True)
    assert next(half_read)[0] == b"0009"
    later = puts((b"0003x", b"new"))
    later.delete_range(b"0000", b"0002")
    store.write(later)
    assert [key for key, _ in untouched] == [b"%04d" % index for index in range(10)]
    assert [key for key, _ in half_read] == [b"%04d" % index for index in range(8, -1, -1)]
    assert scanned(store)[:3] == [b"0002", b"0003", b"0003x"]


def test_scans_do_not_disturb_each_other(store: Store) -> None:
    """Hold many bounded scans at once; each bound must stay its own."""
    store.write(numbered(500))
    scans = [store.scan(b"%04d" % (10 * index), b"%04d" % (10 * index + 10)) for index in range(50)]
    firsts = [next(pairs)[0] for pairs in scans]
    assert firsts == [b"%04d" % (10 * index) for index in range(50)]
    assert [len(list(pairs)) for pairs in scans] == [9] * 50


def test_the_last_operation_on_a_key_wins(store: Store) -> None:
    batch = puts((b"a", b"old"), (b"b", b"1"), (b"c", b"1"), (b"d", b"1"))
    batch.put(b"a", b"new")
    batch.delete(b"b")
    batch.delete_range(b"c", b"d")
    batch.put(b"c", b"again")
    batch.delete(b"absent")
    store.write(batch)
    assert list(store.scan(b"", None)) == [(b"a", b"new"), (b"c", b"again"), (b"d", b"1")]


def test_an_empty_batch_and_an_empty_range_change_nothing(store: Store) -> None:
    store.write(puts((b"a", b"1")))
    batch = Batch()
    batch.delete_range(b"a", b"a")
    assert len(batch) == 0
    store.write(batch)
    assert scanned(store) == [b"a"]


def test_an_inverted_range_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="ends before it starts"):
        Batch().delete_range(b"b", b"a")


def test_a_batch_knows_its_size() -> None:
    batch = puts((b"abc", b"12345"))
    batch.delete(b"ab")
    batch.delete_range(b"a", b"bb")
    assert len(batch) == 3


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StorageError):
        store.get(b"a")
    with pytest.raises(StorageError):
        store.multi_get([b"a"])
    with pytest.raises(StorageError):
        store.write(puts((b"a", b"1")))
    with pytest.raises(StorageError):
        list(store.scan(b"", None))


def test_readers_see_whole_batches_only(store: Store) -> None:
    """Write pairs of equal rows from one thread; a reader never sees them differ."""
    torn: list[list[bytes | None]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            pair = store.multi_get([b"left", b"right"])
            listed = [value for _, value in store.scan(b"", None)]
            if pair[0] != pair[1] or len(set(listed)) > 1:
                torn.append(pair)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(300):
        value = b"%d" % index
        store.write(puts((b"left", value), (b"right", value)))
    done.set()
    for reader in readers:
        reader.join()
    assert torn == []


def test_compaction_keeps_what_is_there(store: Store) -> None:
    store.write(numbered(100))
    batch = Batch()
    batch.delete_range(b"0010", b"0020")
    store.write(batch)
    store.compact_ranges([(b"0005", b"0050")])
    store.compact_ranges([(b"", None)])
    assert len(scanned(store)) == 90
    assert store.approximate_size() > 0


KEYS = st.binary(max_size=3)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=4)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.just("delete_range"), KEYS, KEYS).map(lambda op: (op[0], *sorted(op[1:]))),
)
STEPS = st.lists(st.one_of(st.lists(OPERATIONS, max_size=6), st.just("compact")), max_size=8)
ASKED = st.lists(st.tuples(KEYS, st.none() | KEYS, st.booleans(), st.none() | st.integers(0, 4)), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, asked=ASKED)
def test_every_store_agrees_with_a_sorted_dict(store: Store, steps: list[object], asked: list[tuple]) -> None:
    wipe = Batch()
    wipe.delete_range(b"", b"\xff" * 9)
    store.write(wipe)
    model: dict[bytes, bytes] = {}
    for step in steps:
        if step == "compact":
            store.compact_ranges([(b"", None)])
            continue
        assert isinstance(step, list)
        batch = Batch()
        for name, *arguments in step:
            getattr(batch, name)(*arguments)
            if name == "put":
                model[arguments[0]] = arguments[1]
            elif name == "delete":
                model.pop(arguments[0], None)
            else:
                for key in [key for key in model if arguments[0] <= key < arguments[1]]:
                    del model[key]
        store.write(batch)
    assert list(store.scan(b"", None)) == sorted(model.items())
    for start, end, reverse, limit in asked:
        chosen = [pair for pair in sorted(model.items()) if start <= pair[0] and (end is None or pair[0] < end)]
        expected = (chosen[::-1] if reverse else chosen)[:limit]
        assert list(store.scan(start, end, reverse=reverse, limit=limit)) == expected
        assert store.get(start) == model.get(start)
    assert store.multi_get([ask[0] for ask in asked]) == [model.get(ask[0]) for ask in asked]


@settings(deadline=None)
@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
def test_prefix_end_bounds_exactly_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end is None or key < end))


# -- failed writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persisted", [False, True])
def test_a_failed_write_stops_later_ones(persisted: bool) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner)
    store.fail_write(persisted=persisted, after=1)
    store.write(puts((b"a", b"1")))
    with pytest.raises(StorageError, match="outcome is unknown"):
        store.write(puts((b"b", b"2")))
    with pytest.raises(StorageError, match="refuses writes"):
        store.write(puts((b"c", b"3")))
    assert store.get(b"a") == b"1"
    assert scanned(inner.reopen()) == ([b"a", b"b"] if persisted else [b"a"])


def test_failing_reads_fail_until_told_otherwise() -> None:
    store = FaultyStore()
    store.fail_reads()
    with pytest.raises(StorageError):
        store.get(b"a")
    store.fail_reads(False)
    assert store.get(b"a") is None


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from consentd.errors import StorageError
from consentd.store import Batch
from consentd.store.rocks import RocksStore

def one(key, size):
    batch = Batch()
    batch.put(key, b"x" * size)
    return batch

store = RocksStore.open(Path(sys.argv[1]), sync_apart=sys.argv[2] == "True")
store.write(one(b"a", 1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    store.write(one(b"b", 200_000))
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    store.write(one(b"c", 1))
except StorageError as error:
    print(error)
print(store.get(b"a"))
store.close()
"""


@pytest.mark.parametrize("sync_apart", [False, True])
def test_a_full_disk_fails_the_write_and_all_later_ones(tmp_path: Path, sync_apart: bool) -> None:
    """Let the kernel refuse the log's growth, in a process of its own; then see what the next one finds."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, str(sync_apart)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("write failed, its outcome is unknown")
    assert done.stderr.count("store takes no more writes: write failed") == 1
    assert lines[1].startswith("store refuses writes because one failed")
    assert lines[2] == "b'x'"
    store = RocksStore.open(tmp_path, create=False)
    assert scanned(store) == [b"a"]
    store.close()


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync_apart", [False, True])
def test_rows_survive_a_close_and_a_killed_process(tmp_path: Path, sync_apart: bool) -> None:
    code = (
        "import os, sys; from pathlib import Path; from consentd.store import Batch\n"
        "from consentd.store.rocks import RocksStore\n"
        f"store = RocksStore.open(Path(sys.argv[1]), sync_apart={sync_apart})\n"
        "batch = Batch(); batch.put(b'a', b'1'); store.write(batch)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = RocksStore.open(tmp_path)
    store.write(puts((b"b", b"2")))
    store.close()
    again = RocksStore.open(tmp_path, create=False)
    assert list(again.scan(b"", None)) == [(b"a", b"1"), (b"b", b"2")]
    again.close()


def test_a_torn_log_loses_its_last_batch_only(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    store = RocksStore.open(whole)
    log = next(whole.glob("*.log"))
    sizes = []
    for index in range(3):
        store.write(puts((b"%da" % index, b"1"), (b"%db" % index, b"1")))
        sizes.append(log.stat().st_size)
    for cut in (sizes[1], sizes[1] + 1, sizes[1] + 20, sizes[2] - 1):
        torn = tmp_path / f"torn-{cut}"
        torn.mkdir()
        for file in whole.iterdir():
            # Closing any descriptor of the lock file would drop this process's lock.
            if file.name != "LOCK":
                (torn / file.name).write_bytes(file.read_bytes())
        os.truncate(torn / log.name, cut)
        opened = RocksStore.open(torn, create=False)
        assert scanned(opened) == [b"0a", b"0b", b"1a", b"1b"]
        opened.close()
    store.close()


def test_an_absent_store_is_not_made_unless_asked(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(StorageError):
        RocksStore.open(missing, create=False)
    with pytest.raises(StorageError):
        RocksStore.open_read_only(missing)
    assert not missing.exists()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="directory cannot be made"):
        RocksStore.open(tmp_path / "file")


def opens(path: Path, how: str) -> str:
    code = (
        "import sys; from pathlib import Path; from consentd.store.rocks import RocksStore\n"
        "from consentd.errors import StorageError\n"
        "try: print(getattr(RocksStore, sys.argv[2])(Path(sys.argv[1])).get(b'a'))\n"
        "except StorageError as error: print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, path, how], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_store_in_use_is_refused_in_words(rocks: RocksStore, tmp_path: Path) -> None:
    rocks.write(puts((b"a", b"1")))
    path = tmp_path / "db"
    for opening in (RocksStore.open, RocksStore.open_read_only):
        with pytest.raises(StorageError, match="directory is in use"):
            opening(path)
    assert opens(path, "open").startswith("directory is in use: another process, or this one, has it open")
    assert opens(path, "open_read_only").startswith("directory is in use")
    rocks.write(puts((b"b", b"1")))  # asking did not drop the lock
    assert opens(path, "open").startswith("directory is in use")
    rocks.close()
    assert opens(path, "open_read_only") == "b'1'"
    assert opens(path, "open") == "b'1'"


def test_a_read_only_store_reads_and_a_write_to_it_is_a_bug(rocks: RocksStore, tmp_path: Path) -> None:
    rocks.write(numbered(3))
    rocks.close()
    reader = RocksStore.open_read_only(tmp_path / "db")
    beside = RocksStore.open_read_only(tmp_path / "db")
    assert scanned(reader) == scanned(beside) == [b"0000", b"0001", b"0002"]
    with pytest.raises(AssertionError, match="read-only"):
        reader.write(Batch())
    reader.close()
    beside.close()


def holders(path: Path, secret: bytes) -> list[str]:
    """Return the names of the files below *path* that hold *secret*; the lock file stays untouched."""
    return [file.name for file in path.iterdir() if file.name != "LOCK" and secret in file.read_bytes()]


def test_two_compactions_at_once_both_know_what_a_reader_keeps(rocks: RocksStore) -> None:
    """While one runs, the other asks for the old files; a reader then keeps the files of both."""
    rocks.write(puts((b"a", b"1"), (b"b", b"2")))
    rocks.compact_ranges([(b"", None)])
    reader = rocks.scan(b"", None)
    next(reader)

    class Interrupted:
        """RocksDB; another thread asks for the old files before a compaction begins."""

        def __init__(self, db: object) -> None:
            self.db = db

        def __getattr__(self, name: str) -> object:
            if name == "compact_range":
                rocks.old_files()
            return getattr(self.db, name)

    rocks._db = Interrupted(rocks._db)  # type: ignore[assignment]
    rocks.compact_ranges([(b"", None)])
    assert rocks.old_files()
    reader.close()  # type: ignore[attr-defined]
    del reader
    assert not rocks.old_files()


def test_compaction_removes_deleted_bytes_from_every_file(rocks: RocksStore, tmp_path: Path) -> None:
    """Erasing a person is deleting a range and compacting it: neither tables nor log may keep the bytes."""
    secrets = [os.urandom(64) for _ in range(3)]
    rocks.write(puts((b"t1", secrets[0])))
    rocks.compact_ranges([(b"", None)])  # the first lies in the lowest level,
    rocks.write(puts((b"t2", secrets[1])))
    rocks.compact_ranges([(b"x", b"y")])  # the second in a table above,
    rocks.write(puts((b"t3", secrets[2]), (b"u", b"stays")))  # the third in the log
    assert all(holders(tmp_path / "db", secret) for secret in secrets)
    batch = Batch()
    batch.delete_range(b"t", b"u")
    rocks.write(batch)
    rocks.compact_ranges([(b"t", b"u")])
    assert not any(holders(tmp_path / "db", secret) for secret in secrets)
    assert scanned(rocks) == [b"u"]


def test_a_damaged_table_is_corruption_not_a_short_answer(rocks: RocksStore, tmp_path: Path) -> None:
    rows = puts(*((b"%06d" % index, os.urandom(100)) for index in range(2000)))
    rocks.write(rows)
    rocks.compact_ranges([(b"", None)])
    rocks.close()
    table = max((tmp_path / "db").glob("*.sst"), key=lambda path: path.stat().st_size)  # a compaction adds a tiny one
    damaged = bytearray(table.read_bytes())
    damaged[100_000] ^= 1
    table.write_bytes(damaged)
    store = RocksStore.open(tmp_path / "db")
    for reverse in (False, True):
        with pytest.raises(CorruptionError):
            list(store.scan(b"", None, reverse=reverse))
    with pytest.raises(CorruptionError):
        store.multi_get([b"%06d" % index for index in range(2000)])
    store.close()
    table.write_bytes(damaged[:-5000])
    with pytest.raises(CorruptionError):
        RocksStore.open(tmp_path / "db")
    table.unlink()
    with pytest.raises(CorruptionError):
        RocksStore.open(tmp_path / "db")


def test_a_key_that_is_not_bytes_is_a_bug(rocks: RocksStore) -> None:
    with pytest.raises(AssertionError, match="not bytes"):
        rocks.get("text")  # type: ignore[arg-type]  # what the test is about


class _Disk:
    """A fake of RocksDB: it counts its writes by how they are synced, and each takes ``write_s`` by its clock."""

    def __init__(self) -> None:
        self.now_s = self.write_s = 0.0
        self.together = self.apart = 0

    def perf_counter(self) -> float:
        return self.now_s

    def write(self, rows: object, options: object = None) -> None:
        self.now_s += self.write_s
        self.together += options is not None

    def flush_wal(self, *, sync: bool) -> None:
        self.apart += sync


def test_after_a_slow_write_the_next_ones_sync_without_the_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = _Disk()
    monkeypatch.setattr("consentd.store.rocks.time", disk)
    store = RocksStore(disk, Path("none"), lock=0, sync_apart=False)  # type: ignore[arg-type]
    store.write(Batch())
    assert (disk.together, disk.apart) == (1, 0)
    disk.write_s = 0.1
    for _ in range(1 + 2 * APART):
        store.write(Batch())
    assert (disk.together, disk.apart) == (3, 2 * APART - 1)
    disk.write_s = 0.0
    for _ in range(1 + 100):
        store.write(Batch())
    assert (disk.together, disk.apart) == (3 + 100, 2 * APART)
