"""Random participants, delegations, questions and callers over real gRPC, against the reference of rule 10."""

import random
from pathlib import Path
from typing import Any

import grpc
import pytest

from cases import reference_actor
from cases.daemons import GIVERS, ORIGIN, RIGHTS, ROLES, Running, make_running, question, reason_of
from cases.participants import Party
from cases.services import now_ms, register
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.cosigning.keyfiles import read_signing_key
from consentd.errors import DeniedError
from consentd.policy.delegation import Capacity, Delegation
from consentd.policy.model import SUBJECT
from consentd.statements.decisions import question_value
from consentd.statements.delegations import delegation_message
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs

HOUR_MS = 3_600_000
COUNT = 250
NAMES = list(ROLES)
CALLERS = ("app", "er", "clinic-b", "hospital-a")


class Realm:
    """A daemon, what its registry must hold, and with which reasons it refused delegations."""

    def __init__(self, running: Running, rng: random.Random) -> None:
        self.running, self.rng = running, rng
        self.refusals: set[str] = set()
        self.active = dict.fromkeys(NAMES, True)
        self.given = {
            (giver, "app", Capacity.RELAY): Delegation(giver=giver, taker="app", capacity=Capacity.RELAY)
            for giver in GIVERS
        }

    def change(self) -> None:
        """Begin or end a delegation, or let a participant leave or come back. The daemon may refuse it."""
        rng, (giver, taker) = self.rng, self.rng.sample(NAMES, 2)
        if rng.random() < 0.1:
            self.active[giver] = rng.random() < 0.8
            register(
                self.running, giver, ROLES[giver], rights=RIGHTS.get(giver, []), active=self.active[giver]
            )
            return
        key = (giver, taker, rng.choice(list(Capacity)))
        now = now_ms(self.running)
        window = rng.choice([{}, {}, {"start_ms": now + HOUR_MS}, {"end_ms": now + HOUR_MS}])
        purposes = rng.choice([(), (), ("TREAT",), ("HRESCH",)])
        one = Delegation(giver=giver, taker=taker, capacity=key[2], purposes=purposes, **window)
        try:
            if key in self.given and rng.random() < 0.3:
                self.running.delegate(*key, ended=True)
                del self.given[key]
            else:
                fields = delegation_message(one)
                more: dict[str, Any] = {
                    name.name: getattr(fields, name.name) for name, _ in fields.ListFields()
                    if name.name not in ("giver", "taker", "capacity")
                }  # fmt: skip
                self.running.delegate(*key, **more)
                self.given[key] = one
        except grpc.RpcError as error:
            self.refusals.add(reason_of(error))

    def question(self, subject: pb.Subject) -> pb.Question:
        pick, others = self.rng.choice, [*NAMES, "stranger", "group/x"]
        actor = pb.Actor(
            organisation=pick(["clinic-b", "er"] * 8 + [*others, SUBJECT]),
            on_behalf_of=pick([""] * 25 + others),
            application=pick([""] * 25 + others),
            relays=pick([[]] * 6 + [["app"], ["app", "app"], ["er", "app"], [pick(others)]]),
        )
        return question(
            subject, actor=actor, holder=pick(["hospital-a", "er"] * 8 + others), purpose=pick(["TREAT", "HRESCH"])
        )

    def expected(self, asked: pb.Question, caller: str) -> str:
        """Return what a check must answer."""
        parties = {
            name: Party(self.active[name], frozenset(ROLES[name]), frozenset(RIGHTS.get(name, []))) for name in NAMES
        }
        try:
            found = reference_actor.who(
                question_value(asked), caller, parties, list(self.given.values()), now_ms(self.running)
            )
        except DeniedError:
            return "refused"
        return "PERMIT" if found.permits else "no"


def outcome_of(call: Any, *arguments: Any) -> str:
    try:
        answer = call(*arguments)
    except grpc.RpcError as error:
        reason = reason_of(error)
        return "refused" if reason in ("ACTOR_NOT_ALLOWED", "CALLER_NOT_ALLOWED") else reason
    outcome = getattr(answer, "decision", answer).outcome
    return "PERMIT" if outcome == pb.OUTCOME_PERMIT else "no"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_daemon_answers_whom_the_reference_answers(tmp_path: Path, seed: int) -> None:
    running = make_running(tmp_path)
    realm, seen = Realm(running, random.Random(seed)), set()
    subject = running.enrol("SYN-000001")
    running.grant(subject, holders=[], actors=["*"], purposes=["TREAT", "HRESCH"])
    try:
        for _ in range(COUNT):
            realm.change()
            asked, caller = realm.question(subject), realm.rng.choice(CALLERS)
            meant = realm.expected(asked, caller)
            assert outcome_of(running.check, asked, caller) == meant
            assert outcome_of(running.authorize, asked, caller) == meant
            seen.add(meant)
        running.check_ledger()
    finally:
        running.stop()
    assert seen == {"PERMIT", "no", "refused"}
    assert realm.refusals <= {"INVALID_REQUEST", "UNKNOWN_PARTICIPANT", "WRONG_ROLE"}
    verifier = read_signing_key(running.config.keys.log_key_file).verifier
    replayed = replay_decisions(DataDirectory.of_config(running.config), origin=ORIGIN, log_verifier=verifier)
    assert (replayed.faults, replayed.not_checked) == ((), {})


def test_a_misspelt_id_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Every participant may read the registry, so no error hides who is in it."""
    running = make_running(tmp_path)
    person = running.enrol("SYN-1")
    wrong = "clinic-bb"

    def refused(call: Any) -> str:
        with pytest.raises(grpc.RpcError) as failed:
            call()
        return str(failed.value.details())

    asked = question(person)
    actors = [
        {"actor": pb.Actor(organisation=wrong)}, {"holder": wrong},
        {"actor": pb.Actor(organisation="clinic-b", on_behalf_of=wrong)},
        {"actor": pb.Actor(organisation="clinic-b", relays=[wrong])},
        {"actor": pb.Actor(organisation="clinic-b", application=wrong)},
    ]  # fmt: skip
    told = [refused(lambda one=one: running.check(question(person, **one))) for one in actors]
    told += [refused(lambda one=one: running.authorize(question(person, **one))) for one in actors]
    told.append(refused(lambda: running.grant(person, actors=[wrong])))
    told.append(refused(lambda: running.delegate("clinic-b", wrong)))
    told.append(refused(lambda: running.delegate(wrong, "app")))
    get = rs.GetParticipantRequest(participant_id=wrong)
    told.append(refused(lambda: running.registry.GetParticipant(get, metadata=running.as_("app"))))
    for text in told:
        assert f"`{wrong}`" in text
        assert "ListParticipants" in text
    asked.actor.relays.append("er")
    assert "PutDelegation" in refused(lambda: running.check(asked))
    running.stop()
