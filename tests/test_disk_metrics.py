"""How much room is left, as an operator's monitoring sees it."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cases.daemons import make_running
from consentd.metrics import Metrics
from consentd.server.capacity import measure_space
from consentd.table.table import Table


def config_of(directory: Path) -> Any:
    ledger = SimpleNamespace(store_dir=directory, vault_dir=directory, last_signed_path=directory / "last-signed")
    return SimpleNamespace(ledger=ledger, table=SimpleNamespace(path=directory))


def test_a_table_that_fills_is_seen(tmp_path: Path) -> None:
    table = Table.open(tmp_path / "table", map_size_mb=1)
    metrics = Metrics()
    measure_space(metrics, config_of(tmp_path), table)
    before = metrics.value("consentd_table_used_share")
    with table.begin_write() as txn:
        for number in range(100):
            txn.put(number.to_bytes(2), bytes(3_000))
    after = metrics.value("consentd_table_used_share")
    assert 0 < before < 0.1 < 0.3 < after < 1
    assert table.used_bytes() == round(after * (1 << 20))
    table.close()
    assert math.isnan(metrics.value("consentd_table_used_share"))
    assert b"consentd_table_used_share NaN" in metrics.render(with_private=True)


def test_a_place_that_is_gone_hides_no_other(tmp_path: Path) -> None:
    config, metrics = config_of(tmp_path), Metrics()
    config.table.path = tmp_path / "gone"
    measure_space(metrics, config, cast("Table", SimpleNamespace(used_share=lambda: 1 / 0)))
    assert b"consentd_table_used_share NaN" in metrics.render(with_private=True)
    assert math.isnan(metrics.value("consentd_free_bytes", place="table"))
    assert metrics.value("consentd_free_bytes", place="last_signed") > 0


def test_a_daemon_tells_its_room(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    metrics = running.daemon.metrics
    for place in ("ledger", "vault", "table", "last_signed"):
        assert metrics.value("consentd_free_bytes", place=place) > 0
    assert 0 < metrics.value("consentd_table_used_share") < 0.5
    running.stop()
    assert b"consentd_table_used_share NaN" in metrics.render(with_private=True)
