"""The clean copy of an LMDB file: the same rows, and no byte of a row that was deleted."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from consentd.errors import StorageError
from consentd.store import lmdb_pages
from consentd.store.lmdb import Environment
from consentd.store.lmdb_pages import UnknownPageError, copy_clean

Rows = dict[bytes, bytes]


def changed(environment: Environment, rows: Rows, rng: random.Random, commits: int) -> set[bytes]:
    """Put and delete random rows, as a table has them and longer ones; return keys and parts of values that are gone.

    *rows* becomes what the environment has.
    """
    ever: set[bytes] = set()
    for _ in range(commits):
        with environment.begin_write() as txn:
            for _ in range(60):
                key = rng.choice((b"i", b"s", b"q" + rng.randbytes(32), b"k")) + rng.randbytes(32)
                length = rng.choice((16, 90, 300, 1900, 2100, 4079, 4080, 4081, 9000))
                rows[key] = rng.randbytes(length)
                ever |= {key, rows[key][:16], rows[key][-16:]}
                txn.put(key, rows[key])
            for key in rng.sample(sorted(rows), min(len(rows), 50)):
                rows.pop(key)
                txn.delete(key)
    return ever - {part for key, value in rows.items() for part in (key, value[:16], value[-16:])}


def fill(environment: Environment, rows: Rows) -> None:
    with environment.begin_write() as txn:
        for key, value in rows.items():
            txn.put(key, value)


def listed(environment: Environment) -> Rows:
    with environment.begin_read() as txn:
        return dict(txn.scan(b"", None))


def left(file: Path, gone: set[bytes]) -> int:
    """Return how many of these parts a file has, of at most 400 of them."""
    content = file.read_bytes()
    return sum(part in content for part in random.Random(0).sample(sorted(gone), min(len(gone), 400)))


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    made = Environment.open(tmp_path / "table", map_size_mb=256)
    yield made
    made.close()


def compact_copy(environment: Environment, path: Path) -> bytes:
    """Return LMDB's own compact copy."""
    path.mkdir()
    environment._env.copy(str(path), compact=True)
    return (path / "data.mdb").read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_the_copy_has_the_same_rows_and_nothing_of_deleted_ones(
    environment: Environment, tmp_path: Path, seed: int
) -> None:
    rows: Rows = {}
    rng = random.Random(seed)
    gone = changed(environment, rows, rng, 20)
    compact_copy(environment, tmp_path / "compact")
    assert left(tmp_path / "compact/data.mdb", gone) > 0  # which is why there is another copy
    environment.copy(tmp_path / "clean")
    assert left(tmp_path / "clean/data.mdb", gone) == 0
    copy = Environment.open(tmp_path / "clean", map_size_mb=256)
    try:
        assert listed(copy) == rows
        gone |= changed(copy, rows, rng, 20)  # LMDB goes on with the keys that were replaced in branch pages
        assert listed(copy) == rows
        copy.copy(tmp_path / "again")
        assert left(tmp_path / "again/data.mdb", gone) == 0
    finally:
        copy.close()


def test_pages_of_unknown_form_are_copied_row_by_row(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: Rows = {b"R": b"revision"}
    fill(environment, rows)
    gone = changed(environment, rows, random.Random(1), 20)

    def clean(*_: object) -> None:
        raise UnknownPageError("table page has an unknown form")

    monkeypatch.setattr(lmdb_pages._Pages, "clean", clean)
    environment.copy(tmp_path / "clean")
    assert left(tmp_path / "clean/data.mdb", gone) == 0
    copy = Environment.open(tmp_path / "clean", map_size_mb=256)
    assert listed(copy) == rows
    copy.close()


def test_a_deleted_key_that_bounds_a_subtree_is_replaced(environment: Environment, tmp_path: Path) -> None:
    """Every key is deleted once, in a tree of three levels. LMDB's compact copy has many of them in branch pages."""
    keys = [b"i" + random.Random(at).randbytes(32) for at in range(12_000)]
    fill(environment, dict.fromkeys(keys, bytes(36)))
    gone = set(sorted(keys)[::2])
    with environment.begin_write() as txn:
        for key in gone:
            txn.delete(key)
    environment.copy(tmp_path / "clean")
    assert left(tmp_path / "clean/data.mdb", {key[:16] for key in gone}) == 0
    copy = Environment.open(tmp_path / "clean", map_size_mb=256)
    assert listed(copy).keys() == set(keys) - gone
    copy.close()


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_file_and_one_row_are_copied(environment: Environment, tmp_path: Path, count: int) -> None:
    fill(environment, {b"%d" % index: b"x" for index in range(count)})
    environment.copy(tmp_path / "clean")
    copy = Environment.open(tmp_path / "clean", map_size_mb=256)
    assert len(listed(copy)) == count
    copy.close()


def written(content: bytes, path: Path) -> bytes:
    """Return the file that is made of these bytes of a compact copy."""

    def write(file: int) -> None:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]

    copy_clean(write, path, page_size=4096)
    return path.read_bytes()


def test_damaged_pages_are_refused_or_copied_and_nothing_else(environment: Environment, tmp_path: Path) -> None:
    """Nobody knows what a damaged page means. Its rows have checks of their own, which are not this module's."""
    changed(environment, {}, random.Random(9), 12)
    whole = compact_copy(environment, tmp_path / "compact")
    assert len(written(whole, tmp_path / "whole")) == len(whole)
    refused, rng = 0, random.Random(5)
    for number in range(200):
        content = bytearray(whole)
        page = rng.randrange(len(whole) // 4096)
        content[page * 4096 + rng.randrange(40)] = rng.randrange(256)
        try:
            assert len(written(bytes(content), tmp_path / f"{number}")) == len(whole)
        except UnknownPageError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("length", [0, 1, 4096, 8192, 8193, -4096, -1])
def test_a_part_of_a_copy_is_refused(environment: Environment, tmp_path: Path, length: int) -> None:
    changed(environment, {}, random.Random(3), 8)
    whole = compact_copy(environment, tmp_path / "compact")
    with pytest.raises(UnknownPageError):
        written(whole[:length], tmp_path / "part")


def test_a_disk_that_fails_ends_the_copy(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(environment, {}, random.Random(2), 40)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lmdb_pages, "_write_all", fail)
    with pytest.raises(StorageError):
        environment.copy(tmp_path / "clean")
    monkeypatch.undo()
    environment.copy(tmp_path / "next")


def test_rests_are_between_pieces(environment: Environment, tmp_path: Path) -> None:
    changed(environment, {}, random.Random(1), 20)
    rests: list[None] = []
    environment.copy(tmp_path / "clean", lambda: rests.append(None))
    assert len(rests) == -(-(tmp_path / "clean/data.mdb").stat().st_size // (1 << 20))
