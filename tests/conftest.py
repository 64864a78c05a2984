"""Settings and fixtures of all tests. No test measures time, so a busy machine fails none.

A module that needs another ledger or daemon defines a fixture of the same name. Imports are in the fixtures, so that
tests of the pure core start without the daemon.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from consentd.tls_files import require_tls13

if TYPE_CHECKING:
    from cases.audits import Forge
    from cases.daemons import Running
    from cases.ledgers import LedgerCase
    from consentd.audit.sources import ExportDirectory
    from consentd.v1 import consent_pb2 as pb

require_tls13()  # before a test imports grpc, as `consentd serve` does

settings.register_profile("consentd", deadline=None)
settings.load_profile("consentd")


@pytest.fixture
def short_path() -> "Iterator[Path]":
    """A directory with a shorter path than ``tmp_path``: that of a Unix socket has a limit."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture
def own(tmp_path: Path) -> "Iterator[LedgerCase]":
    """A ledger for one test, closed after the test and verified from public bytes."""
    from cases.ledgers import LedgerCase, check_ledger

    made = LedgerCase(tmp_path)
    yield made
    made.close()
    check_ledger(made)


@pytest.fixture
def case(own: "LedgerCase") -> "LedgerCase":
    return own


@pytest.fixture(scope="module")
def location(forge: "Forge", tmp_path_factory: pytest.TempPathFactory) -> "ExportDirectory":
    """The export of a module's forged ledger."""
    directory = tmp_path_factory.mktemp("export")
    return forge.write(directory / "log", directory / "openings")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Running]":
    """A daemon for the tests of a module. Checkpoints follow each other closely, so a call seldom waits for one."""
    from cases.daemons import make_running, serve

    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


@pytest.fixture
def subject(running: "Running") -> "pb.Subject":
    """A person who is enrolled for one test."""
    from cases.services import new_identifier

    return running.enrol(new_identifier())
