"""What keeps the alarms about backups silent: no time that somebody writes into a manifest or a proof."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cases.backups import back_up, section, sets_of
from cases.daemons import ORIGIN, Running, running_daemon
from cases.fakes import FakeClock
from cases.services import services
from consentd.backup.directory import BackupDirectory
from consentd.backup.proof import BackupTimes, Proven, write_proven
from consentd.backup.reading import find_pair
from consentd.clock import MAX_AHEAD_MS


def times_of(running: Running, *, later_ms: int = 0) -> BackupTimes:
    """Return the times that a daemon would show that starts now, or that much later."""
    directory = running.config.backup.dir
    assert directory is not None
    clock = FakeClock(services(running).sequencer.clock.wall_ms() + later_ms)
    return BackupTimes(BackupDirectory(directory), origin=ORIGIN, clock=clock).of_ledger(services(running).ledger)


def edit(path: Path, **fields: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **fields}))


def proven(running: Running) -> Proven:
    of = find_pair(*sets_of(running, "one"), origin=ORIGIN).ledger.manifest.of
    return Proven(
        origin=of.origin, backup_id=of.backup_id, name=of.name, backup_time_ms=of.time_ms,
        proven_time_ms=of.time_ms + 1, tree_size=of.tree_size, root=of.root,
    )  # fmt: skip


@pytest.fixture
def running(tmp_path: Path) -> Any:
    with running_daemon(tmp_path, section()) as made:
        back_up(made)
        yield made


def test_a_time_in_the_future_counts_for_nothing_until_it_has_come(running: Running) -> None:
    of = find_pair(*sets_of(running, "one"), origin=ORIGIN).ledger.manifest.of
    assert times_of(running).last_s() == of.time_ms / 1000
    ahead_ms = 10 * MAX_AHEAD_MS
    edit(sets_of(running, "one")[0], time_ms=of.time_ms + ahead_ms)
    assert times_of(running).last_s() == 0
    # Then it counts up to the seal that came after the backup, if one did.
    assert of.time_ms <= times_of(running, later_ms=ahead_ms).last_s() * 1000 <= of.time_ms + ahead_ms
    directory, good = running.config.backup.dir, proven(running)
    assert directory is not None
    for one in (
        dataclasses.replace(good, backup_time_ms=of.time_ms + ahead_ms, proven_time_ms=of.time_ms + ahead_ms),
        dataclasses.replace(good, proven_time_ms=of.time_ms + ahead_ms),
        dataclasses.replace(good, backup_time_ms=of.time_ms + ahead_ms),
        dataclasses.replace(good, root=bytes(32)),
        dataclasses.replace(good, tree_size=good.tree_size + 1_000),
        dataclasses.replace(good, tree_size=0),
    ):
        write_proven(directory, one)
        assert times_of(running).proven_s() == 0


def test_an_old_backup_with_a_new_time_is_as_old_as_the_first_entry_that_it_lacks(running: Running) -> None:
    running.enrol("SYN-1")
    ledger = services(running).ledger
    of = find_pair(*sets_of(running, "one"), origin=ORIGIN).ledger.manifest.of
    assert ledger.state.size > of.tree_size
    later_ms = services(running).sequencer.clock.wall_ms() + 60_000
    edit(sets_of(running, "one")[0], time_ms=later_ms)
    directory = running.config.backup.dir
    assert directory is not None
    relabelled = dataclasses.replace(proven(running), backup_time_ms=later_ms, proven_time_ms=later_ms)
    write_proven(directory, relabelled)
    found = times_of(running, later_ms=120_000)
    assert of.time_ms <= found.last_s() * 1000 == found.proven_s() * 1000 < later_ms
