"""The HTTP server of the daemon and of our witness program: each connection has a thread of its own."""

import logging
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consentd.errors import StorageError

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
MAX_CONNECTIONS = 256
"""How many connections a listener accepts at a time, unless its owner says less. Each has a thread of its own."""
SEND_S = 30.0
"""How long a peer may take to receive an answer."""
_POLL_S = 0.1  # ``stop`` waits at most this long for the thread that accepts connections
_SWEEP_S = 0.5  # how often connections are looked at whose time limit may have passed
_LENGTH = re.compile("[0-9]{1,18}")
_CLOSING = 16  # how many connections may be open above the limit, while their threads end


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request with its whole body. *address*: of the peer, without the port."""

    method: str
    path: str
    headers: Message
    body: bytes
    address: str


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response with its whole body; *headers*: all except Content-Type and Content-Length."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[HttpRequest], HttpResponse]
"""A function that answers a request, on the thread of the request's connection."""


def text_response(status: int, text: str, **headers: str) -> HttpResponse:
    """Return a response with one line of text."""
    return HttpResponse(status, TEXT, text.encode() + b"\n", headers)


class Listener:
    """A listening HTTP server that runs each connection on a thread of its own."""

    def __init__(
        self, address: tuple[str, int], respond: Respond, *, idle_s: float, max_body: int = 0,
        max_connections: int = MAX_CONNECTIONS, tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        """Start to listen on *address* (host, port), and answer GET, HEAD and POST requests with *respond*.

        A connection is closed if no whole request arrives within *idle_s* seconds, or if the peer does not take an
        answer within ``SEND_S``. A body of over *max_body* bytes is refused. At most *max_connections* are open, and
        half as many from one address; a further one replaces the connection that has waited longest for a request.

        Raises:
            StorageError: the address cannot be listened on.
        """

        class Handler(_Handler):
            timeout = idle_s

            def do_GET(self) -> None:
                self.answer(respond, max_body)

            do_HEAD = do_POST = do_GET  # noqa: N815  # the names are http.server's

        try:
            self._server = _Server(address, Handler, idle_s=idle_s, max_connections=max_connections)
        except OSError as error:
            raise StorageError(f"cannot listen on `{address[0]}:{address[1]}`: {error.strerror}") from error
        self.port = int(self._server.server_address[1])
        self.max_connections = max_connections
        if tls is not None:
            # The handshake runs on the connection's own thread. Otherwise a slow client would block all others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="http", daemon=True).start()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return self._server.connections

    def stop(self) -> None:
        """Accept no more connections. Open connections stay open."""
        self._server.shutdown()
        self._server.server_close()

    def disconnect(self) -> None:
        """Close every connection."""
        self._server.disconnect()


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    # Headers and body are two packets. With Nagle's algorithm the body would wait 40 ms for a delayed ACK.
    disable_nagle_algorithm = True
    server_version = "consentd"
    sys_version = ""

    def answer(self, respond: Respond, max_body: int) -> None:
        length = self._body_length()
        if length is None or length > max_body:
            self.close_connection = True  # the body was not read, so no request can follow it
            response = text_response(400, "request has no length that is clear, or is too long")
        else:
            body = self.rfile.read(length)
            self.server.wait_for(self.request, None)  # the peer has sent all that it must
            response = respond(HttpRequest(self.command, self.path, self.headers, body, str(self.client_address[0])))
        self.server.wait_for(self.request, SEND_S)
        self.send_response(response.status)
        if response.status != 304:
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.server.wait_for(self.request, self.server.idle_s)

    def _body_length(self) -> int | None:
        """Return the length of the request's body; None: the headers do not say it, or say it in two ways.

        A proxy could read such a request in another way. Then it would take a part of the body for the next request, or
        give one caller the answer to another's request (RFC 9112, 11.2).
        """
        stated = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(stated) > 1:
            return None
        if not stated:
            return None if self.command == "POST" else 0
        return int(stated[0]) if _LENGTH.fullmatch(stated[0].strip()) else None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Log nothing, because a request line may contain an identifier of a person."""


@dataclass(slots=True)
class _Connection:
    """An open connection. *until_s*: when the peer must have done what we wait for; None: we do not wait for it."""

    host: str
    until_s: float | None


class _Server(ThreadingHTTPServer):
    """The server's thread accepts and closes connections, and closes those whose peer is too slow.

    A socket's own timeout begins again with each byte, so a peer that sends a byte now and then would keep its thread
    for ever. So each connection has a time limit too, for a whole request and for a whole answer.
    """

    daemon_threads = True
    # How many connections the system keeps until they are accepted. With http.server's 5, a few peers that connect at
    # once make the others wait a second or more.
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], handler: type[_Handler], *, idle_s: float, max_connections: int
    ) -> None:
        self.idle_s = idle_s
        self._max_connections = max_connections
        self._next_sweep_s = 0.0
        # The server's thread adds a socket, and the connection's thread removes it. A dict's single methods are atomic.
        self._open: dict[socket.socket, _Connection] = {}
        super().__init__(address, handler)

    @property
    def connections(self) -> int:
        return len(self._open)

    def wait_for(self, request: socket.socket, seconds: float | None) -> None:
        """Set a time limit for what the peer must do next; None: it need not do anything."""
        connection = self._open.get(request)
        if connection is not None:
            connection.until_s = None if seconds is None else time.monotonic() + seconds

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except Exception as error:
            # Without a free descriptor the connection stays in the system's queue, and the next call fails at once.
            log.warning("HTTP connection cannot be accepted: %s", type(error).__name__)
            time.sleep(_POLL_S)
            raise OSError("connection cannot be accepted") from error

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for a connection; if necessary, close one that waits for a request."""
        host = str(client_address[0])
        if sum(each.host == host for each in list(self._open.values())) >= max(1, self._max_connections // 2):
            self._close_oldest(host)
        elif len(self._open) >= self._max_connections:
            self._close_oldest(None)
        # A closed connection counts until its thread has ended, which takes a moment.
        return len(self._open) < self._max_connections + _CLOSING

    def _close_oldest(self, host: str | None) -> None:
        """Close the connection that has waited longest for its peer; *host*: only one from this address."""
        waiting = [
            (each.until_s, request)
            for request, each in list(self._open.items())
            if each.until_s is not None and host in (None, each.host)
        ]
        if waiting:
            _, request = min(waiting, key=lambda one: one[0])
            self.wait_for(request, None)  # so that it is not chosen again
            _shut_down(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open[request] = _Connection(str(client_address[0]), time.monotonic() + self.idle_s)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close the connections whose time limit has passed. ``serve_forever`` calls this again and again."""
        now_s = time.monotonic()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + _SWEEP_S
        for request, each in list(self._open.items()):
            if each.until_s is not None and each.until_s < now_s:
                _shut_down(request)

    def disconnect(self) -> None:
        for request in list(self._open):
            _shut_down(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke. http.server would print a traceback, which is no JSON line."""
        log.warning("HTTP connection broke: %s", type(sys.exc_info()[1]).__name__)


def _shut_down(request: socket.socket) -> None:
    """End a connection in both directions, so that its thread stops waiting for the peer and ends."""
    with suppress(OSError):
        # Not the method of a TLS socket, which would change the state that the connection's thread uses.
        socket.socket.shutdown(request, socket.SHUT_RDWR)
