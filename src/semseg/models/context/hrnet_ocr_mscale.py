r"""Hierarchical multi-scale attention: each scale says where to trust it, and else the next finer.

Paper:
    Tao, Sapra, Catanzaro. "Hierarchical Multi-Scale Attention for Semantic Segmentation." 2020.
    arXiv:2005.10821, section 3. What the text leaves open follows the authors' code,
    ``network/ocrnet.py`` (``HRNet_Mscale``).

Shapes (at each scale r; H, W are of the image at that scale):
    images       (N, C, H, W)   resized bilinearly by r
    features     (N, 720, H/4, W/4)   HRNet's four branches, joined
    OCR          (N, 512, H/4, W/4)   and scores (N, K, H/4, W/4) and aux (N, K, H/4, W/4)
    attention    (N, 1, H/4, W/4)   two 3x3 to 256 and a 1x1 with sigmoid on OCR's features
    then         all enlarged to (H, W) and joined, from the finest scale to the coarsest
    logits       (N, K, H, W) of the original image, as are aux, low and high

Parameters:
    72,143,430 at K = 19 as the authors' code has them: 70,372,678 of HRNet-W48 with OCR and
    1,770,752 of the attention.

Loss:
    The authors sum the region mutual information loss (RMI, arXiv:1910.12037) with the binary
    cross entropy of ``logits``, 0.4 times that cross entropy of ``aux``, and 0.05 times that of
    the scores at scale 0.5 (``low``) and 1 (``high``) alone.

Deviations:
    - The four terms have the authors' weights, and all of them the recipe's criterion: neither RMI
      nor the cross entropy of a sigmoid per class is among this library's losses.
    - ``aux`` is joined over all ``scales`` in prediction as well, where the authors drop it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models.base import Published, SegmentationModel, register
from semseg.models.context.hrnet import HRNetConfig, join, trunk_of
from semseg.models.context.ocrnet import HIDDEN, OCRHead
from semseg.nn.conv import conv_bn_relu
from semseg.nn.norm import check_batch_norm

TRAINED = (0.5, 1.0)
"""Scales in training: a pair is enough to learn what to hand on to the next finer scale."""

LEAST, MOST = 0.25, 4.0
"""Scales that prediction may have."""

WIDTH = 256
"""Channels of the attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HRNetOCRMscaleConfig(HRNetConfig):
    """Settings of :class:`HRNetOCRMscale`."""

    scales: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales in prediction, 1 among them and one below; the paper's best result has these."""

    def __post_init__(self) -> None:
        # slots make a new class, which zero-argument super() does not find
        HRNetConfig.__post_init__(self)
        scales = sorted(set(self.scales))
        if len(scales) < len(self.scales) or 1.0 not in scales or scales[0] >= 1:
            raise InputError(
                f"scales are different numbers, 1 and one below 1 among them, got {self.scales}"
            )
        if scales[0] < LEAST or scales[-1] > MOST:
            raise InputError(f"scales are from {LEAST} to {MOST}, got {self.scales}")


README = "README of NVIDIA/semantic-segmentation: scales 0.5, 1 and 2"


@register(
    "hrnet_ocr_mscale",
    HRNetOCRMscaleConfig(),
    title="HRNet-OCR, hierarchical multi-scale attention",
    paper="arXiv:2005.10821",
    year=2020,
    idea="Predictions at several scales are joined by an attention between neighbouring scales, "
    "which is learned from one pair and then chained over any number.",
    repository="https://github.com/NVIDIA/semantic-segmentation",
    num_params=72_143_430,
    paper_size=(1024, 2048),
    published=(
        Published("Cityscapes val", 86.92, f"{README}; Mapillary and machine-made labels"),
        Published("Mapillary Vistas val", 61.05, README),
    ),
    verified="reference output",
    small={"width": 4, "modules": (1, 1, 1), "blocks": 1},
)
class HRNetOCRMscale(SegmentationModel):
    """HRNet with OCR at several scales, joined by attention; see the module docstring."""

    min_size = 4  # at scale 0.25 a pixel is left
    aux_weights = {"aux": 0.4, "low": 0.05, "high": 0.05}  # noqa: RUF012

    def __init__(self, config: HRNetOCRMscaleConfig) -> None:
        super().__init__(config)
        self.scales = config.scales
        self.encoder = trunk_of(config, self.align_corners)
        self.ocr = OCRHead(sum(self.encoder.channels), config.num_classes)
        self.attention = nn.Sequential(
            conv_bn_relu(HIDDEN, WIDTH, 3),
            conv_bn_relu(WIDTH, WIDTH, 3),
            nn.Conv2d(WIDTH, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``"logits"``, ``"aux"``, ``"low"`` and ``"high"``, all ``(N, K, H, W)``.

        Raises:
            InputError: one image in training mode that is too small or of one class.
        """
        scales = sorted(TRAINED if self.training else self.scales)
        # the finest scale asks no other; its attention only feeds the norms' statistics
        parts = [self._at(s, images, attend=self.training or s < scales[-1]) for s in scales]
        joined = parts[-1][0]
        for scale, (scores, attention) in zip(scales[-2::-1], parts[-2::-1], strict=True):
            assert attention is not None
            joined = self._over(joined, scores, attention, shrink=scale >= 1)
        classes = self.config.num_classes
        logits, aux = joined[:, :classes], joined[:, classes:]
        if self.logits_only:
            return {"logits": logits}
        low, high = (parts[i][0][:, :classes] for i in (0, scales.index(1.0)))
        low = self.enlarge(low, (high.shape[-2], high.shape[-1]))
        return {"logits": logits, "aux": aux, "low": low, "high": high}

    def _at(self, scale: float, images: Tensor, attend: bool) -> tuple[Tensor, Tensor | None]:
        """Return scores and aux beside each other, and the attention, at the scale's own size."""
        if scale != 1:
            images = F.interpolate(
                images, scale_factor=scale, mode="bilinear", recompute_scale_factor=True
            )
        check_batch_norm(type(self).__name__, images, self.encoder.strides[-1], self.training)
        size = (images.shape[-2], images.shape[-1])
        logits, aux, features = self.ocr(join(self.encoder(images), self.align_corners))
        scores = logits if self.logits_only else torch.cat([logits, aux], dim=1)
        attention = self.enlarge(self.attention(features), size) if attend else None
        return self.enlarge(scores, size), attention

    def _over(self, finer: Tensor, scores: Tensor, attention: Tensor, shrink: bool) -> Tensor:
        """Return a scale's scores where its attention is 1, and the finer ones where it is 0.

        Above scale 1 the finer ones shrink to this scale, below it this scale is enlarged.
        """
        trusted = attention * scores
        if shrink:
            finer = self.enlarge(finer, (scores.shape[-2], scores.shape[-1]))
        else:
            size = (finer.shape[-2], finer.shape[-1])
            trusted, attention = self.enlarge(trusted, size), self.enlarge(attention, size)
        return trusted + (1 - attention) * finer
