"""Read certificates and private keys for TLS, and check that they fit. Needs only the standard library.

gRPC reads such files only when somebody connects, and then says nothing of a file that is no certificate, or of a key
that belongs to another certificate: each handshake fails. So the daemon, and the client library, check them first.
"""

import os
import ssl
from pathlib import Path

from consentd.errors import FileReadError, InvalidError

_NO_TLS12_SUITE = "ECDHE-PSK-CHACHA20-POLY1305"


def require_tls13() -> None:
    """Let the gRPC listener of this process speak TLS 1.3 alone. Call this before the first import of ``grpc``.

    grpcio (1.85) has no option for the lowest version of TLS. Its core reads an environment variable that names the
    cipher suites of TLS 1.2, when ``grpc`` is imported. The one suite that is named here needs a key that both sides
    know before, and gRPC has none, so a handshake of TLS 1.2 finds no suite. Those of TLS 1.3 are not affected. A value
    that the operator has set stays.
    """
    os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", _NO_TLS12_SUITE)


def read_pem(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileReadError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileReadError(f"TLS file cannot be read: `{path}`: {error.strerror}") from error


def read_pair(cert_file: Path, key_file: Path) -> tuple[bytes, bytes]:
    """Return a private key and its certificate chain, in this order, as gRPC takes them; both PEM.

    Raises:
        InvalidError: a file has no certificate, or no key without a password, or the key is another certificate's.
        FileReadError: a file cannot be read.
    """
    key, chain = read_pem(key_file), read_pem(cert_file)
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise InvalidError(f"TLS file holds no certificate: `{cert_file}`: give the certificate in PEM format")
    try:
        # Without a function for the password, OpenSSL would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidError(
                f"TLS key does not belong to the certificate: `{key_file}`, `{cert_file}`: give the key that the"
                " certificate was requested with"
            ) from error
        raise InvalidError(
            f"TLS files hold no certificate with its key: `{cert_file}`, `{key_file}`: give both in PEM format, the key"
            " without a password"
        ) from error
    return key, chain


def read_authorities(path: Path) -> bytes:
    """Return the certificates of the authorities that a file names, PEM.

    Raises:
        InvalidError: the file has no certificate.
        FileReadError: the file cannot be read.
    """
    content = read_pem(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise InvalidError(f"TLS file holds no certificate: `{path}`: give the authorities in PEM format") from error
    return content
