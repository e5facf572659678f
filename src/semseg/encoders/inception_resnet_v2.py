"""Inception-ResNet-v2 at stride 8: padded everywhere, and its last two halvings dilated.

Paper:
    Szegedy, Ioffe, Vanhoucke, Alemi. "Inception-v4, Inception-ResNet and the Impact of Residual
    Connections on Learning." AAAI 2017. arXiv:1602.07261; layers and names as timm publishes it.

The published network has convolutions without padding, so that features lose pixels at the border
and do not lie on one grid. Here all are padded, as in TF-Slim with ``align_feature_maps``. It is
cut into three stages, and the last two take a function that applies a layer, so that a network
may compute them at some places only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import Preprocessing
from semseg.encoders.base import Encoder
from semseg.encoders.timm import TimmEncoder
from semseg.nn.init import he_normal_

PUBLISHED = "inception_resnet_v2.tf_in1k"
"""timm's name of the weights."""

WIDTH = 32
"""Channels of the first convolution, to which all numbers below belong."""

Kernel = int | tuple[int, int]

Plan = tuple[tuple[tuple[int, Kernel], ...], ...]
"""For each branch, channels and kernel of its convolutions."""

MIXED_5B: Plan = (((96, 1),), ((48, 1), (64, 5)), ((64, 1), (96, 3), (96, 3)))
BLOCK35: Plan = (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (48, 3), (64, 3)))
MIXED_6A: Plan = (((384, 3),), ((256, 1), (256, 3), (384, 3)))
BLOCK17: Plan = (((192, 1),), ((128, 1), (160, (1, 7)), (192, (7, 1))))
MIXED_7A: Plan = (((256, 1), (384, 3)), ((256, 1), (288, 3)), ((256, 1), (288, 3), (320, 3)))
BLOCK8: Plan = (((192, 1),), ((192, 1), (224, (1, 3)), (256, (3, 1))))

DEPTHS = (10, 20, 9)
"""Residual blocks of each stage; the last stage has one more, which is not activated."""


class Apply:
    """How a layer is applied: as it is, unless a network overrides this."""

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output for features that this stage computed."""
        out: Tensor = layer(x)
        return out

    def enter(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return the layer's output for features of the stage before."""
        return self(layer, x)


EVERYWHERE = Apply()


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; padded to keep the size at stride 1."""

    def __init__(
        self, cin: int, cout: int, kernel: Kernel, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (dilation * (sides[0] // 2), dilation * (sides[1] // 2))
        self.conv = nn.Conv2d(cin, cout, sides, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated features."""
        return self.finish(self.conv(x))

    def finish(self, x: Tensor) -> Tensor:
        """Normalise and activate what the convolution gave."""
        return F.relu(self.bn(x))


class Pool(nn.MaxPool2d):
    """3x3 max-pooling at stride 1 of activated features, zeros around them."""

    def __init__(self, dilation: int) -> None:
        super().__init__(3, 1, dilation=dilation)
        self.rate = dilation

    def forward(self, input: Tensor) -> Tensor:
        """Return the largest values around each place."""
        return F.max_pool2d(F.pad(input, (self.rate,) * 4), 3, 1, dilation=self.rate)


class Mixed(nn.Module):
    """Branches of convolutions, perhaps a pool with ``extra`` channels, concatenated."""

    def __init__(
        self,
        cin: int,
        plan: Plan,
        width: int,
        dilation: int = 1,
        pool: nn.Module | None = None,
        extra: int = 0,
    ) -> None:
        super().__init__()
        branches, self.channels = list[nn.Module](), extra
        for layers in plan:
            convs, before = [], cin
            for factor, kernel in layers:
                cout = factor * width // WIDTH
                convs.append(ConvNorm(before, cout, kernel, dilation=dilation))
                before = cout
            branches.append(convs[0] if len(convs) == 1 else nn.Sequential(*convs))
            self.channels += before
        branches += [] if pool is None else [pool]
        for i, branch in enumerate(branches):
            setattr(self, f"branch{i}", branch)
        self.count = len(branches)

    def forward(self, x: Tensor, apply: Apply = EVERYWHERE, *, entering: bool = True) -> Tensor:
        """Return the branches; ``entering`` says that ``x`` is from the stage before."""
        outs = []
        for i in range(self.count):
            branch = self.get_submodule(f"branch{i}")
            first, *rest = branch if isinstance(branch, nn.Sequential) else [branch]
            out = apply.enter(first, x) if entering else apply(first, x)
            for layer in rest:
                out = apply(layer, out)
            outs.append(out)
        return torch.cat(outs, dim=1)


class Residual(Mixed):
    """Input plus a scaled 1x1 convolution, with bias, of the branches; activated or not."""

    def __init__(
        self, cin: int, plan: Plan, width: int, dilation: int, scale: float, *, relu: bool = True
    ) -> None:
        super().__init__(cin, plan, width, dilation)
        self.conv2d = nn.Conv2d(self.channels, cin, 1)
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor, apply: Apply = EVERYWHERE, *, entering: bool = False) -> Tensor:
        """Return the sum; where nothing is applied, that is the input."""
        branches = super().forward(x, apply, entering=entering)
        out = x + self.scale * apply(self.conv2d, branches)
        return F.relu(out) if self.relu else out


class InceptionResNetV2(Encoder):
    """Inception-ResNet-v2 in three stages on one grid.

    ``width`` is of the first convolution, ``depths`` count the residual blocks of the stages.

    Shapes (width 32; sizes are rounded up):
        - images: ``(N, C, H, W)``.
        - features: ``(N, 320, H/8, W/8)``, ``(N, 1088, H/8, W/8)``, ``(N, 1536, H/8, W/8)``.
    """

    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(
        self, in_channels: int = 3, width: int = WIDTH, depths: tuple[int, int, int] = DEPTHS
    ) -> None:
        super().__init__()
        self.in_channels, self.width = in_channels, width
        c64, c80, c192, last = (n * width // WIDTH for n in (64, 80, 192, 1536))
        self.conv2d_1a = ConvNorm(in_channels, width, 3, stride=2)
        self.conv2d_2a = ConvNorm(width, width, 3)
        self.conv2d_2b = ConvNorm(width, c64, 3)
        self.conv2d_3b = ConvNorm(c64, c80, 1)
        self.conv2d_4a = ConvNorm(c80, c192, 3)
        average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        pooled = nn.Sequential(average, ConvNorm(c192, c64, 1))
        self.mixed_5b = Mixed(c192, MIXED_5B, width, 1, pooled, c64)
        a = self.mixed_5b.channels
        self.repeat = _repeat(depths[0], a, BLOCK35, width, 1, 0.17)
        self.mixed_6a = Mixed(a, MIXED_6A, width, 1, Pool(1), a)
        b = self.mixed_6a.channels
        self.repeat_1 = _repeat(depths[1], b, BLOCK17, width, 2, 0.10)
        self.mixed_7a = Mixed(b, MIXED_7A, width, 2, Pool(2), b)
        c = self.mixed_7a.channels
        self.repeat_2 = _repeat(depths[2], c, BLOCK8, width, 4, 0.20)
        self.block8 = Residual(c, BLOCK8, width, 4, 1.0, relu=False)
        self.conv2d_7b = ConvNorm(c, last, 1)
        self.channels, self.strides = (a, b, last), (8, 8, 8)
        he_normal_(self)

    def stage1(self, images: Tensor) -> Tensor:
        """Return the first stage's features of images."""
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.conv2d_4a(self.conv2d_3b(x))
        x = self.mixed_5b(F.max_pool2d(x, 3, stride=2, padding=1))
        out: Tensor = self.repeat(x)
        return out

    def stage2(self, x: Tensor, apply: Apply) -> Tensor:
        """Return the second stage's features of the first's."""
        x = self.mixed_6a(x, apply)
        for block in self.repeat_1:
            x = block(x, apply)
        return x

    def stage3(self, x: Tensor, apply: Apply) -> Tensor:
        """Return the third stage's features of the second's."""
        x = self.mixed_7a(x, apply)
        for block in (*self.repeat_2, self.block8):
            x = block(x, apply)
        return apply(self.conv2d_7b, x)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of the three stages, computed everywhere."""
        features = [self.stage1(images)]
        features.append(self.stage2(features[0], EVERYWHERE))
        return [*features, self.stage3(features[1], EVERYWHERE)]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load timm's weights; see :meth:`semseg.encoders.timm.TimmEncoder.load_pretrained`.

        Raises:
            FileError: they cannot be fetched or read, or are those of another network.
            InputError: this trunk does not have the published width and depths.
        """
        donor = TimmEncoder(PUBLISHED, self.in_channels)
        donor.load_pretrained(source)
        held: dict[str, Any] = donor.trunk.state_dict()
        own = self.state_dict()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in held.items()}:
            raise InputError(
                f"published Inception-ResNet-v2 weights have width {WIDTH} and depths {DEPTHS}; "
                "create the network so, or without pretrained"
            )
        self.load_state_dict(held)


def _repeat(
    depth: int, cin: int, plan: Plan, width: int, dilation: int, scale: float
) -> nn.Sequential:
    return nn.Sequential(*(Residual(cin, plan, width, dilation, scale) for _ in range(depth)))
