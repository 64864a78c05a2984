"""Prove that who registers a key has its private key.

A key belongs to one owner for ever, and a public key is no secret. Without a proof, a caller could register the key of
somebody else for another owner, and the daemon would then refuse the key to whom it belongs. So the new key signs a
message that names the ledger and the owner. Source: proto/callers.md, "Proof of possession"; RFC 4211, section 4, asks
the same of certificates.
"""

import hashlib

from consentd.core import ed25519
from consentd.core.key_validity import PARTICIPANT_PREFIX

_DOMAIN = b"consentd/possession/v1\0"
_PERSON_PREFIX = "subject/"
_REPRESENTATIVE_PREFIX = "representative/"


def participant_owner(participant_id: str) -> str:
    """Return how a proof names a participant: by its public chain."""
    return PARTICIPANT_PREFIX + participant_id


def person_owner(scheme: str, value: str) -> str:
    """Return how a proof names a person: by the identifier as the request has it. A scheme has no colon."""
    return f"{_PERSON_PREFIX}{scheme}:{value}"


def representative_owner(scheme: str, value: str) -> str:
    """Return how a proof names a representative: by the person, as ``person_owner`` does."""
    return f"{_REPRESENTATIVE_PREFIX}{scheme}:{value}"


def possession_bytes(key: bytes, *, origin: str, owner: str) -> bytes:
    """Return the bytes that the new key signs: ``"consentd/possession/v1\\0" ‖ H(origin) ‖ H(owner) ‖ key[32]``."""
    origin_hash, owner_hash = hashlib.sha256(origin.encode()).digest(), hashlib.sha256(owner.encode()).digest()
    return _DOMAIN + origin_hash + owner_hash + key


def prove_possession(key: ed25519.KeyPair, *, origin: str, owner: str) -> bytes:
    """Return the proof that *owner* has the private key of *key*, 64 bytes. The proof is the same each time."""
    return key.sign(possession_bytes(key.public_key, origin=origin, owner=owner))


def verify_possession(key: bytes, possession: bytes, *, origin: str, owner: str) -> None:
    """Verify a proof of possession.

    Raises:
        MalformedError: *key* is not 32 bytes, or *possession* not 64.
        SignatureError: *possession* is not a signature by *key* over this ledger and owner.
    """
    ed25519.verify(key, possession_bytes(key, origin=origin, owner=owner), possession)
