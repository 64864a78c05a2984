"""Sign and verify checkpoints with ML-DSA-44 (C2SP tlog-cosignature, type 0x06), in addition to Ed25519.

The signed message is not the note's text. The message is built from the tree that the text describes::

    "subtree/v1\\n\\0" ‖ u8-length ‖ signer's name ‖ time u64 ‖ u8-length ‖ origin ‖ start u64 = 0 ‖ size u64 ‖ root[32]
    signature = time u64 (POSIX seconds) ‖ 2,420 bytes

Time 0 means that no time is stated. A log signs with time 0, because it vouches only for its tree. Witnesses vouch for
the time too. Keys have the text forms of ``core.note``: a verifier key holds a public key of 1,312 bytes, and a signing
key holds a seed of 32 bytes. This module is outside ``core`` because it needs the package ``cryptography``, which only
servers install. A verifier program without that package ignores signature lines of this type.
"""

from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from consentd.core.checkpoint import parse_checkpoint
from consentd.core.note import (
    MLDSA,
    NoteSignature,
    check_name,
    join_key,
    join_signing_key,
    key_id_of,
    split_key,
    split_signing_key,
)  # fmt: skip
from consentd.errors import MalformedError, SignatureError

_PUBLIC_KEY_SIZE, _SIGNATURE_SIZE, _SEED_SIZE = 1312, 2420, 32
_LABEL = b"subtree/v1\n\0"


@dataclass(frozen=True)
class MldsaVerifier:
    """A public key with its name. Raises ``MalformedError`` if the name or the key's length is not allowed."""

    name: str
    public_key: bytes
    key_id: int = field(init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.public_key) != _PUBLIC_KEY_SIZE or not 0 < len(self.name.encode()) < 256:
            raise MalformedError("ML-DSA-44 key is not 1312 bytes long, or its name is longer than 255")
        object.__setattr__(self, "key_id", key_id_of(self.name, MLDSA, self.public_key))

    def verify(self, text: bytes, signature: bytes) -> None:
        """Verify a signature over a checkpoint's text; see ``core.note.NoteVerifier``."""
        if len(signature) != 8 + _SIGNATURE_SIZE or signature[0] & 0x80:
            raise SignatureError("ML-DSA-44 signature is not 2428 bytes long, or its time exceeds 63 bits")
        try:
            message = _message(self.name, text.decode(), int.from_bytes(signature[:8]))
            self._key.verify(signature[8:], message)
        except (InvalidSignature, MalformedError, UnicodeDecodeError):
            raise SignatureError("signature does not verify") from None

    @cached_property
    def _key(self) -> MLDSA44PublicKey:
        return MLDSA44PublicKey.from_public_bytes(self.public_key)


class MldsaSigner:
    """A key pair with a name, for signing checkpoints. The repr of a signer does not show the key."""

    def __init__(self, name: str, seed: bytes) -> None:
        """Make the key pair from a 32-byte seed. Raises ``MalformedError`` if the name is not allowed."""
        assert len(seed) == _SEED_SIZE, "an ML-DSA seed is 32 bytes"
        self._key = MLDSA44PrivateKey.from_seed_bytes(seed)
        self.verifier = MldsaVerifier(name, self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> bytes:
        """The 32-byte seed, which the signing-key file stores."""
        return self._key.private_bytes_raw()

    def sign(self, text: str) -> NoteSignature:
        """Sign a checkpoint's text as the log that made the checkpoint, with time 0."""
        return self.cosign(text, 0)

    def cosign(self, text: str, time_s: int) -> NoteSignature:
        """Cosign a checkpoint's text as a witness, at a time in POSIX seconds."""
        signature = self._key.sign(_message(self.verifier.name, text, time_s))
        return NoteSignature(self.verifier.name, self.verifier.key_id, time_s.to_bytes(8) + signature)


def parse_mldsa_vkey(text: str) -> MldsaVerifier:
    """Parse a verifier key, ``name+ID+base64(0x06 || key)``.

    Raises:
        MalformedError: *text* is no verifier key, or the key ID in the text does not match the key.
    """
    name, key_id, kind, key = split_key(text)
    if kind != MLDSA:
        raise MalformedError("verifier key is not of ML-DSA-44")
    verifier = MldsaVerifier(name, key)
    if verifier.key_id != key_id:
        raise MalformedError("verifier key has an ID that is not its own")
    return verifier


def format_mldsa_vkey(verifier: MldsaVerifier) -> str:
    """Return the text of a verifier key."""
    return join_key(verifier.name, verifier.key_id, MLDSA, verifier.public_key)


def parse_mldsa_signing_key(text: str) -> MldsaSigner:
    """Parse the text of a signing-key file, ``PRIVATE+KEY+name+ID+base64(0x06 || seed)``, with or without a newline.

    Raises:
        MalformedError: *text* is no signing key, or its key ID does not match its key. The message shows no secret.
    """
    name, key_id, _, seed = split_signing_key(text, (MLDSA,))
    signer = MldsaSigner(name, seed)
    if signer.verifier.key_id != key_id:
        raise MalformedError("signing key has an ID that is not its own")
    return signer


def format_mldsa_signing_key(signer: MldsaSigner) -> str:
    """Return the text of a signing-key file, without a newline. The text is secret."""
    return join_signing_key(signer.verifier.name, signer.verifier.key_id, MLDSA, signer.seed)


def _message(name: str, text: str, time_s: int) -> bytes:
    point = parse_checkpoint(text)
    signer, origin = name.encode(), point.origin.encode()
    if len(origin) > 255:
        raise MalformedError("origin is longer than 255 bytes")
    start = len(signer).to_bytes(1) + signer + time_s.to_bytes(8) + len(origin).to_bytes(1) + origin
    return _LABEL + start + bytes(8) + point.size.to_bytes(8) + point.root
