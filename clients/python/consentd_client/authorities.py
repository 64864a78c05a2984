"""Operations of ConsentService on authorities: who may act for a person."""

from typing import Unpack

from consentd.core.kinds import EntryKind
from consentd.errors import ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client.consistency import Reached, condition
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.receipts import Receipt, StatementOptions, put_statement, read_new_receipt, write, write_fields


def put_authority(
    context: ClientContext, subject: pb.Subject, authority: st.AuthorityStatement, *, possession: bytes = b"",
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """Record who may act for a person. Statements under the authority name the seq that the receipt has.

    *possession*: the proof that the representative has the private key of the authority's ``key`` (``prove_possession``
    with the owner ``representative_owner``), 64 bytes; empty: the authority has none.
    """
    fields = write_fields(context, options, StatementOptions)
    request = cs.PutAuthorityRequest(subject=subject, possession=possession, **fields)
    put_statement(context, request, EntryKind.AUTHORITY, authority, options)
    tree_size = context.learned.tree_size
    response = yield from call(context, request, cs.PutAuthorityResponse)
    kinds = (EntryKind.AUTHORITY,)
    receipt = yield from read_new_receipt(context, response.receipt, kinds=kinds, tree_size=tree_size)
    if receipt.event.seq != response.authority_seq:
        raise ProofError("seq of the authority does not belong to the entry in the receipt")
    return receipt


def end_authority(
    context: ClientContext, subject: pb.Subject, authority_seq: int, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """End an authority: what was given under it permits no question asked after this call returned; its denies stay."""
    fields = write_fields(context, options, StatementOptions)
    request = cs.EndAuthorityRequest(subject=subject, authority_seq=authority_seq, **fields)
    statement = st.AuthorityStatement(ended=True)
    put_statement(context, request, EntryKind.AUTHORITY, statement, options, ref=authority_seq)
    return (yield from write(context, request, cs.EndAuthorityResponse, EntryKind.AUTHORITY))


def get_authority(
    context: ClientContext, subject: pb.Subject, authority_seq: int, *, consistency: Reached | None = None
) -> Operation[cs.AuthorityRecord]:
    """Read one authority."""
    request = cs.GetAuthorityRequest(subject=subject, authority_seq=authority_seq, consistency=condition(consistency))
    response = yield from call(context, request, cs.GetAuthorityResponse)
    return response.record


def list_authorities(
    context: ClientContext, subject: pb.Subject, *, participant_id: str = "", consistency: Reached | None = None
) -> ReadPage[cs.AuthorityRecord]:
    """Read who may or could act for a person, newest first. The list proves nothing; use ``history`` for a proof.

    *participant_id*: only the authorities of this representative.
    """
    selected = cs.ListAuthoritiesRequest(
        subject=subject, participant_id=participant_id, consistency=condition(consistency)
    )
    return read_pages(
        context, selected, cs.ListAuthoritiesResponse, lambda response: (response.records, response.next_page_token)
    )
