"""Write consents: grant, amend, pause, resume and revoke. If a required item is missing, record a REFUSAL.

A grant or an amendment may record the notice that was shown with it: then a SERVED entry is written right before its
own entry, in the same batch.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from consentd.core.kinds import EntryKind
from consentd.errors import AbortedError, InvalidError, NotFoundError, PreconditionError
from consentd.ledger.ledger import Appended
from consentd.policy import check, model
from consentd.policy.subject import Lineage, only_denies
from consentd.sequencer.commands.authorities import check_in_force, check_representative
from consentd.sequencer.commands.authorship import (
    check_attester,
    check_caller,
    check_same_kind,
    check_writer,
    check_written_version,
    is_past_import,
)
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_right, has_right, is_person
from consentd.sequencer.commands.served import Shown, check_rests_on, check_served, read_shown, shown_by
from consentd.sequencer.commands.write import (
    NewEntry,
    PersonWrite,
    Plan,
    ReceiptOnly,
    ReplayContext,
    WriteContext,
    enrolled_tag,
)
from consentd.statements import payloads, values
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

A = TypeVar("A")


def attester_of(write: "GrantConsent | AmendConsent | ChangeConsent") -> str:
    """Return who attests the statement of a write; empty: the person signed it."""
    return "" if write.signed is not None else write.message.attestation.attested_by


@dataclass(frozen=True, slots=True)
class ConsentAnswer:
    """The answer to a grant or an amendment: the version in force, or why the consent was refused."""

    version: int
    refusal: st.RefusalStatement | None = None


def _plan(
    write: PersonWrite, context: WriteContext, kind: EntryKind, tag: bytes, message: Message, answer: A, ref: int = 0
) -> Plan[A]:
    # The daemon signs a REFUSAL, even if an author signed the consent that is refused.
    signed = None if kind is EntryKind.REFUSAL else write.signed
    entry = NewEntry(kind=kind, tag=tag, message=message, request_id=write.request.id, ref=ref, signed=signed)
    return Plan((context.draft(entry, write.request),), answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _VersionWrite(PersonWrite):
    """Base of the writes that add the version after *based_on_version* to a lineage (one consent's versions).

    Attributes:
        served: the notice that was shown, to record right before the version; None: there is none to record.
    """

    based_on_version: int = 0
    served: st.ServedStatement | None = None

    def name_served(self, message: st.GrantStatement | st.AmendStatement, context: WriteContext, tag: bytes) -> None:
        """Let the statement name the SERVED entry that this write records, and check what it names.

        Raises:
            InvalidError: it names another entry too, or as ``check_served`` and ``check_rests_on``.
            DeniedError: the caller may not record that a notice was shown.
        """
        if self.served is not None:
            if self.signed is not None or message.served_seq:
                raise InvalidError("notice is shown with an attested statement that names no other SERVED entry")
            payloads.check_no_unknown_fields(self.served)
            check_right(context.table, self.request.asker, ACT_FOR_SUBJECTS)
            check_served(context.table, tag, self.served, time_ms=context.time_ms)
            message.served_seq = context.batch.head(tag)[0] + 1
            shown: Shown | None = shown_by(self.served)
        elif message.served_seq:
            shown = read_shown(context, tag, message.served_seq)
        else:
            return
        check_rests_on(shown, values.consent_value(message.consent), authority_seq=message.authority_seq)

    def plan(
        self, context: WriteContext, kind: EntryKind, tag: bytes, message: Message, answer: ConsentAnswer, ref: int = 0
    ) -> Plan[ConsentAnswer]:
        """Return the plan of the version or its refusal, after the SERVED entry, if there is one to record."""
        plan = _plan(self, context, kind, tag, message, answer, ref)
        if self.served is None:
            return plan
        # Each entry needs a request_id of its own. That of the SERVED entry is derived from the request's.
        derived = hashlib.sha256(self.request.id + b"\1").digest()[:16]
        served = NewEntry(kind=EntryKind.SERVED, tag=tag, message=self.served, request_id=derived)
        return Plan((context.draft(served), *plan.entries), answer)

    def replay(self, context: ReplayContext, recorded: Appended) -> ConsentAnswer:
        """Return the answer that the original write got; it is read from the recorded entry."""
        if recorded.event.kind != EntryKind.REFUSAL:
            return ConsentAnswer(self.based_on_version + 1)
        payload = context.recorded_payload(recorded)
        if payload is None:
            raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
        return ConsentAnswer(0, payloads.parse(st.RefusalStatement, payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantConsent(_VersionWrite):
    """Record the first version of a consent, which begins a lineage."""

    message: st.GrantStatement

    def prepare(self, context: WriteContext) -> Plan[ConsentAnswer]:
        consent, is_signed = self.message.consent, self.signed is not None
        of_kind = {
            "statutory": consent.kind == pb.CONSENT_KIND_STATUTORY,
            "is_past": is_past_import(consent, time_ms=context.batch.time_ms),
        }
        if not is_person(self.request.asker):  # before the person is looked up: the answer does not depend on that
            check_writer(context.table, self.request.asker, signed=is_signed, **of_kind)
        tag = enrolled_tag(context.table, self.identifier_hash)
        check_caller(context.table, self, tag, attester=attester_of(self), **of_kind)
        message = st.GrantStatement()
        message.CopyFrom(self.message)
        self.name_served(message, context, tag)
        refusal = _check_consent(self, context, message, tag, attester=attester_of(self), lineage=None, version=1)
        if refusal is not None:
            refusal.grant.CopyFrom(message)
            return self.plan(context, EntryKind.REFUSAL, tag, refusal, ConsentAnswer(0, refusal))
        return self.plan(context, EntryKind.GRANT, tag, message, ConsentAnswer(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendConsent(_VersionWrite):
    """Replace the version of a lineage that is in force by the next version."""

    consent_id: bytes
    message: st.AmendStatement

    def stated(self, context: WriteContext, tag: bytes, lineage: Lineage) -> st.AmendStatement:
        """Return the new version as the write states it. *lineage*: the version in force."""
        check_same_kind(lineage, statutory=self.message.consent.kind == pb.CONSENT_KIND_STATUTORY)
        message = st.AmendStatement()
        message.CopyFrom(self.message)
        return message

    def prepare(self, context: WriteContext) -> Plan[ConsentAnswer]:
        tag, lineage = _find_lineage(self, context)
        if lineage.version != self.based_on_version:
            raise AbortedError(f"another version is in force: `{lineage.version}`", "VERSION_CONFLICT")
        message = self.stated(context, tag, lineage)
        message.lineage_seq, message.version = lineage.lineage, lineage.version + 1
        if self.signed is not None and message != self.message:
            raise AbortedError("signed lineage or version is not what this write makes", "REF_MOVED")
        self.name_served(message, context, tag)
        refusal = _check_consent(
            self, context, message, tag, attester=attester_of(self), lineage=lineage.lineage,
            version=message.version, replaced=lineage,
        )  # fmt: skip
        if refusal is not None:
            refusal.grant.consent.CopyFrom(message.consent)
            refusal.grant.attestation.CopyFrom(message.attestation)
            refusal.grant.served_seq, refusal.grant.authority_seq = message.served_seq, message.authority_seq
            return self.plan(context, EntryKind.REFUSAL, tag, refusal, ConsentAnswer(0, refusal))
        return self.plan(context, EntryKind.AMEND, tag, message, ConsentAnswer(message.version), lineage.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewConsent(AmendConsent):
    """Replace the version of a lineage that is in force by one that differs in its end.

    Attributes:
        end_ms, retention_until_ms: the new end, and until when recipients may keep data (0: as before), UTC ms.
    """

    end_ms: int
    retention_until_ms: int

    def stated(self, context: WriteContext, tag: bytes, lineage: Lineage) -> st.AmendStatement:
        """Return the version in force with the new end. A SERVED entry in the same write names its notice anew.

        Raises:
            InvalidError: the new end is not after the one in force.
            NotFoundError: the statement of the version in force was deleted.
        """
        entry = context.batch.find(tag, lineage.seq)
        payload = None if entry is None else context.recorded_payload(entry)
        if entry is None or payload is None:
            raise NotFoundError("subject has no such consent in force", "CONSENT_NOT_FOUND")
        before: st.GrantStatement | st.AmendStatement
        if entry.event.kind == EntryKind.GRANT:
            before = payloads.parse(st.GrantStatement, payload)
        else:
            before = payloads.parse(st.AmendStatement, payload)
        message = st.AmendStatement(consent=before.consent, served_seq=before.served_seq)
        message.MergeFrom(self.message)
        period, consent = message.consent.root.period, message.consent
        if not 0 < period.end_time_ms < self.end_ms:
            raise InvalidError(f"renewal does not end after the version in force: `{self.end_ms}`", "INVALID_CONSENT")
        period.end_time_ms = self.end_ms
        if self.retention_until_ms:
            consent.retention_until_time_ms = self.retention_until_ms
        if self.served is not None:
            message.served_seq = 0
            consent.notice_id, consent.notice_version = shown_by(self.served)[:2]
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeConsent(PersonWrite, ReceiptOnly):
    """Pause, resume or revoke a lineage, as *kind* says. The entry's ref is the seq of the version in force."""

    kind: EntryKind
    consent_id: bytes
    message: st.PauseStatement | st.ResumeStatement | st.RevokeStatement

    def prepare(self, context: WriteContext) -> Plan[None]:
        tag, lineage = _find_lineage(self, context)
        if self.kind is EntryKind.PAUSE and lineage.paused:
            raise PreconditionError("consent is paused already", "WRONG_STATE")
        if self.kind is EntryKind.RESUME and not lineage.paused:
            raise PreconditionError("consent is not paused", "WRONG_STATE")
        authority = check_representative(
            context.table, tag, self.message, kind=self.kind, statutory=lineage.is_statutory,
            key=context.key_of(self.signed),
        )  # fmt: skip
        vocabulary = context.table.registry().codebook.vocabulary
        check_in_force(authority, lineage.compiled, vocabulary, time_ms=context.time_ms)
        if self.signed is None:
            resumed = lineage.compiled if self.kind is EntryKind.RESUME else None
            ended = lineage if self.kind is EntryKind.REVOKE else None
            check_attester(context.table, attester_of(self), permits=resumed, ends=ended)
        message = type(self.message).FromString(self.message.SerializeToString())
        message.lineage_seq = lineage.lineage
        if self.signed is not None and message != self.message:
            raise AbortedError("signed lineage is not what this write changes", "REF_MOVED")
        if self.kind is EntryKind.RESUME:
            context.count_entry(self)
        return _plan(self, context, self.kind, tag, message, None, lineage.seq)


def _find_lineage(write: AmendConsent | ChangeConsent, context: WriteContext) -> tuple[bytes, Lineage]:
    """Return the person's tag and the lineage that *write* changes, after the check that the caller may change it.

    Raises:
        NotFoundError: there is no such consent. A caller who does not act for persons gets the same answer whether or
            not the person is enrolled.
        DeniedError, InvalidError: as ``check_writer``.
    """
    table, caller = context.table, write.request.asker
    try:
        tag = enrolled_tag(table, write.identifier_hash)
        lineage = table.lineage(tag, write.consent_id)
    except NotFoundError as error:
        if is_person(caller) or has_right(table, caller, ACT_FOR_SUBJECTS):
            raise
        raise NotFoundError("subject has no such consent in force", "CONSENT_NOT_FOUND") from error
    check_caller(table, write, tag, attester=attester_of(write), statutory=lineage.is_statutory)
    return tag, lineage


def _check_consent(
    write: _VersionWrite, context: WriteContext, message: st.GrantStatement | st.AmendStatement, tag: bytes,
    *, attester: str, lineage: int | None, version: int, replaced: Lineage | None = None,
) -> st.RefusalStatement | None:
    """Check a consent (``check_written_version``), and count it for the caller's quota.

    Args:
        message: the statement as the entry will have it.
        attester: as in ``check_version``.
        lineage: seq of the GRANT entry that begins the lineage; None: the entry of this consent begins it.
        replaced: the version in force that the consent replaces; None: the consent is the first version.

    Returns:
        A refusal if legally required items are missing; None: the consent may be recorded.

    Raises:
        InvalidError, DeniedError: as ``check_representative`` and ``check_written_version``.
        OverloadedError: (QUOTA_EXCEEDED) the caller's quota of entries about the person is used up.
    """  # fmt: skip
    consent, view = values.consent_value(message.consent), context.table
    authority = check_representative(
        view, tag, message, kind=EntryKind.GRANT if version == 1 else EntryKind.AMEND,
        statutory=consent.kind is model.Kind.STATUTORY, key=context.key_of(write.signed),
    )  # fmt: skip
    seq = context.batch.head(tag)[0] + (1 if write.served is None else 2)
    stored = model.StoredConsent(
        lineage=lineage or seq, seq=seq, version=version, consent=consent, authority=message.authority_seq
    )
    checked = check_written_version(
        view, tag, stored, time_ms=context.batch.time_ms, attester=attester, has_served=bool(message.served_seq),
        replaced=replaced, authority=authority,
    )  # fmt: skip
    if write.served is not None:
        context.count_entry(write)
    if isinstance(checked, tuple):
        context.count_entry(write, is_refusal=True)
        return st.RefusalStatement(reason=check.ITEMS_NOT_SPECIFIED, missing=checked)
    context.count_entry(write, only_denies=only_denies(checked))
    return None
