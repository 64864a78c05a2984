"""A daemon, its gate, and a second gate that outlives both, as processes that a test stops, continues and kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc

from cases import gate_programs
from cases.daemons import Running, make_running
from cases.fakes import HANG_S
from cases.processes import PROGRAM, DaemonProcess
from consentd.v1 import consent_service_pb2_grpc, policy_service_pb2_grpc

T = TypeVar("T")

SERVE = PROGRAM.replace("make_config(Path(sys.argv[1]))", "make_config(Path(sys.argv[1]), sys.argv[2])")
DAEMON, GATE, SECOND = "daemon", "gate", "second gate"
"""Who may be asked. The second gate passes nothing on: it is asked checks alone."""
STOPPED_S = 0.2
"""How long a stopped process stays stopped."""
_LISTENING = "listening on "
_PASSING = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
)  # fmt: skip
"""How calls end whose server was killed."""


class Stubs:
    """Calls of one of the processes."""

    def __init__(self, address: str) -> None:
        # Without a pool of connections of its own, a channel takes over how long an earlier one waits to connect.
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(self.channel)
        self.consents = consent_service_pb2_grpc.ConsentServiceStub(self.channel)


class SecondGate:
    """A gate that the daemon did not start: it reads the same table, and lives on when the daemon ends."""

    def __init__(self, program: Path, table: Path, index_key: bytes) -> None:
        self._index_key = index_key
        self._command = [
            str(program), "--table", str(table), "--listen", "127.0.0.1:0", "--daemon", str(table / "none"),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        reads, self._pipe = os.pipe()
        os.write(self._pipe, self._index_key)
        self.process = subprocess.Popen(
            [*self._command, "--key-fd", str(reads)], stdout=subprocess.PIPE, text=True, pass_fds=[reads]
        )
        os.close(reads)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(_LISTENING), line
        self.address = line.removeprefix(_LISTENING).strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._pipe)


class Realm:
    """The processes. Threads call them by ``call``; one thread disturbs them."""

    def __init__(self, directory: Path, program: Path, *, has_second: bool = True) -> None:
        self._directory, self._extra = directory, gate_programs.GATE.replace('"gate"', f'"{program}"')
        made = make_running(directory, checkpoint_interval_ms=10)
        self.config, self.tokens = made.config, made.tokens
        index_key = _index_key(made)
        made.stop()
        self._lock = threading.Lock()  # guards what follows
        self._stubs: dict[str, Stubs] = {}
        self._addresses: dict[str, str] = {}
        self._start_daemon()
        self._second = SecondGate(program, self.config.table.path, index_key) if has_second else None
        if self._second is not None:
            self._note(SECOND, self._second.address)

    def port(self, whom: str) -> int:
        with self._lock:
            return int(self._addresses[whom].rpartition(":")[2])

    def as_(self, who: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens[who]}"),)

    def call(self, whom: str, made: Callable[[Stubs], T]) -> T | None:
        """Return the answer to a call of one of the processes; None: it was stopped or killed meanwhile."""
        with self._lock:
            address = self._addresses[whom]
            stubs = self._stubs.get(address) or self._stubs.setdefault(address, Stubs(address))
        try:
            return made(stubs)
        except grpc.RpcError as error:
            if error.code() in _PASSING:
                return None
            raise
        except ValueError:
            with self._lock:
                if address in self._stubs:
                    raise
            return None  # the channel was closed, because the process has another address now

    def insist(self, whom: Callable[[], str], made: Callable[[Stubs], T]) -> T:
        """Repeat a call until it is answered. *whom*: draws who is asked."""
        until = time.monotonic() + HANG_S
        while True:
            found = self.call(whom(), made)
            if found is not None:
                return found
            assert time.monotonic() < until, "no call is answered"
            time.sleep(0.02)

    def disturbances(self) -> list[Callable[[], None]]:
        """Return all that can be done to the processes."""
        stops: list[Callable[[], None]] = [partial(self._pause, one) for one in (DAEMON, GATE, SECOND)]
        return [*stops, self._kill_gate, self._kill_second, self._kill_daemon]

    def stop(self) -> None:
        if self._second is not None:
            self._second.kill()
        assert self._daemon.stop() == 0
        for one in self._stubs.values():
            one.channel.close()

    def check_ledger(self) -> None:
        """Verify the ledger and its table, after ``stop``."""
        running = Running(self.config, self.tokens)
        running.check_ledger()
        running.stop()

    def _note(self, whom: str, address: str) -> None:
        with self._lock:
            left = self._stubs.pop(self._addresses.get(whom, ""), None)
            self._addresses[whom] = address
        if left is not None:
            left.channel.close()  # else it would go on to connect to a port that may be another program's

    def _start_daemon(self) -> None:
        command = [sys.executable, "-c", SERVE, str(self._directory), self._extra]
        self._daemon = DaemonProcess(self._directory, command=command)
        self._gates = 0
        self._note(DAEMON, f"127.0.0.1:{self._daemon.port}")
        self._await_gate()

    def _await_gate(self) -> None:
        self._gates += 1
        line = self._daemon.wait_line("gate listens on", count=self._gates)
        self._note(GATE, line["message"].split()[-1])

    def process_of(self, whom: str) -> int:
        """Return the number of a process."""
        if whom == SECOND:
            assert self._second is not None
            return self._second.process.pid
        daemon = self._daemon.process.pid
        return daemon if whom == DAEMON else _child(daemon)

    def _pause(self, whom: str) -> None:
        process = self.process_of(whom)
        os.kill(process, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(process, signal.SIGCONT)

    def _kill_gate(self) -> None:
        os.kill(self.process_of(GATE), signal.SIGKILL)
        self._await_gate()

    def _kill_second(self) -> None:
        assert self._second is not None
        self._second.kill()
        self._second.start()
        self._note(SECOND, self._second.address)

    def _kill_daemon(self) -> None:
        self._daemon.kill()
        self._start_daemon()


def _index_key(running: Running) -> bytes:
    services = running.daemon.service_state.services
    assert services is not None
    reads, writes = os.pipe()
    services.vault.write_index_key(writes)
    found = os.read(reads, 64)
    os.close(reads)
    os.close(writes)
    return found


def _child(parent: int) -> int:
    """Return the one process that *parent* has started."""
    found = [
        int(one)
        for task in Path(f"/proc/{parent}/task").iterdir()
        for one in (task / "children").read_text(encoding="ascii").split()
    ]
    assert len(found) == 1, found
    return found[0]
