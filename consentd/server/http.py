"""Serve `/metrics`, `/healthz`, `/checkpoint`, `/tile/…` (C2SP tlog-tiles), `/pruned` and `/kept/…`, all read-only.

Anyone may fetch checkpoints, hash tiles and most metrics, which contain no identifiers. Metrics that change with what
a person's consents say need the credential of a scraper or an operator. Entry bundles (256 entries in one file) need
an auditor's credential, because a bundle shows how often something happened to each person, though not who the person
is. Responses with tiles, bundles and checkpoints support conditional and range requests (RFC 9110, sections 13 and 14).
An entity tag is computed from the response's bytes alone, so every host that serves the same ledger sends equal tags.
"""

import json
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from functools import partial
from hashlib import sha256
from http import HTTPStatus

from consentd import descriptors
from consentd.config import HttpConfig, TlsConfig, parse_listen
from consentd.core import pruned, tiles
from consentd.errors import ConsentdError, DeniedError, MalformedError, StorageError
from consentd.ledger import layout, reads, retention
from consentd.listener import MAX_CONNECTIONS, TEXT, HttpRequest, HttpResponse, Listener, text_response
from consentd.metrics import CONTENT_TYPE
from consentd.sequencer.commands.callers import SCRAPER_ID, is_operator
from consentd.service.authorization import caller_kinds, check_may_call
from consentd.service.roles import may_call
from consentd.service.servicer import Services, ServiceState

log = logging.getLogger(__name__)

IDLE_S = 30
"""How many seconds a connection may stay open without a whole request."""
_BYTES = "application/octet-stream"
_IMMUTABLE = "public, max-age=31536000, immutable"
_SHORT = "public, max-age=1"
_UNCACHED = {"Cache-Control": "no-store"}
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")

Headers = Mapping[str, str] | Message
"""The headers of a request. ``Message``, which http.server passes, ignores the case of header names."""


def listen(config: HttpConfig, service_state: ServiceState) -> Listener:
    """Return a listener that answers the daemon's HTTP requests.

    Raises:
        StorageError: the address cannot be listened on, or a TLS file cannot be read.
    """
    tls = None if config.tls is None else _tls_context(config.tls)
    address = parse_listen(config.listen, option="http.listen")
    most = descriptors.share(8, most=MAX_CONNECTIONS)
    return Listener(address, partial(_respond, service_state), idle_s=IDLE_S, max_connections=most, tls=tls)


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


def _respond(service_state: ServiceState, request: HttpRequest) -> HttpResponse:
    path = request.path.split("?", 1)[0]
    services = service_state.services
    try:
        if request.method == "POST":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "nothing can be written here")
        if path == "/metrics":
            body = service_state.metrics.render(with_private=_is_scraper(request, services))
            return HttpResponse(HTTPStatus.OK, CONTENT_TYPE, body, _UNCACHED)
        if path == "/healthz":
            return _healthz(services)
        if services is None:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "starting or draining")
        if path == "/checkpoint":
            published = services.sequencer.checkpoints.published
            if published is None:
                return _plain(HTTPStatus.NOT_FOUND, "no checkpoint is published yet")
            return _tagged(request, published.note, TEXT, _SHORT)
        if path == f"/{pruned.FILE}":
            found = retention.read_pruned(services.ledger.store)
            if found == pruned.NOTHING:
                return _plain(HTTPStatus.NOT_FOUND, "nothing is pruned")
            return _tagged(request, pruned.format_pruned(found), TEXT, _SHORT)
        if path.startswith("/tile/entries/"):
            return _bundle(request, service_state, services, path)
        if path.startswith("/kept/"):
            path = "/tile/entries" + path.removeprefix("/kept")
            return _bundle(request, service_state, services, path, is_pruned=True)
        if path.startswith("/tile/"):
            return _tile(request, services, path)
        return _plain(HTTPStatus.NOT_FOUND, "no such page")
    except ConsentdError as error:
        log.error("HTTP answer failed: %s", error)
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")


def _plain(status: HTTPStatus, text: str) -> HttpResponse:
    return text_response(status, text, **_UNCACHED)


def _tagged(request: HttpRequest, body: bytes, content_type: str, cache: str) -> HttpResponse:
    """Return a response with an entity tag: the whole body, the requested range, or status 304 without a body."""
    status, part, headers = conditional_response(body, request.headers)
    return HttpResponse(status, content_type, part, {"Cache-Control": cache, **headers})


def _healthz(services: Services | None) -> HttpResponse:
    published = None if services is None else services.sequencer.checkpoints.published
    ready = services is not None and services.sequencer.fault is None
    answer = {
        "status": "ok" if ready else "unavailable",
        "checkpoint_size": 0 if published is None else published.checkpoint.size,
        "ledger_size": 0 if services is None else services.ledger.state.size,
        "quorum": services is not None and services.sequencer.checkpoints.publisher.has_quorum,
    }
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return HttpResponse(status, "application/json", json.dumps(answer).encode() + b"\n", _UNCACHED)


def _tile(request: HttpRequest, services: Services, path: str) -> HttpResponse:
    """Serve a hash tile. Auditors get tiles of the whole signed tree, others only tiles of the published tree."""
    # A witness that starts to follow a pruned ledger needs tiles and bundles before the first publication.
    sequencer = services.sequencer
    visible = sequencer.checkpoints.signed if _reads_entries(request, services) else None
    if visible is None and sequencer.checkpoints.published is not None:
        visible = sequencer.checkpoints.published.checkpoint
    size = 0 if visible is None else visible.size
    try:
        level, n, width = tiles.parse_tile_path(path[1:])
    except MalformedError:
        return _plain(HTTPStatus.NOT_FOUND, "no such tile")
    if (n * tiles.TILE_WIDTH + width) << (8 * level) > size:
        return _plain(HTTPStatus.NOT_FOUND, "no such tile")
    row = services.ledger.store.get(layout.tile_key(level, n)) or b""
    return _tagged(request, row[: width * 32], _BYTES, _IMMUTABLE)


@dataclass(frozen=True, slots=True)
class _Requested:
    """A request as ``CallLog`` sees it."""

    caller: str
    address: str

    def peer(self) -> str:
        return self.address


def _bundle(
    request: HttpRequest, service_state: ServiceState, services: Services, path: str, *, is_pruned: bool = False
) -> HttpResponse:
    """Serve an entry bundle to an auditor. What is left of a pruned bundle has another path, below ``/kept/``."""
    who = _caller(request, services)
    try:
        with services.table.read() as snapshot:
            check_may_call(snapshot, who, "ListEntries", services.sequencer.clock.wall_ms())
    except DeniedError as error:
        service_state.call_log.refused("/tile/entries", error, _Requested(who, request.address))
        return _plain(HTTPStatus.FORBIDDEN, "entry bundles need an auditor's credential")
    # All signed entries are served, also unpublished ones: a witness replays the entries before it cosigns them.
    signed = services.sequencer.checkpoints.signed
    try:
        _, n, width = tiles.parse_tile_path(path[1:])
    except MalformedError:
        return _plain(HTTPStatus.NOT_FOUND, "no such bundle")
    start, end = n * tiles.TILE_WIDTH, n * tiles.TILE_WIDTH + width
    if signed is None or end > signed.size:
        return _plain(HTTPStatus.NOT_FOUND, "no such bundle")
    store = services.ledger.store
    if (start < retention.read_pruned(store).minimum) is not is_pruned:
        return _plain(HTTPStatus.NOT_FOUND, "bundle is whole" if is_pruned else "bundle is pruned")
    bundle = tiles.encode_bundle(reads.read_leaves(store, start, end, with_gaps=is_pruned))
    return _tagged(request, bundle, _BYTES, "no-store" if is_pruned else "private, max-age=31536000, immutable")


def _is_scraper(request: HttpRequest, services: Services | None) -> bool:
    """Return whether the caller may read the figures that change with what a person's consents say."""
    if services is None:
        return False
    who = _caller(request, services)
    return bool(SCRAPER_ID.fullmatch(who)) or is_operator(who)


def _caller(request: HttpRequest, services: Services) -> str:
    return services.authenticator.authenticate([("authorization", request.headers.get("Authorization", ""))], None)


def _reads_entries(request: HttpRequest, services: Services) -> bool:
    """Return whether the caller may read leaves: whether the table of roles allows ListEntries."""
    who = _caller(request, services)
    with services.table.read() as snapshot:
        return may_call("ListEntries", caller_kinds(snapshot, who, services.sequencer.clock.wall_ms()))


# -- conditional and range requests ---------------------------------------------------------------------------


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag (RFC 9110, 8.8.3) of *body*."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def conditional_response(body: bytes, headers: Headers) -> tuple[HTTPStatus, bytes, dict[str, str]]:
    """Return status, body and additional headers of the response to a GET or HEAD request with these headers.

    A ``Range`` that is malformed or lists several ranges is ignored, and the whole body is sent (RFC 9110, 14.2).
    """
    tag = entity_tag(body)
    fields = {"ETag": tag, "Accept-Ranges": "bytes"}
    known = headers.get("If-None-Match", "")
    if known and _matches(known, tag):
        return HTTPStatus.NOT_MODIFIED, b"", fields
    asked = _RANGE.fullmatch(headers.get("Range", "").strip())
    # Our responses have no dates, so an If-Range with a date cannot match, and the whole body is sent.
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
    """Return whether *known*, an If-None-Match value, matches. Caches that compress mark tags as weak (``W/``)."""
    return known.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in known.split(",")]
