"""Run the handler of each RPC: authorize the caller, count and log the call, and turn an error into a gRPC status.

A status has a code, and ``google.rpc.ErrorInfo`` with the error's reason. An exception that is not declared in
``errors`` is a bug: the caller gets INTERNAL without details, and the daemon continues to serve.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import lru_cache, partial, wraps
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from consentd import errors, limits
from consentd.errors import ConsentdError
from consentd.metrics import Metrics
from consentd.service.auth import UnauthenticatedError
from consentd.service.call_log import LoggedCall
from consentd.service.context import Context, EndedCallError, Status
from consentd.service.servicer import Servicer, ServiceState
from consentd.statements import payloads
from consentd.table.checked_rows import DamagedRowError
from consentd.v1 import consent_pb2 as pb

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

UNDECODABLE: Final = object()
"""Passed to a handler in place of a request whose bytes do not decode as the RPC's request message."""

_WAITS: Final = frozenset(pb.WaitFor.values())

DOMAIN = "consentd"
MAX_MESSAGE = limits.ERROR_MESSAGE_CHARACTERS
"""Longest error message sent, in characters. A status is sent in trailers, and clients read 8 KiB of trailers."""

_CODES: tuple[tuple[type[ConsentdError], grpc.StatusCode], ...] = (
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),  # before its base class: the first match counts
    (errors.OperationCancelledError, grpc.StatusCode.CANCELLED),
    (errors.InvalidError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.AbortedError, grpc.StatusCode.ABORTED),
    (errors.DeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.NotReachedError, grpc.StatusCode.UNAVAILABLE),
    (errors.StorageError, grpc.StatusCode.UNAVAILABLE),
    (errors.CorruptionError, grpc.StatusCode.DATA_LOSS),
)


def rpc(method: F, *, damaged: Callable[[Any, Any, Context], Any] | None = None) -> F:
    """Wrap the handler of a unary RPC: a plain function, or an ``async`` one if the call waits for a write."""
    name = method.__name__
    waits = "wait_for" in method.__annotations__["request"].DESCRIPTOR.fields_by_name

    @wraps(method)
    def handle(self: Servicer, request: Message, context: Context) -> Any:
        started = time.perf_counter()
        try:
            self.authorize(name, context)
            _check_request(request, waits=waits)
            self.check_own(name, request, context)
            response = method(self, request, context)
        except Exception as error:  # noqa: BLE001  # the caller gets an answer even after a bug
            raise _ended(self, name, started, error, request, context) from None
        _count(self.metrics, name, "OK", started)
        return response

    @wraps(method)
    async def handle_waiting(self: Servicer, request: Message, context: Context) -> Any:
        started = time.perf_counter()
        try:
            try:
                self.authorize(name, context)
                _check_request(request, waits=waits)
                self.check_own(name, request, context)
                response = await method(self, request, context)
            except DamagedRowError:
                if damaged is None or not context.caller or context.person is not None:
                    raise
                _check_request(request, waits=waits)
                response = damaged(self, request, context)
                if response is None:
                    raise
        except Exception as error:  # noqa: BLE001
            raise _ended(self, name, started, error, request, context) from None
        _count(self.metrics, name, "OK", started)
        return response

    return cast(F, handle_waiting if iscoroutinefunction(method) else handle)


def rpc_or(damaged: Callable[[Any, Any, Context], Any]) -> Callable[[F], F]:
    """Do as ``rpc`` for an ``async`` handler. *damaged* answers while a row that all calls need is damaged.

    It is given the calls of every known caller, because what a caller may do is not known then. It may return None: the
    call fails.
    """
    return lambda method: rpc(method, damaged=damaged)


def stream_rpc(method: F) -> F:
    """Wrap the handler of an RPC that streams its responses."""
    name = method.__name__

    @wraps(method)
    def handle(self: Servicer, request: Message, context: Context) -> Iterator[Any]:
        started = time.perf_counter()
        try:
            self.authorize(name, context)
            _check_request(request)
            self.check_own(name, request, context)
            yield from method(self, request, context)
        except GeneratorExit:
            _count(self.metrics, name, "CANCELLED", started)
            raise
        except Exception as error:  # noqa: BLE001
            raise _ended(self, name, started, error, request, context) from None
        _count(self.metrics, name, "OK", started)

    return cast(F, handle)


def next_item(context: Context) -> None:
    """Give way to other calls before the next item of a batch.

    Raises:
        CancelledError: nobody waits for the answer any more.
    """
    context.give_way()
    if not context.is_active():
        raise CancelledError


def forgiving(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return *decode*, changed to return ``UNDECODABLE`` instead of raising."""

    def decode_or_mark(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001  # each implementation of protobuf has an exception class of its own
            return UNDECODABLE

    return decode_or_mark


def _check_request(request: Message, *, waits: bool = False) -> None:
    """Check what every request must be; *waits*: the request says when to answer (``wait_for``).

    Raises:
        InvalidError: the request does not decode, has a field that this version does not know, or an unknown wait_for.
    """
    if request is UNDECODABLE:
        raise errors.InvalidError("request does not decode as the message of this call")
    payloads.check_own_fields(request)
    if waits and cast(Any, request).wait_for not in _WAITS:
        raise errors.InvalidError("wait_for has a value that this version does not know")


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


def item_error(
    servicer: Servicer, name: str, error: ConsentdError, item: Message, context: Context
) -> status_pb2.Status:
    """Count and log the error of one *item* of a batch. Return the status that a single call would have ended with."""
    servicer.metrics.errors.inc(error.reason)
    servicer.call_log.refused(name, error, context, partial(servicer.names_in, item))
    return _status_message(status_code(error), message_of(error), error.reason, _retry_after_ms(error))


def _ended(
    servicer: Servicer, name: str, started: float, error: Exception, request: object, context: Context
) -> Exception:
    """Count and log a call that ended with *error*; return what the server expects: an ``EndedCallError``, or the
    ``CancelledError``."""
    metrics = servicer.metrics
    if isinstance(error, CancelledError):
        _count(metrics, name, "CANCELLED", started)
        return error
    status = status_of(error, metrics, name)
    _count(metrics, name, status.code.name, started)
    if isinstance(error, ConsentdError):
        names = partial(servicer.names_in, request)
        servicer.call_log.refused(name, _declared(error), context, names, code=status.code.name)
    else:
        servicer.call_log.ended(name, status.code.name, context)
    return EndedCallError(status)


def _declared(error: ConsentdError) -> ConsentdError:
    """Return the error that the caller gets for *error*."""
    if isinstance(error, errors.VerificationError):
        # Malformed bytes from the caller were refused as InvalidError before. So this error is about stored bytes.
        return errors.CorruptionError(f"ledger does not verify: {error}")
    return error


def status_of(error: Exception, metrics: Metrics, name: str) -> Status:
    """Return the status that ends a call of the RPC *name* because of *error*; count the error, and log a bug."""
    if isinstance(error, ConsentdError):
        error = _declared(error)
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
    return _make_status(code, message, reason, _retry_after_ms(error))


def _retry_after_ms(error: Exception) -> int:
    """Return when the caller should try again, from now, in milliseconds; 0: the status does not say it."""
    return error.retry_after_ms if isinstance(error, errors.LaterError) else 0


def status_message(metrics: Metrics, name: str, error: Exception) -> status_pb2.Status:
    """Return the google.rpc.Status of an error that ends an operation of the RPC *name*; see ``status_of``."""
    ((_, details),) = status_of(error, metrics, name).metadata
    return status_pb2.Status.FromString(details)


@lru_cache(maxsize=64)
def _make_status(code: grpc.StatusCode, message: str, reason: str, retry_after_ms: int) -> Status:
    """Return how a call ends, with the details as trailing metadata. Most refusals repeat a few texts.

    To find a status again takes a tenth of the time that it takes to make one.
    """
    status = _status_message(code, message, reason, retry_after_ms)
    return Status(code, message, (("grpc-status-details-bin", status.SerializeToString()),))


@lru_cache(maxsize=64)
def _status_message(code: grpc.StatusCode, message: str, reason: str, retry_after_ms: int) -> status_pb2.Status:
    """Return the status with its details. Copy it before you change it."""
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    if retry_after_ms:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=_duration(retry_after_ms)))
    return status


def _duration(milliseconds: int) -> Duration:
    seconds, rest = divmod(milliseconds, 1000)
    return Duration(seconds=seconds, nanos=rest * 1_000_000)


def refusal(error: ConsentdError, state: ServiceState, name: str, call: LoggedCall) -> Status:
    """Return the status of a call that is refused before it reaches a handler; count and log the call and the error."""
    status = status_of(error, state.metrics, name)
    state.metrics.rpcs.inc(name, status.code.name)
    state.call_log.refused(name, error, call, code=status.code.name)
    return status
