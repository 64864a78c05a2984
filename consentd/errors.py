"""The errors of consentd, by whose fault they are.

::

    ConsentdError
     ├─ RequestError         the caller can act; nothing changed
     │   ├─ InvalidError         the request is malformed or contradicts itself
     │   ├─ NotFoundError        no such thing, or not yours to see
     │   ├─ ConflictError        it clashes with what is already recorded
     │   ├─ DeniedError          the caller has no right to this call
     │   └─ OverloadedError      too much waits already; try again later
     ├─ VerificationError    the evidence is bad; the only thing bad bytes may raise
     │   ├─ MalformedError       not the format it claims to be
     │   ├─ SignatureError       a signature does not verify
     │   └─ ProofError           a proof does not lead to where it should
     ├─ StorageError         disk or network; may pass; the outcome may be unknown
     └─ CorruptionError      our own ledger contradicts itself; stop, read the runbook

A bug is an ``AssertionError`` and is never caught. A denial is a ``Decision``, never an error.

Each error carries a *reason*: a stable name from a closed set, which the service sends as
``ErrorInfo.reason`` (``consentd.v1.ErrorReason``) and metrics use as a label. Messages are lower
case, begin with constant text and never hold an identifier of a subject.
"""


class ConsentdError(Exception):
    """Be the root of every declared error; never raised itself.

    Attributes:
        reason: name in ``consentd.v1.ErrorReason``, without its prefix.
    """

    default_reason = "INTERNAL"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason


class RequestError(ConsentdError):
    """Say that the caller can act: change the request, or wait. Nothing was changed."""


class InvalidError(RequestError):
    """Say that the request is malformed or contradicts itself (INVALID_ARGUMENT)."""

    default_reason = "INVALID_REQUEST"


class NotFoundError(RequestError):
    """Say that there is no such thing, or that the caller may not see it (NOT_FOUND)."""

    default_reason = "NOT_FOUND"


class ConflictError(RequestError):
    """Say that the request clashes with what is recorded (ABORTED)."""

    default_reason = "CONFLICT"


class DeniedError(RequestError):
    """Say that the caller has no right to this call (PERMISSION_DENIED)."""

    default_reason = "CALLER_NOT_ALLOWED"


class OverloadedError(RequestError):
    """Say that too much waits already (RESOURCE_EXHAUSTED, with RetryInfo)."""

    default_reason = "OVERLOADED"


class VerificationError(ConsentdError):
    """Say that evidence is bad. Bad bytes may raise nothing else."""

    # Evidence that a caller sends is part of its request.
    default_reason = "INVALID_REQUEST"


class MalformedError(VerificationError):
    """Say that bytes or text are not the format they claim to be."""


class SignatureError(VerificationError):
    """Say that a signature does not verify, or that its key was not in force."""


class ProofError(VerificationError):
    """Say that a proof does not lead to where it should."""


class StorageError(ConsentdError):
    """Say that disk or network failed (UNAVAILABLE). The outcome may be unknown."""

    default_reason = "STORAGE"


class CorruptionError(ConsentdError):
    """Say that our own ledger contradicts itself (DATA_LOSS). Serving stops; a human reads the runbook."""

    default_reason = "CORRUPTION"
