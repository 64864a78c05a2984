"""Find the rows of the realm's rules and of a person's lineages that may match a question, once for all cases."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from consentd import limits
from consentd.errors import MalformedError
from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules
from consentd.policy.lineage_form import HAS_SIDE, PAUSED
from consentd.policy.match import BREAK_GLASS, CONSENT, IMPLICIT, NO_IDS, REALM, STATUTE, Prepared, Tree
from consentd.policy.match_row import RowMatcher, participants_match
from consentd.policy.model import OPEN_END_MS
from consentd.policy.rows import (
    DEPTH_AT,
    GROUP,
    ROW_REST,
    ROW_SHAPE,
    ROW_SIZE,
    SIDE,
    Record,
    Rest,
    rest_until,
)
from consentd.policy.shapes import NEVER, PERMITS, Alike, Shape
from consentd.policy.side_blocks import NO_LIMITS, NO_RECORD, Limits
from consentd.policy.subject import ENTRY, FORMAT, HEADER, Ids, is_closed, policy_rows
from consentd.policy.transfers import Transfers
from consentd.policy.tree import Paths

ENOUGH: Final = max(limits.DECISION_REASONS, limits.RESIDUAL_PROVISIONS)
"""So many consents with the same effect on a question fill the reasons, and more of them exceed a residual's limit."""


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
    transfers = Transfers(matcher)
    if value:
        found = _Lineages(value, matcher, transfers, newest_first=newest_first)
        found.read(question.version, rules.campaigns)
        if newest_first:
            found.trees.sort(key=lambda tree: tree[1][1], reverse=True)
            transfers.used_up.sort(key=lambda one: one[1][1], reverse=True)
        trees += found.trees
    otherwise = prepare_realm(trees, matcher, rules, enrolled=value is not None)
    return Prepared(trees, closed, otherwise, transfers.used_up, transfers.recurring)


class _Lineages:
    """Finds the trees of a person's lineages that may match a question.

    A person may have thousands of lineages. So one loop reads the directory and the rows beside each other, and does
    itself what most lineages need, which are a single row without resources or ends.

    Of trees that say the same (``Alike``), those that are in force are kept up to ``ENOUGH``, and then the one that
    changes first: the answer is the same with the others and without them. For *newest_first* all in force are kept,
    because later rows are the first reasons.

    Raises:
        MalformedError: the format of the value is unknown, or the value is cut short.
    """

    def __init__(self, value: bytes, matcher: RowMatcher, transfers: Transfers, *, newest_first: bool) -> None:
        form, _, _, lineages, count = HEADER.unpack_from(value)
        row_at = HEADER.size + lineages * ENTRY.size
        side_at = row_at + count * ROW_SIZE
        if form != FORMAT or len(value) < side_at:
            raise MalformedError("subject value has an unknown format, or is cut short")
        self.trees: list[Tree] = []
        self._entries, self._rows = value[HEADER.size : row_at], value[row_at:side_at]
        self._block, self._is_closed = Limits(value[side_at:]), is_closed(value)
        self._matcher, self._transfers = matcher, transfers
        self._enough = OPEN_END_MS if newest_first else ENOUGH
        self._first_to_change: dict[Alike, Tree] = {}
        self._alike: dict[tuple[object, ...], Alike] = {}

    def read(self, version: int, campaigns: Mapping[int, int]) -> None:
        """Add the trees. *version*: that of the question's vocabulary. *campaigns*: those of the realm's rules.

        Raises:
            MalformedError: the policy of an entry is unknown.
        """
        rows, block, matcher, closed = self._rows, self._block, self._matcher, self._is_closed
        now_ms, enough, words, record_at = matcher.now_ms, self._enough, block.numbers, block.record
        shapes = map(matcher.__getitem__, ROW_SHAPE.iter_unpack(rows))
        rests = ROW_REST.iter_unpack(rows)
        until_ms = OPEN_END_MS
        # The offset of the lineage's first row, and the word at which the next side block begins, with its length.
        at = first = following = 0
        for (lineage, seq, number, vocabulary, more, flags, since, _, notice), shape, rest in zip(
            ENTRY.iter_unpack(self._entries), shapes, rests, strict=False
        ):
            if flags & HAS_SIDE:
                block.first = first = following + 1
                following = first + (words[following] >> 2)
            if campaigns:
                until_ms = campaigns.get(notice, OPEN_END_MS)
            if more or vocabulary > version or flags & ~HAS_SIDE:
                further = more + policy_rows(flags) if flags & ~HAS_SIDE else more
                shapes_of, rests_of = [shape, *islice(shapes, further)], [rest, *islice(rests, further)]
                end = at + len(rests_of) * ROW_SIZE
                if not closed or flags & STATUTORY:
                    depths = rows[at + DEPTH_AT : end : ROW_SIZE]
                    ids = seq, lineage, number
                    if vocabulary > version or flags & ~HAS_SIDE or until_ms < OPEN_END_MS:
                        known = vocabulary <= version and not flags & UNREADABLE
                        self._add(ids, flags, since, shapes_of, rests_of, depths, until_ms, is_known=known)
                    else:
                        self._add_tree(CONSENT, ids, since, shapes_of, rests_of, depths)
                at = end
                continue
            at += ROW_SIZE
            if shape is NEVER or closed:
                continue
            if until_ms < OPEN_END_MS and shape.kind == PERMITS:
                rest = rest_until(rest, until_ms)
            actor, holder, start_ms, end_ms, side, row_flags, _, _ = rest
            if end_ms <= now_ms:
                continue
            if row_flags & SIDE and (words[first + 1] or words[first + 2]):
                record = record_at(side)
                if record[2] or record[1] & 0xFFFF:
                    self._add_limited((seq, lineage, number), shape, rest, record, since)
                    continue
                shape = matcher.in_period(shape, record)
                if shape is NEVER:
                    continue
            is_kept = start_ms <= now_ms and shape.count <= enough
            changes_ms = end_ms if start_ms <= now_ms else start_ms
            if not is_kept and changes_ms >= shape.until_ms:
                continue
            if row_flags & (SIDE | GROUP):
                if not participants_match(shape, rest, words[first] if row_flags & SIDE else 0, block, since):
                    continue
            elif actor not in shape.actors or holder not in shape.holders:
                continue
            tree = CONSENT, (seq, lineage, number), "", ((shape, rest),), block, block.first
            if is_kept:
                shape.count += 1
                self.trees.append(tree)
            else:
                self._first_to_change[shape] = tree
            if changes_ms < shape.until_ms:
                shape.until_ms = changes_ms
        self.trees += self._first_to_change.values()

    def _add_limited(self, ids: Ids, shape: Shape, rest: Rest, record: Record, since: int) -> None:
        """Add a lineage of a single row with resources, ends or uses."""
        node = self._matcher.node(shape, rest, record, self._block, since)
        if node:
            self.trees.append((CONSENT, ids, "", (node,), self._block, self._block.first))
        self._transfers.collect(ids, "")

    def _add(
        self, ids: Ids, flags: int, since: int, shapes: list[Shape], rests: list[Rest], depths: bytes, until_ms: int,
        *, is_known: bool,
    ) -> None:  # fmt: skip
        """Add the trees of a lineage: its consent, and the implicit policy that the consent selects.

        *is_known*: this version can interpret it. *until_ms*: the instant from which its permits do not count, because
        a new version of its notice asks for a new consent.
        """
        layer, block = STATUTE if flags & STATUTORY else CONSENT, self._block
        if not is_known:
            side, row_flags = rests[0][4:6]
            record = block.record(side) if row_flags & SIDE else NO_RECORD
            node = self._matcher.node(self._matcher.unreadable(), rests[0], record, block, since)
            if node:
                self.trees.append((layer, ids, "", (node,), block, block.first))
            return
        if flags & PAUSED:
            shapes = without_permits(shapes)
        elif until_ms < OPEN_END_MS:
            rests = [
                rest_until(rest, until_ms) if shape.kind == PERMITS else rest
                for shape, rest in zip(shapes, rests, strict=True)
            ]
        tree = len(rests) - POLICY_ROWS[flags >> POLICY_SHIFT]
        self._add_tree(layer, ids, since, shapes[:tree], rests[:tree], depths[:tree])
        if tree < len(rests):
            self._add_tree(IMPLICIT, ids, since, shapes[tree:], rests[tree:], b"")

    def _add_tree(
        self, layer: int, ids: Ids, since: int, shapes: list[Shape], rests: list[Rest], depths: bytes
    ) -> None:
        """Add one tree. *depths*: those of its rows; empty: its nodes have no path of their own."""
        block, enough, matcher = self._block, self._enough, self._matcher
        nodes, changes_ms = matcher.nodes(shapes, rests, block, since)
        alike, is_kept = None, True
        if changes_ms:
            key = layer, depths, *shapes
            alike = self._alike.get(key)
            if alike is None:
                alike = self._alike[key] = Alike()
            is_kept = alike.count <= enough
            if not is_kept and changes_ms >= alike.until_ms:
                return
            alike.count += is_kept
            alike.until_ms = min(alike.until_ms, changes_ms)
        if nodes:
            found = layer, ids, Paths(depths) if len(depths) > 1 else "", nodes, block, block.first
            if is_kept:
                self.trees.append(found)
            elif alike is not None:
                self._first_to_change[alike] = found
        if matcher.recurrence is not None:
            self._transfers.collect(ids, Paths(depths) if len(depths) > 1 else "")


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
