r"""Light-Weight RefineNet: RefineNet's cascade of 1x1 convolutions, without residual units.

Paper:
    Nekrasov, Shen, Reid. "Light-Weight RefineNet for Real-Time Semantic Segmentation." BMVC 2018.
    arXiv:1810.03272, section 3; DrSleep/light-weight-refinenet is its first author's code.

Shapes (any H, W; sizes are rounded up; w = width, 256 in the paper):
    images       (N, C, H, W)
    over a ResNet:
    trunk        (N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16),
                 (N, 2048, H/32, W/32)
    blocks       (N, 2w, H/32, W/32), (N, w, H/16, W/16), (N, w, H/8, W/8), (N, w, H/4, W/4)
    over MobileNet-v2:
    trunk        (N, 24, H/4, W/4), (N, 32, H/8, W/8), (N, 64 | 96, H/16, W/16),
                 (N, 160 | 320, H/32, W/32)
    blocks       (N, w, H/32, W/32), (N, w, H/16, W/16), (N, w, H/8, W/8), (N, w, H/4, W/4)
    logits       (N, K, H/4, W/4)

Parameters:
    At K = 21 27,357,525 with ResNet-50, 46,349,653 with ResNet-101, 61,993,301 with ResNet-152
    and 3,284,565 with MobileNet-v2, the numbers in the tests of the authors' code.

Deviations:
    - New layers start from N(0, 0.01), as the README states for the paper; the released training
      code leaves PyTorch's default.
    - MobileNet-v2 expands in its first block too (a 1x1 convolution from 32 to 32 channels), as
      the authors' trunk; timm's published weights lack that layer, which then starts as identity.
    - The authors enlarge the output by cubic interpolation to evaluate, bilinearly to train.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import Encoder, build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.encoder_decoder.refinenet import (
    STRIDES,
    Cascade,
    ChainedPooling,
    hold_statistics,
    linear_conv,
)
from semseg.nn.init import gaussian_, he_normal_
from semseg.nn.norm import check_batch_norm

MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each stage (arXiv:1801.04381, Table 2)."""

STEM = 32
"""Channels of MobileNet-v2's first convolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LightWeightRefineNetConfig(ModelConfig):
    """Settings of :class:`LightWeightRefineNet`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 to 32."""

    width: int = 256
    """Channels of the blocks; the deepest one has twice as many."""

    freeze_norm: bool = False
    """Keep the statistics of the trunk's normalisation as loaded, as the authors' training does;
    needs pretrained weights."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        _check_width("LightWeightRefineNet", self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class MobileRefineNetConfig(ModelConfig):
    """Settings of :class:`MobileRefineNet`."""

    width: int = 256
    """Channels of the blocks."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        _check_width("MobileRefineNet", self.width)


def _check_width(owner: str, width: int) -> None:
    if width < 1:
        raise InputError(f"{owner} needs width >= 1, got {width}")


FACTS = {
    "paper": "arXiv:1810.03272",
    "year": 2018,
    "idea": "RefineNet keeps its accuracy when every 3x3 convolution of its decoder becomes 1x1 "
    "and the residual units go, with a fifth of the arithmetic.",
    "repository": "https://github.com/DrSleep/light-weight-refinenet",
    "paper_size": (512, 512),
    "verified": "reference output",
}
SMALL = {"encoder": "test_resnet", "width": 16}
README = "README of the authors' code, one scale"
VOC, NYU = "PASCAL VOC 2012 val", "NYUDv2 (40 classes)"


@register(
    "refinenet_lw_resnet50",
    LightWeightRefineNetConfig(),
    title="Light-Weight RefineNet (ResNet-50)",
    num_params=27_357_525,
    published=(
        Published("PASCAL VOC 2012 test", 81.1, "paper, abstract"),
        Published(VOC, 78.5, README),
        Published(NYU, 41.7, README),
    ),
    small=SMALL,
    **FACTS,
)
@register(
    "refinenet_lw_resnet101",
    LightWeightRefineNetConfig(encoder="resnet101.tv_in1k"),
    title="Light-Weight RefineNet (ResNet-101)",
    num_params=46_349_653,
    published=(Published(VOC, 80.3, README), Published(NYU, 43.6, README)),
    small=SMALL,
    **FACTS,
)
@register(
    "refinenet_lw_resnet152",
    LightWeightRefineNetConfig(encoder="resnet152.tv_in1k"),
    title="Light-Weight RefineNet (ResNet-152)",
    num_params=61_993_301,
    published=(
        Published("PASCAL VOC 2012 test", 82.7, "paper, abstract"),
        Published(VOC, 82.1, README),
        Published(NYU, 44.4, README),
    ),
    small=SMALL,
    **FACTS,
)
class LightWeightRefineNet(SegmentationModel):
    """RefineNet's cascade with 1x1 convolutions over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    def __init__(self, config: LightWeightRefineNetConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.freeze_norm = config.freeze_norm
        self.places = [self.encoder.index_of(stride) for stride in STRIDES]
        channels = [self.encoder.channels[i] for i in self.places]
        self.dropout = nn.Dropout(0.5)
        self.cascade = Cascade(channels, config.width, kernel=1, units=(0, 0))
        self.head = nn.Conv2d(config.width, config.num_classes, 3, padding=1)
        for new in (self.cascade, self.head):
            gaussian_(new, std=0.01)

    def train(self, mode: bool = True) -> LightWeightRefineNet:
        """Set the mode; frozen normalisation keeps its statistics."""
        super().train(mode)
        if self.freeze_norm:
            hold_statistics(self.encoder)
        return self

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image of at most 32 pixels a side in training, with free normalisation.
        """
        free = self.training and not self.freeze_norm
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), free)
        features = self.encoder(images)
        deepest, deep, *finer = (features[i] for i in self.places)
        # unlike RefineNet, no dropout before the classifier
        x = self.cascade([self.dropout(deepest), self.dropout(deep), *finer])
        return {"logits": self.head(x)}


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 of each, 1x1 back without activation; a shortcut where it fits.

    ``(N, cin, H, W) -> (N, cout, H / stride, W / stride)``, rounded up.
    """

    def __init__(self, cin: int, cout: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = cin * expansion
        self.shortcut = cin == cout and stride == 1
        self.expand = conv_bn(cin, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out: Tensor = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        out = self.project(out)
        return x + out if self.shortcut else out


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias and its BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    )


class MobileNetV2(Encoder):
    """MobileNet-v2 without classifier, that gives every stage from stride 4 on.

    Two stages each have the strides 16 and 32, which common trunks reduce to one.
    """

    channels = tuple(stage[1] for stage in MOBILENET_V2[1:])
    strides = (4, 8, 16, 16, 32, 32)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = conv_bn(in_channels, STEM, 3, stride=2)
        stages, cin = [], STEM
        for expansion, cout, depth, stride in MOBILENET_V2:
            blocks = [InvertedResidual(cin, cout, expansion, stride)]
            blocks += [InvertedResidual(cout, cout, expansion, 1) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
            cin = cout
        self.stages = nn.ModuleList(stages)
        he_normal_(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the stages of ``(N, C, H, W)`` images from the second on."""
        x, features = F.relu6(self.stem(images)), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]

    def load_pretrained(self, source: bool | str | Path = True) -> None:
        """Load timm's ``mobilenetv2_100.ra_in1k``; the first expansion becomes the identity.

        Args:
            source: ``True`` for the published place, or a local file of the same weights.

        Raises:
            FileError: the weights cannot be had or read, or are those of another network.
        """
        donor = build_encoder("mobilenetv2_100.ra_in1k", self.in_channels, pretrained=source)
        extra = "stages.0.0.expand."
        own = [key for key in self.state_dict() if not key.startswith(extra)]
        values = donor.state_dict().values()  # both register their layers in order of computation
        loaded = self.load_state_dict(dict(zip(own, values, strict=True)), strict=False)
        assert all(key.startswith(extra) for key in loaded.missing_keys)
        conv, norm = self.get_submodule(extra[:-1]).children()
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        norm.reset_parameters()
        with torch.no_grad():
            conv.weight.copy_(torch.eye(STEM)[:, :, None, None])
            norm.weight.fill_((1 + norm.eps) ** 0.5)  # running variance is 1


@register(
    "refinenet_lw_mobilenet_v2",
    MobileRefineNetConfig(),
    title="Light-Weight RefineNet (MobileNet-v2)",
    num_params=3_284_565,
    published=(
        Published("PASCAL VOC 2012 test", 79.2, "paper, abstract"),
        Published(VOC, 76.2, README),
    ),
    small={"width": 16},
    **FACTS,
)
class MobileRefineNet(SegmentationModel):
    """Light-weight cascade over MobileNet-v2; see the module docstring.

    Features of the same stride are reduced to ``width`` channels and summed, with the enlarged
    coarser result, before ReLU6 and chained pooling. There is no dropout.
    """

    def __init__(self, config: MobileRefineNetConfig) -> None:
        super().__init__(config)
        width = config.width
        self.encoder = MobileNetV2(config.in_channels)
        self.reduce = nn.ModuleList(linear_conv(c, width, 1) for c in self.encoder.channels)
        self.pooling = nn.ModuleList(ChainedPooling(width, kernel=1) for _ in STRIDES)
        self.fuse_below = nn.ModuleList(linear_conv(width, width, 1) for _ in STRIDES[1:])
        self.head = nn.Conv2d(width, config.num_classes, 3, padding=1)
        for new in (self.reduce, self.pooling, self.fuse_below, self.head):
            gaussian_(new, std=0.01)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4.

        Raises:
            InputError: one image of at most 32 pixels a side in training.
        """
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        features = self.encoder(images)
        x = [reduce(feature) for reduce, feature in zip(self.reduce, features, strict=True)]
        levels = [x[4] + x[5], x[2] + x[3], x[1], x[0]]  # deepest first
        below = self.pooling[0](F.relu6(levels[0]))
        for level, fuse, pooling in zip(levels[1:], self.fuse_below, self.pooling[1:], strict=True):
            size = level.shape[-2:]
            below = F.interpolate(fuse(below), size, mode="bilinear", align_corners=True)
            below = pooling(F.relu6(level + below))
        return {"logits": self.head(below)}
