"""Decisions worked out by hand from proto/policy.md (tests/decisions): reference and evaluator give each of them."""

import dataclasses
from pathlib import Path

import pytest

from cases import decisions
from cases.decisions import BASE, Case, Row, expected, rows, shown
from consentd.errors import ConsentdError, InvalidError
from consentd.policy import model
from consentd.policy.check import check_consent
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.residual import covers
from consentd.policy.vocabulary import check_successor
from consentd.statements.values import consent_message, consent_value, rules_message, rules_value
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

DECISIONS, CONSENTS, VOCABULARIES = rows("decision"), rows("consent"), rows("vocabulary")
ROWS = pytest.mark.parametrize("row", DECISIONS, ids=lambda row: f"{row['file']}: {row['name']}")


@ROWS
def test_reference(row: Row) -> None:
    if "fault" in row:
        pytest.skip("a fault of the machine is above the reference")
    if "refused" in row["answer"]:
        with pytest.raises(ConsentdError) as raised:
            Case(row).reference_answer()
        assert raised.value.reason == row["answer"]["refused"]
        return
    answer = Case(row).reference_answer()
    assert shown(answer) == expected(row["answer"])
    check_reasons(row["answer"], answer)


@ROWS
def test_evaluator(row: Row) -> None:
    stated = row["answer"]
    if "refused" in stated:
        with pytest.raises(ConsentdError) as raised:
            Case(row).compiled_answer()
        assert raised.value.reason == stated["refused"]
        return
    answer = Case(row).compiled_answer()
    assert shown(answer) == expected(stated)
    assert answer.ref == stated.get("ref", 0)
    check_reasons(stated, answer)
    for one in row.get("resources", ()):
        permitted = covers(answer.residual, decisions.resource(one), combining=answer.combining)
        assert permitted is one["permitted"], one


def check_reasons(stated: Row, answer: model.Decision) -> None:
    if "paths" in stated:
        assert sorted({reason.path for reason in answer.reasons}) == sorted(stated["paths"])
    assert answer.combining.name == stated.get("combining", answer.combining.name)


@pytest.mark.parametrize("row", [row for row in DECISIONS if "institution" in row], ids=lambda row: row["name"])
def test_what_an_institution_learns(row: Row) -> None:
    case, stated = Case(row), row["institution"]
    if "fault" not in row:  # a fault of the machine is above the reference
        assert shown(case.reference_answer(institution=True)) == expected(stated)
    answer = case.compiled_answer(institution=True)
    assert shown(answer) == expected(stated)
    assert answer.ref == stated.get("ref", 0)
    assert bool(answer.residual) is ("ENFORCE_RESIDUAL" in stated.get("obligations", ()))


@pytest.mark.parametrize("row", [row for row in DECISIONS if "resources" in row], ids=lambda row: row["name"])
def test_conditions_are_the_answers_for_single_resources(row: Row) -> None:
    """A resource has the answer of a question for it alone (rule 5); a level below the default is none."""
    case = Case(row)
    for read in row["resources"]:
        one = decisions.resource(read)
        asked = dataclasses.replace(
            case.question, categories=(one.category,), labels=one.labels, level=one.level,
            resources=(one.reference or "Observation/other",), data_period=one.data_period,
        )  # fmt: skip
        case.question = asked
        assert (case.reference_answer().outcome is model.Outcome.PERMIT) is read["permitted"], read


def test_consents_and_rules_survive_their_messages() -> None:
    every = [decisions.consent(one) for row in DECISIONS for one in row.get("consents", ())]
    every += [decisions.consent(row["consent"]) for row in CONSENTS if "refused" not in row]
    for consent in every:
        assert consent_value(pb.Consent.FromString(consent_message(consent).SerializeToString())) == consent
    for row in DECISIONS:
        rules = decisions.rules(row.get("rules", {}))
        message = rules_message(rules, realm_id="realm", version=1, vocabulary_id="kr-phr")
        assert rules_value(st.RulesStatement.FromString(message.SerializeToString())) == rules


@pytest.mark.parametrize("row", CONSENTS, ids=lambda row: row["name"])
def test_consents(row: Row) -> None:
    consent = decisions.consent(row["consent"])
    if "refused" not in row:
        assert check_consent(consent, DEFAULT_VOCABULARY) is None
        return
    with pytest.raises(ConsentdError) as raised:
        check_consent(consent, DEFAULT_VOCABULARY)
    assert raised.value.reason == row["refused"]


@pytest.mark.parametrize("row", VOCABULARIES, ids=lambda row: row["name"])
def test_vocabularies(row: Row) -> None:
    def publish() -> None:
        changed = decisions.read_vocabulary(f"vocabulary-{row['version']}.json", row["change"])
        if row["version"] == 2:
            check_successor(BASE.vocabularies[0][1], changed)

    if row["refused"]:
        with pytest.raises(InvalidError):
            publish()
    else:
        publish()


def test_the_table_has_every_rule_and_no_row_twice() -> None:
    every = [*DECISIONS, *CONSENTS, *VOCABULARIES]
    assert {row["rule"] for row in every} == set(range(14))
    assert len({row["name"] for row in every}) == len(every) >= 400
    assert all(row["why"].endswith(".") and len(row["why"]) > 10 for row in every)


def test_every_key_is_read() -> None:
    """A key with a typing error would leave a row weaker than it looks."""
    known = {
        "decision": {
            "file", "rule", "name", "why", "pinned", "enrolled", "now", "published", "memberships", "delegations",
            "caller", "signed", "consents", "rules", "question", "answer", "institution", "resources", "fault",
            "campaigns",
        },
        "consent": {"file", "rule", "name", "why", "consent", "refused"},
        "vocabulary": {"file", "rule", "name", "why", "version", "change", "refused"},
        "provision": {*decisions.LISTS, "effect", "level", "period", "data_period", "children"},
        "stored": {
            "lineage", "seq", "version", "kind", "paused", "readable", "since", "policy", "legal_basis", "root",
            "recurrence", "given", "uses", "authority", "notice",
        },
        "use": {"holder", "categories", "time"},
        "authority": {"born", "end", "ended", "lasts"},
        "rules": {
            "combining", "implicit_policy", "normal_level", "earlier_normal_level", "statutory", "break_glass", "since",
        },
        "question": {
            "organisation", "application", "on_behalf_of", "relays", "holder", "purpose", "action", "categories",
            "labels", "level", "resources", "data_period", "break_glass", "supported_obligations",
        },
        "answer": {
            "outcome", "permitted", "denied", "without", "unknown", "obligations", "labels", "level", "codes",
            "valid_until", "ref", "paths", "combining", "refused",
        },
    }  # fmt: skip

    def check(read: Row, kind: str) -> None:
        assert read.keys() <= known[kind], (kind, read.keys() - known[kind])

    def check_provision(read: Row) -> None:
        check(read, "provision")
        for child in read.get("children", ()):
            check_provision(child)

    for row in DECISIONS:
        check(row, "decision")
        check(row["question"], "question")
        check(row["answer"], "answer")
        check(row.get("institution", {}), "answer")
        check(row.get("rules", {}), "rules")
        for one in row.get("consents", ()):
            check(one, "stored")
            check_provision(one["root"])
            check(one.get("authority", {}), "authority")
            for use in one.get("uses", ()):
                check(use, "use")
        for one in (*row.get("rules", {}).get("statutory", ()), *row.get("rules", {}).get("break_glass", ())):
            check_provision(one)
    for row in VOCABULARIES:
        check(row, "vocabulary")
    for row in CONSENTS:
        check(row, "consent")
        check(row["consent"], "stored")
        check_provision(row["consent"]["root"])


def test_the_vocabulary_is_the_default_one_and_its_successor() -> None:
    (_, first), (_, second) = BASE.vocabularies
    for name in ("purposes", "categories", "actions", "labels"):
        listed = [
            [(one.code, one.parent, one.implies, one.level, one.labels) for one in getattr(vocabulary, name)]
            for vocabulary in (first, DEFAULT_VOCABULARY)
        ]
        assert listed[0] == listed[1]
    assert (first.id, first.version) == (DEFAULT_VOCABULARY.id, DEFAULT_VOCABULARY.version)
    check_successor(first, second)


def test_the_readme_names_each_file() -> None:
    text = (decisions.FOLDER / "README.md").read_text()
    assert [file.name for file in sorted(Path(decisions.FOLDER).iterdir()) if file.name not in text] == ["README.md"]
