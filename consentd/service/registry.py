"""RegistryService: participants and their keys, the vocabulary, notices, the realm's rules, and enrolments."""

from itertools import islice
from typing import Any

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, NotFoundError
from consentd.sequencer.commands import registry
from consentd.sequencer.commands.callers import PARTICIPANT_ID, check_giver
from consentd.service.context import Context
from consentd.service.requests import Pager, content_hash, make_request, parse_signed, take_page
from consentd.service.roles import Whose
from consentd.service.rpc import rpc
from consentd.service.servicer import Servicer, revision
from consentd.statements.delegations import delegation_message
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st


class RegistryService(Servicer):
    """``consentd.v1.RegistryService``."""

    @rpc
    async def RegisterParticipant(
        self, request: rs.RegisterParticipantRequest, context: Context
    ) -> rs.RegisterParticipantResponse:
        """Register a participant, or replace the registration of a known participant."""
        chain = PARTICIPANT_PREFIX + request.participant.participant_id
        receipt = await self._publish(EntryKind.PARTICIPANT, chain, request.participant, request, context)
        return rs.RegisterParticipantResponse(receipt=receipt)

    @rpc
    async def AddKey(self, request: rs.AddKeyRequest, context: Context) -> rs.AddKeyResponse:
        """Put a participant's key in force. A key that was ever in force is refused."""
        chain, message = PARTICIPANT_PREFIX + request.participant_id, st.KeyStatement(key=request.key)
        return rs.AddKeyResponse(receipt=await self._publish(EntryKind.KEY, chain, message, request, context))

    @rpc
    async def RetireKey(self, request: rs.RetireKeyRequest, context: Context) -> rs.RetireKeyResponse:
        """Put a participant's key out of force."""
        chain, message = PARTICIPANT_PREFIX + request.participant_id, st.KeyStatement(key=request.key, retired=True)
        return rs.RetireKeyResponse(receipt=await self._publish(EntryKind.KEY, chain, message, request, context))

    @rpc
    async def PublishVocabulary(
        self, request: rs.PublishVocabularyRequest, context: Context
    ) -> rs.PublishVocabularyResponse:
        """Publish the next version of the vocabulary."""
        chain, message = codec.VOCABULARY_PREFIX + request.vocabulary.vocabulary_id, request.vocabulary
        receipt = await self._publish(EntryKind.VOCABULARY, chain, message, request, context)
        return rs.PublishVocabularyResponse(receipt=receipt)

    @rpc
    async def PublishNotice(self, request: rs.PublishNoticeRequest, context: Context) -> rs.PublishNoticeResponse:
        """Publish the next version of a notice."""
        chain, message = codec.NOTICE_PREFIX + request.notice.notice_id, request.notice
        return rs.PublishNoticeResponse(receipt=await self._publish(EntryKind.NOTICE, chain, message, request, context))

    @rpc
    async def PublishRules(self, request: rs.PublishRulesRequest, context: Context) -> rs.PublishRulesResponse:
        """Publish the next version of the realm's rules."""
        chain, message = codec.RULES_PREFIX + request.rules.realm_id, request.rules
        return rs.PublishRulesResponse(receipt=await self._publish(EntryKind.RULES, chain, message, request, context))

    @rpc
    async def PutDelegation(self, request: rs.PutDelegationRequest, context: Context) -> rs.PutDelegationResponse:
        """Record a delegation in place of the one of the same giver, taker and capacity."""
        form = request.WhichOneof("statement")
        if form is None:
            raise InvalidError("request states no delegation")
        signed = request.signed if form == "signed" else None
        message = request.delegation if signed is None else parse_signed(st.DelegationStatement, signed)
        if message.ended:
            raise InvalidError("statement ends a delegation; call EndDelegation")
        return rs.PutDelegationResponse(receipt=await self._delegate(message, signed, request, context))

    @rpc
    async def EndDelegation(self, request: rs.EndDelegationRequest, context: Context) -> rs.EndDelegationResponse:
        """End a delegation."""
        signed = request.signed if request.HasField("signed") else None
        message = st.DelegationStatement(
            giver=request.giver, taker=request.taker, capacity=request.capacity, ended=True
        )
        if signed is not None and parse_signed(st.DelegationStatement, signed) != message:
            raise InvalidError("signed statement is not the end of the delegation that the request names")
        return rs.EndDelegationResponse(receipt=await self._delegate(message, signed, request, context))

    @rpc
    def ListDelegations(self, request: rs.ListDelegationsRequest, context: Context) -> rs.ListDelegationsResponse:
        """Read delegations, a page at a time."""
        caller = self.caller(context)
        selection = request.giver, request.taker
        pager = Pager(self.services.page_key, "ListDelegations", caller, request.page_size, *selection)
        with self.services.table.read() as snapshot:
            start, tree_size = pager.parse(request.page_token) if request.page_token else (0, snapshot.size)
            wanted = (
                (position, one)
                for position, one in snapshot.registry().delegations_after(start)
                if request.giver in ("", one.giver) and request.taker in ("", one.taker)
            )
            left = list(islice(wanted, pager.size + 1))
            page, more = take_page((delegation_message(one) for _, one in left), pager.size)
            token = pager.token(left[len(page) - 1][0], tree_size) if more else ""
            return rs.ListDelegationsResponse(delegations=page, revision=_revision(snapshot), next_page_token=token)

    @rpc
    async def PutMandate(self, request: rs.PutMandateRequest, context: Context) -> rs.PutMandateResponse:
        """Record the mandate of an auditor in place of its earlier one."""
        if request.mandate.ended:
            raise InvalidError("statement ends a mandate; call EndMandate")
        chain = PARTICIPANT_PREFIX + request.mandate.auditor
        receipt = await self._publish(EntryKind.MANDATE, chain, request.mandate, request, context)
        return rs.PutMandateResponse(receipt=receipt)

    @rpc
    async def EndMandate(self, request: rs.EndMandateRequest, context: Context) -> rs.EndMandateResponse:
        """End the mandate of an auditor."""
        chain, message = PARTICIPANT_PREFIX + request.auditor, st.MandateStatement(auditor=request.auditor, ended=True)
        return rs.EndMandateResponse(receipt=await self._publish(EntryKind.MANDATE, chain, message, request, context))

    @rpc
    async def EnrolSubject(self, request: rs.EnrolSubjectRequest, context: Context) -> rs.EnrolSubjectResponse:
        """Enrol a person: make a tag (the id of the person's chain) and append the first entry."""
        caller = self.caller(context)
        if request.subject_key:
            registry.check_key(request.subject_key)
        identifier_hash = self.identifier_hash(request.subject)
        content = content_hash("EnrolSubject", identifier_hash, request.method, request.subject_key)
        write = registry.EnrolSubject(
            request=make_request(caller, request.request_id, content),
            # The vault stores tag and data key first. So a crash can leave an unused tag, but no ENROL without its key.
            tag=self.services.vault.create(identifier_hash),
            message=st.EnrolStatement(
                identifier_hash=identifier_hash,
                scheme=request.subject.scheme,
                attestation=st.Attestation(attested_by=caller, method=request.method),
            ),
            subject_key=request.subject_key,
        )
        written, receipt = await self.write(write, request.wait_for, context)
        return rs.EnrolSubjectResponse(receipt=receipt, tag=written.answer)

    @rpc
    def GetParticipant(self, request: rs.GetParticipantRequest, context: Context) -> rs.GetParticipantResponse:
        """Read one participant."""
        with self.services.table.read() as snapshot:
            found = snapshot.participant(request.participant_id)
            if found is None:
                raise NotFoundError("no such participant")
            keys = snapshot.keys_of(found.id)
            mandate = snapshot.registry().mandates.get(found.id)
            return rs.GetParticipantResponse(
                participant=found.statement, keys=keys, revision=_revision(snapshot),
                mandate=None if mandate is None else mandate.statement,
            )  # fmt: skip

    @rpc
    def ListParticipants(self, request: rs.ListParticipantsRequest, context: Context) -> rs.ListParticipantsResponse:
        """Read all participants, a page at a time."""
        caller = self.caller(context)
        pager = Pager(self.services.page_key, "ListParticipants", caller, request.page_size)
        with self.services.table.read() as snapshot:
            # A page token's position is a participant's number. Numbers follow the registrations and never change.
            everyone = sorted(snapshot.registry().participants.values(), key=lambda one: one.number)
            start, tree_size = pager.parse(request.page_token) if request.page_token else (0, snapshot.size)
            left = [one for one in everyone if one.number > start]
            page, more = take_page((one.statement for one in left), pager.size)
            token, at = pager.token(left[len(page) - 1].number, tree_size) if more else "", _revision(snapshot)
            return rs.ListParticipantsResponse(participants=page, revision=at, next_page_token=token)

    @rpc
    def GetVocabulary(self, request: rs.GetVocabularyRequest, context: Context) -> rs.GetVocabularyResponse:
        """Read the vocabulary in force."""
        with self.services.table.read() as snapshot:
            vocabulary = snapshot.vocabulary_statement()
            return rs.GetVocabularyResponse(vocabulary=vocabulary, revision=_revision(snapshot))

    @rpc
    def GetNotice(self, request: rs.GetNoticeRequest, context: Context) -> rs.GetNoticeResponse:
        """Read one version of a notice."""
        with self.services.table.read() as snapshot:
            # The id becomes a prefix of rows to read, so an id that is not valid could match rows of another notice.
            known = PARTICIPANT_ID.fullmatch(request.notice_id)
            found = snapshot.notice(request.notice_id, request.version) if known else None
            if found is None:
                raise NotFoundError("no such notice version")
            return rs.GetNoticeResponse(notice=found, revision=_revision(snapshot))

    @rpc
    def GetRules(self, request: rs.GetRulesRequest, context: Context) -> rs.GetRulesResponse:
        """Read the rules in force."""
        with self.services.table.read() as snapshot:
            return rs.GetRulesResponse(rules=snapshot.rules_statement(), revision=_revision(snapshot))

    async def _delegate(
        self, message: st.DelegationStatement, signed: pb.SignedStatement | None, request: Any, context: Context
    ) -> pb.Receipt:
        """Write a DELEGATION entry, attested by an operator or *signed* by the giver, who is the caller."""
        chain = PARTICIPANT_PREFIX + message.giver
        rpc_name = request.DESCRIPTOR.name.removesuffix("Request")
        self.access(rpc_name, Whose.OTHER if signed is None else Whose.OWN, context)
        if signed is None:
            return await self._publish(EntryKind.DELEGATION, chain, message, request, context)
        caller = self.caller(context)
        with self.services.table.read() as snapshot:
            check_giver(snapshot, caller, message.giver)
        content = content_hash(request.DESCRIPTOR.name, chain, message, signed)
        identity = make_request(caller, request.request_id, content)
        entry = self.signed_entry(EntryKind.DELEGATION, codec.public_tag(chain), identity, signed)
        write = registry.PublicWrite(
            kind=EntryKind.DELEGATION, request=identity, chain=chain, message=message, signed=entry, signer=caller
        )
        _, receipt = await self.write(write, request.wait_for, context)
        return receipt

    async def _publish(
        self, kind: EntryKind, chain: str, message: Message, request: Any, context: Context
    ) -> pb.Receipt:
        """Write an entry to a public chain, attested by the calling operator; return its receipt."""
        caller = self.caller(context)
        identity = make_request(caller, request.request_id, content_hash(request.DESCRIPTOR.name, chain, message))
        attested: Any = type(message)()
        attested.CopyFrom(message)
        attested.attestation.CopyFrom(st.Attestation(attested_by=caller))
        write = registry.PublicWrite(kind=kind, request=identity, chain=chain, message=attested)
        _, receipt = await self.write(write, request.wait_for, context)
        return receipt


def _revision(snapshot: Snapshot) -> pb.Revision:
    return revision(snapshot.size, snapshot.root)
