"""Define the errors of consentd. The class of an error shows whose fault it is.

A bug raises ``AssertionError``, which is never caught. A denied access is a ``Decision`` and not an error.

Each error has a *reason*: a stable name from a closed set. The service sends it as ``ErrorInfo.reason``
(``consentd.v1.ErrorReason``), and metrics use it as a label. Messages are lower case, begin with constant text, and
never contain an identifier of a subject.
"""


class ConsentdError(Exception):
    """Base class of all declared errors. It is never raised itself.

    Attributes:
        reason: name in ``consentd.v1.ErrorReason``, without its prefix.
    """

    default_reason = "INTERNAL"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class RequestError(ConsentdError):
    """The caller can act: change the request, or wait. Nothing was changed."""


class InvalidError(RequestError):
    """The request is malformed or contradicts itself (INVALID_ARGUMENT)."""

    default_reason = "INVALID_REQUEST"


class NotFoundError(RequestError):
    """There is no such thing, or the caller may not see it (NOT_FOUND)."""

    default_reason = "NOT_FOUND"


class ConflictError(RequestError):
    """The request conflicts with what is recorded (ABORTED)."""

    default_reason = "CONFLICT"


class DeniedError(RequestError):
    """The caller has no right to this call (PERMISSION_DENIED)."""

    default_reason = "CALLER_NOT_ALLOWED"


class OverloadedError(RequestError):
    """Too many requests are waiting (RESOURCE_EXHAUSTED, with RetryInfo)."""

    default_reason = "OVERLOADED"


class VerificationError(ConsentdError):
    """Evidence is bad. Bad bytes may raise no other error."""

    # Evidence that a caller sends is part of its request.
    default_reason = "INVALID_REQUEST"


class MalformedError(VerificationError):
    """Bytes or text do not have the expected format."""


class SignatureError(VerificationError):
    """A signature does not verify, or its key was not valid."""


class ProofError(VerificationError):
    """A proof does not prove what it should."""


class StorageError(ConsentdError):
    """Disk or network failed (UNAVAILABLE). The outcome may be unknown."""

    default_reason = "STORAGE"


class CorruptionError(ConsentdError):
    """The ledger contradicts itself (DATA_LOSS). The daemon stops serving; the operator reads the runbook."""

    default_reason = "CORRUPTION"
