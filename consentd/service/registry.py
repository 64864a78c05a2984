"""RegistryService: participants and their keys, the vocabulary, notices, the realm's rules, and enrolments."""

from collections.abc import Iterable
from typing import Any, TypeVar

from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.key_validity import PARTICIPANT_PREFIX
from consentd.core.kinds import EntryKind
from consentd.core.possession import participant_owner, person_owner, representative_owner
from consentd.errors import InvalidError, NotFoundError
from consentd.ledger import reads
from consentd.policy.delegation import Delegation
from consentd.sequencer.commands import person_keys, registry
from consentd.sequencer.commands.callers import check_author, unenrolled_id
from consentd.sequencer.commands.write import enrolled_tag
from consentd.service.campaigns import find_notice, get_campaign
from consentd.service.consistency import reach
from consentd.service.context import Context
from consentd.service.earlier_registry import EarlierRegistry
from consentd.service.erasure import erase_subject, erase_subjects, get_holds, list_duties, put_duty
from consentd.service.pages import Cursor, Pager, expired, take_page
from consentd.service.requests import content_hash, make_request, make_signed_request
from consentd.service.roles import Whose
from consentd.service.rpc import rpc
from consentd.service.servicer import Servicer, revision
from consentd.service.statements import Stated, attested, read_statement
from consentd.statements.delegations import delegation_message
from consentd.table.registry import Participant, Registry
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import registry_service_pb2 as rs
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)


class RegistryService(Servicer):
    """``consentd.v1.RegistryService``."""

    @rpc
    async def RegisterParticipant(
        self, request: rs.RegisterParticipantRequest, context: Context
    ) -> rs.RegisterParticipantResponse:
        """Register a participant, or replace the registration of a known participant."""
        stated = read_statement(request, st.ParticipantStatement, self.attester(context))
        participant_id = stated.message.participant_id
        self._check_author(stated, participant_id, request, context)
        chain = PARTICIPANT_PREFIX + participant_id
        receipt = await self._publish(EntryKind.PARTICIPANT, chain, stated, request, context)
        return rs.RegisterParticipantResponse(receipt=receipt)

    @rpc
    async def AddKey(self, request: rs.AddKeyRequest, context: Context) -> rs.AddKeyResponse:
        """Put a key in force. A key that was ever in force is refused."""
        return rs.AddKeyResponse(receipt=await self._change_key(request, context, retired=False))

    @rpc
    async def RetireKey(self, request: rs.RetireKeyRequest, context: Context) -> rs.RetireKeyResponse:
        """Put a key out of force."""
        return rs.RetireKeyResponse(receipt=await self._change_key(request, context, retired=True))

    @rpc
    async def PublishVocabulary(
        self, request: rs.PublishVocabularyRequest, context: Context
    ) -> rs.PublishVocabularyResponse:
        """Publish the next version of the vocabulary."""
        stated = read_statement(request, st.VocabularyStatement, self.attester(context))
        chain = codec.VOCABULARY_PREFIX + stated.message.vocabulary_id
        receipt = await self._publish(EntryKind.VOCABULARY, chain, stated, request, context)
        return rs.PublishVocabularyResponse(receipt=receipt)

    @rpc
    async def PublishNotice(self, request: rs.PublishNoticeRequest, context: Context) -> rs.PublishNoticeResponse:
        """Publish the next version of a notice."""
        stated = read_statement(request, st.NoticeStatement, self.attester(context))
        self._check_author(stated, stated.message.participant_id, request, context)
        chain = codec.NOTICE_PREFIX + stated.message.notice_id
        return rs.PublishNoticeResponse(receipt=await self._publish(EntryKind.NOTICE, chain, stated, request, context))

    @rpc
    async def PublishRules(self, request: rs.PublishRulesRequest, context: Context) -> rs.PublishRulesResponse:
        """Publish the next version of the realm's rules."""
        stated = read_statement(request, st.RulesStatement, self.attester(context))
        chain = codec.RULES_PREFIX + stated.message.realm_id
        return rs.PublishRulesResponse(receipt=await self._publish(EntryKind.RULES, chain, stated, request, context))

    @rpc
    async def PutDelegation(self, request: rs.PutDelegationRequest, context: Context) -> rs.PutDelegationResponse:
        """Record a delegation in place of the one of the same giver, taker and capacity."""
        return rs.PutDelegationResponse(receipt=await self._delegate(request, context, ended=False))

    @rpc
    async def EndDelegation(self, request: rs.EndDelegationRequest, context: Context) -> rs.EndDelegationResponse:
        """End a delegation."""
        return rs.EndDelegationResponse(receipt=await self._delegate(request, context, ended=True))

    @rpc
    async def ListDelegations(self, request: rs.ListDelegationsRequest, context: Context) -> rs.ListDelegationsResponse:
        """Read delegations, a page at a time."""
        if request.capacity not in st.DelegationCapacity.values():
            raise InvalidError(f"capacity is not one we know: `{request.capacity}`")
        if request.in_force_time_ms < 0:
            raise InvalidError("in_force_time_ms is negative")

        def selects(one: Delegation) -> bool:
            now_ms = request.in_force_time_ms
            is_of_capacity = request.capacity in (st.DELEGATION_CAPACITY_UNSPECIFIED, one.capacity)
            return request.taker in ("", one.taker) and is_of_capacity and (not now_ms or one.is_in_force(now_ms))

        pager = Pager(self.services.page_key, self.caller(context), request)
        await reach(self.services, request.consistency, context)
        listed, at = self._registry_at(pager)
        found = listed.delegations_after(at.position, request.giver)
        items = ((position, delegation_message(one) if selects(one) else None) for position, one in found)
        page, token, now = self._page(pager, listed, at, items)
        return rs.ListDelegationsResponse(delegations=page, revision=now, next_page_token=token)

    @rpc
    async def PutMandate(self, request: rs.PutMandateRequest, context: Context) -> rs.PutMandateResponse:
        """Record the mandate of an auditor in place of its earlier one."""
        return rs.PutMandateResponse(receipt=await self._mandate(request, context, ended=False))

    @rpc
    async def EndMandate(self, request: rs.EndMandateRequest, context: Context) -> rs.EndMandateResponse:
        """End the mandate of an auditor."""
        return rs.EndMandateResponse(receipt=await self._mandate(request, context, ended=True))

    @rpc
    async def EnrolSubject(self, request: rs.EnrolSubjectRequest, context: Context) -> rs.EnrolSubjectResponse:
        """Enrol a person: make a tag (the id of the person's chain) and append the first entry."""
        caller = self.caller(context)
        if request.method in (registry.BY_LAW, registry.BY_EMERGENCY):
            raise InvalidError(f"method is one that the daemon alone states: `{request.method}`")
        identifier_hash = self.identifier_hash(request.subject)
        if request.subject_key or request.possession:
            self._check_possession(request.subject_key, request.possession, _person_owner(request.subject))
        content = content_hash("EnrolSubject", identifier_hash, request.method, request.subject_key)
        if context.person is not None:
            caller = unenrolled_id(identifier_hash)  # so a repeat after the enrolment has the same caller
        write = registry.EnrolSubject(
            request=make_request(caller, request.request_id, content),
            # The vault stores tag and data key first. So a crash can leave an unused tag, but no ENROL without its key.
            tag=self.services.vault.create(identifier_hash),
            message=st.EnrolStatement(
                identifier_hash=identifier_hash,
                scheme=request.subject.scheme,
                attestation=attested(st.Attestation(method=request.method), self.attester(context)),
            ),
            subject_key=request.subject_key,
        )
        written, receipt = await self.write(write, request.wait_for, context)
        return rs.EnrolSubjectResponse(receipt=receipt, tag=written.answer)

    @rpc
    async def EraseSubject(self, request: rs.EraseSubjectRequest, context: Context) -> rs.EraseSubjectResponse:
        """Erase a person."""
        return await erase_subject(self, request, context)

    @rpc
    async def BatchEraseSubjects(
        self, request: rs.BatchEraseSubjectsRequest, context: Context
    ) -> rs.BatchEraseSubjectsResponse:
        """Erase many persons."""
        return await erase_subjects(self, request, context)

    @rpc
    async def ListDuties(self, request: rs.ListDutiesRequest, context: Context) -> rs.ListDutiesResponse:
        """List holds and erasures that are due, of all persons."""
        return await list_duties(self, request, context)

    @rpc
    async def PutHold(self, request: rs.PutHoldRequest, context: Context) -> rs.PutHoldResponse:
        """Put a legal hold on a person."""
        receipt, seq = await put_duty(self, request, context)
        return rs.PutHoldResponse(receipt=receipt, seq=seq)

    @rpc
    async def EndHold(self, request: rs.EndHoldRequest, context: Context) -> rs.EndHoldResponse:
        """End a legal hold."""
        receipt, _ = await put_duty(self, request, context)
        return rs.EndHoldResponse(receipt=receipt)

    @rpc
    async def GetHolds(self, request: rs.GetHoldsRequest, context: Context) -> rs.GetHoldsResponse:
        """Read the holds that forbid an erasure."""
        return await get_holds(self, request, context)

    @rpc
    async def GetParticipant(self, request: rs.GetParticipantRequest, context: Context) -> rs.GetParticipantResponse:
        """Read one participant, now or in an earlier tree."""
        await reach(self.services, request.consistency, context)
        if request.tree_size:
            earlier = EarlierRegistry(self.services, request.tree_size)
            response = earlier.participant(request.participant_id)
            response.revision.CopyFrom(earlier.revision)
            return response
        with self.services.table.read() as snapshot:
            found = snapshot.participant(request.participant_id)
            if found is None:
                raise NotFoundError(f"no such participant: `{request.participant_id}`: ListParticipants has the ids")
            keys = snapshot.keys_of(found.id)
            mandate = snapshot.registry().mandates.get(found.id)
            return rs.GetParticipantResponse(
                participant=found.statement, keys=keys, revision=_revision(snapshot),
                mandate=None if mandate is None else mandate.statement,
            )  # fmt: skip

    @rpc
    async def ListParticipants(
        self, request: rs.ListParticipantsRequest, context: Context
    ) -> rs.ListParticipantsResponse:
        """Read participants, a page at a time."""
        if request.role not in st.ParticipantRole.values():
            raise InvalidError(f"role is not one we know: `{request.role}`")
        if request.right not in st.ParticipantRight.values():
            raise InvalidError(f"right is not one we know: `{request.right}`")

        def selects(one: Participant) -> bool:
            return (
                request.role in (st.PARTICIPANT_ROLE_UNSPECIFIED, *one.roles)
                and request.right in (st.PARTICIPANT_RIGHT_UNSPECIFIED, *one.rights)
                and request.group in ("", *one.statement.groups)
                and (not request.HasField("active") or request.active == one.active)
            )

        pager = Pager(self.services.page_key, self.caller(context), request)
        await reach(self.services, request.consistency, context)
        listed, at = self._registry_at(pager)
        found = listed.participants_after(at.position)
        items = ((one.number, one.statement if selects(one) else None) for one in found)
        page, token, now = self._page(pager, listed, at, items)
        return rs.ListParticipantsResponse(participants=page, revision=now, next_page_token=token)

    @rpc
    async def GetVocabulary(self, request: rs.GetVocabularyRequest, context: Context) -> rs.GetVocabularyResponse:
        """Read the vocabulary in force, or that of an earlier tree."""
        await reach(self.services, request.consistency, context)
        with self.services.table.read() as snapshot:
            vocabulary, now = snapshot.vocabulary_statement(), _revision(snapshot)
        if request.tree_size:
            assert vocabulary is not None, "a ledger begins with a vocabulary"
            earlier = EarlierRegistry(self.services, request.tree_size)
            vocabulary = earlier.version(codec.VOCABULARY_PREFIX + vocabulary.vocabulary_id)
            now = earlier.revision
        return rs.GetVocabularyResponse(vocabulary=vocabulary, revision=now)

    @rpc
    async def GetNotice(self, request: rs.GetNoticeRequest, context: Context) -> rs.GetNoticeResponse:
        """Read one version of a notice, now or in an earlier tree."""
        await reach(self.services, request.consistency, context)
        if request.tree_size:
            earlier = EarlierRegistry(self.services, request.tree_size)
            notice = earlier.version(codec.NOTICE_PREFIX + request.notice_id, request.version)
            return rs.GetNoticeResponse(notice=notice, revision=earlier.revision)
        with self.services.table.read() as snapshot:
            found = find_notice(snapshot, request.notice_id, request.version)
            return rs.GetNoticeResponse(notice=found, revision=_revision(snapshot))

    @rpc
    async def GetCampaign(self, request: rs.GetCampaignRequest, context: Context) -> rs.GetCampaignResponse:
        """Count the consents under the versions of a notice."""
        return await get_campaign(self, request, context)

    @rpc
    async def GetRules(self, request: rs.GetRulesRequest, context: Context) -> rs.GetRulesResponse:
        """Read the rules in force, or those of an earlier tree."""
        await reach(self.services, request.consistency, context)
        with self.services.table.read() as snapshot:
            rules, now = snapshot.rules_statement(), _revision(snapshot)
        if request.tree_size:
            assert rules is not None, "a ledger begins with rules"
            earlier = EarlierRegistry(self.services, request.tree_size)
            rules, now = earlier.version(codec.RULES_PREFIX + rules.realm_id), earlier.revision
        return rs.GetRulesResponse(rules=rules, revision=now)

    async def _change_key(self, request: Any, context: Context, *, retired: bool) -> pb.Receipt:
        """Write a KEY entry of a participant or of a person."""
        stated, owner = read_statement(request, st.KeyStatement, self.attester(context)), request.participant_id
        _check_ends(stated.message.retired, expected=retired)
        if request.HasField("subject"):
            return await self._change_person_key(stated, request, context)
        self._check_author(stated, owner, request, context)
        if not retired:
            self._check_possession(stated.message.key, request.possession, participant_owner(owner))
        return await self._publish(EntryKind.KEY, PARTICIPANT_PREFIX + owner, stated, request, context)

    def _check_possession(self, key: bytes, possession: bytes, owner: str) -> None:
        """Check that *owner* has the private key of the new *key*. Raises ``InvalidError`` as ``check_possession``."""
        registry.check_possession(key, possession, origin=self.services.config.ledger.origin, owner=owner)

    async def _change_person_key(self, stated: Stated[st.KeyStatement], request: Any, context: Context) -> pb.Receipt:
        caller, name = self.caller(context), request.DESCRIPTOR.name.removesuffix("Request")
        if context.person is None:
            self.access(name, Whose.SUBJECT, context)
        identifier_hash, signed, entry = self.identifier_hash(request.subject), stated.signed, None
        if not stated.message.retired:
            is_own, subject = not stated.message.authority_seq, request.subject
            owner = _person_owner(subject) if is_own else representative_owner(subject.scheme, subject.value)
            self._check_possession(stated.message.key, request.possession, owner)
        content = content_hash(name, identifier_hash, stated.content)
        identity = make_request(caller, request.request_id, content)
        if signed is not None:
            identity = make_signed_request(caller, request.request_id, content, signer=signed.key)
            with self.services.table.read() as snapshot:
                tag = enrolled_tag(snapshot, identifier_hash)
            entry = self.signed_entry(EntryKind.KEY, tag, identity, signed)
        write = person_keys.ChangePersonKey(
            request=identity, identifier_hash=identifier_hash, message=stated.message, signed=entry
        )
        _, receipt = await self.write(write, request.wait_for, context)
        return receipt

    def _registry_at(self, pager: Pager) -> tuple[Registry, Cursor]:
        """Return the registry that all pages of a list read, and where the page begins.

        Raises:
            InvalidError, AbortedError: as ``Pager.cursor``; or (PAGE_EXPIRED) the registry of the first page is not
                kept any more.
        """
        with self.services.table.read() as snapshot:
            cursor = pager.cursor(snapshot.size)
            if cursor is None:
                present = snapshot.registry()
                return present, Cursor(0, snapshot.size, mark=present.generation)
            kept = snapshot.registry_of(cursor.mark)
        if kept is None:
            raise expired("participants, rules or delegations have changed")
        return kept, cursor

    def _page(
        self, pager: Pager, listed: Registry, at: Cursor, items: Iterable[tuple[int, M | None]]
    ) -> tuple[list[M], str, pb.Revision]:
        """Return the messages of a page, the token of the next page, and the revision. *items* are from *listed*."""
        page, last = take_page(items, pager.size)
        token = ""
        if last is not None:
            token = pager.token(at._replace(position=last))
            self.services.table.keep_listed(listed)
        return page, token, revision(at.tree_size, reads.root_at(self.services.ledger.store, at.tree_size))

    async def _delegate(self, request: Any, context: Context, *, ended: bool) -> pb.Receipt:
        """Write a DELEGATION entry."""
        stated = read_statement(request, st.DelegationStatement, self.attester(context))
        _check_ends(stated.message.ended, expected=ended)
        giver = stated.message.giver
        self._check_author(stated, giver, request, context)
        return await self._publish(EntryKind.DELEGATION, PARTICIPANT_PREFIX + giver, stated, request, context)

    async def _mandate(self, request: Any, context: Context, *, ended: bool) -> pb.Receipt:
        """Write a MANDATE entry."""
        stated = read_statement(request, st.MandateStatement, self.attester(context))
        _check_ends(stated.message.ended, expected=ended)
        self._check_author(stated, stated.message.giver, request, context)
        chain = PARTICIPANT_PREFIX + stated.message.auditor
        return await self._publish(EntryKind.MANDATE, chain, stated, request, context)

    def _check_author(self, stated: Stated[Any], author: str, request: Message, context: Context) -> None:
        """Check that the caller may write a statement that *author* signed, or that an operator attests.

        Raises:
            DeniedError: the caller is no operator, or not the author of the signed statement.
        """
        rpc_name = request.DESCRIPTOR.name.removesuffix("Request")
        self.access(rpc_name, Whose.OTHER if stated.signed is None else Whose.OWN, context)
        if stated.signed is not None:
            with self.services.table.read() as snapshot:
                check_author(snapshot, self.caller(context), author)

    async def _publish(
        self, kind: EntryKind, chain: str, stated: Stated[Any], request: Any, context: Context
    ) -> pb.Receipt:
        """Write an entry to a public chain, attested or signed by the caller; return its receipt."""
        caller, signed = self.caller(context), stated.signed
        content = content_hash(request.DESCRIPTOR.name, chain, stated.content)
        identity = make_request(caller, request.request_id, content)
        entry = None if signed is None else self.signed_entry(kind, codec.public_tag(chain), identity, signed)
        write = registry.PublicWrite(
            kind=kind, request=identity, chain=chain, message=stated.message, signed=entry,
            signer="" if signed is None else caller,
        )  # fmt: skip
        _, receipt = await self.write(write, request.wait_for, context)
        return receipt


def _person_owner(subject: pb.Subject) -> str:
    return person_owner(subject.scheme, subject.value)


def _check_ends(ends: bool, *, expected: bool) -> None:
    """Check that a statement ends what it is about if and only if the call does. Raises ``InvalidError``."""
    if ends and not expected:
        raise InvalidError("statement ends what this call begins; call the RPC that ends it")
    if expected and not ends:
        raise InvalidError("statement does not say that it ends what this call ends")


def _revision(snapshot: Snapshot) -> pb.Revision:
    return revision(snapshot.size, snapshot.root)
