"""Compare the rows of a store, except the leaves, with the result of a replay of the leaves.

``fsck`` uses all functions; a scrub uses those that check one row (``..._fault``). Rows whose keys follow from leaves
are read by key and not by a scan. A scan ends at a damaged block, while reads by key show which rows of the block are
lost. Scans then find rows that must not exist.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TypeVar

from consentd.core import bucketed, codec
from consentd.core.kinds import EntryKind
from consentd.core.note import Verifier
from consentd.core.replay import Replay
from consentd.errors import CorruptionError, VerificationError
from consentd.ledger import layout
from consentd.ledger.last_signed import read_last_signed, verify_last_signed
from consentd.ledger.ledger import State, decode_state
from consentd.ledger.vault import NO_STATE, Vault, is_older
from consentd.store import Store, prefix_end
from consentd.verify.findings import Findings

T = TypeVar("T")

CHUNK = 2048
"""Most rows in one read. A multiple of a tile's width."""

_KEY_SIZES = {
    b"P": 1, b"S": 1, b"V": 1, b"Z": 1, b"c": 41, b"e": 9, b"f": 49, b"h": 33, b"i": 41, b"k": 9, b"l": 9, b"m": 5,
    b"q": 33, b"r": 5, b"t": 10, b"x": 41,
}  # fmt: skip


class Gap(Enum):
    """Why a row could not be read."""

    MISSING = "is missing"
    UNREADABLE = "cannot be read: its block on disk is damaged"


def read_rows(store: Store, keys: Sequence[bytes]) -> list[bytes | Gap]:
    """Read rows by key. If a block is damaged, read row by row, so that only the rows of that block are lost."""
    try:
        return [Gap.MISSING if row is None else row for row in store.multi_get(keys)]
    except CorruptionError:
        return [_read_row(store, key) for key in keys]


def _read_row(store: Store, key: bytes) -> bytes | Gap:
    try:
        row = store.get(key)
    except CorruptionError:
        return Gap.UNREADABLE
    return Gap.MISSING if row is None else row


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Yield *items* in lists of up to *size*."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def scan_rows(store: Store, kind: bytes, found: Findings, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Yield the readable rows of a kind from key *start* on. Unreadable rows and keys of wrong length are faults."""
    try:
        for key, row in store.scan(start or kind, prefix_end(kind)):
            if len(key) == _KEY_SIZES[kind]:
                yield key, row
            else:
                found.add(None, f"row of kind `{kind.decode()}` has a key of an impossible length")
    except CorruptionError:
        found.add(None, f"rows of kind `{kind.decode()}` cannot all be listed: a block on disk is damaged")


def index_of(store: Store, tag: bytes, seq: int) -> int | None:
    """Return the index of an entry; None if its index row is missing or damaged."""
    row = _read_row(store, layout.index_key(tag, seq))
    return layout.decode_u64(row) if isinstance(row, bytes) and len(row) == 8 else None


def compare_state(state: State, replay: Replay, found: Findings) -> None:
    """Compare the state row with the replayed leaves."""
    facts: list[tuple[str, object, object]] = [
        ("root", state.root, replay.root()),
        ("time", state.time_ms, replay.time_ms),
        ("size at the last seal", state.sealed_size, replay.sealed_size),
    ]
    if replay.seal_hash:
        facts.append(("hash of the last seal", state.seal_hash, replay.seal_hash))
    if replay.knows_all_heads:
        facts.append(("number of tags", state.tags, len(replay.heads)))
        facts.append(("map root", state.map_root, replay.map_root()))
    for name, stored, replayed in facts:
        if stored != replayed:
            found.add(None, f"state row has another {name} than the leaves")


def read_state(store: Store, found: Findings) -> State | None:
    """Return the state row; None if it is missing or damaged. Then add a fault, unless the store is empty."""
    row = _read_row(store, layout.STATE)
    try:
        if isinstance(row, bytes):
            return decode_state(row)
        if row is Gap.MISSING and next(store.scan(b"", None, limit=1), None) is None:
            return None
        found.add(None, f"state row {row.value}")
    except CorruptionError as error:
        found.add(None, str(error))
    return None


def verify_size(store: Store, state: State | None, found: Findings) -> int:
    """Return the number of leaves to read, and compare the state row's size with the last leaf that is stored."""
    try:
        last = next(store.scan(b"l", b"m", reverse=True, limit=1), None)
    except CorruptionError:
        last = None if state is None else (layout.leaf_key(state.size - 1), b"")
    stored = 0 if last is None else layout.decode_u64(last[0]) + 1
    size = stored if state is None else state.size
    if size != stored:
        found.add(None, f"state row counts `{size}` leaves, the last leaf stored is `{stored - 1}`")
    # If few leaves are missing at the end, each is reported. If many are, the state row's size is taken as damaged.
    return size if size - stored <= CHUNK else stored


def vault_fault(store: Store, vault: Vault | None) -> str | None:
    """Compare the row of the vault's state with the vault, if there is one; return what is wrong, or None."""
    row = _read_row(store, layout.VAULT)
    if row is Gap.MISSING:
        return None  # no batch needed the vault yet
    if not isinstance(row, bytes) or len(row) != len(NO_STATE):
        return "row of the vault's state is damaged"
    if vault is not None and is_older(vault.state, row):
        return "vault is older than the ledger: it lacks keys or identifiers of persons"
    return None


def compare_heads(store: Store, replay: Replay, found: Findings) -> None:
    """Compare each chain's head row with the chain's last leaf."""
    for chunk in chunks(replay.heads.items()):
        rows = read_rows(store, [layout.head_key(tag) for tag, _ in chunk])
        for (tag, (count, head, _)), row in zip(chunk, rows, strict=True):
            if not isinstance(row, bytes):
                found.add(index_of(store, tag, count), f"head row {row.value}")
            elif head and row != layout.HEAD.pack(count, head):
                found.add(index_of(store, tag, count), "head row is not that of the chain's last entry")
    for key, _ in scan_rows(store, b"h", found):
        if key[1:] not in replay.heads and replay.knows_all_heads:
            found.add(None, "head row is of a chain that has no leaf")


def compare_map(store: Store, replay: Replay, found: Findings) -> None:
    """Compare the map's rows with the chain heads at the last seal. If heads are unknown, check each row by itself."""
    last_seal = replay.sealed_size - 1 if replay.sealed_size else None
    map_bits = replay.top.map_bits
    numbers = {int.from_bytes(key[1:]) for key, _ in scan_rows(store, b"m", found)} | set(replay.buckets)
    for chunk in chunks(sorted(numbers), 256):
        for number, row in zip(chunk, read_rows(store, [layout.bucket_key(one) for one in chunk]), strict=True):
            expected = replay.buckets.get(number)
            if not isinstance(row, bytes):
                found.add(last_seal, f"map bucket `{number}` {row.value}")
            elif replay.knows_all_heads:
                if row != expected:
                    found.add(last_seal, f"map bucket `{number}` does not match the last seal")
            else:
                try:
                    bucketed.verify_bucket(row, number=number, map_bits=map_bits)
                except VerificationError as error:
                    found.add(last_seal, f"map bucket `{number}`: {error}")
    if replay.knows_all_heads:
        _compare_roots(store, replay, last_seal, found)


def _compare_roots(store: Store, replay: Replay, last_seal: int | None, found: Findings) -> None:
    groups = {int.from_bytes(key[1:]) for key, _ in scan_rows(store, b"r", found)}
    groups.update(number // layout.ROOTS_PER_ROW for number in replay.buckets)
    for chunk in chunks(sorted(groups)):
        for group, row in zip(chunk, read_rows(store, [layout.roots_key(one) for one in chunk]), strict=True):
            if row != roots_row(replay.top, group):
                found.add(last_seal, f"row `{group}` of bucket roots does not match the last seal")


def roots_row(top: bucketed.Top, group: int) -> bytes:
    """Return the right content of row *group* of bucket roots."""
    numbers = range(group * layout.ROOTS_PER_ROW, min((group + 1) * layout.ROOTS_PER_ROW, 1 << top.map_bits))
    return b"".join(top.bucket_root(number) or codec.ZERO_HASH for number in numbers)


def last_signed_fault(
    store: Store, path: Path, *, size: int, sealed_size: int, origin: str, log_verifier: Verifier
) -> str | None:
    """Return what is wrong with the last signed checkpoint, or None. Raises as ``verify_last_signed``."""
    note = read_last_signed(path)
    if note is None:
        return "last signed checkpoint is missing" if sealed_size else None
    verify_last_signed(store, note, size=size, origin=origin, log_verifier=log_verifier)
    return None


def request_fault(time_ms: int, leaf: bytes | None, expiry: bytes | Gap | None) -> str | None:
    """Return what is wrong with a request row of time *time_ms*, or None.

    *leaf* and *expiry* are the rows that the request row names. *leaf* is None if the leaf is pruned.
    """
    if leaf is not None and (codec.kind_of(leaf) == codec.SEAL_KIND or codec.time_of(leaf) != time_ms):
        return "request row does not match the entry that it names"
    return None if expiry == b"" else "request row has no expiry row"


def expiry_fault(key: bytes, row: bytes, request: bytes | Gap | None) -> str | None:
    """Return what is wrong with an expiry row, given the row of its request, or None."""
    if row == b"" and isinstance(request, bytes) and request[8:16] == key[1:9]:
        return None
    return "expiry row has no request, or a value"


def compare_requests(store: Store, size: int, found: Findings) -> None:
    """Compare request rows with the entries that the requests wrote, and with their expiry rows.

    A request row has the index and the time of its entry. So a wrong index is found, unless it is the index of another
    entry of the same time. The hash of the request's content is not compared, because no other row has this hash.
    """
    for chunk in chunks(scan_rows(store, b"q", found)):
        named = []
        for key, row in chunk:
            if len(row) != layout.REQUEST.size:
                found.add(None, "request row has an impossible length")
            else:
                index, time_ms, _ = layout.REQUEST.unpack(row)
                named.append((index, time_ms, key[1:]))
        leaves = read_rows(store, [layout.leaf_key(index) for index, _, _ in named])
        expiries = read_rows(store, [layout.expiry_key(time_ms, name) for _, time_ms, name in named])
        for (index, time_ms, _), leaf, expiry in zip(named, leaves, expiries, strict=True):
            if index >= size:
                found.add(None, f"request row names an entry that does not exist: `{index}`")
            elif not isinstance(leaf, bytes):
                continue  # The leaf is pruned, or the walk has reported it.
            elif (what := request_fault(time_ms, leaf, expiry)) is not None:
                found.add(index, what)
    for chunk in chunks(scan_rows(store, b"x", found)):
        requests = read_rows(store, [layout.request_row_key(key[9:]) for key, _ in chunk])
        for (key, row), request in zip(chunk, requests, strict=True):
            if (what := expiry_fault(key, row, request)) is not None:
                found.add(None, what)


def find_strays(store: Store, replay: Replay, found: Findings, *, statements: bool) -> None:
    """Find rows that must not exist."""
    for key, _ in scan_rows(store, b"l", found, layout.leaf_key(replay.size)):
        found.add(layout.decode_u64(key), "leaf is beyond the ledger's size")
    for key, _ in scan_rows(store, b"t", found):
        level, n = key[1], int.from_bytes(key[2:])
        if level > 7 or n << 8 >= replay.size >> (8 * level):
            found.add(None, f"tile is beyond the ledger's size: level `{level}`")
    for kind, name in ((b"i", "index row"), (b"c", "statement")):
        if kind == b"c" and not statements:
            continue
        for key, _ in scan_rows(store, kind, found):
            tag, seq = key[1:33], int.from_bytes(key[33:])
            count = replay.heads.get(tag, (0,))[0]
            if not 0 < seq <= count and replay.knows_all_heads:
                found.add(None, f"{name} is of an entry that does not exist")
    _find_stray_references(store, found)
    if statements and replay.start:
        for chunk in chunks(scan_rows(store, b"c", found)):
            index_rows = read_rows(store, [b"i" + key[1:] for key, _ in chunk])
            for _ in (row for row in index_rows if row is Gap.MISSING):
                found.add(None, "statement is of an entry that was pruned")
    bounds = [b"", *(kind + b"\0" if _KEY_SIZES[kind] == 1 else prefix_end(kind) or b"" for kind in _KEY_SIZES)]
    try:
        for start, end in zip(bounds, [*_KEY_SIZES, None], strict=True):
            for _ in store.scan(start, end, limit=1):
                found.add(None, "row is of no known kind")
    except CorruptionError:
        found.add(None, "rows of no known kind cannot be listed: a block on disk is damaged")


def reference_fault(store: Store, event: codec.Event, index: int) -> str | None:
    """Return what is wrong with the reference row of the event at *index*, or None."""
    expected = layout.reference_row(event, index)
    row = None if expected is None else _read_row(store, expected[0])
    if expected is None or row == expected[1]:
        return None
    return f"reference row {row.value}" if isinstance(row, Gap) else "reference row names another kind or index"


def compare_references(store: Store, events: Iterable[tuple[int, codec.Event]], found: Findings) -> None:
    """Compare the reference row of each event that has one with the event's leaf."""
    for index, event in events:
        what = reference_fault(store, event, index)
        if what is not None:
            found.add(index, what)


def is_stray_reference(store: Store, key: bytes) -> bool:
    """Return whether a reference row is of an entry that does not exist, or does not refer to what the key says."""
    index = index_of(store, key[1:33], int.from_bytes(key[41:]))
    if index is None:
        return True
    leaf = _read_row(store, layout.leaf_key(index))
    try:
        event = codec.decode_leaf(leaf) if isinstance(leaf, bytes) else None
    except VerificationError:
        event = None
    if event is None:
        return False  # The fault is that of the leaf.
    expected = layout.reference_row(event, index) if isinstance(event, codec.Event) else None
    return expected is None or expected[0] != key


def _find_stray_references(store: Store, found: Findings) -> None:
    for key, _ in scan_rows(store, b"f", found):
        if is_stray_reference(store, key):
            found.add(None, "reference row is of an entry that does not exist, or that refers to another one")


def compare_index(store: Store, events: Sequence[tuple[int, codec.Event]], found: Findings) -> None:
    """Compare the index row of each event with the index of the event's leaf."""
    stored = read_rows(store, [layout.index_key(event.tag, event.seq) for _, event in events])
    for (index, _), row in zip(events, stored, strict=True):
        if isinstance(row, Gap):
            found.add(index, f"index row {row.value}")
        elif row != layout.encode_u64(index):
            found.add(index, "index row names another index")


def compare_pending(store: Store, found: Findings) -> None:
    """Find rows of erasures that are not complete which name no ERASURE."""
    for key, tag in scan_rows(store, b"e", found):
        index = layout.decode_u64(key)
        leaf = _read_row(store, layout.leaf_key(index))
        if not isinstance(leaf, bytes) or (codec.kind_of(leaf), codec.tag_of(leaf)) != (EntryKind.ERASURE, tag):
            found.add(index, "row of an erasure names another entry")


def compare_erased(store: Store, vault: Vault | None, replay: Replay, found: Findings) -> None:
    """Find encrypted statements and data keys of erased persons that are still stored."""
    for tag, (count, _, erased) in replay.heads.items():
        if not erased:
            continue
        last = index_of(store, tag, count)
        keys = (layout.statement_key(tag, seq) for seq in range(1, count + 1))
        left = (row for chunk in chunks(keys) for row in read_rows(store, chunk))
        if any(isinstance(row, bytes) and row[:1] == bytes((layout.ENCRYPTED,)) for row in left):
            found.add(last, "statements of an erased person are still stored")
        if vault is not None and vault.store.get(b"k" + tag) is not None:
            found.add(last, "vault still holds the data key of an erased person")
