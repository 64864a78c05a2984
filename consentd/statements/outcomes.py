"""Compare the outcome of a transfer with its access: what was permitted, and who took part in it.

Source: policy.md, "What was transferred".

The daemon records an outcome whatever it states, because the transfer has happened. So its readers compare.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.message import Message

from consentd.core import codec
from consentd.errors import MalformedError
from consentd.statements import payloads
from consentd.statements.reporters import may_report, understood_parties
from consentd.v1 import consent_pb2 as pb
from consentd.v1 import statement_pb2 as st


def permitted_names(decision: pb.Decision, question: pb.Question) -> frozenset[str]:
    """Return the categories that an outcome may name, by the decision of its access.

    They are those that the decision permits. If it permits all that was asked for, they are also those of the question,
    because a question for a category with children asks for these children.
    """
    names = set(decision.permitted)
    if decision.outcome == pb.OUTCOME_PERMIT:
        names.update(question.categories)
    return frozenset(names)


def permitted_by(access: st.AccessStatement) -> frozenset[str]:
    """Return the categories that an outcome of this recorded access may name (``permitted_names``)."""
    question = pb.Question()
    with suppress(MalformedError):  # the decision alone counts then
        question = payloads.parse(pb.Question, access.asked.question)
    return permitted_names(access.decision, question)


def beyond_permit(outcome: st.OutcomeStatement, permitted: Iterable[str]) -> tuple[str, ...]:
    """Return the categories of an outcome that are not among *permitted*, each once, in the outcome's order."""
    names = frozenset(permitted)
    return tuple(dict.fromkeys(one for one in outcome.categories if one not in names))


@dataclass(frozen=True, slots=True)
class ComparedAccess:
    """What the outcomes of one access are compared with.

    Attributes:
        permitted: the categories that they may name.
        parties: the participants that may report them; None: this version does not understand all of the access.
    """

    permitted: frozenset[str]
    parties: frozenset[str] | None

    @classmethod
    def of(cls, access: st.AccessStatement) -> "ComparedAccess":
        return cls(permitted_by(access), understood_parties(access))


class OutcomeComparison:
    """Compares the outcomes of one chain or of many, as their entries are read in order. One thread owns it."""

    def __init__(self, most: int | None = None) -> None:
        """*most*: how many accesses to remember, the latest; None: all."""
        self._most = most
        self._accesses: OrderedDict[tuple[bytes, int], ComparedAccess] = OrderedDict()
        self._shared: dict[ComparedAccess, ComparedAccess] = {}  # most accesses permit the same as others, to the same

    def add(self, event: codec.Event, message: Message | None) -> tuple[str, ...] | None:
        """Add an entry. *message*: its payload; None: it cannot be read.

        Returns:
            The categories of an OUTCOME that its access did not permit; of other entries, none. None: its access was
            not added, or is not remembered any more.
        """
        if isinstance(message, st.AccessStatement):
            compared = ComparedAccess.of(message)
            self._accesses[event.tag, event.seq] = self._shared.setdefault(compared, compared)
            if self._most is not None and len(self._accesses) > self._most:
                self._accesses.popitem(last=False)
        if not isinstance(message, st.OutcomeStatement) or not message.categories:
            return ()
        access = self._accesses.get((event.tag, event.ref))
        return None if access is None else beyond_permit(message, access.permitted)

    def is_strangers(self, event: codec.Event, reporters: Collection[str]) -> bool:
        """Return whether none of *reporters* of an OUTCOME had a part in its access, as far as that is known."""
        access = self._accesses.get((event.tag, event.ref))
        if access is None or access.parties is None or not reporters:
            return False
        return not any(may_report(one, access.parties) for one in reporters)
