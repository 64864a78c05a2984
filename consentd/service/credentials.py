"""The credentials that a daemon accepts: those of the credentials file, and those that operators issue by RPC.

**Two files, each with one writer.** People write *the credentials file* (``callers.credentials_file``), with an editor,
``consentd keygen`` and ``consentd credential add --config``. The daemon reads it at the start and on SIGHUP. The daemon
alone writes *the issued file* (``data_dir/issued-credentials``), which holds what ``AddCredential`` added, what
``RevokeCredential`` revoked, lines of the credentials file included, and the days of last use. So neither writer can
lose a line of the other, and no edit of the credentials file brings back what was revoked. Nobody else writes the
issued file meanwhile, because a daemon has the lock of its data directory.

If both files have a credential, the line counts that is revoked, or else that which ends first.

Whoever can write one of the files can add any credential, so they are trusted. If the credentials file is lost, a
running daemon keeps what it has read, and the next start fails. If the issued file is lost, what it held is unknown:
issued credentials are refused, and revoked lines of the credentials file are accepted again.
"""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from consentd.clock import Clock
from consentd.core.pruned import DAY_MS
from consentd.errors import (
    AlreadyExistsError,
    ConsentdError,
    InvalidError,
    NotFoundError,
    PreconditionError,
    StorageError,
)  # fmt: skip
from consentd.files import read_file_if_exists, write_file
from consentd.service.auth import (
    NO_CREDENTIAL,
    Credential,
    CredentialKind,
    CredentialLines,
    Key,
    UnauthenticatedError,
    check_new,
    format_lines,
    id_of_request,
    make_token,
    parse_lines,
    read_credentials,
    token_hash,
)  # fmt: skip
from consentd.service.known_credentials import FileChange, Metadata, bearer, compare, merge, pem_hash
from consentd.service.operator_roles import NO_ROLES, OperatorRole, Roles

log = logging.getLogger(__name__)

MAX_ISSUED = 10_000
"""Most lines of the issued file. If there would be more, those that ended first are forgotten."""

FLUSH_S = 60.0
"""How long the days of last use may wait to be written."""

_HEADER = "# consentd writes this file while it runs. Do not edit it: use `consentd credential`.\n"


class Identity(NamedTuple):
    """Whose a credential is.

    Attributes:
        caller: the caller's id; empty: the call has no valid credential.
        roles: the roles of the credential, if it is an operator's.
    """

    caller: str
    roles: Roles = NO_ROLES


_NOBODY = Identity("")

State = Callable[[Credential], None]


StateChange = Callable[[FileChange], None]


def _nowhere(credential: Credential) -> None:
    """State nothing, as for a daemon without a ledger."""


def write_later(flush: Callable[[], None]) -> None:
    """Call *flush* after ``FLUSH_S``, on a thread of its own. If there is no thread now, a later use tries again."""
    timer = threading.Timer(FLUSH_S, flush)
    timer.daemon = True
    timer.start()


class Credentials:
    """Finds the caller of a credential; adds, lists and revokes credentials. Any thread may use it.

    ``_lock`` guards the files and all attributes but ``_known``, which is replaced by assignment, and ``_used``.
    ``authenticate`` takes no lock.
    """

    def __init__(
        self, path: Path, issued_path: Path, *, clock: Clock, has_certificates: bool,
        later: Callable[[Callable[[], None]], None] = write_later,
    ) -> None:  # fmt: skip
        """Read both files.

        Args:
            has_certificates: whether clients can show certificates, so that those of operators count.
            later: calls its argument later, to write the days of last use.

        Raises:
            StorageError, InvalidError: as ``read_credentials``.
        """
        self._path, self._issued_path = path, issued_path
        self._clock, self._has_certificates, self._later = clock, has_certificates, later
        self._lock = threading.Lock()
        self._listed = read_credentials(path).credentials
        content = read_file_if_exists(issued_path, name="credentials file")
        issued = CredentialLines({}, {}) if content is None else parse_lines(content, issued_path)
        self._issued = dict(issued.credentials)
        self._is_unstored = False  # the last write of a revocation failed
        self._is_closed = False
        # Credential id → number of the day. Any thread adds to it, each time in one step.
        self._used = dict(issued.used)
        self._is_flush_due = False
        self._known = merge(self._listed, self._issued)

    # -- calls ------------------------------------------------------------------------------------------------

    def authenticate(
        self, metadata: Metadata, certificate: bytes | None, named: Callable[[bytes], str] = lambda _: ""
    ) -> Identity:
        """Return whose credential a call has.

        A token counts before a certificate, and a line for this very certificate before the names in it: one that was
        revoked, or has ended, is refused whatever it names.

        Args:
            certificate: the client's, PEM; None: it showed none.
            named: returns the participant that a certificate names; empty: none. What it raises is raised.
        """
        found, now_ms = self._find(metadata, certificate), self._clock.wall_ms()
        if found is None and certificate is not None and bearer(metadata) is None:
            return Identity(named(certificate))
        if found is None or not found.is_valid(now_ms):
            return _NOBODY
        day = now_ms // DAY_MS
        if self._used.get(found.id, 0) < day:
            self._used[found.id] = day
            self._flush_later()
        return Identity(found.caller, found.roles)

    def refusal(self, metadata: Metadata, certificate: bytes | None) -> UnauthenticatedError:
        """Return the error of a call that ``authenticate`` found no caller for."""
        found = self._find(metadata, certificate)
        if found is not None and not found.revoked_ms and found.is_expired(self._clock.wall_ms()):
            what = "credential of the call has expired: an operator adds a new one"
            return UnauthenticatedError(what, "CREDENTIAL_EXPIRED")
        return UnauthenticatedError(NO_CREDENTIAL, "UNAUTHENTICATED")

    def _find(self, metadata: Metadata, certificate: bytes | None) -> Credential | None:
        token = bearer(metadata)
        if token is not None:
            return self._known.tokens.get(token_hash(token))
        if certificate is not None:
            return self._known.certificates.get(pem_hash(certificate))
        return None

    def next_end_s(self) -> float:
        """Return when the next credential ends that is valid now, Unix time in seconds; NaN: none ends."""
        now_ms = self._clock.wall_ms()
        ends = (one.end_ms for one in self._known.by_id.values() if one.end_ms and one.is_valid(now_ms))
        return min(ends, default=math.nan) / 1000

    # -- changes ----------------------------------------------------------------------------------------------

    def add(
        self, caller: str, *, operator: str, request_id: bytes, certificate_hash: bytes = b"", end_ms: int = 0,
        label: str = "", roles: Roles = NO_ROLES, state: State = _nowhere,
    ) -> tuple[Credential, str]:  # fmt: skip
        """Issue a credential; return it, and its token, which is empty for a certificate.

        A repeat (same *operator*, *request_id* and content) returns the same credential with a new token.

        Args:
            certificate_hash: SHA-256 of the certificate's DER; empty: make a token.
            end_ms: from when it is refused, UTC milliseconds; 0: never.
            state: states the credential in the ledger, before it is accepted. What it raises is raised, and nothing is
                added.

        Raises:
            InvalidError: an argument is malformed, or *end_ms* has passed.
            AlreadyExistsError: the certificate is listed already.
            PreconditionError: *request_id* was used for something else, or there are too many credentials.
            StorageError: the file cannot be written; nothing is added.
        """
        now_ms = self._clock.wall_ms()
        check_new(caller, certificate_hash, end_ms=end_ms, label=label, now_ms=now_ms, roles=roles)
        if len(request_id) != 16:
            raise InvalidError(f"request_id is not 16 bytes: `{len(request_id)}`", "INVALID_REQUEST_ID")
        token = "" if certificate_hash else make_token()
        one = Credential(
            kind=CredentialKind.CERTIFICATE if certificate_hash else CredentialKind.TOKEN,
            hash=certificate_hash.hex() or token_hash(token), caller=caller, id=id_of_request(operator, request_id),
            created_ms=now_ms, created_by=operator, end_ms=end_ms, label=label, roles=roles,
        )  # fmt: skip
        with self._lock:
            before = self._known.by_id.get(one.id)
            if before is not None:
                self._check_repeat(before, one)
                if certificate_hash:
                    return before, ""
                one = replace(one, created_ms=before.created_ms)
            elif one.key in self._issued or one.key in self._listed:
                raise AlreadyExistsError("certificate is listed already; one that was revoked cannot be added again")
            issued = {key: other for key, other in self._issued.items() if other.id != one.id}
            issued = self._without_oldest({**issued, one.key: one})
            if len(issued) > MAX_ISSUED:
                text = f"there are too many credentials: `{MAX_ISSUED}`: revoke some first"
                raise PreconditionError(text, "LIMIT_REACHED")
            if before is None:
                state(one)
            self._write(issued)
        return one, token

    def _check_repeat(self, before: Credential, one: Credential) -> None:
        """Check that a request that added *before* may be repeated. Raises ``PreconditionError``."""
        is_same = (before.kind, before.caller, before.end_ms, before.label, before.roles) == (
            one.kind, one.caller, one.end_ms, one.label, one.roles
        ) and (one.kind is CredentialKind.TOKEN or before.hash == one.hash)  # fmt: skip
        if not is_same or before.revoked_ms or before.id in self._used:
            raise PreconditionError(
                "request_id was used for another credential, or for one that was used or revoked since",
                "REQUEST_ID_REUSED",
            )

    def revoke(self, credential_id: str, *, operator: str, state: State = _nowhere) -> Credential:
        """Revoke a credential, with effect for every call that begins from now on; return it.

        *state* states the revocation in the ledger, before it is stored. But a stolen credential must end also if the
        ledger cannot be written: then the revocation is stored, what *state* raises is raised, and a repeat states it.

        Raises:
            NotFoundError: there is no such credential.
            PreconditionError: no other operator could add a credential.
            StorageError: the file cannot be written. The credential is refused until the daemon stops.
        """
        with self._lock:
            found, now_ms = self._known.by_id.get(credential_id), self._clock.wall_ms()
            if found is None:
                raise NotFoundError("no such credential: ListCredentials has the ids (`consentd credential list`)")
            if not found.revoked_ms:
                self._check_administrator_left(found, now_ms)
                found = replace(found, revoked_ms=now_ms, revoked_by=operator)
                self._issued[found.key] = found
                self._known = merge(self._listed, self._issued)
                self._is_unstored = True
            unstated: ConsentdError | None = None
            try:
                if found.revoked_by:  # else a line of the credentials file says so
                    state(found)  # also by a repeat, which finds the entry of the first call, if there is one
            except ConsentdError as error:
                unstated = error
            if self._is_unstored:
                try:
                    self._write(self._issued)
                except StorageError as error:
                    text = "revocation is not stored, and ends when the daemon stops; repeat the call"
                    raise StorageError(f"{text}: {error}") from error
            if unstated is not None:
                raise unstated
            return found

    def _check_administrator_left(self, revoked: Credential, now_ms: int) -> None:
        """Check that some other credential has the role to add credentials.

        Other roles may end with their last credential: to end a stolen one must not depend on who can add another.
        """
        if not (OperatorRole.ADMINISTER in revoked.roles and revoked.is_valid(now_ms)):
            return
        kinds = {CredentialKind.TOKEN, CredentialKind.CERTIFICATE} if self._has_certificates else {CredentialKind.TOKEN}
        others = (one for one in self._known.by_id.values() if one.id != revoked.id and one.kind in kinds)
        if not any(OperatorRole.ADMINISTER in one.roles and one.is_valid(now_ms) for one in others):
            text = "credential is the last one with the role ADMINISTER; add another first"
            raise PreconditionError(text, "LAST_OPERATOR_CREDENTIAL")

    def used_day(self, credential_id: str) -> int:
        """Return the number of the day (UTC, since 1970) on which a credential was last used; 0: none is known."""
        return self._used.get(credential_id, 0)

    def all(self) -> list[tuple[Credential, int]]:
        """Return all credentials in the order of ids, each with its ``used_day``."""
        known = self._known.by_id
        return [(known[each], self.used_day(each)) for each in sorted(known)]

    def that_decide(self) -> list[Credential]:
        """Return the credentials by which calls are accepted or refused.

        Those are the tokens that are valid now, and all certificates: one that was revoked, or has ended, is refused
        though it may name a participant.
        """
        known, now_ms = self._known, self._clock.wall_ms()
        return [*(one for one in known.tokens.values() if one.is_valid(now_ms)), *known.certificates.values()]

    def reload(self, state: StateChange = lambda _: None) -> tuple[int, int]:
        """Read the credentials file again; return the numbers of tokens and certificates that are valid now.

        *state* states in the ledger what is other than before, before it has effect. But a stolen credential must end
        also if the ledger cannot be written: then what ends has effect and nothing else, and what *state* raises is
        raised.

        Raises as ``read_credentials``, and changes nothing then.
        """
        with self._lock:
            listed, before = read_credentials(self._path).credentials, self._listed
            change, unstated = compare(before, listed), None
            if any(change):
                try:
                    state(change)
                except ConsentdError as error:
                    unstated = error
                    listed = {
                        key: listed[key] if listed[key].revoked_ms else old
                        for key, old in before.items() if key in listed
                    }  # fmt: skip
            self._known = known = merge(listed, self._issued)
            self._listed = listed
        if unstated is not None:
            raise unstated
        now_ms = self._clock.wall_ms()
        tokens, certificates = (
            sum(one.is_valid(now_ms) for one in kind.values()) for kind in (known.tokens, known.certificates)
        )
        return tokens, certificates

    def begin(self) -> None:
        """Make the issued file, if there is none, so that its absence shows later that it was lost."""
        if not self._issued_path.exists():
            self.flush()

    def close(self) -> None:
        """Write the days of last use, and write nothing more: another daemon may use the files from now on."""
        if self._is_flush_due:
            self.flush()
        with self._lock:
            self._is_closed = True

    # -- the issued file --------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the days of last use. A failure is logged: the days are then written with the next change."""
        self._is_flush_due = False
        with self._lock:
            if self._is_closed:
                return
            try:
                self._write(self._issued)
            except StorageError as error:
                log.warning("days of last use are not stored: %s", error)

    def _flush_later(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            try:
                self._later(self.flush)
            except RuntimeError:  # no thread can be started now
                self._is_flush_due = False

    def _write(self, issued: dict[Key, Credential]) -> None:
        """Store *issued*, then accept what it has. The caller holds the lock. Raises ``StorageError``."""
        if self._is_closed:
            raise StorageError("daemon is draining", "NOT_SERVING")
        known = merge(self._listed, issued)
        used = {each: day for each, day in self._used.copy().items() if each in known.by_id}
        text = _HEADER + format_lines(CredentialLines(issued, used))
        write_file(self._issued_path, text.encode(), is_private=True, name="credentials file")
        self._issued, self._known, self._is_unstored = issued, known, False

    def _without_oldest(self, issued: dict[Key, Credential]) -> dict[Key, Credential]:
        """Return *issued* without those that ended first, as far as there are more than ``MAX_ISSUED``.

        INVARIANT: the revocation of a line that the credentials file still has is not forgotten.
        """
        surplus = len(issued) - MAX_ISSUED
        if surplus <= 0:
            return issued
        now_ms = self._clock.wall_ms()
        ended = [one for one in issued.values() if not one.is_valid(now_ms) and one.key not in self._listed]
        ended.sort(key=lambda one: one.revoked_ms or one.end_ms)
        forgotten = {one.key for one in ended[:surplus]}
        return {key: one for key, one in issued.items() if key not in forgotten}
