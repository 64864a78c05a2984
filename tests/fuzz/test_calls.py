"""Each kind of caller sends what is not its own, and what is no request at all, to each RPC."""

import os
import threading
from collections.abc import Iterator

import grpc
import pytest

from cases.daemons import serve
from cases.roles import KINDS, World
from consentd.service.roles import TABLE, Access
from fuzz.calls import OURS, Recorded, allowed, probes, record, send
from fuzz.mutate import Mutator

MUTANTS = int(os.environ.get("CONSENTD_FUZZ_MUTANTS", "2"))
"""Mutants of each RPC's requests for each kind of caller."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("daemon"))
    for _ in serve(made.running):
        yield made


@pytest.fixture(scope="module")
def recorded(world: World) -> dict[str, list[Recorded]]:
    return {rpc: record(world, rpc) for rpc in TABLE}


def test_each_rpc_was_answered(recorded: dict[str, list[Recorded]]) -> None:
    assert {rpc for rpc, found in recorded.items() if not found} == set()


@pytest.mark.parametrize("rpc", TABLE)
def test_nobody_gets_what_is_anothers(world: World, recorded: dict[str, list[Recorded]], rpc: str) -> None:
    count = 0
    for caller in KINDS:
        world.begin(caller, enrols=False)
        for one in recorded[rpc]:
            expected = allowed(caller, one)
            if expected is Access.ALLOWED:
                continue
            for number, probe in enumerate(probes(world, caller, one)):
                answer = send(world, caller, one, probe.SerializeToString())
                assert answer.reason not in OURS, (caller, answer)
                assert number or expected is Access.REDUCED or answer.is_refused(rpc), (caller, one)
                assert not any(name in answer.content for name in one.names), (caller, one, answer.code)
                count += 1
    print(f"{rpc}: {count} probes")


@pytest.mark.parametrize("rpc", TABLE)
def test_no_bytes_are_a_fault_of_the_daemon(world: World, recorded: dict[str, list[Recorded]], rpc: str) -> None:
    mutator = Mutator(sum(rpc.encode()))
    seeds = [one.request.SerializeToString() for one in recorded[rpc]]
    for caller in KINDS:
        world.begin(caller, enrols=False)
        for _ in range(MUTANTS):
            answer = send(world, caller, recorded[rpc][0], mutator.mutant(seeds))
            assert answer.reason not in OURS, (caller, answer)
            assert answer.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), (caller, answer)
            assert answer.code is not grpc.StatusCode.DEADLINE_EXCEEDED, caller


def test_nothing_is_left_of_such_calls(world: World, recorded: dict[str, list[Recorded]]) -> None:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    def all_calls(seed: int) -> None:
        mutator = Mutator(seed)
        for rpc, found in recorded.items():
            world.begin("app", enrols=False)
            seeds = [one.request.SerializeToString() for one in found]
            send(world, "operator", recorded[rpc][0], mutator.mutant(seeds))

    all_calls(1)  # makes the threads of pools, and connections
    before = held()
    all_calls(2)
    after = held()
    few = len(recorded) // 2  # what each call left would be more; stores open and close a few files
    assert after[0] < before[0] + few
    assert after[1] < before[1] + few
