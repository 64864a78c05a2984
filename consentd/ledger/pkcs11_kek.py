"""A key-encryption key in a PKCS#11 token, for example a hardware security module (HSM). The only door to ``pkcs11``.

The key is an AES key of 256 bits that never leaves the token. The token wraps by ``CKM_AES_GCM`` (PKCS#11 3.0, 2.13.4),
so a wrapped key has the form that every other KEK gives it. Why not ``CKM_AES_KEY_WRAP``? It needs the vault key as an
object of the token, and binds no name of a row. A token that makes the nonce itself does not suit: consentd states it.

Each use opens a session and closes it. Between uses the token may be gone; the daemon needs it at its start and for a
rotation of the vault key.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import GCMParams, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import EncryptedDataInvalid, EncryptedDataLenRange, GeneralError, PKCS11Error

from consentd.config import Pkcs11Config
from consentd.errors import StorageError
from consentd.ledger.kek import NONCE, TAG, Environment
from consentd.secret_files import read_secret_file

_lock = threading.Lock()
"""Held while a session is open: a token knows one login of a process, and refuses a second one."""
_NOT_AUTHENTIC = (EncryptedDataInvalid, EncryptedDataLenRange, GeneralError)
"""What a token answers if another key wrapped. PKCS#11 has CKR_ENCRYPTED_DATA_INVALID for it; SoftHSM answers
CKR_GENERAL_ERROR."""


@dataclass(frozen=True, slots=True)
class Pkcs11Kek:
    """A KEK in a PKCS#11 token; see ``KeyEncryptionKey``."""

    module: Path
    token: str
    key: str
    pin: str = field(repr=False)

    @property
    def source(self) -> str:
        """Where the key is."""
        return f"PKCS#11 token {self.token}, key {self.key}"

    def wrap(self, name: bytes, key: bytes, nonce: bytes) -> bytes:
        """Wrap a key; see ``KeyEncryptionKey``."""
        with self._opened() as secret:
            sealed = secret.encrypt(key, mechanism=Mechanism.AES_GCM, mechanism_param=_parameters(name, nonce))
            return nonce + bytes(sealed)

    def unwrap(self, name: bytes, wrapped: bytes) -> bytes | None:
        """Unwrap a key; see ``KeyEncryptionKey``."""
        nonce, sealed = wrapped[:NONCE], wrapped[NONCE:]
        if len(sealed) <= TAG:
            return None
        with self._opened() as secret:
            try:
                key = secret.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=_parameters(name, nonce))
            except _NOT_AUTHENTIC:
                return None
            return bytes(key)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Log in to the token, and yield the key."""
        try:
            token = pkcs11.lib(str(self.module)).get_token(token_label=self.token)
            with _lock, token.open(user_pin=self.pin) as session:
                yield session.get_key(object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, label=self.key)
        except PKCS11Error as error:
            # The name of the class says what happened, as PinIncorrect does. It holds no secret.
            detail = f"{type(error).__name__} {error}".strip()
            raise StorageError(f"PKCS#11 token cannot be used: `{self.token}`, key `{self.key}`: {detail}") from error


def open_kek(config: Pkcs11Config, environment: Environment) -> Pkcs11Kek:
    """Return the KEK that *config* names, and read its PIN. The token is not used yet.

    Raises:
        StorageError, InvalidError: the PIN cannot be read; see ``read_secret_file``.
    """
    if config.pin_environment is not None:
        pin = environment.read(config.pin_environment)
    else:
        assert config.pin_file is not None, "the configuration names one source of the PIN"
        pin = read_secret_file(config.pin_file).decode("utf-8", "replace").strip()
    return Pkcs11Kek(config.module, config.token, config.key, pin)


def _parameters(name: bytes, nonce: bytes) -> GCMParams:
    return GCMParams(nonce, aad=name, tag_bits=8 * TAG)
