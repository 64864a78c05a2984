"""One connection of HTTP/2 on which a test sends a call part by part."""

import socket
import struct
from types import TracebackType
from typing import Self

from benchmarks.http2 import frame, grpc_message
from cases.fakes import HANG_S
from hostile.crowd import header_block

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class RawConnection:
    """A connection with one call, stream 1. Use as a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=HANG_S)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def begin(self, path: str, token: str) -> None:
        """Send the headers of a call, and wait until the server has them."""
        begun = _PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, _END_HEADERS, 1, header_block(path, token))
        self._socket.sendall(begun + frame(PING, 0, 0, bytes(8)))
        self.read_until(PING)

    def send_message(self, message: bytes) -> None:
        """Send the whole message, and end the request."""
        self._socket.sendall(frame(DATA, _END_STREAM, 1, grpc_message(message)))

    def send_part(self, size: int, part: int) -> None:
        """Send the first *part* bytes of a message of *size* bytes."""
        self._socket.sendall(frame(DATA, 0, 1, grpc_message(bytes(size))[:part]))

    def read_until(self, wanted: int) -> bytes:
        """Read frames until one of this kind; return its payload."""
        while True:
            kind, flags, payload = self._read_frame()
            if kind == SETTINGS and not flags & _ACK:
                self._socket.sendall(frame(SETTINGS, _ACK, 0, b""))
            if kind == PING and not flags & _ACK:
                self._socket.sendall(frame(PING, _ACK, 0, payload))
            elif kind == wanted:
                return payload

    def read_message(self) -> bytes:
        """Return the message of the answer."""
        return self.read_until(DATA)[5:]

    def is_open(self) -> bool:
        """Return whether the server waits for the rest of the call: it answers a PING, and nothing else."""
        self._socket.sendall(frame(PING, 0, 0, b"\1" * 8))
        while True:
            kind, flags, _ = self._read_frame()
            if kind in (HEADERS, DATA, RST, GOAWAY):
                return False
            if kind == PING and flags & _ACK:
                return True

    def _read_frame(self) -> tuple[int, int, bytes]:
        size, kind, flags = struct.unpack(">3sBB", self._read(9)[:5])
        return kind, flags, self._read(int.from_bytes(size))

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            arrived = self._socket.recv(1 << 16)
            assert arrived, "the server closed the connection"
            self._buffer += arrived
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found
