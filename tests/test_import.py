"""Real consents into real ledgers: each IHE PCF example, and HL7's own, imported by the command line into a ledger of
its own, and then asked about over gRPC. The notes of the guide say what each means.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cases.daemons import Running, question, request_id, running_daemon
from cases.services import listed
from consentd import cli
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "../shared/data"
if not DATA.is_dir():
    pytest.skip("real consents are missing: ../shared/data", allow_module_level=True)

PERMIT, DENY, NO_CONSENT = pb.OUTCOME_PERMIT, pb.OUTCOME_DENY, pb.OUTCOME_NO_CONSENT


@dataclass(frozen=True)
class Asked:
    """A question and its answer; break-glass is asked through AuthorizeAccess."""

    outcome: int
    changed: dict[str, Any] = field(default_factory=dict)


def _resource(reference: str) -> dict[str, Any]:
    return {"resources": pb.CodeSet(values=[reference])}


def _level(level: str) -> dict[str, Any]:
    return {"categories": ["CLIN.ALG"], "level": level}  # the default level of this category is N


def _of(start_ms: int, end_ms: int) -> dict[str, Any]:
    return {"data_period": pb.Period(start_time_ms=start_ms, end_time_ms=end_ms)}


_BTG = {"purpose": "BTG", "break_glass": pb.BreakGlass(justification="unconscious in the emergency room")}
_ER = {**_BTG, "actor": pb.Actor(organisation="er")}
_JUNE_2022, _JUNE_2023, _DAY = 1_654_041_600_000, 1_685_577_600_000, 86_400_000
_RESEARCHER = {"actor": pb.Actor(organisation="ex-org-researcher")}

EXAMPLES: dict[str, list[Asked]] = {
    "ex-consent-basic-treat": [
        Asked(PERMIT),
        Asked(PERMIT, {"purpose": "HPAYMT"}),
        Asked(NO_CONSENT, {"purpose": "HRESCH"}),
    ],
    "ex-consent-basic-research": [Asked(PERMIT, {"purpose": "HRESCH"}), Asked(NO_CONSENT)],
    "ex-consent-basic-reject": [Asked(DENY), Asked(NO_CONSENT, {"purpose": "HRESCH"})],
    "ex-consent-expired-treat": [Asked(NO_CONSENT)],
    "ex-consent-intermediate-purpose": [
        Asked(PERMIT, {**_RESEARCHER, "purpose": "DSRCH"}),
        Asked(NO_CONSENT, {"purpose": "DSRCH"}),
        Asked(NO_CONSENT, {**_RESEARCHER, "purpose": "HRESCH"}),
        # The policy that it selects has the limits of the root, which names no treatment: it permits nothing (rule 1).
        Asked(NO_CONSENT, {**_RESEARCHER, "categories": ["CLIN.ALG"]}),
    ],
    "ex-consent-intermediate-data": [
        Asked(PERMIT, _resource("Observation/ex-weight")),
        Asked(NO_CONSENT, _resource("Observation/another")),
        Asked(NO_CONSENT),
    ],
    "ex-consent-intermediate-not-data": [
        Asked(PERMIT, _resource("Observation/ex-weight")),
        Asked(DENY, _resource("Observation/ex-alcoholUse")),
        Asked(DENY),
    ],
    "ex-consent-intermediate-timeframe": [
        Asked(PERMIT, _of(_JUNE_2022, _JUNE_2022 + _DAY)),
        Asked(NO_CONSENT, _of(_JUNE_2023, _JUNE_2023 + _DAY)),
    ],
    "ex-consent-advanced-normal": [Asked(PERMIT, _level("N")), Asked(NO_CONSENT, _level("R")), Asked(NO_CONSENT)],
    "ex-consent-advanced-normal-restricted": [Asked(PERMIT, _level("N")), Asked(PERMIT, _level("R"))],
    "ex-consent-advanced-normal-break-glass-restricted": [
        Asked(PERMIT, _level("N")),
        Asked(NO_CONSENT, _level("R")),
        Asked(PERMIT, {**_ER, **_level("R")}),
        Asked(DENY, {**_BTG, **_level("R")}),
    ],
    "ex-dissent-intermediate-break-glass": [Asked(DENY), Asked(PERMIT, _ER), Asked(DENY, _BTG)],
}


def _subject(reference: str) -> pb.Subject:
    """Return who the shipped mapping says a FHIR reference is."""
    known = tomllib.loads((ROOT / "ops/fhir-mapping.toml").read_text())["subjects"]
    return pb.Subject(**known[reference])


def _prepare(running: Running) -> None:
    """Register whom the mapping names, with the emergency room among the privileged."""
    for name, groups, rights in (
        ("er", ["group/privileged-users"], [st.PARTICIPANT_RIGHT_BREAK_GLASS]),
        ("ex-org-researcher", [], []),
    ):
        statement = st.ParticipantStatement(
            participant_id=name,
            name={"ko": "시험 기관", "en": name},
            roles=[st.PARTICIPANT_ROLE_RECIPIENT],
            rights=rights,
            groups=groups,
            active=True,
        )
        request = rs.RegisterParticipantRequest(request_id=request_id(), attested=statement)
        running.registry.RegisterParticipant(request, metadata=running.as_("operator"))


Import = Callable[..., int]


@pytest.fixture
def run_import(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Run ``consentd import fhir`` on a file, against a running daemon; return the exit status."""

    def run(running: Running, file: Path, *options: str) -> int:
        monkeypatch.setenv("CONSENTD_TOKEN", running.tokens["app"])
        monkeypatch.setenv("CONSENTD_TARGET", f"127.0.0.1:{running.daemon.grpc_port}")
        return cli.main(["import", "fhir", str(file), "--mapping", str(ROOT / "ops/fhir-mapping.toml"), *options])

    return run


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_means(name: str, tmp_path: Path, run_import: Import) -> None:
    file = DATA / "pcf" / f"{name}.json"
    with running_daemon(tmp_path) as running:
        _prepare(running)
        options = ["--enrol", "--test-data"]
        if "expired" in name:  # an operator alone records consents that are over, and may not read consents
            assert run_import(running, file, *options) == 1
            token = tmp_path / "operator.token"
            token.write_text(running.tokens["operator"])
            options += ["--operator-token-file", str(token)]
        assert run_import(running, file, *options) == 0
        size = running.check_ledger()
        assert run_import(running, file, *options) == 0
        assert running.check_ledger() == size  # a second run changes nothing
        assert len(listed(running, _subject("Patient/ex-patient"))) == 1
        for asked in EXAMPLES[name]:
            put = question(_subject("Patient/ex-patient"), **asked.changed)
            # A relay needs a delegation for emergencies, so the institution asks itself.
            asker = put.actor.organisation if put.HasField("break_glass") else "app"
            outcome = running.authorize(put, asker).decision.outcome
            assert outcome == asked.outcome, (asked, pb.Outcome.Name(outcome))
            if not put.HasField("break_glass"):
                assert running.check(put).outcome == asked.outcome
        running.check_ledger()


def test_hl7_example_is_ambiguous_and_refused(tmp_path: Path, run_import: Import) -> None:
    # OPTIN, and a root with limits and without type: the limits may be those of an exception.
    with running_daemon(tmp_path) as running:
        size = running.check_ledger()
        assert run_import(running, DATA / "r4_examples_consent-example.json", "--enrol", "--test-data") == 1
        assert running.check_ledger() == size


def test_test_data_needs_leave(tmp_path: Path, run_import: Import) -> None:
    with running_daemon(tmp_path) as running:
        _prepare(running)
        size = running.check_ledger()
        assert run_import(running, DATA / "pcf/ex-consent-basic-treat.json") == 1
        assert running.check_ledger() == size
