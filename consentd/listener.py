"""Listen for HTTP on threads: what the daemon and our witness program share."""

import logging
import socket
import ssl
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consentd.errors import StorageError

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
_POLL_S = 0.1  # ``stop`` waits at most this long for the thread that accepts connections


class Handler(BaseHTTPRequestHandler):
    """The base of request handlers: HTTP/1.1, and nothing on stderr."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two packets. With Nagle's algorithm the second would wait 40 ms for a delayed ACK.
    disable_nagle_algorithm = True
    server_version = "consentd"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Log nothing: a request line may hold anything."""


class Listener:
    """A listening HTTP server that runs each connection on a thread of its own."""

    def __init__(
        self, address: tuple[str, int], handler: type[Handler], tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen at once on (host, port), and answer requests with *handler*.

        Raises:
            StorageError: the address cannot be listened on.
        """
        try:
            self._server = _Server(address, handler)
        except OSError as error:
            raise StorageError(f"cannot listen on `{address[0]}:{address[1]}`: {error.strerror}") from error
        self.port = int(self._server.server_address[1])
        if tls is not None:
            # The handshake runs on the connection's own thread. Otherwise a slow client would block all others.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="http", daemon=True).start()

    def stop(self) -> None:
        """Accept no more connections. Those that exist stay open."""
        self._server.shutdown()
        self._server.server_close()

    def disconnect(self) -> None:
        """Close every connection."""
        self._server.disconnect()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        # Each connection's thread adds and removes its own socket. A set's single methods are atomic.
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection, and serve it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def disconnect(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke. http.server would print a traceback, which is no JSON line."""
        log.warning("HTTP connection broke: %s", type(sys.exc_info()[1]).__name__)
