"""The public keys of an OpenID Connect provider: parse a JSON Web Key Set, and verify signatures with its keys.

This is the only module that imports PyJWT, and of PyJWT it uses the algorithms alone (RFC 7518, RFC 8037). What a token
says, and what its header may have, is decided in ``id_tokens``.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from consentd.config import ID_TOKEN_ALGORITHMS
from consentd.core.strict_json import parse_json
from consentd.errors import MalformedError, SignatureError

MAX_KEY_SET = 256 * 1024
MAX_KEYS = 64
MAX_KID = 256
"""Longest key id, in characters."""
LEAST_RSA_BITS, MOST_RSA_BITS, LEAST_RSA_EXPONENT = 2048, 8192, 65_537
_FORMS: Final[Mapping[str, tuple[str, str]]] = {
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"), "EdDSA": ("OKP", "Ed25519"),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
}  # fmt: skip
"""For each algorithm, the type and the curve of its keys."""
assert tuple(sorted(_FORMS)) == tuple(sorted(ID_TOKEN_ALGORITHMS)), "each algorithm that may be configured has a form"
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_IMPLEMENTED: Final = {name: one for name, one in get_default_algorithms().items() if name in _FORMS}


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2).

    Raises:
        MalformedError: *text* is not the one encoding of its bytes.
    """
    try:
        data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise MalformedError("text is not base64url") from error
    if urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise MalformedError("text is not base64url without padding")
    return data


def parse_object(data: bytes, *, max_nesting: int, max_marks: int) -> dict[str, Any]:
    """Parse a JSON object in UTF-8. Raises ``MalformedError`` also if a name is there twice."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("JSON is not UTF-8") from error
    found = parse_json(text, max_nesting=max_nesting, max_marks=max_marks, parse_constant=_no_number)
    if not isinstance(found, dict):
        raise MalformedError("JSON is no object")
    return found


def _no_number(text: str) -> None:
    raise MalformedError("JSON has a number that is none")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of a provider, as PyJWT uses it for each algorithm that it fits. Two keys may have one id."""

    kid: str
    loaded: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys that a provider signs with, by their ids."""

    keys: Mapping[str, tuple[Key, ...]]

    def has(self, kid: str) -> bool:
        """Return whether the set has a key with this id; empty: a key without one."""
        return kid in self.keys

    def verify(self, message: bytes, signature: bytes, *, kid: str, algorithm: str) -> None:
        """Verify a signature by a key with the id *kid*, with *algorithm*, one of ``ID_TOKEN_ALGORITHMS``.

        Raises:
            SignatureError: there is no such key of this algorithm, or the signature does not verify.
        """
        fitting = [one.loaded[algorithm] for one in self.keys.get(kid, ()) if algorithm in one.loaded]
        if not any(_verifies(key, algorithm, message, signature) for key in fitting):
            raise SignatureError("signature of the token does not verify")


def parse_key_set(data: bytes) -> KeySet:
    """Parse a JSON Web Key Set (RFC 7517, section 5).

    Keys that are not for signatures, of a type or size that is not accepted, or damaged are left out: a token that
    names one is refused.

    Raises:
        MalformedError: *data* is too long, no key set, or has too many keys or no key that can be used.
    """
    if len(data) > MAX_KEY_SET:
        raise MalformedError(f"key set is over its limit of {MAX_KEY_SET} bytes: `{len(data)}`")
    listed = parse_object(data, max_nesting=6, max_marks=64 * MAX_KEYS).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise MalformedError(f"key set has no list of at most {MAX_KEYS} keys")
    found: dict[str, tuple[Key, ...]] = {}
    for members in listed:
        key = _parse_key(members)
        if key is not None:
            found[key.kid] = (*found.get(key.kid, ()), key)
    if not found:
        raise MalformedError("key set has no key that can be used")
    return KeySet(found)


def _parse_key(members: object) -> Key | None:
    """Return a key of a set; None: it may not be used."""
    if not isinstance(members, dict) or not _PRIVATE.isdisjoint(members):
        return None
    kid, use, operations = members.get("kid", ""), members.get("use", "sig"), members.get("key_ops", ["verify"])
    if not isinstance(kid, str) or len(kid) > MAX_KID or use != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    loaded = {}
    for algorithm, (kind, curve) in _FORMS.items():
        fits = members.get("kty") == kind and curve in ("", members.get("crv"))
        if fits and members.get("alg", algorithm) == algorithm:
            one = _load(members, algorithm)
            if one is None:
                return None
            loaded[algorithm] = one
    return Key(kid, loaded) if loaded else None


def _load(members: Mapping[str, Any], algorithm: str) -> Any:
    """Return a key as PyJWT uses it; None: its members are no key, or a weak one."""
    try:
        loaded = _IMPLEMENTED[algorithm].from_jwk(dict(members))
    except Exception:  # noqa: BLE001  # a point beside the curve, numbers that are no RSA key, a missing member
        return None
    if isinstance(loaded, RSAPublicKey):
        is_strong = loaded.public_numbers().e >= LEAST_RSA_EXPONENT
        return loaded if is_strong and LEAST_RSA_BITS <= loaded.key_size <= MOST_RSA_BITS else None
    return loaded


def _verifies(key: Any, algorithm: str, message: bytes, signature: bytes) -> bool:
    try:
        return bool(_IMPLEMENTED[algorithm].verify(message, key, signature))
    except Exception:  # noqa: BLE001  # the libraries have many classes for signatures of a wrong form
        return False
