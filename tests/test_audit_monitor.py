"""Following checkpoints: what contradicts what was shown before is an alarm, with the evidence kept."""

from pathlib import Path

import pytest

from audit_case import LOG, ORIGIN, Forge, make_forge
from consentd.audit.monitor import FIRST, FORK, GROWN, ROLLBACK, SAME, STALE, Monitor
from consentd.audit.places import Exported
from consentd.core import checkpoint, note
from consentd.errors import SignatureError, StorageError


def watch(directory: Path, **options: int) -> Monitor:
    return Monitor(directory, origin=ORIGIN, log_verifier=LOG.verifier, **options)


def cut(forge: Forge, size: int) -> Forge:
    return Forge(leaves=forge.leaves[:size], openings=forge.openings[:size])


@pytest.fixture(scope="module")
def forge() -> Forge:
    return make_forge(1500)


def look(monitor: Monitor, forge: Forge, directory: Path, now_s: int = 0) -> str:
    return monitor.look(forge.write(directory).open(), now_s).what


def test_a_growing_ledger_is_followed(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    seen = [look(monitor, cut(forge, size), tmp_path / str(size)) for size in (2, 255, 256, 257, 257, 700, 1500)]
    assert seen == [FIRST, GROWN, GROWN, GROWN, SAME, GROWN, GROWN]
    again = watch(tmp_path / "watch")  # another process
    assert again.held == monitor.held
    assert look(again, forge, tmp_path / "1500") == SAME
    assert len(list((tmp_path / "watch" / "checkpoints").iterdir())) == 6


@pytest.mark.parametrize("size", [600, 800])
def test_another_tree_is_a_fork_with_both_notes_as_evidence(forge: Forge, tmp_path: Path, size: int) -> None:
    monitor = watch(tmp_path / "watch")
    look(monitor, cut(forge, 600), tmp_path / "a")
    other = cut(make_forge(1500, people=9), size)
    seen = monitor.look(other.write(tmp_path / "b").open(), 0)
    assert seen.what == FORK
    points = [checkpoint.open_checkpoint(path.read_bytes(), ORIGIN, LOG.verifier)[0] for path in seen.evidence]
    assert [point.size for point in points] == [600, size]
    assert points[0].root != points[1].root
    assert monitor.held == points[0]  # a fork is never held
    assert look(monitor, cut(forge, 900), tmp_path / "c") == GROWN


def test_a_smaller_tree_is_a_rollback(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    look(monitor, cut(forge, 600), tmp_path / "a")
    assert look(monitor, cut(forge, 500), tmp_path / "b") == ROLLBACK
    assert monitor.held is not None
    assert monitor.held.size == 600


def test_silence_is_an_alarm_after_a_while(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch", max_silence_s=60)
    place = cut(forge, 600)
    seen = [look(monitor, place, tmp_path / "a", now_s) for now_s in (1000, 1050, 1061)]
    assert seen == [FIRST, SAME, STALE]
    point = checkpoint.Checkpoint(ORIGIN, 600, place.root())
    text = checkpoint.format_checkpoint(point)
    witness = note.Signer("witness.example", note.KeyPair(b"\5" * 32), note.COSIGNATURE)
    cosigned = note.format_note(text, [LOG.sign(text), witness.cosign(text, 1)])
    (tmp_path / "a" / "checkpoint").write_bytes(cosigned)
    source = Exported(tmp_path / "a").open()
    assert monitor.look(source, 1070).what == SAME
    assert monitor.look(source, 1120).what == SAME
    assert monitor.look(source, 1131).what == STALE


def test_damaged_or_missing_tiles_prove_nothing(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    look(monitor, cut(forge, 300), tmp_path / "a")
    place = cut(forge, 900).write(tmp_path / "b")
    for path in (tmp_path / "b" / "tile").rglob("*"):
        if path.is_file() and "entries" not in path.parts:
            path.unlink()
    with pytest.raises(StorageError):
        monitor.look(place.open(), 0)
    assert monitor.held is not None
    assert monitor.held.size == 300


def test_a_note_that_the_log_did_not_sign_is_no_alarm_of_it(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    place = cut(forge, 300).write(tmp_path / "a")
    stranger = note.Signer(ORIGIN, note.KeyPair(b"\7" * 32))
    forged = checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, 300, bytes(32)), [stranger])
    (tmp_path / "a" / "checkpoint").write_bytes(forged)
    with pytest.raises(SignatureError):
        monitor.look(place.open(), 0)


def test_what_is_kept_is_verified_when_read(forge: Forge, tmp_path: Path) -> None:
    look(watch(tmp_path / "watch"), cut(forge, 300), tmp_path / "a")
    (tmp_path / "watch" / "standing.json").write_text("{}")
    with pytest.raises(StorageError):
        watch(tmp_path / "watch")
