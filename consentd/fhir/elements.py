"""Read the members of a resource's JSON objects: check the types of members, and refuse members with unknown names.

Every function here and in ``provisions`` raises ``InvalidError`` with a ``Cause`` if a part cannot be read.

Every element that can limit or widen a consent is read through ``only``. So if the element has a member that this
package does not interpret (such as an element of a later release), the resource is refused. No such member is ignored.
"""

from collections.abc import Container
from dataclasses import dataclass

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, join, quoted, walk

_ALWAYS = ("id", "extension")
_NEVER = ("modifierExtension", "implicitRules")


@dataclass(frozen=True, slots=True)
class Element:
    """A JSON object, and its path in the document, for example ``provision.actor[0]``."""

    members: dict[str, object]
    path: str

    def only(self, *names: str) -> "Element":
        """Refuse members other than *names*, ``id`` and ``extension``; return the element itself."""
        for name in self.members:
            if name not in names and name not in _ALWAYS:
                raise refusal(Cause.UNSUPPORTED_CONTENT, "element is not interpreted", self.at(name))
        return self

    def at(self, name: str) -> str:
        """Return the path of a member."""
        return join(self.path, name)

    def text(self, name: str) -> str | None:
        """Return a member that must be a string; None if the member is absent."""
        value = self.members.get(name)
        if value is not None and not isinstance(value, str):
            raise refusal(Cause.NOT_VALID, "element is no string", self.at(name))
        return value

    def one(self, name: str) -> "Element | None":
        """Return a member that must be an object; None if the member is absent."""
        value = self.members.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refusal(Cause.NOT_VALID, "element is no object", self.at(name))
        return Element(value, self.at(name))

    def many(self, name: str) -> list["Element"]:
        """Return a member that must be a list of objects; empty if the member is absent."""
        values = self.members.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise refusal(Cause.NOT_VALID, "element is no list of objects", self.at(name))
        return [Element(value, join(self.at(name), index)) for index, value in enumerate(values)]

    def codings(self) -> list[tuple[str, str]]:
        """Return (``system|code``, path) of each coding of this CodeableConcept, which must have a coding."""
        found = [coding.coding() for coding in self.only("coding", "text", "_text").many("coding")]
        if not found:
            raise refusal(Cause.UNKNOWN_CODE, "concept has no coding", self.path)
        return found

    def coding(self) -> tuple[str, str]:
        """Return (``system|code``, path) of this Coding."""
        self.only("system", "version", "code", "display", "_display", "userSelected")
        system, code = self.text("system"), self.text("code")
        if system is None or code is None:
            raise refusal(Cause.UNKNOWN_CODE, "coding lacks its system or its code", self.path, code or system or "")
        return f"{system}|{code}", self.path


def refusal(cause: Cause, message: str, path: str, text: str = "") -> InvalidError:
    """Return the error that refuses a resource; ``read_consents`` turns the error into a ``Refused``.

    *text* is the faulty text of the document. Leave it empty if the text may name a person.
    """
    return InvalidError(f"{message}: {quoted(text)} at {quoted(path)}" if text else f"{message}: {quoted(path)}", cause)


def check_extensions(element: Element, known: Container[str]) -> None:
    """Refuse extensions of an element, at any depth, whose URLs are not in *known*.

    FHIR says that an extension changes no meaning (R4, 2.4.0.2). But systems limit provisions by extensions, and a
    permit without its limit would permit more. Extensions of texts for display are left out.
    """
    for path, key, value in walk(element.members):
        if key != "extension" or path.endswith(("_display", "_text")) or not isinstance(value, list):
            continue
        for one in value:
            url = one.get("url") if isinstance(one, dict) else None
            if not isinstance(url, str) or url not in known:
                message = "extension in a provision may limit it, and is not in extensions of the mapping"
                full_path = join(join(element.path, path) if path else element.path, "extension")
                raise refusal(Cause.UNSUPPORTED_CONTENT, message, full_path, url if isinstance(url, str) else "")


def check_modifiers(resource: Element) -> None:
    """Refuse a resource that contains a modifier at any depth, also in a contained resource (policy.md, rule 5).

    A modifier (``modifierExtension``, ``implicitRules``) changes the meaning of the element that contains the modifier.
    """
    for path, key, _ in walk(resource.members):
        if key in _NEVER:
            full_path = join(join(resource.path, path) if path else resource.path, str(key))
            raise refusal(Cause.UNSUPPORTED_CONTENT, f"{key} changes the meaning of its element", full_path)
