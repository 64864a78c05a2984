"""An ASGI application made of pages. The only door to Starlette."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from consentd.listener.messages import UNCACHED, HttpRequest, HttpResponse, Respond, text_response

log = logging.getLogger(__name__)

ASGI = ASGIApp
"""What ``server.Listener`` runs."""
THREADS = 16
"""How many pages that may wait are computed at a time, unless their owner says otherwise."""
REST = "{rest:path}"
"""At the end of a page's path: the page answers every path that begins so."""
_ANY_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Range, ETag",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "86400",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A path, and the function that answers requests for it.

    Attributes:
        path: the path, or its beginning and ``REST``.
        method: GET, which includes HEAD, or POST.
        waits: the function may wait for a disk or a lock, so it runs on a thread; otherwise on the server's own.
        is_shared: browsers may show the answer to pages of every origin (CORS): it is the same for everybody, or it
            needs a token that the page itself sends. A browser adds nothing of its own to such a request, neither
            cookies nor certificates (`Access-Control-Allow-Origin: *`, without `Allow-Credentials`). The header is part
            of every answer, also to requests without an origin: a cache keeps one answer for all.
    """

    path: str
    respond: Respond
    method: str = "GET"
    waits: bool = True
    is_shared: bool = False


class App:
    """An ASGI application that answers requests by the first page whose path matches, else with an error as text."""

    def __init__(self, pages: Sequence[Page], *, threads: int = THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="http")
        self._starlette = Starlette(
            routes=[self._route(page) for page in pages],
            exception_handlers={HTTPException: _explain, Exception: _report},
        )
        self._starlette.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Paths are compared as they were sent: no page has two spellings, so no cache keeps two."""
        await self._starlette({**scope, "path": scope["raw_path"].decode("ascii")}, receive, send)

    def _route(self, page: Page) -> Route:
        async def answer(request: Request) -> Response:
            if request.method == "OPTIONS":
                if not page.is_shared:
                    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": page.method})
                return Response(status_code=HTTPStatus.NO_CONTENT, headers={**_PREFLIGHT, **_ANY_ORIGIN, **UNCACHED})
            body = await request.body() if request.method == "POST" else b""  # no other request may have one
            address = "" if request.client is None else request.client.host
            asked = HttpRequest(request.method, request.scope["path"], _combine(request.headers), body, address)
            if page.waits:
                loop = asyncio.get_running_loop()
                response = await loop.run_in_executor(self._threads, page.respond, asked)
            else:
                response = page.respond(asked)
            return _encode(response, is_shared=page.is_shared)

        # Every page answers OPTIONS: a request with a method that a page lacks would go on to a later page's path.
        return Route(page.path, answer, methods=[page.method, "OPTIONS"])


def _combine(headers: Headers) -> Headers:
    """Return headers with the values of a repeated name as one list (RFC 9110, 5.3)."""
    return Headers({name: ", ".join(headers.getlist(name)) for name in headers})


def _encode(response: HttpResponse, *, is_shared: bool) -> Response:
    headers = {**response.headers, **_ANY_ORIGIN} if is_shared else dict(response.headers)
    if response.status != HTTPStatus.NOT_MODIFIED:
        headers["Content-Type"] = response.content_type
    return Response(response.body, response.status, headers)


async def _explain(_: Request, error: Exception) -> Response:
    """Answer a request that has no page, or not by this method."""
    assert isinstance(error, HTTPException), "Starlette calls this for such errors only"
    text = "no such page" if error.status_code == HTTPStatus.NOT_FOUND else error.detail.lower()
    headers = {**UNCACHED, **(error.headers or {})}
    is_shared = error.status_code == HTTPStatus.NOT_FOUND
    return _encode(text_response(error.status_code, text, headers), is_shared=is_shared)


async def _report(_: Request, error: Exception) -> Response:
    """Answer a request at which our code failed. The log names no text of the error, which may name a person."""
    log.error("HTTP answer failed: bug: %s", type(error).__name__)
    return _encode(text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error"), is_shared=False)
