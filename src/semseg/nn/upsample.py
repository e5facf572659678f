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
