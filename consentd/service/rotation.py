"""Replace the log key or the statement key on request of an operator.

The operation states the rotation in the ledger, and waits until the new key is in force. The sequencer changes the keys
and, for the log key, writes no further seal until the old key's last checkpoint is published and kept. If the operation
ends before that, the sequencer continues; if the daemon stops, the next start does. ``key_files`` says what a crash
leaves.
"""

from consentd.core.note import Verifier, format_vkey
from consentd.core.rotation import RotationRole
from consentd.errors import PreconditionError, StorageError
from consentd.sequencer.commands.rotation import RotateKey
from consentd.service.operations import Follower, when_free
from consentd.service.servicer import Services
from consentd.statements import payloads
from consentd.statements.values import enum_value, to_enum
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st

_WAIT_S = 0.05
"""How long an operation waits for the new log key before its next safe point."""


def prepare_rotation(services: Services, request: ad.PrepareKeyRotationRequest) -> ad.PrepareKeyRotationResponse:
    """Make the file of the key that will replace the one in force, unless it is there; return its public key.

    Raises:
        InvalidError: the role is unknown, or the file has no key of this kind or can be read by others.
        PreconditionError: the file has a key that the ledger has used.
        StorageError: the file cannot be read or written.
    """
    role = _role(request.role)
    made = services.key_files.prepare(role, in_force=_in_force(services, role))
    path = str(services.key_files.next_path(role))
    return ad.PrepareKeyRotationResponse(
        new_key=made.public_key, verifier_key=_vkey(services, role, made.public_key), key_file=path
    )


def check_rotation(services: Services, request: ad.StartKeyRotationRequest) -> RotateKey:
    """Return the write that the request asks for.

    Raises:
        InvalidError: the role is unknown, the reason is too long, or the file of the new key is as in
            ``prepare_rotation``.
        PreconditionError: the key was not prepared; the witness policy does not name the new log key; or the witnesses
            are no quorum now.
    """
    role = _role(request.role)
    payloads.check_texts(st.Rotation(reason=request.reason))
    new = services.key_files.read_next(role)
    if new is None or new.public_key != request.new_key:
        path = services.key_files.next_path(role)
        raise PreconditionError(f"new key is not the one that was prepared: `{path}`; see PrepareKeyRotation")
    if role is RotationRole.LOG:
        publisher = services.sequencer.checkpoints.publisher
        if not publisher.names_log(Verifier(services.config.ledger.origin, new.public_key)):
            raise PreconditionError("witness policy names log keys, and not the new one: add a line, and restart")
        if not publisher.has_quorum:
            raise PreconditionError("witnesses that answer are no quorum: nothing would be published before they are")
    return RotateKey(role=role, old_key=_in_force(services, role), new=new, reason=request.reason)


def rotate(services: Services, write: RotateKey, follower: Follower) -> ad.KeyRotationResult:
    """Replace a key, and report the progress.

    Raises:
        PreconditionError: the new key was used before, or another rotation has replaced the old one.
        OperationCancelledError, StorageError: the operation ended at a safe point. If the ledger states the rotation,
            it is finished without the operation.
    """
    follower.report(ad.OPERATION_STEP_PUBLISHING)
    sequencer = services.sequencer
    written = when_free(follower, lambda: sequencer.submit(write).result())
    assert written.entry is not None, "a rotation is an entry"
    while write.role is RotationRole.LOG and sequencer.checkpoints.is_held:
        if sequencer.fault is not None:
            raise StorageError("ledger stopped before the last checkpoint of the old log key was published")
        follower.report(ad.OPERATION_STEP_PUBLISHING)
        follower.pause(_WAIT_S)
    new_key = write.new.public_key
    return ad.KeyRotationResult(
        role=to_enum(write.role), old_key=write.old_key, new_key=new_key, index=written.entry.index,
        from_size=written.answer, verifier_key=_vkey(services, write.role, new_key),
        replaced_key_file=str(services.key_files.replaced_path(write.role, write.old_key)),
    )  # fmt: skip


def _role(number: int) -> RotationRole:
    return enum_value(RotationRole, number, "role")


def _in_force(services: Services, role: RotationRole) -> bytes:
    sequencer = services.sequencer
    return sequencer.checkpoints.log_key if role is RotationRole.LOG else sequencer.statement_key


def _vkey(services: Services, role: RotationRole, key: bytes) -> str:
    return format_vkey(Verifier(services.config.ledger.origin, key)) if role is RotationRole.LOG else ""
