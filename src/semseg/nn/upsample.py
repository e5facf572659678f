"""Enlarging by a fixed factor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BilinearDeconv(nn.Module):
    """Transposed convolution with frozen bilinear weights: Caffe's way to enlarge scores.

    Args:
        factor: f; the kernel is 2f x 2f, the stride f, there is no padding and no bias.

    Shapes:
        - x: ``(N, C, h, w)``.
        - output: ``(N, C, (h + 1) * f, (w + 1) * f)``; f / 2 pixels on each side are extra, and
          what lies within f / 2 of the border fades to zero.

    Caffe holds a ``C x C`` kernel that is zero off its diagonal; one kernel applied to each
    channel is the same arithmetic. It is no parameter and not part of the state dict, since
    ``factor`` determines it.

    Source: Shelhamer, Long, Darrell, arXiv:1605.06211, section 4.3, and ``surgery.py`` of the
    authors' code.

    Example:
        >>> BilinearDeconv(2)(torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 3, 10, 10])
    """

    kernel: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        distance = (torch.arange(2 * factor, dtype=torch.float32) - (factor - 0.5)).abs()
        tent = 1 - distance / factor
        kernel = (tent[:, None] * tent[None, :])[None, None]
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` enlarged by ``factor``, with its margin."""
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=self.factor, groups=channels)


def of_enlarged(conv: nn.Conv2d, channels: int) -> nn.ConvTranspose2d:
    """Return the transposed convolution that enlarges twice and convolves, at once.

    A 3x3 convolution of a map that nearest neighbour has made twice as large multiplies each value
    with the same weights again and again; their sums, 4x4, do with 16 products instead of 36.

    Args:
        conv: 3x3, padding 1, of maps after enlarging.
        channels: the first so many of its inputs are enlarged ones; those after are left out.

    Example:
        >>> conv, x = nn.Conv2d(5, 2, 3, padding=1), torch.rand(1, 3, 4, 6)
        >>> large = F.interpolate(x, scale_factor=2.0, mode="nearest")
        >>> want = conv(torch.cat([large, torch.zeros(1, 2, 8, 12)], dim=1))
        >>> torch.allclose(of_enlarged(conv, 3)(x), want, atol=1e-6)
        True
    """
    weight = conv.weight[:, :channels].detach()
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], axis)
    out = nn.ConvTranspose2d(channels, conv.out_channels, 4, 2, 1, bias=conv.bias is not None)
    out.weight = nn.Parameter(weight.transpose(0, 1).contiguous())
    if conv.bias is not None:
        out.bias = nn.Parameter(conv.bias.detach().clone())
    return out
