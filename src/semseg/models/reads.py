"""What each operation reads: the rules that a receptive field is followed by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

aten = torch.ops.aten

Places = NDArray[np.int64]

Read = tuple[Places, Places]
"""First and last place of the source that each place of the result reads, along one side."""


def _window(made: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> Read:
    start = np.arange(made) * stride - pad
    return start, start + dilation * (kernel - 1)


def _pair(values: int | Sequence[int]) -> list[int]:
    return [values] * 2 if isinstance(values, int) else [values[-2 % len(values)], values[-1]]


def _convolution(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    facts = (made.shape[-2:], args[1].shape[-2:], *(_pair(values) for values in args[3:6]))
    if not args[6]:
        return [_window(*side) for side in zip(*facts, strict=True)]
    reads = []
    for places, kernel, stride, pad, dilation in zip(*facts, strict=True):
        i = np.arange(places) + pad  # = stride * source + dilation * tap
        reads.append((-((dilation * (kernel - 1) - i) // stride), i // stride))
    return reads


def _pool(source: Tensor, made: Tensor, args: Sequence[Any], *, dilated: bool) -> list[Read]:
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
    pad = _pair(args[3]) if len(args) > 3 else [0, 0]
    dilation = _pair(args[4]) if dilated and len(args) > 4 else [1, 1]
    sides = zip(made.shape[-2:], kernel, stride, pad, dilation, strict=True)
    return [_window(*side) for side in sides]


def _max_pool(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    return _pool(source, made, args, dilated=True)


def _average_pool(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    return _pool(source, made, args, dilated=False)


def _nearest(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    sides = zip(source.shape[-2:], made.shape[-2:], strict=True)
    return [(i, i) for i in (np.arange(new) * old // new for old, new in sides)]


def _block(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    return [_window(places, args[1], args[1], 0) for places in made.shape[-2:]]


def _bilinear(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    reads = []
    for old, new in zip(source.shape[-2:], made.shape[-2:], strict=True):
        i = np.arange(new)
        if args[2]:  # align_corners
            numerator, denominator = i * (old - 1), max(new - 1, 1)
        else:
            numerator, denominator = (2 * i + 1) * old - new, 2 * new
        reads.append((numerator // denominator, -(-numerator // denominator)))
    return reads


def _pad(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    before = [args[1][2] if len(args[1]) > 2 else 0, args[1][0]]  # left, right, top, bottom
    return [_window(places, 1, 1, pad) for places, pad in zip(made.shape[-2:], before, strict=True)]


def _select_places(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    # the indices have no values on the meta device; networks mirror borders with them
    sides = zip(source.shape[-2:], made.shape[-2:], strict=True)
    return [_window(new, 1, 1, (new - old) // 2) for old, new in sides]


def _slice(source: Tensor, made: Tensor, args: Sequence[Any]) -> list[Read]:
    dim = (args[1] if len(args) > 1 else 0) % source.ndim
    start = args[2] if len(args) > 2 and args[2] is not None else 0
    step = args[4] if len(args) > 4 else 1
    start += source.shape[dim] if start < 0 else 0
    reads = [_window(places, 1, 1, 0) for places in made.shape[-2:]]
    if (side := dim - source.ndim + 2) >= 0:
        reads[side] = _window(made.shape[dim], 1, step, -start)
    return reads


READS: dict[Any, Callable[[Tensor, Tensor, Sequence[Any]], list[Read]]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten.avg_pool3d: _average_pool,
    aten.max_unpool2d: _nearest,
    aten.upsample_nearest2d: _nearest,
    aten.pixel_shuffle: _nearest,
    aten.pixel_unshuffle: _block,
    aten.upsample_bilinear2d: _bilinear,
    aten.constant_pad_nd: _pad,
    aten.reflection_pad2d: _pad,
    aten.replication_pad2d: _pad,
    aten.index_select: _select_places,
    aten.slice: _slice,
}
"""What each operation reads, from (source, result, arguments): height, then width."""
