"""What a mapping makes of scopes, roles, codes with parents, data and the modules of a broad consent."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cases.fhir_consents import (
    CASES,
    MAPPING,
    R4,
    R5,
    RESEARCHER,
    ROOT,
    SYSTEM,
    concept,
    custodian,
    imported,
    provision,
    r4,
    r5,
    read,
    reason,
)
from consentd.errors import InvalidError
from consentd.fhir.consents import read_consents
from consentd.fhir.document import Cause
from consentd.fhir.mapping import FhirMapping, parse_mapping
from consentd.policy.default_vocabulary import DEFAULT_VOCABULARY as VOCABULARY
from consentd.policy.model import ANY, OPEN_END_MS, OPEN_START_MS, Effect, Kind, Period, Provision

pytest.importorskip("fhir.resources", reason="the extra `fhir` is not installed")

SHIPPED = (ROOT / "ops/fhir-mapping.toml").read_text(encoding="utf-8")
RESEARCH = concept("consentscope", "research")


def with_lines(table: str, *lines: str) -> FhirMapping:
    """Return the shipped mapping with lines added to one of its tables."""
    assert f"[{table}]\n" in SHIPPED
    return parse_mapping(SHIPPED.replace(f"[{table}]\n", "\n".join((f"[{table}]", *lines, ""))), VOCABULARY)


# Scopes.


def test_a_scope_limits_the_purposes() -> None:
    result = imported({**R4, "scope": RESEARCH, "provision": {"type": "permit"}})
    assert result.consent.root.purposes == ("HRESCH",)
    assert "the scope limits the consent to the purposes HRESCH" in result.notes
    assert imported({**provision(purpose=[reason("DSRCH")]), "scope": RESEARCH}).consent.root.purposes == ("DSRCH",)
    refused = read({**R4, "scope": RESEARCH})
    assert (refused.cause, refused.message.endswith("`TREAT` at `provision.purpose`")) == (Cause.SCOPE, True)


def test_a_scope_may_limit_nothing_or_be_unknown() -> None:
    mapping = parse_mapping(SHIPPED.replace('|research" = "HRESCH"', '|research" = "any"'), VOCABULARY)
    assert imported({**R4, "scope": RESEARCH}, mapping).consent.root.purposes == ("TREAT",)
    refused = read({**R4, "scope": concept("consentscope", "adr")})
    assert refused.cause is Cause.SCOPE
    assert "[scopes]" in refused.message
    assert f"`{SYSTEM}consentscope|adr` at `scope.coding[0]`" in refused.message


@pytest.mark.skipif(not CASES.is_dir(), reason="shared cases are not beside the project")
def test_the_shared_research_consent_is_mappable() -> None:
    text = (CASES / "mapping.toml").read_text(encoding="utf-8")
    document = (CASES / "i13-scope-research.json").read_bytes()
    (refused,) = read_consents(document, parse_mapping(text, VOCABULARY))
    assert (getattr(refused, "cause", None), "[scopes]" in getattr(refused, "message", "")) == (Cause.SCOPE, True)
    mapping = parse_mapping(f'{text}\n[scopes]\n"consentscope|research" = "any"\n', VOCABULARY)
    assert imported(document, mapping).consent.root.actors == ("clinic-b",)


# Roles and purposes with parents.


def role(system: str, code: str) -> dict[str, Any]:
    return {**RESEARCHER, "role": concept(system, code)}


@pytest.mark.parametrize("code", ["IRCP", "PRCP", "REFB", "REFT", "TRC", "NOT"])
def test_every_information_recipient_is_a_recipient(code: str) -> None:
    root = imported(provision(actor=[role("v3-ParticipationType", code)])).consent.root
    assert root.actors == ("ex-org-researcher",)


def test_a_line_for_a_role_counts_for_those_below_it() -> None:
    mapping = with_lines("roles", '"v3-ParticipationType|PRCP" = "custodian"', '"urn:x|a" = "recipient"')
    actor = {"reference": {"reference": "Organization/hospital-a"}}
    for code, holders in (("PRCP", ("hospital-a",)), ("CST", ("hospital-a",))):
        one = {**actor, "role": concept("v3-ParticipationType", code)}
        assert imported(provision(actor=[one]), mapping).consent.root.holders == holders
    other = {**RESEARCHER, "role": {"coding": [{"system": "urn:x", "code": "a"}]}}
    assert imported(provision(actor=[other]), mapping).consent.root.actors == ("ex-org-researcher",)
    refused = read(provision(actor=[role("v3-ParticipationType", "AUT")]))
    assert f"`{SYSTEM}v3-ParticipationType|AUT` at `provision.actor[0].role.coding[0]`" in refused.message


def test_an_actor_without_a_role_is_what_the_mapping_says() -> None:
    resource = r5(provision=[{"actor": [{"reference": RESEARCHER["reference"]}]}])
    refused = read(resource)
    assert (refused.cause, "`provision[0].actor[0]`" in refused.message) == (Cause.ROLE, True)
    (child,) = imported(resource, with_lines("roles", 'none = "recipient"')).consent.root.children
    assert child.actors == ("ex-org-researcher",)


def test_a_source_discloses_to_the_recipients_beside_it() -> None:
    source = {"role": {"coding": [{"system": "urn:x", "code": "s"}]},
              "reference": {"reference": "Organization/hospital-a"}}  # fmt: skip
    mapping = with_lines("roles", '"urn:x|s" = "source"')
    root = imported(provision(actor=[source, RESEARCHER]), mapping).consent.root
    assert (root.actors, root.holders) == (("ex-org-researcher",), ("hospital-a",))
    root = imported(provision(actor=[source]), mapping).consent.root
    assert (root.actors, root.holders) == ((ANY,), ("hospital-a",))
    for actors in ([source, custodian("hospital-a")], [RESEARCHER, custodian("hospital-a")]):
        assert read(provision(actor=actors), mapping).cause is Cause.ROLE
    nested = provision(actor=[source, RESEARCHER], provision=[{"type": "deny", "actor": [RESEARCHER]}])
    assert read(nested, mapping).cause is Cause.ROLE


def test_extensions_of_provisions_limit_them_unless_the_mapping_says_otherwise() -> None:
    extension = [{"url": "http://example.org/only-if", "valueCode": "x"}]
    resource = provision(extension=extension)
    refused = read(resource)
    assert refused.cause is Cause.UNSUPPORTED_CONTENT
    assert "`http://example.org/only-if` at `provision.extension`" in refused.message
    known = SHIPPED.replace("extensions = []", 'extensions = ["http://example.org/only-if"]')
    mapping = parse_mapping(known, VOCABULARY)
    assert "extensions are not kept" in imported(resource, mapping).notes
    # Outside of provisions an extension limits nothing.
    assert "extensions are not kept" in imported({**R4, "extension": extension}).notes
    shown = {**reason("TREAT"), "display": "care", "_display": {"extension": extension}}
    assert imported(provision(purpose=[shown])).consent.root.purposes == ("TREAT",)


def test_a_deny_of_a_narrower_purpose_is_one_of_the_wider_and_a_permit_is_not() -> None:
    denies = r4(
        policyRule=None, policy=[{"uri": "urn:x"}],
        provision={"type": "deny", "purpose": [reason("FRAUD"), reason("LABELING"), reason("ENROLLM")]},
    )  # fmt: skip
    result = imported(denies)
    assert result.consent.root.purposes == ("HOPERAT", "HPAYMT")
    assert any("FRAUD" in note and "HOPERAT" in note for note in result.notes)
    refused = read(provision(purpose=[reason("FRAUD")]))
    assert refused.cause is Cause.UNKNOWN_CODE
    assert "HOPERAT" in refused.message
    nested = {"type": "permit", "actor": [RESEARCHER]}  # it would inherit the wider purpose
    assert read({**denies, "provision": {**denies["provision"], "provision": [nested]}}).cause is Cause.UNKNOWN_CODE


# Data.


def data(*names: str, effect: str = "permit", **members: Any) -> dict[str, Any]:
    coded = [{"system": "http://hl7.org/fhir/resource-types", "code": name} for name in names]
    return r4(policyRule=None, policy=[{"uri": "urn:x"}], provision={"type": effect, "class": coded, **members})


def test_every_resource_type_of_r4_has_a_line() -> None:
    named = set(re.findall(r'^"resource-types\|(\w+)" = ', SHIPPED, re.MULTILINE))
    assert len(named) == 148  # the value set resource-types of 4.0.1
    found = find_spec("fhir.resources.R4B")
    assert found is not None
    models = Path(next(iter(found.submodule_search_locations or ())))
    r4b_alone = {
        "AdministrableProductDefinition", "Citation", "ClinicalUseDefinition", "EvidenceReport", "Ingredient",
        "ManufacturedItemDefinition", "MedicinalProductDefinition", "NutritionProduct", "PackagedProductDefinition",
        "RegulatedAuthorization", "SubscriptionStatus", "SubscriptionTopic", "SubstanceDefinition",
    }  # fmt: skip
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(models.glob("*.py")))
    classes = set(re.findall(r"^class (\w+)\((?:domainresource\.Domain|resource\.)Resource\)", text, re.MULTILINE))
    assert len(classes) > 100
    assert classes - named == r4b_alone


def test_a_type_without_data_is_left_out_and_may_be_denied_more_widely() -> None:
    result = imported(data("Condition", "Schedule", "CarePlan"))
    assert result.consent.root.categories == ("CLIN.DX",)
    assert "codes of data that this realm does not have, by the mapping, are left out" in result.notes
    assert imported(data("Condition", "CarePlan", effect="deny")).consent.root.categories == ("CLIN.DX", "CLIN.NOTE")
    assert read(data("Schedule")).cause is Cause.UNSUPPORTED_CONTENT
    inner = {"type": "deny", "class": data("Schedule")["provision"]["class"]}
    assert imported(data("Condition", provision=[inner])).consent.root.children == ()
    # A permit inside would inherit what only a deny covers.
    exception = {"type": "permit", "actor": [RESEARCHER]}
    assert read(data("CarePlan", effect="deny", provision=[exception])).cause is Cause.UNSUPPORTED_CONTENT


def test_types_of_r5_are_those_of_r4_unless_they_have_a_line() -> None:
    coded = [{"system": "http://hl7.org/fhir/fhir-types", "code": "Encounter"}]
    resource = {**R5, "provision": [{**R5["provision"][0], "resourceType": coded}]}
    (child,) = imported(resource).consent.root.children
    assert child.categories == ("CLIN.ENC",)
    mapping = with_lines("categories", '"r5-resource-types|Encounter" = "INS"')
    (child,) = imported(resource, mapping).consent.root.children
    assert child.categories == ("INS",)


# Modules.

MODULES = (
    '"urn:m|use" = { categories = "CLIN", purposes = "HRESCH", actions = ["use"], actors = "group/g" }',
    '"urn:m|lab" = { categories = "CLIN.LAB", purposes = "HRESCH", actions = ["use"], actors = "group/g" }',
    '"urn:m|any" = { categories = "INS" }',
    '"urn:m|tissue" = "none"',
)


def codes(*names: str, system: str = "urn:m") -> list[dict[str, Any]]:
    return [{"coding": [{"system": system, "code": name}]} for name in names]


def shape(node: Provision) -> tuple[Any, ...]:
    return (node.categories, node.purposes, node.actions, node.actors, *(shape(child) for child in node.children))


def test_a_module_states_what_its_code_means() -> None:
    mapping = with_lines("modules", *MODULES)
    limits = (("HRESCH",), ("use",), ("group/g",))
    star = (ANY,)
    bare = {"type": "permit"}
    for names, expected in (
        (("use",), (("CLIN",), *limits)),
        (("use", "lab", "tissue"), (("CLIN", "CLIN.LAB"), *limits)),
        (("use", "any"), (("CLIN",), *limits, (("INS",), star, star, star))),
        (("any", "use"), (("INS",), star, (), star, (("CLIN",), *limits))),
    ):
        assert shape(imported(r4(provision={**bare, "code": codes(*names)}), mapping).consent.root) == expected, names
    assert read(r4(provision={**bare, "code": codes("tissue")}), mapping).cause is Cause.UNSUPPORTED_CONTENT


@pytest.mark.parametrize(
    "members",
    [
        {"purpose": [reason("HRESCH")]},
        {"actor": [RESEARCHER]},
        {"action": [concept("consentaction", "use")]},
        {"provision": [{"type": "deny", "actor": [RESEARCHER]}]},
    ],
)
def test_what_a_module_states_is_stated_once(members: dict[str, Any]) -> None:
    mapping = with_lines("modules", *MODULES)
    one = {"type": "permit", "code": codes("use")}
    assert read(r4(provision={**one, **members}), mapping).cause is Cause.UNSUPPORTED_CONTENT
    if "provision" not in members:
        outer = {"type": "deny", **members, "provision": [one]}
        result = read(r4(provision=outer, policyRule=None, policy=[{"uri": "urn:x"}]), mapping)
        assert result.cause is Cause.UNSUPPORTED_CONTENT
    clash = [{"coding": [codes(name)[0]["coding"][0] for name in ("use", "any")]}]
    assert read(r4(provision={"type": "permit", "code": clash}), mapping).cause is Cause.UNKNOWN_CODE


# A broad consent of the kind that the German Medical Informatics Initiative publishes.

MII = "2.16.840.1.113883.3.1937.777.24.5.3"
MII_TEXT = (ROOT / "ops/fhir-mapping-mii.toml").read_text(encoding="utf-8")
MII_MAPPING = parse_mapping(MII_TEXT + '[subjects]\n"Patient/p" = { scheme = "mhid", value = "P" }\n', VOCABULARY)
SEPTEMBER_2020, SEPTEMBER_2025, SEPTEMBER_2050 = 1_598_886_000_000, 1_756_652_400_000, 2_545_570_800_000


def broad_consent(*modules: tuple[str, str, str], effect: str = "permit", **changes: Any) -> dict[str, Any]:
    """Return a Consent whose modules each have (number, first day, last day)."""
    nested = [
        {
            "type": effect,
            "period": {"start": start, "end": end},
            "code": codes(*(f"{MII}.{number}" for number in numbers.split()), system=f"urn:oid:{MII}"),
        }
        for numbers, start, end in modules
    ]
    return {
        "resourceType": "Consent",
        "id": "broad",
        "status": "active",
        "scope": RESEARCH,
        "category": [
            {"coding": [{"system": "http://loinc.org", "code": "57016-8"}]},
            {"coding": [{"system": "urn:example:version", "code": "2.16.840.1.113883.3.1937.777.24.2.184"}]},
        ],
        "patient": {"reference": "Patient/p"},
        "dateTime": "2020-09-01",
        "organization": [{"display": "Klinik"}],
        "policy": [{"uri": "urn:oid:2.16.840.1.113883.3.1937.777.24.2.1791"}],
        "policyRule": {"extension": [{"url": "urn:x", "valueString": "x"}], "text": "siehe eingebettetes XACML"},
        "provision": {"type": "deny", "period": {"start": "2020-09-01", "end": "2050-08-31"}, "provision": nested},
        **changes,
    }


def test_a_broad_consent_permits_research_on_the_data_of_its_time() -> None:
    document = broad_consent(
        ("6 7 19", "2020-09-01", "2025-08-31"), ("8", "2020-09-01", "2050-08-31"), ("20 22", "2020-09-01", "2050-08-31")
    )
    consent = imported(document, MII_MAPPING).consent
    assert (consent.kind, consent.root.effect, consent.root.purposes) == (Kind.OBJECTION, Effect.DENY, ("HRESCH",))
    assert consent.policy_uris == ("urn:oid:2.16.840.1.113883.3.1937.777.24.2.1791",)
    (permit,) = consent.root.children
    assert shape(permit) == (("CLIN",), ("HRESCH",), ("access", "collect", "use"), ("group/researchers",))
    assert (permit.start_ms, permit.end_ms) == (SEPTEMBER_2020, SEPTEMBER_2050)
    assert permit.data_period == Period(SEPTEMBER_2020, SEPTEMBER_2025)
    before = broad_consent(("6", "2020-09-01", "2060-08-31"), ("8", "2020-09-01", "2050-08-31"), ("45", "2020", "2050"))
    (permit,) = imported(before, MII_MAPPING).consent.root.children
    assert permit.data_period == Period(OPEN_START_MS, SEPTEMBER_2050)  # cut by the period of the root


def test_a_broad_consent_with_the_names_of_gics() -> None:
    def named(name: str) -> dict[str, Any]:
        code = codes(name, system="https://ths-greifswald.de/fhir/CodeSystem/gics/Policy")
        return {"type": "permit", "period": {"start": "2020-09-01", "end": "2025-08-31"}, "code": code}

    names = ("IDAT_erheben", "MDAT_erheben", "MDAT_wissenschaftlich_nutzen_EU_DSGVO_NIVEAU", "KDAT_retro_uebertragen")
    document = broad_consent(category=R4["category"])
    del document["policyRule"]
    document["provision"]["provision"] = [named(name) for name in names]
    (permit,) = imported(document, MII_MAPPING).consent.root.children
    assert (permit.actors, permit.data_period) == (("group/researchers",), Period(SEPTEMBER_2020, SEPTEMBER_2025))


def test_a_refused_broad_consent_denies_research() -> None:
    document = broad_consent(("6", "2022", "3000-01-01"), ("8", "2022", "3000-01-01"), effect="deny")
    root = imported(document, MII_MAPPING).consent.root
    (deny,) = root.children
    assert (deny.effect, deny.data_period, deny.end_ms < OPEN_END_MS) == (Effect.DENY, None, True)
    nothing = imported(broad_consent(("19", "2022", "2050"), effect="deny"), MII_MAPPING)
    assert nothing.consent.root.children == ()


def test_a_broad_consent_whose_data_have_no_time_is_refused() -> None:
    use = ("8", "2020-09-01", "2050-08-31")
    assert read(broad_consent(use), MII_MAPPING).cause is Cause.UNSUPPORTED_CONTENT
    twice = broad_consent(("6", "2020", "2025"), ("6", "2026", "2031"), use)
    assert read(twice, MII_MAPPING).cause is Cause.UNSUPPORTED_CONTENT
    rule = broad_consent(use, policyRule={"text": "another"})
    assert read(rule, MII_MAPPING).cause is Cause.BASE


@pytest.mark.parametrize(
    "text",
    [
        'server = ""',
        "server = 1",
        '[scopes]\n"consentscope|research" = "NOPE"',
        '[scopes]\n"research" = "any"',
        '[roles]\n"urn:x|a" = "reader"',
        '[roles]\n"a" = "recipient"',
        '[categories]\n"urn:x|a" = { permit = "CLIN" }',
        '[categories]\n"urn:x|a" = { permit = "CLIN", deny = "NOPE" }',
        '[categories]\n"urn:x|a" = { permit = { permit = "CLIN", deny = "CLIN" }, deny = "NOPE" }',
        '[modules]\n"urn:x|a" = "CLIN"',
        '[modules]\n"urn:x|a" = { purposes = "TREAT" }',
        '[modules]\n"urn:x|a" = { categories = "NOPE" }',
        '[modules]\n"urn:x|a" = { categories = "CLIN", colour = "red" }',
        '[modules]\n"urn:x|a" = { categories = "CLIN", purposes = "NOPE" }',
        '[modules]\n"urn:x|a" = { categories = "CLIN", data_of = "urn:x|b" }',
        '[modules]\n"urn:x|a" = "none"\n[categories]\n"urn:x|a" = "CLIN"',
    ],
)
def test_mapping_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_mapping(text, VOCABULARY)


def test_a_scope_or_role_with_two_meanings_is_refused() -> None:
    mapping = with_lines("scopes", '"urn:x|a" = "any"')
    both = {"coding": [*RESEARCH["coding"], {"system": "urn:x", "code": "a"}]}
    assert read({**R4, "scope": both}, mapping).cause is Cause.SCOPE
    assert read({**R4, "scope": both}).cause is Cause.SCOPE  # the purpose TREAT is outside of research
    assert MAPPING.scopes[f"{SYSTEM}consentscope|patient-privacy"] == (ANY,)
