"""Decide when a signed checkpoint becomes public: the seam between the sequencer and the witnesses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consentd.core.checkpoint import Checkpoint
from consentd.errors import ConsentdError


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that everyone may see: its values, and the signed note."""

    checkpoint: Checkpoint
    note: bytes


Publish = Callable[[Published], None]
"""What a publisher calls, in the order of sizes; of the same size again with more or newer cosignatures."""
Halt = Callable[[ConsentdError], None]
"""What a publisher calls, from any thread, where nothing may be signed any more."""


class Publisher(Protocol):
    """Takes what is signed, and publishes it when it may be."""

    def start(self, publish: Publish, halt: Halt) -> None:
        """Begin.

        Raises:
            CorruptionError: somebody knows a tree of ours that we do not.
        """

    def offer(self, point: Checkpoint, note: bytes) -> None:
        """Take the latest checkpoint, which is signed and in the lock."""

    def pending(self) -> frozenset[int]:
        """Return the sizes offered that may yet be published, or were just now, beside the latest."""
        ...

    @property
    def has_quorum(self) -> bool:
        """Whether the last checkpoint that was due had the cosignatures it needs."""
        ...

    def stop(self) -> None:
        """Publish what was offered last, if that is to be had soon, and end."""


class Immediate:
    """Publishes at once: no policy file, no witnesses."""

    def start(self, publish: Publish, halt: Halt) -> None:
        """Begin."""
        self._publish = publish

    def offer(self, point: Checkpoint, note: bytes) -> None:
        """Publish."""
        self._publish(Published(point, note))

    def pending(self) -> frozenset[int]:
        """Return nothing: what was offered is published."""
        return frozenset()

    @property
    def has_quorum(self) -> bool:
        """Always: none is needed."""
        return True

    def stop(self) -> None:
        """Do nothing."""
