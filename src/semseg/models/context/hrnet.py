r"""HRNetV2: features at four resolutions side by side, all of them joined at the finest.

Paper:
    Wang, Sun, Cheng, et al. "Deep High-Resolution Representation Learning for Visual Recognition."
    TPAMI 2020. arXiv:1908.07919, section 3 and figure 4 (b); before it Sun, Zhao, Jiang, et al.
    "High-Resolution Representations for Labeling Pixels and Regions." 2019. arXiv:1904.04514. What
    the text leaves open follows the authors' code, ``lib/models/seg_hrnet.py``.

Shapes (any H, W; w = width; sides are rounded up at each halving):
    images       (N, C, H, W)
    branches     (N, w, H/4, W/4), (N, 2w, H/8, W/8), (N, 4w, H/16, W/16), (N, 8w, H/32, W/32)
    joined       (N, 15w, H/4, W/4)   enlarged bilinearly, beside each other
    logits       (N, K, H/4, W/4)   1x1 to 15w, BatchNorm, ReLU, 1x1

Parameters:
    9,641,119 (W18), 29,546,515 (W32) and 65,859,379 (W48) at K = 19, as the authors' code has them;
    65,953,830 for W48 at K = 150.

Deviations:
    - BatchNorm has the momentum 0.1 of the authors' later code; the one of 2019 has 0.01.
    - Coarse features are enlarged between pixel centres, as in all of the authors' settings for
      this network; a note in their README says corner on corner, which is so in OCRNet.
    - The authors published results of W48; W18 and W32 are its smaller trunks with the same head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders.hrnet import BLOCKS, MODULES, HRNet
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm

INIT_STD = 0.001
"""Standard deviation of initial weights, as in the trunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HRNetConfig(ModelConfig):
    """Settings of :class:`HRNetV2`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    width: int = 48
    """Channels of the finest branch; each coarser one has twice as many."""

    modules: tuple[int, ...] = MODULES
    """Modules of the second, third and fourth stage; each ends with an exchange."""

    blocks: int = BLOCKS
    """Blocks of each branch of a module; W18-Small-v2 has 2, and 1, 3 and 2 modules."""


def trunk_of(config: HRNetConfig, align_corners: bool) -> HRNet:
    """Return the trunk that a config describes.

    Raises:
        InputError: a width or a number of blocks or modules below 1.
    """
    return HRNet(config.in_channels, config.width, config.modules, config.blocks, align_corners)


def join(features: list[Tensor], align_corners: bool) -> Tensor:
    """Enlarge features to the size of the first and return them beside each other."""
    first, *coarser = features
    size = first.shape[-2:]
    enlarged = (
        F.interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in coarser
    )
    return torch.cat([first, *enlarged], dim=1)


FACTS = {
    "paper": "arXiv:1908.07919",
    "year": 2019,
    "idea": "High resolution is kept from start to end, not recovered: branches of four "
    "resolutions run side by side and exchange what they see.",
    "repository": "https://github.com/HRNet/HRNet-Semantic-Segmentation",
    "paper_size": (512, 1024),
    "verified": "reference output",
    "small": {"width": 4, "modules": (1, 1, 1), "blocks": 1},
}
README = "README of HRNet-Semantic-Segmentation"


@register(
    "hrnet_w18",
    HRNetConfig(width=18),
    title="HRNetV2-W18",
    num_params=9_641_119,
    **FACTS,
)
@register(
    "hrnet_w32",
    HRNetConfig(width=32),
    title="HRNetV2-W32",
    num_params=29_546_515,
    **FACTS,
)
@register(
    "hrnet_w48",
    HRNetConfig(),
    title="HRNetV2-W48",
    num_params=65_859_379,
    published=(
        Published("Cityscapes val", 80.9, f"{README}: one scale"),
        Published("Cityscapes test", 81.9, f"{README}: trained on val too, OHEM, 6 scales, flip"),
        Published("PASCAL-Context val, 59 classes", 54.1, f"{README}: 7 scales, flip"),
        Published("ADE20K val", 43.1, f"{README}: OHEM, one scale"),
    ),
    **FACTS,
)
class HRNetV2(SegmentationModel):
    """HRNetV2 with its head for segmentation; see the module docstring.

    Raises:
        InputError: a width or a number of blocks or modules below 1.
    """

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__(config)
        self.encoder = trunk_of(config, self.align_corners)
        width = sum(self.encoder.channels)
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, config.num_classes, 1),
        )
        for part in self.head:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=INIT_STD)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/4, W/4)``.

        Raises:
            InputError: one image in training mode whose coarsest feature is a single pixel.
        """
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        return {"logits": self.head(join(self.encoder(images), self.align_corners))}
