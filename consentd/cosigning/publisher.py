"""The interface between the sequencer and the rule that decides when a signed checkpoint becomes public."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from consentd.core.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from consentd.core.note import Verifier, parse_note
from consentd.errors import ConsentdError, CorruptionError, VerificationError
from consentd.files import read_file_if_exists
from consentd.ledger import reads
from consentd.ledger.rotations import log_verifier_at
from consentd.store import Store

log = logging.getLogger(__name__)

RUNBOOK = "see ops/RUNBOOK.md, `a witness knows another tree`"


@dataclass(frozen=True, slots=True)
class Published:
    """A public checkpoint: its values and its signed note."""

    checkpoint: Checkpoint
    note: bytes


Publish = Callable[[Published], None]
"""A publisher calls this function with each note to publish. Tree sizes never decrease from call to call. If two
successive notes have the same size, the second has more or newer cosignatures."""
Halt = Callable[[ConsentdError], None]
"""A publisher calls this function, on any thread, when the ledger must not sign anything more."""


class Publisher(Protocol):
    """Accepts signed checkpoints, and publishes a checkpoint when the publisher's rule allows it."""

    def start(self, publish: Publish, halt: Halt) -> None:
        """Start publishing.

        Raises:
            CorruptionError: a witness or a file has a checkpoint of this ledger that contradicts the store.
        """

    def offer(self, point: Checkpoint, note: bytes) -> None:
        """Offer the latest checkpoint, which is signed and already stored as the last signed note.

        Does not wait for witnesses, and does not raise. An offer may never be published: a later offer replaces an
        earlier one that no witness was asked about yet. Called by the sequencer's thread, after ``start``, with sizes
        that never decrease. An equal offer adds nothing, but may be published again.
        """

    def pending(self) -> frozenset[int]:
        """Return the sizes of the offered checkpoints that are being published or may yet be published."""
        ...

    @property
    def has_quorum(self) -> bool:
        """Whether witnesses confirm the ledger.

        False from the end of a timeout without a quorum until a checkpoint has a quorum. The timeout may be that of a
        new checkpoint, or of the public checkpoint when its cosignatures are too old and were asked for again.
        """
        ...

    def is_cosigned(self, note: bytes) -> bool:
        """Return whether a published note has the cosignatures that readers require, of any age."""
        ...

    def names_log(self, key: Verifier) -> bool:
        """Return whether the witnesses' policy may be used with this log key: it names the key, or no log at all."""
        ...

    def stop(self) -> None:
        """Publish the checkpoint offered last, if enough witnesses cosign it within the timeout; then stop."""


class ImmediatePublisher:
    """Publishes each checkpoint as soon as it is offered; used if no witness policy is configured."""

    has_quorum = True

    def start(self, publish: Publish, halt: Halt) -> None:
        self._publish = publish

    def offer(self, point: Checkpoint, note: bytes) -> None:
        self._publish(Published(point, note))

    def pending(self) -> frozenset[int]:
        return frozenset()

    def is_cosigned(self, note: bytes) -> bool:
        return True

    def names_log(self, key: Verifier) -> bool:
        return True

    def stop(self) -> None:
        pass


class KeptPublisher:
    """Publishes the one checkpoint that a restored copy has, if it has one. The copy signs none, so none is offered."""

    has_quorum = True

    def __init__(self, public: Published | None) -> None:
        self._public = public

    def start(self, publish: Publish, halt: Halt) -> None:
        if self._public is not None:
            publish(self._public)

    def offer(self, point: Checkpoint, note: bytes) -> None:
        raise AssertionError("a restored copy signs no checkpoint")

    def pending(self) -> frozenset[int]:
        return frozenset()

    def is_cosigned(self, note: bytes) -> bool:
        return False

    def names_log(self, key: Verifier) -> bool:
        return False

    def stop(self) -> None:
        pass


def read_published(path: Path, log_verifier: Verifier, *, store: Store, size: int) -> Published | None:
    """Read the note published last from its file; return None if the file is absent, or its note does not verify.

    *log_verifier* is a log key of the ledger, the present one or an earlier one. *store* and *size* belong to the
    opened ledger. The published tree must be the beginning of the ledger's tree.

    Raises:
        StorageError: the file cannot be read.
        CorruptionError: the ledger is smaller than the published tree, or has another root hash at that tree's size.
    """
    note = read_file_if_exists(path, name="published checkpoint")
    if note is None:
        return None
    try:
        claimed = parse_checkpoint(parse_note(note).text)
        signer = log_verifier_at(store, claimed.size, log_verifier)
        point, _ = open_checkpoint(note, log_verifier.name, signer)
    except VerificationError as error:
        log.warning("file of the last published checkpoint is not used: %s", error)
        return None
    if point.size > size or reads.root_at(store, point.size) != point.root:
        raise CorruptionError(
            f"ledger of size {size} contradicts its last published checkpoint: size {point.size} "
            f"root {point.root.hex()}: `{path}`; {RUNBOOK}"
        )
    return Published(point, note)
