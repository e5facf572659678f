"""Exact Euclidean distances to a set of pixels, and from the border of a set.

The squared distance is separable: along columns first, which two running maxima give at once, then
along rows, by shifts. A shift of s can only give values of s * s and more, so the shifts end as
soon as no pixel is farther than that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def squared_distance(mask: Tensor, reach: float = math.inf) -> Tensor:
    """Return each pixel's squared distance to the nearest pixel of ``mask``.

    Args:
        mask: ``(…, H, W)`` bool.
        reach: distances above it may be given as ``inf``; a small one saves time.

    Returns:
        ``(…, H, W)`` float32, exact for images of up to 2,896 pixels a side (squares up to 2^24);
        0 on the mask, ``inf`` where an image has no such pixel.

    Example:
        >>> squared_distance(torch.tensor([[True, False, False], [False, False, False]])).tolist()
        [[0.0, 1.0, 4.0], [1.0, 2.0, 5.0]]
    """
    height, width = mask.shape[-2:]
    images = mask.reshape(-1, height, width)
    if not images.numel():
        return torch.zeros(mask.shape, device=mask.device)
    column = _along_columns(images) ** 2
    nearest = column.clone()
    known = images.flatten(1).any(1)
    for shift in range(1, width):
        # without its empty images, the largest value bounds what another shift can still lower
        left = nearest[known]
        if shift > reach or not left.numel() or shift**2 >= float(left.max()):
            break
        moved = column + shift**2
        for into, out in (
            (nearest[..., shift:], moved[..., :-shift]),
            (nearest[..., :-shift], moved[..., shift:]),
        ):
            torch.minimum(into, out, out=into)
    if math.isfinite(reach):
        nearest = nearest.masked_fill_(nearest > reach**2, math.inf)
    return nearest.view(mask.shape)


def _along_columns(mask: Tensor) -> Tensor:
    """Return the distance to the nearest true pixel of the same column, ``inf`` without one."""
    height = mask.shape[-2]
    row = torch.arange(height, dtype=torch.float32, device=mask.device).view(1, -1, 1)
    above = torch.where(mask, row, -math.inf).cummax(-2).values
    below = torch.where(mask, row, math.inf).flip(-2).cummin(-2).values.flip(-2)
    return torch.minimum(row - above, below - row)


@torch.no_grad()
def signed_distance(mask: Tensor) -> Tensor:
    """Return the distance to the set outside of it, and minus the depth inside of it.

    Outside, it is the distance to the nearest pixel of the set; inside, 1 minus that to the nearest
    pixel outside, so that the outermost pixels of the set lie at 0, as in the code of Kervadec et
    al. (arXiv:1812.07032). 0 everywhere for a set without pixels and for one without border.

    Args:
        mask: ``(…, H, W)`` bool.

    Example:
        >>> signed_distance(torch.tensor([[False, False, True, True, True]])).tolist()
        [[2.0, 1.0, 0.0, -1.0, -2.0]]
    """
    outside, inside = squared_distance(mask).sqrt(), squared_distance(~mask).sqrt()
    signed = torch.where(mask, 1 - inside, outside)
    return torch.where(signed.isfinite(), signed, 0.0)


@torch.no_grad()
def border_distance(mask: Tensor) -> Tensor:
    """Return each pixel's distance to the nearest pixel of the other kind, inside and outside.

    0 everywhere for a set without pixels and for one without border.

    Args:
        mask: ``(…, H, W)`` bool.

    Example:
        >>> border_distance(torch.tensor([[False, False, True, True, True]])).tolist()
        [[2.0, 1.0, 1.0, 2.0, 3.0]]
    """
    far = torch.where(mask, squared_distance(~mask), squared_distance(mask)).sqrt()
    return torch.where(far.isfinite(), far, 0.0)
