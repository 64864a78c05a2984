"""Listen for a witness of ours: ``POST /add-checkpoint`` and ``GET /<SHA-256 of the origin, hex>/checkpoint``.

On this machine only: a proxy that speaks TLS stands before it, and limits who may ask how often.
"""

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consentd.config import parse_listen
from consentd.core.submission import PATH
from consentd.cosigning.connection import HttpResponse
from consentd.errors import StorageError
from consentd.witnessd.config import WitnessServerConfig
from consentd.witnessd.daemon import Witness, say

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024
"""Room for the 16 signatures that every reader of notes accepts, of up to 5 kB each."""
_TEXT = "text/plain; charset=utf-8"


class WitnessServer:
    """A witness that listens. ``start``, and ``stop`` in the end."""

    def __init__(self, config: WitnessServerConfig, *, wall_s: Callable[[], int] = lambda: int(time.time())) -> None:
        """Read keys and state. Raises as ``Witness``."""
        self._config = config
        self.witness = Witness(config, wall_s=wall_s)
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Listen and answer.

        Raises:
            StorageError: the address cannot be listened on.
        """
        witness = self.witness

        class Handler(_Handler):
            def witness(self) -> Witness:
                return witness

        try:
            self._server = _Server(parse_listen(self._config.listen, option="witness.listen"), Handler)
        except OSError as error:
            raise StorageError(f"cannot listen on `{self._config.listen}`: {error.strerror}") from error
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True).start()
        log.info("witness listens on port %d", self.port)

    def stop(self) -> None:
        """Stop listening, and keep what the replays made."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None
        self.witness.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        # Kept connections, added to and removed from by their own threads; a set's methods are atomic.
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection, and serve it."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every connection."""
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke."""
        log.warning("HTTP connection broke: %s", type(sys.exc_info()[1]).__name__)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "consentd"
    sys_version = ""
    disable_nagle_algorithm = True  # header and body are two packets: the second would wait 40 ms for a late ACK
    timeout = 300  # logs keep their connection between checkpoints

    def witness(self) -> Witness:
        raise AssertionError("made by WitnessServer.start")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._reply(say(HTTPStatus.BAD_REQUEST, "request has no length, or is too long"))
            return
        body = self.rfile.read(int(length))
        if self.path != PATH:
            self._reply(say(HTTPStatus.NOT_FOUND, "no such page"))
            return
        self._reply(self.witness().add_checkpoint(body))

    def do_GET(self) -> None:
        parts = self.path.split("/")
        note = self.witness().checkpoint(parts[1]) if len(parts) == 3 and parts[2] == "checkpoint" else None
        if note is None:
            self._reply(say(HTTPStatus.NOT_FOUND, "no such page"))
        else:
            self._reply(HttpResponse(HTTPStatus.OK, _TEXT, note))

    def _reply(self, answer: HttpResponse) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Log nothing: what matters is logged where it is decided."""


def serve_witness(config: WitnessServerConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConsentdError: it could not start.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    server = WitnessServer(config)
    server.start()
    done.wait()
    server.stop()
