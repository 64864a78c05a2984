"""Validate a consent and a realm's rules before they are written (policy.md, rules 2, 3 and 8; Korean law).

A consent can fail in two ways. A consent that contradicts itself, or has codes that are not in the vocabulary, is the
caller's error: ``InvalidError`` is raised. A transfer request that leaves out one of the seven legal items is refused
on a legal ground (PIPA Enforcement Decree 42-8(1)): the code of the ground is returned, and the refusal is recorded.
"""

from collections.abc import Collection

from consentd import limits
from consentd.errors import InvalidError
from consentd.policy.authority import AGENT, LEGAL_GUARDIAN
from consentd.policy.dates import is_instant
from consentd.policy.language import check_tag
from consentd.policy.model import (
    ANY,
    BREAK_GLASS_PURPOSE,
    LEVELS,
    OPEN_END_MS,
    OPEN_START_MS,
    SUBJECT,
    Consent,
    Effect,
    ImplicitPolicy,
    Kind,
    Period,
    Provision,
    Rules,
)
from consentd.policy.recurrence import parse_recurrence
from consentd.policy.tree import Node, walk
from consentd.policy.vocabulary import REFERENCE, Closures, Code, Vocabulary, unknown_level

_MOST_OF_QUOTAS = {
    "entries_per_day": limits.QUOTA_ENTRIES_PER_DAY,
    "refusals_per_day": limits.QUOTA_REFUSALS_PER_DAY,
    "persons_per_hour": limits.QUOTA_PERSONS_PER_HOUR,
}
"""The highest quotas. Counters have 16 bits, and a set of persons takes memory for each caller."""

MAX_POLICY_URIS = limits.POLICY_URIS
MAX_POLICY_URI_BYTES = limits.POLICY_URI_BYTES

ITEMS_NOT_SPECIFIED = "R05"
"""The ground to refuse a transfer request that leaves out a legal item: PIPA Enforcement Decree 42-8(1)5."""

_ACTING = {LEGAL_GUARDIAN, AGENT}
_OPEN = (OPEN_START_MS, OPEN_END_MS)
_UNDER_A_DENY = (None, ImplicitPolicy.DENY, ImplicitPolicy.BREAK_GLASS_ONLY)


def check_consent(consent: Consent, vocabulary: Vocabulary) -> str | None:
    """Validate a consent before it is written. Return the legal ground to refuse the consent, or None if there is none.

    Unregistered participants are refused in ``compile_consent``. ``audit replay`` calls this function on each recorded
    refusal. So only the arguments may affect the result, and a stricter rule changes the result for old refusals.

    Raises:
        InvalidError: INVALID_CONSENT (also if ``walk`` refuses the tree, or ``parse_recurrence`` the recurrence),
            UNKNOWN_CODE (a code not in the vocabulary).
    """
    nodes = walk(consent.root)
    _check_all(consent.root, vocabulary)
    if consent.recurrence:
        parse_recurrence(consent.recurrence)
    if consent.language:
        check_tag(consent.language, "INVALID_CONSENT")
    if len(consent.policy_uris) > MAX_POLICY_URIS or not all(map(_is_uri, consent.policy_uris)):
        raise _invalid("policy_uris has too many texts, or one that is too long, or has a space or control character")
    if consent.retention_until_ms < 0 or not is_instant(consent.retention_until_ms):
        raise _invalid("retention ends before 1970 or after the year 9999")
    if consent.kind is Kind.OBJECTION and consent.root.effect is not Effect.DENY:
        raise _invalid("an objection's root denies")
    if consent.root.effect is Effect.DENY and consent.policy not in _UNDER_A_DENY:
        raise _invalid("a consent whose root denies selects no policy but DENY and BREAK_GLASS_ONLY")
    if consent.kind is Kind.TRANSFER_REQUEST and missing_items(consent):
        return ITEMS_NOT_SPECIFIED
    for one in (node.provision for node in nodes):  # an objection's nested permits too
        if one.effect is Effect.PERMIT and not (one.purposes and one.actors and one.categories):
            raise _invalid("a permit names purpose, recipient and data; `*` means any")
    _check_legal_basis(consent, nodes, vocabulary)
    return None


def _check_legal_basis(consent: Consent, nodes: Collection[Node], vocabulary: Vocabulary) -> None:
    """Check that a STATUTORY consent has a legal basis, and that its root and its permits name what they are about."""
    if consent.kind is not Kind.STATUTORY:
        if consent.legal_basis or consent.legal_basis_note:
            raise _invalid("only a STATUTORY consent has a legal basis")
        return
    if not consent.legal_basis:
        raise _invalid("a STATUTORY consent states its legal basis")
    if consent.legal_basis not in {code.code for code in vocabulary.legal_bases}:
        raise InvalidError(f"legal basis is not in the vocabulary: `{consent.legal_basis}`", "UNKNOWN_CODE")
    if consent.policy is not None:
        raise _invalid("a STATUTORY consent selects no implicit policy")
    for node in nodes:
        one = node.provision
        lists = (one.purposes, one.actors, one.categories)
        if not all(lists):
            raise _invalid("a STATUTORY consent names purpose, recipient and data")
        if one.effect is Effect.PERMIT and any(ANY in stated for stated in lists):
            raise _invalid("a permit of a STATUTORY consent names purpose, recipient and data, without `*`")


def _check_all(provision: Provision, vocabulary: Vocabulary) -> None:
    check_provision(provision, vocabulary)
    for child in provision.children:
        _check_all(child, vocabulary)


def check_rules(rules: Rules, vocabulary: Vocabulary) -> None:
    """Validate the rules of a realm before they are written (policy.md, rule 11).

    Raises:
        InvalidError: a provision has children, states no effect, or fails ``check_provision``; a break-glass rule
            names purposes without BTG; the normal level is none; a quota is too high; or a standing capacity is one in
            which nobody gives a consent.
    """
    if rules.normal_level not in LEVELS:
        raise unknown_level(rules.normal_level, "INVALID_CONSENT")
    for name, most in _MOST_OF_QUOTAS.items():
        if getattr(rules.quotas, name) > most:
            raise InvalidError(f"quota `{name}` is over its limit: `{most}`")
    standing = rules.standing_capacities
    if not set(standing) <= _ACTING or len(set(standing)) < len(standing):
        raise InvalidError("standing capacities are those of a legal guardian and of an agent, each once")
    for provision in (*rules.statutory, *rules.break_glass):
        if provision.children or provision.effect is None:
            raise _invalid("a rule of the realm states its effect and has no children")
        check_provision(provision, vocabulary)
    for purposes in (provision.purposes for provision in rules.break_glass):
        if purposes and not {ANY, BREAK_GLASS_PURPOSE} & set(purposes):
            raise _invalid("a break-glass rule that names purposes names `BTG`: it is for no other purpose")


def check_provision(provision: Provision, vocabulary: Vocabulary) -> None:
    """Validate the lists, codes, level and periods of one provision.

    Raises:
        InvalidError: INVALID_CONSENT or UNKNOWN_CODE.
    """
    for label in provision.labels:
        if label in LEVELS:
            raise InvalidError(f"a level of confidentiality is not a label: state `level`: `{label}`", "UNKNOWN_CODE")
    if provision.level and provision.level not in LEVELS:
        raise unknown_level(provision.level, "INVALID_CONSENT")
    lists: tuple[tuple[tuple[str, ...], Collection[str] | None], ...] = (
        (provision.actors, None),
        (provision.holders, None),
        (provision.purposes, vocabulary.purpose.bits),
        (provision.categories, vocabulary.category.bits),
        (provision.actions, vocabulary.action.bits),
        (provision.labels, vocabulary.label.bits),
        (provision.resources, None),
    )
    for stated, known in lists:
        if len(set(stated)) != len(stated) or "" in stated:
            raise _invalid("provision names something twice, or names nothing")
        if ANY in stated and len(stated) > 1:
            raise _invalid("`*` is not the only item of its list")
        for code in stated:
            if known is not None and code != ANY and code not in known:
                raise InvalidError(f"code is not in the vocabulary: `{code}`", "UNKNOWN_CODE")
    if SUBJECT in provision.holders:  # the reserved name is that of an actor: the holder of data is a participant
        raise _invalid(f"a person is not the holder of data, a participant is: `{SUBJECT}`")
    for resource in provision.resources:
        if resource != ANY and not REFERENCE.fullmatch(resource):
            raise _invalid(f"resource is no Type/id: `{resource}`")
    if provision.start_ms < 0:
        raise _invalid("period starts before 1970")
    for window in (Period(provision.start_ms, provision.end_ms), provision.data_period or Period()):
        if window.start_ms >= window.end_ms:
            raise _invalid("period does not end after it starts")
        if not all(time_ms in _OPEN or is_instant(time_ms) for time_ms in (window.start_ms, window.end_ms)):
            raise _invalid("period has a bound outside the years 1 to 9999; leave it out if there is none")


def missing_items(consent: Consent) -> tuple[str, ...]:
    """Return the names of the legal items (PIPA Enforcement Decree 42-5(3)) that a consent leaves out."""
    root = consent.root
    items: tuple[tuple[str, object], ...] = (
        ("purpose", root.purposes),
        ("holder", root.holders),
        ("recipient", root.actors),
        ("categories", root.categories),
        ("recurrence", consent.recurrence),
        ("end", root.end_ms < OPEN_END_MS),
        ("retention", consent.retention_until_ms),
    )
    return tuple(name for name, stated in items if not stated)


def is_bundled(consent: Consent, vocabulary: Vocabulary) -> bool:
    """Return whether a consent permits what needs an act of its own together with something else (policy.md, rule 8).

    Its implicit policy permits no purpose and no category that its root does not permit.
    """
    permits = [node.provision for node in walk(consent.root) if node.provision.effect is Effect.PERMIT]
    lists: tuple[tuple[Closures, tuple[Code, ...], list[tuple[str, ...]]], ...] = (
        (vocabulary.purpose, vocabulary.purposes, [one.purposes for one in permits]),
        (vocabulary.category, vocabulary.categories, [one.categories for one in permits]),
    )
    for closures, codes, stated in lists:
        covered = 0
        for one in (code for named in stated for code in named):
            covered |= closures.star if one == ANY else closures.permit[one]
        for separate in (closures.below[code.code] for code in codes if code.separate):
            if covered & separate and covered & ~separate:
                return True
    return False


def _is_uri(text: str) -> bool:
    return 0 < len(text.encode()) <= MAX_POLICY_URI_BYTES and text.isprintable() and " " not in text


def _invalid(message: str) -> InvalidError:
    return InvalidError(message, "INVALID_CONSENT")
