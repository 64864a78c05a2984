"""The state of reading one resource: its mapping, its notes, and how codes and references are looked up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from consentd.fhir.document import Cause, Release
from consentd.fhir.elements import Element, refusal
from consentd.fhir.mapping import FhirMapping

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Reading:
    """The state of reading one resource.

    Attributes:
        keepers: the holders that the organisations which keep the consent map to; empty: any holder.
        notes: messages about choices made and elements left out; no note names the subject.
    """

    release: Release
    mapping: FhirMapping
    test_data: bool
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


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """Return the values in their order, each once."""
    return tuple(dict.fromkeys(values))
