"""The rows of the policy table by which another process authenticates callers. They do not follow from the ledger."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from consentd.table.checked_rows import seal_row

PREFIX: Final = b"u"
_TOKEN, _CERTIFICATE = 1, 2
_HEAD = Struct(">QB")
REVOKED: Final = 1
"""The end of what was revoked: before every present, whatever a reader's clock says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRow:
    """A credential that is accepted until its end, and refused from then on.

    Attributes:
        hash: SHA-256 of the token, or of the certificate's DER.
        end_ms: from when it is refused, UTC milliseconds; 0: never; ``REVOKED``: it was revoked.
        roles: the roles of an operator, as bits: 1 RUN, 2 READ_METRICS, 4 ADMINISTER; 0 for other callers.
    """

    is_token: bool
    hash: bytes = field(repr=False)
    caller: str
    end_ms: int
    roles: int = 0

    @property
    def key(self) -> bytes:
        """The key of its row."""
        return PREFIX + bytes([_TOKEN if self.is_token else _CERTIFICATE]) + self.hash

    @property
    def value(self) -> bytes:
        """The value of its row, without its check."""
        return _HEAD.pack(self.end_ms, self.roles) + self.caller.encode()


def sealed_rows(rows: Iterable[CredentialRow]) -> Mapping[bytes, bytes]:
    """Return the rows by key, as they are stored: with their checks."""
    return {one.key: seal_row(one.key, one.value) for one in rows}
