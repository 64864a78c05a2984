"""Send gRPC calls over HTTP/2 from one Python thread, faster than a server can answer them.

gRPC's own Python client needs as much time for a call as the server, so it cannot use up a server's capacity. Here
requests are serialised before the measurement begins, and to send one means to send two prepared frames. An answer is
kept as bytes and decoded after the measurement. This is a load generator and no complete client: it reads no headers,
and counts a stream without a message as a failure.

Header blocks use the dynamic table: the first request on a connection adds its headers to the table, and later
requests refer to them by index (RFC 7541, 6.1 and 6.2.1). Frames: RFC 9113, 4 and 6.
"""

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_MAX_WINDOW = (1 << 31) - 1
_INITIAL_WINDOW_SETTING, _FRAME_SIZE = 4, 16_384
_REPLENISH = 1 << 29
_HEAD = Struct(">BHBBI")  # length as u8 ‖ u16, type, flags, stream
_SETTING = Struct(">HI")
_U32 = Struct(">I")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def grpc_message(message: bytes) -> bytes:
    """Return a message in gRPC's frame: a zero byte (not compressed), the length as u32, the message."""
    return b"\0" + _U32.pack(len(message)) + message


def _literal(name: str, value: str) -> bytes:
    """Return a header field, not compressed, that is added to the dynamic table."""
    return b"\x40" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    length, rest = [127], len(raw) - 127
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*length, rest)) + raw


@dataclass(slots=True)
class _Unsent:
    """The part of a body that was not sent yet, and how many bytes the window of its stream lets through."""

    body: bytes
    window: int


class Connection:
    """One connection. ``send`` begins a call; ``receive`` yields ended calls as (number, message or None)."""

    def __init__(self, host: str, port: int, path: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        """Connect; every call goes to *path* with the bearer *token*, or with none if it is empty.

        *tls* makes the connection one of TLS; a certificate that it holds is shown to the server.
        """
        plain = socket.create_connection((host, port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        entered = [
            (":path", path),
            (":authority", f"{host}:{port}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        if token:
            entered.append(("authorization", f"Bearer {token}"))
        self._headers = b"\x83\x86" + b"".join(_literal(*field) for field in entered)
        # The last field that was added has index 62. Pseudo-fields come before the others (RFC 9113, 8.3).
        self._short_headers = b"\x83\x86" + bytes(0x80 | 62 + location for location in reversed(range(len(entered))))
        self._next = 1
        self._buffer = b""
        self._open: dict[int, tuple[int, list[bytes]]] = {}
        self._window = 65_535
        self._stream_window = 65_535
        self._unsent: dict[int, _Unsent] = {}
        self._received = 0
        settings = _SETTING.pack(_INITIAL_WINDOW_SETTING, _MAX_WINDOW)
        self.socket.sendall(
            _PREFACE + frame(_SETTINGS, 0, 0, settings) + frame(_WINDOW, 0, 0, _U32.pack(_MAX_WINDOW - 65_535))
        )

    @property
    def in_flight(self) -> int:
        """Return how many calls are under way."""
        return len(self._open)

    def send(self, location: int, body: bytes) -> None:
        """Begin a call with *body*, as ``grpc_message`` made it; *place* names it in ``receive``."""
        stream, self._next = self._next, self._next + 2
        self._open[stream] = (location, [])
        head = frame(_HEADERS, _END_HEADERS, stream, self._headers)
        self._headers = self._short_headers
        if len(body) <= min(self._window, self._stream_window, _FRAME_SIZE) and not self._unsent:
            self._window -= len(body)
            self.socket.sendall(head + frame(_DATA, _END_STREAM, stream, body))
        else:
            self.socket.sendall(head)
            self._unsent[stream] = _Unsent(body, self._stream_window)
            self._flush()

    def _flush(self) -> None:
        """Send what the windows of the connection and of the streams let through (RFC 9113, 5.2)."""
        frames = []
        for stream, unsent in list(self._unsent.items()):
            while (room := min(self._window, unsent.window, _FRAME_SIZE)) > 0:
                part, unsent.body = unsent.body[:room], unsent.body[room:]
                self._window -= len(part)
                unsent.window -= len(part)
                frames.append(frame(_DATA, 0 if unsent.body else _END_STREAM, stream, part))
                if not unsent.body:
                    del self._unsent[stream]
                    break
        self.socket.sendall(b"".join(frames))

    def receive(self) -> Iterator[tuple[int, bytes | None]]:
        """Read what has come and yield the calls that ended; a message is None where the call failed.

        Raises:
            ConnectionError: the server closed the connection, or will not go on.
        """
        arrived = self._read()
        buffer, at = self._buffer + arrived, 0
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + 9 + (high << 16 | low)
            if end > len(buffer):
                break
            if kind == _DATA:
                assert not flags & _PADDED, "padded frames are not read"
                if stream in self._open:
                    self._open[stream][1].append(buffer[at + 9 : end])
                self._received += end - at
            elif kind not in (_HEADERS, _RST):
                self._control(kind, flags, stream, buffer[at + 9 : end])
            is_end = kind == _RST or (flags & _END_STREAM and kind in (_DATA, _HEADERS))
            if is_end and stream in self._open:  # a stream that ended before its message was read is also reset
                location, parts = self._open.pop(stream)
                self._unsent.pop(stream, None)
                body = b"".join(parts)
                yield location, body[5:] if body else None
            at = end
        self._buffer = buffer[at:]

    def _read(self) -> bytes:
        """Return the bytes that have come. Raises ``ConnectionError`` if the server closed the connection.

        Over TLS one read returns one record at most, and bytes that OpenSSL holds do not make the socket readable. So
        this reads until nothing is left. A record of TLS itself, such as a session ticket, has no bytes for the caller.
        """
        if not isinstance(self.socket, ssl.SSLSocket):
            arrived = self.socket.recv(1 << 18)
            if not arrived:
                raise ConnectionError("server closed the connection")
            return arrived
        parts: list[bytes] = []
        self.socket.settimeout(0)
        try:
            while part := self.socket.recv(1 << 14):
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts)
        finally:
            self.socket.settimeout(None)
        raise ConnectionError("server closed the connection")

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), _SETTING.size):
                setting, value = _SETTING.unpack_from(payload, at)
                if setting == _INITIAL_WINDOW_SETTING:
                    for unsent in self._unsent.values():
                        unsent.window += value - self._stream_window
                    self._stream_window = value
            self.socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
            self._flush()
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW:
            more = _U32.unpack(payload)[0]
            if not stream:
                self._window += more
            elif stream in self._unsent:
                self._unsent[stream].window += more
            self._flush()
        elif kind == _GOAWAY:
            raise ConnectionError("server will not go on")
        if self._received > _REPLENISH:
            self.socket.sendall(frame(_WINDOW, 0, 0, _U32.pack(self._received)))
            self._received = 0

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
