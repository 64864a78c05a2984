"""Calls of persons for tests: an OpenID Connect provider and its ID tokens, made without PyJWT; call signatures."""

import json
import tomllib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from cases.daemons import ORIGIN, request_id
from cases.services import now_ms
from consentd.config import CitizensConfig
from consentd.core.call_signature import HEADER, sign_call
from consentd.core.ed25519 import KeyPair
from consentd.metrics import Metrics
from consentd.sections import parse_section
from consentd.service.id_tokens import IdTokens
from consentd.service.key_source import FileKeys
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st

ISSUER = "https://login.test/realm"
AUDIENCE = "consentd-test"
LOW, HIGH = "urn:test:loa1", "urn:test:loa2"


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int) -> str:
    return base64url(value.to_bytes(size, "big"))


class SigningKey:
    """A private key of the provider, its public JWK, and the signatures that it makes."""

    def __init__(self, kid: str, algorithm: str = "ES256", *, bits: int = 2048) -> None:
        self.kid, self.algorithm = kid, algorithm
        self._private: Any
        if algorithm == "EdDSA":
            self._private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm.startswith("ES"):
            self._private = ec.generate_private_key(ec.SECP256R1())
        else:
            self._private = _rsa_key(bits)

    def jwk(self, **changed: Any) -> dict[str, Any]:
        public = self._private.public_key()
        if self.algorithm == "EdDSA":
            members = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
        elif self.algorithm.startswith("ES"):
            point = public.public_numbers()
            members = {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32)}
        else:
            numbers = public.public_numbers()
            size = (public.key_size + 7) // 8
            members = {"kty": "RSA", "n": _number(numbers.n, size), "e": _number(numbers.e, 3)}
        return {"kid": self.kid, "use": "sig", **members, **changed}

    def sign(self, message: bytes) -> bytes:
        if self.algorithm == "EdDSA":
            return bytes(self._private.sign(message))
        if self.algorithm.startswith("ES"):
            r, s = utils.decode_dss_signature(self._private.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return bytes(self._private.sign(message, padding.PKCS1v15(), hashes.SHA256()))


@cache
def _rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, bits)


def key_set(*keys: SigningKey | dict[str, Any]) -> bytes:
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


class Provider:
    """A provider with one key, and the file of its key set."""

    def __init__(self, directory: Path, *, issuer: str = ISSUER, name: str = "login") -> None:
        self.issuer = issuer
        self.key = SigningKey("k1")
        self.path = directory / f"{name}.jwks"
        self.path.write_bytes(key_set(self.key))

    def config(self, participant: str = "app", **options: Any) -> str:
        """Return the section of the daemon's configuration for this provider."""
        given = {
            "issuer": self.issuer, "audience": AUDIENCE, "participant": participant, "scheme": "mhid",
            "jwks_file": str(self.path), **options,
        }  # fmt: skip
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
        levels = "".join(
            f'[[citizens.provider.assurance]]\nacr = "{acr}"\nlevel = {level}\n' for acr, level in ((LOW, 1), (HIGH, 2))
        )
        return f"[[citizens.provider]]\n{lines}\n{levels}"

    def token(
        self, value: str, now_ms: int, *, key: SigningKey | None = None, header: dict[str, Any] | None = None,
        **changed: Any,
    ) -> str:  # fmt: skip
        """Return a token about the person with this identifier; a claim that is changed to None is left out."""
        now_s, key = now_ms // 1000, key or self.key
        stated = {
            "iss": self.issuer, "aud": AUDIENCE, "sub": value, "iat": now_s, "exp": now_s + 600, "acr": HIGH,
            "amr": ["pwd", "otp"], "auth_time": now_s - 5, **changed,
        }  # fmt: skip
        named = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid, **(header or {})}
        parts = ({name: value for name, value in part.items() if value is not None} for part in (named, stated))
        return sign_parts(key, *(json.dumps(part).encode() for part in parts))


def id_tokens_of(*providers: Provider, **options: Any) -> IdTokens:
    """Return what verifies the tokens of these providers, whose keys are in files."""
    made = []
    for one in providers:
        section = tomllib.loads(one.config(**options))["citizens"]
        config = parse_section(CitizensConfig, section, base_dir=one.path.parent).provider[0]
        assert config.jwks_file is not None
        made.append((config, FileKeys(config.jwks_file)))
    return IdTokens(made, Metrics())


def sign_parts(key: SigningKey, header: bytes, payload: bytes) -> str:
    """Return a token with these bytes as header and payload."""
    signed = f"{base64url(header)}.{base64url(payload)}"
    return f"{signed}.{base64url(key.sign(signed.encode()))}"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def call_metadata(
    key: KeyPair, method: str, message: bytes, time_ms: int, *, origin: str = ORIGIN
) -> tuple[tuple[str, bytes], ...]:
    """Return the metadata of a call that a person signs."""
    return ((HEADER, sign_call(key, origin=origin, method=method, time_ms=time_ms, message=message)),)


# -- what ``tests/test_errors.py`` provokes -----------------------------------------------------------------------


def token_for_others(world: Any) -> Any:
    token = world.provider.token(world.subject.value, now_ms(world.running), aud="another")
    return world.running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=bearer(token))


def signature_of_another_call(world: Any) -> Any:
    metadata = call_metadata(world.key, "/consentd.v1.LedgerService/GetHistory", b"", now_ms(world.running))
    return world.running.ledger.ListLeaves(ls.ListLeavesRequest(), metadata=metadata)


def login_of_a_low_level(world: Any) -> Any:
    token = world.provider.token(world.subject.value, now_ms(world.running), acr=LOW)
    change = cs.RevokeConsentRequest(
        request_id=request_id(), subject=world.subject, consent_id=world.consent_id, attested=st.RevokeStatement()
    )
    return world.running.consents.RevokeConsent(change, metadata=bearer(token))


PROVOKED: dict[str, Callable[[Any], Any]] = {
    "INVALID_ID_TOKEN": token_for_others,
    "INVALID_CALL_SIGNATURE": signature_of_another_call,
    "ASSURANCE_TOO_LOW": login_of_a_low_level,
}
