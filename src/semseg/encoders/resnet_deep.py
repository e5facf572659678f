"""ResNet with a stem of three 3x3 convolutions, which PSPNet, UPerNet and their successors use.

Paper:
    He, Zhang, Ren, Sun. "Deep Residual Learning for Image Recognition." CVPR 2016.
    arXiv:1512.03385. Stem and dilation follow the code of PSPNet's authors, ``model/resnet.py``
    and ``model/pspnet.py`` of https://github.com/hszhao/semseg.

It differs from torchvision's ResNet in the stem (64, 64 and 128 channels), and from timm's dilated
trunks in the first block of a dilated stage, whose 3x3 convolution is as dilated as the others.
At output stride 32 it is timm's ``resnet50s``, and takes the weights published for that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import TimmEncoder, adapt_stem
from semseg.encoders.weights import chosen_tensors, fill_trunk, read_tensors

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage by number of layers."""

DILATIONS = {32: (1, 1, 1, 1), 16: (1, 1, 1, 2), 8: (1, 1, 2, 4)}
"""Dilation of each stage's 3x3 convolutions, by output stride; a dilated stage does not halve."""

STEM = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}
"""Names of the stem in the files of PSPNet's and UPerNet's authors, and here (timm's)."""


class Bottleneck(nn.Module):
    """1x1, 3x3 with stride and dilation, 1x1 to four times the width, and the shortcut around.

    ``(N, cin, H, W) -> (N, 4 * width, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        cout = 4 * width
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
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


class DeepResNet(Encoder):
    """ResNet of bottlenecks behind three 3x3 convolutions; names of layers are timm's.

    Args:
        in_channels: channels of the images.
        depths: blocks of the four stages.
        output_stride: stride of the deepest feature: 8, 16 or 32.
        width: channels of the stem's first convolutions; the authors' is 64.

    Shapes (w = width, output_stride 8; sizes are rounded up at each halving):
        - images: ``(N, C, H, W)``, any H and W.
        - features: ``(N, 2w, H/2, W/2)``, ``(N, 4w, H/4, W/4)``, ``(N, 8w, H/8, W/8)``,
          ``(N, 16w, H/8, W/8)``, ``(N, 32w, H/8, W/8)``.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depths: tuple[int, ...] = DEPTHS[50],
        output_stride: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.depths = depths
        cin = 2 * width
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, cin, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(cin)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, strides = [cin], [2]
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the stem before its pool, then each stage."""
        features = [F.relu(self.bn1(self.conv1(images)))]
        x = self.maxpool(features[0])
        for i in range(1, len(self.channels)):
            x = self.get_submodule(f"layer{i}")(x)
            features.append(x)
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load published ImageNet weights, the stem adapted to the number of channels.

        Args:
            source: ``True`` fetches timm's ``resnet50s.gluon_in1k`` (``resnet101s``, ...); a path
                reads a file of those, or of the authors' weights (``resnet50_v2.pth``,
                ``resnet50-imagenet.pth``), whose stem has other names.

        Raises:
            InputError: there are no published weights of these depths.
            FileError: the weights cannot be had, or are those of another network.
        """
        tensors = self._published() if isinstance(source, bool) else read_tensors(Path(source))
        if "conv2.weight" in tensors:  # the authors' names
            tensors = {_renamed(key): value for key, value in tensors.items()}
        name = "this deep-stem ResNet"
        held = chosen_tensors(self, tensors, source, name, "layer")
        held["conv1.0.weight"] = adapt_stem(held["conv1.0.weight"], self.in_channels)
        fill_trunk(self, held, source, name)

    def _published(self) -> dict[str, Tensor]:
        """Return the weights that timm publishes for these depths."""
        layers = [number for number, depths in DEPTHS.items() if depths == self.depths]
        if not layers:
            raise InputError(
                f"a deep-stem ResNet of depths {self.depths} has no published weights; "
                "create it without pretrained, or give a file with pretrained=PATH"
            )
        donor = TimmEncoder(f"resnet{layers[0]}s.gluon_in1k")
        donor.load_pretrained()
        return donor.trunk.state_dict()


def _renamed(key: str) -> str:
    layer, _, leaf = key.partition(".")
    return f"{STEM[layer]}.{leaf}" if layer in STEM else key


def _build(in_channels: int, output_stride: int, depths: tuple[int, ...]) -> DeepResNet:
    return DeepResNet(in_channels, depths, output_stride)


for _layers, _depths in DEPTHS.items():
    ENCODERS.add(f"resnet{_layers}_deep", partial(_build, depths=_depths))
