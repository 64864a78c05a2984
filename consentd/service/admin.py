"""AdminService: operations, and the credentials of callers. Only operators with the right role call it."""

from collections.abc import Iterable
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core.pruned import DAY_MS
from consentd.service.acts import state_act, state_added, state_revoked
from consentd.service.auth import Credential, CredentialKind
from consentd.service.backup import back_up, backup_directory, backup_name
from consentd.service.context import Context
from consentd.service.operations import Follower, Start, when_free
from consentd.service.operator_roles import check_may_give, roles_message, roles_of_message
from consentd.service.pages import Cursor, Pager, take_page
from consentd.service.pruning import check_start, prune
from consentd.service.requests import content_hash, make_request
from consentd.service.rotation import check_rotation, prepare_rotation, rotate
from consentd.service.rpc import rpc, status_message
from consentd.service.servicer import Servicer
from consentd.service.vault_rotation import rotate_vault_key
from consentd.statements.payloads import check_no_unknown_fields
from consentd.v1 import admin_service_pb2 as ad
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)


class AdminService(Servicer):
    """``consentd.v1.AdminService``."""

    @rpc
    def StartPruning(self, request: ad.StartPruningRequest, context: Context) -> ad.StartPruningResponse:
        """Begin to delete what the retention policy no longer keeps."""
        operator, services = self._operator(context), self.services
        check_no_unknown_fields(request)  # one could limit what is deleted
        content = content_hash("StartPruning", bytes([request.dry_run]), str(request.kept_from_time_ms))
        asked = make_request(operator, request.request_id, content)
        check_start(services, request)

        def work(follower: Follower) -> ad.PruneResult:
            return prune(services, request, follower)

        start = Start(
            kind=ad.OPERATION_KIND_PRUNING, dry_run=request.dry_run, operator=operator, request_key=asked.key,
            content=content, work=work,
        )  # fmt: skip
        operation, is_new = services.operations.start(start, partial(status_message, self.metrics, "StartPruning"))
        if is_new:
            self.call_log.administered("operation started", "StartPruning", context, _operation_fields(operation))
        return ad.StartPruningResponse(operation=operation)

    @rpc
    def PrepareKeyRotation(
        self, request: ad.PrepareKeyRotationRequest, context: Context
    ) -> ad.PrepareKeyRotationResponse:
        """Make the key that will replace another, and return its public key."""
        self._operator(context)
        check_no_unknown_fields(request)
        response = prepare_rotation(self.services, request)
        fields = {"role": str(request.role), "new_key": response.new_key.hex()}
        self.call_log.administered("key prepared", "PrepareKeyRotation", context, fields)
        return response

    @rpc
    def StartKeyRotation(self, request: ad.StartKeyRotationRequest, context: Context) -> ad.StartKeyRotationResponse:
        """Begin to replace the log key or the statement key."""
        operator, services = self._operator(context), self.services
        check_no_unknown_fields(request)
        content = content_hash("StartKeyRotation", str(request.role), request.new_key, request.reason)
        asked = make_request(operator, request.request_id, content)
        operation = services.operations.find_repeat(asked)
        if operation is not None:
            return ad.StartKeyRotationResponse(operation=operation)
        write = check_rotation(services, request)

        def work(follower: Follower) -> ad.KeyRotationResult:
            return rotate(services, write, follower)

        start = Start(
            kind=ad.OPERATION_KIND_KEY_ROTATION, dry_run=False, operator=operator, request_key=asked.key,
            content=content, work=work,
        )  # fmt: skip
        operation, is_new = services.operations.start(start, partial(status_message, self.metrics, "StartKeyRotation"))
        if is_new:
            fields = _operation_fields(operation)
            self.call_log.administered("operation started", "StartKeyRotation", context, fields)
        return ad.StartKeyRotationResponse(operation=operation)

    @rpc
    def StartVaultKeyRotation(
        self, request: ad.StartVaultKeyRotationRequest, context: Context
    ) -> ad.StartVaultKeyRotationResponse:
        """Begin to replace the vault key."""
        operator, services = self._operator(context), self.services
        check_no_unknown_fields(request)
        content = content_hash("StartVaultKeyRotation")
        asked = make_request(operator, request.request_id, content)

        def work(follower: Follower) -> ad.VaultKeyRotationResult:
            act = st.AdministrationStatement(vault_key_rotation_started=st.VaultKeyRotationStarted())
            state = partial(state_act, services.sequencer, act, operator=operator, request_id=request.request_id)
            when_free(follower, state)
            return rotate_vault_key(services, follower)

        start = Start(
            kind=ad.OPERATION_KIND_VAULT_KEY_ROTATION, dry_run=False, operator=operator, request_key=asked.key,
            content=content, work=work,
        )  # fmt: skip
        to_status = partial(status_message, self.metrics, "StartVaultKeyRotation")
        operation, is_new = services.operations.start(start, to_status)
        if is_new:
            fields = _operation_fields(operation)
            self.call_log.administered("operation started", "StartVaultKeyRotation", context, fields)
        return ad.StartVaultKeyRotationResponse(operation=operation)

    @rpc
    def StartBackup(self, request: ad.StartBackupRequest, context: Context) -> ad.StartBackupResponse:
        """Begin to make a backup."""
        operator, services = self._operator(context), self.services
        check_no_unknown_fields(request)
        content = content_hash("StartBackup", request.name)
        asked = make_request(operator, request.request_id, content)
        operation = services.operations.find_repeat(asked)
        if operation is not None:
            return ad.StartBackupResponse(operation=operation)
        name = backup_name(request, services.sequencer.clock.wall_ms())
        backup_directory(services).check_new(name)

        def work(follower: Follower) -> ad.BackupResult:
            act = st.AdministrationStatement(backup_started=st.BackupStarted())
            state = partial(state_act, services.sequencer, act, operator=operator, request_id=request.request_id)
            when_free(follower, state)
            return back_up(services, name, follower)

        start = Start(
            kind=ad.OPERATION_KIND_BACKUP, dry_run=False, operator=operator, request_key=asked.key, content=content,
            work=work,
        )  # fmt: skip
        operation, is_new = services.operations.start(start, partial(status_message, self.metrics, "StartBackup"))
        if is_new:
            self.call_log.administered("operation started", "StartBackup", context, _operation_fields(operation))
        return ad.StartBackupResponse(operation=operation)

    @rpc
    def GetOperation(self, request: ad.GetOperationRequest, context: Context) -> ad.GetOperationResponse:
        """Read one operation."""
        self._operator(context)
        return ad.GetOperationResponse(operation=self.services.operations.get(request.operation_id))

    @rpc
    def ListOperations(self, request: ad.ListOperationsRequest, context: Context) -> ad.ListOperationsResponse:
        """Read operations, the latest first, a page at a time."""
        pager = Pager(self.services.page_key, self._operator(context), request)
        cursor, is_any = pager.cursor(0), not request.HasField("done")
        left = (
            (number, one if is_any or one.done == request.done else None)
            for number, one in self.services.operations.all()
            if cursor is None or number < cursor.position
        )  # fmt: skip
        page, token = _page(pager, left)
        return ad.ListOperationsResponse(operations=page, next_page_token=token)

    @rpc
    def CancelOperation(self, request: ad.CancelOperationRequest, context: Context) -> ad.CancelOperationResponse:
        """End an operation at its next safe point."""
        operation = self.services.operations.cancel(request.operation_id, operator=self._operator(context))
        if not operation.done:
            fields = _operation_fields(operation)
            self.call_log.administered("operation cancelled", "CancelOperation", context, fields)
        return ad.CancelOperationResponse(operation=operation)

    @rpc
    def AddCredential(self, request: ad.AddCredentialRequest, context: Context) -> ad.AddCredentialResponse:
        """Let a caller call, by a new token or by a client certificate."""
        operator = self._operator(context)
        check_no_unknown_fields(request)  # one could limit who may call
        roles = roles_of_message(request.roles)
        check_may_give(context.roles, request.caller, roles)
        credential, token = self.services.credentials.add(
            request.caller, operator=operator, request_id=request.request_id, roles=roles,
            state=lambda added: state_added(self.services.sequencer, added, request.request_id),
            certificate_hash=request.certificate_sha256, end_ms=request.expire_time_ms, label=request.label,
        )  # fmt: skip
        self.services.credential_rows.write()
        self.call_log.administered("credential added", "AddCredential", context, _credential_fields(credential))
        return ad.AddCredentialResponse(credential=self._credential_message(credential), token=token)

    @rpc
    def ListCredentials(self, request: ad.ListCredentialsRequest, context: Context) -> ad.ListCredentialsResponse:
        """Read credentials, a page at a time."""
        pager = Pager(self.services.page_key, self._operator(context), request)
        cursor, caller = pager.cursor(0), request.caller
        # A page token's position is the number that an id begins with. Ids are hashes, so these numbers differ.
        numbered = ((int(one.id[:16], 16), one, used_day) for one, used_day in self.services.credentials.all())
        left = (
            (number, _credential_message(one, used_day) if caller in ("", one.caller) else None)
            for number, one, used_day in numbered
            if cursor is None or number > cursor.position
        )  # fmt: skip
        page, token = _page(pager, left)
        return ad.ListCredentialsResponse(credentials=page, next_page_token=token)

    @rpc
    def RevokeCredential(self, request: ad.RevokeCredentialRequest, context: Context) -> ad.RevokeCredentialResponse:
        """End a credential at once and for ever."""
        operator, services = self._operator(context), self.services
        try:
            credential = services.credentials.revoke(
                request.credential_id, operator=operator, state=partial(state_revoked, services.sequencer)
            )
        finally:
            services.credential_rows.write()  # also if the revocation has effect, and is not stored or not stated
        self.call_log.administered("credential revoked", "RevokeCredential", context, _credential_fields(credential))
        return ad.RevokeCredentialResponse(credential=self._credential_message(credential))

    def _credential_message(self, credential: Credential) -> ad.Credential:
        return _credential_message(credential, self.services.credentials.used_day(credential.id))

    def _operator(self, context: Context) -> str:
        """Return the calling operator. The call may have waited: check that its credential is still valid."""
        self.check_still_known(context)
        return self.caller(context)


def _page(pager: Pager, left: Iterable[tuple[int, M | None]]) -> tuple[list[M], str]:
    """Return the first items, and the token of the next page; *left*: see ``take_page``. No revision is pinned."""
    page, last = take_page(left, pager.size)
    return page, "" if last is None else pager.token(Cursor(last, 0))


def _operation_fields(operation: ad.Operation) -> dict[str, str]:
    return {"operation_id": operation.operation_id, "operation_started_by": operation.started_by}


def _credential_fields(credential: Credential) -> dict[str, str]:
    return {"credential_id": credential.id, "credential_caller": credential.caller}


def _credential_message(credential: Credential, used_day: int) -> ad.Credential:
    is_token = credential.kind is CredentialKind.TOKEN
    return ad.Credential(
        credential_id=credential.id, caller=credential.caller, label=credential.label,
        kind=ad.CREDENTIAL_KIND_TOKEN if is_token else ad.CREDENTIAL_KIND_CERTIFICATE,
        create_time_ms=credential.created_ms, created_by=credential.created_by, expire_time_ms=credential.end_ms,
        last_used_time_ms=used_day * DAY_MS, revoke_time_ms=credential.revoked_ms, revoked_by=credential.revoked_by,
        roles=roles_message(credential.roles),
    )  # fmt: skip
