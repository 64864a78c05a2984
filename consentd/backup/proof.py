"""Which backup was made last, and which was last proven to restore; the daemon shows both as metrics.

``consentd backup verify`` restores a backup into a temporary directory, proves it, and then writes the file
``proven.json`` into the directory of backups, in strict JSON::

    {"format": 1, "origin": "…", "backup_id": "32 hex digits", "name": "…", "backup_time_ms": …, "proven_time_ms": …,
     "tree_size": …, "root": "64 hex digits"}

It may run on another machine. Then the file is copied. The file only feeds an alarm: who can write it can hide that
no backup was proven.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from consentd.backup.directory import BackupDirectory
from consentd.backup.manifest import Manifest, SetKind, Snapshot
from consentd.clock import MAX_AHEAD_MS, Clock
from consentd.core import codec
from consentd.core.json_fields import check_format, parse_object, read_hex, read_number, read_text
from consentd.errors import ConsentdError, CorruptionError, MalformedError
from consentd.files import read_file_if_exists, write_file
from consentd.ledger import layout, reads
from consentd.ledger.ledger import Ledger

log = logging.getLogger(__name__)

PROVEN_NAME = "proven.json"
"""Name of the file in the directory of backups."""
_NAME = "file of the proven backup"
_FORMAT = 1
_FIELDS = {
    "format", "origin", "backup_id", "name", "backup_time_ms", "proven_time_ms", "tree_size", "root"
}  # fmt: skip
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A backup that was proven; times are Unix times.

    Attributes:
        backup_time_ms: when it was made.
        proven_time_ms: when it was proven.
        tree_size: how many leaves its ledger has.
        root: root hash of that tree.
    """

    origin: str
    backup_id: str
    name: str
    backup_time_ms: int
    proven_time_ms: int
    tree_size: int
    root: bytes


def write_proven(directory: Path, proven: Proven) -> None:
    """Write the file, durably. Raises ``StorageError`` if it cannot be written."""
    fields = {
        "format": _FORMAT, "origin": proven.origin, "backup_id": proven.backup_id, "name": proven.name,
        "backup_time_ms": proven.backup_time_ms, "proven_time_ms": proven.proven_time_ms,
        "tree_size": proven.tree_size, "root": proven.root.hex(),
    }  # fmt: skip
    write_file(directory / PROVEN_NAME, json.dumps(fields).encode() + b"\n", name=_NAME)


def read_proven(directory: Path) -> Proven | None:
    """Return what the file says; None if there is none.

    Raises:
        StorageError: it cannot be read.
        CorruptionError: it is not of its form.
    """
    path = directory / PROVEN_NAME
    content = read_file_if_exists(path, name=_NAME)
    if content is None:
        return None
    try:
        fields = parse_object(content, _FIELDS, max_bytes=_MAX_BYTES)
        check_format(fields, _FORMAT)
        return Proven(
            origin=read_text(fields, "origin"), backup_id=read_hex(fields, "backup_id", 16).hex(),
            name=read_text(fields, "name"), backup_time_ms=read_number(fields, "backup_time_ms"),
            proven_time_ms=read_number(fields, "proven_time_ms"), tree_size=read_number(fields, "tree_size"),
            root=read_hex(fields, "root", 32),
        )  # fmt: skip
    except MalformedError as error:
        raise CorruptionError(f"{_NAME} is damaged: `{path}`: {error}") from error


class BackupTimes:
    """The times that the metrics show, in seconds, and when the last set of a vault expires. Any thread may use it.

    Manifests and proofs are not signed. Who can write them could keep the alarms silent by a time that is too late. So
    one that states a time in the future counts for nothing, and each counts at most until the first entry that its
    tree lacks (``_made_ms``).

    The attributes are assigned by the operation's thread or at the start, and read by others.
    """

    def __init__(self, directory: BackupDirectory | None, *, origin: str, clock: Clock) -> None:
        """Read the manifests that are there. *directory*: None if no backups are configured."""
        self._directory, self._origin, self._clock = directory, origin, clock
        self._ledger: Ledger | None = None
        sets: list[tuple[Path, Manifest]] = []
        try:
            sets = [] if directory is None else directory.sets()
        except ConsentdError as error:  # the daemon decides without backups too, and the alarm is raised
            log.error("backups cannot be listed: %s", error)
        own = [one for _, one in sets if one.of.origin == origin]
        self._made = [one.of for one in own if one.kind is SetKind.LEDGER]
        self._expires_ms = max((one.of.expires_time_ms for one in own if one.kind is SetKind.VAULT), default=0)
        if not all(is_past(one.time_ms, clock.wall_ms()) for one in self._made):
            log.error("directory of backups has a manifest from the future: it counts for nothing until then")

    def of_ledger(self, ledger: Ledger) -> Self:
        """Compare the trees of backups with this ledger from now on."""
        self._ledger = ledger
        return self

    def note_made(self, of: Snapshot) -> None:
        """Note that a backup was made."""
        self._made = [*self._made, of]
        self._expires_ms = max(self._expires_ms, of.expires_time_ms)

    def vaults_until_ms(self) -> int:
        """Return when the last set of the vault expires that was there at the start or was made since; 0: none was.

        A set keeps the expiry of its time, also if ``backup.retention_days`` is shorter now.
        """
        return self._expires_ms

    def last_s(self) -> float:
        """Return when the last backup was made; 0: there is none; NaN: none is configured."""
        if self._directory is None:
            return math.nan
        return max((self._made_ms(one.time_ms, one.tree_size, one.root) for one in self._made), default=0) / 1000

    def proven_s(self) -> float:
        """Return when the backup was made that was proven last; 0: none was proven; NaN: none is configured.

        It reads a small file. A file that is damaged, of another ledger, or from the future proves nothing.
        """
        if self._directory is None:
            return math.nan
        try:
            proven = read_proven(self._directory.path)
        except ConsentdError as error:
            log.warning("proof of a backup counts for nothing: %s", error)
            return 0.0
        if proven is None or proven.origin != self._origin:
            return 0.0
        if not is_past(proven.proven_time_ms, self._clock.wall_ms()):
            log.warning("proof of a backup counts for nothing: it is from the future")
            return 0.0
        return self._made_ms(proven.backup_time_ms, proven.tree_size, proven.root) / 1000

    def _made_ms(self, time_ms: int, size: int, root: bytes) -> int:
        """Return when a backup was made at the latest that states *time_ms* and a tree; 0: it counts for nothing.

        A backup has all entries from before its time. So it is as old as the first entry that its tree lacks.
        """
        if not is_past(time_ms, self._clock.wall_ms()):
            return 0
        if self._ledger is None:
            return time_ms
        store, state = self._ledger.store, self._ledger.state
        try:
            if not 0 < size <= state.size or reads.root_at(store, size) != root:
                return 0
            later = next(store.scan(layout.leaf_key(size), layout.leaf_key(state.size), limit=1), None)
        except ConsentdError as error:
            log.warning("backup cannot be compared with the ledger: %s", error)
            return 0
        return time_ms if later is None else min(time_ms, codec.decode_leaf(later[1]).time_ms)


def is_past(time_ms: int, now_ms: int) -> bool:
    """Return whether a manifest or a proof can have this time. The clocks of two machines may differ a little."""
    return time_ms <= now_ms + MAX_AHEAD_MS
