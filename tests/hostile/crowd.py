"""Many connections that speak just enough HTTP/2 to be a burden, all on one thread.

The thread looks only at connections that have something to read or to do, because in a measurement it shares its core
with the honest callers.
"""

import heapq
import itertools
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from benchmarks.http2 import frame, grpc_message
from cases.fakes import HANG_S

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_CANCEL = struct.pack(">I", 8)
_FRAME_SIZE = 16_384
_PACE_S = 0.05  # how often the thread looks for what is due
_CONNECTS = 20  # how many connections are made between two looks at those that are open


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A kind of hostile peer.

    Attributes:
        paths: the RPCs that it calls, in turn; empty: it calls none.
        message: what each call sends; None: headers alone.
        sent_share: how much of each message is sent, 1: all, and the stream is ended.
        token: the credential; empty: none.
        calls: how many calls each connection keeps open. A call that ended is replaced after *again_s* seconds.
        window: the flow-control window that it gives each answer, in bytes.
        cancel_s: after how many seconds a call is cancelled; 0: never.
        speaks: false: it connects, and sends only *greeting*.
        greeting: the first bytes of a protocol that is not HTTP/2.
    """

    name: str
    paths: tuple[str, ...] = ()
    message: bytes | None = None
    sent_share: float = 1.0
    token: str = ""
    calls: int = 4
    again_s: float = 1.0
    window: int = 65_535
    cancel_s: float = 0.0
    speaks: bool = True
    greeting: bytes = b""


@dataclass(slots=True)
class _Stream:
    body: bytes
    ends: bool
    window: int


@dataclass(slots=True, eq=False)
class _Connection:
    peer: Peer
    socket: socket.socket
    buffer: bytes = b""
    next_stream: int = 1
    streams: dict[int, _Stream] = field(default_factory=dict)
    unsent: bytearray = field(default_factory=bytearray)
    is_open: bool = True
    window: int = 65_535
    first_window: int = 65_535
    answered_ping: bool = False


class Crowd:
    """*count* connections of each peer. Use as a context manager; ``settle`` waits until the server has their calls.

    Attributes:
        began, ended, closed: how many calls were begun, how many of them the server ended, and how many connections.
        sent: how many bytes of messages were sent.
    """

    def __init__(self, port: int, peers: Sequence[Peer], count: int, *, addresses: int = 1) -> None:
        """*addresses*: how many addresses of this machine the connections come from."""
        self._port, self._addresses = port, addresses
        self._wanted = [peer for peer in peers for _ in range(count)]
        # If the server takes fewer connections than these, it takes some of each kind.
        random.Random(0).shuffle(self._wanted)
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Condition()
        self._open: set[_Connection] = set()
        # A heap: when to connect again, and whether the server has closed the connection before.
        self._lost: list[tuple[float, int, Peer, bool]] = []
        # A heap: when to cancel a call, or to begin one (stream 0).
        self._due: list[tuple[float, int, _Connection, int]] = []
        self._numbers = itertools.count()  # so that equal times in a heap have an order
        self._leaving = False
        self.began = self.ended = self.closed = self.sent = 0
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def __enter__(self) -> Self:
        for peer in self._wanted:
            self._connect(peer)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._thread.join(HANG_S)
        for connection in self._open:
            connection.socket.close()
        self._selector.close()

    def settle(self) -> None:
        """Wait until the server has read what every connection sent at first, or has closed the connection.

        A server may close some at once and each time that they come again, so nothing is asked of those.
        """

        def settled() -> bool:
            waiting = any(not was_closed for *_, was_closed in self._lost)
            return not waiting and all(one.answered_ping for one in self._open if one.peer.speaks)

        with self._lock:
            assert self._lock.wait_for(settled, HANG_S)

    def wait_ended(self, count: int) -> None:
        """Wait until the server has ended *count* calls."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.ended >= count, HANG_S)

    def wait_closed(self, count: int) -> None:
        """Wait until the server has closed *count* connections."""
        with self._lock:
            assert self._lock.wait_for(lambda: self.closed >= count, HANG_S)

    # -- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._leaving:
            for key, _ in self._selector.select(self._pause_s()):
                self._do(key.data, self._read)
            now_s = time.monotonic()
            for _ in range(_CONNECTS):
                if self._lost and self._lost[0][0] <= now_s:
                    self._connect(heapq.heappop(self._lost)[2])
            while self._due and self._due[0][0] <= now_s:
                _, _, connection, number = heapq.heappop(self._due)
                self._do(connection, self._call if number == 0 else partial(self._cancel, number=number))
            with self._lock:
                self._lock.notify_all()

    def _pause_s(self) -> float:
        """Return how long the thread may wait for the server."""
        now_s = time.monotonic()
        lost_s = self._lost[0][0] - now_s if self._lost else _PACE_S
        due_s = self._due[0][0] - now_s if self._due else _PACE_S
        return max(0.0, min(_PACE_S, lost_s, due_s))

    def _do(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Do a step with a connection, and send what the step has to send; lose the connection if that fails."""
        if not connection.is_open:
            return
        try:
            step(connection)
            if connection.unsent:
                parts, connection.unsent = connection.unsent, bytearray()
                connection.socket.sendall(parts)
        except OSError:
            self._lose(connection)

    def _connect(self, peer: Peer) -> None:
        try:
            source = f"127.0.0.{next(self._numbers) % self._addresses + 1}"
            made = socket.create_connection(("127.0.0.1", self._port), timeout=5, source_address=(source, 0))
        except OSError:
            heapq.heappush(self._lost, (time.monotonic() + peer.again_s, next(self._numbers), peer, False))
            return
        made.settimeout(5)
        connection = _Connection(peer, made)
        self._open.add(connection)
        self._selector.register(made, selectors.EVENT_READ, connection)
        self._do(connection, self._greet)

    def _greet(self, connection: _Connection) -> None:
        peer = connection.peer
        if not peer.speaks:
            connection.unsent += peer.greeting
            return
        connection.unsent += _PREFACE + frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, peer.window))
        for _ in range(peer.calls if peer.paths else 0):
            self._call(connection)
        connection.unsent += frame(_PING, 0, 0, bytes(8))

    def _call(self, connection: _Connection) -> None:
        peer, number = connection.peer, connection.next_stream
        connection.next_stream += 2
        path = peer.paths[number // 2 % len(peer.paths)]
        body = b"" if peer.message is None else grpc_message(peer.message)
        ends = peer.message is not None and peer.sent_share == 1
        stream = _Stream(body[: round(len(body) * peer.sent_share)], ends, connection.first_window)
        connection.streams[number] = stream
        connection.unsent += frame(_HEADERS, _END_HEADERS, number, header_block(path, peer.token))
        self._flush(connection, number, stream)
        self.began += 1
        if peer.cancel_s:
            self._later(connection, number, peer.cancel_s)

    def _cancel(self, connection: _Connection, *, number: int) -> None:
        if number in connection.streams:
            connection.unsent += frame(_RST, 0, number, _CANCEL)
            self._end(connection, number)

    def _flush(self, connection: _Connection, number: int, stream: _Stream) -> None:
        """Send as much of a message as the server's windows let through."""
        while stream.body:
            size = min(len(stream.body), _FRAME_SIZE, stream.window, connection.window)
            if size <= 0:
                return
            part, stream.body = stream.body[:size], stream.body[size:]
            stream.window -= size
            connection.window -= size
            self.sent += size
            flags = _END_STREAM if stream.ends and not stream.body else 0
            connection.unsent += frame(_DATA, flags, number, part)

    def _end(self, connection: _Connection, number: int) -> None:
        """Forget a call that ended, and begin another one later."""
        if connection.streams.pop(number, None) is not None:
            self._later(connection, 0, connection.peer.again_s * random.uniform(0.8, 1.2))

    def _later(self, connection: _Connection, number: int, after_s: float) -> None:
        heapq.heappush(self._due, (time.monotonic() + after_s, next(self._numbers), connection, number))

    def _lose(self, connection: _Connection) -> None:
        connection.is_open = False
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open.discard(connection)
        self.closed += 1
        again_s = time.monotonic() + connection.peer.again_s
        heapq.heappush(self._lost, (again_s, next(self._numbers), connection.peer, True))

    def _read(self, connection: _Connection) -> None:
        arrived = connection.socket.recv(1 << 16)
        if not arrived:
            raise ConnectionError("server closed the connection")
        if not connection.peer.speaks:
            return  # a server of HTTP/2 speaks first; an answer would be one that the peer does not give
        buffer, at = connection.buffer + arrived, 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3])
            if at + 9 + size > len(buffer):
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9]) & 0x7FFFFFFF
            self._frame(connection, kind, flags, number, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        connection.buffer = buffer[at:]

    def _frame(self, connection: _Connection, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == _GOAWAY:
            raise ConnectionError("server ends the connection")
        if kind == _PING and flags & _ACK:
            connection.answered_ping = True
        elif kind == _PING:
            connection.unsent += frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                setting, value = struct.unpack_from(">HI", payload, at)
                if setting == 4:
                    for stream in connection.streams.values():
                        stream.window += value - connection.first_window
                    connection.first_window = value
            connection.unsent += frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _WINDOW:
            (more,) = struct.unpack(">I", payload)
            if number == 0:
                connection.window += more
            elif number in connection.streams:
                connection.streams[number].window += more
            for one, stream in list(connection.streams.items()):
                self._flush(connection, one, stream)
        elif kind == _RST or (kind in (_HEADERS, _DATA) and flags & _END_STREAM):
            if number in connection.streams:
                self.ended += 1
            self._end(connection, number)


def header_block(path: str, token: str) -> bytes:
    """Return the headers of a call as a header block without compression (RFC 7541, 6.2.2)."""
    fields = [(":path", path), (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")]
    if token:
        fields.append(("authorization", f"Bearer {token}"))
    return b"\x83\x86" + b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127, "longer texts need a length of several bytes"
    return bytes((len(raw),)) + raw
