"""Make dataclasses from the sections of a TOML file: the configuration of the daemon, and of our witness program."""

import dataclasses
import ipaddress
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from consentd.errors import InvalidError

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = typing.TypeVar("S", bound="DataclassInstance")


def bounded(default: int, least: int, most: int) -> int:
    """Return a dataclass field for a whole number in *least* … *most*; ``parse_section`` checks the limits."""
    return field(default=default, metadata={"least": least, "most": most})


_NOT_SHOWN = "a value that looks like a secret"
_SECRET = re.compile(
    r"(0x)?[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=|[A-Za-z0-9_-]{43}|PRIVATE\+KEY\+.*|-----BEGIN.*", re.DOTALL
)
"""32 bytes in hex or base64, a bearer token, a C2SP signing key, PEM."""
_PIN = re.compile(r"\d{4,}")


def shown(given: object) -> str:
    """Return a value of the configuration for a message, but no key or token that was given by mistake."""
    return _NOT_SHOWN if isinstance(given, str) and _SECRET.fullmatch(given.strip()) else f"`{given}`"


def read_text(path: Path) -> str:
    """Return the text of a configuration file. Raises InvalidError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"config: file cannot be read: `{path}`: {error}") from error


def parse_toml(text: str) -> dict[str, object]:
    """Parse TOML. Raises InvalidError if *text* is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with very many digits, and of very deep lists
        raise InvalidError(f"config: not TOML: {error}") from error


def parse_section(kind: type[S], given: Mapping[str, object], *, base_dir: Path, name: str = "") -> S:
    """Make a value of the dataclass *kind* from a TOML table.

    The type of each field decides what the option may be: bool, int (with the limits of ``bounded``), str, Path
    (relative to *base_dir*), another dataclass (a table), or a tuple of one dataclass (an array of tables). *name* is
    the table's name, for messages; empty for the whole document.

    Raises:
        InvalidError: an option is unknown, missing, or not of its type.
    """
    fields = {each.name: each for each in dataclasses.fields(kind)}
    prefix = f"{name}." if name else ""
    for key in given:
        if key not in fields:
            known = ", ".join(f"`{prefix}{each}`" for each in fields)
            name = f"`{prefix}{key}`" if shown(key) != _NOT_SHOWN else f"below `{name}`, {_NOT_SHOWN}"
            raise InvalidError(f"config: unknown key {name}; known here: {known}")
    hints = typing.get_type_hints(kind)
    values = {}
    for each in fields.values():
        if each.name in given:
            option = prefix + each.name
            values[each.name] = _parse_option(hints[each.name], given[each.name], option, each.metadata, base_dir)
        elif each.default is dataclasses.MISSING:
            raise InvalidError(f"config: `{prefix}{each.name}` is missing")
    return kind(**values)


def _parse_option(hint: object, given: object, option: str, limits: Mapping[str, typing.Any], base_dir: Path) -> object:
    if isinstance(hint, types.UnionType):  # X | None: TOML has no null, so a given option is an X
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        if not isinstance(given, list) or not given:
            what = "texts" if kind is str else "sections"
            raise InvalidError(f"config: `{option}` is not a list of {what}")
        return tuple(_parse_option(kind, each, option, limits, base_dir) for each in given)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(given, dict):
            raise InvalidError(f"config: `{option}` is not a section")
        return parse_section(hint, given, name=option, base_dir=base_dir)
    if hint is bool:
        if not isinstance(given, bool):
            raise InvalidError(f"config: `{option}` is neither true nor false: {shown(given)}")
        return given
    if hint is int:
        if not isinstance(given, int) or isinstance(given, bool):
            raise InvalidError(f"config: `{option}` is not a whole number: {shown(given)}")
        if not limits["least"] <= given <= limits["most"]:
            bounds = f"{limits['least']} … {limits['most']}"
            raise InvalidError(f"config: `{option}` is out of bounds: `{given}` is not in {bounds}")
        return given
    if not isinstance(given, str):
        raise InvalidError(f"config: `{option}` is not a text: {shown(given)}")
    if shown(given) == _NOT_SHOWN or (_PIN.fullmatch(given) and option.endswith(("pin_file", "pin_environment"))):
        raise InvalidError(f"config: `{option}` is a secret itself: give the name of a file or variable that has it")
    if hint is Path:
        if not given:
            raise InvalidError(f"config: `{option}` is empty")
        return base_dir / given
    if "one_of" in limits and given not in limits["one_of"]:
        raise InvalidError(f"config: `{option}` is none of {', '.join(limits['one_of'])}: `{given}`")
    return given


def parse_listen(listen: str, *, option: str = "listen") -> tuple[str, int]:
    """Split ``host:port`` into host and port. An IPv6 host is written in brackets.

    Raises:
        InvalidError: *listen* does not have that form.
    """
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not (port.isascii() and port.isdecimal()):
        raise InvalidError(f"config: `{option}` is not host:port: `{listen}`")
    if len(port) > 5 or int(port) > 0xFFFF:
        raise InvalidError(f"config: `{option}` has no such port: `{listen}`")
    return (host[1:-1] if bracketed else host), int(port)


def is_loopback(host: str) -> bool:
    """Report whether only this machine can reach *host*. Any name other than ``localhost`` counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
