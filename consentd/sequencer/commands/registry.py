"""Write the registry: participants and their keys, vocabulary, notices, rules; and enrol persons."""

import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from google.protobuf.message import Message

from consentd.core import codec, ed25519
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import ConflictError, InvalidError, NotFoundError
from consentd.ledger.ledger import Appended
from consentd.policy import check
from consentd.policy.compile import compile_rules
from consentd.policy.vocabulary import check_successor
from consentd.sequencer.commands.callers import OPERATOR, PARTICIPANT_ID
from consentd.sequencer.commands.write import NewEntry, Plan, ReceiptOnly, Request, WriteContext
from consentd.statements import payloads, values
from consentd.table.transaction import TableTransaction
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)

VOCABULARY_PREFIX = "vocabulary/"
NOTICE_PREFIX = "notice/"
RULES_PREFIX = "rules/"
_GROUP = re.compile(r"group/[a-z0-9][a-z0-9._-]{0,62}")
_MAX_NAME = 500
"""Longest name of a participant, in characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicWrite(ReceiptOnly, Generic[M]):
    """Append one entry to a public chain. Each subclass has its kind and its checks.

    Attributes:
        kind: of the entry.
        chain: public name of the chain, ``participant/ID`` for example.
    """

    kind: ClassVar[EntryKind]
    request: Request
    chain: str
    message: M

    def check(self, table: TableTransaction) -> None:
        """Check the message.

        Raises:
            RequestError: the write is refused.
        """
        raise NotImplementedError

    def prepare(self, context: WriteContext) -> Plan[None]:
        """Check the message, and draft the entry."""
        payloads.check_no_unknown_fields(self.message)
        self.check(context.table)
        entry = NewEntry(
            kind=self.kind,
            tag=codec.public_tag(self.chain),
            message=self.message,
            request_id=self.request.id,
            public=True,
        )
        return Plan((context.draft(entry, self.request),), None)


class RegisterParticipant(PublicWrite[st.ParticipantStatement]):
    """Register a participant, or replace what is registered of it."""

    kind = EntryKind.PARTICIPANT

    def check(self, table: TableTransaction) -> None:
        check_participant(self.message)


class AddKey(PublicWrite[st.KeyStatement]):
    """Put a key of a participant in force. No key comes into force twice."""

    kind = EntryKind.KEY

    def check(self, table: TableTransaction) -> None:
        check_key(self.message.key)
        _check_registered(table, self.chain)
        _check_new_key(table, self.message.key)


class RetireKey(PublicWrite[st.KeyStatement]):
    """Put a key of a participant out of force."""

    kind = EntryKind.KEY

    def check(self, table: TableTransaction) -> None:
        check_key(self.message.key)
        _check_registered(table, self.chain)
        owner = table.key_owner(self.message.key)
        if owner is None or PARTICIPANT_PREFIX + owner.name != self.chain:
            raise NotFoundError("participant has no such key in force")


class PublishVocabulary(PublicWrite[st.VocabularyStatement]):
    """Publish the next version of the vocabulary."""

    kind = EntryKind.VOCABULARY

    def check(self, table: TableTransaction) -> None:
        value, old = values.vocabulary_value(self.message), table.vocabulary_statement()
        assert old is not None, "a ledger begins with a vocabulary"
        if old.vocabulary_id != self.message.vocabulary_id:
            raise InvalidError(f"realm uses another vocabulary: `{old.vocabulary_id}`")
        _check_next_version(self.message.version, old.version)
        check_successor(values.vocabulary_value(old), value)


class PublishNotice(PublicWrite[st.NoticeStatement]):
    """Publish the next version of a notice."""

    kind = EntryKind.NOTICE

    def check(self, table: TableTransaction) -> None:
        if not PARTICIPANT_ID.fullmatch(self.message.notice_id) or len(self.message.content_sha256) != 32:
            raise InvalidError("notice needs an id of [a-z0-9._-] and the 32-byte hash of its text")
        latest = table.notice(self.message.notice_id)
        _check_next_version(self.message.version, 0 if latest is None else latest.version)


class PublishRules(PublicWrite[st.RulesStatement]):
    """Publish the next version of the realm's rules."""

    kind = EntryKind.RULES

    def check(self, table: TableTransaction) -> None:
        value, old = values.rules_value(self.message), table.rules_statement()
        assert old is not None, "a ledger begins with rules"
        if (old.realm_id, old.vocabulary_id) != (self.message.realm_id, self.message.vocabulary_id):
            raise InvalidError(f"realm or vocabulary is another: `{old.realm_id}`, `{old.vocabulary_id}`")
        _check_next_version(self.message.version, old.version)
        registry = table.registry()
        check.check_rules(value, registry.codebook.vocabulary)
        compile_rules(value, registry.codebook.vocabulary, registry.numbers)


def _check_registered(table: TableTransaction, chain: str) -> None:
    if table.participant(chain.removeprefix(PARTICIPANT_PREFIX)) is None:
        raise NotFoundError("no such participant")


def _check_new_key(table: TableTransaction, key: bytes) -> None:
    if table.key_ever(key) is not None:
        raise ConflictError("key is or was in force already")


def _check_next_version(version: int, latest: int) -> None:
    if version != latest + 1:
        raise ConflictError(f"version does not follow the latest: `{latest}`", "VERSION_CONFLICT")


def check_key(key: bytes) -> None:
    """Check that a public key has the form of one.

    Raises:
        InvalidError: it is not 32 bytes.
    """
    if len(key) != ed25519.KEY_SIZE:
        raise InvalidError("key is not an Ed25519 public key of 32 bytes")


def check_participant(message: st.ParticipantStatement) -> None:
    """Check the id, names, roles, rights and groups of a participant.

    Raises:
        InvalidError: one of them is not valid.
    """
    if not PARTICIPANT_ID.fullmatch(message.participant_id) or message.participant_id == OPERATOR:
        raise InvalidError(f"participant id is not of [a-z0-9._-], or reserved: `{message.participant_id}`")
    if not (message.name.ko or message.name.en) or max(map(len, (message.name.ko, message.name.en))) > _MAX_NAME:
        raise InvalidError("participant has no name, or one that is too long")
    roles, rights = list(message.roles), list(message.rights)
    if not roles or any(role not in st.ParticipantRole.values() or not role for role in roles):
        raise InvalidError("participant has no role, or an unknown one")
    if st.PARTICIPANT_ROLE_RELAY in roles and len(roles) > 1:
        raise InvalidError("a relay has no other role (PIPA Enforcement Decree 42-9(3))")
    if any(right not in st.ParticipantRight.values() or not right for right in rights):
        raise InvalidError("participant has an unknown right")
    for listed in (roles, rights, list(message.groups)):
        if len(set(listed)) != len(listed):
            raise InvalidError("participant lists something twice")
    if not all(map(_GROUP.fullmatch, message.groups)):
        raise InvalidError("group is not `group/` and an id of [a-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolSubject:
    """Append a person's first entry, and after it the person's own key, if there is one. The answer is the tag.

    Attributes:
        tag: the person's chain. The vault has the tag and its data key already.
        subject_key: Ed25519 public key, 32 bytes; empty: the person has none.
    """

    request: Request
    tag: bytes
    message: st.EnrolStatement
    subject_key: bytes = b""

    def prepare(self, context: WriteContext) -> Plan[bytes]:
        if context.table.tag_of(self.message.identifier_hash) is not None:
            raise ConflictError("identifier is enrolled already", "SUBJECT_ENROLLED")
        enrol = NewEntry(kind=EntryKind.ENROL, tag=self.tag, message=self.message, request_id=self.request.id)
        entries = [context.draft(enrol, self.request)]
        if self.subject_key:
            check_key(self.subject_key)
            _check_new_key(context.table, self.subject_key)
            statement = st.KeyStatement(key=self.subject_key, attestation=self.message.attestation)
            # Each entry needs a request_id of its own, so the second one's is derived from the request's.
            derived = hashlib.sha256(self.request.id + b"\1").digest()[:16]
            entries.append(
                context.draft(NewEntry(kind=EntryKind.KEY, tag=self.tag, message=statement, request_id=derived))
            )
        return Plan(tuple(entries), self.tag)

    def replay(self, context: WriteContext, recorded: Appended) -> bytes:
        """Answer the tag again."""
        return self.tag
