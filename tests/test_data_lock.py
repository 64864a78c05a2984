"""One process writes a ledger, also after somebody deleted every file that a lock is made of."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running, config_text, make_config, make_running, question, request_id
from cases.processes import DaemonProcess
from consentd.core import merkle
from consentd.errors import StorageError
from consentd.files import FileLock, lock_directory
from consentd.ledger import reads
from consentd.server.daemon import Daemon
from consentd.store.lmdb import Environment
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb

PERSON = pb.Subject(scheme="mhid", value="SYN-000001")
LOCK_FILES = ["ledger/LOCK", "vault/LOCK", "table/lock.mdb", "last-signed.lock"]


@pytest.fixture
def directory(tmp_path: Path) -> tuple[Path, Running]:
    """A directory with a ledger of one consenting person, and the daemon that made it, stopped."""
    running = make_running(tmp_path)
    running.grant(running.enrol(PERSON.value))
    running.check_ledger()
    running.stop()
    return tmp_path, running


@pytest.fixture
def daemon(directory: tuple[Path, Running]) -> Iterator[DaemonProcess]:
    process = DaemonProcess(directory[0])
    yield process
    process.kill()


def write(process: DaemonProcess, running: Running) -> tuple[int, bytes]:
    """Record an access; return the index and the leaf hash of the receipt."""
    stub = access_service_pb2_grpc.AccessServiceStub(process.channel)
    request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(PERSON))
    receipt = stub.AuthorizeAccess(request, metadata=running.as_("app"), timeout=60).receipt
    return receipt.index, receipt.leaf_hash


def names(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("deleted", [LOCK_FILES[:1], LOCK_FILES])
def test_a_second_start_beside_a_daemon_without_lock_files_is_refused_and_loses_nothing(
    directory: tuple[Path, Running], daemon: DaemonProcess, deleted: list[str]
) -> None:
    path, running = directory
    acknowledged = dict(write(daemon, running) for _ in range(5))
    for name in deleted:
        (path / "data" / name).unlink()
    logs = sorted((path / "data").glob("*/*.log"))
    for _ in range(2):
        with pytest.raises(StorageError, match="directory is in use"):
            Daemon(running.config).start()
    assert sorted((path / "data").glob("*/*.log")) == logs
    acknowledged |= dict(write(daemon, running) for _ in range(5))
    daemon.kill()
    again = Running(running.config, running.tokens)
    try:
        again.check_ledger()
        services = again.daemon.service_state.services
        assert services is not None
        for index, leaf_hash in acknowledged.items():
            assert merkle.leaf_hash(reads.read_leaf(services.ledger.store, index)) == leaf_hash
    finally:
        again.stop()


def test_of_two_daemons_that_start_at_once_one_serves(directory: tuple[Path, Running]) -> None:
    path, running = directory
    both = [DaemonProcess(path, waits=False) for _ in range(2)]
    ends = [process.wait_line("serving gRPC on port", or_end=True) for process in both]
    (server,) = (process for process, line in zip(both, ends, strict=True) if line)
    (refused,) = (process for process in both if process is not server)
    write(server, running)
    assert any("directory is in use" in line for line in refused.lines)
    assert refused.process.wait(60) != 0
    refused.kill()
    assert server.stop() == 0


def test_verbs_that_open_the_files_are_refused_beside_a_daemon_without_lock_files(
    directory: tuple[Path, Running], daemon: DaemonProcess
) -> None:
    path, running = directory
    for name in LOCK_FILES[:3]:
        (path / "data" / name).unlink()
    (path / "consentd.toml").write_text(config_text())
    before = names(path / "data" / "ledger")
    for verb in (["compact"], ["table", "rebuild"], ["table", "verify"], ["fsck"]):
        result = CommandLine()(*verb, "--config", path / "consentd.toml")
        assert result.status == 2, verb
        assert "directory is in use" in result.err, (verb, result.err)
    assert names(path / "data" / "ledger") == before
    write(daemon, running)


def test_a_copy_of_the_directory_with_the_same_last_signed_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "signed").mkdir()
    shared: dict[str, object] = {"last_signed_path": '"signed/last-signed"'}
    running = make_running(tmp_path, **shared)
    running.check_ledger()
    copied = make_config(tmp_path, **{**shared, "data_dir": '"copied"'})
    shutil.copytree(tmp_path / "data", tmp_path / "copied")
    try:
        with pytest.raises(StorageError, match="locked by another process"):
            Daemon(copied).start()
    finally:
        running.stop()
    again = Running(copied, running.tokens)
    again.check_ledger()
    again.stop()


def test_a_daemon_whose_lock_another_process_took_signs_nothing_more(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.check_ledger()
    path = running.config.ledger.last_signed_path
    lock_path = path.with_name(path.name + ".lock")
    lock_path.unlink()
    other = FileLock(lock_path, program="daemon")
    signed = path.read_bytes()
    running.enrol("SYN-000009")
    services = running.daemon.service_state.services
    assert services is not None
    services.sequencer._thread.join(60)
    assert "locked by another process" in str(services.sequencer.fault)
    assert path.read_bytes() == signed
    with pytest.raises(grpc.RpcError):
        running.enrol("SYN-000010")
    running.stop()
    other.close()
    again = Running(running.config, running.tokens)
    again.check_ledger()
    again.stop()


def test_a_deleted_lock_file_is_made_and_locked_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path, program="daemon")
    for replace in (path.unlink, lambda: os.replace(tmp_path / "other", path)):
        (tmp_path / "other").touch()
        replace()
        lock.verify()
        with pytest.raises(StorageError, match="locked by another process"):
            FileLock(path, program="daemon")
    lock.close()
    FileLock(path, program="daemon").close()


def test_a_file_that_is_replaced_between_its_opening_and_its_locking_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock, asked = tmp_path / "lock", fcntl.flock, 0

    def replace_first(descriptor: int, kind: int) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            path.unlink()
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    lock = FileLock(path, program="daemon")
    assert asked == 2
    with pytest.raises(StorageError):
        FileLock(path, program="daemon")
    lock.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    directory: tuple[Path, Running], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path, running = directory

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))  # as a network file system does

    before = {each: each.stat().st_mtime_ns for each in names(path)}
    opened = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(fcntl, "flock", refuse)
    tries: list[Callable[[], object]] = [
        lambda: lock_directory(path),
        lambda: FileLock(path / "data" / "last-signed.lock", program="daemon"),
        lambda: Environment.open(path / "data" / "table", map_size_mb=16),
    ]
    for attempt in tries:
        with pytest.raises(StorageError, match="cannot be locked"):
            attempt()
    assert len(os.listdir("/proc/self/fd")) == opened
    with pytest.raises(StorageError, match="cannot be locked"):
        Daemon(running.config).start()
    assert {each: each.stat().st_mtime_ns for each in names(path)} == before


def test_any_number_of_readers_or_one_writer_locks_a_directory(tmp_path: Path) -> None:
    readers = [lock_directory(tmp_path, is_shared=True) for _ in range(2)]
    with pytest.raises(StorageError, match="directory is in use"):
        lock_directory(tmp_path)
    for reader in readers:
        os.close(reader)
    writer = lock_directory(tmp_path)
    for is_shared in (True, False):
        with pytest.raises(StorageError, match="directory is in use"):
            lock_directory(tmp_path, is_shared=is_shared)
    os.close(writer)
    with pytest.raises(StorageError, match="directory cannot be opened"):
        lock_directory(tmp_path / "absent")
