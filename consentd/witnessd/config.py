"""The configuration of our witness program: frozen values from a TOML file of its own (``ops/witness.toml``)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from consentd.config import is_loopback, parse_listen
from consentd.core.note import ED25519, Verifier, parse_vkey
from consentd.errors import InvalidError, MalformedError

_WITNESS_KEYS = {"key_file", "mldsa_key_file", "state_dir", "listen", "timeout_ms", "map_bits"}
_LOG_KEYS = {"vkey", "url", "token_file", "retention_days"}


@dataclass(frozen=True, slots=True)
class FollowedLog:
    """A log that the witness follows.

    Attributes:
        verifier: the log's key; its name is the origin.
        url: the log's tiles and entries are below this URL.
        token_file: a file with the token of an auditor of the log.
        retention_days: the retention policy in the log's leaf 0; 0: the log prunes nothing.
    """

    verifier: Verifier
    url: str
    token_file: Path
    retention_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessServerConfig:
    """The whole configuration.

    Attributes:
        key_file: the witness's signing key, of type 0x04.
        mldsa_key_file: a second key, of type 0x06, that also cosigns; None: there is none.
        state_dir: holds the checkpoints cosigned last and the caches of the replays.
        listen: ``host:port`` on this machine; a proxy in front of it speaks TLS.
        timeout_ms: how long a log may take to answer.
        map_bits: each replay keeps a log's map in 2^map_bits buckets. The map's root does not depend on it.
    """

    key_file: Path
    state_dir: Path
    logs: tuple[FollowedLog, ...]
    mldsa_key_file: Path | None = None
    listen: str = "127.0.0.1:7480"
    timeout_ms: int = 10_000
    map_bits: int = 14


def load_witness_config(path: Path) -> WitnessServerConfig:
    """Read a witness's configuration.

    Raises:
        InvalidError: the file cannot be read, is not TOML, or does not describe a witness.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"config: file cannot be read: `{path}`: {error}") from error
    return parse_witness_config(text, base_dir=path.parent.absolute())


def parse_witness_config(text: str, *, base_dir: Path) -> WitnessServerConfig:
    """Parse a witness's configuration; relative paths are relative to *base_dir*.

    Raises:
        InvalidError: *text* is not TOML, or does not describe a witness.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"config: not TOML: {error}") from error
    _check_keys(document, {"witness", "log"}, "")
    section, logs = document.get("witness"), document.get("log")
    if not isinstance(section, dict) or not isinstance(logs, list) or not logs:
        raise InvalidError("config: `[witness]` or `[[log]]` is missing")
    _check_keys(section, _WITNESS_KEYS, "witness.")
    listen = _text(section, "listen", "witness.", default="127.0.0.1:7480")
    if not is_loopback(parse_listen(listen, option="witness.listen")[0]):
        raise InvalidError(
            f"config: `witness.listen` is reachable from other machines: `{listen}`; listen on 127.0.0.1 behind a proxy"
        )
    mldsa = _text(section, "mldsa_key_file", "witness.", default="")
    followed = tuple(_parse_log(each, base_dir) for each in logs)
    if len({each.verifier.name for each in followed}) != len(followed):
        raise InvalidError("config: a log is named twice")
    return WitnessServerConfig(
        key_file=base_dir / _text(section, "key_file", "witness."),
        state_dir=base_dir / _text(section, "state_dir", "witness."),
        logs=followed,
        mldsa_key_file=base_dir / mldsa if mldsa else None,
        listen=listen,
        timeout_ms=_number(section, "timeout_ms", 10_000, (10, 600_000)),
        map_bits=_number(section, "map_bits", 14, (1, 24)),
    )


def _parse_log(given: object, base_dir: Path) -> FollowedLog:
    if not isinstance(given, dict):
        raise InvalidError("config: `log` is not a section")
    _check_keys(given, _LOG_KEYS, "log.")
    try:
        verifier = parse_vkey(_text(given, "vkey", "log."))
    except MalformedError as error:
        raise InvalidError(f"config: `log.vkey` is malformed: {error}") from error
    if verifier.kind != ED25519:
        raise InvalidError("config: `log.vkey` is not a log's key")
    return FollowedLog(
        verifier,
        _text(given, "url", "log."),
        base_dir / _text(given, "token_file", "log."),
        _number(given, "retention_days", 0, (0, 36_525), prefix="log."),
    )


def _check_keys(given: Mapping[str, object], known: set[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            names = ", ".join(f"`{prefix}{each}`" for each in sorted(known))
            raise InvalidError(f"config: unknown key `{prefix}{key}`; known here: {names}")


def _text(given: Mapping[str, object], key: str, prefix: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if value is None:
        raise InvalidError(f"config: `{prefix}{key}` is missing")
    if not isinstance(value, str) or (not value and default is None):
        raise InvalidError(f"config: `{prefix}{key}` is not a text, or is empty")
    return value


def _number(
    given: Mapping[str, object], key: str, default: int, bounds: tuple[int, int], *, prefix: str = "witness."
) -> int:
    value = given.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise InvalidError(f"config: `{prefix}{key}` is not a whole number in {bounds[0]} … {bounds[1]}: `{value}`")
    return value
