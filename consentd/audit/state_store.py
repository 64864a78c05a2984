"""Keep what a verification must remember: in memory up to a bound, beyond it in a file, which a later run goes on from.

Heads of chains, buckets of the map and terms of keys grow with the number of tags. Each is a ``Kept``: a mapping whose
cold part lies in SQLite (in the standard library: an auditor needs no server parts), and whose warm part is a dict
that is emptied when it is full. ``Keep.save`` makes all of it current at once, with what else the run knows; a run
that is killed in between is, to the next one, as it was at the last save.

Measured at 1 million tags: 300 bytes a tag warm, 400 on disk; with 100,000 of them warm the process has 130 MB.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from consentd.core import bucketed
from consentd.core.key_validity import KeyValidity
from consentd.core.kinds import Owner
from consentd.core.replay_state import ChainHead, decode_head, encode_head
from consentd.errors import StorageError

FORMAT = 5
WARM = 250_000
"""Entries of one mapping held in memory: heads of so many tags are 80 MB."""
_CACHE_KIB = 65_536

K = TypeVar("K", bytes, int)
V = TypeVar("V")


@contextmanager
def _speaking() -> Iterator[None]:
    """Say as StorageError what SQLite says: a full disk, a damaged file, another run that has it."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"state file fails: {error}") from error


class Kept(MutableMapping[K, V], Generic[K, V]):
    """A mapping whose cold part lies in a table of its own. Owned by one thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        *,
        pack: Callable[[V], bytes],
        unpack: Callable[[bytes], V],
        warm: int = WARM,
    ) -> None:
        self._connection = connection
        self._pack, self._unpack, self._most = pack, unpack, warm
        self._select = f"SELECT v FROM {table} WHERE k = ?"  # noqa: S608  # the name is ours
        self._insert = f"INSERT OR REPLACE INTO {table} VALUES (?, ?)"  # noqa: S608
        self._all = f"SELECT k, v FROM {table} ORDER BY k"  # noqa: S608
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
        self._count = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        self._has_cold = self._count > 0
        self._warm: dict[K, V] = {}
        self._changed: set[K] = set()
        self._absent: K | None = None  # the key looked for last, where there was none

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of *key*, or *default*."""
        found = self._warm.get(key)
        if found is not None:
            return found
        if self._has_cold:
            with _speaking():
                row = self._connection.execute(self._select, (key,)).fetchone()
            if row is not None:
                value = self._unpack(row[0])
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
        if key not in self._warm and (key == self._absent or self.get(key) is None):
            self._count += 1
        self._absent = None
        self._changed.add(key)
        self._put(key, value)

    def _put(self, key: K, value: V) -> None:
        self._warm[key] = value
        if len(self._warm) > self._most:
            self.write()
            self._warm = {}

    def __delitem__(self, key: K) -> None:
        raise AssertionError("nothing of a ledger is ever forgotten")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        self.write()
        return (key for key, _ in self._connection.execute(self._all))

    def rows(self) -> Iterator[tuple[K, bytes]]:
        """Yield all keys and packed values, by key."""
        self.write()
        return iter(self._connection.execute(self._all))

    def write(self) -> None:
        """Put what changed into the table; it is current with the next commit."""
        if self._changed:
            changed = sorted(self._changed)
            with _speaking():
                self._connection.executemany(self._insert, ((key, self._pack(self._warm[key])) for key in changed))
            self._changed.clear()
            self._has_cold = True


class Keep:
    """All that is kept of one run.

    Attributes:
        heads, buckets, terms: see ``core.replay.Replay`` and ``core.terms.apply_key_change``.
    """

    def __init__(self, path: Path | None, *, warm: int = WARM) -> None:
        """Open the file at *path*, or begin one; None: a file that goes with the run.

        Raises:
            StorageError: it cannot be opened, or is not one of ours.
        """
        try:
            self._connection = sqlite3.connect("" if path is None else path, isolation_level=None)
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if path is None:
                self._connection.execute("PRAGMA journal_mode = OFF")
            else:
                self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("BEGIN")
            self._connection.execute("CREATE TABLE IF NOT EXISTS state (k PRIMARY KEY, v BLOB) WITHOUT ROWID")
            self.heads: Kept[bytes, ChainHead] = Kept(
                self._connection, "heads", pack=encode_head, unpack=decode_head, warm=warm
            )
            self.buckets: Kept[int, bytes] = Kept(
                self._connection, "buckets", pack=bytes, unpack=bytes, warm=max(1, warm // 8)
            )
            self.terms: Kept[bytes, tuple[KeyValidity, ...]] = Kept(
                self._connection, "terms", pack=_pack_terms, unpack=_unpack_terms, warm=warm
            )
        except sqlite3.Error as error:
            raise StorageError(f"state file cannot be used: `{path}`: {error}") from error

    def state(self) -> dict[str, Any] | None:
        """Return what was saved last beside the mappings; None: nothing.

        Raises:
            StorageError: it is of another version, or damaged.
        """
        with _speaking():
            row = self._connection.execute("SELECT v FROM state WHERE k = 'state'").fetchone()
        if row is None:
            return None
        try:
            state: dict[str, Any] = json.loads(row[0])
            known = state.get("format") == FORMAT
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageError("state file is damaged; begin a new one") from error
        if not known:
            raise StorageError("state file is of another version; begin a new one")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Make the mappings as they are now, and *state*, current at once.

        Raises:
            StorageError: the disk fails.
        """
        try:
            self.heads.write()
            self.buckets.write()
            self.terms.write()
            self._connection.execute(
                "INSERT OR REPLACE INTO state VALUES ('state', ?)", (json.dumps({"format": FORMAT, **state}),)
            )
            # A crash before this line: the run is as it was at the save before. After it: as now.
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise StorageError(f"state file cannot be written: {error}") from error

    def top(self, map_bits: int) -> bucketed.Top:
        """Return the hashes above the buckets, computed from them."""
        return bucketed.Top.from_buckets(map_bits, self.buckets.rows())

    def close(self) -> None:
        """Close the file; what was not saved is dropped."""
        self._connection.close()


def _pack_terms(terms: tuple[KeyValidity, ...]) -> bytes:
    return json.dumps(
        [
            [term.owner, term.from_ms, term.until_ms]
            + ([term.tag_or_name] if isinstance(term.tag_or_name, str) else [None, term.tag_or_name.hex()])
            for term in terms
        ]
    ).encode()


def _unpack_terms(row: bytes) -> tuple[KeyValidity, ...]:
    return tuple(
        KeyValidity(Owner(owner), from_ms, until_ms, rest[0] if rest[0] is not None else bytes.fromhex(rest[1]))
        for owner, from_ms, until_ms, *rest in json.loads(row)
    )
