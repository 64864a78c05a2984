"""Read the provisions of a Consent. R4 and R5 differ only in a few element names of provisions (policy.md, rule 2).

If an element of a provision is absent:

* A root without recipients covers any recipient (``*``), a root without data classes all data, and a root without
  purposes every purpose, because in FHIR an absent element sets no limit. In a permit, ``*`` does not cover what a
  permit must name, such as break-glass, marketing or AI training (rule 6).
* A child takes the parent's value. But a child without ``type`` has the opposite of its parent's effect. A child with
  neither ``type`` nor attributes is refused.
"""

from dataclasses import replace

from consentd.errors import InvalidError
from consentd.fhir.attributes import NO_LISTS, Lists, read_actions, read_actors, read_sensitivity
from consentd.fhir.document import Cause, Release
from consentd.fhir.elements import Element, refusal
from consentd.fhir.reading import Reading, unique
from consentd.policy.dates import end_of_date_ms, is_instant, parse_instant_ms, start_of_date_ms
from consentd.policy.model import ANY, MAX_DEPTH, OPEN_END_MS, OPEN_START_MS, Effect, Period, Provision
from consentd.policy.vocabulary import REFERENCE

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
_LIMITS = frozenset({*_R4_NAMES, *_R5_NAMES}) - {"type", "provision"}


def has_limits(element: Element) -> bool:
    """Return whether a provision states any attribute besides its effect and its nested provisions."""
    return not _LIMITS.isdisjoint(element.members)


def read_provision(
    element: Element, effect: Effect | None, *, reading: Reading, parent: Effect | None = None, above: Lists = NO_LISTS,
    depth: int = 1,
) -> Provision:  # fmt: skip
    """Read one provision and its nested provisions.

    A provision whose ``securityLabel`` has confidentialities and other labels is read as a provision for the labels,
    and inside of it a provision with the same effect for the confidentialities, which has the nested provisions.

    Args:
        effect: the effect of a root, which other elements of the resource state; None to read the element's ``type``.
        parent: the effect of the parent provision; None for a root.
        above: the lists of the parent provision.

    Raises:
        InvalidError: the provision is refused; the error has a ``Cause``.
    """
    element.only(*_NAMES[reading.release])
    effect = effect or read_effect(element, "type")
    if effect is None and not has_limits(element):
        raise refusal(Cause.BASE, "nested provision states neither type nor attributes", element.path)
    effective = effect or _opposite(parent)
    sensitivity, lists = read_sensitivity(element, effective, above, reading)
    depth += len(sensitivity) - 1
    if depth > MAX_DEPTH:
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provisions nest deeper than {MAX_DEPTH}", element.path)
    actors, holders, lists = read_actors(element, lists, reading)
    actions, lists = read_actions(element, effective, lists, reading)
    start, end = read_window(element, "period")
    if end is not None and end <= 0:
        raise refusal(Cause.PERIOD, "period ends before 1970", element.at("period"))
    provision = Provision(
        effect=effect if len(sensitivity) == 1 else effective,
        actors=actors,
        holders=holders,
        purposes=_purposes(element, reading),
        categories=_categories(element, reading),
        actions=actions,
        labels=sensitivity[0].labels,
        level=sensitivity[0].level,
        resources=unique(_resource(entry, reading) for entry in element.many("data")),
        start_ms=max(start or 0, 0),  # this changes no decision, because no decision is from before 1970
        end_ms=OPEN_END_MS if end is None else end,
        data_period=_data_period(element),
    )
    children = tuple(
        read_provision(child, None, reading=reading, parent=effective, above=lists, depth=depth + 1)
        for child in element.many("provision")
    )
    if len(sensitivity) == 1:
        return replace(provision, children=children)
    inner = Provision(
        effect=effective, labels=sensitivity[1].labels, level=sensitivity[1].level, children=children
    )
    return replace(provision, children=(inner,))


def state_defaults(root: Provision, reading: Reading) -> Provision:
    """Return the root with values for its absent elements, by the rules in this module's docstring."""
    if not root.actors:
        reading.note("no recipient is stated: any")
    if not root.categories:
        reading.note("no data class is stated: any category")
    if not root.purposes and _permits_in_silence(root, Effect.DENY):
        reading.note("a permit states no purpose: it covers those that can be implied, not break-glass or marketing")
    star = (ANY,)
    return replace(
        root, actors=root.actors or star, categories=root.categories or star, purposes=root.purposes or star
    )


def _permits_in_silence(node: Provision, parent: Effect) -> bool:
    """Return whether a permit of this tree neither states purposes nor inherits them."""
    if node.purposes:
        return False
    effect = node.effect or _opposite(parent)
    return effect is Effect.PERMIT or any(_permits_in_silence(child, effect) for child in node.children)


def read_effect(element: Element, name: str) -> Effect | None:
    """Return the effect that the member *name* states (``permit`` or ``deny``); None if the member is absent."""
    code = element.text(name)
    if code is None:
        return None
    if code not in ("permit", "deny"):
        raise refusal(Cause.UNKNOWN_CODE, "provision neither permits nor denies", element.at(name), code)
    return Effect.PERMIT if code == "permit" else Effect.DENY


def read_window(element: Element, name: str) -> tuple[int | None, int | None]:
    """Return a FHIR Period as [start, end) in milliseconds since 1970 UTC (policy.md, rule 4); None: it is open.

    A bound may be an instant; or a date, month or year in Asia/Seoul, which the period then includes completely. An end
    in the year 9999 is none: systems that cannot omit the end write one there.
    """
    period = element.one(name)
    if period is None:
        return None, None
    period.only("start", "end")
    if "start" not in period.members and "end" not in period.members:
        raise refusal(Cause.PERIOD, "period has neither start nor end", period.path)
    start, end = _bound(period, "start"), _bound(period, "end")
    if start is not None and end is not None and start >= end:
        raise refusal(Cause.PERIOD, "period does not end after it starts", period.path)
    return start, end


def _bound(period: Element, name: str) -> int | None:
    text = period.text(name)
    if text is None or (name == "end" and text.startswith("9999")):
        return None
    try:
        if "T" in text:
            bound = parse_instant_ms(text)
        else:
            bound = start_of_date_ms(text) if name == "start" else end_of_date_ms(text)
    except InvalidError:
        raise refusal(Cause.PERIOD, "bound is no date, month, year or instant", period.at(name), text) from None
    if not is_instant(bound):
        raise refusal(Cause.PERIOD, "bound is outside of the years 1 to 9999", period.at(name), text)
    return bound


def _data_period(element: Element) -> Period | None:
    start, end = read_window(element, "dataPeriod")
    if 0 in (start, end):
        # A message has 0 where a period is open.
        raise refusal(Cause.PERIOD, "bound is the first instant of 1970 UTC, which cannot be stated",
                      element.at("dataPeriod"))  # fmt: skip
    if "dataPeriod" not in element.members:
        return None
    return Period(OPEN_START_MS if start is None else start, OPEN_END_MS if end is None else end)


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


def _resource(element: Element, reading: Reading) -> str:
    element.only("meaning", "reference")
    if element.text("meaning") != "instance":
        raise refusal(Cause.UNSUPPORTED_CONTENT, "meaning of data is not instance", element.at("meaning"))
    target = element.one("reference")
    reference = reading.reference(target) if target is not None else ""
    if not REFERENCE.fullmatch(reference):
        raise refusal(Cause.UNSUPPORTED_CONTENT, "data is no relative reference Type/id", element.at("reference"))
    return reference


def _opposite(effect: Effect | None) -> Effect:
    return Effect.PERMIT if effect is Effect.DENY else Effect.DENY
