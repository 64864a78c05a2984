"""Authenticate callers by a bearer token or a client certificate, listed in the credentials file.

The file has a line for each credential, ``#`` begins a comment::

    token <SHA-256 of the token, hex> <caller id>
    cert  <SHA-256 of the certificate's DER, hex> <caller id>

The file holds hashes only, so a person who can read it gets no credential from it. A person who can write it can add
any credential, so the file is trusted. If the file is lost, a running daemon keeps the credentials that it has read,
and the next start fails.

A caller id is a participant id, ``operator/NAME`` for each person or program that operates the daemon, or
``scraper/NAME`` for a program that reads all metrics over HTTP and may call nothing.
"""

import hashlib
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from consentd.errors import DeniedError, InvalidError, StorageError
from consentd.sequencer.commands.callers import OPERATOR_ID, PARTICIPANT_ID, RESERVED_ID, RESERVED_IDS, SCRAPER_ID

_HINT = "a line ends with a participant id, `operator/NAME` or `scraper/NAME`"
_LINE = re.compile(r"(token|cert)\s+([0-9a-f]{64})\s+(\S+)")


def token_hash(token: str) -> str:
    """Return the hash by which the credentials file lists a token: SHA-256, hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def format_credential(token: str, caller: str) -> str:
    """Return the line of the credentials file for a token of the caller with this id."""
    return f"token {token_hash(token)} {caller}\n"


def check_caller_id(caller: str) -> None:
    """Check the form of a caller id. Raises ``InvalidError``."""
    if caller == RESERVED_ID:
        raise InvalidError("an operator has an id of its own: `operator/NAME`")
    if caller in RESERVED_IDS:
        raise InvalidError(f"id is reserved, so it is no participant's: `{caller}`")
    if not any(form.fullmatch(caller) for form in (PARTICIPANT_ID, OPERATOR_ID, SCRAPER_ID)):
        raise InvalidError(
            f"id is none of a participant's (a-z, 0-9, `.`, `_`, `-`), `operator/NAME` and `scraper/NAME`: `{caller}`"
        )


class UnauthenticatedError(DeniedError):
    """A call has no valid credential. The gRPC status is UNAUTHENTICATED; other denials have PERMISSION_DENIED."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials by kind. Each mapping is: SHA-256 of the credential (hex) → caller id."""

    tokens: Mapping[str, str]
    certificates: Mapping[str, str]


def read_credentials(path: Path) -> Credentials:
    """Read the credentials file.

    Raises:
        StorageError: the file cannot be read.
        InvalidError: the file is not UTF-8, or a line is malformed. The message has the line's number and nothing of
            its text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"credentials file cannot be read: `{path}`: {error.strerror}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        at = content.count(b"\n", 0, error.start) + 1
        # Without a cause: the decoding error would carry the file's content.
        raise InvalidError(f"credentials file has a bad line: `{at}`: not UTF-8") from None
    found: dict[str, dict[str, str]] = {"token": {}, "cert": {}}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#", 1)[0].strip()
        if not bare:
            continue
        match = _LINE.fullmatch(bare)
        if match is None:
            raise InvalidError(f"credentials file has a bad line: `{number}`")
        try:
            check_caller_id(match[3])
        except InvalidError:
            # Without a cause: the error has the text of the line.
            raise InvalidError(f"credentials file has a bad line: `{number}`: {_HINT}") from None
        if found[match[1]].setdefault(match[2], match[3]) != match[3]:
            raise InvalidError(f"credentials file has a bad line: `{number}`: its credential is another caller's too")
    return Credentials(found["token"], found["cert"])


class Authenticator:
    """Finds the caller that a credential belongs to."""

    def __init__(self, credentials: Credentials) -> None:
        # On SIGHUP the daemon replaces the value by assignment. Any thread may read it.
        self.credentials = credentials

    def authenticate(self, metadata: Iterable[tuple[str, str | bytes]], certificate: bytes | None) -> str:
        """Return the id of the caller; empty: the call has no known credential."""
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
                return self.credentials.tokens.get(token_hash(value[7:]), "")
        if certificate is not None:
            return self.credentials.certificates.get(_certificate_hash(certificate), "")
        return ""


@lru_cache(maxsize=1024)
def _certificate_hash(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest()
