"""Record readings of persons' statements by auditors and representatives, before they get an answer.

Each chain gets one READ entry for each reader, authority and day (in Asia/Seoul). The entry's request_id is derived
from them, and the ledger remembers requests for at least a week. So a second reading of a day finds the request of the
first. An app that acts for a person reads for the person, and leaves no entry; nor does the person.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from consentd.errors import NotFoundError
from consentd.ledger import layout
from consentd.policy.dates import format_day
from consentd.sequencer.commands.readings import RecordReading
from consentd.service.context import Context, Waiting
from consentd.service.requests import content_hash, make_request
from consentd.service.roles import Kind
from consentd.service.servicer import Servicer
from consentd.v1 import statement_pb2 as st

_OF_ONE_PERSON = frozenset({st.READ_SCOPE_HISTORY, st.READ_SCOPE_ACCESSES, st.READ_SCOPE_CONSENTS})
"""What a caller that acts for a person reads for that person."""


async def record_readings(
    servicer: Servicer, context: Context, tags: Iterable[bytes], scope: "st.ReadScope.ValueType",
    *, authority_seq: int = 0,
) -> None:  # fmt: skip
    """Record that the caller reads these chains, unless the caller acts for their persons, or read them today before.

    *authority_seq*: of the AUTHORITY of the representative for whom the caller reads; 0: there is none.

    Raises:
        OverloadedError: too many writes wait; the caller must not get the answer.
        StorageError: the entries cannot be written, as above.
    """
    for future in submit_readings(servicer, context, tags, scope, authority_seq=authority_seq):
        if authority_seq:
            await Waiting(future)  # the authority may have ended meanwhile
            continue
        with suppress(NotFoundError):  # the person was erased meanwhile; the answer is as that of an earlier call
            await Waiting(future)


def submit_readings(
    servicer: Servicer, context: Context, tags: Iterable[bytes], scope: "st.ReadScope.ValueType",
    *, authority_seq: int = 0,
) -> "list[Future[Any]]":  # fmt: skip
    """Submit the missing READ entries; return their futures. See ``record_readings``."""
    reader, services = servicer.caller(context), servicer.services
    now_ms = services.sequencer.clock.wall_ms()
    with services.table.read() as snapshot:
        if context.person is not None:
            return []
        if not authority_seq and scope in _OF_ONE_PERSON and Kind.ACT_FOR_SUBJECTS in servicer.kinds(snapshot, context):
            return []
        mandate = None if authority_seq else snapshot.registry().mandates.get(reader)
    message = st.ReadStatement(
        reader=reader, scope=scope, mandate_seq=0 if mandate is None else mandate.seq, authority_seq=authority_seq
    )
    day = format_day(now_ms).encode() + (b" %d" % authority_seq if authority_seq else b"")
    writes = []
    for tag in dict.fromkeys(tags):
        request_id = hashlib.sha256(b"consentd/read/v1\0" + tag + day).digest()[:16]
        # No caller has an id that begins like this, so no caller can use such a request_id before.
        request = make_request(f"read/{reader}", request_id, content_hash("Read", tag, day))
        writes.append(RecordReading(request=request, tag=tag, message=message))
    rows = services.ledger.store.multi_get([layout.request_row_key(write.request.key) for write in writes])
    missing = [write for write, row in zip(writes, rows, strict=True) if row is None]
    return list(servicer.submit(missing, context)) if missing else []
