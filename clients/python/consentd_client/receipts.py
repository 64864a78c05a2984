"""Read and verify receipts: what a write leaves in the caller's hand. Offline; no daemon is asked."""

from collections.abc import Collection
from dataclasses import dataclass, field

from consentd.core import codec, merkle
from consentd.core.checkpoint import Checkpoint, parse_proof, verify_proof
from consentd.core.kinds import EntryKind
from consentd.errors import ProofError
from consentd.v1 import consent_pb2 as pb
from consentd_client.steps import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where an entry stands, and the proof of it. Keep it: with ``proof`` it can be checked for ever, offline.

    Attributes:
        index: the leaf's place in the ledger.
        leaf: the leaf, 122 bytes.
        event: the leaf, decoded.
        tree_size: how many leaves the ledger had with it: for ``Consistency.at_least_tree_size``.
        proof: a C2SP ``.tlog-proof``; empty: no checkpoint covered it yet, ask again with ``get_receipt``.
        checkpoint: the checkpoint that ``proof`` was verified to lead to; None: not published yet, or nothing pinned.
        replayed: this request_id was recorded before, and this is that receipt.
    """

    index: int
    leaf: bytes = field(repr=False)
    event: codec.Event = field(repr=False)
    tree_size: int
    proof: bytes = field(repr=False)
    checkpoint: Checkpoint | None
    replayed: bool

    @property
    def kind(self) -> int:
        """The entry's kind, ``EntryKind``."""
        return self.event.kind

    @property
    def leaf_hash(self) -> bytes:
        """The leaf's hash in the tree, 32 bytes."""
        return merkle.leaf_hash(self.leaf)


def read_receipt(message: pb.Receipt, *, kinds: Collection[EntryKind], trust: Trust | None) -> Receipt:
    """Read a receipt, and verify what it says for itself; its proof too, where there is one and a key is pinned.

    The write stands, whatever is wrong with its receipt.

    Raises:
        MalformedError: leaf or proof is not one.
        SignatureError: the log has not signed the checkpoint.
        ProofError: it is for another entry, or does not lead to the checkpoint.
    """
    event = codec.decode_leaf(message.leaf)
    if not isinstance(event, codec.Event) or event.kind not in kinds:
        raise ProofError("receipt is for an entry of another kind")
    if merkle.leaf_hash(message.leaf) != message.leaf_hash:
        raise ProofError("receipt has another leaf's hash")
    checkpoint = None
    if message.published and trust is not None:
        checkpoint = verify_receipt(message.leaf, message.proof, trust, index=message.index)
    return Receipt(
        index=message.index,
        leaf=message.leaf,
        event=event,
        tree_size=message.revision.tree_size,
        proof=message.proof if message.published else b"",
        checkpoint=checkpoint,
        replayed=message.replayed,
    )


def verify_receipt(leaf: bytes, proof: bytes, trust: Trust, *, index: int | None = None) -> Checkpoint:
    """Verify, offline, that *proof* shows *leaf* in a tree that the log signed; return that checkpoint.

    Args:
        leaf: the leaf's bytes, from the receipt.
        proof: the ``.tlog-proof``.
        trust: what was pinned.
        index: where the leaf is said to be; None: wherever the proof has it.

    Raises:
        MalformedError: the proof is not one.
        SignatureError: the log has not signed the checkpoint, or too few witnesses have.
        ProofError: another origin, another index, or the proof does not lead from the leaf to the root.
    """
    checkpoint = verify_proof(proof, leaf=leaf, origin=trust.origin, log_verifier=trust.log_key)
    bundle = parse_proof(proof)
    if index is not None and bundle.index != index:
        raise ProofError("proof is of another index than the receipt")
    trust.verify_witnessed(bundle.checkpoint_note, now_ms=None)
    return checkpoint
