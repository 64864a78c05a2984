"""Compile consents and rules to rows of bit masks when they are written, so that a consent check has less to compute.

``Compiled`` is one compiled consent; ``subject`` joins the compiled consents of a person. The masks of a permit have
all codes that it covers, of the vocabulary that it was compiled with. The masks of a deny have the codes that it names:
a question states the codes above its own. So no permit covers a code that is added later, and denies do.

An implicit policy, of a consent or of the realm, is compiled to rows too: it is read as a provision (rule 1).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from consentd import limits
from consentd.errors import InvalidError, MalformedError, PreconditionError
from consentd.policy.authority import NO_ENDS, Ends
from consentd.policy.masks import is_limit, level_number, mask_of, with_covered_labels
from consentd.policy.model import (
    ANY,
    BREAK_GLASS_PURPOSE,
    LEVELS,
    Combining,
    Effect,
    ImplicitPolicy,
    Kind,
    Period,
    Provision,
    Rules,
    StoredConsent,
)
from consentd.policy.recurrence import Recurrence
from consentd.policy.rows import (
    ALL_16,
    ALL_64,
    ANY_NUMBER,
    GROUP,
    LEVEL_SHIFT,
    NORMAL,
    PERMIT,
    ROW_SIZE,
    SIDE,
    Row,
    Side,
    SideBlock,
    decode_sides,
    has_ends_or_uses,
    pack_rows,
    recurrence_of,
    unpack_rows,
    uses_size,
)
from consentd.policy.tree import Node, walk
from consentd.policy.vocabulary import HIGHEST_LEVEL, Vocabulary

UNREADABLE: Final = 2
"""Flag: the consent has content that cannot be interpreted. Its only row has the participants and the period."""

STATUTORY: Final = 4  # flag: the rows of the consent are in layer STATUTE
POLICY_SHIFT: Final = 4
"""Bits 4–7 of the flags are the implicit policy that the consent selects; 0: the consent selects no policy."""

POLICY_ROWS: Final = (0, 1, 1, 1, 2)
"""How many rows an implicit policy has: none, DENY, BASIC_NORMAL, ALL_NORMAL, BREAK_GLASS_ONLY."""

BASIC_NORMAL_PURPOSE: Final = "TREAT"
"""IHE PCF 1.1, 53.2.1: ``Policy-basic-normal`` permits treatment and "does not authorize other access"."""

GROUP_PREFIX: Final = "group/"  # of the identifiers of groups
MAX_RULES: Final = limits.REALM_RULES  # most statutory rules of a realm, and most break-glass rules
_RULES: Final = struct.Struct("<BBBBHHHHQ")
RULES_VERSION: Final = 3
_COMBININGS: Final = frozenset(map(int, Combining))
_POLICIES: Final = frozenset(map(int, ImplicitPolicy))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A consent, compiled to rows.

    Attributes:
        vocabulary: version of the vocabulary that the masks belong to.
        flags: ``UNREADABLE``, ``STATUTORY``, and the implicit policy (see ``POLICY_SHIFT``).
        rows: the bytes of 1 to 256 rows in preorder, and of the rows of the implicit policy.
        side: the side block: the rows' side records (limits that do not fit into a row), joined.
        since: leaf index of the consent's entry: the moment at which groups in permits are read (rule 10).
    """

    vocabulary: int
    flags: int
    rows: bytes
    side: bytes
    since: int = 0

    @property
    def recurrence(self) -> Recurrence | None:
        """The recurrence, with its uses, that all its permits have; None: they have none."""
        return recurrence_of(self.side, unpack_rows(self.rows)) if self.side else None

    @property
    def list_bytes(self) -> int:
        """The size of the side block without the uses, which the limits of a person's consents do not count."""
        recurrence = self.recurrence
        return len(self.side) - (0 if recurrence is None else uses_size(recurrence))


def compile_consent(
    stored: StoredConsent, vocabulary: Vocabulary, numbers: Mapping[str, int], *, normal_level: int,
    ends: Ends = NO_ENDS, recurrence: Recurrence | None = None,
) -> Compiled:  # fmt: skip
    """Compile the version of a consent that is in force.

    Args:
        vocabulary, normal_level: those of the realm at the consent's entry; the level is its number (rule 1).
        numbers: participant or group identifier → its number.
        ends: those of the authority that the consent rests on; its permits end with it (rule 8).
        recurrence: that of the version, with the uses that it keeps (rule 13).

    Raises:
        InvalidError: UNKNOWN_CODE, or INVALID_CONSENT (too large); PreconditionError: UNKNOWN_PARTICIPANT.
    """
    consent = stored.consent
    flags = STATUTORY if consent.kind is Kind.STATUTORY else 0
    compiler = _Compiler(vocabulary, numbers, normal_level, ends, recurrence)
    if stored.readable:
        nodes = walk(consent.root)
        rows = [compiler.row(node, index) for index, node in enumerate(nodes)]
        if consent.policy is not None:
            flags |= consent.policy << POLICY_SHIFT
            rows += compiler.policy(consent.policy, nodes[0].provision)
    else:
        flags |= UNREADABLE
        rows = [compiler.unreadable(consent.root)]
    return Compiled(vocabulary.version, flags, pack_rows(rows), compiler.side, stored.since)


class _Compiler:
    """Compile nodes to rows, and collect the side records of the rows."""

    def __init__(
        self, vocabulary: Vocabulary, numbers: Mapping[str, int], normal_level: int, ends: Ends = NO_ENDS,
        recurrence: Recurrence | None = None,
    ) -> None:  # fmt: skip
        self._vocabulary = vocabulary
        self._numbers = numbers
        self._normal_level = normal_level
        self._ends = ends
        self._recurrence = recurrence
        self._block = SideBlock()

    @property
    def side(self) -> bytes:
        """The side block of the rows that were compiled so far."""
        return bytes(self._block.encoded)

    def row(self, node: Node, index: int, *, purposes: int | None = None) -> Row:
        """Return the row of a node. *purposes*: a mask, in place of those that the node states."""
        vocabulary, stated = self._vocabulary, node.provision
        permit = stated.effect is Effect.PERMIT
        actor, actors = self._participants(stated.actors)
        holder, holders = self._participants(stated.holders)
        resources = frozenset() if ANY in stated.resources else frozenset(stated.resources)
        # A data period without bounds is no limit, as `*` is none: a child states it to drop its parent's limit.
        data_period = None if stated.data_period == Period() else stated.data_period
        if purposes is None:
            purposes = mask_of(vocabulary.purpose, stated.purposes, permit=permit, unlimited=ALL_64)
        end_ms, early = self._end(purposes, stated.end_ms) if permit else (stated.end_ms, ())
        recurrence = self._recurrence if permit else None
        side = self._put(Side(actors, holders, resources, data_period, early, recurrence))
        labels = mask_of(vocabulary.label, stated.labels, permit=permit, unlimited=0)
        categories = mask_of(vocabulary.category, stated.categories, permit=permit, unlimited=ALL_64)
        if permit and not resources:
            categories = with_covered_labels(vocabulary, categories, stated.categories, labels)
        flags = (PERMIT if permit else 0) | (0 if side is None else SIDE) | level_number(stated.level) << LEVEL_SHIFT
        if any(name.startswith(GROUP_PREFIX) for name in (*stated.actors, *stated.holders)):
            flags |= GROUP
        # A window that does not end after it starts is never in force. It is stored as [0, 0), which is always over.
        opens = stated.start_ms < end_ms
        return Row(
            actor=actor,
            holder=holder,
            purposes=purposes,
            categories=categories,
            start_ms=stated.start_ms if opens else 0,
            end_ms=end_ms if opens else 0,
            labels=labels,
            actions=mask_of(vocabulary.action, stated.actions, permit=permit, unlimited=ALL_16),
            side=side or 0,
            flags=flags,
            depth=node.depth,
            node=index,
            below=node.below,
        )

    def policy(self, policy: ImplicitPolicy, root: Provision) -> list[Row]:
        """Return the rows of an implicit policy with the limits of *root* (rule 1)."""
        if policy is ImplicitPolicy.DENY:
            return [self.row(Node(replace(root, effect=Effect.DENY)), 0)]
        purpose = self._vocabulary.purpose
        named = mask_of(purpose, root.purposes, permit=True, unlimited=ALL_64) if is_limit(root.purposes) else ALL_64
        permit = replace(root, effect=Effect.PERMIT)
        if policy is ImplicitPolicy.BREAK_GLASS_ONLY:
            child = self.row(Node(permit, depth=1), 1, purposes=named & purpose.bits.get(BREAK_GLASS_PURPOSE, 0))
            return [self.row(Node(replace(root, effect=Effect.DENY), below=1), 0), child]
        basic = policy is ImplicitPolicy.BASIC_NORMAL
        purposes = purpose.permit.get(BASIC_NORMAL_PURPOSE, 0) if basic else purpose.star
        # Later rules may lower the normal level: a reader takes the lower one. They never raise it for this consent.
        level = LEVELS[min(level_number(root.level) or HIGHEST_LEVEL, self._normal_level) - 1]
        row = self.row(Node(replace(permit, level=level)), 0, purposes=named & purposes)
        unlabelled = sum(one.leaves for one in self._vocabulary.sensitivities if not one.labels)
        return [row._replace(categories=row.categories & unlabelled, flags=row.flags | NORMAL)]

    def _end(self, purposes: int, end_ms: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return when a permit that states *end_ms* ends, and which of its purposes end earlier, and when."""
        last_ms, early = self._ends.of(purposes, self._vocabulary)
        end_ms = min(end_ms, last_ms)
        return end_ms, tuple([one for one in early if one[1] < end_ms])

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
                raise PreconditionError(f"not registered: `{name}`; see ListParticipants", "UNKNOWN_PARTICIPANT")
            numbers.add(number)
        return (numbers.pop(), frozenset()) if len(numbers) == 1 else (ANY_NUMBER, frozenset(numbers))

    def _put(self, side: Side) -> int | None:
        return None if side == Side() else self._block.add(side)


Rule = tuple[Row, str]
"""A rule of the realm: its row, and its path (``statutory[0]``)."""


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """The rules of a realm, compiled to rows (policy.md, rule 11).

    Attributes:
        vocabulary: version of the vocabulary that the masks belong to.
        normal_level: number of the highest level that the two normal policies cover.
        since: leaf index of the entry of the rules: the moment at which groups in permits are read (rule 10).
        by_purpose: purpose bit → the statutory rules for this purpose. Purposes without a rule are absent.
        policy: the rows of the realm's implicit policy.
        otherwise: what combining permits where no consent says anything; None unless it is PERMIT_UNLESS_DENY.
        plain: True if combining is DENY_OVERRIDES and the implicit policy is DENY, as in most realms.
        block, encoded: the side block of all rows; the bytes that the policy table stores for these rules.
        campaigns: number of a version of a notice → the instant from which permits that were given under it do not
            count, because a later version asked for new consents (rule 8). The rules' own bytes do not have it.
    """

    combining: Combining
    implicit_policy: ImplicitPolicy
    normal_level: int
    vocabulary: int
    since: int
    statutory: tuple[Rule, ...]
    break_glass: tuple[Rule, ...]
    by_purpose: Mapping[int, tuple[Rule, ...]]
    policy: tuple[Row, ...]
    otherwise: Row | None
    plain: bool
    block: bytes
    encoded: bytes
    campaigns: Mapping[int, int] = field(default_factory=dict)


def compile_rules(
    rules: Rules, vocabulary: Vocabulary, numbers: Mapping[str, int], *, since: int = 0
) -> CompiledRules:
    """Compile a realm's rules. *since* is the leaf index of their entry.

    Raises:
        InvalidError, PreconditionError: as ``compile_consent``.
        InvalidError: a rule has children or no effect, or there are too many rules.
    """
    normal_level = level_number(rules.normal_level or "N")
    compiler = _Compiler(vocabulary, numbers, normal_level)
    rows: list[Row] = []
    for provisions in (rules.statutory, rules.break_glass):
        if len(provisions) > MAX_RULES:
            raise InvalidError(f"realm has more than {MAX_RULES} rules of one kind", "INVALID_CONSENT")
        for provision in provisions:
            node, *children = walk(provision)
            if children:
                raise InvalidError("a rule of the realm has no children", "INVALID_CONSENT")
            row = compiler.row(node, 0)
            if provisions is rules.break_glass and not is_limit(provision.purposes):
                # The break-glass rules are about BTG by their place, so they do not need to name it (rule 6).
                row = row._replace(purposes=row.purposes | vocabulary.purpose.bits.get(BREAK_GLASS_PURPOSE, 0))
            rows.append(row)
    defaults: list[Row] = []
    if rules.implicit_policy is not ImplicitPolicy.DENY:
        defaults += compiler.policy(rules.implicit_policy, Provision(effect=Effect.DENY))
    if rules.combining is Combining.PERMIT_UNLESS_DENY:
        defaults.append(compiler.row(Node(Provision(effect=Effect.PERMIT)), 0))
    header = _RULES.pack(
        RULES_VERSION, rules.combining, rules.implicit_policy, normal_level, vocabulary.version,
        len(rules.statutory), len(rules.break_glass), len(defaults), since,
    )  # fmt: skip
    return decode_rules(header + pack_rows(rows + defaults) + compiler.side, vocabulary)


def decode_rules(value: bytes, vocabulary: Vocabulary) -> CompiledRules:
    """Decode ``CompiledRules.encoded``. *vocabulary* is the version that the rules were compiled with, or a later one.

    Raises:
        MalformedError: the bytes are no compiled rules, or were compiled with a later version than *vocabulary*.
    """
    if len(value) < _RULES.size:
        raise MalformedError("compiled rules are cut short")
    version, combining, policy, level, of, statutory, break_glass, defaults, since = _RULES.unpack_from(value)
    end = _RULES.size + (statutory + break_glass + defaults) * ROW_SIZE
    if version != RULES_VERSION or len(value) < end or len(value) % 4:
        raise MalformedError("compiled rules are malformed")
    if combining not in _COMBININGS or policy not in _POLICIES or of > vocabulary.version:
        raise MalformedError("compiled rules have an unknown combining or policy, or a later vocabulary")
    policies = 0 if policy == ImplicitPolicy.DENY else POLICY_ROWS[policy]
    if defaults != policies + (combining == Combining.PERMIT_UNLESS_DENY) or not 1 <= level <= HIGHEST_LEVEL:
        raise MalformedError("compiled rules have another policy than they state, or an unknown level")
    rows = unpack_rows(value[_RULES.size : end])
    block = value[end:]
    decode_sides(block, (row.side for row in rows if row.flags & SIDE))
    if has_ends_or_uses(block, rows):
        raise MalformedError("compiled rules have what only consents have")
    law = tuple((row, f"statutory[{index}]") for index, row in enumerate(rows[:statutory]))
    glass = tuple((row, f"break_glass[{at}]") for at, row in enumerate(rows[statutory : statutory + break_glass]))
    realm = rows[statutory + break_glass :]
    purpose = vocabulary.purpose
    by_purpose = {
        bit: tuple(rule for rule in law if rule[0].purposes & (bit if rule[0].flags & PERMIT else purpose.above[code]))
        for code, bit in purpose.bits.items()
    }
    return CompiledRules(
        combining=Combining(combining),
        implicit_policy=ImplicitPolicy(policy),
        normal_level=level,
        vocabulary=of,
        since=since,
        statutory=law,
        break_glass=glass,
        by_purpose={bit: found for bit, found in by_purpose.items() if found},
        policy=tuple(realm[:policies]),
        otherwise=realm[policies] if len(realm) > policies else None,
        plain=not realm and combining == Combining.DENY_OVERRIDES,
        block=block,
        encoded=value,
    )
