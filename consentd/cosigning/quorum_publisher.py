"""The threads that have checkpoints cosigned by witnesses and publish them; the package's docstring explains how."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from consentd.clock import Clock
from consentd.config import WitnessConfig
from consentd.core.checkpoint import Checkpoint, format_checkpoint, open_checkpoint, parse_checkpoint
from consentd.core.note import NoteSignature, NoteVerifier, Verifier, open_note, parse_note
from consentd.core.quorum import WitnessPolicy, is_satisfied
from consentd.cosigning.publication import CosignedCheckpoint, Publication
from consentd.cosigning.publisher import RUNBOOK, Halt, Publish, Published, read_published
from consentd.cosigning.witness_client import WitnessClient, WitnessResponse, WitnessResult, make_clients
from consentd.errors import ConsentdError, CorruptionError, StorageError, VerificationError
from consentd.files import write_file
from consentd.ledger.rotations import log_verifier_at
from consentd.metrics import Metrics
from consentd.store import Store

log = logging.getLogger(__name__)

RETRY_MS = (200, 30_000)
"""The wait before the next request after a witness's first failure, and the longest such wait."""
_RECHECK_MS = 1_000  # no event reports that a cosignature became too old, so the publisher checks at this interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedLog:
    """The log whose checkpoints are published, as it was when the ledger was opened.

    Attributes:
        verifier: the log key that signs now, or will sign the next checkpoint.
        size: the number of leaves. If a witness knows a larger tree, leaves were lost.
        last_signed: the last signed note, already verified; None if nothing was signed yet.
        published_path: the file of the note published last.
    """

    verifier: Verifier
    store: Store
    size: int
    last_signed: bytes | None
    published_path: Path


@dataclass(slots=True, eq=False)
class _WitnessThread:
    """The thread that sends requests to one witness.

    Attributes:
        failures, last_result: the number of failures in a row, and the last result. Only the thread uses them.
        has_answered: the first request has ended, even if no answer came. Guarded by ``QuorumPublisher._changed``.
        not_before_ms: when the next request may be sent. Guarded by ``QuorumPublisher._changed``.
    """

    client: WitnessClient
    failures: int = 0
    last_result: WitnessResult | None = None
    has_answered: bool = False
    not_before_ms: int = 0
    thread: threading.Thread | None = None


class QuorumPublisher:
    """A ``Publisher`` that waits for the quorum of a witness policy.

    If a checkpoint has no quorum at its timeout, the witnesses are asked again, and a late quorum publishes it. Until
    then the earlier checkpoint stays public. With ``fail_open`` the checkpoint is published without a quorum.
    """

    def __init__(
        self, signed_log: SignedLog, policy: WitnessPolicy, config: WitnessConfig, *, clock: Clock, metrics: Metrics,
        retry_ms: tuple[int, int] = RETRY_MS,
    ) -> None:  # fmt: skip
        """Prepare the publisher; ``start`` sends the first requests. Raises the errors of ``make_clients``."""
        self._log, self._policy = signed_log, policy
        self._clock = clock
        self._metrics = metrics
        self._timeout_ms = config.timeout_ms
        self._recosign_ms = config.recosign_interval_ms
        self._retry_ms = retry_ms
        clients = make_clients(
            policy, signed_log.verifier, store=signed_log.store, timeout_ms=config.timeout_ms, wall_ms=clock.wall_ms
        )
        self._witnesses = [_WitnessThread(client) for client in clients]
        self._publish: Publish = lambda published: None
        self._halt: Halt = lambda error: None
        # This lock guards all attributes below. start, offer, pending, stop, _set_ended, _next, _wait_for_target and
        # _record take it. ``has_quorum`` and ``_known_size`` are read without the lock: each is a single value.
        self._changed = threading.Condition()
        self._known_size = signed_log.size
        self._publication = Publication(
            policy, timeout_ms=config.timeout_ms, fail_open=config.fail_open, metrics=metrics
        )
        self._fault: CorruptionError | None = None
        self._stop_by_ms: int | None = None
        self._ended = False
        self._thread = self._make_thread("publisher", self._publish_due)

    @property
    def has_quorum(self) -> bool:
        """See ``Publisher.has_quorum``."""
        return self._publication.has_quorum

    def start(self, publish: Publish, halt: Halt) -> None:
        """Publish again the note that was published last, start the threads, and wait for the witnesses' first answers.

        Each witness is asked to cosign the last signed checkpoint, and may take ``timeout_ms`` to answer. If this
        ledger and its last signed note were replaced by older copies, a witness reports a larger tree. The start then
        fails before the ledger signs anything. If no witness answers in time, this stays unnoticed.

        Raises:
            CorruptionError: a witness knows a larger tree than ours, or the note published last contradicts the store.
        """
        self._publish, self._halt = publish, halt
        opened = self._log
        published = read_published(opened.published_path, opened.verifier, store=opened.store, size=opened.size)
        with self._changed:
            self._restore(published)
            has_target = self._publication.target is not None
        if published is not None:
            publish(published)
        self._thread.start()
        for witness in self._witnesses:
            witness.thread = self._make_thread("witness", partial(self._cosign_targets, witness))
            witness.thread.start()
        if not has_target:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or all(witness.has_answered for witness in self._witnesses), self._timeout_ms / 1000
            )
            fault = self._fault
        if fault is not None:
            self._end()
            raise fault

    def offer(self, point: Checkpoint, note: bytes) -> None:
        """Offer the latest checkpoint."""
        now_ms = self._clock.monotonic_ms()
        offered = CosignedCheckpoint(point, format_checkpoint(point), parse_note(note).unverified, now_ms)
        with self._changed:
            self._known_size = point.size
            self._publication.offer(offered)
            self._changed.notify_all()

    def pending(self) -> frozenset[int]:
        """Return the target's size, if there is a target."""
        with self._changed:
            # A target that is marked as published is included too: the sequencer may not have received its note yet.
            target = self._publication.target
            return frozenset() if target is None else frozenset((target.point.size,))

    def is_cosigned(self, note: bytes) -> bool:
        """See ``Publisher.is_cosigned``."""
        keys = {line.name: line.verifier for line in self._policy.witnesses if line.verifier is not None}
        cosigners = {name for name, key in keys.items() if _find_signature(note, key) is not None}
        return is_satisfied(self._policy, cosigners)

    def names_log(self, key: Verifier) -> bool:
        """See ``Publisher.names_log``."""
        return not self._policy.logs or any(line.verifier == key for line in self._policy.logs)

    def stop(self) -> None:
        """Wait up to ``timeout_ms`` for the quorum of the checkpoint offered last, then stop all threads."""
        with self._changed:
            self._stop_by_ms = self._clock.monotonic_ms() + self._timeout_ms
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self._end()

    # -- start and stop ---------------------------------------------------------------------------------------

    def _restore(self, published: Published | None) -> None:
        """Make the last signed checkpoint the first target. The caller holds ``_changed``; no thread runs yet.

        If the last signed checkpoint was already published, it keeps the cosignatures of the published note.
        """
        cosignatures: dict[str, NoteSignature] = {}
        if published is not None:
            for witness in self._witnesses:
                for name, key in witness.client.verifiers.items():
                    line = _find_signature(published.note, key)
                    if line is not None:
                        cosignatures[name] = line
                        witness.client.size = published.checkpoint.size
        if self._log.last_signed is None:
            return
        claimed = parse_checkpoint(parse_note(self._log.last_signed).text)
        signer = log_verifier_at(self._log.store, claimed.size, self._log.verifier)
        point, opened = open_checkpoint(self._log.last_signed, signer.name, signer)
        now_ms = self._clock.monotonic_ms()
        first = CosignedCheckpoint(point, opened.text, parse_note(self._log.last_signed).unverified, now_ms, now_ms)
        is_published = published is not None and published.checkpoint == point
        if is_published:
            first.cosignatures = cosignatures
        self._publication.restore(first, is_published=is_published)

    def _end(self) -> None:
        self._set_ended()
        for witness in self._witnesses:
            witness.client.connection.close()
            if witness.thread is not None:
                witness.thread.join()
            witness.client.connection.release()

    def _make_thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        """Return a thread that halts the ledger if *run* raises. Otherwise nobody would notice the outage."""

        def run_guarded() -> None:
            try:
                run()
            except BaseException as error:
                log.critical("publishing stopped", exc_info=error)
                self._set_ended()
                self._halt(error if isinstance(error, ConsentdError) else StorageError("publisher failed"))

        return threading.Thread(target=run_guarded, name=name, daemon=True)

    def _set_ended(self, fault: CorruptionError | None = None) -> None:
        """Make all threads end. INVARIANT: from now on ``_next`` returns no note, even if a target has a quorum."""
        with self._changed:
            self._fault = self._fault or fault
            self._ended = True
            self._changed.notify_all()

    # -- the publisher's thread -------------------------------------------------------------------------------

    def _publish_due(self) -> None:
        while (published := self._next()) is not None:
            # If the process crashes here, nobody has seen the note. The next start has its checkpoint cosigned again.
            if not self._write(published):
                return
            # If the process crashes here, nobody has seen the note. The next start publishes it from the file.
            self._publish(published)

    def _write(self, published: Published) -> bool:
        """Write a note to its file, if necessary many times: nobody has seen the note. Return False at the end."""
        is_logged = False
        while True:
            try:
                write_file(self._log.published_path, published.note, name="published checkpoint")
                return True
            except StorageError as error:
                self._metrics.shortages.inc("publish")
                if not is_logged:
                    log.error("publishing is postponed: %s; see ops/RUNBOOK.md, ConsentdShortage", error)
                is_logged = True
            with self._changed:
                if self._stop_by_ms is not None and self._clock.monotonic_ms() >= self._stop_by_ms:
                    return False
                self._changed.wait_for(lambda: self._ended, _RECHECK_MS / 1000)
                if self._ended:
                    return False

    def _next(self) -> Published | None:
        """Wait for the next note to publish; return None when the publisher must stop."""
        with self._changed:
            while not self._ended:
                now_ms = self._clock.monotonic_ms()
                if self._publication.advance(now_ms):
                    self._changed.notify_all()
                published = self._publication.take_due(now_ms)
                if published is not None:
                    return published
                if self._stop_by_ms is not None and (self._publication.is_settled() or now_ms >= self._stop_by_ms):
                    return None
                due_ms = now_ms + _RECHECK_MS if self._stop_by_ms is None else self._stop_by_ms
                timeout_at_ms = self._publication.timeout_at_ms(now_ms)
                due_ms = due_ms if timeout_at_ms is None else min(due_ms, timeout_at_ms)
                self._changed.wait(max(0, due_ms - now_ms) / 1000)
        return None

    # -- a witness's thread -----------------------------------------------------------------------------------

    def _cosign_targets(self, witness: _WitnessThread) -> None:
        client = witness.client
        while (target := self._wait_for_target(witness)) is not None:
            started = time.perf_counter()
            response = client.request_cosignature(
                target.point, target.text, target.log_signatures, read_known_size=lambda: self._known_size
            )
            witness.failures = 0 if response.result is WitnessResult.COSIGNED else witness.failures + 1
            if response.result is WitnessResult.LARGER:
                self._stop_on_larger(client.name, response.detail)
            self._record(witness, target, response)
            self._count(witness, response, time.perf_counter() - started)

    def _wait_for_target(self, witness: _WitnessThread) -> CosignedCheckpoint | None:
        """Wait until a request to the witness is due; return the checkpoint to send, or None if the thread must end."""
        with self._changed:
            while not self._ended:
                target, now_ms, due_ms = self._publication.target, self._clock.monotonic_ms(), None
                if target is not None:
                    last_ms = target.cosigned_ms.get(witness.client)
                    due_ms = max(witness.not_before_ms, 0 if last_ms is None else last_ms + self._recosign_ms)
                    if due_ms <= now_ms:
                        return target
                self._changed.wait(None if due_ms is None else (due_ms - now_ms) / 1000)
        return None

    def _record(self, witness: _WitnessThread, target: CosignedCheckpoint, response: WitnessResponse) -> None:
        with self._changed:
            now_ms = self._clock.monotonic_ms()
            witness.has_answered = True
            witness.not_before_ms = now_ms + self._retry_wait_ms(witness.failures)
            self._publication.add_response(target, witness.client, response, now_ms)
            self._changed.notify_all()

    def _count(self, witness: _WitnessThread, response: WitnessResponse, elapsed_s: float) -> None:
        """Count a response in the metrics, and log the response if its result differs from the last result."""
        client, result = witness.client, response.result
        self._metrics.witness_answers.inc(client.label, result)
        if result is WitnessResult.COSIGNED:
            self._metrics.witness_seconds.observe(elapsed_s, client.label)
        if result is WitnessResult.OTHER_TREE:
            # The witness's claim is unsigned, so the claim is no evidence and the ledger continues. ``LARGER`` is also
            # unsigned, but if that claim is true, entries with receipts are lost, so the ledger stops.
            self._metrics.witness_alarms.inc(result)
            log.critical("witness `%s` saw another tree than ours: %s; %s", client.name, response.detail, RUNBOOK)
        elif result is not WitnessResult.LARGER and result != witness.last_result:
            level = logging.INFO if result is WitnessResult.COSIGNED else logging.WARNING
            log.log(level, "witness `%s`: %s %s", client.name, result, response.detail)
        witness.last_result = result

    def _retry_wait_ms(self, failures: int) -> int:
        """Return how long to wait after *failures* failures in a row.

        The wait doubles with each failure up to a maximum. It is then shortened at random by up to half, so that
        retries do not coincide. With ``RETRY_MS``: 100–200 ms, 200–400 ms, 400–800 ms … 15–30 s.
        """
        if not failures:
            return 0
        first_ms, longest_ms = self._retry_ms
        return round(min(longest_ms, first_ms << min(failures - 1, 20)) * random.uniform(0.5, 1.0))  # noqa: S311

    def _stop_on_larger(self, name: str, detail: str) -> None:
        fault = CorruptionError(
            f"witness `{name}` knows a larger tree than ours of size {self._known_size}: {detail}: this "
            f"ledger was rolled back, or another one signs in its name; {RUNBOOK}"
        )
        self._metrics.witness_alarms.inc(WitnessResult.LARGER)
        log.critical("%s", fault)
        self._set_ended(fault)
        self._halt(fault)


def _find_signature(note: bytes, key: NoteVerifier) -> NoteSignature | None:
    """Return the signature by *key* on a note; None if the note has no valid signature by that key."""
    try:
        return open_note(note, [key]).verified[-1]
    except VerificationError:
        return None
