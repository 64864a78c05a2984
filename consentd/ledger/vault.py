"""The vault: the data key of each person, and for each identifier the tag, which names the person's chain.

An erasure deletes both. Without the data key nobody can read the person's statements, but every proof stays valid. A
backup would still have the key, so the vault is a store of its own, which is never in the ledger's backups. The vault
is trusted: a person who can read the vault and has the vault key can read every statement.

=====  ===========================  ======================================================================
first  rest of the key              value
=====  ===========================  ======================================================================
``K``                               the index key, wrapped
``k``  tag[32]                      the person's data key, wrapped
``i``  identifier hash[32]          tag[32]
``u``  month, ``2026-03``           tag[32] of the unknown chain of that month
``N``                               the vault's state: writes u64 ‖ hash[32], see ``next_state``
=====  ===========================  ======================================================================

*Wrapped* is nonce[12] ‖ AES-256-GCM under the vault key, with the row's key as associated data. The identifier hash is
``BLAKE2b-256(key = index key, u8 len(scheme) ‖ scheme ‖ value)``. Without the index key nobody can hash a list of
likely identifiers and compare the hashes with the rows.

**Which is older.** Without a person's rows nobody can withdraw the person's consents. So a vault that lost rows must be
noticed, even if its files look whole, because the end of its log was cut off or a backup was restored. Every write of
the vault changes its state, in the same batch. Each batch of the ledger records (``layout.VAULT``) the state of the
vault that had the keys for the batch's entries. The vault is synced first. So after a crash at any point the vault has
the state that the ledger recorded, or a newer one. ``preflight`` refuses an older one.
"""

import os
import threading
from collections.abc import Callable
from hashlib import blake2b, sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consentd.core import codec
from consentd.errors import CorruptionError, NotFoundError, StorageError
from consentd.ledger import layout
from consentd.store import Batch, Store

NONCE = 12
STATE = b"N"
"""The key of the row with the vault's state."""
NO_STATE = bytes(40)
"""The state before the first write of a key."""
_CACHED_KEYS = 4096


class Vault:
    """The keys of persons, over a store of its own. Any thread may use it.

    ``create`` and ``unknown_chain`` take the lock, so that two calls do not make two tags for one identifier or month.
    The caches need no lock: a thread only reads or assigns one entry of a cache, or replaces a cache by an empty one.

    Attributes:
        state: the state after the last write that is durable. Assigned under the lock; any thread may read it.
    """

    def __init__(
        self, store: Store, vault_key: bytes, random: Callable[[int], bytes] = os.urandom,
        check_space: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Open the vault in *store*; if the store is empty, create a vault.

        Args:
            vault_key: the key that wraps all other keys, 32 bytes.
            random: function that returns a given number of random bytes, from a CSPRNG.
            check_space: raises StorageError if the disk has too little space for a new key.

        Raises:
            StorageError: this vault was created with another vault key.
        """
        self.store = store
        self.random = random
        self._check_space = check_space
        self._wrap = AESGCM(vault_key)
        self._keys: dict[bytes, AESGCM] = {}  # tag → unwrapped key; a cache, emptied when full
        self._unknown: dict[str, bytes] = {}  # month → tag of its unknown chain; a cache
        self._lock = threading.Lock()
        self.state = store.get(STATE) or NO_STATE
        row = store.get(b"K")
        self._index_key = random(32) if row is None else self._unwrapped(b"K", row)
        if row is None:
            batch = Batch()
            batch.put(b"K", self._wrapped(b"K", self._index_key))
            store.write(batch)
        self._index_hasher = blake2b(digest_size=32, key=self._index_key)  # only ever copied

    def commitment(self) -> bytes:
        """Return the commitment to this vault for leaf 0: ``SHA-256("consentd/vault/v1\\0" ‖ index key)``."""
        return sha256(b"consentd/vault/v1\0" + self._index_key).digest()

    def identifier_hash(self, scheme: str, value: str) -> bytes:
        """Return the keyed hash under which an identifier is found, 32 bytes."""
        name = scheme.encode()
        message = bytes((len(name),)) + name + value.encode()
        hasher = self._index_hasher.copy()  # a copy takes half the time of a new one with a key
        hasher.update(message)
        return hasher.digest()

    def find(self, identifier_hash: bytes) -> bytes | None:
        """Return the tag of an identifier; None if the vault does not know the identifier."""
        return self.store.get(b"i" + identifier_hash)

    def create(self, identifier_hash: bytes) -> bytes:
        """Return the tag of an identifier. For a new identifier, make a tag and a data key, and store both durably.

        The tag is unused until the ledger has an ENROL entry for it, so a crash before that entry leaves harmless rows.
        """
        with self._lock:
            known = self.find(identifier_hash)
            if known is not None:
                return known
            return self._store_new(b"i" + identifier_hash)

    def unknown_chain(self, month: str) -> bytes:
        """Return the tag of the unknown chain of *month* (``2026-03``). Make and store it if the month has none yet.

        An unknown chain holds the refusals about persons who are not enrolled. Its statements are encrypted under its
        own data key, so that one erasure ends the whole chain.
        """
        tag = self._unknown.get(month)
        if tag is None:
            with self._lock:
                name = b"u" + month.encode()
                tag = self.store.get(name) or self._store_new(name)
                self._unknown[month] = tag
        return tag

    def unknown_chains(self) -> dict[str, bytes]:
        """Return the tags of all unknown chains, by month. The erasure of a chain whose retention ended needs them."""
        return {name[1:].decode(): tag for name, tag in self.store.scan(b"u", b"v")}

    def _store_new(self, name: bytes) -> bytes:
        """Make a tag and a data key; store the key, and the tag under row *name*, durably. The caller has the lock."""
        self._check_space()
        tag, key = self.random(32), self.random(32)
        batch = Batch()
        batch.put(b"k" + tag, self._wrapped(b"k" + tag, key))
        batch.put(name, tag)
        state = next_state(self.state, name, tag)
        batch.put(STATE, state)
        self.store.write(batch)
        # INVARIANT: the state is shown only after it is durable, so the ledger records no state that a crash can undo.
        self.state = state
        return tag

    def opens(self, name: bytes) -> bool:
        """Report whether the vault key unwraps the key in the stored row *name*. Does not use the cache."""
        row = self.store.get(name)
        try:
            key = b"" if row is None else self._unwrapped(name, row)
        except StorageError:
            return False
        return len(key) == 32 and (name != b"K" or key == self._index_key)

    def encrypt(self, kind: int, tag: bytes, salt: bytes, statement: bytes) -> tuple[bytes, bytes]:
        """Compute the commitment to a person's statement, and encrypt it; return (commit, statement row).

        Raises:
            NotFoundError: the person has no data key, because the person is not enrolled, or was erased.
        """
        commit = codec.commit(salt, statement)
        nonce = self.random(NONCE)
        text = self._key(tag).encrypt(nonce, salt + statement, codec.payload_aad(kind, tag, commit))
        return commit, bytes((layout.ENCRYPTED,)) + nonce + text

    def decrypt(self, event: codec.Event, row: bytes) -> tuple[bytes, bytes]:
        """Return (salt, statement) of a statement row, plaintext or encrypted. Verifies that the leaf commits to both.

        Raises:
            NotFoundError: the row is encrypted, and the person's data key was destroyed.
            CorruptionError: the row does not decrypt, or the leaf commits to another statement.
        """
        form = row[0] if row else None
        if form == layout.PLAINTEXT:
            opened = row[1:]
        elif form == layout.ENCRYPTED:
            aad = codec.payload_aad(event.kind, event.tag, event.commit)
            try:
                opened = self._key(event.tag).decrypt(row[1 : 1 + NONCE], row[1 + NONCE :], aad)
            except (InvalidTag, ValueError) as error:
                raise CorruptionError(f"statement does not decrypt: kind {event.kind} seq {event.seq}") from error
        else:
            raise CorruptionError(f"statement row is of no known form: kind {event.kind} seq {event.seq}")
        salt, statement = opened[:32], opened[32:]
        if codec.commit(salt, statement) != event.commit:
            raise CorruptionError(f"statement is not what its leaf commits to: kind {event.kind} seq {event.seq}")
        return salt, statement

    def _key(self, tag: bytes) -> AESGCM:
        key = self._keys.get(tag)
        if key is None:
            row = self.store.get(b"k" + tag)
            if row is None:
                raise NotFoundError("person has no data key: not enrolled, or erased", "SUBJECT_NOT_FOUND")
            key = AESGCM(self._unwrapped(b"k" + tag, row))
            if len(self._keys) >= _CACHED_KEYS:
                self._keys = {}
            self._keys[tag] = key
        return key

    def _wrapped(self, name: bytes, key: bytes) -> bytes:
        nonce = self.random(NONCE)
        return nonce + self._wrap.encrypt(nonce, key, name)

    def _unwrapped(self, name: bytes, row: bytes) -> bytes:
        try:
            return self._wrap.decrypt(row[:NONCE], row[NONCE:], name)
        except (InvalidTag, ValueError) as error:
            raise StorageError("vault key does not open this vault; restore the file it was created with") from error


def next_state(state: bytes, name: bytes, tag: bytes) -> bytes:
    """Return the vault's state after the write of row *name*: writes + 1 ‖ ``H("consentd/vault-state/v1\0" ‖ …)``.

    The hash covers the state before, the name and the tag. So two vaults with other rows have different states.
    """
    count = int.from_bytes(state[:8]) + 1
    return count.to_bytes(8) + sha256(b"consentd/vault-state/v1\0" + state + name + tag).digest()


def is_older(state: bytes, recorded: bytes) -> bool:
    """Return whether a vault in *state* lacks writes of the vault whose state a ledger *recorded*."""
    return state[:8] < recorded[:8] or (state[:8] == recorded[:8] and state != recorded)


def plaintext_row(salt: bytes, statement: bytes) -> tuple[bytes, bytes]:
    """Compute the commitment to a statement of a public chain; return (commit, statement row)."""
    return codec.commit(salt, statement), b"".join((bytes((layout.PLAINTEXT,)), salt, statement))
