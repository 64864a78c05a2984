"""The fields that many rows of a person have in common, compared with a question once.

A *shape* is how rows match that have the same codes, labels, level and effect. ``match_row`` makes shapes and compares
the other fields of a row.
"""

from typing import Final, NamedTuple

from consentd.policy.codebook import NO_GROUPS, Groups, Numbers
from consentd.policy.model import OPEN_END_MS
from consentd.policy.rows import GROUP, PERMIT, SIDE, Rest

NAMES_RESOURCES: Final = SIDE
UNKNOWN: Final = GROUP
IS_OPEN: Final = 1 << 7
KEY_SHIFT: Final = 8
"""A *key* says how a row matches: the flags PERMIT and NORMAL, and the level, as in a row; NAMES_RESOURCES; UNKNOWN:
the row is that of an unreadable consent; IS_OPEN: the row limits resources or data period, and the question leaves them
open. From bit 8 on it has the labels that the row names."""

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2


class Alike:
    """Trees that say the same about a question. Only the first of them that are in force are kept, and of the others
    the one that changes first, because that one determines until when the answer is valid.

    Attributes:
        count: how many of those that are kept are in force.
        until_ms: the earliest start or end after now of all of them, so far.
    """

    __slots__ = ("count", "until_ms")

    def __init__(self) -> None:
        self.count = 0
        self.until_ms = OPEN_END_MS


class Shape(Alike):
    """How rows match a question that have the same codes, labels, level and effect. Single rows that match with the
    same shape are ``Alike``.

    A person may have thousands of rows, and most of them have one of few shapes. So the fields of a shape are compared
    with the question once. The other fields of a row are compared by ``RowMatcher.node``.

    Attributes:
        mask: the leaves asked for that such a row may match; 0: it never does.
        key: see ``KEY_SHIFT``.
        kind: PERMITS, DENIES or UNKNOWNS.
        actors, holders: the numbers with which such a row matches the participants.
        actor_groups, holder_groups: the groups with which it does; none, if the rows name no group.
        first_by, last_from: a data period fits if it starts and ends so; 0 if the question leaves the period open.
        others: key → the shape of those of the rows that have this key instead, because of their side records.
    """

    __slots__ = (
        "actor_groups", "actors", "first_by", "holder_groups", "holders", "key", "kind", "last_from", "mask", "others",
    )  # fmt: skip

    def __init__(
        self, mask: int, key: int, *, actors: Numbers, holders: Numbers, actor_groups: Groups = NO_GROUPS,
        holder_groups: Groups = NO_GROUPS, first_by: int = 0, last_from: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mask: Final = mask
        self.key: Final = key
        self.kind: Final = PERMITS if key & PERMIT else UNKNOWNS if key & UNKNOWN else DENIES
        self.actors: Final = actors
        self.holders: Final = holders
        self.actor_groups: Final = actor_groups
        self.holder_groups: Final = holder_groups
        self.first_by: Final = first_by
        self.last_from: Final = last_from
        self.others: Final[dict[int, Shape]] = {}

    def with_key(self, key: int) -> "Shape":
        """Return the shape of those of the rows that have another *key*, because of their side records."""
        shape = self.others.get(key)
        if shape is None:
            self.others[key] = shape = Shape(
                self.mask, key, actors=self.actors, holders=self.holders, actor_groups=self.actor_groups,
                holder_groups=self.holder_groups,
            )  # fmt: skip
        return shape

    def without(self, mask: int) -> "Shape":
        """Make the shape of those of the rows whose side records say that the categories in *mask* are used up."""
        return Shape(self.mask & ~mask, self.key, actors=self.actors, holders=self.holders)


NEVER: Final = Shape(0, 0, actors=frozenset(), holders=frozenset())
"""The shape of rows that do not match."""

Node = tuple[Shape, Rest]
"""A row that matches a question, at least if some limits on what the question leaves open are met. It may start later,
and has not ended. A node is no class, because that takes longer, and a person may have thousands."""


class UsedUp(NamedTuple):
    """A permit that does not count for some categories, because the transfers of the present period were permitted.

    Attributes:
        mask: these categories, as far as they are asked for and the row covers them. *key*: see ``KEY_SHIFT``.
        start_ms, end_ms: the window of the row. *until_ms*: the end of the period.
        node: the index of the row in its tree.
    """

    mask: int
    key: int
    start_ms: int
    end_ms: int
    until_ms: int
    node: int
