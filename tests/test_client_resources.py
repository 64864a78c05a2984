"""Answers applied to single resources: what flows is what Check permits for that resource, and never more."""

import os
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cases.clients import UNAVAILABLE, faking
from cases.policy_worlds import LABELS, RESIDUAL, RESOURCES, VOCABULARY, Draw, World
from consentd.errors import StorageError
from consentd.policy.model import LEVELS, Decision, Outcome, Question
from consentd.statements.decisions import decision_message, residual_message, residual_value
from consentd.statements.values import period_message, to_enum, vocabulary_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd_client import CheckAnswer, DataPeriod, NotPermittedError, Resource
from consentd_client.answers import find_fault, find_wrong_categories
from consentd_client.resources import permitted_resources

COUNT = int(os.environ.get("CONSENTD_RESOURCES", "4000"))
"""How many resources are compared with Check; 100,000 or more for a long run."""

CALLER = "stranger"
"""Who asks: a relay. Of the holder, a stated level counts even if it is lower than that of the category."""

CATEGORIES = {code.code: code for code in VOCABULARY.categories}


def question_message(asked: Question) -> pb.Question:
    actor = pb.Actor(organisation=asked.actor.organisation, on_behalf_of=asked.actor.on_behalf_of)
    return pb.Question(
        actor=actor, holder=asked.holder, purpose=asked.purpose, action=asked.action, categories=asked.categories,
        labels=None if asked.labels is None else pb.CodeSet(values=asked.labels), level=asked.level,
        resources=None if asked.resources is None else pb.CodeSet(values=asked.resources),
        data_period=None if asked.data_period is None else period_message(asked.data_period),
        supported_obligations=[to_enum(one) for one in asked.supported_obligations],
    )  # fmt: skip


def answer_to(asked: Question, decided: Decision) -> CheckAnswer:
    """Return the client's answer for a decision, as it arrives in a message."""
    question, decision = question_message(asked), decision_message(decided, b"")
    assert find_fault(question, decision) is None
    assert find_wrong_categories(question, decision, VOCABULARY) is None
    obligations = {*decision.obligations} - {pb.OBLIGATION_ENFORCE_RESIDUAL}
    return CheckAnswer(question=question, decision=decision).fulfil(*obligations)


def drawn_resource(draw: Draw, asked: Question, category: str) -> Resource:
    """Draw a resource that mostly lies within what the question states."""
    pick = draw.random
    labels, period = tuple(pick.sample(LABELS, pick.choice([0, 0, 1, 1, 2]))), draw.data_period()
    reference, level = pick.choice(RESOURCES), pick.choice(["", "", *LEVELS])
    if pick.random() < 0.9:
        labels = labels if asked.labels is None else asked.labels
        reference = reference if asked.resources is None else pick.choice(asked.resources)
        period = period if asked.data_period is None else asked.data_period
        level = asked.level or level
    return Resource(category=category, labels=labels, level=level, reference=reference, data_period=period)


def question_for(asked: Question, resource: Resource) -> Question:
    """Return the question for one resource: with its labels, its level or the higher default, its period."""
    default = CATEGORIES[resource.category].level
    level = max(resource.level or default, default, key=LEVELS.index)
    return replace(
        asked, categories=(resource.category,), labels=resource.labels, level=level, resources=(resource.reference,),
        data_period=resource.data_period, supported_obligations=frozenset(),
    )  # fmt: skip


def is_within(asked: Question, resource: Resource) -> bool:
    """Whether what the question states is what the resource has."""
    return (
        (asked.labels is None or set(asked.labels) == set(resource.labels))
        and (asked.resources is None or asked.resources == (resource.reference,))
        and (asked.data_period is None or asked.data_period == resource.data_period)
        and (not asked.level or asked.level == resource.level)
    )


def test_what_flows_is_what_check_permits_for_each_resource() -> None:
    """Equal where the caller applies conditions and the resource is within the question; elsewhere never more."""
    draw = Draw(random.Random(20_261_130))
    seen: Counter[str] = Counter()
    while seen["compared"] < COUNT:
        world = draw.world()
        for _ in range(20):
            compare(draw, replace(world, blind=()), seen)
    for kind in ("residual flows", "residual refused", "permit flows", "permit refused"):
        assert seen[kind] > COUNT / 50, seen


def compare(draw: Draw, world: World, seen: Counter[str]) -> None:
    asked, now_ms = replace(draw.question(world), break_glass=None), draw.now()
    if asked.purpose == "BTG" or asked.holder == CALLER:
        return
    asked = replace(asked, supported_obligations=draw.random.choice([frozenset(), RESIDUAL, RESIDUAL]))
    decided = world.compiled_answer(asked, now_ms, CALLER)
    answer = answer_to(asked, decided)
    if decided.outcome not in (Outcome.PERMIT, Outcome.PARTIAL):
        return
    for category in (*decided.permitted, *decided.denied, *decided.without_consent):
        for _ in range(3):
            resource = drawn_resource(draw, asked, category)
            flows = permitted_resources(answer, [resource], VOCABULARY) == (resource,)
            alone = question_for(asked, resource)
            is_permitted = world.compiled_answer(alone, now_ms, CALLER).outcome is Outcome.PERMIT
            kind = "residual" if decided.residual else "permit"
            seen[f"{kind} {'flows' if flows else 'refused'}"] += 1
            assert is_permitted or not flows, (asked, resource, decided)
            if asked.supported_obligations and is_within(asked, resource):
                seen["compared"] += 1
                assert flows is is_permitted, (asked, resource, decided)
    assert tuple(map(residual_value, map(residual_message, decided.residual))) == decided.residual


ASKED = Question(
    actor=Draw(random.Random(1)).question().actor, holder="r", purpose="TREAT", categories=("CLIN.A", "SENS.A"),
    supported_obligations=RESIDUAL,
)  # fmt: skip
RULE = {"effect": pb.EFFECT_PERMIT, "layer": pb.LAYER_CONSENT}


def answer(asked: Question = ASKED, **decision: Any) -> CheckAnswer:
    applies = bool(asked.supported_obligations)
    fields: dict[str, Any] = {
        "labels": (["*"] if applies else []) if asked.labels is None else asked.labels,
        "level": asked.level or ("V" if applies else ""),
        "outcome": pb.OUTCOME_PERMIT, "permitted": ["CLIN.A", "SENS.A"], "vocabulary_version": VOCABULARY.version,
        "combining": pb.COMBINING_DENY_OVERRIDES,
    }  # fmt: skip
    return CheckAnswer(question=question_message(asked), decision=pb.Decision(**{**fields, **decision}))


SILENT: dict[str, Any] = {"supported_obligations": frozenset()}
STATED: dict[str, Any] = {"labels": ("HIV", "SUD"), "level": "R"}
PLAIN = Resource(category="CLIN.A", reference="Observation/1")


def flows(found: CheckAnswer, resource: Resource = PLAIN) -> bool:
    return bool(permitted_resources(found, [resource], VOCABULARY))


def test_a_residual_is_applied_with_labels_and_level() -> None:
    rules = [
        pb.ResidualRule(categories=["CLIN.A"], covered_labels=["HIV", "SUD"], any_labels=["HIV"], level="R", **RULE),
        pb.ResidualRule(categories=["SENS.A"], covered_labels=["HIV"], level="N", **RULE),
    ]
    found = answer(obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL], residual=rules)
    assert not found
    hiv = replace(PLAIN, labels=("HIV",))
    for resource, expected in (
        (hiv, True),
        (PLAIN, False),
        (replace(hiv, labels=("HIV", "SUD")), True),
        (replace(hiv, labels=("HIV", "MH")), False),
        (replace(hiv, level="R"), True),
        (replace(hiv, level="V"), False),
        (replace(PLAIN, category="SENS.A"), True),
        (replace(PLAIN, category="SENS.A", level="N"), True),
        (replace(PLAIN, category="SENS.A", level="V"), False),
        (replace(PLAIN, category="CLIN.B"), False),
    ):
        assert flows(found, resource) is expected, resource


def test_what_is_not_known_is_refused() -> None:
    found = answer()
    assert flows(found)
    for strange in (
        replace(PLAIN, labels=("STRANGE",)), replace(PLAIN, level="X"), replace(PLAIN, level="n"),
        replace(PLAIN, category="STRANGE"), replace(PLAIN, category="CLIN"), replace(PLAIN, reference=""),
        replace(PLAIN, data_period=DataPeriod(5, 5)), replace(PLAIN, data_period=DataPeriod(9, 5)),
    ):  # fmt: skip
        assert not flows(found, strange), strange
    assert not flows(answer(vocabulary_version=6))
    rule = pb.ResidualRule(categories=["CLIN.A"], **RULE)
    for change in (
        {"combining": 0}, {"combining": 9}, {"residual": [pb.ResidualRule(categories=["CLIN.A"], layer=9)]},
        {"residual": [pb.ResidualRule(categories=["CLIN.A"], level="X", **RULE)]},
    ):  # fmt: skip
        given = {"obligations": [1], "residual": [rule], **change}
        assert not flows(answer(**given)), change
    assert flows(answer(obligations=[1], residual=[rule]))


def test_an_answer_without_conditions_is_about_what_the_question_states() -> None:
    plain = replace(ASKED, supported_obligations=frozenset())
    hiv = replace(PLAIN, labels=("HIV",))
    period = DataPeriod(10, 20)
    for asked, resource, expected in (
        (ASKED, hiv, True),  # the caller applies conditions, and there are none
        (ASKED, replace(PLAIN, level="V"), True),
        (plain, hiv, False),
        (plain, PLAIN, True),
        (plain, replace(PLAIN, category="SENS.A", labels=("HIV",)), True),  # its category's own label
        (plain, replace(PLAIN, level="N"), True),
        (plain, replace(PLAIN, level="R"), False),
        (replace(plain, labels=("HIV",)), hiv, True),
        (replace(ASKED, labels=("HIV",)), PLAIN, False),
        (replace(ASKED, labels=("HIV",)), replace(PLAIN, labels=("HIV", "MH")), False),
        (replace(ASKED, labels=()), hiv, False),
        (replace(ASKED, level="R"), replace(PLAIN, level="R"), True),
        (replace(ASKED, level="R"), replace(PLAIN, level="V"), False),
        (replace(ASKED, level="L"), PLAIN, False),  # the default level of the category is higher
        (replace(ASKED, resources=("Observation/1",)), PLAIN, True),
        (replace(ASKED, resources=("Observation/2",)), PLAIN, False),
        (replace(ASKED, data_period=period), replace(PLAIN, data_period=period), True),
        (replace(ASKED, data_period=period), replace(PLAIN, data_period=DataPeriod(10, 21)), False),
        (replace(ASKED, data_period=period), PLAIN, False),
    ):
        assert flows(answer(asked), resource) is expected, (asked, resource)


@pytest.mark.parametrize(
    ("asked", "labels", "level", "permits"),
    [
        (SILENT, [], "", True),
        (SILENT, ["HIV"], "", None),
        (SILENT, ["*"], "", None),
        (SILENT, [], "N", None),
        (SILENT, [], "V", None),
        ({**SILENT, **STATED}, ["SUD", "HIV"], "R", True),
        ({**SILENT, **STATED}, ["SUD"], "R", None),
        ({**SILENT, **STATED}, [], "R", None),
        ({**SILENT, **STATED}, ["*"], "R", None),
        ({**SILENT, **STATED}, ["SUD", "HIV"], "", None),
        ({**SILENT, **STATED}, ["SUD", "HIV"], "V", None),
        ({**SILENT, "labels": ()}, [], "", True),
        ({}, ["*"], "V", True),  # all that was asked for, without conditions
        ({}, [], "", False),  # a part, as to a caller that may have no conditions
        ({}, ["*"], "", None),
        ({}, [], "V", None),
        (STATED, ["HIV", "SUD"], "R", True),
        (STATED, ["*"], "R", None),
        ({"level": "R"}, ["*"], "R", True),
        ({"level": "R"}, [], "R", False),
    ],
)
def test_a_permit_is_for_the_labels_and_the_level_that_were_asked_for(
    asked: dict[str, Any], labels: list[str], level: str, permits: bool | None
) -> None:
    """None: it answers another question. False: it is for a part of what was asked for."""
    found = answer(replace(ASKED, **asked), labels=labels, level=level)
    assert (find_fault(found.question, found.decision) is None) is (permits is not None)
    if permits is None:
        assert not any(flows(found, replace(PLAIN, labels=tuple(some))) for some in ((), ("HIV",), ("HIV", "SUD")))
        return
    assert bool(found) is permits
    if not permits:
        with pytest.raises(NotPermittedError):
            found.require()


def test_an_answer_for_a_part_releases_that_part() -> None:
    """The caller can apply conditions, and may have none: the answer says which data it is for."""
    narrow = answer(labels=[], level="")
    assert not narrow
    hiv = replace(PLAIN, category="SENS.A", labels=("HIV",))
    for resource, expected in (
        (PLAIN, True), (replace(PLAIN, labels=("HIV",)), False), (replace(PLAIN, level="R"), False), (hiv, True),
        (replace(hiv, level="V"), False),
    ):  # fmt: skip
        assert flows(narrow, resource) is expected, resource
    for other in ({"labels": ["HIV"]}, {"labels": []}, {"level": ""}, {"level": "R"}):
        assert not flows(answer(**other)), other
    assert not flows(answer(replace(ASKED, labels=("HIV",)), labels=[]))


def test_a_partial_releases_only_what_it_permits_and_a_refusal_nothing() -> None:
    part = answer(outcome=pb.OUTCOME_PARTIAL, permitted=["CLIN.A"], denied=["SENS.A"])
    assert (bool(part), flows(part), flows(part, replace(PLAIN, category="SENS.A"))) == (False, True, False)
    for outcome in (pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT, pb.OUTCOME_INDETERMINATE, 0, 9):
        assert not flows(answer(outcome=outcome))


def test_other_obligations_are_fulfilled_first() -> None:
    found = answer(obligations=[pb.OBLIGATION_NOTIFY_SUBJECT])
    with pytest.raises(NotPermittedError):
        flows(found)
    assert flows(found.fulfil(pb.OBLIGATION_NOTIFY_SUBJECT))


def test_the_client_reads_the_vocabulary_of_the_decision_once() -> None:
    words = rs.GetVocabularyResponse(vocabulary=vocabulary_message(VOCABULARY))
    client, channel = faking(words)
    assert client.apply_residual(answer(), [PLAIN, replace(PLAIN, level="X")]) == (PLAIN,)
    assert client.apply_residual(answer(), [PLAIN]) == (PLAIN,)
    assert client.apply_residual(answer(outcome=pb.OUTCOME_DENY), [PLAIN]) == ()
    assert len(channel.requests) == 1
    with pytest.raises(StorageError):
        faking(*[UNAVAILABLE] * 3)[0].apply_residual(answer(), [PLAIN])
