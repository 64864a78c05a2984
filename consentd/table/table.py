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

from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import CorruptionError, MalformedError, RequestError, StorageError
from consentd.ledger import reads
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


def catch_up(
    table: Table,
    store: Store,
    vault: Vault,
    *,
    size: int,
    wall_ms: int = 0,
    progress: Callable[[int], None] | None = None,
    after_leaf: Callable[[bytes], None] | None = None,
) -> int:
    """Apply to the table the entries of the first *size* leaves that it does not reflect yet.

    Args:
        wall_ms: the heartbeat that readers of the table see.
        progress: called with the size that the table has reached, after each batch of ``CATCH_UP_BATCH`` leaves.
        after_leaf: called after each leaf, inside the table's transaction; may wait.

    Returns:
        How many leaves were read.

    Raises:
        CorruptionError: the table is ahead of the ledger, or reflects another one.
    """
    with table.read() as snapshot:
        done, root = snapshot.size, snapshot.root
    if done > size:
        raise CorruptionError(f"table is ahead of its ledger: size {done}, ledger has {size}; see ops/RUNBOOK.md")
    if done and root != reads.root_at(store, done):
        raise CorruptionError(f"table reflects another ledger at size {done}; rebuild it: `consentd table rebuild`")
    start = done
    while done < size:
        end = min(done + CATCH_UP_BATCH, size)
        with table.begin() as transaction:
            for _, leaf in reads.scan_leaves(store, done, end):
                event = codec.decode_leaf(leaf)
                if isinstance(event, codec.Event):
                    try:
                        transaction.apply(event, read_message(store, vault, event))
                    except (RequestError, MalformedError) as error:
                        raise CorruptionError(
                            f"entry does not apply to the table: kind {event.kind} seq {event.seq}; see ops/RUNBOOK.md"
                        ) from error
                if after_leaf is not None:
                    after_leaf(leaf)
            transaction.commit(end, reads.root_at(store, end), wall_ms)
        done = end
        if progress is not None:
            progress(done)
    return done - start


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
