"""Over the Unix socket of the gate the daemon believes whose call it is, and over no other listener."""

import dataclasses
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cases.daemons import make_config
from cases.mutual_tls import TLS, MutualTls, Stubs, dns
from consentd.errors import InvalidError, StorageError
from consentd.server import gate_peer
from consentd.server.daemon import Daemon
from consentd.server.gate_peer import caller_address, caller_certificate
from consentd.server.keys import make_keys

GATE = '[gate]\nprogram = "gate"\n'
ADDRESS = (gate_peer.PEER, "ipv6:%5B2001:db8::7%5D:4711")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualTls]:
    """A daemon with a socket for a gate. No gate is started: the tests call as it does."""
    found = MutualTls(tmp_path_factory.mktemp("gate_peer"), TLS + GATE)
    found.register("clinic-b", "dns:clinic-b.example")
    yield found
    found.daemon.stop()
    assert found.daemon.gate_socket is not None
    assert not found.daemon.gate_socket.parent.exists()


def ask(tls: MutualTls, *stated: tuple[str, str | bytes]) -> str:
    """Return as whom a call over the socket is known that states these headers."""
    with grpc.insecure_channel(f"unix:{tls.daemon.gate_socket}") as channel:
        return tls.ask_with(Stubs(channel), stated)  # type: ignore[arg-type]  # gRPC takes bytes too


def test_a_certificate_that_the_gate_states_names_the_caller(tls: MutualTls) -> None:
    der = tls.certificate(*dns("clinic-b.example")).certificate.public_bytes(Encoding.DER)
    stated = (gate_peer.CERTIFICATE, der)
    assert ask(tls, ADDRESS, stated) == "clinic-b"
    nobodys = [
        (ADDRESS,), (ADDRESS, stated, stated), (ADDRESS, (gate_peer.CERTIFICATE, b"x")),
        (ADDRESS, ("consentd-gate-certificate", "x")), (ADDRESS, stated, ("authorization", "Bearer unknown")),
    ]  # fmt: skip
    for headers in nobodys:
        assert ask(tls, *headers) == "UNAUTHENTICATED"


def test_over_another_listener_the_headers_count_for_nothing(tls: MutualTls) -> None:
    der = tls.certificate(*dns("clinic-b.example")).certificate.public_bytes(Encoding.DER)
    with tls.connect(tls.certificate(*dns("nobody.example"))) as stubs:
        stated = (ADDRESS, (gate_peer.CERTIFICATE, der))
        assert tls.ask_with(stubs, stated) == "UNAUTHENTICATED"  # type: ignore[arg-type]


def test_only_the_daemons_own_user_reaches_the_socket(tls: MutualTls) -> None:
    path = tls.daemon.gate_socket
    assert path is not None
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_callers_address_is_the_one_that_the_gate_states() -> None:
    metadata = (ADDRESS,)
    for peer in ("unix:", "unix:/tmp/x/daemon"):
        assert caller_address(metadata, peer) == ADDRESS[1]
        assert caller_address((), peer) == caller_address((ADDRESS, ADDRESS), peer) == peer
    assert caller_address(metadata, "ipv4:192.0.2.7:1") == "ipv4:192.0.2.7:1"
    assert caller_certificate(((gate_peer.CERTIFICATE, "text"),)) is None


def test_a_daemon_without_a_gate_has_no_socket(tmp_path: Path) -> None:
    found = MutualTls(tmp_path)
    assert found.daemon.gate_socket is None
    found.daemon.stop()
    gate_peer.remove_socket(None)


def test_a_daemon_that_cannot_listen_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = make_config(tmp_path, GATE)
        grpc_section = dataclasses.replace(config.grpc, listen=f"127.0.0.1:{port}")
        config = dataclasses.replace(config, grpc=grpc_section)
        make_keys(config)
        with pytest.raises(StorageError, match="cannot listen"):
            Daemon(config).start()
    assert list(short_path.iterdir()) == []


def test_a_temporary_directory_with_a_long_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(InvalidError, match="set TMPDIR to a shorter one"):
        gate_peer.make_socket()
    assert list(long.iterdir()) == []
