"""Worlds with consents that recur, and instants at the borders of their periods (policy.md, rule 13)."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from cases.reference_recurrence import EPOCH, SEOUL, Transfer, end_ms
from consentd.policy.model import OPEN_END_MS, Effect, Provision

W = TypeVar("W", bound=Any)

RECURRENCES = ("once", "P1M", "P1M", "P1D", "P3M", "P1Y", "P1Y2M10DT2H", "P2W", "PT1H", "PT30M15S", "P1M1D")
STARTS = [
    (datetime(*day, hour, tzinfo=SEOUL) - EPOCH) // timedelta(milliseconds=1)
    for day in ((2026, 1, 31), (2028, 2, 29), (2027, 12, 31), (2026, 8, 1), (2025, 10, 30)) for hour in (0, 10, 23)
]  # fmt: skip
"""Starts of consents, at which months and years end differently, in Seoul and in UTC."""


def _without_windows(node: Provision) -> Provision:
    return replace(node, start_ms=0, end_ms=OPEN_END_MS, children=tuple(map(_without_windows, node.children)))


def recurring(pick: random.Random, world: W) -> W:
    """Return a world like *world*, in which most consents recur, from a date on and without an end; some transfers of
    their periods were permitted. The world's other windows are removed.
    """
    consents, given_ms, transfers = [], {}, []
    bare = [one.code for one in world.vocabulary.categories if "." in one.code or one.code in ("GEN", "LIFE")]
    for one in world.consents:
        start_ms = pick.choice(STARTS)
        given_ms[one.lineage] = start_ms
        root = _without_windows(one.consent.root)
        if pick.random() < 0.3:
            root = replace(root, start_ms=start_ms)
        text = pick.choice(["", *RECURRENCES, *RECURRENCES]) if one.readable else ""
        consents.append(replace(one, consent=replace(one.consent, root=root, recurrence=text)))
        if (text and one.consent.root.effect is Effect.PERMIT) or pick.random() < 0.3:
            for _ in range(pick.choice([0, 1, 1, 2, 3]) if text else 0):
                holder = pick.choice([name for name in root.holders if name in ("r", "c", "b")] or ["r", "r", "c"])
                leaves = tuple(pick.sample(bare, pick.choice([1, 3, len(bare)])))
                transfers.append(Transfer(one.lineage, holder, leaves, near(pick, text, start_ms)))
    transfers.sort(key=lambda one: one.time_ms)
    rules = world.rules
    rules = replace(
        rules, statutory=tuple(map(_without_windows, rules.statutory)),
        break_glass=tuple(map(_without_windows, rules.break_glass)),
    )  # fmt: skip
    return replace(world, consents=consents, rules=rules, given_ms=given_ms, transfers=transfers)


def near(pick: random.Random, text: str, start_ms: int) -> int:
    """Draw an instant at a border of one of the first periods of a consent, or beside it."""
    end = start_ms
    for _ in range(pick.choice([0, 1, 1, 2])):
        end = end_ms(text, start_ms, end) or end
    return max(start_ms, end + pick.choice([-1, 0, 1, 1_000]))
