"""Sign and verify with Ed25519 (RFC 8032). This is the only module that imports libsodium.

Statements and notes use the same strict rules (letters as in RFC 8032): S < L; A and R are canonical and not of small
order; the equation is verified without the cofactor. libsodium applies exactly these rules. Another library or version
may accept different signatures, so tests compare libsodium with the rules.
"""

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from consentd.errors import MalformedError, SignatureError

KEY_SIZE = 32  # bytes of a public key, and of a seed
SIGNATURE_SIZE = 64


class KeyPair:
    """An Ed25519 key pair, expanded once from its 32-byte seed. The repr does not show the private key."""

    __slots__ = ("_expanded", "public_key")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == KEY_SIZE, "an Ed25519 seed is 32 bytes"
        self.public_key, self._expanded = crypto_sign_seed_keypair(seed)

    @property
    def seed(self) -> bytes:
        """The seed, for writing a signing-key file."""
        return self._expanded[:KEY_SIZE]

    def sign(self, message: bytes) -> bytes:
        """Sign a message; return the 64-byte signature. The same message always has the same signature."""
        return crypto_sign(message, self._expanded)[:SIGNATURE_SIZE]


def check_public_key(key: bytes) -> None:
    """Check that a key is one that a signer can have: a canonical point of the prime-order group, not the identity.

    Every signature by another key is refused, or could be made without a private key.

    Raises:
        MalformedError: the key is not 32 bytes, or no such point.
    """
    if len(key) != KEY_SIZE or not crypto_core_ed25519_is_valid_point(key):
        raise MalformedError("key is not an Ed25519 public key: 32 bytes, a canonical point of the prime-order group")


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Verify a signature by the strict rules above.

    Raises:
        MalformedError: the key is not 32 bytes, or the signature is not 64 bytes.
        SignatureError: the signature does not verify.
    """
    # INVARIANT: the lengths are checked first, because libsodium reads 32 and 64 bytes without checking the lengths.
    if len(public_key) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        raise MalformedError("public key is not 32 bytes long, or signature not 64")
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        raise SignatureError("signature does not verify") from None
