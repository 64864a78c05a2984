"""Measure the evaluator on persons at the limit of provisions, whose consents have different shapes.

The shapes are those that take longest: the participants, the period or the place in a tree of each consent differ from
those of the others, so each is compared with the question. All are asked the same question of ``party-01``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.in_process import NOW_MS, NUMBERS, RULES, micros, time_each
from benchmarks.report import Row
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import compile_consent
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import Verdict, evaluate
from consentd.policy.model import (
    STILL,
    Actor,
    Consent,
    Effect,
    Kind,
    Membership,
    Obligation,
    Outcome,
    Period,
    Provision,
    Question,
    StoredConsent,
)
from consentd.policy.subject import MAX_ROWS, Lineage, encode_subject

AT_MOST_US = 5_000
_DAY_MS = 86_400_000
_GROUPS = tuple(f"group/{number:02d}" for number in range(40))
_NUMBERS = NUMBERS | {name: number for number, name in enumerate(_GROUPS, len(NUMBERS) + 1)}
_JOINED_LATER = 1 << 40  # a leaf index after that of every consent
_MEMBERSHIPS = {
    "party-01": [Membership(name, 0 if at % 4 else _JOINED_LATER, STILL) for at, name in enumerate(_GROUPS) if at % 2]
}
_CODEBOOK = Codebook(DEFAULT_VOCABULARY, _NUMBERS, _MEMBERSHIPS)
_QUESTION = Question(
    actor=Actor(organisation="party-01"), holder="party-40", purpose="TREAT", action="disclose", categories=("CLIN.DX",)
)


def _root(number: int, **limits: Any) -> Provision:
    """Return the root of consent *number*. Each third denies, and every second names party-01 beside two others."""
    named = {f"party-{2 + number * step % 39:02d}" for step in (7, 11)} | ({"party-01"} if number % 2 else set())
    root = Provision(
        effect=Effect.PERMIT if number % 3 else Effect.DENY,
        actors=tuple(sorted(named)),
        holders=("party-40", f"party-{1 + number % 39:02d}"),
        purposes=("TREAT",),
        categories=("CLIN",),
    )
    return replace(root, **limits)


def _ends_earlier(number: int) -> Provision:
    return _root(number, end_ms=NOW_MS + (1 + MAX_ROWS - number) * _DAY_MS)


def _ends_later(number: int) -> Provision:
    return _root(number, end_ms=NOW_MS + number * _DAY_MS)


def _of_groups(number: int) -> Provision:
    named = tuple(_GROUPS[number * step % len(_GROUPS)] for step in (3, 7, 11))
    return _root(number, actors=named, end_ms=NOW_MS + (1 + MAX_ROWS - number) * _DAY_MS)


def _of_data(number: int) -> Provision:
    period = Period(NOW_MS - number * _DAY_MS, NOW_MS + (1 + number % 7) * _DAY_MS)
    return replace(_ends_earlier(number), data_period=period)


def _of_two(number: int) -> Provision:
    root = _ends_earlier(number)
    child = Provision(
        effect=Effect.PERMIT if root.effect is Effect.DENY else Effect.DENY, actors=root.actors, holders=root.holders,
        purposes=root.purposes, categories=("CLIN.DX",) if number % 2 else ("CLIN.RX",), end_ms=root.end_ms,
    )  # fmt: skip
    return replace(root, children=(child,))


_LEAVES = tuple(code.code for code in DEFAULT_VOCABULARY.categories if code.code != "CLIN.DX")


def _of_own_codes(root: Callable[[int], Provision], number: int) -> Provision:
    """Return the same with a set of categories that no other consent has, all of which cover what is asked for."""
    bits = number * 2_654_435_761  # Knuth's multiplicative hash
    return replace(root(number), categories=("CLIN.DX", *(one for at, one in enumerate(_LEAVES) if bits >> at & 1)))


_STATED = replace(_QUESTION, data_period=Period(NOW_MS - 2 * _DAY_MS, NOW_MS))
_OPEN = replace(_QUESTION, supported_obligations=frozenset({Obligation.ENFORCE_RESIDUAL}))
SHAPES: dict[str, tuple[Callable[[int], Provision], int, Question]] = {
    "lists and ends of their own, later ones end earlier": (_ends_earlier, MAX_ROWS, _QUESTION),
    "lists and ends of their own, later ones end later": (_ends_later, MAX_ROWS, _QUESTION),
    "lists of groups": (_of_groups, MAX_ROWS, _QUESTION),
    "data periods, and the question states one": (_of_data, MAX_ROWS, _STATED),
    "lists, ends, and a residual": (_ends_earlier, MAX_ROWS, _OPEN),
    "data periods, and a residual": (_of_data, MAX_ROWS, _OPEN),
    "categories of their own": (partial(_of_own_codes, _ends_earlier), MAX_ROWS, _QUESTION),
    "trees of two, categories of their own": (partial(_of_own_codes, _of_two), MAX_ROWS // 2, _QUESTION),
    "trees of two": (_of_two, MAX_ROWS // 2, _QUESTION),
    "trees of two, and a residual": (_of_two, MAX_ROWS // 2, _OPEN),
}
"""Name → root of each consent, how many consents, and the question."""


def make_shape(name: str) -> tuple[bytes, PackedQuestion]:
    """Return the value of the person with this shape, and the question."""
    root, count, question = SHAPES[name]
    lineages = []
    for number in range(1, count + 1):
        consent = Consent(kind=Kind.CONSENT, root=root(number))
        stored = StoredConsent(lineage=number, seq=number, version=1, consent=consent)
        compiled = compile_consent(stored, DEFAULT_VOCABULARY, _NUMBERS, normal_level=RULES.normal_level)
        lineages.append(Lineage(number, number, 1, False, compiled))
    numbers, groups = _CODEBOOK.numbers, _CODEBOOK.groups
    parties = Parties(
        permit_actors=numbers("party-01"), deny_actors=numbers("party-01"), holders=numbers("party-40"),
        permit_groups=groups("party-01"), deny_groups=groups("party-01"), sees_reasons=True, gets_conditions=True,
    )  # fmt: skip
    return encode_subject(lineages), pack_question(question, _CODEBOOK, parties)


def measure_shapes(*, loops: int) -> list[Row]:
    """Measure each shape."""
    rows = []
    for name in SHAPES:
        value, packed = make_shape(name)
        assert evaluate(value, packed, RULES, NOW_MS).outcome is Outcome.DENY, "some consents that name the actor deny"
        samples = time_each(partial(_evaluate, value, packed), loops)
        rows.append(
            micros("evaluator", f"evaluate, {MAX_ROWS:,} provisions: {name}", samples, AT_MOST_US, "half of them match")
        )
    return rows


def _evaluate(value: bytes, packed: PackedQuestion, _: int) -> Verdict:
    return evaluate(value, packed, RULES, NOW_MS)
