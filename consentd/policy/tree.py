"""Compute the effective attributes of a consent's provisions: stated ones and inherited ones (policy.md, rule 2)."""

from dataclasses import dataclass

from consentd.errors import InvalidError
from consentd.policy.model import MAX_DEPTH, MAX_PROVISIONS, OPEN_END_MS, Effect, Period, Provision


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A provision with its effective attributes and its position in the tree. The defaults are the root's parent.

    Attributes:
        depth: 0 for the root.
        below: number of descendants.
    """

    effect: Effect = Effect.DENY
    actors: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    start_ms: int = 0
    end_ms: int = OPEN_END_MS
    data_period: Period | None = None
    depth: int = -1
    below: int = 0


def walk(root: Provision) -> list[Node]:
    """Return the effective nodes of a tree in preorder, the root first.

    An attribute that a child states replaces the parent's, and an absent one is inherited. Periods intersect. A child
    without an effect has the opposite of its parent's.

    Raises:
        InvalidError: the root states no effect; more than ``MAX_DEPTH`` deep or ``MAX_PROVISIONS`` in all.
    """
    if root.effect is None:
        raise InvalidError("root provision states no effect", "INVALID_CONSENT")
    if _count(root, 1) > MAX_PROVISIONS:
        raise InvalidError(f"consent has more than {MAX_PROVISIONS} provisions", "INVALID_CONSENT")
    nodes: list[Node] = []
    _walk(Provision(children=(root,)), Node(), nodes)
    return nodes


def _count(provision: Provision, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise InvalidError(f"provisions nest deeper than {MAX_DEPTH}", "INVALID_CONSENT")
    return 1 + sum(_count(child, depth + 1) for child in provision.children)


def _walk(provision: Provision, node: Node, nodes: list[Node]) -> None:
    opposite = Effect.PERMIT if node.effect is Effect.DENY else Effect.DENY
    for child in provision.children:
        inner = Node(
            effect=child.effect or opposite,
            actors=child.actors or node.actors,
            holders=child.holders or node.holders,
            purposes=child.purposes or node.purposes,
            categories=child.categories or node.categories,
            actions=child.actions or node.actions,
            labels=child.labels or node.labels,
            resources=child.resources or node.resources,
            start_ms=max(child.start_ms, node.start_ms),
            end_ms=min(child.end_ms, node.end_ms),
            data_period=child.data_period or node.data_period,
            depth=node.depth + 1,
            below=_count(child, 1) - 1,
        )
        nodes.append(inner)
        _walk(child, inner, nodes)


def path(depths: list[int], index: int) -> str:
    """Return the path of a node, ``provision[0].provision[2]``, given the depths of all nodes in preorder.

    Example: the depths 0, 1, 1, 2 are a root with two children, and the second child has a child. Its index is 3, and
    its path is ``provision[1].provision[0]``.
    """
    positions: list[int] = []
    for depth in depths[1 : index + 1]:
        del positions[depth:]
        if len(positions) == depth:
            positions[depth - 1] += 1
        else:
            positions.append(0)
    return ".".join(f"provision[{position}]" for position in positions)
