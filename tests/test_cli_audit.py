"""``consentd export`` and ``consentd audit``: what they answer, and the status they exit with."""

import argparse
import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cases.audits import LOG, Forge, make_forge
from cases.command_lines import CommandLine
from cases.daemons import config_text, make_running, question
from consentd import cli
from consentd.cli.out import Out
from consentd.core import ed25519, note
from consentd.cosigning.keyfiles import read_signing_key

VKEY = note.format_vkey(LOG.verifier)
Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def run() -> Run:
    """Run a verb in this process with --json, with no environment but what a test sets."""

    def run(*argv: object, as_json: bool = True, **environment: str) -> tuple[int, list[dict[str, Any]], str]:
        done = CommandLine(environment)(*argv, *(["--json"] if as_json else []))
        return done.status, done.objects if as_json else [{"text": done.out}], done.err

    return run


@pytest.fixture(scope="module")
def forge() -> Forge:
    return make_forge(700)


@pytest.fixture
def ledger(forge: Forge, tmp_path: Path) -> Path:
    forge.write(tmp_path / "log", tmp_path / "openings")
    return tmp_path


def lied(tmp_path: Path) -> Forge:
    forge = make_forge(400)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag, lie=True)
    forge.seal()
    forge.write(tmp_path / "lied", tmp_path / "lied-openings")
    return forge


def test_verify_proves(run: Run, ledger: Path) -> None:
    options = ("--statements", ledger / "openings", "--log-key", VKEY, "--jobs", 1)
    status, (answer,), err = run("audit", "verify", ledger / "log", *options)
    assert (status, answer["verdict"], answer["faults"], answer["size"]) == (0, "proven", 0, 700)
    assert answer["not_checked"] == {}
    status, (answer,), err = run("audit", "verify", ledger / "log", "--log-key", VKEY)
    assert (status, answer["statements_verified"]) == (2, 0)  # the tree is right, but nobody has read a statement
    assert "not checked: statements, because the source has none: 693" in err
    status, (shown,), _ = run("audit", "verify", ledger / "log", *options, "--lang", "ko", as_json=False)
    assert (status, shown["text"][:3]) == (0, "증명됨")


def test_verify_goes_on_from_a_state(run: Run, ledger: Path) -> None:
    for _ in range(2):
        status, (answer,), _ = run(
            "audit", "verify", ledger / "log", "--log-key", VKEY, "--state", ledger / "state", "--jobs", 1
        )
        assert (status, answer["entries"]) == (2, 693)
    status, (answer,), _ = run(
        "audit", "verify", ledger / "log", "--log-key", VKEY, "--since", ledger / "log" / "checkpoint", "--jobs", 1
    )
    assert (status, answer["start"], answer["entries"]) == (0, 700, 0)


def test_faults_are_named_with_status_1(run: Run, forge: Forge, ledger: Path) -> None:
    path = ledger / "log" / "tile" / "0" / "001"
    content = bytearray(path.read_bytes())
    content[32 * 10] ^= 1
    path.write_bytes(content)
    status, (fault, answer), _ = run("audit", "verify", ledger / "log", "--log-key", VKEY)
    assert (status, fault["type"], fault["index"]) == (1, "fault", 266)
    assert answer["verdict"] == "disproved"
    other = note.format_vkey(note.Signer("x", ed25519.KeyPair(b"x" * 32)).verifier)
    assert run("audit", "verify", ledger / "log", "--log-key", other)[0] == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("verify",),
        ("verify", "nowhere"),
        ("verify", "nowhere", "--url", "http://127.0.0.1:1"),
        ("verify", "--config", "nowhere"),
        ("replay", "nowhere"),
        ("report", "out.html", "--from", "nowhere"),
        ("evidence", "out.json", "--from", "nowhere", "--range", "0:5"),
        ("evidence", "out.json", "--from", "nowhere"),
        ("evidence", "out.json", "--from", "nowhere", "--range", "5"),
        ("evidence", "out.json", "--from", "nowhere", "--tag", "5"),
        ("check-evidence", "nowhere"),
        ("monitor", "watch", "--url", "ftp://nowhere", "--once"),
    ],
)
def test_what_cannot_be_determined_is_status_2(run: Run, tmp_path: Path, argv: tuple[str, ...]) -> None:
    names = ("nowhere", "out.html", "out.zip", "watch")
    placed = [tmp_path / argument if argument in names else argument for argument in argv]
    status, answers, err = run("audit", *placed, "--log-key", VKEY)
    assert (status, answers) == (2, [])
    assert err.startswith("error: ")


def test_replay_names_a_wrong_decision(run: Run, ledger: Path) -> None:
    options = ("--statements", ledger / "openings", "--log-key", VKEY)
    status, (answer,), _ = run("audit", "replay", ledger / "log", *options, "--state", ledger / "state")
    assert (status, answer["verdict"]) == (0, "proven")
    forge = lied(ledger)
    status, (fault, answer), _ = run(
        "audit", "replay", ledger / "lied", "--statements", ledger / "lied-openings", "--log-key", VKEY
    )
    assert (status, fault["index"], answer["faults"]) == (1, forge.size - 2, 1)
    assert run("audit", "replay", ledger / "log", "--log-key", VKEY)[0] == 2


def test_evidence_and_check(run: Run, ledger: Path) -> None:
    where = ("--from", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY)
    for scope in (("--range", "20:40"), ("--participant", "bank"), ("--chain", "ledger")):
        status, (made,), _ = run("audit", "evidence", ledger / "b.json", *scope, *where)
        assert status == 0
        status, (checked,), _ = run("audit", "check-evidence", ledger / "b.json", "--log-key", VKEY)
        assert (status, checked["verdict"], checked["entries"]) == (0, "proven", made["entries"])
    (ledger / "b.json").write_bytes((ledger / "b.json").read_bytes()[:-40])
    assert run("audit", "check-evidence", ledger / "b.json", "--log-key", VKEY)[0] == 2  # a part of a file


def test_report(run: Run, ledger: Path) -> None:
    where = ("--from", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY)
    status, (answer,), _ = run("audit", "report", ledger / "page.html", *where, "--index", 5)
    assert (status, answer["accesses"] > 100) == (0, True)
    assert (ledger / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    status, (shown,), _ = run("audit", "report", "-", *where, as_json=False)
    assert shown["text"].startswith("<!doctype html>")


@pytest.mark.slow
def test_a_daemon_is_exported_monitored_and_audited(run: Run, tmp_path: Path) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        subject = running.enrol("SYN-1")
        running.grant(subject)
        for _ in range(20):
            running.authorize(question(subject))
        running.check_ledger()
        vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
        run = partial(run, CONSENTD_TOKEN=running.tokens["pipc"])
        url = ("--url", f"http://127.0.0.1:{running.daemon.http_port}", "--log-key", vkey)
        watch = ("audit", "monitor", tmp_path / "watch", *url, "--once")
        status, (first,), _ = run(*watch)
        assert (status, first["what"]) == (0, "first")
        status, (answer,), _ = run("export", tmp_path / "copy", *url)
        assert (status, answer["size"] > 20) == (0, True)
        status, (answer,), _ = run("export", tmp_path / "copy", *url)
        assert (status, answer["start"]) == (0, 0)
        target = ("--target", f"127.0.0.1:{running.daemon.grpc_port}")
        status, (answer,), _ = run("audit", "verify", *url, *target, "--jobs", 1)
        # Without a mandate, an auditor reads public chains alone: what persons stated could not be determined.
        assert (status, answer["statements_verified"] > 5) == (2, True)
        running.authorize(question(subject))
        running.check_ledger()
        status, (grown,), _ = run(*watch)
        assert (status, grown["what"]) == (0, "grown")
    finally:
        running.stop()
    make_forge(300).write(tmp_path / "log")
    assert run("audit", "verify", tmp_path / "copy", "--log-key", vkey)[0] == 2  # there are no openings


# -- what must not pass for a verdict ---------------------------------------------------------------------------


def stopped(directory: Path) -> tuple[Path, Path, note.Verifier]:
    """Make a daemon's files; return its configuration, its store and its log key."""
    running = make_running(directory)
    running.stop()
    config = directory / "consentd.toml"
    config.write_text(config_text())
    return config, running.config.ledger.store_dir, read_signing_key(running.config.keys.log_key_file).verifier


def test_a_statements_directory_that_is_wrong_or_not_whole_proves_nothing(run: Run, ledger: Path) -> None:
    options = ("--log-key", VKEY, "--jobs", 1, "--statements")
    status, _, err = run("audit", "verify", ledger / "log", *options, ledger / "nowhere")
    assert status == 2
    assert "No such file" in err
    next((ledger / "openings").rglob("001")).unlink()
    for verb in ("verify", "replay"):
        assert run("audit", verb, ledger / "log", *options, ledger / "openings")[0] == 2


@pytest.mark.parametrize(("damage", "status"), [("flip", 1), ("cut", 1), ("gone", 2)])
def test_a_tile_above_the_leaves_is_looked_at_too(run: Run, ledger: Path, damage: str, status: int) -> None:
    path = ledger / "log" / "tile" / "1" / "000.p" / "2"
    row = path.read_bytes()
    path.write_bytes(bytes([row[0] ^ 1]) + row[1:] if damage == "flip" else row[:-1])
    if damage == "gone":
        path.unlink()
    found, answers, _ = run("audit", "verify", ledger / "log", "--log-key", VKEY, "--jobs", 1)
    assert found == status
    if status == 1:
        assert (answers[0]["index"], answers[0]["what"][:17]) == (0 if damage == "flip" else 256, "tile of level `1`")


def test_evidence_of_damaged_tiles_is_not_written(run: Run, ledger: Path) -> None:
    path = ledger / "log" / "tile" / "1" / "000.p" / "2"
    row = path.read_bytes()
    path.write_bytes(bytes([row[0] ^ 1]) + row[1:])
    options = ("--range", "600:610", "--from", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY)
    assert run("audit", "evidence", ledger / "case.json", *options)[0] == 1
    assert not (ledger / "case.json").exists()


def test_what_is_no_file_is_written_to_and_not_replaced(run: Run, ledger: Path) -> None:
    pipe = ledger / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    options = ("--range", "0:3", "--from", ledger / "log", "--log-key", VKEY)
    assert run("audit", "evidence", pipe, *options)[0] == 0
    assert pipe.is_fifo()
    assert os.read(reader, 10) == b'{"format":'
    os.close(reader)
    assert run("audit", "evidence", "-", *options)[0] == 2


def test_openings_are_for_their_owner_alone(run: Run, ledger: Path, tmp_path: Path) -> None:
    config, _, key = stopped(tmp_path)
    pins = ("--log-key", note.format_vkey(key))
    for inside in ("out", "out/openings"):
        to = ("--statements-to", tmp_path / inside)
        status, _, err = run("export", tmp_path / "out", "--config", config, *to, *pins)
        assert (status, "directory outside the exported one" in err) == (2, True)
    assert run("export", tmp_path / "out", "--config", config, "--statements-to", tmp_path / "beside", *pins)[0] == 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "beside").rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://h/\uae40"])
def test_an_address_that_is_none_is_no_verdict(run: Run, ledger: Path, url: str) -> None:
    status, _, err = run("audit", "verify", "--url", url, "--log-key", VKEY)
    assert (status, "error: URL is" in err) == (2, True)


@pytest.mark.parametrize("token", ["secret\nsecret", "\uae40"])
def test_a_token_that_is_none_is_not_repeated(run: Run, ledger: Path, token: str) -> None:
    (ledger / "token").write_text(token)
    status, _, err = run(
        "audit", "verify", "--url", "http://127.0.0.1:1", "--token-file", ledger / "token", "--log-key", VKEY
    )
    assert (status, token in err, "secret" in err) == (2, False, False)


def test_tls_files_that_are_none_are_no_verdict(run: Run, ledger: Path) -> None:
    (ledger / "ca").write_text("no certificate")
    for path in (ledger / "ca", ledger / "nowhere"):
        location = ("--url", "https://127.0.0.1:1", "--tls-ca", path)
        assert run("audit", "verify", *location, "--log-key", VKEY)[0] == 2


def test_what_the_caller_gives_disproves_nothing(run: Run, ledger: Path) -> None:
    (ledger / "none").write_text("none")
    log = (ledger / "log", "--log-key", VKEY, "--jobs", 1)
    assert run("audit", "verify", *log, "--since", ledger / "none")[0] == 2
    assert run("audit", "replay", *log, "--statements", ledger / "openings", "--state", ledger / "none")[0] == 2
    made = ("--range", "0:3", "--from", ledger / "log", "--log-key", VKEY)
    assert run("audit", "evidence", ledger / "b.json", *made)[0] == 0
    assert run("audit", "check-evidence", ledger / "b.json", "--log-key", VKEY, "--policy", ledger / "none")[0] == 2
    assert run("audit", "evidence", ledger / "b.json", *made, "--policy", ledger / "none")[0] == 2


def test_a_damaged_state_file_is_no_verdict(run: Run, ledger: Path) -> None:
    openings = ("--statements", ledger / "openings")
    log = ("audit", "verify", ledger / "log", *openings, "--log-key", VKEY, "--jobs", 1, "--state", ledger / "state")
    assert run(*log)[0] == 0
    for bad in (b"none", b'{"format": 4}', b'{"format": 4, "origin": "ledger.example/audit", "size": "x"}', None):
        connection = sqlite3.connect(ledger / "state")
        connection.execute("UPDATE state SET v = ?", (bad,))
        connection.commit()
        connection.close()
        status, _, err = run(*log)
        assert (status, "damaged" in err or "another version" in err) == (2, True), bad


def test_a_bug_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(arguments: argparse.Namespace, out: Out) -> int:
        raise RuntimeError("a bug")

    status = cli.run_verb(argparse.Namespace(run=fail, json=False, lang="en"))
    assert (status, "Traceback" in capsys.readouterr().err) == (2, True)


@pytest.mark.parametrize("stream", [">&-", "2>&-", ">/dev/full"])
def test_an_answer_that_cannot_be_written_is_no_verdict(ledger: Path, stream: str) -> None:
    read = ["audit", "verify", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY, "--jobs", "1"]
    command = shlex.join([sys.executable, "-m", "consentd.cli", *map(str, read)])
    done = subprocess.run(["/bin/sh", "-c", f"{command} {stream}"], capture_output=True, check=False)
    assert done.returncode == (2 if stream == ">/dev/full" else 0)
    assert b"Traceback" not in done.stderr


def test_any_encoding_takes_an_answer(ledger: Path) -> None:
    command = [sys.executable, "-m", "consentd.cli", "audit", "verify", ledger / "log", "--log-key", VKEY]
    command += ["--statements", ledger / "openings"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--jobs", "1", "--lang", "ko"], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout[:6]) == (0, b"\\uc99d")


def test_a_report_says_what_is_in_no_figure(run: Run, ledger: Path) -> None:
    status, (answer,), err = run("audit", "report", ledger / "r.html", "--from", ledger / "log", "--log-key", VKEY)
    assert (status, answer["accesses"] > 0, answer["closed"] > 0) == (0, True, True)
    assert str(answer["closed"]) in err
    assert (ledger / "r.html").stat().st_mode & 0o777 == 0o600
    bad = run("audit", "report", ledger / "r.html", "--from", ledger / "log", "--log-key", VKEY, "--gap", "nan")
    assert bad[0] == 2


def test_fsck_holds_to_what_is_pinned(run: Run, tmp_path: Path) -> None:
    config, store, key = stopped(tmp_path)
    other = note.format_vkey(note.Signer(key.name, ed25519.KeyPair(b"\7" * 32)).verifier)
    assert run("fsck", "--config", config)[0] == 0
    assert run("fsck", "--config", config, "--log-key", note.format_vkey(key))[0] == 0
    assert run("fsck", store, "--quick", "--log-key", note.format_vkey(key))[0] == 0
    for wrong in (("--log-key", other), ("--origin", "another.example")):
        assert run("fsck", "--config", config, *wrong)[0] == 1, wrong
    status, answers, _ = run("fsck", store, "--quick", "--log-key", other)
    assert (status, answers[0]["what"]) == (1, "ledger does not name the pinned log key as its own")
    assert run("audit", "verify", "--config", config, "--origin", "another.example")[0] == 1


def test_freshness_that_nobody_is_asked_for_is_refused(run: Run, ledger: Path) -> None:
    status, _, err = run("history", "--from", ledger / "log" / "checkpoint", "--log-key", VKEY, "--max-age", 5)
    assert (status, "give the witnesses" in err) == (2, True)
