r"""SegFormer: attention over four scales without position embedding, and a head of five 1x1 layers.

Paper:
    Xie, Wang, Yu, Anandkumar, Alvarez, Luo. "SegFormer: Simple and Efficient Design for Semantic
    Segmentation with Transformers." NeurIPS 2021. arXiv:2105.15203, section 3 and figure 2.
    Details follow the authors' code.

Shapes (H, W divisible by 32; e = width; channels of B0, then of B1 to B5):
    images     (N, C, H, W)
    c1         (N, 32, H/4, W/4)       64
    c2         (N, 64, H/8, W/8)       128
    c3         (N, 160, H/16, W/16)    320
    c4         (N, 256, H/32, W/32)    512
    projected  (N, e, ...) of each, enlarged to H/4, W/4, concatenated and fused to (N, e, H/4, W/4)
    logits     (N, K, H/4, W/4)

Parameters:
    At K = 21: B0 3,719,541, B1 13,682,645, B2 27,362,773, B3 47,238,613, B4 64,009,173,
    B5 84,609,493, of which the trunks have 3,319,392, 13,151,424, 24,196,288, 44,072,128,
    60,842,688 and 81,443,008.

Deviations:
    - Fusing a concatenation is the sum of fusing its parts, and a 1x1 convolution of an enlarged
      map is the enlarged map of the convolution; so each part is fused at its own size. The
      numbers are the same, and the concatenation, four times the head's width, is never held.
    - The trunk's ImageNet weights are fetched as segmentation_models_pytorch republishes them.
    - Any other trunk with features at strides 4 to 32 can be taken; the paper has MiT alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register

STRIDES = (4, 8, 16, 32)
"""Strides of the trunk's features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegFormerConfig(ModelConfig):
    """Settings of :class:`SegFormer`."""

    encoder: str = "mit_b0"
    """Trunk with features at strides 4 to 32; the paper's are mit_b0 to mit_b5."""

    width: int = 256
    """Channels of the head: 256 for B0 and B1, 768 for the others."""

    align_corners: bool = False
    """How logits are enlarged; segmentation_models_pytorch aligns the corners."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.width < 1:
            raise InputError(f"SegFormer needs width >= 1, got {self.width}")


class MLPHead(nn.Module):
    """Features of several sizes to class scores at the size of the first.

    Args:
        channels: of the features, finest first.
        width: that each is projected to.
        num_classes: K.
    """

    def __init__(self, channels: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(cin, width) for cin in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(width, num_classes, 1)
        nn.init.kaiming_normal_(self.fuse.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return class scores."""
        parts = []
        for feature, project, fuse in zip(features, self.project, self.parts(), strict=True):
            weight, bias = project.get_parameter("weight"), project.get_parameter("bias")
            parts.append(F.conv2d(F.conv2d(feature, weight[..., None, None], bias), fuse))
        scores: Tensor = self.classify(self.dropout(F.relu(self.norm(summed(parts)))))
        return scores

    def parts(self) -> list[Tensor]:
        """Return the weights of :attr:`fuse` by feature; it takes the coarsest first."""
        return list(self.fuse.weight.chunk(len(self.project), dim=1))[::-1]

    def merged(self) -> MergedHead:
        """Return the equal head of one convolution per feature, for prediction."""
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        scale = self.norm.weight / (variance + self.norm.eps).sqrt()
        weights, shift = [], self.norm.bias - scale * mean
        for project, part in zip(self.project, self.parts(), strict=True):
            fuse = scale[:, None] * part.flatten(1)
            weights.append((fuse @ project.get_parameter("weight")).detach())
            shift = shift + fuse @ project.get_parameter("bias")
        return MergedHead(weights, shift.detach(), self.classify)


class MergedHead(nn.Module):
    """:class:`MLPHead` in eval mode: projection, fusion and norm in one convolution per feature."""

    def __init__(self, weights: list[Tensor], shift: Tensor, classify: nn.Conv2d) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for i, weight in enumerate(weights):
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=i == 0).to(weight)
            conv.weight = nn.Parameter(weight[..., None, None])
            self.convs.append(conv)
        self.convs[0].bias = nn.Parameter(shift)
        self.classify = classify

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return class scores."""
        parts = [conv(x) for conv, x in zip(self.convs, features, strict=True)]
        scores: Tensor = self.classify(F.relu(summed(parts)))
        return scores


def summed(maps: list[Tensor]) -> Tensor:
    """Return the sum of maps, those after the first enlarged bilinearly to its size."""
    total, *coarser = maps
    size = total.shape[-2:]
    for x in coarser:
        total = total + F.interpolate(x, size, mode="bilinear", align_corners=False)
    return total


FACTS = {
    "paper": "arXiv:2105.15203",
    "year": 2021,
    "idea": "A transformer of four scales, which finds positions by convolution alone, sees so far "
    "that a head of a few 1x1 layers is enough.",
    "repository": "https://github.com/NVlabs/SegFormer",
    "paper_size": (512, 512),
    "verified": "reference output",
    "small": {"encoder": "mit_b0", "width": 16},
}


def results(ade: float, ade_scales: float, cityscapes: float) -> tuple[Published, ...]:
    """Return a line of the paper's Table 1."""
    return (
        Published("ADE20K val", ade, "paper, Table 1"),
        Published("ADE20K val", ade_scales, "paper, Table 1: several scales, flipped"),
        Published("Cityscapes val", cityscapes, "paper, Table 1"),
    )


@register(
    "segformer_b0",
    SegFormerConfig(),
    title="SegFormer (B0)",
    num_params=3_719_541,
    published=results(37.4, 38.0, 76.2),
    **FACTS,
)
@register(
    "segformer_b1",
    SegFormerConfig(encoder="mit_b1"),
    title="SegFormer (B1)",
    num_params=13_682_645,
    published=results(42.2, 43.1, 78.5),
    **FACTS,
)
@register(
    "segformer_b2",
    SegFormerConfig(encoder="mit_b2", width=768),
    title="SegFormer (B2)",
    num_params=27_362_773,
    published=results(46.5, 47.5, 81.0),
    **FACTS,
)
@register(
    "segformer_b3",
    SegFormerConfig(encoder="mit_b3", width=768),
    title="SegFormer (B3)",
    num_params=47_238_613,
    published=results(49.4, 50.0, 81.7),
    **FACTS,
)
@register(
    "segformer_b4",
    SegFormerConfig(encoder="mit_b4", width=768),
    title="SegFormer (B4)",
    num_params=64_009_173,
    published=results(50.3, 51.1, 82.3),
    **FACTS,
)
@register(
    "segformer_b5",
    SegFormerConfig(encoder="mit_b5", width=768),
    title="SegFormer (B5)",
    num_params=84_609_493,
    published=results(51.0, 51.8, 82.4),
    **(FACTS | {"paper_size": (640, 640)}),
)
class SegFormer(SegmentationModel):
    """SegFormer over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at strides 4 to 32.
    """

    multiple_of = 32

    def __init__(self, config: SegFormerConfig) -> None:
        super().__init__(config)
        self.align_corners = config.align_corners
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        channels = tuple(self.encoder.channels[i] for i in self.places)
        self.head = MLPHead(channels, config.width, config.num_classes)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4."""
        features = self.encoder(images)
        return {"logits": self.head([features[i] for i in self.places])}
