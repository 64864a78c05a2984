"""Store the state of a verification in a file, from which a later run continues, and a part of it in memory.

Chain heads, map buckets and keys grow with the number of tags (chains). Each of the three is a ``CachedMapping``: a
table of an SQLite file, and a dict as its cache, which is emptied when it is full. SQLite is in the standard library,
so an auditor needs no store of the server. ``StateStore.save`` commits all tables and the rest of the state in one
transaction. A run that is killed between two saves continues from the earlier save.

Measured at 1 million tags: 300 bytes a tag in memory, 400 bytes a tag in the file. With 100,000 tags in memory, the
process has 130 MB.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from consentd.core import bucketed
from consentd.core.key_validity import KeyValidity
from consentd.core.kinds import Owner
from consentd.core.pruned import Pruned, Retention
from consentd.core.recent_statements import RecentStatements, decode_recent, encode_recent
from consentd.core.replay import Replay
from consentd.core.replay_state import ChainHead, decode_head, decode_state, encode_head, encode_state
from consentd.core.rotation import LedgerKeys, LogTerm, Term
from consentd.errors import InvalidError, MalformedError, StorageError
from consentd.verify.findings import Counts, Findings
from consentd.verify.source import LeafSource
from consentd.verify.statements import Authors
from consentd.verify.walker import Expected, LedgerFacts, Walker

FORMAT = 11
CACHED = 250_000
"""Most items of one mapping in memory: the heads of this many chains are 80 MB."""
_SQLITE_CACHE_KIB = 65_536

K = TypeVar("K", bytes, int)
V = TypeVar("V")


@contextmanager
def _as_storage_error() -> Iterator[None]:
    """Turn errors of SQLite into StorageError: a full disk, a damaged file, a file that another run has locked."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"state file cannot be used: {error}") from error


class CachedMapping(MutableMapping[K, V], Generic[K, V]):
    """A mapping in an SQLite table, with a cache in memory. One thread owns it. No item is ever deleted."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        cached: int,
    ) -> None:
        """Open or create the table of this name. The cache holds at most *cached* items."""
        self._connection, self._table, self._most = connection, table, cached
        self._encode, self._decode = encode, decode
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
        self._count = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  # our name
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
                select = f"SELECT v FROM {self._table} WHERE k = ?"  # noqa: S608
                row = self._connection.execute(select, (key,)).fetchone()
            if row is not None:
                value = self._decode(row[0])
                self._cache[key] = value
                if len(self._cache) > self._most:
                    self._empty_cache()
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
        self._cache[key] = value
        if len(self._cache) > self._most:
            self._empty_cache()

    def _empty_cache(self) -> None:
        self.write()
        self._cache.clear()

    def __delitem__(self, key: K) -> None:
        raise AssertionError("a replay deletes nothing")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self.rows())

    def rows(self) -> Iterator[tuple[K, bytes]]:
        """Yield all keys with their encoded values, ordered by key."""
        self.write()
        return iter(self._connection.execute(f"SELECT k, v FROM {self._table} ORDER BY k"))  # noqa: S608

    def write(self) -> None:
        """Write the changed items into the table; the next commit makes them permanent."""
        if self._changed:
            rows = ((key, self._encode(self._cache[key])) for key in sorted(self._changed))
            with _as_storage_error():
                self._connection.executemany(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)", rows)  # noqa: S608
            self._changed.clear()
            self._has_rows = True


class StateStore:
    """The stored state of one run: *heads* and *buckets* of the ``Replay``, *keys* of ``Authors``."""

    def __init__(self, path: Path | None, *, cached: int = CACHED) -> None:
        """Open or create the file at *path*; None: a temporary file, which is deleted when it is closed.

        Raises:
            StorageError: the file cannot be opened, or is no state file.
        """
        with _as_storage_error():
            connection = self._connection = sqlite3.connect("" if path is None else path, isolation_level=None)
            connection.execute(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_mode = {'OFF' if path is None else 'WAL'}")
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE IF NOT EXISTS state (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
            self.heads: CachedMapping[bytes, ChainHead] = CachedMapping(
                connection, "heads", encode_head, decode_head, cached
            )
            self.buckets: CachedMapping[int, bytes] = CachedMapping(
                connection, "buckets", bytes, bytes, max(1, cached // 8)
            )
            self.keys: CachedMapping[bytes, tuple[KeyValidity, ...]] = CachedMapping(
                connection, "keys", _encode_validities, _decode_validities, cached
            )

    def load(self, source: LeafSource, expected: Expected) -> Walker | None:
        """Return a walk over *source* that continues the saved walk; None if no walk was saved.

        Raises InvalidError if the file is of another ledger, StorageError if it is of another version or damaged.
        """
        with _as_storage_error():
            row = self._connection.execute("SELECT v FROM state WHERE k = 'state'").fetchone()
            recent = self._connection.execute("SELECT v FROM state WHERE k = 'recent'").fetchone()
        if row is None:
            return None
        try:
            state = json.loads(row[0])
            if state["format"] != FORMAT:
                raise StorageError("state file is of another version; begin a new one")
            if state["origin"] != expected.origin:
                raise InvalidError(f"state file is of another ledger: `{state['origin']}`")
            walker = self._decode_walk(state, source, expected)
            walker.authors.recent = RecentStatements(decode_recent(recent[0]))
            return walker
        except (ValueError, TypeError, AttributeError, KeyError, MalformedError) as error:
            raise StorageError("state file is damaged; begin a new one") from error

    def save(self, walker: Walker) -> None:
        """Commit a walk without faults, and its mappings. Call ``Walker.grow`` first.

        A fault is never saved: what the source returned wrong this time, it may return right the next time.

        Raises:
            StorageError: the disk fails.
        """
        assert not walker.found.faults, "a walk with faults is not saved"
        for mapping in (self.heads, self.buckets, self.keys):
            mapping.write()
        state = json.dumps(_encode_walk(walker))
        with _as_storage_error():
            self._connection.execute("INSERT OR REPLACE INTO state VALUES ('state', ?)", (state,))
            recent = encode_recent(walker.authors.recent.rows())  # up to 20 minutes of statements: no part of the JSON
            self._connection.execute("INSERT OR REPLACE INTO state VALUES ('recent', ?)", (recent,))
            # After a crash before this line, a run continues from the previous save; after a later crash, from this.
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")

    def close(self) -> None:
        """Close the file. Changes that were not saved are lost."""
        self._connection.close()

    def _decode_walk(self, state: dict[str, Any], source: LeafSource, expected: Expected) -> Walker:
        """Decode a walk. Damaged bytes raise errors that ``load`` catches."""
        replay = Replay.restore(
            decode_state(bytes.fromhex(state["replay"])), heads=self.heads, buckets=self.buckets,
            top=bucketed.Top.from_buckets(state["map_bits"], self.buckets.rows()),
            start=expected.pruned.start, kept_from_ms=expected.pruned.kept_from_ms,
        )  # fmt: skip
        authors = Authors(self.keys, _decode_ledger_keys(state["ledger_keys"], expected.origin))
        authors.ledger_seq = state["ledger_seq"]
        authors.participants = {bytes.fromhex(tag): name for tag, name in state["participants"].items()}
        authors.authorities = {bytes.fromhex(tag) for tag in state["authorities"]}
        authors.keys_lost = state["keys_lost"]
        walker = Walker(source, expected, replay, authors)
        walker.facts = LedgerFacts(
            retention=Retention(**state["retention"]),
            stated=[Pruned(**one) for one in state["stated"]],
            missing={bytes.fromhex(tag): indexes for tag, indexes in state["missing"].items()},
            sees_persons=state["sees_persons"],
        )  # fmt: skip
        walker.found = Findings([], Counter(state["unchecked"]), Counts(**state["counts"]))
        return walker


def _encode_walk(walker: Walker) -> dict[str, Any]:
    replay, authors, facts, found = walker.replay, walker.authors, walker.facts, walker.found
    return {
        "format": FORMAT, "origin": walker.expected.origin, "replay": encode_state(replay.state()).hex(),
        "map_bits": replay.top.map_bits, "keys_lost": authors.keys_lost,
        "participants": {tag.hex(): name for tag, name in authors.participants.items()},
        "authorities": sorted(tag.hex() for tag in authors.authorities),
        "ledger_keys": _encode_ledger_keys(authors.ledger_keys), "ledger_seq": authors.ledger_seq,
        "retention": asdict(facts.retention),
        "stated": [asdict(one) for one in facts.stated],
        "missing": {tag.hex(): indexes for tag, indexes in facts.missing.items()}, "sees_persons": facts.sees_persons,
        "unchecked": found.unchecked, "counts": asdict(found.counts),
    }  # fmt: skip


def _encode_ledger_keys(keys: LedgerKeys) -> dict[str, Any]:
    return {
        "named": keys.named,
        "log": [[one.from_size, one.key.hex(), one.replaces.hex()] for one in keys.log_terms],
        "statement": [[key.hex(), one.first, one.end, one.is_in_force] for key, one in keys.terms.items()],
    }


def _decode_ledger_keys(state: dict[str, Any], origin: str) -> LedgerKeys:
    log = [LogTerm(size, bytes.fromhex(key), bytes.fromhex(old)) for size, key, old in state["log"]]
    terms = {bytes.fromhex(key): Term(first, end, is_in_force) for key, first, end, is_in_force in state["statement"]}
    return LedgerKeys(origin, state["named"], log, terms)


def _encode_validities(validities: tuple[KeyValidity, ...]) -> bytes:
    rows = []
    for one in validities:
        name, tag = (one.tag_or_name, "") if isinstance(one.tag_or_name, str) else (None, one.tag_or_name.hex())
        rows.append([one.owner, one.from_ms, one.until_ms, name, tag])
    return json.dumps(rows).encode()


def _decode_validities(row: bytes) -> tuple[KeyValidity, ...]:
    return tuple(
        KeyValidity(Owner(owner), from_ms, until_ms, bytes.fromhex(tag) if name is None else name)
        for owner, from_ms, until_ms, name, tag in json.loads(row)
    )
