"""A ledger begins once with its keys: an empty data directory, of a disk that is not mounted, begins no second one."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cases.daemons import Running, make_config, make_running
from cases.processes import ENVIRONMENT
from consentd.config import Config
from consentd.core import ed25519, note
from consentd.errors import StorageError
from consentd.files import lock_directory
from consentd.server import first_start
from consentd.server.daemon import Daemon
from consentd.server.first_start import DATA_NAME, check_first_start, mark_path, note_first_start
from consentd.server.keys import make_keys, read_keys
from consentd.store.rocks import RocksStore

STEPS = """
import os, signal, sys
from pathlib import Path
from cases.daemons import make_config
from consentd.server import first_start
from consentd.server.daemon import Daemon

left = int(sys.argv[2])

def ended(call):
    def run(*args, **kwargs):
        global left
        value = call(*args, **kwargs)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return value
    return run

first_start.write_file = ended(first_start.write_file)
first_start.sync = ended(first_start.sync)
Daemon._write_first_entries = ended(Daemon._write_first_entries)
daemon = Daemon(make_config(Path(sys.argv[1])))
daemon.start()
daemon.stop()
"""
"""Starts a daemon once, which kills itself when as many steps as its second argument says have ended."""
STEP_COUNT = 5
"""The file in the data directory, the mark, leaf 0, and the removal of both."""


def elsewhere(config: Config, path: Path) -> Config:
    """Return *config* with another data directory, as if the disk were not mounted."""
    ledger = replace(config.ledger, data_dir=path, last_signed_path=path / "last-signed")
    return replace(config, ledger=ledger, table=replace(config.table, path=path / "table"))


def begins(config: Config) -> bool:
    """Start and stop a daemon; return whether it began, or had, a ledger."""
    daemon = Daemon(config)
    try:
        daemon.start()
    except StorageError:
        return False
    daemon.stop()
    return True


def test_the_mark_is_gone_after_the_first_start(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    mark = mark_path(running.config)
    assert not mark.exists()
    assert not (running.config.ledger.data_dir / DATA_NAME).exists()
    running.check_ledger()
    running.stop()
    again = Running(running.config, running.tokens)
    again.check_ledger()
    again.stop()


def test_a_disk_that_is_not_mounted_begins_no_second_ledger(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    running.check_ledger()
    running.stop()
    data_dir, kept = running.config.ledger.data_dir, tmp_path / "kept"
    data_dir.rename(kept)
    for make in (lambda: None, data_dir.mkdir):
        shutil.rmtree(data_dir, ignore_errors=True)
        make()
        with pytest.raises(StorageError, match=r"is its disk mounted\?.*RUNBOOK"):
            Daemon(running.config).start()
        assert not (data_dir / "ledger").exists()
    shutil.rmtree(data_dir)
    kept.rename(data_dir)
    again = Running(running.config, running.tokens)
    again.check_ledger()
    again.stop()


@pytest.mark.parametrize("step", range(1, STEP_COUNT + 1))
def test_after_a_crash_the_ledger_begins_in_one_data_directory_alone(tmp_path: Path, step: int) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    child = subprocess.run([sys.executable, "-c", STEPS, str(tmp_path), str(step)], env=ENVIRONMENT, timeout=120)
    assert child.returncode == -9
    other = elsewhere(config, tmp_path / "other")
    if step == 1:  # the mark does not name a data directory yet
        assert begins(other)
        assert not begins(config)
        return
    assert not begins(other)
    assert not (tmp_path / "other" / "ledger").exists()
    assert begins(config)
    assert not begins(other)
    assert not mark_path(config).exists()
    assert not (config.ledger.data_dir / DATA_NAME).exists()


def test_the_steps_are_all_that_there_are(tmp_path: Path) -> None:
    make_keys(make_config(tmp_path))
    child = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path), str(STEP_COUNT + 1)], env=ENVIRONMENT, timeout=120
    )
    assert child.returncode == 0


def test_a_second_daemon_that_starts_meanwhile_begins_nothing(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    log_key = read_keys(config).log.verifier
    other = elsewhere(config, tmp_path / "other")
    for each in (config, other):
        each.ledger.data_dir.mkdir()
        check_first_start(each, log_key)  # both may begin up to here
    note_first_start(config, log_key)
    note_first_start(config, log_key)  # as after a crash
    with pytest.raises(StorageError):
        note_first_start(other, log_key)
    with pytest.raises(StorageError):
        check_first_start(other, log_key)
    lock = lock_directory(mark_path(config).parent)  # as another daemon has it, just now
    with pytest.raises(StorageError):
        note_first_start(config, log_key)
    os.close(lock)
    note_first_start(config, log_key)


def test_keys_may_be_in_the_data_directory(tmp_path: Path) -> None:
    config = make_config(tmp_path, data_dir='"keys"')
    make_keys(config)
    assert begins(config)
    assert not mark_path(config).exists()
    assert begins(config)


def test_a_store_without_a_ledger_needs_the_mark_too(tmp_path: Path) -> None:
    """After a crash between the opening of the store and leaf 0, the store exists and has no state."""
    config = make_config(tmp_path)
    make_keys(config)
    config.ledger.data_dir.mkdir()
    RocksStore.open(config.ledger.store_dir).close()
    mark = mark_path(config)
    kept = mark.read_bytes()
    mark.unlink()
    assert not begins(config)
    mark.write_bytes(kept)
    assert begins(config)


OTHER_KEY = note.format_vkey(note.Signer("other.example.org", ed25519.KeyPair(b"\x05" * 32)).verifier)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\xff\n", OTHER_KEY.encode() + b"\n", OTHER_KEY.encode(), b"{mark}x\n", b"{mark}" + b"0" * 31 + b"\n",
     b"{mark}" + b"0" * 32, b"{mark}" + b"0" * 32 + b"\n\n", b"{mark}" + b"0" * 32 + b"\n", b"{mark}{mark}"],
)  # fmt: skip
def test_a_mark_with_other_content_begins_nothing(tmp_path: Path, content: bytes) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    mark = mark_path(config)
    mark.write_bytes(content.replace(b"{mark}", mark.read_bytes()))
    with pytest.raises(StorageError, match="RUNBOOK"):
        Daemon(config).start()
    assert not config.ledger.store_dir.exists()


def test_a_mark_that_cannot_be_written_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    make_keys(config)
    whole = first_start.write_file

    def fail(path: Path, *args: object, **more: object) -> None:
        if path == mark_path(config):
            raise StorageError("file cannot be written")
        whole(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(first_start, "write_file", fail)
    assert not begins(config)
    monkeypatch.undo()
    assert begins(config)
