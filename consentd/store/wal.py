"""Find the records in RocksDB's write-ahead logs at which RocksDB loops forever.

A log consists of blocks of 32 KiB, and a block of records: CRC-32C of type and payload (u32, masked), payload length
(u16), type (u8), payload; integers are little-endian. The types 5 to 8, 11 and 131 occur only in *recycled* logs, which
our stores do not use. If such a type follows a valid record in another log, RocksDB neither reads nor skips the
record, and opening the store never returns (facebook/rocksdb issue 13333). One flipped bit is enough: type 1, a whole
record, becomes type 5. So the logs are checked before RocksDB opens the store. Only these types are looked for: RocksDB
itself reports any other damage. No record crosses a block, because RocksDB divides long batches into records.

Source: RocksDB wiki, "Write Ahead Log File Format".
"""

from pathlib import Path
from struct import Struct

from consentd.errors import CorruptionError, StorageError

_BLOCK = 32 << 10
_HEADER = Struct("<IHB")
_RECYCLED = frozenset({5, 6, 7, 8, 11, 131})
_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed


def check_logs(path: Path) -> None:
    """Check that RocksDB does not loop forever at a record in the logs of the store in *path*.

    Raises:
        CorruptionError: a log has a record type of recycled logs.
        StorageError: a log cannot be read.
    """
    for log in sorted(path.glob("*.log")):
        try:
            with log.open("rb") as file:
                blocks = iter(lambda: file.read(_BLOCK), b"")
                for number, block in enumerate(blocks):
                    at = find_recycled(block)
                    if at is not None:
                        raise CorruptionError(
                            f"log is damaged: `{log}`, byte {number * _BLOCK + at}; see ops/RUNBOOK.md, `log damaged`"
                        )
        except FileNotFoundError:
            continue  # a process that has the store open deleted the log; opening the store reports that process
        except OSError as error:
            raise StorageError(f"log cannot be read: `{log}`: {error.strerror}") from error


def find_recycled(block: bytes) -> int | None:
    """Return the offset of the first record of a recycled type; None if there is none, or RocksDB stops before."""
    before: list[tuple[int, int, int]] = []
    at = 0
    while at + _HEADER.size <= len(block):
        crc, length, kind = _HEADER.unpack_from(block, at)
        if kind in _RECYCLED:
            # After a record that is not valid, RocksDB skips the rest of the block.
            return at if all(_is_valid(block, *record) for record in before) else None
        end = at + _HEADER.size + length
        if end > len(block) or (kind == 0 and length == 0):
            return None
        before.append((at, end, crc))
        at = end
    return None


def _is_valid(block: bytes, start: int, end: int, masked: int) -> bool:
    crc = 0xFFFFFFFF
    for byte in block[start + _HEADER.size - 1 : end]:  # the type and the payload
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF == masked
