"""One JSON object of a resource and where it stands: typed reads that refuse what they do not expect.

Every element that limits or widens a consent is read through ``only``, so a member that nobody here
interprets (a primitive's ``_extension``, a newer release's element) refuses the resource instead of vanishing.
"""

from dataclasses import dataclass

from consentd.errors import InvalidError
from consentd.fhir.document import Cause, join, quoted, walk

_ALWAYS = ("id", "extension")
_NEVER = ("modifierExtension", "implicitRules")


@dataclass(frozen=True, slots=True)
class Element:
    """A JSON object with its path, ``provision.actor[0]``."""

    members: dict[str, object]
    path: str

    def only(self, *names: str) -> "Element":
        """Return the element itself, whose members are all among ``names``, ``id`` and ``extension``.

        Raises:
            InvalidError: UNSUPPORTED_CONTENT, another member.
        """
        for name in self.members:
            if name not in names and name not in _ALWAYS:
                raise refusal(Cause.UNSUPPORTED_CONTENT, "element is not interpreted", self.at(name))
        return self

    def at(self, name: str) -> str:
        """Return the path of a member."""
        return join(self.path, name)

    def text(self, name: str) -> str | None:
        """Return a member that is a string, or None where absent.

        Raises:
            InvalidError: NOT_VALID, it is something else; likewise ``one``, ``many`` and ``texts``.
        """
        value = self.members.get(name)
        if value is not None and not isinstance(value, str):
            raise refusal(Cause.NOT_VALID, "element is no string", self.at(name))
        return value

    def one(self, name: str) -> "Element | None":
        """Return a member that is an object, or None where absent."""
        value = self.members.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise refusal(Cause.NOT_VALID, "element is no object", self.at(name))
        return Element(value, self.at(name))

    def many(self, name: str) -> list["Element"]:
        """Return a member that is a list of objects; empty where absent."""
        values = self.members.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise refusal(Cause.NOT_VALID, "element is no list of objects", self.at(name))
        return [Element(value, join(self.at(name), index)) for index, value in enumerate(values)]

    def codings(self) -> list[tuple[str, str]]:
        """Return (``system|code``, path) of each coding of a CodeableConcept.

        Raises:
            InvalidError: UNKNOWN_CODE, it has only text, or a coding that lacks system or code.
        """
        found = [coding.coding() for coding in self.only("coding", "text").many("coding")]
        if not found:
            raise refusal(Cause.UNKNOWN_CODE, "concept has no coding", self.path)
        return found

    def coding(self) -> tuple[str, str]:
        """Return (``system|code``, path) of a Coding; ``codings`` tells what is raised."""
        self.only("system", "version", "code", "display", "userSelected")
        system, code = self.text("system"), self.text("code")
        if system is None or code is None:
            raise refusal(Cause.UNKNOWN_CODE, "coding lacks its system or its code", self.path)
        return f"{system}|{code}", self.path


def refusal(cause: Cause, message: str, path: str, text: str = "") -> InvalidError:
    """Return the error that refuses a resource: constant text, the text at fault if it may be told, the path.

    The reason is a ``Cause``; ``read_consents`` catches each one and answers it as ``Refused``, so it never
    meets the service's closed set of reasons.
    """
    told = f" {quoted(text)}" if text else ""
    return InvalidError(f"{message}:{told} at {quoted(path)}" if told else f"{message}: {quoted(path)}", cause)


def check_modifiers(resource: Element) -> None:
    """Refuse a resource that anywhere says "do not read me as usual", contained resources included (rule 5).

    Raises:
        InvalidError: UNSUPPORTED_CONTENT, a modifierExtension or implicitRules.
    """
    for path, key, _ in walk(resource.members):
        if key in _NEVER:
            place = join(join(resource.path, path) if path else resource.path, str(key))
            raise refusal(Cause.UNSUPPORTED_CONTENT, f"{key} changes the meaning of what it stands in", place)
