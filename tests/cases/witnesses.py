"""Fake witnesses: real HTTP servers that answer as C2SP tlog-witness says, or as a script says; and a log to cosign.

``FakeWitness`` shares no code with the witness we serve; what it knows of trees it knows from ``core.merkle``.
"""

import collections
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cases.fakes import FakeClock
from consentd.clock import Clock, SystemClock
from consentd.config import WitnessConfig
from consentd.core import checkpoint, ed25519, merkle, note, tiles
from consentd.core.checkpoint import Checkpoint
from consentd.core.quorum import WitnessPolicy, parse_policy
from consentd.cosigning.publisher import Published
from consentd.cosigning.quorum_publisher import QuorumPublisher, SignedLog
from consentd.errors import ConsentdError, VerificationError
from consentd.ledger import layout
from consentd.metrics import Counter, Gauge, Metrics
from consentd.store import Batch
from consentd.store.memory import MemoryStore

WAIT_S = 20
"""How long a test waits for what must come. It is not slept: whatever comes ends the wait."""

Script = Callable[["FakeWitness", bytes], tuple[int, str, bytes] | None]
"""Answers a request in the witness's place; None: let it answer as it would."""


class FakeWitness:
    """A witness of one log, on loopback.

    Attributes:
        size, root: what it cosigned last.
        script: answers for the next requests, used up in order.
        asked: (old, size, status) of every request, in order; ``wait_asked`` waits for more.
    """

    def __init__(self, name: str, log: note.Verifier, *, url_of: "FakeWitness | None" = None, port: int = 0) -> None:
        self.name = name
        self.signer = note.Signer(name, ed25519.KeyPair(name.encode().ljust(32, b".")[:32]), note.COSIGNATURE)
        self.log = log
        self.size, self.root = 0, merkle.EMPTY_ROOT
        self.time_s: Callable[[], int] = lambda: int(time.time())
        self.script: deque[Script] = deque()
        self.asked: list[tuple[int, int, int]] = []
        self._news = threading.Condition()
        self._release = threading.Event()
        self.start(port)

    def start(self, port: int = 0) -> None:
        """Listen; at the port of before, if there was one."""
        witness = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, kind, answer = witness.answer(self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that does not wait is part of the tests

        self._release.clear()
        self._server = Server(("127.0.0.1", port), Handler)
        self._connections: list[Any] = []
        accept = self._server.get_request

        def get_request() -> Any:
            accepted = accept()
            self._connections.append(accepted[0])
            return accepted

        self._server.get_request = get_request  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and break every connection, as a killed process does."""
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for each in self._connections:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/w/"

    @property
    def line(self) -> str:
        """Its line of a policy file."""
        return f"witness {self.name} {note.format_vkey(self.signer.verifier)} {self.url}\n"

    def wait_asked(self, count: int) -> list[tuple[int, int, int]]:
        """Wait until *count* requests were answered, and return them all."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.asked) >= count, WAIT_S), self.asked
            return list(self.asked)

    def hold(self) -> "Held":
        """Hold the next answer back until it is released, or the witness is stopped."""
        held = Held()

        def wait(witness: "FakeWitness", body: bytes) -> None:
            held.asked.set()
            while not held.go.wait(0.02) and not witness._release.is_set():
                pass

        self.script.append(wait)
        return held

    def answer(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Answer a request."""
        scripted = self.script.popleft()(self, body) if self.script else None
        answered = scripted or (self._cosign(body) if path == "/w/add-checkpoint" else (404, "text/plain", b""))
        lines = body.split(b"\n\n")[1].decode().split("\n") if b"\n\n" in body else ["", "-1"]
        with self._news:
            self.asked.append((int(body.split(b"\n")[0].removeprefix(b"old ")), int(lines[1]), answered[0]))
            self._news.notify_all()
        return answered

    def _cosign(self, body: bytes) -> tuple[int, str, bytes]:
        head, _, text = body.partition(b"\n\n")
        first, *lines = head.decode().split("\n")
        old, proof = int(first.removeprefix("old ")), [note.decode_base64(line) for line in lines]
        if text.decode().split("\n")[0] != self.log.name:
            return 404, "text/plain", b"unknown log\n"
        try:
            point, opened = checkpoint.open_checkpoint(text, self.log.name, self.log)
        except VerificationError:
            return 403, "text/plain", b"no trusted signature\n"
        if old > point.size:
            return 400, "text/plain", b"old size is larger\n"
        if old != self.size:
            return 409, "text/x.tlog.size", b"%d\n" % self.size
        try:
            if old:
                merkle.verify_consistency(proof, size1=old, root1=self.root, size2=point.size, root2=point.root)
            elif proof:
                return 422, "text/plain", b"proof from nothing\n"
        except VerificationError:
            return 422, "text/plain", b"bad proof\n"
        self.size, self.root = point.size, point.root
        return 200, "text/plain", self.lines(opened.text)

    def lines(self, text: str) -> bytes:
        """Return its cosignature of a text, as it answers it."""
        return (note.format_signature(self.signer.cosign(text, self.time_s())) + "\n").encode()


class Held:
    """An answer that is held back."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()

    def wait_asked(self) -> None:
        assert self.asked.wait(WAIT_S)

    def release(self) -> None:
        self.go.set()


class WatchedGauge:
    """A gauge whose fall to 0 can be waited for."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._fallen = threading.Event()

    def set(self, figure: float) -> None:
        self._gauge.set(figure)
        if figure:
            self._fallen.clear()
        else:
            self._fallen.set()

    def wait_fallen(self) -> None:
        assert self._fallen.wait(WAIT_S)


class WatchedCounter:
    """A counter whose figure can be waited for."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counts: collections.Counter[tuple[str, ...]] = collections.Counter()
        self._news = threading.Condition()

    def inc(self, *values: str) -> None:
        self._counter.inc(*values)
        with self._news:
            self._counts[values] += 1
            self._news.notify_all()

    def wait(self, count: int, *values: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self._counts[values] >= count, WAIT_S), self._counts


def status(code: int, body: bytes = b"", kind: str = "text/plain") -> Script:
    """Answer with this."""
    return lambda witness, request: (code, kind, body)


class Log:
    """A log of numbered leaves in memory, which signs its checkpoint whenever it grows."""

    def __init__(self, origin: str, seed: bytes, word: str = "leaf") -> None:
        self.signer = note.Signer(origin, ed25519.KeyPair(seed))
        self.store = MemoryStore()
        self.edge = tiles.Edge()
        self.word = word

    def grow(self, count: int = 1) -> tuple[Checkpoint, bytes]:
        """Append leaves, and sign."""
        leaves = [f"{self.word} {index}".encode() for index in range(self.edge.size, self.edge.size + count)]
        self.edge, changed = self.edge.append([merkle.leaf_hash(leaf) for leaf in leaves])
        batch = Batch()
        for (level, n), row in changed.items():
            batch.put(layout.tile_key(level, n), row)
        self.store.write(batch)
        point = Checkpoint(self.signer.name, self.edge.size, self.edge.root())
        return point, checkpoint.sign_checkpoint(point, [self.signer])


class WitnessCase:
    """A log whose checkpoints a few fake witnesses cosign, and everything that was published of it.

    Attributes:
        last_signed: the note signed last.
        clock: the publisher's; the machine's unless a test puts a ``FakeClock`` here before ``start``.
        published: every note, in order; ``wait_published`` waits for one.
        halted: errors that stopped the log.
    """

    def __init__(self, directory: Path, *names: str, quorum: str = "all", origin: str = "log.test/case") -> None:
        self.directory = directory
        self.log = Log(origin, b"case".ljust(32, b"."))
        self.witnesses = [FakeWitness(name, self.log.signer.verifier) for name in names]
        self.quorum = quorum
        self.metrics = Metrics()
        self.has_quorum = WatchedGauge(self.metrics.quorum)
        self.metrics.quorum = self.has_quorum  # type: ignore[assignment]
        self._answers = WatchedCounter(self.metrics.witness_answers)
        self.metrics.witness_answers = self._answers  # type: ignore[assignment]
        self.shortages = WatchedCounter(self.metrics.shortages)
        self.metrics.shortages = self.shortages  # type: ignore[assignment]
        self.last_signed: bytes | None = None
        self.clock: Clock = SystemClock()
        self.published: queue.Queue[Published] = queue.Queue()
        self.halted: queue.Queue[ConsentdError] = queue.Queue()
        self.publisher: QuorumPublisher | None = None

    def policy(self) -> WitnessPolicy:
        text = f"log {note.format_vkey(self.log.signer.verifier)}\n" + "".join(each.line for each in self.witnesses)
        if self.quorum == "none":
            text += "quorum none\n"
        else:
            text += f"group all-of-them {self.quorum} {' '.join(each.name for each in self.witnesses)}\n"
            text += "quorum all-of-them\n"
        return parse_policy(text.encode())

    def make(
        self,
        *,
        policy: WitnessPolicy | None = None,
        verifier: note.Verifier | None = None,
        timeout_ms: int = 10_000,
        recosign_interval_ms: int = 240_000,
        fail_open: bool = False,
    ) -> QuorumPublisher:
        signed_log = SignedLog(
            verifier=verifier or self.log.signer.verifier,
            store=self.log.store,
            size=self.log.edge.size,
            last_signed=self.last_signed,
            published_path=self.directory / "checkpoint.published",
        )
        config = WitnessConfig(
            policy_file=self.directory / "policy", timeout_ms=timeout_ms, recosign_interval_ms=recosign_interval_ms,
            fail_open=fail_open,
        )  # fmt: skip
        return QuorumPublisher(
            signed_log, policy or self.policy(), config, clock=self.clock, metrics=self.metrics, retry_ms=(1, 20)
        )

    def start(self, **options: Any) -> None:
        self.publisher = self.make(**options)
        self.publisher.start(self.published.put, self.halted.put)

    def fake_clock(self) -> FakeClock:
        """Let the publisher and its witnesses read one clock that a test moves; call this before ``start``."""
        self.clock = clock = FakeClock()
        for witness in self.witnesses:
            witness.time_s = lambda: clock.wall_ms() // 1000
        return clock

    def offer(self, count: int = 1) -> Checkpoint:
        """Grow the log, and offer its checkpoint as the sequencer does."""
        point, signed = self.log.grow(count)
        self.last_signed = signed
        assert self.publisher is not None
        self.publisher.offer(point, signed)
        return point

    def advance_until_published(self, clock: FakeClock, size: int, cosigners: Sequence[str]) -> None:
        """Move the clock on, so that failed requests are repeated, until a note of *size* has these cosigners."""
        for _ in range(WAIT_S * 20):
            clock.advance(20)
            with suppress(queue.Empty):
                published = self.published.get(timeout=0.05)
                if published.checkpoint.size == size and self.cosigners(published) == list(cosigners):
                    return
        raise AssertionError("no such note was published")

    def wait_published(self, size: int, cosigners: Sequence[str] | None = None) -> list[str]:
        """Wait for a note of *size*, or of *size* with just these cosigners; return who cosigned it."""
        while True:
            published = self.published.get(timeout=WAIT_S)
            names = self.cosigners(published)
            if published.checkpoint.size == size and (cosigners is None or names == list(cosigners)):
                return names

    def cosigners(self, published: Published) -> list[str]:
        """Verify a note as published, and return who cosigned it."""
        keys = {witness.signer.verifier: witness.name for witness in self.witnesses}
        point, opened = checkpoint.open_checkpoint(
            published.note, self.log.signer.name, self.log.signer.verifier, witnesses=keys
        )
        assert point == published.checkpoint
        assert not opened.unverified
        return [line.name for line in opened.verified if line.name != self.log.signer.name]

    def wait_answers(self, witness: int, answer: str, count: int = 1) -> None:
        """Wait until so many answers were received and recorded."""
        self._answers.wait(count, f"w{witness}", answer)

    def answers(self, witness: int, answer: str) -> float:
        return self.metrics.value("consentd_witness_answers_total", witness=f"w{witness}", answer=answer)

    def stop(self) -> None:
        if self.publisher is not None:
            self.publisher.stop()
            self.publisher = None

    def close(self) -> None:
        for witness in self.witnesses:
            witness.stop()
        self.stop()
