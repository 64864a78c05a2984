"""Every reader sees a revoke: a second process reads the table while the daemon writes.

No check that begins after RevokeConsent returned permits on its ground, in any process of the machine (policy.md).
"""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cases.daemons import Running, question, request_id, running_daemon
from consentd.policy.codebook import pack_question
from consentd.policy.evaluate import evaluate
from consentd.policy.model import Outcome
from consentd.statements.decisions import question_value
from consentd.table.table import Table
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

TRIES = int(os.environ.get("CONSENTD_RACE_TRIES", "2000"))
LANES = 16


def _read(path: str, pipe: Connection) -> None:
    """Answer questions from the table, in a process that shares nothing but the files with the daemon."""
    table = Table.open_read_only(Path(path))
    while True:
        asked = pipe.recv_bytes()
        if not asked:
            break
        tag, message = asked[:32], pb.Question.FromString(asked[32:])
        with table.read() as snapshot:
            registry = snapshot.registry()
            question = question_value(message)
            parties = registry.parties("app", question, snapshot.heartbeat_ms())
            packed = pack_question(question, registry.codebook, parties)
            verdict = evaluate(snapshot.subject(tag), packed, registry.rules, snapshot.heartbeat_ms())
        pipe.send_bytes(bytes([verdict.outcome, verdict.permitted != 0]))
    table.close()


class Lane:
    """One person, one reader process: grant, ask, revoke, ask."""

    def __init__(self, running: Running, number: int) -> None:
        self._running = running
        self._subject = running.enrol(f"SYN-{number:06d}")
        self._message = question(self._subject)
        self._tag = running.check(self._message).tag
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self._pipe = ours
        path = str(running.config.table.path)
        self._process = multiprocessing.get_context("spawn").Process(target=_read, args=(path, theirs), daemon=True)
        self._process.start()

    def run(self, tries: int) -> tuple[int, int]:
        """Return how many reads saw the grant, and how many did not see the revoke."""
        seen = stale = 0
        for _ in range(tries):
            consent_id = self._running.grant(self._subject)
            seen += self._ask()
            revoke = cs.RevokeConsentRequest(
                request_id=request_id(), subject=self._subject, consent_id=consent_id, attested=st.RevokeStatement()
            )
            self._running.consents.RevokeConsent(revoke, metadata=self._running.as_("app"))
            stale += self._ask()
        self._pipe.send_bytes(b"")
        self._process.join()
        return seen, stale

    def _ask(self) -> bool:
        self._pipe.send_bytes(self._tag + self._message.SerializeToString())
        outcome, permits = self._pipe.recv_bytes()
        assert bool(permits) == (outcome == Outcome.PERMIT)
        return bool(permits)


@pytest.mark.slow
def test_a_second_process_sees_every_acknowledged_revoke(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        lanes = [Lane(running, number) for number in range(LANES)]
        with ThreadPoolExecutor(LANES) as pool:
            results = list(pool.map(lambda lane: lane.run(TRIES // LANES), lanes))
    assert sum(stale for _, stale in results) == 0
    assert sum(seen for seen, _ in results) == TRIES // LANES * LANES
