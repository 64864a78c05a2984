"""Measure peers in turn, A B A B: in each round each peer gets each load, and every answer is compared."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Loaded
from benchmarks.peers.generator import run_load
from benchmarks.peers.peer import BATCH, Embedded, Peer, Place, Served
from benchmarks.peers.people import Asked, People
from benchmarks.report import percentile

ASKED_WITH_A_CLIENT = 200
BATCHES_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long and how often to measure.

    Attributes:
        rate: calls a second of the load at a fixed rate; each peer must be able to answer more.
    """

    seconds: float
    rounds: int
    rate: float


@dataclass(slots=True)
class Figures:
    """What was measured of one peer: for each figure, its value in each round.

    Attributes:
        missing: why nothing was measured; empty if it was.
        busy: the greatest share of a core that the load generator needed; near 1, the generator was the limit.
    """

    name: str
    title: str
    note: str
    is_embedded: bool = False
    missing: str = ""
    rounds: dict[str, list[float]] = field(default_factory=dict)
    busy: float = 0.0
    checked: int = 0

    def add(self, figure: str, value: float) -> None:
        """Add the value of one round."""
        self.rounds.setdefault(figure, []).append(value)

    def value(self, figure: str) -> float | None:
        """Return the median of the rounds; None if it was not measured."""
        values = self.rounds.get(figure)
        return median(values) if values else None


def measure_served(
    peers: Sequence[Peer], people: People, directory: Path, cores: tuple[int | None, int | None], settings: Settings,
    tell: Callable[[str], None],
) -> list[Figures]:  # fmt: skip
    """Start all peers that are there, ask each with a complete client, then measure them in rounds.

    Raises:
        AssertionError: an answer is wrong. A wrong answer ends the run, because its rate says nothing.
    """
    found = [Figures(peer.name, peer.title, peer.note, missing=peer.missing()) for peer in peers]
    with ExitStack() as stack:
        loads: list[tuple[Figures, _Loads]] = []
        for peer, figures in zip(peers, found, strict=True):
            if figures.missing:
                continue
            tell(f"starting {peer.title}")
            place = Place(directory=directory / peer.name, core=cores[0], helper_core=cores[1])
            served = stack.enter_context(peer.serve(people, place))
            if not served.is_fixed:
                ask_with_a_client(served, people.asked[:ASKED_WITH_A_CLIENT], peer.name)
            loads.append((figures, _Loads(served, place, people.asked, settings)))
        for number in range(settings.rounds):
            tell(f"round {number + 1} of {settings.rounds}")
            for kind in _Loads.KINDS:
                # Each load of one peer is followed by the same load of the next one.
                for figures, one in loads:
                    one.run(kind, figures)
    return found


def ask_with_a_client(served: Served, asked: Sequence[Asked], name: str) -> None:
    """Ask with a complete client. Raises ``AssertionError`` where an answer is wrong."""
    for one in asked:
        assert served.ask(one) is one.permitted, f"{name} answers a question wrongly: {one.actor} {one.purpose}"


class _Loads:
    """The loads of one peer; its requests are made once."""

    KINDS = ("one", "varied", "unloaded", "paced", "batch")

    def __init__(self, served: Served, place: Place, asked: Sequence[Asked], settings: Settings) -> None:
        self._served, self._place, self._asked, self._settings = served, place, asked, settings
        self._messages = [served.message(one) for one in asked]
        whole = len(asked) - len(asked) % BATCH
        self._groups = [asked[at : at + BATCH] for at in range(0, whole, BATCH)]
        self._batches = [served.batch(group) for group in self._groups] if served.batch_path else []
        self._first = next(number for number, one in enumerate(asked) if one.permitted)

    def run(self, kind: str, figures: Figures) -> None:
        """Run one load and add what it shows."""
        if kind == "batch" and not self._batches:
            return
        loaded: Loaded = getattr(self, f"_run_{kind}")(figures)
        figures.busy = max(figures.busy, loaded.busy)

    def _load(self, bodies: Sequence[bytes], **more: Any) -> Loaded:
        return run_load(self._served, self._place, bodies, seconds=self._settings.seconds, **more)

    def _run_one(self, figures: Figures) -> Loaded:
        loaded = self._load([self._messages[self._first]])
        self._check(loaded, [self._asked[self._first]], figures)
        figures.add("one question, /s", _rate(loaded))
        return loaded

    def _run_varied(self, figures: Figures) -> Loaded:
        loaded = self._load(self._messages)
        self._check(loaded, self._asked, figures)
        figures.add("varied, /s", _rate(loaded))
        self._percentiles("varied", loaded.latencies_s, figures)
        return loaded

    def _run_unloaded(self, figures: Figures) -> Loaded:
        loaded = self._load(self._messages, in_flight=1, connections=1)
        self._check(loaded, self._asked, figures)
        self._percentiles("unloaded", loaded.latencies_s, figures)
        for name, permitted in (("permit", True), ("no permit", False)):
            samples = [
                seconds for seconds, at in zip(loaded.latencies_s, loaded.locations, strict=True)
                if self._asked[at].permitted is permitted
            ]  # fmt: skip
            if samples:
                figures.add(f"unloaded, {name}, p50 ms", percentile(samples, 0.5) * 1e3)
        return loaded

    def _run_paced(self, figures: Figures) -> Loaded:
        loaded = self._load(self._messages, rate=self._settings.rate)
        self._check(loaded, self._asked, figures)
        self._percentiles("paced", loaded.latencies_s, figures)
        return loaded

    def _run_batch(self, figures: Figures) -> Loaded:
        loaded = self._load(self._batches, is_batch=True, in_flight=BATCHES_IN_FLIGHT)
        if not self._served.is_fixed:
            for location, answer in loaded.answers:
                expected = [one.permitted for one in self._groups[location]]
                assert self._served.permits_each(answer, BATCH) == expected, f"{figures.name} answers a batch wrongly"
                figures.checked += BATCH
        figures.add("batch, decisions/s", _rate(loaded) * BATCH)
        return loaded

    def _check(self, loaded: Loaded, asked: Sequence[Asked], figures: Figures) -> None:
        if self._served.is_fixed:
            return
        for location, answer in loaded.answers:
            right = self._served.permits(answer) is asked[location].permitted
            assert right, f"{figures.name} answers a question wrongly: number {location}"
        figures.checked += len(loaded.answers)

    def _percentiles(self, name: str, samples_s: Sequence[float], figures: Figures) -> None:
        for fraction, title in ((0.5, "p50"), (0.99, "p99")):
            figures.add(f"{name}, {title} ms", percentile(samples_s, fraction) * 1e3)


def _rate(loaded: Loaded) -> float:
    return len(loaded.ended_s) / loaded.seconds


def measure_embedded(
    peers: Sequence[Embedded], people: People, settings: Settings, tell: Callable[[str], None]
) -> list[Figures]:
    """Measure the peers that answer in this process, in rounds, one question after another.

    Raises:
        AssertionError: an answer is wrong.
    """
    found = []
    answers: list[tuple[Figures, Callable[[Asked], bool]]] = []
    for peer in peers:
        figures = Figures(peer.name, peer.title, peer.note, is_embedded=True, missing=peer.missing())
        found.append(figures)
        if figures.missing:
            continue
        tell(f"loading {peer.title}")
        answer = peer.load(people)
        for asked in people.asked:
            assert answer(asked) is asked.permitted, f"{peer.name} answers a question wrongly"
        figures.checked = len(people.asked)
        answers.append((figures, answer))
    for _ in range(settings.rounds):
        for figures, answer in answers:
            samples = []
            until = time.perf_counter() + settings.seconds
            while time.perf_counter() < until:
                for asked in people.asked:
                    started = time.perf_counter()
                    answer(asked)
                    samples.append(time.perf_counter() - started)
            figures.add("in process, p50 µs", percentile(samples, 0.5) * 1e6)
            figures.add("in process, p99 µs", percentile(samples, 0.99) * 1e6)
    return found
