"""Make the policy table anew, to take its place or to compare with it. The daemon must be stopped."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from consentd.cli.out import Progress
from consentd.config import Config
from consentd.errors import CorruptionError, StorageError
from consentd.ledger.ledger import Ledger
from consentd.ledger.recovery import open_ledger
from consentd.ledger.vault import Vault
from consentd.server.keys import read_keys
from consentd.store.rocks import RocksStore
from consentd.table.table import Table, catch_up, merge_rows

_LOOSE = 2
"""How much larger than the table one made anew may get, and 64 MB, before it is copied."""


def rebuild(config: Config, progress: Progress) -> int:
    """Replace the policy table by one made from the ledger; return how many leaves it reflects.

    A crash on the way leaves the old table, or none: then the daemon makes one when it starts.

    Raises:
        StorageError: the daemon is running, or the disk fails.
        CorruptionError: the ledger contradicts itself.
    """
    with _ledger(config) as (ledger, vault):
        made = config.table.path.with_name(config.table.path.name + ".new")
        loose = config.table.path.with_name(config.table.path.name + ".made")
        size = _make(loose, ledger, vault, config, progress)
        shutil.rmtree(made, ignore_errors=True)
        # Made in the entries' order its pages are half full, and some are free: the copy has none of that.
        table = Table.open_read_only(loose)
        try:
            table.copy(made)
        finally:
            table.close()
            shutil.rmtree(loose, ignore_errors=True)
        old = config.table.path.with_name(config.table.path.name + ".old")
        try:
            shutil.rmtree(old, ignore_errors=True)
            if config.table.path.exists():
                config.table.path.rename(old)
            made.rename(config.table.path)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"table cannot be put in its place: `{made}`: {error.strerror}") from error
    return size


def differences(config: Config, progress: Progress) -> tuple[int, int, Counter[str]]:
    """Compare the policy table with one made from the ledger: (tree size, rows, what differs and how often).

    They are compared at the size the table stands at: one behind its ledger is ordinary after a crash.

    Raises:
        StorageError: the daemon is running, there is no table, or the disk fails.
        CorruptionError: the ledger contradicts itself, or the table's files are damaged.
    """
    scratch = config.table.path.with_name(config.table.path.name + ".verify")
    with _ledger(config) as (ledger, vault), ExitStack() as stack:
        old = Table.open_read_only(config.table.path)
        stack.callback(old.close)
        standing = stack.enter_context(old.read())
        if standing.size > ledger.state.size:
            raise CorruptionError(f"table is ahead of its ledger: size {standing.size}, ledger has {ledger.state.size}")
        at_its_size = Ledger(ledger.store, replace(ledger.state, size=standing.size), ledger.edge, ledger.map)
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        size = _make(scratch, at_its_size, vault, config, progress)
        new = Table.open_read_only(scratch)
        stack.callback(new.close)
        made = stack.enter_context(new.read())
        rows, found = _compare(standing.rows(), made.rows())
    return size, rows, found


@contextmanager
def _ledger(config: Config) -> Iterator[tuple[Ledger, Vault]]:
    keys = read_keys(config)
    store = RocksStore.open_read_only(config.ledger.store_dir)
    try:
        vault_store = RocksStore.open_read_only(config.ledger.vault_dir)
        try:
            ledger = open_ledger(
                store,
                last_signed_path=config.ledger.last_signed_path,
                origin=config.ledger.origin,
                log_verifier=keys.log.verifier,
                map_bits=config.ledger.map_bits,
            )
            yield ledger, Vault(vault_store, keys.vault)
        finally:
            vault_store.close()
    finally:
        store.close()


def _make(path: Path, ledger: Ledger, vault: Vault, config: Config, progress: Progress) -> int:
    shutil.rmtree(path, ignore_errors=True)
    table = Table.open(path, map_size_mb=_LOOSE * config.table.map_size_mb + 64)
    try:
        total = ledger.state.size
        return catch_up(table, ledger, vault, time.time_ns() // 1_000_000, lambda done: progress(done, total))
    finally:
        table.close()


def _compare(standing: Iterator[tuple[bytes, bytes]], made: Iterator[tuple[bytes, bytes]]) -> tuple[int, Counter[str]]:
    """Tell by the kind of row what differs, never whose it is."""
    found: Counter[str] = Counter()
    count = 0
    for key, stands, should in merge_rows(standing, made):
        count += should is not None
        if stands != should:
            what = "that differ"
            if stands is None or should is None:
                what = "that are missing" if stands is None else "that the ledger does not yield"
            found[f"rows `{chr(key[0])}` {what}"] += 1
    return count, found
