"""The HTTP server of the daemon and of our witness program: each connection has a thread of its own."""

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consentd.errors import StorageError

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
_POLL_S = 0.1  # ``stop`` waits at most this long for the thread that accepts connections


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request with its whole body."""

    method: str
    path: str
    headers: Message
    body: bytes


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
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        """Start to listen on *address* (host, port), and answer GET, HEAD and POST requests with *respond*.

        A connection without a request is closed after *idle_s* seconds. A body of over *max_body* bytes is refused.

        Raises:
            StorageError: the address cannot be listened on.
        """

        class Handler(_Handler):
            timeout = idle_s

            def do_GET(self) -> None:
                self.answer(respond, max_body)

            do_HEAD = do_POST = do_GET  # noqa: N815  # the names are http.server's

        try:
            self._server = _Server(address, Handler)
        except OSError as error:
            raise StorageError(f"cannot listen on `{address[0]}:{address[1]}`: {error.strerror}") from error
        self.port = int(self._server.server_address[1])
        if tls is not None:
            # The handshake runs on the connection's own thread. Otherwise a slow client would block all others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="http", daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections. Open connections stay open."""
        self._server.shutdown()
        self._server.server_close()

    def disconnect(self) -> None:
        """Close every connection."""
        self._server.disconnect()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two packets. With Nagle's algorithm the body would wait 40 ms for a delayed ACK.
    disable_nagle_algorithm = True
    server_version = "consentd"
    sys_version = ""

    def answer(self, respond: Respond, max_body: int) -> None:
        length = self.headers.get("Content-Length", "0" if self.command != "POST" else "")
        if not length.isdecimal() or int(length) > max_body:
            self.close_connection = True  # the body was not read, so no request can follow it
            response = text_response(400, "request has no length, or is too long")
        else:
            response = respond(HttpRequest(self.command, self.path, self.headers, self.rfile.read(int(length))))
        self.send_response(response.status)
        if response.status != 304:
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Log nothing, because a request line may contain an identifier of a person."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        # Each connection's thread adds and removes its own socket. A set's single methods are atomic.
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def disconnect(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke. http.server would print a traceback, which is no JSON line."""
        log.warning("HTTP connection broke: %s", type(sys.exc_info()[1]).__name__)
