"""Answers over HTTP: what caches may keep, what browsers may show to other origins, and how an error looks."""

import http.client
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cases.daemons import Running, make_running, serve
from cases.fakes import HANG_S, FaultyStore
from cases.http_requests import Response, get, latest, start_busy_daemon
from cases.services import services
from consentd.core import tiles
from consentd.ledger import layout

PUBLIC = ["/checkpoint", "/tile/0/000", "/tile/0/001.p/9", "/tile/1/000.p/1", "/tile/0/999", "/tile/x", "/pruned"]
WITH_TOKEN = ["/tile/entries/000", "/kept/000"]
SHARED = [*PUBLIC, *WITH_TOKEN]
NOT_SHARED = ["/metrics", "/healthz"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(start_busy_daemon(tmp_path_factory.mktemp("http")))


# -- other origins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLIC)
def test_browsers_may_show_what_is_public_to_every_origin(running: Running, path: str) -> None:
    for headers in ({}, {"Origin": "https://elsewhere.example"}):
        answer = get(running, path, **headers)
        assert answer.headers.get_all("Access-Control-Allow-Origin") == ["*"]
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] is None
    assert get(running, path, method="HEAD").headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("path", WITH_TOKEN)
def test_a_page_of_every_origin_may_read_entries_with_a_token_that_it_has(running: Running, path: str) -> None:
    for who, status in ((None, 401), ("clinic-b", 403), ("pipc", 200 if "entries" in path else 404)):
        answer = get(running, path, who=who, Origin="https://elsewhere.example")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
        assert answer.headers["Access-Control-Allow-Credentials"] is None
        assert "public" not in answer.headers["Cache-Control"]


def test_also_when_nothing_or_a_part_is_sent(running: Running) -> None:
    tag = get(running, "/tile/0/000").headers["ETag"]
    asked = [("If-None-Match", tag, 304), ("Range", "bytes=0-31", 206), ("Range", "bytes=9999-", 416)]
    for name, value, status in asked:
        answer = get(running, "/tile/0/000", **{name: value})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")


def test_also_while_the_daemon_starts(running: Running) -> None:
    kept, running.daemon.service_state.services = running.daemon.service_state.services, None
    try:
        answer = get(running, "/tile/0/000")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (503, "*")
        assert answer.headers["Cache-Control"] == "no-store"
    finally:
        running.daemon.service_state.services = kept


@pytest.mark.parametrize("path", SHARED)
def test_a_browser_that_asks_before_it_fetches_is_answered(running: Running, path: str) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    answer = get(running, path, method="OPTIONS", **asked, **{"Access-Control-Request-Headers": "authorization, range"})
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, If-None-Match, If-Range, Range"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Access-Control-Allow-Credentials"] is None


@pytest.mark.parametrize("path", NOT_SHARED)
def test_other_pages_are_for_their_own_origin(running: Running, path: str) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        answer = get(running, path, who="pipc", method=method, **asked)
        assert answer.headers["Access-Control-Allow-Origin"] is None
    assert answer.status == 405


# -- caches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tile/0/000", "/checkpoint"])
def test_no_cache_keeps_that_a_range_is_outside(running: Running, path: str) -> None:
    answer = get(running, path, Range="bytes=100000-")
    assert (answer.status, answer.headers["Cache-Control"]) == (416, "no-store")


def test_head_knows_no_range(running: Running) -> None:
    whole = get(running, "/tile/0/000")
    head = get(running, "/tile/0/000", method="HEAD", Range="bytes=0-31")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(whole.body)))
    assert head.headers["Content-Range"] is None


def test_only_private_caches_keep_what_is_not_published(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    running.enrol("SYN-000001")
    running.wait_published()  # no entry is left that a later checkpoint would publish, while the test says that none is
    point = latest(running)
    checkpoints = services(running).sequencer.checkpoints
    checkpoints.published, published = None, checkpoints.published
    try:
        path = f"/tile/0/000.p/{point.size}"
        answer = get(running, path, who="operator")
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, max-age=31536000, immutable")
        for who in (None, "app"):
            answer = get(running, path, who=who)
            assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
    finally:
        checkpoints.published = published
    running.stop()


@pytest.mark.parametrize("length", [0, 1, 31, 32, 256 * 32 - 1])
def test_a_tile_that_is_too_short_is_an_error(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    ledger = services(running).ledger
    damaged = {layout.tile_key(0, 0), layout.tile_key(1, 0)}
    read = ledger.store.get

    class Damaged(FaultyStore):
        def get(self, key: bytes) -> bytes | None:
            found = read(key)
            return found[:length] if found is not None and key in damaged else found

    monkeypatch.setattr(ledger, "store", Damaged(ledger.store))
    for path in ("/tile/0/000", f"/tile/1/000.p/{latest(running).size // tiles.TILE_WIDTH}"):
        answer = get(running, path)
        if path == "/tile/0/000" or length < 32:
            assert (answer.status, answer.body) == (500, b"internal error\n")
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["ETag"] is None
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    monkeypatch.undo()
    assert get(running, "/tile/0/000").status == 200


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404), ("GET", "/tile", 404), ("GET", "/checkpoint/", 404), ("GET", "/", 404),
        ("GET", "//checkpoint", 404), ("GET", "/%63heckpoint", 404), ("GET", "/tile/../checkpoint", 404),
        ("GET", "/tile/0/%30%30%30", 404), ("GET", "/pruned", 404), ("GET", "/CHECKPOINT", 404),
        ("POST", "/checkpoint", 405), ("DELETE", "/tile/0/000", 405), ("PUT", "/metrics", 405),
        ("PATCH", "/healthz", 405), ("GET", "/tile/entries/000", 401), ("POST", "/nothing", 404),
    ],
)  # fmt: skip
def test_errors_are_text_that_no_cache_keeps(running: Running, method: str, path: str, status: int) -> None:
    answer = get(running, path, method=method)
    assert (answer.status, answer.headers["Cache-Control"]) == (status, "no-store")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.body.endswith(b"\n")
    assert b"<" not in answer.body


def test_a_connection_gives_many_answers(running: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.daemon.http_port, timeout=HANG_S)
    with closing(connection):
        for path in ["/checkpoint", "/nothing", "/tile/0/000", "/tile/entries/000"] * 3:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.read()
            assert Response(answer.status, answer.headers, b"").headers["Server"] == "consentd"
            assert answer.headers["Date"]
            assert answer.headers["Connection"] is None
