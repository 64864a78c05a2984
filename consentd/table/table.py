"""The policy table: the rows that a check reads, in LMDB.

Every row follows from the ledger's entries, and can be built again from them (``catch_up``); so the table needs no
backup, and is not trusted. The sequencer writes it, one transaction for each batch of entries. Any number of readers,
in any process, read the last commit. ``proto/table-format.md`` describes the format for other programs that read it.

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

from consentd.errors import StorageError
from consentd.store.lmdb import STOPPED, Environment, OpenFiles
from consentd.table.transaction import TableTransaction
from consentd.table.view import U64, RegistryCache, Snapshot


class Table(Environment):
    """The LMDB environment that has the policy table.

    ``begin``, ``heartbeat`` and ``stop`` are for the sequencer's thread; any thread may call the other methods. No lock
    is needed: LMDB isolates readers, and ``_is_stopped`` is only ever set to True.
    """

    def __init__(self, opened: OpenFiles) -> None:
        super().__init__(opened)
        self._cache = RegistryCache()
        self._is_stopped = False

    def read(self) -> Snapshot:
        """Begin to read the last commit.

        Raises:
            StorageError: ``stop`` was called, or as ``begin_read``.
        """
        if self._is_stopped:
            raise StorageError(STOPPED)
        return Snapshot(self._cache, self.begin_read())

    def begin(self) -> TableTransaction:
        """Begin the transaction that applies the next batch of entries."""
        return TableTransaction(self._cache, self.begin_write())

    def stop(self) -> None:
        """Refuse all later reads: the ledger has entries, perhaps a withdrawal, that the table could not store."""
        self._is_stopped = True

    def heartbeat(self, wall_ms: int) -> None:
        """Write the present time, so that readers can see that the writer runs."""
        with self.begin_write() as txn:
            txn.put(b"H", U64.pack(wall_ms))
