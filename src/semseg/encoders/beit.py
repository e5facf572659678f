"""BEiT at any image size: its tables of relative positions are resized at each pass.

Paper:
    Bao, Dong, Piao, Wei. "BEiT: BERT Pre-Training of Image Transformers." ICLR 2022.
    arXiv:2106.08254. timm builds it for one image size; the parameters stay those of that size.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXTRA = 3
"""Rows at the end of a table, for the class token: to patches, from patches, to itself."""


def take_any_size(trunk: nn.Module) -> None:
    """Let timm's BEiT take every image that its patches divide, in place."""
    model: Any = trunk
    model.patch_embed.strict_img_size = False
    for block in model.blocks:
        block.attn._get_rel_pos_bias = MethodType(_bias_of, block.attn)
    set_grid(trunk, model.patch_embed.grid_size)


def set_grid(trunk: nn.Module, grid: tuple[int, int]) -> None:
    """Say how many patches the next images have, downwards and across."""
    model: Any = trunk
    for block in model.blocks:
        block.attn.grid = grid


def _bias_of(attention: Any) -> Tensor:
    # in place of timm's method of that name
    table: Tensor = attention.relative_position_bias_table
    return relative_bias(table, attention.window_size, attention.grid)[None]


def relative_bias(table: Tensor, window: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return ``(heads, 1 + P, 1 + P)``, added to the scores of P patches and the class token.

    Args:
        table: ``((2 h - 1) * (2 w - 1) + 3, heads)`` of the window ``(h, w)`` it was learned for.
        window: that window.
        grid: patches downwards and across, P together.
    """
    apart, extra = table[:-EXTRA], table[-EXTRA:].T[..., None]
    if grid != tuple(window):
        old, new = ([2 * side - 1 for side in sides] for sides in (window, grid))
        maps = apart.T.reshape(1, -1, *old)
        maps = F.interpolate(maps, new, mode="bicubic", align_corners=False)
        apart = maps.flatten(2)[0].T
    height, width = grid
    rows = _differences(height, table.device)[:, None, :, None]
    columns = _differences(width, table.device)[None, :, None, :]
    index = (rows * (2 * width - 1) + columns).reshape(height * width, height * width)
    inside = apart[index].permute(2, 0, 1)
    row = extra[:, :1].expand(-1, -1, height * width)
    column = extra[:, 1:2].expand(-1, 1 + height * width, -1)
    column = torch.cat([extra[:, 2:], column[:, 1:]], dim=1)
    return torch.cat([column, torch.cat([row, inside], dim=1)], dim=2)


def _differences(length: int, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device)
    return place[:, None] - place[None] + length - 1
