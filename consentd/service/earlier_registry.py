"""Read participants, vocabularies, notices and rules as an earlier tree has them, from their public chains.

The policy table has the present registry alone. An entry of a public chain is neither changed, pruned nor erased, so
what it states in an earlier tree can always be read.
"""

from collections.abc import Iterator
from typing import Any

from consentd import limits
from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError, InvalidError, NotFoundError
from consentd.ledger import layout, reads
from consentd.service.consistency import check_size_reached
from consentd.service.servicer import Services, revision
from consentd.table.table import decode_entry
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs

MAX_ENTRIES = limits.PAGE_READS
"""Most entries of a participant's chain that are read for one answer."""


class EarlierRegistry:
    """The public chains in the tree of the ledger's first *size* leaves."""

    def __init__(self, services: Services, size: int) -> None:
        """*size*: from 1.

        Raises:
            NotReachedError: the ledger has fewer leaves.
            InvalidError: *size* is far ahead of the ledger.
        """
        with services.table.read() as snapshot:
            check_size_reached(size, snapshot.size)
        self._store, self._vault, self._size = services.ledger.store, services.vault, size

    @property
    def revision(self) -> pb.Revision:
        """The tree that the answers reflect."""
        return revision(self._size, reads.root_at(self._store, self._size))

    def version(self, chain: str, number: int = 0) -> Any:
        """Return a version of a vocabulary, of rules or of a notice; 0: the latest.

        *number*: of a notice, whose version *n* is entry *n* of its chain.

        Raises:
            NotFoundError: the tree has no such version.
        """
        count = self._count(chain)
        if not count or number > count:
            raise NotFoundError("no such version in this tree")
        return self._message(reads.read_entry(self._store, codec.public_tag(chain), number or count))

    def participant(self, participant_id: str) -> rs.GetParticipantResponse:
        """Return a participant, its valid keys and its mandate. Reads the participant's chain from its start.

        Raises:
            NotFoundError: the tree has no such participant.
            InvalidError: (TOO_LARGE) the chain is too long to be read for one answer.
        """
        found, keys = rs.GetParticipantResponse(), dict[bytes, None]()
        for entry in self._entries(PARTICIPANT_PREFIX + participant_id):
            kind, message = entry.event.kind, self._message(entry)
            if kind == EntryKind.PARTICIPANT:
                found.participant.CopyFrom(message)
            elif kind == EntryKind.KEY and message.retired:
                keys.pop(message.key, None)
            elif kind == EntryKind.KEY:
                keys[message.key] = None
            elif kind == EntryKind.MANDATE and message.ended:
                found.ClearField("mandate")
            elif kind == EntryKind.MANDATE:
                found.mandate.CopyFrom(message)
        if not found.HasField("participant"):
            raise NotFoundError(f"no such participant in this tree: `{participant_id}`")
        found.keys.extend(sorted(keys))
        return found

    def _entries(self, chain: str) -> Iterator[reads.StoredEntry]:
        count = self._count(chain)
        if count > MAX_ENTRIES:
            limit = f"the limit of {MAX_ENTRIES} entries"
            raise InvalidError(f"chain is over {limit}: `{count}`; read it with GetHistory", "TOO_LARGE")
        return reads.read_chain(self._store, codec.public_tag(chain), 1, count)

    def _count(self, chain: str) -> int:
        """Return how many entries of a chain the tree has."""
        tag = codec.public_tag(chain)
        row = self._store.get(layout.head_key(tag))
        low, high = 0, 0 if row is None else int(layout.HEAD.unpack(row)[0])
        while low < high:
            middle = (low + high + 1) // 2
            if reads.read_entry(self._store, tag, middle).index < self._size:
                low = middle
            else:
                high = middle - 1
        return low

    def _message(self, entry: reads.StoredEntry) -> Any:
        message = decode_entry(self._vault, entry)
        if message is None:
            raise CorruptionError(f"statement of a public chain is missing: index {entry.index}")
        return message
