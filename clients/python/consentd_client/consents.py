"""Operations of ConsentService: give, change, pause, resume and withdraw a consent; read consents."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias, Unpack

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import AbortedError, InvalidError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st
from consentd_client.consistency import Reached, condition
from consentd_client.operations import ClientContext, Operation, ReadPage, call, read_pages
from consentd_client.receipts import Receipt, StatementOptions, put_statement, read_new_receipt, write, write_fields
from consentd_client.signing import StatementSigner

_Change: TypeAlias = cs.PauseConsentRequest | cs.ResumeConsentRequest | cs.RevokeConsentRequest
_Changed: TypeAlias = cs.PauseConsentResponse | cs.ResumeConsentResponse | cs.RevokeConsentResponse
_ChangeStatement: TypeAlias = st.PauseStatement | st.ResumeStatement | st.RevokeStatement
_VersionResponse: TypeAlias = cs.GrantConsentResponse | cs.AmendConsentResponse | cs.RenewConsentResponse
ALL_STATES = tuple(state for state in cs.ConsentState.values() if state != cs.CONSENT_STATE_UNSPECIFIED)
"""Every state of a consent: what a list selects by to have the revoked ones too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAnswer:
    """The answer to a grant or an amendment. True if the consent was recorded, false if it was refused.

    Attributes:
        receipt: the receipt of the GRANT, AMEND or REFUSAL entry.
        consent_id: identifies the consent, the same for all its versions; empty if a grant was refused.
        version: the number of the recorded version; 0 if the consent was refused.
        refused: the legal ground of the refusal, and the missing items; None: the consent was recorded.
        served: the receipt of the SERVED entry that was recorded with the consent; None: there was none to record.
    """

    receipt: Receipt
    consent_id: str
    version: int
    refused: cs.Refused | None
    served: Receipt | None = None

    def __bool__(self) -> bool:
        return self.refused is None


def grant(
    context: ClientContext,
    subject: pb.Subject,
    consent: pb.Consent,
    *,
    served: st.ServedStatement | None = None,
    served_seq: int = 0,
    authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[GrantAnswer]:
    """Record a new consent. If the consent lacks an item that the law requires, the daemon records a refusal.

    Args:
        served: the notice that was shown, which the consent names, to record in the same write; not with a signer.
        served_seq: seq of the SERVED entry of that notice, if it is recorded already (``record_served``).
        authority_seq: seq of the AUTHORITY under which the caller acts for the person; 0: the person acts.
    """
    fields = write_fields(context, options, StatementOptions)
    request = cs.GrantConsentRequest(subject=subject, served=served, **fields)
    statement = st.GrantStatement(consent=consent, served_seq=served_seq, authority_seq=authority_seq)
    put_statement(context, request, EntryKind.GRANT, statement, options)
    tree_size = context.learned.tree_size
    response = yield from call(context, request, cs.GrantConsentResponse)
    name, shown = response.consent_id, served is not None
    answer = yield from _grant_answer(context, response, EntryKind.GRANT, name, tree_size, has_served=shown)
    event = answer.receipt.event
    if answer and answer.consent_id != codec.consent_id(event.tag, event.seq).hex():
        raise ProofError("consent id does not belong to the entry in the receipt")
    return answer


def amend(
    context: ClientContext,
    subject: pb.Subject,
    consent_id: str,
    consent: pb.Consent,
    *,
    based_on_version: int,
    served: st.ServedStatement | None = None,
    served_seq: int = 0,
    authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[GrantAnswer]:
    """Replace a consent by its next version, which may allow less or more.

    Args:
        consent: the complete next version.
        based_on_version: the version that the caller changed into *consent*.
        served, served_seq, authority_seq: as for ``grant``.

    Raises:
        AbortedError: another version is in force.
    """
    request = cs.AmendConsentRequest(
        subject=subject, consent_id=consent_id, based_on_version=based_on_version, served=served,
        **write_fields(context, options, StatementOptions),
    )  # fmt: skip
    statement = st.AmendStatement(consent=consent, served_seq=served_seq, authority_seq=authority_seq)
    signer, ref = options.get("signer"), 0
    if signer is not None:
        record = yield from _record_to_sign(context, subject, consent_id, signer)
        statement.lineage_seq, statement.version, ref = record.lineage_seq, based_on_version + 1, record.seq
    put_statement(context, request, EntryKind.AMEND, statement, options, ref=ref)
    tree_size = context.learned.tree_size
    response = yield from call(context, request, cs.AmendConsentResponse)
    shown = served is not None
    return (yield from _grant_answer(context, response, EntryKind.AMEND, consent_id, tree_size, has_served=shown))


def renew(
    context: ClientContext,
    subject: pb.Subject,
    consent_id: str,
    *,
    end_time_ms: int,
    based_on_version: int,
    retention_until_time_ms: int = 0,
    served: st.ServedStatement | None = None,
    authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[GrantAnswer]:
    """Give a consent a later end. With a signer, the person signs the whole next version (``amend``).

    Args:
        end_time_ms: the new end, UTC milliseconds, after the one in force.
        based_on_version: the version that is renewed.
        retention_until_time_ms: until when recipients may keep the data; 0: as in that version.
        served, authority_seq: as for ``grant``.

    Raises:
        AbortedError: another version is in force.
    """
    if options.get("signer") is not None:
        record = yield from get_consent(context, subject, consent_id, authority_seq=authority_seq)
        if record.version != based_on_version:
            raise AbortedError(f"another version is in force: `{record.version}`", "VERSION_CONFLICT")
        consent = record.consent
        if not 0 < consent.root.period.end_time_ms < end_time_ms:
            raise InvalidError(f"renewal does not end after the version in force: `{end_time_ms}`", "INVALID_CONSENT")
        consent.root.period.end_time_ms = end_time_ms
        if retention_until_time_ms:
            consent.retention_until_time_ms = retention_until_time_ms
        return (
            yield from amend(
                context, subject, consent_id, consent, based_on_version=based_on_version,
                served_seq=record.served_seq, authority_seq=authority_seq, **options,
            )
        )  # fmt: skip
    request = cs.RenewConsentRequest(
        subject=subject, consent_id=consent_id, based_on_version=based_on_version, served=served,
        end_time_ms=end_time_ms, retention_until_time_ms=retention_until_time_ms,
        **write_fields(context, options, StatementOptions),
    )  # fmt: skip
    attestation = st.Attestation(method=options.get("method", ""))
    request.attested.CopyFrom(st.AmendStatement(authority_seq=authority_seq, attestation=attestation))
    tree_size = context.learned.tree_size
    response = yield from call(context, request, cs.RenewConsentResponse)
    shown = served is not None
    return (yield from _grant_answer(context, response, EntryKind.AMEND, consent_id, tree_size, has_served=shown))


def _grant_answer(
    context: ClientContext, response: _VersionResponse, kind: EntryKind, name: str,
    tree_size: int, *, has_served: bool,
) -> Operation[GrantAnswer]:  # fmt: skip
    kinds = (kind, EntryKind.REFUSAL)
    receipt = yield from read_new_receipt(context, response.receipt, kinds=kinds, tree_size=tree_size)
    refused = response.refused if response.HasField("refused") else None
    if (refused is None) != (receipt.kind == kind):
        raise ProofError("answer and receipt differ on whether the consent was recorded")
    served = None
    if has_served:
        served = yield from read_new_receipt(
            context, response.served_receipt, kinds=(EntryKind.SERVED,), tree_size=tree_size
        )
        if (served.event.tag, served.event.seq + 1) != (receipt.event.tag, receipt.event.seq):
            raise ProofError("notice that was shown is not recorded right before the consent")
    return GrantAnswer(receipt=receipt, consent_id=name, version=response.version, refused=refused, served=served)


def record_served(
    context: ClientContext, subject: pb.Subject, statement: st.ServedStatement, **options: Unpack[StatementOptions]
) -> Operation[Receipt]:
    """Record that a notice was shown to a person. A consent that rests on it names the seq in the receipt."""
    request = cs.RecordServedRequest(subject=subject, **write_fields(context, options, StatementOptions))
    put_statement(context, request, EntryKind.SERVED, statement, options)
    return (yield from write(context, request, cs.RecordServedResponse, EntryKind.SERVED))


def pause(
    context: ClientContext, subject: pb.Subject, consent_id: str, *, authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """Pause a consent. It permits nothing then, but its denials stay in force. *authority_seq*: as for ``grant``."""
    fields = write_fields(context, options, StatementOptions)
    request = cs.PauseConsentRequest(subject=subject, consent_id=consent_id, **fields)
    statement = st.PauseStatement(authority_seq=authority_seq)
    return _change(context, request, cs.PauseConsentResponse, EntryKind.PAUSE, statement, options)


def resume(
    context: ClientContext, subject: pb.Subject, consent_id: str, *, authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """End the pause of a consent. *authority_seq*: as for ``grant``."""
    fields = write_fields(context, options, StatementOptions)
    request = cs.ResumeConsentRequest(subject=subject, consent_id=consent_id, **fields)
    statement = st.ResumeStatement(authority_seq=authority_seq)
    return _change(context, request, cs.ResumeConsentResponse, EntryKind.RESUME, statement, options)


def revoke(
    context: ClientContext, subject: pb.Subject, consent_id: str, *, note: str = "", authority_seq: int = 0,
    **options: Unpack[StatementOptions],
) -> Operation[Receipt]:  # fmt: skip
    """Withdraw a consent: it permits no question asked after this call returned.

    *note*: the person's reason. *authority_seq*: as for ``grant``.
    """
    fields = write_fields(context, options, StatementOptions)
    request = cs.RevokeConsentRequest(subject=subject, consent_id=consent_id, **fields)
    statement = st.RevokeStatement(note=note, authority_seq=authority_seq)
    return _change(context, request, cs.RevokeConsentResponse, EntryKind.REVOKE, statement, options)


def _change(
    context: ClientContext, request: _Change, response_type: type[_Changed], kind: EntryKind,
    statement: _ChangeStatement, options: StatementOptions,
) -> Operation[Receipt]:  # fmt: skip
    signer, ref = options.get("signer"), 0
    if signer is not None:
        record = yield from _record_to_sign(context, request.subject, request.consent_id, signer)
        statement.lineage_seq, ref = record.lineage_seq, record.seq
    put_statement(context, request, kind, statement, options, ref=ref)
    return (yield from write(context, request, response_type, kind))


def _record_to_sign(
    context: ClientContext, subject: pb.Subject, consent_id: str, signer: StatementSigner
) -> Operation[cs.ConsentRecord]:
    """Read the consent that a signed statement will refer to, and verify that the consent is in the signer's chain."""
    record = yield from get_consent(context, subject, consent_id)
    if codec.consent_id(signer.tag, record.lineage_seq).hex() != consent_id or record.seq < record.lineage_seq:
        raise ProofError("daemon names another lineage than the consent's")
    return record


def get_consent(
    context: ClientContext, subject: pb.Subject, consent_id: str, *, authority_seq: int = 0,
    consistency: Reached | None = None,
) -> Operation[cs.ConsentRecord]:  # fmt: skip
    """Read the version of a consent that is in force."""
    request = cs.GetConsentRequest(
        subject=subject, consent_id=consent_id, authority_seq=authority_seq, consistency=condition(consistency)
    )
    response = yield from call(context, request, cs.GetConsentResponse)
    return response.record


def list_consents(
    context: ClientContext, subject: pb.Subject, *, states: "Collection[cs.ConsentState.ValueType]" = (),
    kind: "pb.ConsentKind.ValueType" = pb.CONSENT_KIND_UNSPECIFIED, purpose: str = "", actor: str = "",
    holder: str = "", start_time_ms: int = 0, end_time_ms: int = 0, authority_seq: int = 0,
    consistency: Reached | None = None,
) -> ReadPage[cs.ConsentRecord]:  # fmt: skip
    """Read a person's consents, newest first. The list proves nothing; use ``history`` for a proof.

    Only consents that meet all conditions are listed. An empty value or 0 is no condition.

    Args:
        states: the state is one of these; empty: any but REVOKED. ``ALL_STATES`` selects all.
        purpose, actor, holder: the version in force names it.
        start_time_ms, end_time_ms: the time of the grant is in ``[start, end)``, UTC milliseconds.
        authority_seq: seq of the AUTHORITY of the representative for whom the caller reads; 0: for the person.
    """
    selected = cs.ListConsentsRequest(
        subject=subject, states=states, kind=kind, purpose=purpose, actor=actor,
        holder=holder, start_time_ms=start_time_ms, end_time_ms=end_time_ms, authority_seq=authority_seq,
        consistency=condition(consistency),
    )  # fmt: skip
    return read_pages(
        context, selected, cs.ListConsentsResponse, lambda response: (response.records, response.next_page_token)
    )


def list_expiring(
    context: ClientContext, *, subject: pb.Subject | None = None, start_time_ms: int = 0, end_time_ms: int = 0
) -> ReadPage[cs.ExpiringConsent]:
    """Read which consents end in a time span, by the tags of the persons: those that name the caller, or a person's.

    A page may be empty and not be the last one.

    Args:
        subject: only consents of this person; None: of all persons, those whose permits name the caller.
        start_time_ms, end_time_ms: the end is in ``[start, end)``, UTC milliseconds; an end of 0 is no limit.
    """
    selected = cs.ListExpiringRequest(subject=subject, start_time_ms=start_time_ms, end_time_ms=end_time_ms)
    return read_pages(
        context, selected, cs.ListExpiringResponse, lambda response: (response.consents, response.next_page_token)
    )
