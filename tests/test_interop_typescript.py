"""Our histories, receipts and signatures, and what was done to them, judged by the verifier in TypeScript."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from consentd.core import note
from consentd.v1 import consent_pb2, ledger_service_pb2
from consentd_client.history import collect_proof
from running import question, running_daemon
from vectors_case import encode, to_document
from write_vectors import write_vectors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clients" / "typescript"
SHARED = ROOT / "../shared/vectors"
NPM = shutil.which("npm") if shutil.which("node") else None
OLDEST_NODE = 18


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Write vectors; each is settled by our own verifier, and wants what it says."""
    directory = tmp_path_factory.mktemp("vectors")
    return directory, write_vectors(directory)


def test_there_is_a_vector_for_everything_that_can_be_wrong(vectors):
    _, settled = vectors
    histories = Counter(vector.want for vector in settled if vector.kind == "history")
    assert histories.keys() == {"ok", "malformed", "signature", "proof"}
    assert histories["ok"] >= 80
    assert histories.total() - histories["ok"] >= 1_500
    for kind in ("receipt", "note", "signature"):
        wants = {vector.want for vector in settled if vector.kind == kind}
        assert wants >= {"ok", "malformed", "signature"}
    names = {vector.name for vector in settled if vector.kind == "history"}
    named = {name for name in names if not re.search(r"flip bit|cut the|lengthen|empty", name)}
    assert len(named) >= 700


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Copy the package, install what the lock file pins, and compile; or say why not. Return its directory.

    A copy, because test workers beside each other would find half an installation.
    """
    if NPM is None:
        pytest.skip("node and npm are not installed")
    root = tmp_path_factory.mktemp("typescript")
    package = root / "clients" / "typescript"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (root / "proto").symlink_to(ROOT / "proto")
    node = run(package, "node", "--version").stdout.strip()
    if int(node.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is older than {OLDEST_NODE}: {node}")
    installed = run(package, NPM, "ci", "--no-progress", "--prefer-offline")
    if installed.returncode and re.search(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENOTCACHED", installed.stderr):
        pytest.skip("the npm packages are neither cached nor within reach")
    assert installed.returncode == 0, installed.stderr
    built = run(package, NPM, "run", "build")
    assert built.returncode == 0, built.stdout
    return package


@pytest.mark.slow
def test_typescript_agrees(package, vectors):
    """Let Node's own test runner go through all vectors, ours and other people's."""
    directory, _ = vectors
    places = {"CONSENTD_VECTORS": str(directory), "CONSENTD_SHARED_VECTORS": str(SHARED.resolve())}
    tested = run(package, NPM, "test", **places)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert int(re.search(r"^\S+ pass (\d+)$", tested.stdout, re.MULTILINE)[1]) >= 25
    skipped = int(re.search(r"^\S+ skipped (\d+)$", tested.stdout, re.MULTILINE)[1])
    assert skipped == (0 if SHARED.is_dir() else 3), tested.stdout


@pytest.mark.slow
def test_what_a_daemon_serves_is_proven(package, tmp_path):
    """From the stream of a real daemon to the command line."""
    with running_daemon(tmp_path / "daemon") as running:
        log_key = note.parse_signing_key(running.config.keys.log_key_file.read_text()).verifier
        subject = running.enrol("SYN-0001")
        running.grant(subject)
        granted = running.authorize(question(subject), wait_for=consent_pb2.WAIT_FOR_PUBLISHED).receipt
        request = ledger_service_pb2.GetHistoryRequest(subject=subject)
        pieces = list(running.ledger.GetHistory(request, metadata=running.as_("app")))
        running.check_ledger()
    proof = collect_proof(pieces)
    history, bundle, leaf = (tmp_path / name for name in ("history.json", "access.tlog-proof", "access.leaf"))
    history.write_bytes(encode(to_document(proof)))
    bundle.write_bytes(granted.proof)
    leaf.write_bytes(granted.leaf)
    trust = ("--log-key", note.format_vkey(log_key), "--json")

    shown = verify(package, "history", history, *trust, "--tag", proof.chains[0].tag.hex())
    assert shown["verdict"] == "proven"
    assert [entry["kind"] for entry in shown["entries"]] == ["ENROL", "GRANT", "ACCESS"]
    assert {entry["author"] for entry in shown["entries"]} == {"ledger"}
    assert verify(package, "receipt", bundle, leaf, *trust)["leaf"]["kind"] == "ACCESS"

    shorter = to_document(proof)
    shorter["chains"][0]["entries"].pop()
    history.write_bytes(encode(shorter))
    assert verify(package, "history", history, *trust, status=1)["error"] == "proof"


def verify(package, *arguments, status=0):
    """Run the command line; return its answer."""
    answer = run(package, "node", "dist/src/cli.js", *map(str, arguments))
    assert answer.returncode == status, answer.stdout + answer.stderr
    return json.loads(answer.stdout)


def run(directory, *command, **environment):
    return subprocess.run(
        command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
