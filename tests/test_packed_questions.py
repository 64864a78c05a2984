"""The registry remembers packed questions by what they have in common: a question from memory is the question asked."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings, strategies

from cases.participants import BOTH
from cases.policy_worlds import CODEBOOK, NUMBERS, VOCABULARY, Draw
from cases.question_messages import message_of
from cases.services import FOREIGN_FIELD
from consentd.errors import DeniedError, InvalidError
from consentd.policy import model
from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import compile_rules
from consentd.policy.delegation import Capacity, Delegation
from consentd.statements import decisions
from consentd.table import registry as registries
from consentd.table.registry import Participant, Registry
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

draws = strategies.randoms(use_true_random=False).map(Draw)
CLINIC, HOSPITAL, RELAY = "a", "b", "r"
NOW = 1_000


def make_registry(*delegations: Delegation) -> Registry:
    participants = {
        name: Participant(name, number, BOTH, frozenset(), (), True, st.ParticipantStatement())
        for number, name in CODEBOOK.names.items()
    }
    given = {CLINIC: {(one.taker, one.capacity): one for one in delegations}}
    rules = compile_rules(model.Rules(), VOCABULARY, NUMBERS)
    return Registry(1, CODEBOOK, rules, model.Quotas(), participants, dict(NUMBERS), given, {}, {}, frozenset(), False)


def ask(value: str = "T-1", **changed: object) -> pb.Question:
    fields: dict[str, object] = {
        "subject": pb.Subject(scheme="mhid", value=value), "actor": pb.Actor(organisation=CLINIC), "holder": HOSPITAL,
        "purpose": "TREAT", "action": "collect", "categories": ["SENS.A"],
    }  # fmt: skip
    return pb.Question(**{**fields, **changed})  # type: ignore[arg-type]


def packed(registry: Registry, question: pb.Question, *, caller: str | None = CLINIC, now: int = NOW) -> PackedQuestion:
    form = decisions.form_of(question.SerializeToString())
    return registry.packed_before(caller, form, now) or registry.pack(caller, question, form, now)


def test_questions_that_differ_in_the_person_share_one_item() -> None:
    registry = make_registry()
    first = packed(registry, ask())
    assert packed(registry, ask("another")) is first
    assert packed(registry, ask("another", holder=CLINIC)) is not first
    assert packed(registry, ask(), caller=None) is not first
    assert packed(make_registry(), ask()) is not first


@given(draws, draws)
@settings(max_examples=200)
def test_a_remembered_question_is_packed_as_the_question_asked(draw: Draw, other: Draw) -> None:
    registry = make_registry()
    for question in (draw.question(), other.question()):
        actor = model.Actor(organisation=CLINIC, practitioner=question.actor.practitioner)
        message = message_of(replace(question, actor=actor, holder=HOSPITAL))
        expected = decisions.pack_message(message, CODEBOOK, registry.parties(CLINIC, message, NOW))
        for value in ("T-1", "T-2", "long" * 40):
            message.subject.value = value
            assert packed(registry, message) == expected


def test_a_long_identifier_is_the_same_question() -> None:
    registry = make_registry()
    assert packed(registry, ask("x" * 250)) == packed(registry, ask())


@pytest.mark.parametrize("place", [lambda asked: asked, lambda asked: asked.actor])
def test_no_unknown_field_is_overlooked_because_of_a_question_without_it(
    place: Callable[[pb.Question], Message],
) -> None:
    registry = make_registry()
    packed(registry, ask())
    strange = ask()
    place(strange).MergeFromString(FOREIGN_FIELD)
    for _ in range(2):
        with pytest.raises(InvalidError) as caught:
            packed(registry, strange)
        assert caught.value.reason == "UNKNOWN_FIELD"


def test_a_remembered_question_ends_with_the_delegation_that_lets_the_caller_ask() -> None:
    until = NOW + 10
    lent = Delegation(giver=CLINIC, taker=RELAY, capacity=Capacity.RELAY, end_ms=until)
    registry = make_registry(lent)
    assert packed(registry, ask(), caller=RELAY) is packed(registry, ask(), caller=RELAY, now=until - 1)
    with pytest.raises(DeniedError):
        packed(registry, ask(), caller=RELAY, now=until)


def test_a_question_of_break_glass_is_not_remembered() -> None:
    """Check refuses such a question, and so must not find one that AuthorizeAccess packed."""
    registry = make_registry()
    emergency = ask(purpose="BTG", break_glass=pb.BreakGlass(justification="unconscious after an accident"))
    form = decisions.form_of(emergency.SerializeToString())
    for question in (emergency, decisions.question_value(emergency)):
        assert registry.pack(CLINIC, question, form, NOW).break_glass
        assert registry.packed_before(CLINIC, form, NOW) is None


def test_a_message_and_its_value_are_packed_alike() -> None:
    registry, question = make_registry(), ask()
    expected = packed(registry, question)
    assert registry.pack(CLINIC, decisions.question_value(question), b"", NOW) == expected


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "MAX_QUESTIONS", 2)
    registry = make_registry()
    first = packed(registry, ask())
    for code in ("SENS.B", "SENS.C"):
        packed(registry, ask(categories=[code]))
    assert packed(registry, ask()) is not first
    long = ask(categories=["SENS.A"] * 200)
    assert packed(registry, long) is not packed(registry, long), "a question of such length is packed for each use"
