"""Read every stored record again while the ledger is in use, so that damage is found before the record is needed.

Where ``fsck`` verifies a ledger from nothing and wants it still, a *scrub* goes beside the writer, a few records at a
time, and holds each against another that must agree with it::

    leaf           its hash in the tile over it; its index row; its statement, against the commitment
    tile           its hash in the tile above; the topmost, against the root in the state
    head row       the leaf it names
    map bucket     its root in memory, and so the map root of the last seal
    request row    the entry it names, and the row that says when it may go
    vault row      whether it opens under the vault key
    table row      the same row of a table made anew from the ledger

INVARIANT: what is reported is damage. A record that seems wrong is looked at once more on the sequencer's thread, where
nothing changes beside it; only what is wrong there too counts. Signatures are not verified: commitment and leaf hash
hold every byte of a statement.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from consentd.core import codec, merkle, patricia, tiles
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.errors import ConsentdError, CorruptionError, NotFoundError, StorageError, VerificationError
from consentd.ledger import layout, reads, retention
from consentd.ledger.fsck_rows import Fault
from consentd.ledger.ledger import Ledger, decode_state
from consentd.ledger.map import TagMap
from consentd.ledger.table import Table, catch_up
from consentd.ledger.vault import Vault
from consentd.store import Store, prefix_end
from consentd.store.memory import MemoryStore

T = TypeVar("T")

PIECE = 16
"""Records between two pauses: less than a millisecond of work, so that no check waits for the GIL behind it."""

Check = Callable[[], Fault | None]


class Scrub:
    """One pass over all records. Owned by one thread.

    Attributes:
        faults: what was found so far.
    """

    def __init__(
        self,
        ledger: Ledger,
        vault: Vault,
        table: Table,
        *,
        call: Callable[[Callable[[], Any]], Any],
        pause: Callable[[int], None],
        scratch_dir: Path,
        map_size_mb: int,
    ) -> None:
        """Make a pass.

        Args:
            call: runs something on the sequencer's thread, between two turns.
            pause: called with how many records were looked at since it was called last; may wait, may raise to end it.
            scratch_dir: where a table is made anew, as large as the one there is.
            map_size_mb: most that it can grow to.
        """
        self._ledger, self._store, self._vault, self._table = ledger, ledger.store, vault, table
        self._call, self._pause = call, pause
        self._scratch_dir, self._map_size_mb = scratch_dir, map_size_mb
        self.faults: list[Fault] = []

    def run(self) -> None:
        """Look at everything once.

        Raises:
            StorageError: the disk fails, or the ledger is being closed.
        """
        size, root = self._ledger.state.size, self._ledger.state.root
        self._look(self._check_state)
        for index in range(size):
            self._look(partial(self._check_entry, index), index)
            if index % PIECE == PIECE - 1:
                self._pause(PIECE)
        self._scrub_tiles(size, root)
        self._scrub_rows(self._store, b"h", self._check_head)
        self._scrub_map()
        self._scrub_rows(self._store, b"q", self._check_request)
        self._scrub_rows(self._store, b"x", self._check_expiry)
        self._look(self._check_index_key)
        self._scrub_rows(self._vault.store, b"k", self._check_key)
        self._scrub_rows(self._vault.store, b"i", self._check_identifier)
        self._scrub_table()

    # -- steps ------------------------------------------------------------------------------------------------

    def _look(self, check: Check, index: int | None = None) -> None:
        """Check something; what seems wrong, once more where nothing moves. *index*: the entry it is about."""
        if _outcome(check, index) is None:
            return
        fault = self._call(lambda: _outcome(check, index))
        if fault is not None:
            self.faults.append(fault)

    def _scrub_rows(self, store: Store, kind: bytes, check: Callable[[bytes], Fault | None]) -> None:
        """Check every row of a kind, by its key."""
        after = kind
        while True:
            try:
                keys = [key for key, _ in store.scan(after, prefix_end(kind), limit=PIECE)]
            except CorruptionError:
                self.faults.append(Fault(None, f"rows of kind `{kind.decode()}` cannot be read: a block is damaged"))
                return
            for key in keys:
                self._look(partial(check, key))
            self._pause(len(keys))
            if len(keys) < PIECE:
                return
            after = keys[-1] + b"\0"

    def _scrub_tiles(self, size: int, root: bytes) -> None:
        """Check every full tile against the one above, and what remains at the right edge against the root."""
        level, count = 0, size // tiles.TILE_WIDTH
        while count:
            for n in range(count):
                self._look(partial(self._check_tile, level, n))
                if n % PIECE == PIECE - 1:
                    self._pause(PIECE)
            level, count = level + 1, count // tiles.TILE_WIDTH

        def check_root() -> Fault | None:
            if reads.root_at(self._store, size) == root:
                return None
            return Fault(None, f"tiles at the right edge do not hash to the root at size {size}")

        self._look(check_root)

    def _scrub_map(self) -> None:
        """Check the buckets in groups of one row of roots; all of it where the map does not move."""
        width = layout.ROOTS_PER_ROW
        for group in range(max(1, (1 << self._ledger.map.top.map_bits) // width)):
            self.faults += self._call(partial(self._check_group, group))
            if group % width == width - 1:
                self._pause(width)

    # -- one record -------------------------------------------------------------------------------------------

    def _check_state(self) -> Fault | None:
        state = decode_state(self._store.get(layout.STATE) or b"")
        retention.read_pruned(self._store)
        # Only where nothing moves is the row what is in memory; there, it must be.
        return None if state == self._ledger.state else Fault(None, "state row is not what it was written as")

    def _check_entry(self, index: int) -> Fault | None:
        leaf = self._store.get(layout.leaf_key(index))
        if leaf is None:
            is_pruned = index < retention.read_pruned(self._store).minimum
            return None if is_pruned else Fault(index, "leaf is missing")
        if merkle.leaf_hash(leaf) != reads.leaf_hash_at(self._store, index):
            return Fault(index, "leaf and the tile over it do not hash alike")
        event = codec.decode_leaf(leaf)
        if isinstance(event, codec.Seal):
            return None
        if self._store.get(layout.index_key(event.tag, event.seq)) != layout.encode_u64(index):
            return Fault(index, "index row names another place, or is missing")
        if self._ledger.head(event.tag)[0] < event.seq:
            return Fault(index, "head row is missing, or behind this entry")
        row = self._store.get(layout.statement_key(event.tag, event.seq))
        try:
            if row is not None:
                self._vault.decrypt(event, row)
                return None
        except NotFoundError:
            pass  # the person's key is gone
        except CorruptionError as error:
            return Fault(index, str(error))
        return None if self._may_be_gone(event) else Fault(index, "statement or its key is missing")

    def _may_be_gone(self, event: codec.Event) -> bool:
        """Tell whether a statement was erased or pruned."""
        if event.kind in PRUNABLE and event.time_ms < retention.read_pruned(self._store).kept_from_ms:
            return True
        count, _ = self._ledger.head(event.tag)
        return reads.read_entry(self._store, event.tag, count).event.kind == EntryKind.ERASURE

    def _check_tile(self, level: int, n: int) -> Fault | None:
        row = self._store.get(layout.tile_key(level, n)) or b""
        above = self._store.get(layout.tile_key(level + 1, n // tiles.TILE_WIDTH)) or b""
        at = n % tiles.TILE_WIDTH * merkle.HASH_SIZE
        hashes = [row[start : start + merkle.HASH_SIZE] for start in range(0, len(row), merkle.HASH_SIZE)]
        whole = len(row) == tiles.TILE_WIDTH * merkle.HASH_SIZE
        if whole and tiles.Edge().append(hashes)[0].root() == above[at : at + merkle.HASH_SIZE]:
            return None
        first = (n * tiles.TILE_WIDTH) << (tiles.TILE_HEIGHT * level)
        return Fault(first, f"tile of level {level} over the entries from here is not what the one above says")

    def _check_head(self, key: bytes) -> Fault | None:
        row = self._store.get(key) or b""
        if len(key) != 33 or len(row) != layout.HEAD.size:
            return Fault(None, "head row has an impossible length")
        count, head = layout.HEAD.unpack(row)
        index = self._store.get(layout.index_key(key[1:], count))
        leaf = None if index is None else self._store.get(layout.leaf_key(layout.decode_u64(index)))
        if index is None or leaf is None or codec.chain_hash(leaf) != head:
            last = reads.read_kept(self._store, key[1:])
            at = max((entry.index for entry in last), default=None)
            return Fault(at, "head row is not where the chain stands")
        return None

    def _check_group(self, group: int) -> list[Fault]:
        return list(self._faults_of_group(group))

    def _faults_of_group(self, group: int) -> Iterator[Fault]:
        top, width = self._ledger.map.top, layout.ROOTS_PER_ROW
        numbers = range(group * width, min((group + 1) * width, 1 << top.map_bits))
        seal = self._ledger.state.sealed_size - 1 if self._ledger.state.sealed_size else None
        if group == 0 and top.root() != self._ledger.state.map_root:
            yield Fault(seal, "map in memory has not the root that the last seal has")
        roots = [top.bucket_root(number) for number in numbers]
        for number, root in zip(numbers, roots, strict=True):
            try:
                bucket = self._store.get(layout.bucket_key(number)) or b""
                patricia.verify_bucket(bucket, number=number, map_bits=top.map_bits)
                if patricia.bucket_root(bucket, top.map_bits) != root:
                    yield Fault(seal, f"map bucket {number} is not as the last seal has it")
            except (CorruptionError, VerificationError) as error:
                yield Fault(seal, f"map bucket {number}: {error}")
        try:
            row = self._store.get(layout.roots_key(group))
        except CorruptionError:
            row = b""
        if row != b"".join(root or codec.ZERO_HASH for root in roots) and (row is not None or any(roots)):
            yield Fault(seal, f"row {group} of bucket roots is not as the last seal has it")

    def _check_request(self, key: bytes) -> Fault | None:
        row = self._store.get(key)
        if row is None:
            return None  # its time came meanwhile
        if len(key) != 33 or len(row) != layout.REQUEST.size:
            return Fault(None, "request row has an impossible length")
        index, time_ms, _ = layout.REQUEST.unpack(row)
        leaf = self._store.get(layout.leaf_key(index))
        is_pruned = leaf is None and index < retention.read_pruned(self._store).minimum
        if not is_pruned and (leaf is None or not leaf[1] or leaf[2:10] != time_ms.to_bytes(8)):
            return Fault(index, "request row does not fit the entry it names")
        if self._store.get(layout.expiry_key(time_ms, key[1:])) != b"":
            return Fault(index, "request row has no row that says when it may go")
        return None

    def _check_expiry(self, key: bytes) -> Fault | None:
        row = self._store.get(key)
        request = self._store.get(layout.request_row_key(key[9:]))
        if row is None or (row == b"" and len(key) == 41 and request is not None and request[8:16] == key[1:9]):
            return None
        return Fault(None, "row that says when a request may go has no request, or a value")

    def _check_key(self, key: bytes) -> Fault | None:
        if self._vault.store.get(key) is None or self._vault.opens(key):
            return None
        count = self._store.get(layout.head_key(key[1:]))
        index = None if count is None else reads.read_entry(self._store, key[1:], 1).index
        return Fault(index, "data key of the person enrolled here does not open under the vault key")

    def _check_index_key(self) -> Fault | None:
        return None if self._vault.opens(b"K") else Fault(None, "index key of the vault is not what it was opened with")

    def _check_identifier(self, key: bytes) -> Fault | None:
        tag = self._vault.store.get(key)
        if tag is None or (len(key) == 33 and self._vault.store.get(b"k" + tag) is not None):
            return None
        return Fault(None, "identifier in the vault leads to nobody")

    # -- the table --------------------------------------------------------------------------------------------

    def _scrub_table(self) -> None:
        """Make the table anew, and compare it with the one in use, some rows at a time, at the same revision."""
        before = retention.read_pruned(self._store)
        if not retention.is_finished(self._store):
            return
        with tempfile.TemporaryDirectory(prefix="scrub-", dir=self._scratch_dir) as scratch:
            fresh = Table.open(Path(scratch), map_size_mb=self._map_size_mb)
            try:
                with self._table.read() as now:
                    size = now.size  # the ledger may be ahead of the table, while that commits
                self._catch_up(fresh, size)
                after: bytes | None = b""
                while after is not None:
                    after, faults = self._compare_rows(fresh, after)
                    # INVARIANT: a sweep under way takes statements away that the copy may have met or not.
                    if retention.read_pruned(self._store) != before or not retention.is_finished(self._store):
                        return
                    self.faults += faults
                    self._pause(PIECE)
            except CorruptionError as error:
                if retention.read_pruned(self._store) == before:
                    self.faults.append(Fault(None, f"table cannot be made anew: {error}"))
            finally:
                fresh.close()

    def _catch_up(self, fresh: Table, size: int) -> None:
        """Apply to the copy what the ledger has up to *size*."""
        done = 0

        def tell(reached: int) -> None:
            nonlocal done
            self._pause(reached - done)
            done = reached

        with fresh.read() as snapshot:
            done = snapshot.size
        at_size = Ledger(self._store, replace(self._ledger.state, size=size), tiles.Edge(), TagMap(MemoryStore(), 1))
        catch_up(fresh, at_size, self._vault, 0, tell)

    def _compare_rows(self, fresh: Table, after: bytes) -> tuple[bytes | None, list[Fault]]:
        """Compare the rows behind key *after*; return the last key compared (None: the end), and what differs."""
        with self._table.read() as old:
            self._catch_up_quickly(fresh, old.size)
            ours = dict(old.page(after, PIECE))
            last = max(ours) if len(ours) == PIECE else None
            with fresh.read() as new:
                theirs = dict(new.page(after, 2 * PIECE))
        if last is not None:
            theirs = {key: value for key, value in theirs.items() if key <= last}
        faults = []
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in (b"R", b"H") and ours.get(key) != theirs.get(key):
                kind = key[:1].decode("ascii", "replace")
                faults.append(Fault(self._entry_of(key), f"table row of kind `{kind}` is not what the entries make it"))
        return last, faults

    def _catch_up_quickly(self, fresh: Table, size: int) -> None:
        # Without a pause: a snapshot of the table is open, and pages that it shows are not used again.
        at_size = Ledger(self._store, replace(self._ledger.state, size=size), tiles.Edge(), TagMap(MemoryStore(), 1))
        catch_up(fresh, at_size, self._vault, 0)

    def _entry_of(self, key: bytes) -> int | None:
        """Return the last entry of the person that a table row is about, where it is a person's."""
        row = self._store.get(layout.head_key(key[1:])) if key[:1] == b"s" else None
        return None if row is None else reads.read_entry(self._store, key[1:], layout.HEAD.unpack(row)[0]).index


def _outcome(check: Check, index: int | None) -> Fault | None:
    """Run a check; a record that cannot be read or decoded is a fault too."""
    try:
        return check()
    except StorageError:
        raise
    except ConsentdError as error:
        return Fault(index, str(error))
