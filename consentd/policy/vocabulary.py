"""Define the codes of consents and questions, their hierarchies and their bits.

A vocabulary has four lists: purposes, data categories, actions, security labels. The index of a code in its list is the
number of its bit, so lists may only grow (see ``check_successor``). In the list of categories, only *leaves* (no
children) are numbered; a parent category is the set of its leaves. A parent comes before its children.

Permits and denies cover different descendants (policy.md, rule 6): a permit on a parent covers a child only if the
child has ``implies``; a deny on a parent covers every descendant. Both masks of a code are computed here once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from consentd.errors import InvalidError
from consentd.policy.model import BREAK_GLASS_PURPOSE, ImplicitPolicy

MAX_PURPOSES = 64
MAX_LEAF_CATEGORIES = 64
MAX_ACTIONS = 16
MAX_LABELS = 32
MAX_CODES = 256  # in one list, parent categories included

LEVELS = ("U", "L", "M", "N", "R", "V")
"""The levels of HL7 v3 Confidentiality, from unrestricted to very restricted."""

NORMAL_LEVELS = frozenset(LEVELS[: LEVELS.index("N") + 1])
"""The levels that the "normal" policies of IHE PCF cover."""

BASIC_NORMAL_PURPOSES = ("TREAT",)
"""IHE PCF 1.1, 53.2.1: ``Policy-basic-normal`` permits treatment and "does not authorize other access"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A code, with its names for people in Korean and English.

    Attributes:
        parent: the code's parent, in the same list; empty: the code has no parent.
        implies: whether a permit on the parent covers this code. Without a parent: whether ``ALL_NORMAL`` covers it.
        system: canonical URI of the code's code system; empty: this project's own.
        level: default confidentiality of a leaf category, one of ``LEVELS``; empty elsewhere.
        labels: security labels that data of this category has by default.
    """

    code: str
    ko: str
    en: str
    parent: str = ""
    implies: bool = True
    system: str = ""
    level: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closures:
    """The masks of the codes of one list.

    Attributes:
        bits: the code's own bit; 0 for a parent category.
        permit: the bits that a permit on the code covers.
        deny: the bits that a deny on the code covers. A question for a category asks for the same bits.
        codes: the codes that have a bit, in the order of their bits.
        all: all bits in use.
    """

    bits: Mapping[str, int]
    permit: Mapping[str, int]
    deny: Mapping[str, int]
    codes: tuple[str, ...]
    all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """One version of a realm's codes. The fields after ``labels`` are computed: the masks of each list, and for each
    implicit policy the (purposes, categories) that the policy permits.

    Raises:
        InvalidError: a list is too long, a code occurs twice, a parent does not come before its child, or a level or
            default label does not exist.
    """

    id: str
    version: int
    purposes: tuple[Code, ...]
    categories: tuple[Code, ...]
    actions: tuple[Code, ...]
    labels: tuple[Code, ...]
    purpose: Closures = field(init=False, repr=False, compare=False)
    category: Closures = field(init=False, repr=False, compare=False)
    action: Closures = field(init=False, repr=False, compare=False)
    label: Closures = field(init=False, repr=False, compare=False)
    policies: Mapping[int, tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.version <= 0xFFFF:
            raise InvalidError(f"vocabulary version is not in 1..65535: `{self.version}`")
        parents = {code.parent for code in self.categories}
        for codes, name, most, leaves in (
            (self.purposes, "purpose", MAX_PURPOSES, None),
            (self.categories, "category", MAX_LEAF_CATEGORIES, parents),
            (self.actions, "action", MAX_ACTIONS, None),
            (self.labels, "label", MAX_LABELS, None),
        ):
            object.__setattr__(self, name, _closures(codes, kind=name, most=most, parents=leaves or set()))
        for code in self.categories:
            if code.code not in parents and code.level not in LEVELS:
                raise InvalidError(f"category has no level of U, L, M, N, R, V: `{code.code}`")
            for label in code.labels:
                if label not in self.label.bits:
                    raise InvalidError(f"default label is not in the vocabulary: `{label}`")
        normal = sum(self.category.bits[code.code] for code in self.categories if code.level in NORMAL_LEVELS)
        object.__setattr__(self, "policies", _policies(self.purposes, self.purpose, normal, self.category.all))


def _closures(codes: tuple[Code, ...], *, kind: str, most: int, parents: set[str]) -> Closures:
    """Compute the masks of one list; codes in ``parents`` have no bit of their own."""
    if len(codes) > MAX_CODES:
        raise InvalidError(f"vocabulary has too many codes of kind `{kind}`")
    bits: dict[str, int] = {}
    leaves: list[str] = []
    for code in codes:
        if not code.code or code.code == "*" or code.code in bits:
            raise InvalidError(f"vocabulary code is empty, `*`, or occurs twice: `{code.code}`")
        if code.parent and code.parent not in bits:
            raise InvalidError(f"parent does not come before its child: `{code.code}`")
        bits[code.code] = 0 if code.code in parents else 1 << len(leaves)
        if code.code not in parents:
            leaves.append(code.code)
    if len(leaves) > most:
        raise InvalidError(f"vocabulary has more than {most} codes of kind `{kind}`")
    permit, deny = dict(bits), dict(bits)
    for code in reversed(codes):  # children before parents, so one pass is enough
        if code.parent:
            deny[code.parent] |= deny[code.code]
            if code.implies:
                permit[code.parent] |= permit[code.code]
    return Closures(bits, permit, deny, tuple(leaves), (1 << len(leaves)) - 1)


def _policies(codes: tuple[Code, ...], purpose: Closures, normal: int, every: int) -> dict[int, tuple[int, int]]:
    """Return the masks of (purposes, categories) that each implicit policy permits (rule 1)."""
    basic = implied = 0
    for code in BASIC_NORMAL_PURPOSES:
        basic |= purpose.permit.get(code, 0)
    for entry in codes:
        if not entry.parent and entry.implies:
            implied |= purpose.permit[entry.code]
    break_glass = purpose.bits.get(BREAK_GLASS_PURPOSE, 0)
    return {
        ImplicitPolicy.DENY: (0, 0),
        ImplicitPolicy.BASIC_NORMAL: (basic, normal),
        ImplicitPolicy.ALL_NORMAL: (implied, normal),
        ImplicitPolicy.BREAK_GLASS_ONLY: (break_glass, every),
    }


def check_successor(old: Vocabulary, new: Vocabulary) -> None:
    """Check that ``new`` may be the next version after ``old``: lists only grow, and no bit changes its meaning.

    Names, levels, default labels and ``implies`` may change. A code, its index, its parent, and whether it is a leaf
    may not change, so that rows compiled under ``old`` keep their meaning.

    Raises:
        InvalidError: the ids differ; the version is not the next; a code was moved, dropped or given another parent; or
            a leaf category became a parent.
    """
    if new.id != old.id:
        raise InvalidError(f"vocabulary has another id: `{new.id}`")
    if new.version != old.version + 1:
        raise InvalidError(f"vocabulary version is not the next: `{new.version}`")
    lists = ((one.purposes, one.categories, one.actions, one.labels) for one in (old, new))
    for before, after in zip(*lists, strict=True):
        if len(after) < len(before):
            raise InvalidError(f"vocabulary drops a code: `{before[len(after)].code}`")
        for was, now in zip(before, after, strict=False):
            if (was.code, was.parent) != (now.code, now.parent):
                raise InvalidError(f"vocabulary moves a code: `{was.code}`")
    for code, bit in old.category.bits.items():
        if new.category.bits[code] != bit:
            raise InvalidError(f"vocabulary makes a leaf a parent: `{code}`")
