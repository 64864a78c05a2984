"""Write ops/grafana.json, the dashboard of Grafana: one panel for each metric of consentd/metrics.py and of the gate.

``python ops/grafana.py`` writes it, and ``--check`` fails if the file is not what this program would write. Each panel
says what its metric is, and which alarms of ops/alerts.yaml read it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from consentd.metrics import Description, Metrics

OPS = Path(__file__).parent
FILE = OPS / "grafana.json"
GATE_FILE = OPS.parent / "consentd" / "gate" / "server" / "src" / "metrics.rs"
SECTIONS = {
    "Readiness": ("ready", "restored_copy", "table_heartbeat", "clock_", "tls_", "shortages", "errors"),
    "Calls": ("rpc", "calls", "refusals_parked", "repeats", "quota_refusals", "id_", "credential"),
    "Decisions": ("decisions", "refusals_total", "unenrolled"),
    "Writing": ("pool_entries", "batch_entries", "commit_seconds", "ledger_size", "seal_seconds"),
    "Checkpoints and witnesses": ("checkpoint", "publish", "quorum", "witness"),
    "Storage": ("map_bytes", "free_bytes", "table_", "scrub", "operation", "erasure", "backup"),
    "Process": ("open_files", "http_connections"),
    "Gate": ("gate_",),
}
"""The section of a metric is the first that has a prefix of its name, ``consentd_`` left out."""
CAPITALS = {"rpc": "RPC", "rpcs": "RPCs", "tls": "TLS", "http": "HTTP", "id": "ID"}
WIDTH, HEIGHT, COLUMNS = 8, 7, 3
"""Size of a panel in Grafana's grid, which is 24 wide."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = 'instance=~"$instance"'


def of_gate() -> list[Description]:
    """Return the metrics of the gate, from the list in its source: its names are constants of that file."""
    text = GATE_FILE.read_text(encoding="utf-8")
    names = dict(re.findall(r'^const (\w+): &str = "(consentd_gate_\w+)";$', text, re.MULTILINE))
    rows = re.findall(r'^    \((\w+), "(\w+)", "(\w*)", "(.*)"\),$', text, re.MULTILINE)
    return [
        Description(names[name], kind, text, tuple(labels.split()), is_private=False)
        for name, kind, labels, text in rows
    ]


def alarms() -> dict[str, str]:
    """Return the expression of each alarm. The file has one line for each value, so no YAML library is needed."""
    text = (OPS / "alerts.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^ *- alert: (\w+)\n +expr: (.*)$", text, re.MULTILINE))


def reads(expression: str, metric: Description) -> bool:
    """Return whether an expression reads a metric; a histogram is read by its series."""
    suffix = "_(?:bucket|sum|count)" if metric.kind == "histogram" else ""
    return re.search(rf"\b{metric.name}{suffix}\b", expression) is not None


def section_of(name: str) -> str:
    """Return the section of a metric. Raises ``ValueError`` if there is none: add it to ``SECTIONS``."""
    for section, prefixes in SECTIONS.items():
        if name.removeprefix("consentd_").startswith(prefixes):
            return section
    raise ValueError(f"metric has no section in ops/grafana.py: `{name}`")


def queries(metric: Description, watched: list[str]) -> list[tuple[str, str]]:
    """Return the (expression, legend) of a metric's panel; *watched*: the expressions of its alarms."""
    series = f"{metric.name}{{{SELECTOR}}}"
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *metric.labels))
    by = ", ".join(("instance", *metric.labels))
    if metric.kind == "counter":
        counted = f"{'increase' if watched else 'rate'}({series}[5m])"
        return [(f"sum by ({by}) ({counted})", legend)]
    if metric.kind == "histogram":
        buckets = f"sum by (le, {by}) (rate({metric.name}_bucket{{{SELECTOR}}}[5m]))"
        return [(f"histogram_quantile({share}, {buckets})", f"p{round(share * 100)} {legend}") for share in (0.5, 0.99)]
    if metric.name.endswith("_end_time_seconds"):
        return [(f"{series} - time()", legend)]
    if metric.name.endswith("_time_seconds"):
        return [(f"time() - {series}", legend)]
    return [(series, legend)]


def title_and_unit(metric: Description, expression: str) -> tuple[str, str]:
    """Return a panel's title, and its unit as Grafana names it."""
    words = metric.name.removeprefix("consentd_").removesuffix("_total").removesuffix("_time_seconds").split("_")
    title = " ".join(CAPITALS.get(word, word) for word in words)
    title = title[0].upper() + title[1:]
    if metric.name.endswith("_time_seconds"):
        return f"{title}: time {'left' if '_end_' in metric.name else 'since'}", "s"
    if metric.kind == "counter":
        return (f"{title} in 5 minutes", "short") if "increase(" in expression else (f"{title} a second", "ops")
    units = {"_seconds": "s", "_bytes": "bytes", "_share": "percentunit"}
    return title, next((unit for suffix, unit in units.items() if metric.name.endswith(suffix)), "short")


def panel(metric: Description, limit: Description | None) -> dict[str, Any]:
    """Return the panel of a metric, with that of its limit if it has one."""
    watching = {name: one for name, one in alarms().items() if any(reads(one, m) for m in (metric, limit) if m)}
    asked = queries(metric, list(watching.values()))
    if limit is not None:
        asked += [(expression, f"limit {legend}") for expression, legend in queries(limit, [])]
    title, unit = title_and_unit(metric, asked[0][0])
    text = [metric.text, "Only scrapers with a token see it."] if metric.is_private else [metric.text]
    if watching:
        text.append(f"Alarms: {', '.join(watching)} (ops/RUNBOOK.md).")
    return {
        "type": "timeseries",
        "title": title,
        "description": " ".join(text),
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(asked)
        ],
    }


def overview() -> list[dict[str, Any]]:
    """Return the panels of what no metric of the daemon says: whether it is reached, and which alarms fire."""
    made = []
    for title, text, expression, legend in (
        ("Reached by Prometheus", "1 while Prometheus gets metrics. Alarms: ConsentdDown (ops/RUNBOOK.md).",
         f'up{{job="consentd", {SELECTOR}}}', "{{instance}}"),
        ("Gate reached by Prometheus", "1 while Prometheus gets metrics of the gate. Alarms: ConsentdGateDown "
         "(ops/RUNBOOK.md).", f'up{{job="consentd-gate", {SELECTOR}}}', "{{instance}}"),
        ("Alarms that fire", "Each has a section in ops/RUNBOOK.md.",
         'sum by (alertname) (ALERTS{alertname=~"Consentd.*", alertstate="firing"})', "{{alertname}}"),
    ):  # fmt: skip
        target = {"refId": "A", "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
        made.append(
            {"type": "timeseries", "title": title, "description": text, "datasource": DATASOURCE,
             "fieldConfig": {"defaults": {"unit": "short"}, "overrides": []}, "targets": [target]}
        )  # fmt: skip
    return made


def sections() -> dict[str, list[dict[str, Any]]]:
    """Return the panels by section. A metric whose name with ``_limit`` is a metric too has one panel with it."""
    metrics = {metric.name: metric for metric in (*Metrics().descriptions(), *of_gate())}
    found: dict[str, list[dict[str, Any]]] = {"Overview": overview(), **{section: [] for section in SECTIONS}}
    for name, metric in metrics.items():
        if not (name.endswith("_limit") and name.removesuffix("_limit") in metrics):
            found[section_of(name)].append(panel(metric, metrics.get(f"{name}_limit")))
    return found


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    placed: list[dict[str, Any]] = []
    top = 0
    for section, panels in sections().items():
        placed.append({"type": "row", "title": section, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}})  # fmt: skip
        top += 1
        for at, one in enumerate(panels):
            row, column = divmod(at, COLUMNS)
            place = {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": top + row * HEIGHT}
            placed.append({**one, "gridPos": place})
        top += -(-len(panels) // COLUMNS) * HEIGHT
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    ready = "{__name__=~'consentd_ready|consentd_gate_ready'}"
    instance = {
        "name": "instance", "type": "query", "label": "Instance", "datasource": DATASOURCE, "multi": True,
        "includeAll": True, "refresh": 2, "query": f"label_values({ready}, instance)",
    }  # fmt: skip
    return {
        "title": "consentd",
        "uid": "consentd",
        "tags": ["consentd"],
        "editable": True,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, instance]},
        "panels": [{"id": number, **one} for number, one in enumerate(placed, 1)],
    }


def main() -> int:
    """Write the file, or compare it."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text(encoding="utf-8") == text:
            return 0
        print("ops/grafana.json is not fresh: run `python ops/grafana.py`", file=sys.stderr)
        return 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
