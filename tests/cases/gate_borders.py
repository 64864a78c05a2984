"""Change drawn worlds and questions of the gate's cases, so that they are at borders which chance seldom meets.

Each change makes cases for rules that ``tests/meaning/gate_mutants.py`` breaks.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from cases.policy_worlds import RESOURCES, World
from consentd.policy.model import OPEN_END_MS, OPEN_START_MS, Combining, Effect, Period, Provision, Question

MOST_USES = 128
"""Most uses of a consent that are not over (``consent_uses`` in ``proto/limits.toml``)."""


def opposed(pick: random.Random, world: World) -> World:
    """Return a world like *world*, where permits win and one consent both permits and denies the same (rule 2)."""
    if not world.consents:
        return world
    at = pick.randrange(len(world.consents))
    one = world.consents[at]
    both = (Provision(effect=Effect.PERMIT), Provision(effect=Effect.DENY))
    root = replace(one.consent.root, effect=Effect.PERMIT, children=tuple(pick.sample(both, 2)))
    changed = replace(one, paused=False, consent=replace(one.consent, root=root))
    return replace(
        world, consents=[*world.consents[:at], changed, *world.consents[at + 1 :]],
        rules=replace(world.rules, combining=Combining.PERMIT_OVERRIDES),
    )  # fmt: skip


def used_often(world: World) -> World:
    """Return a world like *world*, whose first transfer was made as often as a consent may be used (rule 13)."""
    return replace(world, transfers=[*world.transfers[:1] * MOST_USES, *world.transfers[1:]])


def at_border(pick: random.Random, world: World, asked: Question) -> Question:
    """Return a question about a data period, or about resources, that a provision of the world just has or has not.

    It is *asked* if no provision names any.
    """
    nodes = [node for root in _roots(world) for node in _tree(root)]
    periods = [one.data_period for one in nodes if one.data_period not in (None, Period())]
    if periods and pick.random() < 0.5:
        period = pick.choice(periods)
        bounds = [one for one in (period.start_ms, period.end_ms) if one not in (OPEN_START_MS, OPEN_END_MS)]
        # A bound of 0 is an open one in a message.
        instants = {one + by for one in bounds for by in (-7, -1, 0, 1)} - {0}
        start_ms, end_ms = sorted(pick.sample(sorted(instants), 2))
        return replace(asked, data_period=Period(start_ms, end_ms))
    if any(one.resources and one.resources != ("*",) for one in nodes):
        return replace(asked, resources=tuple(pick.sample(RESOURCES, 2)))
    return asked


def _roots(world: World) -> Iterator[Provision]:
    for one in world.consents:
        yield one.consent.root
    yield from world.rules.statutory


def _tree(node: Provision) -> Iterator[Provision]:
    yield node
    for child in node.children:
        yield from _tree(child)
