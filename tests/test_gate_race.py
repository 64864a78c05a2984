"""No check that begins after a withdrawal was acknowledged permits, whichever process is asked, stopped or killed.

Writers grant and revoke through the daemon and through its gate. Readers ask the daemon, its gate, and a second gate
that lives on when the daemon is killed. All operations about a person are recorded, and their history is linearizable.
A try is a grant and a withdrawal, with checks after each.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cases.daemons import consent, question, request_id
from cases.gate_programs import built, needs_cargo
from cases.linearizable import Operation, violation
from cases.processes import ENVIRONMENT
from cases.races import DAEMON, GATE, SECOND, Realm, Stubs
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import registry_service_pb2_grpc
from consentd.v1 import statement_pb2 as st

TRIES = int(os.environ.get("CONSENTD_GATE_RACE_TRIES", "200"))
TRIES_OF_ROUND = 1_000
"""How many tries each round of disturbances takes: every process is stopped and killed once."""
LANES, READERS = 8, 2
PERSON_TRIES = 400
"""Tries about one person: each is two entries, and a caller has a quota of entries about a person."""
CALL_S = 30
pytestmark = needs_cargo


class Race:
    """The operations about all persons, in threads."""

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        self.answered: Counter[str] = Counter()
        self.stale: list[Operation] = []
        self._news = threading.Condition()  # guards the attributes that follow, and those above
        self._done = 0
        self._is_over = False
        self._failed: list[BaseException] = []
        self._histories: dict[str, list[Operation]] = {}

    def run(self, tries: int) -> None:
        """Make the tries, and disturb the processes meanwhile."""
        each = -(-tries // LANES)
        writers = [threading.Thread(target=self._guarded, args=(self._write, n, each)) for n in range(LANES)]
        readers = [threading.Thread(target=self._guarded, args=(self._read, n)) for n in range(READERS)]
        for one in (*writers, *readers):
            one.start()
        disturbances = self.realm.disturbances() * max(1, tries // TRIES_OF_ROUND)
        for number, disturb in enumerate(disturbances, 1):
            self._await(tries * number // (len(disturbances) + 1))
            disturb()
        for one in writers:
            one.join()
        with self._news:
            self._is_over = True
        for one in readers:
            one.join()
        if self._failed:
            raise self._failed[0]

    def _await(self, tries: int) -> None:
        with self._news:
            self._news.wait_for(lambda: self._done >= tries or bool(self._failed))

    def _guarded(self, run: Callable[..., None], *arguments: int) -> None:
        try:
            run(*arguments)
        except BaseException as error:  # noqa: BLE001  # ``run`` raises it
            with self._news:
                self._failed.append(error)
                self._news.notify_all()

    def _write(self, lane: int, tries: int) -> None:
        pick, name = random.Random(lane), ""
        for number in range(tries):
            if number % PERSON_TRIES == 0:
                self._judge(name)
                name = f"SYN-{lane}-{number}"
                self._enrol(name)
            consent_id = self._grant(pick, name)
            self._check(name, pick.choice([DAEMON, GATE, SECOND]))
            self._revoke(pick, name, consent_id)
            for whom in pick.sample([DAEMON, GATE, SECOND], 2):
                found = self._check(name, whom)
                if found is not None and found.value:
                    self.stale.append(found)
            with self._news:
                self._done += 1
                self._news.notify_all()
                if self._failed:
                    return
        self._judge(name)

    def _read(self, number: int) -> None:
        pick = random.Random(f"reader {number}")
        while True:
            with self._news:
                if self._is_over or self._failed:
                    return
                names = list(self._histories)
            if names:
                self._check(pick.choice(names), pick.choice([DAEMON, GATE, SECOND]))

    def _enrol(self, name: str) -> None:
        request = rs.EnrolSubjectRequest(request_id=request_id(), subject=_subject(name), method="test")

        def call(stubs: Stubs) -> rs.EnrolSubjectResponse:
            registry = registry_service_pb2_grpc.RegistryServiceStub(stubs.channel)
            return registry.EnrolSubject(request, metadata=self.realm.as_("app"), timeout=CALL_S)

        self.realm.insist(lambda: DAEMON, call)
        with self._news:
            self._histories[name] = []

    def _grant(self, pick: random.Random, name: str) -> str:
        grant = st.GrantStatement(consent=consent())
        request = cs.GrantConsentRequest(request_id=request_id(), subject=_subject(name), attested=grant)
        start = time.monotonic_ns()
        found: cs.GrantConsentResponse = self.realm.insist(
            lambda: pick.choice([DAEMON, GATE]),
            lambda stubs: stubs.consents.GrantConsent(request, metadata=self.realm.as_("app"), timeout=CALL_S),
        )
        self._note(name, Operation(start, time.monotonic_ns(), found.consent_id, is_write=True))
        return found.consent_id

    def _revoke(self, pick: random.Random, name: str, consent_id: str) -> None:
        request = cs.RevokeConsentRequest(
            request_id=request_id(), subject=_subject(name), consent_id=consent_id, attested=st.RevokeStatement()
        )
        start = time.monotonic_ns()
        self.realm.insist(
            lambda: pick.choice([DAEMON, GATE]),
            lambda stubs: stubs.consents.RevokeConsent(request, metadata=self.realm.as_("app"), timeout=CALL_S),
        )
        self._note(name, Operation(start, time.monotonic_ns(), "", is_write=True))

    def _check(self, name: str, whom: str) -> Operation | None:
        """Ask one of the processes, and record which consent permits; None: it does not answer."""
        request = ps.CheckRequest(question=question(_subject(name)))
        start = time.monotonic_ns()
        found = self.realm.call(
            whom, lambda stubs: stubs.policy.Check(request, metadata=self.realm.as_("app"), timeout=CALL_S)
        )
        if found is None:
            return None
        decision = found.decision
        permits = decision.outcome == pb.OUTCOME_PERMIT
        assert permits or decision.outcome == pb.OUTCOME_NO_CONSENT, decision.outcome
        read = Operation(start, time.monotonic_ns(), decision.reasons[0].consent_id if permits else "")
        self._note(name, read)
        with self._news:
            self.answered[whom] += 1
        return read

    def _note(self, name: str, operation: Operation) -> None:
        with self._news:
            if name in self._histories:
                self._histories[name].append(operation)

    def _judge(self, name: str) -> None:
        """Check the history of a person about whom no more is written."""
        with self._news:
            history = self._histories.pop(name, [])
        found = violation(history)
        assert found is None, (found, [one for one in history if found and one.end and one.end > found.start - 10**9])


def _subject(name: str) -> pb.Subject:
    return pb.Subject(scheme="mhid", value=name)


@pytest.mark.slow
def test_no_process_permits_after_a_withdrawal(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = built("consentd-gate", "consentd-gate")
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(short_path))
    realm = Realm(tmp_path, program)
    race = Race(realm)
    race.run(TRIES)
    assert race.stale == []
    assert min(race.answered[whom] for whom in (DAEMON, GATE, SECOND)) > TRIES // 4
    realm.stop()
    realm.check_ledger()
