"""The configuration: frozen values, read from a TOML file once, at the start.

An unknown option is an error, because a misspelt option would otherwise silently have its default. Relative paths are
relative to the file. ``ops/consentd.toml`` explains every option. For each file and key that an option names, it also
states the consequences of a loss, and what a person who can change the file can do. Fields have the options' names.

No option affects a decision on an access. The rules for decisions are entries of the ledger (kind RULES), because a
decision that depended on a file could not be evaluated again.
"""

import dataclasses
import ipaddress
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from consentd import limits
from consentd.errors import InvalidError

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = typing.TypeVar("S", bound="DataclassInstance")


def bounded(default: int, least: int, most: int) -> int:
    """Return a dataclass field for a whole number in *least* … *most*; ``parse_section`` checks the limits."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """The ledger: its directories, and when it is sealed."""

    origin: str
    data_dir: Path
    last_signed_path: Path
    checkpoint_interval_ms: int = bounded(200, 10, 60_000)
    map_bits: int = bounded(17, 1, 24)
    retention_days: int = bounded(0, 0, 36_525)
    idempotency_days: int = bounded(7, 7, 365)
    block_cache_mb: int = bounded(256, 8, 1 << 20)
    min_free_mb: int = bounded(256, 1, 1 << 20)

    @property
    def store_dir(self) -> Path:
        """Directory of the ledger's store."""
        return self.data_dir / "ledger"

    @property
    def vault_dir(self) -> Path:
        """Directory of the vault: data keys and identifiers. This directory must be in no backup of the ledger."""
        return self.data_dir / "vault"

    @property
    def issued_credentials_path(self) -> Path:
        """The file of credentials that the daemon writes."""
        return self.data_dir / "issued-credentials"

    @property
    def published_path(self) -> Path:
        """File with the last published checkpoint. It exists only if witnesses cosign."""
        return self.data_dir / "checkpoint.published"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Config:
    """A key in a PKCS#11 token. The PIN comes from a file or from the environment."""

    module: Path
    token: str
    key: str
    pin_file: Path | None = None
    pin_environment: str | None = None

    def __post_init__(self) -> None:
        _check_one("pkcs11", pin_file=self.pin_file, pin_environment=self.pin_environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class KekConfig:
    """Where a key-encryption key of the vault comes from: exactly one of the fields is given."""

    file: Path | None = None
    environment: str | None = None
    pkcs11: Pkcs11Config | None = None

    def __post_init__(self) -> None:
        _check_one("keys.vault_kek", file=self.file, environment=self.environment, pkcs11=self.pkcs11)


def _check_one(section: str, **given: object) -> None:
    """Check that exactly one option is given. Raises ``InvalidError``."""
    if sum(value is not None for value in given.values()) != 1:
        raise InvalidError(f"config: `{section}` needs exactly one of {', '.join(f'`{name}`' for name in given)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysConfig:
    """The secret keys. Only the daemon's user may read their files."""

    log_key_file: Path
    statement_key_file: Path
    vault_kek: KekConfig
    vault_kek_previous: KekConfig | None = None
    log_mldsa_key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """TLS of one listener."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig:
    """The gRPC server."""

    listen: str = "127.0.0.1:7400"
    threads: int = bounded(4, 1, 64)
    max_connections: int = bounded(1000, 1, 1 << 20)
    max_calls: int = bounded(1024, 16, 1 << 20)
    max_calls_per_caller: int = bounded(512, 1, 1 << 20)
    max_streams: int = bounded(64, 2, 1 << 16)
    max_request_bytes: int = bounded(1 << 26, 1 << 22, 1 << 32)
    receive_timeout_ms: int = bounded(10_000, 10, 600_000)
    send_timeout_ms: int = bounded(20_000, 10, 600_000)
    idle_timeout_ms: int = bounded(300_000, 1_000, 86_400_000)
    max_message_bytes: int = bounded(1 << 20, 1 << 16, 1 << 20)
    max_batch_items: int = bounded(limits.BATCH_ITEMS, 1, limits.BATCH_ITEMS)
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The HTTP server: checkpoint, tiles, metrics, health."""

    listen: str = "127.0.0.1:7401"
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """The policy table."""

    path: Path
    map_size_mb: int = bounded(65_536, 16, 1 << 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallersConfig:
    """The callers of the daemon."""

    credentials_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """The queue of writes that wait for the sequencer."""

    max_waiting: int = bounded(10_000, 1, 1_000_000)
    max_batch: int = bounded(400, 1, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessConfig:
    """The witnesses that cosign checkpoints before they are published."""

    policy_file: Path | None = None
    fail_open: bool = False
    timeout_ms: int = bounded(5_000, 10, 60_000)
    recosign_interval_ms: int = bounded(60_000, 100, 240_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubConfig:
    """The scrubber, which reads and verifies all stored records again in the background."""

    records_per_s: int = bounded(1_000, 0, 1_000_000)
    interval_s: int = bounded(86_400, 1, 31_536_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The log on stderr."""

    level: str = field(default="info", metadata={"one_of": ("debug", "info", "warning", "error")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of the configuration."""

    ledger: LedgerConfig
    keys: KeysConfig
    callers: CallersConfig
    table: TableConfig
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    pool: PoolConfig = PoolConfig()
    witness: WitnessConfig = WitnessConfig()
    scrub: ScrubConfig = ScrubConfig()
    log: LogConfig = LogConfig()

    def __post_init__(self) -> None:
        if not self.ledger.origin or any(not char.isprintable() or char in " +" for char in self.ledger.origin):
            # C2SP signed-note: a key name is not empty and holds neither spaces nor a plus sign.
            raise InvalidError(f"config: `ledger.origin` is not a valid origin: `{self.ledger.origin}`")
        if 0 < self.ledger.retention_days <= self.ledger.idempotency_days:
            # A repeated request must still find the entry that the first request made.
            raise InvalidError("config: `ledger.retention_days` is not longer than `ledger.idempotency_days`")
        if self.ledger.last_signed_path.is_relative_to(self.ledger.store_dir):
            # Restoring an old copy of the store would restore this file too, and hide that the ledger was rolled back.
            raise InvalidError("config: `ledger.last_signed_path` is inside the store's own directory")
        for section, listener in (("grpc", self.grpc), ("http", self.http)):
            host, _ = parse_listen(listener.listen, option=f"{section}.listen")
            if listener.tls is None and not is_loopback(host):
                fault = f"`{section}.listen` is reachable from other machines without TLS: `{listener.listen}`"
                raise InvalidError(f"config: {fault}: give a section `{section}.tls`, or listen on 127.0.0.1")


def load(path: Path) -> Config:
    """Read the configuration in the TOML file *path*. Raises InvalidError if it cannot be read, or as ``parse``."""
    return parse(read_text(path), base_dir=path.parent)


def parse(text: str, *, base_dir: Path) -> Config:
    """Return the configuration in TOML *text*. Relative paths are relative to *base_dir*.

    Raises:
        InvalidError: *text* is not TOML, or does not describe a configuration.
    """
    document = parse_toml(text)
    _default_paths(document)
    return parse_section(Config, document, base_dir=base_dir.absolute())


def _default_paths(document: dict[str, object]) -> None:
    """Put each path with a default below ``ledger.data_dir`` into *document*, if the path is missing there."""
    ledger = document.get("ledger")
    if isinstance(ledger, dict) and isinstance(ledger.get("data_dir"), str):
        ledger.setdefault("last_signed_path", ledger["data_dir"] + "/last-signed")
        table = document.setdefault("table", {})
        if isinstance(table, dict):
            table.setdefault("path", ledger["data_dir"] + "/table")


def parse_listen(listen: str, *, option: str = "listen") -> tuple[str, int]:
    """Split ``host:port`` into host and port. An IPv6 host is written in brackets.

    Raises:
        InvalidError: *listen* does not have that form.
    """
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed) or not (port.isascii() and port.isdecimal()):
        raise InvalidError(f"config: `{option}` is not host:port: `{listen}`")
    if int(port) > 0xFFFF:
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


_NOT_SHOWN = "a value that looks like a secret"
_SECRET = re.compile(
    r"(0x)?[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=|[A-Za-z0-9_-]{43}|PRIVATE\+KEY\+.*|-----BEGIN.*", re.DOTALL
)
"""32 bytes in hex or base64, a bearer token, a C2SP signing key, PEM."""
_PIN = re.compile(r"\d{4,}")


def shown(given: object) -> str:
    """Return a value of the configuration for a message, but no key or token that was given by mistake."""
    return _NOT_SHOWN if isinstance(given, str) and _SECRET.fullmatch(given.strip()) else f"`{given}`"


# -- TOML to dataclasses, for this configuration and for that of our witness program ------------------------------


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
    except tomllib.TOMLDecodeError as error:
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
            raise InvalidError(f"config: `{option}` is not a list of sections")
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
