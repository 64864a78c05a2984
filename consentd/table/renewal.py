"""Make the files of the policy table anew, so that no byte of a deleted row is left in them.

LMDB does not overwrite what it deletes. A freed page keeps its rows until it is used again, and a page in use has bytes
of other rows between and in place of its own (``store.lmdb_pages``). So a clean copy is made, and takes the place of
the old file. Readers of the old file go on with it; its bytes are free when the last of them ends.

The copy is made while the sequencer writes the table in use. Then the entries since are applied to the copy, on the
sequencer's thread, and the copy takes the place of the table.
"""

import shutil
from collections.abc import Callable
from typing import Protocol, TypeVar

from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.table.table import Table, catch_up

T = TypeVar("T")

_MOST_LEFT = 500
"""The copy may lack so many leaves when the sequencer's thread begins to apply the rest: it takes some milliseconds."""
_ROUNDS = 8


class RunOnWriter(Protocol):
    """Runs a function on the sequencer's thread, between two batches, and returns the function's result."""

    def __call__(self, run: Callable[[], T], /) -> T: ...


def renew(
    table: Table, store: Store, vault: Vault, *, run_on_writer: RunOnWriter, rest: Callable[[], None] = lambda: None
) -> None:
    """Replace the files of *table* by new ones with the same rows. *rest*: called between two pieces of work.

    Raises:
        StorageError: a disk fails or is full. The table is as it was.
    """
    directory = table.path.with_name(table.path.name + ".new")
    shutil.rmtree(directory, ignore_errors=True)  # a crash may have left one
    try:
        table.copy(directory, rest)
        copy = Table.open(directory, map_size_mb=table.map_size_mb)
        try:
            for _ in range(_ROUNDS):
                if catch_up(copy, store, vault, size=_size(table)) <= _MOST_LEFT:
                    break
            run_on_writer(lambda: _take_place(table, copy, store, vault))
        finally:
            copy.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _take_place(table: Table, copy: Table, store: Store, vault: Vault) -> None:
    """Apply the last entries to the copy, and put it in the place of the table. No row changes meanwhile."""
    with table.read() as snapshot:
        size, heartbeat_ms = snapshot.size, snapshot.heartbeat_ms()
    catch_up(copy, store, vault, size=size)
    copy.put_sealed_credentials(table.sealed_credentials())  # some may have been revoked since the rows were copied
    copy.heartbeat(heartbeat_ms)
    table.adopt(copy)


def _size(table: Table) -> int:
    with table.read() as snapshot:
        return snapshot.size
