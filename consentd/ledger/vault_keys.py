"""Vault keys: rows of the vault that wrap its other keys, and are wrapped by a key-encryption key (KEK) themselves.

=====  ===========================  ======================================================================
first  rest of the key              value
=====  ===========================  ======================================================================
``V``  number u32, from 1           vault key[32], wrapped by a KEK: nonce[12] ‖ AES-256-GCM
=====  ===========================  ======================================================================

What a vault key wraps names that key: number u32 ‖ nonce[12] ‖ AES-256-GCM under the vault key. The associated data of
both forms is the key of the row. So a KEK is replaced by another one without a change of persons' rows, and a rotation
can leave off in the middle: rows under the old and under the new vault key lie side by side.

The key with the highest number is the *current* one: it wraps what is written. There is more than one only while a
rotation is not finished (``ledger.vault_rotation``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consentd.errors import StorageError
from consentd.ledger.kek import KEY, NONCE, KeyEncryptionKey
from consentd.store import Batch, Store, prefix_end

PREFIX = b"V"
_NUMBER = 4


@dataclass(frozen=True, slots=True)
class VaultKey:
    """A vault key that was unwrapped.

    Attributes:
        row: its row, as it is stored.
        kek: the KEK that wraps it.
    """

    number: int
    row: bytes = field(repr=False)
    kek: KeyEncryptionKey
    cipher: AESGCM = field(repr=False)

    @property
    def name(self) -> bytes:
        """The key of its row."""
        return row_name(self.number)


@dataclass(frozen=True, slots=True)
class VaultKeys:
    """The vault keys of an open vault, all unwrapped. A rotation replaces this value.

    They stay in memory, so the KEK is needed at the start and for a rotation alone.

    Attributes:
        keks: the KEK that wraps new vault keys, and after it the previous one, if there is one.
    """

    keks: Sequence[KeyEncryptionKey]
    keys: Mapping[int, VaultKey]

    @property
    def current(self) -> VaultKey:
        """The vault key that wraps what is written."""
        return self.keys[max(self.keys)]

    @property
    def is_rotated(self) -> bool:
        """Whether there is a single vault key, and the KEK that is not the previous one wraps it."""
        return len(self.keys) == 1 and self.current.kek is self.keks[0]

    def is_current(self, row: bytes) -> bool:
        """Report whether the current vault key wraps the stored *row*."""
        return row[:_NUMBER] == self.current.number.to_bytes(_NUMBER)

    def wrap(self, name: bytes, key: bytes, nonce: bytes) -> bytes:
        """Wrap a key for the row *name* under the current vault key. *nonce*: 12 random bytes, used once."""
        current = self.current
        return current.number.to_bytes(_NUMBER) + nonce + current.cipher.encrypt(nonce, key, name)

    def unwrap(self, name: bytes, row: bytes) -> bytes | None:
        """Return the key that the stored *row* with the key *name* wraps; None: no vault key is there for it.

        Raises:
            StorageError: the row is damaged.
        """
        vault_key = self.keys.get(int.from_bytes(row[:_NUMBER]))
        if vault_key is None:
            return None
        sealed = row[_NUMBER:]
        try:
            return vault_key.cipher.decrypt(sealed[:NONCE], sealed[NONCE:], name)
        except (InvalidTag, ValueError) as error:
            raise StorageError(f"vault row is damaged: of kind `{name[:1].decode('ascii', 'replace')}`") from error

    def made(self, random: Callable[[int], bytes]) -> tuple["VaultKeys", Batch]:
        """Return these keys with a new current one, and the batch that stores it.

        Raises:
            StorageError: the token that has the KEK cannot be used.
        """
        number, kek = max(self.keys, default=0) + 1, self.keks[0]
        key = random(KEY)
        row = kek.wrap(row_name(number), key, random(NONCE))
        made = VaultKey(number, row, kek, AESGCM(key))
        batch = Batch()
        batch.put(made.name, row)
        return replace(self, keys=MappingProxyType({**self.keys, number: made})), batch

    def without_others(self) -> tuple["VaultKeys", Batch]:
        """Return the current key alone, and the batch that deletes all others."""
        current, batch = self.current, Batch()
        for number, each in self.keys.items():
            if number != current.number:
                batch.delete(each.name)
        return replace(self, keys=MappingProxyType({current.number: current})), batch


def read_vault_keys(store: Store, keks: Sequence[KeyEncryptionKey]) -> VaultKeys:
    """Unwrap all vault keys in *store*. A store without any gives an empty value.

    Raises:
        StorageError: no KEK in *keks* wraps one of them, or a token cannot be used.
    """
    keys = {}
    for name, row in store.scan(PREFIX, prefix_end(PREFIX)):
        number = int.from_bytes(name[len(PREFIX) :])
        keys[number] = _unwrapped(number, row, keks)
    return VaultKeys(tuple(keks), MappingProxyType(keys))


def _unwrapped(number: int, row: bytes, keks: Sequence[KeyEncryptionKey]) -> VaultKey:
    for kek in keks:
        key = kek.unwrap(row_name(number), row)
        if key is not None:
            return VaultKey(number, row, kek, AESGCM(key))
    tried = ", ".join(f"`{kek.source}`" for kek in keks)
    raise StorageError(
        f"key-encryption key does not open this vault: {tried}: restore the one that wraps vault key {number}, or name"
        " it as `keys.vault_kek_previous`"
    )


def row_name(number: int) -> bytes:
    """Return the key of the row of a vault key."""
    return PREFIX + number.to_bytes(_NUMBER)
