"""ResNet-38 of "Wider or Deeper": few pre-activated units, up to 4096 channels wide.

Paper:
    Wu, Shen, van den Hengel. "Wider or Deeper: Revisiting the ResNet Model for Visual
    Recognition." 2016. arXiv:1611.10080, Table 1. Layers follow ``util/symbol/resnet_v2.py`` of
    the authors' MXNet code (https://github.com/itijyou/ademxapp).

Model A1 halves in the first convolution of a level. The model that InPlaceABN and GSCNN call A2
pools for its first two halvings; in it the first convolution of a dilated level is dilated like
the others, where A1 keeps the dilation of the level before.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders.base import ENCODERS, Encoder
from semseg.encoders.timm import adapt_stem
from semseg.encoders.weights import fill_trunk, read_tensors
from semseg.nn.init import he_normal_

LEVELS = (
    (3, (2, 2)),
    (3, (4, 4)),
    (6, (8, 8)),
    (3, (8, 16)),
    (1, (8, 16, 32)),
    (1, (16, 32, 64)),
)
"""Units of levels 2 to 7 and the channels of their convolutions, as multiples of the stem's."""

HALVINGS = 5
"""Levels 2 to 6 halve, as far as the output stride allows."""

DROPOUT = (0.3, 0.5)
"""Rates before the last convolution of the last two levels."""

EPS = 1.001e-5
"""Of every norm; the least that cuDNN took."""


class Unit(nn.Module):
    """BatchNorm, ReLU and convolution, two or three times, and the shortcut around them.

    Args:
        cin: channels of the input.
        widths: channels of the convolutions: two are 3x3, three are 1x1, 3x3 and 1x1.
        stride: of the first convolution and of the shortcut.
        dilations: of the first 3x3 convolution of two, and of the rest.
        dropout: rate before the last convolution.

    ``(N, cin, H, W) -> (N, widths[-1], H / stride, W / stride)``, rounded up. A shortcut that
    changes channels starts after the first ReLU; any other is the input itself.
    """

    def __init__(
        self,
        cin: int,
        widths: tuple[int, ...],
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        self.bn1 = nn.BatchNorm2d(cin, eps=EPS)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        sizes = zip((cin, *widths), widths, kernels, strict=False)
        for i, (before, after, kernel) in enumerate(sizes, 1):
            if i > 1:
                layers[f"bn{i}"] = nn.BatchNorm2d(before, eps=EPS)
                layers[f"relu{i}"] = nn.ReLU()
            if i == len(widths) and dropout:
                layers["dropout"] = nn.Dropout(dropout)
            dilation = dilations[i > 1] if kernel == 3 else 1
            layers[f"conv{i}"] = nn.Conv2d(
                before,
                after,
                kernel,
                stride if i == 1 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                bias=False,
            )
        self.convs = nn.Sequential(layers)
        self.proj_conv: nn.Conv2d | None = None
        if cin != widths[-1]:
            self.proj_conv = nn.Conv2d(cin, widths[-1], 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of branch and shortcut, not activated."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        out: Tensor = self.convs(activated) + shortcut
        return out


class WiderResNet38(Encoder):
    """ResNet-38; names of layers are those of the public PyTorch ports.

    Args:
        in_channels: channels of the images.
        output_stride: stride of the deepest feature: 8, 16 or 32.
        width: channels of the stem; the paper's is 64.
        pools: model A2 instead of A1.
        final_norm: whether the last feature is normalised and activated.

    Shapes (w = width, output_stride 8; sizes are rounded up):
        - images: ``(N, C, H, W)``.
        - features: ``(N, w, H, W)``, ``(N, 2w, H/2, W/2)``, ``(N, 4w, H/4, W/4)``, and at H/8
          ``8w``, ``16w``, ``32w`` and ``64w`` channels. All but the last are sums that the next
          unit normalises.
    """

    def __init__(
        self,
        in_channels: int = 3,
        output_stride: int = 8,
        width: int = 64,
        *,
        pools: bool = False,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.mod1 = nn.Sequential(OrderedDict(conv1=stem))
        self.pools = pools
        channels, strides, dilation = [width], [1], 1
        for number, (units, factors) in enumerate(LEVELS, 2):
            halves = number < 2 + HALVINGS
            stride = 2 if halves and strides[-1] < output_stride else 1
            before, dilation = dilation, dilation * (2 if halves and stride == 1 else 1)
            first = dilation if pools else before
            widths = tuple(width * factor for factor in factors)
            dropout = (0.0,) * 6 + DROPOUT
            pooled = pools and number < 4
            blocks: OrderedDict[str, nn.Module] = OrderedDict(
                block1=Unit(
                    channels[-1],
                    widths,
                    1 if pooled else stride,
                    (first, dilation),
                    dropout[number],
                )
            )
            for i in range(2, units + 1):
                blocks[f"block{i}"] = Unit(widths[-1], widths, 1, (dilation, dilation))
            setattr(self, f"mod{number}", nn.Sequential(blocks))
            channels.append(widths[-1])
            strides.append(strides[-1] * stride)
        self.bn_out = nn.BatchNorm2d(channels[-1], eps=EPS) if final_norm else None
        self.channels, self.strides = tuple(channels), tuple(strides)
        he_normal_(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the output of each level."""
        x = self.mod1(images)
        features = [x]
        for number in range(2, len(self.channels) + 1):
            if self.pools and number < 4:
                x = F.max_pool2d(x, 3, stride=2, padding=1)
            x = self.get_submodule(f"mod{number}")(x)
            features.append(x)
        if self.bn_out is not None:
            features[-1] = F.relu(self.bn_out(x))
        return features

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load weights of a public PyTorch port, its classifier left out.

        Args:
            source: a file of them; they are not fetched.

        Raises:
            InputError: no file was given.
            FileError: the file holds another network.
        """
        if isinstance(source, bool):
            raise InputError(
                "wider_resnet38 has no published weights that can be fetched; give a file of a "
                "PyTorch port (mod1.conv1.weight, …) with pretrained=PATH"
            )
        tensors = read_tensors(Path(source))
        # some ports wrap norm and activation, which puts a .0 after the norm's name
        named = {re.sub(r"(bn\d|bn_out)\.0\.", r"\1.", key): t for key, t in tensors.items()}
        own = self.state_dict()
        wanted = [key for key in own if not key.endswith("num_batches_tracked")]
        if missing := [key for key in wanted if key not in named]:
            raise FileError(
                f"{source} holds another network than wider_resnet38: {len(missing)} tensors are "
                f"missing (first: {missing[0]})"
            )
        held = {key: named[key] for key in wanted}
        held["mod1.conv1.weight"] = adapt_stem(held["mod1.conv1.weight"], self.in_channels)
        fill_trunk(self, held, source, "this wider_resnet38", same="width")


def _build(in_channels: int, output_stride: int, *, pools: bool) -> WiderResNet38:
    return WiderResNet38(in_channels, output_stride, pools=pools)


for _name, _pools in (("wider_resnet38", False), ("wider_resnet38_a2", True)):
    ENCODERS.add(_name, partial(_build, pools=_pools))
