"""DINOv2 with registers: a plain vision transformer whose weights were learned without labels.

Paper:
    Oquab et al. "DINOv2: Learning Robust Visual Features without Supervision." 2023.
    arXiv:2304.07193; Darcet et al. "Vision Transformers Need Registers." arXiv:2309.16588. Names
    of layers are timm's, whose weights fit.

Patches have 16 pixels a side: the published ones have 14 and are resampled when weights are
loaded, as EoMT does, which adds its queries between the blocks of this trunk.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, unknown_name
from semseg.encoders.attention import Block, to_map, to_tokens
from semseg.encoders.base import Encoder
from semseg.encoders.hub import hub_tensors, load_exactly
from semseg.encoders.timm import adapt_stem
from semseg.encoders.vit import check_image_size, resize_positions
from semseg.encoders.weights import read_tensors


class Variant(NamedTuple):
    """One network of timm."""

    width: int
    depth: int
    heads: int


VARIANTS = {
    "vit_large_patch14_reg4_dinov2": Variant(1024, 24, 16),
    "vit_base_patch14_reg4_dinov2": Variant(768, 12, 12),
    "vit_small_patch14_reg4_dinov2": Variant(384, 12, 6),
    "tiny_dinov2": Variant(32, 5, 2),  # to try things out; nothing is published
}

PATCH, REGISTERS, PREFIX = 16, 4, 5
"""Side of a patch; registers; they and the class token, which come before the patches."""

LAYER_SCALE = 1e-5
"""Factor with which every branch starts."""


class DinoV2(Encoder):
    """A DINOv2 whose blocks can be run one by one.

    Args:
        name: one of :data:`VARIANTS`.
        in_channels: channels of the images.
        image_size: side of the square images that the position embedding is for; others get it
            enlarged or shrunk.

    Shapes (H, W divisible by 16; P = H/16 * W/16):
        - embedded: ``(N, 5 + P, width)``: class token, registers, patches.
        - features: ``(N, width, H/16, W/16)``.
    """

    strides = (PATCH,)

    def __init__(self, name: str, in_channels: int, image_size: int) -> None:
        super().__init__()
        width, depth, heads = variant(name)
        check_image_size(image_size)
        self.name, self.in_channels, self.channels = name, in_channels, (width,)
        self.grid = image_size // PATCH
        self.patch_embed = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reg_token = nn.Parameter(torch.zeros(1, REGISTERS, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, 4 * width, layer_scale=LAYER_SCALE) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for tokens in (self.cls_token, self.reg_token, self.pos_embed):
            nn.init.trunc_normal_(tokens, std=0.02)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens before the first block; the patches alone have positions."""
        x = self.patch_embed(images)
        size = (x.shape[-2], x.shape[-1])
        x = to_tokens(x) + resize_positions(self.pos_embed, self.grid, size, class_token=False)
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
        return torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the normalised tokens of the patches as a map."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        return [to_map(self.norm(x)[:, PREFIX:], size)]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the published weights; stem, patch size and positions are adapted.

        Args:
            source: ``True`` fetches them, a path reads a local file of timm's.

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        where = f"timm/{self.name}.lvd142m" if source is True else str(source)
        tensors = hub_tensors(where) if source is True else read_tensors(Path(where))
        held = {key.replace("patch_embed.proj.", "patch_embed."): t for key, t in tensors.items()}
        held.pop("mask_token", None)
        if missing := {"patch_embed.weight", "pos_embed"} - held.keys():
            raise FileError(f"{where} holds another network than {self.name}: no {min(missing)}")
        stem = resample_patches(held["patch_embed.weight"], PATCH)
        held["patch_embed.weight"] = adapt_stem(stem, self.in_channels)
        grid = int(held["pos_embed"].shape[1] ** 0.5)
        maps = to_map(held["pos_embed"], (grid, grid))
        maps = F.interpolate(maps, (self.grid, self.grid), mode="bicubic", antialias=True)
        held["pos_embed"] = to_tokens(maps)
        load_exactly(self, held, where, self.name)


def variant(name: str) -> Variant:
    """Return the sizes of a network."""
    if name not in VARIANTS:
        raise unknown_name("trunk", name, VARIANTS)
    return VARIANTS[name]


def resample_patches(weight: Tensor, side: int) -> Tensor:
    """Return a stem ``(O, C, h, h)`` for larger or smaller patches.

    The new weights give enlarged patches what the old ones gave the patches themselves, or come as
    near as can be (FlexiViT, arXiv:2212.08013, section 3.4).
    """
    old = weight.shape[-1]
    if old == side:
        return weight
    each = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    resized = F.interpolate(each, (side, side), mode="bicubic", antialias=True).flatten(1)
    new: Tensor = weight.double().flatten(2) @ torch.linalg.pinv(resized).mT
    return new.reshape(*weight.shape[:2], side, side).to(weight)
