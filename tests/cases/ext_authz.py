"""Envoy with ``ops/envoy.yaml`` in front of a small FHIR server, and the gate that it asks about each request."""

import http.client
import json
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import ROLES, Running
from cases.fakes import HANG_S
from cases.http_proxies import run_envoy
from cases.logins import Provider
from cases.services import now_ms, register
from cases.witnessed_ledgers import free_port
from consentd.config import GateConfig, TlsConfig
from consentd.server.gate_process import GateProcess
from consentd.v1 import consent_pb2 as pb

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "ops/envoy.yaml").read_text("utf-8")
MAPPING = (ROOT / "ops/ext-authz.toml").read_text("utf-8")
ISSUER, AUDIENCE = "https://login.example/realm", "fhir.example"
CLINIC_B = "spiffe://realm.example/clinic-b"
WAIT_S = 30
"""How long Envoy waits for the gate, also until they are connected: longer than any machine needs."""
ENVOY_NAME, GATE_NAME = "envoy.hospital-a.example", "consentd.example"


@dataclass(frozen=True, slots=True)
class Served:
    """A request that the FHIR server got: its method and target, and its headers in lower case."""

    method: str
    target: str
    headers: dict[str, list[str]] = field(repr=False)

    def one(self, name: str) -> str:
        """Return the value of a header that is there once, or an empty text if it is not there."""
        values = self.headers.get(name, [""])
        assert len(values) == 1, (name, values)
        return values[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def reason(self) -> str:
        """The gate's reason; empty: the gate did not answer."""
        return self.headers.get("consentd-reason", "")


class FhirServer:
    """A server that returns an empty bundle to everybody who reaches it, and keeps what it got."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        kept = self.served

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers: dict[str, list[str]] = {}
                for name, value in self.headers.items():
                    headers.setdefault(name.lower(), []).append(value)
                kept.append(Served(self.command, self.path, headers))
                body = json.dumps({"resourceType": "Bundle", "total": 0}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_DELETE = do_PUT = do_GET  # noqa: N815  # as http.server names them

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Envoyed:
    """A daemon, its gate, Envoy that asks the gate, and a FHIR server behind it."""

    def __init__(
        self, directory: Path, running: Running, program: Path, *, mapping: str = MAPPING,
        changed: Mapping[str, str] | None = None, socket: Path | None = None,
    ) -> None:  # fmt: skip
        """Start all but Envoy.

        Args:
            changed: parts of Envoy's configuration, and what replaces them.
            socket: where the gate reaches the daemon, if not where it is.
        """
        self.directory, self.running, self.fhir = directory, running, FhirServer()
        self.mapping = directory / "mapping.toml"
        self.mapping.write_text(mapping)
        self.provider = Provider(directory, issuer=ISSUER)
        self.clients, self.servers = make_authority(name="clients"), make_authority(name="servers")
        self._write_certificates()
        self._target, self._program = program, directory / "gate"
        self._program.symlink_to(program)
        self.gate = self._make_gate(self._program, socket or running.daemon.gate_socket)
        self.gate.start()
        self.port, self._changed = free_port(), changed or {}
        register(running, "hospital-a", ROLES["hospital-a"], certificate_names=[f"dns:{ENVOY_NAME}"])

    def _write_certificates(self) -> None:
        for name, text in (("clients", self.clients.pem), ("consentd", self.servers.pem)):
            (self.directory / f"{name}.pem").write_text(text)
        for name, authority, host in (
            ("gate-server", self.servers, GATE_NAME), ("gate", self.clients, ENVOY_NAME),
            ("fhir", self.servers, "fhir"),
        ):  # fmt: skip
            made = make_certificate(authority, name, [x509.DNSName(host)])
            (self.directory / f"{name}-cert.pem").write_text(made.chain_pem)
            (self.directory / f"{name}-key.pem").write_text(made.key_pem)

    def _make_gate(self, program: Path, socket: Path | None) -> GateProcess:
        services, config = self.running.daemon.service_state.services, self.running.config
        assert services is not None
        assert socket is not None, "the daemon's configuration has no gate"
        tls = TlsConfig(
            cert_file=self.directory / "gate-server-cert.pem", key_file=self.directory / "gate-server-key.pem",
            client_ca_file=self.directory / "clients.pem",
        )  # fmt: skip
        # The port stays the same when the gate is started again, as in a configuration that names it.
        gate = GateConfig(program=program, listen=f"127.0.0.1:{free_port()}", mapping_file=self.mapping)
        changed = replace(config, gate=gate, grpc=replace(config.grpc, tls=tls))
        return GateProcess(program, changed, services.vault, socket=socket)

    def config(self) -> str:
        """Return ``ops/envoy.yaml`` with the addresses, ports and paths of this test."""
        gate_port = self.gate.address.rpartition(":")[2]
        text = CONFIG
        for old, new in (
            ("address: 0.0.0.0, port_value: 8443", f"address: 127.0.0.1, port_value: {self.port}"),
            ("port_value: 8080", f"port_value: {self.fhir.port}"), ("port_value: 7443", f"port_value: {gate_port}"),
            ("/etc/envoy/login.jwks", str(self.provider.path)), ("/etc/envoy", str(self.directory)),
            ("timeout: 1s", f"timeout: {WAIT_S}s"),
            *self._changed.items(),
        ):  # fmt: skip
            assert old in text, old
            text = text.replace(old, new)
        return text

    @contextmanager
    def envoy(self) -> Iterator[None]:
        """Run Envoy for the length of a ``with`` block."""
        with run_envoy(self.directory, self.config(), self.port):
            yield

    def token(self, **changed: Any) -> str:
        """Return a token of a login at clinic-b."""
        stated = {"aud": AUDIENCE, "purpose_of_use": "TREAT", **changed}
        return self.provider.token("practitioner-1", now_ms(self.running), **stated)

    def certificate(self, *names: str) -> Certificate:
        """Return a client's certificate with these URIs."""
        return make_certificate(self.clients, "client", [x509.UniformResourceIdentifier(name) for name in names])

    def send(
        self, target: str, *headers: tuple[str, str], method: str = "GET", token: str | None = None,
        names: tuple[str, ...] = (CLINIC_B,), host: str = "fhir.example", body: bytes | None = None,
    ) -> Reply:  # fmt: skip
        """Send a request as it is, and return the reply."""
        shown = self.directory / "shown"
        self.certificate(*names).write(shown)
        context = ssl.create_default_context(cadata=self.servers.pem)
        context.load_cert_chain(shown / "cert.pem", shown / "key.pem")
        with closing(
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=HANG_S, context=context)
        ) as connection:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", host)
            connection.putheader("authorization", f"Bearer {self.token() if token is None else token}")
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, found, response.read())

    def signal_gate(self, number: signal.Signals) -> None:
        """Send the gate's process a signal."""
        self._process().send_signal(number)

    @contextmanager
    def killed_gate(self) -> Iterator[None]:
        """Kill the gate. It is not started again before the end of the ``with`` block."""
        process = self._process()
        self._program.unlink()
        process.kill()
        process.wait()
        try:
            yield
        finally:
            self._program.symlink_to(self._target)

    def _process(self) -> "subprocess.Popen[str]":
        assert self.gate._process is not None
        return self.gate._process

    def stop(self) -> None:
        self.gate.stop()
        self.fhir.stop()


def person_with_consent(running: Running, value: str, **root: Any) -> pb.Subject:
    """Enrol a person who permits clinic-b the data of ``consent``, changed by *root*."""
    subject = running.enrol(value)
    running.grant(subject, **root)
    return subject
