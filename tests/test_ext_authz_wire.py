"""What the gate answers to Envoy's question about a request, asked without Envoy."""

import json
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from cases.daemons import Running, make_running, question, serve
from cases.envoy_messages import CheckResponse, check_request, headers_of
from cases.ext_authz import MAPPING, ROOT
from cases.fakes import HANG_S
from cases.gate_programs import GATE, SOURCE, built, http_get, make_gate, needs_cargo
from consentd.server.gate_process import GateProcess
from consentd.v1 import consent_pb2 as pb

pytestmark = needs_cargo
HOST = "fhir.example"
METHOD = "/envoy.service.auth.v3.Authorization/Check"
OURS = """
callers = ["hospital-a", "app"]
hosts = ["fhir.example"]

[defaults]
organisation = "clinic-b"
holder = "hospital-a"
action = "disclose"
purpose = { header = "x-purpose" }
subject = { scheme = "mhid", value = { path = "patient" } }

[[routes]]
methods = ["GET"]
path = "/whole/{patient}"
categories = ["CLIN.DX", "CLIN.LAB"]
labels = []
level = "N"

[[routes]]
methods = ["GET"]
path = "/part/{patient}"
categories = ["CLIN.DX", "CLIN.LAB"]
upstream_applies = ["partial", "residual"]

[[routes]]
methods = ["GET"]
path = "/claimed/{patient}"
categories = ["CLIN.DX"]
labels = []
level = "N"
purpose = { claim = ["login", "purpose"] }

[[routes]]
methods = ["GET"]
path = "/labelled/{patient}"
categories = ["CLIN.DX", "CLIN.LAB"]
labels = ["HIV"]
level = "N"
"""


class Asking:
    """Asks a gate as Envoy does."""

    def __init__(self, running: Running, gate: GateProcess) -> None:
        self.running, self.gate = running, gate
        self.channel = grpc.insecure_channel(gate.address)
        self._call = self.channel.unary_unary(METHOD, response_deserializer=CheckResponse.FromString)

    def send(self, message: bytes, who: str = "hospital-a", **more: Any) -> Any:
        """Send the bytes of a message; return the answer, which is none of an error."""
        metadata = self.running.as_(who) if who else ()
        return self._call(message, metadata=metadata, timeout=HANG_S, **more)

    def ask(self, path: str, *headers: tuple[str, str], who: str = "hospital-a", **more: Any) -> Any:
        given = headers or (("x-purpose", "TREAT"),)
        return self.send(check_request(path, *given, **{"host": HOST, **more}).SerializeToString(), who)


@pytest.fixture(scope="module")
def program() -> Path:
    return built("consentd-gate", "consentd-gate")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Iterator[Running]:
    yield from serve(make_running(tmp_path_factory.mktemp("daemon"), GATE, checkpoint_interval_ms=10))


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory, running: Running, program: Path) -> Iterator[Asking]:
    mapping = tmp_path_factory.mktemp("mapping") / "mapping.toml"
    mapping.write_text(OURS)
    gate = make_gate(running, program, mapping_file=mapping)
    gate.start()
    whole, part, mixed = (running.enrol(value) for value in ("T-whole", "T-part", "T-mixed"))
    running.grant(whole, categories=["CLIN.DX", "CLIN.LAB"])
    running.grant(part, categories=["CLIN.LAB"])
    running.grant(mixed)
    running.grant(mixed, effect=pb.EFFECT_DENY, categories=["CLIN.LAB"], labels=["HIV"])
    running.grant(running.enrol("T-objects"), effect=pb.EFFECT_DENY)
    running.enrol("T-silent")
    found = Asking(running, gate)
    yield found
    found.channel.close()
    gate.stop()


def reason(response: Any) -> str:
    """Return why a request is refused; empty: it is let through."""
    found = headers_of(response)
    if response.status.code == 0:
        assert response.HasField("ok_response")
        assert not response.HasField("denied_response")
        return ""
    assert (response.status.code, response.denied_response.status.code) == (7, 403)
    assert not response.HasField("ok_response")
    return found["consentd-reason"]


def test_the_answer_is_that_of_check(running: Running, asking: Asking) -> None:
    response = asking.ask("/whole/T-whole")
    assert reason(response) == ""
    found = headers_of(response)
    asked = question(pb.Subject(scheme="mhid", value="T-whole"), categories=["CLIN.DX", "CLIN.LAB"])
    decision = running.check(asked, "hospital-a")
    assert found["consentd-permitted"].split(",") == list(decision.permitted) == ["CLIN.DX", "CLIN.LAB"]
    metadata = dict(response.dynamic_metadata.items())
    assert metadata["decision_id"] == found["consentd-decision-id"]
    assert metadata["tree_size"] == found["consentd-revision"]


def test_headers_that_are_not_set_are_removed(asking: Asking) -> None:
    stated = ("consentd-outcome", "consentd_outcome", "consentd-other", "consentd-residual", "x-other")
    response = asking.ask("/whole/T-whole", *((name, "x") for name in stated), ("x-purpose", "TREAT"))
    found, removed = set(headers_of(response)), set(response.ok_response.headers_to_remove)
    assert {"consentd_outcome", "consentd-other", "consentd-residual", "consentd-obligations"} <= removed
    assert "x-other" not in removed
    assert not found & removed
    source = (SOURCE / "server/src/verdict.rs").read_text("utf-8")
    assert set(re.findall(r'"(consentd-[a-z-]+[a-z])"', source)) <= found | removed


def test_conditions_are_those_of_check_where_the_server_applies_them(running: Running, asking: Asking) -> None:
    response = asking.ask("/part/T-mixed")
    assert reason(response) == ""
    found = headers_of(response)
    asked = question(
        pb.Subject(scheme="mhid", value="T-mixed"), categories=["CLIN.DX", "CLIN.LAB"],
        supported_obligations=[pb.OBLIGATION_ENFORCE_RESIDUAL],
    )  # fmt: skip
    decision = running.check(asked, "hospital-a")
    assert found["consentd-obligations"] == "ENFORCE_RESIDUAL"
    assert json.loads(found["consentd-residual"]) == [plain(rule) for rule in decision.residual]
    assert len(decision.residual) > 1
    # A server that does not apply them gets the request only if all that it returns is permitted.
    assert reason(asking.ask("/whole/T-mixed")) == ""
    assert reason(asking.ask("/labelled/T-mixed")) == reason(asking.ask("/labelled/T-whole")) == "NOT_PERMITTED"


def plain(rule: pb.ResidualRule) -> Any:
    """Return a rule as JSON, with names of enums without their prefix."""
    text = json_format.MessageToJson(rule, preserving_proto_field_name=True)
    return json.loads(re.sub(r'"(?:EFFECT|LAYER)_([A-Z_]+)"', r'"\1"', text))


def test_a_part_is_refused_where_the_server_does_not_apply_it(asking: Asking) -> None:
    assert reason(asking.ask("/whole/T-part")) == "NOT_PERMITTED"
    response = asking.ask("/part/T-part")
    assert reason(response) == ""
    assert (headers_of(response)["consentd-outcome"], headers_of(response)["consentd-permitted"]) == (
        "PARTIAL", "CLIN.LAB",
    )  # fmt: skip


def test_the_client_learns_one_answer_and_envoy_the_whole(running: Running, asking: Asking) -> None:
    shown, known = [], []
    for person in ("T-objects", "T-silent", "T-nobody"):
        response = asking.ask(f"/whole/{person}", who="app")
        headers = headers_of(response)
        shown.append({name: headers[name] for name in ("consentd-outcome", "consentd-reason")})
        assert headers.keys() == set(shown[-1])
        known.append(dict(response.dynamic_metadata.items())["outcome"])
    assert shown == [{"consentd-outcome": "DENY", "consentd-reason": "NOT_PERMITTED"}] * 3
    assert known == ["DENY", "NO_CONSENT", "NO_CONSENT"]
    # A caller without the right to see reasons does not get more than by Check.
    assert [
        dict(asking.ask(f"/whole/{person}").dynamic_metadata.items())["outcome"]
        for person in ("T-objects", "T-silent", "T-nobody")
    ] == ["DENY"] * 3


def test_names_are_those_of_the_protocol() -> None:
    source = (SOURCE / "server/src/verdict.rs").read_text("utf-8")
    for name, enum, prefix in (
        ("OUTCOMES", pb.Outcome, "OUTCOME_"), ("REASONS", pb.ReasonCode, "REASON_CODE_"),
        ("EFFECTS", pb.Effect, "EFFECT_"), ("OBLIGATIONS", pb.Obligation, "OBLIGATION_"),
        ("LAYERS", pb.Layer, "LAYER_"),
    ):  # fmt: skip
        (listed,) = re.findall(rf"const {name}: \[&str; \d+\] =\s*\[(.*?)\];", source, re.DOTALL)
        assert re.findall(r'"(\w+)"', listed) == [one.name.removeprefix(prefix) for one in enum.DESCRIPTOR.values]


@pytest.mark.parametrize("who", ["", "clinic-b", "operator", "unknown"])
def test_an_envoy_that_is_not_named_is_refused(running: Running, asking: Asking, who: str) -> None:
    running.tokens["unknown"] = "no-token-of-anybody"
    assert reason(asking.ask("/whole/T-whole", who=who)) == "CALLER_NOT_ALLOWED"


VALUES: dict[str, tuple[Callable[[Asking], Any], str]] = {
    "no header": (lambda one: one.ask("/whole/T-whole", ("x-other", "TREAT")), "VALUE_MISSING"),
    "an empty header": (lambda one: one.ask("/whole/T-whole", ("x-purpose", "")), "VALUE_MISSING"),
    "a header twice": (
        lambda one: one.ask("/whole/T-whole", ("x-purpose", "TREAT"), ("x-purpose", "TREAT")),
        "VALUE_DOUBLED",
    ),
    "a header in two spellings": (
        lambda one: one.ask("/whole/T-whole", ("x-purpose", "TREAT"), ("x_purpose", "TREAT")),
        "VALUE_DOUBLED",
    ),
    "headers that were joined": (lambda one: one.ask("/whole/T-whole", ("x-purpose", "TREAT,TREAT")), "VALUE_DOUBLED"),
    "a header with spaces": (lambda one: one.ask("/whole/T-whole", ("x-purpose", " TREAT")), "VALUE_UNMAPPED"),
    "another alphabet": (lambda one: one.ask("/whole/T-whole", ("x-purpose", "치료")), "VALUE_UNMAPPED"),
    "an unknown purpose": (lambda one: one.ask("/whole/T-whole", ("x-purpose", "UNHEARD")), "QUESTION_REFUSED"),
    "a break-glass": (lambda one: one.ask("/whole/T-whole", ("x-purpose", "BTG")), "QUESTION_REFUSED"),
    "a resident number": (lambda one: one.ask("/whole/800101-1234567"), "QUESTION_REFUSED"),
    "no claim": (lambda one: one.ask("/claimed/T-whole", token={"other": "TREAT"}), "VALUE_MISSING"),
    "claims below": (lambda one: one.ask("/claimed/T-whole", token={"purpose": {"a": "TREAT"}}), "VALUE_UNMAPPED"),
    "two claims": (lambda one: one.ask("/claimed/T-whole", token={"purpose": ["TREAT", "HRESCH"]}), "VALUE_DOUBLED"),
    "an empty claim": (lambda one: one.ask("/claimed/T-whole", token={"purpose": ""}), "VALUE_MISSING"),
    "a claim": (lambda one: one.ask("/claimed/T-whole", token={"purpose": "TREAT"}), ""),
    "another method": (lambda one: one.ask("/whole/T-whole", method="get"), "ROUTE_UNMAPPED"),
    "a whole URI": (lambda one: one.ask("http://x/whole/T-whole"), "PATH_NOT_CANONICAL"),
    "another host": (lambda one: one.ask("/whole/T-whole", host="other.example"), "HOST_UNMAPPED"),
    "no host": (lambda one: one.ask("/whole/T-whole", host=""), "HOST_UNMAPPED"),
    "no path": (lambda one: one.ask(""), "PATH_NOT_CANONICAL"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_there_once_and_in_one_form(asking: Asking, name: str) -> None:
    ask, expected = VALUES[name]
    assert reason(ask(asking)) == expected


def test_garbage_is_refused_and_is_no_error(asking: Asking) -> None:
    token = {"a": ["b", {"c": "d"}]}
    whole = check_request("/whole/T-whole", ("x-purpose", "TREAT"), host=HOST, token=token).SerializeToString()
    draw = random.Random(5)
    for _ in range(300):
        assert reason(asking.send(draw.randbytes(draw.randrange(200)))) != ""
    let_through = 0
    for _ in range(1_500):
        mutant = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            mutant[draw.randrange(len(mutant))] = draw.randrange(256)
        let_through += reason(asking.send(bytes(mutant))) == ""
    assert let_through < 1_500
    for message in (b"", whole[:-1], whole + whole, whole + b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", whole * 2_000):
        assert reason(asking.send(message)) == "MALFORMED_REQUEST"
    assert reason(asking.send(b"\x0a" + whole * 30_000)) in ("MALFORMED_REQUEST", "UNAVAILABLE")
    assert reason(asking.send(whole)) == ""


def test_a_gate_without_a_mapping_refuses(running: Running, program: Path) -> None:
    gate = make_gate(running, program)
    gate.start()
    asking = Asking(running, gate)
    assert reason(asking.ask("/whole/T-whole")) == "ROUTE_UNMAPPED"
    asking.channel.close()
    gate.stop()


def test_refusals_are_counted_and_denials_are_answers(running: Running, asking: Asking, program: Path) -> None:
    gate = make_gate(
        running, program, mapping_file=asking.gate._config.gate.mapping_file, http_listen="127.0.0.1:0"
    )  # fmt: skip
    gate.start()
    counted = Asking(running, gate)
    assert reason(counted.ask("/whole/T-whole")) == ""
    assert reason(counted.ask("/whole/T-objects")) == "NOT_PERMITTED"
    assert reason(counted.ask("/whole/T-whole", host="other.example")) == "HOST_UNMAPPED"
    assert reason(counted.ask("/whole/T-whole", who="")) == "CALLER_NOT_ALLOWED"
    assert reason(counted.ask("/whole/T-whole", ("x-purpose", "UNHEARD"))) == "QUESTION_REFUSED"  # by the daemon
    calls = dict(re.findall(r'consentd_gate_calls_total\{outcome="(\w+)"\} (\d+)', http_get(gate, "/metrics")[1]))
    assert calls == {"answered": "2", "passed_on": "0", "refused": "3"}
    counted.channel.close()
    gate.stop()


def test_a_daemon_that_does_not_answer_is_a_refusal_in_time(
    running: Running, asking: Asking, program: Path, short_path: Path
) -> None:
    """What the gate leaves to the daemon is refused before the caller stops to wait."""
    gate = make_gate(running, program, mapping_file=asking.gate._config.gate.mapping_file)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "silent"))
        listener.listen()
        gate._socket = short_path / "silent"
        gate.start()
        silent = Asking(running, gate)
        assert reason(silent.ask("/whole/T-whole")) == ""
        message = check_request("/whole/T-whole", ("x-purpose", "UNHEARD"), host=HOST).SerializeToString()
        assert reason(silent.send(message)) == "UNAVAILABLE"
        silent.channel.close()
        gate.stop()


def test_the_mapping_is_read_again_with_the_daemons_files(
    running: Running, program: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(OURS)
    gate = make_gate(running, program, mapping_file=mapping)
    gate.start()
    asking = Asking(running, gate)
    mapping.write_text(OURS + "typo = 1\n")
    gate.reload()
    logged = wait_logged(capfd, "mapping.toml:")
    assert f"{mapping}:{OURS.count(chr(10)) + 1}: `typo` is no key of this table" in logged
    assert reason(asking.ask("/whole/T-whole")) == ""
    mapping.write_text(OURS.replace("/whole/", "/other/"))
    gate.reload()
    wait_logged(capfd, "mapping file of the gate reloaded")
    assert reason(asking.ask("/whole/T-whole")) == "ROUTE_UNMAPPED"
    assert reason(asking.ask("/other/T-whole")) == ""
    asking.channel.close()
    gate.stop()


def wait_logged(capfd: pytest.CaptureFixture[str], what: str) -> str:
    logged = ""
    for _ in range(HANG_S * 50):
        logged += capfd.readouterr().err
        if what in logged:
            return logged
        time.sleep(0.02)
    raise AssertionError(f"not logged: {what}")


FAULTS = {
    "callers = []": (1, "must be a list that is not empty"),
    'callers = ["a"]': (1, "`routes` is missing, or empty"),
    'callers = ["a"]\nroutes = 3': (2, "must be a list that is not empty"),
    'callers = ["a"]\nother = 3': (2, "`other` is no key of this table"),
    'callers = ["a"\n': (1, ""),
    'callers = ["a"]\ncallers = ["b"]': (2, "duplicate key"),
    OURS + '\n[[routes]]\nmethods = ["GET"]\npath = "/{patient}/x"\ncategories = ["CLIN"]\nlabels = []\nlevel = "N"': (
        40,
        "this route and route 1",
    ),
    OURS.replace('"clinic-b"', '{ header = "x-org" }'): (6, "must be a text, or a table with one of principal, claim"),
    OURS.replace('"clinic-b"', "{ principal = true }"): (6, "needs `values`"),
    OURS.replace('path = "patient"', 'path = "person"'): (12, "path has no variable `person`, from which line 10"),
    OURS.replace('{ header = "x-purpose" }', '{ header = "X-Purpose" }'): (9, "no header in lower case"),
    OURS.replace('{ header = "x-purpose" }', '{ header = "x", path = "y" }'): (9, "must be a text, or a table"),
    OURS.replace('action = "disclose"', ""): (12, "route has no `action`"),
    OURS.replace('["partial", "residual"]', '["all"]'): (19, "`all` is none of partial, residual"),
    OURS.replace("labels = []\n", ""): (12, "route has no `labels`"),
    OURS.replace('level = "N"\n', ""): (12, "route has no `level`"),
    OURS.replace('["GET"]', '["get"]'): (12, "`get` is none of GET"),
    OURS.replace('"/whole/{patient}"', '"/whole/../{patient}"'): (14, "no request may have"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_of_a_mapping_file_is_named_with_its_line(program: Path, tmp_path: Path, text: str) -> None:
    line, what = FAULTS[text]
    found = check_mapping(program, tmp_path, text)
    assert found.returncode == 1
    assert found.stderr.startswith(f"consentd-gate: {tmp_path / 'mapping.toml'}:{line}: "), found.stderr
    assert what in found.stderr


def check_mapping(program: Path, directory: Path, text: str) -> "subprocess.CompletedProcess[str]":
    (directory / "mapping.toml").write_text(text)
    command = [str(program), "--check-mapping", str(directory / "mapping.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_example_is_in_order(program: Path, tmp_path: Path) -> None:
    found = check_mapping(program, tmp_path, MAPPING)
    assert (found.returncode, found.stdout) == (0, "mapping file is in order: 3 routes\n")


def test_the_page_names_every_reason_and_header() -> None:
    page = (ROOT / "ops/EXT-AUTHZ.md").read_text("utf-8")
    sources = [*SOURCE.glob("mapping/src/*.rs"), SOURCE / "server/src/verdict.rs", SOURCE / "server/src/ext_authz.rs"]
    text = "".join(one.read_text("utf-8") for one in sources)
    codes = set(re.findall(r'(?:of_request|no|refuse)\("([A-Z_]+)"\)|code: "([A-Z_]+)"|Err\("([A-Z_]+)"\)', text))
    named = {code for found in codes for code in found if code} | {"NOT_PERMITTED"}
    assert len(named) > 10
    table = page.partition("## What is refused")[2].partition("|---|")[2].partition("\n\n")[0]
    assert named == set(re.findall(r"\b[A-Z]+_[A-Z_]+\b|\bUNAVAILABLE\b", table))
    assert set(re.findall(r'"(consentd-[a-z-]+[a-z])"', text)) <= set(re.findall(r"`(consentd-[a-z-]+)", page))
