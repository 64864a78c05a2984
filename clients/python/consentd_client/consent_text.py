"""Describe a consent for people: everything that it states, with all nested provisions and its implicit policy.

A provision has its path, as the reasons of decisions name it. What a nested provision does not state is its parent's.
"""

from collections.abc import Iterator

from consentd.policy.dates import format_instant
from consentd.v1 import consent_pb2 as pb
from consentd_client.labels import code_name, enum_label, joined, label

Lists = tuple[tuple[str, str], ...]

_LISTS: Lists = (
    ("RECIPIENTS", "actors"), ("HOLDERS", "holders"), ("PURPOSES", "purposes"), ("CATEGORIES", "categories"),
    ("ACTIONS", "actions"), ("LABELS", "labels"), ("RESOURCES", "resources"),
)  # fmt: skip
"""The label and the field of each list of a provision. The first four are always shown of a root."""


def consent_lines(message: pb.Consent, lang: str) -> list[str]:
    """Describe a consent in one line for its root, and one line for each nested provision, indented by its depth."""
    root = message.root
    permits = root.effect == pb.EFFECT_PERMIT
    every = label("ANY", lang)
    main = f"{joined(root.holders, every)} → {joined(root.actors, every)}"
    codes = [joined(root.purposes, every), joined(root.categories, every)]
    kind = enum_label(pb.ConsentKind, message.kind, "CONSENT_KIND_", lang)
    effect = enum_label(pb.Effect, root.effect, "EFFECT_", lang)
    parts = [main, *codes, *_limits(root, permits, lang, _LISTS[4:]), *_other_items(message, lang)]
    stated = (code_name(message.legal_basis, lang), message.legal_basis_note)
    basis = f" [{': '.join(filter(None, stated))}]" if any(stated) else ""
    return [f"{kind}, {effect}: {', '.join(parts)}{basis}", *_nested(root, permits, lang, "", "  ")]


def differences(before: pb.Consent, after: pb.Consent, lang: str) -> list[str]:
    """Describe how a version of a consent differs from the one before, a line for each item: ``LABEL: OLD → NEW``."""
    old, new = _items(before, lang), _items(after, lang)
    nothing = label("NONE", lang)
    return [
        f"{name}: {old.get(name, nothing)} → {new.get(name, nothing)}"
        for name in (old | new)
        if old.get(name) != new.get(name)
    ]


def _items(message: pb.Consent, lang: str) -> dict[str, str]:
    """Return everything that a consent states, by its label; a nested provision by its path."""
    root, every = message.root, label("ANY", lang)
    permits = root.effect == pb.EFFECT_PERMIT
    items = {
        label("KIND", lang): enum_label(pb.ConsentKind, message.kind, "CONSENT_KIND_", lang),
        label("EFFECT", lang): enum_label(pb.Effect, root.effect, "EFFECT_", lang),
        **{label(name, lang): joined(getattr(root, field), every) for name, field in _LISTS},
    }
    limits = (*_limits(root, permits, lang, ()), *_other_items(message, lang))
    nested = (line.strip().partition(" ")[::2] for line in _nested(root, permits, lang, "", ""))
    items |= dict(limit.partition(": ")[::2] for limit in limits)
    rest = (("LANGUAGE", message.language), ("LEGAL_BASIS", code_name(message.legal_basis, lang)))
    items |= {label(name, lang): stated for name, stated in (*rest, ("LEGAL_BASIS_NOTE", message.legal_basis_note))}
    return items | dict(nested)


def _other_items(message: pb.Consent, lang: str) -> Iterator[str]:
    """Yield what a consent states beside its provisions."""
    if message.recurrence:
        yield f"{label('RECURRENCE', lang)}: {message.recurrence}"
    if message.retention_until_time_ms:
        yield f"{label('KEPT_UNTIL', lang)}: {format_instant(message.retention_until_time_ms)}"
    if message.notice_id:
        yield f"{label('NOTICE', lang)}: {message.notice_id}@{message.notice_version}"
    if message.policy_uris:
        yield f"{label('POLICY_URIS', lang)}: {joined(message.policy_uris, '')}"
    if message.source:
        yield f"{label('SOURCE', lang)}: {message.source}"
    if message.implicit_policy:
        policy = enum_label(pb.ImplicitPolicy, message.implicit_policy, "IMPLICIT_POLICY_", lang)
        yield f"{label('OTHERWISE', lang)}: {policy}"


def _nested(parent: pb.Provision, permits: bool, lang: str, path: str, indent: str) -> Iterator[str]:
    """Yield the lines of the provisions nested in *parent*, whose effect is to permit if *permits*."""
    for index, one in enumerate(parent.provisions):
        here = f"{path}provision[{index}]"
        stated = one.effect or (pb.EFFECT_DENY if permits else pb.EFFECT_PERMIT)
        effect = enum_label(pb.Effect, stated, "EFFECT_", lang)
        limits = ", ".join(_limits(one, stated == pb.EFFECT_PERMIT, lang, _LISTS))
        yield f"{indent}{here} {effect}" + (f": {limits}" if limits else "")
        yield from _nested(one, stated == pb.EFFECT_PERMIT, lang, f"{here}.", indent + "  ")


def _limits(one: pb.Provision, permits: bool, lang: str, lists: Lists) -> Iterator[str]:
    """Yield the limits that a provision states; of its lists, only *lists*."""
    for name, field in lists:
        values = getattr(one, field)
        if values:
            yield f"{label(name, lang)}: {joined(values, '')}"
    if one.level:
        yield f"{label('LEVEL', lang)}: {level_limit(one.level, permits, lang)}"
    for name, period in (("IN_FORCE", "period"), ("DATA_PERIOD", "data_period")):
        # A period of validity without bounds limits nothing; a data period without them drops the parent's limit.
        stated: pb.Period = getattr(one, period)
        if one.HasField(period) and (name == "DATA_PERIOD" or stated != pb.Period()):  # type: ignore[arg-type]
            yield f"{label(name, lang)}: {period_text(stated, lang)}"


def level_limit(level: str, permits: bool, lang: str) -> str:
    """Describe a level as a limit: a permit covers it and lower ones, a deny it and higher ones."""
    known = label(level, lang)
    shown = level if known == level else f"{level} ({known})"
    return label("UP_TO" if permits else "AND_ABOVE", lang).format(shown)


def period_text(period: pb.Period, lang: str) -> str:
    """Describe a period: ``START ~ END``. An open side is empty; with two open sides the period is any time."""
    if period == pb.Period():
        return label("ANY_TIME", lang)
    start, end = (format_instant(ms) if ms else "" for ms in (period.start_time_ms, period.end_time_ms))
    return f"{start} ~ {end}".strip()
