"""Measure what may become short: space on the disks and in the table's map, file descriptors and connections."""

import math
import os
from functools import partial
from pathlib import Path

from consentd import descriptors
from consentd.config import Config
from consentd.errors import StorageError
from consentd.listener.server import Listener
from consentd.metrics import Metrics
from consentd.table.table import Table

URGENT_PART = 8
"""An eighth of ``ledger.min_free_mb`` is for seals, and for writes that take a permission away."""


def check_space(config: Config, is_urgent: bool) -> None:
    """Check that each disk that a write needs has the space of ``ledger.min_free_mb``. Takes a few microseconds.

    *is_urgent*: an eighth of that space is enough.

    Raises:
        StorageError: a disk has less space.
    """
    least = (config.ledger.min_free_mb << 20) // (URGENT_PART if is_urgent else 1)
    for place, path in _places(config).items():
        # The last signed checkpoint is one small file, and its disk may be as small.
        if place != "last_signed" and _free_bytes(path) < least:
            raise StorageError(f"too little space on the disk of the {place}: see ops/RUNBOOK.md, `disk full`")


def measure_space(metrics: Metrics, config: Config, table: Table) -> None:
    """Make each fetch of the metrics measure every directory's free bytes, and the table's used share and damage."""
    for place, path in _places(config).items():
        metrics.free_bytes.follow(partial(_free_bytes, path), place)
    metrics.table_used_share.follow(table.used_share)
    metrics.table_damaged.follow(lambda: table.damaged)


def measure_connections(metrics: Metrics, http: Listener) -> None:
    """Make each fetch of the metrics count file descriptors and HTTP connections."""
    metrics.open_files.follow(lambda: len(os.listdir("/proc/self/fd")))
    metrics.open_files_limit.set(descriptors.limit())
    metrics.http_connections.follow(lambda: http.connections)
    metrics.http_connections_limit.set(http.max_connections)


def _places(config: Config) -> dict[str, Path]:
    ledger = config.ledger
    return {
        "ledger": ledger.store_dir,
        "vault": ledger.vault_dir,
        "table": config.table.path,
        "last_signed": ledger.last_signed_path.parent,
    }


def _free_bytes(path: Path) -> float:
    """Return the free bytes of the file system of *path*; NaN if the path is missing: NaN is less than no number."""
    try:
        found = os.statvfs(path)
    except FileNotFoundError:
        return math.nan  # the vault of an empty ledger does not exist yet
    return found.f_bavail * found.f_frsize
