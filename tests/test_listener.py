"""The HTTP listener: peers that connect and do nothing, or little, keep nobody else out and hold nothing for long."""

import errno
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest

from cases.fakes import HANG_S
from consentd.listener import server as module
from consentd.listener.app import REST, App, Page
from consentd.listener.messages import HttpRequest, HttpResponse, Respond, text_response
from consentd.listener.server import Listener

SHORT_S = 0.2


def answer(request: HttpRequest) -> HttpResponse:
    return text_response(200, request.path)


@contextmanager
def listening(respond: Respond = answer, **options: Any) -> Iterator[Listener]:
    pages = [Page(path=f"/{REST}", respond=respond, method=method) for method in ("GET", "POST")]
    listener = Listener(("127.0.0.1", 0), App(pages), **{"idle_s": HANG_S, **options})
    try:
        yield listener
    finally:
        listener.stop()


def connect(listener: Listener, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), timeout=HANG_S, source_address=(source, 0))


def get(listener: Listener, path: str = "/x", source: str = "127.0.0.1") -> bytes:
    client = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=HANG_S, source_address=(source, 0))
    with closing(client):
        client.request("GET", path)
        return client.getresponse().read()


def is_closed(peer: socket.socket) -> bool:
    """Wait until the listener closes a connection that was sent nothing."""
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


def wait_empty(listener: Listener) -> None:
    """Wait until the listener has no connection."""
    waited, step_s = 0.0, 0.05
    while listener.connections and waited < HANG_S:
        threading.Event().wait(step_s)
        waited += step_s
    assert listener.connections == 0


def test_idle_connections_make_room_for_new_ones_and_are_bounded() -> None:
    with listening(max_connections=8) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(100)]
        assert get(listener) == b"/x\n"
        assert listener.connections <= 8
        assert all(is_closed(peer) for peer in peers[:70])


def test_one_address_takes_half_of_the_connections() -> None:
    with listening(max_connections=16) as listener, ExitStack() as stack:
        honest = [stack.enter_context(connect(listener, "127.0.0.2")) for _ in range(3)]
        for peer in honest:  # each is accepted before the crowd comes
            peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(15) == b"HTTP/1.1 200 OK"
        crowd = [stack.enter_context(connect(listener)) for _ in range(200)]
        assert all(is_closed(peer) for peer in crowd[:100])
        for peer in honest:
            peer.sendall(b"GET /y HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"/y" not in received:
                received += peer.recv(4096)
        assert get(listener, source="127.0.0.3") == b"/x\n"


def test_a_peer_that_sends_a_byte_now_and_then_does_not_keep_its_thread() -> None:
    with listening(idle_s=SHORT_S) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nX: ")
        with suppress(ConnectionError):
            while True:
                peer.sendall(b"x")
                threading.Event().wait(SHORT_S / 4)  # sooner than the socket's own timeout
        wait_empty(listener)


def test_a_peer_that_does_not_take_its_answer_does_not_keep_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", SHORT_S)
    large = HttpResponse(200, "text/plain", bytes(64 << 20))
    with listening(lambda request: large) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(15) == b"HTTP/1.1 200 OK"
        wait_empty(listener)


def test_a_request_that_takes_long_to_answer_is_not_cut_off() -> None:
    entered, leave = threading.Event(), threading.Event()

    def respond(request: HttpRequest) -> HttpResponse:
        entered.set()
        assert leave.wait(HANG_S)
        return answer(request)

    with listening(respond, idle_s=SHORT_S, max_connections=2) as listener, connect(listener) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(HANG_S)
        for _ in range(5):  # neither the time limit nor newcomers end it
            with connect(listener) as idle:
                assert is_closed(idle)
        leave.set()
        assert peer.recv(15) == b"HTTP/1.1 200 OK"


def test_a_listener_survives_a_lack_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    with listening() as listener:
        accept, lacks = listener._socket, [3]

        class Lacking:
            """A listening socket whose first connections cannot be accepted."""

            def accept(self) -> Any:
                if lacks[0]:
                    lacks[0] -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return accept.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(accept, name)

        listener._socket = Lacking()  # type: ignore[assignment]
        assert get(listener) == b"/x\n"
        assert lacks == [0]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["HTTP connections cannot be accepted: Too many open files"]


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked",
        b"Content-Length: 0\r\nContent-Length: 24",
        b"Content-Length: +0",
        b"Content-Length: " + b"0" * 5_000,
    ],
)
def test_a_request_whose_end_is_not_clear_is_the_last_of_its_connection(headers: bytes) -> None:
    asked = []

    def respond(request: HttpRequest) -> HttpResponse:
        asked.append(request.path)
        return answer(request)

    with listening(respond, max_body=100) as listener, closing(connect(listener)) as peer:
        hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n0\r\n\r\n" + hidden)
        received = peer.recv(15)
        with suppress(ConnectionError):
            while peer.recv(4096):
                pass
    assert received == b"HTTP/1.1 400 Ba"
    assert asked == []
