r"""FPN for segmentation: every level of a feature pyramid is brought to stride 4, and they add up.

Paper:
    Kirillov, Girshick, He, Dollár. "Panoptic Feature Pyramid Networks." CVPR 2019.
    arXiv:1901.02446, section 3 and figure 3; first shown in the authors' slides for the COCO
    stuff challenge of 2017. The pyramid is that of Lin et al., "Feature Pyramid Networks for Object
    Detection", CVPR 2017, arXiv:1612.03144. Details that both leave open follow ``FPN`` of
    segmentation_models_pytorch, whose outputs this network reproduces.

Shapes (H, W divisible by the trunk's largest stride, at least 32):
    images       (N, C,   H,    W)
    pyramid      (N, 256, H/32, W/32), … (N, 256, H/4, W/4)   1x1 of the trunk + doubled coarser
    branches     (N, 128, H/4,  W/4)   each; 3x3, GroupNorm, ReLU, doubled 3, 2, 1 and 0 times
    logits       (N, K,   H/4,  W/4)   1x1 on their sum

Parameters:
    26,118,613 over resnet50 at K = 21, as in segmentation_models_pytorch.

Deviations:
    - The pyramid has no 3x3 convolution after each sum; Lin et al. have one, of 256 channels.
    - The branches enlarge with aligned corners, and so are the logits; whole channels of the sum
      are dropped while training (rate 0.2). Both are the library's; the paper names neither.
    - New layers start as the library's do: He-uniform, the classifier Xavier-uniform. The paper
      states nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.encoders.base import Encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.init import toolbox_init_
from semseg.nn.norm import check_batch_norm

STRIDES = (32, 16, 8, 4)
"""Strides of the pyramid's levels, in the order they are built."""

DEPTH, BRANCH = 256, 128
"""Channels of the pyramid and of the branches (paper, section 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FPNConfig(ModelConfig):
    """Settings of :class:`FPN`."""

    encoder: str = "resnet50.tv_in1k"
    """Trunk with features at strides 4 to 32."""


@register(
    "fpn",
    FPNConfig(),
    title="FPN",
    paper="arXiv:1901.02446",
    year=2019,
    idea="A feature pyramid made for detection segments as well: each level is enlarged in steps "
    "to a quarter of the image, and the levels are added.",
    repository="https://github.com/facebookresearch/detectron2",
    num_params=26_118_613,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes val", 74.52, "mmsegmentation, configs/sem_fpn: ResNet-50"),
        Published("Cityscapes val", 75.80, "mmsegmentation, configs/sem_fpn: ResNet-101"),
    ),
    verified="reference output",
    small={"encoder": "test_resnet"},
)
class FPN(SegmentationModel):
    """Semantic branch of the panoptic FPN over any trunk; see the module docstring.

    Raises:
        InputError: the trunk lacks a feature at stride 4, 8, 16 or 32.
    """

    align_corners = True

    def __init__(self, config: FPNConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.multiple_of = max(self.encoder.strides)
        self.pyramid = Pyramid(self.encoder)
        self.branches = nn.ModuleList(Branch(doubles) for doubles in (3, 2, 1, 0))
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Conv2d(BRANCH, config.num_classes, 1)
        toolbox_init_(nn.ModuleList([self.pyramid, self.branches]), self.head)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` at stride 4."""
        check_batch_norm(type(self).__name__, images, max(self.encoder.strides), self.training)
        levels = self.pyramid(self.encoder(images))
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        brought = [
            branch(level, sizes[i + 1 :])
            for i, (branch, level) in enumerate(zip(self.branches, levels, strict=True))
        ]
        total = sum(brought[1:], start=brought[0])
        return {"logits": self.head(self.dropout(total))}


class Pyramid(nn.Module):
    """Features of a trunk to ``(N, 256, H/s, W/s)`` for s in :data:`STRIDES`."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.places = [encoder.index_of(stride) for stride in STRIDES]
        self.lateral = nn.ModuleList(
            nn.Conv2d(encoder.channels[place], DEPTH, 1) for place in self.places
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the levels, coarsest first."""
        levels: list[Tensor] = []
        for place, lateral in zip(self.places, self.lateral, strict=True):
            level = lateral(features[place])
            if levels:
                level = level + F.interpolate(levels[-1], level.shape[-2:], mode="nearest")
            levels.append(level)
        return levels


class Branch(nn.Module):
    """One level of the pyramid on its way to stride 4: ``(N, 256, h, w) -> (N, 128, H/4, W/4)``.

    Args:
        doubles: how often it is doubled, a convolution before each; one convolution if never.
    """

    def __init__(self, doubles: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            conv_gn_relu(DEPTH if i == 0 else BRANCH) for i in range(max(1, doubles))
        )

    def forward(self, x: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Return the level at the last of ``sizes``, those of all finer levels."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if i < len(sizes):
                x = enlarge(x, sizes[i])
        return x


def conv_gn_relu(cin: int) -> nn.Sequential:
    """3x3 without bias, GroupNorm of 32 groups, ReLU: ``(N, cin, H, W) -> (N, 128, H, W)``."""
    return nn.Sequential(
        nn.Conv2d(cin, BRANCH, 3, padding=1, bias=False),
        nn.GroupNorm(32, BRANCH),
        nn.ReLU(inplace=True),
    )


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``x`` at ``size``, bilinear with aligned corners."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)
