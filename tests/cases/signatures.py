"""Ed25519 signatures that count and that do not: what signers make, and points and scalars made by hand (RFC 8032 5.1).

Each family is a function that yields its cases.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha512

from cases.ed25519_points import BASE, TORSION, L, P, encoded, plus, times
from consentd.core.ed25519 import KeyPair
from consentd.core.note import COSIGNATURE, Signer

LOG = Signer("log.example/a", KeyPair(bytes(range(32))))
WITNESS = Signer("witness.example/w", KeyPair(b"w" * 32), COSIGNATURE)
TEXT = "log.example/a\n5\nAAAA\n"
SECRET = 123456789
POINT = times(SECRET, BASE)
KEY = encoded(POINT)
R = encoded(times(7, BASE))
MESSAGE = b"message"


@dataclass(frozen=True, slots=True)
class SignatureCase:
    """What ``ed25519.verify`` is given, and its verdict: "ok", "signature" (it does not count) or "malformed"."""

    key: bytes
    message: bytes
    signature: bytes
    want: str


def refused(key: bytes, signature: bytes, message: bytes = MESSAGE) -> SignatureCase:
    return SignatureCase(key, message, signature, "signature")


def scalar(s: int) -> bytes:
    return s.to_bytes(32, "little")


def challenge(r: bytes, a: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + a + message).digest(), "little") % L


def signature_by(r: bytes, r_scalar: int, key: bytes = KEY, message: bytes = MESSAGE) -> bytes:
    return r + scalar((r_scalar + challenge(r, key, message) * SECRET) % L)


def signature_of_rfc_8032() -> Iterator[SignatureCase]:
    """Yield the second example of RFC 8032 7.1, for its message and for another."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    yield SignatureCase(public, b"\x72", signature, "ok")
    yield refused(public, signature, b"\x73")


def another_text() -> Iterator[SignatureCase]:
    """Yield a log's signature for its text, and for each text with one character changed."""
    key, signature, text = LOG.key.public_key, LOG.sign(TEXT).signature, TEXT.encode()
    yield SignatureCase(key, text, signature, "ok")
    for at in range(len(text)):
        yield refused(key, signature, text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
    yield refused(WITNESS.key.public_key, signature, text)


def cosignature_of_another_time() -> Iterator[SignatureCase]:
    """Yield a cosignature for its time, and for others (C2SP tlog-cosignature)."""
    signature = WITNESS.cosign(TEXT, 1_700_000_000).signature[8:]
    for time_s, want in ((1_700_000_000, "ok"), (1_700_000_001, "signature"), (0, "signature")):
        message = b"cosignature/v1\ntime %d\n" % time_s + TEXT.encode()
        yield SignatureCase(WITNESS.key.public_key, message, signature, want)


def wrong_length() -> Iterator[SignatureCase]:
    """Yield keys and signatures that are too short or too long."""
    key, good = LOG.key.public_key, LOG.key.sign(b"m")
    for other, signature in ((b"", good), (bytes(31), good), (bytes(33), good), (key, good[:-1])):
        yield SignatureCase(other, b"m", signature, "malformed")


def made_by_hand() -> Iterator[SignatureCase]:
    """Yield a signature that is computed from the definition, as all below."""
    yield SignatureCase(KEY, MESSAGE, signature_by(R, 7), "ok")


def s_of_l_or_more() -> Iterator[SignatureCase]:
    """Yield a good signature with its S plus multiples of L."""
    good = signature_by(R, 7)
    s = int.from_bytes(good[32:], "little")
    assert s + L < 2**256
    for bad in range(s + L, 2**256, L):
        yield refused(KEY, good[:32] + scalar(bad))


def r_of_small_order() -> Iterator[SignatureCase]:
    """Yield signatures whose R is a point of small order."""
    for k in range(8):
        yield refused(KEY, signature_by(encoded(times(k, TORSION)), 0))


def a_of_small_order() -> Iterator[SignatureCase]:
    """Yield keys of small order, with messages for which the equation holds, so that only the order is wrong."""
    for k in range(8):
        key = encoded(times(k, TORSION))
        message = next(m for m in map(bytes, ([i] for i in range(256))) if challenge(R, key, m) * k % 8 == 0)
        yield refused(key, R + scalar(7), message)


def a_not_canonical() -> Iterator[SignatureCase]:
    """Yield keys whose y is not reduced, and one with a negative zero."""
    for y in range(19):  # y + p still fits in 255 bits
        for sign in (0, 1):
            for message in map(bytes, ([i] for i in range(16))):
                yield refused((y + P | sign << 255).to_bytes(32, "little"), R + scalar(7), message)
    yield refused((1 | 1 << 255).to_bytes(32, "little"), R + scalar(7))


def r_not_canonical() -> Iterator[SignatureCase]:
    """Yield signatures with an R whose y is not reduced."""
    for y in range(19):
        for sign in (0, 1):
            yield refused(KEY, signature_by((y + P | sign << 255).to_bytes(32, "little"), 0))


def torsion() -> Iterator[SignatureCase]:
    """Yield signatures that 8SB = 8R + 8kA would accept; SB = R + kA accepts one only if k cancels the torsion."""
    for k in range(1, 8):
        r = encoded(plus(times(7, BASE), times(k, TORSION)))
        yield refused(KEY, signature_by(r, 7))
    mixed = encoded(plus(POINT, TORSION))
    for message in map(bytes, ([i] for i in range(64))):
        want = "ok" if challenge(R, mixed, message) % 8 == 0 else "signature"
        yield SignatureCase(mixed, message, signature_by(R, 7, mixed, message), want)


FAMILIES: dict[str, tuple[Callable[[], Iterator[SignatureCase]], set[str]]] = {
    "signature of RFC 8032": (signature_of_rfc_8032, {"ok", "signature"}),
    "another text": (another_text, {"ok", "signature"}),
    "cosignature of another time": (cosignature_of_another_time, {"ok", "signature"}),
    "wrong length": (wrong_length, {"malformed"}),
    "made by hand": (made_by_hand, {"ok"}),
    "S of L or more": (s_of_l_or_more, {"signature"}),
    "R of small order": (r_of_small_order, {"signature"}),
    "A of small order": (a_of_small_order, {"signature"}),
    "A not canonical": (a_not_canonical, {"signature"}),
    "R not canonical": (r_not_canonical, {"signature"}),
    "torsion": (torsion, {"ok", "signature"}),
}
"""By name: the cases of a family, and the verdicts that occur among them."""
