"""Sign a checkpoint after each seal, and know which one is public.

The sequencer's thread signs: it reads the tree and the new leaves back from the store, signs the root, stores the note
outside the store as the last signed one, and offers it to the publisher. The publisher decides when the checkpoint is
public: at once, or when enough witnesses have cosigned it, which a thread of the publisher's own waits for.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from consentd.clock import Clock
from consentd.core import checkpoint
from consentd.core.note import NoteSigner, parse_note
from consentd.cosigning.publisher import Halt, ImmediatePublisher, Published, Publisher
from consentd.errors import CorruptionError, NotFoundError
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import read_last_signed, write_last_signed
from consentd.ledger.ledger import Ledger, decode_state
from consentd.ledger.map_history import MapHistory
from consentd.metrics import Metrics


@dataclass(frozen=True, slots=True)
class CheckpointSigning:
    """How checkpoints are signed, remembered and published.

    Attributes:
        signers: of each checkpoint; the log key's first.
        last_signed_path: file of the note signed last.
    """

    signers: tuple[NoteSigner, ...]
    last_signed_path: Path
    publisher: Publisher = field(default_factory=ImmediatePublisher)


class Checkpoints:
    """The checkpoints of one ledger.

    Attributes:
        signed: the checkpoint signed last, published or not. Owner: the sequencer's thread, which replaces it by
            assignment; any thread may read it.
        published: the public one. Replaced by assignment in ``_publish``, which the publisher calls; any thread may
            read it.
    """

    def __init__(
        self, ledger: Ledger, origin: str, signing: CheckpointSigning, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._origin = origin
        self._signing = signing
        self.publisher = signing.publisher
        self._clock = clock
        self._metrics = metrics
        self.signed: checkpoint.Checkpoint | None = None
        self.published: Published | None = None
        # Guards _ended, and signals every change of it and of published. Taken by _publish, wait and end_waits.
        self._changed = threading.Condition()
        self._ended = False
        metrics.quorum.set(1)
        if not isinstance(self.publisher, ImmediatePublisher):
            # The public checkpoint may be older than the last seal, and proofs against it need the map of its time.
            ledger.map.history = MapHistory(ledger.state.sealed_size)

    def start(self, halt: Halt) -> None:
        """Start the publisher; see ``Publisher.start``."""
        self.publisher.start(self._publish, halt)

    def wait(self, size: int, timeout_s: float) -> Published | None:
        """Wait for a public checkpoint of at least *size* leaves; None after *timeout_s* or ``end_waits``."""
        with self._changed:
            self._changed.wait_for(lambda: self._covers(size) or self._ended, timeout_s)
            return self.published if self._covers(size) else None

    def _covers(self, size: int) -> bool:
        return self.published is not None and self.published.checkpoint.size >= size

    def latest(self) -> Published:
        """Return the public checkpoint. Raises ``NotFoundError``: none is published yet."""
        if self.published is None:
            raise NotFoundError("no checkpoint is published yet")
        return self.published

    def end_waits(self) -> None:
        """End every ``wait``: no further checkpoint will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def sign(self) -> None:
        """Sign what is read back from the store, store the note outside it, then offer the note to the publisher.

        Raises:
            CorruptionError: the store does not hold what was written, or is smaller than the checkpoint signed last.
        """
        ledger = self._ledger
        state = decode_state(ledger.store.get(layout.STATE) or b"")
        root = reads.root_at(ledger.store, state.size)
        if (state.size, root) != (ledger.state.size, ledger.state.root):
            raise CorruptionError(f"store does not hold what was written at size {ledger.state.size}")
        last_size = self._last_signed_size()
        if state.size < last_size:
            raise CorruptionError(f"ledger is smaller than its last signed checkpoint: size {state.size}")
        # A leaf damaged since it was written is found here, before a checkpoint covers it, while its author still has
        # a copy of what it sent.
        reads.verify_leaves(ledger.store, last_size, state.size)
        point = checkpoint.Checkpoint(self._origin, state.size, root)
        note = checkpoint.sign_checkpoint(point, self._signing.signers)
        # A crash here: the note is signed and nobody has it. The next start signs the same tree to the same note.
        write_last_signed(self._signing.last_signed_path, note)
        # A crash here: the note is stored and not public. The next start offers it again.
        self.signed = point
        self.publisher.offer(point, note)
        self._keep_maps()

    def _last_signed_size(self) -> int:
        """Return the size signed last by this process, or else by an earlier one; 0: none was signed."""
        if self.signed is not None:
            return self.signed.size
        note = read_last_signed(self._signing.last_signed_path)
        return 0 if note is None else checkpoint.parse_checkpoint(parse_note(note).text).size

    def _keep_maps(self) -> None:
        """Drop all past maps, except those of the public checkpoint and of checkpoints that may become public."""
        history, published = self._ledger.map.history, self.published
        if history is not None:
            # INVARIANT: no map that is still needed is dropped. ``pending`` is called after the offer, and a publisher
            # moves on to the latest offer only. So the next size that it publishes is in ``pending``, or is this one,
            # or a later one.
            public_size = 0 if published is None else published.checkpoint.size
            history.keep({*self.publisher.pending(), public_size})

    def _publish(self, published: Published) -> None:
        """Make a checkpoint public. Called by the publisher, on any thread."""
        size, before = published.checkpoint.size, self.published
        with self._changed:
            self.published = published
            self._changed.notify_all()
        self._metrics.checkpoint_size.set(size)
        if before is None or before.checkpoint.size < size:
            self._metrics.checkpoints.inc()
        self._metrics.checkpoint_time_seconds.set(self._clock.wall_ms() / 1000)
