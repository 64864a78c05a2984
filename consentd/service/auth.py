"""The lines of credentials, and the ids of callers.

A credential is a bearer token or a client certificate. It has a line in a file; ``#`` begins a comment::

    token <SHA-256 of the token, hex> <caller id> [<name>=<value> …]
    cert  <SHA-256 of the certificate's DER, hex> <caller id> [<name>=<value> …]
    used  <credential id> <date>

A line ``used`` says on which day (UTC) a credential was last used. The names are: ``expires``, an instant as in
2027-01-31T09:00:00Z, or a date, which means the day's end in Korea; ``created``, ``revoked``, instants; ``by``,
``revoked_by``, operators; ``roles``, those of an operator, with commas between them; ``label``, a note, and ``id``,
where special characters are written as in a URL (``%20``). An operator's line states at least one role, and other lines
state none.

The files hold hashes only, so a person who can read one gets no credential from it. ``credentials`` says which files
there are, and who writes them.

A caller id is a participant id, ``operator/NAME`` for each person or program that operates the daemon, or
``scraper/NAME`` for a program that reads all metrics over HTTP and may call nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote

from consentd import limits
from consentd.core.pruned import DAY_MS
from consentd.errors import DeniedError, InvalidError, StorageError
from consentd.files import read_file_if_exists
from consentd.policy import dates
from consentd.sequencer.commands.callers import (
    OPERATOR_ID,
    PARTICIPANT_ID,
    RESERVED_ID,
    RESERVED_IDS,
    SCRAPER_ID,
    is_operator,
)
from consentd.service.operator_roles import ALL_ROLES, NO_ROLES, Roles, format_roles, parse_roles

_HINT = "a line ends with a participant id, `operator/NAME` or `scraper/NAME`"
_LINE = re.compile(r"(token|cert)\s+([0-9a-f]{64})\s+(\S+)((?:\s+[a-z_]+=\S*)*)")
_USED = re.compile(r"used\s+([0-9a-f]{32})\s+([0-9]{4}-[0-9]{2}-[0-9]{2})")
_NAMES = frozenset({"id", "created", "by", "expires", "roles", "label", "revoked", "revoked_by"})
_ID = re.compile(r"[0-9a-f]{32}")
MAX_LABEL = limits.CREDENTIAL_LABEL_CHARACTERS


NO_CREDENTIAL = (
    "call has no credential that is known here: send a token, a client certificate whose name is registered, or, as a "
    "person, an ID token or a signature"
)


class UnauthenticatedError(DeniedError, reason="UNAUTHENTICATED"):
    """A call has no valid credential. The gRPC status is UNAUTHENTICATED; other denials have PERMISSION_DENIED."""


class CredentialKind(StrEnum):
    """By what a caller is known. The values are those of the files' lines."""

    TOKEN = "token"  # noqa: S105
    CERTIFICATE = "cert"


Key: TypeAlias = tuple[CredentialKind, str]
"""A kind, and the SHA-256 of the token or of the certificate's DER, hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A line of a file of credentials.

    Attributes:
        hash: SHA-256 of the token or of the certificate's DER, hex.
        id: 32 hex digits; two credentials have two ids.
        created_ms: when it was added, UTC milliseconds; 0: its line does not say.
        created_by: the operator who added it; empty: its line does not say.
        end_ms: from when it is refused, UTC milliseconds; 0: never.
        revoked_ms, revoked_by: when and by whom it was revoked; 0 and empty: it was not.
        roles: those of an operator; none for other callers.
    """

    kind: CredentialKind
    hash: str = field(repr=False)
    caller: str
    id: str
    created_ms: int = 0
    created_by: str = ""
    end_ms: int = 0
    label: str = ""
    revoked_ms: int = 0
    revoked_by: str = ""
    roles: Roles = NO_ROLES

    @property
    def key(self) -> Key:
        """By what the credential is found."""
        return self.kind, self.hash

    def is_valid(self, now_ms: int) -> bool:
        """Return whether calls with this credential are accepted at *now_ms*."""
        return not self.revoked_ms and not self.is_expired(now_ms)

    def is_expired(self, now_ms: int) -> bool:
        """Return whether the credential has ended by itself at *now_ms*."""
        return bool(self.end_ms) and now_ms >= self.end_ms


@dataclass(frozen=True, slots=True)
class CredentialLines:
    """What a file holds.

    Attributes:
        credentials: the credentials by key, in the order of the lines.
        used: credential id → number of the day since 1970 (UTC) on which it was last used.
    """

    credentials: Mapping[Key, Credential]
    used: Mapping[str, int]


# -- ids ------------------------------------------------------------------------------------------------------


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


def make_token() -> str:
    """Return a new bearer token: 256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return the hash by which the files list a token: SHA-256, hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def id_of_line(kind: CredentialKind, hash_: str) -> str:
    """Return the id of a credential whose line states none. The hash cannot be computed from it."""
    return hashlib.sha256(f"consentd/credential/v1\0{kind} {hash_}".encode()).hexdigest()[:32]


def id_of_request(operator: str, request_id: bytes) -> str:
    """Return the id of the credential that a request adds. So a repeat, even after a restart, finds it."""
    asked = b"".join((b"consentd/credential-request/v1\0", operator.encode(), b"\0", request_id))
    return hashlib.sha256(asked).hexdigest()[:32]


# -- lines ----------------------------------------------------------------------------------------------------


def format_credential(token: str, caller: str) -> str:
    """Return the line of the credentials file for a token of the caller with this id; an operator has all roles."""
    roles = f" roles={format_roles(ALL_ROLES)}" if is_operator(caller) else ""
    return f"token {token_hash(token)} {caller}{roles}\n"


def new_line(
    caller: str, *, token: str, certificate_hash: bytes, end_ms: int, label: str, now_ms: int, roles: Roles = NO_ROLES
) -> str:
    """Return a new line of the credentials file, for a token or for a certificate. Raises as ``check_new``."""
    check_new(caller, certificate_hash, end_ms=end_ms, label=label, now_ms=now_ms, roles=roles)
    kind = CredentialKind.CERTIFICATE if certificate_hash else CredentialKind.TOKEN
    hash_ = certificate_hash.hex() or token_hash(token)
    return _format_line(
        Credential(
            kind=kind, hash=hash_, caller=caller, id="", created_ms=now_ms, end_ms=end_ms, label=label, roles=roles
        )
    )  # fmt: skip


def check_new(
    caller: str, certificate_hash: bytes, *, end_ms: int, label: str, now_ms: int, roles: Roles = NO_ROLES
) -> None:
    """Check what a new credential is made of.

    Raises:
        InvalidError: a part is malformed, *end_ms* has passed, an operator has no role, or another caller has one.
    """
    check_caller_id(caller)
    if is_operator(caller) and not roles:
        raise InvalidError(f"credential of an operator has no role: give `{caller}` at least one (`--role`)")
    if roles and not is_operator(caller):
        raise InvalidError(f"roles are for operators alone: `{caller}` is not written operator/NAME, so give no role")
    if len(certificate_hash) not in (0, 32):
        raise InvalidError("certificate_sha256 is not 32 bytes")
    if not is_label(label):
        raise InvalidError(f"label is not at most {MAX_LABEL} printable characters")
    if end_ms and not (end_ms > now_ms and _is_writable(end_ms)):
        raise InvalidError(f"expire_time_ms is not a time to come: `{end_ms}`")


def format_lines(lines: CredentialLines) -> str:
    """Return the text of a file with these lines."""
    credentials = (_format_line(one) for one in lines.credentials.values())
    used = (f"used {one} {date.fromordinal(_EPOCH_DAY + day)}\n" for one, day in lines.used.items())
    return "".join((*credentials, *used))


_EPOCH_DAY = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=1 << 14)  # a file is written whole, and mostly one of its lines is new
def _format_line(one: Credential) -> str:
    named = {
        "id": one.id, "created": _format_instant(one.created_ms), "by": one.created_by,
        "expires": _format_instant(one.end_ms), "roles": format_roles(one.roles), "label": quote(one.label, safe=""),
        "revoked": _format_instant(one.revoked_ms), "revoked_by": one.revoked_by,
    }  # fmt: skip
    pairs = [f"{name}={value}" for name, value in named.items() if value]
    return " ".join((one.kind, one.hash, one.caller, *pairs)) + "\n"


def _is_writable(time_ms: int) -> bool:
    """Return whether an instant is before the last day that a line can state."""
    return dates.is_instant(time_ms + DAY_MS)


def _format_instant(time_ms: int) -> str:
    if not time_ms:
        return ""
    moment = datetime.fromtimestamp(time_ms // 1000, UTC).replace(microsecond=time_ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_credentials(path: Path) -> CredentialLines:
    """Read a file of credentials. Raises as ``parse_lines``, and ``StorageError`` if the file cannot be read."""
    content = read_file_if_exists(path, name="credentials file")
    if content is None:
        raise StorageError(f"credentials file cannot be read: `{path}`: No such file or directory")
    return parse_lines(content, path)


def parse_lines(content: bytes, path: Path) -> CredentialLines:
    """Parse a file of credentials.

    Raises:
        InvalidError: the file is not UTF-8, or a line is malformed. The message names the file and the line's number,
            and has nothing of the line's text.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        at = content.count(b"\n", 0, error.start) + 1
        # Without a cause: the decoding error would carry the file's content.
        raise InvalidError(f"{_BAD}: `{at}` of `{path}`: not UTF-8") from None
    found: dict[Key, Credential] = {}
    keys: dict[str, Key] = {}  # by id
    used: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#", 1)[0].strip()
        try:
            day = _USED.fullmatch(bare)
            if day is not None:
                used[day[1]] = date.fromisoformat(day[2]).toordinal() - _EPOCH_DAY
            elif bare:
                one = _parse_line(bare)
                if keys.setdefault(one.id, one.key) != one.key:
                    raise InvalidError(": its id is another credential's too")
                found[one.key] = first_ending(found.get(one.key, one), one)
        except InvalidError as error:
            # Without a cause: an error of the line's parts may have their text.
            raise InvalidError(f"{_BAD}: `{number}` of `{path}`{error}") from None
        except ValueError:  # of a date that the calendar does not have, or of a label that is no text
            raise InvalidError(f"{_BAD}: `{number}` of `{path}`") from None
    return CredentialLines(found, used)


_BAD = "credentials file has a bad line"


def _parse_line(bare: str) -> Credential:
    """Parse a line. Raises ``InvalidError``, whose text is what to say after the line's number."""
    match = _LINE.fullmatch(bare)
    if match is None:
        raise InvalidError("")
    kind, hash_, caller = CredentialKind(match[1]), match[2], match[3]
    _check_caller(caller, _HINT)
    pairs = [pair.split("=", 1) for pair in match[4].split()]
    named = dict(pairs)
    if len(named) < len(pairs) or not named.keys() <= _NAMES:
        raise InvalidError(": a name is unknown, or there twice")
    for operator in ("by", "revoked_by"):
        if operator in named:
            _check_caller(named[operator], f"`{operator}` is an operator")
    credential_id = named.get("id", id_of_line(kind, hash_))
    label = unquote(named.get("label", ""), errors="strict")
    if not _ID.fullmatch(credential_id) or not is_label(label):
        raise InvalidError(": an id is 32 hex digits, a label at most 100 printable characters")
    return Credential(
        kind=kind, hash=hash_, caller=caller, id=credential_id, label=label,
        created_ms=_parse_time(named, "created"), created_by=named.get("by", ""),
        end_ms=_parse_time(named, "expires"),
        revoked_ms=_parse_time(named, "revoked"), revoked_by=named.get("revoked_by", ""),
        roles=_parse_roles(named, caller),
    )  # fmt: skip


def _check_caller(caller: str, hint: str) -> None:
    try:
        check_caller_id(caller)
    except InvalidError:
        raise InvalidError(f": {hint}") from None


def _parse_roles(named: Mapping[str, str], caller: str) -> Roles:
    try:
        roles = parse_roles(named["roles"]) if "roles" in named else NO_ROLES
    except InvalidError as error:
        raise InvalidError(f": {error}") from None
    if bool(roles) is not is_operator(caller):
        raise InvalidError(f": an operator's line states roles, as in `roles={format_roles(ALL_ROLES)}`; others do not")
    return roles


def is_label(text: str) -> bool:
    """Return whether *text* may be the label of a credential."""
    return len(text) <= MAX_LABEL and text.isprintable()


def _parse_time(named: Mapping[str, str], name: str) -> int:
    """Return a time in UTC milliseconds; 0 if the line does not state it."""
    if name not in named:
        return 0
    text = named[name]
    try:
        time_ms = dates.end_of_date_ms(text) if dates.is_date(text) else dates.parse_instant_ms(text)
    except InvalidError:
        time_ms = 0
    if time_ms <= 0 or not _is_writable(time_ms):
        raise InvalidError(f": `{name}` is neither a date nor an instant, as in 2027-01-31T09:00:00Z")
    return time_ms


def first_ending(one: Credential, other: Credential) -> Credential:
    """Return which of two lines about one credential counts: one that is revoked, or else that which ends first.

    Unless it is revoked, it has the roles that both lines state.

    Raises:
        InvalidError: they are of different callers, or have no role in common. The text is what to say after the line's
            number.
    """
    if one.caller != other.caller:
        raise InvalidError(": its credential is another caller's too")
    if bool(one.revoked_ms) != bool(other.revoked_ms):
        return one if one.revoked_ms else other
    roles = one.roles & other.roles
    if not roles and one.roles:
        raise InvalidError(": its credential has other roles too")
    return replace(min(one, other, key=lambda each: each.end_ms or _NEVER_MS), roles=roles)


_NEVER_MS = 10**6 * 365 * DAY_MS
