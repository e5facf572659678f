r"""PIDNet: besides detail and context a third branch finds borders, where detail is to be trusted.

Paper:
    Xu, Xiong, Bhattacharyya. "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID
    Controllers." CVPR 2023. arXiv:2206.02066. Layers and losses follow the authors' code,
    ``models/pidnet.py``, ``utils/criterion.py`` and ``datasets/base_dataset.py``.

Shapes (H, W divisible by 8; w = width: 32 for S, 64 for M and L; s_k: a k-th, rounded up):
    images     (N, C,   H,   W)
    stage 2    (N, 2w,  H/8, W/8)   two 3x3 with stride 2, then basic blocks
    context    (N, 4w,  s_16), (N, 8w, s_32), (N, 16w, s_64), pyramid (N, 4w, s_64)
    detail     (N, 2w,  H/8, W/8) twice, each time guided by context; (N, 4w, H/8, W/8)
    border     (N, w,   H/8, W/8) (light; else 2w), (N, 2w, H/8, W/8), (N, 4w, H/8, W/8)
    logits     (N, K,   H/8, W/8)   of detail and context, mixed by the border's attention
    aux        (N, K,   H/8, W/8)   of detail after its first guide
    border     (N, 1,   H/8, W/8)   score of a border

Parameters:
    7,720,935 (S), 28,763,111 (M) and 37,314,311 (L) at K = 19: 7,625,715, 28,538,515 and
    36,939,571 of the network that predicts, and the rest of the two auxiliary heads. The paper
    states 7.6 million for S and 36.9 for L.

Deviations:
    - The auxiliary heads are always there; the authors' network for prediction has none.
    - Borders are found in the training crop's mask, the authors' in the whole mask before it is
      scaled and cropped. An image's outermost six pixels have none, here as there.
    - All terms but the border's are the recipe's loss. The authors' is online hard examples for the
      result, and a mean that counts ignored pixels for the auxiliary head.
    - Where no pixel looks like a border the fourth loss is 0; the authors' code fails there.
    - Any size of image is taken; zeros fill it up to a multiple of 8.
    - The authors' ImageNet weights are not offered: they are files of a private drive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.ddrnet import (
    DAPPM,
    Pools,
    basic,
    bottleneck,
    classifier,
    conv_norm,
    enlarge,
    he_fan_out_,
    norm_relu_conv,
    stage,
    stem,
)
from semseg.models.realtime.fast_scnn import refuse_single_image

BORDER = 0.8
"""Probability above which a pixel counts as border in the fourth loss."""

RIM = 6
"""Pixels along an image's edge that are no border."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PIDNetConfig(ModelConfig):
    """Settings of :class:`PIDNet`."""

    width: int = 64
    """Channels of the first stage."""

    blocks: int = 2
    """Basic blocks of each stage that is not deep."""

    deep_blocks: int = 3
    """Basic blocks of the context branch's stages 3 and 4."""

    pyramid_width: int = 96
    """Channels of each level of the pyramid."""

    head_width: int = 128
    """Channels before the classifiers."""

    light: bool = True
    """The parallel pyramid, a mixture of 1x1 convolutions and a narrower border branch; L has
    DDRNet's pyramid and a mixture of one 3x3 convolution."""


class PAPPM(nn.Module):
    """Parallel aggregation pyramid pooling: ``(N, cin, h, w) -> (N, cout, h, w)``."""

    def __init__(self, cin: int, width: int, cout: int) -> None:
        super().__init__()
        self.pools = Pools(cin, width)
        count = len(self.pools.levels)
        self.process = norm_relu_conv(width * count, width * count, 3, groups=count)
        self.join = norm_relu_conv(width * (1 + count), cout, 1)
        self.skip = norm_relu_conv(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined levels, each with the feature itself, and the feature."""
        own, pooled = self.pools(x)
        levels = self.process(torch.cat([average + own for average in pooled], dim=1))
        out: Tensor = self.join(torch.cat([own, levels], dim=1)) + self.skip(x)
        return out


class Guide(nn.Module):
    """Pixel-attention-guided fusion: context where it agrees with detail, else detail."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, inner, 1)
        self.context = conv_norm(channels, inner, 1)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Return the mixture, at the size of ``detail``."""
        size = detail.shape[-2:]
        alike = self.detail(detail) * enlarge(self.context(context), size)
        share = alike.sum(dim=1, keepdim=True).sigmoid()
        out: Tensor = (1 - share) * detail + share * enlarge(context, size)
        return out


class Mixture(nn.Module):
    """Boundary-attention-guided fusion: detail at borders, context elsewhere."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = norm_relu_conv(channels, channels, 3)

    def forward(self, detail: Tensor, context: Tensor, border: Tensor) -> Tensor:
        """Return the convolved mixture of three features of one shape."""
        share = border.sigmoid()
        out: Tensor = self.conv(share * detail + (1 - share) * context)
        return out


class LightMixture(nn.Module):
    """The same with 1x1 convolutions: at borders context takes detail, elsewhere the reverse."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = conv_norm(channels, channels, 1)
        self.context = conv_norm(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, border: Tensor) -> Tensor:
        """Return the sum of both, at the size they have."""
        share = border.sigmoid()
        detail, context = (1 - share) * context + detail, context + share * detail
        out: Tensor = self.detail(detail) + self.context(context)
        return out


# ---- the border in a mask ----------------------------------------------------------------------


def thin_edges(labels: Tensor) -> Tensor:
    """Return where Canny's detector finds an edge in train ids, as OpenCV computes it.

    With thresholds below 1 every difference of ids counts; what remains of Canny is to keep the
    largest gradient across the edge, so that lines are one pixel wide.

    Args:
        labels: ``(N, H, W)`` int64, the ignore id included.

    Returns:
        ``(N, H, W)`` bool.
    """
    height, width = labels.shape[-2:]
    p = F.pad(labels[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0].long()
    across = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    along = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    dx = across[..., 2:] - across[..., :-2]
    dy = along[:, 2:] - along[:, :-2]
    size = dx.abs() + dy.abs()
    padded = F.pad(size, (1, 1, 1, 1))

    def beside(row: int, column: int) -> Tensor:
        return padded[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    # angles of 22.5 and 67.5 degrees part the directions; 13573 is tan(22.5) times 2^15
    flat = dx.abs() * 13573
    rise = dy.abs() << 15
    horizontal = (size > beside(0, -1)) & (size >= beside(0, 1))
    vertical = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    diagonal = torch.where((dx ^ dy) < 0, rising, falling)
    upright = torch.where(rise > flat + (dx.abs() << 16), vertical, diagonal)
    return (size > 0) & torch.where(rise < flat, horizontal, upright)


def borders(target: Tensor) -> Tensor:
    """Return 1 near a border of ``(N, H, W)`` train ids and 0 elsewhere, float ``(N, H, W)``."""
    edges = thin_edges(target)
    inner = torch.zeros_like(edges)
    inner[:, RIM:-RIM, RIM:-RIM] = edges[:, RIM:-RIM, RIM:-RIM]
    # OpenCV's 4 x 4 dilation reaches two pixels back and one ahead
    return F.max_pool2d(F.pad(inner.float(), (2, 1, 2, 1)), 4, stride=1)


def balanced_border_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Return cross entropy of ``(N, H, W)`` scores, borders weighing as the rest is frequent."""
    share = truth.mean()
    weight = torch.where(truth > 0, 1 - share, share)
    return F.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype), weight)


FACTS = {
    "paper": "arXiv:2206.02066",
    "year": 2022,
    "idea": "A branch that finds borders decides where fine detail and where context is used.",
    "repository": "https://github.com/XuJiacong/PIDNet",
    "paper_size": (1024, 2048),
    "verified": "reference output",
    "small": {"width": 8, "pyramid_width": 8, "head_width": 8},
}


@register(
    "pidnet_s",
    PIDNetConfig(num_classes=19, width=32),
    title="PIDNet-S",
    num_params=7_720_935,
    published=(
        Published("Cityscapes val", 78.8, "authors' README"),
        Published("Cityscapes test", 78.6, "authors' README"),
        Published("CamVid test", 80.1, "authors' README; pretrained on Cityscapes"),
    ),
    **FACTS,
)
@register(
    "pidnet_m",
    PIDNetConfig(num_classes=19),
    title="PIDNet-M",
    num_params=28_763_111,
    published=(
        Published("Cityscapes val", 79.9, "authors' README"),
        Published("Cityscapes test", 79.8, "authors' README"),
        Published("CamVid test", 82.0, "authors' README; pretrained on Cityscapes"),
    ),
    **FACTS,
)
@register(
    "pidnet_l",
    PIDNetConfig(
        num_classes=19, blocks=3, deep_blocks=4, pyramid_width=112, head_width=256, light=False
    ),
    title="PIDNet-L",
    num_params=37_314_311,
    published=(
        Published("Cityscapes val", 80.9, "authors' README"),
        Published("Cityscapes test", 80.6, "authors' README"),
    ),
    **FACTS,
)
class PIDNet(SegmentationModel):
    """Network of a proportional, an integral and a derivative branch; see the module docstring.

    Training mode needs at least two images per step.
    """

    multiple_of = 8
    align_corners = True  # of the logits only, as the authors train and evaluate
    aux_weights: ClassVar[dict[str, float]] = {"aux": 0.4, "border": 20.0}

    def __init__(self, config: PIDNetConfig) -> None:
        super().__init__(config)
        w, m, n = config.width, config.blocks, config.deep_blocks
        self.stem = stem(config.in_channels, w)
        self.stage1 = stage(w, w, m)
        self.stage2 = stage(w, 2 * w, m, stride=2)
        self.context3 = stage(2 * w, 4 * w, n, stride=2)
        self.context4 = stage(4 * w, 8 * w, n, stride=2)
        self.context5 = nn.Sequential(bottleneck(8 * w, 8 * w, stride=2), bottleneck(16 * w, 8 * w))
        pyramid = PAPPM if config.light else DAPPM
        self.pyramid = pyramid(16 * w, config.pyramid_width, 4 * w)
        self.detail3 = stage(2 * w, 2 * w, m)
        self.detail4 = stage(2 * w, 2 * w, m)
        self.detail5 = bottleneck(2 * w, 2 * w)
        self.up3 = conv_norm(4 * w, 2 * w, 1)
        self.up4 = conv_norm(8 * w, 2 * w, 1)
        self.guide3 = Guide(2 * w, w)
        self.guide4 = Guide(2 * w, w)
        narrow = w if config.light else 2 * w
        self.border3 = basic(2 * w, narrow)
        self.border4 = bottleneck(w, w) if config.light else basic(2 * w, 2 * w)
        self.border5 = bottleneck(2 * w, 2 * w)
        self.change3 = conv_norm(4 * w, narrow, 3)
        self.change4 = conv_norm(8 * w, 2 * w, 3)
        self.mixture = LightMixture(4 * w) if config.light else Mixture(4 * w)
        self.head = classifier(4 * w, config.head_width, config.num_classes)
        self.aux = classifier(2 * w, config.head_width, config.num_classes)
        self.border = classifier(2 * w, w, 1)
        he_fan_out_(self)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"aux"`` and ``"border"``, all at stride 8.

        Raises:
            InputError: one image in training mode.
        """
        norm = self.pyramid.pools.levels[-1].get_submodule("1")
        refuse_single_image(type(self).__name__, images, norm)
        x = F.relu(self.stage2(F.relu(self.stage1(self.stem(images)))))
        size = x.shape[-2:]
        detail, border = self.detail3(x), self.border3(x)
        x = F.relu(self.context3(x))
        # both heads read what the next stage reads: rectified features
        guided = F.relu(self.guide3(detail, self.up3(x)))
        border = F.relu(border + enlarge(self.change3(x), size))
        x = F.relu(self.context4(x))
        detail, border = self.detail4(guided), self.border4(border)
        border = F.relu(border + enlarge(self.change4(x), size))
        detail = self.detail5(F.relu(self.guide4(detail, self.up4(x))))
        context = enlarge(self.pyramid(self.context5(x)), size)
        logits = self.head(self.mixture(detail, context, self.border5(border)))
        if self.logits_only:
            return {"logits": logits}
        return {"logits": logits, "aux": self.aux(guided), "border": self.border(border)}

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the paper's four terms: detail, border, result, and result at found borders."""
        size = (target.shape[-2], target.shape[-1])
        logits, aux, scores = (
            self.full_size(heads[name], size) for name in ("logits", "aux", "border")
        )
        scores = scores[:, 0]
        ignore = 255 if self.config.num_classes <= 255 else 65535
        near = torch.where(scores.detach().sigmoid() > BORDER, target, ignore)
        # a mean over no pixel is not a number
        known = bool((near != ignore).any())
        return {
            "logits": criterion(logits, target),
            "aux": self.aux_weights["aux"] * criterion(aux, target),
            "border": self.aux_weights["border"] * balanced_border_loss(scores, borders(target)),
            "near_border": criterion(logits, near) if known else 0 * logits.sum(),
        }
