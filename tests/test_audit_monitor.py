"""Following checkpoints: what contradicts what was shown before is an alarm, with the evidence kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, ORIGIN, Forge, make_forge
from cases.daemons import make_running
from consentd import cli
from consentd.audit.monitor import (
    ALARMS,
    FIRST,
    FORK,
    GROWN,
    ROLLBACK,
    SAME,
    STALE,
    UNREADABLE,
    UNWITNESSED,
    Monitor,
)
from consentd.audit.sources import ExportDirectory
from consentd.core import checkpoint, ed25519, note, quorum
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import SignatureError, StorageError

WITNESS = note.Signer("witness.example", ed25519.KeyPair(b"\5" * 32), note.COSIGNATURE)
STRANGER = note.Signer("witness.example", ed25519.KeyPair(b"\6" * 32), note.COSIGNATURE)
POLICY = quorum.parse_policy(
    f"log {note.format_vkey(LOG.verifier)}\nwitness w1 {note.format_vkey(WITNESS.verifier)}\nquorum w1\n".encode()
)


def watch(directory: Path, **options: Any) -> Monitor:
    return Monitor(directory, origin=ORIGIN, log_verifier=LOG.verifier, **options)


def cut(forge: Forge, size: int) -> Forge:
    return Forge(leaves=forge.leaves[:size], openings=forge.openings[:size])


@pytest.fixture(scope="module")
def forge() -> Forge:
    return make_forge(1500)


def observe(monitor: Monitor, forge: Forge, directory: Path, now_s: int = 0) -> str:
    return monitor.observe(forge.write(directory).open(), now_s).status


def test_a_growing_ledger_is_followed(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    seen = [observe(monitor, cut(forge, size), tmp_path / str(size)) for size in (2, 255, 256, 257, 257, 700, 1500)]
    assert seen == [FIRST, GROWN, GROWN, GROWN, SAME, GROWN, GROWN]
    again = watch(tmp_path / "watch")  # another process
    assert again.latest == monitor.latest
    assert observe(again, forge, tmp_path / "1500") == SAME
    assert len(list((tmp_path / "watch" / "checkpoints").iterdir())) == 6


@pytest.mark.parametrize("size", [600, 800])
def test_another_tree_is_a_fork_with_both_notes_as_evidence(forge: Forge, tmp_path: Path, size: int) -> None:
    monitor = watch(tmp_path / "watch")
    observe(monitor, cut(forge, 600), tmp_path / "a")
    other = cut(make_forge(1500, people=9), size)
    seen = monitor.observe(other.write(tmp_path / "b").open(), 0)
    assert seen.status == FORK
    points = [checkpoint.open_checkpoint(path.read_bytes(), ORIGIN, LOG.verifier)[0] for path in seen.evidence]
    assert [point.size for point in points] == [600, size]
    assert points[0].root != points[1].root
    assert monitor.latest == points[0]  # a fork is never held
    assert observe(monitor, cut(forge, 900), tmp_path / "c") == GROWN


def test_a_smaller_tree_is_a_rollback(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    observe(monitor, cut(forge, 600), tmp_path / "a")
    assert observe(monitor, cut(forge, 500), tmp_path / "b") == ROLLBACK
    assert monitor.latest is not None
    assert monitor.latest.size == 600


def test_a_log_that_cannot_be_read_is_silent(forge: Forge, tmp_path: Path) -> None:
    source = forge.write(tmp_path / "ledger").open()
    monitor = watch(tmp_path / "kept", max_silence_s=100)
    assert monitor.observe_silence(5000) is None  # nothing was ever seen: the error alone says so
    assert monitor.observe(source, 1000).status == FIRST
    assert monitor.observe_silence(1100) is None
    seen = monitor.observe_silence(1101)
    assert seen is not None
    assert (seen.status, seen.checkpoint) == (UNREADABLE, monitor.latest)
    assert UNREADABLE not in ALARMS  # whether the log or the network is at fault is not known
    assert [path.is_file() for path in seen.evidence] == [True]


def test_silence_is_an_alarm_after_a_while(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch", max_silence_s=60)
    location = cut(forge, 600)
    seen = [observe(monitor, location, tmp_path / "a", now_s) for now_s in (1000, 1050, 1061)]
    assert seen == [FIRST, SAME, STALE]
    point = checkpoint.Checkpoint(ORIGIN, 600, location.root())
    text = checkpoint.format_checkpoint(point)
    witness = note.Signer("witness.example", ed25519.KeyPair(b"\5" * 32), note.COSIGNATURE)
    cosigned = note.format_note(text, [LOG.sign(text), witness.cosign(text, 1)])
    (tmp_path / "a" / "checkpoint").write_bytes(cosigned)
    source = ExportDirectory(tmp_path / "a").open()
    assert monitor.observe(source, 1070).status == SAME
    assert monitor.observe(source, 1120).status == SAME
    assert monitor.observe(source, 1131).status == STALE


def test_damaged_or_missing_tiles_prove_nothing(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    observe(monitor, cut(forge, 300), tmp_path / "a")
    location = cut(forge, 900).write(tmp_path / "b")
    for path in (tmp_path / "b" / "tile").rglob("*"):
        if path.is_file() and "entries" not in path.parts:
            path.unlink()
    with pytest.raises(StorageError):
        monitor.observe(location.open(), 0)
    assert monitor.latest is not None
    assert monitor.latest.size == 300


def test_a_note_that_the_log_did_not_sign_is_no_alarm_of_it(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch")
    location = cut(forge, 300).write(tmp_path / "a")
    stranger = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    forged = checkpoint.sign_checkpoint(checkpoint.Checkpoint(ORIGIN, 300, bytes(32)), [stranger])
    (tmp_path / "a" / "checkpoint").write_bytes(forged)
    with pytest.raises(SignatureError):
        monitor.observe(location.open(), 0)


def test_what_is_kept_is_verified_when_read(forge: Forge, tmp_path: Path) -> None:
    observe(watch(tmp_path / "watch"), cut(forge, 300), tmp_path / "a")
    (tmp_path / "watch" / "latest.json").write_text("{}")
    with pytest.raises(StorageError):
        watch(tmp_path / "watch")


# -- with witnesses ---------------------------------------------------------------------------------------------


def cosigned(location: ExportDirectory, *lines: tuple[note.Signer, int]) -> ExportDirectory:
    """Add cosignatures, each of a witness at a time, to the checkpoint of *place*."""
    path = location.directory / "checkpoint"
    opened = note.parse_note(path.read_bytes())
    log_line = opened.unverified[0]
    cosignatures = [witness.cosign(opened.text, time_s) for witness, time_s in lines]
    path.write_bytes(note.format_note(opened.text, [log_line, *cosignatures]))
    return location


def test_each_checkpoint_must_be_cosigned(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch", policy=POLICY)
    small, large = cut(forge, 300).write(tmp_path / "a"), cut(forge, 900).write(tmp_path / "b")
    seen = monitor.observe(cosigned(small, (WITNESS, 1000)).open(), 1010)
    assert (seen.status, seen.cosignatures) == (FIRST, (("w1", 1000),))
    seen = monitor.observe(large.open(), 1020)
    assert (seen.status, seen.cosignatures) == (UNWITNESSED, ())
    (evidence,) = seen.evidence
    assert checkpoint.open_checkpoint(evidence.read_bytes(), ORIGIN, LOG.verifier)[0] == seen.checkpoint
    assert monitor.latest is not None
    assert monitor.latest.size == 300  # what nobody vouches for is not held
    assert monitor.observe(cosigned(large, (WITNESS, 1030)).open(), 1040).status == GROWN
    assert monitor.observe(large.open(), 1050).status == SAME


def test_a_wrong_witness_is_none(forge: Forge, tmp_path: Path) -> None:
    location = cut(forge, 300).write(tmp_path / "a")
    monitor = watch(tmp_path / "watch", policy=POLICY)
    assert monitor.observe(cosigned(location, (STRANGER, 1000)).open(), 1000).status == UNWITNESSED
    # Under the name and ID of the right one, but signed by another: the line is a forgery.
    opened = note.parse_note((location.directory / "checkpoint").read_bytes())
    line = STRANGER.cosign(opened.text, 1000)
    forged = note.NoteSignature(line.name, WITNESS.verifier.key_id, line.signature)
    (location.directory / "checkpoint").write_bytes(note.format_note(opened.text, [opened.unverified[0], forged]))
    assert monitor.observe(location.open(), 1000).status == UNWITNESSED
    assert monitor.latest is None


def test_old_cosignatures_are_stale(forge: Forge, tmp_path: Path) -> None:
    location = cosigned(cut(forge, 300).write(tmp_path / "a"), (WITNESS, 1000))
    assert watch(tmp_path / "late", policy=POLICY).observe(location.open(), 1301).status == STALE
    assert watch(tmp_path / "long", policy=POLICY, max_age_s=400).observe(location.open(), 1301).status == FIRST
    monitor = watch(tmp_path / "watch", policy=POLICY)
    seen = [monitor.observe(location.open(), now_s).status for now_s in (1000, 1300, 1301)]
    assert seen == [FIRST, SAME, STALE]
    assert monitor.observe(cosigned(location, (WITNESS, 1302)).open(), 1303).status == SAME


def test_a_note_without_cosignatures_does_not_replace_one_that_has_them(forge: Forge, tmp_path: Path) -> None:
    location = cosigned(cut(forge, 300).write(tmp_path / "a"), (WITNESS, 1000))
    monitor = watch(tmp_path / "watch", policy=POLICY)
    monitor.observe(location.open(), 1000)
    (kept,) = (tmp_path / "watch" / "checkpoints").iterdir()
    before = kept.read_bytes()
    assert monitor.observe(cosigned(location).open(), 1001).status == UNWITNESSED
    assert kept.read_bytes() == before


def test_two_trees_are_a_fork_whoever_cosigned_them(forge: Forge, tmp_path: Path) -> None:
    monitor = watch(tmp_path / "watch", policy=POLICY)
    monitor.observe(cosigned(cut(forge, 600).write(tmp_path / "a"), (WITNESS, 1000)).open(), 1000)
    other = cut(make_forge(1500, people=9), 600).write(tmp_path / "b")
    assert monitor.observe(other.open(), 1000).status == FORK
    smaller = cosigned(cut(forge, 500).write(tmp_path / "c"), (STRANGER, 1))
    assert monitor.observe(smaller.open(), 1000).status == ROLLBACK


@pytest.mark.slow
def test_the_command_line_alarms_at_a_daemon_that_nobody_cosigns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONSENTD_POLICY", raising=False)
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        running.check_ledger()
        vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
        url = f"http://127.0.0.1:{running.daemon.http_port}"
        policy = tmp_path / "policy"
        asked = ["audit", "monitor", str(tmp_path / "watch"), "--url", url, "--log-key", vkey, "--json", "--once"]
        for rule, status, what in (("w1", 1, UNWITNESSED), ("none", 0, FIRST), ("w1", 1, UNWITNESSED)):
            policy.write_text(f"witness w1 {note.format_vkey(WITNESS.verifier)}\nquorum {rule}\n")
            assert cli.main([*asked, "--policy", str(policy)]) == status
            answer = json.loads(capsys.readouterr().out)
            assert (answer["type"], answer["what"]) == ("alarm" if status else "checkpoint", what)
            assert answer["cosigned"] == []
            assert bool(answer["evidence"]) == bool(status)
        policy.write_text("quorum nobody\n")
        assert cli.main([*asked, "--policy", str(policy)]) == 2
    finally:
        running.stop()


@pytest.mark.parametrize("content", [b"", b"\0" * 96])
def test_a_damaged_tile_accuses_nobody(forge: Forge, tmp_path: Path, content: bytes) -> None:
    """Two notes that do not contradict each other are no evidence, whatever a mirror's disk made of a tile."""
    monitor = watch(tmp_path / "watch")
    observe(monitor, cut(forge, 600), tmp_path / "a")
    location = cut(forge, 900).write(tmp_path / "b")
    (tmp_path / "b" / "tile" / "1" / "000.p" / "3").write_bytes(content)
    with pytest.raises(StorageError, match="tiles are not those of the checkpoint"):
        monitor.observe(location.open(), 0)
    assert observe(monitor, cut(forge, 900), tmp_path / "c") == GROWN


@pytest.mark.parametrize("size", [256, 512, 600])
def test_a_fork_is_told_at_every_size(forge: Forge, tmp_path: Path, size: int) -> None:
    monitor = watch(tmp_path / "watch")
    observe(monitor, cut(forge, size), tmp_path / "a")
    assert observe(monitor, cut(make_forge(1500, people=9), 900), tmp_path / "b") == FORK
