"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

``prepare`` finds the rows that may match, once for a question. ``match`` finds those that match in one case.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories. An implicit policy is a tree of
its own, in a lower layer.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from consentd.errors import MalformedError
from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules
from consentd.policy.match_row import NO_LIMITS, NO_MATCH, UNKNOWN, Fits, Limits, RowMatcher
from consentd.policy.model import MAX_DEPTH, OPEN_END_MS, Layer
from consentd.policy.rows import PERMIT, ROW, ROW_SIZE, SIDE, Fields, uses_reserved_at
from consentd.policy.subject import (
    ENTRY,
    FORMAT,
    HAS_SIDE,
    HEADER,
    PAUSED,
    SIDE_LENGTH,
    Ids,
    is_closed,
    policy_rows,
)
from consentd.policy.tree import paths

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)
REALM: Final = int(Layer.REALM)

NO_IDS: Final[Ids] = (0, 0, 0)


class Paths:
    """The paths of the provisions of one consent. They are computed when the first is asked for."""

    __slots__ = ("_found", "_rows")

    def __init__(self, rows: Sequence[Fields]) -> None:
        self._rows = rows
        self._found: list[str] = []

    def of(self, node: int) -> str:
        """Return the path of the row *node*."""
        if not self._found:
            self._found = paths([row[10] for row in self._rows])
        return self._found[node]


Where = str | tuple[Paths, int]
"""The path of a provision; or the paths of its consent, and the index of its row."""


class Matches:
    """The rows that match a question, and the categories that they permit, deny or make unknown.

    Attributes:
        masks: ``masks[layer][kind]`` is a mask of categories; kind is ``PERMITS``, ``DENIES`` or ``UNKNOWNS``.
        rows: (layer, kind, categories, ids, where) of each match, in the order in which they were added.
        otherwise: categories that combining permits if no consent says anything about them.
        until_ms: the earliest start or end after now, among all rows that match if their windows are ignored.
    """

    __slots__ = ("masks", "otherwise", "rows", "until_ms")

    def __init__(self, until_ms: int = OPEN_END_MS) -> None:
        self.masks: Final = ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
        self.rows: Final[list[tuple[int, int, int, Ids, Where]]] = []
        self.otherwise = 0
        self.until_ms = until_ms

    def add(self, layer: int, kind: int, mask: int, ids: Ids = NO_IDS, where: Where = "") -> None:
        """Add a row that permits, denies or makes unknown the categories of ``mask``. Ignore an empty mask."""
        if mask:
            self.masks[layer][kind] |= mask
            self.rows.append((layer, kind, mask, ids, where))

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


Candidate = tuple[Fields, int, int]
"""A row, and the mask and the key with which it may match (``match_row``)."""


Tree = tuple[int, Ids, str | None, bytes, Sequence[Candidate]]
"""The rows of one consent, of one implicit policy, or one rule of the realm, of which at least one may match: (layer,
ids, path, side block, rows). The path is that of the rows in reasons; None: each row has its own, by its place in the
tree. A tree is no class, because that takes longer, and a person may have many."""


class Prepared(NamedTuple):
    """What may match a question.

    Attributes:
        trees: in the order of reasons: rules of the realm, lineages with their policies, the realm's policy.
        is_closed: everything is denied in layer CONSENT, and its lineages are not read.
        otherwise: mask and key of what combining permits if no consent says anything.
    """

    trees: list[Tree]
    is_closed: bool
    otherwise: tuple[int, int]


def prepare(
    value: bytes | None, question: PackedQuestion, rules: CompiledRules, now_ms: int, *, newest_first: bool
) -> Prepared:
    """Find what may match a question: of the realm's rules, and of a person's consents.

    If the person's denies are over their limit (``is_closed``), only the statutory lineages are read.
    """
    closed = is_closed(value)
    if not question.categories:
        return Prepared([], closed, NO_MATCH)
    matcher = RowMatcher(question)
    of_rules = Limits(rules.block)
    trees: list[Tree] = []
    break_glass = rules.break_glass if question.break_glass else ()
    for layer, applicable in (STATUTE, rules.by_purpose.get(question.purpose, ())), (BREAK_GLASS, break_glass):
        for row, where in applicable:
            if row[5] > now_ms:
                mask, key = matcher.match(row, of_rules, rules.since)
                if mask:
                    trees.append((layer, NO_IDS, where, rules.block, ((row, mask, key),)))
    begin = len(trees)
    if value:
        _add_lineages(trees, value, matcher, question, now_ms)
    if newest_first:
        trees[begin:] = sorted(trees[begin:], key=lambda tree: tree[1][1], reverse=True)
    otherwise = prepare_realm(trees, question, rules, enrolled=value is not None)
    return Prepared(trees, closed, otherwise)


def _add_lineages(
    trees: list[Tree], value: bytes, matcher: RowMatcher, question: PackedQuestion, now_ms: int
) -> None:
    """Add the trees of a person's lineages.

    A person may have thousands of lineages. So one loop reads the directory and the rows beside each other, and a
    lineage that is a single row, as most are, needs no more than a look at its masks if they do not match.

    Raises:
        MalformedError: the format of the value is unknown, or the policy of an entry, or the value is cut short.
    """
    form, _, _, lineages, count = HEADER.unpack_from(value)
    row_at = HEADER.size + lineages * ENTRY.size
    side_end = row_at + count * ROW_SIZE
    if form != FORMAT or len(value) < side_end:
        raise MalformedError("subject value has an unknown format, or is cut short")
    entries, rows = ENTRY.iter_unpack(value[HEADER.size : row_at]), ROW.iter_unpack(value[row_at:side_end])
    version, closed = question.version, is_closed(value)
    # The masks of denies include those of permits.
    purposes, categories = question.deny_purposes, question.leaves.deny_mask
    first_at = side_end
    limits = Limits(value[first_at:])
    for (lineage, seq, number, vocabulary, more, flags, since, authority, notice), row in zip(
        entries, rows, strict=False
    ):
        side_at = side_end
        if flags & HAS_SIDE:
            side_at += SIDE_LENGTH.size
            side_end = side_at + SIDE_LENGTH.unpack_from(value, side_end)[0]
        is_known = vocabulary <= version and not (authority or notice)
        if more or flags & ~HAS_SIDE or not is_known or (row[9] & SIDE and uses_reserved_at(value, row[8], side_at)):
            every = [row, *islice(rows, more + policy_rows(flags))]
            if not closed or flags & STATUTORY:
                ids, side = (seq, lineage, number), value[side_at:side_end]
                limits.first = (side_at - first_at) // 4
                _add_lineage(
                    trees, ids, flags, since, every, side, limits, matcher, question, now_ms, is_known=is_known
                )
        elif row[2] & purposes and row[3] & categories and row[5] > now_ms and not closed:
            limits.first = (side_at - first_at) // 4
            mask, key = matcher.match(row, limits, since)
            if mask:
                trees.append((CONSENT, (seq, lineage, number), "", value[side_at:side_end], ((row, mask, key),)))


def _add_lineage(
    trees: list[Tree], ids: Ids, flags: int, since: int, rows: Sequence[Fields], side: bytes, block: Limits,
    matcher: RowMatcher, question: PackedQuestion, now_ms: int, *, is_known: bool,
) -> None:  # fmt: skip
    """Add the trees of a lineage: its consent, and the implicit policy that the consent selects.

    *is_known*: its directory entry is one that this version can interpret.
    """
    layer = STATUTE if flags & STATUTORY else CONSENT
    if not is_known or flags & UNREADABLE or (side and block.has_reserved(rows)):
        if matcher.matches_unreadable(rows[0], block, since):
            trees.append((layer, ids, "", side, ((rows[0], question.categories, UNKNOWN),)))
        return
    silent = flags & PAUSED
    tree = len(rows) - POLICY_ROWS[flags >> POLICY_SHIFT]
    candidates = _candidates(rows[:tree], matcher, block, since, now_ms, silent=silent)
    if candidates:
        trees.append((layer, ids, "" if tree == 1 else None, side, candidates))
    if len(rows) > tree:
        candidates = _candidates(rows[tree:], matcher, block, since, now_ms, silent=silent)
        if candidates:
            trees.append((IMPLICIT, ids, "", side, candidates))


def _candidates(
    rows: Sequence[Fields], matcher: RowMatcher, block: Limits, since: int, now_ms: int, *, silent: int
) -> list[Candidate]:
    """Return the rows of a tree; empty: none may match. *silent*: the permits do not match."""
    found: list[Candidate] = []
    matched = 0
    for row in rows:
        mask = key = 0
        if row[5] > now_ms and not (silent and row[9] & PERMIT):
            mask, key = matcher.match(row, block, since)
            matched |= mask
        found.append((row, mask, key))
    return found if matched else []


def prepare_realm(
    trees: list[Tree], question: PackedQuestion, rules: CompiledRules, *, enrolled: bool
) -> tuple[int, int]:
    """Add the realm's implicit policy to *trees*. Return the mask and key of what combining permits otherwise.

    Neither permits anything about a person who is not enrolled.
    """
    matcher = RowMatcher(question)
    candidates = _candidates(rules.policy, matcher, NO_LIMITS, rules.since, 0, silent=not enrolled)
    if candidates:
        trees.append((REALM, NO_IDS, "", b"", candidates))
    return NO_MATCH if rules.otherwise is None or not enrolled else matcher.match(rules.otherwise, NO_LIMITS, 0)


def match(prepared: Prepared, fits: Fits, question: PackedQuestion, now_ms: int) -> Matches:
    """Find what matches in one case. If the person's denies are over their limit, all of layer CONSENT is denied."""
    found = Matches(question.parties.until_ms)
    if prepared.is_closed:
        found.add(CONSENT, DENIES, question.categories)
    match_trees(found, prepared.trees, fits, now_ms)
    mask, key = prepared.otherwise
    found.otherwise = mask and mask & fits[key]
    return found


def match_trees(found: Matches, trees: Sequence[Tree], fits: Fits, now_ms: int) -> None:
    """Add what the trees permit, deny or make unknown."""
    masks, rows = found.masks, found.rows
    in_force, add = found.in_force, rows.append
    for layer, ids, path, _, candidates in trees:
        if len(candidates) > 1:
            _match_tree(found, layer, ids, path, candidates, fits, now_ms)
            continue
        row, mask, key = candidates[0]
        mask &= fits[key]
        # A row without an end needs no call to see that it is in force.
        if mask and ((row[5] == OPEN_END_MS and row[4] <= now_ms) or in_force(row[4], row[5], now_ms)):
            kind = PERMITS if key & PERMIT else UNKNOWNS if key & UNKNOWN else DENIES
            masks[layer][kind] |= mask
            add((layer, kind, mask, ids, path or ""))


def _match_tree(
    found: Matches, layer: int, ids: Ids, path: str | None, candidates: Sequence[Candidate], fits: Fits, now_ms: int
) -> None:
    """Compute what one tree permits and denies, children before parents. *found* gets each node that decided.

    Example: permit P has the child deny D, and D has the child permit E. All three match the same category. The loop
    runs E, D, P. E permits, so the own effects of D and P do not count: the value is permit, and node E decided.
    """
    permitted = [0] * (MAX_DEPTH + 1)
    denied = [0] * (MAX_DEPTH + 1)
    decisive: list[tuple[int, int, int]] = []  # (node, kind, categories that the node's own effect decided)
    for row, mask, key in reversed(candidates):
        depth = row[10]
        inner = depth + 1
        permits, denies = permitted[inner], denied[inner]
        permitted[inner] = denied[inner] = 0
        mask = mask and mask & fits[key]
        if mask and ((row[5] == OPEN_END_MS and row[4] <= now_ms) or found.in_force(row[4], row[5], now_ms)):
            mask &= ~(permits | denies)
            if mask:
                if key & PERMIT:
                    permits |= mask
                    decisive.append((row[11], PERMITS, mask))
                else:
                    denies |= mask
                    decisive.append((row[11], DENIES, mask))
        if permits or denies:
            permitted[depth] |= permits & ~denies
            denied[depth] |= denies
    if not decisive:
        return
    of_consent = Paths([row for row, _, _ in candidates]) if path is None else None
    of_layer, add, root_permits = found.masks[layer], found.rows.append, permitted[0]
    for node, kind, mask in reversed(decisive):
        # A nested permit did not decide those categories that a deny elsewhere in the tree denies.
        counted = mask if kind == DENIES else mask & root_permits
        if counted:
            of_layer[kind] |= counted
            add((layer, kind, counted, ids, path or "" if of_consent is None else (of_consent, node)))
