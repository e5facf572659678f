"""The permutohedral lattice on a GPU, by Triton; see ``permutohedral.py``.

Atomic additions of many pixels to few lattice points wait for each other. Here the pixels are
sorted by lattice point and cut into short pieces; pieces are added up side by side, then the sums
of each point's pieces. No order of additions is left to chance: results repeat bit for bit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from semseg.kernels.permutohedral_torch import Keys, TorchLattice
from semseg.kernels.with_triton import jit

LENGTH = 32
"""Pixels in a piece."""

TILE = 1024
"""Values that one program works on."""


@jit
def places(row, lane, channels):
    """Return where the values of rows lie, ``(ROWS, LANES)``; in 64 bits, there may be many."""
    return row.to(tl.int64)[:, None] * channels + lane[None, :]


@jit
def add_pieces(
    values, pixels, shares, starts, out, count, channels,
    LENGTH: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add up the weighted rows of every piece."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    used = row < count
    first = tl.load(starts + row, mask=used, other=0)
    end = tl.load(starts + row + 1, mask=used, other=0)
    total = tl.zeros([ROWS, LANES], tl.float32)
    for step in range(LENGTH):
        live = first + step < end
        pixel = tl.load(pixels + first + step, mask=live, other=0)
        share = tl.load(shares + first + step, mask=live, other=0.0)
        wanted = live[:, None] & (lane < channels)[None, :]
        place = places(pixel, lane, channels)
        total += share[:, None] * tl.load(values + place, mask=wanted, other=0.0)
    place = places(row, lane, channels)
    tl.store(out + place, total, mask=used[:, None] & (lane < channels)[None, :])


@jit
def add_points(
    sums, starts, out, count, channels,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add up the pieces of every lattice point."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    used = row < count
    first = tl.load(starts + row, mask=used, other=0)
    end = tl.load(starts + row + 1, mask=used, other=0)
    total = tl.zeros([ROWS, LANES], tl.float32)
    for step in range(tl.max(end - first, axis=0)):
        wanted = (first + step < end)[:, None] & (lane < channels)[None, :]
        place = places(first + step, lane, channels)
        total += tl.load(sums + place, mask=wanted, other=0.0)
    place = places(row, lane, channels)
    tl.store(out + place, total, mask=used[:, None] & (lane < channels)[None, :])


@jit
def blur(
    x, before, after, out, count, channels,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add half of both neighbours along one axis; index ``count`` means that there is none."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    used, real = row < count, (lane < channels)[None, :]
    one = tl.load(before + row, mask=used, other=0)
    other = tl.load(after + row, mask=used, other=0)
    place = places(row, lane, channels)
    mask = used[:, None] & real
    total = tl.load(x + place, mask=mask, other=0.0)
    near = places(one, lane, channels)
    far = places(other, lane, channels)
    sides = tl.load(x + near, mask=mask & (one < count)[:, None], other=0.0)
    sides += tl.load(x + far, mask=mask & (other < count)[:, None], other=0.0)
    tl.store(out + place, total + sides / 2, mask=mask)


@jit
def read_pixels(
    x, offsets, weights, out, count, channels, factor,
    AXES: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Add up the weighted corners of every pixel, times the factor."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    used = row < count
    mask = used[:, None] & (lane < channels)[None, :]
    total = tl.zeros([ROWS, LANES], tl.float32)
    for axis in range(AXES):
        point = tl.load(offsets + axis * count + row, mask=used, other=0)
        share = tl.load(weights + axis * count + row, mask=used, other=0.0)
        place = places(point, lane, channels)
        total += share[:, None] * tl.load(x + place, mask=mask, other=0.0)
    place = places(row, lane, channels)
    tl.store(out + place, total * factor, mask=mask)


@dataclass(frozen=True, slots=True)
class TritonLattice:
    """Pixels on lattice points. N pixels, M lattice points, R pieces.

    Args:
        offsets: ``(d + 1, N)`` int32 lattice points of the simplex around each pixel.
        weights: ``(d + 1, N)`` float32, its barycentric coordinates.
        before: ``(d + 1, M)`` int32, the neighbour along each axis; M where there is none.
        after: ``(d + 1, M)`` int32, the neighbour on the other side.
        pixels: ``((d + 1) * N,)`` int32, the pixel of each corner, by lattice point.
        shares: ``((d + 1) * N,)`` float32, its weight.
        starts: ``(R + 1,)`` int32, where pieces begin in ``pixels``, and its length.
        pieces: ``(M + 1,)`` int32, the first piece of each lattice point, and R.
    """

    offsets: Tensor
    weights: Tensor
    before: Tensor
    after: Tensor
    pixels: Tensor
    shares: Tensor
    starts: Tensor
    pieces: Tensor

    @classmethod
    def of(cls, features: Tensor, keys: Keys) -> TritonLattice:
        """Return the lattice of ``(N, d)`` float32 features with ``(d + 1) * N < 2**31``."""
        plain = TorchLattice.of(features, keys)
        points, count = plain.before.shape[1], len(features)
        offsets = plain.offsets.int()
        order = offsets.flatten().argsort(stable=True)
        corners = torch.bincount(plain.offsets.flatten(), minlength=points)
        first, pieces = _starts(corners), _starts((corners + LENGTH - 1) // LENGTH)
        number = torch.arange(int(pieces[-1]), device=features.device)
        owner = torch.repeat_interleave(pieces.diff(), output_size=len(number))
        starts = first[owner] + LENGTH * (number - pieces[owner])
        return cls(
            offsets,
            plain.weights.contiguous(),
            plain.before.int(),
            plain.after.int(),
            (order % count).int(),
            plain.weights.flatten()[order],
            torch.cat([starts, first[-1:]]).int(),
            pieces.int(),
        )

    def convolve(self, values: Tensor, factor: float, reverse: bool) -> Tensor:
        """Return ``(N, C)`` float32 values splatted, blurred and sliced, times ``factor``."""
        count, channels = values.shape
        axes, points = self.before.shape
        pieces = len(self.starts) - 1
        lanes = triton.next_power_of_2(channels)
        rows = max(1, TILE // lanes)

        def launch(kernel: Any, length: int, *args: Any, **sizes: int) -> None:
            grid = (triton.cdiv(length, rows),)
            kernel[grid](*args, ROWS=rows, LANES=lanes, enable_fp_fusion=True, **sizes)

        values = values.contiguous()
        sums, out = values.new_empty(pieces, channels), torch.empty_like(values)
        x, y = values.new_empty(points, channels), values.new_empty(points, channels)
        near = self.pixels, self.shares, self.starts
        with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
            launch(add_pieces, pieces, values, *near, sums, pieces, channels, LENGTH=LENGTH)
            launch(add_points, points, sums, self.pieces, x, points, channels)
            for axis in reversed(range(axes)) if reverse else range(axes):
                launch(blur, points, x, self.before[axis], self.after[axis], y, points, channels)
                x, y = y, x
            corners = self.offsets, self.weights
            launch(read_pixels, count, x, *corners, out, count, channels, factor, AXES=axes)
        return out


def _starts(lengths: Tensor) -> Tensor:
    """Return where consecutive ranges of these lengths begin, and their sum."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
