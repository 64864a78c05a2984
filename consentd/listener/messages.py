"""HTTP requests and responses as values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TEXT = "text/plain; charset=utf-8"
UNCACHED = {"Cache-Control": "no-store"}
BRIEFLY_CACHED = {"Cache-Control": "public, max-age=1"}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request with its whole body.

    Attributes:
        path: as it was sent, with nothing decoded, and without the query.
        headers: ignores the case of names; if a name is repeated, the list of its values.
        address: of the peer, without the port.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    address: str


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response with its whole body; *headers*: all except Content-Type and Content-Length."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[HttpRequest], HttpResponse]
"""A function that answers a request."""


def text_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a response with one line of text. Without *headers* no cache may keep it."""
    return HttpResponse(status, TEXT, text.encode() + b"\n", UNCACHED if headers is None else headers)
