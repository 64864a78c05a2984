"""Find the participant that a client certificate names, in the registry.

A certificate states names as subject alternative names (RFC 5280, 4.2.1.6). The registry says whose names they are
(``ParticipantStatement.certificate_names``). The subject of a certificate, its common name, and names of other types
count for nothing. That the certificate is genuine and in force was verified in the TLS handshake.
But gRPC's library verifies signatures over SHA-1 and by RSA keys of 1,024 bits, which others can forge. A certificate
names nobody if it is such a one, or if one is among the authorities that the client shows with it. The gate's library
refuses both in the handshake.
"""

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from consentd.core.certificate_name import DNS, URI
from consentd.service.auth import UnauthenticatedError
from consentd.table.table import Table

LEAST_RSA_BITS = 2048
"""The shortest RSA key of a certificate that names somebody (NIST SP 800-131A)."""
_BROKEN = frozenset(("md5", "sha1"))
MAX_PEM = 16 * 1024
"""The longest certificate whose names are read, in bytes of PEM. It has room for about 500 names."""
MAX_CHAIN = 4 * MAX_PEM
"""The longest chain of certificates that is read."""
_END = b"-----END CERTIFICATE-----"


def named_participant(table: Table, pem: bytes) -> str:
    """Return the id of the active participant that a client certificate names; empty: it names none.

    *pem*: the certificate and the rest of its chain, as for ``certificate_names``.

    Raises:
        UnauthenticatedError: (CERTIFICATE_AMBIGUOUS) it names several participants.
        StorageError, DamagedRowError: the registry cannot be read.
    """
    names = certificate_names(pem)
    if not names:
        return ""
    with table.read() as snapshot:
        registry = snapshot.registry()
    owners = {registry.certificate_names[name] for name in names if name in registry.certificate_names}
    if len(owners) > 1:
        raise UnauthenticatedError("certificate names several participants: give each its own", "CERTIFICATE_AMBIGUOUS")
    return next((one for one in owners if registry.participants[one].active), "")


def certificate_names(pem: bytes) -> tuple[str, ...]:
    """Return the names of a certificate, in the form of registered names; none if it is too long, weak, or malformed.

    Host names are compared without regard to case (RFC 4343), so they are in lower case here. URIs are as stated.

    *pem*: the certificate, and after it those of the authorities that the client shows, if any.
    """
    if len(pem) > MAX_CHAIN or pem.find(_END) > MAX_PEM:
        return ()  # and nothing so long is kept
    return _read_names(pem)


@lru_cache(maxsize=1024)  # a client shows its certificate once for a connection, and each of its calls asks
def _read_names(pem: bytes) -> tuple[str, ...]:
    try:
        certificate, *authorities = x509.load_pem_x509_certificates(pem)
        if any(_is_weak(one) for one in (certificate, *authorities)):
            return ()
        stated = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts, uris = (stated.get_values_for_type(kind) for kind in (x509.DNSName, x509.UniformResourceIdentifier))
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType, UnsupportedAlgorithm):  # fmt: skip
        return ()
    return (*(f"{DNS}{host.lower()}" for host in hosts), *(f"{URI}{uri}" for uri in uris))


def _is_weak(certificate: x509.Certificate) -> bool:
    """Return whether others could forge the certificate, or compute its private key. Raises as ``has_weak_key``."""
    signed = certificate.signature_hash_algorithm  # Ed25519 has no hash of its own
    is_broken = signed is not None and signed.name in _BROKEN and not _signs_itself(certificate)
    return is_broken or has_weak_key(certificate)


def has_weak_key(certificate: x509.Certificate) -> bool:
    """Return whether others could compute the private key of a certificate.

    Raises ``ValueError``, ``UnsupportedAlgorithm``: it has a key or a signature of an unknown kind.
    """
    key = certificate.public_key()
    return isinstance(key, dsa.DSAPublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA_BITS)


def _signs_itself(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is signed by its own key, as that of a root is: nobody relies on this signature."""
    key, hashed = certificate.public_key(), certificate.signature_hash_algorithm
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:  # ``verify_directly_issued_by`` knows no SHA-1
        if isinstance(key, rsa.RSAPublicKey) and hashed is not None:
            key.verify(signature, signed, PKCS1v15(), hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and hashed is not None:
            key.verify(signature, signed, ec.ECDSA(hashed))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
