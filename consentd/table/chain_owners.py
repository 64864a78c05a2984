"""Who owns a chain: the ledger, a participant or a person. A chain's tag is a hash of a participant's id.

A transaction that applies a KEY must know it. To hash the ids of 10,000 participants takes 25 ms, so the process keeps
their tags.
"""

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import Owner
from consentd.errors import InvalidError
from consentd.statements import payloads
from consentd.store import RowReader, RowWriter
from consentd.store.lmdb import MAX_KEY
from consentd.table.checked_rows import RowCheck, seal_row
from consentd.table.registry import RegistryCache
from consentd.table.view import U32, View


class ChainOwners(View):
    """A view of the thread that writes, which finds the owner of a chain, and puts rows.

    INVARIANT: the tags that the cache keeps are of all participants of the table at the generation that it states for
    them. They may be of others too, whom a transaction registered and did not commit, so each use reads the
    participant's row.
    """

    _txn: RowWriter

    def __init__(self, cache: RegistryCache, check: RowCheck, txn: RowReader) -> None:
        """Take over a transaction, as ``View`` does."""
        super().__init__(cache, check, txn)
        self._begun_at = self._generation

    def participant_of(self, tag: bytes) -> str:
        """Return the participant in whose chain the entries with this tag are; empty: the chain is no participant's."""
        owner, whose = self._chain_owner(tag)
        return whose if owner is Owner.PARTICIPANT and isinstance(whose, str) else ""

    def _chain_owner(self, tag: bytes) -> tuple[Owner, bytes | str]:
        """Return a chain's kind of owner, and the owner's tag or name (``KeyValidity``)."""
        if tag == codec.LEDGER_TAG:
            return Owner.LEDGER, ""
        if self._cache.tags_generation != self._begun_at:
            ids = [key[1:].decode() for key, _ in self._rows(b"p")]
            self._cache.tags = {_tag_of_participant(one): one for one in ids}
            self._cache.tags_generation = self._begun_at
        name = self._cache.tags.get(tag)
        if name is None or self._get(b"p" + name.encode()) is None:
            return Owner.SUBJECT, tag
        return Owner.PARTICIPANT, name

    def _note_participant(self, participant_id: str) -> None:
        """Note that this transaction has the row of a participant."""
        self._cache.tags[_tag_of_participant(participant_id)] = participant_id

    def _keep_tags(self) -> None:
        """Keep the tags for the next transaction, because this one was committed."""
        if self._cache.tags_generation == self._begun_at:
            self._cache.tags_generation = self._generation

    def _put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, seal_row(key, value))

    def _put_named(self, key: bytes, value: bytes) -> None:
        """Set a row whose key has what an entry states. Raises ``InvalidError`` if LMDB takes no key of that length."""
        if len(key) > MAX_KEY:
            raise InvalidError("entry states an id or a key that is too long")
        self._put(key, value)

    def _number(self) -> int:
        row = self._get(b"#")
        number = 1 if row is None else int(U32.unpack(row)[0]) + 1
        self._put(b"#", U32.pack(number))
        return number

    def _check_chain(self, event: codec.Event, message: Message) -> None:
        """Check that an entry is in the chain of what it is about. Otherwise readers of that chain would not see it.

        Raises:
            InvalidError: it is not.
        """
        if codec.public_tag(payloads.public_name(message)) != event.tag:
            raise InvalidError("entry is in the chain of another name than that of what it is about")

    def _registry_changed(self) -> None:
        """Increase the registry's generation, and forget the registry, so that its next use reads the rows again.

        The generation counts entries and not transactions, so a table that is built anew has the same generation.
        """
        self._registry = None
        self._changed = True
        self._generation += 1


def _tag_of_participant(participant_id: str) -> bytes:
    return codec.public_tag(PARTICIPANT_PREFIX + participant_id)
