"""How a test makes the calls of AdminService: attempts of ``cases.roles``."""

from typing import TYPE_CHECKING, Any

from cases.daemons import request_id
from cases.fakes import HANG_S
from consentd.service.roles import Access
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st
from consentd_client import Client

if TYPE_CHECKING:
    from cases.roles import Call


def start_pruning(call: "Call") -> Access:
    request = ad.StartPruningRequest(request_id=request_id(), dry_run=True)
    found = call.plain(call.running.admin.StartPruning, request)
    if found is Access.ALLOWED:
        _runner(call).prune(request_id=request.request_id, dry_run=True)  # a repeat: wait for its end
    return found


def of_operation(call: "Call", method: str, request_type: Any) -> Access:
    """Return how a call about an operation is answered that is done."""
    operator = _operator(call)
    done = operator.follow_operation(operator.start_pruning(dry_run=True).operation_id)
    return call.plain(getattr(call.running.admin, method), request_type(operation_id=done.operation_id))


def revoke_credential(call: "Call") -> Access:
    added = _operator(call).add_credential("app").credential
    request = ad.RevokeCredentialRequest(credential_id=added.credential_id)
    return call.plain(call.running.admin.RevokeCredential, request)


def _runner(call: "Call") -> Client:
    """Return a client of the caller, if it may start work, so that a repeat is its own; else of another operator."""
    return _client(call, call.caller if call.caller == "operator/run" else "operator")


def _operator(call: "Call") -> Client:
    return _client(call, "operator")


def _client(call: "Call", who: str) -> Client:
    return Client("", token=call.running.tokens[who], channel=call.running.channel, timeout_s=HANG_S)


def prepare_rotation(call: "Call") -> Access:
    request = ad.PrepareKeyRotationRequest(role=st.ROTATION_ROLE_STATEMENT)
    return call.plain(call.running.admin.PrepareKeyRotation, request)


def start_rotation(call: "Call") -> Access:
    role, operator = st.ROTATION_ROLE_STATEMENT, _runner(call)
    new_key = operator.prepare_key_rotation(role).new_key
    request = ad.StartKeyRotationRequest(request_id=request_id(), role=role, new_key=new_key)
    found = call.plain(call.running.admin.StartKeyRotation, request)
    if found is Access.ALLOWED:
        repeated = operator.start_key_rotation(role, new_key, request_id=request.request_id)
        operator.follow_operation(repeated.operation_id)
    return found


def start_backup(call: "Call") -> Access:
    request = ad.StartBackupRequest(request_id=request_id())
    request.name = request.request_id.hex()  # two backups may begin in one second
    found = call.plain(call.running.admin.StartBackup, request)
    if found is Access.ALLOWED:
        _runner(call).back_up(name=request.name, request_id=request.request_id)  # a repeat: wait for its end
    return found


def start_vault_key_rotation(call: "Call") -> Access:
    request = ad.StartVaultKeyRotationRequest(request_id=request_id())
    found = call.plain(call.running.admin.StartVaultKeyRotation, request)
    if found is Access.ALLOWED:
        _runner(call).rotate_vault_key(request_id=request.request_id)  # a repeat: wait for its end
    return found
