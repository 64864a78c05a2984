"""Receipts: what the daemon returns for a write. They are verified offline, without the daemon."""

from collections.abc import Collection
from dataclasses import dataclass, field

from consentd.core import codec, merkle
from consentd.core.checkpoint import Checkpoint, parse_proof, verify_proof
from consentd.core.kinds import EntryKind
from consentd.errors import ProofError
from consentd.v1 import consent_pb2 as pb
from consentd_client.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Where an entry is in the ledger, and the proof of it. A stored ``proof`` can be verified offline at any time.

    Attributes:
        index: the leaf's index in the ledger.
        leaf: the leaf, 122 bytes.
        event: the decoded leaf.
        tree_size: the ledger's size including this entry: for ``Consistency.at_least_tree_size``.
        proof: a C2SP ``.tlog-proof``; empty: no checkpoint covered the entry yet. ``get_receipt`` asks again.
        checkpoint: the checkpoint that ``proof`` leads to, verified; None: not published yet, or no key is pinned.
        replayed: this request_id was recorded by an earlier call, and the receipt is that call's.
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
    """Check the fields of a receipt for an entry of one of *kinds*; verify its proof if it has one and a key is pinned.

    A fault in the receipt does not undo the write.

    Raises:
        VerificationError: as ``verify_receipt``; or the receipt is for an entry of another kind.
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
    """Verify offline that *proof* proves *leaf* in a tree that the log signed; return the tree's checkpoint.

    Args:
        leaf: the leaf, 122 bytes.
        proof: a C2SP ``.tlog-proof``.
        trust: what was pinned.
        index: the leaf's index according to the receipt; None: any index.

    Raises:
        MalformedError: the proof is malformed.
        SignatureError: the log did not sign the checkpoint, or too few witnesses cosigned it.
        ProofError: the proof is of another origin or index, or does not lead from the leaf to the root.
    """
    checkpoint = verify_proof(proof, leaf=leaf, origin=trust.origin, log_verifier=trust.log_key)
    bundle = parse_proof(proof)
    if index is not None and bundle.index != index:
        raise ProofError("proof is of another index than the receipt")
    trust.verify_witnessed(bundle.checkpoint_note, now_ms=None)
    return checkpoint
