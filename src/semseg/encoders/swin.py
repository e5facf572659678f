"""Swin transformers as networks for segmentation use them: windows of any map, normed features.

Paper:
    Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo. "Swin Transformer: Hierarchical Vision Transformer
    using Shifted Windows." ICCV 2021. arXiv:2103.14030. Details follow the authors' code for
    detection and segmentation, which MaskFormer has too.

timm's Swins, taken by their own names, differ in three things: a map that windows do not divide is
padded after it is shifted, here before; windows of the last stage are never shifted; and no norm
stands behind the stages. Published networks for segmentation need all three as they are here.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.attention import MLP, DropPath
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import TimmEncoder
from semseg.encoders.windows import WindowAttention, apart, whole, windows


class Variant(NamedTuple):
    """One network of the paper's section 3.3."""

    width: int  # of the first stage; every further one is twice as wide
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    published: str | None  # timm's name of the weights that training starts from


TINY, DEEP = (2, 2, 6, 2), (2, 2, 18, 2)
HEADS = {96: (3, 6, 12, 24), 128: (4, 8, 16, 32), 192: (6, 12, 24, 48)}

VARIANTS = {
    "swin_tiny": Variant(96, TINY, HEADS[96], 7, "swin_tiny_patch4_window7_224.ms_in1k"),
    "swin_small": Variant(96, DEEP, HEADS[96], 7, "swin_small_patch4_window7_224.ms_in1k"),
    "swin_base": Variant(128, DEEP, HEADS[128], 12, "swin_base_patch4_window12_384.ms_in22k"),
    "swin_base_window7": Variant(128, DEEP, HEADS[128], 7, "swin_base_patch4_window7_224.ms_in1k"),
    "swin_large": Variant(192, DEEP, HEADS[192], 12, "swin_large_patch4_window12_384.ms_in22k"),
    "swin_smallest": Variant(16, (1, 2, 1, 2), (1, 2, 2, 4), 3, None),  # to try things out
}

PATCH, RATIO = 4, 4
"""Side of a patch, and hidden width of an MLP as a multiple of the stage's."""

DROP_PATH = 0.3
"""Rate of stochastic depth in the last block, as for segmentation; it rises linearly from 0."""


class Block(nn.Module):
    """Attention in windows and an MLP, each a normalised branch: ``(N, h, w, C)`` to the same.

    Args:
        width: C.
        heads: of the attention.
        window: side of a window.
        shift: by how many pixels windows are moved.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, RATIO * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after both branches."""
        x = x + self.drop_path(self.windowed(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def windowed(self, x: Tensor) -> Tensor:
        """Return what attention gives; zeros right and below fill the last windows."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        size = (x.shape[1], x.shape[2])
        mask = None
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
            mask = apart(size, self.window, self.shift, x)
        x = whole(self.attn(windows(x, self.window), mask), size, self.window)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class Merge(nn.Module):
    """Four neighbours become one pixel: ``(N, h, w, C) -> (N, h/2, w/2, 2 C)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map."""
        four = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
        out: Tensor = self.reduction(self.norm(torch.cat(four, dim=-1)))
        return out


class Swin(Encoder):
    """A Swin with a norm behind every stage.

    Args:
        name: one of :data:`VARIANTS`.
        in_channels: channels of the images.

    Shapes (H, W divisible by 32; C = width):
        - features: ``(N, C, H/4, W/4)``, ``(N, 2 C, H/8, W/8)``, ``(N, 4 C, H/16, W/16)``,
          ``(N, 8 C, H/32, W/32)``.
    """

    strides = (4, 8, 16, 32)
    normalised = True
    """Whether norms stand behind the stages, so that a decoder needs none of its own."""

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__()
        width, depths, heads, window, self.published = VARIANTS[name]
        self.name, self.in_channels = name, in_channels
        self.channels = tuple(width * 2**i for i in range(4))
        self.patch_embed = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        self.patch_norm = nn.LayerNorm(width)
        rates = [DROP_PATH * i / (sum(depths) - 1) for i in range(sum(depths))]
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            merge = [Merge(self.channels[i - 1])] if i else []
            blocks = [
                Block(self.channels[i], heads[i], window, j % 2 * (window // 2), rates.pop(0))
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(*merge, *blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in self.channels)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the normalised features of ``(N, C, H, W)`` images, finest first."""
        x = self.patch_norm(self.patch_embed(images).permute(0, 2, 3, 1))
        features = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(norm(x).permute(0, 3, 1, 2).contiguous())
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load ImageNet weights; norms behind the stages stay as they are, for none are published.

        Args:
            source: ``True`` fetches timm's, a path reads a local file of the same weights.

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
            InputError: nothing is published for this trunk.
        """
        if self.published is None:
            raise InputError(
                f"{self.name} is no trunk with published weights; create it without pretrained, or "
                "take swin_tiny"
            )
        donor = TimmEncoder(self.published, self.in_channels)
        donor.load_pretrained(source)
        held = {own_name(key): tensor for key, tensor in donor.trunk.state_dict().items()}
        missing, extra = self.load_state_dict(held, strict=False)
        if extra or any(not key.startswith("norms.") for key in missing):
            raise FileError(f"timm's {self.published} has other layers than {self.name}")


def own_name(key: str) -> str:
    """Return our name of a tensor of timm's Swin, whose merging begins a stage too.

    Example:
        >>> own_name("layers_1.downsample.norm.bias"), own_name("layers_1.blocks.0.mlp.fc1.bias")
        ('stages.1.0.norm.bias', 'stages.1.1.mlp.fc1.bias')
    """
    key = key.replace("patch_embed.norm.", "patch_norm.").replace(
        "patch_embed.proj.", "patch_embed."
    )
    key = re.sub(r"^layers_(\d)\.downsample\.", r"stages.\1.0.", key)
    found = re.match(r"layers_(\d)\.blocks\.(\d+)\.", key)
    if found is None:
        return key
    stage, block = map(int, found.groups())
    return f"stages.{stage}.{block + (stage > 0)}.{key[found.end() :]}"


def _build(name: str, in_channels: int, output_stride: int) -> Swin:
    if output_stride != 32:
        raise InputError(
            f"encoder {name!r} cannot have output_stride {output_stride}; use 32, or a trunk whose "
            "strides can be dilated, e.g. 'resnet101'"
        )
    return Swin(name, in_channels)


for _name in VARIANTS:
    ENCODERS.add(_name, partial(_build, _name))
