"""Read and change single rows of a policy table as they are stored: to damage them, or to see what they hold."""

from collections.abc import Iterator
from contextlib import contextmanager

from consentd.table.checked_rows import CHECK_SIZE, seal_row
from consentd.table.table import Table


def put_stored(table: Table, key: bytes, stored: bytes | None) -> None:
    """Store a row with whatever check *stored* ends with; None: delete the row."""
    with table.begin_write() as txn:
        if stored is None:
            txn.delete(key)
        else:
            txn.put(key, stored)


def get_stored(table: Table, key: bytes) -> bytes | None:
    with table.begin_read() as txn:
        found: bytes | None = txn.get(key)
        return found


@contextmanager
def stored_as(table: Table, key: bytes, stored: bytes | None) -> Iterator[None]:
    """Have another row for the length of a ``with`` block."""
    before = get_stored(table, key)
    put_stored(table, key, stored)
    try:
        yield
    finally:
        put_stored(table, key, before)


def rows_of(table: Table, kind: str) -> dict[bytes, bytes]:
    """Return the rows of a kind: rest of the key → value without its check, which is verified."""
    found = {}
    with table.begin_read() as txn:
        for key, stored in txn.scan(b"", None):
            if key[:1] == kind.encode():
                value = stored[:-CHECK_SIZE]
                assert seal_row(key, value) == stored
                found[key[1:]] = value
    return found
