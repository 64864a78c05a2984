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
from consentd.listener import TEXT, HttpRequest, HttpResponse, Listener, text_response
from consentd.witnessd.config import WitnessServerConfig
from consentd.witnessd.daemon import Witness

log = logging.getLogger(__name__)

IDLE_S = 300
"""How long a log may keep its connection open between checkpoints."""
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
        address = parse_listen(self._config.listen, option="witness.listen")
        self._listener = Listener(address, self._respond, idle_s=IDLE_S, max_body=MAX_BODY)
        log.info("witness listens on port %d", self.port)

    def stop(self) -> None:
        """Stop listening, and write the caches of the replays."""
        if self._listener is not None:
            self._listener.stop()
            self._listener.disconnect()
            self._listener = None
        self.witness.close()

    def _respond(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and request.path == PATH:
            return self.witness.add_checkpoint(request.body)
        parts = request.path.split("/")
        if request.method != "POST" and len(parts) == 3 and parts[2] == "checkpoint":
            note = self.witness.checkpoint(parts[1])
            if note is not None:
                return HttpResponse(HTTPStatus.OK, TEXT, note)
        return text_response(HTTPStatus.NOT_FOUND, "no such page")


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
