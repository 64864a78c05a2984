"""ID tokens: what is accepted, and every form that is refused."""

import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cases.logins import AUDIENCE, ISSUER, LOW, Provider, SigningKey, base64url, id_tokens_of, key_set, sign_parts
from consentd.errors import ConsentdError, InvalidError, MalformedError, OverloadedError, StorageError
from consentd.service.auth import UnauthenticatedError
from consentd.service.id_tokens import MAX_REFUSED, IdTokens, is_id_token
from consentd.service.key_set import parse_key_set

NOW_MS = 1_800_000_000_000
NOW_S = NOW_MS // 1000


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    return Provider(tmp_path_factory.mktemp("provider"))


@pytest.fixture
def tokens(provider: Provider) -> IdTokens:
    return id_tokens_of(provider)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        call()
    return caught.value.reason


def test_a_token_says_who_logged_in_and_how(provider: Provider, tokens: IdTokens) -> None:
    token = provider.token("MH-1", NOW_MS)
    assert is_id_token(token)
    found = tokens.verify(token, now_ms=NOW_MS)
    assert (found.value, found.level, found.amr) == ("MH-1", 2, ("pwd", "otp"))
    assert (found.auth_time_ms, found.end_ms) == (NOW_MS - 5_000, NOW_MS + 630_000)
    assert tokens.verify(token, now_ms=found.end_ms - 1) is found  # remembered
    assert reason(lambda: tokens.verify(token, now_ms=found.end_ms)) == "CREDENTIAL_EXPIRED"
    assert "MH-1" not in repr(found)


@pytest.mark.parametrize(("acr", "level"), [(LOW, 1), ("urn:other", 0), (None, 0)])
def test_a_level_that_the_configuration_does_not_know_is_none(
    provider: Provider, tokens: IdTokens, acr: str | None, level: int
) -> None:
    assert tokens.verify(provider.token("MH-1", NOW_MS, acr=acr), now_ms=NOW_MS).level == level


ACCEPTED: dict[str, dict[str, Any]] = {
    "an audience in a list": {"aud": [AUDIENCE]},
    "issued to us, for others too": {"aud": [AUDIENCE, "other"], "azp": AUDIENCE},
    "no methods": {"amr": None},
    "no time of the login": {"auth_time": None},
    "begun within the skew": {"nbf": NOW_S + 30},
    "issued within the skew": {"iat": NOW_S + 30},
    "ended within the skew": {"iat": NOW_S - 100, "exp": NOW_S - 29},
    "a time with a fraction": {"exp": NOW_S + 1.5},
    "other claims": {"name": "x", "nonce": "n", "jti": "1", "at_hash": "h", "address": {"country": "KR"}},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_claim_is_accepted(provider: Provider, tokens: IdTokens, name: str) -> None:
    assert tokens.verify(provider.token("MH-1", NOW_MS, **ACCEPTED[name]), now_ms=NOW_MS).value == "MH-1"


REFUSED: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": ISSUER + "/"},
    "no issuer": {"iss": None},
    "an issuer that is no text": {"iss": [ISSUER]},
    "another audience": {"aud": "other"},
    "no audience": {"aud": None},
    "an audience that is no text": {"aud": 7},
    "for others too, and not issued to us": {"aud": [AUDIENCE, "other"]},
    "issued to another": {"aud": [AUDIENCE, "other"], "azp": "other"},
    "no end": {"exp": None},
    "an end that is a text": {"exp": str(NOW_S + 600)},
    "an end that is true": {"exp": True},
    "an endless end": {"exp": 1e300},
    "a negative end": {"exp": -5},
    "an end before its issue": {"exp": NOW_S - 1, "iat": NOW_S},
    "no time of issue": {"iat": None},
    "issued later": {"iat": NOW_S + 31, "exp": NOW_S + 600},
    "not begun": {"nbf": NOW_S + 31},
    "a beginning that is no time": {"nbf": "soon"},
    "a login later": {"auth_time": NOW_S + 31},
    "no person": {"sub": None},
    "a person that is a number": {"sub": 7},
    "a level that is no text": {"acr": 2},
    "a level with a half of a character": {"acr": "\ud800"},
    "methods that are a text": {"amr": "pwd"},
    "a method that is no text": {"amr": [1]},
    "too many methods": {"amr": ["x"] * 17},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_claim_is_refused(provider: Provider, tokens: IdTokens, name: str) -> None:
    token = provider.token("MH-1", NOW_MS, **REFUSED[name])
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


OLD: dict[str, dict[str, Any]] = {
    "ended": {"iat": NOW_S - 100, "exp": NOW_S - 31},
    "issued too long ago": {"iat": NOW_S - 3_631, "exp": NOW_S + 600},
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_token_has_ended(provider: Provider, tokens: IdTokens, name: str) -> None:
    token = provider.token("MH-1", NOW_MS, **OLD[name])
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "CREDENTIAL_EXPIRED"


def test_a_login_may_have_to_be_recent(provider: Provider) -> None:
    strict = id_tokens_of(provider, max_auth_age_s=60)
    assert strict.verify(provider.token("MH-1", NOW_MS), now_ms=NOW_MS).end_ms == NOW_MS + 85_000
    old = provider.token("MH-1", NOW_MS, auth_time=NOW_S - 91)
    assert reason(lambda: strict.verify(old, now_ms=NOW_MS)) == "CREDENTIAL_EXPIRED"
    silent = provider.token("MH-1", NOW_MS, auth_time=None)
    assert reason(lambda: strict.verify(silent, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


HEADERS: dict[str, dict[str, Any]] = {
    "no algorithm": {"alg": None},
    "none": {"alg": "none"},
    "None": {"alg": "None"},
    "a secret": {"alg": "HS256"},
    "an algorithm that is not allowed": {"alg": "ES384"},
    "an algorithm that is a list": {"alg": ["ES256"]},
    "another of the provider's algorithms": {"alg": "RS256"},
    "an algorithm of other keys": {"alg": "EdDSA"},
    "critical members": {"crit": ["exp"], "exp": NOW_S},
    "no critical members": {"crit": []},
    "a payload without encoding": {"b64": False, "crit": ["b64"]},
    "b64 alone": {"b64": True},
    "compression": {"zip": "DEF"},
    "encryption": {"enc": "A128GCM"},
    "a token within": {"cty": "JWT"},
    "an address of keys": {"jku": "https://evil.test/jwks"},
    "an address of certificates": {"x5u": "https://evil.test/x5u"},
    "a key": {"jwk": {"kty": "EC"}},
    "certificates": {"x5c": ["MIIB"]},
    "an access token": {"typ": "at+jwt"},
    "a type that is no text": {"typ": ["JWT"]},
    "an unknown key": {"kid": "k2"},
    "no key": {"kid": None},
    "a path": {"kid": "../../dev/null"},
    "an address": {"kid": "https://evil.test/key"},
    "a statement of SQL": {"kid": "k1' OR '1'='1"},
    "a very long key": {"kid": "k" * 1_000},
    "a key with a half of a character": {"kid": "\udfff"},
    "a key that is a number": {"kid": 1},
    "a key that is a list": {"kid": ["k1"]},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_refused(provider: Provider, tokens: IdTokens, name: str) -> None:
    token = provider.token("MH-1", NOW_MS, header=HEADERS[name])
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def test_the_public_key_is_no_secret(provider: Provider, tokens: IdTokens) -> None:
    """The old attack: HS256 with the provider's public key as the secret, which everybody has."""
    header, payload, _ = provider.token("MH-1", NOW_MS, header={"alg": "HS256"}).split(".")
    signed = f"{header}.{payload}"
    for secret in (provider.path.read_bytes(), json.dumps(provider.key.jwk()).encode(), b""):
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert reason(lambda mac=mac: tokens.verify(f"{signed}.{base64url(mac)}", now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def test_a_signature_is_of_these_bytes_by_this_key(provider: Provider, tokens: IdTokens) -> None:
    token, other = provider.token("MH-1", NOW_MS), provider.token("MH-2", NOW_MS)
    header, payload, signature = token.split(".")
    stranger = provider.token("MH-1", NOW_MS, key=SigningKey("k1"))
    changed = [
        f"{header}.{other.split('.')[1]}.{signature}",
        f"{header}.{payload}.{base64url(bytes(64))}",
        f"{header}.{payload}.{base64url(bytes(63))}",
        f"{header}.{payload}.{base64url(bytes.fromhex('ff') * 64)}",
        stranger,
    ]
    for one in changed:
        assert reason(lambda one=one: tokens.verify(one, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def _twice(name: str, value: str) -> Callable[[bytes], bytes]:
    return lambda data: data[:-1] + f', "{name}": {value}}}'.encode()


PARTS: dict[str, tuple[Callable[[bytes], bytes] | None, Callable[[bytes], bytes] | None]] = {
    "a claim twice": (None, _twice("sub", '"MH-2"')),
    "a member of the header twice": (_twice("kid", '"k1"'), None),
    "a payload that is no object": (None, lambda data: b'["MH-1"]'),
    "a header that is a text": (lambda data: b'"ES256"', None),
    "a payload that is not UTF-8": (None, lambda data: data[:-1] + b', "x": "\xff"}'),
    "NaN": (None, _twice("x", "NaN")),
    "nested deep": (None, _twice("x", "[" * 100 + "]" * 100)),
    "many members": (None, _twice("x", "[" + "0," * 1_500 + "0]")),
    "an empty payload": (None, lambda data: b" "),
    "a byte order mark": (None, lambda data: b"\xef\xbb\xbf" + data),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_refused(provider: Provider, tokens: IdTokens, name: str) -> None:
    parts = provider.token("MH-1", NOW_MS).split(".")[:2]
    decoded = [json.dumps(json.loads(_decode(part))).encode() for part in parts]
    changed = zip(decoded, PARTS[name], strict=True)
    header, payload = (data if change is None else change(data) for data, change in changed)
    token = sign_parts(provider.key, header, payload)
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def _decode(part: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


FORMS: dict[str, Callable[[str], str]] = {
    "four parts": lambda token: token + ".x",
    "an empty signature": lambda token: token.rpartition(".")[0] + ".",
    "padding": lambda token: token + "=",
    "a line break": lambda token: token + "\n",
    "plus and slash": lambda token: token.replace(token[-3], "+"),
    "a second encoding of the signature": lambda token: token[:-1] + chr(ord(token[-1]) + 1),
    "a space in front": lambda token: " " + token,
    "huge": lambda token: token + "A" * 100_000,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_refused(provider: Provider, tokens: IdTokens, name: str) -> None:
    token = FORMS[name](provider.token("MH-1", NOW_MS))
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def test_a_token_within_a_token_is_none(provider: Provider, tokens: IdTokens) -> None:
    inner = provider.token("MH-1", NOW_MS)
    token = sign_parts(provider.key, json.dumps({"alg": "ES256", "kid": "k1"}).encode(), inner.encode())
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.one_of(some.text(max_size=200), some.binary(max_size=200).map(lambda data: data.decode("latin-1"))))
def test_any_text_is_refused(provider: Provider, tokens: IdTokens, text: str) -> None:
    for token in (text, f"{text}.{text}.{text}", f"{base64url(text.encode('utf-8', 'replace'))}." * 2 + "AA"):
        assert reason(lambda token=token: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.data())
def test_a_changed_byte_is_noticed(provider: Provider, tokens: IdTokens, data: some.DataObject) -> None:
    token = provider.token("MH-1", NOW_MS)
    at = data.draw(some.integers(0, len(token) - 1))
    other = data.draw(some.sampled_from("ABCDEFghij0189-_.=~"))
    changed = token[:at] + other + token[at + 1 :]
    if changed != token:
        assert reason(lambda: tokens.verify(changed, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


# -- keys -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_each_default_algorithm_is_verified(tmp_path: Path, algorithm: str) -> None:
    provider = Provider(tmp_path)
    provider.key = SigningKey("k1", algorithm)
    provider.path.write_bytes(key_set(provider.key))
    assert id_tokens_of(provider).verify(provider.token("MH-1", NOW_MS), now_ms=NOW_MS).value == "MH-1"


def test_a_key_without_an_id_signs_tokens_without_one(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    provider.path.write_bytes(key_set(provider.key.jwk(kid="")))
    tokens = id_tokens_of(provider)
    assert tokens.verify(provider.token("MH-1", NOW_MS, header={"kid": None}), now_ms=NOW_MS).value == "MH-1"
    assert reason(lambda: tokens.verify(provider.token("MH-1", NOW_MS), now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


KEY = SigningKey("k1")
UNUSABLE: dict[str, dict[str, Any]] = {
    "for encryption": KEY.jwk(use="enc"),
    "to sign": KEY.jwk(key_ops=["sign"]),
    "operations that are a text": KEY.jwk(key_ops="verify"),
    "of another algorithm": KEY.jwk(alg="ES384"),
    "private": KEY.jwk(d="AA"),
    "a secret": {"kid": "k1", "kty": "oct", "k": "AAAA"},
    "an unknown type": KEY.jwk(kty="XX"),
    "a type that is a list": KEY.jwk(kty=["EC"]),
    "a point beside the curve": KEY.jwk(y=KEY.jwk()["x"]),
    "a point of another length": KEY.jwk(x="AA"),
    "the point at zero": KEY.jwk(x=base64url(bytes(32)), y=base64url(bytes(32))),
    "no point": {name: value for name, value in KEY.jwk().items() if name != "x"},
    "another curve": KEY.jwk(crv="secp256k1"),
    "a short RSA key": SigningKey("k1", "RS256", bits=1024).jwk(),
    "an RSA key with a small exponent": SigningKey("k1", "RS256").jwk(e="Aw"),
    "an Ed25519 key of another length": SigningKey("k1", "EdDSA").jwk(x="AAAA"),
    "an id that is no text": KEY.jwk(kid=7),
    "an id that is very long": KEY.jwk(kid="k" * 300),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_key_is_left_out(name: str) -> None:
    other = SigningKey("k2")
    assert set(parse_key_set(key_set(UNUSABLE[name], other)).keys) == {"k2"}
    with pytest.raises(MalformedError):
        parse_key_set(key_set(UNUSABLE[name]))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1]}', b"\xff", b'{"keys": [], "keys": []}',
     b" " * 300_000, key_set(*(SigningKey("k").jwk(kid=str(number)) for number in range(65)))],
)  # fmt: skip
def test_bytes_that_are_no_key_set(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(data)


@settings(deadline=None)
@given(some.binary(max_size=300))
def test_any_bytes_are_a_key_set_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_key_set(data)


def test_keys_of_a_file_are_replaced_and_their_tokens_end(tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    tokens = id_tokens_of(provider)
    keys = tokens._providers[ISSUER].keys
    old = provider.token("MH-1", NOW_MS)
    tokens.verify(old, now_ms=NOW_MS)
    provider.path.write_bytes(b"{")
    with pytest.raises(InvalidError):
        keys.reload()
    tokens.verify(old, now_ms=NOW_MS)  # what was read before stays
    provider.path.unlink()
    with pytest.raises(StorageError):
        keys.reload()
    provider.key = SigningKey("k2")
    provider.path.write_bytes(key_set(provider.key))
    keys.reload()
    assert reason(lambda: tokens.verify(old, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"
    assert tokens.verify(provider.token("MH-1", NOW_MS), now_ms=NOW_MS).value == "MH-1"


def test_a_damaged_file_does_not_keep_the_key_of_another_provider(tmp_path: Path) -> None:
    first, second = Provider(tmp_path), Provider(tmp_path, issuer="https://other.test", name="other")
    tokens, token = id_tokens_of(first, second), second.token("SYN-1", NOW_MS)
    assert tokens.verify(token, now_ms=NOW_MS).value == "SYN-1"
    first.path.write_bytes(b"damaged")
    second.path.write_bytes(key_set(SigningKey("k2")))
    with pytest.raises(InvalidError, match="file is no key set of a provider"):
        tokens.reload()
    assert reason(lambda: tokens.verify(token, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"
    assert tokens.verify(first.token("SYN-1", NOW_MS), now_ms=NOW_MS).value == "SYN-1"


def test_two_providers_keep_their_keys_apart(tmp_path: Path) -> None:
    one, other = Provider(tmp_path), Provider(tmp_path, issuer="https://other.test", name="other")
    tokens = id_tokens_of(one, other)
    assert tokens.verify(other.token("MH-1", NOW_MS), now_ms=NOW_MS).provider.issuer == other.issuer
    forged = other.token("MH-1", NOW_MS, iss=one.issuer)
    assert reason(lambda: tokens.verify(forged, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"


def test_what_is_remembered_is_bounded(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consentd.service.id_tokens.MAX_CACHED", 3)
    tokens = id_tokens_of(provider)
    made = [provider.token(f"MH-{number}", NOW_MS) for number in range(5)]
    for token in (*made, made[0]):
        tokens.verify(token, now_ms=NOW_MS)
    assert len(tokens._verified) == 3


def test_a_flood_of_forged_tokens_is_not_verified(provider: Provider) -> None:
    tokens, stranger, good = id_tokens_of(provider), SigningKey("k1"), provider.token("MH-1", NOW_MS)
    tokens.verify(good, now_ms=NOW_MS)
    for number in range(MAX_REFUSED):
        forged = provider.token(f"MH-{number}", NOW_MS, key=stranger)
        assert reason(lambda forged=forged: tokens.verify(forged, now_ms=NOW_MS)) == "INVALID_ID_TOKEN"
    other = provider.token("MH-2", NOW_MS)
    with pytest.raises(OverloadedError):
        tokens.verify(other, now_ms=NOW_MS)
    assert tokens.verify(good, now_ms=NOW_MS).value == "MH-1"  # it is remembered
    assert tokens.verify(other, now_ms=NOW_MS + 1000).value == "MH-2"


def test_an_error_has_nothing_of_the_token(provider: Provider, tokens: IdTokens) -> None:
    for name in ("another audience", "a level that is no text", "not begun"):
        with pytest.raises(ConsentdError) as caught:
            tokens.verify(provider.token("SYN-SECRET", NOW_MS, **REFUSED[name]), now_ms=NOW_MS)
        assert "SYN" not in str(caught.value)
