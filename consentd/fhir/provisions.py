"""Read provisions, the same in R4 and R5 but for a few names (policy.md, rule 2).

What silence means here:

* A root without recipients or data is read as any (``*``), since FHIR's absence puts no limit.
* A permit without a purpose, its own or an ancestor's, covers every purpose that can be implied (rule 6):
  no break-glass, marketing, AI training. A deny without one covers all.
* A child states its own or inherits; an absent ``type`` is the opposite of the parent's.
"""

from dataclasses import dataclass, field, replace

from consentd.errors import InvalidError
from consentd.fhir.document import Cause
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import SYSTEMS, FhirMapping
from consentd.fhir.resources import Release
from consentd.policy.dates import end_of_date_ms, parse_instant_ms, start_of_date_ms
from consentd.policy.model import ANY, MAX_DEPTH, OPEN_END_MS, Effect, Period, Provision

RECIPIENT = f"{SYSTEMS['v3-ParticipationType']}|IRCP"
"""The one actor role that is read: information recipient (IHE PCF 1.1)."""

TEST_PURPOSE = "HTEST"
"""Test data: the purpose, and the label of a resource that is no real consent."""

_R4_NAMES = (
    "type", "period", "actor", "action", "securityLabel", "purpose", "class", "code", "dataPeriod", "data", "provision",
)  # fmt: skip
_R5_NAMES = (
    "period", "actor", "action", "securityLabel", "purpose", "documentType", "resourceType", "code", "dataPeriod",
    "data", "provision",
)  # fmt: skip
_NAMES = {Release.R4: _R4_NAMES, Release.R5: _R5_NAMES}
_CATEGORY_NAMES = ("class", "documentType", "resourceType", "code")
_NO_END = ("9999", "9999-12", "9999-12-31")  # how systems that must write an end write none
_PEOPLE = ("Patient", "RelatedPerson", "Person", "urn:", "#")


@dataclass(slots=True)
class Reading:
    """What goes along while one resource is read.

    Attributes:
        notes: what was decided or left out on the way, for the person who imports; names no subject.
    """

    release: Release
    mapping: FhirMapping
    test_data: bool
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def code(self, table: str, coding: tuple[str, str]) -> tuple[str, ...]:
        """Return the codes of the vocabulary for one coding; ``table`` names a table of the mapping.

        Raises:
            InvalidError: UNKNOWN_CODE, it has no place.
        """
        key, path = coding
        found: tuple[str, ...] | None = getattr(self.mapping, table).get(key)
        if found is None:
            raise refusal(Cause.UNKNOWN_CODE, f"code has no place in [{table}]", path, key)
        return found

    def concept(self, table: str, element: Element) -> tuple[str, ...]:
        """Return the codes for a CodeableConcept, whose codings are translations of each other.

        Raises:
            InvalidError: UNKNOWN_CODE, none has a place, or two have different ones.
        """
        codings = element.codings()
        known = {self.code(table, coding) for coding in codings if coding[0] in getattr(self.mapping, table)}
        if not known:
            self.code(table, codings[0])
        if len(known) > 1:
            raise refusal(
                Cause.UNKNOWN_CODE, f"codings of one concept have different places in [{table}]", element.path
            )
        return known.pop()

    def reference(self, element: Element) -> str:
        """Return a reference, relative where it lies under one of the mapping's bases; empty where absent."""
        element.only("reference", "type", "identifier", "display")
        reference = element.text("reference") or ""
        for base in self.mapping.bases:
            if reference.startswith(base):
                return reference[len(base) :]
        return reference

    def identifier(self, element: Element) -> str:
        """Return ``system|value`` of a reference's identifier; empty where absent or without a system."""
        identifier = element.one("identifier")
        if identifier is None:
            return ""
        system, value = identifier.text("system"), identifier.text("value")
        return f"{system}|{value}" if system and value else ""


def read_provision(
    element: Element, effect: Effect | None, *, reading: Reading, parent: Effect | None = None, depth: int = 1
) -> Provision:
    """Read one provision and what nests in it.

    Args:
        effect: of this provision where the resource states it elsewhere (a root), or None: its ``type`` says.
        parent: effective effect of the parent; None for a root.
        depth: 1 for a root.

    Raises:
        InvalidError: with a ``Cause``, see ``elements.refusal``.
    """
    element.only(*_NAMES[reading.release])
    if depth > MAX_DEPTH:
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provisions nest deeper than {MAX_DEPTH}", element.path)
    effect = effect or read_effect(element, "type")
    effective = effect or (Effect.PERMIT if parent is Effect.DENY else Effect.DENY)
    start, end = read_window(element, "period")
    data_start, data_end = read_window(element, "dataPeriod")
    data_period = None
    if data_start is not None or data_end is not None:
        # A start below 0 could not be told from an open one, and so would permit more than it says.
        if (data_start or 0) < 0 or (data_end is not None and data_end <= 0):
            raise refusal(Cause.PERIOD, "data period has a bound before 1970", element.at("dataPeriod"))
        data_period = Period(data_start or 0, OPEN_END_MS if data_end is None else data_end)
    if end is not None and end <= 0:
        raise refusal(Cause.PERIOD, "period ends before 1970", element.at("period"))
    return Provision(
        effect=effect,
        actors=_unique([_actor(actor, reading) for actor in element.many("actor")]),
        purposes=_purposes(element, reading),
        categories=_categories(element, reading),
        actions=_unique([code for action in element.many("action") for code in reading.concept("actions", action)]),
        labels=_unique(
            [code for label in element.many("securityLabel") for code in reading.code("labels", label.coding())]
        ),
        resources=_unique([_resource(entry, reading) for entry in element.many("data")]),
        start_ms=max(start or 0, 0),  # lossless: no decision is ever taken before 1970
        end_ms=OPEN_END_MS if end is None else end,
        data_period=data_period,
        children=tuple(
            read_provision(child, None, reading=reading, parent=effective, depth=depth + 1)
            for child in element.many("provision")
        ),
    )


def state_silence(root: Provision, reading: Reading) -> Provision:
    """Return the root with what it leaves unsaid stated, see the head of this module."""
    stated = replace(root, actors=root.actors or (ANY,), categories=root.categories or (ANY,))
    if not root.actors:
        reading.note("no recipient is stated: any")
    if not root.categories:
        reading.note("no data class is stated: any category")
    return _state_purposes(stated, Effect.DENY, reading)


def read_effect(element: Element, name: str) -> Effect | None:
    """Return ``permit`` or ``deny`` as an effect, None where absent.

    Raises:
        InvalidError: UNKNOWN_CODE, another code.
    """
    code = element.text(name)
    if code is None:
        return None
    if code not in ("permit", "deny"):
        raise refusal(Cause.UNKNOWN_CODE, "provision neither permits nor denies", element.at(name), code)
    return Effect.PERMIT if code == "permit" else Effect.DENY


def read_window(element: Element, name: str) -> tuple[int | None, int | None]:
    """Return a Period as [start, end) in UTC ms, None where a bound is absent (rule 4).

    A bound written as a date, month or year means its first instant as a start and its end as an end, in
    Asia/Seoul. A bound with a time is itself.

    Raises:
        InvalidError: PERIOD, a bound that is no FHIR dateTime, no bound at all, or an end not after its start.
    """
    period = element.one(name)
    if period is None:
        return None, None
    period.only("start", "end")
    start, end = _bound(period, "start"), _bound(period, "end")
    if start is None and end is None:
        raise refusal(Cause.PERIOD, "period has neither start nor end", period.path)
    if start is not None and end is not None and start >= end:
        raise refusal(Cause.PERIOD, "period does not end after it starts", period.path)
    return start, end


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
    purposes = _unique(
        [code for purpose in element.many("purpose") for code in reading.code("purposes", purpose.coding())]
    )
    if TEST_PURPOSE in purposes and not reading.test_data:
        raise refusal(Cause.TEST_DATA, "provision speaks of test data", element.at("purpose"))
    return purposes


def _categories(element: Element, reading: Reading) -> tuple[str, ...]:
    stated = [name for name in _CATEGORY_NAMES if name in element.members]
    if len(stated) > 1:
        # Both would have to hold, and a category can state only one of them.
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"{' and '.join(stated)} stand in one provision", element.path)
    if stated == ["code"]:
        return _unique([code for concept in element.many("code") for code in reading.concept("categories", concept)])
    return _unique(
        [
            code
            for name in stated
            for coding in element.many(name)
            for code in reading.code("categories", coding.coding())
        ]
    )


def _actor(element: Element, reading: Reading) -> str:
    element.only("role", "reference")
    role, target = element.one("role"), element.one("reference")
    if role is None or not any(key == RECIPIENT for key, _ in role.codings()):
        raise refusal(Cause.ROLE, "actor has another role than information recipient (IRCP)", element.at("role"))
    if target is None:
        raise refusal(Cause.UNKNOWN_PARTICIPANT, "actor has no reference", element.path)
    reference, identifier = reading.reference(target), reading.identifier(target)
    actors = reading.mapping.actors
    found = {actors[key] for key in (reference, identifier) if key in actors}
    if len(found) != 1:
        told = "" if reference.startswith(_PEOPLE) else reference  # a person is not named in a message
        raise refusal(Cause.UNKNOWN_PARTICIPANT, "actor has no single place in [actors]", target.path, told)
    return found.pop()


def _resource(element: Element, reading: Reading) -> str:
    element.only("meaning", "reference")
    if element.text("meaning") != "instance":
        raise refusal(Cause.UNSUPPORTED_CONTENT, "data of another meaning than instance", element.at("meaning"))
    target = element.one("reference")
    reference = reading.reference(target) if target is not None else ""
    kind, _, identifier = reference.partition("/")
    if not (kind.isalpha() and kind.isascii() and identifier.replace("-", "").replace(".", "").isalnum()):
        raise refusal(Cause.UNSUPPORTED_CONTENT, "data is no relative reference Type/id", element.at("reference"))
    return reference


def _state_purposes(node: Provision, parent: Effect, reading: Reading) -> Provision:
    """State purposes in every node that has none from an ancestor either; below a stated one, children inherit."""
    if node.purposes:
        return node
    effect = node.effect or (Effect.PERMIT if parent is Effect.DENY else Effect.DENY)
    purposes: tuple[str, ...] = (ANY,)
    if effect is Effect.PERMIT:
        purposes = tuple(c.code for c in reading.mapping.vocabulary.purposes if not c.parent and c.implies)
        reading.note("a permit states no purpose: every purpose that can be implied, so no break-glass or marketing")
    children = tuple(_state_purposes(child, effect, reading) for child in node.children)
    return replace(node, purposes=purposes, children=children)


def _unique(values: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
