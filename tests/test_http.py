"""The HTTP side: what is public and what is not, and that tiles alone rebuild the tree."""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from cases.certificates import make_authority, make_certificate
from cases.daemons import Running, make_running, question, request_id, running_daemon, serve
from cases.fakes import HANG_S, FaultyStore
from cases.http_requests import SECRET, get, latest, start_busy_daemon
from cases.services import refusal, services
from consentd.config import HttpConfig
from consentd.core import codec, merkle, tiles
from consentd.core.replay import Replay
from consentd.cosigning.keyfiles import write_private
from consentd.errors import StorageError
from consentd.metrics import Metrics
from consentd.server import http as server_http
from consentd.service.auth import format_credential, make_token
from consentd.service.servicer import ServiceState
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(start_busy_daemon(tmp_path_factory.mktemp("http")))


# -- tiles ----------------------------------------------------------------------------------------------------


def test_a_walk_over_tiles_alone_rebuilds_the_root(running: Running) -> None:
    point = latest(running)
    assert point.size > 3 * tiles.TILE_WIDTH
    hashes = {}
    for level, n in tiles.plan_root(point.size):
        whole = point.size >> (8 * level)
        width = min(tiles.TILE_WIDTH, whole - n * tiles.TILE_WIDTH)
        answer = get(running, "/" + tiles.tile_path(level, n, width))
        assert (answer.status, len(answer.body), answer.headers["Content-Type"]) == (200, 32 * width, OCTETS)
        hashes[level, n] = answer.body
    assert tiles.root(point.size, hashes) == point.root
    proof = tiles.prove_inclusion(0, point.size, hashes) if (0, 0) in hashes else []
    assert all(len(one) == merkle.HASH_SIZE for one in proof)


def test_a_walk_over_bundles_replays_the_ledger(running: Running) -> None:
    point = latest(running)
    replay = Replay()
    for start in range(0, point.size, tiles.TILE_WIDTH):
        width = min(tiles.TILE_WIDTH, point.size - start)
        answer = get(running, "/" + tiles.entries_path(start // tiles.TILE_WIDTH, width), who="pipc")
        leaves = tiles.decode_bundle(answer.body)
        assert (answer.status, len(leaves)) == (200, width)
        for leaf in leaves:
            replay.add(leaf)
        level_0 = get(running, "/" + tiles.tile_path(0, start // tiles.TILE_WIDTH, width)).body
        assert level_0 == b"".join(map(merkle.leaf_hash, leaves))
    assert replay.root() == point.root
    seal = codec.decode_leaf(leaves[-1])
    assert isinstance(seal, codec.Seal)
    assert replay.map_root() == seal.map_root


def test_a_partial_tile_is_a_prefix_of_the_whole(running: Running) -> None:
    whole = get(running, "/tile/0/000").body
    for width in (1, 2, 255):
        assert get(running, f"/tile/0/000.p/{width}").body == whole[: 32 * width]
    bundle = tiles.decode_bundle(get(running, "/tile/entries/000", who="pipc").body)
    assert tiles.decode_bundle(get(running, "/tile/entries/000.p/7", who="pipc").body) == bundle[:7]


def test_what_the_published_tree_has_not_is_not_found(running: Running) -> None:
    point = latest(running)
    n, width = point.size // 256, point.size % 256
    assert 0 < width < 255
    strange = [
        f"/tile/0/{n:03}",
        f"/tile/0/{n:03}.p/{width + 1}",
        f"/tile/0/{n + 1:03}.p/1",
        "/tile/1/000",
        f"/tile/1/000.p/{n + 1}",
        "/tile/2/000.p/1",
        "/tile/63/000.p/1",
        "/tile/64/000.p/1",
        "/tile/0/x999/x999/x999/x999/x999/x999/999",
        "/tile/0/000.p/0",
        "/tile/0/000.p/256",
        "/tile/0/000.p/257",
        "/tile/0/000.p/01",
        "/tile/00/000",
        "/tile/0/0",
        "/tile/0/000/",
        "/tile/0/x000/001",
        "/tile/0/%30%30%30",
        "/tile/-1/000",
        "/tile/data/000",
        "/tile/",
        "/tile",
    ]
    for path in strange:
        answer = get(running, path)
        assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store"), path
    for path in (f"/tile/entries/{n:03}", f"/tile/entries/{n:03}.p/{width + 1}", "/tile/entries/", "/tile/entries/0"):
        assert get(running, path, who="pipc").status == 404, path


def test_bundles_are_for_auditors(running: Running) -> None:
    path = "/tile/entries/000"
    for who in ("pipc", "operator"):
        answer = get(running, path, who=who)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, max-age=31536000, immutable")
    for who in ("app", "hospital-a", "er"):
        answer = get(running, path, who=who)
        assert (answer.status, answer.headers["Cache-Control"]) == (403, "no-store")
    unknown = ("", "Bearer", "Bearer \xff", f"bearer {running.tokens['pipc']}", "Basic eDp5")
    for answer in (get(running, path), *(get(running, path, Authorization=strange) for strange in unknown)):
        assert (answer.status, answer.headers["Cache-Control"]) == (401, "no-store")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_auditor_that_left_reads_no_bundles(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_interval_ms=20) as running:
        statement = st.ParticipantStatement(
            participant_id="pipc", name={"ko": "감사"}, roles=[st.PARTICIPANT_ROLE_AUDITOR], active=True
        )
        running.check_ledger()
        assert get(running, "/tile/entries/000.p/1", who="pipc").status == 200
        statement.active = False
        request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
        running.registry.RegisterParticipant(request, metadata=running.as_("operator"))
        assert get(running, "/tile/entries/000.p/1", who="pipc").status == 403


# -- the other pages ------------------------------------------------------------------------------------------


def test_the_checkpoint_is_the_signed_note(running: Running) -> None:
    answer = get(running, "/checkpoint")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=1")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert latest(running).size == services(running).ledger.state.size


def test_caches_may_keep_what_never_changes(running: Running) -> None:
    assert get(running, "/tile/0/000").headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert get(running, "/tile/0/000.p/3").headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for path in ("/metrics", "/healthz", "/nothing"):
        assert get(running, path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/checkpoint", "/tile/0/000", "/nothing"])
def test_head_is_get_without_a_body(running: Running, path: str) -> None:
    head, whole = get(running, path, method="HEAD"), get(running, path)
    assert (head.status, head.body) == (whole.status, b"")
    for name in ("Content-Type", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]
    if path != "/metrics":  # those grow by being read
        assert head.headers["Content-Length"] == str(len(whole.body))


def test_a_query_changes_nothing(running: Running) -> None:
    assert get(running, "/checkpoint?x=1").status == get(running, "/tile/0/000.p/3?v=2").status == 200


def test_health_says_ready_and_how_far(running: Running) -> None:
    answer = get(running, "/healthz")
    size = services(running).ledger.state.size
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "ok", "checkpoint_size": size, "ledger_size": size, "quorum": True}


def test_before_it_is_open_it_says_so_and_serves_nothing(running: Running) -> None:
    service_state = running.daemon.service_state
    kept, service_state.services = service_state.services, None
    try:
        health = get(running, "/healthz")
        assert (health.status, json.loads(health.body)["status"]) == (503, "unavailable")
        for path in ("/checkpoint", "/tile/0/000", "/tile/entries/000"):
            assert get(running, path, who="pipc").status == 503
        assert get(running, "/metrics").status == 200
    finally:
        service_state.services = kept


def test_a_ledger_that_stopped_is_not_healthy_but_its_tiles_are_there(tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    running.check_ledger()
    store = FaultyStore(services(running).ledger.store)
    services(running).ledger.store = store
    store.fail_write(persisted=True)
    assert refusal(lambda: running.enrol(SECRET)) == "STORAGE"
    # The future is answered before the thread has said that it stopped.
    services(running).sequencer._thread.join(HANG_S)
    assert isinstance(services(running).sequencer.fault, StorageError)
    assert get(running, "/healthz").status == 503
    assert get(running, "/checkpoint").status == get(running, "/tile/0/000.p/3").status == 200
    assert b"consentd_ready 0.0" in get(running, "/metrics").body
    store.fail_reads()
    assert get(running, "/tile/0/000.p/3").status == 500
    running.stop()


def test_metrics_are_prometheus_text_without_identifiers(running: Running) -> None:
    answer = get(running, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    text = answer.body.decode()
    assert 'consentd_rpcs_total{code="OK",method="BatchAuthorizeAccesses"} 1.0' in text
    assert f"consentd_ledger_size {float(services(running).ledger.state.size)}" in text
    tag = running.check(question(pb.Subject(scheme="mhid", value=SECRET))).tag
    for secret in (SECRET, tag.hex(), "mhid", *running.tokens.values()):
        assert secret not in text
    for name in ("clinic-b", "hospital-a"):
        assert name not in text


def counted(running: Running, who: str | None) -> dict[str, float]:
    """Return the counters that a scraper reads, but for those that grow by themselves."""
    text = get(running, "/metrics", who=who).body.decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    steady = re.compile("consentd_(?!checkpoints|scrub)[a-z_]*_total")
    return {name: float(figure) for name, figure in lines if steady.match(name)}


def test_metrics_show_what_a_question_hides_to_scrapers_with_a_token_only(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.tokens["scraper"] = make_token()
    line = format_credential(running.tokens["scraper"], "scraper/prometheus")
    write_private(running.config.callers.credentials_file, line, append=True)
    running.daemon.reload_credentials()
    people = [running.enrol("SYN-000001"), running.enrol("SYN-000002"), pb.Subject(scheme="mhid", value="SYN-000003")]
    running.grant(people[1], effect=pb.EFFECT_DENY, kind=pb.CONSENT_KIND_OBJECTION)
    changes: dict[str | None, list[dict[str, float]]] = {None: [], "clinic-b": [], "scraper": [], "operator": []}
    for who, seen in changes.items():
        for person in people:
            before = counted(running, who)
            running.check(question(person), "clinic-b")
            running.authorize(question(person), "clinic-b")
            after = counted(running, who)
            grown = {name: figure - before.get(name, 0) for name, figure in after.items()}
            seen.append({name: figure for name, figure in grown.items() if figure})
    for public in (None, "clinic-b"):
        assert changes[public] == [changes[public][0]] * 3
        assert not [name for change in changes[public] for name in change if "decisions" in name]
    for private in ("scraper", "operator"):
        assert len({tuple(sorted(change)) for change in changes[private]}) == 3
    with pytest.raises(grpc.RpcError):
        running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=running.as_("scraper"))
    running.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /tile/0/\xd9\xa0\xd9\xa0\xd9\xa0 HTTP/1.1\r\n\r\n",
        b"GET http://elsewhere/checkpoint HTTP/1.1\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET /tile/0/..%2f000 HTTP/1.1\r\n\r\n",
        b"GET /\x00\xff HTTP/1.1\r\n\r\n",
        b"POST /checkpoint HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"DELETE /tile/0/000 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /checkpoint HTTP/9.9\r\n\r\n",
        b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /nothing HTTP/1.1\r\nAuthorization: " + b"\xff" * 100 + b"\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"",
    ],
)
def test_garbage_is_refused_and_it_serves_on(running: Running, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.daemon.http_port), timeout=10) as connection:
        answer = b""
        with suppress(OSError):  # it need not read to the end what it refuses
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b"Traceback" not in answer
    assert get(running, "/checkpoint").status == 200


# -- TLS ------------------------------------------------------------------------------------------------------


def test_a_client_that_never_shakes_hands_holds_up_nobody(tmp_path: Path) -> None:
    authority = make_authority()
    certificate = make_certificate(authority, "consentd")
    certificate.write(tmp_path / "tls")
    running = make_running(tmp_path, '[http.tls]\ncert_file = "tls/cert.pem"\nkey_file = "tls/key.pem"')
    port = running.daemon.http_port
    context = ssl.create_default_context(cadata=authority.pem)
    with socket.create_connection(("127.0.0.1", port), timeout=10):  # says nothing
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()
    running.stop()


def test_the_limits_of_the_server_are_options() -> None:
    config = HttpConfig(
        listen="127.0.0.1:0", max_connections=4, receive_timeout_ms=1_500, send_timeout_ms=2_500, idle_timeout_ms=60_000
    )
    listener = server_http.listen(config, ServiceState(Metrics()))
    try:
        assert (listener.receive_s, listener.send_s, listener.idle_s) == (1.5, 2.5, 60.0)
        with ExitStack() as stack:
            address = ("127.0.0.1", listener.port)
            peers = [stack.enter_context(socket.create_connection(address, timeout=HANG_S)) for _ in range(12)]
            for peer in peers[:8]:  # the two that came last may stay: one address has half of the connections
                with suppress(ConnectionError):
                    assert peer.recv(1) == b""
    finally:
        listener.stop()
