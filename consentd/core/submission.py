"""Ask a witness, and read its answer (C2SP tlog-witness, ``add-checkpoint``).

The request's body names the tree that the witness cosigned last, and proves that the new one begins with it::

    old <size>
    <base64 hash>             none to 63: the consistency proof; none where old is 0 or the new size

    <checkpoint note>

The answer's body is signature lines, cosignatures of the note's text. With status 409 it is the size that the witness
cosigned last, a decimal and a newline, of the type ``text/x.tlog.size``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consentd.core.checkpoint import MAX_PROOF_LENGTH, MAX_SIZE
from consentd.core.merkle import HASH_SIZE
from consentd.core.note import (
    MAX_NOTE_SIZE,
    MAX_SIGNATURES,
    NoteSignature,
    NoteVerifier,
    decode_base64,
    encode_base64,
    format_signature,
    parse_signature,
)
from consentd.errors import MalformedError, SignatureError

PATH = "/add-checkpoint"
"""What follows a witness's submission prefix."""
SIZE_TYPE = "text/x.tlog.size"
"""Content type of a 409 that tells a size."""
MAX_SUBMISSION_SIZE = MAX_NOTE_SIZE + 4096

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign.

    Attributes:
        old_size: what the witness cosigned last, as the sender believes.
        proof: hashes of 32 bytes, from that size to the note's.
        note: the signed checkpoint.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


def format_submission(submission: Submission) -> bytes:
    """Format a request's body.

    Raises:
        MalformedError: it has a size, a hash or a number of hashes that cannot be.
    """
    lines = [f"old {submission.old_size}", *(encode_base64(h) for h in submission.proof)]
    body = "\n".join(lines).encode() + b"\n\n" + submission.note
    if parse_submission(body) != submission:
        raise MalformedError("submission cannot be written")
    return body


def parse_submission(body: bytes) -> Submission:
    """Parse a request's body. Neither the proof nor the note is looked into yet.

    Raises:
        MalformedError: it is not one.
    """
    if len(body) > MAX_SUBMISSION_SIZE:
        raise MalformedError("submission is too large")
    head, _, note = body.partition(b"\n\n")
    if not note:
        raise MalformedError("submission has no checkpoint")
    try:
        first, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedError("submission is not ASCII before its checkpoint") from None
    if not first.startswith("old "):
        raise MalformedError("submission does not begin with the old size")
    if len(hashes) > MAX_PROOF_LENGTH:
        raise MalformedError("submission has more than 63 hashes")
    proof = tuple(decode_base64(line) for line in hashes)
    if any(len(h) != HASH_SIZE for h in proof):
        raise MalformedError("hash is not 32 bytes long")
    return Submission(_parse_size(first.removeprefix("old ")), proof, note)


def format_size(size: int) -> bytes:
    """Format the body of a 409."""
    return b"%d\n" % size


def parse_size(body: bytes) -> int:
    """Parse the body of a 409.

    Raises:
        MalformedError: it is not a decimal and a newline.
    """
    if not body.endswith(b"\n") or not body.isascii():
        raise MalformedError("size does not end in a newline")
    return _parse_size(body[:-1].decode("ascii"))


def format_cosignatures(lines: Iterable[NoteSignature]) -> bytes:
    """Format the body of a witness's answer."""
    return "".join(format_signature(line) + "\n" for line in lines).encode()


def open_cosignatures(body: bytes, text: str, verifiers: Mapping[str, NoteVerifier]) -> dict[str, NoteSignature]:
    """Read a witness's answer; return, by name, the cosignatures of *text* that are by these *verifiers*.

    Lines by other keys are ignored, as in a note; a line by one of these that does not verify spoils the answer.

    Raises:
        MalformedError: it is not signature lines.
        SignatureError: a line by a known key does not verify, or none is by one.
    """
    try:
        whole = body.decode()
    except UnicodeDecodeError:
        raise MalformedError("cosignatures are not UTF-8") from None
    lines = whole[:-1].split("\n")
    if not whole.endswith("\n") or len(lines) > MAX_SIGNATURES:
        raise MalformedError("cosignatures do not end in a newline, or are more than 100")
    names = {(key.name, key.key_id): name for name, key in verifiers.items()}
    found: dict[str, NoteSignature] = {}
    for line in lines:
        signature = parse_signature(line)
        name = names.get((signature.name, signature.key_id))
        if name is not None:
            verifiers[name].verify(text.encode(), signature.signature)
            found[name] = signature
    if not found:
        raise SignatureError("answer has no cosignature by the witness's key")
    return found


def _parse_size(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise MalformedError("size is not a decimal without leading zeros, below 2**63")
    return int(text)
