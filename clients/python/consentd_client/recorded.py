"""Compare a decision with the entry that records it: an old receipt of another access permits nothing.

A leaf shows the person's tag, the time and the consent that the decision relies on. The statement, which the leaf only
commits to, has the question and the request_id. Those who took part in a permitted access may read it.
"""

from consentd.core import codec
from consentd.errors import ConsentdError, MalformedError, ProofError
from consentd.statements import payloads
from consentd.v1 import access_service_pb2 as ac
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import ledger_service_pb2 as ls
from consentd.v1 import statement_pb2 as st
from consentd_client.answers import PERMITS
from consentd_client.operations import ClientContext, Operation, call
from consentd_client.receipts import Receipt, ReducedReceipt


def find_other_entry(decision: pb.Decision, receipt: ReducedReceipt | None, *, pinned_tag: bytes) -> ProofError | None:
    """Return an error if the leaf of *receipt* cannot be of the entry that records *decision*; otherwise None.

    *pinned_tag*: the person's tag in a signed question, 32 bytes; empty or zeros: none is pinned.
    """
    if receipt is None:
        return ProofError("decision has no receipt")
    if decision.outcome not in PERMITS:
        return None
    if not isinstance(receipt, Receipt):
        return ProofError("permit is recorded as a refusal")
    event = receipt.event
    if (event.tag, event.time_ms, event.ref) != (decision.tag, decision.decided_time_ms, decision.ref):
        return ProofError("receipt is for an entry of another decision")
    if pinned_tag.strip(b"\0") and event.tag != pinned_tag:
        return ProofError("receipt is for an entry of another person than the signed question pins")
    return None


def find_other_request(
    context: ClientContext, request: ac.AuthorizeAccessRequest, question: pb.Question, receipt: Receipt
) -> Operation[ConsentdError | None]:
    """Read the statement of an ACCESS entry; return an error if another request than *request* recorded it, else None.

    The index of a repeat's entry shows nothing, because the entry may be older than the repeat.
    """
    asking = ls.GetReceiptRequest(index=receipt.index, leaf=receipt.leaf, subject=question.subject)
    try:
        response = yield from call(context, asking, ls.GetReceiptResponse)
        statement, message = _open_access(receipt.event, response)
    except ConsentdError as error:
        return error
    asked = message.asked
    is_same = asked.question == request.signed_question.question and asked.key == request.signed_question.key
    if not request.HasField("signed_question"):
        is_same = pb.Question.FromString(asked.question) == question
    if statement.request_id != request.request_id or not is_same:
        return ProofError("receipt is for an entry of another request")
    return None


def _open_access(event: codec.Event, response: ls.GetReceiptResponse) -> tuple[codec.Statement, st.AccessStatement]:
    """Return the statement that *event* commits to, and its message.

    Raises:
        VerificationError: the statement is missing, is another one, or is malformed.
    """
    if not response.HasField("opening"):
        raise ProofError("statement of the repeated request is not available: ask with a new request_id")
    salt, content = response.opening.salt, response.opening.statement
    if len(salt) != len(codec.ZERO_HASH) or codec.commit(salt, content) != event.commit:
        raise ProofError("statement is not the one that the leaf commits to")
    statement = codec.decode_statement(content)
    message = payloads.decode_payload(event.kind, statement.payload)
    if not isinstance(message, st.AccessStatement):
        raise MalformedError("statement is of another kind than its leaf")
    return statement, message
