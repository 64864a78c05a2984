"""The command line: what it answers, where it says it, and the status it exits with."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, consent, make_running
from consentd import cli
from consentd.cli.out import Out
from consentd.core import checkpoint, codec, merkle, note
from consentd.core.kinds import EntryKind
from consentd.cosigning import mldsa
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import ConsentdError
from consentd.server.keys import read_keys
from consentd.store.lmdb import Environment
from consentd_client import Client, FileMemory, KeyPair, StatementSigner, Subject

ROOT = Path(__file__).parents[1]
CONSENT = ("--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN")
ASK = ("--actor", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX")
SEVEN_ITEMS = ("--recurrence", "P1M", "--until", "2099-12-31", "--retain-until", "2100-01-31T00:00:00+09:00")


class Result:
    """What one run of a verb left: status, stdout and stderr."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The JSON objects of the answer, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        (one,) = self.objects
        return one


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in this process, with no environment but what a test sets."""
    for name in os.environ:
        if name.startswith(("CONSENTD_", "LC_", "LANG")):
            monkeypatch.delenv(name)

    def run(*argv: object, stdin: str = "") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        try:
            status = cli.main([str(one) for one in argv])
        except SystemExit as done:  # argparse's
            status = int(done.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Result(status, told.out, told.err)

    return run


# -- against a daemon -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = make_running(tmp_path_factory.mktemp("cli"), checkpoint_interval_ms=10)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def log_key(running: Running) -> str:
    return note.format_vkey(read_keys(running.config).log.verifier)


@pytest.fixture
def talk(run: Run, running: Running, log_key: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb against the daemon, as the app."""
    monkeypatch.setenv("CONSENTD_TARGET", f"127.0.0.1:{running.daemon.grpc_port}")
    monkeypatch.setenv("CONSENTD_TOKEN", running.tokens["app"])
    monkeypatch.setenv("CONSENTD_LOG_KEY", log_key)
    return run


class Numbered:
    """Gives each test persons of its own."""

    count = 0


@pytest.fixture
def person() -> str:
    Numbered.count += 1
    return f"mhid:CLI-{Numbered.count:04}"


@pytest.fixture
def granted(talk: Run, person: str) -> str:
    """A person with one consent; its id."""
    assert talk("enrol", person).status == 0
    return talk("grant", person, *CONSENT).out.strip()


def test_life_of_a_consent(talk: Run, person: str, tmp_path: Path) -> None:
    enrolled = talk("enrol", person, "--method", "id-card", "--receipt", tmp_path / "enrol.receipt")
    tag = enrolled.out.strip()
    assert (enrolled.status, len(bytes.fromhex(tag))) == (0, 32)
    granted = talk("grant", person, *CONSENT, "--receipt", tmp_path / "grant.receipt")
    consent_id = granted.out.strip()
    assert (granted.status, len(bytes.fromhex(consent_id))) == (0, 16)
    assert "receipt stored" in granted.err
    checked = talk("check", person, *ASK)
    assert (checked.status, checked.err) == (0, "")
    assert checked.out.splitlines() == [
        "PERMIT  permitted",
        "  permitted: CLIN.DX",
        f"  reason: PERMITTED_BY_CONSENT {consent_id}",
    ]
    authorized = talk("authorize", person, *ASK, "--network-origin", "10.0.0.9")
    assert authorized.status == 0
    assert "  access-seq: 3" in authorized.out
    recorded = talk("record", person, "--access-seq", 3, "--status", "sent", "--category", "CLIN.DX", "--resources", 2)
    assert (recorded.status, recorded.out.startswith("recorded as entry ")) == (0, True)
    amended = talk("amend", person, consent_id, *CONSENT, "--action", "disclose")
    assert (amended.status, amended.out.strip()) == (0, consent_id)
    assert talk("pause", person, consent_id).out == f"{consent_id}  paused\n"
    assert talk("check", person, *ASK).status == 1
    assert talk("resume", person, consent_id, "--lang", "ko").out == f"{consent_id}  재개\n"
    revoked = talk("revoke", person, consent_id, "--note", "enough", "--receipt", tmp_path / "revoke.receipt")
    assert (revoked.status, revoked.out) == (0, f"{consent_id}  revoked\n")
    refused = talk("check", person, *ASK)
    assert (refused.status, refused.out.splitlines()[0]) == (1, "NO_CONSENT  no consent")
    assert talk("consents", person).out == ""
    assert f"{consent_id}  v2  revoked" in talk("consents", person, "--all").out
    listed = talk("accesses", person, "--limit", 1)
    assert "permitted: hospital-a → clinic-b, TREAT, disclose, CLIN.DX\n      sent CLIN.DX" in listed.out
    assert "proves nothing" in listed.err
    shown = talk("history", person, "--tag", tag)
    assert shown.status == 0
    kinds = ["enrolled", "granted", "access", "outcome", "amended", "paused", "resumed", "revoked"]
    assert [line.split("KST  ")[1].split(":")[0] for line in shown.out.splitlines()] == kinds
    assert "proven: all 8 entries" in shown.err
    assert "Not proven: an access that nobody reported" in shown.err
    assert person.partition(":")[2] not in shown.out + shown.err
    for receipt, kind in (("enrol", "ENROL, seq 1"), ("grant", "GRANT, seq 2"), ("revoke", "REVOKE, seq 8")):
        verified = talk("verify", tmp_path / f"{receipt}.receipt")
        assert (verified.status, kind in verified.out) == (0, True)


def test_answers_for_programs(talk: Run, person: str, granted: str) -> None:
    checked = talk("check", person, *ASK, "--json").object
    assert (checked["outcome"], checked["permitted"], checked["error"]) == ("PERMIT", ["CLIN.DX"], None)
    assert checked["reasons"][0]["consent_id"] == granted
    authorized = talk("authorize", person, *ASK, "--json", "--receipt", os.devnull).object
    assert authorized["access_seq"] == 3
    assert len(bytes.fromhex(authorized["receipt"]["leaf"])) == codec.EVENT_LENGTH
    assert authorized["receipt"]["proof"].startswith("c2sp.org/tlog-proof@v1\n")
    assert talk("consents", person, "--json").object["state"] == "ACTIVE"
    access = talk("accesses", person, "--json").object
    assert (access["seq"], "subject" in access["question"]) == (3, False)
    *entries, summary = talk("history", person, "--json").objects
    assert [entry["kind"] for entry in entries] == ["ENROL", "GRANT", "ACCESS"]
    assert entries[2]["question"]["actor"] == {"organisation": "clinic-b"}
    assert (summary["verdict"], summary["entries"], summary["unread"]) == ("proven", 3, 0)
    assert person.partition(":")[2] not in json.dumps(entries)
    assert {"type": "participant", "id": "pipc", "ko": "시험 기관"}.items() <= talk(
        "participants", "show", "pipc", "--json"
    ).object.items()


def test_a_check_exits_by_its_outcome(talk: Run, person: str, granted: str) -> None:
    assert talk("check", person, *ASK).status == 0
    partial = talk("check", person, *ASK, "--category", "INS.TX")
    assert (partial.status, partial.out.splitlines()[0]) == (1, "PARTIAL  permitted in part")
    assert talk("grant", person, *CONSENT, "--deny").status == 0
    denied = talk("check", person, *ASK, "--lang", "ko")
    assert (denied.status, denied.out.splitlines()[0]) == (1, "DENY  거부")
    assert talk("authorize", person, *ASK).status == 1
    unknown = talk("check", person, *ASK, "--purpose", "NOPE")
    assert (unknown.status, unknown.out.splitlines()[0]) == (2, "INDETERMINATE  could not be determined")
    assert "(UNKNOWN_PURPOSE)" in unknown.err
    assert talk("check", person, *ASK, "--purpose", "NOPE", "--json").object["error"]["reason"] == "UNKNOWN_PURPOSE"
    nobody = talk("check", person, *ASK, "--target", "127.0.0.1:1", "--timeout", 5)
    assert (nobody.status, nobody.out.splitlines()[0]) == (2, "INDETERMINATE  could not be determined")
    plain = talk("check", person, *ASK, "--target", "consent.example.org:7400")
    assert (plain.status, "needs TLS" in plain.err) == (2, True)


def test_a_person_is_read_from_stdin(talk: Run, person: str, granted: str) -> None:
    assert talk("check", "-", *ASK, stdin=f"{person}\n").status == 0
    for bad in ("nobody", ":x", "mhid:", ""):
        found = talk("check", "-", *ASK, stdin=bad)
        assert (found.status, "SCHEME:VALUE" in found.err, found.out) == (2, True, "")


def test_grants_of_every_kind(talk: Run, person: str, tmp_path: Path) -> None:
    talk("enrol", person)
    lacking = talk("grant", person, *CONSENT, "--kind", "transfer-request", "--json")
    assert (lacking.status, lacking.object["refused"]) == (1, "R05_UNSPECIFIED_ITEMS")
    assert lacking.object["missing"] == ["recurrence", "end", "retention"]
    shown = talk("grant", person, *CONSENT, "--kind", "transfer-request")
    assert (shown.status, shown.out) == (1, "refused: R05_UNSPECIFIED_ITEMS (recurrence, end, retention)\n")
    assert talk("grant", person, *CONSENT, *SEVEN_ITEMS, "--kind", "transfer-request").status == 0
    assert talk("grant", person, "--recipient", "clinic-b", "--kind", "objection").status == 0
    listed = talk("consents", person, "--json").objects
    request = listed[1]["consent"]
    assert request["root"]["period"]["end_time_ms"] == "4102412400000"  # 2100-01-01T00:00+09:00
    assert (listed[0]["consent"]["root"]["effect"], request["recurrence"]) == ("EFFECT_DENY", "P1M")
    given = {"kind": "CONSENT_KIND_CONSENT", "language": "en", "root": {
        "effect": "EFFECT_PERMIT", "actors": ["clinic-b"], "holders": ["*"], "purposes": ["TREAT"],
        "categories": ["INS"],
    }}  # fmt: skip
    file = tmp_path / "consent.json"
    file.write_text(json.dumps(given))
    assert talk("grant", person, "--file", file).status == 0
    assert talk("grant", person, "--file", "-", stdin=json.dumps(given)).status == 0
    for more in (
        ("--file", tmp_path / "none"), ("--notice", "n1"), ("--notice", "n1@1", *CONSENT), ("--recipient", "stranger"),
    ):  # fmt: skip
        assert talk("grant", person, *more).status == 2
    file.write_text('{"root": 7}')
    assert "protobuf JSON" in talk("grant", person, "--file", file).err
    assert "no such date" in talk("grant", person, *CONSENT, "--until", "2026-02-30").err


def test_an_uncertain_write_is_repeated_with_its_request_id(talk: Run, person: str) -> None:
    talk("enrol", person)
    lost = talk("grant", person, *CONSENT, "--target", "127.0.0.1:1", "--timeout", 5)
    assert lost.status == 2
    request_id = lost.err.rsplit("--request-id ", 1)[1].strip()
    assert len(bytes.fromhex(request_id)) == 16
    first = talk("grant", person, *CONSENT, "--request-id", request_id, "--json").object
    again = talk("grant", person, *CONSENT, "--request-id", request_id, "--json").object
    assert (first["consent_id"], first["receipt"]["replayed"]) == (again["consent_id"], False)
    assert again["receipt"]["replayed"]
    assert talk("grant", person, *CONSENT, "--request-id", "00").status == 2


def test_break_glass(talk: Run, running: Running, person: str) -> None:
    talk("enrol", person)
    ask = ("--actor", "er", "--holder", "hospital-a", "--purpose", "BTG", "--category", "CLIN.ALG")
    refused = talk("authorize", person, *ask, "--emergency", "unconscious")
    assert refused.status == 1
    assert talk("authorize", person, *ask).status == 2
    assert talk("check", person, *ask).status == 2


def test_participants_and_words(talk: Run, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    denied = talk("participants", "add", "lab-c", "--en", "Lab C", "--role", "holder")
    assert (denied.status, "(CALLER_NOT_ALLOWED)" in denied.err) == (2, True)
    token = tmp_path / "operator.token"
    token.write_text(running.tokens["operator"] + "\n")
    monkeypatch.setenv("CONSENTD_TOKEN_FILE", str(token))
    more = ("--ko", "검사소", "--en", "Lab C", "--right", "see-reasons", "--group", "group/labs")
    assert talk("participants", "add", "lab-c", "--role", "holder", "--role", "recipient", *more).out == "lab-c\n"
    key = KeyPair(b"\x41" * 32).public_key.hex()
    assert talk("participants", "add-key", "lab-c", key).status == 0
    shown = talk("participants", "show", "lab-c", "--lang", "ko").out.splitlines()
    assert shown == ["lab-c  검사소  holder+recipient", "  right: see-reasons", f"  key: {key}"]
    assert talk("participants", "retire-key", "lab-c", key).status == 0
    assert talk("participants", "add", "lab-c", "--en", "Lab C", "--role", "holder", "--inactive").status == 0
    assert "lab-c  Lab C  holder  (left)" in talk("participants", "list").out
    assert talk("participants", "show", "nobody").status == 2
    assert talk("participants", "add-key", "lab-c", "xyz").status == 2
    codes = talk("vocabulary", "--json").objects
    assert {"kind": "purpose", "code": "TREAT"}.items() <= next(one for one in codes if one["code"] == "TREAT").items()
    assert "CLIN.DX" in talk("vocabulary", "--lang", "ko").out


def test_a_history_remembers(talk: Run, person: str, granted: str, tmp_path: Path) -> None:
    memory = ("--memory", tmp_path / "memory.json")
    talk("authorize", person, *ASK, "--receipt", os.devnull)
    assert len(talk("history", person, *memory).out.splitlines()) == 3
    talk("revoke", person, granted, "--receipt", os.devnull)
    new = talk("history", person, *memory, "--new", "--lang", "ko")
    assert [line.split("KST  ")[1].split(":")[0] for line in new.out.splitlines()] == ["철회"]
    assert "증명됨" in new.err
    assert talk("checkpoint", *memory).status == 0
    assert talk("checkpoint", "--json").object["verdict"] == "proven"


def test_a_history_that_was_taken_back_is_disproved(
    talk: Run, running: Running, person: str, granted: str, tmp_path: Path
) -> None:
    log = read_keys(running.config).log
    ahead = checkpoint.Checkpoint(running.config.ledger.origin, 1 << 40, b"\x07" * 32)
    path = tmp_path / "memory.json"
    FileMemory(path).remember(checkpoint.sign_checkpoint(ahead, [log]))
    for verb in (("history", person), ("checkpoint",)):
        found = talk(*verb, "--memory", path)
        assert (found.status, found.out) == (1, "")
        assert "smaller than the one" in found.err
        assert "checkpoint remembered:" in found.err  # the evidence


def test_what_a_history_needs(talk: Run, person: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert talk("history", person).status == 2  # not enrolled
    talk("enrol", person, "--receipt", os.devnull)
    assert talk("history", person, "--tag", "00" * 32).status == 1
    for bad in (("history",), ("history", person, "--public", "ledger"), ("history", person, "--tag", "zz")):
        assert talk(*bad).status == 2
    absent = talk("history", "--public", "notice/none")
    assert (absent.status, absent.out) == (0, "")
    assert "never about a person" in absent.err
    assert "ledger: consent.test/running" in talk("history", "--public", "ledger").out
    (tmp_path / "memory.json").write_text("{")
    assert talk("history", person, "--memory", tmp_path / "memory.json").status == 2
    stranger = note.format_vkey(note.Signer("consent.test/running", KeyPair(b"\x42" * 32)).verifier)
    assert talk("history", person, "--log-key", stranger).status == 1
    assert talk("history", person, "--origin", "another").status == 1
    monkeypatch.delenv("CONSENTD_LOG_KEY")
    unpinned = talk("history", person)
    assert (unpinned.status, "--log-key" in unpinned.err) == (2, True)


def test_a_receipt_is_completed_later(talk: Run, person: str, tmp_path: Path) -> None:
    file = tmp_path / "enrol.receipt"
    early = talk("enrol", person, "--json").object["receipt"]
    file.write_text(json.dumps({**early, "proof": ""}))
    unproven = talk("verify", file)
    assert (unproven.status, "no proof yet" in unproven.err) == (2, True)
    assert talk("receipt", file).status == 0
    assert talk("verify", file).status == 0
    file.write_text("{}")
    assert talk("receipt", file).status == 1


def test_a_wrong_token_is_said(talk: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONSENTD_TOKEN", "wrong")
    found = talk("participants", "list")
    assert (found.status, "(UNAUTHENTICATED)" in found.err) == (2, True)
    assert talk("participants", "list", "--token-file", tmp_path / "none").status == 2


# -- import ---------------------------------------------------------------------------------------------------


def fhir_consent(identifier: str, **changed: Any) -> dict[str, Any]:
    hl7 = "http://terminology.hl7.org/CodeSystem/"
    return {
        "resourceType": "Consent",
        "id": "one",
        "status": "active",
        "scope": {"coding": [{"system": f"{hl7}consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": "Patient/p", "identifier": {"system": "https://mhid.example", "value": identifier}},
        "policyRule": {"coding": [{"system": f"{hl7}v3-ActCode", "code": "OPTIN"}]},
        "provision": {"purpose": [{"system": f"{hl7}v3-ActReason", "code": "TREAT"}]},
        **changed,
    }


def test_import_of_fhir(talk: Run, person: str, tmp_path: Path) -> None:
    pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('[schemes]\n"https://mhid.example" = "mhid"\n')
    file = tmp_path / "in" / "one.json"
    file.parent.mkdir()
    file.write_text(json.dumps(fhir_consent(person.partition(":")[2])))
    verb = ("import", "fhir", file.parent, "--mapping", mapping)
    rehearsed = talk(*verb, "--dry-run", "--target", "127.0.0.1:1")
    assert (rehearsed.status, "imported as (dry run)" in rehearsed.out) == (0, True)
    missing = talk(*verb, "--json")
    assert (missing.status, missing.object["fate"]) == (1, "refused")
    first = talk(*verb, "--enrol", "--json")
    assert (first.status, first.object["fate"]) == (0, "imported")
    consent_id = first.object["consent_id"]
    assert talk(*verb, "--json").object["fate"] == "unchanged"
    # What is in force now came from elsewhere, yet the import knows what it wrote before, and keeps knowing.
    assert talk("amend", person, consent_id, *CONSENT).status == 0
    talk("checkpoint")
    talk("authorize", person, *ASK, "--receipt", os.devnull)
    assert talk(*verb, "--json").object["fate"] == "unchanged"
    assert talk("revoke", person, consent_id).status == 0
    assert talk(*verb, "--json").object["fate"] == "unchanged"
    file.write_text(json.dumps(fhir_consent(person.partition(":")[2], status="draft")))
    refused = talk(*verb)
    assert (refused.status, "refused because" in refused.out) == (1, True)
    file.unlink()
    assert "no file was found" in talk(*verb).err
    assert talk("import", "fhir", file.parent, "--mapping", tmp_path / "none").status == 2


# -- offline --------------------------------------------------------------------------------------------------

LOG = note.Signer("consent.test/offline", KeyPair(b"\x43" * 32))
KEY = note.format_vkey(LOG.verifier)


def evidence(leaf: bytes, *, size: int = 2) -> tuple[bytes, bytes]:
    """Return (proof, checkpoint) of a tree whose first leaf is *leaf*."""
    other = merkle.leaf_hash(b"other")
    root = merkle.node_hash(merkle.leaf_hash(leaf), other)
    signed = checkpoint.sign_checkpoint(checkpoint.Checkpoint(LOG.name, size, root), [LOG])
    return checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, (other,), signed)), signed


def event(kind: int, time_ms: int = 1_760_000_000_000) -> bytes:
    return codec.encode_event(codec.Event(kind, time_ms, b"\x01" * 32, 1, codec.ZERO_HASH, b"\x02" * 32, 0))


def test_verify_proves_and_disproves(run: Run, tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    proof, signed = evidence(leaf)
    file = tmp_path / "grant.tlog-proof"
    file.write_bytes(proof)
    good = run("verify", file, "--leaf", leaf.hex(), "--log-key", KEY)
    assert (good.status, good.err) == (0, "")
    assert good.out == (
        "proven: entry 0 of `consent.test/offline` in its tree of 2, GRANT, seq 1 of its chain, "
        "2025-10-09 17:53:20 KST\n"
    )
    (tmp_path / "leaf").write_bytes(leaf)
    (tmp_path / "leaf.hex").write_text(leaf.hex() + "\n")
    (tmp_path / "log.vkey").write_text(KEY + "\n")
    for given in ("leaf", "leaf.hex"):
        assert run("verify", file, "--leaf", tmp_path / given, "--log-key", tmp_path / "log.vkey").status == 0
    assert run("verify", "-", "--leaf", leaf.hex(), "--log-key", KEY, stdin=proof.decode()).status == 0
    point = tmp_path / "checkpoint"
    point.write_bytes(signed)
    shown = run("verify", point, "--log-key", KEY, "--json").object
    assert (shown["verdict"], shown["what"], shown["size"]) == ("proven", "checkpoint", 2)
    assert run("verify", point, "--log-key", KEY, "--lang", "ko").out.startswith("증명됨")
    other = note.format_vkey(note.Signer(LOG.name, KeyPair(b"\x44" * 32)).verifier)
    for status, argv in (
        (1, (file, "--leaf", event(EntryKind.REVOKE).hex(), "--log-key", KEY)),
        (1, (file, "--leaf", leaf.hex(), "--log-key", other)),
        (1, (file, "--leaf", leaf.hex(), "--log-key", KEY, "--origin", "another")),
        (1, (tmp_path / "leaf.hex", "--log-key", KEY)),
        (2, (file, "--log-key", KEY)),
        (2, (file, "--leaf", tmp_path / "none", "--log-key", KEY)),
        (2, (file, "--leaf", leaf.hex())),
        (2, (file, "--leaf", leaf.hex(), "--log-key", "no+key")),
        (2, (file, "--leaf", leaf.hex(), "--log-key", tmp_path / "none")),
        (2, (tmp_path / "none", "--log-key", KEY)),
    ):
        found = run("verify", *argv)
        assert (found.status, found.out) == (status, ""), argv
        assert found.err.startswith("disproved: " if status == 1 else "error: ")


def test_verify_asks_for_witnesses(run: Run, tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    file, policy = tmp_path / "proof", tmp_path / "policy"
    file.write_bytes(evidence(leaf)[0])
    witness = note.Signer("w.test", KeyPair(b"\x46" * 32), note.COSIGNATURE)
    policy.write_text(f"witness w {note.format_vkey(witness.verifier)}\nquorum w\n")
    verb = ("verify", file, "--leaf", leaf.hex(), "--log-key", KEY, "--policy", policy)
    alone = run(*verb)
    assert (alone.status, "no quorum" in alone.err) == (1, True)
    bundle = checkpoint.parse_proof(file.read_bytes())
    opened = note.parse_note(bundle.checkpoint_note)
    cosigned = note.format_note(opened.text, [*opened.unverified, witness.cosign(opened.text, 1_760_000_000)])
    file.write_bytes(checkpoint.format_proof(checkpoint.ProofBundle(b"", 0, bundle.proof, cosigned)))
    assert run(*verb).status == 0
    policy.write_text("quorum nobody\n")
    found = run(*verb)
    assert (found.status, "witness policy is malformed" in found.err) == (2, True)


def test_verify_reads_receipts(run: Run, tmp_path: Path) -> None:
    leaf = event(EntryKind.ACCESS)
    proof, _ = evidence(leaf)
    kept = {"index": 0, "leaf": leaf.hex(), "proof": proof.decode(), "replayed": False}
    file = tmp_path / "a.receipt"
    for content, status in (
        (kept, 0),
        ({"receipt": kept}, 0),
        ({**kept, "index": 1}, 1),
        ({**kept, "index": "0"}, 1),
        ({**kept, "leaf": event(EntryKind.GRANT).hex()}, 1),
        ({**kept, "leaf": "zz"}, 1),
        ({**kept, "proof": "x"}, 1),
        ({**kept, "proof": ""}, 2),
        ({}, 1),
    ):
        file.write_text(json.dumps(content))
        assert run("verify", file, "--log-key", KEY).status == status, content
    file.write_text("{")
    assert run("verify", file, "--log-key", KEY).status == 1


def test_verify_could_not_tell_what_a_later_version_says(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "proof"
    sealed = codec.encode_seal(codec.Seal(1, 3, b"\x01" * 32, 1, bytes(32)))
    far = event(EntryKind.GRANT, (1 << 64) - 1)
    for leaf, status, said in (
        (event(99), 2, "kind 99"), (b"\x02\x08 of a later version", 2, "version unknown"), (sealed, 0, "a seal over 3"),
        (far, 0, "18446744073709551615 ms"),
    ):  # fmt: skip
        file.write_bytes(evidence(leaf)[0])
        found = run("verify", file, "--leaf", leaf.hex(), "--log-key", KEY)
        assert (found.status, said in found.out) == (status, True)


def test_verify_loads_neither_grpc_nor_protobuf(tmp_path: Path) -> None:
    leaf = event(EntryKind.GRANT)
    (tmp_path / "proof").write_bytes(evidence(leaf)[0])
    program = (
        "import sys; from consentd.cli import main; "
        f"status = main(['verify', {str(tmp_path / 'proof')!r}, '--leaf', {leaf.hex()!r}, '--log-key', {KEY!r}]); "
        "heavy = {'grpc', 'google', 'consentd_client', 'rich', 'rocksdict', 'lmdb', 'cryptography'}; "
        "sys.exit(status or bool(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True).returncode == 0


# -- the daemon's files ---------------------------------------------------------------------------------------


TOML = """
[ledger]
origin = "consent.test/files"
data_dir = "data"
map_bits = 8
block_cache_mb = 16
checkpoint_interval_ms = 10
[keys]
log_key_file = "keys/log.key"
statement_key_file = "keys/statement.key"
vault_key_file = "keys/vault.key"
[callers]
credentials_file = "keys/credentials"
[table]
map_size_mb = 64
[grpc]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
"""


def consentd(*argv: object, **options: Any) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CONSENTD_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
    return subprocess.Popen(
        [sys.executable, "-m", "consentd.cli", *map(str, argv)], text=True, cwd=ROOT, env=environment, **options
    )


def test_keygen_and_credential(run: Run, tmp_path: Path) -> None:
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
    given = run("credential", "--config", config, "my-app", "--json")
    assert "SIGHUP" in given.err
    assert (tmp_path / "keys/credentials").read_text().splitlines()[:-1] == lines
    assert given.object["participant"] == "my-app"
    assert given.object["token"] != token
    assert run("credential", "--config", config, "My App").status == 2
    (tmp_path / "keys/credentials").unlink()
    assert "keygen" in run("credential", "--config", config, "my-app").err
    for bad in (tmp_path / "none.toml", ROOT / "README.md"):
        found = run("serve", "--config", bad)
        assert (found.status, found.err.startswith("error: config: ")) == (2, True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "consentd.toml").write_text(TOML)
    shown = run("keygen", "--config", other / "consentd.toml", "--json").object
    assert (shown["origin"], sorted(shown["files"])) == (
        "consent.test/files", ["credentials", "log_key", "statement_key", "vault_key"],
    )  # fmt: skip
    assert "log_mldsa_key" not in shown


def test_what_others_wrote_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(as_json=False, lang="en")
    out.answer("one\x1b[2J\x9b1m\u202e\n\ttwo")
    out.message("three\r\x07")
    Out(as_json=True, lang="en").answer("", said="\x1b")
    shown = capsys.readouterr()
    assert shown.out == 'one\\u001b[2J\\u009b1m\\u202e\n\ttwo\n{"said": "\\u001b"}\n'
    assert shown.err == "three\\u000d\\u0007\n"


def test_keygen_shows_the_second_log_key_too(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "consentd.toml"
    config.write_text(TOML.replace("[keys]", '[keys]\nlog_mldsa_key_file = "keys/mldsa.key"'))
    made = run("keygen", "--config", config, "--json")
    vkey = mldsa.format_mldsa_vkey(mldsa.read_mldsa_key(tmp_path / "keys/mldsa.key").verifier)
    assert made.object["log_mldsa_key"] == vkey
    assert f"ML-DSA-44 log key: {vkey}\n" in made.err


def test_serve_then_look_at_its_files(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "consentd.toml"
    path.write_text(TOML)
    token = run("keygen", "--config", path, "--json").object
    served = consentd("serve", "--config", path, stderr=subprocess.PIPE)
    try:
        assert served.stderr is not None
        told: list[str] = []
        while not told or "serving gRPC" not in told[-1]:
            line = served.stderr.readline()
            assert line, told
            told.append(json.loads(line)["message"])
        target = f"127.0.0.1:{told[-1].split('port ')[1].split()[0]}"
        busy = run("fsck", "--config", path)
        assert (busy.status, "open in another process" in busy.err) == (2, True)
        late = run("credential", "--config", path, "app").out.strip()
        served.send_signal(signal.SIGHUP)
        while "credentials reloaded" not in told[-1]:
            told.append(json.loads(served.stderr.readline())["message"])
        with Client(target, token=late) as app, pytest.raises(ConsentdError) as denied:
            app.enrol(Subject(scheme="mhid", value="1"))
        assert denied.value.reason == "CALLER_NOT_ALLOWED"
        with Client(target, token=token["token"]) as client:
            key = KeyPair(b"\x45" * 32)
            enrolled = client.enrol(Subject(scheme="mhid", value="1"), subject_key=key.public_key)
            signer = StatementSigner(key=key, origin=token["origin"], tag=enrolled.tag)
            with pytest.raises(ConsentdError):  # nobody registered clinic-b here
                client.grant(Subject(scheme="mhid", value="1"), consent(), signer=signer)
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
    finally:
        served.kill()
        served.communicate()
    sound = run("fsck", "--config", path, "--json").object
    assert (sound["verdict"], sound["faults"], sound["entries"]) == ("proven", 0, 5)
    assert run("fsck", "--config", path, "--quick").status == 0
    copied = run("fsck", tmp_path / "data/ledger", "--log-key", token["log_key"])
    assert (copied.status, "not checked: statements of persons" in copied.err) == (2, True)
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


# -- the command itself ---------------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser, *path: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield every verb, with those below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, verb in action.choices.items():
            yield from parsers(verb, *path, name)


VERBS = dict(parsers(cli.make_parser()))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb: tuple[str, ...], run: Run) -> None:
    found = run(*verb, "--help")
    assert (found.status, found.err) == (0, "")
    assert VERBS[verb].description
    assert "--json" in found.out
    assert "--lang" in found.out
    undocumented = [action.dest for action in VERBS[verb]._actions if action.help is None]
    assert undocumented == []


def test_the_verbs_a_newcomer_needs_are_there(run: Run) -> None:
    top = run("--help").out
    for verb in ("serve", "keygen", "credential", "participants", "enrol", "grant", "check", "authorize", "record",
                 "history", "revoke", "verify", "fsck", "table", "import"):  # fmt: skip
        assert f"\n    {verb} " in top or f"\n    {verb}\n" in top
    assert "exit status" in top
    assert run("--version").out.startswith("consentd 0.")
    for bad in ((), ("nothing",), ("check", "mhid:1"), ("table",)):
        assert run(*bad).status == 2


def test_the_language_follows_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point = tmp_path / "checkpoint"
    point.write_bytes(evidence(event(EntryKind.GRANT))[1])
    for language, said in (("ko_KR.UTF-8", "증명됨"), ("en_GB.UTF-8", "proven"), ("C", "proven")):
        monkeypatch.setenv("LC_ALL", language)
        assert run("verify", point, "--log-key", KEY).out.startswith(said)


def test_a_missing_part_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "consentd.toml"
    config.write_text(TOML)
    for part, verb, said in (
        ("consentd_client", ("vocabulary",), "pip install consentd-client"),
        ("rocksdict", ("fsck", "--config", config), "pip install 'consentd[server]'"),
    ):
        with monkeypatch.context() as without:
            for name in list(sys.modules):
                if name.split(".")[0] == part or name in ("consentd.store.rocks", "consentd.verify.fsck"):
                    without.delitem(sys.modules, name)
            without.setitem(sys.modules, part, None)
            found = run(*verb)
        assert (found.status, said in found.err) == (2, True)


def test_a_reader_that_had_enough_is_no_error(tmp_path: Path) -> None:
    shown = consentd("--help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = shown.communicate(timeout=60)
    assert (shown.returncode, err) == (0, "")
    assert out.startswith("usage: consentd ")
    point = tmp_path / "checkpoint"
    point.write_bytes(evidence(event(EntryKind.GRANT))[1])
    reading, writing = os.pipe()
    os.close(reading)
    closed = consentd("verify", point, "--log-key", KEY, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = closed.communicate(timeout=60)
    assert (closed.returncode, err) == (2, "")


def test_an_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(path: Path) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "read_bytes", interrupt)
    found = run("verify", tmp_path / "x", "--log-key", KEY)
    assert (found.status, found.err) == (130, "")


def test_progress_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = cli.Out(as_json=False, lang="en")
    for stream, shows in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr("sys.stderr", stream)
        with out.progress("rebuilding") as progress:
            progress(1, 2)
        assert ("rebuilding" in stream.getvalue()) == shows


def test_a_witness_gets_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (ROOT / "ops/witness.toml").read_text()
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/witness.toml").write_text(config)
    path = str(tmp_path / "ops/witness.toml")
    assert cli.main(["witness", "--config", path, "--keygen", "witness.test/w1"]) == 0
    vkey = capsys.readouterr().out.strip()
    assert note.parse_vkey(vkey).name == "witness.test/w1"
    assert cli.main(["witness", "--config", path, "--keygen", "witness.test/w1"]) == 2
