"""Remember who put a legal hold while a ledger is replayed, to check who ends it.

The daemon reads the entry of a hold from its ledger. A replay reads each entry once. So it keeps a row for each DUTY
beside its policy table, as ``served`` does.
"""

from consentd.core import codec
from consentd.errors import NotFoundError
from consentd.sequencer.commands.erasure import NO_HOLD, check_ends_own
from consentd.table.transaction import TableTransaction
from consentd.table.view import U64
from consentd.v1 import statement_pb2 as st

_SUFFIX = b"h"  # so that no other entry can be named as a hold


def put_duty(transaction: TableTransaction, event: codec.Event, key: bytes) -> None:
    """Remember the key that signed a DUTY; empty: its statement is not available."""
    transaction.put_other(_name(event.tag, event.seq), key)


def check_end(view: TableTransaction, event: codec.Event, message: st.DutyStatement, key: bytes) -> None:
    """Check that the end of a hold ends one that is there, and of the same author; of other duties, check nothing.

    *key*: the key that signed the end. If the statement of the hold is not available, nothing is checked.

    Raises:
        NotFoundError: there is no such hold, or somebody else has put it.
    """
    if not message.hold.ended:
        return
    hold_key = view.other(_name(event.tag, event.ref))
    if hold_key == b"":
        return
    duty = view.duty(event.tag, event.ref)
    if hold_key is None or duty is None or not duty.forbids_erasure(event.time_ms):
        raise NotFoundError(NO_HOLD)
    check_ends_own(view, key, hold_key=hold_key)


def _name(tag: bytes, seq: int) -> bytes:
    return tag + U64.pack(seq) + _SUFFIX
