"""The configuration of our witness program: frozen values from a TOML file (example: ``ops/witness.toml``)."""

from dataclasses import dataclass
from pathlib import Path

from consentd.core.note import ED25519, Verifier, parse_vkey
from consentd.errors import InvalidError, MalformedError
from consentd.sections import bounded, is_loopback, parse_listen, parse_section, parse_toml, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedLog:
    """A section `[[log]]`: a log that the witness follows.

    Attributes:
        vkey: the log's verifier key; the name in the key is the log's origin.
        next_vkey: the key that will replace it, or has replaced it; empty: none is known.
        url: the base URL of the log's tiles and entries.
        token_file: a file with the token by which the log identifies the witness as an auditor.
        retention_days: how many days the log keeps entries, as its leaf 0 states; 0: the log never deletes entries.
    """

    vkey: str
    url: str
    token_file: Path
    next_vkey: str = ""
    retention_days: int = bounded(0, 0, 36_525)

    def verifier(self) -> Verifier:
        """Return the log's key.

        Raises:
            InvalidError: ``vkey`` is malformed, or is not an Ed25519 key of a log.
        """
        return _parse_log_key(self.vkey, option="log.vkey")

    def next_verifier(self) -> Verifier | None:
        """Return the key that replaces the log's key; None: none is known.

        Raises:
            InvalidError: ``next_vkey`` is malformed, is not an Ed25519 key of a log of the same name, or is ``vkey``.
        """
        if not self.next_vkey:
            return None
        verifier, present = _parse_log_key(self.next_vkey, option="log.next_vkey"), self.verifier()
        if verifier.name != present.name or verifier.key_id == present.key_id:
            raise InvalidError("config: `log.next_vkey` is of another log than `log.vkey`, or is the same key")
        return verifier


def _parse_log_key(vkey: str, *, option: str) -> Verifier:
    try:
        verifier = parse_vkey(vkey)
    except MalformedError as error:
        raise InvalidError(f"config: `{option}` is malformed: {error}") from error
    if verifier.kind != ED25519:
        raise InvalidError(f"config: `{option}` is not a log's key")
    return verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessOptions:
    """The section `[witness]`.

    Attributes:
        key_file: the file of the witness's signing key (key type 0x04, Ed25519 cosignatures).
        mldsa_key_file: the file of a second signing key (key type 0x06, ML-DSA-44); None if there is no second key.
        state_dir: the directory of the checkpoints cosigned last and of the replays' caches.
        listen: ``host:port`` on this machine; clients connect to a TLS proxy, which connects to this address.
        timeout_ms: how long a log may take to answer.
        map_bits: a replay keeps a log's map in 2^map_bits buckets in memory; the map's root is always the same.
    """

    key_file: Path
    state_dir: Path
    mldsa_key_file: Path | None = None
    listen: str = "127.0.0.1:7480"
    timeout_ms: int = bounded(10_000, 10, 600_000)
    map_bits: int = bounded(14, 1, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessServerConfig:
    """The whole configuration: the witness's options, and the logs that the witness follows."""

    witness: WitnessOptions
    log: tuple[FollowedLog, ...]


def load_witness_config(path: Path) -> WitnessServerConfig:
    """Read a witness's configuration.

    Raises:
        InvalidError: the file cannot be read, is not TOML, or does not describe a witness.
    """
    return parse_witness_config(read_text(path), base_dir=path.parent.absolute())


def parse_witness_config(text: str, *, base_dir: Path) -> WitnessServerConfig:
    """Parse a witness's configuration; relative paths are below *base_dir*. Raises ``InvalidError``."""
    config = parse_section(WitnessServerConfig, parse_toml(text), base_dir=base_dir)
    listen = config.witness.listen
    if not is_loopback(parse_listen(listen, option="witness.listen")[0]):
        raise InvalidError(
            f"config: `witness.listen` is reachable from other machines: `{listen}`; listen on 127.0.0.1 behind a proxy"
        )
    if len({each.verifier().name for each in config.log}) != len(config.log):
        raise InvalidError("config: a log is named twice")
    for each in config.log:
        each.next_verifier()
    return config
