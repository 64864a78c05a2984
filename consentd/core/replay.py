"""Compute the state of a ledger from its first leaf on, and verify that each leaf follows the rule of the ledger.

The rule: a leaf can be decoded, and its time is not earlier than the previous leaf's. Events with the same tag form a
chain: seq counts without a gap, prev is the chain hash of the chain's previous leaf (its *head* until then), and no
leaf follows an ERASURE. A seal states the number of leaves before it, the chain hash of the previous seal, the number
of tags, and the root of the map from tags to heads, also computed here. Source: ledger-format.md, "Replay rule".

A caller that needs only a verdict calls ``add`` and stops at the first ``ReplayError``. A caller that wants to find all
faults continues: ``add_faulty`` adds a leaf although it breaks the rule, and ``skip_unreadable`` skips a leaf that
cannot be read. Such a leaf does not make later leaves faulty: a chain whose head is unknown accepts any next leaf, and
map roots are compared only when all heads are known again (``knows_all_heads``).

**A pruned ledger** is replayed from its first leaf too. Before its *start* (a size of the tree, right after a seal)
some leaves are missing. For each missing leaf the caller passes the leaf's hash in the tree to ``skip_pruned``. Each
person's chain still has its first leaf, its last leaf before the start, and some leaves between them. So the map root
in the seal before the start shows whether the heads are right. Public chains have no gaps.

Memory: about 0.35 kB for each tag, and 96 bytes for each tag in the buckets, plus 2^(map_bits + 6) bytes above them.
"""

from collections.abc import MutableMapping

from consentd.core import bucketed, codec, merkle, tiles
from consentd.core.codec import Event, Seal
from consentd.core.kinds import PERSON_FIRST, EntryKind
from consentd.core.replay_state import ChainHead, ReplayState, map_values
from consentd.errors import MalformedError, ProofError

_NO_HEAD: ChainHead = (0, codec.ZERO_HASH, False)
_MAX_UNSEALED = 1 << 16  # before the start no seal updates the map, so this many tags with new leaves do


class ReplayError(ProofError):
    """The leaf at *index* (from 0) breaks the rule."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"leaf `{index}`: {message}")
        self.index = index


class Replay:
    """The state of a ledger, computed from its leaves alone. Owned by one thread.

    Attributes:
        size, time_ms: number of leaves so far, and the last leaf's time.
        heads: tag → head of the chain. Callers only read the mapping. Before the first leaf they may replace the dict
            by another mapping, such as one stored on disk.
        buckets: number → bucket of the map, as of the last seal. Callers may do the same as with ``heads``.
        top: the hashes above the buckets.
        sealed_size: size of the tree whose last leaf is the last seal; 0 before the first seal.
        seal_hash: chain hash of the last seal; zeros before the first seal; b"" if not known.
        edge: the right edge of the tree, without the leaves that ``grow`` has not added yet.
        start, kept_from_ms: see ``__init__``; 0: nothing is pruned.
        public: tags of the chains that do not belong to persons. Callers only read the set.
    """

    def __init__(self, map_bits: int = 14, *, start: int = 0, kept_from_ms: int = 0) -> None:
        """Start with no leaf.

        Args:
            map_bits: the map has 2**map_bits buckets. About log2(tags) - 4 is fast; no map root depends on it.
            start, kept_from_ms: the ledger states that it pruned leaves with an index below *start* and from before
                *kept_from_ms*.
        """
        self.start = start
        self.kept_from_ms = kept_from_ms
        self.size = 0
        self.time_ms = 0
        self.heads: MutableMapping[bytes, ChainHead] = {}
        self.buckets: MutableMapping[int, bytes] = {}
        self.top = bucketed.Top(map_bits)
        self.sealed_size = 0
        self.seal_hash = codec.ZERO_HASH
        self.edge = tiles.Edge()
        self._hashes: list[bytes] = []  # hashes of leaves that are not in the edge yet
        self._unsealed: set[bytes] = set()  # tags that got leaves after the last update of the map
        self._unknown: set[bytes] = set()  # tags whose head is not known
        self._missing = 0  # number of unreadable leaves not yet matched with a gap in a chain
        self.public: set[bytes] = set()

    @classmethod
    def after_trusted(cls, edge: tiles.Edge) -> "Replay":
        """Start after a trusted checkpoint, given the right edge of its tree.

        Chains from before the checkpoint exist, but their heads are unknown. So the first leaf of each chain after the
        checkpoint cannot be compared with an earlier one and is accepted, and map roots are not compared.
        """
        replay = cls(1)
        replay.size, replay.edge, replay._missing = edge.size, edge, edge.size
        return replay

    @classmethod
    def restore(
        cls, state: ReplayState, *, heads: MutableMapping[bytes, ChainHead], buckets: MutableMapping[int, bytes],
        top: bucketed.Top, start: int = 0, kept_from_ms: int = 0,
    ) -> "Replay":  # fmt: skip
        """Continue a replay from a saved state. It then owns *heads*, *buckets* and *top*, saved at the same moment.

        *start* and *kept_from_ms* may be later than when the state was saved, if the ledger has pruned more since.
        """
        replay = cls(1, start=start, kept_from_ms=kept_from_ms)
        replay.heads, replay.buckets, replay.top = heads, buckets, top
        replay.size, replay.time_ms, replay.edge = state.size, state.time_ms, state.edge
        replay.sealed_size, replay.seal_hash = state.sealed_size, state.seal_hash
        replay.public, replay._unsealed = set(state.public), set(state.unsealed)
        replay._unknown, replay._missing = set(state.unknown), state.missing
        return replay

    def state(self) -> ReplayState:
        """Return the state, for ``restore``. Call ``grow`` first, so that the edge covers every leaf."""
        assert not self._hashes, "the edge does not cover every leaf yet: call grow first"
        return ReplayState(
            size=self.size, time_ms=self.time_ms, sealed_size=self.sealed_size, seal_hash=self.seal_hash,
            edge=self.edge, missing=self._missing, public=frozenset(self.public),
            unsealed=frozenset(self._unsealed), unknown=frozenset(self._unknown),
        )  # fmt: skip

    @property
    def knows_all_heads(self) -> bool:
        """Whether every chain's head is known, so that map roots can be compared."""
        return not self._unknown and not self._missing

    def add(self, leaf: bytes, leaf_hash: bytes | None = None) -> Event | Seal:
        """Verify and add the next leaf; return it decoded. A refused leaf may update the map, but changes nothing else.

        Args:
            leaf_hash: the leaf's hash in the tree, if the caller has computed it already.

        Raises:
            ReplayError: the leaf breaks the rule.
        """
        try:
            decoded = codec.decode_leaf(leaf)
        except MalformedError as error:
            raise ReplayError(self.size, str(error)) from error
        if decoded.time_ms < self.time_ms:
            raise ReplayError(self.size, "time is earlier than that of the leaf before")
        if isinstance(decoded, Event):
            self._check_event(decoded)
            self._apply_event(decoded, codec.chain_hash(leaf))
        else:
            self._check_seal(decoded)
            self._apply_seal(codec.chain_hash(leaf))
        self.time_ms = decoded.time_ms
        self._append(leaf_hash or merkle.leaf_hash(leaf))
        return decoded

    def add_faulty(self, leaf: bytes, leaf_hash: bytes | None = None) -> Event | Seal | None:
        """Add a leaf that breaks the rule, so that the replay can continue; return it decoded, or None if malformed.

        Args:
            leaf_hash: the leaf's hash in the tree, if the bytes are damaged and so have another hash; otherwise None.
        """
        try:
            decoded = codec.decode_leaf(leaf)
        except MalformedError:
            self.skip_unreadable(merkle.leaf_hash(leaf) if leaf_hash is None else leaf_hash)
            return None
        # The chain's next leaf names the chain hash of the original leaf. If these bytes are damaged, that hash is
        # unknown. A leaf that is wrong but not damaged is itself the original.
        chain_hash = codec.chain_hash(leaf) if leaf_hash is None else b""
        if isinstance(decoded, Event):
            self._apply_event(decoded, chain_hash)
        else:
            if self.knows_all_heads:
                self._update_map()
            self._apply_seal(chain_hash)
        # INVARIANT: a damaged time that is too late must not make every later leaf a fault.
        self.time_ms = max(self.time_ms, decoded.time_ms) if leaf_hash is None else self.time_ms
        self._append(merkle.leaf_hash(leaf) if leaf_hash is None else leaf_hash)
        return decoded

    def skip_unreadable(self, leaf_hash: bytes) -> None:
        """Skip a leaf that cannot be read, of which only the hash in the tree is known."""
        self._missing += 1
        self._append(leaf_hash)

    def skip_pruned(self, leaf_hash: bytes) -> None:
        """Skip a pruned leaf, of which only the hash in the tree is known.

        Raises:
            ReplayError: no leaf may be pruned at this index.
        """
        if self.size >= self.start - 1:
            raise ReplayError(self.size, "leaf is missing where nothing is pruned")
        self.seal_hash = b""  # unknown, because the skipped leaf may be a seal
        self._append(leaf_hash)

    def grow(self) -> dict[tiles.Coordinates, bytes]:
        """Add the leaves since the last call to the tree's edge; return each tile that changed, with all its hashes.

        Until this call, the replay holds a hash of 32 bytes for each of these leaves.
        """
        self.edge, changed = self.edge.append(self._hashes)
        self._hashes = []
        return changed

    def root(self) -> bytes:
        """Return the root hash of the tree of all leaves so far."""
        self.grow()
        return self.edge.root()

    def map_root(self) -> bytes:
        """Return the root of the map as of the last seal."""
        return self.top.root()

    def _check_event(self, event: Event) -> None:
        if self.size == self.start - 1:
            raise ReplayError(self.size, "leaf before the start is not a seal")
        count, head, erased = self.heads.get(event.tag, _NO_HEAD)
        if event.seq == count + 1 and (event.prev == head or not head) and not erased:
            return
        if erased:
            raise ReplayError(self.size, "an entry follows an ERASURE")
        if self.size < self.start:
            # Leaves are pruned here, so a person's chain may have a gap after its first leaf.
            if event.seq <= count + 1 or event.tag in self.public or not count:
                raise ReplayError(self.size, f"seq is `{event.seq}` where its chain has `{count}` before it")
            return
        # If k seqs are missing, k of the unreadable leaves may be theirs. Each unreadable leaf explains one seq only.
        gap = event.seq - count - 1
        if 0 < gap <= self._missing:
            self._missing -= gap
            return
        if gap:
            raise ReplayError(self.size, f"seq is `{event.seq}` where its chain has `{count}` before it")
        raise ReplayError(self.size, "prev is not the chain hash of the chain's leaf before")

    def _apply_event(self, event: Event, chain_hash: bytes) -> None:
        self.heads[event.tag] = (event.seq, chain_hash, event.kind == EntryKind.ERASURE)
        self._unsealed.add(event.tag)
        if event.seq == 1 and event.kind not in PERSON_FIRST:
            self.public.add(event.tag)
        if self.size < self.start and len(self._unsealed) >= _MAX_UNSEALED:
            self._update_map()
        if not chain_hash:
            self._unknown.add(event.tag)
        elif self._unknown:
            self._unknown.discard(event.tag)

    def _check_seal(self, seal: Seal) -> None:
        if seal.covers != self.size:
            raise ReplayError(self.size, f"seal covers `{seal.covers}`")
        if self.sealed_size == self.size:
            raise ReplayError(self.size, "seal covers no new event")
        if seal.prev_seal != self.seal_hash and self.seal_hash:
            if not self._missing:
                raise ReplayError(self.size, "prev_seal is not the chain hash of the seal before")
            self._missing -= 1
        # INVARIANT: every leaf from kept_from_ms on comes after the start. Otherwise a ledger could hide recent leaves.
        if self.size == self.start - 1 and seal.time_ms >= self.kept_from_ms:
            raise ReplayError(self.size, "start comes after leaves that may not be pruned")
        if not self.knows_all_heads or self.size < self.start - 1:
            return
        if seal.tags != len(self.heads):
            raise ReplayError(self.size, f"seal counts `{seal.tags}` tags where there are `{len(self.heads)}`")
        self._update_map()
        if seal.map_root != self.top.root():
            raise ReplayError(self.size, "map root is not that of the chains so far")

    def _apply_seal(self, chain_hash: bytes) -> None:
        self.seal_hash, self.sealed_size = chain_hash, self.size + 1

    def _update_map(self) -> None:
        # For a seal with a wrong root, add updates the map and raises. The update by add_faulty then changes nothing.
        map_bits = self.top.map_bits
        changes = map_values(((tag, self.heads[tag]) for tag in self._unsealed), map_bits)
        roots: dict[int, bytes] = {}
        for number, values in changes.items():
            bucket = self.buckets[number] = bucketed.bucket_update(self.buckets.get(number, b""), values)
            root = bucketed.bucket_root(bucket, map_bits)
            assert root is not None, "a bucket that was updated is not empty"
            roots[number] = root
        if roots:
            self.top.update(roots)
        self._unsealed.clear()

    def _append(self, leaf_hash: bytes) -> None:
        self._hashes.append(leaf_hash)
        self.size += 1
