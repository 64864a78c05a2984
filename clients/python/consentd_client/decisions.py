"""Read decisions so that nothing but a clear PERMIT can be taken for one.

Whatever is missing, contradicts itself, or is of a later version than this client comes out as INDETERMINATE, which
is a refusal. The reason why stands beside it.
"""

from dataclasses import dataclass

from consentd.core.kinds import EntryKind
from consentd.errors import ConsentdError, ProofError
from consentd.v1 import consent_pb2 as pb
from consentd_client.receipts import Receipt


@dataclass(frozen=True, slots=True, repr=False)
class Checked:
    """The answer to a question. True exactly when all that was asked for may flow.

    Attributes:
        decision: as it came, or one whose outcome is INDETERMINATE.
        error: why it could not be told; None: the daemon decided.
    """

    decision: pb.Decision
    error: ConsentdError | None = None

    @property
    def outcome(self) -> "pb.Outcome.ValueType":
        """How it came out."""
        return self.decision.outcome

    @property
    def outcome_name(self) -> str:
        """The outcome's name without its prefix: ``PERMIT``, ``NO_CONSENT`` …"""
        return pb.Outcome.Name(self.decision.outcome).removeprefix("OUTCOME_")

    def __bool__(self) -> bool:
        return self.decision.outcome == pb.OUTCOME_PERMIT

    def __repr__(self) -> str:
        # A decision names consents, so a repr has the outcome alone.
        return f"{type(self).__name__}({self.outcome_name}, error={self.error!r})"


@dataclass(frozen=True, slots=True, repr=False)
class Authorized(Checked):
    """The answer to a question that was decided and recorded in one. True exactly when all may flow.

    Attributes:
        receipt: of the ACCESS or REFUSAL; None: the person is not enrolled, or it could not be told.
        access_seq: the ACCESS entry's seq in the person's chain, for ``record_access``; 0: none.
    """

    receipt: Receipt | None = None
    access_seq: int = 0


def indeterminate() -> pb.Decision:
    """Return the decision of a question that could not be answered: a refusal that names nothing."""
    return pb.Decision(outcome=pb.OUTCOME_INDETERMINATE)


def failed(error: ConsentdError) -> Checked:
    """Return the answer to a question that could not be answered."""
    return Checked(indeterminate(), error)


def read_decision(question: pb.Question, decision: pb.Decision) -> Checked:
    """Read a decision; one that could be misread comes out as INDETERMINATE, with the reason."""
    fault = find_fault(question, decision)
    return Checked(decision) if fault is None else failed(fault)


def find_fault(question: pb.Question, decision: pb.Decision) -> ProofError | None:
    """Return what makes a decision unusable; None: nothing does."""
    if decision.outcome not in pb.Outcome.values() or not decision.outcome:
        return ProofError("decision has no outcome that is known here")
    if decision.outcome not in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL):
        return None
    refused = decision.denied or decision.without_consent or decision.unknown
    if not decision.permitted or bool(refused) == (decision.outcome == pb.OUTCOME_PERMIT):
        return ProofError("decision contradicts its own categories")
    for obligation in decision.obligations:
        if obligation not in pb.Obligation.values() or not obligation:
            return ProofError("decision has an obligation that is not known here")
    if pb.OBLIGATION_ENFORCE_RESIDUAL in decision.obligations:
        if pb.OBLIGATION_ENFORCE_RESIDUAL not in question.supported_obligations:
            return ProofError("decision has an obligation that the question does not support")
        if not decision.residual:
            return ProofError("decision asks for a residual to be enforced, and has none")
    elif decision.residual:
        return ProofError("decision has a residual without the obligation to enforce it")
    return None


def find_record_fault(decision: pb.Decision, receipt: Receipt | None) -> ProofError | None:
    """Return why a permit may not be acted on for want of its record: no receipt, no data."""
    if decision.outcome not in (pb.OUTCOME_PERMIT, pb.OUTCOME_PARTIAL):
        return None
    if receipt is None:
        return ProofError("permit has no receipt")
    if receipt.kind != EntryKind.ACCESS:
        # A repeat may be permitted now though what is recorded is a refusal: then this transfer has no ACCESS.
        return ProofError("permit is recorded as a refusal; ask again with a new request_id")
    return None
