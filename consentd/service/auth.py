"""Tell who calls: a bearer token or a client certificate, looked up in the credentials file.

The file has a line for each credential, ``#`` begins a comment::

    token <SHA-256 of the token, hex> <participant id>
    cert  <SHA-256 of the certificate's DER, hex> <participant id>

It holds hashes only, so reading it gives nobody a credential; writing it gives anybody one: it is trusted. The id
``operator`` is reserved for whoever runs the daemon. Loss: nobody can call until it is written anew.
"""

import hashlib
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from consentd.errors import InvalidError, StorageError

OPERATOR = "operator"
PARTICIPANT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_LINE = re.compile(r"(token|cert)\s+([0-9a-f]{64})\s+(\S+)")
_MOST_CERTIFICATES = 1024


def token_hash(token: str) -> str:
    """Return what stands in the file for a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def format_credential(token: str, participant_id: str) -> str:
    """Return the line of the file for a token."""
    return f"token {token_hash(token)} {participant_id}\n"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who holds which credential: SHA-256 (hex) → participant id."""

    tokens: Mapping[str, str]
    certificates: Mapping[str, str]


def parse_credentials(text: str) -> Credentials:
    """Parse the credentials file.

    Raises:
        InvalidError: a line is not one of ours; it is named by number, never shown.
    """
    found: dict[str, dict[str, str]] = {"token": {}, "cert": {}}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#", 1)[0].strip()
        if not bare:
            continue
        match = _LINE.fullmatch(bare)
        if match is None or not PARTICIPANT_ID.fullmatch(match[3]):
            raise InvalidError(f"credentials file has a bad line: `{number}`")
        found[match[1]][match[2]] = match[3]
    return Credentials(found["token"], found["cert"])


def read_credentials(path: Path) -> Credentials:
    """Read the credentials file.

    Raises:
        StorageError: it cannot be read.
        InvalidError: a line is not one of ours.
    """
    try:
        return parse_credentials(path.read_text())
    except OSError as error:
        raise StorageError(f"credentials file cannot be read: `{path}`: {error.strerror}") from error


class Authenticator:
    """Looks callers up. ``credentials`` may be replaced by assignment, as on SIGHUP."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._hashes: dict[bytes, str] = {}  # PEM → DER hash, bounded: hashing a certificate on each call is waste

    def who(self, metadata: Iterable[tuple[str, str | bytes]], certificate: bytes | None) -> str:
        """Return the participant id of a call, or "" for a call without a credential we know."""
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
                return self.credentials.tokens.get(token_hash(value[7:]), "")
        if certificate is not None:
            return self.credentials.certificates.get(self._hash(certificate), "")
        return ""

    def _hash(self, pem: bytes) -> str:
        found = self._hashes.get(pem)
        if found is None:
            found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest()
            if len(self._hashes) >= _MOST_CERTIFICATES:
                self._hashes = {}
            self._hashes[pem] = found
        return found
