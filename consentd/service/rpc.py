"""Run the handler of each RPC: authorize the caller, count the call, and turn an error into a gRPC status.

A status has a code, and ``google.rpc.ErrorInfo`` with the error's reason. An exception that is not declared in
``errors`` is a bug: the caller gets INTERNAL without details, and the daemon continues to serve.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any, Final, NoReturn, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from consentd import errors
from consentd.errors import ConsentdError
from consentd.metrics import Metrics
from consentd.service.auth import UnauthenticatedError
from consentd.service.roles import TABLE
from consentd.service.servicer import Context, Servicer
from consentd.v1 import error_reason_pb2 as er

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

UNDECODABLE: Final = object()
"""Passed to a handler in place of a request whose bytes do not decode as the RPC's request message."""
_NEVER_WAIT: set[Any] = set()

DOMAIN = "consentd"
MAX_MESSAGE = 300
"""Longest error message sent, in characters. A status is sent in trailers, and clients read 8 KiB of trailers."""
_RETRY_AFTER_S = 1

_CODES: tuple[tuple[type[ConsentdError], grpc.StatusCode], ...] = (
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),  # before its base class: the first match counts
    (errors.InvalidError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.ConflictError, grpc.StatusCode.ABORTED),
    (errors.DeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.StorageError, grpc.StatusCode.UNAVAILABLE),
    (errors.CorruptionError, grpc.StatusCode.DATA_LOSS),
)


def rpc(method: F) -> F:
    """Wrap the handler of a unary RPC."""
    name = method.__name__

    @wraps(method)
    def handle(self: Servicer, request: Message, context: Context) -> Any:
        started = time.perf_counter()
        try:
            self.authorize(name, context)
            _check_decoded(request)
            response = method(self, request, context)
        except Exception as error:  # noqa: BLE001  # the caller gets an answer even after a bug
            _abort(self.metrics, name, started, context, error)
        _count(self.metrics, name, "OK", started)
        return response

    return cast(F, handle)


def stream_rpc(method: F) -> F:
    """Wrap the handler of an RPC that streams its responses."""
    name = method.__name__

    @wraps(method)
    def handle(self: Servicer, request: Message, context: Context) -> Iterator[Any]:
        started = time.perf_counter()
        try:
            self.authorize(name, context)
            _check_decoded(request)
            yield from method(self, request, context)
        except GeneratorExit:
            _count(self.metrics, name, "CANCELLED", started)
            raise
        except Exception as error:  # noqa: BLE001  # as in ``rpc``
            _abort(self.metrics, name, started, context, error)
        _count(self.metrics, name, "OK", started)

    return cast(F, handle)


def never_waits(handler: F) -> F:
    """Mark a handler that never waits. It runs on the gRPC server's own threads, all other handlers on a pool."""
    _NEVER_WAIT.add(handler)
    return handler


class Pooled:
    """A handler that gRPC runs on *pool*. gRPC finds the pool in the attribute ``experimental_thread_pool``."""

    def __init__(self, handler: Any, pool: ThreadPoolExecutor) -> None:
        self._handler = handler
        self.experimental_thread_pool = pool

    def __call__(self, request: Any, context: Context) -> Any:
        """Handle a call."""
        return self._handler(request, context)


class ServiceRegistration:
    """Is passed to generated code in place of the server, and adds services to the server with changed handlers.

    The changes: calls that may wait run on *pool*, and a request that does not decode reaches ``rpc``. Without the
    second change, gRPC would answer such a request with INTERNAL, uncounted, and log a traceback.

    Attributes:
        services: the names of the services that were added.
    """

    def __init__(self, server: Any, pool: ThreadPoolExecutor, metrics: Metrics) -> None:
        self._server = server
        self._pool = pool
        self._metrics = metrics
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Do nothing: generated code also adds the same handlers by ``add_registered_method_handlers``."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of *service*, by method name."""
        self.services.append(service)
        unlisted = handlers.keys() - TABLE.keys()
        assert not unlisted, f"no line of the table says who may call: {sorted(unlisted)}"
        ours = {name: self._changed(handler) for name, handler in handlers.items()}
        for name in ours:
            self._metrics.rpcs.begin(name, "INTERNAL")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, ours),))
        self._server.add_registered_method_handlers(service, ours)

    def _changed(self, handler: Any) -> Any:
        behavior, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            behavior, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
        if behavior.__func__ not in _NEVER_WAIT:
            behavior = Pooled(behavior, self._pool)
        return make(behavior, _forgiving(handler.request_deserializer), handler.response_serializer)


def _forgiving(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_or_mark(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001  # each implementation of protobuf has an exception class of its own
            return UNDECODABLE

    return decode_or_mark


def _check_decoded(request: object) -> None:
    if request is UNDECODABLE:
        raise errors.InvalidError("request does not decode as the message of this call")


def _count(metrics: Metrics, name: str, code: str, started: float) -> None:
    metrics.rpcs.inc(name, code)
    metrics.rpc_seconds.observe(time.perf_counter() - started, name)


def status_code(error: ConsentdError) -> grpc.StatusCode:
    """Return the gRPC code of a declared error (errors.py)."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def message_of(error: ConsentdError) -> str:
    """Return an error's message, cut to ``MAX_MESSAGE``, because the message may quote long input from the caller."""
    message = str(error)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def item_error(metrics: Metrics, error: ConsentdError) -> er.ItemError:
    """Count the error of one item of a batch in the metrics, and return the error as a protobuf message."""
    metrics.errors.inc(error.reason)
    reason = er.ErrorReason.Value(f"ERROR_REASON_{error.reason}")
    return er.ItemError(code=status_code(error).value[0], reason=reason, message=message_of(error))


def _abort(metrics: Metrics, name: str, started: float, context: Context, error: Exception) -> NoReturn:
    """End a call with the status of *error*; never returns, because ``context.abort`` raises an exception."""
    if isinstance(error, errors.VerificationError):
        # Malformed bytes from the caller were refused as InvalidError before. So this error is about stored bytes.
        error = errors.CorruptionError(f"ledger does not verify: {error}")
    if isinstance(error, ConsentdError):
        code, message, reason = status_code(error), message_of(error), error.reason
        metrics.errors.inc(reason)
    else:
        # The text of an undeclared exception may hold a person's identifier, so only its type and line are logged.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
        log.error("bug in %s: %s at %s", name, type(error).__name__, where)
        code, message, reason = grpc.StatusCode.INTERNAL, "internal error", "INTERNAL"
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    if isinstance(error, errors.OverloadedError):
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=_RETRY_AFTER_S)))
    _count(metrics, name, code.name, started)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
