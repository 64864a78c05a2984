"""The directory in which a backup is proven: it is removed, and never used by two proofs, or by others, at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cases.backups import back_up, identities, section, sets_of
from cases.daemons import ORIGIN, make_running
from consentd.backup import restoring
from consentd.backup.reading import FoundPair, find_pair
from consentd.backup.restoring import SCRATCH_NAME, Pins, Progress
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import StorageError
from consentd.files import lock_directory
from consentd.ledger.kek import read_keks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[FoundPair, Pins]:
    running = make_running(tmp_path_factory.mktemp("made"), section())
    back_up(running, "one")
    running.stop()
    keys = running.config.keys
    pins = Pins(ORIGIN, read_signing_key(keys.log_key_file).verifier, read_keks(keys))
    return find_pair(*sets_of(running, "one"), origin=ORIGIN), pins


@pytest.fixture
def pair(world: tuple[FoundPair, Pins]) -> FoundPair:
    return world[0]


@pytest.fixture
def pins(world: tuple[FoundPair, Pins]) -> Pins:
    return world[1]


def faults_of(pair: FoundPair, pins: Pins, scratch: Path) -> object:
    silent = Progress(lambda count: None, lambda done, total: None)
    return restoring.try_restore(pair, scratch, identities=identities(), pins=pins, progress=silent).faults


def test_a_proof_deletes_what_a_crash_has_left_and_follows_no_link(pair: FoundPair, pins: Pins, tmp_path: Path) -> None:
    path, prove = tmp_path / SCRATCH_NAME, partial(faults_of, pair, pins, tmp_path)
    (path / "proof" / "vault").mkdir(parents=True)
    path.chmod(0o755)
    with pytest.raises(StorageError, match="others can use it"):
        prove()
    path.chmod(0o700)
    (path / "proof" / "vault" / "000007.sst").write_text("left by a crash")
    assert prove() == ()
    assert not path.exists()
    path.mkdir(mode=0o700)
    with locked(path), pytest.raises(StorageError, match="in use"):
        prove()
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(StorageError, match="is a link"):
        prove()


def test_a_proof_that_begins_as_another_ends_uses_no_directory_that_is_gone(
    pair: FoundPair, pins: Pins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one removed the directory after this one had found it. A third one may have made it again."""
    path, prove = tmp_path / SCRATCH_NAME, partial(faults_of, pair, pins, tmp_path)
    for is_made_again in (False, True):

        def lock(found: Path, is_made_again: bool = is_made_again) -> int:
            descriptor = lock_directory(found)
            found.rmdir()
            if is_made_again:
                found.mkdir(mode=0o700)
            return descriptor

        with monkeypatch.context() as patch:
            patch.setattr(restoring, "lock_directory", lock)
            with pytest.raises(StorageError, match="another proof"):
                prove()
        assert path.exists() == is_made_again
    assert prove() == ()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    lock = lock_directory(path)
    try:
        yield
    finally:
        os.close(lock)
