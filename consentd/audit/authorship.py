"""Check again what the daemon checks before it writes: consents, who wrote them, mandates, vocabularies, names, keys …

The rules are those of the sequencer (``sequencer.commands.authorship``; policy.md, rule 8). An entry that the daemon
signed was written by the participant or operator that attests it. Who passed on an entry that a person signed is not
recorded, so only the content of such an entry is checked. Quotas are not checked: they are counted by caller, and begin
anew with the daemon.
"""

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.identifier import check_scheme
from consentd.core.kinds import CONSENTS, PUBLIC, EntryKind, Owner
from consentd.errors import InvalidError
from consentd.policy.language import check_name
from consentd.policy.model import StoredConsent
from consentd.policy.subject import Lineage
from consentd.sequencer.commands.acting import check_attested_delegation, check_giver, check_taker
from consentd.sequencer.commands.administration import check_act
from consentd.sequencer.commands.authorities import (
    check_authority,
    check_authority_author,
    check_in_force,
    check_representative,
)
from consentd.sequencer.commands.authorship import (
    check_attester,
    check_login,
    check_not_attested,
    check_same_kind,
    check_writer,
    check_written_version,
    is_past_import,
)
from consentd.sequencer.commands.erasure import check_duty, check_duty_author
from consentd.sequencer.commands.notices import check_notice
from consentd.sequencer.commands.participants import check_certificate_names, check_change, check_no_own_key
from consentd.sequencer.commands.person_keys import check_person_key
from consentd.sequencer.commands.readings import check_reading
from consentd.sequencer.commands.registry import (
    check_enrolment,
    check_key,
    check_new_key,
    check_no_authority,
    check_rules,
    check_vocabulary,
)
from consentd.sequencer.commands.served import check_served, check_served_author
from consentd.statements import values
from consentd.statements.authorities import ActingStatement
from consentd.table.chain_owners import ChainOwners
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

CHECKED = CONSENTS | {
    EntryKind.ENROL, EntryKind.KEY, EntryKind.PARTICIPANT, EntryKind.NOTICE, EntryKind.VOCABULARY, EntryKind.RULES,
    EntryKind.MANDATE, EntryKind.SERVED, EntryKind.DUTY, EntryKind.AUTHORITY, EntryKind.ADMINISTRATION,
    EntryKind.DELEGATION, EntryKind.READ, EntryKind.OUTCOME,
}  # fmt: skip
"""The kinds of entries that ``check_written`` checks."""
OF_LOGINS = CONSENTS | {EntryKind.ENROL, EntryKind.KEY}
"""The kinds of entries that a person writes who has logged in."""


def check_written(view: ChainOwners, event: codec.Event, message: Message, key: bytes) -> None:
    """Check that the daemon may have written an entry of one of the kinds ``CHECKED``.

    Args:
        view: the policy table after all entries before this one were applied.
        key: the key that signed the entry's statement.

    Raises:
        RequestError: the daemon must refuse such a write.
    """
    _check_attestation(view, event, message, key)
    if isinstance(message, st.KeyStatement):
        _check_key(view, event, message, key)
    elif event.kind in CONSENTS:
        _check_consent(view, event, message, key)
    elif event.kind in PUBLIC:
        _check_public(view, event, message, key)
    else:
        _check_person(view, event, message, key)


def _check_attestation(view: ChainOwners, event: codec.Event, message: Message, key: bytes) -> None:
    """Check what an entry states of who attests it: not the author's own key, and a login only where one counts."""
    attestation = getattr(message, "attestation", None)
    owner = view.key_ever(key)
    if attestation is not None and owner is not None and owner.owner is not Owner.LEDGER:
        check_not_attested(message)
    if attestation is not None and attestation.HasField("authentication"):
        if event.kind not in OF_LOGINS:
            raise InvalidError("a person who has logged in writes no entry of this kind")
        check_login(view, attestation)


def _check_key(view: ChainOwners, event: codec.Event, message: st.KeyStatement, key: bytes) -> None:
    """Check a key of a person or of a participant."""
    check_key(message.key)
    if view.subject(event.tag) is not None:
        check_person_key(view, event.tag, message, author=key, time_ms=event.time_ms)
        return
    check_no_authority(message)
    if not message.retired:
        check_new_key(view, message.key)
        if not _is_signed(view, key):
            check_no_own_key(view, view.participant_of(event.tag))


def _check_person(view: ChainOwners, event: codec.Event, message: Message, key: bytes) -> None:
    """Check an entry of a person's chain that is no consent, no change of one, and no key."""
    if isinstance(message, st.EnrolStatement):
        check_scheme(message.scheme)
        check_enrolment(view, message)
    elif isinstance(message, st.ServedStatement):
        check_served_author(view, message.attestation.attested_by, key)
        check_served(view, event.tag, message, time_ms=event.time_ms)
    elif isinstance(message, st.AuthorityStatement):
        check_authority(view, event.tag, message, ref=event.ref, time_ms=event.time_ms)
        check_authority_author(view, event.tag, message, ref=event.ref, key=key)
    elif isinstance(message, st.ReadStatement):
        if message.authority_seq:
            check_reading(view, event.tag, message.authority_seq, reader=message.reader, time_ms=event.time_ms)
    elif isinstance(message, st.DutyStatement):
        check_duty(view, message, ref=event.ref, time_ms=event.time_ms)
        check_duty_author(view, message, key)


def _check_public(view: ChainOwners, event: codec.Event, message: Message, key: bytes) -> None:
    """Check an entry of a public chain that is no key."""
    signed = _is_signed(view, key)
    if isinstance(message, st.ParticipantStatement):
        check_name(message.name)
        check_certificate_names(message)
        check_change(message, view, signed=signed)
    elif isinstance(message, st.DelegationStatement):
        check_taker(message, view)
        if not signed:
            check_attested_delegation(message, view)
    elif isinstance(message, st.NoticeStatement):
        check_notice(view, message, time_ms=event.time_ms, signed=signed)
    elif isinstance(message, st.MandateStatement):
        check_giver(message, view)
    elif isinstance(message, st.AdministrationStatement):
        check_act(message)
    elif isinstance(message, st.VocabularyStatement):
        check_vocabulary(view, message)
    elif isinstance(message, st.RulesStatement):
        check_rules(view, message)


def _check_consent(view: ChainOwners, event: codec.Event, message: Message, key: bytes) -> None:
    """Check a version of a consent, or a change of its state."""
    if isinstance(message, st.GrantStatement):
        author = _Author(view, message, key)
        author.check_version(event, message.consent, lineage=event.seq, version=1, replaced=None)
    elif isinstance(message, st.AmendStatement):
        author, seq = _Author(view, message, key), message.lineage_seq
        replaced = _lineage(view, event.tag, seq)
        author.check_version(event, message.consent, lineage=seq, version=message.version, replaced=replaced)
    elif isinstance(message, st.PauseStatement | st.ResumeStatement | st.RevokeStatement):
        lineage = _lineage(view, event.tag, message.lineage_seq)
        if lineage is not None:  # otherwise the entry cannot be applied, which is a fault of its own
            _Author(view, message, key).check_change(event, lineage)


def _is_signed(view: View, key: bytes) -> bool:
    """Return whether a participant signed a statement with this *key*, and no operator attests it."""
    owner = view.key_ever(key)
    return owner is not None and owner.owner is Owner.PARTICIPANT


class _Author:
    """Who made an entry: the person or representative who signed it, or the participant or operator that attests it."""

    def __init__(self, view: View, message: ActingStatement, key: bytes) -> None:
        owner = view.key_ever(key)
        self._view, self._message, self._key = view, message, key
        self._attester = message.attestation.attested_by
        self._is_person = owner is not None and owner.owner in (Owner.SUBJECT, Owner.REPRESENTATIVE)

    def check_version(
        self, event: codec.Event, message: pb.Consent, *, lineage: int, version: int, replaced: Lineage | None
    ) -> None:
        statutory = message.kind == pb.CONSENT_KIND_STATUTORY
        is_past = replaced is None and version == 1 and is_past_import(message, time_ms=event.time_ms)
        self._check_writer(statutory=statutory, is_past=is_past)
        if replaced is not None:
            check_same_kind(replaced, statutory=statutory)
        consent = values.consent_value(message)
        authority = check_representative(
            self._view, event.tag, self._message, kind=event.kind, statutory=statutory, key=self._key
        )
        stored = StoredConsent(
            lineage=lineage, seq=event.seq, version=version, consent=consent, authority=self._message.authority_seq
        )
        checked = check_written_version(
            self._view, event.tag, stored, time_ms=event.time_ms,
            attester="" if self._is_person else self._attester,
            has_served=bool(getattr(self._message, "served_seq", 0)), replaced=replaced, authority=authority,
        )  # fmt: skip
        if isinstance(checked, tuple):
            raise InvalidError(f"consent lacks items that the law demands: `{', '.join(checked)}`", "INVALID_CONSENT")

    def check_change(self, event: codec.Event, lineage: Lineage) -> None:
        self._check_writer(statutory=lineage.is_statutory)
        authority = check_representative(
            self._view, event.tag, self._message, kind=event.kind, statutory=lineage.is_statutory, key=self._key
        )
        vocabulary = self._view.registry().codebook.vocabulary
        check_in_force(authority, lineage.compiled, vocabulary, time_ms=event.time_ms)
        if not self._is_person:
            resumed = lineage.compiled if event.kind == EntryKind.RESUME else None
            ended = lineage if event.kind == EntryKind.REVOKE else None
            check_attester(self._view, self._attester, permits=resumed, ends=ended)

    def _check_writer(self, *, statutory: bool, is_past: bool = False) -> None:
        # Who passed on a consent that the person signed is not recorded.
        if statutory or not self._is_person:
            check_writer(
                self._view, self._attester, statutory=statutory, signed=self._is_person, is_past=is_past
            )


def _lineage(view: View, tag: bytes, seq: int) -> Lineage | None:
    return next((one for one in view.lineages(tag) if one.lineage == seq), None)
