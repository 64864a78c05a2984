"""Check a bundle: everything in it against the log's public key, and nothing against what it says of itself.

Needs ``consentd.core``, protobuf and PyNaCl: no server part, no daemon, no network. What a zip may hold is bounded
before it is read (``packed``), and every line has exactly the names that it should have. A person's chain may lack
what the ledger's own chain, in the bundle, states to have pruned.

What stays the maker's word, for no proof speaks of it: README and policy; the index of an entry of a whole chain; and
that nothing beside the scope was at hand. ``scope.json`` may name less than what is there, never more.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from consentd.audit.claims import Claims, Single, read_bundle
from consentd.core import codec, history, merkle, quorum
from consentd.core.checkpoint import Checkpoint
from consentd.core.history import ChainProof, HistoryProof, SealedCheckpoint, VerifiedEntry
from consentd.core.key_validity import (
    LEDGER_CHAIN,
    KeyChange,
    ValidKeys,
    has_author_keys,
    valid_keys,
    verify_authors,
    verify_key_changes,
)
from consentd.core.kinds import EntryKind, Owner, authors_of, is_known
from consentd.core.note import NoteVerifier
from consentd.core.pruned import Retention
from consentd.errors import MalformedError, ProofError
from consentd.statements import payloads, values
from consentd.verify.statements import open_statement

_AUTHORING = frozenset({EntryKind.LEDGER, EntryKind.KEY})
_Chains = list[tuple[ChainProof, tuple[VerifiedEntry, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a bundle proves.

    Attributes:
        scope: what it says it was made of, as fields; a range and a chain are proven to be whole.
        chains: by public name, or ``a person``, how many entries.
        kinds: how many entries of each kind, by name.
        missing: entries of the person's chain before those that are there: the ledger has pruned them.
        kept_from_ms: the time before which it has, where its chain is there to say so; 0: nothing.
        closed: entries without their statement: erased, pruned, or outside the mandate of who made it.
        unproven: statements signed by a person's own key, whose chain is not in the bundle.
        unknown: entries of kinds that this version does not know, or that say of keys what it cannot read.
        witnesses: names that cosigned, where a policy was given.
    """

    checkpoint: Checkpoint
    scope: dict[str, Any]
    chains: tuple[tuple[str, int], ...]
    missing: int
    kept_from_ms: int
    entries: int
    kinds: dict[str, int]
    opened: int
    closed: int
    unproven: int
    unknown: int
    witnesses: tuple[str, ...]


def check_bundle(content: bytes, *, origin: str, log_verifier: NoteVerifier, policy: bytes | None = None) -> Checked:
    """Check a bundle; return what it proves.

    Args:
        policy: a witness policy; cosignatures are then asked for. How old they are is not looked at.

    Raises:
        MalformedError: it is not a bundle, or a part of it is not what it should be.
        SignatureError: the log, a witness or an author has not signed.
        ProofError: something in it is not proven, or an entry is missing.
    """
    claims = read_bundle(content)
    proof = HistoryProof(
        checkpoint=claims.checkpoint, consistency=(), seal=claims.seal, seal_inclusion=claims.seal_inclusion, chains=()
    )
    sealed = history.verify_sealed_checkpoint(proof, origin=origin, log_verifier=log_verifier, held=None)
    witnesses = () if policy is None else _witnesses(claims.checkpoint, policy, log_verifier)
    _check_needed(claims)
    chains, kept_from_ms = _verify_chains(claims.chains, sealed)
    in_force = verify_key_changes(_stated(chains), origin=origin)
    found = Counter[str]()
    kinds = Counter[str]()
    for _, entries in chains:
        verify_authors(entries, origin=origin, keys=in_force)
        for each in entries:
            _count(each, found, kinds)
    _check_ledger(chains, origin, log_verifier)
    for entry in _verify_singles(claims.singles, sealed):
        if entry is None:
            found["all"] += 1  # a seal
            continue
        if entry.statement is not None and _may_be_own(entry, in_force):
            # A person's own key, whose chain the bundle does not have: the signature holds, whose it is stays open.
            own = KeyChange(key=entry.statement.key, owner=Owner.SUBJECT, tag_or_name=entry.event.tag, time_ms=0)
            verify_authors([entry], origin=origin, keys=valid_keys([own]))
            found["unproven"] += 1
        else:
            verify_authors([entry], origin=origin, keys=in_force)
        _count(entry, found, kinds)
    _verify_scope(claims, sealed.checkpoint)
    return Checked(
        checkpoint=sealed.checkpoint,
        scope={key: value for key, value in claims.scope.items() if key != "format"},
        chains=tuple((chain.public_name or "a person", len(entries)) for chain, entries in chains),
        missing=sum(chain.first_seq - 1 for chain, _ in chains),
        kept_from_ms=kept_from_ms,
        entries=found["all"],
        kinds=dict(kinds),
        opened=found["opened"],
        closed=found["closed"],
        unproven=found["unproven"],
        unknown=found["unknown"],
        witnesses=witnesses,
    )


def _verify_chains(claimed: Sequence[ChainProof], sealed: SealedCheckpoint) -> tuple[_Chains, int]:
    """Verify that each chain is whole, but for what the ledger's own states to have pruned; return them, and that.

    Raises:
        MalformedError: a part of one is not what it should be.
        ProofError: one is not whole, or the ledger states to have pruned what its published policy keeps.
    """
    own = {
        id(chain): history.verify_chain(chain, sealed=sealed)
        for chain in claimed
        if chain.public_name == LEDGER_CHAIN
    }
    kept = Retention()
    for entry in (entry for entries in own.values() for entry in entries):
        if entry.statement is not None:
            values.add_retention(kept, entry.event, entry.statement.payload)
    chains = []
    for chain in claimed:
        entries = own.get(id(chain))
        if entries is None:
            entries = history.verify_chain(chain, sealed=sealed, kept_from_ms=kept.kept_from_ms)
        chains.append((chain, entries))
    return chains, kept.kept_from_ms


def _count(entry: VerifiedEntry, found: Counter[str], kinds: Counter[str]) -> None:
    kind = entry.event.kind
    found["all"] += 1
    found["opened" if entry.statement is not None else "closed"] += 1
    if is_known(kind):
        kinds[EntryKind(kind).name] += 1
    if not is_known(kind) or (kind in _AUTHORING and entry.statement is not None and _read(entry) is None):
        found["unknown"] += 1


def _may_be_own(entry: VerifiedEntry, keys: ValidKeys) -> bool:
    """Tell whether the key of an entry may be the person's own: nobody else has it, and a person may state this."""
    assert entry.statement is not None
    return entry.statement.key not in keys and Owner.SUBJECT in authors_of(entry.event.kind)


def _check_needed(claims: Claims) -> None:
    """Refuse a chain that is there twice, or is neither the one asked for nor an author's."""
    tags = set()
    for chain in claims.chains:
        if chain.tag in tags or not (has_author_keys(chain.public_name) or chain.tag == claims.asked):
            raise ProofError("bundle has a chain that nobody needs")
        tags.add(chain.tag)


def _check_ledger(chains: _Chains, origin: str, log_verifier: NoteVerifier) -> None:
    """Hold what the ledger's own chain says of it, where that is there, against what was pinned."""
    if not any(chain.public_name == LEDGER_CHAIN for chain, _ in chains):
        return
    origins, keys = set[str](), set[str]()
    for chain, entries in chains:
        for entry in entries if chain.public_name == LEDGER_CHAIN else ():
            said = _read(entry)
            if said is not None and entry.event.kind == EntryKind.LEDGER:
                origins.add(said.origin)
                keys.update(said.verifier_keys)
    history.verify_pinned(origins, keys, origin=origin, log_verifier=log_verifier)


def _verify_scope(claims: Claims, point: Checkpoint) -> None:
    """Verify that what the bundle says it is made of is all there."""
    if claims.scope["origin"] != point.origin or claims.scope["size"] != point.size:
        raise ProofError("bundle says it is of another ledger or size than its checkpoint")
    if claims.last >= point.size:
        raise MalformedError("bundle has a range that is none")
    # In order, each once, and each in the tree: so many in the range are all of it.
    if sum(claims.first <= single.index <= claims.last for single in claims.singles) != claims.last - claims.first + 1:
        raise ProofError("an entry of the range is missing")
    if claims.asked is not None and not any(chain.tag == claims.asked for chain in claims.chains):
        raise ProofError("the chain that it is made of is missing")


def _witnesses(note: bytes, policy: bytes, log_verifier: NoteVerifier) -> tuple[str, ...]:
    """Return who cosigned; a quorum must have, whenever that was: a bundle is kept.

    Raises:
        SignatureError: no quorum has.
    """
    found = quorum.verify_cosigned(note, quorum.parse_policy(policy), now_s=0, max_age_s=None, logs=(log_verifier,))
    return tuple(name for name, _ in found.cosignatures)


# -- entries --------------------------------------------------------------------------------------------------


def _verify_singles(singles: Sequence[Single], sealed: SealedCheckpoint) -> list[VerifiedEntry | None]:
    """Verify that each single entry stands in the tree, in order and each once; a seal is None."""
    point = sealed.checkpoint
    found: list[VerifiedEntry | None] = []
    next_index, time_ms = 0, 0
    for single in singles:
        leaf, opening = single.entry.leaf, single.entry.opening
        merkle.verify_inclusion(
            single.inclusion, index=single.index, size=point.size, leaf_hash=merkle.leaf_hash(leaf), root=point.root
        )
        event = codec.decode_leaf(leaf)
        if single.index < next_index:
            raise ProofError("entry is there twice, or out of order")
        if not time_ms <= event.time_ms <= sealed.seal.time_ms:
            raise ProofError("entry is earlier than the one before, or later than the seal")
        next_index, time_ms = single.index + 1, event.time_ms
        if isinstance(event, codec.Seal):
            if opening is not None:
                raise MalformedError("seal has an opening")
            if event.covers != single.index:
                raise ProofError("seal does not stand where it says")
            found.append(None)
            continue
        opened = None if opening is None else open_statement(event, b"".join(opening))
        found.append(VerifiedEntry(event, opened))
    return found


# -- keys -----------------------------------------------------------------------------------------------------


def _stated(chains: _Chains) -> Iterator[tuple[VerifiedEntry, KeyChange | None]]:
    """Yield the entries that put keys in force or out of it, with what they say, so far as this version reads it."""
    for chain, entries in chains:
        for entry in entries:
            if entry.statement is None or entry.event.kind not in _AUTHORING:
                continue
            yield entry, values.stated_key(entry.event, entry.statement.payload, chain=chain.public_name)


def _read(entry: VerifiedEntry) -> Any:
    """Return what a LEDGER or KEY entry says; None where it is neither, or this version cannot read all of it."""
    if entry.statement is None or entry.event.kind not in _AUTHORING:
        return None
    return payloads.decode_known_payload(entry.event.kind, entry.statement.payload)
