"""The command line against a daemon: what it answers, where, and the status it exits with."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cases.command_lines import CommandLine
from cases.daemons import ORIGIN, Running, request_id
from cases.notices import publish_notice
from cases.services import proof_of
from consentd.core import checkpoint, codec, note
from consentd.server.keys import read_keys
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd_client import FileMemory, KeyPair, ledger

CONSENT = ("--recipient", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN")
ASK = ("--actor", "clinic-b", "--holder", "hospital-a", "--purpose", "TREAT", "--category", "CLIN.DX")
SEVEN_ITEMS = ("--recurrence", "P1M", "--until", "2099-12-31", "--retain-until", "2100-01-31T00:00:00+09:00")


@pytest.fixture(scope="module")
def log_key(running: Running) -> str:
    return note.format_vkey(read_keys(running.config).log.verifier)


@pytest.fixture
def talk(running: Running, log_key: str) -> CommandLine:
    """Run a verb against the daemon, as the app."""
    target = f"127.0.0.1:{running.daemon.grpc_port}"
    return CommandLine(
        {"CONSENTD_TARGET": target, "CONSENTD_TOKEN": running.tokens["app"], "CONSENTD_LOG_KEY": log_key}
    )


class Numbered:
    """Gives each test persons of its own."""

    count = 0


@pytest.fixture
def person() -> str:
    Numbered.count += 1
    return f"mhid:CLI-{Numbered.count:04}"


@pytest.fixture
def granted(talk: CommandLine, person: str) -> str:
    """A person with one consent; its id."""
    assert talk("enrol", person).status == 0
    return talk("grant", person, *CONSENT).out.strip()


def test_life_of_a_consent(talk: CommandLine, person: str, tmp_path: Path) -> None:
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
        "  permitted: CLIN.DX  (no further label, up to the default level)",
        f"  reason: PERMITTED_BY_CONSENT {consent_id}",
    ]
    authorized = talk("authorize", person, *ASK, "--network-origin", "10.0.0.9")
    assert authorized.status == 0
    assert "  access-seq: 3" in authorized.out
    recorded = talk("record", person, "--access-seq", 3, "--status", "sent", "--category", "CLIN.DX", "--resources", 2)
    assert (recorded.status, recorded.out.startswith("recorded as entry ")) == (0, True)
    amended = talk("amend", person, consent_id, "--action", "collect")
    assert (amended.status, amended.out.strip()) == (0, consent_id)
    assert amended.err == "  actions: any → collect\n"
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
    assert "permitted: hospital-a → clinic-b, TREAT, collect, CLIN.DX, asked by app\n      sent CLIN.DX" in listed.out
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


def test_answers_for_programs(talk: CommandLine, person: str, granted: str) -> None:
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
    assert {"type": "participant", "id": "pipc", "name": {"ko": "시험 기관", "en": "pipc"}}.items() <= talk(
        "participants", "show", "pipc", "--json"
    ).object.items()


def test_a_check_of_an_earlier_moment(talk: CommandLine, person: str, granted: str) -> None:
    then = talk("check", person, *ASK, "--json").object
    assert talk("revoke", person, granted).status == 0
    size, time_ms = then["tree_size"], then["decided_time_ms"]
    assert (talk("check", person, *ASK, "--at-least", size).status, then["past"]) == (1, False)
    past = talk("check", person, *ASK, "--at", f"{size}@{time_ms}", "--json")
    assert (past.status, past.object["outcome"], past.object["past"]) == (0, "PERMIT", True)
    assert (past.object["tree_size"], past.object["decided_time_ms"]) == (size, time_ms)
    assert past.object["permits"] is False
    shown = talk("check", person, *ASK, "--at", f"{size}@{time_ms}").out.splitlines()
    assert shown[0].startswith("PERMIT")
    assert shown[-1].startswith(f"  at: {size} leaves, ")
    second = datetime.fromtimestamp(time_ms // 1000 + 1, UTC).isoformat()
    for moment in (f"{size}@{second}", f"{size}@1", f"0@{time_ms}", f"{1 << 63}@{time_ms}"):
        assert talk("check", person, *ASK, "--at", moment).status in (0, 2)
    for wrong in ("7", "@7", "7@", "x@7", "-1@7", "7@yesterday", "7@-1", f"{1 << 64}@7", "7@2026-02-30T00:00:00Z"):
        assert talk("check", person, *ASK, "--at", wrong).status == 2
    assert talk("check", person, *ASK, "--at-least", "-1").status == 2
    assert talk("check", person, *ASK, "--at-least", "1", "--at", f"{size}@{time_ms}").status == 2


def test_a_check_exits_by_its_outcome(talk: CommandLine, person: str, granted: str) -> None:
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


def test_a_person_is_read_from_stdin(talk: CommandLine, person: str, granted: str) -> None:
    assert talk("check", "-", *ASK, stdin=f"{person}\n").status == 0
    for bad in ("nobody", ":x", "mhid:", ""):
        found = talk("check", "-", *ASK, stdin=bad)
        assert (found.status, "SCHEME:VALUE" in found.err, found.out) == (2, True, "")


def test_grants_of_every_kind(talk: CommandLine, running: Running, person: str, tmp_path: Path) -> None:
    talk("enrol", person)
    lacking = talk("grant", person, *CONSENT, "--kind", "transfer-request", "--json")
    assert (lacking.status, lacking.object["refused"]) == (1, "R05")
    assert lacking.object["missing"] == ["recurrence", "end", "retention", "served"]
    shown = talk("grant", person, *CONSENT, "--kind", "transfer-request")
    ground = "R05 items of the request not specified"
    assert (shown.status, shown.out) == (1, f"refused: {ground} (recurrence, end, retention, served)\n")
    publish_notice(running, "of-requests")
    shown = ("--notice", "of-requests@1", "--served-language", "ko", "--channel", "app")
    assert talk("grant", person, *CONSENT, *SEVEN_ITEMS, *shown, "--kind", "transfer-request").status == 0
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


EVERYTHING = (
    *("--action", "collect", "--label", "HIV", "--resource", "Observation/1", "--level", "R"),
    *("--from", "2026-01-01", "--until", "2098-12-31", "--data-from", "2020-01-01", "--data-until", "2020-12-31"),
    *("--recurrence", "P1M", "--retain-until", "2099-01-31", "--implicit-policy", "deny", "--language", "en"),
)
"""An option for everything that an amendment might lose."""


def test_an_amendment_keeps_what_it_does_not_state_and_shows_what_it_changes(
    talk: CommandLine, person: str, tmp_path: Path
) -> None:
    talk("enrol", person)
    granted = talk("grant", person, *CONSENT, *EVERYTHING, "--json").object
    consent_id, before = granted["consent_id"], granted["consent"]
    assert {"labels", "resources", "level", "period", "data_period", "actions"} < before["root"].keys()
    changed = talk("amend", person, consent_id, "--category", "CLIN.DX", "--category", "CLIN.LAB", "--json")
    assert changed.err == "  categories: CLIN → CLIN.DX+CLIN.LAB\n"
    assert changed.object["before"] == before
    before["root"]["categories"] = ["CLIN.DX", "CLIN.LAB"]
    assert changed.object["consent"] == before
    assert talk("consents", person, "--json").object["consent"] == before
    wider = talk("amend", person, consent_id, "--holder", "*", "--until", "never", "--level", "none", "--lang", "ko")
    assert [line.strip().split(":")[0] for line in wider.err.splitlines()] == ["제공기관", "민감도", "효력 기간"]
    root = talk("consents", person, "--json").object["consent"]["root"]
    assert (root["holders"], root.get("level"), root["period"]) == (["*"], None, {"start_time_ms": "1767193200000"})
    nested = {"root": {**root, "provisions": [{"categories": ["CLIN.LAB"]}]}}
    file = tmp_path / "consent.json"
    file.write_text(json.dumps({**before, **nested}))
    assert "provision[0]: none → denied: categories: CLIN.LAB" in talk("amend", person, consent_id, "--file", file).err
    assert talk("amend", person, consent_id, "--recipient", "er").status == 0
    listed = talk("consents", person)
    assert "hospital-a" not in listed.out
    assert listed.out.splitlines()[1] == "      provision[0] denied: categories: CLIN.LAB"
    assert talk("amend", person, consent_id, "--version", "1").status == 2
    assert talk("amend", person, consent_id, "--notice", "n1").status == 2
    assert talk("amend", person, consent_id, "--permit", "--deny").status == 2
    denied = talk("amend", person, consent_id, "--deny", "--implicit-policy", "none")
    assert (denied.status, "effect: permitted → denied" in denied.err) == (0, True)


def test_a_consent_has_the_state_of_its_period(talk: CommandLine, person: str) -> None:
    talk("enrol", person)
    assert talk("grant", person, *CONSENT, "--from", "2098-01-01").status == 0
    (shown,) = talk("consents", person).out.splitlines()
    assert "  v1  not yet in force  " in shown
    assert "in force: 2098-01-01 00:00:00 KST ~" in shown
    shown = talk("consents", person, "--json").object
    assert (shown["state"], shown["paused"]) == ("NOT_YET", False)
    assert talk("pause", person, shown["consent_id"], "--receipt", os.devnull).status == 0
    assert "  v1  not yet in force, paused  " in talk("consents", person).out
    assert talk("consents", person, "--state", "paused").out == ""
    assert talk("consents", person, "--json", "--state", "not-yet", "--state", "paused").object["paused"] is True
    assert talk("consents", person, "--state", "withdrawn").status == 2
    assert talk("check", person, *ASK).status == 1


@pytest.mark.parametrize(
    ("action", "is_told", "outcome"),
    [("access", False, "DENY"), ("collect", False, "DENY"), ("disclose", True, "PERMIT"), ("use", True, "PERMIT")],
)
def test_a_deny_that_stops_no_transfer_is_told(
    talk: CommandLine, person: str, granted: str, action: str, is_told: bool, outcome: str
) -> None:
    """A deny of access is one of collect too (rule 6). A transfer is asked as collect."""
    denied = talk("grant", person, *CONSENT, "--deny", "--action", action)
    assert (denied.status, "denies no transfer" in denied.err) == (0, is_told)
    assert talk("check", person, *ASK, "--json").object["outcome"] == outcome


def test_a_question_states_what_the_options_say(talk: CommandLine, person: str, granted: str) -> None:
    view = ("--action", "access", "--level", "R", "--label", "PSY", "--resource", "Observation/1")
    talk("authorize", person, *ASK, *view, "--data-from", "2020-01-01", "--data-until", "2020-01-31")
    talk("authorize", person, *ASK)
    plain, stated = (one["question"] for one in talk("accesses", person, "--json").objects)
    assert stated == {
        "actor": {"organisation": "clinic-b"}, "holder": "hospital-a", "purpose": "TREAT", "action": "access",
        "categories": ["CLIN.DX"], "labels": {"values": ["PSY"]}, "resources": {"values": ["Observation/1"]},
        "level": "R", "data_period": {"start_time_ms": "1577804400000", "end_time_ms": "1580482800000"},
    }  # fmt: skip
    assert plain == {**{key: stated[key] for key in ("actor", "holder", "purpose", "categories")}, "action": "collect"}


def test_the_conditions_of_a_permit_are_shown_and_not_overlooked(talk: CommandLine, person: str) -> None:
    talk("enrol", person)
    limits = ("--label", "PSY", "--level", "R", "--data-from", "2020-01-01")
    talk("grant", person, *CONSENT[:6], "--category", "CLIN.DX", *limits)
    assert talk("check", person, *ASK).status == 1
    shown = talk("check", person, *ASK, "--fulfils", "enforce-residual")
    assert (shown.status, shown.out.splitlines()[:2]) == (1, [
        "PERMIT  permitted", "  permitted: CLIN.DX  (any label, up to V (very restricted))",
    ])  # fmt: skip
    assert shown.out.splitlines()[-2:] == [
        "  obligation: ENFORCE_RESIDUAL (apply the conditions to each resource)",
        "  condition (consent): permitted CLIN.DX, no labels but: PSY, with one of the labels: PSY, "
        "level: up to R (restricted), data of: 2020-01-01 00:00:00 KST ~",
    ]
    assert "conditions to apply" in shown.err
    found = talk("check", person, *ASK, "--fulfils", "enforce-residual", "--json").object
    assert (found["permits"], found["residual"][0]["level"]) == (False, "R")
    assert (found["labels"], found["level"]) == (["*"], "V")
    stated = ("--label", "PSY", "--level", "R", "--data-from", "2020-01-01", "--data-until", "2020-12-31")
    plain = talk("check", person, *ASK, *stated)
    assert plain.status == 0
    assert plain.out.splitlines()[1] == "  permitted: CLIN.DX  (labels: PSY, up to R (restricted))"


def test_an_uncertain_write_is_repeated_with_its_request_id(talk: CommandLine, person: str) -> None:
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


def test_break_glass(talk: CommandLine, running: Running, person: str) -> None:
    running.delegate("er", "app", break_glass=True)
    talk("enrol", person)
    ask = ("--actor", "er", "--holder", "hospital-a", "--purpose", "BTG", "--category", "CLIN.ALG")
    refused = talk("authorize", person, *ask, "--emergency", "unconscious")
    assert refused.status == 1
    assert talk("authorize", person, *ask).status == 2
    assert talk("check", person, *ask).status == 2


def test_an_emergency_access_is_permitted_once_its_obligations_are_confirmed(
    talk: CommandLine, running: Running, person: str
) -> None:
    rules = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator")).rules
    rules.version += 1
    rules.ClearField("attestation")
    rules.break_glass.add(effect=pb.EFFECT_PERMIT, actors=["er"], categories=["CLIN.ALG"])
    request = rs.PublishRulesRequest(request_id=request_id(), attested=rules)
    running.registry.PublishRules(request, metadata=running.as_("operator"))
    running.delegate("er", "app", break_glass=True)
    talk("enrol", person)
    ask = ("--actor", "er", "--holder", "hospital-a", "--purpose", "BTG", "--category", "CLIN.ALG")
    emergency = (*ask, "--emergency", "found unconscious")
    shown = talk("authorize", person, *emergency)
    assert (shown.status, shown.out.splitlines()[0]) == (1, "PERMIT  permitted")
    assert "  obligation: NOTIFY_SUBJECT (inform the person without delay)" in shown.out
    assert "permitted, but not yet" in shown.err
    half = talk("authorize", person, *emergency, "--fulfils", "notify-subject", "--json")
    assert (half.status, half.object["permits"], half.object["unfulfilled"]) == (1, False, ["POST_REVIEW"])
    whole = talk("authorize", person, *emergency, "--fulfils", "notify-subject", "--fulfils", "post-review", "--json")
    assert (whole.status, whole.object["permits"], whole.object["unfulfilled"]) == (0, True, [])
    assert whole.object["obligations"] == ["NOTIFY_SUBJECT", "POST_REVIEW"]


def test_participants_and_words(talk: CommandLine, running: Running, tmp_path: Path) -> None:
    denied = talk("participants", "add", "lab-c", "--en", "Lab C", "--role", "holder")
    assert (denied.status, "(CALLER_NOT_ALLOWED)" in denied.err) == (2, True)
    token = tmp_path / "operator.token"
    token.write_text(running.tokens["operator"] + "\n")
    talk = talk.given(CONSENTD_TOKEN_FILE=str(token))
    more = ("--ko", "검사소", "--en", "Lab C", "--right", "see-reasons", "--group", "group/labs")
    assert talk("participants", "add", "lab-c", "--role", "holder", "--role", "recipient", *more).out == "lab-c\n"
    pair, key_file = KeyPair(b"\x41" * 32), tmp_path / "lab.key"
    key = pair.public_key.hex()
    key_file.write_text(pair.seed.hex() + "\n")
    key_file.chmod(0o600)
    proof, other = (proof_of(pair, who).hex() for who in ("lab-c", "lab-d"))
    assert talk("key", "prove", "lab-c", key_file, "--origin", ORIGIN).out.split() == [key, proof]
    assert "(BAD_POSSESSION)" in talk("key", "add", "lab-c", key, "--possession", other).err
    assert talk("key", "add", "lab-c", key).status == 2
    assert talk("key", "add", "lab-c", key, "--possession", proof).status == 0
    shown = talk("participants", "show", "lab-c", "--lang", "ko").out.splitlines()
    assert shown == ["lab-c  검사소  holder+recipient", "  right: see-reasons", f"  key: {key}"]
    assert talk("key", "retire", "lab-c", key).status == 0
    assert talk("participants", "add", "lab-c", "--en", "Lab C", "--role", "holder", "--inactive").status == 0
    assert "lab-c  Lab C  holder  (left)" in talk("participants", "list").out
    assert talk("participants", "list", "--no-active").out == "lab-c  Lab C  holder  (left)\n"
    assert talk("participants", "list", "--role", "relay", "--right", "see-reasons", "--active").out.startswith("app  ")
    assert talk("participants", "list", "--group", "group/none").out == ""
    assert talk("participants", "show", "nobody").status == 2
    abroad = ("--role", "recipient", "--country", "JP", "--recipient-class", "general-recipient")
    assert talk("participants", "add", "lab-d", "--en", "Lab D", *abroad).status == 0
    shown = talk("participants", "show", "lab-d").out.splitlines()
    assert shown == ["lab-d  Lab D  recipient", "  country: JP", "  class: general-recipient"]
    assert talk("participants", "add", "court", "--en", "Court", "--role", "public-authority").status == 0
    assert "court  Court  public-authority" in talk("participants", "list").out
    assert talk("key", "add", "lab-c", "xyz").status == 2
    named = ("--ko", "연구소", "--name", "zh-Hant=研究所", "--role", "holder")
    assert talk("participants", "add", "lab-e", *named).status == 0
    for lang, name in (("zh-Hant-TW", "研究所"), ("en", "연구소"), ("fr", "연구소")):
        assert talk("participants", "show", "lab-e", "--lang", lang).out == f"lab-e  {name}  holder\n"
    assert talk("participants", "show", "lab-e", "--json").object["name"] == {"ko": "연구소", "zh-Hant": "研究所"}
    for wrong in (("--name", "Lab"), ("--ko", "하나", "--name", "ko=둘"), ("--name", "KO=연구소"), ()):
        assert talk("participants", "add", "lab-f", "--role", "holder", *wrong).status == 2
    assert talk("participants", "list", "--lang", "korean").status == 2
    codes = talk("vocabulary", "--json").objects
    assert {"kind": "purpose", "code": "TREAT"}.items() <= next(one for one in codes if one["code"] == "TREAT").items()
    assert "CLIN.DX" in talk("vocabulary", "--lang", "ko").out


def test_an_operator_writes_a_statutory_consent(talk: CommandLine, running: Running, person: str) -> None:
    order = ("--kind", "statutory", "--recipient", "clinic-b", "--purpose", "TREAT", "--category", "CLIN")
    talk("enrol", person)
    as_operator = talk.given(CONSENTD_TOKEN=running.tokens["operator"])
    assert as_operator("grant", person, *order).status == 2
    basis = ("--legal-basis", "MA-21-3", "--legal-basis-note", "spouse")
    assert "(CALLER_NOT_ALLOWED)" in talk("grant", person, *order, *basis).err
    assert as_operator("grant", person, *order, *basis).status == 0
    (shown,) = talk("consents", person, "--lang", "en").out.splitlines()
    assert "statutory" in shown
    assert shown.endswith(" [MA-21-3 access to records by others than the patient (MA 21(3)): spouse]")


def test_a_history_remembers(talk: CommandLine, person: str, granted: str, tmp_path: Path) -> None:
    memory = ("--memory", tmp_path / "memory.json")
    talk("authorize", person, *ASK, "--receipt", os.devnull)
    assert len(talk("history", person, *memory).out.splitlines()) == 3
    talk("revoke", person, granted, "--receipt", os.devnull)
    new = talk("history", person, *memory, "--new", "--lang", "ko")
    assert [line.split("KST  ")[1].split(":")[0] for line in new.out.splitlines()] == ["철회"]
    assert "증명됨" in new.err
    assert talk("checkpoint", *memory).status == 0
    assert talk("checkpoint", "--json").object["verdict"] == "proven"


def test_a_long_history_is_verified_in_parts(
    talk: CommandLine, person: str, granted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        talk("authorize", person, *ASK, "--receipt", os.devnull)
    monkeypatch.setattr(ledger.history_part, "__kwdefaults__", {**ledger.history_part.__kwdefaults__, "most": 3})
    parts = ("--parts", tmp_path / "parts")
    found = talk("history", person, *parts)
    assert (found.status, found.out) == (0, talk("history", person).out)
    assert found.err.count("not complete yet") == 2
    assert "all 7 entries" in found.err
    talk("revoke", person, granted, "--receipt", os.devnull)
    new = talk("history", person, *parts, "--new")
    assert (len(new.out.splitlines()), "revoked" in new.out) == (1, True)
    assert talk("history", person, *parts, "--json").objects[-1]["entries"] == 8
    assert talk("history", person, *parts, "--save", tmp_path / "file").status == 2
    (tmp_path / "parts.state").write_text("{}")
    assert talk("history", person, *parts).status == 2


def test_a_history_that_was_taken_back_is_disproved(
    talk: CommandLine, running: Running, person: str, granted: str, tmp_path: Path
) -> None:
    log = read_keys(running.config).log
    ahead = checkpoint.Checkpoint(running.config.ledger.origin, 1 << 40, b"\x07" * 32)
    path = tmp_path / "memory.json"
    FileMemory(path).remember(checkpoint.sign_checkpoint(ahead, [log]))
    for verb in (("history", person), ("checkpoint",)):
        found = talk(*verb, "--memory", path)
        assert (found.status, found.out) == (1, "")
        assert "checkpoint is smaller than the" in found.err
        assert "checkpoint remembered:" in found.err  # the evidence


def test_what_a_history_needs(running: Running, talk: CommandLine, person: str, tmp_path: Path) -> None:
    assert talk("history", person).status == 2  # not enrolled
    talk("enrol", person, "--receipt", os.devnull)
    assert talk("history", person, "--tag", "00" * 32).status == 1
    for bad in (("history",), ("history", person, "--public", "ledger"), ("history", person, "--tag", "zz")):
        assert talk(*bad).status == 2
    absent = talk("history", "--public", "notice/none")
    assert (absent.status, absent.out) == (2, "")  # the proof of absence is for auditors
    auditor = talk.given(CONSENTD_TOKEN=running.tokens["pipc"])("history", "--public", "notice/none")
    assert (auditor.status, auditor.out) == (0, "")
    assert "never about a person" in auditor.err
    public = talk("history", "--public", "ledger")
    assert "ledger: consent.test/running" in public.out
    assert "person" not in public.err
    (tmp_path / "memory.json").write_text("{")
    assert talk("history", person, "--memory", tmp_path / "memory.json").status == 2
    stranger = note.format_vkey(note.Signer("consent.test/running", KeyPair(b"\x42" * 32)).verifier)
    assert talk("history", person, "--log-key", stranger).status == 2  # the log may have replaced its key
    assert talk("history", person, "--origin", "another").status == 1
    unpinned = talk.given(CONSENTD_LOG_KEY="")("history", person)
    assert (unpinned.status, "--log-key" in unpinned.err) == (2, True)


def test_a_receipt_is_completed_later(talk: CommandLine, person: str, tmp_path: Path) -> None:
    file = tmp_path / "enrol.receipt"
    early = talk("enrol", person, "--json").object["receipt"]
    file.write_text(json.dumps({**early, "proof": ""}))
    unproven = talk("verify", file)
    assert (unproven.status, "no proof yet" in unproven.err) == (2, True)
    assert talk("receipt", file).status == 0
    assert talk("verify", file).status == 0
    file.write_text("{}")
    assert talk("receipt", file).status == 2, "a file that is no receipt disproves nothing"


def test_a_wrong_token_is_said(talk: CommandLine, tmp_path: Path) -> None:
    found = talk.given(CONSENTD_TOKEN="wrong")("participants", "list")
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
        "provision": {"type": "permit", "purpose": [{"system": f"{hl7}v3-ActReason", "code": "TREAT"}]},
        **changed,
    }


def test_import_of_fhir(talk: CommandLine, person: str, tmp_path: Path) -> None:
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
    (source,) = [one for one in talk("amend", person, consent_id, *CONSENT).err.splitlines() if "imported from" in one]
    assert source.endswith(" → none")
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


@pytest.mark.parametrize("option", ["--from", "--until", "--data-from", "--data-until", "--retain-until"])
def test_the_instant_that_is_the_number_0_is_no_missing_limit(talk: CommandLine, person: str, option: str) -> None:
    assert talk("enrol", person).status == 0
    refused = talk("grant", person, *CONSENT, option, "1970-01-01T00:00:00Z")
    assert (refused.status, refused.out) == (2, "")
    assert "would be no limit" in refused.err
    assert talk("consents", person).out == ""


def test_a_question_states_no_such_instant_either(talk: CommandLine, person: str) -> None:
    refused = talk("check", person, *ASK, "--data-until", "1970-01-01T09:00:00+09:00")
    assert (refused.status, refused.out) == (2, "")
    assert "would be no limit" in refused.err
