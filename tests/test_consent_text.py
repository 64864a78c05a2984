"""The text of a consent: everything that it states, all nested provisions, and what a new version changes."""

from typing import Any

import pytest

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client import Entry, show
from consentd_client.consent_text import consent_lines, differences

DAY_MS = 86_400_000
PERIOD = pb.Period(start_time_ms=19_000 * DAY_MS, end_time_ms=20_000 * DAY_MS)  # 2022-01-08 and 2024-10-04, 09:00 KST
DATA_PERIOD = pb.Period(start_time_ms=10_000 * DAY_MS)  # 1997-05-19
NESTED = pb.Provision(
    categories=["CLIN.RX"],
    provisions=[pb.Provision(actors=["er"], level="V", provisions=[pb.Provision(labels=["HIV"])])],
)
FULL = pb.Provision(
    effect=pb.EFFECT_PERMIT, actors=["clinic-b", "group/labs"], holders=["hospital-a"], purposes=["TREAT"],
    categories=["CLIN", "GEN.RAW"], actions=["collect", "access"], labels=["GDIS", "PSY"],
    resources=["Observation/123"], level="R", period=PERIOD, data_period=DATA_PERIOD,
    provisions=[NESTED, pb.Provision(purposes=["HRESCH"])],
)  # fmt: skip
CONSENT = pb.Consent(
    kind=pb.CONSENT_KIND_TRANSFER_REQUEST, root=FULL, recurrence="P1M", retention_until_time_ms=21_000 * DAY_MS,
    implicit_policy=pb.IMPLICIT_POLICY_BASIC_NORMAL, notice_id="notice-7", notice_version=3,
    source="fhir/r4", policy_uris=["https://p.test/1"], language="ko", legal_basis="MA-21-3", legal_basis_note="spouse",
)  # fmt: skip


def test_a_consent_is_shown_with_everything_that_it_states() -> None:
    root, *nested = consent_lines(CONSENT, "en")
    assert root == (
        "transfer request, permitted: hospital-a → clinic-b+group/labs, TREAT, CLIN+GEN.RAW, actions: collect+access, "
        "labels: GDIS+PSY, resources: Observation/123, level: up to R (restricted), "
        "in force: 2022-01-08 09:00:00 KST ~ 2024-10-04 09:00:00 KST, data of: 1997-05-19 09:00:00 KST ~, "
        "recurrence: P1M, kept until: 2027-07-01 09:00:00 KST, notice: notice-7@3, "
        "under policy: https://p.test/1, imported from: fhir/r4, "
        "otherwise: normal data permitted for treatment "
        "[MA-21-3 access to records by others than the patient (MA 21(3)): spouse]"
    )
    assert nested == [
        "  provision[0] denied: categories: CLIN.RX",
        "    provision[0].provision[0] permitted: recipients: er, level: up to V (very restricted)",
        "      provision[0].provision[0].provision[0] denied: labels: HIV",
        "  provision[1] denied: purposes: HRESCH",
    ]


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_no_field_of_a_consent_or_provision_is_left_out(lang: str) -> None:
    """A field that is added to the messages must be added to the text."""
    whole = consent_lines(CONSENT, lang)
    for message, make in ((CONSENT, lambda one: one), (FULL, lambda one: pb.Consent(root=one))):
        for field, _ in message.ListFields():
            without = type(message)()
            without.CopyFrom(message)
            without.ClearField(field.name)
            if field.name not in ("root", "language", "notice_version"):
                reference = consent_lines(make(message), lang)
                assert consent_lines(make(without), lang) != reference, field.name
        stated = {field.name for field, _ in message.ListFields()}
        assert stated == {field.name for field in message.DESCRIPTOR.fields}
    assert any("가" <= letter <= "힣" for letter in whole[0]) is (lang == "ko")


def test_an_objection_and_its_exceptions_are_shown_by_their_effects() -> None:
    objection = pb.Consent(
        kind=pb.CONSENT_KIND_OBJECTION, implicit_policy=pb.IMPLICIT_POLICY_DENY,
        root=pb.Provision(effect=pb.EFFECT_DENY, level="R", provisions=[pb.Provision(actors=["*"]), pb.Provision()]),
    )  # fmt: skip
    assert consent_lines(objection, "en") == [
        "objection, denied: any → any, any, any, level: R (restricted) and above, otherwise: denied",
        "  provision[0] permitted: recipients: *",
        "  provision[1] permitted",
    ]


def entry(message: Any, kind: EntryKind) -> Entry:
    event = codec.Event(kind, 0, bytes(32), 2, bytes(32), bytes(32), 0)
    statement = codec.Statement(bytes(32), bytes(64), bytes(16), 0, b"")
    return Entry(event=event, statement=statement, author="subject", message=message, is_new=True)


def test_an_entry_has_a_line_for_each_provision_and_no_value_begins_a_line() -> None:
    attestation = st.Attestation(attested_by="app\n#9")
    nested = [pb.Provision(labels=["\x1b"])]
    evil = pb.Provision(effect=pb.EFFECT_PERMIT, actors=["a\n#9    granted"], provisions=nested)
    granted = st.GrantStatement(consent=pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=evil), attestation=attestation)
    lines = entry(granted, EntryKind.GRANT).line("en").split("\n")
    assert lines[0].startswith("#2    1970-01-01 09:00:00 KST  granted: consent, permitted: any → a\\u000a#9    gr")
    assert lines[0].endswith("[signed by the person (attested by app\\u000a#9)]")
    assert lines[1:] == ["        provision[0] denied: labels: \\u001b"]
    amended = st.AmendStatement(consent=CONSENT, lineage_seq=2, version=2)
    refused = st.RefusalStatement(grant=st.GrantStatement(consent=CONSENT), reason="R10")
    for message in (amended, refused):
        assert show.describe(message, "en").split("\n")[1:] == consent_lines(CONSENT, "en")[1:]


def test_the_differences_of_two_versions_are_named_item_by_item() -> None:
    assert differences(CONSENT, CONSENT, "en") == []
    after = pb.Consent()
    after.CopyFrom(CONSENT)
    after.root.holders[:] = []
    after.root.ClearField("level")
    after.root.period.end_time_ms = 0
    after.implicit_policy = pb.IMPLICIT_POLICY_UNSPECIFIED
    del after.root.provisions[1]
    assert differences(CONSENT, after, "en") == [
        "holders: hospital-a → any",
        "level: up to R (restricted) → none",
        "in force: 2022-01-08 09:00:00 KST ~ 2024-10-04 09:00:00 KST → 2022-01-08 09:00:00 KST ~",
        "otherwise: normal data permitted for treatment → none",
        "provision[1]: denied: purposes: HRESCH → none",
    ]
    assert differences(after, CONSENT, "ko")[0] == "제공기관: 제한 없음 → hospital-a"


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_every_field_that_a_version_changes_is_a_difference(lang: str) -> None:
    for field in (*pb.Consent.DESCRIPTOR.fields, *pb.Provision.DESCRIPTOR.fields):
        after = pb.Consent()
        after.CopyFrom(CONSENT)
        owner = after if field.containing_type is pb.Consent.DESCRIPTOR else after.root
        if field.name != "root":
            owner.ClearField(field.name)
            assert differences(CONSENT, after, lang), field.name


RULES = [
    pb.ResidualRule(
        effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"], covered_labels=["HIV"], any_labels=["HIV"], level="R",
        resources=["Observation/1"], data_period=PERIOD, layer=pb.LAYER_CONSENT,
    ),
    pb.ResidualRule(
        effect=pb.EFFECT_DENY, categories=["CLIN.DX"], level="V", layer=pb.LAYER_STATUTE,
        rules=[pb.ResidualRule(effect=pb.EFFECT_PERMIT, categories=["CLIN.DX"], layer=pb.LAYER_STATUTE)],
    ),
]  # fmt: skip


def test_conditions_are_shown_rule_by_rule_with_their_exceptions() -> None:
    assert show.condition_lines(RULES, "en") == [
        "condition (consent): permitted CLIN.DX, no labels but: HIV, with one of the labels: HIV, "
        "level: up to R (restricted), resources: Observation/1, "
        "data of: 2022-01-08 09:00:00 KST ~ 2024-10-04 09:00:00 KST",
        "condition (statute): denied CLIN.DX, level: V (very restricted) and above",
        "  except (statute): permitted CLIN.DX, no labels but: none",
    ]
    assert show.condition_lines(RULES, "ko")[1] == "조건 (statute): 거부 CLIN.DX, 민감도: V (매우 제한) 이상"


def test_a_question_is_shown_with_what_it_states_of_the_data() -> None:
    clinic = pb.Actor(organisation="clinic-b")
    asked = pb.Question(actor=clinic, holder="hospital-a", purpose="TREAT", categories=["CLIN"])
    assert show.question(asked) == "hospital-a → clinic-b, TREAT, collect, CLIN"
    asked.MergeFrom(pb.Question(action="access", labels=pb.CodeSet(values=["HIV"]), level="R"))
    assert show.question(asked) == "hospital-a → clinic-b, TREAT, access, CLIN, HIV, R"


def test_a_period_without_bounds_is_no_puzzle() -> None:
    """A data period without bounds drops the parent's limit. A period of validity without bounds limits nothing."""
    child = pb.Provision(effect=pb.EFFECT_PERMIT, data_period=pb.Period(), period=pb.Period())
    root = pb.Provision(effect=pb.EFFECT_PERMIT, data_period=DATA_PERIOD, provisions=[child])
    made = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root)
    assert consent_lines(made, "en")[1] == "  provision[0] permitted: data of: any time"
    assert consent_lines(made, "ko")[1].endswith("자료의 기간: 제한 없음")


@pytest.mark.parametrize(
    ("stated", "decided", "shown"),
    [
        ({}, {}, "permitted: "),
        ({"labels": pb.CodeSet(values=["HIV"]), "level": "R"}, {"labels": ["HIV"], "level": "R"}, "permitted: "),
        ({}, {"labels": ["*"], "level": "V"}, "permitted (any label, up to V (very restricted)): "),
        ({"level": "R"}, {"labels": ["*"], "level": "R"}, "permitted (any label, up to R (restricted)): "),
        ({"labels": pb.CodeSet()}, {"level": "V"}, "permitted (no further label, up to V (very restricted)): "),
    ],
)
def test_an_access_shows_what_it_permits_beyond_the_question(
    stated: dict[str, Any], decided: dict[str, Any], shown: str
) -> None:
    asked = pb.Question(actor=pb.Actor(organisation="clinic-b"), holder="hospital-a", categories=["CLIN"], **stated)
    message = st.AccessStatement(decision=pb.Decision(outcome=pb.OUTCOME_PERMIT, permitted=["CLIN.DX"], **decided))
    message.asked.question, message.asked.asker = asked.SerializeToString(), "clinic-b"
    assert show.access(message, "en").startswith(f"{shown}hospital-a → clinic-b")
    assert show.permitted_data(pb.Decision(labels=["HIV"]), "ko") == "민감 표시: HIV, 정보마다 정해진 민감도까지"
