"""Serve gRPC calls on grpcio's core: one thread does the transport of all calls, and no call owns a thread.

**Theory of operation.** ``grpc.server`` gives a call a thread of a pool when its headers arrive. The thread then waits
until the peer has sent its message, and until the peer has taken the answer. So a few peers that do neither hold all
threads. This module uses the layer below, ``grpc._cython.cygrpc``, as ``grpc.server`` does: operations of a call (take
a message, send a message, send a status) are started, and the core reports their end as events of one queue. One
thread takes the events. It runs the functions that were given with the operations; these must not wait. Other threads
may start operations too.

A *call* is open from its headers until the core reports that the call is over and no operation of it is under way.
``hold`` and ``release`` extend this: a call that was cancelled counts as open while a handler still works for it, so
limits on open calls are limits on work too.

An operation that depends on the peer has a time limit. A sweep looks at all open calls, four times a second, and ends
those whose limit has passed. Many calls may be late at once, so a sweep is made of small parts, and the loop handles an
event between two of them. The limits count time in which this process runs: if it is paused or gets no processor,
``Transport.clock_s`` is late too, and no peer is blamed for that.

decisions/0012 says what was measured.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import _cython

from consentd.errors import StorageError
from consentd.service.context import Status

cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined]  # the annotations of grpcio leave it out
log = logging.getLogger(__name__)

SWEEP_S = 0.25
_SWEPT = 256  # how many calls a part of a sweep looks at; it ends one at most
_REQUESTED = 4  # how many new calls may be in the queue; more would come before events of calls that began earlier
_NO_FLAGS = 0
_NEVER = float("inf")
_NO_DEADLINE_S = 1e9  # gRPC reports the deadline of a call that has none as a time far away


OK = Status(grpc.StatusCode.OK)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a peer may take to send its message, and to take a message or a status from us; in seconds."""

    receive_s: float
    send_s: float


class Call:
    """One call. Any thread may use it; the functions passed in run on the transport's thread and must not wait.

    Attributes:
        method: the path of the RPC, ``/package.Service/Method``.
        caller: participant id, or ``operator``; empty: the call has no known credential. Set by ``RpcServer``.
        on_release: called once, on any thread, when the call is over and nobody holds it. Set by ``RpcServer``.
        begin_wait, give_way: see ``Context``. Set by ``RpcServer``.
    """

    __slots__ = (
        "_cancels", "_core", "_deadline_s", "_expires_s", "_has_answered", "_holds", "_is_ending", "_lock",
        "_transport", "_under_way", "begin_wait", "caller", "give_way", "is_receiving", "metadata", "method",
        "on_release",
    )  # fmt: skip

    def __init__(self, transport: "Transport", event: Any) -> None:
        self._transport = transport
        self._core = event.call
        left_s: float = event.call_details.deadline - time.time()
        self._deadline_s = _NEVER if left_s > _NO_DEADLINE_S else time.monotonic() + left_s
        self.method: bytes = event.call_details.method
        self.metadata: Sequence[tuple[str, str | bytes]] = event.invocation_metadata or ()
        self.caller = ""
        self.on_release: Callable[[], None] = _nothing
        self.begin_wait: Callable[[], bool] = _refuse
        self.give_way: Callable[[], None] = _nothing
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
        """Return the address of the peer as gRPC names it."""
        return str(self._core.peer().decode("utf-8", "replace"))

    def certificate(self) -> bytes | None:
        """Return the client certificate of the peer, PEM; None: the peer showed none."""
        found = (cygrpc.auth_context(self._core) or {}).get(b"x509_pem_cert") or ()
        return next(iter(found), None)

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
            # INVARIANT: a call that is over is in no cycle of references. The core counts its stream as open until the
            # last reference goes, and the garbage collector would find a cycle late.
            leave, self.on_release = self.on_release, _nothing
            self.begin_wait, self.give_way = _refuse, _nothing
            leave()

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


class Transport:
    """A gRPC server that gives each call to *begin* when the call's headers are there; see the module's docstring."""

    def __init__(
        self, begin: Callable[[Call], None], *, on_late: Callable[[Call], None], limits: TimeLimits,
        options: Sequence[tuple[str, Any]],
    ) -> None:  # fmt: skip
        """Make a server that does not listen yet.

        Args:
            begin: takes a new call, on the transport's thread. An exception in it is a bug, and ends the call.
            on_late: ends a call whose peer sent no message in time, on the same thread.
        """
        self.limits = limits
        self.on_late = on_late
        self.clock_s = 0.0  # seconds that the thread has run; advanced before each sweep
        self._begin = begin
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)  # no xDS
        self._server.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._run, name="transport", daemon=True)
        # INVARIANT: the core's server is not destroyed while another thread calls it, and no call is requested after
        # its shutdown. stop, _run and _request_call take this lock. It guards ``_stopping`` and ``_is_destroyed``.
        self._ends = threading.Lock()
        self._stopping = False
        self._is_destroyed = False
        # The transport's thread owns the attributes below.
        self._open: set[Call] = set()
        self._requested = 0
        self._unswept: list[Call] = []  # what the sweep under way has not looked at
        self._swept_s = 0.0  # when the last sweep was due, by time.monotonic
        self._is_shut = False

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Listen on *address* (host:port), and return the port. Raises ``StorageError`` if that is not possible."""
        arguments: list[Any] = [address.encode()]
        if credentials is not None:
            arguments.append(vars(credentials)["_credentials"])  # as ``grpc.Server.add_secure_port`` does
        try:
            port = int(self._server.add_http2_port(*arguments))
        except RuntimeError:
            port = 0
        if port == 0:
            raise StorageError(f"cannot listen on `{address}`: is another daemon running?")
        return port

    def start(self) -> None:
        """Begin to take calls."""
        self._server.start()
        for _ in range(_REQUESTED):
            self._request_call()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no new calls, and wait until all calls are over; cancel the calls that take longer than *grace_s*."""
        if self._thread.ident is None:
            return
        with self._ends:
            if not self._stopping:
                self._stopping = True
                self._server.shutdown(self._queue, self._shut)
        self._thread.join(grace_s)
        while self._thread.is_alive():
            with self._ends:
                if not self._is_destroyed:
                    self._server.cancel_all_calls()
            self._thread.join(1.0)

    def forget(self, call: Call) -> None:
        """Drop a call that is over. The transport's thread calls this."""
        self._open.discard(call)

    # -- the transport's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        self._swept_s = time.monotonic()
        while not (self._is_shut and self._requested == 0 and not self._open):
            event = self._queue.poll(time.time() + (0.0 if self._unswept else SWEEP_S))
            if event.completion_type != cygrpc.CompletionType.queue_timeout:
                try:
                    event.tag(event)
                except Exception as error:  # noqa: BLE001  # one call's bug must not end all calls
                    log.error("bug in the transport: %s", type(error).__name__)
            event = None  # an event refers to its call, and the call's memory is freed with it
            now_s = time.monotonic()
            if now_s - self._swept_s >= SWEEP_S:
                self.clock_s += min(now_s - self._swept_s, 2 * SWEEP_S)
                self._swept_s = now_s
                self._unswept = self._unswept or list(self._open)
            if self._unswept:
                self._sweep()
        with self._ends:
            self._server.destroy()
            self._is_destroyed = True

    def _request_call(self) -> None:
        with self._ends:
            if not self._stopping:
                self._requested += 1
                self._server.request_call(self._queue, self._queue, self._begun)

    def _begun(self, event: Any) -> None:
        self._requested -= 1
        self._request_call()
        if not event.success:
            return
        call = Call(self, event)
        self._open.add(call)
        try:
            self._begin(call)
        except Exception as error:  # noqa: BLE001
            log.error("bug at the begin of a call: %s", type(error).__name__)
            call.finish(Status(grpc.StatusCode.INTERNAL, "internal error"))

    def _shut(self, _: Any) -> None:
        self._is_shut = True

    def _sweep(self) -> None:
        """Look at some calls, and end the first one that is late."""
        for _ in range(min(_SWEPT, len(self._unswept))):
            call = self._unswept.pop()
            if call in self._open and call.expire(self.clock_s):
                return


def _nothing() -> None:
    return None


def _refuse() -> bool:
    return False


def _ignore(_: Any) -> None:
    return None


_CORE_CODES: dict[grpc.StatusCode, Any] = {
    code: getattr(cygrpc.StatusCode, code.name.lower()) for code in grpc.StatusCode
}
