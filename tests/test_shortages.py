"""A real daemon in a process with few descriptors: peers that hold them stop nothing, and nothing is lost."""

import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, make_running, question, request_id
from cases.fakes import HANG_S
from cases.processes import PROGRAM, DaemonProcess
from consentd import descriptors, files
from consentd.core import merkle
from consentd.errors import StorageError
from consentd.ledger import reads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, ledger_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls

PERSON = pb.Subject(scheme="mhid", value="SYN-000001")
LIMIT = 256
IDLE = 300


@contextmanager
def limited(soft: int) -> Iterator[None]:
    """Limit the descriptors of this process for the length of a ``with`` block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_to_what_the_system_allows_and_divided() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with limited(128):
        assert descriptors.limit() == 128
        assert descriptors.share(8, most=512, least=32) == 32
        assert descriptors.share(4, most=1000) == 32
        raised = descriptors.raise_limit()
        assert raised == descriptors.limit() == (min(hard, descriptors.MOST) if hard > 0 else descriptors.MOST)
        assert descriptors.raise_limit() == raised
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_sandbox_that_forbids_the_call_keeps_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with limited(128), monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", forbid)
        assert descriptors.raise_limit() == 128


def fill_descriptors() -> list[int]:
    """Take every descriptor that is free."""
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken


def test_files_are_written_with_the_reserve_where_no_descriptor_is_free(tmp_path: Path) -> None:
    path = tmp_path / "note"
    lock = files.FileLock(tmp_path / "lock", program="daemon")
    files.hold_reserve(0)  # a daemon in this process may have held one
    with limited(max(map(int, os.listdir("/proc/self/fd"))) + 40):
        taken = fill_descriptors()
        try:
            with pytest.raises(StorageError, match="Too many open files"):
                files.write_file(path, b"1")
            for each in taken[:2]:
                os.close(each)
            del taken[:2]
            files.hold_reserve(2)
            assert not fill_descriptors()
            (tmp_path / "lock").unlink()
            for content in (b"1", b"2", b"3"):  # the reserve is filled up again each time
                files.write_file(path, content)
                lock.verify()
                assert files.read_file_if_exists(path) == content
                assert not fill_descriptors()
        finally:
            files.hold_reserve(0)
            for each in taken:
                os.close(each)
    lock.close()


@pytest.fixture
def running(tmp_path: Path) -> Running:
    """A stopped daemon's directory, with one consenting person."""
    made = make_running(tmp_path)
    made.grant(made.enrol(PERSON.value))
    made.check_ledger()
    made.stop()
    return made


class Peer:
    """An honest caller of a daemon in a process of its own."""

    def __init__(self, process: DaemonProcess, running: Running) -> None:
        self.metadata = running.as_("clinic-b")
        self.access = access_service_pb2_grpc.AccessServiceStub(process.channel)
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(process.channel)
        self.acknowledged: dict[int, bytes] = {}

    def write(self) -> None:
        request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(PERSON))
        receipt = self.access.AuthorizeAccess(request, metadata=self.metadata, timeout=HANG_S).receipt
        self.acknowledged[receipt.index] = receipt.leaf_hash

    def wait_published(self) -> None:
        """Write, and wait until a checkpoint covers the write."""
        self.write()
        index, leaf_hash = next(reversed(self.acknowledged.items()))
        waited_s, step_s = 0.0, 0.1
        while waited_s < HANG_S:
            request = ls.GetReceiptRequest(index=index, leaf_hash=leaf_hash)
            if self.ledger.GetReceipt(request, metadata=self.metadata, timeout=HANG_S).receipt.published:
                return
            threading.Event().wait(step_s)
            waited_s += step_s
        raise AssertionError("no checkpoint covers the write")


def check_nothing_lost(running: Running, peer: Peer) -> None:
    again = Running(running.config, running.tokens)
    try:
        again.check_ledger()
        services = again.daemon.service_state.services
        assert services is not None
        for index, leaf_hash in peer.acknowledged.items():
            assert merkle.leaf_hash(reads.read_leaf(services.ledger.store, index)) == leaf_hash
    finally:
        again.stop()


@pytest.mark.parametrize("listener", ["grpc", "http", "both"])
def test_idle_connections_at_few_descriptors_stop_nothing(
    running: Running, listener: str, request: pytest.FixtureRequest
) -> None:
    directory = running.config.ledger.data_dir.parent
    limit = ["sh", "-c", f'ulimit -n {LIMIT} && exec "$@"', "sh"]
    process = DaemonProcess(directory, command=[*limit, sys.executable, "-c", PROGRAM, str(directory)])
    request.addfinalizer(process.process.kill)
    ports = {"grpc": [process.port], "http": [process.http_port], "both": [process.port, process.http_port]}[listener]
    peer = Peer(process, running)
    peer.wait_published()
    with ExitStack() as stack:
        for _ in range(IDLE):
            for port in ports:
                try:
                    idle = socket.create_connection(("127.0.0.1", port), timeout=HANG_S)
                except ConnectionError:
                    continue
                stack.enter_context(idle)
        for _ in range(5):
            peer.wait_published()
        taken = len(os.listdir(f"/proc/{process.process.pid}/fd"))
        assert taken < LIMIT - files.RESERVE
    peer.wait_published()
    assert process.stop() == 0
    assert not [line for line in process.lines if "ledger stopped" in line or "postponed" in line]
    check_nothing_lost(running, peer)


def test_a_daemon_without_any_free_descriptor_continues_when_there_are_some(
    running: Running, request: pytest.FixtureRequest
) -> None:
    """Peers are not what takes the descriptors here, so neither caps nor the reserve help."""
    process = DaemonProcess(running.config.ledger.data_dir.parent)
    request.addfinalizer(process.process.kill)
    pid, peer = process.process.pid, Peer(process, running)
    peer.wait_published()
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # From now on no descriptor that is not open now can be opened, and the reserve cannot be used either.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    for _ in range(5):
        peer.write()
    process.wait_line("postponed, because something is short: sign")
    for _ in range(5):
        peer.write()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    process.wait_line("no longer short: sign")
    peer.wait_published()
    assert process.stop() == 0
    assert not [line for line in process.lines if "ledger stopped" in line]
    check_nothing_lost(running, peer)


def test_a_daemon_that_can_start_no_thread_continues_when_it_can(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Running(running.config, running.tokens)
    start, lacks = threading.Thread.start, True

    def start_or_fail(thread: threading.Thread) -> None:
        if lacks:
            raise RuntimeError("can't start new thread")
        start(thread)

    try:
        monkeypatch.setattr(threading.Thread, "start", start_or_fail)
        for _ in range(3):
            socket.create_connection(("127.0.0.1", again.daemon.http_port), timeout=HANG_S).close()
            again.authorize(question(PERSON), "clinic-b")
            with grpc.insecure_channel(f"127.0.0.1:{again.daemon.grpc_port}"):
                pass
        lacks = False
        assert again.authorize(question(PERSON), "clinic-b").decision.outcome == pb.OUTCOME_PERMIT
        again.check_ledger()
    finally:
        lacks = False
        again.stop()
