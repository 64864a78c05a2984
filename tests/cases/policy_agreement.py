"""One case of the comparison of the evaluator with the reference, and of an answer applied to resources with Check."""

from dataclasses import replace

from cases.policy_worlds import CATEGORIES, LABELS, RESOURCES, VOCABULARY, Draw, World, comparable
from cases.question_messages import message_of
from cases.reference_realm import default_level
from consentd.policy.model import LEVELS, Decision, Layer, Obligation, Outcome, Question, Resource
from consentd.policy.residual import covers
from consentd.statements.decisions import decision_message
from consentd.v1 import consent_pb2 as pb
from consentd_client.answers import CheckAnswer
from consentd_client.resources import permitted_resources


def check_answer(draw: Draw, world: World) -> Decision:
    """Ask a drawn question; return the answer, which is the reference's too. A residual is applied to resources."""
    question, now_ms = draw.question(world), draw.now(world)
    caller = draw.caller(question)
    answer = world.compiled_answer(question, now_ms, caller)
    meant = world.reference_answer(question, now_ms, caller)
    assert comparable(answer) == comparable(meant), (world, question, now_ms, caller, answer, meant)
    shown, meant = world.shown_answers(question, now_ms, caller)
    assert comparable(shown) == comparable(meant), (world, question, now_ms, caller, shown, meant)
    found, meant_uses = world.uses(question, now_ms, caller)
    assert found == meant_uses, (world, question, now_ms, caller, found, meant_uses)
    assert shown.residual == answer.residual, (world, question, now_ms, caller)
    assert bool(answer.residual) == (Obligation.ENFORCE_RESIDUAL in answer.obligations)
    leaves = (*answer.permitted, *answer.denied, *answer.without_consent)
    for category in leaves if answer.residual else answer.permitted[:1]:
        check_resource(draw, world, question, answer, category, now_ms, caller)
    return answer


def check_resource(
    draw: Draw, world: World, question: Question, answer: Decision, category: str, now_ms: int, caller: str
) -> None:
    """Assert that an answer permits a drawn resource exactly if Check does; without conditions, only if Check does."""
    resource, one = drawn_resource(draw, question, category)
    permitted = world.compiled_answer(one, now_ms, caller).outcome is Outcome.PERMIT
    by_client = client_permits(question, answer, resource)
    case = (world, question, now_ms, caller, answer.residual, resource)
    if not answer.residual:
        assert permitted or not by_client, case
        return
    assert permitted is (world.reference_answer(one, now_ms, caller).outcome is Outcome.PERMIT), case
    assert by_client is permitted, case
    assert covers(answer.residual, resource, combining=answer.combining) is permitted, case
    # Read as one list, without layers or combining, a residual without exceptions covers no more.
    if not any(rule.children for rule in answer.residual):
        flat = [replace(rule, layer=Layer.CONSENT) for rule in answer.residual]
        assert permitted or not covers(flat, resource)


def client_permits(question: Question, answer: Decision, resource: Resource) -> bool:
    """Return whether the client, with the answer as its message, lets a resource flow."""
    decision = decision_message(answer, bytes(32))
    received = CheckAnswer(question=message_of(question), decision=decision)
    duties = [one for one in decision.obligations if one != pb.OBLIGATION_ENFORCE_RESIDUAL]
    return bool(permitted_resources(received.fulfil(*duties), [resource], VOCABULARY))


def drawn_resource(draw: Draw, question: Question, category: str) -> tuple[Resource, Question]:
    """Draw a resource that a question may be about, and the question for this resource alone (rule 5)."""
    pick = draw.random
    labels = question.labels
    if labels is None:
        labels = tuple(pick.sample(LABELS, pick.choice([0, 0, 1, 2])))
    default = LEVELS[default_level(VOCABULARY, category)] if category in CATEGORIES else ""
    level = question.level or pick.choice(["", "", *LEVELS])
    reference = pick.choice(question.resources or RESOURCES)
    period = question.data_period or draw.data_period()
    resource = Resource(category=category, labels=labels, level=level, reference=reference, data_period=period)
    # A level below the default counts as the default, unless the question itself states both level and resources.
    if not (question.level and question.resources):
        level = max(level or default, default, key=LEVELS.index)
    # What the question states stays: a resource among several is permitted if all of them are.
    asked = replace(
        question, categories=(category,), labels=labels, level=level, resources=question.resources or (reference,),
        data_period=period, supported_obligations=frozenset(),
    )  # fmt: skip
    return resource, asked
