"""Callers that client certificates name: by real handshakes, at a daemon that asks for certificates."""

import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from cases.certificates import CLIENT_AUTH, SERVER_AUTH, Certificate, make_authority, make_certificate
from cases.daemons import config_text, make_config, reason_of
from cases.fakes import HANG_S
from cases.mutual_tls import TLS, MutualTls, dns, uris
from cases.processes import DaemonProcess
from consentd.cosigning.keyfiles import write_private
from consentd.server import rpc_server
from consentd.server.keys import make_keys
from consentd.service.auth import format_credential, make_token
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs

HTTP_TLS = '[http.tls]\ncert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"\n'
CLINIC, URI = "dns:gw.clinic-b.example", "uri:spiffe://realm.example/clinic-b"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualTls]:
    made = MutualTls(tmp_path_factory.mktemp("served"), TLS + HTTP_TLS)
    yield made
    made.stop()


@pytest.fixture
def world(served: MutualTls) -> MutualTls:
    """The daemon, with the names of clinic-b and hospital-a."""
    served.register("clinic-b")
    served.register("hospital-a", "dns:hospital-a.example")
    served.register("clinic-b", CLINIC, URI)
    return served


# -- who the caller is ----------------------------------------------------------------------------------------------


def test_a_certificate_names_the_participant_that_is_registered_with_its_name(world: MutualTls) -> None:
    assert world.ask(world.certificate(*dns("gw.clinic-b.example"))) == "clinic-b"
    assert world.ask(world.certificate(*dns("GW.Clinic-B.EXAMPLE"))) == "clinic-b"
    assert world.ask(world.certificate(*uris("spiffe://realm.example/clinic-b"))) == "clinic-b"
    assert world.ask(world.certificate(*dns("other.example", "hospital-a.example"))) == "hospital-a"
    both = world.certificate(*dns("gw.clinic-b.example"), *uris("spiffe://realm.example/clinic-b"))
    assert world.ask(both) == "clinic-b"


@pytest.mark.parametrize("names", [
    [], dns("clinic-b"), dns("gw.clinic-b.example.evil"), dns("*.clinic-b.example"), dns("gw.clinic-b.example."),
    dns("gw.clinic-b.example\0.evil"), dns("\0gw.clinic-b.example"), uris("spiffe://REALM.example/clinic-b"),
    uris("spiffe://realm.example/clinic-b/"), uris("dns:gw.clinic-b.example"),
    dns("uri:spiffe://realm.example/clinic-b"),
    [x509.RFC822Name("gw.clinic-b.example"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
])  # fmt: skip
def test_a_certificate_with_no_registered_name_names_nobody(world: MutualTls, names: list[x509.GeneralName]) -> None:
    shown = world.certificate(*names)
    assert world.ask(shown) == "UNAUTHENTICATED"
    with world.connect(shown) as stubs:
        assert world.checkpoint(stubs) == ""  # as everybody may


def test_the_common_name_does_not_count(world: MutualTls) -> None:
    assert world.ask(make_certificate(world.clients, "gw.clinic-b.example")) == "UNAUTHENTICATED"


def test_a_certificate_that_names_two_participants_is_refused(world: MutualTls) -> None:
    shown = world.certificate(*dns("gw.clinic-b.example", "hospital-a.example"))
    with world.connect(shown) as stubs:
        assert world.ask_on(stubs) == "CERTIFICATE_AMBIGUOUS"
        assert world.checkpoint(stubs) == ""  # as everybody may
        world.register("hospital-a", "dns:hospital-a.example", active=False)  # still its name
        assert world.ask_on(stubs) == "CERTIFICATE_AMBIGUOUS"
        world.register("hospital-a")
        assert world.ask_on(stubs) == "clinic-b"


def test_a_call_with_a_token_is_the_tokens_caller(world: MutualTls) -> None:
    token, path = make_token(), world.config.callers.credentials_file
    write_private(path, format_credential(token, "hospital-a"), append=True)
    world.daemon.reload_credentials()
    shown = world.certificate(*dns("gw.clinic-b.example"))
    assert world.ask(shown, token) == "hospital-a"
    assert world.ask(shown, "wrong") == "UNAUTHENTICATED"
    two = world.certificate(*dns("gw.clinic-b.example", "hospital-a.example"))
    assert world.ask(two, token) == "hospital-a"


@pytest.mark.parametrize("header", ["bearer x", "BEARER x", "Basic abc", "DPoP e.y.j", "", "Bearer", " Bearer x"])
def test_a_header_that_is_no_bearer_token_does_not_fall_back_to_the_certificate(world: MutualTls, header: str) -> None:
    """A gateway carries the headers of others, who must not call as the gateway."""
    with world.connect(world.certificate(*dns("gw.clinic-b.example"))) as stubs:
        assert world.ask_on(stubs) == "clinic-b"
        assert world.ask_with(stubs, (("authorization", header),)) == "UNAUTHENTICATED"


def test_a_line_for_a_certificate_counts_before_its_names(world: MutualTls) -> None:
    shown, path = world.certificate(*dns("gw.clinic-b.example")), world.config.callers.credentials_file
    before = path.read_text()
    line = f"cert {shown.der_hash} hospital-a"
    with world.connect(shown) as stubs:
        for ending, expected in (("", "hospital-a"), (" expires=2020-01-01", "CREDENTIAL_EXPIRED")):
            path.write_text(f"{before}{line}{ending}\n")
            world.daemon.reload_credentials()
            assert world.ask_on(stubs) == expected
        # So one certificate is refused while its name stays in force for others.
        path.write_text(f"{before}{line} revoked=2026-01-01T00:00:00Z revoked_by=operator/main\n")
        world.daemon.reload_credentials()
        assert world.ask_on(stubs) == "UNAUTHENTICATED"
        assert world.ask(world.certificate(*dns("gw.clinic-b.example"))) == "clinic-b"
        path.write_text(before)
        world.daemon.reload_credentials()
        assert world.ask_on(stubs) == "clinic-b"


# -- revocation -----------------------------------------------------------------------------------------------------


def test_an_entry_changes_who_an_open_connection_is(world: MutualTls) -> None:
    old, new = world.certificate(*dns("gw.clinic-b.example")), world.certificate(*dns("gw2.clinic-b.example"))
    with world.connect(old) as first, world.connect(new) as second:
        assert (world.ask_on(first), world.ask_on(second)) == ("clinic-b", "UNAUTHENTICATED")
        world.register("clinic-b", CLINIC, "dns:gw2.clinic-b.example")  # both, while one is replaced
        assert (world.ask_on(first), world.ask_on(second)) == ("clinic-b", "clinic-b")
        world.register("clinic-b", "dns:gw2.clinic-b.example")
        assert (world.ask_on(first), world.ask_on(second)) == ("UNAUTHENTICATED", "clinic-b")
        world.register("clinic-b", "dns:gw2.clinic-b.example", active=False)
        assert world.ask_on(second) == "UNAUTHENTICATED"
        assert world.checkpoint(second) == ""  # as everybody
        world.register("hospital-a", CLINIC)
        assert world.ask_on(first) == "hospital-a"


@pytest.mark.parametrize("ends", ["name", "active", "ambiguous"])
def test_a_call_that_waits_ends_when_its_caller_is_known_no_more(world: MutualTls, ends: str) -> None:
    shown = world.certificate(*dns("gw.clinic-b.example", "two.example"))
    services = world.daemon.service_state.services
    assert services is not None
    with world.connect(shown) as stubs:
        assert services.sequencer.checkpoints.wait(services.ledger.state.size, HANG_S) is not None
        least = pb.Consistency(at_least_tree_size=services.ledger.state.size + 1)  # what the next entry makes
        call: Future[Any] = stubs.registry.GetRules.future(rs.GetRulesRequest(consistency=least), timeout=HANG_S)
        while not world.daemon.metrics.value("consentd_calls", pool="wait"):
            assert world.checkpoint(stubs) == ""  # each look is a call, so this does not spin
        if ends == "ambiguous":
            world.register("hospital-a", "dns:two.example")
        else:
            world.register("clinic-b", *([] if ends == "name" else [CLINIC]), active=ends != "active")
        with pytest.raises(grpc.RpcError) as refused:
            call.result()
        assert reason_of(refused.value) == "UNAUTHENTICATED"


# -- handshakes -----------------------------------------------------------------------------------------------------


def _gw(world: MutualTls, **more: Any) -> Certificate:
    return world.certificate(*dns("gw.clinic-b.example"), **more)


HOUR = timedelta(hours=1)
WRONG = {
    "none": lambda _: None,
    "expired": lambda world: _gw(world, start=-2 * HOUR, end=-HOUR),
    "not valid yet": lambda world: _gw(world, start=HOUR, end=2 * HOUR),
    "for servers alone": lambda world: _gw(world, usages=[SERVER_AUTH]),
    "of another authority": lambda world: _gw(world, authority=make_authority()),
    "of another authority with the same name": lambda world: _gw(world, authority=make_authority(name="clients")),
    "of the server's authority": lambda world: _gw(world, authority=world.servers),
    "signed by itself": lambda _: make_certificate(None, "client", dns("gw.clinic-b.example")),
    "signed by a client": lambda world: _gw(world, authority=_gw(world)),
    "without its intermediate": lambda world: _without_chain(_gw(world, authority=_intermediate(world))),
    "with 10,000 names": lambda world: world.certificate(*dns("gw.clinic-b.example", *_hosts(10_000))),
}


def _hosts(count: int) -> list[str]:
    return [f"host-{number}.example" for number in range(count)]


def _intermediate(world: MutualTls, depth: int = 1) -> Certificate:
    issuer = world.clients
    for number in range(depth):
        issuer = make_authority(issuer, name=f"intermediate {number}")
    return issuer


def _without_chain(made: Certificate) -> Certificate:
    return Certificate(made.certificate, made.key)


@pytest.mark.parametrize("name", WRONG)
def test_a_handshake_without_the_right_certificate_fails(world: MutualTls, name: str) -> None:
    assert world.ask(WRONG[name](world)) == "UNAVAILABLE"
    assert world.ask(WRONG[name](world), world.token) == "UNAVAILABLE"
    assert world.ask(_gw(world)) == "clinic-b"


def test_a_handshake_with_the_right_certificate_succeeds(world: MutualTls) -> None:
    assert world.ask(_gw(world, usages=[CLIENT_AUTH])) == "clinic-b"
    assert world.ask(_gw(world, usages=[SERVER_AUTH, CLIENT_AUTH])) == "clinic-b"
    assert world.ask(_gw(world, authority=_intermediate(world))) == "clinic-b"
    assert world.ask(world.certificate(*dns("gw.clinic-b.example", *_hosts(300)))) == "clinic-b"


def test_a_huge_chain_is_refused_and_others_are_served(world: MutualTls) -> None:
    deep = _gw(world, authority=_intermediate(world, 200))
    assert world.ask(deep) == "UNAVAILABLE"
    assert world.ask(_gw(world)) == "clinic-b"


def test_the_authorities_of_clients_are_read_again(tmp_path: Path) -> None:
    served = MutualTls(tmp_path)
    try:
        served.register("clinic-b", CLINIC)
        second = make_authority(name="clients too")
        old, new = _gw(served), _gw(served, authority=second)
        with served.connect(old) as stubs:
            assert (served.ask_on(stubs), served.ask(new)) == ("clinic-b", "UNAVAILABLE")
            served.trust(served.clients, second)
            assert served.ask(new) == "UNAVAILABLE"  # nothing is read before the signal
            served.daemon.reload()
            assert (served.ask(old), served.ask(new)) == ("clinic-b", "clinic-b")
            served.trust(second)
            served.daemon.reload()
            assert (served.ask(old), served.ask(new)) == ("UNAVAILABLE", "clinic-b")
            assert served.ask_on(stubs) == "clinic-b"  # open connections stay open
            (tmp_path / "tls/clients.pem").write_text("no certificate")
            served.daemon.reload()
            assert served.ask(new) == "clinic-b"
    finally:
        served.stop()


def test_an_open_connection_of_an_authority_that_was_taken_out_ends_with_its_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_server, "_CONNECTION_AGE_MS", 300)
    served = MutualTls(tmp_path)
    try:
        served.register("clinic-b", CLINIC)
        second = make_authority(name="clients too")
        old, new = _gw(served), _gw(served, authority=second)
        with served.connect(old) as first:
            assert served.ask_on(first) == "clinic-b"
            served.trust(second)
            served.daemon.reload()
            while served.ask_on(first) == "clinic-b":
                pass
            with served.connect(new) as other:  # a client that is trusted connects again by itself
                began = time.monotonic()
                while time.monotonic() < began + 1 or served.ask_on(other) != "clinic-b":
                    served.ask_on(other)  # one call may find the old connection ended
            assert served.ask_on(first) == "UNAVAILABLE"
    finally:
        served.stop()


# -- versions of TLS ------------------------------------------------------------------------------------------------


def negotiated(port: int, authority: Certificate, own: Path, most: ssl.TLSVersion) -> str | None:
    """Return the version of TLS that a listener agrees to, with a client that speaks *most* at best; None: none."""
    context = ssl.create_default_context(cadata=authority.pem)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, most
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(own / "cert.pem", own / "key.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as wrapped,
        ):
            return wrapped.version()
    except (ssl.SSLError, ConnectionError):
        return None


def test_the_command_serves_tls_1_3_alone(tmp_path: Path) -> None:
    authority = make_authority()
    make_certificate(authority, "consentd").write(tmp_path / "tls")
    (tmp_path / "consentd.toml").write_text(config_text(HTTP_TLS + HTTP_TLS.replace("http", "grpc")))
    make_keys(make_config(tmp_path))
    command = [sys.executable, "-m", "consentd.cli", "serve", "--config", str(tmp_path / "consentd.toml")]
    process = DaemonProcess(tmp_path, command=command)
    try:
        for port in (process.port, process.http_port):
            assert negotiated(port, authority, tmp_path / "tls", ssl.TLSVersion.TLSv1_2) is None
            assert negotiated(port, authority, tmp_path / "tls", ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    finally:
        process.stop()


def test_both_listeners_speak_tls_1_3_alone(world: MutualTls, tmp_path: Path) -> None:
    _gw(world).write(tmp_path)
    for port in (world.daemon.grpc_port, world.daemon.http_port):
        for most, version in ((ssl.TLSVersion.TLSv1_2, None), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            assert negotiated(port, world.servers, tmp_path, most) == version
