"""What a handler and the server that runs it know of each other: the call's context, its status, and waits."""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc

from consentd.service.auth import UnauthenticatedError
from consentd.service.operator_roles import Roles

A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A caller that is a person, as the call has shown it.

    Attributes:
        tag: the id of the person's chain; empty: the person is not enrolled.
        identifier_hash: the keyed hash of the identifier that an ID token names; empty: a key of the person signed the
            call.
        participant: the participant whose word the identity is; empty: a key of the person signed the call.
        issuer, acr, amr, auth_time_ms: what the ID token says of the login (``st.Authentication``).
        may_read, may_write: whether the login's level of assurance is enough to read, or to write.
        message_hash: SHA-256 of the request message that the person signed; empty: none is signed.
    """

    tag: bytes
    identifier_hash: bytes = b""
    participant: str = ""
    issuer: str = ""
    acr: str = ""
    amr: tuple[str, ...] = ()
    auth_time_ms: int = 0
    may_read: bool = True
    may_write: bool = True
    message_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends: code, message, and trailing metadata."""

    code: grpc.StatusCode
    message: str = ""
    metadata: tuple[tuple[str, bytes], ...] = ()


class Context(Protocol):
    """The call that a handler answers. Any thread may use it.

    Attributes:
        caller: the caller's id: a participant's, ``operator/NAME`` or ``subject/HEX``; empty: the call has no known
            credential.
        person: the caller as a person; None: the caller is no person.
        roles: the roles of the credential, if the caller is an operator.
        fault: why the call's credential is not accepted; None: the caller is known.
    """

    caller: str
    person: Person | None
    roles: Roles
    fault: UnauthenticatedError | None

    def peer(self) -> str:
        """Return the address of the peer as gRPC names it."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None: there is none."""

    def is_active(self) -> bool:
        """Return whether somebody still waits for the answer."""

    def on_cancel(self, run: Callable[[], None]) -> None:
        """Run *run* when the call is cancelled; now, if it was cancelled before. *run* must not wait."""

    def give_way(self) -> None:
        """Let other calls have the processor for a while. A handler of many items calls this often."""

    def is_known(self) -> bool:
        """Return whether the call's credential is still that of its caller: credentials may be removed meanwhile."""

    def begin_wait(self) -> bool:
        """Count the call as one that waits for a state; False: too many calls wait, so this one must not."""

    def begin_replay(self) -> None:
        """Let the call go on, after the next ``NextStep``, in the pool of calls that replay entries.

        Raises:
            OverloadedError: (TOO_MANY_CALLS) too many calls of this caller, or of all, replay entries.
        """


class EndedCallError(Exception):
    """A call ended with an error, which is counted and logged. The server sends *status*."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.code.name)
        self.status = status


class Waiting(Generic[A]):
    """Lets an ``async`` handler wait for a future without a thread: ``await Waiting(future)``.

    The server runs the handler until it waits, and continues it, on a thread of its pool, when the future is done.
    """

    def __init__(self, future: "Future[A]") -> None:
        self._future = future

    def __await__(self) -> "Generator[Future[A], None, A]":
        if not self._future.done():
            yield self._future
        return self._future.result()


class NextStep:
    """Lets an ``async`` handler go on in a new step: ``await NextStep()``. Other callers' steps come in between."""

    def __await__(self) -> "Generator[Future[None], None, None]":
        done: Future[None] = Future()
        done.set_result(None)
        yield done
