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

from pathlib import Path

from consentd.errors import StorageError
from consentd.store.lmdb import STOPPED, Environment
from consentd.table.transaction import TableTransaction
from consentd.table.view import U64, RegistryCache, Snapshot


class Table:
    """The table in one LMDB environment.

    Any thread may call ``read``, ``used_bytes``, ``used_share`` and ``copy``. ``begin``, ``heartbeat`` and ``stop`` are
    for the sequencer's thread. No lock is needed: LMDB isolates readers, and ``_is_stopped`` is only ever set to True.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._cache = RegistryCache()
        self._is_stopped = False

    @classmethod
    def open(cls, path: Path, *, map_size_mb: int) -> "Table":
        """Open the table for writing; where there is none, create an empty one.

        Raises:
            StorageError, CorruptionError: as ``Environment.open``.
        """
        return cls(Environment.open(path, map_size_mb=map_size_mb))

    @classmethod
    def open_read_only(cls, path: Path) -> "Table":
        """Open the table for reading; another process may write it. Raises as ``Environment.open_read_only``."""
        return cls(Environment.open_read_only(path))

    def read(self) -> Snapshot:
        """Begin to read the last commit.

        Raises:
            StorageError: ``stop`` was called, or as ``Environment.begin_read``.
        """
        if self._is_stopped:
            raise StorageError(STOPPED)
        return Snapshot(self._cache, self._environment.begin_read())

    def begin(self) -> TableTransaction:
        """Begin the transaction that applies the next batch of entries."""
        return TableTransaction(self._cache, self._environment.begin_write())

    def stop(self) -> None:
        """Refuse all later reads: the ledger has entries, perhaps a withdrawal, that the table could not store."""
        self._is_stopped = True

    def heartbeat(self, wall_ms: int) -> None:
        """Write the present time, so that readers can see that the writer runs."""
        with self._environment.begin_write() as txn:
            txn.put(b"H", U64.pack(wall_ms))

    def copy(self, path: Path) -> None:
        """Write a compact copy without freed pages."""
        self._environment.copy(path)

    def used_bytes(self) -> int:
        """Return how many bytes of its file are in use. Raises as ``Environment.used_bytes``."""
        return self._environment.used_bytes()

    def used_share(self) -> float:
        """Return which fraction of its map is in use, 0 to 1. Raises as ``Environment.used_bytes``."""
        return self._environment.used_share()

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()
