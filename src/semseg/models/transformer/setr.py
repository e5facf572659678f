r"""SETR: segmentation as sequence to sequence; a plain vision transformer and a small decoder.

Paper:
    Zheng et al. "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with
    Transformers." CVPR 2021. arXiv:2012.15840, section 3. Details follow the authors' code and
    its settings for Cityscapes.

Shapes (H, W divisible by 16; D = 1024 of ViT-L/16):
    images     (N, C, H, W)
    tokens     (N, 1 + H/16 * W/16, D)   after every block; without the class token in MLA
    logits     (N, K, H/16, W/16) naive, (N, K, H/2, W/2) PUP, (N, K, H/4, W/4) MLA
    auxiliary  (N, K, H/16, W/16) naive, (N, K, H/4, W/4) PUP, (N, K, H/16, W/16) MLA

Parameters:
    At K = 19 and images of 768: naive 306,537,548 with its three auxiliary heads, PUP 319,064,927
    with four, MLA 310,754,835 with four. The authors' code has 9,747 more in each head, of a
    classifier that is never used, and in MLA the class token and its position, which leave before
    the first block.

Deviations:
    - Any image size works: the position embedding is resized bilinearly at each pass, as the
      authors do when they load a trunk for another size. They predict in overlapping windows of
      the training size.
    - The trunk's weights are timm's newer ones (augreg) of the same network; the authors took
      those of the ViT paper's first release, which timm no longer lists for ViT-L/16.
    - PyTorch's attention kernel; dropout is 0 in all of the authors' settings and left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders.attention import to_map
from semseg.encoders.vit import PATCH, VisionTransformer, check_image_size, variant
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

WIDTH = 256
"""Channels of the decoders."""

MLA_WIDTH = 128
"""Channels of each of MLA's last convolutions."""

EPS = 1e-6
"""Of the norms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SETRConfig(ModelConfig):
    """Settings of :class:`SETR`."""

    trunk: str = "vit_large_patch16_384"
    """Vision transformer: vit_large_patch16_384, or the smaller ones of :mod:`~.encoders.vit`."""

    image_size: int = 768
    """Side of the images that it is trained on, to which the position embedding belongs."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        variant(self.trunk)
        check_image_size(self.image_size)


def places(depth: int) -> tuple[int, int, int, int]:
    """Return the blocks that naive and PUP look at: quarters, in the authors' 24 as they chose."""
    return (10, 15, 20, 24) if depth == 24 else quarters(depth)


def quarters(depth: int) -> tuple[int, int, int, int]:
    """Return the last block of each quarter of a trunk."""
    first, second, third, last = (depth * i // 4 for i in range(1, 5))
    return first, second, third, last


class TokenHead(nn.Module):
    """Normalised tokens, one convolution, class scores: ``(N, T, D) -> (N, K, f * h, f * w)``.

    Args:
        width: D.
        num_classes: K.
        kernel: of the convolution.
        factor: f, by which its result is enlarged.
    """

    def __init__(self, width: int, num_classes: int, kernel: int, factor: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.conv = conv_bias_bn_relu(width, kernel)
        self.classify = nn.Conv2d(WIDTH, num_classes, 1)
        self.factor = factor

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return scores of a map of ``size``; the class token is left out."""
        x = self.conv(to_map(self.norm(tokens[:, 1:]), size))
        scores: Tensor = self.classify(enlarged(x, self.factor))
        return scores


class ProgressiveHead(nn.Module):
    """Normalised tokens, four convolutions with doublings between: to ``(N, K, 8 h, 8 w)``."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.convs = nn.ModuleList(conv_bias_bn_relu(c, 3) for c in (width, *(WIDTH,) * 3))
        self.classify = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return scores at half the images' size; what enlarges logits does the last doubling."""
        x = to_map(self.norm(tokens[:, 1:]), size)
        for i, conv in enumerate(self.convs):
            x = conv(enlarged(x, 2) if i else x)
        scores: Tensor = self.classify(x)
        return scores


class Aggregation(nn.Module):
    """Maps of four blocks, summed from the last to the first: each ``(N, 256, h, w)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for _ in range(4))
        self.reduce = nn.ModuleList(conv_bn_relu(width, WIDTH, 1) for _ in range(4))
        self.smooth = nn.ModuleList(conv_bn_relu(WIDTH, WIDTH, 3) for _ in range(4))

    def forward(self, taken: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the smoothed sums, in the order of the blocks."""
        maps = [
            reduce(to_map(norm(tokens), size))
            for tokens, norm, reduce in zip(taken, self.norms, self.reduce, strict=True)
        ]
        for i in (2, 1, 0):
            maps[i] = maps[i] + maps[i + 1]
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)]


class AggregationHead(nn.Module):
    """Two convolutions per map, enlarged and joined: to ``(N, K, 4 h, 4 w)``."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(conv_bn_relu(WIDTH, MLA_WIDTH, 3), conv_bn_relu(MLA_WIDTH, MLA_WIDTH, 3))
            for _ in range(4)
        )
        self.classify = nn.Conv2d(4 * MLA_WIDTH, num_classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return class scores."""
        joined = [
            F.interpolate(branch(x), scale_factor=4, mode="bilinear", align_corners=True)
            for branch, x in zip(self.branches, maps, strict=True)
        ]
        scores: Tensor = self.classify(torch.cat(joined, dim=1))
        return scores


def conv_bias_bn_relu(cin: int, kernel: int) -> nn.Sequential:
    """Convolution with bias, BatchNorm, ReLU: ``(N, cin, h, w) -> (N, 256, h, w)``."""
    conv = nn.Conv2d(cin, WIDTH, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True))


def enlarged(x: Tensor, factor: int) -> Tensor:
    """Return a map enlarged bilinearly."""
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class SETR(SegmentationModel):
    """What the three networks share."""

    multiple_of = PATCH
    encoder: VisionTransformer

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and the auxiliary heads.

        Raises:
            InputError: one image of one patch in training mode.
        """
        check_batch_norm(type(self).__name__, images, PATCH, self.training)
        size = (images.shape[-2] // PATCH, images.shape[-1] // PATCH)
        return self.heads(self.encoder.tokens(images), size)

    def heads(self, taken: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the outputs for the tokens after four blocks."""
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """Return the class token and the position embedding, which the authors' code names."""
        names = ("encoder.cls_token", "encoder.pos_embed")
        return {name for name, _ in self.named_parameters() if name in names}


FACTS = {
    "paper": "arXiv:2012.15840",
    "year": 2021,
    "idea": "A transformer over patches sees the whole image from its first layer on, so no "
    "pyramid of shrinking features is needed.",
    "repository": "https://github.com/fudan-zvg/SETR",
    "paper_size": (768, 768),
    "verified": "reference output",
    "small": {"trunk": "test_vit", "image_size": 64},
}
README = "authors' README: 768 x 768, 80,000 steps of 8 images"
CITYSCAPES = SETRConfig(num_classes=19)


def results(cityscapes: float, ade: float, ade_scales: float) -> tuple[Published, ...]:
    """Return the authors' figures."""
    return (
        Published("Cityscapes val", cityscapes, README),
        Published("ADE20K val", ade, "authors' README: 512 x 512, 16 images a step"),
        Published("ADE20K val", ade_scales, "authors' README: several scales, flipped"),
    )


@register(
    "setr_naive",
    CITYSCAPES,
    title="SETR-Naïve",
    num_params=306_537_548,
    published=results(77.90, 48.06, 48.80),
    **FACTS,
)
class SETRNaive(SETR):
    """SETR whose scores are enlarged sixteen times at once; see the module docstring."""

    aux_weights = {"aux1": 0.4, "aux2": 0.4, "aux3": 0.4}  # noqa: RUF012

    def __init__(self, config: SETRConfig) -> None:
        super().__init__(config)
        width, depth, *_ = variant(config.trunk)
        self.encoder = VisionTransformer(
            config.trunk, config.in_channels, config.image_size, places(depth)
        )
        self.head = TokenHead(width, config.num_classes, kernel=1, factor=1)
        self.aux = nn.ModuleList(
            TokenHead(width, config.num_classes, kernel=1, factor=1) for _ in self.aux_weights
        )

    def heads(self, taken: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux1"`` to ``"aux3"`` at stride 16."""
        heads = {"logits": self.head(taken[-1], size)}
        if self.logits_only:
            return heads
        for name, head, tokens in zip(self.aux_weights, self.aux, taken[:3], strict=True):
            heads[name] = head(tokens, size)
        return heads


@register(
    "setr_pup",
    CITYSCAPES,
    title="SETR-PUP",
    num_params=319_064_927,
    published=results(79.34, 48.62, 50.09),
    **FACTS,
)
class SETRPUP(SETR):
    """SETR with progressive upsampling: a convolution before each doubling."""

    aux_weights = {f"aux{i}": 0.4 for i in range(1, 5)}  # noqa: RUF012

    def __init__(self, config: SETRConfig) -> None:
        super().__init__(config)
        width, depth, *_ = variant(config.trunk)
        self.encoder = VisionTransformer(
            config.trunk, config.in_channels, config.image_size, places(depth)
        )
        self.head = ProgressiveHead(width, config.num_classes)
        self.aux = nn.ModuleList(
            TokenHead(width, config.num_classes, kernel=3, factor=4) for _ in self.aux_weights
        )

    def heads(self, taken: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 2 and ``"aux1"`` to ``"aux4"`` at stride 4."""
        heads = {"logits": self.head(taken[-1], size)}
        if self.logits_only:
            return heads
        for name, head, tokens in zip(self.aux_weights, self.aux, taken, strict=True):
            heads[name] = head(tokens, size)
        return heads


@register(
    "setr_mla",
    CITYSCAPES,
    title="SETR-MLA",
    num_params=310_754_835,
    published=results(77.24, 48.64, 50.28),
    **FACTS,
)
class SETRMLA(SETR):
    """SETR with multi-level aggregation: four blocks' features, summed and joined."""

    aux_weights = {f"aux{i}": 0.4 for i in range(1, 5)}  # noqa: RUF012

    def __init__(self, config: SETRConfig) -> None:
        super().__init__(config)
        width, depth, *_ = variant(config.trunk)
        self.encoder = VisionTransformer(
            config.trunk,
            config.in_channels,
            config.image_size,
            quarters(depth),
            class_token=False,
        )
        self.aggregate = Aggregation(width)
        self.head = AggregationHead(config.num_classes)
        self.aux = nn.ModuleList(
            nn.Conv2d(WIDTH, config.num_classes, 1, bias=False) for _ in self.aux_weights
        )

    def heads(self, taken: list[Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4 and ``"aux1"`` to ``"aux4"`` at stride 16."""
        maps = self.aggregate(taken, size)
        heads = {"logits": self.head(maps)}
        if self.logits_only:
            return heads
        for name, head, x in zip(self.aux_weights, self.aux, maps, strict=True):
            heads[name] = head(x)
        return heads
