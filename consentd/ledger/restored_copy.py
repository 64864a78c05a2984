"""Check a restored copy at its opening, in place of the comparison with the last signed checkpoint.

``last_signed.check_last_signed`` refuses a ledger that lacks signed entries, because the ledger would sign others in
their place. A restored copy (``restored``) signs nothing, so it may lack them. But it must have the tree of its mark.
"""

from pathlib import Path

from consentd.core import checkpoint
from consentd.core.note import Verifier, parse_note
from consentd.errors import CorruptionError, ProofError, VerificationError
from consentd.ledger import reads
from consentd.ledger.last_signed import read_last_signed, verify_last_signed
from consentd.ledger.ledger import State
from consentd.ledger.restored import Restored
from consentd.store import Store

RUNBOOK = "see ops/RUNBOOK.md, `a restored copy`"


def check_restored(
    store: Store, state: State, restored: Restored, *, last_signed_path: Path, origin: str, log_verifier: Verifier
) -> None:
    """Check that a ledger is the copy that its mark describes, and does not contradict the last signed checkpoint.

    The last signed checkpoint may be missing, or have more leaves than the copy.

    Raises:
        CorruptionError: the ledger is not that copy, or has another root at the size of the last signed checkpoint.
        StorageError: the file or the store cannot be read.
    """
    if restored.origin != origin:
        raise CorruptionError(f"restored copy is of another ledger: `{restored.origin}`; {RUNBOOK}")
    size = restored.tree_size
    try:
        is_whole = 0 < size <= state.size and reads.root_at(store, size) == restored.root
    except ProofError:
        is_whole = False
    if not is_whole:
        raise CorruptionError(f"restored copy has not the tree of its mark: size {size} of {state.size}; {RUNBOOK}")
    note = read_last_signed(last_signed_path)
    if note is not None and is_within(note, state.size):
        verify_last_signed(store, note, size=state.size, origin=origin, log_verifier=log_verifier)


def is_within(note: bytes, size: int) -> bool:
    """Return whether a checkpoint's note names at most *size* leaves, or cannot be read: then its reader refuses it."""
    try:
        return checkpoint.parse_checkpoint(parse_note(note).text).size <= size
    except VerificationError:
        return True
