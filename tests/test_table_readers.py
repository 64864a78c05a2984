"""Readers of the table that die in a transaction: what they held is free again, and the file does not grow.

``CONSENTD_TABLE_HOURS`` says how many hours of heartbeats are simulated (24 in CI).
"""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.ledgers import LedgerCase
from cases.processes import ENVIRONMENT
from consentd.errors import StorageError
from consentd.store.lmdb import MAX_READERS, Environment

HOURS = float(os.environ.get("CONSENTD_TABLE_HOURS", "0.5"))
KILL_EVERY_S = 600

READER = """
import sys
from pathlib import Path
from consentd.store.lmdb import Environment
environment = Environment.open_read_only(Path(sys.argv[1]))
transactions = [environment.begin_read() for _ in range(int(sys.argv[2]))]
print(flush=True)
sys.stdin.read()
"""


class Reader:
    """A process that holds read transactions."""

    def __init__(self, path: Path, count: int = 1) -> None:
        command = [sys.executable, "-c", READER, str(path), str(count)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=ENVIRONMENT)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    opened = Environment.open(tmp_path / "table", map_size_mb=16)
    yield opened
    opened.close()


def commit(environment: Environment, count: int) -> None:
    for number in range(count):
        with environment.begin_write() as txn:
            txn.put(b"H", number.to_bytes(8))


def test_the_pages_of_a_reader_that_died_are_used_again(environment: Environment, tmp_path: Path) -> None:
    commit(environment, 20)
    before = environment.used_bytes()
    reader = Reader(tmp_path / "table")
    commit(environment, 100)
    grown = environment.used_bytes()
    assert grown > before + (100 << 12)
    assert environment.clear_dead_readers() == 0  # it lives
    reader.end()
    assert environment.clear_dead_readers() == 1
    assert environment.readers().oldest is None
    commit(environment, 1_000)
    assert environment.used_bytes() == grown


def test_a_start_clears_what_died_before_it(environment: Environment, tmp_path: Path) -> None:
    commit(environment, 1)
    first, second = Reader(tmp_path / "table"), Reader(tmp_path / "table")
    environment.close()
    first.end()
    again = Environment.open(tmp_path / "table", map_size_mb=16)
    try:
        assert again.readers().slots == 1  # of the one that lives
    finally:
        second.end()
        again.close()


def test_slots_that_dead_readers_fill_are_free_for_the_next_reader(environment: Environment, tmp_path: Path) -> None:
    commit(environment, 1)
    reader = Reader(tmp_path / "table", MAX_READERS)
    with pytest.raises(StorageError, match="readers already"):
        environment.begin_read()
    reader.end()
    with environment.begin_read() as txn:
        assert txn.get(b"H") is not None


def test_a_stopped_reader_is_no_dead_reader_and_its_age_is_measured(case: LedgerCase) -> None:
    reader = Reader(case.table_path)
    reader.process.send_signal(signal.SIGSTOP)
    seen = []
    for _ in range(3):
        case.clock.advance(1000)
        case.sequencer.call(lambda: None)
        case.sequencer.call(lambda: None)  # the upkeep of the call before has ended
        seen.append(case.metrics.value("consentd_table_oldest_reader_time_seconds"))
        case.write(case.participant(f"clinic{len(seen)}"))
    assert seen[0] == seen[1] == seen[2] == case.clock.wall_ms() / 1000 - 2
    assert case.metrics.value("consentd_table_readers") >= 1
    assert case.metrics.value("consentd_table_dead_readers_total") == 0
    reader.process.send_signal(signal.SIGCONT)
    reader.end()
    case.clock.advance(1000)
    case.sequencer.call(lambda: None)
    case.sequencer.call(lambda: None)
    assert math.isnan(case.metrics.value("consentd_table_oldest_reader_time_seconds"))
    assert case.metrics.value("consentd_table_dead_readers_total") == 1


@pytest.mark.slow
def test_heartbeats_and_killed_readers_do_not_grow_the_table(case: LedgerCase) -> None:
    assert case.table is not None
    case.write(case.participant("clinic"))
    heartbeats, killed, sizes = round(HOURS * 3600), 0, []
    reader: Reader | None = None
    for second in range(heartbeats):
        if second % KILL_EVERY_S == 0:
            reader = Reader(case.table_path)
        if second % KILL_EVERY_S == 60 and reader is not None:
            reader.end()
            killed += 1
        case.clock.advance(1000)
        case.sequencer.call(lambda: None)
        if second % KILL_EVERY_S == KILL_EVERY_S - 1:
            sizes.append(case.table.used_bytes())
    if reader is not None:
        reader.end()
    assert killed == len(sizes)
    assert max(sizes) == sizes[0]  # what the first reader made it grow by is used again, for ever
    assert sizes[0] < 4 << 20
    assert killed - 1 <= case.metrics.value("consentd_table_dead_readers_total") <= killed
    # A writer under load does the same: no call is idle.
    for number in range(20):
        Reader(case.table_path).end()
        case.clock.advance(1000)
        case.write(case.participant(f"clinic{number}"))
    assert case.table.readers().oldest is None
