"""Remember what accesses permitted, while a ledger is replayed, to compare the outcomes of their transfers.

A replay reads each entry once. So it keeps a row for each ACCESS beside its policy table, as ``served`` does.
"""

import json

from consentd.core import codec
from consentd.statements.outcomes import beyond_permit, permitted_by
from consentd.table.transaction import TableTransaction
from consentd.table.view import U64
from consentd.v1 import statement_pb2 as st

_SUFFIX = b"a"  # the keys of ``served`` have none: a consent could name an ACCESS as the SERVED entry it rests on


def put_permitted(transaction: TableTransaction, event: codec.Event, access: st.AccessStatement) -> None:
    """Remember the categories that an outcome of an ACCESS may name."""
    names = sorted(permitted_by(access))
    transaction.put_other(_name(event.tag, event.seq), json.dumps(names).encode())


def find_beyond(
    transaction: TableTransaction, event: codec.Event, outcome: st.OutcomeStatement
) -> tuple[str, ...] | None:
    """Return the categories of an OUTCOME that its access did not permit; None: that access was not read."""
    row = transaction.other(_name(event.tag, event.ref))
    return None if row is None else beyond_permit(outcome, json.loads(row))


def _name(tag: bytes, seq: int) -> bytes:
    return tag + U64.pack(seq) + _SUFFIX
