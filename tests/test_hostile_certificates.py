"""Certificates of clients that no honest authority issues, shown to both listeners in real handshakes.

``test_mutual_tls`` has those that are expired, of another authority, or with odd names. These here have odd keys,
signatures and constraints, and the HTTP listener asks for certificates too.
"""

import ipaddress
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cases.certificates import CLIENT_AUTH, SERVER_AUTH, Certificate, make_authority, make_certificate
from cases.fakes import HANG_S
from cases.mutual_tls import TLS, MutualTls, dns

HTTP_TLS = TLS.replace("grpc.tls", "http.tls")
NAME = "gw.clinic-b.example"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MutualTls]:
    made = MutualTls(tmp_path_factory.mktemp("served"), TLS + HTTP_TLS)
    made.register("clinic-b", f"dns:{NAME}")
    made.register("hospital-a", "dns:xn--9n2bp8q.example")
    yield made
    made.stop()


def ask_http(world: MutualTls, shown: Certificate | None, directory: Path) -> str:
    """Return the status of a page for which a client shows this certificate; ``refused``: the handshake failed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=world.servers.pem)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # a client that has a weak key
    if shown is not None:
        shown.write(directory)
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", world.daemon.http_port), timeout=HANG_S) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = connection.recv(100)
    except OSError:
        return "refused"
    return answer.split(b" ")[1].decode() if answer else "refused"  # in TLS 1.3 the client learns of it when it reads


def named(world: MutualTls, **more: Any) -> Certificate:
    return world.certificate(*dns(NAME), **more)


def with_sha1(world: MutualTls, directory: Path) -> Certificate:
    """Return a certificate whose signature is over SHA-1. The library signs none, so the command ``openssl`` does."""
    made = named(world)
    world.clients.write(directory)
    (directory / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
    (directory / "client.key").write_text(made.key_pem)
    for command in (
        "req -new -key client.key -subj /CN=client -out client.csr",
        "x509 -req -in client.csr -CA cert.pem -CAkey key.pem -set_serial 7 -sha1 -extfile names -out client.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    found = x509.load_pem_x509_certificate((directory / "client.pem").read_bytes())
    assert "sha1" in found.signature_hash_algorithm.name if found.signature_hash_algorithm else False
    return Certificate(found, made.key)


def below_constraint(world: MutualTls) -> Certificate:
    """Return a certificate below an authority that was itself issued by a client's certificate."""
    leaf = named(world)
    return named(world, authority=Certificate(leaf.certificate, leaf.key))


REFUSED: dict[str, Callable[[MutualTls, Path], Certificate | None]] = {
    "none": lambda world, _: None,
    "expired": lambda world, _: named(world, start=-2 * HOUR, end=-HOUR),
    "not valid yet": lambda world, _: named(world, start=HOUR, end=2 * HOUR),
    "for servers alone": lambda world, _: named(world, usages=[SERVER_AUTH]),
    "of another authority": lambda world, _: named(world, authority=make_authority(name="clients")),
    "signed by itself": lambda world, _: make_certificate(None, "client", dns(NAME)),
    "signed by a client": lambda world, _: below_constraint(world),
}
"""What each listener refuses in the handshake."""
WEAK: dict[str, Callable[[MutualTls, Path], Certificate]] = {
    "RSA with 1,024 bits": lambda world, _: named(world, key=rsa.generate_private_key(65537, 1024)),
    "signed over SHA-1": with_sha1,
}
"""What the library of the HTTP listener refuses, and gRPC's own library does not."""


@pytest.mark.parametrize("name", REFUSED)
def test_a_handshake_fails_at_both_listeners(world: MutualTls, tmp_path: Path, name: str) -> None:
    shown = REFUSED[name](world, tmp_path)
    assert (world.ask(shown), ask_http(world, shown, tmp_path / "shown")) == ("UNAVAILABLE", "refused")
    assert world.ask(named(world)) == "clinic-b"


@pytest.mark.parametrize("name", WEAK)
def test_a_certificate_that_others_could_forge_names_nobody(world: MutualTls, tmp_path: Path, name: str) -> None:
    shown = WEAK[name](world, tmp_path)
    assert (world.ask(shown), ask_http(world, shown, tmp_path / "shown")) == ("UNAUTHENTICATED", "refused")
    assert world.ask(shown, world.token) != "clinic-b"  # a token counts for itself


KEYS: dict[str, Callable[[], Any]] = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "brainpool": lambda: ec.generate_private_key(ec.BrainpoolP256R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA with 2,048 bits": lambda: rsa.generate_private_key(65537, 2048),
    "RSA with 4,096 bits": lambda: rsa.generate_private_key(65537, 4096),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_another_kind_names_its_owner_or_nobody(world: MutualTls, tmp_path: Path, name: str) -> None:
    """Which curves a library takes is its own matter. No key makes a caller of somebody else, or ends the daemon."""
    shown = named(world, key=KEYS[name]())
    assert world.ask(shown) in ("clinic-b", "UNAVAILABLE")
    assert ask_http(world, shown, tmp_path) in ("200", "refused")
    assert world.ask(named(world)) == "clinic-b"


NAMES: dict[str, tuple[Callable[[MutualTls], Certificate], str]] = {
    "an address alone": (lambda world: world.certificate(), "UNAUTHENTICATED"),
    "a name as an address": (
        lambda world: world.certificate(x509.IPAddress(ipaddress.ip_address("10.0.0.1"))), "UNAUTHENTICATED"
    ),
    "a name as a mail address": (
        lambda world: world.certificate(x509.RFC822Name(f"gw@{NAME}")), "UNAUTHENTICATED"
    ),
    "a name as a directory name": (
        lambda world: world.certificate(
            x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)]))
        ), "UNAUTHENTICATED",
    ),
    "a wildcard": (lambda world: world.certificate(*dns("*.clinic-b.example")), "UNAUTHENTICATED"),
    "the ASCII form of another script": (lambda world: world.certificate(*dns("XN--9N2BP8Q.example")), "hospital-a"),
    "another script as it is": (
        lambda world: world.certificate(raw_names=_der_name("병원.example".encode())), "UNAUTHENTICATED"
    ),
    "a name with a zero byte": (
        lambda world: world.certificate(raw_names=_der_name(NAME.encode() + b"\0.evil")), "UNAUTHENTICATED"
    ),
    "two of one participant": (lambda world: world.certificate(*dns(NAME, NAME.upper())), "clinic-b"),
    "two participants": (
        lambda world: world.certificate(*dns(NAME, "xn--9n2bp8q.example")), "CERTIFICATE_AMBIGUOUS"
    ),
    "an authority that calls itself": (lambda world: named(world, is_authority=True), "clinic-b"),
    "for clients": (lambda world: named(world, usages=[CLIENT_AUTH]), "clinic-b"),
}  # fmt: skip
"""Whom a certificate names that passes the handshake."""


def _der_name(name: bytes) -> bytes:
    """Return the DER of subject alternative names with one host name (RFC 5280, 4.2.1.6): any bytes."""
    host = b"\x82" + bytes([len(name)]) + name
    return b"\x30" + bytes([len(host)]) + host


@pytest.mark.parametrize("name", NAMES)
def test_whom_a_certificate_names(world: MutualTls, tmp_path: Path, name: str) -> None:
    make, who = NAMES[name]
    shown = make(world)
    assert world.ask(shown) == who
    assert ask_http(world, shown, tmp_path) == "200"  # it serves public data, to whoever passes the handshake
