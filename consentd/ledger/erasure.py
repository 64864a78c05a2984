"""Destroy what an ERASURE asks for: keys and identifiers in the vault, statements and request rows in the ledger.

An ERASURE is the last entry of its chain. The batch that appends it also writes a row of kind ``e``, which says that
the erasure is not complete. From then on, whoever opens the ledger carries out the rest, in this order:

1. Add a line to the *list of erasures*, a file beside the last signed checkpoint.
2. Delete the data key, and the rows by which identifiers lead to the tag, from the vault.
3. Delete the encrypted statements of the chain, and the rows of its requests, from the ledger's store.
4. Compact both stores, so that no file has the deleted rows any more, and make the files of the policy table anew.
5. Delete the row ``e``. The erasure is complete.

Each step can be done twice. So after a crash all steps are done again (``pending``).

**The list** is in no backup. A backup of the vault may be older than an erasure, and then has the person's key. So
every open compares the vault and the store with the list (``destroy_again``), before anything is served. A line is the
leaf index of the ERASURE, the tag, and the hash of the leaf. If the list lacks the latest ERASURE, it was lost or cut
off, and is written anew from the leaves.

Reference rows (``layout.reference_row``) remain, because they follow from the leaves. The expiry rows of requests are
deleted, and not compacted away: they have nothing but a time and the hash of a random number.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import CorruptionError
from consentd.files import append_line, read_file_if_exists, write_file
from consentd.ledger import layout, reads
from consentd.ledger.vault import Vault
from consentd.store import Batch, Store, prefix_end

log = logging.getLogger(__name__)

LIST_NAME = "erasures"
"""Name of the file that has the list. It is in the directory of the last signed checkpoint."""
_NAME = "list of erasures"
_ONE_BY_ONE = 16
"""For more rows or chains than these, all of their kind are compacted: that takes less time than so many ranges."""
_PAGE = 256
_BATCH = 1_000
"""Operations of a batch that deletes: about what a batch of writes has, so that nobody waits longer for it."""
_PREFIX = 3
"""Bytes of a key of the vault with which its range to compact begins: RocksDB logs the ends of ranges."""


@dataclass(frozen=True, slots=True)
class Erased:
    """An ERASURE: the index and hash of its leaf, and the tag (pseudonym) of the erased chain."""

    index: int
    tag: bytes
    leaf_hash: bytes


# -- what is to be done -----------------------------------------------------------------------------------------


def pending(store: Store) -> list[Erased]:
    """Return the erasures that are not complete, in order. Raises ``CorruptionError`` if a row names no ERASURE."""
    found = []
    for key, tag in store.scan(b"e", prefix_end(b"e")):
        index = layout.decode_u64(key)
        leaf = reads.read_leaf(store, index)
        event = codec.decode_leaf(leaf)
        if not isinstance(event, codec.Event) or (event.kind, event.tag) != (EntryKind.ERASURE, tag):
            raise CorruptionError(f"row of an erasure names another entry: index {index}")
        found.append(Erased(index, tag, merkle.leaf_hash(leaf)))
    return found


def is_erased(store: Store, tag: bytes) -> bool:
    """Return whether the last entry of a chain is an ERASURE."""
    row = store.get(layout.head_key(tag))
    if row is None:
        return False
    count, _ = layout.HEAD.unpack(row)
    return reads.read_entry(store, tag, count).event.kind == EntryKind.ERASURE


class ErasureList:
    """The list of erasures. One thread at a time may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[bytes] | None = None  # the tags of the list; None: it was not read yet

    def read(self) -> list[Erased]:
        """Return the erasures of the list; none if the file does not exist.

        A power cut may leave a part of the last line. Then that erasure is still pending, and the part is cut off.

        Raises:
            StorageError: the file cannot be read or written.
            CorruptionError: a line has another form.
        """
        found, whole, part = _read_list(self._path)
        self._known = {one.tag for one in found}
        if part:
            log.warning("list of erasures has no end of its last line, which is cut off")
            write_file(self._path, whole.encode(), is_private=True, name=_NAME)
        return found

    def tags(self) -> frozenset[bytes]:
        """Return the tags of the erased chains. Raises as ``read``; nothing is written."""
        return frozenset(one.tag for one in _read_list(self._path)[0])

    def add(self, erasures: Iterable[Erased]) -> None:
        """Add those erasures to the list that it lacks, durably. Raises ``StorageError`` if it cannot be written."""
        if self._known is None:
            self.read()
        assert self._known is not None, "the list was read"
        for one in erasures:
            if one.tag not in self._known:
                if not self._path.exists():
                    write_file(self._path, b"", is_private=True, name=_NAME)
                append_line(self._path, _format_line(one), name=_NAME)
                self._known.add(one.tag)

    def replace(self, erasures: Collection[Erased]) -> None:
        """Write the list anew. Raises as ``add``."""
        write_file(self._path, "".join(map(_format_line, erasures)).encode(), is_private=True, name=_NAME)
        self._known = {one.tag for one in erasures}


def _read_list(path: Path) -> tuple[list[Erased], str, str]:
    """Return the erasures of a list, the text of its whole lines, and what comes after them."""
    content = (read_file_if_exists(path, name=_NAME) or b"").decode(errors="replace")
    whole, end, part = content.rpartition("\n")
    return [_parse_line(line, path) for line in whole.splitlines() if line], whole + end, part


def _format_line(one: Erased) -> str:
    return f"{one.index} {one.tag.hex()} {one.leaf_hash.hex()}\n"


def _parse_line(line: str, path: Path) -> Erased:
    try:
        index, tag, leaf_hash = line.split(" ")
        one = Erased(int(index), bytes.fromhex(tag), bytes.fromhex(leaf_hash))
    except ValueError:
        one = Erased(0, b"", b"")
    if (len(one.tag), len(one.leaf_hash)) != (32, 32):
        where = f"`{path}`; see ops/RUNBOOK.md, `erase a person`"
        raise CorruptionError(f"list of erasures has a line of another form: {where}")
    return one


def scan_erasures(store: Store, size: int) -> Iterator[Erased]:
    """Yield the erasures of the first *size* leaves, by reading every leaf. A million leaves take a second."""
    for index, leaf in reads.scan_leaves(store, 0, size):
        if codec.kind_of(leaf) == EntryKind.ERASURE:
            yield Erased(index, codec.tag_of(leaf), merkle.leaf_hash(leaf))


# -- destroying -------------------------------------------------------------------------------------------------


def statement_rows(store: Store, tags: Iterable[bytes]) -> Iterator[tuple[Batch, list[bytes]]]:
    """Yield batches that delete the statements of erased chains, and the rows of the requests that made them.

    With each batch come the keys of its requests. A batch has about ``_BATCH`` operations, so the thread that writes
    them is not held up by long chains, nor by many short ones. The statement of an ERASURE remains, and so does its
    request, so that a repeat is recognised. Raises as ``reads.read_chain_with_gaps``.
    """
    batch, requests = Batch(), list[bytes]()
    for tag in tags:
        count, _ = layout.HEAD.unpack(store.get(layout.head_key(tag)) or b"")
        batch.delete_range(layout.statement_key(tag, 1), layout.statement_key(tag, count))
        for expiry_row in _request_expiries(store, tag, count - 1):
            key = expiry_row[9:]
            batch.delete(layout.request_row_key(key))
            batch.delete(expiry_row)
            requests.append(key)
            if len(batch) >= _BATCH:
                yield batch, requests
                batch, requests = Batch(), []
    if len(batch):
        yield batch, requests


def _request_expiries(store: Store, tag: bytes, last: int) -> Iterator[bytes]:
    """Yield the expiry rows of the requests that made the entries 1 … *last* of a chain and are still remembered.

    No row leads from an entry to its request. But requests are sorted by the time of their entry.
    """
    for first in range(1, last + 1, _PAGE):
        entries = reads.read_chain_with_gaps(store, tag, first, min(first + _PAGE - 1, last))
        times = {entry.index: entry.event.time_ms for entry in entries}
        for time_ms in sorted(set(times.values())):
            for name, _ in store.scan(layout.expiry_key(time_ms, b""), layout.expiry_key(time_ms + 1, b"")):
                row = store.get(layout.request_row_key(name[9:]))
                if row is not None and layout.REQUEST.unpack(row)[0] in times:
                    yield name


def has_statements(store: Store, tag: bytes) -> bool:
    """Return whether an encrypted statement of a chain is still stored."""
    rows = store.scan(layout.statement_key(tag, 1), layout.statement_key(tag, codec.MAX_SEQ))
    return any(row[:1] == bytes((layout.ENCRYPTED,)) for _, row in rows)


def destroy_again(store: Store, vault: Vault, erasures: Iterable[Erased], *, table_size: int) -> int:
    """Delete the keys and statements of these erased chains that a restored store or vault still has.

    Returns the number of erasures of which something was left. They become pending again, so that the stores are
    compacted too, and the policy table is written anew. Nothing else may use the stores meanwhile.

    *table_size*: that of the table before it caught up. The table that an erasure leaves has its ERASURE. So an older
    table was restored, and its files have the rows of whom it learned to be erased just now.
    """
    found = []
    for one in erasures:
        is_there = is_erased(store, one.tag)
        is_in_table = one.index >= table_size and store.get(layout.erasure_key(one.index)) is None
        if vault.has_key(one.tag) or (is_there and (is_in_table or has_statements(store, one.tag))):
            found.append(one)
            if is_there:
                batch = Batch()
                batch.put(layout.erasure_key(one.index), one.tag)
                store.write(batch)
                for batch, _ in statement_rows(store, [one.tag]):
                    store.write(batch)
    if found:
        vault.destroy(dict.fromkeys(one.tag for one in found))
        vault.store.compact_ranges([(b"", None)])
    return len(found)


def destroy_listed(vault: Vault, listed: ErasureList) -> None:
    """Delete the keys and identifiers of listed persons that a restored vault still has.

    The ledger may be older than their ERASUREs. Their encrypted statements stay in it, and nobody can read them. Raises
    as ``ErasureList.read``.
    """
    tags = [one.tag for one in listed.read() if vault.has_key(one.tag)]
    if tags:
        vault.destroy(dict.fromkeys(tags))
        vault.store.compact_ranges([(b"", None)])
        log.warning("erased persons were in a restored vault, and are erased again: %d", len(tags))


def complete_list(listed: ErasureList, store: Store, size: int, last: int | None) -> list[Erased]:
    """Return the list of erasures. If it lacks the ledger's latest ERASURE, at index *last*, write the list anew.

    *size*: that of the ledger. Raises as ``ErasureList.read`` and ``replace``.
    """
    erasures, waiting = listed.read(), pending(store)
    known = {one.index for one in (*erasures, *waiting)}
    if last is not None and last not in known:
        log.warning("list of erasures lacks the last erasure: it is written anew from the ledger")
        erasures = list({one.tag: one for one in (*erasures, *scan_erasures(store, size))}.values())
        listed.replace(erasures)
    return [*erasures, *waiting]


def compact_ledger(store: Store, tags: Collection[bytes], requests: Collection[bytes] | None) -> None:
    """Remove deleted statements and request rows from the files of the ledger's store. Raises as ``compact_ranges``.

    *requests*: keys of the deleted requests; None: some were deleted before, and are not known any more.
    """
    statements = [(b"c" + tag, prefix_end(b"c" + tag)) for tag in sorted(tags)]
    names = sorted(map(layout.request_row_key, requests or ()))
    rows: list[tuple[bytes, bytes | None]] = [(name, name + b"\0") for name in names]
    for kind, ranges, is_known in ((b"c", statements, True), (b"q", rows, requests is not None)):
        if len(ranges) > _ONE_BY_ONE or not is_known:
            ranges = [(kind, prefix_end(kind))]
        if ranges:
            store.compact_ranges(ranges)


def compact_vault(store: Store, names: Collection[bytes]) -> None:
    """Remove deleted rows from the files of the vault. *names*: their keys; empty: they are not known.

    RocksDB writes the ends of each range into its own log. So a range has only the first bytes of a key.
    """
    starts = {name[:_PREFIX] for name in names}
    if not 0 < len(starts) <= _ONE_BY_ONE:
        store.compact_ranges([(b"", None)])
        return
    store.compact_ranges([(start, prefix_end(start)) for start in sorted(starts)])
