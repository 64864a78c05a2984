"""How a test writes, changes and reads consents: attempts of ``cases.roles``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cases import roles_publications as publications
from cases.daemons import consent, request_id
from cases.services import change
from consentd.core.kinds import EntryKind
from consentd.service.roles import Access, Whose
from consentd.statements import decisions
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

if TYPE_CHECKING:
    from cases.roles import Call

STATUTORY = {"kind": pb.CONSENT_KIND_STATUTORY}
NO_ID = "ab" * 16


def basis(made: pb.Consent) -> pb.Consent:
    if made.kind == pb.CONSENT_KIND_STATUTORY:
        made.legal_basis = "MA-21-3"
    return made


def _either(call: "Call", attempt: Callable[[dict[str, Any]], Access]) -> Access:
    """Return ALLOWED if a consent of the person may be written, REDUCED if only a STATUTORY one may be."""
    found = attempt({})
    if found is Access.DENIED:
        found = attempt(STATUTORY)
        return Access.REDUCED if found is Access.ALLOWED else found
    return found


def grant(call: "Call") -> Access:
    def attempt(fields: dict[str, Any]) -> Access:
        request = cs.GrantConsentRequest(request_id=request_id(), subject=call.world.person(call.whose))
        call.state(request, EntryKind.GRANT, st.GrantStatement(consent=basis(consent(**fields))))
        return call.plain(call.running.consents.GrantConsent, request)

    return _either(call, attempt)


def record_served(call: "Call") -> Access:
    shown = st.ServedStatement(notice_id=publications.published(call).notice_id, notice_version=1, language="ko")
    shown.channel, shown.served_time_ms = "app", 1
    request = cs.RecordServedRequest(request_id=request_id(), subject=call.world.person(call.whose), attested=shown)
    return call.plain(call.running.consents.RecordServed, request)


def _given(call: "Call", fields: dict[str, Any]) -> tuple[pb.Subject, str]:
    """Return a person with a consent, and its id; for UNKNOWN, an id that nobody has."""
    subject = call.world.person(call.whose)
    if call.whose is Whose.UNKNOWN:
        return subject, NO_ID
    request = cs.GrantConsentRequest(
        request_id=request_id(), subject=subject, attested=st.GrantStatement(consent=basis(consent(**fields)))
    )
    metadata = call.running.as_("operator" if "kind" in fields else "app")
    return subject, call.running.consents.GrantConsent(request, metadata=metadata).consent_id


def amend(call: "Call") -> Access:
    def attempt(fields: dict[str, Any]) -> Access:
        subject, consent_id = _given(call, fields)
        request = cs.AmendConsentRequest(
            request_id=request_id(), subject=subject, consent_id=consent_id, based_on_version=1
        )
        message, seq = st.AmendStatement(consent=basis(consent(**fields))), 0
        if call.is_signed:
            seq = _seq_of(call, consent_id)
            message.lineage_seq, message.version = seq, 2
        call.state(request, EntryKind.AMEND, message, ref=seq)
        return call.plain(call.running.consents.AmendConsent, request)

    return _either(call, attempt)


def renew(call: "Call") -> Access:
    def attempt(fields: dict[str, Any]) -> Access:
        period = pb.Period(end_time_ms=3_900_000_000_000)
        subject, consent_id = _given(call, {**fields, "period": period})
        request = cs.RenewConsentRequest(
            request_id=request_id(), subject=subject, consent_id=consent_id, based_on_version=1,
            attested=st.AmendStatement(), end_time_ms=4_000_000_000_000,
        )  # fmt: skip
        return call.plain(call.running.consents.RenewConsent, request)

    return _either(call, attempt)


def list_expiring(call: "Call") -> Access:
    subject = None if call.whose is Whose.OWN else call.world.person(call.whose)
    return call.plain(call.running.consents.ListExpiring, cs.ListExpiringRequest(subject=subject))


def _seq_of(call: "Call", consent_id: str) -> int:
    """Return the seq of the entry that begins a consent of the caller."""
    seqs = (seq for seq in range(1, 20) if decisions.consent_id(call.world.my_tag, seq) == consent_id)
    return next(seqs)


def changes(kind: EntryKind, method: str, request_type: Any, statement_type: Any) -> "Callable[[Call], Access]":
    def of(call: "Call") -> Access:
        def attempt(fields: dict[str, Any]) -> Access:
            subject, consent_id = _given(call, fields)
            if kind is EntryKind.RESUME and call.whose is not Whose.UNKNOWN:
                change(
                    call.running, EntryKind.PAUSE, subject, consent_id, who="operator" if fields == STATUTORY else "app"
                )
            request = request_type(request_id=request_id(), subject=subject, consent_id=consent_id)
            message, seq = statement_type(), 0
            if call.is_signed:
                seq = message.lineage_seq = _seq_of(call, consent_id)
            call.state(request, kind, message, ref=seq)
            return call.plain(getattr(call.running.consents, method), request)

        return _either(call, attempt)

    return of


def get_consent(call: "Call") -> Access:
    subject, consent_id = _given(call, {})
    return call.plain(call.running.consents.GetConsent, cs.GetConsentRequest(subject=subject, consent_id=consent_id))


def list_consents(call: "Call") -> Access:
    request = cs.ListConsentsRequest(subject=call.world.person(call.whose))
    return call.plain(call.running.consents.ListConsents, request)
