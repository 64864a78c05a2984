"""What laws of a decision are tried on (``policy_laws``): a drawn world with consents to add, and questions about it.

All laws share scenes and cases, so what they need of these is drawn, compiled and answered once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from cases.participants import pack
from cases.policy_worlds import (
    BLIND,
    CATEGORIES,
    EARLIER,
    LEFT,
    PUBLISHED,
    SINCE,
    VOCABULARIES,
    VOCABULARY,
    Draw,
    World,
)
from consentd.policy.codebook import Codebook, PackedQuestion
from consentd.policy.evaluate import Verdict, decision
from consentd.policy.model import (
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Provision,
    Question,
    Rules,
    StoredConsent,
)


class Case:
    """A question of one caller at one instant. What a world answers is computed once."""

    def __init__(self, question: Question, now_ms: int, caller: str) -> None:
        self.question, self.now_ms, self.caller = question, now_ms, caller
        # By the id of a codebook or a world, which the values keep from being used again.
        self._packed: dict[int, tuple[Codebook, PackedQuestion]] = {}
        self._verdicts: dict[int, tuple[World, Verdict]] = {}

    def packed(self, world: World) -> PackedQuestion:
        codebook = world.codebook
        found = self._packed.get(id(codebook))
        if found is None:
            found = codebook, pack(self.question, codebook, caller=self.caller, left=LEFT, blind=BLIND)
            self._packed[id(codebook)] = found
        return found[1]

    def verdict(self, world: World) -> Verdict:
        found = self._verdicts.get(id(world))
        if found is None:
            found = world, world.verdict(self.packed(world), self.now_ms)
            self._verdicts[id(world)] = found
        return found[1]

    def answer(self, world: World) -> Decision:
        return decision(self.verdict(world), self.packed(world), world.codebook, world.compiled)

    @cached_property
    def silent(self) -> "Case":
        """The same of a caller who enforces no residual."""
        return self.about(supported_obligations=frozenset()) if self.question.supported_obligations else self

    def about(self, **changes: object) -> "Case":
        """Return a case with another question."""
        return Case(replace(self.question, **changes), self.now_ms, self.caller)  # type: ignore[arg-type]

    def at(self, now_ms: int) -> "Case":
        return Case(self.question, now_ms, self.caller)


@dataclass(eq=False)
class Scene:
    """A drawn world, and consents that it does not have: one of denies alone, one of permits alone, and any one."""

    world: World
    deny: StoredConsent
    permit: StoredConsent
    other: StoredConsent

    @cached_property
    def with_deny(self) -> World:
        return changed(self.world, consents=[*self.world.consents, self.deny])

    @cached_property
    def with_permit(self) -> World:
        return changed(self.world, consents=[*self.world.consents, self.permit])

    @property
    def older(self) -> World:
        """The world without what was given under the vocabulary in force, and with further consents given before."""
        further = (replace(one, lineage=at, seq=at) for at, one in enumerate((self.deny, self.permit, self.other), 97))
        consents = [one for one in (*self.world.consents, *further) if one.since < PUBLISHED]
        older = changed(self.world, consents=consents)
        return older if older.since < PUBLISHED else changed(older, rules=Rules(), since=0)

    def cases(self, draw: Draw, count: int) -> Iterator[Case]:
        """Draw questions, mostly about the world, else about one of the further consents.

        Some ask for one category more, so that an answer permits some of what is asked for.
        """
        pick = draw.random
        others = [World([one], vocabularies=VOCABULARIES) for one in (self.deny, self.permit, self.other)]
        for _ in range(count):
            question = draw.question(pick.choice([*[self.world] * 4, others[0], *[others[1]] * 3, others[2]]))
            if pick.random() < 0.85:
                more = pick.choice(CATEGORIES)
                question = replace(question, categories=tuple(dict.fromkeys((*question.categories, more))))
            yield Case(question, draw.now(), draw.caller(question))


def draw_scene(draw: Draw) -> Scene:
    pick = draw.random
    since = [one for one in SINCE if one < PUBLISHED] if pick.random() < 0.3 else SINCE
    timed = Draw(pick, windows=pick.choice([0.3, 0.7, 0.9]))
    normal = (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)
    return Scene(
        timed.world(since=since),
        deny=another(timed, Effect.DENY, (None, None, ImplicitPolicy.DENY)),
        permit=another(timed, Effect.PERMIT, (None, None, *normal)),
        other=replace(timed.stored(99), readable=True),
    )


def only(provision: Provision, effect: Effect) -> Provision:
    return replace(provision, effect=effect, children=tuple(only(child, effect) for child in provision.children))


def another(draw: Draw, effect: Effect, policies: tuple[ImplicitPolicy | None, ...]) -> StoredConsent:
    """Draw a consent that no drawn world has, of provisions with one effect."""
    kind = draw.random.choice([Kind.CONSENT, Kind.CONSENT, Kind.CONSENT, Kind.STATUTORY])
    policy = draw.random.choice(policies) if kind is Kind.CONSENT else None
    since = draw.random.choice(SINCE)
    vocabulary = VOCABULARY if since >= PUBLISHED else EARLIER
    root = only(draw.provision(effect=effect, depth=2, chance=0.2, vocabulary=vocabulary), effect)
    return StoredConsent(99, 99, 1, Consent(kind=kind, root=root, policy=policy), since=since)


def changed(world: World, **changes: object) -> World:
    return replace(world, **changes)  # type: ignore[arg-type]
