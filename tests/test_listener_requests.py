"""What the HTTP listener takes for a request: one request in, one answer out, or the connection ends."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from cases.fakes import HANG_S
from cases.smuggling import HIDDEN, variants
from consentd.listener.app import REST, App, Page
from consentd.listener.messages import HttpRequest, HttpResponse, text_response
from consentd.listener.server import MAX_HEAD, Listener

MAX_BODY = 100_000


class Asked:
    """A listener, and the requests that reached its pages."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        pages = [Page(path=f"/{REST}", respond=self.answer, method=method) for method in ("GET", "POST")]
        self.listener = Listener(("127.0.0.1", 0), App(pages), idle_s=HANG_S, max_body=MAX_BODY)

    def answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        return text_response(200, request.path)

    def send(self, data: bytes, *, then: bytes = b"") -> bytes:
        """Send *data*, and after the first bytes of an answer *then*; return what comes until the connection ends."""
        received = b""
        with closing(socket.create_connection(("127.0.0.1", self.listener.port), timeout=HANG_S)) as peer:
            with suppress(ConnectionError):
                peer.sendall(data)
                received = peer.recv(65_536)
                peer.sendall(then)
                peer.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while piece := peer.recv(65_536):
                    received += piece
        return received


@pytest.fixture
def asked() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.listener.stop()


def statuses(received: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"^HTTP/1\.1 (\d{3})", received, re.MULTILINE)]


@pytest.mark.parametrize("names", [("Authorization", "Authorization"), ("authorization", "AUTHORIZATION")])
def test_two_credentials_are_refused(asked: Asked, names: tuple[str, str]) -> None:
    first, second = (f"{name}: Bearer {token}\r\n" for name, token in zip(names, ("one", "two"), strict=True))
    for more in (first + second, first + "Range: bytes=0-1\r\n" + second, first + first):
        assert statuses(asked.send(f"GET / HTTP/1.1\r\nHost: here\r\n{more}\r\n".encode())) == [400]
    assert asked.requests == []


def test_a_header_that_is_repeated_is_a_list(asked: Asked) -> None:
    asked.send(b"GET / HTTP/1.1\r\nHost: here\r\nIf-None-Match: \"a\"\r\nX: 1\r\nif-none-match: \"b\"\r\n\r\n")
    assert asked.requests[0].headers.get("If-None-Match") == '"a", "b"'


@pytest.mark.parametrize("name", variants())
def test_a_request_in_a_request_is_none(asked: Asked, name: str) -> None:
    received = asked.send(variants()[name])
    answers = [status for status in statuses(received) if status != 100]
    assert len(answers) == 1
    assert len(asked.requests) == (answers[0] == 200)
    assert HIDDEN not in [request.path for request in asked.requests]
    for request in asked.requests:
        assert name in READ
        assert (request.path, len(request.body)) == ("/x", READ[name])


READ = {
    "body of POST": len(b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"),
    "coding with an underscore": 0,
    "upgrade": 0,
    "end of the connection, and a request": 0,
    "a request before the answer": 0,
}
"""The variants that have one meaning: bytes of the body."""


@pytest.mark.parametrize("path", ["/x", "/%78", "/x?/y", "//x", "/./x", "/a/../x", "/x;y", "/x%00", "/x%2fy"])
def test_a_path_is_what_was_sent(asked: Asked, path: str) -> None:
    assert statuses(asked.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())) == [200]
    assert [request.path for request in asked.requests] == [path.split("?")[0]]


def test_requests_one_after_the_other_are_answered(asked: Asked) -> None:
    received = asked.send(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n", then=b"GET /y HTTP/1.1\r\nHost: x\r\n\r\n")
    assert statuses(received) == [200, 200]


def test_a_peer_may_end_its_side_after_its_request(asked: Asked) -> None:
    with closing(socket.create_connection(("127.0.0.1", asked.listener.port), timeout=HANG_S)) as peer:
        peer.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_versions_that_are_spoken(asked: Asked, version: str) -> None:
    assert statuses(asked.send(f"GET /x HTTP/{version}\r\nHost: x\r\n\r\n".encode())) == [200]


def test_http_1_0_needs_no_host(asked: Asked) -> None:
    received = asked.send(b"GET /x HTTP/1.0\r\n\r\n")
    assert statuses(received) == [200]
    assert b"connection: close" in received


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "9.9", "1.10", "x"])
def test_the_versions_that_are_not_spoken(asked: Asked, version: str) -> None:
    assert statuses(asked.send(f"GET /x HTTP/{version}\r\nHost: x\r\n\r\n".encode()))[0] in (400, 505)
    assert asked.requests == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10 * MAX_HEAD, 431),
        (b"GET /x HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * (MAX_HEAD // 6) + b"\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (MAX_HEAD // 2) + b"\r\n\r\n", 200),
        (b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000), 200),
        (b"DELETE /x HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"BREW /x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_sizes_and_methods_are_limited(asked: Asked, head: bytes, status: int) -> None:
    received = asked.send(head)
    assert statuses(received) == [status]
    assert (status == 200) is bool(asked.requests)
    assert status == 200 or b"cache-control: no-store" in received.lower()
    assert status == 200 or b"text/plain" in received
