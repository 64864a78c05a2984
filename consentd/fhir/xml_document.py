"""Convert FHIR XML to the members that the JSON of the same resource has (R4 and R5, 2.6.1 "XML Format").

The library ``fhir.resources`` says which elements are lists, numbers or booleans in JSON. It would need lxml to read
XML itself, so the parser is the standard library's expat. A document type declaration is refused, so there are no
entities. The XHTML of narratives is left out, because it is never read.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, NoReturn, get_args, get_origin
from xml.parsers import expat

from consentd.errors import MalformedError

_FHIR = "http://hl7.org/fhir"
_XHTML = "http://www.w3.org/1999/xhtml"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_NO_NARRATIVE = f'<div xmlns="{_XHTML}">-</div>'
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?")

LoadModel = Callable[[str, frozenset[str]], Any]
"""Return the model of a resource, or of ``Element``, by its type and the names of its elements.

None: each element of it is read as a list.
"""


@dataclass(slots=True)
class _Node:
    """An XML element of FHIR."""

    name: str
    attributes: dict[str, str]
    children: list["_Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the JSON of an element is: in a list or not, and of which model, or else of which type of Python."""

    is_list: bool = True
    model: Any = None
    primitive: type | None = None
    is_resource: bool = False


def parse_xml(text: bytes, *, max_nesting: int, load_model: LoadModel) -> dict[str, object]:
    """Return the members of a resource in XML, as those of its JSON.

    Raises:
        MalformedError: the text is no well-formed XML in UTF-8, no FHIR, or nested too deep; or it has a document type,
            or an element twice that may be there once.
    """
    root = _parse_tree(text, max_nesting)
    return _resource(root, load_model)


def _parse_tree(text: bytes, max_nesting: int) -> _Node:
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    top = _Node("", {})
    open_nodes = [top]
    narrative = 0  # the number of open elements of XHTML

    def declared(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise MalformedError("XML is not in UTF-8")

    def doctype(*_: object) -> NoReturn:
        raise MalformedError("XML has a document type declaration")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal narrative
        namespace, _, local = name.rpartition(" ")
        if narrative or (namespace == _XHTML and open_nodes[-1].name == "text"):
            if not narrative:
                open_nodes[-1].children.append(_Node("div", {"value": _NO_NARRATIVE}))
            narrative += 1
            return
        if namespace != _FHIR:
            raise MalformedError("XML is no FHIR")
        if len(open_nodes) > max_nesting:
            raise MalformedError(f"XML is nested deeper than {max_nesting} levels")
        own = {key: value for key, value in attributes.items() if not key.startswith(_INSTANCE + " ")}
        if not own.keys() <= {"value", "id", "url"}:
            raise MalformedError("XML element has another attribute than value, id and url")
        node = _Node(local, own)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_name: str) -> None:
        nonlocal narrative
        if narrative:
            narrative -= 1
        else:
            open_nodes.pop()

    def characters(data: str) -> None:
        if not narrative and not data.isspace():
            raise MalformedError("XML has text between elements")

    parser.XmlDeclHandler = declared
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise MalformedError("text is not well-formed XML") from error
    (root,) = top.children
    return root


def _resource(node: _Node, load_model: LoadModel) -> dict[str, object]:
    model = load_model(node.name, frozenset(child.name for child in node.children))
    members = _object(node, model, load_model)
    if "resourceType" in members:
        raise MalformedError("XML has an element resourceType, which only JSON has")
    return {"resourceType": node.name, **members}


def _object(node: _Node, model: Any, load_model: LoadModel) -> dict[str, object]:
    kinds = _kinds(model) if model is not None else {}
    members: dict[str, object] = {name: value for name, value in node.attributes.items() if name != "value"}
    for child in node.children:
        kind = kinds.get(child.name, _Kind())
        for name, value in _members(child, kind, load_model):
            if kind.is_list:
                values = members.setdefault(name, [])
                if not isinstance(values, list):
                    raise MalformedError("XML element is there as an attribute too")
                values.append(value)
            elif name in members:
                raise MalformedError("XML has an element twice that may be there once")
            else:
                members[name] = value
    return members


def _members(child: _Node, kind: _Kind, load_model: LoadModel) -> Iterator[tuple[str, object]]:
    """Yield the member for an element; for a value with an id or extensions, also the member with a leading ``_``."""
    if kind.is_resource:
        if len(child.children) != 1 or child.attributes:
            raise MalformedError("XML element does not contain one resource")
        yield child.name, _resource(child.children[0], load_model)
        return
    if "value" not in child.attributes and kind.primitive is None:
        yield child.name, _object(child, kind.model, load_model)
        return
    if "value" in child.attributes:
        yield child.name, _primitive(child.attributes["value"], kind.primitive)
    if child.children or child.attributes.keys() - {"value"}:
        yield f"_{child.name}", _object(child, load_model("Element", frozenset()), load_model)


def _primitive(text: str, kind: type | None) -> object:
    """Return a value of JSON. What is no value of its type stays a text, which the check of the structure refuses."""
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, Decimal) and _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


@cache
def _kinds(model: Any) -> dict[str, _Kind]:
    """Return how each element of a model is in JSON, by the element's name."""
    return {info.alias or name: _kind(info.annotation) for name, info in model.model_fields.items()}


def _kind(annotation: Any) -> _Kind:
    inner = _unwrapped(annotation)
    is_list = get_origin(inner) is list
    if is_list:
        inner = _unwrapped(get_args(inner)[0])
    if hasattr(inner, "get_model_klass"):
        if inner.__name__ == "ResourceType":
            return _Kind(is_list, is_resource=True)
        return _Kind(is_list, model=inner.get_model_klass())
    return _Kind(is_list, primitive=inner)


def _unwrapped(annotation: Any) -> Any:
    """Return a type without ``| None`` and ``Annotated``."""
    while True:
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if get_origin(annotation) is Annotated or (type(None) in get_args(annotation) and len(parts) == 1):
            annotation = parts[0]
        else:
            return annotation
