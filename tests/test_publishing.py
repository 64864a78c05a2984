"""A vocabulary's next version: every check is right before, during and after it, also when the daemon is killed.

All persons' rows are of the version before, and stay so. ``CONSENTD_PUBLISHING_PERSONS`` says how many persons there
are, and ``CONSENTD_PUBLISHING_CHECKS`` how many answers are compared with the reference.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases import reference_actor, reference_policy
from cases.daemons import Running, make_config, make_running, request_id
from cases.participants import Party
from cases.policy_worlds import Draw
from cases.processes import DaemonProcess
from cases.question_messages import message_of
from cases.reference_realm import Realm
from cases.services import batch_request, register, services
from cases.writes import Raw
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.vocabulary import Code, Vocabulary
from consentd.statements import decisions, values
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import policy_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

PERSONS = int(os.environ.get("CONSENTD_PUBLISHING_PERSONS", "200"))
CHECKS = int(os.environ.get("CONSENTD_PUBLISHING_CHECKS", "900"))
LATER_PERSONS = 20
BATCH = 100
NAMES = ("a", "b", "c", "r", "abroad", "left")
MEMBERS = {"a": ["group/g"], "b": ["group/g"], "r": ["group/h"], "left": ["group/g", "group/h"]}
GIVEN, PUBLISHED, GIVEN_LATER = 1_000_000, 2_000_000, 3_000_000
"""For the reference: the moments of the first consents, of the next version, and of the consents after it."""


def _new(code: str, parent: str = "", **more: Any) -> Code:
    return Code(code=code, name={"ko": "새", "en": "new"}, parent=parent, **more)


LATER = replace(
    DEFAULT_VOCABULARY,
    version=DEFAULT_VOCABULARY.version + 1,
    purposes=(*DEFAULT_VOCABULARY.purposes, _new("NEWRESCH", "HRESCH"), _new("NEWTREAT", "TREAT"), _new("NEW")),
    categories=(
        *DEFAULT_VOCABULARY.categories, _new("CLIN.NEW", "CLIN", level="N"), _new("INS.NEW", "INS", level="R"),
        _new("NEWDATA", level="N"),
    ),
    labels=(*DEFAULT_VOCABULARY.labels, _new("NEWLABEL")),
)  # fmt: skip


class Persons:
    """Persons whose number determines their consents: those of the first ones are given before the next version."""

    def consents(self, number: int) -> list[model.StoredConsent]:
        draw = Draw(random.Random(number))
        vocabulary, since = (DEFAULT_VOCABULARY, GIVEN) if number < PERSONS else (LATER, GIVEN_LATER)
        found = []
        for lineage in range(2, 2 + draw.random.choice([1, 1, 1, 2])):
            depth = draw.random.choice([0, 0, 0, 1, 2])
            root = _always(draw.provision(effect=draw.effect(), depth=depth, chance=0.25, vocabulary=vocabulary))
            consent = model.Consent(kind=model.Kind.CONSENT, root=root, policy=draw.policy(root))
            found.append(model.StoredConsent(lineage, lineage, 1, consent, since=since))
        return found

    def write(self, running: Running, numbers: range) -> None:
        """Enrol these persons, with their consents, through the sequencer."""
        parts, waiting = services(running), []
        for number in numbers:
            subject, tag = subject_of(number), number.to_bytes(32)
            hashed = parts.vault.identifier_hash(subject.scheme, subject.value)
            writes = [_raw(EntryKind.ENROL, tag, st.EnrolStatement(identifier_hash=hashed, scheme=subject.scheme))]
            for stored in self.consents(number):
                message = st.GrantStatement(consent=values.consent_message(stored.consent))
                writes.append(_raw(EntryKind.GRANT, tag, message))
            waiting += parts.sequencer.submit_all(writes)
            if len(waiting) > 5_000:
                for future in waiting:
                    future.result()
                waiting.clear()
        for future in waiting:
            future.result()


def _raw(kind: EntryKind, tag: bytes, message: Any) -> Raw:
    return Raw(kind=kind, tag=tag, payload=message.SerializeToString(deterministic=True), message=message)


def _always(provision: model.Provision) -> model.Provision:
    """Return a provision without periods of validity: this test is about vocabularies."""
    children = tuple(map(_always, provision.children))
    actors = tuple(name for name in provision.actors if name in (*NAMES, "group/g", "group/h", "*"))
    return replace(provision, start_ms=0, end_ms=model.OPEN_END_MS, actors=actors, children=children)


def subject_of(number: int) -> pb.Subject:
    return pb.Subject(scheme="mhid", value=f"SYN-{number:06d}")


def draw_question(draw: Draw, organisation: str) -> model.Question:
    """Draw a question of *organisation* about codes of both versions."""
    pick = draw.random
    return model.Question(
        actor=model.Actor(organisation=organisation),
        holder=pick.choice(["r", "r", "c", "a"]),
        purpose=pick.choice(["TREAT", "TREAT", "HRESCH", "CAREMGT", "NEWRESCH", "NEWTREAT", "NEW", "HMARKT"]),
        action=pick.choice(["collect", "access", "use", "disclose"]),
        categories=tuple(
            pick.sample(["CLIN", "CLIN.DX", "CLIN.NEW", "INS", "INS.NEW", "NEWDATA", "GEN"], pick.choice([1, 2]))
        ),
        labels=pick.choice([None, None, (), ("HIV",)]),
        supported_obligations=pick.choice([frozenset(), frozenset({model.Obligation.ENFORCE_RESIDUAL})]),
    )


class Checker:
    """Asks random questions, and compares each answer with the reference for the version that the answer names."""

    def __init__(self, running: Running) -> None:
        self.callers = {name: running.as_(name) for name in NAMES}
        self.persons = Persons()
        self.draw = Draw(random.Random(7))
        self.memberships = {name: [model.Membership(group) for group in groups] for name, groups in MEMBERS.items()}
        rights = frozenset({reference_actor.SEE_REASONS})
        self.participants = {name: Party(name != "left", rights=rights) for name in NAMES}
        self.seen: Counter[tuple[int, str]] = Counter()

    def run(self, channel: grpc.Channel, count: int, persons: int = PERSONS) -> None:
        """Compare *count* answers, or as many as there are until the daemon ends."""
        stub = policy_service_pb2_grpc.PolicyServiceStub(channel)
        for _ in range(-(-count // BATCH)):
            asked, caller = [], self.draw.random.choice(["a", "a", "b", "c", "abroad"])
            for _ in range(BATCH):
                question, number = draw_question(self.draw, caller), self.draw.random.randrange(persons)
                message = message_of(question)
                message.subject.CopyFrom(subject_of(number))
                asked.append((number, question, message))
            request = batch_request(questions=[message for _, _, message in asked])
            answer = stub.BatchCheck(request, metadata=self.callers[caller], timeout=60)
            versions = {one.decision.vocabulary_version for one in answer.results if one.HasField("decision")}
            (version,) = versions
            for (number, question, _), result in zip(asked, answer.results, strict=True):
                self.compare(number, question, result, version)

    def compare(self, number: int, question: model.Question, result: ps.CheckResult, version: int) -> None:
        vocabularies: list[tuple[int, Vocabulary]] = [(0, DEFAULT_VOCABULARY), (PUBLISHED, LATER)]
        realm = Realm(vocabularies[: 1 + (version == LATER.version)], memberships=self.memberships, abroad=("abroad",))
        who = reference_actor.who(question, question.actor.organisation, self.participants, [], 1)
        try:
            expected = reference_policy.decide(question, self.persons.consents(number), realm, now_ms=1, who=who)
        except InvalidError:
            assert result.error.message.startswith("purpose is not in the vocabulary")
            self.seen[version, "refused"] += 1
            return
        found, message = result.decision, decisions.decision_message(expected, number.to_bytes(32))
        for field in ("outcome", "permitted", "denied", "without_consent", "unknown", "obligations"):
            assert getattr(found, field) == getattr(message, field), (number, question, field)
        reasons = [{one.SerializeToString() for one in each.reasons} for each in (found, message)]
        assert reasons[0] == reasons[1]
        self.seen[version, pb.Outcome.Name(found.outcome)] += 1


def publish(channel: grpc.Channel, metadata: Any) -> None:
    request = rs.PublishVocabularyRequest(request_id=request_id(), attested=values.vocabulary_message(LATER))
    registry_service_pb2_grpc.RegistryServiceStub(channel).PublishVocabulary(request, metadata=metadata, timeout=60)


def in_force(channel: grpc.Channel, metadata: Any) -> int:
    stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
    return int(stub.GetVocabulary(rs.GetVocabularyRequest(), metadata=metadata).vocabulary.version)


def pace_of_writes(channel: grpc.Channel, metadata: Any, stop: threading.Event) -> list[float]:
    """Write small entries one after another until *stop* is set; return how long each took, in seconds."""
    stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
    took: list[float] = []
    while not stop.is_set():
        subject = pb.Subject(scheme="mhid", value=f"PACE-{len(took)}")
        request = rs.EnrolSubjectRequest(request_id=request_id(), subject=subject)
        started = time.perf_counter()
        stub.EnrolSubject(request, metadata=metadata, timeout=60)
        took.append(time.perf_counter() - started)
    return took


@pytest.mark.slow
def test_all_checks_are_right_while_a_vocabulary_is_published(tmp_path: Path) -> None:
    running = make_running(tmp_path)
    for name in NAMES:
        roles: list[int] = [st.PARTICIPANT_ROLE_HOLDER, st.PARTICIPANT_ROLE_RECIPIENT]
        country = "DE" if name == "abroad" else "KR"
        register(
            running, name, roles, groups=MEMBERS.get(name, []), active=name != "left", country=country,
            rights=[st.PARTICIPANT_RIGHT_SEE_REASONS],
        )  # fmt: skip
        running.add_caller(name)
    persons = Persons()
    persons.write(running, range(PERSONS))
    running.stop()
    operator, app = running.as_("operator"), running.as_("app")
    checker = Checker(running)

    # Before; then during: answers are compared while the next version is published, and the daemon is killed.
    process = DaemonProcess(tmp_path)
    checker.run(process.channel, CHECKS // 3)
    racing, is_right = Checker(running), threading.Event()

    def race() -> None:
        _until_killed(lambda: racing.run(process.channel, CHECKS))
        is_right.set()  # not if an answer was wrong

    racer = threading.Thread(target=race)
    racer.start()
    # Not acknowledged: whether the version is in force after the kill is up to the moment.
    writer = threading.Thread(target=lambda: _until_killed(lambda: publish(process.channel, operator)))
    writer.start()
    threading.Event().wait(random.Random(PERSONS).uniform(0, 0.05))
    process.kill()
    writer.join()
    racer.join()
    assert is_right.is_set()

    # The next process finds one version or the other whole. If need be, the version is published again.
    process = DaemonProcess(tmp_path)
    version = in_force(process.channel, operator)
    assert version in (DEFAULT_VOCABULARY.version, LATER.version)
    checker.run(process.channel, CHECKS // 3)
    assert {seen for seen, _ in checker.seen} == {DEFAULT_VOCABULARY.version, version}
    stop, took = threading.Event(), list[float]()
    pacer = threading.Thread(target=lambda: took.extend(pace_of_writes(process.channel, app, stop)))
    pacer.start()
    if version != LATER.version:
        started = time.perf_counter()
        publish(process.channel, operator)
        print(f"published to {PERSONS:,} persons in {1000 * (time.perf_counter() - started):.1f} ms")
    checker.run(process.channel, BATCH)
    stop.set()
    pacer.join()
    print(f"slowest of {len(took)} writes beside it: {1000 * max(took):.1f} ms")
    checker.run(process.channel, CHECKS // 3)
    process.stop()

    # After: consents that are given now know the new codes too.
    again = Running(make_config(tmp_path), running.tokens)
    persons.write(again, range(PERSONS, PERSONS + LATER_PERSONS))
    checker.run(again.channel, CHECKS // 3, PERSONS + LATER_PERSONS)
    again.stop()
    for version in (DEFAULT_VOCABULARY.version, LATER.version):
        for outcome in ("OUTCOME_PERMIT", "OUTCOME_DENY", "OUTCOME_NO_CONSENT"):
            assert checker.seen[version, outcome] > 0
    assert checker.seen[DEFAULT_VOCABULARY.version, "refused"] > 0
    assert checker.seen[LATER.version, "refused"] == 0


def _until_killed(call: Callable[[], None]) -> None:
    try:
        call()
    except (grpc.RpcError, ValueError):  # the daemon is gone, or the channel to it is closed
        return
