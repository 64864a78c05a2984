"""Run an ASGI application on uvicorn, with limits to what a peer may send, take and hold. The only door to uvicorn.

uvicorn parses requests (httptools, which is llhttp) and writes answers. It has no limit to the size of headers, to the
time that a request or an answer takes, or to connections, and it computes requests that a peer sends at once one after
the other. ``_Connection`` adds these limits, and refuses each request that two programs could read in two ways: a
proxy in front of this server would take the end of one request for the beginning of the next (RFC 9112, 11.2). So a
connection gives one answer to each request, or ends.

One thread runs all connections of a listener. Only this thread touches the state here, except in ``Listener.stop``.
"""

import asyncio
import logging
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from consentd import limits
from consentd.errors import StorageError
from consentd.listener.app import ASGI
from consentd.listener.messages import TEXT

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""How many connections a listener accepts at a time, unless its owner says less."""
MAX_HEAD = limits.HTTP_HEAD_BYTES
"""The longest beginning of a request in bytes: its first line and its headers."""
RECEIVE_S = 10.0
"""How long a peer may take for a TLS handshake, or from the first byte of a request to the last, unless its owner says
otherwise."""
SEND_S = 30.0
"""How long a peer may take to receive an answer, unless its owner says otherwise."""
_LINGER_S = 2.0  # how long we read on after a refusal; a connection that is closed before has no time to deliver it
_SWEEP_S = 0.5  # how often connections are looked at whose time limit may have passed
_PAUSE_S = 0.1  # how long no connection is accepted after the system refused one
_BACKLOG = 1024  # how many connections the system keeps until they are accepted
_ACCEPTS = 16  # how many connections are accepted before those that are open are served again
_LENGTH = re.compile(b"[0-9]{1,18}")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")

# uvicorn logs what peers do wrong, and errors with their texts. ``App`` logs our own errors.
logging.getLogger("uvicorn").setLevel(logging.CRITICAL)


class Listener:
    """A listening HTTP server on a thread of its own.

    Attributes:
        tls: for connections that are accepted from now on; may be replaced by assignment.
    """

    def __init__(
        self, address: tuple[str, int], app: ASGI, *, idle_s: float, receive_s: float = RECEIVE_S,
        send_s: float = SEND_S, max_body: int = 0, max_connections: int = MAX_CONNECTIONS,
        tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        """Start to listen on *address* (host, port), and answer requests with *app*.

        A connection is closed if it is idle for *idle_s* seconds, if a request or a handshake takes longer than
        *receive_s*, or if an answer takes longer than *send_s*. A body of over *max_body* bytes is refused. At most
        *max_connections* are open, and half as many from one address; a further one replaces the connection that has
        waited longest.

        Raises:
            StorageError: the address cannot be listened on.
        """
        self.idle_s, self.receive_s, self.send_s = idle_s, receive_s, send_s
        self.max_body, self.max_connections, self.tls = max_body, max_connections, tls
        self.open: set[_Connection] = set()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self._socket = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise StorageError(f"cannot listen on `{address[0]}:{address[1]}`: {error.strerror}") from error
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._config = uvicorn.Config(
            app, http=HttpToolsProtocol, ws="none", interface="asgi3", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, headers=[("server", "consentd")],
        )  # fmt: skip
        self._server = uvicorn.Server(self._config)
        self._loop = asyncio.new_event_loop()
        self._lacks_room = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self.open)

    def stop(self, grace_s: int = 0) -> None:
        """Accept no more connections, let answers end that end within *grace_s* seconds, and close all connections."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._begin_stop, grace_s)
            self._thread.join()

    # -- on the listener's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(_report)
        self._resume()
        sweep = self._loop.create_task(self._sweep())
        await self._server.serve(sockets=[])  # it keeps the date, and waits at the end for answers in flight
        sweep.cancel()
        for connection in list(self.open):
            connection.abort()
        await asyncio.sleep(0)  # the transports close their sockets in the next round

    def _begin_stop(self, grace_s: int) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self._config.timeout_graceful_shutdown = grace_s
        self._server.should_exit = True

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Without a free descriptor the connection stays in the system's queue, and the next call fails at once.
                if not self._lacks_room:
                    log.warning("HTTP connections cannot be accepted: %s", error.strerror)
                self._lacks_room = True
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_PAUSE_S, self._resume)
                return
            self._lacks_room = False
            accepted.setblocking(False)
            # Head and body are two packets. With Nagle's algorithm the body would wait 40 ms for a delayed ACK.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._admit(accepted, str(address[0]))

    def _admit(self, accepted: socket.socket, host: str) -> None:
        """Serve a connection; if there is no room, close first one that waits for its peer, or else this one."""
        if sum(each.host == host for each in self.open) >= max(1, self.max_connections // 2):
            self._close_oldest(host)
        elif len(self.open) >= self.max_connections:
            self._close_oldest(None)
        if len(self.open) >= self.max_connections:
            accepted.close()
            return
        connection = _Connection(self, accepted, host, self._config, self._server.server_state)
        self.open.add(connection)
        connection.opening = self._loop.create_task(self._connect(connection, accepted))

    def _close_oldest(self, host: str | None) -> None:
        """Close the connection that has waited longest for its peer; *host*: only one from this address."""
        waiting = [each for each in self.open if each.until_s is not None and host in (None, each.host)]
        if waiting:
            min(waiting, key=lambda each: each.since_s).abort()

    async def _connect(self, connection: "_Connection", accepted: socket.socket) -> None:
        tls = self.tls
        limit_s = None if tls is None else self.receive_s
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=limit_s
            )
        except OSError:  # the peer is gone, or does not speak TLS as we do
            accepted.close()
            self.open.discard(connection)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            for connection in list(self.open):
                connection.check(now_s)


class _RefusedError(Exception):
    """A request is refused, and its connection ends. The first argument is the status, the second a reason."""


class _PipelinedError(Exception):
    """A request arrives before the answer to the one before."""


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits.

    Attributes:
        host: the peer's address.
        since_s: when the connection began to wait for what its peer must do next.
        until_s: when the peer must have done it; None: we do not wait for the peer.
    """

    def __init__(
        self, listener: Listener, accepted: socket.socket, host: str, config: uvicorn.Config, state: Any
    ) -> None:
        super().__init__(config, state, {})
        # Data after a request that says `Connection: close` is an error, as it is in llhttp unless somebody asks.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self.host = host
        self.opening: asyncio.Task[None] | None = None
        self.since_s = 0.0
        self.until_s: float | None = None
        self._listener, self._accepted = listener, accepted
        self._is_made = False  # the transport exists, and the TLS handshake is over
        self._is_aborted = False
        self._is_ending = False  # what else the peer sends is read and forgotten
        self._in_head = False
        self._is_sending = False  # the peer has not taken all of an answer
        self._is_whole = False  # the request has come, up to the last byte
        self._head_size = 0
        self._wait(listener.idle_s)

    def _wait(self, seconds: float | None) -> None:
        """Set a time limit for what the peer must do next; None: it need not do anything."""
        self.since_s = time.monotonic()
        self.until_s = None if seconds is None else self.since_s + seconds

    def check(self, now_s: float) -> None:
        """Close the connection if its time limit has passed."""
        if self._is_sending and not self.transport.get_write_buffer_size():
            self._is_sending = False
            self._wait(self._listener.idle_s)
        if self.until_s is not None and self.until_s < now_s:
            self.abort()

    def abort(self) -> None:
        """Close the connection, and forget what is not sent yet."""
        self._is_aborted = True
        self._listener.open.discard(self)
        if self._is_made:
            self.transport.abort()
        else:
            with suppress(OSError):
                self._accepted.shutdown(socket.SHUT_RDWR)  # so that the handshake fails

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._is_made = True
        if self._is_aborted:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.open.discard(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn returns nothing, which means false
        """Return whether the transport stays open: a peer may end its side after a request, and wait for the answer."""
        if self._is_ending or not self._is_answering() or self._listener.tls is not None:
            return False
        self._end_after_answer()
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_ending or self.transport.is_closing():
            return
        if self._is_answering():
            self._end_after_answer()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end_after_answer()  # we speak nothing else; what follows need not be HTTP
        except httptools.HttpParserError as error:
            if self._is_answering():
                self._end_after_answer()
            elif isinstance(error.__context__, _RefusedError):
                self._refuse(*error.__context__.args)
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, "request is not HTTP/1.1 as RFC 9112 defines it")
            return
        if self._in_head:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers are too long")

    def _is_answering(self) -> bool:
        """Return whether a whole request waits for its answer."""
        return self._is_whole and not self.cycle.response_complete

    def _end_after_answer(self) -> None:
        """Answer no further request.

        Requests of one connection are answered one at a time. So whatever a proxy took for a part of a request's body,
        and sends together with it, is never taken for a request.
        """
        self._is_ending = True
        self.cycle.keep_alive = False

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer a request that is not passed on, and close the connection."""
        self._is_ending = True
        body = reason.encode() + b"\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {TEXT}\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.transport.can_write_eof():
            # To close now would reset the connection if bytes of the peer are unread, and the peer may lose our answer.
            self.transport.write_eof()
            self._wait(_LINGER_S)
        else:
            self.transport.close()
            self._wait(self._listener.send_s)

    # -- callbacks of the parser ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_answering():
            raise _PipelinedError
        self._in_head, self._is_whole, self._head_size = True, False, 0
        self._wait(min(self._listener.idle_s, self._listener.receive_s))
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise _RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        size, found = len(self.url), dict[bytes, list[bytes]]()
        for name, value in self.headers:
            size += len(name) + len(value) + len(": \r\n")
            found.setdefault(name, []).append(value)
        if size > MAX_HEAD:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers are too long")
        self._check_target(found.get(b"host", []))
        if len(found.get(b"authorization", [])) > 1:  # a proxy may have checked another one than we would
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "request has more than one Authorization")
        self._check_body(found.get(b"content-length", []), is_coded=b"transfer-encoding" in found)
        super().on_headers_complete()

    def _check_target(self, hosts: list[bytes]) -> None:
        is_one = len(hosts) == 1 or (not hosts and self.parser.get_http_version() == "1.0")
        if not is_one or not all(_HOST.fullmatch(host) for host in hosts):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "request has no Host, or more than one")
        if not self.url.startswith(b"/"):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "request has no path: its target begins with `/`")

    def _check_body(self, lengths: list[bytes], *, is_coded: bool) -> None:
        """Refuse a request whose headers do not say how long its body is, or say it in two ways."""
        is_post = self.parser.get_method() == b"POST"
        if is_coded or len(lengths) > 1 or not all(_LENGTH.fullmatch(length) for length in lengths):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "request has no length that is clear: send one Content-Length")
        if is_post and not lengths:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "request has no length: send Content-Length")
        if lengths and int(lengths[0]) > (self._listener.max_body if is_post else 0):
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body is too long")
        if is_post and self.parser.should_upgrade():
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "only HTTP/1.1 is spoken here")

    def on_message_complete(self) -> None:
        self._is_whole = True
        # The peer has sent all that it must. If the answer was sent before, we wait for the next request.
        self._wait(self._listener.idle_s if self.cycle.response_complete else None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request. uvicorn's method would begin a request that waits, and a timer of its own."""
        self._is_sending = self.transport.get_write_buffer_size() > 0
        self._wait(self._listener.send_s if self._is_sending else self._listener.idle_s)
        self.flow.resume_reading()


def _report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a failure that no connection handled, without its text, which may have something of a request."""
    log.error("HTTP server failed: %s", type(context.get("exception")).__name__)
