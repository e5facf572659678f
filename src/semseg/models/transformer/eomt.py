r"""EoMT: queries join the patches in the last blocks of a plain transformer; there is no decoder.

Paper:
    Kerssies, Cavagnero, Hermans, Norouzi, Averta, Leibe, Dubbelman, de Geus. "Your ViT is Secretly
    an Image Segmentation Model." CVPR 2025. arXiv:2503.19108, section 3. Details follow the
    authors' code and its settings for ADE20K.

Shapes (H, W divisible by 16; P = H/16 * W/16; D = 1024 of ViT-L; Q queries):
    images          (N, C, H, W)
    tokens          (N, 5 + P, D), and (N, Q + 5 + P, D) in the last four blocks
    masks           (N, Q, H/4, W/4)   after the last block; masks1 … masks4 before each of four
    classes         (N, Q, K + 1)      likewise; the last class means nothing
    logits          (N, K, H/4, W/4)   from masks and classes

Parameters:
    316,020,887 at K = 150, Q = 100 and images of 512, the trunk's 304,201,728 among them.

Deviations:
    - Logits are the logarithms of the authors' scores, which have the same order, and are put
      together at the masks' size; the authors enlarge the masks first.
    - Any image size works: positions are resized bilinearly at each pass. The authors predict in
      windows of the training size.
    - Prediction never masks attention, which the network is trained towards; the authors validate
      with masks until they have faded.
    - Fading counts passes in training mode, kept in the weights file, for the authors' steps.
    - Losses of several devices are normalised on each; the authors count masks on all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.attention import to_map
from semseg.encoders.dinov2 import PATCH, PREFIX, DinoV2, variant
from semseg.encoders.vit import check_image_size
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.transformer.matching import Weights, semantic_scores
from semseg.models.transformer.queries import layers_loss, mask_mlp, masks_of

FADING = 0.9
"""Exponent with which the share of masked queries falls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EoMTConfig(ModelConfig):
    """Settings of :class:`EoMT`."""

    trunk: str = "vit_large_patch14_reg4_dinov2"
    """Vision transformer of :mod:`semseg.encoders.dinov2`."""

    image_size: int = 512
    """Side of the images that it is trained on, to which the position embedding belongs."""

    queries: int = 100
    """Q, at least as many as there are classes in one image."""

    blocks: int = 4
    """Blocks that queries go through."""

    fade_steps: int = 32600
    """Passes in training mode after which no attention is masked: after a fifth of them the first
    block's masks begin to fade, and each block's take a fifth; 0 never masks."""

    points: int = 12544
    """At which masks are compared in the loss."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        depth = variant(self.trunk).depth
        check_image_size(self.image_size)
        if not 1 <= self.blocks <= depth:
            raise InputError(f"EoMT over {self.trunk} takes 1 to {depth} blocks, got {self.blocks}")
        if self.queries < 1 or self.fade_steps < 0 or self.points < 4:
            raise InputError(
                "EoMT needs queries >= 1, fade_steps >= 0 and points >= 4, got "
                f"{self.queries}, {self.fade_steps} and {self.points}"
            )


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: ``(N, C, h, w) -> (N, C, h, w)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised feature."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def doubled(width: int) -> nn.Sequential:
    """Return what doubles a map: ``(N, C, h, w) -> (N, C, 2 h, 2 w)``."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        ChannelNorm(width, eps=1e-6),
    )


@register(
    "eomt",
    EoMTConfig(num_classes=150),
    title="EoMT (ViT-L)",
    paper="arXiv:2503.19108",
    year=2025,
    idea="A large and well pretrained transformer needs no decoder: its own last blocks let "
    "queries become masks.",
    repository="https://github.com/tue-mps/eomt",
    num_params=316_020_887,
    paper_size=(512, 512),
    published=(
        Published("ADE20K val", 58.4, "authors' model_zoo/dinov2.md: 512 x 512"),
        Published("Cityscapes val", 84.2, "authors' model_zoo/dinov2.md: 1024 x 1024"),
    ),
    verified="reference output",
    small={"trunk": "tiny_dinov2", "image_size": 64, "queries": 12, "points": 256},
)
class EoMT(SegmentationModel):
    """Encoder-only mask transformer; see the module docstring."""

    multiple_of = PATCH

    def __init__(self, config: EoMTConfig) -> None:
        super().__init__(config)
        width, depth, _ = variant(config.trunk)
        self.fade_steps, self.first = config.fade_steps, depth - config.blocks
        self.weights = Weights(points=config.points)
        self.encoder = DinoV2(config.trunk, config.in_channels, config.image_size)
        self.queries = nn.Parameter(torch.randn(1, config.queries, width))
        self.classify = nn.Linear(width, config.num_classes + 1)
        self.mask_head = mask_mlp(width, nn.GELU)
        self.enlarge_patches = nn.Sequential(doubled(width), doubled(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"masks"``, ``"classes"`` and those before each of the blocks."""
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        x = self.encoder.embed(images)
        for block in self.encoder.blocks[: self.first]:
            x = block(x)
        x = torch.cat([self.queries.expand(len(x), -1, -1), x], dim=1)
        heads: dict[str, Tensor] = {}
        for i, block in enumerate(self.encoder.blocks[self.first :]):
            allowed = None
            if not self.logits_only:
                masks, classes = self.predict(x, size)
                heads |= {f"masks{i + 1}": masks, f"classes{i + 1}": classes}
                if self.training and self.fade_steps:
                    allowed = self.allowed(masks, size, self.masked_share(i))
            x = block(x, allowed)
        masks, classes = self.predict(x, size)
        logits = semantic_scores(classes, masks)
        if self.logits_only:
            return {"logits": logits}
        if self.training:
            self.get_buffer("steps").add_(1)
        return {"logits": logits, "masks": masks, "classes": classes, **heads}

    def predict(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return masks ``(N, Q, H/4, W/4)`` and classes ``(N, Q, K + 1)`` of the tokens so far."""
        x = self.encoder.norm(x)
        count = self.queries.shape[1]
        queries, patches = x[:, :count], to_map(x[:, count + PREFIX :], size)
        pixels = self.enlarge_patches(patches)
        return masks_of(self.mask_head(queries), pixels), self.classify(queries)

    def masked_share(self, block: int) -> float:
        """Return the share of queries that are masked in one of the last blocks, now."""
        part = self.fade_steps / (len(self.encoder.blocks) - self.first + 1)
        progress = (int(self.get_buffer("steps")) - (block + 1) * part) / part
        return float((1 - min(max(progress, 0.0), 1.0)) ** FADING)

    def allowed(self, masks: Tensor, size: tuple[int, int], share: float) -> Tensor:
        """Return ``(N, T, T)``: queries look at patches inside their masks, others everywhere."""
        inside = F.interpolate(masks.detach(), size, mode="bilinear") > 0
        if share < 1:
            inside = inside | (torch.rand_like(masks[..., :1, :1]) > share)
        rest = (self.queries.shape[1] + PREFIX, inside[0, 0].numel())
        rows = F.pad(inside.flatten(2), (rest[0], 0), value=True)
        return F.pad(rows, (0, 0, 0, PREFIX + rest[1]), value=True)

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the paper's terms over all predictions; ``criterion`` has no part in them."""
        others = len(self.encoder.blocks) - self.first
        return layers_loss(heads, target, others, self.weights)

    def no_weight_decay(self) -> set[str]:
        """Return tokens and position embedding, as is usual for the trunk."""
        return {"encoder.cls_token", "encoder.reg_token", "encoder.pos_embed", "queries"}
