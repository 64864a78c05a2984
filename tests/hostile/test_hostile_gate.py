"""Honest calls through the gate are answered while hostile peers hold what they can of it."""

from collections.abc import Iterator

import grpc
import pytest

from cases.daemons import Running, make_running
from cases.gate_programs import GATE, built, make_gate, needs_cargo
from consentd.v1 import (
    access_service_pb2_grpc,
    consent_service_pb2_grpc,
    policy_service_pb2_grpc,
    registry_service_pb2_grpc,
)
from hostile.crowd import Crowd, Peer
from hostile.honest import COUNT, HONEST, NAMES, call_honestly
from hostile.peers import make_peers

ADDRESSES = 7
pytestmark = needs_cargo


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[Running, int]]":
    """A daemon whose stubs call its gate, and the gate's port."""
    running = make_running(tmp_path_factory.mktemp("gate-attacked"), GATE, checkpoint_interval_ms=60_000)
    gate = make_gate(running, built("consentd-gate", "consentd-gate"))
    gate.start()
    with grpc.insecure_channel(gate.address) as channel:
        running.policy = policy_service_pb2_grpc.PolicyServiceStub(channel)
        running.consents = consent_service_pb2_grpc.ConsentServiceStub(channel)
        running.access = access_service_pb2_grpc.AccessServiceStub(channel)
        running.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        yield running, int(gate.address.rpartition(":")[2])
    gate.stop()
    running.stop()


@pytest.fixture(scope="module")
def peers(attacked: tuple[Running, int]) -> dict[str, Peer]:
    running, _ = attacked
    subject = running.enrol("SYN-000001")
    running.grant(subject)
    return {peer.name: peer for peer in make_peers(running.tokens["clinic-b"], subject=subject, items=500)}


@pytest.mark.parametrize("name", NAMES)
def test_honest_calls_are_answered_beside(name: str, attacked: tuple[Running, int], peers: dict[str, Peer]) -> None:
    running, port = attacked
    with Crowd(port, [peers[name]], COUNT) as crowd:
        crowd.settle()
        assert call_honestly(running, f"SYN-1{NAMES.index(name):05d}") == HONEST


@pytest.mark.slow
def test_honest_calls_are_answered_beside_all_of_them(attacked: tuple[Running, int], peers: dict[str, Peer]) -> None:
    running, port = attacked
    with Crowd(port, list(peers.values()), COUNT, addresses=ADDRESSES) as crowd:
        crowd.settle()
        assert call_honestly(running, "SYN-200000") == HONEST
