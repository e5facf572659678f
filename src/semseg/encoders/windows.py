"""Attention inside windows of a map, also shifted ones; the part of Swin that is its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

APART = -100.0
"""Added where two pixels of a shifted window are not neighbours in the map."""


class WindowAttention(nn.Module):
    """Attention inside windows: ``(B, T, C) -> (B, T, C)``, T pixels of one window.

    Args:
        width: C.
        heads: of the attention.
        window: side of a window.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        apart = place[:, None] - place[None] + window - 1
        index = apart[..., 0] * (2 * window - 1) + apart[..., 1]
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the pixels take from each other; ``mask`` ``(windows, T, T)`` is added."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each (B, heads, T, C / heads)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        # written out: ONNX cannot follow PyTorch's own with scores that are learned
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
        if mask is not None:
            images = scores.unflatten(0, (-1, mask.shape[0]))
            scores = (images + mask[:, None]).flatten(0, 1)
        out = scores.softmax(-1) @ value
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


def windows(x: Tensor, side: int) -> Tensor:
    """Return the windows of maps, image by image: ``(N, h, w, C) -> (N * windows, T, C)``."""
    n, height, width, channels = x.shape
    x = x.view(n, height // side, side, width // side, side, channels).transpose(2, 3)
    return x.reshape(-1, side * side, channels)


def whole(x: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Return the maps ``(N, h, w, C)`` whose :func:`windows` are given."""
    height, width = size
    x = x.view(-1, height // side, width // side, side, side, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, height, width, x.shape[-1])


def apart(size: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """Return ``(windows, T, T)``: less than zero where pixels of a shifted map lay far apart."""
    height, width = size
    parts = []
    for length in (height, width):
        place = torch.arange(length, device=like.device)
        parts.append((place >= length - side).long() + (place >= length - shift).long())
    part = parts[0][:, None] * 3 + parts[1][None]
    held = windows(part[None, :, :, None], side)[..., 0]
    return (held[:, :, None] != held[:, None]).to(like.dtype) * APART
