"""Rotating the vault key of a daemon that serves: by operators alone, resumed after a kill, without a loss."""

import dataclasses
import logging
import os
import sys
import threading
from pathlib import Path

import pytest

from cases.command_lines import CommandLine
from cases.daemons import Running, consent, make_running, question, request_id
from cases.fakes import HANG_S, FaultyStore
from cases.operations import held_at
from cases.processes import DaemonProcess
from cases.services import services
from cases.tokens import MODULE, PIN, Token, needs_softhsm
from consentd.config import Config, KekConfig
from consentd.cosigning.keyfiles import write_private
from consentd.errors import OperationCancelledError, StorageError
from consentd.ledger import vault_rotation
from consentd.server.daemon import Daemon
from consentd.store import Store
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import consent_pb2 as pb
from consentd_client import Client, Subject
from consentd_client.admin import vault_key_rotation_result

PEOPLE = 12


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_rotation, "BATCH_ROWS", 3)


def filled(directory: Path) -> tuple[Running, list[pb.Subject]]:
    running = make_running(directory)
    subjects = [running.enrol(f"SYN-{number:06d}") for number in range(PEOPLE)]
    for subject in subjects:
        running.grant(subject)
    return running, subjects


def operator(running: Running) -> Client:
    return Client("", token=running.tokens["operator"], channel=running.channel, timeout_s=HANG_S)


def with_new_kek(config: Config, *, name: str = "new.kek") -> Config:
    """Return *config* with another KEK, and the one before as the previous one."""
    path = config.keys.log_key_file.with_name(name)
    if not path.exists():
        write_private(path, os.urandom(32).hex())
    return with_keks(config, KekConfig(file=path), config.keys.vault_kek)


def with_keks(config: Config, kek: KekConfig, previous: KekConfig | None) -> Config:
    keys = dataclasses.replace(config.keys, vault_kek=kek, vault_kek_previous=previous)
    return dataclasses.replace(config, keys=keys)


def check_all(running: Running, subjects: list[pb.Subject]) -> None:
    """Check that everybody is found, and that every statement opens."""
    assert all(running.authorize(question(subject)).access_seq for subject in subjects)
    running.check_ledger()


def numbers(store: Store) -> set[int]:
    return {int.from_bytes(row[:4]) for kind in (b"K", b"k") for _, row in store.scan(kind, bytes((kind[0] + 1,)))}


def test_a_key_encryption_key_is_replaced_while_the_daemon_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, subjects = filled(tmp_path)
    first.stop()
    old = first.config
    config = with_new_kek(old)
    caplog.set_level(logging.INFO)
    running = Running(config, first.tokens)
    assert "rotation of the vault key is due" in caplog.text
    with held_at(ad.OPERATION_STEP_REWRAPPING, 3) as held:
        started = operator(running).start_vault_key_rotation()
        assert held.reached.wait(HANG_S)
        subjects.append(running.enrol("SYN-late"))
        running.grant(subjects[-1])
        check_all(running, subjects)
    done = operator(running).follow_operation(started.operation_id)
    # The last one is enrolled behind or before the place of the scan; and the unknown chain was never needed.
    result = vault_key_rotation_result(done)
    assert result.vault_key_number == 2
    assert result.data_key_count in (PEOPLE, PEOPLE + 1)
    assert (done.progress.step, done.kind) == (
        ad.OPERATION_STEP_COMPACTING, ad.OPERATION_KIND_VAULT_KEY_ROTATION
    )  # fmt: skip
    assert numbers(services(running).vault.store) == {2}
    check_all(running, subjects)
    running.stop()
    with pytest.raises(StorageError, match="key-encryption key does not open this vault"):
        Daemon(old).start()
    caplog.clear()
    again = Running(with_keks(config, config.keys.vault_kek, None), first.tokens)
    check_all(again, subjects)
    again.stop()
    assert "vault key" not in caplog.text


def test_one_who_takes_the_old_key_away_too_early_is_told(tmp_path: Path) -> None:
    first, subjects = filled(tmp_path)
    first.stop()
    config = with_new_kek(first.config)
    running = Running(config, first.tokens)
    with held_at(ad.OPERATION_STEP_REWRAPPING, 3) as held:
        started = operator(running).start_vault_key_rotation()
        assert held.reached.wait(HANG_S)
        operator(running).cancel_operation(started.operation_id)
    with pytest.raises(OperationCancelledError):
        vault_key_rotation_result(operator(running).follow_operation(started.operation_id))
    check_all(running, subjects)
    running.stop()
    alone = with_keks(config, config.keys.vault_kek, None)
    for _ in range(2):
        with pytest.raises(StorageError, match="vault_kek_previous"):
            Daemon(alone).start()
    running = Running(config, first.tokens)
    assert numbers(services(running).vault.store) == {1, 2}
    assert operator(running).rotate_vault_key().vault_key_number == 2
    running.stop()
    running = Running(alone, first.tokens)
    check_all(running, subjects)
    running.stop()


def test_one_rotation_runs_at_a_time_and_a_repeat_is_the_same(tmp_path: Path) -> None:
    running, subjects = filled(tmp_path)
    asked = request_id()
    with held_at(ad.OPERATION_STEP_REWRAPPING, 2) as held:
        started = operator(running).start_vault_key_rotation(request_id=asked)
        assert held.reached.wait(HANG_S)
        with pytest.raises(Exception, match=started.operation_id):
            operator(running).start_vault_key_rotation()
        assert operator(running).start_vault_key_rotation(request_id=asked).operation_id == started.operation_id
    assert operator(running).rotate_vault_key(request_id=asked).vault_key_number == 2
    assert operator(running).rotate_vault_key().vault_key_number == 3
    check_all(running, subjects)
    running.stop()


def test_a_disk_that_is_full_in_the_middle_is_the_result(tmp_path: Path) -> None:
    running, subjects = filled(tmp_path)
    vault = services(running).vault
    vault.store = store = FaultyStore(vault.store)
    store.fail_write(persisted=False, after=2)
    failed = operator(running).follow_operation(operator(running).start_vault_key_rotation().operation_id)
    with pytest.raises(StorageError):
        vault_key_rotation_result(failed)
    running.check_ledger()
    running.stop()
    again = Running(running.config, running.tokens)
    assert operator(again).rotate_vault_key().vault_key_number == 2
    check_all(again, subjects)
    again.stop()


def test_the_verb_rotates_and_shows_what_was_done(tmp_path: Path) -> None:
    running, _ = filled(tmp_path)
    options = ("--target", f"127.0.0.1:{running.daemon.grpc_port}")
    run = CommandLine({"CONSENTD_TOKEN": running.tokens["operator"]})
    shown = run("rotate", "vault-key", *options, "--json")
    assert (shown.status, shown.object["vault_key"], shown.object["data_keys"]) == (0, 2, PEOPLE)
    started = run("rotate", "vault-key", *options, "--no-wait").out.strip()
    followed = run("operation", "follow", started, *options)
    assert (followed.status, f"vault key 3 wraps {PEOPLE} data keys" in followed.out) == (0, True)
    refused = CommandLine({"CONSENTD_TOKEN": running.tokens["app"]})("rotate", "vault-key", *options)
    assert (refused.status, refused.out) == (2, "")
    running.stop()


_PROGRAM = """
import dataclasses, logging, sys, threading
from pathlib import Path
from cases.daemons import make_config
from consentd import logs
from consentd.config import KekConfig
from consentd.ledger import vault_rotation
from consentd.ledger.vault import Vault
from consentd.server import daemon
logs.configure("debug")
vault_rotation.BATCH_ROWS = 1
config = make_config(Path(sys.argv[1]))
keys = dataclasses.replace(config.keys, vault_kek_previous=KekConfig(file=Path(sys.argv[2])))
rewrap, left = Vault.rewrap, [int(sys.argv[3])]
def hold(self, names):
    rewrap(self, names)
    left[0] -= 1
    if not left[0]:
        logging.getLogger("test").info("holds the rotation")
        threading.Event().wait()
Vault.rewrap = hold
daemon.serve(dataclasses.replace(config, keys=keys))
"""


class Caller:
    """Calls a daemon in another process, as the app and as the operator."""

    def __init__(self, process: DaemonProcess, tokens: dict[str, str]) -> None:
        self.operator = Client("", token=tokens["operator"], channel=process.channel, timeout_s=HANG_S)
        self._app = Client("", token=tokens["app"], channel=process.channel, timeout_s=HANG_S)

    def enrol(self, value: str) -> bool:
        """Enrol a person and record a consent; return False if the daemon is gone."""
        person = Subject(scheme="mhid", value=value)
        try:
            self._app.enrol(person)
            self._app.grant(person, consent())
        except StorageError:
            return False
        return True


class Enrolling(threading.Thread):
    """Enrols persons until the daemon is gone; *enrolled*: whose consent was acknowledged."""

    def __init__(self, caller: Caller, name: str) -> None:
        super().__init__(daemon=True)
        self._caller, self._name = caller, name
        self.enrolled: list[str] = []
        self.has_enrolled = threading.Event()

    def run(self) -> None:
        while self._caller.enrol(value := f"{self._name}-{len(self.enrolled)}"):
            self.enrolled.append(value)
            self.has_enrolled.set()


@pytest.mark.slow
def test_kills_in_the_middle_lose_nothing(tmp_path: Path) -> None:
    """A real process is killed twice in the middle of a rotation to another KEK, while persons are enrolled."""
    first, subjects = filled(tmp_path)
    first.stop()
    kek, old = tmp_path / "keys/vault.kek", tmp_path / "keys/old.kek"
    kek.rename(old)
    write_private(kek, os.urandom(32).hex())
    for kill in range(2):
        command = [sys.executable, "-c", _PROGRAM, str(tmp_path), str(old), str(4 * kill + 4)]
        process = DaemonProcess(tmp_path, command=command)
        caller = Caller(process, first.tokens)
        enrolling = Enrolling(caller, f"SYN-{kill}")
        enrolling.start()
        assert enrolling.has_enrolled.wait(HANG_S)
        caller.operator.start_vault_key_rotation()
        process.wait_line("holds the rotation")
        process.kill()
        enrolling.join(HANG_S)
        subjects += [pb.Subject(scheme="mhid", value=value) for value in enrolling.enrolled]
    config = with_keks(first.config, first.config.keys.vault_kek, KekConfig(file=old))
    running = Running(config, first.tokens)
    assert numbers(services(running).vault.store) == {1, 2}
    assert operator(running).rotate_vault_key().vault_key_number == 2
    assert numbers(services(running).vault.store) == {2}
    running.stop()
    running = Running(first.config, first.tokens)
    check_all(running, subjects)
    running.stop()


# -- a token ----------------------------------------------------------------------------------------------------

_WITH_TOKEN = """
import dataclasses, os, sys
from pathlib import Path
os.environ["SOFTHSM2_CONF"], os.environ["PIN"] = sys.argv[2], sys.argv[3]
from cases.daemons import make_config
from consentd import logs
from consentd.config import KekConfig, Pkcs11Config
from consentd.errors import ConsentdError
from consentd.server import daemon
logs.configure("debug")
config = make_config(Path(sys.argv[1]))
token = Pkcs11Config(module=Path(sys.argv[4]), token="consentd", key="vault", pin_environment="PIN")
keys = dataclasses.replace(
    config.keys, vault_kek=KekConfig(pkcs11=token),
    vault_kek_previous=config.keys.vault_kek if sys.argv[5] == "with file" else None,
)
try:
    daemon.serve(dataclasses.replace(config, keys=keys))
except ConsentdError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@needs_softhsm
@pytest.mark.slow
def test_a_token_that_is_gone_stops_the_start_and_the_rotation_but_no_call(tmp_path: Path) -> None:
    first, subjects = filled(tmp_path / "daemon")
    first.stop()
    token = Token(tmp_path / "token", "vault")
    settings = token.environment["SOFTHSM2_CONF"]
    command = [sys.executable, "-c", _WITH_TOKEN, str(tmp_path / "daemon"), settings, PIN, MODULE]
    process = DaemonProcess(tmp_path, command=[*command, "with file"])
    caller = Caller(process, first.tokens)
    assert caller.operator.rotate_vault_key().vault_key_number == 2
    assert process.stop() == 0
    process = DaemonProcess(tmp_path, command=[*command, "alone"])
    caller = Caller(process, first.tokens)
    token.pull()
    assert caller.enrol("SYN-late")
    with pytest.raises(StorageError, match=r"PKCS#11 token cannot be used"):
        caller.operator.rotate_vault_key()
    assert caller.enrol("SYN-later")
    process.kill()
    process = DaemonProcess(tmp_path, command=[*command, "alone"], waits=False)
    assert process.process.wait(HANG_S) == 2
    process.kill()  # only closes what is left
    assert "PKCS#11 token cannot be used" in "".join(process.lines)
    token.plug_in()
    process = DaemonProcess(tmp_path, command=[*command, "alone"])
    caller = Caller(process, first.tokens)
    assert caller.operator.rotate_vault_key().data_key_count == len(subjects) + 2
    assert process.stop() == 0
