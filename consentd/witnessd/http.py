"""Listen for our witness: ``POST /add-checkpoint``, and ``GET /<SHA-256 of the origin, hex>/checkpoint``.

It listens on this machine only. A proxy in front of it speaks TLS, and limits how often each client may ask.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from consentd.config import parse_listen
from consentd.core.submission import PATH
from consentd.cosigning.connection import HttpResponse
from consentd.listener import TEXT, Handler, Listener
from consentd.witnessd.config import WitnessServerConfig
from consentd.witnessd.daemon import Witness, text_response

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024
"""Enough for the 16 signatures that every reader of notes accepts, each of up to 5 kB."""


class WitnessServer:
    """A witness that listens from ``start`` to ``stop``."""

    def __init__(self, config: WitnessServerConfig, *, wall_s: Callable[[], int] = lambda: int(time.time())) -> None:
        """Read keys and state. Raises as ``Witness``."""
        self._config = config
        self.witness = Witness(config, wall_s=wall_s)
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return 0 if self._listener is None else self._listener.port

    def start(self) -> None:
        """Listen and answer.

        Raises:
            StorageError: the address cannot be listened on.
        """
        witness = self.witness

        class WitnessHandler(_Handler):
            def witness(self) -> Witness:
                return witness

        self._listener = Listener(parse_listen(self._config.listen, option="witness.listen"), WitnessHandler)
        log.info("witness listens on port %d", self.port)

    def stop(self) -> None:
        """Stop listening, and write the caches of the replays."""
        if self._listener is not None:
            self._listener.stop()
            self._listener.disconnect()
            self._listener = None
        self.witness.close()


class _Handler(Handler):
    timeout = 300  # logs keep their connection open between checkpoints

    def witness(self) -> Witness:
        raise NotImplementedError

    def do_POST(self) -> None:  # noqa: N802  # the name is http.server's
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._reply(text_response(HTTPStatus.BAD_REQUEST, "request has no length, or is too long"))
            return
        body = self.rfile.read(int(length))
        if self.path != PATH:
            self._reply(text_response(HTTPStatus.NOT_FOUND, "no such page"))
            return
        self._reply(self.witness().add_checkpoint(body))

    def do_GET(self) -> None:  # noqa: N802  # the name is http.server's
        parts = self.path.split("/")
        note = self.witness().checkpoint(parts[1]) if len(parts) == 3 and parts[2] == "checkpoint" else None
        if note is None:
            self._reply(text_response(HTTPStatus.NOT_FOUND, "no such page"))
        else:
            self._reply(HttpResponse(HTTPStatus.OK, TEXT, note))

    def _reply(self, response: HttpResponse) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)


def serve_witness(config: WitnessServerConfig) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConsentdError: the witness could not start.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    server = WitnessServer(config)
    server.start()
    done.wait()
    server.stop()
