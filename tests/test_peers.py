"""The comparison with other programs: each gets the same question, and its figures are reported as measured."""

import argparse
import json
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.__main__ import parse
from benchmarks.load import Loaded
from benchmarks.peers import install, measure, results
from benchmarks.peers.chart import draw
from benchmarks.peers.generator import missing_generator, read_result, run_load
from benchmarks.peers.measure import Figures, Settings, ask_with_a_client
from benchmarks.peers.ours import Daemon
from benchmarks.peers.peer import BATCH, Embedded, Peer, Place
from benchmarks.peers.people import Asked, People, above, permitted
from benchmarks.peers.run import EMBEDDED, NAMES, SERVERS

PEOPLE = People(24, 2 * BATCH)


def test_half_of_the_questions_are_permitted_and_rules_say_which() -> None:
    people = People(400, 20_000)
    assert sum(asked.permitted for asked in people.asked) / 20_000 == pytest.approx(0.5, abs=0.02)
    for asked in people.asked:
        assert permitted(people.rules[asked.person], asked) is asked.permitted
    assert above("CLIN.LAB.X") == ["CLIN.LAB.X", "CLIN.LAB", "CLIN"]


def names(peers: Sequence[Peer | Embedded]) -> list[str]:
    return [peer.name for peer in peers]


@pytest.mark.parametrize("peer", EMBEDDED, ids=names(EMBEDDED))
def test_a_peer_in_process_answers_as_the_rules_say(peer: Embedded) -> None:
    if missing := peer.missing():
        pytest.skip(missing)
    answer = peer.load(PEOPLE)
    for asked in PEOPLE.asked:
        assert answer(asked) is asked.permitted, asked


@pytest.mark.parametrize("peer", SERVERS, ids=names(SERVERS))
def test_a_peer_s_server_answers_as_the_rules_say(peer: Peer, tmp_path: Path) -> None:
    if missing := peer.missing():
        pytest.skip(missing)
    place = Place(directory=tmp_path / "peer", core=None, helper_core=None)
    with peer.serve(PEOPLE, place) as served:
        if not served.is_fixed:
            ask_with_a_client(served, PEOPLE.asked, peer.name)
        if missing_generator():
            return
        settings = Settings(seconds=0.2, rounds=1, rate=200)
        loads, figures = measure._Loads(served, place, PEOPLE.asked, settings), Figures(peer.name, peer.title, "")
        for kind in measure._Loads.KINDS:
            loads.run(kind, figures)
        assert figures.checked or served.is_fixed
        assert {"one question, /s", "varied, /s", "paced, p99 ms"} <= figures.rounds.keys()
        assert all(value > 0 for values in figures.rounds.values() for value in values)


def test_the_generator_asks_each_question_and_says_which_calls_failed(tmp_path: Path) -> None:
    if missing := missing_generator():
        pytest.skip(missing)
    place = Place(directory=tmp_path / "peer", core=None, helper_core=None)
    with Daemon().serve(PEOPLE, place) as served:
        bodies = [served.message(asked) for asked in PEOPLE.asked]
        loaded = run_load(served, place, bodies, seconds=0.5, in_flight=3, connections=2)
        assert len(loaded.latencies_s) == len(loaded.locations) == len(loaded.ended_s) > 0
        for location, answer in loaded.answers:
            assert served.permits(answer) is PEOPLE.asked[location].permitted
        served.token = "a token that nobody has"
        with pytest.raises(RuntimeError, match="were not answered"):
            run_load(served, place, bodies, seconds=0.2)


def test_the_generator_s_file_is_read() -> None:
    calls = struct.pack("<Q", 2) + struct.pack("<Idd", 1, 0.5, 2.5) + struct.pack("<Idd", 0, 0.25, 2.75)
    answers = struct.pack("<II", 1, 8) + b"\0\0\0\0\3abc"
    loaded = read_result(calls + answers, {"failed": 4, "seconds": 1.5, "busy": 0.25}, is_grpc=True)
    assert (loaded.latencies_s, loaded.locations, loaded.ended_s) == ([0.5, 0.25], [1, 0], [2.5, 2.75])
    assert (loaded.answers, loaded.failed, loaded.seconds, loaded.busy) == ([(1, b"abc")], 4, 1.5, 0.25)


class Fake:
    """A server that permits everything, and whose answers never leave this process."""

    name, title, note = "fake", "Fake 1", ""
    port, path, batch_path, content_type, token, is_http1, is_fixed = (
        0,
        "/",
        "/many",
        "application/json",
        "",
        True,
        False,
    )

    def message(self, asked: Asked) -> bytes:
        return asked.person.encode()

    def batch(self, asked: Sequence[Asked]) -> bytes:
        return b"".join(map(self.message, asked))

    def permits(self, answer: bytes) -> bool:
        return True

    def permits_each(self, answer: bytes, count: int) -> list[bool]:
        return [True] * count

    def ask(self, asked: Asked) -> bool:
        return True


def answered(*_: Any, **more: Any) -> Loaded:
    locations = [0, 1] if more.get("is_batch") else list(range(len(PEOPLE.asked)))
    times = [0.001] * len(locations)
    return Loaded(times, locations, times, [(one, b"{}") for one in locations], seconds=1.0, busy=0.5)


def test_a_wrong_answer_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="fake answers a question wrongly"):
        ask_with_a_client(Fake(), PEOPLE.asked, "fake")
    monkeypatch.setattr(measure, "run_load", answered)
    place = Place(directory=Path("nowhere"), core=None, helper_core=None)
    loads = measure._Loads(Fake(), place, PEOPLE.asked, Settings(seconds=1, rounds=1, rate=1))
    for kind, fault in (("varied", "a question"), ("unloaded", "a question"), ("batch", "a batch")):
        with pytest.raises(AssertionError, match=f"fake answers {fault} wrongly"):
            loads.run(kind, Figures("fake", "Fake 1", ""))


def figures(name: str, title: str, rates: list[float], **more: Any) -> Figures:
    made = Figures(name, title, "gRPC", **more)
    if rates:
        made.rounds = {"varied, /s": rates, "varied, p50 ms": [1.25], "varied, p99 ms": [3.0]}
    return made


FOUND = [
    figures("gate", "consentd, gate, 1 thread", [40_000, 60_000, 50_000]),
    figures("opa", "OPA <1>", [900, 1_000, 1_200]),
    figures("spicedb", "SpiceDB 1", [], missing="spicedb is not installed: python -m benchmarks.peers.install spicedb"),
    Figures(
        "cedarpy", "Cedar", "", is_embedded=True, rounds={"in process, p50 µs": [90.0], "in process, p99 µs": [200]}
    ),
]


def test_the_table_shows_medians_and_why_a_peer_was_not_measured() -> None:
    console = Console(width=200, record=True)
    results.show(FOUND, console)
    text = console.export_text()
    assert "50,000" in text
    assert "1.25 / 3.00" in text
    assert "90.0 / 200" in text
    assert "not measured: SpiceDB 1: spicedb is not installed" in text
    (row,) = [line for line in text.splitlines() if line.startswith("│ SpiceDB 1")]
    assert not set(row) & set("0123456789") - set("1"), "no figure stands for what was not measured"


def test_json_and_chart_are_written(tmp_path: Path) -> None:
    about = {"cpu": "A CPU", "questions": 20_000, "rounds": 3}
    as_json, chart = results.write(FOUND, about, tmp_path / "results")
    document = json.loads(as_json.read_text(encoding="utf-8"))
    assert document["machine"] == about
    by_name = {peer["name"]: peer for peer in document["peers"]}
    assert by_name["gate"]["medians"]["varied, /s"] == 50_000
    assert by_name["gate"]["rounds"]["varied, /s"] == [40_000, 60_000, 50_000]
    assert by_name["spicedb"]["rounds"] == {}
    drawn = ElementTree.fromstring(chart.read_text(encoding="utf-8"))
    words = [element.text for element in drawn.iter() if element.text]
    assert words.index("consentd, gate, 1 thread") < words.index("OPA <1>"), "the fastest is the first"
    assert "50,000" in words
    assert not any("SpiceDB" in word for word in words)


def test_bars_are_as_long_as_the_logarithms_of_their_values() -> None:
    drawn = ElementTree.fromstring(
        draw("a", "b", [("one", 10, 10, 10), ("two", 100, 100, 100), ("three", 1_000, 999, 1_000)])
    )
    widths = [
        float(element.attrib["width"]) for element in drawn if element.tag.endswith("rect") and "x" in element.attrib
    ]
    assert widths[0] == pytest.approx(1.0)
    assert widths[2] == pytest.approx(2 * widths[1], abs=0.2)


def test_names_of_peers_are_checked_and_each_has_its_installation() -> None:
    assert parse(["--peers"]).peers == []
    assert parse(["--peers", "opa", "gate"]).peers == ["opa", "gate"]
    with pytest.raises(SystemExit):
        parse(["--peers", "nobody"])
    assert isinstance(parse([]), argparse.Namespace)
    assert parse([]).peers is None
    assert {"opa", "cerbos", "cedarpy", "pycasbin", "regopy"} <= set(NAMES) & set(install.NAMES)
    for name in install.NAMES:
        arguments, _ = install.command(name)
        assert arguments[0], name
