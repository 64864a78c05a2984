"""State acts of operators in the ledger, before they have effect: ADMINISTRATION entries (ledger-format.md 2.3).

A repeat of a request finds the entry of the first one, and states nothing again.
"""

import hashlib

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.sequencer.commands.registry import PublicWrite
from consentd.sequencer.loop import Sequencer
from consentd.service.auth import Credential, CredentialKind
from consentd.service.operator_roles import roles_message
from consentd.service.requests import content_hash, make_request
from consentd.v1 import statement_pb2 as st


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


def state_act(
    sequencer: Sequencer, message: st.AdministrationStatement, *, operator: str, request_id: bytes
) -> None:
    """State an act, which *operator* attests, and wait until the entry is durable.

    Raises:
        OverloadedError: too many writes wait.
        StorageError: the ledger cannot be written.
        PreconditionError: (REQUEST_ID_REUSED) the operator used the *request_id* for another act.
    """
    act = message.WhichOneof("act") or ""
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
