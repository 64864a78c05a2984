"""Remember accesses while a ledger is replayed, to compare the outcomes of their transfers.

A replay reads each entry once. So it keeps a row for each ACCESS beside its policy table, as ``served`` does.
"""

import json

from consentd.core import codec
from consentd.core.kinds import Owner
from consentd.errors import DeniedError
from consentd.statements.outcomes import ComparedAccess, beyond_permit
from consentd.statements.reporters import may_report, may_report_status, sender_of
from consentd.table.transaction import TableTransaction
from consentd.table.view import U64
from consentd.v1 import statement_pb2 as st

_SUFFIX = b"a"  # the keys of ``served`` have none: a consent could name an ACCESS as the SERVED entry it rests on


def put_access(transaction: TableTransaction, event: codec.Event, access: st.AccessStatement) -> None:
    """Remember the categories that an outcome of an ACCESS may name, and the participants that may report one."""
    compared = ComparedAccess.of(access)
    is_known = compared.parties is not None
    row = [sorted(compared.permitted), sorted(compared.parties or ()) if is_known else None,
           sender_of(access) if is_known else ""]  # fmt: skip
    transaction.put_other(_name(event.tag, event.seq), json.dumps(row).encode())


def find_beyond(
    transaction: TableTransaction, event: codec.Event, outcome: st.OutcomeStatement
) -> tuple[str, ...] | None:
    """Return the categories of an OUTCOME that its access did not permit; None: that access was not read."""
    row = transaction.other(_name(event.tag, event.ref))
    return None if row is None else beyond_permit(outcome, json.loads(row)[0])


def check_reporter(transaction: TableTransaction, event: codec.Event, outcome: st.OutcomeStatement, key: bytes) -> None:
    """Check that whoever reported an OUTCOME had a part in its access, as far as that access was read.

    *key*: the key that signed the outcome. The daemon signs for the participant or operator that attests it.

    Raises:
        DeniedError: the reporter had no part in the access; or it says FAILED, and the holder alone does.
    """
    row, owner = transaction.other(_name(event.tag, event.ref)), transaction.key_ever(key)
    _, parties, sender = (None, None, "") if row is None else json.loads(row)
    if parties is None or owner is None:
        return
    reporter = owner.tag_or_name if owner.owner is Owner.PARTICIPANT else outcome.attestation.attested_by
    if not may_report(str(reporter), parties):
        raise DeniedError("reporter of an outcome had no part in the access")
    if not may_report_status(str(reporter), outcome.status, sender):
        raise DeniedError("another one than the holder reported that the data of a recurring consent were not sent")


def _name(tag: bytes, seq: int) -> bytes:
    return tag + U64.pack(seq) + _SUFFIX
