"""``consentd export`` and ``consentd audit``: what they answer, and the status they exit with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit_case import LOG, Forge, make_forge
from consentd import cli
from consentd.core import note
from consentd.server.keys import read_log_key
from running import make_running, question

VKEY = note.format_vkey(LOG.verifier)
Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in this process with --json, with no environment but what a test sets."""
    for name in os.environ:
        if name.startswith("CONSENTD_"):
            monkeypatch.delenv(name)

    def run(*argv: object, as_json: bool = True) -> tuple[int, list[dict[str, Any]], str]:
        capsys.readouterr()
        status = cli.main([str(one) for one in argv] + (["--json"] if as_json else []))
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()] if as_json else [{"text": out}], err

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
    assert (status, answer["statements_verified"]) == (0, 0)
    assert "not checked: statements that this place does not hold" in err
    status, (shown,), _ = run("audit", "verify", ledger / "log", *options, "--lang", "ko", as_json=False)
    assert (status, shown["text"][:3]) == (0, "증명됨")


def test_verify_goes_on_from_a_state(run: Run, ledger: Path) -> None:
    for _ in range(2):
        status, (answer,), _ = run(
            "audit", "verify", ledger / "log", "--log-key", VKEY, "--state", ledger / "state", "--jobs", 1
        )
        assert (status, answer["entries"]) == (0, 693)
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
    other = note.format_vkey(note.Signer("x", note.KeyPair(b"x" * 32)).verifier)
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
        ("bundle", "out.zip", "--from", "nowhere", "--range", "0:5"),
        ("bundle", "out.zip", "--from", "nowhere"),
        ("bundle", "out.zip", "--from", "nowhere", "--range", "5"),
        ("bundle", "out.zip", "--from", "nowhere", "--tag", "5"),
        ("check-bundle", "nowhere"),
        ("monitor", "watch", "--url", "ftp://nowhere", "--once"),
    ],
)
def test_what_cannot_be_told_is_status_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, answers, err = run("audit", *argv, "--log-key", VKEY)
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


def test_bundle_and_check(run: Run, ledger: Path) -> None:
    where = ("--from", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY)
    for scope in (("--range", "20:40"), ("--participant", "bank"), ("--chain", "ledger")):
        status, (made,), _ = run("audit", "bundle", ledger / "b.zip", *scope, *where)
        assert status == 0
        status, (checked,), _ = run("audit", "check-bundle", ledger / "b.zip", "--log-key", VKEY)
        assert (status, checked["verdict"], checked["entries"]) == (0, "proven", made["entries"])
    (ledger / "b.zip").write_bytes((ledger / "b.zip").read_bytes()[:-40])
    assert run("audit", "check-bundle", ledger / "b.zip", "--log-key", VKEY)[0] == 1


def test_report(run: Run, ledger: Path) -> None:
    where = ("--from", ledger / "log", "--statements", ledger / "openings", "--log-key", VKEY)
    status, (answer,), _ = run("audit", "report", ledger / "page.html", *where, "--index", 5)
    assert (status, answer["accesses"] > 100) == (0, True)
    assert (ledger / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    status, (shown,), _ = run("audit", "report", "-", *where, as_json=False)
    assert shown["text"].startswith("<!doctype html>")


@pytest.mark.slow
def test_a_daemon_is_exported_monitored_and_audited(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        subject = running.enrol("SYN-1")
        running.grant(subject)
        for _ in range(20):
            running.authorize(question(subject))
        running.check_ledger()
        vkey = note.format_vkey(read_log_key(running.config.keys.log_key_file).verifier)
        monkeypatch.setenv("CONSENTD_TOKEN", running.tokens["pipc"])
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
        assert (status, answer["statements_verified"] > 5) == (0, True)
        running.authorize(question(subject))
        running.check_ledger()
        status, (grown,), _ = run(*watch)
        assert (status, grown["what"]) == (0, "grown")
    finally:
        running.stop()
    make_forge(300).write(tmp_path / "log")
    assert run("audit", "verify", tmp_path / "copy", "--log-key", vkey)[0] == 0
