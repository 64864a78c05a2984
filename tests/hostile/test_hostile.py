"""Honest calls are answered while hostile peers hold what they can: a few peers of each kind, and all of them."""

from collections.abc import Iterator

import pytest

from cases.daemons import Running, make_running, question, request_id
from cases.fakes import HANG_S
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from hostile.crowd import Crowd, Peer
from hostile.peers import make_peers

COUNT = 20
"""How many peers of a kind. With four calls each, they would hold every thread that a server gives to calls."""
NAMES = [peer.name for peer in make_peers("", subject=pb.Subject(), items=1)]


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


HONEST = [pb.OUTCOME_PERMIT, pb.OUTCOME_PERMIT, pb.OUTCOME_NO_CONSENT]


def call_honestly(running: Running, value: str) -> list[int]:
    """Check, authorize, revoke and check as honest callers do; return how the three questions were answered."""
    subject = running.enrol(value)
    consent_id = running.grant(subject)
    asked = question(subject)
    app = running.as_("app")
    found = running.policy.Check(ps.CheckRequest(question=asked), metadata=app, timeout=HANG_S)
    authorized = running.authorize(asked)
    revoke = cs.RevokeConsentRequest(
        request_id=request_id(), subject=subject, consent_id=consent_id, attested=st.RevokeStatement()
    )
    running.consents.RevokeConsent(revoke, metadata=app, timeout=HANG_S)
    return [found.decision.outcome, authorized.decision.outcome, running.check(asked).outcome]


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
