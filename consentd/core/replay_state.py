"""Save the state of a ``Replay`` as bytes, so that the replay can be continued later.

``Replay.state`` returns a ``ReplayState``, and ``Replay.restore`` continues from one. This value lacks the chain heads
and the map over them, which grow with the number of tags. The caller stores the heads in a file
(``encode_heads``; later ``build_map`` computes the map again), or heads and buckets in a database (``encode_head``, a
row for each tag; later ``bucketed.Top.from_buckets`` computes the hashes above the buckets).

Only the program that writes such a file reads it. A damaged or unknown file can always be replaced by a new replay from
leaf 0. Integers are big-endian::

    state  = "consentd/replay-state/v1\\0" ‖ size u64 ‖ time_ms u64 ‖ sealed_size u64 ‖ missing u64
             ‖ list of seal_hash ‖ list of rows ‖ list of peaks ‖ list of public ‖ list of unsealed ‖ list of unknown
    list   = number of items u32 ‖ (length u16 ‖ bytes)*
    head   = count u64 ‖ erased u8 ‖ chain hash[32]            zeros for a chain hash that is not known
    heads  = (tag[32] ‖ head)*
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error

from consentd.core import bucketed, codec
from consentd.core.merkle import HASH_SIZE
from consentd.core.tiles import TILE_HEIGHT, TILE_WIDTH, Edge
from consentd.errors import MalformedError

ChainHead = tuple[int, bytes, bool]
"""The end of a chain: its number of leaves, the last leaf's chain hash (b"": not known), whether that is an ERASURE."""

_MAGIC = b"consentd/replay-state/v1\0"
_NUMBERS = Struct(">QQQQ")
_HEAD = Struct(">Q?32s")
_ITEMS = Struct(">I")
_LENGTH = Struct(">H")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayState:
    """Everything a ``Replay`` holds except the chain heads, the map, *start* and *kept_from_ms*.

    Attributes:
        size, time_ms, sealed_size, seal_hash, edge, public: as in ``Replay``.
        unsealed: tags that have leaves after the last seal.
        unknown: tags whose head is not known, because a leaf was damaged.
        missing: number of unreadable leaves not yet matched with a gap in a chain.
    """

    size: int
    time_ms: int
    sealed_size: int
    seal_hash: bytes
    edge: Edge
    public: frozenset[bytes] = frozenset()
    unsealed: frozenset[bytes] = frozenset()
    unknown: frozenset[bytes] = frozenset()
    missing: int = 0


def encode_state(state: ReplayState) -> bytes:
    """Encode a state; equal states have equal bytes."""
    sets = map(sorted, (state.public, state.unsealed, state.unknown))
    lists = ((state.seal_hash,), state.edge.rows, state.edge.peaks, *sets)
    numbers = _NUMBERS.pack(state.size, state.time_ms, state.sealed_size, state.missing)
    return b"".join([_MAGIC, numbers, *map(_encode_list, lists)])


def decode_state(data: bytes) -> ReplayState:
    """Decode a state.

    Raises:
        MalformedError: the bytes are not what ``encode_state`` returns for any state. A changed number or hash is not
            detected, so the caller stores a checksum.
    """
    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + _NUMBERS.size:
        raise MalformedError("replay state is cut short or of another version")
    size, time_ms, sealed_size, missing = _NUMBERS.unpack_from(data, len(_MAGIC))
    at = len(_MAGIC) + _NUMBERS.size
    seal_hash, at = _decode_list(data, at)
    rows, at = _decode_list(data, at)
    peaks, at = _decode_list(data, at)
    public, at = _decode_list(data, at)
    unsealed, at = _decode_list(data, at)
    unknown, at = _decode_list(data, at)
    state = ReplayState(
        size=size, time_ms=time_ms, sealed_size=sealed_size, seal_hash=b"".join(seal_hash), missing=missing,
        edge=Edge(size, rows, peaks),
        public=frozenset(public), unsealed=frozenset(unsealed), unknown=frozenset(unknown),
    )  # fmt: skip
    if encode_state(state) != data:
        raise MalformedError("replay state is not in its one encoding")
    _check(state)
    return state


def encode_head(head: ChainHead) -> bytes:
    """Encode the head of a chain to 41 bytes."""
    count, chain_hash, erased = head
    return _HEAD.pack(count, erased, chain_hash)


def decode_head(data: bytes) -> ChainHead:
    """Decode the head of a chain; MalformedError unless it has 41 bytes."""
    if len(data) != _HEAD.size:
        raise MalformedError("chain head is not 41 bytes long")
    count, erased, chain_hash = _HEAD.unpack(data)
    return count, b"" if chain_hash == codec.ZERO_HASH else chain_hash, erased


def encode_heads(heads: Mapping[bytes, ChainHead]) -> Iterator[bytes]:
    """Yield the encoded heads of all chains, 73 bytes for each chain, to be written one after another to a file."""
    for tag, head in heads.items():
        yield tag + encode_head(head)


def decode_heads(data: bytes | memoryview) -> dict[bytes, ChainHead]:
    """Decode the heads of all chains; MalformedError if the bytes end within a head."""
    width = HASH_SIZE + _HEAD.size
    if len(data) % width:
        raise MalformedError("chain heads are cut short")
    return {
        bytes(data[at : at + HASH_SIZE]): decode_head(bytes(data[at + HASH_SIZE : at + width]))
        for at in range(0, len(data), width)
    }


def build_map(heads: Mapping[bytes, ChainHead], map_bits: int) -> tuple[dict[int, bytes], bucketed.Top]:
    """Compute the map over these chain heads: its buckets by number, and the hashes above them.

    The heads must be those of a replay whose last leaf is a seal. Between two seals, the map lacks the newest heads.
    """
    buckets: dict[int, bytes] = {}
    for number, values in map_values(heads.items(), map_bits).items():
        buckets[number] = bucketed.bucket_update(b"", values)
    return buckets, bucketed.Top.from_buckets(map_bits, buckets.items())


def map_values(heads: Iterable[tuple[bytes, ChainHead]], map_bits: int) -> dict[int, dict[bytes, bytes]]:
    """Return the map's values for these tags: bucket number → map key → map value."""
    values: dict[int, dict[bytes, bytes]] = {}
    for tag, (count, chain_hash, _) in heads:
        key = codec.map_key(tag)
        values.setdefault(bucketed.bucket_of(key, map_bits), {})[key] = codec.map_value(tag, count, chain_hash)
    return values


def _check(state: ReplayState) -> None:
    """Verify the lengths that ``Edge`` and ``Replay`` rely on; MalformedError if one is wrong."""
    size, edge = state.size, state.edge
    peaks = [HASH_SIZE if size >> height & 1 else 0 for height in range(size.bit_length())]
    rows = [
        (size >> (TILE_HEIGHT * level)) % TILE_WIDTH * HASH_SIZE
        for level in range(-(-size.bit_length() // TILE_HEIGHT))
    ]
    if [len(peak) for peak in edge.peaks] != peaks or [len(row) for row in edge.rows] != rows:
        raise MalformedError("replay state has a tree edge that does not fit its size")
    if len(state.seal_hash) not in (0, HASH_SIZE) or state.sealed_size > size:
        raise MalformedError("replay state has an impossible seal")
    if any(len(tag) != HASH_SIZE for tag in (*state.public, *state.unsealed, *state.unknown)):
        raise MalformedError("replay state has a tag that is not 32 bytes long")


def _encode_list(items: Iterable[bytes]) -> bytes:
    parts = [_LENGTH.pack(len(item)) + item for item in items]
    return _ITEMS.pack(len(parts)) + b"".join(parts)


def _decode_list(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    """Decode a list that begins at offset *at*; return its items and the offset of its end."""
    items: list[bytes] = []
    try:
        (count,) = _ITEMS.unpack_from(data, at)
        at += _ITEMS.size
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size + length
            items.append(data[at - length : at])
    except struct_error:
        raise MalformedError("replay state is cut short") from None
    return tuple(items), at
