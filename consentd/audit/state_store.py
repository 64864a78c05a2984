"""Store the state of a verification in memory up to a bound, and beyond that in a file. A later run continues from it.

Chain heads, map buckets and keys grow with the number of tags. Each is a ``CachedMapping``: a table of an SQLite file,
with a dict in front of it that is emptied when it is full. SQLite is in the standard library, so an auditor needs no
server parts. ``StateStore.save`` commits all tables at once, together with the rest of the state (``SavedWalk``). A run
that is killed between two saves continues from the earlier one.

Measured at 1 million tags: 300 bytes a tag in memory, 400 in the file; with 100,000 of them in memory the process has
130 MB.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from consentd.core import bucketed
from consentd.core.key_validity import KeyValidity
from consentd.core.kinds import Owner
from consentd.core.pruned import Pruned, Retention
from consentd.core.replay_state import ChainHead, ReplayState, decode_head, decode_state, encode_head, encode_state
from consentd.errors import MalformedError, StorageError
from consentd.verify.findings import Fault, Findings
from consentd.verify.walker import LedgerFacts

FORMAT = 6
CACHED = 250_000
"""Entries of one mapping held in memory: the heads of this many chains are 80 MB."""
_SQLITE_CACHE_KIB = 65_536

K = TypeVar("K", bytes, int)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedWalk:
    """The state of a walk, except the heads, buckets and keys: those are in tables of their own.

    Attributes:
        origin: of the ledger.
        replay, map_bits: of the ``Replay``.
        participants, keys_lost: of ``Authors``.
        facts, found: of the ``Walker``.
    """

    origin: str
    replay: ReplayState
    map_bits: int
    participants: dict[bytes, str]
    keys_lost: bool
    facts: LedgerFacts
    found: Findings


@contextmanager
def _as_storage_error() -> Iterator[None]:
    """Raise as StorageError what SQLite raises: a full disk, a damaged file, a file that another run has locked."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"state file fails: {error}") from error


class CachedMapping(MutableMapping[K, V], Generic[K, V]):
    """A mapping in a table of its own, with a cache in memory. One thread owns it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        *,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        cached: int = CACHED,
    ) -> None:
        """Open the table of this name, or create it; *cached*: most entries held in memory."""
        self._connection = connection
        self._encode, self._decode, self._most = encode, decode, cached
        self._select = f"SELECT v FROM {table} WHERE k = ?"  # noqa: S608  # the name is ours
        self._insert = f"INSERT OR REPLACE INTO {table} VALUES (?, ?)"  # noqa: S608
        self._all = f"SELECT k, v FROM {table} ORDER BY k"  # noqa: S608
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
        self._count = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        self._has_rows = self._count > 0
        self._cache: dict[K, V] = {}
        self._changed: set[K] = set()
        self._absent: K | None = None  # the key that ``get`` last did not find

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        found = self._cache.get(key)
        if found is not None:
            return found
        if self._has_rows:
            with _as_storage_error():
                row = self._connection.execute(self._select, (key,)).fetchone()
            if row is not None:
                value = self._decode(row[0])
                self._put(key, value)
                return value
        self._absent = key
        return default

    def __getitem__(self, key: K) -> V:
        found: V | None = self.get(key)
        if found is None:
            raise KeyError
        return found

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self._cache and (key == self._absent or self.get(key) is None):
            self._count += 1
        self._absent = None
        self._changed.add(key)
        self._put(key, value)

    def _put(self, key: K, value: V) -> None:
        self._cache[key] = value
        if len(self._cache) > self._most:
            self.write()
            self._cache = {}

    def __delitem__(self, key: K) -> None:
        raise AssertionError("a replay deletes nothing")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self.rows())

    def rows(self) -> Iterator[tuple[K, bytes]]:
        """Yield all keys with their encoded values, ordered by key."""
        self.write()
        return iter(self._connection.execute(self._all))

    def write(self) -> None:
        """Write what changed into the table; the next commit makes it permanent."""
        if self._changed:
            changed = sorted(self._changed)
            with _as_storage_error():
                self._connection.executemany(self._insert, ((key, self._encode(self._cache[key])) for key in changed))
            self._changed.clear()
            self._has_rows = True


class StateStore:
    """The stored state of one run.

    Attributes:
        heads, buckets: of the ``Replay``.
        keys: of ``Authors``.
    """

    def __init__(self, path: Path | None, *, cached: int = CACHED) -> None:
        """Open the file at *path* or create it; None: a temporary file that is deleted with the run.

        Raises:
            StorageError: it cannot be opened, or is no state file.
        """
        try:
            connection = self._connection = sqlite3.connect("" if path is None else path, isolation_level=None)
            connection.execute(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_mode = {'OFF' if path is None else 'WAL'}")
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE IF NOT EXISTS state (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
            self.heads: CachedMapping[bytes, ChainHead] = CachedMapping(
                connection, "heads", encode=encode_head, decode=decode_head, cached=cached
            )
            self.buckets: CachedMapping[int, bytes] = CachedMapping(
                connection, "buckets", encode=bytes, decode=bytes, cached=max(1, cached // 8)
            )
            self.keys: CachedMapping[bytes, tuple[KeyValidity, ...]] = CachedMapping(
                connection, "keys", encode=_encode_validities, decode=_decode_validities, cached=cached
            )
        except sqlite3.Error as error:
            raise StorageError(f"state file cannot be used: `{path}`: {error}") from error

    def load(self) -> SavedWalk | None:
        """Return what was saved last beside the mappings; None if nothing was.

        Raises:
            StorageError: it is of another version, or damaged.
        """
        with _as_storage_error():
            row = self._connection.execute("SELECT v FROM state WHERE k = 'state'").fetchone()
        if row is None:
            return None
        try:
            state = json.loads(row[0])
            is_known = state.get("format") == FORMAT
            if is_known:
                return _decode_walk(state)
        except (ValueError, TypeError, AttributeError, KeyError, MalformedError) as error:
            raise StorageError("state file is damaged; begin a new one") from error
        raise StorageError("state file is of another version; begin a new one")

    def save(self, walk: SavedWalk) -> None:
        """Commit the mappings as they are now together with *walk*.

        Raises:
            StorageError: the disk fails.
        """
        try:
            for mapping in (self.heads, self.buckets, self.keys):
                mapping.write()
            self._connection.execute(
                "INSERT OR REPLACE INTO state VALUES ('state', ?)", (json.dumps(_encode_walk(walk)),)
            )
            # A crash before this line: the run continues from the save before. After it: from this one.
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise StorageError(f"state file cannot be written: {error}") from error

    def top(self, map_bits: int) -> bucketed.Top:
        """Compute the hashes above the stored buckets."""
        return bucketed.Top.from_buckets(map_bits, self.buckets.rows())

    def close(self) -> None:
        """Close the file. What was not saved is lost."""
        self._connection.close()


def _encode_walk(walk: SavedWalk) -> dict[str, Any]:
    facts, found = walk.facts, walk.found
    return {
        "format": FORMAT, "origin": walk.origin, "replay": encode_state(walk.replay).hex(), "map_bits": walk.map_bits,
        "participants": {tag.hex(): name for tag, name in walk.participants.items()}, "keys_lost": walk.keys_lost,
        "is_named": facts.is_named, "retention": [facts.retention.days, facts.retention.kept_from_ms],
        "stated": [[one.kept_from_ms, one.start] for one in facts.stated],
        "missing": {tag.hex(): indexes for tag, indexes in facts.missing.items()}, "sees_persons": facts.sees_persons,
        "faults": [[fault.index, fault.what] for fault in found.faults], "unchecked": dict(found.unchecked),
        "counts": {
            "entries": found.entries, "seals": found.seals, "statements_opened": found.statements_opened,
            "statements_erased": found.statements_erased, "leaves_pruned": found.leaves_pruned,
            "statements_pruned": found.statements_pruned,
        },
    }  # fmt: skip


def _decode_walk(state: dict[str, Any]) -> SavedWalk:
    """Decode a walk. Raises KeyError, TypeError, ValueError or MalformedError for damaged bytes."""
    facts = LedgerFacts(
        is_named=state["is_named"], retention=Retention(*state["retention"]),
        stated=[Pruned(*one) for one in state["stated"]],
        missing={bytes.fromhex(tag): indexes for tag, indexes in state["missing"].items()},
        sees_persons=state["sees_persons"],
    )  # fmt: skip
    found = Findings(
        faults=[Fault(index, what) for index, what in state["faults"]], unchecked=Counter(state["unchecked"]),
        **state["counts"],
    )  # fmt: skip
    return SavedWalk(
        origin=state["origin"], replay=decode_state(bytes.fromhex(state["replay"])), map_bits=state["map_bits"],
        participants={bytes.fromhex(tag): name for tag, name in state["participants"].items()},
        keys_lost=state["keys_lost"], facts=facts, found=found,
    )  # fmt: skip


def _encode_validities(validities: tuple[KeyValidity, ...]) -> bytes:
    return json.dumps(
        [
            [one.owner, one.from_ms, one.until_ms]
            + ([one.tag_or_name] if isinstance(one.tag_or_name, str) else [None, one.tag_or_name.hex()])
            for one in validities
        ]
    ).encode()


def _decode_validities(row: bytes) -> tuple[KeyValidity, ...]:
    return tuple(
        KeyValidity(Owner(owner), from_ms, until_ms, rest[0] if rest[0] is not None else bytes.fromhex(rest[1]))
        for owner, from_ms, until_ms, *rest in json.loads(row)
    )
