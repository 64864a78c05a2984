"""Convert a question to bit masks, and bit masks back to codes.

A codebook joins a vocabulary with the numbers and groups of participants, as of one revision of the policy table. A
codebook caches computed masks and numbers, up to a limit. No answer is cached: a cached answer could miss a revocation.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from consentd.errors import InvalidError
from consentd.policy.model import BREAK_GLASS_PURPOSE, OPEN_END_MS, Obligation, Question
from consentd.policy.rows import ANY_NUMBER
from consentd.policy.vocabulary import Vocabulary

MAX_MEMO: Final = 65_536
"""Most entries of a memo (a cache of masks or numbers). A full memo is emptied, so a memo has bounded size."""
MAX_MEMO_KEY: Final = 512
"""Most characters in the key of a memo. A value with a longer key is computed for each use and not cached."""

Numbers = frozenset[int]
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Text = TypeVar("_Text", str, tuple[str, ...])


class Codebook:
    """Convert codes and identifiers to masks and numbers, and back. Threads share a codebook without a lock, because
    each access to a memo is one dict operation (get, set or clear).

    Args:
        numbers: participant or group identifier → its number. A number outside 1 … 2³²-1 raises InvalidError.
        groups: participant identifier → identifiers of the groups that the participant is a member of.
        abroad: identifiers of participants in another country. A permit covers them only by name (rule 8).
    """

    __slots__ = ("_abroad", "_categories", "_codes", "_names", "_numbers", "_sets", "groups", "names", "vocabulary")

    def __init__(
        self,
        vocabulary: Vocabulary,
        numbers: Mapping[str, int],
        groups: Mapping[str, Collection[str]] | None = None,
        *,
        abroad: Collection[str] = (),
    ) -> None:
        if not all(0 < number < 1 << 32 for number in numbers.values()):
            raise InvalidError("participant number is out of range")
        self.vocabulary: Final = vocabulary
        self.groups: Final = groups or {}
        self.names: Final = {number: name for name, number in numbers.items()}
        self._numbers: Final = numbers
        self._abroad: Final = frozenset(abroad)
        self._categories: Final[dict[tuple[str, ...], tuple[int, tuple[str, ...]]]] = {}
        self._names: Final[dict[str, Numbers]] = {}
        self._sets: Final[dict[tuple[str, ...], int]] = {}
        self._codes: Final[dict[int, tuple[str, ...]]] = {0: ()}

    def codes(self, mask: int) -> tuple[str, ...]:
        """Return the codes of the leaf categories in ``mask``, in the order of the vocabulary."""
        found = self._codes.get(mask)
        if found is None:
            found = tuple(code for bit, code in enumerate(self.vocabulary.category.codes) if mask >> bit & 1)
            remember(self._codes, mask, found)
        return found

    def categories(self, codes: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        """Return the mask of the leaf categories that ``codes`` contain, and the codes that are not in the vocabulary.

        Raises:
            InvalidError: EMPTY_CATEGORIES: ``codes`` is empty.
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
        """Return the mask of a question's security labels; InvalidError if a label is not in the vocabulary."""
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

    def numbers(self, name: str) -> Numbers:
        """Return the numbers with which rows match a participant: its own, those of its groups, and 0 (any)."""
        found = self._names.get(name)
        if found is None:
            names = (name, *self.groups.get(name, ()))
            found = frozenset((ANY_NUMBER, *(self._numbers[known] for known in names if known in self._numbers)))
            _remember_short(self._names, name, found)
        return found

    def permit_numbers(self, name: str) -> Numbers:
        """Return the numbers with which permits match the participant that data are for.

        A permit must name a participant abroad itself, so then this is the participant's own number alone.
        """
        return frozenset((self._numbers[name],)) if name in self._abroad else self.numbers(name)


def _remember_short(memo: "dict[_Text, _Value]", key: "_Text", value: _Value) -> None:
    if sum(map(len, key)) <= MAX_MEMO_KEY:
        remember(memo, key, value)


def remember(memo: dict[_Key, _Value], key: _Key, value: _Value, *, most: int = MAX_MEMO) -> None:
    """Add an item to a memo. A memo with *most* items is emptied first."""
    if len(memo) >= most:
        memo.clear()
    memo[key] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """The participants that a question is decided for (policy.md, rule 10; ``actor.determine_parties``).

    They are true from ``from_ms`` until ``until_ms``, UTC milliseconds: no delegation starts or ends between these.

    Attributes:
        permit_actors: numbers with which a permit matches: those of the participant acted for, else the organisation.
            Empty: no permit of any layer matches.
        deny_actors: numbers with which a deny matches: those of all participants that take part in the access.
        holders: numbers of the holder.
        sees_reasons: whether the caller may see the reasons of the answer.
        may_break_glass: whether the participants that want the data may ask for emergency access.
    """

    permit_actors: Numbers
    deny_actors: Numbers
    holders: Numbers
    sees_reasons: bool = False
    may_break_glass: bool = False
    from_ms: int = 0
    until_ms: int = OPEN_END_MS


@dataclass(slots=True, init=False)
class PackedQuestion:
    """A question as ``evaluate`` needs it: masks and sets of numbers. The subject (the person) is not part of it.

    Attributes:
        purpose, action, categories: masks of the one purpose, the one action, and the leaf categories asked for.
        unknown: category codes of the question that are not in the vocabulary.
        permit_actors, deny_actors, holders: participant numbers, as in ``Parties``.
        labels, resources, data_period: mask, references, (start, end). None: the question leaves the attribute open.
        break_glass: True if the purpose is BTG (emergency access). The question then has a justification.
        residual: True if labels, resources or data_period is open, and the caller can check conditions itself.
        until_ms: the next start or end of a delegation that the question depends on.
        version: version of the vocabulary that the masks belong to.
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
    until_ms: int
    version: int


def pack_question(question: Question, codebook: Codebook, parties: Parties) -> PackedQuestion:
    """Convert a question to masks, and refuse an invalid question (policy.md, rules 5 and 7).

    *parties* are those of the question. The names of participants in the question are not read here.

    Raises:
        InvalidError: UNKNOWN_PURPOSE, UNKNOWN_ACTION, UNKNOWN_CODE (a label), EMPTY_CATEGORIES, BREAK_GLASS_SHAPE (a
            justification without purpose BTG, or BTG without a justification), or INVALID_REQUEST (the stated
            resources or the stated period is empty).
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
    packed.permit_actors, packed.deny_actors = parties.permit_actors, parties.deny_actors
    packed.holders, packed.until_ms = parties.holders, parties.until_ms
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
