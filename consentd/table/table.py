"""The policy table: the rows that a consent check reads, in LMDB.

Every row but ``H`` and ``u`` is computed from the ledger's entries, and can be computed again (``catch_up``), so the
table needs no backup, and is not trusted. The sequencer writes it, one transaction for each batch of entries. Any
number of readers, in any process, read the last commit. ``proto/table-format.md`` describes the format for other
programs that read it.

=====  ============================  =====================================================================
first  rest of the key               value, without its check (``checked_rows``)
=====  ============================  =====================================================================
``R``                                revision: tree size u64 ‖ root[32] ‖ registry generation u64
                                     ‖ time of the last entry, UTC ms u64 ‖ format u8
``H``                                heartbeat: UTC ms u64 ‖ how often the writer has mended a shared row u64
``i``  identifier hash[32]           tag[32]
``s``  tag[32]                       the subject value; empty if enrolled without consents
``p``  participant id                number u32 ‖ count u32 ‖ (group u32 ‖ from u64 ‖ until u64) × count
                                     ‖ ParticipantStatement
``g``  group id                      number u32
``k``  key[32]                       owner u8 ‖ in force from u64 ‖ until u64 ‖ owner's id or tag
``o``  participant id ‖ 0 ‖ key[32]  empty; the key is in force for the participant
``d``  giver ‖ 0 ‖ taker ‖ 0 ‖ u8    DelegationStatement; the u8 is the capacity
``m``  auditor                       seq of the entry u64 ‖ MandateStatement
``x``  certificate name              id of the participant to which it belongs
``n``  notice id ‖ 0 ‖ version u32   number u32 ‖ NoticeStatement
``w``  number of a notice version    from when consents under it are paused, UTC ms u64 ‖ notice id
``t``  number of a notice version    how many consents are in force under it u64
``v``                                VocabularyStatement in force
``r``                                RulesStatement in force
``c``                                the rules, compiled
``h``  tag[32] ‖ seq u64             time u64 ‖ form u8: a hold, or an erasure that is due (``policy.duty``)
``u``  kind u8 ‖ hash[32]            end u64 ‖ caller id: a credential (``credential_rows``)
``#``                                last number assigned to a participant, group or notice version, u32
``e``                                leaf index of the last ERASURE u64
=====  ============================  =====================================================================

Integers of keys and of these rows are big-endian; the subject value and compiled rules have their own layout.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import CorruptionError, MalformedError, RequestError
from consentd.ledger import reads
from consentd.ledger.vault import Vault
from consentd.statements import payloads
from consentd.store import Store, prefix_end
from consentd.store.lmdb import STOPPED, Environment, OpenFiles, ReadTransaction, TableStoppedError
from consentd.table import credential_rows
from consentd.table.checked_rows import CHECK_SIZE, RowCheck, is_intact, seal_row, spoil_row
from consentd.table.credential_rows import CredentialRow, sealed_rows
from consentd.table.registry import Registry, RegistryCache
from consentd.table.transaction import TableTransaction
from consentd.table.view import HEARTBEAT, U64, Snapshot, View
from consentd.waits import SizeWaits

T = TypeVar("T", bound=ReadTransaction)
V = TypeVar("V", bound=View)

PERSON_KINDS = frozenset((b"i", b"s", b"q", b"h"))
"""Kinds of rows that belong to one person each. All checks share the others."""
CATCH_UP_BATCH = 2_000
"""Maximum number of leaves that one transaction of ``catch_up`` applies."""


class Table(Environment):
    """The LMDB environment that has the policy table.

    ``begin``, ``note_size``, ``mend``, ``heartbeat`` and ``stop`` are for the sequencer's thread; any thread may call
    the other methods. No lock is needed: LMDB isolates readers, ``_is_stopped`` is only ever set to True, and
    ``_cache`` is replaced by assignment.
    """

    def __init__(self, opened: OpenFiles) -> None:
        super().__init__(opened)
        self._cache = RegistryCache()
        self._check = RowCheck()
        self._is_stopped = False
        self._size = 0  # that the sequencer has committed last in this process
        self._waits = SizeWaits("table waits", lambda: self._size)

    @property
    def damaged(self) -> int:
        """How often this process has read a damaged row."""
        return self._check.damaged

    def read(self) -> Snapshot:
        """Return a snapshot of the last commit.

        Raises:
            TableStoppedError: ``stop`` was called.
            DamagedRowError, CorruptionError: the revision is damaged, or the table has an unknown format.
            StorageError: as ``begin_read``.
        """
        if self._is_stopped:
            raise TableStoppedError(STOPPED)
        cache = self._cache  # before the transaction begins, see ``mend``
        return self._view(Snapshot, cache, self.begin_read())

    def begin(self) -> TableTransaction:
        """Begin the transaction that applies the next batch of entries; waits while another thread or process has one.

        A power cut may undo the last commit; ``catch_up`` applies its entries again. Raises as ``read``.
        """
        return self._view(TableTransaction, self._cache, self.begin_write())

    def keep_listed(self, registry: Registry) -> None:
        """Keep a registry for the later pages of a list (``Snapshot.registry_of``)."""
        self._cache.keep(registry)

    def _view(self, view: Callable[[RegistryCache, RowCheck, T], V], cache: RegistryCache, txn: T) -> V:
        try:
            return view(cache, self._check, txn)
        except BaseException as error:
            txn.end(error)
            raise

    def note_size(self, size: int) -> None:
        """Note that the last commit reflects *size* leaves, and wake the callers that wait for it."""
        self._size = size
        self._waits.notify()

    def when_reached(self, size: int, timeout_s: float) -> "Future[None]":
        """Return a future that is done when the table reflects *size* leaves, or when waiting for it must end.

        Read the table first: only commits since this process opened the table are noticed. See ``SizeWaits.when``.
        """
        return self._waits.when(size, timeout_s)

    def end_waits(self) -> None:
        """End the waits for a size, because the sequencer ends, or the daemon."""
        self._waits.end()

    def stop(self) -> None:
        """Refuse all later reads: the ledger has entries, perhaps a withdrawal, that the table could not store."""
        self._is_stopped = True

    def mend(self, key: bytes, stored: bytes | None, rebuilt: bytes | None) -> None:
        """Replace a row that is not what the ledger makes it, in two steps. *stored*: the row as it is now.

        A row with a right check still decides, so it is spoiled first: nothing is decided from it any more. At the
        next call the row is spoiled, and *rebuilt*, which was computed once more, takes its place. For *rebuilt* None
        the row is deleted. Both values have their checks.
        """
        is_spoiled, is_shared = stored is not None and not is_intact(key, stored), key[:1] not in PERSON_KINDS
        with self.begin_write() as txn:
            if not is_spoiled:
                txn.put(key, spoil_row(key, (rebuilt or stored or b"")[:-CHECK_SIZE]))
            elif rebuilt is None:
                txn.delete(key)
            else:
                txn.put(key, rebuilt)
            if is_shared:  # in the same commit, so that no reader in another process keeps what the row said
                txn.put(b"H", seal_row(b"H", HEARTBEAT.pack(_written_heartbeat_ms(txn), self._cache.mended + 1)))
        if is_shared:
            # What was read from the wrong row must not decide any more. INVARIANT: a view that begins from now on does
            # not get what a view of an earlier commit reads late: it has another cache.
            self._cache = RegistryCache(mended=self._cache.mended + 1)
        if not is_spoiled:
            self._check.damage(key)

    def put_credentials(self, credentials: Iterable[CredentialRow]) -> int:
        """Make the rows of credentials these; return how many rows were others. For the sequencer's thread."""
        return self.put_sealed_credentials(sealed_rows(credentials))

    def sealed_credentials(self) -> dict[bytes, bytes]:
        """Return the rows of credentials by key, as they are stored: with their checks."""
        with self.begin_read() as txn:
            return dict(txn.scan(credential_rows.PREFIX, prefix_end(credential_rows.PREFIX)))

    def put_sealed_credentials(self, rows: Mapping[bytes, bytes]) -> int:
        """Make the rows of credentials these, which have their checks; return how many rows were others."""
        with self.begin_write() as txn:
            stored = dict(txn.scan(credential_rows.PREFIX, prefix_end(credential_rows.PREFIX)))
            others = [key for key in stored.keys() | rows.keys() if stored.get(key) != rows.get(key)]
            for key in others:
                if key in rows:
                    txn.put(key, rows[key])
                else:
                    txn.delete(key)
        return len(others)

    def close(self) -> None:
        """Close the table; a second call does nothing. No transaction may be open."""
        self.end_waits()
        super().close()

    def heartbeat(self, wall_ms: int) -> None:
        """Write the present time, so that readers can see that the writer runs."""
        with self.begin_write() as txn:
            txn.put(b"H", seal_row(b"H", HEARTBEAT.pack(wall_ms, self._cache.mended)))


def _written_heartbeat_ms(txn: ReadTransaction) -> int:
    """Return when the heartbeat was written; 0, which no reader accepts, if its row is missing or damaged."""
    row = txn.get(b"H")
    return 0 if row is None or not is_intact(b"H", row) else int(U64.unpack_from(row)[0])


def catch_up(
    table: Table, store: Store, vault: Vault, *, size: int, wall_ms: int = 0,
    progress: Callable[[int], None] | None = None, after_leaf: Callable[[bytes], None] | None = None,
) -> int:  # fmt: skip
    """Apply those of the first *size* leaves that the table does not reflect yet; return how many leaves these were.

    Args:
        wall_ms: the present time, which is written as the heartbeat.
        progress: called with the size that the table has reached, after each batch of ``CATCH_UP_BATCH`` leaves.
        after_leaf: called with each leaf after it was applied, inside the table's transaction; may wait.

    Raises:
        CorruptionError: the table reflects more leaves than *size*, or another ledger; or an entry cannot be applied.
        StorageError: the store or the table cannot be read or written.
    """
    with table.read() as snapshot:
        done, root, time_ms = snapshot.size, snapshot.root, snapshot.time_ms
    if done > size:
        raise CorruptionError(f"table is ahead of its ledger: size {done}, ledger has {size}; see ops/RUNBOOK.md")
    if done and root != reads.root_at(store, done):
        raise CorruptionError(f"table reflects another ledger at size {done}; rebuild it: `consentd table rebuild`")
    start = done
    while done < size:
        end = min(done + CATCH_UP_BATCH, size)
        with table.begin() as transaction:
            for index, leaf in reads.scan_leaves(store, done, end):
                time_ms = _apply(transaction, store, vault, index, leaf)
                if after_leaf is not None:
                    after_leaf(leaf)
            transaction.commit(end, reads.root_at(store, end), time_ms=time_ms, wall_ms=wall_ms)
        done = end
        if progress is not None:
            progress(done)
    return done - start


def apply_entries(
    table: Table, store: Store, vault: Vault, entries: Iterable[tuple[int, bytes]], *, size: int,
    after_leaf: Callable[[bytes], None] | None = None,
) -> None:  # fmt: skip
    """Apply some entries alone, given by index and leaf in the ledger's order; the table then has the revision *size*.

    Such a table has the rows of the chains that these entries are, if they are all that these chains and the public
    chains have up to *size*. It is for comparisons, never for use. Raises as ``catch_up``.
    """
    with table.begin() as transaction:
        for index, leaf in entries:
            _apply(transaction, store, vault, index, leaf)
            if after_leaf is not None:
                after_leaf(leaf)
        last = codec.decode_leaf(reads.read_leaf(store, size - 1))
        transaction.commit(size, reads.root_at(store, size), time_ms=last.time_ms, wall_ms=0)


def _apply(transaction: TableTransaction, store: Store, vault: Vault, index: int, leaf: bytes) -> int:
    """Apply a leaf of the ledger, and return its time. Raises CorruptionError as ``catch_up``."""
    event = codec.decode_leaf(leaf)
    if isinstance(event, codec.Event):
        try:
            message = read_message(store, vault, event) if transaction.needs(event) else None
            transaction.apply(event, message, index=index)
        except (RequestError, MalformedError) as error:
            at = f"kind {event.kind} seq {event.seq}; see ops/RUNBOOK.md"
            raise CorruptionError(f"entry does not apply to the table: {at}") from error
    return event.time_ms


def read_message(store: Store, vault: Vault, event: codec.Event) -> Message | None:
    """Return the decoded payload of an event; None if the statement was erased.

    Raises:
        CorruptionError: the statement does not decrypt, or is not what the leaf commits to.
        MalformedError: the payload does not decode.
    """
    return decode_entry(vault, reads.read_entry(store, event.tag, event.seq))


def decode_entry(vault: Vault, entry: reads.StoredEntry) -> Message | None:
    """Return the decoded payload of a stored entry; None if the statement was deleted. Raises as ``read_message``."""
    opened = reads.open_entry(vault, entry)
    if opened is None:
        return None
    return payloads.decode_payload(entry.event.kind, codec.decode_statement(opened[1]).payload)
