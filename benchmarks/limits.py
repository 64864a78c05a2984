"""Measure a person at the limit of provisions: one check, and what batches about that person cost another's write."""

import os
import threading
import time
from random import Random
from typing import Any

import grpc

from benchmarks.over_wire import CHECK, Bench
from benchmarks.questions import make_question
from benchmarks.report import Row, percentile, spread
from benchmarks.world import PARTICIPANTS, recipient, subject
from consentd.policy.subject import MAX_ROWS
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import consent_service_pb2_grpc, policy_service_pb2_grpc, registry_service_pb2_grpc
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

ROWS = 250
ITEMS = 1_000
DAY_MS = 86_400_000


def measure_limit(bench: Bench) -> list[Row]:
    """Measure checks of the person with ``MAX_ROWS`` provisions, and writes beside batches of ``ITEMS`` of them."""
    metadata = (("authorization", f"Bearer {bench.world.token}"),)
    number = bench.world.subjects * 16
    number -= number % PARTICIPANTS
    question = make_question_of(number)
    with bench.server() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        _make_person(channel, metadata, number)
        alone = bench.run(server, CHECK, [ps.CheckRequest(question=question)], in_flight=1, connections=1)
        decision = ps.CheckResponse.FromString(alone.answers[0][1]).decision
        assert decision.outcome == pb.OUTCOME_PERMIT, "one of the provisions permits"
        quiet = _writes(channel, metadata, bench.seconds)
        stop = threading.Event()
        batches: list[float] = []
        thread = threading.Thread(target=_ask_batches, args=(server.port, metadata, question, stop, batches))
        thread.start()
        beside = _writes(channel, metadata, bench.seconds)
        stop.set()
        thread.join()
    common: dict[str, Any] = {"case": "limit", "boundary": bench.boundary, "sample_unit": "s"}
    return [
        Row(**common, name=f"Check of a person with {MAX_ROWS:,} provisions, p50", unit="ms", at_most=5,
            value=percentile(alone.latencies_s, 0.5) * 1e3, samples=alone.latencies_s, note=spread(alone.latencies_s)),
        Row(**common, name=f"slowest write beside batches of {ITEMS:,} such questions", unit="ms", at_most=250,
            value=max(beside) * 1e3, samples=beside,
            note=f"{spread(beside)}; without batches {spread(quiet)}; {len(batches)} batches, {spread(batches)}"),
    ]  # fmt: skip


def make_question_of(number: int) -> pb.Question:
    """Return a question that the last provisions of the person permit."""
    question = make_question(Random(1), number, pb.OUTCOME_PERMIT)
    question.actor.organisation, question.purpose = recipient(number), "TREAT"
    question.categories[:] = ["CLIN.DX", "CLIN.RX", "CLIN.LAB"]
    question.data_period.start_time_ms, question.data_period.end_time_ms = DAY_MS, 2 * DAY_MS
    question.labels.SetInParent()  # none: the provisions that deny labelled data do not match
    return question


def _make_person(channel: grpc.Channel, metadata: Any, number: int) -> None:
    """Enrol a person, with as many provisions as there may be: each limits the period of the data."""
    enrol = rs.EnrolSubjectRequest(request_id=os.urandom(16), subject=subject(number))
    registry_service_pb2_grpc.RegistryServiceStub(channel).EnrolSubject(enrol, metadata=metadata)
    stub = consent_service_pb2_grpc.ConsentServiceStub(channel)
    for at in range(MAX_ROWS // ROWS):
        root = pb.Provision(
            effect=pb.EFFECT_PERMIT, actors=[recipient(number)], purposes=["TREAT"], categories=["CLIN"],
        )  # fmt: skip
        for child in range(ROWS - 1):
            days = pb.Period(start_time_ms=-(child + 1) * DAY_MS, end_time_ms=(4 + at + child % 7) * DAY_MS)
            effect = pb.EFFECT_PERMIT if child % 3 else pb.EFFECT_UNSPECIFIED
            labels = ["HIV"] if not child % 3 else []
            root.provisions.add(effect=effect, data_period=days, labels=labels, categories=["CLIN.DX", "CLIN.RX"])
        consent = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko")
        request = cs.GrantConsentRequest(
            request_id=os.urandom(16), subject=subject(number), attested=st.GrantStatement(consent=consent)
        )
        granted = stub.GrantConsent(request, metadata=metadata)
        assert granted.consent_id, "the consent is complete"


def _writes(channel: grpc.Channel, metadata: Any, seconds: float) -> list[float]:
    """Enrol persons one after another; return how long each took."""
    stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        who = pb.Subject(scheme="mhid", value=f"LIMIT-{os.urandom(6).hex()}")
        started = time.perf_counter()
        stub.EnrolSubject(rs.EnrolSubjectRequest(request_id=os.urandom(16), subject=who), metadata=metadata)
        took.append(time.perf_counter() - started)
    return took


def _ask_batches(port: int, metadata: Any, question: pb.Question, stop: threading.Event, took: list[float]) -> None:
    shared = pb.Question()
    shared.CopyFrom(question)
    shared.ClearField("subject")
    asked = ps.SharedQuestion(question=shared, subjects=[question.subject] * ITEMS)
    request = ps.BatchCheckRequest(shared=asked)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = policy_service_pb2_grpc.PolicyServiceStub(channel)
        while not stop.is_set():
            started = time.perf_counter()
            stub.BatchCheck(request, metadata=metadata)
            took.append(time.perf_counter() - started)
