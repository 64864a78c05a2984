"""Key-encryption keys (KEK, NIST SP 800-57): they wrap the vault keys, and are never stored in the vault.

A KEK comes from a file, from the environment or from a PKCS#11 token. All of them wrap alike: nonce[12] ‖ AES-256-GCM
under the KEK, with the name of the row as associated data. So a copy of the vault without its KEK opens nothing.
"""

import base64
import binascii
import os
import re
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consentd.config import KekConfig, KeysConfig
from consentd.errors import InvalidError, StorageError
from consentd.secret_files import read_secret_file

KEY = 32
NONCE = 12
TAG = 16


class KeyEncryptionKey(Protocol):
    """Wraps and unwraps vault keys. Any thread may use it. No repr shows a key."""

    @property
    def source(self) -> str:
        """Where the key comes from, for messages."""

    def wrap(self, name: bytes, key: bytes, nonce: bytes) -> bytes:
        """Return *key* wrapped for the row *name*: nonce ‖ ciphertext. *nonce*: 12 random bytes, used once.

        Raises:
            StorageError: the token that has the KEK cannot be used.
        """

    def unwrap(self, name: bytes, wrapped: bytes) -> bytes | None:
        """Return the key that is wrapped in row *name*; None: another KEK wrapped it, or the row is damaged.

        Raises:
            StorageError: the token that has the KEK cannot be used.
        """


@dataclass(frozen=True, slots=True)
class SoftwareKek:
    """A KEK in the memory of this process."""

    source: str
    key: bytes = field(repr=False)

    def wrap(self, name: bytes, key: bytes, nonce: bytes) -> bytes:
        """Wrap a key; see ``KeyEncryptionKey``."""
        return nonce + AESGCM(self.key).encrypt(nonce, key, name)

    def unwrap(self, name: bytes, wrapped: bytes) -> bytes | None:
        """Unwrap a key; see ``KeyEncryptionKey``."""
        try:
            return AESGCM(self.key).decrypt(wrapped[:NONCE], wrapped[NONCE:], name)
        except (InvalidTag, ValueError):
            return None


def read_keks(config: KeysConfig) -> tuple[KeyEncryptionKey, ...]:
    """Read the KEK of the configuration, and after it the previous one, if there is one.

    A variable of the environment is removed from it, so that programs which this process starts do not get it.

    Raises:
        StorageError: a file cannot be read, a variable is not set, or the library for tokens is not installed.
        InvalidError: a file or variable has no key, or others may read the file. The message shows no content.
    """
    sources, environment = (config.vault_kek, config.vault_kek_previous), Environment()
    return tuple(_read(source, environment) for source in sources if source is not None)


def is_there(config: KekConfig) -> bool:
    """Report whether the source has a key, as far as one can know without reading it."""
    if config.file is not None:
        return config.file.exists()
    return config.environment is None or config.environment in os.environ


def parse_key(text: str) -> bytes | None:
    """Return the key of 32 bytes that *text* has as 64 hexadecimal digits or as base64; None: it has none."""
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text)
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY else None


class Environment:
    """Secrets of the environment. Each is removed there when it is read, and may be read again from this value."""

    def __init__(self) -> None:
        self._taken: dict[str, str] = {}

    def read(self, name: str) -> str:
        """Return a secret without white space at its ends. Raises StorageError if the variable is not set."""
        text = self._taken.get(name, os.environ.pop(name, None))
        if text is None:
            raise StorageError(f"secret is not set in the environment: `{name}`: set the variable, and start again")
        self._taken[name] = text
        return text.strip()


def _read(config: KekConfig, environment: Environment) -> KeyEncryptionKey:
    if config.pkcs11 is not None:
        from consentd.ledger.pkcs11_kek import open_kek  # the library for tokens is not part of every installation

        return open_kek(config.pkcs11, environment)
    if config.environment is not None:
        source, text = f"variable {config.environment}", environment.read(config.environment)
    else:
        assert config.file is not None, "the configuration names one source"
        source, text = f"file {config.file}", read_secret_file(config.file).decode("ascii", "replace").strip()
    key = parse_key(text)
    if key is None:
        raise InvalidError(f"key-encryption key is not 32 bytes in hex or base64: `{source}`")
    return SoftwareKek(source, key)
