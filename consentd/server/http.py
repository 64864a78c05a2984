"""Serve `/metrics`, `/healthz`, `/checkpoint`, `/rotations`, `/tile/…` (C2SP tlog-tiles), `/pruned` and `/kept/…`.

Anyone may fetch checkpoints, hash tiles and most metrics, which contain no identifiers. Browsers may fetch all but
metrics and health for pages of any origin: an auditor's page sends the token itself. Metrics that change with what a
person's consents say need the credential of a scraper or an operator. Entry bundles (256 entries in one file) need an
auditor's credential, because a bundle shows how often something happened to each person, though not who the person is.
Responses with tiles, bundles and checkpoints support conditional and range requests (RFC 9110, sections 13 and 14). An
entity tag is computed from the response's bytes alone, so every host that serves the same ledger sends equal tags.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus

from consentd import descriptors
from consentd.config import HttpConfig
from consentd.core import merkle, pruned, tiles
from consentd.core.evidence import ROTATIONS_FILE, format_rotations
from consentd.errors import ConsentdError, CorruptionError, DeniedError, MalformedError
from consentd.ledger import layout, reads, retention
from consentd.ledger.rotations import kept_sizes, read_kept
from consentd.listener.app import REST, App, Page
from consentd.listener.messages import BRIEFLY_CACHED, TEXT, UNCACHED, HttpRequest, HttpResponse, Respond, text_response
from consentd.listener.server import Listener
from consentd.metrics import CONTENT_TYPE
from consentd.sections import parse_listen
from consentd.sequencer.commands.callers import SCRAPER_ID
from consentd.server.tls import http_context
from consentd.service.auth import UnauthenticatedError
from consentd.service.authorization import caller_kinds, check_may_call
from consentd.service.credentials import Identity
from consentd.service.operator_roles import OperatorRole
from consentd.service.roles import may_call
from consentd.service.servicer import Services, ServiceState

log = logging.getLogger(__name__)

_BYTES = "application/octet-stream"
_IMMUTABLE = "max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


def listen(config: HttpConfig, service_state: ServiceState) -> Listener:
    """Return a listener that answers the daemon's HTTP requests.

    Raises:
        InvalidError: the TLS files do not fit.
        StorageError: the address cannot be listened on, or a TLS file cannot be read.
    """
    tls = None if config.tls is None else http_context(config.tls)
    address = parse_listen(config.listen, option="http.listen")
    app = App(_Pages(service_state).pages())
    return Listener(
        address, app, idle_s=config.idle_timeout_ms / 1000, receive_s=config.receive_timeout_ms / 1000,
        send_s=config.send_timeout_ms / 1000, max_connections=descriptors.share(8, most=config.max_connections),
        tls=tls,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Requested:
    """A request as ``CallLog`` sees it."""

    caller: str
    address: str

    def peer(self) -> str:
        return self.address


class _Pages:
    """The pages of a daemon. Each method but ``pages`` answers requests for one page."""

    def __init__(self, service_state: ServiceState) -> None:
        self._service_state = service_state

    def pages(self) -> list[Page]:
        guarded = self._guarded
        return [
            Page(path="/checkpoint", respond=guarded(self._checkpoint), waits=False, is_shared=True),
            Page(path=f"/{pruned.FILE}", respond=guarded(self._pruned), waits=False, is_shared=True),
            Page(path=f"/{ROTATIONS_FILE}", respond=guarded(self._rotations), is_shared=True),
            Page(path=f"/tile/entries/{REST}", respond=guarded(self._bundle), is_shared=True),
            Page(path=f"/kept/{REST}", respond=guarded(self._gaps), is_shared=True),
            Page(path=f"/tile/{REST}", respond=guarded(self._tile), waits=False, is_shared=True),
            Page(path="/metrics", respond=self._metrics),
            Page(path="/healthz", respond=self._healthz, waits=False),
        ]

    def _guarded(self, respond: Callable[[HttpRequest, Services], HttpResponse]) -> Respond:
        """Return *respond* for pages that need the ledger; our errors become status 500, which no cache keeps."""

        def answer(request: HttpRequest) -> HttpResponse:
            services = self._service_state.services
            if services is None:
                return text_response(HTTPStatus.SERVICE_UNAVAILABLE, "starting or draining")
            try:
                return respond(request, services)
            except ConsentdError as error:
                log.error("HTTP answer failed: %s", error)
                return text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

        return answer

    def _metrics(self, request: HttpRequest) -> HttpResponse:
        body = self._service_state.metrics.render(with_private=_is_scraper(request, self._service_state.services))
        return HttpResponse(HTTPStatus.OK, CONTENT_TYPE, body, UNCACHED)

    def _healthz(self, _: HttpRequest) -> HttpResponse:
        services = self._service_state.services
        published = None if services is None else services.sequencer.checkpoints.published
        is_restored = services is not None and services.restored is not None
        ready = services is not None and services.sequencer.fault is None and not is_restored
        answer = {
            "status": "ok" if ready else "restored copy" if is_restored else "unavailable",
            "checkpoint_size": 0 if published is None else published.checkpoint.size,
            "ledger_size": 0 if services is None else services.ledger.state.size,
            "quorum": services is not None and services.sequencer.checkpoints.publisher.has_quorum,
        }
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return HttpResponse(status, "application/json", json.dumps(answer).encode() + b"\n", UNCACHED)

    def _checkpoint(self, request: HttpRequest, services: Services) -> HttpResponse:
        published = services.sequencer.checkpoints.published
        if published is None:
            return text_response(HTTPStatus.NOT_FOUND, "no checkpoint is published yet")
        return _tagged(request, published.note, TEXT, BRIEFLY_CACHED["Cache-Control"])

    def _pruned(self, request: HttpRequest, services: Services) -> HttpResponse:
        found = retention.read_pruned(services.ledger.store)
        if found == pruned.NOTHING:
            return text_response(HTTPStatus.NOT_FOUND, "nothing is pruned")
        return _tagged(request, pruned.format_pruned(found), TEXT, BRIEFLY_CACHED["Cache-Control"])

    def _rotations(self, request: HttpRequest, services: Services) -> HttpResponse:
        """Serve the last checkpoints of earlier log keys, those that are smaller than the public one."""
        published, store = services.sequencer.checkpoints.published, services.ledger.store
        size = 0 if published is None else published.checkpoint.size
        kept = tuple(read_kept(store, one) for one in kept_sizes(store) if one < size)
        if not kept:
            return text_response(HTTPStatus.NOT_FOUND, "log key was never replaced")
        return _tagged(request, format_rotations(kept), "application/json", BRIEFLY_CACHED["Cache-Control"])

    def _tile(self, request: HttpRequest, services: Services) -> HttpResponse:
        """Serve a hash tile. Auditors get tiles of the whole signed tree, others only tiles of the published tree."""
        try:
            level, n, width = tiles.parse_tile_path(request.path[1:])
        except MalformedError:
            return text_response(HTTPStatus.NOT_FOUND, "no such tile")
        checkpoints = services.sequencer.checkpoints
        last = (n * tiles.TILE_WIDTH + width) << (8 * level)
        is_public = checkpoints.published is not None and last <= checkpoints.published.checkpoint.size
        if not is_public:
            # A witness that starts to follow a pruned ledger needs tiles and bundles before the first publication.
            signed = checkpoints.signed if _reads_entries(request, services) else None
            if signed is None or last > signed.size:
                return text_response(HTTPStatus.NOT_FOUND, "no such tile")
        row = services.ledger.store.get(layout.tile_key(level, n)) or b""
        if len(row) < width * merkle.HASH_SIZE:
            raise CorruptionError(f"tile {n} of level {level} is too short; stop the daemon, and run `consentd fsck`")
        cache = f"{'public' if is_public else 'private'}, {_IMMUTABLE}"
        return _tagged(request, row[: width * merkle.HASH_SIZE], _BYTES, cache)

    def _bundle(self, request: HttpRequest, services: Services) -> HttpResponse:
        return self._entries(request, services, request.path, is_pruned=False)

    def _gaps(self, request: HttpRequest, services: Services) -> HttpResponse:
        """Serve what is left of a bundle of which leaves are pruned."""
        return self._entries(request, services, "/tile/entries" + request.path.removeprefix("/kept"), is_pruned=True)

    def _entries(self, request: HttpRequest, services: Services, path: str, *, is_pruned: bool) -> HttpResponse:
        """Serve an entry bundle to an auditor."""
        who = _caller(request, services)
        try:
            with services.table.read() as snapshot:
                check_may_call(snapshot, who.caller, "ListLeaves", services.sequencer.clock.wall_ms(), roles=who.roles)
        except DeniedError as error:
            self._service_state.call_log.refused("/tile/entries", error, _Requested(who.caller, request.address))
            return _denied(error)
        # All signed entries are served, also unpublished ones: a witness replays the entries before it cosigns them.
        signed = services.sequencer.checkpoints.signed
        try:
            _, n, width = tiles.parse_tile_path(path[1:])
        except MalformedError:
            return text_response(HTTPStatus.NOT_FOUND, "no such bundle")
        start, end = n * tiles.TILE_WIDTH, n * tiles.TILE_WIDTH + width
        if signed is None or end > signed.size:
            return text_response(HTTPStatus.NOT_FOUND, "no such bundle")
        store = services.ledger.store
        if (start < retention.read_pruned(store).minimum) is not is_pruned:
            return text_response(HTTPStatus.NOT_FOUND, "bundle is whole" if is_pruned else "bundle is pruned")
        bundle = tiles.encode_bundle(reads.read_leaves(store, start, end, with_gaps=is_pruned))
        return _tagged(request, bundle, _BYTES, UNCACHED["Cache-Control"] if is_pruned else f"private, {_IMMUTABLE}")


def _denied(error: DeniedError) -> HttpResponse:
    """Return 401 if the caller is not known, and 403 if what the caller may read is other data."""
    text = "entry bundles need an auditor's credential"
    if isinstance(error, UnauthenticatedError):
        return text_response(HTTPStatus.UNAUTHORIZED, text, {**UNCACHED, "WWW-Authenticate": "Bearer"})
    return text_response(HTTPStatus.FORBIDDEN, text)


def _tagged(request: HttpRequest, body: bytes, content_type: str, cache: str) -> HttpResponse:
    """Return a response with an entity tag: the whole body, the requested range, or status 304 without a body."""
    status, part, headers = conditional_response(body, request.headers, method=request.method)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        cache = UNCACHED["Cache-Control"]  # what was asked is wrong, not what is here
    return HttpResponse(status, content_type, part, {"Cache-Control": cache, **headers})


def _is_scraper(request: HttpRequest, services: Services | None) -> bool:
    """Return whether the caller may read the figures that change with what a person's consents say."""
    if services is None:
        return False
    who = _caller(request, services)
    return bool(SCRAPER_ID.fullmatch(who.caller)) or OperatorRole.READ_METRICS in who.roles


def _caller(request: HttpRequest, services: Services) -> Identity:
    return services.credentials.authenticate([("authorization", request.headers.get("Authorization", ""))], None)


def _reads_entries(request: HttpRequest, services: Services) -> bool:
    """Return whether the caller may read leaves: whether the table of roles allows ListLeaves."""
    who = _caller(request, services)
    with services.table.read() as snapshot:
        now_ms = services.sequencer.clock.wall_ms()
        return may_call("ListLeaves", caller_kinds(snapshot, who.caller, now_ms, roles=who.roles))


# -- conditional and range requests ---------------------------------------------------------------------------


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag (RFC 9110, 8.8.3) of *body*."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def conditional_response(
    body: bytes, headers: Mapping[str, str], *, method: str = "GET"
) -> tuple[HTTPStatus, bytes, dict[str, str]]:
    """Return status, body and additional headers of the response to a GET or HEAD request with these headers.

    A ``Range`` that is malformed or lists several ranges is ignored, and the whole body is sent; so is any in a HEAD
    request (RFC 9110, 14.2).
    """
    tag = entity_tag(body)
    fields = {"ETag": tag, "Accept-Ranges": "bytes"}
    known = headers.get("If-None-Match", "")
    if known and _matches(known, tag):
        return HTTPStatus.NOT_MODIFIED, b"", fields
    asked = _RANGE.fullmatch(headers.get("Range", "").strip())
    # Our responses have no dates, so an If-Range with a date cannot match, and the whole body is sent.
    if method != "GET" or asked is None or headers.get("If-Range", tag) != tag:
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
