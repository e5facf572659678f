"""STDC: trunks whose blocks put features of growing fields of view side by side.

Paper:
    Fan, Lai, Huang, Wei, Chai, Luo, Wei. "Rethinking BiSeNet For Real-time Semantic Segmentation."
    CVPR 2021. arXiv:2104.13188, section 3.1. Layers and their names follow the authors'
    ``nets/stdcnet.py`` of https://github.com/MichaelFan01/STDC-Seg.

The classifier and the 1x1 convolution before it, which segmentation does not use, are left out:
5,318,304 parameters of STDC1 and 9,348,768 of STDC2 remain.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import chosen_tensors, fill_trunk, read_tensors

VARIANTS = {
    "stdc1": ((2, 2, 2), "STDCNet813M_73.91.tar"),
    "stdc2": ((4, 5, 3), "STDCNet1446_76.47.tar"),
}
"""Blocks of each stage, and the authors' file of ImageNet weights."""


class ConvX(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; sides are rounded up where it strides."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated features."""
        return F.relu(self.bn(self.conv(x)))


class ShortTermConcat(nn.Module):
    """A 1x1 and three 3x3 in a row, their outputs side by side: 1/2, 1/4, 1/8, 1/8 of ``cout``.

    With stride 2 the output of the 1x1 is halved on its way to the next by a depthwise
    convolution, and on its way out by averaging. ``(N, cin, H, W) -> (N, cout, H/s, W/s)``.
    """

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = cout // 2
        self.conv_list = nn.ModuleList(
            [
                ConvX(cin, half, 1),
                ConvX(half, cout // 4),
                ConvX(cout // 4, cout // 8),
                ConvX(cout // 8, cout // 8),
            ]
        )
        if stride == 2:
            self.avd_layer = nn.Sequential(
                nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False),
                nn.BatchNorm2d(half),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenation."""
        first, *rest = self.conv_list
        x = shown = first(x)
        if self.stride == 2:
            x, shown = self.avd_layer(x), F.avg_pool2d(x, 3, stride=2, padding=1)
        outs = [shown]
        for conv in rest:
            x = conv(x)
            outs.append(x)
        return torch.cat(outs, dim=1)


class STDC(Encoder):
    """Two strided convolutions and three stages of :class:`ShortTermConcat`.

    Args:
        in_channels: channels of the images.
        depths: blocks of each stage; the first halves.
        width: channels of the second convolution; the paper's is 64.

    Shapes (any H, W; sides are rounded up at each halving; w = width):
        - features: ``(N, w/2, H/2, W/2)``, ``(N, w, H/4, W/4)``, ``(N, 4w, H/8, W/8)``,
          ``(N, 8w, H/16, W/16)``, ``(N, 16w, H/32, W/32)``.
    """

    strides = (2, 4, 8, 16, 32)

    def __init__(
        self, in_channels: int, depths: tuple[int, ...] = VARIANTS["stdc1"][0], width: int = 64
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        layers: list[nn.Module] = [ConvX(in_channels, width // 2, 3, 2)]
        layers.append(ConvX(width // 2, width, 3, 2))
        ends, channels, cin = [1, 2], [width // 2, width], width
        for i, depth in enumerate(depths):
            cout = 4 * width * 2**i
            layers.append(ShortTermConcat(cin, cout, stride=2))
            layers += [ShortTermConcat(cout, cout, stride=1) for _ in range(1, depth)]
            ends.append(len(layers))
            channels.append(cout)
            cin = cout
        self.features = nn.Sequential(*layers)
        self.ends, self.channels = tuple(ends), tuple(channels)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return both convolutions' outputs and each stage's."""
        outs, x = [], images
        for i, layer in enumerate(self.features, 1):
            x = layer(x)
            if i in self.ends:
                outs.append(x)
        return outs

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load the authors' ImageNet weights from a file, the stem adapted to the channels.

        Raises:
            InputError: no file was given; the authors publish theirs on cloud drives only.
            FileError: the file cannot be read, or holds another network.
        """
        if isinstance(source, bool):
            files = " or ".join(file for _, file in VARIANTS.values())
            raise InputError(
                "the ImageNet weights of STDC lie on its authors' cloud drives (links in the "
                f"README of github.com/MichaelFan01/STDC-Seg); fetch {files} from there and give "
                "it with pretrained=PATH"
            )
        held = chosen_tensors(self, read_tensors(Path(source)), source, "this STDC", "features.")
        stem = next(iter(held))
        held[stem] = adapt_stem(held[stem], self.in_channels)
        fill_trunk(self, held, source, "this STDC", same="width")


def _build(in_channels: int, output_stride: int, variant: str) -> STDC:
    if output_stride != 32:
        raise InputError(
            f"encoder {variant!r} cannot have output_stride {output_stride}; use 32, or a trunk "
            "whose strides can be dilated, e.g. 'resnet18'"
        )
    return STDC(in_channels, VARIANTS[variant][0])


for _variant in VARIANTS:
    ENCODERS.add(_variant, partial(_build, variant=_variant))
