"""Sign and verify with Ed25519, and read and write signed notes (C2SP signed-note, tlog-cosignature).

A note is a text that ends in a newline, an empty line, and signature lines::

    — <key name> <base64 of key ID u32 || signature>
    key ID = SHA-256(key name || 0x0A || type || public key)[:4]

A signature by a key that the reader does not know is ignored; one by a key that it knows must verify, or the whole
note is refused. So a key can be added before all readers know it, and none can be brought into doubt by a stranger.

Two types of key are ours: 0x01 signs the text as it is; 0x04 is a witness, whose signature begins with the time
u64 (POSIX seconds) and covers ``cosignature/v1``, that time and the text. Other types (ML-DSA-44, 0x06) come as
a ``NoteVerifier`` from whoever has the code for them.

Acceptance of Ed25519 is strict, and the same for statements as for notes: S < L, canonical A and R, neither of small
order, and the equation without the cofactor. libsodium, reached here and nowhere else, does just that; the tests
hold it to it, because other versions and libraries differ in what they let pass.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from consentd.core.ed25519 import KEY_SIZE, SIGNATURE_SIZE, KeyPair, verify
from consentd.errors import MalformedError, SignatureError

ED25519 = 0x01
"""Type of a key that signs the note's text."""

COSIGNATURE = 0x04
"""Type of a witness's key: signs the time and the text (cosignature/v1)."""

MAX_NOTE_SIZE = 1_000_000
MAX_SIGNATURES = 100

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_DASH = "— "


# -- keys with names ------------------------------------------------------------------------------------------


class NoteVerifier(Protocol):
    """What ``open_note`` asks of a key: its name, its ID, and to verify a signature over a text."""

    @property
    def name(self) -> str:
        """The key's name, as its signature lines have it."""

    @property
    def key_id(self) -> int:
        """The key's ID, a u32."""

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify what follows the key ID in a line, over the note's text, or raise ``SignatureError``."""


class NoteSigner(Protocol):
    """What ``sign_note`` asks of a key: Ed25519's ``Signer``, or ML-DSA-44's from whoever has the code for it."""

    def sign(self, text: str) -> "NoteSignature":
        """Sign a note's text."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name and type, as a vkey writes it.

    Raises:
        MalformedError: the name is empty or has a space, a control character or a plus; the type is not
            one of ours; the key is not 32 bytes.
    """

    name: str
    public_key: bytes
    kind: int = ED25519
    key_id: int = field(init=False)

    def __post_init__(self) -> None:
        if self.kind not in (ED25519, COSIGNATURE) or len(self.public_key) != KEY_SIZE:
            raise MalformedError("key type is not supported, or key is not 32 bytes long")
        preimage = _encode_name(self.name) + b"\n" + bytes([self.kind]) + self.public_key
        object.__setattr__(self, "key_id", int.from_bytes(sha256(preimage).digest()[:4]))

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify a note signature (what follows the key ID in its line) over a note's text.

        Raises:
            SignatureError: it does not verify; a wrong length counts as that.
        """
        if self.kind == COSIGNATURE:
            if len(signature) != 8 + SIGNATURE_SIZE or signature[0] & 0x80:
                raise SignatureError("cosignature is not 72 bytes long, or its time exceeds 63 bits")
            text = _cosigned(text, int.from_bytes(signature[:8]))
            signature = signature[8:]
        if len(signature) != SIGNATURE_SIZE:
            raise SignatureError("signature is not 64 bytes long")
        verify(self.public_key, text, signature)


def parse_vkey(text: str) -> Verifier:
    """Parse a verifier key, ``name+ID+base64(type || key)``.

    Raises:
        MalformedError: it is not one, or its ID is not that of its key.
    """
    name, key_id, keyed = _split_key(text)
    verifier = Verifier(name, keyed[1:], keyed[0])
    if verifier.key_id != key_id:
        raise MalformedError("verifier key has an ID that is not its own")
    return verifier


def format_vkey(verifier: Verifier) -> str:
    """Format a verifier key, ``name+ID+base64(type || key)``."""
    return _join_key(verifier, verifier.public_key)


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair with a name and a type, to sign notes with.

    Raises:
        MalformedError: the name or the type is not a good one.
    """

    name: str
    key: KeyPair = field(repr=False)
    kind: int = ED25519
    verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verifier", Verifier(self.name, self.key.public_key, self.kind))

    def sign(self, text: str) -> "NoteSignature":
        """Sign a note's text."""
        assert self.kind == ED25519, "a witness's key signs with a time"
        return NoteSignature(self.name, self.verifier.key_id, self.key.sign(text.encode()))

    def cosign(self, text: str, time_s: int) -> "NoteSignature":
        """Cosign a checkpoint's text at a time in POSIX seconds (tlog-cosignature, Ed25519)."""
        assert self.kind == COSIGNATURE, "only a witness's key signs with a time"
        signature = self.key.sign(_cosigned(text.encode(), time_s))
        return NoteSignature(self.name, self.verifier.key_id, time_s.to_bytes(8) + signature)


def parse_signing_key(text: str) -> Signer:
    """Parse the text of a signing-key file, ``PRIVATE+KEY+name+ID+base64(type || seed)``.

    One newline at its end is allowed.

    Raises:
        MalformedError: it is not one, or its ID is not that of its key. The message holds nothing of it.
    """
    head, found, rest = text.removesuffix("\n").partition("PRIVATE+KEY+")
    if head or not found:
        raise MalformedError("signing key does not begin with its mark")
    name, key_id, keyed = _split_key(rest)
    signer = Signer(name, KeyPair(keyed[1:]), keyed[0])
    if signer.verifier.key_id != key_id:
        raise MalformedError("signing key has an ID that is not its own")
    return signer


def format_signing_key(signer: Signer) -> str:
    """Format the text of a signing-key file, without a newline. It is a secret."""
    return "PRIVATE+KEY+" + _join_key(signer.verifier, signer.key.seed)


def _split_key(text: str) -> tuple[str, int, bytes]:
    """Split ``name+ID+base64(type || 32 bytes)``, the common part of both key formats."""
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if not _KEY_ID.fullmatch(key_id):
        raise MalformedError("key has no ID of eight lower-case hexadecimal digits")
    keyed = decode_base64(encoded)
    if len(keyed) != 1 + KEY_SIZE:
        raise MalformedError("key is not a type and 32 bytes")
    return name, int(key_id, 16), keyed


def _join_key(verifier: Verifier, key: bytes) -> str:
    return f"{verifier.name}+{verifier.key_id:08x}+{encode_base64(bytes([verifier.kind]) + key)}"


# -- notes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: whose (name and key ID together) and the signature's bytes."""

    name: str
    key_id: int
    signature: bytes

    @property
    def time_s(self) -> int:
        """The time a cosignature claims, in POSIX seconds. Only of a verified line of a witness's key."""
        return int.from_bytes(self.signature[:8])


@dataclass(frozen=True, slots=True)
class Note:
    """A note's text, with the signatures that verified and those by keys that were not known."""

    text: str
    verified: tuple[NoteSignature, ...]
    unverified: tuple[NoteSignature, ...]


def parse_signature(line: str) -> NoteSignature:
    """Parse a signature line, without its newline.

    Raises:
        MalformedError: it is not one.
    """
    head, found, rest = line.partition(_DASH)
    name, _, encoded = rest.partition(" ")
    if head or not found:
        raise MalformedError("signature line does not begin with a dash and a space")
    _encode_name(name)
    signature = decode_base64(encoded)
    if len(signature) < 5:
        raise MalformedError("signature is shorter than a key ID and one byte")
    return NoteSignature(name, int.from_bytes(signature[:4]), signature[4:])


def format_signature(signature: NoteSignature) -> str:
    """Format a signature line, without its newline."""
    return f"{_DASH}{signature.name} {encode_base64(signature.key_id.to_bytes(4) + signature.signature)}"


def parse_note(note: bytes) -> Note:
    """Parse a note without verifying anything: all its signatures are in ``unverified``.

    Raises:
        MalformedError: it is not a note, or has more than 1,000,000 bytes or 100 signatures.
    """
    if len(note) > MAX_NOTE_SIZE:
        raise MalformedError("note is larger than 1,000,000 bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise MalformedError("note is not UTF-8") from None
    if _CONTROL.search(whole):
        raise MalformedError("note has a control character")
    # The text may have empty lines; the last one of the note separates.
    text, found, lines = whole.rpartition("\n\n")
    if not found or not lines.endswith("\n"):
        raise MalformedError("note has no signatures or does not end in a newline")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURES:
        raise MalformedError("note has more than 100 signatures")
    return Note(text + "\n", (), tuple(parse_signature(line) for line in signatures))


def format_note(text: str, signatures: Sequence[NoteSignature]) -> bytes:
    """Format a note from its text and at least one signature.

    Raises:
        MalformedError: the result would not be a note: the text has no newline at its end, say.
    """
    lines = [format_signature(signature) + "\n" for signature in signatures]
    note = _encode(text + "\n" + "".join(lines))
    # INVARIANT: what is written reads back the same, so nothing slips from the text into the signatures or back.
    if parse_note(note) != Note(text, (), tuple(signatures)):
        raise MalformedError("note text does not end in a newline")
    return note


def sign_note(text: str, signers: Sequence[NoteSigner]) -> bytes:
    """Sign a text with each signer; return the note.

    Raises:
        MalformedError: the text cannot be a note's.
    """
    return format_note(text, [signer.sign(text) for signer in signers])


def open_note(note: bytes, verifiers: Iterable[NoteVerifier]) -> Note:
    """Parse a note and verify each signature by a known key.

    Raises:
        MalformedError: it is not a note.
        SignatureError: a known key's signature does not verify, or no known key signed; or two of the
            verifiers have the same name and ID, so that it is not known which of them a line is by.
    """
    known: dict[tuple[str, int], NoteVerifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise SignatureError("verifier keys have the same name and ID")
    parsed = parse_note(note)
    text = parsed.text.encode()
    verified, unverified = [], []
    for signature in parsed.unverified:
        found = known.get((signature.name, signature.key_id))
        if found is None:
            unverified.append(signature)
        else:
            found.verify(text, signature.signature)
            verified.append(signature)
    if not verified:
        raise SignatureError("note is signed by no known key")
    return Note(parsed.text, tuple(verified), tuple(unverified))


def encode_base64(content: bytes) -> str:
    """Encode bytes in standard base64."""
    return base64.b64encode(content).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 in its one canonical form: padded, no other characters, unused bits zero.

    Raises:
        MalformedError: it is not that.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise MalformedError("base64 is malformed") from None
    if encode_base64(content) != text:
        raise MalformedError("base64 is not canonical")
    return content


def _cosigned(text: bytes, time_s: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time_s + text


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MalformedError("text cannot be encoded as UTF-8") from None


def _encode_name(name: str) -> bytes:
    if not name or "+" in name or _CONTROL.search(name) or any(char.isspace() for char in name):
        raise MalformedError("key name is empty or has a space, a control character or a plus")
    return _encode(name)
