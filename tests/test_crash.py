"""Kill -9 in the middle of thousands of concurrent writes: nothing acknowledged is lost, the daemon opens by itself.

A real process with real RocksDB and LMDB is killed at a random moment; the next one opens the same directory, with
no hand laid on it. ``CONSENTD_CRASH_ROUNDS`` says how many kills (20 in CI).
"""

import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, make_config, make_running, question, request_id
from cases.processes import PROGRAM, ROUNDS, DaemonProcess, Writer
from cases.services import services
from consentd.core import merkle
from consentd.ledger.reads import read_leaf
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs

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


# -- between the vault and the ledger -----------------------------------------------------------------------------

CRASHING = (
    """
import os, signal, sys
from pathlib import Path
from typing import Any
from consentd.store.rocks import RocksStore

write, (directory, store, moment) = RocksStore.write, sys.argv[1:4]

def crash(self, batch):
    is_last = self._path.name == store and (Path(directory) / "armed").exists()
    if not is_last or moment == "after":
        write(self, batch)
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)

RocksStore.write = crash
"""
    + PROGRAM
)
"""A daemon that is killed at the first write of a store after a file ``armed`` exists: before the write, or after."""


def enrolled(channel: grpc.Channel, metadata: Any, request: bytes, subject: pb.Subject) -> object:
    stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
    asked = rs.EnrolSubjectRequest(request_id=request, subject=subject, method="test")
    return stub.EnrolSubject(asked, metadata=metadata, timeout=60)


def refused(channel: grpc.Channel, metadata: Any, request: bytes, subject: pb.Subject) -> object:
    """Ask about a person who is not enrolled: the refusal is an entry of the month's unknown chain."""
    stub = access_service_pb2_grpc.AccessServiceStub(channel)
    asked = ac.AuthorizeAccessRequest(request_id=request, question=question(subject))
    return stub.AuthorizeAccess(asked, metadata=metadata, timeout=60)


def crashed(directory: Path, moment: tuple[str, str], call: Callable[[grpc.Channel], object]) -> None:
    """Kill a daemon during *call*, at this moment."""
    process = DaemonProcess(directory, command=[sys.executable, "-c", CRASHING, str(directory), *moment])
    channel = process.channel
    (directory / "armed").touch()
    with pytest.raises(grpc.RpcError):
        call(channel)
    assert process.process.wait(60) == -signal.SIGKILL
    process.kill()


MOMENTS = [("vault", "after"), ("ledger", "before"), ("ledger", "after"), ("vault", "before")]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_between_vault_and_ledger_leaves_the_vault_ahead_and_loses_nothing(
    tmp_path: Path, moment: tuple[str, str]
) -> None:
    first = make_running(tmp_path)
    before = first.enrol("SYN-before")
    first.grant(before)
    first.stop()
    subject, request, metadata = pb.Subject(scheme="mhid", value="SYN-crashed"), request_id(), first.as_("app")
    crashed(tmp_path, moment, lambda channel: enrolled(channel, metadata, request, subject))
    again = Running(first.config, first.tokens)
    try:
        parts = services(again)
        identifier_hash = parts.vault.identifier_hash(subject.scheme, subject.value)
        kept = parts.vault.find(identifier_hash)
        assert (kept is None) is (moment == ("vault", "before"))
        with parts.table.read() as table:
            assert (table.tag_of(identifier_hash) is not None) is (moment == ("ledger", "after"))
        assert again.check(question(before)).outcome == pb.OUTCOME_PERMIT
        enrolled(again.channel, metadata, request, subject)  # the caller repeats it
        with parts.table.read() as table:
            tag = table.tag_of(identifier_hash)
        assert tag == parts.vault.find(identifier_hash)
        assert kept in (None, tag)  # the person has one tag
        again.grant(subject)
        assert again.check(question(subject)).outcome == pb.OUTCOME_PERMIT
        again.check_ledger()
    finally:
        again.stop()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_between_the_key_of_an_unknown_chain_and_its_entry_loses_nothing(
    tmp_path: Path, moment: tuple[str, str]
) -> None:
    first = make_running(tmp_path)
    first.stop()
    subject, request, metadata = pb.Subject(scheme="mhid", value="SYN-nobody"), request_id(), first.as_("app")
    crashed(tmp_path, moment, lambda channel: refused(channel, metadata, request, subject))
    again = Running(first.config, first.tokens)
    try:
        parts = services(again)
        kept = parts.vault.unknown_chains()
        assert len(kept) == (moment != ("vault", "before"))
        refused(again.channel, metadata, request, subject)
        refused(again.channel, metadata, request_id(), subject)
        chains = parts.vault.unknown_chains()
        assert kept.items() <= chains.items()
        assert sum(parts.ledger.head(tag)[0] for tag in chains.values()) == 2
        again.check_ledger()
    finally:
        again.stop()


def test_a_vault_behind_the_ledger_is_refused_with_the_section_of_the_runbook(tmp_path: Path) -> None:
    first = make_running(tmp_path)
    vault = first.config.ledger.vault_dir
    first.stop()
    process = DaemonProcess(tmp_path)
    enrolled(process.channel, first.as_("app"), request_id(), pb.Subject(scheme="mhid", value="SYN-1"))
    process.kill()
    shutil.copytree(vault, tmp_path / "older")
    process = DaemonProcess(tmp_path)
    enrolled(process.channel, first.as_("app"), request_id(), pb.Subject(scheme="mhid", value="SYN-2"))
    process.kill()
    shutil.move(vault, tmp_path / "newer")
    shutil.copytree(tmp_path / "older", vault)
    process = DaemonProcess(tmp_path, waits=False)
    assert process.wait_line("serving gRPC on port", or_end=True) == {}
    assert process.process.wait(60) > 0
    said = "".join(process.lines)
    assert "vault is older than its ledger" in said
    assert "see ops/RUNBOOK.md, `vault lost`" in said
    assert "\n## Vault lost\n" in (Path(__file__).parents[1] / "ops" / "RUNBOOK.md").read_text()
    process.kill()
    shutil.rmtree(vault)
    shutil.move(tmp_path / "newer", vault)
    again = Running(first.config, first.tokens)
    try:
        again.grant(pb.Subject(scheme="mhid", value="SYN-2"))
        again.check_ledger()
    finally:
        again.stop()
