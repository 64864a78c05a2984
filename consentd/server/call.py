"""One gRPC call: what its peer sent, the operations on it, and the end of it. See ``consentd/server/transport.py``."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc import _cython

from consentd.server.gate_peer import caller_address, caller_certificate, is_gate
from consentd.service.auth import UnauthenticatedError
from consentd.service.context import Person, Status
from consentd.service.operator_roles import NO_ROLES

cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined]  # the annotations of grpcio leave it out
log = logging.getLogger(__name__)

SWEEP_S = 0.25
"""How often the transport looks for calls whose time limit has passed."""
_NO_FLAGS = 0
_NEVER = float("inf")
_NO_DEADLINE_S = 1e9  # gRPC reports the deadline of a call that has none as a time far away


OK = Status(grpc.StatusCode.OK)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a peer may take to send its message, and to take a message or a status from us; in seconds."""

    receive_s: float
    send_s: float


class Owner(Protocol):
    """What a call needs of the transport that made it.

    Attributes:
        clock_s: seconds that the transport's thread has run.
    """

    limits: TimeLimits
    clock_s: float

    def on_late(self, call: "Call") -> None:
        """End a call whose peer sent no message in time."""

    def forget(self, call: "Call") -> None:
        """Drop a call that is over."""


class Call:
    """One call. Any thread may use it; the functions passed in run on the transport's thread and must not wait.

    Attributes:
        method: the path of the RPC, ``/package.Service/Method``.
        caller, person: see ``Context``. Set by ``RpcServer``.
        on_release: called once, on any thread, when the call is parked, or over and nobody holds it. Set by
            ``RpcServer``.
        begin_wait, begin_replay, give_way, is_known: see ``Context``. Set by ``RpcServer``.
        put: runs a step on a thread of the pool that the call is in. Set by ``RpcServer``.
    """

    __slots__ = (
        "_cancels", "_core", "_deadline_s", "_expires_s", "_has_answered", "_holds", "_is_ending", "_lock",
        "_transport", "_under_way", "begin_replay", "begin_wait", "caller", "fault", "give_way", "is_known",
        "is_receiving", "metadata", "method", "on_release", "person", "put", "roles",
    )  # fmt: skip

    def __init__(self, transport: Owner, event: Any) -> None:
        self._transport = transport
        self._core = event.call
        left_s: float = event.call_details.deadline - time.time()
        self._deadline_s = _NEVER if left_s > _NO_DEADLINE_S else time.monotonic() + left_s
        self.method: bytes = event.call_details.method
        self.metadata: Sequence[tuple[str, str | bytes]] = event.invocation_metadata or ()
        self.caller = ""
        self.person: Person | None = None
        self.roles = NO_ROLES
        self.fault: UnauthenticatedError | None = None
        self.on_release: Callable[[], None] = _nothing
        self.begin_wait: Callable[[], bool] = _refuse
        self.begin_replay: Callable[[], None] = _nothing
        self.put: Callable[[Callable[[], None]], None] = _drop
        self.give_way: Callable[[], None] = _nothing
        self.is_known: Callable[[], bool] = _refuse
        self.is_receiving = False
        self._expires_s = _NEVER  # by the transport's clock; written under the lock, read without it
        self._lock = threading.Lock()  # guards the attributes below
        self._is_ending = False  # a status was sent, or the call was cancelled
        self._has_answered = False
        self._under_way = 0
        self._holds = 1
        self._cancels: list[Callable[[], None]] = []
        self._start((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    # -- what a handler asks ----------------------------------------------------------------------------------

    def is_active(self) -> bool:
        """Return whether somebody still waits for the answer: no cancel, and the deadline has not passed."""
        return not self._is_ending and time.monotonic() < self._deadline_s

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None: there is none."""
        return None if self._deadline_s == _NEVER else max(0.0, self._deadline_s - time.monotonic())

    def peer(self) -> str:
        """Return the caller's address as gRPC names it, also where the gate has passed the call on."""
        return caller_address(self.metadata, self._peer())

    def certificate(self) -> bytes | None:
        """Return the client certificate of the peer, PEM, and after it the others of the chain that the peer showed.

        None: the peer showed none. Of a caller of the gate it is the certificate alone.
        """
        if is_gate(self._peer()):
            return caller_certificate(self.metadata)
        shown = cygrpc.auth_context(self._core) or {}
        own, chain = (b"".join(shown.get(name) or ()) for name in (b"x509_pem_cert", b"x509_pem_cert_chain"))
        return (chain if chain.startswith(own) else own + chain) or None

    def _peer(self) -> str:
        return str(self._core.peer().decode("utf-8", "replace"))

    def on_cancel(self, run: Callable[[], None]) -> None:
        """Run *run* when the call is cancelled; now, if it was cancelled before."""
        with self._lock:
            if not self._is_ending:
                self._cancels.append(run)
                return
        run()

    # -- operations -------------------------------------------------------------------------------------------

    def receive(self, then: Callable[[bytes | None], None]) -> None:
        """Take the next message, and pass it to *then*; None: there is no further message, or the call is over."""
        self.is_receiving = True

        def received(event: Any) -> None:
            self.is_receiving = False
            self._end_limit()
            then(event.batch_operations[0].message())

        limit_s = self._transport.limits.receive_s
        if not self._start((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received, limit_s=limit_s):
            then(None)

    def send(self, message: bytes, then: Callable[[], None]) -> None:
        """Send a message of a stream; run *then* when the peer has room for the next one, or when the call is over."""

        def sent(_: Any) -> None:
            self._end_limit()
            then()

        limit_s = self._transport.limits.send_s
        operations = (cygrpc.SendMessageOperation(message, _NO_FLAGS),)
        if not self._start(operations, sent, limit_s=limit_s, answers=True):
            then()

    def finish(self, status: Status = OK, message: bytes | None = None) -> None:
        """End the call, with a last message if *status* is OK. Only the first ``finish`` of a call has an effect."""
        code, text = _CORE_CODES[status.code], status.message.encode("utf-8", "replace")
        sent: list[Any] = [] if message is None else [cygrpc.SendMessageOperation(message, _NO_FLAGS)]
        sent.append(cygrpc.SendStatusFromServerOperation(status.metadata or None, code, text, _NO_FLAGS))
        self._start(sent, _ignore, limit_s=self._transport.limits.send_s, answers=True, ends=True)

    def hold(self) -> None:
        """Count the call as open until ``release`` is called once more."""
        with self._lock:
            self._holds += 1

    def release(self) -> None:
        """End a ``hold``."""
        with self._lock:
            self._holds -= 1
            is_last = self._holds == 0
        if is_last:
            self._leave()

    def set_aside(self) -> None:
        """Leave what the call has entered: it is refused, and answered later. No operation of it is under way."""
        self._leave()

    def expire(self, now_s: float) -> bool:
        """End the call if a time limit has passed; return whether it has. The transport's thread calls this."""
        if now_s < self._expires_s:
            return False
        if self.is_receiving and not self._is_ending:
            self._transport.on_late(self)
        else:
            self._expires_s = _NEVER
            self._core.cancel()
        return True

    # -- steps ------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        # INVARIANT: a call that is over is in no cycle of references. The core counts its stream as open until the
        # last reference goes, and the garbage collector would find a cycle late.
        leave, self.on_release = self.on_release, _nothing
        self.begin_wait, self.begin_replay, self.give_way, self.is_known = _refuse, _nothing, _nothing, _refuse
        self.put = _drop
        leave()

    def _start(
        self, operations: Sequence[Any], then: Callable[[Any], None], *, limit_s: float = _NEVER,
        answers: bool = False, ends: bool = False,
    ) -> bool:  # fmt: skip
        """Start *operations*, and run *then* with the event that reports their end; the peer has *limit_s* seconds.

        Return False, and start nothing, if the call is ending: a status was sent, or the call was cancelled.
        """
        with self._lock:
            if self._is_ending:
                return False
            self._is_ending = ends
            # The clock moves in steps of a sweep, so a limit is at most a sweep too long, and never too short.
            self._expires_s = self._transport.clock_s + SWEEP_S + limit_s
            if ends:
                self._cancels.clear()
            is_first, self._has_answered = answers and not self._has_answered, self._has_answered or answers
            self._under_way += 1
        if is_first:
            operations = (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS), *operations)

        def ended(event: Any) -> None:
            try:
                then(event)
            except Exception as error:  # noqa: BLE001  # the caller gets an answer even after a bug
                log.error("bug after an operation of a call: %s", type(error).__name__)
                self.finish(Status(grpc.StatusCode.INTERNAL, "internal error"))
            finally:
                self._end_operation()

        self._core.start_server_batch(operations, ended)
        return True

    def _end_limit(self) -> None:
        with self._lock:
            if not self._is_ending:
                self._expires_s = _NEVER

    def _end_operation(self) -> None:
        with self._lock:
            self._under_way -= 1
            is_over = self._under_way == 0
        if is_over:
            self._transport.forget(self)
            self.release()

    def _closed(self, _: Any) -> None:
        """Note that the core is done with the call. If no status was sent, the peer cancelled it."""
        with self._lock:
            self._is_ending = True
            cancels, self._cancels = self._cancels, []
        for run in cancels:
            run()


def _nothing() -> None:
    return None


def _refuse() -> bool:
    return False


def _drop(step: Callable[[], None]) -> None:
    return None


def _ignore(_: Any) -> None:
    return None


_CORE_CODES: dict[grpc.StatusCode, Any] = {
    code: getattr(cygrpc.StatusCode, code.name.lower()) for code in grpc.StatusCode
}
