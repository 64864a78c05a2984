"""Answer questions from an earlier tree (``Consistency.at_exact``): would it have been permitted then?

What is true today decides whether the caller may ask: its rights, and its part in the access. What the earlier tree has
decides the answer: consents, vocabulary, rules, participants and delegations (policy.md, "From an earlier tree").

The entries are replayed in steps on the thread of a pool of their own, and callers take turns there. So a person with a
long chain keeps neither checks nor other callers of this module waiting.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

from consentd import limits
from consentd.core.identifier import check_identifier
from consentd.errors import ConsentdError, DeniedError, InvalidError, StorageError
from consentd.policy import actor, model
from consentd.policy.codebook import PackedQuestion
from consentd.service.answerer import Answerer, check_no_break_glass, check_size
from consentd.service.authorization import caller_kinds
from consentd.service.consistency import check_size_reached
from consentd.service.context import Context, NextStep
from consentd.service.roles import Access, Kind, Whose, access
from consentd.service.rpc import next_item
from consentd.service.servicer import Services
from consentd.statements import payloads
from consentd.table.earlier import EarlierTree, lost, public_chains
from consentd.table.registry import Registry
from consentd.table.view import Snapshot, View
from consentd.v1 import consent_pb2 as pb

MAX_ITEMS = limits.EXACT_BATCH_ITEMS
MAX_ENTRIES = limits.EXACT_ENTRIES

Asked = Sequence[tuple[pb.Question, pb.Subject]]
"""Questions, each with its person."""
Answer = pb.Decision | ConsentdError


async def answer_exactly(
    services: Services, asked: Asked, caller: str, consistency: pb.Consistency, context: Context,
    new_id: Callable[[], str],
) -> list[Answer]:  # fmt: skip
    """Answer each question from the tree and at the instant that *consistency* names, or with its own error.

    Raises:
        InvalidError: there are too many questions; or the ledger had no such tree, or not at that instant.
        DeniedError: the caller has neither right that this needs.
        NotFoundError: (PRUNED) the ledger has deleted what decisions from that tree rest on.
        OverloadedError: too many calls replay entries.
        NotReachedError: the table does not have that tree yet.
        StorageError: (CLOCK) the clock disagrees with the ledger, so it is not known which instants are past.
    """
    payloads.check_no_unknown_fields(consistency)
    if len(asked) > MAX_ITEMS:
        limit = f"its limit of {MAX_ITEMS} items"
        raise InvalidError(f"batch from an earlier tree is over {limit}: `{len(asked)}`", "TOO_LARGE")
    exact = consistency.at_exact
    with services.table.read() as snapshot:
        today = _Today.read(services, snapshot, caller)
        tree = _open_tree(services, exact, snapshot.size, today.now_ms)
        examined = [today.examine(snapshot, question, subject) for question, subject in asked]
    errors = [one for one in examined if isinstance(one, ConsentdError)]
    if len(errors) == len(asked):
        return [*errors]
    await _replay(tree, today.chains, {one for one in examined if isinstance(one, bytes)}, context)
    answerer = _EarlierAnswerer(services, tree.view(), today, exact.time_ms, new_id)
    answers: list[Answer] = []
    for (question, subject), found in zip(asked, examined, strict=True):
        next_item(context)
        answers.append(found if isinstance(found, ConsentdError) else answerer.try_answer(question, subject))
    return answers


def _open_tree(services: Services, exact: pb.ExactState, size: int, now_ms: int) -> EarlierTree:
    """Check that the ledger, whose table has *size* leaves, had this tree at this instant; return the tree.

    The tree may end within a batch: AuthorizeAccess decides from such trees too.
    """
    if not exact.tree_size:
        raise InvalidError("tree size is not stated; a tree of no leaves answers nothing")
    check_size_reached(exact.tree_size, size)
    tree = EarlierTree(services.ledger.store, services.vault, exact.tree_size)
    if not tree.time_ms <= exact.time_ms <= now_ms:
        raise InvalidError("instant is before the last entry of the tree, or not past yet")
    return tree


async def _replay(tree: EarlierTree, chains: list[bytes], tags: set[bytes], context: Context) -> None:
    count = tree.count([*chains, *tags])
    if count > MAX_ENTRIES:
        raise InvalidError(f"chains are over the limit of {MAX_ENTRIES} entries: `{count}`; ask for fewer", "TOO_LARGE")
    context.begin_replay()
    await NextStep()
    for _ in tree.replay([*chains, *sorted(tags)]):
        await NextStep()
        if not context.is_active():
            raise CancelledError


@dataclass(frozen=True, slots=True)
class _Today:
    """What the table says today of a caller that asks about an earlier tree.

    Attributes:
        chains: the public chains.
        last_erasure: leaf index of the last ERASURE; None: there is none.
    """

    services: Services
    caller: str
    kinds: frozenset[Kind]
    registry: Registry
    now_ms: int
    chains: list[bytes]
    last_erasure: int | None

    @classmethod
    def read(cls, services: Services, snapshot: Snapshot, caller: str) -> "_Today":
        """Raises ``DeniedError`` if the caller may ask nothing, ``StorageError`` if the clock is wrong."""
        now_ms = services.sequencer.leaf_clock.decision_ms(snapshot.time_ms)
        if now_ms is None:
            raise StorageError("clock disagrees with the ledger, so what is past is not known", "CLOCK")
        kinds = caller_kinds(snapshot, caller, now_ms)
        if all(access("Check", kinds, whose) is Access.DENIED for whose in (Whose.OWN_THEN, Whose.SUBJECT_THEN)):
            raise _refusal()
        chains, erased = public_chains(snapshot), snapshot.last_erasure()
        return cls(services, caller, kinds, snapshot.registry(), now_ms, chains, erased)

    def asker(self, question: pb.Question) -> actor.Participant:
        """Return the caller, if it may ask this question today.

        Raises:
            DeniedError: it lacks the right, or has no part in the access.
        """
        is_subject = question.actor.organisation == model.SUBJECT
        if access("Check", self.kinds, Whose.SUBJECT_THEN if is_subject else Whose.OWN_THEN) is Access.DENIED:
            raise _refusal()
        return self.registry.check_asker(self.caller, question, self.now_ms)

    def examine(self, snapshot: Snapshot, question: pb.Question, subject: pb.Subject) -> bytes | ConsentdError | None:
        """Return the person's tag today, None if the person is not enrolled, or the error that the question gets."""
        try:
            check_size(question.SerializeToString())
            check_no_break_glass(question)
            self.asker(question)
            check_identifier(subject.scheme, subject.value)
            identifier_hash = self.services.vault.identifier_hash(subject.scheme, subject.value)
            quotas = self.services.sequencer.quotas
            quotas.count_person(self.caller, identifier_hash, self.registry.quotas, now_ms=self.now_ms)
            return snapshot.tag_of(identifier_hash)
        except ConsentdError as error:
            return error


class _EarlierAnswerer(Answerer):
    """Answers the questions of one caller from an earlier tree. All its callers see every difference."""

    def __init__(
        self, services: Services, view: View, today: _Today, time_ms: int, new_id: Callable[[], str]
    ) -> None:
        super().__init__(services, view, today.caller, time_ms, new_id)
        self._counted = None  # the persons were counted when the questions were examined
        self._today = today

    def try_answer(self, question: pb.Question, subject: pb.Subject) -> Answer:
        """Return the decision on a question, or its error."""
        decision = pb.Decision()
        try:
            outcome = self.answer(decision, self.check(question), subject)
        except ConsentdError as error:
            return error
        self._metrics.decisions.inc(outcome.name, "exact")
        return decision

    def _pack(self, question: pb.Question, form: bytes, now_ms: int) -> PackedQuestion:
        return self._registry.pack(self._caller, question, form, now_ms, asker=self._today.asker(question))

    def _find(self, identifier_hash: bytes) -> bytes | None:
        tag = super()._find(identifier_hash)
        erased = self._today.last_erasure
        if tag is None and erased is not None and erased >= self._view.size:
            raise lost("persons were erased since, so who was not enrolled then is not known")
        return tag


def _refusal() -> DeniedError:
    return DeniedError("an earlier tree answers callers with SEE_REASONS, or with ACT_FOR_SUBJECTS as the person")
