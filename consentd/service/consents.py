"""Take what persons allow, change and withdraw: ConsentService."""

from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, NotFoundError
from consentd.ledger import reads
from consentd.policy.subject import Lineage
from consentd.sequencer.commands.consents import Amend, Change, Grant, GrantAnswer
from consentd.sequencer.commands.context import request_key, verify_ahead
from consentd.service.pages import Pager, page_length, page_size
from consentd.service.wire import Caller, Servicer, check_request_id, content_hash, revision, rpc
from consentd.statements import decisions, payloads
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import consent_service_pb2 as cs
from consentd.v1 import consent_service_pb2_grpc
from consentd.v1 import statement_pb2 as st

M = TypeVar("M", bound=Message)


class ConsentService(Servicer, consent_service_pb2_grpc.ConsentServiceServicer):
    """``consentd.v1.ConsentService``."""

    @rpc
    def GrantConsent(  # noqa: N802
        self, request: cs.GrantConsentRequest, context: grpc.ServicerContext
    ) -> cs.GrantConsentResponse:
        """Give a consent."""
        caller = self._acting(context)
        message, signed = self._stated(request, st.GrantStatement, caller)
        write = Grant(**self._base(EntryKind.GRANT, request, caller, message, signed), message=message)
        written = self.services.sequencer.submit(write).result()
        receipt = self.receipt(written, 0, request.wait_for, context)
        event = codec.decode_leaf(receipt.leaf)
        assert isinstance(event, codec.Event)
        response = cs.GrantConsentResponse(receipt=receipt)
        if event.kind == EntryKind.REFUSAL:
            response.refused.CopyFrom(self._refused(written.answer, event))
        else:
            response.consent_id, response.version = decisions.consent_id(event.tag, event.seq), 1
        return response

    @rpc
    def AmendConsent(  # noqa: N802
        self, request: cs.AmendConsentRequest, context: grpc.ServicerContext
    ) -> cs.AmendConsentResponse:
        """Replace a consent by its next version."""
        caller = self._acting(context)
        message, signed = self._stated(request, st.AmendStatement, caller)
        base = self._base(EntryKind.AMEND, request, caller, message, signed)
        base["content"] = content_hash(
            "AmendConsent", base["content"], request.consent_id, str(request.based_on_version)
        )
        write = Amend(
            **base,
            consent_id=consent_id(request.consent_id),
            based_on_version=request.based_on_version,
            message=message,
        )
        written = self.services.sequencer.submit(write).result()
        receipt = self.receipt(written, 0, request.wait_for, context)
        event = codec.decode_leaf(receipt.leaf)
        assert isinstance(event, codec.Event)
        response = cs.AmendConsentResponse(receipt=receipt)
        if event.kind == EntryKind.REFUSAL:
            response.refused.CopyFrom(self._refused(written.answer, event))
        else:
            response.version = request.based_on_version + 1
        return response

    @rpc
    def PauseConsent(  # noqa: N802
        self, request: cs.PauseConsentRequest, context: grpc.ServicerContext
    ) -> cs.PauseConsentResponse:
        """Suspend a consent."""
        return cs.PauseConsentResponse(receipt=self._change(request, EntryKind.PAUSE, st.PauseStatement(), context))

    @rpc
    def ResumeConsent(  # noqa: N802
        self, request: cs.ResumeConsentRequest, context: grpc.ServicerContext
    ) -> cs.ResumeConsentResponse:
        """End a pause."""
        return cs.ResumeConsentResponse(receipt=self._change(request, EntryKind.RESUME, st.ResumeStatement(), context))

    @rpc
    def RevokeConsent(  # noqa: N802
        self, request: cs.RevokeConsentRequest, context: grpc.ServicerContext
    ) -> cs.RevokeConsentResponse:
        """Withdraw a consent."""
        message = st.RevokeStatement(note=request.note)
        return cs.RevokeConsentResponse(receipt=self._change(request, EntryKind.REVOKE, message, context))

    @rpc
    def GetConsent(self, request: cs.GetConsentRequest, context: grpc.ServicerContext) -> cs.GetConsentResponse:  # noqa: N802
        """Read one consent."""
        self._acting(context)
        wanted = consent_id(request.consent_id)
        with self.services.table.read() as snapshot:
            tag = self.tag(snapshot, request.subject)
            lineages = snapshot.lineages(tag)
            size, root = snapshot.size, snapshot.root
        for lineage in lineages:
            if codec.consent_id(tag, lineage.lineage) == wanted:
                return cs.GetConsentResponse(record=self._record(tag, lineage), revision=revision(size, root))
        for record in self._revoked(tag, {lineage.lineage for lineage in lineages}):
            if record.consent_id == request.consent_id:
                return cs.GetConsentResponse(record=record, revision=revision(size, root))
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")

    @rpc
    def ListConsents(  # noqa: N802
        self, request: cs.ListConsentsRequest, context: grpc.ServicerContext
    ) -> cs.ListConsentsResponse:
        """Read a person's consents, newest lineage first."""
        caller = self._acting(context)
        size = page_size(request.page_size)
        pager = Pager(
            self.services.page_key, "ListConsents", caller, request.subject, str(request.include_revoked)
        )
        with self.services.table.read() as snapshot:
            tag = self.tag(snapshot, request.subject)
            lineages = snapshot.lineages(tag)
            tree_size, root = snapshot.size, snapshot.root
        before, pinned = pager.parse(request.page_token) if request.page_token else (1 << 62, tree_size)
        records = [self._record(tag, lineage) for lineage in lineages if lineage.lineage < before]
        if request.include_revoked:
            gone = self._revoked(tag, {lineage.lineage for lineage in lineages})
            records += [record for record in gone if record.lineage_seq < before]
        records.sort(key=lambda record: -record.lineage_seq)
        size = page_length(records, size)
        response = cs.ListConsentsResponse(records=records[:size], revision=revision(tree_size, root))
        if len(records) > size:
            response.next_page_token = pager.token(records[size - 1].lineage_seq, pinned)
        return response

    # -- steps ------------------------------------------------------------------------------------------------

    def _acting(self, context: grpc.ServicerContext) -> Caller:
        """Let only those pass who act for persons."""
        caller = self.caller(context)
        with self.services.table.read() as snapshot:
            self.require(snapshot, caller, st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS)
        return caller

    def _stated(self, request: Any, kind: type[M], caller: Caller) -> tuple[M, pb.SignedStatement | None]:
        """Return what a grant or an amendment states, in either form."""
        form = request.WhichOneof("statement")
        if form == "consent" and request.consent.ByteSize() > codec.MAX_PAYLOAD:
            # Told here, on the caller's own thread: making values of a million provisions takes seconds.
            raise InvalidError(f"consent is over its limit of {codec.MAX_PAYLOAD} bytes", "TOO_LARGE")
        if form == "consent":
            message: Any = kind()
            message.consent.CopyFrom(request.consent)
            message.attestation.attested_by, message.attestation.method = caller.id, request.method
            return message, None
        if form == "signed":
            return self._parse(kind, request.signed), request.signed
        raise InvalidError("request states no consent")

    def _parse(self, kind: type[M], signed: pb.SignedStatement) -> M:
        if len(signed.payload) > codec.MAX_PAYLOAD:
            raise InvalidError(f"payload is over its limit of {codec.MAX_PAYLOAD} bytes", "TOO_LARGE")
        try:
            message: Any = payloads.parse(kind, signed.payload)
        except MalformedError as error:
            raise InvalidError("signed statement does not decode") from error
        if message.HasField("attestation"):
            raise InvalidError("a statement its author signed names nobody who attests it")
        payloads.check_no_unknown_fields(message)
        return message  # type: ignore[no-any-return]  # parsed as *kind*

    def _base(
        self, kind: EntryKind, request: Any, caller: Caller, message: Message, signed: pb.SignedStatement | None
    ) -> dict[str, Any]:
        request_id = check_request_id(request.request_id)
        identifier_hash = self.identifier_hash(request.subject)
        return {
            "request_id": request_id,
            "request_key": request_key(caller.id, request_id),
            "content": content_hash(kind.name, identifier_hash, message, signed or b""),
            "asker": caller.id,
            "identifier_hash": identifier_hash,
            "signed": signed,
            "verified": self._verified(kind, identifier_hash, request_id, signed),
        }

    def _verified(
        self, kind: EntryKind, identifier_hash: bytes, request_id: bytes, signed: pb.SignedStatement | None
    ) -> bytes:
        if signed is None:
            return b""
        with self.services.table.read() as snapshot:
            tag = snapshot.tag_of(identifier_hash)
        if tag is None:
            raise NotFoundError("subject is not enrolled", "SUBJECT_NOT_FOUND")
        origin = self.services.config.ledger.origin
        return verify_ahead(origin=origin, kind=kind, tag=tag, request_id=request_id, signed=signed)

    def _change(
        self,
        request: Any,
        kind: EntryKind,
        message: st.PauseStatement | st.ResumeStatement | st.RevokeStatement,
        context: grpc.ServicerContext,
    ) -> pb.Receipt:
        caller = self._acting(context)
        signed = request.signed if request.HasField("signed") else None
        if signed is not None:
            message = self._parse(type(message), signed)
        else:
            message.attestation.attested_by, message.attestation.method = caller.id, request.method
        base = self._base(kind, request, caller, message, signed)
        base["content"] = content_hash(kind.name, base["content"], request.consent_id)
        write = Change(**base, kind=kind, consent_id=consent_id(request.consent_id), message=message)
        written = self.services.sequencer.submit(write).result()
        return self.receipt(written, 0, request.wait_for, context)

    def _refused(self, answer: GrantAnswer | None, event: codec.Event) -> cs.Refused:
        """Return why a consent was not taken; of a repeat, as it was recorded."""
        refused = None if answer is None else answer.refused
        if refused is None:
            refused = self._message(event.tag, event.seq, st.RefusalStatement)
        else:
            self.metrics.refusals.inc(f"R{refused.reason:02d}")
        return cs.Refused(reason=refused.reason, missing=refused.missing)

    def _message(self, tag: bytes, seq: int, kind: type[M]) -> M:
        entry = reads.read_entry(self.services.ledger.store, tag, seq)
        opened = reads.open_entry(self.services.vault, entry)
        if opened is None:
            raise NotFoundError("subject was erased", "SUBJECT_NOT_FOUND")
        return payloads.parse(kind, codec.decode_statement(opened[1]).payload)

    def _record(self, tag: bytes, lineage: Lineage) -> cs.ConsentRecord:
        first = reads.read_entry(self.services.ledger.store, tag, lineage.lineage)
        latest = reads.read_entry(self.services.ledger.store, tag, lineage.seq)
        message = self._message(tag, lineage.seq, _VERSION_KINDS[lineage.seq != lineage.lineage])
        return cs.ConsentRecord(
            consent_id=decisions.consent_id(tag, lineage.lineage),
            version=lineage.version,
            state=cs.CONSENT_STATE_PAUSED if lineage.paused else cs.CONSENT_STATE_ACTIVE,
            consent=message.consent,
            lineage_seq=lineage.lineage,
            seq=lineage.seq,
            grant_time_ms=first.event.time_ms,
            change_time_ms=latest.event.time_ms,
        )

    def _revoked(self, tag: bytes, stored: set[int]) -> list[cs.ConsentRecord]:
        """Read the withdrawn lineages from the person's chain: the table holds none of them."""
        records: dict[int, cs.ConsentRecord] = {}
        count, _ = self.services.ledger.head(tag)
        first = reads.first_whole(self.services.ledger.store, tag)
        for entry in reads.read_chain(self.services.ledger.store, tag, first, count):
            event = entry.event
            if entry.row is None:
                continue  # pruned, and with it all that was done to the same consent
            if event.kind == EntryKind.GRANT and event.seq not in stored:
                message = self._message(tag, event.seq, st.GrantStatement)
                records[event.seq] = cs.ConsentRecord(
                    consent_id=decisions.consent_id(tag, event.seq),
                    version=1,
                    state=cs.CONSENT_STATE_REVOKED,
                    consent=message.consent,
                    lineage_seq=event.seq,
                    seq=event.seq,
                    grant_time_ms=event.time_ms,
                )
            elif event.kind == EntryKind.AMEND:
                amended = self._message(tag, event.seq, st.AmendStatement)
                record = records.get(amended.lineage_seq)
                if record is not None:
                    record.consent.CopyFrom(amended.consent)
                    record.version, record.seq = amended.version, event.seq
            elif event.kind == EntryKind.REVOKE:
                record = records.get(self._message(tag, event.seq, st.RevokeStatement).lineage_seq)
                if record is not None:
                    record.change_time_ms = event.time_ms
        # A grant that came after the table was read is neither stored there nor withdrawn here.
        return [record for record in records.values() if record.change_time_ms]


_VERSION_KINDS: tuple[type[st.GrantStatement] | type[st.AmendStatement], ...] = (st.GrantStatement, st.AmendStatement)


def consent_id(text: str) -> bytes:
    """Return the bytes of a consent id.

    Raises:
        NotFoundError: it is not one.
    """
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != 16 or text != found.hex():
        raise NotFoundError("subject has no such consent", "CONSENT_NOT_FOUND")
    return found
