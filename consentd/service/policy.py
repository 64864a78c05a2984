"""PolicyService: answer questions, and record nothing: from one snapshot of the table, or from an earlier tree."""

import os
from itertools import count

from consentd.errors import ConsentdError, InvalidError, OverloadedError
from consentd.policy import model
from consentd.policy.codebook import PackedQuestion
from consentd.service import requests
from consentd.service.answerer import WORK, Answerer, answer_undetermined
from consentd.service.consistency import reach
from consentd.service.context import Context
from consentd.service.exact import Answer, Asked, answer_exactly
from consentd.service.rpc import item_error, next_item, rpc_or
from consentd.service.servicer import Servicer, ServiceState
from consentd.statements import payloads
from consentd.table.view import Snapshot
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import policy_service_pb2 as ps


class PolicyService(Servicer):
    """``consentd.v1.PolicyService``."""

    def __init__(self, service_state: ServiceState) -> None:
        super().__init__(service_state)
        # The id of an unrecorded decision is a random prefix and a counter: it must be unique, but not secret. Each id
        # is made in one step of the interpreter, so that no two threads get the same.
        self._new_id = map((os.urandom(8).hex() + "{:016x}").format, count()).__next__

    def _check_undetermined(self, request: ps.CheckRequest, context: Context) -> ps.CheckResponse | None:
        """Answer a Check while a row that all checks share is damaged; None if it asks about an earlier tree."""
        if request.consistency.HasField("at_exact"):
            return None
        response, question = ps.CheckResponse(), request.question
        outcome = self._answer_undetermined(response.decision, question, question.subject)
        self.metrics.decisions.inc(outcome.name, "check")
        return response

    def _batch_undetermined(self, request: ps.BatchCheckRequest, context: Context) -> ps.BatchCheckResponse | None:
        """Do as ``_check_undetermined`` for a batch."""
        if request.consistency.HasField("at_exact"):
            return None
        response = ps.BatchCheckResponse()
        for question, subject in self._asked(request):
            result = response.results.add()
            try:
                outcome = self._answer_undetermined(result.decision, question, subject)
                self.metrics.decisions.inc(outcome.name, "batch")
            except ConsentdError as error:
                result.error.CopyFrom(item_error(self, "BatchCheck", error, question, context))
        return response

    def _answer_undetermined(self, message: pb.Decision, question: pb.Question, subject: pb.Subject) -> model.Outcome:
        now_ms = self.services.sequencer.clock.wall_ms()
        return answer_undetermined(message, question, subject, now_ms=now_ms, decision_id=self._new_id())

    @rpc_or(_check_undetermined)
    async def Check(self, request: ps.CheckRequest, context: Context) -> ps.CheckResponse:
        """Answer one question."""
        caller = self.caller(context)
        question = request.question
        response = ps.CheckResponse()
        if request.HasField("consistency"):
            consistency = request.consistency
            if consistency.HasField("at_exact"):
                asked = [(question, question.subject)]
                (answer,) = await answer_exactly(self.services, asked, caller, consistency, context, self._new_id)
                if isinstance(answer, ConsentdError):
                    raise answer
                response.decision.CopyFrom(answer)
                return response
            await reach(self.services, consistency, context)
        with self.services.table.read() as snapshot:
            answerer = self._answerer(snapshot, caller)
            outcome = answerer.answer(response.decision, answerer.check(question), question.subject)
        self.metrics.decisions.inc(outcome.name, "check")
        return response

    @rpc_or(_batch_undetermined)
    async def BatchCheck(self, request: ps.BatchCheckRequest, context: Context) -> ps.BatchCheckResponse:
        """Answer many questions, each independently, all from one snapshot of the table or one earlier tree."""
        caller = self.caller(context)
        asked = self._asked(request)
        if request.consistency.HasField("at_exact"):
            answers = await answer_exactly(self.services, asked, caller, request.consistency, context, self._new_id)
            return self._collect(asked, answers, context)
        await reach(self.services, request.consistency, context)
        return self._answer(asked, caller, is_shared=request.HasField("shared"), context=context)

    def _collect(self, asked: Asked, answers: list[Answer], context: Context) -> ps.BatchCheckResponse:
        """Return the response with answers from an earlier tree, as many as it may hold."""
        response = ps.BatchCheckResponse()
        answered_bytes = 0
        for (question, _), answer in zip(asked, answers, strict=True):
            result = response.results.add()
            try:
                if isinstance(answer, ConsentdError):
                    raise answer
                result.decision.CopyFrom(answer)
                answered_bytes += result.ByteSize()
                if answered_bytes > requests.MAX_BATCH_ANSWER:
                    raise _too_many_bytes()
            except ConsentdError as error:
                result.error.CopyFrom(item_error(self, "BatchCheck", error, question, context))
        return response

    def _asked(self, request: ps.BatchCheckRequest) -> Asked:
        """Return the questions of a batch, each with its person. Raises ``InvalidError``."""
        if request.HasField("each"):
            payloads.check_own_fields(request.each)
            self.check_batch(len(request.each.questions))
            return [(question, question.subject) for question in request.each.questions]
        if not request.HasField("shared"):
            raise InvalidError("request asks nothing: it has neither `each` nor `shared`")
        payloads.check_own_fields(request.shared)
        self.check_batch(len(request.shared.subjects))
        shared = request.shared.question
        if not request.shared.HasField("question") or shared.HasField("subject"):
            raise InvalidError("a shared question is required, and has no subject of its own")
        return [(shared, subject) for subject in request.shared.subjects]

    def _answer(self, asked: Asked, caller: str, *, is_shared: bool, context: Context) -> ps.BatchCheckResponse:
        """Answer a batch from one snapshot. *is_shared*: all ask the same question, which is then checked once."""
        response = ps.BatchCheckResponse()
        outcomes = [0] * (max(model.Outcome) + 1)
        answered_bytes = 0
        packed: PackedQuestion | None = None
        with self.services.table.read() as snapshot:
            answerer = self._answerer(snapshot, caller)
            for question, subject in asked:
                if answerer.work >= WORK:
                    answerer.work = 0
                    next_item(context)
                result = response.results.add()
                try:
                    if packed is None or not is_shared:
                        packed = answerer.check(question)
                    outcome = answerer.answer(result.decision, packed, subject)
                    answered_bytes += result.ByteSize()
                    if answered_bytes > requests.MAX_BATCH_ANSWER:
                        raise _too_many_bytes()
                    outcomes[outcome] += 1
                except ConsentdError as error:
                    result.error.CopyFrom(item_error(self, "BatchCheck", error, question, context))
        for number, times in enumerate(outcomes):
            if times:
                self.metrics.decisions.inc(model.Outcome(number).name, "batch", by=times)
        return response

    def _answerer(self, snapshot: Snapshot, caller: str) -> Answerer:
        """Return what answers the questions of *caller* from *snapshot*, at the time of the ledger's clock."""
        now_ms = self.services.sequencer.leaf_clock.decision_ms(snapshot.time_ms)
        return Answerer(self.services, snapshot, caller, now_ms, self._new_id)


def _too_many_bytes() -> OverloadedError:
    """Return the error of an item whose answer does not fit into the answer of its batch (BATCH_LIMIT)."""
    return requests.batch_is_over(f"{requests.MAX_BATCH_ANSWER} bytes of answers")
