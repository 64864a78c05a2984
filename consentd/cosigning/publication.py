"""Decide which checkpoint the witnesses cosign, and when the note of that checkpoint is due to be published.

The classes here start no threads and read no clock. The caller passes ``now_ms`` (monotonic time), and holds its lock
during each call.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from consentd.core.checkpoint import Checkpoint
from consentd.core.note import NoteSignature, format_note
from consentd.core.quorum import WitnessLine, WitnessPolicy, is_satisfied
from consentd.cosigning.publisher import Published
from consentd.cosigning.witness_client import WitnessClient, WitnessResponse
from consentd.metrics import Metrics

log = logging.getLogger(__name__)

FRESH_MS = 300_000
"""Cosignatures of this age or older do not count for the quorum, because clients ignore them too."""


@dataclass(slots=True, eq=False)
class CosignedCheckpoint:
    """A signed checkpoint and the cosignatures received for it so far.

    Attributes:
        text, log_signatures: the text of the checkpoint's note, and the log's own signature lines.
        offered_ms: when the sequencer offered the checkpoint.
        requested_ms: when the checkpoint became the target, so that witnesses are asked to cosign it.
        cosignatures: the cosignatures by the names that the policy gives to the witness keys.
        cosigned_ms: when the last cosignature of each witness arrived.
        is_changed: a cosignature arrived after the checkpoint's note was last published.
        is_late: the checkpoint had no quorum within the timeout.
        is_passed: a witness has cosigned a larger checkpoint. It will not cosign this smaller one.
    """

    point: Checkpoint
    text: str
    log_signatures: tuple[NoteSignature, ...]
    offered_ms: int
    requested_ms: int = 0
    cosignatures: dict[str, NoteSignature] = field(default_factory=dict)
    cosigned_ms: dict[WitnessClient, int] = field(default_factory=dict)
    is_changed: bool = False
    is_late: bool = False
    is_passed: bool = False

    def cosigners(self, *, since_ms: int) -> set[str]:
        """Return the policy's names of the witness keys whose cosignatures arrived after *since_ms*."""
        fresh = [witness for witness, at_ms in self.cosigned_ms.items() if at_ms > since_ms]
        return {name for witness in fresh for name in witness.verifiers if name in self.cosignatures}

    def format_note(self, order: Sequence[WitnessLine]) -> bytes:
        """Return the note with the log's signatures, then the cosignatures in the order of the policy's witnesses."""
        names = [witness.name for witness in order if witness.name in self.cosignatures]
        return format_note(self.text, [*self.log_signatures, *(self.cosignatures[name] for name in names)])


class Publication:
    """The latest checkpoint, the target (the checkpoint that witnesses are asked to cosign), and the published one.

    ``has_quorum`` becomes true when a target has a quorum, and false if a target has none when its timeout ends.
    """

    def __init__(self, policy: WitnessPolicy, *, timeout_ms: int, fail_open: bool, metrics: Metrics) -> None:
        self._policy = policy
        self._timeout_ms = timeout_ms
        self._fail_open = fail_open
        self._metrics = metrics
        self.target: CosignedCheckpoint | None = None
        self.has_quorum = True
        self._latest: CosignedCheckpoint | None = None
        self._published: CosignedCheckpoint | None = None
        self._waiting = 0  # how many checkpoints were offered after the published one

    def restore(self, last_signed: CosignedCheckpoint, *, is_published: bool) -> None:
        """Make the checkpoint that the ledger signed last before this start the first target."""
        self._latest = self.target = last_signed
        if is_published:
            self._published = last_signed
        else:
            self._waiting = 1

    def offer(self, offered: CosignedCheckpoint) -> None:
        """Replace the latest checkpoint. An equal checkpoint is ignored, so that the latest keeps its cosignatures."""
        if self._latest is not None and self._latest.point == offered.point:
            return
        self._latest = offered
        self._set_waiting(self._waiting + 1)

    def advance(self, now_ms: int) -> bool:
        """Make the latest checkpoint the target if the old target is published or passed; return whether it changed."""
        target = self.target
        if self._latest is target or not (target is None or target is self._published or target.is_passed):
            return False
        assert self._latest is not None, "it differs from the target, so one was offered"
        self.target = self._latest
        self.target.requested_ms = now_ms
        self._waiting = 1
        return True

    def add_response(
        self, target: CosignedCheckpoint, witness: WitnessClient, response: WitnessResponse, now_ms: int
    ) -> None:
        """Add the cosignatures of a response to *target*, the checkpoint that was sent to the witness."""
        target.is_passed |= witness.size > target.point.size
        if response.cosignatures:
            target.cosignatures.update(response.cosignatures)
            target.cosigned_ms[witness] = now_ms
            target.is_changed = True

    def take_due(self, now_ms: int) -> Published | None:
        """Return the target's note and mark the target as published, if it is due; otherwise return None.

        A target is first due when it has a quorum (with ``fail_open``: when its timeout ends). After it was published,
        it is due again when further cosignatures have arrived.
        """
        target = self.target
        if target is None or not self._is_due(target, now_ms):
            return None
        target.is_changed = False
        if target is not self._published:
            self._metrics.publish_seconds.observe((now_ms - target.offered_ms) / 1000)
            self._set_waiting(self._waiting - 1)
        self._published = target
        return Published(target.point, target.format_note(self._policy.witnesses))

    def is_settled(self) -> bool:
        """Return whether ``stop`` can end without a wait: the latest checkpoint is published, or the target is late."""
        target = self.target
        return (target is self._published and target is self._latest) or (target is not None and target.is_late)

    def timeout_at_ms(self, now_ms: int) -> int | None:
        """Return when the target's timeout ends; None if there is no target, or if its timeout has ended."""
        if self.target is None or now_ms >= self.target.requested_ms + self._timeout_ms:
            return None
        return self.target.requested_ms + self._timeout_ms

    def _is_due(self, target: CosignedCheckpoint, now_ms: int) -> bool:
        is_new = target is not self._published
        if is_satisfied(self._policy, target.cosigners(since_ms=now_ms - FRESH_MS)):
            self._set_quorum(True)
            return is_new or target.is_changed
        if now_ms >= target.requested_ms + self._timeout_ms:
            became_late = is_new and not target.is_late
            if became_late:
                target.is_late = True
                self._metrics.publish_failures.inc()
            self._set_quorum(False)
            if became_late:
                return self._fail_open
        return not is_new and target.is_changed

    def _set_quorum(self, reached: bool) -> None:
        if reached != self.has_quorum:
            if reached:
                log.info("witnesses that answer are a quorum again")
            else:
                log.error("witnesses that answer are no quorum")
        self.has_quorum = reached
        self._metrics.quorum.set(reached)

    def _set_waiting(self, waiting: int) -> None:
        self._waiting = waiting
        self._metrics.checkpoints_waiting.set(waiting)
