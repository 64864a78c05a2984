"""State acts of operators in the ledger, before they have effect: ADMINISTRATION entries (ledger-format.md 2.3).

A repeat of a request finds the entry of the first one, and states nothing again.
"""

import hashlib
from functools import partial
from os import urandom

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.sequencer.commands.registry import PublicWrite
from consentd.sequencer.loop import Sequencer
from consentd.service.auth import Credential, CredentialKind
from consentd.service.credentials import Credentials
from consentd.service.known_credentials import FileChange
from consentd.service.operator_roles import roles_message
from consentd.service.requests import content_hash, make_request
from consentd.service.servicer import Services
from consentd.v1 import statement_pb2 as st

MOST_IDS = 100
"""Most ids in each list of a change of the credentials file: a statement has at most 16 KiB."""


def state_added(sequencer: Sequencer, added: Credential, request_id: bytes) -> None:
    """State that an operator adds a credential. Raises as ``state_act``."""
    act = st.CredentialAdded(
        credential_id=added.id, caller=added.caller, roles=roles_message(added.roles), expire_time_ms=added.end_ms,
        is_certificate=added.kind is CredentialKind.CERTIFICATE,
    )  # fmt: skip
    message = st.AdministrationStatement(credential_added=act)
    state_act(sequencer, message, operator=added.created_by, request_id=request_id)


def state_revoked(sequencer: Sequencer, revoked: Credential) -> None:
    """State that an operator revoked a credential. Raises as ``state_act``."""
    act = st.CredentialRevoked(credential_id=revoked.id, caller=revoked.caller)
    message = st.AdministrationStatement(credential_revoked=act)
    # A credential is revoked once, so its id is that of the request.
    state_act(sequencer, message, operator=revoked.revoked_by, request_id=bytes.fromhex(revoked.id))


def state_file_changed(sequencer: Sequencer, change: FileChange) -> None:
    """State that the credentials file is read again, and which credentials are others. Raises as ``state_act``."""
    listed = [sorted(ids)[:MOST_IDS] for ids in (change.added, change.removed, change.changed)]
    more = len(change.added) + len(change.removed) + len(change.changed) - sum(map(len, listed))
    act = st.CredentialsFileChanged(
        added_ids=listed[0], removed_ids=listed[1], changed_ids=listed[2], more_count=more
    )
    state_act(sequencer, st.AdministrationStatement(credentials_file_changed=act), operator="", request_id=urandom(16))


def reload_file(credentials: Credentials, services: Services | None) -> tuple[int, int]:
    """Read the credentials file again, once the ledger says what is other than before.

    A daemon that is starting, and a restored copy, state nothing. Returns as ``Credentials.reload``.

    Raises:
        InvalidError, StorageError, OverloadedError: as ``Credentials.reload`` and ``state_act``.
    """
    try:
        if services is None or services.restored is not None:
            return credentials.reload()
        return credentials.reload(partial(state_file_changed, services.sequencer))
    finally:
        if services is not None:
            services.credential_rows.write()


def state_act(
    sequencer: Sequencer, message: st.AdministrationStatement, *, operator: str, request_id: bytes
) -> None:
    """State an act, which *operator* attests, and wait until the entry is durable. Empty: nobody attests it.

    Raises:
        OverloadedError: too many writes wait.
        StorageError: the ledger cannot be written.
        PreconditionError: (REQUEST_ID_REUSED) the operator used the *request_id* for another act.
    """
    act = message.WhichOneof("act") or ""
    if operator:
        message.attestation.attested_by = operator
    # No caller has an id that begins like this. An operator may use an id for a write and for an act.
    asker = f"administration/{operator}"
    # Two operators may use one id, but no chain has two statements of one author with the same id.
    own_id = hashlib.sha256(f"consentd/administration/v1\0{act}\0{operator}\0".encode() + request_id).digest()[:16]
    request = make_request(asker, own_id, content_hash("Administration", message))
    write = PublicWrite(
        kind=EntryKind.ADMINISTRATION, request=request, chain=codec.ADMINISTRATION_CHAIN, message=message
    )
    sequencer.submit(write).result()
