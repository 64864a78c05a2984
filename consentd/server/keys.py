"""Make and read key files. Each is 0600 and holds one key; a lost one is said in ops/consentd.toml.

``log.key`` signs checkpoints (C2SP signing-key text), and where configured another one does, with ML-DSA-44;
``statement.key`` signs the daemon's statements and ``vault.key`` wraps persons' data keys (64 hex digits each).
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from consentd.config import Config
from consentd.core import ed25519, note
from consentd.cosigning.mldsa import MldsaSigner, format_mldsa_signing_key, read_mldsa_key
from consentd.errors import InvalidError, MalformedError, StorageError
from consentd.sequencer.commands.callers import OPERATOR
from consentd.service.auth import format_credential

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The daemon's keys. Its repr is its class's: nothing shows."""

    log: note.Signer
    statement: ed25519.KeyPair
    vault: bytes
    log_mldsa: MldsaSigner | None = None

    def __repr__(self) -> str:
        """Show nothing."""
        return "Keys(…)"


def make_keys(config: Config) -> str:
    """Make every key file and the credentials file that *config* names, and return the operator's token.

    Nothing that exists is touched: where one file exists already, or cannot be written, nothing is made.

    Raises:
        InvalidError: a file exists already.
        StorageError: one cannot be written.
    """
    token = make_token()
    files = {
        config.keys.log_key_file: note.format_signing_key(
            note.Signer(config.ledger.origin, ed25519.KeyPair(secrets.token_bytes(32)))
        )
        + "\n",
        config.keys.statement_key_file: secrets.token_hex(32) + "\n",
        config.keys.vault_key_file: secrets.token_hex(32) + "\n",
        config.callers.credentials_file: format_credential(token, OPERATOR),
    }
    if config.keys.log_mldsa_key_file is not None:
        signer = MldsaSigner(config.ledger.origin, secrets.token_bytes(32))
        files[config.keys.log_mldsa_key_file] = format_mldsa_signing_key(signer) + "\n"
    for path in files:
        if path.exists():
            raise InvalidError(f"key file exists already: `{path}`")
    made: list[Path] = []
    try:
        for path, text in files.items():
            write_private(path, text)
            made.append(path)
    except StorageError:
        # All or none: nobody has used them yet, and what is left would stop the next try.
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return token


def make_witness_key(path: Path, name: str) -> str:
    """Make the signing key of a witness called *name*; return its verifier key, for policy files.

    Raises:
        InvalidError: the name cannot be a key's.
        StorageError: the file cannot be written, or is there already.
    """
    try:
        signer = note.Signer(name, ed25519.KeyPair(secrets.token_bytes(32)), note.COSIGNATURE)
    except MalformedError as error:
        raise InvalidError(f"name of a witness is not valid: `{name}`: {error}") from error
    write_private(path, note.format_signing_key(signer) + "\n")
    return note.format_vkey(signer.verifier)


def make_token() -> str:
    """Return a new bearer token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def write_private(path: Path, text: str, *, append: bool = False) -> None:
    """Write a file that only its owner reads, durably; a new one, or behind what it has.

    Raises:
        StorageError: it cannot be written, or is there already and *append* is not asked for.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_EXCL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if not append:
                path.unlink(missing_ok=True)  # half a key would be taken for one that exists
            raise
    except OSError as error:
        raise StorageError(f"key file cannot be written: `{path}`: {error.strerror}") from error


def read_keys(config: Config) -> Keys:
    """Read the daemon's keys.

    Raises:
        StorageError: a file cannot be read.
        InvalidError: it holds no key of its kind; it is named, its content never shown.
    """
    log = read_log_key(config.keys.log_key_file)
    statement = ed25519.KeyPair(_read_hex(config.keys.statement_key_file))
    mldsa_file = config.keys.log_mldsa_key_file
    log_mldsa = None if mldsa_file is None else read_mldsa_key(mldsa_file)
    return Keys(log, statement, _read_hex(config.keys.vault_key_file), log_mldsa)


def read_log_key(path: Path) -> note.Signer:
    """Read the log key. Raises as ``read_keys``."""
    try:
        return note.parse_signing_key(_read(path).strip())
    except MalformedError as error:
        raise InvalidError(f"log key file holds no signing key: `{path}`") from error


def _read_hex(path: Path) -> bytes:
    try:
        key = bytes.fromhex(_read(path).strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InvalidError(f"key file holds no key of 64 hex digits: `{path}`")
    return key


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not text"
        raise StorageError(
            f"key file cannot be read: `{path}`: {detail}; restore it: `consentd keygen` makes keys of a new ledger"
        ) from error
