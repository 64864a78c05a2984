"""Turn a question into masks, and masks back into codes.

A codebook is a vocabulary with the numbers and groups of participants, at one state of the table. It remembers, up to
a limit, the masks and numbers that it computed for parts of questions. It never holds an answer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from consentd.errors import InvalidError
from consentd.policy.model import BREAK_GLASS_PURPOSE, Actor, Obligation, Question
from consentd.policy.rows import ANY_NUMBER
from consentd.policy.vocabulary import Vocabulary

MAX_MEMO: Final = 65_536
"""Most entries of a memo. A full memo is emptied, so that unusual questions cannot make it grow."""
MAX_MEMO_KEY: Final = 512
"""Most characters in the key of a memo. For longer keys the value is computed each time."""

Numbers = frozenset[int]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Text = TypeVar("_Text", str, tuple[str, ...], tuple[str, str, str, str])


class Codebook:
    """Vocabulary, numbers and groups, with their inverses. Threads share it without a lock: each use of a memo is one
    dict operation (get, set, clear).

    Args:
        numbers: participant or group identifier → its number, 1 … 2³²-1; InvalidError if one is out of range.
        groups: participant identifier → identifiers of the groups it is a member of.
    """

    __slots__ = ("_actors", "_categories", "_codes", "_holders", "_numbers", "_sets", "groups", "names", "vocabulary")

    def __init__(
        self, vocabulary: Vocabulary, numbers: Mapping[str, int], groups: Mapping[str, Collection[str]] | None = None
    ) -> None:
        if not all(0 < number < 1 << 32 for number in numbers.values()):
            raise InvalidError("participant number is out of range")
        self.vocabulary: Final = vocabulary
        self.groups: Final = groups or {}
        self.names: Final = {number: name for name, number in numbers.items()}
        self._numbers: Final = numbers
        self._categories: Final[dict[tuple[str, ...], tuple[int, tuple[str, ...]]]] = {}
        self._actors: Final[dict[tuple[str, str, str, str], tuple[Numbers, Numbers]]] = {}
        self._holders: Final[dict[str, Numbers]] = {}
        self._sets: Final[dict[tuple[str, ...], int]] = {}
        self._codes: Final[dict[int, tuple[str, ...]]] = {0: ()}

    def codes(self, mask: int) -> tuple[str, ...]:
        """Return the leaf category codes of ``mask`` in vocabulary order."""
        found = self._codes.get(mask)
        if found is None:
            found = tuple(code for bit, code in enumerate(self.vocabulary.category.codes) if mask >> bit & 1)
            _remember(self._codes, mask, found)
        return found

    def categories(self, codes: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """Return the mask of the leaves that ``codes`` ask for, and the codes that are not in the vocabulary.

        Raises:
            InvalidError: EMPTY_CATEGORIES: no code.
        """
        found = self._categories.get(codes)
        if found is None:
            if not codes:
                raise InvalidError("question names no category", "EMPTY_CATEGORIES")
            closed = self.vocabulary.category.deny
            mask = 0
            for code in codes:
                mask |= closed.get(code, 0)
            found = mask, tuple(dict.fromkeys(code for code in codes if code not in closed))
            _remember_short(self._categories, codes, found)
        return found

    def labels(self, codes: tuple[str, ...]) -> int:
        """Return the labels of a question as a mask; InvalidError for a label that is not in the vocabulary."""
        mask = self._sets.get(codes)
        if mask is None:
            mask = 0
            for code in codes:
                bit = self.vocabulary.label.bits.get(code)
                if bit is None:
                    raise InvalidError(f"label is not in the vocabulary: `{code}`", "UNKNOWN_CODE")
                mask |= bit
            _remember_short(self._sets, codes, mask)
        return mask

    def actors(self, actor: Actor) -> tuple[Numbers, Numbers]:
        """Return the numbers that match in a permit, and those that match in a deny (rule 10).

        They include the actor's groups, and 0, which is in rows that name no participant. InvalidError without an
        organisation.
        """
        key = (actor.organisation, actor.on_behalf_of, actor.application, actor.relay)
        found = self._actors.get(key)
        if found is None:
            if not actor.organisation:
                raise InvalidError("question names no organisation")
            principal = self._counts_as(actor.on_behalf_of or actor.organisation)
            found = principal, principal.union(*(self._counts_as(name) for name in key if name))
            _remember_short(self._actors, key, found)
        return found

    def holders(self, holder: str) -> Numbers:
        """Return the numbers of a row's holder that match, including 0; InvalidError without a holder."""
        found = self._holders.get(holder)
        if found is None:
            if not holder:
                raise InvalidError("question names no holder")
            found = self._counts_as(holder)
            _remember_short(self._holders, holder, found)
        return found

    def _counts_as(self, name: str) -> Numbers:
        """Return the numbers of a participant and its groups, and 0. An unregistered participant has only 0."""
        names = (name, *self.groups.get(name, ()))
        return frozenset((ANY_NUMBER, *(self._numbers[known] for known in names if known in self._numbers)))


def _remember_short(memo: "dict[_Text, _Value]", key: "_Text", value: _Value) -> None:
    if sum(map(len, key)) <= MAX_MEMO_KEY:
        _remember(memo, key, value)


def _remember(memo: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    if len(memo) >= MAX_MEMO:
        memo.clear()
    memo[key] = value


@dataclass(slots=True, init=False)
class PackedQuestion:
    """A question as masks and sets of numbers, as ``evaluate`` needs it. It does not name the subject.

    Attributes:
        purpose, action, categories: one bit, one bit, and the mask of the leaves asked for.
        unknown: category codes that are not in the vocabulary.
        permit_actors, deny_actors, holders: participant numbers, see ``Codebook``.
        labels: mask; None: left open. Likewise resources, and data_period as (start, end).
        break_glass: whether the purpose is BTG, with a justification.
        residual: whether the caller enforces residuals and left something open.
        version: version of the vocabulary that the bits belong to.
    """

    action: int
    break_glass: bool
    categories: int
    data_period: tuple[int, int] | None
    deny_actors: Numbers
    holders: Numbers
    labels: int | None
    permit_actors: Numbers
    purpose: int
    residual: bool
    resources: frozenset[str] | None
    unknown: tuple[str, ...]
    version: int


def pack_question(question: Question, codebook: Codebook) -> PackedQuestion:
    """Turn a question into masks, and refuse an invalid question (rules 5 and 7).

    Raises:
        InvalidError: UNKNOWN_PURPOSE, UNKNOWN_ACTION, UNKNOWN_CODE (a label), EMPTY_CATEGORIES, BREAK_GLASS_SHAPE,
            or INVALID_REQUEST: no organisation, no holder, an empty set of resources or an empty data period.
    """
    vocabulary = codebook.vocabulary
    packed = PackedQuestion()
    try:
        packed.purpose = vocabulary.purpose.bits[question.purpose]
    except KeyError:
        raise InvalidError(f"purpose is not in the vocabulary: `{question.purpose}`", "UNKNOWN_PURPOSE") from None
    try:
        packed.action = vocabulary.action.bits[question.action]
    except KeyError:
        raise InvalidError(f"action is not in the vocabulary: `{question.action}`", "UNKNOWN_ACTION") from None
    packed.categories, packed.unknown = codebook.categories(question.categories)
    packed.break_glass = question.purpose == BREAK_GLASS_PURPOSE
    if packed.break_glass is not bool(question.break_glass):
        raise InvalidError("break_glass is present exactly when the purpose is BTG", "BREAK_GLASS_SHAPE")
    packed.permit_actors, packed.deny_actors = codebook.actors(question.actor)
    packed.holders = codebook.holders(question.holder)
    labels, resources, period = question.labels, question.resources, question.data_period
    packed.labels = None if labels is None else codebook.labels(labels)
    if resources is None:
        packed.resources = None
    elif resources:
        packed.resources = frozenset(resources)
    else:
        raise InvalidError("question states resources and names none")
    if period is None:
        packed.data_period = None
    elif period.start_ms < period.end_ms:
        packed.data_period = (period.start_ms, period.end_ms)
    else:
        raise InvalidError("data period ends before it starts")
    packed.residual = (labels is None or resources is None or period is None) and (
        Obligation.ENFORCE_RESIDUAL in question.supported_obligations
    )
    packed.version = vocabulary.version
    return packed
