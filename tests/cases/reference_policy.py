"""The reference interpreter: what a decision means, in sets and recursion, straight from the rules (policy.md).

The compiled evaluator has to agree with ``decide`` on everything. What the rules leave to a reader is settled here:

* Each node is compared with the question by its own effective attributes, whether or not its parent
  matches: what a child states *replaces* its parent's, only periods intersect (rule 2). So a permit for
  TREAT may hold one for BTG, as IHE PCF's examples do.
* Labels, resources and data period are the *extent* of what is asked for. A permit matches when all of
  it lies inside, a deny when any of it does; a limit on an extent the question leaves open matches a
  deny and no permit. Then a narrower question is never less permitted, through any nesting.
* A caller that supports ENFORCE_RESIDUAL is answered for the *best case* instead: open limits
  match a permit and no deny, and where that changes the answer the limits come back as the residual.
* Who asks, for whom and through whom is settled in ``reference_actor`` (rule 10).
* Unreadable lineages may permit or deny: what would override them counts, else the category is unknown.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from cases.reference_actor import Who, stated
from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.model import ANY, Combining, Decision, Effect, Layer, Provision, Question, Reason, ReasonCode
from consentd.policy.vocabulary import BASIC_NORMAL_PURPOSES, NORMAL_LEVELS, Code, Vocabulary

DENY, PERMIT, UNKNOWN = Effect.DENY, Effect.PERMIT, "unknown"
ORDERED = (Combining.ORDERED_DENY_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES)
DENY_FIRST = (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES, Combining.PERMIT_UNLESS_DENY)
CODES = {  # layer → reason of a permit, of a deny
    Layer.STATUTE: (ReasonCode.PERMITTED_BY_LAW, ReasonCode.DENIED_BY_LAW),
    Layer.BREAK_GLASS: (ReasonCode.PERMITTED_BY_BREAK_GLASS, ReasonCode.DENIED_BY_BREAK_GLASS),
    Layer.CONSENT: (ReasonCode.PERMITTED_BY_CONSENT, ReasonCode.DENIED_BY_CONSENT),
    Layer.IMPLICIT: (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
}
LISTS = ("actors", "holders", "purposes", "categories", "actions", "labels", "resources")


def above(codes: Sequence[Code], code: str, effect: Effect | None) -> set[str]:
    """The code and those whose naming covers it: all ancestors for a deny, up to the first gap for a permit."""
    entry = next(entry for entry in codes if entry.code == code)
    covered = bool(entry.parent) and (entry.implies or effect is not PERMIT)
    return {code, *(above(codes, entry.parent, effect) if covered else ())}


def leaves(vocabulary: Vocabulary, code: str) -> list[str]:
    parents = {entry.parent for entry in vocabulary.categories}
    named = [entry.code for entry in vocabulary.categories if code in above(vocabulary.categories, entry.code, None)]
    return [leaf for leaf in named if leaf not in parents]


def effective(node: Provision, parent: Provision | None) -> Provision:
    """Fill in what the node does not state from its parent, itself effective (rule 2)."""
    if parent is not None:
        stated = {name: getattr(node, name) or getattr(parent, name) for name in LISTS}
        node = replace(
            node,
            effect=node.effect or (PERMIT if parent.effect is DENY else DENY),
            data_period=node.data_period or parent.data_period,
            start_ms=max(node.start_ms, parent.start_ms),
            end_ms=min(node.end_ms, parent.end_ms),
            **stated,
        )
    return node


class Asked:
    """One question at one instant, compared with nodes; collects the instants for `valid_until`."""

    def __init__(self, question: Question, vocabulary: Vocabulary, groups: Mapping[str, set[str]],
                 abroad: Collection[str], now_ms: int, who: Who, enrolled: bool) -> None:
        self.question, self.vocabulary, self.groups, self.now_ms, self.who = question, vocabulary, groups, now_ms, who
        self.needs_name = not who.permits or bool(who.permits & set(abroad))  # rules 8 and 10
        self.no_defaults = self.needs_name or not enrolled  # rules 7, 8 and 10
        self.best = False
        self.bounds = list(who.bounds)

    def participants(self, node: Provision) -> bool:
        names = self.who.permits if node.effect is PERMIT else self.who.denies  # rule 10
        if node.effect is PERMIT and self.needs_name and not names & set(node.actors):
            return False
        return all(
            not limit or ANY in limit or any({name, *self.groups.get(name, ())} & set(limit) for name in asked)
            for limit, asked in ((node.actors, names), (node.holders, {self.question.holder}))
        )

    def codes(self, node: Provision, leaf: str) -> bool:
        vocabulary, question = self.vocabulary, self.question
        return all(
            not limit or ANY in limit or above(codes, asked, node.effect) & set(limit)
            for limit, codes, asked in (
                (node.purposes, vocabulary.purposes, question.purpose),
                (node.categories, vocabulary.categories, leaf),
                (node.actions, vocabulary.actions, question.action),
            )
        )

    def extent(self, node: Provision) -> bool:
        permit, question = node.effect is PERMIT, self.question
        for limit, asked in ((node.labels, question.labels), (node.resources, question.resources)):
            if not limit or ANY in limit:
                continue
            if asked is None:
                matches = permit is self.best
            else:
                ways = [(above(self.vocabulary.labels, x, node.effect) if limit is node.labels else {x}) for x in asked]
                inside = [bool(way & set(limit)) for way in ways]
                matches = all(inside) if permit else any(inside)
            if not matches:
                return False
        window, asked_window = node.data_period, question.data_period
        if window is None or window == model.Period():
            return True
        if asked_window is None:
            return permit is self.best
        if permit:
            return window.start_ms <= asked_window.start_ms and asked_window.end_ms <= window.end_ms
        return asked_window.start_ms < window.end_ms and window.start_ms < asked_window.end_ms

    def in_time(self, node: Provision) -> bool:
        """Half-open [start, end); a window that closes before it opens never holds (rule 4)."""
        self.bounds += [b for b in (node.start_ms, node.end_ms) if node.start_ms < node.end_ms and b > self.now_ms]
        return node.start_ms <= self.now_ms < node.end_ms

    def value(self, node: Provision, leaf: str, paused: bool, path: str = "") -> tuple[Effect | None, list[str]]:
        """What an effective node says of a leaf category, and the paths of the nodes that said it."""
        found: dict[Effect | None, list[str]] = {DENY: [], PERMIT: [], None: []}
        own = not (paused and node.effect is PERMIT)
        own = own and self.participants(node) and self.codes(node, leaf) and self.extent(node) and self.in_time(node)
        for index, child in enumerate(node.children):
            name = f"{path}.provision[{index}]" if path else f"provision[{index}]"
            reported, paths = self.value(effective(child, node), leaf, paused, name)
            found[reported] += paths
        for effect in (DENY, PERMIT):
            if found[effect]:
                return effect, found[effect]
        return (node.effect, [path]) if own else (None, [])

    def policy(self, policy: model.ImplicitPolicy, leaf: str, *, selected: bool) -> Effect | None:
        """What an implicit policy says (IHE PCF 1.1): a selected Policy-deny denies, the realm's leaves open."""
        said = self._policy(policy, leaf, selected=selected)
        return None if said is PERMIT and self.no_defaults else said

    def _policy(self, policy: model.ImplicitPolicy, leaf: str, *, selected: bool) -> Effect | None:
        normal = any(code.code == leaf and code.level in NORMAL_LEVELS for code in self.vocabulary.categories)
        way = above(self.vocabulary.purposes, self.question.purpose, PERMIT)
        if policy is model.ImplicitPolicy.BASIC_NORMAL:
            return PERMIT if normal and way & set(BASIC_NORMAL_PURPOSES) else None
        if policy is model.ImplicitPolicy.ALL_NORMAL:
            roots = {code.code for code in self.vocabulary.purposes if not code.parent and code.implies}
            return PERMIT if normal and way & roots else None
        if policy is model.ImplicitPolicy.BREAK_GLASS_ONLY:
            return PERMIT if self.question.purpose == "BTG" else DENY
        return DENY if selected else None


def combine(reported: set[object], combining: Combining) -> object:
    """One verdict from what lineages said (rule 3); a permit, a deny, UNKNOWN or None."""
    first = DENY if combining in DENY_FIRST else PERMIT
    last = PERMIT if first is DENY else DENY
    unsaid = last if combining in (Combining.DENY_UNLESS_PERMIT, Combining.PERMIT_UNLESS_DENY) else None
    return next((value for value in (first, UNKNOWN, last) if value in reported), unsaid)


def decide_leaf(
    asked: Asked, leaf: str, rules: model.Rules, consents: Sequence[model.StoredConsent]
) -> tuple[object, list[Reason]]:
    """Walk the layers for one leaf category (rule 1); the first that decides, or is unknown, ends it."""
    layers: dict[Layer, list[tuple[object, Reason]]] = {layer: [] for layer in Layer}

    def add(layer: Layer, value: object, consent: tuple[int, int, int] = (0, 0, 0), path: str = "") -> None:
        if value is UNKNOWN:
            layers[layer].append((value, Reason(ReasonCode.UNREADABLE_CONSENT, None, *consent)))
        elif isinstance(value, Effect):
            layers[layer].append((value, Reason(CODES[layer][value is DENY], value, *consent, path)))

    for layer, name, provisions in (
        (Layer.STATUTE, "statutory", rules.statutory),
        (Layer.BREAK_GLASS, "break_glass", rules.break_glass if asked.question.purpose == "BTG" else ()),
    ):
        for index, provision in enumerate(provisions):
            add(layer, asked.value(provision, leaf, False)[0], path=f"{name}[{index}]")
    newest = {s.lineage: s for s in sorted(consents, key=lambda s: s.version)}  # rule 3: the highest version alone
    selected = False
    for stored in sorted(newest.values(), key=lambda s: s.lineage, reverse=rules.combining in ORDERED):
        consent, ids = stored.consent, (stored.seq, stored.lineage, stored.version)
        layer = Layer.STATUTE if consent.kind is model.Kind.STATUTORY else Layer.CONSENT
        if stored.readable:
            value, paths = asked.value(consent.root, leaf, stored.paused)
            for path in paths:
                add(layer, value, ids, path)
        elif asked.participants(replace(consent.root, effect=DENY)) and asked.in_time(consent.root):
            add(layer, UNKNOWN, ids)
        if consent.policy is not None and asked.in_time(consent.root):
            selected = True
            policy = asked.policy(consent.policy, leaf, selected=True)
            add(Layer.IMPLICIT, None if stored.paused and policy is PERMIT else policy, ids)
    if not selected:
        add(Layer.IMPLICIT, asked.policy(rules.implicit_policy, leaf, selected=False))
    for layer in Layer:
        combining = rules.combining if layer is Layer.CONSENT else Combining.DENY_OVERRIDES
        if combining is Combining.PERMIT_UNLESS_DENY and asked.no_defaults:
            combining = Combining.DENY_OVERRIDES
        verdict = combine({reported for reported, _ in layers[layer]}, combining)
        if verdict is not None:
            reasons = [reason for reported, reason in layers[layer] if reported is verdict]
            by_combining = (ReasonCode.PERMITTED_BY_COMBINING, ReasonCode.DENIED_BY_COMBINING)[verdict is DENY]
            return verdict, reasons or [Reason(by_combining, DENY if verdict is DENY else PERMIT)]
    return None, [Reason(ReasonCode.NO_MATCHING_CONSENT, None)]


def decide(question: Question, consents: Sequence[model.StoredConsent], rules: model.Rules, vocabulary: Vocabulary,
           *, now_ms: int, groups: Mapping[str, set[str]], abroad: Collection[str] = (),
           who: Who | None = None, enrolled: bool = True) -> Decision:
    """Answer one question. Reasons come as a set in no order, ``residual`` not at all (see the laws on it)."""
    check(question, vocabulary)
    known = [code.code for code in vocabulary.categories]
    wanted = {leaf for code in question.categories if code in known for leaf in leaves(vocabulary, code)}
    strange = list(dict.fromkeys(code for code in question.categories if code not in known))
    asked = Asked(question, vocabulary, groups, abroad, now_ms, who or stated(question), enrolled)
    sets: dict[object, list[str]] = {PERMIT: [], DENY: [], None: [], UNKNOWN: []}
    reasons, conditional = [Reason(ReasonCode.UNKNOWN_CATEGORY, None)] if strange else [], False
    for leaf in [code for code in known if code in wanted]:
        worst, why = decide_leaf(asked, leaf, rules, consents)
        if model.Obligation.ENFORCE_RESIDUAL in question.supported_obligations:
            asked.best = True
            best = decide_leaf(asked, leaf, rules, consents)
            asked.best = False
            if best[0] is PERMIT and worst is not PERMIT:
                (worst, why), conditional = best, True
        sets[worst].append(leaf)
        reasons += why
    permitted, denied, without, unknown = map(tuple, (sets[PERMIT], sets[DENY], sets[None], sets[UNKNOWN] + strange))
    outcome = model.Outcome.DENY if denied else model.Outcome.INDETERMINATE if unknown else model.Outcome.NO_CONSENT
    if permitted:
        outcome = model.Outcome.PARTIAL if denied or without or unknown else model.Outcome.PERMIT
    obligations: tuple[model.Obligation, ...] = (model.Obligation.ENFORCE_RESIDUAL,) if conditional else ()
    if permitted and question.purpose == "BTG":
        obligations += (model.Obligation.NOTIFY_SUBJECT, model.Obligation.POST_REVIEW)
    return Decision(
        outcome=outcome, permitted=permitted, denied=denied, without_consent=without, unknown=unknown,
        reasons=tuple(dict.fromkeys(reasons)), obligations=obligations,
        valid_until_ms=min(asked.bounds, default=model.OPEN_END_MS), combining=rules.combining,
        vocabulary_version=vocabulary.version,
    )


def check(question: Question, vocabulary: Vocabulary) -> None:
    """Refuse what is not a question (rules 5 and 7)."""
    window = question.data_period
    for bad, reason in (
        (question.purpose not in {c.code for c in vocabulary.purposes}, "UNKNOWN_PURPOSE"),
        (question.action not in {c.code for c in vocabulary.actions}, "UNKNOWN_ACTION"),
        (not question.categories, "EMPTY_CATEGORIES"),
        ((question.purpose == "BTG") is not bool(question.break_glass), "BREAK_GLASS_SHAPE"),
        (not question.actor.organisation or not question.holder, "INVALID_REQUEST"),
        (bool(set(question.labels or ()) - {c.code for c in vocabulary.labels}), "UNKNOWN_CODE"),
        (question.resources == () or (window and window.start_ms >= window.end_ms), "INVALID_REQUEST"),
    ):
        if bad:
            raise InvalidError(f"question refused: {reason}", reason)
