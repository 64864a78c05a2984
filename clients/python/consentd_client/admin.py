"""Operations of AdminService, for operators: prune the ledger, replace its keys, follow work, manage credentials.

The daemon calls such work an operation too (AIP-151). Here it is always ``ad.Operation``. It is never an operation of
this package.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consentd.errors import MalformedError, StorageError
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st
from consentd_client.operations import ClientContext, Operation, ReadPage, Sleep, call, read_pages
from consentd_client.transport import proto_error

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""How long a client waits before it reads an operation again; each pause is twice as long as the one before."""


@dataclass(frozen=True, slots=True)
class NewCredential:
    """A credential that was added.

    Attributes:
        token: the caller's token, which the daemon does not store; empty for a certificate.
    """

    credential: ad.Credential
    token: str = field(repr=False)


def start_pruning(
    context: ClientContext, *, kept_from_ms: int = 0, dry_run: bool = False, request_id: bytes = b""
) -> Operation[ad.Operation]:
    """Begin to delete what the retention policy no longer keeps. ``follow_operation`` waits for the end.

    Args:
        kept_from_ms: keep all entries from this time on, UTC milliseconds; 0: the time that follows from the policy.
        dry_run: delete nothing, only return how many entries would be deleted.
        request_id: 16 bytes; empty: new ones.

    Raises:
        InvalidError: the policy keeps entries that the caller wants deleted.
        PreconditionError: another operation is running.
    """
    request = ad.StartPruningRequest(
        request_id=request_id or context.new_request_id(), dry_run=dry_run, kept_from_time_ms=kept_from_ms
    )
    return (yield from call(context, request, ad.StartPruningResponse)).operation


def prepare_key_rotation(
    context: ClientContext, role: "st.RotationRole.ValueType"
) -> Operation[ad.PrepareKeyRotationResponse]:
    """Make the key that will replace the log key or the statement key, unless it is made; return its public key.

    Raises:
        InvalidError: the file of the new key has no key, or can be read by others.
    """
    request = ad.PrepareKeyRotationRequest(role=role)
    return (yield from call(context, request, ad.PrepareKeyRotationResponse))


def start_key_rotation(
    context: ClientContext, role: "st.RotationRole.ValueType", new_key: bytes, *, reason: str = "",
    request_id: bytes = b"",
) -> Operation[ad.Operation]:  # fmt: skip
    """Begin to replace the log key or the statement key. ``follow_operation`` waits for the end. It cannot be undone.

    Args:
        new_key: the public key that ``prepare_key_rotation`` returned.
        reason: recorded and public.
        request_id: 16 bytes; empty: new ones.

    Raises:
        PreconditionError: the key was not prepared; another operation is running; the witness policy does not name the
            new log key; or the witnesses are no quorum.
    """
    request = ad.StartKeyRotationRequest(
        request_id=request_id or context.new_request_id(), role=role, new_key=new_key, reason=reason
    )
    return (yield from call(context, request, ad.StartKeyRotationResponse)).operation


def get_operation(context: ClientContext, operation_id: str) -> Operation[ad.Operation]:
    """Read one operation."""
    request = ad.GetOperationRequest(operation_id=operation_id)
    return (yield from call(context, request, ad.GetOperationResponse)).operation


def list_operations(context: ClientContext, *, done: bool | None = None) -> ReadPage[ad.Operation]:
    """Read the operations since the daemon's start, the latest first. *done*: only those that are, or are not, done."""
    selected = ad.ListOperationsRequest(done=done)
    return read_pages(
        context, selected, ad.ListOperationsResponse, lambda answer: (answer.operations, answer.next_page_token)
    )


def cancel_operation(context: ClientContext, operation_id: str) -> Operation[ad.Operation]:
    """End an operation at the next point where nothing is half done; ``follow_operation`` waits for that."""
    request = ad.CancelOperationRequest(operation_id=operation_id)
    return (yield from call(context, request, ad.CancelOperationResponse)).operation


def follow_operation(
    context: ClientContext, operation_id: str, *, progress: Callable[[ad.Operation], None] | None = None
) -> Operation[ad.Operation]:
    """Read an operation until it is done, and return it. It continues in the daemon if the client's timeout passes.

    *progress*: called with the operation each time that it was read.

    An operation that ended with an error is returned too; see ``operation_result``.

    Raises:
        NotFoundError: the daemon was restarted since.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        found = yield from get_operation(context, operation_id)
        if progress is not None:
            progress(found)
        if found.done:
            return found
        if not (yield Sleep(pause_s)):
            raise StorageError("deadline passed; the operation continues in the daemon")
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def rotation_result(done: ad.Operation) -> ad.KeyRotationResult:
    """Return which key a rotation that is done has replaced.

    Raises:
        ConsentdError: the operation ended with this error; see ``ClientBase``.
    """
    if done.HasField("error"):
        raise proto_error(done.error)
    if not done.HasField("key_rotation"):
        raise MalformedError("rotation ended without saying what was done")
    return done.key_rotation


def start_vault_key_rotation(context: ClientContext, *, request_id: bytes = b"") -> Operation[ad.Operation]:
    """Begin to replace the vault key, or finish a rotation that was interrupted.

    Args:
        request_id: 16 bytes; empty: new ones.

    Raises:
        PreconditionError: another operation is running.
    """
    request = ad.StartVaultKeyRotationRequest(request_id=request_id or context.new_request_id())
    return (yield from call(context, request, ad.StartVaultKeyRotationResponse)).operation


def rotate_vault_key(
    context: ClientContext, *, request_id: bytes = b"", progress: Callable[[ad.Operation], None] | None = None
) -> Operation[ad.VaultKeyRotationResult]:
    """Replace the vault key; return what was done. Arguments and errors as of ``follow_operation``.

    Raises:
        PreconditionError: another operation is running.
        ConsentdError: the rotation ended with this error; see ``ClientBase``.
    """
    started = yield from start_vault_key_rotation(context, request_id=request_id)
    done = yield from follow_operation(context, started.operation_id, progress=progress)
    return vault_key_rotation_result(done)


def vault_key_rotation_result(done: ad.Operation) -> ad.VaultKeyRotationResult:
    """Return what a rotation of the vault key that is done did.

    Raises:
        ConsentdError: the rotation ended with this error; see ``ClientBase``.
    """
    if done.HasField("error"):
        raise proto_error(done.error)
    if not done.HasField("vault_key_rotated"):
        raise MalformedError("rotation ended without saying what was done")
    return done.vault_key_rotated


def start_backup(context: ClientContext, *, name: str = "", request_id: bytes = b"") -> Operation[ad.Operation]:
    """Begin to make a backup of the ledger and of the vault. ``follow_operation`` waits for the end.

    Args:
        name: of the backup; empty: the present time.
        request_id: 16 bytes; empty: new ones.

    Raises:
        InvalidError: *name* can be no backup's name.
        AlreadyExistsError: a backup has this name.
        PreconditionError: no directory of backups is configured, or another operation is running.
    """
    request = ad.StartBackupRequest(request_id=request_id or context.new_request_id(), name=name)
    return (yield from call(context, request, ad.StartBackupResponse)).operation


def back_up(
    context: ClientContext, *, name: str = "", request_id: bytes = b"",
    progress: Callable[[ad.Operation], None] | None = None,
) -> Operation[ad.BackupResult]:  # fmt: skip
    """Make a backup; return what it has. Arguments and errors as of ``start_backup`` and ``follow_operation``.

    Raises:
        ConsentdError: the backup ended with this error; see ``ClientBase``.
    """
    started = yield from start_backup(context, name=name, request_id=request_id)
    return backup_result((yield from follow_operation(context, started.operation_id, progress=progress)))


def backup_result(done: ad.Operation) -> ad.BackupResult:
    """Return what a backup that is done has.

    Raises:
        ConsentdError: the operation ended with this error; see ``ClientBase``.
    """
    if done.HasField("error"):
        raise proto_error(done.error)
    if not done.HasField("backup"):
        raise MalformedError("backup ended without saying what was done")
    return done.backup


def operation_result(done: ad.Operation) -> ad.PruneResult:
    """Return what a pruning that is done has deleted.

    Raises:
        ConsentdError: the pruning ended with this error; see ``ClientBase``.
    """
    if done.HasField("error"):
        raise proto_error(done.error)
    if not done.HasField("pruned"):
        raise MalformedError("pruning ended without saying what was done")
    return done.pruned


def prune(
    context: ClientContext, *, kept_from_ms: int = 0, dry_run: bool = False, request_id: bytes = b"",
    progress: Callable[[ad.Operation], None] | None = None,
) -> Operation[ad.PruneResult]:  # fmt: skip
    """Delete what the retention policy no longer keeps; return what was deleted.

    Arguments and errors as of ``start_pruning``, ``follow_operation`` and ``operation_result``.
    """
    started = yield from start_pruning(context, kept_from_ms=kept_from_ms, dry_run=dry_run, request_id=request_id)
    return operation_result((yield from follow_operation(context, started.operation_id, progress=progress)))


def add_credential(
    context: ClientContext, caller: str, *, certificate_sha256: bytes = b"", expire_time_ms: int = 0, label: str = "",
    roles: Sequence["st.OperatorRole.ValueType"] = (), request_id: bytes = b"",
) -> Operation[NewCredential]:  # fmt: skip
    """Let *caller* call, by a new token or by a client certificate.

    Args:
        caller: a participant id, ``operator/NAME`` or ``scraper/NAME``.
        certificate_sha256: SHA-256 of the DER of a client certificate, 32 bytes; empty: the daemon makes a token.
        expire_time_ms: from when it is refused, UTC milliseconds; 0: never.
        label: a note for operators.
        roles: of an operator's credential, at least one; the calling operator has them all.
        request_id: 16 bytes; empty: new ones. A repeat gets a new token, and the earlier one is void.

    Raises:
        InvalidError: *caller* is no caller id, the time has passed, or *roles* are those of another caller.
        DeniedError: (ROLE_NOT_HELD) the calling operator lacks one of the roles.
        AlreadyExistsError: the certificate is listed already.
        PreconditionError: *request_id* was used for something else, or the token was used since.
    """
    request = ad.AddCredentialRequest(
        request_id=request_id or context.new_request_id(), caller=caller, certificate_sha256=certificate_sha256,
        expire_time_ms=expire_time_ms, label=label, roles=roles,
    )  # fmt: skip
    answer = yield from call(context, request, ad.AddCredentialResponse)
    if bool(answer.token) == bool(certificate_sha256) or answer.credential.caller != caller:
        raise MalformedError("credential is not the one asked for")
    return NewCredential(answer.credential, answer.token)


def list_credentials(context: ClientContext, *, caller: str = "") -> ReadPage[ad.Credential]:
    """Read all credentials, those that ended too. *caller*: only those of this caller."""
    selected = ad.ListCredentialsRequest(caller=caller)
    return read_pages(
        context, selected, ad.ListCredentialsResponse, lambda answer: (answer.credentials, answer.next_page_token)
    )


def revoke_credential(context: ClientContext, credential_id: str) -> Operation[ad.Credential]:
    """End a credential at once and for ever; return it.

    Raises:
        PreconditionError: without it no operator could add a credential.
        StorageError: the revocation is not stored, and ends when the daemon stops: repeat the call.
    """
    request = ad.RevokeCredentialRequest(credential_id=credential_id)
    return (yield from call(context, request, ad.RevokeCredentialResponse)).credential
