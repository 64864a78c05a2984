"""Know which keys are in force for whom, and when; verify that each statement was signed by one of them.

A *fact* is what one KEY or LEDGER entry says of a key, a *term* the time that follows from facts. Payloads are read by
whoever knows them: this floor takes the key and whether it is retired. Source: ledger-format.md, "Keys in force".
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from consentd.core import codec, note
from consentd.core.history import VerifiedEntry
from consentd.core.kinds import EntryKind, Owner, authors_of
from consentd.errors import SignatureError

MAX_AUTHOR_SKEW_MS = 10 * 60_000
"""How far an author's clock may be from the ledger's."""
FOREVER_MS = (1 << 64) - 1
"""End of the term of a key that was not retired."""
LEDGER = "ledger"
"""Name of the chain that says which keys are the daemon's."""
PARTICIPANT = "participant/"
"""How the names of participants' chains begin."""

Terms = Mapping[bytes, Sequence["KeyTerm"]]
"""By key, when it was in force for whom."""


@dataclass(frozen=True, slots=True)
class KeyTerm:
    """When whose key was in force, both ends included; ``tag_or_name`` is a person's, a participant's, or empty."""

    owner: Owner
    from_ms: int
    until_ms: int
    tag_or_name: bytes | str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFact:
    """What a verified KEY or LEDGER entry says of a key.

    Attributes:
        owner, tag_or_name: whose chain it stands in: see ``KeyTerm``.
        retired: the key goes out of force with this entry; otherwise it comes into force.
    """

    key: bytes
    owner: Owner
    tag_or_name: bytes | str
    time_ms: int
    retired: bool = False


def is_of_authors(name: str) -> bool:
    """Tell whether a public chain says which keys are an author's: the ledger's own, or a participant's."""
    return name == LEDGER or name.startswith(PARTICIPANT)


def key_fact(event: codec.Event, key: bytes, *, name: str, retired: bool = False) -> KeyFact | None:
    """Return what a KEY or LEDGER entry says of a key; None: nothing that counts.

    Args:
        key: that its payload names; empty: none.
        name: of the public chain it stands in; empty: a person's.
        retired: its payload says so.
    """
    owner: Owner
    whose: bytes | str
    if name == LEDGER:
        owner, whose = Owner.LEDGER, ""
        # INVARIANT: the daemon's keys come into force by LEDGER entries alone; a KEY in their chain may retire one.
        counts = event.kind == EntryKind.LEDGER or (event.kind == EntryKind.KEY and retired)
    elif name.startswith(PARTICIPANT):
        owner, whose = Owner.PARTICIPANT, name.removeprefix(PARTICIPANT)
        counts = event.kind == EntryKind.KEY
    else:
        owner, whose = Owner.SUBJECT, event.tag
        counts = event.kind == EntryKind.KEY
    if not key or not counts:
        return None
    return KeyFact(key=key, owner=owner, tag_or_name=whose, time_ms=event.time_ms, retired=retired)


def key_terms(facts: Iterable[KeyFact]) -> dict[bytes, tuple[KeyTerm, ...]]:
    """Return by key when it was in force for whom, from facts in the order of each chain."""
    terms: dict[bytes, tuple[KeyTerm, ...]] = {}
    for fact in facts:
        add_key_fact(terms, fact)
    return terms


def add_key_fact(terms: MutableMapping[bytes, tuple[KeyTerm, ...]], fact: KeyFact) -> None:
    """Add one fact to *terms*: begin a term, or end the one that runs.

    Only the chain that put a key in force can retire it; who states the same again changes nothing.
    """
    known = terms.get(fact.key, ())
    for place, term in enumerate(known):
        if (term.owner, term.tag_or_name, term.until_ms) == (fact.owner, fact.tag_or_name, FOREVER_MS):
            if fact.retired:
                ended = replace(term, until_ms=fact.time_ms)
                terms[fact.key] = (*known[:place], ended, *known[place + 1 :])
            return
    if not fact.retired:
        terms[fact.key] = (*known, KeyTerm(fact.owner, fact.time_ms, FOREVER_MS, fact.tag_or_name))


def permits(term: KeyTerm, event: codec.Event) -> bool:
    """Tell whether a key's term lets it author an event."""
    if term.owner not in authors_of(event.kind) or not term.from_ms <= event.time_ms <= term.until_ms:
        return False
    return term.owner is not Owner.SUBJECT or term.tag_or_name == event.tag


def verify_signature(event: codec.Event, made: codec.Statement, *, origin: str) -> None:
    """Verify that the key that a statement names signed it, for this entry.

    Raises:
        MalformedError: a key that is not one.
        SignatureError: it did not.
    """
    message = codec.signed_message(
        origin=origin,
        kind=event.kind,
        tag=event.tag,
        ref=event.ref,
        request_id=made.request_id,
        author_time_ms=made.author_time_ms,
        payload=made.payload,
    )
    note.verify(made.key, message, made.signature)


def verify_authors(entries: Iterable[VerifiedEntry], *, origin: str, terms: Terms) -> None:
    """Verify that each statement was signed by a key in force at its leaf's time, of one who may state this kind.

    Tombstones are passed over: what they said is gone. A kind that this version does not know may be anybody's;
    whoever shows the history says that it could not tell (``kinds.is_known``). *terms* are by key: ``key_terms``.

    Raises:
        MalformedError: a key that is not one.
        SignatureError: no such key in force, the wrong author, clocks too far apart, or the signature is wrong.
    """
    for entry in entries:
        event, statement = entry.event, entry.statement
        if statement is None:
            continue
        if abs(event.time_ms - statement.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise SignatureError("author's clock is more than ten minutes from the ledger's")
        if not any(permits(term, event) for term in terms.get(statement.key, ())):
            raise SignatureError(f"author's key was not in force for this entry: seq `{event.seq}`")
        verify_signature(event, statement, origin=origin)


def settle(
    stated: Iterable[tuple[VerifiedEntry, KeyFact | None]], *, origin: str, known: Container[codec.Event] = ()
) -> dict[bytes, tuple[KeyTerm, ...]]:
    """Verify the entries that put keys in force or out of it, in their order; return the terms that follow.

    Each key must rest on one in force before it, and the first on leaf 0, which names the very key that signs it: no
    key vouches for itself. Entries of one millisecond may stand in different chains, whose order to each other is not
    in a proof: of these each is taken as soon as its author is in force and the one before it in its chain is taken.

    Args:
        stated: entries and what they say, those of each chain in its order; None: nothing that counts.
        known: entries whose authors were verified before.

    Raises:
        SignatureError: an author was not in force.
    """
    terms: dict[bytes, tuple[KeyTerm, ...]] = {}
    in_order = sorted(stated, key=lambda one: one[0].event.time_ms)  # stable: each chain keeps its order
    for _, together in groupby(in_order, key=lambda one: one[0].event.time_ms):
        waiting: dict[bytes, deque[tuple[VerifiedEntry, KeyFact | None]]] = {}
        for one in together:
            waiting.setdefault(one[0].event.tag, deque()).append(one)
        while waiting:
            taken, failure = 0, SignatureError("author's key was not in force")
            for chain in waiting.values():
                try:
                    # INVARIANT: nothing is taken before what stands before it in its chain, or what is retired could
                    # come into force after it, as the chains happen to be sent.
                    while chain:
                        _take(*chain[0], terms, origin=origin, known=known)
                        chain.popleft()
                        taken += 1
                except SignatureError as error:
                    failure = error
            waiting = {tag: chain for tag, chain in waiting.items() if chain}
            if waiting and not taken:
                raise failure
    return terms


def _take(
    entry: VerifiedEntry,
    fact: KeyFact | None,
    terms: MutableMapping[bytes, tuple[KeyTerm, ...]],
    *,
    origin: str,
    known: Container[codec.Event],
) -> None:
    """Verify the author of one entry that is not *known*, and add what it says to *terms*.

    Raises:
        SignatureError: the author was not in force.
    """
    if fact is not None and fact.owner is Owner.LEDGER and entry.event.seq == 1:
        add_key_fact(terms, fact)
    if entry.event not in known:
        verify_authors([entry], origin=origin, terms=terms)
    if fact is not None:
        add_key_fact(terms, fact)
