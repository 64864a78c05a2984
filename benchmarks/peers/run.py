"""Run the comparison with peers: ``python -m benchmarks --peers [NAME …]``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.pace import measure_pace
from benchmarks.peers import embedded, measure, results
from benchmarks.peers.cerbos import Cerbos
from benchmarks.peers.generator import missing_generator
from benchmarks.peers.opa import Opa
from benchmarks.peers.ours import Daemon, Gate, Limit
from benchmarks.peers.peer import Embedded, Peer
from benchmarks.peers.people import People
from benchmarks.report import ROOT, machine

SERVERS: tuple[Peer, ...] = (Limit(), Gate(1), Gate(2), Daemon(), Opa(), Cerbos())
EMBEDDED: tuple[Embedded, ...] = (embedded.Evaluator(), embedded.Cedar(), embedded.Casbin(), embedded.Rego())
NAMES = (*(peer.name for peer in SERVERS), *(peer.name for peer in EMBEDDED))
RESULTS = ROOT / "benchmarks" / "results"
PEOPLE, QUESTIONS = 10_000, 20_000
QUICK_PEOPLE, QUICK_QUESTIONS = 200, 400
EMBEDDED_PEOPLE, EMBEDDED_QUESTIONS = 40, 400
RATE = 300.0


def compare(options: argparse.Namespace, console: Console) -> int:
    """Measure the peers that ``options.peers`` names, or all; show the results and write them.

    A peer that is not installed is named with the reason, and no figure of it is shown.
    """
    names = options.peers or NAMES
    quick = options.quick
    settings = measure.Settings(seconds=options.seconds, rounds=options.rounds, rate=RATE)
    people = People(options.people or (QUICK_PEOPLE if quick else PEOPLE), QUICK_QUESTIONS if quick else QUESTIONS)
    few = People(EMBEDDED_PEOPLE, EMBEDDED_QUESTIONS)
    available = sorted(os.sched_getaffinity(0))
    cores = (available[0], available[1]) if len(available) > 1 else (None, None)
    about = machine()
    paces = [measure_pace()]
    servers = [peer for peer in SERVERS if peer.name in names]
    found = []
    with tempfile.TemporaryDirectory(prefix="consentd-peers-", dir=options.dir) as directory:
        if servers and (missing := missing_generator()):
            console.print(f"no server is measured: {missing}")
        elif servers:
            found = measure.measure_served(servers, people, Path(directory), cores, settings, _tell)
    paces.append(measure_pace())
    found += measure.measure_embedded([peer for peer in EMBEDDED if peer.name in names], few, settings, _tell)
    paces.append(measure_pace())
    results.show(found, console)
    about |= {
        "people": people.count, "questions": people.questions, "rounds": settings.rounds, "seconds": settings.seconds,
        "rate": settings.rate, "quick": quick, "paces": paces, "load_at_end": os.getloadavg(),
    }  # fmt: skip
    as_json, chart = results.write(found, about, options.results)
    console.print(
        f"{about['cpu']}, {about['cores']} cores; load {about['load'][0]:.1f} before, {about['load_at_end'][0]:.1f} "
        f"after; pace {', '.join(f'{pace:.2f}' for pace in paces)}; written to {as_json} and {chart}"
    )
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
