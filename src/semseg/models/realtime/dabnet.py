r"""DABNet: two depth-wise, asymmetric branches, one of them dilated, in one bottleneck.

Paper:
    Li, Kim. "DABNet: Depth-wise Asymmetric Bottleneck for Real-time Semantic Segmentation." BMVC
    2019. arXiv:1907.11357. Layers follow the authors' ``model/DABNet.py``, initial values their
    ``train.py``.

Shapes (H, W divisible by 4; C image channels; h = H/8, w = W/8, rounded up):
    images      (N, C,       H,   W)
    initial     (N, 32,      H/2, W/2)   three 3x3 convolutions
    with image  (N, 32 + C,  H/2, W/2)   the image, averaged once
    block 1     (N, 64,      H/4, W/4)   halving, 3 modules of dilation 2
    with image  (N, 128 + C, H/4, W/4)   block 1's input and output, the image averaged twice
    block 2     (N, 128,     h,   w)     halving, 6 modules, dilations 4, 4, 8, 8, 16, 16
    with image  (N, 256 + C, h,   w)     the same as before
    logits      (N, K,       h,   w)     1x1 without bias

Parameters:
    756,643 at K = 19 and 754,571 at K = 11, counted from the authors' code.

Deviations:
    Images are what the authors' Cityscapes loader gives: 0 to 255, less that set's mean. For CamVid
    they subtract another mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.preprocess import Preprocessing
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import he_normal_
from semseg.nn.norm import check_batch_norm

WIDTHS = (32, 64, 128)
"""Channels at 1/2, 1/4 and 1/8."""

DILATIONS = ((2, 2, 2), (4, 4, 8, 8, 16, 16))
"""Of the modules at 1/4 and at 1/8."""

CITYSCAPES = Preprocessing(mean=(73.15833 / 255, 82.90902 / 255, 72.3924 / 255), std=(1 / 255,) * 3)
"""The authors' ``dataset/inform/cityscapes_inform.pkl``: a mean of the values, none of the std."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DABNetConfig(ModelConfig):
    """Settings of :class:`DABNet`: those of every network."""


def norm_act(channels: int) -> list[nn.Module]:
    """Return a norm and an activation with one slope per channel."""
    return [nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels)]


def conv3x3(cin: int, cout: int, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution with norm and activation."""
    conv = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
    return [conv, *norm_act(cout)]


def depthwise(channels: int, dilation: int = 1) -> nn.Sequential:
    """Return a 3x1 and a 1x3 convolution of each channel by itself, both normed and activated."""
    c, d = channels, dilation
    return nn.Sequential(
        nn.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1), groups=c, bias=False),
        *norm_act(c),
        nn.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d), groups=c, bias=False),
        *norm_act(c),
    )


class DABModule(nn.Module):
    """Residual bottleneck, activated before its sum: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = nn.Sequential(*norm_act(channels), *conv3x3(channels, half))
        self.near = depthwise(half)
        self.far = depthwise(half, dilation)
        self.expand = nn.Sequential(*norm_act(half), nn.Conv2d(half, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of input and bottleneck, not activated."""
        narrow = self.reduce(x)
        out: Tensor = self.expand(self.near(narrow) + self.far(narrow)) + x
        return out


class Down(nn.Module):
    """Halving block: ``(N, cin, H, W) -> (N, cout, H/2, W/2)``; it pools as well if it widens."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.pools = cin < cout
        filters = cout - cin if self.pools else cout
        self.conv = nn.Conv2d(cin, filters, 3, stride=2, padding=1, bias=False)
        self.norm_act = nn.Sequential(*norm_act(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Return filters, and maxima where there are fewer channels before than after."""
        out = self.conv(x)
        if self.pools:
            out = torch.cat([out, F.max_pool2d(x, 2)], dim=1)
        activated: Tensor = self.norm_act(out)
        return activated


def average(images: Tensor) -> Tensor:
    """Return the image at half size: means of 3x3 pixels, zeros around it counted."""
    return F.avg_pool2d(images, 3, stride=2, padding=1)


@register(
    "dabnet",
    DABNetConfig(num_classes=19),
    title="DABNet",
    paper="arXiv:1907.11357",
    year=2019,
    idea="A bottleneck joins a depth-wise asymmetric branch for what is near with a dilated one "
    "for what is far.",
    repository="https://github.com/Reagan1311/DABNet",
    num_params=756_643,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes test", 70.07, "authors' README; trained on train and val"),
        Published("CamVid test", 66.72, "authors' README; trained on train and val"),
    ),
    preprocessing=CITYSCAPES,
    verified="reference output",
)
class DABNet(SegmentationModel):
    """DABNet as the authors' code builds it; see the module docstring."""

    multiple_of = 4  # the pooling at 1/2 would lose a row; at 1/4 there is none

    def __init__(self, config: DABNetConfig) -> None:
        super().__init__(config)
        c = config.in_channels
        first, second, third = WIDTHS
        self.initial = nn.Sequential(
            *conv3x3(c, first, stride=2), *conv3x3(first, first), *conv3x3(first, first)
        )
        self.norm_act1 = nn.Sequential(*norm_act(first + c))
        self.down1 = Down(first + c, second)
        self.block1 = nn.Sequential(*(DABModule(second, d) for d in DILATIONS[0]))
        self.norm_act2 = nn.Sequential(*norm_act(2 * second + c))
        self.down2 = Down(2 * second + c, third)
        self.block2 = nn.Sequential(*(DABModule(third, d) for d in DILATIONS[1]))
        self.norm_act3 = nn.Sequential(*norm_act(2 * third + c))
        self.classifier = nn.Conv2d(2 * third + c, config.num_classes, 1, bias=False)
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``, rounded up."""
        check_batch_norm(type(self).__name__, images, 8, self.training)
        half = average(images)
        quarter = average(half)
        x = self.norm_act1(torch.cat([self.initial(images), half], dim=1))
        start = self.down1(x)
        x = self.norm_act2(torch.cat([self.block1(start), start, quarter], dim=1))
        start = self.down2(x)
        x = self.norm_act3(torch.cat([self.block2(start), start, average(quarter)], dim=1))
        return {"logits": self.classifier(x)}
