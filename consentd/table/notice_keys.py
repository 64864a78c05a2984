"""Keys of the rows about versions of notices in the policy table."""

from struct import Struct

_U32 = Struct(">I")


def notice_key(notice_id: str, version: int) -> bytes:
    """Return the key of the row of a version of a notice."""
    return b"n" + notice_id.encode() + b"\0" + _U32.pack(version)


def campaign_key(notice: int) -> bytes:
    """Return the key of the row that says from when consents under a version of a notice are paused."""
    return b"w" + _U32.pack(notice)


def count_key(notice: int) -> bytes:
    """Return the key of the row that counts the consents under a version of a notice."""
    return b"t" + _U32.pack(notice)
