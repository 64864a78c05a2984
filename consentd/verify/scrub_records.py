"""Hold one stored record against another that must agree with it: the checks of a scrub.

Each returns the fault, or None. It reads what is stored while the ledger is in use, so what it sees may be of two
moments; on the sequencer's thread, between two turns, it is of one. ``scrub`` knows when which counts.
"""

from collections.abc import Callable
from pathlib import Path

from consentd.core import bucketed, codec, merkle, tiles
from consentd.core.kinds import PRUNABLE, EntryKind
from consentd.core.note import Verifier
from consentd.core.pruned import NOTHING
from consentd.errors import NotFoundError
from consentd.ledger import layout, reads, retention
from consentd.ledger.last_signed import read_last_signed
from consentd.ledger.ledger import Ledger, decode_state
from consentd.ledger.recovery import verify_last_signed
from consentd.ledger.vault import Vault
from consentd.verify import stored_rows as rows
from consentd.verify.findings import Fault

Check = Callable[[], Fault | None]


class Records:
    """The records of a ledger, its vault and its last signed checkpoint.

    Raises, in every check: ``ConsentdError``, or what unpacking bytes raises, where a record cannot be read at all.
    """

    def __init__(
        self, ledger: Ledger, vault: Vault, *, last_signed_path: Path, origin: str, log_verifier: Verifier
    ) -> None:
        self._ledger, self._store, self._vault = ledger, ledger.store, vault
        self._last_signed_path, self._origin, self._log_verifier = last_signed_path, origin, log_verifier

    # -- of which there is one --------------------------------------------------------------------------------

    def state(self) -> Fault | None:
        """Check the state row against memory."""
        stored = decode_state(self._store.get(layout.STATE) or b"")
        return None if stored == self._ledger.state else Fault(None, "state row is not what it was written as")

    def pruned(self) -> None:
        """Check that the row of what is pruned can be read."""
        retention.read_pruned(self._store)

    def stated(self) -> Fault | None:
        """Check the row of what is pruned against the ledger's own entries."""
        pruned = retention.read_pruned(self._store)
        if pruned == NOTHING or any(one.pruned == pruned for one in retention.read_stated_prunings(self._store)[1]):
            return None
        return Fault(None, "row of what is pruned is not what the ledger states")

    def last_signed(self) -> Fault | None:
        """Check that the last signed checkpoint is one of this tree: only the next start would need it."""
        note = read_last_signed(self._last_signed_path)
        if note is None:
            return Fault(None, "last signed checkpoint is missing") if self._ledger.state.sealed_size else None
        size = self._ledger.state.size
        verify_last_signed(self._store, note, size=size, origin=self._origin, log_verifier=self._log_verifier)
        return None

    # -- leaves and tiles -------------------------------------------------------------------------------------

    def entry(self, index: int) -> Fault | None:
        """Check a leaf against the tile over it; of an event, index row, head row and statement as well."""
        leaf = self._store.get(layout.leaf_key(index))
        if leaf is None:
            is_pruned = index < retention.read_pruned(self._store).minimum
            return None if is_pruned else Fault(index, "leaf is missing")
        n, at = divmod(index, tiles.TILE_WIDTH)
        hashed = (self._store.get(layout.tile_key(0, n)) or b"")[at * merkle.HASH_SIZE :][: merkle.HASH_SIZE]
        # A tile that is cut short is one fault, told where tiles are checked, and not one of each of its leaves.
        if len(hashed) == merkle.HASH_SIZE and merkle.leaf_hash(leaf) != hashed:
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
        return None if self._may_be_gone(event) else Fault(index, "statement or its key is missing")

    def _may_be_gone(self, event: codec.Event) -> bool:
        """Tell whether a statement was erased or pruned."""
        if event.kind in PRUNABLE and event.time_ms < retention.read_pruned(self._store).kept_from_ms:
            return True
        return self.is_erased(event.tag)

    def is_erased(self, tag: bytes) -> bool:
        """Tell whether the last entry of a chain is an ERASURE."""
        count, _ = self._ledger.head(tag)
        return bool(count) and reads.read_entry(self._store, tag, count).event.kind == EntryKind.ERASURE

    def first_index(self, tag: bytes) -> int | None:
        """Return where a chain begins; None: it does not."""
        row = self._store.get(layout.index_key(tag, 1))
        return None if row is None else layout.decode_u64(row)

    def last_index(self, tag: bytes) -> int | None:
        """Return where the last entry of a chain lies, by its index rows; None: it has none."""
        rows = self._store.scan(layout.index_key(tag, 1), layout.index_key(tag, codec.MAX_SEQ), reverse=True, limit=1)
        return next((layout.decode_u64(row) for _, row in rows), None)

    def tile(self, level: int, n: int) -> Fault | None:
        """Check a full tile against its hash in the tile above."""
        row = self._store.get(layout.tile_key(level, n)) or b""
        above = self._store.get(layout.tile_key(level + 1, n // tiles.TILE_WIDTH)) or b""
        at = n % tiles.TILE_WIDTH * merkle.HASH_SIZE
        hashes = [row[start : start + merkle.HASH_SIZE] for start in range(0, len(row), merkle.HASH_SIZE)]
        whole = len(row) == tiles.TILE_WIDTH * merkle.HASH_SIZE
        if whole and tiles.Edge().append(hashes)[0].root() == above[at : at + merkle.HASH_SIZE]:
            return None
        first = (n * tiles.TILE_WIDTH) << (tiles.TILE_HEIGHT * level)
        return Fault(first, f"tile of level {level} over the entries from here is not what the one above says")

    def edge(self, size: int, root: bytes) -> Fault | None:
        """Check what remains of the tree of *size* leaves, the tiles at its right edge, against its root."""
        if reads.root_at(self._store, size) != root:
            return Fault(None, f"tiles at the right edge do not hash to the root at size {size}")
        level, hashes = 0, self._ledger.state.size
        while hashes:
            n, width = divmod(hashes, tiles.TILE_WIDTH)
            row = self._store.get(layout.tile_key(level, n))
            if len(row or b"") != width * merkle.HASH_SIZE:
                first = (n * tiles.TILE_WIDTH) << (tiles.TILE_HEIGHT * level)
                return Fault(first, f"tile of level {level} over the entries from here has not the tree's width")
            level, hashes = level + 1, n
        return None

    # -- rows by their key ------------------------------------------------------------------------------------

    def place(self, key: bytes) -> Fault | None:
        """Check that an index row leads to its entry: below the minimum index nothing else asks for one kept."""
        row = self._store.get(key)
        if row is None:
            return None  # pruned meanwhile
        index = layout.decode_u64(row)
        leaf = self._store.get(layout.leaf_key(index))
        event = None if leaf is None else codec.decode_leaf(leaf)
        if isinstance(event, codec.Event) and layout.index_key(event.tag, event.seq) == key:
            return None
        return Fault(index, "index row leads to no entry, or to another's")

    def head(self, key: bytes) -> Fault | None:
        """Check that a head row is the chain hash of the entry it counts to."""
        row = self._store.get(key) or b""
        if len(key) != 33 or len(row) != layout.HEAD.size:
            return Fault(self.last_index(key[1:]), "head row has an impossible length")
        count, head = layout.HEAD.unpack(row)
        place = self._store.get(layout.index_key(key[1:], count))
        leaf = None if place is None else self._store.get(layout.leaf_key(layout.decode_u64(place)))
        if leaf is not None and codec.chain_hash(leaf) == head:
            return None
        return Fault(self.last_index(key[1:]), "head row is not where the chain stands")

    def request(self, key: bytes) -> Fault | None:
        """Check a request row against the entry it names, as far as its hash of the content lets it."""
        row = self._store.get(key)
        if row is None:
            return None  # its time came meanwhile
        if len(key) != 33 or len(row) != layout.REQUEST.size:
            return Fault(None, "request row has an impossible length")
        index, time_ms, _ = layout.REQUEST.unpack(row)
        leaf = self._store.get(layout.leaf_key(index))
        expiry = self._store.get(layout.expiry_key(time_ms, key[1:]))
        if leaf is None and index >= retention.read_pruned(self._store).minimum:
            return Fault(None, f"request row names an entry that is not there: `{index}`")
        what = rows.request_fault(time_ms, leaf, expiry)
        return None if what is None else Fault(index, what)

    def expiry(self, key: bytes) -> Fault | None:
        """Check that a row that says when a request may go has that request."""
        row = self._store.get(key)
        what = None if row is None else rows.expiry_fault(key, row, self._store.get(b"q" + key[9:]))
        return None if what is None else Fault(None, what)

    # -- the map ----------------------------------------------------------------------------------------------

    def _seal(self) -> int | None:
        return self._ledger.state.sealed_size - 1 if self._ledger.state.sealed_size else None

    def map_root(self) -> Fault | None:
        """Check that the map in memory has the root that the last seal has."""
        if self._ledger.map.root() == self._ledger.state.map_root:
            return None
        return Fault(self._seal(), "map in memory has not the root that the last seal has")

    def bucket(self, number: int) -> Fault | None:
        """Check a bucket of the map against its root in memory."""
        top = self._ledger.map.top
        bucket = self._store.get(layout.bucket_key(number)) or b""
        bucketed.verify_bucket(bucket, number=number, map_bits=top.map_bits)
        if bucketed.bucket_root(bucket, top.map_bits) == top.bucket_root(number):
            return None
        return Fault(self._seal(), f"map bucket `{number}` is not as the last seal has it")

    def roots(self, group: int) -> Fault | None:
        """Check a row of bucket roots against those in memory."""
        top, width = self._ledger.map.top, layout.ROOTS_PER_ROW
        numbers = range(group * width, min((group + 1) * width, 1 << top.map_bits))
        roots = [top.bucket_root(number) for number in numbers]
        row = self._store.get(layout.roots_key(group))
        if row == b"".join(root or codec.ZERO_HASH for root in roots) or (row is None and not any(roots)):
            return None
        return Fault(self._seal(), f"row `{group}` of bucket roots is not as the last seal has it")

    # -- the vault --------------------------------------------------------------------------------------------

    def index_key(self) -> Fault | None:
        """Check that the vault's index key is the one in memory."""
        return None if self._vault.opens(b"K") else Fault(None, "index key of the vault is not what it was opened with")

    def data_key(self, key: bytes) -> Fault | None:
        """Check that a person's data key opens under the vault key."""
        # Threads that enrol write the vault too, so no moment is still: the row is asked for last whether it is there.
        if self._vault.opens(key) or self._vault.store.get(key) is None:
            return None
        what = "data key of the person enrolled here does not open under the vault key"
        return Fault(self.first_index(key[1:]), what)

    def identifier(self, key: bytes) -> Fault | None:
        """Check that an identifier leads to a person who has a data key."""
        tag = self._vault.store.get(key)
        if tag is None:
            return None
        if len(key) == 33 and len(tag) == 32 and self._vault.store.get(b"k" + tag) is not None:
            return None
        if self._vault.store.get(key) is None or (len(tag) == 32 and self.is_erased(tag)):
            return None  # erased meanwhile, or half: the next start does the rest
        index = self.first_index(tag) if len(tag) == 32 else None
        return Fault(index, "identifier in the vault leads to no data key")
