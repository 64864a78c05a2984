"""Runbook, alarms and unit: what they name exists, and what the code says is to be looked up there is there."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cases.daemons import make_config
from cases.gate_programs import GATE_METRICS
from consentd.errors import StorageError
from consentd.files import FileLock
from consentd.ledger.last_signed import read_last_signed
from consentd.metrics import Metrics
from consentd.server.daemon import Daemon

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "ops" / "RUNBOOK.md").read_text(encoding="utf-8")
ALERTS = (ROOT / "ops" / "alerts.yaml").read_text(encoding="utf-8")
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "consentd").rglob("*.py"))}
SECTIONS = [line.lstrip("#").strip() for line in RUNBOOK.splitlines() if re.match(r"#{2,3} ", line)]


def alerts() -> dict[str, dict[str, str]]:
    """Return the rules by name: the file keeps to one line a value, so that no YAML library is needed."""
    found: dict[str, dict[str, str]] = {}
    for rule in re.split(r"^      - alert: ", ALERTS, flags=re.MULTILINE)[1:]:
        name, _, rest = rule.partition("\n")
        found[name] = dict(re.findall(r"^ +(\w+): (\S.*)$", rest, re.MULTILINE))
    return found


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def below(heading: str) -> str:
    """Return the text of a section, its subsections left out."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", RUNBOOK, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


METRICS = {f"consentd_{name}": name for name in vars(Metrics()) if not name.startswith("_")}


def metric_of(series: str) -> str:
    """Return the attribute of ``Metrics`` that a series belongs to."""
    bare = re.sub(r"_(total|bucket|sum|count)$", "", series)
    return METRICS[series if series in METRICS else bare]


def named_metrics(text: str) -> set[str]:
    return set(re.findall(r"\bconsentd_[a-z_]+\b", text)) - {"consentd_client"}


def test_a_text_that_makes_an_operator_gives_it_a_role() -> None:
    files = (path for path in (ROOT / "ops").iterdir() if path.is_file())
    texts = [*SOURCES.values(), *(path.read_text(encoding="utf-8") for path in files)]
    commands = [found for text in texts for found in re.findall(r"consentd credential add operator/[^`\n]*", text)]
    assert commands
    assert [command for command in commands if "--role" not in command] == []


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alarm_is_complete_and_has_a_section(name: str) -> None:
    rule = alerts()[name]
    assert set(rule) - {"for"} == {"expr", "severity", "summary", "runbook"}
    assert rule["severity"] in ("page", "ticket")
    assert rule["runbook"] == f'"ops/RUNBOOK.md, {name}"'
    assert name in SECTIONS


def test_every_section_of_an_alarm_has_its_rule() -> None:
    assert [section for section in SECTIONS if section.startswith("Consentd")] == list(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alarm_looks_at_metrics_that_exist_and_are_set(name: str) -> None:
    expression = alerts()[name]["expr"]
    series = named_metrics(expression)
    assert series or expression.startswith("up{")
    code = "".join(text for path, text in SOURCES.items() if path.name != "metrics.py")
    for each in series - GATE_METRICS:
        attribute = metric_of(each)
        assert re.search(rf"metrics\.{attribute}\b", code), f"nothing sets {each}"


def test_a_counter_whose_increase_is_an_alarm_is_there_before_its_first_event(tmp_path: Path) -> None:
    """Prometheus sees no increase in a sample that was not there before: the first event would go unseen."""
    text = Daemon(make_config(tmp_path)).metrics.render(with_private=True).decode()
    seen = 0
    for rule in alerts().values():
        for series, inner in re.findall(r"increase\((consentd_[a-z_]+)(?:\{([^}]*)\})?\[", rule["expr"]):
            if series in GATE_METRICS:
                continue  # the gate exports all of its metrics from its start
            label, _, values = inner.partition("=")
            for value in values.strip('~"').split("|"):
                wanted = f'{label}="{value}"' if label else series
                assert any(line.startswith(series) and wanted in line for line in text.splitlines()), (series, wanted)
                seen += 1
    assert seen > 5


def test_the_labels_of_alarms_are_the_metrics_own() -> None:
    seen = 0
    for rule in alerts().values():
        for series, inner in re.findall(r"(consentd_[a-z_]+)\{([^}]*)\}", rule["expr"]):
            if series in GATE_METRICS:
                assert inner == 'outcome="refused"'
                continue
            labels = {label.name: label.pattern for label in getattr(Metrics(), metric_of(series))._labels}
            for name, values in re.findall(r'(\w+)=~?"([^"]*)"', inner):
                assert all(labels[name].fullmatch(value) for value in values.split("|")), (series, name, values)
                seen += 1
    assert seen


def test_error_reasons_in_alarms_are_reasons() -> None:
    reasons = set(re.findall(r"ERROR_REASON_([A-Z_]+) =", (ROOT / "proto/consentd/v1/error_reason.proto").read_text()))
    for values in re.findall(r'errors_total\{reason=~?"([^"]*)"', ALERTS):
        assert set(values.split("|")) <= reasons


def test_the_runbook_names_no_metric_that_does_not_exist() -> None:
    for series in named_metrics(RUNBOOK) - GATE_METRICS:
        assert metric_of(series)


def test_the_runbook_has_each_metric_of_the_gate() -> None:
    assert named_metrics(RUNBOOK) >= GATE_METRICS


def test_links_of_the_runbook_lead_somewhere() -> None:
    anchors = {anchor(section) for section in SECTIONS}
    links = re.findall(r"\]\(#([^)]+)\)", RUNBOOK)
    assert links
    assert set(links) <= anchors


def test_sections_that_the_code_names_exist() -> None:
    named = {
        section
        for text in SOURCES.values()
        for section in re.findall(r"RUNBOOK\.md, `([^`]+)`", text)
    }
    assert named
    assert {anchor(section) for section in named} <= {anchor(section) for section in SECTIONS}


def messages(path: str, *errors: str) -> set[str]:
    """Return how the messages of these errors begin, where a module raises them: the text before the first value."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[ROOT / "consentd" / path])):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id in errors:
            text = raised.args[0]
            first = text.values[0] if isinstance(text, ast.JoinedStr) else text
            assert isinstance(first, ast.Constant), ast.dump(text)
            found.add(re.split(r"[`:;]", str(first.value))[0].strip())
    assert found
    return found


@pytest.mark.parametrize(
    ("path", "errors", "heading"),
    [
        ("ledger/recovery.py", ("CorruptionError",), "Ledger refuses to open"),
        ("ledger/last_signed.py", ("CorruptionError",), "Ledger refuses to open"),
        ("ledger/predecessor.py", ("CorruptionError",), "Begin a new ledger in the place of another"),
        ("ledger/restored.py", ("CorruptionError",), "Ledger refuses to open"),
        ("ledger/restored_copy.py", ("CorruptionError",), "Ledger refuses to open"),
        ("table/table.py", ("CorruptionError",), "Other messages at the start"),
        ("table/view.py", ("CorruptionError",), "Other messages at the start"),
        ("server/preflight.py", ("CorruptionError",), ""),
        ("store/wal.py", ("CorruptionError", "StorageError"), "Other messages at the start"),
        ("ledger/vault.py", ("StorageError",), "Other messages at the start"),
        ("ledger/vault_keys.py", ("StorageError",), "Other messages at the start"),
        ("ledger/kek.py", ("StorageError", "InvalidError"), "Other messages at the start"),
        ("ledger/pkcs11_kek.py", ("StorageError",), "Other messages at the start"),
        ("secret_files.py", ("InvalidError",), "Other messages at the start"),
        ("cosigning/keyfiles.py", ("StorageError", "InvalidError"), "Other messages at the start"),
        ("server/keys.py", ("InvalidError",), "Other messages at the start"),
        ("server/first_start.py", ("StorageError",), ""),
    ],
)
def test_every_message_of_a_refusal_to_open_is_explained(path: str, errors: tuple[str, ...], heading: str) -> None:
    headings = [heading] if heading else ["Ledger refuses to open", "Other messages at the start"]
    explained = [text for each in headings for text in re.findall(r"`([^`]+)`", below(each))]
    for message in messages(path, *errors) - {"key file exists already", "key file cannot be written"}:
        assert any(message.startswith(each) or each.startswith(message) for each in explained), message


def test_each_message_about_a_file_beside_the_ledger_is_explained(tmp_path: Path) -> None:
    explained = re.findall(r"`([^`]+)`", below("Other messages at the start"))
    held = FileLock(tmp_path / "last-signed.lock", program="daemon")
    failing: list[Callable[[], object]] = [
        lambda: read_last_signed(tmp_path),
        lambda: FileLock(tmp_path / "last-signed.lock", program="daemon"),
        lambda: FileLock(tmp_path, program="daemon"),
    ]
    for fail in failing:
        with pytest.raises(StorageError) as raised:
            fail()
        assert str(raised.value).split(":")[0] in explained
    held.close()


def test_the_messages_explained_are_messages() -> None:
    # ``files`` puts the name of the file before what failed.
    named = '"last signed checkpoint cannot be read', '"mark of the first start cannot be written'
    code = "".join([*SOURCES.values(), *named])
    for heading in ("Ledger refuses to open", "Other messages at the start"):
        for row in re.findall(r"^\| (`.*?) \|", below(heading), re.MULTILINE):
            for message in re.findall(r"`([^`]+)`", row):
                assert f'"{message}' in code or f'f"{message}' in code or message in code, message


def test_log_lines_that_the_text_quotes_are_in_the_code() -> None:
    code = "".join(SOURCES.values())
    flat = re.sub(r"\s+", " ", RUNBOOK)
    before = "log has|logs|log says|it says|may say|log line|message is|fails? with|fail too, with"
    quoted = re.findall(rf"(?:{before}) `([^`]+)`", flat)
    assert len(quoted) > 8
    for text in quoted:
        assert all(part.strip() in code for part in text.split("…")), text


def test_the_unit_starts_the_daemon_with_the_configuration_of_the_runbook() -> None:
    unit = (ROOT / "ops" / "consentd.service").read_text(encoding="utf-8")
    assert "/opt/consentd/bin/consentd serve --config /etc/consentd/consentd.toml\n" in unit
    assert "ExecReload=/bin/kill -HUP $MAINPID\n" in unit
    assert all(path in RUNBOOK for path in ("/opt/consentd", "/etc/consentd/consentd.toml", "/var/lib/consentd"))


def test_decisions_are_a_page_each_and_numbered() -> None:
    pages = sorted((ROOT / "ops" / "decisions").glob("[0-9]*.md"))
    index = (ROOT / "ops" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[\d+\]\((.*?)\) ", index, re.MULTILINE) == [page.name for page in pages]
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == sorted(set(numbers))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        title = re.match(r"# (\d{4}): (.*)\n", text)
        assert title is not None
        assert title[1] == page.name[:4]
        assert f"| {title[2]} |" in index, title[2]
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"], page
