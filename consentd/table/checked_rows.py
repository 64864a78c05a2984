"""Rows of the policy table and their check: each stored value ends with the CRC-32 of key ‖ value.

LMDB stores rows without checksums. A damaged row must not decide: it may lack an objection, or have a permit that
nobody gave. Every stored value is sealed here, and opened here before it is used (table-format.md, "Check").
"""

import logging
from zlib import crc32

from consentd.errors import StorageError

log = logging.getLogger(__name__)

CHECK_SIZE = 4


class DamagedRowError(StorageError):
    """A row of the table is not what was written. Nothing is decided from it, and nothing is recorded."""


def seal_row(key: bytes, value: bytes) -> bytes:
    """Return the value of a row as it is stored: with its check."""
    return value + crc32(value, crc32(key)).to_bytes(CHECK_SIZE)


def spoil_row(key: bytes, value: bytes) -> bytes:
    """Return the value of a row with a wrong check, so that every reader finds the row damaged."""
    check = crc32(value, crc32(key)) ^ 0xFFFFFFFF
    return value + check.to_bytes(CHECK_SIZE)


def is_intact(key: bytes, stored: bytes) -> bool:
    """Return whether the check of a stored row matches."""
    return stored == seal_row(key, stored[:-CHECK_SIZE])


class RowCheck:
    """Opens stored rows, and counts the damaged ones. The views of a table share one; any thread may use it.

    Attributes:
        damaged: how often a read found a damaged row. Two threads may count at once, and then one count may be lost;
            what matters is whether it is 0.
    """

    def __init__(self) -> None:
        self.damaged = 0

    def open_row(self, key: bytes, stored: bytes) -> bytes:
        """Return the value of a stored row.

        Raises:
            DamagedRowError: the row is damaged, or another version of consentd wrote the table.
        """
        value = stored[:-CHECK_SIZE]
        if crc32(value, crc32(key)).to_bytes(CHECK_SIZE) != stored[-CHECK_SIZE:]:
            raise self.damage(key)
        return value

    def damage(self, key: bytes) -> DamagedRowError:
        """Count a damaged row, log the first one, and return the error. Neither shows the key, which is a person's."""
        kind = key[:1].decode("ascii", "replace")
        text = f"table row of kind `{kind}` is damaged, or of another version: rebuild it: `consentd table rebuild`"
        if not self.damaged:
            log.critical("%s; see ops/RUNBOOK.md, ConsentdTableDamaged", text)
        self.damaged += 1
        return DamagedRowError(text)
