"""Kill -9 in the middle of thousands of concurrent writes: nothing acknowledged is lost, the daemon opens by itself.

A real process with real RocksDB and LMDB is killed at a random moment; the next one opens the same directory, with
no hand laid on it. ``CONSENTD_CRASH_ROUNDS`` says how many kills (20 in CI).
"""

import random
import threading
from pathlib import Path

import pytest

from cases.daemons import Running, make_config, make_running, question
from cases.processes import ROUNDS, DaemonProcess, Writer
from consentd.core import merkle
from consentd.ledger.reads import read_leaf

WRITES = 10_000
WRITERS = 8


@pytest.mark.slow
def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    first = make_running(tmp_path)
    subjects = [first.enrol(f"SYN-{number:06d}") for number in range(40)]
    for subject in subjects[::2]:
        first.grant(subject)
    questions = [question(subject) for subject in subjects]
    metadata = first.as_("clinic-b")
    first.stop()
    acknowledged: dict[int, bytes] = {}
    moments = random.Random(20)
    for _ in range(ROUNDS):
        process = DaemonProcess(tmp_path)
        writers = [Writer(process.port, metadata, questions, WRITES // WRITERS) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        if not acknowledged:
            assert writers[0].has_written.wait(60)  # so that the first kill can lose something
        # A real moment of a real run: waiting for progress instead would always kill at the same kind of place.
        threading.Event().wait(moments.uniform(0.1, 1.5))
        process.kill()
        for writer in writers:
            writer.join()
            acknowledged |= writer.acknowledged
    assert acknowledged
    last = Running(make_config(tmp_path), first.tokens)
    try:
        assert last.check_ledger() > len(acknowledged)
        assert last.daemon.service_state.services is not None
        store = last.daemon.service_state.services.ledger.store
        for index, leaf_hash in acknowledged.items():
            assert merkle.leaf_hash(read_leaf(store, index)) == leaf_hash
    finally:
        last.stop()

