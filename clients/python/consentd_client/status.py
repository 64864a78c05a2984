"""Turn gRPC statuses back into the errors they were (``consentd.errors``). Imports no gRPC."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from consentd.errors import (
    ConflictError,
    ConsentdError,
    CorruptionError,
    DeniedError,
    InvalidError,
    NotFoundError,
    OverloadedError,
    StorageError,
)
from consentd.v1 import error_reason_pb2 as er
from consentd_client.steps import UnavailableError

DOMAIN = "consentd"
DETAILS_KEY = "grpc-status-details-bin"

_CLASSES: dict[int, type[ConsentdError]] = {
    3: InvalidError,  # INVALID_ARGUMENT
    5: NotFoundError,  # NOT_FOUND
    7: DeniedError,  # PERMISSION_DENIED
    8: OverloadedError,  # RESOURCE_EXHAUSTED
    10: ConflictError,  # ABORTED
    14: UnavailableError,  # UNAVAILABLE
    15: CorruptionError,  # DATA_LOSS
    16: DeniedError,  # UNAUTHENTICATED
}
_DEADLINE_EXCEEDED = 4


def status_error(code: int, message: str, trailing: Iterable[tuple[str, Any]]) -> ConsentdError:
    """Return the error behind a gRPC status.

    Args:
        code: the status code, as a number.
        message: its text.
        trailing: the call's trailing metadata.
    """
    return make_error(code, message, _reason(trailing))


def item_error(error: er.ItemError) -> ConsentdError:
    """Return the error of one item of a batch."""
    try:
        reason = er.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    except ValueError:
        reason = ""  # of a later version
    return make_error(error.code, error.message, reason)


def make_error(code: int, message: str, reason: str) -> ConsentdError:
    """Return the error of a status code and a reason; an empty reason: the class's own."""
    if code == _DEADLINE_EXCEEDED:
        return StorageError("deadline passed; whether it was recorded is unknown, repeat it with its request_id")
    kind = _CLASSES.get(code)
    if kind is None:
        # CANCELLED, UNKNOWN, INTERNAL, UNIMPLEMENTED …: nothing the caller could act on, and the outcome is open.
        return StorageError(f"call failed with status {code}: {message}", reason or "INTERNAL")
    if kind is OverloadedError and not reason and "larger than max" in message:
        return InvalidError("message is larger than this side takes", "TOO_LARGE")  # gRPC's own, below any service
    if code == 16 and not reason:
        reason = "UNAUTHENTICATED"
    return kind(message, reason or None)


def _reason(trailing: Iterable[tuple[str, Any]]) -> str:
    for key, value in trailing:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            details = status_pb2.Status.FromString(value).details
            for detail in details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return str(info.reason)
        except DecodeError:
            return ""
    return ""
