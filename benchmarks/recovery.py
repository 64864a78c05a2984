"""Measure the start of a ledger with millions of entries: what ``open_ledger`` reads, how long it takes, its memory.

The ledger is built with the append batches and seals that the daemon uses, but very large ones. Each entry has its own
tag, and tags come in the order of their map keys, so that each bucket of the map is written once. The statements are
random bytes as long as an encrypted grant, nobody signed them, and there is neither vault nor table. Opening a ledger
reads none of these; the rows that it reads are those of any ledger with the same leaves.
"""

import shutil
import sys
import time
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.apart import Opened, drop_pages, own_bytes, peak_bytes, reset_peak, run_apart
from benchmarks.report import Row
from benchmarks.tag_map import natural_bits, tag_of
from consentd.core import checkpoint, codec
from consentd.core.ed25519 import KeyPair
from consentd.core.kinds import EntryKind
from consentd.core.note import Signer, sign_note
from consentd.ledger.last_signed import write_last_signed
from consentd.ledger.ledger import AppendBatch, Draft
from consentd.ledger.recovery import open_ledger
from consentd.store.rocks import RocksStore

ORIGIN = "bench.consentd.example/opening"
SIGNER = Signer(ORIGIN, KeyPair(bytes(32)))
BATCH = 50_000
STATEMENT_BYTES = 280
REPEATS = 3
CACHE_MB = 256
"""The daemon's default."""


def measure_open(directory: Path, *, entries: int) -> list[Row]:
    """Measure the opening of a ledger of *entries*, each of another tag."""
    bits = natural_bits(entries)
    shutil.rmtree(directory, ignore_errors=True)
    build_s = run_apart(_build, directory, entries, bits)
    opened = [run_apart(_open, directory, bits) for _ in range(REPEATS)]
    seconds = [one.store_s + one.seconds for one in opened]
    store_mib = sum(file.stat().st_size for file in (directory / "store").iterdir()) / 2**20
    shutil.rmtree(directory)
    return [
        Row(
            case="open",
            name=f"ledger opened, {entries:,} entries of as many tags",
            value=median(seconds),
            unit="s",
            at_most=3,
            boundary="in process, files not in memory",
            note=f"RocksDB {median(one.store_s for one in opened):.2f} s, edge, map of {bits} bits, seal, lock "
            f"{median(one.seconds for one in opened):.2f} s; built in {build_s:.0f} s; {store_mib:,.0f} MiB on disk",
            samples=seconds,
            sample_unit="s",
        ),
        Row(
            case="open",
            name="memory that this took",
            # Pages that nothing was written to yet are not the process's: a small ledger may show as none.
            value=max(64 << bits, median(one.bytes for one in opened)) / 2**20,
            unit="MiB",
            boundary="in process",
            note=f"{max(one.peak_bytes for one in opened) / 2**20:.0f} MiB at the peak; "
            f"{64 << bits >> 20} MiB of it the map, and the store's cache, {CACHE_MB} MiB at most",
            samples=[one.bytes for one in opened],
            sample_unit="bytes",
        ),
    ]


def _build(directory: Path, entries: int, bits: int) -> float:
    ordered = sorted(codec.map_key(tag_of(number)) + number.to_bytes(8) for number in range(entries))
    random = Random(3)
    started = time.perf_counter()
    store = RocksStore.open(directory / "store", block_cache_mb=CACHE_MB)
    last_signed_path = directory / "last-signed"
    ledger = open_ledger(
        store, last_signed_path=last_signed_path, origin=ORIGIN, log_verifier=SIGNER.verifier, map_bits=bits
    )
    for first in range(0, entries, BATCH):
        batch = AppendBatch(ledger, 1_764_000_000_000 + first)
        for one in ordered[first : first + BATCH]:
            stored = random.randbytes(STATEMENT_BYTES)
            tag, commit = tag_of(int.from_bytes(one[32:])), sha256(stored).digest()
            batch.append(Draft(kind=EntryKind.ENROL, tag=tag, ref=0, commit=commit, stored=stored))
        batch.seal()
        batch.close()
        ledger.commit(batch)
        _tell(min(first + BATCH, entries), entries, started)
    state = ledger.state
    text = checkpoint.format_checkpoint(checkpoint.Checkpoint(ORIGIN, state.size, state.root))
    write_last_signed(last_signed_path, sign_note(text, [SIGNER]))
    store.close()
    return time.perf_counter() - started


def _open(directory: Path, bits: int) -> Opened:
    drop_pages(directory / "store")
    before = own_bytes()
    reset_peak()
    started = time.perf_counter()
    store = RocksStore.open(directory / "store", create=False, block_cache_mb=CACHE_MB)
    opened = time.perf_counter()
    ledger = open_ledger(
        store,
        last_signed_path=directory / "last-signed",
        origin=ORIGIN,
        log_verifier=SIGNER.verifier,
        map_bits=bits,
    )
    ended = time.perf_counter()
    found = Opened(opened - started, ended - opened, own_bytes() - before, peak_bytes() - before)
    assert ledger.map.root() == ledger.state.map_root, "the ledger opened is whole"
    store.close()
    return found


def _tell(done: int, of: int, started: float) -> None:
    if sys.stderr.isatty():
        rate, end = done / (time.perf_counter() - started), "\n" if done == of else ""
        print(f"\r  building: {done:,} of {of:,} entries, {rate:,.0f}/s ", end=end, file=sys.stderr)
