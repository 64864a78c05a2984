"""Store the last signed checkpoint outside the ledger's store, in the file ``last-signed``.

An operator may restore the store from an old backup, but a published signature cannot be withdrawn. So the sequencer
writes each signed checkpoint to this file before it publishes the checkpoint. A ledger that is smaller than its last
signed checkpoint has lost entries for which somebody may hold a proof, so the daemon does not open that ledger.

The file contains the checkpoint's signed note, and the daemon trusts the file. A person who can write the file can hide
a rollback from the daemon, but not from a witness or a client. One process writes the file: the daemon holds the lock
``last-signed.lock``. A failed write leaves the old note or the new one, and the ledger opens with either.
"""

from pathlib import Path

from consentd.core import checkpoint, codec, tiles
from consentd.core.note import Verifier, parse_note
from consentd.errors import CorruptionError, MalformedError, ProofError, VerificationError
from consentd.files import read_file_if_exists, write_file
from consentd.ledger import layout
from consentd.ledger.ledger import State
from consentd.ledger.reads import read_tiles
from consentd.ledger.rotations import log_verifier_at
from consentd.store import Store

RUNBOOK = "see ops/RUNBOOK.md, `ledger refuses to open`"
_NAME = "last signed checkpoint"


def read_last_signed(path: Path) -> bytes | None:
    """Return the last signed note; None if the file does not exist. Raises StorageError if the file cannot be read."""
    return read_file_if_exists(path, name=_NAME)


def write_last_signed(path: Path, note: bytes) -> None:
    """Replace the last signed note, durably. Raises as ``files.write_file``."""
    write_file(path, note, name=_NAME)


def check_last_signed(
    store: Store, state: State, *, last_signed_path: Path, origin: str, log_verifier: Verifier
) -> None:
    """Check that the ledger begins with the tree of the last signed checkpoint: enough leaves, and the same root.

    A restored copy may have that tree, and lack entries that came after the checkpoint. So its store is marked too.

    Raises:
        CorruptionError: the ledger does not, or the file is missing although a checkpoint must have been signed; or the
            store is that of a restored copy, and ``restored.json`` is missing.
        StorageError: the file or the store cannot be read.
    """
    if store.get(layout.RESTORED) is not None:
        raise CorruptionError(
            "ledger is a restored copy, which never signs, and `restored.json` is missing: restore the backup again; "
            "see ops/RUNBOOK.md, `a restored copy`"
        )
    note = read_last_signed(last_signed_path)
    if note is None:
        # INVARIANT: the file may be missing only if the ledger has no seal, or its last leaf is its first seal. The
        # daemon then crashed before it wrote the file and published anything, and the next start signs that same tree.
        if state.sealed_size > 0 and not _is_first_seal(store, state):
            where = f"`{last_signed_path}`; {RUNBOOK}"
            raise CorruptionError(f"last signed checkpoint is missing beside a ledger of size {state.size}: {where}")
        return
    verify_last_signed(store, note, size=state.size, origin=origin, log_verifier=log_verifier)


def verify_last_signed(store: Store, note: bytes, *, size: int, origin: str, log_verifier: Verifier) -> None:
    """Verify the signature in *note*, and that the tree in *store*, of *size* leaves, had the note's root at its size.

    *log_verifier*: a log key of the ledger, the present one or an earlier one.

    Raises:
        CorruptionError: the note's signature is wrong, or the note has more leaves than the tree, or another root.
        StorageError: the store cannot be read.
    """
    try:
        size_signed = checkpoint.parse_checkpoint(parse_note(note).text).size
        signed, _ = checkpoint.open_checkpoint(note, origin, log_verifier_at(store, size_signed, log_verifier))
    except VerificationError as error:
        raise CorruptionError(f"last signed checkpoint does not verify: {error}; {RUNBOOK}") from error
    last_signed = f"last signed checkpoint has size {signed.size} root {signed.root.hex()}; {RUNBOOK}"
    if signed.size > size:
        raise CorruptionError(f"ledger is smaller than its last signed checkpoint: size {size}, {last_signed}")
    try:
        root = tiles.root(signed.size, read_tiles(store, tiles.plan_root(signed.size)))
    except ProofError as error:
        raise CorruptionError(f"tree is not whole at the last signed checkpoint: {error}, {last_signed}") from error
    if root != signed.root:
        raise CorruptionError(f"ledger contradicts its last signed checkpoint: root {root.hex()}, {last_signed}")


def _is_first_seal(store: Store, state: State) -> bool:
    """Report whether the last leaf is the first seal. Then no smaller tree was signed: signed trees end in a seal."""
    if state.sealed_size != state.size:
        return False
    try:
        seal = codec.decode_leaf(store.get(layout.leaf_key(state.size - 1)) or b"")
    except MalformedError:
        return False
    return isinstance(seal, codec.Seal) and seal.prev_seal == codec.ZERO_HASH
