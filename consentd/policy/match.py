"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

``prepare`` finds the rows that may match, once for a question. ``match`` finds those that match in one case.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories. An implicit policy is a tree of
its own, in a lower layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from consentd import limits
from consentd.errors import MalformedError
from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules
from consentd.policy.fits import Fits
from consentd.policy.lineage_form import HAS_SIDE, PAUSED
from consentd.policy.match_row import DENIES, NEVER, PERMITS, Node, RowMatcher, Shape, UsedUp
from consentd.policy.model import OPEN_END_MS, Layer
from consentd.policy.rows import DEPTH_AT, ENDS, ROW_REST, ROW_SHAPE, ROW_SIZE, rest_until
from consentd.policy.side_blocks import NO_LIMITS, NO_RECORD, Limits
from consentd.policy.subject import (
    ENTRY,
    FORMAT,
    HEADER,
    Ids,
    is_closed,
    policy_rows,
)
from consentd.policy.transfers import Transfers
from consentd.policy.tree import Paths, Where

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)
REALM: Final = int(Layer.REALM)

_NO_USES: Final[Mapping[int, int]] = {}
NO_IDS: Final[Ids] = (0, 0, 0)
_SEVERAL: Final = -1

ENOUGH = max(limits.DECISION_REASONS, limits.RESIDUAL_PROVISIONS)
"""So many consents with the same effect on a question fill the reasons, and more of them exceed a residual's limit."""


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


def prepare(
    value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int, *, newest_first: bool
) -> Prepared:
    """Find what may match a question: of the realm's rules, and of a person's consents.

    If the person's denies are over their limit (``is_closed``), only the statutory lineages are read.
    """
    closed = is_closed(value)
    if not question.categories:
        return Prepared([], closed, NEVER)
    matcher = RowMatcher(question, now_ms)
    of_rules = Limits(rules.block)
    trees: list[Tree] = []
    break_glass = rules.break_glass if question.break_glass else ()
    for layer, applicable in (STATUTE, rules.by_purpose.get(question.purpose, ())), (BREAK_GLASS, break_glass):
        for row, where in applicable:
            node = matcher.match(row, of_rules, rules.since)
            if node:
                trees.append((layer, NO_IDS, where, (node,), of_rules, 0))
    begin = len(trees)
    transfers = Transfers(matcher)
    if value:
        _add_lineages(
            trees, value, matcher, question.version, rules.campaigns, transfers, newest_first=newest_first
        )
    if newest_first:
        trees[begin:] = sorted(trees[begin:], key=lambda tree: tree[1][1], reverse=True)
        transfers.used_up.sort(key=lambda one: one[1][1], reverse=True)
    otherwise = prepare_realm(trees, matcher, rules, enrolled=value is not None)
    return Prepared(trees, closed, otherwise, transfers.used_up, transfers.recurring)


def _add_lineages(
    trees: list[Tree], value: bytes, matcher: RowMatcher, version: int, campaigns: Mapping[int, int],
    transfers: Transfers, *, newest_first: bool,
) -> None:  # fmt: skip
    """Add the trees of a person's lineages. *version*: that of the question's vocabulary. *campaigns*: those of the
    realm's rules.

    A person may have thousands of lineages. So one loop reads the directory and the rows beside each other, and a
    lineage that is a single row, as most are, needs no more than a look at its shape if it does not match. A row in
    force is not matched if more than ``ENOUGH`` before it match with its shape, one of which ends no later than it: the
    answer is the same with it and without it. This is not done for *newest_first*, where later rows are the first
    reasons.

    Raises:
        MalformedError: the format of the value is unknown, or the policy of an entry, or the value is cut short.
    """
    form, _, _, lineages, count = HEADER.unpack_from(value)
    row_at = HEADER.size + lineages * ENTRY.size
    side_at = row_at + count * ROW_SIZE
    if form != FORMAT or len(value) < side_at:
        raise MalformedError("subject value has an unknown format, or is cut short")
    rows, block, closed = value[row_at:side_at], Limits(value[side_at:]), is_closed(value)
    words, record_at, node_of, rest_at = block.numbers, block.record, matcher.node, ROW_REST.unpack_from
    now_ms = matcher.now_ms
    enough = OPEN_END_MS if newest_first else ENOUGH
    shapes = map(matcher.__getitem__, ROW_SHAPE.iter_unpack(rows))
    entries = ENTRY.iter_unpack(value[HEADER.size : row_at])
    # The offset of the lineage's first row, and the word at which the next side block begins, with its length.
    at = first = following = 0
    for (lineage, seq, number, vocabulary, more, flags, since, _, notice), shape in zip(
        entries, shapes, strict=False
    ):
        is_known = vocabulary <= version
        until_ms = campaigns.get(notice, OPEN_END_MS) if campaigns else OPEN_END_MS
        if flags & HAS_SIDE:
            block.first = first = following + 1
            following = first + (words[following] >> 2)
        if more or not is_known or flags & ~HAS_SIDE:
            ids, every = (seq, lineage, number), [shape, *islice(shapes, more + policy_rows(flags))]
            end = at + len(every) * ROW_SIZE
            if not closed or flags & STATUTORY:
                _add_lineage(
                    trees, ids, flags, since, every, rows[at:end], matcher, block, transfers, is_known=is_known,
                    until_ms=until_ms,
                )
            at = end
            continue
        if shape is not NEVER and not closed:
            rest = rest_at(rows, at)
            if until_ms < OPEN_END_MS and shape.kind == PERMITS:
                rest = rest_until(rest, until_ms)
            # The first record is that of the first row, if the row has one (``SideBlock.add``).
            is_limited = flags & HAS_SIDE and (words[first + 1] or words[first + ENDS])
            if shape.count <= enough or is_limited or not shape.has_seen(rest, now_ms):
                node = node_of(shape, rest, record_at(0) if flags & HAS_SIDE else NO_RECORD, block, since)
                if node:
                    trees.append((CONSENT, (seq, lineage, number), "", (node,), block, block.first))
                    node[0].see(node[1], now_ms)
                if matcher.recurrence is not None:
                    transfers.collect((seq, lineage, number), "")
        at += ROW_SIZE


def _add_lineage(
    trees: list[Tree], ids: Ids, flags: int, since: int, shapes: Sequence[Shape], rows: bytes, matcher: RowMatcher,
    block: Limits, transfers: Transfers, *, is_known: bool, until_ms: int,
) -> None:  # fmt: skip
    """Add the trees of a lineage: its consent, and the implicit policy that the consent selects.

    *is_known*: its directory entry is such that this version can interpret it. *until_ms*: the instant from which its
    permits do not count, because a new version of its notice asks for a new consent.
    """
    layer = STATUTE if flags & STATUTORY else CONSENT
    rests = [*ROW_REST.iter_unpack(rows)]
    records = block.records([rest[4] for rest in rests]) if flags & HAS_SIDE else [NO_RECORD] * len(rests)
    if not is_known or flags & UNREADABLE:
        node = matcher.node(matcher.unreadable(), rests[0], records[0], block, since)
        if node:
            trees.append((layer, ids, "", (node,), block, block.first))
        return
    if flags & PAUSED:
        shapes = without_permits(shapes)
    elif until_ms < OPEN_END_MS:
        rests = [
            rest_until(rest, until_ms) if shape.kind == PERMITS else rest
            for shape, rest in zip(shapes, rests, strict=True)
        ]
    tree = len(rests) - POLICY_ROWS[flags >> POLICY_SHIFT]
    for where, begin, end in (layer, 0, tree), (IMPLICIT, tree, len(rests)):
        if begin == end:
            continue
        if end - begin < len(rests):
            part = shapes[begin:end], rests[begin:end], records[begin:end]
        else:
            part = shapes, rests, records
        nodes = [node for node in matcher.nodes(*part, block, since) if node]
        if nodes or matcher.recurrence is not None:
            path = "" if begin or tree == 1 else Paths(rows[DEPTH_AT : tree * ROW_SIZE : ROW_SIZE])
            if nodes:
                trees.append((where, ids, path, nodes, block, block.first))
            if matcher.recurrence is not None:
                transfers.collect(ids, path)


def without_permits(shapes: Sequence[Shape]) -> list[Shape]:
    """Return the shapes of rows whose permits do not match."""
    return [NEVER if shape.kind == PERMITS else shape for shape in shapes]


def prepare_realm(trees: list[Tree], matcher: RowMatcher, rules: CompiledRules, *, enrolled: bool) -> Shape:
    """Add the realm's implicit policy to *trees*. Return the shape of what combining permits otherwise; NEVER: nothing.

    Neither permits anything about a person who is not enrolled.
    """
    found = (matcher.match(row, NO_LIMITS, rules.since) for row in rules.policy)
    nodes = [node for node in found if node and (enrolled or node[0].kind != PERMITS)]
    if nodes:
        trees.append((REALM, NO_IDS, "", nodes, NO_LIMITS, 0))
    node = None if rules.otherwise is None or not enrolled else matcher.match(rules.otherwise, NO_LIMITS, 0)
    return node[0] if node else NEVER


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
