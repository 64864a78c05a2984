"""The door to LMDB: transactions, several processes, a full map, damage, and copies without freed pages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consentd.errors import CorruptionError, StorageError
from consentd.store.lmdb import Environment


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    made = Environment.open(tmp_path / "table", map_size_mb=16)
    yield made
    made.close()


def fill(environment: Environment, *pairs: tuple[bytes, bytes]) -> None:
    with environment.begin_write() as txn:
        for key, value in pairs:
            txn.put(key, value)


def listed(environment: Environment, start: bytes = b"", end: bytes | None = None) -> list[bytes]:
    with environment.begin_read() as txn:
        return [key for key, _ in txn.scan(start, end)]


class Other:
    """Another process. It executes one line of Python at a time, and prints the results."""

    def __init__(self, path: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path; from consentd.store.lmdb import Environment\n"
            "names = {'os': os, 'environment': Environment.open_read_only(Path(sys.argv[1]))}\n"
            "for line in sys.stdin:\n"
            "    exec(line, names)\n"
            "    print(names.get('answer'), flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def get(self, key: bytes) -> str:
        self.run("txn = environment.begin_read()")
        answer = self.run(f"answer = txn.get({key!r})")
        self.run("txn.__exit__(None, None, None)")
        return answer


def test_a_write_reads_itself_and_shows_after_commit(environment: Environment) -> None:
    with environment.begin_write() as writing:
        writing.put(b"a", b"1")
        assert writing.get(b"a") == b"1"
        with environment.begin_read() as reading:
            assert reading.get(b"a") is None
    with environment.begin_read() as reading:
        assert reading.get(b"a") == b"1"
        assert reading.get(b"b") is None


def test_a_read_stays_at_its_commit(environment: Environment) -> None:
    fill(environment, (b"a", b"1"))
    with environment.begin_read() as reading:
        fill(environment, (b"a", b"2"))
        assert reading.get(b"a") == b"1"
        with environment.begin_read() as later:
            assert later.get(b"a") == b"2"


def test_an_exception_and_an_end_without_commit_change_nothing(environment: Environment) -> None:

    def fails() -> None:
        with environment.begin_write() as txn:
            txn.put(b"a", b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    txn = environment.begin_write()
    txn.put(b"b", b"1")
    txn.end(None)
    assert listed(environment) == []


def test_a_commit_within_the_block_ends_it(environment: Environment) -> None:
    with environment.begin_write() as txn:
        txn.put(b"a", b"1")
        txn.commit()
        assert listed(environment) == [b"a"]
    assert listed(environment) == [b"a"]


def test_delete_tells_whether_the_key_was_there(environment: Environment) -> None:
    fill(environment, (b"a", b"1"))
    with environment.begin_write() as txn:
        assert txn.delete(b"a")
        assert not txn.delete(b"a")
    assert listed(environment) == []


KEYS = st.binary(min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(
    pairs=st.dictionaries(KEYS, st.binary(max_size=3), max_size=12),
    start=st.just(b"") | KEYS,
    end=st.none() | KEYS,
    limit=st.none() | st.integers(0, 4),
)
def test_scan_agrees_with_a_sorted_dict(
    shared: Environment, pairs: dict[bytes, bytes], start: bytes, end: bytes | None, limit: int | None
) -> None:
    with shared.begin_write() as txn:
        for key, _ in list(txn.scan(b"", None)):
            txn.delete(key)
        for pair in pairs.items():
            txn.put(*pair)
    inside = [pair for pair in sorted(pairs.items()) if start <= pair[0] and (end is None or pair[0] < end)]
    with shared.begin_read() as reading:
        assert list(reading.scan(start, end, limit=limit)) == inside[:limit]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    made = Environment.open(tmp_path_factory.mktemp("lmdb") / "table", map_size_mb=16)
    yield made
    made.close()


def test_reopening_keeps_the_rows(environment: Environment, tmp_path: Path) -> None:
    fill(environment, (b"a", b"1"))
    environment.close()
    environment.close()
    again = Environment.open(tmp_path / "table", map_size_mb=16)
    assert listed(again) == [b"a"]
    again.close()


def test_a_second_writer_is_refused_and_a_reader_in_the_writer_s_process_is_a_bug(
    environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / "table" / "lock.mdb").unlink()  # LMDB's own lock would not notice a second writer now
    with pytest.raises(StorageError, match="directory is in use"):
        Environment.open(tmp_path / "table", map_size_mb=16)
    assert not (tmp_path / "table" / "lock.mdb").exists()
    with pytest.raises(AssertionError, match="table was opened twice"):
        Environment.open_read_only(tmp_path / "table")
    fill(environment, (b"a", b"1"))


def test_other_processes_read_each_commit(environment: Environment, tmp_path: Path) -> None:
    fill(environment, (b"a", b"0"))
    with Other(tmp_path / "table") as other:
        for index in range(20):
            fill(environment, (b"a", b"%d" % index))
            assert other.get(b"a") == repr(b"%d" % index)


def test_a_reader_takes_over_a_larger_map(environment: Environment, tmp_path: Path) -> None:
    fill(environment, (b"a", b"1"))
    with Other(tmp_path / "table") as other:
        assert other.get(b"a") == "b'1'"
        environment.close()
        larger = Environment.open(tmp_path / "table", map_size_mb=64)
        fill(larger, *((b"%06d" % index, os.urandom(1000)) for index in range(20_000)), (b"z", b"last"))
        assert larger.used_bytes() > 16 << 20
        assert other.get(b"z") == "b'last'"
        larger.close()


def test_files_of_another_user_are_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise lmdb.ReadonlyError("Permission denied")  # as LMDB calls it; root is never refused

    monkeypatch.setattr(lmdb, "open", refuse)
    with pytest.raises(StorageError, match="table cannot be opened: whose are its files"):
        Environment.open(tmp_path / "table", map_size_mb=1)


def test_a_full_map_says_what_to_raise_and_keeps_the_commit_before(tmp_path: Path) -> None:
    small = Environment.open(tmp_path / "small", map_size_mb=1)
    fill(small, (b"a", b"1"))
    with pytest.raises(StorageError, match="table is full: raise `map_size_mb`"):
        fill(small, *((b"%06d" % index, b"x" * 1000) for index in range(10_000)))
    assert listed(small) == [b"a"]
    fill(small, (b"b", b"1"))
    small.close()


def test_a_copy_holds_no_freed_bytes(environment: Environment, tmp_path: Path) -> None:
    secrets = [os.urandom(100) for _ in range(50)]
    fill(environment, *((b"%04d" % index, secret) for index, secret in enumerate(secrets)), (b"keep", b"me"))
    with environment.begin_write() as txn:
        assert all(txn.delete(b"%04d" % index) for index in range(50))
    file = (tmp_path / "table" / "data.mdb").read_bytes()
    assert any(secret in file for secret in secrets)
    environment.copy(tmp_path / "copies" / "next")
    copied = (tmp_path / "copies" / "next" / "data.mdb").read_bytes()
    assert not any(secret in copied for secret in secrets)
    next_generation = Environment.open(tmp_path / "copies" / "next", map_size_mb=16)
    assert listed(next_generation) == [b"keep"]
    next_generation.close()
    with pytest.raises(StorageError):
        environment.copy(tmp_path / "copies" / "next")


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Environment.open_read_only(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="table directory cannot be made"):
        Environment.open(tmp_path / "file", map_size_mb=1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "data.mdb").write_bytes(b"not LMDB" * 1000)
    with pytest.raises(CorruptionError):
        Environment.open(foreign, map_size_mb=1)


def test_a_closed_environment_says_so(environment: Environment) -> None:
    environment.close()
    for use in (environment.begin_read, environment.begin_write, environment.used_bytes):
        with pytest.raises(StorageError):
            use()


def test_a_key_too_long_and_a_write_without_right_are_bugs(environment: Environment, tmp_path: Path) -> None:
    longest = 511  # LMDB's own limit
    fill(environment, (b"k" * longest, b"1"))
    with pytest.raises(AssertionError, match="table was misused"), environment.begin_write() as txn:
        txn.put(b"k" * (longest + 1), b"1")
    environment.close()
    reader = Environment.open_read_only(tmp_path / "table")
    with pytest.raises(AssertionError):
        reader.begin_write()
    reader.close()


def test_an_error_of_lmdb_inside_a_read_is_translated(environment: Environment) -> None:
    with pytest.raises(AssertionError), environment.begin_read() as txn:
        txn.get(b"")


def test_files_are_not_for_everybody(environment: Environment, tmp_path: Path) -> None:
    fill(environment, (b"a", b"1"))
    for file in (tmp_path / "table").iterdir():
        assert file.stat().st_mode & 0o007 == 0
