"""Remember which notices were shown, while a ledger is replayed, to check the consents that rest on them.

The daemon reads the SERVED entry that a consent names from its ledger. A replay reads each entry once. So it keeps a
row for each SERVED entry beside its policy table, under keys that the table's format leaves to others.
"""

from google.protobuf.message import Message

from consentd.core import codec
from consentd.sequencer.commands.served import Shown, check_rests_on
from consentd.statements import values
from consentd.table.transaction import TableTransaction
from consentd.table.view import U32, U64
from consentd.v1 import statement_pb2 as st

_ID_AT = U32.size + U64.size


def put_shown(transaction: TableTransaction, event: codec.Event, shown: Shown | None) -> None:
    """Remember what a SERVED entry names; None: its statement is not available."""
    row = b"" if shown is None else U32.pack(shown[1]) + U64.pack(shown[2]) + shown[0].encode()
    transaction.put_other(event.tag + U64.pack(event.seq), row)


def forget(transaction: TableTransaction, tag: bytes) -> None:
    """Delete the rows of a person who was erased."""
    transaction.delete_others(tag)


def check_rests_on_served(transaction: TableTransaction, event: codec.Event, message: Message) -> None:
    """Check the SERVED entry that a GRANT or AMEND names; of other kinds, check nothing. Raises ``InvalidError``.

    If the statement of the SERVED entry is not available, the consent is not checked.
    """
    if not isinstance(message, st.GrantStatement | st.AmendStatement) or not message.served_seq:
        return
    seq = message.served_seq
    row = transaction.other(event.tag + U64.pack(seq)) if seq < event.seq else None
    if row != b"":
        shown = None if row is None else _shown(row)
        check_rests_on(shown, values.consent_value(message.consent), authority_seq=message.authority_seq)


def _shown(row: bytes) -> Shown:
    return row[_ID_AT:].decode(), int(U32.unpack_from(row)[0]), int(U64.unpack_from(row, U32.size)[0])
