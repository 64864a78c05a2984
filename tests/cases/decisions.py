"""Read the decisions of ``tests/decisions``, and answer each by the reference and by the evaluator.

The files are for any program in any language; their README explains the keys. Nothing here knows a rule.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import cases.reference_policy as reference
from cases import reference_actor
from cases.participants import Directory, Party, asked_of
from cases.policy_worlds import ends_of
from cases.reference_authority import Power
from cases.reference_realm import Realm
from cases.reference_recurrence import Transfer, end_ms
from consentd.policy import evaluate, model
from consentd.policy.actor import SUBJECT_NUMBER, Right, Role, determine_parties
from consentd.policy.authority import NO_ENDS
from consentd.policy.codebook import Codebook, pack_question
from consentd.policy.compile import compile_consent, compile_rules, decode_rules
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import Decision, Effect, Membership, Obligation, Outcome, Period, ReasonCode, StoredConsent
from consentd.policy.recurrence import Use
from consentd.policy.reduce import reduce_verdict
from consentd.policy.subject import with_consent, with_ended_authority
from consentd.policy.uses import recurrence_of, with_use
from consentd.policy.vocabulary import LEVEL_NUMBERS, Code, Vocabulary

FOLDER = Path(__file__).resolve().parent.parent / "decisions"
FILES = sorted(file for file in FOLDER.glob("*.toml") if file.name != "world.toml")
LISTS = ("actors", "holders", "purposes", "categories", "actions", "labels", "resources")
SINCE, RULES_SINCE = 10, 5  # leaf indexes of consents and of the realm's rules, where a row states no other
Row = dict[str, Any]


def rows(table: str) -> list[Row]:
    """Return the rows of all files (``decision``, ``consent`` or ``vocabulary``), each with the name of its file."""
    return [
        {**row, "file": file.stem} for file in FILES for row in tomllib.loads(file.read_text()).get(table, ())
    ]


def read_vocabulary(file: str, change: Row | None = None) -> Vocabulary:
    """Read a version of the vocabulary, changed as a row says. Names for people are left out of the file."""
    read = json.loads((FOLDER / file).read_text())
    for name, codes in (change or {}).items():
        by_code = {one["code"]: one for one in read[name]}
        for one in codes:
            by_code[one["code"]] = {**by_code.get(one["code"], {}), **one}
        read[name] = list(by_code.values())
    lists = {
        name: tuple(
            Code(
                code=one["code"], name={"en": one["code"]}, parent=one.get("parent", ""),
                implies=one.get("implied", True), level=one.get("level", ""), labels=tuple(one.get("labels", ())),
            )
            for one in read[name]
        )
        for name in ("purposes", "categories", "actions", "labels")
    }  # fmt: skip
    return Vocabulary(id=read["id"], version=read["version"], **lists)


@dataclass(frozen=True)
class Base:
    """The world of all rows (world.toml)."""

    now_ms: int
    asked: Row
    participants: Mapping[str, Party]
    abroad: frozenset[str]
    memberships: Sequence[Row]
    vocabularies: Sequence[tuple[int, Vocabulary]]


def read_base() -> Base:
    read = tomllib.loads((FOLDER / "world.toml").read_text())
    parties = {
        one["id"]: Party(
            one.get("active", True), frozenset(int(Role[role]) for role in one["roles"]),
            frozenset(int(Right[right]) for right in one.get("rights", ())),
        )
        for one in read["participant"]
    }  # fmt: skip
    return Base(
        now_ms=read["now"], asked=read["question"], participants=parties,
        abroad=frozenset(one["id"] for one in read["participant"] if one.get("abroad")),
        memberships=read["membership"],
        vocabularies=[(one["from"], read_vocabulary(one["file"])) for one in read["vocabularies"]],
    )  # fmt: skip


BASE = read_base()


def period(read: Row | None) -> Period | None:
    if read is None:
        return None
    return Period(read.get("start", model.OPEN_START_MS), read.get("end", model.OPEN_END_MS))


def provision(read: Row) -> model.Provision:
    window = read.get("period", {})
    return model.Provision(
        effect=Effect[read["effect"].upper()] if "effect" in read else None,
        level=read.get("level", ""), data_period=period(read.get("data_period")),
        start_ms=window.get("start", 0), end_ms=window.get("end", model.OPEN_END_MS),
        children=tuple(map(provision, read.get("children", ()))),
        **{name: tuple(read.get(name, ())) for name in LISTS},
    )  # fmt: skip


def consent(read: Row) -> model.Consent:
    policy = read.get("policy")
    return model.Consent(
        kind=model.Kind[read.get("kind", "CONSENT")], root=provision(read["root"]),
        policy=model.ImplicitPolicy[policy] if policy else None, legal_basis=read.get("legal_basis", ""),
        recurrence=read.get("recurrence", ""),
    )  # fmt: skip


def stored(read: Row, place: int) -> StoredConsent:
    """Return a consent of a row; *place* counts from 1, and is its lineage where it states none."""
    lineage = read.get("lineage", place)
    return StoredConsent(
        lineage, read.get("seq", lineage), read.get("version", 1), consent(read), paused=read.get("paused", False),
        readable=read.get("readable", True), since=read.get("since", SINCE),
        authority=lineage if "authority" in read else 0, notice=read.get("notice", 0),
    )  # fmt: skip


def power(read: Row) -> Power:
    return Power(
        born=date.fromisoformat(read["born"]) if "born" in read else None, end_ms=read.get("end", model.OPEN_END_MS),
        ended_ms=read.get("ended", model.OPEN_END_MS), lasts=read.get("lasts", False),
    )  # fmt: skip


def rules(read: Row) -> model.Rules:
    defaults = model.Rules()
    return model.Rules(
        combining=model.Combining[read.get("combining", defaults.combining.name)],
        implicit_policy=model.ImplicitPolicy[read.get("implicit_policy", defaults.implicit_policy.name)],
        normal_level=read.get("normal_level", defaults.normal_level),
        statutory=tuple(map(provision, read.get("statutory", ()))),
        break_glass=tuple(map(provision, read.get("break_glass", ()))),
    )


def question(read: Row) -> model.Question:
    actor = model.Actor(
        organisation=read["organisation"], application=read.get("application", ""),
        on_behalf_of=read.get("on_behalf_of", ""), relays=tuple(read.get("relays", ())),
    )  # fmt: skip
    optional = {name: tuple(read[name]) for name in ("labels", "resources") if name in read}
    return model.Question(
        actor=actor, holder=read["holder"], purpose=read["purpose"], action=read["action"],
        categories=tuple(read["categories"]), level=read.get("level", ""), data_period=period(read.get("data_period")),
        break_glass=read.get("break_glass"), **optional,
        supported_obligations=frozenset(Obligation[name] for name in read.get("supported_obligations", ())),
    )  # fmt: skip


def delegation(read: Row) -> Delegation:
    window = read.get("period", {})
    return Delegation(
        giver=read["giver"], taker=read["taker"], capacity=Capacity[read["capacity"]],
        purposes=tuple(read.get("purposes", ())), break_glass=read.get("break_glass", False),
        start_ms=window.get("start", 0), end_ms=window.get("end", model.OPEN_END_MS),
    )  # fmt: skip


def all_delegations() -> Iterator[Delegation]:
    """Everybody gives everybody a delegation in each capacity, for all purposes, without start and end."""
    names = sorted(BASE.participants)
    for giver, taker, capacity in product(names, names, Capacity):
        yield Delegation(giver=giver, taker=taker, capacity=capacity, break_glass=True)


class Case:
    """One row: its world, its question, and what both sides answer."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.question = question({**BASE.asked, **row["question"]})
        caller = row.get("caller", self.question.actor.organisation)
        self.caller = None if caller == "person" else caller
        self.signed = row.get("signed", False)
        self.now_ms = row.get("now", BASE.now_ms)
        self.enrolled = row.get("enrolled", True)
        self.consents = [stored(one, place) for place, one in enumerate(row.get("consents", ()), 1)]
        read = list(zip(self.consents, row.get("consents", ()), strict=True))
        self.powers = {of.authority: power(one["authority"]) for of, one in read if of.authority}
        self.given_ms = {of.lineage: one["given"] for of, one in read if "given" in one}
        uses = [(use["time"], of.lineage, use) for of, one in read for use in one.get("uses", ())]
        self.transfers = [
            Transfer(lineage, use.get("holder", self.question.holder), tuple(use["categories"]), time_ms)
            for time_ms, lineage, use in sorted(uses, key=lambda one: one[:2])
        ]
        given = row.get("delegations")
        self.delegations = list(all_delegations() if given is None else map(delegation, given))
        self.rules = rules(row.get("rules", {}))
        self.since = row.get("rules", {}).get("since", RULES_SINCE)
        earlier = row.get("rules", {}).get("earlier_normal_level")
        self.earlier_levels = [] if earlier is None else [(0, earlier)]

    @cached_property
    def realm(self) -> Realm:
        memberships: dict[str, list[Membership]] = {}
        for one in (*BASE.memberships, *self.row.get("memberships", ())):
            held = Membership(one["group"], one.get("from", 0), one.get("until", model.STILL))
            memberships.setdefault(one["participant"], []).append(held)
        versions = BASE.vocabularies if self.row.get("published") else BASE.vocabularies[:1]
        return Realm(versions, self.rules, self.since, self.earlier_levels, memberships, BASE.abroad)

    def participants(self, *, institution: bool) -> Mapping[str, Party]:
        """Return the participants. The caller has the right SEE_REASONS, or as an *institution* it has not."""
        asks = BASE.participants.get(self.caller or "")
        if self.caller is None or asks is None:
            return BASE.participants
        right = {int(Right.SEE_REASONS)}
        rights = asks.rights - right if institution else asks.rights | right
        return {**BASE.participants, self.caller: replace(asks, rights=rights)}

    def reference_answer(self, *, institution: bool = False) -> Decision:
        """Answer by the reference. Raises the errors of a question that is refused."""
        realm, asked = self.realm, self.question
        reference.check(asked, realm.vocabulary)
        participants = self.participants(institution=institution)
        who = reference_actor.who(asked, self.caller, participants, self.delegations, self.now_ms, signed=self.signed)
        consents, lacks_right = self.consents, asked.purpose == "BTG" and not who.may_break_glass
        if self.row.get("pinned") == "wrong" or lacks_right:
            realm, consents = replace(realm, rules=model.Rules()), []
        answer = reference.decide(
            asked, consents, realm, now_ms=self.now_ms, who=who, enrolled=self.enrolled, powers=self.powers,
            campaigns=self.row.get("campaigns", ()), transfers=self.transfers, given_ms=self.given_ms,
        )  # fmt: skip
        if lacks_right and answer.without_consent:
            reasons = [reason for reason in answer.reasons if reason.code is not ReasonCode.NO_MATCHING_CONSENT]
            reasons.append(model.Reason(ReasonCode.DENIED_BY_BREAK_GLASS, Effect.DENY))
            answer = replace(
                answer, outcome=Outcome.DENY, denied=answer.without_consent, without_consent=(), reasons=tuple(reasons)
            )
        return answer if who.sees_reasons else reference.reduced(answer, realm.vocabulary)

    def compiled_answer(self, *, institution: bool = False) -> Decision:
        """Answer by the evaluator, from encoded rows. *institution*: the caller does not have the right SEE_REASONS."""
        realm = self.realm
        groups = {one.group for held in realm.memberships.values() for one in held}
        numbers = {name: number for number, name in enumerate(sorted({*BASE.participants, *groups}), 1)}
        numbers[model.SUBJECT] = SUBJECT_NUMBER
        codebook = Codebook(realm.vocabulary, numbers, realm.memberships, abroad=BASE.abroad)
        value = self._value(numbers) if self.enrolled else None
        encoded = compile_rules(self.rules, realm.vocabulary_at(self.since), numbers, since=self.since).encoded
        compiled = replace(decode_rules(encoded, realm.vocabulary), campaigns=self._campaigns())
        directory = Directory(codebook, self.participants(institution=institution), self.delegations)
        asked = asked_of(self.question, self.caller, signed_by_subject=self.signed)
        parties = determine_parties(directory, asked, self.now_ms)
        packed = pack_question(self.question, codebook, parties)
        fault = self.row.get("fault")
        if fault is not None:
            verdict = evaluate.undetermined(packed, ReasonCode[fault])
        elif self.row.get("pinned") == "wrong":
            verdict = evaluate.no_consent(packed)
        elif packed.break_glass and not parties.may_break_glass:
            verdict = evaluate.break_glass_refused(packed)
        else:
            verdict = evaluate.evaluate(value, packed, compiled, self.now_ms)
        if not parties.sees_reasons:
            verdict = reduce_verdict(verdict, packed)
        return evaluate.decision(verdict, packed, codebook, compiled)

    def _value(self, numbers: Mapping[str, int]) -> bytes:
        """Return the person's value in the policy table."""
        realm, value = self.realm, b""
        for one in sorted(self.consents, key=lambda one: one.version):
            held = self.powers.get(one.authority)
            rests_on = one.authority if held is not None and not held.lasts else 0
            compiled = compile_consent(
                one, realm.vocabulary_at(one.since), numbers,
                normal_level=LEVEL_NUMBERS[realm.normal_level_at(one.since)],
                ends=ends_of(held) if held is not None and rests_on else NO_ENDS,
                recurrence=recurrence_of(one.consent, None, self.given_ms.get(one.lineage, 0)),
            )  # fmt: skip
            value = with_consent(value, replace(one, authority=rests_on), compiled)
        for at, one in enumerate(self.transfers, 1):
            text = next(of.consent.recurrence for of in self.consents if of.lineage == one.lineage)
            start_ms = next(of.consent.root.start_ms for of in self.consents if of.lineage == one.lineage)
            start_ms = start_ms or self.given_ms.get(one.lineage, 0)
            until_ms = end_ms(text, start_ms, one.time_ms) or model.OPEN_END_MS
            mask = sum(realm.vocabulary.category.bits[code] for code in one.categories)
            value = with_use(value, one.lineage, Use(numbers[one.holder], until_ms, at, mask), one.time_ms)
        for seq, held in self.powers.items():
            if held.ended_ms != model.OPEN_END_MS:
                value = with_ended_authority(value, seq, held.ended_ms)
        return value

    def _campaigns(self) -> dict[int, int]:
        """Return from which instant consents under each version of the notice are paused, by the version."""
        asked = self.row.get("campaigns", ())
        later = {number: [at_ms for at_ms in asked[number:] if at_ms] for number in range(1, len(asked))}
        return {number: min(instants) for number, instants in later.items() if instants}


def expected(read: Row) -> Row:
    """Return what a row expects, with the values of what it leaves out."""
    names = ("permitted", "denied", "without", "unknown", "obligations", "labels")
    return {
        "outcome": read["outcome"], "level": read.get("level", ""),
        **{name: list(read.get(name, ())) for name in names},
        "codes": sorted(read["codes"]), "valid_until": read.get("valid_until", model.OPEN_END_MS),
    }  # fmt: skip


def shown(answer: Decision) -> Row:
    """Return what of an answer ``expected`` is about."""
    return {
        "outcome": answer.outcome.name, "permitted": list(answer.permitted), "denied": list(answer.denied),
        "without": list(answer.without_consent), "unknown": list(answer.unknown),
        "obligations": [one.name for one in answer.obligations], "labels": list(answer.labels), "level": answer.level,
        "codes": sorted({reason.code.name for reason in answer.reasons}), "valid_until": answer.valid_until_ms,
    }  # fmt: skip


def resource(read: Row) -> model.Resource:
    return model.Resource(
        category=read["category"], labels=tuple(read.get("labels", ())), level=read.get("level", ""),
        reference=read.get("reference", ""), data_period=period(read.get("data_period")) or Period(),
    )  # fmt: skip
