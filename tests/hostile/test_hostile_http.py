"""HTTP is answered while hostile peers hold what they can: more of each kind than one address may have connections."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest

from cases.daemons import Running, serve
from cases.fakes import HANG_S
from cases.http_requests import get, latest, start_busy_daemon

COUNT = 150
"""How many peers of a kind; a listener has 256 connections, and 128 for one address."""
_GET = b"GET /tile/0/000 HTTP/1.1\r\nHost: x\r\n"
KINDS = {
    "says nothing": b"",
    "half of a first line": b"GET /tile",
    "half of the headers": _GET + b"X: ",
    "headers without an end": _GET + b"X: y\r\n" * 2_000,
    "half of a body": b"POST /checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
    "takes no answer": _GET + b"\r\n",
    "a thousand requests, and takes no answer": (_GET + b"\r\n") * 1_000,
    "expects to be asked for a body": b"POST /checkpoint HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1_000),
    "speaks TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "no HTTP": bytes(range(256)) * 100,
    "bundles without a credential": b"GET /tile/entries/000 HTTP/1.1\r\nHost: x\r\n\r\n",
    "metrics": b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(start_busy_daemon(tmp_path_factory.mktemp("attacked")))


@pytest.mark.parametrize("kind", KINDS)
def test_http_is_answered_beside(attacked: Running, kind: str) -> None:
    """The hostile peers have the address of the honest ones, so no limit for an address tells them apart."""
    port = attacked.daemon.http_port
    with ExitStack() as stack:
        for _ in range(COUNT):
            peer = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=HANG_S)))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            with suppress(ConnectionError):
                peer.sendall(KINDS[kind])
        assert latest(attacked).size > 900
        assert get(attacked, "/tile/0/000").status == 200
        assert get(attacked, "/tile/entries/000", who="pipc").status == 200
        assert get(attacked, "/metrics").status == 200
        http = attacked.daemon._http
        assert http is not None
        assert http.connections <= http.max_connections // 2
