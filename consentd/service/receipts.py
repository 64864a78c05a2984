"""Answer GetReceipt: the form of a receipt depends on the caller's right to the entry.

A leaf hash is public, because the tiles show it. So a caller that has only the leaf hash gets the reduced form, which
shows nothing that the tiles do not. A caller that has the leaf gets the leaf back. Leaf and opening are for those who
have a right to the entry (ledger-format.md, "Receipts").
"""

from dataclasses import dataclass

from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import NotFoundError
from consentd.ledger import layout, reads
from consentd.service.access_records import parties_that_may_know
from consentd.service.context import Context
from consentd.service.readings import record_readings
from consentd.service.roles import Access, Kind, Whose, access, may_call
from consentd.service.servicer import Servicer, reduce_receipt
from consentd.statements import payloads
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st


async def get_receipt(servicer: Servicer, request: ls.GetReceiptRequest, context: Context) -> ls.GetReceiptResponse:
    """Return the receipt of an entry in the form that the caller may have.

    Raises:
        NotFoundError: there is no entry with this index and leaf hash.
    """
    services = servicer.services
    store, state = services.ledger.store, services.ledger.state
    claimed = merkle.leaf_hash(request.leaf) if request.leaf else request.leaf_hash
    if request.index >= state.size or reads.leaf_hash_at(store, request.index) != claimed:
        raise NotFoundError("no such entry, or another leaf")
    leaf = store.get(layout.leaf_key(request.index)) or request.leaf  # a pruned leaf is not stored any more
    if not leaf:
        receipt = await servicer.receipt(request.index, b"", state, request.wait_for, context)
        receipt.leaf_hash = claimed
        return ls.GetReceiptResponse(receipt=reduce_receipt(receipt))
    receipt = await servicer.receipt(request.index, leaf, state, request.wait_for, context)
    rights = _rights(servicer, request, leaf, context)
    if rights.is_reading and rights.tag is not None:
        await record_readings(servicer, context, [rights.tag], st.READ_SCOPE_ENTRY)
    if not rights.has_leaf and not request.leaf:
        receipt = reduce_receipt(receipt)
    return ls.GetReceiptResponse(receipt=receipt, opening=rights.opening)


@dataclass(frozen=True, slots=True)
class _Rights:
    """What a caller may see of an entry.

    Attributes:
        opening: the opening; None: the caller may not see it, or the statement is not stored any more.
        is_reading: the caller is neither the person, nor acts for the person, nor was a party to the entry.
    """

    has_leaf: bool = False
    opening: ls.Opening | None = None
    is_reading: bool = False
    tag: bytes | None = None


def _rights(servicer: Servicer, request: ls.GetReceiptRequest, leaf: bytes, context: Context) -> _Rights:
    caller, services = servicer.known_caller(context), servicer.services
    event = codec.decode_leaf(leaf)
    if not caller or not isinstance(event, codec.Event):
        return _Rights()
    with services.table.read() as snapshot:
        kinds = servicer.kinds(snapshot, context)
        # A login is no word about a person while its participant does not act for persons: `kinds` is INACTIVE then.
        is_person = context.person is not None and context.person.tag == event.tag
        acts = is_person and access("GetReceipt", kinds, Whose.OWN) is Access.ALLOWED
        if request.HasField("subject") and Kind.ACT_FOR_SUBJECTS in kinds:
            acts = snapshot.tag_of(servicer.identifier_hash(request.subject)) == event.tag
    reads_all = access("ListEntries", kinds, Whose.OTHER) is Access.ALLOWED
    has_leaf = acts or reads_all or may_call("ListLeaves", kinds)
    if event.kind == EntryKind.REFUSAL and not acts and not reads_all:
        # Nobody was a party to a refusal. To open it takes longer if the key is that of a person, and not that of the
        # month's unknown chain, which all refusals about persons who are not enrolled share (policy.md, "One answer").
        return _Rights(has_leaf)
    try:
        entry = reads.read_entry(services.ledger.store, event.tag, event.seq)
    except NotFoundError:  # the entry is pruned
        return _Rights(has_leaf)
    opened = reads.open_entry(services.vault, entry)
    if opened is None:
        return _Rights(has_leaf)
    opening = ls.Opening(salt=opened[0], statement=opened[1])
    if event.kind == EntryKind.ERASURE:
        # It is in the clear, because the person's key is destroyed. But its leaf shows the tag of a person.
        owner = _author_of(servicer, opened[1])
        return _Rights(True, opening) if has_leaf or caller == owner else _Rights()
    if reads.is_plaintext(entry):
        opens = access("GetReceipt", kinds, Whose.PUBLIC) is Access.ALLOWED
        return _Rights(has_leaf or opens, opening if opens else None)
    if acts:
        return _Rights(True, opening)
    if access("GetReceipt", kinds, Whose.OWN) is Access.ALLOWED and caller in _parties(event.kind, opened[1], kinds):
        return _Rights(True, opening)
    return _Rights(True, opening, is_reading=True, tag=event.tag) if reads_all else _Rights(has_leaf)


def _author_of(servicer: Servicer, statement: bytes) -> str:
    """Return the participant whose key signed a statement; empty: it is no participant's."""
    with servicer.services.table.read() as snapshot:
        owner = snapshot.key_ever(codec.decode_statement(statement).key)
    return owner.tag_or_name if owner is not None and isinstance(owner.tag_or_name, str) else ""


def _parties(kind: int, statement: bytes, kinds: frozenset[Kind]) -> set[str]:
    """Return the participants that were parties to an entry: to a permitted access, or that attested the entry.

    *kinds* are those of the caller. The entry is no REFUSAL: nobody was a party to it.
    """
    message = payloads.decode_known_payload(kind, codec.decode_statement(statement).payload)
    if isinstance(message, st.AccessStatement):
        return parties_that_may_know(message, kinds)
    if message is None:
        return set()
    attestation: st.Attestation | None = getattr(message, "attestation", None)
    return {attestation.attested_by} if attestation is not None and attestation.attested_by else set()
