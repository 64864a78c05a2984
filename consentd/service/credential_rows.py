"""Keep the credentials in the policy table, so that another process can authenticate callers.

The rows (``proto/table-format.md``, ``u``) have the hashes of the two files of credentials, and no more. They are no
part of what the ledger makes of the table. The daemon writes them at its start, and after each change. The files count,
and a pass of the scrub puts the rows right if they differ.

If the sequencer has stopped, nobody can write the table, and the rows stay as they are. The heartbeat in the table then
stays as it is too, so a reader stops to answer within its limit for the heartbeat.
"""

import logging
from collections.abc import Callable

from consentd.errors import OverloadedError, StorageError
from consentd.service.auth import Credential, CredentialKind
from consentd.service.credentials import Credentials
from consentd.service.operator_roles import roles_bits
from consentd.table.credential_rows import REVOKED, CredentialRow
from consentd.table.table import Table

log = logging.getLogger(__name__)

RunOnWriter = Callable[[Callable[[], int]], int]


class CredentialRows:
    """Writes the rows. Any thread may use it."""

    def __init__(self, credentials: Credentials, table: Table, run_on_writer: RunOnWriter) -> None:
        """Write the rows of *credentials*. *run_on_writer*: runs a function on the sequencer's thread."""
        self._credentials, self._table, self._run_on_writer = credentials, table, run_on_writer

    def write(self) -> int:
        """Make the rows those of the credentials that decide calls now; return how many were others.

        The credentials are read on the sequencer's thread, so of two calls at the same time the later one writes what
        both changes have made. If the rows cannot be written now, the log says so, and the result is 0.
        """
        try:
            return self._run_on_writer(self._put)
        except (StorageError, OverloadedError) as error:
            log.warning("credentials are not in the table: %s", error)
            return 0

    def _put(self) -> int:
        return self._table.put_credentials(list(map(_row, self._credentials.that_decide())))


def _row(one: Credential) -> CredentialRow:
    is_token = one.kind is CredentialKind.TOKEN
    end_ms = REVOKED if one.revoked_ms else one.end_ms
    return CredentialRow(
        is_token=is_token, hash=bytes.fromhex(one.hash), caller=one.caller, end_ms=end_ms, roles=roles_bits(one.roles)
    )
