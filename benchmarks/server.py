"""Run the daemon in a separate process, on a separate core."""

import logging
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Self

from benchmarks.apart import Spawned
from benchmarks.load import pin
from consentd import config
from consentd.server.daemon import Daemon
from consentd.server.gate_process import started_gate
from consentd.server.pauses import shorten_pauses


@dataclass(frozen=True, slots=True)
class Started:
    """A running daemon.

    Attributes:
        start_s: seconds of ``Daemon.start``, which opens and verifies everything, without the imports.
        gate_port: the gate's port; 0 if the configuration has no gate.
    """

    port: int
    start_s: float
    gate_port: int


class Server:
    """A daemon in a separate process; a ``with`` block ends it."""

    def __init__(self, config_file: Path, core: int | None) -> None:
        """Start it."""
        self._spawned = Spawned(_serve, config_file, core)
        self.started: Started = self._spawned.receive()

    @property
    def port(self) -> int:
        """Return its gRPC port."""
        return self.started.port

    def memory_bytes(self) -> dict[str, int]:
        """Return its memory from ``/proc``: RssAnon is its own, RssFile is mostly pages of the table's file."""
        status = Path(f"/proc/{self._spawned.process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "RssFile")}

    def cpu_s(self) -> float:
        """Return the seconds of processor time that it has used."""
        fields = Path(f"/proc/{self._spawned.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spawned.pipe.send("stop")
        self._spawned.process.join()


def _serve(pipe: Pipe, config_file: Path, core: int | None) -> None:
    try:
        pin(core)
        logging.basicConfig(level=logging.WARNING)
        daemon = Daemon(config.load(config_file))
        before = time.perf_counter()
        daemon.start()
        took_s = time.perf_counter() - before
        shorten_pauses()  # as a daemon does that runs on its own
        with started_gate(daemon.config, daemon.service_state, socket=daemon.gate_socket) as gate:
            gate_port = 0 if gate is None else int(gate.address.rpartition(":")[2] or 0)
            pipe.send(Started(daemon.grpc_port, took_s, gate_port))
            pipe.recv()
        daemon.stop()
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        pipe.send(error)
