"""Verifying a ledger at a checkpoint that witnesses must have cosigned."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cases.audited import POLICY, SEALED_S, STRANGER, WITNESSES, asked, cosigned, verify
from cases.audits import LOG, make_forge
from cases.daemons import ORIGIN as RUNNING_ORIGIN
from cases.daemons import make_running
from consentd import cli
from consentd.core import note
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import SignatureError


def test_a_quorum_is_asked_for_and_its_age_told(tmp_path: Path) -> None:
    location = make_forge(300).write(tmp_path / "ledger")
    cosigned(location, (WITNESSES[0], SEALED_S), (WITNESSES[2], SEALED_S + 5))
    report = verify(location, witnesses=asked())
    assert report.faults == ()
    assert report.cosignatures == (("w0", SEALED_S), ("w2", SEALED_S + 5))
    assert verify(location).cosignatures == ()
    assert verify(location, witnesses=asked(now_s=SEALED_S + 300, max_age_s=300)).faults == ()
    with pytest.raises(SignatureError, match="`2` of `3` witnesses cosigned, `1` recently enough"):
        verify(location, witnesses=asked(now_s=SEALED_S + 301, max_age_s=300))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ((WITNESSES[0], SEALED_S),),
        ((WITNESSES[0], SEALED_S), (WITNESSES[0], SEALED_S + 1)),  # one witness twice
        ((STRANGER, SEALED_S), (WITNESSES[1], SEALED_S)),
        ((WITNESSES[0], SEALED_S - 61), (WITNESSES[1], SEALED_S - 61)),  # before the seal was written
    ],
)
def test_without_a_quorum_nothing_is_proven(tmp_path: Path, lines: tuple[tuple[note.Signer, int], ...]) -> None:
    location = cosigned(make_forge(300).write(tmp_path / "ledger"), *lines)
    assert verify(location).faults == ()
    with pytest.raises(SignatureError):
        verify(location, witnesses=asked())


def test_a_forged_cosignature_disproves(tmp_path: Path) -> None:
    location = cosigned(make_forge(300).write(tmp_path / "ledger"), (WITNESSES[0], SEALED_S), (WITNESSES[1], SEALED_S))
    path = location.directory / "checkpoint"
    opened = note.parse_note(path.read_bytes())
    line = STRANGER.cosign(opened.text, SEALED_S)
    forged = note.NoteSignature(line.name, WITNESSES[0].verifier.key_id, line.signature)
    path.write_bytes(note.format_note(opened.text, [*opened.unverified, forged]))
    with pytest.raises(SignatureError):
        verify(location, witnesses=asked())


@pytest.mark.slow
def test_workers_verify_a_cosigned_ledger(tmp_path: Path) -> None:
    location = make_forge(9000).write(tmp_path / "ledger", tmp_path / "openings")
    cosigned(location, *((one, SEALED_S + 60) for one in WITNESSES))
    report = verify(location, witnesses=asked(), jobs=2)
    assert report == verify(location, witnesses=asked(), jobs=1)
    assert len(report.cosignatures) == 3


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``consentd audit`` in this process; returns status, last answer and talk."""
    for name in os.environ:
        if name.startswith("CONSENTD_"):
            monkeypatch.delenv(name)

    def run(*argv: object, log_key: str = note.format_vkey(LOG.verifier)) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        status = cli.main(["audit", *map(str, argv), "--log-key", log_key, "--json"])
        out, err = capsys.readouterr()
        return status, json.loads((out.splitlines() or ["{}"])[-1]), err

    return run


@pytest.mark.parametrize("verb", [("verify", "--jobs", 1), ("replay",)])
def test_the_verbs_take_a_policy(run: Any, tmp_path: Path, verb: tuple[object, ...]) -> None:
    location = make_forge(300).write(tmp_path / "ledger", tmp_path / "openings")
    (tmp_path / "policy").write_bytes(POLICY)
    where = (*verb, location.directory, "--statements", tmp_path / "openings")
    asked = (*where, "--policy", tmp_path / "policy")
    status, answer, err = run(*where)
    assert (status, answer["cosigned"]) == (0, [])
    assert "not checked: witnesses" in err
    cosigned(location, (WITNESSES[0], SEALED_S), (WITNESSES[1], SEALED_S))
    status, answer, err = run(*asked)
    assert (status, answer["verdict"]) == (0, "proven")
    assert answer["cosigned"] == [{"witness": f"w{at}", "time_s": SEALED_S} for at in (0, 1)]
    assert re.search(r"^cosigned: by w1, -?\d+ s ago$", err, re.MULTILINE)
    assert run(*asked, "--max-age", 1)[0] == 1  # the real clock is far from the forged ledger's, on either side
    cosigned(location, (WITNESSES[0], SEALED_S - 10**9), (STRANGER, SEALED_S))
    status, answer, err = run(*asked)
    assert (status, answer) == (1, {})
    assert err.startswith("disproved: cosignatures are no quorum")


def test_a_policy_that_is_none_or_missing_disproves_nothing(run: Any, tmp_path: Path) -> None:
    location = make_forge(300).write(tmp_path / "ledger")
    (tmp_path / "policy").write_bytes(b"quorum nobody\n")
    for more in (("--policy", tmp_path / "policy"), ("--policy", tmp_path / "none"), ("--max-age", 300)):
        status, _, err = run("verify", location.directory, *more)
        assert (status, err[:7]) == (2, "error: ")


@pytest.mark.slow
def test_a_stopped_daemons_files_are_read_at_the_checkpoint_that_was_cosigned(run: Any, tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        running.check_ledger()
        vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    finally:
        running.stop()
    config = running.config.ledger
    opened = note.parse_note(config.last_signed_path.read_bytes())
    (tmp_path / "policy").write_text(
        f"log {vkey}\nwitness w {note.format_vkey(WITNESSES[0].verifier)}\nquorum w\n", encoding="utf-8"
    )
    (tmp_path / "consentd.toml").write_text(
        f'[ledger]\norigin = "{RUNNING_ORIGIN}"\ndata_dir = "data"\n[keys]\nlog_key_file = "keys/log.key"\n'
        'statement_key_file = "keys/statement.key"\nvault_kek = { file = "keys/vault.kek" }\n'
        '[callers]\ncredentials_file = "keys/credentials"\n',
        encoding="utf-8",
    )
    asked = ("verify", "--config", tmp_path / "consentd.toml", "--policy", tmp_path / "policy", "--jobs", 1)
    assert run(*asked, log_key=vkey)[0] == 2  # nothing was published
    line = WITNESSES[0].cosign(opened.text, 10**10)
    config.published_path.write_bytes(note.format_note(opened.text, [*opened.unverified, line]))
    status, answer, _ = run(*asked, log_key=vkey)
    assert (status, answer["cosigned"]) == (0, [{"witness": "w", "time_s": 10**10}])
