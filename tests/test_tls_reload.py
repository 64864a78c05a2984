"""Certificates are replaced while the daemon runs, and files that do not fit are refused with their names."""

import logging
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import Running, make_config, make_running
from consentd import tls_files
from consentd.errors import InvalidError, StorageError
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import ledger_service_pb2_grpc

SECTIONS = "".join(
    f'[{name}.tls]\ncert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"\n' for name in ("grpc", "http")
)
AUTHORITY = make_authority()
FIRST, SECOND = make_certificate(AUTHORITY, "first"), make_certificate(AUTHORITY, "second")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon whose two listeners show the certificate ``FIRST``. It is not called with the channel of ``Running``."""
    FIRST.write(tmp_path / "tls")
    config = make_config(tmp_path, SECTIONS)
    running = Running(config, {"operator": make_keys(config)})
    yield running
    running.stop()


def shown(running: Running) -> list[str]:
    """Return the certificates that the two listeners show to a new connection, PEM."""
    ports = running.daemon.grpc_port, running.daemon.http_port
    return [ssl.get_server_certificate(("127.0.0.1", port), timeout=30) for port in ports]


def same(certificate: Certificate) -> list[str]:
    return [certificate.pem] * 2


def test_new_connections_see_the_new_certificate_and_open_ones_stay_open(running: Running, tmp_path: Path) -> None:
    assert shown(running) == same(FIRST)
    credentials = grpc.ssl_channel_credentials(AUTHORITY.pem.encode())
    running.wait_published()
    with grpc.secure_channel(f"127.0.0.1:{running.daemon.grpc_port}", credentials) as channel:
        stub = ledger_service_pb2_grpc.LedgerServiceStub(channel)
        stub.GetCheckpoint(ls.GetCheckpointRequest(), timeout=30)
        SECOND.write(tmp_path / "tls")
        assert shown(running) == same(FIRST)  # nothing is read before the signal
        running.daemon.reload()
        assert shown(running) == same(SECOND)
        stub.GetCheckpoint(ls.GetCheckpointRequest(), timeout=30)


def test_files_that_do_not_fit_are_named_and_change_nothing(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    for name, content in (("key.pem", SECOND.key_pem), ("cert.pem", "no certificate"), ("cert.pem", "")):
        FIRST.write(tmp_path / "tls")
        (tmp_path / "tls" / name).write_text(content)
        running.daemon.reload()
        assert name in caplog.records[-1].getMessage()
        assert "PRIVATE KEY" not in caplog.text
        assert shown(running) == same(FIRST)
    (tmp_path / "tls/cert.pem").unlink()
    running.daemon.reload()
    assert shown(running) == same(FIRST)
    assert len(caplog.records) == 4


def test_the_metric_says_when_the_certificates_end(running: Running, tmp_path: Path) -> None:
    def ends() -> list[datetime]:
        name, metrics = "consentd_tls_certificate_end_time_seconds", running.daemon.metrics
        figures = [metrics.value(name, listener=listener) for listener in ("grpc", "http")]
        return [datetime.fromtimestamp(figure, UTC) for figure in figures]

    assert ends() == [FIRST.certificate.not_valid_after_utc] * 2
    SECOND.write(tmp_path / "tls")
    running.daemon.reload()
    assert ends() == [SECOND.certificate.not_valid_after_utc] * 2


def test_a_daemon_without_tls_has_no_such_metric(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    assert b"tls_certificate_end_time_seconds{" not in running.daemon.metrics.render(with_private=True)
    running.stop()


@pytest.mark.parametrize("listener", ["grpc", "http"])
def test_a_daemon_with_the_key_of_another_certificate_does_not_start(tmp_path: Path, listener: str) -> None:
    FIRST.write(tmp_path / "tls")
    (tmp_path / "tls/key.pem").write_text(SECOND.key_pem)
    config = make_config(tmp_path, f'[{listener}.tls]\ncert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"\n')
    make_keys(config)
    with pytest.raises(InvalidError, match="key does not belong"):
        Daemon(config).start()


def test_files_are_checked(tmp_path: Path) -> None:
    FIRST.write(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert tls_files.read_pair(cert, key) == (FIRST.key_pem.encode(), FIRST.pem.encode())
    assert tls_files.read_authorities(cert) == FIRST.pem.encode()
    with pytest.raises(InvalidError):
        tls_files.read_pair(key, cert)
    with pytest.raises(InvalidError):
        tls_files.read_authorities(key)
    with pytest.raises(StorageError):
        tls_files.read_authorities(tmp_path / "none.pem")
