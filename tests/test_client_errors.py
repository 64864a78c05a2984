"""The Python client turns the status of a call, of an item of a batch and of an operation into the same errors."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cases.clients import FakeRpcError
from consentd.errors import (
    AbortedError,
    AlreadyExistsError,
    ConsentdError,
    CorruptionError,
    DeniedError,
    InvalidError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    StorageError,
)
from consentd_client import transport


def test_statuses_and_proto_errors_map_back() -> None:
    codes: dict[grpc.StatusCode, type[ConsentdError]] = {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
        grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
        grpc.StatusCode.ABORTED: AbortedError,
        grpc.StatusCode.PERMISSION_DENIED: DeniedError,
        grpc.StatusCode.UNAUTHENTICATED: DeniedError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
        grpc.StatusCode.UNAVAILABLE: StorageError,
        grpc.StatusCode.DATA_LOSS: CorruptionError,
        grpc.StatusCode.INTERNAL: StorageError,
    }
    for code, kind in codes.items():
        error = transport.rpc_error(FakeRpcError(code, "CLOCK"))
        assert isinstance(error, kind)
        assert error.reason == "CLOCK"
        info = error_details_pb2.ErrorInfo(reason="CLOCK", domain="consentd")
        item = transport.proto_error(status(code, info))
        assert (type(item), item.reason) == (type(error), "CLOCK")
    foreign = transport.rpc_error(FakeRpcError(grpc.StatusCode.NOT_FOUND, "CLOCK", domain="elsewhere"))
    assert foreign.reason == "NOT_FOUND"
    later = error_details_pb2.ErrorInfo(reason="OF_A_LATER_VERSION", domain="consentd")
    assert transport.proto_error(status(grpc.StatusCode.NOT_FOUND, later)).reason == "OF_A_LATER_VERSION"
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=7))
    busy = transport.proto_error(status(grpc.StatusCode.RESOURCE_EXHAUSTED, retry))
    assert isinstance(busy, OverloadedError)
    assert (busy.reason, busy.retry_after_ms) == ("OVERLOADED", 7_000)
    large = transport.status_error(8, "CLIENT: Received message larger than max (9 vs. 4)", ())
    assert (type(large), large.reason) == (InvalidError, "TOO_LARGE")
    garbled = transport.status_error(5, "m", [("grpc-status-details-bin", b"\xff")])
    assert garbled.reason == "NOT_FOUND"


def status(code: grpc.StatusCode, *details: Message) -> status_pb2.Status:
    """Return the status of an item of a batch."""
    made = status_pb2.Status(code=code.value[0], message="m")
    for detail in details:
        made.details.add().Pack(detail)
    return made
