"""Make certificates for development: an authority, a server's certificate, and one for each client.

They are plainly no certificates for production: each names an organisation that says so, and ends after 30 days. Nobody
may trust the authority outside of one machine, because its key is stored beside it, and without a password.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consentd.core.certificate_name import DNS, check_certificate_name
from consentd.errors import InvalidError, StorageError
from consentd.files import write_file

ORGANISATION = "consentd development, not for production"
LIFETIME = timedelta(days=30)
DOMAIN = "consentd.test"
"""Where the names of clients are. No such domain exists (RFC 6761, 6.2)."""
AUTHORITY, SERVER = "clients-ca", "server"
_LOOPBACK = ("127.0.0.1", "::1")


def make_development_certificates(directory: Path, clients: Sequence[str]) -> dict[str, str]:
    """Write certificates and keys, PEM, into a directory; return each client's certificate name for its registration.

    The files are ``clients-ca.pem``, ``server.pem``, and for each client ``NAME.pem``; their keys end in ``.key``. The
    authority signs both sides. An existing authority is used again, and an existing server's certificate stays, so a
    later call adds clients.

    Raises:
        InvalidError: a client's name is no part of a host name, or it has a certificate already, or the authority's
            files are damaged.
        StorageError: a file cannot be read or written.
    """
    names = {client: f"{DNS}{client}.{DOMAIN}" for client in clients}
    for client, name in names.items():
        check_certificate_name(name)
        if client in (AUTHORITY, SERVER) or (directory / f"{client}.pem").exists():
            what = f"certificate exists already: `{directory / client}.pem`"
            raise InvalidError(f"{what}: give another name, or delete the file")
    now = datetime.now(UTC)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"directory cannot be made: `{directory}`: {error.strerror}") from error
    authority = _Authority(directory, now)
    if not (directory / f"{SERVER}.pem").exists():
        hosts = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(one)) for one in _LOOPBACK)]
        authority.sign(SERVER, hosts, ExtendedKeyUsageOID.SERVER_AUTH)
    for client, name in names.items():
        authority.sign(client, [x509.DNSName(name.removeprefix(DNS))], ExtendedKeyUsageOID.CLIENT_AUTH)
    return names


class _Authority:
    """The authority of a directory: the one whose files are there, or a new one."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self._directory, self._now = directory, now
        if (directory / f"{AUTHORITY}.pem").exists():
            self._certificate, self._key = _read(directory)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())
            self._certificate = self._make("authority", self._key, None, [])
            self._write(AUTHORITY, self._certificate, self._key)

    def sign(self, name: str, names: Iterable[x509.GeneralName], usage: x509.ObjectIdentifier) -> None:
        """Make a key and a certificate with these alternative names, and write both."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions = [x509.SubjectAlternativeName(names), x509.ExtendedKeyUsage([usage])]
        self._write(name, self._make(name, key, self._certificate, extensions), key)

    def _make(
        self, name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None,
        extensions: Iterable[x509.ExtensionType],
    ) -> x509.Certificate:  # fmt: skip
        """Return a certificate; *issuer* None: that of the authority itself."""
        is_authority = issuer is None
        subject = x509.Name([
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, name),
        ])  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - timedelta(minutes=5))
            .not_valid_after(self._now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), True)
            .add_extension(_usage(is_authority=is_authority), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_file(self._directory / f"{name}.key", secret, is_private=True, name="TLS key")
        write_file(self._directory / f"{name}.pem", certificate.public_bytes(pem), name="TLS certificate")


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _read(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the authority of a directory. Raises as ``make_development_certificates``."""
    path = directory / f"{AUTHORITY}.pem"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
    except OSError as error:
        raise StorageError(f"authority cannot be read: `{error.filename}`: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InvalidError(f"file holds no authority for development: `{path}`") from error
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if [one.value for one in names] != [ORGANISATION] or not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidError(f"file holds no authority for development: `{path}`")
    return certificate, key
