"""Consents of FHIR documents mean here what they mean there: the examples of IHE and HL7, and each element."""

import json
from typing import Any

import pytest

from cases.fhir_consents import (
    CASES,
    CODEBOOK,
    DAY_MS,
    DENY,
    END_OF_2022_MS,
    HL7,
    MEMBERSHIPS,
    NO_CONSENT,
    NOW_MS,
    NUMBERS,
    PARTIAL,
    PCF,
    PERMIT,
    R4,
    R5,
    RESEARCHER,
    RULES,
    SYSTEM,
    concept,
    imported,
    needs_data,
    pcf,
    provision,
    r4,
    r5,
    read,
    reason,
    untyped,
)
from cases.policy_worlds import World
from consentd.fhir.consents import Withdrawn, read_consents
from consentd.fhir.document import Cause
from consentd.fhir.mapping import SubjectReference, load_mapping, parse_mapping
from consentd.policy import model
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY
from consentd.policy.residual import covers

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")


def ask(
    consent: model.Consent,
    purpose: str = "TREAT",
    *,
    by: str = "clinic",
    of: str = "CLIN.VIT",
    at: int = NOW_MS,
    level: str = "",
    labels: tuple[str, ...] | None = None,
    resources: tuple[str, ...] | None = None,
    data_period: model.Period | None = None,
    residual: bool = False,
) -> model.Decision:
    """Ask the reference and the compiled evaluator, which must agree, on this consent alone."""
    question = model.Question(
        actor=model.Actor(organisation=by),
        holder="hospital",
        purpose=purpose,
        action="access",
        categories=(of,),
        level=level,
        labels=labels,
        resources=resources,
        data_period=data_period,
        break_glass="unconscious" if purpose == "BTG" else None,
        supported_obligations=frozenset({model.Obligation.ENFORCE_RESIDUAL} if residual else ()),
    )
    stored = model.StoredConsent(lineage=1, seq=1, version=1, consent=consent)
    world = World([stored], RULES, CODEBOOK, NUMBERS, MEMBERSHIPS)
    meant, compiled = world.reference_answer(question, at), world.compiled_answer(question, at)
    assert (compiled.outcome, compiled.permitted, compiled.valid_until_ms, compiled.obligations) == (
        meant.outcome, meant.permitted, meant.valid_until_ms, meant.obligations,
    )  # fmt: skip
    return compiled


def outcomes(consent: model.Consent, *questions: dict[str, Any]) -> list[model.Outcome]:
    return [ask(consent, **question).outcome for question in questions]


def purposes(*codes: str) -> list[dict[str, str]]:
    return [{"purpose": code} for code in codes]


# What the PCF examples mean: the guide's notes, consent.md 3.3 and 3.4.


@needs_data
def test_basic_treat_permits_its_purposes_and_no_other() -> None:
    consent = pcf("consent-basic-treat")
    assert (consent.kind, consent.policy) == (model.Kind.CONSENT, None)
    assert (consent.root.actors, consent.root.categories) == ((model.ANY,), (model.ANY,))
    assert outcomes(consent, *purposes("TREAT", "HPAYMT", "HOPERAT", "COC")) == [PERMIT] * 4
    assert outcomes(consent, *purposes("HRESCH", "HMARKT", "BTG", "CLINTRL")) == [NO_CONSENT] * 4
    # The guide has no residual here. But no permit covers data with labels that it does not name (rule 9).
    left_open = ask(consent, residual=True)
    assert left_open.obligations == (model.Obligation.ENFORCE_RESIDUAL,)
    assert covered(left_open, "ex-weight") == [True]
    resource = model.Resource(category="CLIN.VIT", labels=("HIV",), reference="Observation/ex-weight")
    assert not covers(left_open.residual, resource)


@needs_data
def test_basic_research_permits_research_only() -> None:
    consent = pcf("consent-basic-research")
    assert outcomes(consent, *purposes("HRESCH", "DSRCH")) == [PERMIT] * 2
    assert outcomes(consent, *purposes("TREAT", "POARCH", "AITRAIN")) == [NO_CONSENT] * 3


@needs_data
def test_basic_reject_is_an_objection() -> None:
    consent = pcf("consent-basic-reject")
    assert consent.kind is model.Kind.OBJECTION
    # A deny covers what a permit would not imply: break-glass lies under treatment.
    assert outcomes(consent, *purposes("TREAT", "HPAYMT", "HOPERAT", "BTG")) == [DENY] * 4
    assert outcomes(consent, *purposes("HRESCH")) == [NO_CONSENT]


@needs_data
def test_expired_treat_ends_with_its_last_day_in_seoul() -> None:
    consent = pcf("consent-expired-treat")
    before = ask(consent, at=END_OF_2022_MS - 1)
    assert (before.outcome, before.valid_until_ms) == (PERMIT, END_OF_2022_MS)
    assert ask(consent, at=END_OF_2022_MS).outcome is NO_CONSENT


@needs_data
def test_purpose_is_for_one_recipient_above_its_policy() -> None:
    consent = pcf("consent-intermediate-purpose")
    assert consent.policy is model.ImplicitPolicy.BASIC_NORMAL
    assert ask(consent, "DSRCH", by="ex-org-researcher").outcome is PERMIT  # FooBar, by the mapping
    assert ask(consent, "DSRCH", by="clinic").outcome is NO_CONSENT
    assert ask(consent, "HRESCH", by="ex-org-researcher").outcome is NO_CONSENT
    # The policy has the limits of the root, which names another purpose than treatment: it permits nothing (rule 1).
    assert ask(consent, "TREAT", by="ex-org-researcher", of="CLIN.VIT").outcome is NO_CONSENT


def covered(answer: model.Decision, *names: str) -> list[bool]:
    """Return for each observation whether an answer's residual covers it."""
    resources = [model.Resource(category="CLIN.VIT", reference=f"Observation/{name}") for name in names]
    return [covers(answer.residual, resource) for resource in resources]


@needs_data
def test_data_permits_the_listed_resources_alone() -> None:
    consent = pcf("consent-intermediate-data")
    listed = ("Encounter/ex-encounter", "Observation/ex-alcoholUse")
    assert ask(consent, resources=listed).outcome is PERMIT
    assert ask(consent, resources=("Observation/ex-other",)).outcome is NO_CONSENT
    assert ask(consent, resources=(*listed, "Observation/ex-other")).outcome is NO_CONSENT
    assert ask(consent).outcome is NO_CONSENT
    left_open = ask(consent, residual=True)
    assert (left_open.outcome, left_open.obligations) == (PERMIT, (model.Obligation.ENFORCE_RESIDUAL,))
    assert covered(left_open, "ex-weight", "ex-other") == [True, False]


@needs_data
def test_not_data_denies_the_listed_resource_alone() -> None:
    consent = pcf("consent-intermediate-not-data")
    assert ask(consent, resources=("Observation/ex-alcoholUse",)).outcome is DENY
    assert ask(consent, resources=("Observation/ex-weight",)).outcome is PERMIT
    assert ask(consent, resources=("Observation/ex-weight", "Observation/ex-alcoholUse")).outcome is DENY
    left_open = ask(consent, residual=True)
    assert left_open.outcome is PERMIT
    assert covered(left_open, "ex-weight", "ex-alcoholUse") == [True, False]


@needs_data
def test_timeframe_permits_data_of_2022_by_seoul() -> None:
    consent = pcf("consent-intermediate-timeframe")
    start = END_OF_2022_MS - 365 * DAY_MS
    assert ask(consent, data_period=model.Period(start, END_OF_2022_MS)).outcome is PERMIT
    assert ask(consent, data_period=model.Period(start - 1, END_OF_2022_MS)).outcome is NO_CONSENT
    assert ask(consent, data_period=model.Period(start, END_OF_2022_MS + 1)).outcome is NO_CONSENT
    assert ask(consent, data_period=model.Period(start, END_OF_2022_MS), at=END_OF_2022_MS + 10**12).outcome is PERMIT
    (rule,) = ask(consent, residual=True).residual
    assert rule.data_period == model.Period(start, END_OF_2022_MS)


@needs_data
@pytest.mark.parametrize(("name", "restricted"), [("normal", NO_CONSENT), ("normal-restricted", PERMIT)])
def test_confidentiality_limits_what_may_flow(name: str, restricted: model.Outcome) -> None:
    consent = pcf(f"consent-advanced-{name}")
    assert ask(consent, level="N").outcome is PERMIT
    assert ask(consent, level="R").outcome is restricted
    assert ask(consent, level="V").outcome is NO_CONSENT
    assert ask(consent, of="CLIN.DX").outcome is restricted  # its default confidentiality
    assert ask(consent, level="N", labels=("HIV",)).outcome is NO_CONSENT  # a label that it does not name (rule 9)
    assert ask(consent, "HRESCH", level="N").outcome is NO_CONSENT


@needs_data
def test_break_glass_inside_a_permit_adds_restricted_data_for_the_privileged() -> None:
    consent = pcf("consent-advanced-normal-break-glass-restricted")
    assert ask(consent, level="N").outcome is PERMIT
    assert ask(consent, level="R").outcome is NO_CONSENT
    assert ask(consent, "TREAT", by="emergency-room", level="R").outcome is NO_CONSENT
    assert ask(consent, "BTG", by="clinic", level="R").outcome is NO_CONSENT
    # A permit covers the confidentiality that it names, and lower ones (rule 9), as the guide says of broken glass.
    assert ask(consent, "BTG", by="emergency-room", level="N").outcome is PERMIT
    broken = ask(consent, "BTG", by="emergency-room", level="R")
    assert broken.outcome is PERMIT
    assert broken.obligations == (model.Obligation.NOTIFY_SUBJECT, model.Obligation.POST_REVIEW)


@needs_data
def test_dissent_is_broken_by_the_privileged_alone() -> None:
    consent = pcf("dissent-intermediate-break-glass")
    assert (consent.kind, consent.policy) == (model.Kind.OBJECTION, model.ImplicitPolicy.BREAK_GLASS_ONLY)
    assert outcomes(consent, *purposes("TREAT", "HRESCH", "HMARKT", "BTG")) == [DENY] * 4
    assert ask(consent, "BTG", by="emergency-room").outcome is PERMIT


@needs_data
def test_hl7_example_is_ambiguous_without_a_type() -> None:
    # OPTIN, and a root with a period and without type: is the period that of the base, or of an exception (rule 2)?
    refused = read(HL7.read_bytes())
    assert (refused.cause, refused.message) == (Cause.BASE, "root provision has limits and no type: `provision`")


@needs_data
def test_hl7_example_with_a_type_is_opted_in_until_2016() -> None:
    resource = json.loads(HL7.read_bytes())
    resource["provision"]["type"] = "permit"
    result = imported(resource)
    end = 1_451_660_400_000  # 2016-01-02T00:00+09:00: the end is the day 2016-01-01
    assert outcomes(result.consent, *({"at": end - 1, **q} for q in purposes("TREAT", "HRESCH"))) == [PERMIT] * 2
    # It states no purpose; silence permits neither marketing nor break-glass (rule 6).
    assert outcomes(result.consent, *({"at": end - 1, **q} for q in purposes("HMARKT", "BTG"))) == [NO_CONSENT] * 2
    assert ask(result.consent, at=end).outcome is NO_CONSENT
    assert "the base is permit, by provision.type" in result.notes
    assert any("states no purpose" in note for note in result.notes)


@needs_data
def test_every_example_is_imported_and_none_without_test_data() -> None:
    files = sorted(PCF.glob("*.json"))
    assert len(files) == 12
    for file in files:
        result = imported(file.read_bytes())
        assert result.consent.source.startswith("fhir/r4#")
        assert "ex-patient" not in f"{result!r}".lower()
        refused = read(file.read_bytes(), test_data=False)
        assert refused.cause is Cause.TEST_DATA


# R5: the decision is the base, provisions are its exceptions.


def test_r5_deny_with_an_exception_permits_it() -> None:
    result = imported(R5)
    consent = result.consent
    assert (consent.kind, consent.source[:8]) == (model.Kind.OBJECTION, "fhir/r5#")
    assert outcomes(consent, *purposes("TREAT", "HRESCH", "HMARKT")) == [PERMIT, DENY, DENY]


def test_r5_exceptions_of_exceptions_alternate() -> None:
    inner = {"actor": [RESEARCHER]}
    resource = {**R5, "decision": "permit", "provision": [{"purpose": [reason("HRESCH")], "provision": [inner]}]}
    consent = imported(resource).consent
    assert consent.kind is model.Kind.CONSENT
    assert ask(consent, "TREAT").outcome is PERMIT
    assert ask(consent, "HRESCH").outcome is DENY
    assert ask(consent, "HRESCH", by="ex-org-researcher").outcome is PERMIT


def test_r5_denied_recipient_is_denied_marketing_too() -> None:
    # The base permits by silence what can be implied; the exception denies everything, marketing included.
    consent = imported({**R5, "decision": "permit", "provision": [{"actor": [RESEARCHER]}]}).consent
    assert (consent.root.purposes, consent.root.children[0].purposes) == ((model.ANY,), ())
    assert outcomes(consent, *({"by": "ex-org-researcher", **q} for q in purposes("TREAT", "HMARKT"))) == [DENY] * 2


def test_r5_period_of_the_consent_bounds_it() -> None:
    period = {"start": "2022", "end": "2022-12"}
    consent = imported({**R5, "period": period}).consent
    assert (consent.root.start_ms, consent.root.end_ms) == (END_OF_2022_MS - 365 * DAY_MS, END_OF_2022_MS)
    assert ask(consent, at=END_OF_2022_MS - 1).outcome is PERMIT
    assert ask(consent, at=END_OF_2022_MS).outcome is NO_CONSENT


def test_r5_resource_types_need_a_place() -> None:
    coding = {"system": "http://hl7.org/fhir/fhir-types", "code": "Condition"}
    consent = imported({**R5, "provision": [{**R5["provision"][0], "resourceType": [coding]}]}).consent
    assert [ask(consent, of=code).outcome for code in ("CLIN.DX", "CLIN.LAB", "CLIN")] == [PERMIT, DENY, PARTIAL]
    other = {**coding, "code": "Anything"}
    refused = read({**R5, "provision": [{"resourceType": [other]}]})
    assert refused.cause is Cause.UNKNOWN_CODE
    assert f"`{other['system']}|Anything` at `provision[0].resourceType[0]`" in refused.message


# Times, data, recipients and holders.


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ({"start": "2022"}, 1_640_962_800_000, model.OPEN_END_MS),  # 2022-01-01T00:00+09:00
        ({"end": "2022"}, None, END_OF_2022_MS),
        ({"end": "2022-02"}, None, 1_646_060_400_000),  # 2022-03-01T00:00+09:00
        ({"end": "2024-02-29"}, None, 1_709_218_800_000),  # 2024-03-01T00:00+09:00
        ({"start": "1964-01-01", "end": "2022-12-31"}, -189_421_200_000, END_OF_2022_MS),  # 1963-12-31T15:00Z
        ({"start": "0001"}, -62_135_629_200_000, model.OPEN_END_MS),  # the first day of Seoul that can be stated
        ({"end": "9999-12-31"}, None, model.OPEN_END_MS),
        ({"end": "9999"}, None, model.OPEN_END_MS),
        ({"end": "9999-12-31T23:59:59+09:00"}, None, model.OPEN_END_MS),
        ({"end": "2022-12-31T12:00:00Z"}, None, 1_672_488_000_000),
        ({"start": "2022-12-31T21:00:00.500+09:00"}, 1_672_488_000_500, model.OPEN_END_MS),
    ],
)
def test_dates_are_days_of_seoul(period: dict[str, str], start: int | None, end: int) -> None:
    root = imported(provision(period=period, dataPeriod=period)).consent.root
    assert (root.start_ms, root.end_ms) == (max(start or 0, 0), end)  # no decision is from before 1970
    assert root.data_period == model.Period(model.OPEN_START_MS if start is None else start, end)


def test_data_may_be_from_before_1970() -> None:
    period = {"start": "1950", "end": "1960"}
    consent = imported(provision(dataPeriod=period)).consent
    start, end = -631_184_400_000, -284_029_200_000  # 1950-01-01 and 1961-01-01, 00:00+09:00
    assert consent.root.data_period == model.Period(start, end)
    assert ask(consent, data_period=model.Period(start, end)).outcome is PERMIT
    assert ask(consent, data_period=model.Period(start - 1, end)).outcome is NO_CONSENT
    assert ask(consent, data_period=model.Period(end, end + 1)).outcome is NO_CONSENT


def test_absolute_references_under_a_base_are_relative() -> None:
    data = [{"meaning": "instance", "reference": {"reference": "http://example.org/fhir/Observation/1"}}]
    consent = imported(provision(data=data)).consent
    assert consent.root.resources == ("Observation/1",)
    subject = {"reference": "http://example.org/fhir/Patient/ex-patient"}
    assert imported(r4(patient=subject)).subject == imported(R4).subject


def test_subject_may_be_known_by_identifier() -> None:
    identifier = {"system": "https://myhealthway.go.kr", "value": "M-1"}
    result = imported(r4(patient={"identifier": identifier}, performer=[{"identifier": identifier}]))
    assert result.subject == SubjectReference("mhid", "M-1")
    both = r4(patient={"reference": "Patient/ex-patient", "identifier": identifier})
    assert read(both).cause is Cause.UNKNOWN_SUBJECT


def test_keeper_of_a_consent_limits_it_only_when_the_mapping_says_so() -> None:
    resource = r4(organization=[{"reference": "Organization/ex-organization"}])
    assert imported(resource).consent.root.holders == ()
    mapping = parse_mapping(
        '[subjects]\n"Patient/ex-patient" = { scheme = "mhid", value = "X" }\n'
        '[holders]\n"Organization/ex-organization" = "hospital"',
        VOCABULARY,
    )
    assert imported(resource, mapping).consent.root.holders == ("hospital",)


@pytest.mark.parametrize("base", ["", "http://example.org/fhir/"])
def test_a_reference_to_a_version_is_one_to_its_resource(base: str) -> None:
    plain = imported(R4)
    subject = {"reference": f"{base}Patient/ex-patient/_history/7"}
    versioned = imported(r4(patient=subject, performer=[{"reference": "Patient/ex-patient"}]))
    assert (versioned.subject, versioned.consent.root) == (plain.subject, plain.consent.root)
    mapping = parse_mapping(
        'server = "http://example.org/fhir"\n[subjects]\n"Patient/ex-patient" = { scheme = "mhid", value = "X" }\n'
        '[holders]\n"Organization/h" = "hospital"\n[actors]\n"Organization/b" = "clinic-b"',
        VOCABULARY,
    )
    # Without a match, the consent would be about the data of every holder.
    limited = imported(r4(organization=[{"reference": f"{base}Organization/h/_history/2"}]), mapping).consent
    assert limited.root.holders == ("hospital",)
    actor = {
        "role": {"coding": [{"system": f"{SYSTEM}v3-ParticipationType", "code": "IRCP"}]},
        "reference": {"reference": f"{base}Organization/b/_history/1"},
    }
    assert imported(provision(actor=[actor]), mapping).consent.root.actors == ("clinic-b",)
    for strange in ("/b/_history/", "/b/_history/1/2", "/b/_history/1\n", "/_history/1"):
        actor["reference"] = {"reference": f"Organization{strange}"}
        assert read(provision(actor=[actor]), mapping).cause in (Cause.UNKNOWN_PARTICIPANT, Cause.NOT_VALID), strange


def test_codings_of_one_concept_are_translations() -> None:
    known = {"system": f"{SYSTEM}consentaction", "code": "access"}
    other = {"system": "urn:x", "code": "read"}
    assert imported(provision(action=[{"coding": [other, known]}])).consent.root.actions == ("access",)
    clash = {"coding": [known, {**known, "code": "use"}]}
    assert read(provision(action=[clash])).cause is Cause.UNKNOWN_CODE


def test_effect_names_are_those_of_fhir() -> None:
    child = {"type": "deny", "action": [concept("consentaction", "use")]}
    root = imported(provision(type="permit", provision=[child])).consent.root
    assert (root.effect, root.children[0].effect) == (model.Effect.PERMIT, model.Effect.DENY)


# The base in R4, and policies (policy.md, rules 1 to 3).


@pytest.mark.parametrize(("code", "effect"), [("OPTIN", model.Effect.PERMIT), ("OPTOUT", model.Effect.DENY)])
def test_root_without_type_and_limits_takes_the_policy_rule(code: str, effect: model.Effect) -> None:
    child = {"type": "permit", "purpose": [reason("TREAT")]}
    for root in (None, {"provision": [child]}, {"id": "root", "provision": [child]}):
        consent = imported(r4(policyRule=concept("v3-ActCode", code), provision=root)).consent
        assert consent.root.effect is effect
        assert consent.kind is (model.Kind.CONSENT if effect is model.Effect.PERMIT else model.Kind.OBJECTION)
        assert [one.purposes for one in consent.root.children] == ([("TREAT",)] if root else [])


def test_nested_type_is_as_written() -> None:
    both = [{"type": kind, "purpose": [reason("HRESCH")], "provision": [{"type": kind}]} for kind in ("permit", "deny")]
    root = imported(untyped(provision=both)).consent.root
    kinds = [model.Effect.PERMIT, model.Effect.DENY]
    assert [(one.effect, [inner.effect for inner in one.children]) for one in root.children] == [
        (kind, [kind]) for kind in kinds
    ]


def test_policies_that_select_nothing_are_kept() -> None:
    uris = ["http://example.org/policy", "http://example.org/policies/basePrivacyConsentPolicy.txt"]
    result = imported(r4(policy=[{"uri": uri} for uri in (*uris, uris[0])]))
    assert (result.consent.policy, result.consent.policy_uris) == (None, tuple(uris))
    assert f"policy is kept, and selects nothing: `{uris[0]}`" in result.notes


def test_policies_of_r5_are_kept() -> None:
    basis = [{"coding": [{"system": "urn:law", "code": "26"}]}]
    consent = imported(r5(policyBasis={"url": "http://example.org/policy"}, regulatoryBasis=basis)).consent
    assert consent.policy_uris == ("urn:law|26", "http://example.org/policy")


@pytest.mark.parametrize("name", ["deny", "basic-normal", "all-normal", "break-glass-only"])
def test_implicit_policies_of_pcf_are_selected(name: str) -> None:
    uri = f"https://profiles.ihe.net/ITI/PCF/Policy-{name}"
    policy = model.ImplicitPolicy[name.upper().replace("-", "_")]
    consent = imported(r4(policy=[{"uri": uri}])).consent
    assert (consent.policy, consent.policy_uris) == (policy, ())
    denies = r4(policyRule=None, policy=[{"uri": uri}], provision={"type": "deny"})
    if name.endswith("normal"):
        refused = read(denies)
        message = f"consent that denies selects a policy that permits: `{uri}` at `policy[0].uri`"
        assert (refused.cause, refused.message) == (Cause.UNSUPPORTED_CONTENT, message)
    else:
        assert imported(denies).consent.policy is policy


# Inputs that failed once, with what is right beside them. Rules 2 and 4 decide those that have a comment here.

WITHDRAWN = "withdrawn"
SHARED: dict[str, list[tuple[str, Cause | str | None]]] = {
    "i01-active": [("Consent/c-1", None)],
    "i02-withdrawn-upstream": [("Consent/c-1", WITHDRAWN)],
    "i03-same-id-other-server": [("Consent/c-1", None)],
    "i04-searchset-page1": [("", Cause.INCOMPLETE)],
    "i05-optin-untyped-root": [("Consent/t-1", Cause.BASE)],  # rule 2: limits without a type are ambiguous
    "i05b-optin-untyped-root-actor": [("Consent/t-2", Cause.BASE)],  # the same
    "i06-dataperiod-1950": [("Consent/d-1", None)],  # rule 4: times before 1970 are times
    "i06b-dataperiod-end-only": [("Consent/d-2", None)],  # the same: it covers data of any time before
    "i09-r5-actor-without-role": [("Consent/r5-1", Cause.ROLE)],  # R5 leaves open whether it receives or discloses
    "i10-searchset-include": [("Consent/s-9", None)],
    "i13-scope-research": [("Consent/m-1", Cause.SCOPE)],
    "i22-same-entry-twice": [("Consent/c-1", None), ("Consent/c-1", None)],
    "i32-active-narrative-regenerated": [("Consent/c-1", None)],
    "i33-collection-total-5-entries-1": [("", Cause.INCOMPLETE)],
    "i34-verified-true": [("Consent/k-1", None)],
    "i38-held-back-enrols": [("Consent/h-1", None), ("Consent/h-2", WITHDRAWN)],
    "i40-consent-2026-01": [("Consent/rc-1", None)],
    "i41-reconsent-2026-12-same-id": [("Consent/rc-1", None)],
}


@pytest.mark.skipif(not CASES.is_dir(), reason="shared cases are not beside the project")
def test_inputs_that_failed_once() -> None:
    mapping = load_mapping(CASES / "mapping.toml", VOCABULARY)
    found = {
        file.stem: [
            (result.resource, WITHDRAWN if isinstance(result, Withdrawn) else getattr(result, "cause", None))
            for result in read_consents(file.read_bytes(), mapping)
        ]
        for file in sorted(CASES.glob("*.json"))
    }
    assert found == SHARED


@pytest.mark.skipif(not CASES.is_dir(), reason="shared cases are not beside the project")
def test_data_since_1950_and_of_any_time_before() -> None:
    mapping = load_mapping(CASES / "mapping.toml", VOCABULARY)
    end = 1_798_729_200_000  # 2027-01-01T00:00+09:00
    for name, start in (("i06-dataperiod-1950", -631_184_400_000), ("i06b-dataperiod-end-only", model.OPEN_START_MS)):
        consent = imported((CASES / f"{name}.json").read_bytes(), mapping).consent
        assert consent.root.data_period == model.Period(start, end)
