"""A proxy on loopback in front of a gRPC server, which spoils chosen calls as bad networks do.

It reads the frames of HTTP/2 that pass (RFC 9113, section 4.1). So it knows where a call begins, and which bytes are
messages of the call's answer. Nothing here sleeps but a fault of time: such a connection passes its bytes slowly or not
at all, until the client ends it or the proxy is stopped.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_PREFACE = 24
"""Bytes that a client sends before its first frame."""
_DATA, _HEADERS, _END_STREAM = 0, 1, 1
_DRIP_S = 0.02
_PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\n\r\nBad Gateway"


@dataclass(frozen=True, slots=True)
class Spoil:
    """How a call is spoiled, and where.

    Attributes:
        how: cut, reset, stall, drip (slowly, and the last byte never), or page (an HTTP/1.1 page in place of what
            follows).
        after: as many bytes of the answer's messages pass; at the latest the fault comes before the call's status.
            None: the request does not reach the server.
    """

    how: str
    after: int | None = None

    @property
    def is_slow(self) -> bool:
        """Whether only a time limit ends the call."""
        return self.how in ("stall", "drip")


WHOLE = 1 << 60
"""As ``Spoil.after``: all messages of the answer pass, and its status does not."""
REQUESTS = tuple(Spoil(how) for how in ("cut", "reset", "stall", "page"))
"""Faults before a request has reached the server."""
HOWS = ("cut", "reset", "stall", "drip", "page")
"""Faults in an answer."""


def answers(*positions: int) -> tuple[Spoil, ...]:
    """Return each fault of an answer at each of these positions, and before the status."""
    return tuple(Spoil(how, after) for how in HOWS for after in (*positions, WHOLE))


class FaultyProxy:
    """Passes connections on to a port of this machine. Use as a context manager.

    Attributes:
        spoil_of: returns how the call of a number, from 0, is spoiled; None: it passes.
        call_count: how many calls came since ``spoil``.
        answer_bytes: by call, how many bytes of its answer's messages came.
        stalled: set once a call stalls or drips; cleared by ``spoil``.
        target: the address for clients.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.spoil_of: Callable[[int], Spoil | None] = lambda number: None
        self.call_count = 0
        self.answer_bytes: dict[int, int] = {}
        self.lock = threading.Lock()
        self.is_stopping = threading.Event()
        self.stalled = threading.Event()
        self._connections: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.target = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self.start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread in `accept`, which closing does not
        self.spoil()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def spoil(self, spoil_of: Callable[[int], Spoil | None] = lambda number: None) -> None:
        """Spoil calls like this from now on, and count them from 0 again. All connections end."""
        with self.lock:
            self.spoil_of, self.call_count, self.answer_bytes = spoil_of, 0, {}
            self.stalled.clear()
            connections, self._connections = self._connections, []
        for one in connections:
            one.end()

    def start(self, run: Callable[[], None]) -> None:
        """Run a function on a thread that ends with the proxy."""
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def next_call(self) -> tuple[int, Spoil | None]:
        """Return the number of a call that begins, and how it is spoiled."""
        with self.lock:
            number, self.call_count = self.call_count, self.call_count + 1
            return number, self.spoil_of(number)

    def _accept(self) -> None:
        with suppress(OSError):
            while not self.is_stopping.is_set():
                client, _ = self._listening.accept()
                connection = _Connection(self, client, socket.create_connection(("127.0.0.1", self.port)))
                with self.lock:
                    self._connections.append(connection)
                self.start(connection.pass_requests)
                self.start(connection.pass_answers)


class _Connection:
    """A connection, with a thread for each direction.

    The thread of the requests closes the client's socket, and that of the answers the server's, which also owns
    ``_passed``.
    """

    def __init__(self, proxy: FaultyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._calls: dict[int, tuple[int, Spoil | None]] = {}  # by stream; assigned before its request passes
        self._passed: dict[int, int] = {}
        self._is_stalled = threading.Event()
        self._is_reset = threading.Event()

    def end(self, how: int = socket.SHUT_RDWR) -> None:
        """Shut both sides down, the client's as *how* says. The threads end then."""
        with suppress(OSError):
            self._client.shutdown(how)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)

    def pass_requests(self) -> None:
        """Pass what the client sends, until one side ends."""
        with suppress(OSError):
            self._server.sendall(_read(self._client, _PREFACE))
            while frame := _read_frame(self._client):
                if self._is_stalled.is_set():
                    continue
                if frame.kind == _HEADERS and frame.stream not in self._calls:
                    self._calls[frame.stream] = call = self._proxy.next_call()
                    if call[1] is not None and call[1].after is None:
                        self._strike(call[1].how, b"")
                        continue
                self._server.sendall(frame.raw)
        self.end(socket.SHUT_RD)
        self._client.close()

    def pass_answers(self) -> None:
        """Pass what the server sends, until one side ends."""
        with suppress(OSError):
            while frame := _read_frame(self._server):
                if not self._is_stalled.is_set():
                    self._pass_answer(frame)
        self.end(socket.SHUT_RD if self._is_reset.is_set() else socket.SHUT_RDWR)
        self._server.close()

    def _pass_answer(self, frame: "_Frame") -> None:
        number, spoil = self._calls.get(frame.stream, (-1, None))
        before = self._passed.get(frame.stream, 0)
        if frame.kind == _DATA:
            self._passed[frame.stream] = before + len(frame.payload)
            self._proxy.answer_bytes[number] = self._passed[frame.stream]
        is_status = frame.kind == _HEADERS and bool(frame.flags & _END_STREAM)
        if spoil is None or spoil.after is None or not (is_status or frame.kind == _DATA):
            self._client.sendall(frame.raw)
        elif is_status:
            self._strike(spoil.how, frame.raw)
        elif self._passed[frame.stream] <= spoil.after:
            self._client.sendall(frame.raw)
        else:
            at = len(frame.raw) - len(frame.payload) + spoil.after - before
            self._client.sendall(frame.raw[:at])
            self._strike(spoil.how, frame.raw[at:])

    def _strike(self, how: str, rest: bytes) -> None:
        """Spoil the connection. *rest*: what the client would get next."""
        if how in ("stall", "drip"):
            self._is_stalled.set()
            self._proxy.stalled.set()
            for at in range(len(rest) - 1 if how == "drip" else 0):
                self._client.sendall(rest[at : at + 1])
                if self._proxy.is_stopping.wait(_DRIP_S):
                    break
        elif how == "reset":
            # Lingering for 0 seconds makes `close` send a reset, unless our side was shut down before.
            self._is_reset.set()
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.end(socket.SHUT_RD)
        else:
            if how == "page":
                self._client.sendall(_PAGE)
            self.end()


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes
    raw: bytes


def _read_frame(source: socket.socket) -> _Frame | None:
    """Read a frame; None at the end of the connection."""
    head = _read(source, 9)
    if len(head) < 9:
        return None
    payload = _read(source, int.from_bytes(head[:3]))
    return _Frame(head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, payload, head + payload)


def _read(source: socket.socket, count: int) -> bytes:
    """Read *count* bytes, or fewer at the end of the connection."""
    found = bytearray()
    while len(found) < count:
        piece = source.recv(count - len(found))
        if not piece:
            break
        found += piece
    return bytes(found)
