r"""LRN: a coarse label map, refined scale by scale, each scale supervised with its own truth.

Paper:
    Islam, Naha, Rochan, Bruce, Wang. "Label Refinement Network for Coarse-to-Fine Semantic
    Segmentation." 2017. arXiv:1703.00551, sections 3 and 4. No code of the authors is public.

Shapes (any H, W; a pool rounds up; sizes at 360 x 480; w = width = 64):
    images       (N, C, 360, 480)
    encoder      (N, 8w, 12, 15)    VGG16's convolutions, each normalised, as in SegNet
    map5         (N, K, 12, 15)     3x3 on the deepest features
    map4         (N, K, 23, 30)     3x3 on the skip of encoder 5 beside map5 enlarged
    map3         (N, K, 45, 60)     encoder 4
    map2         (N, K, 90, 120)    encoder 3
    map1         (N, K, 180, 240)   encoder 2
    logits       (N, K, 360, 480)   encoder 1
    A skip is a 3x3 convolution to K channels, normalisation and ReLU, at its encoder's size.

Parameters:
    14,930,673 at K = 11 and 15,138,243 at K = 21: VGG16 with norms, K-channel skips with bias and
    norm, refinements of 2K to K channels with bias. The paper states no count.

Deviations:
    - The paper does not say how it enlarges maps or shrinks the truth: bilinear without aligned
      corners and the nearest pixel here.
    - The one public port strides its skips, crops its features and supervises the last map only;
      none of that is in the paper, whose six losses are its point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders.vgg import STAGES
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.encoder_decoder.segnet import Encoder
from semseg.nn.init import he_normal_


@dataclass(frozen=True, kw_only=True, slots=True)
class LRNConfig(ModelConfig):
    """Settings of :class:`LRN`."""

    width: int = 64
    """Channels of VGG16's first stage; all others are multiples of it."""


class Refinement(nn.Module):
    """One refinement module (paper, figure 3): a label map and finer features to a finer map."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.skip = nn.Sequential(
            nn.Conv2d(channels, num_classes, 3, padding=1), nn.BatchNorm2d(num_classes), nn.ReLU()
        )
        self.refine = nn.Conv2d(2 * num_classes, num_classes, 3, padding=1)

    def forward(self, coarse: Tensor, features: Tensor) -> Tensor:
        """Map ``(N, K, h, w)`` and ``(N, channels, H, W)`` to ``(N, K, H, W)``."""
        size = features.shape[-2:]
        coarse = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        finer: Tensor = self.refine(torch.cat([self.skip(features), coarse], 1))
        return finer


@register(
    "lrn",
    LRNConfig(num_classes=11),
    title="Label Refinement Network",
    paper="arXiv:1703.00551",
    year=2017,
    idea="What passes from scale to scale is a label map, not features, and each is supervised.",
    num_params=14_930_673,
    paper_size=(360, 480),
    published=(
        Published("CamVid test", 61.7, "paper, CamVid table"),
        Published("PASCAL VOC 2012 test", 64.2, "paper, VOC table"),
        Published("SUN RGB-D test", 33.1, "paper, SUN table; 37 classes, RGB"),
    ),
    verified="arithmetic",
    small={"width": 4},
)
class LRN(SegmentationModel):
    """Label refinement network over VGG16; see the module docstring."""

    aux_weights = {f"map{i}": 1.0 for i in range(1, len(STAGES) + 1)}  # noqa: RUF012

    def __init__(self, config: LRNConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.in_channels, config.width)
        widths = [config.width * factor for factor, _ in STAGES]
        self.coarsest = nn.Conv2d(widths[-1], config.num_classes, 3, padding=1)
        self.refinements = nn.ModuleList(
            Refinement(width, config.num_classes) for width in reversed(widths)
        )
        he_normal_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)`` and ``"map1"`` … ``"map5"``, each half the last."""
        x, pools = self.encoder(images)
        maps = [self.coarsest(x)]
        for refinement, (_, features) in zip(self.refinements, reversed(pools), strict=True):
            maps.append(refinement(maps[-1], features))
        if self.logits_only:
            return {"logits": maps[-1]}
        names = ["logits", *self.aux_weights]
        return dict(zip(names, reversed(maps), strict=True))

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return one term per map, against the truth shrunk to the map's size; all weigh 1."""
        labels = target.unsqueeze(1).double()  # interpolate takes no integers; double holds them
        terms = {}
        for name, logits in heads.items():
            # the middle pixel of each cell, which is where the map's value stands
            small = F.interpolate(labels, logits.shape[-2:], mode="nearest-exact")
            terms[name] = criterion(logits, small.squeeze(1).to(target.dtype))
        return terms
