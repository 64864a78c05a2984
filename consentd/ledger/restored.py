"""Read and write ``restored.json``: the mark that a data directory was restored from a backup.

A backup lacks the entries that came after it. The copy that is restored from it would sign another history under the
same name, and would permit what a person has revoked since. So ``consentd restore`` puts this file into the data
directory before it says that it is done, and a daemon that finds the file signs and permits nothing.

The file is strict JSON, and only the daemon's user may read and write it::

    {"format": 1, "origin": "…", "tree_size": …, "root": "64 hex digits", "backup_time_ms": …, "restored_time_ms": …}

The ledger's store has the same content in a row of its own (``layout.RESTORED``), which nothing deletes. So a ledger
whose file was deleted does not open (``last_signed.check_last_signed``), whatever last signed checkpoint is beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from consentd.core.json_fields import check_format, parse_object, read_hex, read_number, read_text
from consentd.core.note import check_name
from consentd.errors import CorruptionError, MalformedError, StorageError
from consentd.files import read_file_if_exists, sync, write_file
from consentd.ledger import layout
from consentd.store import Batch, Store

RESTORED_NAME = "restored.json"
"""Name of the file in the data directory."""
_NAME = "mark of a restored copy"
_FORMAT = 1
_FIELDS = {"format", "origin", "tree_size", "root", "backup_time_ms", "restored_time_ms"}
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Restored:
    """What is known of a restored copy.

    Attributes:
        origin: the ledger's name.
        tree_size: how many leaves the tree of the backup had.
        root: root hash of that tree.
        backup_time_ms: when the backup was made; Unix time.
        restored_time_ms: when the copy was restored; Unix time.
    """

    origin: str
    tree_size: int
    root: bytes
    backup_time_ms: int
    restored_time_ms: int


def read_restored(data_dir: Path) -> Restored | None:
    """Return the mark of the restored copy in *data_dir*; None if the directory has no such file.

    Raises:
        StorageError: the file cannot be read.
        CorruptionError: the file is not what ``write_restored`` writes.
    """
    path = data_dir / RESTORED_NAME
    content = read_file_if_exists(path, name=_NAME)
    if content is None:
        return None
    try:
        return parse_restored(content)
    except MalformedError as error:
        raise CorruptionError(
            f"mark of a restored copy is damaged: `{path}`: {error}; see ops/RUNBOOK.md, `a restored copy`"
        ) from error


def write_restored(data_dir: Path, restored: Restored) -> None:
    """Mark *data_dir* as a restored copy, durably. Raises StorageError if the file cannot be written."""
    write_file(data_dir / RESTORED_NAME, format_restored(restored), is_private=True, name=_NAME)


def mark_store(store: Store, restored: Restored) -> None:
    """Mark a ledger's store as that of a restored copy, durably. Raises StorageError if it cannot be written."""
    batch = Batch()
    batch.put(layout.RESTORED, format_restored(restored))
    store.write(batch)


def remove_restored(data_dir: Path) -> None:
    """Remove the mark in the file, durably, if there is one. A restore does this that has put no ledger in place.

    Raises:
        StorageError: the file cannot be removed, or only the fsync of its directory failed.
    """
    path = data_dir / RESTORED_NAME
    try:
        path.unlink(missing_ok=True)
        sync(data_dir)
    except OSError as error:
        raise StorageError(f"{_NAME} cannot be removed: `{path}`: {error.strerror}") from error


def format_restored(restored: Restored) -> bytes:
    """Return the content of the file."""
    return (
        json.dumps(
            {
                "format": _FORMAT, "origin": restored.origin, "tree_size": restored.tree_size,
                "root": restored.root.hex(), "backup_time_ms": restored.backup_time_ms,
                "restored_time_ms": restored.restored_time_ms,
            }
        ).encode()
        + b"\n"
    )  # fmt: skip


def parse_restored(content: bytes) -> Restored:
    """Return what the *content* of the file says.

    Raises:
        MalformedError: it is not JSON, its format is another one, a field is missing, unknown or of a wrong kind.
    """
    fields = parse_object(content, _FIELDS, max_bytes=_MAX_BYTES)
    check_format(fields, _FORMAT)
    origin, root = read_text(fields, "origin"), read_hex(fields, "root", 32)
    check_name(origin)
    return Restored(
        origin, read_number(fields, "tree_size"), root, read_number(fields, "backup_time_ms"),
        read_number(fields, "restored_time_ms"),
    )  # fmt: skip
