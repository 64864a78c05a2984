"""Check one stored record against another record that must agree: the checks of a scrub (``scrub``).

Each check returns a fault, or None if it finds none. The ledger is in use, so rows may change while a check reads them,
and then seem wrong. ``scrub`` repeats such a check on the sequencer's thread, where no row changes meanwhile.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consentd.core import bucketed, codec, merkle, tiles
from consentd.core.kinds import EntryKind
from consentd.core.note import Verifier
from consentd.core.pruned import NOTHING
from consentd.errors import ConsentdError, NotFoundError
from consentd.ledger import layout, reads, retention
from consentd.ledger.ledger import Ledger, decode_state
from consentd.ledger.vault import Vault
from consentd.table.table import Table
from consentd.verify import stored_rows as rows
from consentd.verify.findings import Fault
from consentd.verify.kept_checkpoints import kept_faults
from consentd.verify.source import tile_root

Check = Callable[[], Fault | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubTarget:
    """What a scrub reads. *origin* and *log_verifier* are needed to verify the last signed checkpoint.

    *last_signed_path*: None in a restored copy, which may lack what was signed. *erased_since*: tags of persons whom
    the list of erasures names, and whose ERASURE a restored copy may lack.
    """

    ledger: Ledger
    vault: Vault
    table: Table
    last_signed_path: Path | None
    origin: str
    log_verifier: Verifier
    erased_since: frozenset[bytes] = frozenset()


class Records:
    """The records of a ledger, its vault and its last signed checkpoint.

    A check of a record that cannot be read raises ``ConsentdError``, ``struct.error``, ValueError or IndexError.
    """

    def __init__(self, target: ScrubTarget) -> None:
        self.target = target
        self._ledger, self._store, self._vault = target.ledger, target.ledger.store, target.vault

    def state(self) -> Fault | None:
        """Check the state row against the state in memory."""
        stored = decode_state(self._store.get(layout.STATE) or b"")
        return None if stored == self._ledger.state else Fault(None, "state row differs from the state in memory")

    def pruned(self) -> None:
        """Check that the row of what is pruned can be read."""
        retention.read_pruned(self._store)

    def stated(self) -> Fault | None:
        """Check that an entry of the ledger states the pruning that is in the row of what is pruned."""
        pruned = retention.read_pruned(self._store)
        if pruned == NOTHING or any(one.pruned == pruned for one in retention.read_stated_prunings(self._store)[1]):
            return None
        return Fault(None, "row of what is pruned is not what the ledger states")

    def last_signed(self) -> Fault | None:
        """Check that the last signed checkpoint is of this tree. Otherwise only the next start would find damage."""
        state, target = self._ledger.state, self.target
        if target.last_signed_path is None:
            return None
        what = rows.last_signed_fault(
            self._store, target.last_signed_path, size=state.size, sealed_size=state.sealed_size,
            origin=target.origin, log_verifier=target.log_verifier,
        )  # fmt: skip
        return None if what is None else Fault(None, what)

    def kept_checkpoints(self) -> Fault | None:
        """Check the kept checkpoints of log keys that were replaced."""
        size = self._ledger.state.sealed_size
        faults = kept_faults(self._store, origin=self.target.origin, sealed_size=size)
        return Fault(None, faults[0]) if faults else None

    def entry(self, index: int) -> Fault | None:
        """Check a leaf against the tile over it. If it is an event, also check the other rows of its entry."""
        leaf = self._store.get(layout.leaf_key(index))
        if leaf is None:
            is_pruned = index < retention.read_pruned(self._store).minimum
            return None if is_pruned else Fault(index, "leaf is missing")
        n, at = divmod(index, tiles.TILE_WIDTH)
        hashed = (self._store.get(layout.tile_key(0, n)) or b"")[at * merkle.HASH_SIZE :][: merkle.HASH_SIZE]
        # A tile with too few hashes is one fault, found by ``tile`` or ``edge``, and not a fault of each of its leaves.
        if len(hashed) == merkle.HASH_SIZE and merkle.leaf_hash(leaf) != hashed:
            return Fault(index, "leaf and the tile over it do not hash alike")
        event = codec.decode_leaf(leaf)
        if isinstance(event, codec.Seal):
            return None
        if self._store.get(layout.index_key(event.tag, event.seq)) != layout.encode_u64(index):
            return Fault(index, "index row names another index, or is missing")
        if self._ledger.head(event.tag)[0] < event.seq:
            return Fault(index, "head row is missing, or of an earlier entry")
        wrong = rows.reference_fault(self._store, event, index)
        if wrong is not None:
            return Fault(index, wrong)
        row = self._store.get(layout.statement_key(event.tag, event.seq))
        try:
            if row is not None:
                self._vault.decrypt(event, row)
                return None
        except NotFoundError:
            pass  # The person's key was destroyed.
        is_erased = event.tag in self.target.erased_since or self.is_erased(event.tag)
        may_be_gone = is_erased or retention.read_pruned(self._store).covers(event)
        return None if may_be_gone else Fault(index, "statement or its key is missing")

    def is_erased(self, tag: bytes) -> bool:
        """Return whether the last entry of a chain is an ERASURE."""
        count, _ = self._ledger.head(tag)
        return bool(count) and reads.read_entry(self._store, tag, count).event.kind == EntryKind.ERASURE

    def first_index(self, tag: bytes) -> int | None:
        """Return the index of a chain's first entry; None if there is no such chain."""
        row = self._store.get(layout.index_key(tag, 1))
        return None if row is None else layout.decode_u64(row)

    def last_index(self, tag: bytes) -> int | None:
        """Return the index of a chain's last entry, from the chain's index rows; None if there are no such rows."""
        rows = self._store.scan(layout.index_key(tag, 1), layout.index_key(tag, codec.MAX_SEQ), reverse=True, limit=1)
        return next((layout.decode_u64(row) for _, row in rows), None)

    def tile(self, level: int, n: int) -> Fault | None:
        """Check a full tile against its hash in the tile above."""
        row = self._store.get(layout.tile_key(level, n)) or b""
        above = self._store.get(layout.tile_key(level + 1, n // tiles.TILE_WIDTH)) or b""
        at = n % tiles.TILE_WIDTH * merkle.HASH_SIZE
        is_full = len(row) == tiles.TILE_WIDTH * merkle.HASH_SIZE
        if is_full and tile_root(row) == above[at : at + merkle.HASH_SIZE]:
            return None
        first = (n * tiles.TILE_WIDTH) << (tiles.TILE_HEIGHT * level)
        return Fault(first, f"tile of level {level} over the entries from here does not match the tile above")

    def edge(self, size: int, root: bytes) -> Fault | None:
        """Check the partial tiles, at the right edge of the tree, against the *root* of the first *size* leaves."""
        if reads.root_at(self._store, size) != root:
            return Fault(None, f"tiles at the right edge do not hash to the root at size {size}")
        level, hashes = 0, self._ledger.state.size
        while hashes:
            n, width = divmod(hashes, tiles.TILE_WIDTH)
            row = self._store.get(layout.tile_key(level, n))
            if len(row or b"") != width * merkle.HASH_SIZE:
                first = (n * tiles.TILE_WIDTH) << (tiles.TILE_HEIGHT * level)
                return Fault(first, f"tile of level {level} over the entries from here does not have the tree's width")
            level, hashes = level + 1, n
        return None

    def index_row(self, key: bytes) -> Fault | None:
        """Check that an index row leads to its entry. ``entry`` cannot check index rows where leaves are pruned."""
        row = self._store.get(key)
        if row is None:
            return None  # The row was pruned after the scan read its key.
        index = layout.decode_u64(row)
        leaf = self._store.get(layout.leaf_key(index))
        event = None if leaf is None else codec.decode_leaf(leaf)
        if isinstance(event, codec.Event) and layout.index_key(event.tag, event.seq) == key:
            return None
        return Fault(index, "index row leads to no entry, or to another's")

    def reference(self, key: bytes) -> Fault | None:
        """Check that a reference row is of an entry that refers to what the row says."""
        if len(key) != 49:
            return Fault(None, "reference row has an impossible length")
        if not rows.is_stray_reference(self._store, key) or self._store.get(key) is None:
            return None  # If it is gone, the row was pruned after the scan read its key.
        return Fault(None, "reference row is of an entry that does not exist, or that refers to another one")

    def head(self, key: bytes) -> Fault | None:
        """Check that a head row has the chain hash of the entry whose seq is the row's count."""
        row = self._store.get(key) or b""
        if len(key) != 33 or len(row) != layout.HEAD.size:
            return Fault(self.last_index(key[1:]), "head row has an impossible length")
        count, head = layout.HEAD.unpack(row)
        index_row = self._store.get(layout.index_key(key[1:], count))
        leaf = None if index_row is None else self._store.get(layout.leaf_key(layout.decode_u64(index_row)))
        if leaf is not None and codec.chain_hash(leaf) == head:
            return None
        return Fault(self.last_index(key[1:]), "head row is not that of the chain's last entry")

    def request(self, key: bytes) -> Fault | None:
        """Check a request row against the entry that the row names. The hash of the request content is not checked."""
        row = self._store.get(key)
        if row is None:
            return None  # The row expired and was deleted after the scan read its key.
        if len(key) != 33 or len(row) != layout.REQUEST.size:
            return Fault(None, "request row has an impossible length")
        index, time_ms, _ = layout.REQUEST.unpack(row)
        leaf = self._store.get(layout.leaf_key(index))
        expiry = self._store.get(layout.expiry_key(time_ms, key[1:]))
        if leaf is None and index >= retention.read_pruned(self._store).minimum:
            return Fault(None, f"request row names an entry that does not exist: `{index}`")
        what = rows.request_fault(time_ms, leaf, expiry)
        return None if what is None else Fault(index, what)

    def expiry(self, key: bytes) -> Fault | None:
        """Check that the request of an expiry row exists."""
        row = self._store.get(key)
        what = None if row is None else rows.expiry_fault(key, row, self._store.get(b"q" + key[9:]))
        return None if what is None else Fault(None, what)

    def _seal(self) -> int | None:
        return self._ledger.state.sealed_size - 1 if self._ledger.state.sealed_size else None

    def map_root(self) -> Fault | None:
        """Check that the root of the map in memory is the map root in the last seal."""
        if self._ledger.map.root() == self._ledger.state.map_root:
            return None
        return Fault(self._seal(), "map root in memory is not that of the last seal")

    def bucket(self, number: int) -> Fault | None:
        """Check a bucket of the map against its root in memory."""
        top = self._ledger.map.top
        bucket = self._store.get(layout.bucket_key(number)) or b""
        bucketed.verify_bucket(bucket, number=number, map_bits=top.map_bits)
        if bucketed.bucket_root(bucket, top.map_bits) == top.bucket_root(number):
            return None
        return Fault(self._seal(), f"map bucket `{number}` does not match the last seal")

    def roots(self, group: int) -> Fault | None:
        """Check a row of bucket roots against the bucket roots in memory."""
        expected = rows.roots_row(self._ledger.map.top, group)
        row = self._store.get(layout.roots_key(group))
        if row == expected or (row is None and not any(expected)):
            return None
        return Fault(self._seal(), f"row `{group}` of bucket roots does not match the last seal")

    def index_key(self) -> Fault | None:
        """Check that the vault's stored index key is the index key in memory."""
        return None if self._vault.opens(b"K") else Fault(None, "index key of the vault is not the one in memory")

    def vault_keys(self) -> Fault | None:
        """Check that the rows of the vault keys are those that were unwrapped: without them nothing else opens."""
        number = self._vault.lost_vault_key()
        return None if number is None else Fault(None, f"vault key `{number}` is not the one in memory")

    def vault_state(self) -> Fault | None:
        """Check that the vault has all writes that the ledger has recorded."""
        what = rows.vault_fault(self._store, self._vault)
        return None if what is None else Fault(None, what)

    def data_key(self, key: bytes) -> Fault | None:
        """Check that a vault key decrypts a person's data key."""
        # Other threads write to the vault when they enrol persons, so a row may change even during a check on the
        # sequencer's thread. If the second read finds no row, the row was deleted, and that is no fault.
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
            return None  # The person was erased after the scan, or a crash interrupted the erasure.
        index = self.first_index(tag) if len(tag) == 32 else None
        return Fault(index, "identifier in the vault leads to no data key")


def run_check(check: Check, what: str, index: int | None) -> Fault | None:
    """Run a check; return its fault, or None. A record that cannot be read is a fault too."""
    try:
        return check()
    except ConsentdError as error:
        return Fault(index, f"{what}: {error}")
    except (struct.error, ValueError, IndexError):
        return Fault(index, f"{what}: a row has an impossible length or value")
