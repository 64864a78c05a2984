"""Verify a history: the entries of one tag (the pseudonym of a person, or the hash of a public name) are complete.

A history proof leads from the checkpoint, which everyone can see, to one person's entries (*held*: verified earlier)::

    checkpoint      signed by the log; consistent with the held checkpoint, not smaller      verify_sealed_checkpoint
      └─ seal       the last leaf; commits to the head (last leaf) of every chain            verify_sealed_checkpoint
           └─ map   the count and head of this tag, or the absence of the tag                verify_chain
                └─ leaves     seq 1 … count without a gap; the last one hashes to the head   verify_chain
                     └─ openings      the salt and statement to which each leaf commits      verify_chain
                          └─ authors  each signed by a key valid then, of an allowed author  key_validity

``consentd_client.history.verify_history`` runs all these steps; their functions are here.

The client's policy decides on the quorum and freshness of cosignatures (``quorum``). The chain that holds an author's
keys is verified in the same way, under the same sealed checkpoint. A ledger states in its own chain what it has pruned;
the caller first verifies that the published policy allows this pruning (``pruned``).

A history does not prove that every access was reported, that a tag belongs to a certain person, or that the log shows
everyone the same tree. Source: ledger-format.md, "History proof".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from consentd import limits
from consentd.core import codec, merkle, patricia
from consentd.core.checkpoint import MAX_SIZE, Checkpoint, open_checkpoint
from consentd.core.kinds import PRUNABLE, PUBLIC, EntryKind
from consentd.core.note import NoteVerifier
from consentd.errors import MalformedError, ProofError

MAX_NAME = limits.PUBLIC_NAME_CHARACTERS
_SALT_SIZE = 32
_TAG_SIZE = 32


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A leaf and its opening: the (salt, statement) to which the leaf commits; None if erased or pruned."""

    leaf: bytes
    opening: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainProof:
    """The head of a chain with its map proof, and the chain's entries.

    Attributes:
        public_name: ``participant/ID`` and the like; empty for a person's chain.
        count, head: number of entries and last chain hash, as in the map; 0 and b"" if *map_proof* proves absence.
        first_seq: seq of the first of ``entries``: 1, the seq after the held entries, or the first that is not pruned.
    """

    tag: bytes
    public_name: str
    count: int
    head: bytes
    map_proof: bytes
    first_seq: int
    entries: tuple[HistoryEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryProof:
    """A history as the daemon sends it. Nothing in it is verified.

    Attributes:
        checkpoint: the signed note, verbatim.
        consistency: the consistency proof from the held checkpoint to *checkpoint*; empty if the client holds none.
        seal, seal_inclusion: the last leaf of the checkpoint's tree, and its inclusion proof.
        chains: first the requested chain, then the chains that hold the keys of its authors.
        rotations: how to reach the key that signed *checkpoint* from an earlier log key, oldest first.
    """

    checkpoint: bytes
    consistency: tuple[bytes, ...]
    seal: bytes
    seal_inclusion: tuple[bytes, ...]
    chains: tuple[ChainProof, ...]
    rotations: tuple["RotationProof", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationProof:
    """A checkpoint that a log key signed before it was replaced, and what the ledger stated then. Nothing is verified.

    Attributes:
        checkpoint: the signed note, verbatim. *seal*, *seal_inclusion*: as in ``HistoryProof``.
        history: the whole chain ``ledger`` at this checkpoint.
        consistency: the consistency proof from this checkpoint to that of the next rotation, or to the history's own.
    """

    checkpoint: bytes
    seal: bytes
    seal_inclusion: tuple[bytes, ...]
    history: ChainProof
    consistency: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HeldChain:
    """The part of a chain that the client verified earlier, by its last entry: *count* is the seq of that entry, *head*
    its chain hash, *erased* whether the entry is an ERASURE, and *time_ms* its time.

    *lacks_statements*: a statement of this part is missing, and was not pruned. Only an ERASURE at the end of the chain
    explains that.
    """

    count: int
    head: bytes
    erased: bool = False
    time_ms: int = 0
    lacks_statements: bool = False


@dataclass(frozen=True, slots=True)
class SealedCheckpoint:
    """A verified checkpoint, and the seal that is the last leaf of its tree."""

    checkpoint: Checkpoint
    seal: codec.Seal


@dataclass(frozen=True, slots=True)
class VerifiedEntry:
    """An entry verified as part of a chain, and its statement (None: erased or pruned). The author is not verified."""

    event: codec.Event
    statement: codec.Statement | None


def verify_sealed_checkpoint(
    proof: HistoryProof, *, origin: str, log_verifier: NoteVerifier, held: Checkpoint | None
) -> SealedCheckpoint:
    """Verify a proof's checkpoint, its consistency with the *held* checkpoint, and its seal.

    Raises:
        MalformedError: the checkpoint or the seal is malformed.
        SignatureError: the log has not signed the checkpoint.
        ProofError: the origin differs, the tree is smaller than or contradicts the held tree, or the seal is not last.
    """
    point, _ = open_checkpoint(proof.checkpoint, origin, log_verifier)
    if held is None:
        if proof.consistency:
            raise ProofError("consistency proof is not empty, but no checkpoint is held")
    else:
        if held.origin != point.origin:
            raise ProofError("held checkpoint is of another origin")
        if point.size < held.size:
            raise ProofError(f"checkpoint is smaller than the held one: `{point.size}` and `{held.size}`")
        merkle.verify_consistency(
            proof.consistency, size1=held.size, root1=held.root, size2=point.size, root2=point.root
        )
    seal = codec.decode_leaf(proof.seal)
    # INVARIANT: a seal covers at least one event, so sizes 0 and 1 are never signed.
    if not isinstance(seal, codec.Seal) or seal.covers != point.size - 1 or point.size < 2:
        raise ProofError("seal is not the one that covers this checkpoint's tree")
    hashed, index = merkle.leaf_hash(proof.seal), point.size - 1
    merkle.verify_inclusion(proof.seal_inclusion, index=index, size=point.size, leaf_hash=hashed, root=point.root)
    return SealedCheckpoint(point, seal)


def verify_chain(
    chain: ChainProof, *, sealed: SealedCheckpoint, held: HeldChain | None = None, kept_from_ms: int = 0
) -> tuple[VerifiedEntry, ...]:
    """Verify that a proof has all entries of its chain, or all entries after the *held* part; return these entries.

    The other arguments and the errors are those of ``verify_part``.
    """
    return verify_part(chain, sealed=sealed, held=held, kept_from_ms=kept_from_ms)[0]


def verify_part(
    chain: ChainProof, *, sealed: SealedCheckpoint, held: HeldChain | None = None, kept_from_ms: int = 0,
    most: int | None = None,
) -> tuple[tuple[VerifiedEntry, ...], HeldChain]:  # fmt: skip
    """Verify that a proof has the entries of its chain after the *held* part: all, or the first *most* of them.

    Returns the entries, and the part of the chain that is verified then. INVARIANT: the part is the whole chain only if
    its count is the chain's. Before that, no proof leads from its entries to the ledger: the entries follow each other,
    and the part that reaches the count proves them all.

    Args:
        most: the number of entries that were asked for; None: all.
        kept_from_ms: the ledger's own chain states that entries from before this time were pruned; 0: none were. If
            entries at the beginning of a person's chain, or openings, are from before this time, they may be missing.

    Raises:
        MalformedError: a leaf, statement, tag or name is malformed.
        ProofError: the map has another head; an entry is missing, altered, out of order or of another chain; an
            opening is missing although the statement was neither erased nor pruned; or a public chain has no public
            name.
    """
    _verify_head(chain, sealed.seal.map_root)
    start = held or HeldChain(0, b"")
    if chain.count < start.count:
        raise ProofError(f"chain is shorter than the held part: `{chain.count}` and `{start.count}`")
    wanted = chain.count - chain.first_seq + 1
    if chain.first_seq <= start.count or len(chain.entries) != (wanted if most is None else min(wanted, most)):
        raise ProofError(f"chain does not have the entries after `{start.count}` up to `{chain.count}`")
    if chain.public_name:
        kept_from_ms = 0
    head: bytes | None = start.head if start.count else codec.ZERO_HASH
    if chain.first_seq > start.count + 1:
        # INVARIANT: times do not decrease, so no missing entry is later than the first entry that is present.
        first = codec.decode_leaf(chain.entries[0].leaf) if chain.entries else None
        if not isinstance(first, codec.Event) or first.time_ms >= kept_from_ms:
            raise ProofError(f"chain does not have the entries after `{start.count}`, and they are not pruned")
        head = None
    before = replace(start, count=chain.first_seq - 1)
    verified, last = _verify_links(chain.tag, chain.entries, before=before, head=head)
    # INVARIANT: a chain without a public name counts as a person's, so its first entries may be missing. Otherwise the
    # sender could leave out the name of a public chain, and then entries that are never pruned.
    if not chain.public_name and any(one.event.kind in PUBLIC for one in verified):
        raise ProofError("chain has an entry of a public chain, but no public name")
    if verified and verified[-1].event.time_ms > sealed.seal.time_ms:
        raise ProofError("entry is later than the seal")
    part = _held_after(start, verified, last, kept_from_ms)
    if verified and part.count < chain.count:
        return verified, part
    if last != (chain.head if chain.count else codec.ZERO_HASH):
        raise ProofError("last entry does not hash to the head in the map")
    # INVARIANT: a statement may be missing only if the statement was pruned or its person was erased. In the second
    # case, the chain ends in an ERASURE, whose own statement is never encrypted and never missing.
    is_erased = part.erased and (not verified or verified[-1].statement is not None)
    if part.lacks_statements and not is_erased:
        raise ProofError("opening is missing, and the chain does not end in an ERASURE")
    return verified, part


def _held_after(
    start: HeldChain, verified: Sequence[VerifiedEntry], head: bytes | None, kept_from_ms: int
) -> HeldChain:
    """Return the part of a chain that ends with the last of *verified*, which follows *start*."""
    if not verified:
        return start
    lacks = any(
        one.statement is None and (one.event.time_ms >= kept_from_ms or one.event.kind not in PRUNABLE)
        for one in verified
    )
    event = verified[-1].event
    erased = event.kind == EntryKind.ERASURE
    return HeldChain(event.seq, head or b"", erased, event.time_ms, start.lacks_statements or lacks)


def verify_run(tag: bytes, entries: Sequence[HistoryEntry], *, first_seq: int) -> tuple[VerifiedEntry, ...]:
    """Verify that entries are consecutive in their chain; return them. The last is not compared with the map's head.

    Raises:
        MalformedError: a leaf or statement is malformed.
        ProofError: an entry between them is missing, or one of them is altered, out of order or of another chain.
    """
    head = codec.ZERO_HASH if first_seq == 1 else None
    return _verify_links(tag, entries, before=HeldChain(first_seq - 1, b""), head=head)[0]


def _verify_links(
    tag: bytes, entries: Sequence[HistoryEntry], *, before: HeldChain, head: bytes | None
) -> tuple[tuple[VerifiedEntry, ...], bytes | None]:
    """Verify that each entry follows the one before it; return the entries and the chain hash of the last one.

    *before* describes the entry before the first one. *head* is its chain hash; None: the first prev is not compared.
    """
    count, erased, time_ms = before.count, before.erased, before.time_ms
    verified = []
    for entry in entries:
        event = codec.decode_leaf(entry.leaf)
        if erased:
            raise ProofError("entry follows an ERASURE")
        if not isinstance(event, codec.Event) or event.tag != tag:
            raise ProofError("entry is not of this chain")
        if event.seq != count + 1 or (head is not None and event.prev != head):
            raise ProofError(f"entry does not follow the one before: seq `{event.seq}` after `{count}`")
        if event.time_ms < time_ms:
            raise ProofError("entry is earlier than the one before")
        count, head, time_ms = event.seq, codec.chain_hash(entry.leaf), event.time_ms
        erased = event.kind == EntryKind.ERASURE
        verified.append(VerifiedEntry(event, None if entry.opening is None else open_statement(event, *entry.opening)))
    return tuple(verified), head


def _verify_head(chain: ChainProof, map_root: bytes) -> None:
    """Verify the map proof of the chain's count and head, and that the public name belongs to the tag."""
    if len(chain.tag) != _TAG_SIZE or not 0 <= chain.count <= MAX_SIZE or len(chain.public_name) > MAX_NAME:
        raise MalformedError("chain has an impossible tag, name or count")
    if chain.public_name and not (chain.public_name.isascii() and codec.public_tag(chain.public_name) == chain.tag):
        raise ProofError("public name is not the tag's")
    key = codec.map_key(chain.tag)
    if chain.count == 0:
        if chain.head:
            raise MalformedError("chain without entries has a head")
        patricia.verify_absence(map_root, key, chain.map_proof)
        return
    if len(chain.head) != merkle.HASH_SIZE:
        raise MalformedError("chain head is not 32 bytes long")
    patricia.verify_presence(map_root, key, codec.map_value(chain.tag, chain.count, chain.head), chain.map_proof)


def open_statement(event: codec.Event, salt: bytes, statement: bytes) -> codec.Statement:
    """Verify that an event leaf commits to this opening (salt and statement); return the decoded statement.

    Raises:
        MalformedError: the salt is not 32 bytes long, or the bytes are no statement.
        ProofError: the leaf commits to another opening.
    """
    # INVARIANT: the salt's length is fixed. Otherwise one commitment would open to several pairs of salt and statement.
    if len(salt) != _SALT_SIZE:
        raise MalformedError("salt is not 32 bytes long")
    if codec.commit(salt, statement) != event.commit:
        raise ProofError(f"opening is not what its leaf commits to: seq `{event.seq}`")
    return codec.decode_statement(statement)
