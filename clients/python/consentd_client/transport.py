"""The gRPC side of ``Client`` and ``AsyncClient``: TLS, the token, and gRPC errors turned into ``consentd.errors``."""

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from consentd import errors, tls_files
from consentd.errors import ConsentdError, InvalidError, StorageError
from consentd_client.operations import UnavailableError

DEFAULT_TIMEOUT_S = 10.0
KEEPALIVE_MS = 20_000
"""How often a client asks a silent connection for a sign of life. The daemon accepts this twice as often."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    # By default all channels of a process to one target share connections. A new client would go on with the connection
    # of an earlier one, also if the other side has vanished.
    ("grpc.use_local_subchannel_pool", 1),
    # By default the pauses between attempts to connect grow to two minutes, and an attempt may take 20 s. After a long
    # outage the client would not notice for so long that the daemon is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name, how long an attempt to connect may take
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A connection whose other side has vanished without a word is noticed also between calls.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
DOMAIN = "consentd"
DETAILS_KEY = "grpc-status-details-bin"
_CLASSES: dict[int, type[ConsentdError]] = {
    1: errors.OperationCancelledError,  # CANCELLED, with our reason
    3: InvalidError,  # INVALID_ARGUMENT
    5: errors.NotFoundError,  # NOT_FOUND
    6: errors.AlreadyExistsError,  # ALREADY_EXISTS
    7: errors.DeniedError,  # PERMISSION_DENIED
    8: errors.OverloadedError,  # RESOURCE_EXHAUSTED
    9: errors.PreconditionError,  # FAILED_PRECONDITION
    10: errors.AbortedError,  # ABORTED
    14: UnavailableError,  # UNAVAILABLE
    15: errors.CorruptionError,  # DATA_LOSS
    16: errors.DeniedError,  # UNAUTHENTICATED
}
_CANCELLED, _DEADLINE_EXCEEDED, _UNAVAILABLE = 1, 4, 14
_CLOSED = "Channel closed!"
"""gRPC's message, with CANCELLED, for the calls of a channel that this program closes."""
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
"""Parts of gRPC's messages for a daemon whose certificate is not accepted."""

_HUNG_UP = ("Socket closed", "Connection reset by peer")
"""Parts of gRPC's messages for a peer that ends a connection during its handshake. With TLS 1.3, the client does not
learn why. A daemon that does not run refuses the connection, which is another message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS settings of a channel. Without a ``ca_file`` the system's certificate authorities are trusted.

    Attributes:
        ca_file: certificates of the authorities that may have issued the daemon's certificate, PEM.
        cert_file, key_file: the client's own certificate and its private key, PEM; give both or neither.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials for a gRPC channel.

        Raises:
            InvalidError: only one of ``cert_file``, ``key_file`` is set, they do not fit, or a file has no certificate.
            StorageError: a file cannot be read.
        """
        authorities = None if self.ca_file is None else tls_files.read_authorities(self.ca_file)
        if self.cert_file is None or self.key_file is None:
            if self.cert_file is not self.key_file:
                raise InvalidError("TLS client certificate and key must be given together")
            return grpc.ssl_channel_credentials(authorities)
        return grpc.ssl_channel_credentials(authorities, *tls_files.read_pair(self.cert_file, self.key_file))


def check_target(target: str) -> None:
    """Raise InvalidError if *target* has no port: gRPC would connect to port 443 then."""
    port = target.rpartition(":")[2]
    if not target.startswith("unix:") and not (port.isascii() and port.isdecimal()):
        raise InvalidError(f"target has no port: `{target}`: give host:port, as in 127.0.0.1:7400")


def check_plaintext(target: str) -> None:
    """Raise InvalidError if *target* is another machine: without TLS others could read the token on the network."""
    host = target.rsplit("/", 1)[-1].rpartition(":")[0].strip("[]")
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if not is_here and not target.startswith("unix:"):
        raise InvalidError("target is another machine and needs TLS, or the token would be sent in the clear")


def call_metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata with the token; InvalidError, whose text omits the token, if the token is invalid."""
    if not token:
        return ()
    if not token.isascii() or not token.isprintable():
        raise InvalidError("token has characters that no token has")
    return (("authorization", f"Bearer {token}"),)


@contextmanager
def translated_errors(closed: type[Exception]) -> Iterator[None]:
    """Turn the errors of a gRPC call into ``consentd.errors``. *closed*: the class that a closed channel raises."""
    try:
        yield
    except grpc.RpcError as error:
        raise rpc_error(error) from error
    except closed as error:
        raise StorageError("client is closed", "NOT_SERVING") from error


def rpc_error(error: Any) -> ConsentdError:
    """Return the error of ``consentd.errors`` for a ``grpc.RpcError`` of a ``grpc`` or ``grpc.aio`` channel."""
    if not callable(getattr(error, "code", None)):
        return status_error(grpc.StatusCode.UNKNOWN.value[0], type(error).__name__, ())  # an interceptor raised it
    code = error.code() or grpc.StatusCode.UNKNOWN
    return status_error(code.value[0], error.details() or "", error.trailing_metadata() or ())


def deadline_error() -> StorageError:
    """Return the error of a call whose deadline passed."""
    return StorageError(
        "deadline passed before the whole answer came: call again, or allow more time. A write may be recorded: repeat"
        " it with its request_id"
    )


def status_error(code: int, message: str, trailing: Iterable[tuple[str, Any]]) -> ConsentdError:
    """Return the error for a gRPC status code and text. The *trailing* metadata may contain the error's reason."""
    status = status_pb2.Status()
    with suppress(DecodeError):
        for value in (value for key, value in trailing if key == DETAILS_KEY and isinstance(value, bytes)):
            status.MergeFromString(value)
    return _make_error(code, message, *_details(status))


def proto_error(status: status_pb2.Status) -> ConsentdError:
    """Return the error that a ``google.rpc.Status`` in an answer states: of an item of a batch, or of an operation."""
    return _make_error(status.code, status.message, *_details(status))


def _make_error(code: int, message: str, reason: str, retry_after_ms: int) -> ConsentdError:
    """Return the error for a gRPC status code and a reason. If *reason* is empty, the error class's default is used.

    *retry_after_ms*: when the daemon wants the call to be tried again; 0: it did not say so.
    """
    if code == _DEADLINE_EXCEEDED:
        return deadline_error()
    if code == _UNAVAILABLE and not reason:
        return _connection_error(message)
    if code == _CANCELLED and not reason and message != _CLOSED:
        # The client cancels no call. A server's gRPC library cancels those that arrive while it shuts down.
        return UnavailableError("daemon stopped during the call")
    error_class = None if code == _CANCELLED and not reason else _CLASSES.get(code)
    if error_class is None:
        # After CANCELLED, UNKNOWN, INTERNAL … whether a write was recorded is unknown, as after other StorageErrors.
        return StorageError(f"call failed with status {code}: {message}", reason or "INTERNAL")
    if error_class is errors.OverloadedError and not reason and "larger than max" in message:
        # The gRPC library itself refused the long message, so the status has no reason of consentd.
        return InvalidError("message is larger than the receiver accepts", "TOO_LARGE")
    if issubclass(error_class, errors.OverloadedError | UnavailableError) and retry_after_ms > 0:
        return error_class(message, reason or None, retry_after_ms=retry_after_ms)
    if code == 16 and not reason:
        reason = "UNAUTHENTICATED"
    return error_class(message, reason or None)


def _connection_error(message: str) -> StorageError:
    """Return the error for gRPC's own UNAVAILABLE, which no daemon has sent."""
    if any(text in message for text in _UNTRUSTED):
        # A repeat would find the same certificate.
        return StorageError(
            f"daemon's certificate is not accepted: {message}: name the authority that issued it, and use the"
            " certificate's name as the target"
        )
    if "failed to connect" in message and any(text in message for text in _HUNG_UP):
        return UnavailableError(
            f"daemon is not reached: {message}: something listens there and closes the connection. Does the daemon"
            " serve TLS, and does the client use it? Does the daemon ask for a client certificate, and has an authority"
            " that it knows issued the client's?"
        )
    if "failed to connect" in message:
        return UnavailableError(f"daemon is not reached: {message}: is it running, and is this its gRPC address?")
    return UnavailableError(message)


def _details(status: status_pb2.Status) -> tuple[str, int]:
    """Return the reason of an error and its retry delay in milliseconds. Details that do not decode say nothing."""
    info, retry, reason, retry_after_ms = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), "", 0
    try:
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                reason = reason or str(info.reason)
            elif detail.Unpack(retry):
                retry_after_ms = retry.retry_delay.ToMilliseconds()
    except (DecodeError, ValueError):
        pass
    return reason, retry_after_ms
