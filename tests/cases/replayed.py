"""What a daemon whose clock does not run has recorded, computed once more."""

from pathlib import Path

from cases.daemons import ORIGIN, Running
from cases.services import services
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.cosigning.keyfiles import read_signing_key
from consentd.table.table import Table, catch_up


def check_again(running: Running, directory: Path) -> None:
    """Assert that the table and each decision of a daemon come out again; stop the daemon."""
    opened = services(running)
    fresh = Table.open(directory / "fresh", map_size_mb=16)
    with opened.table.read() as stored:
        catch_up(fresh, opened.ledger.store, opened.vault, size=stored.size)
        with fresh.read() as rebuilt:
            assert list(rebuilt.rows()) == list(stored.rows())
    fresh.close()
    running.stop()
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(running.config), origin=ORIGIN, log_verifier=verifier)
    assert (replayed.faults, replayed.not_checked) == ((), {})
    assert replayed.entries >= opened.ledger.state.size
