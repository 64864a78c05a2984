"""Keep the evaluator's view of the ledger: the policy table, in LMDB.

Derived, never trusted: each row follows from the ledger's entries by ``table_turn``, and ``rebuild`` makes it again
from nothing. One writer, the sequencer, inside one transaction a batch; any number of readers, in any process,
each on the last commit. Format, for the second program that reads it: ``proto/table-format.md``.

=====  ============================  =====================================================================
first  rest of the key               value
=====  ============================  =====================================================================
``R``                                revision: tree size u64 ‖ root[32] ‖ registry generation u64 ‖ format u8
``H``                                heartbeat: UTC ms u64
``i``  identifier hash[32]           tag[32]
``s``  tag[32]                       the subject value; empty: enrolled, without consents
``p``  participant id                number u32 ‖ ParticipantStatement
``g``  group id                      number u32
``k``  key[32]                       owner u8 ‖ in force from u64 ‖ until u64 ‖ owner's id or tag
``n``  notice id ‖ 0 ‖ version u32   NoticeStatement
``v``                                VocabularyStatement in force
``r``                                RulesStatement in force
``c``                                the rules, compiled
``#``                                last participant or group number given, u32
=====  ============================  =====================================================================

Integers of keys and of these rows are big-endian; the subject value and compiled rules have their own layout.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import CorruptionError, MalformedError, RequestError, StorageError
from consentd.ledger import reads
from consentd.ledger.ledger import Ledger
from consentd.ledger.vault import Vault
from consentd.statements import payloads
from consentd.store import Store
from consentd.store.lmdb import STOPPED, Environment
from consentd.table.transaction import STEPS, TableTransaction
from consentd.table.view import U64, Shared, Snapshot


class Table:
    """The table's environment. ``read`` may be used from any thread; the rest is the sequencer's."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._shared = Shared()
        self._is_behind = False  # set by the sequencer, for good

    @classmethod
    def open(cls, path: Path, *, map_size_mb: int) -> "Table":
        """Open the table for writing, or begin an empty one.

        Raises:
            StorageError, CorruptionError: see ``Environment.open``.
        """
        return cls(Environment.open(path, map_size_mb=map_size_mb))

    @classmethod
    def open_read_only(cls, path: Path) -> "Table":
        """Open the table for reading, as a second process does."""
        return cls(Environment.open_read_only(path))

    def read(self) -> Snapshot:
        """Begin to read, on the last commit.

        Raises:
            StorageError: see ``stop`` and ``Environment.begin_read``.
        """
        if self._is_behind:
            raise StorageError(STOPPED)
        return Snapshot(self._shared, self._environment.begin_read())

    def begin(self) -> TableTransaction:
        """Begin a batch."""
        return TableTransaction(self._shared, self._environment.begin_write())

    def stop(self) -> None:
        """Let nobody read any more: the ledger has entries, perhaps a withdrawal, that did not come to be here."""
        self._is_behind = True

    def heartbeat(self, wall_ms: int) -> None:
        """Tell readers that the writer lives."""
        with self._environment.begin_write() as txn:
            txn.put(b"H", U64.pack(wall_ms))

    def copy(self, path: Path) -> None:
        """Write a compact copy without freed pages."""
        self._environment.copy(path)

    def used_bytes(self) -> int:
        """Return the bytes of its file in use. Raises as ``Environment.used_bytes``."""
        return self._environment.used_bytes()

    def used_share(self) -> float:
        """Return how much of its map is in use, 0 to 1. Raises as ``Environment.used_bytes``."""
        return self._environment.used_share()

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()


CATCH_UP_BATCH = 2_000
_REVISION_AND_ROOT = 40  # bytes of the revision's row that follow from the ledger alone


def catch_up(
    table: Table, ledger: Ledger, vault: Vault, wall_ms: int, progress: Callable[[int], None] | None = None
) -> int:
    """Apply to the table what the ledger has beyond it; returns how many leaves.

    Raises:
        CorruptionError: the table is ahead of the ledger, or reflects another one.
    """
    store, state = ledger.store, ledger.state
    with table.read() as snapshot:
        size, root = snapshot.size, snapshot.root
    if size > state.size:
        raise CorruptionError(f"table is ahead of its ledger: size {size}, ledger has {state.size}; see ops/RUNBOOK.md")
    if size and root != reads.root_at(store, size):
        raise CorruptionError(f"table reflects another ledger at size {size}; rebuild it: `consentd table rebuild`")
    start = size
    while size < state.size:
        end = min(size + CATCH_UP_BATCH, state.size)
        with table.begin() as turn:
            for _, leaf in reads.scan_leaves(store, size, end):
                event = codec.decode_leaf(leaf)
                if isinstance(event, codec.Event):
                    try:
                        turn.apply(event, read_message(store, vault, event))
                    except (RequestError, MalformedError) as error:
                        raise CorruptionError(
                            f"entry does not apply to the table: kind {event.kind} seq {event.seq}; see ops/RUNBOOK.md"
                        ) from error
            turn.commit(end, reads.root_at(store, end), wall_ms)
        size = end
        if progress is not None:
            progress(size)
    return size - start


def read_message(store: Store, vault: Vault, event: codec.Event) -> Message | None:
    """Return the decoded payload of an event; None where it was erased or says nothing to the table.

    Raises:
        CorruptionError: it does not open, or does not decode.
    """
    if event.kind not in STEPS:
        return None
    entry = reads.read_entry(store, event.tag, event.seq)
    opened = reads.open_entry(vault, entry)
    if opened is None:
        return None
    return payloads.decode_payload(event.kind, codec.decode_statement(opened[1]).payload)


def merge_rows(
    standing: Iterator[tuple[bytes, bytes]], made: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Yield each key of two tables with its row in either, None where there is none; both are sorted by key.

    Of the revision's row only what follows from the ledger is given: behind it is a count of turns.
    """
    ours, right = next(standing, None), next(made, None)
    while ours is not None or right is not None:
        key = min(row[0] for row in (ours, right) if row is not None)
        length = _REVISION_AND_ROOT if key == b"R" else None
        stands = should = None
        if ours is not None and ours[0] == key:
            stands, ours = ours[1][:length], next(standing, None)
        if right is not None and right[0] == key:
            should, right = right[1][:length], next(made, None)
        yield key, stands, should
