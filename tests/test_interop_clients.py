"""Programs in Go, TypeScript and Java, on code that plain protoc makes, call a real daemon and verify its answers."""

import json
import subprocess
from pathlib import Path

import grpc
import pytest

from cases.daemons import Running, reason_of
from cases.generated_clients import build_go, build_java, build_typescript
from cases.services import new_identifier
from consentd.core import note
from consentd.core.ed25519 import KeyPair
from consentd.core.note import Signer
from consentd.cosigning.keyfiles import read_signing_key
from consentd_client import Client, Subject, pin

pytestmark = pytest.mark.slow

BUILD = {"go": build_go, "typescript": build_typescript, "java": build_java}
SEEN = {
    "check": "OUTCOME_PERMIT",
    "authorize": "OUTCOME_PERMIT",
    "check_revoked": "OUTCOME_DENY",
    "published": True,
}


@pytest.fixture(scope="module", params=BUILD)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def program(language: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a compiled program."""
    return BUILD[language](tmp_path_factory.mktemp(language))


def run(program: list[str], language: str, running: Running, vkey: str, person: str) -> tuple[int, dict[str, object]]:
    """Run a program; return its exit code and its answer."""
    values = [
        f"127.0.0.1:{running.daemon.grpc_port}", vkey, person, running.tokens["app"], running.tokens["clinic-b"],
    ]  # fmt: skip
    names = ("address", "vkey", "person", "app-token", "recipient-token")
    if language != "java":
        values = [f"--{name}={value}" for name, value in zip(names, values, strict=True)]
    done = subprocess.run([*program, *values], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def enrolled_twice(running: Running) -> str:
    """The code and reason with which a second enrolment of a person fails, as a generated stub in Python gets them."""
    person = running.enrol(new_identifier())
    with pytest.raises(grpc.RpcError) as caught:
        running.enrol(person.value)
    reason = reason_of(caught.value)
    assert reason == "SUBJECT_ENROLLED"
    return f"{caught.value.code().value[0]} {reason}"


def test_a_consent_lives_in_each_language(
    program: list[str], language: str, running: Running, enrolled_twice: str
) -> None:
    """From the enrolment to the verified history, which our own client reads in the same way."""
    log, person = read_signing_key(running.config.keys.log_key_file), new_identifier()
    code, answer = run(program, language, running, note.format_vkey(log.verifier), person)
    signs = language == "go"
    kinds = ["ENROL", *["KEY"] * signs, "GRANT", "ACCESS", "OUTCOME", "REVOKE"]
    assert (code, answer) == (0, {**SEEN, "enrolled_twice": enrolled_twice, "kinds": kinds})
    trust = pin(log.verifier, running.config.ledger.origin)
    with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["app"], trust=trust) as client:
        history = client.history(Subject(scheme="mhid", value=person))
    assert [entry.kind_name for entry in history.entries] == kinds
    (granted,) = (entry for entry in history.entries if entry.kind_name == "GRANT")
    assert granted.author == ("subject" if signs else "ledger")


@pytest.mark.parametrize("language", ["typescript"], indirect=True, scope="module")
def test_a_person_lives_by_a_key_of_their_own(program: list[str], running: Running) -> None:
    """From the consent to the verified history, in calls that the person signs with our package in TypeScript."""
    node, main = program
    vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    person, other = new_identifier(), running.enrol(new_identifier()).value
    values = {
        "address": f"127.0.0.1:{running.daemon.grpc_port}", "vkey": vkey, "person": person, "other": other,
        "app-token": running.tokens["app"], "recipient-token": running.tokens["clinic-b"],
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in values.items()]
    command = [node, str(Path(main).with_name("person.js")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {
            "check": "OUTCOME_PERMIT", "authorize": "OUTCOME_PERMIT", "check_revoked": "OUTCOME_NO_CONSENT",
            "published": True, "other": "5 SUBJECT_NOT_FOUND",
            "authors": ["ENROL ledger", "KEY ledger", "GRANT subject", "ACCESS ledger", "REVOKE subject"],
        },
    )  # fmt: skip


def test_what_another_log_signed_is_refused(program: list[str], language: str, running: Running) -> None:
    other = Signer(running.config.ledger.origin, KeyPair(b"x" * 32))
    code, answer = run(program, language, running, note.format_vkey(other.verifier), new_identifier())
    assert (code, list(answer)) == (1, ["error"])
