"""Define the codes of consents and questions, their hierarchies and their bits.

A vocabulary has six lists, which may only grow (see ``check_successor``). Of four, purposes, data categories, actions
and security labels, the index of a code in its list is the number of its bit, parents included. A parent comes before
its children. A category without children is a *leaf*: data belong to leaves. The other two, grounds of refusals and
legal bases, decide nothing, so their codes have no bits.

Permits and denies cover different descendants (policy.md, rule 6). A permit that names a code covers a code below it
only if each step between them ``implies``. A deny covers every descendant, also one of a later version: so a question
states, for denies, its codes and those above them. All masks of a code are computed here once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from consentd import limits
from consentd.errors import InvalidError
from consentd.policy.model import LEVELS

MAX_PURPOSES = limits.VOCABULARY_PURPOSES
MAX_CATEGORIES = limits.VOCABULARY_CATEGORIES
MAX_ACTIONS = limits.VOCABULARY_ACTIONS
MAX_LABELS = limits.VOCABULARY_LABELS
MAX_REFUSAL_GROUNDS = limits.VOCABULARY_REFUSAL_GROUNDS
MAX_LEGAL_BASES = limits.VOCABULARY_LEGAL_BASES
MAX_EVIDENCE = limits.VOCABULARY_EVIDENCE

_CODE: Final = re.compile(f"[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.VOCABULARY_CODE_CHARACTERS - 1}}}")
"""The form of a code: ASCII characters that people can distinguish, without those that separate codes in a text."""

REFERENCE: Final = re.compile("[A-Z][A-Za-z]{0,63}/[A-Za-z0-9.-]{1,64}")
"""A reference of a single resource, ``Type/id``. One resource has one spelling, so that no other evades a deny."""

LEVEL_NUMBERS: Mapping[str, int] = {"": 0} | {level: number for number, level in enumerate(LEVELS, 1)}
"""The number of each level in rows: U is 1, V is 6. 0: no level is named."""

HIGHEST_LEVEL = len(LEVELS)


def unknown_level(level: str, reason: str = "INVALID_REQUEST") -> InvalidError:
    """Return the error about a level that does not exist."""
    return InvalidError(f"level is none of {', '.join(LEVELS)}: `{level}`", reason)


NEVER_IMPLIED_PURPOSES = frozenset(
    {"BTG", "CLINTRL", "CLINTRCH", "POPHLTH", "HMARKT", "POARCH", "HLEGAL", "AITRAIN"}
)
"""Purposes that a permit must name, each purpose below them included (rule 6)."""

NEVER_IMPLIED_ACTIONS = frozenset({"correct"})
"""Actions that a permit must name (rule 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A code, with its name for people.

    Attributes:
        name: language tag → text (``language.check_name``). No decision depends on it.
        parent: the code's parent, in the same list; empty: the code has no parent.
        implies: whether a permit on the parent covers this code. Without a parent: whether ``*`` covers this code.
        system: canonical URI of the code's code system; empty: this project's own.
        level: default confidentiality of a leaf category, one of ``LEVELS``; empty elsewhere.
        labels: security labels that the data of a leaf category bear by themselves.
        separate: whether a purpose or a category is permitted in an act of its own, with the codes below it (rule 8).
    """

    code: str
    name: Mapping[str, str] = field(hash=False)
    parent: str = ""
    implies: bool = True
    system: str = ""
    level: str = ""
    labels: tuple[str, ...] = ()
    separate: bool = False


@dataclass(frozen=True, slots=True)
class Closures:
    """The masks of the codes of one list.

    Attributes:
        bits: the code's own bit.
        above: the code's own bit and the bits of all codes above it.
        below: the code's own bit and the bits of all codes below it.
        permit: the bits that a permit on the code covers; of categories, the leaves among them.
        star: the bits that ``*`` in a permit covers; of categories, the leaves among them.
        codes: the codes, in the order of their bits.
        all: all bits in use.
    """

    bits: Mapping[str, int]
    above: Mapping[str, int]
    below: Mapping[str, int]
    permit: Mapping[str, int]
    star: int
    codes: tuple[str, ...]
    all: int


class Sensitivity(NamedTuple):
    """Leaf categories that have the same labels of their own and the same default level (rule 9).

    Attributes:
        labels, labels_above: mask of the labels; the same with the labels above them.
        level: number of the default level.
        leaves: mask of the leaf categories.
    """

    labels: int
    labels_above: int
    level: int
    leaves: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """One version of a realm's codes. The fields after ``evidence`` are computed.

    ``leaves`` is the mask of the leaf categories. ``sensitivities`` has each leaf in exactly one item.

    Raises:
        InvalidError: a list is too long; a code has another form, or occurs twice; a parent does not come before its
            child; a leaf category has no level, or another code has a level or labels; a label of a category does not
            exist; a label is one of ``LEVELS``; or a code that a permit must name, a refusal ground, a legal basis or a
            kind of evidence is marked as implied (rule 6).
    """

    id: str
    version: int
    purposes: tuple[Code, ...]
    categories: tuple[Code, ...]
    actions: tuple[Code, ...]
    labels: tuple[Code, ...]
    refusal_grounds: tuple[Code, ...] = ()
    legal_bases: tuple[Code, ...] = ()
    evidence: tuple[Code, ...] = ()
    purpose: Closures = field(init=False, repr=False, compare=False)
    category: Closures = field(init=False, repr=False, compare=False)
    action: Closures = field(init=False, repr=False, compare=False)
    label: Closures = field(init=False, repr=False, compare=False)
    leaves: int = field(init=False, repr=False, compare=False)
    sensitivities: tuple[Sensitivity, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.version <= 0xFFFF:
            raise InvalidError(f"vocabulary version is not in 1..65535: `{self.version}`")
        parents = {code.parent for code in self.categories}
        leaves = sum(1 << index for index, code in enumerate(self.categories) if code.code not in parents)
        for codes, name, most, covered in (
            (self.purposes, "purpose", MAX_PURPOSES, -1),
            (self.categories, "category", MAX_CATEGORIES, leaves),
            (self.actions, "action", MAX_ACTIONS, -1),
            (self.labels, "label", MAX_LABELS, -1),
        ):
            object.__setattr__(self, name, _closures(codes, kind=name, most=most, covered=covered))
        _check_without_bits(self.refusal_grounds, kind="refusal ground", most=MAX_REFUSAL_GROUNDS)
        _check_without_bits(self.legal_bases, kind="legal basis", most=MAX_LEGAL_BASES)
        _check_without_bits(self.evidence, kind="kind of evidence", most=MAX_EVIDENCE)
        for code in (code for codes in (self.purposes, *self.lists[2:]) for code in codes):
            if code.level or code.labels:
                raise InvalidError(f"only a category of data has a level and labels: `{code.code}`")
        for code in (*self.actions, *self.labels, *self.refusal_grounds, *self.legal_bases):
            if code.separate:
                raise InvalidError(f"only a purpose or a category needs an act of its own: `{code.code}`")
        for label in self.labels:
            if label.code in LEVELS:
                raise InvalidError(f"a level of confidentiality is not a label: `{label.code}`")
        _check_never_implied(self.purposes, NEVER_IMPLIED_PURPOSES)
        _check_never_implied(self.actions, NEVER_IMPLIED_ACTIONS)
        object.__setattr__(self, "leaves", leaves)
        object.__setattr__(self, "sensitivities", _sensitivities(self.categories, self.label, leaves))

    @property
    def lists(self) -> tuple[tuple[Code, ...], ...]:
        """The seven lists."""
        return (
            self.purposes, self.categories, self.actions, self.labels, self.refusal_grounds, self.legal_bases,
            self.evidence,
        )  # fmt: skip


def _check_without_bits(codes: tuple[Code, ...], *, kind: str, most: int) -> None:
    """Check a list whose codes decide nothing: its form, and that no code is marked as implied."""
    _closures(codes, kind=kind, most=most, covered=0)
    for code in codes:
        if code.implies:
            raise InvalidError(f"vocabulary marks a {kind} as implied: `{code.code}`")


def _closures(codes: tuple[Code, ...], *, kind: str, most: int, covered: int) -> Closures:
    """Compute the masks of one list. *covered*: the codes that the masks of permits have."""
    if len(codes) > most:
        raise InvalidError(f"vocabulary has more than {most} codes of kind `{kind}`")
    bits: dict[str, int] = {}
    above: dict[str, int] = {}
    for code in codes:
        if not _CODE.fullmatch(code.code) or code.code in bits:
            raise InvalidError(f"vocabulary code is not of [A-Za-z0-9._-], or occurs twice: `{code.code}`")
        if code.parent and code.parent not in bits:
            raise InvalidError(f"parent does not come before its child: `{code.code}`")
        bits[code.code] = 1 << len(bits)
        above[code.code] = bits[code.code] | above.get(code.parent, 0)
    below, permit, star = dict(bits), dict(bits), 0
    for code in reversed(codes):  # children before parents, so one pass is enough
        if code.parent:
            below[code.parent] |= below[code.code]
            if code.implies:
                permit[code.parent] |= permit[code.code]
        elif code.implies:
            star |= permit[code.code]
    permit = {code: mask & covered for code, mask in permit.items()}
    return Closures(bits, above, below, permit, star & covered, tuple(bits), (1 << len(bits)) - 1)


def _check_never_implied(codes: tuple[Code, ...], never: frozenset[str]) -> None:
    """Check that neither the codes of *never* nor codes below them are marked as implied."""
    named: set[str] = set()
    for code in codes:
        if code.code in never or code.parent in named:
            named.add(code.code)
            if code.implies:
                raise InvalidError(f"vocabulary marks a code as implied that a permit must name: `{code.code}`")


def _sensitivities(categories: tuple[Code, ...], label: Closures, leaves: int) -> tuple[Sensitivity, ...]:
    """Return the leaves by their labels and default levels."""
    found: dict[tuple[int, int, int], int] = {}
    for index, code in enumerate(categories):
        if not leaves >> index & 1:
            if code.level or code.labels:
                raise InvalidError(f"category with codes below it has a level or labels: `{code.code}`")
            continue
        if code.level not in LEVELS:
            raise InvalidError(f"category has no level of {', '.join(LEVELS)}: `{code.code}`")
        own = above = 0
        for name in code.labels:
            if name not in label.bits:
                raise InvalidError(f"label of a category is not in the vocabulary: `{name}`")
            own |= label.bits[name]
            above |= label.above[name]
        key = own, above, LEVEL_NUMBERS[code.level]
        found[key] = found.get(key, 0) | 1 << index
    return tuple(Sensitivity(*key, mask) for key, mask in found.items())


def check_successor(old: Vocabulary, new: Vocabulary) -> None:
    """Check that ``new`` may be the next version after ``old``: lists only grow, and no code changes its meaning.

    Only names and systems of codes may change, and which need an act of their own. So rows compiled under ``old`` keep
    their meaning, and a new version changes no row.

    Raises:
        InvalidError: the ids differ; the version is not the next; a code was moved, dropped, or has another parent,
            mark, level or labels; or a code without codes below it became a parent.
    """
    if new.id != old.id:
        raise InvalidError(f"vocabulary has another id: `{new.id}`")
    if new.version != old.version + 1:
        raise InvalidError(f"vocabulary version is not the next: `{new.version}`")
    for before, after in zip(old.lists, new.lists, strict=True):
        if len(after) < len(before):
            raise InvalidError(f"vocabulary drops a code: `{before[len(after)].code}`")
        for was, now in zip(before, after, strict=False):
            if (was.code, was.parent) != (now.code, now.parent):
                raise InvalidError(f"vocabulary moves a code: `{was.code}`")
            if (was.implies, was.level, set(was.labels)) != (now.implies, now.level, set(now.labels)):
                raise InvalidError(f"vocabulary changes the mark, level or labels of a code: `{was.code}`")
        parents = {code.parent for code in before}
        for added in after[len(before) :]:
            if added.parent not in parents and any(code.code == added.parent for code in before):
                raise InvalidError(f"vocabulary makes a code without codes below it a parent: `{added.parent}`")
