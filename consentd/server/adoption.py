"""Let a new ledger begin in the place of one that lost entries, or whose key leaked.

The old ledger never signs again: its directory is marked as a restored copy, which only reads. The new ledger has an
origin, keys and a data directory of its own. It begins empty. Its leaf 0 names the old ledger's last checkpoint.

The steps, in this order; each can be done twice, so after a crash the verb is run again:

1. Check everything, and write nothing.
2. Mark the old directory, and then its store (``ledger.restored``). From now on no daemon signs under the old origin
   there.
3. Write the file ``predecessor`` into the new directory. The new ledger's first start reads it.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass

from consentd.config import Config
from consentd.core.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from consentd.core.note import Verifier, format_note, parse_note
from consentd.cosigning.keyfiles import read_hex_key, read_signing_key
from consentd.errors import CorruptionError, InvalidError, PreconditionError, StorageError, VerificationError
from consentd.files import read_file_if_exists
from consentd.ledger import layout
from consentd.ledger.last_signed import verify_last_signed
from consentd.ledger.ledger import State, decode_state
from consentd.ledger.predecessor import MAX_NOTE, parse_predecessor, write_predecessor
from consentd.ledger.restored import Restored, mark_store, read_restored, write_restored
from consentd.ledger.restored_copy import check_restored
from consentd.ledger.rotations import log_verifier_at
from consentd.server.first_start import check_first_start
from consentd.server.preflight import lock_data
from consentd.store import Store
from consentd.store.rocks import RocksStore


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was adopted.

    Attributes:
        checkpoint: the last checkpoint of the old ledger, which leaf 0 of the new one will have.
        size: how many leaves of the old ledger are there. The others up to the checkpoint's size are lost.
    """

    checkpoint: Checkpoint
    size: int


def adopt(new: Config, old: Config, *, accepted_size: int, now_ms: int) -> Adoption:
    """Prepare the ledger of *new*, which did not begin yet, to begin in the place of that of *old*.

    Args:
        accepted_size: how many leaves of the old ledger are there, as the operator says. Entries after them are lost.
        now_ms: the present time.

    Raises:
        InvalidError: the two share an origin, a key or a file; or *accepted_size* is another number.
        PreconditionError: the new ledger has begun.
        StorageError: a file cannot be read or written; a daemon runs; or the old ledger has no signed checkpoint.
        CorruptionError: the old ledger is damaged, or contradicts its own checkpoint.
    """
    _check_apart(new, old)
    with ExitStack() as stack:
        for each in (old, new):
            stack.callback(os.close, lock_data(each))
        if new.ledger.store_dir.exists():
            raise PreconditionError(f"new ledger has begun already: `{new.ledger.store_dir}`")
        check_first_start(new, read_signing_key(new.keys.log_key_file).verifier)
        log_key = read_signing_key(old.keys.log_key_file).verifier
        store = stack.enter_context(closing(RocksStore.open_read_only(old.ledger.store_dir)))
        state = decode_state(store.get(layout.STATE) or b"")
        mark = read_restored(old.ledger.data_dir) or Restored(
            old.ledger.origin, state.size, state.root, state.time_ms, now_ms
        )
        check_restored(
            store, state, mark, last_signed_path=old.ledger.last_signed_path, origin=old.ledger.origin,
            log_verifier=log_key,
        )  # fmt: skip
        note = _last_note(old, store, state, log_key)
        if accepted_size != state.size:
            raise InvalidError(f"old ledger has `{state.size}` leaves, so say that what comes after them is lost")
        write_restored(old.ledger.data_dir, mark)
        store.close()
        with closing(RocksStore.open(old.ledger.store_dir, create=False)) as store:
            mark_store(store, mark)
        # A crash here: the old ledger signs no more, and the new one knows no predecessor yet. The verb is run again.
        write_predecessor(new.ledger.data_dir, note)
    return Adoption(parse_predecessor(note), state.size)


def _check_apart(new: Config, old: Config) -> None:
    """Check that two configurations share neither origin, nor keys, nor files. Raises ``InvalidError``."""
    if new.ledger.origin == old.ledger.origin:
        raise InvalidError(f"new ledger needs an origin of its own: `{new.ledger.origin}`")
    paths = [
        {one.ledger.data_dir.resolve(), one.ledger.last_signed_path.resolve(), one.table.path.resolve()}
        for one in (new, old)
    ]
    if paths[0] & paths[1]:
        raise InvalidError("new ledger needs a data directory, a last signed checkpoint and a table of its own")
    log_keys = {read_signing_key(one.keys.log_key_file).verifier.public_key for one in (new, old)}
    statement_keys = {read_hex_key(one.keys.statement_key_file) for one in (new, old)}
    if len(log_keys) < 2 or len(statement_keys) < 2:
        raise InvalidError("new ledger needs keys of its own: make them with `consentd keygen`")


def _last_note(old: Config, store: Store, state: State, log_key: Verifier) -> bytes:
    """Return the old ledger's last checkpoint: of the largest tree that it is known to have signed."""
    found: list[tuple[int, bytes]] = []
    for path in (old.ledger.published_path, old.ledger.last_signed_path):
        note = read_file_if_exists(path, name="last signed checkpoint")
        if note is not None:
            found.append((_verified_size(note, old.ledger.origin, store, state, log_key), note))
    if not found:
        raise StorageError(
            f"old ledger has no signed checkpoint: put the newest one that anybody has into "
            f"`{old.ledger.last_signed_path}`; see ops/RUNBOOK.md, `a restored copy`"
        )
    _, note = max(found, key=lambda one: one[0])
    return note if len(note) <= MAX_NOTE else _without_cosignatures(note, old.ledger.origin)


def _verified_size(note: bytes, origin: str, store: Store, state: State, log_key: Verifier) -> int:
    """Return the size of a checkpoint of the old ledger. Verify its signature, and its root if its tree is here.

    Raises:
        CorruptionError: it does not verify, or the old ledger has another tree.
    """
    try:
        size = parse_checkpoint(parse_note(note).text).size
        open_checkpoint(note, origin, log_verifier_at(store, size, log_key))
    except VerificationError as error:
        raise CorruptionError(f"checkpoint of the old ledger does not verify: {error}") from error
    if size <= state.size:
        verify_last_signed(store, note, size=state.size, origin=origin, log_verifier=log_key)
    return size


def _without_cosignatures(note: bytes, origin: str) -> bytes:
    """Return a note with the log's own signatures alone."""
    parsed = parse_note(note)
    return format_note(parsed.text, [one for one in parsed.unverified if one.name == origin])
