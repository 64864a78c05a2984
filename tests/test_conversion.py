"""The way of every check: straight from message to masks, and from verdict to message, means what the values mean."""

import random
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings, strategies

from cases.participants import pack, parties
from cases.policy_worlds import CODEBOOK, Draw
from cases.question_messages import message_of
from consentd.core.kinds import EntryKind
from consentd.core.pruned import Pruned
from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.codebook import PackedQuestion, pack_question
from consentd.policy.evaluate import decision, evaluate
from consentd.statements import decisions, values
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

draws = strategies.randoms(use_true_random=False).map(Draw)
TAG = bytes(range(32))


def fields(packed: PackedQuestion) -> dict[str, object]:
    return {name: getattr(packed, name) for name in PackedQuestion.__slots__}


@given(draws)
@settings(max_examples=300)
def test_a_message_packs_as_its_value_does(draw: Draw) -> None:
    question = draw.question()
    message = message_of(question)
    assert decisions.question_value(message) == question
    who = parties(question, CODEBOOK)
    assert fields(decisions.pack_message(message, CODEBOOK, who)) == fields(pack_question(question, CODEBOOK, who))


@given(draws)
@settings(max_examples=300)
def test_a_verdict_is_put_into_a_message_as_its_decision_is(draw: Draw) -> None:
    world, question, now_ms = draw.world(), draw.question(), draw.now()
    packed = pack(question, CODEBOOK)
    verdict = evaluate(world.value, packed, world.compiled, now_ms)
    expected = decisions.decision_message(decision(verdict, packed, CODEBOOK, world.compiled), TAG)
    found = pb.Decision(vocabulary_version=expected.vocabulary_version, combining=expected.combining)
    decisions.put_verdict(found, verdict, packed, CODEBOOK, world.compiled, TAG)
    assert found == expected


def test_every_kind_of_answer_is_among_those_compared() -> None:
    draw, outcomes, residuals = Draw(random.Random(1)), set(), 0
    for _ in range(2_000):
        world, question = draw.world(), draw.question()
        packed = pack(question, CODEBOOK)
        verdict = evaluate(world.value, packed, world.compiled, draw.now())
        outcomes.add(verdict.outcome)
        residuals += bool(verdict.conditions)
    assert outcomes == set(model.Outcome)
    assert residuals


@pytest.mark.parametrize("without", ["purpose", "categories", ""])
def test_what_is_no_question_is_refused_either_way(without: str) -> None:
    question = Draw(random.Random(2)).question()
    message, who = message_of(question), parties(question, CODEBOOK)
    message.action = "collect" if without else "grab"
    for rare in ("labels", "resources", "data_period", "break_glass", "level", "supported_obligations", without):
        if rare:
            message.ClearField(rare)  # type: ignore[arg-type]
    with pytest.raises(InvalidError) as plain:
        decisions.pack_message(message, CODEBOOK, who)
    with pytest.raises(InvalidError) as whole:
        pack_question(decisions.question_value(message), CODEBOOK, who)
    assert (str(plain.value), plain.value.reason) == (str(whole.value), whole.value.reason)


def test_a_question_that_states_no_action_asks_to_collect() -> None:
    question = Draw(random.Random(2)).question()
    for labels in (None, ()):  # packed the fast way, and by values
        plain = replace(question, purpose="TREAT", action="collect", labels=labels, resources=None, data_period=None)
        message = message_of(replace(plain, level="", break_glass=None, supported_obligations=frozenset()))
        who = parties(question, CODEBOOK)
        collects = decisions.pack_message(message, CODEBOOK, who)
        message.ClearField("action")
        assert fields(decisions.pack_message(message, CODEBOOK, who)) == fields(collects)
        assert decisions.question_value(message).action == "collect"


@given(strategies.integers(-(1 << 62), 1 << 62), strategies.integers(1, 1 << 60), strategies.booleans())
def test_a_data_period_may_begin_before_1970_and_be_open(start_ms: int, length_ms: int, is_open: bool) -> None:
    assume(start_ms != 0)
    assume(start_ms + length_ms != 0)  # 0 is no bound
    for period in (
        model.Period(start_ms, start_ms + length_ms), model.Period(start_ms), model.Period(end_ms=start_ms),
        model.Period(),
    ):  # fmt: skip
        assert values.data_period_value(values.period_message(period)) == period
    window = pb.Period(start_time_ms=-1) if is_open else pb.Period(end_time_ms=-1)
    with pytest.raises(InvalidError):  # but nothing is in force then
        values.provision_value(pb.Provision(period=window))


# -- what entries state of retention and keys -----------------------------------------------------------------


def test_an_entry_with_unknown_fields_states_no_retention() -> None:
    message = st.LedgerStatement(retention_days=30, pruning=st.Pruning(kept_from_time_ms=5, start_size=300))
    payload = message.SerializeToString()
    assert values.stated_retention(EntryKind.LEDGER, payload) == values.StatedRetention(30, Pruned(5, 300))
    unknown = b"\xfa\x3f\x01x"  # field 1023
    assert values.stated_retention(EntryKind.LEDGER, payload + unknown) is None
    assert values.stated_retention(EntryKind.KEY, payload) is None
