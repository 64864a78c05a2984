"""Name the predecessor of a new ledger: the last checkpoint of the ledger in whose place it begins.

A ledger that lost entries never continues under its origin, because somebody may have a proof of what is lost. A new
ledger begins, and its leaf 0 has the predecessor's last checkpoint, a signed note. ``consentd adopt`` puts the note
into the new data directory, in the file ``predecessor``. The start that writes leaf 0 reads it; later starts do not.

The daemon does not verify the note's signature: ``consentd adopt`` did, and readers who pinned the predecessor can. A
checkpoint of the new origin itself is refused. Source: ledger-format.md, "Predecessor".
"""

from pathlib import Path

from consentd.core.checkpoint import Checkpoint, parse_checkpoint
from consentd.core.note import parse_note
from consentd.errors import CorruptionError, MalformedError
from consentd.files import read_file_if_exists, write_file

PREDECESSOR_NAME = "predecessor"
"""Name of the file in the data directory."""
MAX_NOTE = 8192
"""Most bytes of the note. With the rest of leaf 0's statement it must fit into a payload."""
_NAME = "checkpoint of the predecessor"


def read_predecessor(data_dir: Path, origin: str) -> bytes:
    """Return the note in the file of a data directory in which the ledger *origin* begins; empty: there is no file.

    Raises:
        StorageError: the file cannot be read.
        CorruptionError: its content is no checkpoint of another ledger.
    """
    path = data_dir / PREDECESSOR_NAME
    note = read_file_if_exists(path, name=_NAME)
    if note is None:
        return b""
    try:
        point = parse_predecessor(note)
    except MalformedError as error:
        raise CorruptionError(
            f"checkpoint of the predecessor is damaged: `{path}`: {error}; run `consentd adopt` again"
        ) from error
    if point.origin == origin:
        raise CorruptionError(f"checkpoint of the predecessor is of this ledger itself: `{path}`; remove it")
    return note


def write_predecessor(data_dir: Path, note: bytes) -> None:
    """Replace the note in the file, durably. Raises StorageError if the file cannot be written."""
    write_file(data_dir / PREDECESSOR_NAME, note, is_private=True, name=_NAME)


def parse_predecessor(note: bytes) -> Checkpoint:
    """Return the checkpoint of a note; no signature is verified. Raises MalformedError if it is none, or too long."""
    if len(note) > MAX_NOTE:
        raise MalformedError(f"note has more than {MAX_NOTE} bytes")
    return parse_checkpoint(parse_note(note).text)
