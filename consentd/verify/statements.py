"""Verify statements: what leaves commit to, who signed it, and that nothing else is gone; a part of ``fsck``."""

from typing import Any

from consentd.core import codec, key_validity
from consentd.core.history import VerifiedEntry
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.replay import Replay
from consentd.errors import CorruptionError, NotFoundError, StorageError, VerificationError
from consentd.ledger import layout
from consentd.ledger.vault import Vault
from consentd.statements import payloads
from consentd.store import Store
from consentd.verify import rows as rows
from consentd.verify.findings import Findings
from consentd.verify.rows import Gap

_AUTHORING = frozenset({EntryKind.LEDGER, EntryKind.PARTICIPANT, EntryKind.KEY})


class Statements:
    """The statements of a ledger, verified in its order, so that the keys in force are known at each place.

    Attributes:
        opened: statements opened and verified.
        erased: statements that are gone, and whose chain ends in an ERASURE; known after ``verify_erasures``.
        pruned: statements that are gone, and past the retention that the ledger states.
        keys_lost: an entry that may have put a key in force could not be read; set from outside for leaves.
    """

    def __init__(
        self, store: Store, origin: str, vault: Vault | None, found: Findings, *, kept_from_ms: int = 0
    ) -> None:
        self._store, self._origin, self._vault, self._found = store, origin, vault, found
        self._kept_from_ms = kept_from_ms
        self.opened = self.erased = self.pruned = 0
        self.keys_lost = False
        self._keys: dict[bytes, tuple[key_validity.KeyValidity, ...]] = {}
        self._participants: dict[bytes, str] = {}  # by tag
        self._closed: dict[bytes, list[int]] = {}  # by tag the entries whose statement is gone

    def verify(self, events: list[tuple[int, codec.Event]]) -> None:
        """Verify the statements of the next (index, event) pairs."""
        stored = rows.read_rows(self._store, [layout.statement_key(event.tag, event.seq) for _, event in events])
        for (index, event), row in zip(events, stored, strict=True):
            if row is Gap.MISSING and event.time_ms < self._kept_from_ms and event.kind in PRUNABLE:
                self.pruned += 1
            elif row is Gap.MISSING:
                self._closed.setdefault(event.tag, []).append(index)
            elif row is Gap.UNREADABLE:
                self._found.add(index, f"statement {row.value}")
                self.keys_lost = True
            else:
                self._verify_statement(index, event, row)

    def _verify_statement(self, index: int, event: codec.Event, row: bytes) -> None:
        try:
            opened = self._open(event, row)
            if opened is None:
                return
            self._verify_author(event, codec.decode_statement(opened))
            self.opened += 1
        except NotFoundError:
            self._closed.setdefault(event.tag, []).append(index)
        except (CorruptionError, VerificationError, StorageError) as error:
            self._found.add(index, str(error))
            self.keys_lost |= event.kind in (EntryKind.LEDGER, EntryKind.KEY, EntryKind.PARTICIPANT)

    def _open(self, event: codec.Event, row: bytes) -> bytes | None:
        """Return a statement that its leaf commits to; None where it is closed to us."""
        if self._vault is not None:
            return self._vault.decrypt(event, row)[1]
        if row[:1] != bytes((layout.CLEAR,)):
            self._found.not_checked("statements of persons, for want of the vault")
            return None
        if codec.commit(row[1:33], row[33:]) != event.commit:
            raise CorruptionError("statement is not what its leaf commits to")
        return row[33:]

    def _verify_author(self, event: codec.Event, made: codec.Statement) -> None:
        message: Any = None  # each kind's own message, from the one door to protobuf
        if event.kind in payloads.MESSAGES:
            message = payloads.decode_payload(event.kind, made.payload)
        is_unread = event.kind in _AUTHORING and not payloads.has_only_known_fields(message)
        if event.kind == EntryKind.LEDGER and event.seq == 1 and not is_unread and event.tag == codec.LEDGER_TAG:
            # Leaf 0 names the very key that signs it.
            self._put_key(event, message.statement_key)
        if self.keys_lost and made.key not in self._keys:
            self._found.not_checked("signatures by keys that a damaged entry may have put in force")
        else:
            entry = VerifiedEntry(event, made)
            key_validity.verify_authors([entry], origin=self._origin, keys=self._keys)
        if is_unread:
            self.keys_lost = True
            self._found.not_checked("what entries say of keys, in fields that this version does not know")
        elif event.kind == EntryKind.LEDGER:
            self._put_key(event, message.statement_key)
        elif event.kind == EntryKind.PARTICIPANT:
            if codec.public_tag(key_validity.PARTICIPANT_PREFIX + message.participant_id) != event.tag:
                raise CorruptionError("participant stands in a chain of another name")
            self._participants[event.tag] = message.participant_id
        elif event.kind == EntryKind.KEY:
            self._put_key(event, message.key, retired=message.retired)

    def _put_key(self, event: codec.Event, key: bytes, *, retired: bool = False) -> None:
        participant = self._participants.get(event.tag)
        name = "" if participant is None else key_validity.PARTICIPANT_PREFIX + participant
        if event.tag == codec.LEDGER_TAG:
            name = key_validity.LEDGER_CHAIN
        fact = key_validity.key_change(event, key, name=name, retired=retired)
        if fact is not None:
            key_validity.apply_key_change(self._keys, fact)

    def verify_erasures(self, replay: Replay) -> None:
        """Hold what is gone against who was erased, both ways."""
        for tag, indexes in self._closed.items():
            if tag in replay.heads and replay.heads[tag][2]:
                self.erased += len(indexes)
                continue
            for index in indexes:
                self._found.add(index, "statement or its key is missing, and the chain has no ERASURE")
        for tag, (count, _, erased) in replay.heads.items():
            if not erased:
                continue
            last = rows.index_of(self._store, tag, count)
            keys = (layout.statement_key(tag, seq) for seq in range(1, count + 1))
            left = (row for chunk in rows.chunks(keys) for row in rows.read_rows(self._store, chunk))
            if any(isinstance(row, bytes) and row[:1] == bytes((layout.ENCRYPTED,)) for row in left):
                self._found.add(last, "statements of an erased person are still stored")
            if self._vault is not None and self._vault.store.get(b"k" + tag) is not None:
                self._found.add(last, "vault still holds the data key of an erased person")
