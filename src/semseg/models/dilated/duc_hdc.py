r"""DUC and HDC: each score map holds a square of pixels, and dilations have no common factor.

Paper:
    Wang, Chen, Yuan, Liu, Huang, Hou, Cottrell. "Understanding Convolution for Semantic
    Segmentation." WACV 2018. arXiv:1702.08502. Layers follow the authors' MXNet symbols
    ``network_duc_hdc.py`` and ``resnet.py``.

Shapes (H, W divisible by 8; c = cell, the pixels to a side that one score stands for):
    images       (N, C, H, W)
    stem         (N, 128, H/2, W/2)          three 3x3 convolutions, 64, 64, 128 channels
    pool         (N, 128, H/4 - 1, W/4 - 1)  3x3 max, stride 2, not padded
    res2         (N, 256, H/4 - 1, W/4 - 1)
    res3         (N, 512, H/8, W/8)
    res4         (N, 1024, H/8, W/8)         23 units, dilations 2 2 5 9, four times 1 2 5 9, 1 2 5
    res5         (N, 2048, H/8, W/8)         dilations 5, 9, 17
    duc          (N, K (8/c)^2, H/8, W/8)    sum of four 3x3, dilations 6, 12, 18, 24
    logits       (N, K, H/c, W/c)            its channels laid out as pixels

Parameters:
    65,038,464 at K = 19 and c = 2, the authors' released setting: 42,623,936 of the trunk and
    22,414,528 of the four classifiers; 132,282,048 at c = 1, the paper's plain DUC. Both counted
    from the authors' symbols.

Deviations:
    - The authors average probabilities when they enlarge and fuse scales; here scores are enlarged,
      as in every network of this library.
    - They keep the norms' statistics as loaded from ImageNet (``freeze_norm``); this needs
      weights, and their trunk's cannot be fetched. ``encoder="resnet101.tv_in1k"`` is a trunk with
      weights; it halves in its 3x3 convolutions, has a 7x7 stem, and gets the same dilations.
    - The text gives the second unit of res4 the dilation 1, the code 2; the code is followed.
    - Images are normalised as ImageNet's; the authors' are RGB in 0..255 without the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.encoders.dilation import resnet_stages, set_rates
from semseg.encoders.resnet_caffe import Bottleneck
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register

STRIDE = 8
"""Stride of the trunk's deepest feature."""

ASPP_RATES = (6, 12, 18, 24)
"""Dilations of the summed classifiers."""

RES4 = (2, 2, 5, 9, *(1, 2, 5, 9) * 4, 1, 2, 5)
RES5 = (5, 9, 17)
"""Dilations of each unit's 3x3: the paper's "dilation-bigger", as released."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DUCHDCConfig(ModelConfig):
    """Settings of :class:`DUCHDC`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    cell: int = 2
    """Pixels to a side that one score stands for: 1, 2, 4 or 8, which has no dense upsampling."""

    res4_rates: tuple[int, ...] = RES4
    """Dilation of each unit of res4; their number decides the depth of the authors' trunk."""

    res5_rates: tuple[int, ...] = RES5
    """The same of res5."""

    freeze_norm: bool = False
    """Keep the norms' statistics as loaded, as the authors do; needs pretrained weights."""

    encoder: str | None = None
    """ResNet that can be dilated to stride 8; the authors' own if there is none."""

    width: int = 64
    """Channels of the authors' stem."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.cell not in (1, 2, 4, 8):
            raise InputError(f"DUCHDC has cell 1, 2, 4 or 8, got {self.cell}")
        for name in ("res4_rates", "res5_rates"):
            rates = getattr(self, name)
            if not rates or min(rates) < 1:
                raise InputError(f"{name} are dilations of at least 1, one per unit; got {rates}")


class HybridResNet(Encoder):
    """The authors' ResNet: three 3x3 convolutions as stem, halving in a unit's first 1x1.

    Args:
        in_channels: channels of the images.
        width: w, channels of the stem.
        res4_rates: dilation of each unit of res4.
        res5_rates: the same of res5.

    ``(N, C, H, W) -> (N, 8w, H/8, W/8), (N, 16w, H/8, W/8), (N, 32w, H/8, W/8)``.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        res4_rates: tuple[int, ...],
        res5_rates: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_bn_relu(in_channels, width, stride=2),
            *_conv_bn_relu(width, width),
            *_conv_bn_relu(width, 2 * width),
            nn.MaxPool2d(3, stride=2),
        )
        self.layer1 = _stage(2 * width, width, (1,) * 3)
        self.layer2 = _stage(4 * width, 2 * width, (1,) * 4, stride=2)
        self.layer3 = _stage(8 * width, 4 * width, res4_rates)
        self.layer4 = _stage(16 * width, 8 * width, res5_rates)
        self.channels, self.strides = (8 * width, 16 * width, 32 * width), (STRIDE,) * 3
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-6
                module.momentum = 1 - 0.9995

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return res3, res4 and res5, all at stride 8."""
        res3 = self.layer2(self.layer1(self.stem(images)))
        res4 = self.layer3(res3)
        return [res3, res4, self.layer4(res4)]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Refuse: this trunk's weights exist in MXNet's format alone.

        Raises:
            InputError: always.
        """
        raise InputError(
            "DUCHDC's own ResNet has no trunk with published weights; choose one of timm, e.g. "
            "encoder='resnet101', or give weights of the whole network with semseg.load"
        )


class DenseUpsampling(nn.Module):
    """Dilated classifiers, summed, whose channels are the pixels of one cell of the feature.

    Args:
        cin: channels of the feature.
        num_classes: K.
        factor: f, how much larger the scores are than the feature.

    ``(N, cin, h, w) -> (N, K, f h, f w)``. Channel ``(k f + i) f + j`` is class k at row i and
    column j of its cell.
    """

    def __init__(self, cin: int, num_classes: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.branches = nn.ModuleList(
            nn.Conv2d(cin, num_classes * factor**2, 3, padding=rate, dilation=rate)
            for rate in ASPP_RATES
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        summed = torch.stack([branch(x) for branch in self.branches]).sum(0)
        return F.pixel_shuffle(summed, self.factor)


@register(
    "duc_hdc_resnet101",
    DUCHDCConfig(),
    title="DUC and HDC (ResNet-101)",
    paper="arXiv:1702.08502",
    year=2017,
    idea="A convolution predicts all pixels of a cell at once instead of enlarging, and dilations "
    "without a common factor leave no holes in what a pixel sees.",
    repository="https://github.com/TuSimple/TuSimple-DUC",
    num_params=65_038_464,
    paper_size=(800, 800),
    published=(
        Published("Cityscapes test", 79.1, "authors' README: one scale; fine and coarse labels"),
        Published("Cityscapes test", 80.1, "authors' README and abstract: several scales"),
    ),
    verified="reference output",
    small={"width": 4, "res4_rates": (2, 5), "res5_rates": (5,)},
)
class DUCHDC(SegmentationModel):
    """Dense upsampling over hybrid dilation; see the module docstring.

    Raises:
        InputError: ``encoder`` is no ResNet.
    """

    multiple_of = STRIDE

    def __init__(self, config: DUCHDCConfig) -> None:
        super().__init__(config)
        self.cell = config.cell
        self.encoder = build_trunk(config)
        self.duc = DenseUpsampling(
            self.encoder.channels[-1], config.num_classes, STRIDE // config.cell
        )
        norms = [m for m in self.encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        self.frozen = norms if config.freeze_norm else []
        fresh = self.duc if config.encoder is not None else self
        for conv in fresh.modules():
            if isinstance(conv, nn.Conv2d):
                _mxnet_xavier_(conv)

    def train(self, mode: bool = True) -> DUCHDC:
        """Set the mode; frozen norms keep their statistics, their scales are still trained."""
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/cell, W/cell)``."""
        return {"logits": self.duc(self.encoder(images)[-1])}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the term of the scores, each compared with the first pixel of its cell.

        The authors' loader takes every ``cell``-th label; nothing is enlarged in training.
        """
        labels = target[:, :: self.cell, :: self.cell]
        height, width = labels.shape[-2:]
        return {"logits": criterion(heads["logits"][..., :height, :width], labels)}


def build_trunk(config: DUCHDCConfig) -> Encoder:
    """Return the trunk at stride 8 with its dilations."""
    if config.encoder is None:
        return HybridResNet(config.in_channels, config.width, config.res4_rates, config.res5_rates)
    encoder = build_encoder(config.encoder, config.in_channels, STRIDE)
    stages = resnet_stages(encoder)
    if stages is None:
        raise InputError(
            f"duc_hdc sets the dilation of a ResNet's last units, and {config.encoder!r} is none; "
            "choose a ResNet"
        )
    for stage, rates in zip(stages, (config.res4_rates, config.res5_rates), strict=True):
        set_rates(stage, rates)
    return encoder


def _conv_bn_relu(cin: int, cout: int, stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False)
    return conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True)


def _stage(cin: int, width: int, rates: tuple[int, ...], stride: int = 1) -> nn.Sequential:
    """Return units of bottlenecks, one per rate: ``(N, cin, h, w) -> (N, 4 width, …)``."""
    first, *others = rates
    units = [Bottleneck(cin, width, stride, first)]
    units += [Bottleneck(4 * width, width, dilation=rate) for rate in others]
    return nn.Sequential(*units)


def _mxnet_xavier_(conv: nn.Conv2d) -> None:
    """Start as the authors' ``Xavier(factor_type="in", magnitude=2.34)``: uniform, bias zero."""
    bound = (2.34 / conv.weight[0].numel()) ** 0.5
    nn.init.uniform_(conv.weight, -bound, bound)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
