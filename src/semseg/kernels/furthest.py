"""Furthest point sampling, exactly: each chosen point is the one furthest from those before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.neighbours import check_points, grow_leaves

_LARGE = 40_000
"""Clouds with more points are searched by leaves on a CPU; in smaller ones that saves nothing."""
_LEAF = 128
"""Points of a leaf, at most."""


def furthest(
    points: Tensor,
    offsets: Sequence[int],
    counts: Sequence[int],
    starts: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Return points that cover each cloud evenly, in the order in which they were chosen.

    The clouds are worked on side by side, one point of each at a time.

    Args:
        points: ``(N, 3)`` coordinates of all clouds, one after the other.
        offsets: end of each cloud.
        counts: how many points to choose from each cloud.
        starts: position in ``points`` of the point that each cloud begins with; its first if
            ``None``.

    Returns:
        ``(sum(counts),)`` positions in ``points``; of equally far ones the first is chosen.

    Raises:
        InputError: shapes, offsets or counts that do not fit.

    Example:
        >>> points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [4, 0, 0]])
        >>> furthest(points, (4,), (3,)).tolist()
        [0, 2, 3]
    """
    check_points("furthest", points, offsets)
    begins = [0, *offsets[:-1]]
    sizes = [end - begin for begin, end in zip(begins, offsets, strict=True)]
    if len(counts) != len(sizes) or not all(
        0 < count <= size for count, size in zip(counts, sizes, strict=True)
    ):
        raise InputError(
            f"furthest takes for each cloud a number from 1 to that of its points, {sizes}; got "
            f"{list(counts)}"
        )
    if points.is_meta:
        return torch.empty(sum(counts), dtype=torch.int64, device="meta")
    first = torch.tensor(begins, device=points.device)
    start = first if starts is None else torch.as_tensor(starts, device=points.device)
    points, start = points.detach(), start - first
    exporting = torch.compiler.is_exporting()
    if points.device.type == "cpu" and max(sizes) > _LARGE and not exporting:
        found = map(_choose_by_leaves, torch.split(points, sizes), counts, start.tolist())
        return torch.cat([part + begin for part, begin in zip(found, begins, strict=True)])
    chosen = _choose(points, sizes, max(counts), start) + first[:, None]
    return torch.cat([row[:count] for row, count in zip(chosen, counts, strict=True)])


def _choose_by_leaves(points: Tensor, count: int, start: int) -> Tensor:
    """Return ``(count,)`` positions in one large cloud.

    A chosen point changes nothing in a leaf whose box is further from it than all the leaf's points
    are from those chosen before.
    """
    leaves = grow_leaves(points, _LEAF)
    planes, inside = points.T.contiguous(), leaves.points
    nearest = torch.where(leaves.spare, -1.0, float("inf")).to(points.dtype)
    most = nearest.amax(1)
    chosen = [start]
    for _ in range(1, count):
        at = planes[:, chosen[-1], None]
        gap = torch.maximum(leaves.low - at, at - leaves.high).clamp_(min=0)
        gap.mul_(gap)
        touched = (gap[0].add_(gap[1]).add_(gap[2]) < most).nonzero()[:, 0]
        away = inside[:, touched] - at[..., None]
        away.mul_(away)
        nearer = torch.minimum(nearest[touched], away[0].add_(away[1]).add_(away[2]))
        nearest[touched], most[touched] = nearer, nearer.amax(1)
        best = most.amax()
        holders = (most == best).nonzero()[:, 0]
        chosen.append(int(leaves.members[holders][nearest[holders] == best].min()))
    return torch.tensor(chosen)


def _choose(points: Tensor, sizes: Sequence[int], count: int, start: Tensor) -> Tensor:
    """Return ``(B, count)`` positions within each cloud."""
    longest = max(sizes)
    parts = torch.split(points, list(sizes))
    # coordinates first: side by side they would be read at a third of the speed
    planes = torch.stack([_grown(part, longest).T for part in parts], 1).contiguous()
    end = torch.tensor(sizes, device=points.device)[:, None]
    inside = torch.arange(longest, device=points.device) < end
    # the point to come is never one that only fills a row: those are nearer than all others
    nearest = torch.where(inside, float("inf"), -1.0).to(points.dtype)
    rows = torch.arange(len(sizes), device=points.device)
    if torch.compiler.is_exporting():
        return _choose_in_graph(planes, nearest, count, start)
    gap, squared = torch.empty_like(planes), torch.empty_like(nearest)
    chosen = [start]
    for _ in range(1, count):
        torch.sub(planes, planes[:, rows, chosen[-1], None], out=gap)
        gap.mul_(gap)
        torch.add(gap[0], gap[1], out=squared).add_(gap[2])
        torch.minimum(nearest, squared, out=nearest)
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen, 1)


def _choose_in_graph(planes: Tensor, nearest: Tensor, count: int, start: Tensor) -> Tensor:
    """Return the same as a loop of the graph: unrolled, it would have a node for each point."""
    from torch._higher_order_ops.while_loop import while_loop

    places = torch.arange(count, device=planes.device)[None]
    rows = torch.arange(len(start), device=planes.device)

    def goes_on(step: Tensor, nearest: Tensor, chosen: Tensor) -> Tensor:
        return step < count

    def choose(step: Tensor, nearest: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = chosen.index_select(1, (step - 1).reshape(1))[:, 0]
        gap = planes - planes[:, rows, last, None]
        gap = gap * gap
        nearest = torch.minimum(nearest, gap[0] + gap[1] + gap[2])
        best = nearest.argmax(1, keepdim=True)
        return step + 1, nearest, torch.where(places == step, best, chosen)

    begun = torch.where(places == 0, start[:, None], torch.zeros_like(places))
    carried = (torch.tensor(1, device=planes.device), nearest, begun)
    chosen: Tensor = while_loop(goes_on, choose, carried)[2]  # type: ignore[no-untyped-call]
    return chosen


def _grown(part: Tensor, length: int) -> Tensor:
    return torch.cat([part, part[:1].expand(length - len(part), -1)])
