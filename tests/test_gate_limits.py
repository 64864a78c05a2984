"""The gate's limits of calls are those of the daemon's pools."""

import re
from pathlib import Path

import pytest

from cases.daemons import make_running
from cases.gate_programs import GATE, SOURCE
from consentd.config import GrpcConfig
from consentd.server.gate_process import GateProcess, started_gate
from consentd.server.pools import PoolName, pool_limits
from consentd.server.rpc_server import pool_of
from consentd.service.roles import TABLE

CALLS = (SOURCE / "server/src/calls.rs").read_text("utf-8")
LIMITS = (SOURCE / "server/src/limits.rs").read_text("utf-8")


def constant(text: str, name: str) -> str:
    """Return what a constant of the gate's source is."""
    found = re.search(rf"const {name}: [^=]+ = ([^;]+);", text)
    assert found is not None, name
    return found[1]


def test_room_is_left_for_the_calls_that_the_daemon_takes_as_revocations() -> None:
    of_gate = set(re.findall(r'"/(\w+)"', constant(CALLS, "REVOCATIONS")))
    assert of_gate == {name for name in TABLE if pool_of(name) is PoolName.REVOKE}


def test_the_calls_that_make_no_caller_known_are_those_that_the_daemon_answers_to_anybody(tmp_path: Path) -> None:
    of_gate = set(re.findall(r'"(/[^"]+)"', constant(CALLS, "OPEN")))
    running = make_running(tmp_path, GATE)
    of_daemon = {path.decode() for path, route in running.daemon._rpc._routes.items() if route.is_open}
    running.stop()
    assert of_gate == of_daemon


def test_requests_are_long_where_the_daemon_takes_long_ones() -> None:
    limits, prefix = pool_limits(GrpcConfig()), constant(CALLS, "LONG").strip('"')
    longest = 64 << 10
    assert constant(CALLS, "MOST_BYTES_OF_OTHERS") == "PREFIX + (64 << 10)"
    for name in TABLE:
        assert (limits[pool_of(name)].request_bytes > longest) is f"/{name}".startswith(prefix), name


def test_a_caller_has_as_many_calls_as_at_the_daemon() -> None:
    assert int(constant(LIMITS, "MOST_CALLS")) == GrpcConfig().max_calls_per_caller


def test_half_of_a_quota_is_a_gates_only_when_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = make_running(tmp_path, GATE)
    services, state = running.daemon.service_state.services, running.daemon.service_state
    assert services is not None
    quotas, config = services.sequencer.quotas, running.config
    with started_gate(config, state, socket=running.daemon.gate_socket):
        assert not quotas.has_gate, "there is no such program"
    monkeypatch.setattr(GateProcess, "start", lambda gate: gate._on_start())
    with started_gate(config, state, socket=running.daemon.gate_socket):
        assert quotas.has_gate
    running.stop()
