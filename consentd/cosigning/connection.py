"""Send HTTP requests over one kept-alive connection, to a witness or to a log that publishes its files.

This is the only door for bytes that come over HTTP. A response is returned only if it is whole: its head states where
its body ends, all bytes up to there have arrived, and they arrived in time. Every other response is a ``FetchError``.
So is a web page with status 200: logs and witnesses serve none, but proxies show their own pages.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from consentd.errors import FetchError, InvalidError
from consentd.listener.messages import HttpResponse
from consentd.sections import is_loopback

MAX_BODY_SIZE = 256 * 1024
_READ_SIZE = 65_536
_MAX_FRAME_SIZE = 65_536  # allowed for a response's headers, and for the lengths of its chunks
_PORTS = {"http": 80, "https": 443}


class Connection:
    """A kept-alive connection for requests below one URL. One thread sends requests; any thread may call ``close``.

    ``is_protected`` is true if requests are encrypted, or do not leave this machine.
    """

    def __init__(
        self, url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Prepare to connect; nothing is sent yet. *timeout_s* limits the time until a whole response has arrived.

        Raises:
            InvalidError: *url* is not an http or https URL, or contains a user name, a query or a fragment.
        """
        try:
            parts = urlsplit(url)
            self.host, port = parts.hostname or "", parts.port
            # Encode host and path here: otherwise a bad host or path would fail only at the first request.
            self.host.encode("idna")
            parts.path.encode("ascii")
            if " " in url or not url.isprintable():
                raise ValueError
        except ValueError:
            raise InvalidError(f"URL is malformed: `{url}`") from None
        if not self.host or parts.scheme not in _PORTS or parts.username is not None or {*url} & {*"?#"}:
            raise InvalidError(f"URL is not one of http or https with a host and a path alone: `{url}`")
        is_encrypted = parts.scheme == "https"
        self.is_protected = is_encrypted or is_loopback(self.host)
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        # Always pass a port: without a port http.client reads the end of an IPv6 address as the port.
        port = _PORTS[parts.scheme] if port is None else port
        self._http = http.client.HTTPConnection(self.host, port, timeout=timeout_s)
        if is_encrypted:
            self._http = http.client.HTTPSConnection(self.host, port, timeout=timeout_s, context=tls)
        self._closed = False  # any thread may set this; it is never set back

    def request(self, method: str, path: str, body: bytes | None = None, *, limit: int = MAX_BODY_SIZE) -> HttpResponse:
        """Send a request and return its response, with a body of at most *limit* bytes. Redirects are not followed.

        Raises:
            FetchError: no whole response came in time, or the response is too large.
        """
        is_reused = self._http.sock is not None
        try:
            return self._once(method, path, body, limit)
        except FetchError as error:
            # A server may close an idle connection at any time. This is no failure, so try once on a new connection.
            if is_reused and isinstance(error.__cause__, ConnectionError | http.client.BadStatusLine):
                return self._once(method, path, body, limit)
            raise

    def close(self) -> None:
        """Close the connection permanently, and wake a thread that waits for a response."""
        self._closed = True
        opened = self._http.sock
        if opened is not None:
            with suppress(OSError):  # the other side has already closed the connection
                opened.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Free the socket. Call this on the thread that sends requests, or after that thread has ended."""
        self._http.close()

    def _once(self, method: str, path: str, body: bytes | None, limit: int) -> HttpResponse:
        """Send a request on the open connection, or on a new connection; close the connection if the request fails."""
        if self._closed:
            raise FetchError("connection is closed")
        until_s = time.monotonic() + self._timeout_s

        def bounded_response(sock: socket.socket, *args: Any, **named: Any) -> http.client.HTTPResponse:
            response = http.client.HTTPResponse(sock, *args, **named)
            response.fp.close()
            response.fp = io.BufferedReader(_Bounded(sock, until_s=until_s, most=2 * limit + _MAX_FRAME_SIZE))
            return response

        try:
            self._http.response_class = bounded_response  # type: ignore[assignment]  # http.client only calls the value
            if self._http.sock is not None:
                self._http.sock.settimeout(self._timeout_s)
            self._http.request(method, self._prefix + path, body, self._headers)
            # The response must be closed before the connection can send the next request; read1 does not close it.
            with self._http.getresponse() as response:
                length = _stated_length(response)
                if response.status == 200 and response.headers.get_content_type() == "text/html":
                    raise FetchError("a web page came in place of the response")
                received = bytearray()
                while chunk := response.read1(_READ_SIZE):
                    received += chunk
                    if len(received) > limit:
                        raise FetchError("response is too large")
            # `read1` does not notice a body that is too short.
            if length is not None and len(received) != length:
                raise FetchError(f"response was cut: `{len(received)}` of `{length}` bytes arrived")
        except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: `close` ended TLS meanwhile
            self._http.close()
            raise FetchError(f"no whole response: {type(error).__name__}") from error
        except FetchError:
            self._http.close()
            raise
        return HttpResponse(response.status, response.headers.get("Content-Type", ""), bytes(received))


def _stated_length(response: http.client.HTTPResponse) -> int | None:
    """Return the length of the body that the head states; None if the body has chunks, of which the last is marked.

    Raises:
        FetchError: the head does not say where the body ends, or says it twice (RFC 9112, 6.3); or the body is encoded,
            although the request does not allow that.
    """
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("response is compressed, although that was not asked for")
    lengths = response.headers.get_all("Content-Length", [])
    if len(lengths) + response.chunked > 1:
        raise FetchError("response states its length twice")
    if response.chunked:
        return None
    # A body that ends with the connection looks the same whether it is whole or was cut.
    if response.length is None:
        raise FetchError("response states no length, so it may have been cut")
    return response.length


class _Bounded(io.RawIOBase):
    """The bytes of one response from a socket. A response that takes too long or is too large raises ``FetchError``.

    A socket's own timeout is not enough, because it restarts with each byte received. The size is limited here, because
    http.client reads interim responses and trailers without a limit.
    """

    def __init__(self, sock: socket.socket, *, until_s: float, most: int) -> None:
        self._sock, self._until_s, self._left = sock, until_s, most
        # This file object keeps the socket open: http.client closes it before the last response's body is read.
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise FetchError("response takes too long")
        if self._left <= 0:
            raise FetchError("response is too large")
        self._sock.settimeout(left_s)
        size = self._raw.readinto(buffer)
        self._left -= size or 0
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()
