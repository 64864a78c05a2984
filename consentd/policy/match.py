"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

``prepare`` finds the rows that may match, once for a question. ``match`` finds those that match in one case.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories. An implicit policy is a tree of
its own, in a lower layer.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from consentd.errors import MalformedError
from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules
from consentd.policy.match_row import (
    DENIES,
    NEVER,
    PERMITS,
    Fits,
    RowMatcher,
    Shape,
)
from consentd.policy.model import MAX_DEPTH, OPEN_END_MS, Layer
from consentd.policy.rows import DEPTH_AT, ENDS, RESERVED_SHIFT, ROW, ROW_SHAPE, ROW_SIDE, ROW_SIZE
from consentd.policy.side_blocks import NO_LIMITS, NO_RECORD, Limits
from consentd.policy.subject import (
    ENTRY,
    FORMAT,
    HAS_SIDE,
    HEADER,
    PAUSED,
    Ids,
    is_closed,
    policy_rows,
)
from consentd.policy.tree import paths

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)
REALM: Final = int(Layer.REALM)

NO_IDS: Final[Ids] = (0, 0, 0)
SINGLE: Final = b"\0"
"""The depths of the rows of a tree that is a single row."""
_SEVERAL: Final = -1


class Paths:
    """The paths of the provisions of one consent. They are computed when the first is asked for."""

    __slots__ = ("_depths", "_found")

    def __init__(self, depths: bytes) -> None:
        self._depths = depths
        self._found: list[str] = []

    def of(self, node: int) -> str:
        """Return the path of the row *node*."""
        if not self._found:
            self._found = paths(self._depths)
        return self._found[node]


Where = str | tuple[Paths, int]
"""The path of a provision; or the paths of its consent, and the index of its row."""


class Matches:
    """The rows that match a question, and the categories that they permit, deny or make unknown.

    Attributes:
        masks: ``masks[layer][kind]`` is a mask of categories; kind is ``PERMITS``, ``DENIES`` or ``UNKNOWNS``.
        otherwise: categories that combining permits if no consent says anything about them.
        until_ms: the earliest start or end after now, among all rows that match if their windows are ignored.
    """

    __slots__ = ("_rows", "masks", "otherwise", "until_ms")

    def __init__(self, until_ms: int = OPEN_END_MS) -> None:
        self.masks: Final = ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
        self._rows: Final[list[tuple[int, int, int, Ids, Any]]] = []
        self.otherwise = 0
        self.until_ms = until_ms

    def add(self, layer: int, kind: int, mask: int, ids: Ids = NO_IDS, where: Where = "") -> None:
        """Add a row that permits, denies or makes unknown the categories of ``mask``. Ignore an empty mask."""
        if mask:
            self.masks[layer][kind] |= mask
            self._rows.append((layer, kind, mask, ids, where))

    def add_tree(
        self, layer: int, permits: int, denies: int, ids: Ids, where: "str | Paths", decisive: "list[Decisive]"
    ) -> None:
        """Add a tree that permits and denies these categories. *decisive*: its nodes that decided, the last first.

        A nested permit did not decide those categories that a deny elsewhere in the tree denies.
        """
        of_layer = self.masks[layer]
        of_layer[PERMITS] |= permits
        of_layer[DENIES] |= denies
        self._rows.append((layer, _SEVERAL, permits, ids, (where, decisive)))

    def rows(self) -> Iterator[tuple[int, int, int, Ids, Where]]:
        """Yield (layer, kind, categories, ids, where) of each row that decided, in the order in which they were added.

        A person may have thousands, and few become reasons. So they are made when they are asked for.
        """
        for row in self._rows:
            layer, kind, permits, ids, what = row
            if kind != _SEVERAL:
                yield row
                continue
            where, decisive = what
            for node, kind, mask in reversed(decisive):
                counted = mask & permits if kind == PERMITS else mask
                if counted:
                    yield layer, kind, counted, ids, where if isinstance(where, str) else (where, node)

    def in_force(self, start_ms: int, end_ms: int, now_ms: int) -> bool:
        """Return whether the window of a matching row contains now; lower ``until_ms`` to the window's next bound."""
        if start_ms > now_ms:
            if start_ms < self.until_ms:
                self.until_ms = start_ms
            return False
        if now_ms < end_ms:
            if end_ms < self.until_ms:
                self.until_ms = end_ms
            return True
        return False


def path_of(where: Where) -> str:
    """Return the path of a provision as ``model.Reason`` has it."""
    if isinstance(where, str):
        return where
    of_consent, node = where
    return of_consent.of(node)


Decisive = tuple[int, int, int]
"""(node, kind, categories that the node's own effect decided)."""

Tree = tuple[int, Ids, str | None, Sequence[Shape], bytes, Limits, int, Sequence[int]]
"""The rows of one consent, of one implicit policy, or one rule of the realm, of which at least one may match: (layer,
ids, path, shapes of the rows, their depths, the side blocks, the word at which the consent's own begins, and the words
of the rows' side records in it). The path is that of the rows in reasons; None: each row has its own, by its place in
the tree. A tree is no class, because that takes longer, and a person may have many."""


class Prepared(NamedTuple):
    """What may match a question.

    Attributes:
        trees: in the order of reasons: rules of the realm, lineages with their policies, the realm's policy.
        is_closed: everything is denied in layer CONSENT, and its lineages are not read.
        otherwise: the shape of what combining permits if no consent says anything; NEVER: nothing.
    """

    trees: list[Tree]
    is_closed: bool
    otherwise: Shape


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
            shape = matcher.match(row, of_rules, rules.since)
            if shape is not NEVER:
                trees.append((layer, NO_IDS, where, (shape,), SINGLE, of_rules, 0, (row[8],)))
    begin = len(trees)
    if value:
        _add_lineages(trees, value, matcher, question.version)
    if newest_first:
        trees[begin:] = sorted(trees[begin:], key=lambda tree: tree[1][1], reverse=True)
    otherwise = prepare_realm(trees, matcher, rules, enrolled=value is not None)
    return Prepared(trees, closed, otherwise)


def _add_lineages(trees: list[Tree], value: bytes, matcher: RowMatcher, version: int) -> None:
    """Add the trees of a person's lineages. *version*: that of the question's vocabulary.

    A person may have thousands of lineages. So one loop reads the directory and the rows beside each other, and a
    lineage that is a single row, as most are, needs no more than a look at its shape if it does not match.

    Raises:
        MalformedError: the format of the value is unknown, or the policy of an entry, or the value is cut short.
    """
    form, _, _, lineages, count = HEADER.unpack_from(value)
    row_at = HEADER.size + lineages * ENTRY.size
    side_at = row_at + count * ROW_SIZE
    if form != FORMAT or len(value) < side_at:
        raise MalformedError("subject value has an unknown format, or is cut short")
    rows, block, closed = value[row_at:side_at], Limits(value[side_at:]), is_closed(value)
    words, record_at, limit = block.numbers, block.record, matcher.limit
    shapes = map(matcher.__getitem__, ROW_SHAPE.iter_unpack(rows))
    entries = ENTRY.iter_unpack(value[HEADER.size : row_at])
    # The number of the lineage's first row, and the word at which the next side block begins, with its length.
    number_of_row = following = 0
    for (lineage, seq, number, vocabulary, more, flags, since, _, notice), shape in zip(
        entries, shapes, strict=False
    ):
        if flags & HAS_SIDE:
            block.first = first = following + 1
            following = first + (words[following] >> 2)
            record = record_at(first)  # that of the first row, if the row has one (``SideBlock.add``)
        else:
            record = NO_RECORD
        is_known = vocabulary <= version and not (notice or record[ENDS] >> RESERVED_SHIFT)
        if more or not is_known or flags & ~HAS_SIDE:
            ids, every = (seq, lineage, number), [shape, *islice(shapes, more + policy_rows(flags))]
            end = number_of_row + len(every)
            if not closed or flags & STATUTORY:
                some = rows[number_of_row * ROW_SIZE : end * ROW_SIZE]
                _add_lineage(trees, ids, flags, since, every, some, matcher, block, is_known=is_known)
            number_of_row = end
            continue
        number_of_row += 1
        if shape is not NEVER and not closed:
            if shape.is_partial:
                shape = limit(shape, record, block, since)
            if shape is not NEVER:
                trees.append((CONSENT, (seq, lineage, number), "", (shape,), SINGLE, block, block.first, SINGLE))


def _add_lineage(
    trees: list[Tree], ids: Ids, flags: int, since: int, shapes: Sequence[Shape], rows: bytes, matcher: RowMatcher,
    block: Limits, *, is_known: bool,
) -> None:  # fmt: skip
    """Add the trees of a lineage: its consent, and the implicit policy that the consent selects.

    *is_known*: its directory entry and its first record are such that this version can interpret them.
    """
    layer = STATUTE if flags & STATUTORY else CONSENT
    sides = [side for (side,) in ROW_SIDE.iter_unpack(rows)]
    records = block.records(sides) if flags & HAS_SIDE else [NO_RECORD] * len(sides)
    is_later = bool(flags & HAS_SIDE) and any(record[ENDS] >> RESERVED_SHIFT for record in records)
    if not is_known or flags & UNREADABLE or is_later:
        shape = matcher.match_unreadable(ROW.unpack_from(rows), block, since)
        if shape is not NEVER:
            trees.append((layer, ids, "", (shape,), SINGLE, block, block.first, SINGLE))
        return
    if flags & PAUSED:
        shapes = without_permits(shapes)
    limit = matcher.limit
    shapes = [
        limit(shape, record, block, since) if shape.is_partial else shape
        for shape, record in zip(shapes, records, strict=True)
    ]
    depths = rows[DEPTH_AT::ROW_SIZE]
    tree = len(shapes) - POLICY_ROWS[flags >> POLICY_SHIFT]
    for where, begin, end in (layer, 0, tree), (IMPLICIT, tree, len(shapes)):
        some = shapes[begin:end]
        if some.count(NEVER) < len(some):
            path = "" if begin or tree == 1 else None
            trees.append((where, ids, path, some, depths[begin:end], block, block.first, sides[begin:end]))


def without_permits(shapes: Sequence[Shape]) -> list[Shape]:
    """Return the shapes of rows whose permits do not match."""
    return [NEVER if shape.kind == PERMITS else shape for shape in shapes]


def prepare_realm(trees: list[Tree], matcher: RowMatcher, rules: CompiledRules, *, enrolled: bool) -> Shape:
    """Add the realm's implicit policy to *trees*. Return the shape of what combining permits otherwise; NEVER: nothing.

    Neither permits anything about a person who is not enrolled.
    """
    shapes = [matcher.match(row, NO_LIMITS, rules.since) for row in rules.policy]
    if not enrolled:
        shapes = without_permits(shapes)
    if shapes.count(NEVER) < len(shapes):
        depths = bytes([row.depth for row in rules.policy])
        trees.append((REALM, NO_IDS, "", shapes, depths, NO_LIMITS, 0, bytes(len(shapes))))
    return NEVER if rules.otherwise is None or not enrolled else matcher.match(rules.otherwise, NO_LIMITS, 0)


class _Live(dict[Shape, int]):
    """Shape → the leaves asked for that its rows match in one case, at one instant; *found* gets their ends."""

    __slots__ = ("_fits", "_found", "_now_ms")

    def __init__(self, found: Matches, fits: Fits, now_ms: int) -> None:
        super().__init__()
        self._found, self._fits, self._now_ms = found, fits, now_ms

    def __missing__(self, shape: Shape) -> int:
        mask = shape.mask and shape.mask & self._fits[shape.key]
        if mask and not self._found.in_force(shape.row[4], shape.row[5], self._now_ms):
            mask = 0
        self[shape] = mask
        return mask


def match(prepared: Prepared, fits: Fits, question: PackedQuestion, now_ms: int) -> Matches:
    """Find what matches in one case. If the person's denies are over their limit, all of layer CONSENT is denied."""
    found = Matches(question.parties.until_ms)
    if prepared.is_closed:
        found.add(CONSENT, DENIES, question.categories)
    match_trees(found, prepared.trees, fits, now_ms)
    otherwise = prepared.otherwise
    found.otherwise = otherwise.mask and otherwise.mask & fits[otherwise.key]
    return found


def match_trees(found: Matches, trees: Sequence[Tree], fits: Fits, now_ms: int) -> None:
    """Add what the trees permit, deny or make unknown."""
    live, add = _Live(found, fits, now_ms), found.add
    for layer, ids, path, shapes, depths, _, _, _ in trees:
        if len(shapes) > 1:
            _match_tree(found, layer, ids, path, shapes, depths, live)
        else:
            shape = shapes[0]
            add(layer, shape.kind, live[shape], ids, path or "")


def _match_tree(
    found: Matches, layer: int, ids: Ids, path: str | None, shapes: Sequence[Shape], depths: bytes, live: _Live
) -> None:
    """Compute what one tree permits and denies, children before parents. *found* gets each node that decided.

    Example: permit P has the child deny D, and D has the child permit E. All three match the same category. The loop
    runs E, D, P. E permits, so the own effects of D and P do not count: the value is permit, and node E decided.
    """
    permitted = [0] * (MAX_DEPTH + 1)
    denied = [0] * (MAX_DEPTH + 1)
    decisive: list[Decisive] = []
    below = 0  # the depth of the row after this one
    for node, shape, depth in zip(range(len(shapes) - 1, -1, -1), reversed(shapes), reversed(depths), strict=True):
        mask = live[shape]
        if depth < below:  # the rows after it are its children
            permits, denies = permitted[below], denied[below]
            permitted[below] = denied[below] = 0
            mask &= ~(permits | denies)
            permitted[depth] |= permits & ~denies
            denied[depth] |= denies
        if mask:
            if shape.kind == PERMITS:
                permitted[depth] |= mask
            else:
                denied[depth] |= mask
            decisive.append((node, shape.kind, mask))
        below = depth
    if decisive:
        where = Paths(depths) if path is None else path
        found.add_tree(layer, permitted[0], denied[0], ids, where, decisive)
