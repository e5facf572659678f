r"""BiSeNet V2: a wide shallow branch and a narrow deep one, each gating the other where they meet.

Paper:
    Yu, Gao, Wang, Yu, Shen, Sang. "BiSeNet V2: Bilateral Network with Guided Aggregation for
    Real-time Semantic Segmentation." IJCV 2021. arXiv:2004.02147. The authors published no code;
    what the text leaves open follows ``lib/models/bisenetv2.py`` of
    https://github.com/CoinCheung/BiSeNet.

Shapes (H, W divisible by 32):
    images        (N, C,   H,    W)
    detail        (N, 64,  H/2,  W/2), (N, 64, H/4, W/4), (N, 128, H/8, W/8)
    stem          (N, 16,  H/4,  W/4)
    stage 3, 4    (N, 32,  H/8,  W/8), (N, 64, H/16, W/16)
    stage 5       (N, 128, H/32, W/32)   four blocks, then the context embedding
    aggregation   (N, 128, H/8,  W/8)    detail gated by stage 5, and the other way round
    logits        (N, K,   H/8,  W/8)
    aux2 … aux5   (N, K,   H/2,  W/2), (N, K, H/4, W/4), (N, K, H/8, W/8), (N, K, H/16, W/16)
                  from stem, stage 3, stage 4 and stage 5 before the embedding

Parameters:
    5,231,487 at K = 19: 519,232 of the detail branch, 1,159,504 of the semantic branch, 478,720
    of the aggregation, 1,201,171 of the head and 1,872,860 of the four auxiliary heads, without
    which 3,358,627 are left. Counted from the reference code; the paper states none.

Deviations:
    From the paper; all but the last are that reference's.

    - ReLU follows the depthwise expansion of each gather-and-expansion block and the aggregation;
      norm and ReLU follow the last convolution of the context embedding. The paper's figures show
      none of them.
    - The aggregation enlarges to the nearest neighbour; other ports enlarge bilinearly.
    - An auxiliary head doubles its features and has one more 3x3 convolution, to the square of
      its stride as channels; the paper's are built as the main head.
    - The last norm of each gather-and-expansion block starts with the scale 0.
    - The reference starts both branches from ImageNet weights of its own; the paper trains from
      scratch, and so does this.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.bisenet import check_pooled_norm, halving, pooled
from semseg.nn.conv import conv_bn_relu

EXPANSION = 6
"""Channels inside a gather-and-expansion block, as a multiple of its input's."""

STEM, SEMANTIC = 16, (32, 64, 128)
"""Channels of the semantic branch: of its stem and of its stages."""

DEPTHS = (2, 2, 4)
"""Gather-and-expansion blocks of each stage; the first halves."""

DETAIL = ((64, 2), (64, 3), (128, 3))
"""Channels and convolutions of the detail branch's stages."""

WIDTH = 128
"""Channels that both branches end with."""

AUX_WIDTH = 128
"""Channels of an auxiliary head's first convolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BiSeNetV2Config(ModelConfig):
    """Settings of :class:`BiSeNetV2`."""

    head_width: int = 1024
    """Channels before the classifier, the paper's C_t."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.head_width < 1:
            raise InputError(f"BiSeNetV2 needs head_width >= 1, got {self.head_width}")


class DetailBranch(nn.Sequential):
    """Eight 3x3 convolutions, three of them halving: ``(N, C, H, W) -> (N, 128, H/8, W/8)``."""

    def __init__(self, in_channels: int) -> None:
        stages, cin = [], in_channels
        for width, convs in DETAIL:
            rest = (conv_bn_relu(width, width, 3) for _ in range(1, convs))
            stages.append(nn.Sequential(halving(cin, width, 3), *rest))
            cin = width
        super().__init__(*stages)


class Stem(nn.Module):
    """Strided convolution, then convolutions beside a pooling: ``(N, 16, H/4, W/4)``."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = halving(in_channels, STEM, 3)
        self.left = nn.Sequential(conv_bn_relu(STEM, STEM // 2, 1), halving(STEM // 2, STEM, 3))
        self.fuse = conv_bn_relu(2 * STEM, STEM, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of ``(N, C, H, W)`` images."""
        x = self.conv(images)
        right = F.max_pool2d(x, 3, stride=2, padding=1)
        out: Tensor = self.fuse(torch.cat([self.left(x), right], dim=1))
        return out


def conv_bn(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and its norm."""
    padding = kernel // 2
    return [
        nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]


class GatherExpand(nn.Module):
    """3x3, six times as many channels by depthwise 3x3, 1x1 back, and the shortcut around.

    A halving block expands with stride 2, has one more depthwise 3x3, and a separable convolution
    as shortcut. ``(N, cin, h, w) -> (N, cout, h / stride, w / stride)``.
    """

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        inner = EXPANSION * cin
        middle = conv_bn(cin, inner, 3, stride, groups=cin)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            middle += conv_bn(inner, inner, 3, groups=inner)
            separable = conv_bn(cin, cin, 3, stride, groups=cin)
            self.shortcut = nn.Sequential(*separable, *conv_bn(cin, cout, 1))
        self.branch = nn.Sequential(
            conv_bn_relu(cin, cin, 3), *middle, nn.ReLU(inplace=True), *conv_bn(inner, cout, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of shortcut and branch."""
        return F.relu(self.branch(x) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """Adds the mean of the image to every position: ``(N, 128, h, w) -> (N, 128, h, w)``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(WIDTH)
        self.mean = conv_bn_relu(WIDTH, WIDTH, 1)
        self.conv = conv_bn_relu(WIDTH, WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded features."""
        out: Tensor = self.conv(x + self.mean(self.norm(pooled(x))))
        return out


class SemanticBranch(nn.Module):
    """Stem, three stages, context embedding."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = Stem(in_channels)
        stages, cin = [], STEM
        for depth, width in zip(DEPTHS, SEMANTIC, strict=True):
            rest = (GatherExpand(width, width) for _ in range(1, depth))
            stages.append(nn.Sequential(GatherExpand(cin, width, stride=2), *rest))
            cin = width
        self.stages = nn.ModuleList(stages)
        self.embedding = ContextEmbedding()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return stem, stages 3 to 5, and the embedded stage 5."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return [*features, self.embedding(features[-1])]


class GuidedAggregation(nn.Module):
    """Each branch gated by the other, at the resolution of the other's gate, then summed.

    ``(N, 128, h, w)`` details and ``(N, 128, h/4, w/4)`` semantics to ``(N, 128, h, w)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.detail_fine = self._separable()
        self.detail_coarse = nn.Sequential(
            *conv_bn(WIDTH, WIDTH, 3, stride=2), nn.AvgPool2d(3, stride=2, padding=1)
        )
        self.semantic_fine = nn.Sequential(*conv_bn(WIDTH, WIDTH, 3))
        self.semantic_coarse = self._separable()
        self.conv = conv_bn_relu(WIDTH, WIDTH, 3)

    @staticmethod
    def _separable() -> nn.Sequential:
        last = nn.Conv2d(WIDTH, WIDTH, 1, bias=False)
        return nn.Sequential(*conv_bn(WIDTH, WIDTH, 3, groups=WIDTH), last)

    def forward(self, details: Tensor, semantics: Tensor) -> Tensor:
        """Return the aggregated features."""
        gate = F.interpolate(self.semantic_fine(semantics), scale_factor=4.0)  # nearest
        fine = self.detail_fine(details) * gate.sigmoid()
        coarse = self.detail_coarse(details) * self.semantic_coarse(semantics).sigmoid()
        out: Tensor = self.conv(fine + F.interpolate(coarse, scale_factor=4.0))
        return out


def aux_head(cin: int, stride: int, num_classes: int) -> nn.Sequential:
    """Head on features at ``stride``: ``(N, cin, h, w) -> (N, K, 2h, 2w)``."""
    return nn.Sequential(
        conv_bn_relu(cin, AUX_WIDTH, 3),
        nn.Dropout(0.1),
        nn.Upsample(scale_factor=2.0),  # nearest
        conv_bn_relu(AUX_WIDTH, stride * stride, 3),
        nn.Conv2d(stride * stride, num_classes, 1),
    )


@register(
    "bisenet_v2",
    BiSeNetV2Config(num_classes=19),
    title="BiSeNet V2",
    paper="arXiv:2004.02147",
    year=2020,
    idea="A wide shallow branch keeps details, a narrow deep one finds the context, each gates the "
    "other, and heads on every stage help in training only.",
    num_params=5_231_487,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes val", 73.4, "paper, Cityscapes table; 512 x 1024, 156 fps"),
        Published("Cityscapes test", 72.6, "paper, abstract; 512 x 1024"),
        Published("Cityscapes val", 74.95, "CoinCheung/BiSeNet README: whole images, single scale"),
    ),
    verified="reference output",
    small={"head_width": 32},
)
class BiSeNetV2(SegmentationModel):
    """BiSeNet V2; see the module docstring.

    Training mode needs at least two images per step: pooling leaves one value per channel and
    image, and BatchNorm cannot normalise a single value.
    """

    multiple_of = 32
    aux_weights = {f"aux{i}": 1.0 for i in range(2, 6)}  # noqa: RUF012

    def __init__(self, config: BiSeNetV2Config) -> None:
        super().__init__(config)
        classes = config.num_classes
        self.detail = DetailBranch(config.in_channels)
        self.semantic = SemanticBranch(config.in_channels)
        self.aggregation = GuidedAggregation()
        self.head = nn.Sequential(
            conv_bn_relu(WIDTH, config.head_width, 3),
            nn.Dropout(0.1),
            nn.Conv2d(config.head_width, classes, 1),
        )
        self.aux = nn.ModuleList(
            aux_head(cin, 4 * 2**i, classes) for i, cin in enumerate((STEM, *SEMANTIC))
        )
        self._init()

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 8, and ``"aux2"`` to ``"aux5"`` at strides 2 to 16.

        Raises:
            InputError: one image in training mode.
        """
        check_pooled_norm(type(self).__name__, self.semantic.embedding.norm, images)
        *features, context = self.semantic(images)
        logits = self.head(self.aggregation(self.detail(images), context))
        if self.logits_only:
            return {"logits": logits}
        aux = (head(x) for head, x in zip(self.aux, features, strict=True))
        return {"logits": logits} | dict(zip(self.aux_weights, aux, strict=True))

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, GatherExpand):
                last = module.branch[-1]
                assert isinstance(last, nn.BatchNorm2d)
                nn.init.zeros_(last.weight)  # the block starts as its shortcut
