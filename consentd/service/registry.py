"""Keep who takes part, by which words, under which rules: RegistryService."""

import re
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from consentd.core import ed25519
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import ConflictError, InvalidError, NotFoundError
from consentd.policy import check
from consentd.policy.compile import compile_rules
from consentd.policy.vocabulary import check_successor
from consentd.sequencer.commands.context import request_key
from consentd.sequencer.commands.registry import Enrol, PublicWrite
from consentd.service.auth import OPERATOR, PARTICIPANT_ID
from consentd.service.pages import Pager, page_length, page_size
from consentd.service.wire import Servicer, check_request_id, content_hash, revision, rpc
from consentd.statements import payloads, values
from consentd.table.transaction import TableTransaction
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import registry_service_pb2_grpc
from consentd.v1 import statement_pb2 as st

_GROUP = re.compile(r"group/[a-z0-9][a-z0-9._-]{0,62}")
_MAX_TEXT = 500


class RegistryService(Servicer, registry_service_pb2_grpc.RegistryServiceServicer):
    """``consentd.v1.RegistryService``."""

    @rpc
    def RegisterParticipant(  # noqa: N802
        self, request: rs.RegisterParticipantRequest, context: grpc.ServicerContext
    ) -> rs.RegisterParticipantResponse:
        """Add a participant, or say anew who it is."""
        message = st.ParticipantStatement()
        message.CopyFrom(request.participant)
        check_participant(message)
        name = PARTICIPANT_PREFIX + message.participant_id
        receipt = self._publish(request, name, EntryKind.PARTICIPANT, message, lambda table: None, context)
        return rs.RegisterParticipantResponse(receipt=receipt)

    @rpc
    def AddKey(self, request: rs.AddKeyRequest, context: grpc.ServicerContext) -> rs.AddKeyResponse:  # noqa: N802
        """Put a participant's key in force."""
        key = check_key(request.key)

        def is_new(table: TableTransaction) -> None:
            _known(table, request.participant_id)
            if table.key_ever(key) is not None:
                raise ConflictError("key is or was in force already")

        name = PARTICIPANT_PREFIX + request.participant_id
        receipt = self._publish(request, name, EntryKind.KEY, st.KeyStatement(key=key), is_new, context)
        return rs.AddKeyResponse(receipt=receipt)

    @rpc
    def RetireKey(self, request: rs.RetireKeyRequest, context: grpc.ServicerContext) -> rs.RetireKeyResponse:  # noqa: N802
        """Put a participant's key out of force."""
        key = check_key(request.key)

        def is_in_force(table: TableTransaction) -> None:
            _known(table, request.participant_id)
            owner = table.key_owner(key)
            if owner is None or owner.name != request.participant_id:
                raise NotFoundError("participant has no such key in force")

        name = PARTICIPANT_PREFIX + request.participant_id
        message = st.KeyStatement(key=key, retired=True)
        return rs.RetireKeyResponse(receipt=self._publish(request, name, EntryKind.KEY, message, is_in_force, context))

    @rpc
    def PublishVocabulary(  # noqa: N802
        self, request: rs.PublishVocabularyRequest, context: grpc.ServicerContext
    ) -> rs.PublishVocabularyResponse:
        """Publish the next version of the vocabulary."""
        message = st.VocabularyStatement()
        message.CopyFrom(request.vocabulary)
        value = values.vocabulary_value(message)

        def succeeds(table: TableTransaction) -> None:
            old = table.vocabulary_statement()
            assert old is not None, "a ledger begins with a vocabulary"
            if old.vocabulary_id != message.vocabulary_id:
                raise InvalidError(f"realm uses another vocabulary: `{old.vocabulary_id}`")
            if message.version != old.version + 1:
                raise ConflictError(f"version does not follow the one in force: `{old.version}`", "VERSION_CONFLICT")
            check_successor(values.vocabulary_value(old), value)

        name = f"vocabulary/{message.vocabulary_id}"
        receipt = self._publish(request, name, EntryKind.VOCABULARY, message, succeeds, context)
        return rs.PublishVocabularyResponse(receipt=receipt)

    @rpc
    def PublishNotice(  # noqa: N802
        self, request: rs.PublishNoticeRequest, context: grpc.ServicerContext
    ) -> rs.PublishNoticeResponse:
        """Publish the next version of a notice."""
        message = st.NoticeStatement()
        message.CopyFrom(request.notice)
        if not PARTICIPANT_ID.fullmatch(message.notice_id) or len(message.content_sha256) != 32:
            raise InvalidError("notice needs an id of [a-z0-9._-] and the 32-byte hash of its text")

        def succeeds(table: TableTransaction) -> None:
            latest = table.notice(message.notice_id)
            version = 0 if latest is None else latest.version
            if message.version != version + 1:
                raise ConflictError(f"version does not follow the latest: `{version}`", "VERSION_CONFLICT")

        name = f"notice/{message.notice_id}"
        receipt = self._publish(request, name, EntryKind.NOTICE, message, succeeds, context)
        return rs.PublishNoticeResponse(receipt=receipt)

    @rpc
    def PublishRules(  # noqa: N802
        self, request: rs.PublishRulesRequest, context: grpc.ServicerContext
    ) -> rs.PublishRulesResponse:
        """Publish the next version of the realm's rules."""
        message = st.RulesStatement()
        message.CopyFrom(request.rules)
        value = values.rules_value(message)

        def succeeds(table: TableTransaction) -> None:
            old = table.rules_statement()
            assert old is not None, "a ledger begins with rules"
            if (old.realm_id, old.vocabulary_id) != (message.realm_id, message.vocabulary_id):
                raise InvalidError(f"realm or vocabulary is another: `{old.realm_id}`, `{old.vocabulary_id}`")
            if message.version != old.version + 1:
                raise ConflictError(f"version does not follow the one in force: `{old.version}`", "VERSION_CONFLICT")
            registry = table.registry()
            check.check_rules(value, registry.codebook.vocabulary)
            compile_rules(value, registry.codebook.vocabulary, registry.numbers)

        name = f"rules/{message.realm_id}"
        receipt = self._publish(request, name, EntryKind.RULES, message, succeeds, context)
        return rs.PublishRulesResponse(receipt=receipt)

    @rpc
    def EnrolSubject(  # noqa: N802
        self, request: rs.EnrolSubjectRequest, context: grpc.ServicerContext
    ) -> rs.EnrolSubjectResponse:
        """Give a person a tag and a first entry."""
        caller = self.caller(context)
        request_id = check_request_id(request.request_id)
        with self.services.table.read() as snapshot:
            self.require(snapshot, caller, st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS)
        key = check_key(request.subject_key) if request.subject_key else b""
        identifier_hash = self.identifier_hash(request.subject)
        write = Enrol(
            request_id=request_id,
            request_key=request_key(caller.id, request_id),
            content=content_hash("EnrolSubject", identifier_hash, request.method, key),
            asker=caller.id,
            # The vault first: a tag without an ENROL means nothing, an ENROL without a key could not be read.
            tag=self.services.vault.create(identifier_hash),
            message=st.EnrolStatement(
                identifier_hash=identifier_hash,
                scheme=request.subject.scheme,
                attestation=st.Attestation(attested_by=caller.id, method=request.method),
            ),
            subject_key=key,
        )
        written = self.services.sequencer.submit(write).result()
        receipt = self.receipt(written, 0, request.wait_for, context)
        return rs.EnrolSubjectResponse(receipt=receipt, tag=written.answer)

    @rpc
    def GetParticipant(  # noqa: N802
        self, request: rs.GetParticipantRequest, context: grpc.ServicerContext
    ) -> rs.GetParticipantResponse:
        """Read one participant."""
        self.caller(context)
        with self.services.table.read() as snapshot:
            found = snapshot.participant(request.participant_id)
            if found is None:
                raise NotFoundError("no such participant")
            return rs.GetParticipantResponse(
                participant=found.statement,
                keys=snapshot.keys_of(found.id),
                revision=revision(snapshot.size, snapshot.root),
            )

    @rpc
    def ListParticipants(  # noqa: N802
        self, request: rs.ListParticipantsRequest, context: grpc.ServicerContext
    ) -> rs.ListParticipantsResponse:
        """Read all participants, a page at a time."""
        caller = self.caller(context)
        size = page_size(request.page_size)
        pager = Pager(self.services.page_key, "ListParticipants", caller)
        with self.services.table.read() as snapshot:
            # Numbers are given in order of registration and never change, so a position is one.
            everyone = sorted(snapshot.registry().participants.values(), key=lambda one: one.number)
            start, tree_size = pager.parse(request.page_token) if request.page_token else (0, snapshot.size)
            page = [one for one in everyone if one.number > start][: size + 1]
            size = page_length((one.statement for one in page), size)
            response = rs.ListParticipantsResponse(
                participants=[one.statement for one in page[:size]],
                revision=revision(snapshot.size, snapshot.root),
            )
            if len(page) > size:
                response.next_page_token = pager.token(page[size - 1].number, tree_size)
            return response

    @rpc
    def GetVocabulary(  # noqa: N802
        self, request: rs.GetVocabularyRequest, context: grpc.ServicerContext
    ) -> rs.GetVocabularyResponse:
        """Read the vocabulary in force."""
        self.caller(context)
        with self.services.table.read() as snapshot:
            return rs.GetVocabularyResponse(
                vocabulary=snapshot.vocabulary_statement(), revision=revision(snapshot.size, snapshot.root)
            )

    @rpc
    def GetNotice(self, request: rs.GetNoticeRequest, context: grpc.ServicerContext) -> rs.GetNoticeResponse:  # noqa: N802
        """Read a notice."""
        self.caller(context)
        with self.services.table.read() as snapshot:
            # Only an id that can be one: the rows of a notice's versions are found by what they begin with.
            known = PARTICIPANT_ID.fullmatch(request.notice_id)
            found = snapshot.notice(request.notice_id, request.version) if known else None
            if found is None:
                raise NotFoundError("no such notice version")
            return rs.GetNoticeResponse(notice=found, revision=revision(snapshot.size, snapshot.root))

    @rpc
    def GetRules(self, request: rs.GetRulesRequest, context: grpc.ServicerContext) -> rs.GetRulesResponse:  # noqa: N802
        """Read the rules in force."""
        self.caller(context)
        with self.services.table.read() as snapshot:
            return rs.GetRulesResponse(
                rules=snapshot.rules_statement(), revision=revision(snapshot.size, snapshot.root)
            )

    def _publish(
        self,
        request: Any,
        name: str,
        kind: EntryKind,
        message: Message,
        check_table: Callable[[TableTransaction], None],
        context: grpc.ServicerContext,
    ) -> pb.Receipt:
        """Write an entry into a public chain, as the operator's doing."""
        caller = self.caller(context)
        self.require_operator(caller)
        request_id = check_request_id(request.request_id)
        payloads.check_no_unknown_fields(message)
        content = content_hash(request.DESCRIPTOR.name, name, message)
        message.ClearField("attestation")
        message.attestation.attested_by = caller.id  # type: ignore[attr-defined]  # every public statement has one
        write = PublicWrite(
            request_id=request_id,
            request_key=request_key(caller.id, request_id),
            content=content,
            asker=caller.id,
            name=name,
            kind=kind,
            message=message,
            check=check_table,
        )
        written = self.services.sequencer.submit(write).result()
        return self.receipt(written, 0, request.wait_for, context)


def check_key(key: bytes) -> bytes:
    """Return a public key that is one.

    Raises:
        InvalidError: it is not 32 bytes.
    """
    if len(key) != ed25519.KEY_SIZE:
        raise InvalidError("key is not an Ed25519 public key of 32 bytes")
    return key


def check_participant(message: st.ParticipantStatement) -> None:
    """Check who a participant says it is.

    Raises:
        InvalidError: its id, names, roles, rights or groups are not in order.
    """
    if not PARTICIPANT_ID.fullmatch(message.participant_id) or message.participant_id == OPERATOR:
        raise InvalidError(f"participant id is not of [a-z0-9._-], or reserved: `{message.participant_id}`")
    if not (message.name.ko or message.name.en) or max(map(len, (message.name.ko, message.name.en))) > _MAX_TEXT:
        raise InvalidError("participant has no name, or too long a one")
    roles, rights = list(message.roles), list(message.rights)
    if not roles or any(role not in st.ParticipantRole.values() or not role for role in roles):
        raise InvalidError("participant has no role, or one we do not know")
    if st.PARTICIPANT_ROLE_RELAY in roles and len(roles) > 1:
        raise InvalidError("a relay plays no other role (PIPA Enforcement Decree 42-9(3))")
    if any(right not in st.ParticipantRight.values() or not right for right in rights):
        raise InvalidError("participant has a right we do not know")
    for listed in (roles, rights, list(message.groups)):
        if len(set(listed)) != len(listed):
            raise InvalidError("participant lists something twice")
    if not all(map(_GROUP.fullmatch, message.groups)):
        raise InvalidError("group is not `group/` and an id of [a-z0-9._-]")


def _known(table: TableTransaction, participant_id: str) -> None:
    if table.participant(participant_id) is None:
        raise NotFoundError("no such participant")
