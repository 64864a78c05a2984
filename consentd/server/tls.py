"""TLS of the daemon's two listeners: read the certificates, read them again while the daemon runs, and when they end.

A certificate that is replaced counts for connections that begin from then on. Connections that are open stay open.
"""

import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from consentd import tls_files
from consentd.config import TlsConfig
from consentd.errors import InvalidError
from consentd.metrics import Metrics
from consentd.server.client_certificates import LEAST_RSA_BITS, has_weak_key


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What the files of a TLS section hold, checked.

    Attributes:
        key, chain: private key and certificate chain, PEM.
        client_authorities: authorities that may have issued the certificates of clients, PEM; None: clients need none.
        end_s: when the first certificate of the chain ends, Unix time in seconds.
    """

    key: bytes = field(repr=False)
    chain: bytes
    client_authorities: bytes | None
    end_s: float


def read_tls_files(tls: TlsConfig) -> TlsFiles:
    """Read the files that a TLS section of the configuration names.

    Raises:
        InvalidError: a file has no certificate, or no key, or the key belongs to another certificate.
        StorageError: a file cannot be read.
    """
    key, chain = tls_files.read_pair(tls.cert_file, tls.key_file)
    authorities = None if tls.client_ca_file is None else tls_files.read_authorities(tls.client_ca_file)
    if authorities is not None:
        _check_keys(authorities, tls.client_ca_file)
    try:
        end_s = x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc.timestamp()
    except ValueError as error:
        raise InvalidError(f"TLS file holds a certificate that cannot be read: `{tls.cert_file}`") from error
    return TlsFiles(key, chain, authorities, end_s)


def _check_keys(authorities: bytes, path: Path | None) -> None:
    """Check that nobody can compute the private key of an authority. Raises ``InvalidError``."""
    try:
        is_weak = any(map(has_weak_key, x509.load_pem_x509_certificates(authorities)))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidError(f"TLS file holds a certificate that cannot be read: `{path}`") from error
    if is_weak:
        what = f"RSA has {LEAST_RSA_BITS:,} bits at least, and DSA is not taken"
        raise InvalidError(f"TLS: an authority has a key that is too short: `{path}`: remove it: {what}")


def http_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return what the HTTP listener needs to speak TLS 1.3. Raises as ``read_tls_files``."""
    read_tls_files(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.client_ca_file is not None:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class RpcCertificates:
    """The certificates of the gRPC listener. gRPC asks for them at the begin of each handshake.

    Attributes:
        end_s: when the server's certificate ends, Unix time in seconds.

    INVARIANT: whether clients need a certificate is settled when the server begins to listen. ``reload`` replaces the
    authorities of clients' certificates, but can neither begin to demand nor stop to demand certificates.
    """

    def __init__(self, tls: TlsConfig) -> None:
        """Read the files. Raises as ``read_tls_files``."""
        self._tls = tls
        self.end_s = 0.0  # replaced by assignment; any thread may read it
        self._files = read_tls_files(tls)
        self._replaced: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        self._first = self._configure()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials to listen with."""
        asks_clients = self._tls.client_ca_file is not None
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], self.fetch)  # None is allowed too
        return grpc.dynamic_ssl_server_credentials(self._first, fetch, asks_clients)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if they were replaced since the last call; None: they are the same.

        INVARIANT: the same certificates are never returned again. At each value that it gets here, grpcio (1.85) frees
        what other handshakes use at this moment, and the process crashes: 3 threads that connected and hung up did
        this within 8 seconds when each handshake got a value, and in one of 150 times when 20 a second did.
        """
        try:
            return self._replaced.pop()
        except IndexError:
            return None

    def reload(self) -> None:
        """Read the files again. If that fails, the certificates in use stay, and the error is raised."""
        files = read_tls_files(self._tls)
        if files != self._files:  # see ``fetch``
            self._files = files
            self._replaced.append(self._configure())

    def _configure(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        self.end_s = files.end_s
        return grpc.ssl_server_certificate_configuration([(files.key, files.chain)], files.client_authorities)


def note_ends(metrics: Metrics, rpc: RpcCertificates | None, http: TlsConfig | None) -> None:
    """Set the metric that says when the certificates of the listeners end; None: a listener without TLS.

    Raises as ``read_tls_files``.
    """
    ends = metrics.tls_certificate_end_time_seconds
    if rpc is not None:
        ends.set(rpc.end_s, "grpc")
    if http is not None:
        ends.set(read_tls_files(http).end_s, "http")
