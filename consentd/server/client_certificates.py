"""Find the participant that a client certificate names, in the registry.

A certificate states names as subject alternative names (RFC 5280, 4.2.1.6). The registry says whose names they are
(``ParticipantStatement.certificate_names``). The subject of a certificate, its common name, and names of other types
count for nothing. That the certificate is genuine and in force was verified in the TLS handshake.
"""

from functools import lru_cache

from cryptography import x509

from consentd.core.certificate_name import DNS, URI
from consentd.service.auth import UnauthenticatedError
from consentd.table.table import Table

MAX_PEM = 16 * 1024
"""The longest certificate whose names are read, in bytes of PEM. It has room for about 500 names."""


def named_participant(table: Table, pem: bytes) -> str:
    """Return the id of the active participant that a client certificate (PEM) names; empty: it names none.

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


@lru_cache(maxsize=1024)  # a client shows its certificate once for a connection, and each of its calls asks
def certificate_names(pem: bytes) -> tuple[str, ...]:
    """Return the names of a certificate, in the form of registered names; none if it is too long, or malformed.

    Host names are compared without regard to case (RFC 4343), so they are in lower case here. URIs are as stated.
    """
    if len(pem) > MAX_PEM:
        return ()
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        stated = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts, uris = (stated.get_values_for_type(kind) for kind in (x509.DNSName, x509.UniformResourceIdentifier))
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension,
            x509.UnsupportedGeneralNameType):  # fmt: skip
        return ()
    return (*(f"{DNS}{host.lower()}" for host in hosts), *(f"{URI}{uri}" for uri in uris))
