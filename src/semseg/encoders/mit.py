"""Mix vision transformers (MiT): the trunks of SegFormer, four stages of attention.

Paper:
    Xie, Wang, Yu, Anandkumar, Alvarez, Luo. "SegFormer: Simple and Efficient Design for Semantic
    Segmentation with Transformers." NeurIPS 2021. arXiv:2105.15203, section 3.1 and Table 6.
    Details follow the authors' ``mix_transformer.py`` of https://github.com/NVlabs/SegFormer.

Each stage merges overlapping patches by a strided convolution; keys and values come from a
shrunken map; a 3x3 convolution per channel inside the MLP tells tokens where they are, so there
is no position embedding and any image size will do.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.attention import DropPath, start_as_vit, to_map, to_tokens
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.hub import hub_tensors, load_exactly
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import read_tensors


class Variant(NamedTuple):
    """One network of the paper's Table 6."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    revision: str  # of the authors' ImageNet weights, republished as smp-hub/NAME.imagenet


SMALL, LARGE = (32, 64, 160, 256), (64, 128, 320, 512)

VARIANTS = {
    "mit_b0": Variant(SMALL, (2, 2, 2, 2), "9ce53d104d92d75aabb00aae70677aaab67e7c84"),
    "mit_b1": Variant(LARGE, (2, 2, 2, 2), "a04bf4f13a549bce677cf79b04852e7510782817"),
    "mit_b2": Variant(LARGE, (3, 4, 6, 3), "868ab6f13871dcf8c3d9f90ee4519403475b65ef"),
    "mit_b3": Variant(LARGE, (3, 4, 18, 3), "32558d12a65f1daa0ebcf4f4053c4285e2c1cbda"),
    "mit_b4": Variant(LARGE, (3, 8, 27, 3), "3a3454e900a4b4f11dd60eeb59101a9a1a36b017"),
    "mit_b5": Variant(LARGE, (3, 6, 40, 3), "ced04d96c586b6297fd59a7a1e244fc78fdb6531"),
}

PATCHES, STEPS = (7, 3, 3, 3), (4, 2, 2, 2)
"""Kernel and stride of the convolution that begins each stage."""

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)
"""Heads of each stage's attention, and by how much its keys are fewer along each side."""

RATIO = 4
"""Hidden width of an MLP, as a multiple of the stage's."""

DROP_PATH = 0.1
"""Rate of stochastic depth in the last block; it rises linearly from 0."""

EPS = 1e-6
"""Of the norms of blocks and stages; those beside convolutions have PyTorch's 1e-5."""


class ReducedAttention(nn.Module):
    """Attention to a map that is shrunken by a strided convolution: ``(N, h * w, C)`` to the same.

    Args:
        width: C.
        heads: of the attention.
        reduction: stride and kernel of that convolution; 1 leaves it out.
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.sr = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return what the tokens take from the shrunken map."""
        query = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.sr is not None and self.norm is not None:
            x = self.norm(to_tokens(self.sr(to_map(x, size))))
        key, value = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return projected


class MixMLP(nn.Module):
    """An MLP with a 3x3 convolution per channel inside: ``(N, h * w, C)`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = RATIO * width
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the tokens' new values."""
        x = to_tokens(self.dwconv(to_map(self.fc1(x), size)))
        out: Tensor = self.fc2(F.gelu(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each a normalised branch: ``(N, h * w, C)`` to the same."""

    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = ReducedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MixMLP(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the tokens after both branches."""
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x), size))
        return out


class Stage(nn.Module):
    """Patches, blocks, norm: ``(N, cin, H, W) -> (N, width, H / step, W / step)``."""

    def __init__(self, cin: int, width: int, place: int, drop_paths: list[float]) -> None:
        super().__init__()
        patch = PATCHES[place]
        self.embed = nn.Conv2d(cin, width, patch, STEPS[place], padding=patch // 2)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, HEADS[place], REDUCTIONS[place], rate) for rate in drop_paths
        )
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's feature."""
        x = self.embed(x)
        size = (x.shape[-2], x.shape[-1])
        x = self.embed_norm(to_tokens(x))
        for block in self.blocks:
            x = block(x, size)
        return to_map(self.norm(x), size).contiguous()


class MixTransformer(Encoder):
    """Images to features of four stages.

    Args:
        in_channels: channels of the images.
        name: one of :data:`VARIANTS`.

    Shapes (H, W divisible by 32; channels are the variant's widths):
        - features: ``(N, c1, H/4, W/4)``, ``(N, c2, H/8, W/8)``, ``(N, c3, H/16, W/16)``,
          ``(N, c4, H/32, W/32)``.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, in_channels: int, name: str) -> None:
        super().__init__()
        self.in_channels, self.name = in_channels, name
        widths, depths, _ = VARIANTS[name]
        self.channels = widths
        last = sum(depths) - 1
        rates = [DROP_PATH * i / last for i in range(last + 1)]
        self.stages = nn.ModuleList(
            Stage(cin, width, i, rates[sum(depths[:i]) : sum(depths[: i + 1])])
            for i, (cin, width) in enumerate(zip((in_channels, *widths), widths, strict=False))
        )
        start_as_vit(self)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                outgoing = conv.out_channels // conv.groups * math.prod(conv.kernel_size)
                nn.init.normal_(conv.weight, std=math.sqrt(2 / outgoing))
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature of each stage."""
        features = []
        x = images
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the authors' ImageNet weights, the stem adapted to the number of channels.

        Args:
            source: ``True`` fetches them, a path reads a local file (a classifier is dropped).

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        where = f"smp-hub/{self.name}.imagenet" if source is True else str(source)
        if source is True:
            tensors = hub_tensors(where, VARIANTS[self.name].revision)
        else:
            tensors = read_tensors(Path(where))
        held = {renamed(key): t for key, t in tensors.items() if not key.startswith("head.")}
        stem = "stages.0.embed.weight"
        if stem in held:
            held[stem] = adapt_stem(held[stem], self.in_channels)
        load_exactly(self, held, where, self.name)


def renamed(key: str) -> str:
    """Return our name of one of the authors' tensors."""
    key = re.sub(r"^(patch_embed|block|norm)(\d)", lambda m: f"stages.{int(m[2]) - 1}.{m[1]}", key)
    key = key.replace(".patch_embed.proj.", ".embed.").replace(".patch_embed.norm.", ".embed_norm.")
    return key.replace(".block.", ".blocks.").replace(".dwconv.dwconv.", ".dwconv.")


def _build(in_channels: int, output_stride: int, name: str) -> MixTransformer:
    if output_stride != 32:
        raise InputError(
            f"encoder {name!r} cannot have output_stride {output_stride}; use 32, or a trunk whose "
            "strides can be dilated, e.g. 'resnet18'"
        )
    return MixTransformer(in_channels, name)


for _name in VARIANTS:
    ENCODERS.add(_name, partial(_build, name=_name))
