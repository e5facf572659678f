r"""STDC-Seg: BiSeNet without its spatial path; a loss on borders teaches the trunk the details.

Paper:
    Fan, Lai, Huang, Wei, Chai, Luo, Wei. "Rethinking BiSeNet For Real-time Semantic Segmentation."
    CVPR 2021. arXiv:2104.13188. Layers follow the authors' ``models/model_stages.py`` and
    ``loss/detail_loss.py`` of https://github.com/MichaelFan01/STDC-Seg.

Shapes (H, W divisible by 8):
    images       (N, C,    H,    W)
    8, 16, 32    (N, 256,  H/8,  W/8), (N, 512, H/16, W/16), (N, 1024, H/32, W/32)   of the trunk
    context      (N, 128,  H/16, W/16)   attention on 32, plus its mean, enlarged, 3x3
    then         (N, 128,  H/8,  W/8)    attention on 16, plus context, enlarged, 3x3
    fused        (N, 256,  H/8,  W/8)    attention on 8 and then together
    logits       (N, K,    H/8,  W/8)
    aux16, aux8  (N, K,    H/16, W/16), (N, K, H/8, W/8)   from context and then
    detail       (N, 1,    H/8,  W/8)    from 8: where borders are

Parameters:
    8,572,896 of STDC1 and 12,603,360 of STDC2 at K = 19; 8,275,104 and 12,305,568 without the
    three heads of training. Counted from the authors' code less what it never uses: the trunk's
    classifier with its 1x1 (3,125,248) and the detail heads at strides 2, 4 and 16 (350,784).

Deviations:
    - The three weights that mix the border maps are constants. The authors declare them as
      parameters, but the threshold behind them leaves no gradient.
    - The scale of a norm may become negative; the authors' in-place norms take its size.
    - ImageNet weights of the trunk are loaded from the authors' file only, which lies on their
      cloud drive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from semseg.encoders import build_encoder
from semseg.models.base import Criterion, ModelConfig, Published, SegmentationModel, register
from semseg.models.realtime.bisenet import (
    CONTEXT,
    ContextPath,
    FeatureFusion,
    check_pooled_norm,
    head,
)

FUSED = 256
"""Channels of the fused features and before the classifier."""

NARROW = 64
"""Channels before the classifiers of the heads of training."""

TENTHS = {1: 6, 2: 3, 4: 1}
"""Weight of the borders found at each stride, in tenths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class STDCSegConfig(ModelConfig):
    """Settings of :class:`STDCSeg`."""

    encoder: str = "stdc1"
    """Trunk with features at strides 8, 16 and 32; the paper's are ``stdc1`` and ``stdc2``."""


FACTS = {
    "paper": "arXiv:2104.13188",
    "year": 2021,
    "idea": "Blocks that concatenate growing fields of view make the trunk fast, and a loss on the "
    "borders of the labels replaces the path for details.",
    "repository": "https://github.com/MichaelFan01/STDC-Seg",
    "paper_size": (512, 1024),
    "verified": "reference output",
    "small": {"encoder": "stdc1"},
}


@register(
    "stdc1",
    STDCSegConfig(num_classes=19),
    title="STDC1-Seg",
    num_params=8_572_896,
    published=(
        Published("Cityscapes test", 71.9, "paper, abstract; 512 x 1024, 250.4 fps"),
        Published("Cityscapes val", 72.22, "authors' README; 512 x 1024"),
        Published("Cityscapes val", 74.50, "authors' README; 768 x 1536, 126.7 fps"),
        Published("CamVid test", 73.0, "paper, CamVid table; 720 x 960, 197.6 fps"),
    ),
    **FACTS,
)
@register(
    "stdc2",
    STDCSegConfig(num_classes=19, encoder="stdc2"),
    title="STDC2-Seg",
    num_params=12_603_360,
    published=(
        Published("Cityscapes test", 76.8, "paper, abstract; 768 x 1536, 97.0 fps"),
        Published("Cityscapes val", 74.24, "authors' README; 512 x 1024, 188.6 fps"),
        Published("Cityscapes val", 77.04, "authors' README; 768 x 1536"),
        Published("CamVid test", 73.9, "paper, CamVid table; 720 x 960, 152.2 fps"),
    ),
    **FACTS,
)
class STDCSeg(SegmentationModel):
    """STDC-Seg over its own or any trunk; see the module docstring.

    Training mode needs at least two images per step: pooling leaves one value per channel and
    image, and BatchNorm cannot normalise a single value.

    Raises:
        InputError: the trunk lacks a feature at stride 8, 16 or 32.
    """

    multiple_of = 8
    align_corners = True  # of the logits; features are enlarged to the nearest neighbour
    aux_weights = {"aux16": 1.0, "aux8": 1.0}  # noqa: RUF012

    def __init__(self, config: STDCSegConfig) -> None:
        super().__init__(config)
        classes = config.num_classes
        self.encoder = build_encoder(config.encoder, config.in_channels)
        self.places = [self.encoder.index_of(stride) for stride in (8, 16, 32)]
        c8, c16, c32 = (self.encoder.channels[place] for place in self.places)
        self.context = ContextPath((c16, c32), mode="nearest")
        self.fusion = FeatureFusion(c8 + CONTEXT, FUSED, reduction=4)
        self.head = head(FUSED, FUSED, classes, bias=False)
        self.aux16 = head(CONTEXT, NARROW, classes, bias=False)
        self.aux8 = head(CONTEXT, NARROW, classes, bias=False)
        self.detail = head(c8, NARROW, 1, bias=False)
        for part in (self.context, self.fusion, self.head, self.aux16, self.aux8, self.detail):
            for conv in part.modules():
                if isinstance(conv, nn.Conv2d):
                    nn.init.kaiming_normal_(conv.weight, a=1)

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"aux8"`` and ``"detail"`` at stride 8, ``"aux16"`` at stride 16.

        Raises:
            InputError: one image in training mode.
        """
        check_pooled_norm(type(self).__name__, self.context.pooled[1], images)
        features = self.encoder(images)
        x8, x16, x32 = (features[place] for place in self.places)
        context16, context8 = self.context(x16, x32, x8.shape[-2:])
        logits = self.head(self.fusion(x8, context8))
        if self.logits_only:
            return {"logits": logits}
        return {
            "logits": logits,
            "aux16": self.aux16(context16),
            "aux8": self.aux8(context8),
            "detail": self.detail(x8),
        }

    def loss(
        self, heads: Mapping[str, Tensor], target: Tensor, criterion: Criterion
    ) -> dict[str, Tensor]:
        """Return the criterion on three heads, and ``"detail"``: the loss on borders."""
        terms = super().loss(heads, target, criterion)
        size = (target.shape[-2], target.shape[-1])
        terms["detail"] = detail_loss(self.full_size(heads["detail"], size), borders(target))
        return terms


def borders(target: Tensor) -> Tensor:
    """Return where labels ``(N, H, W)`` change, as ``(N, 1, H, W)`` of 0 and 1.

    Laplacians at strides 1, 2 and 4, each binary and enlarged to the nearest neighbour, are mixed
    with :data:`TENTHS` and must exceed a tenth: borders of stride 4 alone are none, as in the
    authors' code. A border marks the pixel whose id is above its neighbours' mean; ignored
    pixels count with their id, and beyond the image is 0.
    """
    labels = target[:, None].float()
    laplacian = labels.new_full((1, 1, 3, 3), -1.0)
    laplacian[..., 1, 1] = 8
    mixed = labels.new_zeros(labels.shape)
    for stride, tenths in TENTHS.items():
        found = (F.conv2d(labels, laplacian, stride=stride, padding=1) > 0.1).float()
        mixed += tenths * F.interpolate(found, labels.shape[-2:])
    return (mixed > 1).float()


def detail_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return binary cross entropy plus Dice loss, smoothed by 1, of each image, then the mean.

    Args:
        logits: ``(N, 1, H, W)``.
        truth: ``(N, 1, H, W)`` of 0 and 1.
    """
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    found, truth = logits.sigmoid().flatten(1), truth.flatten(1)
    overlap = (found * truth).sum(1)
    dice = (2 * overlap + 1) / (found.sum(1) + truth.sum(1) + 1)
    return entropy + (1 - dice).mean()
