"""Encode and verify the signature of a call that a person makes with a key of their own.

The signature is in one header of the call. It covers the ledger's origin, the method, the time and the request message,
so a call cannot be sent to another ledger, as another call, or later. Source: proto/callers.md, "A call signed with the
person's key". Who owns the key, and whether it is in force, is not checked here.
"""

import hashlib
from dataclasses import dataclass
from struct import Struct

from consentd import limits
from consentd.core import ed25519
from consentd.errors import MalformedError, SignatureError

HEADER = "consentd-call-signature-bin"
"""Name of the header (gRPC metadata key)."""
MAX_SKEW_MS = limits.CALL_SKEW_MS
VERSION = 1
_HEADER = Struct(">B32sQ32s64s")
_SIGNED = Struct(">32s32sQ32s")
_DOMAIN = b"consentd/call/v1\0"


@dataclass(frozen=True, slots=True)
class CallSignature:
    """The value of the header.

    Attributes:
        key: the person's Ed25519 public key, 32 bytes.
        time_ms: when the call was signed, by the signer's clock, UTC milliseconds.
        message_hash: SHA-256 of the bytes of the request message.
        signature: Ed25519, 64 bytes.
    """

    key: bytes
    time_ms: int
    message_hash: bytes
    signature: bytes


def signed_bytes(*, origin: str, method: str, time_ms: int, message_hash: bytes) -> bytes:
    """Return the bytes that the person signs.

    ``"consentd/call/v1\\0" ‖ H(origin) ‖ H(method) ‖ time_ms u64 ‖ message_hash``. *method* is the path of the RPC, as
    in ``/consentd.v1.LedgerService/GetHistory``.
    """
    origin_hash, method_hash = hashlib.sha256(origin.encode()).digest(), hashlib.sha256(method.encode()).digest()
    return _DOMAIN + _SIGNED.pack(origin_hash, method_hash, time_ms, message_hash)


def sign_call(key: ed25519.KeyPair, *, origin: str, method: str, time_ms: int, message: bytes) -> bytes:
    """Return the value of the header for a call with this request *message*."""
    message_hash = hashlib.sha256(message).digest()
    signature = key.sign(signed_bytes(origin=origin, method=method, time_ms=time_ms, message_hash=message_hash))
    return _HEADER.pack(VERSION, key.public_key, time_ms, message_hash, signature)


def decode_call_signature(data: bytes) -> CallSignature:
    """Decode the value of the header. Raises ``MalformedError`` if its length or version is another."""
    if len(data) != _HEADER.size:
        raise MalformedError(f"call signature is not {_HEADER.size} bytes: `{len(data)}`")
    version, key, time_ms, message_hash, signature = _HEADER.unpack(data)
    if version != VERSION:
        raise MalformedError(f"call signature has a version that this program does not know: `{version}`")
    return CallSignature(key, time_ms, message_hash, signature)


def verify_call_signature(found: CallSignature, *, origin: str, method: str, now_ms: int) -> None:
    """Verify a signature and its time, but not the message: compare ``message_hash`` when the message has arrived.

    Raises:
        SignatureError: the signature does not verify, or its time is more than ``MAX_SKEW_MS`` from *now_ms*.
    """
    if abs(now_ms - found.time_ms) > MAX_SKEW_MS:
        raise SignatureError("call was signed at a time that is too far from the daemon's clock")
    signed = signed_bytes(origin=origin, method=method, time_ms=found.time_ms, message_hash=found.message_hash)
    ed25519.verify(found.key, signed, found.signature)
