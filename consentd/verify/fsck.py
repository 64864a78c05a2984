"""Verify a ledger's files from nothing: every leaf, every row, every signature, and the table made from them.

What ``opening`` checks in a moment rests on what was verified when it was written. This looks again, and trusts only
the log's public key: leaves are replayed; tiles, map, heads, index and state must be what the replay yields;
statements must open to what their leaves commit to, and be signed by a key in force then; the last signed checkpoint
must be one of this tree; the policy table must equal one rebuilt from nothing. It reads, and repairs nothing.

It goes on behind a fault where that makes sense, and names each entry that is touched; what cannot be told any more for
an earlier fault is counted as not checked. Memory: the replay's (0.35 kB a tag), a chunk of entries, and 40 bytes for
each statement of erased persons.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from consentd.core import codec, merkle, note, tiles
from consentd.core.note import Verifier
from consentd.core.pruned import NOTHING, Pruned
from consentd.core.replay import Replay, ReplayError
from consentd.errors import ConsentdError, CorruptionError, ProofError, VerificationError
from consentd.ledger import layout
from consentd.ledger.last_signed import read_last_signed
from consentd.ledger.ledger import Ledger, State
from consentd.ledger.map import TagMap
from consentd.ledger.recovery import verify_last_signed
from consentd.ledger.retention import read_ledger_statement, read_pruned, read_stated
from consentd.ledger.vault import Vault
from consentd.store import Store
from consentd.store.memory import MemoryStore
from consentd.table.table import Table, catch_up
from consentd.verify import rows as rows
from consentd.verify.findings import Enough, Fault, Findings
from consentd.verify.rows import CHUNK, Gap
from consentd.verify.statements import Statements

__all__ = ["Fault", "Report", "verify_ledger"]

_WIDTH = tiles.TILE_WIDTH
_SCRATCH_MAP_MB = 1 << 16  # addresses for the rebuilt table, not memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found.

    Attributes:
        size: leaves looked at, of which ``entries`` and ``seals``.
        statements_opened: statements opened and compared with their leaves, signatures verified.
        statements_erased: statements that are gone, and whose chain says so.
        leaves_pruned, statements_pruned: those that are gone as the ledger states and its retention policy allows.
        not_checked: what could not be told, each with the reason and how often.
        faults: what is wrong, at most 100.
        stopped: there may be more faults: the search ended at the hundredth.
    """

    size: int
    entries: int
    seals: int
    statements_opened: int
    statements_erased: int
    leaves_pruned: int
    statements_pruned: int
    not_checked: tuple[str, ...]
    faults: tuple[Fault, ...]
    stopped: bool


def verify_ledger(
    store: Store,
    *,
    origin: str,
    log_verifier: Verifier,
    last_signed_path: Path | None,
    vault: Vault | None = None,
    table: Table | None = None,
    quick: bool = False,
    scratch_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Verify a ledger that nobody writes to meanwhile.

    Args:
        last_signed_path: the file of the last signed checkpoint; None: a copy of the store, which has none.
        vault, table: without them statements of persons stay closed, and the table is not compared.
        quick: leave out what costs most: statements, signatures and the table.
        scratch_dir: where the table is rebuilt, as large as itself; None: the system's directory for such files.
        progress: called with the leaves done, and all of them.

    Raises:
        StorageError: the disk fails. Damage is never raised, but reported.
    """
    under_way = _Verification(store, origin, None if quick else vault, progress, statements=not quick)
    try:
        under_way.verify_name(log_verifier)
        under_way.run()
        if last_signed_path is not None:
            under_way.verify_last_signed(last_signed_path, log_verifier)
        if table is not None and not quick:
            under_way.verify_table(table, scratch_dir)
    except Enough:
        return under_way.report(stopped=True)
    return under_way.report(stopped=False)


class _Verification:
    """One verification under way."""

    def __init__(
        self,
        store: Store,
        origin: str,
        vault: Vault | None,
        progress: Callable[[int, int], None] | None,
        *,
        statements: bool,
    ) -> None:
        self.store, self.origin, self.vault, self.progress = store, origin, vault, progress
        self.found = Findings()
        self.pruned = self._read_pruned()
        self.statements = (
            Statements(store, origin, vault, self.found, kept_from_ms=self.pruned.kept_from_ms) if statements else None
        )
        self.state: State | None = None
        self.replay = Replay(1)
        self.entries = self.seals = self.leaves_pruned = 0
        self._upper: dict[tuple[int, int], bytes] = {}  # tiles above the lowest level that may still grow

    def run(self) -> None:
        """Replay all leaves, then compare what that yields."""
        self.state = rows.read_state(self.store, self.found)
        size = self._verify_size()
        map_bits = self.state.map_bits if self.state is not None else 14
        self.replay = Replay(map_bits, start=self.pruned.start, kept_from_ms=self.pruned.kept_from_ms)
        for start in range(0, size, CHUNK):
            self._verify_chunk(start, min(start + CHUNK, size))
            if self.progress is not None:
                self.progress(min(start + CHUNK, size), size)
        rows.compare_tiles(self.store, self._upper, self.found)
        if self.state is not None:
            rows.compare_state(self.state, self.replay, self.found)
        rows.compare_heads(self.store, self.replay, self.found)
        rows.compare_map(self.store, self.replay, self.found)
        rows.compare_requests(self.store, size, self.found)
        rows.find_strays(self.store, self.replay, self.found, statements=self.statements is not None)
        if self.statements is not None:
            self.statements.verify_erasures(self.replay)

    def report(self, *, stopped: bool) -> Report:
        """Return what was found."""
        return Report(
            size=self.replay.size,
            entries=self.entries,
            seals=self.seals,
            statements_opened=0 if self.statements is None else self.statements.opened,
            statements_erased=0 if self.statements is None else self.statements.erased,
            leaves_pruned=self.leaves_pruned,
            statements_pruned=0 if self.statements is None else self.statements.pruned,
            not_checked=tuple(f"{what}: {count}" for what, count in self.found.unchecked.items()),
            faults=tuple(self.found.faults),
            stopped=stopped,
        )

    def _read_pruned(self) -> Pruned:
        """Return what may be missing: no more than the ledger states, and no more than its policy lets it state."""
        try:
            pruned = read_pruned(self.store)
            if pruned == NOTHING:
                return NOTHING
            days, stated = read_stated(self.store)
        except (CorruptionError, VerificationError) as error:
            self.found.add(None, f"what is pruned cannot be read: {error}")
            return NOTHING
        stating = next((one for one in stated if one.pruned == pruned), None)
        if stating is None:
            self.found.add(None, "store says that it is pruned, and the ledger does not")
            return NOTHING
        try:
            pruned.verify_policy(days=days, time_ms=stating.time_ms)
        except ProofError as error:
            self.found.add(stating.index, str(error))
        return pruned

    def _verify_size(self) -> int:
        """Return how many leaves there are to look at, whatever the state row says."""
        try:
            last = next(self.store.scan(b"l", b"m", reverse=True, limit=1), None)
        except CorruptionError:
            last = None if self.state is None else (layout.leaf_key(self.state.size - 1), b"")
        stored = 0 if last is None else layout.decode_u64(last[0]) + 1
        size = stored if self.state is None else self.state.size
        if size != stored:
            self.found.add(None, f"state row counts `{size}` leaves, the last leaf stored is `{stored - 1}`")
        # What is missing at the end is named, and what lies beyond; unless the row itself is what is wrong.
        return size if size - stored <= CHUNK else stored

    # -- leaves -----------------------------------------------------------------------------------------------

    def _verify_chunk(self, start: int, end: int) -> None:
        leaves = rows.read_rows(self.store, [layout.leaf_key(index) for index in range(start, end)])
        numbers = range(start // _WIDTH, -(-end // _WIDTH))
        stored = rows.read_rows(self.store, [layout.tile_key(0, n) for n in numbers])
        events: list[tuple[int, codec.Event]] = []
        for n, tile in zip(numbers, stored, strict=True):
            first = n * _WIDTH
            part = leaves[first - start : first - start + _WIDTH]
            in_tree = self._compare_tile(n, part, tile)
            for index, (leaf, tree_hash) in enumerate(zip(part, in_tree, strict=True), first):
                event = self._replay_leaf(index, leaf, tree_hash)
                if event is not None:
                    events.append((index, event))
            self._upper.update((place, grown) for place, grown in self.replay.grow().items() if place[0])
        full = {place: tile for place, tile in self._upper.items() if len(tile) == _WIDTH * merkle.HASH_SIZE}
        rows.compare_tiles(self.store, full, self.found)
        for place in full:
            del self._upper[place]
        self._verify_events(events)

    def _compare_tile(self, n: int, leaves: list[bytes | Gap], tile: bytes | Gap) -> list[bytes | None]:
        """Compare leaves with their tile; return for each lost or damaged leaf its hash in the tree, else None.

        Where the two differ, what stands above the tile tells which of them is damaged.
        """
        size = merkle.HASH_SIZE
        in_tile = [tile[at * size : at * size + size] if isinstance(tile, bytes) else b"" for at in range(len(leaves))]
        hashes = [
            merkle.leaf_hash(leaf) if isinstance(leaf, bytes) else found or codec.ZERO_HASH
            for leaf, found in zip(leaves, in_tile, strict=True)
        ]
        overrides = [h if isinstance(leaf, Gap) else None for leaf, h in zip(leaves, hashes, strict=True)]
        if tile == b"".join(hashes):
            return overrides
        if isinstance(tile, Gap):
            self.found.add(n * _WIDTH, f"tile over the entries from here {tile.value}")
            return overrides
        if len(leaves) < _WIDTH:
            root = self.replay.edge.append(hashes)[0].root()
            is_tile_wrong = self.state is not None and root == self.state.root
        else:
            parent = rows.read_rows(self.store, [layout.tile_key(1, n // _WIDTH)])[0]
            at = n % _WIDTH * size
            whole = tiles.Edge().append(hashes)[0].root()
            is_tile_wrong = isinstance(parent, bytes) and parent[at : at + size] == whole
        for place, (computed, found) in enumerate(zip(hashes, in_tile, strict=True)):
            if computed != found:
                damaged = "tile" if is_tile_wrong else "leaf"
                self.found.add(n * _WIDTH + place, f"{damaged} is damaged: they do not hash alike")
                if not is_tile_wrong and len(found) == size:
                    overrides[place] = found
        if len(tile) != len(hashes) * size:
            self.found.add(None, "tile holds more or fewer hashes than the tree has leaves")
        return overrides

    def _replay_leaf(self, index: int, leaf: bytes | Gap, tree_hash: bytes | None) -> codec.Event | None:
        """Replay one leaf; return the event that its other rows can be compared with."""
        if leaf is Gap.MISSING and index < self.pruned.minimum and index != self.pruned.start - 1:
            self.leaves_pruned += 1
            self.replay.skip_pruned(tree_hash or codec.ZERO_HASH)
            return None
        if isinstance(leaf, Gap):
            self.found.add(index, f"leaf {leaf.value}")
        if isinstance(leaf, Gap) or tree_hash is not None:
            if self.statements is not None:
                self.statements.keys_lost = True
            if isinstance(leaf, Gap):
                self.replay.skip_unreadable(tree_hash or codec.ZERO_HASH)
            else:
                self.replay.add_faulty(leaf, tree_hash)
            return None
        was_sure = self.replay.knows_all_heads
        decoded: codec.Event | codec.Seal | None
        try:
            decoded = self.replay.add(leaf)
        except ReplayError as error:
            self.found.add(index, str(error))
            decoded = self.replay.add_faulty(leaf)
        if isinstance(decoded, codec.Event):
            self.entries += 1
            return decoded
        self.seals += decoded is not None
        if not was_sure:
            self.found.not_checked("map roots of seals behind a damaged leaf")
        return None

    def _verify_events(self, events: list[tuple[int, codec.Event]]) -> None:
        places = rows.read_rows(self.store, [layout.index_key(event.tag, event.seq) for _, event in events])
        for (index, _), row in zip(events, places, strict=True):
            if isinstance(row, Gap):
                self.found.add(index, f"index row {row.value}")
            elif row != layout.encode_u64(index):
                self.found.add(index, "index row names another place")
        if self.statements is not None:
            self.statements.verify(events)

    def verify_name(self, log_verifier: Verifier) -> None:
        """Compare what leaf 0 says of itself with what was pinned: nothing else in a copy of the store says it."""
        try:
            said = read_ledger_statement(self.store)
        except (CorruptionError, VerificationError):
            return  # the replay, and the statements, name it
        if said is None:
            return
        if said.origin != self.origin:
            self.found.add(0, f"ledger is another than the one pinned: `{said.origin}`")
        if note.format_vkey(log_verifier) not in said.verifier_keys:
            self.found.add(0, "log key that was pinned is not one that the ledger began with")

    # -- beside the store -------------------------------------------------------------------------------------

    def verify_last_signed(self, last_signed_path: Path, log_verifier: Verifier) -> None:
        """Verify that the last signed checkpoint is a checkpoint of this very tree."""
        try:
            signed = read_last_signed(last_signed_path)
            if signed is None:
                if self.replay.sealed_size:
                    self.found.add(None, "last signed checkpoint is missing")
                return
            verify_last_signed(
                self.store, signed, size=self.replay.size, origin=self.origin, log_verifier=log_verifier
            )
        except ConsentdError as error:
            self.found.add(None, str(error))

    def verify_table(self, table: Table, scratch_dir: Path | None) -> None:
        """Rebuild the table from nothing and compare, at the size it stands at: one that is behind is ordinary."""
        if self.vault is None or self.state is None or self.found.faults:
            self.found.not_checked("policy table, for want of the vault or of a sound ledger")
            return
        with table.read() as old:
            if old.size > self.state.size:
                self.found.add(None, f"table is ahead of its ledger: size {old.size}, ledger has {self.state.size}")
                return
            with tempfile.TemporaryDirectory(prefix="consentd-fsck-", dir=scratch_dir) as scratch:
                fresh = Table.open(Path(scratch), map_size_mb=_SCRATCH_MAP_MB)
                try:
                    at_its_size = replace(self.state, size=old.size)
                    ledger = Ledger(self.store, at_its_size, self.replay.edge, TagMap(MemoryStore(), 1))
                    catch_up(fresh, ledger, self.vault, 0)
                    with fresh.read() as new:
                        both = old.rows(), new.rows()
                        rows.compare_tables(*both, store=self.store, replay=self.replay, found=self.found)
                except ConsentdError as error:
                    self.found.add(None, f"table cannot be rebuilt: {error}")
                finally:
                    fresh.close()
