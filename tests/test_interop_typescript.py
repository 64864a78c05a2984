"""Our evidence, receipts and signatures, and what was done to them, judged by the verifier in TypeScript."""

import copy
import json
import re
from collections import Counter

import pytest

from cases.daemons import question, running_daemon
from cases.pruned_ledgers import DAYS, World, data_directory
from cases.rotations import rotate
from cases.typescript import NPM, PAGE_HEAD, ROOT, build_package, run, show
from cases.vectors_case import b64
from cases.write_vectors import write_vectors
from consentd.audit.evidence import make_evidence
from consentd.audit.files import DataDirectory
from consentd.core import note
from consentd.core.evidence import Scope, parse_evidence
from consentd.core.rotation import RotationRole
from consentd.cosigning.keyfiles import read_signing_key
from consentd.statements.evidence import verify_evidence
from consentd.v1 import consent_pb2
from consentd_client import Client, pin
from consentd_client.evidence import save_history

SHARED = ROOT / "../shared/vectors"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Write vectors; each is settled by our own verifier, and wants what it says."""
    directory = tmp_path_factory.mktemp("vectors")
    return directory, write_vectors(directory)


def test_there_is_a_vector_for_everything_that_can_be_wrong(vectors):
    _, settled = vectors
    histories = Counter(vector.want for vector in settled if vector.kind == "history")
    assert histories.keys() == {"ok", "malformed", "signature", "proof", "undetermined", "unknown_key"}
    assert histories["ok"] >= 200
    assert histories.total() - histories["ok"] >= 2_000
    for kind in ("receipt", "note", "signature", "policy", "evidence"):
        wants = {vector.want for vector in settled if vector.kind == kind}
        assert wants >= {"ok", "malformed", "signature"}
    names = {vector.name for vector in settled if vector.kind == "history"}
    pruned = Counter(vector.want for vector in settled if vector.name.startswith(("pruned", "retention")))
    assert pruned["ok"] >= 250
    assert pruned.total() - pruned["ok"] >= 500
    assert any(vector.under.get("reads", {}).get("missing") for vector in settled)
    named = {name for name in names if not re.search(r"flip bit|cut the|lengthen|empty", name)}
    assert len(named) >= 700


def test_each_part_of_evidence_is_changed_in_each_way(vectors):
    _, settled = vectors
    files = [vector for vector in settled if vector.kind == "evidence"]
    wants = Counter(vector.want for vector in files)
    assert wants["ok"] >= 450  # among them what evidence alone cannot show
    assert wants["malformed"] >= 7_000
    assert wants["proof"] >= 2_000
    assert wants["signature"] >= 100
    assert wants["undetermined"] >= 50
    names = {vector.name for vector in files}
    parts = ("scope", "checkpoint", "consistency", "seal", "seal_inclusion", "histories", "entries", "keys", "policy")
    for part in parts:
        for change in ("missing", "null"):
            assert f"{part} of range {change}" in names
    for change in ("with spaces", "in UTF-16", "twice", "with format twice in the file, escaped", "as 1000 b'['"):
        assert f"range written {change}" in names


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package in TypeScript, compiled."""
    return build_package(tmp_path_factory.mktemp("typescript"))


@pytest.mark.slow
def test_typescript_agrees(package, vectors):
    """Let Node's own test runner go through all vectors, ours and other people's."""
    directory, _ = vectors
    locations = {"CONSENTD_VECTORS": str(directory), "CONSENTD_SHARED_VECTORS": str(SHARED.resolve())}
    tested = run(package, NPM, "test", **locations)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert int(re.search(r"^\S+ pass (\d+)$", tested.stdout, re.MULTILINE)[1]) >= 50
    skipped = int(re.search(r"^\S+ skipped (\d+)$", tested.stdout, re.MULTILINE)[1])
    assert skipped == (0 if SHARED.is_dir() else 3), tested.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Files of a real daemon: a history, a receipt and its leaf, evidence; with the log's vkey and the person's tag."""
    directory = tmp_path_factory.mktemp("served")
    with running_daemon(directory / "daemon") as running:
        log = read_signing_key(running.config.keys.log_key_file)
        subject = running.enrol("SYN-0001")
        running.grant(subject)
        granted = running.authorize(question(subject), wait_for=consent_pb2.WAIT_FOR_PUBLISHED).receipt
        trust = pin(log.verifier, running.config.ledger.origin)
        with Client(f"127.0.0.1:{running.daemon.grpc_port}", token=running.tokens["app"], trust=trust) as client:
            found, content = client.run(save_history(client.context, subject))
        running.check_ledger()
    (directory / "history.json").write_bytes(content)
    (directory / "access.tlog-proof").write_bytes(granted.proof)
    (directory / "access.leaf").write_bytes(granted.leaf)
    location = DataDirectory.of_config(running.config)
    vkey = note.format_vkey(log.verifier)
    scope = Scope(tag=found.tag)
    make_evidence(location, directory / "person.json", scope, origin=log.name, log_verifier=log.verifier)
    return directory, ("--log-key", vkey, "--json"), found.tag.hex()


@pytest.mark.slow
def test_what_a_daemon_serves_is_proven(package, served, tmp_path):
    """From a real daemon, over the files it leaves in the hands of others, to the command line."""
    directory, trust, tag = served
    shown = verify(package, "history", directory / "history.json", *trust, "--tag", tag)
    assert shown["verdict"] == "proven"
    assert [entry["kind"] for entry in shown["entries"]] == ["ENROL", "GRANT", "ACCESS"]
    assert {entry["author"] for entry in shown["entries"]} == {"ledger"}
    receipt = verify(package, "receipt", directory / "access.tlog-proof", directory / "access.leaf", *trust)
    assert receipt["leaf"]["kind"] == "ACCESS"
    for name in ("person.json", "history.json"):
        evidence = verify(package, "evidence", directory / name, *trust)
        assert (evidence["verdict"], evidence["scope"], evidence["unproven"]) == ("proven", {"tag": tag}, 0)
        assert evidence["chains"][0]["entries"] == shown["entries"]
    assert verify(package, "history", directory / "person.json", *trust)["entries"] == shown["entries"]

    shorter = json.loads((directory / "history.json").read_bytes())
    shorter["histories"][0]["entries"].pop()
    (tmp_path / "history.json").write_text(json.dumps(shorter))
    assert verify(package, "history", tmp_path / "history.json", *trust, status=1)["error"] == "proof"


@pytest.mark.slow
def test_what_a_daemon_keeps_is_proven(package, tmp_path):
    """A history and evidence of a person whose chain was pruned; and what more is then left out of them."""
    world = World(tmp_path / "daemon")
    person = world.running.enrol("SYN-0001")
    given = world.running.grant(person)
    world.use(person, 2)
    world.revoke(person, given)
    world.fill(300)
    world.settle()
    world.clock.advance(DAYS + 10)
    world.running.grant(person)
    world.use(person)
    world.settle()
    world.prune()
    log = read_signing_key(world.running.config.keys.log_key_file)
    client = world.client()
    found, content = client.run(save_history(client.context, person))
    world.running.check_ledger()
    world.running.stop()
    assert found.missing == ((1, 4),)
    trust = ("--log-key", note.format_vkey(log.verifier), "--json")
    (tmp_path / "history.json").write_bytes(content)
    shown = verify(package, "history", tmp_path / "history.json", *trust, "--tag", found.tag.hex())
    assert (shown["missing"], shown["kept_from_ms"]) == ([[1, 4]], found.kept_from_ms)
    assert [entry["seq"] for entry in shown["entries"]] == [entry.seq for entry in found.entries] == [5, 6, 7]
    assert [entry["pruned"] for entry in shown["entries"]] == [True, False, False]

    config, made = world.running.config, tmp_path / "person.json"
    pins = {"origin": config.ledger.origin, "log_verifier": log.verifier}
    make_evidence(data_directory(world), made, Scope(tag=found.tag), **pins)
    verified = verify_evidence(parse_evidence(made.read_bytes()), **pins)
    assert [len(chain.entries) for chain in verified.histories.chains] == [3, 2]
    assert verified.missing == 4
    proven = verify(package, "evidence", made, *trust)
    assert proven["chains"][0] == {"tag": found.tag.hex(), "public_name": "", "missing": [[1, 4]],
                                   "entries": shown["entries"]}  # fmt: skip
    later = json.loads(content)
    del later["histories"][0]["entries"][0]
    later["histories"][0]["first_seq"] += 1
    (tmp_path / "history.json").write_text(json.dumps(later))
    assert verify(package, "history", tmp_path / "history.json", *trust, status=1)["error"] == "proof"


@pytest.mark.slow
def test_a_reader_in_typescript_follows_the_log_keys_of_a_daemon(package, tmp_path):
    """With each of three log keys pinned; and no rotation that was changed leads from the first one."""
    with running_daemon(tmp_path / "daemon") as running:
        subject = running.enrol("SYN-000001")
        running.grant(subject)
        pins = [read_signing_key(running.config.keys.log_key_file).verifier]
        for _ in range(2):
            pins.append(note.Verifier(pins[0].name, rotate(running, RotationRole.LOG).new_key))
            running.authorize(question(subject))
        rotate(running, RotationRole.STATEMENT)
        running.authorize(question(subject), wait_for=consent_pb2.WAIT_FOR_PUBLISHED)
        client = Client("", token=running.tokens["app"], trust=pin(pins[0]), channel=running.channel)
        found, content = client.run(save_history(client.context, subject))
        running.check_ledger()
    (tmp_path / "history.json").write_bytes(content)
    vkeys = [note.format_vkey(one) for one in pins]
    made = tmp_path / "person.json"
    location = DataDirectory.of_config(running.config)
    make_evidence(location, made, Scope(tag=found.tag), origin=pins[0].name, log_verifier=pins[0])
    for position, vkey in enumerate(vkeys):
        for verb, name in (("history", tmp_path / "history.json"), ("evidence", made)):
            shown = verify(package, verb, name, "--log-key", vkey, "--json")
            assert shown["verdict"] == "proven"
            followed = [one["vkey"] for one in shown["log_keys"]]
            assert followed == (vkeys[position:] if position < 2 else [])
    document = json.loads(content)
    trust = ("--log-key", vkeys[0], "--json")
    for change, status in (
        (lambda steps: steps.clear(), 2),
        (lambda steps: steps.pop(0), 2),
        (lambda steps: steps.reverse(), 1),
        (lambda steps: steps[0].update(consistency=steps[0]["consistency"][1:]), 1),
        (lambda steps: steps[1]["history"]["entries"].pop(), 1),
        (lambda steps: steps[0].update(seal=steps[1]["seal"]), 1),
    ):
        changed = copy.deepcopy(document)
        change(changed["rotations"])
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        verify(package, "history", tmp_path / "changed.json", *trust, status=status)


# -- in a browser -----------------------------------------------------------------------------------------------

PAGE = PAGE_HEAD + """\
<script type="module">
  import * as verify from "@consentd/verify";

  const { origin, logKey, tag, files } = PASSED;
  const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const said = {};
  for (const [name, content] of Object.entries(files)) {
    try {
      if (name.startsWith("person")) {
        said[name] = verify.verifyEvidence(bytes(content), { origin, logKey }).chains.length;
      } else {
        const found = verify.verifyHistory(bytes(content), { origin, logKey, tag: verify.decodeHex(tag) });
        said[name] = found.entries.map(({ event }) => verify.KINDS.get(event.kind).name);
      }
    } catch (error) {
      said[name] = error.name;
    }
  }
  document.documentElement.textContent = JSON.stringify(said);
</script>
"""


@pytest.mark.slow
def test_in_a_browser(package, served, tmp_path):
    """The same modules, unbundled, in Chromium: a history and evidence, and each of them changed."""
    directory, (_, log_key, _), tag = served
    history, evidence = ((directory / name).read_bytes() for name in ("history.json", "person.json"))
    files = {
        "history.json": history,
        "changed.json": history.replace(b'"first_seq":1', b'"first_seq":2', 1),
        "person.json": evidence,
        "person-cut.json": evidence[:-1],
    }
    passed = {
        "origin": log_key.split("+")[0],
        "logKey": log_key,
        "tag": tag,
        "files": {name: b64(content) for name, content in files.items()},
    }
    shown = show(package, PAGE.replace("PASSED", json.dumps(passed)), tmp_path / "profile")
    found = re.search(r"<html>(\{.*\})</html>", shown)
    assert found, shown
    assert json.loads(found[1]) == {
        "history.json": ["ENROL", "GRANT", "ACCESS"],
        "changed.json": "ProofError",
        "person.json": 2,
        "person-cut.json": "MalformedError",
    }


def verify(package, *arguments, status=0):
    """Run the command line; return its answer."""
    answer = run(package, "node", "dist/src/cli.js", *map(str, arguments))
    assert answer.returncode == status, answer.stdout + answer.stderr
    return json.loads(answer.stdout)
