"""ShuffleNet v1: grouped 1x1 convolutions, and a shuffle that lets the groups meet.

Paper:
    Zhang, Zhou, Lin, Sun. "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
    Mobile Devices." CVPR 2018. arXiv:1707.01083, Table 1 with 3 groups. Layers follow the trunk of
    ShuffleSeg and RTSeg, ``models/encoders/shufflenet.py`` of
    https://github.com/MSiam/TFSegmentation.

865,602 parameters, 853,734 of them without the biases before its norms. It differs from the paper
in its first units: their bottleneck is a quarter of the channels that they add, not of all.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import Preprocessing
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import fill_trunk, read_tensors

GROUPS = 3
REPEATS = (3, 7, 3)
"""Units of each stage after its first."""

DILATIONS = {32: (1, 1, 1), 16: (1, 1, 2), 8: (1, 2, 4)}
"""Of the 3x3 in each stage's first unit, by output stride; a dilated stage does not halve."""

STEP = 12
"""Widths are multiples of it: then every grouped convolution has whole groups."""

CENTRED = Preprocessing(
    mean=(72.5238962 / 255, 83.04442645 / 255, 73.29132098 / 255), std=(1.0, 1.0, 1.0)
)
"""What the authors of ShuffleSeg give it: the means of Cityscapes taken off."""

norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
"""TensorFlow's defaults; those of grouped convolutions have 1e-5."""


def xavier_(module: nn.Module) -> None:
    """Draw each convolution in ``module`` as TensorFlow's Xavier does and zero its bias, in place.

    Uniform within sqrt(6 / (in + out)); a group counts by itself, and for a convolution per channel
    "in" are all channels and "out" is one. Transposed convolutions are left as they are.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            ends = (conv.in_channels + conv.out_channels) / conv.groups
            if conv.groups == conv.in_channels > 1:
                ends = conv.in_channels + 1
            bound = math.sqrt(6 / (math.prod(conv.kernel_size) * ends))
            nn.init.uniform_(conv.weight, -bound, bound)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def shuffle(x: Tensor) -> Tensor:
    """Return the channels so that each third of them holds a third of each group."""
    _, channels, height, width = x.shape
    groups = x.reshape(-1, GROUPS, channels // GROUPS, height, width)
    return groups.transpose(1, 2).reshape(-1, channels, height, width)


class Unit(nn.Module):
    """ShuffleNet unit: ``(N, cin, H, W) -> (N, cout, H / stride, W / stride)``, rounded up.

    Where cin and cout differ it stands first in its stage: its input, averaged where it halves, is
    put beside its branch. Elsewhere both are added.

    Args:
        cin: channels of the input.
        cout: channels of the output.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
        grouped: whether the first 1x1 is grouped and shuffled.
        odd: whether sides of what is halved are odd; TensorFlow pads those on both ends.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        grouped: bool = True,
        odd: bool = False,
    ) -> None:
        super().__init__()
        new = cout - cin if cin != cout else cout
        inner = new // 4
        self.beside = cin != cout
        self.grouped = grouped
        self.bottleneck = nn.Conv2d(cin, inner, 1, groups=GROUPS if grouped else 1)
        self.bottleneck_norm = norm(inner, eps=1e-5 if grouped else 1e-3)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, groups=inner)
        self.depthwise_norm = norm(inner)
        self.expand = nn.Conv2d(inner, new, 1, groups=GROUPS)
        self.expand_norm = norm(new, eps=1e-5)
        self.pool: nn.Module = nn.Identity()
        if stride == 2:
            # averages of what lies inside, on a grid that starts at pixel 0 where sides are even
            settings = {"padding": 1, "count_include_pad": False} if odd else {"ceil_mode": True}
            self.pool = nn.AvgPool2d(3, 2, **settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum or concatenation."""
        out = F.relu(self.bottleneck_norm(self.bottleneck(x)))
        if self.grouped:
            out = shuffle(out)
        out = self.depthwise_norm(self.depthwise(out))
        out = self.expand_norm(self.expand(out))
        return F.relu(torch.cat([self.pool(x), out], dim=1) if self.beside else x + out)


class ShuffleNetV1(Encoder):
    """Images to features of 24, 240, 480 and 960 channels.

    Args:
        in_channels: channels of the images.
        width: w, channels of the first convolution; the paper's is 24.
        output_stride: stride of the deepest feature: 8, 16 or 32.

    Raises:
        InputError: a width that is no multiple of 12.

    Shapes (H, W divisible by ``output_stride``; the first two have no padding, so they are one
    pixel short):
        - features: ``(N, w, H/2 - 1, W/2 - 1)``, ``(N, w, H/4 - 1, W/4 - 1)`` after max-pooling,
          ``(N, 10w, H/8, W/8)``, ``(N, 20w, H/16, W/16)``, ``(N, 40w, H/32, W/32)``.
    """

    preprocessing = CENTRED

    def __init__(self, in_channels: int = 3, width: int = 24, output_stride: int = 32) -> None:
        super().__init__()
        if width < STEP or width % STEP:
            raise InputError(f"ShuffleNet v1 takes a width of 12, 24, 36, …, got {width}")
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=2)
        self.norm1 = norm(width)
        stages, cin, strides = [], width, [2, 4]
        for i, (repeat, dilation) in enumerate(zip(REPEATS, DILATIONS[output_stride], strict=True)):
            cout, stride = 10 * width * 2**i, 2 if dilation == 1 else 1
            first = Unit(cin, cout, stride, dilation, grouped=i > 0, odd=i == 0)
            stages.append(nn.Sequential(first, *(Unit(cout, cout) for _ in range(repeat))))
            strides.append(strides[-1] * stride)
            cin = cout
        self.stages = nn.ModuleList(stages)
        self.channels = (width, width, *(10 * width * 2**i for i in range(len(stages))))
        self.strides = tuple(strides)
        xavier_(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the first convolution before and after its pool, and each stage."""
        x = F.relu(self.norm1(self.conv1(images)))
        features = [x, F.max_pool2d(x, 3, stride=2, ceil_mode=True)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load a file of weights under this trunk's own names, which a conversion has to give.

        Args:
            source: the file; the authors publish theirs as TensorFlow's values in a pickle, which
                is not fetched.

        Raises:
            InputError: no file was given.
            FileError: the file holds another network.
        """
        if isinstance(source, bool):
            raise InputError(
                "ShuffleNet v1 has no published weights that can be fetched; give a file of them "
                "under this trunk's names with pretrained=PATH, or leave pretrained out"
            )
        tensors, own = read_tensors(Path(source)), self.state_dict()
        wanted = [key for key in own if not key.endswith("num_batches_tracked")]
        if missing := [key for key in wanted if key not in tensors]:
            raise FileError(
                f"{source} does not hold ShuffleNet v1: {len(missing)} of {len(wanted)} tensors "
                f"are missing (first: {missing[0]})"
            )
        held = {key: tensors[key] for key in wanted}
        held["conv1.weight"] = adapt_stem(held["conv1.weight"], self.in_channels)
        fill_trunk(self, held, source, "this trunk", same="width")


def _build(in_channels: int, output_stride: int) -> ShuffleNetV1:
    return ShuffleNetV1(in_channels, output_stride=output_stride)


ENCODERS.add("shufflenet_v1_g3", _build)
