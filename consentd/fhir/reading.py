"""The state of reading one resource: its mapping, its notes, and how codes and references are looked up."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from consentd.fhir.document import Cause, Release
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import FhirMapping, Module
from consentd.policy.model import ANY, Effect

_Value = TypeVar("_Value")
NOT_HERE = "codes of data that this realm does not have, by the mapping, are left out"
_RELATIVE = re.compile(r"[A-Z][A-Za-z]*/")
_VERSION = re.compile(r"(?<=[A-Za-z0-9.-])/_history/[A-Za-z0-9.-]{1,64}\Z")


@dataclass(slots=True)
class Reading:
    """The state of reading one resource.

    Attributes:
        base: the base URL of the resource's relative references, if it is another than the mapping's; see ``Origin``.
        scope: the purposes to which the scope of the consent limits it; ``*``: it limits none.
        keepers: the holders that the organisations which keep the consent map to; empty: any holder.
        notes: messages about choices made and elements left out; no note names the subject.
    """

    release: Release
    mapping: FhirMapping
    test_data: bool
    base: str = ""
    scope: tuple[str, ...] = (ANY,)
    keepers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note, unless the same note was added before."""
        if text not in self.notes:
            self.notes.append(text)

    def codes(self, table: str, elements: Iterable[Element]) -> tuple[str, ...]:
        """Return the vocabulary's codes for Coding elements; *table* names a table of ``mapping.codes``.

        Raises:
            InvalidError: (UNKNOWN_CODE) the table does not have a code.
        """
        return unique(code for element in elements for code in self._concept(table, element, [element.coding()]))

    def concepts(self, table: str, elements: Iterable[Element]) -> tuple[str, ...]:
        """Return the vocabulary's codes for CodeableConcepts. Raises as ``codes``.

        All codings of one concept must map to the same codes.
        """
        return unique(code for element in elements for code in self._concept(table, element, element.codings()))

    def _concept(self, table: str, element: Element, codings: list[tuple[str, str]]) -> tuple[str, ...]:
        known = {self.mapping.codes[table][key] for key, _ in codings if key in self.mapping.codes[table]}
        if not known:
            key, path = codings[0]
            tables = "[categories] or [modules]" if table == "categories" else f"[{table}]"
            raise refusal(Cause.UNKNOWN_CODE, f"code is not in {tables} of the mapping", path, key)
        if len(known) > 1:
            raise refusal(Cause.UNKNOWN_CODE, f"codings of one concept differ in [{table}]", element.path)
        return known.pop()

    def categories(self, elements: Iterable[Element], effect: Effect) -> tuple[str, ...]:
        """Return the categories for Coding elements of a permit or a deny. Raises as ``codes``."""
        found = (self._categories(element, [element.coding()], effect) for element in elements)
        return unique(code for codes in found for code in codes)

    def _categories(self, element: Element, codings: list[tuple[str, str]], effect: Effect) -> tuple[str, ...]:
        found = self._concept("categories", element, codings)
        if effect is Effect.DENY:
            denied = self.mapping.denied_categories
            found = unique(code for key, _ in codings for code in denied.get(key, ())) or found
        if not found:
            self.note(NOT_HERE)
        return found

    def module(self, element: Element, effect: Effect) -> Module:
        """Return what a CodeableConcept of ``provision.code`` means. Raises as ``codes``."""
        modules, codings = self.mapping.modules, element.codings()
        found = {modules[key] for key, _ in codings if key in modules}
        if not found:
            return Module(categories=self._categories(element, codings, effect))
        if len(found) > 1 or any(key in self.mapping.codes["categories"] for key, _ in codings):
            raise refusal(Cause.UNKNOWN_CODE, "codings of one concept differ in [modules]", element.path)
        module = found.pop()
        if not module.categories:
            self.note(NOT_HERE)
        return module

    def reference(self, element: Element) -> str:
        """Return the text of a reference, without a base URL of the mapping; empty if the element has no text.

        A relative reference of a resource from another server than the mapping's is returned with that server's URL.
        """
        element.only("reference", "type", "identifier", "display", "_display")
        reference = element.text("reference") or ""
        for base in self.mapping.bases:
            if reference.startswith(base):
                return reference[len(base) :]
        return f"{self.base}{reference}" if self.base and _RELATIVE.match(reference) else reference

    def identifier(self, element: Element) -> str:
        """Return ``system|value`` of a reference's identifier; empty if identifier, system or value is absent."""
        identifier = element.one("identifier")
        if identifier is None:
            return ""
        system, value = identifier.text("system"), identifier.text("value")
        return f"{system}|{value}" if system and value else ""

    def keys(self, element: Element) -> list[str]:
        """Return the keys by which tables of the mapping may have a reference: its text, and its identifier.

        A reference to a version of a person or organisation (R4, 2.3.0.2) is one to this person or organisation.
        """
        return [key for key in (_VERSION.sub("", self.reference(element)), self.identifier(element)) if key]

    def matches(self, table: Mapping[str, _Value], element: Element) -> set[_Value]:
        """Return the values that a table of the mapping has for the keys of a reference."""
        return {table[key] for key in self.keys(element) if key in table}


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values in their order, each once."""
    return tuple(dict.fromkeys(values))
