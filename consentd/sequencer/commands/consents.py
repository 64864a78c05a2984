"""Write consents: grant, amend, pause, resume, revoke; and refuse what lacks legal items."""

from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core.kinds import EntryKind
from consentd.errors import ConflictError, InvalidError, NotFoundError
from consentd.ledger.ledger import Draft
from consentd.policy import check, model
from consentd.policy.compile import compile_consent
from consentd.policy.subject import with_consent
from consentd.sequencer.commands.context import Entry, Plan, Remembered, WriteContext
from consentd.statements import payloads, values
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


@dataclass(frozen=True, slots=True)
class GrantAnswer:
    """How a grant or an amendment came out; lineage 0 where it was refused."""

    lineage: int
    version: int
    refused: st.RefusalStatement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PersonWrite(Remembered):
    identifier_hash: bytes
    signed: pb.SignedStatement | None = None
    verified: bytes = b""

    def tag(self, context: WriteContext) -> bytes:
        tag = context.table.tag_of(self.identifier_hash)
        if tag is None:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        return tag

    def entry(self, context: WriteContext, kind: EntryKind, message: Message, ref: int = 0) -> tuple[Draft, Message]:
        # A REFUSAL is the daemon's own statement, whoever signed what is refused.
        signed = None if kind is EntryKind.REFUSAL else self.signed
        entry = Entry(
            kind=kind,
            tag=self.tag(context),
            message=message,
            request_id=self.request_id,
            ref=ref,
            signed=signed,
            verified=self.verified,
        )
        return context.draft(entry, self.request_key, self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(_PersonWrite):
    """A new lineage; one that lacks legal items becomes a REFUSAL, which is an answer."""

    message: st.GrantStatement

    def prepare(self, context: WriteContext) -> Plan:
        payloads.check_no_unknown_fields(self.message)
        count, _ = context.batch.head(self.tag(context))
        refusal = check_consent(context, self.message.consent, self.tag(context), lineage=count + 1, version=1)
        if refusal is not None:
            refusal.grant.CopyFrom(self.message)
            return Plan((self.entry(context, EntryKind.REFUSAL, refusal),), GrantAnswer(0, 0, refusal))
        return Plan((self.entry(context, EntryKind.GRANT, self.message),), GrantAnswer(count + 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amend(_PersonWrite):
    """The next version of a lineage."""

    consent_id: bytes
    based_on_version: int
    message: st.AmendStatement

    def prepare(self, context: WriteContext) -> Plan:
        tag = self.tag(context)
        lineage = context.table.lineage(tag, self.consent_id)
        if lineage.version != self.based_on_version:
            raise ConflictError(f"another version is in force: `{lineage.version}`", "VERSION_CONFLICT")
        message = st.AmendStatement()
        message.CopyFrom(self.message)
        message.lineage_seq, message.version = lineage.lineage, lineage.version + 1
        if self.signed is not None and message != self.message:
            raise ConflictError("signed lineage or version is not what this write makes", "REF_MOVED")
        payloads.check_no_unknown_fields(message)
        refusal = check_consent(context, message.consent, tag, lineage=lineage.lineage, version=message.version)
        if refusal is not None:
            refusal.grant.consent.CopyFrom(message.consent)
            refusal.grant.attestation.CopyFrom(message.attestation)
            return Plan((self.entry(context, EntryKind.REFUSAL, refusal),), GrantAnswer(0, 0, refusal))
        entry = self.entry(context, EntryKind.AMEND, message, lineage.seq)
        return Plan((entry,), GrantAnswer(lineage.lineage, message.version))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(_PersonWrite):
    """PAUSE, RESUME or REVOKE of a lineage; ref is the version in force."""

    kind: EntryKind
    consent_id: bytes
    message: st.PauseStatement | st.ResumeStatement | st.RevokeStatement

    def prepare(self, context: WriteContext) -> Plan:
        lineage = context.table.lineage(self.tag(context), self.consent_id)
        if self.kind is EntryKind.PAUSE and lineage.paused:
            raise ConflictError("consent is paused already", "WRONG_STATE")
        if self.kind is EntryKind.RESUME and not lineage.paused:
            raise ConflictError("consent is not paused", "WRONG_STATE")
        message = type(self.message)()
        message.CopyFrom(self.message)  # type: ignore[arg-type]  # both are of the one type in this instance
        message.lineage_seq = lineage.lineage
        if self.signed is not None and message != self.message:
            raise ConflictError("signed lineage is not what this write changes", "REF_MOVED")
        return Plan((self.entry(context, self.kind, message, lineage.seq),), lineage)


def check_consent(
    context: WriteContext, message: pb.Consent, tag: bytes, *, lineage: int, version: int
) -> st.RefusalStatement | None:
    """Check a consent against vocabulary, participants and notices; a refusal where legal items are missing.

    Raises:
        InvalidError: it is not well formed, names what does not exist, or is one too many for the person.
    """
    consent = values.consent_value(message)
    if consent.authority and not context.table.has_authority(tag, consent.authority):
        raise InvalidError("consent rests on an authority that is not recorded", "UNKNOWN_AUTHORITY")
    if consent.notice and not context.table.has_notice(consent.notice, consent.notice_version):
        raise InvalidError(f"notice version is not published: `{consent.notice}`", "UNKNOWN_NOTICE")
    registry = context.table.registry()
    refused = check.check_consent(consent, registry.codebook.vocabulary)
    if refused is not None:
        return st.RefusalStatement(reason=values.to_enum(refused), missing=check.missing_items(consent))
    # INVARIANT: what the table could not apply is refused before it is appended, so it is done here once: compiling
    # finds participants that nobody registered, joining finds a person with more consents than a value holds.
    seq = context.batch.head(tag)[0] + 1
    stored = model.StoredConsent(lineage=lineage, seq=seq, version=version, consent=consent)
    compiled = compile_consent(stored, registry.codebook.vocabulary, registry.numbers)
    with_consent(context.table.subject(tag), stored, compiled)
    return None
