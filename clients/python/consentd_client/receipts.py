"""Options and receipts of writes. A receipt proves that an entry is in the ledger; no daemon is needed to verify it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from google.protobuf.message import Message

from consentd.core import codec, merkle
from consentd.core.checkpoint import Checkpoint, parse_proof, verify_proof
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd_client.log_key import following
from consentd_client.operations import ClientContext, Operation, call
from consentd_client.signing import StatementSigner
from consentd_client.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedReceipt:
    """The index of an entry in the ledger, and a proof of it, without the leaf. It is what a refused access gets.

    A stored ``proof`` can be verified offline at any time. A leaf shows whether a person is enrolled, so only those get
    it who have a right to the entry.

    Attributes:
        index: the index of the entry's leaf in the ledger.
        leaf_hash: the leaf's hash in the tree, 32 bytes.
        proof: a C2SP ``.tlog-proof``; empty: no checkpoint covered the entry yet. ``get_receipt`` reads it later.
        checkpoint: the verified checkpoint in ``proof``; None: ``proof`` is empty, or no key is pinned.
        replayed: an earlier call with the same request_id recorded the entry, and this call recorded nothing.
    """

    index: int
    leaf_hash: bytes = field(repr=False)
    proof: bytes = field(repr=False)
    checkpoint: Checkpoint | None
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(ReducedReceipt):
    """A receipt with the leaf.

    Attributes:
        leaf: the entry's leaf, 122 bytes.
        event: the decoded leaf.
        tree_size: a size of the ledger that includes the entry. Give the receipt as ``consistency`` to a later call.
    """

    leaf: bytes = field(repr=False)
    event: codec.Event = field(repr=False)
    tree_size: int

    @property
    def kind(self) -> int:
        """The entry's kind, a value of ``EntryKind``."""
        return self.event.kind


def read_reduced_receipt(message: pb.Receipt, trust: Trust | None) -> ReducedReceipt:
    """Parse the receipt of an entry whose leaf the caller may not have. Raises as ``verify_inclusion``."""
    if len(message.leaf_hash) != merkle.HASH_SIZE:
        raise ProofError("receipt has no leaf hash")
    return ReducedReceipt(
        index=message.index, leaf_hash=message.leaf_hash, proof=message.proof if message.published else b"",
        checkpoint=_verify_published(message, trust), replayed=message.replayed,
    )  # fmt: skip


def read_receipt(message: pb.Receipt, *, kinds: Collection[EntryKind], trust: Trust | None) -> Receipt:
    """Parse a receipt for an entry of one of *kinds*; if it has a proof and a key is pinned, verify the proof.

    The entry stays recorded even if the receipt is faulty.

    Raises:
        VerificationError: as ``verify_receipt``; or the receipt is for an entry of another kind.
    """
    event = codec.decode_leaf(message.leaf)
    if not isinstance(event, codec.Event) or event.kind not in kinds:
        raise ProofError("receipt is for an entry of another kind")
    if merkle.leaf_hash(message.leaf) != message.leaf_hash:
        raise ProofError("receipt has another leaf's hash")
    return Receipt(
        index=message.index, leaf_hash=message.leaf_hash, leaf=message.leaf, event=event,
        tree_size=message.revision.tree_size, proof=message.proof if message.published else b"",
        checkpoint=_verify_published(message, trust), replayed=message.replayed,
    )  # fmt: skip


def verify_is_new(receipt: ReducedReceipt, tree_size: int) -> None:
    """Verify that an entry was not in the ledger before the request; the receipt of a repeat is not looked at.

    *tree_size*: a size of the ledger that the client knew before the request.

    Raises:
        ProofError: the entry is older than the request.
    """
    if not receipt.replayed and receipt.index < tree_size:
        raise ProofError("receipt is for an entry that was in the ledger before the request")


def _verify_published(message: pb.Receipt, trust: Trust | None) -> Checkpoint | None:
    if not message.published or trust is None:
        return None
    return verify_inclusion(message.leaf_hash, message.proof, trust, index=message.index)


def verify_receipt(leaf: bytes, proof: bytes, trust: Trust, *, index: int | None = None) -> Checkpoint:
    """Verify offline that *leaf* (122 bytes) is in a tree that the log signed; as ``verify_inclusion``."""
    return verify_inclusion(merkle.leaf_hash(leaf), proof, trust, index=index)


def verify_inclusion(leaf_hash: bytes, proof: bytes, trust: Trust, *, index: int | None = None) -> Checkpoint:
    """Verify offline that the leaf of this hash is in a tree that the log signed; return the tree's checkpoint.

    Args:
        leaf_hash: the leaf's RFC 6962 hash, 32 bytes.
        proof: a C2SP ``.tlog-proof``.
        trust: the pinned keys.
        index: the leaf's index according to the receipt; None: any index.

    Raises:
        MalformedError: the proof is malformed.
        SignatureError: the log did not sign the checkpoint, or too few witnesses cosigned it.
        ProofError: the proof is of another origin or index, or does not lead from the leaf to the root.
    """
    checkpoint = verify_proof(proof, leaf_hash=leaf_hash, origin=trust.origin, log_verifier=trust.log_key)
    bundle = parse_proof(proof)
    if index is not None and bundle.index != index:
        raise ProofError("proof is of another index than the receipt")
    trust.verify_witnessed(bundle.checkpoint_note, now_ms=None)
    return checkpoint


class WriteOptions(TypedDict, total=False):
    """The options of every write, given as keyword arguments.

    Attributes:
        published: wait until a checkpoint covers the entry, so that the receipt has a proof. Default: False.
        request_id: 16 bytes. A repeat of the write with the same bytes is not recorded twice. Default: random.
    """

    published: bool
    request_id: bytes


class StatementOptions(WriteOptions, total=False):
    """The options of every write of a statement that its author may sign. Not both of them.

    Attributes:
        signer: signs with the author's own key. Default: the daemon signs a statement that the caller attests.
        method: how the caller, who attests the statement, identified its author. Default: not stated.
    """

    signer: StatementSigner | None
    method: str


class WriteFields(TypedDict):
    """The fields that the request of every write has."""

    request_id: bytes
    wait_for: "pb.WaitFor.ValueType"


def write_fields(
    context: ClientContext, options: WriteOptions, known: type[WriteOptions] = WriteOptions
) -> WriteFields:
    """Return the request fields for *options*, with a random request_id if *options* has none.

    Raises:
        TypeError: *options* has a key that the class *known* does not declare.
    """
    # Python itself does not check the names of keyword arguments that a function collects in a dict.
    for name in options.keys() - known.__annotations__.keys():
        raise TypeError(f"write has no option `{name}`")
    request_id = options.get("request_id") or context.new_request_id()
    return {"request_id": request_id, "wait_for": wait_for(options.get("published", False))}


class StatementRequest(Protocol):
    """A request that has a statement in the form ``attested`` or ``signed``."""

    request_id: bytes

    @property
    def attested(self) -> Any:
        """The statement, if the caller attests it."""

    @property
    def signed(self) -> pb.SignedStatement:
        """The statement, if its author signed it."""


def put_statement(
    context: ClientContext, request: StatementRequest, kind: EntryKind, statement: Message, options: StatementOptions,
    *, ref: int = 0,
) -> None:  # fmt: skip
    """Put *statement* into *request*: signed, if *options* has a signer, else attested by the caller.

    *ref*: the entry of the same chain that a signed statement refers to; the daemon determines it for an attested one.

    Raises:
        InvalidError: *options* has a signer and a method. A signed statement names nobody who identified its author.
    """
    signer, method = options.get("signer"), options.get("method", "")
    if signer is not None:
        if method:
            raise InvalidError("a signed statement has no method: nobody attests it")
        signed = signer.sign(kind, statement, request_id=request.request_id, now_ms=context.now_ms(), ref=ref)
        request.signed.CopyFrom(signed)
        return
    request.attested.CopyFrom(statement)
    if method:
        request.attested.attestation.method = method


def wait_for(published: bool) -> "pb.WaitFor.ValueType":
    """Return the event that the daemon awaits before it answers a write: durable storage, or publication."""
    return pb.WAIT_FOR_PUBLISHED if published else pb.WAIT_FOR_UNSPECIFIED  # an item of a batch must have none


class WriteResponse(Protocol):
    """A response that has a receipt."""

    @property
    def receipt(self) -> pb.Receipt:
        """The receipt of the entry."""


def write(
    context: ClientContext, request: Message, response_type: type[WriteResponse], kind: EntryKind
) -> Operation[Receipt]:
    """Call the procedure that takes *request* and records one entry of *kind*; return the entry's receipt."""
    tree_size = context.learned.tree_size
    response = yield from call(context, request, response_type)
    return (yield from read_new_receipt(context, response.receipt, kinds=(kind,), tree_size=tree_size))


def read_new_receipt(
    context: ClientContext, message: pb.Receipt, *, kinds: Collection[EntryKind], tree_size: int
) -> Operation[Receipt]:
    """Parse the receipt of a write, as ``read_receipt``; verify as ``verify_is_new``, and note the ledger's size."""
    receipt = yield from following(
        context, lambda: read_receipt(message, kinds=kinds, trust=context.present_trust)
    )  # fmt: skip
    verify_is_new(receipt, tree_size)
    context.learned.add_size(max(receipt.index + 1, receipt.tree_size))
    return receipt
