r"""ANN: attention to a handful of averages, across two stages and within the last one.

Paper:
    Zhu, Xu, Bai, Huang, Bai. "Asymmetric Non-local Neural Networks for Semantic Segmentation."
    ICCV 2019. arXiv:1908.07678, section 3. What the text leaves open follows the authors' code,
    ``models/seg/nets/annn.py`` and ``models/seg/utils``.

Shapes (h = H/8 + 1 pixels of H divisible by 8):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilation 4
    averages     (N, 256, 110)   keys and values of 1, 9, 36 and 64 regions of the image
    fused        (N, 2048, h, w)   1x1 on layer4 beside what it gathers from layer3's averages
    context      (N, 512, h, w)   3x3, then 1x1 on it beside what it gathers from its own averages
    aux          (N, K, h, w)   3x3 to 512 and 1x1 on layer3
    logits       (N, K, h, w)   1x1

Parameters:
    67,694,310 at K = 19 over ResNet-101: 62,964,435 of the network that predicts, and 4,729,875 of
    the auxiliary head.

Deviations:
    - Keys that are queries too are computed once; the authors' code computes them twice, so in
      training the running statistics of that norm take two steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.context.ocrnet import pool_over_the_border
from semseg.nn.norm import check_batch_norm

REGIONS = (1, 3, 6, 8)
"""Regions along each side whose averages are attended to (paper, section 3.2)."""

HIDDEN, KEYS = 512, 256
"""Channels before the classifiers, and those of keys and values."""

DROPOUT = 0.05
"""Rate of dropped channels after each fusion and before the auxiliary classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ANNConfig(ModelConfig):
    """Settings of :class:`ANN`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101s.gluon_in1k"
    """Trunk that can be dilated to output stride 8; the authors' has three 3x3 as stem."""


def unit(cin: int, cout: int, kernel: int) -> nn.Sequential:
    """Convolution with bias, BatchNorm, ReLU: ``(N, cin, h, w) -> (N, cout, h, w)``."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def averages(x: Tensor) -> Tensor:
    """Return the averages of all regions, row by row: ``(N, C, h, w) -> (N, C, 110)``."""
    return torch.cat([F.adaptive_avg_pool2d(x, side).flatten(2) for side in REGIONS], dim=2)


class AsymmetricAttention(nn.Module):
    """Pixels gather from averages of the same or of other features.

    Args:
        low: channels of the features whose averages are attended to.
        high: channels of the pixels that gather, and of what they gather.
        shared: whether one convolution makes keys and queries; both are then of the same features.

    ``(N, low, h, w), (N, high, h, w) -> (N, high, h, w)``. The last convolution starts at zero.
    """

    def __init__(self, low: int, high: int, shared: bool = False) -> None:
        super().__init__()
        self.key = unit(low, KEYS, 1)
        self.query = None if shared else unit(high, KEYS, 1)
        self.value = nn.Conv2d(low, KEYS, 1)
        self.out = nn.Conv2d(KEYS, high, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return what the pixels of ``high`` gather from ``low``."""
        key = self.key(low)
        query = key if self.query is None else self.query(high)
        # one head: exporters know attention with heads only
        gathered = F.scaled_dot_product_attention(
            query.flatten(2).mT[:, None],
            averages(key).mT[:, None],
            averages(self.value(low)).mT[:, None],
        )
        out: Tensor = self.out(gathered.mT.reshape(query.shape))
        return out


class Fusion(nn.Module):
    """Last stage joined with what it gathers from the one before: ``-> (N, high, h, w)``."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.attention = AsymmetricAttention(low, high)
        self.join = nn.Sequential(  # without ReLU, as in the authors' code
            nn.Conv2d(2 * high, high, 1), nn.BatchNorm2d(high), nn.Dropout2d(DROPOUT)
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return ``high`` with what it gathered from ``low``."""
        out: Tensor = self.join(torch.cat([self.attention(low, high), high], dim=1))
        return out


class Context(nn.Module):
    """Pixels joined with what they gather from their own averages: ``-> (N, width, h, w)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = AsymmetricAttention(width, width, shared=True)
        self.join = nn.Sequential(unit(2 * width, width, 1), nn.Dropout2d(DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels with their context."""
        out: Tensor = self.join(torch.cat([self.attention(x, x), x], dim=1))
        return out


@register(
    "ann",
    ANNConfig(),
    title="ANN (ResNet-101)",
    paper="arXiv:1908.07678",
    year=2019,
    idea="Pixels attend to averages of regions in place of all pixels: a hundred keys do for "
    "thousands, and one stage can ask another.",
    repository="https://github.com/MendelXu/ANN",
    num_params=67_694_310,
    paper_size=(769, 769),
    published=(
        Published("Cityscapes val", 79.9, "authors' README: OHEM, one scale"),
        Published("Cityscapes test", 81.3, "authors' README, Tab. 1: several scales"),
        Published("PASCAL Context val", 52.8, "authors' README, Tab. 2: several scales"),
        Published("ADE20K val", 45.24, "authors' README, Tab. 3: several scales"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class ANN(SegmentationModel):
    """Asymmetric non-local network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: ANNConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        pool_over_the_border(self.encoder)
        *_, third, fourth = self.encoder.channels
        self.fusion = Fusion(third, fourth)
        self.reduce = unit(fourth, HIDDEN, 3)
        self.context = Context(HIDDEN)
        self.head = nn.Conv2d(HIDDEN, config.num_classes, 1)
        self.aux = nn.Sequential(
            unit(third, HIDDEN, 3),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(HIDDEN, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode whose features are a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        *_, third, fourth = self.encoder(images)
        logits = self.head(self.context(self.reduce(self.fusion(third, fourth))))
        return (
            {"logits": logits} if self.logits_only else {"logits": logits, "aux": self.aux(third)}
        )
