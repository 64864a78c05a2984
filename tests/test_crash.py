"""Kill -9 in the middle of thousands of concurrent writes: nothing acknowledged is lost, the daemon opens by itself.

A real process with real RocksDB and LMDB is killed at a random moment; the next one opens the same directory, with
no hand laid on it. ``CONSENTD_CRASH_ROUNDS`` says how many kills (20 in CI).
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, make_config, make_running, question, request_id
from consentd.core import merkle
from consentd.ledger.reads import read_leaf
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc

ROUNDS = int(os.environ.get("CONSENTD_CRASH_ROUNDS", "3"))
WRITES = 10_000
WRITERS = 8
BATCH = 25

SERVE = """
import sys
from pathlib import Path
from consentd import logs
from consentd.server import daemon
from cases.daemons import make_config
logs.configure("info")
daemon.serve(make_config(Path(sys.argv[1])))
"""


class Process:
    """A daemon in a process of its own."""

    def __init__(self, directory: Path) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(directory)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stderr is not None
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self.port = self._wait_port()

    def _wait_port(self) -> int:
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:
            lines.append(line)
            if "serving gRPC on port" in line:
                self._drain.start()
                return int(json.loads(line)["message"].split()[4])
        raise AssertionError(f"daemon did not start: {lines}")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class Writer(threading.Thread):
    """Writes batches until the daemon is gone, and remembers what was acknowledged."""

    def __init__(self, port: int, metadata: object, questions: list[object], count: int) -> None:
        super().__init__(daemon=True)
        self._port, self._metadata, self._questions, self._count = port, metadata, questions, count
        self.acknowledged: dict[int, bytes] = {}

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
                    receipt = result.response.receipt
                    self.acknowledged[receipt.index] = receipt.leaf_hash


@pytest.mark.slow
def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    first = make_running(tmp_path)
    subjects = [first.enrol(f"SYN-{number:06d}") for number in range(40)]
    for subject in subjects[::2]:
        first.grant(subject)
    questions = [question(subject) for subject in subjects]
    metadata = first.as_("app")
    first.stop()
    acknowledged: dict[int, bytes] = {}
    moments = random.Random(20)
    for _ in range(ROUNDS):
        process = Process(tmp_path)
        writers = [Writer(process.port, metadata, questions, WRITES // WRITERS) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        # A real moment of a real run: waiting for progress instead would always kill at the same kind of place.
        threading.Event().wait(moments.uniform(0.1, 1.5))
        process.kill()
        for writer in writers:
            writer.join()
            acknowledged |= writer.acknowledged
    assert acknowledged
    last = Running(make_config(tmp_path), first.tokens)
    try:
        assert last.check_ledger() > len(acknowledged)
        assert last.daemon.service_state.services is not None
        store = last.daemon.service_state.services.ledger.store
        for index, leaf_hash in acknowledged.items():
            assert merkle.leaf_hash(read_leaf(store, index)) == leaf_hash
    finally:
        last.stop()

