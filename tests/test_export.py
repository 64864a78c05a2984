"""Exporting: a directory that is, at any moment, a whole ledger at its checkpoint; nothing is written twice."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, ORIGIN, Forge, make_forge
from cases.daemons import Running
from cases.http_requests import start_busy_daemon
from cases.services import add_reader
from consentd.audit.export import ExportReport, export
from consentd.audit.live import LiveDaemon
from consentd.audit.sources import ExportDirectory
from consentd.audit.verify import verify_ledger
from consentd.core import checkpoint, tiles
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import ConsentdError, DeniedError, InvalidError, ProofError, StorageError

SIZES = (2, 255, 256, 257, 700, 65_535, 65_536, 65_537)


def copy(location: Any, target: Path, **options: Any) -> ExportReport:
    return export(location, target, origin=ORIGIN, log_verifier=LOG.verifier, **options)


def files(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def cut(forge: Forge, size: int) -> Forge:
    """Return the forge as it was at *size*, sealed there: a checkpoint needs no more for the tree to be one."""
    return Forge(leaves=forge.leaves[:size], openings=forge.openings[:size])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_busy_daemon(tmp_path_factory.mktemp("export"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def large() -> Forge:
    return make_forge(65_600, seal_every=1000)


@pytest.mark.parametrize("size", SIZES)
def test_the_layout_is_the_standards(tmp_path: Path, large: Forge, size: int) -> None:
    forge = cut(large, size)
    location = forge.write(tmp_path / "made", tmp_path / "made-openings")
    done = copy(location, tmp_path / "copy", statements=tmp_path / "openings")
    assert (done.checkpoint.size, done.start, done.removed) == (size, 0, 0)
    assert files(tmp_path / "copy") == files(tmp_path / "made")
    assert files(tmp_path / "openings") == files(tmp_path / "made-openings")
    assert done.files == len(files(tmp_path / "copy")) + len(files(tmp_path / "openings"))


def test_only_what_is_new_is_written(tmp_path: Path, large: Forge) -> None:
    copied, size = tmp_path / "copy", 0
    for size in (2, 300, 300, 511, 512, 600, 66_000):
        before = {name: (copied / name).stat().st_ino for name in files(copied)} if copied.exists() else {}
        forge = cut(large, min(size, large.size))
        done = copy(forge.write(tmp_path / str(size)), copied)
        after = files(copied)
        assert after == files(tmp_path / str(size))
        kept = [name for name, inode in before.items() if name in after and (copied / name).stat().st_ino == inode]
        full = [name for name in before if ".p/" not in name and name != "checkpoint"]
        assert set(full) <= set(kept)
        assert done.start % 256 == 0
        assert done.start <= size
    assert size > 65_536


def test_an_interrupted_export_goes_on(tmp_path: Path, large: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at each single file, the directory still holds the older ledger whole, and the next run finishes."""
    older, newer = cut(large, 300), cut(large, 1100)
    old_place, new_place = older.write(tmp_path / "old"), newer.write(tmp_path / "new")
    replace = os.replace
    stops = 0
    while True:
        target = tmp_path / f"copy-{stops}"
        copy(old_place, target)
        left = stops

        def stopping(source: Path, location: Path) -> None:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            left -= 1
            replace(source, location)

        monkeypatch.setattr(os, "replace", stopping)
        try:
            copy(new_place, target)
        except StorageError:
            stopped = True
        else:
            stopped = False
        monkeypatch.setattr(os, "replace", replace)
        if not stopped:
            break
        report = verify_ledger(ExportDirectory(target), origin=ORIGIN, log_verifier=LOG.verifier)
        assert report.checkpoint.size == 300
        assert [fault for fault in report.faults if fault.index != 299] == []
        copy(new_place, target)
        assert {name: content for name, content in files(target).items() if not name.endswith(".tmp")} == files(
            tmp_path / "new"
        )
        stops += 1
    assert stops > 8


def test_a_contradiction_is_refused_and_the_old_checkpoint_stays(tmp_path: Path, large: Forge) -> None:
    copied = tmp_path / "copy"
    copy(cut(large, 700).write(tmp_path / "a"), copied)
    note = (copied / "checkpoint").read_bytes()
    with pytest.raises(ProofError):
        copy(cut(large, 500).write(tmp_path / "b"), copied)
    other = make_forge(900, people=9)
    with pytest.raises(ProofError):
        copy(other.write(tmp_path / "c"), copied)
    with pytest.raises(ProofError, match="is not the one that was exported"):
        copy(cut(other, 700).write(tmp_path / "d"), copied)
    assert (copied / "checkpoint").read_bytes() == note


def test_leaves_that_the_log_did_not_sign_are_not_exported(tmp_path: Path, large: Forge) -> None:
    location = cut(large, 700).write(tmp_path / "a")
    path = tmp_path / "a" / "tile" / "entries" / "001"
    content = bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProofError):
        copy(location, tmp_path / "copy")
    assert not (tmp_path / "copy" / "checkpoint").exists()


def test_without_openings_none_are_exported(tmp_path: Path, large: Forge) -> None:
    with pytest.raises(InvalidError):
        copy(cut(large, 300).write(tmp_path / "a"), tmp_path / "b", statements=tmp_path / "c")


@pytest.mark.slow
def test_a_running_daemon_is_exported(running: Running, tmp_path: Path) -> None:
    daemon, log = running.daemon, read_signing_key(running.config.keys.log_key_file).verifier
    location = LiveDaemon(
        url=f"http://127.0.0.1:{daemon.http_port}", target=f"127.0.0.1:{daemon.grpc_port}",
        token=running.tokens[add_reader(running)],
    )
    options: dict[str, Any] = {"origin": log.name, "log_verifier": log}
    done = export(location, tmp_path / "copy", statements=tmp_path / "openings", threads=2, **options)
    assert done.checkpoint.size > 900
    note = (tmp_path / "copy" / "checkpoint").read_bytes()
    assert checkpoint.open_checkpoint(note, log.name, log)[0] == done.checkpoint
    report = verify_ledger(ExportDirectory(tmp_path / "copy", tmp_path / "openings"), **options)
    assert report.faults == ()
    assert report.statements_opened == report.entries
    with pytest.raises(DeniedError):
        export(LiveDaemon(url=location.url, token=running.tokens["app"]), tmp_path / "no", **options)


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    for location in (LiveDaemon(url="http://127.0.0.1:9", pause_s=0), LiveDaemon(url="https://127.0.0.1:9", pause_s=0)):
        with pytest.raises(StorageError):
            copy(location, tmp_path)
    for url, token in (("ftp://127.0.0.1/", ""), ("http://log.example", "secret-token")):
        with pytest.raises(ConsentdError) as caught:
            copy(LiveDaemon(url=url, token=token), tmp_path)
        assert "secret-token" not in str(caught.value)
    assert "secret-token" not in repr(LiveDaemon(url="http://log.example", token="secret-token"))


def test_a_file_of_another_program_is_left_alone(tmp_path: Path, large: Forge) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "index.html").write_text("log of the realm")
    copy(cut(large, 300).write(tmp_path / "a"), tmp_path / "copy")
    assert (tmp_path / "copy" / "index.html").exists()
    assert (tmp_path / "copy" / tiles.tile_path(0, 0)).exists()
