r"""OCNet: every pixel gathers from all pixels like it, by attention whose keys are its queries.

Paper:
    Yuan, Huang, Guo, Zhang, Chen, Wang. "OCNet: Object Context Network for Scene Parsing." 2018.
    arXiv:1809.00916 (version 1, by Yuan and Wang, has the three forms below). What the text leaves
    open follows the authors' code, ``network`` and ``oc_module`` of OCNet.pytorch.

Shapes (h = H/8 + 1 pixels of H divisible by 8):
    images       (N, C, H, W)
    layer3       (N, 1024, h, w)   dilation 2
    layer4       (N, 2048, h, w)   dilation 4
    pixels       (N, 512, h, w)   3x3 on layer4
    base         (N, 512, h, w)   1x1 over attention to all pixels, beside the pixels
    pyramid      (N, 512, h, w)   1x1 over 2048 of the pixels and attention within 1, 4, 9 and 36
                                  regions, 512 each
    asp          (N, 512, h, w)   1x1 over five of 256: attention among 2 x 2 maxima, 1x1 and 3x3
                                  with dilations 12, 24 and 36
    aux          (N, K, h, w)   3x3 to 512 and 1x1 on layer3
    logits       (N, K, h, w)   1x1

Parameters:
    57,722,854 (base), 62,584,294 (pyramid) and 62,542,182 (asp) at K = 19: 52,992,979, 57,854,419
    and 57,812,307 of the network that predicts, and 4,729,875 of the auxiliary head.

Deviations:
    - Norms are BatchNorm and the leaky ReLU of the authors' in-place norm; that one scales by the
      absolute value of its weight plus 1e-5.
    - Attention holds no h * w x h * w map in memory where PyTorch has a kernel for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.encoders import build_encoder
from semseg.models.base import ModelConfig, Published, SegmentationModel, register
from semseg.models.context.ocrnet import pool_over_the_border
from semseg.nn.norm import check_batch_norm

HIDDEN = 512
"""Channels of pixels and of what is classified."""

REGIONS = (1, 2, 3, 6)
"""Regions along each side, by level of the pyramid."""

RATES = (12, 24, 36)
"""Dilations beside the attention of the form ``asp``."""

SLOPE = 0.01
"""Of leaky ReLU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OCNetConfig(ModelConfig):
    """Settings of :class:`OCNet`."""

    num_classes: int = 19
    """K; Cityscapes has 19."""

    encoder: str = "resnet101_deep"
    """Trunk that can be dilated to output stride 8; the paper's has three 3x3 as stem."""

    context: str = "base"
    """Who attends to whom: ``"base"``, ``"pyramid"`` or ``"asp"``."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        ModelConfig.__post_init__(self)
        if self.context not in CONTEXTS:
            raise InputError(
                f"OCNet has the contexts {', '.join(map(repr, CONTEXTS))}, got {self.context!r}"
            )


def unit(
    cin: int, cout: int, kernel: int = 1, dilation: int = 1, bias: bool = True, act: bool = True
) -> nn.Sequential:
    """Convolution, BatchNorm, leaky ReLU: ``(N, cin, h, w) -> (N, cout, h, w)``."""
    padding = dilation * (kernel // 2)
    layers = [
        nn.Conv2d(cin, cout, kernel, padding=padding, dilation=dilation, bias=bias),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE, inplace=True) if act else nn.Identity())


class SelfAttention(nn.Module):
    """Attention of pixels to pixels, with one convolution for queries and keys.

    Args:
        width: channels in and out.
        keys: channels in which pixels are compared.
        values: channels that are summed; a multiple of ``keys``.
        regions: along each side; pixels attend to those of their region.
        pool: attention is among maxima of so many pixels along each side.

    ``(N, width, h, w) -> (N, width, h, w)``. The last convolution starts at zero.
    """

    def __init__(self, width: int, keys: int, values: int, regions: int = 1, pool: int = 1) -> None:
        super().__init__()
        self.keys, self.regions, self.pool = keys, regions, pool
        self.key = unit(width, keys)
        self.value = nn.Conv2d(width, values, 1)
        self.out = nn.Conv2d(values, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return what pixels gather, not yet joined with themselves."""
        size = x.shape[-2:]
        if self.pool > 1:
            x = F.max_pool2d(x, self.pool)
        key, value = self.key(x), self.value(x)
        rows = [
            torch.cat([self._gather(k, v) for k, v in zip(*columns, strict=True)], dim=3)
            for columns in zip(self._split(key), self._split(value), strict=True)
        ]
        out: Tensor = self.out(torch.cat(rows, dim=2))
        if self.pool > 1:
            out = F.interpolate(out, size, mode="bilinear", align_corners=True)
        return out

    def _split(self, x: Tensor) -> list[list[Tensor]]:
        """Return the regions by row; the last of each side has what is left over."""
        if self.regions == 1:
            return [[x]]
        heights, widths = (_divided(side, self.regions) for side in x.shape[-2:])
        return [list(torch.split(row, widths, dim=3)) for row in torch.split(x, heights, dim=2)]

    def _gather(self, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention of one region's pixels to each other."""
        count, values, height, width = value.shape
        # values in as many parts as make them as wide as keys, and channels next to each other in
        # memory: kernels without a map ask for both
        parts = value.reshape(count, values // self.keys, self.keys, -1).transpose(2, 3)
        parts = parts.contiguous()
        query = key.flatten(2).transpose(1, 2).contiguous()[:, None].expand_as(parts)
        out = F.scaled_dot_product_attention(query, query, parts)
        return out.transpose(2, 3).reshape(count, values, height, width)


def _divided(side: int, regions: int) -> list[int]:
    """Return the sides of regions; of a side too short to divide, one region."""
    step = side // regions
    return [step] * (regions - 1) + [side - step * (regions - 1)] if step else [side]


# ---- who attends to whom -----------------------------------------------------------------------


class BaseContext(nn.Module):
    """Attention to all pixels, joined: ``(N, cin, h, w) -> (N, 512, h, w)``."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.pixels = unit(cin, HIDDEN, 3)
        self.attention = SelfAttention(HIDDEN, HIDDEN // 2, HIDDEN // 2)
        self.join = nn.Sequential(unit(2 * HIDDEN, HIDDEN), nn.Dropout2d(0.05))

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels with their context."""
        x = self.pixels(x)
        out: Tensor = self.join(torch.cat([self.attention(x), x], dim=1))
        return out


class PyramidContext(nn.Module):
    """Attention within regions of four sizes, joined: ``(N, cin, h, w) -> (N, 512, h, w)``."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.pixels = unit(cin, HIDDEN, 3, act=False)  # as in the authors' code
        self.levels = nn.ModuleList(
            SelfAttention(HIDDEN, HIDDEN // 2, HIDDEN, regions=regions) for regions in REGIONS
        )
        width = len(REGIONS) * HIDDEN
        self.join = nn.Sequential(unit(2 * width, HIDDEN), nn.Dropout2d(0.05))
        self.widen = unit(HIDDEN, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels with their context."""
        x = self.pixels(x)
        out: Tensor = self.join(torch.cat([self.widen(x), *(a(x) for a in self.levels)], dim=1))
        return out


class ASPContext(nn.Module):
    """Attention beside four convolutions, joined: ``(N, cin, h, w) -> (N, 512, h, w)``."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        width = HIDDEN // 2
        self.pixels = unit(cin, HIDDEN, 3)
        self.attention = nn.Sequential(
            unit(HIDDEN, width, 3),
            SelfAttention(width, width // 2, width, pool=2),
            unit(width, width),
        )
        self.convs = nn.ModuleList(
            [
                unit(HIDDEN, width, bias=False),
                *(unit(HIDDEN, width, 3, rate, bias=False) for rate in RATES),
            ]
        )
        self.join = nn.Sequential(unit(5 * width, HIDDEN, bias=False), nn.Dropout2d(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Return pixels with their context."""
        x = self.pixels(x)
        parts = [self.attention(x), *(conv(x) for conv in self.convs)]
        out: Tensor = self.join(torch.cat(parts, dim=1))
        return out


CONTEXTS: dict[str, Callable[[int], nn.Module]] = {
    "base": BaseContext,
    "pyramid": PyramidContext,
    "asp": ASPContext,
}
"""Forms of the network by name."""


# ---- the network -------------------------------------------------------------------------------

FACTS = {
    "paper": "arXiv:1809.00916",
    "year": 2018,
    "idea": "The context of a pixel is the pixels of the same object, found by self-attention: its "
    "map of similarities stands for the object.",
    "repository": "https://github.com/openseg-group/OCNet.pytorch",
    "paper_size": (769, 769),
    "verified": "reference output",
    "small": {"encoder": "test_resnet"},
}
README = "README of OCNet.pytorch"


@register(
    "ocnet_base_resnet101",
    OCNetConfig(),
    title="OCNet, base (ResNet-101)",
    num_params=57_722_854,
    published=(
        Published("Cityscapes val", 79.3, f"{README}: one scale"),
        Published("Cityscapes val", 79.49, "MODEL_ZOO of openseg.pytorch: one scale"),
        Published("Cityscapes test", 78.1, f"{README}: one scale"),
    ),
    **FACTS,
)
@register(
    "ocnet_pyramid_resnet101",
    OCNetConfig(context="pyramid"),
    title="OCNet, pyramid (ResNet-101)",
    num_params=62_584_294,
    **FACTS,
)
@register(
    "ocnet_asp_resnet101",
    OCNetConfig(context="asp"),
    title="OCNet, ASP (ResNet-101)",
    num_params=62_542_182,
    published=(
        Published("Cityscapes val", 79.5, f"{README}: one scale"),
        Published("Cityscapes test", 78.3, f"{README}: one scale"),
        Published("Cityscapes test", 81.7, f"{README}: trained on val too, OHEM, scales, flip"),
        Published("ADE20K val", 45.45, README),
    ),
    **FACTS,
)
class OCNet(SegmentationModel):
    """Object context network; see the module docstring.

    Raises:
        InputError: the trunk cannot be dilated to output stride 8, or no context of that name.
    """

    min_size = 16  # a trunk without padding at its border still leaves 2 x 2 features
    align_corners = True
    aux_weights = {"aux": 0.4}  # noqa: RUF012

    def __init__(self, config: OCNetConfig) -> None:
        super().__init__(config)
        self.form = config.context
        self.encoder = build_encoder(config.encoder, config.in_channels, output_stride=8)
        pool_over_the_border(self.encoder)
        *_, third, fourth = self.encoder.channels
        self.context = CONTEXTS[self.form](fourth)
        self.head = nn.Conv2d(HIDDEN, config.num_classes, 1)
        self.aux = nn.Sequential(
            unit(third, HIDDEN, 3, act=self.form != "pyramid"),
            nn.Dropout2d(0.1 if self.form == "asp" else 0.05),
            nn.Conv2d(HIDDEN, config.num_classes, 1),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"`` and ``"aux"``, both ``(N, K, h, w)`` at stride 8.

        Raises:
            InputError: one image in training mode that is too small for the form ``asp``.
        """
        *_, third, fourth = self.encoder(images)
        if self.form == "asp":  # 3 x 3 features have one maximum of 2 x 2
            check_batch_norm(type(self).__name__, fourth, 3, self.training)
        heads = {"logits": self.head(self.context(fourth))}
        if not self.logits_only:
            heads["aux"] = self.aux(third)
        return heads
