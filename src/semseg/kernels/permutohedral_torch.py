"""The permutohedral lattice in plain torch, for every device; see ``permutohedral.py``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semseg.core.checks import InputError


@dataclass(frozen=True, slots=True)
class Keys:
    """How lattice points become integers.

    The d + 1 coordinates of a lattice point leave the same remainder r when divided by d + 1, and
    their sum is zero: r and the first d quotients say which point it is. The code is
    ``r * block + sum((quotient - low) * stride)``. Codes of neighbours differ by constants.

    Args:
        scale: ``(d,)`` of the features, so that the blur has standard deviation 1.
        stride: ``(d + 1,)`` int64; 0 for the coordinate that follows from the others.
        low: ``(d + 1,)`` int64 least quotients.
        block: codes of one remainder.
    """

    scale: Tensor
    stride: Tensor
    low: Tensor
    block: int

    @classmethod
    def of(cls, features: Tensor) -> Keys:
        """Return keys that hold every point around these features, on a CPU."""
        d = features.shape[1]
        deviation = torch.tensor(math.sqrt(2 / 3) * (d + 1)).item()  # of the blur, in float32
        scale = torch.tensor([deviation / math.sqrt((k + 1) * (k + 2)) for k in range(d)])
        lift = torch.zeros(d + 1, d, dtype=torch.float64)  # the matrix E of the paper
        for k in range(d):
            lift[: k + 1, k], lift[k + 1, k] = scale[k], -(k + 1) * scale[k]
        least, most = (t.double().cpu() for t in features.aminmax(dim=0))
        up, down = lift.clamp_min(0) / (d + 1), lift.clamp_max(0) / (d + 1)
        # rounding moves a quotient by 1/2, projecting by 1, a corner and a neighbour by 1 each
        low = (up @ least + down @ most).floor().long() - 4
        high = (up @ most + down @ least).ceil().long() + 4
        extents = (high - low + 1).tolist()[:d]
        if (d + 1) * math.prod(extents) >= 2**62:
            raise InputError(
                f"features span {[round(x, 1) for x in (most - least).tolist()]} widths, more than "
                "the lattice can number; use larger widths"
            )
        stride = [math.prod(extents[:k]) for k in range(d)]
        return cls(scale.to(features.dtype), torch.tensor([*stride, 0]), low, math.prod(extents))


@dataclass(frozen=True, slots=True)
class TorchLattice:
    """Pixels on lattice points. N pixels, M lattice points.

    Args:
        offsets: ``(d + 1, N)`` lattice points of the simplex around each pixel.
        weights: ``(d + 1, N)`` its barycentric coordinates.
        before: ``(d + 1, M)`` the neighbour along each axis; M where there is none.
        after: ``(d + 1, M)`` the neighbour on the other side.
    """

    offsets: Tensor
    weights: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, features: Tensor, keys: Keys) -> TorchLattice:
        """Return the lattice of ``(N, d)`` features."""
        d, device = features.shape[1], features.device
        stride, low = keys.stride.to(device), keys.low.to(device)
        quotient, rank, rest = _simplex(features * keys.scale.to(device))
        order = rank.argsort(0)  # ranks are all different: the coordinate of each rank
        rest = rest.gather(0, order).flip(0)
        weights = torch.cat([rest[:1] + (1 - rest[-1:]), rest[1:] - rest[:-1]])
        first = ((quotient - low[:, None]) * stride[:, None]).sum(0, keepdim=True)
        steps = (keys.block - stride[order.flip(0)[:-1]]).cumsum(0)
        codes, offsets = numbered(torch.cat([first, first + steps]))
        remainder, sides = codes // keys.block, []
        for axis in range(d + 1):
            step = torch.where(remainder > 0, -keys.block, d * keys.block - stride.sum())
            wanted = codes + step + stride[axis]
            place = torch.searchsorted(codes, wanted).clamp_max(len(codes) - 1)
            place[codes[place] != wanted] = len(codes)
            sides.append(place)
        before = torch.stack(sides)
        # a lattice point is the neighbour of its neighbour; what has none ends in the spare column
        after = before.new_full((d + 1, len(codes) + 1), len(codes))
        after.scatter_(1, before, torch.arange(len(codes), device=device).expand_as(before))
        return cls(offsets, weights, before, after[:, :-1])

    def convolve(self, values: Tensor, factor: float, reverse: bool) -> Tensor:
        """Return ``(N, C)`` values splatted, blurred and sliced, times ``factor``."""
        axes, points = self.before.shape
        x = values.new_zeros(points + 1, values.shape[1])
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            x.index_add_(0, offset, values * weight[:, None])
        for axis in reversed(range(axes)) if reverse else range(axes):
            x[:-1] += (x[self.before[axis]] + x[self.after[axis]]) / 2
        out = torch.zeros_like(values)
        for offset, weight in zip(self.offsets, self.weights, strict=True):
            out.addcmul_(x[offset], weight[:, None])
        return out * factor


def numbered(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different codes in order, and which of them each is."""
    unique: Any = torch.unique
    different, index = unique(codes, return_inverse=True)
    return different, index


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for scaled features, each ``(d + 1, N)``: quotients, ranks and what is left."""
    count, d = features.shape
    total, lifted = features.new_zeros(count), []
    for k in range(d, 0, -1):
        part = features[:, k - 1]
        lifted.append(total - k * part)
        total = total + part
    y = torch.stack([total, *reversed(lifted)])
    down = torch.tensor(1 / (d + 1), dtype=y.dtype, device=y.device)
    quotient = (y * down).round()
    rest = y - quotient * (d + 1)
    rank = quotient.sum(0).expand(d + 1, -1).clone()
    for a in range(d):
        less = rest[a] < rest[a + 1 :]
        rank[a] += less.sum(0)
        rank[a + 1 :] += ~less
    moved = (rank < 0).to(y.dtype) - (rank > d).to(y.dtype)
    quotient, rank = quotient + moved, rank + moved * (d + 1)
    return quotient.long(), rank.long(), (y - quotient * (d + 1)) * down
