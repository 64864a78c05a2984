"""Know, at each place of a ledger, which keys are in force for whom, and hold each author against that."""

from collections.abc import MutableMapping

from consentd.audit.leaf_checks import Fact, Made
from consentd.core import codec, key_validity
from consentd.core.key_validity import MAX_AUTHOR_SKEW_MS, KeyValidity
from consentd.core.kinds import EntryKind
from consentd.errors import MalformedError, SignatureError


class Authors:
    """The keys in force, in the order of the ledger. Owned by one thread.

    Attributes:
        is_lost: an entry that may have put a key in force is not at hand: a key not known is then no fault.
        participants: id by tag.
    """

    def __init__(self, known: MutableMapping[bytes, tuple[KeyValidity, ...]]) -> None:
        self._keys = known
        self.participants: dict[bytes, str] = {}
        self.is_lost = False

    def verify(self, event: codec.Event, made: Made) -> bool:
        """Verify that the author's key was in force for this entry, and take what the entry says of keys.

        Returns False where it cannot be told, for a key may have been put in force by what is not at hand. The
        signature itself was verified by whoever made *made*.

        Raises:
            SignatureError: no such key in force, the wrong author, or clocks too far apart.
            MalformedError: a participant stands in a chain of another name.
        """
        fact = made.fact
        if fact is not None and event.kind == EntryKind.LEDGER and event.seq == 1 and event.tag == codec.LEDGER_TAG:
            # Leaf 0 names the very key that signs it.
            self._put(event, fact, name=key_validity.LEDGER_CHAIN)
        if abs(event.time_ms - made.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise SignatureError("author's clock is more than ten minutes from the ledger's")
        found = self._keys.get(made.key, ())
        told = any(key_validity.may_author(term, event) for term in found)
        if not told and not (self.is_lost and not found):
            raise SignatureError("author's key was not in force for this entry")
        if fact is not None:
            self._take(event, fact)
        return told

    def _take(self, event: codec.Event, fact: Fact) -> None:
        if fact.is_unread:
            self.is_lost = True
            return
        if event.kind == EntryKind.PARTICIPANT:
            if codec.public_tag(key_validity.PARTICIPANT_PREFIX + fact.participant) != event.tag:
                raise MalformedError("participant stands in a chain of another name")
            self.participants[event.tag] = fact.participant
            return
        participant = self.participants.get(event.tag)
        name = "" if participant is None else key_validity.PARTICIPANT_PREFIX + participant
        self._put(event, fact, name=key_validity.LEDGER_CHAIN if event.tag == codec.LEDGER_TAG else name)

    def _put(self, event: codec.Event, fact: Fact, *, name: str) -> None:
        stated = key_validity.key_change(event, fact.key, name=name, retired=fact.retired)
        if stated is not None:
            key_validity.apply_key_change(self._keys, stated)
