"""The benchmarks measure what they say, and notice a wrong answer. No figure is asserted: machines differ."""

import json
import random
import re
import subprocess
import sys
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import QUICK_SUBJECTS, SUBJECTS, parse
from benchmarks.against import Compared, Side, _keyed, cases_of, run_alternately
from benchmarks.distributions import auc, kolmogorov_smirnov
from benchmarks.http2 import grpc_message
from benchmarks.load import ClientTls, Load, Loaded, run_here
from benchmarks.over_wire import BATCH_CHECK, CHECK, GRANT, weigh
from benchmarks.pace import measure_pace, scale_bars
from benchmarks.questions import MIX, count_wrong, make_question, make_questions
from benchmarks.report import Row, number, percentile
from benchmarks.tag_map import naive_root
from benchmarks.world import consents, recipient
from cases.daemons import question, running_daemon
from cases.mutual_tls import MutualTls, dns
from cases.reference_tree import root_of
from cases.services import batch_request
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import policy_service_pb2 as ps

ROOT = Path(__file__).parents[1]


def test_one_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--size", "80", "--seconds", "0.2", "--out", tmp_path]
    cases = ["evaluator", "map", "open", "batch", "repeat", "signed", "published", "audit"]
    only = [part for case in cases for part in ("--only", case)]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "BatchCheck of 100, different questions" in done.stdout
    (file,) = tmp_path.iterdir()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert {"time", "commit", "cpu", "cores", "python", "packages"} <= document["machine"].keys()
    assert len(document["machine"]["paces"]) == 3
    assert list(dict.fromkeys(row["case"] for row in document["rows"])) == cases
    for row in document["rows"]:
        assert row["value"] > 0
        assert row["boundary"]
        assert row["samples"]


def test_a_load_tells_answers_from_failures(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        asked = ps.CheckRequest(question=question(running.enrol("T-1"))).SerializeToString()
        port = running.daemon.grpc_port

        def load(token: str, path: str = CHECK) -> Loaded:
            return run_here(
                Load(port=port, path=path, token=token, messages=[asked] * 20, in_flight=4, once=True, warm_s=0)
            )

        answered = load(running.tokens["app"])
        assert answered.failed == 0
        assert sorted(location for location, _ in answered.answers) == list(range(20))
        assert len(answered.latencies_s) == len(answered.ended_s) == 20
        assert sorted(answered.locations) == list(range(20))
        for _, answer in answered.answers:
            assert ps.CheckResponse.FromString(answer).decision.outcome == pb.OUTCOME_NO_CONSENT
        for refused in (load("a token nobody has"), load(running.tokens["app"], GRANT)):
            assert refused.failed == 20
            assert not refused.answers


def test_a_load_at_a_fixed_rate_sends_all_it_was_given(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        asked = ps.CheckRequest(question=question(running.enrol("T-1"))).SerializeToString()
        loaded = run_here(
            Load(
                port=running.daemon.grpc_port,
                path=CHECK,
                token=running.tokens["app"],
                messages=[asked] * 30,
                rate=1_000,
                once=True,
                warm_s=0,
            )
        )
    assert loaded.failed == 0
    assert len(loaded.answers) == 30


def test_messages_larger_than_a_frame_arrive_whole(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as running:
        many = batch_request(questions=[question(running.enrol("T-1"))] * 300)
        message = many.SerializeToString()
        assert len(grpc_message(message)) > 16_384
        loaded = run_here(
            Load(
                port=running.daemon.grpc_port,
                path="/consentd.v1.PolicyService/BatchCheck",
                token=running.tokens["app"],
                messages=[message] * 12,
                in_flight=6,
                connections=2,
                once=True,
                warm_s=0,
            )
        )
    assert loaded.failed == 0
    assert [len(ps.BatchCheckResponse.FromString(answer).results) for _, answer in loaded.answers] == [300] * 12


def test_a_load_over_mutual_tls_is_that_of_the_participant_whom_the_certificate_names(tmp_path: Path) -> None:
    world = MutualTls(tmp_path)
    try:
        world.register("clinic-b", "dns:gw.clinic-b.example")
        asked = question(
            pb.Subject(scheme="mhid", value="SYN-1"), actor=pb.Actor(organisation="clinic-b"), holder="er"
        )
        small = ps.CheckRequest(question=asked).SerializeToString()
        large = batch_request(questions=[asked] * 300).SerializeToString()
        assert len(large) > 1 << 14, "more than a record of TLS"

        def load(name: str, path: str, message: bytes) -> Loaded:
            certificate = world.certificate(*dns(name))
            certificate.write(tmp_path / name)
            (tmp_path / "servers.pem").write_text(world.servers.pem)
            files = (tmp_path / "servers.pem", tmp_path / name / "cert.pem", tmp_path / name / "key.pem")
            tls = ClientTls(**dict(zip(("ca_file", "cert_file", "key_file"), files, strict=True)))
            port = world.daemon.grpc_port
            return run_here(
                Load(port=port, path=path, token="", tls=tls, messages=[message] * 12, in_flight=6, once=True, warm_s=0)
            )

        known, unknown = "gw.clinic-b.example", "gw.nobody.example"
        answered = load(known, CHECK, small)
        assert (answered.failed, len(answered.answers)) == (0, 12)
        together = load(known, BATCH_CHECK, large)
        assert [len(ps.BatchCheckResponse.FromString(one).results) for _, one in together.answers] == [300] * 12
        assert max(len(one) for _, one in together.answers) > 1 << 14, "an answer has more than a record of TLS"
        refused = load(unknown, CHECK, small)
        assert (refused.failed, refused.answers) == (12, [])
    finally:
        world.stop()


def test_the_world_s_consents_answer_as_the_arithmetic_says() -> None:
    asked = make_questions(1, 4_000, 100)
    outcomes = [outcome for _, outcome in asked]
    for outcome, fraction in MIX:
        assert outcomes.count(outcome) / 4_000 == pytest.approx(fraction / 100, abs=0.03)
    for asking, outcome in asked:
        number_ = int(asking.subject.value.removeprefix("BENCH-"))
        effects = {
            consent.root.effect
            for consent in consents(number_)
            if asking.actor.organisation in consent.root.actors
            and (not consent.root.purposes or asking.purpose in consent.root.purposes)
        }
        expected = {
            pb.OUTCOME_PERMIT: {pb.EFFECT_PERMIT},
            pb.OUTCOME_DENY: {pb.EFFECT_DENY},
            pb.OUTCOME_NO_CONSENT: set(),
        }
        assert effects == expected[outcome]


def test_two_distributions_are_told_apart() -> None:
    draw = random.Random(7)
    one, same = ([draw.gauss(0, 1) for _ in range(2_000)] for _ in range(2))
    wider = [draw.gauss(0, 1.3) for _ in range(2_000)]
    assert kolmogorov_smirnov(one, one).d == 0
    assert kolmogorov_smirnov(one, same).p > 0.01
    assert kolmogorov_smirnov(one, wider).p < 1e-4  # though the AUC of the two is about a half
    assert auc(one, wider) < 0.55
    apart = kolmogorov_smirnov([1.0, 2.0], [3.0, 4.0])
    assert (apart.d, 0 < apart.p < 0.2) == (1.0, True)
    # Smirnov's table (1948): p is 0.05 where D times the root of n is 1.358, for large samples.
    half = [float(n) for n in range(100_000)]
    moved = [one + 100_000 * 1.358 / (50_000**0.5) for one in half]
    assert kolmogorov_smirnov(half, moved).p == pytest.approx(0.05, abs=0.001)


def test_the_auc_is_a_half_where_times_tell_nothing() -> None:
    assert auc([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == 0.5
    assert auc([1.0, 2.0], [3.0, 4.0]) == auc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auc([1.0, 1.0], [1.0]) == 0.5
    assert auc([1.0, 3.0], [2.0, 2.0, 4.0, 0.0]) == 0.5


def test_a_wrong_answer_is_counted() -> None:
    asked = [(make_question(random.Random(1), 4, outcome), outcome) for outcome in (pb.OUTCOME_PERMIT, pb.OUTCOME_DENY)]
    right = [(0, pb.OUTCOME_PERMIT), (1, pb.OUTCOME_DENY), (2, pb.OUTCOME_PERMIT)]
    assert count_wrong(asked, right) == 0
    assert count_wrong(asked, [*right, (3, pb.OUTCOME_PERMIT)]) == 1
    assert asked[1][0].actor.organisation == recipient(4 + 29)


def test_a_history_is_weighed_by_what_its_bytes_are_for() -> None:
    def entries(*leaves: bytes) -> ls.GetHistoryResponse:
        return ls.GetHistoryResponse(entries=ls.HistoryEntries(entries=[ls.LedgerEntry(leaf=leaf) for leaf in leaves]))

    head = ls.GetHistoryResponse(head=ls.HistoryHead(checkpoint=b"c" * 200, seal=b"s" * 90))
    own, other = (ls.GetHistoryResponse(chain=ls.HistoryChain(map_proof=bytes(33 * n))) for n in (20, 3))
    first, second, third = entries(b"1" * 122), entries(b"2" * 122, b"3" * 122), entries(b"4" * 50)
    weight = weigh([head, own, first, second, other, third, other])
    assert weight.proof == head.ByteSize() + own.ByteSize()
    assert weight.entries == first.ByteSize() + second.ByteSize()
    assert weight.authors_proofs == 2 * other.ByteSize()
    assert weight.authors_entries == third.ByteSize()


def test_the_map_s_definition_is_the_format_s() -> None:
    for count in (0, 1, 2, 300):
        pairs = {sha256(b"key %d" % n).digest(): sha256(b"value %d" % n).digest() for n in range(count)}
        pairs[bytes(31) + b"\1"] = pairs[bytes(32)] = bytes(32)
        assert naive_root(sorted(pairs.items())) == root_of(pairs)


def test_figures_are_read_against_their_bars() -> None:
    common = {"case": "c", "name": "n", "unit": "/s", "boundary": "in process"}
    assert Row(**common, value=9, at_least=8).held is True
    assert Row(**common, value=9, at_most=8).held is False
    assert Row(**common, value=9).held is None
    assert Row(**common, value=9, at_least=80_000).bar == "≥ 80,000"
    assert Row(**common, value=9, at_most=2).bar == "≤ 2.00"
    assert [percentile(range(1, 101), fraction) for fraction in (0.5, 0.99, 1.0)] == [51, 100, 100]
    assert [number(value) for value in (1234.5, 12.34, 1.234)] == ["1,234", "12.3", "1.23"]


def test_a_rate_is_the_median_of_its_windows() -> None:
    ended = [at / 100 for at in range(200)] + [1.1 + at / 1_000 for at in range(50)]
    loaded = Loaded(latencies_s=[0.01] * 250, ended_s=ended, seconds=2.0)
    assert loaded.rates == [100, 100, 100, 100, 300, 100, 100, 100]
    assert loaded.rate == 100


def test_bars_of_rates_and_times_are_scaled_to_the_pace_and_no_others() -> None:
    common = {"case": "c", "name": "n", "boundary": "in process", "value": 9}
    rows = [
        Row(**common, unit="/s", at_least=1_000),
        Row(**common, unit="/s a core", at_least=1_000),
        Row(**common, unit="ms", at_most=10),
        Row(**common, unit="bytes a tag", at_most=8),
        Row(**common, unit="×", at_least=0.9),
    ]
    scaled = scale_bars(rows, [0.1, 0.5, 0.9])
    assert [row.at_least or row.at_most for row in scaled] == [500, 500, 20, 8, 0.9]
    assert measure_pace(10_000) > 0


def test_a_comparison_says_how_many_times_as_good_the_new_one_is() -> None:
    rate = Compared("c", "n", "/s", is_rate=True, old=[100, 90, 110], new=[200, 220, 150])
    time_ = Compared("c", "n", "ms", is_rate=False, old=[10, 20, 30], new=[10, 10, 11])
    assert rate.ratio == time_.ratio == 2
    assert Compared("c", "n", "s", is_rate=False, old=[0.0], new=[0.0]).ratio == 1


def test_a_case_about_one_person_needs_no_large_ledger() -> None:
    sizes = {only: parse([f"--only={one}" for one in only]).size for only in (("limit",), ("limit", "check"), ())}
    assert sizes == {("limit",): QUICK_SUBJECTS, ("limit", "check"): SUBJECTS, (): SUBJECTS}
    assert parse(["--only=limit", "--size=9"]).size == 9


def test_rows_of_two_runs_are_matched_though_sizes_differ_and_names_repeat() -> None:
    old = [{"case": "access", "name": name} for name in ("of 100", "at 500/s", "of 100", "verify of 20,812 entries")]
    new = [{**row, "name": row["name"].replace("20,812", "20,822")} for row in old]
    keys = [key for key, _ in _keyed(old)]
    assert keys == [key for key, _ in _keyed(new)]
    assert len(set(keys)) == 4


OLD_BENCHMARKS = {
    "__init__": "",
    "report": """
from dataclasses import dataclass
@dataclass
class Row:
    case: str = "evaluator"
    name: str = "evaluate, 1 rows"
    unit: str = "µs"
    value: float = 1e6
    at_least: None = None
""",
    "server": "class Server: pass",
    "over_wire": "class Bench: run = server = None",
    "__main__": """
import argparse
from benchmarks.report import Row
def parse(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("evaluator", "gone"), action="append")
    return parser.parse_args(arguments)
IN_PROCESS, OVER_WIRE = ("evaluator",), {}
_IN_PROCESS = {"evaluator": lambda options, directory: [Row(), Row(name="gone")]}
if __name__ == "__main__":
    parse(None)
""",
}


def test_another_checkout_and_this_one_begin_the_rounds_alternately(tmp_path: Path) -> None:
    """The other checkout has its own benchmarks package, fewer options and other cases."""
    old, out = tmp_path / "old", tmp_path / "out"
    (old / "benchmarks").mkdir(parents=True)
    for name, source in OLD_BENCHMARKS.items():
        (old / "benchmarks" / f"{name}.py").write_text(source)
    assert cases_of(old) == {"evaluator", "gone"}
    assert {"evaluator", "map", "check"} <= cases_of(ROOT)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "3", "--against", old, "--out", out]
    done = subprocess.run(
        [*command, "--only", "evaluator"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = re.findall(r"^round (\d) of 3: evaluator, (old|new) first$", done.stderr, re.MULTILINE)
    assert asked == [("1", "old"), ("2", "new"), ("3", "old")]
    (file,) = out.iterdir()
    document = json.loads(file.read_text(encoding="utf-8"))
    assert len(document["machine"]["paces"]) == 4
    (row,) = document["rows"]
    assert (row["name"], row["old"], len(row["new"])) == ("evaluate, 1 rows", [1e6, 1e6, 1e6], 3)
    assert row["ratio"] == sorted(row["ratios"])[1] > 1
    assert "only in the old checkout: evaluator, gone" in done.stdout


def test_a_comparison_that_fails_late_tells_what_it_found_before(tmp_path: Path) -> None:
    old, out = tmp_path / "old", tmp_path / "out"
    (old / "benchmarks").mkdir(parents=True)
    for name, source in OLD_BENCHMARKS.items():
        (old / "benchmarks" / f"{name}.py").write_text(source)
    failing = OLD_BENCHMARKS["__main__"].replace(
        "lambda options, directory: [Row(), Row(name=\"gone\")]", "run"
    ).replace("IN_PROCESS, OVER", """def run(options, directory):
    runs = directory.parent.parent / "runs"
    done = len(runs.read_text()) if runs.exists() else 0
    assert done < 2
    runs.write_text("x" * (done + 1))
    return [Row()]
IN_PROCESS, OVER""")
    (old / "benchmarks" / "__main__.py").write_text(failing)
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "3", "--against", old, "--out", out]
    done = subprocess.run([*command, "--only", "evaluator"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (file,) = out.iterdir()
    assert f"the 2 rounds before it are in {file}" in done.stderr
    assert len(json.loads(file.read_text(encoding="utf-8"))["rows"][0]["old"]) == 2


def test_each_side_of_a_comparison_runs_one_load_at_a_time(tmp_path: Path) -> None:
    """Each side is this checkout, with one daemon for both rounds. Their loads are as many, so the turns alternate."""
    order: list[str] = []

    class Watched(Side):
        def begin(self, case: str) -> list[dict[str, Any]] | None:
            found = super().begin(case)
            order.append(f"{self.which}: {'ended' if found else 'turn'}")
            return found

    options = ["--quick", "--size", "80", "--seconds", "0.2"]
    with ExitStack() as stack:
        sides = [stack.enter_context(Watched(which, ROOT, options, tmp_path / which)) for which in ("one", "other")]
        for _ in range(2):
            found = run_alternately(sides, "batch")
            assert [row["name"] for row in found["one"]] == [row["name"] for row in found["other"]] != []
    loads = [f"{which}: turn" for _ in range(2) for which in ("one", "other")]
    assert order == [*loads, "one: ended", "other: ended"] * 2


def test_a_side_that_fails_ends_the_comparison(tmp_path: Path) -> None:
    with Side("old", ROOT, ["--quick"], tmp_path / "old") as side, pytest.raises(RuntimeError, match="with status 1"):
        side.begin("no case")
