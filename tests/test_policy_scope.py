"""Every case of a small scope: 2 subjects × 2 actors × 3 purposes × 4 categories × 3 instants × ≤ 3 provisions.

Cut where cases cannot differ: a provision's match is a conjunction of independent attributes, so one provision takes
every combination, two take every two attributes at a time, three every single one; each with every effect, in
every shape (chain, siblings, separate consents). Categories are decided at once: one question asks for all four, and
the reference still walks each by itself. What questions state of the data takes turns. Swapping the two actors maps the
scope onto itself: one of them is named.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import pytest

from cases.participants import Directory, Party
from cases.policy_worlds import CODEBOOK, RESIDUAL, WORDS, World, comparable
from consentd.errors import DeniedError
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import (
    Actor,
    Combining,
    Consent,
    Decision,
    Effect,
    Kind,
    Period,
    Provision,
    Question,
    Rules,
    StoredConsent,
)

LIMITS: dict[str, tuple[Any, ...]] = {
    "actors": ((), ("a",)),
    "purposes": ((), ("TREAT",), ("COC",)),
    "categories": ((), ("CLIN",), ("SENS.A",)),
    "labels": ((), ("HIV",)),
    "level": ("", "N", "V"),
    "period": (Period(0), Period(10, 20)),
}
DATA: tuple[dict[str, Any], ...] = (
    {}, {"labels": (), "level": "M"}, {"labels": ("HIV",), "level": "R"}, {"labels": ("SUD",)}, {"level": "V"},
    {"supported_obligations": RESIDUAL},
)  # fmt: skip
"""What questions state of the data: CLIN.A (level N), CLIN.B (R), CLIN.C (N, not implied), SENS.A (R, label HIV)."""

QUESTIONS = [
    Question(
        actor=Actor(organisation=actor),
        holder="r",
        purpose=purpose,
        action="access",
        categories=("CLIN.A", "CLIN.B", "CLIN.C", "SENS.A"),
        break_glass=WORDS if purpose == "BTG" else None,
    )
    for actor, purpose in product(("a", "b"), ("TREAT", "COC", "BTG"))
]
INSTANTS = (9, 10, 20)
EFFECTS = (None, Effect.DENY, Effect.PERMIT)
STATED = (Effect.DENY, Effect.PERMIT)


def provision(effect: Effect | None, limits: dict[str, Any], *children: Provision) -> Provision:
    period = limits.get("period", Period(0))
    named = {name: value for name, value in limits.items() if name != "period"}
    return Provision(effect=effect, start_ms=period.start_ms, end_ms=period.end_ms, children=children, **named)


def grids(*names: str) -> list[dict[str, Any]]:
    """All combinations of the named attributes; the others are absent."""
    return [dict(zip(names, values, strict=True)) for values in product(*(LIMITS[name] for name in names))]


def one() -> Iterator[tuple[Provision, ...]]:
    names = [name for name in LIMITS if name != "actors"]
    for effect, limits, actors in product(STATED, grids(*names), ((), ("a",), ("b",))):
        yield (provision(effect, limits | {"actors": actors}),)


def two() -> Iterator[tuple[Provision, ...]]:
    for names in combinations(LIMITS, 2):
        for first, second in product(grids(*names), repeat=2):
            for effect, inner in product(STATED, EFFECTS):
                yield (provision(effect, first, provision(inner, second)),)
                if inner is not None:
                    yield provision(effect, first), provision(inner, second)


def three() -> Iterator[tuple[Provision, ...]]:
    for name in LIMITS:
        for limits in product(grids(name), repeat=3):
            for effects in product(STATED, EFFECTS, EFFECTS):
                root, left, right = zip(effects, limits, strict=True)
                yield (provision(*root, provision(*left, provision(*right))),)
                yield (provision(*root, provision(*left), provision(*right)),)
                if effects[2] is not None:
                    yield provision(*root, provision(*left)), provision(*right)
                    if effects[1] is not None:
                        yield provision(*root), provision(*left), provision(*right)


def world(roots: tuple[Provision, ...], combining: Combining) -> World:
    consents = [
        StoredConsent(index, index, 1, Consent(kind=Kind.CONSENT, root=root)) for index, root in enumerate(roots, 1)
    ]
    return World(consents, Rules(combining=combining))


@pytest.mark.slow
@pytest.mark.parametrize(("cases", "expected"), [(one, 648), (two, 6_150), (three, 5_880)])
def test_every_case_of_the_scope(cases: Callable[[], Iterator[tuple[Provision, ...]]], expected: int) -> None:
    """The two interpreters agree on all of it; six combining names take turns where there are several lineages."""
    names = list(Combining)
    count = 0
    for count, roots in enumerate(cases(), 1):
        drawn = world(roots, names[count % 6] if len(roots) > 1 else Combining.DENY_OVERRIDES)
        for number, (question, now_ms) in enumerate(product(QUESTIONS, INSTANTS), count):
            asked = replace(question, **DATA[number % len(DATA)])
            answer = drawn.compiled_answer(asked, now_ms)
            assert comparable(answer) == comparable(drawn.reference_answer(asked, now_ms)), (roots, asked, now_ms)
    assert count == expected


def test_a_subject_is_decided_by_its_own_value() -> None:
    """Two subjects, one codebook, one set of rules: each answer is that of the subject's own consents alone."""
    permits = world((provision(Effect.PERMIT, {}),), Combining.DENY_OVERRIDES)
    denies = world((provision(Effect.DENY, {}),), Combining.DENY_OVERRIDES)
    for question, now_ms in product(QUESTIONS, INSTANTS):
        first = permits.compiled_answer(question, now_ms)
        assert first.permitted == (("CLIN.A", "CLIN.B") if question.purpose != "BTG" else ())
        assert denies.compiled_answer(question, now_ms).denied == ("CLIN.A", "CLIN.B", "CLIN.C", "SENS.A")
        assert permits.compiled_answer(question, now_ms) == first


# Who asks, for whom, and through whom: the organisation a, for b or not, with an application and a relay or without,
# asked by each of them and by a stranger, where each delegation is absent, in force from 10 to 20, or about another
# purpose. The persons permit a, b or anybody, and deny one of those who take part, or nobody.
DELEGABLE = (
    ("b", "a", Capacity.PROCESSOR), ("a", "r", Capacity.RELAY), ("c", "r", Capacity.RELAY),
    ("b", "stranger", Capacity.APPLICATION), ("a", "stranger", Capacity.APPLICATION),
)  # fmt: skip
GIVEN: tuple[dict[str, Any] | None, ...] = (None, {"start_ms": 10, "end_ms": 20}, {"purposes": ("HRESCH",)})
CALLERS = ("a", "b", "c", "r", "stranger", "nobody", None)


def asking() -> Iterator[tuple[Question, str | None]]:
    for obo, application, relays, caller in product(("", "b"), ("", "stranger"), ((), ("r",)), CALLERS):
        actor = Actor(organisation="a", on_behalf_of=obo, application=application, relays=relays)
        yield Question(actor=actor, holder="c", purpose="TREAT", action="access", categories=("CLIN.A",)), caller


def people() -> list[World]:
    made = []
    for permitted, denied in product(((), ("a",), ("b",)), (None, "a", "b", "c", "r", "stranger")):
        roots = [provision(Effect.PERMIT, {"actors": permitted})]
        if denied is not None:
            roots.append(provision(Effect.DENY, {"actors": (denied,)}))
        made.append(world(tuple(roots), Combining.DENY_OVERRIDES))
    return made


def outcome_of(answer: Callable[..., Decision], *asked: Any) -> object:
    """Return what an answer says, or the reason with which the question is refused."""
    try:
        return comparable(answer(*asked))
    except DeniedError as error:
        return error.reason


@pytest.mark.slow
def test_every_actor_of_the_scope() -> None:
    participants = {name: Party() for name in ("a", "b", "c", "r", "stranger")}
    worlds, questions, answered, refused = people(), list(asking()), 0, 0
    for windows, left in product(product(GIVEN, repeat=len(DELEGABLE)), (None, "a", "b", "c", "r")):
        given = [
            Delegation(giver=giver, taker=taker, capacity=capacity, **window)
            for (giver, taker, capacity), window in zip(DELEGABLE, windows, strict=True)
            if window is not None
        ]
        directory = Directory(CODEBOOK, participants | ({left: Party(active=False)} if left else {}), given)
        for number, (question, caller) in enumerate(questions):
            drawn = worlds[(number + answered + refused) % len(worlds)]
            for now_ms in INSTANTS:
                meant, found = (
                    outcome_of(answer, question, now_ms, directory, caller)
                    for answer in (drawn.reference_answer_to, drawn.answer_to)
                )
                assert found == meant, (question, caller, given, left, now_ms)
                refused += isinstance(found, str)
                answered += not isinstance(found, str)
    assert answered + refused == 3 ** len(DELEGABLE) * 5 * len(questions) * len(INSTANTS)
    assert answered == 18_228
