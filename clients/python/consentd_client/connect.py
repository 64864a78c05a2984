"""Open channels, and name what goes wrong on them: what both clients need of gRPC."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from consentd.errors import ConsentdError, InvalidError, StorageError
from consentd_client.status import status_error

DEFAULT_TIMEOUT_S = 10.0
OPTIONS = (("grpc.max_receive_message_length", 64 << 20),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of a channel; without files the system's authorities are trusted.

    Attributes:
        ca_file: authorities of the daemon's certificate, PEM.
        cert_file, key_file: the client's own certificate and key, PEM; both or neither.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials.

        Raises:
            InvalidError: a certificate without its key, or the other way round.
            StorageError: a file cannot be read.
        """
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidError("TLS client certificate and key go together")
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))


def check_plaintext(target: str) -> None:
    """Refuse to send a token in the clear to another machine.

    Raises:
        InvalidError: *target* is not this machine.
    """
    host = target.rsplit("/", 1)[-1].rpartition(":")[0].strip("[]")
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if not is_here and not target.startswith("unix:"):
        raise InvalidError("target is another machine and needs TLS, or the token would be sent in the clear")


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return what identifies the caller in each call.

    Raises:
        InvalidError: the token cannot stand in a header. It is not shown.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable():
        raise InvalidError("token has characters that no token has")
    return (("authorization", f"Bearer {token}"),)


def rpc_error(error: Any) -> ConsentdError:
    """Return the declared error behind a ``grpc.RpcError`` of either kind of channel."""
    if not callable(getattr(error, "code", None)):
        return status_error(grpc.StatusCode.UNKNOWN.value[0], type(error).__name__, ())  # an interceptor's own
    code = error.code() or grpc.StatusCode.UNKNOWN
    return status_error(code.value[0], error.details() or "", error.trailing_metadata() or ())


def closed_error() -> StorageError:
    """Return the error of a call on a channel that was closed."""
    return StorageError("client is closed", "NOT_SERVING")


def deadline_error() -> StorageError:
    """Return the error of a call whose time is over."""
    return StorageError("deadline passed; whether it was recorded is unknown, repeat it with its request_id")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"TLS file cannot be read: `{path}`: {error.strerror}") from error
