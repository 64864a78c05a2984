"""Evidence: what is in a file is proven without our server, and what cannot be proven is not put into one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cases.audits import DAEMON, LOG, ORIGIN, Forge, PrunedLocation, make_forge
from cases.command_lines import CommandLine
from cases.daemons import ORIGIN as RUNNING_ORIGIN
from cases.daemons import make_running
from consentd.audit.evidence import make_evidence
from consentd.audit.sources import ExportDirectory
from consentd.core import checkpoint, codec, ed25519, note, quorum
from consentd.core.evidence import Scope, format_evidence, parse_evidence
from consentd.core.kinds import EntryKind
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import InvalidError, NotFoundError, SignatureError, VerificationError
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.statements.evidence import VerifiedEvidence, verify_evidence
from consentd.v1 import statement_pb2 as st

VKEY = note.format_vkey(LOG.verifier)
BANK = ed25519.KeyPair(b"\x21" * 32)
CITIZEN = ed25519.KeyPair(b"\x22" * 32)


def make(location: Any, path: Path, **scope: Any) -> bytes:
    make_evidence(location, path, Scope(**scope), origin=ORIGIN, log_verifier=LOG.verifier)
    return path.read_bytes()


def check(content: bytes, **options: Any) -> VerifiedEvidence:
    return verify_evidence(parse_evidence(content), origin=ORIGIN, log_verifier=LOG.verifier, **options)


def chains_of(found: VerifiedEvidence) -> list[tuple[str, int]]:
    """Return the chains of evidence with how many entries each has, in order."""
    return [(chain.proof.public_name, len(chain.entries)) for chain in found.histories.chains]


@pytest.fixture(scope="module")
def forge() -> Forge:
    made = make_forge(900)
    bank = codec.public_tag("participant/bank")
    tag = next(tag for tag, (count, _) in made.heads.items() if count > 1)
    made.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key))
    made.add(EntryKind.OUTCOME, tag, st.OutcomeStatement(status=st.TRANSFER_STATUS_SENT), ref=3, key=BANK)
    made.add(EntryKind.KEY, tag, st.KeyStatement(key=CITIZEN.public_key))
    made.add(EntryKind.PAUSE, tag, st.PauseStatement(lineage_seq=2), ref=2, key=CITIZEN)
    made.seal()
    return made


@pytest.fixture(scope="module")
def person(forge: Forge) -> bytes:
    return next(tag for tag, (count, _) in forge.heads.items() if count > 1 and tag not in _public(forge))


def _public(forge: Forge) -> set[bytes]:
    return {leaf[10:42] for leaf in forge.leaves if leaf[1] == EntryKind.PARTICIPANT}


# -- what is proven ---------------------------------------------------------------------------------------------


def test_a_range(location: ExportDirectory, tmp_path: Path) -> None:
    found = check(make(location, tmp_path / "b.json", first=200, last=420))
    assert found.scope == Scope(first=200, last=420)
    assert chains_of(found) == [("ledger", 1)]  # whose key signed all of it
    assert found.entry_count == 221 + 1
    assert (found.closed, found.unknown, found.unproven) == (0, 0, 0)
    assert found.kinds["ACCESS"] > 100


def test_a_persons_history(location: ExportDirectory, forge: Forge, person: bytes, tmp_path: Path) -> None:
    found = check(make(location, tmp_path / "b.json", tag=person))
    count = forge.heads[person][0]
    assert chains_of(found)[0] == ("", count)
    assert {name for name, _ in chains_of(found)} == {"", "ledger", "participant/bank"}
    assert found.opened == found.entry_count


def test_a_public_chain(location: ExportDirectory, tmp_path: Path) -> None:
    found = check(make(location, tmp_path / "b.json", tag=codec.public_tag("ledger")))
    assert chains_of(found) == [("ledger", 1)]


@pytest.mark.parametrize("name", ["ledger", "participant/bank", f"vocabulary/{DEFAULT_VOCABULARY.id}", "rules/realm"])
def test_a_public_chain_has_its_name(location: ExportDirectory, tmp_path: Path, name: str) -> None:
    found = check(make(location, tmp_path / "b.json", tag=codec.public_tag(name)))
    assert found.histories.chains[0].proof.public_name == name


def test_a_participant_and_all_it_has_part_in(location: ExportDirectory, forge: Forge, tmp_path: Path) -> None:
    found = check(make(location, tmp_path / "b.json", participant="bank"))
    assert chains_of(found)[0] == ("participant/bank", 2)
    assert found.kinds["ACCESS"] + found.kinds["REFUSAL"] == len(forge.asked)
    found = check(make(location, tmp_path / "b.json", participant="hospital"))
    assert found.kinds["ACCESS"] > 100  # it holds what was asked for


def test_a_statement_by_a_person_outside_their_chain_stays_open(
    location: ExportDirectory, forge: Forge, tmp_path: Path
) -> None:
    found = check(make(location, tmp_path / "b.json", first=forge.size - 2, last=forge.size - 2))
    assert (found.unproven, found.opened) == (1, 1)


def test_without_openings_a_range_is_still_shown_to_stand_there(location: ExportDirectory, tmp_path: Path) -> None:
    bare = ExportDirectory(location.directory)
    found = check(make(bare, tmp_path / "b.json", first=300, last=310))
    assert (found.entry_count, found.opened) == (11, 0)
    with pytest.raises(InvalidError, match="not available"):
        make(bare, tmp_path / "b.json", tag=codec.public_tag("ledger"))


def test_of_a_pruned_ledger_what_is_left_is_proven(
    location: ExportDirectory, forge: Forge, person: bytes, tmp_path: Path
) -> None:
    kept = PrunedLocation(forge, location, forge.seals[4] + 1)
    first = kept.start
    found = check(make(kept, tmp_path / "b.json", first=first, last=first + 50))
    assert found.entry_count == 51 + 1
    make(location, tmp_path / "c.json", first=first, last=first + 50)
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    found = check(make(kept, tmp_path / "b.json", participant="bank"))
    assert chains_of(found)[0] == ("participant/bank", 2)
    with pytest.raises(NotFoundError, match="pruned"):
        make(kept, tmp_path / "d.json", first=min(kept.gone), last=first)
    with pytest.raises(InvalidError, match="does not state it"):
        make(kept, tmp_path / "d.json", tag=person)
    assert not (tmp_path / "d.json").exists()


def test_nothing_in_scope_is_said(location: ExportDirectory, tmp_path: Path) -> None:
    for scope in ({"participant": "nobody"}, {"tag": bytes(32)}, {"first": 10**6, "last": 10**6}):
        with pytest.raises(NotFoundError):
            make(location, tmp_path / "b.json", **scope)
    assert not (tmp_path / "b.json").exists()


def test_the_same_evidence_has_the_same_bytes(location: ExportDirectory, tmp_path: Path) -> None:
    assert make(location, tmp_path / "a.json", first=5, last=9) == make(location, tmp_path / "b.json", first=5, last=9)


def test_witnesses_are_asked_for_where_a_policy_is_given(location: ExportDirectory, tmp_path: Path) -> None:
    witness = note.Signer("witness.example", ed25519.KeyPair(b"\5" * 32), note.COSIGNATURE)
    text = f"log {VKEY}\nwitness w1 {note.format_vkey(witness.verifier)}\ngroup all any w1\nquorum all\n"
    policy = quorum.parse_policy(text.encode())
    content = make(location, tmp_path / "b.json", first=5, last=9)
    with pytest.raises(SignatureError):
        check(content, policy=policy)
    parsed = parse_evidence(content)
    opened = note.parse_note(parsed.proof.checkpoint)
    seal = codec.decode_leaf(parsed.proof.seal)

    def cosigned(time_s: int) -> bytes:
        signed = note.format_note(opened.text, [*opened.unverified, witness.cosign(opened.text, time_s)])
        return format_evidence(replace(parsed, proof=replace(parsed.proof, checkpoint=signed)))

    seal_s = seal.time_ms // 1000
    assert check(cosigned(seal_s), policy=policy).witnesses == ("w1",)
    # A cosignature from before the seal cannot have covered it.
    with pytest.raises(SignatureError):
        check(cosigned(seal_s - 61), policy=policy)
    fresh = {"policy": policy, "now_ms": (seal_s + 300) * 1000, "max_age_s": 300}
    assert check(cosigned(seal_s), **fresh).witnesses == ("w1",)
    with pytest.raises(SignatureError):
        check(cosigned(seal_s), **{**fresh, "now_ms": (seal_s + 301) * 1000})


def test_what_a_file_claims_to_be_read_under_counts_for_nothing(location: ExportDirectory, tmp_path: Path) -> None:
    """A forger signs with a key of his own, and names it in the file."""
    parsed = parse_evidence(make(location, tmp_path / "b.json", first=5, last=9))
    assert parsed.keys == (VKEY,)
    forger = note.Signer(ORIGIN, ed25519.KeyPair(b"\7" * 32))
    text = note.parse_note(parsed.proof.checkpoint).text
    signed = replace(parsed.proof, checkpoint=note.sign_note(text, [forger]))
    forged = replace(parsed, proof=signed, keys=(note.format_vkey(forger.verifier),), policy="quorum none\n")
    with pytest.raises(SignatureError):
        check(format_evidence(forged))


# -- keys ------------------------------------------------------------------------------------------------------


def test_a_key_does_not_vouch_for_itself(tmp_path: Path) -> None:
    forge = make_forge(60)
    bank = codec.public_tag("participant/bank")
    forge.add(EntryKind.KEY, bank, st.KeyStatement(key=BANK.public_key), key=BANK)
    forge.seal()
    location = forge.write(tmp_path / "log", tmp_path / "openings")
    with pytest.raises(SignatureError):
        check(make(location, tmp_path / "b.json", participant="bank"))


def test_a_statement_key_that_was_retired_signs_nothing_more(tmp_path: Path) -> None:
    forge = make_forge(60)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    gone = st.KeyStatement(key=DAEMON.public_key, retired=True)
    forge.add(EntryKind.KEY, codec.public_tag("ledger"), gone)
    at = forge.size
    forge.ask(tag)
    forge.seal()
    location = forge.write(tmp_path / "log", tmp_path / "openings")
    assert check(make(location, tmp_path / "a.json", first=at - 1, last=at - 1)).opened == 3
    with pytest.raises(SignatureError):
        check(make(location, tmp_path / "b.json", first=at, last=at))


def test_evidence_of_a_forged_ledger_is_not_made(tmp_path: Path) -> None:
    forge = make_forge(400)
    tag = next(tag for tag, (count, _) in forge.heads.items() if count > 1)
    forge.ask(tag)
    forge.seal(wrong=True)
    with pytest.raises(VerificationError, match="map root"):
        make(forge.write(tmp_path / "a", tmp_path / "b"), tmp_path / "b.json", first=0, last=5)


# -- by identifier ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_person_is_found_by_the_operators_vault(tmp_path: Path) -> None:
    value = "SYN-000123"
    running = make_running(tmp_path, checkpoint_interval_ms=20)
    try:
        running.grant(running.enrol(value))
        running.grant(running.enrol("SYN-000999"))
        running.check_ledger()
    finally:
        running.stop()
    write_config(tmp_path / "consentd.toml")
    vkey = note.format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    made = tmp_path / "b.json"

    def run(*argv: object, typed: str = "") -> tuple[int, str]:
        done = CommandLine()("audit", *argv, "--log-key", vkey, stdin=typed)
        assert value not in done.out + done.err
        return done.status, done.out + done.err

    files = ("--config", tmp_path / "consentd.toml")
    assert run("evidence", made, "--subject", "-", *files, typed=f"mhid:{value}\n")[0] == 0
    first = made.read_bytes()
    assert made.stat().st_mode & 0o777 == 0o600
    assert run("evidence", made, "--subject", f"mhid:{value}", *files)[0] == 0
    assert made.read_bytes() == first
    # Neither as text nor inside a statement: the vault's keyed hash stands for it, and the tag for the person.
    parsed = parse_evidence(first)
    openings = [entry.opening for chain in parsed.proof.chains for entry in chain.entries]
    assert value.encode() not in first
    assert not any(value.encode() in opening[1] for opening in openings if opening is not None)
    assert (len(parsed.scope.tag), parsed.scope.participant) == (32, "")
    found = verify_evidence(parsed, origin=RUNNING_ORIGIN, log_verifier=note.parse_vkey(vkey))
    assert chains_of(found)[0] == ("", 2)
    assert found.kinds["ENROL"] == found.kinds["GRANT"] == 1  # nobody else's
    # An error about a person never repeats the identifier.
    for given in ("mhid:SYN-000123x", "other:SYN-000123", "SYN-000123", "rrn:SYN-000123", ":SYN-000123"):
        made.unlink(missing_ok=True)
        status, _ = run("evidence", made, "--subject", given, *files)
        assert (status, made.exists()) == (2, False)
    (tmp_path / "data" / "vault").rename(tmp_path / "elsewhere")
    status, messages = run("evidence", made, "--subject", f"mhid:{value}", *files)
    assert status == 2
    assert "give --config of a stopped daemon with its vault" in messages
    assert run("evidence", made, "--subject", f"mhid:{value}", "--tag", bytes(32).hex(), *files)[0] == 2


def test_where_there_is_no_vault_it_is_said_what_to_do(location: Any, tmp_path: Path) -> None:
    argv = ("audit", "evidence", tmp_path / "b.json", "--subject", "mhid:SYN-000123", "--log-key", VKEY)
    for where in (("--from", location.directory), ("--url", "http://127.0.0.1:1")):
        done = CommandLine()(*argv, *where)
        assert done.status == 2
        assert "--tag" in done.err
        assert "SYN-000123" not in done.err


def write_config(path: Path) -> None:
    path.write_text(
        f'[ledger]\norigin = "{RUNNING_ORIGIN}"\ndata_dir = "data"\n[keys]\nlog_key_file = "keys/log.key"\n'
        'statement_key_file = "keys/statement.key"\nvault_kek = { file = "keys/vault.kek" }\n'
        '[callers]\ncredentials_file = "keys/credentials"\n',
        encoding="utf-8",
    )


# -- on a machine without our server ----------------------------------------------------------------------------

_ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"rocksdict", "lmdb", "cryptography", "grpc", "prometheus_client", "grpc_health"}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocked())
sys.path[:0] = sys.argv.pop(1).split(":")
from consentd.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_alone(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an audit verb where the server's parts are not installed."""
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-I", "-c", _ALONE, str(root), "audit", *arguments],
        capture_output=True, text=True, check=False, cwd=directory, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


@pytest.mark.slow
def test_a_base_install_audits_an_export(location: Any, tmp_path: Path) -> None:
    pins = ("--statements", str(location.statements), "--log-key", VKEY)
    export = str(location.directory)
    for verb in (
        ("verify", export, "--jobs", "1"), ("evidence", "b.json", "--from", export, "--chain", "ledger"),
        ("report", "page.html", "--from", export),
    ):  # fmt: skip
        done = run_alone(tmp_path, *verb, *pins)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_base_install_checks_it(location: ExportDirectory, person: bytes, tmp_path: Path) -> None:
    make(location, tmp_path / "b.json", tag=person)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_alone(tmp_path, "check-evidence", *arguments)

    done = run("b.json", "--log-key", VKEY, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "proven"
    assert answer["chains"]["ledger"] == 1
    document = json.loads((tmp_path / "b.json").read_bytes())
    document["histories"][0]["entries"].pop()
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert run("b.json", "--log-key", VKEY).returncode == 1
    assert run("b.json").returncode == 2  # no key is pinned
    opened = checkpoint.open_checkpoint(location.open().checkpoint(), ORIGIN, LOG.verifier)
    assert opened[0].size == answer["size"]
