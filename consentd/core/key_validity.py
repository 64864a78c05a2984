"""Determine which keys were valid for which author, and when; verify that a valid key signed each statement.

A KEY or LEDGER entry states a *change* of a key: the key becomes valid, or is retired. A *validity* is a period, which
is computed from such changes, in which a key is valid for one owner. This module does not decode payloads: the caller
passes the key, and whether the entry retires the key. Source: ledger-format.md, "Keys in force".
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from consentd import limits
from consentd.core import codec, ed25519
from consentd.core.history import VerifiedEntry
from consentd.core.kinds import AUTHORS, OWN_CHAIN, EntryKind, Owner, authors_of
from consentd.errors import SignatureError, UnknownKeyError

MAX_AUTHOR_SKEW_MS = limits.AUTHOR_SKEW_MS
_TAG_SIZE = 32
FOREVER_MS = (1 << 64) - 1  # end of the validity of a key that was not retired
LEDGER_CHAIN = "ledger"
"""Public name of the chain that states which keys are the daemon's."""
PARTICIPANT_PREFIX = "participant/"
"""First part of the public name of a participant's chain; the participant's ID follows."""
OPERATOR_PREFIX = "operator/"
"""First part of the id of an operator. No participant's ID has a ``/``."""

ValidKeys = Mapping[bytes, Sequence["KeyValidity"]]
"""Public key → each period in which the key was valid, and for whom."""


@dataclass(frozen=True, slots=True)
class KeyValidity:
    """A period, both ends included, in which a key was valid for one owner: the person with this tag, the participant
    with this ID, the daemon (""), or the representative by an authority (``representative``).
    """

    owner: Owner
    from_ms: int
    until_ms: int
    tag_or_name: bytes | str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """What the payload of a statement names, on which it depends who may sign the statement.

    Attributes:
        giver: the participant that a MANDATE names as the one that gives it; empty: none, and the daemon signs it.
        publisher: the participant that a NOTICE names as the one whose it is; empty: none, and the daemon signs it.
        authority: seq of the AUTHORITY under which a representative makes the statement; 0: it names none.
    """

    giver: str = ""
    authority: int = 0
    publisher: str = ""


NAMES_NOTHING = Named()


def names_nothing(event: codec.Event, payload: bytes) -> Named:
    """Read nothing from a payload: for entries of kinds of which every owner may sign each."""
    return NAMES_NOTHING


def representative(tag: bytes, authority_seq: int) -> bytes:
    """Return how a ``KeyValidity`` names the representative by an authority: ``tag[32] ‖ seq u64`` of its entry."""
    return tag + authority_seq.to_bytes(8)


def authority_of(validity: KeyValidity) -> int:
    """Return the seq of the AUTHORITY entry by which a representative has this key."""
    assert isinstance(validity.tag_or_name, bytes), "key of a representative has the tag of the person"
    return int.from_bytes(validity.tag_or_name[_TAG_SIZE:])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A change that a verified KEY or LEDGER entry states: the *key* is valid from *time_ms*, the time of the entry, or
    if *retired*, until that time. The owner of the key is the owner of the chain that holds the entry. By a rotation,
    the key *replaces* another one, which is valid until *time_ms*; b"": it replaces none.
    """

    key: bytes
    owner: Owner
    tag_or_name: bytes | str
    time_ms: int
    retired: bool = False
    replaces: bytes = b""


MutableValidKeys = MutableMapping[bytes, tuple[KeyValidity, ...]]

StatedChange = tuple[VerifiedEntry, KeyChange | None]
"""An entry, and the change that the entry makes; None if it changes no key."""


def has_author_keys(name: str) -> bool:
    """Return whether a public chain of this name holds the keys of an author: of the daemon or of a participant."""
    return name == LEDGER_CHAIN or name.startswith(PARTICIPANT_PREFIX)


def key_change(
    event: codec.Event, key: bytes, *, name: str, retired: bool = False, replaces: bytes = b"", authority: int = 0
) -> KeyChange | None:
    """Return the change that an entry of any kind makes to a key, or None if the entry changes no key.

    *key* (empty: none), *retired*, *replaces* and *authority* (the seq of a KEY; 0: none) are from the entry's payload.
    *name* is the public name of the chain that holds the entry; empty: a person's chain.
    """
    owner: Owner = Owner.SUBJECT
    whose: bytes | str = event.tag
    counts = event.kind == EntryKind.KEY
    if name == LEDGER_CHAIN:
        owner, whose = Owner.LEDGER, ""
        # INVARIANT: only a LEDGER entry makes a key of the daemon valid. A KEY entry here can only retire a key.
        counts = event.kind == EntryKind.LEDGER or (counts and retired)
    elif name.startswith(PARTICIPANT_PREFIX):
        owner, whose = Owner.PARTICIPANT, name.removeprefix(PARTICIPANT_PREFIX)
    if authority:
        # Only in the chain of a person does somebody represent the owner of the chain.
        counts &= owner is Owner.SUBJECT and authority < event.seq
        owner, whose = Owner.REPRESENTATIVE, representative(event.tag, authority)
    if not key or not counts:
        return None
    return KeyChange(
        key=key, owner=owner, tag_or_name=whose, time_ms=event.time_ms, retired=retired, replaces=replaces
    )


def valid_keys(changes: Iterable[KeyChange]) -> ValidKeys:
    """Return the validities that follow from changes. The changes of one chain are in the chain's order."""
    keys: MutableValidKeys = {}
    for change in changes:
        apply_key_change(keys, change)
    return keys


def apply_key_change(keys: MutableValidKeys, change: KeyChange) -> None:
    """Begin a validity or end it. Only its owner can retire a key; stating a valid key once more changes nothing."""
    if change.replaces:
        apply_key_change(keys, replace(change, key=change.replaces, retired=True, replaces=b""))
    known = keys.get(change.key, ())
    for position, validity in enumerate(known):
        if (validity.owner, validity.tag_or_name, validity.until_ms) == (change.owner, change.tag_or_name, FOREVER_MS):
            if change.retired:
                ended = replace(validity, until_ms=change.time_ms)
                keys[change.key] = (*known[:position], ended, *known[position + 1 :])
            return
    if not change.retired:
        keys[change.key] = (*known, KeyValidity(change.owner, change.time_ms, FOREVER_MS, change.tag_or_name))


def may_author(validity: KeyValidity, event: codec.Event, named: Named = NAMES_NOTHING) -> bool:
    """Return whether a key with this validity may sign the statement of this event, whose payload names *named*."""
    if validity.owner not in authors_of(event.kind) or not validity.from_ms <= event.time_ms <= validity.until_ms:
        return False
    if validity.owner is Owner.REPRESENTATIVE:
        # INVARIANT: who represents a person signs nothing but what names the authority. Otherwise a KEY entry could put
        # a key of a representative in force as the person's own.
        whose = bytes(validity.tag_or_name) if isinstance(validity.tag_or_name, bytes) else b""
        is_known = event.kind in AUTHORS
        return whose == representative(event.tag, named.authority) if is_known else whose[:_TAG_SIZE] == event.tag
    if validity.owner is Owner.SUBJECT:
        # A person appoints no key of somebody else. They end the authority.
        is_own = event.kind != EntryKind.KEY or not named.authority
        return validity.tag_or_name == event.tag and is_own
    if validity.owner is Owner.LEDGER:
        return not named.giver
    if event.kind == EntryKind.MANDATE:
        # A mandate is in the auditor's chain, and nobody gives one to itself.
        is_giver = bool(named.giver) and validity.tag_or_name == named.giver
        return is_giver and not _is_own_chain(validity, event)
    if event.kind == EntryKind.NOTICE:
        # The payload says whose notice it is. That the chain's name says so too, the daemon and auditors check.
        return bool(named.publisher) and validity.tag_or_name == named.publisher
    return event.kind not in OWN_CHAIN or _is_own_chain(validity, event)


def _is_own_chain(validity: KeyValidity, event: codec.Event) -> bool:
    """Return whether an event is in the chain of the participant for whom a key is valid."""
    return codec.public_tag(f"{PARTICIPANT_PREFIX}{validity.tag_or_name!s}") == event.tag


def verify_signature(statement: codec.Statement, *, origin: str, kind: int, tag: bytes, ref: int) -> None:
    """Verify that a statement is signed by the key that it names, for an entry with these fields in this ledger.

    Raises:
        SignatureError: the signature does not verify, the key is no public key, or the author's time is before 1970.
    """
    if statement.author_time_ms < 0:  # a message of a question can state this, and no statement can
        raise SignatureError("author's time is before 1970")
    message = codec.signed_message(
        origin=origin, kind=kind, tag=tag, ref=ref, request_id=statement.request_id,
        author_time_ms=statement.author_time_ms, payload=statement.payload,
    )  # fmt: skip
    ed25519.verify(statement.key, message, statement.signature)


def verify_authors(
    entries: Iterable[VerifiedEntry], *, origin: str, keys: ValidKeys,
    named_by: Callable[[codec.Event, bytes], Named] = names_nothing, is_whole: bool = True,
) -> None:  # fmt: skip
    """Verify that each statement was signed by a key valid at its leaf's time, of an owner who may author its kind.

    *named_by* reads what a payload names (``may_author``). Whether the giver of a MANDATE had the role of those who
    give mandates, and whether an authority was in force, is not verified here.

    Entries whose statement was erased or pruned are skipped. An entry of a kind that this version does not know is
    accepted from any author, so the caller must report it as not checked (``kinds.is_known``).

    *is_whole*: this version understands every entry that states a key.

    Raises:
        UnknownKeyError: no such key was valid, but an entry that this version does not understand may state one.
        SignatureError: no such key was valid, a signature is wrong, or the author's clock is too far from the ledger's.
    """
    for entry in entries:
        event, statement = entry.event, entry.statement
        if statement is None:
            continue
        if abs(event.time_ms - statement.author_time_ms) > MAX_AUTHOR_SKEW_MS:
            raise SignatureError("author's clock is more than ten minutes from the ledger's")
        named = named_by(event, statement.payload)
        if not any(may_author(validity, event, named) for validity in keys.get(statement.key, ())):
            unknown = f"author's key was not in force for this entry: seq `{event.seq}`"
            if is_whole:
                raise SignatureError(unknown)
            raise UnknownKeyError(f"{unknown}; or an entry that this version does not understand put it in force")
        verify_signature(statement, origin=origin, kind=event.kind, tag=event.tag, ref=event.ref)


def verify_key_changes(
    stated: Iterable[StatedChange], *, origin: str, known: Container[codec.Event] = (), is_whole: bool = True,
    named_by: Callable[[codec.Event, bytes], Named] = names_nothing,
) -> ValidKeys:  # fmt: skip
    """Verify the entries that make keys valid or retire them, in time order; return the validities that follow.

    Each entry must be signed by a key that was valid before the entry. Only leaf 0 is signed by a key that it names.

    A proof does not show the order between entries of *different* chains in the same millisecond. So several
    passes are made over such entries. A pass accepts an entry if the author's key is valid by now and all earlier
    entries of the same chain are accepted. If a pass accepts no entry, the remaining entries have no valid author.

    The authors of *known* entries were verified earlier. *stated* has the entries of each chain in the chain's order.
    *is_whole*, *named_by*: as in ``verify_authors``.
    The chains must be verified to be complete: a missing retirement would leave a key valid for ever.

    Raises:
        SignatureError: the key of an author was not valid, a signature is wrong, or an author's clock is too far off.
    """
    keys: MutableValidKeys = {}
    in_order = sorted(stated, key=lambda one: one[0].event.time_ms)  # stable: each chain keeps its order
    for _, same_time in groupby(in_order, key=lambda one: one[0].event.time_ms):
        waiting: dict[bytes, deque[StatedChange]] = {}
        for one in same_time:
            waiting.setdefault(one[0].event.tag, deque()).append(one)
        while waiting:
            accepted, failure = 0, SignatureError("author's key was not in force")
            for chain in waiting.values():
                try:
                    # INVARIANT: an entry is accepted only after all earlier entries of its chain. Otherwise the sender
                    # could choose an order in which a key is retired first and becomes valid afterwards.
                    while chain:
                        _apply_entry(
                            *chain[0], keys, origin=origin, known=known, is_whole=is_whole, named_by=named_by
                        )
                        chain.popleft()
                        accepted += 1
                except SignatureError as error:
                    failure = error
            waiting = {tag: chain for tag, chain in waiting.items() if chain}
            if waiting and not accepted:
                raise failure
    return keys


def _apply_entry(
    entry: VerifiedEntry,
    change: KeyChange | None,
    keys: MutableValidKeys,
    *,
    origin: str,
    known: Container[codec.Event],
    is_whole: bool,
    named_by: Callable[[codec.Event, bytes], Named],
) -> None:
    """Verify the author of one entry unless the entry is *known*, then apply its change to *keys*."""
    # Leaf 0 names the key that signs it, so its change is applied before its author is verified.
    if change is not None and change.owner is Owner.LEDGER and entry.event.seq == 1:
        apply_key_change(keys, change)
    if entry.event not in known:
        verify_authors([entry], origin=origin, keys=keys, is_whole=is_whole, named_by=named_by)
    if change is not None:
        apply_key_change(keys, change)
