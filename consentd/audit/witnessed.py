"""Read a ledger only at checkpoints that witnesses cosigned.

The log's signature alone does not say that everyone is shown the same tree. Where an auditor holds a witness policy,
the place that is read is wrapped here, and whatever reads it (``verify``, ``replay``) gets no other checkpoint.

An auditor's ledger may be an old export, so a cosignature counts at any age, and its age is told; ``max_age_s`` asks
for a fresh one. A cosignature from before the tree's last seal never counts: witnesses do not cosign the future.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from consentd.audit.sources import Place, Source
from consentd.core import checkpoint, codec, quorum, tiles
from consentd.core.note import NoteVerifier
from consentd.core.pruned import Pruned
from consentd.core.quorum import Cosigned, WitnessPolicy
from consentd.errors import MalformedError
from consentd.verify.source import Opening, read_leaves, width_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """A place of which only a checkpoint is shown that a quorum cosigned.

    Attributes:
        place: what is read.
        policy: who must have cosigned.
        now_s: the reader's clock, POSIX seconds; of no matter without *max_age_s*.
        max_age_s: how old a cosignature may be to count; None: any age.
        seen: the checkpoints shown so far, with who cosigned them and when.
    """

    place: Place
    policy: WitnessPolicy
    origin: str
    log_verifier: NoteVerifier
    now_s: int = 0
    max_age_s: int | None = None
    # Filled in the process that reads the checkpoint: the one that was given the place; workers read leaves only.
    seen: list[Cosigned] = field(default_factory=list, compare=False)

    def open(self) -> "WitnessedSource":
        """Open it. Raises as ``Place.open``."""
        return WitnessedSource(self, self.place.open())


class WitnessedSource:
    """A ledger being read, whose checkpoint must be cosigned."""

    def __init__(self, place: Witnessed, source: Source) -> None:
        self._place = place
        self._source = source

    @property
    def is_whole(self) -> bool:
        """Whether it has all openings."""
        return self._source.is_whole

    def checkpoint(self) -> bytes:
        """Return the latest checkpoint.

        Raises:
            StorageError: it, or the leaf that ends its tree, cannot be read.
            SignatureError: it is not signed by the log, or those who cosigned it are no quorum.
            MalformedError, ProofError: it is not a checkpoint, or of another origin.
        """
        place, note = self._place, self._source.checkpoint()
        point, _ = checkpoint.open_checkpoint(note, place.origin, place.log_verifier)
        found = quorum.verify_cosigned(
            note, place.policy, now_s=place.now_s, max_age_s=place.max_age_s, logs=(place.log_verifier,),
            seal_time_ms=_last_time_ms(self._source, point.size),
        )  # fmt: skip
        place.seen.append(found)
        return note

    def pruned(self) -> Pruned:
        """Return what is not there any more."""
        return self._source.pruned()

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the leaves of entry bundle *n*."""
        return self._source.leaves(n, width)

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return a tile."""
        return self._source.tile(level, n, width)

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return the openings of bundle *n*."""
        return self._source.openings(n, leaves)

    def close(self) -> None:
        """Let go of what is read."""
        self._source.close()


def _last_time_ms(source: Source, size: int) -> int | None:
    """Return the time of the tree's last leaf: claimed here, verified by whoever reads all leaves."""
    if not size:
        return None
    n = (size - 1) // tiles.TILE_WIDTH
    try:
        return codec.decode_leaf(read_leaves(source, n, width_of(n, size))[-1]).time_ms
    except MalformedError:
        return None  # the reader of all leaves names it
