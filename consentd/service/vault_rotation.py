"""Replace the vault key on request of an operator, while the daemon serves; see ``ledger.vault_rotation``."""

from consentd.ledger.vault_rotation import compact, rewrap_all
from consentd.service.operations import Follower
from consentd.service.servicer import Services
from consentd.v1 import admin_service_pb2 as ad


def rotate_vault_key(services: Services, follower: Follower) -> ad.VaultKeyRotationResult:
    """Replace the vault key, and report the progress. Finishes a rotation that was interrupted.

    Raises:
        OperationCancelledError, StorageError: the operation ended at a safe point.
        StorageError: the disk failed or is full, a row is damaged, or the token that has the KEK cannot be used.
    """
    vault, tags = services.vault, services.ledger.state.tags
    follower.report(ad.OPERATION_STEP_REWRAPPING, 0, tags)
    number = vault.begin_rotation()
    count = 0
    for count in rewrap_all(vault):
        follower.report(ad.OPERATION_STEP_REWRAPPING, count, max(count, tags))
    vault.end_rotation()
    for done, total in compact(vault):
        follower.report(ad.OPERATION_STEP_COMPACTING, done, total)
    vault.note_compacted()
    return ad.VaultKeyRotationResult(vault_key_number=number, data_key_count=count)
