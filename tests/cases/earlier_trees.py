"""Ask about an earlier tree of a ``LedgerCase``, as PolicyService does, without a daemon."""

from itertools import count
from types import SimpleNamespace
from typing import Any

from cases.ledgers import LedgerCase
from consentd.errors import ConsentdError
from consentd.service.exact import answer_exactly
from consentd.table.earlier import EarlierTree, public_chains
from consentd.table.view import View
from consentd.v1 import consent_pb2 as pb


class FakeCall:
    """The context of a call that nobody cancels."""

    def __init__(self) -> None:
        self.has_moved = False

    def begin_replay(self) -> None:
        self.has_moved = True

    def is_active(self) -> bool:
        return True

    def give_way(self) -> None:
        pass


def earlier_view(case: LedgerCase, size: int, *tags: bytes) -> View:
    """Return the rows of an earlier tree that decide about the persons of these tags."""
    assert case.table is not None
    with case.table.read() as snapshot:
        chains = public_chains(snapshot)
    tree = EarlierTree(case.ledger.store, case.vault, size)
    for _ in tree.replay([*chains, *tags]):
        pass
    return tree.view()


def at_exact(size: int, time_ms: int) -> pb.Consistency:
    return pb.Consistency(at_exact=pb.ExactState(tree_size=size, time_ms=time_ms))


def ask_earlier(
    case: LedgerCase, question: pb.Question, caller: str, consistency: pb.Consistency, subject: pb.Subject
) -> pb.Decision:
    """Return the decision; raise its error."""
    ids, call = count(1), FakeCall()
    context: Any = call
    services: Any = SimpleNamespace(
        table=case.table, ledger=case.ledger, vault=case.vault, sequencer=case.sequencer, metrics=case.metrics
    )
    asked = [(question, subject)]
    answering = answer_exactly(services, asked, caller, consistency, context, lambda: f"{next(ids):032x}")
    while True:
        try:
            answering.send(None)
        except StopIteration as ended:
            (answer,) = ended.value
            if isinstance(answer, ConsentdError):
                raise answer from None
            assert call.has_moved
            return answer
