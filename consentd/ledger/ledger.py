"""Append to the ledger: each batch of entries is one synced write, and leads to one new state.

An ``AppendBatch`` collects changed rows in memory: leaves, chain heads, statements, request rows, and finally tiles,
the state row and, if a seal is due, the map. Readers see none of these rows before the batch is written, and all of
them afterwards. A ``Draft`` has every value of an entry that cannot be computed from the ledger's state, so the same
drafts in the same batches give the same bytes in every copy of the ledger.

Only the sequencer's thread builds and commits batches. Source: ledger-format.md, "The commit".
"""

from dataclasses import dataclass, replace
from struct import Struct

from consentd.core import bucketed, codec, merkle, tiles
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError, PreconditionError
from consentd.ledger import layout
from consentd.ledger.map import TagMap
from consentd.ledger.vault import is_older
from consentd.store import Batch, Store

_STATE = Struct(">BQ32sQQ32sQ32sB")
_STATE_VERSION = 2
_EXPIRED_PER_BATCH = 64
"""Maximum number of expired request rows that one batch deletes, so that no batch takes long."""


@dataclass(frozen=True, slots=True)
class State:
    """The size of the ledger, and values computed from its leaves at that size.

    Attributes:
        size: number of leaves, seals included.
        root: RFC 6962 root of the leaves.
        time_ms: time of the last leaf.
        tags: number of chains that have an entry.
        map_root: map root that the last seal states; before the first seal, the root of an empty map.
        sealed_size: size of the tree whose last leaf is the last seal; 0 before the first seal.
        seal_hash: chain hash of the last seal; zeros before the first seal.
        map_bits: the stored map has 2^map_bits buckets; fixed when the ledger is created.
    """

    size: int
    root: bytes
    time_ms: int
    tags: int
    map_root: bytes
    sealed_size: int
    seal_hash: bytes
    map_bits: int


def encode_state(state: State) -> bytes:
    """Encode the state row."""
    return _STATE.pack(
        _STATE_VERSION, state.size, state.root, state.time_ms, state.tags, state.map_root, state.sealed_size,
        state.seal_hash, state.map_bits,
    )


def decode_state(row: bytes) -> State:
    """Decode the state row.

    Raises:
        CorruptionError: the row has an unknown form, or an impossible ``map_bits``.
    """
    if len(row) != _STATE.size or row[0] != _STATE_VERSION:
        raise CorruptionError("state row is not of a known form")
    state = State(*_STATE.unpack(row)[1:])
    if not 1 <= state.map_bits <= bucketed.MAX_MAP_BITS:
        raise CorruptionError(f"state row has impossible map bits: `{state.map_bits}`")
    return state


def empty_state(map_bits: int) -> State:
    """Return the state of a ledger without leaves."""
    return State(0, merkle.EMPTY_ROOT, 0, 0, merkle.EMPTY_ROOT, 0, codec.ZERO_HASH, map_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry that is about to be appended.

    Attributes:
        stored: the statement row: form ‖ (salt ‖ statement), in plaintext or encrypted.
        request_key: identifies the request, 32 bytes; empty if the ledger need not remember the request.
        content: hash of the request's content, 32 bytes. A later request with the same key is a repetition if its
            content is the same, and a conflict otherwise.
    """

    kind: int
    tag: bytes
    ref: int
    commit: bytes
    stored: bytes
    request_key: bytes = b""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry that was appended. ``leaf_hash`` is the hash of ``leaf`` as RFC 6962 defines it."""

    index: int
    event: codec.Event
    leaf: bytes
    leaf_hash: bytes


def decode_request(row: bytes | None) -> tuple[int, bytes] | None:
    """Return (index, content hash) of the entry that a request row names; None if there is no row."""
    return None if row is None else layout.REQUEST.unpack(row)[::2]


def read_recorded(store: Store, index: int) -> Appended:
    """Return the entry at *index*, which a request row names.

    Raises:
        PreconditionError: the entry was pruned.
        CorruptionError: the ledger has no entry at *index*.
    """
    leaf = store.get(layout.leaf_key(index)) or b""
    # Each batch deletes only a few expired request rows, so a request row may remain after its entry was pruned.
    if not leaf and store.get(layout.PRUNED) is not None:
        raise PreconditionError("recorded entry is pruned: ask with a new request_id", "REQUEST_ID_REUSED")
    event = codec.decode_leaf(leaf) if leaf else None
    if not isinstance(event, codec.Event):
        raise CorruptionError(f"no entry at index {index}")
    return Appended(index, event, leaf, merkle.leaf_hash(leaf))


def read_statement_row(store: Store, entry: Appended) -> bytes | None:
    """Return the stored statement row of an entry; None if the statement was deleted."""
    return store.get(layout.statement_key(entry.event.tag, entry.event.seq))


class Ledger:
    """A ledger: its store, and the values in memory that appending needs.

    Only the sequencer's thread assigns the attributes and changes the objects in them, so no lock guards them. Any
    thread may read ``state``, which is an immutable value, and call ``head``, which reads only the store. The scrub
    reads ``map`` in a call that the sequencer's thread executes.

    Attributes:
        state: the state of the last batch that was committed.
        edge: the hashes at the right edge of the tree of ``state.size`` leaves, which new leaves extend.
        map: the map of chain heads as of the last seal.
        sealed_heads: for each tag with entries after the last seal: (count, head) of the chain at that seal, (0, zeros)
            if the chain had no entry. Proofs that refer to that seal need these values.
        unsealed: for each of these tags: the chain's present (count, head), which the next seal puts into the map.
        vault_state: the state of the vault that the last committed batch recorded; b"" if none did.
    """

    def __init__(self, store: Store, state: State, edge: tiles.Edge, tag_map: TagMap) -> None:
        self.store = store
        self.state = state
        self.edge = edge
        self.map = tag_map
        self.sealed_heads: dict[bytes, tuple[int, bytes]] = {}
        self.unsealed: dict[bytes, tuple[int, bytes]] = {}
        self.vault_state = store.get(layout.VAULT) or b""

    def head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain after the last committed batch; (0, zeros) if the chain has no entry."""
        row = self.store.get(layout.head_key(tag))
        return (0, codec.ZERO_HASH) if row is None else layout.HEAD.unpack(row)

    def sealed_head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain at the last seal. For the sequencer's thread only."""
        return self.sealed_heads[tag] if tag in self.sealed_heads else self.head(tag)

    def accept_vault(self, state: bytes) -> None:
        """Record the state of a vault that is older than the recorded one, which an operator has accepted.

        Otherwise do nothing: the next batch records a newer state.
        """
        if is_older(state, self.vault_state):
            rows = Batch()
            rows.put(layout.VAULT, state)
            self.store.write(rows)
            self.vault_state = state

    def commit(self, batch: "AppendBatch") -> None:
        """Write a closed batch with one synced write, then replace the ledger's state by the batch's.

        Raises:
            StorageError, CorruptionError: the write failed. Whether the batch is stored is unknown, so the ledger must
                be opened again.
        """
        assert batch.closed is not None, "a batch is closed before it is committed"
        self.store.write(batch.rows)
        # A crash here: the batch is on disk, but no caller got an answer. Recovery finds the batch's entries.
        self.edge = batch.edge
        if batch.sealed:
            self.sealed_heads, self.unsealed = {}, {}
        else:
            for tag, before in batch.heads_before.items():
                self.sealed_heads.setdefault(tag, before)
            self.unsealed.update(batch.heads)
        self.vault_state = batch.vault_state
        self.state = batch.closed


class AppendBatch:
    """The next entries of the ledger, until they are committed. For the sequencer's thread only.

    Attributes:
        time_ms: time of each leaf of the batch.
        index: index of the next leaf.
        rows: the changes that ``Ledger.commit`` writes to the store.
        heads: for each tag with an entry in this batch: (count, head) of the chain after the last of these entries.
        heads_before: for each of these tags: (count, head) of the chain before this batch.
        edge: the right edge of the tree before this batch; after ``close``, the right edge with the batch's leaves.
        sealed: whether the batch ends with a seal.
        closed: the ledger's state after this batch; None before ``close``.
        vault_state: the state of the vault that the ledger has recorded after this batch.
    """

    def __init__(self, ledger: Ledger, time_ms: int, *, expire_before_ms: int = 0) -> None:
        """Begin a batch for leaves of *time_ms* that also deletes some request rows older than *expire_before_ms*.

        Raises:
            StorageError: the store cannot be read.
        """
        state = ledger.state
        assert time_ms >= state.time_ms, "leaf times never decrease"
        self.ledger = ledger
        self.vault_state = ledger.vault_state
        self.time_ms = time_ms
        self.index = state.size
        self.rows = Batch()
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.heads_before: dict[bytes, tuple[int, bytes]] = {}
        self.edge = ledger.edge
        self.sealed = False
        self.closed: State | None = None
        self._seal = (b"", b"")  # map root and chain hash of the seal that ends the batch
        self._tags = state.tags
        self._leaf_hashes: list[bytes] = []
        self._requests: dict[bytes, tuple[int, bytes]] = {}  # request key → index, content
        self._indexes: dict[tuple[bytes, int], int] = {}  # (tag, seq) → index
        self._entries: dict[int, tuple[Appended, bytes]] = {}  # index → entry, statement row
        if expire_before_ms:
            # Here and not in ``close``, so that nothing is read after the seal has changed the map in memory.
            self._expire_requests(expire_before_ms)

    # -- reads, which include the entries of this batch -----------------------------------------------------------

    def head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain; (0, zeros) if the chain has no entry."""
        return self.heads[tag] if tag in self.heads else self.ledger.head(tag)

    def recorded(self, request_key: bytes) -> tuple[int, bytes] | None:
        """Return (index, content hash) of the entry that a request made; None if the request is not remembered."""
        if request_key in self._requests:
            return self._requests[request_key]
        return decode_request(self.ledger.store.get(layout.request_row_key(request_key)))

    def kind_of(self, tag: bytes, seq: int) -> int | None:
        """Return the kind of entry *seq* of a chain; None if the chain has no such entry."""
        if (tag, seq) in self._indexes:
            return self._entries[self._indexes[tag, seq]][0].event.kind
        index = self.ledger.store.get(layout.index_key(tag, seq))
        leaf = None if index is None else self.ledger.store.get(layout.leaf_key(layout.decode_u64(index)))
        return None if leaf is None else codec.kind_of(leaf)

    def find(self, tag: bytes, seq: int) -> Appended | None:
        """Return entry *seq* of a chain; None if the chain has no such entry, or the entry was pruned."""
        if (tag, seq) in self._indexes:
            return self._entries[self._indexes[tag, seq]][0]
        row = self.ledger.store.get(layout.index_key(tag, seq))
        return None if row is None else read_recorded(self.ledger.store, layout.decode_u64(row))

    def entry(self, index: int) -> Appended:
        """Return the entry at *index*. Raises as ``read_recorded``."""
        return self._entries[index][0] if index in self._entries else read_recorded(self.ledger.store, index)

    def statement_row(self, entry: Appended) -> bytes | None:
        """Return the statement row of an entry; None if the statement was erased."""
        if entry.index in self._entries:
            return self._entries[entry.index][1]
        return read_statement_row(self.ledger.store, entry)

    # -- writes ---------------------------------------------------------------------------------------------------

    def append(self, draft: Draft) -> Appended:
        """Append an entry. The caller has validated the draft, so appending cannot fail."""
        count, head = self.head(draft.tag)
        assert draft.ref <= count, "ref is an earlier entry of the same chain"
        event = codec.Event(draft.kind, self.time_ms, draft.tag, count + 1, head, draft.commit, draft.ref)
        leaf = codec.encode_event(event)
        appended = Appended(self.index, event, leaf, merkle.leaf_hash(leaf))
        self.heads_before.setdefault(draft.tag, (count, head))
        self.heads[draft.tag] = new_head = (count + 1, codec.chain_hash(leaf))
        if count == 0:
            self._tags += 1
        rows, index_row = self.rows, layout.encode_u64(self.index)
        rows.put(layout.leaf_key(self.index), leaf)
        rows.put(layout.index_key(draft.tag, event.seq), index_row)
        rows.put(layout.statement_key(draft.tag, event.seq), draft.stored)
        rows.put(layout.head_key(draft.tag), layout.HEAD.pack(*new_head))
        reference = layout.reference_row(event, self.index)
        if reference is not None:
            rows.put(*reference)
        if draft.kind == EntryKind.ERASURE:
            # A crash after this batch: the next open finds the row, and deletes what the erasure asks for.
            rows.put(layout.erasure_key(self.index), draft.tag)
        if draft.request_key:
            self._requests[draft.request_key] = (self.index, draft.content)
            row = layout.REQUEST.pack(self.index, self.time_ms, draft.content)
            rows.put(layout.request_row_key(draft.request_key), row)
            rows.put(layout.expiry_key(self.time_ms, draft.request_key), b"")
        self._indexes[draft.tag, event.seq] = self.index
        self._entries[self.index] = (appended, draft.stored)
        self._leaf_hashes.append(appended.leaf_hash)
        self.index += 1
        return appended

    def is_seal_due(self) -> bool:
        """Report whether an entry was appended after the last seal. So no seal directly follows another seal."""
        return self.index > self.ledger.state.sealed_size

    def seal(self) -> None:
        """Append a seal that covers all leaves before it. No entry may follow the seal in this batch."""
        assert self.is_seal_due(), "a seal covers at least one new event"
        assert not self.sealed
        state = self.ledger.state
        self.ledger.map.update({**self.ledger.unsealed, **self.heads}, self.rows, self.index + 1)
        seal = codec.Seal(self.time_ms, self.index, self.ledger.map.root(), self._tags, state.seal_hash)
        leaf = codec.encode_seal(seal)
        self.rows.put(layout.leaf_key(self.index), leaf)
        self._leaf_hashes.append(merkle.leaf_hash(leaf))
        self.index += 1
        self.sealed = True
        self._seal = (seal.map_root, codec.chain_hash(leaf))

    def close(self) -> State:
        """Add the new leaves to the tree, put tiles and state row into ``rows``, and return the new state."""
        before = self.ledger.state
        self.edge, changed = self.ledger.edge.append(self._leaf_hashes)
        for (level, n), tile in changed.items():
            self.rows.put(layout.tile_key(level, n), tile)
        state = replace(before, size=self.index, root=self.edge.root(), time_ms=self.time_ms, tags=self._tags)
        if self.sealed:
            state = replace(state, map_root=self._seal[0], sealed_size=self.index, seal_hash=self._seal[1])
        self.rows.put(layout.STATE, encode_state(state))
        self.closed = state
        return state

    def record_vault(self, state: bytes) -> None:
        """Put the vault's state into ``rows``, unless an earlier batch has recorded the same state."""
        if state != self.ledger.vault_state:
            self.rows.put(layout.VAULT, state)
            self.vault_state = state

    @property
    def is_droppable(self) -> bool:
        """Whether nobody can notice it if this batch is dropped: nothing was written, and the map is as it was."""
        return self.closed is None and not self.sealed

    def _expire_requests(self, before_ms: int) -> None:
        """Delete some request rows of before *before_ms*."""
        for key, _ in self.ledger.store.scan(b"x", layout.expiry_key(before_ms, b""), limit=_EXPIRED_PER_BATCH):
            self.rows.delete(key)
            self.rows.delete(layout.request_row_key(key[9:]))
