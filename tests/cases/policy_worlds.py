"""A small world to put questions in: a vocabulary with every kind of edge, participants in groups, random consents.

``World`` holds one subject's consents both ways, as the reference reads them and compiled, so that a test can
ask both and compare. ``draw`` needs only ``random.Random``'s methods: tests drive it from hypothesis or a seed.
"""

import random
from dataclasses import dataclass, field, replace
from functools import cached_property

import cases.reference_policy as reference
from cases import reference_actor
from cases.participants import Directory, asked_of, pack
from consentd.policy.actor import determine_parties
from consentd.policy.codebook import Codebook, PackedQuestion, pack_question
from consentd.policy.compile import CompiledRules, compile_consent, compile_rules
from consentd.policy.evaluate import decision, evaluate
from consentd.policy.model import (
    OPEN_END_MS,
    Actor,
    Combining,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Obligation,
    Period,
    Provision,
    Question,
    Rules,
    StoredConsent,
)
from consentd.policy.subject import with_consent
from consentd.policy.vocabulary import Code, Vocabulary


def _code(code: str, parent: str = "", *, implies: bool = True, level: str = "") -> Code:
    return Code(code=code, ko=code, en=code, parent=parent, implies=implies, level=level)


VOCABULARY = Vocabulary(
    id="small",
    version=7,
    purposes=(
        _code("TREAT"), _code("COC", "TREAT"), _code("ETREAT", "TREAT"), _code("BTG", "ETREAT", implies=False),
        _code("HRESCH"), _code("POARCH", "HRESCH", implies=False), _code("HMARKT", implies=False),
    ),
    categories=(
        _code("CLIN"), _code("CLIN.A", "CLIN", level="N"), _code("CLIN.B", "CLIN", level="R"),
        _code("CLIN.C", "CLIN", implies=False, level="N"), _code("GEN", level="R"),
    ),
    actions=(_code("access"), _code("disclose")),
    labels=(_code("N"), _code("SUD"), _code("ETHUD", "SUD"), _code("OPIOIDUD", "SUD", implies=False), _code("HIV")),
)
PARTICIPANTS = ("a", "b", "c", "r", "group/g", "group/h", "abroad")
NUMBERS = {name: index + 1 for index, name in enumerate((*PARTICIPANTS, "stranger"))}
GROUPS = {"a": {"group/g"}, "b": {"group/g", "group/h"}, "abroad": {"group/g"}}
ABROAD = ("abroad",)
CODEBOOK = Codebook(VOCABULARY, NUMBERS, GROUPS, abroad=ABROAD)
Groups = dict[str, set[str]]
PURPOSES = [code.code for code in VOCABULARY.purposes]
CATEGORIES = [code.code for code in VOCABULARY.categories]
LABELS = [code.code for code in VOCABULARY.labels]
RESOURCES = ["Observation/1", "Observation/2", "Condition/1"]
INSTANTS = [0, 10, 20, 30, 40]


@dataclass
class World:
    """Standings and rules, and what both sides make of them. *enrolled*: whether the person is enrolled at all."""

    consents: list[StoredConsent] = field(default_factory=list)
    rules: Rules = field(default_factory=Rules)
    codebook: Codebook = CODEBOOK
    numbers: dict[str, int] = field(default_factory=lambda: NUMBERS)
    groups: Groups = field(default_factory=lambda: GROUPS)
    enrolled: bool = True

    @property
    def vocabulary(self) -> Vocabulary:
        return self.codebook.vocabulary

    @cached_property
    def value(self) -> bytes | None:
        value = b"" if self.enrolled else None
        newest = {stored.lineage: stored for stored in sorted(self.consents, key=lambda s: s.version)}
        for stored in newest.values():
            value = with_consent(value, stored, compile_consent(stored, self.vocabulary, self.numbers))
        return value

    @cached_property
    def compiled(self) -> CompiledRules:
        return compile_rules(self.rules, self.vocabulary, self.numbers)

    def compiled_answer(self, question: Question, now_ms: int) -> Decision:
        return self._compiled(pack(question, self.codebook), now_ms)

    def reference_answer(self, question: Question, now_ms: int) -> Decision:
        return reference.decide(
            question, self.consents, self.rules, self.vocabulary, now_ms=now_ms, groups=self.groups, abroad=ABROAD,
            enrolled=self.enrolled,
        )

    def answer_to(self, question: Question, now_ms: int, directory: Directory, caller: str | None) -> Decision:
        """Answer a question of *caller*, whom *directory* must let ask it. Raises ``DeniedError``."""
        parties = determine_parties(directory, asked_of(question, caller), now_ms)
        return self._compiled(pack_question(question, self.codebook, parties), now_ms)

    def reference_answer_to(
        self, question: Question, now_ms: int, directory: Directory, caller: str | None
    ) -> Decision:
        """Answer as ``answer_to`` does, by the reference."""
        who = reference_actor.who(
            question, caller, directory.participants, list(directory.delegations), now_ms
        )
        return reference.decide(
            question, self.consents, self.rules, self.vocabulary, now_ms=now_ms, groups=self.groups, abroad=ABROAD,
            who=who,
        )  # fmt: skip

    def _compiled(self, packed: PackedQuestion, now_ms: int) -> Decision:
        return decision(evaluate(self.value, packed, self.compiled, now_ms), packed, self.codebook, self.compiled)


def comparable(decision: Decision) -> tuple[object, ...]:
    """All of a decision that both sides must agree on; reasons as a set, the residual by what it covers (elsewhere)."""
    return (
        decision.outcome, decision.permitted, decision.denied, decision.without_consent, decision.unknown,
        frozenset(decision.reasons), decision.obligations, decision.valid_until_ms, decision.combining,
    )


class Draw:
    """Random values of the small world."""

    def __init__(self, random: random.Random) -> None:
        self.random = random

    def some(self, codes: list[str], chance: float, most: int = 2) -> tuple[str, ...]:
        """Absent mostly, else ``*`` or one to ``most`` codes."""
        if self.random.random() >= chance:
            return ()
        if self.random.random() < 0.1:
            return ("*",)
        return tuple(self.random.sample(codes, self.random.randint(1, most)))

    def period(self) -> Period:
        start, end = sorted(self.random.sample(INSTANTS, 2))
        return Period(start if start else 0, end if self.random.random() < 0.8 else OPEN_END_MS)

    def provision(self, *, effect: Effect | None, depth: int, chance: float = 0.35) -> Provision:
        window = self.period() if self.random.random() < 0.4 else Period()
        children = self.random.randint(0, 3) if depth and self.random.random() < 0.6 else 0
        return Provision(
            effect=effect,
            actors=self.some(list(PARTICIPANTS), chance),
            holders=self.some(["r", "c", "group/h"], chance / 2),
            purposes=self.some(PURPOSES, chance),
            categories=self.some(CATEGORIES, chance),
            actions=self.some(["access", "disclose"], chance / 3),
            labels=self.some(LABELS, chance / 2, 3),
            resources=self.some(RESOURCES, chance / 3),
            start_ms=window.start_ms,
            end_ms=window.end_ms,
            data_period=self.period() if self.random.random() < chance / 3 else None,
            children=tuple(
                self.provision(effect=self.random.choice([None, Effect.DENY, Effect.PERMIT]), depth=depth - 1)
                for _ in range(children)
            ),
        )

    def effect(self) -> Effect:
        return self.random.choice([Effect.PERMIT, Effect.PERMIT, Effect.DENY])

    def stored(self, lineage: int, *, simple: bool = False) -> StoredConsent:
        depth = 0 if simple or self.random.random() < 0.4 else self.random.randint(1, 3)
        root = self.provision(effect=self.effect(), depth=depth)
        if simple:
            alone = {"actors": root.actors[:1], "holders": root.holders[:1], "labels": (), "resources": ()}
            root = replace(root, data_period=None, **alone)
        seq = lineage + self.random.choice([0, 0, 10])
        consent = Consent(kind=Kind.CONSENT, root=root)
        if not simple:
            kind = self.random.choice([Kind.CONSENT] * 8 + [Kind.STATUTORY])
            policy = self.random.choice([*ImplicitPolicy, None, None, None, None, None, None, None, None])
            consent = replace(consent, kind=kind, policy=policy)
        odd = not simple and self.random.random() < 0.2
        return StoredConsent(
            lineage, seq, 1 + (seq != lineage), consent,
            paused=odd and self.random.random() < 0.7, readable=not (odd and self.random.random() < 0.4),
        )

    def rules(self, *, plain: bool = False) -> Rules:
        if plain:
            return Rules()
        few = [0, 0, 0, 1, 2]
        pick = self.random.choice
        return Rules(
            combining=pick(list(Combining)),
            implicit_policy=pick(list(ImplicitPolicy)),
            statutory=tuple(self.provision(effect=self.effect(), depth=0, chance=0.6) for _ in range(pick(few))),
            break_glass=tuple(self.provision(effect=self.effect(), depth=0) for _ in range(pick(few))),
        )

    def world(self) -> World:
        simple = self.random.random() < 0.3
        count = self.random.choice([0, 1, 1, 2, 2, 3, 4])
        consents = [self.stored(lineage + 1, simple=simple) for lineage in range(count)]
        return World(consents, self.rules(plain=self.random.random() < 0.4))

    def question(self) -> Question:
        pick = self.random
        purpose = pick.choice([*PURPOSES, "TREAT", "COC"])
        others = [*PARTICIPANTS[:4], *ABROAD, "stranger"]
        return Question(
            actor=Actor(
                organisation=pick.choice(others),
                application=pick.choice(["", "", "c", "r"]),
                on_behalf_of=pick.choice(["", "", "", "a", "b", "abroad"]),
                relays=pick.choice([(), (), ("r",), ("a", "r")]),
            ),
            holder=pick.choice(["r", "c", "b", "stranger"]),
            purpose=purpose,
            action=pick.choice(["access", "access", "disclose"]),
            categories=tuple(pick.sample([*CATEGORIES, "STRANGE"], pick.choice([1, 1, 2, 3]))),
            labels=pick.choice([None, None, tuple(pick.sample(LABELS, pick.randint(0, 2)))]),
            resources=pick.choice([None, None, None, tuple(pick.sample(RESOURCES, pick.randint(1, 2)))]),
            data_period=pick.choice([None, None, self.period()]),
            break_glass="unconscious" if purpose == "BTG" else None,
            supported_obligations=frozenset(pick.choice([[], [], [Obligation.ENFORCE_RESIDUAL]])),
        )

    def now(self) -> int:
        return self.random.choice([0, 5, 10, 15, 20, 29, 30, 45])
