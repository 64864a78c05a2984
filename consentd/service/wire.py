"""Stand between gRPC and the core: callers, calls, receipts.

Every RPC goes through ``rpc``: it tells who calls, counts, and turns a declared error into a status with
``google.rpc.ErrorInfo``. What is not a declared error is a bug, and says so without details.
"""

import hashlib
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message

from consentd.config import Config
from consentd.core import merkle
from consentd.errors import (
    ConsentdError,
    CorruptionError,
    DeniedError,
    InvalidError,
    NotFoundError,
    StorageError,
    VerificationError,
)
from consentd.ledger import reads
from consentd.ledger.ledger import Ledger, State
from consentd.ledger.vault import Vault, check_identifier
from consentd.metrics import Metrics
from consentd.sequencer.loop import Sequencer
from consentd.sequencer.pool import Written
from consentd.service.auth import OPERATOR, Authenticator
from consentd.service.status import UnauthenticatedError, bug_status, error_status, item_error, status_code
from consentd.table.table import Table
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import error_reason_pb2 as er
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

log = logging.getLogger(__name__)

MAX_WAIT_S = 30.0
"""The longest any call waits, whatever its deadline."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Services:
    """What the services stand on; made once by the daemon."""

    config: Config
    ledger: Ledger
    vault: Vault
    table: Table
    sequencer: Sequencer
    metrics: Metrics
    authenticator: Authenticator
    page_key: bytes
    pruning: threading.Lock = field(default_factory=threading.Lock)  # held by the one call that prunes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a participant id, or ``operator``; empty for nobody we know."""

    id: str

    @property
    def is_operator(self) -> bool:
        """Tell whether this is whoever runs the daemon."""
        return self.id == OPERATOR


# -- calls ----------------------------------------------------------------------------------------------------


class ServiceState:
    """Where calls find the daemon's services: None until the ledger is open and verified, and again once it drains."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.services: Services | None = None  # replaced by assignment, by the daemon


class Servicer:
    """What all services share."""

    def __init__(self, service_state: ServiceState) -> None:
        self._state = service_state

    @property
    def services(self) -> Services:
        """The daemon's services.

        Raises:
            StorageError: the daemon is starting or draining.
        """
        services = self._state.services
        if services is None:
            raise StorageError("daemon is starting or draining", "NOT_SERVING")
        return services

    @property
    def metrics(self) -> Metrics:
        """Every metric."""
        return self._state.metrics

    def caller(self, context: grpc.ServicerContext) -> Caller:
        """Tell who calls.

        Raises:
            UnauthenticatedError: no credential, or none that we know.
        """
        certificate: bytes | None = None
        if self.services.config.grpc.tls is not None:
            found_certificates: Any = context.auth_context().get("x509_pem_cert") or ()
            certificate = next(iter(found_certificates), None)
        found = self.services.authenticator.who(context.invocation_metadata() or (), certificate)
        if not found:
            raise UnauthenticatedError("call has no credential that is known here", "UNAUTHENTICATED")
        return Caller(found)

    def item_error(self, error: ConsentdError) -> er.ItemError:
        """Return, and count, what one item of a batch ends in."""
        self.metrics.errors.inc(error.reason)
        return item_error(error)

    def require_operator(self, caller: Caller) -> None:
        """Let only the operator pass.

        Raises:
            DeniedError: the caller is not.
        """
        if not caller.is_operator:
            raise DeniedError("call is the operator's")

    def require(self, snapshot: Snapshot, caller: Caller, right: "st.ParticipantRight.ValueType") -> None:
        """Let only participants with *right* pass, and the operator.

        Raises:
            DeniedError: the caller has not that right.
        """
        if not has_right(snapshot, caller, right):
            raise DeniedError(f"call needs the right `{st.ParticipantRight.Name(right)}`")

    def identifier_hash(self, subject: pb.Subject) -> bytes:
        """Return the keyed hash of an identifier.

        Raises:
            InvalidError: it may not be used as one.
        """
        check_identifier(subject.scheme, subject.value)
        return self.services.vault.identifier_hash(subject.scheme, subject.value)

    def tag(self, snapshot: Snapshot, subject: pb.Subject) -> bytes:
        """Return a person's tag.

        Raises:
            NotFoundError: the person is not enrolled.
        """
        tag = snapshot.tag_of(self.identifier_hash(subject))
        if tag is None:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        return tag

    def receipt(
        self, written: Written[Any], place: int, wait_for: int, context: grpc.ServicerContext
    ) -> pb.Receipt:
        """Return the receipt of entry *place* of a write, published if that was asked for and came in time."""
        if written.replayed:
            assert written.recorded_index is not None
            index = written.recorded_index + place
            leaf = reads.read_leaf(self.services.ledger.store, index)
        else:
            index, leaf = written.entries[place].index, written.entries[place].leaf
        return self.receipt_of(index, leaf, written.state, wait_for, context, replayed=written.replayed)

    def receipt_of(
        self,
        index: int,
        leaf: bytes,
        state: State,
        wait_for: int,
        context: grpc.ServicerContext,
        *,
        replayed: bool = False,
    ) -> pb.Receipt:
        """Return the receipt of the leaf at *index*."""
        receipt = pb.Receipt(
            index=index,
            leaf=leaf,
            leaf_hash=merkle.leaf_hash(leaf),
            revision=revision(state.size, state.root),
            replayed=replayed,
        )
        published = self.services.sequencer.published
        if wait_for == pb.WAIT_FOR_PUBLISHED:
            published = self.services.sequencer.wait_published(index + 1, remaining_s(context)) or published
        if published is not None and published.checkpoint.size > index:
            receipt.published = True
            receipt.proof = reads.proof_bundle(
                self.services.ledger.store, index, published.checkpoint, published.note
            )
        return receipt


def rpc(method: F) -> F:
    """Wrap the handler of a unary RPC: counts, and errors as statuses."""
    name = method.__name__

    def handle(self: Servicer, request: Message, context: grpc.ServicerContext) -> Any:
        started = time.perf_counter()
        try:
            if request is UNDECODABLE:
                raise InvalidError("request does not decode as the message of this call")
            response = method(self, request, context)
        except Exception as error:  # noqa: BLE001  # a bug is answered too, and we serve on
            failure = error
        else:
            _count(self.metrics, name, "OK", started)
            return response
        _end(self.metrics, name, started, context, failure)
        return None

    handle.__name__ = name
    handle.__doc__ = method.__doc__
    return handle  # type: ignore[return-value]  # same shape as the method


def stream_rpc(method: F) -> F:
    """Wrap the handler of a streaming RPC likewise."""
    name = method.__name__

    def handle(self: Servicer, request: Message, context: grpc.ServicerContext) -> Iterator[Any]:
        started = time.perf_counter()
        try:
            if request is UNDECODABLE:
                raise InvalidError("request does not decode as the message of this call")
            yield from method(self, request, context)
        except GeneratorExit:
            _count(self.metrics, name, "CANCELLED", started)
            raise
        except Exception as error:  # noqa: BLE001  # as in ``rpc``
            failure = error
        else:
            _count(self.metrics, name, "OK", started)
            return
        _end(self.metrics, name, started, context, failure)

    handle.__name__ = name
    handle.__doc__ = method.__doc__
    return handle  # type: ignore[return-value]  # same shape as the method


UNDECODABLE: Final = object()
"""What a handler gets where a request's bytes are no message of its call."""


class Decoding:
    """The server as generated code sees it, so that a request that does not decode reaches ``rpc``.

    gRPC answers such bytes INTERNAL, which would blame us, counts them nowhere and logs a traceback for each.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Do nothing: the same handlers come by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of a service, each with a deserializer that never fails."""
        ours = {name: _decoding(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, ours),))
        self._server.add_registered_method_handlers(service, ours)


def _decoding(handler: Any) -> Any:
    decode = handler.request_deserializer

    def decode_or_tell(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:  # noqa: BLE001  # protobuf's implementations raise each their own
            return UNDECODABLE

    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, decode_or_tell, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, decode_or_tell, handler.response_serializer)


def _count(metrics: Metrics, name: str, code: str, started: float) -> None:
    metrics.rpcs.inc(name, code)
    metrics.rpc_seconds.observe(time.perf_counter() - started, name)


def _end(metrics: Metrics, name: str, started: float, context: grpc.ServicerContext, error: Exception) -> None:
    """End a call with the status of *error*; does not return, for gRPC aborts by raising."""
    if isinstance(error, VerificationError):
        # What a caller sent is an InvalidError by now; what does not verify here is what we stored.
        error = CorruptionError(f"ledger does not verify: {error}")
    if isinstance(error, ConsentdError):
        status, code = error_status(error), status_code(error)
        metrics.errors.inc(error.reason)
    else:
        # The text of a foreign exception may hold anything, so the log gets its type and place only.
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        log.error("bug in %s: %s at %s", name, type(error).__name__, where)
        status, code = bug_status(), grpc.StatusCode.INTERNAL
    _count(metrics, name, code.name, started)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)


def remaining_s(context: grpc.ServicerContext) -> float:
    """Return how long a call may still wait, leaving a moment to answer."""
    left = cast("float | None", context.time_remaining())  # the stub forgets the call without a deadline
    return MAX_WAIT_S if left is None else max(0.0, min(MAX_WAIT_S, left - 0.05))


# -- values ---------------------------------------------------------------------------------------------------


def has_right(snapshot: Snapshot, caller: Caller, right: "st.ParticipantRight.ValueType") -> bool:
    """Tell whether the caller is an active participant with *right*, or the operator."""
    if caller.is_operator:
        return True
    participant = snapshot.participant(caller.id)
    return participant is not None and participant.active and right in participant.rights


def revision(size: int, root: bytes) -> pb.Revision:
    """Return a revision message."""
    return pb.Revision(tree_size=size, root_hash=root)


def check_request_id(request_id: bytes) -> bytes:
    """Return a request_id that is one.

    Raises:
        InvalidError: it is not 16 bytes.
    """
    if len(request_id) != 16:
        raise InvalidError(f"request_id is not 16 bytes: `{len(request_id)}`", "INVALID_REQUEST_ID")
    return request_id


def content_hash(method: str, *messages: Message | bytes | str) -> bytes:
    """Hash what a request asks, to tell a repeat from a clash; 32 bytes."""
    hasher = hashlib.sha256(method.encode())
    for message in messages:
        if isinstance(message, str):
            part = message.encode()
        else:
            part = message if isinstance(message, bytes) else message.SerializeToString(deterministic=True)
        hasher.update(struct.pack(">I", len(part)))
        hasher.update(part)
    return hasher.digest()


def opening(opened: tuple[bytes, bytes] | None) -> ls.Opening | None:
    """Return an opening message, or None where there is none."""
    return None if opened is None else ls.Opening(salt=opened[0], statement=opened[1])


def check_batch(count: int, most: int) -> None:
    """Refuse a batch that is too long.

    Raises:
        InvalidError: TOO_LARGE, naming the limit.
    """
    if count > most:
        raise InvalidError(f"batch is over its limit of {most} items: `{count}`", "TOO_LARGE")
