"""A daemon that is killed in the middle of a backup leaves no set that is not whole, and nothing of its copies."""

import contextlib
import sys
from pathlib import Path

import grpc
import pytest

from cases.backups import IDENTITY, identities, leftovers, operator, section
from cases.daemons import ORIGIN, Running, make_config, make_running, request_id
from cases.fakes import HANG_S
from cases.processes import DaemonProcess
from consentd.backup import restoring
from consentd.backup.copies import COPY_NAME
from consentd.backup.directory import BackupDirectory
from consentd.backup.reading import find_pair
from consentd.backup.restoring import Pins, Progress
from consentd.cosigning.keyfiles import read_signing_key
from consentd.ledger.kek import read_keks
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import admin_service_pb2_grpc

_PROGRAM = """
import os, sys
from pathlib import Path
from cases.backups import section
from cases.daemons import make_config
from consentd import logs
from consentd.backup import age, writing
from consentd.server import daemon
from consentd.service import backup
logs.configure("debug")
places = {
    "copied": (backup, "read_contents", 1), "encrypt": (age.Recipients, "encrypt", 3),
    "manifest": (writing, "write_file", 2), "rename": (writing, "sync", 1), "end": (writing, "sync", 2),
}
of, name, number = places[sys.argv[2]]
real, left = getattr(of, name), [number]
def kill(*args, **more):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    return real(*args, **more)
setattr(of, name, kill)
daemon.serve(make_config(Path(sys.argv[1]), section(recipient=sys.argv[3])))
"""
"""Serves, and kills itself at a step of the first backup."""
LATER_MS = 1 << 60
WHOLE = {"copied": set(), "encrypt": set(), "manifest": set(), "rename": {"vault"}, "end": {"vault", "ledger"}}


@pytest.mark.parametrize("step", WHOLE)
def test_a_daemon_that_is_killed_leaves_whole_sets_alone(tmp_path: Path, step: str) -> None:
    begun = make_running(tmp_path, section())
    begun.enrol("SYN-1")
    begun.wait_published()
    begun.stop()
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path), step, str(IDENTITY.to_public())]
    process = DaemonProcess(tmp_path, command=command)
    request = ad.StartBackupRequest(request_id=request_id(), name="one")
    with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        with contextlib.suppress(grpc.RpcError):  # it may be killed before it has answered
            stub.StartBackup(request, metadata=begun.as_("operator"), timeout=HANG_S)
        process.process.wait(HANG_S)
    process.kill()
    directory = BackupDirectory(tmp_path / "backups")
    sets = {manifest.kind.value: path for path, manifest in directory.sets()}
    assert set(sets) == WHOLE[step]
    assert (directory.newest(latest_ms=LATER_MS) is not None) is (step == "end")
    assert (tmp_path / "data" / COPY_NAME).exists()

    again = Running(make_config(tmp_path, section()), begun.tokens)
    try:
        assert not (tmp_path / "data" / COPY_NAME).exists()
        operator(again).back_up(name="two")
        assert not leftovers(again)
        again.check_ledger()
    finally:
        again.stop()
    newest = directory.newest(latest_ms=LATER_MS)
    assert newest is not None
    pair = find_pair(*newest, origin=ORIGIN)
    assert pair.ledger.manifest.of.name == "two"
    keys = again.config.keys
    pins = Pins(ORIGIN, read_signing_key(keys.log_key_file).verifier, read_keks(keys))
    silent = Progress(lambda count: None, lambda done, total: None)
    report = restoring.try_restore(pair, tmp_path, identities=identities(), pins=pins, progress=silent)
    assert (report.faults, dict(report.not_checked)) == ((), {})
