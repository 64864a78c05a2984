"""The life of a small realm in a real ledger: groups that grow and shrink, a second vocabulary, rules, one person.

``RealmLife`` writes random entries, asks random questions through the sequencer, and keeps by itself what the reference
interpreter needs to answer them: consents, rules, vocabularies and memberships, each with the index of its entry.
"""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases import reference_actor, reference_policy
from cases.audits import Forge
from cases.ledgers import ORIGIN, LedgerCase, Person
from cases.participants import Party
from cases.policy_worlds import ABROAD, BLIND, EARLIER, LEFT, VOCABULARY, Draw, World
from cases.question_messages import message_of
from cases.reference_realm import Realm
from cases.writes import Raw
from consentd.audit.sources import ExportDirectory
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import DeniedError
from consentd.ledger import reads
from consentd.policy import model
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.vocabulary import Vocabulary
from consentd.sequencer.commands.accesses import AuthorizeAccess
from consentd.sequencer.commands.ledger import Genesis
from consentd.statements import decisions, values
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

NAMES = ("a", "b", "c", "r", "abroad", "left", "stranger")
GROUPS = ("group/g", "group/h")
MINUTE_MS = 60_000
QUOTAS = model.Quotas(entries_per_day=1_000_000, refusals_per_day=1_000_000)
RULES = model.Rules(quotas=QUOTAS, recipient_may_attest=True)
RIGHTS = (st.PARTICIPANT_RIGHT_BREAK_GLASS, st.PARTICIPANT_RIGHT_SEE_REASONS, st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS)


class _Ledger(LedgerCase):
    """A ledger that begins with the earlier vocabulary of the small world."""

    def genesis(self) -> Genesis:
        rules = values.rules_message(RULES, realm_id="realm", version=1, vocabulary_id=EARLIER.id)
        return replace(super().genesis(), vocabulary=values.vocabulary_message(EARLIER), rules=rules)


class RealmLife:
    """The realm of ``policy_worlds``, and a person in it.

    Attributes:
        asked: how many questions had each outcome; ``denied``: the caller may not ask; ``reduced``: it gets one answer.
        blind: participants that do not have the right SEE_REASONS now.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.case = _Ledger(directory)
        self.draw = Draw(random.Random(seed))
        self.start_ms = self.case.clock.wall_ms()
        self.vocabularies: list[tuple[int, Vocabulary]] = [(1, EARLIER)]
        self.rules, self.rules_since, self.rules_version = RULES, 2, 1
        self.earlier_levels: list[tuple[int, str]] = []
        self.memberships: dict[str, list[model.Membership]] = {}
        self.delegations: list[Delegation] = []
        self.consents: dict[int, model.StoredConsent] = {}
        self.asked: Counter[str] = Counter()
        self.blind = {*BLIND}
        for name in NAMES:
            self.join(name, {*GROUPS} if name == "a" else {"group/g"} if name in (*ABROAD, *LEFT) else set())
        for giver, taker in (("a", "r"), ("a", "c"), ("b", "a"), ("r", "a"), ("r", "c"), ("c", "r"), ("r", "stranger")):
            for capacity in Capacity:
                self.delegate(giver, taker, capacity)
        self.person: Person = self.case.enrol("somebody")

    @property
    def vocabulary(self) -> Vocabulary:
        return self.vocabularies[-1][1]

    def _public(self, chain: str, kind: EntryKind, message: Any) -> int:
        entry = self.case.write(self.case.public(chain, kind, message)).entry
        assert entry is not None
        return entry.index

    # -- what a realm writes ------------------------------------------------------------------------------------

    def join(self, name: str, groups: set[str]) -> None:
        """State that a participant is a member of exactly these groups from now on."""
        rights = [one for one in RIGHTS if one != st.PARTICIPANT_RIGHT_SEE_REASONS or name not in self.blind]
        message = st.ParticipantStatement(
            participant_id=name, name={"ko": name}, rights=rights, active=name not in LEFT, groups=sorted(groups),
            roles=[st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT], country="DE" if name in ABROAD else "KR",
        )  # fmt: skip
        index = self._public(f"participant/{name}", EntryKind.PARTICIPANT, message)
        before = self.memberships.get(name, [])
        now = [
            replace(one, end=index) if one.end == model.STILL and one.group not in groups else one for one in before
        ]
        still = {one.group for one in now if one.end == model.STILL}
        self.memberships[name] = now + [model.Membership(group, index) for group in groups - still]

    def delegate(self, giver: str, taker: str, capacity: Capacity) -> None:
        message = st.DelegationStatement(
            giver=giver, taker=taker, capacity=values.to_enum(capacity), break_glass=True
        )  # fmt: skip
        self._public(f"participant/{giver}", EntryKind.DELEGATION, message)
        self.delegations.append(Delegation(giver=giver, taker=taker, capacity=capacity, break_glass=True))

    def publish_vocabulary(self) -> None:
        message = values.vocabulary_message(VOCABULARY)
        index = self._public(f"vocabulary/{VOCABULARY.id}", EntryKind.VOCABULARY, message)
        self.vocabularies.append((index, VOCABULARY))

    def publish_rules(self) -> None:
        before = self.rules.normal_level
        drawn = self.draw.rules(plain=self.draw.random.random() < 0.5, vocabulary=self.vocabulary)
        self.rules = replace(
            drawn, quotas=QUOTAS, recipient_may_attest=True, statutory=tuple(map(self._later, drawn.statutory)),
            break_glass=tuple(map(self._later, drawn.break_glass)),
        )  # fmt: skip
        self.rules_version += 1
        self.earlier_levels.append((self.rules_since, before))
        message = values.rules_message(
            self.rules, realm_id="realm", version=self.rules_version, vocabulary_id=EARLIER.id
        )  # fmt: skip
        self.rules_since = self._public("rules/realm", EntryKind.RULES, message)

    # -- what the person writes ---------------------------------------------------------------------------------

    def grant(self, *, amend: bool = False) -> None:
        """Write a new consent, or the next version of one."""
        old = self.draw.random.choice(list(self.consents.values())) if amend and self.consents else None
        statutory = old.consent.kind is model.Kind.STATUTORY if old else self.draw.random.random() < 0.1
        depth = self.draw.random.choice([0, 0, 1, 2])
        root = self._later(self.draw.provision(effect=self.draw.effect(), depth=depth, vocabulary=self.vocabulary))
        kind = model.Kind.STATUTORY if statutory else model.Kind.CONSENT
        policy = None if statutory else self.draw.policy(root)
        consent = model.Consent(kind=kind, root=root, policy=policy, legal_basis="STATUTE" if statutory else "")
        attestation = st.Attestation(attested_by="operator/main" if statutory else "c")
        message: Any = st.GrantStatement(consent=values.consent_message(consent), attestation=attestation)
        if old is not None:
            message = st.AmendStatement(
                consent=message.consent, attestation=attestation, lineage_seq=old.lineage, version=old.version + 1
            )
        index, seq = self._write(EntryKind.GRANT if old is None else EntryKind.AMEND, message)
        first = model.StoredConsent(seq, seq, 1, consent, since=index)
        if old is not None:
            first = replace(first, lineage=old.lineage, version=old.version + 1, paused=old.paused)
        self.consents[first.lineage] = first

    def change(self) -> None:
        """Pause, resume or revoke a consent."""
        if not self.consents:
            return
        one = self.draw.random.choice(list(self.consents.values()))
        attestation = st.Attestation(attested_by="operator/main" if one.consent.kind is model.Kind.STATUTORY else "c")
        if self.draw.random.random() < 0.5:
            self._write(EntryKind.REVOKE, st.RevokeStatement(lineage_seq=one.lineage, attestation=attestation))
            del self.consents[one.lineage]
            return
        if one.paused:
            self._write(EntryKind.RESUME, st.ResumeStatement(lineage_seq=one.lineage, attestation=attestation))
        else:
            self._write(EntryKind.PAUSE, st.PauseStatement(lineage_seq=one.lineage, attestation=attestation))
        self.consents[one.lineage] = replace(one, paused=not one.paused)

    def _write(self, kind: EntryKind, message: Any) -> tuple[int, int]:
        payload = message.SerializeToString(deterministic=True)
        entry = self.case.write(Raw(kind=kind, tag=self.person.tag, payload=payload, message=message)).entry
        assert entry is not None
        return entry.index, entry.event.seq

    def _later(self, provision: model.Provision) -> model.Provision:
        """Return a provision with the world's instants as minutes of this ledger's time."""
        end_ms = provision.end_ms
        return replace(
            provision,
            start_ms=self.start_ms + provision.start_ms * MINUTE_MS if provision.start_ms else 0,
            end_ms=end_ms if end_ms == model.OPEN_END_MS else self.start_ms + end_ms * MINUTE_MS,
            children=tuple(map(self._later, provision.children)),
        )

    # -- questions ----------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask a question through the sequencer, and compare the answer with the reference's."""
        world = World(
            list(self.consents.values()), self.rules, vocabularies=self.vocabularies, since=self.rules_since,
        )  # fmt: skip
        question = self.draw.question(world)
        while question.actor.organisation == model.SUBJECT or not self._is_known(question):
            question = self.draw.question(world)
        caller = self.draw.caller(question)
        message = message_of(question)
        write = AuthorizeAccess(
            request=self.case.request(message.SerializeToString(), asker=caller),
            identifier_hash=self.person.identifier_hash, scheme="test", question=question,
            asked=st.AskedQuestion(question=message.SerializeToString(), asker=caller),
        )  # fmt: skip
        expected = self._expected(question, caller)
        try:
            decision = self.case.write(write).answer.decision
        except DeniedError:
            assert expected is None
            self.asked["denied"] += 1
            return
        assert expected is not None
        assert _comparable(decision) == _comparable(expected)
        self.asked[pb.Outcome.Name(decision.outcome)] += 1
        self.asked["residual"] += pb.OBLIGATION_ENFORCE_RESIDUAL in decision.obligations

    def _is_known(self, question: model.Question) -> bool:
        known = {code.code for code in (*self.vocabulary.purposes, *self.vocabulary.actions, *self.vocabulary.labels)}
        return {question.purpose, question.action, *(question.labels or ())} <= known

    def _expected(self, question: model.Question, caller: str) -> pb.Decision | None:
        participants = {
            name: Party(name not in LEFT, rights=frozenset({1, 3} if name in self.blind else {1, 2, 3}))
            for name in NAMES
        }
        now_ms = self.case.clock.wall_ms()
        try:
            who = reference_actor.who(question, caller, participants, self.delegations, now_ms)
        except DeniedError:
            return None
        realm = Realm(self.vocabularies, self.rules, self.rules_since, self.earlier_levels, self.memberships, ABROAD)
        found = reference_policy.decide(question, list(self.consents.values()), realm, now_ms=now_ms, who=who)
        if question.break_glass is not None and not who.may_break_glass:
            found = _break_glass_refused(found, self.vocabulary)
        if not who.sees_reasons:
            self.asked["reduced"] += 1
            found = reference_policy.reduced(found, self.vocabulary)
        return decisions.decision_message(found, self.person.tag if who.sees_reasons or found.permitted else b"")

    # -- the whole life -----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Let something happen."""
        chance, pick = self.draw.random.random(), self.draw.random
        self.case.clock.advance(pick.choice([0, 1, 7_000, MINUTE_MS // 4]))
        if chance < 0.55:
            self.ask()
        elif chance < 0.7:
            self.grant(amend=pick.random() < 0.3)
        elif chance < 0.78 or len(self.consents) > 6:
            self.change()
        elif chance < 0.93:
            name = pick.choice(["a", "b", "c", "r"])
            self.blind ^= {name} if pick.random() < 0.3 else set()
            self.join(name, {group for group in GROUPS if pick.random() < 0.5})
        else:
            self.publish_rules()

    def export(self, directory: Path) -> ExportDirectory:
        """Seal the ledger, and write it as its public export with all openings."""
        self.case.seal()
        store, forge = self.case.ledger.store, Forge()
        forge.leaves = reads.read_leaves(store, 0, self.case.ledger.state.size)
        for leaf in forge.leaves:
            event = codec.decode_leaf(leaf)
            opened = None
            if isinstance(event, codec.Event):
                opened = reads.open_entry(self.case.vault, reads.read_entry(store, event.tag, event.seq))
            forge.openings.append(None if opened is None else opened[0] + opened[1])
        written = forge.write(directory / "tiles", directory / "statements")
        (directory / "tiles" / "checkpoint").write_bytes(self.case.notes[-1])
        assert ORIGIN.encode() in self.case.notes[-1]
        return written


def _break_glass_refused(found: model.Decision, vocabulary: Vocabulary) -> model.Decision:
    """Return the answer to a question whose actor has no right to emergency access (rule 7)."""
    asked = {*found.permitted, *found.denied, *found.without_consent, *found.unknown}
    known = tuple(code.code for code in vocabulary.categories if code.code in asked)
    strange = tuple(code for code in found.unknown if code not in known)
    reasons = [model.Reason(model.ReasonCode.DENIED_BY_BREAK_GLASS, model.Effect.DENY)] if known else []
    reasons += [model.Reason(model.ReasonCode.UNKNOWN_CATEGORY, None)] if strange else []
    return model.Decision(
        outcome=model.Outcome.DENY if known else model.Outcome.INDETERMINATE, denied=known, unknown=strange,
        reasons=tuple(reasons), vocabulary_version=vocabulary.version, combining=found.combining,
    )  # fmt: skip


def _comparable(decision: pb.Decision) -> tuple[object, ...]:
    """Return what both must agree on. The residual is compared by what it covers, elsewhere."""
    reasons = {(one.code, one.effect, one.consent_id, one.version, one.path) for one in decision.reasons}
    return (
        decision.outcome, list(decision.permitted), list(decision.denied), list(decision.without_consent),
        list(decision.unknown), reasons, list(decision.obligations), decision.valid_until_time_ms,
        decision.vocabulary_version, decision.combining, list(decision.labels), decision.level, decision.tag,
    )  # fmt: skip
