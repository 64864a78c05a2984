"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories.

A question may ask for only some data of a category: data with certain labels, resources or a data period. A row may
limit the same three properties. A permit matches if all the data asked for is inside the limits; a deny matches if some
of the data is inside. If the question leaves a property open (rule 5), a limit on that property matches only in a deny
for ``WORST_CASE``, and only in a permit for ``BEST_CASE``. A caller that checks each resource itself needs both cases.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules, Rule
from consentd.policy.model import MAX_DEPTH, OPEN_END_MS, Combining, ImplicitPolicy, Layer
from consentd.policy.rows import (
    ANY_NUMBER,
    PERMIT,
    ROW,
    SIDE,
    SIDE_RECORD,
    SIDE_WINDOW,
    Fields,
    decode_numbers,
    decode_references,
)
from consentd.policy.subject import PAUSED, is_closed, split_subject
from consentd.policy.tree import paths

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)

OpenLimits = tuple[bool, bool]
"""(for a deny, for a permit): whether a limit matches if the question leaves the limited attribute open."""

WORST_CASE: Final[OpenLimits] = (True, False)
BEST_CASE: Final[OpenLimits] = (False, True)
EITHER_CASE: Final[OpenLimits] = (True, True)

Ids = tuple[int, int, int]
"""(seq of the consent's leaf, lineage, version). All three are 0 for a rule of the realm."""

NO_IDS: Final[Ids] = (0, 0, 0)


class Paths:
    """The paths of the provisions of one consent. They are computed when the first is asked for."""

    __slots__ = ("_found", "_rows")

    def __init__(self, rows: list[Fields]) -> None:
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
        selects_policy: whether a consent in force selects an implicit policy, which replaces the realm's policy.
        until_ms: the earliest start or end after now, among all rows that match if their windows are ignored.
    """

    __slots__ = ("masks", "rows", "selects_policy", "until_ms")

    def __init__(self, until_ms: int = OPEN_END_MS) -> None:
        self.masks: Final = ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0])
        self.rows: Final[list[tuple[int, int, int, Ids, Where]]] = []
        self.selects_policy = False
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


class Limits:
    """The side block of one consent, or of the realm's rules, for the evaluation of one question.

    Many rows may share a list. So each list is decoded and compared with the question once.
    """

    __slots__ = ("_meets", "block")

    def __init__(self, block: bytes) -> None:
        self.block = block
        self._meets: dict[int, bool] = {}  # 8 × the list's word + what it is compared with → the result

    def names(self, word: int, asked: frozenset[int], side: int) -> bool:
        """Return whether the list at *word* names one of *asked*. *side* numbers the sets of a question: 0 to 2."""
        found = self._meets.get(8 * word + side)
        if found is None:
            found = self._meets[8 * word + side] = not asked.isdisjoint(decode_numbers(self.block, word))
        return found

    def covers(self, word: int, references: frozenset[str], permit: int) -> bool:
        """Return whether the list at *word* has all references (for a permit), or one of them (for a deny)."""
        found = self._meets.get(8 * word + 4 + permit)
        if found is None:
            limit = decode_references(self.block, word)
            found = references <= limit if permit else not references.isdisjoint(limit)
            self._meets[8 * word + 4 + permit] = found
        return found


_NO_LIMITS: Final = Limits(b"")


class StoredLineage(NamedTuple):
    """One lineage (a consent and its amendments) of a subject value. *block* is the side block of the rows."""

    ids: Ids
    flags: int
    layer: int
    rows: list[Fields]
    block: Limits
    readable: bool


def lineages_of(value: bytes | None, version: int) -> Iterator[StoredLineage]:
    """Yield the lineages of a subject value that are read. Of a value that ``is_closed``, the statutory lineages are.

    A lineage of a later vocabulary than ``version`` is marked unreadable.
    """
    closed = is_closed(value)
    for lineage, seq, number, vocabulary, flags, rows, block in split_subject(value):
        if closed and not flags & STATUTORY:
            continue
        readable = vocabulary <= version and not flags & UNREADABLE
        layer = STATUTE if flags & STATUTORY else CONSENT
        limits = Limits(block) if block else _NO_LIMITS
        yield StoredLineage((seq, lineage, number), flags, layer, list(ROW.iter_unpack(rows)), limits, readable)


def match_row(row: Fields, block: Limits, question: PackedQuestion, open_limits: OpenLimits) -> int:
    """Return the mask of the categories asked for that a row matches if its window is ignored; 0: no match.

    *block* is the side block. It has the row's side record, if the row has flag SIDE.
    """
    actor, holder, purposes, categories, _, _, labels, actions, _, flags, _, _, _ = row
    mask = categories & question.categories
    if not (mask and purposes & question.purpose and actions & question.action):
        return 0
    permit = flags & PERMIT
    if labels:
        asked = question.labels
        if asked is None:
            if not open_limits[permit]:
                return 0
        elif asked & ~labels if permit else not asked & labels:
            return 0
    actors = question.permit_actors if permit else question.deny_actors
    if flags & SIDE:
        return mask if _side_fits(row, block, question, actors, open_limits) else 0
    return mask if actor in actors and holder in question.holders else 0


def _side_fits(
    row: Fields, limits: Limits, question: PackedQuestion, actors: frozenset[int], open_limits: OpenLimits | None
) -> bool:
    """Return whether a question meets the limits of a row's side record; without *open_limits*, only the participants.

    Where the side record has no list of actors or holders, the row's own field is the limit.
    """
    word, permit = row[8], row[9] & PERMIT
    many_actors, many_holders, resources, periods = SIDE_RECORD.unpack_from(limits.block, word * 4)
    if not (limits.names(many_actors, actors, permit) if many_actors else row[0] in actors):
        return False
    if not (limits.names(many_holders, question.holders, 2) if many_holders else row[1] in question.holders):
        return False
    if open_limits is None:
        return True
    if periods:
        if question.data_period is None:
            if not open_limits[permit]:
                return False
        else:
            start, end = question.data_period
            first, last = SIDE_WINDOW.unpack_from(limits.block, word * 4 + SIDE_RECORD.size)
            if not (first <= start and end <= last if permit else start < last and first < end):
                return False
    if resources:
        references = question.resources
        return open_limits[permit] if references is None else limits.covers(resources, references, permit)
    return True


def realm_rules(rules: CompiledRules, question: PackedQuestion) -> tuple[tuple[int, tuple[Rule, ...]], ...]:
    """Return the rules of the realm that can match a question, as (layer, rules) for the two layers of rules."""
    break_glass = rules.break_glass if question.break_glass else ()
    return (STATUTE, rules.by_purpose.get(question.purpose, ())), (BREAK_GLASS, break_glass)


def match(
    value: bytes | None,
    question: PackedQuestion,
    rules: CompiledRules,
    now_ms: int,
    *,
    open_limits: OpenLimits,
    newest_first: bool,
) -> Matches:
    """Match the question with the realm's rules and with every lineage of a subject value.

    If the person's denies are over their limit (``is_closed``), they deny everything in layer CONSENT, unread.
    """
    found = Matches(question.until_ms)
    if not question.categories:
        return found
    of_rules = Limits(rules.block)
    for layer, applicable in realm_rules(rules, question):
        for row, where in applicable:
            mask = match_row(row, of_rules, question, open_limits)
            if mask and found.in_force(row[4], row[5], now_ms):
                found.add(layer, PERMITS if row[9] & PERMIT else DENIES, mask, NO_IDS, where)
    if is_closed(value):
        found.add(CONSENT, DENIES, question.categories)
    lineages = lineages_of(value, question.version)
    for lineage in reversed(list(lineages)) if newest_first else lineages:
        root = lineage.rows[0]
        if lineage.readable:
            _match_tree(found, lineage, question, now_ms, open_limits)
        elif _unreadable_matches(root, lineage.block, question) and found.in_force(root[4], root[5], now_ms):
            found.add(lineage.layer, UNKNOWNS, question.categories, lineage.ids)
        policy = lineage.flags >> POLICY_SHIFT
        if policy and found.in_force(root[4], root[5], now_ms):
            found.selects_policy = True
            permits, denies = implicit_masks(policy, question, rules, selected=True)
            found.add(IMPLICIT, PERMITS, 0 if lineage.flags & PAUSED else permits, lineage.ids)
            found.add(IMPLICIT, DENIES, denies, lineage.ids)
    if not found.selects_policy:
        permits, denies = implicit_masks(rules.implicit_policy, question, rules, selected=False)
        found.add(IMPLICIT, PERMITS, 0 if value is None else permits)
        found.add(IMPLICIT, DENIES, denies)
    return found


def _unreadable_matches(root: Fields, block: Limits, question: PackedQuestion) -> bool:
    """Return whether an unreadable consent may match. Only participants are compared: nothing else is readable."""
    if root[9] & SIDE:
        return _side_fits(root, block, question, question.deny_actors, None)
    return root[0] in question.deny_actors and root[1] in question.holders


def _match_tree(
    found: Matches, lineage: StoredLineage, question: PackedQuestion, now_ms: int, open_limits: OpenLimits
) -> None:
    """Compute what one lineage permits and denies, children before parents. *found* gets each node that decided.

    Example: permit P has the child deny D, and D has the child permit E. All three match the same category. The loop
    runs E, D, P. E permits, so the own effects of D and P do not count: the value is permit, and node E decided.
    """
    paused = lineage.flags & PAUSED
    rows = lineage.rows
    if len(rows) == 1:
        row = rows[0]
        permit = row[9] & PERMIT
        if not (paused and permit):
            mask = match_row(row, lineage.block, question, open_limits)
            if mask and found.in_force(row[4], row[5], now_ms):
                found.add(lineage.layer, PERMITS if permit else DENIES, mask, lineage.ids)
        return
    permitted = [0] * (MAX_DEPTH + 1)
    denied = [0] * (MAX_DEPTH + 1)
    decisive: list[tuple[int, int, int]] = []  # (node, kind, categories that the node's own effect decided)
    for row in reversed(rows):
        depth = row[10]
        inner = depth + 1
        permits, denies = permitted[inner], denied[inner]
        permitted[inner] = denied[inner] = 0
        permit = row[9] & PERMIT
        if not (paused and permit):
            mask = match_row(row, lineage.block, question, open_limits)
            if mask and found.in_force(row[4], row[5], now_ms):
                mask &= ~(permits | denies)
                if permit:
                    permits |= mask
                else:
                    denies |= mask
                if mask:
                    decisive.append((row[11], PERMITS if permit else DENIES, mask))
        permitted[depth] |= permits & ~denies
        denied[depth] |= denies
    of_consent = Paths(rows)
    for node, kind, mask in reversed(decisive):
        # A nested permit did not decide those categories that a deny elsewhere in the tree denies.
        counted = mask if kind == DENIES else mask & permitted[0]
        if counted:
            found.add(lineage.layer, kind, counted, lineage.ids, (of_consent, node))


def combining_for(value: bytes | None, question: PackedQuestion, rules: CompiledRules) -> Combining:
    """Return how the answers of consents combine.

    No default permits anything about a person who is not enrolled (*value* is None), or to an actor whom a permit must
    name.
    """
    is_default_off = value is None or ANY_NUMBER not in question.permit_actors
    if rules.combining is Combining.PERMIT_UNLESS_DENY and is_default_off:
        return Combining.DENY_OVERRIDES
    return rules.combining


def implicit_masks(policy: int, question: PackedQuestion, rules: CompiledRules, *, selected: bool) -> tuple[int, int]:
    """Return the masks of the categories asked for that an implicit policy permits and denies (rule 1, IHE PCF 1.1).

    DENY as the realm's policy denies nothing: the person has refused nothing, so the answer is NO_CONSENT. DENY that a
    consent selects does deny, because the person chose it. BREAK_GLASS_ONLY always denies every purpose except BTG.
    A policy names nobody, so it permits nothing to an actor whom only a permit by name covers (rule 8), or whom no
    permit covers (rule 10).
    """
    purposes, categories = rules.policies[policy]
    if purposes & question.purpose:
        return categories & question.categories if ANY_NUMBER in question.permit_actors else 0, 0
    if policy == ImplicitPolicy.BREAK_GLASS_ONLY or (policy == ImplicitPolicy.DENY and selected):
        return 0, question.categories
    return 0, 0
