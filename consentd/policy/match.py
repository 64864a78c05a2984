"""Match a question with every row of a subject (a person), where the simple loop of ``evaluate`` is not enough.

A consent is a tree of provisions (policy.md, rule 2). The value of a node for a category is deny if the value of a
child is deny, else permit if the value of a child is permit, else the node's own effect if the node itself matches. The
rows of a tree are in preorder. So a loop from the last row to the first meets every child before its parent, and the
loop needs one accumulator for each depth. Bit masks let one loop decide all categories. An implicit policy is a tree of
its own, in a lower layer.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from consentd.policy.codebook import PackedQuestion
from consentd.policy.compile import POLICY_ROWS, POLICY_SHIFT, STATUTORY, UNREADABLE, CompiledRules, Rule
from consentd.policy.match_row import Limits, Matcher
from consentd.policy.model import MAX_DEPTH, OPEN_END_MS, Layer
from consentd.policy.rows import PERMIT, ROW, Fields, uses_reserved
from consentd.policy.subject import PAUSED, is_closed, split_subject
from consentd.policy.tree import paths

PERMITS: Final = 0
DENIES: Final = 1
UNKNOWNS: Final = 2

STATUTE: Final = int(Layer.STATUTE)
BREAK_GLASS: Final = int(Layer.BREAK_GLASS)
CONSENT: Final = int(Layer.CONSENT)
IMPLICIT: Final = int(Layer.IMPLICIT)
REALM: Final = int(Layer.REALM)

Ids = tuple[int, int, int]
"""(seq of the consent's leaf, lineage, version). All three are 0 for a rule of the realm."""

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


class Lineage(NamedTuple):
    """One lineage (a consent and its amendments) of a subject value. *block* is the side block of the rows.

    Attributes:
        rows: the rows of the consent. If it is not ``is_readable``, only the first row's participants and window count.
        policy: the rows of the implicit policy that the consent selects.
    """

    ids: Ids
    is_paused: bool
    layer: int
    rows: list[Fields]
    policy: list[Fields]
    block: Limits
    is_readable: bool


class Person(NamedTuple):
    """A subject value, decoded.

    Attributes:
        is_enrolled: whether the person is enrolled.
        is_closed: whether everything is denied in layer CONSENT, unread.
        lineages: those that are read.
    """

    is_enrolled: bool
    is_closed: bool
    lineages: list[Lineage]


def decode_person(value: bytes | None, version: int, *, newest_first: bool) -> Person:
    """Decode a subject value. Of a value that ``is_closed``, only the statutory lineages are read.

    A lineage is not readable if its vocabulary is later than *version*, or if it has fields of a later version.
    """
    closed = is_closed(value)
    lineages: list[Lineage] = []
    for one in split_subject(value):
        if closed and not one.flags & STATUTORY:
            continue
        rows: list[Fields] = list(ROW.iter_unpack(one.rows))
        tree = len(rows) - POLICY_ROWS[one.flags >> POLICY_SHIFT]
        readable = one.vocabulary <= version and not one.flags & UNREADABLE and one.reserved == (0, 0)
        if one.side and readable:
            readable = not uses_reserved(one.side, rows)
        lineages.append(Lineage(
            ids=(one.seq, one.lineage, one.version),
            is_paused=bool(one.flags & PAUSED),
            layer=STATUTE if one.flags & STATUTORY else CONSENT,
            rows=rows[:tree],
            policy=rows[tree:] if readable else [],
            block=Limits(one.side, one.since),
            is_readable=readable,
        ))  # fmt: skip
    if newest_first:
        lineages.reverse()
    return Person(value is not None, closed, lineages)


def realm_rules(rules: CompiledRules, question: PackedQuestion) -> tuple[tuple[int, tuple[Rule, ...]], ...]:
    """Return the rules of the realm that can match a question, as (layer, rules) for the two layers of rules."""
    break_glass = rules.break_glass if question.break_glass else ()
    return (STATUTE, rules.by_purpose.get(question.purpose, ())), (BREAK_GLASS, break_glass)


def match(person: Person, matcher: Matcher, rules: CompiledRules, now_ms: int) -> Matches:
    """Match the question of *matcher* with the realm's rules and with every lineage of a person.

    If the person's denies are over their limit (``is_closed``), they deny everything in layer CONSENT, unread.
    """
    question = matcher.question
    found = Matches(question.parties.until_ms)
    if not question.categories:
        return found
    of_rules = Limits(rules.block, rules.since)
    for layer, applicable in realm_rules(rules, question):
        for row, where in applicable:
            mask = matcher.match(row, of_rules)
            if mask and found.in_force(row[4], row[5], now_ms):
                found.add(layer, PERMITS if row[9] & PERMIT else DENIES, mask, NO_IDS, where)
    if person.is_closed:
        found.add(CONSENT, DENIES, question.categories)
    for ids, paused, layer, rows, policy, block, readable in person.lineages:
        if readable:
            _match_tree(found, layer, rows, ids, matcher, block, now_ms, silent=paused)
        elif unreadable_matches(rows[0], matcher, block) and found.in_force(rows[0][4], rows[0][5], now_ms):
            found.add(layer, UNKNOWNS, question.categories, ids)
        if policy:
            _match_tree(found, IMPLICIT, policy, ids, matcher, block, now_ms, silent=paused)
    match_realm(found, matcher, rules, enrolled=person.is_enrolled)
    return found


def match_realm(found: Matches, matcher: Matcher, rules: CompiledRules, *, enrolled: bool) -> None:
    """Add the realm's implicit policy, and what combining permits if no consent says anything.

    Neither permits anything about a person who is not enrolled.
    """
    block = Limits(rules.block, rules.since)
    if rules.policy:
        _match_tree(found, REALM, rules.policy, NO_IDS, matcher, block, 0, silent=not enrolled)
    if rules.otherwise is not None and enrolled:
        found.otherwise = matcher.match(rules.otherwise, block)


def unreadable_matches(row: Fields, matcher: Matcher, block: Limits) -> bool:
    """Return whether an unreadable consent may match. Its participants alone are compared, as those of a deny."""
    return matcher.participants_match((*row[:9], row[9] & ~PERMIT, *row[10:]), block)


def _match_tree(
    found: Matches, layer: int, rows: Sequence[Fields], ids: Ids, matcher: Matcher, block: Limits, now_ms: int,
    *, silent: bool,
) -> None:  # fmt: skip
    """Compute what one tree permits and denies, children before parents. *found* gets each node that decided.

    *silent*: the permits of the tree do not match.

    Example: permit P has the child deny D, and D has the child permit E. All three match the same category. The loop
    runs E, D, P. E permits, so the own effects of D and P do not count: the value is permit, and node E decided.
    """
    if len(rows) == 1:
        row = rows[0]
        permit = row[9] & PERMIT
        if not (silent and permit):
            mask = matcher.match(row, block)
            if mask and found.in_force(row[4], row[5], now_ms):
                found.add(layer, PERMITS if permit else DENIES, mask, ids)
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
        if not (silent and permit):
            mask = matcher.match(row, block)
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
    # An implicit policy is shown as a whole, with the empty path.
    of_consent = None if layer in (IMPLICIT, REALM) else Paths(rows)
    for node, kind, mask in reversed(decisive):
        # A nested permit did not decide those categories that a deny elsewhere in the tree denies.
        counted = mask if kind == DENIES else mask & permitted[0]
        if counted:
            found.add(layer, kind, counted, ids, "" if of_consent is None else (of_consent, node))
