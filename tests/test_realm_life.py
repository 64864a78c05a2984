"""A realm's life: sequencer, reference and replay decide the same, and a table made anew has the same rows."""

import os
from pathlib import Path

import pytest

from cases.ledgers import LOG, ORIGIN, check_ledger
from cases.realm_lives import RealmLife
from consentd.audit.replay import replay_decisions
from consentd.table.table import Table, catch_up

STEPS = int(os.environ.get("CONSENTD_LIFE_STEPS", "300"))


@pytest.mark.parametrize("seed", [2, 3, 5])  # lives in which each outcome came out
def test_sequencer_reference_table_and_replay_agree(tmp_path: Path, seed: int) -> None:
    life = RealmLife(tmp_path, seed)
    for number in range(STEPS):
        if number == STEPS // 2:
            life.publish_vocabulary()
        if number == 2 * STEPS // 3:
            life.case.reopen()
        life.step()
    asked = life.asked
    assert min(asked[f"OUTCOME_{name}"] for name in ("PERMIT", "DENY", "NO_CONSENT")) > 0
    assert min(asked["denied"], asked["reduced"], asked["residual"]) > 0
    report = replay_decisions(life.export(tmp_path / "export"), origin=ORIGIN, log_verifier=LOG.verifier)
    # The daemon would not have recorded some of the random consents, but they count all the same.
    assert [fault.what for fault in report.faults if not fault.what.startswith("entry must not be written so")] == []
    assert not report.stopped
    assert sum(report.same.values()) == sum(times for name, times in asked.items() if name.startswith("OUTCOME_"))
    case = life.case
    assert case.table is not None
    fresh = Table.open(tmp_path / "fresh", map_size_mb=16)
    catch_up(fresh, case.ledger.store, case.vault, size=case.ledger.state.size)
    with fresh.read() as rebuilt, case.table.read() as stored:
        assert list(rebuilt.rows()) == list(stored.rows())
    fresh.close()
    check_ledger(case)
    case.close()
