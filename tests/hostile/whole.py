"""Measure honest callers beside hostile peers: each kind alone, then all together, against a daemon of its own.

The server runs on one core, peers and honest callers on another. Its witness does not answer, so no checkpoint ever has
a quorum. Quiet figures are measured before and after.

Peers and honest callers share a core, and so do the daemon and the work that its core of gRPC has with peers. What this
costs at least is measured too: *elsewhere* has all peers at another gRPC server, which knows no method and refuses each
of their calls, while the honest callers are at the daemon. The bars are for the daemon alone.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import grpc

from benchmarks.apart import Spawned
from benchmarks.load import Generator, Load, pin
from cases.daemons import Running, consent, make_running, question, request_id
from cases.processes import DaemonProcess
from cases.services import publish_rules
from consentd.core import ed25519, note
from consentd.cosigning.keyfiles import read_signing_key
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import consent_service_pb2_grpc
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from hostile.crowd import Crowd, Peer
from hostile.peers import AUTHORIZE, CHECK, make_peers

CHECKS_PER_S = 100
REVOKES_PER_S = 2
WARM_S, WARM_PEERS_S = 8.0, 1.0
"""The seconds in which callers connect, and peers of each kind, before the figures count.

Thousands of peers that connect at once and begin their calls are a wave of a second, and the figures would show nothing
else.
"""
SETTLE_S = 25
"""After so many seconds without peers, all that they held must be free: longer than every time limit on a peer."""
_SERVER_CORE, _CALLERS_CORE = 0, 1
_ADDRESSES = 20  # so many that the gate's limit of connections in all counts, and not the one of an address
_WITNESS = '[witness]\npolicy_file = "witness.policy"\n[scrub]\nrecords_per_s = 0\n[log]\nlevel = "warning"\n'
_PROGRAM = f"""
import sys
from pathlib import Path
from consentd import logs
from consentd.server import daemon
from cases.daemons import make_config
logs.configure("info")
daemon.serve(make_config(Path(sys.argv[1]), sys.argv[3] + {_WITNESS!r}, grpc=sys.argv[2]))
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: threads, descriptors, and bytes of memory of its own."""

    threads: int
    descriptors: int
    memory: int


@dataclass(frozen=True, slots=True)
class Phase:
    """The figures of honest callers in one phase.

    Attributes:
        check_ms: p50, p99 and maximum of checks at a fixed rate.
        authorized_per_s: rate of accesses, 8 in flight.
        revoke_ms: p50 and maximum of revocations.
        failed: number of honest calls without an answer.
        began, ended: calls of the hostile peers.
        peers_share, server_share: how much of a core the peers took, and the daemon.
    """

    name: str
    check_ms: tuple[float, float, float]
    authorized_per_s: float
    revoke_ms: tuple[float, float]
    failed: int
    began: int = 0
    ended: int = 0
    peers_share: float = 0.0
    server_share: float = 0.0

    def line(self) -> str:
        """Return the figures as a line of text."""
        p50, p99, most = self.check_ms
        return (
            f"{self.name:55} check p50 {p50:6.1f} p99 {p99:7.1f} max {most:7.1f} ms,"
            f" authorize {self.authorized_per_s:6.0f}/s, revoke p50 {self.revoke_ms[0]:6.1f}"
            f" max {self.revoke_ms[1]:7.1f} ms, failed {self.failed}, hostile calls {self.began} ended {self.ended},"
            f" processor: daemon {self.server_share:.2f} peers {self.peers_share:.2f}"
        )


class World:
    """A daemon in a process of its own, an honest app, and persons with a consent."""

    def __init__(self, directory: Path, *, connections: int = 0, gate: Path | None = None) -> None:
        """*connections*: how many connections the daemon takes; 0: as many as by default.

        *gate*: the program of a gate, which all call in place of the daemon; the peers have many addresses then.
        """
        running = make_running(directory)
        # What honest callers do here in minutes exceeds the quotas of a day.
        quotas = st.Quotas(entries_per_day=60_000, refusals_per_day=60_000, persons_per_hour=100_000)
        publish_rules(running, quotas=quotas)
        self.tokens = running.tokens
        self.subjects = [running.enrol(f"SYN-{number:06d}") for number in range(100)]
        for subject in self.subjects:
            running.grant(subject)
        _write_policy(directory, running)
        # The daemon with the witness begins with this checkpoint, so that histories can be read.
        services = running.wait_published()
        published = services.sequencer.checkpoints.latest().note
        running.config.ledger.published_path.write_bytes(published)
        running.stop()
        grpc_options = f"max_connections = {connections}" if connections else ""
        program = ["taskset", "-c", str(_SERVER_CORE), sys.executable, "-c", _PROGRAM]
        gate_options = "" if gate is None else f'[gate]\nprogram = "{gate}"\nlisten = "127.0.0.1:0"\n'
        self.process = DaemonProcess(directory, command=[*program, str(directory), grpc_options, gate_options])
        self.port, self.addresses = self.process.port, 1
        self.channel = self.process.channel
        if gate is not None:
            line = self.process.wait_line("gate listens on ")["message"].removeprefix("gate listens on ")
            address = line.split(",")[0].strip()
            self.port, self.addresses = int(address.rpartition(":")[2]), _ADDRESSES
            self.channel = grpc.insecure_channel(address)

    def end(self) -> None:
        """End the daemon, unless it has ended: a run that fails leaves none."""
        if self.process.process.poll() is None:
            self.process.kill()

    def held(self) -> Held:
        """Return what the daemon's process holds now, and the gate's."""
        pid = self.process.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        found = [self._held(one) for one in (str(pid), *children)]
        sums = [sum(getattr(one, name) for one in found) for name in Held.__slots__]
        return Held(*sums)

    def _held(self, pid: str) -> Held:
        directory = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (directory / "status").read_text(encoding="ascii").splitlines())
        memory = int(status["RssAnon"].split()[0]) * 1024
        return Held(int(status["Threads"]), len(os.listdir(directory / "fd")), memory)

    def measure(self, name: str, peers: Sequence[Peer], count: int, seconds: float, *, port: int = 0) -> Phase:
        """Let honest callers work for some time beside *count* peers of each kind.

        *port*: another server, to which the peers go; 0: they go to the daemon.
        """
        # Honest callers connect first: the peers have more connections than a listener takes.
        warm_s = WARM_S + WARM_PEERS_S * len(peers)
        checks = Generator(self._checks(seconds, warm_s), _CALLERS_CORE)
        accesses = Generator(self._accesses(seconds, warm_s), _CALLERS_CORE)
        time.sleep(WARM_S / 2)
        with _crowd(port or self.port, peers, count, self.addresses) as totals:
            began_s, busy_s = time.monotonic(), _busy_s(self.process.process.pid)
            revoked = self._revoke(seconds + warm_s - WARM_S)
            checked, authorized = checks.result(), accesses.result()
            share = (_busy_s(self.process.process.pid) - busy_s) / (time.monotonic() - began_s)
        times = sorted(checked.latencies_s)
        return Phase(
            name,
            (_share(times, 0.5), _share(times, 0.99), times[-1] * 1e3),
            authorized.rate,
            (_share(revoked, 0.5), revoked[-1] * 1e3),
            checked.failed + authorized.failed,
            *(totals or (0, 0, 0.0)),
            share,
        )

    def _checks(self, seconds: float, warm_s: float) -> Load:
        asked = [ps.CheckRequest(question=question(subject)).SerializeToString() for subject in self.subjects]
        return Load(
            port=self.port, path=CHECK, token=self.tokens["app"], messages=asked, rate=CHECKS_PER_S, seconds=seconds,
            warm_s=warm_s,
        )  # fmt: skip

    def _accesses(self, seconds: float, warm_s: float) -> Load:
        count = round((seconds + warm_s) * 2_500)
        asked = [
            ac.AuthorizeAccessRequest(
                request_id=request_id(), question=question(self.subjects[number % len(self.subjects)])
            ).SerializeToString()
            for number in range(count)
        ]
        return Load(
            port=self.port, path=AUTHORIZE, token=self.tokens["app"], messages=asked, in_flight=8, seconds=seconds,
            warm_s=warm_s,
        )  # fmt: skip

    def _revoke(self, seconds: float) -> list[float]:
        """Grant and revoke for some time; return the seconds that the revocations took, sorted."""
        stub = consent_service_pb2_grpc.ConsentServiceStub(self.channel)
        metadata: Any = (("authorization", f"Bearer {self.tokens['app']}"),)
        taken: list[float] = []
        until = time.monotonic() + seconds + 1
        while time.monotonic() < until:
            subject = self.subjects[len(taken) % len(self.subjects)]
            grant = cs.GrantConsentRequest(
                request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=consent(actors=["er"]))
            )
            granted = stub.GrantConsent(grant, metadata=metadata, timeout=120).consent_id
            began = time.perf_counter()
            revoke = cs.RevokeConsentRequest(
                request_id=request_id(), subject=subject, consent_id=granted, attested=st.RevokeStatement()
            )
            stub.RevokeConsent(revoke, metadata=metadata, timeout=120)
            taken.append(time.perf_counter() - began)
            time.sleep(1 / REVOKES_PER_S)
        return sorted(taken)


def _busy_s(pid: int) -> float:
    """Return the processor time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _share(times: Sequence[float], share: float) -> float:
    return times[int(len(times) * share)] * 1e3


def _write_policy(directory: Path, running: Running) -> None:
    """Write a policy with one witness, which does not answer."""
    log = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    signer = note.Signer("witness.test/away", ed25519.KeyPair(bytes(32)), note.COSIGNATURE)
    witness = f"witness away {note.format_vkey(signer.verifier)} http://127.0.0.1:9/"
    (directory / "witness.policy").write_text(f"log {log}\n{witness}\nquorum away\n", encoding="utf-8")


@contextmanager
def _crowd(port: int, peers: Sequence[Peer], count: int, addresses: int) -> Iterator[list[Any]]:
    """Run peers in a process of their own.

    At the end the list has how many calls they began, how many of these the server ended, and the share of a core that
    they took.
    """
    totals: list[Any] = []
    if not peers:
        yield totals
        return
    spawned = Spawned(_run_crowd, port, list(peers), count, addresses, sys.path)
    spawned.receive()
    try:
        yield totals
    finally:
        spawned.pipe.send("stop")
        totals.extend(spawned.receive())
        spawned.process.join()


def _run_crowd(pipe: Pipe, port: int, peers: list[Peer], count: int, addresses: int, path: list[str]) -> None:
    pin(_CALLERS_CORE)
    with Crowd(port, peers, count, addresses=addresses) as crowd:
        pipe.send("begun")
        began_s, busy_s = time.monotonic(), time.process_time()
        pipe.recv()
        share = (time.process_time() - busy_s) / (time.monotonic() - began_s)
    pipe.send((crowd.began, crowd.ended, share))


@contextmanager
def _elsewhere() -> Iterator[int]:
    """Run a gRPC server that refuses every call, on the daemon's core; yield its port."""
    spawned = Spawned(_refuse_all)
    port: int = spawned.receive()
    try:
        yield port
    finally:
        spawned.pipe.send("stop")
        spawned.process.join()


def _refuse_all(pipe: Pipe) -> None:
    pin(_SERVER_CORE)
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    pipe.recv()
    server.stop(0).wait()


def run(
    *, count: int, alone_s: float, together_s: float, only: str = "", connections: int = 0, gate: Path | None = None
) -> bool:
    """Run all phases, print their figures, and return whether the figures meet the bars."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="consentd-hostile-"))
        world = World(Path(directory), connections=connections, gate=gate)
        stack.callback(world.end)
        peers = make_peers(world.tokens["clinic-b"], subject=world.subjects[0], items=1000)
        pin(_CALLERS_CORE)
        world.measure("warm", (), 0, 3)
        quiet = world.measure("quiet", (), 0, max(10, alone_s))
        print(quiet.line(), flush=True)
        before = world.held()
        phases = []
        for peer in peers:
            if only in peer.name and alone_s:
                phases.append(world.measure(peer.name, [peer], count, alone_s))
                print(phases[-1].line(), flush=True)
        if together_s:
            with _elsewhere() as port:
                elsewhere = world.measure("all together elsewhere", peers, count, min(30, together_s), port=port)
            print(elsewhere.line(), flush=True)
            phases.append(world.measure("all together", peers, count, together_s))
            print(phases[-1].line(), flush=True)
        threading.Event().wait(SETTLE_S)
        after = world.held()
        print(f"before: {before}\nafter:  {after}\n{world.measure('quiet again', (), 0, 10).line()}", flush=True)
        if together_s:
            # What was freed is used again: memory that grows with each wave would be a leak.
            world.measure("all together again", peers, count, min(60, together_s))
            threading.Event().wait(SETTLE_S)
            print(f"after a second wave: {world.held()}", flush=True)
        code = world.process.stop()
        print("stopped with", code)
    met = code == 0 and all(_meets(phase, quiet) for phase in phases)
    return met and after.threads <= before.threads and after.descriptors <= before.descriptors + 8


def _meets(phase: Phase, quiet: Phase) -> bool:
    met = (
        phase.check_ms[1] <= 3 * quiet.check_ms[1] + 5
        and phase.authorized_per_s >= 0.5 * quiet.authorized_per_s
        and phase.revoke_ms[1] <= 1_000
        and phase.failed == 0
    )
    if not met:
        print(f"bar missed: {phase.name}", flush=True)
    return met
