"""Verify the bytes of one lineage of a subject value: its flags, the shape of its tree and its side records.

What is verified here are the properties that encoding the lineages again does not show.
"""

from typing import Final

from consentd.errors import MalformedError
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, Compiled
from consentd.policy.model import MAX_DEPTH, ImplicitPolicy
from consentd.policy.rows import LEVEL_SHIFT, NORMAL, PERMIT, SIDE, Row, decode_sides, unpack_rows
from consentd.policy.vocabulary import HIGHEST_LEVEL

PAUSED: Final = 1
"""Directory flag: the lineage is paused. The directory also has the flags of ``Compiled``."""

HAS_SIDE: Final = 8
"""Directory flag: the lineage has a side block."""

_STATES: Final = PAUSED | UNREADABLE | STATUTORY


def check_lineage(flags: int, compiled: Compiled) -> None:
    """Verify a lineage, given the flags of its directory entry.

    Raises:
        MalformedError: its bytes are not what this version writes.
        struct.error: they are cut short.
    """
    policy = flags >> POLICY_SHIFT
    if flags & 0x0F & ~(_STATES | HAS_SIDE):
        raise MalformedError("directory entry has unknown flags")
    rows = unpack_rows(compiled.rows)
    tree = len(rows) - POLICY_ROWS[policy]
    if tree < 1:
        raise MalformedError("subject value is cut short")
    if flags & UNREADABLE and (tree > 1 or policy):
        raise MalformedError("unreadable lineage has several rows")
    sides = [row.side for row in rows if row.flags & SIDE]
    decoded = decode_sides(compiled.side, sides)
    recurrence = compiled.recurrence
    for row in rows:
        uses = decoded[row.side].uses if row.flags & SIDE else None
        if uses != (recurrence if row.flags & PERMIT else None):
            raise MalformedError("rows have several recurrences, or one without a permit")
    if sides and sides[0]:
        raise MalformedError("side block does not begin with the record of the first row that has one")
    is_normal = policy in (ImplicitPolicy.BASIC_NORMAL, ImplicitPolicy.ALL_NORMAL)
    for part, normal in ((rows[:tree], 0), (rows[tree:], NORMAL if is_normal else 0)):
        _check_tree(part)
        if any(row.flags & NORMAL != normal or row.flags >> LEVEL_SHIFT > HIGHEST_LEVEL for row in part):
            raise MalformedError("rows have unknown flags")


def _check_tree(rows: list[Row]) -> None:
    open_until: list[int] = []
    for index, row in enumerate(rows):
        while open_until and open_until[-1] <= index:
            open_until.pop()
        if row.depth != len(open_until) or row.depth >= MAX_DEPTH or row.node != index:
            raise MalformedError("rows are no tree in preorder")
        open_until.append(index + row.below + 1)
        if open_until[0] != len(rows) or any(end < open_until[-1] for end in open_until):
            raise MalformedError("rows are no tree in preorder")
