"""Bring a policy table up to date with its ledger: apply the entries that it does not reflect yet.

A table that is missing, older than the ledger, or built anew for a comparison takes the same way.
"""

from collections.abc import Callable

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import CorruptionError, MalformedError, RequestError
from consentd.ledger import reads
from consentd.ledger.vault import Vault
from consentd.statements import payloads
from consentd.store import Store
from consentd.table.table import Table
from consentd.table.transaction import STEP_KINDS

CATCH_UP_BATCH = 2_000
"""Leaves that one transaction applies."""


def catch_up(
    table: Table, store: Store, vault: Vault, *, size: int, wall_ms: int = 0,
    progress: Callable[[int], None] | None = None, after_leaf: Callable[[bytes], None] | None = None,
) -> int:  # fmt: skip
    """Apply the entries of the first *size* leaves not yet reflected by the table; return how many leaves were read.

    Args:
        wall_ms: the heartbeat to write.
        progress: called with the size that the table has reached, after each batch of ``CATCH_UP_BATCH`` leaves.
        after_leaf: called after each leaf, inside the table's transaction; may wait.

    Raises:
        CorruptionError: the table reflects more leaves than *size*, or another ledger; or an entry does not apply.
        StorageError: the store or the table cannot be read or written.
    """
    with table.read() as snapshot:
        done, root = snapshot.size, snapshot.root
    if done > size:
        raise CorruptionError(f"table is ahead of its ledger: size {done}, ledger has {size}; see ops/RUNBOOK.md")
    if done and root != reads.root_at(store, done):
        raise CorruptionError(f"table reflects another ledger at size {done}; rebuild it: `consentd table rebuild`")
    start = done
    while done < size:
        end = min(done + CATCH_UP_BATCH, size)
        with table.begin() as transaction:
            for _, leaf in reads.scan_leaves(store, done, end):
                event = codec.decode_leaf(leaf)
                if isinstance(event, codec.Event):
                    try:
                        transaction.apply(event, read_message(store, vault, event))
                    except (RequestError, MalformedError) as error:
                        fault = f"entry does not apply to the table: kind {event.kind} seq {event.seq}"
                        raise CorruptionError(f"{fault}; see ops/RUNBOOK.md") from error
                if after_leaf is not None:
                    after_leaf(leaf)
            transaction.commit(end, reads.root_at(store, end), wall_ms)
        done = end
        if progress is not None:
            progress(done)
    return done - start


def read_message(store: Store, vault: Vault, event: codec.Event) -> Message | None:
    """Return the decoded payload of an event; None: the statement was erased, or its kind does not change the table.

    Raises:
        CorruptionError: the statement does not decrypt, or is not what the leaf commits to.
        MalformedError: the payload does not decode.
    """
    if event.kind not in STEP_KINDS:
        return None
    opened = reads.open_entry(vault, reads.read_entry(store, event.tag, event.seq))
    if opened is None:
        return None
    return payloads.decode_payload(event.kind, codec.decode_statement(opened[1]).payload)
