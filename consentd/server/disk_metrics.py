"""Tell how much room is left: on the file systems that the ledger lies on, and in the table's map."""

import math
import shutil
from functools import partial
from pathlib import Path

from consentd.config import Config
from consentd.errors import ConsentdError
from consentd.metrics import Metrics
from consentd.table.table import Table


def follow_room(metrics: Metrics, config: Config, table: Table) -> None:
    """Make the figures of room what they are whenever somebody asks for them."""
    places = {
        "ledger": config.ledger.store_dir,
        "vault": config.ledger.vault_dir,
        "table": config.table.path,
        "last_signed": config.ledger.last_signed_path.parent,
    }
    for place, path in places.items():
        metrics.free_bytes.follow(partial(_free_bytes, path), place)
    metrics.table_used_share.follow(partial(_used_share, table))


def _free_bytes(path: Path) -> float:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return math.nan  # no figure, rather than no figures at all


def _used_share(table: Table) -> float:
    try:
        return table.used_share()
    except ConsentdError:
        return math.nan  # closed: the daemon is stopping
