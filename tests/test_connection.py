"""One HTTP connection: whatever the other side sends, an answer ends in time and with so many bytes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from cases.fakes import HANG_S
from consentd.audit.live import LiveDaemon
from consentd.cosigning.connection import Connection
from consentd.errors import FetchError, InvalidError, StorageError

Feed = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Feed], str]]:
    """Serve one connection with a function that is given its socket; return the URL."""
    opened: list[socket.socket] = []

    def serve_with(feed: Feed) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)

        def run() -> None:
            with suppress(OSError):
                accepted, _ = listening.accept()
                opened.append(accepted)
                accepted.recv(65_536)
                feed(accepted)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve_with
    for each in opened:
        each.close()


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Feed:
    """Send a head, and a piece again and again, until the other side has gone."""
    pause = threading.Event()

    def feed(to: socket.socket) -> None:
        to.sendall(head)
        while True:
            to.sendall(piece)
            pause.wait(pause_s)

    return feed


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "feed",
    [
        endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
        endless(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x", 0.02),
        endless(CHUNKED, b"1;", 0.02),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        endless(b"", b""),
    ],
    ids=["headers", "body", "chunks", "interim", "nothing"],
)
def test_an_answer_that_does_not_end_ends_in_time(serve: Callable[[Feed], str], feed: Feed) -> None:
    connection = Connection(serve(feed), timeout_s=0.2)
    with pytest.raises(StorageError):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    "feed",
    [
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        endless(CHUNKED + b"0\r\n", b"a: b\r\n" * 100),
        endless(CHUNKED, b"2710\r\n" + b"x" * 10_000 + b"\r\n"),
    ],
    ids=["interim", "trailers", "body"],
)
def test_an_answer_that_does_not_end_is_too_large_before(serve: Callable[[Feed], str], feed: Feed) -> None:
    connection = Connection(serve(feed), timeout_s=60)
    with pytest.raises(StorageError, match="response is too large"):
        connection.request("GET", "/")


@pytest.mark.parametrize(
    "head",
    [b"Transfer-Encoding: chunked\r\n", b"", b"Content-Length: 999999999999\r\n", b"Content-Type: text/html\r\n"],
    ids=["endless", "no length", "too long", "a page"],
)
def test_a_checkpoint_that_does_not_end_is_not_read_by_an_auditor(serve: Callable[[Feed], str], head: bytes) -> None:
    feed = endless(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n")
    source = LiveDaemon(url=serve(feed), pause_s=0, timeout_s=0.5).open()
    with pytest.raises(FetchError):
        source.checkpoint()
    source.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 4\r\n\r\nabc",
        b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Content-Length: x\r\n\r\nabc",
        b"Content-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nabc",
        b"\r\nabc",
        b"Connection: close\r\n\r\nabc",
        b"",
    ],
    ids=["cut", "two", "both", "no number", "gzip", "no last chunk", "cut chunk", "none", "closing", "no head"],
)
def test_an_answer_that_is_not_known_to_be_whole_is_none(serve: Callable[[Feed], str], answer: bytes) -> None:
    def feed(to: socket.socket) -> None:
        to.sendall(b"HTTP/1.1 200 OK\r\n" + answer)
        to.shutdown(socket.SHUT_RDWR)

    with pytest.raises(FetchError):
        Connection(serve(feed), timeout_s=20).request("GET", "/")


def test_an_answer_of_pieces_is_put_together_and_the_connection_kept(serve: Callable[[Feed], str]) -> None:
    def feed(to: socket.socket) -> None:
        to.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nx: y\r\n\r\n")
        to.recv(65_536)
        to.sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\nConnection: close\r\n\r\n7\n")

    connection = Connection(serve(feed), timeout_s=20)
    assert connection.request("GET", "/").body == b"abcd"
    second = connection.request("GET", "/")
    assert (second.status, second.body) == (409, b"7\n")


def test_an_address_of_version_6_keeps_its_end() -> None:
    connection = Connection("http://[2001:db8::abc]/w", timeout_s=1)
    assert (connection.host, connection._http.host, connection._http.port) == ("2001:db8::abc", "2001:db8::abc", 80)
    assert Connection("https://witness.example/", timeout_s=1)._http.port == 443


@pytest.mark.parametrize("url", ["https://a b/", "https://a\0/", "https://a/ b", "https://a/\n", "https://a/\r\nX: y"])
def test_an_address_with_a_character_that_no_url_has_is_refused(url: str) -> None:
    with pytest.raises(InvalidError, match="URL is malformed"):
        Connection(url, timeout_s=HANG_S)
