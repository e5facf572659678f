"""Blocks of transformers over images: attention, MLP, stochastic depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_tokens(x: Tensor) -> Tensor:
    """Return a map as tokens: ``(N, C, h, w) -> (N, h * w, C)``."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return tokens of patches as a map: ``(N, h * w, C) -> (N, C, h, w)``."""
    n, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(n, channels, *size)


class DropPath(nn.Module):
    """Leave a branch out for some images of a batch, in training (stochastic depth).

    ``(N, ...) -> (N, ...)``, the other images scaled so that the mean stays.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, zero for the images that are left out."""
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * kept / keep


class Attention(nn.Module):
    """Self-attention of several heads: ``(N, T, C) -> (N, T, C)``."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the tokens take from one another.

        Args:
            x: the tokens.
            mask: ``(N, T, T)``, true where a token (a row) may look at another.
        """
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # each (N, heads, T, C / heads)
        dropout = self.drop.p if self.training else 0.0
        allowed = None if mask is None else mask[:, None]
        out = F.scaled_dot_product_attention(query, key, value, allowed, dropout_p=dropout)
        projected: Tensor = self.drop(self.proj(out.transpose(1, 2).flatten(2)))
        return projected


class MLP(nn.Module):
    """Two layers applied to each token: ``(N, T, C) -> (N, T, C)``."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens' new values."""
        out: Tensor = self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))
        return out


class LayerScale(nn.Module):
    """One learned factor per channel: ``(N, T, C) -> (N, T, C)``."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled tokens."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and an MLP, each a normalised branch: ``(N, T, C) -> (N, T, C)``.

    Args:
        width: C.
        heads: of the attention.
        hidden: width of the MLP.
        dropout: rate after every linear layer, and of the attention.
        drop_path: rate of stochastic depth.
        layer_scale: with which factor each branch starts; ``None`` leaves the factors out.
        eps: of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden, dropout)
        self.drop_path = DropPath(drop_path)
        self.ls1: nn.Module = nn.Identity()
        self.ls2: nn.Module = nn.Identity()
        if layer_scale is not None:
            self.ls1, self.ls2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the tokens after both branches; ``mask`` as :class:`Attention` takes it."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), mask)))
        out: Tensor = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return out


def start_as_vit(module: nn.Module) -> None:
    """Draw every linear layer from a truncated N(0, 0.02) and zero its bias, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
