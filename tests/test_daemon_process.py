"""The daemon as a process: it drains without loss, reloads credentials, and says why it cannot start."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, config_text, make_running, question, request_id
from cases.processes import ENVIRONMENT, PROGRAM, DaemonProcess
from consentd.cosigning.keyfiles import write_private
from consentd.service.auth import format_credential, make_token
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, policy_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps

SECRET = "SYN-730142"


@pytest.fixture
def directory(tmp_path: Path) -> tuple[Path, Running]:
    """A directory with a ledger of one consenting person, and the daemon that made it, stopped."""
    running = make_running(tmp_path)
    running.check_ledger()  # so that there is more than one checkpoint, and the lock is not the first
    running.grant(running.enrol(SECRET))
    running.stop()
    return tmp_path, running


def test_nothing_acknowledged_is_lost_by_sigterm(directory: tuple[Path, Running]) -> None:
    path, running = directory
    process = DaemonProcess(path)
    subject = pb.Subject(scheme="mhid", value=SECRET)
    acknowledged: list[tuple[int, bytes]] = []
    ends: list[grpc.StatusCode] = []
    enough, lock = threading.Event(), threading.Lock()

    def write() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
            stub = access_service_pb2_grpc.AccessServiceStub(channel)
            while True:
                request = ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject))
                try:
                    receipt = stub.AuthorizeAccess(request, metadata=running.as_("app"), timeout=30).receipt
                except grpc.RpcError as error:
                    ends.append(error.code())
                    return
                with lock:
                    acknowledged.append((receipt.index, receipt.leaf_hash))
                    if len(acknowledged) > 800:
                        enough.set()

    writers = [threading.Thread(target=write) for _ in range(16)]
    for writer in writers:
        writer.start()
    assert enough.wait(60)
    code = process.stop()
    for writer in writers:
        writer.join(60)
    assert code == 0
    assert len(ends) == len(writers)
    assert set(ends) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    again = Running(running.config, running.tokens)
    for index, leaf_hash in acknowledged:
        receipt = again.ledger.GetReceipt(ls.GetReceiptRequest(index=index, leaf_hash=leaf_hash)).receipt
        assert (receipt.index, receipt.published) == (index, True)
    again.check_ledger()
    again.stop()


def test_sighup_reads_the_credentials_again_and_the_log_is_json_without_identifiers(
    directory: tuple[Path, Running],
) -> None:
    path, running = directory
    process = DaemonProcess(path)
    subject = pb.Subject(scheme="mhid", value=SECRET)
    stub = policy_service_pb2_grpc.PolicyServiceStub(process.channel)
    asked = ps.CheckRequest(question=question(subject))
    token = make_token()
    metadata = (("authorization", f"Bearer {token}"),)
    tag = stub.Check(asked, metadata=running.as_("app")).decision.tag
    with pytest.raises(grpc.RpcError):
        stub.Check(asked, metadata=metadata)
    file = running.config.callers.credentials_file
    write_private(file, format_credential(token, "clinic-b"), append=True)
    process.process.send_signal(signal.SIGHUP)
    assert process.wait_line("credentials reloaded")["message"] == "credentials reloaded: 7 tokens, 0 certificates"
    assert stub.Check(asked, metadata=metadata).decision.outcome == pb.OUTCOME_PERMIT
    before = file.read_bytes()
    for number, bad in enumerate((b"a bad line\n", b"token \xff\xfe operator\n", b"\0" * 5_000), 1):
        file.write_bytes(before + bad)
        process.process.send_signal(signal.SIGHUP)
        assert process.wait_line("credentials not reloaded", count=number)["level"] == "error"
    assert stub.Check(asked, metadata=metadata).decision.outcome == pb.OUTCOME_PERMIT
    for garbage in (b"\xff" * 50, SECRET.encode()):  # what cannot be read must not reach the log either
        with pytest.raises(grpc.RpcError):
            process.channel.unary_unary("/consentd.v1.PolicyService/Check")(garbage, metadata=metadata)
    assert process.stop(signal.SIGINT) == 0
    assert process.lines.pop() == ""
    assert len(process.lines) >= 4
    for line in process.lines:
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
        for secret in (SECRET, tag.hex(), token, *running.tokens.values()):
            assert secret not in line


def test_a_daemon_that_cannot_start_says_why(directory: tuple[Path, Running]) -> None:
    path, running = directory
    running.config.ledger.last_signed_path.unlink()
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "last signed checkpoint is missing" in done.stderr


def test_the_files_of_a_daemon_can_be_read_by_their_owner_alone(directory: tuple[Path, Running]) -> None:
    path, _ = directory
    config = path / "config.toml"
    config.write_text(config_text())
    before = set(path.rglob("*"))
    serve = [sys.executable, "-m", "consentd.cli", "serve", "--config", str(config)]
    command = ["sh", "-c", 'umask 022; exec "$@"', "sh", *serve]  # the usual umask, whatever that of the tests is
    process = DaemonProcess(path, command=command)
    assert process.stop() == 0
    made = {found for found in set(path.rglob("*")) - before if ".old." not in found.name}  # a file with a new name
    assert len(made) > 2
    assert [str(found) for found in made if found.stat().st_mode & 0o077] == []


def test_sighup_before_the_daemon_serves_is_handled_after_the_start(directory: tuple[Path, Running]) -> None:
    path, _ = directory
    pipe = path / "config"
    os.mkfifo(pipe)
    # The program waits for its configuration, so the signal comes at a known moment: before almost all of the start.
    command = [sys.executable, "-m", "consentd.cli", "serve", "--config", str(pipe)]
    process = DaemonProcess(path, command=command, waits=False)
    with pipe.open("w") as config:
        process.process.send_signal(signal.SIGHUP)
        config.write(config_text())
    assert process.wait_line("credentials reloaded")
    assert process.stop() == 0


def test_no_thread_of_the_daemon_keeps_others_waiting_for_long(directory: tuple[Path, Running]) -> None:
    path, _ = directory
    after = "import gc\nprint(gc.get_freeze_count(), sys.getswitchinterval(), file=open(sys.argv[2], 'w'))\n"
    found = path / "found"
    process = DaemonProcess(path, command=[sys.executable, "-c", PROGRAM + after, str(path), str(found)])
    assert process.stop() == 0
    frozen, switch_s = found.read_text(encoding="ascii").split()
    assert int(frozen) > 10_000, "what the start made is not looked through again"
    assert float(switch_s) < 0.001
