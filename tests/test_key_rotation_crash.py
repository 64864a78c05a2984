"""A rotation that a kill interrupts goes on with the next start; a daemon starts only with the key in force."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases.daemons import Running, make_config, make_running, question, request_id, running_daemon
from cases.processes import DaemonProcess
from cases.rotations import ROLES, check_followed, in_file, in_force, prepare, rotate
from consentd.core.ed25519 import KeyPair
from consentd.core.rotation import RotationRole
from consentd.errors import InvalidError, StorageError
from consentd.ledger.reads import read_leaf
from consentd.ledger.rotations import kept_sizes
from consentd.server.keys import read_keys
from consentd.service.key_files import KeyFiles
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, admin_service_pb2_grpc, ledger_service_pb2_grpc
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import ledger_service_pb2 as ls

BOTH = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
NEW = KeyPair(b"\x31" * 32)
NEXT = KeyPair(b"\x32" * 32)


# -- crashes ----------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from consentd import logs
from consentd.server import daemon
from cases.daemons import make_config

when, place = sys.argv[2].split(" ")
module, names = place.split(":")
owner = import_module(module)
*path, name = names.split(".")
for one in path:
    owner = getattr(owner, one)
inner = getattr(owner, name)

def crash(*args, **kwargs):
    if when == "never":
        return False
    if when == "after":
        inner(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, crash)
logs.configure("debug")
daemon.serve(make_config(Path(sys.argv[1])))
"""
"""Serves a daemon that kills itself before or after its first call of a function: ``before module:Class.method``. With
``never``, the function does nothing, and returns false."""

_FILES, _CHECKPOINTS = "consentd.service.key_files", "consentd.sequencer.checkpoints"
COMMITTED = "before consentd.sequencer.loop:Sequencer._replace_key"
SETTLING = (f"before {_FILES}:write_file", f"before {_FILES}:rename_file", f"after {_FILES}:rename_file")
POINTS = [
    *((RotationRole.STATEMENT, point) for point in (COMMITTED, *SETTLING)),
    *(
        (RotationRole.LOG, point)
        for point in (
            COMMITTED,
            f"after {_CHECKPOINTS}:Checkpoints.replace_log_key",
            f"before {_CHECKPOINTS}:keep_checkpoint",
            f"after {_CHECKPOINTS}:keep_checkpoint",
            *SETTLING,
        )
    ),
]


def crash_at(directory: Path, point: str, call: Callable[[DaemonProcess], object]) -> None:
    """Run a daemon that is killed at *point*, which *call* makes it reach."""
    process = DaemonProcess(directory, command=[sys.executable, "-c", PROGRAM, str(directory), point])
    with suppress(grpc.RpcError):  # the daemon was killed during the call
        call(process)
    assert process.process.wait(60) < 0
    process._close()


@pytest.mark.parametrize(("role", "point"), POINTS, ids=lambda one: one.name if isinstance(one, RotationRole) else one)
def test_a_rotation_goes_on_after_a_kill(tmp_path: Path, role: RotationRole, point: str) -> None:
    begun = make_running(tmp_path)
    subject = begun.enrol("SYN-000001")
    begun.grant(subject)
    first = read_keys(begun.config).log.verifier
    made = prepare(begun, role)
    begun.stop()

    def call(process: DaemonProcess) -> None:
        request = ad.StartKeyRotationRequest(request_id=request_id(), role=ROLES[role], new_key=made.new_key)
        stub = admin_service_pb2_grpc.AdminServiceStub(process.channel)
        stub.StartKeyRotation(request, metadata=begun.as_("operator"))

    crash_at(tmp_path, point, call)
    last = Running(make_config(tmp_path), begun.tokens)
    try:
        assert in_force(last, role) == in_file(last, role) == made.new_key
        last.authorize(question(subject))
        assert check_followed(last, subject, first) == (2 if role is RotationRole.LOG else 0)
        for other in ROLES:
            rotate(last, other)
            last.authorize(question(subject))
        check_followed(last, subject, first)
        last.check_ledger()
    finally:
        last.stop()


@BOTH
def test_a_kill_before_the_ledger_states_the_rotation_leaves_the_prepared_key(
    tmp_path: Path, role: RotationRole
) -> None:
    begun = make_running(tmp_path)
    old = in_force(begun, role)
    begun.stop()

    def call(process: DaemonProcess) -> None:
        stub = admin_service_pb2_grpc.AdminServiceStub(process.channel)
        request = ad.PrepareKeyRotationRequest(role=ROLES[role])
        stub.PrepareKeyRotation(request, metadata=begun.as_("operator"))

    crash_at(tmp_path, f"after {_FILES}:write_file", call)
    last = Running(make_config(tmp_path), begun.tokens)
    try:
        assert in_force(last, role) == in_file(last, role) == old
        prepared = KeyFiles(last.config).read_next(role)
        assert prepared is not None
        assert prepare(last, role).new_key == prepared.public_key
        assert rotate(last, role).new_key == prepared.public_key
        last.check_ledger()
    finally:
        last.stop()


@pytest.mark.parametrize("ends", ["kill", "stop"])
def test_entries_that_follow_the_last_seal_of_the_old_log_key_wait_for_its_checkpoint(
    tmp_path: Path, ends: str
) -> None:
    begun = make_running(tmp_path)
    subject = begun.enrol("SYN-000001")
    begun.grant(subject)
    first = read_keys(begun.config).log.verifier
    made = prepare(begun, RotationRole.LOG)
    begun.stop()
    point = f"never {_CHECKPOINTS}:Checkpoints.take_next_key"
    process = DaemonProcess(tmp_path, command=[sys.executable, "-c", PROGRAM, str(tmp_path), point])
    admin = admin_service_pb2_grpc.AdminServiceStub(process.channel)
    request = ad.StartKeyRotationRequest(
        request_id=request_id(), role=ROLES[RotationRole.LOG], new_key=made.new_key
    )
    admin.StartKeyRotation(request, metadata=begun.as_("operator"))
    access = access_service_pb2_grpc.AccessServiceStub(process.channel)
    ledger = ledger_service_pb2_grpc.LedgerServiceStub(process.channel)

    def is_stated() -> bool:
        pieces = list(ledger.GetHistory(ls.GetHistoryRequest(public_name="ledger")))
        return any(piece.chain.count == 2 for piece in pieces)

    while not is_stated():  # the operation states the rotation and then waits for ever
        pass
    asked = [ac.AuthorizeAccessRequest(request_id=request_id(), question=question(subject)) for _ in range(5)]
    indexes = [access.AuthorizeAccess(one, metadata=begun.as_("app")).receipt.index for one in asked]
    getattr(process, ends)()
    last = Running(make_config(tmp_path), begun.tokens)
    try:
        assert in_force(last, RotationRole.LOG) == in_file(last, RotationRole.LOG) == made.new_key
        store = last.wait_published().ledger.store
        [size] = kept_sizes(store)
        assert all(len(read_leaf(store, index)) == 122 for index in indexes)
        assert size <= min(indexes)
        assert check_followed(last, subject, first) == 2
        last.check_ledger()
    finally:
        last.stop()


# -- files at the start -----------------------------------------------------------------------------------------


@BOTH
def test_a_daemon_starts_only_with_the_key_in_force(tmp_path: Path, role: RotationRole) -> None:
    with running_daemon(tmp_path) as running:
        done = rotate(running, role)
        running.enrol("SYN-000001")
        running.wait_published()
        files = KeyFiles(running.config)
        present, following = files.path(role), files.next_path(role)
        replaced = Path(done.replaced_key_file)
    new, old = present.read_bytes(), replaced.read_bytes()

    def starts(**contents: bytes | None) -> bool:
        """Start with these files."""
        for path, content in ((present, contents["present"]), (following, contents["following"])):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
                path.chmod(0o600)
        try:
            again = Running(running.config, running.tokens)
        except (StorageError, InvalidError):
            return False
        again.check_ledger()
        again.stop()
        return True

    other = new.replace(new[-10:], old[-10:]) if role is RotationRole.LOG else NEXT.seed.hex().encode()
    assert starts(present=new, following=None)
    assert starts(present=new, following=new)
    assert starts(present=new, following=b"no key")  # not needed, and reported when the next rotation is prepared
    assert not starts(present=old, following=None)
    assert not starts(present=old, following=old)
    assert not starts(present=old, following=b"no key")
    assert not starts(present=None, following=new)
    assert not starts(present=other, following=None)
    assert starts(present=old, following=new)
    assert (present.read_bytes().strip(), following.exists()) == (new.strip(), False)


def test_a_directory_that_cannot_be_written_leaves_the_files_and_the_daemon_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_daemon(tmp_path) as running:
        made = prepare(running, RotationRole.STATEMENT)

        def fails(*args: Any, **kwargs: Any) -> None:
            raise StorageError("key file cannot be renamed")

        with monkeypatch.context() as patch:
            patch.setattr("consentd.service.key_files.rename_file", fails)
            rotate(running, RotationRole.STATEMENT)
            assert in_file(running, RotationRole.STATEMENT) != made.new_key == in_force(running, RotationRole.STATEMENT)
            running.enrol("SYN-000001")
            running.stop()
            again = Running(running.config, running.tokens)
            again.enrol("SYN-000002")
            again.stop()
        last = Running(running.config, running.tokens)
        assert in_file(last, RotationRole.STATEMENT) == made.new_key == in_force(last, RotationRole.STATEMENT)
        last.check_ledger()
        last.stop()
        monkeypatch.setattr(running, "stop", lambda: None)
