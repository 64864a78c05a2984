"""AccessService: decide and record an access in one call; after the transfer, record the transfer's outcome."""

from functools import partial

from consentd import limits
from consentd.core import codec
from consentd.core.kinds import EntryKind
from consentd.errors import InvalidError, MalformedError, NotFoundError, RequestError
from consentd.ledger import reads
from consentd.sequencer.commands import accesses
from consentd.sequencer.commands.callers import check_active
from consentd.sequencer.commands.write import SignedEntry, verify_ahead
from consentd.sequencer.pool import Written
from consentd.service import requests
from consentd.service.access_records import NO_ACCESS, AccessReader, parties_that_may_know, read_filter
from consentd.service.answerer import check_size
from consentd.service.consistency import check_reached, reach, reach_largest
from consentd.service.context import Context, Waiting
from consentd.service.due_transfers import list_due_transfers
from consentd.service.pages import NO_END_MS, Cursor, Deletions, Pager, take_page
from consentd.service.readings import record_readings
from consentd.service.roles import Access, Whose, access
from consentd.service.rpc import item_error, next_item, rpc
from consentd.service.servicer import Servicer, reduce_receipt, revision
from consentd.service.statements import Attester, read_statement
from consentd.statements import decisions, payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st

MAX_NETWORK_ORIGIN = limits.NETWORK_ORIGIN_BYTES


class AccessService(Servicer):
    """``consentd.v1.AccessService``."""

    @rpc
    async def AuthorizeAccess(self, request: ac.AuthorizeAccessRequest, context: Context) -> ac.AuthorizeAccessResponse:
        """Decide and record one access."""
        await reach(self.services, request.consistency, context)
        write = self._access(request, self.caller(context), context)
        (future,) = self.submit([write], context)
        return await self._authorized(await Waiting(future), request, request.wait_for, context)

    @rpc
    async def BatchAuthorizeAccesses(
        self, request: ac.BatchAuthorizeAccessesRequest, context: Context
    ) -> ac.BatchAuthorizeAccessesResponse:
        """Decide and record many accesses, each independently of the others."""
        caller = self.caller(context)
        self.check_batch(len(request.requests))
        conditions = (item.consistency for item in request.requests if item.HasField("consistency"))
        await reach_largest(self.services, conditions, context)
        writes: list[accesses.AuthorizeAccess | RequestError] = []
        for item in request.requests:
            next_item(context)
            try:
                _check_item(item)
                writes.append(self._access(item, caller, context))
            except RequestError as error:
                writes.append(error)
        # Writes that are submitted together share one batch, and so one sync of the disk.
        parsed = [write for write in writes if isinstance(write, accesses.AuthorizeAccess)]
        futures = iter(self.submit(parsed, context))
        response = ac.BatchAuthorizeAccessesResponse()
        answered_bytes = 0
        for item, write in zip(request.requests, writes, strict=True):
            result = response.results.add()
            try:
                if isinstance(write, RequestError):
                    raise write
                written = await Waiting(next(futures))
                result.response.CopyFrom(await self._authorized(written, item, request.wait_for, context))
                answered_bytes += result.ByteSize()
                if answered_bytes > requests.MAX_BATCH_ANSWER:
                    raise requests.batch_is_over(f"{requests.MAX_BATCH_ANSWER} bytes of answers")
            except RequestError as error:
                result.error.CopyFrom(item_error(self, "BatchAuthorizeAccesses", error, item, context))
        return response

    def _access(self, request: ac.AuthorizeAccessRequest, caller: str, context: Context) -> accesses.AuthorizeAccess:
        """Return the write for a request, after verifying a signed question's signature."""
        payloads.check_own_fields(request, request.signed_question)
        if request.HasField("consistency"):
            check_reached(self.services, request.consistency)
        if len(request.network_origin.encode()) > MAX_NETWORK_ORIGIN:
            raise InvalidError(f"network_origin is over its limit of {MAX_NETWORK_ORIGIN} bytes", "TOO_LARGE")
        asked = st.AskedQuestion(asker=caller, network_origin=request.network_origin or context.peer())
        signed: SignedEntry | None = None
        form = request.WhichOneof("asked")
        if form == "question":
            question = request.question
            encoded = question.SerializeToString()
            check_size(encoded)
            asked.question = encoded
        elif form == "signed_question":
            given = request.signed_question
            check_size(given.question)
            try:
                question = payloads.parse(pb.Question, given.question)
            except MalformedError as error:
                raise InvalidError("signed question does not decode") from error
            if len(given.tag) != len(codec.ZERO_HASH):
                raise InvalidError("tag of a signed question is not 32 bytes")
            asked.question, asked.key, asked.signature = given.question, given.key, given.signature
            asked.author_time_ms, asked.signed_tag = given.author_time_ms, given.tag
            time_ms = given.author_time_ms
            statement = codec.Statement(given.key, given.signature, request.request_id, time_ms, given.question)
            signed = SignedEntry(codec.QUESTION_KIND, given.tag, 0, statement)
        else:
            raise InvalidError("request asks no question")
        decisions.check_fields(question)
        # The hash is stored in the clear. Without the keyed hash in it, it would test who and what a question names.
        identifier_hash = self.identifier_hash(question.subject)
        content = requests.content_hash("AuthorizeAccess", identifier_hash, asked.question)
        return accesses.AuthorizeAccess(
            request=requests.make_request(caller, request.request_id, content),
            identifier_hash=identifier_hash,
            scheme=question.subject.scheme,
            question=decisions.question_value(question),
            asked=asked,
            signed=None if signed is None else verify_ahead(self.services.config.ledger.origin, signed),
        )

    async def _authorized(
        self, written: Written[accesses.AuthorizedAccess], request: ac.AuthorizeAccessRequest, wait_for: int,
        context: Context,
    ) -> ac.AuthorizeAccessResponse:
        """Count and log an access, and return the response to its request."""
        answer, entry = written.answer, written.entry
        self.metrics.decisions.inc(answer.outcome.name, "authorize")
        response = ac.AuthorizeAccessResponse(decision=answer.decision, current_decision=answer.current)
        assert entry is not None, "each decision is recorded"
        if not answer.is_enrolled:
            self.metrics.unenrolled_questions.inc()
        is_refusal = entry.event.kind != EntryKind.ACCESS
        if not written.replayed:
            names = partial(self.names_in, request)
            self.call_log.recorded("AuthorizeAccess", "DECISION", context, names, is_refusal=is_refusal)
        response.receipt.CopyFrom(await self.written_receipt(written, wait_for, context))
        if not is_refusal:
            response.access_seq = entry.event.seq
            return response
        if not written.replayed:
            self.metrics.refusals.inc("DECISION")
        response.receipt.CopyFrom(reduce_receipt(response.receipt))
        return response

    @rpc
    async def RecordAccess(self, request: ac.RecordAccessRequest, context: Context) -> ac.RecordAccessResponse:
        """Record the outcome of one data transfer."""
        _, receipt = await self.write(self._outcome(request, self.caller(context)), request.wait_for, context)
        return ac.RecordAccessResponse(receipt=receipt)

    @rpc
    async def BatchRecordAccesses(
        self, request: ac.BatchRecordAccessesRequest, context: Context
    ) -> ac.BatchRecordAccessesResponse:
        """Record the outcomes of many data transfers, all or none."""
        caller = self.caller(context)
        self.check_batch(len(request.requests))
        outcomes = []
        for item in request.requests:
            next_item(context)
            _check_item(item)
            outcomes.append(self._outcome(item, caller))
        (future,) = self.submit([accesses.RecordOutcomes(outcomes=tuple(outcomes))], context)
        written = await Waiting(future)
        response, appended = ac.BatchRecordAccessesResponse(), iter(written.entries)
        for recorded in written.answer:
            entry = next(appended) if recorded is None else recorded
            receipt = await self.receipt(entry.index, entry.leaf, written.state, request.wait_for, context)
            receipt.replayed = recorded is not None
            response.receipts.append(receipt)
        return response

    def _outcome(self, request: ac.RecordAccessRequest, caller: str) -> accesses.RecordOutcome:
        """Check the caller's part in the access, and the signature, if any; return the write for the request."""
        stated, entry = read_statement(request, st.OutcomeStatement, Attester(caller)), None
        message = stated.message
        if message.status not in st.TransferStatus.values() or not message.status:
            raise InvalidError(f"transfer status is unknown: `{message.status}`")
        identifier_hash = self.identifier_hash(request.subject)
        content = requests.content_hash("RecordAccess", identifier_hash, str(request.access_seq), stated.content)
        identity = requests.make_request(caller, request.request_id, content)
        services = self.services
        with services.table.read() as snapshot:
            check_active(snapshot, caller)
            tag = snapshot.tag_of(identifier_hash)
        tag = accesses.check_party(
            services.ledger.store, services.vault, tag, request.access_seq, caller, status=message.status
        )
        if stated.signed is not None:
            entry = self.signed_entry(EntryKind.OUTCOME, tag, identity, stated.signed)
        return accesses.RecordOutcome(
            request=identity,
            identifier_hash=identifier_hash,
            access_seq=request.access_seq,
            message=message,
            signed=entry,
        )

    @rpc
    async def GetAccess(self, request: ac.GetAccessRequest, context: Context) -> ac.GetAccessResponse:
        """Read one access to a person's data."""
        caller, services = self.caller(context), self.services
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            kinds = self.kinds(snapshot, context)
            # A person reads their own accesses alone (``check_own``).
            may_list = context.person is not None or access("GetAccess", kinds, Whose.OTHER) is Access.ALLOWED
            if may_list:
                tag = self.read_tag(snapshot, request.subject, request.authority_seq, context)
            else:
                tag = snapshot.tag_of(self.identifier_hash(request.subject)) or b""
            size, root = snapshot.size, snapshot.root
        reader = AccessReader(services.ledger.store, services.vault, tag, tree_size=size)
        if may_list:
            await record_readings(
                self, context, [tag], st.READ_SCOPE_ACCESSES, authority_seq=request.authority_seq
            )
        elif not tag or caller not in parties_that_may_know(reader.permitted(request.access_seq), kinds):
            raise NotFoundError(NO_ACCESS)
        return ac.GetAccessResponse(access=reader.find(request.access_seq), revision=revision(size, root))

    @rpc
    async def ListAccesses(self, request: ac.ListAccessesRequest, context: Context) -> ac.ListAccessesResponse:
        """Read the accesses to a person's data, newest first."""
        caller, services = self.caller(context), self.services
        selected, store = read_filter(request), services.ledger.store
        await reach(services, request.consistency, context)
        with services.table.read() as snapshot:
            tag = self.read_tag(snapshot, request.subject, request.authority_seq, context)
            size, root = snapshot.size, snapshot.root
        pager = Pager(services.page_key, caller, request, tag=tag)
        cursor = pager.cursor(size)
        await record_readings(
            self, context, [tag], st.READ_SCOPE_ACCESSES, authority_seq=request.authority_seq
        )
        deletions = Deletions(store, cursor)
        if cursor is None:
            count, _ = services.ledger.head(tag)
            has_end = selected.end_ms != NO_END_MS
            below = reads.first_seq_since(store, tag, selected.end_ms, count) if has_end else count + 1
            at = Cursor(below, size, mark=deletions.mark)
        else:
            at, root = cursor, reads.root_at(store, cursor.tree_size)
        reader = AccessReader(store, services.vault, tag, tree_size=at.tree_size)
        page, last = take_page(reader.list(selected, at.position, deletions), pager.size)
        token = "" if last is None else pager.token(at._replace(position=last))
        return ac.ListAccessesResponse(accesses=page, revision=revision(at.tree_size, root), next_page_token=token)

    @rpc
    async def ListDueTransfers(
        self, request: ac.ListDueTransfersRequest, context: Context
    ) -> ac.ListDueTransfersResponse:
        """List the transfers that are due from the caller."""
        return await list_due_transfers(self, request, context)


def _check_item(item: ac.AuthorizeAccessRequest | ac.RecordAccessRequest) -> None:
    """Check that an item of a batch leaves to the batch when the answer is sent. Raises ``InvalidError``."""
    if item.wait_for:
        raise InvalidError("item of a batch has a wait_for of its own: state the batch's")
