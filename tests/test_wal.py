"""Logs that RocksDB would read for ever are refused before it reads them; all others are left to RocksDB."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consentd.errors import CorruptionError
from consentd.store import Batch
from consentd.store.rocks import RocksStore
from consentd.store.wal import check_logs, find_recycled

RECYCLED_TYPES = (5, 6, 7, 8, 11, 131)
TYPE_AT = 6  # of a record's header


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the log of a store with three records, one of them longer than a block."""
    store = RocksStore.open(tmp_path / "db", sync_apart=False)
    for number, length in enumerate((10, 100_000, 10)):
        batch = Batch()
        batch.put(b"key%d" % number, bytes(range(1, 251)) * (length // 250 + 1))
        store.write(batch)
    shutil.copytree(tmp_path / "db", tmp_path / "copy")  # closing the store empties the log
    store.close()
    (found,) = (tmp_path / "copy").glob("*.log")
    return found


def records(content: bytes) -> list[int]:
    """Return where records begin, by the lengths in their headers."""
    starts, at = [], 0
    while at + 7 <= len(content):
        if (32 << 10) - at % (32 << 10) < 7:
            at += (32 << 10) - at % (32 << 10)
            continue
        starts.append(at)
        at += 7 + int.from_bytes(content[at + 4 : at + 6], "little")
    return starts


def refused(log: Path) -> bool:
    try:
        check_logs(log.parent)
    except CorruptionError:
        return True
    return False


def test_a_whole_log_is_not_refused(log: Path) -> None:
    check_logs(log.parent)
    assert len(records(log.read_bytes())) >= 6
    store = RocksStore.open(log.parent)
    assert store.get(b"key1") is not None
    store.close()


@pytest.mark.parametrize("kind", RECYCLED_TYPES)
def test_each_record_of_a_recycled_log_is_refused_wherever_it_is(log: Path, kind: int) -> None:
    whole = log.read_bytes()
    for start in records(whole):
        log.write_bytes(whole[: start + TYPE_AT] + bytes((kind,)) + whole[start + TYPE_AT + 1 :])
        for open_store in (RocksStore.open, RocksStore.open_read_only):
            with pytest.raises(CorruptionError) as raised:
                open_store(log.parent)
            assert f"byte {start};" in str(raised.value)


@pytest.mark.parametrize("kind", RECYCLED_TYPES)
def test_a_tail_of_a_recycled_type_is_refused_though_its_record_is_cut(log: Path, kind: int) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + bytes((1, 2, 3, 4, 200, 200, kind, 9)))
    assert refused(log)


def test_after_an_invalid_record_the_rest_of_its_block_is_not_read(log: Path) -> None:
    whole = log.read_bytes()
    first, second = records(whole)[:2]
    damaged = bytearray(whole)
    damaged[first + 8] ^= 1  # the payload no longer has its checksum
    damaged[second + TYPE_AT] = 5
    log.write_bytes(damaged)
    assert not refused(log)
    RocksStore.open_read_only(log.parent).close()


@given(content=st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused_at_a_record_of_a_recycled_log(content: bytes) -> None:
    at = find_recycled(content)
    assert at is None or content[at + TYPE_AT] in RECYCLED_TYPES
    if len(content) > TYPE_AT:
        assert (at == 0) == (content[TYPE_AT] in RECYCLED_TYPES)
