"""Read and write checkpoints and proof bundles (C2SP tlog-checkpoint, tlog-proof).

A checkpoint is a signed note that states the tree's size and root hash::

    <origin>
    <size, decimal>
    <root hash, base64>

C2SP allows further, opaque *extension lines* and advises against them: witnesses do not look at them, and
ML-DSA-44 cosignatures do not cover them. Our logs write none, and a checkpoint that has any is refused here: it
says something that no verifier of ours would check, so it is not one of ours.

A *proof bundle* (``.tlog-proof``) is a receipt that verifies offline: the index of a leaf, its inclusion proof, and
the checkpoint that it leads to, cosignatures and all::

    c2sp.org/tlog-proof@v1
    extra <base64>            optional; not authenticated: trust it only for what it can be checked against
    index <decimal>
    <base64 hash>             none or more, the leaf's sibling first

    <checkpoint note>
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE, leaf_hash, verify_inclusion
from consentd.core.note import (
    MAX_NOTE_SIZE,
    Note,
    NoteSigner,
    NoteVerifier,
    decode_base64,
    encode_base64,
    open_note,
    sign_note,
)
from consentd.errors import MalformedError, ProofError, SignatureError

MAX_SIZE = (1 << 63) - 1
"""The largest tree size that we read."""

MAX_PROOF_LENGTH = 63
MAX_BUNDLE_SIZE = 2 * MAX_NOTE_SIZE

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_MAGIC = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: `size` leaves whose root hash is `root` (32 bytes), of the log called `origin`."""

    origin: str
    size: int
    root: bytes


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Format the three lines that a log signs.

    Raises:
        MalformedError: the origin cannot be a line, or the size or root is not one.
    """
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{encode_base64(checkpoint.root)}\n"
    if parse_checkpoint(text) != checkpoint:
        raise MalformedError("checkpoint cannot be written")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint note: exactly three lines.

    Raises:
        MalformedError: it is not one, or has extension lines, or a size of 0 with another than the empty root.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedError("checkpoint does not have exactly three lines")
    origin = lines[0]
    size = _parse_decimal(lines[1])
    root = _parse_hash(lines[2])
    if not origin or any(char.isspace() for char in origin) or "+" in origin:
        raise MalformedError("checkpoint has an origin that is empty or has a space or a plus")
    if size == 0 and root != EMPTY_ROOT:
        raise MalformedError("checkpoint of size 0 does not have the empty root")
    return Checkpoint(origin, size, root)


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[NoteSigner]) -> bytes:
    """Sign a checkpoint with the log's keys; return the note.

    Raises:
        MalformedError: the checkpoint cannot be written.
    """
    return sign_note(format_checkpoint(checkpoint), signers)


def open_checkpoint(
    note: bytes, origin: str, log_verifier: NoteVerifier, *, witnesses: Iterable[NoteVerifier] = ()
) -> tuple[Checkpoint, Note]:
    """Read a checkpoint note and verify that this log signed it.

    The note returned says which of the `witnesses` cosigned. How many there must be, and how fresh, is for
    the caller's policy to say.

    Raises:
        MalformedError: it is not a checkpoint note.
        SignatureError: the log, or a known witness, has not signed it, or a signature of theirs is wrong.
        ProofError: it is a checkpoint of another origin.
    """
    opened = open_note(note, [log_verifier, *witnesses])
    if not any((line.name, line.key_id) == (log_verifier.name, log_verifier.key_id) for line in opened.verified):
        raise SignatureError("checkpoint is not signed by the log")
    checkpoint = parse_checkpoint(opened.text)
    if checkpoint.origin != origin:
        raise ProofError("checkpoint is of another origin")
    return checkpoint, opened


@dataclass(frozen=True, slots=True)
class ProofBundle:
    """A receipt: where a leaf is, and the proof that the checkpoint's tree has it there.

    Attributes:
        extra: bytes that travel along, not authenticated; b"" for none.
        index: of the leaf, from 0.
        proof: hashes of 32 bytes, the leaf's sibling first.
        checkpoint_note: the signed note, verbatim.
    """

    extra: bytes
    index: int
    proof: tuple[bytes, ...]
    checkpoint_note: bytes


def format_proof(bundle: ProofBundle) -> bytes:
    """Format a proof bundle.

    Raises:
        MalformedError: the bundle has an index, a hash or a number of hashes that cannot be.
    """
    lines = [_MAGIC]
    if bundle.extra:
        lines.append("extra " + encode_base64(bundle.extra))
    lines.append(f"index {bundle.index}")
    lines.extend(encode_base64(h) for h in bundle.proof)
    text = "\n".join(lines).encode() + b"\n\n" + bundle.checkpoint_note
    if parse_proof(text) != bundle:
        raise MalformedError("proof bundle cannot be written")
    return text


def parse_proof(text: bytes) -> ProofBundle:
    """Parse a proof bundle. Neither the proof nor the checkpoint is looked into yet.

    Raises:
        MalformedError: it is not one, or has more than 63 hashes or 2,000,000 bytes.
    """
    if len(text) > MAX_BUNDLE_SIZE:
        raise MalformedError("proof bundle is larger than 2,000,000 bytes")
    head, _, note = text.partition(b"\n\n")
    if not note:
        raise MalformedError("proof bundle has no checkpoint")
    try:
        magic, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedError("proof bundle is not ASCII before its checkpoint") from None
    if magic != _MAGIC:
        raise MalformedError("proof bundle does not begin with its mark")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise MalformedError("proof bundle has an extra line without content")
    if not lines or not lines[0].startswith("index "):
        raise MalformedError("proof bundle has no index")
    index = _parse_decimal(lines[0].removeprefix("index "))
    if len(lines) - 1 > MAX_PROOF_LENGTH:
        raise MalformedError("proof bundle has more than 63 hashes")
    return ProofBundle(extra, index, tuple(_parse_hash(line) for line in lines[1:]), note)


def verify_proof(
    text: bytes, *, leaf: bytes, origin: str, log_verifier: NoteVerifier, witnesses: Iterable[NoteVerifier] = ()
) -> Checkpoint:
    """Verify, offline, that a proof bundle shows this leaf in a tree that this log signed; return the checkpoint.

    Who asks for a quorum of witnesses opens the bundle's checkpoint with ``open_checkpoint`` and counts.

    Raises:
        MalformedError: it is not a proof bundle with a checkpoint.
        SignatureError: the log has not signed it, or a signature by a known key is wrong.
        ProofError: another origin, or the proof does not lead from the leaf to the root.
    """
    bundle = parse_proof(text)
    checkpoint, _ = open_checkpoint(bundle.checkpoint_note, origin, log_verifier, witnesses=witnesses)
    verify_inclusion(
        bundle.proof, index=bundle.index, size=checkpoint.size, leaf_hash=leaf_hash(leaf), root=checkpoint.root
    )
    return checkpoint


def _parse_decimal(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise MalformedError("number is not a decimal without leading zeros, below 2**63")
    return int(text)


def _parse_hash(text: str) -> bytes:
    content = decode_base64(text)
    if len(content) != HASH_SIZE:
        raise MalformedError("hash is not 32 bytes long")
    return content
