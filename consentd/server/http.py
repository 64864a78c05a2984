"""Answer HTTP: `/metrics`, `/healthz`, `/checkpoint`, `/tile/…` (C2SP tlog-tiles). Everything is read-only.

Checkpoints and hash tiles are public and hold no identifier. Entry bundles need an auditor's credential: a bundle shows
how often something happened to a person, though not to whom.

Tiles, bundles and checkpoints answer conditional and range requests (RFC 9110, 13 and 14). A client that has a tile
can ask whether it changed, and one whose download broke off can ask for the rest. An entity tag depends on the bytes
alone, so every host that serves the same ledger gives the same tag.
"""

import json
import logging
import re
import ssl
from collections.abc import Mapping
from email.message import Message
from hashlib import sha256
from http import HTTPStatus

from consentd.config import Config, TlsConfig, parse_listen
from consentd.core import pruned, tiles
from consentd.errors import ConsentdError, MalformedError, StorageError
from consentd.ledger import layout, reads, retention
from consentd.listener import TEXT, Handler, Listener
from consentd.metrics import CONTENT_TYPE
from consentd.sequencer.commands.callers import OPERATOR
from consentd.service.servicer import Services, ServiceState
from consentd.v1 import statement_pb2 as st

log = logging.getLogger(__name__)

_BYTES = "application/octet-stream"
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHORT = "public, max-age=1"
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")

Headers = Mapping[str, str] | Message
"""The headers of a request. With http.server's type, names match whatever their case."""


class HttpServer:
    """The HTTP side of a daemon."""

    def __init__(self, config: Config, service_state: ServiceState) -> None:
        self._config = config.http
        self._state = service_state
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return 0 if self._listener is None else self._listener.port

    def start(self) -> None:
        """Listen and answer.

        Raises:
            StorageError: the address cannot be listened on, or a TLS file cannot be read.
        """
        service_state = self._state

        class DaemonHandler(_Handler):
            def answer(self) -> None:
                _answer(self, service_state)

        tls = None if self._config.tls is None else _tls_context(self._config.tls)
        self._listener = Listener(parse_listen(self._config.listen, option="http.listen"), DaemonHandler, tls)

    def stop(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None


def _tls_context(tls: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
        if tls.client_ca_file is not None:
            context.load_verify_locations(tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise StorageError(f"TLS files cannot be read: `{tls.cert_file}`: {error.strerror}") from error
    return context


class _Handler(Handler):
    timeout = 30

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:  # noqa: N802  # the name is http.server's
        self.answer()

    do_HEAD = do_GET  # noqa: N815  # the name is http.server's

    def reply(
        self, status: HTTPStatus, body: bytes, kind: str = TEXT, cache: str = "no-store", **headers: str
    ) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", cache)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_tagged(self, body: bytes, kind: str, cache: str) -> None:
        """Reply with an entity tag: the whole body, the requested range, or that the client has it already."""
        status, part, headers = conditional_response(body, self.headers)
        self.reply(status, part, kind, cache, **headers)


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
                handler.reply_tagged(published.note, TEXT, _SHORT)
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
    """Serve a hash tile of the published tree, or to auditors of the signed tree. A partial tile is a prefix."""
    # A witness that starts to follow a pruned ledger needs tiles and bundles before the first publication.
    sequencer = services.sequencer
    visible = sequencer.signed if _is_auditor(handler, services) else None
    if visible is None and sequencer.published is not None:
        visible = sequencer.published.checkpoint
    try:
        level, n, width = tiles.parse_tile_path(path[1:])
    except MalformedError:
        handler.reply(HTTPStatus.NOT_FOUND, b"no such tile\n")
        return
    if (n * tiles.TILE_WIDTH + width) << (8 * level) > (0 if visible is None else visible.size):
        handler.reply(HTTPStatus.NOT_FOUND, b"no such tile\n")
        return
    row = services.ledger.store.get(layout.tile_key(level, n)) or b""
    handler.reply_tagged(row[: width * 32], _BYTES, _IMMUTABLE)


def _pruned(handler: _Handler, services: Services) -> None:
    """Serve the statement of what is pruned."""
    found = retention.read_pruned(services.ledger.store)
    if found != pruned.NOTHING:
        handler.reply_tagged(pruned.format_pruned(found), TEXT, _SHORT)
    else:
        handler.reply(HTTPStatus.NOT_FOUND, b"nothing is pruned\n")


def _bundle(handler: _Handler, services: Services, path: str, *, kept: bool = False) -> None:
    """Serve an entry bundle to an auditor. A pruned bundle has another path, where the entries that are kept are."""
    if not _is_auditor(handler, services):
        handler.reply(HTTPStatus.FORBIDDEN, b"entry bundles need an auditor's credential\n")
        return
    # Signed entries, published or not: a witness replays the entries before it cosigns.
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
    handler.reply_tagged(bundle, _BYTES, "no-store" if kept else "private, max-age=31536000, immutable")


def _is_auditor(handler: _Handler, services: Services) -> bool:
    """Return whether the caller is the operator or an auditor."""
    who = services.authenticator.authenticate([("authorization", handler.headers.get("Authorization", ""))], None)
    if not who or who == OPERATOR:
        return who == OPERATOR
    with services.table.read() as snapshot:
        participant = snapshot.participant(who)
    return participant is not None and participant.active and st.PARTICIPANT_ROLE_AUDITOR in participant.roles


# -- conditional and range requests ---------------------------------------------------------------------------


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag of these bytes."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def conditional_response(body: bytes, headers: Headers) -> tuple[HTTPStatus, bytes, dict[str, str]]:
    """Return status, bytes and further headers of the response to a GET or HEAD with these request headers.

    A ``Range`` that is malformed, or names several ranges, is ignored, as RFC 9110 14.2 allows: the whole body is sent.
    """
    tag = entity_tag(body)
    fields = {"ETag": tag, "Accept-Ranges": "bytes"}
    known = headers.get("If-None-Match", "")
    if known and _matches(known, tag):
        return HTTPStatus.NOT_MODIFIED, b"", fields
    asked = _RANGE.fullmatch(headers.get("Range", "").strip())
    # We never send dates, so an If-Range with a date cannot match: send the whole body.
    if asked is None or headers.get("If-Range", tag) != tag:
        return HTTPStatus.OK, body, fields
    size = len(body)
    if asked[3] is not None:
        start, end = max(0, size - int(asked[3])), size
    else:
        start, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return HTTPStatus.OK, body, fields
    if start >= end:
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {**fields, "Content-Range": f"bytes */{size}"}
    return HTTPStatus.PARTIAL_CONTENT, body[start:end], {**fields, "Content-Range": f"bytes {start}-{end - 1}/{size}"}


def _matches(known: str, tag: str) -> bool:
    """Compare weakly (RFC 9110 8.8.3.2): a cache that compresses a response makes its tag weak (``W/``)."""
    return known.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in known.split(",")]
