"""Compute the effective attributes of a consent's provisions, stated or inherited (policy.md, rule 2)."""

from collections.abc import Iterable
from dataclasses import dataclass

from consentd.errors import InvalidError
from consentd.policy.model import MAX_DEPTH, MAX_PROVISIONS, Effect, Provision


@dataclass(frozen=True, slots=True)
class Node:
    """A provision with its effective attributes, its depth (0 for the root), and its number of descendants."""

    provision: Provision
    depth: int = 0
    below: int = 0


def walk(root: Provision) -> list[Node]:
    """Return the effective nodes of a tree in preorder, the root first.

    An attribute that a child states replaces the parent's attribute; other attributes are inherited. The period of a
    child is intersected with the parent's period. A child without an effect has the opposite of the parent's effect.

    Raises:
        InvalidError: the root has no effect, or there are more than ``MAX_DEPTH`` levels or ``MAX_PROVISIONS`` nodes.
    """
    if root.effect is None:
        raise InvalidError("root provision states no effect", "INVALID_CONSENT")
    if _count(root, 1) > MAX_PROVISIONS:
        raise InvalidError(f"consent has more than {MAX_PROVISIONS} provisions", "INVALID_CONSENT")
    nodes: list[Node] = []
    _walk(root, Provision(effect=Effect.DENY), 0, nodes)
    return nodes


def _count(provision: Provision, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise InvalidError(f"provisions nest deeper than {MAX_DEPTH}", "INVALID_CONSENT")
    return 1 + sum(_count(child, depth + 1) for child in provision.children)


def _walk(stated: Provision, parent: Provision, depth: int, nodes: list[Node]) -> None:
    """Add the nodes of the subtree *stated* to *nodes*. *parent* has the parent's effective attributes."""
    effective = Provision(
        effect=stated.effect or (Effect.PERMIT if parent.effect is Effect.DENY else Effect.DENY),
        actors=stated.actors or parent.actors,
        holders=stated.holders or parent.holders,
        purposes=stated.purposes or parent.purposes,
        categories=stated.categories or parent.categories,
        actions=stated.actions or parent.actions,
        labels=stated.labels or parent.labels,
        resources=stated.resources or parent.resources,
        level=stated.level or parent.level,
        start_ms=max(stated.start_ms, parent.start_ms),
        end_ms=min(stated.end_ms, parent.end_ms),
        data_period=stated.data_period or parent.data_period,
    )
    nodes.append(Node(effective, depth, _count(stated, 1) - 1))
    for child in stated.children:
        _walk(child, effective, depth + 1, nodes)


def paths(depths: Iterable[int]) -> list[str]:
    """Return the path of each node, ``provision[0].provision[2]``, given the depths of all nodes in preorder.

    The root has the empty path. Example: the depths 0, 1, 1, 2 are a root with two children, and the second child has a
    child. The paths are the empty one, ``provision[0]``, ``provision[1]`` and ``provision[1].provision[0]``.
    """
    found: list[str] = []
    parents = [""] * (MAX_DEPTH + 1)  # the path of the last node of each depth, with a dot after it
    counts = [0] * (MAX_DEPTH + 1)  # how many children the last node of each depth has so far
    for depth in depths:
        if depth:
            step = f"{parents[depth - 1]}provision[{counts[depth - 1]}]"
            counts[depth - 1] += 1
            parents[depth] = step + "."
        else:
            step = ""
        counts[depth] = 0
        found.append(step)
    return found


class Paths:
    """The paths of the provisions of one consent. They are computed when the first is asked for."""

    __slots__ = ("_depths", "_found")

    def __init__(self, depths: bytes) -> None:
        self._depths = depths
        self._found: list[str] = []

    def of(self, node: int) -> str:
        """Return the path of the row *node*."""
        if not self._found:
            self._found = paths(self._depths)
        return self._found[node]


Where = str | tuple[Paths, int]
"""The path of a provision; or the paths of its consent, and the index of its row."""


def path_of(where: Where) -> str:
    """Return the path of a provision as ``model.Reason`` has it."""
    if isinstance(where, str):
        return where
    of_consent, node = where
    return of_consent.of(node)
