"""The command line beside a ledger's files: keys, tokens, the daemon, its checks."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cases.command_lines import ROOT, TOML, CommandLine, consentd
from cases.daemons import consent
from consentd.core import note
from consentd.cosigning import mldsa
from consentd.cosigning.keyfiles import read_mldsa_key, read_signing_key
from consentd.errors import ConsentdError
from consentd.store.lmdb import Environment
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, KeyPair, StatementSigner, Subject, person_owner, prove_possession


@pytest.fixture
def run() -> CommandLine:
    """Run a verb in this process, with no environment but what a test sets."""
    return CommandLine()


def test_keygen_and_credential(run: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "consentd.toml"
    config.write_text(TOML)
    made = run("keygen", "--config", config)
    token = made.out.strip()
    assert (made.status, made.out.count("\n")) == (0, 1)
    vkey = note.format_vkey(read_signing_key(tmp_path / "keys/log.key").verifier)
    assert f"(CONSENTD_LOG_KEY): {vkey}" in made.err
    assert token not in made.err
    assert token not in "".join(path.read_text() for path in (tmp_path / "keys").iterdir())
    again = run("keygen", "--config", config)
    assert (again.status, "exists already" in again.err, again.out) == (2, True, "")
    lines = (tmp_path / "keys/credentials").read_text().splitlines()
    given = run("credential", "add", "my-app", "--config", config, "--json")
    assert "SIGHUP" in given.err
    assert (tmp_path / "keys/credentials").read_text().splitlines()[:-1] == lines
    assert given.object["caller"] == "my-app"
    assert given.object["token"] != token
    assert run("credential", "add", "operator/night", "--role", "RUN", "--config", config).status == 0
    for caller, roles in (("operator/night", ()), ("my-app", ("--role", "RUN"))):
        refused = run("credential", "add", caller, *roles, "--config", config)
        assert (refused.status, "role" in refused.err, caller in refused.err) == (2, True, True)
    for bad in ("My App", "operator", "operator/", "operator/a/b", "operators/a", "my-app/operator"):
        assert run("credential", "add", bad, "--config", config).status == 2
    (tmp_path / "keys/credentials").unlink()
    assert "keygen" in run("credential", "add", "my-app", "--config", config).err
    for bad in (tmp_path / "none.toml", ROOT / "README.md"):
        found = run("serve", "--config", bad)
        assert (found.status, found.err.startswith("error: config: ")) == (2, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "consentd.toml").write_text(TOML)
    assert run("keygen", "--config", other / "consentd.toml", "--operator", "Night Shift").status == 2
    shown = run("keygen", "--config", other / "consentd.toml", "--operator", "night", "--json").object
    assert shown["operator"] == "operator/night"
    assert (other / "keys/credentials").read_text().endswith(
        " operator/night roles=RUN,READ_METRICS,ADMINISTER\n"
    )
    assert (shown["origin"], sorted(shown["files"])) == (
        "consent.test/files", ["credentials", "log_key", "statement_key", "vault_kek"],
    )  # fmt: skip
    assert "log_mldsa_key" not in shown


def test_keygen_shows_the_second_log_key_too(run: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "consentd.toml"
    config.write_text(TOML.replace("[keys]", '[keys]\nlog_mldsa_key_file = "keys/mldsa.key"'))
    made = run("keygen", "--config", config, "--json")
    vkey = mldsa.format_mldsa_vkey(read_mldsa_key(tmp_path / "keys/mldsa.key").verifier)
    assert made.object["log_mldsa_key"] == vkey
    assert f"ML-DSA-44 log key: {vkey}\n" in made.err


def test_serve_then_look_at_its_files(run: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "consentd.toml"
    path.write_text(TOML)
    token = run("keygen", "--config", path, "--json").object
    served = consentd("serve", "--config", path, stderr=subprocess.PIPE)
    try:
        assert served.stderr is not None
        messages: list[str] = []
        while not messages or "serving gRPC" not in messages[-1]:
            line = served.stderr.readline()
            assert line, messages
            messages.append(json.loads(line)["message"])
        target = f"127.0.0.1:{messages[-1].split('port ')[1].split()[0]}"
        busy = run("fsck", "--config", path)
        assert (busy.status, "directory is in use" in busy.err) == (2, True)
        late = run("credential", "add", "app", "--config", path).out.strip()
        served.send_signal(signal.SIGHUP)
        while "credentials reloaded" not in messages[-1]:
            messages.append(json.loads(served.stderr.readline())["message"])
        with Client(target, token=late) as unregistered, pytest.raises(ConsentdError) as denied:
            unregistered.enrol(Subject(scheme="mhid", value="1"))
        assert denied.value.reason == "CALLER_NOT_ALLOWED"
        with Client(target, token=token["token"]) as operator:
            rights = [st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS]
            name, roles = {"en": "App"}, [st.PARTICIPANT_ROLE_RELAY]
            app = st.ParticipantStatement(participant_id="app", name=name, active=True, roles=roles, rights=rights)
            operator.register_participant(app)
        with Client(target, token=late) as client:
            key = KeyPair(b"\x45" * 32)
            me = Subject(scheme="mhid", value="1")
            proof = prove_possession(key, origin=token["origin"], owner=person_owner(me.scheme, me.value))
            enrolled = client.enrol(me, subject_key=key.public_key, possession=proof)
            signer = StatementSigner(key=key, origin=token["origin"], tag=enrolled.tag)
            with pytest.raises(ConsentdError):  # nobody registered clinic-b here
                client.grant(Subject(scheme="mhid", value="1"), consent(), signer=signer)
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
    finally:
        served.kill()
        served.communicate()
    sound = run("fsck", "--config", path, "--json").object
    assert (sound["verdict"], sound["faults"], sound["entries"]) == ("proven", 0, 7)
    assert run("fsck", "--config", path, "--quick").status == 0
    copied = run("fsck", tmp_path / "data/ledger", "--log-key", token["log_key"])
    assert (copied.status, "not checked: statements" in copied.err) == (2, True)
    for bad in (("fsck",), ("fsck", tmp_path / "data/ledger", "--config", path), ("fsck", tmp_path / "none")):
        assert run(*bad).status == 2
    table = ("--config", path)
    assert run("table", "verify", *table).out.startswith("proven: ")
    spoil(tmp_path / "data/table")
    spoiled = run("table", "verify", *table)
    assert (spoiled.status, "table row of kind `s` must not be there: 1" in spoiled.out) == (1, True)
    assert run("fsck", "--config", path).status == 1
    with pytest.MonkeyPatch.context() as other:
        other.setattr(os, "geteuid", lambda: os.getuid() + 1)
        for verb in (("table", "rebuild"), ("compact",)):
            refused = run(*verb, *table)
            assert (refused.status, "run this as the daemon's user" in refused.err) == (2, True)
    assert run("table", "rebuild", *table, "--json").object["size"] == sound["size"]
    assert run("table", "verify", *table, "--json").object["verdict"] == "proven"
    assert sorted(one.name for one in (tmp_path / "data").iterdir() if one.name.startswith("table")) == ["table"]


def spoil(path: Path) -> None:
    environment = Environment.open(path, map_size_mb=64)
    with environment.begin_write() as txn:
        txn.put(b"s" + b"\x01" * 32, b"")
    environment.close()


def test_a_witness_gets_its_key(run: CommandLine, tmp_path: Path) -> None:
    config = (ROOT / "ops/witness.toml").read_text()
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/witness.toml").write_text(config)
    verb = ("witness", "--config", tmp_path / "ops/witness.toml", "--keygen", "witness.test/w1")
    made = run(*verb)
    assert (made.status, note.parse_vkey(made.out.strip()).name) == (0, "witness.test/w1")
    assert run(*verb).status == 2
