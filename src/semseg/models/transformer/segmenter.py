r"""Segmenter: learned class tokens go through a transformer with the patches, and are the classes.

Paper:
    Strudel, Garcia, Laptev, Schmid. "Segmenter: Transformer for Semantic Segmentation." ICCV 2021.
    arXiv:2105.05633, section 3 and figure 2. Details follow the authors' code; the default is
    Seg-L-Mask/16.

Shapes (H, W divisible by 16; P = H/16 * W/16; D = 1024 of ViT-L/16):
    images     (N, C, H, W)
    tokens     (N, P, D)         of the trunk, normalised, without the class token
    decoder    (N, P + K, D)     patches and K learned class tokens, two blocks
    logits     (N, K, H/16, W/16)   cosines of patches and classes, normalised over the classes

Parameters:
    333,234,476 at K = 150 and images of 640: 304,739,328 of the trunk and 28,495,148 of the
    decoder. The authors' code has a classifier of 1000 classes in the trunk besides, never used.

Deviations:
    - K = 1: a norm over a single class leaves nothing, so one learned scale and shift takes its
      place.
    - The position embedding is resized bilinearly for every other image size, as the authors'
      code does; they predict large images in overlapping windows.
    - DeiT trunks, trunks of patches of 8 or 32, and the linear decoder are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.attention import Block, start_as_vit, to_map
from semseg.encoders.vit import HALF, PATCH, VisionTransformer, check_image_size, variant
from semseg.models.base import ModelConfig, Published, SegmentationModel, register

EPS = 1e-5
"""Of all norms, also the trunk's, whose weights were trained with 1e-6."""

DROPOUT, DROP_PATH = 0.1, 0.1
"""Of the decoder's blocks, and of the trunk's last block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmenterConfig(ModelConfig):
    """Settings of :class:`Segmenter`."""

    trunk: str = "vit_large_patch16_384"
    """Vision transformer: vit_tiny_, vit_small_, vit_base_ or vit_large_patch16_384."""

    image_size: int = 640
    """Side of the images that it is trained on: 640 for ViT-L on ADE20K, 512 for the others."""

    layers: int = 2
    """Blocks of the decoder."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        variant(self.trunk)
        check_image_size(self.image_size)
        if self.layers < 1:
            raise InputError(f"Segmenter needs layers >= 1, got {self.layers}")


class MaskTransformer(nn.Module):
    """Patches and class tokens to class scores: ``(N, P, D) -> (N, P, K)``.

    Args:
        width: D, a multiple of the heads' 64 channels (32 in a smaller one).
        layers: number of blocks.
        num_classes: K.
    """

    def __init__(self, width: int, layers: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.project = nn.Linear(width, width)
        self.classes = nn.Parameter(torch.empty(1, num_classes, width))
        self.blocks = nn.ModuleList(
            Block(width, max(1, width // 64), 4 * width, dropout=DROPOUT, eps=EPS)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.project_patches = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.project_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.mask_norm = nn.LayerNorm(num_classes, eps=EPS) if num_classes > 1 else nn.Linear(1, 1)
        start_as_vit(self)
        nn.init.trunc_normal_(self.classes, std=0.02)
        if isinstance(self.mask_norm, nn.Linear):
            nn.init.ones_(self.mask_norm.weight)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the scores of each patch."""
        classes = self.classes.expand(patches.shape[0], -1, -1)
        x = torch.cat([self.project(patches), classes], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        patches = x[:, : -self.num_classes] @ self.project_patches
        classes = x[:, -self.num_classes :] @ self.project_classes
        patches, classes = F.normalize(patches, dim=-1), F.normalize(classes, dim=-1)
        scores: Tensor = self.mask_norm(patches @ classes.transpose(1, 2))
        return scores


@register(
    "segmenter",
    SegmenterConfig(num_classes=150),
    title="Segmenter (Seg-L-Mask/16)",
    paper="arXiv:2105.05633",
    year=2021,
    idea="Class tokens attend to the patches and the patches to them; a mask is the similarity of "
    "each patch to a class.",
    repository="https://github.com/rstrudel/segmenter",
    num_params=333_234_476,
    paper_size=(640, 640),
    published=(
        Published("ADE20K val", 51.8, "authors' README"),
        Published("ADE20K val", 53.6, "authors' README: several scales, flipped"),
        Published("PASCAL Context", 58.1, "authors' README"),
        Published("Cityscapes val", 79.1, "authors' README"),
    ),
    preprocessing=HALF,
    verified="reference output",
    small={"trunk": "test_vit", "image_size": 64},
)
class Segmenter(SegmentationModel):
    """Segmenter with the mask transformer; see the module docstring."""

    multiple_of = PATCH

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        width, depth, *_ = variant(config.trunk)
        self.encoder = VisionTransformer(
            config.trunk,
            config.in_channels,
            config.image_size,
            (depth,),
            final_norm=True,
            drop_path=DROP_PATH,
            eps=EPS,
        )
        self.decoder = MaskTransformer(width, config.layers, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 16."""
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        (tokens,) = self.encoder.tokens(images)
        return {"logits": to_map(self.decoder(tokens[:, 1:]), size)}

    def no_weight_decay(self) -> set[str]:
        """Return the tokens and the position embedding, as the authors' code does."""
        return {"encoder.cls_token", "encoder.pos_embed", "decoder.classes"}
