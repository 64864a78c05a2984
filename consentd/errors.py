"""Define the errors of consentd. The class of an error shows whose fault it is.

A bug raises ``AssertionError``, which is never caught. A denied access is a ``Decision`` and not an error.

Each error has a *reason*: a stable name from a closed set. The service sends it as ``ErrorInfo.reason``
(``consentd.v1.ErrorReason``), and metrics use it as a label. Messages are lower case, begin with constant text, and
never contain an identifier of a subject.
"""


class ConsentdError(Exception):
    """Base class of all declared errors. Only its subclasses are raised.

    Attributes:
        reason: name in ``consentd.v1.ErrorReason``, without its prefix.
    """

    default_reason = "INTERNAL"

    def __init_subclass__(cls, *, reason: str = "") -> None:
        cls.default_reason = reason or cls.default_reason

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class RequestError(ConsentdError):
    """The caller can change the request, or wait and repeat it. The request has changed nothing."""


class InvalidError(RequestError, reason="INVALID_REQUEST"):
    """The request is malformed or contradicts itself (INVALID_ARGUMENT)."""


class NotFoundError(RequestError, reason="NOT_FOUND"):
    """There is no such thing, or the caller may not see it (NOT_FOUND)."""


class AlreadyExistsError(RequestError, reason="ALREADY_EXISTS"):
    """What the request would make exists already (ALREADY_EXISTS)."""


class PreconditionError(RequestError, reason="WRONG_STATE"):
    """What is recorded does not allow the request (FAILED_PRECONDITION). A repeat is useless until that is changed."""


class AbortedError(RequestError, reason="VERSION_CONFLICT"):
    """The caller relied on a state that is over (ABORTED): read again, decide again, and send a new request."""


class DeniedError(RequestError, reason="CALLER_NOT_ALLOWED"):
    """The caller has no right to this call (PERMISSION_DENIED)."""


class OperationCancelledError(RequestError, reason="OPERATION_CANCELLED"):
    """An operator cancelled an operation (CANCELLED). What it did before stays done."""


class LaterError(RequestError):
    """The same request can succeed later, and nobody has to act meanwhile. Only subclasses are raised.

    Attributes:
        retry_after_ms: when the caller should try again, from now; at least 1 ms.
    """

    def __init__(self, message: str, reason: str | None = None, *, retry_after_ms: int = 1_000) -> None:
        super().__init__(message, reason)
        self.retry_after_ms = retry_after_ms


class OverloadedError(LaterError, reason="OVERLOADED"):
    """Too many requests are waiting, or the caller has sent too many (RESOURCE_EXHAUSTED, with RetryInfo)."""


class NotReachedError(LaterError, reason="REVISION_NOT_REACHED"):
    """The ledger has not reached the state that the request needs (UNAVAILABLE, with RetryInfo)."""


class VerificationError(ConsentdError, reason="INVALID_REQUEST"):
    """Bytes to be verified are bad. No other class is raised for them. If a caller sent them, the request is bad."""


class MalformedError(VerificationError):
    """Bytes or text do not have the expected format."""


class SignatureError(VerificationError):
    """A signature does not verify, or its key was not valid."""


class UnknownKeyError(SignatureError):
    """A signature is by a key that the verifier does not know, so nothing is determined (proto/verdicts.md).

    It is by another log key than the pinned one, or by a key that an entry of a later version may have put in force.
    """


class ProofError(VerificationError):
    """A proof does not prove what it should."""


class StorageError(ConsentdError, reason="STORAGE"):
    """Disk or network failed (UNAVAILABLE). The outcome may be unknown."""


class FileReadError(StorageError):
    """A file that somebody named cannot be read: nothing was sent or changed."""


class FetchError(StorageError):
    """Bytes of another machine did not arrive whole, or are not what was asked for. They prove nothing: try again."""


class CorruptionError(ConsentdError, reason="CORRUPTION"):
    """The ledger contradicts itself (DATA_LOSS). The daemon stops serving; the operator must read the runbook."""
