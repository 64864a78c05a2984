"""Read entries, and prove them: plan which tiles a proof needs, read these tiles in one call, compute the proof.

Every function but ``prove_heads`` may run on any thread while the sequencer writes. Leaves and statements never change,
and a tile only grows at its end, so entries that a checkpoint covers read the same until they are pruned or erased. The
map changes with each seal, so ``prove_heads`` must run on the sequencer's thread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from consentd.core import checkpoint, codec, merkle, tiles
from consentd.errors import ConsentdError, CorruptionError, InvalidError, NotFoundError, ProofError, StorageError
from consentd.ledger import layout
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.store import Store

T = TypeVar("T")
Tiles = Mapping[tuple[int, int], bytes]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A stored entry of a chain. ``row`` is its statement row, plaintext or encrypted; None if it was deleted."""

    index: int
    leaf: bytes
    event: codec.Event
    row: bytes | None


def read_tiles(store: Store, plan: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Return the tiles at these (level, n), all read in one call. Missing tiles are left out."""
    rows = store.multi_get([layout.tile_key(level, n) for level, n in plan])
    return {coordinates: row for coordinates, row in zip(plan, rows, strict=True) if row is not None}


def read_leaf(store: Store, index: int) -> bytes:
    """Return the leaf at *index*. Raises NotFoundError if the ledger has no such leaf."""
    leaf = store.get(layout.leaf_key(index))
    if leaf is None:
        raise NotFoundError(f"no leaf at index `{index}`")
    return leaf


def leaf_hash_at(store: Store, index: int) -> bytes:
    """Return the hash of leaf *index*, read from a tile because the leaf may be pruned. Raises as ``read_leaf``."""
    n, at = divmod(index, tiles.TILE_WIDTH)
    leaf_hash = (store.get(layout.tile_key(0, n)) or b"")[at * 32 : at * 32 + 32]
    if len(leaf_hash) != 32:
        raise NotFoundError(f"no leaf at index `{index}`")
    return leaf_hash


def read_leaves(store: Store, start: int, end: int, *, with_gaps: bool = False) -> list[bytes]:
    """Return the leaves in [*start*, *end*). With *with_gaps*, each pruned leaf is ``b""``.

    Raises:
        CorruptionError: a leaf is missing, and *with_gaps* is false.
    """
    found = dict(scan_leaves(store, start, end))
    if not with_gaps and len(found) != end - start:
        missing = next(index for index in range(start, end) if index not in found)
        raise CorruptionError(f"leaf is missing at index {missing}; see ops/RUNBOOK.md, `ledger refuses to open`")
    return [found.get(index, b"") for index in range(start, end)]


def verify_leaves(store: Store, start: int, end: int) -> None:
    """Verify that the stored leaves in [*start*, *end*) have the hashes that the tiles have. Takes 1.5 µs a leaf.

    Raises:
        CorruptionError: a leaf is missing or has another hash; the message names its index.
    """
    for n in range(start // tiles.TILE_WIDTH, -(-end // tiles.TILE_WIDTH)):
        first, last = max(start, n * tiles.TILE_WIDTH), min(end, (n + 1) * tiles.TILE_WIDTH)
        tile = store.get(layout.tile_key(0, n)) or b""
        hashes = [merkle.leaf_hash(leaf) for leaf in read_leaves(store, first, last)]
        for index, found in enumerate(hashes, first):
            at = index % tiles.TILE_WIDTH * merkle.HASH_SIZE
            if tile[at : at + merkle.HASH_SIZE] != found:
                raise CorruptionError(f"leaf at index {index} is not what the tree has")


def scan_leaves(store: Store, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (index, leaf) of the leaves in [*start*, *end*). Pruned leaves are left out."""
    rows = store.scan(layout.leaf_key(start), layout.leaf_key(end))
    return ((layout.decode_u64(key), leaf) for key, leaf in rows)


def root_at(store: Store, size: int) -> bytes:
    """Return the root of the tree of the first *size* leaves."""
    return _finish(lambda found: tiles.root(size, found), store, tiles.plan_root(size))


def prove_inclusion(store: Store, index: int, size: int) -> list[bytes]:
    """Return the inclusion proof of leaf *index* in the tree of *size* leaves.

    Raises:
        InvalidError: *index* is not below *size*.
    """
    if not 0 <= index < size:
        raise InvalidError(f"index is not in the tree: `{index}` of `{size}`")
    return _finish(lambda found: tiles.prove_inclusion(index, size, found), store, tiles.plan_inclusion(index, size))


def prove_consistency(store: Store, first: int, second: int) -> list[bytes]:
    """Return the proof that the tree of *first* leaves is a prefix of the tree of *second* leaves.

    Raises:
        InvalidError: 1 ≤ *first* ≤ *second* does not hold.
    """
    if not 1 <= first <= second:
        raise InvalidError(f"tree sizes are not in order: `{first}` and `{second}`")
    plan = tiles.plan_consistency(first, second)
    return _finish(lambda found: tiles.prove_consistency(first, second, found), store, plan)


def read_entry(store: Store, tag: bytes, seq: int) -> StoredEntry:
    """Return entry *seq* of a chain. The three point reads take a third of the time of ``read_chain``.

    Raises:
        NotFoundError: the chain has no such entry.
        CorruptionError: the leaf at the entry's index is another entry.
    """
    index_row = store.get(layout.index_key(tag, seq))
    if index_row is None:
        raise NotFoundError(f"chain has no entry `{seq}`")
    index = layout.decode_u64(index_row)
    return _entry(store, tag, seq, index, store.get(layout.leaf_key(index)), store.get(layout.statement_key(tag, seq)))


def read_chain(
    store: Store, tag: bytes, first: int, last: int = codec.MAX_SEQ, page: int = 256
) -> Iterator[StoredEntry]:
    """Yield entries *first* … *last* of a chain, in order; fewer where the chain ends before *last*.

    Reads *page* entries at a time, so that a long chain takes no more memory than a short one.

    Raises:
        CorruptionError: an entry between two others is missing, or the leaf at an entry's index is another entry.
        StorageError: an entry was pruned during the read.
    """
    while first <= last:
        end = min(last, first + page - 1)
        for entry in read_chain_with_gaps(store, tag, first, end):
            if entry.event.seq != first:
                raise _broken(store, entry.index)
            yield entry
            first += 1
        if first <= end:
            # The chain ends here, or an entry at the end of the page is missing.
            later = store.scan(layout.index_key(tag, first), layout.index_key(tag, last + 1), limit=1)
            for _, row in later:
                raise _broken(store, layout.decode_u64(row))
            return


def _broken(store: Store, index: int) -> ConsentdError:
    """Return the error for a missing entry of a chain. In a pruned store, a pruning deleted it during the read."""
    if store.get(layout.PRUNED) is not None:
        return StorageError("entries were pruned while they were read; repeat the call")
    return CorruptionError(f"chain is broken at index {index}")


def read_chain_with_gaps(store: Store, tag: bytes, first: int = 1, last: int = codec.MAX_SEQ) -> Iterator[StoredEntry]:
    """Yield entries *first* … *last* of a chain, in order. Pruned entries are left out. Raises as ``read_chain``."""
    start, end = layout.index_key(tag, first), layout.index_key(tag, last + 1)
    indexes = [(layout.decode_u64(key), layout.decode_u64(row)) for key, row in store.scan(start, end)]
    stored = store.scan(layout.statement_key(tag, first), layout.statement_key(tag, last + 1))
    rows = {layout.decode_u64(key): row for key, row in stored}
    leaves = store.multi_get([layout.leaf_key(index) for _, index in indexes])
    for (seq, index), leaf in zip(indexes, leaves, strict=True):
        yield _entry(store, tag, seq, index, leaf, rows.get(seq))


def _entry(store: Store, tag: bytes, seq: int, index: int, leaf: bytes | None, row: bytes | None) -> StoredEntry:
    """Verify that *leaf* is entry *seq* of the chain of *tag*, and return the entry with its statement row."""
    if leaf is None:
        raise _broken(store, index)
    event = codec.decode_leaf(leaf)
    if not isinstance(event, codec.Event) or event.tag != tag or event.seq != seq:
        raise CorruptionError(f"chain is broken at index {index}")
    return StoredEntry(index, leaf, event, row)


def read_chain_back(store: Store, tag: bytes, last: int, page: int = 64) -> Iterator[StoredEntry]:
    """Yield the entries of a chain from *last* down, until one is pruned. Reads *page* entries at a time.

    Raises:
        CorruptionError: an entry is missing, though nothing was pruned; or the leaf at an index is another entry.
    """
    while last > 0:
        first = max(1, last - page + 1)
        for entry in reversed(list(read_chain_with_gaps(store, tag, first, last))):
            if entry.event.seq != last:
                break
            yield entry
            last -= 1
        if last >= first:
            if store.get(layout.PRUNED) is None:
                raise CorruptionError(f"chain has lost an entry: seq `{last}`")
            return


@dataclass(frozen=True, slots=True)
class Reference:
    """An entry that refers to another one: its seq, kind and index. Source: ``layout.reference_row``."""

    seq: int
    kind: int
    index: int


def scan_references(
    store: Store, tag: bytes, ref: int, *, below: int = codec.MAX_SEQ, reverse: bool = False
) -> Iterator[Reference]:
    """Yield the entries of a chain that refer to entry *ref* and have a seq less than *below*, by seq.

    *ref* 0: the GRANT entries of the chain, and its AUTHORITY entries that end none. Only kinds of ``REFERRING`` are
    found.
    """
    start, end = layout.reference_key(tag, ref, 0), layout.reference_key(tag, ref, below)
    for key, row in store.scan(start, end, reverse=reverse):
        yield Reference(layout.decode_u64(key), *layout.REFERENCE.unpack(row))


def time_at(store: Store, index: int) -> int:
    """Return the time of the leaf at *index*, UTC ms. Raises as ``read_leaf``."""
    return codec.decode_leaf(read_leaf(store, index)).time_ms


def first_index_since(store: Store, time_ms: int, low: int, high: int) -> int:
    """Return the index of the first leaf of *time_ms* or later in [*low*, *high*); *high* if there is none.

    Raises:
        NotFoundError: a leaf of that range is pruned.
    """
    while low < high:
        middle = (low + high) // 2
        if time_at(store, middle) < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def first_seq_since(store: Store, tag: bytes, time_ms: int, count: int) -> int:
    """Return the seq of the first stored entry of *time_ms* or later, of a chain of *count* entries; else count + 1.

    An entry that is pruned counts as earlier.
    """
    low, high = 1, count + 1
    while low < high:
        middle = (low + high) // 2
        row = store.get(layout.index_key(tag, middle))
        leaf = None if row is None else store.get(layout.leaf_key(layout.decode_u64(row)))
        if leaf is None or codec.decode_leaf(leaf).time_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def is_plaintext(entry: StoredEntry) -> bool:
    """Report whether an entry's statement is stored unencrypted, as in public chains."""
    return entry.row is not None and entry.row[:1] == bytes((layout.PLAINTEXT,))


def open_entry(vault: Vault, entry: StoredEntry) -> tuple[bytes, bytes] | None:
    """Return (salt, statement) of an entry; None if the statement was deleted, or its data key was destroyed.

    Raises:
        CorruptionError: the stored statement is not the one that the leaf commits to.
    """
    try:
        return None if entry.row is None else vault.decrypt(entry.event, entry.row)
    except NotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class HeadProofs:
    """The heads of some chains at one seal, with proofs. The seal is the last leaf of the tree of *size* leaves.

    Attributes:
        chains: tag → (count, head, map proof); count is 0 if the map does not have the tag.
    """

    size: int
    seal: bytes
    chains: dict[bytes, tuple[int, bytes, bytes]]


def head_at(store: Store, tag: bytes, size: int) -> tuple[int, bytes]:
    """Return (count, head) of a chain in the tree of the first *size* leaves. Reads the index of each later entry."""
    for key, row in store.scan(layout.index_key(tag, 1), layout.index_key(tag, codec.MAX_SEQ), reverse=True):
        index = layout.decode_u64(row)
        if index < size:
            return layout.decode_u64(key), codec.chain_hash(read_leaf(store, index))
    return 0, codec.ZERO_HASH


def prove_heads(ledger: Ledger, tags: Sequence[bytes], size: int | None = None) -> HeadProofs:
    """Prove the heads of these chains at a seal. Must run on the sequencer's thread, between two batches.

    Args:
        size: size of the tree whose last leaf is the seal; None for the last seal.

    Raises:
        NotFoundError: the ledger has no seal.
        StorageError: ``map.history`` does not hold that seal's map.
        CorruptionError: the map contradicts the chain heads.
    """
    last = ledger.state.sealed_size
    if last == 0:
        raise NotFoundError("ledger has no seal yet")
    size = last if size is None else size
    chains: dict[bytes, tuple[int, bytes, bytes]] = {}
    for tag in tags:
        count, head = ledger.sealed_head(tag) if size == last else head_at(ledger.store, tag, size)
        present, proof = ledger.map.prove(tag, None if size == last else size)
        if present != (count > 0):
            raise CorruptionError("map and chain heads disagree about a tag")
        chains[tag] = (count, head, proof)
    return HeadProofs(size, read_leaf(ledger.store, size - 1), chains)


def proof_bundle(store: Store, index: int, point: checkpoint.Checkpoint, note: bytes) -> bytes:
    """Return the .tlog-proof of the leaf at *index* under a published checkpoint that covers it."""
    proof = prove_inclusion(store, index, point.size)
    return checkpoint.format_proof(checkpoint.ProofBundle(b"", index, tuple(proof), note))


def _finish(finish: Callable[[Tiles], T], store: Store, plan: list[tuple[int, int]]) -> T:
    try:
        return finish(read_tiles(store, plan))
    except ProofError as error:
        raise CorruptionError(f"tree is not whole: {error}") from error
