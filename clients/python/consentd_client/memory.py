"""Store what a client verified, so that the client detects if the daemon takes back what it showed before.

A memory belongs to one ledger. It holds the latest verified checkpoint, the log key that rotations led to, and, for
each chain whose history was read, the chain's tag and entries. The next reading starts after these entries, so the
daemon sends only new ones. The client detects if the daemon shows a smaller tree, other earlier entries, or another tag
for the same person.

If a memory is lost, the client cannot detect that entries shown before the loss are taken back. The leaves and
statements of a memory are verified again with every new history, so a changed entry is detected. Three things are not
verified again, so a person who can write the file can change them unnoticed: the authors of remembered entries, the
entries before a pruned gap, and the whole file if an older copy replaces it. The file contains persons' histories. Only
its owner can read and write it; protect it like the records.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from consentd.core import codec, note
from consentd.core.checkpoint import parse_checkpoint
from consentd.core.history import HistoryEntry
from consentd.core.note import format_vkey, parse_vkey
from consentd.errors import MalformedError, StorageError
from consentd.files import FileLock, read_file_if_exists, write_file

VERSION = 1


@dataclass(frozen=True, slots=True)
class RememberedEntry:
    """A verified entry and its author: ``ledger``, ``participant/ID``, ``subject`` or ``representative/SEQ``; empty: it
    has no statement."""

    entry: HistoryEntry
    author: str


@dataclass(frozen=True, slots=True)
class RememberedHistory:
    """A chain's entries when they were last verified, except those that were pruned before this client read them."""

    tag: bytes = field(repr=False)
    entries: tuple[RememberedEntry, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """The seq of the last entry; 0: there is no entry. MalformedError if the last leaf cannot be decoded."""
        event = codec.decode_leaf(self.entries[-1].entry.leaf) if self.entries else None
        return event.seq if isinstance(event, codec.Event) else 0


class Memory(Protocol):
    """Stores what a client verified of one ledger. Each client calls the methods from one thread at a time."""

    def checkpoint(self) -> bytes | None:
        """Return the latest remembered checkpoint, a signed note; None if no checkpoint is remembered yet."""

    def history(self, key: str) -> RememberedHistory | None:
        """Return the history remembered under *key*; None if no history is."""

    def remember(self, checkpoint: bytes, key: str = "", history: RememberedHistory | None = None) -> None:
        """Store a verified checkpoint and, under *key*, a history. Either both are stored or neither is.

        A smaller checkpoint does not replace a larger one. A shorter history of the same tag does not replace a longer
        one.
        """

    def log_key(self, pinned: str) -> str:
        """Return the log key (a vkey) that verified rotations led to from the *pinned* one; empty: none did."""

    def remember_log_key(self, pinned: str, reached: str) -> None:
        """Store that verified rotations led from the *pinned* log key to another one (vkeys)."""

    def forget(self, key: str) -> None:
        """Forget the history under *key*, for example when a person was erased and is enrolled anew."""


class RamMemory:
    """A ``Memory`` that is lost when the process ends. Its size grows with each chain that is read."""

    def __init__(
        self, checkpoint: bytes | None = None, histories: Mapping[str, RememberedHistory] | None = None,
        log_keys: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._checkpoint = checkpoint
        self._histories = dict(histories or {})
        self._log_keys = dict(log_keys or {})

    @property
    def histories(self) -> Mapping[str, RememberedHistory]:
        """All remembered histories, by key."""
        return self._histories

    @property
    def log_keys(self) -> Mapping[str, str]:
        """By pinned log key, the one that rotations led to."""
        return self._log_keys

    def log_key(self, pinned: str) -> str:
        return self._log_keys.get(pinned, "")

    def remember_log_key(self, pinned: str, reached: str) -> None:
        self._log_keys[pinned] = reached

    def checkpoint(self) -> bytes | None:
        return self._checkpoint

    def history(self, key: str) -> RememberedHistory | None:
        return self._histories.get(key)

    def remember(self, checkpoint: bytes, key: str = "", history: RememberedHistory | None = None) -> None:
        # Processes that share a file may store in any order, so older content must not replace newer content.
        if self._checkpoint is None or _size(checkpoint) >= _size(self._checkpoint):
            self._checkpoint = checkpoint
        if history is not None:
            old = self._histories.get(key)
            if old is None or old.tag != history.tag or len(history.entries) >= len(old.entries):
                self._histories[key] = history

    def forget(self, key: str) -> None:
        self._histories.pop(key, None)


class FileMemory:
    """A memory in one JSON file that several processes may share. A write replaces the whole file or changes nothing.

    The methods are those of ``Memory``. They raise StorageError if the file cannot be read or written, or is no memory
    file. ``remember`` and ``forget`` lock the file ``FILE.lock`` in the same directory. Reading needs no lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def checkpoint(self) -> bytes | None:
        return self._load().checkpoint()

    def history(self, key: str) -> RememberedHistory | None:
        return self._load().history(key)

    def remember(self, checkpoint: bytes, key: str = "", history: RememberedHistory | None = None) -> None:
        with self._changed() as memory:
            memory.remember(checkpoint, key, history)

    def log_key(self, pinned: str) -> str:
        return self._load().log_key(pinned)

    def remember_log_key(self, pinned: str, reached: str) -> None:
        with self._changed() as memory:
            memory.remember_log_key(pinned, reached)

    def forget(self, key: str) -> None:
        with self._changed() as memory:
            memory.forget(key)

    @contextmanager
    def _changed(self) -> Iterator[RamMemory]:
        """Yield the file's content, then write the changed content back. No other process can write meanwhile."""
        lock = FileLock(self._path.with_name(self._path.name + ".lock"), program="client", waits=True)
        with closing(lock):
            memory = self._load()
            before = _encode(memory)
            yield memory
            if _encode(memory) != before:
                write_file(self._path, _encode(memory), is_private=True, name="memory")

    def _load(self) -> RamMemory:
        return _decode(read_file_if_exists(self._path, name="memory") or b"")


def _size(checkpoint: bytes) -> int:
    return parse_checkpoint(note.parse_note(checkpoint).text).size


def _encode(memory: RamMemory) -> bytes:
    checkpoint = memory.checkpoint()
    content = {
        "version": VERSION,
        "checkpoint": None if checkpoint is None else checkpoint.decode(),
        "log_keys": dict(sorted(memory.log_keys.items())),
        "histories": {
            key: {"tag": one.tag.hex(), "entries": list(map(encode_entry, one.entries))}
            for key, one in sorted(memory.histories.items())
        },
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def encode_entry(remembered: RememberedEntry) -> list[str]:
    """Encode an entry for a JSON file: author, leaf, salt and statement; the last two are empty without an opening."""
    opening = remembered.entry.opening or (b"", b"")
    parts = (remembered.entry.leaf, *opening)
    return [remembered.author, *(base64.b64encode(part).decode() for part in parts)]


def _decode(content: bytes) -> RamMemory:
    if not content:
        return RamMemory()
    try:
        read: Any = json.loads(content)
        if read["version"] != VERSION:
            raise StorageError(f"memory file is of another version: `{read['version']}`")
        checkpoint = None if read["checkpoint"] is None else read["checkpoint"].encode()
        if checkpoint is not None:
            _size(checkpoint)
        # A file from before log keys could be replaced has none.
        log_keys = {format_vkey(parse_vkey(old)): str(new) for old, new in read.get("log_keys", {}).items()}
        for reached in log_keys.values():
            parse_vkey(reached)
        histories = {
            str(key): RememberedHistory(bytes.fromhex(one["tag"]), tuple(map(decode_entry, one["entries"])))
            for key, one in read["histories"].items()
        }
    except StorageError:
        raise
    except (MalformedError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError("memory file cannot be parsed; restore it, or start with an empty one") from error
    return RamMemory(checkpoint, histories, log_keys)


def decode_entry(row: list[str]) -> RememberedEntry:
    """Decode an entry. Raises ValueError or TypeError if the row is no entry."""
    author, *parts = row
    leaf, salt, statement = (base64.b64decode(part, validate=True) for part in parts)
    return RememberedEntry(HistoryEntry(leaf, (salt, statement) if statement else None), author)
