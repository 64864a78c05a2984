"""Measure whether the time of an answer tells why data may not be transferred (policy.md, "One answer").

An institution asks about persons who objected, who gave no consent, and who are not enrolled, in random order, one call
at a time. The figure is the AUC of each pair: the probability that a call about one takes longer than a call about the
other, at least 0.5. An AUC of 0.5 says nothing about the person.
"""

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import combinations, count, islice
from random import Random
from typing import Any

import grpc

from benchmarks.over_wire import Bench
from benchmarks.report import Row, spread
from benchmarks.world import PARTICIPANTS, holder, recipient, subject
from consentd.config import load as load_config
from consentd.cosigning.keyfiles import write_private
from consentd.service.auth import format_credential, make_token
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc, policy_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps

INSTITUTION = 1
"""Number of the recipient that asks. A fortieth of the persons objects to it, as ``world`` says."""
CALLS = 5_000
AT_MOST = 0.55

Ask = Callable[[pb.Question], pb.Decision]


def measure_negatives(bench: Bench) -> list[Row]:
    """Measure the AUC of each pair of negatives, for Check and AuthorizeAccess."""
    calls = min(CALLS, bench.questions // 4)
    token = make_token()
    credentials = load_config(bench.world.config_file).callers.credentials_file
    write_private(credentials, format_credential(token, recipient(INSTITUTION)), append=True)
    rows = []
    with bench.server() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for seed, (name, ask) in enumerate(_asks(channel, token).items()):
            times = _measure(ask, _questions(bench.world.subjects, calls, seed), seed)
            for one, other in combinations(times, 2):
                rows.append(
                    Row(
                        case="negatives", name=f"{name}: {one} against {other}", value=auc(times[one], times[other]),
                        unit="AUC", at_most=AT_MOST, boundary=bench.boundary + ", one call at a time",
                        note=f"{calls:,} calls each; {one} {spread(times[one])}; {other} {spread(times[other])}",
                    )
                )  # fmt: skip
    return rows


def auc(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the probability that a sample of one is larger than one of the other; 0.5 to 1."""
    ordered = sorted(second)
    below = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in first) / 2
    found = below / (len(first) * len(second))
    return max(found, 1 - found)


def _asks(channel: grpc.Channel, token: str) -> dict[str, Ask]:
    me: dict[str, Any] = {"metadata": (("authorization", f"Bearer {token}"),)}
    policy = policy_service_pb2_grpc.PolicyServiceStub(channel)
    access = access_service_pb2_grpc.AccessServiceStub(channel)

    def authorize(question: pb.Question) -> pb.Decision:
        request = ac.AuthorizeAccessRequest(request_id=os.urandom(16), question=question)
        return access.AuthorizeAccess(request, **me).decision

    return {
        "Check": lambda question: policy.Check(ps.CheckRequest(question=question), **me).decision,
        "AuthorizeAccess": authorize,
    }


def _questions(subjects: int, calls: int, seed: int) -> dict[str, list[pb.Question]]:
    """Return questions about other persons for each call of each kind, as far as there are as many persons."""
    random = Random(seed)
    objected = [n for n in range(subjects) if n % 4 == 0 and (n + 29) % PARTICIPANTS == INSTITUTION]
    silent = [n for n in range(1, subjects, 4) if (n + 29) % PARTICIPANTS != INSTITUTION]
    strangers = list(islice(count(subjects + seed * calls), calls))
    kinds = {"objected": objected, "no consent": silent, "not enrolled": strangers}
    return {kind: [_question(n) for n in _draw(random, numbers, calls)] for kind, numbers in kinds.items()}


def _draw(random: Random, numbers: list[int], calls: int) -> list[int]:
    random.shuffle(numbers)
    return [numbers[at % len(numbers)] for at in range(calls)]


def _question(number: int) -> pb.Question:
    return pb.Question(
        subject=subject(number), actor=pb.Actor(organisation=recipient(INSTITUTION), automatic=True), holder=holder(0),
        purpose="HRESCH", action="disclose", categories=["CLIN.DX"],
    )  # fmt: skip


def _measure(ask: Ask, questions: dict[str, list[pb.Question]], seed: int) -> dict[str, list[float]]:
    """Ask all questions in random order; return the seconds of each call by kind."""
    order = [(kind, question) for kind, asked in questions.items() for question in asked]
    Random(seed).shuffle(order)
    times: dict[str, list[float]] = {kind: [] for kind in questions}
    for kind, question in order:
        started = time.perf_counter()
        decision = ask(question)
        times[kind].append(time.perf_counter() - started)
        assert decision.outcome == pb.OUTCOME_DENY, "each of these questions gets the one answer"
    return times
