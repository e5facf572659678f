"""The permutohedral lattice on a CPU, by numba and threads; see ``permutohedral.py``.

Pixels come in bands, and each band numbers the lattice points it touches by itself. One thread adds
up a band without atomics, neighbouring pixels find their rows in its cache, and sums do not depend
on the number of threads. Afterwards the bands' rows are added up, grouped by lattice point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semseg.kernels import permutohedral_loops as loops
from semseg.kernels.permutohedral_torch import Keys, numbered

Array = np.ndarray[Any, Any]
Span = tuple[int, int]

BANDS = 16
"""Bands of an image; more threads than this find no work while adding up."""

PAD = 4
"""What C is padded to a multiple of."""

LEAST = 4096
"""Pixels or rows that are worth a thread."""


@dataclass(frozen=True, slots=True)
class CpuLattice:
    """Pixels on lattice points, band by band. N pixels, R rows of all bands, M lattice points.

    Args:
        bands: ranges of pixels.
        offsets: ``(N, d + 1)`` int32, rows of the simplex around each pixel.
        weights: ``(N, d + 1)`` float32, its barycentric coordinates.
        index: ``(R,)`` int32, the lattice point of each row.
        order: ``(R,)`` int32, rows by lattice point.
        starts: ``(M + 1,)`` where the rows of each lattice point begin in ``order``.
        before: ``(d + 1, M)`` int32, the neighbour along each axis; M where there is none.
        after: ``(d + 1, M)`` int32, the neighbour on the other side.
    """

    bands: list[Span]
    offsets: Array
    weights: Array
    index: Array
    order: Array
    starts: Array
    before: Array
    after: Array

    @classmethod
    def of(cls, features: Tensor, keys: Keys) -> CpuLattice:
        """Return the lattice of ``(N, d)`` float32 features."""
        count, dims = features.shape
        bands = spans(count, max(1, min(BANDS, count // LEAST)))
        offsets = np.empty((count, dims + 1), np.int32)
        weights = np.empty((count, dims + 1), np.float32)
        scale, stride, low = (t.numpy() for t in (keys.scale, keys.stride, keys.low))
        with threads() as pool:
            args = (features.contiguous().numpy(), scale, stride, low, keys.block, offsets, weights)
            found = over(pool, loops.embed, bands, *args)
            starts = np.cumsum([0, *map(len, found)])
            moved = [(*band, offsets, s) for band, s in zip(bands, starts, strict=False)]
            over(pool, loops.move, moved)
            codes, index = numbered(torch.from_numpy(np.concatenate(found)))
            sides = np.full((2, dims + 1, len(codes)), len(codes), np.int32)
            edges = np.searchsorted(codes.numpy(), np.arange(dims + 2) * keys.block)
            axes = [(axis,) for axis in range(dims + 1)]
            over(pool, loops.join, axes, codes.numpy(), edges, stride, keys.block, *sides)
        order = index.argsort(stable=True).to(torch.int32).numpy()
        ends = index.bincount(minlength=len(codes)).cumsum(0).numpy()
        points, starts = index.to(torch.int32).numpy(), np.concatenate([[0], ends])
        return cls(bands, offsets, weights, points, order, starts, *sides)

    def buffers(self, width: int) -> list[Array]:
        """Return two buffers of all lattice points, and one more of zeros behind them."""
        pair = [np.empty((self.before.shape[1] + 1, width), np.float32) for _ in range(2)]
        for buffer in pair:
            buffer[-1] = 0
        return pair

    def convolve(self, values: Tensor, factor: float, reverse: bool) -> Tensor:
        """Return ``(N, C)`` float32 values splatted, blurred and sliced, times ``factor``."""
        count, channels = values.shape
        lanes = lanes_for(channels)
        rows = padded(values.numpy(), len(lanes))
        out = np.empty_like(rows)
        local = np.zeros((len(self.index), len(lanes)), np.float32)
        with threads() as pool:
            over(pool, loops.splat, self.bands, rows, self.offsets, self.weights, local, lanes)
            x = blurred(pool, self, local, self.buffers(len(lanes)), reverse)
            spread(pool, self, x, factor, local)
            each(pool, loops.slice_rows, count, local, self.offsets, self.weights, out, lanes)
        return torch.from_numpy(out[:, :channels])


def blurred(
    pool: Executor, lattice: CpuLattice, local: Array, buffers: list[Array], reverse: bool = False
) -> Array:
    """Add up the bands' rows ``(R, C)``, leave zeros there, and blur the sums along every axis.

    Returns:
        One of the buffers, with a spare row.
    """
    lanes = (0,) * local.shape[1]
    axes, points = lattice.before.shape
    x, y = buffers
    each(pool, loops.merge, points, local, lattice.order, lattice.starts, x, lanes)
    for axis in reversed(range(axes)) if reverse else range(axes):
        each(pool, loops.blur, points, x, lattice.before[axis], lattice.after[axis], y, lanes)
        x, y = y, x
    return x


def spread(pool: Executor, lattice: CpuLattice, x: Array, factor: float, local: Array) -> None:
    """Give every band the rows of its lattice points, times ``factor``."""
    args = (x, lattice.index, np.float32(factor), local, (0,) * x.shape[1])
    each(pool, loops.spread, len(local), *args)


def lanes_for(channels: int) -> tuple[int, ...]:
    """Return as many zeros as a padded row has values; see ``rows.py``.

    Example:
        >>> len(lanes_for(21))
        24
    """
    return (0,) * (-(-channels // PAD) * PAD)


def padded(values: Array, width: int) -> Array:
    """Return ``(N, width)`` contiguous float32 rows, zero behind the given channels."""
    if values.shape[1] == width:
        return np.ascontiguousarray(values, np.float32)
    rows = np.zeros((len(values), width), np.float32)
    rows[:, : values.shape[1]] = values
    return rows


# ---- threads -----------------------------------------------------------------------------------


def threads() -> ThreadPoolExecutor:
    """Return as many threads as PyTorch uses; a pool that is kept would not survive a fork."""
    return ThreadPoolExecutor(torch.get_num_threads())


def spans(count: int, parts: int) -> list[Span]:
    """Return ``parts`` ranges of about the same length.

    Example:
        >>> spans(5, 2)
        [(0, 2), (2, 5)]
    """
    return [(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def each(pool: Executor, function: Callable[..., Any], count: int, *args: Any) -> None:
    """Call ``function(first, end, *args)`` over ranges of ``count`` rows, in all threads."""
    parts = max(1, min(2 * torch.get_num_threads(), count // LEAST))
    over(pool, function, spans(count, parts), *args)


def over(
    pool: Executor, function: Callable[..., Any], firsts: Sequence[tuple[Any, ...]], *args: Any
) -> list[Any]:
    """Return ``function(*first, *args)`` for each of ``firsts``, called in all threads."""
    results: list[Any] = [None] * len(firsts)
    waiting = deque(enumerate(firsts))

    def work() -> None:
        while True:
            try:
                place, first = waiting.popleft()
            except IndexError:
                return
            results[place] = function(*first, *args)

    others = min(torch.get_num_threads(), len(firsts)) - 1
    helpers = [pool.submit(work) for _ in range(others)]
    work()  # waking no thread for what this one can do
    for helper in helpers:
        helper.result()
    return results
