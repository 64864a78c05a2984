"""The daemon behind nginx with a cache, Go's reverse proxy, and Envoy: nobody gets what another asked for."""

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from cases.daemons import Running, serve
from cases.fakes import HANG_S
from cases.http_proxies import ENVOY, GO, NGINX, build_go_proxy, envoy, go_proxy, nginx
from cases.http_requests import Response, start_busy_daemon
from cases.smuggling import variants

pytestmark = pytest.mark.slow

PATHS = [
    "/tile/0/000", "/tile/0/001", "/tile/0/000.p/7", "/tile/0/999", "/tile/1/000.p/1", "/checkpoint", "/nothing",
    "/tile/entries/000",
]  # fmt: skip
PROXIES = ["nginx", "nginx without buffers", "go", "envoy"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(start_busy_daemon(tmp_path_factory.mktemp("http")))


@pytest.fixture(scope="module", params=PROXIES)
def port(request: pytest.FixtureRequest, running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a proxy in front of the daemon."""
    directory, upstream = tmp_path_factory.mktemp("proxy"), running.daemon.http_port
    if request.param == "go":
        if GO is None:
            pytest.skip("go is not installed")
        with go_proxy(build_go_proxy(directory), upstream) as port:
            yield port
        return
    if request.param == "envoy":
        if ENVOY is None:
            pytest.skip("Envoy is not installed")
        with envoy(directory, upstream) as port:
            yield port
        return
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with nginx(directory / "nginx", upstream, buffering=request.param == "nginx") as port:
        yield port


def fetch(port: int, path: str, *, method: str = "GET", **headers: str) -> Response:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, end our side, and return all that comes."""
    received = b""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=HANG_S)) as peer, suppress(ConnectionError):
        peer.sendall(data)
        received = peer.recv(65_536)
        peer.shutdown(socket.SHUT_WR)
        while piece := peer.recv(65_536):
            received += piece
    return received


def what_everybody_gets(port: int, *more: str) -> dict[str, tuple[int, bytes]]:
    """Return status and body of each path; the checkpoint's body has a time, and is left out."""
    answers = {path: fetch(port, path) for path in (*PATHS, *more)}
    return {path: (one.status, b"" if path == "/checkpoint" else one.body) for path, one in answers.items()}


@pytest.mark.parametrize("name", variants())
def test_a_request_in_a_request_poisons_nothing(running: Running, port: int, name: str) -> None:
    n = 1 + list(variants()).index(name)
    # Nobody has asked for these paths before. So the proxy asks the daemon, and keeps what it takes for the answer.
    fresh = [f"/tile/0/001.p/{n}", f"/tile/0/002.p/{n}", f"/tile/0/000.p/{100 + n}", f"/tile/0/900.p/{n}"]
    right = what_everybody_gets(running.daemon.http_port, *fresh)
    assert [status for status, _ in right.values()] == [200, 200, 200, 404, 200, 200, 404, 401, 200, 200, 200, 404]
    for outer, hidden in ((fresh[0], fresh[1]), (fresh[3], fresh[2]), (fresh[2], fresh[3]), ("/nothing", fresh[1])):
        exchange(port, variants(outer, hidden)[name])
        assert what_everybody_gets(port) == {path: right[path] for path in PATHS}
    assert what_everybody_gets(port, *fresh) == right


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_the_cache_keeps_what_it_may(running: Running, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", running.daemon.http_port) as port:
        for path, kept in (("/tile/0/000.p/201", "HIT"), ("/tile/0/003.p/999", "MISS"), ("/healthz", "MISS")):
            answers = [fetch(port, path) for _ in range(2)]
            assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", kept]
            assert (answers[0].status, answers[0].body) == (answers[1].status, answers[1].body)
            assert answers[1].headers["Access-Control-Allow-Origin"] == (None if path == "/healthz" else "*")
        for _ in range(2):
            answer = fetch(port, "/tile/entries/000", Authorization=f"Bearer {running.tokens['pipc']}")
            assert (answer.status, answer.headers["X-Cache"]) == (200, "MISS")
        assert fetch(port, "/tile/entries/000").status == 401
        assert fetch(port, "/tile/0/000.p/201", Range="bytes=0-31").status == 206
        assert fetch(port, "/tile/0/000.p/201").headers["Content-Length"] == str(201 * 32)
        assert fetch(port, "/tile/0/002.p/9", Range="bytes=9999-").status == 416
        assert fetch(port, "/tile/0/002.p/9").status == 200


def test_a_hundred_at_once_are_answered(running: Running, port: int) -> None:
    """Each asks for another tile, so no cache answers."""
    with ExitStack() as stack:
        peers = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=HANG_S)))
            for _ in range(100)
        ]
        for n, peer in enumerate(peers, 1):
            peer.sendall(f"GET /tile/0/002.p/{n} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        for n, peer in enumerate(peers, 1):
            received = b""
            while piece := peer.recv(65_536):
                received += piece
            assert re.match(rb"HTTP/1.1 200", received)
            assert len(received.split(b"\r\n\r\n", 1)[1]) == 32 * n


def test_honest_requests_beside_hostile_ones_are_answered(running: Running, port: int) -> None:
    """The connections to the daemon are shared: what one client sends never changes the answer to another."""
    right = what_everybody_gets(running.daemon.http_port)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(5):
            found = what_everybody_gets(port)
            if found != right:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for data in variants("/tile/0/001", "/tile/0/999").values():
        exchange(port, data)
    for thread in threads:
        thread.join()
    assert wrong == []
