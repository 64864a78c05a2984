"""Stand where data changes hands: AccessService. Decide and record in one, then record what happened."""

import grpc

from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, NotFoundError, RequestError
from consentd.ledger import reads
from consentd.sequencer.commands.accesses import Authorize, Authorized, Outcome, Together
from consentd.sequencer.commands.context import request_key, verify_ahead
from consentd.sequencer.pool import Written
from consentd.service.pages import PAGE_BYTES, Pager, page_size
from consentd.service.policy import OUTCOMES, check_caller, check_size, reduced
from consentd.service.wire import (
    Caller,
    Servicer,
    check_batch,
    check_request_id,
    content_hash,
    revision,
    rpc,
)
from consentd.statements import decisions, payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import access_service_pb2_grpc
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


class AccessService(Servicer, access_service_pb2_grpc.AccessServiceServicer):
    """``consentd.v1.AccessService``."""

    @rpc
    def AuthorizeAccess(  # noqa: N802
        self, request: ac.AuthorizeAccessRequest, context: grpc.ServicerContext
    ) -> ac.AuthorizeAccessResponse:
        """Decide and record one access."""
        caller = self.caller(context)
        write, sees_reasons = self._authorize(request, caller, context)
        written = self.services.sequencer.submit(write).result()
        return self._authorized(written, sees_reasons, request.wait_for, context)

    @rpc
    def BatchAuthorizeAccesses(  # noqa: N802
        self, request: ac.BatchAuthorizeAccessesRequest, context: grpc.ServicerContext
    ) -> ac.BatchAuthorizeAccessesResponse:
        """Decide and record many accesses, each by itself."""
        caller = self.caller(context)
        check_batch(len(request.requests), self.services.config.grpc.max_batch_items)
        asked: list[tuple[Authorize, bool] | RequestError] = []
        for item in request.requests:
            try:
                asked.append(self._authorize(item, caller, context))
            except RequestError as error:
                asked.append(error)
        # Together and not one by one: they share a turn, and its sync.
        futures = iter(self.services.sequencer.submit_all([one[0] for one in asked if isinstance(one, tuple)]))
        response = ac.BatchAuthorizeAccessesResponse()
        for one in asked:
            result = response.results.add()
            if isinstance(one, RequestError):
                result.error.CopyFrom(self.item_error(one))
                continue
            try:
                answer = self._authorized(next(futures).result(), one[1], request.wait_for, context)
                result.response.CopyFrom(answer)
            except RequestError as error:
                result.error.CopyFrom(self.item_error(error))
        return response

    def _authorize(
        self, request: ac.AuthorizeAccessRequest, caller: Caller, context: grpc.ServicerContext
    ) -> tuple[Authorize, bool]:
        """Turn a request into a write; also tells whether the caller may see reasons."""
        request_id = check_request_id(request.request_id)
        asked = st.AskedQuestion(asker=caller.id, network_origin=request.network_origin or context.peer())
        tag = b""
        form = request.WhichOneof("asked")
        if form == "question":
            question = request.question
            asked.question = question.SerializeToString()
        elif form == "signed_question":
            signed = request.signed_question
            try:
                question = payloads.parse(pb.Question, signed.question)
            except MalformedError as error:
                raise InvalidError("signed question does not decode") from error
            asked.question, asked.key, asked.signature = signed.question, signed.key, signed.signature
            asked.author_time_ms, tag = signed.author_time_ms, signed.tag
        else:
            raise InvalidError("request asks no question")
        check_size(question)
        payloads.check_no_unknown_fields(question)
        if question.HasField("consistency"):
            raise InvalidError("an access is always decided at the latest state")
        with self.services.table.read() as snapshot:
            sees_reasons = check_caller(snapshot, caller, question)
        verified = b""
        if form == "signed_question":
            verified = verify_ahead(
                origin=self.services.config.ledger.origin,
                kind=codec.QUESTION_KIND,
                tag=tag,
                request_id=request_id,
                signed=asked,
            )
        write = Authorize(
            request_id=request_id,
            request_key=request_key(caller.id, request_id),
            content=content_hash("AuthorizeAccess", asked.question),
            asker=caller.id,
            identifier_hash=self.identifier_hash(question.subject),
            question=decisions.question_value(question),
            asked=asked,
            tag=tag,
            verified=verified,
        )
        return write, sees_reasons

    def _authorized(
        self,
        written: Written[Authorized],
        sees_reasons: bool,
        wait_for: int,
        context: grpc.ServicerContext,
    ) -> ac.AuthorizeAccessResponse:
        answer = written.answer
        metrics = self.metrics
        metrics.decisions.inc(OUTCOMES[answer.decision.outcome], "authorize")
        if written.recorded_index is None:
            metrics.unenrolled_questions.inc()
        elif not written.replayed and written.entries[0].event.kind == EntryKind.REFUSAL:
            metrics.refusals.inc("DECISION")
        response = ac.AuthorizeAccessResponse(decision=answer.decision if sees_reasons else reduced(answer.decision))
        if written.recorded_index is not None:
            response.receipt.CopyFrom(self.receipt(written, 0, wait_for, context))
            event = codec.decode_leaf(response.receipt.leaf)
            assert isinstance(event, codec.Event)
            response.access_seq = event.seq
        return response

    @rpc
    def RecordAccess(  # noqa: N802
        self, request: ac.RecordAccessRequest, context: grpc.ServicerContext
    ) -> ac.RecordAccessResponse:
        """Record what one transfer did."""
        caller = self.caller(context)
        written = self.services.sequencer.submit(self._outcome(request, caller)).result()
        return ac.RecordAccessResponse(receipt=self.receipt(written, 0, request.wait_for, context))

    @rpc
    def BatchRecordAccesses(  # noqa: N802
        self, request: ac.BatchRecordAccessesRequest, context: grpc.ServicerContext
    ) -> ac.BatchRecordAccessesResponse:
        """Record what many transfers did, all or none."""
        caller = self.caller(context)
        check_batch(len(request.requests), self.services.config.grpc.max_batch_items)
        together = Together(writes=tuple(self._outcome(item, caller) for item in request.requests))
        written = self.services.sequencer.submit(together).result()
        response = ac.BatchRecordAccessesResponse()
        appended = iter(written.entries)
        for recorded in written.answer:
            if recorded is None:
                entry = next(appended)
                index, leaf = entry.index, entry.leaf
            else:
                index, leaf = recorded, reads.read_leaf(self.services.ledger.store, recorded)
            response.receipts.append(
                self.receipt_of(
                    index, leaf, written.state, request.wait_for, context, replayed=recorded is not None
                )
            )
        return response

    def _outcome(self, request: ac.RecordAccessRequest, caller: Caller) -> Outcome:
        request_id = check_request_id(request.request_id)
        signed = None
        form = request.WhichOneof("statement")
        if form == "outcome":
            message = st.OutcomeStatement()
            message.CopyFrom(request.outcome)
            message.attestation.Clear()
            message.attestation.attested_by = caller.id
        elif form == "signed":
            signed = request.signed
            try:
                message = payloads.parse(st.OutcomeStatement, signed.payload)
            except MalformedError as error:
                raise InvalidError("signed outcome does not decode") from error
        else:
            raise InvalidError("request says no outcome")
        if signed is not None and message.HasField("attestation"):
            raise InvalidError("a statement its author signed names nobody who attests it")
        payloads.check_no_unknown_fields(message)
        if message.status not in st.TransferStatus.values() or not message.status:
            raise InvalidError(f"transfer status is not one we know: `{message.status}`")
        identifier_hash = self.identifier_hash(request.subject)
        tag = self._check_part(caller, identifier_hash, request.access_seq)
        verified = b""
        if signed is not None:
            verified = verify_ahead(
                origin=self.services.config.ledger.origin,
                kind=EntryKind.OUTCOME,
                tag=tag,
                request_id=request_id,
                signed=signed,
            )
        return Outcome(
            request_id=request_id,
            request_key=request_key(caller.id, request_id),
            content=content_hash(
                "RecordAccess", identifier_hash, str(request.access_seq), signed if signed is not None else message
            ),
            asker=caller.id,
            identifier_hash=identifier_hash,
            access_seq=request.access_seq,
            message=message,
            signed=signed,
            verified=verified,
        )

    def _check_part(self, caller: Caller, identifier_hash: bytes, seq: int) -> bytes:
        """Let only those tell how an access went that took part in it; returns the person's tag.

        Raises:
            NotFoundError: no such permitted access, or the caller has no part in it.
        """
        if seq > codec.MAX_SEQ:
            raise NotFoundError("no such permitted access of this subject")
        with self.services.table.read() as snapshot:
            tag = snapshot.tag_of(identifier_hash)
        try:
            entry = None if tag is None else reads.read_entry(self.services.ledger.store, tag, seq)
        except NotFoundError:
            entry = None
        if tag is not None and entry is not None and entry.event.kind == EntryKind.ACCESS:
            opened = reads.open_entry(self.services.vault, entry)
            if opened is not None:
                payload = codec.decode_statement(opened[1]).payload
                asked = payloads.parse(st.AccessStatement, payload).asked
                question = payloads.parse(pb.Question, asked.question)
                actor = question.actor
                parties = {asked.asker, question.holder, actor.organisation, actor.on_behalf_of, actor.application}
                if caller.is_operator or caller.id in parties | {actor.relay}:
                    return tag
        raise NotFoundError("no such permitted access of this subject")

    @rpc
    def ListAccesses(  # noqa: N802
        self, request: ac.ListAccessesRequest, context: grpc.ServicerContext
    ) -> ac.ListAccessesResponse:
        """Read who used a person's data, newest first."""
        caller = self.caller(context)
        size = page_size(request.page_size)
        with self.services.table.read() as snapshot:
            self.require(snapshot, caller, st.PARTICIPANT_RIGHT_ACT_FOR_SUBJECTS)
            tag = self.tag(snapshot, request.subject)
            tree_size, root = snapshot.size, snapshot.root
        pager = Pager(self.services.page_key, "ListAccesses", caller, request.subject)
        if request.page_token:
            before, tree_size = pager.parse(request.page_token)
            root = reads.root_at(self.services.ledger.store, tree_size)
        else:
            before = self.services.ledger.head(tag)[0] + 1
        response = ac.ListAccessesResponse(revision=revision(tree_size, root))
        outcomes: dict[int, list[st.OutcomeStatement]] = {}
        room = PAGE_BYTES
        # The chain is read backwards, an outcome stands behind its access, so it is met before it.
        for entry in reads.read_chain_back(self.services.ledger.store, tag, self.services.ledger.head(tag)[0]):
            if entry.index >= tree_size or entry.event.kind not in _LISTED:
                continue
            if entry.event.kind == EntryKind.OUTCOME:
                payload = self._payload(entry)
                if payload is not None:
                    outcomes.setdefault(entry.event.ref, []).append(payloads.parse(st.OutcomeStatement, payload))
                continue
            if entry.event.seq >= before:
                continue
            if len(response.accesses) == size or room <= 0:
                response.next_page_token = pager.token(response.accesses[-1].seq, tree_size)
                break
            record = _access_record(entry, self._payload(entry))
            if record is not None:
                record.outcomes.extend(reversed(outcomes.get(entry.event.seq, [])))
                response.accesses.append(record)
                room -= record.ByteSize()
        return response

    def _payload(self, entry: reads.Entry) -> bytes | None:
        opened = reads.open_entry(self.services.vault, entry)
        return None if opened is None else codec.decode_statement(opened[1]).payload


_LISTED = frozenset({EntryKind.ACCESS, EntryKind.REFUSAL, EntryKind.OUTCOME})


def _access_record(entry: reads.Entry, payload: bytes | None) -> ac.AccessRecord | None:
    """Return an ACCESS, or the REFUSAL of one, as a record; None for the refusal of a grant."""
    record = ac.AccessRecord(
        seq=entry.event.seq,
        index=entry.index,
        time_ms=entry.event.time_ms,
        refused=entry.event.kind == EntryKind.REFUSAL,
    )
    if payload is None:
        return record
    if record.refused:
        refusal = payloads.parse(st.RefusalStatement, payload)
        if not refusal.HasField("access"):
            return None
        access = refusal.access
    else:
        access = payloads.parse(st.AccessStatement, payload)
    record.question.CopyFrom(payloads.parse(pb.Question, access.asked.question))
    record.decision.CopyFrom(access.decision)
    record.asker, record.network_origin = access.asked.asker, access.asked.network_origin
    return record
