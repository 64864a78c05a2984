"""A daemon that asks its callers for certificates, and callers that show one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from cases.certificates import Certificate, make_authority, make_certificate
from cases.daemons import Running, make_config, question, reason_of, request_id
from cases.fakes import HANG_S
from cases.services import register
from consentd.server.daemon import Daemon
from consentd.server.keys import make_keys
from consentd.v1 import (
    consent_pb2,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

TLS = '[grpc.tls]\ncert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"\nclient_ca_file = "tls/clients.pem"\n'
ROLES = {
    "clinic-b": st.PARTICIPANT_ROLE_RECIPIENT, "hospital-a": st.PARTICIPANT_ROLE_HOLDER,
    "er": st.PARTICIPANT_ROLE_HOLDER,
}  # fmt: skip


def dns(*names: str) -> list[x509.GeneralName]:
    """Return host names of a certificate."""
    return [x509.DNSName(name) for name in names]


def uris(*names: str) -> list[x509.GeneralName]:
    """Return URIs of a certificate."""
    return [x509.UniformResourceIdentifier(name) for name in names]


class Stubs:
    """The stubs of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self.ledger = ledger_service_pb2_grpc.LedgerServiceStub(channel)


class MutualTls:
    """A daemon with a server's certificate, and authorities of clients: at first ``clients`` alone."""

    def __init__(self, directory: Path, extra: str = TLS, **ledger: object) -> None:
        self.directory = directory
        self.servers, self.clients = make_authority(name="servers"), make_authority(name="clients")
        make_certificate(self.servers, "consentd").write(directory / "tls")
        self.trust(self.clients)
        self.config = make_config(directory, extra, **ledger)
        self.token = make_keys(self.config)
        self.daemon = Daemon(self.config)
        self.daemon.start()
        self._operator = make_certificate(self.clients, "operator")
        for name in ROLES:
            self.register(name)
        services = self.daemon.service_state.services
        assert services is not None
        assert services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S) is not None

    def trust(self, *authorities: Certificate) -> None:
        """Write the file of the clients' authorities. The daemon reads it at its start, and at ``reload``."""
        (self.directory / "tls/clients.pem").write_text("".join(one.pem for one in authorities))

    def certificate(self, *names: x509.GeneralName, **more: Any) -> Certificate:
        """Return a certificate of ``clients`` with these names."""
        return make_certificate(more.pop("authority", self.clients), "client", names, **more)

    @contextmanager
    def connect(self, certificate: Certificate | None) -> Iterator[Stubs]:
        """Connect with a certificate, on a connection of its own."""
        shown = (None, None) if certificate is None else (certificate.key_pem.encode(), certificate.chain_pem.encode())
        credentials = grpc.ssl_channel_credentials(self.servers.pem.encode(), *shown)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.secure_channel(f"127.0.0.1:{self.daemon.grpc_port}", credentials, options) as channel:
            yield Stubs(channel)

    def ask(self, certificate: Certificate | None, bearer: str = "") -> str:
        """Return as whom a new connection's call is known, or why it is refused."""
        with self.connect(certificate) as stubs:
            return self.ask_on(stubs, bearer)

    def ask_on(self, stubs: Stubs, bearer: str = "") -> str:
        """Return as whom a call on a connection is known, or why it is refused."""
        return self.ask_with(stubs, (("authorization", f"Bearer {bearer}"),) if bearer else ())

    def ask_with(self, stubs: Stubs, metadata: tuple[tuple[str, str], ...]) -> str:
        """Do as ``ask_on``, with these headers."""
        nobody, refused = consent_pb2.Subject(scheme="mhid", value="SYN-1"), ""
        for name in ("clinic-b", "hospital-a"):  # a participant asks for itself, about the data of `er`
            asked = question(nobody, actor=consent_pb2.Actor(organisation=name), holder="er")
            try:
                stubs.policy.Check(ps.CheckRequest(question=asked), metadata=metadata, timeout=HANG_S)
            except grpc.RpcError as error:
                refused = reason_of(error) or error.code().name
            else:
                return name
        return refused

    def register(self, name: str, *certificate_names: str, active: bool = True) -> None:
        """Register a participant with these names, as the operator does."""
        statement = st.ParticipantStatement(
            participant_id=name, name={"en": name}, roles=[ROLES[name]], active=active,
            certificate_names=certificate_names,
        )  # fmt: skip
        request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
        with self.connect(self._operator) as stubs:
            stubs.registry.RegisterParticipant(request, metadata=self.metadata(), timeout=HANG_S)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call by the operator."""
        return (("authorization", f"Bearer {self.token}"),)

    def checkpoint(self, stubs: Stubs) -> str:
        """Read a checkpoint, which everybody may; return the reason of a refusal."""
        try:
            stubs.ledger.GetCheckpoint(ls.GetCheckpointRequest(), timeout=HANG_S)
        except grpc.RpcError as error:
            return reason_of(error) or error.code().name
        return ""

    def stop(self) -> None:
        self.daemon.stop()


def name_of_another(running: Running) -> Any:
    """Register a second participant with the certificate name of the first."""
    for name in ("named", "named-too"):
        receipt = register(running, name, [st.PARTICIPANT_ROLE_HOLDER], certificate_names=["dns:a.example"])
    return receipt


def name_two(directory: Path) -> Any:
    """Make a call with a certificate that names two participants."""
    served = MutualTls(directory)
    try:
        served.register("clinic-b", "dns:a.example")
        served.register("hospital-a", "dns:b.example")
        with served.connect(served.certificate(*dns("a.example", "b.example"))) as stubs:
            return stubs.registry.GetRules(rs.GetRulesRequest(), timeout=HANG_S)
    finally:
        served.stop()
