"""Turn declared errors into gRPC statuses: a code, and ``google.rpc.ErrorInfo`` with the error's reason."""

import grpc
from google.protobuf.duration_pb2 import Duration
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

DOMAIN = "consentd"
MAX_MESSAGE = 300
"""Longest error message sent, in characters. A status is sent in trailers, and clients read 8 KiB of trailers."""
_RETRY_AFTER_S = 1

_CODES: tuple[tuple[type[ConsentdError], grpc.StatusCode], ...] = (
    (InvalidError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ABORTED),
    (DeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
    (CorruptionError, grpc.StatusCode.DATA_LOSS),
)


class UnauthenticatedError(DeniedError):
    """Say that a call has no valid credential (UNAUTHENTICATED), while other denials are PERMISSION_DENIED."""


def status_code(error: ConsentdError) -> grpc.StatusCode:
    """Return the gRPC code of a declared error (errors.py)."""
    if isinstance(error, UnauthenticatedError):
        return grpc.StatusCode.UNAUTHENTICATED
    return next(code for kind, code in _CODES if isinstance(error, kind))


def error_status(error: ConsentdError) -> status_pb2.Status:
    """Return the google.rpc.Status of a declared error."""
    code = status_code(error)
    status = status_pb2.Status(code=code.value[0], message=message_of(error))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if isinstance(error, OverloadedError):
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=_RETRY_AFTER_S))
        status.details.add().Pack(retry)
    return status


def item_error(error: ConsentdError) -> er.ItemError:
    """Return the message of a declared error that concerns one item of a batch."""
    return er.ItemError(
        code=status_code(error).value[0],
        reason=er.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        message=message_of(error),
    )


def message_of(error: ConsentdError) -> str:
    """Return an error's message, cut to ``MAX_MESSAGE``: it may contain long input of the caller's."""
    message = str(error)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def bug_status() -> status_pb2.Status:
    """Return the status of a bug, without any detail."""
    status = status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message="internal error")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN))
    return status
