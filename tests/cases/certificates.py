"""Certificates for tests of TLS: an authority, and what it signs, for 127.0.0.1 and an hour."""

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT_AUTH, SERVER_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
LOCALHOST = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, its private key, and the intermediate authorities that follow it in a chain."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple["Certificate", ...] = field(default=())

    @property
    def pem(self) -> str:
        """The certificate, PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def chain_pem(self) -> str:
        """The certificate and the intermediate authorities after it, PEM."""
        return self.pem + "".join(one.pem for one in self.chain)

    @property
    def key_pem(self) -> str:
        """Its private key, PEM."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()

    @property
    def der_hash(self) -> str:
        """The hash of the certificate, as the credentials file has it."""
        return hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def write(self, directory: Path) -> None:
        """Write ``cert.pem`` and ``key.pem``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cert.pem").write_text(self.chain_pem)
        key = directory / "key.pem"
        key.touch(0o600)
        key.write_text(self.key_pem)


def make_authority(
    issuer: Certificate | None = None, name: str = "authority", key: PrivateKey | None = None
) -> Certificate:
    """Return a new authority, with this key if it is given; one that *issuer* signed, if it is given."""
    return _make(name, issuer, is_authority=True, key=key)


def make_certificate(
    authority: Certificate | None, name: str, names: Iterable[x509.GeneralName] = (), *,
    usages: Iterable[x509.ObjectIdentifier] = (), start: timedelta = timedelta(minutes=-5),
    end: timedelta = timedelta(hours=1), raw_names: bytes | None = None, key: PrivateKey | None = None,
    is_authority: bool = False,
) -> Certificate:  # fmt: skip
    """Return a new certificate of *authority* for *name* at 127.0.0.1; None: it signs itself.

    Args:
        names: its further subject alternative names.
        usages: its extended key usages; none: the certificate does not limit its use.
        start, end: its validity, from now.
        raw_names: the DER of its subject alternative names, in place of all others.
        key: its private key, in place of a new one. *is_authority*: whether it may sign others.
    """
    alternative: x509.ExtensionType = x509.SubjectAlternativeName([LOCALHOST, *names])
    if raw_names is not None:
        alternative = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, raw_names)
    return _make(
        name, authority, alternative, usages=usages, start=start, end=end, key=key, is_authority=is_authority
    )


def _make(
    name: str, authority: Certificate | None, alternative: x509.ExtensionType | None = None, *,
    is_authority: bool = False, usages: Iterable[x509.ObjectIdentifier] = (),
    start: timedelta = timedelta(minutes=-5), end: timedelta = timedelta(hours=1), key: PrivateKey | None = None,
) -> Certificate:  # fmt: skip
    key, now = key or ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if is_authority:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    if authority is not None:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=False)
    usages = list(usages)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    above = () if authority is None or not _is_issued(authority) else (authority, *authority.chain)
    return Certificate(builder.sign((authority.key if authority else key), hashes.SHA256()), key, above)


def _is_issued(authority: Certificate) -> bool:
    """Return whether another authority signed this one, so that it is part of a chain."""
    return authority.certificate.issuer != authority.certificate.subject
