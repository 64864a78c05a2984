"""The mapping of a FHIR import: from other systems' codes and references to our vocabulary's codes and our ids.

Codes of the vocabulary that have a code system (HL7's purposes, actions, labels) map to themselves without a line in
the mapping file. Every other code, recipient and person needs a line. If the line is missing, the resource is refused.
``ops/fhir-mapping.toml`` explains each table of the file with an example.
"""

import itertools
import tomllib
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from consentd.core.identifier import check_identifier
from consentd.errors import InvalidError
from consentd.fhir.document import quoted
from consentd.policy.model import ANY, LEVELS, ImplicitPolicy
from consentd.policy.vocabulary import Vocabulary

_HL7_SYSTEMS = (
    "v3-ActReason", "v3-ActCode", "v3-Confidentiality", "v3-ObservationValue", "v3-ParticipationType", "consentaction",
    "consentscope",
)  # fmt: skip
SYSTEMS: Final = MappingProxyType(
    {
        **{name: f"http://terminology.hl7.org/CodeSystem/{name}" for name in _HL7_SYSTEMS},
        "loinc": "http://loinc.org",
        "resource-types": "http://hl7.org/fhir/resource-types",
        "r5-resource-types": "http://hl7.org/fhir/fhir-types",
    }
)
"""The URIs of code systems by short names, which every mapping file may use."""

PRIVACY_CATEGORIES: Final = frozenset(
    {f"{SYSTEMS['loinc']}|59284-0", f"{SYSTEMS['v3-ActCode']}|IDSCL", f"{SYSTEMS['v3-ActCode']}|INFA"}
)
"""The ``Consent.category`` codes that mark a consent to the use of data, not for example to a treatment."""

ROLES: Final = MappingProxyType(
    {
        f"{SYSTEMS['v3-ParticipationType']}|IRCP": "recipient",  # IHE PCF 1.1
        f"{SYSTEMS['v3-ParticipationType']}|CST": "custodian",
    }
)
"""The roles of actors that need no line: of who receives the data, and of who has and discloses them."""

DISCLOSE: Final = f"{SYSTEMS['consentaction']}|disclose"
"""HL7's action of who discloses data. ``attributes.read_actions`` reads it as what the recipient does."""

_PCF = "https://profiles.ihe.net/ITI/PCF/"
_POLICY_NAMES: Final = MappingProxyType({policy.name.lower().replace("_", "-"): policy for policy in ImplicitPolicy})
PCF_POLICIES: Final = MappingProxyType({f"{_PCF}Policy-{name}": policy for name, policy in _POLICY_NAMES.items()})
"""The four implicit policies of IHE PCF 1.1, by URI."""

# INVARIANT: a resident registration number (주민등록번호) is never stored, so no mapping may lead to one.
_RRN_SYSTEMS = ("https://mois.go.kr/rrn", "http://mois.go.kr/rrn")

_Value = TypeVar("_Value")
_KNOWN = (
    "server", "bases", "privacy_categories", "extensions", "systems", "scopes", "roles", "purposes", "categories",
    "modules", "actions", "labels", "actors", "holders", "policies", "subjects", "schemes",
)  # fmt: skip
_ROLES = ("recipient", "custodian", "source")
NO_ROLE: Final = "none"
"""The key in the table of roles for an actor without a role."""
_FHIR_TYPES = (f"{SYSTEMS['resource-types']}|", f"{SYSTEMS['r5-resource-types']}|")


@dataclass(frozen=True, slots=True)
class SubjectReference:
    """A citizen's identifier and its scheme, as in the daemon's ``Subject``. The repr shows neither of them."""

    scheme: str = field(repr=False)
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What a code of ``provision.code`` means, if it is more than data: one module of a broad consent.

    Attributes:
        categories: codes of the vocabulary. Empty: the realm has no such data, and nothing else is stated.
        purposes, actions, actors: limits that the code has beside the data; empty: none.
        data_of: codes. A permit is about data of the time for which a provision beside it permits one of them, for
            example to collect data; empty: about data of any time.
        data_before: codes. If a provision beside it permits one of them, the permit is about data from before too.
    """

    categories: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    data_of: tuple[str, ...] = ()
    data_before: tuple[str, ...] = ()


NO_MODULE: Final = Module()
"""What a provision without data has: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FhirMapping:
    """A parsed mapping file. In its tables, the key of a code is ``system|code``, and of a reference ``Type/id``.

    Attributes:
        vocabulary: the vocabulary that has the resulting codes.
        codes: by table (purposes, categories, actions, labels): foreign code → codes of the vocabulary. In the table of
            labels, levels (``LEVELS``) too. In the table of actions, HL7's code ``disclose`` leads to ``DISCLOSE``,
            unless the file has a line for it. A category leads to no code if the realm has no such data. A line for a
            resource type of R4 counts for the type of that name of R5 too.
        denied_categories: code → categories of a deny, where they are others than those of a permit in ``codes``.
        modules: code of ``provision.code`` → what it means beside data.
        scopes: scope of an R4 Consent → the purposes to which it limits the consent; ``*``: it limits none.
        roles: role of an actor, or ``NO_ROLE`` → ``recipient`` or ``custodian``; or ``source``, who has the data and
            discloses them to the recipients beside it.
        server: URL, without a slash at the end, of the server whose ids are meant where a resource does not state it;
            empty: not known.
        actors: reference, or ``system|value`` of an identifier → participant or ``group/ID``.
        holders: reference of the organisation that keeps a consent → participant whose data the consent covers.
        policies: policy URI, or ``system|code`` → implicit policy; None if a known policy selects no implicit policy.
        subjects: reference, or ``system|value`` of an identifier → the citizen.
        schemes: identifier system → scheme of the citizen's identifier.
        bases: base URLs with a slash at the end. If a reference begins with one of these, the base URL is removed.
        extensions: URLs of extensions that limit no provision.
        privacy_categories: the ``Consent.category`` codes that mark a consent to the use of data.
    """

    vocabulary: Vocabulary = field(repr=False)
    codes: Mapping[str, Mapping[str, tuple[str, ...]]]
    actors: Mapping[str, str]
    holders: Mapping[str, str]
    policies: Mapping[str, ImplicitPolicy | None]
    subjects: Mapping[str, SubjectReference] = field(repr=False)
    schemes: Mapping[str, str]
    denied_categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modules: Mapping[str, Module] = field(default_factory=dict)
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    bases: tuple[str, ...] = ()
    extensions: frozenset[str] = frozenset()
    privacy_categories: frozenset[str] = PRIVACY_CATEGORIES


def load_mapping(path: Path, vocabulary: Vocabulary) -> FhirMapping:
    """Read a mapping file. Raises the errors of ``parse_mapping``, and ``InvalidError`` if the file is unreadable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"mapping file cannot be read: {quoted(str(path))}") from error
    return parse_mapping(text, vocabulary)


def parse_mapping(text: str, vocabulary: Vocabulary) -> FhirMapping:
    """Parse a mapping from TOML; an empty text gives the default mapping.

    Raises:
        InvalidError: the text is no TOML; or it has an unknown table or key, a value of the wrong type, a code that
            is not in the vocabulary, an unknown system or policy name, or an identifier that the daemon refuses.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with very many digits, and of very deep lists
        raise InvalidError("mapping is not TOML") from error
    for name in tables:
        if name not in _KNOWN:
            raise InvalidError(f"mapping has an unknown key: {quoted(name)}, known are {', '.join(_KNOWN)}")
    systems = {**SYSTEMS, **_table(tables, "systems", _text)}
    codes, denied = _read_codes(tables, systems, vocabulary)
    modules = _read_modules(tables, systems, vocabulary, categories=codes["categories"])
    scopes, roles = _read_scopes(tables, systems, vocabulary), _read_roles(tables, systems)
    server = _text(tables["server"], "server").rstrip("/") if "server" in tables else ""
    categories = dict.fromkeys(_list(tables, "privacy_categories"), ())
    bases = {base if base.endswith("/") else f"{base}/" for base in (*_list(tables, "bases"), server) if base}
    return FhirMapping(
        vocabulary=vocabulary,
        codes=codes,
        modules=modules,
        scopes=scopes,
        roles=roles,
        actors=_expanded(_table(tables, "actors", _text), systems),
        holders=_expanded(_table(tables, "holders", _text), systems),
        policies={**PCF_POLICIES, **_expanded(_table(tables, "policies", _policy), systems)},
        subjects=_expanded(_table(tables, "subjects", _subject), systems),
        schemes={_system(key, systems): value for key, value in _table(tables, "schemes", _scheme).items()},
        denied_categories=denied,
        server=server,
        extensions=frozenset(_list(tables, "extensions")),
        # Sort the longest base first: if a reference begins with two of the bases, the longer base is removed.
        bases=tuple(sorted(bases, key=lambda base: (-len(base), base))),
        privacy_categories=PRIVACY_CATEGORIES | _coded(categories, systems, "privacy_categories").keys(),
    )


def _known_codes(vocabulary: Vocabulary) -> dict[str, Collection[str]]:
    """Return the codes to which a table of codes may lead, by the table's name."""
    return {
        "purposes": vocabulary.purpose.bits, "categories": vocabulary.category.bits, "actions": vocabulary.action.bits,
        "labels": {*vocabulary.label.bits, *LEVELS},
    }  # fmt: skip


def _read_codes(
    tables: Mapping[str, object], systems: Mapping[str, str], vocabulary: Vocabulary
) -> tuple[dict[str, Mapping[str, tuple[str, ...]]], dict[str, tuple[str, ...]]]:
    """Read the tables of purposes, categories, actions and labels; return ``codes`` and ``denied_categories``.

    A code of the vocabulary that has a system leads to itself, unless the file has a line for it.
    """
    codes: dict[str, Mapping[str, tuple[str, ...]]] = {}
    denied: dict[str, tuple[str, ...]] = {}
    known = _known_codes(vocabulary)
    for name in known:
        own = {f"{code.system}|{code.code}": (code.code,) for code in getattr(vocabulary, name) if code.system}
        if name == "labels":
            own |= {f"{SYSTEMS['v3-Confidentiality']}|{level}": (level,) for level in LEVELS}
        if DISCLOSE in own:
            own[DISCLOSE] = (DISCLOSE,)
        if name != "categories":
            codes[name] = {**own, **_coded(_table(tables, name, _codes), systems, name)}
            continue
        both = _with_r5_types(_coded(_table(tables, name, _categories), systems, name))
        codes[name] = {**own, **{key: permitted for key, (permitted, _) in both.items()}}
        denied = {key: denied for key, (permitted, denied) in both.items() if permitted != denied}
    for name, some in known.items():
        _check_known(name, itertools.chain.from_iterable(codes[name].values()), {*some, DISCLOSE})
    _check_known("categories", itertools.chain.from_iterable(denied.values()), known["categories"])
    return codes, denied


def _read_modules(
    tables: Mapping[str, object], systems: Mapping[str, str], vocabulary: Vocabulary, *, categories: Container[str]
) -> dict[str, Module]:
    """Read the table of modules. *categories*: the codes that the table of categories has, which no module may be."""
    modules = {
        key: replace(
            module,
            data_of=tuple(_expanded(dict.fromkeys(module.data_of), systems)),
            data_before=tuple(_expanded(dict.fromkeys(module.data_before), systems)),
        )
        for key, module in _coded(_table(tables, "modules", _module), systems, "modules").items()
    }
    known = _known_codes(vocabulary)
    for key, module in modules.items():
        for code in (*module.data_of, *module.data_before):
            if code not in modules:
                raise InvalidError(f"mapping of a module names a code that is not in [modules]: {quoted(code)}")
        if key in categories:
            raise InvalidError(f"mapping has a code in [categories] and in [modules]: {quoted(key)}")
        for name in ("purposes", "categories", "actions"):
            _check_known("modules", getattr(module, name), known[name])
    return modules


def _read_scopes(
    tables: Mapping[str, object], systems: Mapping[str, str], vocabulary: Vocabulary
) -> dict[str, tuple[str, ...]]:
    """Read the table of scopes."""
    scopes = _coded(_table(tables, "scopes", _scope), systems, "scopes")
    for purposes in scopes.values():
        _check_known("scopes", (code for code in purposes if code != ANY), vocabulary.purpose.bits)
    return {f"{SYSTEMS['consentscope']}|patient-privacy": (ANY,), **scopes}


def _read_roles(tables: Mapping[str, object], systems: Mapping[str, str]) -> dict[str, str]:
    """Read the table of roles, in which ``NO_ROLE`` is no code of a system."""
    roles = _table(tables, "roles", _role)
    no_role = {NO_ROLE: roles.pop(NO_ROLE)} if NO_ROLE in roles else {}
    return {**ROLES, **_coded(roles, systems, "roles"), **no_role}


def _table(tables: Mapping[str, object], name: str, read: Callable[[object, str], _Value]) -> dict[str, _Value]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise InvalidError(f"mapping has a value that is no table: [{name}]")
    return {key: read(value, f"[{name}] {quoted(key)}") for key, value in table.items()}


def _list(tables: Mapping[str, object], name: str) -> tuple[str, ...]:
    values = tables.get(name, [])
    if not isinstance(values, list):
        raise InvalidError(f"mapping has a value that is no list: {name}")
    return tuple(_text(value, name) for value in values)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or not value or value == ANY:
        raise InvalidError(f"mapping has a value that is no text, is empty, or is `*`: {path}")
    return value


def _codes(value: object, path: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    codes = tuple(_text(code, path) for code in values)
    if not codes or len(set(codes)) != len(codes):
        raise InvalidError(f"mapping names no code, or one twice: {path}")
    return codes


def _categories(value: object, path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the categories of a permit, and those of a deny."""
    if not isinstance(value, dict):
        codes = () if value == "none" else _codes(value, path)
        return codes, codes
    if value.keys() != {"permit", "deny"}:
        raise InvalidError(f"mapping of data is neither codes nor {{ permit = …, deny = … }}: {path}")
    return _categories(value["permit"], path)[0], _categories(value["deny"], path)[0]


def _scope(value: object, path: str) -> tuple[str, ...]:
    return (ANY,) if value == "any" else _codes(value, path)


def _role(value: object, path: str) -> str:
    if not isinstance(value, str) or value not in _ROLES:
        raise InvalidError(f"mapping names no role of {', '.join(_ROLES)}: {path}")
    return value


def _module(value: object, path: str) -> Module:
    if value == "none":
        return Module()
    if not isinstance(value, dict) or not {"categories"} <= value.keys() <= set(Module.__dataclass_fields__):
        raise InvalidError(f"mapping of a module is not none or a table that has categories: {path}")
    return Module(**{name: _codes(codes, path) for name, codes in value.items()})


def _with_r5_types(lines: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the lines for categories, with R4's resource types as those of R5 too, unless R5 has a line of its own."""
    r4, r5 = _FHIR_TYPES
    return {**{r5 + key.removeprefix(r4): value for key, value in lines.items() if key.startswith(r4)}, **lines}


def _check_known(name: str, codes: Iterable[str], known: Container[str]) -> None:
    for code in codes:
        if code not in known:
            raise InvalidError(f"mapping leads to a code that is not in the vocabulary: [{name}] {quoted(code)}")


def _policy(value: object, path: str) -> ImplicitPolicy | None:
    if value == "none":
        return None
    if not isinstance(value, str) or value not in _POLICY_NAMES:
        raise InvalidError(f"mapping names no policy of none, {', '.join(_POLICY_NAMES)}: {path}")
    return _POLICY_NAMES[value]


def _scheme(value: object, path: str) -> str:
    scheme = _text(value, path)
    if any(system in path for system in _RRN_SYSTEMS):
        raise InvalidError("mapping leads to a resident registration number, which is never stored")
    check_identifier(scheme, "-")
    return scheme


def _subject(value: object, path: str) -> SubjectReference:
    # *path* contains a key that names a person, so no message here shows *path*.
    if not isinstance(value, dict) or value.keys() != {"scheme", "value"}:
        raise InvalidError('mapping of a subject is not { scheme = "…", value = "…" }')
    scheme = _scheme(value["scheme"], path)
    identifier = _text(value["value"], "[subjects]")
    check_identifier(scheme, identifier)
    return SubjectReference(scheme, identifier)


def _system(name: str, systems: Mapping[str, str]) -> str:
    uri = systems.get(name, name)
    if ":" not in uri:
        raise InvalidError(f"mapping names a system that is neither a URI nor in [systems]: {quoted(name)}")
    return uri


def _coded(table: Mapping[str, _Value], systems: Mapping[str, str], name: str) -> dict[str, _Value]:
    """Replace short system names in the keys by URIs; every key must be ``system|code``."""
    for key in table:
        if not key.rpartition("|")[0]:
            raise InvalidError(f"mapping has a key that is not system|code: [{name}] {quoted(key)}")
    return _expanded(table, systems)


def _expanded(table: Mapping[str, _Value], systems: Mapping[str, str]) -> dict[str, _Value]:
    """Replace short system names by URIs in keys with ``|``; other keys are references and stay unchanged."""
    expanded = {}
    for key, value in table.items():
        system, bar, code = key.rpartition("|")
        expanded[f"{_system(system, systems)}|{code}" if bar else key] = value
    return expanded
