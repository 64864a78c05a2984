"""The reference for what a realm knows (policy.md, rules 6 and 10): versions of the vocabulary, members of groups.

Permits and denies read codes and groups in opposite ways. A permit covers what there was when it was given. A deny
covers what has come since as well.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from consentd.policy.model import ANY, LEVELS, Effect, Membership, Rules
from consentd.policy.vocabulary import Code, Vocabulary


@dataclass
class Realm:
    """What decisions of one realm depend on, but for the person's own entries.

    Attributes:
        vocabularies: (leaf index of the entry, version) of each version, oldest first. The last is in force.
        since: leaf index of the entry with the rules.
        earlier_levels: (leaf index of the entry, normal level) of each version of the rules before that entry.
        memberships: participant → its memberships in groups.
        abroad: participants in another country.
    """

    vocabularies: Sequence[tuple[int, Vocabulary]]
    rules: Rules = field(default_factory=Rules)
    since: int = 0
    earlier_levels: Sequence[tuple[int, str]] = ()
    memberships: Mapping[str, Sequence[Membership]] = field(default_factory=dict)
    abroad: Collection[str] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        return self.vocabularies[-1][1]

    def vocabulary_at(self, since: int) -> Vocabulary:
        """Return the version that was in force at an entry."""
        return [vocabulary for start, vocabulary in self.vocabularies if start <= since][-1]

    def normal_level(self, since: int) -> str:
        """Return up to which level a normal policy permits that was given at an entry: the lower of then and now."""
        return min(self.rules.normal_level, self.normal_level_at(since), key=LEVELS.index)

    def normal_level_at(self, since: int) -> str:
        """Return the normal level that was in force at an entry."""
        levels = [*self.earlier_levels, (self.since, self.rules.normal_level)]
        return next((level for start, level in reversed(levels) if start <= since), levels[0][1])

    def names(self, name: str, effect: Effect | None, since: int) -> set[str]:
        """Return the participant and the groups that count for it in a provision of this effect, given at *since*."""
        groups = set()
        for one in self.memberships.get(name, ()):
            was_member = one.start <= since < one.end
            became_member = one.start < one.end and one.start > since
            if was_member or (effect is Effect.DENY and became_member):
                groups.add(one.group)
        return {name} | groups


def is_limit(stated: Sequence[str]) -> bool:
    return bool(stated) and ANY not in stated


def above(codes: Sequence[Code], code: str) -> set[str]:
    """The code and all codes above it: a deny that names one of them covers the code."""
    found = {code}
    for entry in reversed(codes):  # a child comes after its parent
        if entry.code in found and entry.parent:
            found.add(entry.parent)
    return found


def covered(codes: Sequence[Code], stated: Sequence[str]) -> set[str]:
    """The codes of one version of a list that a permit covers which states this list (rule 6)."""
    found: set[str] = set()
    for entry in codes:  # a parent comes before its children
        begins = entry.parent in found if entry.parent else not is_limit(stated)
        if entry.code in stated or (entry.implies and begins):
            found.add(entry.code)
    return found


def leaves(vocabulary: Vocabulary, code: str) -> list[str]:
    """The leaf categories that a category stands for."""
    below = [code]
    for entry in vocabulary.categories:  # a parent comes before its children
        if entry.parent in below:
            below.append(entry.code)
    parents = {entry.parent for entry in vocabulary.categories}
    return [one for one in below if one not in parents]


def own_labels(vocabulary: Vocabulary, leaf: str) -> set[str]:
    return {label for entry in vocabulary.categories if entry.code == leaf for label in entry.labels}


def default_level(vocabulary: Vocabulary, leaf: str) -> int:
    return next(LEVELS.index(entry.level) for entry in vocabulary.categories if entry.code == leaf)
