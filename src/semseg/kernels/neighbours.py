"""The nearest points of every point, exactly, without a compiled operator.

Points lie in leaves of equal size, made by halving at the median of the longest side. All points of
a leaf are compared with the leaves nearest to it, until no other leaf can hold anything nearer: the
gap between two boxes is a lower bound of all distances between them, in floats as well, because
rounding keeps order. So the result is that of comparing all pairs, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from semseg.core.checks import InputError

_LEAF = 32
"""Points of a leaf, at most."""
_FIRST = 12
"""Leaves that a leaf is compared with before it is asked whether they were enough."""
_PAIRS = 2**18
"""Distances that are held at once."""
_EXPORTED = 2**25
"""The same in an exported graph."""
_FAR = 1e10
"""Squared distance of neighbours that do not exist."""


def nearest(
    k: int,
    points: Tensor,
    offsets: Sequence[int],
    queries: Tensor | None = None,
    query_offsets: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the ``k`` nearest points of each query within its own cloud.

    Args:
        k: how many. A cloud with fewer points gives its first point for the others, at a squared
            distance of 1e10.
        points: ``(N, 3)`` coordinates of all clouds, one after the other.
        offsets: end of each cloud in ``points``.
        queries: ``(M, 3)``; the points themselves if ``None``.
        query_offsets: end of each cloud in ``queries``.

    Returns:
        ``(M, k)`` positions in ``points``, nearest first, of equally near ones the first; and
        ``(M, k)`` squared distances.

    Raises:
        InputError: shapes or offsets that do not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0, 0], [3, 0, 0], [1, 0, 0]])
        >>> index, squared = nearest(2, points, (3,))
        >>> index.tolist(), squared.tolist()
        ([[0, 2], [1, 2], [2, 0]], [[0.0, 1.0], [0.0, 4.0], [0.0, 1.0]])
    """
    own = queries is None
    asked, ends = (points, offsets) if queries is None else (queries, query_offsets or offsets)
    check_points("nearest", points, offsets)
    check_points("nearest", asked, ends)
    if k < 1 or len(ends) != len(offsets):
        raise InputError(
            f"nearest needs k >= 1 and as many clouds of queries as of points, got k = {k}, "
            f"{len(ends)} and {len(offsets)}"
        )
    index = torch.empty(len(asked), k, dtype=torch.int64, device=points.device)
    squared = torch.empty(len(asked), k, dtype=points.dtype, device=points.device)
    if points.is_meta:
        return index, squared
    parts = []
    start = first = 0
    for end, last in zip(offsets, ends, strict=True):
        cloud = points[start:end].detach()
        part = cloud if own else asked[first:last].detach()
        found, distance = _search(min(k, end - start), cloud, part)
        short = k - found.shape[1]
        if short:
            found = torch.cat([found, found.new_zeros(len(found), short)], 1)
            distance = torch.cat([distance, distance.new_full((len(found), short), _FAR)], 1)
        parts.append((found + start, distance))
        start, first = end, last
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def check_points(owner: str, points: Tensor, offsets: Sequence[int]) -> None:
    """Refuse what is not ``(N, 3)`` floats whose clouds end where the offsets say.

    Raises:
        InputError: it is something else.
    """
    if points.dim() != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise InputError(
            f"{owner} takes float coordinates of shape (N, 3), got {points.dtype} of shape "
            f"{tuple(points.shape)}"
        )
    ends = [0, *offsets]
    rising = all(a < b for a, b in pairwise(ends))
    if len(ends) == 1 or not rising or ends[-1] != len(points):
        raise InputError(
            f"{owner} takes the end of each cloud, rising up to {len(points)}, the number of "
            f"points; got {list(offsets)}"
        )


def squared_distance(a: Sequence[Tensor] | Tensor, b: Sequence[Tensor] | Tensor) -> Tensor:
    """Return squared distances of two sets of three coordinates each, always rounded in one way.

    Coordinates come first, ``(3, ...)``: side by side they would be read at a third of the speed.
    """
    x, y, z = (p - q for p, q in zip(a, b, strict=True))
    squared: Tensor = x.mul_(x).add_(y.mul_(y)).add_(z.mul_(z))
    return squared


def _search(k: int, points: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_exporting() or len(points) <= 8 * _LEAF:
        return _compare_all(k, points, queries)
    leaves = grow_leaves(points)
    asking = leaves if queries is points else grow_leaves(queries)
    index = torch.empty(len(queries), k, dtype=torch.int64, device=points.device)
    squared = torch.empty(len(queries), k, dtype=points.dtype, device=points.device)
    left = torch.arange(len(asking.members), device=points.device)
    count = _FIRST
    while len(left):
        count = min(count, len(leaves.members))
        open_ = []
        size = asking.members.shape[1]
        at_once = max(1, _PAIRS // (size * count * leaves.members.shape[1]))
        for rows in torch.split(left, at_once):
            found, distance, done = _among_leaves(k, leaves, asking, rows, count)
            members = asking.members[rows]
            index[members], squared[members] = found, distance
            open_.append(rows[~done])
        left, count = torch.cat(open_), 4 * count
    return index, squared


def _compare_all(k: int, points: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Compare all pairs, some queries at a time; an exported graph holds each time as nodes."""
    size = max(1, (_EXPORTED if torch.compiler.is_exporting() else _PAIRS) // len(points))
    positions = torch.arange(len(points), device=points.device)
    planes = points.T.contiguous()
    parts = [
        _first(k, squared_distance(part.T[..., None], planes[:, None]), positions)
        for part in torch.split(queries, size)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _first(k: int, squared: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the ``k`` least of each row, of equal ones the least positions."""
    count = squared.shape[-1]
    positions = positions.expand_as(squared)
    value, place = squared.topk(min(k + 1, count), largest=False)
    found = positions.gather(-1, place)
    if torch.compiler.is_exporting():
        return found[..., :k], value[..., :k]
    # topk takes any of equal ones: those rows are sorted wholly, and the others within
    if k < count and len(tied := (value[..., k] == value[..., k - 1]).nonzero()):
        rows = tuple(tied.T)
        value[rows], found[rows] = _in_order(squared[rows], positions[rows], k + 1)
    value, found = _in_order(value[..., :k], found[..., :k], k)
    return found, value


def _in_order(value: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    positions, order = positions.sort(-1)
    value, order = value.gather(-1, order).sort(stable=True, dim=-1)
    return value[..., :count], positions.gather(-1, order)[..., :count]


class Leaves(NamedTuple):
    """Points in groups of equal size: ``(G, L)`` positions, ``(3, G, L)`` and boxes ``(3, G)``.

    ``spare`` marks members that stand in a second time, where the points do not divide evenly.
    """

    members: Tensor
    points: Tensor
    spare: Tensor
    low: Tensor
    high: Tensor


def grow_leaves(points: Tensor, size: int = _LEAF) -> Leaves:
    """Return ``(N, 3)`` points in leaves of ``size`` points at most."""
    depth = max(0, (len(points) - 1) // size).bit_length()
    planes = points.T.contiguous()
    count = -(-len(points) // 2**depth) * 2**depth
    order = torch.arange(count, device=points.device)[None]
    for _ in range(depth):
        inside = planes[:, order.clamp(max=len(points) - 1)]
        axis = (inside.amax(-1) - inside.amin(-1)).argmax(0)
        along = inside[axis, torch.arange(len(order), device=points.device)]
        order = order.gather(1, along.argsort(-1)).reshape(2 * len(order), -1)
    places = order.clamp(max=len(points) - 1)
    inside = planes[:, places]
    return Leaves(places, inside, order >= len(points), inside.amin(-1), inside.amax(-1))


def _among_leaves(
    k: int, leaves: Leaves, asking: Leaves, rows: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Search the ``count`` leaves nearest to some groups; say of which groups that was enough."""
    low, high = asking.low[:, rows, None], asking.high[:, rows, None]
    gap = [
        torch.maximum(a - d, c - b).clamp_(min=0)
        for a, b, c, d in zip(leaves.low, leaves.high, low, high, strict=True)
    ]
    bound = squared_distance(gap, [torch.zeros_like(low[0])] * 3)
    least, nearby = bound.topk(min(count + 1, bound.shape[1]), largest=False)
    taken = nearby[:, :count]
    candidates = leaves.points[:, taken].flatten(2)
    squared = squared_distance(asking.points[:, rows, :, None], candidates[:, :, None])
    squared.masked_fill_(leaves.spare[taken].flatten(1)[:, None], float("inf"))
    found, value = _first(k, squared, leaves.members[taken].flatten(1)[:, None])
    if count == bound.shape[1]:
        return found, value, torch.ones_like(rows, dtype=torch.bool)
    return found, value, least[:, -1] > value[..., -1].amax(1)
