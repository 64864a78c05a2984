"""Our own server in Python, and the gate with one thread and with two, on one ledger each."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.over_wire import BATCH_CHECK, CHECK
from benchmarks.peers.grpc_served import GrpcServed
from benchmarks.peers.peer import BATCH, PEERS, Place
from benchmarks.peers.people import Asked, People
from benchmarks.report import ROOT
from benchmarks.server import Server
from benchmarks.world import World, make_world
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps

GATE = ROOT / "build" / "gate" / "release" / "consentd-gate"
LIMIT = PEERS / "wire" / "release" / "limit"
_GATE_SECTION = '\n[gate]\nprogram = "{program}"\nlisten = "127.0.0.1:0"\nthreads = {threads}\n'


class OurTypes:
    """Our message classes, in place of those from reflection."""

    def answer(self, service: str, method: str) -> Any:
        """Return the class of what a method returns."""
        return ps.BatchCheckResponse if method == "BatchCheck" else ps.CheckResponse


class Ours(GrpcServed):
    """The daemon or a gate."""

    def __init__(self, port: int, token: str) -> None:
        super().__init__(port, "consentd.v1.PolicyService", "Check", "BatchCheck", token=token, types=OurTypes())
        assert (self.path, self.batch_path) == (CHECK, BATCH_CHECK)

    def message(self, asked: Asked) -> bytes:
        """Return a CheckRequest."""
        return ps.CheckRequest(question=asked.question).SerializeToString()

    def batch(self, asked: Sequence[Asked]) -> bytes:
        """Return a BatchCheckRequest of different questions."""
        return ps.BatchCheckRequest(each=ps.QuestionList(questions=[one.question for one in asked])).SerializeToString()

    def says(self, answer: Any) -> bool:
        """Return whether a decision permits."""
        return bool(answer.decision.outcome == pb.OUTCOME_PERMIT)

    def permits_each(self, answer: bytes, count: int) -> list[bool]:
        """Return the outcomes of a batch."""
        results = ps.BatchCheckResponse.FromString(answer).results
        assert len(results) == count
        return [result.decision.outcome == pb.OUTCOME_PERMIT for result in results]


class Daemon:
    """Our server in Python, on grpcio."""

    name, title, note = "consentd", "consentd, server on grpcio", "ledger and table; no TLS"

    def missing(self) -> str:
        """It is always there."""
        return ""

    @contextmanager
    def serve(self, people: People, place: Place) -> Iterator[Ours]:
        """Build the ledger, and serve it."""
        world = world_of(people, place.directory)
        with Server(world.config_file, place.core) as server, closing(Ours(server.port, world.token)) as served:
            yield served


class Gate:
    """Our gate. With two threads it has two cores, of which the load generator uses one too."""

    note = "table in LMDB; no TLS"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.name = "gate" if threads == 1 else f"gate-{threads}"
        self.title = f"consentd, gate, {threads} thread{'s' if threads > 1 else ''}"

    def missing(self) -> str:
        """It is built by Cargo."""
        return "" if GATE.exists() else "the gate is not built: make gate"

    @contextmanager
    def serve(self, people: People, place: Place) -> Iterator[Ours]:
        """Build the ledger, and serve it with a gate; two threads may use any core."""
        world = world_of(people, place.directory)
        text = world.config_file.read_text(encoding="utf-8")
        file = world.config_file.with_name("gate.toml")
        file.write_text(text + _GATE_SECTION.format(program=GATE, threads=self.threads), encoding="utf-8")
        with (
            Server(file, place.core if self.threads == 1 else None) as server,
            closing(Ours(server.started.gate_port, world.token)) as served,
        ):
            yield served


class Limit:
    """A trivial server on tonic, which answers each question with the same bytes: no server on tonic is faster."""

    name, title, note = "limit", "trivial tonic server: the limit", "always the same answer, which is not checked"

    def missing(self) -> str:
        """It is built by Cargo."""
        return "" if LIMIT.exists() else "not built: python -m benchmarks.peers.install wire"

    @contextmanager
    def serve(self, people: People, place: Place) -> Iterator["Fixed"]:
        """Start it with answers as long as ours."""
        reason = pb.DecisionReason(effect=pb.EFFECT_PERMIT, consent_id="0" * 32, version=1, path="0")
        decision = pb.Decision(
            outcome=pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], reasons=[reason], decision_id="0" * 32, tag=bytes(16),
            revision=pb.Revision(tree_size=1 << 20, root_hash=bytes(32)), vocabulary_version=1, decided_time_ms=1 << 40,
        )  # fmt: skip
        check = ps.CheckResponse(decision=decision).SerializeToString()
        one = ps.CheckResult(decision=decision)
        batch = ps.BatchCheckResponse(results=[one] * BATCH).SerializeToString()
        command = place.on_core([str(LIMIT), check.hex(), batch.hex()], place.core)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                with closing(Fixed(int(process.stdout.readline()), "")) as served:
                    yield served
            finally:
                process.terminate()


class Fixed(Ours):
    """The trivial server."""

    is_fixed = True


def world_of(people: People, directory: Path) -> World:
    """Return the ledger of these people; each server has its own copy, because a ledger has one daemon."""
    first = directory.parent / "world"
    if first not in _WORLDS:
        _WORLDS[first] = make_world(first, subjects=people.count)
    shutil.copytree(first, directory)
    return replace(_WORLDS[first], directory=directory)


_WORLDS: dict[Path, World] = {}
