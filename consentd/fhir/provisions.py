"""Read the provisions of a Consent. R4 and R5 differ only in a few element names of provisions (policy.md, rule 2).

If an element of a provision is absent:

* A root without recipients covers any recipient (``*``), and a root without data classes covers all data, because in
  FHIR an absent element sets no limit.
* If a permit and its ancestors have no purpose, the permit covers every purpose that can be implied (rule 6), thus not
  break-glass, marketing or AI training. If the provision is a deny, it covers all purposes.
* A child takes the parent's value. But a child without ``type`` has the opposite of its parent's effect.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, Release
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import SYSTEMS, FhirMapping
from consentd.policy.dates import end_of_date_ms, parse_instant_ms, start_of_date_ms
from consentd.policy.model import ANY, MAX_DEPTH, OPEN_END_MS, OPEN_START_MS, Effect, Period, Provision

RECIPIENT = f"{SYSTEMS['v3-ParticipationType']}|IRCP"
"""The code of the information recipient, the only role of an actor that is accepted (IHE PCF 1.1)."""

TEST_PURPOSE = "HTEST"
"""The code that marks test data: a purpose of a provision, or a label of a resource."""

_R4_NAMES = (
    "type", "period", "actor", "action", "securityLabel", "purpose", "class", "code", "dataPeriod", "data", "provision",
)  # fmt: skip
_R5_NAMES = (
    "period", "actor", "action", "securityLabel", "purpose", "documentType", "resourceType", "code", "dataPeriod",
    "data", "provision",
)  # fmt: skip
_NAMES = {Release.R4: _R4_NAMES, Release.R5: _R5_NAMES}
_CATEGORY_NAMES = ("class", "documentType", "resourceType", "code")
_NO_END = ("9999", "9999-12", "9999-12-31")  # systems that cannot omit the end write one of these
_PEOPLE = ("Patient", "RelatedPerson", "Person", "urn:", "#")

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Reading:
    """The state of reading one resource.

    Attributes:
        notes: messages about choices made and elements left out; no note names the subject.
    """

    release: Release
    mapping: FhirMapping
    test_data: bool
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note, unless the same note was added before."""
        if text not in self.notes:
            self.notes.append(text)

    def codes(self, table: str, elements: Iterable[Element]) -> tuple[str, ...]:
        """Return the vocabulary's codes for Coding elements; *table* names a table of ``mapping.codes``."""
        return _unique(code for element in elements for code in self._concept(table, element, [element.coding()]))

    def concepts(self, table: str, elements: Iterable[Element]) -> tuple[str, ...]:
        """Return the vocabulary's codes for CodeableConcepts. All codings of one concept must map to the same codes."""
        return _unique(code for element in elements for code in self._concept(table, element, element.codings()))

    def _concept(self, table: str, element: Element, codings: list[tuple[str, str]]) -> tuple[str, ...]:
        known = {self.mapping.codes[table][key] for key, _ in codings if key in self.mapping.codes[table]}
        if not known:
            key, path = codings[0]
            raise refusal(Cause.UNKNOWN_CODE, f"code is not in [{table}]", path, key)
        if len(known) > 1:
            raise refusal(Cause.UNKNOWN_CODE, f"codings of one concept differ in [{table}]", element.path)
        return known.pop()

    def reference(self, element: Element) -> str:
        """Return the text of a reference, without a base URL of the mapping; empty if the element has no text."""
        element.only("reference", "type", "identifier", "display")
        reference = element.text("reference") or ""
        for base in self.mapping.bases:
            if reference.startswith(base):
                return reference[len(base) :]
        return reference

    def identifier(self, element: Element) -> str:
        """Return ``system|value`` of a reference's identifier; empty if identifier, system or value is absent."""
        identifier = element.one("identifier")
        if identifier is None:
            return ""
        system, value = identifier.text("system"), identifier.text("value")
        return f"{system}|{value}" if system and value else ""

    def keys(self, element: Element) -> list[str]:
        """Return the keys by which tables of the mapping may have a reference: its text, and its identifier."""
        return [key for key in (self.reference(element), self.identifier(element)) if key]

    def matches(self, table: Mapping[str, _Value], element: Element) -> set[_Value]:
        """Return the values that a table of the mapping has for the keys of a reference."""
        return {table[key] for key in self.keys(element) if key in table}


def read_provision(
    element: Element, effect: Effect | None, *, reading: Reading, parent: Effect | None = None, depth: int = 1
) -> Provision:
    """Read one provision and its nested provisions.

    Args:
        effect: the effect of a root, which other elements of the resource state; None to read the element's ``type``.
        parent: the effect of the parent provision; None for a root.
    """
    element.only(*_NAMES[reading.release])
    if depth > MAX_DEPTH:
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provisions nest deeper than {MAX_DEPTH}", element.path)
    effect = effect or read_effect(element, "type")
    effective = effect or _opposite(parent)
    start, end = read_window(element, "period")
    data_start, data_end = read_window(element, "dataPeriod")
    if data_start < 0 or data_end <= 0:
        raise refusal(Cause.PERIOD, "data period has a bound before 1970", element.at("dataPeriod"))
    if end <= 0:
        raise refusal(Cause.PERIOD, "period ends before 1970", element.at("period"))
    return Provision(
        effect=effect,
        actors=_unique(_actor(actor, reading) for actor in element.many("actor")),
        purposes=_purposes(element, reading),
        categories=_categories(element, reading),
        actions=reading.concepts("actions", element.many("action")),
        labels=reading.codes("labels", element.many("securityLabel")),
        resources=_unique(_resource(entry, reading) for entry in element.many("data")),
        start_ms=max(start, 0),  # this changes no decision, because no decision is from before 1970
        end_ms=end,
        data_period=Period(data_start or OPEN_START_MS, data_end) if "dataPeriod" in element.members else None,
        children=tuple(
            read_provision(child, None, reading=reading, parent=effective, depth=depth + 1)
            for child in element.many("provision")
        ),
    )


def state_defaults(root: Provision, reading: Reading) -> Provision:
    """Return the root with values for its absent elements, by the rules in this module's docstring."""
    stated = replace(root, actors=root.actors or (ANY,), categories=root.categories or (ANY,))
    if not root.actors:
        reading.note("no recipient is stated: any")
    if not root.categories:
        reading.note("no data class is stated: any category")
    return _state_purposes(stated, Effect.DENY, reading)


def read_effect(element: Element, name: str) -> Effect | None:
    """Return the effect that the member *name* states (``permit`` or ``deny``); None if the member is absent."""
    code = element.text(name)
    if code is None:
        return None
    if code not in ("permit", "deny"):
        raise refusal(Cause.UNKNOWN_CODE, "provision neither permits nor denies", element.at(name), code)
    return Effect.PERMIT if code == "permit" else Effect.DENY


def read_window(element: Element, name: str) -> tuple[int, int]:
    """Return a FHIR Period as [start, end) in milliseconds since 1970 UTC (policy.md, rule 4).

    A bound may be an instant; or a date, month or year in Asia/Seoul, which the period then includes completely. An
    absent start is 0, and an absent end is ``OPEN_END_MS``, also if the whole element is absent.
    """
    period = element.one(name)
    if period is None:
        return 0, OPEN_END_MS
    period.only("start", "end")
    start, end = _bound(period, "start"), _bound(period, "end")
    if start is None and end is None:
        raise refusal(Cause.PERIOD, "period has neither start nor end", period.path)
    if start is not None and end is not None and start >= end:
        raise refusal(Cause.PERIOD, "period does not end after it starts", period.path)
    return start or 0, OPEN_END_MS if end is None else end


def _bound(period: Element, name: str) -> int | None:
    text = period.text(name)
    if text is None:
        return None
    if name == "end" and text in _NO_END:
        return OPEN_END_MS
    try:
        if "T" in text:
            return parse_instant_ms(text)
        return start_of_date_ms(text) if name == "start" else end_of_date_ms(text)
    except InvalidError:
        raise refusal(Cause.PERIOD, "bound is no date, month, year or instant", period.at(name), text) from None


def _purposes(element: Element, reading: Reading) -> tuple[str, ...]:
    purposes = reading.codes("purposes", element.many("purpose"))
    if TEST_PURPOSE in purposes and not reading.test_data:
        raise refusal(Cause.TEST_DATA, "provision has test data as a purpose", element.at("purpose"))
    return purposes


def _categories(element: Element, reading: Reading) -> tuple[str, ...]:
    stated = [name for name in _CATEGORY_NAMES if name in element.members]
    if len(stated) > 1:
        # In FHIR both elements must match. Our provisions have one list of categories, and one match is enough.
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provision has {' and '.join(stated)}", element.path)
    if not stated:
        return ()
    (name,) = stated
    return (reading.concepts if name == "code" else reading.codes)("categories", element.many(name))


def _actor(element: Element, reading: Reading) -> str:
    element.only("role", "reference")
    role, target = element.one("role"), element.one("reference")
    if role is None or not any(key == RECIPIENT for key, _ in role.codings()):
        raise refusal(Cause.ROLE, "actor has another role than information recipient (IRCP)", element.at("role"))
    if target is None:
        raise refusal(Cause.UNKNOWN_PARTICIPANT, "actor has no reference", element.path)
    found = reading.matches(reading.mapping.actors, target)
    if len(found) != 1:
        reference = reading.reference(target)
        shown = "" if reference.startswith(_PEOPLE) else reference  # no message names a person
        raise refusal(Cause.UNKNOWN_PARTICIPANT, "actor has no single match in [actors]", target.path, shown)
    return found.pop()


def _resource(element: Element, reading: Reading) -> str:
    element.only("meaning", "reference")
    if element.text("meaning") != "instance":
        raise refusal(Cause.UNSUPPORTED_CONTENT, "meaning of data is not instance", element.at("meaning"))
    target = element.one("reference")
    reference = reading.reference(target) if target is not None else ""
    kind, _, identifier = reference.partition("/")
    if not (kind.isalpha() and kind.isascii() and identifier.replace("-", "").replace(".", "").isalnum()):
        raise refusal(Cause.UNSUPPORTED_CONTENT, "data is no relative reference Type/id", element.at("reference"))
    return reference


def _state_purposes(node: Provision, parent: Effect, reading: Reading) -> Provision:
    """Set the purposes of every provision that neither has purposes nor inherits them from an ancestor."""
    if node.purposes:
        return node
    effect = node.effect or _opposite(parent)
    purposes: tuple[str, ...] = (ANY,)
    if effect is Effect.PERMIT:
        purposes = tuple(c.code for c in reading.mapping.vocabulary.purposes if not c.parent and c.implies)
        reading.note("a permit states no purpose: it covers those that can be implied, not break-glass or marketing")
    children = tuple(_state_purposes(child, effect, reading) for child in node.children)
    return replace(node, purposes=purposes, children=children)


def _opposite(effect: Effect | None) -> Effect:
    return Effect.PERMIT if effect is Effect.DENY else Effect.DENY


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
