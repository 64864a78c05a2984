"""The vault: the data key of each person, and for each identifier the tag, which names the person's chain.

An erasure deletes both. Without the data key nobody can read the person's statements, but every proof stays valid. A
backup would still have the key, so the vault is a store of its own, which is never in the ledger's backups, and every
open compares it with the list of erasures (``erasure``). The vault is trusted: a person who can read the vault and has
its key-encryption key can read every statement.

=====  ===========================  ======================================================================
first  rest of the key              value
=====  ===========================  ======================================================================
``V``  number u32                   a vault key, wrapped by a key-encryption key; see ``vault_keys``
``K``                               the index key, wrapped
``k``  tag[32]                      the person's data key, wrapped
``i``  identifier hash[32]          tag[32]
``u``  month, ``2026-03``           tag[32] of the unknown chain of that month
``N``                               the vault's state: writes u64 ‖ hash[32], see ``next_state``
``C``                               empty: the files are to be compacted, to end a rotation of the vault key
=====  ===========================  ======================================================================

*Wrapped* is vault key number u32 ‖ nonce[12] ‖ AES-256-GCM under that vault key, with the row's key as associated data.
``vault_rotation`` replaces vault keys. The index key is never replaced. The identifier hash is
``BLAKE2b-256(key = index key, u8 len(scheme) ‖ scheme ‖ value)``. Without the index key nobody can hash a list of
likely identifiers and compare the hashes with the rows.

**Which is older.** Without a person's rows nobody can withdraw the person's consents. So a vault that lost rows must be
noticed, even if its files look whole, because the end of its log was cut off or a backup was restored. Every write of
a person's rows changes the vault's state, in the same batch. A rotation does not: it changes no data key. Each batch of
the ledger records (``layout.VAULT``) the state of the vault that had the keys for the batch's entries. The vault is
synced first. So after a crash at any point the vault has the state that the ledger recorded, or a newer one.
``preflight`` refuses an older one.
"""

import hmac
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b, sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consentd.core import codec
from consentd.errors import CorruptionError, NotFoundError, StorageError
from consentd.ledger import layout
from consentd.ledger.kek import KeyEncryptionKey
from consentd.ledger.vault_keys import read_vault_keys
from consentd.store import Batch, Store

NONCE = 12
STATE = b"N"
"""The key of the row with the vault's state."""
NO_STATE = bytes(40)
"""The state before the first write of a key."""
_COMPACT = b"C"
_EARLIER_ROW = NONCE + 32 + 16
"""Length of a row of an earlier format: it names no vault key."""
_CACHED_KEYS = 4096


class Vault:
    """The keys of persons, over a store of its own. Any thread may use it.

    ``create`` and ``unknown_chain`` take the lock, so that two calls do not make two tags for one identifier or month.
    The steps of a rotation take it too: they read rows and write them again, and no other write may come in between.
    The caches need no lock: a thread only reads or assigns one entry of a cache, or replaces a cache by an empty one.

    Attributes:
        state: the state after the last write that is durable. Assigned under the lock; any thread may read it.
        keys: the vault keys. Replaced under the lock; any thread may read it.
    """

    def __init__(
        self, store: Store, keks: Sequence[KeyEncryptionKey], random: Callable[[int], bytes] = os.urandom,
        check_space: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Open the vault in *store*; if the store is empty, create a vault.

        Args:
            keks: the key-encryption key that wraps new vault keys, and after it the previous one, if there is one.
            random: function that returns a given number of random bytes, from a CSPRNG.
            check_space: raises StorageError if the disk has too little space for a new key.

        Raises:
            StorageError: no key of *keks* opens this vault, a token cannot be used, or the vault has an earlier format.
        """
        self.store = store
        self.random = random
        self._check_space = check_space
        self.keys = read_vault_keys(store, keks)
        self._keys: dict[bytes, AESGCM] = {}  # tag → unwrapped key; a cache, emptied when full
        self._unknown: dict[str, bytes] = {}  # month → tag of its unknown chain; a cache
        self._lock = threading.Lock()
        self.state = store.get(STATE) or NO_STATE
        self._index_key = self._read_key(b"K") or self._begin()
        self._index_hasher = blake2b(digest_size=32, key=self._index_key)  # only ever copied

    def commitment(self) -> bytes:
        """Return the commitment to this vault for leaf 0: ``SHA-256("consentd/vault/v1\\0" ‖ index key)``."""
        return sha256(b"consentd/vault/v1\0" + self._index_key).digest()

    def write_index_key(self, descriptor: int) -> None:
        """Write the key of identifier hashes into a pipe, for the gate. It reads no statement with it."""
        os.write(descriptor, self._index_key)

    def derived_key(self, label: bytes) -> bytes:
        """Return a key for another use, 32 bytes: HMAC-SHA-256 of *label* under the index key."""
        return hmac.digest(self._index_key, label, sha256)

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

    def has_key(self, tag: bytes) -> bool:
        """Return whether the data key of a chain is stored."""
        return self.store.get(b"k" + tag) is not None

    def destroy(self, tags: Mapping[bytes, bytes | None]) -> None:
        """Delete the data keys of these chains, and the rows that lead to their tags, durably.

        The vault's state does not change. It counts keys that were added, so a backup from before an erasure is not
        older than its ledger; the list of erasures takes care of it.

        Args:
            tags: tag → identifier hash; None: it is not known, so all identifiers are read to find it.
        """
        with self._lock:
            batch, unknown = Batch(), {tag for tag, identifier_hash in tags.items() if identifier_hash is None}
            for tag, identifier_hash in tags.items():
                batch.delete(b"k" + tag)
                # The person may be enrolled again, under a new tag.
                if identifier_hash is not None and self.find(identifier_hash) == tag:
                    batch.delete(b"i" + identifier_hash)
            if unknown:
                for name, tag in self.store.scan(b"i", b"j"):
                    if tag in unknown:
                        batch.delete(name)
            for month, tag in self.unknown_chains().items():
                if tag in tags:
                    batch.delete(b"u" + month.encode())
            self.store.write(batch)
            # INVARIANT: the caches are emptied after the rows are deleted; ``_key`` reads the row again after it has
            # put a key into its cache. So no cache keeps a key that is deleted.
            self._unknown = {}
            for tag in tags:
                self._keys.pop(tag, None)

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
        """Report whether a vault key unwraps the key in the stored row *name*. Does not use the cache."""
        try:
            key = self._read_key(name)
        except StorageError:
            return False
        return key is not None and len(key) == 32 and (name != b"K" or key == self._index_key)

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
            found = self._read_key(b"k" + tag)
            if found is None:
                raise NotFoundError("person has no data key: not enrolled, or erased", "SUBJECT_NOT_FOUND")
            key = AESGCM(found)
            if len(self._keys) >= _CACHED_KEYS:
                self._keys = {}
            self._keys[tag] = key
            if not self.has_key(tag):  # destroyed meanwhile
                self._keys.pop(tag, None)
        return key

    def _begin(self) -> bytes:
        """Store the first vault key and the index key in an empty vault; return the index key."""
        if self.keys.keys or self.store.get(STATE) is not None:
            raise StorageError("vault has no index key: its row is lost; restore the vault's backup")
        keys, batch = self.keys.made(self.random)
        index_key = self.random(32)
        batch.put(b"K", keys.wrap(b"K", index_key, self.random(NONCE)))
        self.store.write(batch)
        self.keys = keys
        return index_key

    def _wrapped(self, name: bytes, key: bytes) -> bytes:
        return self.keys.wrap(name, key, self.random(NONCE))

    def _read_key(self, name: bytes) -> bytes | None:
        """Return the unwrapped key of the row *name*; None: there is no such row. Raises StorageError for damage."""
        row = None
        for _ in range(2):
            row = self.store.get(name)
            if row is None:
                return None
            key = self.keys.unwrap(name, row)
            if key is not None:
                return key
            # Perhaps a rotation ended after the row was read. Then the row is now under the vault key that is left.
        if not self.keys.keys and row is not None and len(row) == _EARLIER_ROW:
            raise StorageError("vault is of an earlier format: open it with the version that wrote it")
        raise StorageError(f"vault row names no vault key that is there: of kind `{name[:1].decode()}`")

    # -- the steps of a rotation of the vault key; see ``vault_rotation`` ------------------------------------------

    @property
    def is_rotated(self) -> bool:
        """Whether no rotation is unfinished, and the KEK that is configured now wraps the only vault key."""
        return self.keys.is_rotated and self.store.get(_COMPACT) is None

    def lost_vault_key(self) -> int | None:
        """Return the number of a vault key whose stored row is not the one that was unwrapped; None: there is none."""
        with self._lock:
            keys = self.keys.keys.values()
            return next((key.number for key in keys if self.store.get(key.name) != key.row), None)

    def begin_rotation(self) -> int:
        """Make the vault key that wraps what is written from now on; return its number.

        A rotation that was interrupted continues with its vault key, unless another KEK is configured since.

        Raises:
            StorageError: the token that has the KEK cannot be used, or the disk failed or is full.
        """
        with self._lock:
            is_unfinished = len(self.keys.keys) > 1 or self.store.get(_COMPACT) is not None
            if not is_unfinished or self.keys.current.kek is not self.keys.keks[0]:
                self._check_space()
                keys, batch = self.keys.made(self.random)
                self.store.write(batch)
                self.keys = keys
            return self.keys.current.number

    def rewrap(self, names: Sequence[bytes]) -> None:
        """Wrap the keys of these rows again under the current vault key. Rows that are gone stay gone.

        Raises:
            StorageError: a row is damaged, or the disk failed or is full.
        """
        if not names:
            return
        with self._lock:
            self._check_space()
            batch = Batch()
            for name, row in zip(names, self.store.multi_get(names), strict=True):
                if row is not None and not self.keys.is_current(row):
                    key = self.keys.unwrap(name, row)
                    if key is None:
                        raise StorageError(f"vault row names no vault key that is there: of kind `{name[:1].decode()}`")
                    batch.put(name, self._wrapped(name, key))
            if len(batch):
                self.store.write(batch)

    def end_rotation(self) -> None:
        """Delete all vault keys but the current one, and note that the files are to be compacted."""
        with self._lock:
            keys, batch = self.keys.without_others()
            batch.put(_COMPACT, b"")
            self.store.write(batch)
            self.keys = keys

    def note_compacted(self) -> None:
        """Note that the files were compacted: the rotation is finished."""
        with self._lock:
            batch = Batch()
            batch.delete(_COMPACT)
            self.store.write(batch)


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
