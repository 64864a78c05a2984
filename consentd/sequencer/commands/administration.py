"""The rules of ADMINISTRATION entries, which record acts of operators on the daemon (ledger-format.md 2.3)."""

import re

from consentd.errors import DeniedError, InvalidError
from consentd.sequencer.commands.callers import is_operator
from consentd.v1 import statement_pb2 as st

_CREDENTIAL_ID = re.compile(r"[0-9a-f]{32}")


def check_act(message: st.AdministrationStatement) -> None:
    """Check an act of an operator. The sequencer and ``audit replay`` call this.

    Raises:
        DeniedError: nobody attests it who is an operator; or somebody attests a change of the credentials file.
        InvalidError: it states no act, or not which credential it is about.
    """
    act = message.WhichOneof("act")
    if act == "credentials_file_changed":  # on the machine, by somebody whom the daemon does not know
        if message.attestation.attested_by:
            raise DeniedError("nobody attests that the credentials file was changed")
        changed = message.credentials_file_changed
        ids = [*changed.added_ids, *changed.removed_ids, *changed.changed_ids]
        if not ids or not all(map(_CREDENTIAL_ID.fullmatch, ids)):
            raise InvalidError("change of the credentials file names no credential")
        return
    if not is_operator(message.attestation.attested_by):
        raise DeniedError("administration is attested by an operator")
    if act is None:
        raise InvalidError("administration states no act")
    if act in ("credential_added", "credential_revoked"):
        about: st.CredentialAdded | st.CredentialRevoked = getattr(message, act)
        if not _CREDENTIAL_ID.fullmatch(about.credential_id) or not about.caller:
            raise InvalidError("credential has no id or no caller")
