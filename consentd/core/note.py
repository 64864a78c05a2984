"""Read, verify, sign and write signed notes, and the keys for them (C2SP signed-note, tlog-cosignature).

A note is a text that ends in a newline, then an empty line, then signature lines::

    — <key name> <base64 of key ID u32 || signature>
    key ID = SHA-256(key name || 0x0A || type || public key)[:4]

A reader ignores signatures by keys that the reader does not know, so that a log can add keys. A signature by a known
key must verify; otherwise the whole note is refused.

This module has two types of keys. 0x01 signs the text as it is. 0x04 belongs to a witness, which cosigns a log's notes:
the signature begins with the time u64 (POSIX seconds) and covers ``cosignature/v1``, that time, and the text. For other
types the caller supplies a ``NoteVerifier`` or ``NoteSigner`` (ML-DSA-44, 0x06: ``cosigning.mldsa``).
"""

import base64
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from consentd.core.ed25519 import KEY_SIZE, SIGNATURE_SIZE, KeyPair, check_public_key, verify
from consentd.errors import MalformedError, SignatureError

ED25519 = 0x01
COSIGNATURE = 0x04
MLDSA = 0x06

MAX_NOTE_SIZE = 1_000_000
MAX_SIGNATURES = 100

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_DASH = "— "
_MARK = "PRIVATE+KEY+"


class NoteVerifier(Protocol):
    """A public key as ``open_note`` needs it: with a name, an ID, and a way to verify."""

    @property
    def name(self) -> str: ...

    @property
    def key_id(self) -> int: ...

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify a signature (the bytes after the key ID) over the note's text, or raise ``SignatureError``."""


class NoteSigner(Protocol):
    """A key pair as ``sign_note`` needs it: ``Signer``, or ``cosigning.mldsa.MldsaSigner``."""

    def sign(self, text: str) -> "NoteSignature": ...


@dataclass(frozen=True, slots=True)
class Verifier:
    """An Ed25519 public key with its name and type, as in a verifier key (vkey).

    Raises:
        MalformedError: the type is not ED25519 or COSIGNATURE, the key is no Ed25519 public key, or the name is not
            allowed.
    """

    name: str
    public_key: bytes
    kind: int = ED25519
    key_id: int = field(init=False)

    def __post_init__(self) -> None:
        if self.kind not in (ED25519, COSIGNATURE):
            raise MalformedError("key type is not supported")
        check_public_key(self.public_key)
        check_name(self.name)
        object.__setattr__(self, "key_id", key_id_of(self.name, self.kind, self.public_key))

    def verify(self, text: bytes, signature: bytes) -> None:
        if self.kind == COSIGNATURE:
            if len(signature) != 8 + SIGNATURE_SIZE or signature[0] & 0x80:
                raise SignatureError("cosignature is not 72 bytes long, or its time exceeds 63 bits")
            text = _cosigned(text, int.from_bytes(signature[:8]))
            signature = signature[8:]
        if len(signature) != SIGNATURE_SIZE:
            raise SignatureError("signature is not 64 bytes long")
        verify(self.public_key, text, signature)


def parse_vkey(text: str) -> Verifier:
    """Parse a verifier key (vkey).

    Raises:
        MalformedError: as ``split_key`` and ``Verifier``, or the ID is not the ID of the key.
    """
    name, key_id, kind, key = split_key(text)
    verifier = Verifier(name, key, kind)
    if verifier.key_id != key_id:
        raise MalformedError("verifier key has an ID that is not its own")
    return verifier


def format_vkey(verifier: Verifier) -> str:
    return join_key(verifier.name, verifier.key_id, verifier.kind, verifier.public_key)


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair with a name and a type, to sign notes with. Raises as ``Verifier``."""

    name: str
    key: KeyPair = field(repr=False)
    kind: int = ED25519
    verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verifier", Verifier(self.name, self.key.public_key, self.kind))

    def sign(self, text: str) -> "NoteSignature":
        assert self.kind == ED25519, "a witness's key signs with a time"
        return NoteSignature(self.name, self.verifier.key_id, self.key.sign(text.encode()))

    def cosign(self, text: str, time_s: int) -> "NoteSignature":
        """Cosign a checkpoint's text at a time in POSIX seconds (tlog-cosignature, Ed25519)."""
        assert self.kind == COSIGNATURE, "only a witness's key signs with a time"
        signature = self.key.sign(_cosigned(text.encode(), time_s))
        return NoteSignature(self.name, self.verifier.key_id, time_s.to_bytes(8) + signature)


def parse_signing_key(text: str) -> Signer:
    """Parse the text of a signing-key file.

    Raises:
        MalformedError: as ``split_signing_key``, or the ID is not the ID of the key.
    """
    name, key_id, kind, seed = split_signing_key(text, (ED25519, COSIGNATURE))
    signer = Signer(name, KeyPair(seed), kind)
    if signer.verifier.key_id != key_id:
        raise MalformedError("signing key has an ID that is not its own")
    return signer


def format_signing_key(signer: Signer) -> str:
    return join_signing_key(signer.name, signer.verifier.key_id, signer.kind, signer.key.seed)


def key_id_of(name: str, kind: int, public_key: bytes) -> int:
    """Compute the ID of a key from its name, type and public key."""
    return int.from_bytes(sha256(name.encode() + b"\n" + bytes((kind,)) + public_key).digest()[:4])


def check_name(name: str) -> None:
    """Verify that a key may have this name.

    Raises:
        MalformedError: the name is empty, has a space, a control character or a plus, or cannot be encoded as UTF-8.
    """
    if not name or "+" in name or _CONTROL.search(name) or any(char.isspace() for char in name):
        raise MalformedError("key name is empty or has a space, a control character or a plus")
    _encode(name)


def split_key(text: str) -> tuple[str, int, int, bytes]:
    """Split ``name+ID+base64(type || key)`` into (name, ID, type, key); MalformedError if it has another form."""
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if not _KEY_ID.fullmatch(key_id):
        raise MalformedError("key has no ID of eight lower-case hexadecimal digits")
    keyed = decode_base64(encoded)
    if not keyed:
        raise MalformedError("key has no type")
    return name, int(key_id, 16), keyed[0], keyed[1:]


def split_signing_key(text: str, kinds: Container[int]) -> tuple[str, int, int, bytes]:
    """Split ``PRIVATE+KEY+name+ID+base64(type || seed)``, with an optional newline, into (name, ID, type, seed).

    Raises:
        MalformedError: the form or type is another, or the seed is not 32 bytes. No message shows the secret text.
    """
    head, found, rest = text.removesuffix("\n").partition(_MARK)
    if head or not found:
        raise MalformedError("signing key does not begin with its mark")
    name, key_id, kind, seed = split_key(rest)
    if kind not in kinds or len(seed) != KEY_SIZE:
        raise MalformedError("signing key is not of this type, or its seed is not 32 bytes long")
    return name, key_id, kind, seed


def join_key(name: str, key_id: int, kind: int, key: bytes) -> str:
    """Join ``name+ID+base64(type || key)``."""
    return f"{name}+{key_id:08x}+{encode_base64(bytes((kind,)) + key)}"


def join_signing_key(name: str, key_id: int, kind: int, seed: bytes) -> str:
    """Join the text of a signing-key file, without a newline. The text is a secret."""
    return _MARK + join_key(name, key_id, kind, seed)


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: name and ID of the key, which only together identify the key, and the signature."""

    name: str
    key_id: int
    signature: bytes

    @property
    def time_s(self) -> int:
        """The time of a cosignature, in POSIX seconds. Meaningful only in a verified line by a witness's key."""
        return int.from_bytes(self.signature[:8])


@dataclass(frozen=True, slots=True)
class Note:
    """The text of a note, the signatures that were verified, and the signatures that were not."""

    text: str
    verified: tuple[NoteSignature, ...]
    unverified: tuple[NoteSignature, ...]


def parse_signature(line: str) -> NoteSignature:
    """Parse a signature line, without its newline, or raise ``MalformedError``."""
    head, found, rest = line.partition(_DASH)
    name, _, encoded = rest.partition(" ")
    if head or not found:
        raise MalformedError("signature line does not begin with a dash and a space")
    check_name(name)
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
        MalformedError: the bytes are no note, or have more than 1,000,000 bytes or 100 signatures.
    """
    if len(note) > MAX_NOTE_SIZE:
        raise MalformedError("note is larger than 1,000,000 bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise MalformedError("note is not UTF-8") from None
    if _CONTROL.search(whole):
        raise MalformedError("note has a control character")
    # The text may have empty lines too: the last empty line of the note separates text and signatures.
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
        MalformedError: the result would not be a note. For example, the text does not end in a newline.
    """
    lines = [format_signature(signature) + "\n" for signature in signatures]
    note = _encode(text + "\n" + "".join(lines))
    # INVARIANT: the note parses to the same text and signatures, so no part of the text can be read as a signature.
    if parse_note(note) != Note(text, (), tuple(signatures)):
        raise MalformedError("note text does not end in a newline")
    return note


def sign_note(text: str, signers: Sequence[NoteSigner]) -> bytes:
    """Sign a text with each signer; return the note. Raises as ``format_note``."""
    return format_note(text, [signer.sign(text) for signer in signers])


def open_note(note: bytes, verifiers: Iterable[NoteVerifier]) -> Note:
    """Parse a note and verify each signature by a known key.

    Raises:
        MalformedError: the bytes are no note.
        SignatureError: a signature by a known key does not verify; no known key signed; or two verifiers have the same
            name and ID, so that the key of a line would be ambiguous.
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
    return base64.b64encode(content).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 in its canonical form (padded, unused bits zero), or raise ``MalformedError``."""
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
