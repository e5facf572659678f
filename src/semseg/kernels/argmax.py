"""The winning class of each pixel at full size, without the full-size logits.

Where most of the picture is decided by the samples alone it is enlarged by lookup, see
:mod:`semseg.kernels.cells`. Else all values are computed in strips that stay in the cache. On a GPU
with Triton one kernel computes everything, see ``argmax_triton.py``.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels.cells import fill_by_cells, first_marked, ranks
from semseg.kernels.upsample import (
    Axis,
    Size,
    axes,
    check_logits,
    check_size,
    strips,
    working_dtype,
)
from semseg.kernels.with_triton import triton_runs

SMALL = 2**19
"""Values at full size up to which they are all made at once: preparing more costs more."""

SMALL_GPU = 2**26
"""The same for a GPU, where starting operators costs more than arithmetic."""


@overload
def upsample_argmax(
    logits: Tensor,
    size: Size,
    align_corners: bool = ...,
    return_confidence: Literal[False] = ...,
    *,
    dtype: torch.dtype = ...,
) -> Tensor: ...


@overload
def upsample_argmax(
    logits: Tensor,
    size: Size,
    align_corners: bool = ...,
    *,
    return_confidence: Literal[True],
    dtype: torch.dtype = ...,
) -> tuple[Tensor, Tensor]: ...


@torch.no_grad()
def upsample_argmax(
    logits: Tensor,
    size: Size,
    align_corners: bool = False,
    return_confidence: bool = False,
    *,
    dtype: torch.dtype = torch.int64,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the class of each pixel of logits enlarged bilinearly, the first among equals.

    The same labels as ``F.interpolate(logits, size, mode="bilinear").argmax(1)``, up to the
    rounding of float32 where two classes are equal within it. Half precision is computed in
    float32. Memory besides the result is bounded whatever the logits are.

    Args:
        logits: ``(N, K, h, w)``, finite; K = 1 is one sigmoid channel, whose labels are 1 where the
            enlarged logit is above 0, else 0.
        size: height and width of the result; larger, equal or smaller.
        align_corners: as in ``F.interpolate``.
        return_confidence: whether to return the softmax probability of the winning class too, at
            full size and of the enlarged logits. It needs every class at every pixel, so little
            is saved then; the labels are the same ones.
        dtype: of the labels; ``torch.uint8`` writes an eighth of the memory.

    Returns:
        ``(N, H, W)`` labels, or labels and ``(N, H, W)`` confidence, float32 (float64 for float64).

    Raises:
        InputError: shapes that do not fit, or labels that ``dtype`` cannot hold.
        SettingError: integer logits.

    Example:
        >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        >>> upsample_argmax(logits, (1, 6)).tolist()
        [[[0, 0, 0, 1, 1, 1]]]
    """
    check_logits("upsample_argmax", logits)
    check_size("upsample_argmax", size)
    _check_dtype(dtype, logits.shape[1])
    labels = torch.empty(len(logits), *size, dtype=dtype, device=logits.device)
    sure = (
        labels.new_empty(labels.shape, dtype=working_dtype(logits)) if return_confidence else None
    )
    if logits.shape[1] > 1 and logits.dtype != torch.float64 and triton_runs(logits.device):
        from semseg.kernels.argmax_triton import fill

        fill(logits, align_corners, labels, sure)
    else:
        for i, image in enumerate(logits):
            _one_image(image, align_corners, labels[i], None if sure is None else sure[i])
    return labels if sure is None else (labels, sure)


def _one_image(x: Tensor, align_corners: bool, out: Tensor, sure: Tensor | None) -> None:
    """Fill one image; its labels do not depend on whether the confidence is wanted."""
    classes, height, width = x.shape
    few = SMALL if x.device.type == "cpu" else SMALL_GPU
    if classes == 1 or classes * out.numel() <= few or out.numel() <= height * width:
        _direct(x, align_corners, out, sure)
        return
    rows, columns = axes(x, (out.shape[0], out.shape[1]), align_corners)
    if not fill_by_cells(x, rows, columns, out):
        _dense(x, rows, columns, out, sure)
    elif sure is not None:
        _dense(x, rows, columns, None, sure)


def _direct(x: Tensor, align_corners: bool, out: Tensor, sure: Tensor | None) -> None:
    """Compute all values at once: they are few, or no more than the logits are."""
    values = x[None].to(working_dtype(x))
    if x.shape[1:] != out.shape:
        size = (out.shape[0], out.shape[1])
        values = F.interpolate(values, size, mode="bilinear", align_corners=align_corners)
    values = values[0]
    if len(x) == 1:
        out.copy_(values[0] > 0)
    else:
        out.copy_(values.max(0).indices)
    if sure is not None:
        sure.copy_(values[0].abs().sigmoid() if len(x) == 1 else values.softmax(0).amax(0))


def _dense(x: Tensor, rows: Axis, columns: Axis, out: Tensor | None, sure: Tensor | None) -> None:
    """Compute every class at every pixel, strip by strip."""
    rank = ranks(len(x), rows.weight)
    for y, end, values in strips(x[None], rows, columns):
        strip = values[0]
        top = strip.amax(0)
        if out is not None:
            marks = strip.eq_(top) if sure is None else strip.eq(top).to(strip.dtype)
            out[y:end] = first_marked(marks, rank)
        if sure is not None:
            sure[y:end] = strip.sub_(top).exp_().sum(0).reciprocal_()


def _check_dtype(dtype: torch.dtype, classes: int) -> None:
    if dtype.is_floating_point or dtype.is_complex or torch.iinfo(dtype).max < classes - 1:
        raise InputError(
            f"{dtype} does not hold the labels of {classes} classes; take torch.int64, or leave "
            "dtype out"
        )
