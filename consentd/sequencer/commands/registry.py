"""Write the registry: participants and their keys, vocabulary, notices, rules; and enrol persons."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from consentd.core import codec, ed25519
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.core.possession import verify_possession
from consentd.errors import (
    AlreadyExistsError,
    InvalidError,
    MalformedError,
    NotFoundError,
    SignatureError,
)
from consentd.ledger.ledger import Appended
from consentd.policy import check
from consentd.policy.compile import compile_rules
from consentd.policy.language import check_name
from consentd.policy.vocabulary import check_successor
from consentd.sequencer.commands import acting, participants
from consentd.sequencer.commands.administration import check_act
from consentd.sequencer.commands.callers import (
    ACT_FOR_SUBJECTS,
    check_active,
    check_right,
)
from consentd.sequencer.commands.erasure import unused_tag
from consentd.sequencer.commands.notices import check_next_version, check_notice
from consentd.sequencer.commands.write import (
    NewEntry,
    Plan,
    ReceiptOnly,
    ReplayContext,
    Request,
    Requested,
    SignedEntry,
    WriteContext,
)
from consentd.statements import values
from consentd.table.view import View
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)

BY_LAW, BY_EMERGENCY = "law", "break-glass"
"""The methods of an enrolment that the daemon makes, because it permits an access to the data of a person who is not
enrolled. Who attests it asked for that access, and need not act for persons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicWrite(Requested, ReceiptOnly, Generic[M]):
    """Append one entry to a public chain, after the checks for the entry's kind.

    Attributes:
        chain: public name of the chain, ``participant/ID`` for example.
        signed: the statement, if a participant signed it; None: the daemon signs *message*.
        signer: id of the participant that must own the key of *signed*.
    """

    kind: EntryKind
    request: Request
    chain: str
    message: M
    signed: SignedEntry | None = None
    signer: str = ""

    def check(self, context: WriteContext) -> None:
        """Check the message by the rules for the entry's kind. Raises ``RequestError``."""
        _CHECKS[self.kind](self, context)

    def prepare(self, context: WriteContext) -> Plan[None]:
        self.check(context)
        tag = codec.public_tag(self.chain)
        takes_away = getattr(self.message, "ended", False) or getattr(self.message, "retired", False)
        if self.signed is not None and not takes_away:
            own, quotas = codec.public_tag(PARTICIPANT_PREFIX + self.signer), context.table.registry().quotas
            context.quotas.count_entry(self.signer, own, quotas, now_ms=context.batch.time_ms)
        entry = NewEntry(
            kind=self.kind, tag=tag, message=self.message, request_id=self.request.id, public=True,
            signed=self.signed, signer=self.signer,
        )  # fmt: skip
        return Plan((context.draft(entry, self.request),), None)


def _check_participant(write: PublicWrite[st.ParticipantStatement], context: WriteContext) -> None:
    participants.check_record(write.message, context.table)
    participants.check_change(write.message, context.table, signed=write.signed is not None)


def _check_key_change(write: PublicWrite[st.KeyStatement], context: WriteContext) -> None:
    """Check a statement that puts a participant's key in force, or out of force."""
    table = context.table
    key = write.message.key
    check_key(key)
    check_no_authority(write.message)
    participant_id = write.chain.removeprefix(PARTICIPANT_PREFIX)
    if table.participant(participant_id) is None:
        raise NotFoundError(f"no such participant: `{participant_id}`: ListParticipants has the ids")
    if not write.message.retired:
        check_new_key(table, key)
        if write.signed is None:
            participants.check_no_own_key(table, participant_id)
        return
    owner = table.key_owner(key)
    if owner is None or owner.tag_or_name != participant_id:
        raise NotFoundError("participant has no such key in force")


def check_vocabulary(view: View, message: st.VocabularyStatement) -> None:
    """Check the next version of the vocabulary. The first one, with which a ledger begins, must only be well formed.

    Raises:
        InvalidError: it is no vocabulary, is another one, or changes what codes mean (``check_successor``); or a code's
            name is none (``check_name``).
        AbortedError: its version is not the next.
    """
    value, old = values.vocabulary_value(message), view.vocabulary_statement()
    for code in message.codes:
        check_name(code.name)
    if old is None:
        return
    if old.vocabulary_id != message.vocabulary_id:
        raise InvalidError(f"realm uses another vocabulary: `{old.vocabulary_id}`")
    check_next_version(message.version, old.version)
    check_successor(values.vocabulary_value(old), value)


def check_rules(view: View, message: st.RulesStatement) -> None:
    """Check the next version of the realm's rules. The first ones, with which a ledger begins, must only be well
    formed.

    Raises:
        InvalidError: they are of another realm or vocabulary, or ``check.check_rules`` or ``compile_rules`` refuses
            them.
        AbortedError: their version is not the next.
    """
    value, old = values.rules_value(message), view.rules_statement()
    if old is None:
        return
    if (old.realm_id, old.vocabulary_id) != (message.realm_id, message.vocabulary_id):
        raise InvalidError(f"realm or vocabulary is another: `{old.realm_id}`, `{old.vocabulary_id}`")
    check_next_version(message.version, old.version)
    registry = view.registry()
    check.check_rules(value, registry.codebook.vocabulary)
    compile_rules(value, registry.codebook.vocabulary, registry.numbers)


def _check_vocabulary(write: PublicWrite[st.VocabularyStatement], context: WriteContext) -> None:
    check_vocabulary(context.table, write.message)


def _check_notice(write: PublicWrite[st.NoticeStatement], context: WriteContext) -> None:
    is_signed = write.signed is not None
    check_notice(context.table, write.message, time_ms=context.batch.time_ms, signed=is_signed)


def _check_rules(write: PublicWrite[st.RulesStatement], context: WriteContext) -> None:
    check_rules(context.table, write.message)


def _check_delegation(write: PublicWrite[st.DelegationStatement], context: WriteContext) -> None:
    acting.check_delegation_statement(write.message, context.table, context.batch.time_ms)
    if write.signed is None:
        acting.check_attested_delegation(write.message, context.table)


def _check_mandate(write: PublicWrite[st.MandateStatement], context: WriteContext) -> None:
    acting.check_mandate_statement(write.message, context.table, context.batch.time_ms)


def _check_administration(write: PublicWrite[st.AdministrationStatement], context: WriteContext) -> None:
    check_act(write.message)


_CHECKS: Mapping[EntryKind, Callable[[PublicWrite[Any], WriteContext], None]] = {
    EntryKind.PARTICIPANT: _check_participant,
    EntryKind.KEY: _check_key_change,
    EntryKind.VOCABULARY: _check_vocabulary,
    EntryKind.NOTICE: _check_notice,
    EntryKind.RULES: _check_rules,
    EntryKind.DELEGATION: _check_delegation,
    EntryKind.MANDATE: _check_mandate,
    EntryKind.ADMINISTRATION: _check_administration,
}


def check_key(key: bytes) -> None:
    """Check that a key is an Ed25519 public key (``ed25519.check_public_key``). Raises ``InvalidError``."""
    try:
        ed25519.check_public_key(key)
    except MalformedError as error:
        raise InvalidError("key is not an Ed25519 public key: 32 bytes, a point that a private key has") from error


def check_new_key(view: View, key: bytes) -> None:
    """Check that nobody had this key in force before: a key belongs to one owner for ever. Raises
    ``AlreadyExistsError``.
    """
    if view.key_ever(key) is not None:
        raise AlreadyExistsError("key is or was in force already")


def check_no_authority(message: st.KeyStatement) -> None:
    """Check that the KEY of a participant names no authority: nobody represents one. Raises ``InvalidError``."""
    if message.authority_seq:
        raise InvalidError("key of a participant names no authority: only persons are represented")


def check_possession(key: bytes, possession: bytes, *, origin: str, owner: str) -> None:
    """Check a new key, and that *owner* has its private key (``consentd.core.possession``).

    A service calls this on its own thread, as it calls ``verify_ahead``.

    Raises:
        InvalidError: *key* is no public key; or (BAD_POSSESSION) *possession* is no proof for this ledger and owner.
    """
    check_key(key)
    try:
        verify_possession(key, possession, origin=origin, owner=owner)
    except (MalformedError, SignatureError) as error:
        what = "possession is not a signature by the new key over this ledger and this owner: sign with the new key"
        raise InvalidError(what, "BAD_POSSESSION") from error


def check_enrolment(view: View, message: st.EnrolStatement) -> None:
    """Check who attests a recorded enrolment: of ``EnrolSubject``, or of an access. ``audit replay`` calls this.

    Raises:
        DeniedError: who attests it neither acts for persons, nor asked for an access by law or in an emergency.
    """
    attestation = message.attestation
    if attestation.method in (BY_LAW, BY_EMERGENCY):
        check_active(view, attestation.attested_by)
    else:
        check_right(view, attestation.attested_by, ACT_FOR_SUBJECTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolSubject(Requested):
    """Append a person's first entry, then an entry for the person's own key, if given. The answer is the tag.

    Attributes:
        tag: the id that the vault has for the person's chain, with the person's data key. Another one is made if it
            is that of a chain which was erased.
        subject_key: Ed25519 public key; empty: the person has none.
    """

    request: Request
    tag: bytes
    message: st.EnrolStatement
    subject_key: bytes = b""

    def prepare(self, context: WriteContext) -> Plan[bytes]:
        check_right(context.table, self.message.attestation.attested_by, ACT_FOR_SUBJECTS)
        if context.table.tag_of(self.message.identifier_hash) is not None:
            raise AlreadyExistsError("identifier is enrolled already", "SUBJECT_ENROLLED")
        tag = unused_tag(context, self.message.identifier_hash, lambda: self.tag)
        enrol = NewEntry(kind=EntryKind.ENROL, tag=tag, message=self.message, request_id=self.request.id)
        entries = [context.draft(enrol, self.request)]
        if self.subject_key:
            check_key(self.subject_key)
            check_new_key(context.table, self.subject_key)
            statement = st.KeyStatement(key=self.subject_key, attestation=self.message.attestation)
            # Each entry needs a request_id of its own. The second entry's id is derived from the request's id.
            derived = hashlib.sha256(self.request.id + b"\1").digest()[:16]
            key = NewEntry(kind=EntryKind.KEY, tag=tag, message=statement, request_id=derived)
            entries.append(context.draft(key))
        return Plan(tuple(entries), tag)

    def replay(self, context: ReplayContext, recorded: Appended) -> bytes:
        """Return the tag, as the original write did."""
        return recorded.event.tag
