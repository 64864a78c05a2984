"""Know, at each place of a ledger, which keys are in force for whom, and hold each author against that."""

from collections.abc import MutableMapping

from consentd.audit.look import Fact, Made
from consentd.core import codec, history
from consentd.core.history import MAX_AUTHOR_SKEW_MS, KeyFact, KeyTerm
from consentd.core.kinds import AUTHORS, EntryKind, Owner, is_known
from consentd.errors import MalformedError, SignatureError

_LEDGER_TAG = codec.public_tag("ledger")


class Authors:
    """The keys in force, in the order of the ledger. Owned by one thread.

    Attributes:
        is_lost: an entry that may have put a key in force is not at hand: a key not known is then no fault.
        participants: id by tag.
    """

    def __init__(self, terms: MutableMapping[bytes, tuple[KeyTerm, ...]]) -> None:
        self._terms = terms
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
        if fact is not None and event.kind == EntryKind.LEDGER and event.seq == 1 and event.tag == _LEDGER_TAG:
            # Leaf 0 names the very key that signs it.
            self._put(KeyFact(key=fact.key, owner=Owner.LEDGER, tag_or_name="", time_ms=event.time_ms))
        if abs(event.time_ms - made.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise SignatureError("author's clock is more than ten minutes from the ledger's")
        allowed = AUTHORS[EntryKind(event.kind)] if is_known(event.kind) else frozenset(Owner)
        terms = self._terms.get(made.key, ())
        told = any(history.permits(term, event, allowed) for term in terms)
        if not told and not (self.is_lost and not terms):
            raise SignatureError("author's key was not in force for this entry")
        if fact is not None:
            self._take(event, fact)
        return told

    def _take(self, event: codec.Event, fact: Fact) -> None:
        if event.kind == EntryKind.LEDGER:
            if fact.key:
                self._put(KeyFact(key=fact.key, owner=Owner.LEDGER, tag_or_name="", time_ms=event.time_ms))
        elif event.kind == EntryKind.PARTICIPANT:
            if codec.public_tag(f"participant/{fact.participant}") != event.tag:
                raise MalformedError("participant stands in a chain of another name")
            self.participants[event.tag] = fact.participant
        else:
            name = self.participants.get(event.tag)
            owner, whose = (Owner.SUBJECT, event.tag) if name is None else (Owner.PARTICIPANT, name)
            if event.tag == _LEDGER_TAG:
                owner, whose = Owner.LEDGER, ""
            self._put(
                KeyFact(
                    key=fact.key, owner=owner, tag_or_name=whose, time_ms=event.time_ms, retired=fact.retired
                )
            )

    def _put(self, fact: KeyFact) -> None:
        history.add_key_fact(self._terms, fact)  # type: ignore[arg-type]  # it only gets and sets
