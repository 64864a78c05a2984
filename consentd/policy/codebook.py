"""Convert a question to bit masks, and bit masks back to codes.

A codebook joins a vocabulary with the numbers and groups of participants, as of one revision of the policy table. A
codebook caches computed masks and numbers, up to a limit. No answer is cached: a cached answer could miss a revocation.

A permit states all codes that it covers, and a deny states only those that it names (``rows``). So a packed question
has each mask twice: for permits the codes asked for, and for denies these codes and all codes above them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from consentd.errors import InvalidError
from consentd.policy.justification import check_justification
from consentd.policy.model import BREAK_GLASS_PURPOSE, OPEN_END_MS, Membership, Obligation, Question
from consentd.policy.rows import ANY_NUMBER
from consentd.policy.vocabulary import LEVEL_NUMBERS, REFERENCE, Sensitivity, Vocabulary, unknown_level

MAX_MEMO: Final = 65_536
"""Most entries of a memo (a cache of masks or numbers). A full memo is emptied, so a memo has bounded size."""
MAX_MEMO_KEY: Final = 512
"""Most characters in the key of a memo. A value with a longer key is computed for each use and not cached."""

_ACCESS, _COLLECT = "access", "collect"

Numbers = frozenset[int]
Windows = tuple[tuple[int, int], ...]
"""Leaf indexes: a participant was a member of a group from the first until, not including, the second."""

Groups = Mapping[int, Windows]
"""Number of a group → when a participant, or one of several participants, was a member of it."""

NO_GROUPS: Final[Groups] = {}
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Text = TypeVar("_Text", str, tuple[str, ...])


class AskedLeaves(NamedTuple):
    """The leaf categories that a question asks for.

    Attributes:
        mask: the leaves asked for.
        deny_mask: these leaves, and all categories above them.
        parents: (bit, leaves asked for that are below it) of each category above them.
        sensitivities: the leaves asked for by their labels and levels.
        unknown: category codes of the question that are not in the vocabulary.
    """

    mask: int
    deny_mask: int
    parents: tuple[tuple[int, int], ...]
    sensitivities: tuple[Sensitivity, ...]
    unknown: tuple[str, ...]


class Codebook:
    """Convert codes and identifiers to masks and numbers, and back. Threads share a codebook without a lock, because
    each access to a memo is one dict operation (get, set or clear).

    Args:
        numbers: participant or group identifier → its number. A number outside 1 … 2³²-1 raises InvalidError.
        memberships: participant identifier → when it was a member of which group.
        abroad: identifiers of participants in another country. A permit covers them only by name (rule 10).

    Attributes:
        actions: action → its masks, for permits and for denies.
        transfers: the actions that are a transfer (rule 13): ``collect`` and the codes below it.
        names: number → identifier.
    """

    __slots__ = (
        "_codes", "_groups", "_labels", "_leaves", "_names", "_numbers", "abroad", "actions", "memberships", "names",
        "transfers", "vocabulary",
    )  # fmt: skip

    def __init__(
        self,
        vocabulary: Vocabulary,
        numbers: Mapping[str, int],
        memberships: Mapping[str, Sequence[Membership]] | None = None,
        *,
        abroad: Collection[str] = (),
    ) -> None:
        if not all(0 < number < 1 << 32 for number in numbers.values()):
            raise InvalidError("participant number is out of range")
        self.vocabulary: Final = vocabulary
        self.memberships: Final = memberships or {}
        self.names: Final = {number: name for name, number in numbers.items()}
        self._numbers: Final = numbers
        self.abroad: Final = frozenset(abroad)
        self.actions: Final = _action_masks(vocabulary)
        collect = vocabulary.action.bits.get(_COLLECT, 0)
        self.transfers: Final = frozenset(code for code, above in vocabulary.action.above.items() if above & collect)
        self._leaves: Final[dict[tuple[str, ...], AskedLeaves]] = {}
        self._names: Final[dict[str, Numbers]] = {}
        self._groups: Final[dict[str, Groups]] = {}
        self._labels: Final[dict[tuple[str, ...], tuple[int, int]]] = {}
        self._codes: Final[dict[int, tuple[str, ...]]] = {0: ()}

    def codes(self, mask: int) -> tuple[str, ...]:
        """Return the codes of the categories in ``mask``, in the order of the vocabulary."""
        found = self._codes.get(mask)
        if found is None:
            found = tuple(code for bit, code in enumerate(self.vocabulary.category.codes) if mask >> bit & 1)
            remember(self._codes, mask, found)
        return found

    def leaves(self, codes: tuple[str, ...]) -> AskedLeaves:
        """Return the leaf categories that ``codes`` stand for.

        Raises:
            InvalidError: EMPTY_CATEGORIES: ``codes`` is empty.
        """
        found = self._leaves.get(codes)
        if found is None:
            if not codes:
                raise InvalidError("question names no category", "EMPTY_CATEGORIES")
            found = _asked_leaves(self.vocabulary, codes)
            _remember_short(self._leaves, codes, found)
        return found

    def labels(self, codes: tuple[str, ...]) -> tuple[int, int]:
        """Return the masks of a question's security labels, for permits and for denies.

        Raises:
            InvalidError: UNKNOWN_CODE.
        """
        found = self._labels.get(codes)
        if found is None:
            mask = above = 0
            label = self.vocabulary.label
            for code in codes:
                if code not in label.bits:
                    raise InvalidError(f"label is not in the vocabulary: `{code}`", "UNKNOWN_CODE")
                mask |= label.bits[code]
                above |= label.above[code]
            found = mask, above
            _remember_short(self._labels, codes, found)
        return found

    def numbers(self, name: str) -> Numbers:
        """Return the numbers with which rows match a participant, besides those of groups: its own, and 0 (any)."""
        found = self._names.get(name)
        if found is None:
            number = self._numbers.get(name)
            found = frozenset((ANY_NUMBER,) if number is None else (ANY_NUMBER, number))
            _remember_short(self._names, name, found)
        return found

    def groups(self, name: str) -> Groups:
        """Return the groups of a participant."""
        found = self._groups.get(name)
        if found is None:
            windows: dict[int, Windows] = {}
            for one in self.memberships.get(name, ()):
                number = self._numbers.get(one.group)
                if number is not None:
                    windows[number] = (*windows.get(number, ()), (one.start, one.end))
            found = windows
            _remember_short(self._groups, name, found)
        return found

    def permit_numbers(self, name: str) -> Numbers:
        """Return the numbers with which permits match the participant that data are for.

        A permit must name a participant abroad itself, so then this is the participant's own number alone.
        """
        return frozenset((self._numbers[name],)) if name in self.abroad else self.numbers(name)

    def permit_groups(self, name: str) -> Groups:
        """Return the groups with which permits match the participant that data are for: none if it is abroad."""
        return NO_GROUPS if name in self.abroad else self.groups(name)


def _asked_leaves(vocabulary: Vocabulary, codes: tuple[str, ...]) -> AskedLeaves:
    category = vocabulary.category
    mask = 0
    for code in codes:
        mask |= category.below.get(code, 0)
    mask &= vocabulary.leaves
    parents = tuple(
        (bit, category.below[code] & mask)
        for code, bit in category.bits.items()
        if not vocabulary.leaves & bit and category.below[code] & mask
    )
    return AskedLeaves(
        mask,
        mask | sum(bit for bit, _ in parents),
        parents,
        tuple(one._replace(leaves=one.leaves & mask) for one in vocabulary.sensitivities if one.leaves & mask),
        tuple(dict.fromkeys(code for code in codes if code not in category.bits)),
    )


def _action_masks(vocabulary: Vocabulary) -> dict[str, tuple[int, int]]:
    """Return the masks of each action, for permits and for denies. A deny of access denies collect too (rule 6)."""
    action = vocabulary.action
    collect = action.bits.get(_COLLECT, 0)
    return {
        code: (bit, action.above[code] | (action.above.get(_ACCESS, 0) if action.above[code] & collect else 0))
        for code, bit in action.bits.items()
    }


def merged(*several: Groups) -> Groups:
    """Return the groups of several participants."""
    found: dict[int, Windows] = {}
    for groups in several:
        for number, windows in groups.items():
            found[number] = (*found.get(number, ()), *windows)
    return found


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
        permit_groups, deny_groups, holder_groups: the groups of the same participants.
        is_holder: whether the holder asks, who knows the level of single resources (rule 9).
        sees_reasons: whether the caller may see the reasons of the answer.
        gets_conditions: whether the caller may see the conditions of a permit, because it may see reasons, or is the
            holder. For others nothing is permitted on conditions (rule 5).
        may_break_glass: whether the participants that want the data may ask for emergency access.
    """

    permit_actors: Numbers
    deny_actors: Numbers
    holders: Numbers
    permit_groups: Groups = field(default_factory=dict)
    deny_groups: Groups = field(default_factory=dict)
    holder_groups: Groups = field(default_factory=dict)
    is_holder: bool = False
    sees_reasons: bool = False
    gets_conditions: bool = False
    may_break_glass: bool = False
    from_ms: int = 0
    until_ms: int = OPEN_END_MS


@dataclass(slots=True, init=False)
class PackedQuestion:
    """A question as ``evaluate`` needs it: masks and sets of numbers. The subject (the person) is not part of it.

    Attributes:
        purpose, action, categories: masks of the one purpose, the one action, and the leaf categories asked for.
        deny_purposes, deny_actions: the same with the codes above them. A deny covers a question if it has one of these
            bits, and one of ``leaves.deny_mask``.
        leaves: the leaf categories asked for.
        plain: mask of the leaves that a permit covers which names neither labels nor a level nor resources.
        unknown: category codes of the question that are not in the vocabulary.
        parties: the participants that the question is decided for.
        labels: masks of the labels, for permits and for denies. None: the question leaves the labels open.
        level: number of the level; 0: the question leaves the level open.
        is_level_exact: True if a level below the default level of a category counts as stated (rule 9).
        resources, data_period: references, (start, end). None: the question leaves the attribute open.
        break_glass: True if the purpose is BTG (emergency access). The question then has a justification.
        transfer_holder: number of the holder, if the action is a transfer; 0: it is not.
        residual: True if labels, level, resources or data_period is open, and the caller can and may check conditions.
        version: version of the vocabulary that the masks belong to.
    """

    action: int
    break_glass: bool
    categories: int
    data_period: tuple[int, int] | None
    deny_actions: int
    deny_purposes: int
    is_level_exact: bool
    labels: tuple[int, int] | None
    leaves: AskedLeaves
    level: int
    parties: Parties
    plain: int
    purpose: int
    residual: bool
    transfer_holder: int
    resources: frozenset[str] | None
    unknown: tuple[str, ...]
    version: int

    def level_of(self, default: int) -> int:
        """Return the level of data whose category has this default level, if the question states a level."""
        return self.level if self.is_level_exact else max(self.level, default)


def pack_question(question: Question, codebook: Codebook, parties: Parties) -> PackedQuestion:
    """Convert a question to masks, and refuse an invalid question (policy.md, rules 5 and 7).

    *parties* are those of the question. The names of participants in the question are not read here.

    Raises:
        InvalidError: UNKNOWN_PURPOSE, UNKNOWN_ACTION, UNKNOWN_CODE (a label), EMPTY_CATEGORIES, BREAK_GLASS_SHAPE (a
            justification without purpose BTG, BTG without a justification, or a justification that says nothing), or
            INVALID_REQUEST (the stated resources or the stated period is empty, a resource is no ``Type/id``, or there
            is no such level).
    """
    vocabulary = codebook.vocabulary
    packed = PackedQuestion()
    try:
        packed.purpose = vocabulary.purpose.bits[question.purpose]
        packed.deny_purposes = vocabulary.purpose.above[question.purpose]
    except KeyError:
        raise InvalidError(f"purpose is not in the vocabulary: `{question.purpose}`", "UNKNOWN_PURPOSE") from None
    try:
        packed.action, packed.deny_actions = codebook.actions[question.action]
    except KeyError:
        raise InvalidError(f"action is not in the vocabulary: `{question.action}`", "UNKNOWN_ACTION") from None
    packed.leaves = leaves = codebook.leaves(question.categories)
    packed.categories, packed.unknown = leaves.mask, leaves.unknown
    packed.break_glass = question.purpose == BREAK_GLASS_PURPOSE
    if packed.break_glass is (question.break_glass is None):
        raise InvalidError("break_glass is present exactly when the purpose is BTG", "BREAK_GLASS_SHAPE")
    if question.break_glass is not None:
        check_justification(question.break_glass)
    packed.parties = parties
    packed.transfer_holder = max(parties.holders, default=0) if question.action in codebook.transfers else 0
    labels, resources, period = question.labels, question.resources, question.data_period
    packed.labels = None if labels is None else codebook.labels(labels)
    if resources is None:
        packed.resources = None
    elif resources and all(map(REFERENCE.fullmatch, resources)):
        packed.resources = frozenset(resources)
    else:
        raise InvalidError("question states resources, and names none or one that is no Type/id")
    if period is None:
        packed.data_period = None
    elif period.start_ms < period.end_ms:
        packed.data_period = (period.start_ms, period.end_ms)
    else:
        raise InvalidError("data period ends before it starts")
    level = LEVEL_NUMBERS.get(question.level)
    if level is None:
        raise unknown_level(question.level)
    packed.level = level
    packed.is_level_exact = bool(level and resources is not None and parties.is_holder)
    supported = question.supported_obligations
    # The set is mostly empty, and the hash of an enumeration takes long.
    packed.residual = (
        bool(supported)
        and Obligation.ENFORCE_RESIDUAL in supported
        and parties.gets_conditions
        and (labels is None or not level or resources is None or period is None)
    )
    packed.plain = packed.categories if not (labels or level) else _plain(packed)
    packed.version = vocabulary.version
    return packed


def _plain(packed: PackedQuestion) -> int:
    """Return the leaves that a permit covers which names neither labels nor a level nor resources (rule 9)."""
    labels = packed.labels[0] if packed.labels else 0
    return sum(
        one.leaves
        for one in packed.leaves.sensitivities
        if not labels & ~one.labels and packed.level_of(one.level) <= one.level
    )
