"""Append to the ledger: one turn, one batch, one new state.

A *turn* collects entries in memory: leaves, chain heads, statements, request rows, and at its end the tiles, the
state row and, where a seal is due, the map. Nothing is visible before the batch is written, and everything is after.
Appending is a deterministic function of (state, entry): what it takes is what a replica could not derive.

Only the sequencer's thread takes turns. Everyone else reads ``Ledger.state``, an immutable value that is
replaced by assignment once a batch is durable. Source: ledger-format.md, "The commit".
"""

from dataclasses import dataclass, replace
from struct import Struct

from consentd.core import bucketed, codec, merkle, tiles
from consentd.errors import ConflictError, CorruptionError
from consentd.ledger import layout
from consentd.ledger.map import TagMap
from consentd.store import Batch, Store

_STATE = Struct(">BQ32sQQ32sQ32sB")
_STATE_VERSION = 1
_EXPIRE_PER_TURN = 64
"""Expired request rows dropped per entry-bearing turn, so that none grows long."""


@dataclass(frozen=True, slots=True)
class State:
    """The ledger at one size.

    Attributes:
        size: leaves, seals included.
        root: RFC 6962 root of them.
        time_ms: the last leaf's.
        tags: chains that have an entry.
        map_root: the last seal's; the empty map's before the first.
        sealed_size: size at which the last seal was the last leaf; 0 before the first.
        seal_hash: chain hash of the last seal; zeros before the first.
        map_bits: how the stored map is divided; fixed when the ledger is created.
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
        _STATE_VERSION,
        state.size,
        state.root,
        state.time_ms,
        state.tags,
        state.map_root,
        state.sealed_size,
        state.seal_hash,
        state.map_bits,
    )


def decode_state(row: bytes) -> State:
    """Decode the state row.

    Raises:
        CorruptionError: it is not one of ours.
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
    """An entry about to be appended.

    Attributes:
        stored: the statement row: form ‖ (salt ‖ statement), clear or encrypted.
        request_key: names the request, 32 bytes; empty: it is not remembered.
        content: hash of what was asked, 32 bytes, to tell a repeat from a clash.
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
    """An entry in its place. ``leaf_hash`` is RFC 6962's."""

    index: int
    event: codec.Event
    leaf: bytes
    leaf_hash: bytes


class Ledger:
    """The ledger over its store. ``state`` may be read by any thread; the rest is the sequencer's."""

    def __init__(self, store: Store, state: State, edge: tiles.Edge, tag_map: TagMap) -> None:
        self.store = store
        self.state = state  # replaced by assignment, by the sequencer only
        self.edge = edge  # owner: the sequencer
        self.map = tag_map  # owner: the sequencer; as of the last seal
        # Owner: the sequencer. Where each tag stood at the last seal, for tags with events since: what history
        # proofs against that seal need. (0, zeros): the tag had no entry.
        self.sealed_heads: dict[bytes, tuple[int, bytes]] = {}
        # Owner: the sequencer. Where the tags that the next seal must put into the map stand now.
        self.unsealed: dict[bytes, tuple[int, bytes]] = {}

    def head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain as written; (0, zeros) where it has no entry."""
        row = self.store.get(layout.head_key(tag))
        return (0, codec.ZERO_HASH) if row is None else layout.HEAD.unpack(row)

    def sealed_head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain at the last seal."""
        return self.sealed_heads[tag] if tag in self.sealed_heads else self.head(tag)

    def commit(self, turn: "AppendBatch") -> None:
        """Write a closed turn's batch, synced, and make its state the ledger's.

        Raises:
            StorageError: it failed; the outcome is unknown and this ledger must be opened anew.
        """
        assert turn.closed is not None, "a turn is closed before it is committed"
        self.store.write(turn.batch)
        # A crash here: everything is on disk, nobody was told; opening finds it and goes on.
        self.edge = turn.edge
        if turn.sealed:
            self.sealed_heads = {}
            self.unsealed = {}
        else:
            for tag in turn.heads:
                if tag not in self.sealed_heads:
                    self.sealed_heads[tag] = turn.before[tag]
            self.unsealed.update(turn.heads)
        self.state = turn.closed


class AppendBatch:
    """One batch being built on the ledger's present state. Owned by the sequencer's thread."""

    def __init__(self, ledger: Ledger, time_ms: int, *, expire_before_ms: int = 0) -> None:
        """Begin a turn at *time_ms*; request rows older than *expire_before_ms* are dropped, a few at a time."""
        state = ledger.state
        assert time_ms >= state.time_ms, "ledger time never runs back"
        self.ledger = ledger
        self.time_ms = time_ms
        self.index = state.size  # of the next leaf
        self.batch = Batch()
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.before: dict[bytes, tuple[int, bytes]] = {}
        self.edge = ledger.edge
        self.sealed = False
        self.closed: State | None = None
        self._seal = (b"", b"")  # of the seal that ends it: map root, chain hash
        self._tags = state.tags
        self._leaf_hashes: list[bytes] = []
        self._requests: dict[bytes, tuple[int, bytes]] = {}
        self._kinds: dict[tuple[bytes, int], int] = {}
        self._entries: dict[int, tuple[Appended, bytes]] = {}  # index → entry and statement row, of this batch
        self._forget_before_ms = expire_before_ms

    def head(self, tag: bytes) -> tuple[int, bytes]:
        """Return (count, head) of a chain, entries of this turn included."""
        found = self.heads.get(tag)
        return self.ledger.head(tag) if found is None else found

    def recorded(self, request_key: bytes) -> tuple[int, bytes] | None:
        """Return (index, content hash) of the entry that a request made, or None where it is not remembered."""
        found = self._requests.get(request_key)
        if found is not None:
            return found
        row = self.ledger.store.get(layout.request_row_key(request_key))
        if row is None:
            return None
        index, _, content = layout.REQUEST.unpack(row)
        return index, content

    def kind_of(self, tag: bytes, seq: int) -> int | None:
        """Return the kind of entry *seq* of a chain, entries of this turn included; None where there is none."""
        found = self._kinds.get((tag, seq))
        if found is not None:
            return found
        index = self.ledger.store.get(layout.index_key(tag, seq))
        leaf = None if index is None else self.ledger.store.get(layout.leaf_key(layout.decode_u64(index)))
        return None if leaf is None else codec.kind_of(leaf)

    def entry(self, index: int) -> Appended:
        """Return the entry at *index*, one of this batch or an earlier one.

        Raises:
            ConflictError: it was pruned.
            CorruptionError: the ledger has no entry at *index*, though a request row names it.
        """
        found = self._entries.get(index)
        if found is not None:
            return found[0]
        leaf = self.ledger.store.get(layout.leaf_key(index)) or b""
        # A batch drops only a few expired request rows, so a row may outlive its entry, which was pruned.
        if not leaf and self.ledger.store.get(layout.PRUNED) is not None:
            raise ConflictError("recorded entry is pruned: ask with a new request_id", "REQUEST_ID_REUSED")
        event = codec.decode_leaf(leaf) if leaf else None
        if not isinstance(event, codec.Event):
            raise CorruptionError(f"no entry at index {index}")
        return Appended(index, event, leaf, merkle.leaf_hash(leaf))

    def statement_row(self, entry: Appended) -> bytes | None:
        """Return the statement row of an entry, one of this batch or an earlier one; None where it was erased."""
        found = self._entries.get(entry.index)
        if found is not None:
            return found[1]
        return self.ledger.store.get(layout.statement_key(entry.event.tag, entry.event.seq))

    def append(self, draft: Draft) -> Appended:
        """Append an entry. It cannot fail: whatever may be wrong with it was found before."""
        count, head = self.head(draft.tag)
        assert draft.ref <= count, "ref is an earlier entry of the same chain"
        event = codec.Event(draft.kind, self.time_ms, draft.tag, count + 1, head, draft.commit, draft.ref)
        leaf = codec.encode_event(event)
        appended = Appended(self.index, event, leaf, merkle.leaf_hash(leaf))
        self.before.setdefault(draft.tag, (count, head))
        self.heads[draft.tag] = standing = (count + 1, codec.chain_hash(leaf))
        if count == 0:
            self._tags += 1
        batch, index_row = self.batch, layout.encode_u64(self.index)
        batch.put(layout.leaf_key(self.index), leaf)
        batch.put(layout.index_key(draft.tag, event.seq), index_row)
        batch.put(layout.statement_key(draft.tag, event.seq), draft.stored)
        batch.put(layout.head_key(draft.tag), layout.HEAD.pack(*standing))
        if draft.request_key:
            self._requests[draft.request_key] = (self.index, draft.content)
            row = layout.REQUEST.pack(self.index, self.time_ms, draft.content)
            batch.put(layout.request_row_key(draft.request_key), row)
            batch.put(layout.expiry_key(self.time_ms, draft.request_key), b"")
        self._kinds[draft.tag, event.seq] = draft.kind
        self._entries[self.index] = (appended, draft.stored)
        self._leaf_hashes.append(appended.leaf_hash)
        self.index += 1
        return appended

    def is_seal_due(self) -> bool:
        """Tell whether a seal would cover an event that no seal covers yet: never two seals side by side."""
        return self.index > self.ledger.state.sealed_size

    def seal(self) -> None:
        """Append the seal of everything before it; it ends the turn."""
        assert self.is_seal_due(), "a seal covers at least one new event"
        assert not self.sealed
        state = self.ledger.state
        self.ledger.map.update({**self.ledger.unsealed, **self.heads}, self.batch, self.index + 1)
        seal = codec.Seal(self.time_ms, self.index, self.ledger.map.root(), self._tags, state.seal_hash)
        leaf = codec.encode_seal(seal)
        self.batch.put(layout.leaf_key(self.index), leaf)
        self._leaf_hashes.append(merkle.leaf_hash(leaf))
        self.index += 1
        self.sealed = True
        self._seal = (seal.map_root, codec.chain_hash(leaf))

    def close(self) -> State:
        """Hash the new leaves into the tree and put tiles and state row into the batch; returns the new state."""
        before = self.ledger.state
        self.edge, changed = self.ledger.edge.append(self._leaf_hashes)
        for (level, n), tile in changed.items():
            self.batch.put(layout.tile_key(level, n), tile)
        state = replace(before, size=self.index, root=self.edge.root(), time_ms=self.time_ms, tags=self._tags)
        if self.sealed:
            map_root, seal_hash = self._seal
            state = replace(state, map_root=map_root, sealed_size=self.index, seal_hash=seal_hash)
        self._forget()
        self.batch.put(layout.STATE, encode_state(state))
        self.closed = state
        return state

    def _forget(self) -> None:
        if not self._forget_before_ms:
            return
        expired = self.ledger.store.scan(b"x", layout.expiry_key(self._forget_before_ms, b""), limit=_EXPIRE_PER_TURN)
        for key, _ in expired:
            self.batch.delete(key)
            self.batch.delete(layout.request_row_key(key[9:]))
