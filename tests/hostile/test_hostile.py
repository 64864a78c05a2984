"""Honest calls are answered while hostile peers hold what they can: a few peers of each kind, and all of them."""

from collections.abc import Iterator

import pytest

from cases.daemons import Running, make_running
from hostile.crowd import Crowd, Peer
from hostile.honest import COUNT, HONEST, NAMES, call_honestly
from hostile.peers import make_peers


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Running]":
    running = make_running(tmp_path_factory.mktemp("attacked"), checkpoint_interval_ms=60_000)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def peers(attacked: Running) -> dict[str, Peer]:
    subject = attacked.enrol("SYN-000001")
    attacked.grant(subject)
    made = make_peers(attacked.tokens["clinic-b"], subject=subject, items=500)
    return {peer.name: peer for peer in made}


@pytest.mark.parametrize("name", NAMES)
def test_honest_calls_are_answered_beside(name: str, attacked: Running, peers: dict[str, Peer]) -> None:
    with Crowd(attacked.daemon.grpc_port, [peers[name]], COUNT) as crowd:
        crowd.settle()
        assert call_honestly(attacked, f"SYN-1{NAMES.index(name):05d}") == HONEST


@pytest.mark.slow
def test_honest_calls_are_answered_beside_all_of_them(attacked: Running, peers: dict[str, Peer]) -> None:
    with Crowd(attacked.daemon.grpc_port, list(peers.values()), COUNT) as crowd:
        crowd.settle()
        assert call_honestly(attacked, "SYN-200000") == HONEST
