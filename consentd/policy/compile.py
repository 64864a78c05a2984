"""Compile consents and rules to rows of bit masks when they are written, so that a consent check has less to compute.

``Compiled`` is one compiled consent; ``subject`` joins the compiled consents of a person. A permit without a limit on
purposes or categories covers only the codes of the vocabulary that the permit was compiled with. A deny without a limit
also covers codes that are added later. So no existing consent permits a code that is added later.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from consentd.errors import InvalidError, MalformedError
from consentd.policy.model import ANY, Combining, Effect, ImplicitPolicy, Kind, Period, Provision, Rules, StoredConsent
from consentd.policy.rows import (
    ALL_16,
    ALL_64,
    ANY_NUMBER,
    PERMIT,
    ROW_SIZE,
    SIDE,
    Row,
    Side,
    SideBlock,
    decode_sides,
    pack_rows,
    unpack_rows,
)
from consentd.policy.tree import Node, walk
from consentd.policy.vocabulary import Closures, Vocabulary

UNREADABLE: Final = 2
"""Flag: the consent has content that cannot be interpreted. Its only row has the participants and the period."""

STATUTORY: Final = 4  # flag: the rows of the consent are in layer STATUTE
POLICY_SHIFT: Final = 4
"""Bits 4–6 of the flags are the implicit policy that the consent selects; 0: the consent selects no policy."""

MAX_RULES: Final = 1_024  # most statutory rules of a realm, and most break-glass rules
_RULES: Final = struct.Struct("<BBBBHHHH")
RULES_VERSION: Final = 2
RULES_HEADER_SIZE: Final = _RULES.size
_COMBININGS: Final = frozenset(map(int, Combining))
_POLICIES: Final = frozenset(map(int, ImplicitPolicy))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A consent, compiled to rows.

    Attributes:
        vocabulary: version of the vocabulary that the masks belong to.
        flags: ``UNREADABLE``, ``STATUTORY``, and the implicit policy (see ``POLICY_SHIFT``).
        rows: the bytes of 1 to 256 rows in preorder.
        side: the side block: the rows' side records (limits that do not fit into a row), joined.
    """

    vocabulary: int
    flags: int
    rows: bytes
    side: bytes


def compile_consent(stored: StoredConsent, vocabulary: Vocabulary, numbers: Mapping[str, int]) -> Compiled:
    """Compile the version of a consent that is in force. *numbers*: participant or group identifier → its number.

    Raises:
        InvalidError: UNKNOWN_CODE, UNKNOWN_PARTICIPANT, or INVALID_CONSENT (a size limit is exceeded).
    """
    consent = stored.consent
    flags = (consent.policy or 0) << POLICY_SHIFT
    if consent.kind is Kind.STATUTORY:
        flags |= STATUTORY
    compiler = _Compiler(vocabulary, numbers)
    if stored.readable:
        rows = [compiler.row(node, index) for index, node in enumerate(walk(consent.root))]
    else:
        flags |= UNREADABLE
        rows = [compiler.unreadable(consent.root)]
    return Compiled(vocabulary.version, flags, pack_rows(rows), compiler.side)


def named_participants(compiled: Compiled, effect: Effect) -> tuple[frozenset[int], frozenset[int]]:
    """Return the numbers of the actors and of the holders that the rows with *effect* name; 0 stands for any.

    A consent that selects an implicit policy which permits something permits it to any actor, from any holder.
    """
    actors: set[int] = set()
    holders: set[int] = set()
    rows = [row for row in unpack_rows(compiled.rows) if bool(row.flags & PERMIT) is (effect is Effect.PERMIT)]
    sides = decode_sides(compiled.side, (row.side for row in rows if row.flags & SIDE))
    for row in rows:
        side = sides[row.side] if row.flags & SIDE else Side()
        actors |= side.actors or {row.actor}
        holders |= side.holders or {row.holder}
    if effect is Effect.PERMIT and compiled.flags >> POLICY_SHIFT not in (0, ImplicitPolicy.DENY):
        actors.add(ANY_NUMBER)
        holders.add(ANY_NUMBER)
    return frozenset(actors), frozenset(holders)


class _Compiler:
    """Compile nodes to rows, and collect the side records of the rows."""

    def __init__(self, vocabulary: Vocabulary, numbers: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._numbers = numbers
        self._block = SideBlock()

    @property
    def side(self) -> bytes:
        """The side block of the rows that were compiled so far."""
        return bytes(self._block.encoded)

    def row(self, node: Node, index: int) -> Row:
        vocabulary, stated = self._vocabulary, node.provision
        permit = stated.effect is Effect.PERMIT
        actor, actors = self._participants(stated.actors)
        holder, holders = self._participants(stated.holders)
        resources = frozenset() if ANY in stated.resources else frozenset(stated.resources)
        # A data period without bounds is no limit, as `*` is none: a child states it to drop its parent's limit.
        data_period = None if stated.data_period == Period() else stated.data_period
        side = self._put(Side(actors, holders, resources, data_period))
        # A window that ends before it starts is never in force. It is stored as [0, 0), a window that is always over.
        opens = stated.start_ms < stated.end_ms
        return Row(
            actor=actor,
            holder=holder,
            purposes=_mask(vocabulary.purpose, stated.purposes, permit=permit, unlimited=ALL_64),
            categories=_mask(vocabulary.category, stated.categories, permit=permit, unlimited=ALL_64),
            start_ms=stated.start_ms if opens else 0,
            end_ms=stated.end_ms if opens else 0,
            labels=_mask(vocabulary.label, stated.labels, permit=permit, unlimited=None),
            actions=_mask(vocabulary.action, stated.actions, permit=permit, unlimited=ALL_16),
            side=side or 0,
            flags=(PERMIT if permit else 0) | (0 if side is None else SIDE),
            depth=node.depth,
            node=min(index, 255),
            below=node.below,
        )

    def unreadable(self, root: Provision) -> Row:
        """Make a deny row of the root's participants and period. A list with an unregistered name puts no limit."""
        actors, holders = (
            stated if all(name in self._numbers for name in stated) else () for stated in (root.actors, root.holders)
        )
        start_ms, end_ms = root.start_ms, root.end_ms
        deny = Provision(effect=Effect.DENY, actors=actors, holders=holders, start_ms=start_ms, end_ms=end_ms)
        return self.row(Node(deny), 0)

    def _participants(self, names: tuple[str, ...]) -> tuple[int, frozenset[int]]:
        """Return (number for the row, numbers for the side record). Only several participants need the side record."""
        if not names or ANY in names:
            return ANY_NUMBER, frozenset()
        numbers = set()
        for name in names:
            number = self._numbers.get(name)
            if number is None:
                raise InvalidError(f"participant is not registered: `{name}`", "UNKNOWN_PARTICIPANT")
            numbers.add(number)
        return (numbers.pop(), frozenset()) if len(numbers) == 1 else (ANY_NUMBER, frozenset(numbers))

    def _put(self, side: Side) -> int | None:
        return None if side == Side() else self._block.add(side)


def _mask(closures: Closures, codes: tuple[str, ...], *, permit: bool, unlimited: int | None) -> int:
    """Return the mask of ``codes``. No limit: all bits in use for a permit, *unlimited* for a deny, 0 for labels."""
    if not codes or ANY in codes:
        if unlimited is None:
            return 0
        return closures.all if permit else unlimited
    closed = closures.permit if permit else closures.deny
    mask = 0
    for code in codes:
        if code not in closed:
            raise InvalidError(f"code is not in the vocabulary: `{code}`", "UNKNOWN_CODE")
        mask |= closed[code]
    return mask


Rule = tuple[Row, str]
"""A rule of the realm: its row, and its path (``statutory[0]``)."""


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """The rules of a realm, compiled to rows (policy.md, rule 11).

    Attributes:
        vocabulary: version of the vocabulary that the masks belong to.
        by_purpose: purpose bit → the statutory rules for this purpose. Purposes without a rule are absent.
        policies: implicit policy → masks of the (purposes, categories) that the policy permits.
        plain: True if combining is DENY_OVERRIDES and the implicit policy is DENY, as in most realms.
        block, encoded: the side block of all rows; the bytes that the policy table stores for these rules.
    """

    combining: Combining
    implicit_policy: ImplicitPolicy
    vocabulary: int
    statutory: tuple[Rule, ...]
    break_glass: tuple[Rule, ...]
    by_purpose: Mapping[int, tuple[Rule, ...]]
    policies: Mapping[int, tuple[int, int]]
    plain: bool
    block: bytes
    encoded: bytes


def compile_rules(rules: Rules, vocabulary: Vocabulary, numbers: Mapping[str, int], *, since: int = 0) -> CompiledRules:
    """Compile a realm's rules.

    Raises:
        InvalidError: as in ``compile_consent``; a rule has children or no effect; or there are too many rules.
    """
    compiler = _Compiler(vocabulary, numbers)
    rows: list[Row] = []
    for provisions in (rules.statutory, rules.break_glass):
        if len(provisions) > MAX_RULES:
            raise InvalidError(f"realm has more than {MAX_RULES} rules of one kind", "INVALID_CONSENT")
        for provision in provisions:
            node, *children = walk(provision)
            if children:
                raise InvalidError("a rule of the realm has no children", "INVALID_CONSENT")
            rows.append(compiler.row(node, 0))
    counts = (len(rules.statutory), len(rules.break_glass))
    header = _RULES.pack(RULES_VERSION, rules.combining, rules.implicit_policy, 0, vocabulary.version, *counts, 0)
    return decode_rules(header + pack_rows(rows) + compiler.side, vocabulary)


def decode_rules(value: bytes, vocabulary: Vocabulary) -> CompiledRules:
    """Decode ``CompiledRules.encoded``. *vocabulary* is the version that the rules were compiled with, or a later one.

    Raises:
        MalformedError: the bytes are no compiled rules, or were compiled with a later version than *vocabulary*.
    """
    if len(value) < _RULES.size:
        raise MalformedError("compiled rules are cut short")
    version, combining, policy, zero, of, statutory, break_glass, zeros = _RULES.unpack_from(value)
    end = _RULES.size + (statutory + break_glass) * ROW_SIZE
    if version != RULES_VERSION or zero or zeros or len(value) < end or len(value) % 4:
        raise MalformedError("compiled rules are malformed")
    if combining not in _COMBININGS or policy not in _POLICIES or of > vocabulary.version:
        raise MalformedError("compiled rules have an unknown combining or policy, or a later vocabulary")
    rows = unpack_rows(value[_RULES.size : end])
    block = value[end:]
    decode_sides(block, (row.side for row in rows if row.flags & SIDE))
    law = tuple((row, f"statutory[{index}]") for index, row in enumerate(rows[:statutory]))
    glass = tuple((row, f"break_glass[{index}]") for index, row in enumerate(rows[statutory:]))
    bits = vocabulary.purpose.bits.values()
    by_purpose = {bit: tuple(rule for rule in law if rule[0].purposes & bit) for bit in bits}
    return CompiledRules(
        combining=Combining(combining),
        implicit_policy=ImplicitPolicy(policy),
        vocabulary=of,
        statutory=law,
        break_glass=glass,
        by_purpose={bit: found for bit, found in by_purpose.items() if found},
        policies=vocabulary.policies,
        plain=combining == Combining.DENY_OVERRIDES and policy == ImplicitPolicy.DENY,
        block=block,
        encoded=value,
    )
