"""Define where to read a ledger: an exported directory, a stopped daemon (``files``), a running daemon (``live``).

A ``Location`` is a value that can be sent to another process. Each process opens its own ``Source`` at the location. A
source returns the signed checkpoint, leaves, tiles, and perhaps openings (salt and statement). No source is trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

from consentd import files
from consentd.core import tiles
from consentd.core.history import RotationProof
from consentd.core.note import MAX_NOTE_SIZE
from consentd.core.pruned import Pruned
from consentd.errors import MalformedError, StorageError
from consentd.verify.source import LeafSource, Opening, TlogFiles

STATEMENTS = "statements"
"""The path of a bundle's openings begins with this, where the path of the bundle begins with ``tile/entries``."""
MAX_OPENING = 32 + 121 + 16 * 1024
_MAX_FILE = tiles.TILE_WIDTH * (4 + MAX_OPENING)


class Source(LeafSource, Protocol):
    """A ledger that is being read, with its signed checkpoint. One thread uses it."""

    def checkpoint(self) -> bytes:
        """Return the latest signed checkpoint, verbatim. Raises StorageError if it is missing or cannot be read."""
        ...

    def rotations(self) -> tuple[RotationProof, ...]:
        """Return the last checkpoints of earlier log keys, oldest first, without proofs of consistency.

        Raises:
            StorageError: they cannot be read. MalformedError: they do not have their format.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A ledger of which all bytes pass through a network. ``remote.read_twice`` says when they are evidence."""

    def again(self) -> "RemoteSource":
        """Return the same ledger, to be read on new connections and past all caches. The caller closes the result."""
        ...


class Location(Protocol):
    """Where a ledger can be read: a value, which can be sent to another process."""

    def open(self) -> Source:
        """Open the ledger. Raises StorageError if the ledger cannot be opened."""
        ...


@dataclass(frozen=True)
class ExportDirectory(TlogFiles):
    """Files in the layout of C2SP tlog-tiles, made by any program. This is both a location and a source.

    Attributes:
        statements: the directory of openings; None: this reader does not have the openings.
    """

    directory: Path
    statements: Path | None = None
    is_whole: ClassVar[bool] = False

    def open(self) -> Self:
        """Return this value: no file is held open."""
        return self

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def checkpoint(self) -> bytes:
        """Return the checkpoint file."""
        return read_file(self.directory / "checkpoint", MAX_NOTE_SIZE)

    def find(self, path: str) -> bytes | None:
        """Return the content of a file."""
        file = self.directory / path
        return read_file(file) if file.exists() else None

    def pruned(self) -> Pruned:
        """Return what the file ``pruned`` states, with start 0 if all leaves were exported before they were pruned."""
        found = super().pruned()
        bundles = range(found.minimum // tiles.TILE_WIDTH)
        is_whole = all((self.directory / tiles.entries_path(n)).exists() for n in bundles)
        return replace(found, start=0) if is_whole else found

    def openings(self, n: int, leaves: Sequence[bytes]) -> list[Opening] | None:
        """Read the openings of bundle *n* from its file; None if there is no directory of openings."""
        if self.statements is None:
            return None
        # Every bundle has a file, even if all its openings are withheld. So a missing file is an error.
        found = decode_openings(read_file(self.statements / statements_path(n, len(leaves))))
        if len(found) != len(leaves):
            raise MalformedError(f"openings are not as many as leaves: `{len(found)}` and `{len(leaves)}`")
        return found


def statements_path(n: int, width: int) -> str:
    """Return the path of the openings of bundle *n*, which has *width* leaves. It begins with ``statements``."""
    return STATEMENTS + tiles.entries_path(n, width).removeprefix("tile/entries")


def encode_openings(openings: Sequence[Opening]) -> bytes:
    """Join openings, each after its length as a big-endian u32. The length of a missing opening is 0."""
    return b"".join([len(one or b"").to_bytes(4) + (one or b"") for one in openings])


def decode_openings(content: bytes) -> list[Opening]:
    """Split the bytes that ``encode_openings`` returns. Raises MalformedError for bytes that it cannot return."""
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
    """Return a file's bytes. Raises StorageError if it cannot be read, MalformedError for more than *most* bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise StorageError(f"file cannot be read: `{path}`: {error.strerror}") from error
    if len(content) > most:
        raise MalformedError(f"file is larger than can be: `{path}`")
    return content


def write_file(path: Path, content: bytes, *, is_private: bool = False, what: str = "") -> None:
    """Replace a file atomically: a reader finds the whole old or new content. A pipe or device is just written to.

    Args:
        is_private: only the owner may read the file, because it may have statements of persons.
        what: what the error message calls the file. If empty, the file's directory is created if it is missing.

    Raises:
        StorageError: the file cannot be written; the old content is unchanged.
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
