"""Peers that hold a TLS handshake, at a daemon that asks its callers for certificates; honest calls beside them."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from cases.certificates import make_authority, make_certificate
from cases.daemons import make_config, make_keys, request_id
from cases.fakes import HANG_S
from consentd.config import TlsConfig
from consentd.server.daemon import Daemon
from consentd.server.tls import RpcCertificates
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import ledger_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st
from hostile.crowd import Crowd, Peer
from hostile.peers import CHECK

COUNT = int(os.environ.get("CONSENTD_HOSTILE_COUNT", "20"))
"""How many peers of a kind."""


def make_hello() -> bytes:
    """Return what a client sends first in a TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


HELLO = make_hello()
PEERS = {
    peer.name: peer
    for peer in (
        Peer(name="connections that say nothing", speaks=False),
        Peer(name="half of a TLS hello", speaks=False, greeting=HELLO[: len(HELLO) // 2]),
        Peer(name="a TLS hello, and no answer to the server's", speaks=False, greeting=HELLO),
        Peer(name="HTTP/2 without TLS", paths=(CHECK,), message=b""),
        Peer(name="noise", speaks=False, greeting=bytes(range(256)) * 64),
    )
}


class Served:
    """A daemon behind TLS that asks its callers for a certificate, and a caller that has one."""

    def __init__(self, directory: Path, grpc_options: str = "") -> None:
        authority = make_authority()
        own = make_certificate(authority, "client")
        make_certificate(authority, "consentd").write(directory / "server")
        (directory / "ca.pem").write_text(authority.pem)
        files = 'cert_file = "server/cert.pem"\nkey_file = "server/key.pem"\nclient_ca_file = "ca.pem"'
        config = make_config(directory, f"[grpc.tls]\n{files}", grpc=grpc_options)
        token = make_keys(config)
        self.daemon = Daemon(config)
        self.daemon.start()
        services = self.daemon.service_state.services
        assert services is not None
        services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S)
        self.target = f"127.0.0.1:{self.daemon.grpc_port}"
        self.credentials = grpc.ssl_channel_credentials(
            authority.pem.encode(), own.key_pem.encode(), own.pem.encode()
        )  # fmt: skip
        self.as_operator = (("authorization", f"Bearer {token}"),)

    def call_honestly(self, name: str) -> bytes:
        """Connect, write and read; return the checkpoint that was read."""
        with grpc.secure_channel(self.target, self.credentials, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
            statement = st.ParticipantStatement(
                participant_id=name, name={"ko": "시험 기관", "en": name}, active=True,
                roles=[st.PARTICIPANT_ROLE_RECIPIENT],
            )  # fmt: skip
            request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
            registry.RegisterParticipant(request, metadata=self.as_operator, timeout=HANG_S)
            ledger = ledger_service_pb2_grpc.LedgerServiceStub(channel)
            return ledger.GetCheckpoint(ls.GetCheckpointRequest(), timeout=HANG_S).checkpoint


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.daemon.stop()


@pytest.mark.parametrize("name", PEERS)
def test_honest_callers_connect_beside(name: str, served: Served) -> None:
    with Crowd(served.daemon.grpc_port, [PEERS[name]], COUNT):
        assert served.call_honestly(f"org-{list(PEERS).index(name)}")


def test_honest_callers_connect_beside_all_of_them(served: Served) -> None:
    with Crowd(served.daemon.grpc_port, list(PEERS.values()), COUNT):
        assert served.call_honestly("org-all")


def test_peers_that_do_not_end_the_handshake_in_time_lose_their_connection(tmp_path: Path) -> None:
    served = Served(tmp_path, "receive_timeout_ms = 500")
    try:
        with Crowd(served.daemon.grpc_port, list(PEERS.values()), 4) as crowd:
            crowd.wait_closed(2 * 4 * len(PEERS))
            assert served.call_honestly("org-late")
    finally:
        served.daemon.stop()


def test_grpc_gets_certificates_once(tmp_path: Path) -> None:
    """To replace them frees what handshakes use at the same time, and the process crashes."""
    authority = make_authority()
    make_certificate(authority, "consentd").write(tmp_path)
    held = RpcCertificates(TlsConfig(cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem"))
    assert held.fetch() is None
    held.reload()
    assert held.fetch() is None, "the files are as they were"
    make_certificate(authority, "consentd").write(tmp_path)
    held.reload()
    assert held.fetch() is not None
    assert held.fetch() is None


def test_a_peer_without_a_certificate_gets_nothing(served: Served) -> None:
    for _ in range(COUNT):
        assert read_without_certificate(served.daemon.grpc_port) == b""
    assert served.call_honestly("org-certified")


def read_without_certificate(port: int) -> bytes:
    """Connect by TLS, and read until the server ends the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    read = b""
    # In TLS 1.3 the server refuses after the client believes that it is connected.
    with suppress(ssl.SSLError, ConnectionError), socket.create_connection(("127.0.0.1", port)) as plain:
        plain.settimeout(HANG_S)
        with context.wrap_socket(plain) as made:
            while part := made.recv(1 << 16):
                read += part
    return read
