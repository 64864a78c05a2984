"""The state from which the daemon answers a call: the latest, one that has some entry, or an earlier one exactly.

    client.check(question, consistency=receipt)                  # the answer reflects the entry of this receipt
    client.get_consent(subject, consent_id, consistency=AtLeast(1200))
    client.check(question, consistency=AtExact(1200, time_ms))   # would it have been permitted then?
"""

from dataclasses import dataclass
from typing import TypeAlias

from consentd.errors import ProofError
from consentd.v1 import consent_pb2 as pb
from consentd_client.receipts import Receipt, ReducedReceipt


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The state reflects at least so many leaves. The daemon waits for it until the call's timeout, then refuses."""

    tree_size: int


@dataclass(frozen=True, slots=True)
class AtExact:
    """The state of the ledger's first *tree_size* leaves, at the instant *time_ms*, UTC milliseconds.

    A recorded decision has both: ``revision.tree_size`` and ``decided_time_ms``.
    """

    tree_size: int
    time_ms: int


Reached: TypeAlias = AtLeast | ReducedReceipt
"""A condition on the latest state: it has a size, or the entry of a receipt."""


def condition(consistency: "Reached | AtExact | None") -> pb.Consistency | None:
    """Return the condition as a field of a request; None: the latest state."""
    if consistency is None:
        return None
    if isinstance(consistency, AtExact):
        exact = pb.ExactState(tree_size=consistency.tree_size, time_ms=consistency.time_ms)
        return pb.Consistency(at_exact=exact)
    return pb.Consistency(at_least_tree_size=_least(consistency))


def find_other_state(consistency: "Reached | AtExact | None", decision: pb.Decision) -> ProofError | None:
    """Return an error if a decision is of another state than was asked for; otherwise None."""
    size = decision.revision.tree_size
    if isinstance(consistency, AtExact):
        if (size, decision.decided_time_ms) != (consistency.tree_size, consistency.time_ms):
            return ProofError("decision is of another tree or instant than asked for")
    elif consistency is not None and size < _least(consistency):
        return ProofError("decision is of an older state than asked for")
    return None


def _least(consistency: Reached) -> int:
    if isinstance(consistency, AtLeast):
        return consistency.tree_size
    return consistency.tree_size if isinstance(consistency, Receipt) else consistency.index + 1
