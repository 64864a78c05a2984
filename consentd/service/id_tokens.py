"""Verify ID tokens: JSON Web Tokens that an OpenID Connect provider signs about a person who has logged in.

Everything that a token says is checked here, before and after its signature: the form (RFC 7515), the algorithm against
the provider's list, and the claims (RFC 7519; OpenID Connect Core, 3.1.3.7). A header that names keys of its own, or
demands what this program does not do, is refused. Source: proto/callers.md, "ID tokens".

A token is a bearer token: whoever has it can use it until it ends, as often as they like. So ``jti`` is not remembered,
and ``nonce`` is for the client, which asked for it.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from consentd import limits
from consentd.config import CitizensConfig, ProviderConfig
from consentd.errors import ConsentdError, InvalidError, MalformedError, OverloadedError, SignatureError
from consentd.metrics import Metrics
from consentd.service.auth import UnauthenticatedError
from consentd.service.key_set import MAX_KID, decode_base64url, parse_object
from consentd.service.key_source import KeySource, open_keys

MAX_TOKEN = limits.ID_TOKEN_BYTES
MAX_REFUSED = 200
"""How many tokens and call signatures that are refused may be verified in a second, of all callers together."""
MAX_CACHED = 16_384
"""How many verified tokens are remembered: at most about 10 MB."""
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_REFUSED: Final = frozenset({"crit", "b64", "zip", "enc", "cty", "jku", "jwk", "x5u", "x5c"})
"""Members of a header that would change what is signed, or name the key that verifies it."""
_TYPES: Final = ("JWT", "jwt")
_LATEST_S: Final = 1 << 40
_MAX_ACR, _MAX_AMR, _MAX_METHOD, _MAX_AUDIENCES = 256, 16, 64, 16


@dataclass(frozen=True, slots=True)
class Login:
    """What a verified token says.

    Attributes:
        value: the person's identifier in the provider's scheme.
        level: the level of assurance that the configuration gives to *acr*; 0: none.
        auth_time_ms: when the person logged in, UTC milliseconds; 0: the token does not say it.
        start_ms, end_ms: the token is accepted from and until then, UTC milliseconds; *end_ms* is the first too late.
    """

    provider: ProviderConfig
    value: str = field(repr=False)
    level: int
    acr: str
    amr: tuple[str, ...]
    auth_time_ms: int
    start_ms: int
    end_ms: int


def is_id_token(token: str) -> bool:
    """Return whether a bearer token has the form of a JSON Web Token: three parts with dots between them."""
    return token.count(".") == 2


class Refusals:
    """Counts what is verified and refused, so that a flood of forged tokens does not take all of the processor."""

    def __init__(self) -> None:
        self._second = self._count = 0

    def check(self, now_ms: int) -> None:
        """Check that something may be verified now. Raises ``OverloadedError`` (TOO_MANY_CALLS)."""
        second = now_ms // 1000
        if second != self._second:
            self._second, self._count = second, 0
        if self._count >= MAX_REFUSED:
            text = "too many tokens and call signatures are refused now"
            raise OverloadedError(text, "TOO_MANY_CALLS", retry_after_ms=1000)

    def add(self) -> None:
        """Count a token or a signature that was refused."""
        self._count += 1


@dataclass(frozen=True, slots=True)
class _Provider:
    config: ProviderConfig
    keys: KeySource
    levels: Mapping[str, int]


class IdTokens:
    """Verifies tokens, and remembers those that it has verified. Any thread may use it; ``_lock`` guards the memory."""

    def __init__(self, providers: Sequence[tuple[ProviderConfig, KeySource]], metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.id_keys_failed.follow(lambda: sum(keys.has_failed for _, keys in providers))
        self._providers = {
            config.issuer: _Provider(config, keys, {one.acr: one.level for one in config.assurance})
            for config, keys in providers
        }
        self.refusals = Refusals()
        self._lock = threading.Lock()
        # SHA-256 of the token → what it says, and the generation of the keys that verified it.
        self._verified: OrderedDict[bytes, tuple[Login, int]] = OrderedDict()

    def reload(self) -> None:
        """Read the keys of all providers again; see ``KeySource.reload``.

        Raises:
            InvalidError: the keys of some providers cannot be read, and stay as they are. Those of all others are new.
        """
        failed = []
        for one in self._providers.values():
            try:
                one.keys.reload()
            except ConsentdError as error:
                failed.append(str(error))
        if failed:
            raise InvalidError("; ".join(failed))

    def close(self) -> None:
        """Stop reading keys."""
        for one in self._providers.values():
            one.keys.close()

    def verify(self, token: str, *, now_ms: int) -> Login:
        """Return what a token says.

        Raises:
            UnauthenticatedError: INVALID_ID_TOKEN: it is malformed, of another issuer or audience, or not signed by a
                key of the provider. CREDENTIAL_EXPIRED: its time is over.
            StorageError: (NOT_SERVING) the keys of the provider are not read yet.
            OverloadedError: (TOO_MANY_CALLS) too many tokens are refused now.
        """
        try:
            login = self._remembered(token, now_ms)
            if now_ms < login.start_ms:
                raise _refused("its time has not begun")
            if now_ms >= login.end_ms:
                raise _expired()
        except UnauthenticatedError as error:
            self._metrics.id_tokens.inc("expired" if error.reason == "CREDENTIAL_EXPIRED" else "refused")
            raise
        self._metrics.id_tokens.inc("accepted")
        return login

    def _remembered(self, token: str, now_ms: int) -> Login:
        """Return what a token says; it is verified unless it was, by the keys that the provider still has."""
        if len(token) > MAX_TOKEN:
            raise _refused(f"it is over its limit of {MAX_TOKEN} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        with self._lock:
            found = self._verified.get(digest)
            if found is not None:
                self._verified.move_to_end(digest)
        if found is None or found[1] != self._providers[found[0].provider.issuer].keys.generation:
            self.refusals.check(now_ms)
            try:
                found = self._verify(token, now_ms)
            except UnauthenticatedError:
                self.refusals.add()
                raise
            with self._lock:
                self._verified[digest] = found
                if len(self._verified) > MAX_CACHED:
                    self._verified.popitem(last=False)
        return found[0]

    def _verify(self, token: str, now_ms: int) -> tuple[Login, int]:
        try:
            header, stated, signed, signature = _parse(token)
            provider = self._provider(stated)
            kid = _check_header(header, provider.config)
            login = _read_claims(stated, provider)
            if now_ms >= login.end_ms:  # before the signature: an old token is not worth that work
                raise _expired()
            generation = provider.keys.generation  # before the keys: if they change now, the token is verified again
            provider.keys.get(kid).verify(signed, signature, kid=kid, algorithm=header["alg"])
        except (MalformedError, SignatureError) as error:
            raise _refused(str(error)) from error
        return login, generation

    def _provider(self, stated: Mapping[str, Any]) -> _Provider:
        issuer = stated.get("iss")
        found = self._providers.get(issuer) if isinstance(issuer, str) else None
        if found is None:
            raise MalformedError("it is of another issuer")
        return found


def open_id_tokens(config: CitizensConfig, metrics: Metrics) -> IdTokens:
    """Read the keys of the providers, or begin to fetch them. Raises as ``FileKeys.reload``."""
    return IdTokens([(one, open_keys(one, metrics)) for one in config.provider], metrics)


def _expired() -> UnauthenticatedError:
    return UnauthenticatedError("token of the login has ended: log in again", "CREDENTIAL_EXPIRED")


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"token of the login is not accepted: {why}", "INVALID_ID_TOKEN")


def _parse(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Return header, claims, the signed bytes and the signature of a token. Raises ``MalformedError``."""
    if not _FORM.fullmatch(token):
        raise MalformedError("it is not three parts of base64url")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    return (
        parse_object(decode_base64url(header), max_nesting=2, max_marks=64),
        parse_object(decode_base64url(payload), max_nesting=8, max_marks=1024),
        signed.encode(),
        decode_base64url(signature),
    )


def _check_header(header: Mapping[str, Any], provider: ProviderConfig) -> str:
    """Check the header of a token, and return the id of its key; empty: it names none. Raises ``MalformedError``."""
    if not _REFUSED.isdisjoint(header):
        raise MalformedError("its header has a member that is not accepted")
    if header.get("alg") not in provider.algorithms:
        raise MalformedError("its algorithm is not one that is accepted of this provider")
    if header.get("typ", "JWT") not in _TYPES:
        raise MalformedError("it is no ID token: its type is another")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        raise MalformedError("id of its key is no text, or too long")
    return kid


def _read_claims(stated: Mapping[str, Any], provider: _Provider) -> Login:
    """Check what a token says, but not the present time. Raises ``MalformedError``."""
    config = provider.config
    _check_audience(stated, config.audience)
    value = stated.get(config.subject_claim)
    if not isinstance(value, str):
        raise MalformedError("it does not name the person")
    acr, amr = stated.get("acr", ""), stated.get("amr", [])
    if not isinstance(acr, str) or len(acr) > _MAX_ACR or not acr.isprintable():
        raise MalformedError("its level of assurance is no text, or too long")
    if not isinstance(amr, list) or len(amr) > _MAX_AMR or not all(map(_is_method, amr)):
        raise MalformedError("its methods are no list of short texts")
    skew_s = config.clock_skew_s
    issued_s, end_s = _seconds(stated, "iat"), _seconds(stated, "exp")
    if end_s <= issued_s:
        raise MalformedError("it ends before it begins")
    login_s = _seconds(stated, "auth_time") if "auth_time" in stated or config.max_auth_age_s else 0
    ends_s = [end_s, issued_s + config.max_age_s]
    if config.max_auth_age_s:
        ends_s.append(login_s + config.max_auth_age_s)
    starts_s = [issued_s, login_s, _seconds(stated, "nbf") if "nbf" in stated else 0]
    return Login(
        provider=config, value=value, level=provider.levels.get(acr, 0), acr=acr, amr=tuple(amr),
        auth_time_ms=1000 * login_s, start_ms=1000 * (max(starts_s) - skew_s), end_ms=1000 * (min(ends_s) + skew_s),
    )  # fmt: skip


def _check_audience(stated: Mapping[str, Any], audience: str) -> None:
    """Check for whom a token is. One that is for others too must say that it was issued to us (``azp``)."""
    given = stated.get("aud")
    audiences = [given] if isinstance(given, str) else given
    if not isinstance(audiences, list) or len(audiences) > _MAX_AUDIENCES or audience not in audiences:
        raise MalformedError("it is for another audience")
    if len(audiences) > 1 and stated.get("azp") != audience:
        raise MalformedError("it is for others too, and was not issued to this audience")


def _is_method(one: object) -> bool:
    return isinstance(one, str) and len(one) <= _MAX_METHOD and one.isprintable()


def _seconds(stated: Mapping[str, Any], name: str) -> int:
    """Return a time of a token, Unix time in whole seconds. Raises ``MalformedError`` if it is none."""
    found = stated.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < _LATEST_S:
        raise MalformedError(f"its time is missing, or none: `{name}`")
    return int(found)
