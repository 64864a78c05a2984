"""Measure a daemon over gRPC on loopback, without TLS: checks, batches, revokes, histories, a start."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any

import grpc
from google.protobuf.message import Message

from benchmarks.load import Generator, Load, Loaded, run
from benchmarks.questions import Asked, count_wrong, make_question, make_questions
from benchmarks.report import Row, percentile, spread
from benchmarks.server import Server
from benchmarks.world import ENTRIES_PER_SUBJECT, World, consents, subject
from consentd.config import load as load_config
from consentd.core.note import format_vkey
from consentd.server.keys import read_keys
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import (
    access_service_pb2_grpc,
    consent_service_pb2_grpc,
    ledger_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps
from consentd.v1 import statement_pb2 as st
from consentd_client import Client, pin

BATCH = 100
CHECK = "/consentd.v1.PolicyService/Check"
BATCH_CHECK = "/consentd.v1.PolicyService/BatchCheck"
GRANT = "/consentd.v1.ConsentService/GrantConsent"
CHANGES_PER_S = 200
ROUNDS = 3
HISTORY = 100
HISTORIES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The ledger and the settings of all cases.

    Attributes:
        seconds: how long each load is measured.
        questions: how many different questions are asked.
        server_core, load_core: the core of each process; None if the machine has only one.
    """

    world: World
    seconds: float
    questions: int
    server_core: int | None
    load_core: int | None

    def server(self, *, pinned: bool = True) -> Server:
        """Start a daemon on the world."""
        return Server(self.world.config_file, self.server_core if pinned else None)

    def load(self, port: int, path: str, messages: Sequence[Message], **more: Any) -> Load:
        """Return a load of *messages*, serialised now."""
        more.setdefault("seconds", self.seconds)
        more.setdefault("warm_s", min(1.0, self.seconds / 2))
        more.setdefault("token", self.world.token)
        return Load(port=port, path=path, messages=[message.SerializeToString() for message in messages], **more)

    def run(self, server: Server, path: str, messages: Sequence[Message], **more: Any) -> Loaded:
        """Run a load; fail unless every call was answered."""
        load, before = self.load(server.port, path, messages, **more), server.cpu_s()
        loaded = run(load, self.load_core)
        loaded.server_cpu_s = server.cpu_s() - before
        assert not loaded.failed, f"{loaded.failed} calls of {path} were not answered"
        return loaded

    @property
    def boundary(self) -> str:
        """Return the boundary of the measurement."""
        return "gRPC on loopback, no TLS, " + ("server on one core" if self.server_core is not None else "not pinned")


def measure_check(bench: Bench) -> list[Row]:
    """Measure unary Check with different questions: at full load, unloaded, and by outcome."""
    asked = make_questions(3, bench.questions, bench.world.subjects)
    messages = [ps.CheckRequest(question=question) for question, _ in asked]
    with bench.server() as server:
        full = bench.run(server, CHECK, messages)
        alone = bench.run(server, CHECK, messages, in_flight=1, connections=1)
        permits, negatives = ([m for m, (_, o) in zip(messages, asked, strict=True) if (o == pb.OUTCOME_PERMIT) is yes]
                              for yes in (True, False))  # fmt: skip
        positive = bench.run(server, CHECK, permits, in_flight=1, connections=1)
        negative = bench.run(server, CHECK, negatives, in_flight=1, connections=1)
    for loaded in (full, alone):
        check_answers(asked, [(location, _outcome(answer)) for location, answer in loaded.answers])
    p50, p99 = (percentile(alone.latencies_s, fraction) * 1e3 for fraction in (0.5, 0.99))
    ratio = percentile(negative.latencies_s, 0.5) / percentile(positive.latencies_s, 0.5)
    common: dict[str, Any] = {"case": "check", "boundary": bench.boundary, "sample_unit": "s"}
    return [
        Row(**common, name="Check, 32 in flight", value=full.rate, unit="/s", at_least=3_500, note=note_of(full),
            samples=full.latencies_s),
        Row(**common, name="Check unloaded, p50", value=p50, unit="ms", at_most=0.3, note=note_of(alone),
            samples=alone.latencies_s),
        Row(**common, name="Check unloaded, p99 ÷ p50", value=p99 / p50, unit="×", at_most=2.5),
        Row(**common, name="a negative answer ÷ a positive, p50", value=ratio, unit="×", note="unloaded"),
    ]  # fmt: skip


def measure_batch(bench: Bench) -> list[Row]:
    """Measure BatchCheck of 100 different questions, and one question about 100 subjects."""
    asked = make_questions(4, bench.questions - bench.questions % BATCH, bench.world.subjects)
    groups = [asked[at : at + BATCH] for at in range(0, len(asked), BATCH)]
    different = [
        ps.BatchCheckRequest(each=ps.QuestionList(questions=[question for question, _ in group])) for group in groups
    ]
    shared = []
    for group in groups:
        about = ps.SharedQuestion(question=group[0][0], subjects=[question.subject for question, _ in group])
        about.question.ClearField("subject")
        shared.append(ps.BatchCheckRequest(shared=about))
    with bench.server() as server:
        rows = []
        forms = (("different questions", different, 60_000), ("shared question", shared, 160_000))
        for name, messages, at_least in forms:
            loaded = bench.run(server, BATCH_CHECK, messages, in_flight=8)
            for location, answer in loaded.answers:
                results = ps.BatchCheckResponse.FromString(answer).results
                outcomes = [result.decision.outcome for result in results]
                if messages is different:
                    check_answers(groups[location], list(enumerate(outcomes)))
                else:
                    assert outcomes[0] == groups[location][0][1], "the question's own subject is answered as alone"
            rows.append(
                Row(
                    case="batch",
                    name=f"BatchCheck of {BATCH}, {name}",
                    value=loaded.rate * BATCH,
                    unit="decisions/s",
                    at_least=at_least,
                    boundary=bench.boundary,
                    note=note_of(loaded) + ", 8 in flight",
                    samples=loaded.latencies_s,
                    sample_unit="s per batch",
                )
            )
    return rows


def measure_revoke(bench: Bench) -> list[Row]:
    """Measure how long a revoke takes until the next check sees it, and how much changes slow down checks."""
    who = subject(0)
    question = make_question(Random(6), 0, pb.OUTCOME_PERMIT)
    del question.categories[:]
    question.purpose, question.actor.organisation = "TRAIN", "recipient-07"
    question.categories.append("CLIN.DX")
    root = pb.Provision(
        effect=pb.EFFECT_PERMIT, actors=["recipient-07"], purposes=["TRAIN"], categories=["CLIN"]
    )
    consent = pb.Consent(kind=pb.CONSENT_KIND_CONSENT, root=root, language="ko")
    acks, stale = [], 0
    metadata = (("authorization", f"Bearer {bench.world.token}"),)
    with bench.server() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        consent_stub = consent_service_pb2_grpc.ConsentServiceStub(channel)
        check = policy_service_pb2_grpc.PolicyServiceStub(channel).Check
        for _ in range(max(20, round(60 * bench.seconds))):
            granted = consent_stub.GrantConsent(
                cs.GrantConsentRequest(
                    request_id=os.urandom(16), subject=who, attested=st.GrantStatement(consent=consent)
                ), metadata=metadata
            )
            before = check(ps.CheckRequest(question=question), metadata=metadata).decision.outcome
            assert before == pb.OUTCOME_PERMIT, "a grant is seen by the next check"
            started = time.perf_counter()
            consent_stub.RevokeConsent(
                cs.RevokeConsentRequest(
                    request_id=os.urandom(16), subject=who, consent_id=granted.consent_id, attested=st.RevokeStatement()
                ),
                metadata=metadata,
            )
            acks.append(time.perf_counter() - started)
            after = check(ps.CheckRequest(question=question), metadata=metadata).decision.outcome
            stale += after == pb.OUTCOME_PERMIT
        assert not stale, f"{stale} checks that began after a revoke was acknowledged permitted on its ground"
        rounds = _with_changes(bench, server)
    fractions = [changing.rate / quiet.rate for quiet, changing in rounds]
    rates = ", ".join(f"{quiet.rate:,.0f} → {changing.rate:,.0f}/s" for quiet, changing in rounds)
    common: dict[str, Any] = {"case": "revoke", "boundary": bench.boundary}
    return [
        Row(**common, name="RevokeConsent acknowledged and in force, p99", unit="ms", at_most=25,
            value=percentile(acks, 0.99) * 1e3,
            note=f"{spread(acks)}; 0 stale of {len(acks)} checks after it", samples=acks, sample_unit="s"),
        Row(**common, name=f"checks while {CHANGES_PER_S} consents/s change, share of before", at_least=0.9,
            value=median(fractions), unit="×", note=rates, samples=fractions, sample_unit="×"),
    ]  # fmt: skip


def _with_changes(bench: Bench, server: Server) -> list[tuple[Loaded, Loaded]]:
    """Measure checks at full load, alternately without and with consents that change at the same time."""
    asked = make_questions(7, bench.questions, bench.world.subjects)
    messages = [ps.CheckRequest(question=question) for question, _ in asked]
    seconds = bench.seconds / 2
    rounds = []
    for _ in range(ROUNDS):
        grants = [
            cs.GrantConsentRequest(
                request_id=os.urandom(16), subject=subject(number % bench.world.subjects),
                attested=st.GrantStatement(consent=consents(number)[0])
            )
            for number in range(round(CHANGES_PER_S * (seconds + 2)))
        ]
        quiet = bench.run(server, CHECK, messages, seconds=seconds)
        more = {"rate": CHANGES_PER_S, "once": True, "seconds": seconds + 2, "warm_s": 0}
        changes = Generator(bench.load(server.port, GRANT, grants, **more), bench.load_core)
        changing = bench.run(server, CHECK, messages, seconds=seconds)
        assert not changes.result().failed, "every change was acknowledged"
        rounds.append((quiet, changing))
    return rounds


def measure_history(bench: Bench) -> list[Row]:
    """Measure a history of 100 entries with its proof: read over gRPC, and verified by the client."""
    chosen = Random(9)
    numbers = sorted(chosen.sample(range(bench.world.subjects), min(HISTORIES, bench.world.subjects)))
    metadata = (("authorization", f"Bearer {bench.world.token}"),)
    log_key = format_vkey(read_keys(load_config(bench.world.config_file)).log.verifier)
    reads: list[float] = []
    whole: list[float] = []
    pieces: list[ls.GetHistoryResponse] = []
    entries = 0
    with bench.server() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for number in numbers:
            asked = [(make_question(chosen, number, pb.OUTCOME_PERMIT), pb.OUTCOME_PERMIT)]
            accesses = make_accesses(asked * (HISTORY - ENTRIES_PER_SUBJECT))
            grown = ac.BatchAuthorizeAccessesRequest(requests=accesses, wait_for=pb.WAIT_FOR_PUBLISHED)
            access_service_pb2_grpc.AccessServiceStub(channel).BatchAuthorizeAccesses(grown, metadata=metadata)
        read = ledger_service_pb2_grpc.LedgerServiceStub(channel).GetHistory
        for _ in range(max(20, round(150 * bench.seconds))):
            request = ls.GetHistoryRequest(subject=subject(chosen.choice(numbers)))
            started = time.perf_counter()
            pieces = list(read(request, metadata=metadata))
            reads.append(time.perf_counter() - started)
        for _ in range(max(5, round(5 * bench.seconds))):
            client = Client("", token=bench.world.token, trust=pin(log_key), channel=channel)
            who = subject(chosen.choice(numbers))
            started = time.perf_counter()
            entries = len(client.history(who).entries)
            whole.append(time.perf_counter() - started)
    assert entries >= HISTORY, "the history holds what was authorised"
    weight = weigh(pieces)
    common: dict[str, Any] = {"case": "history", "boundary": bench.boundary, "sample_unit": "s"}
    about = f"{entries} entries, each time of one of {len(numbers)} of {bench.world.subjects:,} subjects"
    beside = f"and {weight.authors_proofs:,} of its authors' chains, {weight.authors_entries:,} of their entries"
    return [
        Row(**common, name="history and its proof read, p99", value=percentile(reads, 0.99) * 1e3, unit="ms",
            at_most=10, samples=reads, note=f"{spread(reads)}; {about}; {weight.entries:,} bytes of entries"),
        Row(**common, name="… its proof, beside the entries", value=weight.proof, unit="bytes", at_most=2_048,
            samples=[piece.ByteSize() for piece in pieces],
            note=f"checkpoint, seal, its inclusion, map proof of the chain asked for; {beside}"),
        Row(**common, name="… and verified, each signature too, p50", value=median(whole) * 1e3, unit="ms",
            samples=whole, note=f"by the client library, which holds nothing yet; {about}"),
    ]  # fmt: skip


@dataclass(slots=True)
class Weight:
    """How many bytes of a streamed history are for what.

    Attributes:
        proof: the head, and the header of the chain asked for; its size does not depend on the chain's length.
        entries: of the chain asked for, openings included.
        authors_proofs: the headers of the public chains of its authors, that of the ledger's own keys included.
        authors_entries: of those chains, all of them.
    """

    proof: int = 0
    entries: int = 0
    authors_proofs: int = 0
    authors_entries: int = 0


def weigh(pieces: Sequence[ls.GetHistoryResponse]) -> Weight:
    """Add up the bytes of a streamed history by their purpose."""
    weight, chains = Weight(), 0
    for piece in pieces:
        size = piece.ByteSize()
        if piece.WhichOneof("piece") == "entries":
            if chains == 1:
                weight.entries += size
            else:
                weight.authors_entries += size
        else:
            chains += piece.WhichOneof("piece") == "chain"
            if chains <= 1:
                weight.proof += size
            else:
                weight.authors_proofs += size
    return weight


def measure_start(bench: Bench) -> list[Row]:
    """Measure a start on the ledger, and the daemon's memory after its first answer."""
    entries = bench.world.subjects * ENTRIES_PER_SUBJECT
    asked = make_questions(8, bench.questions, bench.world.subjects)
    messages = [ps.CheckRequest(question=question) for question, _ in asked]
    starts = []
    memory: dict[str, int] = {}
    for _ in range(3):
        with bench.server() as server:
            starts.append(server.started.start_s)
            bench.run(server, CHECK, messages, seconds=min(bench.seconds, 2.0))
            memory = server.memory_bytes()
    common: dict[str, Any] = {"case": "start", "boundary": bench.boundary}
    name = f"{entries:,} entries, {bench.world.subjects:,} subjects"
    rows = [
        Row(**common, name=f"start with {name}", value=median(starts), unit="s", at_most=3, samples=starts,
            sample_unit="s", note="opens and verifies everything; imports not counted"),
        Row(**common, name="memory of the daemon", value=memory["VmRSS"] / 2**20, unit="MiB",
            note=f"its own {memory['RssAnon'] >> 20} MiB; the rest is mapped files, mostly the table's pages"),
    ]  # fmt: skip
    if bench.world.build_s:
        rows.append(
            Row(case="start", name="entries appended to build it", value=bench.world.entries / bench.world.build_s,
                unit="/s", boundary="in process, durable, batches of up to 2,000, signed, map and seals included")
        )  # fmt: skip
    return rows


def make_accesses(asked: Sequence[Asked]) -> list[ac.AuthorizeAccessRequest]:
    """Return a request for each question, with a fresh request_id."""
    return [ac.AuthorizeAccessRequest(request_id=os.urandom(16), question=question) for question, _ in asked]


def _outcome(answer: bytes) -> "pb.Outcome.ValueType":
    return ps.CheckResponse.FromString(answer).decision.outcome


def check_answers(asked: Sequence[Asked], answered: Sequence[tuple[int, "pb.Outcome.ValueType"]]) -> None:
    """Fail if one of the answers, (index of the question, outcome), is wrong."""
    wrong = count_wrong(asked, answered)
    assert not wrong, f"{wrong} of {len(answered)} answers are wrong"


def note_of(loaded: Loaded) -> str:
    """Return the note for a figure: percentiles, processor time, and what was checked."""
    rates = loaded.rates
    windows = f"{min(rates):,.0f}–{max(rates):,.0f}/s; " if len(rates) >= 4 else ""
    checked = f"{len(loaded.answers):,} answers checked"
    cpu = f"server's processor time {loaded.server_cpu_s / len(loaded.answers) * 1e6:,.0f} µs a call"
    return f"{windows}{spread(loaded.latencies_s)}; {cpu}; {checked}; load generator {loaded.busy:.0%} busy"
