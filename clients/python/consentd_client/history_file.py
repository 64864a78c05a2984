"""Read a long history part by part, with bounded memory, and keep what is verified in a file.

Each part is verified when it is read: its entries follow those of the parts before, and each statement is signed by a
key in force. That the ledger has these entries, and that none is missing at the end, is proven only when a part has
reached the end of the chain. A ``HistoryFile`` holds the entries in the meantime, and continues where it stopped.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consentd.core import codec
from consentd.core.history import HeldChain, HistoryEntry, VerifiedEntry, open_statement
from consentd.core.recent_statements import decode_recent, encode_recent
from consentd.errors import MalformedError, ProofError, StorageError
from consentd.files import read_file_if_exists, write_file
from consentd.statements.authorities import NamedAuthorities
from consentd.statements.chains import HeldPart, message_of
from consentd.statements.outcomes import OutcomeComparison
from consentd_client.entries import Entry, History
from consentd_client.memory import RememberedEntry, decode_entry, encode_entry

VERSION = 3


@dataclass(frozen=True, slots=True)
class HistoryState:
    """What a reader keeps between two parts of a history.

    Attributes:
        checkpoint: the checkpoint that the part was verified against, a signed note.
        part: the part from the first entry of the chain to the last one that is verified.
        named: the KEY and AUTHORITY entries of the part, as they were sent.
    """

    checkpoint: bytes = field(repr=False)
    part: HeldPart = field(repr=False)
    named: tuple[HistoryEntry, ...] = field(repr=False)


class HistoryFile:
    """The verified entries of one chain in a file, one JSON line each, and the state in ``FILE.state``.

    ``state`` and ``entry_count`` are those of the last part; ``is_complete``: it reached the end of the chain then.
    The methods raise StorageError if a file cannot be read or written. The file contains a person's history: protect it
    like the records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state_path = path.with_name(path.name + ".state")
        self._length = 0
        self.entry_count = 0
        self.state: HistoryState | None = None
        self.is_complete = False
        content = read_file_if_exists(self._state_path, name="history state")
        if content:
            self.state, self._length, self.entry_count, self.is_complete = _decode_state(content)
        elif path.exists() and path.stat().st_size:
            raise StorageError(f"file is no history file: it has no state beside it: `{path}`")

    def append(self, entries: Sequence[RememberedEntry], state: HistoryState, *, is_complete: bool) -> None:
        """Add the entries of the next part, then store the state. A crash between the two loses only this part."""
        rows = b"".join(json.dumps(encode_entry(one)).encode() + b"\n" for one in entries)
        try:
            with self._path.open("ab") as file:
                file.truncate(self._length)
                file.write(rows)
                file.flush()
            self._path.chmod(0o600)
        except OSError as error:
            raise StorageError(f"history file cannot be written: `{self._path}`: {error.strerror}") from error
        self._length += len(rows)
        self.entry_count += len(entries)
        self.state, self.is_complete = state, is_complete
        encoded = _encode_state(state, self._length, self.entry_count, is_complete)
        write_file(self._state_path, encoded, is_private=True, name="history state")

    def shown(self, last: History, *, known: int = 0) -> Iterator[Entry]:
        """Yield the entries, as ``Client.history`` returns them. Verifies again that each leaf commits to its opening.

        *last*: the part that was read last, and that is complete. *known*: number of entries that are not new.
        """
        compared, named = OutcomeComparison(), NamedAuthorities()
        for position, one in enumerate(self.entries()):
            entry = verified_entry(one.entry)
            message = message_of(entry)
            yield Entry(
                event=entry.event, statement=entry.statement, author=one.author, is_new=position >= known,
                message=message, beyond_permit=compared.add(entry.event, message),
                authority=named.add(entry.event, message),
                is_pruned=entry.statement is None
                and entry.event.time_ms < last.kept_from_ms
                and not last.is_erased,
            )  # fmt: skip

    def entries(self) -> Iterator[RememberedEntry]:
        """Yield the entries, in order. Reads one at a time."""
        try:
            with self._path.open("rb") as file:
                while file.tell() < self._length:
                    yield decode_entry(json.loads(file.readline()))
        except OSError as error:
            raise StorageError(f"history file cannot be read: `{self._path}`: {error.strerror}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise StorageError("history file cannot be parsed; delete it and its state, and read again") from error


def verified_entry(entry: HistoryEntry) -> VerifiedEntry:
    """Return an entry that was verified before; verify again that the leaf commits to its opening.

    Raises:
        MalformedError, ProofError: the leaf is no entry's, or its opening is another's.
    """
    event = codec.decode_leaf(entry.leaf)
    if not isinstance(event, codec.Event):
        raise MalformedError("leaf is no entry")
    return VerifiedEntry(event, None if entry.opening is None else open_statement(event, *entry.opening))


def _encode_state(state: HistoryState, length: int, entry_count: int, is_complete: bool) -> bytes:
    held = state.part.held
    content = {
        "version": VERSION, "length": length, "entries": entry_count, "complete": is_complete,
        "checkpoint": state.checkpoint.decode(),
        "tag": state.part.tag.hex(), "count": held.count, "head": held.head.hex(), "erased": held.erased,
        "time_ms": held.time_ms, "lacks_statements": held.lacks_statements,
        "named": [encode_entry(RememberedEntry(one, "")) for one in state.named],
        "recent": base64.b64encode(encode_recent(state.part.recent)).decode(),
        "unread_to": state.part.unread_to,
    }  # fmt: skip
    return json.dumps(content).encode() + b"\n"


def _decode_state(content: bytes) -> tuple[HistoryState, int, int, bool]:
    try:
        read: Any = json.loads(content)
        if read["version"] != VERSION:
            raise StorageError(f"history state is of another version: `{read['version']}`")
        held = HeldChain(
            int(read["count"]), bytes.fromhex(read["head"]), bool(read["erased"]), int(read["time_ms"]),
            bool(read["lacks_statements"]),
        )  # fmt: skip
        named = tuple(decode_entry(row).entry for row in read["named"])
        recent = decode_recent(base64.b64decode(read["recent"], validate=True))
        part = HeldPart(
            bytes.fromhex(read["tag"]), held, tuple(map(verified_entry, named)), recent, int(read["unread_to"])
        )
        state = HistoryState(read["checkpoint"].encode(), part, named)
        return state, int(read["length"]), int(read["entries"]), bool(read["complete"])
    except StorageError:
        raise
    except (
        MalformedError, ProofError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise StorageError("history state cannot be parsed; delete it and its file, and read again") from error
