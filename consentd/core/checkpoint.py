"""Parse, format, sign and verify checkpoints and proof bundles (C2SP tlog-checkpoint, tlog-proof).

A checkpoint is a signed note that states the tree's size and root hash::

    <origin>
    <size, decimal>
    <root hash, base64>

C2SP also allows *extension lines*. Witnesses do not verify what such a line states, so this module refuses such lines.

A *proof bundle* (``.tlog-proof``) is a receipt that can be verified offline. It holds the index of a leaf, the leaf's
inclusion proof, and the checkpoint whose root hash the proof leads to, with the checkpoint's cosignatures::

    c2sp.org/tlog-proof@v1
    extra <base64>            optional, and not authenticated: no proof covers this line
    index <decimal>
    <base64 hash>             0 to 63 lines, the leaf's sibling first

    <checkpoint note>
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from consentd.core.merkle import EMPTY_ROOT, HASH_SIZE, verify_inclusion
from consentd.core.note import (
    MAX_NOTE_SIZE,
    Note,
    NoteSignature,
    NoteSigner,
    NoteVerifier,
    Verifier,
    decode_base64,
    encode_base64,
    open_note,
    parse_note,
    sign_note,
)
from consentd.errors import MalformedError, ProofError, SignatureError, UnknownKeyError

MAX_SIZE = (1 << 63) - 1  # of a tree, in leaves
MAX_PROOF_LENGTH = 63
MAX_BUNDLE_SIZE = 2 * MAX_NOTE_SIZE

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_MAGIC = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of the log called `origin`: its tree has `size` leaves, and `root` (32 bytes) is their root hash."""

    origin: str
    size: int
    root: bytes


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Format the three lines that a log signs; MalformedError if ``parse_checkpoint`` would refuse them."""
    text = f"{checkpoint.origin}\n{checkpoint.size}\n{encode_base64(checkpoint.root)}\n"
    if parse_checkpoint(text) != checkpoint:
        raise MalformedError("checkpoint cannot be written")
    return text


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse the text of a checkpoint note: exactly three lines.

    Raises:
        MalformedError: the text has another form or extension lines, or has size 0 and not the empty tree's root.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedError("checkpoint does not have exactly three lines")
    origin = lines[0]
    size = parse_decimal(lines[1])
    root = parse_hash(lines[2])
    if not origin or any(char.isspace() for char in origin) or "+" in origin:
        raise MalformedError("checkpoint has an origin that is empty or has a space or a plus")
    if size == 0 and root != EMPTY_ROOT:
        raise MalformedError("checkpoint of size 0 does not have the empty root")
    return Checkpoint(origin, size, root)


def sign_checkpoint(checkpoint: Checkpoint, signers: Sequence[NoteSigner]) -> bytes:
    """Sign a checkpoint with the log's keys; return the note. Raises as ``format_checkpoint``."""
    return sign_note(format_checkpoint(checkpoint), signers)


def open_checkpoint(
    note: bytes, origin: str, log_verifier: NoteVerifier, *, witnesses: Iterable[NoteVerifier] = ()
) -> tuple[Checkpoint, Note]:
    """Parse a checkpoint note and verify that the log signed it; return the checkpoint and the note.

    The note shows which of the `witnesses` cosigned. ``quorum`` verifies that enough of them cosigned.

    Raises:
        MalformedError: the bytes are no checkpoint note.
        UnknownKeyError: the only signatures in the log's name are by other keys. The log may have replaced its key.
        SignatureError: the log did not sign the note, or a signature of the log or of a witness is wrong.
        ProofError: the checkpoint has another origin.
    """
    try:
        opened = open_note(note, [log_verifier, *witnesses])
    except SignatureError:
        verify_known(note, log_verifier)
        raise
    if not is_signed_by(opened.verified, log_verifier):
        verify_known(note, log_verifier)
        raise SignatureError("checkpoint is not signed by the log")
    checkpoint = parse_checkpoint(opened.text)
    if checkpoint.origin != origin:
        raise ProofError("checkpoint is of another origin")
    return checkpoint, opened


def open_own(note: bytes, origin: str, log_verifier: NoteVerifier) -> Checkpoint:
    """Open a checkpoint note that the reader verified earlier and kept itself; return the checkpoint.

    If the log has replaced its key, or the reader has pinned the new key since, the note is by another key of the log
    than *log_verifier*. Then only its origin is verified.

    Raises as ``open_checkpoint``, but no UnknownKeyError.
    """
    try:
        return open_checkpoint(note, origin, log_verifier)[0]
    except UnknownKeyError:
        checkpoint = parse_checkpoint(parse_note(note).text)
        if checkpoint.origin != origin:
            raise ProofError("checkpoint is of another origin") from None
        return checkpoint


def is_signed_by(lines: Iterable[NoteSignature], key: NoteVerifier) -> bool:
    """Return whether one of these signature lines names the key. Nothing is verified."""
    return any((line.name, line.key_id) == (key.name, key.key_id) for line in lines)


def verify_known(note: bytes, log_verifier: NoteVerifier) -> None:
    """Verify that a note either has a line of this log key, or no line in the log's name at all.

    Only an Ed25519 key can be replaced, so a missing line of another key is not explained by an unknown one.

    Raises:
        UnknownKeyError: the note has lines in the log's name, and none is by this key.
    """
    lines = parse_note(note).unverified
    is_named = any(line.name == log_verifier.name for line in lines)
    if isinstance(log_verifier, Verifier) and is_named and not is_signed_by(lines, log_verifier):
        raise UnknownKeyError(
            "checkpoint is signed in the log's name by a key that is not pinned. If the log has replaced its key, "
            "verify a file with its rotations, which leads from the pinned key to the new one; then pin the new one"
        )


@dataclass(frozen=True, slots=True)
class ProofBundle:
    """A receipt, as described at the top of this module. *index* counts from 0. *proof* has hashes of 32 bytes. *extra*
    is b"" if the bundle has no extra line. *checkpoint_note* is verbatim.
    """

    extra: bytes
    index: int
    proof: tuple[bytes, ...]
    checkpoint_note: bytes


def format_proof(bundle: ProofBundle) -> bytes:
    """Format a proof bundle; MalformedError if ``parse_proof`` would refuse it."""
    extra = ["extra " + encode_base64(bundle.extra)] if bundle.extra else []
    text = join_note([_MAGIC, *extra, f"index {bundle.index}"], bundle.proof, bundle.checkpoint_note)
    if parse_proof(text) != bundle:
        raise MalformedError("proof bundle cannot be written")
    return text


def parse_proof(text: bytes) -> ProofBundle:
    """Parse a proof bundle. Neither the proof nor the checkpoint is verified.

    Raises:
        MalformedError: the text has another form, or more than 63 hashes or 2,000,000 bytes.
    """
    (magic, *lines), note = split_note(text, "proof bundle", most=MAX_BUNDLE_SIZE)
    if magic != _MAGIC:
        raise MalformedError("proof bundle does not begin with its mark")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise MalformedError("proof bundle has an extra line without content")
    if not lines or not lines[0].startswith("index "):
        raise MalformedError("proof bundle has no index")
    index = parse_decimal(lines[0].removeprefix("index "))
    return ProofBundle(extra, index, parse_hashes(lines[1:]), note)


def verify_proof(
    text: bytes, *, leaf_hash: bytes, origin: str, log_verifier: NoteVerifier, witnesses: Iterable[NoteVerifier] = ()
) -> Checkpoint:
    """Verify, offline, that a proof bundle shows a leaf in a tree that this log signed; return the checkpoint.

    *leaf_hash*: the leaf's RFC 6962 hash, 32 bytes.

    No quorum of witnesses is required here: ``quorum.verify_cosigned`` verifies that a quorum cosigned the checkpoint.

    Raises:
        MalformedError: the text is no proof bundle with a checkpoint.
        SignatureError: the log did not sign the checkpoint, or a signature by a known key is wrong.
        ProofError: the checkpoint has another origin, or the proof does not lead from the leaf to the root.
    """
    bundle = parse_proof(text)
    checkpoint, _ = open_checkpoint(bundle.checkpoint_note, origin, log_verifier, witnesses=witnesses)
    verify_inclusion(
        bundle.proof, index=bundle.index, size=checkpoint.size, leaf_hash=leaf_hash, root=checkpoint.root
    )
    return checkpoint


def join_note(lines: Sequence[str], proof: Sequence[bytes], note: bytes) -> bytes:
    """Join lines, the hashes of a proof, an empty line, and a checkpoint note."""
    return "\n".join([*lines, *map(encode_base64, proof)]).encode() + b"\n\n" + note


def split_note(body: bytes, what: str, *, most: int) -> tuple[list[str], bytes]:
    """Split a body of at most *most* bytes at its first empty line into ASCII lines and the checkpoint note.

    Raises:
        MalformedError: the body is too large, has no note, or is not ASCII before the note.
    """
    if len(body) > most:
        raise MalformedError(f"{what} is larger than {most:,} bytes")
    head, _, note = body.partition(b"\n\n")
    if not note:
        raise MalformedError(f"{what} has no checkpoint")
    try:
        return head.decode("ascii").split("\n"), note
    except UnicodeDecodeError:
        raise MalformedError(f"{what} is not ASCII before its checkpoint") from None


def parse_decimal(text: str) -> int:
    """Parse a decimal below 2**63 without leading zeros."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise MalformedError("number is not a decimal without leading zeros, below 2**63")
    return int(text)


def parse_hash(text: str) -> bytes:
    """Parse a 32-byte hash in base64."""
    content = decode_base64(text)
    if len(content) != HASH_SIZE:
        raise MalformedError("hash is not 32 bytes long")
    return content


def parse_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    """Parse the hashes of a proof, one on each line."""
    if len(lines) > MAX_PROOF_LENGTH:
        raise MalformedError("proof has more than 63 hashes")
    return tuple(parse_hash(line) for line in lines)
