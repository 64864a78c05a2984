"""A small world to put questions in: two versions of a vocabulary, changing groups, random consents and questions.

``World`` holds one person's consents both ways, as the reference reads them and compiled, so that a test can ask both
and compare. ``Draw`` needs only ``random.Random``'s methods: tests drive it from hypothesis or a seed.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property

import cases.reference_policy as reference
from cases import reference_actor
from cases.participants import Directory, asked_of, pack
from cases.recurring_worlds import near, recurring
from cases.reference_authority import Power, borders
from cases.reference_match import effective
from cases.reference_realm import Realm, covered, is_limit
from cases.reference_recurrence import Transfer, end_ms
from consentd.policy.actor import SUBJECT_NUMBER, determine_parties
from consentd.policy.authority import NO_ENDS, Ends
from consentd.policy.codebook import Codebook, PackedQuestion, pack_question
from consentd.policy.compile import Compiled, CompiledRules, compile_consent, compile_rules, decode_rules
from consentd.policy.evaluate import Verdict, decision, evaluate
from consentd.policy.model import (
    LEVELS,
    OPEN_END_MS,
    OPEN_START_MS,
    STILL,
    SUBJECT,
    Actor,
    Combining,
    Consent,
    Decision,
    Effect,
    ImplicitPolicy,
    Kind,
    Membership,
    Obligation,
    Period,
    Provision,
    Question,
    Rules,
    StoredConsent,
)
from consentd.policy.recurrence import Recurrence, Use
from consentd.policy.reduce import reduce_verdict
from consentd.policy.subject import Lineage, encode_subject, with_ended_authority
from consentd.policy.uses import recurrence_of, with_use
from consentd.policy.vocabulary import LEVEL_NUMBERS, Code, Vocabulary
from consentd.statements.authorities import authority_value
from consentd.v1 import statement_pb2 as st


def _code(code: str, parent: str = "", *, implies: bool = True, level: str = "", labels: tuple[str, ...] = ()) -> Code:
    return Code(code=code, name={"en": code}, parent=parent, implies=implies, level=level, labels=labels)


EARLIER = Vocabulary(
    id="small",
    version=6,
    purposes=(
        _code("TREAT"), _code("COC", "TREAT"), _code("ETREAT", "TREAT"), _code("BTG", "ETREAT", implies=False),
        _code("HRESCH"), _code("POARCH", "HRESCH", implies=False), _code("HMARKT", implies=False),
    ),
    categories=(
        _code("CLIN"), _code("CLIN.A", "CLIN", level="N"), _code("CLIN.B", "CLIN", level="R"),
        _code("CLIN.C", "CLIN", implies=False, level="N"), _code("GEN", level="R"),
        _code("SENS"), _code("SENS.A", "SENS", level="R", labels=("HIV",)),
        _code("SENS.B", "SENS", level="V", labels=("HIV", "ETHUD")),
        _code("MIX"), _code("MIX.A", "MIX", level="M", labels=("SUD",)), _code("MIX.B", "MIX", level="U"),
    ),
    actions=(_code("access"), _code("disclose"), _code("collect"), _code("correct", implies=False)),
    labels=(_code("SUD"), _code("ETHUD", "SUD"), _code("OPIOIDUD", "SUD", implies=False), _code("HIV")),
    legal_bases=(_code("STATUTE", implies=False),),
)  # fmt: skip
"""The version in force until the entry ``PUBLISHED``."""

VOCABULARY = Vocabulary(
    id="small",
    version=7,
    purposes=(*EARLIER.purposes, _code("ERTREAT", "ETREAT"), _code("DSRCH", "HRESCH"), _code("PUBHLTH")),
    categories=(
        *EARLIER.categories, _code("CLIN.D", "CLIN", level="N"), _code("SENS.C", "SENS", level="N"),
        _code("LIFE", level="N"),
    ),
    actions=(*EARLIER.actions, _code("use")),
    labels=(*EARLIER.labels, _code("CANNUD", "SUD"), _code("MH")),
    legal_bases=(*EARLIER.legal_bases, _code("COURT", implies=False)),
)  # fmt: skip
"""The version in force. It adds codes below old parents, and codes without parents."""

PUBLISHED = 100
VOCABULARIES = ((0, EARLIER), (PUBLISHED, VOCABULARY))
PARTICIPANTS = ("a", "b", "c", "r", "group/g", "group/h", "abroad")
ACTORS = (*PARTICIPANTS, SUBJECT, "left")
LEFT = ("left",)
"""A participant that is not active."""
BLIND = ("b", "r", "stranger")
"""Participants without the right SEE_REASONS."""

NUMBERS = {name: index + 1 for index, name in enumerate((*PARTICIPANTS, "stranger", *LEFT))}
NUMBERS[SUBJECT] = SUBJECT_NUMBER
Memberships = Mapping[str, Sequence[Membership]]
MEMBERSHIPS: Memberships = {
    "a": (Membership("group/g", 0, 60), Membership("group/g", 140), Membership("group/h", 0, 20)),
    "b": (Membership("group/g", 20, 120), Membership("group/h", 60)),
    "c": (Membership("group/g", 150),),
    "r": (Membership("group/h", 0, 90), Membership("group/h", 140)),
    "left": (Membership("group/g"),),
    "abroad": (Membership("group/g"),),
}
SINCE = [0, 20, 59, 60, 90, 119, 120, 139, 140, 150, 199]
"""Leaf indexes at which consents and rules are given: beside those at which memberships and the vocabulary change."""

ABROAD = ("abroad",)
CODEBOOK = Codebook(VOCABULARY, NUMBERS, MEMBERSHIPS, abroad=ABROAD)
CATEGORIES = [code.code for code in VOCABULARY.categories]
LABELS = [code.code for code in VOCABULARY.labels]
RESOURCES = ["Observation/1", "Observation/2", "Condition/1"]
INSTANTS = [0, 10, 20, 30, 40]
BIRTH_DATES = ("2012-02-29", "2012-02-28", "2012-03-01", "2008-02-29", "2011-12-31", "2013-01-01", "2084-02-29")
RESIDUAL = frozenset({Obligation.ENFORCE_RESIDUAL})
WORDS = "unconscious, no relative reached"


def always(groups: Mapping[str, set[str]]) -> Memberships:
    """Return the memberships of participants that always were in these groups."""
    return {name: [Membership(group) for group in sorted(members)] for name, members in groups.items()}


@dataclass
class World:
    """A person's consents, the realm's rules, and what both sides make of them.

    Attributes:
        since: leaf index of the entry with the rules.
        earlier_levels: (leaf index, normal level) of each version of the rules before that entry.
        enrolled: whether the person is enrolled.
        blind: participants without the right SEE_REASONS.
        powers: the authorities that consents rest on, by the seq of their entries.
        campaigns: of each version of a notice, the instant by which it asks for new consents; 0: it does not. The
            number of a version is its place, from 1.
        transfers: those that consents which recur have permitted so far, oldest first.
        given_ms: when the consents were given, by lineage.
        vocabularies: (leaf index, version) of each version. Consents are compiled with the one that was in force.
            The reader may know the earlier ones alone: what was given under a later one is then not readable.
        memo: what a compiled consent depends on, the consent by its ``id`` → the consent, and compiled. A world that is
            a changed copy of another shares its memo, so *numbers* are never changed in a copy.
    """

    consents: list[StoredConsent] = field(default_factory=list)
    rules: Rules = field(default_factory=Rules)
    codebook: Codebook = CODEBOOK
    numbers: dict[str, int] = field(default_factory=lambda: NUMBERS)
    memberships: Memberships = field(default_factory=lambda: MEMBERSHIPS)
    vocabularies: Sequence[tuple[int, Vocabulary]] = ()
    since: int = STILL - 1
    earlier_levels: Sequence[tuple[int, str]] = ()
    enrolled: bool = True
    blind: Sequence[str] = BLIND
    powers: Mapping[int, Power] = field(default_factory=dict)
    campaigns: Sequence[int] = ()
    transfers: Sequence[Transfer] = ()
    given_ms: Mapping[int, int] = field(default_factory=dict)
    memo: dict[tuple[int, int, bool, int, int, Ends, Recurrence | None], tuple[Consent, Compiled]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def vocabulary(self) -> Vocabulary:
        return self.codebook.vocabulary

    @cached_property
    def realm(self) -> Realm:
        known = [one for one in self.vocabularies if one[1].version <= self.vocabulary.version]
        return Realm(
            known or ((0, self.vocabulary),), self.rules, self.since, self.earlier_levels, self.memberships, ABROAD
        )

    def vocabulary_at(self, since: int) -> Vocabulary:
        return Realm(self.vocabularies or ((0, self.vocabulary),)).vocabulary_at(since)

    @cached_property
    def value(self) -> bytes | None:
        if not self.enrolled:
            return None
        newest = {one.lineage: one for one in sorted(self.consents, key=lambda one: one.version)}
        value = encode_subject(
            Lineage(
                one.lineage, one.seq, one.version, one.paused, self._compiled_consent(one), self._rests_on(one),
                one.notice,
            )
            for one in newest.values()
        )
        for number, one in enumerate(self.transfers, 1):
            value = with_use(value, one.lineage, self._use(one, number), one.time_ms) if value else value
        for seq, power in self.powers.items():
            if value and power.ended_ms != OPEN_END_MS:
                value = with_ended_authority(value, seq, power.ended_ms)
        return value

    def _rests_on(self, stored: StoredConsent) -> int:
        """Return the authority on which the permits of a consent rest; 0: none, or they do not end with it."""
        return 0 if not stored.authority or self.powers[stored.authority].lasts else stored.authority

    def _compiled_consent(self, stored: StoredConsent) -> Compiled:
        given, level = self.vocabulary_at(stored.since), LEVEL_NUMBERS[self.realm.normal_level_at(stored.since)]
        rests_on = self._rests_on(stored)
        ends = ends_of(self.powers[rests_on]) if rests_on else NO_ENDS
        recurrence = recurrence_of(stored.consent, None, self.given_ms.get(stored.lineage, 0))
        key = id(stored.consent), stored.since, stored.readable, given.version, level, ends, recurrence
        if key not in self.memo:
            made = compile_consent(
                stored, given, self.numbers, normal_level=level, ends=ends, recurrence=recurrence
            )
            self.memo[key] = stored.consent, made
        return self.memo[key][1]

    def _use(self, one: Transfer, number: int) -> Use:
        (consent,) = (stored.consent for stored in self.consents if stored.lineage == one.lineage)
        start_ms = consent.root.start_ms or self.given_ms.get(one.lineage, 0)
        until_ms = end_ms(consent.recurrence, start_ms, one.time_ms) or OPEN_END_MS
        mask = sum(self.vocabulary.category.bits[code] for code in one.categories)
        return Use(self.numbers[one.holder], until_ms, number, mask)

    @cached_property
    def compiled(self) -> CompiledRules:
        given = self.realm.vocabulary_at(self.since)
        compiled = compile_rules(self.rules, given, self.numbers, since=self.since)
        compiled = compiled if given is self.vocabulary else decode_rules(compiled.encoded, self.vocabulary)
        later = {number: [at for at in self.campaigns[number:] if at] for number in range(1, len(self.campaigns))}
        return replace(compiled, campaigns={number: min(instants) for number, instants in later.items() if instants})

    def compiled_answer(self, question: Question, now_ms: int, caller: str | None = None) -> Decision:
        """Answer a question of *caller* (by default the organisation), where delegations show all names."""
        return self._decision(self.packed(question, caller), now_ms)

    def packed(self, question: Question, caller: str | None = None) -> PackedQuestion:
        """Pack a question as ``compiled_answer`` does."""
        return pack(question, self.codebook, caller=caller or asker(question), left=LEFT, blind=self.blind)

    def reference_answer(self, question: Question, now_ms: int, caller: str | None = None) -> Decision:
        """Answer as ``compiled_answer`` does, by the reference."""
        return self._reference(question, now_ms, self.who(question, caller))

    def who(self, question: Question, caller: str | None = None) -> reference_actor.Who:
        """Say who asks, as ``reference_answer`` does."""
        caller = caller or asker(question)
        seeing = [name for name in self.numbers if name not in self.blind]
        return reference_actor.stated(question, caller, LEFT, seeing)

    def shown_answers(self, question: Question, now_ms: int, caller: str) -> tuple[Decision, Decision]:
        """Return what *caller* gets ("One answer"), by the evaluator and by the reference."""
        packed = self.packed(question, caller)
        verdict = self.verdict(packed, now_ms)
        if not packed.parties.sees_reasons:
            verdict = reduce_verdict(verdict, packed)
        meant = self.reference_answer(question, now_ms, caller)
        if not self.who(question, caller).sees_reasons:
            meant = reference.reduced(meant, self.vocabulary)
        return decision(verdict, packed, self.codebook, self.compiled), meant

    def answer_to(self, question: Question, now_ms: int, directory: Directory, caller: str | None) -> Decision:
        """Answer a question of *caller*, whom *directory* must let ask it. Raises ``DeniedError``."""
        parties = determine_parties(directory, asked_of(question, caller), now_ms)
        return self._decision(pack_question(question, self.codebook, parties), now_ms)

    def reference_answer_to(
        self, question: Question, now_ms: int, directory: Directory, caller: str | None
    ) -> Decision:
        """Answer as ``answer_to`` does, by the reference."""
        given = list(directory.delegations)
        return self._reference(
            question, now_ms, reference_actor.who(question, caller, directory.participants, given, now_ms)
        )

    def verdict(self, packed: PackedQuestion, now_ms: int) -> Verdict:
        """Answer a question that was packed with this world's codebook."""
        return evaluate(self.value, packed, self.compiled, now_ms)

    def _decision(self, packed: PackedQuestion, now_ms: int) -> Decision:
        return decision(self.verdict(packed, now_ms), packed, self.codebook, self.compiled)

    def uses(self, question: Question, now_ms: int, caller: str) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
        """Return the consents that a transfer would use up, with the categories, by both sides."""
        meant: dict[int, set[str]] = {}
        self._reference(question, now_ms, self.who(question, caller), meant)
        found = self.verdict(self.packed(question, caller), now_ms).uses
        return {lineage: set(self.codebook.codes(mask)) for lineage, mask, _ in found}, meant

    def _reference(
        self, question: Question, now_ms: int, who: reference_actor.Who, uses: dict[int, set[str]] | None = None
    ) -> Decision:
        read = [
            replace(one, readable=one.readable and self.vocabulary_at(one.since).version <= self.vocabulary.version)
            for one in self.consents
        ]
        return reference.decide(
            question, read, self.realm, now_ms=now_ms, who=who, enrolled=self.enrolled, powers=self.powers,
            campaigns=self.campaigns, transfers=self.transfers, given_ms=self.given_ms, uses=uses,
        )  # fmt: skip


def ends_of(power: Power) -> Ends:
    """Return the ends of an authority as the table has them, before the authority is ended by an entry."""
    message = st.AuthorityStatement(
        participant_id="guardian",
        reason=st.AUTHORITY_REASON_UNSPECIFIED if power.born is None else st.AUTHORITY_REASON_MINOR,
        birth_date="" if power.born is None else power.born.isoformat(),
        end_time_ms=0 if power.end_ms == OPEN_END_MS else power.end_ms,
    )
    return authority_value(message, time_ms=0).ends


def asker(question: Question) -> str:
    """Return who asks a question: the organisation if it can, else the holder, or somebody with a delegation."""
    names = (question.actor.organisation, question.holder, "stranger")
    return next(name for name in names if name not in (*LEFT, SUBJECT))


def comparable(decision: Decision) -> tuple[object, ...]:
    """All of a decision that both sides must agree on; reasons as a set, the residual by what it covers (elsewhere)."""
    return (
        decision.outcome, decision.permitted, decision.denied, decision.without_consent, decision.unknown,
        frozenset(decision.reasons), decision.obligations, decision.valid_until_ms, decision.combining,
        decision.labels, decision.level,
    )  # fmt: skip


def kind_of(decision: Decision) -> str:
    """Return the kind of an answer: residual, permit, deny, none, or other (some of each, or unknown)."""
    if Obligation.ENFORCE_RESIDUAL in decision.obligations:
        return "residual"
    return {"PERMIT": "permit", "PARTIAL": "permit", "DENY": "deny", "NO_CONSENT": "none"}.get(
        decision.outcome.name, "other"
    )


class Draw:
    """Random values of the small world. *windows*: how likely a provision has a period of validity."""

    def __init__(self, random: random.Random, *, windows: float = 0.15) -> None:
        self.random, self.windows = random, windows

    def some(self, codes: Sequence[str], chance: float, most: int = 2) -> tuple[str, ...]:
        """Absent mostly, else ``*`` or one to ``most`` codes."""
        if self.random.random() >= chance:
            return ()
        if self.random.random() < 0.1:
            return ("*",)
        return tuple(self.random.sample(codes, self.random.randint(1, most)))

    def period(self) -> Period:
        start, end = sorted(self.random.sample(INSTANTS, 2))
        return Period(start if self.random.random() < 0.6 else 0, end if self.random.random() < 0.8 else OPEN_END_MS)

    def data_period(self) -> Period:
        """Draw the time that data are about: before 1970 too, but no bound at its first instant."""
        start, end = sorted(self.random.sample([-15, -5, 5, 15, 25], 2))
        chance = self.random.random()
        return Period(OPEN_START_MS if chance < 0.2 else start, OPEN_END_MS if chance > 0.8 else end)

    def provision(
        self, *, effect: Effect | None, depth: int, chance: float = 0.35, vocabulary: Vocabulary = VOCABULARY
    ) -> Provision:
        window = self.period() if self.random.random() < self.windows else Period(0)
        children = self.random.randint(0, 3) if depth and self.random.random() < 0.6 else 0
        codes = {
            name: [code.code for code in getattr(vocabulary, name)]
            for name in ("purposes", "categories", "actions", "labels")
        }
        return Provision(
            effect=effect,
            actors=self.some(ACTORS, chance),
            holders=self.some(["r", "c", "group/h"], chance / 2),
            purposes=self.some(codes["purposes"], chance),
            categories=self.some(codes["categories"], chance),
            actions=self.some(codes["actions"], chance / 3),
            labels=self.some(codes["labels"], chance / 2, 3),
            resources=self.some(RESOURCES, chance / 3),
            level=self.random.choice(LEVELS) if self.random.random() < chance / 2 else "",
            start_ms=window.start_ms,
            end_ms=window.end_ms,
            data_period=self.random.choice([self.data_period()] * 7 + [Period()])
            if self.random.random() < chance / 3
            else None,
            children=tuple(
                self.provision(
                    effect=self.random.choice([None, None, Effect.DENY, Effect.PERMIT, Effect.PERMIT]), depth=depth - 1,
                    vocabulary=vocabulary,
                )
                for _ in range(children)
            ),
        )  # fmt: skip

    def effect(self) -> Effect:
        return self.random.choice([*[Effect.PERMIT] * 8, Effect.DENY])

    def stored(self, lineage: int, *, simple: bool = False, since: Sequence[int] = SINCE) -> StoredConsent:
        since_leaf = self.random.choice(since)
        depth = 0 if simple or self.random.random() < 0.4 else self.random.randint(1, 3)
        vocabulary = VOCABULARY if since_leaf >= PUBLISHED else EARLIER
        root = self.provision(effect=self.effect(), depth=depth, vocabulary=vocabulary)
        if simple:
            alone = {"actors": root.actors[:1], "holders": root.holders[:1], "labels": (), "resources": ()}
            root = replace(root, data_period=None, level="", **alone)
        seq = lineage + self.random.choice([0, 0, 10])
        consent = Consent(kind=Kind.CONSENT, root=root)
        if not simple:
            kind = self.random.choice([Kind.CONSENT] * 8 + [Kind.STATUTORY])
            consent = replace(consent, kind=kind, policy=self.policy(root) if kind is Kind.CONSENT else None)
        odd = not simple and self.random.random() < 0.15
        return StoredConsent(
            lineage, seq, 1 + (seq != lineage), consent, since=since_leaf,
            paused=odd and self.random.random() < 0.7, readable=not (odd and self.random.random() < 0.4),
        )  # fmt: skip

    def policy(self, root: Provision) -> ImplicitPolicy | None:
        """Draw the implicit policy of a consent: under a root that denies, only DENY or BREAK_GLASS_ONLY."""
        if self.random.random() < 0.7:
            return None
        only_denies = [ImplicitPolicy.DENY, ImplicitPolicy.BREAK_GLASS_ONLY]
        return self.random.choice(only_denies if root.effect is Effect.DENY else list(ImplicitPolicy))

    def rules(self, *, plain: bool = False, vocabulary: Vocabulary = VOCABULARY) -> Rules:
        if plain:
            return Rules()
        few = [0, 0, 0, 1, 2]
        pick = self.random.choice
        return Rules(
            combining=pick([*Combining, Combining.PERMIT_OVERRIDES, Combining.PERMIT_UNLESS_DENY]),
            implicit_policy=pick([*ImplicitPolicy, ImplicitPolicy.ALL_NORMAL, ImplicitPolicy.BASIC_NORMAL]),
            normal_level=pick(LEVELS),
            statutory=tuple(
                self.provision(effect=self.effect(), depth=0, chance=0.6, vocabulary=vocabulary)
                for _ in range(pick(few))
            ),
            break_glass=tuple(
                self.provision(effect=self.effect(), depth=0, vocabulary=vocabulary) for _ in range(pick(few))
            ),
        )

    def world(self, *, since: Sequence[int] = SINCE) -> World:
        """Draw a world in which consents and rules are given at leaf indexes of *since*."""
        simple, since_leaf = self.random.random() < 0.3, self.random.choice(since)
        count = self.random.choice([0, *[1] * 10, *[2] * 10, 3, 4, 5])
        consents = [self.stored(lineage + 1, simple=simple, since=since) for lineage in range(count)]
        vocabulary = VOCABULARY if since_leaf >= PUBLISHED else EARLIER
        rules = self.rules(plain=self.random.random() < 0.4, vocabulary=vocabulary)
        earlier = [(0, self.random.choice(LEVELS))]
        return World(consents, rules, vocabularies=VOCABULARIES, since=since_leaf, earlier_levels=earlier)

    def represented(self, world: World) -> World:
        """Return a world like *world*, in which representatives gave most consents under one or two authorities."""
        pick = self.random
        powers = {seq: self.power() for seq in range(1, pick.choice([2, 3]))}
        consents = [
            replace(one, authority=pick.choice([0, *powers, *powers]))
            if one.readable and one.consent.kind is not Kind.STATUTORY else one
            for one in world.consents
        ]  # fmt: skip
        return replace(world, consents=consents, powers=powers)

    def asked_again(self, world: World) -> World:
        """Return a world like *world*, in which most consents name versions of a notice that ask for new consents."""
        pick = self.random
        instants = [one + by for one in INSTANTS for by in (-1, 0, 1) if one + by > 0]
        campaigns = [0, *(pick.choice([0, *[pick.choice(instants)] * 3]) for _ in range(pick.choice([1, 2])))]
        consents = [
            replace(one, notice=pick.choice([0, *range(1, len(campaigns) + 1), 1, 1]))
            if one.readable and one.consent.kind is not Kind.STATUTORY else one
            for one in world.consents
        ]  # fmt: skip
        return replace(world, consents=consents, campaigns=campaigns)

    def power(self) -> Power:
        """Draw an authority: mostly of a minor; one in three has a stated end, one in three ended, one in ten lasts."""
        pick = self.random
        power = Power(born=date.fromisoformat(pick.choice(BIRTH_DATES)) if pick.random() < 0.8 else None)
        instants = [one + by for one in (*borders(power), *INSTANTS) for by in (-1, 0, 1) if one + by > 0]
        stated, ended = (pick.choice([OPEN_END_MS, OPEN_END_MS, pick.choice(instants)]) for _ in range(2))
        return replace(power, end_ms=stated, ended_ms=ended, lasts=pick.random() < 0.1)

    def recurring(self, world: World) -> World:
        """Return a world like *world*, in which most consents recur (``recurring_worlds``)."""
        return recurring(self.random, world)

    def any_world(self) -> World:
        """Draw a world, in one of twenty of a person who is not enrolled."""
        world = self.world()
        return world if self.random.random() < 0.95 else replace(world, consents=[], enrolled=False)

    def question(self, world: World | None = None) -> Question:
        """Draw a question. With a world it is mostly about one of the world's provisions, so that this one matches."""
        pick = self.random
        purpose = pick.choice([*(code.code for code in VOCABULARY.purposes), "TREAT", "COC"])
        organisation = pick.choice([*PARTICIPANTS[:4] * 6, *ABROAD * 2, "stranger", SUBJECT, *LEFT])
        asked = Question(
            actor=Actor(
                organisation=organisation,
                application=pick.choice(["", "", "c", "r"]),
                on_behalf_of=pick.choice([*[""] * 16, "a", "b", "b", *ABROAD, *LEFT]),
                relays=pick.choice([(), (), ("r",), ("a", "r")]),
            ),
            holder=pick.choice(
                [*["r"] * 10, *["c"] * 6, "b", "b", "stranger", *(LEFT if organisation not in LEFT else ())]
            ),
            purpose=purpose,
            action=pick.choice([code.code for code in VOCABULARY.actions]),
            categories=tuple(pick.sample([*CATEGORIES, "STRANGE"], pick.choice([1, 1, 2, 3]))),
            labels=pick.choice([None, None, tuple(pick.sample(LABELS, pick.randint(0, 2)))]),
            level=pick.choice(["", "", *LEVELS]),
            resources=pick.choice([None, None, None, tuple(pick.sample(RESOURCES, pick.randint(1, 2)))]),
            data_period=pick.choice([None, None, self.data_period()]),
            supported_obligations=pick.choice([frozenset(), RESIDUAL, RESIDUAL]),
        )
        if world and pick.random() < 0.99:
            asked = self.about(world, asked)
        if world and world.transfers and pick.random() < 0.7:
            asked = replace(asked, action="collect", holder=pick.choice(world.transfers).holder)
        return replace(asked, break_glass=WORDS if asked.purpose == "BTG" else None)

    def about(self, world: World, asked: Question) -> Question:
        """Change a question so that it meets most limits of one of the world's provisions."""
        pick, rules = self.random, world.rules
        roots = [(stored.consent.root, stored.since) for stored in world.consents if not stored.paused]
        roots += [(rule, world.since) for rule in rules.statutory]
        roots += [(replace(rule, purposes=("BTG",)), world.since) for rule in rules.break_glass]
        if not roots:
            return asked
        permits = [one for one in roots if one[0].effect is Effect.PERMIT]
        node, since = pick.choice(permits if permits and pick.random() < 0.8 else roots)
        while node.children and pick.random() < 0.6:
            node = effective(pick.choice(node.children), node)
        given = world.realm.vocabulary_at(since)
        codes = {
            name: sorted(covered(getattr(given, name), getattr(node, name)))
            for name in ("purposes", "categories", "actions")
        }
        if pick.random() < 0.7:  # labels of a category keep most permits from matching
            plain = [code for code in codes["categories"] if code.partition(".")[0] not in ("SENS", "MIX")]
            codes["categories"] = plain or codes["categories"]
        actors = [name for name in node.actors if name in NUMBERS and "/" not in name and name not in LEFT]
        period = node.data_period
        return replace(
            asked,
            actor=replace(asked.actor, organisation=pick.choice(actors), on_behalf_of="") if actors else asked.actor,
            holder=pick.choice([name for name in node.holders if "/" not in name and name != "*"] or [asked.holder]),
            purpose=pick.choice(codes["purposes"] or [asked.purpose]),
            action=pick.choice(codes["actions"] or [asked.action]),
            categories=tuple(pick.sample(codes["categories"], min(len(codes["categories"]), pick.choice([1, 2]))))
            or asked.categories,
            labels=pick.choice([None, None, node.labels[:1] if is_limit(node.labels) else ()]),
            level=pick.choice(["", "", node.level if node.effect is Effect.PERMIT else ""]),
            resources=pick.choice([None, node.resources[:1]]) if is_limit(node.resources) else None,
            data_period=pick.choice([None, Period(period.start_ms, period.start_ms + 1)]) if period else None,
        )

    def caller(self, question: Question) -> str:
        """Draw who asks: mostly the organisation, else the holder or somebody with a delegation."""
        actor = question.actor
        able = [actor.organisation] * 8 + [question.holder] * 3 + ["c", "stranger"]
        return self.random.choice([name for name in able if name not in (*LEFT, SUBJECT)])

    def now(self, world: World | None = None) -> int:
        """Draw an instant: mostly one beside the end of an authority, a campaign or a period, if *world* has any."""
        if world is not None and world.given_ms:
            one = self.random.choice(world.consents)
            start_ms = one.consent.root.start_ms or world.given_ms[one.lineage]
            now_ms = near(self.random, one.consent.recurrence or "once", start_ms)
            return max(now_ms, *(one.time_ms for one in world.transfers), 0)
        instants = [] if world is None else [at for one in world.powers.values() for at in borders(one)]
        instants += [] if world is None else [at for at in world.campaigns if at]
        if instants and self.random.random() < 0.8:
            return max(0, self.random.choice(instants) + self.random.choice([-1, -1, -1, 0, 1]))
        return self.random.choice([0, 5, 10, 10, 15, 15, 20, 20, 29, 30, 45])
