"""Kill -9 at each step of an erasure, and restored stores: the next open does what is left."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, make_config, make_running, question
from cases.erasures import AUTHORITY, add_authority, erase, holds, order, uncompressed
from cases.fakes import HANG_S
from cases.processes import DaemonProcess
from cases.services import Person, services
from consentd.core.ed25519 import KeyPair
from consentd.ledger import erasure, layout
from consentd.store import Batch, rocks
from consentd.store.memory import MemoryStore
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import registry_service_pb2_grpc

STEPS = (
    "consentd.ledger.erasure:ErasureList.add", "consentd.ledger.erasure:statement_rows",
    "consentd.ledger.vault:Vault.destroy", "consentd.ledger.erasure:compact_vault",
    "consentd.ledger.erasure:compact_ledger", "consentd.store.lmdb:Environment.copy", "os:replace",
    "consentd.sequencer.erasures:Erasures._complete",
)  # fmt: skip
"""Where the process is killed. The first is in the call, and each later one in the open after the kill before it."""
PROGRAM = """
import os, pkgutil, signal, sys
from pathlib import Path
from consentd import logs
from consentd.server import daemon
from cases.daemons import make_config
owner, _, name = sys.argv[2].replace(":", ".").rpartition(".")
step = getattr(pkgutil.resolve_name(owner), name)
def kill(*given, **named):
    if name != "replace" or str(given[1]).endswith("data.mdb"):  # the lock file is replaced, and the data are not
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given, **named)
setattr(pkgutil.resolve_name(owner), name, kill)
logs.configure("debug")
daemon.serve(make_config(Path(sys.argv[1])))
"""


@pytest.fixture
def first(tmp_path: Path) -> Running:
    running = make_running(tmp_path)
    add_authority(running)
    return running


def person(running: Running) -> Person:
    made = Person(running, KeyPair(os.urandom(32)))
    running.grant(made.subject)
    running.authorize(question(made.subject))
    return made


def reopened(directory: Path, running: Running) -> Iterator[Running]:
    again = Running(make_config(directory), running.tokens)
    try:
        yield again
    finally:
        again.stop()


def check_gone(running: Running, gone: Person, request: rs.EraseSubjectRequest) -> None:
    """Check that an erasure is complete, that a repeat is answered, and that the ledger is whole."""
    assert erase(running, request).receipt.replayed
    used = services(running)
    assert not used.vault.has_key(gone.tag)
    assert used.vault.find(used.vault.identifier_hash(gone.subject.scheme, gone.subject.value)) is None
    assert not erasure.has_statements(used.ledger.store, gone.tag)
    assert not list(used.ledger.store.scan(b"e", b"f"))
    assert running.check_ledger()


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_nothing_undone(tmp_path: Path, first: Running) -> None:
    gone, other = person(first), person(first)
    request = order(first, gone.subject)
    first.stop()
    for number, step in enumerate(STEPS):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), step]
        process = DaemonProcess(tmp_path, command=command, waits=number == 0)
        if number == 0:
            stub = registry_service_pb2_grpc.RegistryServiceStub(process.channel)
            with pytest.raises(grpc.RpcError):
                stub.EraseSubject(request, metadata=first.as_(AUTHORITY), timeout=HANG_S)
        assert process.process.wait(HANG_S) == -9, step
        process.kill()
    for again in reopened(tmp_path, first):
        check_gone(again, gone, request)
        assert again.check(question(other.subject)).permitted


def files_with(directory: Path, needle: bytes) -> list[Path]:
    """Return the files that have these bytes. The stores must not compress."""
    return [path for path in directory.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_a_vault_from_before_an_erasure_loses_the_keys_at_the_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocks, "_open_arguments", uncompressed(rocks))
    first = make_running(tmp_path)
    add_authority(first)
    gone, other = person(first), person(first)
    request = order(first, gone.subject)
    rows = {one.tag: services(first).vault.store.get(b"k" + one.tag) or b"" for one in (gone, other)}
    first.stop()
    vault = tmp_path / "data/vault"
    shutil.copytree(vault, tmp_path / "backup")
    for again in reopened(tmp_path, first):
        erase(again, request)
    shutil.rmtree(vault)
    shutil.copytree(tmp_path / "backup", vault)
    for again in reopened(tmp_path, first):
        check_gone(again, gone, request)
        assert holds(again, other.subject).tag == other.tag
    for tag, row in rows.items():  # the pseudonym itself remains, in the ledger's leaves
        assert bool(files_with(vault, row[-24:])) == (tag == other.tag)
        assert bool(files_with(vault, tag)) == (tag == other.tag)


@pytest.mark.parametrize("lost", ["missing", "cut", "torn"])
def test_a_list_that_is_lost_is_made_from_the_ledger(tmp_path: Path, first: Running, lost: str) -> None:
    gone = [person(first) for _ in range(3)]
    requests = [order(first, one.subject) for one in gone]
    for request in requests:
        erase(first, request)
    first.stop()
    path = tmp_path / "data" / erasure.LIST_NAME
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [bytes.fromhex(line.split()[1]) for line in before.splitlines()] == [one.tag for one in gone]
    if lost == "missing":
        path.unlink()
    elif lost == "torn":  # by a power cut while the last line was written
        path.write_text(before[:-50])
    else:
        path.write_text(before.splitlines()[0] + "\n")
    for again in reopened(tmp_path, first):
        check_gone(again, gone[0], requests[0])
    assert path.read_text() == before


def test_a_restored_store_with_statements_is_erased_again(tmp_path: Path, first: Running) -> None:
    """A row that came back, as in a store that was put together from two copies."""
    gone = person(first)
    request = order(first, gone.subject)
    store = services(first).ledger.store
    key = layout.statement_key(gone.tag, 2)
    row = store.get(key)
    assert row is not None
    erase(first, request)
    batch = Batch()
    batch.put(key, row)
    services(first).sequencer.call(lambda: store.write(batch))
    first.stop()
    for again in reopened(tmp_path, first):
        check_gone(again, gone, request)


def test_a_restored_table_keeps_nothing_of_a_person_who_was_erased_since(tmp_path: Path, first: Running) -> None:
    gone, other = person(first), person(first)
    request, used = order(first, gone.subject), services(first)
    hashed = [used.vault.identifier_hash(one.subject.scheme, one.subject.value) for one in (gone, other)]
    first.stop()
    table = tmp_path / "data/table"
    shutil.copytree(table, tmp_path / "backup")
    for again in reopened(tmp_path, first):
        erase(again, request)
    shutil.rmtree(table)
    shutil.copytree(tmp_path / "backup", table)
    for again in reopened(tmp_path, first):
        check_gone(again, gone, request)
        assert again.check(question(other.subject)).permitted
    assert [one in (table / "data.mdb").read_bytes() for one in hashed] == [False, True]


@pytest.mark.parametrize(("tags", "requests", "most"), [(1, 2, 3), (1, 1000, 2), (1000, 2, 3), (1000, 1000, 2)])
def test_a_long_chain_costs_no_compaction_for_each_request(tags: int, requests: int, most: int) -> None:
    """A compaction of one row takes 50 ms: of the rows of a thousand accesses, a minute."""
    found: list[tuple[bytes, bytes | None]] = []

    class Counting(MemoryStore):
        def compact_ranges(self, ranges: Sequence[tuple[bytes, bytes | None]]) -> None:
            found.extend(ranges)

    names = [number.to_bytes(32) for number in range(1000)]
    erasure.compact_ledger(Counting(), names[:tags], names[:requests])
    assert len(found) == most
    for key in (layout.statement_key(names[0], 1), layout.request_row_key(names[requests - 1])):
        assert any(start <= key < (end or b"") for start, end in found)
