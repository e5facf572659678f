r"""DRN: a residual network whose own dilation keeps an eighth of the resolution, and a 1x1 on it.

Paper:
    Yu, Koltun, Funkhouser. "Dilated Residual Networks." CVPR 2017. arXiv:1705.09914. Layers follow
    the authors' ``drn.py`` and ``segment.py``.

Shapes (any H, W; sides are rounded up at each halving; widths of basic blocks and of C and D):
    images        (N, C, H, W)
    level 1       (N, 16, H, W)      after a 7x7 without stride
    level 2       (N, 32, H/2, W/2)
    level 3, 4    (N, 64, H/4, W/4), (N, 128, H/8, W/8)   four times as many in bottlenecks
    level 5, 6    (N, 256, H/8, W/8), (N, 512, H/8, W/8)  dilation 2 and 4, the same
    level 7, 8    (N, 512, H/8, W/8)   dilation 2 and 1, without shortcuts
    logits        (N, K, H/8, W/8)     1x1
    output        (N, K, H, W)         fixed bilinear 16x16 transposed convolution, stride 8

Parameters:
    At K = 19: 23,546,963 (A-50), 20,623,331 (C-26), 30,731,491 (C-42), 15,890,499 (D-22),
    25,998,659 (D-38), 35,305,923 (D-54) and 54,298,051 (D-105). The authors count the ImageNet
    classifier, e.g. 16.4 M for D-22.

Deviations:
    - Images take ImageNet's mean and deviation, which the trunks' weights were trained with; the
      authors normalise by those of each dataset.
    - Sides that 8 does not divide are cut off the enlarged scores; the authors' crops divide.
    - DRN-B, which is not in the code, is left out, and so is DRN-C-58, of which the authors state
      no segmentation: its level 7 computes a shortcut that nothing uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from semseg.core.checks import InputError, unknown_name
from semseg.encoders.drn import DRN, VARIANTS
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm
from semseg.nn.upsample import BilinearDeconv

STRIDE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DRNSegConfig(ModelConfig):
    """Settings of :class:`DRNSeg`."""

    trunk: str = "drn_d_22"
    """Which of the paper's networks: ``"drn_a_50"``, ``"drn_c_26"``, … ``"drn_d_105"``."""

    width: int = 16
    """Channels of the first convolution; the paper's is 16, and 64 of DRN-A."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.trunk not in VARIANTS:
            raise unknown_name("DRN trunk", self.trunk, VARIANTS)
        if self.width < 1:
            raise InputError(f"DRNSeg takes a width of at least 1, got {self.width}")


FACTS = {
    "paper": "arXiv:1705.09914",
    "year": 2017,
    "idea": "Classification networks that never go below an eighth of the resolution, and whose "
    "last levels remove the grid that dilation leaves.",
    "repository": "https://github.com/fyu/drn",
    "paper_size": (896, 896),
    "verified": "reference output",
}
DATASET, SOURCE = "Cityscapes val", "README of the authors' code"


@register(
    "drn_a_50",
    DRNSegConfig(num_classes=19, trunk="drn_a_50", width=64),
    title="DRN-A-50",
    num_params=23_546_963,
    published=(Published(DATASET, 67.3, SOURCE),),
    small={"width": 4},
    **FACTS,
)
@register(
    "drn_c_26",
    DRNSegConfig(num_classes=19, trunk="drn_c_26"),
    title="DRN-C-26",
    num_params=20_623_331,
    published=(Published(DATASET, 68.0, SOURCE),),
    small={"width": 2},
    **FACTS,
)
@register(
    "drn_c_42",
    DRNSegConfig(num_classes=19, trunk="drn_c_42"),
    title="DRN-C-42",
    num_params=30_731_491,
    published=(Published(DATASET, 70.9, SOURCE),),
    small={"width": 2},
    **FACTS,
)
@register(
    "drn_d_22",
    DRNSegConfig(num_classes=19),
    title="DRN-D-22",
    num_params=15_890_499,
    published=(Published(DATASET, 68.0, SOURCE),),
    small={"width": 2},
    **FACTS,
)
@register(
    "drn_d_38",
    DRNSegConfig(num_classes=19, trunk="drn_d_38"),
    title="DRN-D-38",
    num_params=25_998_659,
    published=(Published(DATASET, 71.4, SOURCE),),
    small={"width": 2},
    **FACTS,
)
@register(
    "drn_d_54",
    DRNSegConfig(num_classes=19, trunk="drn_d_54"),
    title="DRN-D-54",
    num_params=35_305_923,
    small={"width": 2},
    **FACTS,
)
@register(
    "drn_d_105",
    DRNSegConfig(num_classes=19, trunk="drn_d_105"),
    title="DRN-D-105",
    num_params=54_298_051,
    published=(
        Published(DATASET, 75.6, f"{SOURCE}: poly rate, random scales and rotations"),
        Published("Cityscapes test", 76.3, f"{SOURCE}: the same, several scales in testing"),
    ),
    small={"width": 2},
    **FACTS,
)
class DRNSeg(SegmentationModel):
    """A dilated residual network as the authors segment with it; see the module docstring."""

    def __init__(self, config: DRNSegConfig) -> None:
        super().__init__(config)
        self.encoder = DRN(config.in_channels, config.trunk, config.width)
        self.seg = nn.Conv2d(self.encoder.channels[-1], config.num_classes, 1)
        nn.init.kaiming_normal_(self.seg.weight, mode="fan_out", nonlinearity="relu")
        if self.seg.bias is not None:
            nn.init.zeros_(self.seg.bias)
        self.up = BilinearDeconv(STRIDE)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H/8, W/8)``."""
        check_batch_norm(type(self).__name__, images, STRIDE, self.training)
        return {"logits": self.seg(self.encoder(images)[-1])}

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits at ``size`` by the fixed deconvolution: bilinear, fading at the border."""
        margin = STRIDE // 2
        height, width = size
        scores: Tensor = self.up(logits)
        return scores[..., margin : margin + height, margin : margin + width]
