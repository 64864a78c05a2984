"""Measure a campaign in process: to publish it, to list who has not answered, and to evaluate questions meanwhile.

The rows of persons are put straight into a table: each person has one consent under version 1 of a notice. Questions
are evaluated with the rules before and after the campaign in turn, so that a change of the machine's speed meets both.
In the same way they are evaluated with and without a list beside them, on a thread of the pool that lists have in a
daemon, which rests as if checks were in flight.
"""

import shutil
import sys
import time
from pathlib import Path
from random import Random
from statistics import median
from threading import Event, Thread
from typing import Any

from google.protobuf.message import Message

from benchmarks.in_process import REPEATS, micros
from benchmarks.report import Row
from consentd.config import GrpcConfig
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.metrics import Metrics
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import CompiledRules, compile_consent
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import evaluate
from consentd.policy.model import Actor, Consent, Effect, Kind, Outcome, Provision, Question, Rules, StoredConsent
from consentd.policy.subject import with_consent
from consentd.server.pauses import shorten_pauses
from consentd.server.pools import PoolName, make_pools
from consentd.service.campaigns import SelectedConsents
from consentd.statements.values import rules_message, vocabulary_message
from consentd.table.checked_rows import seal_row
from consentd.table.persons import START, Place, read_page
from consentd.table.table import Table
from consentd.table.transaction import TableTransaction
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

NOW_MS = 1_764_000_000_000
BY_MS = NOW_MS + 86_400_000
LOAD_BATCH = 50_000
ROOT_HASH = bytes(32)
ROUNDS, ROUND_S = 5, 1.0  # of evaluation beside a list


def measure_campaigns(directory: Path, *, subjects: int, loops: int) -> list[Row]:
    """Measure a campaign that asks *subjects* persons again."""
    shutil.rmtree(directory, ignore_errors=True)
    table = Table.open(directory, map_size_mb=64 + subjects // 500)
    value = _fill(table, subjects)
    with table.read() as snapshot:
        before, packed = snapshot.registry().rules, _packed(snapshot.registry().codebook)
    started = time.perf_counter()
    with table.begin() as transaction:
        _apply(transaction, 5, EntryKind.NOTICE, "notice/n", _notice(2))
        transaction.commit(6, ROOT_HASH, time_ms=NOW_MS, wall_ms=NOW_MS)
    publishing = time.perf_counter() - started
    with table.read() as snapshot:
        after = snapshot.registry().rules
    rates = [_list_all(table, subjects) for _ in range(3)]
    plain, asking = _evaluated_alternately(value, packed, (before, after), loops)
    alone, beside, listed = _evaluated_beside_a_list(table, value, packed, after)
    table.close()
    shutil.rmtree(directory)
    persons = f"{subjects:,} persons"
    common: dict[str, Any] = {"case": "campaigns", "boundary": "in process"}
    slower = min(plain) / min(asking)  # others use the processor too, and only ever make a turn longer
    shares = [with_list / without for without, with_list in zip(alone, beside, strict=True)]
    return [
        Row(**common, name=f"publish a campaign, {persons}", value=publishing * 1e3, unit="ms", at_most=50,
            note="one transaction of the table; no row of a person changes", samples=[publishing], sample_unit="s"),
        Row(**common, name=f"list who has not answered, {persons}", value=median(rates), unit="persons/s",
            at_least=5_000, note="pages of 1,000, without gRPC", samples=rates, sample_unit="persons/s"),
        micros("campaigns", "evaluate, 1 row under a notice, no campaign", plain, None, "in turn with the next"),
        micros("campaigns", "… while a campaign lasts", asking, None, "in turn with the one before"),
        Row(**common, name="rate of evaluation while a campaign lasts", value=slower, unit="of before", at_least=0.9,
            note="shortest turns of the two rows above"),
        Row(**common, name="rate of evaluation while a list is read", value=median(shares), unit="of alone",
            at_least=0.9, note=f"on another thread, {ROUNDS} rounds of {ROUND_S} s each", samples=shares,
            sample_unit="of alone"),
        Row(**common, name="… and of the list meanwhile", value=median(listed), unit="persons/s", at_least=5_000,
            note="a page after the other, without gRPC", samples=listed, sample_unit="persons/s"),
    ]  # fmt: skip


def _fill(table: Table, subjects: int) -> bytes:
    """Put a realm, a notice and the persons into a table; return the value of each person."""
    realm = rules_message(Rules(), realm_id="realm", version=1, vocabulary_id=DEFAULT_VOCABULARY.id)
    with table.begin() as transaction:
        vocabulary = vocabulary_message(DEFAULT_VOCABULARY)
        _apply(transaction, 0, EntryKind.VOCABULARY, f"vocabulary/{DEFAULT_VOCABULARY.id}", vocabulary)
        _apply(transaction, 1, EntryKind.RULES, "rules/realm", realm)
        for index, name in enumerate(("clinic", "hospital"), 2):
            made = st.ParticipantStatement(participant_id=name, active=True)
            _apply(transaction, index, EntryKind.PARTICIPANT, f"participant/{name}", made)
        _apply(transaction, 4, EntryKind.NOTICE, "notice/n", _notice(1))
        transaction.commit(5, ROOT_HASH, time_ms=NOW_MS, wall_ms=NOW_MS)
    with table.read() as snapshot:
        registry, number = snapshot.registry(), snapshot.notice_number("n", 1)
    root = Provision(
        effect=Effect.PERMIT, actors=("clinic",), holders=("hospital",), purposes=("TREAT",), categories=("CLIN",)
    )
    stored = StoredConsent(
        lineage=2, seq=2, version=1, consent=Consent(kind=Kind.CONSENT, root=root), notice=number
    )
    compiled = compile_consent(
        stored, DEFAULT_VOCABULARY, registry.numbers, normal_level=registry.rules.normal_level
    )
    value, random = with_consent(None, stored, compiled), Random(1)
    keys = sorted(b"s" + random.randbytes(32) for _ in range(subjects))
    for first in range(0, subjects, LOAD_BATCH):
        with table.begin_write() as txn:
            for key in keys[first : first + LOAD_BATCH]:
                txn.put(key, seal_row(key, value))
    return value


def _apply(transaction: TableTransaction, index: int, kind: EntryKind, chain: str, message: Message) -> None:
    tag = codec.public_tag(chain)
    transaction.apply(codec.Event(kind, NOW_MS, tag, index + 1, ROOT_HASH, ROOT_HASH, 0), message, index=index)


def _notice(version: int) -> st.NoticeStatement:
    texts = {"ko": st.NoticeText(content_sha256=bytes(32))}
    asked_ms = BY_MS if version > 1 else 0
    return st.NoticeStatement(
        notice_id="n", version=version, title={"ko": "고지"}, texts=texts, reconsent_by_time_ms=asked_ms
    )


def _list_all(table: Table, subjects: int) -> float:
    """Read all pages as ListReconsents does; return how many persons a second were read."""
    place: Place | None = START
    found, started = 0, time.perf_counter()
    while place is not None:
        with table.read() as snapshot:
            notice = snapshot.notice("n")
            assert notice is not None, "it is published"
            selected = SelectedConsents(snapshot, notice, "clinic", NOW_MS, sees_reasons=False)
            page, place = read_page(snapshot, selected.of, after=place, most=1_000)
            found += len(cs.ListReconsentsResponse(reconsents=page).reconsents)
    assert found == subjects, "nobody has answered"
    return subjects / (time.perf_counter() - started)


def _evaluated_beside_a_list(
    table: Table, value: bytes, packed: PackedQuestion, rules: CompiledRules
) -> tuple[list[float], list[float], list[float]]:
    """Evaluate alone, and while a thread lists, in turn.

    Returns:
        Evaluations a second alone; the same beside a list; persons a second that the list read. One sample a round.
    """
    usual_s = sys.getswitchinterval()
    shorten_pauses()  # as a daemon does
    pools = make_pools(GrpcConfig(), Metrics(), lambda: None)
    assert pools[PoolName.CHECK].try_enter("clinic"), "a check is in flight"
    scan, read, ended = pools[PoolName.SCAN], [0], Event()

    def list_persons() -> None:
        place, worked_from_s = START, time.perf_counter()

        def rest() -> None:
            nonlocal worked_from_s
            worked_s = time.perf_counter() - worked_from_s
            if worked_s >= scan.limits.work_s:
                scan.rest(worked_s)
                worked_from_s = time.perf_counter()

        while not ended.is_set():
            with table.read() as snapshot:
                notice = snapshot.notice("n")
                assert notice is not None, "it is published"
                selected = SelectedConsents(snapshot, notice, "clinic", NOW_MS, sees_reasons=False)
                page, following = read_page(snapshot, selected.of, after=place, most=1_000, rest=rest)
            read[0] += len(page)
            place = following or START

    alone, beside, listed = list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        alone.append(_evaluate_for(value, packed, rules))
        ended.clear()
        thread = Thread(target=list_persons)
        thread.start()
        before = read[0]
        beside.append(_evaluate_for(value, packed, rules))
        listed.append((read[0] - before) / ROUND_S)
        ended.set()
        thread.join()
    pools[PoolName.CHECK].leave("clinic")
    for pool in pools.values():
        pool.close()
    sys.setswitchinterval(usual_s)
    return alone, beside, listed


def _evaluate_for(value: bytes, packed: PackedQuestion, rules: CompiledRules) -> float:
    """Evaluate for ``ROUND_S`` seconds; return how many times a second."""
    count, started = 0, time.perf_counter()
    while (took_s := time.perf_counter() - started) < ROUND_S:
        for _ in range(20):
            evaluate(value, packed, rules, NOW_MS)
        count += 20
    return count / took_s


def _packed(codebook: Codebook) -> PackedQuestion:
    """Return the question that each person's consent permits."""
    question = Question(
        actor=Actor(organisation="clinic"), holder="hospital", purpose="TREAT", action="disclose",
        categories=("CLIN.DX",),
    )  # fmt: skip
    clinic, hospital = codebook.numbers("clinic"), codebook.numbers("hospital")
    return pack_question(question, codebook, Parties(permit_actors=clinic, deny_actors=clinic, holders=hospital))


def _evaluated_alternately(
    value: bytes, packed: PackedQuestion, rules: tuple[CompiledRules, CompiledRules], loops: int
) -> tuple[list[float], list[float]]:
    """Evaluate with each of the two rules in turn; return the mean seconds of a call, a sample for each turn."""
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for of, taken in zip(rules, samples, strict=True):
            assert evaluate(value, packed, of, NOW_MS).outcome is Outcome.PERMIT, "the instant is later"
            started = time.perf_counter()
            for _ in range(loops):
                evaluate(value, packed, of, NOW_MS)
            taken.append((time.perf_counter() - started) / loops)
    return samples
