"""The winning class of each pixel at full size on a GPU, in one pass; see ``argmax.py``.

Every pixel reads its four samples class by class and keeps the largest value so far. The samples
stay in the caches, so nothing but labels is written, and what the logits are does not matter.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from semseg.kernels.with_triton import jit

BLOCK = 128
"""Pixels of a row that one program fills."""


@jit
def enlarge(
    logits, labels, sure, stride_n, stride_k, stride_y, stride_x,
    classes, height, width, rows, columns, scale_y, scale_x,
    ALIGNED: tl.constexpr, SURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill a part of a row; places and values are computed as PyTorch's own GPU code does."""
    row = tl.program_id(0)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = x < columns
    y = row % rows
    if ALIGNED:
        place_y, place_x = y * scale_y, x * scale_x
    else:  # the compiler of PyTorch's operators fuses this, and Triton's may or may not
        place_y = tl.maximum(tl.fma(y + 0.5, scale_y, -0.5), 0.0)
        place_x = tl.maximum(tl.fma(x + 0.5, scale_x, -0.5), 0.0)
    top, left = tl.minimum(place_y.to(tl.int32), height - 1), place_x.to(tl.int32)
    left = tl.minimum(left, width - 1)
    low, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    down, across = tl.minimum(place_y - top, 1.0), tl.minimum(place_x - left, 1.0)
    source = logits + (row // rows).to(tl.int64) * stride_n
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    label = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    for k in range(classes):
        above, below = source + top * stride_y, source + low * stride_y
        a = tl.load(above + left * stride_x, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(above + right * stride_x, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(below + left * stride_x, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(below + right * stride_x, mask=inside, other=0.0).to(tl.float32)
        upper, lower = (1 - across) * a + across * b, (1 - across) * c + across * d
        value = (1 - down) * upper + down * lower
        larger = value > best  # the first among equals stays
        if SURE:
            less, more = total + tl.exp(value - best), total * tl.exp(best - value) + 1
            total = tl.where(larger, more, less)
        best = tl.where(larger, value, best)
        label = tl.where(larger, k, label)
        source += stride_k
    at = row.to(tl.int64) * columns + x
    tl.store(labels + at, label.to(labels.dtype.element_ty), mask=inside)
    if SURE:
        tl.store(sure + at, 1 / total, mask=inside)


def fill(logits: Tensor, align_corners: bool, labels: Tensor, sure: Tensor | None) -> None:
    """Fill labels, and the winners' probabilities where they are wanted.

    Args:
        logits: ``(N, K, h, w)``, float32 or half precision, in any memory format.
        align_corners: as in ``F.interpolate``.
        labels: ``(N, H, W)``, contiguous, of any integer type.
        sure: ``(N, H, W)`` float32, contiguous, or none.
    """
    classes, height, width = logits.shape[1:]
    images, rows, columns = labels.shape
    grid = (images * rows, triton.cdiv(columns, BLOCK))
    scales = [_scale(height, rows, align_corners), _scale(width, columns, align_corners)]
    out = (labels, labels if sure is None else sure)  # a pointer is wanted, used or not
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        enlarge[grid](
            logits, *out, *logits.stride(), classes, height, width, rows, columns, *scales,
            ALIGNED=align_corners, SURE=sure is not None, BLOCK=BLOCK, enable_fp_fusion=True,
        )  # fmt: skip


def _scale(samples: int, size: int, align_corners: bool) -> float:
    """Return samples per position, rounded to float32 as the operators of PyTorch do."""
    steps = (samples - 1, max(size - 1, 1)) if align_corners else (samples, size)
    return float(torch.tensor(steps[0], dtype=torch.float32) / steps[1])
