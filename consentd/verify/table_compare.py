"""Compare the policy table with a rebuilt table: for ``fsck``, ``consentd table verify`` and the scrub."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from consentd.errors import CorruptionError
from consentd.table.table import Table
from consentd.table.view import Snapshot, is_derived

Row = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Difference:
    """A wrong table row. *stored* is None if the table lacks the row, *rebuilt* is None if the row must not exist."""

    key: bytes
    stored: bytes | None
    rebuilt: bytes | None

    @property
    def kind(self) -> str:
        """The kind of the row: the first byte of the key."""
        return self.key[:1].decode("ascii", "replace")

    @property
    def what(self) -> str:
        """A sentence for the operator. The key is left out, because it may identify a person."""
        wrong = "is missing" if self.stored is None else "is not what the entries make it"
        return f"table row of kind `{self.kind}` {'must not be there' if self.rebuilt is None else wrong}"


def compare_rows(stored: Iterator[Row], rebuilt: Iterator[Row]) -> Iterator[Difference]:
    """Yield the rows that differ. Both iterators are sorted by key."""
    ours, theirs = next(stored, None), next(rebuilt, None)
    while ours is not None or theirs is not None:
        key = min(row[0] for row in (ours, theirs) if row is not None)
        found = expected = None
        if ours is not None and ours[0] == key:
            found, ours = ours[1], next(stored, None)
        if theirs is not None and theirs[0] == key:
            expected, theirs = theirs[1], next(rebuilt, None)
        if found != expected and is_derived(key):
            yield Difference(key, found, expected)


@contextmanager
def scratch_table(directory: Path, *, map_size_mb: int) -> Iterator[Table]:
    """Open an empty table in *directory*, and delete it at the end of the ``with`` block."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        with closing(Table.open(directory, map_size_mb=map_size_mb)) as table:
            yield table
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_size(snapshot: Snapshot, size: int) -> None:
    """Raise CorruptionError if a table reflects more than its ledger's *size* leaves. Fewer are right after a crash."""
    if snapshot.size > size:
        raise CorruptionError(f"table is ahead of its ledger: size {snapshot.size}, ledger has {size}")
