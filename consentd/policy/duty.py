"""Define a duty about a person: a hold, which forbids an erasure, or an erasure that is due."""

from dataclasses import dataclass
from struct import Struct
from typing import Final

_ROW: Final = Struct(">QB")
_HOLD: Final = 1
_ERASURE: Final = 2


@dataclass(frozen=True, slots=True)
class Duty:
    """What an entry of kind DUTY demands that was not ended.

    Attributes:
        time_ms: when the hold ends, or when the erasure is due, UTC milliseconds. Of an erasure 0: once a hold without
            an end is ended.
        is_hold: whether it is a hold; else an erasure is due.
    """

    time_ms: int
    is_hold: bool

    def forbids_erasure(self, now_ms: int) -> bool:
        """Return whether this is a hold that is in force at *now_ms*."""
        return self.is_hold and now_ms < self.time_ms

    def encode(self) -> bytes:
        """Return the value of the table's row. Source: table-format.md, row ``h``."""
        return _ROW.pack(self.time_ms, _HOLD if self.is_hold else _ERASURE)


def decode_duty(row: bytes) -> Duty:
    """Return the duty of a row of the table."""
    time_ms, form = _ROW.unpack(row)
    return Duty(time_ms, form == _HOLD)
