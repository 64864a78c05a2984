"""Answer plain HTTP: `/metrics`, `/healthz`, `/checkpoint`, `/tile/…` (C2SP tlog-tiles). Read-only.

Checkpoint and hash tiles are public and hold no identifier; entry bundles need an auditor's credential, for a
bundle's chains tell how often something happened to somebody, if not to whom.
"""

import json
import logging
import ssl
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from consentd.config import Config, parse_listen
from consentd.core import pruned, tiles
from consentd.errors import ConsentdError, MalformedError, StorageError
from consentd.ledger import layout, reads, retention
from consentd.metrics import CONTENT_TYPE
from consentd.sequencer.commands.callers import OPERATOR
from consentd.server import conditions
from consentd.service.servicer import Services, ServiceState
from consentd.v1 import statement_pb2 as st

log = logging.getLogger(__name__)

_BYTES = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHORT = "public, max-age=1"
_POLL_S = 0.1
"""How long ``stop`` waits at most for the thread that accepts to look up."""


class HttpServer:
    """The HTTP side of a daemon. It listens from ``start`` on."""

    def __init__(self, config: Config, service_state: ServiceState) -> None:
        self._config = config
        self._state = service_state
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._server.server_address[1] if self._server is not None else 0

    def start(self) -> None:
        """Listen and answer.

        Raises:
            StorageError: the address cannot be listened on.
        """
        address = parse_listen(self._config.http.listen, option="http.listen")
        service_state = self._state

        class Handler(_Handler):
            def answer(self) -> None:
                _answer(self, service_state)

        try:
            self._server = _Server(address, Handler)
        except OSError as error:
            raise StorageError(f"cannot listen on `{self._config.http.listen}`: {error.strerror}") from error
        tls = self._config.http.tls
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(tls.cert_file, tls.key_file)
                if tls.client_ca_file is not None:
                    context.load_verify_locations(tls.client_ca_file)
                    context.verify_mode = ssl.CERT_REQUIRED
            except OSError as error:
                raise StorageError(f"TLS files cannot be read: `{tls.cert_file}`: {error.strerror}") from error
            # The handshake takes place on the connection's own thread: here a slow client would hold up all others.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a connection broke: what http.server would print is no JSON line."""
        log.warning("HTTP connection broke: %s", type(sys.exc_info()[1]).__name__)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two packets: the second would wait 40 ms for a late ACK
    server_version = "consentd"
    sys_version = ""
    timeout = 30

    def answer(self) -> None:
        raise AssertionError("made by HttpServer.start")

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_GET  # noqa: N815  # the name is http.server's

    def reply(
        self, status: HTTPStatus, body: bytes, kind: str = _TEXT, cache: str = "no-store", **further: str
    ) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        for name, value in further.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_known(self, body: bytes, kind: str, cache: str) -> None:
        """Reply with bytes that have an entity tag: whole, in part, or as known already."""
        status, part, further = conditions.answer(body, self.headers)
        self.reply(status, part, kind, cache, **further)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
        """Log nothing: requests are counted, not told."""


def _answer(handler: _Handler, service_state: ServiceState) -> None:
    path = handler.path.split("?", 1)[0]
    services = service_state.services
    try:
        if path == "/metrics":
            handler.reply(HTTPStatus.OK, service_state.metrics.render(), CONTENT_TYPE)
        elif path == "/healthz":
            _healthz(handler, services)
        elif services is None:
            handler.reply(HTTPStatus.SERVICE_UNAVAILABLE, b"starting or draining\n")
        elif path == "/checkpoint":
            published = services.sequencer.published
            if published is None:
                handler.reply(HTTPStatus.NOT_FOUND, b"no checkpoint is published yet\n")
            else:
                handler.reply_known(published.note, _TEXT, _SHORT)
        elif path == f"/{pruned.FILE}":
            _pruned(handler, services)
        elif path.startswith("/tile/entries/"):
            _bundle(handler, services, path)
        elif path.startswith("/kept/"):
            _bundle(handler, services, "/tile/entries" + path.removeprefix("/kept"), kept=True)
        elif path.startswith("/tile/"):
            _tile(handler, services, path)
        else:
            handler.reply(HTTPStatus.NOT_FOUND, b"no such page\n")
    except ConsentdError as error:
        log.error("HTTP answer failed: %s", error)
        handler.reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n")


def _healthz(handler: _Handler, services: Services | None) -> None:
    published = None if services is None else services.sequencer.published
    ready = services is not None and services.sequencer.fault is None
    answer = {
        "status": "ok" if ready else "unavailable",
        "checkpoint_size": 0 if published is None else published.checkpoint.size,
        "ledger_size": 0 if services is None else services.ledger.state.size,
        "quorum": services is not None and services.sequencer.has_quorum,
    }
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    handler.reply(status, json.dumps(answer).encode() + b"\n", "application/json")


def _tile(handler: _Handler, services: Services, path: str) -> None:
    """Serve a hash tile that the published tree has, to auditors one that is signed; a partial one is a prefix."""
    # A witness that begins with a pruned ledger needs them before anything is published, as it does bundles.
    sequencer = services.sequencer
    shown = sequencer.signed if _is_auditor(handler, services) else None
    if shown is None and sequencer.published is not None:
        shown = sequencer.published.checkpoint
    try:
        level, n, width = tiles.parse_tile_path(path[1:])
    except MalformedError:
        handler.reply(HTTPStatus.NOT_FOUND, b"no such tile\n")
        return
    if (n * tiles.TILE_WIDTH + width) << (8 * level) > (0 if shown is None else shown.size):
        handler.reply(HTTPStatus.NOT_FOUND, b"no such tile\n")
        return
    row = services.ledger.store.get(layout.tile_key(level, n)) or b""
    handler.reply_known(row[: width * 32], _BYTES, _IMMUTABLE)


def _pruned(handler: _Handler, services: Services) -> None:
    """Say up to where entries are pruned."""
    found = retention.read_pruned(services.ledger.store)
    if found != pruned.NOTHING:
        handler.reply_known(pruned.format_pruned(found), _TEXT, _SHORT)
    else:
        handler.reply(HTTPStatus.NOT_FOUND, b"nothing is pruned\n")


def _bundle(handler: _Handler, services: Services, path: str, *, kept: bool = False) -> None:
    """Serve an entry bundle to an auditor; of a pruned one, under another path, what is kept of it."""
    if not _is_auditor(handler, services):
        handler.reply(HTTPStatus.FORBIDDEN, b"entry bundles need an auditor's credential\n")
        return
    # As far as it is signed, published or not: a witness that replays the entries must see them before it cosigns.
    signed = services.sequencer.signed
    try:
        _, n, width = tiles.parse_tile_path(path[1:])
    except MalformedError:
        handler.reply(HTTPStatus.NOT_FOUND, b"no such bundle\n")
        return
    start, end = n * tiles.TILE_WIDTH, n * tiles.TILE_WIDTH + width
    if signed is None or end > signed.size:
        handler.reply(HTTPStatus.NOT_FOUND, b"no such bundle\n")
        return
    store = services.ledger.store
    if (start < retention.read_pruned(store).minimum) is not kept:
        handler.reply(HTTPStatus.NOT_FOUND, b"bundle is whole\n" if kept else b"bundle is pruned\n")
        return
    bundle = tiles.encode_bundle((reads.read_leaves_with_gaps if kept else reads.read_leaves)(store, start, end))
    handler.reply_known(bundle, _BYTES, "no-store" if kept else "private, max-age=31536000, immutable")


def _is_auditor(handler: _Handler, services: Services) -> bool:
    """Tell whether the caller is the operator, or an auditor."""
    who = services.authenticator.authenticate([("authorization", handler.headers.get("Authorization", ""))], None)
    if not who or who == OPERATOR:
        return who == OPERATOR
    with services.table.read() as snapshot:
        participant = snapshot.participant(who)
    return participant is not None and participant.active and st.PARTICIPANT_ROLE_AUDITOR in participant.roles
