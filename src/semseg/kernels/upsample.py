"""Bilinear enlarging in strips of rows: the arithmetic that the other kernels share.

Enlarging is separable, and along one axis it is a lookup: each output position lies between two
samples, with one weight. Values are made for a few output rows at a time, while they stay in the
cache, so that nothing of the full size is ever held.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semseg.core.checks import InputError, SettingError

Size = tuple[int, int]

STRIP = 2**18
"""Values worked on at once by a CPU: its second cache keeps them."""

STRIP_GPU = 2**25
"""Values worked on at once by a GPU, to keep it busy."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Between which samples each output position of one axis lies.

    Args:
        low: ``(M,)`` int64, the sample before each of the M positions.
        high: ``(M,)`` int64, the sample after it; the same one at the last sample.
        weight: ``(M,)`` weight of ``high``; that of ``low`` is the rest.
        place: ``(M,)`` where the position lies, in samples; below 0 before the first one.
        samples: number of samples.
        same: whether each position is a sample.
        edges: first position of each run of positions with the same ``low``, and M.
        lows: ``low`` of each run.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    place: Tensor
    samples: int
    same: bool
    edges: tuple[int, ...]
    lows: tuple[int, ...]

    def cut(self, size: int) -> Axis:
        """Return the first ``size`` positions."""
        keep = bisect_left(self.edges, size)
        return replace(
            self,
            low=self.low[:size],
            high=self.high[:size],
            weight=self.weight[:size],
            place=self.place[:size],
            edges=(*self.edges[:keep], size),
            lows=self.lows[:keep],
        )


def axis(
    samples: int, size: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Axis:
    """Return how ``size`` positions read ``samples`` samples, as ``F.interpolate`` does.

    Args:
        samples: number of samples.
        size: number of output positions.
        align_corners: whether first and last positions are the first and last samples, or the
            outer edges of positions and samples meet.
        dtype: of the arithmetic; PyTorch computes places in float32 for half precision too.
        device: where the tensors shall be.

    Example:
        >>> axis(2, 4, False, torch.float32, torch.device("cpu")).weight.tolist()
        [0.0, 0.25, 0.75, 0.25]
    """
    place = torch.arange(size, dtype=dtype)  # made where reading it does not wait for a GPU
    if align_corners:
        scale = torch.tensor(samples - 1, dtype=dtype) / max(size - 1, 1)
        place = place * scale if size > 1 else place
    else:
        place = (place + 0.5) * (torch.tensor(samples, dtype=dtype) / size) - 0.5
    inside = place.clamp_min(0)
    low = inside.long().clamp_max(samples - 1)
    weight = (inside - low).clamp(0, 1)
    lows, lengths = torch.unique_consecutive(low, return_counts=True)
    edges = (0, *lengths.cumsum(0).tolist())
    high = (low + 1).clamp_max(samples - 1)
    low, high, weight, place = (t.to(device) for t in (low, high, weight, place))
    return Axis(low, high, weight, place, samples, size == samples, edges, tuple(lows.tolist()))


def axes(logits: Tensor, size: Size, align_corners: bool) -> tuple[Axis, Axis]:
    """Return the axes of rows and columns for ``(…, h, w)`` logits at ``size``."""
    dtype, device = working_dtype(logits), logits.device
    height, width = logits.shape[-2:]
    rows = axis(height, size[0], align_corners, dtype, device)
    return rows, axis(width, size[1], align_corners, dtype, device)


def strips(
    logits: Tensor, rows: Axis, columns: Axis, limit: int | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield enlarged logits, some output rows at a time.

    Args:
        logits: ``(N, K, h, w)``.
        rows: of the output.
        columns: of the output.
        limit: values in a strip; a strip has at least one row.

    Yields:
        First row, row after the last, and their values ``(N, K, rows, W)``, which the caller may
        overwrite: the next strip uses the same memory.
    """
    images, classes = logits.shape[:2]
    height, width = len(rows.low), len(columns.low)
    limit = limit or at_once(logits)
    step = min(height, max(1, limit // (images * classes * width)))
    buffer = columns.weight.new_empty(images, classes, step, width)
    stretched: dict[int, Tensor] = {}
    for first, end in spans(rows, step):
        if rows.same and columns.same:
            part = logits[:, :, first:end, :width]
            yield first, end, buffer[:, :, : end - first].copy_(part)
            continue
        parts = list(runs(rows, first, end))
        stretched = _stretched(logits, columns, parts, stretched)
        for y, after, low, high in parts:
            weight = rows.weight[y:after, None]
            part = buffer[:, :, y - first : after - first]
            torch.lerp(stretched[low], stretched[high], weight, out=part)
        yield first, end, buffer[:, :, : end - first]


def spans(rows: Axis, step: int) -> Iterator[tuple[int, int]]:
    """Yield strips ``(first, end)`` of at most ``step`` rows that end with a run if they can."""
    edges = rows.edges
    first, last = 0, edges[-1]
    while first < last:
        end = edges[bisect_right(edges, first + step) - 1]
        end = end if end > first else min(first + step, last)
        yield first, end
        first = end


def runs(rows: Axis, first: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield runs of rows between the same samples: ``(first, end, low, high)``."""
    edges = rows.edges
    at = bisect_right(edges, first)
    while first < end:
        after = min(edges[at], end)
        low = rows.lows[at - 1]
        yield first, after, low, min(low + 1, rows.samples - 1)
        first, at = after, at + 1


def _stretched(
    logits: Tensor,
    columns: Axis,
    parts: list[tuple[int, int, int, int]],
    before: dict[int, Tensor],
) -> dict[int, Tensor]:
    """Return the rows of samples that runs need, at full width; those there before are kept."""
    needed = dict.fromkeys(i for part in parts for i in part[2:])
    new = [i for i in needed if i not in before]
    if not new:
        return before
    if new[-1] - new[0] + 1 == len(new):
        samples = logits[:, :, new[0] : new[-1] + 1]
    else:
        samples = logits[:, :, new]
    samples = samples.to(columns.weight.dtype)
    shape = (*samples.shape[:-1], len(columns.low))
    low = samples.gather(-1, columns.low.expand(shape))
    low.lerp_(samples.gather(-1, columns.high.expand(shape)), columns.weight)
    rows = {i: before[i] for i in needed if i in before}
    for at, i in enumerate(new):
        rows[i] = low[:, :, at : at + 1]
    return rows


def at_once(logits: Tensor) -> int:
    """Return how many values to work on at once."""
    return STRIP if logits.device.type == "cpu" else STRIP_GPU


def working_dtype(logits: Tensor) -> torch.dtype:
    """Return float32 for half precision, else the dtype itself."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def check_logits(owner: str, logits: Tensor) -> None:
    """Refuse what is not a float ``(N, K, h, w)`` with something in it."""
    if not logits.is_floating_point():
        raise SettingError(
            f"{owner} takes logits of a floating point type, got {logits.dtype}; "
            "give the network's output, not labels"
        )
    if logits.dim() != 4 or logits.numel() == 0:
        raise InputError(
            f"{owner} takes logits of shape (N, K, h, w) with at least one value, got "
            f"{tuple(logits.shape)}; add the batch dimension with logits[None] if it is missing"
        )


def check_size(owner: str, size: Size) -> None:
    """Refuse what is not two positive numbers."""
    if len(size) != 2 or min(size) < 1:
        raise InputError(
            f"{owner} takes size as (height, width), at least 1 each, got {tuple(size)}"
        )
