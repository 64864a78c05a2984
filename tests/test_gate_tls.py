"""The gate with TLS: callers have the identity that they have without it."""

import dataclasses
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import make_config, question
from cases.fakes import HANG_S
from cases.gate_programs import built, needs_cargo
from cases.mutual_tls import TLS, MutualTls, Stubs, dns, uris
from cases.processes import ENVIRONMENT, PROGRAM, DaemonProcess
from consentd.config import GateConfig
from consentd.server import gate_peer
from consentd.server.gate_process import GateProcess
from consentd.server.keys import make_keys
from consentd.v1 import consent_pb2
from consentd.v1 import policy_service_pb2 as ps

pytestmark = needs_cargo
GATE = '[gate]\nprogram = "gate"\nlisten = "127.0.0.1:0"\n'
NAMES = ("dns:clinic-b.example", "uri:spiffe://realm/clinic-b")


class GatedTls(MutualTls):
    """A daemon that asks its callers for certificates, and the gate in front of it. Calls go to ``port``."""

    def __init__(self, directory: Path, program: Path) -> None:
        super().__init__(directory, TLS + GATE, checkpoint_interval_ms=10)
        services, path = self.daemon.service_state.services, self.daemon.gate_socket
        assert services is not None
        assert path is not None
        config = dataclasses.replace(self.config, gate=GateConfig(program=program, listen="127.0.0.1:0"))
        self.gate = GateProcess(program, config, services.vault, socket=path)
        self.gate.start()

    def stop(self) -> None:
        self.gate.stop()
        self.daemon.stop()

    def gated(self, certificate: Certificate | None) -> grpc.Channel:
        shown = (None, None) if certificate is None else (certificate.key_pem.encode(), certificate.chain_pem.encode())
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        return grpc.secure_channel(
            self.gate.address, grpc.ssl_channel_credentials(self.servers.pem.encode(), *shown), options
        )

    def ask_gate(self, certificate: Certificate | None, *metadata: tuple[str, str | bytes]) -> str:
        """Do as ``ask`` over the gate."""
        with self.gated(certificate) as channel:
            return self.ask_with(Stubs(channel), metadata)  # type: ignore[arg-type]

    def prefix(self, certificate: Certificate, *, by_gate: bool) -> str:
        """Return how the id of a decision begins, which is the same for all decisions of one process."""
        nobody = consent_pb2.Subject(scheme="mhid", value="SYN-1")
        asked = ps.CheckRequest(
            question=question(nobody, actor=consent_pb2.Actor(organisation="clinic-b"), holder="er")
        )
        if by_gate:
            with self.gated(certificate) as channel:
                return Stubs(channel).policy.Check(asked, timeout=HANG_S).decision.decision_id[:16]
        with self.connect(certificate) as stubs:
            return stubs.policy.Check(asked, timeout=HANG_S).decision.decision_id[:16]


@pytest.fixture(scope="module")
def program() -> Path:
    return built("consentd-gate", "consentd-gate")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[GatedTls]:
    found = GatedTls(tmp_path_factory.mktemp("gate_tls"), program)
    found.register("clinic-b", *NAMES)
    found.register("hospital-a", "dns:hospital-a.example")
    yield found
    found.stop()


SHOWN: dict[str, tuple[list[x509.GeneralName], str]] = {
    "a host": (dns("clinic-b.example"), "clinic-b"),
    "a host in other letters": (dns("Clinic-B.EXAMPLE"), "clinic-b"),
    "a URI": (uris("spiffe://realm/clinic-b"), "clinic-b"),
    "a URI in other letters": (uris("spiffe://realm/Clinic-B"), "UNAUTHENTICATED"),
    "both, and an unknown one": ([*dns("x.example", "clinic-b.example"), *uris("spiffe://realm/clinic-b")], "clinic-b"),
    "two participants": (dns("clinic-b.example", "hospital-a.example"), "CERTIFICATE_AMBIGUOUS"),
    "none": ([], "UNAUTHENTICATED"),
    "a wildcard": (dns("*.example"), "UNAUTHENTICATED"),
    "an address of mail too": ([*dns("clinic-b.example"), x509.RFC822Name("x@example.org")], "clinic-b"),
    "many": (dns("clinic-b.example", *(f"host-{number}.example" for number in range(100))), "clinic-b"),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_certificate_names_whom_it_names_without_the_gate(tls: GatedTls, shown: str) -> None:
    names, expected = SHOWN[shown]
    certificate = tls.certificate(*names)
    assert tls.ask_gate(certificate) == tls.ask(certificate) == expected


def test_the_gate_itself_answers_who_shows_a_certificate(tls: GatedTls) -> None:
    usual, odd = tls.certificate(*dns("clinic-b.example")), tls.certificate(*SHOWN["an address of mail too"][0])
    by_daemon = tls.prefix(usual, by_gate=False)
    assert tls.prefix(usual, by_gate=True) != by_daemon
    assert tls.prefix(odd, by_gate=True) == by_daemon


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"\x30\x00", "UNAUTHENTICATED"), (b"\x30\x13\x82\x10clinic-b.example\x05", "UNAUTHENTICATED")],
)
def test_malformed_names_are_nobodys(tls: GatedTls, raw: bytes, expected: str) -> None:
    certificate = make_certificate(tls.clients, "client", raw_names=raw)
    assert tls.ask_gate(certificate) in (expected, "UNAVAILABLE")  # TLS may refuse it before


def test_weak_foreign_and_missing_certificates_are_nobodys(tls: GatedTls) -> None:
    names = dns("clinic-b.example")
    weak = rsa.generate_private_key(65537, 1024)  # as one must not
    for certificate in (
        None, tls.certificate(*names, key=weak), tls.certificate(*names, authority=tls.servers),
        make_certificate(None, "client", names), tls.certificate(*names, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
    ):  # fmt: skip
        assert tls.ask_gate(certificate) in ("UNAVAILABLE", "UNAUTHENTICATED")
    assert tls.ask_gate(tls.certificate(*names, key=ec.generate_private_key(ec.SECP384R1()))) == "clinic-b"


def test_a_certificate_that_is_too_long_is_nobodys(tls: GatedTls) -> None:
    names = dns("clinic-b.example", *(f"host-{number}.{'x' * 40}.example" for number in range(120)))
    certificate = tls.certificate(*names)
    assert tls.ask(certificate) == "clinic-b"
    assert tls.ask_gate(certificate) == "UNAUTHENTICATED"


def test_a_token_counts_before_the_certificate(tls: GatedTls) -> None:
    certificate = tls.certificate(*dns("clinic-b.example"))
    for value in ("Bearer unknown", "Basic x", "Bearer "):
        assert tls.ask_gate(certificate, ("authorization", value)) == "UNAUTHENTICATED"


def test_a_callers_own_headers_for_the_daemon_are_not_believed(tls: GatedTls) -> None:
    trusted, nobody = tls.certificate(*dns("clinic-b.example")), tls.certificate(*dns("nobody.example"))
    der = trusted.certificate.public_bytes(Encoding.DER)
    stated = ((gate_peer.CERTIFICATE, der), (gate_peer.PEER, "ipv4:192.0.2.1:1"))
    assert tls.ask_gate(nobody, *stated) == "UNAUTHENTICATED"
    with tls.connect(nobody) as stubs:
        assert tls.ask_with(stubs, stated) == "UNAUTHENTICATED"  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_13_alone_is_spoken_and_no_session_is_resumed(tls: GatedTls, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=tls.servers.pem)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    tls.certificate(*dns("clinic-b.example")).write(tls.directory / "shown")
    context.load_cert_chain(tls.directory / "shown/cert.pem", tls.directory / "shown/key.pem")
    host, _, port = tls.gate.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as peer:
        if version is ssl.TLSVersion.TLSv1_2:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(peer, server_hostname=host)
            return
        with context.wrap_socket(peer, server_hostname=host) as wrapped:
            assert wrapped.selected_alpn_protocol() == "h2"
            wrapped.recv(1)  # what the server sends first comes after its tickets, if it has any
            assert wrapped.session is None or not wrapped.session.has_ticket


def test_authorities_are_replaced_while_the_gate_runs(tls: GatedTls) -> None:
    """The last test of the module: it changes whom the daemon believes."""
    names = dns("clinic-b.example")
    before, after = tls.certificate(*names), tls.certificate(*names, authority=tls.servers)
    assert tls.ask_gate(before) == "clinic-b"
    (tls.directory / "tls/clients.pem").write_text("no certificate")
    tls.gate.reload()
    assert tls.ask_gate(before) == "clinic-b"
    tls.trust(tls.servers)
    tls.gate.reload()
    for _ in range(HANG_S * 20):
        if tls.ask_gate(after) == "clinic-b":
            break
    assert tls.ask_gate(after) == "clinic-b"
    assert tls.ask_gate(before) == "UNAVAILABLE"


def test_serve_starts_the_gate_and_has_it_read_the_tls_files_again(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    authority, temporary = make_authority(), short_path
    make_certificate(authority, "consentd").write(tmp_path / "tls")
    (tmp_path / "tls/clients.pem").write_text(authority.pem)
    extra = TLS + GATE.replace('"gate"', f'"{program}"')
    make_keys(make_config(tmp_path, extra))
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(temporary))
    serve = PROGRAM.replace("make_config(Path(sys.argv[1]))", "make_config(Path(sys.argv[1]), sys.argv[2])")
    process = DaemonProcess(tmp_path, command=[sys.executable, "-c", serve, str(tmp_path), extra])
    assert process.wait_line("gate listens on")
    assert [one.stat().st_mode & 0o777 for one in temporary.iterdir()] == [0o700]
    process.process.send_signal(signal.SIGHUP)
    assert process.wait_line("TLS files of the gate reloaded")["logger"] == "gate"
    (tmp_path / "tls/clients.pem").write_text("no certificate")
    process.process.send_signal(signal.SIGHUP)
    assert process.wait_line("TLS file holds no certificate")["level"] == "error"
    assert process.stop() == 0
    assert list(temporary.iterdir()) == []
