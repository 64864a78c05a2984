"""Measure in process, without gRPC: the evaluator, and a read of the policy table."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.report import Row
from consentd.policy.codebook import Codebook, PackedQuestion, Parties, pack_question
from consentd.policy.compile import CompiledRules, compile_consent, compile_rules
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY
from consentd.policy.evaluate import evaluate
from consentd.policy.model import Actor, Consent, Effect, Kind, Outcome, Provision, Question, Rules, StoredConsent
from consentd.policy.subject import with_consent
from consentd.store.lmdb import Environment

REPEATS = 15
NOW_MS = 1_764_000_000_000
NUMBERS = {f"party-{number:02d}": number for number in range(1, 41)}
CODEBOOK = Codebook(DEFAULT_VOCABULARY, NUMBERS)
RULES: CompiledRules = compile_rules(Rules(), DEFAULT_VOCABULARY, NUMBERS)
PURPOSES = ("TREAT", "CAREMGT", "HRESCH", "HMARKT")
LOAD_BATCH = 50_000


def make_value(rows: int) -> bytes:
    """Return a subject's value with *rows* consents of one row each; only the last may permit treatment."""
    value: bytes | None = None
    for location in range(rows):
        last = location == rows - 1
        root = Provision(
            effect=Effect.PERMIT,
            actors=(f"party-{1 + location % 40:02d}",),
            purposes=("TREAT" if last else PURPOSES[1 + location % 3],),
            categories=("CLIN",),
        )
        stored = StoredConsent(
            lineage=location + 2, seq=location + 2, version=1, consent=Consent(kind=Kind.CONSENT, root=root)
        )
        compiled = compile_consent(stored, DEFAULT_VOCABULARY, NUMBERS, normal_level=RULES.normal_level)
        value = with_consent(value, stored, compiled)
    assert value is not None
    return value


def make_packed(rows: int) -> PackedQuestion:
    """Return the question that the last of *rows* consents permits."""
    actor, numbers = f"party-{1 + (rows - 1) % 40:02d}", CODEBOOK.numbers
    question = Question(
        actor=Actor(organisation=actor),
        holder="party-40",
        purpose="TREAT",
        action="disclose",
        categories=("CLIN.DX",),
    )
    parties = Parties(permit_actors=numbers(actor), deny_actors=numbers(actor), holders=numbers(question.holder))
    return pack_question(question, CODEBOOK, parties)


def time_each(call: Callable[[int], object], loops: int) -> list[float]:
    """Call *call* with 0, 1, 2 … *loops* - 1, and repeat; return the mean seconds of a call, one sample per repeat."""
    samples = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for number in range(loops):
            call(number)
        samples.append((time.perf_counter() - started) / loops)
    return samples


def measure_evaluator(*, loops: int) -> list[Row]:
    """Measure the evaluator on rows in memory."""
    rows = []
    for count in (1, 4, 16):
        value, packed = make_value(count), make_packed(count)
        assert evaluate(value, packed, RULES, NOW_MS).outcome is Outcome.PERMIT, "the last row permits"
        samples = time_each(partial(_evaluate, value, packed), loops)
        rows.append(micros("evaluator", f"evaluate, {count} rows", samples, 2 if count <= 4 else None, "in memory"))
    return rows


def _evaluate(value: bytes, packed: PackedQuestion, _: int) -> object:
    return evaluate(value, packed, RULES, NOW_MS)


def measure_table(directory: Path, *, subjects: int, loops: int) -> list[Row]:
    """Measure one transaction, one read and one evaluation, for random subjects."""
    random = Random(1)
    shutil.rmtree(directory, ignore_errors=True)
    environment = Environment.open(directory, map_size_mb=64 + subjects // 1_000)
    value, packed = make_value(3), make_packed(3)
    keys = sorted(b"s" + random.randbytes(32) for _ in range(subjects))
    for first in range(0, subjects, LOAD_BATCH):
        with environment.begin_write() as txn:
            for key in keys[first : first + LOAD_BATCH]:
                txn.put(key, value)
    asked = random.choices(keys, k=loops)

    def check(number: int) -> object:
        with environment.begin_read() as txn:
            return evaluate(txn.get(asked[number]), packed, RULES, NOW_MS)

    samples = time_each(check, loops)
    size = environment.used_bytes()
    environment.close()
    shutil.rmtree(directory)
    note = f"{size / subjects:.0f} bytes a subject on disk; rows put straight into the table"
    at_most = 8 if subjects >= 1_000_000 else None
    return [micros("evaluator", f"table read and evaluate, 3 rows, {subjects:,} subjects", samples, at_most, note)]


def micros(case: str, name: str, samples: list[float], at_most: float | None, note: str) -> Row:
    """Return the row of a figure in microseconds; *at_most*: its bar."""
    return Row(
        case=case,
        name=name,
        value=median(samples) * 1e6,
        unit="µs",
        at_most=at_most,
        boundary="in process",
        note=f"min {min(samples) * 1e6:.2f} max {max(samples) * 1e6:.2f}; {note}",
        samples=samples,
        sample_unit="s per call",
    )
