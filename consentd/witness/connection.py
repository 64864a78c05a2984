"""Talk HTTP over one connection that is kept alive: to a witness, or to a log that a witness follows."""

import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from consentd.errors import InvalidError, StorageError

MAX_ANSWER_SIZE = 256 * 1024
_PIECE = 65_536


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
        except ValueError:
            raise InvalidError(f"URL is malformed: `{url}`") from None
        if not self.host or parts.scheme not in ("http", "https") or parts.username is not None or {*url} & {*"?#"}:
            raise InvalidError(f"URL is not one of http or https with a host and a path alone: `{url}`")
        self.is_encrypted = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        kind = http.client.HTTPSConnection if self.is_encrypted else http.client.HTTPConnection
        self._http = kind(self.host, port, timeout=timeout_s)
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
        except (OSError, http.client.HTTPException) as error:
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
        deadline = time.monotonic() + self._timeout_s
        self._http.request(method, self._prefix + path, body, self._headers)
        # Once it is closed, which read1 does not do at the end, the connection is free for the next request.
        with self._http.getresponse() as response:
            pieces, size = [], 0
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise StorageError("answer is too large")
                # The socket's own timeout begins anew with each byte; this one does not.
                if time.monotonic() > deadline:
                    raise StorageError("answer takes too long")
        return Answer(response.status, response.headers.get("Content-Type", ""), b"".join(pieces))
