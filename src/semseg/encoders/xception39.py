"""Xception39: the light trunk of BiSeNet, a residual network of separable convolutions.

Paper:
    Yu, Wang, Peng, Gao, Yu, Sang. "BiSeNet: Bilateral Segmentation Network for Real-time Semantic
    Segmentation." ECCV 2018. arXiv:1808.00897, after Chollet's Xception (arXiv:1610.02357). Layers
    follow the authors' ``furnace/base_model/xception.py`` of https://github.com/ycszen/TorchSeg.

299,448 parameters, a 37th of ResNet-18's. The authors published no ImageNet weights of it.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.base import ENCODERS, Encoder

STEM = 8
"""Channels of the first convolution."""

DEPTHS, WIDTHS = (4, 8, 4), (16, 32, 64)
"""Blocks of each stage, and channels inside them."""

EXPANSION = 4
"""Channels that a block gives, as a multiple of its width."""


def separable(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """3x3 per channel, 1x1 across channels, norm: ``(N, cin, H, W) -> (N, cout, H/s, W/s)``.

    Nothing stands between the two convolutions.
    """
    return nn.Sequential(
        nn.Conv2d(cin, cin, 3, stride, padding=1, groups=cin, bias=False),
        nn.Conv2d(cin, cout, 1, bias=False),
        nn.BatchNorm2d(cout),
    )


class Block(nn.Module):
    """Three separable convolutions and the shortcut around them, itself one where it halves.

    ``(N, cin, H, W) -> (N, 4 * width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = EXPANSION * width
        self.shortcut = nn.Identity() if stride == 1 else separable(cin, cout, stride)
        self.branch = nn.Sequential(
            separable(cin, width, stride),
            nn.ReLU(inplace=True),
            separable(width, width),
            nn.ReLU(inplace=True),
            separable(width, cout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of shortcut and branch."""
        return F.relu(self.shortcut(x) + self.branch(x))


class Xception39(Encoder):
    """Images to features of 64, 128 and 256 channels; initial weights are PyTorch's, as theirs.

    Args:
        in_channels: channels of the images.

    Shapes (any H, W; sides are rounded up at each halving):
        - features: ``(N, 8, H/2, W/2)``, ``(N, 8, H/4, W/4)`` after max-pooling,
          ``(N, 64, H/8, W/8)``, ``(N, 128, H/16, W/16)``, ``(N, 256, H/32, W/32)``.
    """

    channels = (STEM, STEM, *(EXPANSION * width for width in WIDTHS))
    strides = (2, 4, 8, 16, 32)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, STEM, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM),
            nn.ReLU(),
        )
        stages, cin = [], STEM
        for depth, width in zip(DEPTHS, WIDTHS, strict=True):
            cout = EXPANSION * width
            rest = (Block(cout, width, stride=1) for _ in range(1, depth))
            stages.append(nn.Sequential(Block(cin, width, stride=2), *rest))
            cin = cout
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the stem before and after its pooling, and each stage."""
        x = self.stem(images)
        features = [x, F.max_pool2d(x, 3, stride=2, padding=1)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Refuse: there is nothing to load.

        Raises:
            InputError: always.
        """
        raise InputError(
            "xception39 is no trunk with published weights; create the network without "
            "pretrained, or give weights of all of it with semseg.load"
        )


def _build(in_channels: int, output_stride: int) -> Xception39:
    if output_stride != 32:
        raise InputError(
            f"encoder 'xception39' cannot have output_stride {output_stride}; use 32, or a trunk "
            "whose strides can be dilated, e.g. 'resnet18'"
        )
    return Xception39(in_channels)


ENCODERS.add("xception39", _build)
