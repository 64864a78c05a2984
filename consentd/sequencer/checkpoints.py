"""Sign a checkpoint after each seal (a leaf that commits to all chain heads), and know which checkpoint is public.

The sequencer's thread reads the tree and the new leaves back from the store, signs the tree's root hash, stores the
signed note in a file outside the store, and offers the note to the publisher. The publisher makes the checkpoint public
immediately, or when enough witnesses have cosigned it. The publisher waits for witnesses on a thread of its own.

While the log key is being replaced, no larger tree may be sealed: the checkpoint of the seal right after the entry of
the rotation is the last one that the old key signs. It must be published, under the witnesses' quorum, and kept, before
the new key signs (``is_held``, ``take_next_key``). Source: ledger-format.md, "Rotation of keys".
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from consentd.clock import Clock
from consentd.core import checkpoint
from consentd.core.ed25519 import KeyPair
from consentd.core.note import NoteSigner, Signer, parse_note
from consentd.cosigning.publisher import Halt, ImmediatePublisher, Published, Publisher
from consentd.errors import CorruptionError, NotFoundError
from consentd.ledger import layout, reads
from consentd.ledger.last_signed import read_last_signed, write_last_signed
from consentd.ledger.ledger import Ledger, decode_state
from consentd.ledger.map_history import MapHistory
from consentd.ledger.rotations import keep_checkpoint
from consentd.metrics import Metrics
from consentd.waits import SizeWaits

HELD_S = 0.05
"""How often the sequencer asks whether the last checkpoint of a replaced log key is published."""
_RECHECK_S = 0.25  # a publisher does not report that it lost its quorum, so it is asked at this interval


@dataclass(frozen=True, slots=True)
class NextLogKey:
    """The log key that signs checkpoints of *from_size* leaves and more, as the ledger states."""

    signer: Signer
    from_size: int


@dataclass(frozen=True, slots=True)
class CheckpointSigning:
    """How checkpoints are signed, remembered and published.

    Attributes:
        signers: the signers of each checkpoint, the one with the log key first.
        last_signed_path: the file with the note that was signed last.
        verify_lock: raises StorageError if another process may sign in this ledger's name; see ``FileLock.verify``.
        from_size: no smaller tree is signed with the log key of *signers*; 0: it is the ledger's first log key.
        next_key: the key of a rotation that the ledger states, while the old key's last checkpoint is not kept yet.
    """

    signers: tuple[NoteSigner, ...]
    last_signed_path: Path
    publisher: Publisher = field(default_factory=ImmediatePublisher)
    verify_lock: Callable[[], None] = lambda: None
    from_size: int = 0
    next_key: NextLogKey | None = None


class Checkpoints:
    """The checkpoints of one ledger.

    Attributes:
        signed: the checkpoint that this process signed last, published or not; None: it has signed none. The
            sequencer's thread replaces the value by assignment; any thread may read it.
        published: the public checkpoint; None: there is none yet. ``_publish``, which the publisher calls, replaces the
            value by assignment; any thread may read it.
    """

    def __init__(
        self, ledger: Ledger, origin: str, signing: CheckpointSigning, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._origin = origin
        self._signing = signing
        # The sequencer's thread owns the two below; any thread may read them, because each is replaced by assignment.
        self._signers, self._from_size = signing.signers, signing.from_size
        self._next_key = signing.next_key
        self.publisher = signing.publisher
        self._clock = clock
        self._metrics = metrics
        self.signed: checkpoint.Checkpoint | None = None
        self.published: Published | None = None
        # This lock guards _ended, and signals changes of it and of published. _publish, wait and end_waits take it.
        self._changed = threading.Condition()
        self._ended = False
        self._waits = SizeWaits(
            "waits", self._published_size, is_hopeless=lambda: not self.publisher.has_quorum, recheck_s=_RECHECK_S
        )
        metrics.quorum.set(1)
        if not isinstance(self.publisher, ImmediatePublisher):
            # The public checkpoint may be older than the last seal. Proofs against it need the map as it was then.
            ledger.map.history = MapHistory(ledger.state.sealed_size)

    def start(self, halt: Halt) -> None:
        """Start the publisher; see ``Publisher.start``."""
        self.publisher.start(self._publish, halt)

    @property
    def log_key(self) -> bytes:
        """The public key of the log key that signs now. Any thread may read it."""
        signer = self._signers[0]
        assert isinstance(signer, Signer), "the first signer has the log key"
        return signer.verifier.public_key

    @property
    def is_held(self) -> bool:
        """Whether the log key is being replaced, so that no seal may be written. Any thread may read it."""
        return self._next_key is not None

    def replace_log_key(self, key: KeyPair) -> None:
        """Begin to replace the log key. The last leaf is the seal right after the rotation's entry, not signed yet."""
        self._next_key = NextLogKey(Signer(self._origin, key), self._ledger.state.size + 1)

    def take_next_key(self) -> bool:
        """Sign with the next log key from now on, if the last checkpoint of the old one is public; return whether.

        Raises:
            StorageError: the last checkpoint cannot be kept now; nothing has changed.
        """
        following, published = self._next_key, self.published
        if following is None or published is None or published.checkpoint.size != following.from_size - 1:
            return False
        if not self.publisher.is_cosigned(published.note):
            return False  # it was published without a quorum, and readers that require one could not follow
        keep_checkpoint(self._ledger, published.note)
        # A crash here: the next start finds the checkpoint kept, and signs with the next key.
        self._signers = (following.signer, *self._signers[1:])
        self._from_size, self._next_key = following.from_size, None
        return True

    def wait(self, size: int, timeout_s: float) -> Published | None:
        """Wait for a public checkpoint of at least *size* leaves; return None after *timeout_s* or ``end_waits``."""
        with self._changed:
            self._changed.wait_for(lambda: self._covers(size) or self._ended, timeout_s)
            return self.published if self._covers(size) else None

    def when_public(self, size: int, timeout_s: float) -> "Future[None]":
        """Return a future that is done when a public checkpoint has *size* leaves, or when waiting for it must end.

        The wait ends after *timeout_s*, at ``end_waits``, and when the witnesses that answer are no quorum: then nobody
        knows when a checkpoint becomes public. No thread waits with the caller.
        """
        return self._waits.when(size, timeout_s)

    def _published_size(self) -> int:
        return 0 if self.published is None else self.published.checkpoint.size

    def _covers(self, size: int) -> bool:
        return self.published is not None and self._published_size() >= size

    def latest(self) -> Published:
        """Return the public checkpoint. Raises ``NotFoundError`` if no checkpoint is published yet."""
        if self.published is None:
            raise NotFoundError("no checkpoint is published yet")
        return self.published

    def prove_heads(self, tags: Sequence[bytes]) -> tuple[reads.HeadProofs, Published]:
        """Prove heads at the public checkpoint; see ``Sequencer.prove_heads``. For the sequencer's thread only."""
        published = self.latest()
        return reads.prove_heads(self._ledger, tags, published.checkpoint.size), published

    def end_waits(self) -> None:
        """End every ``wait``, because no further checkpoint will become public."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._waits.end()

    def sign(self) -> None:
        """Sign the tree of the last seal as read back from the store, store the note, then offer it to the publisher.

        Raises:
            CorruptionError: the store does not hold what was written, or is smaller than the checkpoint signed last.
            StorageError: another process may sign in this ledger's name, or the note cannot be stored.
        """
        ledger = self._ledger
        state = decode_state(ledger.store.get(layout.STATE) or b"")
        root = reads.root_at(ledger.store, state.size)
        if (state.size, root) != (ledger.state.size, ledger.state.root):
            raise CorruptionError(f"store does not hold what was written at size {ledger.state.size}")
        # INVARIANT: every signed tree ends in a seal. Entries follow the seal if it could not be signed at once.
        size = state.sealed_size
        if size < state.size:
            root = reads.root_at(ledger.store, size)
        last_size = self._last_signed_size()
        if size < last_size:
            raise CorruptionError(f"ledger is smaller than its last signed checkpoint: size {size}")
        # This finds a leaf that was damaged after the write. No checkpoint covers the leaf yet, and the author of the
        # entry still has a copy of its statement.
        reads.verify_leaves(ledger.store, last_size, size)
        point = checkpoint.Checkpoint(self._origin, size, root)
        is_new = size >= self._from_size
        note = checkpoint.sign_checkpoint(point, self._signers) if is_new else self._last_note(point)
        # A crash here: the note is signed, but neither stored nor sent. The next start signs the same tree.
        self._signing.verify_lock()
        if is_new:
            write_last_signed(self._signing.last_signed_path, note)
        # A crash here: the note is stored, but not public. The next start signs the same tree and offers the note.
        self.signed = point
        self.publisher.offer(point, note)
        self._keep_maps()

    def _last_note(self, point: checkpoint.Checkpoint) -> bytes:
        """Return the note that the log key before signed of *point*, the last tree that it signed.

        Raises:
            CorruptionError: the file of the last signed checkpoint has another one.
        """
        note = read_last_signed(self._signing.last_signed_path)
        if note is None or checkpoint.parse_checkpoint(parse_note(note).text) != point:
            raise CorruptionError(f"last signed checkpoint is not that of size {point.size}, by a replaced key")
        return note

    def _last_signed_size(self) -> int:
        """Return the size of the checkpoint signed last, by this process or an earlier one; 0: none was signed."""
        if self.signed is not None:
            return self.signed.size
        note = read_last_signed(self._signing.last_signed_path)
        return 0 if note is None else checkpoint.parse_checkpoint(parse_note(note).text).size

    def _keep_maps(self) -> None:
        """Drop all earlier maps, except the maps of the public checkpoint and of checkpoints that may become public."""
        history, published = self._ledger.map.history, self.published
        if history is not None:
            # INVARIANT: no map that is still needed is dropped. ``pending`` is called after the offer, and a publisher
            # continues only with the latest offer. So the next published size is in ``pending``, or is the size just
            # offered, or a later size.
            public_size = 0 if published is None else published.checkpoint.size
            history.keep({*self.publisher.pending(), public_size})

    def _publish(self, published: Published) -> None:
        """Make a checkpoint public. Called by the publisher, on any thread."""
        size, before = published.checkpoint.size, self.published
        with self._changed:
            self.published = published
            self._changed.notify_all()
        self._waits.notify()
        self._metrics.checkpoint_size.set(size)
        if before is None or before.checkpoint.size < size:
            self._metrics.checkpoints.inc()
        self._metrics.checkpoint_time_seconds.set(self._clock.wall_ms() / 1000)
