"""The reference for provisions: when one matches a question, and what a consent says (policy.md, "Provisions", rule 1).

A provision is compared by its own effective attributes, whether or not its parent matches. An implicit policy is a
small tree with the limits of a consent's root: where its permit does not count, the deny above it does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cases.reference_actor import Who
from cases.reference_authority import Powers
from cases.reference_realm import Realm, above, covered, is_limit, own_labels
from cases.reference_recurrence import Transfer
from cases.reference_sensitivity import Case, extent_matches, labels_match, level_matches
from consentd.policy.model import OPEN_END_MS, Effect, ImplicitPolicy, Provision, Question
from consentd.policy.vocabulary import Vocabulary

DENY, PERMIT = Effect.DENY, Effect.PERMIT
LISTS = ("actors", "holders", "purposes", "categories", "actions", "labels", "resources")


@dataclass
class Given:
    """How the provisions of one consent, or the rules of the realm, are read.

    Attributes:
        since: leaf index of the entry.
        silent: whether permits do not count: the consent is paused, or the realm's policy meets nobody enrolled.
        purposes: a second list of purposes, that of an implicit policy (rule 1).
        normal: whether the permits are those of a normal policy.
        until_ms: until when the permits last, by the authority that they were given under.
        used: the categories of which the transfers of the present period were permitted; it ends at *period_end_ms*.
    """

    since: int
    vocabulary: Vocabulary
    silent: bool = False
    purposes: tuple[str, ...] = ()
    normal: bool = False
    until_ms: int = OPEN_END_MS
    used: frozenset[str] = frozenset()
    period_end_ms: int | None = None


def effective(node: Provision, parent: Provision) -> Provision:
    """Fill in what the node does not state from its parent, itself effective ("Provisions")."""
    return replace(
        node,
        effect=node.effect or (PERMIT if parent.effect is DENY else DENY),
        level=node.level or parent.level,
        data_period=node.data_period or parent.data_period,
        start_ms=max(node.start_ms, parent.start_ms),
        end_ms=min(node.end_ms, parent.end_ms),
        **{name: getattr(node, name) or getattr(parent, name) for name in LISTS},
    )


class Asked:
    """One question at one instant, compared with provisions; collects the instants for `valid_until`."""

    def __init__(self, question: Question, realm: Realm, now_ms: int, who: Who, *, enrolled: bool) -> None:
        self.question, self.realm, self.now_ms, self.who, self.enrolled = question, realm, now_ms, who, enrolled
        self.case = Case.PLAIN
        self.bounds = list(who.bounds)
        self.powers: Powers = {}
        self.campaigns: Sequence[int] = ()
        self.transfers: Sequence[Transfer] = ()
        self.given_ms: Mapping[int, int] = {}
        self.used_up: list[str] = []  # the paths of the permits that are used up
        self.is_used = False  # whether the permit that was compared last would match, but is used up

    def participants_match(self, node: Provision, since: int) -> bool:
        """Rule 10: actors and holders."""
        permit = node.effect is PERMIT
        names = self.who.permits if permit else self.who.denies
        if permit and names <= set(self.realm.abroad):
            return bool(names & set(node.actors)) and self._in_list(node, node.holders, {self.question.holder}, since)
        return bool(names) and all(
            self._in_list(node, limit, asked, since)
            for limit, asked in ((node.actors, names), (node.holders, {self.question.holder}))
        )

    def _in_list(self, node: Provision, limit: Sequence[str], asked: set[str], since: int) -> bool:
        return not is_limit(limit) or any(self.realm.names(name, node.effect, since) & set(limit) for name in asked)

    def codes_match(self, node: Provision, leaf: str, given: Given) -> bool:
        """Rule 6: purposes, categories, actions."""
        question, known, of = self.question, self.realm.vocabulary, given.vocabulary
        purposes = [node.purposes] if is_limit(node.purposes) or not given.purposes else []
        purposes += [given.purposes] if given.purposes else []
        limits = [(known.purposes, of.purposes, limit, question.purpose) for limit in purposes]
        limits.append((known.categories, of.categories, node.categories, leaf))
        limits.append((known.actions, of.actions, node.actions, question.action))
        if node.effect is PERMIT:
            return all(asked in covered(codes, limit) for _, codes, limit, asked in limits)
        ways = [(limit, above(codes, asked)) for codes, _, limit, asked in limits]
        if "collect" in ways[-1][1]:  # a deny that covers access covers collect, and what is below collect
            ways[-1] = (node.actions, ways[-1][1] | above(known.actions, "access"))
        return all(not is_limit(limit) or way & set(limit) for limit, way in ways)

    def data_match(self, node: Provision, leaf: str, given: Given) -> bool:
        """Rules 5 and 9, and what rule 1 says of the normal policies."""
        question, known, normal = self.question, self.realm.vocabulary, given.normal and node.effect is PERMIT
        if normal and (question.labels or (question.labels is None and self.case is Case.WORST)):
            return False
        if normal and (own_labels(known, leaf) or is_limit(node.labels)):
            return False  # data without a label bear none of those that the root names
        return (
            labels_match(node, leaf, question, self.case, given.vocabulary, known)
            and level_matches(
                node, leaf, question, self.case, known,
                is_holder=self.who.is_holder, normal=self.realm.normal_level(given.since) if normal else "",
            )
            and extent_matches(node, question, self.case)
        )  # fmt: skip

    def in_time(self, node: Provision) -> bool:
        """Rule 4. A period that ends before it starts never counts."""
        self.bounds += [b for b in (node.start_ms, node.end_ms) if node.start_ms < node.end_ms and b > self.now_ms]
        return node.start_ms <= self.now_ms < node.end_ms

    def matches(self, node: Provision, leaf: str, given: Given) -> bool:
        if node.effect is PERMIT:
            node = replace(node, end_ms=min(node.end_ms, given.until_ms))
        self.is_used = False
        matches = (
            not (given.silent and node.effect is PERMIT)
            and self.participants_match(node, given.since)
            and self.codes_match(node, leaf, given)
            and self.data_match(node, leaf, given)
            and self.in_time(node)
        )
        if matches and node.effect is PERMIT and leaf in given.used:
            self.is_used = True
            self.bounds += [] if given.period_end_ms is None else [given.period_end_ms]
        return matches and not self.is_used

    def value(self, node: Provision, leaf: str, given: Given, path: str = "") -> tuple[Effect | None, list[str]]:
        """What an effective provision says of a leaf category, and the paths of the provisions that said it."""
        found: dict[Effect | None, list[str]] = {DENY: [], PERMIT: [], None: []}
        own = self.matches(node, leaf, given)
        if self.is_used:
            self.used_up.append(path)
        for index, child in enumerate(node.children):
            name = f"{path}.provision[{index}]" if path else f"provision[{index}]"
            said, paths = self.value(effective(child, node), leaf, given, name)
            found[said] += paths
        for effect in (DENY, PERMIT):
            if found[effect]:
                return effect, found[effect]
        return (node.effect, [path]) if own else (None, [])

    def policy(self, policy: ImplicitPolicy, root: Provision, leaf: str, given: Given) -> Effect | None:
        """What an implicit policy says, read as a provision with the limits of *root* (rule 1)."""
        permit, deny = (replace(root, effect=effect, children=()) for effect in (PERMIT, DENY))
        if policy is ImplicitPolicy.BASIC_NORMAL:
            return self.value(permit, leaf, replace(given, purposes=("TREAT",), normal=True))[0]
        if policy is ImplicitPolicy.ALL_NORMAL:
            return self.value(permit, leaf, replace(given, purposes=("*",), normal=True))[0]
        denied = self.matches(deny, leaf, given)
        if policy is ImplicitPolicy.BREAK_GLASS_ONLY:
            if self.matches(permit, leaf, replace(given, purposes=("BTG",))):
                return PERMIT
            self.used_up += [""] if self.is_used else []
        return DENY if denied else None
