"""ConsentService: grant, amend, pause, resume, revoke and read the consents of a person."""

from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from consentd.core import codec, merkle
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, NotFoundError
from consentd.ledger import reads
from consentd.ledger.ledger import Appended
from consentd.metrics import GROUNDS
from consentd.policy.subject import Lineage
from consentd.sequencer.commands import consents
from consentd.sequencer.commands.callers import ACT_FOR_SUBJECTS, check_right
from consentd.sequencer.commands.served import RecordServed
from consentd.sequencer.commands.write import Request, SignedEntry, enrolled_tag
from consentd.sequencer.pool import Written
from consentd.service import requests
from consentd.service.consistency import reach
from consentd.service.context import Context
from consentd.service.readings import record_readings
from consentd.service.rpc import rpc
from consentd.service.servicer import Servicer, revision
from consentd.service.statements import Stated, read_attested, read_statement
from consentd.statements import decisions, payloads
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)
_STATES = frozenset(cs.ConsentState.values()) - {cs.CONSENT_STATE_UNSPECIFIED}
_UNREVOKED = _STATES - {cs.CONSENT_STATE_REVOKED}
Change = st.PauseStatement | st.ResumeStatement | st.RevokeStatement


class ConsentService(Servicer):
    """``consentd.v1.ConsentService``.

    Every call needs the right to act for persons; a write about a STATUTORY consent is a public authority's instead.
    """

    @rpc
    async def GrantConsent(self, request: cs.GrantConsentRequest, context: Context) -> cs.GrantConsentResponse:
        """Record a person's new consent."""
        caller = self.caller(context)
        stated, served = read_statement(request, st.GrantStatement, caller), _read_served(request, caller)
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
        stated, served = read_statement(request, st.AmendStatement, caller), _read_served(request, caller)
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
    async def RecordServed(self, request: cs.RecordServedRequest, context: Context) -> cs.RecordServedResponse:
        """Record that a notice was shown to a person."""
        caller = self.caller(context)
        stated = read_statement(request, st.ServedStatement, caller)
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
        wanted = parse_consent_id(request.consent_id)
        await reach(self.services, request.consistency, context)
        with self.services.table.read() as snapshot:
            tag = self.tag(snapshot, request.subject)
            lineages = snapshot.lineages(tag)
            size, root, now_ms = snapshot.size, snapshot.root, self._now_ms(snapshot)
        await record_readings(self, context, [tag], st.READ_SCOPE_CONSENTS)
        for lineage in lineages:
            if codec.consent_id(tag, lineage.lineage) == wanted:
                record = self._stored(tag, lineage, now_ms)
                return cs.GetConsentResponse(record=record, revision=revision(size, root))
        for record in self._revoked(tag, {lineage.lineage for lineage in lineages}):
            if record.consent_id == request.consent_id:
                return cs.GetConsentResponse(record=record, revision=revision(size, root))
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")

    @rpc
    async def ListConsents(self, request: cs.ListConsentsRequest, context: Context) -> cs.ListConsentsResponse:
        """Read a person's consents, newest lineage first."""
        caller = self.caller(context)
        states = set(request.states) or _UNREVOKED
        if request.include_revoked:
            states |= {cs.CONSENT_STATE_REVOKED}
        if not states <= _STATES:
            raise InvalidError(f"state is not one we know: `{max(states - _STATES)}`")
        selection = request.subject, str(sorted(states)), request.consistency
        pager = requests.Pager(self.services.page_key, "ListConsents", caller, request.page_size, *selection)
        await reach(self.services, request.consistency, context)
        with self.services.table.read() as snapshot:
            tag = self.tag(snapshot, request.subject)
            lineages = snapshot.lineages(tag)
            tree_size, root, now_ms = snapshot.size, snapshot.root, self._now_ms(snapshot)
        await record_readings(self, context, [tag], st.READ_SCOPE_CONSENTS)
        before, pinned = pager.parse(request.page_token) if request.page_token else (1 << 62, tree_size)
        records = [self._stored(tag, lineage, now_ms) for lineage in lineages if lineage.lineage < before]
        records = [record for record in records if record.state in states]
        if cs.CONSENT_STATE_REVOKED in states:
            gone = self._revoked(tag, {lineage.lineage for lineage in lineages})
            records += [record for record in gone if record.lineage_seq < before]
        records.sort(key=lambda record: -record.lineage_seq)
        page, more = requests.take_page(records, pager.size)
        token = pager.token(page[-1].lineage_seq, pinned) if more else ""
        return cs.ListConsentsResponse(records=page, revision=revision(tree_size, root), next_page_token=token)

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
            check_right(snapshot, asker, ACT_FOR_SUBJECTS)
            tag = enrolled_tag(snapshot, identifier_hash)
        return identity, identifier_hash, self.signed_entry(kind, tag, identity, signed)

    async def _served_receipt(
        self, request: cs.GrantConsentRequest | cs.AmendConsentRequest, written: Written[Any], context: Context
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

    async def _change(self, request: Any, kind: EntryKind, message_type: type[Change], context: Context) -> pb.Receipt:
        """Pause, resume or revoke a consent, with a statement of *message_type*."""
        caller = self.caller(context)
        stated = read_statement(request, message_type, caller)
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

    def _message(self, entry: reads.StoredEntry, message_type: type[M]) -> M:
        payload = self.payload(entry)
        if payload is None:
            raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
        return payloads.parse(message_type, payload)

    def _now_ms(self, snapshot: Snapshot) -> int:
        """Return the time of decisions; while the clock disagrees with the ledger, the time of the last entry."""
        return self.services.sequencer.leaf_clock.decision_ms(snapshot.time_ms) or snapshot.time_ms

    def _stored(self, tag: bytes, lineage: Lineage, now_ms: int) -> cs.ConsentRecord:
        """Return the record of a consent that is not withdrawn: its version in force. *lineage* is from the table."""
        first = reads.read_entry(self.services.ledger.store, tag, lineage.lineage)
        latest = reads.read_entry(self.services.ledger.store, tag, lineage.seq)
        record = self._record(first, latest, latest.event.time_ms)
        record.state = _state(record.consent.root.period, now_ms, paused=lineage.paused)
        record.paused = lineage.paused
        return record

    def _record(self, first: reads.StoredEntry, latest: reads.StoredEntry, change_ms: int) -> cs.ConsentRecord:
        """Return the record of a revoked consent, last changed at *change_ms*."""
        if latest.event.kind == EntryKind.GRANT:
            version, consent = 1, self._message(latest, st.GrantStatement).consent
        else:
            amended = self._message(latest, st.AmendStatement)
            version, consent = amended.version, amended.consent
        return cs.ConsentRecord(
            consent_id=decisions.consent_id(first.event.tag, first.event.seq),
            version=version,
            state=cs.CONSENT_STATE_REVOKED,
            consent=consent,
            lineage_seq=first.event.seq,
            seq=latest.event.seq,
            grant_time_ms=first.event.time_ms,
            change_time_ms=change_ms,
        )

    def _revoked(self, tag: bytes, stored: set[int]) -> list[cs.ConsentRecord]:
        """Return the records of revoked lineages: they are in the chain, but not in *stored*, the table's lineages."""
        store, found = self.services.ledger.store, []
        count, _ = self.services.ledger.head(tag)
        firsts: dict[int, reads.StoredEntry] = {}
        latest: dict[int, reads.StoredEntry] = {}
        for entry in reads.read_chain(store, tag, reads.first_after_gaps(store, tag), count):
            kind, seq = entry.event.kind, entry.event.seq
            if entry.row is None:
                continue  # this entry is pruned, and so is every later entry about the same consent
            if kind == EntryKind.GRANT and seq not in stored:
                firsts[seq] = latest[seq] = entry
            elif kind == EntryKind.AMEND:
                latest[self._message(entry, st.AmendStatement).lineage_seq] = entry
            elif kind == EntryKind.REVOKE:
                seq = self._message(entry, st.RevokeStatement).lineage_seq
                if seq in firsts:
                    found.append(self._record(firsts[seq], latest[seq], entry.event.time_ms))
        # A consent granted after *stored* was read is not in *stored*, but has no REVOKE entry. So it is not returned.
        return found


def _read_served(request: cs.GrantConsentRequest | cs.AmendConsentRequest, caller: str) -> st.ServedStatement | None:
    """Return the statement of the notice that was shown with a consent; None: none was. Raises ``InvalidError``."""
    if not request.HasField("served"):
        return None
    if request.HasField("signed"):
        raise InvalidError("a signed consent names a SERVED entry that is recorded: call RecordServed before")
    return read_attested(request.served, caller)


def _state(period: pb.Period, now_ms: int, *, paused: bool) -> "cs.ConsentState.ValueType":
    """Return the state of a consent that is not revoked. *period*: of its root; a time of 0 is open."""
    if period.end_time_ms and period.end_time_ms <= now_ms:
        return cs.CONSENT_STATE_ENDED
    if now_ms < period.start_time_ms:
        return cs.CONSENT_STATE_NOT_YET  # its denies do not count, so PAUSED would promise too much
    return cs.CONSENT_STATE_PAUSED if paused else cs.CONSENT_STATE_ACTIVE


def parse_consent_id(text: str) -> bytes:
    """Parse a consent id, 32 lower-case hex digits. Raises ``NotFoundError`` if *text* is no such id."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16 or text != found.hex():
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")
    return found
