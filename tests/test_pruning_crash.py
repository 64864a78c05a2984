"""Kill -9 in the middle of a pruning beside writers: the ledger opens by itself, is whole, and the next call finishes.

Each round takes a copy of one ledger of old entries, begins to prune it in a real process with real RocksDB and LMDB,
and kills that at a random moment. What is left at the end is what a pruning that nobody disturbed leaves.
``CONSENTD_CRASH_ROUNDS`` says how many kills (20 in CI).
"""

import random
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cases.daemons import Running, make_config, make_running, question, request_id
from cases.fakes import HANG_S
from cases.processes import ROUNDS, DaemonProcess, Writer
from consentd.core import merkle
from consentd.core.pruned import DAY_MS, NOTHING
from consentd.ledger import retention
from consentd.ledger.reads import read_leaf
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client import Client

PEOPLE = 40
ACCESSES = 40
WRITERS = 2
DAYS = 730
YEARS_AGO_MS = 10 * 365 * DAY_MS


class OldClock:
    """The machine's clock, ten years ago."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 - YEARS_AGO_MS

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True)
class Old:
    """A ledger of which most is past its retention.

    Attributes:
        size: leaves there are.
        rest: rows of those leaves once it was pruned, by key.
    """

    directory: Path
    tokens: dict[str, str]
    questions: list[object]
    size: int
    rest: dict[bytes, bytes]

    def copy(self, directory: Path) -> Path:
        shutil.copytree(self.directory, directory)
        return directory


def rows_below(running: Running, size: int) -> dict[bytes, bytes]:
    """Return leaves, index rows and statements of the first *size* entries."""
    services = running.daemon.service_state.services
    assert services is not None
    store = services.ledger.store
    found = {key: row for key, row in store.scan(b"l", b"m") if int.from_bytes(key[1:]) < size}
    for key, row in store.scan(b"i", b"j"):
        if int.from_bytes(row) < size:
            found[key] = row
            made = store.get(b"c" + key[1:])
            if made is not None:
                found[b"c" + key[1:]] = made
    return found


def prune(running: Running) -> ad.PruneResult:
    return Client("", token=running.tokens["operator"], channel=running.channel, timeout_s=HANG_S).prune()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    directory = tmp_path_factory.mktemp("old") / "ledger"
    first = make_running(directory, daemon={"clock": OldClock()}, retention_days=DAYS)
    subjects = [first.enrol(f"SYN-{number:06d}") for number in range(PEOPLE)]
    questions = [question(subject) for subject in subjects]
    for number, subject in enumerate(subjects):
        given = first.grant(subject)
        asked = [
            ac.AuthorizeAccessRequest(request_id=request_id(), question=questions[number]) for _ in range(ACCESSES)
        ]
        first.access.BatchAuthorizeAccesses(
            ac.BatchAuthorizeAccessesRequest(requests=asked), metadata=first.as_("app")
        )
        revoke = cs.RevokeConsentRequest(
            request_id=request_id(), subject=subject, consent_id=given, attested=st.RevokeStatement()
        )
        first.consents.RevokeConsent(revoke, metadata=first.as_("app"))
    first.stop()
    second = Running(make_config(directory), first.tokens)
    for subject in subjects[::2]:
        second.grant(subject)
    size = second.check_ledger()
    second.stop()
    whole = Old(directory, first.tokens, questions, size, {})
    undisturbed = Running(make_config(whole.copy(directory.with_name("undisturbed"))), first.tokens)
    before = rows_below(undisturbed, size)
    prune(undisturbed)
    undisturbed.check_ledger()
    rest = rows_below(undisturbed, size)
    undisturbed.stop()
    assert len(before) - len(rest) > 3 * PEOPLE * ACCESSES // 2
    return Old(directory, first.tokens, questions, size, rest)


@pytest.mark.slow
def test_no_kill_in_a_pruning_loses_anything_and_the_next_call_finishes(old: Old, tmp_path: Path) -> None:
    moments = random.Random(21)
    app = (("authorization", f"Bearer {old.tokens['app']}"),)
    for number in range(ROUNDS):
        directory = old.copy(tmp_path / f"round-{number}")
        process = DaemonProcess(directory)
        writers = [Writer(process.port, app, old.questions, 1_000) for _ in range(WRITERS)]
        for thread in writers:
            thread.start()
        with Client(f"127.0.0.1:{process.port}", token=old.tokens["operator"]) as operator:
            operator.start_pruning()
        # Any moment of a real run, from before the pruning is stated until after its end.
        threading.Event().wait(moments.uniform(0.0, 0.3))
        process.kill()
        for thread in writers:
            thread.join()

        last = Running(make_config(directory), old.tokens)
        try:
            last.check_ledger()
            assert last.daemon.service_state.services is not None
            store = last.daemon.service_state.services.ledger.store
            days, stated = retention.read_stated_prunings(store)
            assert days == DAYS
            assert len(stated) <= 1
            if not stated:
                # Nothing is deleted before the ledger says so.
                assert retention.read_pruned(store) == NOTHING
                assert rows_below(last, old.size).items() >= old.rest.items()
            was_finished = bool(stated) and retention.is_finished(store) and retention.read_pruned(store) != NOTHING
            done = prune(last)
            assert retention.is_finished(store)
            if stated and not was_finished:
                # It finishes the stated pruning, and states no other.
                assert retention.read_stated_prunings(store) == (DAYS, stated)
                assert (done.kept_from_time_ms, done.start_size) == (
                    stated[0].pruned.kept_from_ms, stated[0].pruned.start
                )  # fmt: skip
            assert rows_below(last, old.size) == old.rest
            last.check_ledger()
            for writer in writers:
                for index, leaf_hash in writer.acknowledged.items():
                    assert merkle.leaf_hash(read_leaf(store, index)) == leaf_hash
        finally:
            last.stop()
        shutil.rmtree(directory)
