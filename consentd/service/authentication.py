"""Determine the caller of a call: by a credential, or a person by an ID token or by a key of their own.

A caller is known by one thing only. A call with a bearer token is the token's caller, whatever certificate its
connection has. A call with two tokens, or with a token and a call signature, is refused. So is one with a header
`authorization` of another form: otherwise a call that a gateway passes on would be the gateway's.
Source: proto/callers.md.

A person's caller id is made from the person's tag, and before the enrolment from the keyed hash of the identifier. So
logs may have it, and calls are counted by it, and it does not show who the person is.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consentd.clock import Clock
from consentd.core import call_signature
from consentd.core.call_signature import decode_call_signature, verify_call_signature
from consentd.core.identifier import check_identifier
from consentd.core.kinds import Owner
from consentd.errors import InvalidError, MalformedError, SignatureError
from consentd.ledger.vault import Vault
from consentd.sequencer.commands.callers import person_id, unenrolled_id
from consentd.service.auth import UnauthenticatedError
from consentd.service.context import Person
from consentd.service.credentials import Credentials
from consentd.service.id_tokens import IdTokens, Login, is_id_token
from consentd.service.operator_roles import NO_ROLES, Roles
from consentd.table.table import Table

Metadata = Sequence[tuple[str, str | bytes]]


class PresentedCall(Protocol):
    """What a call shows of its caller.

    Attributes:
        method: the path of the RPC, ``/package.Service/Method``.
    """

    method: bytes
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a call.

    Attributes:
        id: participant id, ``operator/NAME``, ``scraper/NAME`` or ``subject/HEX``; empty: the caller is not known.
        person: the caller as a person; None: the caller is no person.
        roles: the roles of the credential, if the caller is an operator.
        fault: why the caller is not known, if the credential itself shows it.
    """

    id: str
    person: Person | None = None
    roles: Roles = NO_ROLES
    fault: UnauthenticatedError | None = field(default=None, compare=False)


NOBODY = Caller("")
BEARER = "Bearer "


class Authentication:
    """Finds the caller of a call. Any thread may use it."""

    def __init__(
        self, credentials: Credentials, named: Callable[[bytes], str], tokens: IdTokens, *, table: Table, vault: Vault,
        clock: Clock, origin: str,
    ) -> None:  # fmt: skip
        """Find callers by *credentials*, by *named*, which returns the participant that a certificate (PEM) names, or
        else by *tokens* and by call signatures.

        *named* returns an empty text if the certificate names none, and raises UnauthenticatedError if it names
        several.
        """
        self._credentials, self._named, self._tokens = credentials, named, tokens
        self._table, self._vault, self._clock, self._origin = table, vault, clock, origin

    def authenticate(self, call: PresentedCall, certificate: bytes | None, *, is_new: bool = True) -> Caller:
        """Return the caller. *certificate*: the client's, PEM. *is_new*: the call begins now; else it began before.

        Raises:
            StorageError: (NOT_SERVING) the keys of an ID provider are not read yet.
            OverloadedError: (TOO_MANY_CALLS) too many tokens and call signatures are refused now.
        """
        tokens = [value for key, value in call.metadata if key == "authorization"]
        signatures = [value for key, value in call.metadata if key == call_signature.HEADER]
        try:
            if len(tokens) + len(signatures) > 1:
                raise UnauthenticatedError("call has more than one token or call signature: send one")
            if signatures:
                return self._by_key(call, signatures[0], is_new=is_new)
            token = _read_bearer(tokens[0]) if tokens else ""
            found = self._credentials.authenticate(call.metadata, certificate, self._named)
            if not found.caller and is_id_token(token):
                return self._by_login(self._tokens.verify(token, now_ms=self._clock.wall_ms()))
        except UnauthenticatedError as error:
            return Caller("", fault=error)
        return Caller(found.caller, roles=found.roles) if found.caller else NOBODY

    def refusal(self, call: PresentedCall, certificate: bytes | None, caller: Caller) -> UnauthenticatedError:
        """Return the error of a call whose caller is not known."""
        return caller.fault or self._credentials.refusal(call.metadata, certificate)

    def _by_login(self, login: Login) -> Caller:
        """Return the person who has logged in."""
        provider = login.provider
        try:
            check_identifier(provider.scheme, login.value)
        except InvalidError as error:  # without the text, which belongs to identifiers in requests
            what = "token of the login names the person in a form that is no identifier's"
            raise UnauthenticatedError(what, "INVALID_ID_TOKEN") from error
        identifier_hash = self._vault.identifier_hash(provider.scheme, login.value)
        with self._table.read() as snapshot:
            tag = snapshot.tag_of(identifier_hash)
        person = Person(
            tag=tag or b"", identifier_hash=identifier_hash, participant=provider.participant, issuer=provider.issuer,
            acr=login.acr, amr=login.amr, auth_time_ms=login.auth_time_ms,
            may_read=login.level >= provider.least_level, may_write=login.level >= provider.write_level,
        )  # fmt: skip
        return Caller(unenrolled_id(identifier_hash) if tag is None else person_id(tag), person)

    def _by_key(self, call: PresentedCall, value: str | bytes, *, is_new: bool) -> Caller:
        """Return the person whose key signed the call."""
        try:
            found = decode_call_signature(value if isinstance(value, bytes) else value.encode())
            if is_new:
                self._tokens.refusals.check(self._clock.wall_ms())
                method = call.method.decode("utf-8", "replace")
                verify_call_signature(found, origin=self._origin, method=method, now_ms=self._clock.wall_ms())
        except (MalformedError, SignatureError) as error:
            self._tokens.refusals.add()
            raise UnauthenticatedError(f"call signature is not accepted: {error}", "INVALID_CALL_SIGNATURE") from error
        # The key is looked up after the signature, so that nobody finds out whether somebody else's key is in force.
        with self._table.read() as snapshot:
            owner = snapshot.key_owner(found.key)
        if owner is None or owner.owner is not Owner.SUBJECT or not isinstance(owner.tag_or_name, bytes):
            what = "call signature is by no key of a person that is in force"
            raise UnauthenticatedError(what, "INVALID_CALL_SIGNATURE")
        tag = owner.tag_or_name
        return Caller(person_id(tag), Person(tag=tag, message_hash=found.message_hash))


def _read_bearer(value: str | bytes) -> str:
    """Return the token of an ``authorization`` header. Raises ``UnauthenticatedError`` if the header has none."""
    if not isinstance(value, str) or not value.startswith(BEARER):
        raise UnauthenticatedError("header `authorization` is not `Bearer`, a space and a token")
    return value[len(BEARER):]


def check_message(person: Person | None, message: bytes) -> None:
    """Check that a call signature, if there is one, is of this request message. Raises ``UnauthenticatedError``."""
    signed = b"" if person is None else person.message_hash
    if signed and hashlib.sha256(message).digest() != signed:
        raise UnauthenticatedError("call signature is of another message", "INVALID_CALL_SIGNATURE")
