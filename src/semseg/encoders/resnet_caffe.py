"""ResNet as its authors released it in Caffe, which DeepLab v2 and others of that time start from.

Paper:
    He, Zhang, Ren, Sun. "Deep Residual Learning for Image Recognition." CVPR 2016.
    arXiv:1512.03385, Table 1, and the released ``ResNet-101-deploy.prototxt``.

It differs from torchvision's and timm's ResNet in two places: a block halves the resolution in
its first 1x1 convolution, not in the 3x3, and the first max-pooling rounds sizes up.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import IMAGENET
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import chosen_tensors, fill_trunk, read_tensors
from semseg.nn.init import he_normal_

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage by number of layers."""

DILATIONS = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}
"""Dilation of each stage's 3x3 convolutions, by output stride; a dilated stage does not halve."""


class Bottleneck(nn.Module):
    """1x1 with the stride, 3x3, 1x1 to four times the width, and the shortcut around them.

    ``(N, cin, H, W) -> (N, 4 * width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        cout = 4 * width
        self.conv1 = nn.Conv2d(cin, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2: nn.Module = nn.Conv2d(
            width, width, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of shortcut and branch."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class CaffeResNet(Encoder):
    """ResNet of bottlenecks; names of layers are torchvision's.

    Args:
        in_channels: channels of the images.
        depths: blocks of the four stages.
        output_stride: stride of the deepest feature: 8, 16 or 32.
        width: channels of the stem; the paper's is 64.

    Shapes (w = width, output_stride 8):
        - images: ``(N, C, H, W)``, any H and W.
        - features: ``(N, w, H/2, W/2)``, ``(N, 4w, H/4, W/4)``, ``(N, 8w, H/8, W/8)``,
          ``(N, 16w, H/8, W/8)``, ``(N, 32w, H/8, W/8)``. With H = 8k + 1 they have
          4k + 1, 2k + 1 and k + 1 rows, and the first and last stand on the image's corners.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depths: tuple[int, ...] = DEPTHS[101],
        output_stride: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
        cin = width
        channels, strides = [width], [2]
        for i, (depth, dilation) in enumerate(zip(depths, DILATIONS[output_stride], strict=True)):
            stride = 1 if i == 0 or dilation > 1 else 2
            planes = width * 2**i
            blocks = [Bottleneck(cin, planes, stride, dilation)]
            cin = 4 * planes
            blocks += [Bottleneck(cin, planes, dilation=dilation) for _ in range(1, depth)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            channels.append(cin)
            strides.append(4 if i == 0 else strides[-1] * stride)
        self.channels, self.strides = tuple(channels), tuple(strides)
        he_normal_(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the stem before its pool, then each stage."""
        features = [F.relu(self.bn1(self.conv1(images)))]
        x = self.maxpool(features[0])
        for i in range(1, len(self.channels)):
            x = self.get_submodule(f"layer{i}")(x)
            features.append(x)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the authors' weights, converted from Caffe, for RGB in ImageNet's normalisation.

        The Caffe weights take BGR in 0..255 without the mean. The stem is turned to RGB and scaled
        by 255 times ImageNet's deviation, so the trunk takes what every other one takes.

        Args:
            source: a file of the converted weights under torchvision's names; they are not
                fetched.

        Raises:
            InputError: no file was given.
            FileError: the file holds another network.
        """
        if isinstance(source, bool):
            raise InputError(
                "the Caffe ResNet has no published weights that can be fetched; give a file of "
                "them under torchvision's names with pretrained=PATH, or choose a trunk of timm, "
                "e.g. encoder='resnet101'"
            )
        name = "this Caffe ResNet"
        held = chosen_tensors(self, read_tensors(Path(source)), source, name, "layer")
        scale = held["conv1.weight"].new_tensor(IMAGENET.std).view(1, 3, 1, 1) * 255
        held["conv1.weight"] = adapt_stem(held["conv1.weight"].flip(1) * scale, self.in_channels)
        fill_trunk(self, held, source, name)


def _build(in_channels: int, output_stride: int, depths: tuple[int, ...]) -> CaffeResNet:
    return CaffeResNet(in_channels, depths, output_stride)


for _layers, _depths in DEPTHS.items():
    ENCODERS.add(f"resnet{_layers}_caffe", partial(_build, depths=_depths))
