r"""CCNet: a pixel attends to its row and column, and in a second round to all of the image.

Paper:
    Huang, Wang, Wei, Huang, Shi, Liu, Huang. "CCNet: Criss-Cross Attention for Semantic
    Segmentation." ICCV 2019; TPAMI 2020. arXiv:1811.11721, section 3. What the text leaves open
    follows the authors' code, ``networks/ccnet.py`` and ``cc_attention/functions.py``.

Shapes (h = H/8 + 1 pixels of H divisible by 8):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilation 4
    reduced      (N, 512, h, w)   3x3
    crossed      (N, 512, h, w)   attention to h + w - 1 pixels with keys of 64 channels, twice with
                                  the same weights; 3x3
    aux          (N, K, h, w)   3x3 to 512 and 1x1 on layer3
    logits       (N, K, h, w)   3x3 to 512 on layer4 beside what was gathered, 1x1

Parameters:
    71,287,911 at K = 19: 66,558,036 of the network that predicts, and 4,729,875 of the auxiliary
    head.

Deviations:
    - Norms are BatchNorm and the leaky ReLU of the authors' in-place norm; that one scales by the
      absolute value of its weight plus 1e-5.
    - The TPAMI version's loss of categories is not here; the released code has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.context.ocrnet import pool_over_the_border
from semseg.nn.norm import check_batch_norm

HIDDEN = 512
"""Channels of attention and before the classifiers."""

KEYS = 64
"""Channels in which pixels are compared."""

DROPOUT, SLOPE = 0.1, 0.01
"""Rate of dropped channels before the classifiers, and slope of the leaky ReLU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CCNetConfig(ModelConfig):
    """Settings of :class:`CCNet`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101_deep"
    """Trunk that can be dilated to output stride 8; the authors' has three 3x3 as stem."""

    recurrence: int = 2
    """Rounds of attention; two reach every pixel."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.recurrence < 1:
            raise InputError(f"CCNet takes a recurrence of at least 1, got {self.recurrence}")


def unit(cin: int, cout: int, bias: bool = False) -> nn.Sequential:
    """3x3, BatchNorm, leaky ReLU: ``(N, cin, h, w) -> (N, cout, h, w)``."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=bias),
        nn.BatchNorm2d(cout),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class CrissCrossAttention(nn.Module):
    """Pixels gather from their row and column: ``(N, width, h, w) -> (N, width, h, w)``.

    Weights are h + w - 1 for each pixel, so memory grows with the image's side, not its square.
    The share of what is gathered starts at zero and is learned.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, keys, 1)
        self.key = nn.Conv2d(width, keys, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixels and a share of what they gathered."""
        height = x.shape[-2]
        query, key, value = self.query(x), self.key(x), self.value(x)
        down = torch.einsum("ncyx,ncsx->nyxs", query, key)
        across = torch.einsum("ncyx,ncys->nyxs", query, key)
        # a pixel is in its row and in its column, and counts once
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[:, None]
        down = down.masked_fill(itself, float("-inf"))
        share = torch.cat([down, across], dim=-1).softmax(dim=-1)
        gathered = torch.einsum("nyxs,ncsx->ncyx", share[..., :height], value)
        gathered = gathered + torch.einsum("nyxs,ncys->ncyx", share[..., height:], value)
        return self.gamma * gathered + x


@register(
    "ccnet",
    CCNetConfig(),
    title="CCNet (ResNet-101)",
    paper="arXiv:1811.11721",
    year=2019,
    idea="Attention along a pixel's row and column, twice: by the crossing of two such paths every "
    "pixel hears of every other at a fraction of the cost.",
    repository="https://github.com/speedinghzl/CCNet",
    num_params=71_287_911,
    paper_size=(769, 769),
    published=(
        Published("Cityscapes val", 79.74, "authors' README: one scale"),
        Published("Cityscapes test", 79.01, "authors' README: one scale"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class CCNet(SegmentationModel):
    """Criss-cross network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8.
    """

    align_corners = True
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: CCNetConfig) -> None:
        super().__init__(config)
        self.recurrence = config.recurrence
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        pool_over_the_border(self.encoder)
        *_, third, fourth = self.encoder.channels
        self.reduce = unit(fourth, HIDDEN)
        self.attention = CrissCrossAttention(HIDDEN, KEYS)
        self.after = unit(HIDDEN, HIDDEN)
        self.head = nn.Sequential(
            unit(fourth + HIDDEN, HIDDEN),
            nn.Dropout2d(DROPOUT),
            nn.Conv2d(HIDDEN, config.num_classes, 1),
        )
        self.aux = nn.Sequential(
            unit(third, HIDDEN, bias=True),
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
        x = self.reduce(fourth)
        for _ in range(self.recurrence):
            x = self.attention(x)
        heads = {"logits": self.head(torch.cat([fourth, self.after(x)], dim=1))}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads
