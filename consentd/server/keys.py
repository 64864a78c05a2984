"""Make and read the daemon's key files. ops/consentd.toml explains what happens if a key is lost.

``log.key`` (a C2SP signing key) signs checkpoints; an optional second key also signs them, with ML-DSA-44.
``statement.key`` signs the daemon's statements, and ``vault.kek`` wraps the keys of the vault.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from consentd.config import Config
from consentd.core import ed25519, note
from consentd.cosigning.keyfiles import read_hex_key, read_mldsa_key, read_signing_key, write_private
from consentd.cosigning.mldsa import MldsaSigner, format_mldsa_signing_key
from consentd.errors import InvalidError, StorageError
from consentd.ledger.kek import KeyEncryptionKey, read_keks
from consentd.secret_files import WRITE, check_secret_file
from consentd.server.first_start import format_mark, mark_path
from consentd.service.auth import check_caller_id, format_credential, make_token

KEY_SECTIONS = """\
[keys]
log_key_file = "keys/log.key"
statement_key_file = "keys/statement.key"
vault_kek = { file = "keys/vault.kek" }
[callers]
credentials_file = "keys/credentials"
"""
"""The sections of a configuration file that place all key files in the directory ``keys``."""


FIRST_OPERATOR = "operator/main"
"""The caller id of the operator that ``make_keys`` makes a token for, if none is named."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The daemon's keys. The repr shows no key.

    Attributes:
        keks: the key-encryption key of the vault, and after it the previous one, if there is one.
    """

    log: note.Signer = field(repr=False)
    statement: ed25519.KeyPair = field(repr=False)
    keks: tuple[KeyEncryptionKey, ...]
    log_mldsa: MldsaSigner | None = field(default=None, repr=False)


def make_keys(config: Config, operator: str = FIRST_OPERATOR) -> str:
    """Make every key file and the credentials file that *config* names, and return the token of *operator*.

    With the keys, one ledger can begin: the mark of the first start is made too (``first_start``).

    If any of the files already exists or cannot be written, no new file is left and no file is changed. A
    key-encryption key that comes from the environment or a token is made by other means.

    Raises:
        InvalidError: a file exists already, or *operator* is not a caller's id.
        StorageError: a file cannot be written.
    """
    check_caller_id(operator)
    token = make_token()
    log = note.Signer(config.ledger.origin, ed25519.KeyPair(secrets.token_bytes(32)))
    files = {
        config.keys.log_key_file: note.format_signing_key(log) + "\n",
        config.keys.statement_key_file: secrets.token_hex(32) + "\n",
        config.callers.credentials_file: format_credential(token, operator),
        mark_path(config): format_mark(log.verifier),
    }
    if config.keys.vault_kek.file is not None:
        files[config.keys.vault_kek.file] = secrets.token_hex(32) + "\n"
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
        # Nobody uses the new files yet. If one of them were left, the next attempt would refuse to overwrite the file.
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return token


def read_keys(config: Config) -> Keys:
    """Read the daemon's keys.

    Raises:
        StorageError: a file cannot be read, a variable is not set, or the library for tokens is not installed.
        InvalidError: a file contains no key of the expected kind, or others may read it. The message names the file but
            shows no content.
    """
    log = read_signing_key(config.keys.log_key_file)
    statement = ed25519.KeyPair(read_hex_key(config.keys.statement_key_file))
    mldsa_file = config.keys.log_mldsa_key_file
    log_mldsa = None if mldsa_file is None else read_mldsa_key(mldsa_file)
    return Keys(log, statement, read_keks(config.keys), log_mldsa)


def check_secret_files(config: Config) -> None:
    """Check that nobody but the daemon's user may read the secrets that *config* names, or change who may call.

    Raises:
        StorageError: a file cannot be opened.
        InvalidError: others may read a file of secrets, or change the credentials file.
    """
    keys = config.keys
    files = [keys.log_key_file, keys.statement_key_file, keys.log_mldsa_key_file]
    for kek in (keys.vault_kek, keys.vault_kek_previous):
        if kek is not None:
            files += [kek.file, None if kek.pkcs11 is None else kek.pkcs11.pin_file]
    for path in files:
        if path is not None:
            check_secret_file(path)
    check_tls_keys(config)
    check_secret_file(config.callers.credentials_file, forbidden=WRITE)


def check_tls_keys(config: Config) -> None:
    """Check that nobody but the daemon's user may read the keys of TLS. Raises as ``check_secret_files``."""
    for tls in (config.grpc.tls, config.http.tls):
        if tls is not None:
            check_secret_file(tls.key_file)
