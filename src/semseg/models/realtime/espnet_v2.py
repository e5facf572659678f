r"""ESPNetv2: ESP modules of depth-wise dilated and grouped 1x1 convolutions, over a small decoder.

Paper:
    Mehta, Rastegari, Shapiro, Hajishirzi. "ESPNetv2: A Light-weight, Power Efficient, and General
    Purpose Convolutional Neural Network." CVPR 2019. arXiv:1811.11431. Layers follow the authors'
    ``segmentation/cnn/SegmentationModel.py`` and ``Model.py``.

Shapes (H, W divisible by 16; C image channels; b = 32 s, which is 48 at s = 1.5):
    images      (N, C,   H,    W)
    level 1     (N, b',  H/2,  W/2)    3x3 convolution; b' = b, at most 32
    level 2     (N, 2b,  H/4,  W/4)    halving unit
    level 3     (N, 4b,  H/8,  W/8)    halving unit, 3 units
    level 4     (N, 8b,  H/16, W/16)   halving unit, 7 units
    joined      (N, 8b,  H/8,  W/8)    level 3 and level 4, narrowed and enlarged
    pooled      (N, 4b,  H/8,  W/8)    one unit, then a pyramid of four poolings
    aux         (N, K,   H/8,  W/8)    1x1: scores that are enlarged and merged with level 2, then 1
    logits      (N, K,   H/2,  W/2)

Parameters:
    724,410 at K = 19 and s = 1.5; 99,110 at s = 0.5, 340,250 at 1.0, 514,394 at 1.25, 1,252,058 at
    2.0. The authors' code has 352 more (112, 224, 288, 480): the activations of its halving EESP
    units, which nothing uses. Their README states 725 K and 99 K, at K = 20.

Deviations:
    - The authors start from ImageNet weights; they are not read here. From scratch they saw little
      difference on Cityscapes (issue 69 of sacmehta/ESPNet).
    - This is the network of the paper's first version. The CVPR version's 66.2 (Cityscapes test)
      and 68.0 (PASCAL VOC test) come from a later decoder, in sacmehta/EdgeNets with s = 2.
    - The authors count "background" as a class (K = 20); here it is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime import espnet
from semseg.models.realtime.espnet import CITYSCAPES, shrink
from semseg.nn.norm import check_batch_norm

GROUPS = 4
"""Branches of a unit, and groups of its 1x1 convolutions."""

FINE = (1, 2, 3, 4)
"""Dilations of the branches down to 1/8, and of the unit that halves to 1/16."""

COARSE = (1, 1, 2, 3)
"""Dilations at 1/16 and in the decoder: no branch sees more than 7 pixels."""

UNITS = (3, 7)
"""Units at 1/8 and 1/16 after the halving one."""

norm_act = partial(espnet.norm_act, eps=1e-5)


def base_width(scale: float) -> int:
    """Return b: 32 times the scale, cut to a whole number and rounded up to a multiple of 4."""
    return math.ceil(int(32 * scale) / GROUPS) * GROUPS


@dataclass(frozen=True, kw_only=True, slots=True)
class ESPNetV2Config(ModelConfig):
    """Settings of :class:`ESPNetV2`."""

    scale: float = 1.5
    """The paper's s, by which widths grow: 0.5, 1.0, 1.25, 1.5 or 2.0."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        base = base_width(self.scale)
        if base not in (16, 32) and (base <= 32 or base % 8):
            raise InputError(
                f"ESPNetv2 takes a scale of 0.5, 1.0 or a larger multiple of 0.25, "
                f"got {self.scale}; other widths do not divide into its groups"
            )


def conv1x1(cin: int, cout: int, groups: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(cin, cout, 1, groups=groups, bias=False)


def double(x: Tensor) -> Tensor:
    """Return ``x`` at twice the height and width, corners on corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Pyramid(nn.Module):
    """Reduce, split, transform, merge: ``(N, cin, H, W) -> (N, cout, H, W)``, or half of it."""

    def __init__(self, cin: int, cout: int, dilations: tuple[int, ...], stride: int = 1) -> None:
        super().__init__()
        n = cout // GROUPS
        self.reduce = nn.Sequential(conv1x1(cin, n, GROUPS), *norm_act(n))
        self.branches = nn.ModuleList(
            nn.Conv2d(n, n, 3, stride, padding=d, dilation=d, groups=n, bias=False)
            for d in dilations
        )
        self.expand = nn.Sequential(
            *norm_act(cout), conv1x1(cout, cout, GROUPS), nn.BatchNorm2d(cout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches, each with all before it added, mixed in groups; not activated."""
        narrow = self.reduce(x)
        branches = accumulate(branch(narrow) for branch in self.branches)
        out: Tensor = self.expand(torch.cat(list(branches), dim=1))
        return out


class EESP(nn.Module):
    """A pyramid and its activation, with the input added where the channels are as many."""

    def __init__(self, cin: int, cout: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.residual = cin == cout
        self.pyramid = Pyramid(cin, cout, dilations)
        self.activation = nn.PReLU(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, cout, H, W)``."""
        out = self.pyramid(x)
        activated: Tensor = self.activation(out + x if self.residual else out)
        return activated


class Down(nn.Module):
    """Halving unit: ``(N, cin, H, W)`` and the image at half of that to ``(N, cout, H/2, W/2)``."""

    def __init__(self, cin: int, cout: int, in_channels: int) -> None:
        super().__init__()
        c = in_channels
        self.pyramid = Pyramid(cin, cout - cin, FINE, stride=2)
        self.reinforce = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False),
            *norm_act(c),
            conv1x1(c, cout),
            nn.BatchNorm2d(cout),
        )
        self.activation = nn.PReLU(cout)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Return averages beside the pyramid, and the image's features added to both."""
        out = torch.cat([shrink(x), self.pyramid(x)], dim=1)
        activated: Tensor = self.activation(out + self.reinforce(image))
        return activated


class Encoder(nn.Module):
    """Images to features at 1/2, 1/4, 1/8 and 1/16; :attr:`out_channels` are theirs."""

    def __init__(self, in_channels: int, scale: float) -> None:
        super().__init__()
        base = base_width(scale)
        self.out_channels = (min(base, 32), 2 * base, 4 * base, 8 * base)
        c1, c2, c3, c4 = self.out_channels
        stem = nn.Conv2d(in_channels, c1, 3, stride=2, padding=1, bias=False)
        self.level1 = nn.Sequential(stem, *norm_act(c1))
        self.down2 = Down(c1, c2, in_channels)
        self.down3 = Down(c2, c3, in_channels)
        self.level3 = nn.Sequential(*(EESP(c3, c3, FINE) for _ in range(UNITS[0])))
        self.down4 = Down(c3, c4, in_channels)
        self.level4 = nn.Sequential(*(EESP(c4, c4, COARSE) for _ in range(UNITS[1])))
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the features, the finest first."""
        quarter = shrink(shrink(images))
        eighth = shrink(quarter)
        level1 = self.level1(images)
        level2 = self.down2(level1, quarter)
        level3 = self.level3(self.down3(level2, eighth))
        level4 = self.level4(self.down4(level3, shrink(eighth)))
        return level1, level2, level3, level4


class PyramidPooling(nn.Module):
    """Features averaged one to four times, each filtered and enlarged: ``(N, C, H, W)`` again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.filters = nn.ModuleList(
            nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False) for _ in range(4)
        )
        self.project = nn.Sequential(conv1x1(5 * c, c), *norm_act(c))

    def forward(self, x: Tensor) -> Tensor:
        """Return all of them and the features themselves, mixed."""
        size = x.shape[-2:]
        parts = [x]
        for conv in self.filters:
            x = shrink(x)
            parts.append(F.interpolate(conv(x), size, mode="bilinear", align_corners=True))
        mixed: Tensor = self.project(torch.cat(parts, dim=1))
        return mixed


@register(
    "espnet_v2",
    ESPNetV2Config(num_classes=19),
    title="ESPNetv2",
    paper="arXiv:1811.11431",
    year=2018,
    idea="ESP modules become cheap enough to be deep: depth-wise dilated convolutions between "
    "grouped 1x1 ones.",
    repository="https://github.com/sacmehta/ESPNetv2",
    num_params=724_410,
    paper_size=(512, 1024),
    published=(
        Published("Cityscapes test", 62.1, "authors' README at bfa0560, beside ESPNet's 60.3"),
    ),
    preprocessing=CITYSCAPES,
    verified="reference output",
    small={"scale": 0.5},
)
class ESPNetV2(SegmentationModel):
    """ESPNetv2 for segmentation as the authors' code builds it; see the module docstring."""

    multiple_of = 16
    align_corners = True
    aux_weights = {"aux": 1.0}  # noqa: RUF012

    def __init__(self, config: ESPNetV2Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.in_channels, config.scale)
        c1, c2, c3, c4 = self.encoder.out_channels
        k = config.num_classes
        self.project4 = nn.Sequential(conv1x1(c4, c3), *norm_act(c3))
        self.context = nn.Sequential(EESP(2 * c3, c3, COARSE), PyramidPooling(c3))
        self.dropout = nn.Dropout2d(0.1 if config.scale <= 0.5 else 0.2)
        self.score3 = conv1x1(c3, k)
        self.norm_act3 = nn.Sequential(*norm_act(k))
        self.merge2 = nn.Sequential(conv1x1(c2 + k, k), *norm_act(k))
        self.merge1 = conv1x1(c1 + k, k)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/2, W/2)`` and ``"aux"`` ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, 16, self.training)
        level1, level2, level3, level4 = self.encoder(images)
        x = self.context(torch.cat([level3, double(self.project4(level4))], dim=1))
        aux = self.score3(self.dropout(x))
        x = self.merge2(torch.cat([level2, double(self.norm_act3(aux))], dim=1))
        logits = self.merge1(self.dropout(torch.cat([level1, double(x)], dim=1)))
        return {"logits": logits} if self.logits_only else {"logits": logits, "aux": aux}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return both terms; the coarse scores are doubled three times, not enlarged at once."""
        return super().loss({**heads, "aux": double(double(heads["aux"]))}, target, criterion)
