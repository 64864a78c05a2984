"""What each peer is to the benchmarks: a program that is started with the persons, and answers questions as bytes."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers.people import Asked, People
from benchmarks.report import ROOT

PEERS = ROOT / "build" / "peers"
"""Where ``benchmarks.peers.install`` puts the peers."""
START_S = 120
BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer is started: a directory for its files, and the core of what is measured and of what helps it."""

    directory: Path
    core: int | None
    helper_core: int | None

    def on_core(self, command: Sequence[str], core: int | None) -> list[str]:
        """Return a command that binds itself and its threads to a core."""
        return list(command) if core is None else ["taskset", "-c", str(core), *command]


class Served(Protocol):
    """A running server of a peer.

    Attributes:
        path, batch_path: of HTTP. An empty *batch_path*: it has no batches.
        content_type: ``application/grpc`` for gRPC.
        is_http1: whether it speaks HTTP/1.1.
        is_fixed: whether it answers every question alike, so that its answers are not checked.
    """

    port: int
    path: str
    batch_path: str
    content_type: str
    is_http1: bool
    is_fixed: bool
    token: str

    def message(self, asked: Asked) -> bytes:
        """Return a question as the peer wants it, without gRPC's frame."""

    def batch(self, asked: Sequence[Asked]) -> bytes:
        """Return many questions as one."""

    def permits(self, answer: bytes) -> bool:
        """Return what an answer says."""

    def permits_each(self, answer: bytes, count: int) -> list[bool]:
        """Return what an answer to a batch says, in the order of the questions."""

    def ask(self, asked: Asked) -> bool:
        """Ask with a complete client, which looks at the status."""


class Peer(Protocol):
    """A peer whose server is measured over the wire.

    Attributes:
        name: as ``--peers`` takes it.
        title: as the table shows it, with the version.
        note: what is particular about its setting.
    """

    name: str
    title: str
    note: str

    def missing(self) -> str:
        """Return why it cannot be measured here; empty if it can."""

    def serve(self, people: People, place: Place) -> Any:
        """Start it with these people; a context manager that gives a ``Served`` and ends it."""


class Embedded(Protocol):
    """A peer that answers in this process."""

    name: str
    title: str
    note: str

    def missing(self) -> str:
        """Return why it cannot be measured here; empty if it can."""

    def load(self, people: People) -> Callable[[Asked], bool]:
        """Return a function that answers questions about these people; all that can be parsed before, is."""


def program(name: str) -> str | None:
    """Return the path of a peer's program, in ``build/peers`` or installed; None if it is not there."""
    here = PEERS / "bin" / name
    return str(here) if here.exists() else shutil.which(name)


def missing_program(name: str) -> str:
    """Return why a program cannot be run; empty if it can."""
    return "" if program(name) else f"{name} is not installed: python -m benchmarks.peers.install {name}"


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether a server listens on a port of 127.0.0.1."""
    with socket.socket() as one:
        one.settimeout(5)
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    command: Sequence[str], log_file: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the length of a ``with`` statement; what it writes goes into a file."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT if "postgres" in Path(command[-1]).name else signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_true(ready: Callable[[], bool], process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Wait until a program is ready. Raises ``RuntimeError`` with the end of its log if it ends or is never ready."""
    until = time.monotonic() + START_S
    last: Exception | None = None
    while True:
        try:
            if ready():
                return
        except Exception as error:  # noqa: BLE001  # each client has its own exceptions for a server that is not there
            last = error
        if process.poll() is not None or time.monotonic() > until:
            end = log_file.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise RuntimeError(f"{process.args!r} is not ready: {last}\n{end}")
        time.sleep(0.1)


def memory_bytes(process: int) -> int:
    """Return how much memory of its own a process has: RssAnon."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
