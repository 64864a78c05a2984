"""Talk HTTP over one connection that is kept alive: to a witness, or to a log that a witness follows."""

import http.client
import io
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from consentd.errors import InvalidError, StorageError

MAX_ANSWER_SIZE = 256 * 1024
_PIECE = 65_536
_MAX_FRAME_SIZE = 65_536  # what may stand around an answer's body: headers, and the lengths of its pieces
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    content_type: str
    body: bytes


class Connection:
    """A kept-alive connection to what lies below one URL. One thread uses it; any may ``close`` it."""

    def __init__(self, url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        """Prepare to connect; nothing is sent.

        Raises:
            InvalidError: *url* is not one of http or https, or has a user, a query or a fragment.
        """
        try:
            parts = urlsplit(url)
            self.host, port = parts.hostname or "", parts.port
            # What would only fail once it is asked for: a name that no resolver takes, a path that no request has.
            self.host.encode("idna")
            parts.path.encode("ascii")
        except ValueError:
            raise InvalidError(f"URL is malformed: `{url}`") from None
        if not self.host or parts.scheme not in _PORTS or parts.username is not None or {*url} & {*"?#"}:
            raise InvalidError(f"URL is not one of http or https with a host and a path alone: `{url}`")
        self.is_encrypted = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        kind = http.client.HTTPSConnection if self.is_encrypted else http.client.HTTPConnection
        # The port is always given: without one, http.client takes the end of an IPv6 address for it.
        self._http = kind(self.host, _PORTS[parts.scheme] if port is None else port, timeout=timeout_s)
        self._closed = False  # set by any thread; never unset

    def request(self, method: str, path: str, body: bytes | None = None, *, limit: int = MAX_ANSWER_SIZE) -> Answer:
        """Send a request and read its answer, of *limit* bytes at most. Redirects are not followed.

        Raises:
            StorageError: there is no answer, or not in time, or it is too large.
        """
        kept = self._http.sock is not None
        try:
            try:
                return self._once(method, path, body, limit)
            except (ConnectionError, http.client.BadStatusLine):
                # A kept connection that its server closed meanwhile says nothing about the server.
                if not kept:
                    raise
                self._http.close()
                return self._once(method, path, body, limit)
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: TLS that was closed meanwhile
            self._http.close()
            raise StorageError(f"no answer: {type(error).__name__}") from error
        except StorageError:
            self._http.close()
            raise

    def close(self) -> None:
        """End it for good, and wake the thread that waits for an answer."""
        self._closed = True
        opened = self._http.sock
        if opened is not None:
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side was first

    def release(self) -> None:
        """Free the socket. By the thread that uses it."""
        self._http.close()

    def _once(self, method: str, path: str, body: bytes | None, limit: int) -> Answer:
        if self._closed:
            raise StorageError("connection is closed")
        bounds = partial(_Bounded, until_s=time.monotonic() + self._timeout_s, most=2 * limit + _MAX_FRAME_SIZE)
        self._http.response_class = partial(_Response, bounds=bounds)  # type: ignore[assignment]  # it is called alone
        if self._http.sock is not None:
            self._http.sock.settimeout(self._timeout_s)
        self._http.request(method, self._prefix + path, body, self._headers)
        # Once it is closed, which read1 does not do at the end, the connection is free for the next request.
        with self._http.getresponse() as response:
            pieces, size = [], 0
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise StorageError("answer is too large")
        return Answer(response.status, response.headers.get("Content-Type", ""), b"".join(pieces))


class _Response(http.client.HTTPResponse):
    """An answer that ends in time, and with so many bytes, whatever it consists of."""

    def __init__(self, sock: socket.socket, *args: Any, bounds: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp.close()
        self.fp = io.BufferedReader(bounds(sock))


class _Bounded(io.RawIOBase):
    """What comes from a socket. Its own timeout begins anew with each byte, and http.client reads some parts of an
    answer to an end that need not come: interim answers, trailers."""

    def __init__(self, sock: socket.socket, *, until_s: float, most: int) -> None:
        self._sock, self._until_s, self._left = sock, until_s, most
        # Counts as in use of the socket, which http.client closes before it has read the last answer's body.
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise StorageError("answer takes too long")
        if self._left <= 0:
            raise StorageError("answer is too large")
        self._sock.settimeout(left_s)
        size = self._raw.readinto(buffer)
        self._left -= size or 0
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
