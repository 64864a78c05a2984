"""A daemon in a process of its own, and a thread that writes to it."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc

from cases.daemons import request_id
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc

ROUNDS = int(os.environ.get("CONSENTD_CRASH_ROUNDS", "3"))
"""How many kills a test of kills takes."""
BATCH = 25
_TESTS = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent)])}
PROGRAM = """
import sys
from pathlib import Path
from consentd import logs
from consentd.server import daemon
from cases.daemons import make_config
logs.configure("debug")
daemon.serve(make_config(Path(sys.argv[1])))
"""
"""Serves ``make_config`` of the directory that is its argument, until SIGTERM or SIGINT."""


class DaemonProcess:
    """A daemon in a process of its own.

    Attributes:
        lines: what it has logged so far; "" at the end.
        port, channel: its gRPC port, and a channel to it; both wait until it serves.
    """

    def __init__(self, directory: Path, *, command: Sequence[str] = (), waits: bool = True) -> None:
        """Start it, and wait until it serves unless *waits* is false. *command*: in place of ``PROGRAM``."""
        command = command or [sys.executable, "-c", PROGRAM, str(directory)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._channel: grpc.Channel | None = None
        if waits:
            self.wait_line("serving gRPC on port")

    @property
    def port(self) -> int:
        return int(self.wait_line("serving gRPC on port")["message"].split()[4])

    @property
    def http_port(self) -> int:
        """Its HTTP port; waits until it serves."""
        return int(self.wait_line("serving gRPC on port")["message"].split()[9])

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return self._channel

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("")
            self._news.notify_all()

    def wait_line(self, text: str, *, count: int = 1, or_end: bool = False) -> dict[str, str]:
        """Return the first line of the log that holds *text*, or the *count*-th one.

        *or_end*: return an empty dict if the process ends without it.
        """

        def found() -> str | None:
            lines = [line for line in self.lines if text in line or not line]
            return lines[count - 1] if len(lines) >= count else "" if "" in lines else None

        with self._news:
            self._news.wait_for(lambda: found() is not None, 60)
            line = found()
        if or_end and line == "":
            return {}
        assert line, self.lines
        parsed: dict[str, str] = json.loads(line)
        return parsed

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as an operator does; return its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._close()
        return code

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self._channel is not None:
            self._channel.close()


class Writer(threading.Thread):
    """Writes batches until the daemon is gone, and remembers what was acknowledged."""

    def __init__(self, port: int, metadata: object, questions: list[object], count: int) -> None:
        super().__init__(daemon=True)
        self._port, self._metadata, self._questions, self._count = port, metadata, questions, count
        self.acknowledged: dict[int, bytes] = {}
        self.has_written = threading.Event()

    def run(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            stub = access_service_pb2_grpc.AccessServiceStub(channel)
            for _ in range(self._count // BATCH):
                requests = [
                    ac.AuthorizeAccessRequest(request_id=request_id(), question=each)
                    for each in random.choices(self._questions, k=BATCH)
                ]
                try:
                    answer = stub.BatchAuthorizeAccesses(
                        ac.BatchAuthorizeAccessesRequest(requests=requests), metadata=self._metadata, timeout=60
                    )
                except grpc.RpcError:
                    return
                for result in answer.results:
                    if result.response.HasField("receipt"):
                        receipt = result.response.receipt
                        self.acknowledged[receipt.index] = receipt.leaf_hash
                if self.acknowledged:
                    self.has_written.set()
