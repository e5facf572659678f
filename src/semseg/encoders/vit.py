"""Plain vision transformers, whose tokens can be taken after any block, at any image size.

Paper:
    Dosovitskiy et al. "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale." ICLR 2021. arXiv:2010.11929. Names of layers are timm's, whose weights fit.

timm's own features lack what dense networks take from it: the class token beside the others, and
position embeddings enlarged bilinearly and without antialiasing, which the networks of this
library were published with.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError, unknown_name
from semseg.core.preprocess import Preprocessing
from semseg.encoders.attention import Block, start_as_vit, to_map
from semseg.encoders.base import Encoder
from semseg.encoders.hub import hub_tensors, load_exactly
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import read_tensors


class Variant(NamedTuple):
    """One network of timm."""

    width: int
    depth: int
    heads: int
    ratio: int  # of the hidden width to the width
    tag: str  # of the published weights


VARIANTS = {
    "vit_large_patch16_384": Variant(1024, 24, 16, 4, "augreg_in21k_ft_in1k"),
    "vit_base_patch16_384": Variant(768, 12, 12, 4, "augreg_in21k_ft_in1k"),
    "vit_small_patch16_384": Variant(384, 12, 6, 4, "augreg_in21k_ft_in1k"),
    "vit_tiny_patch16_384": Variant(192, 12, 3, 4, "augreg_in21k_ft_in1k"),
    "test_vit": Variant(64, 6, 2, 3, "r160_in1k"),
}

PATCH = 16
"""Side of a patch in pixels."""

HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""What the published weights take."""


class VisionTransformer(Encoder):
    """A ViT without its classifier.

    Args:
        name: one of :data:`VARIANTS`.
        in_channels: channels of the images.
        image_size: side of the square images that the position embedding is for; others get it
            enlarged or shrunk.
        layers: after which blocks tokens are taken, counted from 1, rising.
        class_token: whether there is one, before the others.
        final_norm: whether the last tokens taken are normalised.
        drop_path: rate of the last block; it rises linearly from 0.
        eps: of the norms.

    Shapes (H, W divisible by 16; P = H/16 * W/16):
        - tokens: ``(N, 1 + P, width)``, or ``(N, P, width)`` without class token.
        - features: ``(N, width, H/16, W/16)``.
    """

    preprocessing = HALF

    def __init__(
        self,
        name: str,
        in_channels: int,
        image_size: int,
        layers: tuple[int, ...],
        *,
        class_token: bool = True,
        final_norm: bool = False,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        width, depth, heads, ratio, _ = variant(name)
        check_image_size(image_size)
        self.name, self.in_channels, self.layers = name, in_channels, layers
        self.grid = image_size // PATCH
        self.channels, self.strides = (width,) * len(layers), (PATCH,) * len(layers)
        self.patch_embed = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2 + class_token, width))
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, ratio * width, drop_path=rate, eps=eps)
            for rate in rates[: layers[-1]]
        )
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else None
        start_as_vit(self)
        for parameter in (self.pos_embed, self.cls_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Return the tokens after each of :attr:`layers`, of the class token first."""
        x = self.patch_embed(images)
        positions = self.positions((x.shape[-2], x.shape[-1]))
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + positions
        taken = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in self.layers:
                taken.append(x)
        if self.norm is not None:
            taken[-1] = self.norm(taken[-1])
        return taken

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the tokens of the patches as maps."""
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        first = 0 if self.cls_token is None else 1
        return [to_map(tokens[:, first:], size) for tokens in self.tokens(images)]

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Return the position embedding ``(1, T, width)`` for a grid of ``size`` patches."""
        return resize_positions(self.pos_embed, self.grid, size, self.cls_token is not None)

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load timm's weights, stem and position embedding adapted to this network.

        Args:
            source: ``True`` fetches them, a path reads a local file of them (a classifier is
                dropped, and so is what this network has no use for).

        Raises:
            FileError: the weights cannot be fetched or read, or are those of another network.
        """
        where = f"timm/{self.name}.{variant(self.name).tag}" if source is True else str(source)
        tensors = hub_tensors(where) if source is True else read_tensors(Path(where))
        held = {key.replace("patch_embed.proj.", "patch_embed."): t for key, t in tensors.items()}
        if "patch_embed.weight" in held:
            held["patch_embed.weight"] = adapt_stem(held["patch_embed.weight"], self.in_channels)
        if "pos_embed" in held:
            positions = held["pos_embed"]
            side = int((positions.shape[1] - 1) ** 0.5)
            positions = resize_positions(positions, side, (self.grid, self.grid), True)
            held["pos_embed"] = positions[:, int(self.cls_token is None) :]
        used = {key: held[key] for key in self.state_dict() if key in held}
        load_exactly(self, used, where, self.name)


def variant(name: str) -> Variant:
    """Return the sizes of a network."""
    if name not in VARIANTS:
        raise unknown_name("trunk", name, VARIANTS)
    return VARIANTS[name]


def check_image_size(size: int) -> None:
    """Refuse an image size that patches do not fill."""
    if size < PATCH or size % PATCH:
        raise InputError(f"image_size must be a multiple of {PATCH}, got {size}")


def resize_positions(
    positions: Tensor, grid: int, size: tuple[int, int], class_token: bool
) -> Tensor:
    """Return a position embedding for another grid, bilinear; that of the class token stays."""
    first = int(class_token)
    maps = to_map(positions[:, first:], (grid, grid))
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :first], maps.flatten(2).transpose(1, 2)], dim=1)
