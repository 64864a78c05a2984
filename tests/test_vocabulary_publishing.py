"""Publishing a vocabulary or rules: what is refused, and what a new code changes for older consents (rule 6)."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from cases.daemons import Running, consent, make_running, question, reason_of, request_id, serve
from cases.services import new_identifier, publish_rules, refusal, services
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

PURPOSE, CATEGORY, ACTION, LABEL, GROUND, BASIS = (
    st.CODE_KIND_PURPOSE,
    st.CODE_KIND_CATEGORY,
    st.CODE_KIND_ACTION,
    st.CODE_KIND_LABEL,
    st.CODE_KIND_REFUSAL_GROUND,
    st.CODE_KIND_LEGAL_BASIS,
)
Change = Callable[[st.VocabularyStatement], object]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), checkpoint_interval_ms=10))


def current(running: Running) -> st.VocabularyStatement:
    return running.registry.GetVocabulary(rs.GetVocabularyRequest(), metadata=running.as_("operator")).vocabulary


def publish(running: Running, change: Change) -> None:
    """Publish the next version of the vocabulary, as *change* makes it of the current one."""
    message = st.VocabularyStatement()
    message.CopyFrom(current(running))
    message.ClearField("attestation")
    message.version += 1
    change(message)
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=message)
    running.registry.PublishVocabulary(request, metadata=running.as_("operator"))


def code_of(message: st.VocabularyStatement, code: str) -> st.Code:
    return next(one for one in message.codes if one.code == code)


def edit(code: str, **fields: Any) -> Change:
    """Change fields of a code; ``labels`` replaces the list."""

    def change(message: st.VocabularyStatement) -> None:
        found = code_of(message, code)
        for name, value in fields.items():
            found.ClearField(name)  # type: ignore[arg-type]
            found.MergeFrom(st.Code(**{name: value}))

    return change


def add(kind: int, code: str, parent: str = "", *, implied: bool = True, **more: Any) -> Change:
    fields: dict[str, Any] = {"kind": kind, "code": code, "parent": parent, "implied": implied, **more}
    return lambda message: message.codes.add(name={"ko": "새 것", "en": "new"}, **fields)


def swap(one: str, other: str) -> Change:
    def change(message: st.VocabularyStatement) -> None:
        first, second = code_of(message, one), code_of(message, other)
        kept = st.Code()
        kept.CopyFrom(first)
        first.CopyFrom(second)
        second.CopyFrom(kept)

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "parent of a purpose": (edit("HRESCH", parent="TREAT"), "HRESCH"),
    "parent of a category": (edit("CLIN.DX", parent="LIFE"), "CLIN.DX"),
    "level, raised": (edit("CLIN.DX", level="V"), "CLIN.DX"),
    "level, lowered": (edit("GEN.TEST", level="N"), "GEN.TEST"),
    "labels, one more": (edit("CLIN.DX", labels=["HIV"]), "CLIN.DX"),
    "labels, none": (edit("GEN.TEST", labels=[]), "GEN.TEST"),
    "mark, taken": (edit("TREAT", implied=False), "TREAT"),
    "mark, given to marketing": (edit("HMARKT", implied=True), "HMARKT"),
    "mark, given to break-glass": (edit("BTG", implied=True), "BTG"),
    "mark, given to correcting": (edit("correct", implied=True), "correct"),
    "another kind": (edit("HMARKT", kind=ACTION), "HMARKT"),
    "order": (swap("CLIN.DX", "CLIN.RX"), "CLIN.DX"),
    "a category under a leaf": (add(CATEGORY, "CLIN.DX.ICD", "CLIN.DX", level="N"), "CLIN.DX"),
    "a purpose under one without any": (add(PURPOSE, "CAREMGT.X", "CAREMGT"), "CAREMGT"),
    "an action under one": (add(ACTION, "look", "access"), "access"),
    "a label under one": (add(LABEL, "HIV.X", "HIV"), "HIV"),
    "marketing of marketing, implied": (add(PURPOSE, "HMARKT.X", "HMARKT"), "HMARKT.X"),
    "a label that is a level": (add(LABEL, "R"), "R"),
    "a category without a level": (add(CATEGORY, "NEW"), "NEW"),
    "a category of an unknown level": (add(CATEGORY, "NEW", level="X"), "NEW"),
    "a category with an unknown label": (add(CATEGORY, "NEW", level="N", labels=["NONE"]), "NONE"),
    "a purpose with a level": (add(PURPOSE, "NEW", level="N"), "NEW"),
    "a code twice": (add(PURPOSE, "TREAT"), "TREAT"),
    "a parent that is none": (add(CATEGORY, "NEW", "NOWHERE", level="N"), "NEW"),
    "the code of all": (add(PURPOSE, "*"), "*"),
    "a refusal ground that is implied": (add(GROUND, "R12"), "R12"),
    "a legal basis with a level": (add(BASIS, "NEW", implied=False, level="N"), "NEW"),
    "a ground of another kind": (edit("R11", kind=BASIS), "R11"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_version_that_changes_what_was_consented_to_is_refused(running: Running, name: str) -> None:
    change, code = REFUSED[name]
    before, size = current(running), services(running).sequencer.ledger.state.size
    with pytest.raises(grpc.RpcError) as caught:
        publish(running, change)
    assert reason_of(caught.value) == "INVALID_REQUEST"
    assert f"`{code}`" in caught.value.details()
    assert current(running) == before
    assert services(running).sequencer.ledger.state.size - size in (0, 1)  # a seal may come in between


def test_names_may_change(running: Running) -> None:
    publish(running, edit("CLIN.DX", name={"ko": "진단", "en": "diagnoses of any kind"}))
    assert code_of(current(running), "CLIN.DX").name["en"] == "diagnoses of any kind"


def test_a_new_legal_basis_may_be_named_at_once(running: Running) -> None:
    order = consent(kind=pb.CONSENT_KIND_STATUTORY)
    order.legal_basis = "IDCPA-76-2"
    subject, operator = running.enrol(new_identifier()), {"metadata": running.as_("operator")}

    def grant() -> object:
        stated = st.GrantStatement(consent=order)
        request = cs.GrantConsentRequest(request_id=request_id(), subject=subject, attested=stated)
        return running.consents.GrantConsent(request, **operator)

    assert refusal(grant) == "UNKNOWN_CODE"
    publish(running, add(BASIS, "IDCPA-76-2", implied=False))
    grant()


def test_a_new_code_is_in_denies_and_not_in_permits_that_are_older(running: Running) -> None:
    permitted, starred, denied = (running.enrol(new_identifier()) for _ in range(3))
    running.grant(permitted, categories=["LIFE"])
    running.grant(starred, categories=["*"], purposes=["*"])
    running.grant(denied, categories=["*"])
    running.grant(denied, categories=["LIFE"], effect=pb.EFFECT_DENY)
    publish(running, add(CATEGORY, "LIFE.MOOD", "LIFE", level="N"))
    asked = {"categories": ["LIFE.MOOD"], "action": "collect"}
    assert running.check(question(permitted, **asked)).outcome == pb.OUTCOME_NO_CONSENT
    assert running.check(question(starred, **asked)).outcome == pb.OUTCOME_NO_CONSENT
    assert running.check(question(denied, **asked)).outcome == pb.OUTCOME_DENY
    running.grant(permitted, categories=["LIFE"])
    assert running.check(question(permitted, **asked)).outcome == pb.OUTCOME_PERMIT


def test_statutory_rules_name_what_is_never_implied(running: Running) -> None:
    asked = question(running.enrol(new_identifier()), purpose="HMARKT", action="collect")
    for purposes, outcome in (
        ([], pb.OUTCOME_NO_CONSENT), (["*"], pb.OUTCOME_NO_CONSENT), (["HMARKT"], pb.OUTCOME_PERMIT),
    ):  # fmt: skip
        publish_rules(running, statutory=[])
        publish_rules(running, statutory=[pb.Provision(effect=pb.EFFECT_PERMIT, purposes=purposes)])
        assert running.check(asked).outcome == outcome
    publish_rules(running, statutory=[])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"normal_level": "X"}, "INVALID_CONSENT"),
        ({"normal_level": "n"}, "INVALID_CONSENT"),
        ({"break_glass": [pb.Provision(effect=pb.EFFECT_PERMIT, purposes=["TREAT"])]}, "INVALID_CONSENT"),
        ({"break_glass": [pb.Provision(effect=pb.EFFECT_DENY, purposes=["TREAT", "ETREAT"])]}, "INVALID_CONSENT"),
        ({"statutory": [pb.Provision(effect=pb.EFFECT_PERMIT, level="X")]}, "INVALID_CONSENT"),
        ({"statutory": [pb.Provision(effect=pb.EFFECT_DENY, labels=["R"])]}, "UNKNOWN_CODE"),
        ({"statutory": [pb.Provision(effect=pb.EFFECT_DENY, labels=["NONE"])]}, "UNKNOWN_CODE"),
        ({"statutory": [pb.Provision(period=pb.Period(end_time_ms=5))]}, "INVALID_CONSENT"),
        ({"statutory": [pb.Provision(effect=pb.EFFECT_DENY, provisions=[pb.Provision()])]}, "INVALID_CONSENT"),
        (
            {"statutory": [pb.Provision(effect=pb.EFFECT_DENY, period=pb.Period(end_time_ms=1 << 55))]},
            "INVALID_CONSENT",
        ),
        ({"statutory": [pb.Provision(effect=pb.EFFECT_DENY, actors=["nobody"])]}, "UNKNOWN_PARTICIPANT"),
        ({"vocabulary_id": "other"}, "INVALID_REQUEST"),
        ({"quotas": st.Quotas(entries_per_day=60_001)}, "INVALID_REQUEST"),
    ],
)
def test_rules_that_cannot_be_are_refused(running: Running, changed: dict[str, Any], reason: str) -> None:
    asked = {"metadata": running.as_("operator")}
    before = running.registry.GetRules(rs.GetRulesRequest(), **asked).rules
    assert refusal(lambda: publish_rules(running, **changed)) == reason
    assert running.registry.GetRules(rs.GetRulesRequest(), **asked).rules == before


def test_rules_that_may_be(running: Running) -> None:
    glass = [pb.Provision(effect=pb.EFFECT_PERMIT, purposes=one) for one in ([], ["*"], ["BTG"], ["BTG", "TREAT"])]
    for level in ("U", "L", "M", "N", "R", "V"):
        publish_rules(running, normal_level=level, break_glass=glass)
        glass = []
    stored = running.registry.GetRules(rs.GetRulesRequest(), metadata=running.as_("operator")).rules
    assert (stored.normal_level, len(stored.break_glass)) == ("V", 0)
