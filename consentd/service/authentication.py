"""Determine the caller of a call: a participant, an operator or a scraper by a credential."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consentd.service.auth import UnauthenticatedError
from consentd.service.context import Person
from consentd.service.credentials import Credentials


class PresentedCall(Protocol):
    """What a call shows of its caller.

    Attributes:
        method: the path of the RPC, ``/package.Service/Method``.
        metadata: the headers.
    """

    method: bytes
    metadata: Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a call.

    Attributes:
        id: participant id, ``operator/NAME``, ``scraper/NAME`` or ``subject/HEX``; empty: the caller is not known.
        person: the caller as a person; None: the caller is no person.
        fault: why the caller is not known, if the credential itself shows it.
    """

    id: str
    person: Person | None = None
    fault: UnauthenticatedError | None = field(default=None, compare=False)


class Authentication:
    """Finds the caller of a call. Any thread may use it."""

    def __init__(self, credentials: Credentials, named: Callable[[bytes], str]) -> None:
        """Find callers by *credentials*, and by *named*: it returns the participant that a certificate (PEM) names.

        *named* returns an empty text if the certificate names none, and raises UnauthenticatedError if it names
        several.
        """
        self._credentials, self._named = credentials, named

    def authenticate(self, call: PresentedCall, certificate: bytes | None, *, is_new: bool = True) -> Caller:
        """Return the caller. *certificate*: the client's, PEM. *is_new*: the call begins now; else it began before."""
        try:
            return Caller(self._credentials.authenticate(call.metadata, certificate, self._named))
        except UnauthenticatedError as error:
            return Caller("", fault=error)

    def refusal(self, call: PresentedCall, certificate: bytes | None, caller: Caller) -> UnauthenticatedError:
        """Return the error of a call whose *caller* is not known."""
        return caller.fault or self._credentials.refusal(call.metadata, certificate)
