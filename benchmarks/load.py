"""Put load on a gRPC server from a separate process, on a separate core."""

import os
import select
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

from benchmarks.apart import Spawned
from benchmarks.http2 import Connection, grpc_message

"""Never fork: gRPC's threads do not survive it."""
WINDOW_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """The files of a client's TLS: the authority of the server, and the client's own certificate and key."""

    ca_file: Path
    cert_file: Path
    key_file: Path

    def context(self) -> ssl.SSLContext:
        """Return a context for HTTP/2 that verifies the server and shows the certificate."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_cert_chain(self.cert_file, self.key_file)
        context.set_alpn_protocols(["h2"])
        return context


@dataclass(slots=True, kw_only=True)
class Load:
    """A load to send.

    Attributes:
        messages: serialised requests, sent in order, again from the first after the last.
        in_flight: calls in flight at a time, over all connections.
        seconds: how long is measured, after *warm_s* seconds that are not measured.
        rate: calls a second at fixed times; 0: the next call is sent when one is answered. With a rate, latency counts
            from the time at which a call was due, so a stall counts for every call that it delays.
        once: end with the last message.
        tls: connect over TLS with these files; None: without TLS.
    """

    port: int
    path: str
    token: str
    messages: list[bytes]
    in_flight: int = 32
    connections: int = 4
    seconds: float = 5.0
    warm_s: float = 1.0
    rate: float = 0.0
    once: bool = False
    tls: ClientTls | None = None


@dataclass(slots=True)
class Loaded:
    """The result of a load.

    Attributes:
        latencies_s: seconds of the measured calls, in order of their ends.
        places: for each of these calls, the index of its message in ``messages``.
        ended_s: for each of these calls, when it ended, in seconds since the measurement began.
        answers: (index in ``messages``, serialised answer) of all calls, also of those before the measurement.
        failed: number of calls without an answer.
        seconds: length of the measurement.
        busy: share of a core that the generator itself used; near 1, the generator was the bottleneck.
        server_cpu_s: processor time of the server during the whole load.
    """

    latencies_s: list[float] = field(default_factory=list)
    locations: list[int] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    server_cpu_s: float = 0.0

    @property
    def rates(self) -> list[float]:
        """Return calls a second in each whole window of ``WINDOW_S``."""
        counts = Counter(int(ended // WINDOW_S) for ended in self.ended_s)
        return [counts[window] / WINDOW_S for window in range(int(self.seconds // WINDOW_S))]

    @property
    def rate(self) -> float:
        """Return the median of ``rates``: on a shared machine, other programs slow down some windows."""
        rates = self.rates
        return median(rates) if len(rates) >= 4 else len(self.ended_s) / self.seconds


class Generator:
    """A process that runs one load."""

    def __init__(self, load: Load, core: int | None) -> None:
        self._spawned = Spawned(_generate, load, core)

    def result(self) -> Loaded:
        """Wait for the load and return its result."""
        found: Loaded = self._spawned.receive()
        self._spawned.process.join()
        return found


def run(load: Load, core: int | None) -> Loaded:
    """Run one load in a separate process."""
    return Generator(load, core).result()


def pin(core: int | None) -> None:
    """Bind this process and its later threads to one core; None: any core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def _generate(pipe: Pipe, load: Load, core: int | None) -> None:
    try:
        pin(core)
        pipe.send(run_here(load))
    except BaseException as error:  # noqa: BLE001  # ``result`` raises it
        pipe.send(error)


def run_here(load: Load) -> Loaded:
    """Run one load in this thread."""
    bodies = [grpc_message(message) for message in load.messages]
    tls = load.tls.context() if load.tls is not None else None
    connections = [Connection("127.0.0.1", load.port, load.path, load.token, tls) for _ in range(load.connections)]
    by_number = {one.socket.fileno(): one for one in connections}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    loaded = Loaded()
    due: dict[int, float] = {}
    sent = 0
    last = len(bodies) if load.once else 1 << 62
    started = time.perf_counter()
    measured_from = started + load.warm_s
    until = measured_from + load.seconds
    cpu = time.process_time()

    def send(one: Connection, due_at: float) -> None:
        nonlocal sent
        due[sent] = due_at
        one.send(sent, bodies[sent % len(bodies)])
        sent += 1

    fraction = max(1, load.in_flight // len(connections))
    if not load.rate:
        for one in connections:
            for _ in range(fraction):
                if sent < last:
                    send(one, time.perf_counter())
    ended = started
    while True:
        now = time.perf_counter()
        open_calls = len(due)
        # On a slow machine the first call that counts may end late: a load measures one at least.
        over = now >= until and bool(loaded.latencies_s or loaded.failed or load.once)
        stop = over or sent >= last
        if (stop and not open_calls) or now >= until + 60:
            break
        wait = 0.05
        if load.rate and not stop:
            while sent < last and (due_at := started + sent / load.rate) <= now:
                send(connections[sent % len(connections)], due_at)
            wait = max(0.0, started + sent / load.rate - now)
        for number, _ in poll.poll(wait):
            one = by_number[number]
            for location, answer in one.receive():
                ended = time.perf_counter()
                began = due.pop(location)
                if answer is None:
                    loaded.failed += 1
                else:
                    loaded.answers.append((location % len(bodies), answer))
                    if began >= measured_from and (ended <= until or load.once or not loaded.latencies_s):
                        loaded.latencies_s.append(ended - began)
                        loaded.locations.append(location % len(bodies))
                        loaded.ended_s.append(ended - measured_from)
                if not load.rate and sent < last and (ended < until or not loaded.latencies_s):
                    send(one, ended)
    loaded.failed += len(due)
    loaded.seconds = max(min(ended, until) - measured_from, loaded.ended_s[0] if loaded.ended_s else 0.0)
    loaded.busy = (time.process_time() - cpu) / (time.perf_counter() - started)
    for one in connections:
        one.close()
    return loaded
