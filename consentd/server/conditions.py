"""Answer conditional and range requests for bytes that are known whole (RFC 9110, 13 and 14).

A client that has a tile asks whether it is still the same, and is told so in a header's length; one whose download
broke off asks for the rest. An entity tag is of the bytes alone, so every host that serves the same ledger gives the
same.
"""

import re
from collections.abc import Mapping
from email.message import Message
from hashlib import sha256
from http import HTTPStatus

Headers = Mapping[str, str] | Message
"""Of a request; names compare as the type has it: http.server's, whatever their case."""

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


def entity_tag(body: bytes) -> str:
    """Return the strong entity tag of these bytes."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def answer(body: bytes, headers: Headers) -> tuple[HTTPStatus, bytes, dict[str, str]]:
    """Return status, bytes and further headers of the answer to a GET or HEAD with these request headers.

    A range that is malformed, or one of several, is passed over, as RFC 9110 14.2 allows: the whole is sent.
    """
    tag = entity_tag(body)
    further = {"ETag": tag, "Accept-Ranges": "bytes"}
    known = headers.get("If-None-Match", "")
    if known and _matches(known, tag):
        return HTTPStatus.NOT_MODIFIED, b"", further
    asked = _RANGE.fullmatch(headers.get("Range", "").strip())
    # A date is never what we gave out, so If-Range by date asks for the whole.
    if asked is None or headers.get("If-Range", tag) != tag:
        return HTTPStatus.OK, body, further
    size = len(body)
    if asked[3] is not None:
        start, end = max(0, size - int(asked[3])), size
    else:
        start, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
        if asked[2] and int(asked[2]) < start:
            return HTTPStatus.OK, body, further
    if start >= end:
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {**further, "Content-Range": f"bytes */{size}"}
    return HTTPStatus.PARTIAL_CONTENT, body[start:end], {**further, "Content-Range": f"bytes {start}-{end - 1}/{size}"}


def _matches(known: str, tag: str) -> bool:
    """Compare weakly (RFC 9110 8.8.3.2): caches weaken tags where they compress."""
    return known.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in known.split(",")]
