r"""FRRN: a stream at full resolution takes residuals from one that pools and unpools.

Paper:
    Pohlen, Hermans, Mathias, Leibe. "Full-Resolution Residual Networks for Semantic Segmentation
    in Street Scenes." CVPR 2017. arXiv:1611.08323. Layers follow the authors'
    ``dltools/architectures.py``.

Shapes (H, W divisible by 16 for A, 32 for B; w = width = 48, l = lanes = 32):
    images            (N, C, H, W)
    stem              (N, w, H, W)          5x5, then three residual units
    residual stream   (N, l, H, W)          1x1 of the stem; every unit below adds to it
    pooling stream    (N, 2w, H/2, W/2)     3 full-resolution residual units (FRRU)
                      (N, 4w, H/4, W/4)     4
                      (N, 8w, H/8, W/8)     2
                      (N, 8w, H/16, W/16)   2
                      (N, 8w, H/32, W/32)   2, in B only
                      (N, 4w, ...)          2 at each scale on the way up, 2w at H/2
    logits            (N, K, H, W)          both streams, three residual units, 1x1

Parameters:
    17,746,803 (A) and 24,755,699 (B) at K = 19; the paper says 17.7 and 24.8 million.

Deviations:
    - Running statistics are means and variances; Lasagne averages inverse standard deviations.
    - The paper's loss, the mean over the K = 32,768 worst pixels of each image, is
      ``bootstrapped_cross_entropy`` in :mod:`semseg.losses`; a recipe names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.core.preprocess import UNIT
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.nn.norm import check_batch_norm

DOWN = ((2, 3, 2), (4, 4, 4), (8, 2, 8), (16, 2, 8), (32, 2, 8))
"""Scale, number of units and width as a multiple of the first, on the way down."""

UP = ((16, 2, 4), (8, 2, 4), (4, 2, 4), (2, 2, 2))
"""The same on the way up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FRRNConfig(ModelConfig):
    """Settings of :class:`FRRN`."""

    deepest: int = 16
    """Scale of the coarsest features: 16 is FRRN A, 32 is FRRN B."""

    width: int = 48
    """Channels of the pooling stream at full resolution; all others are multiples of it."""

    lanes: int = 32
    """Channels of the residual stream."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        if self.deepest not in (16, 32):
            raise InputError(f"FRRN has deepest=16 (A) or 32 (B), got {self.deepest}")


def conv_bn(cin: int, cout: int, kernel: int, *, relu: bool) -> nn.Sequential:
    """Return a convolution without bias, normalisation and perhaps ReLU, He-uniform."""
    conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu" if relu else "linear")
    norm = nn.BatchNorm2d(cout, eps=1e-4)
    return nn.Sequential(conv, norm, nn.ReLU()) if relu else nn.Sequential(conv, norm)


def conv1x1(cin: int, cout: int, *, bias: bool) -> nn.Conv2d:
    """Return a 1x1 convolution with neither normalisation nor activation."""
    conv = nn.Conv2d(cin, cout, 1, bias=bias)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def double(x: Tensor) -> Tensor:
    """Return ``(N, C, 2h, 2w)``: even rows copy, odd ones are the mean of their neighbours.

    That is Theano's bilinear upsampling; neither value of ``align_corners`` gives it.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    size = (2 * height + 1, 2 * width + 1)
    return F.interpolate(x, size, mode="bilinear", align_corners=True)[..., :-1, :-1]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions and their input: ``(N, cin, H, W) -> (N, cout, H, W)``.

    Nothing is activated after the sum.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_bn(cin, cout, 3, relu=True), conv_bn(cout, cout, 3, relu=False)
        )
        self.skip = nn.Identity() if cin == cout else conv1x1(cin, cout, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of branch and input."""
        out: Tensor = self.branch(x) + self.skip(x)
        return out


class FRRU(nn.Module):
    """Full-resolution residual unit (paper, figure 2): both streams in, both streams out."""

    def __init__(self, cin: int, cout: int, lanes: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.convs = nn.Sequential(
            conv_bn(cin + lanes, cout, 3, relu=True), conv_bn(cout, cout, 3, relu=True)
        )
        self.residual = conv1x1(cout, lanes, bias=True)

    def forward(self, pooling: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(N, cin, H/scale, W/scale)`` and ``(N, lanes, H, W)`` to their successors."""
        seen = F.max_pool2d(residual, self.scale)
        pooling = self.convs(torch.cat([pooling, seen], 1))
        added = F.interpolate(self.residual(pooling), scale_factor=float(self.scale))  # nearest
        return pooling, residual + added


class Stage(nn.Module):
    """Units at one scale, one after another."""

    def __init__(self, cin: int, cout: int, lanes: int, scale: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            FRRU(cin if i == 0 else cout, cout, lanes, scale) for i in range(units)
        )

    def forward(self, pooling: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams after the last unit."""
        for unit in self.units:
            pooling, residual = unit(pooling, residual)
        return pooling, residual


FACTS = {
    "paper": "arXiv:1611.08323",
    "year": 2016,
    "repository": "https://github.com/TobyPDE/FRRN",
    "idea": "Localisation stays in a stream at full resolution to which a pooling stream adds "
    "residuals.",
    "preprocessing": UNIT,
    "verified": "reference output",
    "small": {"width": 4, "lanes": 4},
}


@register(
    "frrn_a",
    FRRNConfig(num_classes=19, deepest=16),
    title="FRRN A",
    num_params=17_746_803,
    paper_size=(256, 512),
    published=(Published("Cityscapes test", 63.0, "paper, table 3; images at a quarter"),),
    **FACTS,
)
@register(
    "frrn_b",
    FRRNConfig(num_classes=19, deepest=32),
    title="FRRN B",
    num_params=24_755_699,
    paper_size=(512, 1024),
    published=(Published("Cityscapes test", 71.8, "paper, abstract; images at half size"),),
    **FACTS,
)
class FRRN(SegmentationModel):
    """FRRN A or B; see the module docstring."""

    def __init__(self, config: FRRNConfig) -> None:
        super().__init__(config)
        self.multiple_of = config.deepest
        width, lanes = config.width, config.lanes
        self.stem = nn.Sequential(
            conv_bn(config.in_channels, width, 5, relu=True),
            *(ResidualUnit(width, width) for _ in range(3)),
        )
        self.split = conv_bn(width, lanes, 1, relu=False)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        cin = width
        for plan, stages, top in (
            (DOWN, self.down, 2 * config.deepest),
            (UP, self.up, config.deepest),
        ):
            for scale, units, factor in plan:
                if scale < top:
                    stages.append(Stage(cin, factor * width, lanes, scale, units))
                    cin = factor * width
        self.merge = nn.Sequential(
            ResidualUnit(cin + lanes, width), *(ResidualUnit(width, width) for _ in range(2))
        )
        self.classifier = conv1x1(width, config.num_classes, bias=True)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` ``(N, K, H, W)``."""
        check_batch_norm(type(self).__name__, images, self.multiple_of, self.training)
        pooling = self.stem(images)
        residual = self.split(pooling)
        for stage in self.down:
            pooling, residual = stage(F.max_pool2d(pooling, 2), residual)
        for stage in self.up:
            pooling, residual = stage(double(pooling), residual)
        x = self.merge(torch.cat([double(pooling), residual], 1))
        return {"logits": self.classifier(x)}
