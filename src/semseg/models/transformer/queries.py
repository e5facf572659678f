"""What networks of queries share: attention of queries, their positions, heads and losses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.transformer.matching import POINTS, Comparison, Weights, total_loss

STRIDES = (4, 8, 16, 32)
"""Strides of the trunk's features; the first is that of the masks."""

HEADS, GROUPS = 8, 32
"""Heads of attention, groups of norms."""

Size = tuple[int, int]


def check_width(owner: str, width: int) -> None:
    """Refuse a width that groups do not divide."""
    if width < 1 or width % GROUPS:
        raise InputError(f"{owner} needs a multiple of {GROUPS} as width, got {width}")


def sine_positions(size: Size, width: int, like: Tensor) -> Tensor:
    """Return ``(1, h * w, width)`` sines and cosines, of rows in the first half of the channels."""
    halves = []
    power = torch.arange(width // 4, device=like.device, dtype=like.dtype) * 4 / width
    for side in size:
        place = torch.arange(1, side + 1, device=like.device, dtype=like.dtype)
        angle = (place / (side + 1e-6) * 2 * math.pi)[:, None] / 10000**power
        halves.append(torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1))
    rows, columns = halves
    grid = (size[0], size[1], width // 2)
    both = [rows[:, None].expand(grid), columns[None].expand(grid)]
    return torch.cat(both, dim=2).reshape(1, -1, width)


class QueryAttention(nn.Module):
    """Queries take from tokens: ``(N, Q, w)`` and ``(N, T, w)`` to ``(N, Q, w)``."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        for layer in (self.qkv, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Return the sum; ``allowed`` ``(N, Q, T)`` is true where a query may look."""
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = (
            torch.unflatten(F.linear(x, w, b), -1, (HEADS, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        dropout = self.drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
        projected: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return projected


def ffn(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return two linear layers with ReLU, and dropout where there is any, between."""
    first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
    nn.init.xavier_uniform_(first.weight)
    nn.init.xavier_uniform_(second.weight)
    between = nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()
    return nn.Sequential(first, between, second)


def mask_mlp(width: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return three linear layers from a query to the vector that its mask is the product with."""
    return nn.Sequential(
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, width),
        activation(),
        nn.Linear(width, width),
    )


def masks_of(vectors: Tensor, pixels: Tensor) -> Tensor:
    """Return masks ``(N, Q, h, w)``: products of ``(N, Q, w)`` with pixels ``(N, w, h, w)``."""
    return torch.einsum("nqc,nchw->nqhw", vectors, pixels)


def layers_loss(
    heads: Mapping[str, Tensor],
    target: Tensor,
    others: int,
    weights: Weights,
    comparison: Comparison = POINTS,
) -> dict[str, Tensor]:
    """Return the terms over the last prediction and all others; masks have stride 4.

    Args:
        heads: ``"logits"``, ``"masks"`` and ``"classes"``, and the latter two numbered from 1.
        target: ``(N, H, W)`` train ids.
        others: how many numbered predictions there are.
        weights: of the terms.
        comparison: of masks with segments.
    """
    names = ["", *(str(i + 1) for i in range(others))]
    predictions = [(heads[f"classes{name}"], heads[f"masks{name}"]) for name in names]
    height, width = heads["masks"].shape[-2:]
    size = (STRIDES[0] * height, STRIDES[0] * width)
    num_classes = heads["logits"].shape[1]
    return total_loss(predictions, target, num_classes, size, weights, comparison)


def tables_of(model: nn.Module) -> set[str]:
    """Return the names of tables of relative positions, which have no weight decay in Swin."""
    end = "relative_position_bias_table"
    return {name for name, _ in model.named_parameters() if name.endswith(end)}
