"""Representatives use the command line: who may act for a person is recorded, used, shown, listed and ended."""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from cases.authorities import REPRESENTATIVE, add_representative
from cases.command_lines import CommandLine, Result
from cases.daemons import Running, make_running, serve
from cases.services import new_identifier
from consentd.core.note import format_vkey
from consentd.cosigning.keyfiles import read_signing_key
from consentd.policy.dates import SEOUL, end_of_date_ms, format_instant

CONSENT = ("--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN")
ASK = ("--actor", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX")
YEAR = datetime.now(SEOUL).year
BORN, FOURTEEN, EIGHTEEN = (f"{YEAR + years}-01-01" for years in (-5, 9, 13))
ACTS = tuple(word for act in ("grant", "amend", "pause", "revoke") for word in ("--act", act))


@dataclass(frozen=True)
class World:
    """A daemon with a representative, the command lines of its callers, and a paper."""

    running: Running
    bare: CommandLine
    paper: Path

    def as_(self, who: str) -> CommandLine:
        return self.bare.given(CONSENTD_TOKEN=self.running.tokens[who])

    @property
    def evidence(self) -> tuple[str, str]:
        return "--evidence", f"family-relation-certificate={self.paper}"

    def enrolled(self, *options: object) -> str:
        person = f"mhid:{new_identifier()}"
        assert self.as_("app")("enrol", person, *options).status == 0
        return person

    def put(self, person: str, *options: object) -> Result:
        return self.as_("app")("authority", "put", person, REPRESENTATIVE, *ACTS, *options)

    def child(self) -> tuple[str, str]:
        """Enrol a child, and record the guardian; return the child, and the number of the authority."""
        person = self.enrolled()
        put = self.put(person, "--minor", BORN, "--verified-by", 3, *self.evidence)
        assert put.status == 0, put.err
        return person, put.out.partition(" ")[0].removeprefix("#")

    def lines(self, person: str, lang: str = "en") -> list[str]:
        """Return what follows the time in the lines of the person's history."""
        self.running.wait_published()
        shown = self.as_("app")("history", person, "--lang", lang)
        assert shown.status == 0, shown.err
        return [line.partition(" KST  ")[2] for line in shown.out.splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("daemon")
    running = make_running(directory, checkpoint_interval_ms=10)
    add_representative(running)
    vkey = format_vkey(read_signing_key(running.config.keys.log_key_file).verifier)
    bare = CommandLine(
        {"CONSENTD_TARGET": f"127.0.0.1:{running.daemon.grpc_port}", "CONSENTD_LOG_KEY": vkey, "LANG": "en_US.UTF-8"}
    )
    paper = tmp_path_factory.mktemp("files") / "paper.pdf"
    paper.write_bytes(b"paper")
    for _ in serve(running):
        yield World(running, bare, paper)


def test_a_guardian_gives_changes_and_withdraws_a_child_s_consent(world: World) -> None:
    child, seq = world.child()
    guardian, under = world.as_(REPRESENTATIVE), ("--authority-seq", seq, "--method", "id-card")
    given = guardian("grant", child, *CONSENT, *under)
    assert given.status == 0, given.err
    consent_id = given.out.strip()
    assert guardian("amend", child, consent_id, "--category", "CLIN.DX", *under).status == 0
    assert guardian("pause", child, consent_id, *under).status == 0
    assert world.as_("app")("check", child, *ASK).status == 1
    assert guardian("resume", child, consent_id, *under).status == 0
    permitted = world.as_("app")("check", child, *ASK)
    assert permitted.status == 0
    assert f"until: {FOURTEEN} 00:00:00 KST" in permitted.out
    shown = guardian("consents", child)
    assert shown.out.splitlines()[0].endswith(f", authority #{seq}")
    assert guardian("consents", child, "--json").object["authority_seq"] == int(seq)
    assert guardian("revoke", child, consent_id, *under).status == 0
    assert world.as_("app")("check", child, *ASK).status == 1


def test_a_mother_signs_with_a_key_of_her_own_and_replaces_it(world: World, tmp_path: Path) -> None:
    app, child, old, new = world.as_("app"), world.enrolled(), tmp_path / "old.key", tmp_path / "new.key"
    for path in (old, new):
        assert app("key", "new", path).status == 0
    put = app(
        "authority", "put", child, "--key", old, "--minor", BORN, "--verified-by", 3, *ACTS, *world.evidence
    )
    assert put.status == 0, put.err
    seq = put.out.partition(" ")[0].removeprefix("#")
    world.running.wait_published()
    signed = ("--authority-seq", seq, "--subject-key", old)
    given = app("grant", child, *CONSENT, *signed)
    assert given.status == 0, given.err
    assert app("check", child, *ASK).status == 0
    consent_id = given.out.strip()
    assert app("key", "replace", child, new, *signed).status == 0
    refused = app("pause", child, consent_id, *signed)
    assert (refused.status, "KEY_NOT_IN_FORCE" in refused.err) == (2, True)
    signed = ("--authority-seq", seq, "--subject-key", new)
    assert app("revoke", child, consent_id, *signed).status == 0
    shown = world.lines(child)
    assert shown[3].endswith(f", authority #{seq}  [signed by the person's legal guardian]")
    assert shown[2].endswith(f", authority #{seq}  [signed by the daemon (attested by app)]")
    assert [line.partition(":")[0] for line in shown] == [
        "enrolled", "authority", "key", "granted", "key", "key", "revoked"
    ]  # fmt: skip
    ended = app("authority", "end", child, seq, "--sign-with", new)
    assert ended.status == 0, ended.err
    assert app("key", "list", child).out == ""


def test_a_proof_by_somebody_else_s_hand_pins_a_key(world: World, tmp_path: Path) -> None:
    app, child, path = world.as_("app"), world.enrolled(), tmp_path / "mother.key"
    assert app("key", "new", path).status == 0
    origin = world.running.config.ledger.origin
    key, proof = app("key", "prove", child, path, "--represents", "--origin", origin).out.split()
    put = ("authority", "put", child, "--key", key, "--possession", proof, "--agent", *ACTS, *world.evidence)
    assert app(*put).status == 0
    wrong = app("key", "prove", "clinic-b", path, "--represents", "--origin", origin)
    assert (wrong.status, "only persons are represented" in wrong.err) == (2, True)
    for both in ((REPRESENTATIVE, "--key", key), ()):
        refused = app("authority", "put", child, *both, "--agent", *ACTS, *world.evidence)
        assert (refused.status, "representative is a participant" in refused.err) == (2, True)


def test_a_relative_reads_and_the_history_shows_it(world: World) -> None:
    app, person = world.as_("app"), world.enrolled()
    assert app("grant", person, *CONSENT).status == 0
    put = app(
        "authority", "put", person, REPRESENTATIVE, "--relative", "spouse", "--reason", "deceased", *world.evidence
    )
    assert put.status == 0, put.err
    seq = put.out.partition(" ")[0].removeprefix("#")
    world.running.wait_published()
    relative, under = world.as_(REPRESENTATIVE), ("--authority-seq", seq)
    for verb in ("consents", "accesses", "history"):
        read = relative(verb, person, *under)
        assert read.status == 0, read.err
        refused = app(verb, person, *under)
        assert (refused.status, "SUBJECT_NOT_FOUND" in refused.err) == (2, True)
    *_, stated, reading = world.lines(person)
    assert stated.startswith(f"authority: {REPRESENTATIVE}, spouse, deceased, read the history, ")
    assert reading == f"read: {REPRESENTATIVE}: consents, authority #{seq}  [signed by the daemon]"
    protector = ("authority", "put", person, "app", "--protector", "--reason", "unconscious", *world.evidence)
    assert world.as_("app")(*protector).status == 2  # nobody records their own


def test_a_history_says_who_acted_for_the_person_and_as_what(world: World) -> None:
    child, seq = world.child()
    guardian, under = world.as_(REPRESENTATIVE), ("--authority-seq", seq, "--method", "id-card")
    consent_id = guardian("grant", child, *CONSENT, *under).out.strip()
    assert guardian("revoke", child, consent_id, *under).status == 0
    _, recorded, granted, revoked = world.lines(child)
    assert recorded == (
        f"authority: {REPRESENTATIVE}, legal guardian, minor, {BORN}, granted+amended+paused+revoked, "
        "family-relation-certificate  [signed by the daemon (attested by app)]"
    )
    acted = f"authority #{seq}  [signed by the daemon (attested by {REPRESENTATIVE}, the person's legal guardian)]"
    assert granted == f"granted: consent, permitted: hospital-a → clinic-b, TREAT, CLIN, {acted}"
    assert revoked == f"revoked: #{int(seq) + 1}, {acted}"
    in_korean = f"대리권 #{seq}  [서버 서명 ({REPRESENTATIVE} 확인, 본인의 법정대리인)]"
    assert world.lines(child, "ko")[3].endswith(in_korean)
    entries = world.as_("app")("history", child, "--json").objects[1:4]
    assert [one["acted_as"] for one in entries] == [None, "LEGAL_GUARDIAN", "LEGAL_GUARDIAN"]


def test_a_history_in_parts_says_it_too(world: World, tmp_path: Path) -> None:
    child, seq = world.child()
    under = ("--authority-seq", seq, "--method", "id-card")
    assert world.as_(REPRESENTATIVE)("grant", child, *CONSENT, *under).status == 0
    whole = world.lines(child)
    shown = world.as_("app")("history", child, "--parts", tmp_path / "parts")
    assert [line.partition(" KST  ")[2] for line in shown.out.splitlines()] == whole


def test_authorities_are_shown_listed_and_ended(world: World) -> None:
    app, (child, seq) = world.as_("app"), world.child()
    under = ("--authority-seq", seq, "--method", "id-card")
    assert world.as_(REPRESENTATIVE)("grant", child, *CONSENT, *under).status == 0
    ends = f", ends {FOURTEEN} 00:00:00 KST, for research {EIGHTEEN} 00:00:00 KST\n"
    shown = app("authority", "show", child, seq).out
    assert shown.startswith(f"#{seq}  {REPRESENTATIVE}, legal guardian, minor, {BORN}, ")
    assert shown.endswith(ends)
    assert app("authority", "list", child).out == shown
    assert app("authority", "list", child, "--participant", "clinic-b").out == ""
    stated = app("authority", "show", child, seq, "--json").object
    assert (stated["authority_seq"], stated["ended_seq"]) == (int(seq), 0)
    (paper,) = stated["statement"]["evidence"]
    assert paper["kind"] == "family-relation-certificate"
    assert app("check", child, *ASK).status == 0
    ended = app("authority", "end", child, seq, "--json").object
    assert app("check", child, *ASK).status == 1
    listed = app("authority", "list", child)
    ended_ms = app("authority", "show", child, seq, "--json").object["end_time_ms"]
    assert listed.out.endswith(f", ended {format_instant(ended_ms)} (#{ended['ended_seq']})\n")
    assert world.lines(child)[-1] == "authority: ended  [signed by the daemon (attested by app)]"
    again = app("authority", "end", child, seq)
    assert (again.status, "(UNKNOWN_AUTHORITY)" in again.err) == (2, True)


def test_of_a_paper_the_hash_is_recorded(world: World) -> None:
    person = world.enrolled()
    put = world.put(person, "--incapacitated", *world.evidence, "--until", "2999-12-31", "--json")
    seq = put.object["authority_seq"]
    stated = world.as_("app")("authority", "show", person, seq, "--json").object
    assert stated["end_time_ms"] == stated["research_end_time_ms"] == end_of_date_ms("2999-12-31")
    (paper,) = stated["statement"]["evidence"]
    assert base64.b64decode(paper["sha256"]) == hashlib.sha256(world.paper.read_bytes()).digest()


def test_a_person_signs_a_power_of_attorney_and_ends_it(world: World, tmp_path: Path) -> None:
    key = tmp_path / "person.key"
    assert world.bare("key", "new", key).status == 0
    person = world.enrolled("--key", key)
    world.running.wait_published()
    app, signed = world.as_("app"), ("--sign-with", key)
    put = app("authority", "put", person, REPRESENTATIVE, "--agent", "--act", "grant", *signed)
    assert put.status == 0, put.err
    seq = put.out.partition(" ")[0].removeprefix("#")
    agent, under = world.as_(REPRESENTATIVE), ("--authority-seq", seq, "--method", "id-card")
    assert agent("grant", person, *CONSENT, *under).status == 0
    assert world.lines(person)[-2:] == [
        f"authority: {REPRESENTATIVE}, agent, granted  [signed by the person]",
        f"granted: consent, permitted: hospital-a → clinic-b, TREAT, CLIN, authority #{seq}  "
        f"[signed by the daemon (attested by {REPRESENTATIVE}, the person's agent)]",
    ]
    assert app("authority", "end", person, seq, *signed).status == 0
    refused = agent("grant", person, *CONSENT, *under)
    assert (refused.status, "(AUTHORITY_NOT_IN_FORCE)" in refused.err) == (2, True)
    alone = app("authority", "end", person, seq, "--tag", "00" * 32)
    assert (alone.status, "(INVALID_REQUEST)" in alone.err) == (2, True)


def test_what_an_authority_does_not_cover_is_refused_with_its_reason(world: World) -> None:
    child, seq = world.child()
    guardian, app = world.as_(REPRESENTATIVE), world.as_("app")
    minor = ("authority", "put", child, REPRESENTATIVE, "--minor", BORN)
    refusals = [
        (app("grant", child, *CONSENT, "--authority-seq", seq), "CALLER_NOT_ALLOWED"),
        (guardian("grant", child, *CONSENT, "--authority-seq", 99), "UNKNOWN_AUTHORITY"),
        (app("authority", "show", child, 99), "NOT_FOUND"),
        (app("authority", "end", child, 1), "UNKNOWN_AUTHORITY"),
        (app(*minor, *ACTS, *world.evidence), "INVALID_REQUEST"),
        (app(*minor, *ACTS, "--verified-by", 8, *world.evidence), "INVALID_REQUEST"),
        (app(*minor, *ACTS, "--verified-by", 3), "INVALID_REQUEST"),
        (app(*minor, *ACTS, "--verified-by", 3, "--evidence", "paper"), "INVALID_REQUEST"),
        (app(*minor, *ACTS, "--verified-by", 3, "--evidence", f"Paper={world.paper}"), "UNKNOWN_CODE"),
        (guardian(*minor, *ACTS, "--verified-by", 3, *world.evidence), "CALLER_NOT_ALLOWED"),
        (app("authority", "put", child, "nobody", "--agent", *ACTS, *world.evidence), "UNKNOWN_PARTICIPANT"),
    ]
    found = [(result.status, result.err.strip().rpartition("(")[2].rstrip(")")) for result, _ in refusals]
    assert found == [(2, reason) for _, reason in refusals]
    assert len(app("authority", "list", child).out.splitlines()) == 1
    missing = app(*minor, *ACTS, "--verified-by", 3, "--evidence", "paper=/nonexistent")
    assert (missing.status, "paper cannot be read" in missing.err) == (2, True)


@pytest.mark.parametrize("number", ["-1", "x", "", "٣", str(2**64), "9" * 5000])
@pytest.mark.parametrize(
    "verb",
    [
        ("grant", *CONSENT, "--authority-seq"), ("grant", *CONSENT, "--served-seq"), ("authority", "end"),
        ("authority", "show"), ("amend", "0" * 32, "--version"), ("record", "--status", "sent", "--access-seq"),
        ("record", "--status", "sent", "--access-seq", "1", "--bytes"),
        ("record", "--status", "sent", "--access-seq", "1", "--resources"), ("access",), ("accesses", "--limit"),
        ("subject", "end-hold"), ("vocabulary", "--tree-size"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_that_no_field_holds_is_no_bug(world: World, verb: tuple[str, ...], number: str) -> None:
    words = 2 if verb[0] in ("authority", "subject") else 1
    person = () if verb[0] == "vocabulary" else ("mhid:MH-0001",)
    refused = world.as_("app")(*verb[:words], *person, *verb[words:], number)
    assert (refused.status, "Traceback" in refused.err) == (2, False)
    assert "error: argument" in refused.err
