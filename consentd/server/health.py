"""gRPC's health service and reflection. Their calls hold no thread, however long their streams last.

The health service knows a name for each of our services, and two more: the empty name, for the daemon as a whole, and
``capacity``. A service is SERVING while the daemon serves. ``capacity`` is NOT_SERVING while a pool of calls is full
and refuses calls. A full pool is no reason to send callers elsewhere: the other pools still serve, and whoever fills a
pool could otherwise take the whole daemon out of service.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from consentd.server.call import OK, Call
from consentd.service.context import Status

HEALTH = "grpc.health.v1.Health"
REFLECTION = reflection.SERVICE_NAME
CAPACITY = "capacity"

_Response = health_pb2.HealthCheckResponse


class Health:
    """The health of each service, and the streams that watch it. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the attributes below, and those of each _Watch
        self._serving: dict[str, bool] = {}
        self._watches: set[_Watch] = set()
        self._ended = False

    def set(self, names: Iterable[str], *, serving: bool) -> None:
        """Set the health of the services *names*, and report it to those who watch them."""
        with self._lock:
            self._serving.update(dict.fromkeys(names, serving))
            watches = list(self._watches)
        for watch in watches:
            self._send(watch)

    def check(self, call: Call, message: bytes) -> None:
        """Answer a ``Check``."""
        name = _service(message)
        if name is None or name not in self._serving:
            call.finish(Status(grpc.StatusCode.NOT_FOUND, "no such service"))
            return
        call.finish(OK, self._response(name).SerializeToString())

    def watch(self, call: Call, message: bytes) -> None:
        """Begin a ``Watch``: send the present health, and each later change of it, until the call ends."""
        watch = _Watch(call, _service(message) or "")
        with self._lock:
            if not self._ended:
                self._watches.add(watch)
        call.on_cancel(partial(self._forget, watch))
        self._send(watch)

    def end_watches(self) -> None:
        """Send the present health to those who watch, and end their streams."""
        with self._lock:
            self._ended = True
            watches = list(self._watches)
        for watch in watches:
            self._send(watch)

    def _response(self, name: str) -> health_pb2.HealthCheckResponse:
        serving = self._serving.get(name)
        if serving is None:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if serving else _Response.NOT_SERVING)

    def _send(self, watch: "_Watch") -> None:
        """Send the health that *watch* has not seen yet, unless a message to it is under way."""
        with self._lock:
            response = self._response(watch.name)
            if watch.is_sending:
                return
            ends = self._ended and response.status == watch.seen
            if response.status == watch.seen and not ends:
                return
            watch.is_sending, watch.seen = True, response.status
        if ends:
            watch.call.finish(Status(grpc.StatusCode.UNAVAILABLE, "daemon is stopping"))
            self._forget(watch)
            return
        watch.call.send(response.SerializeToString(), partial(self._sent, watch))

    def _sent(self, watch: "_Watch") -> None:
        with self._lock:
            watch.is_sending = not watch.call.is_active()
        self._send(watch)

    def _forget(self, watch: "_Watch") -> None:
        with self._lock:
            self._watches.discard(watch)


class _Watch:
    """A stream that watches the service *name*. A slow peer gets the latest health only."""

    def __init__(self, call: Call, name: str) -> None:
        self.call, self.name = call, name
        self.seen: int | None = None
        self.is_sending = False


def _service(message: bytes) -> str | None:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except Exception:  # noqa: BLE001  # each implementation of protobuf has an exception class of its own
        return None


def describe(services: Iterable[str]) -> Callable[[bytes], bytes | None]:
    """Return a function from a request of reflection to its response; the response is None if the bytes are none."""
    servicer = reflection.ReflectionServicer([HEALTH, REFLECTION, *services])

    def answer(message: bytes) -> bytes | None:
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(message)
        except Exception:  # noqa: BLE001  # as above
            return None
        (response,) = servicer.ServerReflectionInfo(iter([request]), None)
        return bytes(response.SerializeToString())

    return answer
