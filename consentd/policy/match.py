"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

``prepare.prepare`` finds the rows that may match, once for a question. ``match`` finds those that match in one case.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories. An implicit policy is a tree of
its own, in a lower layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from consentd.policy.codebook import PackedQuestion
from consentd.policy.fits import Fits
from consentd.policy.model import OPEN_END_MS, Layer
from consentd.policy.shapes import DENIES, PERMITS, Node, Shape, UsedUp
from consentd.policy.side_blocks import Limits
from consentd.policy.subject import Ids
from consentd.policy.tree import Paths, Where

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)
REALM: Final = int(Layer.REALM)

_NO_USES: Final[Mapping[int, int]] = {}
NO_IDS: Final[Ids] = (0, 0, 0)
_SEVERAL: Final = -1


class Matches:
    """The rows that match a question, and the categories that they permit, deny or make unknown.

    Attributes:
        masks: ``masks[layer][kind]`` is a mask of categories; kind is ``PERMITS``, ``DENIES`` or ``UNKNOWNS``.
        otherwise: categories that combining permits if no consent says anything about them.
        until_ms: the earliest start or end after now, among all rows that match if their windows are ignored.
        used_up: permits in force that do not count, because they are used up: (categories, ids, where).
        recurring: of the consents that recur, the seq of the GRANT → the end of the present period.
        uses: those of them that permit something in the layer that decides → the categories (``count_uses``).
    """

    __slots__ = ("decided", "masks", "otherwise", "recurring", "until_ms", "used_up", "uses")

    def __init__(self, until_ms: int = OPEN_END_MS) -> None:
        self.masks: Final = ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
        self.decided: Final[list[tuple[int, int, int, Ids, Any]]] = []
        self.otherwise = 0
        self.until_ms = until_ms
        self.used_up: Sequence[tuple[int, Ids, Where]] = ()
        self.recurring: Mapping[int, int] = _NO_USES
        self.uses: Mapping[int, int] = _NO_USES

    def add(self, layer: int, kind: int, mask: int, ids: Ids = NO_IDS, where: Where = "") -> None:
        """Add a row that permits, denies or makes unknown the categories of ``mask``. Ignore an empty mask."""
        if mask:
            self.masks[layer][kind] |= mask
            self.decided.append((layer, kind, mask, ids, where))

    def add_tree(
        self, layer: int, permits: int, denies: int, ids: Ids, where: str | Paths, decisive: "list[Decisive]"
    ) -> None:
        """Add a tree that permits and denies these categories. *decisive*: its nodes that decided, the last first.

        A nested permit did not decide those categories that a deny elsewhere in the tree denies.
        """
        of_layer = self.masks[layer]
        of_layer[PERMITS] |= permits
        of_layer[DENIES] |= denies
        self.decided.append((layer, _SEVERAL, permits, ids, (where, decisive)))

    def rows(self) -> Iterator[tuple[int, int, int, Ids, Where]]:
        """Yield (layer, kind, categories, ids, where) of each row that decided, in the order in which they were added.

        A person may have thousands, and few become reasons. So they are made when they are asked for.
        """
        for row in self.decided:
            layer, kind, permits, ids, what = row
            if kind != _SEVERAL:
                yield row
                continue
            where, decisive = what
            for node, kind, mask in reversed(decisive):
                counted = mask & permits if kind == PERMITS else mask
                if counted:
                    yield layer, kind, counted, ids, where if isinstance(where, str) else (where, node)


    def count_uses(self, decided: "Sequence[tuple[int, int, int]]") -> None:
        """Set ``uses``. *decided*: the masks of each layer that decided."""
        self.uses = uses = dict[int, int]()
        for layer, kind, mask, ids, _ in self.decided:
            if ids[1] in self.recurring and kind in (PERMITS, _SEVERAL):
                counted = mask & decided[layer][PERMITS]
                if counted:
                    uses[ids[1]] = uses.get(ids[1], 0) | counted


Decisive = tuple[int, int, int]
"""(node, kind, categories that the node's own effect decided)."""

Tree = tuple[int, Ids, str | Paths, Sequence[Node], Limits, int]
"""What may match of one consent, of one implicit policy, or of one rule of the realm: (layer, ids, path, nodes in
preorder, the side blocks, the word at which the consent's own begins). The path is that of all nodes in reasons; paths:
each has its own, by its place in the tree. A tree is no class, because that takes longer, and a person may have many.
"""


class Prepared(NamedTuple):
    """What may match a question.

    Attributes:
        trees: in the order of reasons: rules of the realm, lineages with their policies, the realm's policy.
        is_closed: everything is denied in layer CONSENT, and its lineages are not read.
        otherwise: the shape of what combining permits if no consent says anything; NEVER: nothing.
        used_up: the permits that are used up, each with its ids and path, in the order of reasons.
        recurring: as in ``Matches``.
    """

    trees: list[Tree]
    is_closed: bool
    otherwise: Shape
    used_up: Sequence[tuple[UsedUp, Ids, Where]] = ()
    recurring: Mapping[int, int] = {}


def match(prepared: Prepared, fits: Fits, question: PackedQuestion, now_ms: int) -> Matches:
    """Find what matches in one case. If the person's denies are over their limit, all of layer CONSENT is denied."""
    found = Matches(question.parties.until_ms)
    if prepared.is_closed:
        found.add(CONSENT, DENIES, question.categories)
    match_trees(found, prepared.trees, fits, now_ms)
    if prepared.recurring:
        _match_transfers(found, prepared, fits, now_ms)
    otherwise = prepared.otherwise
    found.otherwise = otherwise.mask and otherwise.mask & fits[otherwise.key]
    return found


def _match_transfers(found: Matches, prepared: Prepared, fits: Fits, now_ms: int) -> None:
    """Add the permits that would match, but are used up. The answer changes at their ends, and when the period ends."""
    found.recurring, used_up = prepared.recurring, []
    for one, ids, where in prepared.used_up:
        mask = one.mask & fits[one.key]
        if not mask:
            continue
        if one.start_ms > now_ms:
            found.until_ms = min(found.until_ms, one.start_ms)
        else:
            found.until_ms = min(found.until_ms, one.end_ms, one.until_ms)
            used_up.append((mask, ids, where))
    found.used_up = used_up


def match_trees(found: Matches, trees: Sequence[Tree], fits: Fits, now_ms: int) -> None:
    """Add what the trees permit, deny or make unknown."""
    masks, add = found.masks, found.decided.append
    for layer, ids, where, nodes, _, _ in trees:
        if len(nodes) > 1:
            _match_tree(found, layer, ids, where, nodes, fits, now_ms)
            continue
        ((shape, (_, _, start_ms, end_ms, _, _, node, _)),) = nodes
        mask = shape.mask & fits[shape.key]
        if not mask:
            continue
        if start_ms > now_ms:
            found.until_ms = min(found.until_ms, start_ms)
            continue
        if end_ms < found.until_ms:
            found.until_ms = end_ms
        masks[layer][shape.kind] |= mask
        add((layer, shape.kind, mask, ids, where if isinstance(where, str) else (where, node)))


def _match_tree(
    found: Matches, layer: int, ids: Ids, where: str | Paths, nodes: Sequence[Node], fits: Fits, now_ms: int
) -> None:
    """Compute what one tree permits and denies, children before parents. *found* gets each node that decided.

    Example: permit P has the child deny D, and D has the child permit E. All three match the same category. The loop
    runs E, D, P. E permits, so the own effects of D and P do not count: the value is permit, and node E decided.
    """
    decisive: list[Decisive] = []
    # Subtrees whose parents come later: (index of the root, what it permits, what it denies), the least index last.
    subtrees: list[tuple[int, int, int]] = []
    until = found.until_ms
    for shape, (_, _, start_ms, end_ms, _, _, node, below) in reversed(nodes):
        mask = shape.mask & fits[shape.key]
        if not mask:
            continue
        if start_ms > now_ms:
            until = min(until, start_ms)
            continue
        if end_ms < until:
            until = end_ms
        permits = denies = 0
        if below:
            while subtrees and subtrees[-1][0] <= node + below:
                _, more, fewer = subtrees.pop()
                permits |= more
                denies |= fewer
            mask &= ~(permits | denies)
        if mask:
            if shape.kind == PERMITS:
                permits |= mask
            else:
                denies |= mask
            decisive.append((node, shape.kind, mask))
        subtrees.append((node, permits, denies))
    found.until_ms = until
    permits = denies = 0
    for _, more, fewer in subtrees:
        permits |= more
        denies |= fewer
    if decisive:
        found.add_tree(layer, permits & ~denies, denies, ids, where, decisive)
