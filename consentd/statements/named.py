"""Read what the payload of a statement names, on which it depends who may sign it: a participant, or an authority.

It is read from a payload of a later version too: whoever signed it is whom it names. A payload that does not decode
names nothing. Source: ledger-format.md, "Keys in force".
"""

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import NAMES_NOTHING, Named
from consentd.core.kinds import AUTHORS, EntryKind, Owner
from consentd.errors import MalformedError
from consentd.statements import payloads
from consentd.v1 import statement_pb2 as st

_OF_REPRESENTATIVES = {kind for kind, owners in AUTHORS.items() if Owner.REPRESENTATIVE in owners}
_NAMING = _OF_REPRESENTATIVES | {EntryKind.MANDATE, EntryKind.NOTICE}
"""The kinds of which it depends on the payload who may sign them."""


def named_by(event: codec.Event, payload: bytes) -> Named:
    """Return what the payload of an entry names. The end of an authority names it by the entry's ref."""
    if event.kind not in _NAMING:
        return NAMES_NOTHING
    try:
        return named_in(event.kind, event.ref, payloads.decode_payload(event.kind, payload))
    except MalformedError:
        return NAMES_NOTHING


def named_in(kind: int, ref: int, message: Message) -> Named:
    """Return what the *message* of an entry of this kind and ref names, as ``named_by`` does."""
    if kind not in _NAMING:
        return NAMES_NOTHING
    if isinstance(message, st.MandateStatement):
        return Named(giver=message.giver)
    if isinstance(message, st.NoticeStatement):
        return Named(publisher=message.participant_id)
    if isinstance(message, st.AuthorityStatement):
        return Named(authority=ref if message.ended else 0)
    return Named(authority=getattr(message, "authority_seq", 0))
