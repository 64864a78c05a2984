"""The daemon as a process: it starts, says whether it serves, refuses what it must, and drains without loss."""

import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import ORIGIN, Running, make_config, make_running, question, reason_of, running_daemon
from cases.fakes import HANG_S, FaultyStore
from cases.services import services
from consentd.config import Config, KekConfig
from consentd.core import ed25519, note
from consentd.cosigning.keyfiles import write_private
from consentd.errors import ConsentdError, CorruptionError, InvalidError, StorageError
from consentd.logs import JsonFormatter
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.service.auth import format_credential, read_credentials
from consentd.service.servicer import Services
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import ledger_service_pb2_grpc, policy_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs

SERVICES = [f"consentd.v1.{name}Service" for name in ("Registry", "Consent", "Policy", "Access", "Ledger", "Admin")]
SECRET = "SYN-730142"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(channel: grpc.Channel) -> dict[str, int]:
    """Return what the health service says of the whole daemon ("") and of each service."""
    stub = health_pb2_grpc.HealthStub(channel)
    return {name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", *SERVICES)}


class SlowDaemon(Daemon):
    """A daemon that takes its time to open, until told to go on."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.opening, self.go_on = threading.Event(), threading.Event()

    def _open(self) -> Services:
        self.opening.set()
        assert self.go_on.wait(HANG_S)
        return super()._open()


# -- readiness ------------------------------------------------------------------------------------------------


def test_it_listens_at_once_and_serves_once_it_is_open(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    token = make_keys(config)
    daemon = SlowDaemon(config)
    starting = threading.Thread(target=daemon.start)
    starting.start()
    assert daemon.opening.wait(HANG_S)
    with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
        assert set(health(channel).values()) == {NOT_SERVING}
        check = policy_service_pb2_grpc.PolicyServiceStub(channel).Check
        checkpoint = ledger_service_pb2_grpc.LedgerServiceStub(channel).GetCheckpoint
        calls = [
            lambda: check(ps.CheckRequest(), metadata=(("authorization", f"Bearer {token}"),)),
            lambda: checkpoint(ls.GetCheckpointRequest()),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
        daemon.go_on.set()
        starting.join(HANG_S)
        assert set(health(channel).values()) == {SERVING}
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nope"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    daemon.stop()


def test_a_ledger_that_stopped_is_not_serving_and_checks_go_on(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    subject = running.enrol(SECRET)
    running.grant(subject)
    store = FaultyStore(services(running).ledger.store)
    services(running).ledger.store = store
    store.fail_write(persisted=False)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            running.grant(subject)
        assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE")
        services(running).sequencer._thread.join(HANG_S)
    assert set(health(running.channel).values()) == {NOT_SERVING}
    assert running.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    running.stop()


class HaltedDaemon(Daemon):
    """A daemon whose sequencer stops after it was opened and before it serves."""

    def _open(self) -> Services:
        services = super()._open()
        services.sequencer._pool.halt(CorruptionError("witness knows a larger tree than ours"))
        services.sequencer._thread.join(HANG_S)
        return services


def test_a_ledger_that_stopped_before_it_served_is_not_said_to_serve(tmp_path: Path) -> None:
    """As if a witness answers late: the writer is stopped while the daemon is still starting."""
    config = make_config(tmp_path)
    make_keys(config)
    daemon = HaltedDaemon(config)
    daemon.start()
    with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
        assert set(health(channel).values()) == {NOT_SERVING}
    assert daemon.metrics.value("consentd_ready") == 0
    daemon.stop()


class FaultyForTheWriter(FaultyStore):
    """A store whose reads fail on the sequencer's thread only."""

    def _read(self) -> None:
        if threading.current_thread().name == "sequencer":
            super()._read()


def test_a_bug_on_the_writers_thread_stops_writing_and_nothing_is_half_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = make_running(tmp_path)
    subject = running.enrol(SECRET)
    store = FaultyForTheWriter(services(running).ledger.store)
    services(running).ledger.store = store
    store.fail_reads(error=AssertionError(f"a bug about {SECRET}"))
    with pytest.raises(grpc.RpcError) as caught:
        running.grant(subject)
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE")
    services(running).sequencer._thread.join(HANG_S)
    assert SECRET not in str(services(running).sequencer.fault)
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert any("AssertionError" in line for line in lines)
    assert not any(SECRET in line for line in lines)
    store.fail_reads(False)
    running.stop()
    again = Running(running.config, running.tokens)
    again.grant(subject)
    again.check_ledger()
    again.stop()


def test_watchers_that_leave_while_the_health_changes_hold_nothing_up(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        stop, watched = threading.Event(), 0

        def watch() -> None:
            nonlocal watched
            stub = health_pb2_grpc.HealthStub(running.channel)
            while not stop.is_set():
                call = stub.Watch(health_pb2.HealthCheckRequest(service=""))
                next(iter(call))
                call.cancel()
                watched += 1

        def change() -> None:
            for number in range(2_000):
                running.daemon._rpc.set_serving(bool(number % 2))

        watchers = [threading.Thread(target=watch, daemon=True) for _ in range(4)]
        changing = threading.Thread(target=change, daemon=True)
        for thread in (*watchers, changing):
            thread.start()
        changing.join(60)
        stop.set()
        assert not changing.is_alive(), "a change of health waits for a watcher that is gone"
        for thread in watchers:
            thread.join(HANG_S)
        assert watched


def test_reflection_lists_the_services(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = stub.ServerReflectionInfo(ask)
        names = {service.name for service in answer.list_services_response.service}
        assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        for name in SERVICES:
            ask = iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)])
            (answer,) = stub.ServerReflectionInfo(ask)
            assert answer.file_descriptor_response.file_descriptor_proto


def test_streams_held_open_take_nothing_from_the_checks(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        subject, go_on = running.enrol(SECRET), threading.Event()

        def never() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            go_on.wait(HANG_S)

        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        held = [stub.ServerReflectionInfo(never()) for _ in range(running.config.grpc.threads)]
        next(held[0])
        watching = [
            health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest())
            for _ in range(running.config.grpc.threads)
        ]
        assert [next(one).status for one in watching] == [SERVING] * len(watching)
        request = ps.CheckRequest(question=question(subject))
        assert running.policy.Check(request, metadata=running.as_("app"), timeout=10).decision.outcome
        go_on.set()
        for one in (*held, *watching):
            one.cancel()


# -- what it refuses ------------------------------------------------------------------------------------------


def test_a_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        running.enrol(SECRET)
        with pytest.raises(ConsentdError):
            Daemon(running.config).start()
        running.enrol("SYN-000002")
        running.check_ledger()


def test_a_second_daemon_on_a_copy_is_refused_where_the_lock_is_shared(tmp_path: Path) -> None:
    first = make_running(tmp_path / "first")
    first.stop()
    shutil.copytree(tmp_path / "first" / "data", tmp_path / "copy")
    copied = replace(first.config, ledger=replace(first.config.ledger, data_dir=tmp_path / "copy"))
    copied = replace(copied, table=replace(copied.table, path=tmp_path / "copy" / "table"))
    again = Running(first.config, first.tokens)
    with pytest.raises(StorageError, match="locked by another process"):
        Daemon(copied).start()
    again.enrol(SECRET)
    again.check_ledger()
    again.stop()
    with pytest.raises(CorruptionError):
        Daemon(copied).start()


def test_keys_are_all_made_or_none(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    (tmp_path / "file").touch()
    nowhere = replace(config.callers, credentials_file=tmp_path / "file" / "credentials")
    with pytest.raises(StorageError):
        make_keys(replace(config, callers=nowhere))
    assert not any((tmp_path / "keys").iterdir())
    assert make_keys(config)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "a") as running:
        for section, port in (("grpc", running.daemon.grpc_port), ("http", running.daemon.http_port)):
            config = make_config(tmp_path / section)
            make_keys(config)
            taken = _listening(config, section, f"127.0.0.1:{port}")
            with pytest.raises(StorageError) as caught:
                Daemon(taken).start()
            assert f"127.0.0.1:{port}" in str(caught.value)


def _listening(config: Config, section: str, address: str) -> Config:
    changed = replace(getattr(config, section), listen=address)
    return replace(config, **{section: changed})


@pytest.mark.parametrize("section", ["grpc", "http"])
def test_other_machines_reach_it_by_tls_only(tmp_path: Path, section: str) -> None:
    with pytest.raises(InvalidError):
        _listening(make_config(tmp_path), section, "0.0.0.0:0")


@pytest.fixture
def stopped(tmp_path: Path) -> Running:
    """A daemon that ran, with one person, and was stopped."""
    running = make_running(tmp_path)
    running.check_ledger()  # so that there is more than one checkpoint, and the lock is not the first
    running.enrol(SECRET)
    running.stop()
    return running


KEY_FILES = ["log_key_file", "statement_key_file", "vault_kek"]


def key_file(running: Running, name: str) -> Path:
    found = getattr(running.config.keys, name)
    path: Path = found.file if isinstance(found, KekConfig) else found
    return path


@pytest.mark.parametrize("name", KEY_FILES)
def test_a_missing_key_file_says_which_and_what_to_do(stopped: Running, name: str) -> None:
    path = key_file(stopped, name)
    path.unlink()
    with pytest.raises(StorageError) as caught:
        Daemon(stopped.config).start()
    assert str(path) in str(caught.value)
    assert "restore it" in str(caught.value)


@pytest.mark.parametrize("name", KEY_FILES)
@pytest.mark.parametrize("text", ["", "garbage", "\x00" * 64, "f" * 63])
def test_a_key_file_that_holds_none_is_named_and_not_shown(stopped: Running, name: str, text: str) -> None:
    path = key_file(stopped, name)
    path.write_text(text)
    with pytest.raises(InvalidError) as caught:
        Daemon(stopped.config).start()
    assert str(path) in str(caught.value)
    assert not text or text not in str(caught.value)


def _other_log_key() -> str:
    return note.format_signing_key(note.Signer(ORIGIN, ed25519.KeyPair(b"\x05" * 32))) + "\n"


def test_another_key_encryption_key_is_refused(stopped: Running) -> None:
    key_file(stopped, "vault_kek").write_text("05" * 32)
    with pytest.raises(StorageError):
        Daemon(stopped.config).start()


def test_another_log_key_is_refused(stopped: Running) -> None:
    stopped.config.keys.log_key_file.write_text(_other_log_key())
    with pytest.raises(CorruptionError, match=r"last signed checkpoint does not verify.*RUNBOOK"):
        Daemon(stopped.config).start()


def test_another_statement_key_is_refused(stopped: Running) -> None:
    stopped.config.keys.statement_key_file.write_text("05" * 32)
    path = str(stopped.config.keys.statement_key_file)
    with pytest.raises(StorageError) as caught:
        Daemon(stopped.config).start()
    assert path in str(caught.value)


def test_a_missing_lock_is_refused_and_the_old_one_serves_again(stopped: Running) -> None:
    lock = stopped.config.ledger.last_signed_path
    kept = lock.read_bytes()
    lock.unlink()
    with pytest.raises(CorruptionError, match=r"last signed checkpoint is missing.*RUNBOOK"):
        Daemon(stopped.config).start()
    lock.write_bytes(kept)
    again = Running(stopped.config, stopped.tokens)
    again.check_ledger()
    again.stop()


def test_a_table_that_was_lost_is_made_again(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    subject = running.enrol(SECRET)
    running.grant(subject)
    running.stop()
    shutil.rmtree(running.config.table.path)
    again = Running(running.config, running.tokens)
    assert again.check(question(subject)).outcome == pb.OUTCOME_PERMIT
    again.check_ledger()
    again.stop()


def test_a_credentials_file_that_is_bad_is_refused_by_line(stopped: Running) -> None:
    with stopped.config.callers.credentials_file.open("a") as file:
        file.write("token secret-in-the-clear app\n")
    with pytest.raises(InvalidError) as caught:
        Daemon(stopped.config).start()
    assert "secret" not in str(caught.value)


# -- TLS ------------------------------------------------------------------------------------------------------


def test_a_client_certificate_is_an_identity(tmp_path: Path) -> None:
    authority, stranger = make_authority(), make_authority()
    make_certificate(authority, "consentd").write(tmp_path / "tls")
    (tmp_path / "tls/ca.pem").write_text(authority.pem)
    clinic, unknown = make_certificate(authority, "clinic"), make_certificate(authority, "unknown")
    files = 'cert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"\nclient_ca_file = "tls/ca.pem"'
    config = make_config(tmp_path, f"[grpc.tls]\n{files}")
    token = make_keys(config)
    write_private(config.callers.credentials_file, f"cert {clinic.der_hash} clinic-b\n", append=True)
    daemon = Daemon(config)
    daemon.start()

    def ask(certificate: Certificate | None, bearer: str = "") -> str:
        """Return as whom a call with this certificate and token is known."""
        credentials = grpc.ssl_channel_credentials(
            authority.pem.encode(),
            certificate.key_pem.encode() if certificate else None,
            certificate.pem.encode() if certificate else None,
        )
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        with grpc.secure_channel(f"127.0.0.1:{daemon.grpc_port}", credentials) as channel:
            stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
            try:
                stub.GetRules(rs.GetRulesRequest(), metadata=metadata, timeout=HANG_S)
            except grpc.RpcError as error:
                return reason_of(error) or error.code().name
            return "answered"

    assert ask(clinic) == "CALLER_NOT_ALLOWED"  # known, though nobody registered it
    assert ask(unknown) == "UNAUTHENTICATED"
    assert ask(unknown, token) == "answered"
    assert ask(clinic, "wrong") == "UNAUTHENTICATED"
    assert ask(None, token) == ask(make_certificate(stranger, "clinic"), token) == "UNAVAILABLE"
    with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        policy_service_pb2_grpc.PolicyServiceStub(channel).Check(ps.CheckRequest(), timeout=5)
    daemon.stop()


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
def test_a_tls_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    authority = make_authority()
    make_certificate(authority, "consentd").write(tmp_path / "tls")
    (tmp_path / "tls/ca.pem").write_text(authority.pem)
    files = {"cert_file": "tls/cert.pem", "key_file": "tls/key.pem", "client_ca_file": "tls/ca.pem", name: "tls/none"}
    lines = "\n".join(f'{key} = "{path}"' for key, path in files.items())
    config = make_config(tmp_path, f"[grpc.tls]\n{lines}")
    make_keys(config)
    with pytest.raises(StorageError) as caught:
        Daemon(config).start()
    assert "tls/none" in str(caught.value)


# -- logs ----------------------------------------------------------------------------------------------------


def test_the_log_tells_where_an_error_was_but_only_declared_ones_by_their_text() -> None:
    def line(error: Exception) -> str:
        try:
            try:
                raise ValueError(f"about\n{SECRET}")
            except ValueError as cause:
                raise error from cause
        except Exception:  # noqa: BLE001  # any
            record = logging.LogRecord("consentd", logging.ERROR, "x.py", 1, "broke: %s", ("it",), sys.exc_info())
        return JsonFormatter().format(record)

    bug, declared = line(KeyError(SECRET)), line(StorageError("disk is full"))
    for text in (bug, declared):
        assert SECRET not in text
        assert "\n" not in text
        assert "ValueError at " in json.loads(text)["error"]
    assert "KeyError at " in bug
    assert "test_daemon.py:" in bug
    assert "StorageError: disk is full at " in declared


def test_a_credential_is_one_callers(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(format_credential("a", "clinic-b") * 2)
    assert [one.caller for one in read_credentials(file).credentials.values()] == ["clinic-b"]
    file.write_text(file.read_text() + format_credential("a", "operator/main"))
    with pytest.raises(InvalidError, match="`3`"):
        read_credentials(file)


@pytest.mark.parametrize(
    "caller", ["operator", "operator/", "Clinic", "operator/a/b", "-", "subject", "SUBJECT", "any", "none"]
)
def test_a_credential_of_no_possible_caller_is_refused(tmp_path: Path, caller: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(format_credential("a", "operator/main") + format_credential("b", "clinic-b"))
    assert [one.caller for one in read_credentials(file).credentials.values()] == ["operator/main", "clinic-b"]
    file.write_text(file.read_text() + format_credential("c", caller))
    with pytest.raises(InvalidError, match="`3`") as found:
        read_credentials(file)
    assert found.value.__cause__ is None
