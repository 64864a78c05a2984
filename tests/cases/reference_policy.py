"""The reference interpreter: what a decision means, in sets and recursion, straight from the rules (policy.md).

The compiled evaluator has to agree with ``decide`` on everything. Provisions are in ``reference_match``, properties of
data in ``reference_sensitivity``, codes and groups in ``reference_realm``, and who asks in ``reference_actor``. The
limits of a person's rows and of an answer (policy.md, "Limits") are not here: ``test_policy_bounds`` has them.

The permit of *permit-unless-deny* is that of a provision without limits which was given with the realm's rules: it
covers what `*` covers, no label, and levels up to the default.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cases.reference_actor import Who, stated
from cases.reference_authority import Powers, lasts_until
from cases.reference_match import Asked, Given
from cases.reference_realm import Realm, above, is_limit, leaves
from cases.reference_recurrence import Transfer, end_ms, used
from cases.reference_sensitivity import Case
from consentd.errors import InvalidError
from consentd.policy import model
from consentd.policy.model import Combining, Decision, Effect, ImplicitPolicy, Layer, Provision, Question, ReasonCode
from consentd.policy.vocabulary import Vocabulary

DENY, PERMIT, UNKNOWN = Effect.DENY, Effect.PERMIT, "unknown"
USED_UP = "used up"
FILLERS = "\u115f\u1160"  # letters of Hangul that show nothing (rule 7)
ORDERED = (Combining.ORDERED_DENY_OVERRIDES, Combining.ORDERED_PERMIT_OVERRIDES)
DENY_FIRST = (Combining.DENY_OVERRIDES, Combining.ORDERED_DENY_OVERRIDES, Combining.PERMIT_UNLESS_DENY)
CODES = {  # layer → reason of a permit, of a deny
    Layer.STATUTE: (ReasonCode.PERMITTED_BY_LAW, ReasonCode.DENIED_BY_LAW),
    Layer.BREAK_GLASS: (ReasonCode.PERMITTED_BY_BREAK_GLASS, ReasonCode.DENIED_BY_BREAK_GLASS),
    Layer.CONSENT: (ReasonCode.PERMITTED_BY_CONSENT, ReasonCode.DENIED_BY_CONSENT),
    Layer.IMPLICIT: (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
    Layer.REALM: (ReasonCode.PERMITTED_BY_IMPLICIT_POLICY, ReasonCode.DENIED_BY_IMPLICIT_POLICY),
}


def combine(said: set[object], combining: Combining, unsaid: object = None) -> object:
    """One verdict from what lineages said (rule 3): a permit, a deny, UNKNOWN or *unsaid*."""
    first, last = (DENY, PERMIT) if combining in DENY_FIRST else (PERMIT, DENY)
    return next((value for value in (first, UNKNOWN, last) if value in said), unsaid)


Said = tuple[Layer, object, model.Reason]  # the layer, a permit, a deny or UNKNOWN, and the reason


def said_by_rules(asked: Asked, leaf: str) -> Iterator[Said]:
    """What the rules of the realm say: statute, break-glass and the realm's implicit policy."""
    realm, rules = asked.realm, asked.realm.rules
    given = Given(realm.since, realm.vocabulary_at(realm.since))
    for index, rule in enumerate(rules.statutory):
        if value := asked.value(rule, leaf, given)[0]:
            yield Layer.STATUTE, value, reason(Layer.STATUTE, value, path=f"statutory[{index}]")
    for index, rule in enumerate(rules.break_glass if asked.question.purpose == "BTG" else ()):
        about = rule if is_limit(rule.purposes) else replace(rule, purposes=("BTG",))
        if value := asked.value(about, leaf, given)[0]:
            yield Layer.BREAK_GLASS, value, reason(Layer.BREAK_GLASS, value, path=f"break_glass[{index}]")
    if rules.implicit_policy is not ImplicitPolicy.DENY:
        given = replace(given, silent=not asked.enrolled)
        if value := asked.policy(rules.implicit_policy, Provision(), leaf, given):
            yield Layer.REALM, value, reason(Layer.REALM, value)


def said_by_consent(asked: Asked, leaf: str, stored: model.StoredConsent) -> Iterator[Said]:
    """What one lineage says: its provisions, and the implicit policy that it selects."""
    consent, ids = stored.consent, (stored.seq, stored.lineage, stored.version)
    layer = Layer.STATUTE if consent.kind is model.Kind.STATUTORY else Layer.CONSENT
    if not stored.readable:
        root = replace(consent.root, effect=DENY)
        if asked.participants_match(root, stored.since) and asked.in_time(root):
            yield layer, UNKNOWN, model.Reason(ReasonCode.UNREADABLE_CONSENT, None, *ids)
        return
    vocabulary, until_ms = asked.realm.vocabulary_at(stored.since), model.OPEN_END_MS
    if stored.authority:
        until_ms = lasts_until(asked.powers[stored.authority], asked.question.purpose, asked.realm.vocabulary)
    if stored.notice:  # its permits last until the first instant that a later version of the notice states
        until_ms = min([until_ms, *(at_ms for at_ms in asked.campaigns[stored.notice :] if at_ms)])
    given = Given(stored.since, vocabulary, silent=stored.paused, until_ms=until_ms)
    text, question = stored.consent.recurrence, asked.question
    if text and "collect" in above(asked.realm.vocabulary.actions, question.action):
        start_ms = stored.consent.root.start_ms or asked.given_ms.get(stored.lineage, 0)
        mine = [one for one in asked.transfers if one.lineage == stored.lineage]
        given.used = frozenset(used(text, start_ms, mine, question.holder, asked.now_ms))
        given.period_end_ms = end_ms(text, start_ms, asked.now_ms)
    value, paths = asked.value(consent.root, leaf, given)
    for path in paths:
        yield layer, value, reason(layer, value, ids, path)
    if consent.policy is not None and (value := asked.policy(consent.policy, consent.root, leaf, given)):
        yield Layer.IMPLICIT, value, reason(Layer.IMPLICIT, value, ids)


def used_up(asked: Asked, leaf: str, stored: model.StoredConsent) -> Iterator[Said]:
    """What one lineage says (``said_by_consent``), and of its permits that are used up: a reason without an effect."""
    asked.used_up = []
    yield from said_by_consent(asked, leaf, stored)
    for path in asked.used_up:
        ids = (stored.seq, stored.lineage, stored.version)
        yield Layer.REALM, USED_UP, model.Reason(ReasonCode.BEYOND_RECURRENCE, None, *ids, path)


def reason(layer: Layer, value: object, ids: tuple[int, int, int] = (0, 0, 0), path: str = "") -> model.Reason:
    return model.Reason(CODES[layer][value is DENY], DENY if value is DENY else PERMIT, *ids, path)


def decide_leaf(asked: Asked, leaf: str, consents: Sequence[model.StoredConsent]) -> tuple[object, list[model.Reason]]:
    """Walk the layers for one leaf category (rule 1); the first that decides, or is unknown, ends it."""
    rules = asked.realm.rules
    newest = {s.lineage: s for s in sorted(consents, key=lambda s: s.version)}  # rule 3: the highest version alone
    said = list(said_by_rules(asked, leaf))
    for stored in sorted(newest.values(), key=lambda s: s.lineage, reverse=rules.combining in ORDERED):
        said += used_up(asked, leaf, stored)
    beyond = [why for _, value, why in said if value is USED_UP]
    said = [one for one in said if one[1] is not USED_UP]
    for layer in Layer:
        here = [(value, why) for at, value, why in said if at is layer]
        combining, unsaid = Combining.DENY_OVERRIDES, None
        if layer is Layer.CONSENT:
            combining, unsaid = rules.combining, said_by_nobody(asked, leaf)
        verdict = combine({value for value, _ in here}, combining, unsaid)
        if verdict is not None:
            by_combining = (ReasonCode.PERMITTED_BY_COMBINING, ReasonCode.DENIED_BY_COMBINING)[verdict is DENY]
            why = [reason for value, reason in here if value is verdict]
            by_nobody = [model.Reason(by_combining, DENY if verdict is DENY else PERMIT)]
            return verdict, why or by_nobody + (beyond if verdict is DENY else [])
    return None, beyond or [model.Reason(ReasonCode.NO_MATCHING_CONSENT, None)]


def said_by_nobody(asked: Asked, leaf: str) -> Effect | None:
    """What the combining says where no consent does."""
    realm, combining = asked.realm, asked.realm.rules.combining
    if combining is Combining.DENY_UNLESS_PERMIT:
        return DENY
    if combining is Combining.PERMIT_UNLESS_DENY and asked.enrolled:
        anything = Given(realm.since, realm.vocabulary_at(realm.since))
        return PERMIT if asked.matches(Provision(effect=PERMIT), leaf, anything) else None
    return None


def decide(question: Question, consents: Sequence[model.StoredConsent], realm: Realm, *, now_ms: int,
           who: Who | None = None, enrolled: bool = True, powers: Powers | None = None,
           campaigns: Sequence[int] = (), transfers: Sequence[Transfer] = (),
           given_ms: Mapping[int, int] | None = None, uses: dict[int, set[str]] | None = None) -> Decision:  # fmt: skip
    """Answer one question. Reasons come as a set in no order, ``residual`` not at all (see the laws on it).

    *campaigns*: of each version of the one notice, the instant by which it asks for new consents; 0: it does not.
    *given_ms*: when a consent was given, by its lineage, if its root states no start; 0 if it is not in it.
    *uses* gets the consents that recur and that a transfer uses up: the lineage → the leaf categories.
    """
    check(question, realm.vocabulary)
    known = [entry.code for entry in realm.vocabulary.categories]
    wanted = {leaf for code in question.categories if code in known for leaf in leaves(realm.vocabulary, code)}
    strange = list(dict.fromkeys(code for code in question.categories if code not in known))
    who = who or stated(question)
    asked = Asked(question, realm, now_ms, who, enrolled=enrolled)
    asked.powers, asked.campaigns = powers or {}, campaigns
    asked.transfers, asked.given_ms = transfers, given_ms or {}
    is_transfer = "collect" in above(realm.vocabulary.actions, question.action)
    recurring = {one.lineage for one in consents if one.consent.recurrence and one.readable} if is_transfer else set()
    applies = who.gets_conditions and model.Obligation.ENFORCE_RESIDUAL in question.supported_obligations
    sets: dict[object, list[str]] = {PERMIT: [], DENY: [], None: [], UNKNOWN: []}
    reasons, conditional = [model.Reason(ReasonCode.UNKNOWN_CATEGORY, None)] if strange else [], False
    for leaf in [code for code in known if code in wanted]:
        if applies:
            asked.case = Case.BEST
            best = decide_leaf(asked, leaf, consents)
            asked.case = Case.WORST
            verdict, why = decide_leaf(asked, leaf, consents)
            if best[0] is PERMIT and verdict is not PERMIT:
                (verdict, why), conditional = best, True
        else:
            verdict, why = decide_leaf(asked, leaf, consents)
        sets[verdict].append(leaf)
        reasons += why
        if verdict is PERMIT and uses is not None:
            for lineage in {one.lineage for one in why if one.effect is PERMIT} & recurring:
                uses.setdefault(lineage, set()).add(leaf)
    permitted, denied, without, unknown = map(tuple, (sets[PERMIT], sets[DENY], sets[None], sets[UNKNOWN] + strange))
    outcome = model.Outcome.DENY if denied else model.Outcome.INDETERMINATE if unknown else model.Outcome.NO_CONSENT
    if permitted:
        outcome = model.Outcome.PARTIAL if denied or without or unknown else model.Outcome.PERMIT
    obligations: tuple[model.Obligation, ...] = (model.Obligation.ENFORCE_RESIDUAL,) if conditional else ()
    if permitted and question.purpose == "BTG":
        obligations += (model.Obligation.NOTIFY_SUBJECT, model.Obligation.POST_REVIEW)
    labels, level = data_permitted(question, realm.vocabulary, applies=applies) if permitted else ((), "")
    return Decision(
        outcome=outcome, permitted=permitted, denied=denied, without_consent=without, unknown=unknown,
        reasons=tuple(dict.fromkeys(reasons)), obligations=obligations, labels=labels, level=level,
        valid_until_ms=min(asked.bounds, default=model.OPEN_END_MS), combining=realm.rules.combining,
        vocabulary_version=realm.vocabulary.version,
    )  # fmt: skip


def data_permitted(question: Question, vocabulary: Vocabulary, *, applies: bool) -> tuple[tuple[str, ...], str]:
    """The labels and the level of the data that a permit is for. *applies*: the caller gets conditions."""
    stated = question.labels
    labels = tuple(entry.code for entry in vocabulary.labels if entry.code in (stated or ()))
    anything = (("*",) if stated is None else labels, question.level or "V")
    leaves_open = None in (stated, question.resources, question.data_period) or not question.level
    return anything if applies and leaves_open else (labels, question.level)


def reduced(full: Decision, vocabulary: Vocabulary) -> Decision:
    """The answer of who may not learn why something is not permitted ("One answer")."""
    if full.outcome is model.Outcome.PERMIT:
        return full
    codes = [entry.code for entry in vocabulary.categories]
    refused = {*full.denied, *full.without_consent, *full.unknown}
    outcome = model.Outcome.PARTIAL if full.permitted else model.Outcome.DENY
    return replace(
        full, denied=tuple(code for code in codes if code in refused), without_consent=(),
        unknown=tuple(code for code in full.unknown if code not in codes), valid_until_ms=model.OPEN_END_MS,
        outcome=outcome if full.permitted or refused & set(codes) else model.Outcome.INDETERMINATE,
        reasons=tuple(reason for reason in full.reasons if reason.effect is PERMIT),
    )  # fmt: skip


def check(question: Question, vocabulary: Vocabulary) -> None:
    """Refuse what is not a question ("Question and answer", rule 7)."""
    window, text = question.data_period, question.break_glass or ""
    shown = [one for one in unicodedata.normalize("NFKC", text) if one not in FILLERS]
    letters = [one for one in shown if unicodedata.category(one).startswith("L")]
    for bad, code in (
        (question.purpose not in {c.code for c in vocabulary.purposes}, "UNKNOWN_PURPOSE"),
        (question.action not in {c.code for c in vocabulary.actions}, "UNKNOWN_ACTION"),
        (not question.categories, "EMPTY_CATEGORIES"),
        ((question.purpose == "BTG") is (question.break_glass is None), "BREAK_GLASS_SHAPE"),
        (question.break_glass is not None and len(letters) < 10, "BREAK_GLASS_SHAPE"),
        (not question.actor.organisation or not question.holder, "INVALID_REQUEST"),
        (bool(set(question.labels or ()) - {c.code for c in vocabulary.labels}), "UNKNOWN_CODE"),
        (question.level not in ("", *model.LEVELS), "INVALID_REQUEST"),
        (question.resources == () or (window and window.start_ms >= window.end_ms), "INVALID_REQUEST"),
    ):
        if bad:
            raise InvalidError(f"question refused: {code}", code)
