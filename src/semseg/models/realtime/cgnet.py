r"""CGNet: each block joins what is near with what surrounds it, and weighs both by the whole image.

Paper:
    Wu, Tang, Zhang, Cao, Zhang. "CGNet: A Light-weight Context Guided Network for Semantic
    Segmentation." IEEE Transactions on Image Processing 30, 2020. arXiv:1811.08201. Layers and
    initial values follow the authors' ``model/CGNet.py``.

Shapes (any H, W, halves rounded up; C image channels):
    images      (N, C,       H,   W)
    stage 1     (N, 32,      H/2, W/2)   three 3x3 convolutions
    with image  (N, 32 + C,  H/2, W/2)   the image, averaged once
    stage 2     (N, 64,      H/4, W/4)   halving block, M - 1 blocks, dilation 2
    with image  (N, 128 + C, H/4, W/4)   stage 2's end and start, the image averaged twice
    stage 3     (N, 128,     H/8, W/8)   halving block, N - 1 blocks, dilation 4
    joined      (N, 256,     H/8, W/8)   stage 3's start and end
    logits      (N, K,       H/8, W/8)   1x1 without bias

Parameters:
    496,306 at K = 19 and 494,258 at K = 11 with M = 3 and N = 21; 423,682 at K = 19 with N = 15.
    Counted from the authors' code.

Deviations:
    Images are those of the authors' Cityscapes loader: 0 to 255, less that set's mean. For CamVid
    they subtract another mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import Preprocessing
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.espnet import CITYSCAPES, conv3x3, norm_act, shrink
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

WIDTHS = (32, 64, 128)
"""Channels of the stages."""

DILATIONS = (2, 4)
"""Of the surrounding context in stages 2 and 3."""

REDUCTIONS = (8, 16)
"""What the gates of stages 2 and 3 narrow by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CGNetConfig(ModelConfig):
    """Settings of :class:`CGNet`."""

    m: int = 3
    """Blocks of stage 2, the halving one among them; the paper's M."""

    n: int = 21
    """Blocks of stage 3, the halving one among them; the paper's N, also 15."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if min(self.m, self.n) < 2:
            raise InputError(
                f"CGNet needs m and n of at least 2, got {self.m} and {self.n}; "
                "a stage joins its first block with its last"
            )


class Context(nn.Module):
    """Near and surrounding pixels of each channel: ``(N, C, H, W) -> (N, 2C, H, W)``."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        c, d = channels, dilation
        self.near = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
        self.around = nn.Conv2d(c, c, 3, padding=d, dilation=d, groups=c, bias=False)
        self.norm_act = nn.Sequential(*norm_act(2 * c))

    def forward(self, x: Tensor) -> Tensor:
        """Return both side by side, normalised together."""
        joint: Tensor = self.norm_act(torch.cat([self.near(x), self.around(x)], dim=1))
        return joint


class Gate(nn.Module):
    """Global context: each channel times a weight in (0, 1) that the image's means decide."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = channels // reduction
        self.weights = nn.Sequential(
            nn.Linear(channels, narrow),
            nn.ReLU(inplace=True),
            nn.Linear(narrow, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` weighted, in its own shape."""
        weights: Tensor = self.weights(x.mean(dim=(2, 3)))
        return x * weights[..., None, None]


class Block(nn.Module):
    """Context guided block: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        half = channels // 2
        reduce = nn.Conv2d(channels, half, 1, bias=False)
        self.reduce = nn.Sequential(reduce, *norm_act(half))
        self.context = Context(half, dilation)
        self.gate = Gate(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of input and gated context, not activated."""
        out: Tensor = x + self.gate(self.context(self.reduce(x)))
        return out


def halving_block(cin: int, cout: int, dilation: int, reduction: int) -> nn.Sequential:
    """Return a block without residual: ``(N, cin, H, W) -> (N, cout, H/2, W/2)``."""
    return nn.Sequential(
        conv3x3(cin, cout, stride=2),
        Context(cout, dilation),
        nn.Conv2d(2 * cout, cout, 1, bias=False),
        Gate(cout, reduction),
    )


@register(
    "cgnet",
    CGNetConfig(num_classes=19),
    title="CGNet",
    paper="arXiv:1811.08201",
    year=2018,
    idea="Every block joins local features with surrounding context and weighs both by global "
    "context.",
    repository="https://github.com/wutianyiRosun/CGNet",
    num_params=496_306,
    paper_size=(1024, 2048),
    published=(
        Published("Cityscapes test", 64.8, "authors' README; one scale"),
        Published("CamVid test", 65.6, "paper, CamVid table; not checked against its text"),
        Published("Cityscapes val", 68.27, "MMSegmentation's README, retrained at 512 x 1024"),
    ),
    preprocessing=Preprocessing(mean=CITYSCAPES.mean, std=(1 / 255,) * 3),
    verified="reference output",
    small={"m": 2, "n": 3},
)
class CGNet(SegmentationModel):
    """CGNet as the authors' code builds it; see the module docstring."""

    def __init__(self, config: CGNetConfig) -> None:
        super().__init__(config)
        c = config.in_channels
        first, second, third = WIDTHS
        self.stage1 = nn.Sequential(
            conv3x3(c, first, stride=2), conv3x3(first, first), conv3x3(first, first)
        )
        self.join1 = nn.Sequential(*norm_act(first + c))
        facts2, facts3 = zip(DILATIONS, REDUCTIONS, strict=True)
        self.down2 = halving_block(first + c, second, *facts2)
        self.stage2 = nn.Sequential(*(Block(second, *facts2) for _ in range(config.m - 1)))
        self.join2 = nn.Sequential(*norm_act(2 * second + c))
        self.down3 = halving_block(2 * second + c, third, *facts3)
        self.stage3 = nn.Sequential(*(Block(third, *facts3) for _ in range(config.n - 1)))
        self.join3 = nn.Sequential(*norm_act(2 * third))
        self.classifier = nn.Conv2d(2 * third, config.num_classes, 1, bias=False)
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``, rounded up."""
        check_batch_norm(type(self).__name__, images, 8, self.training)
        half = shrink(images)
        x = self.join1(torch.cat([self.stage1(images), half], dim=1))
        start = self.down2(x)
        x = self.join2(torch.cat([self.stage2(start), start, shrink(half)], dim=1))
        start = self.down3(x)
        x = self.join3(torch.cat([start, self.stage3(start)], dim=1))
        return {"logits": self.classifier(x)}
