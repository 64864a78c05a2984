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

A refused call may be parked (``consentd/server/refusals.py``): its status is sent later. Between two events the loop
ends one parked call at most.

decisions/0012 says what was measured.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from consentd.errors import StorageError
from consentd.server.call import SWEEP_S, Call, TimeLimits, cygrpc
from consentd.server.refusals import Parked
from consentd.service.context import Status

log = logging.getLogger(__name__)

_SWEPT = 256  # how many calls a part of a sweep looks at; it ends one at most
_REQUESTED = 4  # how many new calls may be in the queue; more would come before events of calls that began earlier
_NEVER = float("inf")


class Transport:
    """A gRPC server that gives each call to *begin* when the call's headers are there; see the module's docstring."""

    def __init__(
        self, begin: Callable[[Call], None], *, on_late: Callable[[Call], None], limits: TimeLimits,
        options: Sequence[tuple[str, Any]], most_parked: int,
    ) -> None:  # fmt: skip
        """Make a server that does not listen yet.

        Args:
            most_parked: how many refused calls may wait for their answer.
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
        self.parked: Parked[Call, Status] = Parked(most_parked)  # its length is read by other threads too
        self._has_due = False  # perhaps more parked calls are due
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
        self.parked.drop(call)

    def park(self, call: Call, status: Status) -> None:
        """End a refused call with *status*, later. The transport's thread calls this."""
        call.set_aside()
        earlier = self.parked.put(call, status, self.clock_s)
        if earlier is not None:
            earlier[0].finish(earlier[1])

    # -- the transport's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        self._swept_s = time.monotonic()
        while not (self._is_shut and self._requested == 0 and not self._open):
            event = self._queue.poll(time.time() + (0.0 if self._unswept or self._has_due else SWEEP_S))
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
            if self.parked:
                self._end_parked()
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

    def _end_parked(self) -> None:
        """End one parked call that is due; when the server stops, each of them is due."""
        due = self.parked.take_due(_NEVER if self._stopping else self.clock_s)
        self._has_due = due is not None
        if due is not None:
            due[0].finish(due[1])
