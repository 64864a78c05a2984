"""Measure the map of all tags: bulk build, updates with cold reads, memory, the time to open it.

The store is built in one process and measured in others, so that the memory is only the map's and no page was read
before. *n* determines tag *n*, so there is no list of tags in memory. The result is checked: random tags, old and new,
are proven against the root with the values written last, and the root of a small map is compared with its definition.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.apart import Opened, drop_pages, own_bytes, peak_bytes, reset_peak, run_apart
from benchmarks.report import Row, spread
from consentd.core import codec, patricia
from consentd.core.merkle import EMPTY_ROOT
from consentd.ledger.map import TagMap
from consentd.store import Batch
from consentd.store.rocks import RocksStore

BATCHES = (16, 100, 400)
NEW_SHARE = 0.1
"""Share of the tags of a batch that are not in the map yet."""
LOAD_BATCH = 100_000
PROVEN = 500
NAIVE_TAGS = 100_000
"""Up to how many tags the root is compared with the definition, which is slow."""
CACHE_MB = 256
"""The store's block cache: the daemon's default."""
SMALL_CACHE_MB = 8
"""The block cache while memory is measured: it is no part of the map, so it is kept small."""


@dataclass(frozen=True, slots=True)
class Updated:
    """Seconds that batches of one size took: all, the reads alone, and the synced writes alone."""

    whole_s: list[float]
    read_s: list[float]
    write_s: list[float]


class TimedStore(RocksStore):
    """A store that adds up how long its reads of buckets take."""

    __slots__ = ("read_s",)
    read_s: float

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read, and count the time."""
        started = time.perf_counter()
        values = super().multi_get(keys)
        self.read_s += time.perf_counter() - started
        return values


def natural_bits(tags: int) -> int:
    """Return the map bits that make buckets of up to 16 tags."""
    return max(4, (max(1, tags // 16) - 1).bit_length())


def measure_map(directory: Path, *, tags: int, batches: int, map_bits: int | None = None) -> list[Row]:
    """Measure a map of *tags* tags with *map_bits*; None: the number that suits the tags."""
    bits = natural_bits(tags) if map_bits is None else map_bits
    shutil.rmtree(directory, ignore_errors=True)
    build_s = run_apart(_build, directory, tags, bits)
    at = f"{tags:,} tags, {bits} bits"
    opened = [run_apart(_open, directory, bits) for _ in range(3)]
    # Pages that nothing was written to yet are not the process's: a small map may show as none.
    memory = max(64 << bits, median(one.bytes for one in opened))
    rows = [
        Row(case="map", name=f"built, {at}", value=tags / build_s, unit="/s", boundary="in process, synced",
            note=f"{build_s:.1f} s through TagMap.update, sorted by key, {LOAD_BATCH:,} a batch",
            samples=[build_s], sample_unit="s"),
        Row(case="map", name=f"opened, {at}", value=median(one.seconds for one in opened), unit="s", at_most=3,
            boundary="in process, files not in memory", samples=[one.seconds for one in opened], sample_unit="s",
            note=f"{1 << bits:,} bucket roots read and all above them hashed; "
                 f"{max(one.peak_bytes for one in opened) / 2**20:.0f} MiB at the peak"),
        Row(case="map", name=f"memory, {at}", value=memory / tags, unit="bytes a tag",
            at_most=8 if tags >= 1_000_000 and bits <= natural_bits(tags) else None, boundary="in process",
            samples=[one.bytes for one in opened],
            sample_unit="bytes", note=f"{memory / 2**20:.1f} MiB, growth of the process; "
            f"{64 << bits >> 10:,} KiB by the formula; the store's cache, {SMALL_CACHE_MB} MiB at most here, is in it"),
    ]  # fmt: skip
    for size in BATCHES:
        if size > tags:
            continue
        updated = run_apart(_update, directory, tags, bits, size, batches)
        read, written = (sum(part) / sum(updated.whole_s) for part in (updated.read_s, updated.write_s))
        rows.append(
            Row(
                case="map",
                name=f"updates of {size}, {at}",
                value=size / median(updated.whole_s),
                unit="/s",
                at_least=_bar(tags, size),
                boundary="in process, synced, cold reads",
                note=f"a batch {spread(updated.whole_s)}, {read:.0%} of it reads, {written:.0%} the synced write; "
                f"{NEW_SHARE:.0%} new tags; {PROVEN} proofs verified",
                samples=updated.whole_s,
                sample_unit="s per batch",
            )
        )
    shutil.rmtree(directory)
    return rows


def _bar(tags: int, size: int) -> float | None:
    if size < 100 or tags < 1_000_000:
        return None
    return 4_000 if tags >= 10_000_000 else 8_000


def tag_of(number: int) -> bytes:
    """Return tag *number*, 32 bytes."""
    return sha256(b"tag %d" % number).digest()


def _build(directory: Path, tags: int, bits: int) -> float:
    """Build the map from tags sorted by key, so that each bucket is written once; return the seconds after sorting."""
    ordered = sorted(codec.map_key(tag_of(number)) + number.to_bytes(8) for number in range(tags))
    store = RocksStore.open(directory, block_cache_mb=CACHE_MB)
    tag_map = TagMap(store, bits)
    started = time.perf_counter()
    for first in range(0, tags, LOAD_BATCH):
        part = [int.from_bytes(one[32:]) for one in ordered[first : first + LOAD_BATCH]]
        batch = Batch()
        tag_map.update({tag_of(number): (1, _head(number, 0)) for number in part}, batch)
        store.write(batch)
    seconds = time.perf_counter() - started
    if tags <= NAIVE_TAGS:
        pairs = {codec.map_key(tag): codec.map_value(tag, 1, _head(number, 0))
                 for number, tag in ((number, tag_of(number)) for number in range(tags))}  # fmt: skip
        assert tag_map.root() == naive_root(sorted(pairs.items())), "the root is not the definition's"
    store.compact_ranges([(b"", None)])
    store.close()
    return seconds


def _open(directory: Path, bits: int) -> Opened:
    drop_pages(directory)
    started = time.perf_counter()
    store = RocksStore.open(directory, create=False, block_cache_mb=SMALL_CACHE_MB)
    store_s = time.perf_counter() - started
    before = own_bytes()
    reset_peak()
    started = time.perf_counter()
    tag_map = TagMap(store, bits)
    opened = Opened(store_s, time.perf_counter() - started, own_bytes() - before, peak_bytes() - before)
    assert tag_map.root() != EMPTY_ROOT, "the map was opened, and is not empty"
    store.close()
    return opened


def _update(directory: Path, tags: int, bits: int, size: int, batches: int) -> Updated:
    random = Random(size)
    drop_pages(directory)
    store = TimedStore.open(directory, create=False, block_cache_mb=CACHE_MB)
    tag_map = TagMap(store, bits)
    root = tag_map.root()
    new = max(1, round(size * NEW_SHARE))
    # Batches of another size have added tags of theirs: these are new to all.
    next_new = tags * (2 + size)
    expected: dict[int, tuple[int, bytes]] = {}
    updated = Updated([], [], [])
    for number_of_batch in range(1, batches + 1):
        numbers = [*random.sample(range(tags), size - new), *range(next_new, next_new + new)]
        next_new += new
        heads = {number: (number_of_batch, _head(number, number_of_batch)) for number in numbers}
        changed = {tag_of(number): head for number, head in heads.items()}
        store.read_s = 0.0
        started = time.perf_counter()
        batch = Batch()
        tag_map.update(changed, batch)
        root = tag_map.root()
        synced = time.perf_counter()
        store.write(batch)
        ended = time.perf_counter()
        updated.whole_s.append(ended - started)
        updated.read_s.append(store.read_s)
        updated.write_s.append(ended - synced)
        expected.update(heads)
    for number in random.sample(sorted(expected), min(PROVEN, len(expected))):
        tag = tag_of(number)
        present, proof = tag_map.prove(tag)
        assert present, "a tag that was written is in the map"
        patricia.verify_presence(root, codec.map_key(tag), codec.map_value(tag, *expected[number]), proof)
    absent = tag_of(next_new)
    present, proof = tag_map.prove(absent)
    assert not present, "a tag that was never written is not in the map"
    patricia.verify_absence(root, codec.map_key(absent), proof)
    assert TagMap(store, bits).root() == root, "the map opened again is the one that was written"
    store.close()
    return updated


def _head(number: int, number_of_batch: int) -> bytes:
    return sha256(b"head %d %d" % (number, number_of_batch)).digest()


def naive_root(pairs: list[tuple[bytes, bytes]], bit: int = 0) -> bytes:
    """Return the root over sorted (key, value) pairs by the format's definition: recursively, without buckets."""
    if not pairs:
        return sha256(b"").digest()
    if len(pairs) == 1:
        key, value = pairs[0]
        return sha256(b"\x00\x20" + key + b"\x20" + value).digest()
    while True:
        right = [pair for pair in pairs if pair[0][bit // 8] >> (7 - bit % 8) & 1]
        if 0 < len(right) < len(pairs):
            break
        bit += 1
    left = pairs[: len(pairs) - len(right)]
    number = bytes([bit]) if bit < 128 else bytes([bit & 127 | 128, 1])
    return sha256(b"\x01" + number + naive_root(left, bit + 1) + naive_root(right, bit + 1)).digest()
