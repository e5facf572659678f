r"""DDRNet: a fine branch at an eighth of the resolution and a deep one exchange features twice.

Paper:
    Hong, Pan, Sun, Jia. "Deep Dual-resolution Networks for Real-time and Accurate Semantic
    Segmentation of Road Scenes." 2021. arXiv:2101.06085. Layers follow the authors' code,
    ``segmentation/DDRNet_23.py`` and ``DDRNet_23_slim.py``.

Shapes (H, W divisible by 8; w = width: 32 for slim, 64 for DDRNet-23; s_k: a k-th, rounded up):
    images     (N, C,   H,   W)
    stage 1    (N, w,   H/4, W/4)     two 3x3 with stride 2, two basic blocks
    stage 2    (N, 2w,  H/8, W/8)
    stage 3    fine (N, 2w, H/8, W/8), deep (N, 4w, s_16), then each takes the other's
    stage 4    fine (N, 2w, H/8, W/8), deep (N, 8w, s_32), then each takes the other's
    stage 5    fine (N, 4w, H/8, W/8), deep (N, 16w, s_64), one bottleneck each
    pyramid    (N, 4w,  s_64)         averages of four sizes on deep, one added to the next
    logits     (N, K,   H/8, W/8)     of fine + enlarged pyramid
    aux        (N, K,   H/8, W/8)     of stage 3's fine feature

Parameters:
    5,734,342 (slim) and 20,299,366 (23) at K = 19: 5,695,987 and 20,148,947 of the network that
    predicts, and 38,355 and 150,419 of the auxiliary head. The paper states 5.7 and 20.1 million.

Deviations:
    - The auxiliary head is always there; the authors' code builds it for training only.
    - Any size of image is taken; zeros fill it up to a multiple of 8.
    - The authors' ImageNet weights are not offered: they are files of a private drive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.fast_scnn import refuse_single_image

POOLS = ((5, 2), (9, 4), (17, 8))
"""Kernel and stride of the pyramid's averages, before the one of the whole image."""

enlarge = partial(F.interpolate, mode="bilinear", align_corners=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class DDRNetConfig(ModelConfig):
    """Settings of :class:`DDRNet`."""

    width: int = 64
    """Channels of the first stage."""

    pyramid_width: int = 128
    """Channels of each level of the pyramid."""

    head_width: int = 128
    """Channels before the classifiers."""


def conv_norm(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return convolution and norm, nothing after them."""
    conv = nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


def norm_relu_conv(cin: int, cout: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Return norm, ReLU and convolution, in this order."""
    conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU(inplace=True), conv)


def stem(cin: int, cout: int) -> nn.Sequential:
    """Two 3x3 convolutions with stride 2 and bias: ``(N, cin, H, W) -> (N, cout, H/4, W/4)``."""
    layers: list[nn.Module] = []
    for channels in (cin, cout):
        conv = nn.Conv2d(channels, cout, 3, stride=2, padding=1)
        layers += [conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Sum of a branch and its input, which is projected where the shapes differ."""

    def __init__(self, branch: nn.Module, cin: int, cout: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.branch = branch
        same = stride == 1 and cin == cout
        self.skip = nn.Identity() if same else conv_norm(cin, cout, 1, stride)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, rectified if so wanted."""
        out: Tensor = self.branch(x) + self.skip(x)
        return F.relu(out) if self.relu else out


def basic(cin: int, cout: int, stride: int = 1, relu: bool = False) -> Residual:
    """Return two 3x3 convolutions: ``(N, cin, H, W) -> (N, cout, H/s, W/s)``."""
    first, second = conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, 3)
    branch = nn.Sequential(*first, nn.ReLU(inplace=True), *second)
    return Residual(branch, cin, cout, stride, relu)


def bottleneck(cin: int, inner: int, stride: int = 1) -> Residual:
    """Return 1x1, 3x3, 1x1, never rectified: ``(N, cin, H, W) -> (N, 2 * inner, H/s, W/s)``."""
    branch = nn.Sequential(
        *conv_norm(cin, inner, 1),
        nn.ReLU(inplace=True),
        *conv_norm(inner, inner, 3, stride),
        nn.ReLU(inplace=True),
        *conv_norm(inner, 2 * inner, 1),
    )
    return Residual(branch, cin, 2 * inner, stride, relu=False)


def stage(cin: int, cout: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return basic blocks, the last of which is not rectified."""
    return nn.Sequential(
        *(
            basic(cout if i else cin, cout, 1 if i else stride, relu=i < blocks - 1)
            for i in range(blocks)
        )
    )


class Pools(nn.Module):
    """A feature and its averages at four sizes, each ``(N, cin, h, w) -> (N, width, h, w)``."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        averages: list[nn.Module] = [
            nn.AvgPool2d(kernel, step, padding=kernel // 2) for kernel, step in POOLS
        ]
        self.own = norm_relu_conv(cin, width, 1)
        self.levels = nn.ModuleList(
            nn.Sequential(average, *norm_relu_conv(cin, width, 1))
            for average in [*averages, nn.AdaptiveAvgPool2d(1)]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the feature itself and its averages, the finest first."""
        return self.own(x), [enlarge(level(x), x.shape[-2:]) for level in self.levels]


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: ``(N, cin, h, w) -> (N, cout, h, w)``."""

    def __init__(self, cin: int, width: int, cout: int) -> None:
        super().__init__()
        self.pools = Pools(cin, width)
        self.process = nn.ModuleList(norm_relu_conv(width, width, 3) for _ in self.pools.levels)
        self.join = norm_relu_conv(width * (1 + len(self.process)), cout, 1)
        self.skip = norm_relu_conv(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined levels, each of which saw all finer ones, and the feature."""
        own, pooled = self.pools(x)
        levels = [own]
        for average, process in zip(pooled, self.process, strict=True):
            levels.append(process(average + levels[-1]))
        out: Tensor = self.join(torch.cat(levels, dim=1)) + self.skip(x)
        return out


def classifier(cin: int, hidden: int, num_classes: int) -> nn.Sequential:
    """Return norm, ReLU, 3x3, norm, ReLU and 1x1 with bias: ``(N, cin, h, w)`` to scores."""
    return nn.Sequential(
        *norm_relu_conv(cin, hidden, 3),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, num_classes, 1),
    )


def he_fan_out_(network: nn.Module) -> None:
    """Draw every kernel from N(0, sqrt(2 / n)), n the outgoing nodes; biases stay PyTorch's."""
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


FACTS = {
    "paper": "arXiv:2101.06085",
    "year": 2021,
    "idea": "Two deep branches of different resolution add to each other, and averages that build "
    "on one another end the coarse one.",
    "repository": "https://github.com/ydhongHIT/DDRNet",
    "paper_size": (1024, 2048),
    "verified": "reference output",
    "small": {"width": 8, "pyramid_width": 8, "head_width": 8},
}


@register(
    "ddrnet_23_slim",
    DDRNetConfig(num_classes=19, width=32, head_width=64),
    title="DDRNet-23-slim",
    num_params=5_734_342,
    published=(
        Published("Cityscapes val", 77.8, "authors' README"),
        Published("Cityscapes test", 77.4, "authors' README"),
        Published("CamVid test", 74.7, "paper, abstract"),
    ),
    **FACTS,
)
@register(
    "ddrnet_23",
    DDRNetConfig(num_classes=19),
    title="DDRNet-23",
    num_params=20_299_366,
    published=(
        Published("Cityscapes val", 79.5, "authors' README"),
        Published("Cityscapes test", 79.4, "authors' README"),
    ),
    **FACTS,
)
class DDRNet(SegmentationModel):
    """Deep dual-resolution network; see the module docstring.

    Training mode needs at least two images per step.
    """

    multiple_of = 8
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4}

    def __init__(self, config: DDRNetConfig) -> None:
        super().__init__(config)
        w, fine = config.width, 2 * config.width
        self.stem = stem(config.in_channels, w)
        self.stage1 = stage(w, w, 2)
        self.stage2 = stage(w, 2 * w, 2, stride=2)
        self.deep3 = stage(2 * w, 4 * w, 2, stride=2)
        self.deep4 = stage(4 * w, 8 * w, 2, stride=2)
        self.deep5 = bottleneck(8 * w, 8 * w, stride=2)
        self.fine3 = stage(2 * w, fine, 2)
        self.fine4 = stage(fine, fine, 2)
        self.fine5 = bottleneck(fine, fine)
        self.up3 = conv_norm(4 * w, fine, 1)
        self.up4 = conv_norm(8 * w, fine, 1)
        self.down3 = conv_norm(fine, 4 * w, 3, stride=2)
        self.down4 = nn.Sequential(
            *conv_norm(fine, 4 * w, 3, stride=2),
            nn.ReLU(inplace=True),
            *conv_norm(4 * w, 8 * w, 3, stride=2),
        )
        self.pyramid = DAPPM(16 * w, config.pyramid_width, 4 * w)
        self.head = classifier(4 * w, config.head_width, config.num_classes)
        self.aux = classifier(fine, config.head_width, config.num_classes)
        he_fan_out_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, H/8, W/8)``.

        Raises:
            InputError: one image in training mode.
        """
        norm = self.pyramid.pools.levels[-1].get_submodule("1")
        refuse_single_image(type(self).__name__, images, norm)
        x = F.relu(self.stage2(F.relu(self.stage1(self.stem(images)))))
        size = x.shape[-2:]
        # sums leave unrectified what the other branch, the next stage and the head read
        fine, deep = self.fine3(x), self.deep3(x)
        finer = fine + enlarge(self.up3(F.relu(deep)), size)
        deep = F.relu(deep + self.down3(F.relu(fine)))
        fine, deep = self.fine4(F.relu(finer)), self.deep4(deep)
        finest = fine + enlarge(self.up4(F.relu(deep)), size)
        deep = F.relu(deep + self.down4(F.relu(fine)))
        context = self.pyramid(self.deep5(deep))
        logits = self.head(enlarge(context, size) + self.fine5(F.relu(finest)))
        return (
            {"logits": logits} if self.logits_only else {"logits": logits, "aux": self.aux(finer)}
        )
