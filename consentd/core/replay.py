"""Replay a ledger from its first leaf: what the ledger itself does, an auditor does again.

The rule, leaf by leaf: exact length and known version; time never runs back; within each tag seq counts without a
gap, prev is the chain hash of the leaf before, ref is an earlier one, and nothing follows an ERASURE; each seal says
what it covers, names the seal before, how many tags there are, and the root of the map over all of them, computed
here anew. The first leaf that breaks it is the fault, and is named. Source: ledger-format.md, "Replay rule".

A verdict needs no more than ``add``. Who wants to know what else is wrong goes on behind a fault: ``resume`` takes a
bad leaf as it stands, ``miss`` passes over one that cannot be read. What follows from such a leaf alone is then not
held against the ones after it: a chain whose head is not known any more takes the next leaf's word for it, and map
roots are not compared until all heads are known again (``knows_all_heads``).

**A pruned ledger** is replayed from its first leaf too. Up to its *start*, a seal's end, some leaves are gone: ``skip``
takes the hash that the tree has in their place. What is kept of each chain there is its first leaf, its last, and a few
between, so the start's seal shows whether the heads are right; a chain that is not a person's has no gap.

Memory: about 0.35 kB a tag, and 96 bytes a tag in the buckets, plus 2^(map_bits + 6) bytes above them.
"""

from collections.abc import MutableMapping

from consentd.core import bucketed, codec, merkle, tiles
from consentd.core.codec import Event, Seal
from consentd.core.kinds import EntryKind
from consentd.core.replay_state import ChainHead, ReplayState, map_values
from consentd.errors import MalformedError, ProofError

_NO_HEAD: ChainHead = (0, codec.ZERO_HASH, False)
_MANY = 1 << 16  # tags that wait for the start's seal, before they are put into the map in advance


class ReplayError(ProofError):
    """Say which leaf broke the rule.

    Attributes:
        index: of that leaf, from 0.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"leaf `{index}`: {message}")
        self.index = index


class Replay:
    """The state of a ledger, made from its leaves alone. Owned by one thread.

    Attributes:
        size: leaves taken.
        time_ms: the last leaf's.
        heads: by tag where its chain stands. To be read only, but for who keeps them elsewhere from the beginning.
        buckets: by number the buckets of the map as of the last seal, likewise.
        top: the hashes above them, likewise.
        sealed_size: size at which the last seal was the last leaf; 0 before the first.
        seal_hash: chain hash of the last seal; zeros before the first.
        edge: the tree's right edge, without the leaves that ``grow`` has not hashed in yet.
        start, kept_from_ms: see ``__init__``; 0: nothing is pruned.
        public: tags of chains that are no person's. To be read only.
    """

    def __init__(self, map_bits: int = 14, *, start: int = 0, kept_from_ms: int = 0) -> None:
        """Begin with no leaf.

        Args:
            map_bits: divides the map; no root depends on it: about log2(tags) - 4 is quick.
            start: size up to which leaves may be skipped.
            kept_from_ms: the time before which the ledger says to have pruned; the start lies before it.
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
        self._hashes: list[bytes] = []  # of leaves that are not in the edge yet
        self._unsealed: set[bytes] = set()  # tags that the next seal must put into the map
        self._unknown: set[bytes] = set()  # tags whose head is not known
        self._missing = 0  # leaves passed over, whose chains have not shown themselves yet
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
        cls,
        state: ReplayState,
        *,
        heads: MutableMapping[bytes, ChainHead],
        buckets: MutableMapping[int, bytes],
        top: bucketed.Top,
        start: int = 0,
        kept_from_ms: int = 0,
    ) -> "Replay":
        """Continue a replay from a saved state.

        Args:
            heads, buckets, top: as they were when the state was saved. The replay owns them from now on.
            start, kept_from_ms: see ``__init__``. The ledger may have pruned more since the state was saved.
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
            size=self.size,
            time_ms=self.time_ms,
            sealed_size=self.sealed_size,
            seal_hash=self.seal_hash,
            edge=self.edge,
            public=frozenset(self.public),
            unsealed=frozenset(self._unsealed),
            unknown=frozenset(self._unknown),
            missing=self._missing,
        )

    @property
    def knows_all_heads(self) -> bool:
        """Whether every chain's head is known, so that map roots can be compared."""
        return not self._unknown and not self._missing

    def add(self, leaf: bytes) -> Event | Seal:
        """Take the next leaf, and return what it says. Where it raises, nothing has changed.

        Raises:
            ReplayError: the leaf breaks the rule.
        """
        try:
            decoded = codec.decode_leaf(leaf)
        except MalformedError as error:
            raise ReplayError(self.size, str(error)) from error
        if decoded.time_ms < self.time_ms:
            raise ReplayError(self.size, "time is earlier than the leaf's before")
        if isinstance(decoded, Event):
            self._check_event(decoded)
            self._take_event(decoded, codec.chain_hash(leaf))
        else:
            self._check_seal(decoded)
            self._take_seal(codec.chain_hash(leaf))
        self.time_ms = decoded.time_ms
        self._count(merkle.leaf_hash(leaf))
        return decoded

    def add_faulty(self, leaf: bytes, leaf_hash: bytes | None = None) -> Event | Seal | None:
        """Take a leaf that is wrong, as it stands, and go on behind it; return what it says, if anything.

        Args:
            leaf_hash: what the tree has in its place, where that is something else.
        """
        try:
            decoded = codec.decode_leaf(leaf)
        except MalformedError:
            self.skip_unreadable(merkle.leaf_hash(leaf) if leaf_hash is None else leaf_hash)
            return None
        if isinstance(decoded, Event):
            # Damaged bytes hash to another head than the leaf after it names; a leaf that is merely wrong does not.
            self._take_event(decoded, codec.chain_hash(leaf) if leaf_hash is None else b"")
        else:
            self._take_seal(codec.chain_hash(leaf) if leaf_hash is None else b"", update=self.knows_all_heads)
        # INVARIANT: a time that was wrong ahead must not condemn every leaf behind it.
        self.time_ms = max(self.time_ms, decoded.time_ms) if leaf_hash is None else self.time_ms
        self._count(merkle.leaf_hash(leaf) if leaf_hash is None else leaf_hash)
        return decoded

    def skip_unreadable(self, leaf_hash: bytes) -> None:
        """Pass over a leaf of which nothing is known but its hash in the tree."""
        self._missing += 1
        self._count(leaf_hash)

    def skip_pruned(self, leaf_hash: bytes) -> None:
        """Pass over a pruned leaf.

        Args:
            leaf_hash: what the tree has in its place.

        Raises:
            ReplayError: nothing is pruned here.
        """
        if self.size >= self.start - 1:
            raise ReplayError(self.size, "leaf is missing where nothing is pruned")
        self.seal_hash = b""  # it may have been a seal
        self._count(leaf_hash)

    def grow(self) -> dict[tiles.Coordinates, bytes]:
        """Hash the leaves taken since the last call into the tree; return each tile that changed, as it is now.

        Their hashes wait in memory until then, 32 bytes each.
        """
        self.edge, changed = self.edge.append(self._hashes)
        self._hashes = []
        return changed

    def root(self) -> bytes:
        """Return the root hash of all leaves taken."""
        self.grow()
        return self.edge.root()

    def map_root(self) -> bytes:
        """Return the root of the map as of the last seal."""
        return self.top.root()

    def _check_event(self, event: Event) -> None:
        if self.size == self.start - 1:
            raise ReplayError(self.size, "what is kept does not start behind a seal")
        count, head, erased = self.heads.get(event.tag, _NO_HEAD)
        if event.seq == count + 1 and (event.prev == head or not head) and not erased:
            return
        if erased:
            raise ReplayError(self.size, "an entry follows an ERASURE")
        if self.size < self.start:
            self._check_kept(event, count)
            return
        # Leaves passed over explain a gap of as many. Their number only falls, so no gap is excused twice.
        gap = event.seq - count - 1
        if 0 < gap <= self._missing:
            self._missing -= gap
            return
        if gap:
            raise ReplayError(self.size, f"seq is `{event.seq}` where its chain has `{count}` before it")
        raise ReplayError(self.size, "prev is not the chain hash of the chain's leaf before")

    def _check_kept(self, event: Event, count: int) -> None:
        """Check an event before the start that does not follow the one kept before it."""
        if event.seq <= count + 1 or event.tag in self.public or not count:
            raise ReplayError(self.size, f"seq is `{event.seq}` where its chain keeps `{count}` before it")

    def _take_event(self, event: Event, chain_hash: bytes) -> None:
        self.heads[event.tag] = (event.seq, chain_hash, event.kind == EntryKind.ERASURE)
        self._unsealed.add(event.tag)
        if event.seq == 1 and event.kind != EntryKind.ENROL:
            self.public.add(event.tag)
        if self.size < self.start and len(self._unsealed) >= _MANY:
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
        # INVARIANT: the start lies before every leaf that is kept for its time, or recent ones could be hidden.
        if self.size == self.start - 1 and seal.time_ms >= self.kept_from_ms:
            raise ReplayError(self.size, "start lies behind leaves that are kept for their time")
        if not self.knows_all_heads or self.size < self.start - 1:
            return
        if seal.tags != len(self.heads):
            raise ReplayError(self.size, f"seal counts `{seal.tags}` tags where there are `{len(self.heads)}`")
        self._update_map()
        if seal.map_root != self.top.root():
            raise ReplayError(self.size, "map root is not that of the chains as they stand")

    def _take_seal(self, chain_hash: bytes, *, update: bool = False) -> None:
        if update:
            self._update_map()
        self.seal_hash = chain_hash
        self.sealed_size = self.size + 1

    def _update_map(self) -> None:
        # Doing it twice, for a seal that turns out wrong and is then resumed, changes nothing the second time.
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

    def _count(self, leaf_hash: bytes) -> None:
        self._hashes.append(leaf_hash)
        self.size += 1
