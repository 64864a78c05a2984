"""The contract: generated code is fresh, its numbers are the core's, its comments are complete, lint is clean."""

import shutil
import subprocess
import sys
from enum import IntEnum
from importlib import import_module
from pathlib import Path

import pytest

from consentd.core.kinds import AUTHORS, EntryKind
from consentd.policy import model
from consentd.policy.delegation import Capacity
from consentd.statements.payloads import MESSAGES
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

ROOT = Path(__file__).resolve().parent.parent

PAIRS = [
    (model.Effect, pb.Effect, "EFFECT_"),
    (model.Kind, pb.ConsentKind, "CONSENT_KIND_"),
    (model.Outcome, pb.Outcome, "OUTCOME_"),
    (model.Combining, pb.Combining, "COMBINING_"),
    (model.ImplicitPolicy, pb.ImplicitPolicy, "IMPLICIT_POLICY_"),
    (model.ReasonCode, pb.ReasonCode, "REASON_CODE_"),
    (model.Obligation, pb.Obligation, "OBLIGATION_"),
    (EntryKind, st.EntryKind, "ENTRY_KIND_"),
    (Capacity, st.DelegationCapacity, "DELEGATION_CAPACITY_"),
]


@pytest.mark.parametrize(("core", "wire", "prefix"), PAIRS)
def test_the_wire_numbers_are_those_of_the_core(core: type[IntEnum], wire: object, prefix: str) -> None:
    ours = {f"{prefix}{member.name}": member.value for member in core}
    theirs = {name: number for name, number in wire.items() if number}  # type: ignore[attr-defined]
    assert ours == theirs
    assert wire.Name(0) == f"{prefix}UNSPECIFIED"  # type: ignore[attr-defined]


def test_layers_are_those_of_the_core_one_up() -> None:
    # 0 is the statute's in the core and "unspecified" on the wire.
    assert {f"LAYER_{layer.name}": layer + 1 for layer in model.Layer} == {n: v for n, v in pb.Layer.items() if v}


def test_every_kind_has_an_author_and_every_written_kind_a_message() -> None:
    assert set(AUTHORS) == set(EntryKind)
    later = {EntryKind.DISPUTE, EntryKind.RESOLUTION}
    assert set(MESSAGES) == set(EntryKind) - later


def test_every_file_names_its_packages_for_go_and_java() -> None:
    for path in (ROOT / "proto/consentd/v1").glob("*.proto"):
        options = import_module(f"consentd.v1.{path.stem}_pb2").DESCRIPTOR.GetOptions()
        assert options.go_package == "github.com/consentd/consentd/clients/go/consentd/v1;consentdv1", path.name
        assert (options.java_package, options.java_multiple_files) == ("io.github.consentd.v1", True), path.name


@pytest.mark.slow
def test_generated_code_is_fresh_and_the_files_are_linted() -> None:
    # One test, because the first command may put files where the second reads.
    if not (ROOT / ".venv-proto/pins.txt").exists() and not _is_ci():
        pytest.skip("the pinned generator is not installed; `make proto` installs it, CI always does")
    done = subprocess.run(
        [sys.executable, str(ROOT / "proto/generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is not installed")
    done = subprocess.run([buf, "lint", "proto"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _is_ci() -> bool:
    import os

    return os.environ.get("CI", "") not in ("", "0", "false")


_FILES = sorted((ROOT / "proto/consentd/v1").glob("*.proto"))
_MODULES = [import_module(f"consentd.v1.{path.stem}_pb2") for path in _FILES]
_NO_WRITE = ("Get", "List", "Check", "Batch", "Cancel", "Prepare", "Revoke")
"""How the RPCs begin that need no request_id: they write nothing, their items have one, or a repeat changes nothing."""


def test_every_time_is_of_one_type_and_has_one_ending() -> None:
    times = [
        field for module in _MODULES for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields if "ms" in field.name.split("_")
    ]  # fmt: skip
    assert len(times) > 30
    for field in times:
        assert field.type == field.TYPE_INT64, field.full_name
        assert f"_{field.name}".endswith("_time_ms"), field.full_name


def test_every_list_has_pages_and_every_write_a_request_id() -> None:
    rpcs = [
        rpc for module in _MODULES for service in module.DESCRIPTOR.services_by_name.values()
        for rpc in service.methods
    ]  # fmt: skip
    assert len(rpcs) > 40
    for rpc in rpcs:
        asked, answered = rpc.input_type, rpc.output_type
        assert (asked.name, answered.name) == (f"{rpc.name}Request", f"{rpc.name}Response")
        if rpc.name.startswith("List"):
            assert {"page_size", "page_token"} <= set(asked.fields_by_name), rpc.full_name
            assert "next_page_token" in answered.fields_by_name, rpc.full_name
        if not rpc.name.startswith(_NO_WRITE) or rpc.name == "RevokeConsent":
            assert "request_id" in asked.fields_by_name, rpc.full_name
