"""Conditional and range requests, as RFC 9110 has them, by themselves and on a running daemon."""

from collections.abc import Iterator

import pytest

from cases.daemons import Running, serve
from cases.http_requests import get, latest, start_busy_daemon
from consentd.core import tiles
from consentd.server.http import conditional_response, entity_tag

BODY = bytes(range(100))
TAG = entity_tag(BODY)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(start_busy_daemon(tmp_path_factory.mktemp("http")))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("0-9", 0, 9), ("90-", 90, 99), ("-5", 95, 99), ("95-1000", 95, 99), ("-1000", 0, 99), ("0-0", 0, 0)],
)
def test_a_range_is_sent_alone(asked: str, first: int, last: int) -> None:
    status, part, headers = conditional_response(BODY, {"Range": f"bytes={asked}"})
    assert (status, part) == (206, BODY[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/100"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=1-2,4-5", "bytes=-", "lines=1-2", "bytes=a-b", "bytes= 1-2"])
def test_a_range_that_is_none_is_passed_over(asked: str) -> None:
    assert conditional_response(BODY, {"Range": asked})[:2] == (200, BODY)


@pytest.mark.parametrize("asked", ["100-", "1000-2000", "-0"])
def test_a_range_behind_the_end_is_refused(asked: str) -> None:
    status, part, headers = conditional_response(BODY, {"Range": f"bytes={asked}"})
    assert (status, part, headers["Content-Range"]) == (416, b"", "bytes */100")


@pytest.mark.parametrize("known", [TAG, f"W/{TAG}", f'"other", {TAG}', "*"])
def test_what_is_known_is_not_sent_again(known: str) -> None:
    status, part, headers = conditional_response(BODY, {"If-None-Match": known, "Range": "bytes=0-9"})
    assert (status, part, headers["ETag"]) == (304, b"", TAG)


def test_what_is_known_otherwise_is_sent() -> None:
    assert conditional_response(BODY, {"If-None-Match": '"other"'})[:2] == (200, BODY)
    assert conditional_response(BODY, {"Range": "bytes=0-9", "If-Range": TAG})[0] == 206
    for other in ('"other"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert conditional_response(BODY, {"Range": "bytes=0-9", "If-Range": other})[:2] == (200, BODY)


@pytest.mark.parametrize("path", ["/tile/0/000", "/tile/0/001.p/9", "/tile/1/000.p/1", "/tile/entries/000"])
def test_tiles_and_bundles_have_tags_and_ranges(running: Running, path: str) -> None:
    whole = get(running, path, who="pipc")
    assert (whole.status, whole.headers["Accept-Ranges"]) == (200, "bytes")
    assert "immutable" in whole.headers["Cache-Control"]
    assert ("private" in whole.headers["Cache-Control"]) is ("entries" in path)
    again = get(running, path, who="pipc", **{"If-None-Match": whole.headers["ETag"]})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", whole.headers["ETag"])
    assert again.headers["Content-Length"] is None
    part = get(running, path, who="pipc", Range="bytes=3-12")
    assert (part.status, part.body, part.headers["Content-Length"]) == (206, whole.body[3:13], "10")
    head = get(running, path, who="pipc", method="HEAD")
    assert (head.status, head.body, head.headers["ETag"]) == (200, b"", whole.headers["ETag"])
    assert head.headers["Content-Length"] == str(len(whole.body))


def test_a_checkpoint_is_known_while_it_is_the_last(running: Running) -> None:
    whole = get(running, "/checkpoint")
    assert whole.headers["Cache-Control"] == "public, max-age=1"
    assert get(running, "/checkpoint", **{"If-None-Match": whole.headers["ETag"]}).status == 304
    assert get(running, "/checkpoint", **{"If-None-Match": '"other"'}).body == whole.body


def test_what_is_not_there_is_not_kept_in_caches(running: Running) -> None:
    """A tile that is missing today may be there tomorrow."""
    n = latest(running).size // tiles.TILE_WIDTH + 1
    missing = get(running, "/" + tiles.tile_path(0, n))
    assert (missing.status, missing.headers["Cache-Control"]) == (404, "no-store")
    assert get(running, "/tile/entries/000").headers["Cache-Control"] == "no-store"
