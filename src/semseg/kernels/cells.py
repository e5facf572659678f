"""Labels at full size by lookup, with arithmetic only where the samples disagree.

A bilinear value is a convex combination of four corners, and between four neighbouring samples
(a *cell*) the same four corners serve every pixel. Two things follow:

- Where one class is the largest at all four corners it is the largest everywhere between them.
- A class wins inside a cell only if its largest corner reaches the largest of all the classes'
  smallest corners.

So the label map of the samples is enlarged by lookup, and only in cells whose corners disagree are
the few classes that can win computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semseg.kernels.upsample import Axis, at_once

COST = (300, 12, 12)
"""Nanoseconds that a cell whose corners disagree costs one core, as measured: by itself, per class
and per pixel."""

COST_IN_STRIP = 0.75
"""Nanoseconds that a value of a strip costs one core."""

LEAST = 2
"""Pixels per sample below which strips are faster whatever the samples say."""

MOST = 0.4
"""Share of disagreeing cells above which strips are faster whatever the cost of a cell."""


def ranks(classes: int, like: Tensor) -> Tensor:
    """Return K … 1, so that the first of several marked classes has the highest rank."""
    return torch.arange(classes, 0, -1, dtype=like.dtype, device=like.device)[:, None, None]


def first_marked(marks: Tensor, rank: Tensor) -> Tensor:
    """Return the first class of ``(K, h, w)`` that is marked by a 1; overwrites the marks.

    An argmax that the vector units can do: several times faster than ``argmax`` over a dimension
    that is not the last. Without any mark, at a NaN, it is the last class.
    """
    return len(rank) - marks.mul_(rank).amax(0).clamp_min_(1).long()


def winners(x: Tensor, like: Tensor) -> Tensor:
    """Return the class of each sample of ``(K, h, w)``."""
    classes, _, width = x.shape
    rank = ranks(classes, like)
    parts = []
    for part in torch.split(x, max(1, at_once(x) // (classes * width)), 1):
        marks = torch.eq(part, part.amax(0), out=like.new_empty(part.shape))
        parts.append(first_marked(marks, rank))
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class _Cells:
    """The pixels of one axis by cell: cell c lies between samples c - 1 and c, n + 1 in all.

    Args:
        of: ``(M,)`` cell of each pixel.
        corners: ``(n + 2,)`` the samples, the outermost twice; cell c has corners c and c + 1.
        filled: ``(n + 1,)`` whether the cell has any pixel.
        pixels: ``(R, n + 1)`` the pixels of each cell, the last repeated where it has fewer than R.
        weight: ``(R, n + 1)`` their weights of the later corner.
    """

    of: Tensor
    corners: Tensor
    filled: Tensor
    pixels: Tensor
    weight: Tensor


def _cells(axis: Axis, samples: int) -> _Cells:
    cell = torch.where(axis.place < 0, 0, axis.low + 1)
    count = torch.bincount(cell, minlength=samples + 1)
    first = count.cumsum(0) - count
    within = torch.arange(int(count.max()), device=cell.device)[:, None]
    pixels = (first + torch.minimum(within, (count - 1).clamp_min(0))).clamp_max(len(cell) - 1)
    corners = torch.arange(-1, samples + 1, device=cell.device).clamp(0, samples - 1)
    return _Cells(cell, corners, count > 0, pixels, axis.weight[pixels])


def fill_by_cells(x: Tensor, rows: Axis, columns: Axis, out: Tensor) -> bool:
    """Fill ``out`` by lookup and compute the cells that disagree; ``False`` if that is slower."""
    classes, height, width = x.shape
    if out.numel() < LEAST * height * width:
        return False
    down, across = _cells(rows, height), _cells(columns, width)
    winner = winners(x, rows.weight)
    winner = winner.index_select(0, down.corners).index_select(1, across.corners)
    sideways = winner[:, 1:] != winner[:, :-1]
    mixed = sideways[1:] | sideways[:-1] | (winner[1:] != winner[:-1])[:, 1:]
    mixed &= down.filled[:, None] & across.filled
    cells = mixed.flatten().nonzero()[:, 0]
    each, per_class, per_pixel = COST
    cost = each + per_class * classes + per_pixel * len(down.pixels) * len(across.pixels)
    dear = len(cells) * cost > COST_IN_STRIP * classes * out.numel()
    if dear or len(cells) > MOST * mixed.numel():
        return False
    labels = winner[:-1, :-1].to(out.dtype).index_select(1, across.of)
    torch.index_select(labels, 0, down.of, out=out)
    if not len(cells):
        return True  # one class everywhere
    flat, limit = x.reshape(classes, -1), at_once(x)
    waiting: list[_Candidates] = []
    for part in torch.split(cells, max(1, limit // (3 * classes))):
        waiting.append(_candidates(flat, part, down, across))
        if sum(len(some.classes) for some in waiting) > limit // 4:
            _fill_mixed(waiting, down, across, out, limit)
            waiting = []
    _fill_mixed(waiting, down, across, out, limit)
    return True


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The classes that can win in each of n cells.

    Args:
        rows: ``(n,)`` row of each cell.
        columns: ``(n,)`` column of each cell.
        count: ``(n,)`` number of its candidates.
        classes: ``(P,)`` candidates, those of one cell together and in order.
        values: ``(4, P)`` their corners.
    """

    rows: Tensor
    columns: Tensor
    count: Tensor
    classes: Tensor
    values: Tensor


def _candidates(x: Tensor, cells: Tensor, down: _Cells, across: _Cells) -> _Candidates:
    """Return the candidates of the given cells of ``(K, h * w)`` logits."""
    width, n = len(across.filled), len(cells)
    i = cells // width
    j = cells - i * width
    top, bottom = (down.corners.index_select(0, k) * (width - 1) for k in (i, i + 1))
    left, right = (across.corners.index_select(0, k) for k in (j, j + 1))
    corners = torch.cat([top + left, top + right, bottom + left, bottom + right])
    values = x.gather(1, corners.expand(len(x), -1)).view(-1, 4, n)
    possible = values.amax(1) >= values.amin(1).amax(0)
    cell, candidate = possible.t().nonzero().unbind(1)
    corner = torch.arange(4, device=x.device)[:, None] * n
    chosen = values.view(-1).index_select(0, (candidate * (4 * n) + cell + corner).view(-1))
    chosen = chosen.view(4, -1).to(down.weight.dtype)
    return _Candidates(i, j, possible.sum(0), candidate, chosen)


def _fill_mixed(
    waiting: list[_Candidates], down: _Cells, across: _Cells, out: Tensor, limit: int
) -> None:
    """Compute the pixels of cells whose candidates are known, ``limit`` values at once."""
    if not waiting:
        return
    names = ("rows", "columns", "count", "classes")
    i, j, count, classes = (torch.cat([getattr(some, name) for some in waiting]) for name in names)
    values = torch.cat([some.values for some in waiting], 1)
    start = count.cumsum(0) - count
    pixels = len(down.pixels) * len(across.pixels)
    least, most, highest = 0, 2, int(count.max())
    while least < highest:
        nth = torch.arange(min(most, highest), device=count.device)[:, None]
        chosen = ((count > least) & (count <= most)).nonzero()[:, 0]
        for some in torch.split(chosen, max(1, limit // (len(nth) * pixels))):
            # a cell with fewer candidates repeats its first, which changes no winner
            which = start[some] + torch.where(nth < count[some], nth, 0)
            corners = values.index_select(1, which.view(-1)).view(4, len(nth), 1, -1)
            _fill_cells(classes[which], corners, (i[some], down), (j[some], across), out)
        least, most = most, 4 * most


def _fill_cells(
    which: Tensor,
    corners: Tensor,
    rows: tuple[Tensor, _Cells],
    columns: tuple[Tensor, _Cells],
    out: Tensor,
) -> None:
    """Compute the pixels of cells that have the same number of candidates.

    Args:
        which: ``(m, g)`` candidates of g cells.
        corners: ``(4, m, 1, g)`` their values.
        rows: ``(g,)`` row of each cell, and what the rows are.
        columns: the same for the columns.
        out: ``(H, W)`` labels, contiguous.
    """
    (i, down), (j, across) = rows, columns
    edges = torch.lerp(corners[0::2], corners[1::2], across.weight.index_select(1, j))
    inside = torch.lerp(
        edges[0, :, None], edges[1, :, None], down.weight.index_select(1, i)[:, None]
    )
    if len(which) == 2:
        labels = torch.where(inside[1] > inside[0], which[1], which[0])
    else:
        best = inside.max(0).indices
        labels = which.gather(0, best.view(-1, which.shape[1])).view(best.shape)
    places = (down.pixels * out.shape[1]).index_select(1, i)[:, None]
    places = places + across.pixels.index_select(1, j)
    out.view(-1)[places] = labels.to(out.dtype)
