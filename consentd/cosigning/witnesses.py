"""Publish what a quorum of witnesses cosigned. The theory stands in the package's text."""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from consentd.config import is_loopback
from consentd.core.checkpoint import Checkpoint, format_checkpoint, open_checkpoint
from consentd.core.note import MAX_SIGNATURES, NoteSignature, NoteVerifier, parse_note
from consentd.core.quorum import WitnessPolicy, is_satisfied
from consentd.cosigning.connection import Connection
from consentd.cosigning.publisher import Halt, Publish, Published
from consentd.cosigning.remote import COSIGNED, LARGER, OTHER_TREE, RemoteWitness, Reply
from consentd.cosigning.rounds import RUNBOOK, Round, Worker, line_by, read_published
from consentd.errors import ConsentdError, CorruptionError, InvalidError, StorageError
from consentd.ledger.last_signed import write_lock
from consentd.metrics import Metrics
from consentd.store import Store

log = logging.getLogger(__name__)

FRESH_MS = 300_000
"""From this age on a cosignature does not count for the quorum any more: clients will not count it either."""
LOOK_MS = 1_000
MAX_WITNESSES = MAX_SIGNATURES - 2
"""Their cosignatures stand on one note, with the log's own two."""
RETRY_MS = (200, 30_000)
"""Wait after the first failure of a witness, and the longest wait."""


class Witnesses:
    """All witnesses of a policy. A ``Publisher``."""

    def __init__(
        self,
        *,
        store: Store,
        policy: WitnessPolicy,
        log_verifier: NoteVerifier,
        ledger_size: int,
        locked: bytes | None,
        published_path: Path,
        metrics: Metrics,
        wall_ms: Callable[[], int],
        timeout_ms: int,
        recosign_interval_ms: int,
        fail_open: bool = False,
        retry_ms: tuple[int, int] = RETRY_MS,
    ) -> None:
        """Prepare; nothing is sent before ``start``.

        Args:
            store: where consistency is proven from.
            log_verifier: the log's key; its name is the origin.
            ledger_size: of the ledger as it was opened: no witness can know more.
            locked: the note in the lock, the last one signed; verified when the ledger was opened.
            published_path: where the last note published is kept.

        Raises:
            InvalidError: the policy is of another log, or has no quorum among witnesses that can be asked.
        """
        self._store = store
        self._policy = policy
        self._log_verifier = log_verifier
        self._locked = locked
        self._published_path = published_path
        self._metrics = metrics
        self._timeout_ms = timeout_ms
        self._recosign_ms = recosign_interval_ms
        self._fail_open = fail_open
        self._retry_ms = retry_ms
        self._workers = [Worker(witness) for witness in self._make_witnesses(wall_ms)]
        self._publish: Publish = lambda published: None
        self._halt: Halt = lambda error: None
        # Guarded by _wake, all below.
        self._wake = threading.Condition()
        self._known_size = ledger_size
        self._latest: Round | None = None
        self._target: Round | None = None
        self._shown: Round | None = None
        self._waiting = 0
        self._fault: CorruptionError | None = None
        self._quorum = True
        self._stop_by_ms: int | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._guard, args=(self._run,), name="publisher", daemon=True)

    @property
    def has_quorum(self) -> bool:
        """Whether the last checkpoint that was due had its quorum."""
        return self._quorum

    def start(self, publish: Publish, halt: Halt) -> None:
        """Show what was published before, ask every witness what it knows, and begin.

        Each witness is asked to cosign the checkpoint in the lock again. So a ledger that was rolled back together
        with its lock is found before it signs anything, unless no witness answers in time.

        Raises:
            CorruptionError: a witness, or the file of the last note published, knows a tree that is not ours.
        """
        self._publish, self._halt = publish, halt
        before = read_published(self._published_path, self._log_verifier, store=self._store, size=self._known_size)
        self._begin(before)
        if before is not None:
            publish(before)
        self._thread.start()
        for worker in self._workers:
            worker.thread = threading.Thread(
                target=self._guard, args=(self._work, worker), name="witness", daemon=True
            )
            worker.thread.start()
        if self._target is None:
            return
        with self._wake:
            self._wake.wait_for(self._is_greeted, self._timeout_ms / 1000)
            fault = self._fault
        if fault is not None:
            self._end()
            raise fault

    def offer(self, point: Checkpoint, note: bytes) -> None:
        """Take the latest checkpoint."""
        offered = Round(point, format_checkpoint(point), parse_note(note).unverified, _now_ms())
        with self._wake:
            self._known_size = point.size
            if self._latest is not None and self._latest.point == point:
                return  # the one in the lock, signed again: its cosignatures are being collected already
            self._latest = offered
            self._waiting += 1
            self._metrics.checkpoints_waiting.set(self._waiting)
            self._wake.notify_all()

    def pending(self) -> frozenset[int]:
        """Return the target's size."""
        with self._wake:
            # Also where it was taken to be published: what the sequencer sees as published may be the one before.
            return frozenset() if self._target is None else frozenset((self._target.point.size,))

    def stop(self) -> None:
        """Wait for the quorum of what was offered last, for no longer than a witness may take, and end."""
        with self._wake:
            self._stop_by_ms = _now_ms() + self._timeout_ms
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._end()

    # -- beginning and ending ---------------------------------------------------------------------------------

    def _make_witnesses(self, wall_ms: Callable[[], int]) -> list[RemoteWitness]:
        policy, key = self._policy, self._log_verifier
        if policy.logs and not any(line.verifier == key for line in policy.logs):
            raise InvalidError(f"witness policy does not name this log: `{key.name}`")
        usable = [line for line in policy.witnesses if line.url and line.verifier is not None]
        if not is_satisfied(policy, {line.name for line in usable}):
            raise InvalidError("witness policy has no quorum among the witnesses with a URL and a key we can verify")
        if len(usable) > MAX_WITNESSES:
            raise InvalidError(f"witness policy has more than {MAX_WITNESSES} witnesses that can be asked")
        made: dict[str, RemoteWitness] = {}
        for line in usable:
            assert line.verifier is not None
            # Lines of one URL are keys of one witness: it remembers one size, so one thread asks it.
            if line.url not in made:
                connection = Connection(line.url, timeout_s=self._timeout_ms / 1000)
                # A witness that says it knows a larger tree stops the ledger, and says so unsigned.
                if not connection.is_encrypted and not is_loopback(connection.host):
                    raise InvalidError(f"witness of another machine is not asked over https: `{line.url}`")
                label = f"w{policy.witnesses.index(line) + 1}"
                made[line.url] = RemoteWitness(
                    connection, name=line.name, label=label, verifiers={}, store=self._store, wall_ms=wall_ms
                )
            made[line.url].verifiers[line.name] = line.verifier
        return list(made.values())

    def _begin(self, before: Published | None) -> None:
        """Make the lock's checkpoint the first target, with the cosignatures it had when it was published."""
        known: dict[str, NoteSignature] = {}
        for worker in self._workers:
            for name, key in worker.witness.verifiers.items():
                line = None if before is None else line_by(key, before.note)
                if before is not None and line is not None:
                    known[name] = line
                    worker.witness.size = before.checkpoint.size
        if self._locked is None:
            return
        point, opened = open_checkpoint(self._locked, self._log_verifier.name, self._log_verifier)
        first = Round(point, opened.text, parse_note(self._locked).unverified, _now_ms(), _now_ms())
        self._latest = self._target = first
        if before is not None and before.checkpoint == point:
            first.cosignatures = known
            self._shown = first
        else:
            self._waiting = 1

    def _is_greeted(self) -> bool:
        return self._ended or all(worker.answered for worker in self._workers)

    def _end(self) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify_all()
        for worker in self._workers:
            worker.witness.connection.close()
            if worker.thread is not None:
                worker.thread.join()
            worker.witness.connection.release()

    def _guard(self, run: Callable[..., None], *args: Worker) -> None:
        """Run a thread. One that is gone without a word would be an outage that nobody sees."""
        try:
            run(*args)
        except BaseException as error:
            log.critical("publishing stopped", exc_info=error)
            with self._wake:
                self._ended = True
                self._wake.notify_all()
            self._halt(error if isinstance(error, ConsentdError) else StorageError("publisher failed"))

    # -- the publisher's thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while (published := self._next()) is not None:
            # A crash here: nobody has seen it, and it is cosigned again after the next start.
            write_lock(self._published_path, published.note)
            # A crash here: nobody has seen it, and the next start shows it.
            self._publish(published)

    def _next(self) -> Published | None:
        """Wait for the next note to publish; None at the end."""
        with self._wake:
            while not self._ended:
                self._advance()
                target, now = self._target, _now_ms()
                if target is not None and self._is_due(target, now):
                    return self._take(target)
                done = target is self._shown and target is self._latest
                late = target is not None and target.late
                if self._stop_by_ms is not None and (done or late or now >= self._stop_by_ms):
                    return None
                self._wake.wait(self._until_s(now))
        return None

    def _is_due(self, target: Round, now: int) -> bool:
        """Tell whether the target is to be published: new and cosigned, or cosigned anew."""
        is_new = target is not self._shown
        if is_satisfied(self._policy, target.cosigners(since_ms=now - FRESH_MS)):
            self._set_quorum(True)
            return is_new or target.news
        if now >= target.begun_ms + self._timeout_ms:
            self._set_quorum(False)
            if is_new and not target.late:
                target.late = True
                self._metrics.publish_failures.inc()
                return self._fail_open
        return not is_new and target.news

    def _advance(self) -> None:
        """Turn to the latest checkpoint, once the target is published or cannot be."""
        target = self._target
        if self._latest is not target and (target is None or target is self._shown or target.passed):
            self._target = self._latest
            assert self._target is not None
            self._target.begun_ms = _now_ms()
            self._waiting = 1
            self._wake.notify_all()

    def _take(self, target: Round) -> Published:
        target.news = False
        if target is not self._shown:
            self._metrics.publish_seconds.observe((_now_ms() - target.offered_ms) / 1000)
            self._waiting -= 1
            self._metrics.checkpoints_waiting.set(self._waiting)
        self._shown = target
        return Published(target.point, target.note(self._policy.witnesses))

    def _set_quorum(self, reached: bool) -> None:
        if reached != self._quorum:
            say = log.info if reached else log.error
            say("witnesses that answer are %s", "a quorum again" if reached else "no quorum")
        self._quorum = reached
        self._metrics.quorum.set(reached)

    def _until_s(self, now: int) -> float:
        """Return in how many seconds to look again though nothing came: cosignatures grow old by themselves."""
        due_ms = now + LOOK_MS if self._stop_by_ms is None else self._stop_by_ms
        if self._target is not None and now < self._target.begun_ms + self._timeout_ms:
            due_ms = min(due_ms, self._target.begun_ms + self._timeout_ms)
        return max(0, due_ms - now) / 1000

    # -- a witness's thread -----------------------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        while (target := self._await_work(worker)) is not None:
            asked = time.perf_counter()
            reply = worker.witness.ask(target.point, target.text, target.lines, known_size=self._read_known_size)
            if reply.outcome == COSIGNED:
                self._metrics.witness_seconds.observe(time.perf_counter() - asked, worker.witness.label)
            self._tell(worker, reply)
            self._keep(worker, target, reply)

    def _await_work(self, worker: Worker) -> Round | None:
        """Wait until a witness is to be asked, and return about what; None at the end."""
        with self._wake:
            while not self._ended:
                target, now, due = self._target, _now_ms(), None
                if target is not None:
                    last = target.cosigned_ms.get(worker)
                    due = max(worker.not_before_ms, 0 if last is None else last + self._recosign_ms)
                    if due <= now:
                        return target
                self._wake.wait(None if due is None else (due - now) / 1000)
        return None

    def _tell(self, worker: Worker, reply: Reply) -> None:
        """Count an answer, log where it is another than the last, and raise the alarm where it must be."""
        name, outcome = worker.witness.name, reply.outcome
        self._metrics.witness_answers.inc(worker.witness.label, outcome)
        worker.failures = 0 if outcome == COSIGNED else worker.failures + 1
        if outcome == LARGER:
            self._stop_on_larger(name, reply.detail)
        elif outcome == OTHER_TREE:
            # Its word alone, and no evidence: the quorum decides. ``larger`` is no evidence either, but there the
            # loss of going on, entries that somebody holds receipts of, is certain where it is true.
            self._metrics.witness_alarms.inc(outcome)
            log.critical("witness `%s` saw another tree than ours: %s; %s", name, reply.detail, RUNBOOK)
        elif outcome != worker.outcome:
            say = log.info if outcome == COSIGNED else log.warning
            say("witness `%s`: %s %s", name, outcome, reply.detail)
        worker.outcome = outcome

    def _keep(self, worker: Worker, target: Round, reply: Reply) -> None:
        with self._wake:
            now = _now_ms()
            worker.answered = True
            worker.not_before_ms = now + self._pause_ms(worker.failures)
            target.passed |= worker.witness.size > target.point.size
            if reply.cosignatures:
                target.cosignatures.update(reply.cosignatures)
                target.cosigned_ms[worker] = now
                target.news = True
            self._wake.notify_all()

    def _pause_ms(self, failures: int) -> int:
        """Return how long to wait after that many failures: twice as long each time, up to half less by chance."""
        if not failures:
            return 0
        least, most = self._retry_ms
        return round(min(most, least << min(failures - 1, 20)) * random.uniform(0.5, 1.0))  # noqa: S311

    def _read_known_size(self) -> int:
        with self._wake:
            return self._known_size

    def _stop_on_larger(self, name: str, detail: str) -> None:
        fault = CorruptionError(
            f"witness `{name}` knows a larger tree than ours of size {self._read_known_size()}: {detail}: this "
            f"ledger was rolled back, or another one signs in its name; {RUNBOOK}"
        )
        self._metrics.witness_alarms.inc(LARGER)
        log.critical("%s", fault)
        with self._wake:
            # INVARIANT: nothing more is taken up to be published, not even what has its quorum.
            self._fault = self._fault or fault
            self._ended = True
            self._wake.notify_all()
        self._halt(fault)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
