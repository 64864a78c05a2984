"""The credentials of both files together, by what callers show."""

import hashlib
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from consentd.errors import InvalidError
from consentd.service.auth import Credential, CredentialKind, Key, first_ending

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Known:
    """All credentials of both files: tokens and certificates by hash, and all by id."""

    tokens: Mapping[str, Credential]
    certificates: Mapping[str, Credential]
    by_id: Mapping[str, Credential]


def bearer(metadata: Metadata) -> str | None:
    """Return the bearer token of a call; None: it has none."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value[7:]
    return None


def merge(listed: Mapping[Key, Credential], issued: Mapping[Key, Credential]) -> Known:
    """Return the credentials of both files. Raises ``InvalidError`` if they give one credential to two callers."""
    tokens: dict[str, Credential] = {}
    certificates: dict[str, Credential] = {}
    for key, one in {**listed, **issued}.items():
        before = listed.get(key, one)
        if before.caller != one.caller:
            raise InvalidError(f"credentials file gives `{before.caller}` what was issued to another caller")
        found = one if before is one else replace(first_ending(before, one), id=one.id)
        (tokens if found.kind is CredentialKind.TOKEN else certificates)[found.hash] = found
    by_id = {one.id: one for kind in (tokens, certificates) for one in kind.values()}
    return Known(tokens, certificates, by_id)


def pem_hash(pem: bytes) -> str:
    """Return the hash by which a client certificate is found: SHA-256 of its DER, hex. *pem*: others may follow it."""
    own, end, _ = pem.partition(ssl.PEM_FOOTER.encode())
    return _hash(own + end)


@lru_cache(maxsize=1024)  # the key is the client's own certificate, whatever it shows with it
def _hash(own: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(own.decode("ascii"))).hexdigest()


class FileChange(NamedTuple):
    """How the credentials file differs from what was read before: ids of credentials.

    Attributes:
        removed: those that are no longer there, or are revoked now.
        changed: those whose caller, roles or end are others.
    """

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()


def compare(before: Mapping[Key, Credential], after: Mapping[Key, Credential]) -> FileChange:
    """Return how a file differs from what was read before."""
    both = [(before[key], after[key]) for key in before.keys() & after.keys()]
    ended = {new.id for old, new in both if new.revoked_ms and not old.revoked_ms}
    changed = {
        new.id for old, new in both
        if (old.caller, old.roles, old.end_ms, old.revoked_ms) != (new.caller, new.roles, new.end_ms, new.revoked_ms)
    }  # fmt: skip
    return FileChange(
        frozenset(after[key].id for key in after.keys() - before.keys()),
        frozenset(before[key].id for key in before.keys() - after.keys()) | ended, frozenset(changed - ended),
    )
