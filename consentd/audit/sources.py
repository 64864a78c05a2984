"""Say where a ledger can be read. A ``Place`` travels to worker processes; each opens a ``Source`` of its own there.

All of them yield the same bytes: the signed checkpoint, bundles of up to 256 leaves, tiles, and openings where the
place has them. None is believed: whoever reads compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from consentd import files
from consentd.core import pruned, tiles
from consentd.core.note import MAX_NOTE_SIZE
from consentd.core.pruned import Pruned
from consentd.errors import MalformedError, StorageError
from consentd.verify.source import LeafSource, Opening

STATEMENTS = "statements"
"""First part of a path of openings, where an entry bundle has ``tile/entries``."""
MAX_OPENING = 32 + 121 + 16 * 1024
_MAX_FILE = tiles.TILE_WIDTH * (4 + MAX_OPENING)


class Source(LeafSource, Protocol):
    """A ledger that is being read, with its signed checkpoint. One thread uses it."""

    def checkpoint(self) -> bytes:
        """Return the latest signed checkpoint, verbatim.

        Raises:
            StorageError: there is none, or it cannot be read.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


class Place(Protocol):
    """Where a ledger can be read: a value that another process can be given."""

    def open(self) -> Source:
        """Open it.

        Raises:
            StorageError: it cannot be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Exported:
    """A directory that ``consentd export`` made, or another program's of the same layout.

    Attributes:
        statements: where openings lie, for who has a mandate to hold them; None: nowhere.
    """

    directory: Path
    statements: Path | None = None

    def open(self) -> "ExportedSource":
        """Open it."""
        return ExportedSource(self.directory, self.statements)


class ExportedSource:
    """Files in the layout of C2SP tlog-tiles."""

    is_whole = False

    def __init__(self, directory: Path, statements: Path | None) -> None:
        self._directory = directory
        self._statements = statements

    def checkpoint(self) -> bytes:
        """Return the checkpoint file."""
        return read_file(self._directory / "checkpoint", MAX_NOTE_SIZE)

    def pruned(self) -> Pruned:
        """Return what the file ``pruned`` says; leaves that were exported before they were pruned are all there."""
        path = self._directory / pruned.FILE
        if not path.exists():
            return pruned.NOTHING
        found = pruned.parse_pruned(read_file(path))
        bundles = range(found.minimum // tiles.TILE_WIDTH)
        is_whole = all((self._directory / tiles.entries_path(n)).exists() for n in bundles)
        return replace(found, start=0) if is_whole else found

    def leaves(self, n: int, width: int) -> list[bytes]:
        """Return the leaves of a bundle's file: of the partial one, the full one, or the one that pruning left."""
        names = [tiles.entries_path(n, width), tiles.entries_path(n)]
        names += [tiles.kept_path(n)] if width == tiles.TILE_WIDTH else []
        path = next((path for name in names if (path := self._directory / name).exists()), self._directory / names[0])
        return tiles.decode_bundle(read_file(path))[:width]

    def tile(self, level: int, n: int, width: int) -> bytes:
        """Return a tile's file; where only the full one is there, its first *width* hashes."""
        path = self._directory / tiles.tile_path(level, n, width)
        if width < tiles.TILE_WIDTH and not path.exists():
            whole = self._directory / tiles.tile_path(level, n)
            if whole.exists():
                return read_file(whole)[: 32 * width]
        return read_file(path)

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Return the openings kept beside."""
        if self._statements is None:
            return None
        # What is withheld is told in the file; a file that is missing is of a wrong directory, or lost.
        found = decode_openings(read_file(self._statements / statements_path(n, len(leaves))))
        if len(found) != len(leaves):
            raise MalformedError(f"openings are not as many as leaves: `{len(found)}` and `{len(leaves)}`")
        return found

    def close(self) -> None:
        """Nothing is held open."""


def statements_path(n: int, width: int) -> str:
    """Return the path of the openings of bundle *n*: as a bundle's, but below ``statements``."""
    return STATEMENTS + tiles.entries_path(n, width).removeprefix("tile/entries")


def encode_openings(openings: Sequence[Opening]) -> bytes:
    """Join openings, each behind its length as u32; none: length 0."""
    return b"".join([len(one or b"").to_bytes(4) + (one or b"") for one in openings])


def decode_openings(content: bytes) -> list[Opening]:
    """Split what ``encode_openings`` joined.

    Raises:
        MalformedError: it is not that.
    """
    found: list[Opening] = []
    at = 0
    while at < len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4])
        if end > len(content) or len(found) == tiles.TILE_WIDTH:
            raise MalformedError("openings end within one, or are more than 256")
        found.append(content[at + 4 : end] or None)
        at = end
    return found


def read_file(path: Path, most: int = _MAX_FILE) -> bytes:
    """Return a file's bytes.

    Raises:
        StorageError: it cannot be read.
        MalformedError: it is larger than anything we write.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise StorageError(f"file cannot be read: `{path}`: {error.strerror}") from error
    if len(content) > most:
        raise MalformedError(f"file is larger than can be: `{path}`")
    return content


def write_file(path: Path, content: bytes, *, is_private: bool = False, what: str = "") -> None:
    """Write a file at once: whoever reads finds the old one or the new one. What is no file, a pipe, is written to.

    Args:
        is_private: for its owner alone: it may say what a person's entries say.
        what: what the error calls it; without it a file of a directory of ours, which is made where it is not there.

    Raises:
        StorageError: it cannot be written; the old one is as it was.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        if not what:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{what or 'file'} cannot be written: `{path}`: {error.strerror}") from error
    files.write_file(path.resolve(), content, is_private=is_private, is_synced=False, name=what or "file")
