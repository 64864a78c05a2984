"""Parse and format a request to a witness and the witness's answer (C2SP tlog-witness, ``add-checkpoint``).

A witness cosigns a log's checkpoint if the log only grew. The body of the request has the size of the tree that the
witness cosigned last, the proof that the new tree begins with that tree, and the new checkpoint::

    old <size>
    <base64 hash>             0 to 63 lines: the consistency proof; empty if old is 0 or equals the new size

    <checkpoint note>

The body of the answer is signature lines: cosignatures of the note's text. If the witness last cosigned another size,
the answer has status 409, and that size as its body: a decimal and a newline, of content type ``text/x.tlog.size``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consentd.core.checkpoint import join_note, parse_decimal, parse_hashes, split_note
from consentd.core.note import (
    MAX_NOTE_SIZE,
    MAX_SIGNATURES,
    NoteSignature,
    NoteVerifier,
    format_signature,
    parse_signature,
)
from consentd.errors import MalformedError, SignatureError

PATH = "/add-checkpoint"  # follows the witness's submission prefix, a URL
SIZE_TYPE = "text/x.tlog.size"
MAX_SUBMISSION_SIZE = MAX_NOTE_SIZE + 4096


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to cosign *note*. *proof* is the consistency proof from *old_size*, which may be out of date."""

    old_size: int
    proof: tuple[bytes, ...]
    note: bytes


def format_submission(submission: Submission) -> bytes:
    """Format a request's body; MalformedError if ``parse_submission`` would refuse it."""
    body = join_note([f"old {submission.old_size}"], submission.proof, submission.note)
    if parse_submission(body) != submission:
        raise MalformedError("submission cannot be written")
    return body


def parse_submission(body: bytes) -> Submission:
    """Parse a request's body. Neither the proof nor the note is verified.

    Raises:
        MalformedError: the body has another form, or is too large.
    """
    (first, *hashes), note = split_note(body, "submission", most=MAX_SUBMISSION_SIZE)
    if not first.startswith("old "):
        raise MalformedError("submission does not begin with the old size")
    return Submission(parse_decimal(first.removeprefix("old ")), parse_hashes(hashes), note)


def format_size(size: int) -> bytes:
    """Format the body of an answer with status 409."""
    return b"%d\n" % size


def parse_size(body: bytes) -> int:
    """Parse the body of an answer with status 409; MalformedError unless it is a decimal and a newline."""
    if not body.endswith(b"\n") or not body.isascii():
        raise MalformedError("size does not end in a newline")
    return parse_decimal(body[:-1].decode("ascii"))


def format_cosignatures(lines: Iterable[NoteSignature]) -> bytes:
    """Format the body of a witness's answer."""
    return "".join(format_signature(line) + "\n" for line in lines).encode()


def open_cosignatures(body: bytes, text: str, verifiers: Mapping[str, NoteVerifier]) -> dict[str, NoteSignature]:
    """Parse a witness's answer; return the cosignatures of *text* by these *verifiers*: name → signature.

    Lines by other keys are ignored, as in a note. A line by one of these keys must verify, or the answer is refused.

    Raises:
        MalformedError: the body is not signature lines.
        SignatureError: a line by a known key does not verify, or no line is by a known key.
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
