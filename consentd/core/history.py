"""Verify a history: these entries of a tag are all of them, and each was stated by whom it says.

A history proof goes from what everyone can see to what one person holds, each step leaning on the one before::

    checkpoint      signed by the log; consistent with the one held, and not smaller         verify_sealed_checkpoint
      └─ seal       leaf n-1 of its tree; says where every chain stood                        verify_sealed_checkpoint
           └─ map   (count, head) of this tag, or that the tag has no entry                   verify_chain
                └─ leaves     seq 1 … count without a gap, the last one hashing to head       verify_chain
                     └─ openings      each commits to its statement                           verify_chain
                          └─ authors  signed by a key in force then, of who may state this    terms

Quorum and freshness of witnesses are the client's policy: it opens the same checkpoint note with its witnesses.
Each author's chain is verified like the first, at the same sealed; what such chains say of keys is for ``terms``.

A ledger states in its own chain what it has pruned, and whoever verifies holds it to the policy it published first.

What it does not prove: an access that nobody reported; that a tag is a certain person's; that the log shows everyone
the same tree. Source: ledger-format.md, "History proof".
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from consentd.core import codec, merkle, patricia
from consentd.core.checkpoint import MAX_SIZE, Checkpoint, open_checkpoint
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.note import NoteVerifier, Verifier, format_vkey
from consentd.errors import MalformedError, ProofError

MAX_NAME = 128

_SALT_SIZE = 32
_TAG_SIZE = 32


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A leaf, and the (salt, statement) it commits to; None for a tombstone."""

    leaf: bytes
    opening: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainProof:
    """Where a chain stands, and its entries.

    Attributes:
        public_name: ``participant/ID`` and the like; empty for a person's chain.
        count, head: as the map has them; 0 and empty where the tag has no entry.
        map_proof: of presence, or of absence where count is 0.
        first_seq: seq of the first of ``entries``: 1, the one after those held, or the first that is not pruned.
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
    """A history as it is sent: all claims, nothing verified.

    Attributes:
        checkpoint: the signed note, verbatim.
        consistency: hashes, from the checkpoint held to this one; empty where none is held.
        seal: the last leaf of the checkpoint's tree.
        seal_inclusion: hashes of its inclusion proof.
        chains: the chain asked for first, then those of its authors' keys.
    """

    checkpoint: bytes
    consistency: tuple[bytes, ...]
    seal: bytes
    seal_inclusion: tuple[bytes, ...]
    chains: tuple[ChainProof, ...]


@dataclass(frozen=True, slots=True)
class HeldChain:
    """How much of a chain the client has verified before, and of its last entry: is it an ERASURE, and of what time."""

    count: int
    head: bytes
    erased: bool = False
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class SealedCheckpoint:
    """What all chains of one proof are verified against: a checkpoint that holds, and its seal."""

    checkpoint: Checkpoint
    seal: codec.Seal


@dataclass(frozen=True, slots=True)
class VerifiedEntry:
    """An entry that is part of the chain, and what it commits to (None: erased); not who signed it."""

    event: codec.Event
    statement: codec.Statement | None


def verify_sealed_checkpoint(
    proof: HistoryProof, *, origin: str, log_verifier: NoteVerifier, held: Checkpoint | None
) -> SealedCheckpoint:
    """Verify what a proof stands on: checkpoint, consistency with the one *held*, seal.

    Raises:
        MalformedError: checkpoint or seal is not one.
        SignatureError: the log has not signed the checkpoint.
        ProofError: another origin, a smaller or contradicting tree, or the seal is not its last leaf.
    """
    point, _ = open_checkpoint(proof.checkpoint, origin, log_verifier)
    if held is None:
        if proof.consistency:
            raise ProofError("consistency proof leads from no checkpoint that is held")
    else:
        if held.origin != point.origin:
            raise ProofError("checkpoint held is of another origin")
        if point.size < held.size:
            raise ProofError(f"checkpoint is smaller than the one held: `{point.size}` and `{held.size}`")
        merkle.verify_consistency(
            proof.consistency, size1=held.size, root1=held.root, size2=point.size, root2=point.root
        )
    seal = codec.decode_leaf(proof.seal)
    # INVARIANT: a seal covers at least one event, so sizes 0 and 1 are never signed.
    if not isinstance(seal, codec.Seal) or seal.covers != point.size - 1 or point.size < 2:
        raise ProofError("seal is not the one that covers this checkpoint's tree")
    merkle.verify_inclusion(
        proof.seal_inclusion,
        index=point.size - 1,
        size=point.size,
        leaf_hash=merkle.leaf_hash(proof.seal),
        root=point.root,
    )
    return SealedCheckpoint(point, seal)


def verify_chain(
    chain: ChainProof, *, sealed: SealedCheckpoint, held: HeldChain | None = None, kept_from_ms: int = 0
) -> tuple[VerifiedEntry, ...]:
    """Verify that these entries are all that the chain has, or all after what is *held*; return them.

    Args:
        kept_from_ms: what the ledger has pruned, as its own chain states: of a person's chain, entries before this time
            may be missing where it begins, and openings anywhere; 0: nothing.

    Raises:
        MalformedError: a leaf, statement, tag or name is not one.
        ProofError: the map does not say so, an entry is missing, foreign, altered or out of order, or an opening
            is missing from a chain that was neither erased nor pruned there.
    """
    _verify_standing(chain, sealed.seal.map_root)
    start = HeldChain(0, b"") if held is None else held
    if chain.count < start.count:
        raise ProofError(f"chain is shorter than what is held: `{chain.count}` and `{start.count}`")
    if chain.first_seq <= start.count or len(chain.entries) != chain.count - chain.first_seq + 1:
        raise ProofError(f"chain does not have the entries after `{start.count}` up to `{chain.count}`")
    if chain.public_name:
        kept_from_ms = 0
    head: bytes | None = start.head if start.count else codec.ZERO_HASH
    if chain.first_seq > start.count + 1:
        # INVARIANT: what is missing is not later than the entry behind it, and that one is old enough to be pruned.
        first = codec.decode_leaf(chain.entries[0].leaf) if chain.entries else None
        if not isinstance(first, codec.Event) or first.time_ms >= kept_from_ms:
            raise ProofError(f"chain does not have the entries after `{start.count}`, and they are not pruned")
        head = None
    behind = replace(start, count=chain.first_seq - 1)
    verified, last = _walk(chain.tag, chain.entries, behind=behind, head=head)
    if verified and verified[-1].event.time_ms > sealed.seal.time_ms:
        raise ProofError("entry is later than the seal")
    if last != (chain.head if chain.count else codec.ZERO_HASH):
        raise ProofError("last entry is not the head that the map has")
    # INVARIANT: an erased person's statements are gone, and pruned ones; nobody else's may be. The ERASURE itself
    # stands in the clear.
    gone = any(
        one.statement is None and (one.event.time_ms >= kept_from_ms or one.event.kind not in PRUNABLE)
        for one in verified
    )
    if gone and not (verified[-1].event.kind == EntryKind.ERASURE and verified[-1].statement is not None):
        raise ProofError("opening is missing, and the chain does not end in an ERASURE")
    return verified


def verify_run(tag: bytes, entries: Sequence[HistoryEntry], *, first_seq: int) -> tuple[VerifiedEntry, ...]:
    """Verify that entries follow one another, as they were held before those behind them were pruned; return them.

    Raises:
        MalformedError: a leaf or statement is not one.
        ProofError: one is missing between them, foreign, altered or out of order.
    """
    head = codec.ZERO_HASH if first_seq == 1 else None
    return _walk(tag, entries, behind=HeldChain(first_seq - 1, b""), head=head)[0]


def verify_pinned(
    origins: AbstractSet[str], keys: AbstractSet[str], *, origin: str, log_verifier: NoteVerifier
) -> None:
    """Hold what the ledger's own entries say of it against what was pinned.

    Args:
        origins: that LEDGER entries name; *keys* likewise, vkeys of the log.

    Raises:
        ProofError: they name none or another origin, or not the log's key.
    """
    if origins != {origin}:
        raise ProofError("ledger names another origin for itself than the one pinned")
    if isinstance(log_verifier, Verifier) and format_vkey(log_verifier) not in keys:
        raise ProofError("ledger does not name the pinned log key as its own")


def _walk(
    tag: bytes, entries: Sequence[HistoryEntry], *, behind: HeldChain, head: bytes | None
) -> tuple[tuple[VerifiedEntry, ...], bytes | None]:
    """Go from entry to entry *behind* a place, of chain hash *head* (None: unknown); return them, and the last's."""
    count, erased, time_ms = behind.count, behind.erased, behind.time_ms
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


def _verify_standing(chain: ChainProof, map_root: bytes) -> None:
    """Verify what the map says of the tag, and that a public name is the tag's."""
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
    """Verify that an opening is what a leaf commits to; return the decoded statement.

    Raises:
        MalformedError: the salt is not 32 bytes long, or the statement is not one.
        ProofError: the leaf commits to something else.
    """
    # INVARIANT: the salt's length is fixed, or the same hash would open to other statements.
    if len(salt) != _SALT_SIZE:
        raise MalformedError("salt is not 32 bytes long")
    if codec.commit(salt, statement) != event.commit:
        raise ProofError(f"opening is not what its leaf commits to: seq `{event.seq}`")
    return codec.decode_statement(statement)
