"""The dashboard is fresh, and shows every metric and what every alarm reads. It names no metric that does not exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cases.gate_programs import GATE_METRICS, gate_metrics
from consentd.metrics import Metrics

ROOT = Path(__file__).parents[1]
ALERTS = (ROOT / "ops" / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "ops" / "grafana.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OF_DAEMON = {metric.name: metric for metric in Metrics().descriptions()}

METRICS = {**OF_DAEMON, **{metric.name: metric for metric in gate_metrics()}}
SERIES = {
    name + suffix: name
    for name, metric in METRICS.items()
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bconsentd_\w+", expression))


def shown(panel: dict[str, Any]) -> set[str]:
    return {name for target in panel["targets"] for name in named(target["expr"])}


def test_the_file_is_what_the_program_writes() -> None:
    done = subprocess.run(
        [sys.executable, "ops/grafana.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_descriptions_are_of_all_metrics_that_are_exported() -> None:
    metrics = Metrics()
    of_text = {
        private: dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics.render(with_private=private).decode(), re.MULTILINE))
        for private in (True, False)
    }
    exported = {name: kind for name, kind in of_text[True].items() if not name.endswith("_created")}
    assert exported == {metric.name: metric.kind for metric in OF_DAEMON.values()}
    assert {metric.name for metric in OF_DAEMON.values() if metric.is_private} == of_text[True].keys() - of_text[
        False
    ].keys() - {name for name in of_text[True] if name.endswith("_created")}


def test_the_metrics_of_the_gate_are_those_of_its_source() -> None:
    """``test_gate.py`` compares them with what the program exports."""
    assert {metric.name for metric in gate_metrics()} == GATE_METRICS


def test_every_metric_has_a_panel_and_every_panel_names_metrics_that_exist() -> None:
    series = {name for panel in PANELS for name in shown(panel)}
    assert series <= SERIES.keys()
    assert {SERIES[name] for name in series} == METRICS.keys()


def test_every_alarm_is_named_by_the_panels_of_what_it_reads() -> None:
    rules = dict(re.findall(r"^ *- alert: (\w+)\n +expr: (.*)$", ALERTS, re.MULTILINE))
    assert len(rules) == ALERTS.count("- alert:") > 20
    for alarm, expression in rules.items():
        telling = [panel for panel in PANELS if re.search(rf"Alarms:.*\b{alarm}\b", panel["description"])]
        assert telling, alarm
        read = {SERIES[name] for name in named(expression)}
        assert read == {SERIES[name] for panel in telling for name in shown(panel)} & read, alarm


def test_panels_have_numbers_texts_and_places_of_their_own() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        taken = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= taken
