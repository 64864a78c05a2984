"""ConsentService: write and read the consents of a person, and who may act for the person."""

from dataclasses import replace
from typing import Any

from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.core.possession import representative_owner
from consentd.errors import DeniedError, InvalidError, NotFoundError, PreconditionError
from consentd.ledger import reads
from consentd.ledger.ledger import Appended
from consentd.metrics import GROUNDS
from consentd.sequencer.commands import consents
from consentd.sequencer.commands.authorities import PutAuthority
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_acts_for, check_right, is_person
from consentd.sequencer.commands.registry import check_possession
from consentd.sequencer.commands.served import RecordServed
from consentd.sequencer.commands.write import Request, SignedEntry, enrolled_tag
from consentd.sequencer.pool import Written
from consentd.service import requests
from consentd.service.authorities import AuthorityReader
from consentd.service.campaigns import list_reconsents
from consentd.service.consent_records import ConsentReader, read_filter
from consentd.service.consistency import reach
from consentd.service.context import Context
from consentd.service.due_transfers import next_transfers
from consentd.service.expiring import list_expiring
from consentd.service.pages import Cursor, Deletions, Pager, take_page
from consentd.service.readings import record_readings
from consentd.service.rpc import rpc
from consentd.service.servicer import Servicer, revision
from consentd.service.statements import Attester, Stated, read_attested, read_statement
from consentd.statements import decisions
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

Change = st.PauseStatement | st.ResumeStatement | st.RevokeStatement
VersionRequest = cs.GrantConsentRequest | cs.AmendConsentRequest | cs.RenewConsentRequest


class ConsentService(Servicer):
    """``consentd.v1.ConsentService``.

    Every call needs the right to act for persons, or is the person's own; a write about a STATUTORY consent is a public
    authority's instead, and a public authority records too who may act for a person.
    """

    @rpc
    async def GrantConsent(self, request: cs.GrantConsentRequest, context: Context) -> cs.GrantConsentResponse:
        """Record a person's new consent."""
        caller = self.caller(context)
        attester = self.attester(context)
        stated, served = read_statement(request, st.GrantStatement, attester), _read_served(request, attester)
        identity, identifier_hash, entry = self._asked(EntryKind.GRANT, request, stated, caller, served=served)
        write = consents.GrantConsent(
            request=identity, identifier_hash=identifier_hash, signed=entry, message=stated.message, served=served
        )
        written, receipt = await self.write(write, request.wait_for, context)
        response = cs.GrantConsentResponse(
            receipt=receipt, refused=self._refused("GrantConsent", written, context),
            served_receipt=await self._served_receipt(request, written, context),
        )  # fmt: skip
        if written.entry is not None and written.answer.refusal is None:
            event = written.entry.event
            response.consent_id, response.version = decisions.consent_id(event.tag, event.seq), written.answer.version
        return response

    @rpc
    async def AmendConsent(self, request: cs.AmendConsentRequest, context: Context) -> cs.AmendConsentResponse:
        """Replace a consent by its next version."""
        caller = self.caller(context)
        attester = self.attester(context)
        stated, served = read_statement(request, st.AmendStatement, attester), _read_served(request, attester)
        more = request.consent_id, str(request.based_on_version)
        identity, identifier_hash, entry = self._asked(EntryKind.AMEND, request, stated, caller, *more, served=served)
        write = consents.AmendConsent(
            request=identity,
            identifier_hash=identifier_hash,
            signed=entry,
            consent_id=parse_consent_id(request.consent_id),
            based_on_version=request.based_on_version,
            message=stated.message,
            served=served,
        )
        written, receipt = await self.write(write, request.wait_for, context)
        version, refused = written.answer.version, self._refused("AmendConsent", written, context)
        shown = await self._served_receipt(request, written, context)
        return cs.AmendConsentResponse(receipt=receipt, version=version, refused=refused, served_receipt=shown)

    @rpc
    async def RenewConsent(self, request: cs.RenewConsentRequest, context: Context) -> cs.RenewConsentResponse:
        """Give a consent a later end."""
        caller = self.caller(context)
        attester = self.attester(context)
        stated, served = read_statement(request, st.AmendStatement, attester), _read_served(request, attester)
        if stated.message.HasField("consent"):
            raise InvalidError("renewal takes the consent from the version in force: leave it out, or amend it")
        ends = f"{request.end_time_ms} {request.retention_until_time_ms}"
        more = "renewal", request.consent_id, str(request.based_on_version), ends
        identity, identifier_hash, _ = self._asked(EntryKind.AMEND, request, stated, caller, *more, served=served)
        write = consents.RenewConsent(
            request=identity, identifier_hash=identifier_hash, message=stated.message, served=served,
            consent_id=parse_consent_id(request.consent_id), based_on_version=request.based_on_version,
            end_ms=request.end_time_ms, retention_until_ms=request.retention_until_time_ms,
        )  # fmt: skip
        written, receipt = await self.write(write, request.wait_for, context)
        version, refused = written.answer.version, self._refused("RenewConsent", written, context)
        shown = await self._served_receipt(request, written, context)
        return cs.RenewConsentResponse(receipt=receipt, version=version, refused=refused, served_receipt=shown)

    @rpc
    async def ListExpiring(self, request: cs.ListExpiringRequest, context: Context) -> cs.ListExpiringResponse:
        """List consents that end in a time span."""
        return await list_expiring(self, request, context)

    @rpc
    async def RecordServed(self, request: cs.RecordServedRequest, context: Context) -> cs.RecordServedResponse:
        """Record that a notice was shown to a person."""
        caller = self.caller(context)
        stated = read_statement(request, st.ServedStatement, self.attester(context))
        identity, identifier_hash, entry = self._asked(EntryKind.SERVED, request, stated, caller)
        write = RecordServed(
            request=identity, identifier_hash=identifier_hash, signed=entry, message=stated.message
        )
        _, receipt = await self.write(write, request.wait_for, context)
        return cs.RecordServedResponse(receipt=receipt)

    @rpc
    async def PauseConsent(self, request: cs.PauseConsentRequest, context: Context) -> cs.PauseConsentResponse:
        """Suspend a consent."""
        receipt = await self._change(request, EntryKind.PAUSE, st.PauseStatement, context)
        return cs.PauseConsentResponse(receipt=receipt)

    @rpc
    async def ResumeConsent(self, request: cs.ResumeConsentRequest, context: Context) -> cs.ResumeConsentResponse:
        """End a pause."""
        receipt = await self._change(request, EntryKind.RESUME, st.ResumeStatement, context)
        return cs.ResumeConsentResponse(receipt=receipt)

    @rpc
    async def RevokeConsent(self, request: cs.RevokeConsentRequest, context: Context) -> cs.RevokeConsentResponse:
        """Withdraw a consent."""
        receipt = await self._change(request, EntryKind.REVOKE, st.RevokeStatement, context)
        return cs.RevokeConsentResponse(receipt=receipt)

    @rpc
    async def GetConsent(self, request: cs.GetConsentRequest, context: Context) -> cs.GetConsentResponse:
        """Read one consent."""
        wanted, services = parse_consent_id(request.consent_id), self.services
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            tag = self.read_tag(snapshot, request.subject, request.authority_seq, context)
            size, root, now_ms = snapshot.size, snapshot.root, self._now_ms(snapshot)
            registry, realm = snapshot.registry(), _realm(snapshot)
            due = next_transfers(snapshot, tag, now_ms)
        await record_readings(
            self, context, [tag], st.READ_SCOPE_CONSENTS, authority_seq=request.authority_seq
        )
        reader = ConsentReader(
            services.ledger.store, services.vault, tag, tree_size=size, now_ms=now_ms, registry=registry, realm=realm
        )
        record = reader.find(wanted)
        record.next_transfer_time_ms = due.get(record.lineage_seq, 0)
        return cs.GetConsentResponse(record=record, revision=revision(size, root))

    @rpc
    async def ListConsents(self, request: cs.ListConsentsRequest, context: Context) -> cs.ListConsentsResponse:
        """Read a person's consents, newest lineage first."""
        caller, services = self.caller(context), self.services
        selected = read_filter(request)
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            tag = self.read_tag(snapshot, request.subject, request.authority_seq, context)
            root, first = snapshot.root, Cursor(codec.MAX_SEQ, snapshot.size, self._now_ms(snapshot))
            registry, realm = snapshot.registry(), _realm(snapshot)
            due = next_transfers(snapshot, tag, first.time_ms)
        pager = Pager(services.page_key, caller, request, tag=tag)
        cursor = pager.cursor(first.tree_size)
        await record_readings(
            self, context, [tag], st.READ_SCOPE_CONSENTS, authority_seq=request.authority_seq
        )
        store, deletions = services.ledger.store, Deletions(services.ledger.store, cursor)
        at = cursor or first._replace(mark=deletions.mark)
        reader = ConsentReader(
            store, services.vault, tag, tree_size=at.tree_size, now_ms=at.time_ms, registry=registry, realm=realm
        )
        page, last = take_page(reader.list(selected, at.position, deletions), pager.size)
        deletions.check_chain(tag)
        for record in page:
            record.next_transfer_time_ms = due.get(record.lineage_seq, 0)
        root = root if cursor is None else reads.root_at(store, at.tree_size)
        token = "" if last is None else pager.token(at._replace(position=last))
        return cs.ListConsentsResponse(records=page, revision=revision(at.tree_size, root), next_page_token=token)

    @rpc
    async def PutAuthority(self, request: cs.PutAuthorityRequest, context: Context) -> cs.PutAuthorityResponse:
        """Record who may act for a person."""
        written, receipt = await self._put_authority(request, 0, context)
        assert written.entry is not None, "an authority has an entry"
        return cs.PutAuthorityResponse(receipt=receipt, authority_seq=written.entry.event.seq)

    @rpc
    async def EndAuthority(self, request: cs.EndAuthorityRequest, context: Context) -> cs.EndAuthorityResponse:
        """End an authority."""
        _, receipt = await self._put_authority(request, request.authority_seq, context)
        return cs.EndAuthorityResponse(receipt=receipt)

    @rpc
    async def GetAuthority(self, request: cs.GetAuthorityRequest, context: Context) -> cs.GetAuthorityResponse:
        """Read one authority."""
        services = self.services
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            tag, size, root = self.tag(snapshot, request.subject), snapshot.size, snapshot.root
        await record_readings(self, context, [tag], st.READ_SCOPE_CONSENTS)
        if not 0 < request.authority_seq < codec.MAX_SEQ:
            raise NotFoundError("person has no such authority: see ListAuthorities")
        reader = AuthorityReader(services.ledger.store, services.vault, tag, tree_size=size)
        return cs.GetAuthorityResponse(record=reader.find(request.authority_seq), revision=revision(size, root))

    @rpc
    async def ListAuthorities(self, request: cs.ListAuthoritiesRequest, context: Context) -> cs.ListAuthoritiesResponse:
        """Read who may or could act for a person, newest first."""
        caller, services = self.caller(context), self.services
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            tag, root = self.tag(snapshot, request.subject), snapshot.root
            first = Cursor(codec.MAX_SEQ, snapshot.size)
        pager = Pager(services.page_key, caller, request, tag=tag)
        cursor = pager.cursor(first.tree_size)
        await record_readings(self, context, [tag], st.READ_SCOPE_CONSENTS)
        store, at = services.ledger.store, cursor or first
        reader = AuthorityReader(store, services.vault, tag, tree_size=at.tree_size)
        page, last = take_page(reader.list(request.participant_id, at.position), pager.size)
        root = root if cursor is None else reads.root_at(store, at.tree_size)
        token = "" if last is None else pager.token(at._replace(position=last))
        return cs.ListAuthoritiesResponse(
            records=page, revision=revision(at.tree_size, root), next_page_token=token
        )

    @rpc
    async def ListReconsents(self, request: cs.ListReconsentsRequest, context: Context) -> cs.ListReconsentsResponse:
        """List the consents that a version of a notice asks for again."""
        return await list_reconsents(self, request, context)

    # -- steps ------------------------------------------------------------------------------------------------

    def _asked(
        self, kind: EntryKind, request: Any, stated: Stated[Any], asker: str, *more: str,
        served: st.ServedStatement | None = None,
    ) -> tuple[Request, bytes, SignedEntry | None]:
        """Return the ``Request``, the hash of the person's identifier, and the signed statement; None: it is attested.

        The content hash of the request also covers *more* and *served*: the fields that only some requests have.
        """
        identifier_hash, signed = self.identifier_hash(request.subject), stated.signed
        shown = () if served is None else (served,)
        content = requests.content_hash(kind.name, identifier_hash, *more, stated.content, *shown)
        if signed is None:
            return requests.make_request(asker, request.request_id, content), identifier_hash, None
        identity = requests.make_signed_request(asker, request.request_id, content, signer=signed.key)
        with self.services.table.read() as snapshot:
            if not is_person(asker):
                check_right(snapshot, asker, ACT_FOR_SUBJECTS)
            tag = enrolled_tag(snapshot, identifier_hash)
            check_acts_for(snapshot, asker, tag)
        return identity, identifier_hash, self.signed_entry(kind, tag, identity, signed)

    async def _served_receipt(
        self, request: VersionRequest, written: Written[Any], context: Context
    ) -> pb.Receipt | None:
        """Return the receipt of the SERVED entry that a request recorded before its consent; None: it recorded none."""
        recorded = written.entry
        if not request.HasField("served") or recorded is None:
            return None
        if written.entries:
            shown = written.entries[0]
        else:  # a repeat: the two entries follow each other
            found = reads.read_entry(self.services.ledger.store, recorded.event.tag, recorded.event.seq - 1)
            shown = Appended(found.index, found.event, found.leaf, merkle.leaf_hash(found.leaf))
        return await self.written_receipt(replace(written, entry=shown), request.wait_for, context)

    async def _put_authority(
        self, request: cs.PutAuthorityRequest | cs.EndAuthorityRequest, ref: int, context: Context
    ) -> tuple[Written[None], pb.Receipt]:
        """Put an authority, or end the one of entry *ref*."""
        caller = self.caller(context)
        stated = read_statement(request, st.AuthorityStatement, self.attester(context))
        possession = request.possession if isinstance(request, cs.PutAuthorityRequest) else b""
        if stated.message.key or possession:
            owner = representative_owner(request.subject.scheme, request.subject.value)
            origin = self.services.config.ledger.origin
            check_possession(stated.message.key, possession, origin=origin, owner=owner)
        if isinstance(request, cs.EndAuthorityRequest) and not 0 < ref <= codec.MAX_SEQ:
            raise PreconditionError("person has no such authority", "UNKNOWN_AUTHORITY")
        identity, identifier_hash, entry = self._asked(EntryKind.AUTHORITY, request, stated, caller, str(ref))
        write = PutAuthority(
            request=identity, identifier_hash=identifier_hash, signed=entry, message=stated.message, ref=ref
        )
        return await self.write(write, request.wait_for, context, urgent=bool(ref))

    async def _change(self, request: Any, kind: EntryKind, message_type: type[Change], context: Context) -> pb.Receipt:
        """Pause, resume or revoke a consent, with a statement of *message_type*."""
        caller = self.caller(context)
        stated = read_statement(request, message_type, self.attester(context))
        identity, identifier_hash, entry = self._asked(kind, request, stated, caller, request.consent_id)
        write = consents.ChangeConsent(
            request=identity,
            identifier_hash=identifier_hash,
            signed=entry,
            kind=kind,
            consent_id=parse_consent_id(request.consent_id),
            message=stated.message,
        )
        # What takes a permission away is recorded before other writes, and even if the caller has gone.
        _, receipt = await self.write(write, request.wait_for, context, urgent=kind is not EntryKind.RESUME)
        return receipt

    def _refused(self, rpc_name: str, written: Written[consents.ConsentAnswer], context: Context) -> cs.Refused | None:
        """Return why a consent was refused; count and log the refusal. None: the consent was not refused."""
        refusal = written.answer.refusal
        if refusal is None:
            return None
        if not written.replayed:
            self.metrics.refusals.inc(refusal.reason if refusal.reason in GROUNDS else "other")
            self.call_log.recorded(rpc_name, refusal.reason, context, dict, is_refusal=True)
        return cs.Refused(reason=refusal.reason, missing=refusal.missing)

    def _now_ms(self, snapshot: Snapshot) -> int:
        """Return the time of decisions; while the clock disagrees with the ledger, the time of the last entry."""
        return self.services.sequencer.leaf_clock.decision_ms(snapshot.time_ms) or snapshot.time_ms


def _read_served(
    request: VersionRequest, attester: Attester
) -> st.ServedStatement | None:
    """Return the statement of the notice that was shown with a consent; None: none was.

    Raises:
        InvalidError: the consent is signed, or as ``read_attested``.
        DeniedError: the caller is a person.
    """
    if not request.HasField("served"):
        return None
    if request.WhichOneof("statement") == "signed":
        raise InvalidError("a signed consent names a SERVED entry that is recorded: call RecordServed before")
    if attester.login is not None:
        raise DeniedError("that a notice was shown is stated by a participant that showed it, and not by the person")
    return read_attested(request.served, attester)


def _realm(snapshot: Snapshot) -> str:
    """Return the id of the realm, whose chain has the rules."""
    rules = snapshot.rules_statement()
    return "" if rules is None else rules.realm_id


def parse_consent_id(text: str) -> bytes:
    """Parse a consent id, 32 lower-case hex digits. Raises ``NotFoundError`` if *text* is no such id."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16 or text != found.hex():
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")
    return found
