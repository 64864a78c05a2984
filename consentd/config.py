"""The configuration: frozen values, read from a TOML file once, at the start.

An unknown option is an error, because a misspelt option would otherwise silently have its default. Relative paths are
relative to the file. ``ops/consentd.toml`` explains every option. For each file and key that an option names, it also
states the consequences of a loss, and what a person who can change the file can do. Fields have the options' names.

No option affects a decision on an access. The rules for decisions are entries of the ledger (kind RULES), because a
decision that depended on a file could not be evaluated again.
"""

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from consentd import limits
from consentd.core.identifier import check_scheme
from consentd.errors import InvalidError
from consentd.sections import bounded, is_loopback, parse_listen, parse_section, parse_toml, read_text

_PARTICIPANT_ID = re.compile(f"[a-z0-9][a-z0-9._-]{{0,{limits.PARTICIPANT_ID_CHARACTERS - 1}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """The ledger: its directories, and when it is sealed."""

    origin: str
    data_dir: Path
    last_signed_path: Path
    checkpoint_interval_ms: int = bounded(200, 10, 60_000)
    map_bits: int = bounded(17, 1, 24)
    retention_days: int = bounded(0, 0, 36_525)
    refusal_retention_days: int = bounded(1096, 31, 36_525)
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
        """File with the last published checkpoint. It exists if witnesses cosign, or in a restored copy."""
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
    max_connections: int = bounded(256, 2, 1 << 16)
    receive_timeout_ms: int = bounded(10_000, 10, 600_000)
    send_timeout_ms: int = bounded(30_000, 10, 600_000)
    idle_timeout_ms: int = bounded(30_000, 1_000, 86_400_000)
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


ID_TOKEN_ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")
"""The algorithms that an ID provider may sign with. With all of them the daemon needs public keys only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssuranceConfig:
    """The level of assurance that a value of the claim ``acr`` means."""

    acr: str
    level: int = bounded(1, 1, 9)

    def __post_init__(self) -> None:
        if not self.acr:  # a token without `acr` would have this level
            raise InvalidError("config: `citizens.provider.assurance.acr` is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """An OpenID Connect provider at which persons log in."""

    issuer: str
    audience: str
    participant: str
    scheme: str
    subject_claim: str = "sub"
    algorithms: tuple[str, ...] = field(
        default=("ES256", "RS256", "EdDSA"), metadata={"one_of": ID_TOKEN_ALGORITHMS}
    )
    jwks_file: Path | None = None
    jwks_url: str = ""
    jwks_ca_file: Path | None = None
    refresh_s: int = bounded(3_600, 60, 86_400)
    least_refresh_s: int = bounded(60, 5, 3_600)
    clock_skew_s: int = bounded(30, 0, 60)
    max_age_s: int = bounded(3_600, 60, 86_400)
    max_auth_age_s: int = bounded(0, 0, 31_536_000)
    assurance: tuple[AssuranceConfig, ...] = ()
    least_level: int = bounded(1, 0, 9)
    write_level: int = bounded(2, 0, 9)

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise InvalidError("config: `citizens.provider.issuer` or `citizens.provider.audience` is empty")
        if not _PARTICIPANT_ID.fullmatch(self.participant):  # no operator answers for logins
            raise InvalidError(f"config: `citizens.provider.participant` is no participant's id: `{self.participant}`")
        if not self.subject_claim:
            raise InvalidError("config: `citizens.provider.subject_claim` is empty")
        try:
            check_scheme(self.scheme)
        except InvalidError as error:
            raise InvalidError(f"config: `citizens.provider.scheme`: {error}") from error
        if (self.jwks_file is None) is not bool(self.jwks_url):
            raise InvalidError(
                f"config: provider has not one of `jwks_file` and `jwks_url`, or has both: `{self.issuer}`"
            )
        if self.jwks_url and not self.jwks_url.startswith("https://"):
            raise InvalidError(f"config: `citizens.provider.jwks_url` is not https: `{self.jwks_url}`")
        if self.jwks_ca_file is not None and not self.jwks_url:
            raise InvalidError("config: `citizens.provider.jwks_ca_file` is for `jwks_url`, which is not given")
        if self.refresh_s < self.least_refresh_s:
            raise InvalidError("config: `citizens.provider.refresh_s` is less than `least_refresh_s`")
        self._check_levels()

    def _check_levels(self) -> None:
        """Check that the levels of assurance fit together. Raises ``InvalidError``."""
        if len({one.acr for one in self.assurance}) < len(self.assurance):
            raise InvalidError("config: two sections `citizens.provider.assurance` have the same acr")
        if self.write_level < self.least_level:
            raise InvalidError("config: `citizens.provider.write_level` is less than `least_level`")
        if self.least_level > max((one.level for one in self.assurance), default=0):
            fault = "`citizens.provider.least_level` is above the level of every section `citizens.provider.assurance`"
            raise InvalidError(f"config: {fault}: no login would be accepted")


@dataclass(frozen=True, slots=True, kw_only=True)
class CitizensConfig:
    """How persons call by themselves."""

    provider: tuple[ProviderConfig, ...] = ()

    def __post_init__(self) -> None:
        if len({one.issuer for one in self.provider}) < len(self.provider):
            raise InvalidError("config: two sections `citizens.provider` have the same issuer")


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

    def __post_init__(self) -> None:
        if self.fail_open and self.policy_file is None:
            raise InvalidError("config: `witness.fail_open` needs `witness.policy_file`: no quorum can fail without it")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubConfig:
    """The scrubber, which reads and verifies all stored records again in the background."""

    records_per_s: int = bounded(1_000, 0, 1_000_000)
    interval_s: int = bounded(86_400, 1, 31_536_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupConfig:
    """Where backups are written, for whom, and for how long."""

    dir: Path | None = None
    recipients: tuple[str, ...] = ()
    retention_days: int = bounded(30, 1, 3_650)

    def __post_init__(self) -> None:
        if (self.dir is None) is bool(self.recipients):
            raise InvalidError("config: `backup` needs `dir` and `recipients`, both or none of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The gate: a program that answers checks from the policy table.

    Without ``program``, ``consentd serve`` runs the one of the extra ``gate``, if that is installed; with an empty
    ``listen`` it runs none. It speaks TLS as the section ``grpc.tls`` says.
    """

    program: Path | None = None
    listen: str = "127.0.0.1:7443"
    http_listen: str = ""
    threads: int = bounded(1, 1, 64)
    max_silence_ms: int = bounded(60_000, 1_000, 600_000)
    mapping_file: Path | None = None


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
    citizens: CitizensConfig = CitizensConfig()
    pool: PoolConfig = PoolConfig()
    witness: WitnessConfig = WitnessConfig()
    scrub: ScrubConfig = ScrubConfig()
    backup: BackupConfig = BackupConfig()
    log: LogConfig = LogConfig()
    gate: GateConfig = GateConfig()

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
        self._check_files()
        data_dir, backups = self.ledger.data_dir, self.backup.dir
        if backups is not None and (backups.is_relative_to(data_dir) or data_dir.is_relative_to(backups)):
            raise InvalidError(f"config: `backup.dir` and `ledger.data_dir` are one inside the other: `{backups}`")
        grpc, http = self.grpc, self.http
        for section, listen, of, tls in (
            ("grpc", grpc.listen, "grpc", grpc.tls), ("http", http.listen, "http", http.tls),
            ("gate", self.gate.listen or "127.0.0.1:0", "grpc", grpc.tls),
        ):  # fmt: skip
            host, _ = parse_listen(listen, option=f"{section}.listen")
            if tls is None and not is_loopback(host):
                fault = f"`{section}.listen` is reachable from other machines without TLS: `{listen}`"
                raise InvalidError(f"config: {fault}: give a section `{of}.tls`, or listen on 127.0.0.1")
        if self.gate.http_listen:
            host, _ = parse_listen(self.gate.http_listen, option="gate.http_listen")
            if not is_loopback(host):
                raise InvalidError(f"config: `gate.http_listen` has no TLS: listen on 127.0.0.1, not on `{host}`")

    def _check_files(self) -> None:
        """Check that no file or directory is two things. Raises ``InvalidError``."""
        ledger, keys = self.ledger, self.keys
        kinds = {
            "ledger.last_signed_path": ledger.last_signed_path, "keys.log_key_file": keys.log_key_file,
            "keys.statement_key_file": keys.statement_key_file, "keys.log_mldsa_key_file": keys.log_mldsa_key_file,
            "keys.vault_kek.file": keys.vault_kek.file, "callers.credentials_file": self.callers.credentials_file,
            "table.path": self.table.path, "file of credentials that the daemon writes": ledger.issued_credentials_path,
            "ledger's store": ledger.store_dir, "vault": ledger.vault_dir,
        }  # fmt: skip
        given = [(name, Path(os.path.normpath(path))) for name, path in kinds.items() if path is not None]
        for (name, path), (other, other_path) in itertools.permutations(given, 2):
            if path.is_relative_to(other_path):
                raise InvalidError(f"config: `{name}` is the same as, or inside, `{other}`: `{path}`")


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
