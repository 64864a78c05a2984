"""Measure an audit of a stopped daemon's files: verify a whole ledger, and replay all its decisions."""

import hashlib
import os
import resource
import shutil
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apart import peak_bytes, reset_peak, run_apart
from benchmarks.over_wire import Bench
from benchmarks.questions import make_questions
from benchmarks.report import Row
from benchmarks.world import RELAY
from consentd import config
from consentd.audit.files import DataDirectory
from consentd.audit.replay import replay_decisions
from consentd.audit.verify import verify_ledger
from consentd.cosigning.keyfiles import read_signing_key
from consentd.ledger.kek import read_keks
from consentd.sequencer.commands.accesses import AuthorizeAccess
from consentd.server.daemon import Daemon
from consentd.service.requests import make_request
from consentd.statements import decisions
from consentd.v1 import statement_pb2 as st


@dataclass(frozen=True, slots=True)
class Audited:
    """How an audit went.

    Attributes:
        size: leaves.
        checked: statements whose author was verified, or decisions that came out the same.
        wall_s, cpu_s: seconds, and seconds of processor time of all processes.
        peak_bytes: most memory of this process, mapped files not counted, and ``jobs`` times that of its largest
            worker.
    """

    size: int
    checked: int
    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure_audit(bench: Bench) -> list[Row]:
    """Add a decision for each subject to the ledger, then measure a full audit of it."""
    run_apart(_decide, bench.world.config_file, bench.world.subjects)
    jobs = len(os.sched_getaffinity(0))
    rows = []
    for verb, does, checks in (
        ("verify", "leaves, tree, seals, signatures", "statements verified"),
        ("replay", "decisions taken again", "decisions came out the same"),
    ):
        found = run_apart(_audit, verb, bench.world.config_file, bench.world.directory / "replay", jobs)
        rows.append(
            Row(
                case="audit",
                name=f"audit {verb} of {found.size:,} entries: {does}",
                value=found.size / found.wall_s / jobs,
                unit="/s a core",
                at_least=3_500,
                boundary=f"in process, {jobs} at work, a stopped daemon's files",
                note=f"{found.size / found.wall_s:,.0f}/s in all, {found.cpu_s / found.wall_s:.2f} cores busy; "
                f"{found.checked:,} {checks}; at most {found.peak_bytes / 2**20:.0f} MiB in all processes",
                samples=[found.wall_s],
                sample_unit="s",
            )
        )
    return rows


def _decide(config_file: Path, count: int) -> None:
    """Append decisions through the sequencer, as a daemon does, for different questions in the proportions of MIX."""
    daemon = Daemon(config.load(config_file))
    daemon.start()
    services = daemon.service_state.services
    assert services is not None, "a daemon that started serves"
    waiting: deque[Future[Any]] = deque()
    for question, _ in make_questions(13, count, count):
        content = question.SerializeToString()
        write = AuthorizeAccess(
            request=make_request(RELAY, os.urandom(16), hashlib.sha256(content).digest()),
            identifier_hash=services.vault.identifier_hash(question.subject.scheme, question.subject.value),
            scheme=question.subject.scheme,
            question=decisions.question_value(question),
            asked=st.AskedQuestion(question=content, asker=RELAY, network_origin="127.0.0.1"),
        )
        while len(waiting) >= 5_000:
            waiting.popleft().result()
        waiting.append(services.sequencer.submit(write))
    for future in waiting:
        future.result()
    daemon.stop()


def _audit(verb: str, config_file: Path, state_dir: Path, jobs: int) -> Audited:
    found = config.load(config_file)
    location = DataDirectory(
        store_dir=found.ledger.store_dir,
        checkpoint_path=found.ledger.last_signed_path,
        vault_dir=found.ledger.vault_dir,
        keks=read_keks(found.keys),
    )
    known: dict[str, Any] = {
        "origin": found.ledger.origin, "log_verifier": read_signing_key(found.keys.log_key_file).verifier, "jobs": jobs
    }  # fmt: skip
    reset_peak()
    started, before_s = time.perf_counter(), time.process_time()
    if verb == "verify":
        report = verify_ledger(location, **known)
        assert not report.faults, f"a sound ledger has no fault: {report.faults}"
        assert not report.not_checked, f"all of it can be checked: {report.not_checked}"
        size, checked = report.checkpoint.size, report.statements_opened
    else:
        replayed = replay_decisions(location, state_dir=state_dir, **known)
        assert not replayed.faults, f"a sound ledger has no fault: {replayed.faults}"
        assert not replayed.not_checked, f"all of it can be checked: {replayed.not_checked}"
        size, checked = replayed.checkpoint.size, sum(replayed.same.values())
        shutil.rmtree(state_dir)
    wall_s = time.perf_counter() - started
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = sum(one.ru_utime + one.ru_stime for one in (own, workers)) - before_s
    return Audited(size, checked, wall_s, cpu_s, peak_bytes() + jobs * 1024 * workers.ru_maxrss)
