"""Measure durable accesses over gRPC: single, in batches, signed, repeated, until their proof is available."""

import os
import time
from collections.abc import Iterator, Sequence
from random import Random
from statistics import median
from typing import Any

from benchmarks.load import Loaded
from benchmarks.over_wire import BATCH, ROUNDS, Bench, check_answers, make_accesses, note_of
from benchmarks.questions import Asked, make_questions
from benchmarks.report import Row, percentile, spread
from benchmarks.tag_map import tag_of
from benchmarks.world import RELAY_KEY
from consentd.config import load as load_config
from consentd.core.checkpoint import verify_proof
from consentd.core.kinds import EntryKind
from consentd.server.keys import read_keys
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st
from consentd_client.signing import StatementSigner

AUTHORIZE = "/consentd.v1.AccessService/AuthorizeAccess"
BATCH_AUTHORIZE = "/consentd.v1.AccessService/BatchAuthorizeAccesses"
BATCH_RECORD = "/consentd.v1.AccessService/BatchRecordAccesses"
WAITING_SHARE = 20
"""Every so many calls, one waits for its proof. Few callers do, and the daemon has 64 threads for calls that wait."""
PUBLISHED_PER_S = 1_000


def measure_access(bench: Bench) -> list[Row]:
    """Measure durable accesses: single calls with many in flight, and batches; on one core and on both."""
    count = bench.questions
    asked = make_questions(5, count, bench.world.subjects)
    rows = []
    for pinned, boundary in _boundaries(bench):
        with bench.server(pinned=pinned) as server:
            full = bench.run(server, AUTHORIZE, make_accesses(asked), in_flight=64, once=True, seconds=120, warm_s=0)
            slow = bench.run(
                server, AUTHORIZE, make_accesses(asked), in_flight=64, rate=500, seconds=bench.seconds, once=True
            )
            batches = [ac.BatchAuthorizeAccessesRequest(requests=part) for part in _batches(make_accesses(asked))]
            together = bench.run(server, BATCH_AUTHORIZE, batches, in_flight=4, once=True, seconds=120, warm_s=0)
        for loaded in (full, slow):
            answers = [(location, ac.AuthorizeAccessResponse.FromString(answer)) for location, answer in loaded.answers]
            assert all(answer.HasField("receipt") for _, answer in answers), "every access is recorded"
            check_answers(asked, [(location, answer.decision.outcome) for location, answer in answers])
        _check_batches(asked, together.answers)
        common: dict[str, Any] = {"case": "access", "boundary": boundary, "sample_unit": "s"}
        rows += [
            Row(**common, name="AuthorizeAccess, 64 in flight", value=full.rate, unit="/s", note=note_of(full),
                at_least=1_000 if pinned else 1_200, samples=full.latencies_s),
            Row(**common, name="AuthorizeAccess at 500/s, ack p99", value=percentile(slow.latencies_s, 0.99) * 1e3,
                unit="ms", at_most=25, note=note_of(slow), samples=slow.latencies_s),
            Row(**common, name=f"BatchAuthorizeAccesses of {BATCH}", value=count / together.seconds, unit="entries/s",
                at_least=2_500 if pinned else 4_000, note=note_of(together), samples=together.latencies_s),
        ]  # fmt: skip
    return rows


def measure_signed(bench: Bench) -> list[Row]:
    """Measure batches with a signature of the author on each item, which the daemon verifies.

    A signed question is stored in an ACCESS or REFUSAL that the daemon signs. A signed outcome is an entry that its
    author signs.
    """
    asked = make_questions(11, bench.questions, bench.world.subjects)
    config = load_config(bench.world.config_file)
    rows = []
    for pinned, boundary in _boundaries(bench):
        with bench.server(pinned=pinned) as server:
            questions = [_signed(question, config.ledger.origin) for question, _ in asked]
            batches = [ac.BatchAuthorizeAccessesRequest(requests=part) for part in _batches(questions)]
            decided = bench.run(server, BATCH_AUTHORIZE, batches, in_flight=4, once=True, seconds=120, warm_s=0)
            seqs = _check_batches(asked, decided.answers)
            outcomes = [
                _outcome(asked[location][0], seq, config.ledger.origin)
                for location, seq in seqs
                if asked[location][1] == pb.OUTCOME_PERMIT
            ]
            records = [ac.BatchRecordAccessesRequest(requests=part) for part in _batches(outcomes)]
            recorded = bench.run(server, BATCH_RECORD, records, in_flight=4, once=True, seconds=120, warm_s=0)
        receipts = sum(len(ac.BatchRecordAccessesResponse.FromString(one).receipts) for _, one in recorded.answers)
        assert receipts == len(outcomes), "every outcome is recorded"
        common: dict[str, Any] = {"case": "signed", "boundary": boundary, "unit": "entries/s", "sample_unit": "s"}
        common["at_least"] = 2_500 if pinned else 4_000
        rows += [
            Row(**common, name=f"BatchAuthorizeAccesses of {BATCH}, each signed by its asker",
                value=len(asked) / decided.seconds, note=note_of(decided), samples=decided.latencies_s),
            Row(**common, name=f"BatchRecordAccesses of {BATCH}, each signed by its author",
                value=receipts / recorded.seconds, note=note_of(recorded), samples=recorded.latencies_s),
        ]  # fmt: skip
    return rows


def measure_published(bench: Bench) -> list[Row]:
    """Measure the time from sending an access to its verified inclusion proof, at a fixed rate, on all cores.

    One call in ``WAITING_SHARE`` is answered only with its proof, once a signed checkpoint covers the entry; the others
    are acknowledged as they are durable, and keep the ledger busy. Latency counts from when a call was due.
    """
    warm_s = min(1.0, bench.seconds)
    asked = make_questions(12, round(PUBLISHED_PER_S * (bench.seconds + warm_s)), bench.world.subjects)
    requests = make_accesses(asked)
    for request in requests[::WAITING_SHARE]:
        request.wait_for = pb.WAIT_FOR_PUBLISHED
    with bench.server(pinned=False) as server:
        more: dict[str, Any] = {"rate": PUBLISHED_PER_S, "seconds": bench.seconds, "warm_s": warm_s, "once": True}
        loaded = bench.run(server, AUTHORIZE, requests, in_flight=64, **more)
    config = load_config(bench.world.config_file)
    verifier = read_keys(config).log.verifier
    proven = 0
    for location, body in loaded.answers:
        answer = ac.AuthorizeAccessResponse.FromString(body)
        check_answers(asked, [(location, answer.decision.outcome)])
        if location % WAITING_SHARE == 0:
            assert answer.receipt.published, "who waits for a proof gets one"
            verify_proof(
                answer.receipt.proof, leaf_hash=answer.receipt.leaf_hash, origin=config.ledger.origin,
                log_verifier=verifier,
            )
            proven += 1
    timed = list(zip(loaded.locations, loaded.latencies_s, strict=True))
    waited = [seconds for location, seconds in timed if location % WAITING_SHARE == 0]
    acks = [seconds for location, seconds in timed if location % WAITING_SHARE]
    return [
        Row(
            case="published",
            name=f"access to inclusion proof at {PUBLISHED_PER_S:,}/s, p99",
            value=percentile(waited, 0.99) * 1e3,
            unit="ms",
            at_most=500,
            boundary="gRPC on loopback, no TLS, durable, server on all cores, beside the load",
            note=f"{spread(waited)}; {proven} proofs verified; checkpoints every "
            f"{config.ledger.checkpoint_interval_ms} ms, no witnesses; acks {spread(acks)}; "
            f"{len(loaded.latencies_s) / loaded.seconds:,.0f}/s answered; load generator {loaded.busy:.0%} busy",
            samples=waited,
            sample_unit="s",
        )
    ]


def measure_repeat(bench: Bench) -> list[Row]:
    """Measure repeats of requests that are recorded, against their first calls: single calls and batches.

    Every round asks new questions, then sends the same requests again. The ratios decide: both are of one run.
    """
    ratios: dict[str, list[float]] = {"unary": [], "batch": []}
    firsts: dict[str, list[Loaded]] = {"unary": [], "batch": []}
    repeats: dict[str, list[Loaded]] = {"unary": [], "batch": []}
    more: dict[str, Any] = {"once": True, "seconds": 120, "warm_s": 0}
    with bench.server() as server:
        for number in range(ROUNDS):
            singles = make_accesses(make_questions(20 + number, bench.questions, bench.world.subjects))
            parts = _batches(make_accesses(make_questions(40 + number, bench.questions, bench.world.subjects)))
            batches = [ac.BatchAuthorizeAccessesRequest(requests=part) for part in parts]
            loads = (("unary", AUTHORIZE, singles, 64), ("batch", BATCH_AUTHORIZE, batches, 4))
            for name, path, requests, in_flight in loads:
                first, again = (bench.run(server, path, requests, in_flight=in_flight, **more) for _ in range(2))
                _check_repeats(name, first, again)
                firsts[name].append(first)
                repeats[name].append(again)
                ratios[name].append(first.seconds / again.seconds)
    return [
        Row(case="repeat", boundary=bench.boundary + ", durable", name=title, unit="×", at_least=1.2,
            value=median(ratios[name]), samples=ratios[name], sample_unit="×",
            note=f"{_rates(bench, firsts[name])} → {_rates(bench, repeats[name])}; {note_of(repeats[name][-1])}")
        for name, title in (("unary", "a repeat ÷ a first, AuthorizeAccess, 64 in flight"),
                            ("batch", f"a repeat ÷ a first, BatchAuthorizeAccesses of {BATCH}"))
    ]  # fmt: skip


def _rates(bench: Bench, loads: Sequence[Loaded]) -> str:
    return ", ".join(f"{bench.questions / loaded.seconds:,.0f}" for loaded in loads) + "/s"


def _check_repeats(name: str, first: Loaded, again: Loaded) -> None:
    """Fail unless each repeat has the receipt and the decision of its first call, and a decision taken now."""

    def answers(loaded: Loaded) -> Iterator[tuple[tuple[int, int], ac.AuthorizeAccessResponse]]:
        for location, body in loaded.answers:
            if name == "unary":
                yield (location, 0), ac.AuthorizeAccessResponse.FromString(body)
                continue
            for at, result in enumerate(ac.BatchAuthorizeAccessesResponse.FromString(body).results):
                yield (location, at), result.response

    before = dict(answers(first))
    for location, answer in answers(again):
        assert answer.receipt.replayed
        assert answer.receipt.leaf == before[location].receipt.leaf, "a repeat gets the first receipt"
        assert answer.decision == before[location].decision, "a repeat gets the first decision"
        assert answer.current_decision.outcome == answer.decision.outcome, "nothing changed meanwhile"


def _boundaries(bench: Bench) -> Iterator[tuple[bool, str]]:
    """Yield (pinned, boundary): first on one core if there are two, then on all."""
    for pinned in (True, False) if bench.server_core is not None else (False,):
        where = "server on one core" if pinned else "server on all cores, beside the load"
        yield pinned, f"gRPC on loopback, no TLS, durable, {where}"


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]


def _check_batches(asked: Sequence[Asked], answers: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
    """Check the answers of batches; return (index of the question, seq of its entry) of each."""
    seqs = []
    for location, answer in answers:
        results = ac.BatchAuthorizeAccessesResponse.FromString(answer).results
        outcomes = [result.response.decision.outcome for result in results]
        check_answers(asked[location * BATCH : location * BATCH + BATCH], list(enumerate(outcomes)))
        seqs += [(location * BATCH + at, result.response.access_seq) for at, result in enumerate(results)]
    return seqs


def _signer(question: pb.Question, origin: str) -> StatementSigner:
    number = int(question.subject.value.removeprefix("BENCH-"))
    return StatementSigner(key=RELAY_KEY, origin=origin, tag=tag_of(number))


def _signed(question: pb.Question, origin: str) -> ac.AuthorizeAccessRequest:
    request_id = os.urandom(16)
    signed = _signer(question, origin).sign_question(question, request_id=request_id, now_ms=_now_ms())
    return ac.AuthorizeAccessRequest(request_id=request_id, signed_question=signed)


def _outcome(question: pb.Question, seq: int, origin: str) -> ac.RecordAccessRequest:
    random = Random(seq)
    outcome = st.OutcomeStatement(
        status=st.TRANSFER_STATUS_RECEIVED,
        categories=question.categories,
        resource_count=random.randrange(1, 100),
        byte_count=random.randrange(1 << 20),
        happened_time_ms=_now_ms(),
    )
    request_id = os.urandom(16)
    signed = _signer(question, origin).sign(
        EntryKind.OUTCOME, outcome, request_id=request_id, now_ms=_now_ms(), ref=seq
    )
    return ac.RecordAccessRequest(request_id=request_id, subject=question.subject, access_seq=seq, signed=signed)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
