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
from consentd.config import TlsConfig
from consentd.errors import InvalidError
from consentd.server.client_certificates import MAX_CHAIN, certificate_names
from consentd.server.tls import read_tls_files
from consentd.service.known_credentials import pem_hash

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


def signed_over_sha1(made: Certificate, issuer: Certificate, directory: Path, extensions: str) -> Certificate:
    """Return a certificate like *made*, whose signature is over SHA-1: the library signs none, so ``openssl`` does."""
    issuer.write(directory)
    (directory / "extensions").write_text(extensions)
    (directory / "subject.key").write_text(made.key_pem)
    subject = made.certificate.subject.rfc4514_string()
    for command in (
        f"req -new -key subject.key -subj /{subject} -out subject.csr",
        "x509 -req -in subject.csr -CA cert.pem -CAkey key.pem -sha1 -extfile extensions -out subject.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    found = x509.load_pem_x509_certificate((directory / "subject.pem").read_bytes())
    assert "sha1" in found.signature_hash_algorithm.name if found.signature_hash_algorithm else False
    return Certificate(found, made.key)


def with_sha1(world: MutualTls, directory: Path) -> Certificate:
    return signed_over_sha1(named(world), world.clients, directory, f"subjectAltName=DNS:{NAME}\n")


AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n"


def below_sha1(world: MutualTls, directory: Path) -> Certificate:
    """Return a certificate of an authority that ``clients`` has signed over SHA-1."""
    between = signed_over_sha1(make_authority(name="between"), world.clients, directory, AUTHORITY)
    return named(world, authority=between)


def below_short_key(world: MutualTls, _: Path) -> Certificate:
    """Return a certificate of an authority below ``clients`` that has a short key."""
    between = make_authority(world.clients, "between", key=rsa.generate_private_key(65537, 1024))
    return named(world, authority=between)


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
    "of an authority with RSA and 1,024 bits": below_short_key,
    "of an authority that is signed over SHA-1": below_sha1,
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


def test_a_strong_authority_between_is_no_harm(world: MutualTls, tmp_path: Path) -> None:
    shown = named(world, authority=make_authority(world.clients, "between"))
    assert (world.ask(shown), ask_http(world, shown, tmp_path)) == ("clinic-b", "200")


def test_a_credential_of_one_certificate_counts_with_its_chain(world: MutualTls) -> None:
    """It names the certificate itself, by its hash, whatever follows in the chain."""
    shown = named(world, authority=make_authority(world.clients, "between"))
    assert len(shown.chain_pem) > len(shown.pem)
    assert pem_hash(shown.chain_pem.encode()) == pem_hash(shown.pem.encode()) == shown.der_hash


def test_the_signature_of_a_root_by_its_own_key_counts_for_nothing(tmp_path: Path) -> None:
    """Clients may show the root too. Old roots have such signatures, and nobody relies on them."""
    root = make_authority(name="root")
    (tmp_path / "root.key").write_text(root.key_pem)
    command = "req -x509 -new -key root.key -subj /CN=root -sha1 -days 1 -out root.pem"
    subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    by_sha1 = (tmp_path / "root.pem").read_text()
    shown = make_certificate(root, "client", dns(NAME))
    assert certificate_names((shown.pem + by_sha1).encode()) == (f"dns:{NAME}",)
    other = signed_over_sha1(make_authority(name="between"), root, tmp_path, AUTHORITY)
    assert certificate_names((shown.pem + other.pem + by_sha1).encode()) == ()


def test_a_long_chain_names_nobody(world: MutualTls) -> None:
    shown, more = named(world).pem, world.clients.pem
    assert certificate_names((shown + 3 * more).encode()) == (f"dns:{NAME}",)
    assert certificate_names((shown + (MAX_CHAIN // len(more) + 1) * more).encode()) == ()


@pytest.mark.parametrize("bits", [1024, 2048])
def test_an_authority_with_a_short_key_is_not_trusted(tmp_path: Path, bits: int) -> None:
    """Whoever computes its private key could make a certificate of anybody."""
    weak = make_authority(key=rsa.generate_private_key(65537, bits))
    make_certificate(None, "server").write(tmp_path)
    (tmp_path / "clients.pem").write_text(make_authority().pem + weak.pem)
    tls = TlsConfig(
        cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem", client_ca_file=tmp_path / "clients.pem"
    )
    if bits == 1024:
        with pytest.raises(InvalidError, match="an authority has a key that is too short"):
            read_tls_files(tls)
    else:
        assert read_tls_files(tls).client_authorities is not None


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
