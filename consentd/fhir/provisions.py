"""Read the provisions of a Consent. R4 and R5 differ only in a few element names of provisions (policy.md, rule 2).

If an element of a provision is absent:

* A root without recipients covers any recipient (``*``), a root without data classes all data, and a root without
  purposes every purpose, because in FHIR an absent element sets no limit. In a permit, ``*`` does not cover what a
  permit must name, such as break-glass, marketing or AI training (rule 6).
* A child takes the parent's value. But a child without ``type`` has the opposite of its parent's effect. A child with
  neither ``type`` nor attributes is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from consentd.errors import InvalidError
from consentd.fhir import v3
from consentd.fhir.attributes import NO_LISTS, Lists, read_actions, read_actors, read_sensitivity
from consentd.fhir.document import Cause, Release, quoted
from consentd.fhir.elements import Element, check_extensions, refusal
from consentd.fhir.mapping import NO_MODULE, Module
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
_MODULE_LIMITS = {"purpose": "purposes", "action": "actions", "actor": "actors", "dataPeriod": "data_of"}
"""Elements of a provision → the attributes of a ``Module`` that limit the same."""
_CATEGORY_NAMES = ("class", "documentType", "resourceType", "code")
_LIMITS = frozenset({*_R4_NAMES, *_R5_NAMES}) - {"type", "provision"}


def has_limits(element: Element) -> bool:
    """Return whether a provision states any attribute besides its effect and its nested provisions."""
    return not _LIMITS.isdisjoint(element.members)


def read_provision(
    element: Element, effect: Effect | None, *, reading: Reading, parent: Effect | None = None, above: Lists = NO_LISTS,
    depth: int = 1,
) -> Provision | None:  # fmt: skip
    """Read one provision and its nested provisions; None if it is about no data that the realm has.

    A provision whose ``securityLabel`` has confidentialities and other labels is read as a provision for the labels,
    and inside of it a provision with the same effect for the confidentialities, which has the nested provisions.
    Codes that are modules with different limits are read as a provision for the first, and inside of it provisions
    with the same effect for the others.

    Args:
        effect: the effect of a root, which other elements of the resource state; None to read the element's ``type``.
        parent: the effect of the parent provision; None for a root.
        above: the lists of the parent provision.

    Raises:
        InvalidError: the provision is refused; the error has a ``Cause``.
    """
    element.only(*_NAMES[reading.release])
    if parent is None:
        check_extensions(element, reading.mapping.extensions)
    effect = effect or read_effect(element, "type")
    if effect is None and not has_limits(element):
        raise refusal(Cause.BASE, "nested provision states neither type nor attributes", element.path)
    effective = effect or _opposite(parent)
    sensitivity, lists = read_sensitivity(element, effective, above, reading)
    modules = _modules(element, effective, above, reading)
    depth += max(len(sensitivity), min(len(modules), 2)) - 1
    if depth > MAX_DEPTH:
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provisions nest deeper than {MAX_DEPTH}", element.path)
    actors, holders, lists = read_actors(element, lists, reading)
    actions, lists = read_actions(element, effective, lists, reading)
    start, end = _validity(element)
    nested = element.many("provision")
    purposes = _purposes(element, effective, reading)
    _check_modules(element, modules, is_nested=bool(nested), is_divided=len(sensitivity) > 1, reading=reading)
    if not modules:
        return None
    module = modules[0]
    provision = Provision(
        effect=effect if len(sensitivity) == len(modules) == 1 else effective,
        actors=actors or module.actors,
        holders=holders,
        purposes=purposes or module.purposes,
        categories=module.categories,
        actions=actions or module.actions,
        labels=sensitivity[0].labels,
        level=sensitivity[0].level,
        resources=unique(_resource(entry, reading) for entry in element.many("data")),
        start_ms=max(start or 0, 0),  # this changes no decision, because no decision is from before 1970
        end_ms=OPEN_END_MS if end is None else end,
        data_period=_data_period(element) or _module_data(module, element, above, effective, reading),
    )
    lists = replace(
        lists,
        limits=lists.limits | element.members.keys() & _MODULE_LIMITS.keys(),
        beside=tuple(nested),
        window=_intersection((start, end), above.window),
    )
    read = (
        read_provision(child, None, reading=reading, parent=effective, above=lists, depth=depth + 1) for child in nested
    )
    children = tuple(child for child in read if child is not None)
    if len(modules) > 1:  # then it has no nested provisions (``_check_modules``)
        children = tuple(
            _further(other, module, effective, _module_data(other, element, above, effective, reading), reading)
            for other in modules[1:]
        )
    if len(sensitivity) > 1:
        more = sensitivity[1]
        children = (Provision(effect=effective, labels=more.labels, level=more.level, children=children),)
    return replace(provision, children=children)


def _validity(element: Element) -> tuple[int | None, int | None]:
    """Return start and end of the period in which a provision is in force; None: it is open there."""
    start, end = read_window(element, "period")
    if end is not None and end <= 0:
        raise refusal(Cause.PERIOD, "period ends before 1970", element.at("period"))
    return start, end


def _check_modules(
    element: Element, modules: Sequence[Module], *, is_nested: bool, is_divided: bool, reading: Reading
) -> None:
    """Check that a provision with such modules can be read, and note that modules limit it.

    Args:
        modules: what the codes of the provision mean; none: the realm has no such data.
        is_nested: the provision has nested provisions.
        is_divided: it has confidentialities and other labels, so it is read as two provisions.

    Raises:
        InvalidError: it cannot be read; the error has a ``Cause``.
    """
    if not modules and is_nested:
        message = "provision is about no data of this realm, and has nested provisions"
        raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.path)
    if len(modules) > 1 or (modules and replace(modules[0], categories=()) != NO_MODULE):
        if is_nested or is_divided:
            message = "provision with modules of the mapping has nested provisions, or labels beside confidentialities"
            raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.path)
        reading.note("codes are read as modules of the mapping, with the purposes, actions and recipients stated there")


def state_defaults(root: Provision, reading: Reading) -> Provision:
    """Return the root with values for its absent elements, by the rules in this module's docstring."""
    if not root.actors:
        reading.note("no recipient is stated: any")
    if not root.categories:
        reading.note("no data class is stated: any category")
    purposes = root.purposes or reading.scope
    if purposes == (ANY,) and _permits_in_silence(root, Effect.DENY):
        reading.note("a permit states no purpose: it covers those that can be implied, not break-glass or marketing")
    star = (ANY,)
    return replace(root, actors=root.actors or star, categories=root.categories or star, purposes=purposes)


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


def _intersection(
    one: tuple[int | None, int | None], other: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    starts = [bound for bound in (one[0], other[0]) if bound is not None]
    ends = [bound for bound in (one[1], other[1]) if bound is not None]
    return max(starts, default=None), min(ends, default=None)


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


def _purposes(element: Element, effect: Effect, reading: Reading) -> tuple[str, ...]:
    """Return the purposes that a provision states.

    A deny of a purpose that the vocabulary does not have is a deny of the nearest one above it. A permit is not: it
    would permit more.
    """
    table = reading.mapping.codes["purposes"]
    purposes: list[str] = []
    for coding in element.many("purpose"):
        key, path = coding.coding()
        wider = v3.nearest(key, table)
        if not wider:
            raise refusal(Cause.UNKNOWN_CODE, "code is not in [purposes]", path, key)
        if wider != key:
            if effect is Effect.PERMIT or "provision" in element.members:
                message = f"code is not in [purposes]; {quoted(wider)} is wider"
                raise refusal(Cause.UNKNOWN_CODE, message, path, key)
            reading.note(f"a deny of the purpose {quoted(key)} is read as a deny of the wider {quoted(wider)}")
        purposes += table[wider]
    if TEST_PURPOSE in purposes and not reading.test_data:
        raise refusal(Cause.TEST_DATA, "provision has test data as a purpose: import it with --test-data",
                      element.at("purpose"))  # fmt: skip
    _check_scope(purposes, element.at("purpose"), reading)
    return unique(purposes)


def _check_scope(purposes: Iterable[str], path: str, reading: Reading) -> None:
    """Refuse purposes outside of those to which the scope limits the consent."""
    if ANY in reading.scope:
        return
    parents = {code.code: code.parent for code in reading.mapping.vocabulary.purposes}
    for purpose in purposes:
        code = purpose
        while code and code not in reading.scope:
            code = parents[code]
        if not code:
            raise refusal(Cause.SCOPE, "purpose is outside of those of the scope in [scopes]", path, purpose)


def _modules(element: Element, effect: Effect, above: Lists, reading: Reading) -> tuple[Module, ...]:
    """Return what a provision states of data, one module for each set of limits; empty: data that the realm lacks."""
    stated = [name for name in _CATEGORY_NAMES if name in element.members]
    if len(stated) > 1:
        # In FHIR both elements must match. Our provisions have one list of categories, and one match is enough.
        raise refusal(Cause.UNSUPPORTED_CONTENT, f"provision has {' and '.join(stated)}", element.path)
    if not stated:
        return (NO_MODULE,)
    (name,) = stated
    if name != "code":
        categories = reading.categories(element.many(name), effect)
        _check_nested_categories(element, [coding.coding()[0] for coding in element.many(name)], reading)
        return (Module(categories=categories),) if categories else ()
    merged: dict[Module, tuple[str, ...]] = {}
    for concept in element.many(name):
        _check_nested_categories(element, [key for key, _ in concept.codings()], reading)
        module = reading.module(concept, effect)
        _check_scope(module.purposes, concept.path, reading)
        if module.categories:
            limits = replace(module, categories=())
            merged[limits] = unique((*merged.get(limits, ()), *module.categories))
    for limits in merged:
        for limit, attribute in _MODULE_LIMITS.items():
            if getattr(limits, attribute) and (limit in element.members or limit in above.limits):
                message = f"provision states {limit}, and so does the module of its code in the mapping"
                raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.at(limit))
    if len(merged) > 1 and above.limits:
        message = "codes are modules with different limits, inside a provision with limits of the same kind"
        raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.at(name))
    return tuple(replace(limits, categories=categories) for limits, categories in merged.items())


def _check_nested_categories(element: Element, keys: Iterable[str], reading: Reading) -> None:
    """Refuse nested provisions that would inherit data of which a permit and a deny have different categories."""
    for key in keys:
        if key in reading.mapping.denied_categories and "provision" in element.members:
            message = "provision with nested ones has data that a permit and a deny have different categories for"
            raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.path, key)


def _module_data(module: Module, element: Element, above: Lists, effect: Effect, reading: Reading) -> Period | None:
    """Return the time of the data that a module is about; None: any. A deny is about data of any time."""
    if not module.data_of or effect is Effect.DENY:
        return None

    def permitted(codes: tuple[str, ...]) -> list[Element]:
        return [one for one in above.beside if one.text("type") == "permit" and _has_code(one, codes)]

    found = permitted(module.data_of)
    if len(found) != 1:
        message = f"no single provision beside it permits {quoted(module.data_of[0])}, which says when data are from"
        raise refusal(Cause.UNSUPPORTED_CONTENT, message, element.at("code"))
    start, end = _intersection(read_window(found[0], "period"), above.window)
    if permitted(module.data_before):
        start = None
    reading.note("a permit is about data of the time that a provision beside it states, by the modules of the mapping")
    return Period(OPEN_START_MS if start is None else start, OPEN_END_MS if end is None else end)


def _has_code(element: Element, codes: tuple[str, ...]) -> bool:
    return any(key in codes for concept in element.many("code") for key, _ in concept.codings())


def _further(module: Module, first: Module, effect: Effect, data_period: Period | None, reading: Reading) -> Provision:
    """Return a further module of a list as a provision inside the first one, whose limits it must not inherit."""
    star = (ANY,)
    return Provision(
        effect=effect,
        categories=module.categories,
        purposes=module.purposes or (reading.scope if first.purposes else ()),
        actions=module.actions or (star if first.actions else ()),
        actors=module.actors or (star if first.actors else ()),
        data_period=data_period or (Period() if first.data_of else None),
    )


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
