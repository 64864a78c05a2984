"""Rebuild the policy table (consents and rules, from which questions are answered) from the ledger.

The functions raise StorageError if the daemon is running, a file is missing or the disk fails, and CorruptionError if
the ledger contradicts itself.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from consentd.cli.out import Progress
from consentd.config import Config
from consentd.dumps import forbid_dumps
from consentd.errors import StorageError
from consentd.ledger.ledger import Ledger
from consentd.ledger.recovery import open_ledger
from consentd.ledger.restored import read_restored
from consentd.ledger.vault import Vault
from consentd.server.keys import read_keys
from consentd.server.preflight import check_vault_state, lock_data
from consentd.store.rocks import RocksStore
from consentd.table.table import Table, catch_up
from consentd.verify import table_compare


def rebuild(config: Config, progress: Progress) -> int:
    """Replace the policy table by one rebuilt from the ledger; return the number of the ledger's leaves.

    A crash leaves the old table in place, or no table. If there is none, the daemon rebuilds the table when it starts.
    """
    path = config.table.path
    scratch, compact, old = (path.with_name(path.name + suffix) for suffix in (".made", ".new", ".old"))
    with _ledger(config) as (ledger, vault):
        with _rebuild(config, scratch, ledger, vault, progress) as table:
            # Rows are written in an order that leaves many pages half full or free. A copy has only full pages.
            shutil.rmtree(compact, ignore_errors=True)
            table.copy(compact)
        try:
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            compact.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"rebuilt table cannot replace the old one: `{compact}`: {error.strerror}") from error
        return ledger.state.size


def differences(config: Config, progress: Progress) -> tuple[int, int, Counter[str]]:
    """Compare the policy table with one rebuilt from as many leaves. After a crash the ledger may have more leaves.

    Returns the table's size in leaves, the rebuilt table's number of rows, and how often each difference occurs.
    """
    scratch = config.table.path.with_name(config.table.path.name + ".verify")
    with _ledger(config) as (ledger, vault), ExitStack() as stack:
        table = stack.enter_context(closing(Table.open_read_only(config.table.path)))
        stored = stack.enter_context(table.read())
        table_compare.check_size(stored, ledger.state.size)
        rebuilt = stack.enter_context(_rebuild(config, scratch, ledger, vault, progress, size=stored.size))
        fresh = stack.enter_context(rebuilt.read())
        found = Counter(one.what for one in table_compare.compare_rows(stored.rows(), fresh.rows()))
        return stored.size, sum(1 for _ in fresh.rows()), found


@contextmanager
def _ledger(config: Config) -> Iterator[tuple[Ledger, Vault]]:
    forbid_dumps()
    keys = read_keys(config)
    with ExitStack() as stack:
        stack.callback(os.close, lock_data(config))
        store = stack.enter_context(closing(RocksStore.open_read_only(config.ledger.store_dir)))
        vault_store = stack.enter_context(closing(RocksStore.open_read_only(config.ledger.vault_dir)))
        ledger = open_ledger(
            store, last_signed_path=config.ledger.last_signed_path, origin=config.ledger.origin,
            log_verifier=keys.log.verifier, map_bits=config.ledger.map_bits,
            restored=read_restored(config.ledger.data_dir),
        )  # fmt: skip
        # A table that is built with an older vault lacks persons. Only a start without any table accepts that.
        check_vault_state(config.ledger.vault_dir, ledger, is_table_empty=False)
        yield ledger, Vault(vault_store, keys.keks)


def _heartbeat_ms(config: Config) -> int:
    """Return the heartbeat of a rebuilt table; 0, which no reader accepts, for a restored copy."""
    return time.time_ns() // 1_000_000 if read_restored(config.ledger.data_dir) is None else 0


@contextmanager
def _rebuild(
    config: Config, directory: Path, ledger: Ledger, vault: Vault, progress: Progress, *, size: int | None = None
) -> Iterator[Table]:
    """Yield a table rebuilt from the first *size* leaves (None: all). It may need twice the space of its copy."""
    total = ledger.state.size if size is None else size
    with table_compare.scratch_table(directory, map_size_mb=2 * config.table.map_size_mb + 64) as table:
        catch_up(
            table, ledger.store, vault, size=total, wall_ms=_heartbeat_ms(config),
            progress=lambda done: progress(done, total),
        )  # fmt: skip
        yield table
